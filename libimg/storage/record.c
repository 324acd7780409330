/*
 * A storage that remembers what was written, for replaying every prefix or subset of it later as
 * what a power cut could have left. Of requests that fail only syncs are recorded.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/ioq.h"
#include "libimg/storage/filter.h"

struct img_record {
	pthread_mutex_t lock;
	struct img_record_entry **entries; /* never move once made */
	size_t count, capacity;
};

struct recorder {
	struct img_filter filter;
	struct img_record *record; /* borrowed */
	unsigned file;
};

struct img_record *img_record_new(void)
{
	struct img_record *r = calloc(1, sizeof(*r));

	if (r)
		pthread_mutex_init(&r->lock, NULL);
	return r;
}

void img_record_free(struct img_record *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->count; i++) {
		free(r->entries[i]->data);
		free(r->entries[i]);
	}
	free(r->entries);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static pthread_mutex_t *lock_of(const struct img_record *r)
{
	union { /* looking is const to the caller, locking is not to us */
		const struct img_record *in;
		struct img_record *out;
	} u = { .in = r };

	return &u.out->lock;
}

size_t img_record_count(const struct img_record *r)
{
	size_t count;

	pthread_mutex_lock(lock_of(r));
	count = r->count;
	pthread_mutex_unlock(lock_of(r));
	return count;
}

const struct img_record_entry *img_record_at(const struct img_record *r, size_t i)
{
	const struct img_record_entry *entry;

	pthread_mutex_lock(lock_of(r));
	entry = i < r->count ? r->entries[i] : NULL;
	pthread_mutex_unlock(lock_of(r));
	return entry;
}

/* Owns entry, also on failure. */
static int append(const struct recorder *rec, struct img_record_entry *entry, bool fua)
{
	struct img_record *r = rec->record;
	struct img_record_entry **entries;
	size_t capacity;
	int rc = 0;

	if (!entry)
		return -ENOMEM;
	entry->file = rec->file;
	entry->fua = fua;
	pthread_mutex_lock(&r->lock);
	if (r->count == r->capacity) {
		capacity = r->capacity ? r->capacity * 2 : 64;
		entries = reallocarray(r->entries, capacity, sizeof(void *));
		if (entries) {
			r->entries = entries;
			r->capacity = capacity;
		} else {
			rc = -ENOMEM;
		}
	}
	if (!rc)
		r->entries[r->count++] = entry;
	pthread_mutex_unlock(&r->lock);
	if (rc) {
		free(entry->data);
		free(entry);
	}
	return rc;
}

/* NULL: out of memory. */
static struct img_record_entry *make_entry(enum img_record_kind kind, uint64_t off,
					   uint64_t len)
{
	struct img_record_entry *entry = calloc(1, sizeof(*entry));

	if (entry)
		*entry = (struct img_record_entry){ .kind = kind, .off = off, .len = len };
	return entry;
}

static struct img_record_entry *make_write(const struct iovec *iov, int iovcnt, uint64_t off,
					   uint64_t len)
{
	struct img_record_entry *entry = make_entry(IMG_RECORD_WRITE, off, len);
	struct img_cursor from = { .iov = iov, .iovcnt = iovcnt };

	if (!entry)
		return NULL;
	entry->data = malloc(len ? (size_t)len : 1);
	if (!entry->data) {
		free(entry);
		return NULL;
	}
	img_cursor_gather(&from, entry->data, len);
	return entry;
}

static struct recorder *recorder_of(struct img_storage *s)
{
	return IMG_CONTAINER(img_filter_of(s), struct recorder, filter);
}

/*
 * What was done is seen in size and unsynced when it is recorded, which may be later than the inner
 * storage did it: who syncs in between syncs again.
 */
static void update_state(struct recorder *rec, enum img_io_op op, uint64_t end, bool fua)
{
	if (op != IMG_IO_PUNCH)
		raise_u64(&rec->filter.base.size, end);
	if (!fua)
		atomic_store(&rec->filter.base.unsynced, true);
}

/* A request of the inner storage succeeded. */
static int record_io_done(struct recorder *rec, enum img_io_op op, const struct iovec *iov,
			  int iovcnt, uint64_t off, uint64_t len, unsigned flags)
{
	uint64_t size = atomic_load(&rec->filter.base.size);
	bool fua = flags & IMG_IO_FUA;
	int rc;

	if (op == IMG_IO_READ || op == IMG_IO_SYNC || op == IMG_IO_EXTENTS)
		return 0;
	if (op == IMG_IO_WRITE) {
		rc = append(rec, make_write(iov, iovcnt, off, len), fua);
		update_state(rec, op, off + len, fua);
		return rc;
	}
	if (op == IMG_IO_PUNCH) { /* as ZERO, but it never makes the file longer */
		if (off >= size)
			return 0;
		len = min_u64(len, size - off);
	}
	rc = append(rec, make_entry(IMG_RECORD_ZERO, off, len), fua);
	update_state(rec, op, off + len, fua);
	return rc;
}

