/*
 * "Did you mean ...?": which of the known names was mistyped. Only imgtool under its own name says
 * so: programs that call it as another read what it prints.
 */
#ifndef TOOLS_SUGGEST_H
#define TOOLS_SUGGEST_H

#include <stddef.h>

struct suggestion {
	const char *given, *best; /* borrowed; best NULL: nothing is near enough */
	size_t len;		  /* of given */
	size_t distance;	  /* of best */
};

void suggest_begin(struct suggestion *s, const char *given, size_t len);
/* One of the known names. */
void suggest_offer(struct suggestion *s, const char *name);
/* Say it on a line of its own on standard error, if there is one; prefix: "--". */
void suggest_print(const struct suggestion *s, const char *prefix);

/* All of it for the name of a format, if it is not one. */
void suggest_format(const char *given);

#endif
