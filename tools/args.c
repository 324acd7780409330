/* Shared arguments. */
#include "tools/args.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/report.h"

void *args_memory(void *p)
{
	if (!p) {
		report_error("out of memory");
		exit(1);
	}
	return p;
}

bool args_output(const char *command, const char *text, bool *json)
{
	if (strcmp(text, "json") && strcmp(text, "human")) {
		report_usage(command, "--output expects 'human' or 'json', not '%s'", text);
		return false;
	}
	*json = !strcmp(text, "json");
	return true;
}

/* rc: what reading value returned. */
static bool in_range(const char *what, const char *text, int rc, uint64_t value, uint64_t min,
		     uint64_t max)
{
	if (!rc && (value < min || value > max))
		rc = -ERANGE;
	if (rc == -ERANGE)
		report_error("Invalid %s specified. Must be between %" PRIu64 " and %" PRIu64 ".", what,
			     min, max);
	else if (rc)
		report_error("Invalid %s specified: '%s'", what, text);
	return !rc;
}

bool args_size(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	uint64_t value = 0;
	int rc = img_parse_size(text, &value);

	if (!in_range(what, text, rc, value, min, max))
		return false;
	*out = value;
	return true;
}

void args_report_bad_size(const char *parameter, const char *text, int rc)
{
	if (rc == -ERANGE) {
		report_error("Value '%s' is out of range for parameter '%s'", text, parameter);
		return;
	}
	report_error("Parameter '%s' expects a non-negative number below 2^64", parameter);
	report_detail("Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-");
	report_detail("and exabytes, respectively.");
}

bool args_number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
	uint64_t value = 0;
	int rc = img_parse_number(text, &value);

	if (!in_range(what, text, rc, value, min, max))
		return false;
	*out = value;
	return true;
}

bool args_cache_flags(const char *text, unsigned *flags)
{
	static const struct {
		const char *name;
		unsigned flags;
	} modes[] = {
		{ "none", IMG_OPEN_DIRECT },
		{ "off", IMG_OPEN_DIRECT },
		{ "try-none", IMG_OPEN_TRY_DIRECT },
		{ "writeback", 0 },
		{ "unsafe", IMG_OPEN_UNSAFE },
		{ "directsync", IMG_OPEN_DIRECT | IMG_OPEN_WRITETHROUGH },
		{ "writethrough", IMG_OPEN_WRITETHROUGH },
	};
	size_t i;

	for (i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (!strcmp(text, modes[i].name)) {
			*flags = modes[i].flags;
			return true;
		}
	}
	return false;
}

bool args_cache(const char *what, const char *text, unsigned *flags)
{
	if (args_cache_flags(text, flags))
		return true;
	report_error("Invalid %s option: %s", what, text);
	return false;
}

bool args_one_way_to_open(bool image_opts, const char *format)
{
	if (image_opts && format)
		report_error("--image-opts and --format are mutually exclusive");
	return !image_opts || !format;
}

void args_list_add(struct args_list *list, const char *text)
{
	list->items = args_memory(realloc(list->items, (list->count + 2) * sizeof(*list->items)));
	list->items[list->count++] = text;
	list->items[list->count] = NULL;
}

void args_list_free(struct args_list *list)
{
	free(list->items);
	*list = (struct args_list){ 0 };
}
