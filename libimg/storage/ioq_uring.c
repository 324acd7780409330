/*
 * An I/O queue on io_uring. Requests gather in the submission queue until img_ioq_run(). The
 * queue's eventfd is watched by a poll request in the ring itself, so that a thread asleep in the
 * ring notices posts and finished worker threads too. That request belongs to the thread that made
 * it, which the kernel interrupts for it: so it is made by the one that sleeps, and made anew by
 * another. Who polls instead gets a descriptor that watches both.
 *
 * The kernel may refuse to be entered later on (a sandbox was put on), or put off for ever: what it has
 * not taken goes to worker threads then, as does all that comes after.
 *
 * No setup flags that defer completion work to io_uring_enter(): completions must show in the ring
 * by themselves, for whoever polls its descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/storage/ioq_fixed.h"
#include "libimg/storage/ioq_private.h"
#include "libimg/storage/storage.h"

enum {
	SUBMISSION_ENTRIES = 128,
	COMPLETION_ENTRIES = 1024, /* more in flight than this is slow, not wrong */
	PATIENCE_MS = 1000,	   /* with a kernel that says "not now" */
	MAX_TRANSFER = 1 << 30,	   /* the kernel stops a little below 2 GiB */
	/*
	 * Where copying to or from the page cache takes longer than waking a kernel thread for it.
	 * Measured on ext4, 8 requests at a time: 256 KiB go twice as fast that way, 64 KiB do not.
	 */
	MIN_COPY_ASIDE = 256 * 1024,
	/*
	 * How many entries gather before the kernel gets them. Past the page cache few: a device that
	 * waits for the whole of a batch idles (4 KiB reads, depth 32: 75,000 a second in batches of
	 * 16, 87,000 in batches of 4). From the page cache more: nothing waits there, and a system
	 * call costs as much as a tenth of a read.
	 */
	DIRECT_BATCH = 4,
	CACHED_BATCH = 16,
};

struct uring {
	struct img_ioq base;
	struct io_uring ring;
	struct img_fixed fixed;
	char nobody;		/* its address marks requests whose answer nobody wants */
	char event[2];		/* their addresses mark poll requests for event_fd, by turns */
	unsigned turn;		/* which of them is in use */
	bool armed;		/* such a request is in the ring */
	pthread_t armed_by;	/* whose it is */
	bool one_shot;		/* the kernel (before 5.13) cannot leave it there for good */
	bool in_epoll;		/* the ring, in the queue's epoll */
	uint64_t not_now_since; /* ms, CLOCK_MONOTONIC: since when the kernel takes nothing; 0: it does */
};

/* Marks, in an answer, what is a struct img_watch_poll and no request. */
#define WATCH_TAG ((uintptr_t)1)

static struct uring *uring_of(struct img_ioq *q)
{
	return IMG_CONTAINER(q, struct uring, base);
}

/* Is this a "not now" of the kernel's, rather than a refusal? */
static bool is_passing(int rc)
{
	return rc == -EINTR || rc == -EAGAIN || rc == -EBUSY || rc == -ENOMEM;
}

