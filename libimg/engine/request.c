/*
 * Requests on queues. Reading and changing are tasks (task.c); a flush waits for a write-out.
 */
#include "libimg/engine/request.h"

#include <errno.h>
#include <stdlib.h>

#include "libimg/base/fork.h"
#include "libimg/base/invariant.h"
#include "libimg/engine/batch.h"
#include "libimg/engine/claims.h"
#include "libimg/engine/lookup.h"
#include "libimg/engine/read.h"
#include "libimg/engine/task.h"
#include "libimg/engine/write.h"

/* ---- Flushing ---- */

struct flush {
	struct img_waiter waiter;
	struct img_post post;
	struct img_queue *queue;
	struct img_epoch_readers *readers;
	int rc;
	struct img_error err;
	void (*done)(void *user, int rc, const struct img_error *err);
	void *user;
};

static void flush_over(struct img_post *post)
{
	struct flush *f = IMG_CONTAINER(post, struct flush, post);

	atomic_fetch_sub(&f->readers->changing, 1);
	f->queue->in_flight--;
	f->queue->completed++;
	f->done(f->user, f->rc, &f->err);
	img_error_clear(&f->err);
	free(f);
}

/* The write-out is durable, or failed; the lock is held, and this is another thread. */
static void flushed(struct img_waiter *w, int rc, const struct img_error *err)
{
	struct flush *f = IMG_CONTAINER(w, struct flush, waiter);

	f->rc = rc;
	if (rc)
		img_fail(&f->err, rc, "%s", img_error_text(err));
	f->post.fn = flush_over;
	img_ioq_post(f->queue->ioq, &f->post);
}

static int submit_flush(struct img_queue *q, struct img *img,
			void (*done)(void *user, int rc, const struct img_error *err), void *user)
{
	struct img_engine *e = img->engine;
	struct img_epoch_readers *readers = img_queue_epochs_of(q, img);
	struct flush *f = readers ? malloc(sizeof(*f)) : NULL;

	if (!f)
		return -ENOMEM;
	*f = (struct flush){ .waiter.wake = flushed,
			     .queue = q,
			     .readers = readers,
			     .done = done,
			     .user = user };
	q->in_flight++;
	atomic_fetch_add(&readers->changing, 1);
	pthread_mutex_lock(&e->lock);
	img_list_add_tail(&e->flushes, &f->waiter.link);
	img_service_kick(e);
	img_engine_unlock(e);
	return 0;
}

/* ---- Changes that are done when they are durable ---- */

/*
 * What a storage makes durable by itself, and no metadata leads to that is not durable, is done then;
 * of all else (task->sync) a flush behind it has to be.
 */
struct durable {
	struct img_task *task; /* until it is done */
	struct img_queue *queue;
	struct img *img;
	void (*done)(void *user, int rc, const struct img_error *err);
	void *user;
};

static void flush_completed(void *user, int rc, const struct img_error *err)
{
	struct durable *d = user;

	d->done(d->user, rc, err);
	free(d);
}

static void written(void *user, int rc, const struct img_error *err)
{
	struct durable *d = user;
	struct img_error e = { 0 };

	if (!rc && d->task->sync) {
		/* The change itself was counted as completed; its flush is what counts. */
		d->queue->completed--;
		rc = submit_flush(d->queue, d->img, flush_completed, d);
		if (!rc)
			return;
		d->queue->completed++;
		img_fail(&e, rc, "%s: out of memory for a flush", d->img->name);
		err = &e;
	}
	flush_completed(d, rc, err);
	img_error_clear(&e);
}

/* ---- Submitting ---- */

/* This thread has the queue from now on. */
static void own(struct img_queue *q)
{
	if (atomic_load_explicit(&q->readers.owner, memory_order_relaxed) != pthread_self())
		atomic_store(&q->readers.owner, pthread_self());
}

