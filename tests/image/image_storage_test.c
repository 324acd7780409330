/*
 * A disk as the storage of another image: what has to be synced.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/engine/driver.h"
#include "libimg/image/context.h"
#include "libimg/image/image_storage.h"
#include "libimg/storage/storage.h"

enum { SIZE = 1 << 20 };

/* Memory whose syncs take as long as the test likes. */
struct slow {
	struct img_storage base;
	struct img_storage *memory;
	_Atomic bool holds;
	sem_t begun, go;
	int rc; /* of syncs */
};

static int slow_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		   uint64_t off, uint64_t len, unsigned flags)
{
	struct slow *slow = IMG_CONTAINER(s, struct slow, base);

	if (op != IMG_IO_SYNC) {
		atomic_store(&s->unsynced, true);
		return img_storage_io(slow->memory, op, iov, iovcnt, off, len, flags);
	}
	if (slow->holds) {
		sem_post(&slow->begun);
		sem_wait(&slow->go);
	}
	return slow->rc;
}

static void slow_close(struct img_storage *s)
{
	struct slow *slow = IMG_CONTAINER(s, struct slow, base);

	img_storage_close(slow->memory);
	free(s->name);
}

static void *sync_it(void *s)
{
	return img_storage_sync(s, NULL) ? s : NULL;
}

Test(image_storage, a_write_beside_a_sync_has_to_be_synced, .timeout = 30)
{
	static const struct img_storage_ops ops = { .io = slow_io, .close = slow_close };
	static struct slow slow = { .base = { .ops = &ops, .writable = true } };
	struct img_open_options options = { .format = "raw", .flags = IMG_OPEN_WRITE };
	struct img_storage *s = NULL;
	struct img_error err = { 0 };
	struct img *img = NULL;
	pthread_t thread;
	void *failed;

	sem_init(&slow.begun, 0, 0);
	sem_init(&slow.go, 0, 0);
	cr_assert_eq(img_storage_memory("slow", SIZE, SIZE, &slow.memory), 0);
	slow.base.name = strdup("slow");
	slow.base.limits = slow.memory->limits;
	atomic_init(&slow.base.size, SIZE);
	cr_assert_eq(img_open_storage(&slow.base, "slow", &options, &img, &err), 0, "%s",
		     img_error_text(&err));
	cr_assert_eq(img_image_storage(img, &s, &err), 0);
	cr_assert_eq(img_storage_write(s, 0, "x", 1, NULL), 0);
	cr_assert(atomic_load(&s->unsynced));

	slow.holds = true;
	cr_assert_eq(pthread_create(&thread, NULL, sync_it, s), 0);
	sem_wait(&slow.begun);
	cr_assert_eq(img_storage_write(s, 4096, "y", 1, NULL), 0);
	slow.holds = false;
	sem_post(&slow.go);
	pthread_join(thread, &failed);
	cr_assert_null(failed);
	cr_assert(atomic_load(&s->unsynced));

	cr_assert_eq(img_storage_sync(s, NULL), 0);
	cr_assert_not(atomic_load(&s->unsynced));
	cr_assert_eq(img_storage_write(s, 0, "z", 1, NULL), 0);
	slow.rc = -EIO;
	cr_assert_eq(img_storage_sync(s, NULL), -EIO);
	cr_assert(atomic_load(&s->unsynced));
	img_storage_close(s);
}
