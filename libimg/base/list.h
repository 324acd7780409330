/*
 * An intrusive doubly linked list with a sentinel head. An unlinked node points to itself, so
 * img_list_del() may be called twice.
 */
#ifndef LIBIMG_BASE_LIST_H
#define LIBIMG_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct img_list {
	struct img_list *prev, *next;
};

#define IMG_CONTAINER(ptr, type, member) \
	((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void img_list_init(struct img_list *l)
{
	l->prev = l->next = l;
}

static inline bool img_list_empty(const struct img_list *l)
{
	return l->next == l;
}

static inline void img_list_add_tail(struct img_list *head, struct img_list *node)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}

static inline void img_list_add_head(struct img_list *head, struct img_list *node)
{
	img_list_add_tail(head->next, node);
}

static inline void img_list_del(struct img_list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	img_list_init(node);
}

/* The first node, unlinked; NULL if the list is empty. */
static inline struct img_list *img_list_pop(struct img_list *head)
{
	struct img_list *node = head->next;

	if (node == head)
		return NULL;
	img_list_del(node);
	return node;
}

/* Move all nodes of from to the end of to; from is then empty. */
static inline void img_list_splice(struct img_list *to, struct img_list *from)
{
	if (img_list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	img_list_init(from);
}

#endif
