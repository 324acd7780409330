/*
 * Requests, as the floors above make them: on a queue, or blocking.
 */
#ifndef LIBIMG_ENGINE_REQUEST_H
#define LIBIMG_ENGINE_REQUEST_H

#include <sys/uio.h>

#include "libimg/engine/driver.h"
#include "libimg/storage/ioq.h"

struct img_queue;

enum img_request_kind {
	IMG_REQUEST_READ,
	IMG_REQUEST_WRITE,
	IMG_REQUEST_ZERO,
	IMG_REQUEST_DISCARD,
	IMG_REQUEST_FLUSH,
	IMG_REQUEST_LOOKUP, /* where the bytes live */
};

struct img_lookup;
enum {
	IMG_LOOKUP_ENOUGH = 1,
	IMG_LOOKUP_ASK = 2,
};
/*
 * LOOKUP: what comes next, in order, on the queue's thread. 0: *covered bytes of it, 1 to all, are done
 * with; ENOUGH: the same, 0 to all, and no more is wanted; ASK: it is called again when the extent's
 * storage has been asked where its holes are; or a negative errno.
 */
typedef int img_lookup_fn(void *user, const struct img_lookup *l, uint64_t *covered,
			  struct img_error *err);

struct img_request {
	enum img_request_kind kind;
	bool ordered;	     /* changes: allocate in the order of submission among such */
	bool compress;	     /* WRITE: one unit, stored compressed */
	bool may_unmap;	     /* ZERO: the room may be given back, if the image is open for that */
	bool keep_allocated; /* ZERO: all of it is allocated afterwards; not with may_unmap */
	bool fast;	     /* ZERO: -ENOTSUP where zeroes would have to be written */
	bool fua;	     /* changes: done only when durable */
	bool deep;	     /* LOOKUP: see img_engine_lookup() */
	img_lookup_fn *found;
	void *found_user;
	uint64_t off, len; /* guest bytes; inside the image */
	struct iovec *iov; /* READ, WRITE: borrowed until done; the engine may change the array meanwhile */
	int iovcnt;
	/* On the queue's thread, never from inside img_request_submit(). err: never NULL. */
	void (*done)(void *user, int rc, const struct img_error *err);
	void *user;
};

/* Start a request; *r itself is not kept. -ENOMEM: done() is not called. */
int img_request_submit(struct img_queue *q, struct img *img, const struct img_request *r);
/* Do one and wait (done and user are not used). Thread-safe; calls go side by side. */
int img_request_run(struct img *img, const struct img_request *r, struct img_error *err);

int img_engine_queue_new(enum img_io_kind kind, struct img_queue **out, struct img_error *err);
/*
 * NULL is fine. -EBUSY: requests are in flight; -EDEADLK: the queue is being run, by a function that
 * this is called from. Then nothing has happened.
 */
int img_engine_queue_free(struct img_queue *q);
/* Free the queues behind an image's blocking calls. None may be in use. */
void img_blocking_queues_free(struct img_engine *e);
/* False: it is the parent process's, as above. */
bool img_engine_queue_is_ours(const struct img_queue *q);
/* Is this called from a request's done()? */
bool img_request_in_callback(void);
int img_engine_queue_fd(const struct img_queue *q);
/* See img_queue_run() in img.h. */
int img_engine_queue_run(struct img_queue *q, bool wait);
size_t img_engine_queue_in_flight(const struct img_queue *q);
/* See img_ioq_set_buffers(). */
int img_engine_queue_set_buffers(struct img_queue *q, const struct iovec *iov, unsigned count);

#endif
