/*
 * What to open, as a tree of nodes. A node is an image or what lies under one (a file, a server, a
 * window of either); it has settings, which are keys with text, and further nodes below it by name.
 *
 * Paths, URLs, json: names and "key=value" strings all become this tree (node_parse.c), which
 * knows nothing of what formats and protocols there are; opening judges what it says.
 */
#ifndef LIBIMG_IMAGE_NODE_H
#define LIBIMG_IMAGE_NODE_H

#include "libimg/base/error.h"
#include "libimg/img.h"

enum img_node_child {
	IMG_NODE_FILE,	    /* "file": what holds the bytes */
	IMG_NODE_BACKING,   /* "backing": the image below, in place of what this one names */
	IMG_NODE_DATA_FILE, /* "data-file": the same for its data file */
	IMG_NODE_HEADER,    /* "header": what holds an encrypted image's header, if that is detached */
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

#endif
