/*
 * Other sizes, other parents, and no content.
 */
#include "tests/formats/vdi/plain.h"

TestSuite(vdi_change, .init = folder_make, .fini = folder_remove);

enum { SIZE = 5 * MIB };

Test(vdi_change, resized)
{
	static const uint32_t entries[] = { 0, FREE, 2, 1, ZERO, FREE, FREE, FREE, FREE, FREE };
	struct plain p = {
		.block_bytes = 512 * KIB,
		.blocks = 10,
		.in_file = 3,
		.allocated = 3,
		.entries = entries,
	};
	uint8_t *below = calloc(1, SIZE);
	struct img *img;

	make("a", SIZE, NULL, NULL, NULL);
	resize_around("a", SIZE, 90 * MIB, NULL);
	make("b", SIZE, "block_size=4k", NULL, NULL); /* its map moves */
	resize_around("b", SIZE, 90 * MIB, NULL);
	make("c", SIZE, "static=on", NULL, NULL);
	resize_around("c", SIZE, 90 * MIB, NULL);
	make("base", SIZE, NULL, NULL, NULL);
	img = must_open("base", "vdi", IMG_OPEN_WRITE);
	put(img, 100, SIZE - 100, 0xbb, below);
	must_close(img);
	make("d", 0, "block_size=64k", "base", NULL);
	resize_around("d", SIZE, 90 * MIB, below);
	for (int extra = 0; extra < 2; extra++) {
		uint8_t *model = calloc(1, 40 * MIB);

		p.extra_bytes = extra ? 512 : 0;
		p.version0 = !extra;
		make_plain("e", &p);
		memset(model, 1, 512 * KIB);
		memset(model + 2 * 512 * KIB, 3, 512 * KIB);
		memset(model + 3 * 512 * KIB, 2, 512 * KIB);
		img = must_open("e", "vdi", IMG_OPEN_WRITE);
		resize(img, 40 * MIB);
		put(img, 30 * MIB, MIB, 7, model);
		must_close(img);
		reads_as("e", model, 40 * MIB);
		sound("e");
		img = must_open("e", "vdi", IMG_OPEN_WRITE);
		resize(img, MIB + 512);
		must_close(img);
		reads_as("e", model, MIB + 512);
		sound("e");
		free(model);
	}
	free(below);
}

