/* io: commands about the program itself, and the table of all. */
#include "tools/io_commands.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/io_report.h"

/* ---- Waiting ---- */

static int run_aio_flush(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	(void)c, (void)argc, (void)argv;
	io_session_drain(s);
	return 0;
}

/* Requests in flight go on meanwhile. */
static int run_sleep(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct pollfd completions = { .fd = s->queue ? img_queue_fd(s->queue) : -1,
				      .events = POLLIN };
	double end, left;
	uint64_t ms;

	(void)c, (void)argc;
	if (!io_parse_number(argv[1], INT32_MAX, "number", &ms))
		return 1;
	end = io_clock() + (double)ms / 1000;
	while ((left = end - io_clock()) > 0) {
		if (s->queue)
			img_queue_run(s->queue, false);
		poll(&completions, 1, (int)(left * 1000) + 1);
	}
	return 0;
}

/* ---- The program itself ---- */

static int run_quit(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	(void)c, (void)argc, (void)argv;
	s->quit = true;
	return 0;
}

/* As in a crash: nothing is written out. */
static int run_abort(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	(void)s, (void)c, (void)argc, (void)argv;
	fflush(stdout);
	abort();
}

static int run_sigraise(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	uint64_t number;

	(void)s, (void)c, (void)argc;
	if (!io_parse_size(argv[1], &number))
		return 1;
	fflush(stdout);
	if (number > INT32_MAX || raise((int)number)) {
		printf("%s is not a valid signal\n", argv[1]);
		return 1;
	}
	return 0;
}

static int run_help(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	unsigned i;

	(void)s;
	if (argc > 1) {
		c = io_command_find(argv[1]);
		if (!c) {
			printf("command %s not found\n", argv[1]);
			return 1;
		}
		io_command_usage(c);
		if (!option_row_ends(c->command.options)) {
			putchar('\n');
			options_print_rows(c->command.options);
		}
		if (c->command.notes) {
			putchar('\n');
			options_print_wrapped(c->command.notes, 0, 0);
		}
		return 0;
	}
	for (i = 0; (c = io_command_at(i)); i++)
		io_command_usage(c);
	puts("\nUse 'help commandname' for extended help.");
	return 0;
}

/* ---- What options they have ---- */

#define ROW_QUIET \
	OPTION(.letter = 'q', .help = "print nothing but errors")
#define ROW_MACHINE \
	OPTION(.letter = 'C', \
	       .help = "print BYTES,1,TIME,BYTES PER SECOND,REQUESTS PER SECOND")
#define ROW_EXPECTED_PATTERN \
	OPTION(.letter = 'P', .metavar = "PATTERN", .value = VALUE_NUMBER, \
	       .help = "complain if not every byte that is read is PATTERN")
#define ROW_EXPECTED_SEED \
	OPTION(.letter = 'r', .metavar = "SEED", .value = VALUE_NUMBER, \
	       .help = "complain if it is not what `write -r SEED` writes there")
#define ROW_DUMP \
	OPTION(.letter = 'v', .help = "print what is read, in hex and as text")
#define ROW_PATTERN \
	OPTION(.letter = 'P', .metavar = "PATTERN", .value = VALUE_NUMBER, \
	       .help = "write this byte instead of 0xcd")
#define ROW_SEED \
	OPTION(.letter = 'r', .metavar = "SEED", .value = VALUE_NUMBER, \
	       .help = "write bytes made from SEED and their offset in the disk: `verify -r " \
		       "SEED` knows them (not under the name qemu-io, where -r means " \
		       "something else)")
#define ROW_DURABLE \
	OPTION(.letter = 'f', .help = "durably")
#define ROW_ZEROES \
	OPTION(.letter = 'z', \
	       .help = "write zeroes without storing them, where that is possible")
#define ROW_UNMAP \
	OPTION(.letter = 'u', \
	       .help = "with -z: the old content's room may be given back. It is, with -u " \
		       "or without, if discards are: see -d of `open`")
#define ROW_VM_STATE \
	OPTION(.letter = 'b', .flags = OPTION_REFUSED, \
	       .help = "the VM state is not accessible")
#define ROW_NO_MEANING \
	OPTION(.letter = 'p', .flags = OPTION_ALIAS, \
	       .help = "taken as by qemu-io, where it has no meaning")

