/*
 * An image whose guest bytes are taken for a file: an image inside another one's disk.
 */
#ifndef LIBIMG_IMAGE_IMAGE_STORAGE_H
#define LIBIMG_IMAGE_IMAGE_STORAGE_H

#include "libimg/storage/storage.h"

struct img;

/* img, which belongs to the storage from now on, also on failure. -ENOMEM. */
int img_image_storage(struct img *img, struct img_storage **out, struct img_error *err);

#endif
