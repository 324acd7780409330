/*
 * Nodes: settings are an array in the order in which they were given, children have a slot for each
 * name; a dotted key goes down the children, which are made on the way.
 */
#include "libimg/image/node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Longer than any chain of images with what lies under them; bounds the recursion over a tree. */
enum {
	MAX_LEVELS = 600,
};

static const char *const child_names[IMG_NODE_CHILDREN] = {
	[IMG_NODE_FILE] = "file",
	[IMG_NODE_BACKING] = "backing",
	[IMG_NODE_DATA_FILE] = "data-file",
	[IMG_NODE_HEADER] = "header",
	[IMG_NODE_IMAGE] = "image",
};

struct img_node *img_node_new(void)
{
	return calloc(1, sizeof(struct img_node));
}

void img_node_free(struct img_node *node)
{
	if (!node)
		return;
	for (size_t i = 0; i < node->count; i++) {
		free(node->settings[i].key);
		free(node->settings[i].value);
	}
	for (size_t i = 0; i < IMG_NODE_CHILDREN; i++)
		img_node_free(node->child[i]); /* at most MAX_LEVELS deep */
	free(node->settings);
	free(node);
}

/* The child that the first part of key names; IMG_NODE_CHILDREN: none. *rest: what follows, or NULL. */
static size_t find_child(const char *key, const char **rest)
{
	for (size_t i = 0; i < IMG_NODE_CHILDREN; i++) {
		size_t n = strlen(child_names[i]);

		if (!strncmp(key, child_names[i], n) && (!key[n] || key[n] == '.')) {
			*rest = key[n] ? key + n + 1 : NULL;
			return i;
		}
	}
	return IMG_NODE_CHILDREN;
}

static int add_setting(struct img_node *node, const char *key, const char *value)
{
	struct img_node_setting *more =
		realloc(node->settings, (node->count + 1) * sizeof(*more));
	struct img_node_setting made;

	if (!more)
		return -ENOMEM;
	node->settings = more;
	made.key = strdup(key);
	made.value = strdup(value);
	if (!made.key || !made.value) {
		free(made.key);
		free(made.value);
		return -ENOMEM;
	}
	more[node->count++] = made;
	return 0;
}

/* A whole node as the value of key: nothing, or a name, which would have to be declared elsewhere. */
static int set_child(struct img_node *node, size_t child, const char *key, const char *value,
		     struct img_error *err)
{
	if (child == IMG_NODE_BACKING && (!value || !*value)) {
		if (node->child[child])
			return img_fail(err, -EINVAL, "'%s' is null, and has keys of its own",
					key);
		node->no_backing = true;
		return 0;
	}
	return img_fail(err, -EINVAL,
			"Cannot find device='%s' nor node-name='%s': '%s' is described by its own "
			"keys (%s.driver, %s.filename)",
			value ? value : "", value ? value : "", key, key, key);
}

/* Where value is in a node's own settings; NULL: it has no such key. */
static struct img_node_setting *find_setting(const struct img_node *node, const char *key)
{
	for (size_t i = 0; i < node->count; i++)
		if (!strcmp(node->settings[i].key, key))
			return &node->settings[i];
	return NULL;
}

int img_node_set(struct img_node *node, const char *key, const char *value, struct img_error *err)
{
	const char *whole = key, *rest = NULL;
	struct img_node_setting *setting;
	unsigned level = 0;
	size_t child;

	for (; (child = find_child(key, &rest)) < IMG_NODE_CHILDREN && rest; key = rest) {
		if (++level > MAX_LEVELS)
			return img_fail(err, -EINVAL, "a description is nested deeper than %d levels",
					MAX_LEVELS);
		if (child == IMG_NODE_BACKING && node->no_backing)
			return img_fail(err, -EINVAL, "'%.*s' is null, and has keys of its own",
					(int)(rest - 1 - whole), whole);
		if (!node->child[child])
			node->child[child] = img_node_new();
		if (!node->child[child])
			return img_fail(err, -ENOMEM, "out of memory");
		node = node->child[child];
	}
	if (child < IMG_NODE_CHILDREN)
		return set_child(node, child, whole, value, err);
	if (!*key)
		return img_fail(err, -EINVAL, "'%s': a key has no name", whole);
	if (!value)
		return img_fail(err, -EINVAL, "'%s' is null; only 'backing' can be", whole);
	setting = find_setting(node, key);
	if (setting) {
		char *copy = strdup(value);

		if (!copy)
			return img_fail(err, -ENOMEM, "out of memory");
		free(setting->value);
		setting->value = copy;
	} else if (add_setting(node, key, value)) {
		return img_fail(err, -ENOMEM, "out of memory");
	}
	return 0;
}

const char *img_node_get(const struct img_node *node, const char *key)
{
	const struct img_node_setting *setting;
	const char *rest = NULL;
	size_t child;

	for (; node && (child = find_child(key, &rest)) < IMG_NODE_CHILDREN && rest; key = rest)
		node = node->child[child];
	setting = node ? find_setting(node, key) : NULL;
	return setting ? setting->value : NULL;
}
