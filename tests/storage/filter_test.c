/*
 * Injected faults, recorded writes.
 */
#include "storage_help.h"

#include <pthread.h>

TestSuite(fault, .init = make_folder, .fini = remove_folder, .timeout = 60);
TestSuite(record, .init = make_folder, .fini = remove_folder, .timeout = 60);

static struct img_storage *memory(uint64_t size)
{
	struct img_storage *s = NULL;

	cr_assert_eq(img_storage_memory("mem", size, UINT64_MAX, &s), 0);
	return s;
}

struct simple {
	struct img_io io;
	bool done;
};

static void note(struct img_io *io)
{
	IMG_CONTAINER(io, struct simple, io)->done = true;
}

static int run_one(struct img_ioq *q, struct img_storage *s, enum img_io_op op, void *buf,
		   uint64_t off, uint64_t len)
{
	struct simple r = { .io = {
				    .storage = s,
				    .op = op,
				    .off = off,
				    .len = len,
				    .done = note,
				    .iovcnt = 1,
				    .one = { buf, (size_t)len },
			    } };

	r.io.iov = &r.io.one;
	img_ioq_submit(q, &r.io);
	cr_assert_not(r.done);
	while (!r.done)
		img_ioq_run(q, true);
	return r.io.rc;
}

/* What a failed sync was to cover may be lost; no later one may say that all is well. */
Test(fault, sync_fails_once)
{
	struct img_fault fault = { .ops = 1u << IMG_IO_SYNC, .rc = -EIO };
	struct img_error err = { 0 };
	struct img_storage *s = NULL;
	char c = 'c';

	cr_assert_eq(img_storage_fault(memory(10), &fault, &s), 0);
	cr_assert_eq(img_storage_write(s, 0, &c, 1, NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), -EIO);
	cr_assert_eq(img_storage_sync(s, &err), -EIO);
	cr_assert(strstr(img_error_text(&err), "an earlier sync failed"));
	cr_assert_eq(atomic_load(&fault.count), 1);
	img_error_clear(&err);
	img_storage_close(s);
}

Test(fault, the_nth_write)
{
	struct img_fault fault = { .ops = 1u << IMG_IO_WRITE, .at = 2, .rc = -EIO };
	struct img_error err = { 0 };
	struct img_storage *s = NULL;
	char c = 'c';

	cr_assert_eq(img_storage_fault(memory(10), &fault, &s), 0);
	cr_assert_str_eq(s->name, "mem");
	cr_assert_eq(atomic_load(&s->size), 10);
	for (uint64_t i = 0; i < 5; i++) {
		cr_assert_eq(img_storage_write(s, 10 + i, &c, 1, &err), i == 2 ? -EIO : 0);
		cr_assert_eq(img_storage_read(s, 0, &c, 1, NULL), 0);
		cr_assert_eq(img_storage_sync(s, NULL), 0);
	}
	cr_assert(strstr(img_error_text(&err), "write 1 bytes at offset 12 of 'mem'"));
	cr_assert_eq(atomic_load(&s->size), 15);
	cr_assert_eq(atomic_load(&fault.count), 5);
	cr_assert_eq(img_storage_read(s, 12, &c, 1, NULL), 0);
	cr_assert_eq(c, 0, "the write that failed did nothing");
	img_error_clear(&err);
	img_storage_close(s);
}

