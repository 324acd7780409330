/*
 * convert: copy images to a new one. The target gets its name when it is complete, or what makes a
 * file that was there an image again; until then a failure or a signal leaves none behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/creation.h"
#include "tools/input.h"
#include "tools/open.h"
#include "tools/progress.h"
#include "tools/report.h"
#include "tools/signals.h"

enum {
	OPT_TARGET_IMAGE_OPTS = ARG_OWN,
	OPT_TARGET_IS_ZERO,
	OPT_SALVAGE,
	OPT_SOURCE_SIZE,
	OPT_KEEP_IDS,
};

static const struct option_row option_rows[] = {
	OPTION(.flags = OPTION_HEADING, .help = "Sources"),
	OPTION(.letter = 'f', .name = "source-format", .metavar = "FORMAT",
	       .value = VALUE_FORMAT,
	       .help = "of all sources (default: found out by their content)"),
	OPTION_ROW_IMAGE_OPTS("each SOURCE is a list KEY=VALUE,... instead of a name"),
	OPTION(.name = "source-image-opts", .id = ARG_IMAGE_OPTS, .flags = OPTION_ALIAS,
	       .help = "other spelling of --image-opts"),
	OPTION(.letter = 'T', .name = "source-cache", .metavar = "MODE", .value = VALUE_CHOICE,
	       .choices = OPTIONS_CACHE_MODES,
	       .help = "none, try-none, writeback (default), unsafe, directsync or "
		       "writethrough. try-none: past the page cache as with none, where that "
		       "is possible, else as writeback"),
	OPTION(.letter = 'l', .name = "snapshot", .metavar = "SNAPSHOT",
	       .help = "what a snapshot inside the source holds: its ID, or else its name; or "
		       "snapshot.id=ID,snapshot.name=NAME"),
	OPTION(.name = "salvage", .id = OPT_SALVAGE,
	       .help = "go on where a source cannot be read: warn, and put zeroes into the "
		       "target"),
	OPTION_ROW_SHARE("a source"),
	OPTION_ROW_REFERENCES,
	OPTION_ROW_FORCE,
	OPTION(.name = "source-size", .id = OPT_SOURCE_SIZE, .metavar = "SIZE",
	       .value = VALUE_SIZE,
	       .help = "what comes from a pipe has so many bytes, no more and no less; needed "
		       "for targets that cannot grow"),
	OPTION(.flags = OPTION_HEADING, .help = "Target"),
	OPTION(.letter = 'O', .name = "target-format", .metavar = "FORMAT",
	       .value = VALUE_NEW_FORMAT, .help = "of the target (default: raw)"),
	OPTION(.name = "target-image-opts", .id = OPT_TARGET_IMAGE_OPTS,
	       .help = "TARGET is a list KEY=VALUE,...; needs -n"),
	OPTION(.letter = 'o', .name = "target-format-options", .metavar = "KEY=VALUE,...",
	       .value = VALUE_CREATE_OPTIONS, .flags = OPTION_MANY,
	       .help = "options of the format; '-o help' lists them. The size is always that "
		       "of the sources"),
	OPTION(.name = "keep-ids", .id = OPT_KEEP_IDS,
	       .help = "the target has the source's UUID, and what else both formats tell a disk and its "
		       "content by, rather than new ones"),
	OPTION(.letter = 't', .name = "target-cache", .metavar = "MODE", .value = VALUE_CHOICE,
	       .choices = OPTIONS_CACHE_MODES, .help = "as -T; default: unsafe"),
	OPTION(.letter = 'b', .name = "backing", .metavar = "FILE", .value = VALUE_FILE,
	       .help = "the target's backing image: what the source has from its own is "
		       "copied only where FILE differs"),
	OPTION(.letter = 'B', .id = 'b', .metavar = "FILE", .value = VALUE_FILE,
	       .flags = OPTION_ALIAS, .help = "older spelling of -b"),
	OPTION(.letter = 'F', .name = "backing-format", .metavar = "FORMAT",
	       .value = VALUE_FORMAT, .help = "of FILE"),
	OPTION(.letter = 'c', .name = "compress",
	       .help = "store compressed; see also compression_level in '-O qcow2 -o help'"),
	OPTION(.letter = 'S', .name = "sparse-size", .metavar = "SIZE", .value = VALUE_SIZE,
	       .help = "leave out zeroes from so many in a row on (default: 4k); 0: write "
		       "them all"),
	OPTION(.letter = 'n', .name = "no-create",
	       .help = "write into a target that exists and is large enough"),
	OPTION(.name = "target-is-zero", .id = OPT_TARGET_IS_ZERO,
	       .help = "with -n: the target reads as zeroes already; of a device this is "
		       "believed, a file is looked at"),
	OPTION(.flags = OPTION_HEADING, .help = "Copying"),
	OPTION(.letter = 'm', .name = "parallel", .metavar = "N", .value = VALUE_NUMBER,
	       .help = "pieces in flight, 1 to 16 (default: as many as keep all cores busy)"),
	OPTION(.letter = 'W', .name = "oob-writes",
	       .help = "write in any order: the same disk, though not always the same bytes "
		       "in the file"),
	OPTION(.letter = 'r', .name = "rate-limit", .metavar = "RATE", .value = VALUE_SIZE,
	       .help = "bytes a second that are copied; zeroes do not count"),
	OPTION(.letter = 'p', .name = "progress",
	       .help = "show how far it is; else SIGUSR1 does once"),
	OPTION_ROW_QUIET,
	OPTION_ROW_OBJECT,
	OPTION(.letter = 'C', .name = "copy-range-offloading", .flags = OPTION_REFUSED,
	       .help = "data is read and written, never shared with a source"),
	OPTION(.name = "bitmaps", .flags = OPTION_REFUSED, .help = "bitmaps are not copied"),
	OPTION(.name = "skip-broken-bitmaps", .flags = OPTION_REFUSED,
	       .help = "bitmaps are not copied"),
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "SOURCE", .value = VALUE_FILE, .many = true },
	{ .metavar = "TARGET", .value = VALUE_FILE },
	{ 0 },
};

/* Besides exit codes. */
enum {
	GO_ON = -1,
	NOT_MINE = -2, /* of another group of options */
};
enum {
	MAX_SPARSE = 16 << 20,
};

