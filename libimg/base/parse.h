/*
 * Text that people write: lists of KEY=VALUE, sizes, numbers, switches. One reader of each, so that
 * the same text means the same wherever it is given; those that programs need are in img.h.
 */
#ifndef LIBIMG_BASE_PARSE_H
#define LIBIMG_BASE_PARSE_H

#include "libimg/img.h"

/* Of 0-9, a-f and A-F; -1: none of these. */
int img_hex_digit(char c);

/* "on", "yes", "true", "y" / "off", "no", "false", "n". -EINVAL. */
int img_parse_bool(const char *text, bool *out);

#endif
