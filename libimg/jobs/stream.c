/*
 * Copying into a stream. Each worker takes the next chunk, reads it, leaves out units of zeroes and
 * packs the rest; then it waits for its turn and puts the units, so that they come in guest order
 * and the output does not depend on the number of workers. Memory is a few buffers for each worker.
 */
#include "libimg/image/stream.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libimg/base/arith.h"
#include "libimg/base/pool.h"
#include "libimg/jobs/pace.h"
#include "libimg/jobs/salvage.h"
#include "libimg/jobs/zero.h"

enum { CHUNK = 1 << 20,
       MAX_WORKERS = 64,
       LOOK_EVERY_MS = 100 };

struct job {
	struct img *const *sources;
	size_t count;
	const struct img_copy_options *o;
	struct img_sink *sink;
	uint64_t end;	    /* of the sources together */
	size_t unit, chunk; /* chunk: a multiple of unit */

	pthread_mutex_t lock;  /* guards the rest */
	pthread_cond_t turned; /* `turn` moved on, or a worker ended */
	uint64_t next;	       /* the first byte that no worker has taken */
	uint64_t given, turn;  /* chunks taken; the one whose turn to be put it is */
	uint64_t done;	       /* bytes */
	unsigned workers;      /* still running */
	struct img_pace pace;
	int rc;
	struct img_error err;

	struct img_salvage salvage; /* whose turn it is has it, without the lock */
};

struct worker {
	struct img_work work;
	struct job *job;
	struct img_queue *q;
	uint8_t *data, *packed; /* CHUNK; twice that */
	size_t *packed_len;	/* for each unit; 0: zeroes, left out */
	uint64_t off, number;	/* of the chunk at hand */
	size_t len;
	int read_rc;
	struct img_error err;
};

/* The first failure is the job's. Under the lock. */
static void fail(struct job *j, int rc, struct img_error *err)
{
	if (!j->rc) {
		j->rc = rc;
		img_error_move(&j->err, err);
	}
	img_error_clear(err);
}

/* The source that holds off, and where in it that is. */
static struct img *source_at(const struct job *j, uint64_t off, uint64_t *within)
{
	size_t i = 0;

	while (i + 1 < j->count && off >= img_size(j->sources[i]))
		off -= img_size(j->sources[i++]);
	*within = off;
	return j->sources[i];
}

/* Step over whole units that are known to be zeroes. Under the lock. */
static int skip_zeroes(struct job *j, struct img_error *err)
{
	while (!j->sink->wants_all && j->next < j->end) {
		struct img_map_entry x;
		uint64_t within, after;
		struct img *source = source_at(j, j->next, &within);
		int rc = img_map(source, within, img_size(source) - within, true, &x, err);

		if (rc && j->o->salvage && img_salvage_may(rc)) {
			img_error_clear(err); /* reading it will fail as well */
			return 0;
		}
		if (rc)
			return rc;
		if (!x.zero)
			return 0;
		after = j->next + x.length;
		after = after == j->end ? after : align_down_u64(after, j->unit);
		if (after == j->next)
			return 0;
		j->next = after;
	}
	return 0;
}

/* Wait until more may be read. Under the lock, but not all the time. */
static void keep_pace(struct job *j)
{
	while (!j->rc && img_pace_wait(&j->pace)) {
		struct img_pace pace = j->pace;

		pthread_mutex_unlock(&j->lock);
		img_pace_nap(&pace);
		pthread_mutex_lock(&j->lock);
	}
}

/* Take the next chunk. False: there is none, or the job has failed. */
static bool take(struct worker *w)
{
	struct job *j = w->job;
	bool taken = false;
	int rc;

	pthread_mutex_lock(&j->lock);
	keep_pace(j);
	rc = j->rc ? 0 : skip_zeroes(j, &w->err);
	if (rc)
		fail(j, rc, &w->err);
	if (!j->rc && j->next < j->end) {
		w->off = j->next;
		w->len = (size_t)min_u64(j->chunk, j->end - j->next);
		w->number = j->given++;
		j->next += w->len;
		j->pace.moved += w->len;
		taken = true;
	}
	pthread_mutex_unlock(&j->lock);
	return taken;
}

static void read_done(void *user, int rc, const struct img_error *err)
{
	struct worker *w = user;

	if (rc && !w->read_rc)
		w->read_rc = img_fail(&w->err, rc, "%s", img_error_text(err));
}