struct convert {
	/* Sources. */
	char **names;
	size_t count;
	const char *source_format, *source_cache, *references;
	bool image_opts, share, salvage, source_size_given, size_known;
	unsigned source_flags;
	bool one_snapshot;
	struct open_snapshot snapshot;
	struct img **sources;
	struct img_source_image *input; /* a pipe: instead of all sources, and count is 0 */
	uint64_t source_size;
	uint64_t total; /* bytes of all sources, if size_known */

	/* Target. */
	const char *target_name, *target_format, *target_cache;
	const char *backing_name, *backing_format;
	bool target_image_opts, no_create, target_is_zero, force, keep_ids;
	bool target_is_pipe; /* or standard output, whatever it is */
	unsigned target_flags;
	struct creation creation;
	struct img *target;

	/* Copying. */
	bool compress, out_of_order, progress, quiet, sparse_given;
	uint64_t sparse_bytes, parallel, rate;
};

static const char zero_and_backed[] =
	"Cannot use --target-is-zero when the destination image has a backing file";

static bool parse_sparse(struct convert *c, const char *text)
{
	c->sparse_given = true;
	if (!args_size("buffer size for sparse output", text, 0, INT64_MAX, &c->sparse_bytes))
		return false;
	if (c->sparse_bytes % 512 == 0 && c->sparse_bytes <= MAX_SPARSE)
		return true;
	report_error(
		"Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 "
		"up to %d. Select 0 to disable sparse detection (fully allocates output).",
		MAX_SPARSE);
	return false;
}

static bool parse_parallel(struct convert *c, const char *text)
{
	uint64_t parallel;

	if (!args_number("number of coroutines", text, 1, 16, &parallel))
		return false;
	c->parallel = parallel;
	return true;
}

