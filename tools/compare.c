/* compare: tell whether two images hold the same disk. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

#include "libimg/image/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/open.h"
#include "tools/progress.h"
#include "tools/say.h"
#include "tools/signals.h"

static const char help[] =
	"Usage:\n"
	"  %s compare [OPTIONS] FILE1 FILE2\n\n"
	"Tell whether two images hold the same disk. Where one is longer, it must read as zeroes\n"
	"there. Exit code: 0 the same, 1 different, more than 1 on errors.\n\n"
	"Options:\n"
	"  -f, --a-format FORMAT    of FILE1 (default: found out by its content)\n"
	"  -F, --b-format FORMAT    of FILE2\n"
	"      --image-opts         FILE1 and FILE2 are lists KEY=VALUE,... instead of names\n"
	"  -s, --strict             sizes and what is allocated must be the same too\n"
	"  -T, --cache MODE         none, writeback (default), unsafe, directsync or writethrough\n"
	"  -U, --force-share        also if another program has an image open for writing\n"
	"  -p, --progress           show how far it is\n"
	"  -q, --quiet              print nothing but errors\n"
	"      --references POLICY  which files images may name: none, folder, any or DIR:DIR\n"
	"  -h, --help               print this and exit\n";

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
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "a-format", required_argument, NULL, 'f' },
		{ "b-format", required_argument, NULL, 'F' },
		{ "image-opts", no_argument, NULL, ARG_IMAGE_OPTS },
		{ "strict", no_argument, NULL, 's' },
		{ "cache", required_argument, NULL, 'T' },
		{ "force-share", no_argument, NULL, 'U' },
		{ "progress", no_argument, NULL, 'p' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "object", required_argument, NULL, ARG_OBJECT },
		{ "references", required_argument, NULL, ARG_REFERENCES },
		{ 0 },
	};
	struct open_request *a = &compare->a, *b = &compare->b;
	const char *cache = "writeback";
	unsigned share = 0;
	int opt;

	while ((opt = getopt_long(argc, argv, "hf:F:sT:Upq", options, NULL)) != -1) {
		switch (opt) {
		case 'h':
			return args_help(help);
		case 'f':
			a->format = optarg;
			break;
		case 'F':
			b->format = optarg;
			break;
		case ARG_IMAGE_OPTS:
			a->image_opts = b->image_opts = true;
			break;
		case 's':
			compare->strict = true;
			break;
		case 'T':
			cache = optarg;
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
			if (!open_add_object(optarg))
				return 1;
			break;
		case ARG_REFERENCES:
			a->references = b->references = optarg;
			break;
		default:
			return say_try_help("compare");
		}
	}
	if (optind != argc - 2)
		return say_usage("compare", "Expecting two image file names");
	a->name = argv[optind];
	b->name = argv[optind + 1];
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
			say_error("%s", img_error_text(err));
		rc = EXIT_NOT_READ;
	}
	progress_end(&progress);
	img_error_free(err);
	return rc;
}

int compare_run(int argc, char **argv)
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
