/*
 * bzip2, by libbz2 where the build has it. Only unpacking: nothing that is written uses it.
 */
#include "libimg/engine/codec.h"

#include <errno.h>
#include <limits.h>

#include "libimg/base/arith.h"

#ifdef IMG_HAVE_BZIP2
#include <bzlib.h>

enum {
	PIECE = 1 << 30, /* libbz2 counts in unsigned int */
};

/* 0: the stream ends with out; -ENOSPC: it goes on; -ENODATA: it ends too early; -EUCLEAN, -ENOMEM. */
static int unpack(bz_stream *z, size_t in_len, size_t out_len, size_t *got)
{
	size_t left_in = in_len, left_out = out_len;
	int rc;

	do {
		unsigned give = (unsigned)min_size(left_in, PIECE);
		unsigned space = (unsigned)min_size(left_out, PIECE);

		z->avail_in = give;
		z->avail_out = space;
		rc = BZ2_bzDecompress(z);
		left_in -= give - z->avail_in;
		left_out -= space - z->avail_out;
		if (give == z->avail_in && space == z->avail_out && rc == BZ_OK)
			break; /* neither took nor gave */
	} while (rc == BZ_OK);
	*got = out_len - left_out;
	if (rc == BZ_MEM_ERROR)
		return -ENOMEM;
	if (rc != BZ_OK && rc != BZ_STREAM_END)
		return -EUCLEAN;
	if (rc == BZ_OK && !left_out)
		return -ENOSPC;
	return left_out ? -ENODATA : 0;
}

static int bzip2_decode(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
			struct img_error *err)
{
	union { /* its input is not const, though it is only read */
		const uint8_t *in;
		char *base;
	} source = { .in = in };
	bz_stream z = { .next_in = source.base, .next_out = (char *)out };
	size_t got;
	int rc;

	if (BZ2_bzDecompressInit(&z, 0, 0) != BZ_OK)
		return img_fail(err, -ENOMEM, "out of memory for bzip2");
	rc = unpack(&z, in_len, out_len, &got);
	BZ2_bzDecompressEnd(&z);
	switch (rc) {
	case 0:
		return 0;
	case -ENOMEM:
		return img_fail(err, rc, "out of memory for bzip2");
	case -ENOSPC:
		return img_fail(err, -EUCLEAN, "the bzip2 stream has more than the expected %zu bytes",
				out_len);
	case -ENODATA:
		return img_fail(err, -EUCLEAN, "the bzip2 stream has %zu bytes, expected %zu", got, out_len);
	default:
		return img_fail(err, -EUCLEAN, "no valid bzip2 stream in %zu bytes", in_len);
	}
}

const struct img_codec img_codec_bzip2 = {
	.name = "bzip2",
	.decode = bzip2_decode,
};

#else

static int bzip2_decode(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
			struct img_error *err)
{
	(void)in;
	(void)in_len;
	(void)out;
	(void)out_len;
	return img_fail(err, -ENOTSUP, "%s", img_codec_bzip2.missing);
}

const struct img_codec img_codec_bzip2 = {
	.name = "bzip2",
	.missing = "this build is without libbz2",
	.decode = bzip2_decode,
};

#endif
