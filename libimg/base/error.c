/* Error objects. A sentence may quote a name that comes from an image or an argument. */
#include "libimg/base/error.h"

#include <inttypes.h>
#include <stdbool.h>
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

/* NULL: out of memory. */
static char *format_escaped(const char *fmt, va_list args)
{
	char *raw, *text;

	if (vasprintf(&raw, fmt, args) < 0)
		return NULL;
	text = img_printable(raw);
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

int img_fail_range(struct img_error *err, int code, uint64_t found, uint64_t low, uint64_t high,
		   const char *fmt, ...)
{
	va_list args;
	char *what;

	if (!err)
		return code;
	va_start(args, fmt);
	what = format_escaped(fmt, args);
	va_end(args);
	if (low == high)
		img_fail(err, code, "%s is %" PRIu64 ", expected %" PRIu64, what ? what : "", found,
			 low);
	else if (low)
		img_fail(err, code, "%s is %" PRIu64 ", expected %" PRIu64 " to %" PRIu64,
			 what ? what : "", found, low, high);
	else
		img_fail(err, code, "%s is %" PRIu64 ", expected at most %" PRIu64,
			 what ? what : "", found, high);
	free(what);
	return code;
}

/* Does text begin with "prefix: " already? */
static bool begins_with(const char *text, const char *prefix)
{
	size_t len = strlen(prefix);

	return !strncmp(text, prefix, len) && text[len] == ':' && text[len + 1] == ' ';
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
	if (prefix && !begins_with(img_error_text(err), prefix) &&
	    asprintf(&text, "%s: %s", prefix, img_error_text(err)) >= 0) {
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
