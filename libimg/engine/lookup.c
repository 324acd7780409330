/*
 * Looking up on a queue. A piece gathers extents as far as metadata is in memory, and passes them on;
 * where it is asked to, it asks the extent's storage for holes, by a request on the queue. Meanwhile
 * the piece counts as a reader: what it has looked up stays in its place.
 */
#include "libimg/engine/lookup.h"

#include <errno.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/engine/read.h"

enum {
	TOGETHER = 64, /* extents that one piece finds */
};

struct img_lookups {
	struct img_lookup found[TOGETHER];
	size_t n, next;		      /* of found: how many, and which is passed on next */
	uint64_t covered;	      /* guest bytes that were passed on */
	struct img_io io;	      /* what a storage was asked last */
	struct img_io_extents stored; /* its answer, from io.off on; none: there was no such question */
	uint64_t queried;	      /* 1 + the offset of metadata that io asked about last; 0: none */
	struct img_piece *piece;
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

/* What of l has not been passed on. */
static void skip(struct img_lookup *l, uint64_t bytes)
{
	l->off += bytes;
	l->extent.length -= bytes;
	if (l->extent.kind != IMG_COMPRESSED)
		l->extent.file_off += bytes;
}

/* What is known of the holes of l's storage, at l. */
static void find_answer(const struct img_lookups *g, struct img_lookup *l)
{
	const struct img_io_extents *x = &g->stored;
	uint64_t at = l->extent.file_off, off = g->io.off;

	l->asked = false;
	if (!x->count || g->io.storage != l->extent.storage || at < off)
		return;
	for (size_t i = 0; i < x->count && !l->asked; off += x->at[i++].len) {
		l->asked = at - off < x->at[i].len;
		l->stored = x->at[i].kind;
		l->stored_bytes = x->at[i].len - (at - off);
	}
}

/* What the storage knows by itself. False: it has to be asked. */
static bool find_stored(struct img_lookups *g, const struct img_lookup *l)
{
	const struct img_extent *e = &l->extent;

	if (!img_storage_known_extent(e->storage, e->file_off, e->length, &g->stored.at[0].kind,
				      &g->stored.at[0].len))
		return false;
	g->stored.count = 1;
	g->io.storage = e->storage;
	g->io.off = e->file_off;
	return true;
}

static void process(struct img_piece *p);

static void stored_known(struct img_io *io)
{
	struct img_lookups *g = IMG_CONTAINER(io, struct img_lookups, io);
	struct img_piece *p = g->piece;

	if (io->rc)
		img_piece_done(p, img_io_fail(io, &p->err));
	else
		process(p);
}

static void query_storage(struct img_piece *p, const struct img_lookup *l)
{
	struct img_lookups *g = p->lookups;

	g->piece = p;
	g->io = (struct img_io){ .storage = l->extent.storage,
				 .op = IMG_IO_EXTENTS,
				 .off = l->extent.file_off,
				 .len = l->extent.length,
				 .extents = &g->stored,
				 .done = stored_known };
	img_ioq_submit(p->queue->ioq, &g->io);
}

static void finish(struct img_piece *p, bool enough)
{
	struct img_task *t = p->task;
	int rc = img_piece_assign(p, p->lookups->covered);

	if (!rc && enough)
		t->end = t->next;
	img_piece_done(p, rc);
}

/* Pass on what was found, until something has to be asked for. */
static void process(struct img_piece *p)
{
	struct img_lookups *g = p->lookups;
	struct img_task *t = p->task;

	while (g->next < g->n) {
		struct img_lookup *l = &g->found[g->next];
		uint64_t bytes = 0;
		int rc;

		find_answer(g, l);
		rc = t->found(t->found_user, l, &bytes, &p->err);
		if (rc == IMG_LOOKUP_ASK && find_stored(g, l))
			continue;
		if (rc == IMG_LOOKUP_ASK) {
			query_storage(p, l);
			return;
		}
		if (rc < 0) {
			img_piece_done(p, rc);
			return;
		}
		g->covered += bytes;
		if (rc == IMG_LOOKUP_ENOUGH) {
			finish(p, true);
			return;
		}
		skip(l, bytes);
		g->next += !l->extent.length;
	}
	finish(p, false);
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

static void look_again(struct img_io *io)
{
	struct img_lookups *g = IMG_CONTAINER(io, struct img_lookups, io);

	g->stored.count = 0; /* of metadata, and before anything was looked up */
	img_lookup_piece(g->piece);
}

/* Find out first whether the metadata that is missing is a hole. False: it is to be read, or known to be one. */
static bool query_hole(struct img_piece *p)
{
	const struct img_req *req = &p->req;
	struct img_lookups *g = p->lookups;
	uint64_t off = req->missing_index * IMG_META_BLOCK, run;
	enum img_storage_extent kind;
	struct img_storage *s = req->missing;

	if (g->queried == off + 1 || off >= atomic_load(&s->size) ||
	    img_storage_known_extent(s, off, 1, &kind, &run) || !img_meta_may_be_hole(req))
		return false;
	g->queried = off + 1;
	g->piece = p;
	g->io = (struct img_io){ .storage = s,
				 .op = IMG_IO_EXTENTS,
				 .off = off,
				 .len = IMG_META_BLOCK,
				 .extents = &g->stored,
				 .done = look_again };
	img_ioq_submit(p->queue->ioq, &g->io);
	return true;
}

void img_lookup_piece(struct img_piece *p)
{
	int rc;

	if (!p->lookups)
		p->lookups = calloc(1, sizeof(*p->lookups));
	if (!p->lookups) {
		img_piece_done(p, -ENOMEM);
		return;
	}
	do {
		if (!img_piece_enter(p))
			return;
		rc = gather(p);
		if (rc == IMG_NEED_METADATA)
			img_piece_leave(p);
		if (rc == IMG_NEED_METADATA && query_hole(p))
			return;
	} while (rc == IMG_NEED_METADATA && img_piece_fetch(p));
	if (rc == IMG_NEED_METADATA)
		return;
	if (rc) {
		img_piece_done(p, rc);
	} else {
		process(p);
	}
}
