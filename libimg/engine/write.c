/*
 * Writing: plan, data, commit. A piece asks the driver for a plan, fills what the plan must write
 * beyond the caller's bytes, writes, and commits. Nothing is reachable before its data is there.
 *
 * Two plans that will be committed never share a unit: a piece that meets a claim waits and then
 * asks anew. Growth of rare structures stops planning, waits for the plans in flight, and runs the
 * driver's blocking grow() on a pool thread.
 */
#include "libimg/engine/write.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/engine/read.h"

enum {
	MAX_GROWS = 256, /* of one piece: a driver that asks for more never has enough */
	ZEROES = 64 << 10,
	MAX_ZERO_WRITE = 1 << 20, /* zeroes written at once where metadata cannot say zero */
};

static const uint8_t zeroes[ZEROES];

/* ---- The end ---- */

static void finish(struct img_piece *p, int rc)
{
	struct img *img = p->task->img;
	struct img_engine *e = img->engine;

	pthread_mutex_lock(&e->lock);
	p->req.engine = e;
	if (p->plan.commit) {
		if (rc)
			img->driver->drop(img, &p->req, &p->plan);
		else
			img->driver->commit(img, &p->req, &p->plan);
		img_list_del(&p->claim_link);
	}
	img_req_unpin(&p->req, e);
	e->plans--;
	if (e->growing && !e->plans)
		img_service_kick(e);
	if (img_meta_dirty_bytes(e->meta) > IMG_DIRTY_START || e->freed.n > IMG_QUARANTINE_START) {
		e->want_writeout = true;
		img_service_kick(e);
	}
	if (!img_list_empty(&e->waiting) || e->exclusive)
		img_engine_changed(e);
	img_engine_unlock(e);
	img_piece_done(p, rc);
}

/* ---- Data ---- */

static void io_done(struct img_io *io)
{
	struct img_piece *p = IMG_CONTAINER(io, struct img_piece, io);

	if (io->rc)
		img_io_fail(io, &p->err);
	finish(p, io->rc);
}

static int zero_entries(struct iovec *out, uint64_t len)
{
	int n = 0;

	for (; len; n++) {
		size_t run = (size_t)min_u64(len, ZEROES);

		out[n] = (struct iovec){ (void *)(uintptr_t)zeroes, run };
		len -= run;
	}
	return n;
}

/* One buffer of fill: what was read, or zeroes, or nothing. */
static int fill_entries(struct iovec *out, uint8_t *buffer, uint64_t len)
{
	if (!len)
		return 0;
	if (!buffer)
		return zero_entries(out, len);
	out[0] = (struct iovec){ buffer, (size_t)len };
	return 1;
}

/* Replace p->iov by one encrypted copy. */
static int encrypt(struct img_piece *p, uint64_t len)
{
	const struct img_plan *plan = &p->plan;
	uint64_t at = 0;
	int rc;

	p->cipher_copy = aligned_alloc(4096, round_up_u64(len, 4096));
	if (!p->cipher_copy)
		return -ENOMEM;
	for (int i = 0; i < p->iovcnt; i++) {
		memcpy(p->cipher_copy + at, p->iov[i].iov_base, p->iov[i].iov_len);
		at += p->iov[i].iov_len;
	}
	rc = plan->cipher->encrypt(plan->cipher, plan->tweak + p->io_skip, p->cipher_copy,
				   (size_t)len);
	p->iov[0] = (struct iovec){ p->cipher_copy, (size_t)len };
	p->iovcnt = 1;
	return rc;
}

