/*
 * Trees of named values. A builder that runs out of memory goes on: the add functions take a NULL
 * parent, and the root remembers that something is missing.
 */
#include "libimg/base/value.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct img_value {
	enum img_value_kind kind;
	bool incomplete; /* in a root: memory ran out somewhere below */
	char *key;	 /* NULL in a root and in an array */
	struct img_value *parent;
	union {
		struct {
			struct img_value **items;
			size_t count, room;
		} members;
		char *string;
		int64_t i;
		uint64_t u;
		bool b;
	} as;
};

static bool is_container(const struct img_value *v)
{
	return v && (v->kind == IMG_VALUE_OBJECT || v->kind == IMG_VALUE_ARRAY);
}

/* Trees are as deep as the code that builds them, a handful of levels: recursion is fine. */
void img_value_free(struct img_value *v)
{
	if (!v)
		return;
	if (is_container(v)) {
		for (size_t i = 0; i < v->as.members.count; i++)
			img_value_free(v->as.members.items[i]);
		free(v->as.members.items);
	} else if (v->kind == IMG_VALUE_STRING) {
		free(v->as.string);
	}
	free(v->key);
	free(v);
}

enum img_value_kind img_value_kind(const struct img_value *v)
{
	return v->kind;
}

size_t img_value_count(const struct img_value *v)
{
	return is_container(v) ? v->as.members.count : 0;
}

const struct img_value *img_value_at(const struct img_value *v, size_t i)
{
	return i < img_value_count(v) ? v->as.members.items[i] : NULL;
}

const char *img_value_key_at(const struct img_value *v, size_t i)
{
	return i < img_value_count(v) ? v->as.members.items[i]->key : NULL;
}

const struct img_value *img_value_get(const struct img_value *v, const char *key)
{
	for (size_t i = 0; i < img_value_count(v); i++) {
		const char *name = v->as.members.items[i]->key;

		if (name && !strcmp(name, key))
			return v->as.members.items[i];
	}
	return NULL;
}

const char *img_value_string(const struct img_value *v)
{
	return v && v->kind == IMG_VALUE_STRING ? v->as.string : NULL;
}

uint64_t img_value_uint(const struct img_value *v)
{
	if (v && v->kind == IMG_VALUE_UINT)
		return v->as.u;
	if (v && v->kind == IMG_VALUE_INT && v->as.i > 0)
		return (uint64_t)v->as.i;
	return 0;
}

int64_t img_value_int(const struct img_value *v)
{
	if (v && v->kind == IMG_VALUE_INT)
		return v->as.i;
	if (v && v->kind == IMG_VALUE_UINT)
		return v->as.u > INT64_MAX ? INT64_MAX : (int64_t)v->as.u;
	return 0;
}

bool img_value_bool(const struct img_value *v)
{
	return v && v->kind == IMG_VALUE_BOOL && v->as.b;
}

static void mark_incomplete(struct img_value *v)
{
	if (!v)
		return;
	while (v->parent)
		v = v->parent;
	v->incomplete = true;
}

struct img_value *img_value_new(enum img_value_kind kind)
{
	struct img_value *v = calloc(1, sizeof(*v));

	if (v)
		v->kind = kind;
	return v;
}

/* Put v (NULL: memory ran out before) under parent, which owns it then. NULL: it was freed. */
static struct img_value *attach(struct img_value *parent, const char *key, struct img_value *v)
{
	struct img_value **items;
	size_t i, room;

	if (!parent || !v)
		goto fail;
	assert(is_container(parent) && (parent->kind == IMG_VALUE_OBJECT) == (key != NULL));
	if (key) {
		v->key = strdup(key);
		if (!v->key)
			goto fail;
		for (i = 0; i < parent->as.members.count; i++) {
			if (!strcmp(parent->as.members.items[i]->key, key)) {
				img_value_free(parent->as.members.items[i]);
				goto place;
			}
		}
	}
	if (parent->as.members.count == parent->as.members.room) {
		room = parent->as.members.room ? parent->as.members.room * 2 : 8;
		items = reallocarray(parent->as.members.items, room, sizeof(void *));
		if (!items)
			goto fail;
		parent->as.members.items = items;
		parent->as.members.room = room;
	}
	i = parent->as.members.count++;
place:
	parent->as.members.items[i] = v;
	v->parent = parent;
	if (v->incomplete)
		mark_incomplete(parent);
	return v;
fail:
	mark_incomplete(parent);
	img_value_free(v);
	return NULL;
}

struct img_value *img_value_add_object(struct img_value *parent, const char *key)
{
	return attach(parent, key, img_value_new(IMG_VALUE_OBJECT));
}

struct img_value *img_value_add_array(struct img_value *parent, const char *key)
{
	return attach(parent, key, img_value_new(IMG_VALUE_ARRAY));
}

void img_value_add_string(struct img_value *parent, const char *key, const char *text)
{
	struct img_value *v = img_value_new(IMG_VALUE_STRING);

	if (v) {
		v->as.string = strdup(text);
		if (!v->as.string) {
			img_value_free(v);
			v = NULL;
		}
	}
	attach(parent, key, v);
}

void img_value_add_int(struct img_value *parent, const char *key, int64_t n)
{
	struct img_value *v = img_value_new(IMG_VALUE_INT);

	if (v)
		v->as.i = n;
	attach(parent, key, v);
}

void img_value_add_uint(struct img_value *parent, const char *key, uint64_t n)
{
	struct img_value *v = img_value_new(IMG_VALUE_UINT);

	if (v)
		v->as.u = n;
	attach(parent, key, v);
}

void img_value_add_bool(struct img_value *parent, const char *key, bool b)
{
	struct img_value *v = img_value_new(IMG_VALUE_BOOL);

	if (v)
		v->as.b = b;
	attach(parent, key, v);
}

void img_value_adopt(struct img_value *parent, const char *key, struct img_value *child)
{
	attach(parent, key, child);
}

bool img_value_ok(const struct img_value *root)
{
	return root && !root->incomplete;
}
