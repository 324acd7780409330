/*
 * Reading: one extent a piece. Bytes come straight into the caller's buffers; compressed units are
 * decoded in the worker pool, straight into them too where a whole unit was asked for.
 */
#include "libimg/engine/read.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/iovec.h"
#include "libimg/engine/batch.h"

/* More than a format has reason to store for a unit; a bound for what is read at once. */
enum {
	MAX_UNIT = 64 << 20,
	STORED_SLACK = 64 << 10,
	DECODE_TOGETHER = 4,	     /* units of up to 64 KiB: each takes 20 to 100 us */
	DECODE_BYTES_MAX = 48 << 20, /* of memory for what is being read and decoded at once on a queue */
	DECRYPT_TOGETHER = 16,	     /* reads; a sector takes less than a microsecond */
	MAX_DECRYPT = 1 << 20,	     /* bytes that one thread decrypts, in a buffer of their own */
};

/*
 * An extent has to be there: a file that was cut short is not one that is full of zeroes. One that the
 * end cuts off is shortened to what is left of it; of a compressed unit what is left may be all.
 */
static int check_room(const struct img *img, uint64_t off, struct img_extent *x,
		      struct img_error *err)
{
	bool compressed = x->kind == IMG_COMPRESSED;
	uint64_t end, left;

	if (!compressed && (x->kind != IMG_DATA || x->open_end))
		return 0;
	end = max_u64(atomic_load(&x->storage->size), atomic_load(&x->storage->due));
	left = end - min_u64(end, x->file_off);
	if (left >= (compressed ? x->stored_bytes : x->length))
		return 0;
	if (compressed && left > x->header_bytes) {
		x->stored_bytes = (uint32_t)left;
		return 0;
	}
	left = align_down_u64(off + left, IMG_META_SECTOR);
	if (!compressed && left > off) {
		x->length = left - off;
		return 0;
	}
	return img_fail(err, -EUCLEAN,
			"%s: truncated: ends at %" PRIu64 ", data of guest offset %" PRIu64 " of "
			"%s lies at %" PRIu64,
			x->storage->name, end, off, img->name, x->file_off);
}

int img_read_resolve(struct img *top, struct img_req *req, uint64_t off, uint64_t *len,
		     struct img_extent *out, struct img **level, uint64_t *version)
{
	struct img *img = top;

	*version = 0;

	for (;;) {
		struct img_engine *e = img->engine;
		int rc;

		pthread_mutex_lock(&e->lock);
		*version += img_engine_mapped(e, off);
		if (off >= img->size) { /* past the end of a backing file shorter than its child */
			pthread_mutex_unlock(&e->lock);
			*out = (struct img_extent){ .kind = IMG_ZERO, .length = *len };
			break;
		}
		*len = min_u64(*len, img->size - off);
		*out = (struct img_extent){ 0 };
		req->engine = e;
		rc = img->driver->map(img, req, off, *len, out);
		if (!rc)
			img_req_unpin(req, e);
		pthread_mutex_unlock(&e->lock);
		if (!rc)
			rc = check_room(img, off, out, req->err);
		if (rc)
			return rc;
		*len = min_u64(*len, out->length);
		if (out->kind != IMG_BACKING)
			break;
		if (!img->parent) {
			out->kind = IMG_ZERO;
			out->storage = NULL;
			break;
		}
		img = img->parent;
	}
	*level = img;
	return 0;
}

int img_read_level(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		   struct img_extent *out)
{
	struct img_engine *e = img->engine;
	int rc;

	*out = (struct img_extent){ 0 };
	pthread_mutex_lock(&e->lock);
	while (e->alone)
		pthread_cond_wait(&e->changed, &e->lock);
	req->engine = e;
	rc = img->driver->map(img, req, off, len, out);
	if (rc != IMG_NEED_METADATA)
		img_req_unpin(req, e);
	pthread_mutex_unlock(&e->lock);
	return rc ? rc : check_room(img, off, out, req->err);
}

/* ---- Plain data ---- */

/* Bytes between the begin of p's first sector, as its cipher counts them, and p's begin. */
static uint64_t into_sector(const struct img_extent *x)
{
	return x->tweak % x->cipher->sector_bytes;
}

/* On a pool thread. */
static void decrypt(struct img_piece *p)
{
	const struct img_extent *x = &p->extent;

	p->rc = x->cipher->decrypt(x->cipher, x->tweak - into_sector(x), p->unit.at,
				   (size_t)p->io.len);
}

static void decrypted(struct img_piece *p)
{
	if (p->rc)
		img_fail(&p->err, p->rc, "%s: decryption failed at guest offset %" PRIu64,
			 p->level->name, p->off);
	else
		img_iov_scatter(p->iov, p->iovcnt, p->unit.at + into_sector(&p->extent));
	img_piece_done(p, p->rc);
}

static void data_done(struct img_io *io)
{
	struct img_piece *p = IMG_CONTAINER(io, struct img_piece, io);
	struct img_extent *x = &p->extent;
	int rc = io->rc;

	if (rc) {
		img_io_fail(io, &p->err);
		img_piece_done(p, rc);
	} else if (x->cipher) {
		img_batch_add(p, DECRYPT_TOGETHER, decrypt, decrypted);
	} else {
		img_piece_done(p, 0);
	}
}