/* Has "not now" been all that the kernel says for too long? */
static bool is_out_of_patience(struct uring *u)
{
	struct timespec t;
	uint64_t now;

	clock_gettime(CLOCK_MONOTONIC, &t);
	now = (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
	if (!u->not_now_since)
		u->not_now_since = now;
	return now - u->not_now_since > PATIENCE_MS;
}

/*
 * What the kernel does not take now stays for later; what it refuses, for abandon_ring(). A sandbox may
 * refuse by any error, also by one that means "not now" when the kernel says it.
 */
static void judge_answer(struct uring *u, int rc)
{
	if (rc >= 0 || !io_uring_sq_ready(&u->ring))
		u->not_now_since = 0;
	else if (!is_passing(rc) || is_out_of_patience(u))
		u->base.kind = IMG_IO_THREADS;
}

static bool is_refused(const struct uring *u)
{
	return u->base.kind == IMG_IO_THREADS;
}

static void submit(struct uring *u)
{
	if (!is_refused(u))
		judge_answer(u, io_uring_submit(&u->ring));
}

/* A free submission entry; NULL: the kernel takes none at the moment. */
static struct io_uring_sqe *get_entry(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (!sqe) {
		submit(u);
		sqe = io_uring_get_sqe(&u->ring);
	}
	return sqe;
}

/* The kernel refuses: what was gathered is for the storages, which have worker threads do it. */
static int abandon_ring(struct uring *u)
{
	struct io_uring_sq *sq = &u->ring.sq;
	unsigned from = *sq->khead, to = sq->sqe_tail;
	int taken = 0;

	img_watches_leave_ring(&u->base.watches);
	*sq->ktail = sq->sqe_head = sq->sqe_tail = from;
	for (unsigned i = from; i != to; i++) {
		const struct io_uring_sqe *sqe = &sq->sqes[i & *sq->kring_mask];
		void *data = (void *)(uintptr_t)sqe->user_data;
		struct img_io *io = data;

		if (data == &u->event[0] || data == &u->event[1]) {
			u->armed = false;
		} else if ((uintptr_t)data & WATCH_TAG) {
			continue;
		} else if (data != &u->nobody) {
			io->storage->ops->completed(io->storage, io, -EAGAIN);
			taken++;
		}
	}
	return taken;
}

/* Fill an entry with what is left of a transfer. */
static void prepare(struct uring *u, struct io_uring_sqe *sqe, struct img_io *io, int fd,
		    bool cached)
{
	uint64_t off = io->off + io->transferred;
	const struct iovec *iov = io->iov;
	int count = io->iovcnt;
	int slot = img_fixed_file(&u->fixed, fd), buffer;
	unsigned len;

	if (slot >= 0)
		fd = slot;
	while (count > 1 && !iov->iov_len) {
		iov++;
		count--;
	}
	if (count == 1) {
		len = (unsigned)min_size(iov->iov_len, MAX_TRANSFER);
		buffer = img_fixed_buffer(&u->fixed, iov->iov_base, len);
		if (buffer >= 0 && io->op == IMG_IO_READ)
			io_uring_prep_read_fixed(sqe, fd, iov->iov_base, len, off, buffer);
		else if (buffer >= 0)
			io_uring_prep_write_fixed(sqe, fd, iov->iov_base, len, off, buffer);
		else if (io->op == IMG_IO_READ)
			io_uring_prep_read(sqe, fd, iov->iov_base, len, off);
		else
			io_uring_prep_write(sqe, fd, iov->iov_base, len, off);
	} else {
		count = count < IOV_MAX ? count : IOV_MAX;
		if (io->op == IMG_IO_READ)
			io_uring_prep_readv(sqe, fd, iov, (unsigned)count, off);
		else
			io_uring_prep_writev(sqe, fd, iov, (unsigned)count, off);
	}
	if (slot >= 0)
		sqe->flags |= IOSQE_FIXED_FILE;
	if (cached && io->len - io->transferred >= MIN_COPY_ASIDE)
		sqe->flags |= IOSQE_ASYNC; /* else the queue's own thread copies */
	io_uring_sqe_set_data(sqe, io);
}

/* Do not keep what was gathered waiting for more than is worth while. */
static void submit_batch(struct uring *u, bool cached)
{
	if (io_uring_sq_ready(&u->ring) >= (cached ? CACHED_BATCH : DIRECT_BATCH))
		submit(u);
}

bool img_ioq_ring_read(struct img_ioq *q, struct img_io *io, int fd, bool cached)
{
	struct io_uring_sqe *sqe = get_entry(uring_of(q));

	if (!sqe)
		return false;
	prepare(uring_of(q), sqe, io, fd, cached);
	submit_batch(uring_of(q), cached);
	return true;
}

bool img_ioq_ring_write(struct img_ioq *q, struct img_io *io, int fd, int rw_flags, bool cached,
			const struct img_ioq_reserve *reserve)
{
	struct uring *u = uring_of(q);
	struct io_uring_sqe *sqe;

	if (reserve && io_uring_sq_space_left(&u->ring) < 2) /* a chain is submitted whole */
		submit(u);
	if (reserve && io_uring_sq_space_left(&u->ring) >= 2) {
		sqe = get_entry(u);
		io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, fd, NULL, (unsigned)reserve->mode,
				 reserve->off);
		sqe->addr = reserve->len;
		sqe->flags |= IOSQE_IO_HARDLINK;
		io_uring_sqe_set_data(sqe, &u->nobody);
	}
	sqe = get_entry(u);
	if (!sqe)
		return false;
	prepare(u, sqe, io, fd, cached);
	sqe->rw_flags = rw_flags;
	submit_batch(u, cached);
	return true;
}

