/*
 * A table with a slot for each window of the disk, as far as there are slots: a later extent
 * replaces an earlier one. An entry is true as long as the versions of all levels it came through
 * are the same.
 */
#include "libimg/engine/extent_cache.h"

#include "libimg/base/arith.h"
#include "libimg/engine/core.h"

enum {
	MAX_WINDOW = 16 << 20,
	WINDOW_UNITS = 256, /* their table entries lie in one block of metadata, as a rule */
};

uint64_t img_extent_cache_window(const struct img *img)
{
	uint64_t window = min_u64(img->unit_bytes * WINDOW_UNITS, MAX_WINDOW);

	if (img->driver->features & IMG_DRIVER_PLAIN)
		return MAX_WINDOW;
	return UINT64_C(1) << (63 - __builtin_clzll(window)); /* what it holds, as a power of two */
}

static size_t slot_of(const struct img *img, uint64_t off)
{
	uint64_t window = off / img_extent_cache_window(img);

	return (size_t)((window ^ (uintptr_t)img >> 8) % IMG_EXTENT_CACHE_KEPT);
}

static uint64_t version_now(const struct img *img, const struct img *level, uint64_t off)
{
	uint64_t sum = img_engine_mapped(img->engine, off);

	for (; img != level; sum += img_engine_mapped(img->engine, off))
		img = img->parent;
	return sum;
}

bool img_extent_cache_find(const struct img_extent_cache *e, const struct img *img, uint64_t off,
			   uint64_t *len, struct img_extent *out, struct img **level)
{
	size_t i = slot_of(img, off);
	uint64_t into = off - e->kept[i].off;

	if (e->kept[i].image != img->engine->epochs.id || off < e->kept[i].off ||
	    into >= e->kept[i].len || e->kept[i].chains != img_engine_chains() ||
	    e->kept[i].version != version_now(img, e->kept[i].level, off))
		return false;
	*out = e->kept[i].extent;
	*level = e->kept[i].level;
	*len = min_u64(*len, e->kept[i].len - into);
	out->length = *len;
	out->file_off += into;
	out->tweak += into;
	return true;
}

void img_extent_cache_keep(struct img_extent_cache *e, const struct img *img, uint64_t version, uint64_t off,
			   uint64_t len, const struct img_extent *extent, struct img *level)
{
	size_t i = slot_of(img, off);

	if (extent->kind == IMG_COMPRESSED)
		return;
	e->kept[i].image = img->engine->epochs.id;
	e->kept[i].version = version;
	e->kept[i].chains = img_engine_chains();
	e->kept[i].off = off;
	/* only as far as the numbers that made the version go */
	e->kept[i].len = min_u64(len, IMG_STRIPE_BYTES - off % IMG_STRIPE_BYTES);
	e->kept[i].extent = *extent;
	e->kept[i].level = level;
}
