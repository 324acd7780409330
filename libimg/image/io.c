/*
 * The public I/O calls: checked, then handed to the engine.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/engine/engine.h"
#include "libimg/engine/request.h"
#include "libimg/image/img.h"
#include "libimg/image/place.h"

/* ---- Checks ---- */

static int check_range(const struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	if (img->place->flags & IMG_OPEN_SELF_ONLY)
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
		return img_fail(err, -EBADF, "%s: the image is open read-only", img->name);
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
	struct iovec iov = { buf, len };
	int rc = check_range(img, off, len, err);

	if (rc || !len)
		return rc;
	return run(img, IMG_REQUEST_READ, off, len, &iov, 1, err);
}

int img_write(struct img *img, uint64_t off, const void *buf, size_t len, struct img_error *err)
{
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
	int rc = check_change(img, off, len, err);

	if (!rc)
		rc = img_guard_zero(img, off, len, err);
	if (rc || !len)
		return rc;
	return run(img, IMG_REQUEST_ZERO, off, len, NULL, 0, err);
}

int img_discard(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	int rc = check_change(img, off, len, err);

	if (!rc)
		rc = img_guard_zero(img, off, len, err);
	if (rc || !len)
		return rc;
	return run(img, IMG_REQUEST_DISCARD, off, len, NULL, 0, err);
}

int img_flush(struct img *img, struct img_error *err)
{
	if (!img->writable)
		return 0;
	return run(img, IMG_REQUEST_FLUSH, 0, 0, NULL, 0, err);
}

/* ---- Queues ---- */

static enum img_ioq_kind ioq_kind(enum img_io_kind kind)
{
	return kind == IMG_IO_URING_KIND     ? IMG_IOQ_URING
	       : kind == IMG_IO_THREADS_KIND ? IMG_IOQ_THREADS
					     : IMG_IOQ_AUTO;
}

int img_queue_new(enum img_io_kind kind, struct img_queue **out, struct img_error *err)
{
	return img_engine_queue_new(ioq_kind(kind), out, err);
}

void img_queue_free(struct img_queue *q)
{
	img_engine_queue_free(q);
}

int img_queue_fd(const struct img_queue *q)
{
	return img_engine_queue_fd(q);
}

int img_queue_run(struct img_queue *q, bool wait)
{
	return img_engine_queue_run(q, wait);
}

size_t img_queue_in_flight(const struct img_queue *q)
{
	return img_engine_queue_in_flight(q);
}

int img_queue_set_buffers(struct img_queue *q, const struct iovec *iov, unsigned count,
			  struct img_error *err)
{
	int rc = img_engine_queue_set_buffers(q, iov, count);

	return rc ? img_fail(err, rc, "%u buffers could not be registered: %s", count,
			     strerrordesc_np(-rc))
		  : 0;
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

	return img_request_submit(q, img, &r);
}

static bool iov_length(const struct iovec *iov, int iovcnt, uint64_t *len)
{
	*len = 0;
	for (int i = 0; i < iovcnt; i++)
		if (!add_u64(*len, iov[i].iov_len, len))
			return false;
	return iovcnt >= 0;
}

int img_submit_readv(struct img_queue *q, struct img *img, uint64_t off, struct iovec *iov,
		     int iovcnt, unsigned flags, img_done_fn *done, void *user)
{
	uint64_t len;

	if (flags || !iov_length(iov, iovcnt, &len) || check_range(img, off, len, NULL))
		return -EINVAL;
	return start(q, img, IMG_REQUEST_READ, off, len, iov, iovcnt, flags, done, user);
}

int img_submit_writev(struct img_queue *q, struct img *img, uint64_t off, struct iovec *iov,
		      int iovcnt, unsigned flags, img_done_fn *done, void *user)
{
	uint64_t len, unit = img->unit_bytes;

	if ((flags & ~(unsigned)(IMG_SUBMIT_ORDERED | IMG_SUBMIT_COMPRESS)) ||
	    !iov_length(iov, iovcnt, &len) || check_change(img, off, len, NULL))
		return -EINVAL;
	if (flags & IMG_SUBMIT_COMPRESS) {
		if (!img->compress_codec)
			return -ENOTSUP;
		if (!is_aligned_u64(off, unit) || !len || len > unit ||
		    (len < unit && off + len != img->size))
			return -EINVAL;
	}
	if (img_guard_write(img, off, iov, iovcnt, NULL))
		return -EPERM;
	return start(q, img, IMG_REQUEST_WRITE, off, len, iov, iovcnt, flags, done, user);
}

int img_submit_zero(struct img_queue *q, struct img *img, uint64_t off, uint64_t len,
		    unsigned flags, img_done_fn *done, void *user)
{
	if ((flags & ~(unsigned)(IMG_SUBMIT_ORDERED | IMG_SUBMIT_MAY_UNMAP)) ||
	    check_change(img, off, len, NULL))
		return -EINVAL;
	if (img_guard_zero(img, off, len, NULL))
		return -EPERM;
	return start(q, img, IMG_REQUEST_ZERO, off, len, NULL, 0, flags, done, user);
}

int img_submit_discard(struct img_queue *q, struct img *img, uint64_t off, uint64_t len,
		       unsigned flags, img_done_fn *done, void *user)
{
	if ((flags & ~(unsigned)IMG_SUBMIT_ORDERED) || check_change(img, off, len, NULL))
		return -EINVAL;
	if (img_guard_zero(img, off, len, NULL))
		return -EPERM;
	return start(q, img, IMG_REQUEST_DISCARD, off, len, NULL, 0, flags, done, user);
}

int img_submit_flush(struct img_queue *q, struct img *img, img_done_fn *done, void *user)
{
	return start(q, img, IMG_REQUEST_FLUSH, 0, 0, NULL, 0, 0, done, user);
}
