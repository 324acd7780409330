/*
 * Which units of a disk have come, for input in any order. Memory is taken for what has come, 4 KiB
 * for each run of 32768 units.
 */
#ifndef LIBIMG_JOBS_SEEN_H
#define LIBIMG_JOBS_SEEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialise. */
struct img_seen {
	uint64_t units;
	uint8_t **leaves;
	size_t leaf_count, leaves_used;
};

/* Of so many units none has come. -ENOMEM; -E2BIG: more than can be kept in mind. */
int img_seen_init(struct img_seen *s, uint64_t units);
/* One has come. 1: it had come before. -ENOMEM; -E2BIG: too many, too far from each other. */
int img_seen_add(struct img_seen *s, uint64_t unit);
/* From unit on: have they come, and how many in a row have or have not (*run, at least 1)? */
bool img_seen_run(const struct img_seen *s, uint64_t unit, uint64_t *run);
void img_seen_free(struct img_seen *s);

#endif
