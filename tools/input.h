/*
 * Standard input, or a pipe that has a name, as an image.
 */
#ifndef TOOLS_INPUT_H
#define TOOLS_INPUT_H

#include <stdbool.h>
#include <stdint.h>

struct img_source_image;

/* Is it "-"? */
bool input_is_stdin(const char *name);
/* Can it be read only once? A pipe or the like, by its name (/dev/stdin, a FIFO) or as "-". */
bool input_is_pipe(const char *name);
/*
 * The path of the file or block device that standard input is, which can be opened like any other;
 * NULL: a pipe or the like. Valid until the next call.
 */
const char *input_path(void);
/*
 * Begin to read a pipe; of one that has a name this waits for who writes to it. format, size: NULL:
 * not given. NULL: it cannot be; reported.
 */
struct img_source_image *input_open(const char *name, const char *format, const uint64_t *size);
void input_close(struct img_source_image *in); /* NULL is fine */

#endif
