/*
 * io: the commands. What they print on standard output, down to the words of what is wrong, is what
 * scripts written for qemu-io look for.
 */
#include "tools/io_commands.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/io_report.h"
#include "tools/say.h"
#include "tools/size.h"

enum {
	DEFAULT_BYTE = 0xcd, /* what is written if nothing else is said */
};

/* ---- Words ---- */

bool io_is_qemu_io(void)
{
	return !strcmp(say_program(), "qemu-io");
}

int io_refuse(const char *option, const char *why)
{
	say_error("option '%s' is not supported: %s", option, why);
	return 1;
}

int io_command_usage(const struct io_command *c)
{
	printf("%s%s%s -- %s\n", c->name, *c->words ? " " : "", c->words, c->purpose);
	return 1;
}

/* Options of qemu-io's that cannot be honoured. */
static bool is_refused(const struct io_command *c, int letter)
{
	static const struct {
		char letter;
		const char *why;
	} refusals[] = {
		{ 'b', "the VM state is not accessible" },
		{ 'i', "no statistics of requests are kept" },
	};
	char option[] = { '-', (char)letter, '\0' };
	size_t i;

	for (i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		if (refusals[i].letter == letter && c->run != io_run_open) {
			io_refuse(option, refusals[i].why);
			return true;
		}
	}
	if (letter == 'r' && io_is_qemu_io() && c->run != io_run_open) {
		io_refuse(option, "buffers are not registered; as `imgtool io` it takes a seed");
		return true;
	}
	return false;
}

bool io_take_options(const struct io_command *c, int argc, char **argv, struct io_options *o)
{
	int letter;

	*o = (struct io_options){ 0 };
	optind = 0; /* begin anew, for another command line */
	while ((letter = getopt(argc, argv, c->letters)) != -1) {
		if (letter == '?') {
			io_command_usage(c);
			return false;
		}
		if (is_refused(c, letter))
			return false;
		o->given[letter & 127] = optarg ? optarg : "";
	}
	return true;
}

bool io_take_size(const char *text, uint64_t *out)
{
	int rc = text[strspn(text, " \t")] == '-' ? -EINVAL : size_parse(text, out);

	if (rc == -EINVAL)
		printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n",
		       text);
	else if (rc || *out > INT64_MAX) {
		printf("Parsing error: argument too large -- %s\n", text);
		rc = -ERANGE;
	}
	return !rc;
}

/* A number as C writes it, at most max. */
static bool take_number(const char *text, uint64_t max, const char *what, uint64_t *out)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (!*text || *end || errno || strchr(text, '-') || value > max) {
		printf("%s is not a valid %s\n", text, what);
		return false;
	}
	*out = value;
	return true;
}

/* ---- What requests have in common ---- */

/*
 * -P BYTE, -r SEED and path (NULL: none), of which at most one may be given. False: it is not that,
 * or does not exist; said.
 */
static bool take_content(const struct io_options *o, const char *path, struct io_content *content)
{
	uint64_t byte = DEFAULT_BYTE;

	if (path)
		return io_content_open_file(content, path);
	if (o->given['r']) {
		content->kind = IO_CONTENT_RANDOM;
		return take_number(o->given['r'], UINT64_MAX, "seed", &content->seed);
	}
	if (o->given['P'] && !take_number(o->given['P'], UINT8_MAX, "pattern byte", &byte))
		return false;
	content->byte = (uint8_t)byte;
	return true;
}

/* What remains of the words: an offset and one length, or more if many. False: said. */
static bool take_range(const struct io_command *c, int argc, char **argv, bool many,
		       struct io_request *r)
{
	int i, lengths = argc - optind - 1;

	if (lengths < 1 || (lengths > 1 && !many)) {
		io_command_usage(c);
		return false;
	}
	if (!io_take_size(argv[optind], &r->off))
		return false;
	if (lengths == 1)
		return io_take_size(argv[optind + 1], &r->len);
	r->parts = calloc((size_t)lengths, sizeof(*r->parts));
	if (!r->parts) {
		say_error("out of memory");
		return false;
	}
	r->part_count = (size_t)lengths;
	for (i = 0; i < lengths; i++) {
		if (!io_take_size(argv[optind + 1 + i], &r->parts[i]))
			return false;
		/* Each is below 2^63, and so was the sum: it cannot wrap around before this. */
		r->len += r->parts[i];
		if (r->len > INT64_MAX) {
			printf("The total number of bytes exceed the maximum size %" PRId64 "\n",
			       INT64_MAX);
			return false;
		}
	}
	return true;
}

static void set_report(struct io_request *r, const struct io_options *o, const char *subject,
		       const char *verb)
{
	r->subject = subject;
	r->verb = verb;
	r->quiet = o->given['q'];
	r->machine = o->given['C'];
}

/* To the end, or on its way. ready: it was set; else it is freed. Returns the exit code. */
static int send_request(struct io_request *r, bool ready, bool alone)
{
	if (!ready) {
		io_request_free(r);
		return 1;
	}
	return alone ? io_request_start(r) : io_request_run(r);
}

