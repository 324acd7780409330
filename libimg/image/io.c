/*
 * The public I/O calls: checked, then handed to the engine. The same check for every way to ask, so
 * that the same mistake has the same answer.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/cancel.h"
#include "libimg/base/iovec.h"
#include "libimg/engine/engine.h"
#include "libimg/engine/request.h"
#include "libimg/image/arguments.h"
#include "libimg/img.h"
#include "libimg/image/context.h"

/* ---- Checks ---- */

static int check_image(const struct img *img, struct img_error *err)
{
	return img_context_is_ours(img, err);
}

static int check_range(const struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	int rc = check_image(img, err);

	if (rc)
		return rc;
	if (img->context->flags & IMG_OPEN_SELF_ONLY)
		return img_fail(err, -EINVAL, "%s: opened for its own report only", img->name);
	if (!range_in(off, len, img->size))
		return img_fail(err, -EINVAL,
				"%s: %" PRIu64 " bytes at %" PRIu64 " reach past the "
				"end of the image at %" PRIu64,
				img->name, len, off, img->size);
	return 0;
}

static int check_writable(const struct img *img, struct img_error *err)
{
	if (!img->writable)
		return img_fail(err, -EROFS, "%s: the image is open read-only", img->name);
	return 0;
}

static int check_change(const struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	int rc = check_writable(img, err);

	return rc ? rc : check_range(img, off, len, err);
}

/* ---- Flags ---- */

enum {
	OF_ALL = IMG_SUBMIT_ORDERED | IMG_SUBMIT_FUA, /* that change something */
	OF_WRITE = OF_ALL | IMG_SUBMIT_COMPRESS,
	OF_ZERO = OF_ALL | IMG_SUBMIT_MAY_UNMAP | IMG_SUBMIT_KEEP_ALLOCATED | IMG_SUBMIT_FAST,
};

static unsigned known_flags(enum img_request_kind kind)
{
	switch (kind) {
	case IMG_REQUEST_WRITE:
		return OF_WRITE;
	case IMG_REQUEST_ZERO:
		return OF_ZERO;
	case IMG_REQUEST_DISCARD:
		return OF_ALL;
	case IMG_REQUEST_READ:
	case IMG_REQUEST_FLUSH:
	case IMG_REQUEST_LOOKUP:
		break;
	}
	return 0;
}

static int check_flags(enum img_request_kind kind, unsigned flags, struct img_error *err)
{
	unsigned unknown = flags & ~known_flags(kind),
		 both = IMG_SUBMIT_MAY_UNMAP | IMG_SUBMIT_KEEP_ALLOCATED;

	if (unknown)
		return img_fail(err, -EINVAL, "flags of a request are %#x, which its kind does "
					      "not have",
				unknown);
	if ((flags & both) == both)
		return img_fail(err, -EINVAL,
				"IMG_SUBMIT_MAY_UNMAP and IMG_SUBMIT_KEEP_ALLOCATED contradict each other");
	return 0;
}

static void set_flags(struct img_request *r, unsigned flags)
{
	r->ordered = flags & IMG_SUBMIT_ORDERED;
	r->compress = flags & IMG_SUBMIT_COMPRESS;
	r->may_unmap = flags & IMG_SUBMIT_MAY_UNMAP;
	r->keep_allocated = flags & IMG_SUBMIT_KEEP_ALLOCATED;
	r->fast = flags & IMG_SUBMIT_FAST;
	r->fua = flags & IMG_SUBMIT_FUA;
}

/* A compressed write is one unit, or what is left of the disk. */
static int check_compressed(const struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	uint64_t unit = img->unit_bytes;

	if (!img->compress_codec)
		return img_fail(err, -ENOTSUP, "%s: %s stores nothing compressed", img->name,
				img->driver->name);
	if (off % unit || !len || len > unit || (len < unit && off + len != img->size))
		return img_fail(err, -EINVAL,
				"%s: a compressed write of %" PRIu64 " bytes at %" PRIu64
				": expected a unit of %" PRIu64 " bytes",
				img->name, len, off, unit);
	return 0;
}

