/* Sizes as people read them. */
#ifndef TOOLS_SIZE_H
#define TOOLS_SIZE_H

#include <stdint.h>

enum { SIZE_TEXT_BYTES = 32 };
/* "10 MiB", "3.27 GiB": three digits. text has room for SIZE_TEXT_BYTES; returned. */
char *size_format(uint64_t bytes, char *text);

#endif