static void read_data(struct img_piece *p)
{
	struct img_extent *x = &p->extent;
	uint64_t before = x->cipher ? into_sector(x) : 0;

	p->io = (struct img_io){ .storage = x->storage,
				 .op = IMG_IO_READ,
				 .iov = p->iov,
				 .iovcnt = p->iovcnt,
				 .len = p->len,
				 .done = data_done };
	p->io.off = x->file_off - before;
	if (x->cipher) {
		p->io.len = round_up_u64(before + p->len, x->cipher->sector_bytes);
		if (!img_buffer_get(&p->queue->buffers, (size_t)p->io.len, &p->unit)) {
			img_piece_done(p, -ENOMEM);
			return;
		}
		p->io.one = (struct iovec){ p->unit.at, (size_t)p->io.len };
		p->io.iov = &p->io.one;
		p->io.iovcnt = 1;
	}
	img_ioq_submit(p->queue->ioq, &p->io);
}

/* ---- Compressed units ---- */

static void read_compressed(struct img_piece *p);

/* Those who waited for p's unit get their part of it, or try by themselves. */
static void serve_waiting(struct img_piece *p)
{
	struct img_cached_unit *unit = p->decoding;
	struct img_list waiting, *node;

	p->decoding = NULL;
	img_list_init(&waiting);
	img_unit_cache_end(unit, &p->unit, &waiting);
	/* all of them before the first is done: what comes then may throw the unit out */
	for (node = waiting.next; !p->rc && node != &waiting; node = node->next) {
		struct img_piece *w = IMG_CONTAINER(node, struct img_piece, batch_link);

		img_iov_scatter(w->iov, w->iovcnt, unit->bytes.at + w->extent.within);
	}
	while ((node = img_list_pop(&waiting))) {
		struct img_piece *w = IMG_CONTAINER(node, struct img_piece, batch_link);

		if (p->rc)
			read_compressed(w);
		else
			img_piece_done(w, 0);
	}
}

static void fetch_waiting(struct img_queue *q);

static void decoded(struct img_piece *p)
{
	struct img_queue *q = p->queue;

	q->decode_bytes -= p->decode_bytes;
	if (!p->rc && p->unit.at)
		img_iov_scatter(p->iov, p->iovcnt, p->unit.at + p->extent.within);
	if (p->rc)
		img_buffer_put(&p->queue->buffers, &p->unit);
	if (p->decoding)
		serve_waiting(p);
	img_piece_done(p, p->rc);
	fetch_waiting(q);
}

/* What is asked of the file is whole blocks where it is open with O_DIRECT: from here on. */
static uint64_t stored_from(const struct img_extent *x)
{
	return align_down_u64(x->file_off, x->storage->limits.io_align);
}

/* On a pool thread. */
static void decode(struct img_piece *p)
{
	const struct img_extent *x = &p->extent;
	const uint8_t *stored = p->stored.at + (x->file_off - stored_from(x));
	uint8_t *out = p->unit.at ? p->unit.at : p->iov[0].iov_base;
	bool own = x->storage == p->level->file; /* of the name that is said already */

	p->rc = x->codec->decode(stored + x->header_bytes, x->stored_bytes - x->header_bytes, out,
				 x->unit_bytes, &p->err);
	if (p->rc)
		img_error_prefix(&p->err, p->rc,
				 "%s: compressed data of guest offset %" PRIu64 " at %" PRIu64 "%s%s",
				 p->level->name, p->off - x->within, x->file_off, own ? "" : " of ",
				 own ? "" : x->storage->name);
}

static void stored_read(struct img_io *io)
{
	struct img_piece *p = IMG_CONTAINER(io, struct img_piece, io);

	p->rc = io->rc;
	if (io->rc) {
		img_io_fail(io, &p->err);
		decoded(p);
		return;
	}
	img_batch_add(p, p->extent.unit_bytes > 64 << 10 ? 1 : DECODE_TOGETHER, decode, decoded);
}

/* Straight into the caller's buffer? */
static bool is_whole(const struct img_piece *p)
{
	const struct img_extent *x = &p->extent;

	return !x->within && p->len == x->unit_bytes && p->iovcnt == 1;
}

/* What is read of the storage for it. */
static size_t stored_len(const struct img_extent *x)
{
	return (size_t)round_up_u64(x->file_off - stored_from(x) + x->stored_bytes,
				    x->storage->limits.io_align);
}

static void start_fetch(struct img_piece *p)
{
	const struct img_extent *x = &p->extent;
	bool whole = is_whole(p);
	uint64_t from = stored_from(x);
	size_t len = stored_len(x);

	p->queue->decode_bytes += p->decode_bytes;
	if (!img_buffer_get(&p->queue->buffers, len, &p->stored) ||
	    (!whole && !img_buffer_get(&p->queue->buffers, x->unit_bytes, &p->unit))) {
		p->rc = -ENOMEM;
		decoded(p);
		return;
	}
	p->io = (struct img_io){ .storage = x->storage,
				 .op = IMG_IO_READ,
				 .off = from,
				 .len = len,
				 .done = stored_read };
	p->io.one = (struct iovec){ p->stored.at, len };
	p->io.iov = &p->io.one;
	p->io.iovcnt = 1;
	img_ioq_submit(p->queue->ioq, &p->io);
}