static void write_data(struct img_piece *p)
{
	const struct img_plan *plan = &p->plan;
	uint64_t len = p->head_len + p->len + p->tail_len;
	int rc = 0;

	if (p->packed) {
		p->small_iov[0] = (struct iovec){ p->packed, p->packed_len };
		p->iovcnt = 1;
		len = p->packed_len;
	} else if (p->head_len || p->tail_len || p->zeroes) {
		size_t most = 6 + (size_t)p->iovcnt + (size_t)(len / ZEROES);
		struct iovec *iov = calloc(most, sizeof(*iov));
		int n;

		if (!iov) {
			finish(p, -ENOMEM);
			return;
		}
		n = fill_entries(iov, p->head, p->head_len);
		if (p->zeroes) {
			n += zero_entries(iov + n, p->len);
		} else {
			memcpy(iov + n, p->iov, (size_t)p->iovcnt * sizeof(*iov));
			n += p->iovcnt;
		}
		n += fill_entries(iov + n, p->tail, p->tail_len);
		if (p->iov != p->small_iov)
			free(p->iov);
		p->iov = iov;
		p->iovcnt = n;
	}
	if (plan->cipher)
		rc = encrypt(p, len);
	if (rc) {
		finish(p, rc);
		return;
	}
	p->io = (struct img_io){ .storage = plan->storage,
				 .op = IMG_IO_WRITE,
				 .iov = p->iov,
				 .iovcnt = p->iovcnt,
				 .off = plan->file_off + p->io_skip,
				 .len = len,
				 .done = io_done };
	img_ioq_submit(p->queue->ioq, &p->io);
}

/* ---- Fill ---- */

static void fill_over(struct img_piece *p)
{
	if (--p->fills)
		return;
	if (p->rc)
		finish(p, p->rc);
	else
		write_data(p);
}

static void fill_done(void *user, int rc, const struct img_error *err)
{
	struct img_piece *p = user;

	if (rc && !p->rc) {
		p->rc = rc;
		img_fail(&p->err, rc, "%s", img_error_text(err));
	}
	fill_over(p);
}

/* Does the image read as zeroes there, by metadata that is in memory? */
static bool zero_by_metadata(struct img_piece *p, uint64_t off, uint64_t len)
{
	struct img *img = p->task->img;
	bool zero = true;
	struct img_req req;

	img_req_init(&req, NULL);
	while (zero && len && off < img->size) {
		struct img_extent x;
		struct img *level;
		uint64_t run = len;

		zero = !img_read_resolve(img, &req, off, &run, &x, &level) && x.kind == IMG_ZERO;
		off += run;
		len -= run;
	}
	img_req_release(&req);
	return zero;
}

/*
 * Have [off, off + len), which the plan writes but the caller gave no bytes for, ready: in *buffer
 * (NULL: zeroes). *len 0: need not be written.
 */
static int fill(struct img_piece *p, uint64_t off, uint64_t *len, uint8_t **buffer)
{
	struct img *img = p->task->img;
	uint64_t readable = off < img->size ? min_u64(*len, img->size - off) : 0;
	struct img_task *t;

	if (!*len)
		return 0;
	if (zero_by_metadata(p, off, *len)) {
		if (p->plan.fresh)
			*len = 0;
		return 0;
	}
	*buffer = aligned_alloc(4096, round_up_u64(*len, 4096));
	t = *buffer ? img_task_make(p->queue, img, img_read_look, off, readable) : NULL;
	if (!t)
		return -ENOMEM;
	memset(*buffer + readable, 0, *len - readable);
	t->inner = true;
	t->done = fill_done;
	t->user = p;
	t->iov = buffer == &p->head ? &p->fill_iov[0] : &p->fill_iov[1];
	t->iov[0] = (struct iovec){ *buffer, readable };
	t->iovcnt = 1;
	p->fills++;
	img_task_start(t);
	return 0;
}

static void write_filled(struct img_piece *p)
{
	const struct img_plan *plan = &p->plan;
	uint64_t end = p->off + p->len;
	int rc;

	p->head_len = p->off - plan->fill_start;
	p->tail_len = plan->fill_end > end ? plan->fill_end - end : 0;
	p->rc = 0;
	p->fills = 1; /* ours: fills may be over before this returns */
	rc = fill(p, plan->fill_start, &p->head_len, &p->head);
	p->io_skip = p->off - plan->fill_start - p->head_len;
	if (!rc)
		rc = fill(p, end, &p->tail_len, &p->tail);
	if (rc && !p->rc)
		p->rc = rc;
	fill_over(p);
}

