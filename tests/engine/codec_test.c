/*
 * Codecs: what they accept, what they refuse, what zlib and zstd themselves say.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/engine/codec.h"

enum { UNIT = 64 * 1024,
       ROOM = UNIT + 4096 };

static const struct img_codec *const codecs[] = {
	&img_codec_deflate,
	&img_codec_zlib,
	&img_codec_zstd,
};

/* Text-like data, that shrinks but not to nothing; a fixed generator. */
static void fill(uint8_t *p, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++) {
		if (!(i % 8))
			seed = seed * 1103515245 + 12345;
		p[i] = (uint8_t)((uint8_t) "etaoin shrdlu"[(seed >> 16) % 13] + (uint8_t)(i % 8));
	}
}

static void fill_random(uint8_t *p, size_t len, uint32_t seed)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1103515245 + 12345;
		p[i] = (uint8_t)(seed >> 16);
	}
}

static uint8_t plain[UNIT], packed[ROOM], again[UNIT + 64];

static size_t pack(const struct img_codec *c, size_t len, int level)
{
	struct img_error err = { 0 };
	size_t n = 0;

	cr_assert_eq(c->encode(plain, len, level, packed, sizeof(packed), &n, &err), 0, "%s",
		     img_error_text(&err));
	return n;
}

/* Decode into a guarded buffer. */
static int unpack(const struct img_codec *c, const uint8_t *in, size_t in_len, size_t out_len,
		  struct img_error *err)
{
	uint8_t *exact = malloc(in_len ? in_len : 1); /* reading past it is for ASan to see */
	int rc;

	memcpy(exact, in, in_len);
	memset(again, 0xa5, sizeof(again));
	rc = c->decode(exact, in_len, again, out_len, err);
	free(exact);
	for (size_t i = out_len; i < sizeof(again); i++)
		cr_assert_eq(again[i], 0xa5, "%s wrote past the end", c->name);
	return rc;
}

static void expect_round(const struct img_codec *c, size_t in_len, size_t out_len)
{
	struct img_error err = { 0 };

	cr_assert_eq(unpack(c, packed, in_len, out_len, &err), 0, "%s: %s", c->name,
		     img_error_text(&err));
	cr_assert_arr_eq(again, plain, out_len);
}

static void expect_refused(const struct img_codec *c, size_t in_len, size_t out_len, const char *say)
{
	struct img_error err = { 0 };

	cr_assert_eq(unpack(c, packed, in_len, out_len, &err), -EUCLEAN, "%s", c->name);
	cr_assert(strstr(img_error_text(&err), say), "%s: '%s' wanted '%s'", c->name,
		  img_error_text(&err), say);
	img_error_clear(&err);
}

Test(codec, round_trips)
{
	for (size_t k = 0; k < IMG_ARRAY_LEN(codecs); k++) {
		for (int level = 0; level <= 12; level += 3) {
			fill(plain, UNIT, (uint32_t)level);
			expect_round(codecs[k], pack(codecs[k], UNIT, level), UNIT);
		}
		memset(plain, 0, UNIT);
		expect_round(codecs[k], pack(codecs[k], UNIT, 0), UNIT);
		fill_random(plain, UNIT, 3);
		expect_round(codecs[k], pack(codecs[k], UNIT, 0), UNIT);
		expect_round(codecs[k], pack(codecs[k], 1, 0), 1);
	}
}

/* A qcow2 cluster is stored in whole sectors: what follows the stream is anything. */
Test(codec, garbage_after_the_stream)
{
	for (size_t k = 0; k < IMG_ARRAY_LEN(codecs); k++) {
		fill(plain, UNIT, 7);
		size_t n = pack(codecs[k], UNIT, 0);

		fill_random(packed + n, 700, 9);
		expect_round(codecs[k], n + 700, UNIT);
		memset(packed + n, 0, 700);
		expect_round(codecs[k], n + 700, UNIT);
	}
}

Test(codec, too_short)
{
	for (size_t k = 0; k < IMG_ARRAY_LEN(codecs); k++) {
		fill(plain, UNIT, 7);
		size_t n = pack(codecs[k], UNIT - 5, 0);

		expect_refused(codecs[k], n, UNIT, "has 65531 bytes, expected 65536");
	}
}

