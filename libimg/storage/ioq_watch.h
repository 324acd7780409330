/*
 * For storages that talk to something through a descriptor and have no threads of their own: an I/O
 * queue watches the descriptor, and a deadline, and calls the storage on its thread. What is wanted
 * of the descriptor may change with each step, and so may the descriptor itself.
 */
#ifndef LIBIMG_STORAGE_IOQ_WATCH_H
#define LIBIMG_STORAGE_IOQ_WATCH_H

#include <pthread.h>
#include <stdatomic.h>

#include "libimg/storage/ioq.h"

struct img_watch_poll;

/*
 * A watch belongs to whoever embeds it. Two watches of one queue must not watch the same descriptor.
 * All calls but img_watch_remove() are for the queue's thread.
 */
struct img_watch {
	/*
	 * On the queue's thread, inside img_ioq_run(): the descriptor is ready (events: POLLIN, POLLOUT,
	 * POLLERR, POLLHUP), or, events being 0, the deadline has passed. What came is no longer watched
	 * for: fn says what is wanted next, if anything. It may remove and free the watch, and submit and
	 * complete requests; it must not block, close a storage or free a queue. It may be called once
	 * in a while though nothing came.
	 */
	void (*fn)(struct img_watch *w, unsigned events);

	/* The queue's own. */
	struct img_list link;
	struct img_ioq *q;
	int fd;
	unsigned events;
	bool armed;		     /* the kernel knows of fd and events */
	bool registered;	     /* fd is in the queue's epoll */
	struct img_watch_poll *poll; /* the request in the ring */
	uint64_t deadline;	     /* CLOCK_MONOTONIC, ns; 0: none */
};

/* w->fn is set. Nothing is watched yet. */
void img_watch_add(struct img_ioq *q, struct img_watch *w);
/* Wait once for events (POLLIN | POLLOUT) of fd, in place of what was waited for; 0: for nothing. */
void img_watch_set(struct img_watch *w, int fd, unsigned events);
/* Call fn(w, 0) once, in so many ns, in place of the deadline before. */
void img_watch_set_deadline(struct img_watch *w, uint64_t ns);
void img_watch_clear_deadline(struct img_watch *w);
/*
 * Afterwards fn is not called, and w may be freed. To be done before the descriptor is closed. Also
 * from another thread, while the queue's runs: a call of fn that is under way is waited for. Twice is
 * fine, and so is a watch of zeroes.
 */
void img_watch_remove(struct img_watch *w);

/* ---- For the kinds of queues ---- */

/* A poll request in a ring. It outlives a watch that was removed while the kernel had it. */
struct img_watch_poll {
	struct img_list link; /* in img_watches.polls */
	struct img_watch *w;  /* NULL: nobody waits for it */
	pthread_t owner;      /* the thread that made the request */
	bool in_ring;
	bool cancel; /* it has yet to be removed from the ring */
};

struct img_watches {
	pthread_mutex_t lock; /* recursive; held while fn runs */
	_Atomic unsigned count;
	struct img_list all;	  /* img_watch.link */
	struct img_list polls;	  /* img_watch_poll.link */
	struct img_watch timer;	  /* watches timer_fd */
	int timer_fd;		  /* -1: no deadline was ever set */
	uint64_t timer_at;	  /* when it is set to fire; 0: not */
	int epoll_fd;		  /* of the event fd, and in THREADS queues of what is watched; -1: not yet */
	struct img_watch *broken; /* its descriptor cannot be watched, which reads as an error of it */
};

void img_watches_init(struct img_watches *s);
void img_watches_destroy(struct img_watches *s);
/* The queue's epoll, which has its event fd. -EMFILE, ... */
int img_watches_epoll(struct img_ioq *q);
/* Wait by epoll, at most timeout ms (-1: for ever), and call what is ready. Returns how many were. */
int img_watches_wait(struct img_ioq *q, int timeout);
/* The ring is given up: what it was to watch for is not armed any more. */
void img_watches_leave_ring(struct img_watches *s);
/* Call w->fn; the lock is held. */
void img_watch_call(struct img_watch *w, unsigned events);

#endif
