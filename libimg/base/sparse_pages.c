/*
 * A sparse array of pages, as a radix tree: a node leads to 1024 nodes below or, on the lowest level,
 * pages. A tree is as high as its highest page number needs; a new level puts the old root below it.
 */
#include "libimg/base/sparse_pages.h"

#include <stdbool.h>
#include <stdlib.h>

enum {
	NODE_BITS = 10,
	NODE_CHILDREN = 1 << NODE_BITS,
};

struct node {
	void *child[NODE_CHILDREN];
};

/* Does a tree of so many levels reach a page? */
static bool reaches(unsigned levels, uint64_t number)
{
	return levels * NODE_BITS >= 64 || !(number >> levels * NODE_BITS);
}

/* Which child of a node that has `below` levels of nodes under it. */
static size_t child_of(uint64_t number, unsigned below)
{
	return (size_t)(number >> below * NODE_BITS) % NODE_CHILDREN;
}

void *img_sparse_pages_get(const struct img_sparse_pages *p, uint64_t number)
{
	void *at = p->root;

	if (!reaches(p->levels, number))
		return NULL;
	for (unsigned below = p->levels; at && below--;)
		at = ((struct node *)at)->child[child_of(number, below)];
	return at;
}

void *img_sparse_pages_make(struct img_sparse_pages *p, uint64_t number)
{
	void **slot = &p->root;

	while (!reaches(p->levels, number)) {
		if (p->root) {
			struct node *top = calloc(1, sizeof(*top));

			if (!top)
				return NULL;
			top->child[0] = p->root;
			p->root = top;
		}
		p->levels++;
	}
	for (unsigned below = p->levels; below--;) {
		if (!*slot)
			*slot = calloc(1, sizeof(struct node));
		if (!*slot)
			return NULL;
		slot = &((struct node *)*slot)->child[child_of(number, below)];
	}
	if (!*slot) {
		*slot = calloc(1, p->page_bytes);
		p->count += *slot != NULL;
	}
	return *slot;
}

/* The same below one node (or page: levels 0); number counts from its first page. */
static uint64_t next_below(const void *at, unsigned levels, uint64_t number)
{
	const struct node *node = at;

	if (!at || !levels)
		return at ? 0 : UINT64_MAX;
	for (size_t i = child_of(number, levels - 1); i < NODE_CHILDREN; i++) {
		uint64_t first = (uint64_t)i << (levels - 1) * NODE_BITS;
		uint64_t found = next_below(node->child[i], levels - 1,
					    number > first ? number - first : 0);

		if (found != UINT64_MAX)
			return first + found;
	}
	return UINT64_MAX;
}

uint64_t img_sparse_pages_next(const struct img_sparse_pages *p, uint64_t number)
{
	return reaches(p->levels, number) ? next_below(p->root, p->levels, number) : UINT64_MAX;
}

static void free_below(void *at, unsigned levels)
{
	struct node *node = at;

	for (size_t i = 0; at && levels && i < NODE_CHILDREN; i++)
		free_below(node->child[i], levels - 1);
	free(at);
}

void img_sparse_pages_free(struct img_sparse_pages *p)
{
	free_below(p->root, p->levels);
	*p = (struct img_sparse_pages){ .page_bytes = p->page_bytes };
}
