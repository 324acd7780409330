/*
 * Codecs. Each thread keeps one context of each kind and uses it again: setting one up costs more
 * than packing a cluster. libdeflate works on whole buffers and is fast, but says nothing of what
 * it has done when the output is too small; then zlib, which can be stopped, does it again.
 */
#include "libimg/engine/codec.h"

#include <errno.h>
#include <inttypes.h>
#include <libdeflate.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

enum {
	/*
	 * What is mostly text, and what is not. Both are several times as fast as zlib's 6, and as
	 * QEMU uses that (a window of 4 KiB) 5% smaller on a Linux root; with level 1 for all of it
	 * programs alone (/usr/bin) came out 2% larger.
	 */
	DEFLATE_TEXT_LEVEL = 1,
	DEFLATE_LEVEL = 2,
	/* What is shorter has few matches to choose from: level 2 gives up to 2.5% more than zlib. */
	DEFLATE_SMALL = 32 << 10,
	DEFLATE_SMALL_LEVEL = 6,
	DEFLATE_MAX_LEVEL = 12,
	ZSTD_LEVEL = 3,
	ZSTD_MAX_LEVEL = 22,
	/*
	 * The window, 8 MiB, that a frame may ask memory for when it has to be fed piece by piece:
	 * that is a frame that is cut, and no unit is larger than a few MiB.
	 */
	ZSTD_MAX_WINDOW_LOG = 23,
	ZLIB_WINDOW_BITS = 15,
};

struct contexts {
	struct libdeflate_decompressor *inflate;
	struct libdeflate_compressor *deflate[DEFLATE_MAX_LEVEL + 1];
	ZSTD_DCtx *unzstd;
	ZSTD_CCtx *zstd;
};

static pthread_key_t contexts_key;
static bool have_key;

static void free_contexts(void *arg)
{
	struct contexts *c = arg;

	libdeflate_free_decompressor(c->inflate);
	for (int i = 0; i <= DEFLATE_MAX_LEVEL; i++)
		libdeflate_free_compressor(c->deflate[i]);
	ZSTD_freeDCtx(c->unzstd);
	ZSTD_freeCCtx(c->zstd);
	free(c);
}

static void make_key(void)
{
	have_key = !pthread_key_create(&contexts_key, free_contexts);
}

/* This thread's contexts; NULL: out of memory. */
static struct contexts *get_contexts(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct contexts *c;

	pthread_once(&once, make_key);
	if (!have_key)
		return NULL;
	c = pthread_getspecific(contexts_key);
	if (!c) {
		c = calloc(1, sizeof(*c));
		if (c && pthread_setspecific(contexts_key, c)) {
			free(c);
			return NULL;
		}
	}
	return c;
}

static int fail_memory(struct img_error *err)
{
	return img_fail(err, -ENOMEM, "out of memory for compression");
}

/*
 * Unpack with zlib what fits in out. window_bits: negative for raw deflate. *got: bytes written.
 * 0: the stream ends there; -ENOSPC: it goes on; -EUCLEAN: broken or cut short.
 */
static int inflate_zlib(int window_bits, const uint8_t *in, size_t in_len, uint8_t *out,
			size_t out_len, size_t *got)
{
	union { /* zlib's input is not const, though it is only read */
		const uint8_t *in;
		uint8_t *base;
	} source = { .in = in };
	z_stream z = { .next_in = source.base, .next_out = out };
	size_t left_in = in_len, left_out = out_len;
	int rc;

	if (inflateInit2(&z, window_bits) != Z_OK)
		return -ENOMEM;
	do {
		uInt give = (uInt)(left_in < UINT_MAX ? left_in : UINT_MAX);
		uInt room = (uInt)(left_out < UINT_MAX ? left_out : UINT_MAX);

		z.avail_in = give;
		z.avail_out = room;
		rc = inflate(&z, Z_NO_FLUSH);
		left_in -= give - z.avail_in;
		left_out -= room - z.avail_out;
	} while (rc == Z_OK && left_in && left_out);
	inflateEnd(&z);
	*got = out_len - left_out;
	if (rc == Z_STREAM_END)
		return 0;
	if (rc == Z_MEM_ERROR)
		return -ENOMEM;
	return !left_out && (rc == Z_OK || rc == Z_BUF_ERROR) ? -ENOSPC : -EUCLEAN;
}

