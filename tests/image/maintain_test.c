/*
 * Resizing and checking, as the image floor sees them.
 */
#include "tests/image/folder.h"

TestSuite(maintain, .init = folder_make, .fini = folder_remove, .timeout = 30);

static bool is_zero(struct img *img, uint64_t from, uint64_t to)
{
	static uint8_t buf[1 << 20];

	while (from < to) {
		size_t n = to - from < sizeof(buf) ? (size_t)(to - from) : sizeof(buf);

		cr_assert_eq(img_read(img, from, buf, n, NULL), 0);
		for (size_t i = 0; i < n; i++)
			if (buf[i])
				return false;
		from += n;
	}
	return true;
}

static void fill(struct img *img, uint64_t size)
{
	static uint8_t ones[65536];

	memset(ones, 1, sizeof(ones));
	for (uint64_t off = 0; off < size; off += sizeof(ones))
		cr_assert_eq(img_write(img, off, ones, sizeof(ones), NULL), 0);
}

Test(maintain, what_grows_is_zero)
{
	struct img *img;

	make_image("a.qcow2", "qcow2", 4 << 20, NULL, NULL);
	img = must_open("a.qcow2", "qcow2", IMG_OPEN_WRITE);
	fill(img, 4 << 20);
	cr_assert_eq(img_resize(img, (2 << 20) + 512, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_size(img), (2 << 20) + 512);
	cr_assert_eq(img_resize(img, 8 << 20, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert(is_zero(img, (2 << 20) + 512, 8 << 20));
	must_close(img);
	img = must_open("a.qcow2", "qcow2", 0);
	cr_assert_eq(img_size(img), 8 << 20);
	cr_assert(is_zero(img, (2 << 20) + 512, 8 << 20));
	cr_assert_not(is_zero(img, 0, (2 << 20) + 512));
	must_close(img);
}

Test(maintain, a_longer_backing_file_does_not_show_in_the_new_part)
{
	struct img *img;

	make_image("base.raw", "raw", 4 << 20, NULL, NULL);
	img = must_open("base.raw", "raw", IMG_OPEN_WRITE);
	fill(img, 4 << 20);
	must_close(img);
	make_image("top.qcow2", "qcow2", 1 << 20, "base.raw", "raw");
	img = must_open("top.qcow2", "qcow2", IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
	cr_assert_eq(img_resize(img, 8 << 20, IMG_PREALLOCATE_OFF, NULL), -EINVAL);
	must_close(img);
	img = must_open("top.qcow2", "qcow2", IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, 8 << 20, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_not(is_zero(img, 0, 1 << 20));
	cr_assert(is_zero(img, 1 << 20, 8 << 20));
	must_close(img);
	img = must_open("top.qcow2", "qcow2", 0);
	cr_assert(is_zero(img, 1 << 20, 8 << 20));
	must_close(img);
}

Test(maintain, sizes_that_are_refused)
{
	struct img_error *err = img_error_new();
	struct img *img;

	make_image("a.qcow2", "qcow2", 4 << 20, NULL, NULL);
	img = must_open("a.qcow2", "qcow2", IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, 1000001, IMG_PREALLOCATE_OFF, err), -EINVAL);
	cr_assert_str_eq(img_error_text(err), "The new size must be a multiple of 512");
	cr_assert_eq(img_resize(img, UINT64_MAX, IMG_PREALLOCATE_OFF, err), -EFBIG);
	cr_assert_eq(img_resize(img, 1 << 20, IMG_PREALLOCATE_FULL, err), -EINVAL);
	cr_assert_eq(img_resize(img, 8 << 20, 17, err), -EINVAL);
	cr_assert_eq(img_size(img), 4 << 20);
	must_close(img);
	img = must_open("a.qcow2", "qcow2", 0);
	cr_assert_eq(img_resize(img, 8 << 20, IMG_PREALLOCATE_OFF, err), -EROFS);
	must_close(img);
	img_error_free(err);
}

Test(maintain, check)
{
	struct img_error *err = img_error_new();
	struct img_check_result r;
	struct img *img;

	make_image("a.qcow2", "qcow2", 4 << 20, NULL, NULL);
	img = must_open("a.qcow2", "qcow2", IMG_OPEN_WRITE);
	fill(img, 1 << 20);
	cr_assert_eq(img_check(img, 0, NULL, NULL, &r, err), 0, "%s", img_error_text(err));
	cr_assert(!r.corruptions && !r.leaks && !r.check_errors);
	cr_assert_eq(r.allocated_units, 16);
	cr_assert_eq(r.total_units, 64);
	must_close(img);
	img = must_open("a.qcow2", "qcow2", IMG_OPEN_CHECK);
	cr_assert_eq(img_check(img, IMG_REPAIR_ALL, NULL, NULL, &r, err), -EROFS);
	cr_assert_eq(img_check(img, 8, NULL, NULL, &r, err), -EINVAL);
	must_close(img);
	make_image("r", "raw", 512, NULL, NULL);
	img = must_open("r", "raw", 0);
	cr_assert_eq(img_check(img, 0, NULL, NULL, &r, err), -ENOTSUP);
	cr_assert_str_eq(img_error_text(err), "This image format does not support checks");
	must_close(img);
	img_error_free(err);
}
