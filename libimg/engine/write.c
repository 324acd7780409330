/*
 * Writing: plan, data, commit. A piece asks the driver for a plan, fills what the plan must write
 * beyond the caller's bytes, writes, and commits. Nothing is reachable before its data is there.
 *
 * Two plans never share what they read to write it back, or map anew: a piece that meets a claim
 * waits and then asks anew, or joins it (claims.h). Growth of rare structures stops planning, waits for the plans
 * in flight, and runs the driver's blocking grow() on a pool thread.
 */
#include "libimg/engine/write.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/invariant.h"
#include "libimg/base/iovec.h"
#include "libimg/engine/batch.h"
#include "libimg/engine/claims.h"
#include "libimg/engine/read.h"

enum {
	MAX_GROWS = 256, /* of one piece: a driver that asks for more never has enough */
	ZEROES = 64 << 10,
	MAX_FILL = 2 << 20,	  /* read in one go */
	MAX_ZERO_WRITE = 1 << 20, /* zeroes written at once where metadata cannot say zero */
	SECTOR = 512,		  /* the least that drivers zero and discard */
	ENCRYPT_TOGETHER = 16,	  /* writes; a sector takes less than a microsecond */
};

static const uint8_t zeroes[ZEROES];

/* ---- The end ---- */

/* Under the lock: the plan's I/O is over. */
static void plan_over(struct img_piece *p, struct img_engine *e)
{
	IMG_INVARIANT(e->plans > 0 && !p->plan_open);
	img_req_unpin(&p->req, e);
	e->plans--;
}

static void drop(struct img_piece *p)
{
	struct img *img = p->task->img;

	IMG_INVARIANT(p->plan_open);
	p->plan_open = false;
	img->driver->drop(img, &p->req, &p->plan);
}

static void commit(struct img_piece *p)
{
	struct img *img = p->task->img;

	IMG_INVARIANT(p->plan_open && !img_list_empty(&p->claim_link));
	p->plan_open = false;
	img->driver->commit(img, &p->req, &p->plan);
}

/* What a plan made reachable is there to its end, or to the disk's: the file has to be as long. */
static void set_due(const struct img *img, const struct img_plan *plan)
{
	uint64_t end = min_u64(plan->fill_end, img->size);

	if (plan->fresh && plan->kind == IMG_PLAN_DATA)
		raise_u64(&plan->storage->due, plan->file_off + (end - plan->fill_start));
}

/* Make what was written reachable, or give the room back. */
static void finish_plan(struct img_piece *p, int rc)
{
	struct img *img = p->task->img;
	struct img_engine *e = img->engine;

	pthread_mutex_lock(&e->lock);
	p->req.engine = e;
	if (p->plan.commit) {
		if (rc) {
			drop(p);
		} else {
			/* before anything is counted as unlinked */
			img_engine_remapped(e, p->claim_start, p->claim_end - p->claim_start);
			set_due(img, &p->plan);
			commit(p);
		}
	}
	img_unclaim(p);
	plan_over(p, e);
	for (struct img_list *l = p->joiners.next; l != &p->joiners; l = l->next)
		plan_over(IMG_CONTAINER(l, struct img_piece, claim_link), e);
	if (e->growing && !e->plans)
		img_service_kick(e);
	if (img_meta_dirty_bytes(e->meta) > IMG_DIRTY_START || e->freed.n > IMG_QUARANTINE_START) {
		e->want_writeout = true;
		img_service_kick(e);
	}
	if (!img_list_empty(&e->waiting) || e->exclusive)
		img_engine_changed(e);
	img_engine_unlock(e);
}

/* p and all who joined are written. */
static void complete(struct img_piece *p, int rc)
{
	struct img_list joiners, *node;
	struct img_error err = { 0 };

	finish_plan(p, rc);
	img_list_init(&joiners);
	img_list_splice(&joiners, &p->joiners);
	if (rc && !img_list_empty(&joiners))
		img_fail(&err, rc, "%s", p->err.text ? p->err.text : strerror(-rc));
	img_piece_done(p, rc);
	while ((node = img_list_pop(&joiners))) {
		struct img_piece *j = IMG_CONTAINER(node, struct img_piece, claim_link);

		/* without the host's commit nobody can reach what j wrote */
		if (rc && !j->rc)
			j->rc = img_fail(&j->err, rc, "%s", img_error_text(&err));
		img_piece_done(j, j->rc);
	}
	img_error_clear(&err);
}

