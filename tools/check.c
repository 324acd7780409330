/* check: look for damage in an image's own structures. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/json.h"
#include "tools/open.h"
#include "tools/report.h"

enum {
	OPT_ACCEPT_LOSS = ARG_OWN,
};

static const struct option_row option_rows[] = {
	OPTION_ROW_FORMAT("of the image"),
	OPTION_ROW_IMAGE_OPTS("FILE is a list KEY=VALUE,... instead of a name"),
	OPTION_ROW_CACHE('T'),
	OPTION(.letter = 'r', .name = "repair", .metavar = "leaks|all", .value = VALUE_CHOICE,
	       .choices = "leaks all",
	       .help = "give back wasted space; or repair everything that can be"),
	OPTION(.name = "accept-loss", .id = OPT_ACCEPT_LOSS,
	       .help = "with -r all: what the file does not hold any more (it was cut short) "
		       "becomes zeroes; without this it is left as it is"),
	OPTION_ROW_SHARE("the image"),
	OPTION_ROW_OUTPUT,
	OPTION_ROW_QUIET,
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE", .value = VALUE_FILE },
	{ 0 },
};

enum {
	EXIT_NO_ERRORS = 0,
	EXIT_FAILED = 1,
	EXIT_DAMAGED = 2,
	EXIT_LEAKS = 3,
	EXIT_NO_CHECKS = 63,
};
enum {
	GO_ON = -1,
};

struct check {
	struct open_request request;
	unsigned repair;
	bool json, quiet;
};

static int parse(struct check *check, int argc, char **argv)
{
	static const char bad_repair[] = "--repair (-r) expects 'leaks' or 'all', not '%s'";
	struct open_request *r = &check->request;
	const char *cache = "writeback";
	bool share = false, loss = false;
	struct options o;
	int opt;

	options_begin(&o, &check_command, argc, argv);
	while ((opt = options_next(&o)) != OPTIONS_END) {
		switch (opt) {
		case 'T':
			cache = o.value;
			break;
		case 'r':
			if (!strcmp(o.value, "leaks"))
				check->repair = IMG_REPAIR_LEAKS;
			else if (!strcmp(o.value, "all"))
				check->repair = IMG_REPAIR_ALL;
			else
				return report_usage("check", bad_repair, o.value);
			break;
		case OPT_ACCEPT_LOSS:
			loss = true;
			break;
		case 'U':
			share = true;
			break;
		case ARG_OUTPUT:
			if (!args_output("check", o.value, &check->json))
				return 1;
			break;
		case 'q':
			check->quiet = true;
			break;
		case OPTIONS_EXIT:
			return o.code;
		default:
			if (!open_option(r, opt, o.value))
				return 1;
		}
	}
	if (o.operand_count != 1)
		return report_usage("check", "Expecting one image file name");
	if (loss && check->repair != IMG_REPAIR_ALL)
		return report_usage("check", "--accept-loss goes with '-r all' only");
	if (loss)
		check->repair |= IMG_REPAIR_LOSS;
	r->name = o.operands[0];
	if (!args_cache("source cache", cache, &r->flags) ||
	    !args_one_way_to_open(r->image_opts, r->format))
		return 1;
	if (check->repair && share) {
		report_error(
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

static void print_defect(void *user, const char *line)
{
	(void)user;
	report_detail("%s", line);
}

static void json_count(struct json *json, const char *key, uint64_t n)
{
	if (n)
		json_put_uint(json, key, n);
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
	json_put_uint(&json, "check-errors", result->check_errors);
	json_count(&json, "allocated-clusters", result->allocated_units);
	json_put_string(&json, "filename", check->request.name);
	json_put_string(&json, "format", img_format(img));
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
	rc = img_check(img, 0, print_defect, NULL, result, err);
	result->corruptions_fixed = corruptions;
	result->leaks_fixed = leaks;
	return rc;
}

static int check_image(const struct check *check, struct img *img, struct img_error *err)
{
	struct img_check_result result = { 0 };
	int rc;

	if (!(img_format_features(img_format(img)) & IMG_FORMAT_CHECK)) {
		report_error("This image format does not support checks");
		return EXIT_NO_CHECKS;
	}
	rc = img_check(img, check->repair, print_defect, NULL, &result, err);
	if (!rc && (result.corruptions_fixed || result.leaks_fixed))
		rc = check_again(check, img, &result, err);
	if (rc) {
		report_failure(err, "Check failed");
		return EXIT_FAILED;
	}
	if (!check->quiet && check->json)
		print_json(check, img, &result);
	else if (!check->quiet)
		print_human(&result);
	if (result.check_errors) {
		report_error("Check failed");
		return EXIT_FAILED;
	}
	if (result.corruptions)
		return EXIT_DAMAGED;
	return result.leaks ? EXIT_LEAKS : EXIT_NO_ERRORS;
}

static int check_run(int argc, char **argv)
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
		report_failure(err, "Could not write '%s'", check.request.name);
		rc = EXIT_FAILED;
	}
	img_error_free(err);
	return rc;
}

const struct command check_command = {
	.name = "check",
	.purpose = "look for damage in an image's own structures, and repair it",
	.description = "Look for damage in an image's own structures, not in the disk's content.",
	.options = option_rows,
	.operands = operand_rows,
	.exit_status = "0 clean or completely repaired, 1 the check could not be completed, 2 "
		       "damaged, 3 space is wasted but nothing is damaged, 63 the format has no "
		       "checks.",
	.run = check_run,
};