static int fail_short(const char *name, size_t got, size_t want, struct img_error *err)
{
	return img_fail(err, -EUCLEAN, "the %s stream has %zu bytes, expected %zu", name, got,
			want);
}

static int fail_broken(const char *name, size_t in_len, struct img_error *err)
{
	return img_fail(err, -EUCLEAN, "no valid %s stream in %zu bytes", name, in_len);
}

static int deflate_decode(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
			  struct img_error *err)
{
	struct contexts *c = get_contexts();
	enum libdeflate_result result;
	size_t used, got = 0;
	int rc;

	if (!c || (!c->inflate && !(c->inflate = libdeflate_alloc_decompressor())))
		return fail_memory(err);
	result = libdeflate_deflate_decompress_ex(c->inflate, in, in_len, out, out_len, &used,
						  &got);
	if (result == LIBDEFLATE_SUCCESS)
		return got == out_len ? 0 : fail_short("deflate", got, out_len, err);
	/* either it goes on past out_len, or what follows out_len bytes is no stream any more */
	rc = inflate_zlib(-ZLIB_WINDOW_BITS, in, in_len, out, out_len, &got);
	if (rc == -ENOMEM)
		return fail_memory(err);
	if (got == out_len)
		return 0;
	return rc ? fail_broken("deflate", in_len, err) : fail_short("deflate", got, out_len, err);
}

static int zlib_decode(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
		       struct img_error *err)
{
	struct contexts *c = get_contexts();
	size_t used, got = 0;

	if (!c || (!c->inflate && !(c->inflate = libdeflate_alloc_decompressor())))
		return fail_memory(err);
	switch (libdeflate_zlib_decompress_ex(c->inflate, in, in_len, out, out_len, &used, &got)) {
	case LIBDEFLATE_SUCCESS:
		return got == out_len ? 0 : fail_short("zlib", got, out_len, err);
	case LIBDEFLATE_INSUFFICIENT_SPACE:
		return img_fail(err, -EUCLEAN,
				"the zlib stream has more than the expected %zu bytes", out_len);
	default:
		return fail_broken("zlib", in_len, err);
	}
}

/* This thread's compressor for a level; NULL: out of memory. */
static struct libdeflate_compressor *get_compressor(int level)
{
	struct contexts *c = get_contexts();

	if (!c)
		return NULL;
	if (!c->deflate[level])
		c->deflate[level] = libdeflate_alloc_compressor(level);
	return c->deflate[level];
}

/* The level for who has no wish: by a sample of what is to be packed. */
static int default_level(const uint8_t *in, size_t in_len)
{
	enum { SAMPLES = 1024,
	       MOST_BINARY = SAMPLES * 6 / 10 };
	size_t step = in_len / SAMPLES;
	unsigned binary = 0;

	if (in_len < DEFLATE_SMALL)
		return DEFLATE_SMALL_LEVEL;
	for (size_t i = 0; i < SAMPLES; i++) {
		uint8_t byte = in[i * step + i * 7 % step]; /* not always the same of a record */

		binary += byte >= 0x80 || byte < '\t';
	}
	return binary < MOST_BINARY ? DEFLATE_TEXT_LEVEL : DEFLATE_LEVEL;
}

typedef size_t deflate_fn(struct libdeflate_compressor *c, const void *in, size_t in_len, void *out,
			  size_t out_len);

static int encode_deflate(deflate_fn *pack, const char *name, const uint8_t *in, size_t in_len,
			  int level, uint8_t *out, size_t out_max, size_t *out_len,
			  struct img_error *err)
{
	struct libdeflate_compressor *c;
	size_t n;

	if (!level)
		level = default_level(in, in_len);
	if (level < 0 || level > DEFLATE_MAX_LEVEL)
		return img_fail(err, -EINVAL, "%s compression level is %d, expected 1 to %d", name,
				level, DEFLATE_MAX_LEVEL);
	c = get_compressor(level);
	if (!c)
		return fail_memory(err);
	n = pack(c, in, in_len, out, out_max);
	if (!n)
		return img_fail(err, -ENOSPC, "%zu bytes do not shrink to %zu", in_len, out_max);
	*out_len = n;
	return 0;
}

static int deflate_encode(const uint8_t *in, size_t in_len, int level, uint8_t *out, size_t out_max,
			  size_t *out_len, struct img_error *err)
{
	return encode_deflate(libdeflate_deflate_compress, "deflate", in, in_len, level, out,
			      out_max, out_len, err);
}

