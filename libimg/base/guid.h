/*
 * GUIDs as Microsoft's formats store them: 16 bytes, the first three groups of the text little-endian.
 */
#ifndef LIBIMG_BASE_GUID_H
#define LIBIMG_BASE_GUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct img_error;

enum {
	IMG_GUID_BYTES = 16,
	IMG_GUID_CHARS = 36, /* of the text, without braces and NUL */
};

/* "2dc27766-f623-4200-9d64-115e9bfd4a08": lower case, without braces. */
void img_guid_print(const uint8_t guid[IMG_GUID_BYTES], char out[IMG_GUID_CHARS + 1]);
/* The len characters of text, in either case, with braces or without. False: not a GUID. */
bool img_guid_parse(const char *text, size_t len, uint8_t out[IMG_GUID_BYTES]);
/* A new one (version 4), random or derived: see img_identity_bytes(). */
int img_guid_new(const uint64_t identity[2], const char *label, uint8_t out[IMG_GUID_BYTES],
		 struct img_error *err);
bool img_guid_is_zero(const uint8_t guid[IMG_GUID_BYTES]);
bool img_guid_equal(const uint8_t a[IMG_GUID_BYTES], const uint8_t b[IMG_GUID_BYTES]);

#endif
