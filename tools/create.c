/* create: make a new image. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/creation.h"
#include "tools/open.h"
#include "tools/report.h"

static const struct option_row option_rows[] = {
	OPTION(.letter = 'f', .name = "format", .metavar = "FORMAT", .value = VALUE_NEW_FORMAT,
	       .help = "of the new image (default: raw)"),
	OPTION(.letter = 'o', .name = "options", .metavar = "KEY=VALUE,...",
	       .value = VALUE_CREATE_OPTIONS, .flags = OPTION_MANY,
	       .help = "options of the format; '-o help' lists them"),
	OPTION(.letter = 'b', .name = "backing", .metavar = "FILE", .value = VALUE_FILE,
	       .help = "what was not written reads as in this image; a relative name starts "
		       "at the new image's folder"),
	OPTION(.letter = 'B', .name = "backing-format", .metavar = "FORMAT",
	       .value = VALUE_FORMAT, .help = "of the backing image"),
	OPTION(.letter = 'F', .id = 'B', .metavar = "FORMAT", .value = VALUE_FORMAT,
	       .flags = OPTION_ALIAS, .help = "older spelling of -B"),
	OPTION(.letter = 'u', .name = "backing-unsafe", .help = "do not open the backing image"),
	OPTION_ROW_QUIET,
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE", .value = VALUE_FILE },
	{ .metavar = "SIZE", .value = VALUE_SIZE, .optional = true },
	{ 0 },
};

struct create {
	const char *file, *size; /* operands */
	const char *path;	 /* that file means */
	const char *format;
	const char *backing_name, *backing_format;
	const char *references;
	bool backing_unchecked, quiet;
	struct creation creation;
};

enum { GO_ON = -1 };

/* Fill c; GO_ON, or the exit code. */
static int parse(struct create *c, int argc, char **argv)
{
	struct options o;
	int opt;

	options_begin(&o, &create_command, argc, argv);
	while ((opt = options_next(&o)) != OPTIONS_END) {
		switch (opt) {
		case 'f':
			c->format = o.value;
			break;
		case 'o':
			if (!creation_add(&c->creation, o.value))
				return 1;
			break;
		case 'b':
			c->backing_name = o.value;
			break;
		case 'B':
			c->backing_format = o.value;
			break;
		case 'u':
			c->backing_unchecked = true;
			break;
		case 'q':
			c->quiet = true;
			break;
		case ARG_OBJECT:
			if (!open_add_object(o.value))
				return 1;
			break;
		case ARG_REFERENCES:
			c->references = o.value;
			break;
		case OPTIONS_EXIT:
			return o.code;
		}
	}
	if (o.operand_count > 0)
		c->file = o.operands[0];
	if (o.operand_count > 1)
		c->size = o.operands[1];
	if (o.operand_count > 2)
		return report_usage("create", "Unexpected argument: %s", o.operands[2]);
	return GO_ON;
}

/* The value as it would be given with -o: commas doubled. */
static void print_setting(const char *key, const struct img_value *value)
{
	const char *at;
	char *text;

	printf(" %s=", key);
	switch (img_value_kind(value)) {
	case IMG_VALUE_STRING:
		text = args_memory(img_printable(img_value_string(value)));
		for (at = text; *at; at++) {
			if (*at == ',')
				putchar(',');
			putchar(*at);
		}
		free(text);
		break;
	case IMG_VALUE_BOOL:
		fputs(img_value_bool(value) ? "on" : "off", stdout);
		break;
	default:
		printf("%llu", (unsigned long long)img_value_uint(value));
	}
}

static void print_formatting(const char *file, const struct img_value *settings)
{
	size_t i;

	fputs("Formatting '", stdout);
	print_escaped(file);
	printf("', fmt=%s", img_value_string(img_value_get(settings, "fmt")));
	for (i = 0; i < img_value_count(settings); i++)
		if (strcmp(img_value_key_at(settings, i), "fmt"))
			print_setting(img_value_key_at(settings, i), img_value_at(settings, i));
	putchar('\n');
}

static int create_image(struct create *c, struct img_create_options *options)
{
	struct img_error *err = args_memory(img_error_new());
	struct img_value *settings = NULL;
	int rc = img_create_prepare(c->path, options, &settings, err);
	uint64_t size = 0;

	options->new_size = &size;
	if (!rc) {
		if (!c->quiet) {
			print_formatting(c->file, settings);
			open_warn_replaced(c->path, 0);
		}
		rc = img_create(c->path, options, err);
	}
	options->new_size = NULL;
	if (rc) {
		report_failure(err, "%s", c->file);
		creation_suggest(&c->creation, c->format);
	} else if (!c->quiet) {
		open_warn_rounded(c->file, img_value_uint(img_value_get(settings, "size")), size);
	}
	img_value_free(settings);
	img_error_free(err);
	return rc ? 1 : 0;
}

static int resolve(struct create *c, struct img_create_options *options)
{
	if (!creation_possible(c->format, c->file))
		return 1;
	if (creation_wants_help(&c->creation))
		return creation_print_help(c->format);
	if (!c->file)
		return report_usage("create", "Expecting image file name");
	if (c->size && !args_size("image size", c->size, 0, INT64_MAX, &options->size))
		return 1;
	c->path = open_new_path(c->file, c->file, false);
	if (!c->path)
		return 1;
	options->format = c->format;
	options->have_size = c->size;
	options->backing_name = c->backing_name;
	options->backing_format = c->backing_format;
	options->backing_unchecked = c->backing_unchecked;
	options->options = c->creation.given.items;
	options->references = open_references(c->references);
	options->secrets = open_objects();
	/* An overlay is made for disks in use too: nothing but the size is read from them. */
	options->flags = IMG_OPEN_SHARE;
	return GO_ON;
}

static int create_run(int argc, char **argv)
{
	struct create c = { .format = "raw" };
	struct img_create_options options = { 0 };
	int rc = parse(&c, argc, argv);

	if (rc == GO_ON)
		rc = resolve(&c, &options);
	if (rc == GO_ON)
		rc = create_image(&c, &options);
	creation_free(&c.creation);
	return rc;
}

const struct command create_command = {
	.name = "create",
	.purpose = "make a new image",
	.description = "Make a new image. A file that is there is replaced.",
	.options = option_rows,
	.operands = operand_rows,
	.notes = "SIZE is in bytes, or ends in k, M, G, T, P or E (powers of 1024). Without it the "
		 "new disk is as large as that of the backing image.",
	.run = create_run,
};
