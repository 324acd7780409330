/*
 * A storage with other bytes in places: what a journal says that the file will have, for who may not
 * write to it. Reads only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/filter.h"

struct patched {
	struct img_filter filter;
	struct img_patch *patches;
	size_t count;
};

static struct patched *patched_of(struct img_storage *s)
{
	return IMG_CONTAINER(img_filter_of(s), struct patched, filter);
}

/* Lay over what was read from [off, off + len). Later patches lie over earlier ones. */
static void lay_over(const struct patched *p, const struct iovec *iov, int iovcnt, uint64_t off,
		     uint64_t len)
{
	for (size_t i = 0; i < p->count; i++) {
		const struct img_patch *patch = &p->patches[i];
		uint64_t from = max_u64(off, patch->off);
		uint64_t to = min_u64(off + len, patch->off + patch->len);
		struct img_cursor c = { .iov = iov, .iovcnt = iovcnt };

		if (from >= to)
			continue;
		img_cursor_advance(&c, from - off);
		if (patch->bytes)
			img_cursor_scatter(&c, patch->bytes + (from - patch->off), to - from);
		else
			img_cursor_zero(&c, to - from);
	}
}

static int patch_read(struct img_filter *w, struct img_io *io, int rc, void *token)
{
	(void)token;
	if (!rc)
		lay_over(IMG_CONTAINER(w, struct patched, filter), io->iov, io->iovcnt, io->off,
			 io->len);
	return rc;
}

/* The size is not the inner one's: it is what the patches make of it. */
static void patched_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	struct img_filter *w = img_filter_of(s);

	if (io->op == IMG_IO_READ) {
		img_filter_submit(w, q, io, patch_read, NULL);
		return;
	}
	io->rc = io->op == IMG_IO_SYNC ? 0 : -EROFS;
	img_ioq_complete(q, io);
}

static int patched_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		      uint64_t off, uint64_t len, unsigned flags)
{
	const struct patched *p = patched_of(s);
	int rc;

	if (op != IMG_IO_READ)
		return op == IMG_IO_SYNC ? 0 : -EROFS;
	rc = img_storage_io(p->filter.inner, op, iov, iovcnt, off, len, flags);
	if (!rc)
		lay_over(p, iov, iovcnt, off, len);
	return rc;
}

static void patched_close(struct img_storage *s)
{
	struct patched *p = patched_of(s);

	p->filter.inner = NULL; /* borrowed */
	img_filter_destroy(&p->filter);
	free(p->patches);
	free(p);
}

static const struct img_storage_ops patched_ops = {
	.submit = patched_submit,
	.io = patched_io,
	.allocated = img_filter_allocated,
	.close = patched_close,
};

int img_storage_patched(struct img_storage *inner, struct img_patch *patches, size_t count,
			uint64_t size, struct img_storage **out)
{
	struct patched *p = calloc(1, sizeof(*p));

	if (!p || img_filter_init(&p->filter, &patched_ops, inner)) {
		free(p);
		return -ENOMEM;
	}
	p->patches = patches;
	p->count = count;
	p->filter.base.writable = false;
	p->filter.keeps_state = true;
	atomic_store(&p->filter.base.size, max_u64(size, atomic_load(&inner->size)));
	*out = &p->filter.base;
	return 0;
}
