/*
 * A sparse array of pages of one size: only pages that were asked for take memory, and the tree above
 * them, however large and far apart their numbers are. Not thread-safe.
 */
#ifndef LIBIMG_BASE_SPARSE_PAGES_H
#define LIBIMG_BASE_SPARSE_PAGES_H

#include <stddef.h>
#include <stdint.h>

/* Zero-initialise but for page_bytes. */
struct img_sparse_pages {
	size_t page_bytes;
	uint64_t count;	 /* pages there are */
	void *root;	 /* levels 0: page 0 */
	unsigned levels; /* of nodes above the pages */
};

/* A page; NULL: there is none. Borrowed until img_sparse_pages_free(). */
void *img_sparse_pages_get(const struct img_sparse_pages *p, uint64_t number);
/* The same, made of zeroes if there is none. NULL: out of memory. */
void *img_sparse_pages_make(struct img_sparse_pages *p, uint64_t number);
/* The first page from number on that there is; UINT64_MAX: none. */
uint64_t img_sparse_pages_next(const struct img_sparse_pages *p, uint64_t number);
/* All pages; p is empty then and may be used again. */
void img_sparse_pages_free(struct img_sparse_pages *p);

#endif
