/*
 * Copying images, one behind the other: a pipeline with a bounded window of chunks. Holes are never
 * read; what is read is searched for zeroes; chunks are written in guest order (unless any order
 * will do), so that the same input gives the same file whatever the number of chunks in flight.
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
#include "libimg/base/pool.h"
#include "libimg/image/arguments.h"
#include "libimg/image/context.h"
#include "libimg/jobs/copy.h"
#include "libimg/jobs/rate_limit.h"
#include "libimg/jobs/salvage.h"
#include "libimg/jobs/concat.h"
#include "libimg/jobs/map_ahead.h"
#include "libimg/jobs/target.h"
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
	uint64_t off;
	size_t len;
	uint8_t *data; /* NULL: a range of zeroes, len in zero_len */
	uint8_t *old;  /* what the target has, if compare */
	bool compare;  /* write only what differs */
	bool unread;   /* reading failed in a way that can be salvaged */
	uint64_t zero_len;
	unsigned reads;	 /* requests in flight on the sources and, for `old`, the target; and 1 while
			    submitting */
	unsigned writes; /* requests in flight on the target, and 1 while submitting */
	struct iovec *read_iov, old_iov;
	struct iovec *iov; /* one for each write of a run */
	size_t iov_used;
};

/* A range of a disk whose mapping is known. */
struct known {
	struct img_map_entry extent;
	bool valid;
};

/* Whether source and target are images of their own. */
enum copy_way {
	COPY_ACROSS,
	COPY_DOWN, /* the target is below the source: img_copy_down() */
	COPY_UP,   /* the target is the source: img_copy_up() */
};

