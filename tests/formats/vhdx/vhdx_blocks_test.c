/*
 * Whole blocks of a VHDX that are not allocated any more or hide the parent's, and what is in the file instead.
 */
#include "tests/image/folder.h"

enum { BLOCK = 1 << 20,
       BLOCKS = 8 };

static uint8_t bytes[BLOCK];

static void fill_block(struct img *img, int number, int value)
{
	memset(bytes, value, BLOCK);
	cr_assert_eq(img_write(img, (uint64_t)number * BLOCK, bytes, BLOCK, NULL), 0);
}

static void expect(struct img *img, uint64_t off, size_t len, int value)
{
	cr_assert_eq(img_read(img, off, bytes, len, NULL), 0);
	for (size_t i = 0; i < len; i++)
		cr_assert_eq(bytes[i], value, "%zu of %zu at %zu: found %d, expected %d", i, len,
			     (size_t)off, bytes[i], value);
}

static void expect_block(struct img *img, int number, int value)
{
	expect(img, (uint64_t)number * BLOCK, BLOCK, value);
}

static void make(const char *name, const char *backing)
{
	static const char *const options[] = { "block_size=1M", NULL };
	struct img_create_options o = {
		.format = "vhdx",
		.size = backing ? 0 : (uint64_t)BLOCKS * BLOCK,
		.have_size = !backing,
		.options = options,
		.backing_name = backing,
		.backing_format = backing ? "vhdx" : NULL,
	};
	struct img_error *err = img_error_new();

	cr_assert_eq(img_create(name, &o, err), 0, "%s", img_error_text(err));
	img_error_free(err);
}

TestSuite(vhdx_blocks, .init = folder_make, .fini = folder_remove, .timeout = 30);

/* Neighbours in the disk, but not in the file: the space of others is not reused. */
Test(vhdx_blocks, discarded_out_of_order)
{
	static const int order[] = { 2, 3, 1, 4, 0 };
	struct img *img;

	make("a.vhdx", NULL);
	img = must_open("a.vhdx", "vhdx", IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
	for (size_t i = 0; i < COUNT(order); i++)
		fill_block(img, order[i], 10 + order[i]);
	cr_assert_eq(img_discard(img, BLOCK, 2 * BLOCK, NULL), 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	for (int i = 5; i < BLOCKS; i++)
		fill_block(img, i, 10 + i);
	for (int i = 0; i < BLOCKS; i++)
		expect_block(img, i, i == 1 || i == 2 ? 0 : 10 + i);
	must_close(img);
	img = must_open("a.vhdx", "vhdx", 0);
	for (int i = 0; i < BLOCKS; i++)
		expect_block(img, i, i == 1 || i == 2 ? 0 : 10 + i);
	must_close(img);
}

static struct img *family(void)
{
	struct img *img;

	make("base.vhdx", NULL);
	img = must_open("base.vhdx", "vhdx", IMG_OPEN_WRITE);
	for (int i = 0; i < BLOCKS; i++)
		fill_block(img, i, 10 + i);
	must_close(img);
	make("child.vhdx", "base.vhdx");
	return must_open("child.vhdx", "vhdx", IMG_OPEN_WRITE);
}

/* Zeroes of whole blocks hide the parent's data. */
Test(vhdx_blocks, zeroes_over_the_parent)
{
	struct img *img = family();

	memset(bytes, 77, BLOCK); /* of the second a part is here */
	cr_assert_eq(img_write(img, 2 * BLOCK + 4096, bytes, 8192, NULL), 0);
	cr_assert_eq(img_zero(img, BLOCK, 3 * BLOCK, NULL), 0);
	for (int i = 0; i < BLOCKS; i++)
		expect_block(img, i, i >= 1 && i <= 3 ? 0 : 10 + i);
	must_close(img);
	img = must_open("child.vhdx", "vhdx", 0);
	for (int i = 0; i < BLOCKS; i++)
		expect_block(img, i, i >= 1 && i <= 3 ? 0 : 10 + i);
	must_close(img);
}

/* What was here before it was committed is the parent's then, whatever is written beside it. */
Test(vhdx_blocks, written_after_a_commit)
{
	struct img *img = family();

	memset(bytes, 77, BLOCK);
	cr_assert_eq(img_write(img, 4096, bytes, 8192, NULL), 0);
	cr_assert_eq(img_commit(img, NULL, NULL), 0);
	memset(bytes, 88, BLOCK);
	cr_assert_eq(img_write(img, 65536, bytes, 512, NULL), 0);
	expect(img, 0, 4096, 10);
	expect(img, 4096, 8192, 77);
	expect(img, 65536, 512, 88);
	expect(img, 65536 + 512, 4096, 10);
	must_close(img);
	img = must_open("child.vhdx", "vhdx", 0);
	expect(img, 4096, 8192, 77);
	expect(img, 65536, 512, 88);
	expect(img, 65536 + 512, 4096, 10);
	must_close(img);
}
