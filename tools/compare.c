/* compare: do two images hold the same disk? */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/open.h"
#include "tools/progress.h"
#include "tools/report.h"
#include "tools/signals.h"

static const struct option_row option_rows[] = {
	OPTION(.letter = 'f', .name = "a-format", .metavar = "FORMAT", .value = VALUE_FORMAT,
	       .help = "of FILE1 (default: found out by its content)"),
	OPTION(.letter = 'F', .name = "b-format", .metavar = "FORMAT", .value = VALUE_FORMAT,
	       .help = "of FILE2"),
	OPTION_ROW_IMAGE_OPTS("FILE1 and FILE2 are lists KEY=VALUE,... instead of names"),
	OPTION(.letter = 's', .name = "strict",
	       .help = "sizes and what is allocated must be the same too"),
	OPTION_ROW_CACHE('T'),
	OPTION_ROW_SHARE("an image"),
	OPTION(.letter = 'p', .name = "progress", .help = "show how far it is"),
	OPTION_ROW_QUIET,
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE1", .value = VALUE_FILE },
	{ .metavar = "FILE2", .value = VALUE_FILE },
	{ 0 },
};

enum {
	EXIT_SAME = 0,
	EXIT_DIFFERENT = 1,
	EXIT_NOT_OPENED = 2,
	EXIT_NOT_READ = 4,
};
enum { GO_ON = -1 };

struct compare {
	struct open_request a, b;
	bool strict, progress, quiet;
};

static int parse(struct compare *compare, int argc, char **argv)
{
	struct open_request *a = &compare->a, *b = &compare->b;
	const char *cache = "writeback";
	unsigned share = 0;
	struct options o;
	int opt;

	options_begin(&o, &compare_command, argc, argv);
	while ((opt = options_next(&o)) != OPTIONS_END) {
		switch (opt) {
		case 'f':
			a->format = o.value;
			break;
		case 'F':
			b->format = o.value;
			break;
		case ARG_IMAGE_OPTS:
			a->image_opts = b->image_opts = true;
			break;
		case 's':
			compare->strict = true;
			break;
		case 'T':
			cache = o.value;
			break;
		case 'U':
			share = IMG_OPEN_SHARE;
			break;
		case 'p':
			compare->progress = true;
			break;
		case 'q':
			compare->quiet = true;
			break;
		case ARG_OBJECT:
			if (!open_add_object(o.value))
				return 1;
			break;
		case ARG_REFERENCES:
			a->references = b->references = o.value;
			break;
		case OPTIONS_EXIT:
			return o.code;
		}
	}
	if (o.operand_count != 2)
		return report_usage("compare", "Expecting two image file names");
	a->name = o.operands[0];
	b->name = o.operands[1];
	if (!args_cache("source cache", cache, &a->flags) ||
	    !args_one_way_to_open(a->image_opts, a->format) ||
	    !args_one_way_to_open(b->image_opts, b->format))
		return EXIT_NOT_OPENED;
	a->flags |= share;
	b->flags = a->flags;
	return GO_ON;
}

/*
 * Say what was found, in the order in which a reader of both disks would meet it: a difference in
 * size is no news before the common part turned out to be the same.
 */
static int print_result(const struct compare *compare, struct img *a, struct img *b,
			const struct img_compare_result *result)
{
	uint64_t common = img_size(a) < img_size(b) ? img_size(a) : img_size(b);

	if (compare->strict && result->size_differs) {
		if (!compare->quiet)
			puts("Strict mode: Image size mismatch!");
		return EXIT_DIFFERENT;
	}
	if (!compare->quiet) {
		if (result->size_differs && (result->identical || result->offset >= common))
			puts("Warning: Image size mismatch!");
		if (result->identical)
			puts("Images are identical.");
		else if (compare->strict && result->status_differs)
			printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n",
			       result->offset);
		else
			printf("Content mismatch at offset %" PRIu64 "!\n", result->offset);
	}
	return result->identical ? EXIT_SAME : EXIT_DIFFERENT;
}

static int compare_images(const struct compare *compare, struct img *a, struct img *b)
{
	struct img_error *err = args_memory(img_error_new());
	struct img_compare_result result = { 0 };
	struct progress progress;
	struct img_compare_options options = {
		.strict = compare->strict,
		.progress = progress_step,
		.user = &progress,
	};
	uint64_t total = img_size(a) > img_size(b) ? img_size(a) : img_size(b);
	int rc;

	progress_begin(&progress, compare->progress && !compare->quiet, total);
	rc = img_compare(a, b, &options, &result, err);
	if (!rc) {
		if (result.identical)
			progress_complete(&progress);
		rc = print_result(compare, a, b, &result);
	} else {
		if (!signals_stop())
			report_error("%s", img_error_text(err));
		rc = EXIT_NOT_READ;
	}
	progress_end(&progress);
	img_error_free(err);
	return rc;
}

static int compare_run(int argc, char **argv)
{
	struct compare compare = { 0 };
	struct img *a = NULL, *b = NULL;
	int rc = parse(&compare, argc, argv);

	if (rc != GO_ON)
		return rc;
	rc = EXIT_NOT_OPENED;
	a = open_image(&compare.a);
	if (a)
		b = open_image(&compare.b);
	if (b)
		rc = compare_images(&compare, a, b);
	img_close(b, NULL);
	img_close(a, NULL);
	signals_finish();
	return rc;
}

const struct command compare_command = {
	.name = "compare",
	.purpose = "compare the disks of two images",
	.description = "Tell whether two images hold the same disk. Where one is longer, it must "
		       "read as zeroes there.",
	.options = option_rows,
	.operands = operand_rows,
	.exit_status = "0 the same, 1 different, more than 1 on errors.",
	.run = compare_run,
};
