/*
 * A set of numbers, a bit each; memory follows what is in the set: 1 KiB for each run of 8192 numbers
 * that has one, however large they are. Not thread-safe.
 */
#ifndef LIBIMG_BASE_SPARSE_BITSET_H
#define LIBIMG_BASE_SPARSE_BITSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/sparse_pages.h"

struct img_sparse_bitset {
	uint64_t size;	    /* numbers are below */
	uint64_t count;	    /* how many are in the set */
	uint64_t pages_max; /* that may be taken */
	struct img_sparse_pages pages;
};

/* An empty set of numbers below size, of at most bytes_max of memory (0: no limit). */
void img_sparse_bitset_init(struct img_sparse_bitset *s, uint64_t size, uint64_t bytes_max);
/* Add n numbers from first on, first + n <= size. 1: some were there. -ENOMEM; -E2BIG: bytes_max. */
int img_sparse_bitset_add(struct img_sparse_bitset *s, uint64_t first, uint64_t n);
/* The same; those that were there are added to *again. */
int img_sparse_bitset_add_again(struct img_sparse_bitset *s, uint64_t first, uint64_t n,
				struct img_sparse_bitset *again);
bool img_sparse_bitset_has(const struct img_sparse_bitset *s, uint64_t number);
/* Is number < size in the set? *run: how many from there on are, or are not, in a row; at least 1. */
bool img_sparse_bitset_run(const struct img_sparse_bitset *s, uint64_t number, uint64_t *run);
void img_sparse_bitset_free(struct img_sparse_bitset *s);

#endif
