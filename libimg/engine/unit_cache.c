/*
 * A few units, the one that was used longest ago replaced first. A unit without bytes is being
 * decoded: whoever wants it waits on its list.
 */
#include "libimg/engine/unit_cache.h"

#include "libimg/base/arith.h"

enum {
	MOST_BYTES = 4 << 20, /* of all kept, unless one is larger */
};

static bool is_of(const struct img_cached_unit *unit, const struct img_extent *x)
{
	return unit->storage == x->storage && unit->file_off == x->file_off &&
	       unit->codec == x->codec && unit->stored_bytes == x->stored_bytes &&
	       unit->unit_bytes == x->unit_bytes && unit->header_bytes == x->header_bytes;
}

struct img_cached_unit *img_unit_cache_find(struct img_unit_cache *u, uint64_t version, const struct img_extent *x)
{
	for (size_t i = 0; i < IMG_UNIT_CACHE_KEPT; i++) {
		struct img_cached_unit *unit = &u->kept[i];

		if (unit->version == version && is_of(unit, x)) {
			unit->used = ++u->clock;
			return unit;
		}
	}
	return NULL;
}

static bool is_decoding(const struct img_cached_unit *unit)
{
	return unit->version && !unit->bytes.at;
}

struct img_cached_unit *img_unit_cache_begin(struct img_unit_cache *u, struct img_buffers *buffers, uint64_t version,
					     const struct img_extent *x)
{
	/* at least one, or who reads a large one in pieces decodes it for each of them */
	size_t most = (size_t)max_u64(1, min_size(MOST_BYTES / x->unit_bytes, IMG_UNIT_CACHE_KEPT));
	struct img_cached_unit *unit = NULL;

	for (size_t i = 0; i < most; i++) {
		struct img_cached_unit *other = &u->kept[i];

		if (!is_decoding(other) && (!unit || other->used < unit->used))
			unit = other;
	}
	if (!unit)
		return NULL;
	img_buffer_put(buffers, &unit->bytes);
	img_list_init(&unit->waiting);
	unit->version = version;
	unit->storage = x->storage;
	unit->file_off = x->file_off;
	unit->codec = x->codec;
	unit->stored_bytes = x->stored_bytes;
	unit->unit_bytes = x->unit_bytes;
	unit->header_bytes = x->header_bytes;
	unit->used = ++u->clock;
	return unit;
}

void img_unit_cache_end(struct img_cached_unit *unit, struct img_buffer *bytes, struct img_list *waiting)
{
	img_list_splice(waiting, &unit->waiting);
	unit->bytes = *bytes;
	*bytes = (struct img_buffer){ 0 };
	if (!unit->bytes.at)
		unit->version = 0;
}

void img_unit_cache_clear(struct img_unit_cache *u, struct img_buffers *buffers)
{
	for (size_t i = 0; i < IMG_UNIT_CACHE_KEPT; i++)
		img_buffer_put(buffers, &u->kept[i].bytes);
}
