/*
 * What is installed beside imgtool, made from the tables of its commands while it is built: manual
 * pages, and what shells need to complete its command lines. Each function writes one file.
 */
#ifndef TOOLS_DOCS_DOCS_H
#define TOOLS_DOCS_DOCS_H

#include <stdio.h>

#include "tools/command.h"

void man_program(FILE *out);
void man_command(FILE *out, const struct command *c);
void bash_completion(FILE *out);
void zsh_completion(FILE *out);
void fish_completion(FILE *out);

/* ---- What they have in common ---- */

/* Words that the value may be, with blanks between; "": not known. */
void docs_put_words(FILE *out, enum value_kind value, const char *choices);
bool docs_has_words(enum value_kind value, const char *choices);

/* text within single quotes of a POSIX shell; each of special gets a backslash in front. */
void docs_put_quoted(FILE *out, const char *text, const char *special);

#endif