Test(codec, stream_goes_on)
{
	size_t n;

	fill(plain, UNIT, 7);
	n = pack(&img_codec_deflate, UNIT, 0);
	expect_round(&img_codec_deflate, n, UNIT - 1000);
	n = pack(&img_codec_zstd, UNIT, 0);
	expect_round(&img_codec_zstd, n, UNIT - 1000);
	n = pack(&img_codec_zlib, UNIT, 0);
	expect_refused(&img_codec_zlib, n, UNIT - 1000, "more than the expected 64536 bytes");
}

/* Cut short, but out_len bytes come before that. */
Test(codec, cut_after_enough)
{
	size_t n;

	fill(plain, UNIT, 7);
	n = pack(&img_codec_deflate, UNIT, 0);
	expect_round(&img_codec_deflate, n - 100, UNIT / 2);
	expect_refused(&img_codec_deflate, n - 100, UNIT, "deflate");
	expect_refused(&img_codec_deflate, 0, UNIT, "deflate");
	n = pack(&img_codec_zlib, UNIT, 0);
	expect_refused(&img_codec_zlib, n - 1, UNIT, "zlib");
	expect_refused(&img_codec_zlib, 0, UNIT, "zlib");
	n = pack(&img_codec_zstd, UNIT, 0);
	expect_refused(&img_codec_zstd, n - 100, UNIT, "zstd");
	expect_refused(&img_codec_zstd, 0, UNIT, "has 0 bytes, expected");
}

Test(codec, every_flipped_byte_is_survived)
{
	for (size_t k = 0; k < IMG_ARRAY_LEN(codecs); k++) {
		fill(plain, 2048, 7);
		size_t n = pack(codecs[k], 2048, 0);

		for (size_t i = 0; i < n; i++) {
			packed[i] ^= 0xff;
			unpack(codecs[k], packed, n, 2048, NULL);
			packed[i] ^= 0xff;
		}
		for (uint32_t seed = 0; seed < 200; seed++) {
			uint8_t noise[300];

			fill_random(noise, sizeof(noise), seed);
			unpack(codecs[k], noise, sizeof(noise), 4096, NULL);
		}
	}
}

Test(codec, does_not_fit)
{
	for (size_t k = 0; k < IMG_ARRAY_LEN(codecs); k++) {
		struct img_error err = { 0 };
		size_t n = 77;

		fill_random(plain, UNIT, 5);
		cr_assert_eq(codecs[k]->encode(plain, UNIT, 0, packed, UNIT - 1, &n, &err), -ENOSPC,
			     "%s", codecs[k]->name);
		cr_assert_eq(n, 77);
		img_error_clear(&err);
	}
}

Test(codec, levels)
{
	for (size_t k = 0; k < IMG_ARRAY_LEN(codecs); k++) {
		struct img_error err = { 0 };
		size_t n;

		fill(plain, UNIT, 5);
		cr_assert_eq(codecs[k]->encode(plain, UNIT, 99, packed, ROOM, &n, &err), -EINVAL);
		cr_assert(strstr(img_error_text(&err), "level is 99"));
		img_error_clear(&err);
		cr_assert_leq(pack(codecs[k], UNIT, 9), pack(codecs[k], UNIT, 1));
	}
}

/* The reader of what we write is zlib with a 32 KiB window at most; QEMU uses 4 KiB for its own. */
Test(codec, zlib_reads_ours)
{
	static const struct {
		const struct img_codec *codec;
		int bits;
	} cases[] = {
		{ &img_codec_deflate, -15 },
		{ &img_codec_zlib, 15 },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		z_stream z = { .next_in = packed, .next_out = again, .avail_out = UNIT };

		fill(plain, UNIT, 11);
		z.avail_in = (uInt)pack(cases[i].codec, UNIT, 0);
		cr_assert_eq(inflateInit2(&z, cases[i].bits), Z_OK);
		cr_assert_eq(inflate(&z, Z_FINISH), Z_STREAM_END);
		cr_assert_arr_eq(again, plain, UNIT);
		inflateEnd(&z);
	}
}

