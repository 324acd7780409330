/*
 * What storages state, requests that are longer than that, and where holes are, asked on a queue.
 */
#include "storage_help.h"

#include "libimg/storage/module.h"

TestSuite(limits, .init = make_folder, .fini = remove_folder, .timeout = 60);
TestSuite(extents, .init = make_folder, .fini = remove_folder, .timeout = 60);

static struct img_storage *memory(uint64_t size)
{
	struct img_storage *s = NULL;

	cr_assert_eq(img_storage_memory("mem", size, UINT64_MAX, &s), 0);
	return s;
}

/* A module's storage over inner, or alone (NULL), by "key=value,key=value". */
static struct img_storage *by_module(const char *name, const char *text, struct img_storage *inner)
{
	const struct img_module *m = img_module_named(name);
	struct img_options *o = img_options_new(m->options);
	struct img_module_opening opening = { .options = o,
					      .flags = IMG_STORAGE_WRITE,
					      .inner = inner };
	struct img_error err = { 0 };
	struct img_storage *s = NULL;

	cr_assert_eq(img_options_parse(o, text, &err), 0, "%s", img_error_text(&err));
	cr_assert_eq(m->open(&opening, &s, &err), 0, "%s", img_error_text(&err));
	img_options_free(o);
	return s;
}

/* blkdebug fails what is longer than it states. */
static struct img_storage *limited(struct img_storage *inner, uint64_t max_bytes, uint64_t max_zero)
{
	char text[96];

	snprintf(text, sizeof(text), "max-transfer=%lu,max-write-zero=%lu", max_bytes, max_zero);
	return by_module("blkdebug", text, inner);
}

static void is_alike(const struct img_storage_limits *a, const struct img_storage_limits *b)
{
	cr_assert_eq(a->io_align, b->io_align);
	cr_assert_eq(a->mem_align, b->mem_align);
	cr_assert_eq(a->max_bytes, b->max_bytes);
	cr_assert_eq(a->max_zero, b->max_zero);
	cr_assert_eq(a->optimal_bytes, b->optimal_bytes);
	cr_assert_eq(a->discard_align, b->discard_align);
	cr_assert(a->fua == b->fua && a->zero_fill == b->zero_fill && a->fast_zero == b->fast_zero);
	cr_assert(a->stream_target == b->stream_target && a->rotational == b->rotational);
	cr_assert_eq(a->lock, b->lock);
}

Test(limits, are_stated)
{
	struct img_fault fault = { 0 };
	struct img_storage *s = new_file("f", 0), *over = NULL;
	struct img_storage_limits file = s->limits;

	cr_assert(file.io_align == 1 && file.mem_align == 1 && !file.max_bytes && !file.max_zero);
	cr_assert(file.fua && file.zero_fill && file.stream_target && !file.rotational);
	cr_assert_eq(file.lock, IMG_STORAGE_LOCK_ADVISORY);
	if (file.fast_zero) { /* the file system is one that is known for it */
		struct iovec none = { 0 };

		cr_assert_eq(img_storage_resize(s, 1 << 20, IMG_PREALLOCATE_OFF, NULL), 0);
		cr_assert_eq(img_storage_io(s, IMG_IO_ZERO, &none, 0, 0, 1 << 20, IMG_IO_FAST), 0);
		cr_assert_gt(file.discard_align, 0);
	}
	cr_assert_eq(img_storage_fault(s, &fault, &over), 0);
	is_alike(&over->limits, &file);
	img_storage_close(over);
	s = opened("f", IMG_STORAGE_NO_LOCK);
	cr_assert_eq(s->limits.lock, IMG_STORAGE_LOCK_NONE);
	img_storage_close(s);
	s = memory(1000);
	cr_assert(s->limits.fast_zero && s->limits.zero_fill && !s->limits.stream_target);
	over = limited(s, 4096, 1 << 20);
	cr_assert(over->limits.max_bytes == 4096 && over->limits.max_zero == 1 << 20);
	over = limited(over, 8192, 512); /* what lies below goes on counting */
	cr_assert(over->limits.max_bytes == 4096 && over->limits.max_zero == 512);
	img_storage_close(over);
}