/* Read the unit and decode it, when there is memory for it: units can be large, and requests many. */
static void fetch_unit(struct img_piece *p)
{
	struct img_queue *q = p->queue;

	p->decode_bytes = stored_len(&p->extent) + (is_whole(p) ? 0 : p->extent.unit_bytes);
	if (q->decode_bytes && q->decode_bytes + p->decode_bytes > DECODE_BYTES_MAX)
		img_list_add_tail(&q->undecoded, &p->batch_link);
	else
		start_fetch(p);
}

static void fetch_waiting(struct img_queue *q)
{
	while (!img_list_empty(&q->undecoded)) {
		struct img_piece *p = IMG_CONTAINER(q->undecoded.next, struct img_piece, batch_link);

		if (q->decode_bytes && q->decode_bytes + p->decode_bytes > DECODE_BYTES_MAX)
			break;
		img_list_pop(&q->undecoded);
		start_fetch(p);
	}
}

static void read_compressed(struct img_piece *p)
{
	const struct img_extent *x = &p->extent;
	struct img_engine *e = p->level->engine;
	uint64_t version = atomic_load(&e->reused);
	struct img_queue *q = p->queue;
	struct img_cached_unit *unit;

	p->decoding = NULL;
	/* Who reads whole units has no use for what is left over of them. */
	if ((!x->within && p->len == x->unit_bytes) || e->config.no_read_ahead) {
		fetch_unit(p);
		return;
	}
	unit = img_unit_cache_find(&q->units, version, x);
	if (!unit) {
		p->decoding = img_unit_cache_begin(&q->units, &q->buffers, version, x);
		fetch_unit(p);
	} else if (!unit->bytes.at) {
		img_list_add_tail(&unit->waiting, &p->batch_link);
	} else {
		img_iov_scatter(p->iov, p->iovcnt, unit->bytes.at + x->within);
		img_piece_done(p, 0);
	}
}

/* ---- Looking up ---- */

/*
 * img_read_resolve() for a piece, or what the queue knows from before. More than the piece needs is
 * looked up, and kept; what is wrong with the rest is no concern of this piece.
 */
static int resolve(struct img_piece *p, uint64_t *len)
{
	struct img *img = p->task->img;
	struct img_extent_cache *known = &p->queue->extents;
	uint64_t version, window = img_extent_cache_window(img);
	uint64_t run = max_u64(*len, window - p->off % window);
	int rc;

	if (img_extent_cache_find(known, img, p->off, len, &p->extent, &p->level))
		return 0;
	rc = img_read_resolve(img, &p->req, p->off, &run, &p->extent, &p->level, &version);
	if (rc < 0) {
		img_error_clear(&p->err);
		run = *len;
		rc = img_read_resolve(img, &p->req, p->off, &run, &p->extent, &p->level,
				      &version);
	}
	if (rc)
		return rc;
	img_extent_cache_keep(known, img, version, p->off, run, &p->extent, p->level);
	*len = min_u64(*len, run);
	return 0;
}

void img_read_piece(struct img_piece *p)
{
	struct img_extent *x = &p->extent;
	uint64_t len;
	int rc;

	do {
		if (!img_piece_enter(p))
			return;
		len = p->len;
		rc = resolve(p, &len);
		if (rc == IMG_NEED_METADATA)
			img_piece_leave(p);
	} while (rc == IMG_NEED_METADATA && img_piece_fetch(p));
	if (rc == IMG_NEED_METADATA)
		return;
	if (!rc && x->kind == IMG_COMPRESSED) {
		if (!x->unit_bytes || x->unit_bytes > MAX_UNIT || x->within >= x->unit_bytes ||
		    x->stored_bytes > 2 * x->unit_bytes + STORED_SLACK ||
		    x->stored_bytes <= x->header_bytes)
			rc = img_fail(&p->err, -EUCLEAN,
				      "%s: compressed data of guest offset %" PRIu64 ": %" PRIu32
				      " stored bytes for a unit of %" PRIu32,
				      p->level->name, p->off, x->stored_bytes, x->unit_bytes);
		else
			len = min_u64(len, x->unit_bytes - x->within);
	}
	if (!rc && x->kind == IMG_DATA && x->cipher)
		len = min_u64(len, MAX_DECRYPT - into_sector(x));
	if (!rc)
		rc = img_piece_assign(p, len);
	if (rc) {
		img_piece_done(p, rc);
		return;
	}
	switch (x->kind) {
	case IMG_DATA:
		read_data(p);
		break;
	case IMG_COMPRESSED:
		read_compressed(p);
		break;
	case IMG_ZERO:
	case IMG_BACKING:
		img_iov_zero(p->iov, p->iovcnt);
		img_piece_done(p, 0);
		break;
	}
}
