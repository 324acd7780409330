/*
 * Copying an image: a pipeline with a bounded window of chunks. Holes are never read; what is read
 * is searched for zeroes; chunks are written in guest order (unless any order will do), so that
 * the same input gives the same file whatever the number of chunks in flight.
 *
 * Source extents -> read -> search for zeroes -> write or zero, all asynchronous on one queue; the
 * engine decodes and encodes compressed units in the worker pool. Memory is the window, whatever
 * the size of the images.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/engine/driver.h"
#include "libimg/base/pool.h"
#include "libimg/image/img.h"
#include "libimg/jobs/pace.h"
#include "libimg/jobs/salvage.h"
#include "libimg/jobs/zero.h"

enum {
	CHUNK = 2 << 20,
	DEFAULT_WINDOW = 4,
	MAX_WINDOW = 256,
	WINDOW_BYTES = 16 << 20, /* the most that chunks may hold together, by default */
	MAX_BYTES = 64 << 20,	 /* ... and if many are asked for */
};

enum chunk_state {
	CHUNK_FREE,
	CHUNK_READING,
	CHUNK_UNREAD, /* reading it failed; to be salvaged */
	CHUNK_READY,
	CHUNK_WRITING,
};

struct copy;

struct chunk {
	struct copy *c;
	enum chunk_state state;
	uint64_t off; /* in the source */
	size_t len;
	uint8_t *data; /* NULL: a range of zeroes, len in zero_len */
	uint64_t zero_len;
	unsigned writes; /* requests in flight on the target, and 1 while submitting */
	struct iovec read_iov;
	struct iovec *iov; /* one for each write of a run */
};

struct copy {
	struct img *source, *target;
	const struct img_copy_options *o;
	struct img_queue *q;
	struct chunk *chunks;	      /* a ring in guest order */
	unsigned window, first, used; /* chunks [first, first + used) are in flight, in order */
	unsigned written;	      /* of these, the first `written` have their writes submitted */
	size_t chunk_bytes, grain;
	uint64_t pos, size, retired;
	struct img_map_entry extent; /* what is known around pos */
	bool have_extent;
	struct img_salvage salvage;
	unsigned unread; /* chunks that are */
	struct img_pace pace;
	int rc;
	struct img_error *err;
};

static struct chunk *ring(struct copy *c, unsigned i)
{
	return &c->chunks[(c->first + i) % c->window];
}

static void fail(struct copy *c, int rc, const struct img_error *err)
{
	if (!c->rc)
		c->rc = img_fail(c->err, rc, "%s", img_error_text(err));
}

/* ---- Writing ---- */

static void write_over(struct chunk *k)
{
	if (--k->writes == 0)
		k->state = CHUNK_FREE;
}

static void write_done(void *user, int rc, const struct img_error *err)
{
	struct chunk *k = user;

	if (rc)
		fail(k->c, rc, err);
	write_over(k);
}

static void submit_zero(struct chunk *k, uint64_t off, uint64_t len)
{
	struct copy *c = k->c;
	unsigned flags = c->o->out_of_order ? 0 : IMG_SUBMIT_ORDERED;
	int rc;

	if (c->o->target_is_zero)
		return;
	k->writes++;
	rc = img_submit_zero(c->q, c->target, c->o->target_off + off, len, flags, write_done, k);
	if (rc) {
		struct img_error e = { 0 };

		img_fail(&e, rc, "%s: zeroes could not be submitted: %s", img_name(c->target),
			 strerror(-rc));
		write_done(k, rc, &e);
		img_error_clear(&e);
	}
}

/* Is [off, off + len) of the target packed? Not where it ends inside of a unit that goes on. */
static bool packs(const struct copy *c, uint64_t off, size_t len)
{
	return c->o->compress &&
	       (len == img_unit_bytes(c->target) || off + len == img_size(c->target));
}