static void finish(struct img_piece *p, int rc)
{
	struct img_piece *host = p->host;

	p->rc = rc;
	if (host) {
		img_list_add_tail(&host->joiners, &p->claim_link);
		if (!--host->joined && host->completed)
			complete(host, host->rc);
		return;
	}
	p->completed = true;
	p->joinable = false;
	if (!p->joined)
		complete(p, rc);
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
static int fill_entries(struct iovec *out, const uint8_t *bytes, uint64_t len)
{
	if (!len)
		return 0;
	if (!bytes)
		return zero_entries(out, len);
	out[0] = (struct iovec){ (void *)(uintptr_t)bytes, (size_t)len };
	return 1;
}

static void send(struct img_piece *p)
{
	img_ioq_submit(p->queue->ioq, &p->io);
}

/* Replace p->iov by one copy that can be encrypted. */
static int gather(struct img_piece *p, uint64_t len)
{
	if (!img_buffer_get(&p->queue->buffers, (size_t)len, &p->clear))
		return -ENOMEM;
	img_iov_gather(p->iov, p->iovcnt, p->clear.at);
	p->iov[0] = (struct iovec){ p->clear.at, (size_t)len };
	p->iovcnt = 1;
	return 0;
}

/* On a pool thread. */
static void encrypt(struct img_piece *p)
{
	struct img_cipher *c = p->plan.cipher;

	p->rc = c->encrypt(c, p->plan.tweak + p->io_skip, p->clear.at, (size_t)p->io.len);
}

static void encrypted(struct img_piece *p)
{
	if (p->rc)
		finish(p, img_fail(&p->err, p->rc, "%s: encryption failed at guest offset %" PRIu64,
				   p->task->img->name, p->off));
	else
		send(p);
}

static void encrypt_and_send(struct img_piece *p)
{
	img_batch_add(p, ENCRYPT_TOGETHER, encrypt, encrypted);
}

static void write_data(struct img_piece *p)
{
	const struct img_plan *plan = &p->plan;
	uint64_t len = p->head_len + p->len + p->tail_len;
	int rc = 0;

	if (p->compressed.at) {
		p->small_iov[0] = (struct iovec){ p->compressed.at, p->compressed_len };
		p->iovcnt = 1;
		len = p->compressed_len;
	} else if (p->head_len || p->tail_len || p->zeroes) {
		size_t most = 6 + (size_t)p->iovcnt + (size_t)(len / ZEROES);
		struct iovec *iov = calloc(most, sizeof(*iov));
		int n;

		if (!iov) {
			finish(p, -ENOMEM);
			return;
		}
		n = fill_entries(iov, p->head.at, p->head_len);
		if (p->zeroes) {
			n += zero_entries(iov + n, p->len);
		} else {
			memcpy(iov + n, p->iov, (size_t)p->iovcnt * sizeof(*iov));
			n += p->iovcnt;
		}
		n += fill_entries(iov + n, p->tail_bytes, p->tail_len);
		if (p->iov != p->small_iov)
			free(p->iov);
		p->iov = iov;
		p->iovcnt = n;
	}
	if (plan->cipher)
		rc = gather(p, len);
	if (rc) {
		finish(p, rc);
		return;
	}
	p->io = (struct img_io){ .storage = plan->storage,
				 .op = IMG_IO_WRITE,
				 .flags = p->io_flags,
				 .iov = p->iov,
				 .iovcnt = p->iovcnt,
				 .off = plan->file_off + p->io_skip,
				 .len = len,
				 .done = io_done };
	p->send = plan->cipher ? encrypt_and_send : send;
	img_claim_write(p);
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

	if (!img_task_enter(p->task))
		return false;
	img_req_init(&req, NULL);
	while (zero && len && off < img->size) {
		struct img_extent x;
		struct img *level;
		uint64_t run = len, version;

		zero = !img_read_resolve(img, &req, off, &run, &x, &level, &version) &&
		       x.kind == IMG_ZERO;
		off += run;
		len -= run;
	}
	img_req_release(&req);
	img_task_leave(p->task);
	return zero;
}

/* Read [off, off + len) of the image, zeroes past its end, into a new buffer. */
static int read_fill(struct img_piece *p, uint64_t off, uint64_t len, struct img_buffer *buffer,
		     struct iovec *iov)
{
	struct img *img = p->task->img;
	uint64_t readable = off < img->size ? min_u64(len, img->size - off) : 0;
	struct img_task *t;

	if (!img_buffer_get(&p->queue->buffers, (size_t)len, buffer))
		return -ENOMEM;
	t = img_task_new(p->queue, img, img_read_piece, off, readable);
	if (!t)
		return -ENOMEM;
	memset(buffer->at + readable, 0, len - readable);
	t->inner = true;
	t->done = fill_done;
	t->user = p;
	t->iov = iov;
	t->iov[0] = (struct iovec){ buffer->at, readable };
	t->iovcnt = 1;
	p->fills++;
	img_task_start(t);
	return 0;
}

/*
 * Have what the plan writes but the caller gave no bytes for ready, in p->head and p->tail_bytes.
 * If both sides have to be read that is one read, of what lies between too: that is less than two,
 * above all where it is one compressed unit.
 */
static int read_fills(struct img_piece *p, bool head, bool tail)
{
	uint64_t from = p->plan.fill_start, end = p->off + p->len;
	int rc = 0;

	if (head && tail && p->plan.fill_end - from <= MAX_FILL) {
		rc = read_fill(p, from, p->plan.fill_end - from, &p->head, &p->fill_iov[0]);
		p->tail_bytes = p->head.at + (end - from);
		return rc;
	}
	if (head)
		rc = read_fill(p, from, p->head_len, &p->head, &p->fill_iov[0]);
	if (!rc && tail) {
		rc = read_fill(p, end, p->tail_len, &p->tail, &p->fill_iov[1]);
		p->tail_bytes = p->tail.at;
	}
	return rc;
}

static void write_filled(struct img_piece *p)
{
	const struct img_plan *plan = &p->plan;
	uint64_t end = p->off + p->len;
	bool head, tail;
	int rc;

	p->head_len = p->off - plan->fill_start;
	p->tail_len = plan->fill_end > end ? plan->fill_end - end : 0;
	head = p->head_len && !zero_by_metadata(p, plan->fill_start, p->head_len);
	tail = p->tail_len && !zero_by_metadata(p, end, p->tail_len);
	/* the target has zeroes there; but they are not what a cipher makes zeroes of */
	if (plan->fresh && !head && !plan->cipher)
		p->head_len = 0;
	if (plan->fresh && !tail && !plan->cipher)
		p->tail_len = 0;
	p->io_skip = p->off - plan->fill_start - p->head_len;
	p->joinable = plan->commit && (plan->cipher || (!p->head_len && !p->tail_len));
	p->rc = 0;
	p->fills = 1; /* ours: fills may be over before this returns */
	rc = read_fills(p, head, tail);
	if (rc && !p->rc)
		p->rc = rc;
	fill_over(p);
}

/* The plan stands: do what it says. */
static void start_plan(struct img_piece *p)
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
					 .flags = p->io_flags,
					 .off = plan->file_off,
					 .len = plan->length,
					 .done = io_done };
		img_ioq_submit(p->queue->ioq, &p->io);
		break;
	case IMG_PLAN_DATA:
		if (p->compressed.at)
			write_data(p);
		else
			write_filled(p);
		break;
	}
}

