/*
 * An identity from content: the same in every format and for every way to cut the disk in pieces,
 * another for another disk.
 */
#include "tests/image/folder.h"

TestSuite(content_identity, .init = folder_make, .fini = folder_remove, .timeout = 60);

enum { SIZE = 40 << 20 };

/* A disk with data at three places, or full of zeroes that are stored. */
static struct img *make(const char *name, const char *format, uint8_t fill, bool stored)
{
	struct img_create_options how = { .format = format, .have_size = true, .size = SIZE };
	static uint8_t buf[200000];
	struct img *img;

	cr_assert_eq(img_create_begin(name, &how, &img, NULL), 0);
	for (uint64_t off = 0; stored && off < SIZE; off += 65536) {
		memset(buf, 0, 65536);
		cr_assert_eq(img_write(img, off, buf, 65536, NULL), 0);
	}
	memset(buf, fill, sizeof(buf));
	cr_assert_eq(img_write(img, 3 << 20, buf, sizeof(buf), NULL), 0);
	cr_assert_eq(img_write(img, (20 << 20) + 512, buf, 1024, NULL), 0);
	cr_assert_eq(img_write(img, SIZE - 512, buf, 512, NULL), 0);
	cr_assert_eq(img_publish(img, NULL), 0);
	return img;
}

static void get(struct img *const *sources, size_t count, uint64_t out[2])
{
	out[0] = out[1] = 0;
	cr_assert_eq(img_content_identity(sources, count, out, NULL), 0);
	cr_assert(out[0] || out[1]);
}

Test(content_identity, content_alone)
{
	struct img *raw = make("raw", "raw", 1, false), *full = make("full", "raw", 1, true);
	struct img *qcow2 = make("qcow2", "qcow2", 1, false), *other = make("other", "raw", 2, false);
	struct img *again[] = { raw, full, qcow2 }, *twice[] = { raw, raw };
	uint64_t one[2], two[2];

	get(&raw, 1, one);
	for (size_t i = 0; i < COUNT(again); i++) {
		get(&again[i], 1, two);
		cr_assert_arr_eq(one, two, sizeof(one), "%zu", i);
	}
	get(&other, 1, two);
	cr_assert_arr_neq(one, two, sizeof(one));
	get(twice, 2, two);
	cr_assert_arr_neq(one, two, sizeof(one));
	must_close(raw);
	must_close(full);
	must_close(qcow2);
	must_close(other);
}

Test(content_identity, cut_in_pieces)
{
	struct img *raw = make("raw", "raw", 1, false), *part[2];
	uint64_t one[2], two[2];

	get(&raw, 1, one);
	must_close(raw);
	run("head -c 3146240 raw >first && tail -c +3146241 raw >second");
	part[0] = must_open("first", "raw", 0);
	part[1] = must_open("second", "raw", 0);
	get(part, 2, two);
	cr_assert_arr_eq(one, two, sizeof(one));
	must_close(part[0]);
	must_close(part[1]);
}

Test(content_identity, of_nothing)
{
	struct img_create_options how = { .format = "raw", .have_size = true };
	struct img *img;
	uint64_t one[2];

	cr_assert_eq(img_create_begin("empty", &how, &img, NULL), 0);
	get(&img, 1, one);
	img_close(img, NULL);
}
