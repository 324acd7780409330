/*
 * What storages that filter another one have in common.
 */
#include "libimg/storage/filter.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/ioq.h"

/* A request on its way through; iov is a copy, so that the outer one's buffers stay as they are. */
struct passage {
	struct img_io io;
	struct img_filter *filter;
	struct img_io *outer;
	img_filter_finished *finished;
	void *token;
	struct iovec iov[];
};

int img_filter_init(struct img_filter *w, const struct img_storage_ops *ops, struct img_storage *inner)
{
	w->base.name = strdup(inner->name);
	if (!w->base.name)
		return -ENOMEM;
	w->base.ops = ops;
	w->base.writable = inner->writable;
	w->base.device = inner->device;
	w->base.limits = inner->limits;
	if (inner->identity) {
		w->base.identity = strdup(inner->identity);
		if (!w->base.identity) {
			free(w->base.name);
			return -ENOMEM;
		}
		w->base.identity_off = inner->identity_off;
	}
	w->inner = inner;
	w->capacity = UINT64_MAX;
	pthread_mutex_init(&w->refresh, NULL);
	img_filter_refresh(w);
	return 0;
}

void img_filter_destroy(struct img_filter *w)
{
	img_storage_close(w->inner);
	pthread_mutex_destroy(&w->refresh);
	free(w->base.identity);
	free(w->base.name);
}

void img_filter_refresh(struct img_filter *w)
{
	uint64_t size;

	if (w->keeps_state)
		return;
	pthread_mutex_lock(&w->refresh);
	size = atomic_load(&w->inner->size);
	size = size > w->start ? size - w->start : 0;
	atomic_store(&w->base.size, min_u64(size, w->capacity));
	atomic_store(&w->base.unsynced, atomic_load(&w->inner->unsynced));
	pthread_mutex_unlock(&w->refresh);
}

static void passed(struct img_io *io)
{
	struct passage *p = IMG_CONTAINER(io, struct passage, io);
	struct img_io *outer = p->outer;

	img_filter_refresh(p->filter);
	outer->rc = p->finished ? p->finished(p->filter, outer, io->rc, p->token) : io->rc;
	free(p);
	img_ioq_end(outer);
}

void img_filter_submit(struct img_filter *w, struct img_ioq *q, struct img_io *io,
		       img_filter_finished *finished, void *token)
{
	bool has_data = img_io_has_data(io->op);
	size_t count = has_data ? (size_t)io->iovcnt : 0;
	bool clipped = io->op == IMG_IO_READ || io->op == IMG_IO_PUNCH || io->op == IMG_IO_EXTENTS;
	uint64_t len = clipped ? min_u64(io->len, w->capacity - io->off) : io->len;
	struct passage *p = calloc(1, sizeof(*p) + count * sizeof(p->iov[0]));

	if (!p) {
		io->rc = finished ? finished(w, io, -ENOMEM, token) : -ENOMEM;
		img_ioq_complete(q, io);
		return;
	}
	if (count)
		memcpy(p->iov, io->iov, count * sizeof(p->iov[0]));
	if (count && len < io->len)
		count = img_iov_cut(p->iov, count, len);
	p->filter = w;
	p->outer = io;
	p->finished = finished;
	p->token = token;
	p->io = (struct img_io){
		.storage = w->inner,
		.op = io->op,
		.flags = io->flags,
		.iov = p->iov,
		.iovcnt = (int)count,
		.off = io->op == IMG_IO_SYNC ? 0 : io->off + w->start,
		.len = len,
		.extents = io->extents,
		.done = passed,
	};
	img_ioq_submit(q, &p->io);
}

int img_filter_extent(struct img_storage *s, uint64_t off, uint64_t len,
		      enum img_storage_extent *kind, uint64_t *run)
{
	const struct img_filter *w = img_filter_of(s);

	return img_storage_extent(w->inner, off + w->start, len, kind, run);
}

uint64_t img_filter_allocated(struct img_storage *s)
{
	return img_storage_allocated(img_filter_of(s)->inner);
}

int img_filter_publish(struct img_storage *s, bool durable, struct img_error *err)
{
	struct img_filter *w = img_filter_of(s);
	int rc = img_storage_publish(w->inner, durable, err);

	img_filter_refresh(w);
	return rc;
}

int img_filter_set_writable(struct img_storage *s, bool writable, struct img_error *err)
{
	struct img_filter *w = img_filter_of(s);
	int rc = img_storage_set_writable(w->inner, writable, err);

	img_filter_refresh(w);
	return rc;
}

void img_filter_checked_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	struct img_filter *w = img_filter_of(s);

	io->rc = w->check(w, io->op, io->off, io->len);
	if (io->rc)
		img_ioq_complete(q, io);
	else
		img_filter_submit(w, q, io, NULL, NULL);
}

int img_filter_checked_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov,
			  int iovcnt, uint64_t off, uint64_t len, unsigned flags)
{
	struct img_filter *w = img_filter_of(s);
	int rc = w->check(w, op, off, len);

	if (rc)
		return rc;
	rc = img_storage_io(w->inner, op, iov, iovcnt, off, len, flags);
	img_filter_refresh(w);
	return rc;
}
