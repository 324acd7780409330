/*
 * Storage, the part that all kinds share: dispatch, blocking calls, and the sentences for what
 * went wrong.
 */
#include "libimg/storage/storage.h"
#include "libimg/storage/storage_extent.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/ioq_attach.h"

static const char *op_name(enum img_io_op op)
{
	switch (op) {
	case IMG_IO_READ:
		return "read";
	case IMG_IO_WRITE:
		return "write";
	case IMG_IO_ZERO:
		return "zero";
	case IMG_IO_PUNCH:
		return "discard";
	case IMG_IO_SYNC:
		return "sync";
	case IMG_IO_EXTENTS:
		return "look for holes in";
	}
	return "access";
}

static int fail(const struct img_storage *s, enum img_io_op op, uint64_t off, uint64_t len, int rc,
		struct img_error *err)
{
	const char *why = strerrordesc_np(-rc);

	if (!why)
		why = "unknown error";
	if (op == IMG_IO_SYNC)
		return img_fail(err, rc, "Could not sync '%s': %s", s->name, why);
	return img_fail(err, rc, "Could not %s %" PRIu64 " bytes at offset %" PRIu64 " of '%s': %s",
			op_name(op), len, off, s->name, why);
}

int img_io_fail(const struct img_io *io, struct img_error *err)
{
	if (!io->rc)
		return 0;
	return fail(io->storage, io->op, io->off, io->len, io->rc, err);
}

struct waiting {
	struct img_io io;
	bool done;
};

static void stop_waiting(struct img_io *io)
{
	IMG_CONTAINER(io, struct waiting, io)->done = true;
}

/* What has no blocking form, on a queue made for it. */
static int io_by_queue(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		       uint64_t off, uint64_t len, unsigned flags)
{
	struct iovec *copy = iovcnt ? calloc((size_t)iovcnt, sizeof(*copy)) : NULL;
	struct waiting w = { .io = { .storage = s,
				     .op = op,
				     .flags = flags,
				     .iov = copy,
				     .iovcnt = iovcnt,
				     .off = off,
				     .len = len,
				     .done = stop_waiting } };
	struct img_ioq *q = NULL;
	int rc = -ENOMEM;

	if (!iovcnt || copy)
		rc = img_ioq_new(IMG_IO_THREADS, &q, NULL);
	if (!rc) {
		if (copy)
			memcpy(copy, iov, (size_t)iovcnt * sizeof(*copy));
		img_ioq_submit(q, &w.io);
		while (!w.done)
			img_ioq_run(q, true);
		rc = w.io.rc;
	}
	img_ioq_free(q);
	free(copy);
	return rc;
}

/* One request that is not longer than s takes. */
static int whole_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		    uint64_t off, uint64_t len, unsigned flags)
{
	return s->ops->io ? s->ops->io(s, op, iov, iovcnt, off, len, flags)
			  : io_by_queue(s, op, iov, iovcnt, off, len, flags);
}

static int blocking_sync(struct img_storage *s)
{
	int rc = img_storage_sync_begin(s);

	if (!rc)
		rc = whole_io(s, IMG_IO_SYNC, NULL, 0, 0, 0, 0);
	return img_storage_sync_end(s, rc);
}

int img_storage_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		   uint64_t off, uint64_t len, unsigned flags)
{
	struct img_cursor c = { .iov = iov, .iovcnt = iovcnt };
	struct iovec *part;
	int rc = 0;

	if (op == IMG_IO_SYNC)
		return blocking_sync(s);
	if (img_storage_first_part(s, op, off, len) == len)
		return whole_io(s, op, iov, iovcnt, off, len, flags);
	part = calloc((size_t)iovcnt + 1, sizeof(*part));
	if (!part)
		return -ENOMEM;
	while (len && !rc) {
		uint64_t n = img_storage_first_part(s, op, off, len);
		int count = 0;

		if (img_io_has_data(op)) {
			count = img_cursor_window(&c, part, iovcnt);
			count = (int)img_iov_cut(part, (size_t)count, n);
			img_cursor_advance(&c, n);
		}
		rc = whole_io(s, op, part, count, off, n, flags);
		off += n;
		len -= n;
	}
	free(part);
	return rc;
}

static int blocking_io(struct img_storage *s, enum img_io_op op, void *buf, uint64_t off,
		       uint64_t len, struct img_error *err)
{
	struct iovec iov = { .iov_base = buf, .iov_len = buf ? (size_t)len : 0 };
	uint64_t end;
	int rc;

	if (!add_u64(off, len, &end) || end > INT64_MAX)
		rc = -EFBIG;
	else if (op != IMG_IO_READ && op != IMG_IO_SYNC && !s->writable)
		rc = -EROFS;
	else if (!len && op != IMG_IO_SYNC && op != IMG_IO_ZERO)
		rc = 0;
	else
		rc = img_storage_io(s, op, &iov, 1, off, len, 0);
	return rc ? fail(s, op, off, len, rc, err) : 0;
}

