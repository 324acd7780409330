/* Sizes: reading and writing them. */
#include "tools/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Which power of 1024 a suffix stands for; -1: it is none. */
static int suffix_power(char c)
{
	static const char suffixes[] = "BKMGTPE";
	const char *at = c ? strchr(suffixes, toupper((unsigned char)c)) : NULL;

	return at ? (int)(at - suffixes) : -1;
}

/* digits of the base, as many as there are; *over: the number does not fit. */
static uint64_t parse_digits(const char **text, unsigned base, bool *over)
{
	uint64_t value = 0;

	for (; isxdigit((unsigned char)**text); (*text)++) {
		char c = (char)tolower((unsigned char)**text);
		unsigned digit = (unsigned)(c >= 'a' ? c - 'a' + 10 : c - '0');

		if (digit >= base)
			break;
		if (__builtin_mul_overflow(value, base, &value) ||
		    __builtin_add_overflow(value, digit, &value))
			*over = true;
	}
	return value;
}

static int parse_hex(const char *text, uint64_t *out)
{
	bool over = false;
	uint64_t value;

	if (!isxdigit((unsigned char)*text))
		return -EINVAL;
	value = parse_digits(&text, 16, &over);
	if (*text)
		return -EINVAL;
	if (over)
		return -ERANGE;
	*out = value;
	return 0;
}

/* The part behind the decimal point, 0 <= it <= 1 (rounding may reach 1). */
static double parse_fraction(const char **text, bool *digits)
{
	double value = 0, weight = 0.1;

	for (; isdigit((unsigned char)**text); (*text)++, weight /= 10) {
		value += weight * (**text - '0');
		*digits = true;
	}
	return value;
}

static int parse_decimal(const char *text, uint64_t *out)
{
	bool digits = isdigit((unsigned char)*text), over = false;
	uint64_t value = parse_digits(&text, 10, &over), scale, part;
	double fraction = 0;
	int power = 0;

	if (*text == '.') {
		text++;
		fraction = parse_fraction(&text, &digits);
	}
	if (!digits)
		return -EINVAL;
	if (*text) {
		power = suffix_power(*text++);
		if (power < 0 || *text)
			return -EINVAL;
	}
	if (!power && fraction > 0)
		return -EINVAL;
	scale = (uint64_t)1 << (10 * power);
	part = (uint64_t)(fraction * (double)scale + 0.5);
	if (over || __builtin_mul_overflow(value, scale, &value) ||
	    __builtin_add_overflow(value, part, &value))
		return -ERANGE;
	*out = value;
	return 0;
}

int size_parse(const char *text, uint64_t *out)
{
	while (isspace((unsigned char)*text))
		text++;
	if (*text == '-') {
		text++;
		/* A number it is, though a wrong one. */
		return *text && !text[strspn(text, "0123456789")] ? -ERANGE : -EINVAL;
	}
	if (*text == '+')
		text++;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
		return parse_hex(text + 2, out);
	return parse_decimal(text, out);
}

char *size_format(uint64_t bytes, char *text)
{
	static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei" };
	double value = (double)bytes;
	unsigned unit = 0;

	/* 1000 of a unit and more are better said in the next: three digits are enough for all. */
	while (value >= 1000 && unit < 6) {
		value /= 1024;
		unit++;
	}
	snprintf(text, SIZE_TEXT_BYTES, "%0.3g %sB", value, units[unit]);
	return text;
}