static void submit_write(struct chunk *k, struct iovec *iov, size_t at, size_t len)
{
	struct copy *c = k->c;
	uint64_t off = c->o->target_off + k->off + at;
	unsigned flags = (c->o->out_of_order ? 0 : IMG_SUBMIT_ORDERED) |
			 (packs(c, off, len) ? IMG_SUBMIT_COMPRESS : 0);
	int rc;

	*iov = (struct iovec){ k->data + at, len };
	k->writes++;
	rc = img_submit_writev(c->q, c->target, off, iov, 1, flags, write_done, k);
	if (rc) {
		struct img_error e = { 0 };

		img_fail(&e, rc, "%s: a write could not be submitted: %s", img_name(c->target),
			 strerror(-rc));
		write_done(k, rc, &e);
		img_error_clear(&e);
	}
}

static void write_chunk(struct chunk *k)
{
	struct copy *c = k->c;
	size_t at = 0, n = 0;

	k->state = CHUNK_WRITING;
	k->writes = 1;
	if (c->rc) {
		/* Failed elsewhere: just retire. */
	} else if (k->zero_len) {
		submit_zero(k, k->off, k->zero_len);
	} else if (c->o->no_sparse) {
		submit_write(k, k->iov, 0, k->len);
	} else if (c->o->compress) {
		if (!img_is_zero(k->data, k->len))
			submit_write(k, k->iov, 0, k->len);
		else
			submit_zero(k, k->off, k->len);
	} else {
		while (at < k->len) {
			uint64_t place = c->o->target_off + k->off + at;
			size_t run, first = c->grain - (size_t)(place % c->grain);

			if (img_zero_run(k->data + at, k->len - at, c->grain, first, &run))
				submit_zero(k, k->off + at, run);
			else
				submit_write(k, &k->iov[n++], at, run);
			at += run;
		}
	}
	write_over(k);
}

/* Write what is ready, in order unless any order will do. */
static void write_ready(struct copy *c)
{
	if (c->o->out_of_order) {
		for (unsigned i = 0; i < c->used; i++)
			if (ring(c, i)->state == CHUNK_READY)
				write_chunk(ring(c, i));
		return;
	}
	while (c->written < c->used && ring(c, c->written)->state == CHUNK_READY)
		write_chunk(ring(c, c->written++));
}

/* Chunks at the front that are through make room. */
static void retire(struct copy *c)
{
	while (c->used && ring(c, 0)->state == CHUNK_FREE) {
		struct chunk *k = ring(c, 0);

		c->retired = k->off + (k->zero_len ? k->zero_len : k->len);
		c->first = (c->first + 1) % c->window;
		c->used--;
		if (c->written)
			c->written--;
	}
}

/* ---- Reading ---- */

static void read_done(void *user, int rc, const struct img_error *err)
{
	struct chunk *k = user;

	if (rc && k->c->o->salvage && img_salvage_may(rc)) {
		k->state = CHUNK_UNREAD;
		k->c->unread++;
		return;
	}
	if (rc)
		fail(k->c, rc, err);
	k->state = CHUNK_READY;
}

/*
 * Chunks whose reading failed are read once more, piece by piece, when nothing else is under way: so
 * what is lost is told in order.
 */
static void salvage_unread(struct copy *c)
{
	while (img_queue_in_flight(c->q))
		img_queue_run(c->q, true);
	for (unsigned i = 0; i < c->used; i++) {
		struct chunk *k = ring(c, i);
		int rc;

		if (k->state != CHUNK_UNREAD)
			continue;
		rc = c->rc ? 0 : img_salvage_read(&c->salvage, k->off, k->data, k->len, c->err);
		if (rc)
			c->rc = rc;
		k->state = CHUNK_READY;
	}
	c->unread = 0;
}

static struct chunk *next_chunk(struct copy *c)
{
	struct chunk *k = ring(c, c->used++);

	k->off = c->pos;
	k->zero_len = 0;
	return k;
}

