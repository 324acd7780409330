/*
 * Images that follow each other in one disk.
 */
#ifndef LIBIMG_JOBS_CONCAT_H
#define LIBIMG_JOBS_CONCAT_H

#include "libimg/base/error.h"
#include "libimg/img.h"

struct img_concat {
	struct img *const *images; /* at least one; borrowed */
	size_t count;
	uint64_t size; /* together */
};

/* -EFBIG: together they are too large for a disk. */
int img_concat_init(struct img_concat *s, struct img *const *images, size_t count,
		    struct img_error *err);
/* The image that holds byte off of the disk, and where in it that is. */
struct img *img_concat_at(const struct img_concat *s, uint64_t off, uint64_t *within);
/* img_map(), deep, of what the image that holds byte off has from there; entry->start is off. */
int img_concat_map(const struct img_concat *s, uint64_t off, struct img_map_entry *entry,
		   struct img_error *err);
/*
 * Submit reads of [off, off + len) of the disk into data: one for each image that holds a part of
 * it, *submitted of them, also on failure. iov: room for as many; borrowed like data.
 */
int img_concat_read(const struct img_concat *s, struct img_queue *q, uint64_t off, uint8_t *data,
		    size_t len, struct iovec *iov, unsigned *submitted, img_done_fn *done,
		    void *user, struct img_error *err);
/* The most images that len bytes can be spread over: at least 1. */
size_t img_concat_most(const struct img_concat *s, size_t len);

#endif
