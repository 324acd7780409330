/*
 * Checked, not only documented: every public function that takes flags, kinds or reserved fields
 * refuses those that it does not know with -EINVAL and a sentence, and then nothing has happened.
 */
#include "tests/image/folder.h"

TestSuite(arguments, .init = folder_make, .fini = folder_remove, .timeout = 60);

/* What the calls work on: a.qcow2, open for writing, on base.qcow2; and another target. */
struct bench {
	struct img *img, *target;
	struct img_queue *q;
	struct img_error *err;
};

/* The options, of which one field at a time makes no sense. */
static struct {
	struct img_open_options open;
	struct img_create_options create;
	struct img_copy_options copy;
	struct img_convert_options convert;
	struct img_commit_options commit;
	struct img_rebase_options rebase;
	struct img_compare_options compare;
} o;

static void bench_begin(struct bench *b)
{
	memset(&o, 0, sizeof(o));
	make_image("base.qcow2", "qcow2", 1 << 20, NULL, NULL);
	make_image("a.qcow2", "qcow2", 0, "base.qcow2", "qcow2");
	make_image("t.qcow2", "qcow2", 1 << 20, NULL, NULL);
	b->img = must_open("a.qcow2", "qcow2", IMG_OPEN_WRITE);
	b->target = must_open("t.qcow2", "qcow2", IMG_OPEN_WRITE);
	b->err = img_error_new();
	cr_assert_eq(img_queue_new(IMG_IO_THREADS, &b->q, NULL), 0);
	o.open.format = "qcow2";
	o.create = (struct img_create_options){ .format = "qcow2", .size = 1 << 20, .have_size = true };
	o.rebase = (struct img_rebase_options){ .backing = "base.qcow2", .format = "qcow2" };
	o.convert.sources = &b->img;
	o.convert.source_count = 1;
	o.convert.target = b->target;
}

static void bench_end(struct bench *b)
{
	cr_assert_eq(img_queue_in_flight(b->q), 0);
	cr_assert_neq(access("new", F_OK), 0, "nothing was made");
	img_queue_free(b->q);
	must_close(b->img);
	must_close(b->target);
	img_error_free(b->err);
}

static void never_done(void *user, int rc, const struct img_error *err)
{
	(void)user, (void)rc, (void)err;
	cr_assert_fail("done() of what was refused");
}

static void never_mapped(void *user, int rc, const struct img_map_entry *entries, size_t count,
			 const struct img_error *err)
{
	(void)entries, (void)count;
	never_done(user, rc, err);
}

/* ---- The calls ---- */

typedef int call_fn(struct bench *b);

/* What a refused call must not give out. */
static int none(int rc, const void *given)
{
	cr_assert(!rc || !given);
	return rc;
}

static int call_open(struct bench *b)
{
	struct img *img = NULL;
	int rc = img_open("base.qcow2", &o.open, &img, b->err);

	if (!rc)
		must_close(img);
	return none(rc, rc ? img : NULL);
}

static int call_open_node(struct bench *b)
{
	struct img_node *node;
	struct img *img = NULL;
	int rc;

	cr_assert_eq(img_node_parse_name("base.qcow2", &node, NULL), 0);
	rc = img_open_node(node, &o.open, &img, b->err);
	img_node_free(node);
	if (!rc)
		must_close(img);
	return none(rc, rc ? img : NULL);
}

static int call_create_prepare(struct bench *b)
{
	struct img_value *v = NULL;
	int rc = img_create_prepare("new", &o.create, &v, b->err);

	if (!rc)
		img_value_free(v);
	return none(rc, rc ? v : NULL);
}

static int call_create_begin(struct bench *b)
{
	struct img *img = NULL;
	int rc = img_create_begin("new", &o.create, &img, b->err);

	if (!rc)
		must_close(img);
	return none(rc, rc ? img : NULL);
}

static int call_create(struct bench *b)
{
	int rc = img_create("new", &o.create, b->err);

	if (!rc)
		remove("new");
	return rc;
}

static int call_copy(struct bench *b)
{
	return img_copy(&b->img, 1, b->target, &o.copy, b->err);
}

/* The format of a stream; its options are o.create else. */
static int to_sink(struct bench *b)
{
	struct img_create_options create = o.create;
	const char *const stream[] = { "subformat=streamOptimized", NULL };
	int rc;

	create.format = "vmdk";
	create.options = stream;
	rc = img_copy_to_sink(&b->img, 1, "new", -1, &create, &o.copy, b->err);
	if (!rc)
		remove("new");
	return rc;
}

/* A raw disk of 1 MiB comes in. */
static struct img_source_image *open_source(int *fd)
{
	static const uint64_t size = 1 << 20;
	struct img_source_image *in;

