/*
 * Images that follow each other in one disk.
 */
#ifndef LIBIMG_JOBS_SOURCES_H
#define LIBIMG_JOBS_SOURCES_H

#include "libimg/base/error.h"
#include "libimg/image/img.h"

struct img_sources {
	struct img *const *images; /* at least one; borrowed */
	size_t count;
	uint64_t size; /* together */
};

/* -EFBIG: together they are too large for a disk. */
int img_sources_init(struct img_sources *s, struct img *const *images, size_t count,
		     struct img_error *err);
/* The image that holds byte off of the disk, and where in it that is. */
struct img *img_sources_at(const struct img_sources *s, uint64_t off, uint64_t *within);

#endif
