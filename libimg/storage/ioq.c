/*
 * Making an I/O queue: on io_uring, or where that is refused or not wanted on worker threads. What
 * both do alike is in ioq_shared.c.
 */
#include "libimg/storage/ioq.h"

#include <string.h>

#include "libimg/storage/ioq_private.h"

int img_ioq_new(enum img_io_kind kind, struct img_ioq **out, struct img_error *err)
{
	int rc;

	if (kind != IMG_IO_THREADS) {
		rc = img_ioq_uring_new(out);
		if (!rc)
			return 0;
		/* not built in, disabled, filtered by whatever error, short of locked memory: threads do */
		if (kind == IMG_IO_URING)
			return img_fail(err, rc, "Could not set up io_uring: %s",
					strerrordesc_np(-rc));
	}
	rc = img_ioq_threads_new(out);
	if (rc)
		return img_fail(err, rc, "Could not set up an I/O queue: %s", strerrordesc_np(-rc));
	return 0;
}
