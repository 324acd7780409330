/*
 * Conversions as a library call: what is refused before anything is written, and what is left behind.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/error.h"
#include "libimg/img.h"
#include "tests/support/scratch.h"

enum { SIZE = 1 << 20 };

static char folder[SCRATCH_PATH], a[SCRATCH_PATH + 2], b[SCRATCH_PATH + 2];

static void make_folder(void)
{
	FILE *f;

	cr_assert(scratch_make(folder, "convert-test"));
	snprintf(a, sizeof(a), "%s/a", folder);
	snprintf(b, sizeof(b), "%s/b", folder);
	f = fopen(a, "wb");
	cr_assert_not_null(f);
	for (int i = 0; i < SIZE; i++)
		fputc(i < 4096 ? 'x' : 0, f);
	fclose(f);
}

static void remove_folder(void)
{
	cr_assert(scratch_remove(folder));
}

TestSuite(convert, .init = make_folder, .fini = remove_folder, .timeout = 60);

static struct img *open_at(const char *options, unsigned flags)
{
	struct img_open_options o = { .flags = flags | IMG_OPEN_NO_LOCK };
	struct img_error err = { 0 };
	struct img_node *node = NULL;
	struct img *img = NULL;

	cr_assert_eq(img_node_parse_options(options, &node, &err), 0, "%s", img_error_text(&err));
	cr_assert_eq(img_open_node(node, &o, &img, &err), 0, "%s", img_error_text(&err));
	img_node_free(node);
	return img;
}

static struct img *open_raw(const char *path, const char *more, unsigned flags)
{
	char text[160];

	snprintf(text, sizeof(text), "driver=raw,file.filename=%s%s", path, more);
	return open_at(text, flags);
}

static void fails(const struct img_convert_options *o, int rc, enum img_convert_stage stage,
		  const char *why)
{
	struct img_error err = { 0 };
	enum img_convert_stage at;

	cr_assert_eq(img_convert(o, &at, &err), rc, "%s", img_error_text(&err));
	cr_assert_eq(at, stage);
	cr_assert(strstr(img_error_text(&err), why), "%s", img_error_text(&err));
	img_error_clear(&err);
}

static bool stop(void *user, uint64_t done, uint64_t total)
{
	(void)user;
	(void)done;
	(void)total;
	return true;
}

Test(convert, to_new_images)
{
	static const char *const formats[] = { "raw", "qcow2", "vmdk" };
	struct img *source = open_raw(a, "", 0), *target;

	for (size_t i = 0; i < 3; i++) {
		struct img_convert_options o = { .sources = &source, .source_count = 1, .path = b };
		struct img_compare_result same;
		char text[128];

		o.create.format = formats[i];
		o.copy.progress = stop;
		fails(&o, -ECANCELED, IMG_CONVERT_COPY, "interrupted");
		cr_assert_neq(access(b, F_OK), 0);
		o.copy.progress = NULL;
		cr_assert_eq(img_convert(&o, NULL, NULL), 0);
		snprintf(text, sizeof(text), "driver=%s,file.filename=%s", formats[i], b);
		target = open_at(text, 0);
		cr_assert_eq(img_compare(source, target, NULL, &same, NULL), 0);
		cr_assert(same.identical);
		img_close(target, NULL);
		unlink(b);
	}
	img_close(source, NULL);
}

Test(convert, what_makes_no_sense)
{
	struct img *sources[2] = { open_raw(a, "", 0), NULL };
	struct img_convert_options o = { .create.format = "raw" }, bad;

	sources[1] = sources[0];
	fails(&o, -EINVAL, IMG_CONVERT_CHECK, "needs sources");
	o.sources = sources;
	o.source_count = 1;
	fails(&o, -EINVAL, IMG_CONVERT_CHECK, "one target");
	o.path = a;
	fails(&o, -EINVAL, IMG_CONVERT_CHECK, "belongs to the source");
	o.path = b;
	bad = o;
	bad.reserved[3] = 1;
	fails(&bad, -EINVAL, IMG_CONVERT_CHECK, "reserved");
	bad = o;
	bad.to_fd = true;
	fails(&bad, -EINVAL, IMG_CONVERT_CHECK, "one target");
	bad = o;
	bad.create.compress = true;
	fails(&bad, -ENOTSUP, IMG_CONVERT_CHECK, "Compression");
	bad = o;
	bad.create.backing_name = a;
	fails(&bad, -ENOTSUP, IMG_CONVERT_CHECK, "Backing file not supported");
	bad.create.format = "qcow2";
	fails(&bad, -EINVAL, IMG_CONVERT_CHECK, "backing format");
	bad.source_count = 2;
	fails(&bad, -EINVAL, IMG_CONVERT_CHECK, "multiple");
	cr_assert_neq(access(b, F_OK), 0);
	img_close(sources[0], NULL);
}

Test(convert, into_windows_of_its_source)
{
	struct img *source = open_raw(a, ",offset=0,size=8192", 0), *target;
	struct img_convert_options o = { .sources = &source, .source_count = 1 };
	char got[8192];

	o.target = target = open_raw(a, ",offset=4096,size=8192", IMG_OPEN_WRITE);
	fails(&o, -EINVAL, IMG_CONVERT_CHECK, "belongs to the source");
	img_close(target, NULL);
	o.target = target = open_raw(a, ",offset=8192,size=4096", IMG_OPEN_WRITE);
	fails(&o, -ENOSPC, IMG_CONVERT_CHECK, "do not fit");
	img_close(target, NULL);
	o.target = target = open_raw(a, ",offset=8192,size=8192", IMG_OPEN_WRITE);
	cr_assert_eq(img_convert(&o, NULL, NULL), 0);
	cr_assert_eq(img_read(target, 0, got, sizeof(got), NULL), 0);
	cr_assert(got[0] == 'x' && got[4095] == 'x' && !got[4096] && !got[8191]);
	cr_assert_eq(img_close(target, NULL), 0);
	img_close(source, NULL);
}

static struct img *open_over(const char *path, unsigned offset, unsigned flags)
{
	char text[400];

	snprintf(text, sizeof(text),
		 "driver=qcow2,file.filename=%s,backing.driver=raw,backing.offset=%u,backing.size=8192,"
		 "backing.file.filename=%s",
		 path, offset, a);
	return open_at(text, flags);
}

/* Two windows of one file are two disks: what the one shows is no part of the other. */
Test(convert, windows_as_backing_images)
{
	struct img_create_options create = { .format = "qcow2", .have_size = true, .size = 8192 };
	struct img_copy_options copy = { .share_backing = true };
	char c[SCRATCH_PATH + 2], got[8192];

	snprintf(c, sizeof(c), "%s/c", folder);
	for (unsigned offset = 0; offset <= 8192; offset += 8192) {
		struct img *source, *target;

		cr_assert_eq(img_create(b, &create, NULL), 0);
		cr_assert_eq(img_create(c, &create, NULL), 0);
		source = open_over(b, 0, 0);
		target = open_over(c, offset, IMG_OPEN_WRITE);
		cr_assert_eq(img_copy(&source, 1, target, &copy, NULL), 0);
		cr_assert_eq(img_read(target, 0, got, sizeof(got), NULL), 0);
		for (unsigned i = 0; i < sizeof(got); i++)
			cr_assert_eq(got[i], i < 4096 ? 'x' : 0, "%u", i);
		cr_assert_eq(img_close(target, NULL), 0);
		img_close(source, NULL);
		unlink(b);
		unlink(c);
	}
}
