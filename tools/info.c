/* info: what an image is. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/json.h"
#include "tools/open.h"
#include "tools/report.h"
#include "tools/size.h"

enum {
	OPT_BACKING_CHAIN = ARG_OWN,
	OPT_LIMITS,
};

static const struct option_row option_rows[] = {
	OPTION_ROW_FORMAT("of the image"),
	OPTION_ROW_IMAGE_OPTS("FILE is a list KEY=VALUE,... instead of a name"),
	OPTION(.name = "backing-chain", .id = OPT_BACKING_CHAIN,
	       .help = "also show the image's backing images"),
	OPTION_ROW_CACHE('t'),
	OPTION(.name = "limits", .id = OPT_LIMITS,
	       .help = "also show how requests are best aligned"),
	OPTION_ROW_SHARE("the image"),
	OPTION_ROW_OUTPUT,
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE", .value = VALUE_FILE },
	{ 0 },
};

struct info {
	struct open_request request;
	bool chain, json, limits;
};

enum {
	GO_ON = -1,
};

static int parse(struct info *info, int argc, char **argv)
{
	struct open_request *r = &info->request;
	const char *cache = "writeback";
	bool share = false;
	struct options o;
	int opt;

	options_begin(&o, &info_command, argc, argv);
	while ((opt = options_next(&o)) != OPTIONS_END) {
		switch (opt) {
		case OPT_BACKING_CHAIN:
			info->chain = true;
			break;
		case 't':
			cache = o.value;
			break;
		case 'U':
			share = true;
			break;
		case OPT_LIMITS:
			info->limits = true;
			break;
		case ARG_OUTPUT:
			if (!args_output("info", o.value, &info->json))
				return 1;
			break;
		case OPTIONS_EXIT:
			return o.code;
		default:
			if (!open_option(r, opt, o.value))
				return 1;
		}
	}
	if (o.operand_count != 1)
		return report_usage("info", "Expecting one image file name");
	r->name = o.operands[0];
	if (!args_cache("cache", cache, &r->flags) ||
	    !args_one_way_to_open(r->image_opts, r->format))
		return 1;
	r->flags |= share ? IMG_OPEN_SHARE : 0;
	r->flags |= info->chain ? IMG_OPEN_NO_DATA : IMG_OPEN_SELF_ONLY;
	return GO_ON;
}

/* ---- For people ---- */

static void print_text(const struct img_value *report, const char *key, const char *label,
		       unsigned indent)
{
	const char *text = img_value_string(img_value_get(report, key));

	if (!text)
		return;
	printf("%*s%s: ", (int)(4 * indent), "", label);
	print_escaped(text);
	putchar('\n');
}

static void print_backing(const struct img_value *report, unsigned indent)
{
	const char *name = img_value_string(img_value_get(report, "backing-filename"));
	const char *full = img_value_string(img_value_get(report, "full-backing-filename"));

	print_text(report, "backing-uuid", "backing file UUID", indent);
	if (!name)
		return;
	printf("%*sbacking file: ", (int)(4 * indent), "");
	print_escaped(name);
	if (!full) {
		fputs(" (cannot determine actual path)", stdout);
	} else if (strcmp(name, full)) {
		fputs(" (actual path: ", stdout);
		print_escaped(full);
		putchar(')');
	}
	putchar('\n');
	print_text(report, "backing-filename-format", "backing file format", indent);
}

static void print_snapshot(const struct img_value *snapshot)
{
	char size[SIZE_TEXT_BYTES], date[32] = "", clock[64], icount[24] = "--";
	uint64_t seconds = img_value_uint(img_value_get(snapshot, "vm-clock-sec"));
	time_t taken = (time_t)img_value_int(img_value_get(snapshot, "date-sec"));
	const struct img_value *count = img_value_get(snapshot, "icount");
	char *id = args_memory(img_printable(img_value_string(img_value_get(snapshot, "id"))));
	char *name = args_memory(img_printable(img_value_string(img_value_get(snapshot, "name"))));
	struct tm when;

	if (localtime_r(&taken, &when))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &when);
	snprintf(clock, sizeof(clock), "%04" PRIu64 ":%02u:%02u.%03u", seconds / 3600,
		 (unsigned)(seconds / 60 % 60), (unsigned)(seconds % 60),
		 (unsigned)(img_value_uint(img_value_get(snapshot, "vm-clock-nsec")) / 1000000));
	if (count)
		snprintf(icount, sizeof(icount), "%" PRIu64, img_value_uint(count));
	printf("%-7s %-16s %8s %19s %15s %10s\n", id, name,
	       size_format(img_value_uint(img_value_get(snapshot, "vm-state-size")), size), date,
	       clock, icount);
	free(id);
	free(name);
}

