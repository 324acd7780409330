/*
 * raw, by way of the public calls: sizes, reading, writing, holes, creating, resizing.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/img.h"
#include "tests/support/scratch.h"

static char dir[SCRATCH_PATH];
static char path[PATH_MAX];

static void setup(void)
{
	cr_assert(scratch_make(dir, "img-raw"));
	snprintf(path, sizeof(path), "%s/disk", dir);
}

static void teardown(void)
{
	cr_assert(scratch_remove(dir));
}

TestSuite(raw, .init = setup, .fini = teardown, .timeout = 20);

/* A file of size bytes: a hole, with text at off. */
static void make_file(uint64_t size, uint64_t off, const char *text)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)size), 0);
	cr_assert_eq(pwrite(fd, text, strlen(text), (off_t)off), (ssize_t)strlen(text));
	close(fd);
}

static struct img *open_raw(unsigned flags)
{
	struct img_open_options o = { .format = "raw", .flags = flags };
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	cr_assert_eq(img_open(path, &o, &img, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	return img;
}

static off_t file_size(void)
{
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	return st.st_size;
}

Test(raw, size_is_rounded_up_and_the_tail_is_zero)
{
	char buf[1024], zero[24] = { 0 };
	struct img *img;

	make_file(1000, 995, "hello");
	img = open_raw(0);
	cr_assert_eq(img_size(img), 1024);
	cr_assert_eq(img_unit_bytes(img), 512);
	cr_assert_str_eq(img_format(img), "raw");
	memset(buf, 0xff, sizeof(buf));
	cr_assert_eq(img_read(img, 0, buf, sizeof(buf), NULL), 0);
	cr_assert_arr_eq(buf + 995, "hello", 5);
	cr_assert_arr_eq(buf + 1000, zero, sizeof(zero));
	cr_assert_eq(img_read(img, 1000, buf, 25, NULL), -EINVAL);
	cr_assert_eq(img_close(img, NULL), 0);
}

Test(raw, empty_file)
{
	struct img *img;
	struct img_map_entry e;

	make_file(0, 0, "");
	img = open_raw(0);
	cr_assert_eq(img_size(img), 0);
	cr_assert_eq(img_map(img, 0, 1, true, &e, NULL), -EINVAL);
	img_close(img, NULL);
}

Test(raw, writes_land_where_they_belong)
{
	char buf[16];
	struct img *img;
	int fd;

	make_file(10000, 0, "start");
	img = open_raw(IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 4093, "across", 6, NULL), 0);
	cr_assert_eq(img_write(img, 10000, "tail", 4, NULL), 0); /* past the file's end */
	cr_assert_eq(img_write(img, 10239, "xy", 2, NULL), -EINVAL);
	cr_assert_eq(img_read(img, 4093, buf, 6, NULL), 0);
	cr_assert_arr_eq(buf, "across", 6);
	cr_assert_eq(img_close(img, NULL), 0);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	cr_assert_eq(pread(fd, buf, 6, 4093), 6);
	cr_assert_arr_eq(buf, "across", 6);
	cr_assert_eq(pread(fd, buf, 16, 10000), 4);
	cr_assert_arr_eq(buf, "tail", 4);
	close(fd);
}

Test(raw, read_only_is_read_only)
{
	struct img *img;

	make_file(4096, 0, "x");
	img = open_raw(0);
	cr_assert_lt(img_write(img, 0, "y", 1, NULL), 0);
	cr_assert_lt(img_zero(img, 0, 512, NULL), 0);
	cr_assert_eq(img_resize(img, 8192, IMG_PREALLOCATE_OFF, NULL), -EROFS);
	img_close(img, NULL);
}

Test(raw, zero_and_discard_read_as_zeroes)
{
	static char data[65536], back[65536], zero[65536];
	struct img *img;

	make_file(sizeof(data), 0, "");
	memset(data, 'd', sizeof(data));
	img = open_raw(IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
	cr_assert_eq(img_write(img, 0, data, sizeof(data), NULL), 0);
	cr_assert_eq(img_zero(img, 100, 10000, NULL), 0);
	cr_assert_eq(img_discard(img, 32768, 16384, NULL), 0);
	cr_assert_eq(img_read(img, 0, back, sizeof(back), NULL), 0);
	cr_assert_arr_eq(back, data, 100);
	cr_assert_arr_eq(back + 100, zero, 10000);
	cr_assert_arr_eq(back + 10100, data, 32768 - 10100);
	cr_assert_arr_eq(back + 32768, zero, 16384);
	cr_assert_arr_eq(back + 49152, data, 16384);
	cr_assert_eq(img_close(img, NULL), 0);
}

Test(raw, holes_show_in_the_map)
{
	struct img_map_entry e;
	struct img *img;

	make_file(4 << 20, 1 << 20, "x");
	img = open_raw(0);
	cr_assert_eq(img_map(img, 0, img_size(img), true, &e, NULL), 0);
	cr_assert_eq(e.length, 1 << 20);
	cr_assert(e.present && e.zero && !e.data && e.has_offset && e.offset == 0);
	cr_assert_eq(img_map(img, 1 << 20, 3 << 20, true, &e, NULL), 0);
	cr_assert(e.present && !e.zero && e.data && e.offset == 1 << 20 && e.length < 65537);
	cr_assert_str_eq(e.file, path);
	cr_assert_eq(img_map(img, e.start + e.length, (2 << 20), true, &e, NULL), 0);
	cr_assert(e.zero && e.length == 2 << 20);
	cr_assert_eq(img_map(img, 0, img_size(img), false, &e, NULL), 0); /* without looking */
	cr_assert(e.data && e.length == 4 << 20);
	cr_assert_eq(img_map(img, 0, img_size(img) + 1, true, &e, NULL), -EINVAL);
	img_close(img, NULL);
}

static int create(uint64_t size, const char *text)
{
	const char *list[] = { text, NULL };
	struct img_create_options o = {
		.format = "raw",
		.size = size,
		.have_size = true,
		.options = text ? list : NULL,
	};

	return img_create(path, &o, NULL);
}

Test(raw, create)
{
	struct stat st;

	cr_assert_eq(create(1000000, NULL), 0);
	cr_assert_eq(file_size(), 1000448);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_blocks, 0);
	cr_assert_eq(create(1 << 20, "preallocation=full"), 0);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_size, 1 << 20);
	cr_assert_geq(st.st_blocks, 2048);
	cr_assert_eq(create(1 << 20, "preallocation=falloc"), 0);
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_geq(st.st_blocks, 2048);
	cr_assert_eq(create(0, NULL), 0);
	cr_assert_eq(file_size(), 0);
}

