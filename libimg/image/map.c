/*
 * Where data is: one answer for the whole chain.
 *
 * The walk goes down from the image while the range is "not here". Each level may shorten the
 * range, never the answer of the levels above, so that what comes out is true for all of it.
 */
#include <errno.h>
#include <inttypes.h>

#include "libimg/base/arith.h"
#include "libimg/base/cancel.h"
#include "libimg/engine/engine.h"
#include "libimg/image/context.h"

/*
 * Is it worth looking for holes in s? Only if it occupies clearly less than its length: a hole
 * here and there (a table of zeroes) tells nothing about the guest's data.
 */
static bool is_sparse(const struct img *img, struct img_storage *s)
{
	uint64_t allocated = img_storage_allocated(s);

	return allocated + max_u64(allocated / 8, 2 * img->unit_bytes) < s->size;
}

/*
 * Is the start of a DATA extent a hole of its file? A plain file's holes are the guest's own. In
 * other formats whole units may be holes: room that was allocated ahead and never written. Smaller
 * holes in them are of no use.
 */
static int find_hole(const struct img *img, const struct img_extent *e, uint64_t off, bool *hole,
		     uint64_t *run, struct img_error *err)
{
	bool plain = img->driver->features & IMG_DRIVER_PLAIN;
	enum img_storage_extent kind;
	uint64_t end;
	int rc;

	*hole = false;
	*run = e->length;
	if (e->cipher || (!plain && !is_sparse(img, e->storage)))
		return 0;
	rc = img_storage_extent(e->storage, e->file_off, e->length, &kind, run);
	if (rc)
		return img_fail(err, rc, "%s: looking for holes at %" PRIu64 " failed",
				e->storage->name, e->file_off);
	if (!plain && kind == IMG_STORAGE_HOLE && *run < e->length) {
		end = multiple_down_u64(off + *run, img->unit_bytes);
		if (end > off) {
			*run = end - off;
		} else {
			kind = IMG_STORAGE_DATA;
			*run = 1;
		}
	}
	*hole = kind == IMG_STORAGE_HOLE;
	if (!*hole && !plain)
		*run = min_u64(e->length, multiple_up_u64(off + *run, img->unit_bytes) - off);
	return 0;
}

/* What an extent of img says: fills the rest of entry. */
static int describe(const struct img *img, const struct img_extent *e, uint64_t off, bool deep,
		    struct img_map_entry *entry, struct img_error *err)
{
	bool hole = false;
	uint64_t run = e->length;
	int rc;

	entry->present = true;
	entry->encrypted = e->cipher;
	switch (e->kind) {
	case IMG_DATA:
		if (deep) {
			rc = find_hole(img, e, off, &hole, &run, err);
			if (rc)
				return rc;
		}
		entry->length = run;
		entry->zero = hole;
		entry->data = !hole || !(img->driver->features & IMG_DRIVER_PLAIN);
		break;
	case IMG_ZERO:
		entry->zero = true;
		break;
	case IMG_COMPRESSED:
		entry->data = true;
		entry->compressed = true;
		break;
	case IMG_BACKING:
		entry->present = false;
		entry->zero = true;
		break;
	}
	if (e->storage && !e->cipher && (e->kind == IMG_DATA || e->kind == IMG_ZERO)) {
		entry->has_offset = true;
		entry->offset = e->file_off;
		entry->file = e->storage->name;
	}
	return 0;
}

/* Down from img to the image that has [off, off + len), which is shortened to what is one answer. */
static int walk(struct img *img, uint64_t off, uint64_t len, bool deep, struct img_map_entry *entry,
		struct img_error *err)
{
	struct img_extent e;
	int rc;

	for (;;) {
		struct img *parent = img->parent;

		rc = img_engine_map(img, off, len, &e, err);
		if (rc)
			return rc;
		len = entry->length = e.length;
		if (e.kind != IMG_BACKING || !deep || !parent || off >= parent->size)
			break;
		img = parent;
		len = min_u64(len, img->size - off);
		entry->depth++;
	}
	return describe(img, &e, off, deep, entry, err);
}

int img_map(struct img *img, uint64_t off, uint64_t len, bool deep, struct img_map_entry *entry,
	    struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct img_map_entry found = { .start = off };
	struct img_walk *w;
	int rc = img_context_is_ours(img, err);

	if (rc)
		return rc;

	if (!len || !range_in(off, len, img->size))
		return img_fail(err, -EINVAL,
				"%s: range %" PRIu64 "+%" PRIu64 " is not in the %" PRIu64
				" bytes of the disk",
				img->name, off, len, img->size);
	if (img->context->flags & IMG_OPEN_SELF_ONLY)
		return img_fail(err, -EINVAL, "%s: opened for its own report only", img->name);
	w = img_engine_walk_begin(img);
	if (!w)
		return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
	rc = walk(img, off, len, deep, &found, err);
	img_engine_walk_end(img, w);
	if (!rc)
		*entry = found;
	return rc;
}