static int source_option(struct convert *c, int opt, const char *value)
{
	switch (opt) {
	case 'f':
		c->source_format = value;
		break;
	case ARG_IMAGE_OPTS:
		c->image_opts = true;
		break;
	case 'T':
		c->source_cache = value;
		break;
	case 'l':
		c->one_snapshot = true;
		return open_parse_snapshot(value, &c->snapshot) ? GO_ON : 1;
	case 'U':
		c->share = true;
		break;
	case OPT_SALVAGE:
		c->salvage = true;
		break;
	case ARG_FORCE:
		c->force = true;
		break;
	case ARG_REFERENCES:
		c->references = value;
		break;
	case OPT_SOURCE_SIZE:
		c->source_size_given = true;
		return args_size("source size", value, 0, INT64_MAX - 511, &c->source_size) ? GO_ON : 1;
	default:
		return NOT_MINE;
	}
	return GO_ON;
}

static int target_option(struct convert *c, int opt, const char *value)
{
	switch (opt) {
	case 'O':
		c->target_format = value;
		break;
	case OPT_TARGET_IMAGE_OPTS:
		c->target_image_opts = true;
		break;
	case 'o':
		return creation_add(&c->creation, value) ? GO_ON : 1;
	case OPT_KEEP_IDS:
		c->keep_ids = true;
		break;
	case 't':
		c->target_cache = value;
		break;
	case 'b':
		c->backing_name = value;
		break;
	case 'F':
		c->backing_format = value;
		break;
	case 'S':
		return parse_sparse(c, value) ? GO_ON : 1;
	case 'n':
		c->no_create = true;
		break;
	case OPT_TARGET_IS_ZERO:
		c->target_is_zero = true;
		break;
	case 'c':
		c->compress = true;
		break;
	default:
		return NOT_MINE;
	}
	return GO_ON;
}

static int copy_option(struct convert *c, int opt, const char *value)
{
	switch (opt) {
	case 'r':
		return args_size("rate limit", value, 0, INT64_MAX, &c->rate) ? GO_ON : 1;
	case 'm':
		return parse_parallel(c, value) ? GO_ON : 1;
	case 'W':
		c->out_of_order = true;
		break;
	case 'p':
		c->progress = true;
		break;
	case 'q':
		c->quiet = true;
		break;
	case ARG_OBJECT:
		if (!open_add_object(value))
			return 1;
		break;
	}
	return GO_ON;
}

/* What belongs together and what does not, once all options are known. */
static int check_options(struct convert *c)
{
	if (!args_one_way_to_open(c->image_opts, c->source_format) ||
	    !args_one_way_to_open(c->target_image_opts, c->target_format))
		return 1;
	if (c->no_create && c->creation.given.count) {
		report_error("-o has no effect when skipping image creation");
		return 1;
	}
	if (c->no_create && c->keep_ids) {
		report_error("--keep-ids has no effect when skipping image creation");
		return 1;
	}
	if (c->target_image_opts && !c->no_create) {
		report_error("--target-image-opts requires use of -n flag");
		return 1;
	}
	if (c->target_is_zero && !c->no_create) {
		report_error("--target-is-zero requires use of -n flag");
		return 1;
	}
	if (c->target_is_zero && c->backing_name) {
		report_error(zero_and_backed);
		return 1;
	}
	return GO_ON;
}

static int check_caches(struct convert *c)
{
	const char *source = c->source_cache ? c->source_cache : "writeback";
	const char *target = c->target_cache ? c->target_cache : "unsafe";

	return args_cache("source cache", source, &c->source_flags) &&
			       args_cache("cache", target, &c->target_flags)
		       ? GO_ON
		       : 1;
}

static bool is_pipe(const char *target)
{
	struct stat st;

	return !strcmp(target, "-") || (!stat(target, &st) && S_ISFIFO(st.st_mode));
}

