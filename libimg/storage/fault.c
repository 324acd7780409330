/*
 * A storage that fails on demand. The request that is to fail never reaches the inner storage.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/error.h"
#include "libimg/storage/ioq.h"
#include "libimg/storage/filter.h"

struct faulty {
	struct img_filter filter;
	struct img_fault *fault; /* borrowed */
};

static struct faulty *faulty_of(struct img_storage *s)
{
	return IMG_CONTAINER(img_filter_of(s), struct faulty, filter);
}

/* Count a request; what it is to fail with, or 0. */
static int count(struct img_fault *fault, unsigned kind)
{
	uint64_t n;

	if (!(fault->ops & kind))
		return 0;
	n = atomic_fetch_add(&fault->count, 1);
	return n == fault->at || (fault->sticky && n > fault->at) ? fault->rc : 0;
}

static int check(struct img_filter *w, enum img_io_op op, uint64_t off, uint64_t len)
{
	(void)off;
	(void)len;
	return count(faulty_of(&w->base)->fault, 1u << op);
}

static int fault_resize(struct img_storage *s, uint64_t size, enum img_preallocate how)
{
	struct faulty *f = faulty_of(s);
	struct img_storage *inner = f->filter.inner;
	int rc = count(f->fault, IMG_FAULT_RESIZE);

	if (rc)
		return rc;
	rc = inner->ops->resize(inner, size, how);
	img_filter_refresh(&f->filter);
	return rc;
}

static int fault_set_writable(struct img_storage *s, bool writable, struct img_error *err)
{
	int rc = count(faulty_of(s)->fault, IMG_FAULT_SET_WRITABLE);

	return rc ? img_fail(err, rc, "'%s' cannot be opened for %s: %s", s->name,
			     writable ? "writing" : "reading only", strerrordesc_np(-rc))
		  : img_filter_set_writable(s, writable, err);
}

static void fault_close(struct img_storage *s)
{
	struct faulty *f = faulty_of(s);

	img_filter_destroy(&f->filter);
	free(f);
}

static const struct img_storage_ops fault_ops = {
	.submit = img_filter_checked_submit,
	.io = img_filter_checked_io,
	.resize = fault_resize,
	.extent = img_filter_extent,
	.allocated = img_filter_allocated,
	.publish = img_filter_publish,
	.set_writable = fault_set_writable,
	.close = fault_close,
};

int img_storage_fault(struct img_storage *inner, struct img_fault *fault, struct img_storage **out)
{
	struct faulty *f = calloc(1, sizeof(*f));

	if (!f || img_filter_init(&f->filter, &fault_ops, inner)) {
		free(f);
		return -ENOMEM;
	}
	f->fault = fault;
	f->filter.check = check;
	*out = &f->filter.base;
	return 0;
}
