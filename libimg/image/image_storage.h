/*
 * An image whose guest bytes are taken for a file: an image inside another one's disk.
 */
#ifndef LIBIMG_IMAGE_IMAGE_STORAGE_H
#define LIBIMG_IMAGE_IMAGE_STORAGE_H

#include "libimg/image/node.h"
#include "libimg/storage/storage.h"

struct img_secrets;

/* Open the image that node describes as a storage. flags: IMG_STORAGE_*. Errors as img_open_node(). */
int img_image_storage(const struct img_node *node, unsigned flags,
		      const struct img_secrets *secrets, struct img_storage **out,
		      struct img_error *err);

#endif