Test(limits, longer_requests_come_in_parts)
{
	static const enum img_io_kind kinds[] = { IMG_IO_THREADS, IMG_IO_AUTO };
	static const uint64_t most[][2] = { { 512, 512 }, { 1536, 4096 }, { 4096, 0 }, { 0, 512 } };

	for (size_t i = 0; i < IMG_ARRAY_LEN(most) * 2; i++) {
		const uint64_t *m = most[i / 2];
		struct img_storage *s = limited(memory(30000), m[0], m[1]);

		random_requests(s, kinds[i % 2], 20000, false, (uint32_t)i + 1, 60);
		img_storage_close(s);
		s = limited(new_file("f", IMG_STORAGE_TRY_DIRECT), m[0], m[1]);
		random_requests(s, kinds[i % 2], 20000, false, (uint32_t)i + 1, 60);
		img_storage_close(s);
	}
}

/* ---- A storage that counts what is in flight, and answers later ---- */

struct counting {
	struct img_storage base;
	struct img_post post;
	struct img_ioq *q;
	struct img_io *waiting[64];
	unsigned n, most, parts;
	unsigned fail_at; /* which part fails; 0: none */
};

static void answer_all(struct img_post *post)
{
	struct counting *c = IMG_CONTAINER(post, struct counting, post);
	unsigned n = c->n;

	c->n = 0;
	for (unsigned i = 0; i < n; i++)
		img_ioq_complete(c->q, c->waiting[i]);
}

static void counting_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	struct counting *c = IMG_CONTAINER(s, struct counting, base);

	cr_assert_leq(io->len, s->limits.max_zero);
	cr_assert_lt(c->n, IMG_ARRAY_LEN(c->waiting), "too many in flight");
	c->q = q;
	io->rc = ++c->parts == c->fail_at ? -ENXIO : 0;
	if (!c->n) {
		c->post.fn = answer_all;
		img_ioq_post(q, &c->post);
	}
	c->waiting[c->n++] = io;
	c->most = c->n > c->most ? c->n : c->most;
}

struct asked {
	struct img_io io;
	unsigned done;
};

static void note(struct img_io *io)
{
	IMG_CONTAINER(io, struct asked, io)->done++;
}

static int zero_on(struct counting *c, enum img_io_kind kind, uint64_t len)
{
	struct img_ioq *q = new_queue(kind);
	struct asked a = {
		.io = { .storage = &c->base, .op = IMG_IO_ZERO, .len = len, .done = note }
	};

	c->n = c->parts = c->most = 0;
	img_ioq_submit(q, &a.io);
	cr_assert_eq(a.done, 0);
	while (!a.done)
		img_ioq_run(q, true);
	img_ioq_run(q, false);
	cr_assert_eq(a.done, 1);
	img_ioq_free(q);
	return a.io.rc;
}

Test(limits, few_parts_are_in_flight)
{
	static const struct img_storage_ops ops = { .submit = counting_submit };
	char name[] = "counting";
	struct counting c = { .base = { .ops = &ops,
					.name = name,
					.writable = true,
					.limits = { .io_align = 1, .max_zero = 512 } } };

	for (int kind = IMG_IO_URING; kind <= IMG_IO_THREADS; kind++) {
		c.fail_at = 0;
		cr_assert_eq(zero_on(&c, (enum img_io_kind)kind, (8 << 20) + 1), 0);
		cr_assert_eq(c.parts, 16384 + 1);
		cr_assert_leq(c.most, 16);
		/* Of a request that has failed nothing more is begun. */
		c.fail_at = 100;
		cr_assert_eq(zero_on(&c, (enum img_io_kind)kind, 8 << 20), -ENXIO);
		cr_assert_leq(c.parts, 100 + 16);
	}
}