	make_file("disk", "x", 1, (off_t)size);
	*fd = open("disk", O_RDONLY | O_CLOEXEC);
	cr_assert_eq(img_source_open(*fd, "disk", "raw", &size, &in, NULL), 0);
	return in;
}

static int call_copy_source(struct bench *b)
{
	int fd, rc;
	struct img_source_image *in = open_source(&fd);

	rc = img_copy_source(in, b->target, &o.copy, b->err);
	img_source_close(in);
	close(fd);
	return rc;
}

static int call_copy_source_to_sink(struct bench *b)
{
	struct img_create_options create = o.create;
	const char *const stream[] = { "subformat=streamOptimized", NULL };
	int fd, rc;
	struct img_source_image *in = open_source(&fd);

	create.format = "vmdk";
	create.options = stream;
	rc = img_copy_source_to_sink(in, "new", -1, &create, &o.copy, b->err);
	img_source_close(in);
	close(fd);
	if (!rc)
		remove("new");
	return rc;
}

static int call_convert(struct bench *b)
{
	struct img_convert_options convert = o.convert;

	convert.copy = o.copy;
	return img_convert(&convert, NULL, b->err);
}

static int call_convert_new(struct bench *b)
{
	struct img_convert_options convert = o.convert;
	int rc;

	convert.target = NULL;
	convert.path = "new";
	convert.create = o.create;
	convert.create.have_size = false;
	convert.copy = o.copy;
	rc = img_convert(&convert, NULL, b->err);
	if (!rc)
		remove("new");
	return rc;
}

static int call_commit(struct bench *b)
{
	return img_commit(b->img, &o.commit, b->err);
}

static int call_rebase(struct bench *b)
{
	return img_rebase(b->img, &o.rebase, b->err);
}

static int call_compare(struct bench *b)
{
	struct img_compare_result result;

	return img_compare(b->img, b->target, &o.compare, &result, b->err);
}

/* ---- Reserved fields and kinds ---- */

#define RESERVED(field, call) \
	{ \
#call ", " #field, call, o.field.reserved, COUNT(o.field.reserved) \
	}

Test(arguments, reserved_fields_of_every_call_are_zero)
{
	static const struct {
		const char *name;
		call_fn *call;
		uint64_t *reserved;
		size_t count;
	} rows[] = {
		RESERVED(open, call_open),
		RESERVED(open, call_open_node),
		RESERVED(create, call_create_prepare),
		RESERVED(create, call_create_begin),
		RESERVED(create, call_create),
		RESERVED(create, to_sink),
		RESERVED(create, call_copy_source_to_sink),
		RESERVED(create, call_convert_new),
		RESERVED(copy, call_copy),
		RESERVED(copy, to_sink),
		RESERVED(copy, call_copy_source),
		RESERVED(copy, call_copy_source_to_sink),
		RESERVED(copy, call_convert),
		RESERVED(copy, call_convert_new),
		RESERVED(convert, call_convert),
		RESERVED(convert, call_convert_new),
		RESERVED(commit, call_commit),
		RESERVED(rebase, call_rebase),
		RESERVED(compare, call_compare),
	};
	struct bench b;

	bench_begin(&b);
	for (size_t i = 0; i < COUNT(rows); i++) {
		for (size_t n = 0; n < rows[i].count; n++) {
			rows[i].reserved[n] = UINT64_C(1) << 63;
			cr_expect_eq(rows[i].call(&b), -EINVAL, "%s.reserved[%zu]", rows[i].name, n);
			cr_expect(strstr(img_error_text(b.err), "reserved"), "%s: %s", rows[i].name,
				  img_error_text(b.err));
			rows[i].reserved[n] = 0;
		}
		cr_expect_eq(rows[i].call(&b), 0, "%s: %s", rows[i].name, img_error_text(b.err));
	}
	bench_end(&b);
}

#define KIND(field, call) \
	{ \
#call ", " #field, call, &o.field.io \
	}

