/*
 * Other sizes, other parents, and no content.
 */
#include "tests/formats/vdi/plain.h"

TestSuite(vdi_change, .init = folder_make, .fini = folder_remove);

enum { SIZE = 5 * MIB };

static void resize(struct img *img, uint64_t size)
{
	struct img_error *err = img_error_new();

	cr_assert_eq(img_resize(img, size, IMG_PREALLOCATE_OFF, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_size(img), size);
	img_error_free(err);
}

static bool same(const char *name, const uint8_t *model, uint64_t size)
{
	struct img *img = must_open(name, "vdi", 0);
	uint8_t *got = malloc(size);
	bool is = !img_read(img, 0, got, size, NULL) && !memcmp(got, model, size);

	must_close(img);
	free(got);
	return is;
}

/* Sizes up and down, data near each end; what was cut off never comes back. */
static void resize_around(const char *name, uint8_t *below)
{
	static const uint64_t sizes[] = { 6 * MIB, 6 * MIB + 512, 90 * MIB, 3 * MIB, 3 * MIB + 70 * KIB,
					  5 * MIB, 512, 9 * MIB };
	uint8_t *model = calloc(1, 90 * MIB), *under = calloc(1, 90 * MIB);
	struct img *img = must_open(name, "vdi", IMG_OPEN_WRITE);
	uint64_t size = SIZE;

	if (below)
		memcpy(model, below, SIZE);
	put(img, SIZE - 5000, 5000, 1, model);
	for (size_t i = 0; i < COUNT(sizes); i++) {
		if (sizes[i] < size)
			memset(model + sizes[i], 0, size - sizes[i]);
		resize(img, sizes[i]);
		size = sizes[i];
		if (i % 2) {
			must_close(img);
			sound(name);
			cr_assert(same(name, model, size), "%s of %llu", name, (unsigned long long)size);
			img = must_open(name, "vdi", IMG_OPEN_WRITE);
			cr_assert_eq(img_size(img), size);
		}
		put(img, size - 512, 512, (uint8_t)(10 + i), model);
		put(img, size / 2, 256, (uint8_t)(20 + i), model);
	}
	must_close(img);
	sound(name);
	cr_assert(same(name, model, size));
	if (below)
		memcpy(under, below, SIZE);
	plain_read(name, under, size);
	cr_assert(!memcmp(under, model, size));
	free(model);
	free(under);
}

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
	resize_around("a", NULL);
	make("b", SIZE, "block_size=4k", NULL, NULL); /* its map moves */
	resize_around("b", NULL);
	make("c", SIZE, "static=on", NULL, NULL);
	resize_around("c", NULL);
	make("base", SIZE, NULL, NULL, NULL);
	img = must_open("base", "vdi", IMG_OPEN_WRITE);
	put(img, 100, SIZE - 100, 0xbb, below);
	must_close(img);
	make("d", 0, "block_size=64k", "base", NULL);
	resize_around("d", below);
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
		reads_as("e", model, 40 * MIB, NULL);
		sound("e");
		img = must_open("e", "vdi", IMG_OPEN_WRITE);
		resize(img, MIB + 512);
		must_close(img);
		reads_as("e", model, MIB + 512, NULL);
		sound("e");
		free(model);
	}
	free(below);
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
	reads_as("a", model, 4 * MIB, NULL);
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
		reads_as("child", model, SIZE, below);
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
	reads_as("child", model, SIZE, NULL);
	/* one that has no UUID */
	make_file("raw", model, SIZE, SIZE);
	img = must_open("child", "vdi", IMG_OPEN_WRITE);
	cr_assert_eq(img_set_backing_name(img, "raw", "raw", err), -ENOTSUP);
	cr_assert(strstr(img_error_text(err), "UUID"), "%s", img_error_text(err));
	must_close(img);
	reads_as("child", model, SIZE, NULL);
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
	reads_as("child", model, SIZE, base);
	free(base);
	free(other);
	free(model);
}
