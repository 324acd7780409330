/* measure: how large the file of a new image would be. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/creation.h"
#include "tools/json.h"
#include "tools/open.h"
#include "tools/report.h"

static const struct option_row option_rows[] = {
	OPTION_ROW_FORMAT("of FILE"),
	OPTION_ROW_IMAGE_OPTS("FILE is a list KEY=VALUE,... instead of a name"),
	OPTION(.letter = 'O', .name = "target-format", .metavar = "FORMAT", .value = VALUE_FORMAT,
	       .help = "of the new image (default: raw)"),
	OPTION(.letter = 'o', .name = "options", .metavar = "KEY=VALUE,...", .value = VALUE_CREATE_OPTIONS,
	       .flags = OPTION_MANY, .help = "options of that format; '-o help' lists them"),
	OPTION(.letter = 's', .name = "size", .metavar = "SIZE", .value = VALUE_SIZE,
	       .help = "of an empty disk, instead of FILE"),
	OPTION(.letter = 'l', .name = "snapshot", .metavar = "SNAPSHOT",
	       .help = "that snapshot inside FILE: its ID or name, or snapshot.id=...,snapshot.name=..."),
	OPTION_ROW_OUTPUT,
	OPTION_ROW_SHARE("the image"),
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE", .value = VALUE_FILE, .optional = true },
	{ 0 },
};

enum { GO_ON = -1 };

struct measure {
	struct open_request request;
	struct open_snapshot snapshot;
	struct creation options;
	const char *format;
	uint64_t size;
	bool have_size, json;
};

static int parse_options(struct measure *m, struct options *o)
{
	int opt;

	while ((opt = options_next(o)) != OPTIONS_END) {
		switch (opt) {
		case 'O':
			m->format = o->value;
			break;
		case 'o':
			if (!creation_add(&m->options, o->value))
				return 1;
			break;
		case 's':
			if (!args_size("image size", o->value, 0, INT64_MAX, &m->size))
				return 1;
			m->have_size = true;
			break;
		case 'l':
			if (!open_parse_snapshot(o->value, &m->snapshot))
				return 1;
			m->request.snapshot = &m->snapshot;
			break;
		case ARG_OUTPUT:
			if (!args_output("measure", o->value, &m->json))
				return 1;
			break;
		case 'U':
			m->request.flags |= IMG_OPEN_SHARE;
			break;
		case OPTIONS_EXIT:
			return o->code;
		default:
			if (!open_option(&m->request, opt, o->value))
				return 1;
		}
	}
	return GO_ON;
}

static int parse(struct measure *m, int argc, char **argv)
{
	struct open_request *r = &m->request;
	struct options o;
	int rc;

	options_begin(&o, &measure_command, argc, argv);
	rc = parse_options(m, &o);
	if (rc != GO_ON)
		return rc;
	if (o.operand_count > 1)
		return report_usage("measure", "At most one filename argument is allowed.");
	r->name = o.operand_count ? o.operands[0] : NULL;
	if (!r->name && (r->image_opts || r->format || r->snapshot))
		return report_usage("measure", "--image-opts, -f, and -l require a filename argument.");
	if (!creation_possible(m->format, NULL))
		return 1;
	if (creation_wants_help(&m->options))
		return creation_print_help(m->format);
	if (r->name && m->have_size)
		return report_usage("measure", "--size N cannot be used together with a filename.");
	if (!r->name && !m->have_size)
		return report_usage("measure", "Either --size N or one filename must be specified.");
	if (!creation_resolve(&m->options, m->format))
		return 1;
	if (m->options.size)
		return report_usage("measure", "The size is given by --size, not among the options.");
	return args_one_way_to_open(r->image_opts, r->format) ? GO_ON : 1;
}

static void print(const struct measure *m, const struct img_measure_result *result)
{
	struct json j = { .out = stdout };

	if (!m->json) {
		printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n",
		       result->required, result->fully_allocated);
		return;
	}
	json_open(&j, NULL, '{');
	json_put_uint(&j, "required", result->required);
	json_put_uint(&j, "fully-allocated", result->fully_allocated);
	json_close(&j, '}');
}

static int measure_size(struct measure *m, uint64_t size)
{
	const struct img_create_options how = {
		.format = m->format,
		.size = size,
		.have_size = true,
		.options = m->options.rest.items,
		.secrets = open_objects(),
	};
	struct img_measure_result result;
	struct img_error *err = args_memory(img_error_new());
	int rc = img_measure(&how, &result, err);

	if (rc)
		report_error("%s", img_error_text(err));
	else
		print(m, &result);
	img_error_free(err);
	return rc ? 1 : 0;
}

static int measure_run(int argc, char **argv)
{
	struct measure m = { .format = "raw" };
	int rc = parse(&m, argc, argv);

	if (rc == GO_ON && m.have_size) {
		rc = measure_size(&m, m.size);
	} else if (rc == GO_ON) {
		struct img *img = open_image(&m.request);

		rc = img ? measure_size(&m, img_size(img)) : 1;
		img_close(img, NULL);
	}
	open_snapshot_clear(&m.snapshot);
	creation_free(&m.options);
	return rc;
}

const struct command measure_command = {
	.name = "measure",
	.purpose = "say how large the file of a new image would be",
	.description = "Say how large the file of a new image would be, for the disk in FILE or an empty one of "
		       "SIZE bytes, and how large when all of it is allocated. Formats raw and luks.",
	.options = option_rows,
	.operands = operand_rows,
	.run = measure_run,
};
