/*
 * An I/O queue without io_uring: every request of a file goes to a worker thread, and completions
 * come by the eventfd.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>

#include "libimg/storage/ioq_private.h"

static int threads_harvest(struct img_ioq *q, bool block)
{
	struct pollfd event = { .fd = q->event_fd, .events = POLLIN };

	/* answers of workers are in q->finished, which the caller looks through itself */
	if (atomic_load(&q->watches.count))
		return img_watches_wait(q, block ? -1 : 0);
	return block && poll(&event, 1, -1) > 0;
}

static int threads_fd(struct img_ioq *q)
{
	return img_watches_epoll(q);
}

static void threads_free(struct img_ioq *q)
{
	img_ioq_destroy(q);
	free(q);
}

static const struct img_ioq_kernel threads_kernel = {
	.harvest = threads_harvest,
	.fd = threads_fd,
	.free = threads_free,
};

int img_ioq_threads_new(struct img_ioq **out)
{
	struct img_ioq *q = calloc(1, sizeof(*q));
	int rc;

	if (!q)
		return -ENOMEM;
	rc = img_ioq_init(q, IMG_IO_THREADS, &threads_kernel);
	if (rc) {
		free(q);
		return rc;
	}
	*out = q;
	return 0;
}