Test(raw, what_create_cannot_honour_is_refused)
{
	static const char *const bad[] = {
		"preallocation=metadata",
		"preallocation=some",
		"extent_size_hint=5G",
		"cluster_size=64k",
		"backing_file=x",
		"size=5",
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert_lt(create(1024, bad[i]), 0, "%s", bad[i]);
		cr_assert_eq(access(path, F_OK), -1, "%s left a file", bad[i]);
	}
	cr_assert_eq(create(UINT64_MAX, NULL), -EFBIG);
	cr_assert_eq(create(1024, "nocow=off,extent_size_hint=0"), 0);
}

Test(raw, resize)
{
	struct img *img;
	char buf[8] = { 0 };

	make_file(1 << 20, 0, "head");
	img = open_raw(IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, 3000001, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_size(img), 3000320);
	cr_assert_eq(file_size(), 3000001);
	cr_assert_eq(img_write(img, 2999999, "z", 1, NULL), 0);
	cr_assert_eq(img_resize(img, 4 << 20, IMG_PREALLOCATE_METADATA, NULL), -ENOTSUP);
	cr_assert_eq(img_resize(img, 1000, IMG_PREALLOCATE_FALLOC, NULL), -EINVAL);
	cr_assert_eq(img_resize(img, 4 << 20, IMG_PREALLOCATE_FULL, NULL), 0);
	cr_assert_eq(img_resize(img, 512, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_size(img), 512);
	cr_assert_eq(img_read(img, 0, buf, 4, NULL), 0);
	cr_assert_str_eq(buf, "head");
	cr_assert_eq(img_read(img, 512, buf, 1, NULL), -EINVAL);
	cr_assert_eq(img_close(img, NULL), 0);
	cr_assert_eq(file_size(), 512);
}

Test(raw, there_is_nothing_to_check)
{
	struct img_check_result r;
	struct img *img;

	make_file(512, 0, "");
	img = open_raw(0);
	cr_assert_eq(img_check(img, 0, NULL, NULL, &r, NULL), -ENOTSUP);
	img_close(img, NULL);
}
