/*
 * Counting how often each cluster of a file is used, for a check: memory follows what is used, not
 * the file's length. Four thousand counters to a page, a byte each; what does not fit into a byte
 * goes to a map.
 */
#ifndef FORMATS_QCOW2_USE_COUNTS_H
#define FORMATS_QCOW2_USE_COUNTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/sparse_pages.h"

/* Numbers by number. Zero-initialised: empty. */
struct qcow2_map {
	uint64_t *keys; /* key + 1; 0: free */
	uint64_t *values;
	size_t slots, used;
};

/* The value of a key, or NULL; valid until the next qcow2_map_add(). key < UINT64_MAX. */
uint64_t *qcow2_map_find(const struct qcow2_map *m, uint64_t key);
/* The same, made (with value 0) if it is new. NULL: out of memory. */
uint64_t *qcow2_map_add(struct qcow2_map *m, uint64_t key);
void qcow2_map_free(struct qcow2_map *m);

enum { QCOW2_PAGE_BITS = 12,
       QCOW2_PAGE_CLUSTERS = 1 << QCOW2_PAGE_BITS };

/* What is known of a cluster besides how often it is used. */
enum qcow2_mark {
	QCOW2_MARK_ONCE,  /* its refcount in the file is 1 */
	QCOW2_MARK_FIXED, /* holds what has one place: the header, an L1 table, ... */
	QCOW2_MARK_L2,	  /* is an L2 table, or a part of one */
	QCOW2_MARKS,
};

struct qcow2_page {
	uint8_t count[QCOW2_PAGE_CLUSTERS]; /* 255: in the map */
	uint64_t mark[QCOW2_MARKS][QCOW2_PAGE_CLUSTERS / 64];
};

struct qcow2_counts {
	uint64_t clusters;	       /* that can be counted */
	struct img_sparse_pages pages; /* of struct qcow2_page */
	struct qcow2_map many;
};

void qcow2_counts_init(struct qcow2_counts *c, uint64_t clusters);
void qcow2_counts_free(struct qcow2_counts *c);
/* 0 past the end. */
uint64_t qcow2_counts_get(const struct qcow2_counts *c, uint64_t cluster);
/* cluster < clusters. -ENOMEM. */
int qcow2_counts_set(struct qcow2_counts *c, uint64_t cluster, uint64_t count);
/* Marking a cluster that is not counted is forgotten. */
void qcow2_counts_mark(struct qcow2_counts *c, uint64_t cluster, enum qcow2_mark mark, bool on);
bool qcow2_counts_marked(const struct qcow2_counts *c, uint64_t cluster, enum qcow2_mark mark);
/* From cluster on, the first of [cluster, end) that has a page; end: none. */
uint64_t qcow2_counts_next_page(const struct qcow2_counts *c, uint64_t cluster, uint64_t end);
/* The first of n clusters in a row that are not counted; they may lie past the end. */
uint64_t qcow2_counts_free_run(const struct qcow2_counts *c, uint64_t n);

#endif