int img_storage_read(struct img_storage *s, uint64_t off, void *buf, size_t len,
		     struct img_error *err)
{
	return blocking_io(s, IMG_IO_READ, buf, off, len, err);
}

int img_storage_write(struct img_storage *s, uint64_t off, const void *buf, size_t len,
		      struct img_error *err)
{
	union { /* an iovec serves both directions, so its base is not const */
		const void *in;
		void *base;
	} data = { .in = buf };

	return blocking_io(s, IMG_IO_WRITE, data.base, off, len, err);
}

int img_storage_zero(struct img_storage *s, uint64_t off, uint64_t len, struct img_error *err)
{
	return blocking_io(s, IMG_IO_ZERO, NULL, off, len, err);
}

int img_storage_punch(struct img_storage *s, uint64_t off, uint64_t len, struct img_error *err)
{
	return blocking_io(s, IMG_IO_PUNCH, NULL, off, len, err);
}

int img_storage_sync(struct img_storage *s, struct img_error *err)
{
	int failed = atomic_load(&s->sync_failed);

	if (failed)
		return img_fail(err, failed,
				"'%s': an earlier sync failed; what is on disk is not known any more",
				s->name);
	return blocking_io(s, IMG_IO_SYNC, NULL, 0, 0, err);
}

int img_storage_resize(struct img_storage *s, uint64_t size, enum img_preallocate how,
		       struct img_error *err)
{
	uint64_t now = atomic_load(&s->size);
	int rc;

	if (!s->writable)
		rc = -EROFS;
	else if (how == IMG_PREALLOCATE_METADATA)
		return img_fail(err, -ENOTSUP, "Could not resize '%s': metadata preallocation is "
					       "done by image formats, not by files",
				s->name);
	else if (size > INT64_MAX)
		rc = -EFBIG;
	else if (s->device && size > now)
		return img_fail(err, -ENOSPC,
				"Could not resize '%s' to %" PRIu64 " bytes: No space left on device: it "
				"is a device of %" PRIu64,
				s->name, size, now);
	else if (s->device && how != IMG_PREALLOCATE_OFF)
		return img_fail(err, -ENOTSUP, "Could not resize '%s': Unsupported preallocation mode: "
					       "it is a device",
				s->name);
	else
		rc = s->ops->resize(s, size, how);
	if (!rc)
		return 0;
	return img_fail(err, rc, "Could not resize '%s' from %" PRIu64 " to %" PRIu64 " bytes: %s",
			s->name, now, size, strerrordesc_np(-rc));
}

bool img_storage_overlap(const struct img_storage *a, const struct img_storage *b)
{
	uint64_t a_end, b_end;

	if (a == b)
		return true;
	if (!a->identity || !b->identity || strcmp(a->identity, b->identity) != 0)
		return false;
	if (a->identity_off == b->identity_off) /* also where there are no bytes yet */
		return true;
	if (!add_u64(a->identity_off, atomic_load(&a->size), &a_end) ||
	    !add_u64(b->identity_off, atomic_load(&b->size), &b_end))
		return true;
	return a->identity_off < b_end && b->identity_off < a_end;
}

bool img_storage_read_cached(struct img_storage *s, uint64_t off, void *buf, size_t len)
{
	return s->ops->read_cached && s->ops->read_cached(s, off, buf, len);
}

uint64_t img_storage_allocated(struct img_storage *s)
{
	return s->ops->allocated ? s->ops->allocated(s) : atomic_load(&s->size);
}

bool img_storage_allocated_known(const struct img_storage *s)
{
	return s->ops->allocated;
}

uint64_t img_storage_modified(struct img_storage *s)
{
	return s->ops->modified ? s->ops->modified(s) : 0;
}

int img_storage_publish(struct img_storage *s, bool durable, struct img_error *err)
{
	return s->ops->publish ? s->ops->publish(s, durable, err) : 0;
}

void img_storage_set_attributes(struct img_storage *s, const struct img_file_attributes *a)
{
	if (s->ops->set_attributes)
		s->ops->set_attributes(s, a);
}

int img_storage_replace(struct img_storage *s, const void *bytes, size_t len, bool sync,
			struct img_error *err)
{
	if (!s->ops->replace)
		return img_fail(err, -ENOTSUP, "%s: it cannot be replaced as a whole", s->name);
	return s->ops->replace(s, bytes, len, sync, err);
}

int img_storage_set_writable(struct img_storage *s, bool writable, struct img_error *err)
{
	int rc;

	if (s->writable == writable)
		return 0;
	if (!s->ops->set_writable)
		return img_fail(err, -ENOTSUP, "'%s' is open for %s, which cannot be changed", s->name,
				writable ? "reading only" : "writing");
	rc = s->ops->set_writable(s, writable, err);
	if (!rc)
		s->writable = writable;
	return rc;
}

void img_storage_close(struct img_storage *s)
{
	if (!s)
		return;
	img_storage_detach(s);
	s->ops->close(s);
}
