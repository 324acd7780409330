/*
 * Copying into a stream. Each worker takes the next chunk, reads it, leaves out units of zeroes and
 * packs the rest; then it waits for its turn and puts the units, so that they come in guest order
 * and the output does not depend on the number of workers. Memory is a few buffers for each worker.
 */
#include "libimg/image/arguments.h"
#include "libimg/image/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/jobs/pace.h"
#include "libimg/jobs/packed.h"
#include "libimg/jobs/salvage.h"
#include "libimg/jobs/sources.h"
#include "libimg/jobs/turns.h"

enum { CHUNK = 1 << 20 };

struct job {
	struct img_turns turns;
	struct img_sources sources;
	const struct img_copy_options *o;
	struct img_sink *sink;
	size_t unit, chunk; /* chunk: a multiple of unit */

	uint64_t next;	      /* the first byte that no worker has taken: take()'s */
	struct img_pace pace; /* the same */

	struct img_salvage salvage; /* whose turn it is has it */
};

struct worker {
	struct img_turn turn;
	struct job *job;
	struct img_queue *q;
	uint8_t *data; /* the chunk at hand */
	struct img_packed packed;
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
		int rc = img_sources_map(&j->sources, j->next, &x, err);

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

static int take(struct img_turn *turn)
{
	struct worker *w = IMG_CONTAINER(turn, struct worker, turn);
	struct job *j = w->job;
	int rc;

	while (img_pace_wait(&j->pace) && !img_turns_failed(&j->turns))
		img_pace_nap(&j->pace);
	rc = skip_zeroes(j, &turn->err);
	if (rc || j->next >= j->sources.size)
		return rc;
	w->off = j->next;
	w->len = (size_t)min_u64(j->chunk, j->sources.size - j->next);
	j->next += w->len;
	j->pace.moved += w->len;
	turn->end = j->next;
	return 1;
}

static void read_done(void *user, int rc, const struct img_error *err)
{
	struct worker *w = user;

	if (rc && !w->read_rc)
		w->read_rc = img_fail(&w->turn.err, rc, "%s", img_error_text(err));
}

static int read_chunk(struct worker *w)
{
	unsigned submitted;
	int rc;

	w->read_rc = 0;
	rc = img_sources_read(&w->job->sources, w->q, w->off, w->data, w->len, w->iov, &submitted,
			      read_done, w, &w->turn.err);
	while (img_queue_in_flight(w->q))
		img_queue_run(w->q, true);
	return rc ? rc : w->read_rc;
}

static int prepare(struct img_turn *turn)
{
	struct worker *w = IMG_CONTAINER(turn, struct worker, turn);
	int rc = read_chunk(w);

	if (rc && w->job->o->salvage && img_salvage_may(rc)) {
		/* In turn: so what is lost is told in order. */
		img_turn_wait(turn);
		img_error_clear(&turn->err);
		rc = img_salvage_read(&w->job->salvage, w->q, w->off, w->data, w->len, &turn->err);
	}
	return rc ? rc : img_packed_fill(&w->packed, w->data, w->len, &turn->err);
}

static int put(struct img_turn *turn)
{
	struct worker *w = IMG_CONTAINER(turn, struct worker, turn);

	return img_packed_put(&w->packed, w->off, w->data, w->len, &turn->err);
}

static void worker_free(struct img_turn *turn)
{
	struct worker *w = IMG_CONTAINER(turn, struct worker, turn);

	img_queue_free(w->q);
	img_packed_free(&w->packed);
	free(w->data);
	free(w->iov);
	free(w);
}

static int worker_new(struct img_turns *turns, struct img_turn **out, struct img_error *err)
{
	struct job *j = IMG_CONTAINER(turns, struct job, turns);
	struct worker *w = calloc(1, sizeof(*w));
	int rc;

	if (!w)
		return img_fail(err, -ENOMEM, "out of memory for copying");
	*out = &w->turn;
	w->job = j;
	w->data = aligned_alloc(4096, j->chunk);
	w->iov = calloc(img_sources_most(&j->sources, j->chunk), sizeof(*w->iov));
	rc = img_packed_new(&w->packed, j->sink, j->chunk, err);
	if (!w->data || !w->iov)
		rc = img_fail(err, -ENOMEM, "out of memory for copying");
	return rc ? rc : img_queue_new(j->o->io, &w->q, err);
}

static const struct img_turns_ops ops = {
	.worker_new = worker_new,
	.worker_free = worker_free,
	.take = take,
	.prepare = prepare,
	.put = put,
};

int img_copy_stream(struct img *const *sources, size_t count, const char *path, int fd,
		    const struct img_create_options *create, const struct img_copy_options *options,
		    struct img_error *err)
{
	static const struct img_copy_options defaults;
	const struct img_copy_options *o = options ? options : &defaults;
	struct job j = { .turns = { .ops = &ops, .o = o }, .o = o };
	struct img_stream *s;
	int rc = img_check_copy_options(o, err);

	if (!rc)
		rc = img_sources_init(&j.sources, sources, count, err);
	if (!rc)
		rc = img_stream_begin(path, fd, create, &s, err);
	if (rc)
		return rc;
	j.turns.total = j.sources.size;
	j.sink = img_stream_sink(s);
	j.unit = (size_t)j.sink->unit_bytes;
	j.chunk = (size_t)max_u64(CHUNK, j.unit);
	if (img_stream_size(s) < j.sources.size)
		rc = img_fail(err, -ENOSPC, "the sources do not fit in the new image");
	if (!rc)
		rc = img_sink_settle_zeroes(j.sink, o, err);
	img_pace_begin(&j.pace, o->rate);
	j.salvage = (struct img_salvage){ .sources = &j.sources,
					  .unreadable = o->unreadable,
					  .user = o->user };
	if (!rc)
		rc = img_turns_run(&j.turns, err);
	img_salvage_end(&j.salvage);
	if (!rc)
		rc = img_stream_publish(s, err);
	if (!rc && o->progress)
		o->progress(o->user, j.sources.size, j.sources.size);
	img_stream_free(s);
	return rc == -ENOTSUP ? -EIO : rc; /* that one says that nothing was begun */
}
