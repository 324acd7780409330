/*
 * Streams that are only unpacked: the input is a codec (1 byte), how many bytes are wanted (3), and the stream. What does not
 * give so many is refused in words; nothing is written beyond; and it gives the same each time.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/error.h"
#include "libimg/engine/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const struct img_codec *const codecs[] = {
	&img_codec_lzfse,
	&img_codec_adc,
	&img_codec_bzip2,
	&img_codec_xz,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct img_codec *codec;
	struct img_error err = { 0 };
	uint8_t *in, *out, *again;
	size_t want;
	int rc;

	if (len < 4)
		return 0;
	codec = codecs[data[0] % 4];
	want = 1 + (data[1] | (size_t)data[2] << 8 | (data[3] & (size_t)15) << 16);
	/* of their own, so that what is read or written beyond is noticed */
	in = malloc(len - 4);
	out = malloc(want);
	again = malloc(want);
	if (!in || !out || !again)
		abort();
	memcpy(in, data + 4, len - 4);
	memset(out, 1, want);
	memset(again, 2, want);
	rc = codec->decode(in, len - 4, out, want, &err);
	if (rc && ((rc != -EUCLEAN && rc != -ENOTSUP) || !*img_error_text(&err)))
		abort();
	img_error_clear(&err);
	if (codec->decode(in, len - 4, again, want, NULL) != rc)
		abort();
	if (!rc && memcmp(out, again, want) != 0)
		abort();
	free(in);
	free(out);
	free(again);
	return 0;
}