int img_request_submit(struct img_queue *q, struct img *img, const struct img_request *r)
{
	const struct img_engine_config *config = &img->engine->config;
	bool changes = r->kind != IMG_REQUEST_READ && r->kind != IMG_REQUEST_LOOKUP;
	bool fua = changes && (r->fua || config->writethrough) && !config->unsafe;
	struct durable *wait = NULL;
	struct img_task *t;

	own(q);
	if (r->kind == IMG_REQUEST_FLUSH)
		return submit_flush(q, img, r->done, r->user);
	t = img_task_new(q, img,
			 changes			 ? img_write_piece
			 : r->kind == IMG_REQUEST_LOOKUP ? img_lookup_piece
							 : img_read_piece,
			 r->off, r->len);
	if (t && fua)
		wait = malloc(sizeof(*wait));
	if (!t || (fua && !wait)) {
		if (t)
			img_list_add_head(&q->free_tasks, &t->free_link);
		return -ENOMEM;
	}
	t->changes = changes;
	t->op = r->kind == IMG_REQUEST_ZERO	 ? IMG_OP_ZERO
		: r->kind == IMG_REQUEST_DISCARD ? IMG_OP_DISCARD
						 : IMG_OP_WRITE;
	t->ordered = r->ordered;
	t->compress = r->compress;
	t->may_unmap = r->may_unmap && img->unmap;
	t->keep_allocated = r->keep_allocated;
	t->fast = r->fast;
	t->fua = fua;
	t->deep = r->deep;
	t->found = r->found;
	t->found_user = r->found_user;
	t->iov = r->iov;
	t->iovcnt = r->iovcnt;
	t->done = r->done;
	t->user = r->user;
	if (fua) {
		*wait = (struct durable){ t, q, img, r->done, r->user };
		t->done = written;
		t->user = wait;
	}
	img_task_start(t);
	return 0;
}

/* ---- Queues ---- */

enum {
	MAX_ROUNDS = 8,
	MAX_BLOCKING = 64, /* queues of one image, each for one call at a time */
};

/* How many queues with callbacks of the program's this thread is running, one inside the other. */
static _Thread_local unsigned callbacks;

bool img_request_in_callback(void)
{
	return callbacks > 0;
}

int img_engine_queue_new(enum img_io_kind kind, struct img_queue **out, struct img_error *err)
{
	struct img_queue *q = calloc(1, sizeof(*q));
	int rc;

	if (!q)
		return img_fail(err, -ENOMEM, "out of memory for a queue");
	img_list_init(&q->free_tasks);
	img_list_init(&q->free_pieces);
	img_list_init(&q->gathered);
	img_list_init(&q->undecoded);
	img_list_init(&q->kept_back);
	img_queue_epochs_init(&q->readers);
	q->process = img_process_number();
	rc = img_ioq_new(kind, &q->ioq, err);
	if (rc) {
		img_queue_epochs_destroy(&q->readers);
		free(q);
		return rc;
	}
	*out = q;
	return 0;
}

bool img_engine_queue_is_ours(const struct img_queue *q)
{
	return q->process == img_process_number();
}

int img_engine_queue_free(struct img_queue *q)
{
	struct img_list *node;

	if (!q)
		return 0;
	if (q->running)
		return -EDEADLK;
	if (q->in_flight)
		return -EBUSY;
	while ((node = img_list_pop(&q->free_tasks))) {
		free(IMG_CONTAINER(node, struct img_task, free_link));
		q->tasks--;
	}
	while ((node = img_list_pop(&q->free_pieces))) {
		free(IMG_CONTAINER(node, struct img_piece, free_link));
		q->pieces--;
	}
	IMG_INVARIANT(!q->tasks && !q->pieces && !q->ngathered && img_list_empty(&q->gathered) &&
		      img_list_empty(&q->kept_back));
	img_unit_cache_clear(&q->units, &q->buffers);
	img_buffers_clear(&q->buffers);
	img_queue_epochs_destroy(&q->readers);
	img_ioq_free(q->ioq);
	free(q);
	return 0;
}

int img_engine_queue_fd(const struct img_queue *q)
{
	return img_ioq_fd(q->ioq);
}

