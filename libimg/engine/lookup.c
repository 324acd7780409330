/*
 * Looking up on a queue. A piece gathers extents as far as metadata is in memory, and then has who
 * asked told of them on a thread of the waiting pool, since he may ask the file system for holes,
 * or a server. Meanwhile the piece counts as a reader: what it has looked up stays in its place.
 */
#include "libimg/engine/lookup.h"

#include <errno.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/engine/read.h"

enum {
	TOGETHER = 64, /* extents for one way to the pool and back */
};

struct img_lookups {
	struct img_lookup found[TOGETHER];
	size_t n;
	uint64_t covered; /* guest bytes that were told of */
	bool enough;	  /* who asked wants no more */
};

/* As img_engine_lookup(), but IMG_NEED_METADATA, which req names. */
static int resolve(struct img *img, struct img_req *req, uint64_t off, uint64_t len, bool deep,
		   struct img_lookup *out)
{
	*out = (struct img_lookup){ .off = off };
	for (;;) {
		struct img_extent *x = &out->extent;
		struct img *parent = img->parent; /* another may be put there */
		int rc = img_read_level(img, req, off, len, x);

		if (rc)
			return rc;
		len = x->length = min_u64(x->length, len);
		out->level = img;
		if (x->kind != IMG_BACKING || !deep || !parent || off >= parent->size)
			return 0;
		img = parent;
		len = min_u64(len, img->size - off);
		out->depth++;
	}
}

int img_engine_lookup(struct img *img, uint64_t off, uint64_t len, bool deep,
		      struct img_lookup *out, struct img_error *err)
{
	struct img_req req;
	int rc;

	img_req_init(&req, err);
	do {
		rc = resolve(img, &req, off, len, deep, out);
		if (rc != IMG_NEED_METADATA)
			break;
		rc = img_meta_fetch(&req);
	} while (!rc);
	img_req_release(&req);
	return rc;
}

int img_engine_map(struct img *img, uint64_t off, uint64_t len, struct img_extent *out,
		   struct img_error *err)
{
	struct img_lookup l;
	int rc = img_engine_lookup(img, off, len, false, &l, err);

	*out = l.extent;
	return rc;
}

/* What of l has not been told of. */
static void skip(struct img_lookup *l, uint64_t bytes)
{
	l->off += bytes;
	l->extent.length -= bytes;
	if (l->extent.kind != IMG_COMPRESSED)
		l->extent.file_off += bytes;
}

/* On a thread of the waiting pool. */
static int tell(struct img_piece *p)
{
	struct img_lookups *g = p->lookups;
	struct img_task *t = p->task;

	for (size_t i = 0; i < g->n; i++) {
		struct img_lookup *l = &g->found[i];

		while (l->extent.length) {
			uint64_t bytes = 0;
			int rc = t->found(t->found_user, l, &bytes, &p->err);

			g->covered += bytes;
			g->enough = rc > 0;
			if (rc)
				return rc < 0 ? rc : 0;
			skip(l, bytes);
		}
	}
	return 0;
}

/* On the queue's thread. */
static void told(struct img_post *post)
{
	struct img_piece *p = IMG_CONTAINER(post, struct img_piece, post);
	const struct img_lookups *g = p->lookups;
	struct img_task *t = p->task;

	if (!p->rc) {
		p->rc = img_piece_take(p, g->covered);
		if (g->enough)
			t->end = t->next;
	}
	img_piece_done(p, p->rc);
}

static void run(struct img_work *work)
{
	struct img_piece *p = IMG_CONTAINER(work, struct img_piece, work);

	p->rc = tell(p);
	p->post.fn = told;
	img_ioq_post(p->queue->ioq, &p->post);
}

/* As many extents as are known at once. 0, or why there is not even one. */
static int gather(struct img_piece *p)
{
	struct img_lookups *g = p->lookups;
	const struct img_task *t = p->task;
	uint64_t off = p->off, end = p->off + p->len;
	int rc = 0;

	for (g->n = 0; g->n < TOGETHER && off < end; g->n++) {
		rc = resolve(t->img, &p->req, off, end - off, t->deep, &g->found[g->n]);
		if (rc)
			break;
		off += g->found[g->n].extent.length;
	}
	if (!g->n)
		return rc;
	img_error_clear(&p->err); /* it comes up again behind what was found */
	return 0;
}

void img_lookup_look(struct img_piece *p)
{
	int rc;

	if (!p->lookups)
		p->lookups = calloc(1, sizeof(*p->lookups));
	if (!p->lookups) {
		img_piece_done(p, -ENOMEM);
		return;
	}
	if (!img_piece_enter(p))
		return;
	rc = gather(p);
	if (rc == IMG_NEED_METADATA) {
		img_piece_leave(p);
		img_piece_fetch(p);
	} else if (rc) {
		img_piece_done(p, rc);
	} else {
		p->work.run = run;
		img_pool_submit(img_pool_waiting(), &p->work);
	}
}
