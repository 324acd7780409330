/*
 * Dealing a request out, waiting for metadata, finishing. start_pieces() starts pieces until the request is dealt out or enough are in flight. Only one piece of a
 * task is looking up at a time, since only the answer tells where the next one begins.
 */
#include "libimg/engine/task.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/invariant.h"
#include "libimg/base/iovec.h"

enum {
	MAX_PIECES = 64,
}; /* of one task in flight */

struct img_epoch_readers *img_queue_epochs_of(struct img_queue *q, struct img *img)
{
	struct img_epoch_readers *found = img_epoch_readers_find(&q->readers, &img->engine->epochs);

	return found ? found : img_epoch_readers_new(&q->readers, &img->engine->epochs);
}

struct img_task *img_task_new(struct img_queue *q, struct img *img,
			      void (*look)(struct img_piece *), uint64_t off, uint64_t len)
{
	struct img_list *node = img_list_pop(&q->free_tasks);
	struct img_task *t = node ? IMG_CONTAINER(node, struct img_task, free_link)
				  : malloc(sizeof(*t));

	if (!t)
		return NULL;
	q->tasks += !node;
	*t = (struct img_task){ .img = img,
				.queue = q,
				.readers = img_queue_epochs_of(q, img),
				.look = look,
				.off = off,
				.next = off,
				.end = off + len };
	if (!t->readers) {
		img_list_add_head(&q->free_tasks, &t->free_link);
		return NULL;
	}
	img_list_init(&t->reader.link);
	img_list_init(&t->order_link);
	return t;
}

static struct img_piece *piece_new(struct img_task *t)
{
	struct img_queue *q = t->queue;
	struct img_list *node = img_list_pop(&q->free_pieces);
	struct img_piece *p = node ? IMG_CONTAINER(node, struct img_piece, free_link)
				   : malloc(sizeof(*p));

	if (!p)
		return NULL;
	q->pieces += !node;
	memset(p, 0, sizeof(*p));
	img_list_init(&p->claim_link);
	img_list_init(&p->batch_link);
	img_list_init(&p->joiners);
	p->task = t;
	p->queue = q;
	p->off = t->next;
	p->len = t->end - t->next;
	p->iov = p->small_iov;
	img_req_init(&p->req, &p->err);
	p->req.may_unmap = t->may_unmap;
	p->req.keep_allocated = t->keep_allocated;
	return p;
}

static void piece_free(struct img_piece *p)
{
	struct img_buffers *b = &p->queue->buffers;

	IMG_INVARIANT(!p->plan_open && !p->inside && !p->fills && !p->joined && !p->kept_back);
	IMG_INVARIANT(!p->req.npins && !p->req.reserved && !p->decoding);
	IMG_INVARIANT(img_list_empty(&p->claim_link) && img_list_empty(&p->batch_link) &&
		      img_list_empty(&p->joiners));
	if (p->iov != p->small_iov)
		free(p->iov);
	img_buffer_put(b, &p->stored);
	img_buffer_put(b, &p->unit);
	img_buffer_put(b, &p->head);
	img_buffer_put(b, &p->tail);
	img_buffer_put(b, &p->compressed);
	img_buffer_put(b, &p->merged);
	img_buffer_put(b, &p->clear);
	free(p->lookups);
	img_error_clear(&p->err);
	img_list_add_head(&p->queue->free_pieces, &p->free_link);
}

int img_piece_assign(struct img_piece *p, uint64_t len)
{
	struct img_task *t = p->task;

	p->len = len;
	if (t->iov) {
		int left = t->iovcnt - t->iov_at, n = 0;
		uint64_t covered = 0;

		/* Entries needed: count first, most often it is one. */
		while (n < left && covered < len) {
			covered += t->iov[t->iov_at + n].iov_len - (n ? 0 : t->iov_within);
			n++;
		}
		if (n > (int)IMG_ARRAY_LEN(p->small_iov)) {
			p->iov = calloc((size_t)n, sizeof(*p->iov));
			if (!p->iov) {
				p->iov = p->small_iov;
				return -ENOMEM;
			}
		}
		p->iovcnt = img_iov_slice(t->iov + t->iov_at, left, t->iov_within, len, p->iov);
		/* Move the cursor. */
		t->iov_within += len;
		while (t->iov_at < t->iovcnt && t->iov_within >= t->iov[t->iov_at].iov_len)
			t->iov_within -= t->iov[t->iov_at++].iov_len;
	}
	t->next += len;
	t->looking = false;
	return 0;
}

