/*
 * Options of creation (-o).
 */
#ifndef TOOLS_CREATION_H
#define TOOLS_CREATION_H

#include <stdbool.h>

#include "tools/args.h"

/* Zero-initialise. */
struct creation {
	struct args_list given; /* the lists, borrowed; the library takes them as they are */
	/* What creation_resolve() made of them. */
	struct args_list rest; /* all but the following; owns its strings */
	char *size;	       /* size=; NULL: not given */
	char *backing_name;    /* backing_file= */
	char *backing_format;  /* backing_fmt= */
};

/* One more list. False: it is none; reported. */
bool creation_add(struct creation *c, const char *text);
/* Is "help" or "?" among the options? Then the others do not matter. */
bool creation_wants_help(const struct creation *c);
/*
 * Take apart the lists, for a format that can be created: whoever copies an image has a size, and
 * must know about a backing file. False: an option that the format does not have, or a size that is
 * none; reported.
 */
bool creation_resolve(struct creation *c, const char *format);
/* Can images of the format be made? False: reported, beginning with subject if that is not NULL. */
bool creation_possible(const char *format, const char *subject);
/* Print what can be given. Returns the exit code. */
int creation_print_help(const char *format);
/* The same of what `amend` takes. */
int creation_print_amend_help(const char *format);
/* After an image could not be made: was an option's name mistyped? Then say which may be meant. */
void creation_suggest(const struct creation *c, const char *format);
void creation_free(struct creation *c);

#endif
