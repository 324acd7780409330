/*
 * Copying into a stream. Each worker takes the next chunk, reads it, leaves out units of zeroes and
 * packs the rest; then it waits for its turn and puts the units, so that they come in guest order
 * and the output does not depend on the number of workers. Memory is a few buffers for each worker.
 */
#include "libimg/image/arguments.h"
#include "libimg/jobs/copy_to_sink.h"
#include "libimg/image/sink_image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/jobs/rate_limit.h"
#include "libimg/jobs/encoder.h"
#include "libimg/jobs/salvage.h"
#include "libimg/jobs/concat.h"
#include "libimg/jobs/ordered.h"

enum { CHUNK = 1 << 20 };

struct job {
	struct img_ordered ordered;
	struct img_concat sources;
	const struct img_copy_options *o;
	struct img_sink *sink;
	size_t unit, chunk; /* chunk: a multiple of unit */

	uint64_t next;		     /* the first byte that no worker has taken: fetch()'s */
	struct img_rate_limit limit; /* the same */

	struct img_salvage salvage; /* whose turn it is has it */
};

struct worker {
	struct img_ordered_worker base;
	struct job *job;
	struct img_queue *q;
	uint8_t *data; /* the chunk at hand */
	struct img_encoder encoder;
	struct iovec *iov; /* of its reads */
	uint64_t off;
	size_t len;
	int read_rc;
};

/* Step over whole units that are known to be zeroes. */
static int skip_zeroes(struct job *j, struct img_error *err)
{
	while (!j->sink->wants_all && j->next < j->sources.size) {
		struct img_map_entry x;
		uint64_t after;
		int rc = img_concat_map(&j->sources, j->next, &x, err);

		if (rc && j->o->salvage && img_salvage_may(rc)) {
			img_error_clear(err); /* reading it will fail as well */
			return 0;
		}
		if (rc)
			return rc;
		if (!x.zero)
			return 0;
		after = j->next + x.length;
		after = after == j->sources.size ? after : align_down_u64(after, j->unit);
		if (after == j->next)
			return 0;
		j->next = after;
	}
	return 0;
}

static int fetch(struct img_ordered_worker *base)
{
	struct worker *w = IMG_CONTAINER(base, struct worker, base);
	struct job *j = w->job;
	int rc;

	while (img_rate_limit_wait(&j->limit) && !img_ordered_failed(&j->ordered))
		img_rate_limit_sleep(&j->limit);
	rc = skip_zeroes(j, &base->err);
	if (rc || j->next >= j->sources.size)
		return rc;
	w->off = j->next;
	w->len = (size_t)min_u64(j->chunk, j->sources.size - j->next);
	j->next += w->len;
	j->limit.moved += w->len;
	base->end = j->next;
	return 1;
}

static void read_done(void *user, int rc, const struct img_error *err)
{
	struct worker *w = user;

	if (rc && !w->read_rc)
		w->read_rc = img_fail(&w->base.err, rc, "%s", img_error_text(err));
}

static int read_chunk(struct worker *w)
{
	unsigned submitted;
	int rc;

	w->read_rc = 0;
	rc = img_concat_read(&w->job->sources, w->q, w->off, w->data, w->len, w->iov, &submitted,
			     read_done, w, &w->base.err);
	while (img_queue_in_flight(w->q))
		img_queue_run(w->q, true);
	return rc ? rc : w->read_rc;
}

static int prepare(struct img_ordered_worker *base)
{
	struct worker *w = IMG_CONTAINER(base, struct worker, base);
	int rc = read_chunk(w);

	if (rc && w->job->o->salvage && img_salvage_may(rc)) {
		/* In base: so what is lost is told in order. */
		img_ordered_wait(base);
		img_error_clear(&base->err);
		rc = img_salvage_read(&w->job->salvage, w->q, w->off, w->data, w->len, &base->err);
	}
	return rc ? rc : img_encoder_encode(&w->encoder, w->data, w->len, &base->err);
}

static int put(struct img_ordered_worker *base)
{
	struct worker *w = IMG_CONTAINER(base, struct worker, base);

	return img_encoder_put(&w->encoder, w->off, w->data, w->len, &base->err);
}

static void worker_free(struct img_ordered_worker *base)
{
	struct worker *w = IMG_CONTAINER(base, struct worker, base);

	img_queue_free(w->q);
	img_encoder_free(&w->encoder);
	free(w->data);
	free(w->iov);
	free(w);
}

static int worker_new(struct img_ordered *ordered, struct img_ordered_worker **out, struct img_error *err)
{
	struct job *j = IMG_CONTAINER(ordered, struct job, ordered);
	struct worker *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return img_fail(err, -ENOMEM, "out of memory for copying");
	*out = &w->base;
	w->job = j;
	w->data = aligned_alloc(4096, j->chunk);
	w->iov = calloc(img_concat_most(&j->sources, j->chunk), sizeof(*w->iov));
	rc = img_encoder_new(&w->encoder, j->sink, j->chunk, err);
	if (!w->data || !w->iov)
		rc = img_fail(err, -ENOMEM, "out of memory for copying");
	return rc ? rc : img_queue_new(j->o->io, &w->q, err);
}

static const struct img_ordered_ops ops = {
	.worker_new = worker_new,
	.worker_free = worker_free,
	.fetch = fetch,
	.prepare = prepare,
	.put = put,
};

int img_copy_into_sink(struct img *const *sources, size_t count, struct img_sink_image *s,
		       const struct img_copy_options *o, struct img_error *err)
{
	struct job j = { .ordered = { .ops = &ops, .o = o }, .o = o };
	int rc = img_check_copy_options(o, err);

	if (!rc)
		rc = img_concat_init(&j.sources, sources, count, err);
	if (rc)
		return rc;
	j.ordered.total = j.sources.size;
	j.sink = img_sink_image_sink(s);
	j.unit = (size_t)j.sink->unit_bytes;
	j.chunk = (size_t)max_u64(CHUNK, j.unit);
	if (img_sink_image_size(s) < j.sources.size)
		rc = img_fail(err, -ENOSPC, "the sources do not fit in the new image");
	if (!rc)
		rc = img_sink_choose_zeroes(j.sink, o, err);
	img_rate_limit_begin(&j.limit, o->rate);
	j.salvage = (struct img_salvage){ .sources = &j.sources,
					  .unreadable = o->unreadable,
					  .user = o->user };
	if (!rc)
		rc = img_ordered_run(&j.ordered, err);
	img_salvage_end(&j.salvage);
	if (!rc)
		rc = img_sink_image_publish(s, err);
	if (!rc && o->progress)
		o->progress(o->user, j.sources.size, j.sources.size);
	return rc;
}

int img_copy_to_sink(struct img *const *sources, size_t count, const char *path, int fd,
		     const struct img_create_options *create, const struct img_copy_options *options,
		     struct img_error *err)
{
	static const struct img_copy_options defaults;
	struct img_sink_image *s;
	int rc = img_sink_image_begin(path, fd, create, &s, err);

	if (!rc)
		rc = s ? img_copy_into_sink(sources, count, s, options ? options : &defaults, err)
		       : img_sink_image_refuse(create->format, err);
	img_sink_image_free(s);
	return rc;
}
