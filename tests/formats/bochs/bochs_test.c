/*
 * Bochs images from byte literals: headers, what is read, and what a check says.
 */
#include "formats/bochs/bochs_layout.h"
#include "libimg/base/endian.h"
#include "tests/image/folder.h"

TestSuite(bochs, .init = folder_make, .fini = folder_remove);

enum {
	EXTENT = 8192, /* 16 sectors */
	EXTENTS = 5,
	IN_FILE = 3,
	STRIDE = 512 + EXTENT,
	CATALOG = 512,
	DATA = CATALOG + EXTENTS * 4,
	BYTES = DATA + IN_FILE * STRIDE,
	SIZE = EXTENTS * EXTENT - 1024,
};

#define FREE UINT32_C(0xffffffff)

/* Extent i of the file is full of i + 1 in the sectors that it has, and 0xee in others. */
static void make_image_bytes(uint8_t b[BYTES], unsigned version)
{
	static const uint32_t catalog[EXTENTS] = { 2, FREE, 0, FREE, 1 };

	memset(b, 0, BYTES);
	memcpy(b, "Bochs Virtual HD Image", 22);
	memcpy(b + 32, "Redolog", 7);
	memcpy(b + 48, "Growing", 7);
	le32_store(b + 64, version << 16);
	le32_store(b + 68, CATALOG);
	le32_store(b + 72, EXTENTS);
	le32_store(b + 76, 2);
	le32_store(b + 80, EXTENT);
	le64_store(b + (version == 1 ? 84 : 88), SIZE);
	for (unsigned i = 0; i < EXTENTS; i++)
		le32_store(b + CATALOG + i * 4, catalog[i]);
	for (unsigned i = 0; i < IN_FILE; i++) {
		uint8_t *extent = b + DATA + i * STRIDE;

		extent[0] = 0x81; /* sectors 0, 7, 8 and 14 */
		extent[1] = 0x41;
		memset(extent + 512, 0xee, EXTENT);
		for (unsigned s = 0; s < 16; s++)
			if (extent[s / 8] >> s % 8 & 1)
				memset(extent + 512 + (size_t)s * 512, (int)i + 1, 512);
	}
}

static uint8_t expected(uint64_t off)
{
	static const uint8_t values[EXTENTS] = { 3, 0, 1, 0, 2 };
	unsigned sector = off % EXTENT / 512;

	return sector == 0 || sector == 7 || sector == 8 || sector == 14 ? values[off / EXTENT] : 0;
}

Test(bochs, reads)
{
	uint8_t b[BYTES], got[SIZE], word[4];

	for (unsigned version = 1; version <= 2; version++) {
		struct img *img;

		make_image_bytes(b, version);
		make_file("a", b, BYTES, BYTES);
		img = must_open("a", NULL, 0);
		cr_assert_str_eq(img_format(img), "bochs");
		cr_assert_eq(img_size(img), SIZE);
		cr_assert_eq(img_read(img, 0, got, SIZE, NULL), 0);
		for (size_t i = 0; i < SIZE; i++)
			cr_assert_eq(got[i], expected(i), "version %u, byte %zu", version, i);
		for (uint64_t off = 1; off + 4 < SIZE; off += 509) {
			cr_assert_eq(img_read(img, off, word, 4, NULL), 0);
			cr_assert_arr_eq(word, got + off, 4);
		}
		must_close(img);
	}
}

Test(bochs, maps_runs)
{
	uint8_t b[BYTES];
	struct img_map_entry e;
	struct img *img;

	make_image_bytes(b, 2);
	make_file("a", b, BYTES, BYTES);
	img = must_open("a", "bochs", 0);
	cr_assert_eq(img_map(img, 7 * 512, SIZE - 7 * 512, true, &e, NULL), 0);
	cr_assert(e.data && !e.zero && e.length == 1024 && e.offset == DATA + 2 * STRIDE + 8 * 512);
	cr_assert_eq(img_map(img, EXTENT + 100, SIZE - EXTENT - 100, true, &e, NULL), 0);
	cr_assert(e.zero && !e.data && e.length == EXTENT - 100);
	must_close(img);
	cr_assert_eq(img_format_features("bochs"), IMG_FORMAT_CHECK);
}

static int parse(const uint8_t *b, struct bochs_header *h)
{
	return bochs_parse_header(b, BOCHS_HEADER_BYTES, h, NULL);
}

