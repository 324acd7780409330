/*
 * Requests: a task is what a user asked for; it is dealt out in pieces, each one extent (reading)
 * or one plan (writing), several in flight. A queue owns the tasks submitted on it; their
 * functions run on the queue's thread.
 */
#ifndef LIBIMG_ENGINE_REQUEST_H
#define LIBIMG_ENGINE_REQUEST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "libimg/base/error.h"
#include "libimg/base/list.h"
#include "libimg/engine/driver.h"
#include "libimg/engine/meta.h"
#include "libimg/storage/ioq.h"

struct img_queue;
struct img_task;
struct img_piece;

enum img_task_kind { IMG_TASK_READ, IMG_TASK_WRITE, IMG_TASK_ZERO, IMG_TASK_DISCARD, IMG_TASK_FLUSH };

typedef void img_task_done_fn(void *user, int rc, const struct img_error *err);

struct img_task {
	struct img *img;
	struct img_queue *queue;
	enum img_task_kind kind;
	bool ordered, compress;
	uint64_t off, end;		/* guest bytes */
	uint64_t next;			/* the first byte not dealt out yet */
	struct iovec *iov;		/* READ, WRITE: borrowed; the cursor stands at next */
	int iovcnt, iov_at;
	size_t iov_within;
	unsigned pieces;		/* in flight */
	bool looking;			/* a piece is still finding out where next lives */
	bool dealing;			/* deal() is on the stack */
	bool saw_data;			/* READ: something was not zeroes by metadata */
	bool must_flush;		/* writethrough */
	int rc;
	struct img_error err;
	uint64_t seq;
	struct img_list active_link, wait_link, order_link;
	struct img_post post;
	img_task_done_fn *done;
	void *user;
	struct img_piece *parent;	/* a fill's: completes at once, not by a post */
};

/* A new task; kind-specific members are the caller's to set before img_task_start(). NULL: ENOMEM. */
struct img_task *img_task_new(struct img_queue *q, struct img *img, enum img_task_kind kind,
			      uint64_t off, uint64_t len);
/* done() follows, never from inside this. */
void img_task_start(struct img_task *t);
/* A flush's answer, from any thread; err's sentence is copied. */
void img_task_flushed(struct img_task *t, int rc, const struct img_error *err);

/* ---- Queues ---- */

int img_engine_queue_new(enum img_ioq_kind kind, struct img_queue **out, struct img_error *err);
void img_engine_queue_free(struct img_queue *q);
int img_engine_queue_fd(const struct img_queue *q);
/* See img_queue_run() in img.h. */
int img_engine_queue_run(struct img_queue *q, bool wait);
size_t img_engine_queue_in_flight(const struct img_queue *q);

/* ---- Blocking ---- */

/*
 * Do one task and wait. Thread-safe: uses the image's own queue. iov may be changed.
 */
int img_engine_io(struct img *img, enum img_task_kind kind, uint64_t off, uint64_t len,
		  struct iovec *iov, int iovcnt, struct img_error *err);

#endif