/* ---- Compressed units ---- */

static void compressed(struct img_piece *p)
{
	struct img_buffers *buffers = &p->queue->buffers;

	img_buffer_put(buffers, &p->unit);
	if (p->rc) /* -ENOSPC: does not shrink, is stored plain */
		img_buffer_put(buffers, &p->compressed);
	if (p->rc && p->rc != -ENOSPC)
		img_piece_done(p, p->rc);
	else
		img_write_piece(p);
}

/* On a pool thread. */
static void compress(struct img_piece *p)
{
	const struct img *img = p->task->img;
	size_t unit = (size_t)img->unit_bytes;
	const uint8_t *bytes = p->task->iov[0].iov_base;

	if (p->unit.at) {
		size_t at = img_iov_gather(p->task->iov, p->task->iovcnt, p->unit.at);

		memset(p->unit.at + at, 0, unit - at);
		bytes = p->unit.at;
	}
	p->rc = img->compress_codec->encode(bytes, unit, img->compress_level, p->compressed.at,
					    unit - 1, &p->compressed_len, &p->err);
}

static void start_compressing(struct img_piece *p)
{
	size_t unit = (size_t)p->task->img->unit_bytes;
	bool whole = p->task->iovcnt == 1 && p->task->iov[0].iov_len == unit;

	p->packing_tried = true;
	if (!img_buffer_get(&p->queue->buffers, unit, &p->compressed) ||
	    (!whole && !img_buffer_get(&p->queue->buffers, unit, &p->unit)))
		img_piece_done(p, -ENOMEM);
	else
		img_batch_add(p, 1, compress, compressed); /* a unit takes long enough */
}

