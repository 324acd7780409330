/*
 * The further files of an image in a folder whose place a new image takes: they go when that is complete.
 */
#ifndef LIBIMG_IMAGE_REPLACED_H
#define LIBIMG_IMAGE_REPLACED_H

struct img_driver;
struct img_error;
struct img_value;

/*
 * What the image of path main, which driver will replace, has beside it: an ARRAY of paths, the caller's
 * to free. *out NULL: there is no such image, or it is no folder's. Nothing is opened but main. -ENOMEM.
 */
int img_replaced_list(const char *main, const struct img_driver *driver, struct img_value **out,
		      struct img_error *err);
/*
 * Remove a regular file that nobody has open and that is of driver's format by its content: an image can
 * name any file that lies beside it. Others stay.
 */
void img_replaced_remove(const char *path, const struct img_driver *driver);

#endif
