/* check: look for damage in an image's own structures. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "libimg/image/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/json.h"
#include "tools/open.h"
#include "tools/say.h"

static const char help[] =
	"Usage:\n"
	"  %s check [OPTIONS] FILE\n\n"
	"Look for damage in an image's own structures, not in the disk's content.\n"
	"Exit code: 0 sound or completely repaired, 1 the check could not be completed,\n"
	"2 damaged, 3 space is wasted but nothing is damaged, 63 the format has no checks.\n\n"
	"Options:\n"
	"  -f, --format FORMAT      of the image (default: found out by its content)\n"
	"      --image-opts         FILE is a list KEY=VALUE,... instead of a name\n"
	"  -T, --cache MODE         none, writeback (default), unsafe, directsync or writethrough\n"
	"  -r, --repair leaks|all   give back wasted space; or repair everything that can be\n"
	"      --accept-loss        with -r all: what the file does not hold any more (it was cut\n"
	"                           short) becomes zeroes; without this it is left as it is\n"
	"  -U, --force-share        also if another program has the image open for writing\n"
	"      --output human|json  for people (default) or for programs\n"
	"  -q, --quiet              print nothing but errors\n"
	"      --references POLICY  which files images may name: none, folder, any or DIR:DIR\n"
	"  -h, --help               print this and exit\n";

enum {
	EXIT_SOUND = 0,
	EXIT_FAILED = 1,
	EXIT_DAMAGED = 2,
	EXIT_LEAKS = 3,
	EXIT_NO_CHECKS = 63,
};
enum {
	GO_ON = -1,
};
enum {
	OPT_ACCEPT_LOSS = 0x1000,
};

struct check {
	struct open_request request;
	unsigned repair;
	bool json, quiet;
};

static int parse(struct check *check, int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "format", required_argument, NULL, 'f' },
		{ "image-opts", no_argument, NULL, ARG_IMAGE_OPTS },
		{ "cache", required_argument, NULL, 'T' },
		{ "repair", required_argument, NULL, 'r' },
		{ "accept-loss", no_argument, NULL, OPT_ACCEPT_LOSS },
		{ "force-share", no_argument, NULL, 'U' },
		{ "output", required_argument, NULL, ARG_OUTPUT },
		{ "quiet", no_argument, NULL, 'q' },
		{ "object", required_argument, NULL, ARG_OBJECT },
		{ "references", required_argument, NULL, ARG_REFERENCES },
		{ 0 },
	};
	static const char bad_repair[] = "--repair (-r) expects 'leaks' or 'all', not '%s'";
	struct open_request *r = &check->request;
	const char *cache = "writeback";
	bool share = false, loss = false;
	int opt;

	while ((opt = getopt_long(argc, argv, "hf:T:r:Uq", options, NULL)) != -1) {
		switch (opt) {
		case 'h':
			return args_help(help);
		case 'f':
			r->format = optarg;
			break;
		case ARG_IMAGE_OPTS:
			r->image_opts = true;
			break;
		case 'T':
			cache = optarg;
			break;
		case 'r':
			if (!strcmp(optarg, "leaks"))
				check->repair = IMG_CHECK_REPAIR_LEAKS;
			else if (!strcmp(optarg, "all"))
				check->repair = IMG_CHECK_REPAIR_ALL;
			else
				return say_usage("check", bad_repair, optarg);
			break;
		case OPT_ACCEPT_LOSS:
			loss = true;
			break;
		case 'U':
			share = true;
			break;
		case ARG_OUTPUT:
			if (!args_output("check", optarg, &check->json))
				return 1;
			break;
		case 'q':
			check->quiet = true;
			break;
		case ARG_OBJECT:
			if (!open_add_object(optarg))
				return 1;
			break;
		case ARG_REFERENCES:
			r->references = optarg;
			break;
		default:
			return say_try_help("check");
		}
	}
	if (optind != argc - 1)
		return say_usage("check", "Expecting one image file name");
	if (loss && check->repair != IMG_CHECK_REPAIR_ALL)
		return say_usage("check", "--accept-loss goes with '-r all' only");
	if (loss)
		check->repair |= IMG_CHECK_ACCEPT_LOSS;
	r->name = argv[optind];
	if (!args_cache("source cache", cache, &r->flags) ||
	    !args_one_way_to_open(r->image_opts, r->format))
		return 1;
	if (check->repair && share) {
		say_error(
			"Could not open '%s': force-share=on can only be used with read-only images",
			r->name);
		return 1;
	}
	/* What is below an image has no part in its soundness. */
	r->flags |= IMG_OPEN_CHECK | IMG_OPEN_NO_BACKING | (share ? IMG_OPEN_SHARE : 0) |
		    (check->repair ? IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE : 0);
	r->warn_if_probed = check->repair;
	return GO_ON;
}

