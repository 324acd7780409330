/*
 * What a ring is told once instead of with each request: open files and memory. Private to
 * libimg/storage.
 */
#ifndef LIBIMG_STORAGE_IOQ_FIXED_H
#define LIBIMG_STORAGE_IOQ_FIXED_H

#include <liburing.h>
#include <stdatomic.h>

#include "libimg/base/list.h"

enum {
	IMG_FIXED_FILES = 64,
	IMG_FIXED_BUFFERS = 1024,  /* at most; the kernel's own limit is 16384 */
	IMG_FIXED_BYTES = 1 << 30, /* of one, the kernel's limit */
};

struct img_fixed {
	struct img_list link; /* among all rings' */
	struct io_uring *ring;
	bool files_tried;
	bool files;				/* the ring has a table of files */
	_Atomic int file[IMG_FIXED_FILES];	/* the descriptor in each slot, -1: none */
	unsigned buffers;			/* registered */
	struct iovec buffer[IMG_FIXED_BUFFERS]; /* in the order of their addresses */
};

/* The ring outlives fixed. */
void img_fixed_init(struct img_fixed *fixed, struct io_uring *ring);
void img_fixed_destroy(struct img_fixed *fixed);

/* The slot of fd, or -1: to be named with the request. Only on the ring's thread. */
int img_fixed_file(struct img_fixed *fixed, int fd);
/* fd is about to be closed: no ring may keep the file open. Thread-safe; nothing uses fd now. */
void img_fixed_forget(int fd);
/* fd is another open file of the same by now (dup3()). Thread-safe; reads of fd may be in flight. */
void img_fixed_replace(int fd);

/*
 * Replace the registered memory. From the first time on, files are registered too (not before: when
 * a process is killed the kernel lets go of such files only a moment later). A kernel that has no
 * table for them is fine. 0, -ENOMEM (also: over the limit of locked memory), -EINVAL.
 */
int img_fixed_set_buffers(struct img_fixed *fixed, const struct iovec *iov, unsigned count);
/* The registered buffer that holds [at, at + len), or -1. */
int img_fixed_buffer(const struct img_fixed *fixed, const void *at, size_t len);

#endif
