/* bench: how fast an image answers. The requests themselves are bench_run.c's. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/bench_run.h"
#include "tools/command.h"
#include "tools/json.h"
#include "tools/open.h"
#include "tools/report.h"
#include "tools/signals.h"

enum {
	OPT_PATTERN = ARG_OWN,
	OPT_FLUSH_INTERVAL,
	OPT_NO_DRAIN,
	OPT_REGISTERED,
	OPT_NO_READ_AHEAD,
	OPT_RANDOM,
	OPT_MIX,
	OPT_QUEUES,
	OPT_SECONDS,
};

static const struct option_row option_rows[] = {
	OPTION_ROW_FORMAT("of the image"),
	OPTION_ROW_IMAGE_OPTS("FILE is a list KEY=VALUE,... instead of a name"),
	OPTION_ROW_CACHE('t'),
	OPTION(.letter = 'c', .name = "count", .metavar = "N", .value = VALUE_NUMBER,
	       .help = "requests in all (default: 75000, with --seconds no limit)"),
	OPTION(.letter = 'd', .name = "depth", .metavar = "N", .value = VALUE_NUMBER,
	       .help = "requests at once (default: 64)"),
	OPTION(.letter = 'o', .name = "offset", .metavar = "SIZE", .value = VALUE_SIZE,
	       .help = "where in the disk the first request goes (default: 0)"),
	OPTION(.letter = 's', .name = "buffer-size", .metavar = "SIZE", .value = VALUE_SIZE,
	       .help = "bytes of a request (default: 4k)"),
	OPTION(.letter = 'S', .name = "step-size", .metavar = "SIZE", .value = VALUE_SIZE,
	       .help = "from one request to the next (default: the buffer size); behind the "
		       "disk's end they go on at its begin"),
	OPTION(.letter = 'w', .name = "write", .help = "write instead of reading"),
	OPTION(.name = "pattern", .id = OPT_PATTERN, .metavar = "BYTE", .value = VALUE_NUMBER,
	       .help = "what is written (default: 0)"),
	OPTION(.name = "flush-interval", .id = OPT_FLUSH_INTERVAL, .metavar = "N",
	       .value = VALUE_NUMBER,
	       .help = "after N requests let all that are on their way end, and flush"),
	OPTION(.name = "no-drain", .id = OPT_NO_DRAIN,
	       .help = "flush without waiting for anything"),
	OPTION(.letter = 'i', .name = "aio", .metavar = "threads|native|io_uring",
	       .value = VALUE_CHOICE, .choices = "threads native io_uring",
	       .help = "how requests go to the kernel (default: io_uring if the kernel lets "
		       "us, else threads). native is taken for io_uring, and only together "
		       "with -t none or directsync, as elsewhere"),
	OPTION(.letter = 'n', .name = "native", .help = "the same as --aio native"),
	OPTION_ROW_SHARE("the image"),
	OPTION(.letter = 'q', .name = "quiet",
	       .help = "print nothing but errors (under the name qemu-img the two lines that "
		       "qemu-img prints in spite of it)"),
	/* Abbreviations that would be ambiguous with what is ours alone. */
	OPTION(.name = "q", .id = 'q', .flags = OPTION_ALIAS, .help = "short for --quiet"),
	OPTION(.name = "qu", .id = 'q', .flags = OPTION_ALIAS, .help = "short for --quiet"),
	OPTION(.name = "s", .id = 'S', .metavar = "SIZE", .value = VALUE_SIZE,
	       .flags = OPTION_ALIAS, .help = "short for --step-size"),
	OPTION(.name = "random", .id = OPT_RANDOM, .metavar = "SEED", .value = VALUE_NUMBER,
	       .flags = OPTION_OPTIONAL,
	       .help = "to random offsets, multiples of the buffer size from --offset on; the "
		       "same for the same SEED (default: 0)"),
	OPTION(.name = "mix", .id = OPT_MIX, .metavar = "PERCENT", .value = VALUE_NUMBER,
	       .help = "with --write: so many of the requests are reads"),
	OPTION(.name = "queues", .id = OPT_QUEUES, .metavar = "N", .value = VALUE_NUMBER,
	       .help = "on N threads, each with a queue of --depth requests (default: 1); "
		       "they share the requests; --flush-interval counts on each"),
	OPTION(.name = "seconds", .id = OPT_SECONDS, .metavar = "N", .value = VALUE_NUMBER,
	       .help = "no new requests after N seconds"),
	OPTION(.name = "registered", .id = OPT_REGISTERED,
	       .help = "register the buffers with the kernel (see ulimit -l)"),
	OPTION(.name = "no-read-ahead", .id = OPT_NO_READ_AHEAD,
	       .help = "read what is asked for and no more"),
	OPTION_ROW_OUTPUT,
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	OPTION_ROW_FORCE,
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE", .value = VALUE_FILE },
	{ 0 },
};

