/* Text for terminals. */
#ifndef LIBIMG_BASE_PRINTABLE_H
#define LIBIMG_BASE_PRINTABLE_H

/*
 * A copy of text, malloc'd, that stays on its line and moves no cursor: control characters (line
 * breaks too), characters that hide or reorder others, and bytes that are not UTF-8 are \xNN. NULL:
 * out of memory.
 */
char *img_printable(const char *text);

#endif
