/*
 * Text from outside: the input is an option string, a size and a name in an error's sentence.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/error.h"
#include "libimg/base/options.h"
#include "libimg/base/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const struct img_option table[] = {
	{ .name = "s", .type = IMG_OPTION_STRING },
	{ .name = "b", .type = IMG_OPTION_BOOL },
	{ .name = "n", .type = IMG_OPTION_NUMBER, .fallback = "3" },
	{ .name = "z", .type = IMG_OPTION_SIZE },
	{ .name = "c", .type = IMG_OPTION_STRING, .choices = "on,off,auto" },
	{ 0 },
};

/* Nothing that a terminal acts on: no control characters, and every byte above ASCII in UTF-8. */
static void check_printable(const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p < 0x20 || *p == 0x7f || *p == 0xc0 || *p == 0xc1 || *p > 0xf4)
			abort();
		if (*p == 0xc2 && p[1] < 0xa0) /* C1 */
			abort();
		if (*p >= 0xc2) {
			int follow = *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2
								 : 1;

			while (follow--) {
				if ((*++p & 0xc0) != 0x80)
					abort();
			}
		} else if (*p >= 0x80) {
			abort();
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *text = malloc(len + 1);
	struct img_options *o = img_options_new(table);
	struct img_error err = { 0 };
	uint64_t n, n2;

	if (!text || !o)
		abort();
	memcpy(text, data, len);
	text[len] = '\0';
	if (!img_parse_size(text, &n) && text[strspn(text, "0123456789")] == '\0' &&
	    (img_parse_number(text, &n2) || n != n2) && *text != '0')
		abort();
	if (img_options_parse(o, text, &err)) {
		if (err.code != -EINVAL)
			abort();
		check_printable(img_error_text(&err));
	} else {
		const char *choice = img_options_string(o, "c");

		if (choice && strcmp(choice, "on") != 0 && strcmp(choice, "off") != 0 &&
		    strcmp(choice, "auto") != 0)
			abort();
		if (img_options_number(o, "z") > INT64_MAX)
			abort();
		if (!img_options_has(o, "n") && img_options_number(o, "n") != 3)
			abort();
	}
	img_fail(&err, -EIO, "%s", text);
	check_printable(img_error_text(&err));
	img_error_clear(&err);
	img_options_free(o);
	free(text);
	return 0;
}
