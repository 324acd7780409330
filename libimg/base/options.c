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

struct img_options {
	const struct img_option *table;
	char **values; /* one for each row; NULL: not given */
	size_t count;
};

int img_parse_bool(const char *text, bool *out)
{
	static const char *const yes[] = { "on", "yes", "true", "y" };
	static const char *const no[] = { "off", "no", "false", "n" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(yes); i++) {
		if (!strcmp(text, yes[i])) {
			*out = true;
			return 0;
		}
		if (!strcmp(text, no[i])) {
			*out = false;
			return 0;
		}
	}
	return -EINVAL;
}

static int digit_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/*
 * Digits in base, at least one; *end is the first character after them. -EINVAL, -ERANGE: does
 * not fit (the digits are still skipped).
 */
static int parse_digits(const char *text, int base, uint64_t *out, const char **end)
{
	uint64_t n = 0;
	bool fits = true;
	const char *p = text;

	for (; digit_value(*p) >= 0 && digit_value(*p) < base; p++) {
		if (fits)
			fits = mul_u64(n, (uint64_t)base, &n) &&
			       add_u64(n, (uint64_t)digit_value(*p), &n);
	}
	if (p == text)
		return -EINVAL;
	*end = p;
	if (!fits)
		return -ERANGE;
	*out = n;
	return 0;
}

static bool is_hex(const char *text)
{
	return text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
}

int img_parse_number(const char *text, uint64_t *out)
{
	uint64_t n = 0;
	const char *end;
	bool hex = is_hex(text);
	int rc = parse_digits(hex ? text + 2 : text, hex ? 16 : 10, &n, &end);

	if (rc == -EINVAL || *end)
		return -EINVAL;
	if (!rc)
		*out = n;
	return rc;
}

/* The power of two that a suffix multiplies by; -1: not a suffix. */
static int suffix_shift(char c)
{
	switch (c) {
	case 'b':
	case 'B':
		return 0;
	case 'k':
	case 'K':
		return 10;
	case 'm':
	case 'M':
		return 20;
	case 'g':
	case 'G':
		return 30;
	case 't':
	case 'T':
		return 40;
	case 'p':
	case 'P':
		return 50;
	case 'e':
	case 'E':
		return 60;
	default:
		return -1;
	}
}

int img_parse_size(const char *text, uint64_t *out)
{
	uint64_t whole = 0, fraction = 0, scale = 1, bytes, part;
	bool hex = is_hex(text), fits;
	const char *p;
	int rc, shift = 0;

	rc = parse_digits(hex ? text + 2 : text, hex ? 16 : 10, &whole, &p);
	if (rc == -EINVAL && text[0] == '.' && text[1] >= '0' && text[1] <= '9') {
		p = text; /* ".5G" */
		rc = 0;
	}
	if (rc == -EINVAL)
		return rc;
	fits = !rc;
	if (*p == '.' && !hex) {
		/* digits past the 18th cannot matter: 1E has 19 digits and sizes are whole bytes */
		for (p++; *p >= '0' && *p <= '9'; p++) {
			if (scale < UINT64_C(1000000000000000000)) {
				scale *= 10;
				fraction = fraction * 10 + (uint64_t)(*p - '0');
			}
		}
	}
	if (*p) {
		shift = suffix_shift(*p);
		if (shift < 0 || p[1])
			return -EINVAL;
	}
	if (fraction && !shift) /* half a byte */
		return -EINVAL;
	part = (uint64_t)((unsigned __int128)fraction * (UINT64_C(1) << shift) / scale);
	if (!fits || !mul_u64(whole, UINT64_C(1) << shift, &bytes) ||
	    !add_u64(bytes, part, &bytes) || bytes > INT64_MAX)
		return -ERANGE;
	*out = bytes;
	return 0;
}

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

void img_options_free(struct img_options *o)
{
	if (!o)
		return;
	for (size_t i = 0; i < o->count; i++)
		free(o->values[i]);
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
					rc == -ERANGE ? "is too large for 64 bits" : "is not a number");
		break;
	case IMG_OPTION_SIZE:
		rc = img_parse_size(value, &n);
		if (rc)
			return img_fail(err, -EINVAL, "Parameter '%s' is '%s', which %s", row->name,
					value,
					rc == -ERANGE ? "is larger than any file" : "is not a size (a number, then b, k, M, G, T, P or E)");
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
	free(o->values[i]);
	o->values[i] = copy;
	return 0;
}

int img_options_parse(struct img_options *o, const char *text, struct img_error *err)
{
	char *copy = strdup(text), *from = copy;
	int rc = 0;

	if (!copy)
		return img_fail(err, -ENOMEM, "out of memory");
	while (!rc && *from) {
		char *key = from, *value = NULL, *to, *end = from + strcspn(from, "=,");
		char stop = *end;

		*end = '\0';
		from = stop ? end + 1 : end;
		if (stop == '=') { /* unfold the value in place: ",," is a comma, "," ends it */
			value = to = from;
			while (*from && (*from != ',' || from[1] == ',')) {
				from += *from == ',';
				*to++ = *from++;
			}
			if (*from)
				from++;
			*to = '\0';
		}
		rc = img_options_set(o, key, value, err);
	}
	free(copy);
	return rc;
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

uint64_t img_options_number(const struct img_options *o, const char *key)
{
	const char *text = img_options_string(o, key);
	uint64_t n = 0;

	/* a size is a superset of a number but for 64-bit ones */
	if (text && img_parse_number(text, &n) && img_parse_size(text, &n))
		return 0;
	return n;
}

bool img_options_bool(const struct img_options *o, const char *key)
{
	const char *text = img_options_string(o, key);
	bool b = false;

	return text && !img_parse_bool(text, &b) && b;
}
