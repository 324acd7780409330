/*
 * Inside an I/O queue: what its two kinds share, and what storages use to hand a request on.
 */
#ifndef LIBIMG_STORAGE_IOQ_PRIVATE_H
#define LIBIMG_STORAGE_IOQ_PRIVATE_H

#include <pthread.h>

#include "libimg/base/pool.h"
#include "libimg/storage/ioq.h"
#include "libimg/storage/ioq_watch.h"

enum {
	IMG_IOQ_WORKERS = 16,
};

/* How a kind of queue talks to the kernel. */
struct img_ioq_kernel {
	/*
	 * Hand gathered requests over and take what completed (storage->ops->completed()). block: sleep
	 * until there is a completion or the event fires. Returns how many it took.
	 */
	int (*harvest)(struct img_ioq *q, bool block);
	int (*fd)(struct img_ioq *q);
	/* See img_ioq_set_buffers(); NULL: has no use for it. */
	int (*set_buffers)(struct img_ioq *q, const struct iovec *iov, unsigned count);
	void (*free)(struct img_ioq *q);
};

/* A turn at the queue's blocking requests, on a worker thread. */
struct img_ioq_worker {
	struct img_work work;
	struct img_ioq *q;
	bool busy;
};

struct img_ioq {
	const struct img_ioq_kernel *kernel;
	enum img_io_kind kind;	   /* THREADS also once the kernel has refused the ring */
	struct img_list completed; /* img_io.link: rc is set, done() is due; the owner's */
	bool running;		   /* in img_ioq_run(); the owner's */
	int event_fd;
	struct img_pool *pool;
	struct img_watches watches;
	struct img_attachment *attachments; /* guarded by watches.lock */
	unsigned detaching;		    /* guarded as img_storage.detaching */

	pthread_mutex_t lock;	  /* guards the rest */
	struct img_list posts;	  /* img_post.link */
	struct img_list waiting;  /* img_io.link: for a worker */
	struct img_list ordered;  /* img_io.link: for ordered_worker, one after the other */
	struct img_list finished; /* img_io.link: a worker is done with it */
	bool signalled;		  /* event_fd was written and not read since */
	bool awake;		  /* img_ioq_run() will go through the lists: no signal is needed for them */
	struct img_ioq_worker workers[IMG_IOQ_WORKERS], ordered_worker;
};

/* Set up and tear down the shared part. 0, -ENOMEM, -EMFILE. */
int img_ioq_init(struct img_ioq *q, enum img_io_kind kind, const struct img_ioq_kernel *kernel);
void img_ioq_destroy(struct img_ioq *q);

/* Have img_ioq_run() go through the lists, from any thread. Nothing is done where it will anyway. */
void img_ioq_signal(struct img_ioq *q);
void img_ioq_signal_locked(struct img_ioq *q); /* the same with q->lock held */
/* Take the signal of event_fd back. What it announced is found in the lists. */
void img_ioq_clear_signal(struct img_ioq *q);
void img_ioq_clear_signal_locked(struct img_ioq *q);

/* The two kinds. 0 or a negative errno; *out is untouched on failure. */
int img_ioq_uring_new(struct img_ioq **out);
int img_ioq_threads_new(struct img_ioq **out);

/*
 * Have a worker thread do what is left of io (from io->transferred on) by the storage's blocking
 * io(), then complete it. Only on q's thread.
 */
void img_ioq_offload(struct img_ioq *q, struct img_io *io);
/* The same, but one at a time, in the order in which they came. */
void img_ioq_offload_ordered(struct img_ioq *q, struct img_io *io);

/* A range to be allocated before a write: fallocate()'s parameters. */
struct img_ioq_reserve {
	int mode;
	uint64_t off, len;
};

/*
 * Put what is left of a READ or WRITE into the ring of a URING queue; the answer comes by
 * storage->ops->completed(). Entries of the iovec that were transferred must have been emptied.
 * cached: fd goes through the page cache. rw_flags: RWF_*. reserve: allocate that first
 * (that this fails is for the write to say); NULL: nothing. False: there is no space, try img_ioq_offload().
 */
bool img_ioq_ring_read(struct img_ioq *q, struct img_io *io, int fd, bool cached);
bool img_ioq_ring_write(struct img_ioq *q, struct img_io *io, int fd, int rw_flags, bool cached,
			const struct img_ioq_reserve *reserve);
/* The same for fallocate(fd, mode, io->off, len) and for fdatasync(fd). */
bool img_ioq_ring_fallocate(struct img_ioq *q, struct img_io *io, int fd, int mode, uint64_t len);
bool img_ioq_ring_sync(struct img_ioq *q, struct img_io *io, int fd);

#endif
