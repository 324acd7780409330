/*
 * Images that are folders: a file of a certain name in them tells the rest.
 */
#ifndef LIBIMG_IMAGE_FOLDER_H
#define LIBIMG_IMAGE_FOLDER_H

#include <stdbool.h>

struct img_driver;
struct img_error;
struct img_node;
struct img_storage;

/* The path of the folder that a node, as it stands, leads to: borrowed from it. NULL: it leads to something else. */
const char *img_folder_named(const struct img_node *node);

/*
 * Open the file by which a driver knows the folder at path: it must lie in the folder, whatever links say.
 * driver: who is asked alone; NULL: all. flags: IMG_STORAGE_*. -EISDIR: no driver knows this folder; -EPERM: the file lies elsewhere; errors of the file.
 */
int img_folder_open(const char *path, const struct img_driver *driver, unsigned flags,
		    struct img_storage **out, struct img_error *err);

/*
 * Where an image is made whose name is path: in the folder at path, if it is one, and the driver knows folders.
 * malloc'd; *out NULL: at path itself. -ENOMEM.
 */
int img_folder_create_path(const char *path, const struct img_driver *driver, char **out,
			   struct img_error *err);

#endif
