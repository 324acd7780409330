/*
 * A window: a range of another storage as a storage of its own (a partition, an image inside a file,
 * a member of an archive).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/ioq.h"
#include "libimg/storage/filter.h"

/* Bytes of [off, off + len) that lie in the window. */
static uint64_t inside(const struct img_filter *w, uint64_t off, uint64_t len)
{
	return off < w->capacity ? min_u64(len, w->capacity - off) : 0;
}

/* What of a request lies behind the window: zeroes to read, no space to write, nothing to discard. */
static int clip(const struct img_filter *w, enum img_io_op op, const struct iovec *iov, int iovcnt,
		uint64_t off, uint64_t *len)
{
	uint64_t in = inside(w, off, *len);
	struct img_cursor c = { .iov = iov, .iovcnt = iovcnt };

	if (op == IMG_IO_SYNC || in == *len)
		return 0;
	if (op == IMG_IO_WRITE || op == IMG_IO_ZERO)
		return -ENOSPC;
	if (op == IMG_IO_READ) {
		img_cursor_advance(&c, in);
		img_cursor_zero(&c, *len - in);
	}
	*len = in;
	return 0;
}

static void window_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	struct img_filter *w = img_filter_of(s);
	uint64_t len = io->len;

	io->rc = clip(w, io->op, io->iov, io->iovcnt, io->off, &len);
	if (io->rc || (!len && io->op != IMG_IO_SYNC))
		img_ioq_complete(q, io);
	else
		img_filter_submit(w, q, io, NULL, NULL);
}

static int window_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		     uint64_t off, uint64_t len, unsigned flags)
{
	struct img_filter *w = img_filter_of(s);
	struct iovec *part = NULL;
	uint64_t all = len;
	struct img_cursor c = { .iov = iov, .iovcnt = iovcnt };
	int rc = clip(w, op, iov, iovcnt, off, &len);

	if (rc || (!len && op != IMG_IO_SYNC))
		return rc;
	if (len < all && op == IMG_IO_READ) {
		part = calloc((size_t)iovcnt, sizeof(*part));
		if (!part)
			return -ENOMEM;
		iovcnt = img_cursor_window(&c, part, iovcnt);
		iovcnt = (int)img_iov_cut(part, (size_t)iovcnt, len);
		iov = part;
	}
	rc = img_storage_io(w->inner, op, iov, iovcnt, op == IMG_IO_SYNC ? 0 : off + w->start, len,
			    flags);
	free(part);
	img_filter_refresh(w);
	return rc;
}

static int window_resize(struct img_storage *s, uint64_t size, enum img_preallocate how)
{
	struct img_filter *w = img_filter_of(s);
	int rc;

	if (w->capacity != UINT64_MAX) /* the bytes stay where they are; only a smaller use is made of them */
		return size <= w->capacity ? 0 : -ENOSPC;
	rc = img_storage_resize(w->inner, w->start + size, how, NULL);
	img_filter_refresh(w);
	return rc;
}

static int window_extent(struct img_storage *s, uint64_t off, uint64_t len,
			 enum img_storage_extent *kind, uint64_t *run)
{
	struct img_filter *w = img_filter_of(s);

	return img_filter_extent(s, off, max_u64(inside(w, off, len), 1), kind, run);
}

/* Of all of inner: how much of it is the window's is not known to the file system. */
static uint64_t window_allocated(struct img_storage *s)
{
	return min_u64(img_filter_allocated(s), atomic_load(&s->size));
}

static void window_close(struct img_storage *s)
{
	struct img_filter *w = img_filter_of(s);

	img_filter_destroy(w);
	free(w);
}

static const struct img_storage_ops window_ops = {
	.submit = window_submit,
	.io = window_io,
	.resize = window_resize,
	.extent = window_extent,
	.allocated = window_allocated,
	.publish = img_filter_publish,
	.set_writable = img_filter_set_writable,
	.close = window_close,
};

int img_storage_window(struct img_storage *inner, uint64_t start, uint64_t capacity,
		       struct img_storage **out, struct img_error *err)
{
	uint64_t size = atomic_load(&inner->size), end = start;
	struct img_filter *w;

	if (start > size ||
	    (capacity != UINT64_MAX && (!add_u64(start, capacity, &end) || end > size)))
		return img_fail(err, -EINVAL,
				"%s: a window of %" PRIu64 " bytes at %" PRIu64 " ends behind its %" PRIu64
				" bytes",
				inner->name, capacity == UINT64_MAX ? 0 : capacity, start, size);
	w = calloc(1, sizeof(*w));
	if (!w || img_filter_init(w, &window_ops, inner)) {
		free(w);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	w->start = start;
	w->capacity = capacity;
	w->base.identity_off += start;
	if (capacity != UINT64_MAX)
		w->base.device = true; /* of a size of its own, and not known to be zeroes */
	if (capacity != UINT64_MAX)
		w->base.limits.zero_fill = false;
	img_filter_refresh(w);
	*out = &w->base;
	return 0;
}
