/*
 * Another backing file's name in the header, and giving up all content: what qemu-img says of the
 * image afterwards, what a power cut on the way leaves, what is refused.
 */
#include <pthread.h>

#include "libimg/image/context.h"
#include "tests/formats/qcow2/bench.h"

enum { SIZE = 1 << 20 };
#define LONG_NAME "a-name-that-is-longer-than-the-one-that-was-there-before.qcow2"

static const char *const made_with[] = {
	"cluster_size=64k",
	"cluster_size=512",
	"cluster_size=4k,compat=0.10",
	"cluster_size=512,compat=0.10",
	"cluster_size=16k,extended_l2=on",
	"cluster_size=64k,data_file=data.raw",
};

/* base.raw, other.raw, and an image over the first with some data; the model is the image's disk. */
static void make(struct bench *b, unsigned how, const char *backing)
{
	FILE *f;

	start(b, how + 1, SIZE);
	run(b, "yes base | head -c 1M | dd of=base.raw status=none; yes other | head -c 1M | dd of=other.raw status=none; "
	       "cp other.raw x; qemu-img create -f qcow2 " LONG_NAME " 1M");
	run(b, "qemu-img create -f qcow2 -o %s %s image.qcow2 1M", made_with[how], backing);
	run(b, "qemu-io -f qcow2 -c 'write -P 7 100k 300k' -c 'write -z 600k 64k' image.qcow2");
	run(b, "qemu-img convert -f qcow2 -O raw image.qcow2 model.raw");
	f = fopen(b->model_file, "r");
	cr_assert(f && fread(b->model, 1, SIZE, f) == SIZE && !fclose(f));
}

static void set(struct img *img, const char *name, const char *format)
{
	struct img_error *err = img_error_new();
	int rc = img_set_backing_name(img, name, format, err);

	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	img_error_free(err);
}

/* What qemu-img says of the stored name. */
static void must_be_called(struct bench *b, const char *name, const char *format)
{
	run(b, "qemu-img check -f qcow2 image.qcow2");
	run(b, "qemu-img info -f qcow2 --output=json image.qcow2 | dd of=info.json status=none");
	if (name)
		run(b, "grep -q '\"backing-filename\": \"%s\"' info.json", name);
	else
		run(b, "! grep -q 'backing-filename\"' info.json");
	if (format)
		run(b, "grep -q 'backing-filename-format\": \"%s\"' info.json", format);
	else
		run(b, "! grep -q 'backing-filename-format' info.json");
}

static const struct name {
	const char *name, *format;
} names[] = {
	{ "other.raw", "raw" },
	{ LONG_NAME, "qcow2" },
	{ "x", NULL },
	{ NULL, NULL },
	{ "base.raw", "raw" },
	{ "base.raw", NULL },
	{ "other.raw", "raw" },
};

Test(qcow2_backing, qemu_finds_the_name, .timeout = 60)
{
	if (!have_qemu())
		return;
	for (unsigned how = 0; how < sizeof(made_with) / sizeof(*made_with); how++) {
		struct bench b;

		make(&b, how, how % 2 ? "" : "-b base.raw -F raw");
		for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
			struct img *img = open_image(&b, IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);

			set(img, names[i].name, names[i].format);
			close_image(img);
			must_be_called(&b, names[i].name, names[i].format);
		}
		/* what is the image's own is what it was */
		run(&b, "qemu-img rebase -u -f qcow2 %s image.qcow2",
		    how % 2 ? "-b ''" : "-b base.raw -F raw");
		run(&b, "qemu-img compare -f qcow2 -F raw image.qcow2 model.raw");
		finish(&b);
	}
}

/* Until it is closed the image reads through what was opened. */
Test(qcow2_backing, open_chain_stays, .timeout = 30)
{
	static uint8_t got[SIZE];
	struct bench b;
	struct img *img;

	if (!have_qemu())
		return;
	make(&b, 0, "-b base.raw -F raw");
	img = open_image(&b, IMG_OPEN_WRITE);
	set(img, "other.raw", "raw");
	cr_assert_eq(img_write(img, 0, "new", 3, NULL), 0);
	memcpy(b.model, "new", 3);
	cr_assert_eq(img_read(img, 0, got, SIZE, NULL), 0);
	cr_assert(!memcmp(got, b.model, SIZE));
	close_image(img);
	must_be_called(&b, "other.raw", "raw");
	finish(&b);
}

struct reading {
	struct img *img;
	const uint8_t *model;
	_Atomic bool stop;
	_Atomic bool differs;
};

