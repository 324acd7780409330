/*
 * What programs may hand over: what is not known here is refused, so that it can mean something
 * later. 0 or -EINVAL with a sentence.
 */
#ifndef LIBIMG_IMAGE_ARGUMENTS_H
#define LIBIMG_IMAGE_ARGUMENTS_H

#include "libimg/image/context.h" /* and with it img.h, in the order that works */

/* path: for the sentence; NULL: not known. */
int img_check_open_options(const char *path, const struct img_open_options *o,
			   struct img_error *err);
int img_check_create_options(const char *path, const struct img_create_options *o,
			     struct img_error *err);
int img_check_copy_options(const struct img_copy_options *o, struct img_error *err);
int img_check_compare_options(const struct img_compare_options *o, struct img_error *err);
int img_check_reserved(const char *what, const uint64_t *reserved, size_t n, struct img_error *err);
int img_check_io_kind(enum img_io_kind io, struct img_error *err);

#endif
