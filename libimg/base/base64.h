/* Base64 (RFC 4648, section 4), as descriptions and property lists have it. */
#ifndef LIBIMG_BASE_BASE64_H
#define LIBIMG_BASE_BASE64_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Decode *len characters in place; *len: the bytes that they stand for. White space between them is left out; what is
 * missing to a multiple of four may be padded with "=", or not. False: it is no base64, and bytes are lost.
 */
bool img_base64_decode(uint8_t *bytes, size_t *len);

#endif