static int read_chunk(struct worker *w)
{
	size_t at = 0;

	w->read_rc = 0;
	while (at < w->len && !w->read_rc) {
		uint64_t within;
		struct img *source = source_at(w->job, w->off + at, &within);
		size_t n = (size_t)min_u64(w->len - at, img_size(source) - within);
		struct iovec iov = { w->data + at, n };
		int rc = img_submit_readv(w->q, source, within, &iov, 1, 0, read_done, w);

		if (rc)
			return img_fail(&w->err, rc, "%s: a read could not be submitted: %s",
					img_name(source), strerrordesc_np(-rc));
		while (img_queue_in_flight(w->q))
			img_queue_run(w->q, true);
		at += n;
	}
	return w->read_rc;
}

static void wait_turn(struct worker *w)
{
	struct job *j = w->job;

	pthread_mutex_lock(&j->lock);
	while (j->turn != w->number)
		pthread_cond_wait(&j->turned, &j->lock);
	pthread_mutex_unlock(&j->lock);
}

/*
 * Read once more, piece by piece, a chunk that could not be read. In turn: so what is lost is told
 * in order.
 */
static int salvage_chunk(struct worker *w)
{
	struct img_salvage *s = &w->job->salvage;
	int rc = 0;

	img_error_clear(&w->err);
	for (size_t at = 0, n; !rc && at < w->len; at += n) {
		uint64_t within;
		struct img *source = source_at(w->job, w->off + at, &within);

		n = (size_t)min_u64(w->len - at, img_size(source) - within);
		if (source != s->source)
			img_salvage_end(s);
		s->source = source;
		rc = img_salvage_read(s, within, w->data + at, n, &w->err);
	}
	return rc;
}

/* Pack each unit that is wanted. */
static int pack_chunk(struct worker *w)
{
	const struct img_sink *s = w->job->sink;
	size_t unit = w->job->unit;

	for (size_t i = 0; i * unit < w->len; i++) {
		uint8_t *data = w->data + i * unit;
		size_t len = min_size(unit, w->len - i * unit);
		int rc;

		w->packed_len[i] = 0;
		if (!s->wants_all && img_is_zero(data, len))
			continue;
		w->packed_len[i] = len;
		if (!s->codec)
			continue;
		if (s->pad_last && len < unit) {
			memset(data + len, 0, unit - len);
			len = unit;
		}
		rc = s->codec->encode(data, len, s->level, w->packed + 2 * i * unit, 2 * unit,
				      &w->packed_len[i], &w->err);
		if (rc)
			return rc;
	}
	return 0;
}

/* In turn. */
static int put_chunk(struct worker *w)
{
	struct img_sink *s = w->job->sink;
	size_t unit = w->job->unit;
	int rc = 0;

	for (size_t i = 0; !rc && i * unit < w->len; i++) {
		if (w->packed_len[i])
			rc = s->put(s, w->off + i * unit,
				    s->codec ? w->packed + 2 * i * unit : w->data + i * unit,
				    w->packed_len[i], &w->err);
	}
	return rc;
}

static void run_worker(struct img_work *work)
{
	struct worker *w = IMG_CONTAINER(work, struct worker, work);
	struct job *j = w->job;

	while (take(w)) {
		int rc = read_chunk(w);

		if (rc && j->o->salvage && img_salvage_may(rc)) {
			wait_turn(w);
			rc = salvage_chunk(w);
		}
		if (!rc)
			rc = pack_chunk(w);
		wait_turn(w);
		pthread_mutex_lock(&j->lock);
		if (rc)
			fail(j, rc, &w->err);
		rc = j->rc;
		pthread_mutex_unlock(&j->lock);
		if (!rc)
			rc = put_chunk(w);
		pthread_mutex_lock(&j->lock);
		if (rc)
			fail(j, rc, &w->err);
		j->turn++;
		j->done = w->off + w->len;
		pthread_cond_broadcast(&j->turned);
		pthread_mutex_unlock(&j->lock);
	}
	pthread_mutex_lock(&j->lock);
	j->workers--;
	pthread_cond_broadcast(&j->turned);
	pthread_mutex_unlock(&j->lock);
}

