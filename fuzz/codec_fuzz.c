/*
 * Packed units: the input is a codec, how many bytes are wanted, and the packed bytes. What is
 * unpacked must be what zlib unpacks too; what is packed must come back.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "libimg/base/error.h"
#include "libimg/engine/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const struct img_codec *const codecs[] = {
	&img_codec_deflate,
	&img_codec_zlib,
	&img_codec_zstd,
};

/* What zlib gives for the same: bytes, up to room. */
static size_t unpack_zlib(int bits, const uint8_t *in, size_t len, uint8_t *out, size_t room)
{
	z_stream z = { .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)room };
	uint8_t *copy = malloc(len ? len : 1);

	if (!copy || inflateInit2(&z, bits) != Z_OK)
		abort();
	memcpy(copy, in, len);
	z.next_in = copy;
	inflate(&z, Z_FINISH);
	inflateEnd(&z);
	free(copy);
	return room - z.avail_out;
}

static void unpack(const struct img_codec *codec, const uint8_t *in, size_t len, size_t want)
{
	uint8_t *out = malloc(want), *again = malloc(want);
	struct img_error err = { 0 };
	int rc;

	if (!out || !again)
		abort();
	memset(out, 1, want);
	memset(again, 2, want);
	rc = codec->decode(in, len, out, want, &err);
	if (rc && (rc != -EUCLEAN || !*img_error_text(&err)))
		abort();
	if (codec != &img_codec_zstd && !rc) {
		int bits = codec == &img_codec_zlib ? 15 : -15;

		if (unpack_zlib(bits, in, len, again, want) != want ||
		    memcmp(out, again, want) != 0)
			abort();
	} else if (codec == &img_codec_deflate && unpack_zlib(-15, in, len, again, want) == want) {
		abort(); /* it gives enough, so it must be taken */
	}
	img_error_clear(&err);
	free(out);
	free(again);
}

static void round_trip(const struct img_codec *codec, const uint8_t *in, size_t len)
{
	size_t room = len + 100, compressed_len;
	uint8_t *packed = malloc(room), *back = malloc(len);

	if (!packed || !back)
		abort();
	if (codec->encode(in, len, 0, packed, room, &compressed_len, NULL) ||
	    compressed_len > room || codec->decode(packed, compressed_len, back, len, NULL) ||
	    memcmp(back, in, len) != 0)
		abort();
	free(packed);
	free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct img_codec *codec;

	if (len < 4)
		return 0;
	codec = codecs[data[0] % 3];
	unpack(codec, data + 3, len - 3, 1 + data[1] + data[2] * 256u);
	round_trip(codec, data + 3, len - 3);
	return 0;
}