enum {
	GO_ON = -1,
	DEFAULT_COUNT = 75000,
	DEFAULT_DEPTH = 64,
	DEFAULT_BYTES = 4096,
	MAX_QUEUES = 1024, /* threads; far more than there are processors to run them */
};

struct bench {
	struct open_request request;
	struct bench_plan plan;
	const char *cache;
	const char *aio;	  /* as given; NULL: not given */
	enum img_io_kind name_io; /* what the image's name asks for */
	bool have_count, write, mix, have_step, native, share, json, quiet, force;
	bool no_read_ahead;
};

static bool is_qemu_img(void)
{
	return !strcmp(program_name(), "qemu-img");
}

/* ---- The command line ---- */

static bool parse_aio(struct bench *b, const char *text)
{
	b->aio = text;
	if (!strcmp(text, "native"))
		b->native = true;
	else if (!strcmp(text, "threads"))
		b->plan.io = IMG_IO_THREADS;
	else if (!strcmp(text, "io_uring"))
		b->plan.io = IMG_IO_URING;
	else
		report_error("Invalid aio option: %s", text);
	return b->native || b->plan.io != IMG_IO_AUTO;
}

static bool parse_cache(struct bench *b, const char *text)
{
	b->cache = text;
	if (args_cache_flags(text, &b->request.flags))
		return true;
	report_error("Invalid cache mode");
	return false;
}

/* A number that goes to an unsigned. */
static bool parse_unsigned(const char *what, const char *text, uint64_t min, uint64_t max,
			   unsigned *out)
{
	uint64_t value;

	if (!args_number(what, text, min, max, &value))
		return false;
	*out = (unsigned)value;
	return true;
}

/* What the requests are. False: reported. */
static bool parse_request(struct bench *b, int opt, const char *text)
{
	struct bench_plan *plan = &b->plan;
	unsigned pattern = 0;

	switch (opt) {
	case 'c':
		b->have_count = true;
		return args_number("request count", text, 1, INT_MAX, &plan->count);
	case 'd':
		return parse_unsigned("queue depth", text, 1, INT_MAX, &plan->depth);
	case 'o':
		return args_size("offset", text, 0, INT64_MAX, &plan->offset);
	case 's':
		return args_size("buffer size", text, 1, INT_MAX, &plan->bytes);
	case 'S':
		b->have_step = true;
		return args_size("step size", text, 0, INT_MAX, &plan->step);
	case OPT_PATTERN:
		if (!parse_unsigned("pattern byte", text, 0, UINT8_MAX, &pattern))
			return false;
		plan->pattern = (uint8_t)pattern;
		return true;
	case OPT_FLUSH_INTERVAL:
		return args_number("flush interval", text, 0, INT_MAX, &plan->flush_interval);
	case OPT_RANDOM:
		plan->random = true;
		return !text || args_number("seed", text, 0, UINT64_MAX, &plan->seed);
	case OPT_MIX:
		b->mix = true;
		return parse_unsigned("percentage of reads", text, 0, 100, &plan->read_percent);
	case OPT_QUEUES:
		return parse_unsigned("number of queues", text, 1, MAX_QUEUES, &plan->queues);
	default:
		return parse_unsigned("number of seconds", text, 1, INT_MAX, &plan->seconds);
	}
}

