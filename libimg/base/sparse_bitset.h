/*
 * Which units of a disk have come, for input in any order. Memory is taken for what has come, 4 KiB
 * for each run of 32768 units.
 */
#ifndef LIBIMG_BASE_SPARSE_BITSET_H
#define LIBIMG_BASE_SPARSE_BITSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero-initialise. */
struct img_sparse_bitset {
	uint64_t units;
	uint8_t **leaves;
	size_t leaf_count, leaves_used;
};

/* Of so many units none has come. -ENOMEM; -E2BIG: more than can be kept in mind. */
int img_sparse_bitset_init(struct img_sparse_bitset *s, uint64_t units);
/* One has come. 1: it had come before. -ENOMEM; -E2BIG: too many, too far from each other. */
int img_sparse_bitset_add(struct img_sparse_bitset *s, uint64_t unit);
/* From unit on: have they come, and how many in a row have or have not (*run, at least 1)? */
bool img_sparse_bitset_run(const struct img_sparse_bitset *s, uint64_t unit, uint64_t *run);
void img_sparse_bitset_free(struct img_sparse_bitset *s);

#endif
