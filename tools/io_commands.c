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
		if (c->more)
			printf("\n%s", c->more);
		return 0;
	}
	for (i = 0; (c = io_command_at(i)); i++)
		io_command_usage(c);
	puts("\nUse 'help commandname' for extended help.");
	return 0;
}

/* ---- All of them ---- */

#define REPORTS \
	" -q  print nothing but errors\n" \
	" -C  print BYTES,1,TIME,BYTES PER SECOND,REQUESTS PER SECOND\n"
#define EXPECTS \
	" -P  complain if not every byte that is read is PATTERN\n" \
	" -r  complain if it is not what `write -r SEED` writes there\n" \
	" -v  print what is read, in hex and as text\n"
#define CONTENTS \
	" -P  write this byte instead of 0xcd\n" \
	" -r  write bytes made from SEED and their offset in the disk: `verify -r SEED` knows them (not\n" \
	"     under the name qemu-io, where -r means something else)\n"
#define LATER \
	" The command does not wait: its report, and what goes wrong, come with a later command, at\n" \
	" the latest with `aio_flush`, and do not count for the exit code.\n"
#define PARTS " With several lengths each has a buffer of its own.\n"
#define ZEROES " -z  write zeroes without storing them, where that is possible\n" \
	       " -u  with -z: the old content's room may be given back. It is, with -u or without,\n" \
	       "     if discards are: see -d of `open`\n"

static const struct io_command commands[] = {
	{ "abort", NULL, 0, 0, IO_NEEDS_NO_IMAGE, run_abort, "", "", "die as in a crash", NULL },
	{ "aio_discard", NULL, 2, IO_MANY, IO_CHANGES_IMAGE, io_run_discard, "Cq", "[-Cq] off len",
	  "begin to discard a range", LATER REPORTS },
	{ "aio_flush", NULL, 0, 0, 0, run_aio_flush, "", "",
	  "wait for everything that aio_read and its like have begun", NULL },
	{ "aio_read", NULL, 2, IO_MANY, 0, io_run_readv, "CiP:qr:v",
	  "[-Cqv] [-P pattern | -r seed] off len [len..]", "begin to read a range",
	  LATER PARTS EXPECTS REPORTS },
	{ "aio_write", NULL, 2, IO_MANY, IO_CHANGES_IMAGE, io_run_writev, "CfiP:qr:uz",
	  "[-Cfquz] [-P pattern | -r seed] off len [len..]", "begin to write a range",
	  LATER PARTS CONTENTS ZEROES " -f  durably\n" REPORTS },
	{ "alloc", "a", 1, 2, 0, io_run_alloc, "", "offset [count]",
	  "tell how much of a range the image itself holds, not its backing images", NULL },
	{ "close", "c", 0, 0, 0, io_run_close, "", "", "close the image", NULL },
	{ "discard", "d", 2, IO_MANY, IO_CHANGES_IMAGE, io_run_discard, "Cq", "[-Cq] off len",
	  "give a range's room back, where possible: it need not keep its content", REPORTS },
	{ "flush", "f", 0, 0, 0, io_run_flush, "", "", "make all that was written durable", NULL },
	{ "help", "?", 0, 1, IO_NEEDS_NO_IMAGE, run_help, "", "[command]",
	  "help for one or all commands", NULL },
	{ "info", "i", 0, 0, 0, io_run_info, "", "", "print what kind of image it is", NULL },
	{ "length", "l", 0, 0, 0, io_run_length, "", "", "print the size of the disk", NULL },
	{ "map", NULL, 0, 0, 0, io_run_map, "", "",
	  "print which ranges the image itself holds, not its backing images", NULL },
	{ "open", "o", 1, IO_MANY, IO_NEEDS_NO_IMAGE, io_run_open, "CUd:i:kno:rst:",
	  "[-nrU] [-t cache] [-d discard] [-i aio] [-o options] [path]", "open an image",
	  " -r  for reading only\n"
	  " -U  with -r: also if another program has it open for writing\n"
	  " -t  cache mode: writethrough (default), writeback, none, directsync, unsafe\n"
	  " -n  the same as -t none\n"
	  " -d  discards: unmap (default) or ignore\n"
	  " -i  io_uring or threads\n"
	  " -o  KEY=VALUE,... as for --image-opts; with path too, it is file.filename\n" },
	{ "quit", "q", 0, IO_MANY, IO_NEEDS_NO_IMAGE, run_quit, "", "", "exit the program", NULL },
	{ "read", "r", 2, IO_MANY, 0, io_run_read, "bCl:pP:qr:s:v",
	  "[-Cqv] [-P pattern | -r seed] [-s off] [-l len] off len", "read a range",
	  EXPECTS " -s  compare only from so many bytes behind off on\n"
		  " -l  compare only so many bytes\n" REPORTS },
	{ "readv", NULL, 2, IO_MANY, 0, io_run_readv, "CP:qr:v",
	  "[-Cqv] [-P pattern | -r seed] off len [len..]",
	  "read a range into several buffers", PARTS EXPECTS REPORTS },
	{ "sigraise", NULL, 1, 1, IO_NEEDS_NO_IMAGE, run_sigraise, "", "signal",
	  "send the program itself a signal, by number", NULL },
	{ "sleep", NULL, 1, 1, IO_NEEDS_NO_IMAGE, run_sleep, "", "ms",
	  "wait for so many milliseconds", NULL },
	{ "truncate", "t", 1, 3, IO_CHANGES_IMAGE, io_run_truncate, "m:", "[-m prealloc] size",
	  "make the disk larger or smaller", " -m  off (default), metadata, falloc or full\n" },
	{ "verify", NULL, 2, IO_MANY, 0, io_run_verify, "CP:qr:f:",
	  "[-Cq] {-P pattern | -r seed | -f file} off len",
	  "read a range and tell where it is not what it should be",
	  " -P  every byte is PATTERN\n"
	  " -r  it is what `write -r SEED` writes there\n"
	  " -f  it is the file's content, over and over if the file is shorter\n" REPORTS },
	{ "write", "w", 2, IO_MANY, IO_CHANGES_IMAGE, io_run_write, "bcCfnpP:qr:s:uz",
	  "[-cCfnquz] [-P pattern | -r seed | -s file] off len", "write a range",
	  CONTENTS
	  " -s  write the file's content, over and over if the file is shorter\n"
	  " -c  store compressed: whole units\n"
	  " -f  durably\n" ZEROES
	  " -n  with -z: it is a failure if zeroes had to be stored\n" REPORTS },
	{ "writev", NULL, 2, IO_MANY, IO_CHANGES_IMAGE, io_run_writev, "CfP:qr:",
	  "[-Cfq] [-P pattern | -r seed] off len [len..]",
	  "write a range from several buffers", PARTS CONTENTS " -f  durably\n" REPORTS },
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
		if (!strcmp(name, c->name) || (c->alias && !strcmp(name, c->alias)))
			return c;
	return NULL;
}