static void *keep_reading(void *arg)
{
	struct reading *r = arg;
	uint8_t buf[4096];

	for (uint64_t off = 0; !r->stop; off = (off + 28672) % SIZE)
		if (img_read(r->img, off, buf, sizeof(buf), NULL) ||
		    memcmp(buf, r->model + off, sizeof(buf)) != 0)
			r->differs = true;
	return NULL;
}

Test(qcow2_backing, others_read_meanwhile, .timeout = 60)
{
	struct reading r = { 0 };
	struct bench b;
	pthread_t thread;

	if (!have_qemu())
		return;
	make(&b, 0, "-b base.raw -F raw");
	r.img = open_image(&b, IMG_OPEN_WRITE | IMG_OPEN_UNSAFE);
	r.model = b.model;
	cr_assert_eq(pthread_create(&thread, NULL, keep_reading, &r), 0);
	for (int i = 0; i < 200; i++)
		set(r.img, i % 2 ? "base.raw" : "other.raw", i % 3 ? "raw" : NULL);
	r.stop = true;
	pthread_join(thread, NULL);
	cr_assert(!r.differs);
	close_image(r.img);
	finish(&b);
}

/* ---- Emptying ---- */

Test(qcow2_backing, empty_is_the_base, .timeout = 60)
{
	if (!have_qemu())
		return;
	for (unsigned how = 0; how < sizeof(made_with) / sizeof(*made_with); how++) {
		bool snapshot = how % 2 == 0 && !strstr(made_with[how], "data_file");
		struct bench b;
		struct img *img;

		make(&b, how, "-b base.raw -F raw");
		if (snapshot)
			run(&b, "qemu-img snapshot -c kept image.qcow2");
		img = open_image(&b, IMG_OPEN_WRITE);
		cr_assert_eq(img_make_empty(img, NULL), 0);
		cr_assert_eq(img_write(img, 4096, "after", 5, NULL), 0);
		close_image(img);
		run(&b, "printf after | dd of=base.raw bs=1 seek=4096 conv=notrunc");
		run(&b, "qemu-img check -f qcow2 image.qcow2");
		run(&b, "qemu-img compare -f qcow2 -F raw image.qcow2 base.raw");
		run(&b, "test $(qemu-img map -f qcow2 --output=json image.qcow2 | "
			"grep -c '\"depth\": 0') = 1");
		if (snapshot) {
			run(&b, "yes base | head -c 1M | dd of=base.raw status=none");
			run(&b, "qemu-img snapshot -a kept image.qcow2");
			run(&b, "qemu-img check -f qcow2 image.qcow2");
			run(&b, "qemu-img compare -f qcow2 -F raw image.qcow2 model.raw");
		}
		finish(&b);
	}
}

/* ---- Power cuts ---- */

static struct img_storage *copy_of(const uint8_t *bytes, uint64_t len)
{
	struct img_storage *s;

	cr_assert_eq(img_storage_memory("image", len, 16 << 20, &s), 0);
	cr_assert_eq(img_storage_write(s, 0, bytes, len, NULL), 0);
	return s;
}

/* The state after the writes of mask among the first n entries. */
static struct img *after(const struct bench *b, const uint8_t *file, uint64_t len,
			 const struct img_record *r, size_t n, size_t synced, uint64_t mask)
{
	struct img_open_options o = { .format = "qcow2",
				      .flags = IMG_OPEN_NO_BACKING | IMG_OPEN_CHECK };
	struct img_storage *s = copy_of(file, len);
	struct img_check_result result = { 0 };
	struct img *img = NULL;

	for (size_t i = 0; i < n; i++) {
		const struct img_record_entry *e = img_record_at(r, i);

		if (i >= synced && !(mask >> (i - synced) % 64 & 1))
			continue;
		if (e->kind == IMG_RECORD_WRITE)
			cr_assert_eq(img_storage_write(s, e->off, e->data, e->len, NULL), 0);
		else if (e->kind == IMG_RECORD_ZERO)
			cr_assert_eq(img_storage_zero(s, e->off, e->len, NULL), 0);
		else if (e->kind == IMG_RECORD_RESIZE)
			cr_assert_eq(img_storage_resize(s, e->len, IMG_PREALLOCATE_OFF, NULL), 0);
	}
	cr_assert_eq(img_open_storage(s, b->image, &o, &img, NULL), 0);
	cr_assert_eq(img_check(img, 0, NULL, NULL, &result, NULL), 0);
	cr_assert_eq(result.corruptions + result.check_errors, 0);
	return img;
}