/* May this be done? */
static int check_request(struct img *img, const struct img_request *r, unsigned flags,
			 struct img_error *err)
{
	int rc = check_flags(r->kind, flags, err);

	if (rc)
		return rc;
	if (r->kind == IMG_REQUEST_READ)
		return check_range(img, r->off, r->len, err);
	rc = check_change(img, r->off, r->len, err);
	if (!rc && r->compress)
		rc = check_compressed(img, r->off, r->len, err);
	if (rc)
		return rc;
	return r->kind == IMG_REQUEST_WRITE ? img_guard_write(img, r->off, r->iov, r->iovcnt, err)
					    : img_guard_zero(img, r->off, r->len, err);
}

/* ---- Blocking ---- */

static int run(struct img *img, enum img_request_kind kind, uint64_t off, void *buf, uint64_t len,
	       unsigned flags, struct img_error *err)
{
	struct iovec iov = { buf, buf ? (size_t)len : 0 };
	struct img_request r = { .kind = kind, .off = off, .len = len };
	int rc;

	if (kind == IMG_REQUEST_READ || kind == IMG_REQUEST_WRITE) {
		r.iov = &iov;
		r.iovcnt = 1;
	}
	set_flags(&r, flags);
	rc = check_request(img, &r, flags, err);
	return rc || !len ? rc : img_request_run(img, &r, err);
}

int img_read(struct img *img, uint64_t off, void *buf, size_t len, struct img_error *err)
{
	IMG_NOT_CANCELLED;

	return run(img, IMG_REQUEST_READ, off, buf, len, 0, err);
}

int img_write_with(struct img *img, uint64_t off, const void *buf, size_t len, unsigned flags,
		   struct img_error *err)
{
	IMG_NOT_CANCELLED;

	return run(img, IMG_REQUEST_WRITE, off, (void *)(uintptr_t)buf, len, flags, err);
}

int img_write(struct img *img, uint64_t off, const void *buf, size_t len, struct img_error *err)
{
	return img_write_with(img, off, buf, len, 0, err);
}

int img_zero_with(struct img *img, uint64_t off, uint64_t len, unsigned flags, struct img_error *err)
{
	IMG_NOT_CANCELLED;

	return run(img, IMG_REQUEST_ZERO, off, NULL, len, flags, err);
}

int img_zero(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	return img_zero_with(img, off, len, IMG_SUBMIT_MAY_UNMAP, err);
}

int img_discard_with(struct img *img, uint64_t off, uint64_t len, unsigned flags,
		     struct img_error *err)
{
	IMG_NOT_CANCELLED;

	return run(img, IMG_REQUEST_DISCARD, off, NULL, len, flags, err);
}

int img_discard(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	return img_discard_with(img, off, len, 0, err);
}

int img_flush(struct img *img, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = check_image(img, err);

	if (rc || !img->writable)
		return rc;
	return img_request_run(img, &(struct img_request){ .kind = IMG_REQUEST_FLUSH }, err);
}

/* ---- Queues ---- */

static int check_queue(const struct img_queue *q, struct img_error *err)
{
	if (img_engine_queue_is_ours(q))
		return 0;
	return img_fail(err, -EPERM, "the queue is the parent process's: fork() does not hand it on");
}

int img_queue_new(enum img_io_kind kind, struct img_queue **out, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = img_check_io_kind(kind, err);

	return rc ? rc : img_engine_queue_new(kind, out, err);
}

int img_queue_close(struct img_queue *q, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = q ? check_queue(q, err) : 0;

	if (rc)
		return rc;
	rc = img_engine_queue_free(q);
	if (rc == -EBUSY)
		img_fail(err, rc, "the queue has %zu requests in flight",
			 img_engine_queue_in_flight(q));
	else if (rc)
		img_fail(err, rc, "the queue cannot be freed by a function that it has called");
	return rc;
}

