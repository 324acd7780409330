/*
 * UTF-16 to UTF-8 and back, one code point after the other, in room for the longest that can come
 * of it.
 */
#include "libimg/base/utf16.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/endian.h"

static bool is_high(uint32_t unit)
{
	return unit >= 0xd800 && unit < 0xdc00;
}

static bool is_low(uint32_t unit)
{
	return unit >= 0xdc00 && unit < 0xe000;
}

/* One character as UTF-8; returns its length. */
static size_t put_utf8(uint32_t c, char *out)
{
	if (c < 0x80) {
		out[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		out[0] = (char)(0xc0 | c >> 6);
		out[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		out[0] = (char)(0xe0 | c >> 12);
		out[1] = (char)(0x80 | (c >> 6 & 0x3f));
		out[2] = (char)(0x80 | (c & 0x3f));
		return 3;
	}
	out[0] = (char)(0xf0 | c >> 18);
	out[1] = (char)(0x80 | (c >> 12 & 0x3f));
	out[2] = (char)(0x80 | (c >> 6 & 0x3f));
	out[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

int img_utf16_to_utf8(const uint8_t *text, size_t bytes, char **out)
{
	size_t n = 0;
	char *utf8;

	if (bytes % 2)
		return -EILSEQ;
	utf8 = malloc(bytes / 2 * 3 + 1); /* two units make up to four bytes */
	if (!utf8)
		return -ENOMEM;
	for (size_t i = 0; i < bytes; i += 2) {
		uint32_t c = le16_load(text + i);

		if (is_high(c) && i + 2 < bytes && is_low(le16_load(text + i + 2))) {
			i += 2;
			c = 0x10000 + ((c - 0xd800) << 10) + (le16_load(text + i) - 0xdc00u);
		} else if (!c || is_high(c) || is_low(c)) {
			free(utf8);
			return -EILSEQ;
		}
		n += put_utf8(c, utf8 + n);
	}
	utf8[n] = '\0';
	*out = utf8;
	return 0;
}

/* The next character of valid UTF-8, and its length; 0: not UTF-8. */
static size_t get_utf8(const unsigned char *p, uint32_t *c)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t len = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0
			       : p[0] < 0xe0	   ? 2
			       : p[0] < 0xf0	   ? 3
			       : p[0] < 0xf5	   ? 4
						   : 0;

	if (len <= 1) {
		*c = p[0];
		return len;
	}
	*c = p[0] & (0x7fu >> len);
	for (size_t i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		*c = *c << 6 | (p[i] & 0x3f);
	}
	return *c < least[len] || is_high(*c) || is_low(*c) || *c > 0x10ffff ? 0 : len;
}

int img_utf8_to_utf16(const char *text, uint8_t **out, size_t *bytes)
{
	const unsigned char *p = (const unsigned char *)text;
	uint8_t *utf16 = malloc(strlen(text) * 2 + 1);
	size_t n = 0;

	if (!utf16)
		return -ENOMEM;
	while (*p) {
		uint32_t c;
		size_t len = get_utf8(p, &c);

		if (!len) {
			free(utf16);
			return -EILSEQ;
		}
		p += len;
		if (c >= 0x10000) {
			le16_store(utf16 + n, (uint16_t)(0xd800 + ((c - 0x10000) >> 10)));
			n += 2;
			c = 0xdc00 + ((c - 0x10000) & 0x3ff);
		}
		le16_store(utf16 + n, (uint16_t)c);
		n += 2;
	}
	*out = utf16;
	*bytes = n;
	return 0;
}
