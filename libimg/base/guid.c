/*
 * GUIDs: the order in which text and bytes have the sixteen bytes is a table.
 */
#include "libimg/base/guid.h"

#include <string.h>

#include "libimg/base/identity.h"
#include "libimg/base/parse.h"

/* Where the text's bytes are stored, and the dashes between them. */
static const uint8_t place[IMG_GUID_BYTES] = {
	3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15
};

static bool dash_before(size_t i)
{
	return i == 4 || i == 6 || i == 8 || i == 10;
}

void img_guid_print(const uint8_t guid[IMG_GUID_BYTES], char out[IMG_GUID_CHARS + 1])
{
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < IMG_GUID_BYTES; i++) {
		if (dash_before(i))
			*out++ = '-';
		*out++ = digits[guid[place[i]] >> 4];
		*out++ = digits[guid[place[i]] & 15];
	}
	*out = '\0';
}

bool img_guid_parse(const char *text, size_t len, uint8_t out[IMG_GUID_BYTES])
{
	uint8_t guid[IMG_GUID_BYTES];

	if (len == IMG_GUID_CHARS + 2 && text[0] == '{' && text[len - 1] == '}') {
		text++;
		len -= 2;
	}
	if (len != IMG_GUID_CHARS)
		return false;
	for (size_t i = 0; i < IMG_GUID_BYTES; i++, text += 2) {
		int high, low;

		if (dash_before(i) && *text++ != '-')
			return false;
		high = img_hex_digit(text[0]);
		low = img_hex_digit(text[1]);
		if (high < 0 || low < 0)
			return false;
		guid[place[i]] = (uint8_t)(high << 4 | low);
	}
	memcpy(out, guid, sizeof(guid));
	return true;
}

int img_guid_new(const uint64_t identity[2], const char *label, uint8_t out[IMG_GUID_BYTES],
		 struct img_error *err)
{
	int rc = img_identity_bytes(identity, label, out, IMG_GUID_BYTES, err);

	out[7] = (out[7] & 0x0f) | 0x40;
	out[8] = (out[8] & 0x3f) | 0x80;
	return rc;
}

bool img_guid_is_zero(const uint8_t guid[IMG_GUID_BYTES])
{
	static const uint8_t zero[IMG_GUID_BYTES];

	return img_guid_equal(guid, zero);
}

bool img_guid_equal(const uint8_t a[IMG_GUID_BYTES], const uint8_t b[IMG_GUID_BYTES])
{
	return !memcmp(a, b, IMG_GUID_BYTES);
}
