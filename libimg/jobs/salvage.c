/*
 * Salvaging: extent by extent, so that damage in one does not take its neighbours along. Of plain
 * data every sector is tried (the smaller half first that holds it); a compressed unit is there or
 * not; where the tables do not tell, a unit at a time is passed over.
 */
#include "libimg/jobs/salvage.h"

#include <errno.h>
#include <string.h>

#include "libimg/base/arith.h"

enum { SECTOR = 512 };

bool img_salvage_may(int rc)
{
	return rc != -ENOMEM && rc != -ECANCELED && rc != -EINVAL;
}

uint64_t img_salvage_step(const struct img *source, uint64_t off)
{
	uint64_t unit = img_unit_bytes(source), size = img_size(source), step;

	/* Damage in any image of the chain: the smallest unit that there is. */
	for (const struct img *i = img_backing(source); i; i = img_backing(i))
		unit = min_u64(unit, img_unit_bytes(i));
	step = unit - off % unit;
	return min_u64(step, size - off);
}

void img_salvage_end(struct img_salvage *s)
{
	if (s->len && s->unreadable)
		s->unreadable(s->user, s->source, s->off, s->len, &s->why);
	s->len = 0;
	img_error_clear(&s->why);
}

/* Neighbours are told together, with what was said about the first. */
static void give_up(struct img_salvage *s, uint64_t off, uint8_t *data, size_t len,
		    struct img_error *why)
{
	memset(data, 0, len);
	if (s->len && s->off + s->len == off) {
		s->len += len;
		img_error_clear(why);
		return;
	}
	img_salvage_end(s);
	s->off = off;
	s->len = len;
	img_error_move(&s->why, why);
}

/* One extent, or a part of it. whole: nothing of it can be read if not all can. */
static int read_extent(struct img_salvage *s, uint64_t off, uint8_t *data, size_t len, bool whole,
		       struct img_error *err)
{
	struct img_error why = { 0 };
	int rc = img_read(s->source, off, data, len, &why);
	size_t half;

	if (!rc)
		return 0;
	if (!img_salvage_may(rc)) {
		img_error_move(err, &why);
		return rc;
	}
	if (whole || len <= SECTOR) {
		give_up(s, off, data, len, &why);
		return 0;
	}
	img_error_clear(&why);
	half = (size_t)round_up_u64(len / 2, SECTOR);
	rc = read_extent(s, off, data, half, false, err);
	return rc ? rc : read_extent(s, off + half, data + half, len - half, false, err);
}

int img_salvage_read(struct img_salvage *s, uint64_t off, uint8_t *data, size_t len,
		     struct img_error *err)
{
	size_t at = 0;

	while (at < len) {
		struct img_error why = { 0 };
		struct img_map_entry x;
		size_t n;
		int rc = img_map(s->source, off + at, len - at, true, &x, &why);

		if (rc && !img_salvage_may(rc)) {
			img_error_move(err, &why);
			return rc;
		}
		if (rc) {
			n = (size_t)min_u64(img_salvage_step(s->source, off + at), len - at);
			give_up(s, off + at, data + at, n, &why);
		} else {
			n = (size_t)x.length;
			rc = read_extent(s, off + at, data + at, n, x.compressed, err);
			if (rc)
				return rc;
		}
		at += n;
	}
	return 0;
}
