/*
 * Copying from a pipe. Each worker takes the units of the next window of the disk from the input, one
 * worker at a time; unpacks them, all workers at once; then waits for its turn and puts them out, so
 * that the output does not depend on the number of workers: into a sink, whose windows must ascend,
 * or into an image, where they may come in any order. Memory is a few buffers for each worker.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/engine/driver.h" /* before img.h, which repeats some of it for programs */
#include "libimg/image/arguments.h"
#include "libimg/image/source_image.h"
#include "libimg/image/sink_image.h"
#include "libimg/jobs/copy_to_sink.h"
#include "libimg/jobs/rate_limit.h"
#include "libimg/jobs/encoder.h"
#include "libimg/base/sparse_bitset.h"
#include "libimg/jobs/target.h"
#include "libimg/jobs/ordered.h"
#include "libimg/jobs/zero.h"

enum {
	WINDOW = 1 << 20,
	VISITED_BYTES_MAX = 64 << 20, /* 32 TiB of units of 64 KiB */
};

struct job {
	struct img_ordered ordered;
	struct img_source_image *in;
	struct img_source *source;
	const struct img_copy_options *o;
	struct img *target;    /* NULL: to the sink */
	struct img_sink *sink; /* NULL: to the target */
	size_t unit, window;   /* of the source; a multiple of every unit there is */
	size_t grain;	       /* target: the shortest run of zeroes to leave out */
	bool target_is_zero;

	/* fetch()'s. */
	struct img_sparse_bitset visited; /* unless the source is plain */
	struct img_source_unit ahead;
	bool have_ahead, ended;
	uint64_t next; /* sink: the window that follows; target: behind all so far */
	uint64_t end;  /* of the last byte that came */
	struct img_rate_limit limit;
};

struct piece {
	struct img_source_unit unit;
	size_t at; /* its stored bytes in `stored` */
};

struct worker {
	struct img_ordered_worker base;
	struct job *job;
	struct img_queue *q;
	uint8_t *data;		    /* the window */
	uint8_t *stored;	    /* units as they came, one behind the other */
	struct piece *pieces;	    /* one for each unit of the window */
	bool *came;		    /* the same */
	struct img_encoder encoder; /* sink */
	struct iovec *iov;	    /* target: one for each write */
	size_t count, writes;
	uint64_t off; /* of the window */
	size_t len;   /* of it, up to the last byte that came; sink: up to the disk's end */
	bool first;   /* no window at or behind this one came before */
	int rc;
};

/* ---- Taking from the input ---- */

/* See what comes next: `ahead`, or `ended`. */
static int peek(struct job *j, struct img_error *err)
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

static int check_unit(struct job *j, uint64_t off, struct img_error *err)
{
	int rc = j->source->plain ? 0 : img_sparse_bitset_add(&j->visited, off / j->unit, 1);

	if (rc == 1)
		return img_fail(err, -EUCLEAN,
				"%s: the data of guest offset %llu comes twice",
				img_source_name(j->in), (unsigned long long)off);
	if (rc == -E2BIG)
		return img_fail(err, rc,
				"%s: data in too many places far from each other to keep track "
				"of: save it to a file first",
				img_source_name(j->in));
	return rc ? img_fail(err, rc, "out of memory for copying") : 0;
}

