/*
 * An I/O queue on io_uring. Requests gather in the submission queue until img_ioq_run(). The
 * queue's eventfd is watched by a poll request in the ring itself, so that a thread asleep in the
 * ring, or polling its descriptor, notices posts and finished worker threads too.
 *
 * No setup flags that defer completion work to io_uring_enter(): completions must show in the ring
 * by themselves, for whoever polls its descriptor.
 */
#include <errno.h>
#include <liburing.h>
#include <limits.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/storage/ioq_fixed.h"
#include "libimg/storage/ioq_private.h"
#include "libimg/storage/storage.h"

enum {
	SUBMISSION_ENTRIES = 128,
	COMPLETION_ENTRIES = 1024, /* more in flight than this is slow, not wrong */
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
	char nobody;   /* its address marks requests whose answer nobody wants */
	bool armed;    /* a poll request for event_fd is in the ring */
	bool one_shot; /* the kernel (before 5.13) cannot leave it there for good */
};

static struct uring *uring_of(struct img_ioq *q)
{
	return IMG_CONTAINER(q, struct uring, base);
}

/* A free submission entry; NULL: the kernel takes none at the moment. */
static struct io_uring_sqe *get_entry(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (!sqe) {
		io_uring_submit(&u->ring);
		sqe = io_uring_get_sqe(&u->ring);
	}
	return sqe;
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
static void hand_over(struct uring *u, bool cached)
{
	if (io_uring_sq_ready(&u->ring) >= (cached ? CACHED_BATCH : DIRECT_BATCH))
		io_uring_submit(&u->ring);
}

bool img_ioq_ring_read(struct img_ioq *q, struct img_io *io, int fd, bool cached)
{
	struct io_uring_sqe *sqe = get_entry(uring_of(q));

	if (!sqe)
		return false;
	prepare(uring_of(q), sqe, io, fd, cached);
	hand_over(uring_of(q), cached);
	return true;
}

bool img_ioq_ring_write(struct img_ioq *q, struct img_io *io, int fd, int rw_flags, bool cached,
			const struct img_ioq_reserve *reserve)
{
	struct uring *u = uring_of(q);
	struct io_uring_sqe *sqe;

	if (reserve && io_uring_sq_space_left(&u->ring) < 2) /* a chain is submitted whole */
		io_uring_submit(&u->ring);
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
	hand_over(u, cached);
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

/* Watch the eventfd. The request without data is this one. */
static void arm(struct uring *u)
{
	struct io_uring_sqe *sqe = u->armed ? NULL : get_entry(u);

	if (!sqe)
		return;
	io_uring_prep_poll_add(sqe, u->base.event_fd, POLLIN);
	if (!u->one_shot)
		sqe->len = IORING_POLL_ADD_MULTI;
	io_uring_sqe_set_data(sqe, NULL);
	u->armed = true;
}

static void enter_kernel(struct uring *u, bool block)
{
	struct pollfd fds[] = {
		{ .fd = u->ring.ring_fd, .events = POLLIN },
		{ .fd = u->base.event_fd, .events = POLLIN },
	};
	int rc;

	if (io_uring_cq_ready(&u->ring))
		block = false;
	if (!block) {
		if (io_uring_sq_ready(&u->ring))
			io_uring_submit(&u->ring); /* what it does not take stays for later */
		return;
	}
	rc = u->armed ? io_uring_submit_and_wait(&u->ring, 1) : -EAGAIN;
	if (rc < 0 && rc != -EINTR) /* the kernel is short of memory: wait by other means */
		poll(fds, IMG_ARRAY_LEN(fds), u->armed ? 1 : 10);
}

/* The poll request for event_fd was answered. */
static void take_event(struct uring *u, int res, unsigned flags)
{
	if (res == -EINVAL)
		u->one_shot = true;
	if (!(flags & IORING_CQE_F_MORE))
		u->armed = false;
	img_ioq_quiet(&u->base);
}

static int uring_harvest(struct img_ioq *q, bool block)
{
	struct uring *u = uring_of(q);
	struct io_uring_cqe *cqe;
	int taken;

	arm(u);
	enter_kernel(u, block);
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
		if (io)
			io->storage->ops->landed(io->storage, io, res);
		else
			take_event(u, res, flags);
	}
	if (!u->armed) { /* nobody who polls may miss the next event */
		arm(u);
		io_uring_submit(&u->ring);
	}
	return taken;
}

static int uring_fd(const struct img_ioq *q)
{
	return IMG_CONTAINER(q, struct uring, base)->ring.ring_fd;
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
	};
	struct io_uring_probe *probe;
	int rc = 0;

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
		rc = img_ioq_init(&u->base, IMG_IOQ_URING, &uring_kernel);
	if (rc)
		goto exit_ring;
	img_fixed_init(&u->fixed, &u->ring);
	/* from now on, so that a post is seen by a poller even before the first img_ioq_run() */
	arm(u);
	io_uring_submit(&u->ring);
	*out = &u->base;
	return 0;

exit_ring:
	io_uring_queue_exit(&u->ring);
free_queue:
	free(u);
	return rc;
}
