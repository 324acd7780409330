/*
 * Copying from a pipe. Each worker takes the units of the next window of the disk from the input, one
 * worker at a time; unpacks them, all workers at once; then waits for its turn and puts them out, so
 * that the output does not depend on the number of workers: into a sink, whose windows must ascend,
 * or into an image, where they may come in any order. Memory is a few buffers for each worker.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libimg/base/arith.h"
#include "libimg/base/pool.h"
#include "libimg/image/input.h"
#include "libimg/image/stream.h"
#include "libimg/jobs/pace.h"
#include "libimg/jobs/seen.h"
#include "libimg/jobs/zero.h"

enum {
	WINDOW = 1 << 20,
	MAX_WORKERS = 64,
	LOOK_EVERY_MS = 100,
	DEFAULT_SPARSE = 4096,
	MAX_HOLE = 64 << 10,
};

struct job {
	struct img_input *in;
	struct img_source *source;
	const struct img_copy_options *o;
	struct img *target;    /* NULL: to the sink */
	struct img_sink *sink; /* NULL: to the target */
	size_t unit, window;   /* of the source; a multiple of every unit there is */
	size_t grain;	       /* target: the shortest run of zeroes to leave out */

	pthread_mutex_t input; /* guards what comes from the input; taken before `lock` */
	struct img_seen seen;  /* unless the source is plain */
	struct img_source_unit ahead;
	bool have_ahead, ended;
	uint64_t next;	/* sink: the window that follows; target: behind all so far */
	uint64_t given; /* windows */
	uint64_t end;	/* of the last byte that came */
	struct img_pace pace;

	pthread_mutex_t lock;  /* guards the rest */
	pthread_cond_t turned; /* `turn` moved on, or a worker ended */
	uint64_t turn, done;   /* the window whose turn to be put out it is; bytes */
	unsigned workers;      /* still running */
	int rc;
	struct img_error err;
};

struct piece {
	struct img_source_unit unit;
	size_t at; /* its stored bytes in `stored` */
};

struct worker {
	struct img_work work;
	struct job *job;
	struct img_queue *q;
	uint8_t *data;	      /* the window */
	uint8_t *stored;      /* units as they came, one behind the other */
	struct piece *pieces; /* one for each unit of the window */
	bool *came;	      /* the same */
	uint8_t *packed;      /* sink with a codec: twice the window */
	size_t *packed_len;   /* for each unit of the sink */
	struct iovec *iov;    /* target: one for each write */
	size_t count, writes;
	uint64_t off, number; /* of the window */
	size_t len;	      /* of it, up to the last byte that came; sink: up to the disk's end */
	bool first;	      /* no window at or behind this one came before */
	int rc;
	struct img_error err;
};

/* The first failure is the job's; reading need not go on. Under the lock. */
static void fail(struct job *j, int rc, struct img_error *err)
{
	if (!j->rc) {
		j->rc = rc;
		img_error_move(&j->err, err);
	}
	img_error_clear(err);
	img_input_stop(j->in);
}

static bool has_failed(struct job *j)
{
	bool failed;

	pthread_mutex_lock(&j->lock);
	failed = j->rc;
	pthread_mutex_unlock(&j->lock);
	return failed;
}

/* ---- Taking from the input; under its lock ---- */

/* See what comes next: `ahead`, or `ended`. */
static int look_ahead(struct job *j, struct img_error *err)
{
	int rc;

	if (j->have_ahead || j->ended)
		return 0;
	rc = j->source->next(j->source, &j->ahead, err);
	if (rc)
		return rc;
	j->have_ahead = j->ahead.stored_bytes;
	j->ended = !j->have_ahead;
	return 0;
}

static int note_unit(struct job *j, uint64_t off, struct img_error *err)
{
	int rc = j->source->plain ? 0 : img_seen_add(&j->seen, off / j->unit);

	if (rc == 1)
		return img_fail(err, -EUCLEAN,
				"%s: found the data of guest offset %llu twice, allowed once",
				img_input_name(j->in), (unsigned long long)off);
	if (rc == -E2BIG)
		return img_fail(err, rc,
				"%s: found data in too many places far from each other to keep them "
				"in mind: save it to a file first",
				img_input_name(j->in));
	return rc ? img_fail(err, rc, "out of memory for copying") : 0;
}

