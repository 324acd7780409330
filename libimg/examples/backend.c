/*
 * An image as a program's block backend: requests are submitted asynchronously, and the program
 * learns of completions in its own epoll loop, beside whatever else it waits for.
 *
 *	cc backend.c $(pkg-config --cflags --libs libimg) -o backend
 *	backend IMAGE [SECONDS] [SEED]
 *
 * Here the program is a test of itself: random reads, writes (some with FUA), zeroes and flushes, several in
 * flight, on an image that reads as zeroes at first, each read compared with a copy in memory.
 * Two queues take turns; a program would usually give each thread one of its own.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <libimg/img.h>

enum {
	QUEUES = 2,
	IN_FLIGHT = 16,
	MAX_BYTES = 256 << 10,
	SECTOR = 512,
};

enum op {
	READ,
	WRITE,
	ZERO,
	FLUSH,
};

struct backend;

/* One request: its buffer and its range stay untouched by others until it is done. */
struct request {
	struct backend *backend;
	bool busy;
	enum op op;
	uint64_t off, len;
	struct iovec iov;
	uint8_t data[MAX_BYTES];
};

struct backend {
	struct img *img;
	struct img_queue *queue[QUEUES];
	uint8_t *model; /* what the image should hold */
	uint64_t size, done, failed;
	bool stopping;
	uint64_t random;
	struct request request[QUEUES][IN_FLIGHT];
};

static uint64_t next_random(struct backend *b)
{
	b->random ^= b->random << 13;
	b->random ^= b->random >> 7;
	b->random ^= b->random << 17;
	return b->random;
}

/* Requests that overlap in flight have no order between them: the program sees to it itself. */
static bool is_claimed(const struct backend *b, uint64_t off, uint64_t len)
{
	for (int q = 0; q < QUEUES; q++) {
		for (int i = 0; i < IN_FLIGHT; i++) {
			const struct request *r = &b->request[q][i];

			if (r->busy && off < r->off + r->len && r->off < off + len)
				return true;
		}
	}
	return false;
}

static void finished(void *user, int rc, const struct img_error *err)
{
	struct request *r = user;
	struct backend *b = r->backend;

	r->busy = false;
	b->done++;
	if (rc) {
		fprintf(stderr, "backend: %" PRIu64 "+%" PRIu64 ": %s\n", r->off, r->len,
			img_error_text(err));
		b->failed++;
		return;
	}
	switch (r->op) {
	case READ:
		if (memcmp(r->data, b->model + r->off, r->len)) {
			fprintf(stderr, "backend: wrong data at %" PRIu64 "+%" PRIu64 "\n", r->off,
				r->len);
			b->failed++;
		}
		break;
	case WRITE:
		memcpy(b->model + r->off, r->data, r->len);
		break;
	case ZERO:
		memset(b->model + r->off, 0, r->len);
		break;
	case FLUSH:
		break;
	}
}

static int submit(struct backend *b, struct img_queue *queue, struct request *r)
{
	uint64_t sectors = 1 + next_random(b) % (MAX_BYTES / SECTOR);
	uint64_t pick = next_random(b) % 100;

	r->backend = b;
	r->len = sectors * SECTOR;
	r->off = next_random(b) % ((b->size - r->len) / SECTOR + 1) * SECTOR;
	if (is_claimed(b, r->off, r->len))
		return 0; /* another time */
	if (pick < 45)
		r->op = READ;
	else if (pick < 90)
		r->op = WRITE;
	else
		r->op = pick < 98 ? ZERO : FLUSH;
	r->iov = (struct iovec){ .iov_base = r->data, .iov_len = r->len };
	r->busy = true;
	switch (r->op) {
	case READ:
		return img_submit_readv(queue, b->img, r->off, &r->iov, 1, 0, finished, r, NULL);
	case WRITE:
		memset(r->data, (int)(1 + next_random(b) % 255), r->len);
		memcpy(r->data, &b->random, sizeof(b->random));
		return img_submit_writev(queue, b->img, r->off, &r->iov, 1,
					 pick % 16 ? 0 : IMG_SUBMIT_FUA, finished, r, NULL);
	case ZERO:
		return img_submit_zero(queue, b->img, r->off, r->len,
				       pick % 2 ? IMG_SUBMIT_MAY_UNMAP : IMG_SUBMIT_KEEP_ALLOCATED,
				       finished, r, NULL);
	default:
		r->len = 0;
		return img_submit_flush(queue, b->img, finished, r, NULL);
	}
}

