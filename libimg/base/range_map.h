/*
 * What lies where in a file: named ranges, few, and blocks, many, all of one length and name (the
 * tables of a two-level format). Sorted, so that looking up takes a binary search. Not thread-safe:
 * a driver's is guarded by the image's metadata lock.
 */
#ifndef LIBIMG_BASE_RANGE_MAP_H
#define LIBIMG_BASE_RANGE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct img_range {
	uint64_t off, len;
	const char *name; /* borrowed: a literal */
};

/* Zero-initialise; block_bytes and block_name are the user's to set, before the first block. */
struct img_range_map {
	struct img_range *ranges; /* by offset */
	size_t range_count, range_max;
	uint64_t *blocks; /* offsets, ascending */
	size_t block_count, block_max;
	uint64_t block_bytes;
	const char *block_name;
};

void img_range_map_free(struct img_range_map *m);
/* Forget the blocks, or the ranges. */
void img_range_map_clear_blocks(struct img_range_map *m);
void img_range_map_clear_ranges(struct img_range_map *m);

/*
 * Add a range (len 0: none) or a block. Any number may be added in any order, then sorted; nothing
 * may be looked up in between. -ENOMEM; -EOVERFLOW: it ends past 2^64.
 */
int img_range_map_add(struct img_range_map *m, uint64_t off, uint64_t len, const char *name);
int img_range_map_add_block(struct img_range_map *m, uint64_t off);
void img_range_map_sort(struct img_range_map *m);

/* Two ranges that overlap, the lower one first; false: there are none. */
bool img_range_map_overlap(const struct img_range_map *m, struct img_range pair[2]);
/* A block (pair[1]) that overlaps a range or another block (pair[0]). */
bool img_range_map_block_overlap(const struct img_range_map *m, struct img_range pair[2]);

/* The first range with a byte of [off, off + len), which does not overflow; NULL: none. */
const struct img_range *img_range_map_range_at(const struct img_range_map *m, uint64_t off,
					       uint64_t len);
/* The name of a range or else a block with a byte of it; NULL: none. */
const char *img_range_map_at(const struct img_range_map *m, uint64_t off, uint64_t len);

/* So that n blocks can be inserted: -ENOMEM. Insert one in its place: cannot fail. */
int img_range_map_reserve_blocks(struct img_range_map *m, size_t n);
void img_range_map_insert_block(struct img_range_map *m, uint64_t off);

#endif
