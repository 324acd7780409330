/*
 * Other sizes, other parents, and no content.
 */
#include "tests/formats/vhd/plain.h"

TestSuite(vhd_change, .init = folder_make, .fini = folder_remove);

enum { SIZE = 5 * MIB };

Test(vhd_change, resized)
{
	uint8_t *below = calloc(1, SIZE);
	struct img *img;

	make("a", SIZE, "force_size=on", NULL, NULL);
	resize_around("a", SIZE, 300 * MIB, NULL);
	make("b", SIZE, "block_size=4k,force_size=on", NULL, NULL); /* its table moves */
	resize_around("b", SIZE, 300 * MIB, NULL);
	make("c", SIZE, "subformat=fixed,force_size=on", NULL, NULL);
	resize_around("c", SIZE, 300 * MIB, NULL);
	make("base", SIZE, "force_size=on", NULL, NULL);
	img = must_open("base", "vpc", IMG_OPEN_WRITE);
	put(img, 100, SIZE - 100, 0xbb, below);
	must_close(img);
	make("d", 0, "block_size=64k", "base", NULL);
	resize_around("d", SIZE, 300 * MIB, below);
	free(below);
}

/* A disk that goes by its geometry goes by its bytes then. */
Test(vhd_change, size_rule)
{
	struct img *img;

	make("a", 10 << 20, NULL, NULL, NULL);
	img = must_open("a", "vpc", IMG_OPEN_WRITE);
	cr_assert_eq(img_size(img), 10514432);
	resize(img, 20 << 20);
	cr_assert_eq(img_resize(img, (2040ull << 30) + 512, IMG_PREALLOCATE_OFF, NULL), -EFBIG);
	must_close(img);
	img = must_open("a", "vpc", 0);
	cr_assert_eq(img_size(img), 20 << 20);
	must_close(img);
}

/* Blocks that are cut off leave the file. */
Test(vhd_change, shrunk_file)
{
	uint8_t *model = calloc(1, 20 << 20);
	struct img *img;
	struct stat before, after;

	make("a", 20 << 20, "force_size=on", NULL, NULL);
	img = must_open("a", "vpc", IMG_OPEN_WRITE);
	put(img, 0, 20 << 20, 1, model);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(stat("a", &before), 0);
	resize(img, 4 << 20);
	must_close(img);
	cr_assert_eq(stat("a", &after), 0);
	cr_assert(after.st_size < 5 << 20 && before.st_size > 20 << 20);
	reads_as("a", model, 4 << 20);
	sound("a");
	free(model);
}

static void chain(uint8_t *base, uint8_t *other, uint8_t *child)
{
	struct img *img;

	make("base", SIZE, "force_size=on", NULL, NULL);
	img = must_open("base", "vpc", IMG_OPEN_WRITE);
	put(img, 0, 3 << 20, 1, base);
	must_close(img);
	make("other", SIZE, "force_size=on", NULL, NULL);
	img = must_open("other", "vpc", IMG_OPEN_WRITE);
	put(img, 1 << 20, 3 << 20, 2, other);
	must_close(img);
	make("child", 0, "block_size=64k", "base", NULL);
	img = must_open("child", "vpc", IMG_OPEN_WRITE);
	put(img, 1000, 70000, 3, child);
	must_close(img);
}

/* The child's own sectors over what is below. */
static void over(uint8_t *model, const uint8_t *below)
{
	memcpy(model, below, SIZE);
	memset(model + 1000, 3, 70000);
	/* the rest of the sectors that were written in part are the first parent's */
}

