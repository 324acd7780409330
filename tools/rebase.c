/* rebase: give an image another backing file. */
#include <errno.h>

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
	OPTION(.letter = 'b', .name = "backing", .metavar = "BACKING", .value = VALUE_FILE,
	       .help = "the new backing file, relative to FILE's folder; \"\" for none"),
	OPTION(.letter = 'B', .name = "backing-format", .metavar = "FORMAT", .value = VALUE_FORMAT,
	       .help = "of BACKING"),
	OPTION(.letter = 'F', .metavar = "FORMAT", .value = VALUE_FORMAT, .flags = OPTION_ALIAS,
	       .help = "as -B"),
	OPTION(.letter = 'T', .name = "backing-cache", .metavar = "MODE", .value = VALUE_CHOICE,
	       .choices = OPTIONS_CACHE_MODES, .help = "the same as -t, of the backing files"),
	OPTION(.letter = 'u', .name = "backing-unsafe",
	       .help = "change the name alone: BACKING holds the same as what FILE was based on"),
	OPTION(.letter = 'c', .name = "compress", .help = "store what is copied compressed"),
	OPTION_ROW_SHARE("a backing file"),
	OPTION(.letter = 'p', .name = "progress",
	       .help = "show how far it is; else SIGUSR1 does once"),
	OPTION_ROW_QUIET,
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE", .value = VALUE_FILE },
	{ 0 },
};

enum { GO_ON = -1 };

struct rebase {
	struct open_request request;
	const char *backing, *format;
	const char *cache, *backing_cache;
	unsigned backing_flags;
	bool unsafe, compress, share, progress, quiet;
};

static int parse_options(struct rebase *rebase, struct options *o)
{
	struct open_request *r = &rebase->request;
	int opt;

	while ((opt = options_next(o)) != OPTIONS_END) {
		switch (opt) {
		case 't':
			rebase->cache = o->value;
			break;
		case 'b':
			rebase->backing = o->value;
			break;
		case 'B':
		case 'F':
			rebase->format = o->value;
			break;
		case 'T':
			rebase->backing_cache = o->value;
			break;
		case 'u':
			rebase->unsafe = true;
			break;
		case 'c':
			rebase->compress = true;
			break;
		case 'U':
			rebase->share = true;
			break;
		case 'p':
			rebase->progress = true;
			break;
		case 'q':
			rebase->quiet = true;
			break;
		case OPTIONS_EXIT:
			return o->code;
		default:
			if (!open_option(r, opt, o->value))
				return 1;
		}
	}
	return GO_ON;
}

static int parse(struct rebase *rebase, int argc, char **argv)
{
	struct open_request *r = &rebase->request;
	struct options o;
	int rc;

	rebase->cache = rebase->backing_cache = "writeback";
	options_begin(&o, &rebase_command, argc, argv);
	rc = parse_options(rebase, &o);
	if (rc != GO_ON)
		return rc;
	if (o.operand_count != 1)
		return report_usage("rebase", "Expecting one image file name");
	if (!rebase->backing && !rebase->unsafe)
		return report_usage("rebase", "Must specify backing file (-b) or use unsafe mode (-u)");
	r->name = o.operands[0];
	r->warn_if_probed = true;
	if (!args_cache("cache", rebase->cache, &r->flags) ||
	    !args_cache("source cache", rebase->backing_cache, &rebase->backing_flags) ||
	    !args_one_way_to_open(r->image_opts, r->format))
		return 1;
	r->flags |= IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE | IMG_OPEN_UNMAP |
		    (rebase->unsafe ? IMG_OPEN_NO_BACKING | IMG_OPEN_NO_DATA : 0u);
	rebase->backing_flags |= rebase->share ? IMG_OPEN_SHARE : 0u;
	r->backing_flags = &rebase->backing_flags;
	if (rebase->format && img_format_features(rebase->format) < 0) {
		report_error("Invalid format name: '%s'", rebase->format);
		return 1;
	}
	return GO_ON;
}

/* Under the name of the format that is stored is what the file will be taken for. */
static bool check_backing(const struct rebase *rebase, const struct img *img)
{
	bool named = rebase->backing && *rebase->backing;

	if (!named || rebase->format ||
	    !(img_format_features(img_format(img)) & IMG_FORMAT_BACKING))
		return true;
	report_error("Could not change the backing file to '%s': backing format must be specified",
		     rebase->backing);
	return false;
}

static int rebase_image(void *user, struct img *img, struct img_error *err)
{
	const struct rebase *rebase = user;
	struct progress progress;
	const struct img_rebase_options options = {
		.backing = rebase->backing,
		.format = rebase->backing && *rebase->backing ? rebase->format : NULL,
		.unsafe = rebase->unsafe,
		.compress = rebase->compress,
		.backing_flags = rebase->backing_flags,
		.secrets = open_objects(),
		.progress = progress_step,
		.user = &progress,
	};
	int rc;

	if (!check_backing(rebase, img))
		return 1;
	progress_begin(&progress, rebase->progress && !rebase->quiet, img_size(img));
	rc = img_rebase(img, &options, err);
	if (!rc)
		progress_complete(&progress);
	else if (rc != -ECANCELED || !signals_stop())
		report_error("%s", img_error_text(err));
	progress_end(&progress);
	return rc ? 1 : 0;
}

static int rebase_run(int argc, char **argv)
{
	struct rebase rebase = { 0 };
	int rc = parse(&rebase, argc, argv);

	if (rc != GO_ON)
		return rc;
	rc = open_and_change(&rebase.request, rebase_image, &rebase);
	signals_finish();
	return rc;
}

const struct command rebase_command = {
	.name = "rebase",
	.purpose = "give an image another backing file",
	.description = "Give an image another backing file, or none. It reads the same afterwards: what "
		       "the new one has otherwise than the old one is copied to the image before.",
	.options = option_rows,
	.operands = operand_rows,
	.notes = "With -u nothing is compared or copied, and the old backing file need not be there: "
		 "that repairs the name of one that was moved, and the link to one that a format no "
		 "longer takes for the parent, though it is.",
	.run = rebase_run,
};
