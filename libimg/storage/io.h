/*
 * One request to a storage, as modules get it from a queue (ioq.h).
 */
#ifndef LIBIMG_STORAGE_IO_H
#define LIBIMG_STORAGE_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "libimg/base/list.h"

struct img_storage;
struct img_ioq;

enum img_io_op {
	IMG_IO_READ,
	IMG_IO_WRITE,
	IMG_IO_ZERO,	/* make the range read as zeroes, allocation kept or not */
	IMG_IO_PUNCH,	/* give the space back; the range then reads as zeroes */
	IMG_IO_SYNC,	/* all writes completed before are durable */
	IMG_IO_EXTENTS, /* say where there are holes */
};

enum img_storage_extent { IMG_STORAGE_DATA,
			  IMG_STORAGE_HOLE };

/* The answer to EXTENTS: what comes next, from the request's offset on. */
struct img_io_extents {
	size_t count;
	struct {
		uint64_t len;
		enum img_storage_extent kind;
	} at[512];
};

/* How a request is to be done; struct img_storage says which a storage takes. */
enum {
	/* WRITE, ZERO, PUNCH: complete only when durable. Only to a storage that has `fua`. */
	IMG_IO_FUA = 1 << 0,
	IMG_IO_KEEP_ALLOCATED = 1 << 1, /* ZERO: no holes, as far as the storage knows of any */
	IMG_IO_FAST = 1 << 2,		/* ZERO, PUNCH: -ENOTSUP rather than writing zeroes */
};

/* Does a request of this kind have buffers? */
static inline bool img_io_has_data(enum img_io_op op)
{
	return op == IMG_IO_READ || op == IMG_IO_WRITE;
}

/*
 * One request. The submitter owns it and its buffers until done() runs, on the queue's thread,
 * never from inside img_ioq_submit(). done() may free it or submit it again.
 *
 * READ: what lies past the end of the file reads as zeroes. A file that turns out shorter than
 * its storage's size (it was cut behind our back) is -EIO, never zeroes.
 * WRITE: may extend the file. Short transfers are continued inside; rc is all or nothing.
 * EXTENTS: what is in *extents then, at least one, begins at off; it may cover less than len, and not
 * more. Where a storage cannot tell, everything is data. Past the end: a hole.
 */
struct img_io {
	struct img_storage *storage;
	enum img_io_op op;
	unsigned flags;			/* IMG_IO_FUA, ... */
	int iovcnt;			/* READ, WRITE */
	struct iovec *iov;		/* READ, WRITE; the queue may change the array while in flight */
	uint64_t off, len;		/* bytes in the file; READ, WRITE: len is the iovecs' sum */
	struct img_io_extents *extents; /* EXTENTS */
	void (*done)(struct img_io *io);
	int rc; /* out: 0 or a negative errno */

	/* The queue's and the storage's own, while in flight. */
	struct img_list link;
	uint64_t transferred;
	void *range, *bounce;
	struct img_ioq *ioq;
	struct iovec one; /* handy for the submitter: iov = &io->one */
};

#endif
