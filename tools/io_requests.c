/*
 * io: commands that read, write, discard. What they print on standard output, down to the words of
 * what is wrong, is what scripts written for qemu-io look for.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/io_commands.h"
#include "tools/report.h"

enum {
	DEFAULT_BYTE = 0xcd, /* what is written if nothing else is said */
};

/* ---- What requests have in common ---- */

/*
 * -P BYTE, -r SEED and path (NULL: none), of which at most one may be given. False: it is not that,
 * or does not exist; reported.
 */
static bool parse_content(const struct io_options *o, const char *path, struct io_content *content)
{
	uint64_t byte = DEFAULT_BYTE;

	if (path)
		return io_content_open_file(content, path);
	if (o->given['r']) {
		content->kind = IO_CONTENT_RANDOM;
		return io_parse_number(o->given['r'], UINT64_MAX, "seed", &content->seed);
	}
	if (o->given['P'] && !io_parse_number(o->given['P'], UINT8_MAX, "pattern byte", &byte))
		return false;
	content->byte = (uint8_t)byte;
	return true;
}

/* The operands: an offset and one length, or more if many. False: reported. */
static bool parse_range(const struct io_command *c, const struct io_options *o, bool many,
			struct io_request *r)
{
	int i, lengths = o->operand_count - 1;

	if (lengths < 1 || (lengths > 1 && !many)) {
		io_command_usage(c);
		return false;
	}
	if (!io_parse_size(o->operands[0], &r->off))
		return false;
	if (lengths == 1)
		return io_parse_size(o->operands[1], &r->len);
	r->parts = calloc((size_t)lengths, sizeof(*r->parts));
	if (!r->parts) {
		report_error("out of memory");
		return false;
	}
	r->part_count = (size_t)lengths;
	for (i = 0; i < lengths; i++) {
		if (!io_parse_size(o->operands[1 + i], &r->parts[i]))
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

/* -s and -l: which part of what was read is compared. False: reported. */
static bool parse_compared_range(const struct io_command *c, const struct io_options *o,
				 struct io_request *r)
{
	const char *start = o->given['s'], *length = o->given['l'];

	r->compare_len = r->len;
	if (!r->compare && (start || length)) {
		io_command_usage(c);
		return false;
	}
	if (start && !io_parse_size(start, &r->compare_off))
		return false;
	if (length && !io_parse_size(length, &r->compare_len))
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
		     bool many)
{
	if (o->given['P'] && o->given['r']) {
		puts("Only one of -P and -r can be specified at the same time");
		return false;
	}
	r->compare = o->given['P'] || o->given['r'];
	r->dump = o->given['v'];
	return parse_content(o, NULL, &r->content) && parse_range(c, o, many, r) &&
	       parse_compared_range(c, o, r);
}

int io_run_read(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct io_request *r;
	struct io_options o;

	if (!io_parse_options(c, argc, argv, &o))
		return 1;
	r = io_request_new(s, IO_READ);
	if (!r)
		return 1;
	set_report(r, &o, c->command.name, "read");
	return send_request(r, set_read(r, c, &o, false), false);
}

/* Several lengths, each with a buffer of its own. */
int io_run_readv(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	bool alone = !strcmp(c->command.name, "aio_read");
	struct io_request *r;
	struct io_options o;

	if (!io_parse_options(c, argc, argv, &o))
		return 1;
	r = io_request_new(s, IO_READ);
	if (!r)
		return 1;
	set_report(r, &o, "readv", "read");
	return send_request(r, set_read(r, c, &o, true), alone);
}

int io_run_verify(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct io_request *r;
	struct io_options o;
	bool ready;

	if (!io_parse_options(c, argc, argv, &o))
		return 1;
	if (!!o.given['P'] + !!o.given['r'] + !!o.given['f'] != 1) {
		puts("One of -P, -r and -f must be specified");
		return 1;
	}
	r = io_request_new(s, IO_READ);
	if (!r)
		return 1;
	set_report(r, &o, c->command.name, "verified");
	r->compare = r->explain = true;
	ready = parse_content(&o, o.given['f'], &r->content) && parse_range(c, &o, false, r);
	r->compare_len = r->len;
	return send_request(r, ready, false);
}

/* ---- Writing ---- */

/* Options that do not go together. False: reported. */
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
	r->flags = (given['f'] ? IMG_SUBMIT_FUA : 0) | (given['c'] ? IMG_SUBMIT_COMPRESS : 0) |
		   (given['n'] ? IMG_SUBMIT_FAST : 0) | (given['u'] ? IMG_SUBMIT_MAY_UNMAP : 0);
	return suit_write(o) && parse_content(o, given['s'], &r->content);
}

/* What is no whole unit fails later, in words that depend on whether it is whole sectors. */
static bool is_compressible(const struct io_request *r)
{
	bool off = r->off % 512, len = r->len % 512;

	if (!(r->flags & IMG_SUBMIT_COMPRESS) || (!off && !len))
		return true;
	printf("%" PRIu64 " is not a sector-aligned value for '%s'\n", off ? r->off : r->len,
	       off ? "offset" : "count");
	return false;
}

int io_run_write(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct io_request *r;
	struct io_options o;

	if (!io_parse_options(c, argc, argv, &o))
		return 1;
	r = io_request_new(s, IO_WRITE);
	if (!r)
		return 1;
	set_report(r, &o, c->command.name, "wrote");
	return send_request(r,
			    set_write(r, &o) && parse_range(c, &o, false, r) &&
				    is_compressible(r),
			    false);
}

int io_run_writev(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	bool alone = !strcmp(c->command.name, "aio_write");
	struct io_request *r;
	struct io_options o;

	if (!io_parse_options(c, argc, argv, &o))
		return 1;
	if (o.given['z'] && o.operand_count > 2) {
		puts("-z supports only a single length parameter");
		return 1;
	}
	r = io_request_new(s, IO_WRITE);
	if (!r)
		return 1;
	set_report(r, &o, c->command.name, "wrote");
	return send_request(r, set_write(r, &o) && parse_range(c, &o, true, r), alone);
}

int io_run_discard(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	bool alone = !strcmp(c->command.name, "aio_discard");
	struct io_request *r;
	struct io_options o;

	if (!io_parse_options(c, argc, argv, &o))
		return 1;
	r = io_request_new(s, IO_DISCARD);
	if (!r)
		return 1;
	set_report(r, &o, c->command.name, alone ? "discarded " : "discard");
	return send_request(r, parse_range(c, &o, false, r), alone);
}

/* ---- Flushing ---- */

int io_run_flush(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct io_request *r = io_request_new(s, IO_FLUSH);

	(void)argc, (void)argv;
	if (!r)
		return 1;
	r->subject = c->command.name;
	r->quiet = true;
	return io_request_run(r);
}
