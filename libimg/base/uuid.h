/*
 * UUIDs (GUIDs) as images carry them. Formats differ in the order of their bytes; here it is the order in which
 * they are printed (RFC 4122), and drivers turn theirs into that.
 */
#ifndef LIBIMG_BASE_UUID_H
#define LIBIMG_BASE_UUID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct img_uuid {
	uint8_t bytes[16];
};

enum { IMG_UUID_CHARS = 36 };

/* "8e4226f2-c992-4b55-98c7-3e3425496d36", in any case; text has len bytes and need not end there. */
bool img_uuid_parse(const char *text, size_t len, struct img_uuid *out);
void img_uuid_print(const struct img_uuid *uuid, char out[IMG_UUID_CHARS + 1]);
bool img_uuid_same(const struct img_uuid *a, const struct img_uuid *b);

#endif