static const struct option_row none[] = { { 0 } };
static const struct option_row discard_options[] = { ROW_MACHINE, ROW_QUIET, { 0 } };
static const struct option_row aio_read_options[] = {
	ROW_MACHINE,
	ROW_QUIET,
	ROW_DUMP,
	ROW_EXPECTED_PATTERN,
	ROW_EXPECTED_SEED,
	OPTION(.letter = 'i', .flags = OPTION_REFUSED,
	       .help = "no statistics of requests are kept"),
	{ 0 },
};
static const struct option_row aio_write_options[] = {
	ROW_MACHINE,
	ROW_DURABLE,
	ROW_QUIET,
	ROW_UNMAP,
	ROW_ZEROES,
	ROW_PATTERN,
	ROW_SEED,
	OPTION(.letter = 'i', .flags = OPTION_REFUSED,
	       .help = "no statistics of requests are kept"),
	{ 0 },
};
static const struct option_row open_options[] = {
	OPTION(.letter = 'n', .help = "the same as -t none"),
	OPTION(.letter = 'r', .help = "for reading only"),
	OPTION(.letter = 'U',
	       .help = "with -r: also if another program has it open for writing"),
	OPTION(.letter = 't', .metavar = "CACHE",
	       .help = "cache mode: writethrough (default), writeback, none, try-none, "
		       "directsync, unsafe"),
	OPTION(.letter = 'd', .metavar = "DISCARD",
	       .help = "discards: unmap (default) or ignore"),
	OPTION(.letter = 'i', .metavar = "AIO", .help = "io_uring or threads"),
	OPTION(.letter = 'o', .metavar = "OPTIONS",
	       .help = "KEY=VALUE,... as for --image-opts; with PATH too, it is file.filename"),
	OPTION(.letter = 's', .flags = OPTION_REFUSED,
	       .help = "make an overlay with `create -b` instead"),
	OPTION(.letter = 'C', .flags = OPTION_REFUSED, .help = "reading never writes"),
	OPTION(.letter = 'k', .flags = OPTION_REFUSED, .help = "use -i threads or -i io_uring"),
	{ 0 },
};
static const struct option_row read_options[] = {
	ROW_MACHINE,
	ROW_QUIET,
	ROW_DUMP,
	ROW_EXPECTED_PATTERN,
	ROW_EXPECTED_SEED,
	OPTION(.letter = 's', .metavar = "OFF", .value = VALUE_SIZE,
	       .help = "compare only from so many bytes behind OFF on"),
	OPTION(.letter = 'l', .metavar = "LEN", .value = VALUE_SIZE,
	       .help = "compare only so many bytes"),
	ROW_VM_STATE,
	ROW_NO_MEANING,
	{ 0 },
};
static const struct option_row readv_options[] = {
	ROW_MACHINE,
	ROW_QUIET,
	ROW_DUMP,
	ROW_EXPECTED_PATTERN,
	ROW_EXPECTED_SEED,
	{ 0 },
};
static const struct option_row truncate_options[] = {
	OPTION(.letter = 'm', .metavar = "PREALLOC",
	       .help = "off (default), metadata, falloc or full"),
	{ 0 },
};
static const struct option_row verify_options[] = {
	ROW_MACHINE,
	ROW_QUIET,
	OPTION(.letter = 'P', .metavar = "PATTERN", .help = "every byte is PATTERN"),
	OPTION(.letter = 'r', .metavar = "SEED",
	       .help = "it is what `write -r SEED` writes there"),
	OPTION(.letter = 'f', .metavar = "FILE",
	       .help = "it is the file's content, over and over if the file is shorter"),
	{ 0 },
};
static const struct option_row write_options[] = {
	OPTION(.letter = 'c', .help = "store compressed: whole units"),
	ROW_MACHINE,
	ROW_DURABLE,
	OPTION(.letter = 'n', .help = "with -z: it is a failure if zeroes had to be stored"),
	ROW_QUIET,
	ROW_UNMAP,
	ROW_ZEROES,
	ROW_PATTERN,
	ROW_SEED,
	OPTION(.letter = 's', .metavar = "FILE",
	       .help = "write the file's content, over and over if the file is shorter"),
	ROW_VM_STATE,
	ROW_NO_MEANING,
	{ 0 },
};
static const struct option_row writev_options[] = {
	ROW_MACHINE,
	ROW_DURABLE,
	ROW_QUIET,
	ROW_PATTERN,
	ROW_SEED,
	{ 0 },
};

static const struct operand_row range_operands[] = {
	{ .metavar = "OFF" },
	{ .metavar = "LEN" },
	{ 0 },
};
static const struct operand_row ranges_operands[] = {
	{ .metavar = "OFF" },
	{ .metavar = "LEN", .many = true },
	{ 0 },
};
static const struct operand_row alloc_operands[] = {
	{ .metavar = "OFF" },
	{ .metavar = "COUNT", .optional = true },
	{ 0 },
};
static const struct operand_row help_operands[] = {
	{ .metavar = "COMMAND", .optional = true },
	{ 0 },
};
static const struct operand_row open_operands[] = { { .metavar = "PATH", .optional = true }, { 0 } };
static const struct operand_row sigraise_operands[] = { { .metavar = "SIGNAL" }, { 0 } };
static const struct operand_row sleep_operands[] = { { .metavar = "MS" }, { 0 } };
static const struct operand_row truncate_operands[] = { { .metavar = "SIZE" }, { 0 } };

/* ---- All of them ---- */

#define LATER \
	"The command does not wait: its report, and what goes wrong, come with a later command, at " \
	"the latest with `aio_flush`, and do not count for the exit code."
#define PARTS "With several lengths each has a buffer of its own."

