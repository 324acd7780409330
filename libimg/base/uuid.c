#include "libimg/base/uuid.h"

#include <stdio.h>
#include <string.h>

/* After which bytes there is a dash. */
static bool dash_after(size_t i)
{
	return i == 3 || i == 5 || i == 7 || i == 9;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool img_uuid_parse(const char *text, size_t len, struct img_uuid *out)
{
	struct img_uuid uuid;

	if (len != IMG_UUID_CHARS)
		return false;
	for (size_t i = 0; i < sizeof(uuid.bytes); i++) {
		int high = hex_value(text[0]), low = hex_value(text[1]);

		if (high < 0 || low < 0)
			return false;
		uuid.bytes[i] = (uint8_t)(high << 4 | low);
		text += 2;
		if (dash_after(i) && *text++ != '-')
			return false;
	}
	*out = uuid;
	return true;
}

void img_uuid_print(const struct img_uuid *uuid, char out[IMG_UUID_CHARS + 1])
{
	for (size_t i = 0; i < sizeof(uuid->bytes); i++) {
		snprintf(out, 3, "%02x", uuid->bytes[i]);
		out += 2;
		if (dash_after(i))
			*out++ = '-';
	}
	*out = '\0';
}

bool img_uuid_same(const struct img_uuid *a, const struct img_uuid *b)
{
	return !memcmp(a->bytes, b->bytes, sizeof(a->bytes));
}
