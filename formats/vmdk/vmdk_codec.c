/*
 * A last grain that the end of the disk cuts is stored in full by some writers and cut by others.
 * libdeflate, behind the common codec, must be told the length beforehand; zlib need not.
 */
#include "formats/vmdk/vmdk_codec.h"

#include <errno.h>
#include <zlib.h>

#include "formats/vmdk/vmdk_layout.h"

static int tail_decode(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
		       struct img_error *err)
{
	uint8_t surplus[4096];
	z_stream z = { .next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)in_len };
	int zrc = inflateInit(&z);

	if (zrc != Z_OK)
		return img_fail(err, -ENOMEM, "out of memory");
	z.next_out = out;
	z.avail_out = (uInt)out_len;
	zrc = inflate(&z, Z_NO_FLUSH);
	while (zrc == Z_OK && !z.avail_out && z.total_out <= VMDK_COMPRESSED_GRAIN_BYTES_MAX) {
		z.next_out = surplus;
		z.avail_out = sizeof(surplus);
		zrc = inflate(&z, Z_NO_FLUSH);
	}

	uint64_t total = z.total_out;

	inflateEnd(&z);
	if (zrc == Z_STREAM_END && total >= out_len && total <= VMDK_COMPRESSED_GRAIN_BYTES_MAX)
		return 0;
	if (zrc == Z_STREAM_END && total < out_len)
		return img_fail(err, -EUCLEAN,
				"the zlib stream has %llu bytes, expected at least %zu",
				(unsigned long long)total, out_len);
	if (total > VMDK_COMPRESSED_GRAIN_BYTES_MAX)
		return img_fail(err, -EUCLEAN, "the zlib stream has more bytes than any grain");
	return img_fail(err, -EUCLEAN, "not a whole zlib stream");
}

const struct img_codec vmdk_codec_last_grain = {
	.name = "zlib",
	.decode = tail_decode,
};
