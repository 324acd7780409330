/*
 * Salvaging: extent by extent, so that damage in one does not take its neighbours along. Of plain
 * data every sector is tried; a compressed unit is there or not; where the tables do not tell, a
 * unit at a time is passed over.
 *
 * A bad place takes a disk long to give up on. So several requests are in flight, and what failed
 * is cut into far smaller pieces at once, not halved again and again: a sector that cannot be read
 * is asked for three times.
 */
#include "libimg/jobs/salvage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"

enum {
	SECTOR = 512,
	PAGE = 4096,   /* what the page cache reads */
	FIRST = 65536, /* pieces of an extent that has a bad place somewhere */
	IN_FLIGHT = 32,
};

struct piece {
	uint64_t off; /* in the disk */
	size_t len;
	bool whole;   /* nothing of it can be read if not all can */
	bool pending; /* to be read */
	int rc;
	struct img_error why;
	struct iovec iov;
};

/* In the order of their offsets; of those that were read only the unreadable stay. */
struct pieces {
	struct piece *items;
	size_t count, room;
};

bool img_salvage_may(int rc)
{
	return rc != -ENOMEM && rc != -ECANCELED && rc != -EINVAL;
}

uint64_t img_salvage_step(const struct img_concat *sources, uint64_t off)
{
	uint64_t within, unit;
	const struct img *source = img_concat_at(sources, off, &within);

	/* Damage in any image of the chain: the smallest unit that there is. */
	unit = img_unit_bytes(source);
	for (const struct img *i = img_backing(source); i; i = img_backing(i))
		unit = min_u64(unit, img_unit_bytes(i));
	return min_u64(unit - within % unit, img_size(source) - within);
}

/* ---- Telling ---- */

void img_salvage_end(struct img_salvage *s)
{
	if (s->len && s->unreadable)
		s->unreadable(s->user, s->source, s->off, s->len, &s->why);
	s->len = 0;
	img_error_clear(&s->why);
}

/* Neighbours are told together, with what was said about the first. */
static void zero_piece(struct img_salvage *s, struct piece *p, uint8_t *data)
{
	uint64_t within;
	struct img *source = img_concat_at(s->sources, p->off, &within);

	memset(data, 0, p->len);
	if (s->len && s->source == source && s->off + s->len == within) {
		s->len += p->len;
		return;
	}
	img_salvage_end(s);
	s->source = source;
	s->off = within;
	s->len = p->len;
	img_error_move(&s->why, &p->why);
}

/* ---- Pieces ---- */

static struct piece *add(struct pieces *list, uint64_t off, size_t len)
{
	if (list->count == list->room) {
		size_t room = list->room ? 2 * list->room : 64;
		struct piece *grown = reallocarray(list->items, room, sizeof(*grown));

		if (!grown)
			return NULL;
		list->items = grown;
		list->room = room;
	}
	list->items[list->count] = (struct piece){ .off = off, .len = len, .pending = true };
	return &list->items[list->count++];
}

static void forget(struct pieces *list)
{
	for (size_t i = 0; i < list->count; i++)
		img_error_clear(&list->items[i].why);
	free(list->items);
}

/* Plain data, to be read in pieces that begin at multiples of bytes. */
static int add_plain(struct pieces *list, uint64_t off, uint64_t len, size_t bytes)
{
	for (uint64_t at = 0, n; at < len; at += n) {
		n = min_u64(len - at, bytes - (off + at) % bytes);
		if (!add(list, off + at, (size_t)n))
			return -ENOMEM;
	}
	return 0;
}

/* In the middle of a bad stretch there is nothing to hope for from large pieces. */
static size_t first_bytes(const struct img_salvage *s, uint64_t off)
{
	uint64_t within;
	const struct img *source = img_concat_at(s->sources, off, &within);

	return s->len && s->source == source && s->off + s->len == within ? PAGE : FIRST;
}

static int add_extents(const struct img_salvage *s, uint64_t off, size_t len, struct pieces *list,
		       struct img_error *err)
{
	size_t plain = first_bytes(s, off);

	for (uint64_t end = off + len, n; off < end; off += n) {
		struct img_error why = { 0 };
		struct img_map_entry x;
		struct piece *p;
		int rc = img_concat_map(s->sources, off, &x, &why);

		if (rc && !img_salvage_may(rc)) {
			img_error_move(err, &why);
			return rc;
		}
		n = min_u64(end - off, rc ? img_salvage_step(s->sources, off) : x.length);
		if (!rc && !x.compressed) {
			if (add_plain(list, off, n, plain))
				return img_fail(err, -ENOMEM, "out of memory for copying");
			continue;
		}
		p = add(list, off, (size_t)n);
		if (!p) {
			img_error_clear(&why);
			return img_fail(err, -ENOMEM, "out of memory for copying");
		}
		p->whole = true;
		if (rc) { /* nobody knows where to read */
			p->pending = false;
			p->rc = rc;
			img_error_move(&p->why, &why);
		}
	}
	return 0;
}

/* ---- Reading ---- */

static void read_done(void *user, int rc, const struct img_error *err)
{
	struct piece *p = user;

	p->pending = false;
	p->rc = rc;
	if (rc)
		img_fail(&p->why, rc, "%s", img_error_text(err));
}

/* Read what is pending. */
static int read_pieces(const struct img_salvage *s, struct img_queue *q, struct pieces *list,
		       uint64_t off, uint8_t *data, struct img_error *err)
{
	int rc = 0;

	for (size_t i = 0; i < list->count && !rc; i++) {
		struct piece *p = &list->items[i];
		unsigned submitted;

		if (!p->pending)
			continue;
		while (img_queue_in_flight(q) >= IN_FLIGHT)
			img_queue_run(q, true);
		rc = img_concat_read(s->sources, q, p->off, data + (p->off - off), p->len,
				     &p->iov, &submitted, read_done, p, err);
	}
	while (img_queue_in_flight(q))
		img_queue_run(q, true);
	for (size_t i = 0; i < list->count && !rc; i++) {
		struct piece *p = &list->items[i];

		if (p->rc && !img_salvage_may(p->rc)) {
			rc = p->rc;
			img_error_move(err, &p->why);
		}
	}
	return rc;
}

/* Cut what failed and can be cut; *again: there is something to be read now. */
static int cut(struct pieces *list, bool *again)
{
	struct pieces next = { 0 };
	int rc = 0;

	*again = false;
	for (size_t i = 0; i < list->count && !rc; i++) {
		struct piece *p = &list->items[i], *kept;

		if (!p->rc)
			continue;
		if (!p->whole && p->len > SECTOR) {
			*again = true;
			rc = add_plain(&next, p->off, p->len, p->len > PAGE ? PAGE : SECTOR);
			continue;
		}
		kept = add(&next, p->off, p->len);
		if (!kept) {
			rc = -ENOMEM;
			continue;
		}
		*kept = *p;
		p->why = (struct img_error){ 0 };
	}
	forget(list);
	*list = next;
	return rc;
}

int img_salvage_read(struct img_salvage *s, struct img_queue *q, uint64_t off, uint8_t *data,
		     size_t len, struct img_error *err)
{
	struct pieces list = { 0 };
	bool again = true;
	int rc = add_extents(s, off, len, &list, err);

	while (!rc && again) {
		rc = read_pieces(s, q, &list, off, data, err);
		if (!rc && cut(&list, &again))
			rc = img_fail(err, -ENOMEM, "out of memory for copying");
	}
	for (size_t i = 0; i < list.count && !rc; i++)
		zero_piece(s, &list.items[i], data + (list.items[i].off - off));
	forget(&list);
	return rc;
}