/* ---- Looking up ---- */

static int refuse_slow(struct img_piece *p)
{
	return img_fail(&p->err, -ENOTSUP,
			"%s: guest offset %" PRIu64 " can be zeroed by writing zeroes only",
			p->task->img->name, p->off);
}

/*
 * The next part of zeroing or discarding: whole units, or sectors of one unit, which the driver is
 * asked about; or a part of a sector. 0: go on with p->op and *len; -EALREADY: the part *len needs
 * nothing; -EINPROGRESS: p waits and must not be touched; else as img_read_resolve().
 */
static int choose(struct img_piece *p, uint64_t *len)
{
	struct img *img = p->task->img;
	uint64_t unit = img->unit_bytes, within = p->off % unit, into = p->off % SECTOR, version;
	bool to_end = p->off + *len == img->size;
	bool sectors = !into && (to_end || *len >= SECTOR);
	struct img_extent x;
	struct img *level;
	int rc;

	p->op = p->task->op;
	if (!within && (to_end || *len >= unit)) {
		*len = to_end ? *len : multiple_down_u64(*len, unit);
		return 0;
	}
	if (!sectors)
		*len = min_u64(*len, SECTOR - into);
	else if (*len >= unit - within)
		*len = unit - within;
	else if (!to_end)
		*len = align_down_u64(*len, SECTOR);
	if (p->op == IMG_OP_DISCARD)
		return sectors ? 0 : -EALREADY;
	if (!img_piece_enter(p))
		return -EINPROGRESS;
	rc = img_read_resolve(img, &p->req, p->off, len, &x, &level, &version);
	img_piece_leave(p); /* nothing is used of it but that it is zeroes */
	if (rc)
		return rc;
	if (x.kind == IMG_ZERO && (!p->task->keep_allocated || (level == img && x.storage)))
		return -EALREADY;
	if (sectors)
		return 0;
	if (p->task->fast)
		return refuse_slow(p);
	p->op = IMG_OP_WRITE;
	p->zeroes = true;
	return 0;
}

/* Stop planning and have the image grown, or first marked as written to. */
static int request_growth(struct img_piece *p, struct img_engine *e, uint64_t len)
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
 * Zeroes that may give room back do: a hole takes less than what was allocated to be zero. Not past
 * the end of the file, which only zeroing makes longer.
 */
static void zero_by_punching(const struct img_req *req, struct img_plan *plan)
{
	uint64_t size;

	if (plan->kind != IMG_PLAN_ZERO || !req->may_unmap)
		return;
	size = atomic_load(&plan->storage->size);
	if (plan->file_off >= size)
		return;
	if (!range_in(plan->file_off, plan->length, size)) {
		if (plan->commit)
			return;
		plan->length = size - plan->file_off;
	}
	plan->kind = IMG_PLAN_PUNCH;
}

/* How the plan's I/O is to be done, and whether a task that has to be durable is so by that alone. */
static void choose_io_flags(struct img_piece *p, const struct img_engine *e)
{
	const struct img_plan *plan = &p->plan;
	struct img_task *t = p->task;

	p->io_flags = 0;
	if (plan->kind == IMG_PLAN_ZERO && t->keep_allocated)
		p->io_flags |= IMG_IO_KEEP_ALLOCATED;
	if (plan->kind == IMG_PLAN_ZERO || plan->kind == IMG_PLAN_PUNCH)
		p->io_flags |= t->fast ? IMG_IO_FAST : 0;
	if (!t->fua)
		return;
	if (plan->commit || !img_engine_is_durable(e, p->off, plan->length))
		t->sync = true;
	else if (plan->storage && !plan->storage->limits.fua)
		t->sync = true;
	else
		p->io_flags |= IMG_IO_FUA;
}