bool img_ioq_ring_fallocate(struct img_ioq *q, struct img_io *io, int fd, int mode, uint64_t len)
{
	struct io_uring_sqe *sqe = get_entry(uring_of(q));

	if (!sqe)
		return false;
	/* by hand: what the helper's parameters can hold depends on liburing's version */
	io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, fd, NULL, (unsigned)mode, io->off);
	sqe->addr = len;
	io_uring_sqe_set_data(sqe, io);
	return true;
}

bool img_ioq_ring_sync(struct img_ioq *q, struct img_io *io, int fd)
{
	struct io_uring_sqe *sqe = get_entry(uring_of(q));

	if (!sqe)
		return false;
	io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	io_uring_sqe_set_data(sqe, io);
	return true;
}

/* Watch the eventfd, by a request of this thread. */
static void arm(struct uring *u)
{
	struct io_uring_sqe *sqe;

	if (u->armed && u->armed_by == pthread_self())
		return;
	sqe = get_entry(u);
	if (sqe && u->armed) { /* another thread's */
		io_uring_prep_rw(IORING_OP_POLL_REMOVE, sqe, -1, NULL, 0, 0);
		sqe->addr = (uintptr_t)&u->event[u->turn];
		io_uring_sqe_set_data(sqe, &u->nobody);
		u->turn ^= 1;
		u->armed = false;
		sqe = get_entry(u);
	}
	if (!sqe)
		return;
	io_uring_prep_poll_add(sqe, u->base.event_fd, POLLIN);
	if (!u->one_shot)
		sqe->len = IORING_POLL_ADD_MULTI;
	io_uring_sqe_set_data(sqe, &u->event[u->turn]);
	u->armed = true;
	u->armed_by = pthread_self();
}

static struct io_uring_sqe *get_watch_entry(struct uring *u, struct img_watch_poll *p)
{
	struct io_uring_sqe *sqe = get_entry(u);

	if (sqe && p->cancel) {
		io_uring_prep_rw(IORING_OP_POLL_REMOVE, sqe, -1, NULL, 0, 0);
		sqe->addr = (uintptr_t)p | WATCH_TAG;
		io_uring_sqe_set_data(sqe, &u->nobody);
		p->cancel = false;
	} else if (sqe) {
		io_uring_prep_poll_add(sqe, p->w->fd, p->w->events);
		io_uring_sqe_set_data(sqe, (void *)((uintptr_t)p | WATCH_TAG));
	}
	return sqe;
}

/* Have the ring wait for what w wants, by a request of this thread. False: not now. */
static bool arm_watch(struct uring *u, struct img_watch *w)
{
	struct img_watch_poll *p = w->poll;

	if (p && p->in_ring) { /* another thread's */
		p->w = NULL;
		p->cancel = true;
		p = NULL;
	}
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return false;
		img_list_init(&p->link);
		img_list_add_tail(&u->base.watches.polls, &p->link);
	}
	w->poll = p;
	p->w = w;
	p->owner = pthread_self();
	w->armed = p->in_ring = get_watch_entry(u, p);
	return w->armed;
}

