/* Another size for the disk: growing (qcow2_grow.c), or shrinking (qcow2_shrink.c). */
#include <errno.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"

int qcow2_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	struct qcow2_refcounts refs = { .img = img };
	uint64_t old = align_down_u64(q->header.size, 512);
	int rc = qcow2_may_resize(img, err);

	if (rc)
		return rc;
	if (size <= old && how != IMG_PREALLOCATE_OFF)
		return img_fail(err, -EINVAL,
				"%s: Preallocation can't be used for shrinking an image",
				img->name);
	if (how != IMG_PREALLOCATE_OFF && img->encrypted && q->header.version < 3)
		return img_fail(err, -ENOTSUP,
				"%s: the room that is preallocated decrypts to anything, and an image of "
				"version 2 cannot say that it reads as zeroes",
				img->name);
	if (size > old)
		rc = qcow2_grow_disk(&refs, old, size, how, err);
	else if (size < img->size)
		rc = qcow2_shrink(&refs, size, err);
	if (!rc)
		rc = qcow2_refcounts_flush(&refs, err);
	qcow2_refcounts_end(&refs);
	return rc;
}
