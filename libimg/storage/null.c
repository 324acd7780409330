/*
 * The modules "null-co" and "null-aio": a disk that takes everything and holds zeroes, for
 * measuring what lies above it. QEMU's two differ in how they complete; here they are one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libimg/storage/module.h"

struct null_disk {
	struct img_storage base;
	uint64_t latency_ns;
};

static int null_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		   uint64_t off, uint64_t len, unsigned flags)
{
	struct null_disk *n = IMG_CONTAINER(s, struct null_disk, base);
	struct timespec wait = { .tv_sec = (time_t)(n->latency_ns / 1000000000),
				 .tv_nsec = (long)(n->latency_ns % 1000000000) };

	(void)flags; /* nothing is ever stored */
	if (op != IMG_IO_READ && op != IMG_IO_SYNC && off + len > atomic_load(&s->size))
		return -ENOSPC;
	while (n->latency_ns && nanosleep(&wait, &wait) && errno == EINTR)
		;
	for (int i = 0; op == IMG_IO_READ && i < iovcnt; i++)
		memset(iov[i].iov_base, 0, iov[i].iov_len);
	return 0;
}

static void null_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	io->rc = io->op == IMG_IO_EXTENTS
			 ? img_storage_extents(s, io->off, io->len, io->extents)
			 : null_io(s, io->op, io->iov, io->iovcnt, io->off, io->len, io->flags);
	img_ioq_complete(q, io);
}

static int null_resize(struct img_storage *s, uint64_t size, enum img_preallocate how)
{
	(void)how;
	return size <= atomic_load(&s->size) ? 0 : -ENOSPC;
}

static int null_extent(struct img_storage *s, uint64_t off, uint64_t len,
		       enum img_storage_extent *kind, uint64_t *run)
{
	(void)s;
	(void)off;
	*kind = IMG_STORAGE_HOLE;
	*run = len;
	return 0;
}

static uint64_t null_allocated(struct img_storage *s)
{
	(void)s;
	return 0;
}

static void null_close(struct img_storage *s)
{
	free(s->name);
	free(IMG_CONTAINER(s, struct null_disk, base));
}

static int null_set_writable(struct img_storage *s, bool writable, struct img_error *err)
{
	(void)s;
	(void)writable;
	(void)err;
	return 0;
}

static const struct img_storage_ops null_ops = {
	.submit = null_submit,
	.io = null_io,
	.resize = null_resize,
	.extent = null_extent,
	.allocated = null_allocated,
	.set_writable = null_set_writable,
	.close = null_close,
};

/* Who waits for each request does so on the queue's worker threads. */
static const struct img_storage_ops slow_ops = {
	.io = null_io,
	.resize = null_resize,
	.extent = null_extent,
	.allocated = null_allocated,
	.set_writable = null_set_writable,
	.close = null_close,
};

static int null_open(const struct img_module_opening *o, struct img_storage **out,
		     struct img_error *err)
{
	struct null_disk *n;

	if (img_options_number(o->options, "size") > INT64_MAX / 512 * 512)
		return img_fail(err, -EINVAL, "size of a null disk: above 2^63 - 512 bytes");
	n = calloc(1, sizeof(*n));
	if (n)
		n->base.name = strdup("null-co://");
	if (!n || !n->base.name) {
		free(n);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	n->base.ops = img_options_number(o->options, "latency-ns") ? &slow_ops : &null_ops;
	n->base.protocol = "null-co";
	n->base.writable = o->flags & IMG_STORAGE_WRITE;
	n->base.limits.fua = true;
	n->base.device = true; /* of a size of its own */
	n->base.limits.fast_zero = true;
	n->base.limits.io_align = n->base.limits.mem_align = n->base.limits.discard_align = 1;
	n->latency_ns = img_options_number(o->options, "latency-ns");
	atomic_init(&n->base.size, img_options_number(o->options, "size"));
	*out = &n->base;
	return 0;
}

/* "null-co://" */
static int null_parse(const char *name, img_keyval_fn *set, void *user, struct img_error *err)
{
	(void)set;
	(void)user;
	if (strcmp(strchr(name, ':'), "://"))
		return img_fail(err, -EINVAL, "The only allowed filename for this driver is '%.*s://'",
				(int)strcspn(name, ":"), name);
	return 0;
}

static const struct img_option options[] = {
	{ "size", IMG_OPTION_SIZE, "Size of the disk", "1G", NULL },
	{ "latency-ns", IMG_OPTION_NUMBER, "How long each request takes, in ns", "0", NULL },
	{ "read-zeroes", IMG_OPTION_BOOL, "Reads give zeroes (they always do)", "on", "on" },
	{ 0 },
};
static const char *const co_schemes[] = { "null-co", NULL };
static const char *const aio_schemes[] = { "null-aio", NULL };

const struct img_module img_module_null_co = {
	.name = "null-co",
	.schemes = co_schemes,
	.options = options,
	.parse_name = null_parse,
	.open = null_open,
};

const struct img_module img_module_null_aio = {
	.name = "null-aio",
	.schemes = aio_schemes,
	.options = options,
	.parse_name = null_parse,
	.open = null_open,
};
