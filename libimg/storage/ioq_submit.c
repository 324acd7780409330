/*
 * Inside every I/O queue: how a request begins. One that is longer than its storage takes goes in
 * parts: a few are in flight at a time, so that memory does not grow with the request; which of
 * them was done when one failed is not said, as of any request.
 */
#include <errno.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/ioq_private.h"
#include "libimg/storage/storage_extent.h"

enum {
	MAX_PARTS = 16, /* in flight */
};

struct split;

struct part {
	struct img_io io;
	struct split *split;
	struct iovec *iov; /* malloc'd */
};

struct split {
	struct img_io *whole;
	struct img_cursor at; /* in its buffers, where the next part begins */
	uint64_t submitted;   /* bytes of it */
	unsigned in_flight;
	struct part parts[MAX_PARTS];
};

/* The buffers of the next len bytes. -ENOMEM. */
static int slice_buffers(struct split *s, struct part *p, uint64_t len)
{
	uint64_t covered = 0;
	int n = 0, count;

	while (n < s->at.iovcnt && covered < len) {
		covered += s->at.iov[n].iov_len - (n ? 0 : s->at.skip);
		n++;
	}
	p->iov = calloc((size_t)n, sizeof(*p->iov));
	if (!p->iov)
		return -ENOMEM;
	count = img_cursor_window(&s->at, p->iov, n);
	p->io.iov = p->iov;
	p->io.iovcnt = (int)img_iov_cut(p->iov, (size_t)count, len);
	img_cursor_advance(&s->at, len);
	return 0;
}

static void init(struct img_ioq *q, struct img_io *io)
{
	io->ioq = q;
	io->transferred = 0;
	io->range = io->bounce = NULL;
	io->rc = 0;
	img_list_init(&io->link);
}

/* One that the storage takes as it is. */
static void submit_whole(struct img_ioq *q, struct img_io *io)
{
	struct img_storage *s = io->storage;

	if (s->ops->submit)
		s->ops->submit(s, q, io);
	else
		img_ioq_offload(q, io);
}

static void part_done(struct img_io *io);

/* Submit the next part as p. False: there is none, or it cannot be had, which is the request's rc. */
static bool submit_part(struct split *s, struct part *p, struct img_ioq *q)
{
	struct img_io *whole = s->whole;
	uint64_t off = whole->off + s->submitted, len = whole->len - s->submitted;

	if (whole->rc || !len)
		return false;
	len = img_storage_first_part(whole->storage, whole->op, off, len);
	p->split = s;
	p->io = (struct img_io){ .storage = whole->storage,
				 .op = whole->op,
				 .flags = whole->flags,
				 .off = off,
				 .len = len,
				 .done = part_done };
	if (img_io_has_data(whole->op))
		whole->rc = slice_buffers(s, p, len);
	if (whole->rc)
		return false;
	s->submitted += len;
	s->in_flight++;
	init(q, &p->io);
	submit_whole(q, &p->io);
	return true;
}

static void part_done(struct img_io *io)
{
	struct part *p = IMG_CONTAINER(io, struct part, io);
	struct split *s = p->split;
	struct img_io *whole = s->whole;

	free(p->iov);
	p->iov = NULL;
	s->in_flight--;
	if (io->rc && !whole->rc)
		whole->rc = io->rc;
	if (submit_part(s, p, io->ioq) || s->in_flight)
		return;
	free(s);
	img_ioq_end(whole);
}

static void submit_in_parts(struct img_ioq *q, struct img_io *io)
{
	struct split *s = calloc(1, sizeof(*s));

	if (!s) {
		io->rc = -ENOMEM;
		img_ioq_complete(q, io);
		return;
	}
	s->whole = io;
	s->at = (struct img_cursor){ .iov = io->iov, .iovcnt = io->iovcnt };
	for (size_t i = 0; i < MAX_PARTS; i++)
		if (!submit_part(s, &s->parts[i], q))
			break;
	if (s->in_flight)
		return;
	free(s);
	img_ioq_complete(q, io);
}

static void submit_extents(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	io->extents->count = 0;
	if (io->len && s->ops->extent && io->off < atomic_load(&s->size)) {
		submit_whole(q, io);
		return;
	}
	io->rc = img_storage_extents(s, io->off, io->len, io->extents); /* nobody has to be asked */
	img_ioq_complete(q, io);
}

void img_ioq_submit(struct img_ioq *q, struct img_io *io)
{
	struct img_storage *s = io->storage;
	uint64_t end;

	init(q, io);
	if (io->op == IMG_IO_SYNC) {
		io->rc = img_storage_sync_begin(s);
		if (io->rc)
			img_ioq_complete(q, io);
		else
			submit_whole(q, io);
		return;
	}
	if (!add_u64(io->off, io->len, &end) || end > INT64_MAX)
		io->rc = -EFBIG;
	else if (io->op != IMG_IO_READ && io->op != IMG_IO_EXTENTS && !s->writable)
		io->rc = -EROFS;
	if (!io->rc && io->op == IMG_IO_EXTENTS)
		submit_extents(s, q, io);
	else if (io->rc || !io->len)
		img_ioq_complete(q, io);
	else if (img_storage_first_part(s, io->op, io->off, io->len) < io->len)
		submit_in_parts(q, io);
	else
		submit_whole(q, io);
}