static int read_chunk(struct copy *c, size_t len)
{
	struct chunk *k = next_chunk(c);
	int rc;

	if (!k->data) {
		k->data = aligned_alloc(4096, round_up_u64(c->chunk_bytes, 4096));
		k->iov = calloc(c->chunk_bytes / c->grain + 2, sizeof(*k->iov));
		if (!k->data || !k->iov) {
			k->state = CHUNK_FREE;
			return img_fail(c->err, -ENOMEM, "out of memory for copying");
		}
	}
	k->len = len;
	k->read_iov = (struct iovec){ k->data, len };
	k->state = CHUNK_READING;
	c->pos += len;
	c->pace.moved += len;
	rc = img_submit_readv(c->q, c->source, k->off, &k->read_iov, 1, 0, read_done, k);
	if (rc) {
		k->state = CHUNK_FREE;
		return img_fail(c->err, rc, "%s: a read could not be submitted: %s",
				img_name(c->source), strerror(-rc));
	}
	return 0;
}

/* ---- Extents ---- */

enum need {
	NEED_NOTHING,
	NEED_ZERO,
	NEED_DATA,
};

/* What must be done for the source at off, and for how long (to the end of the extent). */
static int look(struct copy *c, uint64_t off, enum need *need, uint64_t *len)
{
	struct img_map_entry *x = &c->extent;
	uint64_t below = c->o->skip_backing_below;

	if (!c->have_extent || off < x->start || off - x->start >= x->length) {
		int rc = img_map(c->source, off, c->size - off, true, x, c->err);

		if (rc && (!c->o->salvage || !img_salvage_may(rc)))
			return rc;
		if (rc) { /* reading it will fail as well: there it is dealt with */
			*x = (struct img_map_entry){ .start = off,
						     .length = img_salvage_step(c->source, off),
						     .present = true,
						     .data = true };
			img_error_clear(c->err);
		}
		c->have_extent = true;
	}
	*len = x->start + x->length - off;
	if (below && (x->depth >= below || !x->present))
		*need = NEED_NOTHING;
	else if (x->zero && !c->o->no_sparse)
		*need = NEED_ZERO;
	else
		*need = NEED_DATA;
	return 0;
}

/* From pos on: how far does the same need go (at most max for data)? */
static int gather(struct copy *c, uint64_t max, enum need *need, uint64_t *len)
{
	uint64_t end = c->pos;
	int rc = 0;

	*need = NEED_NOTHING;
	while (end < c->size && (end == c->pos || *need != NEED_DATA || end - c->pos < max)) {
		enum need n;
		uint64_t run;

		rc = look(c, end, &n, &run);
		if (rc)
			return rc;
		if (end == c->pos)
			*need = n;
		else if (n != *need)
			break;
		end += run;
	}
	*len = end - c->pos;
	if (*need == NEED_DATA)
		*len = min_u64(*len, max);
	return 0;
}

/* Compressed targets take whole units: is any of the unit's data needed? */
static int gather_unit(struct copy *c, enum need *need, uint64_t *len)
{
	uint64_t unit = c->chunk_bytes, end = c->pos;

	*need = NEED_NOTHING;
	*len = 0;
	do {
		enum need n;
		uint64_t run;
		int rc = look(c, end, &n, &run);

		if (rc)
			return rc;
		if (n > *need)
			*need = n;
		end += run;
		/* A long run of what needs little is answered at once, in whole units. */
		if (*need != NEED_DATA && end == c->size)
			break;
	} while (end < c->size && end - c->pos < unit);
	if (*need == NEED_DATA || end - c->pos < unit)
		*len = min_u64(unit, c->size - c->pos);
	else
		*len = end == c->size ? end - c->pos : align_down_u64(end - c->pos, unit);
	return 0;
}

/* Start as many chunks as there is room for. */
static int fill_window(struct copy *c)
{
	while (c->pos < c->size && c->used < c->window) {
		uint64_t boundary = c->chunk_bytes - c->pos % c->chunk_bytes, len;
		enum need need;
		int rc = c->o->compress ? gather_unit(c, &need, &len)
					: gather(c, boundary, &need, &len);

		if (rc)
			return rc;
		if (need == NEED_NOTHING || (need == NEED_ZERO && c->o->target_is_zero)) {
			c->pos += len;
			if (!c->used)
				c->retired = c->pos;
		} else if (need == NEED_ZERO) {
			struct chunk *k = next_chunk(c);

			k->zero_len = len;
			k->state = CHUNK_READY;
			c->pos += len;
		} else if (img_pace_wait(&c->pace)) {
			return 0;
		} else {
			rc = read_chunk(c, (size_t)len);
			if (rc)
				return rc;
		}
	}
	return 0;
}