Test(arguments, kinds_of_io_of_every_call_are_known)
{
	static const struct {
		const char *name;
		call_fn *call;
		enum img_io_kind *io;
	} rows[] = {
		KIND(open, call_open),
		KIND(open, call_open_node),
		KIND(create, call_create_begin),
		KIND(create, call_create),
		KIND(create, to_sink),
		KIND(create, call_convert_new),
		KIND(copy, call_copy),
		KIND(copy, to_sink),
		KIND(copy, call_copy_source),
		KIND(copy, call_copy_source_to_sink),
		KIND(copy, call_convert),
		KIND(commit, call_commit),
		KIND(rebase, call_rebase),
		KIND(compare, call_compare),
	};
	static const int unknown[] = { -1, IMG_IO_THREADS + 1, INT_MAX };
	struct img_queue *q = NULL;
	struct bench b;

	bench_begin(&b);
	for (size_t i = 0; i < COUNT(rows); i++) {
		for (size_t n = 0; n < COUNT(unknown); n++) {
			*rows[i].io = (enum img_io_kind)unknown[n];
			cr_expect_eq(rows[i].call(&b), -EINVAL, "%s: %d", rows[i].name, unknown[n]);
			cr_expect(strstr(img_error_text(b.err), "kind of I/O"), "%s: %s",
				  rows[i].name, img_error_text(b.err));
		}
		*rows[i].io = IMG_IO_THREADS;
		cr_expect_eq(rows[i].call(&b), 0, "%s: %s", rows[i].name, img_error_text(b.err));
		*rows[i].io = IMG_IO_AUTO;
	}
	for (size_t n = 0; n < COUNT(unknown); n++) {
		cr_expect_eq(img_queue_new((enum img_io_kind)unknown[n], &q, b.err), -EINVAL);
		cr_expect_null(q);
	}
	cr_expect_eq(img_resize(b.img, 2 << 20, (enum img_preallocate) - 1, b.err), -EINVAL);
	cr_expect_eq(img_resize(b.img, 2 << 20, (enum img_preallocate)(IMG_PREALLOCATE_FULL + 1),
				b.err),
		     -EINVAL);
	cr_expect_eq(img_size(b.img), 1 << 20);
	bench_end(&b);
}

/* ---- Flags ---- */

#define FLAGS(field, call, ...) \
	{ \
#call ", " #field, call, &o.field, (__VA_ARGS__) \
	}

Test(arguments, flags_of_every_call_are_known)
{
	static const unsigned create = IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT | IMG_OPEN_UNSAFE |
				       IMG_OPEN_UNMAP | IMG_OPEN_WRITETHROUGH | IMG_OPEN_NO_LOCK |
				       IMG_OPEN_SHARE;
	const struct {
		const char *name;
		call_fn *call;
		unsigned *flags, taken;
	} rows[] = {
		FLAGS(open.flags, call_open, 2 * IMG_OPEN_NO_DATA - 1),
		FLAGS(open.flags, call_open_node, 2 * IMG_OPEN_NO_DATA - 1),
		FLAGS(open.backing_flags, call_open, 0), /* without have_backing_flags */
		FLAGS(create.flags, call_create_prepare, create),
		FLAGS(create.flags, call_create_begin, create),
		FLAGS(create.flags, call_create, create),
		FLAGS(create.flags, to_sink, create),
		FLAGS(create.flags, call_convert_new, create),
		FLAGS(rebase.backing_flags, call_rebase,
		      IMG_OPEN_SHARE | IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT | IMG_OPEN_UNSAFE |
			      IMG_OPEN_WRITETHROUGH | IMG_OPEN_NO_LOCK),
	};
	struct bench b;

	bench_begin(&b);
	for (size_t i = 0; i < COUNT(rows); i++) {
		for (unsigned bit = 1; bit; bit <<= 1) {
			if (rows[i].taken & bit)
				continue;
			*rows[i].flags = bit;
			cr_expect_eq(rows[i].call(&b), -EINVAL, "%s: %#x", rows[i].name, bit);
			cr_expect(strstr(img_error_text(b.err), "flags"), "%s: %s", rows[i].name,
				  img_error_text(b.err));
		}
		*rows[i].flags = 0;
		cr_expect_eq(rows[i].call(&b), 0, "%s: %s", rows[i].name, img_error_text(b.err));
	}
	bench_end(&b);
}

