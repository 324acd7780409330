/* io: opening, closing, and requests in flight. */
#include "tools/io_session.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/io_report.h"
#include "tools/open.h"
#include "tools/report.h"

enum {
	PIECE_BYTES = 4 << 20,	    /* most that is in flight of one request */
	BUFFERED_BYTES = 256 << 20, /* most that is in flight in all, but for one request */
	PAGE_BYTES = 4096,
	MISALIGNMENT = 16,
};

/* ---- The image ---- */

int io_session_open(struct io_session *s, const struct io_open *how)
{
	enum img_io_kind io = how->io;
	struct open_request request = {
		.name = how->name,
		.format = how->format,
		.image_opts = how->image_opts,
		.references = how->references,
		.flags = how->flags,
		.warn_if_probed = !how->read_only,
		.io = &io,
	};
	struct img_error *err = img_error_new();
	struct img_queue *queue = NULL;
	struct img *img = NULL;
	char *subject = NULL;

	if (asprintf(&subject, "can't open%s%s", how->image_opts ? "" : " device ",
		     how->image_opts ? "" : how->name) < 0) {
		subject = NULL;
		report_error("out of memory");
		goto out;
	}
	request.subject = subject;
	if (!how->read_only)
		request.flags |= IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE;
	if (!how->read_only && (how->flags & IMG_OPEN_SHARE)) {
		report_error("%s: force-share=on can only be used with read-only images", subject);
		goto out;
	}
	img = open_image(&request);
	if (!img)
		goto out;
	if (img_queue_new(io, &queue, err)) {
		report_failure(err, "%s", subject);
		img_close(img, NULL);
		goto out;
	}
	s->img = img;
	s->queue = queue;
	s->writable = !how->read_only;
	s->may_change = false;
out:
	free(subject);
	img_error_free(err);
	return queue ? 0 : 1;
}

bool io_session_may_change(struct io_session *s)
{
	if (!s->may_change)
		s->may_change = open_check_children(s->img, s->force);
	return s->may_change;
}

void io_session_drain(struct io_session *s)
{
	while (s->queue && img_queue_in_flight(s->queue))
		img_queue_run(s->queue, true);
}

int io_session_close(struct io_session *s)
{
	struct img_error *err;
	int rc;

	if (!s->img)
		return 0;
	io_session_drain(s);
	img_queue_free(s->queue);
	s->queue = NULL;
	err = img_error_new();
	rc = img_close(s->img, err);
	s->img = NULL;
	if (rc)
		report_error("The image could not be written out: %s", img_error_text(err));
	img_error_free(err);
	return rc ? 1 : 0;
}

/* ---- How a request ends ---- */

struct io_request *io_request_new(struct io_session *s, enum io_kind kind)
{
	struct io_request *r = calloc(1, sizeof(*r));

	if (!r) {
		report_error("out of memory");
		return NULL;
	}
	r->session = s;
	r->kind = kind;
	return r;
}

void io_request_free(struct io_request *r)
{
	if (!r)
		return;
	r->session->buffered -= r->buf_bytes;
	io_content_close(&r->content);
	free(r->parts);
	free(r->memory);
	free(r->iov);
	free(r);
}

/* Damage is what a guest would see as a disk that fails. */
static const char *reason(int rc)
{
	return strerror(rc == -EUCLEAN ? EIO : -rc);
}

static void print_difference(const struct io_request *r)
{
	const struct io_difference *d = &r->difference;

	printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n",
	       r->off + r->compare_off, r->compare_len);
	if (r->explain)
		printf("%" PRIu64 " bytes differ, the first at offset %" PRIu64
		       ": found 0x%02x, expected 0x%02x\n",
		       d->count, d->off, d->found, d->wanted);
}

/* Returns the exit code. */
static int report(const struct io_request *r)
{
	struct io_report numbers = {
		.verb = r->verb,
		.off = r->off,
		.len = r->len,
		.seconds = r->seconds,
		.machine = r->machine,
	};

	if (r->rc) {
		if (!r->reported)
			printf("%s failed: %s\n", r->subject, reason(r->rc));
		return 1;
	}
	if (r->difference.count)
		print_difference(r);
	if (!r->quiet) {
		/* More than one piece was printed piece by piece. */
		if (r->dump && r->len <= r->buf_bytes)
			io_dump(r->off, r->buf, r->len);
		if (!r->difference.count || !r->explain)
			io_report_print(&numbers);
	}
	return r->difference.count ? 1 : 0;
}

static void finish(struct io_request *r)
{
	r->finished = true;
	if (r->alone) {
		report(r);
		io_request_free(r);
	}
}

/* sentence NULL: there is none. */
static void fail(struct io_request *r, int rc, const char *sentence)
{
	r->rc = rc;
	if (sentence && *sentence)
		report_error("%s", sentence);
	finish(r);
}

/* ---- How it goes ---- */

static void next(struct io_request *r);

/* A piece was read. False: what it is compared with cannot be had; reported. */
static bool verify_piece(struct io_request *r)
{
	uint64_t from = r->compare_off, end = r->compare_off + r->compare_len;

	if (r->dump && !r->quiet && r->len > r->buf_bytes)
		io_dump(r->off + r->done, r->buf, r->piece);
	if (!r->compare)
		return true;
	if (from < r->done)
		from = r->done;
	if (end > r->done + r->piece)
		end = r->done + r->piece;
	return from >= end || io_content_compare(&r->content, r->off + from, from,
						 r->buf + (from - r->done), (size_t)(end - from),
						 &r->difference);
}