/* What fits together, and what follows from it. False: reported. */
static bool complete_plan(struct bench *b)
{
	struct bench_plan *plan = &b->plan;

	if (!b->write && plan->flush_interval) {
		report_error("--flush-interval is only available in write tests");
		return false;
	}
	if (plan->flush_interval && plan->flush_interval < plan->depth) {
		report_error("Flush interval can't be smaller than depth");
		return false;
	}
	if (!b->write && b->mix) {
		report_error("--mix is only available in write tests");
		return false;
	}
	if (!b->write && b->force) {
		report_error("--force is only available in write tests");
		return false;
	}
	if (plan->random && b->have_step) {
		report_error("--random and --step-size are mutually exclusive");
		return false;
	}
	if (!b->mix)
		plan->read_percent = b->write ? 0 : 100;
	if (!plan->step)
		plan->step = plan->bytes;
	if (plan->seconds && !b->have_count)
		plan->count = UINT64_MAX;
	if (b->native)
		plan->io = IMG_IO_URING;
	/* Where nobody asks for it the clock is left alone, but for the begin and the end. */
	plan->timed = b->json || (!is_qemu_img() && !b->quiet);
	return true;
}

/* How the image is opened. False: it cannot be; reported, in the words of who would open it. */
static bool complete_open(struct bench *b)
{
	struct open_request *r = &b->request;

	if (!args_one_way_to_open(r->image_opts, r->format))
		return false;
	if (b->native && !(r->flags & IMG_OPEN_DIRECT)) {
		report_error("Could not open '%s': aio=native was specified, but it requires "
			     "cache.direct=on, which was not specified.",
			     r->name);
		return false;
	}
	if (b->write && b->share) {
		report_error("Could not open '%s': force-share=on can only be used with read-only "
			     "images",
			     r->name);
		return false;
	}
	r->flags |= b->write ? IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE : 0;
	r->flags |= b->share ? IMG_OPEN_SHARE : 0;
	r->flags |= b->no_read_ahead ? IMG_OPEN_NO_READ_AHEAD : 0;
	r->warn_if_probed = b->write;
	r->io = &b->name_io;
	return true;
}

static int parse(struct bench *b, int argc, char **argv)
{
	struct open_request *r = &b->request;
	struct options o;
	int opt;

	options_begin(&o, &bench_command, argc, argv);
	while ((opt = options_next(&o)) != OPTIONS_END) {
		switch (opt) {
		case 't':
			if (!parse_cache(b, o.value))
				return 1;
			break;
		case 'w':
			b->write = true;
			break;
		case OPT_NO_DRAIN:
			b->plan.drain = false;
			break;
		case OPT_REGISTERED:
			b->plan.registered = true;
			break;
		case OPT_NO_READ_AHEAD:
			b->no_read_ahead = true;
			break;
		case 'i':
			if (!parse_aio(b, o.value))
				return 1;
			break;
		case 'n':
			b->native = true;
			break;
		case 'U':
			b->share = true;
			break;
		case 'q':
			b->quiet = true;
			break;
		case ARG_OUTPUT:
			if (!args_output("bench", o.value, &b->json))
				return 1;
			break;
		case ARG_FORCE:
			b->force = true;
			break;
		case OPTIONS_EXIT:
			return o.code;
		case 'f':
		case ARG_IMAGE_OPTS:
		case ARG_OBJECT:
		case ARG_REFERENCES:
			if (!open_option(r, opt, o.value))
				return 1;
			break;
		default:
			if (!parse_request(b, opt, o.value))
				return 1;
		}
	}
	if (o.operand_count != 1)
		return report_usage("bench", "Expecting one image file name");
	r->name = o.operands[0];
	return complete_plan(b) && complete_open(b) ? GO_ON : 1;
}

/* ---- For people ---- */

/* Word for word what qemu-img prints, unless something of our own was asked for. */
static void print_plan(const struct bench *b)
{
	const struct bench_plan *plan = &b->plan;

	fputs("Sending ", stdout);
	if (plan->count != UINT64_MAX)
		printf("%" PRIu64 " ", plan->count);
	if (b->mix)
		printf("requests (%u%% reads)", plan->read_percent);
	else
		printf("%s requests", b->write ? "write" : "read");
	if (plan->seconds)
		printf(" for %s%u second%s", plan->count != UINT64_MAX ? "up to " : "",
		       plan->seconds, plan->seconds > 1 ? "s" : "");
	printf(", %" PRIu64 " bytes each, %u in parallel", plan->bytes, plan->depth);
	if (plan->queues > 1)
		printf(" on each of %u queues", plan->queues);
	if (plan->random)
		printf(" (at random offsets from %" PRIu64 " on, seed %" PRIu64 ")\n", plan->offset,
		       plan->seed);
	else
		printf(" (starting at offset %" PRIu64 ", step size %" PRIu64 ")\n", plan->offset,
		       plan->step);
	if (plan->flush_interval)
		printf("Sending flush every %" PRIu64 " requests\n", plan->flush_interval);
}

