/*
 * The limits of one image of a chain.
 */
#ifndef LIBIMG_IMAGE_LIMITS_H
#define LIBIMG_IMAGE_LIMITS_H

#include "libimg/engine/driver.h"

/* Bytes. Requests of any alignment work; these need nothing to be read, written or fetched besides. */
struct img_level_limits {
	uint32_t block;
	uint64_t zero, discard; /* what is zeroed or discarded without writing; 0: nothing, or any */
};
struct img_level_limits img_level_limits(const struct img *img);

#endif
