/* Units on their way into a sink: which are put, where, and what they unpack to. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "libimg/base/list.h"
#include "libimg/jobs/encoder.h"

enum { UNIT = 4096,
       ROOM = 16 * UNIT };

struct sink {
	struct img_sink base;
	uint8_t disk[ROOM]; /* what was put, unpacked */
	bool put[ROOM / UNIT];
	size_t last_len;
	uint64_t base_off, fails_at;
	uint64_t next;
};

static int sink_put(struct img_sink *s, uint64_t off, const uint8_t *bytes, size_t len,
		    struct img_error *err)
{
	struct sink *sink = IMG_CONTAINER(s, struct sink, base);
	uint64_t at = off - sink->base_off;

	if (off == sink->fails_at)
		return img_fail(err, -ENOSPC, "full at %d", (int)off);
	cr_assert_eq(at % UNIT, 0);
	cr_assert_geq(off, sink->next, "offsets ascend");
	sink->next = off + 1;
	sink->put[at / UNIT] = true;
	if (!s->codec) {
		cr_assert_leq(len, UNIT);
		memcpy(sink->disk + at, bytes, len);
	} else {
		cr_assert_eq(s->codec->decode(bytes, len, sink->disk + at, UNIT, err), 0);
	}
	sink->last_len = len;
	return 0;
}

static struct sink *sink_new(const struct img_codec *codec)
{
	struct sink *s = calloc(1, sizeof(*s));

	cr_assert(s);
	s->base = (struct img_sink){ .put = sink_put, .unit_bytes = UNIT, .codec = codec };
	s->base_off = 3 * ROOM;
	s->fails_at = UINT64_MAX;
	return s;
}

/* Of 16 units some are zeroes, some cannot be packed. */
static void fill(uint8_t *data)
{
	memset(data, 0, ROOM);
	srand(1);
	for (size_t u = 0; u < ROOM / UNIT; u++) {
		if (u % 3 == 0)
			continue;
		for (size_t i = 0; i < UNIT; i++)
			data[u * UNIT + i] = u % 3 == 1 ? (uint8_t)rand() : (uint8_t)(i / 100 + 1);
	}
	data[9 * UNIT + UNIT - 1] = 1; /* zeroes but for the last byte */
}

static void check(const struct img_codec *codec, size_t len, bool wants_all, bool pad_last)
{
	uint8_t *data = malloc(ROOM + UNIT), *kept = malloc(ROOM);
	struct sink *s = sink_new(codec);
	struct img_encoder e;

	cr_assert(data && kept);
	fill(data);
	memcpy(kept, data, ROOM);
	s->base.wants_all = wants_all;
	s->base.pad_last = pad_last;
	cr_assert_eq(img_encoder_new(&e, &s->base, ROOM, NULL), 0);
	cr_assert_eq(img_encoder_encode(&e, data, len, NULL), 0);
	cr_assert_eq(img_encoder_put(&e, s->base_off, data, len, NULL), 0);
	for (size_t u = 0; u < ROOM / UNIT; u++) {
		size_t n = u * UNIT >= len ? 0 : len - u * UNIT < UNIT ? len - u * UNIT
								       : UNIT;
		bool zero = true;

		for (size_t i = 0; i < n; i++)
			zero &= !kept[u * UNIT + i];
		cr_assert_eq(s->put[u], n && (wants_all || !zero), "unit %zu of %zu bytes", u, len);
		if (s->put[u])
			cr_assert_eq(memcmp(s->disk + u * UNIT, kept + u * UNIT, n), 0, "unit %zu", u);
		/* what is behind the disk's end was made zeroes, or not looked at */
		for (size_t i = n; s->put[u] && pad_last && i < UNIT; i++)
			cr_assert_eq(s->disk[u * UNIT + i], 0);
	}
	if (!codec && s->put[(len - 1) / UNIT])
		cr_assert_eq(s->last_len, len % UNIT ? len % UNIT : UNIT, "the last one is cut");
	img_encoder_free(&e);
	free(s);
	free(data);
	free(kept);
}

Test(encoder, plain)
{
	static const size_t lens[] = { 512, UNIT, ROOM, ROOM - 512, 11 * UNIT + 1024, 2 * UNIT + 512 };

	for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
		check(NULL, lens[i], false, false);
		check(NULL, lens[i], true, false);
	}
}

Test(encoder, packed)
{
	static const size_t lens[] = { UNIT, ROOM, 11 * UNIT, 11 * UNIT + 1024, 2 * UNIT + 512 };

	for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
		check(&img_codec_zlib, lens[i], false, true);
		check(&img_codec_zlib, lens[i], true, true);
	}
}

Test(encoder, sink_that_fails)
{
	static uint8_t data[ROOM + UNIT];
	struct sink *s = sink_new(NULL);
	struct img_error err = { 0 };
	struct img_encoder e;

	fill(data);
	s->fails_at = s->base_off + 4 * UNIT;
	cr_assert_eq(img_encoder_new(&e, &s->base, ROOM, NULL), 0);
	cr_assert_eq(img_encoder_encode(&e, data, ROOM, NULL), 0);
	cr_assert_eq(img_encoder_put(&e, s->base_off, data, ROOM, &err), -ENOSPC);
	cr_assert(s->put[2] && !s->put[5], "nothing is put behind what failed");
	img_error_clear(&err);
	img_encoder_free(&e);
	free(s);
}

/* The same encoder is used for piece after piece. */
Test(encoder, used_again)
{
	static uint8_t data[ROOM + UNIT];
	struct sink *s = sink_new(NULL);
	struct img_encoder e;

	cr_assert_eq(img_encoder_new(&e, &s->base, ROOM, NULL), 0);
	fill(data);
	cr_assert_eq(img_encoder_encode(&e, data, ROOM, NULL), 0);
	memset(data, 0, ROOM);
	cr_assert_eq(img_encoder_encode(&e, data, ROOM, NULL), 0);
	cr_assert_eq(img_encoder_put(&e, s->base_off, data, ROOM, NULL), 0);
	for (size_t u = 0; u < ROOM / UNIT; u++)
		cr_assert_not(s->put[u], "%zu", u);
	img_encoder_free(&e);
	free(s);
}
