/*
 * Text that may come from an image, as a terminal may have it: whatever it would act on instead of
 * showing is written out as \xNN, and so is what is not UTF-8, since a terminal that reads single
 * bytes finds controls there too.
 */
#include "libimg/img.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

char *img_printable(const char *text)
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