void img_queue_free(struct img_queue *q)
{
	img_queue_close(q, NULL);
}

int img_queue_fd(const struct img_queue *q)
{
	return img_engine_queue_fd(q);
}

int img_queue_run(struct img_queue *q, bool wait)
{
	IMG_NOT_CANCELLED;
	int rc = check_queue(q, NULL);

	return rc ? rc : img_engine_queue_run(q, wait);
}

size_t img_queue_in_flight(const struct img_queue *q)
{
	return img_engine_queue_in_flight(q);
}

int img_queue_set_buffers(struct img_queue *q, const struct iovec *iov, unsigned count,
			  struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = check_queue(q, err);

	if (!rc) {
		rc = img_engine_queue_set_buffers(q, iov, count);
		if (rc)
			img_fail(err, rc, "%u buffers could not be registered: %s", count,
				 strerrordesc_np(-rc));
	}
	return rc;
}

/* Checked in full, or not begun. */
static int start(struct img_queue *q, struct img *img, struct img_request *r, unsigned flags,
		 img_done_fn *done, void *user, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc;

	set_flags(r, flags);
	r->done = done;
	r->user = user;
	rc = r->kind == IMG_REQUEST_FLUSH ? check_image(img, err)
					  : check_request(img, r, flags, err);
	if (!rc)
		rc = check_queue(q, err);
	if (rc)
		return rc;
	rc = img_request_submit(q, img, r);
	return rc ? img_fail(err, rc, "%s: out of memory for a request", img->name) : 0;
}

static int start_with_data(struct img_queue *q, struct img *img, enum img_request_kind kind,
			   uint64_t off, struct iovec *iov, int iovcnt, unsigned flags,
			   img_done_fn *done, void *user, struct img_error *err)
{
	struct img_request r = { .kind = kind, .off = off, .iov = iov, .iovcnt = iovcnt };

	if (iovcnt < 0)
		return img_fail(err, -EINVAL, "number of buffers of a request is %d", iovcnt);
	if (!img_iov_length(iov, iovcnt, &r.len))
		return img_fail(err, -EINVAL, "buffers of a request: their sum is above 2^64");
	return start(q, img, &r, flags, done, user, err);
}

int img_submit_readv(struct img_queue *q, struct img *img, uint64_t off, struct iovec *iov,
		     int iovcnt, unsigned flags, img_done_fn *done, void *user, struct img_error *err)
{
	return start_with_data(q, img, IMG_REQUEST_READ, off, iov, iovcnt, flags, done, user, err);
}

int img_submit_writev(struct img_queue *q, struct img *img, uint64_t off, struct iovec *iov,
		      int iovcnt, unsigned flags, img_done_fn *done, void *user, struct img_error *err)
{
	return start_with_data(q, img, IMG_REQUEST_WRITE, off, iov, iovcnt, flags, done, user, err);
}

int img_submit_zero(struct img_queue *q, struct img *img, uint64_t off, uint64_t len,
		    unsigned flags, img_done_fn *done, void *user, struct img_error *err)
{
	struct img_request r = { .kind = IMG_REQUEST_ZERO, .off = off, .len = len };

	return start(q, img, &r, flags, done, user, err);
}

int img_submit_discard(struct img_queue *q, struct img *img, uint64_t off, uint64_t len,
		       unsigned flags, img_done_fn *done, void *user, struct img_error *err)
{
	struct img_request r = { .kind = IMG_REQUEST_DISCARD, .off = off, .len = len };

	return start(q, img, &r, flags, done, user, err);
}

int img_submit_flush(struct img_queue *q, struct img *img, img_done_fn *done, void *user,
		     struct img_error *err)
{
	struct img_request r = { .kind = IMG_REQUEST_FLUSH };

	return start(q, img, &r, 0, done, user, err);
}
