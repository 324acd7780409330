/* Claims by themselves: who gets one, who is in whose way, who may join, against a plain map. */
#include "libimg/engine/claims.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"

enum { SECTOR = 512,
       UNIT = 4096,
       SECTORS = 512,
       PIECES = 40 };

struct situation {
	struct img img;
	struct img_engine engine;
	struct img_queue queue, other;
	struct img_task task;
	struct img_piece piece[PIECES];
	bool in_use[PIECES], claimed[PIECES], wider[PIECES];
	int owner[SECTORS]; /* piece + 1; 0: nobody */
	uint64_t seed;
};

static struct situation *begin(uint64_t unit_bytes)
{
	struct situation *s = calloc(1, sizeof(*s));

	cr_assert(s);
	s->img = (struct img){ .engine = &s->engine, .unit_bytes = unit_bytes };
	s->engine.img = &s->img;
	img_list_init(&s->engine.claims);
	img_list_init(&s->queue.kept_back);
	s->task = (struct img_task){ .img = &s->img, .queue = &s->queue };
	for (int i = 0; i < PIECES; i++) {
		s->piece[i].task = &s->task;
		s->piece[i].queue = &s->queue;
		img_list_init(&s->piece[i].claim_link);
		img_list_init(&s->piece[i].batch_link);
		img_list_init(&s->piece[i].joiners);
	}
	s->seed = 88172645463325252;
	return s;
}

static uint64_t below(struct situation *s, uint64_t n)
{
	s->seed ^= s->seed << 13;
	s->seed ^= s->seed >> 7;
	s->seed ^= s->seed << 17;
	return s->seed % n;
}

/* A plan in place, or to be committed, for [off, off + len). */
static struct img_piece *plan(struct situation *s, int i, uint64_t off, uint64_t len, bool commit)
{
	struct img_piece *p = &s->piece[i];

	p->off = off;
	p->len = len;
	p->host = NULL;
	p->plan = (struct img_plan){ .kind = IMG_PLAN_DATA,
				     .length = len,
				     .fill_start = off,
				     .fill_end = off + len,
				     .commit = commit };
	p->plan_open = commit;
	return p;
}

static void over(struct img_piece *p)
{
	p->plan_open = false;
	img_unclaim(p);
}

/* What a plan claims, as driver.h says it. */
static void claim_range(const struct situation *s, const struct img_piece *p, uint64_t *from,
			uint64_t *to)
{
	const struct img_plan *plan = &p->plan;
	uint64_t unit = s->img.unit_bytes;

	*from = min_u64(p->off, plan->fill_start);
	*to = max_u64(p->off + plan->length, plan->fill_end);
	if (plan->claim_end) {
		*from = min_u64(*from, plan->claim_start);
		*to = max_u64(*to, plan->claim_end);
	} else if (plan->commit) {
		*from = *from / unit * unit;
		*to = (*to + unit - 1) / unit * unit;
	}
}

static void random_plan(struct situation *s, int i)
{
	uint64_t off = (16 + below(s, SECTORS - 64)) * SECTOR, len = (1 + below(s, 12)) * SECTOR;
	struct img_piece *p = plan(s, i, off, len, below(s, 2));

	if (!below(s, 3))
		p->plan.fill_start -= below(s, 8) * SECTOR;
	if (!below(s, 3))
		p->plan.fill_end += below(s, 8) * SECTOR;
	if (!below(s, 4)) {
		p->plan.claim_start = off - below(s, 9) * SECTOR;
		p->plan.claim_end = off + len + below(s, 9) * SECTOR;
	}
}