Test(vhd_change, another_parent)
{
	uint8_t *base = calloc(1, SIZE), *other = calloc(1, SIZE), *model = calloc(1, SIZE);
	uint8_t *none = calloc(1, SIZE);
	struct img_error *err = img_error_new();
	struct img *img;

	chain(base, other, model);
	for (int i = 0; i < 3; i++) { /* there and back again */
		const char *name = i % 2 ? "base" : "other";

		img = must_open("child", "vpc", IMG_OPEN_WRITE);
		cr_assert_eq(img_set_backing_name(img, name, "vpc", err), 0, "%s", img_error_text(err));
		must_close(img);
		sound("child");
		over(model, i % 2 ? base : other);
		memset(model + 512, 1, 488);
		memset(model + 71000, 1, 71168 - 71000);
		reads_over("child", model, SIZE, i % 2 ? base : other);
	}
	/* none at all: its own sectors, zeroes elsewhere, for programs that do not look at bits, too */
	img = must_open("child", "vpc", IMG_OPEN_WRITE);
	cr_assert_eq(img_set_backing_name(img, NULL, NULL, err), 0, "%s", img_error_text(err));
	must_close(img);
	img = must_open("child", "vpc", IMG_OPEN_WRITE);
	put(img, 2 << 20, 100, 9, none);
	must_close(img);
	memset(none + 1000, 3, 70000);
	memset(none + 512, 1, 488);
	memset(none + 71000, 1, 71168 - 71000);
	sound("child");
	reads_as("child", none, SIZE);
	if (!system("qemu-img --version >/dev/null 2>&1")) {
		make_file("model", none, SIZE, SIZE);
		run("qemu-img compare -q -f vpc -F raw child model");
	}
	/* and one again */
	img = must_open("child", "vpc", IMG_OPEN_WRITE);
	cr_assert_eq(img_set_backing_name(img, "other", "vpc", err), 0, "%s", img_error_text(err));
	must_close(img);
	img = must_open("child", NULL, 0);
	must_close(img);
	run("rm other");
	cr_assert_eq(must_fail("child", &(struct img_open_options){ 0 }, NULL), -ENOENT);
	img_error_free(err);
	free(base);
	free(other);
	free(model);
	free(none);
}

Test(vhd_change, emptied)
{
	uint8_t *base = calloc(1, SIZE), *other = calloc(1, SIZE), *model = calloc(1, SIZE);
	struct img *img;
	struct stat st;

	chain(base, other, model);
	img = must_open("child", "vpc", IMG_OPEN_WRITE);
	cr_assert_eq(img_make_empty(img, NULL), 0);
	memcpy(model, base, SIZE);
	put(img, 3 << 20, 100, 4, model); /* it goes on */
	must_close(img);
	cr_assert(!stat("child", &st) && st.st_size < 200 * KIB);
	sound("child");
	reads_over("child", model, SIZE, base);
	make("f", SIZE, "subformat=fixed", NULL, NULL);
	img = must_open("f", "vpc", IMG_OPEN_WRITE);
	cr_assert_eq(img_make_empty(img, NULL), -ENOTSUP);
	must_close(img);
	free(base);
	free(other);
	free(model);
}

/* XenServer's map lies where blocks could: it stays, until it would be wrong. */
Test(vhd_change, batmap)
{
	uint8_t *model = calloc(1, SIZE), head[512] = "tdbatmap", map[512];
	struct bytes b;
	struct img *img;

	make("a", SIZE, "force_size=on", NULL, NULL);
	memset(map, 0xaa, sizeof(map));
	head[14] = 8; /* at 2560, one sector; the table ends at 2048 */
	head[14] = 0xa;
	head[19] = 1;
	run("truncate -s 2048 a");
	patch("a", 2048, head, 512);
	patch("a", 2560, map, 512);
	b = load("a");
	patch("a", 3072, b.at, 512);
	free(b.at);
	img = must_open("a", "vpc", IMG_OPEN_WRITE);
	put(img, 0, SIZE, 1, model);
	must_close(img);
	b = load("a");
	cr_assert(!memcmp(b.at + 2048, "tdbatmap", 8) && !memcmp(b.at + 2560, map, 512));
	make_file("b", b.at, b.len, (off_t)b.len);
	free(b.at);
	sound("a");
	reads_as("a", model, SIZE);
	/* it knows nothing of new blocks */
	img = must_open("b", "vpc", IMG_OPEN_WRITE);
	resize(img, SIZE + 9 * MIB);
	must_close(img);
	b = load("b");
	cr_assert(memcmp(b.at + 2048, "tdbatmap", 8));
	free(b.at);
	img = must_open("a", "vpc", IMG_OPEN_WRITE);
	cr_assert_eq(img_make_empty(img, NULL), 0);
	must_close(img);
	b = load("a");
	cr_assert(memcmp(b.at + 2048, "tdbatmap", 8));
	free(b.at);
	free(model);
}