/* ---- Reading ---- */

/* -s and -l: which part of what was read is compared. False: said. */
static bool take_compared_part(const struct io_command *c, const struct io_options *o,
			       struct io_request *r)
{
	const char *start = o->given['s'], *length = o->given['l'];

	r->compare_len = r->len;
	if (!r->compare && (start || length)) {
		io_command_usage(c);
		return false;
	}
	if (start && !io_take_size(start, &r->compare_off))
		return false;
	if (length && !io_take_size(length, &r->compare_len))
		return false;
	if (r->compare_off > r->len || (length && r->compare_len > r->len - r->compare_off)) {
		puts("pattern verification range exceeds end of read data");
		return false;
	}
	if (!length)
		r->compare_len = r->len - r->compare_off;
	return true;
}

static bool set_read(struct io_request *r, const struct io_command *c, const struct io_options *o,
		     int argc, char **argv, bool many)
{
	if (o->given['P'] && o->given['r']) {
		puts("Only one of -P and -r can be specified at the same time");
		return false;
	}
	r->compare = o->given['P'] || o->given['r'];
	r->dump = o->given['v'];
	return take_content(o, NULL, &r->content) && take_range(c, argc, argv, many, r) &&
	       take_compared_part(c, o, r);
}

static int run_read(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct io_request *r;
	struct io_options o;

	if (!io_take_options(c, argc, argv, &o))
		return 1;
	r = io_request_new(s, IO_READ);
	if (!r)
		return 1;
	set_report(r, &o, c->name, "read");
	return send_request(r, set_read(r, c, &o, argc, argv, false), false);
}

/* Several lengths, each with a buffer of its own. */
static int run_readv(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	bool alone = !strcmp(c->name, "aio_read");
	struct io_request *r;
	struct io_options o;

	if (!io_take_options(c, argc, argv, &o))
		return 1;
	r = io_request_new(s, IO_READ);
	if (!r)
		return 1;
	set_report(r, &o, "readv", "read");
	return send_request(r, set_read(r, c, &o, argc, argv, true), alone);
}

static int run_verify(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct io_request *r;
	struct io_options o;
	bool ready;

	if (!io_take_options(c, argc, argv, &o))
		return 1;
	if (!!o.given['P'] + !!o.given['r'] + !!o.given['f'] != 1) {
		puts("One of -P, -r and -f must be specified");
		return 1;
	}
	r = io_request_new(s, IO_READ);
	if (!r)
		return 1;
	set_report(r, &o, c->name, "verified");
	r->compare = r->explain = true;
	ready = take_content(&o, o.given['f'], &r->content) && take_range(c, argc, argv, false, r);
	r->compare_len = r->len;
	return send_request(r, ready, false);
}

/* ---- Writing ---- */

/* Options that do not go together. False: said. */
static bool suit_write(const struct io_options *o)
{
	const char *const *given = o->given;
	const char *why = NULL;

	if (!!given['z'] + !!given['P'] + !!given['s'] > 1)
		why = "Only one of -z, -P, and -s can be specified at the same time";
	else if (given['r'] && (given['z'] || given['P'] || given['s']))
		why = "-r and -z, -P or -s cannot be specified at the same time";
	else if (given['f'] && given['c'])
		why = "-f and -b or -c cannot be specified at the same time";
	else if (given['c'] && given['z'])
		why = "-c and -z cannot be specified at the same time";
	else if (given['u'] && !given['z'])
		why = "-u requires -z to be specified";
	else if (given['n'] && !given['z'])
		why = "-n requires -z to be specified";
	if (why)
		puts(why);
	return !why;
}

static bool set_write(struct io_request *r, const struct io_options *o)
{
	const char *const *given = o->given;

	if (given['z'])
		r->kind = IO_ZERO;
	r->durable = given['f'];
	r->compress = given['c'];
	r->no_fallback = given['n'];
	return suit_write(o) && take_content(o, given['s'], &r->content);
}

/* What is no whole unit fails later, in words that depend on whether it is whole sectors. */
static bool is_compressible(const struct io_request *r)
{
	bool off = r->off % 512, len = r->len % 512;

	if (!r->compress || (!off && !len))
		return true;
	printf("%" PRIu64 " is not a sector-aligned value for '%s'\n", off ? r->off : r->len,
	       off ? "offset" : "count");
	return false;
}

static int run_write(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct io_request *r;
	struct io_options o;

	if (!io_take_options(c, argc, argv, &o))
		return 1;
	r = io_request_new(s, IO_WRITE);
	if (!r)
		return 1;
	set_report(r, &o, c->name, "wrote");
	return send_request(r,
			    set_write(r, &o) && take_range(c, argc, argv, false, r) &&
				    is_compressible(r),
			    false);
}