#define COMMAND(its_name, its_alias, min, max, its_flags, its_run, ...) \
	{ \
		.command = { .name = (its_name), __VA_ARGS__ }, .alias = (its_alias), \
		.min_words = (min), .max_words = (max), .flags = (its_flags), .run = (its_run) \
	}

static const struct io_command commands[] = {
	COMMAND("abort", NULL, 0, 0, IO_NEEDS_NO_IMAGE, run_abort,
		.purpose = "die as in a crash", .options = none),
	COMMAND("aio_discard", NULL, 2, IO_MANY, IO_CHANGES_IMAGE, io_run_discard,
		.purpose = "begin to discard a range", .options = discard_options,
		.operands = range_operands, .notes = LATER),
	COMMAND("aio_flush", NULL, 0, 0, 0, run_aio_flush,
		.purpose = "wait for everything that aio_read and its like have begun",
		.options = none),
	COMMAND("aio_read", NULL, 2, IO_MANY, 0, io_run_readv,
		.purpose = "begin to read a range", .options = aio_read_options,
		.operands = ranges_operands, .notes = LATER " " PARTS),
	COMMAND("aio_write", NULL, 2, IO_MANY, IO_CHANGES_IMAGE, io_run_writev,
		.purpose = "begin to write a range", .options = aio_write_options,
		.operands = ranges_operands, .notes = LATER " " PARTS),
	COMMAND("alloc", "a", 1, 2, 0, io_run_alloc,
		.purpose = "print how much of a range the image itself holds, not its backing "
			   "images",
		.options = none, .operands = alloc_operands),
	COMMAND("close", "c", 0, 0, 0, io_run_close, .purpose = "close the image",
		.options = none),
	COMMAND("discard", "d", 2, IO_MANY, IO_CHANGES_IMAGE, io_run_discard,
		.purpose = "give a range's room back, where possible: it need not keep its "
			   "content",
		.options = discard_options, .operands = range_operands),
	COMMAND("flush", "f", 0, 0, 0, io_run_flush,
		.purpose = "make all that was written durable", .options = none),
	COMMAND("help", "?", 0, 1, IO_NEEDS_NO_IMAGE, run_help,
		.purpose = "help for one or all commands", .options = none,
		.operands = help_operands),
	COMMAND("info", "i", 0, 0, 0, io_run_info, .purpose = "print what kind of image it is",
		.options = none),
	COMMAND("length", "l", 0, 0, 0, io_run_length, .purpose = "print the size of the disk",
		.options = none),
	COMMAND("map", NULL, 0, 0, 0, io_run_map,
		.purpose = "print which ranges the image itself holds, not its backing images",
		.options = none),
	COMMAND("open", "o", 1, IO_MANY, IO_NEEDS_NO_IMAGE, io_run_open,
		.purpose = "open an image", .options = open_options, .operands = open_operands),
	COMMAND("quit", "q", 0, IO_MANY, IO_NEEDS_NO_IMAGE, run_quit,
		.purpose = "exit the program", .options = none),
	COMMAND("read", "r", 2, IO_MANY, 0, io_run_read, .purpose = "read a range",
		.options = read_options, .operands = range_operands),
	COMMAND("readv", NULL, 2, IO_MANY, 0, io_run_readv,
		.purpose = "read a range into several buffers", .options = readv_options,
		.operands = ranges_operands, .notes = PARTS),
	COMMAND("sigraise", NULL, 1, 1, IO_NEEDS_NO_IMAGE, run_sigraise,
		.purpose = "send the program itself a signal, by number", .options = none,
		.operands = sigraise_operands),
	COMMAND("sleep", NULL, 1, 1, IO_NEEDS_NO_IMAGE, run_sleep,
		.purpose = "wait for so many milliseconds", .options = none,
		.operands = sleep_operands),
	COMMAND("truncate", "t", 1, 3, IO_CHANGES_IMAGE, io_run_truncate,
		.purpose = "make the disk larger or smaller", .options = truncate_options,
		.operands = truncate_operands),
	COMMAND("verify", NULL, 2, IO_MANY, 0, io_run_verify,
		.purpose = "read a range and print where it is not what it should be",
		.options = verify_options, .operands = range_operands,
		.notes = "One of -P, -r and -f is needed."),
	COMMAND("write", "w", 2, IO_MANY, IO_CHANGES_IMAGE, io_run_write,
		.purpose = "write a range", .options = write_options,
		.operands = range_operands),
	COMMAND("writev", NULL, 2, IO_MANY, IO_CHANGES_IMAGE, io_run_writev,
		.purpose = "write a range from several buffers", .options = writev_options,
		.operands = ranges_operands, .notes = PARTS),
};

const struct io_command *io_command_at(unsigned i)
{
	return i < sizeof(commands) / sizeof(commands[0]) ? &commands[i] : NULL;
}

const struct io_command *io_command_find(const char *name)
{
	const struct io_command *c;
	unsigned i;

	for (i = 0; (c = io_command_at(i)); i++)
		if (!strcmp(name, c->command.name) || (c->alias && !strcmp(name, c->alias)))
			return c;
	return NULL;
}