/* The units that lie in the worker's window, as long as they come. */
static int collect(struct worker *w)
{
	struct job *j = w->job;
	size_t at = 0;
	int rc;

	while (!(rc = look_ahead(j, &w->err)) && j->have_ahead && j->ahead.off >= w->off &&
	       j->ahead.off - w->off < j->window) {
		struct piece *p = &w->pieces[w->count];
		size_t within = (size_t)(j->ahead.off - w->off);

		rc = note_unit(j, j->ahead.off, &w->err);
		if (!rc)
			rc = j->source->load(j->source, w->stored + at, &w->err);
		if (rc)
			break;
		*p = (struct piece){ j->ahead, at };
		w->came[within / j->unit] = true;
		w->count++;
		w->len = (size_t)max_u64(w->len, within + j->ahead.bytes);
		at += j->ahead.stored_bytes;
		j->have_ahead = false;
	}
	j->end = max_u64(j->end, w->off + w->len);
	return rc;
}

/* Where the next window is. False: there is none. */
static bool place_window(struct worker *w, int *rc)
{
	struct job *j = w->job;
	bool all = j->sink && j->sink->wants_all;

	*rc = look_ahead(j, &w->err);
	if (*rc || (j->ended && (!all || j->next >= j->source->size)))
		return false;
	w->off = all ? j->next : align_down_u64(j->ahead.off, j->window);
	w->first = !j->have_ahead || j->ahead.off >= j->next;
	if (j->sink && !w->first) {
		*rc = img_fail(&w->err, -ESPIPE,
			       "%s: the data of guest offset %llu comes after that of %llu; the "
			       "output is written from front to end: convert to another format, "
			       "or save the input to a file first",
			       img_input_name(j->in), (unsigned long long)j->ahead.off,
			       (unsigned long long)j->next - 1);
		return false;
	}
	j->next = max_u64(j->next, w->off + j->window);
	w->len = j->sink ? (size_t)min_u64(j->window, j->source->size - w->off) : 0;
	w->number = j->given++;
	w->count = 0;
	memset(w->came, 0, j->window / j->unit * sizeof(*w->came));
	return true;
}

static void keep_pace(struct job *j)
{
	while (img_pace_wait(&j->pace) && !has_failed(j))
		img_pace_nap(&j->pace);
}

/* Take the next window. False: there is none, or the job has failed. */
static bool take(struct worker *w)
{
	struct job *j = w->job;
	bool taken = false;
	int rc = 0;

	pthread_mutex_lock(&j->input);
	keep_pace(j);
	if (!has_failed(j))
		taken = place_window(w, &rc);
	if (taken) {
		rc = collect(w);
		j->pace.moved += w->len;
	}
	if (rc) {
		pthread_mutex_lock(&j->lock);
		fail(j, rc, &w->err);
		pthread_mutex_unlock(&j->lock);
	}
	pthread_mutex_unlock(&j->input);
	return taken;
}

/* ---- Unpacking ---- */

static int unpack(struct worker *w)
{
	struct job *j = w->job;
	int rc = 0;

	memset(w->data, 0, j->window);
	for (size_t i = 0; i < w->count && !rc; i++) {
		const struct img_source_unit *u = &w->pieces[i].unit;
		uint8_t *to = w->data + (u->off - w->off), *from = w->stored + w->pieces[i].at;

		if (!u->codec)
			memcpy(to, from, u->stored_bytes);
		else
			rc = u->codec->decode(from, u->stored_bytes, to, u->bytes, &w->err);
		if (rc)
			img_error_prefix(&w->err, rc, "%s: the data of guest offset %llu",
					 img_input_name(j->in), (unsigned long long)u->off);
	}
	return rc;
}

/* ---- To a sink ---- */

static int pack(struct worker *w)
{
	const struct img_sink *s = w->job->sink;
	size_t unit = (size_t)s->unit_bytes;
	int rc = 0;

	for (size_t i = 0; i * unit < w->len && !rc; i++) {
		uint8_t *data = w->data + i * unit;
		size_t len = min_size(unit, w->len - i * unit);

		w->packed_len[i] = 0;
		if (!s->wants_all && img_is_zero(data, len))
			continue;
		w->packed_len[i] = len;
		if (s->codec) /* behind the disk's end there are zeroes in the buffer */
			rc = s->codec->encode(data, s->pad_last ? unit : len, s->level,
					      w->packed + 2 * i * unit, 2 * unit, &w->packed_len[i],
					      &w->err);
	}
	return rc;
}

