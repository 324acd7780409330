/*
 * Inside storages over another one (fault.c, record.c): what both need. A request is passed on
 * as a request of its own, so that the filter sees its end.
 */
#ifndef LIBIMG_STORAGE_FILTER_H
#define LIBIMG_STORAGE_FILTER_H

#include <pthread.h>

#include "libimg/storage/storage.h"

struct img_filter {
	struct img_storage base;
	struct img_storage *inner; /* owned */
	pthread_mutex_t refresh;   /* so that an older size does not overtake a newer one */
	bool keeps_state;	   /* size and unsynced are not inner's, but kept by the filter itself */
	uint64_t start, capacity;  /* what is seen of inner: from start on, at most capacity bytes */
	/* For img_filter_checked_*(): what a request is to fail with, or 0. Thread-safe. */
	int (*check)(struct img_filter *w, enum img_io_op op, uint64_t off, uint64_t len);
};

static inline struct img_filter *img_filter_of(struct img_storage *s)
{
	return IMG_CONTAINER(s, struct img_filter, base);
}

/* Look like inner, all of it. ops and inner are set too. -ENOMEM: inner stays the caller's. */
int img_filter_init(struct img_filter *w, const struct img_storage_ops *ops, struct img_storage *inner);
/* Close inner and free what img_filter_init() made; not w itself. */
void img_filter_destroy(struct img_filter *w);

/* Take over size and unsynced from inner, after it did something; unless w keeps its own. */
void img_filter_refresh(struct img_filter *w);

/*
 * Pass io on to inner; of a read or a discard, what lies in capacity: the rest is the caller's.
 * finished() gets the rc on the queue's thread, before io->done(); it returns the rc to give on.
 * NULL: the rc is given on as it is. token: whatever finished() needs. Out of memory: io fails with
 * -ENOMEM and finished() is called all the same.
 */
typedef int img_filter_finished(struct img_filter *w, struct img_io *io, int rc, void *token);
void img_filter_submit(struct img_filter *w, struct img_ioq *q, struct img_io *io,
		       img_filter_finished *finished, void *token);

/* Operations that pass a request on only if w->check() has nothing against it. */
void img_filter_checked_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io);
int img_filter_checked_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov,
			  int iovcnt, uint64_t off, uint64_t len, unsigned flags);

/* Operations that are simply inner's. */
int img_filter_extent(struct img_storage *s, uint64_t off, uint64_t len,
		      enum img_storage_extent *kind, uint64_t *run);
uint64_t img_filter_allocated(struct img_storage *s);
int img_filter_set_writable(struct img_storage *s, bool writable, struct img_error *err);
int img_filter_publish(struct img_storage *s, bool durable, struct img_error *err);

#endif
