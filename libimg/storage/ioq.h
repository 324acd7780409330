/*
 * An I/O queue: where storage requests are submitted and their completions run. One thread at a time
 * calls img_ioq_submit() and img_ioq_run(), whichever made the queue; img_ioq_post() may be called
 * from any thread. A queue is one io_uring, or, where io_uring is refused or not wanted, worker threads
 * with pread/pwrite.
 */
#ifndef LIBIMG_STORAGE_IOQ_H
#define LIBIMG_STORAGE_IOQ_H

#include <stdbool.h>
#include <sys/uio.h>

#include "libimg/base/error.h"
#include "libimg/base/list.h"
#include "libimg/img.h"
#include "libimg/storage/io.h"

/* A function to run on a queue's thread. The poster keeps it alive until fn runs. */
struct img_post {
	struct img_list link;
	void (*fn)(struct img_post *post);
};

/*
 * AUTO: io_uring if the kernel lets us, else, whatever it says, threads. URING: io_uring or fail.
 * Errors: -ENOSYS, -EPERM, ... of io_uring; -ENOMEM, -EMFILE.
 */
int img_ioq_new(enum img_io_kind kind, struct img_ioq **out, struct img_error *err);
/* Nothing may be in flight. NULL is fine. */
void img_ioq_free(struct img_ioq *q);

/*
 * On q's thread. io is q's until its done() runs, in an img_ioq_run(); whatever goes wrong comes by that.
 * The kernel gets it with others, in the next img_ioq_run() at the latest.
 */
void img_ioq_submit(struct img_ioq *q, struct img_io *io);

/* Thread-safe: run post->fn on q's thread, in img_ioq_run(). */
void img_ioq_post(struct img_ioq *q, struct img_post *post);

/*
 * Hand gathered requests to the kernel, then run what completed and what was posted. wait: block
 * until at least one thing ran; for ever, if nothing is in flight and nobody posts. Returns how many
 * ran.
 */
int img_ioq_run(struct img_ioq *q, bool wait);

/*
 * Readable (poll, epoll) when img_ioq_run() would find something. Owned by the queue. -EMFILE, ...:
 * it could not be made, when first asked for.
 */
int img_ioq_fd(struct img_ioq *q);

/*
 * Tell the kernel of memory that requests will use again and again, in place of what it was told
 * before: it then spares itself looking it up each time, for requests with one buffer that lies in
 * one of these. Nothing may be in flight; the memory stays until it is replaced or q is freed.
 * 0 (also for a queue that has no use for it), -ENOMEM, -EINVAL: then no memory is registered, and
 * requests work as without.
 */
int img_ioq_set_buffers(struct img_ioq *q, const struct iovec *iov, unsigned count);

enum img_io_kind img_ioq_kind(const struct img_ioq *q); /* URING or THREADS */

/*
 * For storages that complete a request without the kernel (memory, injected faults): set io->rc
 * and call this; done() runs in the next img_ioq_run(). Only on q's thread.
 */
void img_ioq_complete(struct img_ioq *q, struct img_io *io);
/* In place of io->done(), on q's thread: a request of a filter has ended, and its rc is set. */
void img_ioq_end(struct img_io *io);
/* img_ioq_complete() from any thread, for storages with threads of their own. q must not be freed meanwhile. */
void img_ioq_finish(struct img_ioq *q, struct img_io *io);

#endif
