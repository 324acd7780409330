/*
 * What a node says of one image: which format, how to open it, what lies under it. Reading it opens
 * nothing, and refuses what nobody would heed.
 */
#ifndef LIBIMG_IMAGE_LEVEL_H
#define LIBIMG_IMAGE_LEVEL_H

#include "libimg/image/node.h"
#include "libimg/image/context.h"

struct img_secrets;

/* Everything is borrowed from the node. */
struct img_level {
	const struct img_driver *driver; /* NULL: not said */
	unsigned on, off;		 /* IMG_OPEN_* that are set and cleared, whatever else says */
	bool read_only;
	enum img_io_kind io;				     /* AUTO: not said */
	uint64_t cache_bytes;				     /* 0: not said */
	struct img_view view;				     /* which state of the image; all NULL: the present one */
	const struct img_node *file;			     /* where its bytes are; NULL: not said */
	const struct img_node *backing, *data_file, *header; /* NULL: not said */
	bool no_backing;
	/* Whose settings that img_level_options() takes are for the driver; NULL: there are none. */
	const struct img_node *options;
};

/* -EINVAL: keys that do not belong there, values that are none of theirs; the sentence names them. */
int img_level_read(const struct img_node *node, struct img_level *out, struct img_error *err);

/* Is it among the open_options of any driver? */
bool img_level_is_driver_option(const char *key);

/*
 * The driver's open_options, as node (NULL: none) has them. *out: for img_options_free(); NULL if the driver has
 * no such options. -EINVAL: it does not have one that node has, or not with such a value.
 */
int img_level_options(const struct img_node *node, const struct img_driver *driver,
		      struct img_options **out, struct img_error *err);

/* How to open a node under an image. */
struct img_node_opening {
	unsigned flags; /* IMG_STORAGE_* */
	const struct img_secrets *secrets;
	/* Open an image whose guest bytes are taken for a file. */
	int (*image)(const struct img_node *node, const struct img_node_opening *o,
		     struct img_storage **out, struct img_error *err);
};

/*
 * Open what a level's file (or data_file) says: a module's storage, a filter or a window over
 * another, or an image inside another's disk.
 */
int img_node_open_storage(const struct img_node *node, const struct img_node_opening *o,
			  struct img_storage **out, struct img_error *err);

/*
 * Whose bytes that would be, before it is opened: struct img_storage's identity, without windows.
 * malloc'd; NULL: not to be known.
 */
char *img_node_identify(const struct img_node *node);

#endif
