/*
 * Open chains that change: images that become writable and read-only again, and get other backing
 * images. What comes out is judged by qemu-img and by a flat copy of the disk.
 */
#include "libimg/image/context.h" /* before img.h */

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "libimg/base/arith.h"
#include "tests/image/folder.h"

TestSuite(reopen, .init = folder_make, .fini = folder_remove, .timeout = 120);

enum {
	DISK = 4 << 20,
	STEP = 64 << 10,
};

static void need_qemu(void)
{
	if (system("qemu-img --version >/dev/null 2>&1 && qemu-io --version >/dev/null 2>&1"))
		cr_skip_test("qemu-img and qemu-io are not installed");
}

/* A command's answer; what it said is in the file "said". */
static int quiet(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int quiet(const char *format, ...)
{
	char command[2000], whole[2100];
	va_list args;

	va_start(args, format);
	vsnprintf(command, sizeof(command), format, args);
	va_end(args);
	snprintf(whole, sizeof(whole), "(%s) >said 2>&1", command);
	return system(whole);
}

static bool said(const char *words)
{
	char text[4000];
	int fd = open("said", O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	text[n > 0 ? n : 0] = '\0';
	return strstr(text, words) != NULL;
}

static void set_role(struct img *img, bool writable)
{
	struct img_error *err = img_error_new();

	cr_assert_eq(img_set_writable(img, writable, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_is_writable(img), writable);
	img_error_free(err);
}

static void put(struct img *img, uint64_t off, uint8_t value, size_t len)
{
	struct img_error *err = img_error_new();
	uint8_t *bytes = malloc(len);

	memset(bytes, value, len);
	cr_assert_eq(img_write(img, off, bytes, len, err), 0, "%s", img_error_text(err));
	free(bytes);
	img_error_free(err);
}

static uint8_t byte_at(struct img *img, uint64_t off)
{
	uint8_t byte = 0xee;

	cr_assert_eq(img_read(img, off, &byte, 1, NULL), 0);
	return byte;
}

/* Is the disk what the flat copy says, to us and to qemu-img? */
static void check_content(struct img *img, const uint8_t *model)
{
	uint8_t *bytes = malloc(DISK);

	cr_assert_eq(img_read(img, 0, bytes, DISK, NULL), 0);
	cr_assert_eq(memcmp(bytes, model, DISK), 0, "%s", img_name(img));
	free(bytes);
}

static void check_file(const char *name, const char *format, const uint8_t *model)
{
	make_file("model", model, DISK, DISK);
	cr_assert_eq(quiet("qemu-img compare -f raw -F %s model %s", format, name), 0, "%s", name);
	if (strcmp(format, "raw") != 0 && quiet("qemu-img check -f %s %s", format, name))
		cr_assert(said("does not support checks"), "%s", name);
}

/* A raw disk of one value. */
static void make_raw(const char *name, uint8_t value)
{
	uint8_t *bytes = malloc(DISK);

	memset(bytes, value, DISK);
	make_file(name, bytes, DISK, DISK);
	free(bytes);
}

/* ---- Another role ---- */

static const struct kind {
	const char *format, *options, *name; /* the file that is opened; NULL: "a" */
} kinds[] = {
	{ "raw", NULL, NULL },
	{ "qcow2", NULL, NULL },
	{ "qcow2", "compat=0.10", NULL },
	{ "qcow2", "cluster_size=512", NULL },
	{ "qcow2", "extended_l2=on", NULL },
	{ "qcow2", "refcount_bits=1", NULL },
	{ "qcow2", "data_file=a.data", NULL },
	{ "qcow2", "data_file=a.data,data_file_raw=on", NULL },
	{ "vmdk", NULL, NULL },
	{ "vmdk", "subformat=monolithicFlat", NULL },
	{ "vmdk", "subformat=twoGbMaxExtentSparse", NULL },
	{ "vmdk", "subformat=twoGbMaxExtentFlat", NULL },
};

static void make_kind(const struct kind *k)
{
	const char *options[] = { k->options, NULL };
	struct img_create_options o = {
		.format = k->format,
		.size = DISK,
		.have_size = true,
		.options = k->options ? options : NULL,
	};
	struct img_error *err = img_error_new();

	cr_assert_eq(img_create("a", &o, err), 0, "%s %s: %s", k->format, k->options,
		     img_error_text(err));
	img_error_free(err);
}

/* Opened for reading; written to only while that is allowed, and the file is whole in between. */
Test(reopen, all_formats_change_their_role)
{
	need_qemu();
	for (size_t k = 0; k < COUNT(kinds); k++) {
		uint8_t *model = calloc(1, DISK);
		struct img *img, *other;

		make_kind(&kinds[k]);
		img = must_open("a", kinds[k].format, 0);
		cr_assert(!img_is_writable(img));
		check_content(img, model); /* what is cached by now is what it was */
		for (int round = 0; round < 4; round++) {
			uint64_t off = (uint64_t)round * (700 << 10) + 512;

			cr_assert_eq(img_write(img, off, "x", 1, NULL), -EROFS);
			set_role(img, true);
			set_role(img, true);
			put(img, off, (uint8_t)(round + 1), 200 << 10);
			memset(model + off, round + 1, 200 << 10);
			cr_assert_eq(img_zero(img, off + STEP, STEP, NULL), 0);
			memset(model + off + STEP, 0, STEP);
			set_role(img, false);
			set_role(img, false);
			check_content(img, model);
			check_file("a", kinds[k].format, model); /* another reader beside us */
			other = must_open("a", kinds[k].format, 0);
			check_content(other, model);
			must_close(other);
		}
		must_close(img);
		check_file("a", kinds[k].format, model);
		free(model);
		run("rm -f a a.* a-*");
	}
}

/* All files of the image are locked for their role, and by nobody else before. */
Test(reopen, further_files_change_too)
{
	struct img *img, *other = NULL;
	struct img_error *err = img_error_new();

	make_kind(&(struct kind){ "qcow2", "data_file=a.data", NULL });
	img = must_open("a", "qcow2", 0);
	other = must_open("a.data", "raw", 0);
	cr_assert_eq(img_set_writable(img, true, err), -EAGAIN);
	cr_assert(strstr(img_error_text(err), "a.data") && strstr(img_error_text(err), "\"write\" lock"),
		  "%s", img_error_text(err));
	cr_assert(!img_is_writable(img));
	must_close(other);
	/* the image's own file, which could be had, is a reader's again */
	other = must_open("a", "qcow2", 0);
	must_close(other);
	set_role(img, true);
	cr_assert_eq(must_fail("a.data", &(struct img_open_options){ .format = "raw" }, NULL), -EAGAIN);
	cr_assert_eq(must_fail("a", &(struct img_open_options){ .format = "qcow2" }, NULL), -EAGAIN);
	set_role(img, false);
	must_close(must_open("a.data", "raw", 0));
	must_close(img);
	img_error_free(err);
}

Test(reopen, qemu_sees_the_role)
{
	struct img *img;

	need_qemu();
	make_image("base", "qcow2", DISK, NULL, NULL);
	make_image("top", "qcow2", 0, "base", "qcow2");
	img = must_open("top", "qcow2", IMG_OPEN_WRITE);
	cr_assert_eq(quiet("qemu-io -r -f qcow2 -c 'read 0 512' base"), 0);
	set_role(img_backing(img), true);
	cr_assert_neq(quiet("qemu-io -r -f qcow2 -c 'read 0 512' base"), 0);
	cr_assert(said("Failed to get shared \"write\" lock"));
	set_role(img_backing(img), false);
	cr_assert_eq(quiet("qemu-io -r -f qcow2 -c 'read 0 512' base"), 0);
	cr_assert_neq(quiet("qemu-io -f qcow2 -c 'read 0 512' base"), 0);
	cr_assert(said("Failed to get \"write\" lock"));
	/* and the other way round: of us as of others, only one writes */
	set_role(img, false);
	cr_assert_eq(quiet("qemu-io -r -f qcow2 -c 'read 0 512' top"), 0);
	must_close(img);
}

/* What lies between an image and its file passes it on: windows, filters, another image. */
Test(reopen, the_role_of_what_lies_under_an_image)
{
	static const char *const nodes[] = {
		"driver=raw,offset=1M,size=1M,file.filename=a",
		"driver=raw,file.driver=blkdebug,file.image.filename=a",
		"driver=qcow2,file.driver=blkdebug,file.image.filename=q",
		"driver=raw,file.driver=qcow2,file.file.filename=q",
		"driver=raw,file.driver=null-co,file.size=4M",
	};

	make_raw("a", 1);
	make_image("q", "qcow2", DISK, NULL, NULL);
	for (size_t i = 0; i < COUNT(nodes); i++) {
		const char *file = strstr(nodes[i], "=a") ? "a" : "q";
		const char *format = *file == 'a' ? "raw" : "qcow2";
		struct img_open_options o = { .format = format };
		bool null = strstr(nodes[i], "null");
		struct img_node *node;
		struct img *img;

		cr_assert_eq(img_node_parse_options(nodes[i], &node, NULL), 0);
		cr_assert_eq(img_open_node(node, NULL, &img, NULL), 0, "%s", nodes[i]);
		for (int n = 0; n < 2; n++) {
			cr_assert_eq(img_write(img, 0, "x", 1, NULL), -EROFS);
			set_role(img, true);
			cr_assert_eq(must_fail(null ? "none" : file, &o, NULL), null ? -ENOENT : -EAGAIN);
			put(img, 4096, (uint8_t)(5 + n), 4096);
			set_role(img, false);
			must_close(must_open(file, format, 0));
			cr_assert_eq(byte_at(img, 4096), null ? 0 : 5 + n);
		}
		must_close(img);
		img_node_free(node);
	}
}

Test(reopen, what_is_written_below_shows_above)
{
	struct img *top, *mid, *base;

	make_image("base", "raw", DISK, NULL, NULL);
	make_image("mid", "qcow2", 0, "base", "raw");
	make_image("top", "qcow2", 0, "mid", "qcow2");
	top = must_open("top", "qcow2", IMG_OPEN_WRITE);
	mid = img_backing(top);
	base = img_backing(mid);
	cr_assert_null(img_backing(base));
	cr_assert_eq(byte_at(top, 0), 0);
	put(top, STEP, 9, STEP);
	set_role(base, true);
	put(base, 0, 1, 3 * STEP);
	cr_assert_eq(byte_at(top, 0), 1);
	cr_assert_eq(byte_at(top, STEP), 9);
	set_role(mid, true);
	put(mid, 0, 2, STEP);
	cr_assert_eq(byte_at(top, 0), 2);
	cr_assert_eq(byte_at(top, 2 * STEP), 1);
	cr_assert_eq(img_make_empty(mid, NULL), 0);
	cr_assert_eq(byte_at(top, 0), 1);
	set_role(base, false);
	cr_assert_eq(img_write(base, 0, "x", 1, NULL), -EROFS);
	/* closing the top closes what is still writable as well */
	put(mid, 0, 3, STEP);
	must_close(top);
	top = must_open("top", "qcow2", 0);
	cr_assert_eq(byte_at(top, 0), 3);
	must_close(top);
}

Test(reopen, a_level_is_closed_with_its_top)
{
	struct img_error *err = img_error_new();
	struct img *top;

	make_image("base", "raw", DISK, NULL, NULL);
	make_image("top", "qcow2", 0, "base", "raw");
	top = must_open("top", "qcow2", 0);
	cr_assert_eq(img_close(img_backing(top), err), -EBUSY);
	cr_assert(strstr(img_error_text(err), "top"));
	must_close(top);
	img_error_free(err);
}

static void refuse_role(struct img *img, bool writable, int want)
{
	struct img_error *err = img_error_new();
	bool before = img_is_writable(img);
	uint8_t byte;

	cr_assert_eq(img_set_writable(img, writable, err), want, "%s: %s", img_name(img),
		     img_error_text(err));
	cr_assert(strstr(img_error_text(err), img_name(img)), "%s", img_error_text(err));
	cr_assert_eq(img_is_writable(img), before);
	if (!(img->context->flags & IMG_OPEN_SELF_ONLY))
		cr_assert_eq(img_read(img, 0, &byte, 1, NULL), 0);
	img_error_free(err);
}

Test(reopen, roles_that_are_refused)
{
	static const unsigned how[] = { IMG_OPEN_SHARE, IMG_OPEN_CHECK, IMG_OPEN_SELF_ONLY,
					IMG_OPEN_SALVAGE };
	struct img_create_options o = { .format = "qcow2", .size = DISK, .have_size = true };
	const char *stream[] = { "subformat=streamOptimized", NULL };
	struct img *img;

	make_image("a", "qcow2", DISK, NULL, NULL);
	for (size_t i = 0; i < COUNT(how); i++) {
		img = must_open("a", "qcow2", how[i]);
		refuse_role(img, true, -EINVAL);
		must_close(img);
	}
	cr_assert_eq(img_create_begin("new", &o, &img, NULL), 0);
	refuse_role(img, false, -EBUSY);
	cr_assert_eq(img_publish(img, NULL), 0);
	put(img, 0, 1, STEP);
	set_role(img, false);
	must_close(must_open("new", "qcow2", 0));
	set_role(img, true);
	put(img, STEP, 1, STEP);
	must_close(img);
	o = (struct img_create_options){ .format = "vmdk", .size = DISK, .have_size = true, .options = stream };
	cr_assert_eq(img_create("s.vmdk", &o, NULL), 0);
	img = must_open("s.vmdk", "vmdk", 0);
	refuse_role(img, true, -ENOTSUP);
	must_close(must_open("s.vmdk", "vmdk", 0));
	must_close(img);
	if (!quiet("qemu-img snapshot -c one a")) {
		struct img_node *node;

		cr_assert_eq(img_node_parse_options("driver=qcow2,file.filename=a,snapshot.name=one",
						    &node, NULL),
			     0);
		cr_assert_eq(img_open_node(node, NULL, &img, NULL), 0);
		refuse_role(img, true, -EINVAL);
		must_close(img);
		img_node_free(node);
	}
}

/* What would be refused to be opened for writing is not made writable, and stays a reader. */
Test(reopen, damaged_images_stay_read_only)
{
	static const struct {
		uint64_t off;
		uint8_t byte;
	} damage[] = {
		{ 79, 2 },	     /* header: marked as corrupt */
		{ 65536 + 1, 0xff }, /* refcount table: a block far behind the end */
	};

	for (size_t i = 0; i < COUNT(damage); i++) {
		struct img *img, *other;
		int fd;

		make_image("a", "qcow2", DISK, NULL, NULL);
		fd = open("a", O_RDWR | O_CLOEXEC);
		cr_assert_eq(pwrite(fd, &damage[i].byte, 1, (off_t)damage[i].off), 1);
		close(fd);
		img = must_open("a", "qcow2", 0);
		refuse_role(img, true, -EUCLEAN);
		other = must_open("a", "qcow2", 0); /* no writer's lock is left */
		must_close(other);
		cr_assert_eq(img_write(img, 0, "x", 1, NULL), -EROFS);
		must_close(img);
	}
}

/* As at opening: an image that was not closed cleanly is repaired before it is written to. */
Test(reopen, unclean_images_are_repaired)
{
	uint8_t dirty = 1, *model = calloc(1, DISK);
	struct img *img;
	int fd;

	need_qemu();
	make_image("a", "qcow2", DISK, NULL, NULL);
	cr_assert_eq(quiet("qemu-io -f qcow2 -c 'write -P 7 0 1M' a"), 0);
	memset(model, 7, 1 << 20);
	fd = open("a", O_RDWR | O_CLOEXEC);
	cr_assert_eq(pwrite(fd, &dirty, 1, 79), 1);
	close(fd);
	img = must_open("a", "qcow2", 0);
	check_content(img, model);
	set_role(img, true);
	put(img, 2 << 20, 8, STEP);
	memset(model + (2 << 20), 8, STEP);
	set_role(img, false);
	check_content(img, model);
	must_close(img);
	check_file("a", "qcow2", model);
	free(model);
}

/* What the format was guessed of must not become another format by what is written. */
Test(reopen, guessed_formats_are_guarded)
{
	struct img *img;

	make_image("base", "raw", DISK, NULL, NULL);
	make_image("top", "qcow2", DISK, "base", "raw");
	img = must_open("top", "qcow2", IMG_OPEN_WRITE);
	cr_assert_eq(img_set_backing_name(img, "base", NULL, NULL), 0);
	must_close(img);
	img = must_open("top", "qcow2", 0);
	cr_assert(img_was_probed(img_backing(img)));
	set_role(img_backing(img), true);
	cr_assert_eq(img_write(img_backing(img), 0, "QFI\xfb\0\0\0\3", 8, NULL), -EPERM);
	put(img_backing(img), 512, 1, 512);
	must_close(img);
}

static void note(void *user, int rc, const struct img_error *err)
{
	(void)err;
	*(int *)user = rc;
}

/* A thread cannot wait for its own requests. */
Test(reopen, own_requests_are_in_the_way)
{
	uint8_t buf[512];
	struct iovec iov = { buf, sizeof(buf) };
	struct img *top, *other, *removed = NULL;
	struct img_queue *q;
	int rc = 1;

	make_image("base", "raw", DISK, NULL, NULL);
	make_image("other", "raw", DISK, NULL, NULL);
	make_image("top", "qcow2", 0, "base", "raw");
	top = must_open("top", "qcow2", 0);
	other = must_open("other", "raw", 0);
	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	cr_assert_eq(img_submit_readv(q, top, 0, &iov, 1, 0, note, &rc, NULL), 0);
	cr_assert_eq(img_set_writable(img_backing(top), true, NULL), -EDEADLK);
	cr_assert_eq(img_set_writable(top, true, NULL), -EDEADLK);
	cr_assert_eq(img_set_backing(top, other, &removed, NULL), -EDEADLK);
	cr_assert_null(removed);
	while (img_queue_in_flight(q))
		img_queue_run(q, true);
	cr_assert_eq(rc, 0);
	cr_assert_eq(img_set_backing(top, other, &removed, NULL), 0);
	must_close(removed);
	img_queue_free(q);
	must_close(top);
}

/* ---- Faults ---- */

/* a, behind faults, opened for reading; it was made without them. */
static struct img *open_behind(struct img_fault *fault, const char *format)
{
	struct img_open_options o = { .format = format };
	struct img_storage *s;
	struct img *img;

	cr_assert_eq(img_storage_open_file("a", 0, &s, NULL), 0);
	cr_assert_eq(img_storage_fault(s, fault, &s), 0);
	cr_assert_eq(img_open_storage(s, "a", &o, &img, NULL), 0);
	return img;
}

/* A change that may fail: it is what it was then, to others too. */
static bool try_role(struct img *img, bool writable)
{
	struct img_error *err = img_error_new();
	int rc = img_set_writable(img, writable, err);
	const struct img_open_options o = { .format = img_format(img) };

	cr_assert_eq(img_is_writable(img), rc ? !writable : writable);
	cr_assert(!rc || img_error_text(err)[0]);
	if (img_is_writable(img))
		cr_assert_eq(must_fail("a", &o, NULL), -EAGAIN);
	else
		must_close(must_open("a", img_format(img), 0));
	img_error_free(err);
	return !rc;
}

/*
 * Each request of a change fails once, to writable and back, with something written in between. The
 * image goes on as it was; at the next attempt the change is made, and what was written is there.
 */
static void fail_each(const struct kind *k, const uint8_t *model, bool unclean)
{
	for (uint64_t at = 0;; at++) {
		struct img_fault fault = { .ops = (0x1f & ~(1u << IMG_IO_SYNC)) | IMG_FAULT_RESIZE |
						  IMG_FAULT_SET_WRITABLE,
					   .at = UINT64_MAX,
					   .rc = -EIO };
		uint8_t *now = malloc(DISK);
		bool to, back;
		struct img *img;

		memcpy(now, model, DISK);
		run("cp kept a");
		if (unclean)
			run("printf '\\001' | dd of=a bs=1 seek=79 conv=notrunc 2>said");
		img = open_behind(&fault, k->format);
		fault.at = atomic_load(&fault.count) + at;
		to = try_role(img, true);
		fault.at = UINT64_MAX;
		check_content(img, now);
		if (!to)
			set_role(img, true);
		put(img, 1 << 20, 0x77, 300000);
		memset(now + (1 << 20), 0x77, 300000);
		fault.at = atomic_load(&fault.count) + at;
		back = try_role(img, false);
		fault.at = UINT64_MAX;
		check_content(img, now);
		if (!back) {
			put(img, 3 << 20, 0x78, 5000); /* it is what it was: writable */
			memset(now + (3 << 20), 0x78, 5000);
			set_role(img, false);
		}
		check_content(img, now);
		check_file("a", k->format, now);
		must_close(img);
		check_file("a", k->format, now);
		free(now);
		if (to && back)
			break;
		cr_assert_lt(at, 1000);
	}
}

/* After a sync that failed nobody knows what is on disk: such an image never becomes read-only. */
static void fail_sync(const struct kind *k)
{
	struct img_fault fault = { .ops = 1u << IMG_IO_SYNC, .at = UINT64_MAX, .rc = -EIO };
	struct img *img;
	int code;

	run("cp kept a");
	img = open_behind(&fault, k->format);
	set_role(img, true);
	put(img, 1 << 20, 0x77, 300000);
	fault.at = atomic_load(&fault.count);
	cr_assert(!try_role(img, false));
	cr_assert_eq(byte_at(img, 1 << 20), 0x77);
	fault.at = UINT64_MAX;
	cr_assert(!try_role(img, false));
	put(img, 1 << 20, 0x78, 512);
	cr_assert_lt(img_close(img, NULL), 0);
	code = strcmp(k->format, "qcow2") ? 0 : quiet("qemu-img check -f qcow2 a");
	cr_assert(!code || WEXITSTATUS(code) == 3, "leaks at most");
}

Test(reopen, any_request_of_a_change_may_fail)
{
	static const struct kind own[] = { { "raw", NULL, NULL },
					   { "qcow2", NULL, NULL },
					   { "qcow2", "cluster_size=4k", NULL },
					   { "vmdk", NULL, NULL } };

	need_qemu();
	for (size_t i = 0; i < COUNT(own); i++) {
		uint8_t *model = calloc(1, DISK);
		struct img *img;

		make_kind(&own[i]);
		img = must_open("a", own[i].format, IMG_OPEN_WRITE);
		put(img, 0, 1, 2 << 20);
		memset(model, 1, 2 << 20);
		must_close(img);
		run("cp a kept");
		fail_each(&own[i], model, false);
		if (!strcmp(own[i].format, "qcow2"))
			fail_each(&own[i], model, true);
		fail_sync(&own[i]);
		free(model);
	}
}

/* ---- Another backing image ---- */

static struct img *set_below(struct img *img, struct img *backing)
{
	struct img_error *err = img_error_new();
	struct img *removed = (struct img *)&removed;

	cr_assert_eq(img_set_backing(img, backing, &removed, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_backing(img), backing);
	img_error_free(err);
	return removed;
}

static void refuse_below(struct img *img, struct img *backing, int want)
{
	struct img *removed = img, *before = img_backing(img);
	struct img_error *err = img_error_new();

	cr_assert_eq(img_set_backing(img, backing, &removed, err), want, "%s", img_error_text(err));
	cr_assert_neq(img_error_text(err)[0], '\0');
	cr_assert_eq(removed, img, "it is left alone");
	cr_assert_eq(img_backing(img), before);
	img_error_free(err);
}

/* The report tells what the file says, and what is open. */
static void check_report(struct img *img, const char *open)
{
	struct img_value *info;

	cr_assert_eq(img_info(img, &info, NULL), 0);
	cr_assert_str_eq(img_value_string(img_value_get(info, "backing-filename")), "a");
	cr_assert_str_eq(img_value_string(img_value_get(info, "full-backing-filename")), open);
	img_value_free(info);
}

Test(reopen, another_backing_image)
{
	struct img *top, *removed, *b;

	make_raw("a", 1);
	make_raw("b", 2);
	make_image("b.qcow2", "qcow2", 0, "b", "raw");
	make_image("top", "qcow2", 0, "a", "raw");
	top = must_open("top", "qcow2", IMG_OPEN_WRITE);
	put(top, STEP, 9, 512);
	cr_assert_eq(byte_at(top, 0), 1);
	b = must_open("b.qcow2", "qcow2", 0);
	removed = set_below(top, b);
	cr_assert_str_eq(img_name(removed), "a");
	cr_assert_eq(byte_at(removed, 0), 1, "it is an image of its own again");
	must_close(removed);
	cr_assert_eq(byte_at(top, 0), 2);
	cr_assert_eq(byte_at(top, STEP), 9);
	cr_assert_eq(byte_at(top, STEP + 512), 1, "it was copied when the unit was written to");
	/* what is written now is filled from the new one */
	put(top, 3 * STEP, 9, 512);
	cr_assert_eq(byte_at(top, 3 * STEP + 512), 2);

	/* the same again: nothing is done */
	cr_assert_null(set_below(top, b));
	check_report(top, "b.qcow2");
	removed = set_below(top, NULL);
	check_report(top, "a");
	cr_assert_eq(removed, b);
	cr_assert_eq(byte_at(top, 0), 0);
	cr_assert_eq(byte_at(removed, 0), 2, "with its own backing image");
	cr_assert_null(set_below(top, NULL));
	must_close(removed);
	cr_assert_null(set_below(top, must_open("a", "raw", 0)));
	cr_assert_eq(byte_at(top, 0), 1);
	must_close(top);
	/* the file says what it said */
	top = must_open("top", "qcow2", 0);
	cr_assert_str_eq(img_name(img_backing(top)), "a");
	must_close(top);
}

/* Of a chain of five, in every place. */
Test(reopen, images_are_taken_out_of_a_chain)
{
	for (int from = 0; from < 4; from++) {
		for (int to = from + 1; to < 5; to++) {
			struct img *level[5], *removed;

			make_raw("4", 4);
			for (int i = 3; i >= 0; i--) {
				char name[2] = { (char)('0' + i) }, below[2] = { (char)('1' + i) };

				make_image(name, "qcow2", 0, below, i == 3 ? "raw" : "qcow2");
			}
			level[0] = must_open("0", "qcow2", 0);
			for (int i = 0; i < 4; i++)
				level[i + 1] = img_backing(level[i]);
			for (int i = 0; i < 4; i++) {
				set_role(level[i], true);
				put(level[i], (uint64_t)i * STEP, (uint8_t)(10 + i), STEP);
				set_role(level[i], false);
			}
			for (int i = 0; i < 4; i++)
				cr_assert_eq(byte_at(level[0], (uint64_t)i * STEP), 10 + i);
			removed = set_below(level[from], level[to]);
			for (int i = 0; i < 4; i++)
				cr_assert_eq(byte_at(level[0], (uint64_t)i * STEP),
					     i > from && i < to ? 4 : 10 + i);
			if (to == from + 1) {
				cr_assert_null(removed);
			} else {
				cr_assert_eq(removed, level[from + 1]);
				cr_assert_eq(byte_at(removed, (uint64_t)(to - 1) * STEP), 10 + to - 1);
				cr_assert_eq(byte_at(removed, (uint64_t)from * STEP), 0, "nothing below");
				cr_assert_null(img_backing(level[to - 1]));
				must_close(removed);
			}
			cr_assert_eq(byte_at(level[0], DISK - 1), 4);
			must_close(level[0]);
		}
	}
}

/* A new image above one that is open: what it does not have comes from there. */
Test(reopen, an_image_gets_one_above_it)
{
	struct img *old, *top, *chain;

	make_raw("base", 1);
	make_image("old", "qcow2", 0, "base", "raw");
	old = must_open("old", "qcow2", IMG_OPEN_WRITE);
	put(old, 0, 2, STEP);
	make_image("top", "qcow2", DISK, "old", "qcow2");
	top = must_open("top", "qcow2", IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
	cr_assert_eq(byte_at(top, 0), 0);
	cr_assert_null(set_below(top, old));
	set_role(old, false);
	cr_assert_eq(byte_at(top, 0), 2);
	cr_assert_eq(byte_at(top, STEP), 1);
	put(top, 2 * STEP, 3, 512);
	must_close(top);
	chain = must_open("top", "qcow2", 0);
	cr_assert_eq(byte_at(chain, 2 * STEP), 3);
	cr_assert_eq(byte_at(chain, 2 * STEP + 512), 1);
	must_close(chain);
}

Test(reopen, shorter_and_longer_backing_images)
{
	struct img *top;

	make_raw("a", 1);
	make_file("short", "s", 1, STEP);
	run("truncate -s 64M long && printf l | dd of=long conv=notrunc 2>said");
	make_image("top", "qcow2", 0, "a", "raw");
	top = must_open("top", "qcow2", 0);
	cr_assert_eq(byte_at(top, DISK - 1), 1);
	must_close(set_below(top, must_open("short", "raw", 0)));
	cr_assert_eq(byte_at(top, 0), 's');
	cr_assert_eq(byte_at(top, DISK - 1), 0);
	must_close(set_below(top, must_open("long", "raw", 0)));
	cr_assert_eq(byte_at(top, 0), 'l');
	cr_assert_eq(img_size(top), DISK);
	must_close(top);
}

Test(reopen, backing_images_that_are_refused)
{
	struct img *top, *mid, *raw, *again, *above;
	struct img_create_options o = { .format = "qcow2", .size = DISK, .have_size = true };

	make_raw("a", 1);
	make_image("mid", "qcow2", 0, "a", "raw");
	make_image("top", "qcow2", 0, "mid", "qcow2");
	top = must_open("top", "qcow2", 0);
	mid = img_backing(top);
	raw = must_open("a", "raw", 0);
	refuse_below(raw, mid, -ENOTSUP);
	refuse_below(top, top, -ELOOP);
	refuse_below(mid, top, -ELOOP);
	refuse_below(mid, mid, -ELOOP);
	/* the same file, opened once more */
	again = must_open("top", "qcow2", 0);
	refuse_below(mid, again, -ELOOP);
	refuse_below(top, again, -ELOOP);
	must_close(again);
	/* a chain that leads back further down */
	make_image("above", "qcow2", 0, "top", "qcow2");
	above = must_open("above", "qcow2", 0);
	refuse_below(mid, above, -ELOOP);
	must_close(above);
	/* one that belongs to another already */
	make_image("other", "qcow2", DISK, NULL, NULL);
	again = must_open("other", "qcow2", 0);
	refuse_below(again, mid, -EBUSY);
	must_close(again);
	again = must_open("other", "qcow2", IMG_OPEN_CHECK);
	refuse_below(top, again, -EINVAL);
	refuse_below(again, raw, -EINVAL);
	must_close(again);
	again = must_open("other", "qcow2", IMG_OPEN_SELF_ONLY);
	refuse_below(top, again, -EINVAL);
	must_close(again);
	cr_assert_eq(img_create_begin("new", &o, &again, NULL), 0);
	refuse_below(top, again, -EBUSY);
	must_close(again);
	cr_assert_eq(byte_at(top, 0), 1);
	must_close(raw);
	must_close(top);
}

Test(reopen, chains_have_a_limit)
{
	struct img *half, *other, *i;
	char name[20], below[20] = "a";

	make_raw("a", 1);
	for (int n = 0; n < 2 * 130; n++) {
		snprintf(name, sizeof(name), "%c%d", n < 130 ? 'l' : 'r', n);
		make_image(name, "qcow2", DISK, n == 130 ? NULL : below,
			   n == 130 ? NULL : n ? "qcow2"
					       : "raw");
		memcpy(below, name, sizeof(below));
	}
	other = must_open("l129", "qcow2", 0); /* 131 images */
	half = must_open("r259", "qcow2", 0);  /* 130 */
	for (i = half; img_backing(i);)
		i = img_backing(i);
	refuse_below(i, other, -ELOOP);
	/* 125 and 131 are as many as there may be, and one more is too many */
	for (int depth = 126; depth >= 125; depth--) {
		i = half;
		for (int k = 1; k < depth; k++)
			i = img_backing(i);
		if (depth == 126)
			refuse_below(i, other, -ELOOP);
	}
	must_close(set_below(i, other));
	cr_assert_eq(byte_at(half, 0), 1);
	must_close(half);
}

Test(reopen, vmdk_compares_content_ids)
{
	struct img_create_options o = { .format = "vmdk", .backing_name = "a.vmdk", .backing_format = "vmdk" };
	struct img *child, *other;

	make_image("a.vmdk", "vmdk", DISK, NULL, NULL);
	make_image("b.vmdk", "vmdk", DISK, NULL, NULL);
	other = must_open("b.vmdk", "vmdk", IMG_OPEN_WRITE);
	put(other, 0, 5, 512); /* another content, another ID */
	must_close(other);
	run("cp a.vmdk copy.vmdk");
	cr_assert_eq(img_create("child.vmdk", &o, NULL), 0);
	child = must_open("child.vmdk", "vmdk", 0);
	refuse_below(child, NULL, -EINVAL);
	other = must_open("b.vmdk", "vmdk", 0);
	refuse_below(child, other, -EUCLEAN);
	must_close(other);
	must_close(set_below(child, must_open("copy.vmdk", "vmdk", 0)));
	cr_assert_eq(byte_at(child, 0), 0);
	must_close(child);
}

/* ---- Beside others ---- */

/* Reads all over the disk, several at a time, as long as wanted; each STEP has one value of its own. */
struct other {
	pthread_t thread;
	struct img *img;
	enum img_io_kind kind;
	const uint8_t *low, *high; /* of each STEP: allowed values, from low to high */
	bool maps;
	_Atomic bool stop;
	unsigned done, bad;
};

enum { LANES = 8 };

struct lane {
	struct other *o;
	uint64_t off;
	struct iovec iov;
	uint8_t *buf;
	bool busy;
};

static void lane_done(void *user, int rc, const struct img_error *err)
{
	struct lane *l = user;
	uint64_t step = l->off / STEP;

	(void)err;
	l->busy = false;
	l->o->done++;
	l->o->bad += rc != 0;
	for (size_t i = 0; !rc && i < STEP; i += 512)
		if (l->buf[i] < l->o->low[step] || l->buf[i] > l->o->high[step]) {
			l->o->bad++;
			break;
		}
}

static void *read_on(void *arg)
{
	struct other *o = arg;
	struct lane lanes[LANES];
	struct img_queue *q;
	uint32_t state = 12345;

	cr_assert_eq(img_queue_new(o->kind, &q, NULL), 0);
	for (int i = 0; i < LANES; i++)
		lanes[i] = (struct lane){ .o = o, .buf = malloc(STEP) };
	while (!atomic_load(&o->stop)) {
		struct img_map_entry e;

		for (int i = 0; i < LANES; i++) {
			struct lane *l = &lanes[i];
			int rc;

			if (l->busy)
				continue;
			state = state * 1103515245 + 12345;
			l->off = (state >> 8) % (DISK / STEP) * STEP;
			l->iov = (struct iovec){ l->buf, STEP };
			l->busy = true;
			rc = img_submit_readv(q, o->img, l->off, &l->iov, 1, 0, lane_done, l, NULL);
			cr_assert_eq(rc, 0);
		}
		img_queue_run(q, true);
		if (o->maps && (img_map(o->img, lanes[0].off, STEP, true, &e, NULL) || !e.length))
			o->bad++;
	}
	while (img_queue_in_flight(q))
		img_queue_run(q, true);
	for (int i = 0; i < LANES; i++)
		free(lanes[i].buf);
	img_queue_free(q);
	return NULL;
}

static void start_others(struct other *o, size_t n, struct img *img, const uint8_t *low,
			 const uint8_t *high)
{
	for (size_t i = 0; i < n; i++) {
		o[i] = (struct other){ .img = img,
				       .kind = i % 2 ? IMG_IO_THREADS : IMG_IO_AUTO,
				       .low = low,
				       .high = high,
				       .maps = i % 3 == 1 };
		cr_assert_eq(pthread_create(&o[i].thread, NULL, read_on, &o[i]), 0);
	}
}

static void end_others(struct other *o, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		atomic_store(&o[i].stop, true);
		pthread_join(o[i].thread, NULL);
		cr_assert_gt(o[i].done, 0);
		cr_assert_eq(o[i].bad, 0, "%u of %u", o[i].bad, o[i].done);
	}
}

/* Each level becomes writable, is written to and becomes read-only while the top is read. */
Test(reopen, roles_change_beside_readers)
{
	uint8_t low[DISK / STEP], high[DISK / STEP];
	struct other others[3];
	struct img *top, *i;

	make_raw("base", 1);
	make_image("mid", "qcow2", 0, "base", "raw");
	make_image("top", "qcow2", 0, "mid", "qcow2");
	top = must_open("top", "qcow2", 0);
	memset(low, 1, sizeof(low));
	memset(high, 3, sizeof(high));
	start_others(others, COUNT(others), top, low, high);
	for (unsigned n = 0; n < 60; n++) {
		uint64_t off = n * 7 % (DISK / STEP) * STEP;

		i = n % 3 == 0 ? img_backing(img_backing(top)) : n % 3 == 1 ? img_backing(top)
									    : top;
		set_role(i, true);
		put(i, off, (uint8_t)(1 + n % 3), STEP);
		set_role(i, false);
	}
	end_others(others, COUNT(others));
	must_close(top);
}

/* Who writes meanwhile is served or told, whole or not at all below a sector. */
static void *write_on(void *arg)
{
	struct other *o = arg;
	uint8_t *bytes = malloc(STEP);

	memset(bytes, 2, STEP);
	for (unsigned n = 0; !atomic_load(&o->stop); n++) {
		int rc = img_write(o->img, n % (DISK / STEP) * STEP, bytes, STEP, NULL);

		o->done += !rc;
		o->bad += rc && rc != -EROFS;
	}
	free(bytes);
	return NULL;
}

Test(reopen, roles_change_beside_writers)
{
	struct other writers[2] = { 0 };
	struct img *img;

	make_image("a", "qcow2", DISK, NULL, NULL);
	img = must_open("a", "qcow2", IMG_OPEN_WRITE);
	for (size_t i = 0; i < COUNT(writers); i++) {
		writers[i].img = img;
		cr_assert_eq(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]), 0);
	}
	for (int n = 0; n < 60; n++) {
		set_role(img, n % 2);
		usleep(2000);
	}
	for (size_t i = 0; i < COUNT(writers); i++) {
		atomic_store(&writers[i].stop, true);
		pthread_join(writers[i].thread, NULL);
		cr_assert_gt(writers[i].done, 0);
		cr_assert_eq(writers[i].bad, 0);
	}
	must_close(img);
	if (!system("qemu-img --version >/dev/null 2>&1"))
		cr_assert_eq(quiet("qemu-img check -f qcow2 a"), 0);
}

/* The old chain is closed at once each time: nobody uses it any more. */
Test(reopen, backing_images_change_beside_readers)
{
	uint8_t low[DISK / STEP], high[DISK / STEP];
	struct other others[3];
	struct img *top, *mid;

	make_raw("a", 1);
	make_raw("b", 2);
	make_image("qa", "qcow2", 0, "a", "raw");
	make_image("qb", "qcow2", 0, "b", "raw");
	make_image("mid", "qcow2", 0, "a", "raw");
	make_image("top", "qcow2", 0, "mid", "qcow2");
	top = must_open("top", "qcow2", IMG_OPEN_WRITE);
	mid = img_backing(top);
	memset(low, 1, sizeof(low));
	memset(high, 2, sizeof(high));
	put(top, 5 * STEP, 9, STEP);
	low[5] = high[5] = 9;
	start_others(others, COUNT(others), top, low, high);
	for (unsigned n = 0; n < 100; n++) {
		static const char *const names[] = { "a", "qb", "b", "qa" };
		const char *name = names[n % 4];
		struct img *next = must_open(name, *name == 'q' ? "qcow2" : "raw", 0);

		must_close(set_below(mid, next));
		/* below the top, beside plans of its own */
		put(top, (6 + n % 8) * STEP + 512, (uint8_t)(1 + n % 2), 512);
	}
	end_others(others, COUNT(others));
	must_close(top);
}

/* Content moves down and the level goes, again and again, while the top is read. */
Test(reopen, levels_go_beside_readers)
{
	uint8_t value[DISK / STEP];
	struct other others[3];
	struct img *top, *base;

	make_raw("base", 1);
	make_image("top", "qcow2", 0, "base", "raw");
	top = must_open("top", "qcow2", 0);
	base = img_backing(top);
	memset(value, 1, sizeof(value));
	start_others(others, COUNT(others), top, value, value);
	for (unsigned n = 0; n < 40; n++) {
		struct img *mid;

		make_image("mid", "qcow2", DISK, "base", "raw");
		mid = must_open("mid", "qcow2", IMG_OPEN_NO_BACKING | IMG_OPEN_WRITE);
		put(mid, 0, 1, DISK); /* the same content, so that it can come and go */
		set_role(mid, false);
		cr_assert_eq(set_below(top, mid), base);
		cr_assert_null(set_below(mid, base));
		cr_assert_eq(set_below(top, base), mid);
		must_close(mid);
	}
	end_others(others, COUNT(others));
	must_close(top);
}

/* ---- What a commit needs, by public calls alone ---- */

static void commit(struct img *top)
{
	struct img *base = img_backing(top);
	uint64_t size = img_size(top), off;
	uint8_t *buf = malloc(1 << 20);

	set_role(base, true);
	if (img_size(base) < size)
		cr_assert_eq(img_resize(base, size, IMG_PREALLOCATE_OFF, NULL), 0);
	for (off = 0; off < size;) {
		struct img_map_entry e;

		cr_assert_eq(img_map(top, off, min_u64(size - off, 1 << 20), false, &e, NULL), 0);
		if (e.present && e.zero) {
			cr_assert_eq(img_zero(base, off, e.length, NULL), 0);
		} else if (e.present) {
			cr_assert_eq(img_read(top, off, buf, e.length, NULL), 0);
			cr_assert_eq(img_write(base, off, buf, e.length, NULL), 0);
		}
		off += e.length;
	}
	cr_assert_eq(img_flush(base, NULL), 0);
	free(buf);
}

Test(reopen, commit_by_public_calls)
{
	static const char *const formats[] = { "raw", "qcow2" };

	need_qemu();
	for (size_t k = 0; k < 2 * COUNT(formats); k++) {
		const char *format = formats[k / 2];
		bool keep = k % 2;
		uint8_t *model = calloc(1, DISK);
		struct img *top, *base, *removed;

		make_image("base", format, DISK / 2, NULL, NULL);
		cr_assert_eq(quiet("qemu-io -f %s -c 'write -P 1 0 2M' base", format), 0);
		memset(model, 1, DISK / 2);
		make_image("top", "qcow2", DISK, "base", format);
		top = must_open("top", "qcow2", IMG_OPEN_WRITE);
		put(top, 100000, 2, 300000);
		memset(model + 100000, 2, 300000);
		cr_assert_eq(img_zero(top, 1 << 20, STEP, NULL), 0);
		memset(model + (1 << 20), 0, STEP);
		put(top, DISK - 5 * 512, 3, 512);
		memset(model + DISK - 5 * 512, 3, 512);
		commit(top);
		base = img_backing(top);
		if (keep) { /* the top stays, empty */
			cr_assert_eq(img_make_empty(top, NULL), 0);
			set_role(base, false);
			check_content(top, model);
			must_close(top);
			check_file("top", "qcow2", model);
		} else { /* the top goes, and who used it uses the base */
			set_role(base, false);
			removed = set_below(top, NULL);
			cr_assert_eq(removed, base);
			must_close(top);
			set_role(base, true);
			check_content(base, model);
			must_close(base);
		}
		check_file("base", format, model);
		free(model);
	}
}

/* A format whose children know their parent by its content is told that this is another one now. */
Test(reopen, commit_to_a_vmdk)
{
	uint8_t *model = calloc(1, DISK);
	struct img *top, *base, *again, *removed = NULL;

	need_qemu();
	make_image("base", "vmdk", DISK, NULL, NULL);
	cr_assert_eq(quiet("qemu-io -f vmdk -c 'write -P 1 0 2M' base"), 0);
	memset(model, 1, DISK / 2);
	make_image("top", "vmdk", 0, "base", "vmdk");
	top = must_open("top", "vmdk", IMG_OPEN_WRITE);
	put(top, 100000, 2, 300000);
	memset(model + 100000, 2, 300000);
	base = img_backing(top);
	commit(top);
	cr_assert_eq(img_make_empty(top, NULL), 0);
	set_role(base, false);
	check_content(top, model);
	check_file("base", "vmdk", model);
	/* the same file opened once more is not what the child was made for, until it is told */
	again = must_open("base", "vmdk", 0);
	refuse_below(top, again, -EUCLEAN);
	cr_assert_eq(img_set_backing_name(top, "base", "vmdk", NULL), 0);
	cr_assert_eq(img_set_backing(top, again, &removed, NULL), 0);
	cr_assert_eq(removed, base);
	must_close(removed);
	check_content(top, model);
	must_close(top);
	check_file("top", "vmdk", model);
	free(model);
}