/* Everything that is watched for is in the ring afterwards, or false. */
static bool arm_watches(struct uring *u)
{
	struct img_watches *s = &u->base.watches;
	bool all = true;

	pthread_mutex_lock(&s->lock);
	for (struct img_list *n = s->all.next; n != &s->all; n = n->next) {
		struct img_watch *w = IMG_CONTAINER(n, struct img_watch, link);

		if (w->events && (!w->armed || w->poll->owner != pthread_self()))
			all = arm_watch(u, w) && all;
	}
	for (struct img_list *n = s->polls.next; n != &s->polls; n = n->next) {
		struct img_watch_poll *p = IMG_CONTAINER(n, struct img_watch_poll, link);

		if (p->cancel)
			all = get_watch_entry(u, p) && all;
	}
	pthread_mutex_unlock(&s->lock);
	return all;
}

/* The kernel's answer to a poll request for a watch. */
static void answer_watch(struct uring *u, struct img_watch_poll *p, int res)
{
	struct img_watches *s = &u->base.watches;

	pthread_mutex_lock(&s->lock);
	p->in_ring = false;
	if (!p->w) {
		img_list_del(&p->link);
		free(p);
	} else if (res == -ECANCELED) { /* its thread has ended */
		p->w->armed = false;
	} else {
		img_watch_call(p->w, res < 0 ? POLLERR : (unsigned)res);
	}
	pthread_mutex_unlock(&s->lock);
}

static int uring_fd(struct img_ioq *q)
{
	struct uring *u = uring_of(q);
	struct epoll_event event = { .events = EPOLLIN };
	int fd = img_watches_epoll(q);

	if (fd < 0 || u->in_epoll)
		return fd;
	if (epoll_ctl(fd, EPOLL_CTL_ADD, u->ring.ring_fd, &event))
		return -errno;
	u->in_epoll = true;
	return fd;
}

/* Without the ring, but it may still answer what it took. */
static void wait_without_ring(struct uring *u, bool block)
{
	struct pollfd fds[] = {
		{ .fd = u->ring.ring_fd, .events = POLLIN },
		{ .fd = u->base.event_fd, .events = POLLIN },
	};

	if (atomic_load(&u->base.watches.count) && uring_fd(&u->base) >= 0)
		img_watches_wait(&u->base, block ? -1 : 0);
	else if (block)
		poll(fds, IMG_ARRAY_LEN(fds), atomic_load(&u->base.watches.count) ? 10 : -1);
}

static void enter_kernel(struct uring *u, bool block)
{
	struct pollfd fds[] = {
		{ .fd = u->ring.ring_fd, .events = POLLIN },
		{ .fd = u->base.event_fd, .events = POLLIN },
	};
	bool all_armed;
	int rc;

	if (io_uring_cq_ready(&u->ring))
		block = false;
	all_armed = is_refused(u) || !atomic_load(&u->base.watches.count) || arm_watches(u);
	if (!is_refused(u) && !block) {
		if (io_uring_sq_ready(&u->ring))
			submit(u);
		return;
	}
	if (is_refused(u)) {
		wait_without_ring(u, block);
		return;
	}
	arm(u);
	all_armed = all_armed && u->armed;
	rc = all_armed ? io_uring_submit_and_wait(&u->ring, 1) : -EAGAIN;
	judge_answer(u, rc);
	if (rc < 0 && rc != -EINTR && !is_refused(u)) /* it is short of memory: wait by other means */
		poll(fds, IMG_ARRAY_LEN(fds), all_armed ? 1 : 10);
}

