/*
 * For tests of what is on disk when: storages that note in one list what was done to any of them,
 * in order, and that can be made to fail, or to do something else in between.
 */
#ifndef TESTS_STORAGE_WATCH_H
#define TESTS_STORAGE_WATCH_H

#include <criterion/criterion.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/storage/filter.h"

enum {
	WATCH_RESIZE = 100, /* ops beside IMG_IO_*; len: the new size */
	WATCH_PUBLISH = 101,
	WATCH_MAX = 4096,
};

struct watch_entry {
	unsigned file;
	unsigned op;	/* IMG_IO_*, without READ */
	unsigned flags; /* IMG_IO_FUA, ... */
	uint64_t off, len;
};

/* Zero-initialise. */
struct watch {
	struct watch_entry entry[WATCH_MAX];
	size_t n;
	/*
	 * Called before anything is done, reads too; not 0: that it fails with. With torn set the
	 * first half of a write that fails has arrived all the same, as on a full disk.
	 */
	int (*before)(struct watch *w, const struct watch_entry *e);
	bool torn;
	void *user;
	uint64_t a, b; /* before()'s own */
};

struct watched {
	struct img_filter wrap;
	struct watch *watch;
	unsigned file;
};

static inline struct watched *watched_of(struct img_storage *s)
{
	return IMG_CONTAINER(img_filter_of(s), struct watched, wrap);
}

static inline int watch_note(struct watched *d, unsigned op, uint64_t off, uint64_t len,
			     unsigned flags)
{
	struct watch *w = d->watch;
	struct watch_entry e = { d->file, op, flags, off, len };
	int rc = w->before ? w->before(w, &e) : 0;

	if (!rc && op != IMG_IO_READ) {
		cr_assert_lt(w->n, WATCH_MAX);
		w->entry[w->n++] = e;
	}
	return rc;
}

static inline int watched_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov,
			     int iovcnt, uint64_t off, uint64_t len, unsigned flags)
{
	struct watched *d = watched_of(s);
	struct img_storage *inner = d->wrap.inner;
	int rc = watch_note(d, op, off, len, flags);

	if (rc && op == IMG_IO_WRITE && d->watch->torn)
		img_storage_io(inner, op, iov, iovcnt, off, len / 2, flags);
	if (rc)
		return rc;
	rc = img_storage_io(inner, op, iov, iovcnt, off, len, flags);
	/* as a file does: it does not know of bytes that a failed write has left */
	if (!rc && (op == IMG_IO_WRITE || op == IMG_IO_ZERO) && off + len > atomic_load(&s->size))
		atomic_store(&s->size, off + len);
	atomic_store(&s->unsynced, atomic_load(&inner->unsynced));
	return rc;
}

static inline void watched_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	io->rc = watched_io(s, io->op, io->iov, io->iovcnt, io->off, io->len, io->flags);
	img_ioq_complete(q, io);
}

static inline int watched_resize(struct img_storage *s, uint64_t size, enum img_preallocate how)
{
	struct watched *d = watched_of(s);
	struct img_storage *inner = d->wrap.inner;
	int rc = watch_note(d, WATCH_RESIZE, 0, size, 0);

	if (!rc)
		rc = inner->ops->resize(inner, size, how);
	img_filter_refresh(&d->wrap);
	return rc;
}

static inline int watched_publish(struct img_storage *s, bool durable, struct img_error *err)
{
	struct watched *d = watched_of(s);
	int rc = watch_note(d, WATCH_PUBLISH, 0, 0, 0);

	return rc ? img_fail(err, rc, "%s: not published", s->name)
		  : img_filter_publish(s, durable, err);
}

static inline void watched_close(struct img_storage *s)
{
	struct watched *d = watched_of(s);

	img_filter_destroy(&d->wrap);
	free(d);
}

static const struct img_storage_ops watched_ops = {
	.submit = watched_submit,
	.io = watched_io,
	.resize = watched_resize,
	.extent = img_filter_extent,
	.allocated = img_filter_allocated,
	.publish = watched_publish,
	.close = watched_close,
};

/* inner, known to w by that number; takes inner over. */
static inline struct img_storage *watched(struct watch *w, unsigned file, struct img_storage *inner)
{
	struct watched *d = calloc(1, sizeof(*d));

	cr_assert(d && !img_filter_init(&d->wrap, &watched_ops, inner));
	d->watch = w;
	d->file = file;
	return &d->wrap.base;
}

/* Memory of size bytes, known to w by that number. */
static inline struct img_storage *watched_memory(struct watch *w, unsigned file, uint64_t size)
{
	struct img_storage *s;

	cr_assert_eq(img_storage_memory("memory", size, 64 << 20, &s), 0);
	return watched(w, file, s);
}

/* Are there changes of file among the first n entries that no sync of it followed? */
static inline bool watch_unsynced(const struct watch *w, size_t n, unsigned file)
{
	while (n-- > 0)
		if (w->entry[n].file == file && w->entry[n].op != WATCH_PUBLISH &&
		    !(w->entry[n].flags & IMG_IO_FUA))
			return w->entry[n].op != IMG_IO_SYNC;
	return false;
}

/* The first change from entry `from` on that touches [off, off + len) of file; w->n: none. */
static inline size_t watch_find(const struct watch *w, size_t from, unsigned file, uint64_t off,
				uint64_t len)
{
	for (; from < w->n; from++) {
		const struct watch_entry *e = &w->entry[from];

		if (e->file == file && e->op != IMG_IO_SYNC && e->op < WATCH_RESIZE &&
		    e->off < off + len && e->off + e->len > off)
			break;
	}
	return from;
}

static inline size_t watch_count(const struct watch *w, size_t from, unsigned file, unsigned op)
{
	size_t count = 0;

	for (; from < w->n; from++)
		count += w->entry[from].file == file && w->entry[from].op == op;
	return count;
}

#endif