/* Where requests like t are counted. */
static _Atomic unsigned *in_flight(const struct img_task *t)
{
	return t->changes ? &t->readers->changing : &t->readers->reading;
}

/* Everything is done: leave the lists, run done(). */
static void task_finish(struct img_task *t)
{
	struct img_queue *q = t->queue;

	IMG_INVARIANT(!t->pieces && !t->ordered && (t->rc || t->next == t->end));
	if (!t->inner) {
		IMG_INVARIANT(q->in_flight > 0 && atomic_load(in_flight(t)) > 0);
		img_reader_end(t->readers, &t->reader);
		atomic_fetch_sub(in_flight(t), 1);
		q->in_flight--;
		q->completed++;
	}
	t->done(t->user, t->rc, &t->err);
	img_error_clear(&t->err);
	img_list_add_head(&q->free_tasks, &t->free_link);
}

/* Stop being first among those that allocate in turn. */
static void leave_order(struct img_task *t)
{
	struct img_engine *e = t->img->engine;

	if (!t->ordered)
		return;
	t->ordered = false;
	pthread_mutex_lock(&e->lock);
	img_list_del(&t->order_link);
	img_engine_changed(e);
	pthread_mutex_unlock(&e->lock);
}

/* Start pieces; finish the task if there is nothing more to do. */
static void start_pieces(struct img_task *t)
{
	if (t->starting)
		return; /* a piece was done at once: the loop below goes on */
	t->starting = true;
	while (!t->rc && !t->looking && t->next < t->end && t->pieces < MAX_PIECES) {
		struct img_piece *p = piece_new(t);

		if (!p) {
			t->rc = img_fail(&t->err, -ENOMEM, "%s: out of memory", t->img->name);
			break;
		}
		t->pieces++;
		t->looking = true;
		t->look(p);
	}
	t->starting = false;
	if (t->next >= t->end || t->rc)
		leave_order(t);
	if (t->pieces || (!t->rc && t->next < t->end))
		return;
	task_finish(t);
}

void img_piece_done(struct img_piece *p, int rc)
{
	struct img_task *t = p->task;

	img_req_release(&p->req);
	img_piece_leave(p);
	if (rc && !t->rc) {
		t->rc = rc;
		if (!p->err.text)
			img_fail(&p->err, rc, "%s: guest offset %llu: %s", t->img->name,
				 (unsigned long long)p->off, strerror(-rc));
		img_error_move(&t->err, &p->err);
	}
	if (rc)
		t->looking = false;
	t->pieces--;
	piece_free(p);
	start_pieces(t);
}

/* ---- Starting ---- */

static void finish_later(struct img_post *post)
{
	start_pieces(IMG_CONTAINER(post, struct img_task, post));
}

bool img_task_is_first(const struct img_task *t)
{
	return t->img->engine->ordered.next == &t->order_link;
}

void img_task_start(struct img_task *t)
{
	struct img_engine *e = t->img->engine;

	if (!t->inner) { /* an inner one is a part of another, which runs longer */
		t->queue->in_flight++;
		atomic_fetch_add(in_flight(t), 1);
		img_reader_start(t->readers, &t->reader);
	}
	if (t->ordered) {
		pthread_mutex_lock(&e->lock);
		img_list_add_tail(&e->ordered, &t->order_link);
		pthread_mutex_unlock(&e->lock);
	}
	/* One piece more than there are keeps the task from finishing in here. */
	t->pieces++;
	start_pieces(t);
	t->pieces--;
	if (t->pieces)
		return;
	if (t->inner) {
		start_pieces(t);
		return;
	}
	t->post.fn = finish_later;
	img_ioq_post(t->queue->ioq, &t->post);
}

/* ---- Metadata that is missing ---- */

static void retry(struct img_post *post)
{
	struct img_piece *p = IMG_CONTAINER(post, struct img_piece, post);

	if (p->rc) {
		if (!p->err.text)
			img_fail(&p->err, p->rc, "%s: metadata could not be read: %s",
				 p->task->img->name, strerror(-p->rc));
		img_piece_done(p, p->rc);
	} else {
		p->task->look(p);
	}
}

