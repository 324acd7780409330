/*
 * Registered files and buffers: files have a slot each as long as there are slots, buffers are
 * sorted by address so that a request's memory is found among them.
 */
#include "libimg/storage/ioq_fixed.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/fork.h"

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct img_list all = { &all, &all };

/* Rings are the parent's. */
static void forget_all(void)
{
	img_list_init(&all);
}

static void watch_forks(void)
{
	img_watch_forks(&all_lock, forget_all);
}

void img_fixed_init(struct img_fixed *fixed, struct io_uring *ring)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch_forks);
	for (unsigned i = 0; i < IMG_FIXED_FILES; i++)
		atomic_init(&fixed->file[i], -1);
	fixed->ring = ring;
	fixed->files = fixed->files_tried = false;
	fixed->buffers = 0;
	pthread_mutex_lock(&all_lock);
	img_list_add_tail(&all, &fixed->link);
	pthread_mutex_unlock(&all_lock);
}

void img_fixed_destroy(struct img_fixed *fixed)
{
	pthread_mutex_lock(&all_lock);
	img_list_del(&fixed->link);
	pthread_mutex_unlock(&all_lock);
}

int img_fixed_file(struct img_fixed *fixed, int fd)
{
	int slot = fd % IMG_FIXED_FILES, holds = atomic_load(&fixed->file[slot]);

	if (holds == fd)
		return slot;
	if (!fixed->files || holds >= 0)
		return -1;
	if (io_uring_register_files_update(fixed->ring, (unsigned)slot, &fd, 1) != 1) {
		fixed->files = false;
		return -1;
	}
	atomic_store(&fixed->file[slot], fd);
	return slot;
}

void img_fixed_forget(int fd)
{
	int slot = fd % IMG_FIXED_FILES, none = -1;

	pthread_mutex_lock(&all_lock);
	for (struct img_list *l = all.next; l != &all; l = l->next) {
		struct img_fixed *fixed = IMG_CONTAINER(l, struct img_fixed, link);

		if (atomic_load(&fixed->file[slot]) != fd)
			continue;
		io_uring_register_files_update(fixed->ring, (unsigned)slot, &none, 1);
		atomic_store(&fixed->file[slot], -1); /* last: the ring's thread may take it at once */
	}
	pthread_mutex_unlock(&all_lock);
}

void img_fixed_replace(int fd)
{
	int slot = fd % IMG_FIXED_FILES;

	pthread_mutex_lock(&all_lock);
	for (struct img_list *l = all.next; l != &all; l = l->next) {
		struct img_fixed *fixed = IMG_CONTAINER(l, struct img_fixed, link);

		if (atomic_load(&fixed->file[slot]) != fd)
			continue;
		/* The slot is never empty in between: a request that names it may be on its way. */
		if (io_uring_register_files_update(fixed->ring, (unsigned)slot, &fd, 1) != 1)
			atomic_store(&fixed->file[slot], -1); /* who comes next puts it in anew */
	}
	pthread_mutex_unlock(&all_lock);
}

static int by_address(const void *a, const void *b)
{
	const struct iovec *x = a, *y = b;

	return (uintptr_t)x->iov_base < (uintptr_t)y->iov_base ? -1 : x->iov_base != y->iov_base;
}

/* The kernel takes 1 GiB at a time: larger regions in pieces. How many; 0: too many. */
static unsigned cut_buffers(const struct iovec *iov, unsigned count, struct iovec *out)
{
	unsigned n = 0;

	for (unsigned i = 0; i < count; i++) {
		size_t left = iov[i].iov_len, piece;

		for (char *at = iov[i].iov_base; left; at += piece, left -= piece) {
			if (n == IMG_FIXED_BUFFERS)
				return 0;
			piece = min_size(left, IMG_FIXED_BYTES);
			out[n++] = (struct iovec){ at, piece };
		}
	}
	return n;
}

int img_fixed_set_buffers(struct img_fixed *fixed, const struct iovec *iov, unsigned count)
{
	int none[IMG_FIXED_FILES], rc;

	if (count > IMG_FIXED_BUFFERS)
		return -EINVAL;
	for (unsigned i = 0; i < count; i++)
		if (!iov[i].iov_len)
			return -EINVAL;
	if (!fixed->files_tried) {
		memset(none, 0xff, sizeof(none)); /* -1 */
		fixed->files = !io_uring_register_files(fixed->ring, none, IMG_FIXED_FILES);
		fixed->files_tried = true;
	}
	if (fixed->buffers)
		io_uring_unregister_buffers(fixed->ring);
	fixed->buffers = 0;
	if (!count)
		return 0;
	count = cut_buffers(iov, count, fixed->buffer);
	if (!count)
		return -EINVAL;
	qsort(fixed->buffer, count, sizeof(*iov), by_address);
	rc = io_uring_register_buffers(fixed->ring, fixed->buffer, count);
	if (!rc)
		fixed->buffers = count;
	return rc;
}

int img_fixed_buffer(const struct img_fixed *fixed, const void *at, size_t len)
{
	unsigned low = 0, high = fixed->buffers;
	const struct iovec *b;

	while (low < high) { /* the first that begins behind at */
		unsigned mid = low + (high - low) / 2;

		if ((uintptr_t)fixed->buffer[mid].iov_base > (uintptr_t)at)
			high = mid;
		else
			low = mid + 1;
	}
	if (!low)
		return -1;
	b = &fixed->buffer[low - 1];
	if ((uintptr_t)at - (uintptr_t)b->iov_base > b->iov_len ||
	    len > b->iov_len - ((uintptr_t)at - (uintptr_t)b->iov_base))
		return -1;
	return (int)(low - 1);
}
