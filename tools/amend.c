/* amend: change what was chosen when an image was made. */
#include <stdlib.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/creation.h"
#include "tools/open.h"
#include "tools/progress.h"
#include "tools/report.h"

static const struct option_row option_rows[] = {
	OPTION(.letter = 'o', .name = "options", .metavar = "KEY=VALUE,...", .value = VALUE_CREATE_OPTIONS,
	       .flags = OPTION_MANY, .help = "what is to be changed; '-o help' lists what can be"),
	OPTION_ROW_FORMAT("of the image"),
	OPTION_ROW_IMAGE_OPTS("FILE is a list KEY=VALUE,... instead of a name"),
	OPTION_ROW_CACHE('t'),
	OPTION(.name = "force", .id = ARG_FORCE,
	       .help = "also what cannot be undone: erase the last key slot, overwrite one in use"),
	OPTION(.letter = 'p', .name = "progress", .help = "show when it is done"),
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

struct amend {
	struct open_request request;
	struct creation options;
	const char *cache;
	bool force, progress, quiet;
};

static int parse_options(struct amend *amend, struct options *o)
{
	int opt;

	while ((opt = options_next(o)) != OPTIONS_END) {
		switch (opt) {
		case 'o':
			if (!creation_add(&amend->options, o->value))
				return 1;
			break;
		case 't':
			amend->cache = o->value;
			break;
		case ARG_FORCE:
			amend->force = true;
			break;
		case 'p':
			amend->progress = true;
			break;
		case 'q':
			amend->quiet = true;
			break;
		case OPTIONS_EXIT:
			return o->code;
		default:
			if (!open_option(&amend->request, opt, o->value))
				return 1;
		}
	}
	return GO_ON;
}

static int parse(struct amend *amend, int argc, char **argv)
{
	struct open_request *r = &amend->request;
	struct options o;
	int rc;

	amend->cache = "writeback";
	options_begin(&o, &amend_command, argc, argv);
	rc = parse_options(amend, &o);
	if (rc != GO_ON)
		return rc;
	if (!amend->options.given.count)
		return report_usage("amend", "Must specify options (-o)");
	if (creation_wants_help(&amend->options) && r->format)
		return creation_print_amend_help(r->format);
	if (o.operand_count != 1)
		return report_usage("amend", "Expecting one image file name");
	r->name = o.operands[0];
	if (!args_cache("cache", amend->cache, &r->flags) ||
	    !args_one_way_to_open(r->image_opts, r->format))
		return 1;
	/* which options there are the file alone says; what is below has key slots of its own */
	r->flags |= creation_wants_help(&amend->options) ? IMG_OPEN_SELF_ONLY | IMG_OPEN_SHARE
							 : IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE | IMG_OPEN_NO_BACKING;
	return GO_ON;
}

static int amend_image(void *user, struct img *img, struct img_error *err)
{
	const struct amend *amend = user;
	const struct img_amend_options how = {
		.options = amend->options.given.items,
		.force = amend->force,
		.secrets = open_objects(),
	};
	struct progress progress;
	int rc;

	if (creation_wants_help(&amend->options))
		return creation_print_amend_help(img_format(img));
	progress_begin(&progress, amend->progress && !amend->quiet, 1);
	rc = img_amend(img, &how, err);
	if (!rc)
		progress_complete(&progress);
	progress_end(&progress);
	if (rc)
		report_error("%s", img_error_text(err));
	return rc ? 1 : 0;
}

static int amend_run(int argc, char **argv)
{
	struct amend amend = { 0 };
	int rc = parse(&amend, argc, argv);

	if (rc == GO_ON)
		rc = open_and_change(&amend.request, amend_image, &amend);
	creation_free(&amend.options);
	return rc;
}

const struct command amend_command = {
	.name = "amend",
	.purpose = "change what was chosen when an image was made",
	.description = "Change an image's options. Of an encrypted image: add a passphrase to a free key slot "
		       "(state=active,new-secret=ID), or erase the key slots of one "
		       "(state=inactive,old-secret=ID or keyslot=N).",
	.options = option_rows,
	.operands = operand_rows,
	.notes = "Passphrases are given by --object secret. The last key slot in use is erased with "
		 "--force only: nobody can read the disk afterwards.",
	.run = amend_run,
};
