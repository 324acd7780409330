/*
 * Inside every I/O queue: what io_uring and worker threads have in common. Requests that storages completed
 * themselves, requests that a worker thread finished, and posts are kept in lists and run by the
 * owner in img_ioq_run(); an eventfd wakes it, and whoever polls for it.
 */
#include "libimg/storage/ioq.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/storage/ioq_attach.h"
#include "libimg/storage/ioq_private.h"
#include "libimg/storage/storage_extent.h"

/* How often one img_ioq_run() looks again for what its callbacks have brought about. */
enum {
	MAX_PASSES = 16,
};

/* What is left of io. */
static int blocking_io(struct img_storage *s, const struct img_io *io)
{
	uint64_t off = io->off + io->transferred, len = io->len - io->transferred;

	return io->op == IMG_IO_EXTENTS
		       ? img_storage_extents(s, off, len, io->extents)
		       : s->ops->io(s, io->op, io->iov, io->iovcnt, off, len, io->flags);
}

/* Blocking requests of a list, one after another, until there is none. */
static void run_worker(struct img_work *work)
{
	struct img_ioq_worker *w = IMG_CONTAINER(work, struct img_ioq_worker, work);
	struct img_ioq *q = w->q;
	struct img_list *from = w == &q->ordered_worker ? &q->ordered : &q->waiting, *node;

	pthread_mutex_lock(&q->lock);
	while ((node = img_list_pop(from))) {
		struct img_io *io = IMG_CONTAINER(node, struct img_io, link);
		struct img_storage *s = io->storage;

		pthread_mutex_unlock(&q->lock);
		io->rc = blocking_io(s, io);
		pthread_mutex_lock(&q->lock);
		img_list_add_tail(&q->finished, &io->link);
		img_ioq_signal_locked(q);
	}
	w->busy = false;
	pthread_mutex_unlock(&q->lock);
}

void img_ioq_offload(struct img_ioq *q, struct img_io *io)
{
	struct img_ioq_worker *idle = NULL;

	pthread_mutex_lock(&q->lock);
	img_list_add_tail(&q->waiting, &io->link);
	for (size_t i = 0; i < IMG_ARRAY_LEN(q->workers) && !idle; i++) {
		if (!q->workers[i].busy)
			idle = &q->workers[i];
	}
	if (idle)
		idle->busy = true;
	pthread_mutex_unlock(&q->lock);
	/* if all are busy, the first to finish what it does takes this up */
	if (idle)
		img_pool_submit(q->pool, &idle->work);
}

void img_ioq_offload_ordered(struct img_ioq *q, struct img_io *io)
{
	bool idle;

	pthread_mutex_lock(&q->lock);
	img_list_add_tail(&q->ordered, &io->link);
	idle = !q->ordered_worker.busy;
	q->ordered_worker.busy = true;
	pthread_mutex_unlock(&q->lock);
	if (idle)
		img_pool_submit(q->pool, &q->ordered_worker.work);
}

int img_ioq_init(struct img_ioq *q, enum img_io_kind kind, const struct img_ioq_kernel *kernel)
{
	q->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->event_fd < 0)
		return -errno;
	q->pool = img_pool_new(IMG_IOQ_WORKERS + 1);
	if (!q->pool) {
		close(q->event_fd);
		return -ENOMEM;
	}
	q->kernel = kernel;
	q->kind = kind;
	img_watches_init(&q->watches);
	pthread_mutex_init(&q->lock, NULL);
	img_list_init(&q->completed);
	img_list_init(&q->posts);
	img_list_init(&q->waiting);
	img_list_init(&q->ordered);
	img_list_init(&q->finished);
	q->ordered_worker.q = q;
	q->ordered_worker.work.run = run_worker;
	for (size_t i = 0; i < IMG_ARRAY_LEN(q->workers); i++) {
		q->workers[i].q = q;
		q->workers[i].work.run = run_worker;
	}
	return 0;
}