/* What p waits for has come; the engine's lock is held. */
static void wake(struct img_waiter *w, int rc, const struct img_error *err)
{
	struct img_piece *p = IMG_CONTAINER(w, struct img_piece, waiter);

	p->rc = rc;
	if (rc && err && err->text)
		img_fail(&p->err, rc, "%s", err->text);
	p->post.fn = retry;
	img_ioq_post(p->queue->ioq, &p->post);
}

/* The block that p loads is here. */
static void load_done(struct img_io *io)
{
	struct img_piece *p = IMG_CONTAINER(io, struct img_piece, io);
	struct img_engine *e = p->loading_engine;

	if (io->rc)
		img_io_fail(io, &p->err);
	pthread_mutex_lock(&e->lock);
	img_meta_loaded(&p->load, io->rc);
	pthread_mutex_unlock(&e->lock);
	p->rc = io->rc;
	retry(&p->post);
}

bool img_piece_fetch(struct img_piece *p)
{
	struct img_engine *e = p->req.engine;
	struct img_storage *storage;
	struct img_block *block;
	uint64_t file_off;
	bool load;
	int rc = p->req.out_of_memory ? 0 : img_meta_in_file(&p->req, &p->err);

	if (rc) {
		img_piece_done(p, rc);
		return false;
	}
	if (img_meta_fill_hole(&p->req))
		return true;
	pthread_mutex_lock(&e->lock);
	block = p->req.out_of_memory ? NULL
				     : img_meta_request(&p->req, p->queue, &p->load, &load);
	if (block && !load) {
		p->waiter.wake = wake;
		img_meta_wait(block, &p->waiter);
		pthread_mutex_unlock(&e->lock);
		return false;
	}
	pthread_mutex_unlock(&e->lock);
	if (!block) {
		img_piece_done(p, img_fail(&p->err, -ENOMEM, "%s: out of memory for metadata",
					   e->img->name));
		return false;
	}
	storage = img_meta_block_storage(block, &file_off);
	if (img_storage_read_cached(storage, file_off, p->load.buffer, IMG_META_BLOCK)) {
		pthread_mutex_lock(&e->lock);
		img_meta_loaded(&p->load, 0);
		pthread_mutex_unlock(&e->lock);
		return true;
	}
	p->loading_engine = e;
	p->io = (struct img_io){ .storage = storage,
				 .op = IMG_IO_READ,
				 .len = IMG_META_BLOCK,
				 .done = load_done };
	p->io.off = file_off;
	p->io.one = (struct iovec){ p->load.buffer, IMG_META_BLOCK };
	p->io.iov = &p->io.one;
	p->io.iovcnt = 1;
	img_ioq_submit(p->queue->ioq, &p->io);
	return false;
}

/* ---- Keeping out of the way of who changes structures ---- */

/* Who closed an image of the chain may be waiting for the one who has left. */
static void wake_closers(const struct img *img)
{
	for (; img; img = img->parent) {
		struct img_engine *e = img->engine;

		if (!atomic_load(&e->epochs.closed))
			continue;
		pthread_mutex_lock(&e->lock);
		pthread_cond_broadcast(&e->changed);
		pthread_mutex_unlock(&e->lock);
	}
}

bool img_task_enter(struct img_task *t)
{
	if (img_reader_enter(t->readers))
		return true;
	wake_closers(t->img); /* we were inside for a moment */
	return false;
}

void img_task_leave(struct img_task *t)
{
	if (img_reader_leave(t->readers))
		wake_closers(t->img);
}

void img_piece_leave(struct img_piece *p)
{
	if (p->inside)
		img_task_leave(p->task);
	p->inside = false;
}

/* Have p look again once e is open. False: it is. */
static bool wait_until_open(struct img_piece *p, struct img_engine *e)
{
	bool closed;

	pthread_mutex_lock(&e->lock);
	closed = atomic_load(&e->epochs.closed);
	if (closed)
		img_piece_wait(p, &e->waiting);
	pthread_mutex_unlock(&e->lock);
	return closed;
}

bool img_piece_enter(struct img_piece *p)
{
	while (!img_task_enter(p->task)) {
		for (struct img *img = p->task->img; img; img = img->parent)
			if (wait_until_open(p, img->engine))
				return false;
	}
	p->inside = true;
	return true;
}

void img_piece_wait(struct img_piece *p, struct img_list *waiters)
{
	p->waiter.wake = wake;
	img_list_add_tail(waiters, &p->waiter.link);
}