static int parse(struct convert *c, int argc, char **argv)
{
	const char *format;
	struct options o;
	int opt, rc;

	options_begin(&o, &convert_command, argc, argv);
	while ((opt = options_next(&o)) != OPTIONS_END) {
		if (opt == OPTIONS_EXIT)
			return o.code;
		rc = source_option(c, opt, o.value);
		if (rc == NOT_MINE)
			rc = target_option(c, opt, o.value);
		if (rc == NOT_MINE)
			rc = copy_option(c, opt, o.value);
		if (rc != GO_ON)
			return rc;
	}
	format = c->target_format ? c->target_format : "raw";
	if (creation_wants_help(&c->creation)) {
		if (!creation_possible(format, NULL))
			return 1;
		return creation_print_help(format);
	}
	if (check_options(c) != GO_ON)
		return 1;
	c->target_format = format;
	if (o.operand_count < 2) {
		report_error("Must specify image file name");
		return 1;
	}
	c->names = o.operands;
	c->count = (size_t)(o.operand_count - 1);
	c->target_name = o.operands[c->count];
	c->target_is_pipe = !c->no_create && is_pipe(c->target_name);
	return check_caches(c);
}

/* ---- A source that is a pipe ---- */

/* What cannot be done with it. */
static int check_input(const struct convert *c)
{
	if (c->count > 1)
		report_error("A pipe must be the only source");
	else if (c->salvage)
		report_error("--salvage cannot be used with a pipe: it cannot be read a second time");
	else if (c->one_snapshot)
		report_error("-l cannot be used with a pipe: a stream has no snapshots inside");
	else if (c->source_flags)
		report_error("-T %s cannot be used with a pipe, which is open already",
			     c->source_cache);
	else
		return GO_ON;
	return 1;
}

static int open_input(struct convert *c, const char *name)
{
	if (check_input(c) != GO_ON)
		return 1;
	c->input = input_open(name, c->source_format,
			      c->source_size_given ? &c->source_size : NULL);
	if (!c->input)
		return 1;
	if (!c->quiet)
		open_warn_of_content(name, img_source_guessed_content(c->input));
	c->size_known = img_source_size(c->input, &c->total);
	c->count = 0;
	return GO_ON;
}

/* Which part of it? */
static int check_unknown_size(const struct convert *c)
{
	if (c->size_known || !c->progress || c->quiet)
		return GO_ON;
	report_error("The size of a raw disk from a pipe must be given (--source-size): -p shows a part "
		     "of it");
	return 1;
}

/* ---- Sources ---- */

static int open_sources(struct convert *c)
{
	size_t i;

	c->size_known = true;
	for (i = 0; i < c->count && !c->image_opts; i++) {
		if (input_is_pipe(c->names[i]))
			return open_input(c, c->names[i]);
		if (input_is_stdin(c->names[i]))
			c->names[i] = (char *)(uintptr_t)input_path();
	}
	if (c->source_size_given) {
		report_error("--source-size is for a source that is a pipe; files have their own size");
		return 1;
	}
	if (c->one_snapshot && c->count > 1) {
		report_error("No support for concatenating multiple snapshot");
		return 1;
	}
	c->sources = args_memory(calloc(c->count, sizeof(*c->sources)));
	for (i = 0; i < c->count; i++) {
		struct open_request r = {
			.name = c->names[i],
			.format = c->source_format,
			.image_opts = c->image_opts,
			.flags = c->source_flags | (c->share ? IMG_OPEN_SHARE : 0) |
				 (c->salvage ? IMG_OPEN_SALVAGE : 0),
			.references = c->references,
			.snapshot = c->one_snapshot ? &c->snapshot : NULL,
		};

		c->sources[i] = open_image(&r);
		if (!c->sources[i])
			return 1;
		if (!c->quiet)
			open_warn_of_content(c->names[i], img_guessed_content(c->sources[i]));
		c->total += img_size(c->sources[i]);
		if (c->total > INT64_MAX) {
			report_error("The sources are larger together than an image can be");
			return 1;
		}
	}
	return GO_ON;
}

/* ---- A new target ---- */

static int resolve_creation(struct convert *c)
{
	if (!creation_possible(c->target_format, NULL) ||
	    !creation_resolve(&c->creation, c->target_format))
		return 1;
	if (!c->backing_name)
		c->backing_name = c->creation.backing_name;
	if (!c->backing_format)
		c->backing_format = c->creation.backing_format;
	return GO_ON;
}

