/* Four digits of six bits each are three bytes. */
#include "libimg/base/base64.h"

static int digit_of(uint8_t c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63
					: -1;
}

static bool is_space(uint8_t c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

bool img_base64_decode(uint8_t *bytes, size_t *len)
{
	uint32_t bits = 0;
	size_t digits = 0, pads = 0, out = 0;

	for (size_t i = 0; i < *len; i++) {
		int digit = digit_of(bytes[i]);

		if (is_space(bytes[i]))
			continue;
		if (bytes[i] == '=' && digits % 4 >= 2 && pads < 2) {
			pads++;
			continue;
		}
		if (digit < 0 || pads)
			return false;
		bits = bits << 6 | (uint32_t)digit;
		if (digits++ % 4)
			bytes[out++] = (uint8_t)(bits >> (6 - 2 * ((digits - 1) % 4)));
	}
	*len = out;
	return digits % 4 != 1 && (!pads || (digits + pads) % 4 == 0);
}