/* ---- Where there are holes ---- */

/* What a queue answers about [off, off + len) is what the blocking call says. */
static void extents_are(struct img_storage *s, enum img_io_kind kind, uint64_t off, uint64_t len)
{
	struct img_io_extents *got = calloc(1, sizeof(*got));
	struct img_ioq *q = new_queue(kind);

	while (len) {
		struct asked a = { .io = { .storage = s,
					   .op = IMG_IO_EXTENTS,
					   .off = off,
					   .len = len,
					   .extents = got,
					   .done = note } };

		img_ioq_submit(q, &a.io);
		cr_assert_eq(a.done, 0);
		while (!a.done)
			img_ioq_run(q, true);
		cr_assert_eq(a.io.rc, 0);
		cr_assert_gt(got->count, 0);
		for (size_t i = 0; i < got->count; i++) {
			enum img_storage_extent kind_is;
			uint64_t run;

			cr_assert(got->at[i].len && got->at[i].len <= len);
			for (uint64_t at = 0; at < got->at[i].len; at += run) {
				uint64_t left = got->at[i].len - at;

				cr_assert_eq(img_storage_extent(s, off + at, left, &kind_is, &run),
					     0);
				cr_assert_eq(kind_is, got->at[i].kind, "%s at %lu", s->name, off + at);
			}
			off += got->at[i].len;
			len -= got->at[i].len;
		}
	}
	img_ioq_free(q);
	free(got);
}

/* 600 pieces of data with holes between them: more than one answer holds. */
static struct img_storage *with_holes(struct img_storage *s)
{
	for (uint64_t i = 0; i < 600; i++)
		cr_assert_eq(img_storage_write(s, i << 17, "x", 1, NULL), 0);
	return s;
}

Test(extents, on_a_queue)
{
	for (int kind = IMG_IO_URING; kind <= IMG_IO_THREADS; kind++) {
		struct img_storage *under = with_holes(memory(100 << 20));
		struct img_record *record = img_record_new();
		struct img_storage *s[5] = { with_holes(memory(100 << 20)), with_holes(new_file("f", 0)),
					     by_module("null-co", "size=100M", NULL), NULL, NULL };

		cr_assert_eq(img_storage_window(under, 70000, 3 << 20, &s[3], NULL), 0);
		cr_assert_eq(img_storage_record(with_holes(memory(100 << 20)), record, &s[4]), 0);
		for (size_t i = 0; i < IMG_ARRAY_LEN(s); i++) {
			extents_are(s[i], (enum img_io_kind)kind, 0, 110 << 20);
			extents_are(s[i], (enum img_io_kind)kind, 12345, 1 << 20);
			extents_are(s[i], (enum img_io_kind)kind, 120 << 20, 512);
			img_storage_close(s[i]);
		}
		img_record_free(record);
	}
}

Test(extents, that_cannot_be_had)
{
	struct img_fault fault = { .ops = 1u << IMG_IO_EXTENTS, .rc = -EIO };
	struct img_io_extents *got = calloc(1, sizeof(*got));
	struct img_storage *s = NULL;
	struct img_ioq *q = new_queue(IMG_IO_AUTO);
	struct img_error err = { 0 };
	struct asked a;

	cr_assert_eq(img_storage_fault(memory(1 << 20), &fault, &s), 0);
	a = (struct asked){ .io = { .storage = s,
				    .op = IMG_IO_EXTENTS,
				    .off = 512,
				    .len = 4096,
				    .extents = got,
				    .done = note } };
	img_ioq_submit(q, &a.io);
	while (!a.done)
		img_ioq_run(q, true);
	cr_assert_eq(img_io_fail(&a.io, &err), -EIO);
	cr_assert(strstr(img_error_text(&err), "holes") && strstr(img_error_text(&err), "512"), "%s",
		  img_error_text(&err));
	img_error_clear(&err);
	img_storage_close(s);
	img_ioq_free(q);
	free(got);
}
