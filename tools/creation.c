/* Options of creation. */
#include "tools/creation.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/report.h"
#include "tools/suggest.h"

/* Lists are joined by commas, so one that begins or ends with a comma would change another. */
static bool is_valid_list(const char *text)
{
	size_t len = strlen(text);

	return len && text[0] != ',' && text[len - 1] != ',';
}

bool creation_add(struct creation *c, const char *text)
{
	if (!is_valid_list(text)) {
		report_error("Invalid option list: %s", text);
		return false;
	}
	args_list_add(&c->given, text);
	return true;
}

static bool is_known(const struct img_value *options, const char *key)
{
	size_t i;

	for (i = 0; i < img_value_count(options); i++)
		if (!strcmp(img_value_string(img_value_get(img_value_at(options, i), "name")), key))
			return true;
	return false;
}

/* The library takes lists as well: double the commas again. */
static void add_rest(struct creation *c, const char *key, const char *value)
{
	size_t len = strlen(key);
	char *copy = args_memory(malloc(len + 2 + (value ? 2 * strlen(value) : 0))), *to;

	to = mempcpy(copy, key, len);
	if (value)
		*to++ = '=';
	for (; value && *value; value++) {
		if (*value == ',')
			*to++ = ',';
		*to++ = *value;
	}
	*to = '\0';
	args_list_add(&c->rest, copy);
}

/* One of the options that the tool keeps for itself; NULL: not one of those. */
static char **own_option(struct creation *c, const char *key)
{
	if (!strcmp(key, "size"))
		return &c->size;
	if (!strcmp(key, "backing_file"))
		return &c->backing_name;
	return strcmp(key, "backing_fmt") ? NULL : &c->backing_format;
}

/* What goes through the lists of options, key by key. */
struct walk {
	struct creation *creation;
	const struct img_value *options; /* those that the format has */
};

/* Calls fn for each key until it returns other than 0; returns that. */
static int for_each_key(const struct creation *c, img_keyval_fn *fn, void *user)
{
	int rc = 0;
	size_t i;

	for (i = 0; i < c->given.count && !rc; i++)
		rc = img_parse_keyval(c->given.items[i], fn, user, NULL);
	if (rc == -ENOMEM)
		args_memory(NULL);
	return rc;
}

static int resolve_key(void *user, const char *key, const char *value, struct img_error *err)
{
	const struct walk *walk = user;
	char **own;

	(void)err;
	if (!is_known(walk->options, key)) {
		report_error("Invalid parameter '%s'", key);
		return -EINVAL;
	}
	own = own_option(walk->creation, key);
	if (own && value) {
		free(*own);
		*own = args_memory(strdup(value));
	} else {
		add_rest(walk->creation, key, value);
	}
	return 0;
}

static int is_help(void *user, const char *key, const char *value, struct img_error *err)
{
	(void)user, (void)err;
	return !value && (!strcmp(key, "help") || !strcmp(key, "?"));
}

bool creation_wants_help(const struct creation *c)
{
	return for_each_key(c, is_help, NULL);
}

/* The likely key, unless it is known. */
static int suggest_key(void *user, const char *key, const char *value, struct img_error *err)
{
	const struct img_value *options = ((const struct walk *)user)->options;
	struct suggestion s;
	size_t i;

	(void)value, (void)err;
	suggest_begin(&s, key, strlen(key));
	for (i = 0; i < img_value_count(options); i++)
		suggest_offer(&s, img_value_string(img_value_get(img_value_at(options, i), "name")));
	if (s.distance)
		suggest_print(&s, "");
	return 0;
}

void creation_suggest(const struct creation *c, const char *format)
{
	struct img_value *options = img_format_create_options(format);
	struct walk walk = { .options = options };

	if (options)
		for_each_key(c, suggest_key, &walk);
	img_value_free(options);
}

static bool is_valid_size(const char *text)
{
	uint64_t size;
	int rc = img_parse_size(text, &size);

	if (rc)
		args_report_bad_size("size", text, rc);
	return !rc;
}

bool creation_resolve(struct creation *c, const char *format)
{
	struct img_value *options = args_memory(img_format_create_options(format));
	struct walk walk = { .creation = c, .options = options };
	bool valid = !for_each_key(c, resolve_key, &walk);

	img_value_free(options);
	if (!valid)
		creation_suggest(c, format);
	return valid && (!c->size || is_valid_size(c->size));
}

bool creation_possible(const char *format, const char *subject)
{
	const char *before = subject ? subject : "", *colon = subject ? ": " : "";
	int features = img_format_features(format);

	if (features < 0) {
		report_error("%s%sUnknown file format '%s'", before, colon, format);
		suggest_format(format);
	} else if (!(features & IMG_FORMAT_CREATE)) {
		report_error("%s%sFormat driver '%s' does not support image creation", before, colon,
			     format);
	}
	return features >= 0 && (features & IMG_FORMAT_CREATE);
}

static const char *option_name(const void *option)
{
	return img_value_string(img_value_get(*(const struct img_value *const *)option, "name"));
}

static int by_name(const void *a, const void *b)
{
	return strcmp(option_name(a), option_name(b));
}

static void print_option(const struct img_value *option)
{
	static const struct {
		const char *type, *shown;
	} types[] = {
		{ "string", "str" },
		{ "bool", "bool (on/off)" },
		{ "number", "num" },
		{ "size", "size" },
	};
	const char *type = img_value_string(img_value_get(option, "type"));
	const char *help = img_value_string(img_value_get(option, "help"));
	const char *choices = img_value_string(img_value_get(option, "choices"));
	char left[80];
	size_t i;

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (type && !strcmp(type, types[i].type))
			type = types[i].shown;
	snprintf(left, sizeof(left), "%s=<%s>", img_value_string(img_value_get(option, "name")),
		 type ? type : "str");
	printf("  %-22s - %s", left, help ? help : "");
	if (choices && (!help || !strchr(help, '('))) /* some name them already */
		printf(" (allowed values: %s)", choices);
	putchar('\n');
}

/* Sorted by their names, but for options of the file. */
static void print_options(const struct img_value *options)
{
	size_t count = img_value_count(options), i;
	const struct img_value **sorted = args_memory(calloc(count + 1, sizeof(*sorted)));

	for (i = 0; i < count; i++)
		sorted[i] = img_value_at(options, i);
	qsort(sorted, count, sizeof(*sorted), by_name);
	for (i = 0; i < count; i++)
		if (!img_value_bool(img_value_get(sorted[i], "file")))
			print_option(sorted[i]);
	free(sorted);
}

int creation_print_help(const char *format)
{
	struct img_value *options = args_memory(img_format_create_options(format));

	printf("Supported %s options:\n", format);
	print_options(options);
	img_value_free(options);
	return 0;
}

int creation_print_amend_help(const char *format)
{
	struct img_value *options = img_format_amend_options(format);

	if (!options) {
		report_error("Format driver '%s' does not support option amendment", format);
		return 1;
	}
	printf("Amend options for '%s':\n", format);
	print_options(options);
	img_value_free(options);
	return 0;
}

void creation_free(struct creation *c)
{
	size_t i;

	for (i = 0; i < c->rest.count; i++)
		free((char *)c->rest.items[i]);
	args_list_free(&c->rest);
	args_list_free(&c->given);
	free(c->size);
	free(c->backing_name);
	free(c->backing_format);
	*c = (struct creation){ 0 };
}
