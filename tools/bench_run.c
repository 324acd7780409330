/*
 * Requests sent to an image as fast as it answers.
 *
 * A worker owns a queue and keeps it filled: it waits until something completed, reads the clock
 * once, and sends as many new requests as came back. Everything a request needs lies in a slot
 * that was created beforehand; between two waits nothing is allocated, and no other worker's memory is
 * touched. What is measured of a request is the time from its submission to the return of the wait
 * that brought its answer.
 */
#include "tools/bench_run.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/signals.h"

enum {
	/* Flushes in flight without a drain; with more to come the queue waits for one of them. */
	FLUSHES = 16,
};

/* What the workers have in common. */
struct run {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned ready; /* workers that have a queue, or failed */
	enum {
		GATE_CLOSED,
		GATE_OPEN,
	} gate;
	atomic_bool stop; /* one failed: the others send no more */
};

struct slot {
	struct worker *worker;
	void *buffer; /* NULL: for a flush */
	struct iovec iov;
	uint64_t started; /* nanoseconds */
	enum bench_kind kind;
};

/* Slots that wait to be used, or whose answers came. */
struct pile {
	struct slot **slots; /* borrowed */
	size_t count;
};

struct worker {
	struct run *run;
	struct img *img;
	struct img_queue *queue;
	const struct bench_plan *plan;
	pthread_t thread;
	struct slot *slots; /* the first requests, then FLUSHES more */
	struct slot **places;
	uint8_t *buffers;
	size_t buffers_len;
	size_t requests; /* slots that are not for flushes */

	struct pile idle, idle_flushes, answered;
	size_t in_flight;
	uint64_t left;		   /* requests yet to be sent */
	uint64_t next, step, span; /* sequential: the next offset; all less than span, but the first */
	uint64_t random, blocks;   /* random: the generator's state; multiples of bytes on the disk */
	uint64_t until_flush;	   /* requests; 0: no flushes */
	bool holding;		   /* nothing may be sent before a flush that is due */
	bool clocked;		   /* the time is wanted after each wait */
	uint64_t now, begin, end;  /* nanoseconds */
	uint64_t done[BENCH_KINDS];
	struct histogram latency[BENCH_KINDS];
	bool failed;
	char *why; /* a sentence; NULL: out of memory */
};

static const char FAILED_REQUEST[] = "Failed request";

static uint64_t clock_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- Failing ---- */

/* Only the first sentence is kept. Nothing more is sent, by nobody. */
static void fail(struct worker *w, const char *what, const char *sentence)
{
	w->left = 0;
	w->holding = false;
	if (w->failed)
		return;
	w->failed = true;
	if (asprintf(&w->why, "%s: %s", what, sentence) < 0)
		w->why = NULL;
	atomic_store_explicit(&w->run->stop, true, memory_order_relaxed);
}

/* The image did not even take it. */
static void fail_to_submit(struct worker *w, uint64_t off, int rc)
{
	char sentence[256];

	if (rc == -EPERM)
		snprintf(sentence, sizeof(sentence),
			 "the format of the image was only guessed, and this write at %" PRIu64
			 " would make it look like another; say its format",
			 off);
	else
		snprintf(sentence, sizeof(sentence), "%" PRIu64 " bytes at %" PRIu64 ": %s",
			 w->plan->bytes, off, strerror(-rc));
	fail(w, FAILED_REQUEST, sentence);
}

/* ---- Sending ---- */