/* Each field beyond what it may be, and just within. */
Test(bochs, fields)
{
	static const struct {
		unsigned off;
		uint32_t value;
		int rc;
	} rows[] = {
		{ 64, 0x30000, -ENOTSUP },
		{ 64, 0, -ENOTSUP },
		{ 68, 92, -EUCLEAN },
		{ 68, 98, -ENOTSUP },
		{ 68, 96, 0 },
		{ 68, 0xfffffffc, 0 },
		{ 72, EXTENTS - 1, -EUCLEAN },
		{ 72, 0, -EUCLEAN },
		{ 72, UINT32_MAX, 0 },
		{ 76, 0, -EUCLEAN },
		{ 76, 1, -EUCLEAN },
		{ 76, UINT32_MAX, -EUCLEAN },
		{ 76, 1 << 29, 0 },
		{ 80, 0, -EUCLEAN },
		{ 80, 256, -EUCLEAN },
		{ 80, 8200, -EUCLEAN },
		{ 80, 1 << 30, -EUCLEAN },
		{ 80, 7680, -EUCLEAN }, /* more extents */
		{ 92, 1 << 30, -EUCLEAN },
		{ 92, UINT32_MAX, -EUCLEAN },
	};
	uint8_t b[BYTES];
	struct bochs_header h;

	for (size_t i = 0; i < COUNT(rows); i++) {
		make_image_bytes(b, 2);
		le32_store(b + rows[i].off, rows[i].value);
		cr_assert_eq(parse(b, &h), rows[i].rc, "row %zu", i);
	}
	/* the last extent's end is still a number of a file */
	make_image_bytes(b, 2);
	le32_store(b + 68, 0xfffffffc);
	le32_store(b + 72, UINT32_MAX);
	le32_store(b + 76, 1 << 29);
	le32_store(b + 80, 1 << 29);
	cr_assert_eq(parse(b, &h), 0);
	cr_assert_lt(bochs_extent_at(&h, FREE - 1), (uint64_t)INT64_MAX + 1);
	b[10]++;
	cr_assert_eq(parse(b, &h), -EMEDIUMTYPE);
}

Test(bochs, other_kinds_are_refused_by_name)
{
	static const char *const kinds[] = { "Undoable", "Volatile", "vvfat", "0123456789abcdef" };
	struct img_open_options o = { 0 };
	uint8_t b[BYTES];
	const char *text;

	for (size_t i = 0; i < COUNT(kinds); i++) {
		make_image_bytes(b, 2);
		memset(b + 48, 0, 16);
		memcpy(b + 48, kinds[i], strlen(kinds[i]));
		make_file("a", b, BYTES, BYTES);
		must_fail("a", &o, &text);
		cr_assert(strstr(text, kinds[i]) && strstr(text, "Growing"), "%s", text);
	}
	o.format = "bochs";
	o.flags = IMG_OPEN_WRITE;
	make_image_bytes(b, 2);
	make_file("a", b, BYTES, BYTES);
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "only be read"), "%s", text);
}

static uint64_t defects(const char *name)
{
	struct img *img = must_open(name, "bochs", 0);
	struct img_check_result result;

	cr_assert_eq(img_check(img, 0, NULL, NULL, &result, NULL), 0);
	must_close(img);
	return result.corruptions;
}

Test(bochs, what_the_file_does_not_have)
{
	struct img_open_options o = { .format = "bochs" };
	uint8_t b[BYTES], got[512];
	struct img *img;
	const char *text;

	make_image_bytes(b, 2);
	make_file("a", b, BYTES, BYTES);
	cr_assert_eq(defects("a"), 0);
	/* the end of the last extent, which is the disk's first */
	cr_assert_eq(truncate("a", BYTES - 1024), 0);
	cr_assert_eq(defects("a"), 1);
	img = must_open("a", "bochs", 0);
	cr_assert_eq(img_read(img, 14 * 512, got, 512, NULL), -EUCLEAN);
	cr_assert_eq(img_read(img, 8 * 512, got, 512, NULL), 0);
	must_close(img);
	/* an extent that two entries name, and one far away */
	le32_store(b + CATALOG + 4, 0);
	le32_store(b + CATALOG + 12, FREE - 1);
	make_file("a", b, BYTES, BYTES);
	cr_assert_eq(defects("a"), 2);
	img = must_open("a", "bochs", 0);
	cr_assert_eq(img_read(img, 3 * EXTENT, got, 512, NULL), -EUCLEAN);
	must_close(img);
	make_file("a", b, DATA - 1, DATA - 1);
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "truncated"), "%s", text);
	make_file("a", b, 95, 95);
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "not in bochs format"), "%s", text);
}
