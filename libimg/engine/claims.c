/*
 * Claims are in a list of the image, which is short: one for each plan in flight. Requests that
 * join one hang on their host's list until its commit.
 */
#include "libimg/engine/claims.h"

#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/invariant.h"
#include "libimg/base/iovec.h"

enum {
	MERGED_BYTES = 4096, /* of iovecs */
	MERGED_MAX = MERGED_BYTES / (int)sizeof(struct iovec),
};

/* Does p write back what the guest did not name? */
static bool is_wider(const struct img_piece *p)
{
	const struct img_plan *plan = &p->plan;

	return plan->kind == IMG_PLAN_DATA && !p->compressed.at && !plan->commit &&
	       (plan->fill_start < p->off || plan->fill_end > p->off + plan->length);
}

#ifdef IMG_DEBUG
/* Claims share no byte, and hold all that their plans read or make reachable. */
static void check_claims(const struct img_engine *e)
{
	for (struct img_list *i = e->claims.next; i != &e->claims; i = i->next) {
		const struct img_piece *p = IMG_CONTAINER(i, struct img_piece, claim_link);

		IMG_INVARIANT(p->claim_start < p->claim_end && p->plan_open == p->plan.commit &&
			      !p->host);
		IMG_INVARIANT(p->claim_start <= p->off);
		IMG_INVARIANT(!is_wider(p) || (e->rewrites && !e->unclaimed));
		for (struct img_list *j = i->next; j != &e->claims; j = j->next) {
			const struct img_piece *o = IMG_CONTAINER(j, struct img_piece, claim_link);

			IMG_INVARIANT(o->claim_end <= p->claim_start ||
				      o->claim_start >= p->claim_end);
		}
	}
}
#else
static void check_claims(const struct img_engine *e)
{
	(void)e;
}
#endif

bool img_claim(struct img_piece *p)
{
	const struct img_plan *plan = &p->plan;
	struct img_engine *e = p->task->img->engine;
	uint64_t unit = e->img->unit_bytes, from = p->off, to = p->off + plan->length, len;
	bool wider = is_wider(p);

	if (plan->kind == IMG_PLAN_DATA && !p->compressed.at) {
		from = min_u64(from, plan->fill_start);
		to = max_u64(to, plan->fill_end);
	}
	if (plan->claim_end) {
		from = min_u64(from, plan->claim_start);
		to = max_u64(to, plan->claim_end);
	} else if (plan->commit) {
		from -= from % unit;
		to = div_round_up_u64(to, unit) * unit;
	}
	/* Where some write back what they have read, everybody has to claim what he writes. */
	e->rewrites |= wider;
	if (!plan->commit && !plan->claim_end && !e->rewrites) {
		e->unclaimed++;
		return true;
	}
	len = to - from;
	if ((wider && e->unclaimed) || img_claim_of(e, from, &len) || len < to - from)
		return false;
	p->claim_start = from;
	p->claim_end = to;
	img_list_add_tail(&e->claims, &p->claim_link);
	check_claims(e);
	return true;
}

void img_unclaim(struct img_piece *p)
{
	struct img_engine *e = p->task->img->engine;

	IMG_INVARIANT(e->unclaimed > 0 || !img_list_empty(&p->claim_link));
	if (img_list_empty(&p->claim_link))
		e->unclaimed--;
	else
		img_list_del(&p->claim_link);
	check_claims(e);
}

struct img_piece *img_claim_of(const struct img_engine *e, uint64_t off, uint64_t *len)
{
	for (struct img_list *node = e->claims.next; node != &e->claims; node = node->next) {
		struct img_piece *c = IMG_CONTAINER(node, struct img_piece, claim_link);

		if (c->claim_end <= off || c->claim_start >= off + *len)
			continue;
		if (c->claim_start <= off)
			return c;
		*len = c->claim_start - off;
	}
	return NULL;
}

bool img_claim_join(struct img_piece *p, struct img_piece *c, uint64_t len)
{
	const struct img_plan *plan = &c->plan;

	/* of one queue, so that one thread sees to both; joinable is that thread's */
	if (c->queue != p->queue || !c->joinable || p->off < plan->fill_start ||
	    p->off >= plan->fill_end || (plan->cipher && !c->kept_back))
		return false;
	len = min_u64(len, plan->fill_end - p->off);
	p->plan = (struct img_plan){ .kind = IMG_PLAN_DATA,
				     .length = len,
				     .fill_start = p->off,
				     .fill_end = p->off + len,
				     .storage = plan->storage,
				     .file_off = plan->file_off + (p->off - plan->fill_start) };
	p->host = c;
	c->joined++;
	IMG_INVARIANT(c->plan_open && !c->host && c->plan.commit);
	return true;
}

/* p's bytes are in its host's write: it waits for that, and for the commit. */
static void merged(struct img_piece *p, struct img_piece *host)
{
	IMG_INVARIANT(host->joined > 0 && host->kept_back && !host->completed);
	host->joined--;
	img_list_add_tail(&host->joiners, &p->claim_link);
}

/* Put p's bytes into what its host is going to encrypt and write. */
static void merge_clear_text(struct img_piece *p, struct img_piece *host)
{
	img_iov_gather(p->io.iov, p->io.iovcnt, host->clear.at + (p->off - host->plan.fill_start));
	merged(p, host);
}

/* Have p written together with its host, right behind what is there. False: not possible. */
static bool merge(struct img_piece *p, struct img_piece *host)
{
	struct img_io *io = &host->io;

	if (!host->kept_back || p->io.off != io->off + io->len ||
	    io->iovcnt + p->io.iovcnt > MERGED_MAX)
		return false;
	if (!host->merged.at) {
		if (!img_buffer_get(&p->queue->buffers, MERGED_BYTES, &host->merged))
			return false;
		memcpy(host->merged.at, io->iov, (size_t)io->iovcnt * sizeof(*io->iov));
		io->iov = (struct iovec *)(void *)host->merged.at;
	}
	memcpy(io->iov + io->iovcnt, p->io.iov, (size_t)p->io.iovcnt * sizeof(*io->iov));
	io->iovcnt += p->io.iovcnt;
	io->len += p->io.len;
	merged(p, host);
	return true;
}

void img_claim_write(struct img_piece *p)
{
	struct img_queue *q = p->queue;
	const struct img_plan *plan = &p->plan;

	if (p->host && p->host->plan.cipher) {
		merge_clear_text(p, p->host);
		return;
	}
	if (p->host && merge(p, p->host))
		return;
	if (p->joinable && !q->keep_nothing && p->len < plan->fill_end - plan->fill_start) {
		p->kept_back = true;
		img_list_add_tail(&q->kept_back, &p->batch_link);
	} else {
		p->joinable &= !plan->cipher;
		p->send(p);
	}
}

void img_claims_flush(struct img_queue *q)
{
	struct img_list *node;

	while ((node = img_list_pop(&q->kept_back))) {
		struct img_piece *p = IMG_CONTAINER(node, struct img_piece, batch_link);

		p->kept_back = false;
		p->joinable &= !p->plan.cipher; /* what is encrypted cannot be added to */
		p->send(p);
	}
}