/* The units that lie in the worker's window, as long as they come. */
static int collect(struct worker *w)
{
	struct job *j = w->job;
	size_t at = 0;
	int rc;

	while (!(rc = peek(j, &w->base.err)) && j->have_ahead && j->ahead.off >= w->off &&
	       j->ahead.off - w->off < j->window) {
		struct piece *p = &w->pieces[w->count];
		size_t within = (size_t)(j->ahead.off - w->off);

		rc = check_unit(j, j->ahead.off, &w->base.err);
		if (!rc)
			rc = j->source->load(j->source, w->stored + at, &w->base.err);
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

/* Where the next window is. 1; 0: there is none. */
static int next_window(struct worker *w)
{
	struct job *j = w->job;
	bool all = j->sink && j->sink->wants_all;
	int rc = peek(j, &w->base.err);

	if (rc || (j->ended && (!all || j->next >= j->source->size)))
		return rc;
	w->off = all ? j->next : align_down_u64(j->ahead.off, j->window);
	w->first = !j->have_ahead || j->ahead.off >= j->next;
	if (j->sink && !w->first)
		return img_fail(&w->base.err, -ESPIPE,
				"%s: the data of guest offset %llu comes after that of %llu; the "
				"output is written from front to end: convert to another format, "
				"or save the input to a file first",
				img_source_name(j->in), (unsigned long long)j->ahead.off,
				(unsigned long long)j->next - 1);
	j->next = max_u64(j->next, w->off + j->window);
	w->len = j->sink ? (size_t)min_u64(j->window, j->source->size - w->off) : 0;
	w->count = 0;
	memset(w->came, 0, j->window / j->unit * sizeof(*w->came));
	return 1;
}

static int fetch(struct img_ordered_worker *base)
{
	struct worker *w = IMG_CONTAINER(base, struct worker, base);
	struct job *j = w->job;
	int placed, rc;

	while (img_rate_limit_wait(&j->limit) && !img_ordered_failed(&j->ordered))
		img_rate_limit_sleep(&j->limit);
	placed = next_window(w);
	if (placed <= 0)
		return placed;
	rc = collect(w);
	j->limit.moved += w->len;
	base->end = w->off + w->len;
	return rc ? rc : 1;
}

/* ---- Unpacking ---- */

static int decode(struct worker *w)
{
	struct job *j = w->job;
	int rc = 0;

	if (w->count < j->window / j->unit || w->len < j->window)
		memset(w->data, 0, j->window);
	for (size_t i = 0; i < w->count && !rc; i++) {
		const struct img_source_unit *u = &w->pieces[i].unit;
		uint8_t *to = w->data + (u->off - w->off), *from = w->stored + w->pieces[i].at;

		if (!u->codec) {
			memcpy(to, from, u->stored_bytes);
			memset(to + u->stored_bytes, 0, u->bytes - u->stored_bytes);
		} else {
			rc = u->codec->decode(from, u->stored_bytes, to, u->bytes, &w->base.err);
		}
		if (rc)
			img_error_prefix(&w->base.err, rc, "%s: the data of guest offset %llu",
					 img_source_name(j->in), (unsigned long long)u->off);
	}
	return rc;
}

/* ---- To an image ---- */

static void written(void *user, int rc, const struct img_error *err)
{
	struct worker *w = user;

	if (rc && !w->rc)
		w->rc = img_fail(&w->base.err, rc, "%s", img_error_text(err));
}

static void check_submit(struct worker *w, int rc)
{
	if (rc && !w->rc)
		w->rc = img_fail(&w->base.err, rc, "%s: a request could not be submitted: %s",
				 img_name(w->job->target), strerrordesc_np(-rc));
}

static void submit_write(struct worker *w, size_t at, size_t len, unsigned flags)
{
	struct iovec *iov = &w->iov[w->writes++];

	*iov = (struct iovec){ w->data + at, len };
	check_submit(w, img_submit_writev(w->q, w->job->target, w->off + at, iov, 1,
					  flags | IMG_SUBMIT_ORDERED, written, w, NULL));
}

static void submit_zero(struct worker *w, size_t at, size_t len)
{
	if (!w->job->target_is_zero)
		check_submit(w, img_submit_zero(w->q, w->job->target, w->off + at, len,
						IMG_SUBMIT_ORDERED | IMG_SUBMIT_MAY_UNMAP, written,
						w, NULL));
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

/* A bare device is as large as it is. */
static bool has_fixed_size(const struct img *img)
{
	return (img->driver->features & IMG_DRIVER_PLAIN) && img->file->device;
}

/*
 * A disk whose size is not known grows by doubling, so that it is seldom done; it gets its size in
 * the end. Nothing else is in flight: it is this worker's turn.
 */
static int make_room(struct worker *w)
{
	struct job *j = w->job;
	uint64_t end = w->off + w->len, size = img_size(j->target), doubled;
	int rc;

	if (end <= size)
		return 0;
	if (j->source->sized || !j->o->resize_target || has_fixed_size(j->target))
		return img_fail(&w->base.err, -ENOSPC,
				"%s: the input goes on after byte %llu, where the target ends",
				img_source_name(j->in), (unsigned long long)size);
	doubled = max_u64(end, min_u64(2 * size, INT64_MAX / 2 + 1));
	rc = img_resize(j->target, doubled, IMG_PREALLOCATE_OFF, &w->base.err);
	if (rc != -EFBIG || doubled == end)
		return rc;
	img_error_clear(&w->base.err); /* there is a limit before that */
	return img_resize(j->target, end, IMG_PREALLOCATE_OFF, &w->base.err);
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

static int prepare(struct img_ordered_worker *base)
{
	struct worker *w = IMG_CONTAINER(base, struct worker, base);
	int rc = decode(w);

	return rc || !w->job->sink ? rc
				   : img_encoder_encode(&w->encoder, w->data, w->len, &base->err);
}

static int put(struct img_ordered_worker *base)
{
	struct worker *w = IMG_CONTAINER(base, struct worker, base);

	if (!w->job->sink)
		return write_window(w);
	return img_encoder_put(&w->encoder, w->off, w->data, w->len, &base->err);
}

static void stop(struct img_ordered *ordered)
{
	img_source_stop(IMG_CONTAINER(ordered, struct job, ordered)->in);
}

static void worker_free(struct img_ordered_worker *base)
{
	struct worker *w = IMG_CONTAINER(base, struct worker, base);

	img_queue_free(w->q);
	img_encoder_free(&w->encoder);
	free(w->data);
	free(w->stored);
	free(w->pieces);
	free(w->came);
	free(w->iov);
	free(w);
}

static int worker_new(struct img_ordered *ordered, struct img_ordered_worker **out, struct img_error *err)
{
	struct job *j = IMG_CONTAINER(ordered, struct job, ordered);
	size_t units = j->window / j->unit;
	struct worker *w = calloc(1, sizeof(*w));

	if (!w)
		return img_fail(err, -ENOMEM, "out of memory for copying");
	*out = &w->base;
	w->job = j;
	w->data = aligned_alloc(4096, j->window);
	w->stored = malloc(units * j->source->stored_max);
	w->pieces = calloc(units, sizeof(*w->pieces));
	w->came = calloc(units, sizeof(*w->came));
	w->iov = j->target ? calloc(j->window / 512 + 2, sizeof(*w->iov)) : NULL;
	if (!w->data || !w->stored || !w->pieces || !w->came || (j->target && !w->iov))
		return img_fail(err, -ENOMEM, "out of memory for copying");
	return j->target ? img_queue_new(j->o->io, &w->q, err)
			 : img_encoder_new(&w->encoder, j->sink, j->window, err);
}

static const struct img_ordered_ops ops = {
	.worker_new = worker_new,
	.worker_free = worker_free,
	.fetch = fetch,
	.prepare = prepare,
	.put = put,
	.stop = stop,
};

/* ---- The job ---- */

/* unit: the output's. */
static int run(struct job *j, uint64_t unit, struct img_error *err)
{
	uint64_t units;

	j->unit = j->source->unit_bytes;
	j->window = (size_t)max_u64(WINDOW, max_u64(unit, j->unit));
	units = div_round_up_u64(j->source->size, j->unit);
	if (!j->source->plain)
		img_sparse_bitset_init(&j->visited, units, VISITED_BYTES_MAX);
	img_rate_limit_begin(&j->limit, j->o->rate);
	j->ordered.total = j->source->size;
	return img_ordered_run(&j->ordered, err);
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

	if (j->source->plain || (j->target_is_zero && !j->o->no_sparse))
		return 0;
	for (uint64_t unit = 0; unit < j->visited.size && !rc; unit += run) {
		uint64_t off = unit * j->unit;

		if (!img_sparse_bitset_run(&j->visited, unit, &run))
			rc = fill_gap(j, off, min_u64(run * j->unit, size - off), err);
	}
	return rc;
}

int img_copy_source(struct img_source_image *in, struct img *target, const struct img_copy_options *options,
		    struct img_error *err)
{
	static const struct img_copy_options defaults;
	const struct img_copy_options *o = options ? options : &defaults;
	struct job j = {
		.ordered = { .ops = &ops, .o = o },
		.in = in,
		.source = img_source_image_source(in),
		.o = o,
		.target = target,
	};
	int rc = img_check_copy_options(o, err);

	if (rc)
		return rc;
	if (j.source->sized && j.source->size > img_size(target))
		return img_fail(err, -ENOSPC, "%s: %llu bytes do not fit in %llu", img_name(target),
				(unsigned long long)j.source->size,
				(unsigned long long)img_size(target));
	j.grain = img_zero_grain(target, o->sparse_bytes, WINDOW);
	j.target_is_zero = img_target_state(target, o->target_is_zero) == IMG_TARGET_ZERO;
	rc = run(&j, img_unit_bytes(target), err);
	if (!rc)
		rc = fill_gaps(&j, err);
	if (!rc && !j.source->sized && o->resize_target && !has_fixed_size(target) &&
	    img_size(target) != j.end)
		rc = img_resize(target, j.end, IMG_PREALLOCATE_OFF, err);
	if (!rc && o->progress)
		o->progress(o->user, j.end, j.end);
	img_sparse_bitset_free(&j.visited);
	return rc;
}

int img_copy_source_into_sink(struct img_source_image *in, struct img_sink_image *s,
			      const struct img_copy_options *o, struct img_error *err)
{
	struct job j = {
		.ordered = { .ops = &ops, .o = o },
		.in = in,
		.source = img_source_image_source(in),
		.o = o,
	};
	int rc = img_check_copy_options(o, err);

	if (rc)
		return rc;
	j.sink = img_sink_image_sink(s);
	rc = img_sink_choose_zeroes(j.sink, o, err);
	if (!rc && !j.source->sized)
		rc = img_fail(err, -EINVAL,
			      "%s: its size is known only at its end, and must be given for output "
			      "that begins with it",
			      img_source_name(in));
	if (!rc && img_sink_image_size(s) < j.source->size)
		rc = img_fail(err, -ENOSPC, "the input does not fit in the new image");
	if (!rc)
		rc = run(&j, j.sink->unit_bytes, err);
	if (!rc)
		rc = img_sink_image_publish(s, err);
	if (!rc && o->progress)
		o->progress(o->user, j.source->size, j.source->size);
	img_sparse_bitset_free(&j.visited);
	return rc;
}

int img_copy_source_to_sink(struct img_source_image *in, const char *path, int fd,
			    const struct img_create_options *create,
			    const struct img_copy_options *options, struct img_error *err)
{
	static const struct img_copy_options defaults;
	struct img_sink_image *s;
	int rc = img_sink_image_begin(path, fd, create, &s, err);

	if (!rc)
		rc = s ? img_copy_source_into_sink(in, s, options ? options : &defaults, err)
		       : img_sink_image_refuse(create->format, err);
	img_sink_image_free(s);
	return rc;
}