/* A poll request for event_fd was answered. */
static void parse_event(struct uring *u, const char *which, int res, unsigned flags)
{
	if (res == -EINVAL)
		u->one_shot = true;
	if (!(flags & IORING_CQE_F_MORE) && which == &u->event[u->turn])
		u->armed = false;
	img_ioq_clear_signal(&u->base);
}

static int uring_harvest(struct img_ioq *q, bool block)
{
	struct uring *u = uring_of(q);
	struct io_uring_cqe *cqe;
	int taken, given_up = 0;

	enter_kernel(u, block);
	if (is_refused(u))
		given_up = abandon_ring(u);
	for (taken = 0; taken < COMPLETION_ENTRIES; taken++) {
		struct img_io *io;
		unsigned flags;
		int res;

		if (io_uring_peek_cqe(&u->ring, &cqe))
			break;
		io = io_uring_cqe_get_data(cqe);
		res = cqe->res;
		flags = cqe->flags;
		io_uring_cqe_seen(&u->ring, cqe);
		if ((void *)io == &u->nobody)
			continue;
		if ((void *)io == &u->event[0] || (void *)io == &u->event[1])
			parse_event(u, (void *)io, res, flags);
		else if ((uintptr_t)io & WATCH_TAG)
			answer_watch(u, (void *)((uintptr_t)io & ~WATCH_TAG), res);
		else
			io->storage->ops->completed(io->storage, io, res);
	}
	return taken + given_up;
}

static int uring_set_buffers(struct img_ioq *q, const struct iovec *iov, unsigned count)
{
	return img_fixed_set_buffers(&uring_of(q)->fixed, iov, count);
}

static void uring_free(struct img_ioq *q)
{
	struct uring *u = uring_of(q);

	img_fixed_destroy(&u->fixed);
	io_uring_queue_exit(&u->ring);
	img_ioq_destroy(q);
	free(u);
}

static const struct img_ioq_kernel uring_kernel = {
	.harvest = uring_harvest,
	.fd = uring_fd,
	.set_buffers = uring_set_buffers,
	.free = uring_free,
};

/* Everything that is used here, and completions that are never dropped: Linux 5.6. */
static int check_kernel(struct uring *u, const struct io_uring_params *params)
{
	static const int needed[] = {
		IORING_OP_READ,
		IORING_OP_WRITE,
		IORING_OP_READV,
		IORING_OP_WRITEV,
		IORING_OP_FALLOCATE,
		IORING_OP_FSYNC,
		IORING_OP_POLL_ADD,
		IORING_OP_POLL_REMOVE,
	};
	struct io_uring_probe *probe;
	int rc = 0;

	/* setting up may be allowed and this not */
	if (syscall(__NR_io_uring_enter, u->ring.ring_fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0) <
	    0)
		return -errno;
	if (!(params->features & IORING_FEAT_NODROP))
		return -ENOSYS;
	probe = io_uring_get_probe_ring(&u->ring);
	if (!probe)
		return -ENOSYS;
	for (size_t i = 0; i < IMG_ARRAY_LEN(needed); i++) {
		if (!io_uring_opcode_supported(probe, needed[i]))
			rc = -ENOSYS;
	}
	io_uring_free_probe(probe);
	return rc;
}

int img_ioq_uring_new(struct img_ioq **out)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_CQSIZE,
		.cq_entries = COMPLETION_ENTRIES,
	};
	struct uring *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return -ENOMEM;
	rc = io_uring_queue_init_params(SUBMISSION_ENTRIES, &u->ring, &params);
	if (rc)
		goto free_queue;
	rc = check_kernel(u, &params);
	if (!rc)
		rc = img_ioq_init(&u->base, IMG_IO_URING, &uring_kernel);
	if (rc)
		goto exit_ring;
	img_fixed_init(&u->fixed, &u->ring);
	*out = &u->base;
	return 0;

exit_ring:
	io_uring_queue_exit(&u->ring);
free_queue:
	free(u);
	return rc;
}
