/* commit: write what an image has to its backing file. */
#include <errno.h>
#include <stdio.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/open.h"
#include "tools/progress.h"
#include "tools/report.h"
#include "tools/signals.h"

static const struct option_row option_rows[] = {
	OPTION_ROW_FORMAT("of the image"),
	OPTION_ROW_IMAGE_OPTS("FILE is a list KEY=VALUE,... instead of a name"),
	OPTION_ROW_CACHE('t'),
	OPTION(.letter = 'b', .name = "base", .metavar = "BASE", .value = VALUE_FILE,
	       .help = "an image of the chain to write to, with what those between have too "
		       "(default: the backing file); FILE is not emptied"),
	OPTION(.letter = 'd', .name = "drop", .help = "FILE is not emptied: it is dropped anyway"),
	OPTION(.letter = 'r', .name = "rate-limit", .metavar = "RATE", .value = VALUE_SIZE,
	       .help = "bytes a second that are copied; zeroes do not count"),
	OPTION(.letter = 'p', .name = "progress",
	       .help = "show how far it is; else SIGUSR1 does once"),
	OPTION_ROW_QUIET,
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	OPTION_ROW_FORCE,
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE", .value = VALUE_FILE },
	{ 0 },
};

enum { GO_ON = -1 };

struct commit {
	struct open_request request;
	const char *base;
	uint64_t rate;
	bool keep, force, progress, quiet;
};

static int parse(struct commit *commit, int argc, char **argv)
{
	struct open_request *r = &commit->request;
	const char *cache = "writeback";
	struct options o;
	int opt;

	options_begin(&o, &commit_command, argc, argv);
	while ((opt = options_next(&o)) != OPTIONS_END) {
		switch (opt) {
		case 't':
			cache = o.value;
			break;
		case 'b':
			commit->base = o.value;
			commit->keep = true; /* it would show what is between, which is not the same */
			break;
		case 'd':
			commit->keep = true;
			break;
		case 'r':
			if (!args_size("rate limit", o.value, 0, INT64_MAX, &commit->rate))
				return 1;
			break;
		case 'p':
			commit->progress = true;
			break;
		case 'q':
			commit->quiet = true;
			break;
		case ARG_FORCE:
			commit->force = true;
			break;
		case OPTIONS_EXIT:
			return o.code;
		default:
			if (!open_option(r, opt, o.value))
				return 1;
		}
	}
	if (o.operand_count != 1)
		return report_usage("commit", "Expecting one image file name");
	r->name = o.operands[0];
	r->warn_if_probed = true;
	if (!args_cache("cache", cache, &r->flags) ||
	    !args_one_way_to_open(r->image_opts, r->format))
		return 1;
	r->flags |= IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE | IMG_OPEN_UNMAP;
	return GO_ON;
}

/* *base: NULL: the image directly below. False: there is none; reported. */
static bool find_base(const struct commit *commit, const struct img *img, struct img **base)
{
	*base = NULL;
	if (!commit->base)
		return true;
	*base = img_find_backing(img, commit->base);
	if (!*base)
		report_error("Did not find '%s' in the backing chain of '%s'", commit->base,
			     commit->request.name);
	return *base;
}

static int commit_image(void *user, struct img *img, struct img_error *err)
{
	const struct commit *commit = user;
	struct progress progress;
	struct img_commit_options options = {
		.keep = commit->keep,
		.rate = commit->rate,
		.progress = progress_step,
		.user = &progress,
	};
	struct img *written;
	int rc;

	if (!find_base(commit, img, &options.base))
		return 1;
	written = options.base ? options.base : img_backing(img);
	if (written && !open_check_children(written, commit->force))
		return 1;
	progress_begin(&progress, commit->progress && !commit->quiet, img_size(img));
	rc = img_commit(img, &options, err);
	if (!rc)
		progress_complete(&progress);
	else if (rc != -ECANCELED || !signals_stop())
		report_error("%s", img_error_text(err));
	progress_end(&progress);
	return rc ? 1 : 0;
}

static int commit_run(int argc, char **argv)
{
	struct commit commit = { 0 };
	int rc = parse(&commit, argc, argv);

	if (rc != GO_ON)
		return rc;
	rc = open_and_change(&commit.request, commit_image, &commit);
	if (!rc && !commit.quiet)
		puts("Image committed.");
	signals_finish();
	return rc;
}

const struct command commit_command = {
	.name = "commit",
	.purpose = "write what an image has to its backing file",
	.description = "Write what an image has to its backing file, which becomes as large if it is "
		       "smaller, and empty the image: it reads the same before, meanwhile and "
		       "afterwards. Other images that are based on that file do not.",
	.options = option_rows,
	.operands = operand_rows,
	.run = commit_run,
};
