/*
 * xz, by liblzma where the build has it. Only unpacking: nothing that is written uses it.
 */
#include "libimg/engine/codec.h"

#include <errno.h>
#include <inttypes.h>

#ifdef IMG_HAVE_LZMA
#include <lzma.h>

enum {
	/* A dictionary of 64 MiB: no unit is longer. Of a large one no more is touched than the unit has bytes. */
	MEMORY_MAX = (64 << 20) + (2 << 20),
};

static int xz_decode(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
		     struct img_error *err)
{
	lzma_stream z = LZMA_STREAM_INIT;
	uint64_t memory;
	size_t got;
	lzma_ret rc;

	/* .xz, or the older .lzma */
	if (lzma_auto_decoder(&z, MEMORY_MAX, 0) != LZMA_OK)
		return img_fail(err, -ENOMEM, "out of memory for xz");
	z.next_in = in;
	z.avail_in = in_len;
	z.next_out = out;
	z.avail_out = out_len;
	do {
		rc = lzma_code(&z, LZMA_FINISH);
	} while (rc == LZMA_OK);
	got = out_len - z.avail_out;
	memory = rc == LZMA_MEMLIMIT_ERROR ? lzma_memusage(&z) : 0;
	lzma_end(&z);
	switch (rc) {
	case LZMA_STREAM_END:
		break;
	case LZMA_MEM_ERROR:
		return img_fail(err, -ENOMEM, "out of memory for xz");
	case LZMA_MEMLIMIT_ERROR:
		return img_fail(err, -EUCLEAN, "the xz stream needs %" PRIu64 " bytes of memory, expected up to %d",
				memory, MEMORY_MAX);
	case LZMA_BUF_ERROR: /* either side is used up */
		if (got == out_len)
			return img_fail(err, -EUCLEAN, "the xz stream has more than the expected %zu bytes",
					out_len);
		break;
	default:
		return img_fail(err, -EUCLEAN, "no valid xz stream in %zu bytes", in_len);
	}
	return got == out_len && rc == LZMA_STREAM_END
		       ? 0
		       : img_fail(err, -EUCLEAN, "the xz stream has %zu bytes, expected %zu", got, out_len);
}

const struct img_codec img_codec_xz = {
	.name = "xz",
	.decode = xz_decode,
};

#else

static int xz_decode(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
		     struct img_error *err)
{
	(void)in;
	(void)in_len;
	(void)out;
	(void)out_len;
	return img_fail(err, -ENOTSUP, "%s", img_codec_xz.missing);
}

const struct img_codec img_codec_xz = {
	.name = "xz",
	.missing = "this build is without liblzma",
	.decode = xz_decode,
};

#endif