static struct img_create_options creation_options(const struct convert *c)
{
	return (struct img_create_options){
		.format = c->target_format,
		.backing_name = c->backing_name,
		.backing_format = c->backing_format,
		.options = c->creation.rest.items,
		.compress = c->compress,
		.flags = c->target_flags | (c->sparse_bytes ? IMG_OPEN_UNMAP : 0),
		.references = open_references(c->references),
		.secrets = open_objects(),
	};
}

/* ---- A target that exists ---- */

static int open_target(struct convert *c)
{
	struct open_request r = {
		.name = c->target_name,
		.format = c->target_image_opts ? NULL : c->target_format,
		.image_opts = c->target_image_opts,
		/* What is zeroes already keeps the room that was allocated for it. */
		.flags = c->target_flags | IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE |
			 (c->sparse_bytes && !c->target_is_zero ? IMG_OPEN_UNMAP : 0),
		.references = c->references,
		.warn_if_probed = true,
	};

	c->target = open_image(&r);
	return c->target && open_check_children(c->target, c->force) ? GO_ON : 1;
}

/* ---- Copying ---- */

static void report_unreadable(void *user, struct img *source, uint64_t off, uint64_t len,
			      const struct img_error *why)
{
	(void)user;
	(void)source; /* the sentence names it */
	report_warning("error while reading offset %" PRIu64 ": %s; %" PRIu64
		       " bytes are zeroes in the target",
		       off, img_error_text(why), len);
}

/* What is the same for all ways of copying. */
static struct img_copy_options copy_options(const struct convert *c, struct progress *progress)
{
	return (struct img_copy_options){
		.parallel = (unsigned)c->parallel,
		.rate = c->rate,
		.target_is_zero = c->target_is_zero,
		.out_of_order = c->out_of_order,
		.sparse_bytes = c->sparse_bytes,
		.no_sparse = !c->sparse_bytes,
		.share_backing = c->backing_name,
		.salvage = c->salvage,
		.unreadable = c->quiet ? NULL : report_unreadable,
		.progress = progress_step,
		.user = progress,
	};
}

/* What img_convert() reports, as callers know it. */
static void report_convert_failure(const struct convert *c, enum img_convert_stage stage,
				   const struct img_error *err)
{
	switch (stage) {
	case IMG_CONVERT_CHECK:
		if (img_error_code(err) == -ENOSPC && c->target)
			report_error("output file is smaller than input file");
		else
			report_error("%s", img_error_text(err));
		break;
	case IMG_CONVERT_READ:
		report_failure(err, "error while reading '%s'", c->names[0]);
		break;
	case IMG_CONVERT_CREATE:
		report_failure(err, "%s: error while converting %s", c->target_name, c->target_format);
		break;
	case IMG_CONVERT_COPY:
		report_failure(err, "error while copying '%s'%s to '%s'", c->names[0],
			       c->count > 1 ? ", ..." : "", c->target_name);
		break;
	case IMG_CONVERT_FINISH:
		report_failure(err, "error while writing '%s'", c->target_name);
		break;
	}
}

static int close_target(struct convert *c, struct img_error *err)
{
	int rc = img_close(c->target, err);

	c->target = NULL;
	if (rc)
		report_convert_failure(c, IMG_CONVERT_FINISH, err);
	return rc;
}

/* To path, to fd if that is NULL, or to a target that is open. */
static int convert(struct convert *c, const char *path, int fd)
{
	struct progress progress;
	struct img_convert_options o = {
		.sources = c->sources,
		.source_count = c->count,
		.input = c->input,
		.path = path,
		.target = c->target,
		.to_fd = fd >= 0,
		.fd = fd,
		.create = creation_options(c),
		.copy = copy_options(c, &progress),
		.sink_sparse_bytes = c->sparse_given ? c->sparse_bytes : 0,
		.keep_identifiers = c->keep_ids,
	};
	struct img_error *err = args_memory(img_error_new());
	enum img_convert_stage stage;
	uint64_t size = c->total;
	int rc;

	o.create.new_size = &size;
	progress_begin(&progress, c->progress && !c->quiet, c->total);
	rc = img_convert(&o, &stage, err);
	if (rc && (rc != -ECANCELED || !signals_stop()))
		report_convert_failure(c, stage, err);
	if (!rc && c->target)
		rc = close_target(c, err);
	if (!rc)
		progress_complete(&progress);
	progress_end(&progress);
	if (!rc && c->size_known && !c->quiet)
		open_warn_rounded(c->target_name, c->total, size);
	img_error_free(err);
	return rc ? 1 : 0;
}