/* The next of a well-mixed sequence that only the seed decides (a Weyl sequence, hashed). */
static uint64_t draw(struct worker *w)
{
	uint64_t x = w->random += 0x9e3779b97f4a7c15;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

static uint64_t next_offset(struct worker *w)
{
	uint64_t off = w->next;

	if (w->blocks)
		return w->plan->offset + draw(w) % w->blocks * w->plan->bytes;
	w->next += w->step;
	if (w->next >= w->span)
		w->next -= w->span;
	return off;
}

static enum bench_kind next_kind(struct worker *w)
{
	unsigned percent = w->plan->read_percent;

	if (percent == 100)
		return BENCH_READ;
	return percent && draw(w) % 100 < percent ? BENCH_READ : BENCH_WRITE;
}

static void answer(void *user, int rc, const struct img_error *err)
{
	struct slot *slot = user;
	struct worker *w = slot->worker;

	if (rc)
		fail(w, FAILED_REQUEST, img_error_text(err));
	w->answered.slots[w->answered.count++] = slot;
}

static void send_request(struct worker *w)
{
	struct slot *slot = w->idle.slots[--w->idle.count];
	uint64_t off = next_offset(w);
	int rc;

	slot->kind = next_kind(w);
	slot->iov = (struct iovec){ slot->buffer, w->plan->bytes };
	slot->started = w->now;
	w->in_flight++;
	if (slot->kind == BENCH_READ)
		rc = img_submit_readv(w->queue, w->img, off, &slot->iov, 1, 0, answer, slot, NULL);
	else
		rc = img_submit_writev(w->queue, w->img, off, &slot->iov, 1, 0, answer, slot, NULL);
	if (rc) {
		w->in_flight--;
		w->idle.count++;
		fail_to_submit(w, off, rc);
		return;
	}
	w->left--;
	if (w->until_flush && !--w->until_flush) {
		w->until_flush = w->plan->flush_interval;
		w->holding = true;
	}
}

/* A flush is due. False: it has to wait, or is on its way and everything else waits for it. */
static bool send_flush(struct worker *w)
{
	struct slot *slot;
	int rc;

	if (!w->idle_flushes.count || (w->plan->drain && w->in_flight))
		return false;
	slot = w->idle_flushes.slots[--w->idle_flushes.count];
	slot->started = w->now;
	w->in_flight++;
	rc = img_submit_flush(w->queue, w->img, answer, slot, NULL);
	if (rc) {
		w->in_flight--;
		w->idle_flushes.count++;
		fail_to_submit(w, 0, rc);
		return false;
	}
	w->holding = w->plan->drain;
	return !w->holding;
}

static void send_all(struct worker *w)
{
	do {
		while (w->left && w->idle.count && !w->holding)
			send_request(w);
	} while (w->holding && send_flush(w));
}

/* What came back may be used again. */
static void complete_requests(struct worker *w)
{
	size_t i;

	if (w->clocked)
		w->now = clock_now();
	for (i = 0; i < w->answered.count; i++) {
		struct slot *slot = w->answered.slots[i];
		struct pile *to = slot->kind == BENCH_FLUSH ? &w->idle_flushes : &w->idle;

		if (w->plan->timed)
			histogram_add(&w->latency[slot->kind], w->now - slot->started);
		if (slot->kind == BENCH_FLUSH && w->plan->drain)
			w->holding = false;
		w->done[slot->kind]++;
		to->slots[to->count++] = slot;
	}
	w->in_flight -= w->answered.count;
	w->answered.count = 0;
}

static void work(struct worker *w)
{
	uint64_t deadline;

	w->begin = w->now = clock_now();
	deadline = w->begin + (uint64_t)w->plan->seconds * 1000000000;
	for (;;) {
		send_all(w);
		if (!w->in_flight)
			break;
		img_queue_run(w->queue, true);
		complete_requests(w);
		if (w->plan->seconds && w->now >= deadline)
			w->left = 0;
		if (signals_stop() || atomic_load_explicit(&w->run->stop, memory_order_relaxed)) {
			w->left = 0;
			w->holding = false;
		}
	}
	w->end = clock_now();
}

/* ---- Preparing ---- */

static void worker_free(struct worker *w)
{
	if (!w)
		return;
	free(w->buffers);
	free(w->places);
	free(w->slots);
	free(w->why);
	free(w);
}

/* Where worker number index begins, and how it goes on. */
static void aim(struct worker *w, unsigned index)
{
	const struct bench_plan *plan = w->plan;
	uint64_t size = img_size(w->img);

	w->random = plan->seed;
	w->random += index * UINT64_C(0xd1b54a32d192ed03);
	if (plan->random) {
		w->blocks = (size - plan->offset) / plan->bytes;
		return;
	}
	w->next = plan->offset;
	w->span = size - plan->bytes;
	if (!w->span) { /* one request covers the disk */
		w->span = 1;
		return;
	}
	if (index)
		w->next = (plan->offset + plan->step * index % w->span) % w->span;
	w->step = plan->step * plan->queues % w->span;
}

/* Each buffer begins at a page, as O_DIRECT and the kernel's page lists like it. */
static bool make_slots(struct worker *w)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), total = w->requests + FLUSHES, bytes, i;
	void *buffers;

	if (__builtin_add_overflow(w->plan->bytes, page - 1, &bytes))
		return false;
	bytes -= bytes % page;
	w->slots = calloc(total, sizeof(*w->slots));
	w->places = calloc(2 * total, sizeof(struct slot *));
	if (!w->slots || !w->places || __builtin_mul_overflow(bytes, w->requests, &total) ||
	    posix_memalign(&buffers, page, total ? total : page))
		return false;
	memset(buffers, w->plan->pattern, total); /* also: no page is missing later */
	w->buffers = buffers;
	w->buffers_len = total;
	w->idle.slots = w->places;
	w->idle_flushes.slots = w->places + w->requests;
	w->answered.slots = w->places + w->requests + FLUSHES;
	for (i = 0; i < w->requests + FLUSHES; i++) {
		bool flush = i >= w->requests;
		struct pile *to = flush ? &w->idle_flushes : &w->idle;

		w->slots[i].worker = w;
		w->slots[i].buffer = flush ? NULL : w->buffers + i * bytes;
		w->slots[i].kind = BENCH_FLUSH;
		to->slots[to->count++] = &w->slots[i];
	}
	return true;
}