static int put(struct worker *w)
{
	struct img_sink *s = w->job->sink;
	size_t unit = (size_t)s->unit_bytes;
	int rc = 0;

	for (size_t i = 0; i * unit < w->len && !rc; i++) {
		if (w->packed_len[i])
			rc = s->put(s, w->off + i * unit,
				    s->codec ? w->packed + 2 * i * unit : w->data + i * unit,
				    w->packed_len[i], &w->err);
	}
	return rc;
}

/* ---- To an image ---- */

static void written(void *user, int rc, const struct img_error *err)
{
	struct worker *w = user;

	if (rc && !w->rc)
		w->rc = img_fail(&w->err, rc, "%s", img_error_text(err));
}

static void check_submit(struct worker *w, int rc)
{
	if (rc && !w->rc)
		w->rc = img_fail(&w->err, rc, "%s: a request could not be submitted: %s",
				 img_name(w->job->target), strerrordesc_np(-rc));
}

static void submit_write(struct worker *w, size_t at, size_t len, unsigned flags)
{
	struct iovec *iov = &w->iov[w->writes++];

	*iov = (struct iovec){ w->data + at, len };
	check_submit(w, img_submit_writev(w->q, w->job->target, w->off + at, iov, 1,
					  flags | IMG_SUBMIT_ORDERED, written, w));
}

static void submit_zero(struct worker *w, size_t at, size_t len)
{
	if (!w->job->o->target_is_zero)
		check_submit(w, img_submit_zero(w->q, w->job->target, w->off + at, len,
						IMG_SUBMIT_ORDERED, written, w));
}

/* Data of the input, with or without runs of zeroes. */
static void write_run(struct worker *w, size_t at, size_t len)
{
	size_t end = at + len, grain = w->job->grain, run;

	for (; at < end; at += run) {
		size_t first = grain - (size_t)((w->off + at) % grain);

		run = end - at;
		if (!w->job->o->no_sparse &&
		    img_zero_run(w->data + at, end - at, grain, first, &run))
			submit_zero(w, at, run);
		else
			submit_write(w, at, run, 0);
	}
}

/* What came of [at, end) of the window. */
static void write_plain(struct worker *w, size_t at, size_t end)
{
	size_t unit = w->job->unit, from;

	while (at < end) {
		from = at;
		while (at < end && w->came[at / unit])
			at = min_size((at / unit + 1) * unit, end);
		if (at > from)
			write_run(w, from, at - from);
		while (at < end && !w->came[at / unit])
			at = min_size((at / unit + 1) * unit, end);
	}
}

static bool any_came(const struct worker *w, size_t at, size_t end)
{
	for (size_t i = at / w->job->unit; i * w->job->unit < end; i++)
		if (w->came[i])
			return true;
	return false;
}

/*
 * Clusters are compressed whole, what has not come as zeroes; if the rest comes later, when there is
 * no compressing it any more, it is written as it is.
 */
static void write_compressed(struct worker *w)
{
	const struct job *j = w->job;
	size_t unit = (size_t)img_unit_bytes(j->target);
	uint64_t size = img_size(j->target);

	for (size_t at = 0; at < w->len; at += unit) {
		size_t len = (size_t)min_u64(unit, size - (w->off + at));

		if (!any_came(w, at, min_size(at + unit, w->len)))
			continue;
		if (!w->first)
			write_plain(w, at, min_size(at + unit, w->len));
		else if (!j->o->no_sparse && img_is_zero(w->data + at, len))
			submit_zero(w, at, len);
		else
			submit_write(w, at, len, IMG_SUBMIT_COMPRESS);
	}
}

/*
 * A disk whose size is not known grows by doubling, so that it is seldom done; it gets its size in
 * the end. Nothing else is in flight: it is this worker's turn.
 */
static int make_room(struct worker *w)
{
	struct job *j = w->job;
	uint64_t end = w->off + w->len, size = img_size(j->target);

	if (end <= size)
		return 0;
	if (j->source->sized || !j->o->resize_target)
		return img_fail(&w->err, -ENOSPC,
				"%s: the input goes on after byte %llu, where the target ends",
				img_input_name(j->in), (unsigned long long)size);
	return img_resize(j->target, max_u64(end, min_u64(2 * size, INT64_MAX / 2 + 1)),
			  IMG_PREALLOC_OFF, &w->err);
}