static void try_claim(struct situation *s, int i)
{
	struct img_piece *p = &s->piece[i];
	uint64_t from, to, unclaimed = 0;
	bool wider, needed, free = true;

	random_plan(s, i);
	claim_range(s, p, &from, &to);
	wider = !p->plan.commit && (p->plan.fill_start < p->off ||
				    p->plan.fill_end > p->off + p->plan.length);
	for (int k = 0; k < PIECES; k++)
		unclaimed += s->in_use[k] && !s->claimed[k];
	for (uint64_t b = from / SECTOR; b < to / SECTOR; b++)
		free &= !s->owner[b];
	/* once somebody writes back what others may write meanwhile, all have to claim */
	needed = p->plan.commit || p->plan.claim_end || wider || s->engine.rewrites;
	cr_assert_eq(img_claim(p), needed ? free && !(wider && unclaimed) : true);
	cr_assert_eq(s->engine.rewrites || !wider, true);
	if (needed && (!free || (wider && unclaimed))) {
		cr_assert(img_list_empty(&p->claim_link));
		p->plan_open = false;
		return;
	}
	s->in_use[i] = true;
	s->claimed[i] = needed;
	for (uint64_t b = from / SECTOR; needed && b < to / SECTOR; b++)
		s->owner[b] = i + 1;
}

static void expect_owners(struct situation *s)
{
	for (uint64_t b = 0; b < SECTORS; b++) {
		uint64_t len = SECTORS * SECTOR, run = 1;
		struct img_piece *c = img_claim_of(&s->engine, b * SECTOR, &len);

		cr_assert_eq(c ? (int)(c - s->piece) + 1 : 0, s->owner[b]);
		if (c)
			continue;
		while (b + run < SECTORS && !s->owner[b + run])
			run++;
		cr_assert_eq(min_u64(len, (SECTORS - b) * SECTOR), run * SECTOR);
	}
}

static void as_a_plain_map(uint64_t unit)
{
	struct situation *s = begin(unit);

	for (int round = 0; round < 3000; round++) {
		int i = (int)below(s, PIECES);

		if (!s->in_use[i]) {
			try_claim(s, i);
		} else {
			over(&s->piece[i]);
			s->in_use[i] = false;
			for (int b = 0; b < SECTORS; b++)
				if (s->owner[b] == i + 1)
					s->owner[b] = 0;
		}
		if (round % 50 == 0)
			expect_owners(s);
	}
	for (int i = 0; i < PIECES; i++)
		if (s->in_use[i])
			over(&s->piece[i]);
	cr_assert(img_list_empty(&s->engine.claims));
	cr_assert_eq(s->engine.unclaimed, 0);
	free(s);
}

Test(claims, as_a_plain_map)
{
	as_a_plain_map(UNIT);
	as_a_plain_map(7 * SECTOR);
	as_a_plain_map(SECTOR);
}

/* Plans in place need none, until one of them writes back what it has read. */
Test(claims, one_that_writes_back_waits_for_those_without)
{
	struct situation *s = begin(UNIT);
	struct img_piece *a = plan(s, 0, 0, UNIT, false), *b = plan(s, 1, 2 * UNIT, SECTOR, false);

	cr_assert(img_claim(a));
	cr_assert_eq(s->engine.unclaimed, 1);
	b->plan.fill_end += SECTOR;
	cr_assert_not(img_claim(b), "nobody knows what a is writing");
	cr_assert(s->engine.rewrites);
	over(a);
	cr_assert(img_claim(b));
	cr_assert(img_claim(plan(s, 2, UNIT, UNIT, false)));
	cr_assert_eq(s->engine.unclaimed, 0, "from then on all claim");
	cr_assert_not(img_claim(plan(s, 3, 2 * UNIT + SECTOR, SECTOR, false)));
	over(b);
	cr_assert(img_claim(plan(s, 3, 2 * UNIT + SECTOR, SECTOR, false)));
	over(&s->piece[2]);
	over(&s->piece[3]);
	free(s);
}

static struct img_piece *host(struct situation *s)
{
	struct img_piece *h = plan(s, 0, UNIT + SECTOR, SECTOR, true);

	h->plan.fill_start = UNIT;
	h->plan.fill_end = 2 * UNIT;
	h->plan.file_off = 100 * UNIT;
	h->plan.storage = (struct img_storage *)s; /* any */
	cr_assert(img_claim(h));
	h->joinable = true;
	return h;
}