/* The plan stands: do what it says. */
static void carry_out(struct img_piece *p)
{
	const struct img_plan *plan = &p->plan;

	switch (plan->kind) {
	case IMG_PLAN_NOTHING:
	case IMG_PLAN_META:
		finish(p, 0);
		break;
	case IMG_PLAN_ZERO:
	case IMG_PLAN_PUNCH:
		p->io = (struct img_io){ .storage = plan->storage,
					 .op = plan->kind == IMG_PLAN_ZERO ? IMG_IO_ZERO
									   : IMG_IO_PUNCH,
					 .off = plan->file_off,
					 .len = plan->length,
					 .done = io_done };
		img_ioq_submit(p->queue->ioq, &p->io);
		break;
	case IMG_PLAN_DATA:
		if (p->packed)
			write_data(p);
		else
			write_filled(p);
		break;
	}
}

/* ---- Compressed units ---- */

static void packed(struct img_post *post)
{
	struct img_piece *p = IMG_CONTAINER(post, struct img_piece, post);

	if (p->rc && p->rc != -ENOSPC) {
		img_piece_done(p, p->rc);
		return;
	}
	img_write_look(p);
}

/* On a pool thread. */
static void pack(struct img_work *work)
{
	struct img_piece *p = IMG_CONTAINER(work, struct img_piece, work);
	const struct img_codec *codec = p->task->img->compress_codec;
	size_t unit = (size_t)p->task->img->unit_bytes, at = 0;

	p->packed = malloc(unit);
	p->unit = malloc(unit);
	p->rc = p->packed && p->unit ? 0 : -ENOMEM;
	for (int i = 0; !p->rc && i < p->task->iovcnt; i++) {
		memcpy(p->unit + at, p->task->iov[i].iov_base, p->task->iov[i].iov_len);
		at += p->task->iov[i].iov_len;
	}
	if (!p->rc) {
		memset(p->unit + at, 0, unit - at);
		p->rc = codec->encode(p->unit, unit, p->task->img->compress_level, p->packed,
				      unit - 1, &p->packed_len, &p->err);
	}
	free(p->unit);
	p->unit = NULL;
	if (p->rc) { /* -ENOSPC: does not shrink, is stored plain */
		free(p->packed);
		p->packed = NULL;
	}
	p->post.fn = packed;
	img_ioq_post(p->queue->ioq, &p->post);
}

/* ---- Looking up ---- */

/*
 * Zeroing or discarding that does not cover whole units. 0: go on with p->op and *len; -EALREADY: the
 * part *len needs nothing; else as img_read_resolve().
 */
static int choose(struct img_piece *p, uint64_t *len)
{
	struct img *img = p->task->img;
	uint64_t unit = img->unit_bytes, end = p->off + *len, whole;
	struct img_extent x;
	struct img *level;
	int rc;

	p->op = p->task->op;
	whole = end == img->size ? *len : align_down_u64(end, unit) - min_u64(p->off, end);
	if (is_aligned_u64(p->off, unit) && (end == img->size || end - p->off >= unit)) {
		*len = whole;
		return 0;
	}
	*len = min_u64(end, align_down_u64(p->off, unit) + unit) - p->off;
	if (p->op == IMG_OP_DISCARD)
		return -EALREADY;
	rc = img_read_resolve(img, &p->req, p->off, len, &x, &level);
	if (rc)
		return rc;
	if (x.kind == IMG_ZERO)
		return -EALREADY;
	p->op = IMG_OP_WRITE;
	p->zeroes = true;
	return 0;
}

/* Is the unit of off claimed? Otherwise shorten *len to what is not. */
static bool claimed(const struct img_engine *e, uint64_t off, uint64_t *len)
{
	uint64_t start = align_down_u64(off, e->img->unit_bytes);

	for (struct img_list *node = e->claims.next; node != &e->claims; node = node->next) {
		const struct img_piece *c = IMG_CONTAINER(node, struct img_piece, claim_link);

		if (c->claim_end <= start || c->claim_start >= off + *len)
			continue;
		if (c->claim_start <= off)
			return true;
		*len = c->claim_start - off;
	}
	return false;
}

/* Stop planning and have the image grown, or first marked as written to. */
static int ask_growth(struct img_piece *p, struct img_engine *e, uint64_t len)
{
	if (++p->grows > MAX_GROWS)
		return img_fail(&p->err, -EIO,
				"%s: guest offset %" PRIu64 ": no room after growing "
				"%d times",
				e->img->name, p->off, MAX_GROWS);
	e->exclusive = e->growing = true;
	e->grow_off = p->off;
	e->grow_len = len;
	img_piece_wait(p, &e->growers);
	if (!e->plans)
		img_service_kick(e);
	return -EINPROGRESS;
}