static const char *const kind_names[BENCH_KINDS] = { "read", "write", "flush" };

static const struct {
	const char *name;
	double part;
} quantiles[] = {
	{ "p50", 0.50 },
	{ "p90", 0.90 },
	{ "p95", 0.95 },
	{ "p99", 0.99 },
	{ "p99.9", 0.999 },
};
enum { QUANTILES = sizeof(quantiles) / sizeof(quantiles[0]) };

static uint64_t requests_done(const struct bench_result *result)
{
	return result->requests[BENCH_READ] + result->requests[BENCH_WRITE];
}

/* 0: too short to tell. */
static double requests_a_second(const struct bench_result *result)
{
	return result->seconds > 0 ? (double)requests_done(result) / result->seconds : 0;
}

static void print_latency(const char *name, const struct histogram *h)
{
	unsigned i;

	if (!h->count)
		return;
	printf("%-5s latency (us): min %.1f, mean %.1f", name, (double)h->min / 1e3,
	       histogram_mean(h) / 1e3);
	for (i = 0; i < QUANTILES; i++)
		printf(", %s %.1f", quantiles[i].name,
		       (double)histogram_quantile(h, quantiles[i].part) / 1e3);
	printf(", max %.1f\n", (double)h->max / 1e3);
}

static void print_result(const struct bench *b, const struct bench_result *result)
{
	double rate = requests_a_second(result);
	unsigned kind;

	if (result->interrupted)
		printf("Run interrupted after %3.3f seconds.\n", result->seconds);
	else
		printf("Run completed in %3.3f seconds.\n", result->seconds);
	if (!b->plan.timed)
		return;
	printf("%" PRIu64 " requests, %.0f IOPS, %.1f MB/s\n", requests_done(result), rate,
	       rate * (double)b->plan.bytes / 1e6);
	for (kind = 0; kind < BENCH_KINDS; kind++)
		print_latency(kind_names[kind], &result->latency[kind]);
}

/* ---- For programs ---- */

static void json_parameters(struct json *j, const struct bench *b, const struct img *img)
{
	static const char *const kinds[] = {
		[IMG_IO_AUTO] = "auto",
		[IMG_IO_URING] = "io_uring",
		[IMG_IO_THREADS] = "threads",
	};
	const struct bench_plan *plan = &b->plan;

	json_open(j, "parameters", '{');
	json_put_string(j, "filename", b->request.name);
	json_put_string(j, "format", img_format(img));
	json_put_uint(j, "virtual-size", img_size(img));
	json_put_string(j, "cache", b->cache);
	json_put_string(j, "aio", kinds[plan->io]);
	if (plan->count != UINT64_MAX)
		json_put_uint(j, "count", plan->count);
	if (plan->seconds)
		json_put_uint(j, "seconds", plan->seconds);
	json_put_uint(j, "depth", plan->depth);
	json_put_uint(j, "queues", plan->queues);
	json_put_uint(j, "buffer-size", plan->bytes);
	json_put_uint(j, "read-percent", plan->read_percent);
	json_put_uint(j, "offset", plan->offset);
	json_put_bool(j, "random", plan->random);
	if (plan->random)
		json_put_uint(j, "seed", plan->seed);
	else
		json_put_uint(j, "step-size", plan->step);
	if (b->write)
		json_put_uint(j, "pattern", plan->pattern);
	if (plan->flush_interval) {
		json_put_uint(j, "flush-interval", plan->flush_interval);
		json_put_bool(j, "drain", plan->drain);
	}
	json_close(j, '}');
}

