/*
 * UTF-16 text in files, little-endian and without a NUL at its end, to UTF-8 and back.
 */
#ifndef LIBIMG_BASE_UTF16_H
#define LIBIMG_BASE_UTF16_H

#include <stddef.h>
#include <stdint.h>

/*
 * *out: malloc'd, with a NUL. -EILSEQ: an odd number of bytes, half a surrogate pair, or a NUL inside;
 * -ENOMEM.
 */
int img_utf16_to_utf8(const uint8_t *text, size_t bytes, char **out);
/* *out: malloc'd, *bytes long, without a NUL. -EILSEQ: not UTF-8; -ENOMEM. */
int img_utf8_to_utf16(const char *text, uint8_t **out, size_t *bytes);

#endif