static void piece_done(void *user, int rc, const struct img_error *err)
{
	struct io_request *r = user;

	r->seconds += io_clock() - r->since;
	if (rc) {
		fail(r, rc, img_error_text(err));
		return;
	}
	if (r->kind == IO_READ && !verify_piece(r)) {
		r->reported = true;
		fail(r, -EIO, NULL);
		return;
	}
	r->done += r->piece;
	if (r->done < r->len)
		next(r);
	else
		finish(r);
}

/* The piece's buffer as the parts that the request was given in. Returns how many there are. */
static int cut_piece(struct io_request *r)
{
	uint64_t begin = 0, end, from = r->done, till = r->done + r->piece;
	size_t i;
	int n = 0;

	if (!r->parts) {
		r->iov[0] = (struct iovec){ r->buf, r->piece };
		return 1;
	}
	for (i = 0; i < r->part_count; i++, begin = end) {
		uint64_t first = begin > from ? begin : from, last;

		end = begin + r->parts[i];
		last = end < till ? end : till;
		if (first >= last)
			continue;
		r->iov[n].iov_base = r->buf + (first - from);
		r->iov[n++].iov_len = (size_t)(last - first);
	}
	return n;
}

static int submit_piece(struct io_request *r, struct img_error *err)
{
	struct io_session *s = r->session;
	uint64_t off = r->off + r->done, left = r->len - r->done;

	switch (r->kind) {
	case IO_ZERO:
		r->done = r->len;
		return img_submit_zero(s->queue, s->img, off, left, r->flags, piece_done, r, err);
	case IO_DISCARD:
		r->done = r->len;
		return img_submit_discard(s->queue, s->img, off, left, r->flags, piece_done, r,
					  err);
	case IO_FLUSH:
		return img_submit_flush(s->queue, s->img, piece_done, r, err);
	case IO_READ:
	case IO_WRITE:
		break;
	}
	r->piece = left < r->buf_bytes ? (size_t)left : r->buf_bytes;
	if (r->kind == IO_READ)
		return img_submit_readv(s->queue, s->img, off, r->iov, cut_piece(r), r->flags,
					piece_done, r, err);
	if (!io_content_fill(&r->content, off, r->done, r->buf, r->piece)) {
		r->reported = true;
		return -EIO;
	}
	r->since = io_clock();
	return img_submit_writev(s->queue, s->img, off, r->iov, cut_piece(r),
				 r->flags, piece_done, r, err);
}

static void next(struct io_request *r)
{
	struct img_error *err = img_error_new();
	int rc;

	r->since = io_clock();
	rc = submit_piece(r, err);
	if (rc)
		fail(r, rc, r->reported ? NULL : img_error_text(err));
	img_error_free(err);
}

/* ---- Before it goes ---- */

/* False: the range is not in the disk; what is printed on standard output is report()'s. */
static bool is_in_disk(struct io_request *r)
{
	uint64_t size = img_size(r->session->img);

	if (r->off <= size && r->len <= size - r->off)
		return true;
	r->rc = -EIO;
	report_error("%s: %" PRIu64 " bytes at offset %" PRIu64 " reach past the end of the disk, "
		     "at %" PRIu64,
		     r->subject, r->len, r->off, size);
	return false;
}

/* Buffers of a request are bounded by a piece, those of many by waiting here. */
static bool make_buffers(struct io_request *r)
{
	struct io_session *s = r->session;
	uint64_t want = PIECE_BYTES;
	size_t bytes;

	if (r->kind != IO_READ && r->kind != IO_WRITE)
		return true;
	if (r->flags & IMG_SUBMIT_COMPRESS)
		want = img_unit_bytes(s->img);
	bytes = (size_t)(r->len < want ? r->len : want);
	while (s->buffered + bytes > BUFFERED_BYTES && img_queue_in_flight(s->queue))
		img_queue_run(s->queue, true);
	if (posix_memalign(&r->memory, PAGE_BYTES, bytes + MISALIGNMENT))
		r->memory = NULL;
	r->iov = calloc(r->part_count ? r->part_count : 1, sizeof(*r->iov));
	if (!r->memory || !r->iov) {
		r->rc = -ENOMEM;
		return false;
	}
	r->buf = (uint8_t *)r->memory + (s->misalign ? MISALIGNMENT : 0);
	r->buf_bytes = bytes;
	s->buffered += bytes;
	return true;
}

static void start(struct io_request *r)
{
	if (is_in_disk(r) && make_buffers(r) && (r->len || r->kind == IO_FLUSH))
		next(r);
	else
		finish(r);
}

/* False: it must not be, and is gone. */
static bool may_start(struct io_request *r)
{
	bool changes = r->kind == IO_WRITE || r->kind == IO_ZERO || r->kind == IO_DISCARD;
	bool may = !changes || io_session_may_change(r->session);

	if (!may)
		io_request_free(r);
	return may;
}

int io_request_run(struct io_request *r)
{
	struct io_session *s = r->session;
	int code;

	if (!may_start(r))
		return 1;
	start(r);
	while (!r->finished)
		img_queue_run(s->queue, true);
	code = report(r);
	io_request_free(r);
	return code;
}

int io_request_start(struct io_request *r)
{
	if (!may_start(r))
		return 1;
	r->alone = true;
	start(r);
	return 0;
}