static void json_kind(struct json *j, const char *name, uint64_t bytes, const struct histogram *h)
{
	unsigned i;

	if (!h->count)
		return;
	json_open(j, name, '{');
	json_put_uint(j, "requests", h->count);
	if (bytes)
		json_put_uint(j, "bytes", h->count * bytes);
	json_open(j, "latency-us", '{');
	json_put_fixed(j, "min", (double)h->min / 1e3, 3);
	json_put_fixed(j, "mean", histogram_mean(h) / 1e3, 3);
	for (i = 0; i < QUANTILES; i++)
		json_put_fixed(j, quantiles[i].name,
			       (double)histogram_quantile(h, quantiles[i].part) / 1e3, 3);
	json_put_fixed(j, "max", (double)h->max / 1e3, 3);
	json_close(j, '}');
	json_close(j, '}');
}

static void json_result(const struct bench *b, const struct img *img,
			const struct bench_result *result)
{
	struct json json = { .out = stdout }, *j = &json;
	double rate = requests_a_second(result);
	unsigned kind;

	json_open(j, NULL, '{');
	json_parameters(j, b, img);
	json_put_fixed(j, "seconds", result->seconds, 6);
	json_put_bool(j, "interrupted", result->interrupted);
	json_put_uint(j, "requests", requests_done(result));
	json_put_uint(j, "bytes", requests_done(result) * b->plan.bytes);
	json_put_fixed(j, "iops", rate, 1);
	json_put_fixed(j, "bytes-per-second", rate * (double)b->plan.bytes, 0);
	for (kind = 0; kind < BENCH_KINDS; kind++)
		json_kind(j, kind_names[kind], kind == BENCH_FLUSH ? 0 : b->plan.bytes,
			  &result->latency[kind]);
	json_close(j, '}');
}

/* ---- All of it ---- */

static int measure(struct bench *b, struct img *img)
{
	const struct bench_plan *plan = &b->plan;
	struct bench_result result = { 0 };
	bool human = !b->json && (!b->quiet || is_qemu_img()), ok;
	char *why = NULL;

	if (human)
		print_plan(b);
	if (plan->offset > img_size(img) || plan->bytes > img_size(img) - plan->offset) {
		report_error("Failed request: %" PRIu64 " bytes at %" PRIu64 " reach past the end of "
			     "the disk at %" PRIu64,
			     plan->bytes, plan->offset, img_size(img));
		return 1;
	}
	signals_install();
	ok = bench_execute(plan, img, &result, &why);
	if (!ok)
		report_error("%s", why ? why : "out of memory");
	else if (human)
		print_result(b, &result);
	else if (b->json && !b->quiet)
		json_result(b, img, &result);
	free(why);
	return ok ? 0 : 1;
}

static int bench_run(int argc, char **argv)
{
	struct bench b = {
		.plan = { .count = DEFAULT_COUNT,
			  .depth = DEFAULT_DEPTH,
			  .queues = 1,
			  .bytes = DEFAULT_BYTES,
			  .drain = true },
		.cache = "writeback",
	};
	struct img_error *err;
	struct img *img;
	int rc = parse(&b, argc, argv);

	if (rc != GO_ON)
		return rc;
	img = open_image(&b.request);
	if (!img)
		return 1;
	if (b.name_io != IMG_IO_AUTO)
		b.plan.io = b.name_io;
	rc = !b.write || open_check_children(img, b.force) ? measure(&b, img) : 1;
	err = img_error_new();
	if (img_close(img, err)) {
		report_failure(err, "Could not write '%s'", b.request.name);
		rc = 1;
	}
	img_error_free(err);
	fflush(stdout); /* the signal leaves no time for it */
	signals_finish();
	return rc;
}

const struct command bench_command = {
	.name = "bench",
	.purpose = "measure how fast an image answers",
	.description = "Send many requests to an image, always as many at once as asked for, and "
		       "print how long that took. Nothing is written without --write; with it the "
		       "disk's content is lost.",
	.options = option_rows,
	.operands = operand_rows,
	.notes = "SIZE is in bytes, or ends in k, M, G, T, P or E (powers of 1024). An interrupt "
		 "(Ctrl-C) ends the run early; what was measured until then is printed.",
	.run = bench_run,
};
