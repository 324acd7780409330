/*
 * Standard input as an image.
 */
#ifndef TOOLS_INPUT_H
#define TOOLS_INPUT_H

#include <stdbool.h>
#include <stdint.h>

struct img_input;

/* Is "-" named? */
bool input_is_named(const char *name);
/*
 * The path of the file or block device that standard input is, which can be opened like any other;
 * NULL: a pipe or the like. Valid until the next call.
 */
const char *input_path(void);
/* Begin to read standard input. format, size: NULL: not given. NULL: it cannot be; said. */
struct img_input *input_open(const char *format, const uint64_t *size);

#endif