/* A sync takes its place now; it is filled in when it succeeds. */
static int begin_sync(struct recorder *rec, struct img_record_entry **entry)
{
	struct img_record_entry *made = make_entry(IMG_RECORD_ZERO, 0, 0);
	int rc = append(rec, made, false);

	if (!rc)
		*entry = made;
	return rc;
}

static void end_sync(struct recorder *rec, struct img_record_entry *entry, int rc)
{
	pthread_mutex_lock(&rec->record->lock);
	entry->kind = rc ? IMG_RECORD_SYNC_FAILED : IMG_RECORD_SYNC;
	pthread_mutex_unlock(&rec->record->lock);
}

static int finished(struct img_filter *w, struct img_io *io, int rc, void *token)
{
	struct recorder *rec = IMG_CONTAINER(w, struct recorder, filter);

	if (token)
		end_sync(rec, token, rc);
	return rc ? rc
		  : record_io_done(rec, io->op, io->iov, io->iovcnt, io->off, io->len, io->flags);
}

static void record_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	struct recorder *rec = recorder_of(s);
	struct img_record_entry *sync = NULL;

	io->rc = io->op == IMG_IO_SYNC ? begin_sync(rec, &sync) : 0;
	if (io->rc)
		img_ioq_complete(q, io);
	else
		img_filter_submit(&rec->filter, q, io, finished, sync);
}

static int record_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		     uint64_t off, uint64_t len, unsigned flags)
{
	struct recorder *rec = recorder_of(s);
	struct img_storage *inner = rec->filter.inner;
	struct img_record_entry *sync = NULL;
	int rc = op == IMG_IO_SYNC ? begin_sync(rec, &sync) : 0;

	if (!rc)
		rc = img_storage_io(inner, op, iov, iovcnt, off, len, flags);
	if (sync)
		end_sync(rec, sync, rc);
	return rc ? rc : record_io_done(rec, op, iov, iovcnt, off, len, flags);
}

static int record_resize(struct img_storage *s, uint64_t size, enum img_preallocate how)
{
	struct recorder *rec = recorder_of(s);
	struct img_storage *inner = rec->filter.inner;
	int rc = inner->ops->resize(inner, size, how);

	if (!rc) {
		atomic_store(&rec->filter.base.size, atomic_load(&inner->size));
		atomic_store(&rec->filter.base.unsynced, true);
	}
	return rc ? rc : append(rec, make_entry(IMG_RECORD_RESIZE, 0, size), false);
}

static int record_replace(struct img_storage *s, const void *bytes, size_t len, bool sync,
			  struct img_error *err)
{
	const struct iovec iov = { (void *)(uintptr_t)bytes, len };
	struct recorder *rec = recorder_of(s);
	struct img_storage *inner = rec->filter.inner;
	struct img_record_entry *entry;
	int rc = img_storage_replace(inner, bytes, len, sync, err);

	if (rc)
		return rc;
	atomic_store(&rec->filter.base.size, atomic_load(&inner->size));
	if (!sync)
		atomic_store(&rec->filter.base.unsynced, true);
	entry = make_write(&iov, 1, 0, len);
	if (entry)
		entry->kind = IMG_RECORD_REPLACE;
	rc = append(rec, entry, sync);
	return rc ? img_fail(err, rc, "out of memory") : 0;
}

static void record_close(struct img_storage *s)
{
	struct recorder *rec = recorder_of(s);

	img_filter_destroy(&rec->filter);
	free(rec);
}

static const struct img_storage_ops record_ops = {
	.submit = record_submit,
	.io = record_io,
	.resize = record_resize,
	.replace = record_replace,
	.extent = img_filter_extent,
	.allocated = img_filter_allocated,
	.publish = img_filter_publish,
	.set_writable = img_filter_set_writable,
	.close = record_close,
};

int img_storage_record(struct img_storage *inner, struct img_record *r, struct img_storage **out)
{
	return img_storage_record_file(inner, r, 0, out);
}

int img_storage_record_file(struct img_storage *inner, struct img_record *r, unsigned file,
			    struct img_storage **out)
{
	struct recorder *rec = calloc(1, sizeof(*rec));

	if (!rec || img_filter_init(&rec->filter, &record_ops, inner)) {
		free(rec);
		return -ENOMEM;
	}
	rec->filter.keeps_state = true;
	rec->record = r;
	rec->file = file;
	*out = &rec->filter.base;
	return 0;
}
