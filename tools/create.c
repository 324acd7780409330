/* create: make a new image. */
#include <getopt.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/image/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/creation.h"
#include "tools/open.h"
#include "tools/say.h"

static const char help[] =
	"Usage:\n"
	"  %s create [OPTIONS] FILE [SIZE]\n\n"
	"Make a new image. A file that is there is replaced.\n\n"
	"Options:\n"
	"  -f, --format FORMAT         of the new image (default: raw)\n"
	"  -o, --options KEY=VALUE,... options of the format; '-o help' lists them\n"
	"  -b, --backing FILE          what was not written reads as in this image;\n"
	"                              a relative name starts at the new image's folder\n"
	"  -B, --backing-format FORMAT of the backing image (older spelling: -F)\n"
	"  -u, --backing-unsafe        do not open the backing image\n"
	"  -q, --quiet                 print nothing but errors\n"
	"      --references POLICY     which files images may name: none, folder, any or\n"
	"                              DIR:DIR\n"
	"  -h, --help                  print this and exit\n\n"
	"SIZE is in bytes, or ends in k, M, G, T, P or E (powers of 1024). Without it the\n"
	"new disk is as large as that of the backing image.\n";

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
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "format", required_argument, NULL, 'f' },
		{ "options", required_argument, NULL, 'o' },
		{ "backing", required_argument, NULL, 'b' },
		{ "backing-format", required_argument, NULL, 'B' },
		{ "backing-unsafe", no_argument, NULL, 'u' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "object", required_argument, NULL, ARG_OBJECT },
		{ "references", required_argument, NULL, ARG_REFERENCES },
		{ 0 },
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "hf:o:b:B:F:uq", options, NULL)) != -1) {
		switch (opt) {
		case 'h':
			return args_help(help);
		case 'f':
			c->format = optarg;
			break;
		case 'o':
			if (!creation_add(&c->creation, optarg))
				return 1;
			break;
		case 'b':
			c->backing_name = optarg;
			break;
		case 'B':
		case 'F':
			c->backing_format = optarg;
			break;
		case 'u':
			c->backing_unchecked = true;
			break;
		case 'q':
			c->quiet = true;
			break;
		case ARG_OBJECT:
			if (!open_add_object(optarg))
				return 1;
			break;
		case ARG_REFERENCES:
			c->references = optarg;
			break;
		default:
			return say_try_help("create");
		}
	}
	if (optind < argc)
		c->file = argv[optind++];
	if (optind < argc)
		c->size = argv[optind++];
	if (optind < argc)
		return say_usage("create", "Unexpected argument: %s", argv[optind]);
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
	say_text(file);
	printf("', fmt=%s", img_value_string(img_value_get(settings, "fmt")));
	for (i = 0; i < img_value_count(settings); i++)
		if (strcmp(img_value_key_at(settings, i), "fmt"))
			print_setting(img_value_key_at(settings, i), img_value_at(settings, i));
	putchar('\n');
}

static int create_image(struct create *c, const struct img_create_options *options)
{
	struct img_error *err = args_memory(img_error_new());
	struct img_value *settings = NULL;
	int rc = img_create_prepare(c->path, options, &settings, err);

	if (!rc) {
		if (!c->quiet)
			print_formatting(c->file, settings);
		rc = img_create(c->path, options, err);
	}
	if (rc)
		say_failure(err, "%s", c->file);
	img_value_free(settings);
	img_error_free(err);
	return rc ? 1 : 0;
}

static int settle(struct create *c, struct img_create_options *options)
{
	if (!creation_possible(c->format, c->file))
		return 1;
	if (creation_asks_for_help(&c->creation))
		return creation_print_help(c->format);
	if (!c->file)
		return say_usage("create", "Expecting image file name");
	if (c->size && !args_size("image size", c->size, 0, INT64_MAX, &options->size))
		return 1;
	c->path = open_new_path(c->file, c->file);
	if (!c->path)
		return 1;
	options->format = c->format;
	options->have_size = c->size;
	options->backing_name = c->backing_name;
	options->backing_format = c->backing_format;
	options->backing_unchecked = c->backing_unchecked;
	options->options = c->creation.given.items;
	options->references = open_references(c->references);
	/* An overlay is made for disks in use too: nothing but the size is read from them. */
	options->flags = IMG_OPEN_SHARE;
	return GO_ON;
}

int create_run(int argc, char **argv)
{
	struct create c = { .format = "raw" };
	struct img_create_options options = { 0 };
	int rc = parse(&c, argc, argv);

	if (rc == GO_ON)
		rc = settle(&c, &options);
	if (rc == GO_ON)
		rc = create_image(&c, &options);
	creation_free(&c.creation);
	return rc;
}