static int run_writev(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	bool alone = !strcmp(c->name, "aio_write");
	struct io_request *r;
	struct io_options o;

	if (!io_take_options(c, argc, argv, &o))
		return 1;
	if (o.given['z'] && argc - optind > 2) {
		puts("-z supports only a single length parameter");
		return 1;
	}
	r = io_request_new(s, IO_WRITE);
	if (!r)
		return 1;
	set_report(r, &o, c->name, "wrote");
	return send_request(r, set_write(r, &o) && take_range(c, argc, argv, true, r), alone);
}

static int run_discard(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	bool alone = !strcmp(c->name, "aio_discard");
	struct io_request *r;
	struct io_options o;

	if (!io_take_options(c, argc, argv, &o))
		return 1;
	r = io_request_new(s, IO_DISCARD);
	if (!r)
		return 1;
	set_report(r, &o, c->name, alone ? "discarded " : "discard");
	return send_request(r, take_range(c, argc, argv, false, r), alone);
}

/* ---- Waiting ---- */

static int run_flush(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct io_request *r = io_request_new(s, IO_WRITE);

	(void)argc, (void)argv;
	if (!r)
		return 1;
	r->subject = c->name;
	r->durable = r->quiet = true; /* of nothing */
	return io_request_run(r);
}

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
	if (!take_number(argv[1], INT32_MAX, "number", &ms))
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
	if (!io_take_size(argv[1], &number))
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
	{ "aio_discard", NULL, 2, IO_MANY, IO_CHANGES_IMAGE, run_discard, "Cq", "[-Cq] off len",
	  "begin to discard a range", LATER REPORTS },
	{ "aio_flush", NULL, 0, 0, 0, run_aio_flush, "", "",
	  "wait for everything that aio_read and its like have begun", NULL },
	{ "aio_read", NULL, 2, IO_MANY, 0, run_readv, "CiP:qr:v",
	  "[-Cqv] [-P pattern | -r seed] off len [len..]", "begin to read a range",
	  LATER PARTS EXPECTS REPORTS },
	{ "aio_write", NULL, 2, IO_MANY, IO_CHANGES_IMAGE, run_writev, "CfiP:qr:uz",
	  "[-Cfquz] [-P pattern | -r seed] off len [len..]", "begin to write a range",
	  LATER PARTS CONTENTS ZEROES " -f  durably\n" REPORTS },
	{ "alloc", "a", 1, 2, 0, io_run_alloc, "", "offset [count]",
	  "tell how much of a range the image itself holds, not its backing images", NULL },
	{ "close", "c", 0, 0, 0, io_run_close, "", "", "close the image", NULL },
	{ "discard", "d", 2, IO_MANY, IO_CHANGES_IMAGE, run_discard, "Cq", "[-Cq] off len",
	  "give a range's room back, where possible: it need not keep its content", REPORTS },
	{ "flush", "f", 0, 0, 0, run_flush, "", "", "make all that was written durable", NULL },
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
	{ "read", "r", 2, IO_MANY, 0, run_read, "bCl:pP:qr:s:v",
	  "[-Cqv] [-P pattern | -r seed] [-s off] [-l len] off len", "read a range",
	  EXPECTS " -s  compare only from so many bytes behind off on\n"
		  " -l  compare only so many bytes\n" REPORTS },
	{ "readv", NULL, 2, IO_MANY, 0, run_readv, "CP:qr:v",
	  "[-Cqv] [-P pattern | -r seed] off len [len..]",
	  "read a range into several buffers", PARTS EXPECTS REPORTS },
	{ "sigraise", NULL, 1, 1, IO_NEEDS_NO_IMAGE, run_sigraise, "", "signal",
	  "send the program itself a signal, by number", NULL },
	{ "sleep", NULL, 1, 1, IO_NEEDS_NO_IMAGE, run_sleep, "", "ms",
	  "wait for so many milliseconds", NULL },
	{ "truncate", "t", 1, 3, IO_CHANGES_IMAGE, io_run_truncate, "m:", "[-m prealloc] size",
	  "make the disk larger or smaller", " -m  off (default), metadata, falloc or full\n" },
	{ "verify", NULL, 2, IO_MANY, 0, run_verify, "CP:qr:f:",
	  "[-Cq] {-P pattern | -r seed | -f file} off len",
	  "read a range and tell where it is not what it should be",
	  " -P  every byte is PATTERN\n"
	  " -r  it is what `write -r SEED` writes there\n"
	  " -f  it is the file's content, over and over if the file is shorter\n" REPORTS },
	{ "write", "w", 2, IO_MANY, IO_CHANGES_IMAGE, run_write, "bcCfnpP:qr:s:uz",
	  "[-cCfnquz] [-P pattern | -r seed | -s file] off len", "write a range",
	  CONTENTS
	  " -s  write the file's content, over and over if the file is shorter\n"
	  " -c  store compressed: whole units\n"
	  " -f  durably\n" ZEROES
	  " -n  with -z: it is a failure if zeroes had to be stored\n" REPORTS },
	{ "writev", NULL, 2, IO_MANY, IO_CHANGES_IMAGE, run_writev, "CfP:qr:",
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
