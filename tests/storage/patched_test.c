/*
 * A storage with other bytes in places.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/storage/storage.h"

static void completed(struct img_io *io)
{
	(void)io;
}

/* Read 40 bytes at off into buffers of 7 and 33 bytes, asynchronously or not. */
static int read_at(struct img_storage *s, uint64_t off, uint8_t *to, bool by_queue)
{
	struct iovec iov[] = { { to, 7 }, { to + 7, 33 } };
	struct img_io io = { .storage = s,
			     .op = IMG_IO_READ,
			     .iov = iov,
			     .iovcnt = 2,
			     .off = off,
			     .len = 40,
			     .done = completed };
	struct img_ioq *q = NULL;

	if (!by_queue)
		return img_storage_io(s, IMG_IO_READ, iov, 2, off, 40, 0);
	cr_assert_eq(img_ioq_new(IMG_IO_THREADS, &q, NULL), 0);
	img_ioq_submit(q, &io);
	cr_assert_geq(img_ioq_run(q, true), 1);
	img_ioq_free(q);
	return io.rc;
}

Test(patched, lies_over)
{
	static const uint8_t twos[10] = { 2, 2, 2, 2, 2, 2, 2, 2, 2, 2 };
	static const uint8_t threes[10] = { 3, 3, 3, 3, 3, 3, 3, 3, 3, 3 };
	const struct img_patch list[] = {
		{ 10, 10, twos }, { 15, 10, threes }, { 22, 2, NULL }, { 120, 10, twos }
	};
	struct img_storage *inner, *s;
	uint8_t model[160] = { 0 }, got[40];

	cr_assert_eq(img_storage_memory("m", 100, 1000, &inner), 0);
	memset(model, 1, 100);
	cr_assert_eq(img_storage_write(inner, 0, model, 100, NULL), 0);
	memset(model + 10, 2, 5);
	memset(model + 15, 3, 10);
	memset(model + 22, 0, 2);
	memset(model + 120, 2, 10);
	for (int by_queue = 0; by_queue < 2; by_queue++) {
		struct img_patch *patches = malloc(sizeof(list));

		memcpy(patches, list, sizeof(list));
		cr_assert_eq(img_storage_patched(inner, patches, 4, 130, &s), 0);
		cr_assert_eq(s->size, 130);
		cr_assert(!s->writable);
		for (uint64_t off = 0; off <= 120; off++) {
			cr_assert_eq(read_at(s, off, got, by_queue), 0);
			cr_assert(!memcmp(got, model + off, sizeof(got)), "at %d", (int)off);
		}
		cr_assert_eq(img_storage_write(s, 0, "x", 1, NULL), -EROFS);
		cr_assert_eq(img_storage_sync(s, NULL), 0);
		img_storage_close(s);
	}
	cr_assert_eq(inner->size, 100);
	img_storage_close(inner);
}
