/* Workers that take in turn, work at once and put in order: by themselves, with a job that only counts. */
#include <errno.h>
#include <stdatomic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <criterion/criterion.h>

#include "libimg/base/list.h"
#include "libimg/jobs/ordered.h"

enum { PIECES = 300 };

/* Who fails, and at which piece. */
enum step { NONE,
	    NEW,
	    TAKE,
	    PREPARE,
	    PUT };

struct job {
	struct img_ordered ordered;
	struct img_copy_options o;
	enum step fails;
	uint64_t fails_at;
	bool waits; /* prepare() waits for its turn */
	unsigned seed;
	_Atomic unsigned workers, busy, most_busy, taking, stopped, failed;
	uint64_t taken, put;   /* pieces */
	_Atomic uint64_t told; /* the last progress */
	uint64_t cancel_at;    /* progress says so at this many bytes; 0: never */
	unsigned progress_calls;
};

struct worker {
	struct img_ordered_worker base;
	struct job *job;
	uint64_t piece;
	bool prepared;
};

static struct job *job_of(struct img_ordered *t)
{
	return IMG_CONTAINER(t, struct job, ordered);
}

static struct worker *worker_of(struct img_ordered_worker *w)
{
	return IMG_CONTAINER(w, struct worker, base);
}

static int worker_new(struct img_ordered *t, struct img_ordered_worker **out, struct img_error *err)
{
	struct job *j = job_of(t);
	struct worker *w = calloc(1, sizeof(*w));

	cr_assert(w);
	w->job = j;
	*out = &w->base;
	if (atomic_fetch_add(&j->workers, 1) == j->fails_at && j->fails == NEW)
		return img_fail(err, -ENOMEM, "no worker");
	return 0;
}

static void worker_free(struct img_ordered_worker *base)
{
	atomic_fetch_sub(&worker_of(base)->job->workers, 1);
	free(worker_of(base));
}

static int failing(struct worker *w, enum step step)
{
	struct job *j = w->job;

	if (j->fails != step || w->piece != j->fails_at)
		return 0;
	atomic_fetch_add(&j->failed, 1);
	return img_fail(&w->base.err, -EIO, "step %d, piece %d", step, (int)w->piece);
}

static int take(struct img_ordered_worker *base)
{
	struct worker *w = worker_of(base);
	struct job *j = w->job;

	cr_assert_eq(atomic_fetch_add(&j->taking, 1), 0, "one at a time");
	w->piece = j->taken;
	if (failing(w, TAKE)) {
		atomic_fetch_sub(&j->taking, 1);
		return -EIO;
	}
	if (j->taken < PIECES)
		j->taken++;
	else
		w->piece = UINT64_MAX;
	w->base.end = j->taken;
	atomic_fetch_sub(&j->taking, 1);
	return w->piece < UINT64_MAX;
}

static int prepare(struct img_ordered_worker *base)
{
	struct worker *w = worker_of(base);
	struct job *j = w->job;
	unsigned busy = atomic_fetch_add(&j->busy, 1) + 1, most = atomic_load(&j->most_busy);
	struct timespec t = { .tv_nsec = (long)(w->piece * 7919 + j->seed) % 5 * 20000 };

	while (most < busy && !atomic_compare_exchange_weak(&j->most_busy, &most, busy))
		;
	cr_assert_eq(w->base.number, w->piece);
	nanosleep(&t, NULL);
	if (j->waits && !img_ordered_failed(&j->ordered)) {
		img_ordered_wait(base);
		cr_assert(img_ordered_failed(&j->ordered) || j->put == w->piece);
	}
	atomic_fetch_sub(&j->busy, 1);
	w->prepared = true;
	return failing(w, PREPARE);
}

static int put(struct img_ordered_worker *base)
{
	struct worker *w = worker_of(base);
	struct job *j = w->job;

	cr_assert(w->prepared);
	w->prepared = false;
	cr_assert_eq(j->put, w->piece, "in order, one at a time");
	if (failing(w, PUT))
		return -EIO;
	/* Who watches may be slow to come: there is something left to cancel until then. */
	while (j->cancel_at && w->piece >= j->cancel_at && !img_ordered_failed(&j->ordered))
		sched_yield();
	j->put++;
	return 0;
}

static void stop(struct img_ordered *t)
{
	atomic_fetch_add(&job_of(t)->stopped, 1);
}

static const struct img_ordered_ops ops = { worker_new, worker_free, take, prepare, put, stop };