Test(claims, who_may_join)
{
	struct situation *s = begin(UNIT);
	struct img_piece *h = host(s), *p = &s->piece[1];
	struct img_cipher cipher = { 0 };
	uint64_t len = UINT64_MAX;

	cr_assert_eq(img_claim_of(&s->engine, UNIT + 3 * SECTOR, &len), h);
	p->off = UNIT + 3 * SECTOR;
	h->joinable = false;
	cr_assert_not(img_claim_join(p, h, UNIT));
	h->joinable = true;
	p->queue = &s->other;
	cr_assert_not(img_claim_join(p, h, UNIT), "another thread's");
	p->queue = &s->queue;
	p->off = UNIT - SECTOR;
	cr_assert_not(img_claim_join(p, h, UNIT), "before");
	p->off = 2 * UNIT;
	cr_assert_not(img_claim_join(p, h, UNIT), "behind");
	p->off = UNIT + 3 * SECTOR;
	h->plan.cipher = &cipher;
	cr_assert_not(img_claim_join(p, h, UNIT), "being encrypted already");
	h->kept_back = true;
	cr_assert(img_claim_join(p, h, UNIT));
	h->plan.cipher = NULL;
	h->kept_back = false;
	cr_assert(img_claim_join(p, h, 10 * UNIT));
	cr_assert_eq(h->joined, 2);
	cr_assert_eq(p->host, h);
	cr_assert_eq(p->plan.kind, IMG_PLAN_DATA);
	cr_assert_eq(p->plan.length, UNIT - 3 * SECTOR, "to the end of the plan");
	cr_assert_eq(p->plan.file_off, 100 * UNIT + 3 * SECTOR);
	cr_assert_eq(p->plan.storage, h->plan.storage);
	cr_assert_not(p->plan.commit, "its host's commit is for both");
	cr_assert_eq(p->plan.fill_end - p->plan.fill_start, p->plan.length);
	over(h);
	free(s);
}

/* ---- Small writes become one ---- */

static struct img_piece *sent[8];
static unsigned nsent;

static void send(struct img_piece *p)
{
	sent[nsent++] = p;
}

static void write_of(struct img_piece *p, uint8_t *bytes)
{
	p->send = send;
	p->io = (struct img_io){ .off = p->plan.file_off + (p->off - p->plan.fill_start),
				 .len = p->plan.length,
				 .iov = p->small_iov,
				 .iovcnt = 1 };
	p->small_iov[0] = (struct iovec){ bytes, p->plan.length };
	img_claim_write(p);
}

Test(claims, neighbours_are_written_together)
{
	static uint8_t bytes[UNIT];
	struct situation *s = begin(UNIT);
	struct img_piece *h = host(s);

	nsent = 0;
	h->len = SECTOR;
	write_of(h, bytes);
	cr_assert_eq(nsent, 0, "more may come");
	cr_assert(h->kept_back);
	for (int i = 1; i < 4; i++) { /* two that follow, one that does not */
		struct img_piece *p = &s->piece[i];

		p->off = UNIT + (uint64_t)(i < 3 ? 1 + i : 6) * SECTOR;
		cr_assert(img_claim_join(p, h, SECTOR));
		write_of(p, bytes);
	}
	cr_assert_eq(nsent, 1);
	cr_assert_eq(sent[0], &s->piece[3], "by itself");
	cr_assert_eq(h->joined, 1, "the others are in the host's write");
	cr_assert_eq(h->io.len, 3 * SECTOR);
	cr_assert_eq(h->io.iovcnt, 3);
	img_claims_flush(&s->queue);
	cr_assert_eq(nsent, 2);
	cr_assert_eq(sent[1], h);
	cr_assert_not(h->kept_back);
	cr_assert(img_list_empty(&s->queue.kept_back));
	img_buffer_put(&s->queue.buffers, &h->merged);
	img_buffers_clear(&s->queue.buffers);
	while (img_list_pop(&h->joiners))
		;
	over(h);
	free(s);
}

Test(claims, nothing_is_kept_back_when_told_so)
{
	static uint8_t bytes[UNIT];
	struct situation *s = begin(UNIT);
	struct img_piece *h = host(s);

	nsent = 0;
	h->len = SECTOR;
	s->queue.keep_nothing = true;
	write_of(h, bytes);
	cr_assert_eq(nsent, 1);
	cr_assert(h->joinable, "others may still write beside it");
	over(h);
	free(s);
}