int img_engine_queue_run(struct img_queue *q, bool wait)
{
	if (q->running)
		return -EDEADLK;
	q->running = true;
	callbacks += !q->blocking;
	own(q);
	q->completed = 0;
	for (int round = 0;; round++) {
		/* Who submits from done() all the time must get a word in, with nothing kept back. */
		q->keep_nothing = round >= MAX_ROUNDS;
		img_claims_flush(q);
		img_batch_flush(q); /* what submitting gathered, before this thread may sleep */
		img_ioq_run(q->ioq, wait && q->in_flight && !q->completed);
		img_batch_flush(q);
		if (img_list_empty(&q->kept_back) && !(wait && q->in_flight && !q->completed))
			break;
	}
	q->keep_nothing = false;
	q->running = false;
	callbacks -= !q->blocking;
	return (int)q->completed;
}

size_t img_engine_queue_in_flight(const struct img_queue *q)
{
	return q->in_flight;
}

int img_engine_queue_set_buffers(struct img_queue *q, const struct iovec *iov, unsigned count)
{
	return q->in_flight ? -EBUSY : img_ioq_set_buffers(q->ioq, iov, count);
}

/* ---- Blocking ---- */

struct blocking {
	int rc;
	struct img_error *err;
};

static void blocking_done(void *user, int rc, const struct img_error *err)
{
	struct blocking *b = user;

	b->rc = rc ? img_fail(b->err, rc, "%s", img_error_text(err)) : 0;
}

/* A queue that nobody else uses, until it is given back. */
static int acquire_queue(struct img_engine *e, struct img_queue **out, struct img_error *err)
{
	struct img_list *node;
	int rc = 0;

	pthread_mutex_lock(&e->blocking_lock);
	for (;;) {
		node = img_list_pop(&e->blocking_idle);
		if (node || e->blocking_queues < MAX_BLOCKING)
			break;
		pthread_cond_wait(&e->blocking_freed, &e->blocking_lock);
	}
	e->blocking_queues += !node;
	pthread_mutex_unlock(&e->blocking_lock);
	if (!node) {
		rc = img_engine_queue_new(e->config.io, out, err);
		if (!rc) {
			(*out)->blocking = true;
			return 0;
		}
	}
	if (rc) { /* it is one of the others, then, or no call can be made at all */
		pthread_mutex_lock(&e->blocking_lock);
		e->blocking_queues--;
		while (!(node = img_list_pop(&e->blocking_idle)) && e->blocking_queues)
			pthread_cond_wait(&e->blocking_freed, &e->blocking_lock);
		pthread_mutex_unlock(&e->blocking_lock);
		if (!node)
			return rc;
		img_error_clear(err);
	}
	*out = IMG_CONTAINER(node, struct img_queue, idle_link);
	return 0;
}

static void release_queue(struct img_engine *e, struct img_queue *q)
{
	pthread_mutex_lock(&e->blocking_lock);
	img_list_add_head(&e->blocking_idle, &q->idle_link);
	pthread_cond_signal(&e->blocking_freed);
	pthread_mutex_unlock(&e->blocking_lock);
}

void img_blocking_queues_free(struct img_engine *e)
{
	struct img_list *node;

	while ((node = img_list_pop(&e->blocking_idle)))
		img_engine_queue_free(IMG_CONTAINER(node, struct img_queue, idle_link));
}

int img_request_run(struct img *img, const struct img_request *r, struct img_error *err)
{
	struct img_engine *e = img->engine;
	struct blocking b = { .err = err };
	struct img_request mine = *r;
	struct img_queue *q;
	int rc;

	if (r->kind == IMG_REQUEST_FLUSH)
		return img_writeout(e, true, err);
	mine.done = blocking_done;
	mine.user = &b;
	rc = acquire_queue(e, &q, err);
	if (rc)
		return rc;
	rc = img_request_submit(q, img, &mine);
	if (rc) {
		img_fail(err, rc, "%s: out of memory", img->name);
	} else {
		while (img_engine_queue_in_flight(q))
			img_engine_queue_run(q, true);
		rc = b.rc;
	}
	release_queue(e, q);
	return rc;
}