/* Each 512 bytes of the disk are as in one of the two. */
static void must_read_as(struct img *img, const uint8_t *one, const uint8_t *other)
{
	static uint8_t got[SIZE];

	cr_assert_eq(img_read(img, 0, got, SIZE, NULL), 0);
	for (size_t off = 0; off < SIZE; off += 512)
		cr_assert(!memcmp(got + off, one + off, 512) ||
				  !memcmp(got + off, other + off, 512),
			  "something else at %zu", off);
}

static void cut(unsigned how, bool empties, const char *old, const char *name)
{
	struct img_open_options o = { .format = "qcow2",
				      .flags = IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING };
	static const uint8_t zeroes[SIZE];
	static uint8_t file[16 << 20], own[SIZE];
	struct img_record *record = img_record_new();
	struct img_storage *s;
	struct bench b;
	struct img *img;
	uint64_t len;
	size_t synced = 0;
	FILE *f;

	make(&b, how, old);
	f = fopen(b.image, "r");
	cr_assert(f);
	len = fread(file, 1, sizeof(file), f);
	fclose(f);
	cr_assert_eq(img_storage_record(copy_of(file, len), record, &s), 0);
	cr_assert_eq(img_open_storage(s, b.image, &o, &img, NULL), 0);
	cr_assert_eq(img_read(img, 0, own, SIZE, NULL), 0);
	if (empties)
		cr_assert_eq(img_make_empty(img, NULL), 0);
	else
		set(img, name, name ? "qcow2" : NULL);
	close_image(img);
	for (size_t n = 0; n <= img_record_count(record); n++) {
		if (n && img_record_at(record, n - 1)->kind == IMG_RECORD_SYNC)
			synced = n;
		for (int k = 0; k < 8; k++) {
			uint64_t mask = k ? next_random(&b) : UINT64_MAX;
			const char *got;

			img = after(&b, file, len, record, n, synced, mask);
			must_read_as(img, own, empties ? zeroes : own);
			got = img->backing_name ? img->backing_name : "";
			cr_assert(!strcmp(got, *old ? "base.raw" : "") ||
					  (!empties && !strcmp(got, name ? name : "")),
				  "%s", got);
			if (!strcmp(got, "base.raw"))
				cr_assert_str_eq(img->backing_format, "raw");
			close_image(img);
		}
	}
	img_record_free(record);
	finish(&b);
}

Test(qcow2_backing, power_cuts, .timeout = 100)
{
	if (!have_qemu())
		return;
	for (unsigned how = 0; how < 5; how++) {
		cut(how, false, "-b base.raw -F raw", "another-name.qcow2");
		cut(how, false, "-b base.raw -F raw", "y");
		cut(how, false, "-b base.raw -F raw", NULL);
		cut(how, false, "", "another-name.qcow2");
		cut(how, true, "-b base.raw -F raw", NULL);
	}
}

/* ---- Refusals ---- */

static void refused(struct img *img, int rc, const char *name, const char *format)
{
	cr_assert_eq(img_set_backing_name(img, name, format, NULL), rc, "%s", name);
}

Test(qcow2_backing, refusals, .timeout = 30)
{
	char long_name[1100];
	struct bench b;
	struct img *img;

	if (!have_qemu())
		return;
	make(&b, 1, "-b base.raw -F raw");
	memset(long_name, 'n', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	img = open_image(&b, 0);
	refused(img, -EROFS, "other.raw", "raw");
	cr_assert_eq(img_make_empty(img, NULL), -EROFS);
	close_image(img);
	run(&b, "ln -s image.qcow2 link; ln image.qcow2 hard");
	img = open_image(&b, IMG_OPEN_WRITE);
	refused(img, -ELOOP, "image.qcow2", "qcow2");
	refused(img, -ELOOP, "./link", NULL);
	refused(img, -ELOOP, "hard", NULL);
	refused(img, -ELOOP, b.image, NULL);
	refused(img, -EINVAL, "other.raw", "no-such-format");
	refused(img, -EINVAL, NULL, "raw");
	refused(img, -EINVAL, long_name, "raw");
	long_name[450] = '\0'; /* more than a cluster of 512 bytes has room for */
	refused(img, -ENOSPC, long_name, "raw");
	close_image(img);
	must_be_called(&b, "base.raw", "raw");
	run(&b, "qemu-img compare -f qcow2 -F raw image.qcow2 model.raw");
	run(&b, "qemu-img create -f qcow2 -o data_file=d.raw,data_file_raw=on image.qcow2 1M");
	img = open_image(&b, IMG_OPEN_WRITE);
	refused(img, -ENOTSUP, "other.raw", "raw");
	cr_assert_eq(img_make_empty(img, NULL), -ENOTSUP);
	close_image(img);
	finish(&b);
}