static int write_window(struct worker *w)
{
	int rc = make_room(w);

	if (rc)
		return rc;
	w->rc = 0;
	w->writes = 0;
	if (w->job->o->compress)
		write_compressed(w);
	else
		write_plain(w, 0, w->len);
	while (img_queue_in_flight(w->q))
		img_queue_run(w->q, true);
	return w->rc;
}

/* ---- Workers ---- */

static void run_worker(struct img_work *work)
{
	struct worker *w = IMG_CONTAINER(work, struct worker, work);
	struct job *j = w->job;

	while (take(w)) {
		int rc = unpack(w);

		if (!rc && j->sink)
			rc = pack(w);
		pthread_mutex_lock(&j->lock);
		while (j->turn != w->number)
			pthread_cond_wait(&j->turned, &j->lock);
		if (rc)
			fail(j, rc, &w->err);
		rc = j->rc;
		pthread_mutex_unlock(&j->lock);
		if (!rc)
			rc = j->sink ? put(w) : write_window(w);
		pthread_mutex_lock(&j->lock);
		if (rc)
			fail(j, rc, &w->err);
		j->turn++;
		j->done = max_u64(j->done, w->off + w->len);
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
	size_t units = j->window / j->unit;
	bool packs = j->sink && j->sink->codec;

	w->job = j;
	w->work.run = run_worker;
	w->data = aligned_alloc(4096, j->window);
	w->stored = malloc(units * j->source->stored_max);
	w->pieces = calloc(units, sizeof(*w->pieces));
	w->came = calloc(units, sizeof(*w->came));
	w->packed = packs ? malloc(2 * j->window) : NULL;
	w->packed_len = j->sink ? calloc(j->window / j->sink->unit_bytes, sizeof(size_t)) : NULL;
	w->iov = j->target ? calloc(j->window / 512 + 2, sizeof(*w->iov)) : NULL;
	if (!w->data || !w->stored || !w->pieces || !w->came || (packs && !w->packed) ||
	    (j->sink ? !w->packed_len : !w->iov))
		return img_fail(err, -ENOMEM, "out of memory for copying");
	return j->target ? img_queue_new(j->o->io, &w->q, err) : 0;
}

static void worker_end(struct worker *w)
{
	img_queue_free(w->q);
	free(w->data);
	free(w->stored);
	free(w->pieces);
	free(w->came);
	free(w->packed);
	free(w->packed_len);
	free(w->iov);
}

/* Wait for the workers, telling how far they are. */
static void watch(struct job *j)
{
	const struct img_copy_options *o = j->o;

	pthread_mutex_lock(&j->lock);
	while (j->workers) {
		uint64_t done = j->done;
		struct timespec t;

		pthread_mutex_unlock(&j->lock);
		if (o->progress && o->progress(o->user, done, max_u64(j->source->size, done))) {
			struct img_error e = { 0 };

			img_fail(&e, -ECANCELED, "interrupted");
			pthread_mutex_lock(&j->lock);
			fail(j, -ECANCELED, &e);
			pthread_mutex_unlock(&j->lock);
		}
		pthread_mutex_lock(&j->lock);
		if (!j->workers)
			break;
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += LOOK_EVERY_MS * 1000000L;
		t.tv_sec += t.tv_nsec / 1000000000L;
		t.tv_nsec %= 1000000000L;
		pthread_cond_timedwait(&j->turned, &j->lock, &t);
	}
	pthread_mutex_unlock(&j->lock);
}

static int run_workers(struct job *j, struct img_error *err)
{
	unsigned n = j->o->parallel ? j->o->parallel : img_cpu_count() + 1, ready = 0;
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
		watch(j);
		rc = j->rc;
		img_error_move(err, &j->err);
	}
	img_pool_free(pool);
	for (unsigned i = 0; i < ready; i++)
		worker_end(&workers[i]);
	free(workers);
	return rc;
}

/* ---- The job ---- */

/* unit: the output's. */
static int run(struct job *j, uint64_t unit, struct img_error *err)
{
	uint64_t units;
	int rc = 0;

	j->unit = j->source->unit_bytes;
	j->window = (size_t)max_u64(WINDOW, max_u64(unit, j->unit));
	units = div_round_up_u64(j->source->size, j->unit);
	if (!j->source->plain)
		rc = img_seen_init(&j->seen, units);
	if (rc)
		return img_fail(err, rc, "%s: a disk of %llu units of %zu bytes: %s",
				img_input_name(j->in), (unsigned long long)units, j->unit,
				strerrordesc_np(-rc));
	pthread_mutex_init(&j->input, NULL);
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->turned, NULL);
	img_pace_begin(&j->pace, j->o->rate);
	rc = run_workers(j, err);
	pthread_cond_destroy(&j->turned);
	pthread_mutex_destroy(&j->lock);
	pthread_mutex_destroy(&j->input);
	return rc;
}

