/*
 * Work on an image's own structures, with the image quiet.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/engine/engine.h"
#include "libimg/image/place.h"

/*
 * A disk that grew reads as zeroes in its new part. Two things could show there instead: what the
 * last unit still holds beyond the old end, from before the disk was made smaller; and the backing
 * file, if it reaches further than the old end.
 */
static int clear_new_part(struct img *img, uint64_t from, struct img_error *err)
{
	uint64_t unit_end = min_u64(round_up_u64(from, img->unit_bytes), img->size);
	struct img_map_entry e = { 0 };
	int rc;

	if (img->parent && img->parent->size > from)
		return img_zero(img, from, min_u64(img->size, img->parent->size) - from, err);
	if (unit_end == from)
		return 0;
	rc = img_map(img, from, unit_end - from, false, &e, err);
	if (rc || !e.present || e.zero)
		return rc;
	return img_zero(img, from, unit_end - from, err);
}

int img_resize(struct img *img, uint64_t size, int preallocation, struct img_error *err)
{
	uint64_t before = img->size;
	int rc;

	if (!img->driver->resize)
		return img_fail(err, -ENOTSUP, "Image format driver does not support resize");
	if (!img->writable)
		return img_fail(err, -EROFS, "%s: opened for reading only", img->name);
	if (preallocation < IMG_PREALLOC_OFF || preallocation > IMG_PREALLOC_FULL)
		return img_fail(err, -EINVAL, "%s: preallocation: found %d, allowed %d to %d",
				img->name, preallocation, IMG_PREALLOC_OFF, IMG_PREALLOC_FULL);
	if (size > INT64_MAX - 511)
		return img_fail(err, -EFBIG,
				"%s: new size: found %" PRIu64 ", allowed at most %" PRId64,
				img->name, size, INT64_MAX - 511);
	/* A plain file may end anywhere; formats count sectors. */
	if (!(img->driver->features & IMG_DRIVER_PLAIN) && !is_aligned_u64(size, 512))
		return img_fail(err, -EINVAL, "The new size must be a multiple of 512");
	if (preallocation != IMG_PREALLOC_OFF && size < img->size)
		return img_fail(err, -EINVAL, "Preallocation can only be used for growing images");
	if (size > before && img->backing_name && *img->backing_name && !img->parent)
		return img_fail(err, -EINVAL,
				"%s: its backing file is not open, so the new part "
				"cannot be kept clear of it",
				img->name);
	rc = img_engine_quiet(img, IMG_QUIET_FOR_CHANGING, err);
	if (rc)
		return rc;
	rc = img->driver->resize(img, size, (enum img_preallocate)preallocation, err);
	img_engine_resume(img);
	if (!rc && img->size > before && !(img->driver->features & IMG_DRIVER_PLAIN))
		rc = clear_new_part(img, before, err);
	return rc;
}

/* The caller's say(), behind the driver's. */
struct listener {
	void (*say)(void *user, const char *line);
	void *user;
};

static void pass_on(struct img_check *c, const char *line)
{
	const struct listener *l = c->user;

	l->say(l->user, line);
}

int img_check(struct img *img, unsigned repair, void (*say)(void *user, const char *line),
	      void *user, struct img_check_result *out, struct img_error *err)
{
	struct listener listener = { say, user };
	struct img_check c = {
		.repair = repair,
		.say = say ? pass_on : NULL,
		.user = &listener,
	};
	int rc;

	if (!img->driver->check)
		return img_fail(err, -ENOTSUP, "This image format does not support checks");
	if (repair & ~(unsigned)(IMG_CHECK_REPAIR_ALL | IMG_CHECK_ACCEPT_LOSS) ||
	    (repair & IMG_CHECK_ACCEPT_LOSS && ~repair & IMG_CHECK_REPAIR_ALL))
		return img_fail(err, -EINVAL,
				"%s: repair: found %u, allowed 0 to %d, and %d only with all of these",
				img->name, repair, IMG_CHECK_REPAIR_ALL, IMG_CHECK_ACCEPT_LOSS);
	if (repair && !img->writable)
		return img_fail(err, -EROFS,
				"%s: opened for reading only, so nothing can be "
				"repaired",
				img->name);
	rc = img_engine_quiet(img,
			      repair ? IMG_QUIET_FOR_CHANGING : IMG_QUIET_FOR_CHECKING, err);
	if (rc)
		return rc;
	rc = img->driver->check(img, &c, err);
	img_engine_resume(img);
	if (rc)
		return rc;
	*out = (struct img_check_result){
		.check_errors = c.check_errors,
		.corruptions = c.corruptions,
		.leaks = c.leaks,
		.corruptions_fixed = c.corruptions_fixed,
		.leaks_fixed = c.leaks_fixed,
		.image_end = c.image_end,
		.total_units = c.total_units,
		.allocated_units = c.allocated_units,
		.fragmented_units = c.fragmented_units,
		.compressed_units = c.compressed_units,
	};
	return 0;
}