/* Is there a reason to wait before planning? */
static bool must_wait(struct img_piece *p, struct img_engine *e)
{
	if (e->exclusive)
		return true;
	if (p->task->ordered && !img_task_is_first(p->task))
		return true;
	if (img_meta_dirty_bytes(e->meta) > IMG_DIRTY_STOP) {
		e->want_writeout = true;
		img_service_kick(e);
		return true;
	}
	return false;
}

/*
 * Under the lock: plan p's next part. 0: planned; IMG_NEED_METADATA; -EINPROGRESS: p waits and
 * must not be touched; else an error.
 */
static int make_plan(struct img_piece *p, struct img_engine *e, uint64_t len)
{
	struct img *img = e->img;
	struct img_plan *plan = &p->plan;
	int rc;

	if (e->writeout_rc && img_meta_dirty_bytes(e->meta) > IMG_DIRTY_STOP)
		return img_fail(&p->err, e->writeout_rc, "%s: metadata could not be written: %s",
				img->name, strerror(-e->writeout_rc));
	if (must_wait(p, e) || claimed(e, p->off, &len)) {
		img_piece_wait(p, &e->waiting);
		return -EINPROGRESS;
	}
	if (!e->first_write_done) {
		if (img->driver->first_write)
			return ask_growth(p, e, len);
		e->first_write_done = true;
	}
	p->req.engine = e;
	*plan = (struct img_plan){ 0 };
	rc = img->driver->plan_write(img, &p->req, p->packed ? IMG_OP_WRITE_COMPRESSED : p->op,
				     p->off, p->packed ? p->packed_len : len, plan);
	if (rc == IMG_NEED_WRITE) {
		p->op = IMG_OP_WRITE;
		p->zeroes = true;
		len = min_u64(len, MAX_ZERO_WRITE);
		*plan = (struct img_plan){ 0 };
		rc = img->driver->plan_write(img, &p->req, p->op, p->off, len, plan);
	}
	if (rc == IMG_NEED_EXCLUSIVE)
		return ask_growth(p, e, len);
	if (rc)
		return rc;
	plan->length = min_u64(plan->length, p->len);
	e->plans++;
	e->changed_image = true;
	if (plan->storage)
		img_engine_touch(e, plan->storage);
	if (plan->commit) {
		uint64_t unit = img->unit_bytes, from = p->off, to = p->off + plan->length;

		if (plan->kind == IMG_PLAN_DATA && !p->packed) {
			from = min_u64(from, plan->fill_start);
			to = max_u64(to, plan->fill_end);
		}
		p->claim_start = align_down_u64(from, unit);
		p->claim_end = round_up_u64(to, unit);
		img_list_add_tail(&e->claims, &p->claim_link);
	}
	return 0;
}

void img_write_look(struct img_piece *p)
{
	struct img_task *t = p->task;
	struct img_engine *e = t->img->engine;
	uint64_t len = p->len;
	int rc = 0;

	p->op = IMG_OP_WRITE;
	p->zeroes = false;
	if (t->compress && !p->packing_tried) {
		p->packing_tried = true;
		p->work.run = pack;
		img_pool_submit(img_pool_cpu(), &p->work);
		return;
	}
	if (t->op != IMG_OP_WRITE)
		rc = choose(p, &len);
	if (rc == -EALREADY) {
		img_piece_done(p, img_piece_take(p, len));
		return;
	}
	if (!rc) {
		pthread_mutex_lock(&e->lock);
		rc = make_plan(p, e, len);
		img_engine_unlock(e);
	}
	if (rc == -EINPROGRESS)
		return;
	if (rc == IMG_NEED_METADATA) {
		img_piece_fetch(p);
		return;
	}
	if (rc) {
		img_piece_done(p, rc);
		return;
	}
	rc = img_piece_take(p, p->plan.length);
	if (rc)
		finish(p, rc);
	else
		carry_out(p);
}
