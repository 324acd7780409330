/*
 * Codecs: what compressed units are packed with. Stateless tables; thread-safe (each thread keeps
 * its own reused compressor).
 */
#ifndef LIBIMG_ENGINE_CODEC_H
#define LIBIMG_ENGINE_CODEC_H

#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"

struct img_codec {
	const char *name;
	/* NULL, or why this build cannot unpack it ("this build is without libbz2"): decode() says so, too. */
	const char *missing;
	int max_level; /* of encode(); the least is 1 */
	/*
	 * Unpack in[0, in_len) (which may hold more than the stream) to exactly out_len bytes.
	 * -EUCLEAN: not such a stream, or it gives fewer bytes; the sentence says which. Never
	 * writes past out_len.
	 */
	int (*decode)(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
		      struct img_error *err);
	/*
	 * NULL: it is only unpacked. Pack in to at most out_max bytes; *out_len is what was used. level: the codec's own
	 * scale, 0 for its default. -ENOSPC: it does not fit (data that does not shrink).
	 */
	int (*encode)(const uint8_t *in, size_t in_len, int level, uint8_t *out, size_t out_max,
		      size_t *out_len, struct img_error *err);
};

/* Raw deflate (RFC 1951); a stream that goes on past out_len is cut there (qcow2). */
extern const struct img_codec img_codec_deflate;
/* A zlib stream (RFC 1950); one that gives more than out_len is refused (VMDK). */
extern const struct img_codec img_codec_zlib;
/* One or more zstd frames until out_len is reached (qcow2). */
extern const struct img_codec img_codec_zstd;
/* A bzip2 stream, or an xz (or .lzma) one; one that gives more than out_len is refused. */
extern const struct img_codec img_codec_bzip2, img_codec_xz;
/* Apple's: an LZFSE stream (with LZVN blocks, too); Apple Data Compression, which is read up to out_len. */
extern const struct img_codec img_codec_lzfse, img_codec_adc;

/* All of them, NULL at the end. */
extern const struct img_codec *const img_codecs[];

#endif
