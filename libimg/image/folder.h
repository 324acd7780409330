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

/*
 * The further files that the image of path main, which will be replaced, has beside it: paths, ends with NULL; malloc'd.
 * *out NULL: there is no such image, or it is no folder's. Nothing is opened but main. -ENOMEM.
 */
int img_folder_list(const char *main, const struct img_driver *driver, char ***out,
		    struct img_error *err);
void img_folder_list_free(char **list);
/*
 * Remove a regular file that nobody has open and that is of driver's format by its content: an image can
 * name any file that lies beside it. Others stay.
 */
void img_folder_remove_file(const char *path, const struct img_driver *driver);

#endif
