/*
 * Watched descriptors, by epoll; queues on io_uring put poll requests into the ring instead
 * (ioq_uring.c). Deadlines of all watches share one timerfd, which is watched like any other.
 */
#include "libimg/storage/ioq_watch.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/storage/ioq_private.h"

enum {
	EVENTS_AT_ONCE = 16,
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

/* ---- Deadlines ---- */

/* The timer may fire too early: then it is set anew. */
static void set_timer(struct img_watches *s)
{
	uint64_t first = 0;

	for (struct img_list *n = s->all.next; n != &s->all; n = n->next) {
		const struct img_watch *w = IMG_CONTAINER(n, struct img_watch, link);

		if (w->deadline && (!first || w->deadline < first))
			first = w->deadline;
	}
	if (first && (!s->timer_at || first < s->timer_at)) {
		struct itimerspec at = {
			.it_value = { .tv_sec = (time_t)(first / 1000000000),
				      .tv_nsec = (long)(first % 1000000000) },
		};

		timerfd_settime(s->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
		s->timer_at = first;
	}
	if (s->timer_at)
		img_watch_set(&s->timer, s->timer_fd, POLLIN);
}

static struct img_watch *find_due(const struct img_watches *s, uint64_t now)
{
	for (struct img_list *n = s->all.next; n != &s->all; n = n->next) {
		struct img_watch *w = IMG_CONTAINER(n, struct img_watch, link);

		if (w->deadline && w->deadline <= now)
			return w;
	}
	return NULL;
}

static void timer_fired(struct img_watch *timer, unsigned events)
{
	struct img_watches *s = IMG_CONTAINER(timer, struct img_watches, timer);
	uint64_t count, now = now_ns();
	struct img_watch *w;

	(void)events;
	if (read(s->timer_fd, &count, sizeof(count)) == sizeof(count))
		s->timer_at = 0;
	/* what is set from here on is later than now */
	while ((w = find_due(s, now))) {
		w->deadline = 0;
		w->fn(w, 0);
	}
	set_timer(s);
}

void img_watch_set_deadline(struct img_watch *w, uint64_t ns)
{
	struct img_watches *s = &w->q->watches;

	pthread_mutex_lock(&s->lock);
	w->deadline = now_ns() + max_u64(ns, 1);
	if (s->timer_fd < 0) {
		s->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
		if (s->timer_fd >= 0) {
			s->timer.fn = timer_fired;
			img_watch_add(w->q, &s->timer);
		}
	}
	if (s->timer_fd >= 0 && (!s->timer_at || w->deadline < s->timer_at))
		set_timer(s);
	pthread_mutex_unlock(&s->lock);
}

void img_watch_clear_deadline(struct img_watch *w)
{
	w->deadline = 0;
}

/* ---- Watching ---- */

void img_watch_add(struct img_ioq *q, struct img_watch *w)
{
	struct img_watches *s = &q->watches;

	w->q = q;
	w->fd = -1;
	w->events = 0;
	w->deadline = 0;
	w->armed = w->registered = false;
	w->poll = NULL;
	pthread_mutex_lock(&s->lock);
	img_list_init(&w->link);
	img_list_add_tail(&s->all, &w->link);
	atomic_fetch_add(&s->count, 1);
	pthread_mutex_unlock(&s->lock);
}

/* Nobody waits for the request that may be in the ring. */
static void abandon(struct img_watch *w)
{
	if (w->poll && w->poll->in_ring) {
		w->poll->w = NULL;
		w->poll->cancel = true;
		w->poll = NULL;
	}
	w->armed = false;
}

static void free_poll(struct img_watch *w)
{
	if (!w->poll)
		return;
	img_list_del(&w->poll->link);
	free(w->poll);
	w->poll = NULL;
}

void img_watches_leave_ring(struct img_watches *s)
{
	pthread_mutex_lock(&s->lock);
	for (struct img_list *n = s->all.next; n != &s->all; n = n->next) {
		struct img_watch *w = IMG_CONTAINER(n, struct img_watch, link);

		if (w->poll)
			abandon(w);
		free_poll(w);
	}
	pthread_mutex_unlock(&s->lock);
}

static void unregister(struct img_watch *w)
{
	if (w->registered)
		epoll_ctl(w->q->watches.epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	w->registered = false;
}

void img_watch_set(struct img_watch *w, int fd, unsigned events)
{
	struct img_watches *s = &w->q->watches;

	pthread_mutex_lock(&s->lock);
	if (fd != w->fd || events != w->events) {
		abandon(w);
		if (fd != w->fd)
			unregister(w);
		w->fd = fd;
		w->events = events;
	}
	pthread_mutex_unlock(&s->lock);
}

void img_watch_remove(struct img_watch *w)
{
	struct img_ioq *q = w->q;
	struct img_watches *s;

	if (!q)
		return;
	s = &q->watches;
	pthread_mutex_lock(&s->lock);
	abandon(w);
	unregister(w);
	free_poll(w);
	img_list_del(&w->link);
	w->q = NULL;
	atomic_fetch_sub(&s->count, 1);
	pthread_mutex_unlock(&s->lock);
	/*
	 * A ring has a request that is to be removed, which only the queue's thread can do, when it hands
	 * over requests: that it goes through the lists once more is not enough.
	 */
	pthread_mutex_lock(&q->lock);
	q->awake = false;
	img_ioq_signal_locked(q);
	pthread_mutex_unlock(&q->lock);
}

void img_watch_call(struct img_watch *w, unsigned events)
{
	w->events = 0;
	w->armed = false;
	w->fn(w, events);
}

/* ---- By epoll ---- */

int img_watches_epoll(struct img_ioq *q)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fd;

	if (q->watches.epoll_fd >= 0)
		return q->watches.epoll_fd;
	fd = epoll_create1(EPOLL_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (epoll_ctl(fd, EPOLL_CTL_ADD, q->event_fd, &event)) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return q->watches.epoll_fd = fd;
}

/* POLLIN, ... and EPOLLIN, ... are the same numbers. */
static void arm(struct img_watches *s, struct img_watch *w)
{
	struct epoll_event event = { .events = w->events | EPOLLONESHOT, .data.ptr = w };

	if (!epoll_ctl(s->epoll_fd, w->registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, w->fd, &event))
		w->armed = w->registered = true;
	else
		s->broken = w;
}

static bool is_watch(const struct img_watches *s, const void *what)
{
	for (const struct img_list *n = s->all.next; n != &s->all; n = n->next)
		if (IMG_CONTAINER(n, const struct img_watch, link) == what)
			return true;
	return false;
}

int img_watches_wait(struct img_ioq *q, int timeout)
{
	struct img_watches *s = &q->watches;
	struct epoll_event events[EVENTS_AT_ONCE];
	int count, fd = img_watches_epoll(q);
	struct img_watch *broken;

	if (fd < 0) { /* out of descriptors: the caller tries again */
		poll(NULL, 0, 10);
		return 0;
	}
	pthread_mutex_lock(&s->lock);
	s->broken = NULL;
	for (struct img_list *n = s->all.next; n != &s->all; n = n->next) {
		struct img_watch *w = IMG_CONTAINER(n, struct img_watch, link);

		if (w->events && !w->armed)
			arm(s, w);
	}
	broken = s->broken;
	if (broken)
		img_watch_call(broken, POLLERR);
	pthread_mutex_unlock(&s->lock);
	if (broken)
		return 1;
	count = epoll_wait(fd, events, EVENTS_AT_ONCE, timeout);
	pthread_mutex_lock(&s->lock);
	for (int i = 0; i < count; i++) {
		struct img_watch *w = events[i].data.ptr;

		/* it may have been removed meanwhile */
		if (w && is_watch(s, w) && w->armed)
			img_watch_call(w, events[i].events);
	}
	pthread_mutex_unlock(&s->lock);
	return count > 0 ? count : 0;
}

/* ---- All of them ---- */

void img_watches_init(struct img_watches *s)
{
	pthread_mutexattr_t recursive;

	pthread_mutexattr_init(&recursive);
	pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&s->lock, &recursive);
	pthread_mutexattr_destroy(&recursive);
	img_list_init(&s->all);
	img_list_init(&s->polls);
	atomic_init(&s->count, 0);
	s->timer_fd = s->epoll_fd = -1;
}

void img_watches_destroy(struct img_watches *s)
{
	struct img_list *n;

	img_watch_remove(&s->timer);
	while ((n = img_list_pop(&s->polls)))
		free(IMG_CONTAINER(n, struct img_watch_poll, link));
	if (s->timer_fd >= 0)
		close(s->timer_fd);
	if (s->epoll_fd >= 0)
		close(s->epoll_fd);
	pthread_mutex_destroy(&s->lock);
}