void img_ioq_destroy(struct img_ioq *q)
{
	img_pool_free(q->pool); /* a worker may still be on its way out */
	img_watches_destroy(&q->watches);
	pthread_mutex_destroy(&q->lock);
	close(q->event_fd);
}

void img_ioq_free(struct img_ioq *q)
{
	if (!q)
		return;
	img_ioq_detach_storages(q);
	q->kernel->free(q);
}

void img_ioq_complete(struct img_ioq *q, struct img_io *io)
{
	/* inside img_ioq_run() the next pass sees it; outside, somebody may be about to poll */
	if (!q->running && img_list_empty(&q->completed))
		img_ioq_signal(q);
	img_list_add_tail(&q->completed, &io->link);
}

void img_ioq_finish(struct img_ioq *q, struct img_io *io)
{
	pthread_mutex_lock(&q->lock);
	img_list_add_tail(&q->finished, &io->link);
	img_ioq_signal_locked(q);
	pthread_mutex_unlock(&q->lock);
}

void img_ioq_end(struct img_io *io)
{
	if (io->op == IMG_IO_SYNC)
		io->rc = img_storage_sync_end(io->storage, io->rc);
	io->done(io);
}

void img_ioq_post(struct img_ioq *q, struct img_post *post)
{
	pthread_mutex_lock(&q->lock);
	img_list_add_tail(&q->posts, &post->link);
	img_ioq_signal_locked(q);
	pthread_mutex_unlock(&q->lock);
}

static int run_done(struct img_list *requests)
{
	struct img_list *node;
	int ran = 0;

	while ((node = img_list_pop(requests))) {
		struct img_io *io = IMG_CONTAINER(node, struct img_io, link);

		img_ioq_end(io);
		ran++;
	}
	return ran;
}

/* Run what is ready now; what the callbacks add is for the next pass. */
static int run_ready(struct img_ioq *q)
{
	struct img_list requests, posts, *node;
	int ran;

	img_list_init(&requests);
	img_list_init(&posts);
	img_list_splice(&requests, &q->completed);
	pthread_mutex_lock(&q->lock);
	q->awake = true;
	img_ioq_clear_signal_locked(q);
	img_list_splice(&requests, &q->finished);
	img_list_splice(&posts, &q->posts);
	pthread_mutex_unlock(&q->lock);

	ran = run_done(&requests);
	while ((node = img_list_pop(&posts))) {
		struct img_post *post = IMG_CONTAINER(node, struct img_post, link);

		post->fn(post);
		ran++;
	}
	return ran;
}

/* What comes from now on signals. Is there something already? */
static bool fall_asleep(struct img_ioq *q)
{
	bool ready;

	pthread_mutex_lock(&q->lock);
	q->awake = false;
	ready = !img_list_empty(&q->completed) || !img_list_empty(&q->finished) ||
		!img_list_empty(&q->posts);
	pthread_mutex_unlock(&q->lock);
	return ready;
}

int img_ioq_run(struct img_ioq *q, bool wait)
{
	int total = 0;

	q->running = true;
	for (int pass = 0; pass < MAX_PASSES || (wait && !total); pass++) {
		int ran = run_ready(q);
		int completed;

		total += ran;
		completed = q->kernel->harvest(q, wait && !total && !fall_asleep(q));
		if (!ran && !completed && (total || !wait))
			break;
	}
	q->running = false;
	/* enough for now, but whoever polls must hear of what is left */
	if (fall_asleep(q))
		img_ioq_signal(q);
	return total;
}

int img_ioq_fd(struct img_ioq *q)
{
	return q->kernel->fd(q);
}

int img_ioq_set_buffers(struct img_ioq *q, const struct iovec *iov, unsigned count)
{
	return q->kernel->set_buffers ? q->kernel->set_buffers(q, iov, count) : 0;
}

enum img_io_kind img_ioq_kind(const struct img_ioq *q)
{
	return q->kind;
}
