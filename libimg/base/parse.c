/*
 * Text that people write. The grammars are those of QEMU's tools, as callers know them; a size is
 * computed in integers, so that it is exact where a floating-point number would not be.
 */
#include "libimg/base/parse.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"

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

/* ---- Numbers ---- */

int img_hex_digit(char c)
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

	for (; img_hex_digit(*p) >= 0 && img_hex_digit(*p) < base; p++) {
		if (fits)
			fits = mul_u64(n, (uint64_t)base, &n) &&
			       add_u64(n, (uint64_t)img_hex_digit(*p), &n);
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

/* Past blanks and a sign, which is given ('+': none). */
static const char *skip_sign(const char *text, char *sign)
{
	while (isspace((unsigned char)*text))
		text++;
	*sign = *text == '-' ? '-' : '+';
	return *text == '-' || *text == '+' ? text + 1 : text;
}

int img_parse_number(const char *text, uint64_t *out)
{
	uint64_t n = 0;
	const char *end;
	char sign;
	int rc;

	text = skip_sign(text, &sign);
	if (is_hex(text))
		rc = parse_digits(text + 2, 16, &n, &end);
	else
		rc = parse_digits(text, *text == '0' ? 8 : 10, &n, &end);
	if (rc == -EINVAL || *end)
		return -EINVAL;
	if (rc || (sign == '-' && n))
		return -ERANGE;
	*out = n;
	return 0;
}

/* ---- Sizes ---- */

/* The power of two that a suffix multiplies by; -1: not a suffix. */
static int suffix_shift(char c)
{
	static const char suffixes[] = "BKMGTPE";
	const char *at = c ? strchr(suffixes, toupper((unsigned char)c)) : NULL;

	return at ? 10 * (int)(at - suffixes) : -1;
}

/* The digits behind a decimal point: *fraction out of *scale. Returns what is behind them. */
static const char *parse_fraction(const char *text, uint64_t *fraction, uint64_t *scale)
{
	for (; isdigit((unsigned char)*text); text++) {
		/* digits past the 18th cannot matter: 1E has 19 digits and sizes are whole bytes */
		if (*scale < UINT64_C(1000000000000000000)) {
			*scale *= 10;
			*fraction = *fraction * 10 + (uint64_t)(*text - '0');
		}
	}
	return text;
}

static int parse_decimal_size(const char *text, uint64_t *out)
{
	uint64_t whole = 0, fraction = 0, scale = 1, bytes, part;
	const char *p = text;
	int shift = 0, rc = parse_digits(text, 10, &whole, &p);

	if (rc == -EINVAL && (text[0] != '.' || !isdigit((unsigned char)text[1])))
		return rc; /* ".5G" is a size */
	if (*p == '.')
		p = parse_fraction(p + 1, &fraction, &scale);
	if (*p) {
		shift = suffix_shift(*p);
		if (shift < 0 || p[1])
			return -EINVAL;
	}
	if (fraction && !shift) /* half a byte */
		return -EINVAL;
	part = (uint64_t)((((unsigned __int128)fraction << shift) + scale / 2) / scale);
	if (rc == -ERANGE || !mul_u64(whole, UINT64_C(1) << shift, &bytes) ||
	    !add_u64(bytes, part, &bytes))
		return -ERANGE;
	*out = bytes;
	return 0;
}

int img_parse_size(const char *text, uint64_t *out)
{
	uint64_t bytes = 0;
	const char *end;
	char sign;
	int rc;

	text = skip_sign(text, &sign);
	if (sign == '-') /* a number it is, though a wrong one */
		return *text && !text[strspn(text, "0123456789")] ? -ERANGE : -EINVAL;
	if (!is_hex(text))
		return parse_decimal_size(text, out);
	rc = parse_digits(text + 2, 16, &bytes, &end);
	if (rc == -EINVAL || *end) /* nor a suffix: b and e are digits */
		return -EINVAL;
	if (!rc)
		*out = bytes;
	return rc;
}

/* ---- Lists of KEY=VALUE ---- */

/* Undouble the commas of a value in place, up to the single one that ends it; what is behind that. */
static char *parse_value(char *value)
{
	char *from = value, *to = value;

	while (*from && (*from != ',' || from[1] == ',')) {
		from += *from == ',';
		*to++ = *from++;
	}
	if (*from)
		from++;
	*to = '\0';
	return from;
}

int img_parse_keyval(const char *text, img_keyval_fn *fn, void *user, struct img_error *err)
{
	char *copy = strdup(text), *from = copy;
	size_t len = strlen(text);
	int rc = 0;

	if (!copy)
		return img_fail(err, -ENOMEM, "out of memory");
	while (!rc && *from) {
		char *key = from, *end = from + strcspn(from, "=,");
		const char *value = NULL;
		bool with_value = *end == '=';

		from = *end ? end + 1 : end;
		*end = '\0';
		if (with_value) {
			value = from;
			from = parse_value(from);
		} else if (!strncmp(key, "no", 2)) {
			key += 2;
			value = "off";
		}
		rc = fn(user, key, value, err);
	}
	explicit_bzero(copy, len); /* a value may be a secret */
	free(copy);
	return rc;
}