static bool progress(void *user, uint64_t done, uint64_t total)
{
	struct job *j = user;

	cr_assert_leq(done, PIECES);
	cr_assert_geq(done, atomic_load(&j->told), "it only grows");
	cr_assert_eq(total, PIECES);
	atomic_store(&j->told, done);
	j->progress_calls++;
	return j->cancel_at && done >= j->cancel_at;
}

static int run(struct job *j, unsigned parallel, struct img_error *err)
{
	int rc;

	j->o.parallel = parallel;
	j->o.progress = progress;
	j->o.user = j;
	j->ordered.ops = &ops;
	j->ordered.o = &j->o;
	j->ordered.total = PIECES;
	rc = img_ordered_run(&j->ordered, err);
	cr_assert_eq(atomic_load(&j->workers), 0, "all are freed");
	cr_assert_eq(atomic_load(&j->busy), 0);
	return rc;
}

static const unsigned numbers[] = { 1, 2, 3, 8, 63, 64, 65, 1000, 0 };

Test(ordered, any_number_of_workers)
{
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		struct job j = { .seed = (unsigned)i };

		cr_assert_eq(run(&j, numbers[i], NULL), 0);
		cr_assert_eq(j.put, PIECES);
		cr_assert_eq(j.ordered.done, PIECES);
		cr_assert_eq(j.stopped, 0);
		cr_assert_leq(j.most_busy, numbers[i] ? numbers[i] : 1000);
		if (numbers[i] >= 8)
			cr_assert_gt(j.most_busy, 1, "%u: side by side", numbers[i]);
	}
}

Test(ordered, prepare_may_wait_for_its_turn)
{
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		struct job j = { .seed = (unsigned)i, .waits = true };

		cr_assert_eq(run(&j, numbers[i], NULL), 0);
		cr_assert_eq(j.put, PIECES);
	}
}

/* Whoever fails, and wherever: that is the answer, what came before is put and nothing after. */
Test(ordered, failures)
{
	static const enum step steps[] = { TAKE, PREPARE, PUT };
	static const uint64_t places[] = { 0, 1, 7, PIECES / 2, PIECES - 1 };

	for (size_t s = 0; s < 3; s++) {
		for (size_t p = 0; p < 5; p++) {
			for (size_t i = 0; i < 5; i++) {
				struct img_error err = { 0 };
				struct job j = { .fails = steps[s],
						 .fails_at = places[p],
						 .seed = (unsigned)(i + p),
						 .waits = (p + i) % 2 };
				char said[40];

				cr_assert_eq(run(&j, numbers[i], &err), -EIO);
				snprintf(said, sizeof(said), "step %d, piece %d", steps[s], (int)places[p]);
				cr_assert_str_eq(img_error_text(&err), said);
				cr_assert_eq(j.failed, 1);
				cr_assert_eq(j.stopped, 1);
				cr_assert_leq(j.put, places[p]);
				if (steps[s] == PUT)
					cr_assert_eq(j.put, places[p], "all that came before");
				img_error_clear(&err);
			}
		}
	}
}

Test(ordered, a_worker_that_cannot_be_made)
{
	for (uint64_t at = 0; at < 4; at++) {
		struct img_error err = { 0 };
		struct job j = { .fails = NEW, .fails_at = at };

		cr_assert_eq(run(&j, 4, &err), -ENOMEM);
		cr_assert_str_eq(img_error_text(&err), "no worker");
		cr_assert_eq(j.taken, 0);
		img_error_clear(&err);
	}
}

Test(ordered, cancelled_by_progress, .timeout = 60)
{
	for (size_t i = 0; i < 5; i++) {
		struct img_error err = { 0 };
		struct job j = { .cancel_at = i ? 5 : 1, .seed = (unsigned)i };

		cr_assert_eq(run(&j, numbers[i], &err), -ECANCELED);
		cr_assert_str_eq(img_error_text(&err), "interrupted");
		cr_assert_geq(j.stopped, 1);
		cr_assert_geq(j.put, 1);
		img_error_clear(&err);
	}
}

/* A failure is told before a cancellation that comes of it, and stays the answer. */
Test(ordered, the_first_failure_is_the_answer)
{
	struct img_error err = { 0 };
	struct job j = { .fails = PUT, .fails_at = 3, .cancel_at = PIECES + 1 };

	cr_assert_eq(run(&j, 8, &err), -EIO);
	cr_assert_str_eq(img_error_text(&err), "step 4, piece 3");
	img_error_clear(&err);
}
