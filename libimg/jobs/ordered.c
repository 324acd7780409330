/*
 * Workers take pieces and put them out under one lock each; a worker that is done early waits until
 * it is its turn. The first failure is the job's.
 */
#include "libimg/jobs/ordered.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "libimg/base/arith.h"

enum { MAX_WORKERS = 64,
       POLL_INTERVAL_MS = 100 };

/* The first failure is the job's. */
static void fail(struct img_ordered *t, int rc, struct img_error *err)
{
	pthread_mutex_lock(&t->lock);
	if (!t->rc) {
		t->rc = rc;
		img_error_move(&t->err, err);
	}
	pthread_mutex_unlock(&t->lock);
	img_error_clear(err);
	if (t->ops->stop)
		t->ops->stop(t);
}

bool img_ordered_failed(struct img_ordered *t)
{
	bool failed;

	pthread_mutex_lock(&t->lock);
	failed = t->rc;
	pthread_mutex_unlock(&t->lock);
	return failed;
}

void img_ordered_wait(struct img_ordered_worker *w)
{
	struct img_ordered *t = w->job;

	pthread_mutex_lock(&t->lock);
	while (t->turn != w->number)
		pthread_cond_wait(&t->turned, &t->lock);
	pthread_mutex_unlock(&t->lock);
}

static bool fetch(struct img_ordered_worker *w)
{
	struct img_ordered *t = w->job;
	int rc = 0;

	pthread_mutex_lock(&t->input);
	if (!img_ordered_failed(t))
		rc = t->ops->fetch(w);
	if (rc > 0)
		w->number = t->given++;
	if (rc < 0) /* before another worker goes on from where this one failed */
		fail(t, rc, &w->err);
	pthread_mutex_unlock(&t->input);
	return rc > 0;
}

static void run_worker(struct img_work *work)
{
	struct img_ordered_worker *w = IMG_CONTAINER(work, struct img_ordered_worker, work);
	struct img_ordered *t = w->job;

	while (fetch(w)) {
		int rc = t->ops->prepare(w);

		img_ordered_wait(w);
		if (!rc && !img_ordered_failed(t))
			rc = t->ops->put(w);
		if (rc)
			fail(t, rc, &w->err);
		pthread_mutex_lock(&t->lock);
		t->turn++;
		t->done = max_u64(t->done, w->end);
		pthread_cond_broadcast(&t->turned);
		pthread_mutex_unlock(&t->lock);
	}
	pthread_mutex_lock(&t->lock);
	t->workers--;
	pthread_cond_broadcast(&t->turned);
	pthread_mutex_unlock(&t->lock);
}

/* Wait for the workers, telling how far they are. */
static void watch(struct img_ordered *t)
{
	pthread_mutex_lock(&t->lock);
	while (t->workers) {
		uint64_t done = t->done;
		struct timespec until;

		pthread_mutex_unlock(&t->lock);
		if (t->o->progress &&
		    t->o->progress(t->o->user, done, max_u64(t->total, done))) {
			struct img_error e = { 0 };

			img_fail(&e, -ECANCELED, "interrupted");
			fail(t, -ECANCELED, &e);
		}
		pthread_mutex_lock(&t->lock);
		if (!t->workers)
			break;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += POLL_INTERVAL_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		pthread_cond_timedwait(&t->turned, &t->lock, &until);
	}
	pthread_mutex_unlock(&t->lock);
}

static int run(struct img_ordered *t, unsigned n, struct img_error *err)
{
	struct img_ordered_worker *workers[MAX_WORKERS] = { 0 };
	struct img_pool *pool = img_pool_new(n);
	int rc = pool ? 0 : img_fail(err, -ENOMEM, "out of memory for copying");

	for (unsigned i = 0; i < n && !rc; i++)
		rc = t->ops->worker_new(t, &workers[i], err);
	for (unsigned i = 0; i < n && !rc; i++) {
		workers[i]->job = t;
		workers[i]->work.run = run_worker;
	}
	if (!rc) {
		t->workers = n;
		for (unsigned i = 0; i < n; i++)
			img_pool_submit(pool, &workers[i]->work);
		watch(t);
	}
	img_pool_free(pool);
	for (unsigned i = 0; i < n && workers[i]; i++)
		t->ops->worker_free(workers[i]);
	if (t->rc) {
		rc = t->rc;
		img_error_move(err, &t->err);
	}
	return rc;
}

int img_ordered_run(struct img_ordered *t, struct img_error *err)
{
	unsigned n = t->o->parallel ? t->o->parallel : img_cpu_count() + 1;
	int rc;

	pthread_mutex_init(&t->input, NULL);
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->turned, NULL);
	rc = run(t, n < MAX_WORKERS ? n : MAX_WORKERS, err);
	pthread_cond_destroy(&t->turned);
	pthread_mutex_destroy(&t->lock);
	pthread_mutex_destroy(&t->input);
	return rc;
}