/* NULL: out of memory. */
static struct worker *worker_new(struct run *run, const struct bench_plan *plan, struct img *img,
				 unsigned index)
{
	struct worker *w = calloc(1, sizeof(*w));
	uint64_t interval = plan->flush_interval;

	if (!w)
		return NULL;
	w->run = run;
	w->plan = plan;
	w->img = img;
	w->left = plan->count;
	if (plan->count != UINT64_MAX)
		w->left = plan->count / plan->queues + (index < plan->count % plan->queues);
	w->requests = w->left < plan->depth ? (size_t)w->left : plan->depth;
	/* The last flush comes with the last request, the first not before the queue was full once. */
	w->until_flush = interval;
	if (interval && plan->count != UINT64_MAX)
		w->until_flush = w->left % interval;
	if (w->until_flush < w->requests && interval)
		w->until_flush += interval;
	w->clocked = plan->timed || plan->seconds;
	aim(w, index);
	if (!make_slots(w)) {
		worker_free(w);
		return NULL;
	}
	return w;
}

/* ---- All at once ---- */

/* A queue is created by the thread that uses it. */
static void make_queue(struct worker *w)
{
	struct iovec all = { w->buffers, w->buffers_len };
	struct img_error *err = img_error_new();

	if (img_queue_new(w->plan->io, &w->queue, err))
		fail(w, "Could not make a queue", img_error_text(err));
	else if (w->plan->registered && img_queue_set_buffers(w->queue, &all, 1, err))
		fail(w, "Could not register the buffers", img_error_text(err));
	img_error_free(err);
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;
	struct run *run = w->run;

	make_queue(w);
	pthread_mutex_lock(&run->lock);
	run->ready++;
	pthread_cond_broadcast(&run->changed);
	while (run->gate == GATE_CLOSED)
		pthread_cond_wait(&run->changed, &run->lock);
	pthread_mutex_unlock(&run->lock);
	if (!atomic_load(&run->stop))
		work(w);
	img_queue_free(w->queue);
	w->queue = NULL;
	return NULL;
}

/* Worker 0 works on this thread; the others, on threads of their own, begin together with it. */
static void run_all(struct run *run, struct worker **workers, unsigned count)
{
	unsigned started = 1, i;

	while (started < count &&
	       !pthread_create(&workers[started]->thread, NULL, worker_thread, workers[started]))
		started++;
	make_queue(workers[0]);
	if (started < count)
		fail(workers[0], "Could not start the queues", "no more threads can be had");
	pthread_mutex_lock(&run->lock);
	while (run->ready < started - 1)
		pthread_cond_wait(&run->changed, &run->lock);
	run->gate = GATE_OPEN;
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
	if (!atomic_load(&run->stop))
		work(workers[0]);
	img_queue_free(workers[0]->queue);
	for (i = 1; i < started; i++)
		pthread_join(workers[i]->thread, NULL);
}

static void add_up(struct worker *const *workers, unsigned count, struct bench_result *out)
{
	uint64_t begin = UINT64_MAX, end = 0;
	unsigned i, kind;

	for (i = 0; i < count; i++) {
		begin = workers[i]->begin < begin ? workers[i]->begin : begin;
		end = workers[i]->end > end ? workers[i]->end : end;
		for (kind = 0; kind < BENCH_KINDS; kind++) {
			out->requests[kind] += workers[i]->done[kind];
			histogram_merge(&out->latency[kind], &workers[i]->latency[kind]);
		}
	}
	out->seconds = end > begin ? (double)(end - begin) / 1e9 : 0;
	out->interrupted = signals_stop();
}

bool bench_execute(const struct bench_plan *plan, struct img *img, struct bench_result *out,
		   char **why)
{
	struct run run = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };
	struct worker **workers = calloc(plan->queues, sizeof(struct worker *));
	unsigned created = 0, i;
	bool ok = false;

	*why = NULL;
	for (; workers && created < plan->queues; created++) {
		workers[created] = worker_new(&run, plan, img, created);
		if (!workers[created])
			break;
	}
	if (created < plan->queues) {
		if (asprintf(why, "There is no memory for %u requests of %" PRIu64 " bytes at once",
			     plan->depth, plan->bytes) < 0)
			*why = NULL;
		goto out;
	}
	run_all(&run, workers, created);
	for (i = 0; i < created && !workers[i]->failed; i++)
		;
	ok = i == created;
	if (ok) {
		add_up(workers, created, out);
	} else {
		*why = workers[i]->why;
		workers[i]->why = NULL;
	}
out:
	for (i = 0; i < created; i++)
		worker_free(workers[i]);
	free(workers);
	pthread_cond_destroy(&run.changed);
	pthread_mutex_destroy(&run.lock);
	return ok;
}
