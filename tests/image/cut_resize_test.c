/*
 * A disk is made smaller, and the power goes at any moment of that; then it is made larger: what was cut off does
 * not come back, and nothing that the file had for it is used twice. Every format.
 */
#include "libimg/image/context.h"
#include "libimg/storage/storage.h"
#include "tests/image/folder.h"

TestSuite(cut_resize, .init = folder_make, .fini = folder_remove, .timeout = 60);

enum {
	MIB = 1 << 20,
	SIZE = 3 * MIB,
	SMALLER = MIB + 71680, /* inside a unit of every format */
	LARGER = 5 * MIB + 512,
	FILE_LIMIT = 64 * MIB,
};

static void make(const char *format, const char *options)
{
	const char *list[] = { options, NULL };
	struct img_create_options o = {
		.format = format,
		.have_size = true,
		.size = SIZE,
		.options = options ? list : NULL,
	};
	struct img_error *err = img_error_new();
	uint8_t *bytes = malloc(SIZE);
	struct img *img;

	unlink("a");
	cr_assert_eq(img_create("a", &o, err), 0, "%s", img_error_text(err));
	img = must_open("a", format, IMG_OPEN_WRITE);
	memset(bytes, 7, SIZE);
	cr_assert_eq(img_write(img, 0, bytes, SIZE, NULL), 0);
	must_close(img);
	free(bytes);
	img_error_free(err);
}

/* The file in memory, with what the first n changes did to it. */
static struct img_storage *state(const uint8_t *bytes, size_t len, const struct img_record *record, size_t n)
{
	struct img_storage *s;

	cr_assert_eq(img_storage_memory("a", len, FILE_LIMIT, &s), 0);
	cr_assert_eq(img_storage_write(s, 0, bytes, len, NULL), 0);
	for (size_t i = 0; i < n; i++) {
		const struct img_record_entry *e = img_record_at(record, i);

		if (e->kind == IMG_RECORD_WRITE)
			cr_assert_eq(img_storage_write(s, e->off, e->data, e->len, NULL), 0);
		else if (e->kind == IMG_RECORD_ZERO)
			cr_assert_eq(img_storage_zero(s, e->off, e->len, NULL), 0);
		else if (e->kind == IMG_RECORD_RESIZE)
			cr_assert_eq(img_storage_resize(s, e->len, IMG_PREALLOCATE_OFF, NULL), 0);
	}
	return s;
}

static struct img *open_state(struct img_storage *s, const char *format, unsigned flags)
{
	struct img_open_options o = { .format = format, .flags = flags, .io = IMG_IO_THREADS };
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	cr_assert_eq(img_open_storage(s, "a", &o, &img, err), 0, "%s: %s", format, img_error_text(err));
	img_error_free(err);
	return img;
}

static void grow_after(struct img_storage *s, const char *format, size_t n)
{
	struct img *img = open_state(s, format, IMG_OPEN_WRITE);
	uint64_t had = img_size(img);
	uint8_t *bytes = malloc(LARGER);
	struct img_check_result r;
	int rc;

	cr_assert(had == SIZE || had == SMALLER, "%s: %llu", format, (unsigned long long)had);
	cr_assert_eq(img_resize(img, LARGER, IMG_PREALLOCATE_OFF, NULL), 0, "%s, %zu", format, n);
	memset(bytes, 8, MIB);
	cr_assert_eq(img_write(img, 4 * MIB, bytes, MIB, NULL), 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(img_read(img, 0, bytes, LARGER, NULL), 0);
	for (uint64_t at = 0; at < LARGER; at++)
		cr_assert_eq(bytes[at], at < had ? 7 : at >= 4 * MIB && at < 5 * MIB ? 8
										     : 0,
			     "%s, after change %zu: byte %llu is %u", format, n, (unsigned long long)at,
			     bytes[at]);
	rc = img_check(img, 0, NULL, NULL, &r, NULL);
	cr_assert(rc == -ENOTSUP || (!rc && !r.corruptions), "%s, after change %zu", format, n);
	free(bytes);
	cr_assert_eq(img_close(img, NULL), 0);
}

static void try(const char *format, const char *options)
{
	struct img_record *record = img_record_new();
	struct img_storage *s;
	uint8_t *bytes;
	struct img *img;
	struct stat st;
	size_t len;
	int fd;

	make(format, options);
	fd = open("a", O_RDONLY | O_CLOEXEC);
	cr_assert(fd >= 0 && !fstat(fd, &st));
	len = (size_t)st.st_size;
	bytes = malloc(len);
	cr_assert_eq(pread(fd, bytes, len, 0), (ssize_t)len);
	close(fd);
	cr_assert_eq(img_storage_record(state(bytes, len, NULL, 0), record, &s), 0);
	img = open_state(s, format, IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, SMALLER, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_close(img, NULL), 0);
	cr_assert_gt(img_record_count(record), 0);
	for (size_t n = 0; n <= img_record_count(record); n++)
		if (n == img_record_count(record) ||
		    img_record_at(record, n)->kind != IMG_RECORD_SYNC)
			grow_after(state(bytes, len, record, n), format, n);
	img_record_free(record);
	free(bytes);
}

Test(cut_resize, raw_and_qcow2)
{
	try("raw", NULL);
	try("qcow2", NULL);
	try("qcow2", "cluster_size=4k");
	try("qcow2", "cluster_size=16k,extended_l2=on");
}

Test(cut_resize, vmdk)
{
	try("vmdk", NULL);
	try("vmdk", "zeroed_grain=on");
}

Test(cut_resize, vdi)
{
	try("vdi", "block_size=64k");
	try("vdi", "static=on");
}

Test(cut_resize, qed)
{
	try("qed", NULL);
	try("qed", "cluster_size=4k,table_size=1");
}

Test(cut_resize, qcow)
{
	try("qcow", NULL);
}

Test(cut_resize, vhd_and_vhdx)
{
	try("vpc", "force_size=on,block_size=64k");
	try("vpc", "force_size=on,subformat=fixed");
	try("vhdx", "block_size=1M");
	try("vhdx", "block_size=1M,subformat=fixed");
}

Test(cut_resize, parallels)
{
	try("parallels", "cluster_size=64k");
	try("parallels", "cluster_size=512");
	try("parallels", "cluster_size=32256");
}