Test(arguments, flags_of_every_request_are_known)
{
	static const unsigned changes = IMG_SUBMIT_ORDERED | IMG_SUBMIT_FUA;
	static const unsigned zero = changes | IMG_SUBMIT_MAY_UNMAP | IMG_SUBMIT_KEEP_ALLOCATED |
				     IMG_SUBMIT_FAST;
	static const struct {
		const char *name;
		unsigned taken;
	} rows[] = {
		{ "img_submit_readv", 0 },
		{ "img_submit_writev", changes | IMG_SUBMIT_COMPRESS },
		{ "img_submit_zero", zero },
		{ "img_submit_discard", changes },
		{ "img_submit_map", IMG_MAP_DEEP },
		{ "img_write_with", changes | IMG_SUBMIT_COMPRESS },
		{ "img_zero_with", zero },
		{ "img_discard_with", changes },
		{ "img_check", IMG_REPAIR_LEAKS },
	};
	static char bytes[65536];
	struct bench b;

	bench_begin(&b);
	for (size_t i = 0; i < COUNT(rows); i++) {
		for (unsigned bit = 1; bit; bit <<= 1) {
			struct iovec iov = { bytes, sizeof(bytes) };
			struct img_check_result result;
			int rc = 0;

			if (rows[i].taken & bit)
				continue;
			switch (i) {
			case 0:
				rc = img_submit_readv(b.q, b.img, 0, &iov, 1, bit, never_done, NULL,
						      b.err);
				break;
			case 1:
				rc = img_submit_writev(b.q, b.img, 0, &iov, 1, bit, never_done,
						       NULL, b.err);
				break;
			case 2:
				rc = img_submit_zero(b.q, b.img, 0, 65536, bit, never_done, NULL,
						     b.err);
				break;
			case 3:
				rc = img_submit_discard(b.q, b.img, 0, 65536, bit, never_done, NULL,
							b.err);
				break;
			case 4:
				rc = img_submit_map(b.q, b.img, 0, 65536, bit, 1, never_mapped,
						    NULL, b.err);
				break;
			case 5:
				rc = img_write_with(b.img, 0, bytes, sizeof(bytes), bit, b.err);
				break;
			case 6:
				rc = img_zero_with(b.img, 0, 65536, bit, b.err);
				break;
			case 7:
				rc = img_discard_with(b.img, 0, 65536, bit, b.err);
				break;
			case 8:
				rc = img_check(b.img, bit, NULL, NULL, &result, b.err);
				break;
			}
			cr_expect_eq(rc, -EINVAL, "%s: %#x", rows[i].name, bit);
			cr_expect_eq(img_error_code(b.err), -EINVAL);
		}
	}
	bench_end(&b);
}

/* ---- One answer for a change to what is open read-only ---- */

Test(arguments, changes_to_a_read_only_image_are_erofs)
{
	static char bytes[65536];
	struct img_check_result result;
	struct bench b;
	struct iovec iov = { bytes, sizeof(bytes) };
	struct img *img, *on_it;

	bench_begin(&b);
	img = must_open("base.qcow2", "qcow2", IMG_OPEN_SHARE);
	on_it = must_open("a.qcow2", "qcow2", IMG_OPEN_SHARE);
	{
		const int answers[] = {
			img_write(img, 0, bytes, 512, b.err),
			img_zero(img, 0, 512, b.err),
			img_discard(img, 0, 512, b.err),
			img_write_with(img, 0, bytes, 512, IMG_SUBMIT_FUA, b.err),
			img_zero_with(img, 0, 512, IMG_SUBMIT_FUA, b.err),
			img_discard_with(img, 0, 512, IMG_SUBMIT_FUA, b.err),
			img_submit_writev(b.q, img, 0, &iov, 1, 0, never_done, NULL, b.err),
			img_submit_zero(b.q, img, 0, 512, 0, never_done, NULL, b.err),
			img_submit_discard(b.q, img, 0, 512, 0, never_done, NULL, b.err),
			img_resize(img, 2 << 20, IMG_PREALLOCATE_OFF, b.err),
			img_check(img, IMG_REPAIR_ALL, NULL, NULL, &result, b.err),
			img_set_backing_name(on_it, "base.qcow2", "qcow2", b.err),
			img_make_empty(on_it, b.err),
			img_commit(on_it, &o.commit, b.err),
			img_rebase(on_it, &o.rebase, b.err),
		};

		for (size_t i = 0; i < COUNT(answers); i++)
			cr_expect_eq(answers[i], -EROFS, "call %zu: %d", i, answers[i]);
	}
	cr_assert_eq(img_flush(img, b.err), 0);
	must_close(img);
	must_close(on_it);
	bench_end(&b);
}

/* ---- What the header says of itself ---- */

/* Whoever was built against this header goes on working with a library that knows more. */
Test(arguments, structs_have_room_and_the_version_is_a_number)
{
	static const struct img_map_entry entry;
	static const struct img_check_result check;
	static const struct img_compare_result compare;
	static const struct img_child child;
	unsigned major, minor, patch;

	cr_assert(COUNT(entry.reserved) && COUNT(check.reserved) && COUNT(compare.reserved) &&
		  COUNT(child.reserved));
	cr_assert_eq(sscanf(LIBIMG_VERSION, "%u.%u.%u", &major, &minor, &patch), 3);
	cr_assert_eq(LIBIMG_VERSION_NUMBER, major << 16 | minor << 8 | patch);
	cr_assert_eq(img_version_number(), LIBIMG_VERSION_NUMBER);
	cr_assert_str_eq(img_version(), LIBIMG_VERSION);
}