static void say_defect(void *user, const char *line)
{
	(void)user;
	say_more("%s", line);
}

static void json_count(struct json *json, const char *key, uint64_t n)
{
	if (n)
		json_uint(json, key, n);
}

static void print_json(const struct check *check, const struct img *img,
		       const struct img_check_result *result)
{
	struct json json = { .out = stdout };

	json_open(&json, NULL, '{');
	json_count(&json, "image-end-offset", result->image_end);
	json_count(&json, "compressed-clusters", result->compressed_units);
	json_count(&json, "total-clusters", result->total_units);
	json_count(&json, "corruptions", result->corruptions);
	json_count(&json, "corruptions-fixed", result->corruptions_fixed);
	json_count(&json, "leaks", result->leaks);
	json_count(&json, "leaks-fixed", result->leaks_fixed);
	json_uint(&json, "check-errors", result->check_errors);
	json_count(&json, "allocated-clusters", result->allocated_units);
	json_string(&json, "filename", check->request.name);
	json_string(&json, "format", img_format(img));
	json_count(&json, "fragmented-clusters", result->fragmented_units);
	json_close(&json, '}');
}

static double percent(uint64_t part, uint64_t whole)
{
	return (double)part * 100 / (double)whole;
}

static void print_human(const struct img_check_result *result)
{
	if (!result->corruptions && !result->leaks && !result->check_errors)
		puts("No errors were found on the image.");
	if (result->corruptions)
		printf("\n%" PRIu64 " errors were found on the image.\n"
		       "Data may be corrupted, or further writes to the image may corrupt it.\n",
		       result->corruptions);
	if (result->leaks)
		printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
		       "This means waste of disk space, but no harm to data.\n",
		       result->leaks);
	if (result->check_errors)
		printf("\n%" PRIu64 " internal errors have occurred during the check.\n",
		       result->check_errors);
	if (result->total_units && result->allocated_units)
		printf("%" PRIu64 "/%" PRIu64 " = %.2f%% allocated, %.2f%% fragmented, "
		       "%.2f%% compressed clusters\n",
		       result->allocated_units, result->total_units,
		       percent(result->allocated_units, result->total_units),
		       percent(result->fragmented_units, result->allocated_units),
		       percent(result->compressed_units, result->allocated_units));
	if (result->image_end)
		printf("Image end offset: %" PRIu64 "\n", result->image_end);
}

/* After repairs the image is checked again: what counts is how it is now. */
static int check_again(const struct check *check, struct img *img, struct img_check_result *result,
		       struct img_error *err)
{
	uint64_t corruptions = result->corruptions_fixed, leaks = result->leaks_fixed;
	int rc;

	if (!check->json && !check->quiet) {
		printf("The following inconsistencies were found and repaired:\n\n"
		       "    %" PRIu64 " leaked clusters\n    %" PRIu64 " corruptions\n\n"
		       "Double checking the fixed image now...\n",
		       leaks, corruptions);
		fflush(stdout);
	}
	*result = (struct img_check_result){ 0 };
	rc = img_check(img, 0, say_defect, NULL, result, err);
	result->corruptions_fixed = corruptions;
	result->leaks_fixed = leaks;
	return rc;
}

static int check_image(const struct check *check, struct img *img, struct img_error *err)
{
	struct img_check_result result = { 0 };
	int rc;

	if (!(img_format_features(img_format(img)) & IMG_FORMAT_CHECK)) {
		say_error("This image format does not support checks");
		return EXIT_NO_CHECKS;
	}
	rc = img_check(img, check->repair, say_defect, NULL, &result, err);
	if (!rc && (result.corruptions_fixed || result.leaks_fixed))
		rc = check_again(check, img, &result, err);
	if (rc) {
		say_failure(err, "Check failed");
		return EXIT_FAILED;
	}
	if (!check->quiet && check->json)
		print_json(check, img, &result);
	else if (!check->quiet)
		print_human(&result);
	if (result.check_errors) {
		say_error("Check failed");
		return EXIT_FAILED;
	}
	if (result.corruptions)
		return EXIT_DAMAGED;
	return result.leaks ? EXIT_LEAKS : EXIT_SOUND;
}

int check_run(int argc, char **argv)
{
	struct check check = { 0 };
	struct img_error *err;
	struct img *img;
	int rc = parse(&check, argc, argv);

	if (rc != GO_ON)
		return rc;
	img = open_image(&check.request);
	if (!img)
		return EXIT_FAILED;
	err = args_memory(img_error_new());
	rc = check_image(&check, img, err);
	if (img_close(img, err)) {
		say_failure(err, "Could not write '%s'", check.request.name);
		rc = EXIT_FAILED;
	}
	img_error_free(err);
	return rc;
}