Test(codec, we_read_theirs)
{
	z_stream z = { .next_in = plain, .avail_in = UNIT, .next_out = packed, .avail_out = ROOM };
	size_t n, part;

	fill(plain, UNIT, 12);
	/* as QEMU writes: raw, a window of 4 KiB */
	cr_assert_eq(deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9,
				  Z_DEFAULT_STRATEGY),
		     Z_OK);
	cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
	expect_round(&img_codec_deflate, ROOM - z.avail_out, UNIT);
	deflateEnd(&z);

	/* several frames, with an empty and a skippable one between */
	n = ZSTD_compress(packed, ROOM, plain, 1000, 5);
	n += ZSTD_compress(packed + n, ROOM - n, plain, 0, 5);
	memcpy(packed + n, "\x50\x2a\x4d\x18\x03\0\0\0abc", 11);
	n += 11;
	part = ZSTD_compress(packed + n, ROOM - n, plain + 1000, UNIT - 1000, 5);
	cr_assert_not(ZSTD_isError(part));
	expect_round(&img_codec_zstd, n + part, UNIT);
	expect_round(&img_codec_zstd, n + part, 2000);
}

/* A frame may ask for a window of terabytes: it is refused, and no such memory is asked for. */
Test(codec, zstd_window_bomb)
{
	/* magic, descriptor: no size, window descriptor 2^41, a last raw block of 4 */
	static const uint8_t bomb[] = {
		0x28,
		0xb5,
		0x2f,
		0xfd,
		0x00,
		31 << 3,
		0x21,
		0,
		0,
		'b',
		'o',
		'm',
		'b',
	};
	struct img_error err = { 0 };

	cr_assert_eq(unpack(&img_codec_zstd, bomb, sizeof(bomb), 5, &err), -EUCLEAN);
	img_error_clear(&err);
}

static void *work(void *arg)
{
	uint8_t *in = malloc(UNIT), *out = malloc(ROOM), *back = malloc(UNIT);
	size_t n;

	for (unsigned i = 0; i < 20; i++) {
		const struct img_codec *c = codecs[i % 3];

		fill(in, UNIT, i + (uint32_t)(uintptr_t)arg);
		if (c->encode(in, UNIT, (int)(i % 4), out, ROOM, &n, NULL) ||
		    c->decode(out, n, back, UNIT, NULL) || memcmp(in, back, UNIT) != 0) {
			free(in);
			in = NULL;
			break;
		}
	}
	free(out);
	free(back);
	free(in);
	return in ? NULL : arg;
}

Test(codec, threads)
{
	pthread_t threads[4];
	void *failed;

	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, work, (void *)(i + 1));
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], &failed);
		cr_assert_null(failed);
	}
}

/* ---- What is only unpacked ---- */

struct stream {
	uint8_t bytes[ROOM];
	size_t len;
};

/* A seed of fuzz/unpack_fuzz.c: four bytes of its own, then the stream. Where there are none the test is skipped. */
static void load_stream(const char *name, struct stream *s)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "fuzz/seeds/unpack_fuzz/%s", name);
	f = fopen(path, "rb");
	if (!f)
		cr_skip_test("not run from the top of the tree");
	cr_assert_eq(fseek(f, 4, SEEK_SET), 0);
	s->len = fread(s->bytes, 1, sizeof(s->bytes), f);
	fclose(f);
}

static uint32_t crc_of(const uint8_t *bytes, size_t len)
{
	return (uint32_t)crc32(0, bytes, (uInt)len);
}

