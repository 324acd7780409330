/*
 * Which bytes of a file are in use, for a check of a format in which each has one user at most, and
 * for an allocator that has to find out what is free. Memory follows what is in use, not how long the
 * file is. Not thread-safe.
 */
#ifndef LIBIMG_BASE_USE_MAP_H
#define LIBIMG_BASE_USE_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "libimg/base/sparse_bitset.h"

struct img_use_map {
	uint64_t unit_bytes, file_bytes;
	struct img_sparse_bitset used, twice; /* by unit */
};

enum img_use {
	IMG_USE_NEW,	/* nobody used it */
	IMG_USE_SHARED, /* somebody uses some of it: it is in use more than once now */
	IMG_USE_BEYOND, /* not in the file wholly: nothing was noted */
};

/* Nothing is in use. unit_bytes: what is told apart; a power of two is not needed. */
void img_use_map_init(struct img_use_map *m, uint64_t file_bytes, uint64_t unit_bytes);
void img_use_map_free(struct img_use_map *m);
/* Bytes [off, off + len), and the whole units that they touch, have a user (one more). -ENOMEM. */
int img_use_map_add(struct img_use_map *m, uint64_t off, uint64_t len, enum img_use *use);
/* Does any unit of the range, which lies in the file, have several users? */
bool img_use_map_is_shared(const struct img_use_map *m, uint64_t off, uint64_t len);

#endif