/* Keep a queue busy, and run what has completed. */
static int drive(struct backend *b, int q)
{
	img_queue_run(b->queue[q], false);
	for (int i = 0; i < IN_FLIGHT && !b->stopping; i++) {
		if (b->request[q][i].busy)
			continue;
		int rc = submit(b, b->queue[q], &b->request[q][i]);

		if (rc) {
			b->request[q][i].busy = false;
			return rc;
		}
	}
	img_queue_run(b->queue[q], false);
	return 0;
}

/*
 * A queue with nothing in flight, whose descriptor will not become readable: all that it was given had
 * completed by the time that drive() returned. -1: there is none.
 */
static int find_idle(const struct backend *b)
{
	for (int q = 0; q < QUEUES; q++)
		if (!img_queue_in_flight(b->queue[q]))
			return q;
	return -1;
}

static int loop(struct backend *b, unsigned seconds)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	struct itimerspec when = { .it_value.tv_sec = seconds };
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = QUEUES };
	size_t left = 1;
	int rc = 0;

	if (epoll < 0 || timer < 0 || timerfd_settime(timer, 0, &when, NULL) ||
	    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event))
		return -errno;
	for (int q = 0; q < QUEUES; q++) {
		event.data.u32 = (uint32_t)q;
		if (epoll_ctl(epoll, EPOLL_CTL_ADD, img_queue_fd(b->queue[q]), &event))
			return -errno;
	}
	for (int q = 0; q < QUEUES && rc == 0; q++)
		rc = drive(b, q);
	while (rc == 0 && left > 0) {
		int idle = b->stopping ? -1 : find_idle(b);
		int n = epoll_wait(epoll, &event, 1, idle < 0 ? 10000 : 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0 && idle >= 0) {
			rc = drive(b, idle);
			continue;
		}
		if (n <= 0) {
			fprintf(stderr, "backend: no completion in 10 s\n");
			return -ETIMEDOUT;
		}
		if (event.data.u32 == QUEUES) { /* time is up: let what is in flight end */
			b->stopping = true;
			epoll_ctl(epoll, EPOLL_CTL_DEL, timer, NULL);
		} else {
			rc = drive(b, (int)event.data.u32);
		}
		left = b->stopping ? 0 : 1;
		for (int q = 0; q < QUEUES; q++)
			left += img_queue_in_flight(b->queue[q]);
	}
	close(timer);
	close(epoll);
	return rc;
}

int main(int argc, char **argv)
{
	struct img_open_options options = { .format = "qcow2", .flags = IMG_OPEN_WRITE };
	struct img_error *err = img_error_new();
	static struct backend b;
	int rc;

	if (argc < 2) {
		fprintf(stderr, "usage: backend IMAGE [SECONDS] [SEED]\n");
		return 2;
	}
	b.random = argc > 3 ? strtoull(argv[3], NULL, 0) | 1 : 88172645463325252u;
	rc = img_open(argv[1], &options, &b.img, err);
	for (int q = 0; q < QUEUES && rc == 0; q++)
		rc = img_queue_new(IMG_IO_AUTO, &b.queue[q], err);
	if (rc) {
		fprintf(stderr, "backend: %s\n", img_error_text(err));
		return 1;
	}
	b.size = img_size(b.img);
	b.model = calloc(1, b.size);
	if (!b.model || b.size < MAX_BYTES) {
		fprintf(stderr,
			"backend: give it an image of at least 256 KiB that fits in memory\n");
		return 1;
	}

	rc = loop(&b, argc > 2 ? (unsigned)strtoul(argv[2], NULL, 0) : 2);
	for (int q = 0; q < QUEUES; q++)
		img_queue_free(b.queue[q]);

	/* Once more from the beginning, by the blocking call. */
	for (uint64_t off = 0; off < b.size && rc == 0; off += MAX_BYTES) {
		size_t len = b.size - off < MAX_BYTES ? (size_t)(b.size - off) : MAX_BYTES;

		rc = img_read(b.img, off, b.request[0][0].data, len, err);
		if (rc == 0 && memcmp(b.request[0][0].data, b.model + off, len)) {
			fprintf(stderr, "backend: wrong data near %" PRIu64 " at the end\n", off);
			b.failed++;
		}
	}
	if (rc)
		fprintf(stderr, "backend: %s\n", img_error_text(err));
	if (img_close(b.img, err)) {
		fprintf(stderr, "backend: %s\n", img_error_text(err));
		rc = -EIO;
	}
	printf("libimg %s: %" PRIu64 " requests on %d queues, %" PRIu64 " failed\n", img_version(),
	       b.done, QUEUES, b.failed);
	free(b.model);
	img_error_free(err);
	return rc || b.failed ? 1 : 0;
}