static int zlib_encode(const uint8_t *in, size_t in_len, int level, uint8_t *out, size_t out_max,
		       size_t *out_len, struct img_error *err)
{
	return encode_deflate(libdeflate_zlib_compress, "zlib", in, in_len, level, out, out_max,
			      out_len, err);
}

static ZSTD_DCtx *get_unzstd(void)
{
	struct contexts *c = get_contexts();

	if (c && !c->unzstd) {
		c->unzstd = ZSTD_createDCtx();
		if (c->unzstd)
			ZSTD_DCtx_setParameter(c->unzstd, ZSTD_d_windowLogMax, ZSTD_MAX_WINDOW_LOG);
	}
	return c ? c->unzstd : NULL;
}

/* Feed what is left of in until out is full: the last frame may go on past it, or be cut short. */
static int zstd_stream(ZSTD_DCtx *z, ZSTD_inBuffer *from, ZSTD_outBuffer *to, struct img_error *err)
{
	ZSTD_DCtx_reset(z, ZSTD_reset_session_only);
	while (to->pos < to->size) {
		size_t in_before = from->pos, out_before = to->pos;
		size_t rc = ZSTD_decompressStream(z, to, from);

		if (ZSTD_isError(rc))
			return img_fail(err, -EUCLEAN,
					"the zstd stream is broken before byte %zu of %zu: %s",
					from->pos, from->size, ZSTD_getErrorName(rc));
		/* neither took nor gave: the input ends here */
		if (from->pos == in_before && to->pos == out_before)
			return fail_short("zstd", to->pos, to->size, err);
	}
	return 0;
}

static int zstd_decode(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
		       struct img_error *err)
{
	ZSTD_inBuffer from = { .src = in, .size = in_len };
	ZSTD_outBuffer to = { .dst = out, .size = out_len };
	ZSTD_DCtx *z = get_unzstd();

	if (!z)
		return fail_memory(err);
	/* whole frames, straight to where they belong: no window is kept beside */
	while (to.pos < to.size && from.pos < from.size) {
		size_t frame = ZSTD_findFrameCompressedSize(in + from.pos, in_len - from.pos), n;

		if (ZSTD_isError(frame))
			break;
		n = ZSTD_decompressDCtx(z, out + to.pos, out_len - to.pos, in + from.pos, frame);
		if (ZSTD_isError(n))
			break;
		from.pos += frame;
		to.pos += n;
	}
	return zstd_stream(z, &from, &to, err);
}

static int zstd_encode(const uint8_t *in, size_t in_len, int level, uint8_t *out, size_t out_max,
		       size_t *out_len, struct img_error *err)
{
	struct contexts *c = get_contexts();
	size_t n;

	if (!level)
		level = ZSTD_LEVEL;
	if (level < 0 || level > ZSTD_MAX_LEVEL)
		return img_fail(err, -EINVAL, "zstd compression level is %d, expected 1 to %d",
				level, ZSTD_MAX_LEVEL);
	if (!c || (!c->zstd && !(c->zstd = ZSTD_createCCtx())))
		return fail_memory(err);
	n = ZSTD_compressCCtx(c->zstd, out, out_max, in, in_len, level);
	if (!ZSTD_isError(n)) {
		*out_len = n;
		return 0;
	}
	if (ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall)
		return img_fail(err, -ENOSPC, "%zu bytes do not shrink to %zu", in_len, out_max);
	return img_fail(err, -EIO, "zstd: %s", ZSTD_getErrorName(n));
}

const struct img_codec img_codec_deflate = {
	.name = "deflate",
	.max_level = DEFLATE_MAX_LEVEL,
	.decode = deflate_decode,
	.encode = deflate_encode,
};

const struct img_codec img_codec_zlib = {
	.name = "zlib",
	.max_level = DEFLATE_MAX_LEVEL,
	.decode = zlib_decode,
	.encode = zlib_encode,
};

const struct img_codec img_codec_zstd = {
	.name = "zstd",
	.max_level = ZSTD_MAX_LEVEL,
	.decode = zstd_decode,
	.encode = zstd_encode,
};

const struct img_codec *const img_codecs[] = {
	&img_codec_deflate,
	&img_codec_zlib,
	&img_codec_zstd,
	&img_codec_bzip2,
	&img_codec_xz,
	&img_codec_lzfse,
	&img_codec_adc,
	NULL,
};
