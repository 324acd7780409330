/*
 * Room in a file that grows at its end, in units: what formats need in which nothing in the file says
 * what is free (qcow2, which counts, has its own). What was given back is used again first. All in
 * memory; not thread-safe: a driver's is guarded by the image's metadata lock, so that plan_write()
 * may allocate and drop() and release() give back.
 */
#ifndef LIBIMG_BASE_UNIT_ALLOC_H
#define LIBIMG_BASE_UNIT_ALLOC_H

#include <stddef.h>
#include <stdint.h>

struct img_use_map;

struct img_unit_run {
	uint64_t off, len; /* bytes; len is a multiple of the unit */
};

struct img_unit_alloc {
	uint64_t unit_bytes;
	uint64_t next;		   /* offset of the next new unit, where the file ends or will end */
	uint64_t limit;		   /* no unit may end above */
	struct img_unit_run *runs; /* free, below next */
	size_t run_count, run_max;
};

/* next: the first new unit's offset; the format's alignment is the caller's to see to. */
void img_unit_alloc_init(struct img_unit_alloc *a, uint64_t unit_bytes, uint64_t next, uint64_t limit);
void img_unit_alloc_free(struct img_unit_alloc *a);
/*
 * What nobody uses between from and next is free: from is a unit's offset, the map's units are these
 * units or parts of them. -ENOMEM: not all of it was noted, and will not be used.
 */
int img_unit_alloc_find_free(struct img_unit_alloc *a, const struct img_use_map *used, uint64_t from);

/* 1 to want units in a row: where, and how many. -EFBIG: the limit. */
int img_unit_alloc_get(struct img_unit_alloc *a, uint64_t want, uint64_t *off, uint64_t *got);
/* n new units in a row, at the end. -EFBIG. */
int img_unit_alloc_get_at_end(struct img_unit_alloc *a, uint64_t n, uint64_t *off);
/* Nothing uses these units any more. Out of memory: they stay unused. */
void img_unit_alloc_put(struct img_unit_alloc *a, uint64_t off, uint64_t len);

#endif
