/*
 * Windows of another storage, storages that lack one of the two ways to be asked, and whose bytes a
 * storage's are.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/storage/module.h"
#include "libimg/storage/filter.h"

enum { SIZE = 4096 };

static struct img_storage *memory(uint64_t size)
{
	struct img_storage *s = NULL;

	cr_assert_eq(img_storage_memory("m", size, 1 << 20, &s), 0);
	return s;
}

static struct img_storage *window(struct img_storage *inner, uint64_t start, uint64_t room)
{
	struct img_storage *s = NULL;
	struct img_error err = { 0 };

	cr_assert_eq(img_storage_window(inner, start, room, &s, &err), 0, "%s",
		     img_error_text(&err));
	return s;
}

static void submitted(struct img_io *io)
{
	(void)io;
}

/* The same request in its asynchronous form. */
static int by_queue(struct img_storage *s, enum img_io_op op, struct iovec *iov, int iovcnt,
		    uint64_t off, uint64_t len)
{
	struct img_ioq *q = NULL;
	struct img_io io = { .storage = s,
			     .op = op,
			     .iov = iov,
			     .iovcnt = iovcnt,
			     .off = off,
			     .len = len,
			     .done = submitted };

	cr_assert_eq(img_ioq_new(IMG_IO_THREADS, &q, NULL), 0);
	img_ioq_submit(q, &io);
	cr_assert_geq(img_ioq_run(q, true), 1);
	img_ioq_free(q);
	return io.rc;
}

static int ask(int how, struct img_storage *s, enum img_io_op op, struct iovec *iov, int iovcnt,
	       uint64_t off, uint64_t len)
{
	return how ? by_queue(s, op, iov, iovcnt, off, len)
		   : img_storage_io(s, op, iov, iovcnt, off, len, 0);
}

Test(window, shows_its_range_and_nothing_else, .timeout = 30)
{
	for (int how = 0; how < 2; how++) {
		struct img_storage *m = memory(SIZE), *w;
		uint8_t bytes[SIZE], read[64];
		struct iovec two[2] = { { read, 20 }, { read + 20, 44 } };

		for (size_t i = 0; i < SIZE; i++)
			bytes[i] = (uint8_t)(i * 7 + 1);
		cr_assert_eq(img_storage_write(m, 0, bytes, SIZE, NULL), 0);
		w = window(m, 1000, 100);
		cr_assert_eq(atomic_load(&w->size), 100);

		/* 64 bytes at 60: 40 of them in the window, zeroes behind it */
		memset(read, 0xee, sizeof(read));
		cr_assert_eq(ask(how, w, IMG_IO_READ, two, 2, 60, 64), 0);
		cr_assert_arr_eq(read, bytes + 1060, 40);
		for (size_t i = 40; i < 64; i++)
			cr_assert_eq(read[i], 0, "%zu", i);
		two[0] = (struct iovec){ read, 20 };
		two[1] = (struct iovec){ read + 20, 44 };
		cr_assert_eq(ask(how, w, IMG_IO_READ, two, 2, 200, 64), 0);
		cr_assert_eq(read[0], 0);

		/* a write lands at its place; one that leaves the window does not land at all */
		memset(read, 0xaa, sizeof(read));
		two[0] = (struct iovec){ read, 20 };
		two[1] = (struct iovec){ read + 20, 44 };
		cr_assert_eq(ask(how, w, IMG_IO_WRITE, two, 2, 36, 64), 0);
		cr_assert_eq(ask(how, w, IMG_IO_WRITE, two, 2, 37, 64), -ENOSPC);
		cr_assert_eq(ask(how, w, IMG_IO_ZERO, NULL, 0, 99, 2), -ENOSPC);
		cr_assert_eq(ask(how, w, IMG_IO_PUNCH, NULL, 0, 90, 1000), 0);
		cr_assert_eq(ask(how, w, IMG_IO_SYNC, NULL, 0, 0, 0), 0);
		memset(bytes + 1036, 0xaa, 54);
		memset(bytes + 1090, 0, 10);
		for (uint64_t i = 0; i < SIZE; i++) {
			uint8_t b;

			cr_assert_eq(img_storage_read(m, i, &b, 1, NULL), 0);
			cr_assert_eq(b, bytes[i], "%d: byte %lu", how, i);
		}
		img_storage_close(w);
	}
}

