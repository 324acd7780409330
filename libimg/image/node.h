/*
 * What to open, as a tree of nodes. A node is an image or what lies under one (a file, a server, a
 * window of either); it has settings, which are keys with text, and further nodes below it by name.
 *
 * Paths, URLs, json: names and "key=value" strings all become this tree (node_parse.c), which
 * knows nothing of what formats and protocols there are; opening judges what it says.
 */
#ifndef LIBIMG_IMAGE_NODE_H
#define LIBIMG_IMAGE_NODE_H

#include <stdbool.h>
#include <stddef.h>

#include "libimg/base/error.h"

enum img_node_child {
	IMG_NODE_FILE,	    /* "file": what holds the bytes */
	IMG_NODE_BACKING,   /* "backing": the image below, in place of what this one names */
	IMG_NODE_DATA_FILE, /* "data-file": the same for its data file */
	IMG_NODE_IMAGE,	    /* "image": what a filter is laid over */
	IMG_NODE_CHILDREN,
};

/* "cache.direct" and the like are keys of one node: only the names above lead to another. */
struct img_node_setting {
	char *key, *value;
};

struct img_node {
	struct img_node_setting *settings; /* in the order given; no key twice */
	size_t count;
	struct img_node *child[IMG_NODE_CHILDREN];
	bool no_backing; /* "backing" is null: whatever the image names is not opened */
};

/* NULL: out of memory. */
struct img_node *img_node_new(void);
void img_node_free(struct img_node *node); /* and all below it; NULL is fine */

/*
 * Give key (dotted: "file.filename", "backing.driver") a value, in place of what it had. value NULL:
 * the null of JSON, which only "backing" can be. -EINVAL: the key names a node and not a setting of
 * one, or leads deeper than any chain; the sentence says which. -ENOMEM.
 */
int img_node_set(struct img_node *node, const char *key, const char *value,
		 struct img_error *err);

/* The value of a key, which may be dotted; NULL: not given. */
const char *img_node_get(const struct img_node *node, const char *key);

/*
 * What a user wrote: a path, "file:PATH", a URL of a protocol that there is, or "json:{...}", as
 * lenient as QEMU's (strings in single quotes; nested and dotted keys). -EINVAL: not to be
 * understood; -EPROTONOSUPPORT: a protocol that there is not; -ENOMEM.
 */
int img_node_parse_name(const char *name, struct img_node **out, struct img_error *err);
/* "driver=qcow2,file.filename=x": a comma in a value is doubled, a key alone is "on". */
int img_node_parse_options(const char *text, struct img_node **out, struct img_error *err);

#endif
