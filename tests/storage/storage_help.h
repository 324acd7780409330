/*
 * For the tests of storages: a folder of its own, and random requests against a flat copy.
 */
#ifndef TESTS_STORAGE_STORAGE_HELP_H
#define TESTS_STORAGE_STORAGE_HELP_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/storage/storage.h"
#include "tests/support/scratch.h"

static char folder[SCRATCH_PATH];

/* A path in the test's folder, in one of a few buffers that are used in turn. */
static inline const char *in_folder(const char *name)
{
	static char paths[4][PATH_MAX];
	static unsigned turn;
	char *path = paths[turn++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", folder, name);
	return path;
}

static inline void make_folder(void)
{
	cr_assert(scratch_make(folder, "img-storage"));
}

/* How many names there are, hidden ones included. */
static inline int count_names(void)
{
	DIR *dir = opendir(folder);
	int n = 0;

	cr_assert_not_null(dir);
	for (struct dirent *d; (d = readdir(dir));)
		n += strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0;
	closedir(dir);
	return n;
}

static inline void remove_folder(void)
{
	DIR *dir = opendir(folder);

	if (!dir)
		return;
	for (struct dirent *d; (d = readdir(dir));)
		unlinkat(dirfd(dir), d->d_name, 0);
	closedir(dir);
	rmdir(folder);
}

static inline void make_file(const char *name, const void *bytes, size_t len)
{
	int fd = open(in_folder(name), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);

	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, bytes, len), (ssize_t)len);
	close(fd);
}

static inline struct img_storage *opened(const char *name, unsigned flags)
{
	struct img_error err = { 0 };
	struct img_storage *s = NULL;

	cr_assert_eq(img_storage_open_file(in_folder(name), flags, &s, &err), 0, "%s",
		     img_error_text(&err));
	return s;
}

static inline struct img_storage *new_file(const char *name, unsigned flags)
{
	make_file(name, "", 0);
	return opened(name, flags | IMG_STORAGE_WRITE);
}

static inline struct img_ioq *new_queue(enum img_io_kind kind)
{
	struct img_error err = { 0 };
	struct img_ioq *q = NULL;
	int rc = img_ioq_new(kind, &q, &err);

	if (rc && kind == IMG_IO_URING)
		cr_skip_test("io_uring is not to be had here: %s", img_error_text(&err));
	cr_assert_eq(rc, 0, "%s", img_error_text(&err));
	return q;
}

static inline uint32_t rnd(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

/*
 * Random requests, LANES at a time, each lane in a range of its own of lane_bytes (any number: with
 * O_DIRECT neighbours meet in a block). At the end everything is read back by a blocking call.
 */
enum { LANES = 8,
       LANE_IOVS = 5 };

struct lane {
	struct img_io io;
	struct iovec iov[LANE_IOVS];
	struct world *world;
	uint64_t start;
	uint32_t random;
	unsigned left;
	uint8_t *buf;
};

struct world {
	struct img_storage *s;
	struct img_ioq *q;
	uint8_t *flat;
	uint64_t lane_bytes;
	bool aligned; /* multiples of 4096 only */
	unsigned busy;
	struct lane lanes[LANES];
};

static inline void next_request(struct lane *lane);

static inline void request_done(struct img_io *io)
{
	struct lane *lane = IMG_CONTAINER(io, struct lane, io);

	cr_assert_eq(io->rc, 0, "op %d at %lu+%lu: %s", (int)io->op, io->off, io->len,
		     strerror(-io->rc));
	if (io->op == IMG_IO_READ)
		cr_assert_arr_eq(lane->buf, lane->world->flat + io->off, io->len);
	next_request(lane);
}

/* Cut [buf, buf + len) into up to LANE_IOVS pieces, some of them empty. */
static inline void cut_buffer(struct lane *lane, uint64_t len, uint64_t step)
{
	uint64_t at = 0;
	int n = 1 + (int)(rnd(&lane->random) % LANE_IOVS);

	for (int i = 0; i < n; i++) {
		uint64_t part = i + 1 == n ? len - at : rnd(&lane->random) % (len - at + 1);

		part = i + 1 == n ? part : part / step * step;
		lane->iov[i] = (struct iovec){ lane->buf + at, (size_t)part };
		at += part;
	}
	lane->io.iov = lane->iov;
	lane->io.iovcnt = n;
}

static inline void next_request(struct lane *lane)
{
	static const enum img_io_op ops[] = {
		IMG_IO_READ,
		IMG_IO_READ,
		IMG_IO_READ,
		IMG_IO_WRITE,
		IMG_IO_WRITE,
		IMG_IO_WRITE,
		IMG_IO_WRITE,
		IMG_IO_ZERO,
		IMG_IO_PUNCH,
		IMG_IO_SYNC,
	};
	struct world *w = lane->world;
	uint64_t step = w->aligned ? 4096 : 1, off, len;
	enum img_io_op op;

	if (!lane->left) {
		w->busy--;
		return;
	}
	lane->left--;
	op = ops[rnd(&lane->random) % IMG_ARRAY_LEN(ops)];
	off = rnd(&lane->random) % w->lane_bytes / step * step;
	len = (1 + rnd(&lane->random) % (w->lane_bytes - off) + step - 1) / step * step;
	if (rnd(&lane->random) % 2)
		len = min_u64(len, 3 * step);
	off += lane->start;
	if (op == IMG_IO_WRITE) {
		for (uint64_t i = 0; i < len; i++)
			lane->buf[i] = (uint8_t)rnd(&lane->random);
		memcpy(w->flat + off, lane->buf, len);
	} else if (op == IMG_IO_ZERO || op == IMG_IO_PUNCH) {
		memset(w->flat + off, 0, len);
	} else {
		memset(lane->buf, 0x5a, len);
	}
	lane->io = (struct img_io){
		.storage = w->s,
		.op = op,
		.off = off,
		.len = len,
		.done = request_done,
	};
	if (op == IMG_IO_READ || op == IMG_IO_WRITE)
		cut_buffer(lane, len, step);
	img_ioq_submit(w->q, &lane->io);
}

static inline void random_requests(struct img_storage *s, enum img_io_kind kind, uint64_t lane_bytes,
				   bool aligned, uint32_t seed, unsigned each)
{
	struct world w = { .s = s, .lane_bytes = lane_bytes, .aligned = aligned, .busy = LANES };
	uint64_t all = lane_bytes * LANES, size;
	uint8_t *back = malloc(all);
	struct img_error err = { 0 };

	w.q = new_queue(kind);
	w.flat = calloc(1, all);
	cr_assert_eq(img_storage_read(s, 0, w.flat, all, &err), 0, "%s", img_error_text(&err));
	for (size_t i = 0; i < LANES; i++) {
		w.lanes[i] = (struct lane){
			.world = &w,
			.start = i * lane_bytes,
			.random = seed * 99 + (uint32_t)i + 1,
			.left = each,
			.buf = aligned_alloc(4096, round_up_u64(lane_bytes, 4096)),
		};
		next_request(&w.lanes[i]);
	}
	while (w.busy)
		img_ioq_run(w.q, true);
	cr_assert_eq(img_storage_read(s, 0, back, all, &err), 0, "%s", img_error_text(&err));
	cr_assert_arr_eq(back, w.flat, all);
	/* beyond the size that we were told there is nothing */
	size = atomic_load(&s->size);
	for (uint64_t i = size; i < all; i++)
		cr_assert_eq(w.flat[i], 0);
	for (size_t i = 0; i < LANES; i++)
		free(w.lanes[i].buf);
	img_ioq_free(w.q);
	free(w.flat);
	free(back);
}

#endif