Test(window, of_the_rest_grows_with_it)
{
	struct img_storage *w = window(memory(1000), 600, UINT64_MAX);

	cr_assert_eq(atomic_load(&w->size), 400);
	cr_assert_eq(img_storage_write(w, 500, "x", 1, NULL), 0);
	cr_assert_eq(atomic_load(&w->size), 501);
	cr_assert_eq(img_storage_resize(w, 100, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(atomic_load(&img_filter_of(w)->inner->size), 700);
	img_storage_close(w);
}

/* One with an end has that much: what lies around it stays, whatever size is asked for. */
Test(window, of_some_bytes_has_no_more)
{
	struct img_storage *w = window(memory(1000), 600, 200);
	const struct img_storage *inner = img_filter_of(w)->inner;

	cr_assert_eq(img_storage_resize(w, 100, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_storage_resize(w, 200, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_storage_resize(w, 201, IMG_PREALLOCATE_OFF, NULL), -ENOSPC);
	cr_assert_eq(img_storage_resize(w, 900, IMG_PREALLOCATE_OFF, NULL), -ENOSPC);
	cr_assert_eq(atomic_load(&inner->size), 1000);
	img_storage_close(w);
}

Test(window, past_the_end_is_refused)
{
	struct img_storage *m = memory(1000), *w = NULL;
	struct img_error err = { 0 };

	cr_assert_eq(img_storage_window(m, 1001, UINT64_MAX, &w, &err), -EINVAL);
	cr_assert(strstr(img_error_text(&err), "1000"), "%s", img_error_text(&err));
	cr_assert_eq(img_storage_window(m, 900, 101, &w, NULL), -EINVAL);
	cr_assert_eq(img_storage_window(m, 900, UINT64_MAX - 1, &w, NULL), -EINVAL);
	cr_assert_null(w);
	img_error_clear(&err);
	img_storage_close(m);
}

static void named(struct img_storage *s, const char *identity)
{
	s->identity = strdup(identity);
	cr_assert(s->identity);
}

Test(window, bytes_of_both)
{
	struct img_storage *a = memory(SIZE), *b = memory(SIZE), *c = memory(SIZE), *d = memory(SIZE);

	cr_assert(img_storage_overlap(a, a));
	cr_assert_not(img_storage_overlap(a, b)); /* nobody else's */
	named(a, "file 1:2");
	named(b, "file 1:2");
	named(c, "file 1:3");
	named(d, "file 1:2");
	cr_assert(img_storage_overlap(a, b));
	cr_assert_not(img_storage_overlap(a, c));
	a = window(a, 0, 1024);
	b = window(b, 1024, 1024);
	cr_assert_not(img_storage_overlap(a, b)); /* two partitions */
	cr_assert(img_storage_overlap(a, d));
	cr_assert(img_storage_overlap(d, b));
	d = window(window(d, 512, UINT64_MAX), 512, 1024); /* a window of a window */
	cr_assert_not(img_storage_overlap(a, d));
	cr_assert(img_storage_overlap(b, d));
	free(c->identity);
	c->identity = NULL;
	img_storage_close(a);
	img_storage_close(b);
	img_storage_close(c);
	img_storage_close(d);
}

/* A storage that knows one of the two ways only. */
struct half {
	struct img_storage base;
	struct img_storage *inner;
};

static int half_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		   uint64_t off, uint64_t len, unsigned flags)
{
	return img_storage_io(IMG_CONTAINER(s, struct half, base)->inner, op, iov, iovcnt, off, len,
			      flags);
}

static void half_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	io->rc = half_io(s, io->op, io->iov, io->iovcnt, io->off, io->len, io->flags);
	img_ioq_finish(q, io);
}

Test(storage, one_way_to_ask_makes_the_other, .timeout = 30)
{
	static const struct img_storage_ops ops[2] = { { .io = half_io },
						       { .submit = half_submit } };

	for (int i = 0; i < 2; i++) {
		struct half h = { .base = { .ops = &ops[i],
					    .name = strdup("half"),
					    .writable = true,
					    .limits = { .io_align = 1, .mem_align = 1 } },
				  .inner = memory(SIZE) };
		char text[6] = "", letters[2][7] = { "ghijkl", "abcdef" };
		struct iovec out, in;

		for (int how = 0; how < 2; how++) {
			out = (struct iovec){ letters[how], 6 };
			cr_assert_eq(ask(how, &h.base, IMG_IO_WRITE, &out, 1, 10, 6), 0);
			in = (struct iovec){ text, 3 };
			cr_assert_eq(ask(how, &h.base, IMG_IO_READ, &in, 1, 13, 3), 0);
			cr_assert_arr_eq(text, how ? "def" : "jkl", 3);
			cr_assert_eq(ask(how, &h.base, IMG_IO_SYNC, NULL, 0, 0, 0), 0);
		}
		img_storage_close(h.inner);
		free(h.base.name);
	}
}

static struct img_options *options_of(const struct img_module *m, const char *text)
{
	struct img_options *o = img_options_new(m->options);

	cr_assert_eq(img_options_parse(o, text, NULL), 0);
	return o;
}

Test(module, null_takes_everything_and_holds_zeroes, .timeout = 30)
{
	static const char *const rows[] = { "size=1M", "size=1M,latency-ns=1000" };
	const struct img_module *m = img_module_named("null-co");

	for (size_t i = 0; i < 2; i++) {
		struct img_module_opening o = { .options = options_of(m, rows[i]),
						.flags = IMG_STORAGE_WRITE };
		struct img_storage *s = NULL;
		uint8_t bytes[16] = { 1, 2, 3 };
		enum img_storage_extent kind;
		uint64_t run = 0;

		cr_assert_eq(m->open(&o, &s, NULL), 0);
		cr_assert_eq(atomic_load(&s->size), 1 << 20);
		cr_assert_eq(img_storage_write(s, 0, bytes, sizeof(bytes), NULL), 0);
		cr_assert_eq(img_storage_write(s, (1 << 20) - 8, bytes, 16, NULL), -ENOSPC);
		cr_assert_eq(img_storage_read(s, 0, bytes, sizeof(bytes), NULL), 0);
		cr_assert_eq(bytes[0] | bytes[1] | bytes[2], 0);
		cr_assert_eq(img_storage_extent(s, 0, 1 << 20, &kind, &run), 0);
		cr_assert(kind == IMG_STORAGE_HOLE && run == 1 << 20);
		cr_assert_eq(img_storage_resize(s, 2 << 20, IMG_PREALLOCATE_OFF, NULL), -ENOSPC);
		img_storage_close(s);
		img_options_free((struct img_options *)(uintptr_t)o.options);
	}
}

Test(module, by_driver_and_by_name)
{
	cr_assert_eq(img_module_named("file"), &img_module_file);
	cr_assert_eq(img_module_named("host_device"), &img_module_host_device);
	cr_assert_null(img_module_named("qcow2"));
	cr_assert_eq(img_module_of_name("file:x", 4), &img_module_file);
	cr_assert_null(img_module_of_name("filex:x", 5));
	cr_assert_null(img_module_of_name("fil:x", 3));
}