/* The same streams as text, one of them packed by each; and what a Mac has packed, by the CRC that it stored beside. */
Test(codec, unpacks)
{
	static const struct {
		const char *name;
		const struct img_codec *codec;
		size_t len;
		uint32_t crc;
	} rows[] = {
		{ "adc", &img_codec_adc, 2048, 0 },
		{ "lzvn", &img_codec_lzfse, 2048, 0 },
		{ "bzip2", &img_codec_bzip2, 2048, 0 },
		{ "xz", &img_codec_xz, 2048, 0 },
		{ "lzma", &img_codec_xz, 2048, 0 },
		{ "mac0", &img_codec_lzfse, 512, 0x6fe4304c },
		{ "mac1", &img_codec_lzfse, 512, 0xc283684b },
		{ "mac2", &img_codec_lzfse, 16384, 0xa0977c43 },
		{ "mac5", &img_codec_lzfse, 512, 0x95ff3dab },
	};
	static struct stream s;
	static uint8_t out[UNIT + 1];
	struct img_error err = { 0 };
	uint32_t text = 0;

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		const struct img_codec *c = rows[i].codec;
		size_t len = rows[i].len;

		if (c->missing)
			continue;
		load_stream(rows[i].name, &s);
		out[len] = 0x77;
		cr_assert_eq(c->decode(s.bytes, s.len, out, len, &err), 0, "%s: %s", rows[i].name,
			     img_error_text(&err));
		text = text ? text : crc_of(out, len);
		cr_assert_eq(crc_of(out, len), rows[i].crc ? rows[i].crc : text, "%s", rows[i].name);
		/* more or less than it has; adc has no end */
		cr_assert_eq(c->decode(s.bytes, s.len, out, len + 1, &err), -EUCLEAN, "%s", rows[i].name);
		out[len - 1] = 0x77;
		if (c != &img_codec_adc)
			cr_assert_eq(c->decode(s.bytes, s.len, out, len - 1, &err), -EUCLEAN, "%s",
				     rows[i].name);
		cr_assert_eq(out[len - 1], 0x77, "%s: written beyond what is wanted", rows[i].name);
		/* cut anywhere; xz and lzma need not be read to the last byte */
		for (size_t n = 0; n + 8 < s.len; n++) {
			uint8_t *cut = malloc(n ? n : 1); /* so that reading beyond is noticed */

			memcpy(cut, s.bytes, n);
			cr_assert_eq(c->decode(cut, n, out, len, &err), -EUCLEAN, "%s cut at %zu", rows[i].name, n);
			cr_assert(*img_error_text(&err));
			free(cut);
		}
		img_error_clear(&err);
	}
}

/* Each bit wrong: refused, or something else comes out, but nothing is written beyond. */
Test(codec, damaged_streams)
{
	static const struct {
		const char *name;
		const struct img_codec *codec;
		size_t len;
	} rows[] = {
		{ "adc", &img_codec_adc, 2048 },
		{ "lzvn", &img_codec_lzfse, 2048 },
		{ "mac2", &img_codec_lzfse, 16384 },
	};
	static struct stream s;
	static uint8_t out[UNIT + 1];

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		load_stream(rows[i].name, &s);
		for (size_t bit = 0; bit < s.len * 8; bit++) {
			int rc;

			s.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
			out[rows[i].len] = 0x77;
			rc = rows[i].codec->decode(s.bytes, s.len, out, rows[i].len, NULL);
			cr_assert(rc == 0 || rc == -EUCLEAN);
			cr_assert_eq(out[rows[i].len], 0x77);
			s.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		}
	}
}

Test(codec, adc_opcodes)
{
	static const uint8_t good[] = {
		0x82, 'a', 'b', 'c', 0x04, 0x02, 0x40, 0x00, 0x00, 0x80, 'd'
	};
	static const uint8_t back[] = { 0x80, 'a', 0x00, 0x01 };
	uint8_t out[64];

	/* abc, 4 from 3 back, 4 from 1 back, d */
	cr_assert_eq(img_codec_adc.decode(good, sizeof(good), out, 12, NULL), 0);
	cr_assert_arr_eq(out, "abcabcaaaaad", 12);
	cr_assert_eq(img_codec_adc.decode(good, sizeof(good), out, 11, NULL), 0);
	cr_assert_eq(img_codec_adc.decode(good, sizeof(good), out, 10, NULL), -EUCLEAN);
	cr_assert_eq(img_codec_adc.decode(good, sizeof(good), out, 13, NULL), -EUCLEAN);
	cr_assert_eq(img_codec_adc.decode(back, sizeof(back), out, 4, NULL), -EUCLEAN);
}