/* ---- The job ---- */

static int run(struct copy *c)
{
	while (c->used || (!c->rc && (c->pos < c->size || img_pace_wait(&c->pace)))) {
		if (!c->rc && c->o->progress && c->o->progress(c->o->user, c->retired, c->size))
			c->rc = img_fail(c->err, -ECANCELED, "interrupted");
		if (!c->rc)
			c->rc = fill_window(c);
		write_ready(c);
		retire(c);
		if (img_queue_in_flight(c->q))
			img_queue_run(c->q, true);
		else if (!c->used)
			img_pace_nap(&c->pace);
		if (c->unread)
			salvage_unread(c);
		write_ready(c);
		retire(c);
	}
	img_salvage_end(&c->salvage);
	if (!c->rc && c->o->progress)
		c->o->progress(c->o->user, c->size, c->size);
	return c->rc;
}

/* How many chunks, and how large: their size decides what is found to be zeroes, their number not. */
static void size_window(struct copy *c)
{
	unsigned cores = img_cpu_count(), most;

	if (c->o->compress) {
		/* Enough for all cores to pack while others are read and written. */
		c->chunk_bytes = (size_t)img_unit_bytes(c->target);
		most = (unsigned)max_u64(WINDOW_BYTES / c->chunk_bytes, cores + 2);
		c->window = 2 * (cores > DEFAULT_WINDOW ? cores : (unsigned)DEFAULT_WINDOW);
		c->window = c->window < most ? c->window : most;
	} else {
		c->chunk_bytes = CHUNK;
		c->window = DEFAULT_WINDOW;
	}
	if (c->o->parallel) {
		most = (unsigned)min_u64(MAX_WINDOW, MAX_BYTES / c->chunk_bytes);
		c->window = c->o->parallel < most ? c->o->parallel : most;
	}
	if (c->window > MAX_WINDOW)
		c->window = MAX_WINDOW;
}

int img_copy(struct img *source, struct img *target, const struct img_copy_options *options,
	     struct img_error *err)
{
	static const struct img_copy_options defaults;
	struct copy c = { .source = source,
			  .target = target,
			  .o = options ? options : &defaults,
			  .size = img_size(source),
			  .salvage.source = source,
			  .err = err };
	int rc;

	c.salvage.unreadable = c.o->unreadable;
	c.salvage.user = c.o->user;
	if (!range_in(c.o->target_off, c.size, img_size(target)))
		return img_fail(err, -ENOSPC, "%s: %llu bytes at %llu do not fit in %llu",
				img_name(target), (unsigned long long)c.size,
				(unsigned long long)c.o->target_off,
				(unsigned long long)img_size(target));
	if (c.o->compress && !is_aligned_u64(c.o->target_off, img_unit_bytes(target)))
		return img_fail(err, -EINVAL,
				"%s: a compressed copy to %llu does not begin at a "
				"cluster of %llu",
				img_name(target), (unsigned long long)c.o->target_off,
				(unsigned long long)img_unit_bytes(target));
	size_window(&c);
	c.grain = img_zero_grain(target, c.o->sparse_bytes, c.chunk_bytes);
	img_pace_begin(&c.pace, c.o->rate);
	c.chunks = calloc(c.window, sizeof(*c.chunks));
	if (!c.chunks)
		return img_fail(err, -ENOMEM, "out of memory for copying");
	for (unsigned i = 0; i < c.window; i++)
		c.chunks[i].c = &c;
	rc = img_queue_new(c.o->io, &c.q, err);
	if (!rc)
		rc = run(&c);
	img_queue_free(c.q);
	for (unsigned i = 0; i < c.window; i++) {
		free(c.chunks[i].data);
		free(c.chunks[i].iov);
	}
	free(c.chunks);
	return rc;
}
