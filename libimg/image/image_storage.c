/*
 * A storage on top of an open image: its io() goes through the image's blocking calls.
 */
#include "libimg/image/image_storage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/image/context.h"
#include "libimg/base/iovec.h"

struct image_storage {
	struct img_storage base;
	struct img *img;
};

static struct img *img_of(struct img_storage *s)
{
	return IMG_CONTAINER(s, struct image_storage, base)->img;
}

/* IMG_SUBMIT_* for IMG_IO_*. */
static unsigned submit_flags(unsigned flags)
{
	return (flags & IMG_IO_FUA ? IMG_SUBMIT_FUA : 0) |
	       (flags & IMG_IO_FAST ? IMG_SUBMIT_FAST : 0) |
	       (flags & IMG_IO_KEEP_ALLOCATED ? IMG_SUBMIT_KEEP_ALLOCATED : IMG_SUBMIT_MAY_UNMAP);
}

/* One buffer after the other; blocking, on a worker of the queue that it was asked on. */
static int transfer(struct img *img, enum img_io_op op, const struct iovec *iov, int iovcnt,
		    uint64_t off, uint64_t len, unsigned flags)
{
	int rc = 0;

	for (int i = 0; i < iovcnt && len && !rc; i++) {
		size_t n = min_size(iov[i].iov_len, len);

		rc = op == IMG_IO_READ ? img_read(img, off, iov[i].iov_base, n, NULL)
				       : img_write_with(img, off, iov[i].iov_base, n, flags, NULL);
		off += n;
		len -= n;
	}
	return rc;
}

/* READ, WRITE, ZERO, PUNCH. */
static int access_disk(struct img *img, enum img_io_op op, const struct iovec *iov, int iovcnt,
		       uint64_t off, uint64_t len, unsigned flags)
{
	uint64_t in = off < img->size ? min_u64(len, img->size - off) : 0;
	struct img_cursor c = { .iov = iov, .iovcnt = iovcnt };

	if ((op == IMG_IO_WRITE || op == IMG_IO_ZERO) && in < len)
		return -ENOSPC;
	if (op == IMG_IO_ZERO || op == IMG_IO_PUNCH)
		return in ? img_zero_with(img, off, in, submit_flags(flags), NULL) : 0;
	if (in < len) {
		img_cursor_advance(&c, in);
		img_cursor_zero(&c, len - in);
	}
	return transfer(img, op, iov, iovcnt, off, in, submit_flags(flags) & IMG_SUBMIT_FUA);
}

static int image_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		    uint64_t off, uint64_t len, unsigned flags)
{
	int rc;

	if (op == IMG_IO_SYNC)
		return img_flush(img_of(s), NULL);
	rc = access_disk(img_of(s), op, iov, iovcnt, off, len, flags);
	/* a change counts from when it is done: a sync that began before need not know of it */
	if (op != IMG_IO_READ && (rc || !(flags & IMG_IO_FUA)))
		atomic_store(&s->unsynced, true);
	return rc;
}

static int image_resize(struct img_storage *s, uint64_t size, enum img_preallocate how)
{
	(void)how;
	return size <= img_of(s)->size ? 0 : -ENOSPC;
}

static int image_extent(struct img_storage *s, uint64_t off, uint64_t len,
			enum img_storage_extent *kind, uint64_t *run)
{
	struct img_map_entry e = { 0 };
	int rc = img_map(img_of(s), off, min_u64(len, img_of(s)->size - off), true, &e, NULL);

	if (rc)
		return rc;
	*kind = e.zero || !e.present ? IMG_STORAGE_HOLE : IMG_STORAGE_DATA;
	*run = e.length;
	return 0;
}

static uint64_t image_allocated(struct img_storage *s)
{
	return img_storage_allocated(img_of(s)->file);
}

static uint64_t image_modified(struct img_storage *s)
{
	return img_modified(img_of(s));
}

static int image_set_writable(struct img_storage *s, bool writable, struct img_error *err)
{
	return img_set_writable(img_of(s), writable, err);
}

static void image_close(struct img_storage *s)
{
	img_context_close(img_of(s), NULL);
	free(s->identity);
	free(s->name);
	free(IMG_CONTAINER(s, struct image_storage, base));
}

static const struct img_storage_ops image_ops = {
	.io = image_io,
	.resize = image_resize,
	.extent = image_extent,
	.allocated = image_allocated,
	.modified = image_modified,
	.set_writable = image_set_writable,
	.close = image_close,
};

int img_image_storage(struct img *img, struct img_storage **out, struct img_error *err)
{
	struct image_storage *s = calloc(1, sizeof(*s));

	if (!s) {
		img_close(img, NULL);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	s->img = img;
	s->base.ops = &image_ops;
	s->base.name = strdup(img->name);
	if (img->file->identity)
		s->base.identity = strdup(img->file->identity);
	if (!s->base.name || (img->file->identity && !s->base.identity)) {
		image_close(&s->base);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	s->base.writable = img->writable;
	s->base.limits = (struct img_storage_limits){
		.io_align = 1,
		.mem_align = 1,
		.fua = true,
		.lock = img->file->limits.lock,
	};
	s->base.device = true;
	atomic_init(&s->base.size, img->size);
	*out = &s->base;
	return 0;
}
