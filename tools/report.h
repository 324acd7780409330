/*
 * What the tool reports: everything on standard error begins with the program's name. Callers written
 * for qemu-img read these lines, so under that name they are worded as there.
 */
#ifndef TOOLS_REPORT_H
#define TOOLS_REPORT_H

#include <stdbool.h>

struct img_error;

/* The name that messages begin with; borrowed for good. */
void set_program_name(const char *name);
const char *program_name(void);

bool is_imgtool(void); /* not under another program's name */

/* "PROGRAM: sentence\n" on standard error, made printable: it stays one line. */
void report_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* "PROGRAM: warning: sentence\n" on standard error. */
void report_warning(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * "PROGRAM: subject: the error", further lines below it. What the subject has already, the image's
 * name above all, is not repeated.
 */
void report_failure(const struct img_error *err, const char *subject, ...)
	__attribute__((format(printf, 2, 3)));

/* A further line below such a sentence. */
void report_detail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * The same for a command line that makes no sense, followed by a pointer to --help. command NULL:
 * the program's own help. Returns 1, the exit code for that.
 */
int report_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* "PROGRAM COMMAND: option 'option' is not supported: why"; command NULL: none. Returns 1. */
int report_refusal(const char *command, const char *option, const char *why);

/* A name or a text from an image, made printable, on standard output. */
void print_escaped(const char *text);

/* After getopt_long() complained by itself. Returns 1. */
int report_try_help(const char *command);

/* Print the version of the program that we were called as. Returns 0. */
int print_version(void);

#endif
