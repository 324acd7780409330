/*
 * Looking for zeroes in memory.
 */
#ifndef LIBIMG_JOBS_ZERO_H
#define LIBIMG_JOBS_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct img;

bool img_is_zero(const uint8_t *p, size_t len);

/*
 * Is what begins at p zeroes or data, and for how long? Looked at in pieces of grain bytes, of which
 * the first is only `first` long (1..grain: up to where a grain begins) and the last may be short.
 * *run: 1..len.
 */
bool img_zero_run(const uint8_t *p, size_t len, size_t grain, size_t first, size_t *run);

/*
 * The shortest run of zeroes to leave out of target, up to most. sparse: what is asked for; 0: as it
 * is best. Where the target allocates more at a time, less would save nothing and cut writes to
 * pieces; but holes of 64 KiB are worth having in any file.
 */
size_t img_zero_grain(const struct img *target, uint64_t sparse, size_t most);

#endif
