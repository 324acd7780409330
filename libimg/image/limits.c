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
		.block = plain ? (uint32_t)max_u64(img->file->io_align, SECTOR_BYTES) : 1,
		.zero = units ? zero : 0,
		.discard = units && img->driver->release ? img->unit_bytes : 0,
	};
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
		l.block = (uint32_t)max_u64(l.block, i->file->io_align);
		l.memory_align = (uint32_t)max_u64(l.memory_align, i->file->mem_align);
	}
	img_engine_walk_end(img, w);
	l.optimal = max_u64(own.zero ? img->unit_bytes : PAGE_BYTES, l.block);
	l.zero_granularity = max_u64(own.zero, l.block);
	l.discard_granularity = max_u64(own.discard, l.block);
	if (img->writable && img->file->fua)
		l.flags |= IMG_LIMIT_FUA;
	memset(out, 0, bytes);
	memcpy(out, &l, min_size(bytes, sizeof(l)));
	return 0;
}