static void print_snapshots(const struct img_value *snapshots, unsigned indent)
{
	size_t i;

	if (!img_value_count(snapshots))
		return;
	printf("%*sSnapshot list:\n%*s", (int)(4 * indent), "", (int)(4 * indent), "");
	printf("%-7s %-16s %8s %19s %15s %10s\n", "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK",
	       "ICOUNT");
	for (i = 0; i < img_value_count(snapshots); i++) {
		printf("%*s", (int)(4 * indent), "");
		print_snapshot(img_value_at(snapshots, i));
	}
}

static void print_limits(const struct img_value *limits, unsigned indent)
{
	printf("%*sBlock limits:\n", (int)(4 * indent), "");
	json_value_human(limits, indent + 1);
}

/* What every node has. A node without children is a plain file: it has other labels. */
static void print_node(const struct img_value *report, bool limits, unsigned indent)
{
	bool file = !img_value_count(img_value_get(report, "children"));
	const struct img_value *size = img_value_get(report, "virtual-size");
	const struct img_value *actual = img_value_get(report, "actual-size");
	const struct img_value *unit = img_value_get(report, "cluster-size");
	const struct img_value *data = img_value_get(img_value_get(report, "format-specific"),
						     "data");
	const int pad = (int)(4 * indent);
	char text[SIZE_TEXT_BYTES];

	print_text(report, "filename", file ? "filename" : "image", indent);
	print_text(report, "format", file ? "protocol type" : "file format", indent);
	if (size)
		printf("%*s%s: %s (%" PRIu64 " bytes)\n", pad, "",
		       file ? "file length" : "virtual size",
		       size_format(img_value_uint(size), text), img_value_uint(size));
	else
		printf("%*sfile length: unavailable\n", pad, "");
	printf("%*sdisk size: %s\n", pad, "",
	       actual ? size_format(img_value_uint(actual), text) : "unavailable");
	if (img_value_bool(img_value_get(report, "encrypted")))
		printf("%*sencrypted: yes\n", pad, "");
	if (unit)
		printf("%*scluster_size: %" PRIu64 "\n", pad, "", img_value_uint(unit));
	if (img_value_bool(img_value_get(report, "dirty-flag")))
		printf("%*scleanly shut down: no\n", pad, "");
	print_backing(report, indent);
	if (limits && img_value_get(report, "limits"))
		print_limits(img_value_get(report, "limits"), indent);
	print_snapshots(img_value_get(report, "snapshots"), indent);
	if (data && img_value_count(data)) {
		printf("%*sFormat specific information:\n", pad, "");
		json_value_human(data, indent + 1);
	}
}

/* path: of the node's parents, "/" between. The library's tree is two or three levels deep. */
static void print_report(const struct img_value *report, bool limits, const char *path,
			 unsigned indent)
{
	const struct img_value *children = img_value_get(report, "children");
	size_t i, count = children ? img_value_count(children) : 0;

	print_node(report, limits, indent);
	for (i = 0; i < count; i++) {
		const struct img_value *child = img_value_at(children, i);
		char deeper[256];

		snprintf(deeper, sizeof(deeper), "%s/%s", path,
			 img_value_string(img_value_get(child, "name")));
		printf("%*sChild node '", (int)(4 * indent), "");
		print_escaped(deeper);
		puts("':");
		print_report(img_value_get(child, "info"), limits, deeper, indent + 1);
	}
}

/* ---- All of it ---- */

static int print_image(struct img *img, const struct info *info, struct json *json,
		       struct img_error *err)
{
	struct img_value *report;

	if (img_info(img, &report, err))
		return 1;
	if (info->json)
		json_put_value(json, NULL, report);
	else
		print_report(report, info->limits, "", 0);
	img_value_free(report);
	return 0;
}

static int print_chain(struct img *top, const struct info *info, struct json *json,
		       struct img_error *err)
{
	struct img *img;
	int rc = 0;

	if (info->json)
		json_open(json, NULL, '[');
	/* Asking an image about itself changes nothing in it: the cast gives no way to write. */
	for (img = top; img && !rc; img = (struct img *)img_backing(img)) {
		if (!info->json && img != top)
			putchar('\n');
		rc = print_image(img, info, json, err);
	}
	if (info->json)
		json_close(json, ']');
	return rc;
}

static int info_run(int argc, char **argv)
{
	struct info info = { 0 };
	struct json json = { .out = stdout };
	struct img_error *err;
	struct img *img;
	int rc = parse(&info, argc, argv);

	if (rc != GO_ON)
		return rc;
	img = open_image(&info.request);
	if (!img)
		return 1;
	open_warn_of_content(info.request.name, img_guessed_content(img));
	err = img_error_new();
	json.hidden = info.limits ? NULL : "limits";
	rc = (info.chain ? print_chain : print_image)(img, &info, &json, err);
	if (rc)
		report_failure(err, "Could not get information about '%s'", info.request.name);
	img_close(img, NULL);
	img_error_free(err);
	return rc;
}

const struct command info_command = {
	.name = "info",
	.purpose = "show what an image is",
	.description = "Tell what an image is. Nothing but the file itself is opened, unless "
		       "--backing-chain asks for the images below it.",
	.options = option_rows,
	.operands = operand_rows,
	.run = info_run,
};