/* Zeroes where nothing came, in a target that has something else there, or is to hold them. */
static int fill_gap(struct job *j, uint64_t off, uint64_t len, struct img_error *err)
{
	static const uint8_t zeroes[65536];
	int rc = 0;

	if (!j->o->no_sparse)
		return img_zero(j->target, off, len, err);
	for (uint64_t at = 0; at < len && !rc; at += sizeof(zeroes)) {
		rc = img_write(j->target, off + at, zeroes,
			       (size_t)min_u64(sizeof(zeroes), len - at), err);
		if (!rc && j->o->progress && j->o->progress(j->o->user, off + at, j->source->size))
			rc = img_fail(err, -ECANCELED, "interrupted");
	}
	return rc;
}

static int fill_gaps(struct job *j, struct img_error *err)
{
	uint64_t size = j->source->size, run;
	int rc = 0;

	if (j->source->plain || (j->o->target_is_zero && !j->o->no_sparse))
		return 0;
	for (uint64_t unit = 0; unit < j->seen.units && !rc; unit += run) {
		uint64_t off = unit * j->unit;

		if (!img_seen_run(&j->seen, unit, &run))
			rc = fill_gap(j, off, min_u64(run * j->unit, size - off), err);
	}
	return rc;
}

/*
 * The shortest run of zeroes to leave out. Where the target allocates more at a time, less would
 * save nothing and cut writes to pieces; but holes of 64 KiB are worth having in any file.
 */
static size_t grain_of(const struct img *target, uint64_t sparse)
{
	uint64_t unit = target->grain_bytes ? target->grain_bytes : target->unit_bytes;

	return (size_t)min_u64(max_u64(sparse ? sparse : DEFAULT_SPARSE, min_u64(unit, MAX_HOLE)),
			       WINDOW);
}

int img_copy_input(struct img_input *in, struct img *target, const struct img_copy_options *options,
		   struct img_error *err)
{
	static const struct img_copy_options defaults;
	const struct img_copy_options *o = options ? options : &defaults;
	struct job j = { .in = in, .source = img_input_source(in), .o = o, .target = target };
	int rc;

	if (j.source->sized && j.source->size > img_size(target))
		return img_fail(err, -ENOSPC, "%s: %llu bytes do not fit in %llu", img_name(target),
				(unsigned long long)j.source->size,
				(unsigned long long)img_size(target));
	j.grain = grain_of(target, o->sparse_bytes);
	rc = run(&j, img_unit_bytes(target), err);
	if (!rc)
		rc = fill_gaps(&j, err);
	if (!rc && !j.source->sized && o->resize_target && img_size(target) != j.end)
		rc = img_resize(target, j.end, IMG_PREALLOC_OFF, err);
	if (!rc && o->progress)
		o->progress(o->user, j.end, j.end);
	img_seen_free(&j.seen);
	return rc;
}

int img_copy_input_stream(struct img_input *in, const char *path, int fd,
			  const struct img_create_options *create,
			  const struct img_copy_options *options, struct img_error *err)
{
	static const struct img_copy_options defaults;
	const struct img_copy_options *o = options ? options : &defaults;
	struct job j = { .in = in, .source = img_input_source(in), .o = o };
	struct img_stream *s;
	int rc = img_stream_begin(path, fd, create, &s, err);

	if (rc)
		return rc;
	j.sink = img_stream_sink(s);
	rc = img_sink_settle_zeroes(j.sink, o, err);
	if (!rc && !j.source->sized)
		rc = img_fail(err, -EINVAL,
			      "%s: its size is known only at its end, and must be given for output "
			      "that begins with it",
			      img_input_name(in));
	if (!rc && img_stream_size(s) < j.source->size)
		rc = img_fail(err, -ENOSPC, "the input does not fit in the new image");
	if (!rc)
		rc = run(&j, j.sink->unit_bytes, err);
	if (!rc)
		rc = img_stream_publish(s, err);
	if (!rc && o->progress)
		o->progress(o->user, j.source->size, j.source->size);
	img_seen_free(&j.seen);
	img_stream_free(s);
	return rc;
}
