/* resize: make a disk larger or smaller. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/open.h"
#include "tools/report.h"
#include "tools/size.h"

enum {
	OPT_SHRINK = ARG_OWN,
	OPT_PREALLOCATION,
};

static const struct option_row option_rows[] = {
	OPTION_ROW_FORMAT("of the image"),
	OPTION_ROW_IMAGE_OPTS("FILE is a list KEY=VALUE,... instead of a name"),
	OPTION(.name = "shrink", .id = OPT_SHRINK,
	       .help = "allow a smaller disk: what lies behind its end is lost"),
	OPTION(.name = "preallocation", .id = OPT_PREALLOCATION, .metavar = "MODE",
	       .value = VALUE_CHOICE, .choices = "off metadata falloc full",
	       .help = "off (default), metadata, falloc or full: for what is new"),
	OPTION_ROW_QUIET,
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	OPTION_ROW_FORCE,
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE", .value = VALUE_FILE },
	{ .metavar = "[+-]SIZE", .value = VALUE_SIZE },
	{ 0 },
};

enum {
	GO_ON = -1,
};

struct resize {
	struct open_request request;
	const char *size; /* as given, with its sign */
	char sign;	  /* '+', '-' or 0 */
	uint64_t bytes;
	enum img_preallocate preallocation;
	bool shrink, force, quiet;
};

static bool parse_preallocation(const char *text, enum img_preallocate *out)
{
	static const struct {
		const char *name;
		enum img_preallocate value;
	} modes[] = {
		{ "off", IMG_PREALLOCATE_OFF },
		{ "metadata", IMG_PREALLOCATE_METADATA },
		{ "falloc", IMG_PREALLOCATE_FALLOC },
		{ "full", IMG_PREALLOCATE_FULL },
	};
	size_t i;

	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (!strcmp(text, modes[i].name)) {
			*out = modes[i].value;
			return true;
		}
	}
	report_error("Invalid preallocation mode '%s'", text);
	return false;
}

/*
 * "-1M" is a size here, not options: no option is a digit. Take it out, so that
 * the parser does not see it; what follows "--" it leaves alone anyway.
 */
static const char *parse_negative_size(int *argc, char **argv)
{
	char *size;
	int i;

	for (i = 1; i < *argc && strcmp(argv[i], "--"); i++) {
		if (argv[i][0] != '-' || !isdigit((unsigned char)argv[i][1]))
			continue;
		size = argv[i];
		memmove(&argv[i], &argv[i + 1], (size_t)(*argc - i) * sizeof(*argv));
		(*argc)--;
		return size;
	}
	return NULL;
}

static int parse_size(struct resize *resize)
{
	const char *text = resize->size;
	int rc;

	if (*text == '+' || *text == '-')
		resize->sign = *text++;
	rc = img_parse_size(text, &resize->bytes);
	if (rc)
		args_report_bad_size("size", text, rc);
	return rc ? 1 : GO_ON;
}

static int parse(struct resize *resize, int argc, char **argv)
{
	struct open_request *r = &resize->request;
	struct options o;
	char **operand;
	int opt;

	resize->size = parse_negative_size(&argc, argv);
	options_begin(&o, &resize_command, argc, argv);
	while ((opt = options_next(&o)) != OPTIONS_END) {
		switch (opt) {
		case OPT_SHRINK:
			resize->shrink = true;
			break;
		case OPT_PREALLOCATION:
			if (!parse_preallocation(o.value, &resize->preallocation))
				return 1;
			break;
		case 'q':
			resize->quiet = true;
			break;
		case ARG_FORCE:
			resize->force = true;
			break;
		case OPTIONS_EXIT:
			return o.code;
		default:
			if (!open_option(r, opt, o.value))
				return 1;
		}
	}
	operand = o.operands;
	if (*operand)
		r->name = *operand++;
	if (*operand && !resize->size)
		resize->size = *operand++;
	if (!r->name || !resize->size)
		return report_usage("resize", "Expecting image file name and size");
	if (*operand)
		return report_usage("resize", "Extra argument(s) in command line");
	if (!args_one_way_to_open(r->image_opts, r->format))
		return 1;
	r->flags = IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE;
	r->warn_if_probed = true;
	return parse_size(resize);
}

/* The size in bytes that was asked for; false: there is no such size; reported. */
static bool new_size(const struct resize *resize, uint64_t now, uint64_t *size)
{
	uint64_t wanted = resize->bytes;

	if (resize->sign == '+' && __builtin_add_overflow(now, resize->bytes, &wanted))
		wanted = UINT64_MAX;
	if (resize->sign == '-')
		wanted = now > resize->bytes ? now - resize->bytes : 0;
	if (!wanted || wanted > INT64_MAX) {
		report_error(wanted ? "New image size is too large"
				    : "New image size must be positive");
		return false;
	}
	*size = wanted;
	return true;
}

static int resize_image(void *user, struct img *img, struct img_error *err)
{
	const struct resize *resize = user;
	uint64_t size;
	int rc;

	if (!new_size(resize, img_size(img), &size))
		return 1;
	if (size <= img_size(img) && resize->preallocation != IMG_PREALLOCATE_OFF) {
		report_error("Preallocation can only be used for growing images");
		return 1;
	}
	if (size < img_size(img) && !resize->shrink) {
		report_error("Use the --shrink option to perform a shrink operation.");
		report_error(
			"warning: Shrinking an image will delete all data beyond the shrunken image's "
			"end. Before performing such an operation, make sure there is no important "
			"data there.");
		return 1;
	}
	if (!(img_format_features(img_format(img)) & IMG_FORMAT_RESIZE)) {
		report_error("Image format driver does not support resize");
		return 1;
	}
	if (!open_check_children(img, resize->force))
		return 1;
	rc = img_resize(img, size, resize->preallocation, err);
	if (rc)
		report_error("%s", img_error_text(err));
	return rc ? 1 : 0;
}

static int resize_run(int argc, char **argv)
{
	struct resize resize = { 0 };
	int rc = parse(&resize, argc, argv);

	if (rc != GO_ON)
		return rc;
	rc = open_and_change(&resize.request, resize_image, &resize);
	if (!rc && !resize.quiet)
		puts("Image resized.");
	return rc;
}

const struct command resize_command = {
	.name = "resize",
	.purpose = "make a disk larger or smaller",
	.description = "Make the disk in an image larger or smaller: SIZE bytes, or by SIZE with a "
		       "sign. What is new reads as zeroes; partitions and file systems are not touched.",
	.options = option_rows,
	.operands = operand_rows,
	.notes = "SIZE is in bytes, or ends in k, M, G, T, P or E (powers of 1024).",
	.run = resize_run,
};