/*
 * Under the lock: plan p's next part. 0: planned; IMG_NEED_METADATA; -EINPROGRESS: p waits and
 * must not be touched; else an error.
 */
static int make_plan(struct img_piece *p, struct img_engine *e, uint64_t len)
{
	struct img *img = e->img;
	struct img_plan *plan = &p->plan;
	struct img_piece *claim;
	int rc;

	if (e->writeout_rc && img_meta_dirty_bytes(e->meta) > IMG_DIRTY_STOP)
		return img_fail(&p->err, e->writeout_rc, "%s: metadata could not be written: %s",
				img->name, strerror(-e->writeout_rc));
	if (must_wait(p, e)) {
		img_piece_wait(p, &e->waiting);
		return -EINPROGRESS;
	}
	if (!img->writable) /* any more; it was when the request was made */
		return img_fail(&p->err, -EROFS, "%s: the image has become read-only", img->name);
	claim = img_claim_of(e, p->off, &len);
	if (claim && p->op == IMG_OP_WRITE && !p->zeroes && !p->compressed.at &&
	    img_claim_join(p, claim, len)) {
		p->task->sync = true; /* by who is joined it becomes reachable */
		e->plans++;
		return 0;
	}
	if (claim) {
		img_piece_wait(p, &e->waiting);
		return -EINPROGRESS;
	}
	if (!e->first_write_done) {
		if (img->driver->first_write)
			return request_growth(p, e, len);
		e->first_write_done = true;
	}
	p->req.engine = e;
	*plan = (struct img_plan){ 0 };
	rc = img->driver->plan_write(img, &p->req,
				     p->compressed.at ? IMG_OP_WRITE_COMPRESSED : p->op, p->off,
				     p->compressed.at ? p->compressed_len : len, plan);
	if (rc == IMG_NEED_WRITE && p->task->fast)
		return refuse_slow(p);
	if (rc == IMG_NEED_WRITE) {
		p->op = IMG_OP_WRITE;
		p->zeroes = true;
		len = min_u64(plan->length ? min_u64(plan->length, len) : len, MAX_ZERO_WRITE);
		*plan = (struct img_plan){ 0 };
		rc = img->driver->plan_write(img, &p->req, p->op, p->off, len, plan);
	}
	if (rc == IMG_NEED_EXCLUSIVE)
		return request_growth(p, e, len);
	if (rc)
		return rc;
	p->plan_open = plan->commit;
	plan->length = min_u64(plan->length, p->len);
	zero_by_punching(&p->req, plan);
	if (!img_claim(p)) {
		if (plan->commit)
			drop(p);
		img_req_unpin(&p->req, e);
		img_piece_wait(p, &e->waiting);
		return -EINPROGRESS;
	}
	choose_io_flags(p, e);
	e->plans++;
	e->changed_image = true;
	if (plan->storage)
		img_engine_touch(e, plan->storage);
	return 0;
}

/*
 * Choose what is done at p, and plan it. Returns as make_plan(), or -EALREADY: nothing had to be done,
 * and p is done.
 */
static int choose_and_plan(struct img_piece *p)
{
	struct img_engine *e = p->task->img->engine;
	uint64_t len = p->len;
	int rc = 0;

	p->op = IMG_OP_WRITE;
	p->zeroes = false;
	if (p->task->op != IMG_OP_WRITE)
		rc = choose(p, &len);
	if (rc == -EALREADY) {
		p->task->sync |= p->task->fua && !img_engine_is_durable(e, p->off, len);
		img_piece_done(p, img_piece_assign(p, len));
	}
	if (rc)
		return rc;
	pthread_mutex_lock(&e->lock);
	rc = make_plan(p, e, len);
	img_engine_unlock(e);
	return rc;
}

void img_write_piece(struct img_piece *p)
{
	int rc;

	if (p->task->compress && !p->packing_tried) {
		start_compressing(p);
		return;
	}
	do {
		rc = choose_and_plan(p);
	} while (rc == IMG_NEED_METADATA && img_piece_fetch(p));
	if (rc == IMG_NEED_METADATA || rc == -EINPROGRESS || rc == -EALREADY)
		return;
	if (rc) {
		img_piece_done(p, rc);
		return;
	}
	rc = img_piece_assign(p, p->plan.length);
	if (rc)
		finish(p, rc);
	else
		start_plan(p);
}
