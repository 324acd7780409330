/*
 * What requests to an image go best with: stated here once, for programs (img_get_limits()) and for
 * reports (img_level_limits()).
 */
#include "libimg/image/limits.h"

#include <errno.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/engine/engine.h"
#include "libimg/image/context.h"

enum {
	SECTOR_BYTES = 512, /* in which raw disks are measured */
	PAGE_BYTES = 4096,
};

struct img_level_limits img_level_limits(const struct img *img)
{
	bool plain = img->driver->features & IMG_DRIVER_PLAIN;
	bool units = !plain && img->unit_bytes > SECTOR_BYTES;
	uint64_t zero = img->grain_bytes ? img->grain_bytes : img->unit_bytes;

	return (struct img_level_limits){
		.block = plain ? (uint32_t)max_u64(img->file->limits.io_align, SECTOR_BYTES) : 1,
		.zero = units ? zero : 0,
		.discard = units && img->driver->release ? img->unit_bytes : 0,
	};
}

/* What changes of the image itself are like: its own files count, not those below. */
static uint32_t change_flags(const struct img *img)
{
	bool fua = img->file->limits.fua, fast = img->file->limits.fast_zero;
	struct img_zeroing z = { IMG_ZERO_WRITTEN, false };

	for (size_t p = 0; p < img->context->part_count; p++) {
		fua = fua && img->context->parts[p]->limits.fua;
		fast = fast && img->context->parts[p]->limits.fast_zero;
	}
	if (!img->writable)
		return 0;
	if (img->driver->zeroing)
		img->driver->zeroing(img, &z);
	fast = z.zero == IMG_ZERO_METADATA || (z.zero == IMG_ZERO_IN_PLACE && fast);
	return (fua ? IMG_LIMIT_FUA : 0u) | (fast ? IMG_LIMIT_FAST_ZERO : 0u) |
	       (z.discard ? IMG_LIMIT_DISCARD_ZEROES : 0u);
}

/* Of the image's own files. */
static uint64_t discard_align(const struct img *img)
{
	uint64_t most = img->file->limits.discard_align;

	for (size_t p = 0; p < img->context->part_count; p++)
		most = max_u64(most, img->context->parts[p]->limits.discard_align);
	return most;
}

static void add_storage(struct img_limits *out, const struct img_storage *s)
{
	const struct img_storage_limits *l = &s->limits;

	out->block = (uint32_t)max_u64(out->block, l->io_align);
	out->memory_align = (uint32_t)max_u64(out->memory_align, l->mem_align);
	out->max_transfer = img_lower_limit(out->max_transfer, l->max_bytes);
	out->max_zero = img_lower_limit(out->max_zero, l->max_zero);
	out->max_discard = img_lower_limit(out->max_discard, l->max_zero);
	out->optimal = max_u64(out->optimal, l->optimal_bytes);
	out->flags |= l->rotational ? IMG_LIMIT_ROTATIONAL : 0;
}

int img_get_limits(struct img *img, struct img_limits *out, size_t bytes, struct img_error *err)
{
	struct img_level_limits own = img_level_limits(img);
	struct img_limits l = { .block = own.block, .memory_align = 1 };
	int rc = img_context_is_ours(img, err);
	struct img_walk *w;

	if (rc)
		return rc;
	if (img->context->flags & IMG_OPEN_SELF_ONLY)
		return img_fail(err, -EINVAL, "%s: opened for its own report only", img->name);
	w = img_engine_walk_begin(img);
	if (!w)
		return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
	for (const struct img *i = img; i; i = i->parent) {
		add_storage(&l, i->file);
		for (size_t p = 0; p < i->context->part_count; p++)
			add_storage(&l, i->context->parts[p]);
	}
	l.flags |= change_flags(img);
	img_engine_walk_end(img, w);
	l.optimal = max_u64(max_u64(own.zero ? img->unit_bytes : PAGE_BYTES, l.block), l.optimal);
	l.zero_granularity = max_u64(own.zero, l.block);
	l.discard_granularity = max_u64(max_u64(own.discard, l.block), discard_align(img));
	memset(out, 0, bytes);
	memcpy(out, &l, min_size(bytes, sizeof(l)));
	return 0;
}
