/*
 * Options given as text, checked against a table when they are given: what is stored is valid, so
 * the getters cannot fail.
 */
#include "libimg/base/options.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/parse.h"

struct img_options {
	const struct img_option *table;
	char **values; /* one for each row; NULL: not given */
	size_t count;
};

struct img_options *img_options_new(const struct img_option *table)
{
	struct img_options *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->table = table;
	while (table[o->count].name)
		o->count++;
	o->values = calloc(o->count ? o->count : 1, sizeof(*o->values));
	if (!o->values) {
		free(o);
		return NULL;
	}
	return o;
}

/* Some are secrets. */
static void free_value(char *value)
{
	if (value)
		explicit_bzero(value, strlen(value));
	free(value);
}

void img_options_free(struct img_options *o)
{
	if (!o)
		return;
	for (size_t i = 0; i < o->count; i++)
		free_value(o->values[i]);
	free(o->values);
	free(o);
}

/* The row of a key; o->count: none. */
static size_t find_row(const struct img_options *o, const char *key)
{
	size_t i;

	for (i = 0; i < o->count && strcmp(o->table[i].name, key) != 0; i++)
		;
	return i;
}

/* Is value one of the comma-separated words of choices? */
static bool is_choice(const char *choices, const char *value)
{
	size_t len = strlen(value);

	for (const char *word = choices; *word;) {
		size_t n = strcspn(word, ",");

		if (n == len && !memcmp(word, value, n))
			return true;
		word += n;
		if (*word)
			word++;
	}
	return false;
}

static int check_value(const struct img_option *row, const char *value, struct img_error *err)
{
	uint64_t n;
	bool b;
	int rc = 0;

	if (row->choices && !is_choice(row->choices, value))
		return img_fail(err, -EINVAL, "Parameter '%s' is '%s', expected one of: %s",
				row->name, value, row->choices);
	switch (row->type) {
	case IMG_OPTION_STRING:
	case IMG_OPTION_PATH:
	case IMG_OPTION_SECRET:
		break;
	case IMG_OPTION_BOOL:
		if (img_parse_bool(value, &b))
			return img_fail(err, -EINVAL, "Parameter '%s' is '%s', expected on or off",
					row->name, value);
		break;
	case IMG_OPTION_NUMBER:
		rc = img_parse_number(value, &n);
		if (rc)
			return img_fail(err, -EINVAL, "Parameter '%s' is '%s', which %s", row->name,
					value,
					rc == -ERANGE ? "is out of range (0 to 2^64 - 1)"
						      : "is not a number");
		break;
	case IMG_OPTION_SIZE:
		rc = img_parse_size(value, &n);
		if (!rc && n > INT64_MAX)
			rc = -ERANGE;
		if (rc)
			return img_fail(err, -EINVAL, "Parameter '%s' is '%s', which %s", row->name,
					value,
					rc == -ERANGE ? "is out of range (0 to 2^63 - 1)"
						      : "is not a size (a number, then b, k, M, "
							"G, T, P or E)");
		break;
	}
	return 0;
}

int img_options_set(struct img_options *o, const char *key, const char *value,
		    struct img_error *err)
{
	size_t i = find_row(o, key);
	char *copy;
	int rc;

	if (i == o->count)
		return img_fail(err, -EINVAL, "Invalid parameter '%s'", key);
	if (!value) {
		if (o->table[i].type != IMG_OPTION_BOOL)
			return img_fail(err, -EINVAL, "Parameter '%s' needs a value", key);
		value = "on";
	}
	rc = check_value(&o->table[i], value, err);
	if (rc)
		return rc;
	copy = strdup(value);
	if (!copy)
		return img_fail(err, -ENOMEM, "out of memory");
	free_value(o->values[i]);
	o->values[i] = copy;
	return 0;
}

static int set_parsed(void *user, const char *key, const char *value, struct img_error *err)
{
	return img_options_set(user, key, value, err);
}

int img_options_parse(struct img_options *o, const char *text, struct img_error *err)
{
	return img_parse_keyval(text, set_parsed, o, err);
}

bool img_options_has(const struct img_options *o, const char *key)
{
	size_t i = find_row(o, key);

	return i < o->count && o->values[i];
}

const char *img_options_string(const struct img_options *o, const char *key)
{
	size_t i = find_row(o, key);

	assert(i < o->count);
	return o->values[i] ? o->values[i] : o->table[i].fallback;
}

void img_options_forget(struct img_options *o, const char *key)
{
	size_t i = find_row(o, key);

	assert(i < o->count);
	free_value(o->values[i]);
	o->values[i] = NULL;
}

uint64_t img_options_number(const struct img_options *o, const char *key)
{
	const char *text = img_options_string(o, key);
	bool is_size = o->table[find_row(o, key)].type == IMG_OPTION_SIZE;
	uint64_t n = 0;

	if (!text || (is_size ? img_parse_size(text, &n) : img_parse_number(text, &n)))
		return 0;
	return n;
}

bool img_options_bool(const struct img_options *o, const char *key)
{
	const char *text = img_options_string(o, key);
	bool b = false;

	return text && !img_parse_bool(text, &b) && b;
}