struct copy {
	enum copy_way way;
	struct img_concat sources;
	struct img_map_ahead ahead; /* ACROSS: of the sources */
	struct img *target;
	struct img *compared; /* what chunks are compared with; NULL: zeroes */
	const struct img_copy_options *o;
	struct img_queue *q;
	struct chunk *chunks;	      /* a ring in guest order */
	unsigned window, first, used; /* chunks [first, first + used) are in flight, in order */
	unsigned written;	      /* of these, the first `written` have their writes submitted */
	size_t chunk_bytes, grain;
	uint64_t pos, size, retired;
	enum img_target_state state;	     /* of the target at the beginning */
	struct known source_at, target_at;   /* around pos */
	bool shares;			     /* the depths below are there */
	uint32_t source_depth, target_depth; /* in the chains of the source and of what it is compared
						with; DOWN: the target's below the source */
	struct img_salvage salvage;
	unsigned unread; /* chunks that are */
	struct img_rate_limit limit;
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

/* ---- Where things are ---- */

static bool covers(const struct known *k, uint64_t off)
{
	return k->valid && off >= k->extent.start && off - k->extent.start < k->extent.length;
}

/* Of what the source is compared with, which reads as zeroes behind its end. */
static int map_target(struct copy *c, uint64_t off, struct known *k, struct img_error *err)
{
	uint64_t size = c->compared ? img_size(c->compared) : 0;
	int rc = 0;

	if (off >= size)
		k->extent = (struct img_map_entry){ .start = off,
						    .length = UINT64_MAX - off,
						    .zero = true };
	else if (!covers(k, off))
		rc = img_map(c->compared, off, size - off, true, &k->extent, err);
	k->valid = !rc;
	return rc;
}

static int map_source(struct copy *c, uint64_t off, struct known *k, struct img_error *err)
{
	int rc = 0;

	if (covers(k, off))
		return 0;
	/* Where the target is a part of the chain, changes move what is ahead. */
	rc = c->way == COPY_ACROSS ? img_map_ahead_get(&c->ahead, off, &k->extent, err)
				   : img_concat_map(&c->sources, off, &k->extent, err);
	if (rc && c->o->salvage && img_salvage_may(rc)) {
		/* Reading it will fail as well: there it is dealt with. */
		k->extent = (struct img_map_entry){ .start = off,
						    .length = img_salvage_step(&c->sources, off),
						    .present = true,
						    .data = true };
		img_error_clear(err);
		rc = 0;
	}
	k->valid = !rc;
	return rc;
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

/* The request that submitting gave rc for: if it was refused it is over. */
static void check_submit(struct chunk *k, int rc)
{
	struct img_error e = { 0 };

	if (!rc)
		return;
	img_fail(&e, rc, "%s: a request could not be submitted: %s", img_name(k->c->target),
		 strerrordesc_np(-rc));
	write_done(k, rc, &e);
	img_error_clear(&e);
}

static void zero_with(struct chunk *k, uint64_t off, uint64_t len, unsigned flags)
{
	struct copy *c = k->c;

	if (!len)
		return;
	flags |= c->o->out_of_order ? 0 : IMG_SUBMIT_ORDERED;
	k->writes++;
	check_submit(k, img_submit_zero(c->q, c->target, off, len, flags, write_done, k, NULL));
}

/*
 * Upwards, zeroes must be the image's own, though it may read as zeroes there by what is below it, or for
 * there is nothing: for that parts of units, or all, have to be allocated.
 */
static void zero_range(struct chunk *k, uint64_t off, uint64_t len)
{
	const struct img *target = k->c->target;
	uint64_t unit = img_unit_bytes(target), first = min_u64(len, (unit - off % unit) % unit),
		 units;

	if (k->c->way != COPY_UP) {
		zero_with(k, off, len, IMG_SUBMIT_MAY_UNMAP);
		return;
	}
	units = off + len == img_size(target) ? len - first : multiple_down_u64(len - first, unit);
	zero_with(k, off, first, IMG_SUBMIT_KEEP_ALLOCATED);
	zero_with(k, off + first, units,
		  target->parent ? IMG_SUBMIT_MAY_UNMAP : IMG_SUBMIT_KEEP_ALLOCATED);
	zero_with(k, off + first + units, len - first - units, IMG_SUBMIT_KEEP_ALLOCATED);
}

/* Zero what is not known to be. */
static void submit_zero(struct chunk *k, uint64_t off, uint64_t len)
{
	struct copy *c = k->c;
	struct known at = { 0 };
	struct img_error e = { 0 };

	if (c->state == IMG_TARGET_USED)
		zero_range(k, off, len);
	for (uint64_t n; c->state == IMG_TARGET_MAPPED && len; off += n, len -= n) {
		int rc = map_target(c, off, &at, &e);

		if (rc) {
			fail(c, rc, &e);
			break;
		}
		n = min_u64(len, at.extent.length);
		if (!at.extent.zero)
			zero_range(k, off, n);
	}
	img_error_clear(&e);
}

/* Is [off, off + len) of the target packed? Not a part of a unit, unless the disk ends with it. */
static bool packs(const struct copy *c, uint64_t off, size_t len)
{
	uint64_t unit = img_unit_bytes(c->target);

	return c->o->compress && off % unit == 0 &&
	       (len == unit || off + len == img_size(c->target));
}

static void submit_write(struct chunk *k, size_t at, size_t len)
{
	struct copy *c = k->c;
	struct iovec *iov = &k->iov[k->iov_used++];
	uint64_t off = k->off + at;
	unsigned flags = (c->o->out_of_order ? 0 : IMG_SUBMIT_ORDERED) |
			 (packs(c, off, len) ? IMG_SUBMIT_COMPRESS : 0);

	*iov = (struct iovec){ k->data + at, len };
	k->writes++;
	check_submit(k,
		     img_submit_writev(c->q, c->target, off, iov, 1, flags, write_done, k, NULL));
}

/* How long is the first piece of what is left at `at`? Pieces end at multiples of the grain. */
static size_t to_grain(const struct chunk *k, size_t at)
{
	return k->c->grain - (size_t)((k->off + at) % k->c->grain);
}

/* What [at, at + len) of the chunk holds is to be in the target. */
static void write_run(struct chunk *k, size_t at, size_t len)
{
	struct copy *c = k->c;
	size_t end = at + len, run;
	bool zero;

	for (; at < end; at += run) {
		run = end - at;
		if (c->o->no_sparse)
			zero = false;
		else if (c->o->compress)
			zero = img_is_zero(k->data + at, run);
		else
			zero = img_zero_run(k->data + at, end - at, c->grain, to_grain(k, at),
					    &run);
		if (zero)
			submit_zero(k, k->off + at, run);
		else
			submit_write(k, at, run);
	}
}

static bool differs(const struct chunk *k, size_t at, size_t len)
{
	return memcmp(k->data + at, k->old + at, len) != 0;
}

/* The runs in which the target has something else. Of compressed units, all or nothing. */
static void write_differences(struct chunk *k)
{
	size_t at = 0, end;

	if (k->c->o->compress) {
		if (differs(k, 0, k->len))
			write_run(k, 0, k->len);
		return;
	}
	for (; at < k->len; at = end) {
		bool differ = differs(k, at, min_size(to_grain(k, at), k->len - at));

		end = at;
		do {
			end += min_size(to_grain(k, end), k->len - end);
		} while (end < k->len &&
			 differs(k, end, min_size(to_grain(k, end), k->len - end)) == differ);
		if (differ)
			write_run(k, at, end - at);
	}
}

static void write_chunk(struct chunk *k)
{
	k->state = CHUNK_WRITING;
	k->writes = 1;
	k->iov_used = 0;
	if (k->c->rc)
		; /* failed elsewhere: just retire */
	else if (k->zero_len)
		submit_zero(k, k->off, k->zero_len);
	else if (k->compare)
		write_differences(k);
	else
		write_run(k, 0, k->len);
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

static void read_over(struct chunk *k)
{
	if (--k->reads)
		return;
	k->state = k->unread ? CHUNK_UNREAD : CHUNK_READY;
	k->c->unread += k->unread;
}

static void read_done(void *user, int rc, const struct img_error *err)
{
	struct chunk *k = user;

	if (rc && k->c->o->salvage && img_salvage_may(rc))
		k->unread = true;
	else if (rc)
		fail(k->c, rc, err);
	read_over(k);
}

static void old_done(void *user, int rc, const struct img_error *err)
{
	struct chunk *k = user;

	if (rc)
		fail(k->c, rc, err);
	read_over(k);
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
		rc = c->rc ? 0
			   : img_salvage_read(&c->salvage, c->q, k->off, k->data, k->len, c->err);
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
	k->compare = k->unread = false;
	return k;
}

static bool make_room(struct chunk *k)
{
	const struct copy *c = k->c;
	size_t bytes = (size_t)round_up_u64(c->chunk_bytes, 4096);

	if (!k->data)
		k->data = aligned_alloc(4096, bytes);
	if (!k->old && k->compare)
		k->old = aligned_alloc(4096, bytes);
	if (!k->iov)
		k->iov = calloc(c->chunk_bytes / c->grain + 2, sizeof(*k->iov));
	if (!k->read_iov)
		k->read_iov = calloc(img_concat_most(&c->sources, c->chunk_bytes),
				     sizeof(*k->read_iov));
	return k->data && (k->old || !k->compare) && k->iov && k->read_iov;
}

/* What a chunk is compared with. */
static int read_old(struct chunk *k)
{
	struct copy *c = k->c;
	uint64_t size = c->compared ? img_size(c->compared) : 0;
	size_t len = k->off < size ? (size_t)min_u64(k->len, size - k->off) : 0;
	int rc;

	memset(k->old + len, 0, k->len - len);
	if (!len)
		return 0;
	k->old_iov = (struct iovec){ k->old, len };
	rc = img_submit_readv(c->q, c->compared, k->off, &k->old_iov, 1, 0, old_done, k, NULL);
	if (rc)
		return img_fail(c->err, rc, "%s: a read could not be submitted: %s",
				img_name(c->compared), strerrordesc_np(-rc));
	k->reads++;
	return 0;
}

static int read_chunk(struct copy *c, size_t len, bool compare)
{
	struct chunk *k = next_chunk(c);
	unsigned submitted;
	int rc;

	k->compare = compare;
	if (!make_room(k)) {
		k->state = CHUNK_FREE;
		return img_fail(c->err, -ENOMEM, "out of memory for copying");
	}
	k->len = len;
	k->state = CHUNK_READING;
	k->reads = 1;
	c->pos += len;
	c->limit.moved += len;
	rc = img_concat_read(&c->sources, c->q, k->off, k->data, len, k->read_iov, &submitted,
			     read_done, k, c->err);
	k->reads += submitted;
	if (!rc && compare)
		rc = read_old(k);
	read_over(k);
	return rc;
}

/* ---- Extents ---- */

enum need {
	NEED_NOTHING,
	NEED_ZERO,
	NEED_DATA,
	NEED_COMPARE,
};

static bool needs_reading(enum need need)
{
	return need == NEED_DATA || need == NEED_COMPARE;
}

/*
 * The same where the target is an image below the source: what it is read from itself is there. What
 * is not there for an image between the two ends too early reads as zeroes.
 */
static int need_down(struct copy *c, uint64_t off, enum need *need, uint64_t *len)
{
	const struct img_map_entry *x = &c->source_at.extent, *y = &c->target_at.extent;
	int rc = map_source(c, off, &c->source_at, c->err);

	if (rc)
		return rc;
	*len = x->start + x->length - off;
	*need = x->depth >= c->target_depth ? NEED_NOTHING : NEED_DATA;
	if (*need == NEED_NOTHING || !x->zero)
		return 0;
	rc = map_target(c, off, &c->target_at, c->err);
	*len = min_u64(*len, y->start + y->length - off);
	*need = y->zero ? NEED_NOTHING : NEED_ZERO;
	return rc;
}

/* The same where the source is the target itself, whose parts from below are to be its own. */
static int need_up(struct copy *c, uint64_t off, enum need *need, uint64_t *len)
{
	const struct img_map_entry *x = &c->source_at.extent, *y = &c->target_at.extent;
	int rc = map_source(c, off, &c->source_at, c->err);

	if (rc)
		return rc;
	*len = x->start + x->length - off;
	*need = NEED_NOTHING;
	if (!x->depth && x->present)
		return 0;
	rc = map_target(c, off, &c->target_at, c->err);
	*len = min_u64(*len, y->start + y->length - off);
	if (!(x->zero && y->zero) &&
	    !(c->shares && x->depth >= c->source_depth && y->depth >= c->target_depth))
		*need = NEED_COMPARE;
	return rc;
}

/*
 * What must be done for the disk at off, and for how long (to the end of the extent). What the
 * source has from its backing images the target may have from its own: that is so where both lead to
 * the same image, and else is found out by looking at both. Only the map of the whole target tells
 * where it leads: a part of an image that exists already may hold something else.
 */
static int need_at(struct copy *c, uint64_t off, enum need *need, uint64_t *len)
{
	const struct img_map_entry *x = &c->source_at.extent, *y = &c->target_at.extent;
	bool zero, below, alike = false;
	int rc;

	if (c->way != COPY_ACROSS)
		return c->way == COPY_DOWN ? need_down(c, off, need, len)
					   : need_up(c, off, need, len);
	rc = map_source(c, off, &c->source_at, c->err);
	if (rc)
		return rc;
	*len = x->start + x->length - off;
	zero = x->zero && !c->o->no_sparse;
	below = c->o->share_backing && (x->depth || !x->present);
	if (below || (zero && c->state == IMG_TARGET_MAPPED)) {
		rc = map_target(c, off, &c->target_at, c->err);
		if (rc)
			return rc;
		*len = min_u64(*len, y->start + y->length - off);
		alike = zero && y->zero;
	}
	if (below && c->shares && x->depth >= c->source_depth && y->depth >= c->target_depth)
		alike = true;
	if (alike || (zero && c->state == IMG_TARGET_ZERO))
		*need = NEED_NOTHING;
	else if (below && !c->shares)
		*need = NEED_COMPARE;
	else
		*need = zero ? NEED_ZERO : NEED_DATA;
	return 0;
}

/* From pos on: how far does the same need go (at most max for what is read)? */
static int gather(struct copy *c, uint64_t max, enum need *need, uint64_t *len)
{
	uint64_t end = c->pos;

	*need = NEED_NOTHING;
	while (end < c->size && (end == c->pos || !needs_reading(*need) || end - c->pos < max)) {
		enum need n;
		uint64_t run;
		int rc = need_at(c, end, &n, &run);

		if (rc)
			return rc;
		if (end == c->pos)
			*need = n;
		else if (n != *need)
			break;
		end += run;
	}
	*len = end - c->pos;
	if (needs_reading(*need))
		*len = min_u64(*len, max);
	return 0;
}

/*
 * The same for compressed targets, which take whole units, of which max bytes are left: if not all
 * of the unit needs the same, all of its data is needed.
 */
static int gather_unit(struct copy *c, uint64_t max, enum need *need, uint64_t *len)
{
	uint64_t unit = c->chunk_bytes, run;
	int rc = need_at(c, c->pos, need, &run);

	if (rc)
		return rc;
	max = min_u64(max, c->size - c->pos);
	if (run >= max && !needs_reading(*need)) { /* whole units at once */
		uint64_t end = c->pos + run;

		*len = end == c->size ? run : multiple_down_u64(end, unit) - c->pos;
		return 0;
	}
	*len = max;
	while (run < max) {
		enum need n;
		uint64_t more;

		rc = need_at(c, c->pos + run, &n, &more);
		if (rc)
			return rc;
		if (n != *need)
			*need = NEED_DATA;
		run += more;
	}
	return 0;
}

/* Start as many chunks as there is room for. */
static int fill_window(struct copy *c)
{
	while (c->pos < c->size && c->used < c->window) {
		uint64_t boundary = c->chunk_bytes - c->pos % c->chunk_bytes, len;
		enum need need;
		int rc = c->o->compress ? gather_unit(c, boundary, &need, &len)
					: gather(c, boundary, &need, &len);

		if (rc)
			return rc;
		if (need == NEED_NOTHING) {
			c->pos += len;
			if (!c->used)
				c->retired = c->pos;
		} else if (need == NEED_ZERO) {
			struct chunk *k = next_chunk(c);

			k->zero_len = len;
			k->state = CHUNK_READY;
			c->pos += len;
		} else if (img_rate_limit_wait(&c->limit)) {
			return 0;
		} else {
			rc = read_chunk(c, (size_t)len, need == NEED_COMPARE);
			if (rc)
				return rc;
		}
	}
	return 0;
}

/* ---- The job ---- */

static int run(struct copy *c)
{
	while (c->used || (!c->rc && (c->pos < c->size || img_rate_limit_wait(&c->limit)))) {
		if (!c->rc && c->o->progress && c->o->progress(c->o->user, c->retired, c->size))
			c->rc = img_fail(c->err, -ECANCELED, "interrupted");
		if (!c->rc)
			c->rc = fill_window(c);
		write_ready(c);
		retire(c);
		if (img_queue_in_flight(c->q))
			img_queue_run(c->q, true);
		else if (!c->used)
			img_rate_limit_sleep(&c->limit);
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

/*
 * The first image that the source's chain and what is compared have in common, if there is one. depth: of
 * `other`.
 */
static void find_shared(struct copy *c, const struct img *other, uint32_t depth)
{
	c->source_depth = 0;
	for (const struct img *a = c->sources.images[0]; a; a = a->parent, c->source_depth++) {
		c->target_depth = depth;
		for (const struct img *b = other; b; b = b->parent, c->target_depth++) {
			c->shares = img_context_is_same(a, b);
			if (c->shares)
				return;
		}
	}
}

static int check(const struct copy *c)
{
	if (c->size > img_size(c->target))
		return img_fail(c->err, -ENOSPC, "%s: %llu bytes do not fit in %llu",
				img_name(c->target), (unsigned long long)c->size,
				(unsigned long long)img_size(c->target));
	if (c->o->share_backing && c->sources.count != 1)
		return img_fail(c->err, -EINVAL,
				"%s: several images have no backing image in common with it",
				img_name(c->target));
	return 0;
}

static int copy(struct copy *c)
{
	int rc;

	c->state = img_target_state(c->target, c->o->target_is_zero);
	if (c->way == COPY_UP)
		find_shared(c, c->compared, 0);
	else if (c->o->share_backing)
		find_shared(c, c->target->parent, 1);
	size_window(c);
	c->grain = img_zero_grain(c->target, c->o->sparse_bytes, c->chunk_bytes);
	img_rate_limit_begin(&c->limit, c->o->rate);
	c->chunks = calloc(c->window, sizeof(*c->chunks));
	if (!c->chunks)
		return img_fail(c->err, -ENOMEM, "out of memory for copying");
	for (unsigned i = 0; i < c->window; i++)
		c->chunks[i].c = c;
	rc = img_queue_new(c->o->io, &c->q, c->err);
	if (!rc && c->way == COPY_ACROSS)
		rc = img_map_ahead_init(&c->ahead, &c->sources, c->q, c->err);
	if (!rc)
		rc = run(c);
	img_map_ahead_destroy(&c->ahead);
	img_queue_free(c->q);
	for (unsigned i = 0; i < c->window; i++) {
		free(c->chunks[i].data);
		free(c->chunks[i].old);
		free(c->chunks[i].iov);
		free(c->chunks[i].read_iov);
	}
	free(c->chunks);
	return rc;
}

static int begin(struct copy *c, struct img *const *sources, size_t count)
{
	int rc = img_check_copy_options(c->o, c->err);

	if (!rc)
		rc = img_concat_init(&c->sources, sources, count, c->err);
	c->size = c->sources.size;
	c->salvage = (struct img_salvage){ .sources = &c->sources,
					   .unreadable = c->o->unreadable,
					   .user = c->o->user };
	if (!rc)
		rc = check(c);
	return rc ? rc : copy(c);
}

int img_copy(struct img *const *sources, size_t count, struct img *target,
	     const struct img_copy_options *options, struct img_error *err)
{
	static const struct img_copy_options defaults;
	struct copy c = { .target = target,
			  .compared = target,
			  .o = options ? options : &defaults,
			  .err = err };

	return begin(&c, sources, count);
}

int img_copy_down(struct img *top, struct img *base, const struct img_copy_options *options,
		  struct img_error *err)
{
	struct copy c = {
		.way = COPY_DOWN, .target = base, .compared = base, .o = options, .err = err
	};

	for (const struct img *i = top; i != base; i = i->parent)
		c.target_depth++;
	return begin(&c, &top, 1);
}

int img_copy_up(struct img *img, struct img *backing, const struct img_copy_options *options,
		struct img_error *err)
{
	struct copy c = {
		.way = COPY_UP, .target = img, .compared = backing, .o = options, .err = err
	};

	return begin(&c, &img, 1);
}
