/*
 * Inside storage/: what of a request a storage takes at once.
 */
#ifndef LIBIMG_STORAGE_STORAGE_EXTENT_H
#define LIBIMG_STORAGE_STORAGE_EXTENT_H

#include "libimg/storage/storage.h"

/* Of a request for [off, off + len), what goes to s first, in bytes; len: all of it. */
uint64_t img_storage_first_part(const struct img_storage *s, enum img_io_op op, uint64_t off,
				uint64_t len);

#endif