Test(fault, sticky_and_masks)
{
	struct img_fault fault = {
		.ops = 1u << IMG_IO_READ | 1u << IMG_IO_SYNC | IMG_FAULT_RESIZE,
		.at = 3,
		.rc = -ENOSPC,
		.sticky = true,
	};
	struct img_storage *s = NULL;
	char c = 'c';

	cr_assert_eq(img_storage_fault(memory(10), &fault, &s), 0);
	cr_assert_eq(img_storage_read(s, 0, &c, 1, NULL), 0);
	cr_assert_eq(img_storage_resize(s, 5, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(atomic_load(&s->size), 5);
	cr_assert_eq(img_storage_write(s, 0, &c, 1, NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	cr_assert_not(atomic_load(&s->unsynced));
	cr_assert_eq(img_storage_sync(s, NULL), -ENOSPC);
	cr_assert(atomic_load(&s->unsynced));
	cr_assert_eq(img_storage_resize(s, 50, IMG_PREALLOCATE_OFF, NULL), -ENOSPC);
	cr_assert_eq(atomic_load(&s->size), 5);
	cr_assert_eq(img_storage_read(s, 0, &c, 1, NULL), -ENOSPC);
	cr_assert_eq(img_storage_zero(s, 0, 1, NULL), 0);
	fault.at = UINT64_MAX;
	cr_assert_eq(img_storage_read(s, 0, &c, 1, NULL), 0);
	img_storage_close(s);
}

static void asynchronous(enum img_io_kind kind)
{
	struct img_fault fault = {
		.ops = 1u << IMG_IO_WRITE | 1u << IMG_IO_SYNC,
		.at = 1,
		.rc = -EIO,
	};
	struct img_ioq *q = new_queue(kind);
	struct img_storage *s = NULL;
	char c = 'c';

	cr_assert_eq(img_storage_fault(new_file("f", 0), &fault, &s), 0);
	cr_assert_eq(run_one(q, s, IMG_IO_WRITE, &c, 5, 1), 0);
	cr_assert_eq(atomic_load(&s->size), 6);
	cr_assert_eq(run_one(q, s, IMG_IO_WRITE, &c, 7, 1), -EIO);
	cr_assert_eq(atomic_load(&s->size), 6);
	cr_assert_eq(run_one(q, s, IMG_IO_SYNC, NULL, 0, 0), 0);
	cr_assert_not(atomic_load(&s->unsynced));
	fault.at = UINT64_MAX;
	random_requests(s, kind, 5000, false, 1, 50);
	cr_assert_eq(run_one(q, s, IMG_IO_SYNC, NULL, 0, 0), 0);
	fault.at = atomic_load(&fault.count);
	cr_assert_eq(run_one(q, s, IMG_IO_SYNC, NULL, 0, 0), -EIO);
	cr_assert(atomic_load(&s->unsynced));
	/* only that one is to fail, but what it was to cover may be lost */
	cr_assert_eq(run_one(q, s, IMG_IO_SYNC, NULL, 0, 0), -EIO);
	cr_assert_eq(img_storage_sync(s, NULL), -EIO);
	cr_assert_eq(run_one(q, s, IMG_IO_WRITE, &c, 0, 1), 0);
	cr_assert(atomic_load(&s->unsynced));
	img_storage_close(s);
	img_ioq_free(q);
}

Test(fault, asynchronous_uring)
{
	asynchronous(IMG_IO_URING);
}

Test(fault, asynchronous_threads)
{
	asynchronous(IMG_IO_THREADS);
}

static void expect_entry(const struct img_record *r, size_t i, enum img_record_kind kind,
			 uint64_t off, uint64_t len)
{
	const struct img_record_entry *e = img_record_at(r, i);

	cr_assert_not_null(e);
	cr_assert_eq(e->kind, kind, "entry %zu", i);
	cr_assert_eq(e->off, off, "entry %zu", i);
	cr_assert_eq(e->len, len, "entry %zu", i);
}

Test(record, in_order)
{
	struct img_record *r = img_record_new();
	struct img_storage *s = NULL;
	char buf[] = "0123456789";

	cr_assert_eq(img_storage_record(memory(4), r, &s), 0);
	cr_assert_eq(img_storage_write(s, 2, buf, 10, NULL), 0);
	buf[0] = 'x'; /* it has its own copy */
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	cr_assert_eq(img_storage_zero(s, 20, 5, NULL), 0);
	cr_assert_eq(img_storage_punch(s, 24, 100, NULL), 0);
	cr_assert_eq(img_storage_punch(s, 25, 100, NULL), 0);
	cr_assert_eq(img_storage_resize(s, 7, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_storage_read(s, 0, buf, 10, NULL), 0);
	cr_assert_eq(img_record_count(r), 5);
	expect_entry(r, 0, IMG_RECORD_WRITE, 2, 10);
	cr_assert_arr_eq(img_record_at(r, 0)->data, "0123456789", 10);
	expect_entry(r, 1, IMG_RECORD_SYNC, 0, 0);
	expect_entry(r, 2, IMG_RECORD_ZERO, 20, 5);
	expect_entry(r, 3, IMG_RECORD_ZERO, 24, 1); /* punching does not make it longer */
	expect_entry(r, 4, IMG_RECORD_RESIZE, 0, 7);
	cr_assert_null(img_record_at(r, 5));
	img_storage_close(s);
	img_record_free(r);
	img_record_free(NULL);
}

/* What failed is not there, but for syncs: a file after one that failed is another than before. */
Test(record, failures)
{
	struct img_fault fault = { .ops = ~0u, .at = 0, .rc = -EIO };
	struct img_record *r = img_record_new();
	struct img_ioq *q = new_queue(IMG_IO_AUTO);
	struct img_storage *s = NULL, *inner = NULL;
	char c = 'c';

	cr_assert_eq(img_storage_fault(memory(4), &fault, &inner), 0);
	cr_assert_eq(img_storage_record(inner, r, &s), 0);
	cr_assert_eq(img_storage_write(s, 0, &c, 1, NULL), -EIO);
	fault.at = 1;
	cr_assert_eq(run_one(q, s, IMG_IO_WRITE, &c, 0, 1), -EIO);
	cr_assert_eq(img_record_count(r), 0);
	fault.at = 2;
	cr_assert_eq(img_storage_sync(s, NULL), -EIO);
	/* one that fails because of that tells nothing new */
	cr_assert_eq(run_one(q, s, IMG_IO_SYNC, NULL, 0, 0), -EIO);
	cr_assert_eq(img_record_count(r), 1);
	expect_entry(r, 0, IMG_RECORD_SYNC_FAILED, 0, 0);
	img_storage_close(s);
	fault.at = 3;
	cr_assert_eq(img_storage_fault(memory(4), &fault, &inner), 0);
	cr_assert_eq(img_storage_record(inner, r, &s), 0);
	cr_assert_eq(run_one(q, s, IMG_IO_SYNC, NULL, 0, 0), -EIO);
	expect_entry(r, 1, IMG_RECORD_SYNC_FAILED, 0, 0);
	img_storage_close(s);
	img_ioq_free(q);
	img_record_free(r);
}

/* Another file in its place is durable only where that was asked for. */
Test(record, replaced)
{
	struct img_record *r = img_record_new();
	struct img_storage *s = NULL;

	cr_assert_eq(img_storage_record(memory(4), r, &s), 0);
	cr_assert_eq(img_storage_replace(s, "ab", 2, true, NULL), 0);
	cr_assert_not(atomic_load(&s->unsynced));
	cr_assert_eq(img_storage_replace(s, "abc", 3, false, NULL), 0);
	cr_assert(atomic_load(&s->unsynced));
	expect_entry(r, 0, IMG_RECORD_REPLACE, 0, 2);
	expect_entry(r, 1, IMG_RECORD_REPLACE, 0, 3);
	img_storage_close(s);
	img_record_free(r);
}

/* Replayed into a fresh storage the record gives the same bytes and the same size. */
static void replay(enum img_io_kind kind, bool file)
{
	enum { ALL = 8 * 5000 };
	static uint8_t a[ALL], b[ALL];
	struct img_record *r = img_record_new();
	struct img_storage *s = NULL, *copy = memory(0);

	cr_assert_eq(img_storage_record(file ? new_file("f", 0) : memory(0), r, &s), 0);
	random_requests(s, kind, 5000, false, 7, 60);
	for (size_t i = 0; i < img_record_count(r); i++) {
		const struct img_record_entry *e = img_record_at(r, i);

		switch (e->kind) {
		case IMG_RECORD_WRITE:
			cr_assert_eq(img_storage_write(copy, e->off, e->data, e->len, NULL), 0);
			break;
		case IMG_RECORD_ZERO:
			cr_assert_eq(img_storage_zero(copy, e->off, e->len, NULL), 0);
			break;
		case IMG_RECORD_RESIZE:
			cr_assert_eq(img_storage_resize(copy, e->len, IMG_PREALLOCATE_OFF, NULL),
				     0);
			break;
		case IMG_RECORD_REPLACE: /* descriptors alone */
		case IMG_RECORD_SYNC:
		case IMG_RECORD_SYNC_FAILED:
			break;
		}
	}
	cr_assert_eq(atomic_load(&copy->size), atomic_load(&s->size));
	cr_assert_eq(img_storage_read(s, 0, a, ALL, NULL), 0);
	cr_assert_eq(img_storage_read(copy, 0, b, ALL, NULL), 0);
	cr_assert_arr_eq(a, b, ALL);
	img_storage_close(s);
	img_storage_close(copy);
	img_record_free(r);
}

Test(record, replay_uring)
{
	replay(IMG_IO_URING, true);
	replay(IMG_IO_URING, false);
}

Test(record, replay_threads)
{
	replay(IMG_IO_THREADS, true);
	replay(IMG_IO_THREADS, false);
}

/* A created file keeps its way to publish. */
Test(record, publish)
{
	struct img_record *r = img_record_new();
	struct img_storage *s = NULL, *inner = NULL;

	cr_assert_eq(img_storage_create_file(in_folder("f"), 0, &inner, NULL), 0);
	cr_assert_eq(img_storage_record(inner, r, &s), 0);
	cr_assert_eq(count_names(), 0);
	cr_assert_eq(img_storage_publish(s, true, NULL), 0);
	cr_assert_eq(count_names(), 1);
	img_storage_close(s);
	img_record_free(r);
}

struct writer {
	struct img_storage *s;
	uint8_t mark;
};

static void *write_many(void *arg)
{
	struct writer *w = arg;

	for (uint64_t i = 0; i < 500; i++) {
		if (img_storage_write(w->s, i * 10 + w->mark, &w->mark, 1, NULL))
			return arg;
	}
	return NULL;
}

Test(record, threads)
{
	struct img_record *r = img_record_new();
	struct writer writers[4];
	pthread_t threads[4];
	struct img_storage *s = NULL;

	cr_assert_eq(img_storage_record(memory(0), r, &s), 0);
	for (uint8_t i = 0; i < 4; i++) {
		writers[i] = (struct writer){ s, i };
		pthread_create(&threads[i], NULL, write_many, &writers[i]);
	}
	for (int i = 0; i < 4; i++) {
		void *failed;

		pthread_join(threads[i], &failed);
		cr_assert_null(failed);
	}
	cr_assert_eq(img_record_count(r), 2000);
	cr_assert_eq(atomic_load(&s->size), 499 * 10 + 4);
	img_storage_close(s);
	img_record_free(r);
}
