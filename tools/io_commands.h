/* io: its commands. */
#ifndef TOOLS_IO_COMMANDS_H
#define TOOLS_IO_COMMANDS_H

#include <stdbool.h>
#include <stdint.h>

#include "tools/io_session.h"
#include "tools/options.h"

enum {
	IO_NEEDS_NO_IMAGE = 1 << 0,
	IO_CHANGES_IMAGE = 1 << 1,
};
enum { IO_MANY = -1 };

struct io_command {
	struct command command;	  /* name, purpose, options (letters alone), operands, notes */
	const char *alias;	  /* NULL: none */
	int min_words, max_words; /* after the name, options too; IO_MANY: any number */
	unsigned flags;
	/* Returns the exit code, 0 or 1. argv[0] is the name that was used. */
	int (*run)(struct io_session *s, const struct io_command *c, int argc, char **argv);
};

/* In alphabetical order; NULL past the last. */
const struct io_command *io_command_at(unsigned i);
const struct io_command *io_command_find(const char *name); /* or alias; NULL: none */

/* "NAME WORDS -- PURPOSE" on standard output. Returns 1. */
int io_command_usage(const struct io_command *c);

/* A command's words: options by letter (NULL: not given, "": without an argument), operands. */
struct io_options {
	const char *given[128];
	char **operands; /* NULL past the last */
	int operand_count;
};
/* False: a wrong option, or one that cannot be honoured; reported. */
bool io_parse_options(const struct io_command *c, int argc, char **argv, struct io_options *o);

/* A size up to 2^63 - 1. False: it is none; reported. */
bool io_parse_size(const char *text, uint64_t *out);
/* A number as C writes it, at most max. what: "pattern byte". False: it is none; reported. */
bool io_parse_number(const char *text, uint64_t max, const char *what, uint64_t *out);

typedef int io_run_fn(struct io_session *s, const struct io_command *c, int argc, char **argv);
/* io_requests.c */
io_run_fn io_run_discard, io_run_flush, io_run_read, io_run_readv, io_run_verify, io_run_write,
	io_run_writev;
/* io_image.c */
io_run_fn io_run_alloc, io_run_close, io_run_info, io_run_length, io_run_map, io_run_open,
	io_run_truncate;

/* Called under the name qemu-io? Then an option of the same letter means what it means there. */
bool io_is_qemu_io(void);

/* Options of both `open` and the tool. False: not that; reported. */
bool io_parse_cache(const char *text, unsigned *flags);
bool io_parse_discard(const char *text, unsigned *flags);
bool io_parse_aio(const char *text, enum img_io_kind *io);
/* What an image is opened with if nothing else is said: each write lasts, discards go through. */
enum { IO_OPEN_DEFAULT = IMG_OPEN_WRITETHROUGH | IMG_OPEN_UNMAP };

#endif
