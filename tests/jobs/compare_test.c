/* img_compare() of disks in memory: what differs, and where, for every place that a difference can be. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "libimg/image/context.h"
#include "tests/storage/watch.h"

enum {
	KIB = 1024,
	MIB = 1 << 20,
};

static struct img *disk(struct watch *w, uint64_t size, uint64_t data, uint64_t len, uint8_t byte)
{
	struct img_storage *s = watched_memory(w, 0, size);
	struct img_open_options how = { .format = "raw" };
	uint8_t *bytes = malloc(len + 1);
	struct img *img;

	memset(bytes, byte, len);
	cr_assert_eq(img_storage_write(s, data, bytes, len, NULL), 0);
	free(bytes);
	cr_assert_eq(img_open_storage(s, "disk", &how, &img, NULL), 0);
	return img;
}

static struct img_compare_result compare(struct img *a, struct img *b, bool strict, int answer)
{
	struct img_compare_options how = { .strict = strict, .io = IMG_IO_THREADS };
	struct img_compare_result r = { .offset = UINT64_MAX };

	cr_assert_eq(img_compare(a, b, &how, &r, NULL), answer);
	return r;
}

/* A byte of difference anywhere in 12 MiB is found, and told with its sector. */
Test(compare, finds_a_difference_anywhere)
{
	static const uint64_t at[] = { 0, 511, 512, 65535,
				       65536, 512 * KIB - 1, 512 * KIB, 3 * MIB + 7,
				       5 * MIB, 8 * MIB - 1, 11 * MIB + 77, 12 * MIB - 1 };

	for (unsigned i = 0; i < 2 * IMG_ARRAY_LEN(at); i++) {
		static struct watch w;
		/* full disks, or nearly empty ones */
		uint64_t full = i % 2 ? 12 * MIB : 100 * KIB, off = at[i / 2];
		struct img *a = disk(&w, 12 * MIB, 0, full, 7), *b = disk(&w, 12 * MIB, 0, full, 7);
		struct img_compare_result r = compare(a, b, false, 0);

		cr_assert(r.identical && !r.size_differs);
		cr_assert_eq(img_storage_write(b->file, off, "x", 1, NULL), 0);
		for (unsigned turn = 0; turn < 2; turn++) {
			r = turn ? compare(b, a, false, 0) : compare(a, b, false, 0);
			cr_assert(!r.identical);
			cr_assert_eq(r.offset, off / 512 * 512);
		}
		img_close(a, NULL);
		img_close(b, NULL);
		w.n = 0;
	}
}

Test(compare, what_is_behind_the_shorter_has_to_be_zeroes)
{
	static struct watch w;
	struct img *a = disk(&w, 1 * MIB, 0, 4096, 7), *b = disk(&w, 3 * MIB, 0, 4096, 7);
	struct img *c = disk(&w, 3 * MIB, 0, 4096, 7);
	struct img_compare_result r = compare(a, b, false, 0);

	cr_assert(r.identical && r.size_differs);
	cr_assert(compare(b, a, false, 0).identical);
	cr_assert(!compare(a, b, true, 0).identical, "strictly not");
	cr_assert_eq(img_storage_write(c->file, 3 * MIB - 1, "x", 1, NULL), 0);
	for (unsigned turn = 0; turn < 2; turn++) {
		r = turn ? compare(c, a, false, 0) : compare(a, c, false, 0);
		cr_assert(!r.identical);
		cr_assert_eq(r.offset, 3 * MIB - 512);
	}
	img_close(a, NULL);
	img_close(b, NULL);
	img_close(c, NULL);
}

Test(compare, zeroes_that_are_written_are_zeroes_but_not_strictly)
{
	static struct watch w;
	struct img *a = disk(&w, 4 * MIB, 0, 4096, 7), *b = disk(&w, 4 * MIB, 0, 4096, 7);
	uint8_t zeroes[512] = { 0 };
	struct img_compare_result r;

	cr_assert_eq(img_storage_write(b->file, 2 * MIB, zeroes, 512, NULL), 0);
	cr_assert(compare(a, b, false, 0).identical);
	r = compare(a, b, true, 0);
	cr_assert(!r.identical && r.status_differs);
	cr_assert_eq(r.offset, 2 * MIB);
	img_close(a, NULL);
	img_close(b, NULL);
}

static int fail_reads(struct watch *w, const struct watch_entry *e)
{
	return e->op == IMG_IO_READ && e->off + e->len > w->a ? -EIO : 0;
}

Test(compare, what_cannot_be_read_is_an_error)
{
	static struct watch w;
	struct img *a = disk(&w, 4 * MIB, 0, 4 * MIB, 7), *b = disk(&w, 4 * MIB, 0, 4 * MIB, 7);

	w.a = 3 * MIB;
	w.before = fail_reads;
	compare(a, b, false, -EIO);
	w.before = NULL;
	cr_assert(compare(a, b, false, 0).identical);
	img_close(a, NULL);
	img_close(b, NULL);
}
