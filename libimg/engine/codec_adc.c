/*
 * Apple Data Compression: an LZ77 of bytes, of old Macs. There is no length and no end in it: it goes on until
 * there are as many bytes as are wanted.
 *
 *	1nnnnnnn			n + 1 bytes follow
 *	00nnnndd dddddddd		n + 3 bytes from d + 1 bytes back
 *	01nnnnnn dddddddd dddddddd	n + 4 bytes from d + 1 bytes back
 */
#include "libimg/engine/codec.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "libimg/engine/lz_copy.h"

static int fail_at(const char *what, size_t at, size_t in_len, struct img_error *err)
{
	return img_fail(err, -EUCLEAN, "the adc stream %s at byte %zu of %zu", what, at, in_len);
}

static int adc_decode(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
		      struct img_error *err)
{
	size_t at = 0, got = 0;

	while (got < out_len) {
		size_t begin = at, count, back;
		bool plain;

		if (at == in_len)
			return img_fail(err, -EUCLEAN, "the adc stream has %zu bytes, expected %zu", got,
					out_len);
		plain = in[at] & 0x80;
		if (plain) {
			count = (in[at++] & 0x7f) + 1u;
			back = 0;
			if (count > in_len - at)
				return fail_at("is cut short", begin, in_len, err);
		} else if (in[at] & 0x40) {
			if (in_len - at < 3)
				return fail_at("is cut short", begin, in_len, err);
			count = (in[at] & 0x3f) + 4u;
			back = 1 + ((size_t)in[at + 1] << 8 | in[at + 2]);
			at += 3;
		} else {
			if (in_len - at < 2)
				return fail_at("is cut short", begin, in_len, err);
			count = (in[at] >> 2) + 3u;
			back = 1 + ((in[at] & (size_t)3) << 8 | in[at + 1]);
			at += 2;
		}
		if (count > out_len - got)
			return fail_at("has more than the expected bytes", begin, in_len, err);
		if (back > got)
			return fail_at("goes back to before its begin", begin, in_len, err);
		if (plain) {
			memcpy(out + got, in + at, count);
			at += count;
		} else {
			img_lz_copy(out + got, back, count, out + out_len);
		}
		got += count;
	}
	return 0;
}

const struct img_codec img_codec_adc = {
	.name = "adc",
	.decode = adc_decode,
};
