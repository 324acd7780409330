/* map: where the data of an image lies. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/open.h"
#include "tools/report.h"

static const struct option_row option_rows[] = {
	OPTION_ROW_FORMAT("of the image"),
	OPTION_ROW_IMAGE_OPTS("FILE is a list KEY=VALUE,... instead of a name"),
	OPTION(.letter = 's', .name = "start-offset", .metavar = "OFFSET", .value = VALUE_SIZE,
	       .help = "begin here in the disk"),
	OPTION(.letter = 'l', .name = "max-length", .metavar = "LENGTH", .value = VALUE_SIZE,
	       .help = "end after so many bytes"),
	OPTION_ROW_OUTPUT,
	OPTION_ROW_SHARE("the image"),
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE", .value = VALUE_FILE },
	{ 0 },
};

struct map {
	struct open_request request;
	uint64_t start, length;
	bool json;
};

enum {
	GO_ON = -1,
};

static int parse(struct map *map, int argc, char **argv)
{
	struct open_request *r = &map->request;
	struct options o;
	int opt;

	options_begin(&o, &map_command, argc, argv);
	while ((opt = options_next(&o)) != OPTIONS_END) {
		switch (opt) {
		case 's':
			if (!args_size("start offset", o.value, 0, INT64_MAX, &map->start))
				return 1;
			break;
		case 'l':
			if (!args_size("max length", o.value, 0, INT64_MAX, &map->length))
				return 1;
			break;
		case ARG_OUTPUT:
			if (!args_output("map", o.value, &map->json))
				return 1;
			break;
		case 'U':
			r->flags |= IMG_OPEN_SHARE;
			break;
		case OPTIONS_EXIT:
			return o.code;
		default:
			if (!open_option(r, opt, o.value))
				return 1;
		}
	}
	if (o.operand_count != 1)
		return report_usage("map", "Expecting one image file name");
	r->name = o.operands[0];
	return args_one_way_to_open(r->image_opts, r->format) ? GO_ON : 1;
}

static void print_json(const struct img_map_entry *e, bool first)
{
	static const char *const names[] = { "false", "true" };

	fputs(first ? "[" : ",\n", stdout);
	printf("{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %" PRIu32
	       ", \"present\": %s, \"zero\": %s, \"data\": %s, \"compressed\": %s",
	       e->start, e->length, e->depth, names[e->present], names[e->zero], names[e->data],
	       names[e->compressed]);
	if (e->has_offset)
		printf(", \"offset\": %" PRIu64, e->offset);
	putchar('}');
}

/* Only what lies in a file as it is; false: there is something that does not; reported. */
static bool print_human(const struct img_map_entry *e)
{
	if (e->data && !e->has_offset) {
		report_error("File contains external, encrypted or compressed clusters.");
		return false;
	}
	if (e->data && !e->zero) {
		printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64, e->start, e->length, e->offset);
		print_escaped(e->file ? e->file : "");
		putchar('\n');
	}
	return true;
}

struct printing {
	const struct map *map;
	uint64_t count; /* of entries so far */
};

static int print_entry(void *user, const struct img_map_entry *e)
{
	struct printing *p = user;

	if (p->map->json)
		print_json(e, !p->count);
	else if (!print_human(e))
		return -ECANCELED;
	p->count++;
	return 0;
}

static int print_map(struct img *img, const struct map *map, struct img_error *err)
{
	uint64_t size = img_size(img), left = map->start < size ? size - map->start : 0;
	uint64_t length = map->length < left ? map->length : left;
	struct printing p = { .map = map };
	struct img_map_entry nothing = { .start = map->start };
	int rc;

	if (!map->json)
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	rc = img_map_each(img, map->start, length, true, print_entry, &p, err);
	if (!rc && !p.count && map->json)
		print_json(&nothing, true);
	if (map->json && p.count + !rc)
		fputs(rc ? "\n" : "]\n", stdout);
	if (img_error_code(err))
		report_error("Failed to read image metadata: %s", img_error_text(err));
	return rc ? 1 : 0;
}

static int map_run(int argc, char **argv)
{
	struct map map = { .length = UINT64_MAX };
	struct img_error *err;
	struct img *img;
	int rc = parse(&map, argc, argv);

	if (rc != GO_ON)
		return rc;
	img = open_image(&map.request);
	if (!img)
		return 1;
	err = img_error_new();
	rc = print_map(img, &map, err);
	img_close(img, NULL);
	img_error_free(err);
	return rc;
}

const struct command map_command = {
	.name = "map",
	.purpose = "show where an image's data lies",
	.description = "Tell where the data of an image and its backing images lies.",
	.options = option_rows,
	.operands = operand_rows,
	.run = map_run,
};
