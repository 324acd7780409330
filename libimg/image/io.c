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
#include "libimg/image/img.h"
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

/* ---- Blocking ---- */

static int run(struct img *img, enum img_request_kind kind, uint64_t off, uint64_t len,
	       struct iovec *iov, int iovcnt, struct img_error *err)
{
	struct img_request r = {
		.kind = kind,
		.off = off,
		.len = len,
		.iov = iov,
		.iovcnt = iovcnt,
		.may_unmap = true,
	};

	return img_request_run(img, &r, err);
}

int img_read(struct img *img, uint64_t off, void *buf, size_t len, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct iovec iov = { buf, len };
	int rc = check_range(img, off, len, err);

	if (rc || !len)
		return rc;
	return run(img, IMG_REQUEST_READ, off, len, &iov, 1, err);
}

int img_write(struct img *img, uint64_t off, const void *buf, size_t len, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct iovec iov = { (void *)(uintptr_t)buf, len };
	int rc = check_change(img, off, len, err);

	if (!rc)
		rc = img_guard_write(img, off, &iov, 1, err);
	if (rc || !len)
		return rc;
	return run(img, IMG_REQUEST_WRITE, off, len, &iov, 1, err);
}

int img_zero(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = check_change(img, off, len, err);

	if (!rc)
		rc = img_guard_zero(img, off, len, err);
	if (rc || !len)
		return rc;
	return run(img, IMG_REQUEST_ZERO, off, len, NULL, 0, err);
}

int img_discard(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = check_change(img, off, len, err);

	if (!rc)
		rc = img_guard_zero(img, off, len, err);
	if (rc || !len)
		return rc;
	return run(img, IMG_REQUEST_DISCARD, off, len, NULL, 0, err);
}

int img_flush(struct img *img, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = check_image(img, err);

	if (rc || !img->writable)
		return rc;
	return run(img, IMG_REQUEST_FLUSH, 0, 0, NULL, 0, err);
}

/* ---- Queues ---- */

static enum img_ioq_kind ioq_kind(enum img_io_kind kind)
{
	return kind == IMG_IO_URING_KIND     ? IMG_IOQ_URING
	       : kind == IMG_IO_THREADS_KIND ? IMG_IOQ_THREADS
					     : IMG_IOQ_AUTO;
}

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

	return rc ? rc : img_engine_queue_new(ioq_kind(kind), out, err);
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

static int start(struct img_queue *q, struct img *img, enum img_request_kind kind, uint64_t off,
		 uint64_t len, struct iovec *iov, int iovcnt, unsigned flags, img_done_fn *done,
		 void *user)
{
	struct img_request r = { .kind = kind,
				 .off = off,
				 .len = len,
				 .iov = iov,
				 .iovcnt = iovcnt,
				 .ordered = flags & IMG_SUBMIT_ORDERED,
				 .compress = flags & IMG_SUBMIT_COMPRESS,
				 .may_unmap = flags & IMG_SUBMIT_MAY_UNMAP,
				 .done = done,
				 .user = user };
	int rc = check_queue(q, NULL);
	IMG_NOT_CANCELLED;

	return rc ? rc : img_request_submit(q, img, &r);
}

int img_submit_readv(struct img_queue *q, struct img *img, uint64_t off, struct iovec *iov,
		     int iovcnt, unsigned flags, img_done_fn *done, void *user)
{
	uint64_t len;
	int rc;

	if (flags || !img_iov_length(iov, iovcnt, &len))
		return -EINVAL;
	rc = check_range(img, off, len, NULL);
	return rc ? rc
		  : start(q, img, IMG_REQUEST_READ, off, len, iov, iovcnt, flags, done, user);
}

/* A compressed write is one unit, or what is left of the disk. */
static int check_compressed(const struct img *img, uint64_t off, uint64_t len)
{
	uint64_t unit = img->unit_bytes;

	if (!img->compress_codec)
		return -ENOTSUP;
	if (off % unit || !len || len > unit || (len < unit && off + len != img->size))
		return -EINVAL;
	return 0;
}

int img_submit_writev(struct img_queue *q, struct img *img, uint64_t off, struct iovec *iov,
		      int iovcnt, unsigned flags, img_done_fn *done, void *user)
{
	uint64_t len;
	int rc;

	if ((flags & ~(unsigned)(IMG_SUBMIT_ORDERED | IMG_SUBMIT_COMPRESS)) ||
	    !img_iov_length(iov, iovcnt, &len))
		return -EINVAL;
	rc = check_change(img, off, len, NULL);
	if (!rc && (flags & IMG_SUBMIT_COMPRESS))
		rc = check_compressed(img, off, len);
	if (!rc)
		rc = img_guard_write(img, off, iov, iovcnt, NULL);
	return rc ? rc
		  : start(q, img, IMG_REQUEST_WRITE, off, len, iov, iovcnt, flags, done, user);
}

static int start_without_data(struct img_queue *q, struct img *img, enum img_request_kind kind,
			      uint64_t off, uint64_t len, unsigned flags, img_done_fn *done,
			      void *user)
{
	unsigned known = IMG_SUBMIT_ORDERED;
	int rc;

	if (kind == IMG_REQUEST_ZERO)
		known |= IMG_SUBMIT_MAY_UNMAP;
	if (flags & ~known)
		return -EINVAL;
	rc = check_change(img, off, len, NULL);
	if (!rc)
		rc = img_guard_zero(img, off, len, NULL);
	return rc ? rc : start(q, img, kind, off, len, NULL, 0, flags, done, user);
}

int img_submit_zero(struct img_queue *q, struct img *img, uint64_t off, uint64_t len,
		    unsigned flags, img_done_fn *done, void *user)
{
	return start_without_data(q, img, IMG_REQUEST_ZERO, off, len, flags, done, user);
}

int img_submit_discard(struct img_queue *q, struct img *img, uint64_t off, uint64_t len,
		       unsigned flags, img_done_fn *done, void *user)
{
	return start_without_data(q, img, IMG_REQUEST_DISCARD, off, len, flags, done, user);
}

int img_submit_flush(struct img_queue *q, struct img *img, img_done_fn *done, void *user)
{
	int rc = check_image(img, NULL);

	return rc ? rc : start(q, img, IMG_REQUEST_FLUSH, 0, 0, NULL, 0, 0, done, user);
}