static int worker_init(struct worker *w, struct job *j, struct img_error *err)
{
	size_t units = j->chunk / j->unit;

	w->job = j;
	w->work.run = run_worker;
	w->data = aligned_alloc(4096, j->chunk);
	w->packed = j->sink->codec ? malloc(2 * j->chunk) : NULL;
	w->packed_len = calloc(units, sizeof(*w->packed_len));
	if (!w->data || !w->packed_len || (j->sink->codec && !w->packed))
		return img_fail(err, -ENOMEM, "out of memory for copying");
	return img_queue_new(j->o->io, &w->q, err);
}

static void worker_end(struct worker *w)
{
	img_queue_free(w->q);
	free(w->data);
	free(w->packed);
	free(w->packed_len);
}

/* Wait for the workers, telling how far they are. */
static void watch(struct job *j, const struct img_copy_options *o)
{
	pthread_mutex_lock(&j->lock);
	while (j->workers) {
		struct timespec t;
		uint64_t done = j->done;

		if (o->progress) {
			pthread_mutex_unlock(&j->lock);
			if (o->progress(o->user, done, j->end)) {
				struct img_error e = { 0 };

				img_fail(&e, -ECANCELED, "interrupted");
				pthread_mutex_lock(&j->lock);
				fail(j, -ECANCELED, &e);
				pthread_mutex_unlock(&j->lock);
			}
			pthread_mutex_lock(&j->lock);
			if (!j->workers)
				break;
		}
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += LOOK_EVERY_MS * 1000000L;
		t.tv_sec += t.tv_nsec / 1000000000L;
		t.tv_nsec %= 1000000000L;
		pthread_cond_timedwait(&j->turned, &j->lock, &t);
	}
	pthread_mutex_unlock(&j->lock);
}

static int run(struct job *j, const struct img_copy_options *o, struct img_error *err)
{
	unsigned n = o->parallel ? o->parallel : img_cpu_count() + 1, ready = 0;
	struct worker *workers;
	struct img_pool *pool;
	int rc = 0;

	n = n > MAX_WORKERS ? MAX_WORKERS : n;
	workers = calloc(n, sizeof(*workers));
	pool = img_pool_new(n);
	if (!workers || !pool)
		rc = img_fail(err, -ENOMEM, "out of memory for copying");
	while (!rc && ready < n)
		rc = worker_init(&workers[ready++], j, err);
	if (!rc) {
		j->workers = n;
		for (unsigned i = 0; i < n; i++)
			img_pool_submit(pool, &workers[i].work);
		watch(j, o);
		rc = j->rc;
		img_error_move(err, &j->err);
	}
	img_pool_free(pool);
	for (unsigned i = 0; i < ready; i++)
		worker_end(&workers[i]);
	free(workers);
	return rc;
}

int img_copy_stream(struct img *const *sources, size_t count, const char *path, int fd,
		    const struct img_create_options *create, const struct img_copy_options *options,
		    struct img_error *err)
{
	static const struct img_copy_options defaults;
	const struct img_copy_options *o = options ? options : &defaults;
	struct job j = { .sources = sources, .count = count, .o = o };
	struct img_stream *s;
	int rc;

	for (size_t i = 0; i < count; i++)
		if (!add_u64(j.end, img_size(sources[i]), &j.end))
			return img_fail(err, -EFBIG, "the sources are too large together");
	rc = img_stream_begin(path, fd, create, &s, err);
	if (rc)
		return rc;
	j.sink = img_stream_sink(s);
	j.unit = (size_t)j.sink->unit_bytes;
	j.chunk = (size_t)max_u64(CHUNK, j.unit);
	if (img_stream_size(s) < j.end)
		rc = img_fail(err, -ENOSPC, "the sources do not fit in the new image");
	if (!rc)
		rc = img_sink_settle_zeroes(j.sink, o, err);
	pthread_mutex_init(&j.lock, NULL);
	pthread_cond_init(&j.turned, NULL);
	img_pace_begin(&j.pace, o->rate);
	j.salvage.unreadable = o->unreadable;
	j.salvage.user = o->user;
	if (!rc)
		rc = run(&j, o, err);
	img_salvage_end(&j.salvage);
	if (!rc)
		rc = img_stream_publish(s, err);
	if (!rc && o->progress)
		o->progress(o->user, j.end, j.end);
	pthread_cond_destroy(&j.turned);
	pthread_mutex_destroy(&j.lock);
	img_stream_free(s);
	return rc;
}