/*
 * A pipe to write to: standard output, or one that has a name, opening which waits for who reads
 * from it. *standard: it is what progress goes to. -1: it cannot be; reported.
 */
static int open_pipe(const struct convert *c, bool *standard)
{
	struct stat mine, its;
	int fd = STDOUT_FILENO;

	*standard = true;
	if (!strcmp(c->target_name, "-"))
		return fd;
	fd = open(c->target_name, O_WRONLY | O_CLOEXEC);
	if (fd < 0) {
		report_error("%s: Could not open the pipe: %s", c->target_name, strerrordesc_np(errno));
		return fd;
	}
	*standard = !fstat(fd, &its) && !fstat(STDOUT_FILENO, &mine) &&
		    its.st_dev == mine.st_dev && its.st_ino == mine.st_ino;
	return fd;
}

/* What cannot be done with it. */
static int check_pipe(const struct convert *c, bool standard)
{
	if (standard && c->progress && !c->quiet) {
		report_error("-p cannot be used when the image goes to standard output");
		return 1;
	}
	if (c->target_flags & ~(unsigned)IMG_OPEN_UNSAFE) {
		report_error("-t %s cannot be used when the image goes to standard output or a pipe, "
			     "which is open already",
			     c->target_cache);
		return 1;
	}
	return GO_ON;
}

static int write_pipe(struct convert *c)
{
	bool standard;
	int fd = open_pipe(c, &standard), rc = fd < 0 ? 1 : check_pipe(c, standard);

	if (rc == GO_ON) {
		signal(SIGPIPE, SIG_IGN); /* a reader that left is an error with words */
		signals_leave_stops();	  /* one that stands still is not waited for */
		rc = convert(c, NULL, fd);
	}
	if (fd >= 0 && fd != STDOUT_FILENO)
		close(fd);
	return rc;
}

static int write_target(struct convert *c)
{
	const char *path = NULL;

	if (c->target_is_pipe)
		return write_pipe(c);
	if (c->no_create) {
		if (open_target(c) != GO_ON)
			return 1;
	} else {
		path = open_new_path(c->target_name, NULL, true);
		if (!path)
			return 1;
		if (!c->quiet)
			open_warn_replaced(path, c->target_flags);
	}
	return convert(c, path, -1);
}

static int convert_run(int argc, char **argv)
{
	struct convert c = { .sparse_bytes = 4096 };
	size_t i;
	int rc = parse(&c, argc, argv);

	if (rc == GO_ON)
		rc = open_sources(&c);
	if (rc == GO_ON && !c.no_create)
		rc = resolve_creation(&c);
	if (rc == GO_ON)
		rc = check_unknown_size(&c);
	if (rc == GO_ON)
		rc = write_target(&c);
	input_close(c.input);
	img_close(c.target, NULL); /* a new one that was not published disappears */
	for (i = 0; c.sources && i < c.count; i++)
		img_close(c.sources[i], NULL);
	free(c.sources);
	open_snapshot_clear(&c.snapshot);
	creation_free(&c.creation);
	signals_finish();
	return rc;
}

const struct command convert_command = {
	.name = "convert",
	.purpose = "copy images to a new one, of any format",
	.description = "Copy an image to a new one. Several sources are put one behind the other. "
		       "The target takes the place of what a file of that name holds. '-' is "
		       "standard input or output: a pipe, also one with a name, can carry a raw disk "
		       "or a streamOptimized VMDK.",
	.options = option_rows,
	.operands = operand_rows,
	.run = convert_run,
};
