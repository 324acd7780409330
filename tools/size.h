/* Sizes as people write and read them. */
#ifndef TOOLS_SIZE_H
#define TOOLS_SIZE_H

#include <stdint.h>

/*
 * Read a size in bytes: decimal, perhaps with a fraction (rounded to a byte), or 0x hex; a decimal
 * may be followed by one of b k K M G T P E (powers of 1024). Blanks before it and a plus sign are
 * taken. -EINVAL: not a size, or a fraction of a byte; -ERANGE: negative, or 2^64 and above.
 */
int size_parse(const char *text, uint64_t *out);

enum { SIZE_TEXT_BYTES = 32 };
/* "10 MiB", "3.27 GiB": three digits. text has room for SIZE_TEXT_BYTES; returned. */
char *size_format(uint64_t bytes, char *text);

#endif