/* A static disk that grows has all of its blocks in the file, as one that was made so. */
Test(vdi_change, static_disks_stay_so)
{
	struct bytes b;
	struct img *img;

	make("a", SIZE, "static=on", NULL, NULL);
	img = must_open("a", "vdi", IMG_OPEN_WRITE);
	resize(img, 9 * MIB);
	must_close(img);
	b = load("a");
	cr_assert_geq(b.len, 9 * MIB);
	for (unsigned i = 0; i < 9; i++)
		cr_assert_lt(le32_load(b.at + le32_load(b.at + 0x154) + 4 * i), ZERO, "%u", i);
	cr_assert_eq(le32_load(b.at + 0x184), 9);
	free(b.at);
	sound("a");
	/* and keeps them, whatever becomes of what is in them */
	img = must_open("a", "vdi", IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
	cr_assert_eq(img_zero(img, 0, 3 * MIB, NULL), 0);
	cr_assert_eq(img_discard(img, 5 * MIB, 2 * MIB, NULL), 0);
	must_close(img);
	b = load("a");
	for (unsigned i = 0; i < 9; i++)
		cr_assert_lt(le32_load(b.at + le32_load(b.at + 0x154) + 4 * i), ZERO, "%u", i);
	free(b.at);
	sound("a");
}

/* Of the last block the file may have no more than the disk does; one that grows has all of it. */
Test(vdi_change, last_block_is_short)
{
	enum { DISK = 4 * KIB + 2560 };
	static const uint32_t entries[] = { 0, 1 };
	const struct plain p = {
		.size = DISK,
		.block_bytes = 4 * KIB,
		.blocks = 2,
		.in_file = 2,
		.allocated = 2,
		.entries = entries,
	};
	uint8_t *model = calloc(1, MIB), got[8 * KIB];
	struct img *img;
	struct stat st;

	make_plain("a", &p);
	cr_assert_eq(truncate("a", PLAIN_DATA + DISK), 0);
	memset(model, 1, 4 * KIB);
	memset(model + 4 * KIB, 2, 2560);
	img = must_open("a", "vdi", IMG_OPEN_WRITE);
	resize(img, MIB);
	cr_assert_eq(img_read(img, 0, got, sizeof(got), NULL), 0);
	cr_assert(!memcmp(got, model, sizeof(got)));
	must_close(img);
	reads_as("a", model, MIB);
	cr_assert(!stat("a", &st) && st.st_size == PLAIN_DATA + 8 * KIB, "%lld", (long long)st.st_size);
	sound("a");
	free(model);
}

/* Blocks that are cut off leave the file. */
Test(vdi_change, shrunk_file)
{
	uint8_t *model = calloc(1, 20 * MIB);
	struct img *img;
	struct stat before, after;

	make("a", 20 * MIB, NULL, NULL, NULL);
	img = must_open("a", "vdi", IMG_OPEN_WRITE);
	put(img, 0, 20 * MIB, 1, model);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(stat("a", &before), 0);
	resize(img, 4 * MIB);
	must_close(img);
	cr_assert_eq(stat("a", &after), 0);
	cr_assert(after.st_size < 5 * MIB && before.st_size > 20 * MIB);
	reads_as("a", model, 4 * MIB);
	sound("a");
	free(model);
}

static void chain(uint8_t *base, uint8_t *other, uint8_t *child)
{
	struct img *img;

	make("base", SIZE, NULL, NULL, NULL);
	img = must_open("base", "vdi", IMG_OPEN_WRITE);
	put(img, 0, 3 * MIB, 1, base);
	must_close(img);
	make("other", SIZE, NULL, NULL, NULL);
	img = must_open("other", "vdi", IMG_OPEN_WRITE);
	put(img, 1 * MIB, 3 * MIB, 2, other);
	must_close(img);
	make("child", 0, "block_size=4k", "base", NULL);
	img = must_open("child", "vdi", IMG_OPEN_WRITE);
	put(img, 8 * KIB, 72 * KIB, 3, child);
	must_close(img);
}

Test(vdi_change, another_parent)
{
	uint8_t *base = calloc(1, SIZE), *other = calloc(1, SIZE), *model = calloc(1, SIZE);
	struct img_error *err = img_error_new();
	struct bytes b;
	struct img *img;

	chain(base, other, model);
	for (int i = 0; i < 3; i++) { /* there and back again */
		const char *name = i % 2 ? "base" : "other";
		const uint8_t *below = i % 2 ? base : other;

		img = must_open("child", "vdi", IMG_OPEN_WRITE);
		cr_assert_eq(img_set_backing_name(img, name, "vdi", err), 0, "%s", img_error_text(err));
		must_close(img);
		sound("child");
		memcpy(model, below, SIZE);
		memset(model + 8 * KIB, 3, 72 * KIB);
		reads_over("child", model, SIZE, below);
	}
	/* none at all */
	img = must_open("child", "vdi", IMG_OPEN_WRITE);
	cr_assert_eq(img_set_backing_name(img, NULL, NULL, err), 0, "%s", img_error_text(err));
	must_close(img);
	b = load("child");
	cr_assert_eq(le32_load(b.at + 0x4c), 1);
	for (unsigned i = 0x1a8; i < 0x1c8; i++)
		cr_assert_eq(b.at[i], 0);
	free(b.at);
	memset(model, 0, SIZE);
	memset(model + 8 * KIB, 3, 72 * KIB);
	reads_as("child", model, SIZE);
	/* one that has no UUID */
	make_file("raw", model, SIZE, SIZE);
	img = must_open("child", "vdi", IMG_OPEN_WRITE);
	cr_assert_eq(img_set_backing_name(img, "raw", "raw", err), -ENOTSUP);
	cr_assert(strstr(img_error_text(err), "UUID"), "%s", img_error_text(err));
	must_close(img);
	reads_as("child", model, SIZE);
	img_error_free(err);
	free(base);
	free(other);
	free(model);
}

Test(vdi_change, emptied)
{
	uint8_t *base = calloc(1, SIZE), *other = calloc(1, SIZE), *model = calloc(1, SIZE);
	struct img *img;
	struct stat st;

	chain(base, other, model);
	img = must_open("child", "vdi", IMG_OPEN_WRITE);
	cr_assert_eq(img_make_empty(img, NULL), 0);
	memcpy(model, base, SIZE);
	put(img, 3 * MIB, 100, 4, model); /* it goes on */
	must_close(img);
	cr_assert(!stat("child", &st) && st.st_size <= 16 * KIB, "%llu", (unsigned long long)st.st_size);
	sound("child");
	reads_over("child", model, SIZE, base);
	free(base);
	free(other);
	free(model);
}
