/*
 * Error objects. A sentence may quote a name that comes from an image or an argument: whatever a
 * terminal would act on instead of showing is written out as \xNN.
 */
#include "libimg/base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct img_error *img_error_new(void)
{
	return calloc(1, sizeof(struct img_error));
}

void img_error_clear(struct img_error *err)
{
	if (!err)
		return;
	free(err->text);
	err->text = NULL;
	err->code = 0;
}

void img_error_free(struct img_error *err)
{
	img_error_clear(err);
	free(err);
}

const char *img_error_text(const struct img_error *err)
{
	if (err && err->text)
		return err->text;
	/* plain English, thread-safe; NULL for a number that it does not know */
	if (err && err->code) {
		const char *known = strerrordesc_np(-err->code);

		return known ? known : "unknown error";
	}
	return "no error";
}

int img_error_code(const struct img_error *err)
{
	return err ? err->code : 0;
}

/* Characters above ASCII that move the cursor, hide or reorder text. */
static bool is_control(uint32_t c)
{
	return (c >= 0x80 && c < 0xa0) || /* C1: 0x9b begins an escape sequence */
	       (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) ||
	       (c >= 0x2060 && c <= 0x206f) || c == 0xfeff;
}

/*
 * The length of the printable UTF-8 sequence (RFC 3629: shortest form, no surrogates) at s, which
 * ends in a zero byte; 0 if there is none.
 */
static size_t printable_length(const unsigned char *s)
{
	size_t len;
	uint32_t c, least;

	if (s[0] < 0x80)
		return s[0] >= 0x20 && s[0] != 0x7f ? 1 : 0;
	if (s[0] >= 0xc2 && s[0] < 0xe0) {
		len = 2;
		c = s[0] & 0x1fu;
		least = 0x80;
	} else if (s[0] >= 0xe0 && s[0] < 0xf0) {
		len = 3;
		c = s[0] & 0x0fu;
		least = 0x800;
	} else if (s[0] >= 0xf0 && s[0] < 0xf5) {
		len = 4;
		c = s[0] & 0x07u;
		least = 0x10000;
	} else {
		return 0;
	}
	for (size_t i = 1; i < len; i++) { /* the final zero byte ends this too */
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (s[i] & 0x3fu);
	}
	if (c < least || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) || is_control(c))
		return 0;
	return len;
}

/* A copy of text with the rest as \xNN. NULL: out of memory. */
static char *escape(const char *text)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *from = (const unsigned char *)text;
	size_t len = strlen(text);
	char *copy, *to;

	if (len > SIZE_MAX / 4 - 1)
		return NULL;
	copy = to = malloc(len * 4 + 1);
	if (!copy)
		return NULL;
	while (*from) {
		size_t n = printable_length(from);

		if (n) {
			memcpy(to, from, n);
			to += n;
			from += n;
		} else {
			*to++ = '\\';
			*to++ = 'x';
			*to++ = digits[*from >> 4];
			*to++ = digits[*from & 15];
			from++;
		}
	}
	*to = '\0';
	return copy;
}

/* NULL: out of memory. */
static char *format_escaped(const char *fmt, va_list args)
{
	char *raw, *text;

	if (vasprintf(&raw, fmt, args) < 0)
		return NULL;
	text = escape(raw);
	free(raw);
	return text;
}

int img_fail(struct img_error *err, int code, const char *fmt, ...)
{
	va_list args;
	char *text;

	if (!err)
		return code;
	va_start(args, fmt);
	text = format_escaped(fmt, args);
	va_end(args);
	/* only now: the arguments may quote what err held */
	free(err->text);
	err->text = text;
	err->code = code;
	return code;
}

int img_error_prefix(struct img_error *err, int code, const char *fmt, ...)
{
	va_list args;
	char *prefix, *text;

	if (!err)
		return code;
	if (!err->code)
		err->code = code;
	va_start(args, fmt);
	prefix = format_escaped(fmt, args);
	va_end(args);
	if (prefix && asprintf(&text, "%s: %s", prefix, img_error_text(err)) >= 0) {
		free(err->text);
		err->text = text;
	}
	free(prefix);
	err->code = code;
	return code;
}

void img_error_move(struct img_error *dst, struct img_error *src)
{
	if (!src || dst == src)
		return;
	if (dst) {
		free(dst->text);
		*dst = *src;
		src->text = NULL;
		src->code = 0;
	} else {
		img_error_clear(src);
	}
}
