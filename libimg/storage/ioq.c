/*
 * Making an I/O queue: on io_uring, or where that is refused or not wanted on worker threads. What
 * both do alike is in ioq_shared.c.
 */
#include "libimg/storage/ioq.h"

#include <errno.h>
#include <string.h>

#include "libimg/storage/ioq_private.h"

/*
 * What a refusal of io_uring looks like: not built in, disabled, filtered, short of locked memory or
 * of descriptors.
 */
static bool is_refusal(int rc)
{
	return rc == -ENOSYS || rc == -EPERM || rc == -ENOMEM || rc == -EACCES || rc == -EINVAL ||
	       rc == -EMFILE || rc == -ENFILE || rc == -EAGAIN;
}

int img_ioq_new(enum img_io_kind kind, struct img_ioq **out, struct img_error *err)
{
	int rc;

	if (kind != IMG_IO_THREADS) {
		rc = img_ioq_uring_new(out);
		if (!rc)
			return 0;
		if (kind == IMG_IO_URING || !is_refusal(rc))
			return img_fail(err, rc, "Could not set up io_uring: %s",
					strerrordesc_np(-rc));
	}
	rc = img_ioq_threads_new(out);
	if (rc)
		return img_fail(err, rc, "Could not set up an I/O queue: %s", strerrordesc_np(-rc));
	return 0;
}
