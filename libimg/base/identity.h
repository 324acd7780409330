/*
 * Identifiers that an image is given when it is made (content IDs, UUIDs): random, or derived, so
 * that the same disk made twice is the same bytes.
 */
#ifndef LIBIMG_BASE_IDENTITY_H
#define LIBIMG_BASE_IDENTITY_H

#include <stddef.h>
#include <stdint.h>

struct img_error;

enum { IMG_IDENTITY_BYTES_MAX = 32 };

/*
 * len (up to IMG_IDENTITY_BYTES_MAX) bytes for the identifier that label names. identity 0, 0:
 * random ones; else always the same ones for the same identity and label. -EIO, -ENOMEM.
 */
int img_identity_bytes(const uint64_t identity[2], const char *label, void *out, size_t len,
		       struct img_error *err);

#endif
