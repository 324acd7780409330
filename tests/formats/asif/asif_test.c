/*
 * Apple sparse images from byte literals: entries of all kinds, and what is not known.
 */
#include "formats/asif/asif_layout.h"
#include "libimg/base/endian.h"
#include "tests/image/folder.h"

TestSuite(asif, .init = folder_make, .fini = folder_remove);

enum {
	CHUNK = 64 << 10,
	BLOCK = 512,
	GROUP = 4 * BLOCK,
	TABLE_CHUNKS = 3 * GROUP, /* what 64 KiB of entries have whole groups for */
	CHUNKS = 8,		  /* of the file: header, table, bitmap, data */
	DIRECTORY = 512,
	OLD_DIRECTORY = 1024,
	SIZE = 5 * CHUNK + BLOCK,
};

static uint8_t file[CHUNKS * CHUNK];

static void put_entry(uint64_t chunk, uint64_t entry, unsigned status, uint64_t to)
{
	be64_store(file + chunk * CHUNK + entry * 8, (uint64_t)status << 62 | to);
}

/* Chunks 3 on of the file are full of their numbers. Chunks of the disk: 3, zero, 4 partly, unmapped, 5, 6. */
static void make(void)
{
	memset(file, 0, sizeof(file));
	memcpy(file, "shdw", 4);
	be32_store(file + 4, 1);
	be32_store(file + 8, 512);
	be64_store(file + 16, OLD_DIRECTORY);
	be64_store(file + 24, DIRECTORY);
	be64_store(file + 48, SIZE / BLOCK);
	be64_store(file + 56, UINT64_C(2) * TABLE_CHUNKS * CHUNK / BLOCK);
	be32_store(file + 64, CHUNK);
	be16_store(file + 68, BLOCK);
	be64_store(file + OLD_DIRECTORY, 1);
	be64_store(file + OLD_DIRECTORY + 8, 7);
	be64_store(file + DIRECTORY, 2);
	be64_store(file + DIRECTORY + 8, 1);
	put_entry(1, 0, 1, 3);
	put_entry(1, 2, 3, 4);
	put_entry(1, 3, 2, 0);
	put_entry(1, 4, 1, 5);
	put_entry(1, 5, 1, 6);
	put_entry(1, GROUP, 0, 2);
	/* blocks 1, 2 and 127 of the disk's chunk 2 were written, 3 is unmapped */
	file[2 * CHUNK + 2 * CHUNK / BLOCK / 4] = 0x94;
	file[2 * CHUNK + 3 * CHUNK / BLOCK / 4 - 1] = 0x40;
	for (int i = 3; i < CHUNKS; i++)
		memset(file + (size_t)i * CHUNK, i, CHUNK);
	make_file("a", file, sizeof(file), sizeof(file));
}

static uint8_t expected(uint64_t off)
{
	static const uint8_t values[] = { 3, 0, 4, 0, 5, 6 };
	uint64_t block = off % CHUNK / BLOCK;

	if (off / CHUNK == 2 && block != 1 && block != 2 && block != 127)
		return 0;
	return values[off / CHUNK];
}

static void rewrite(void)
{
	make_file("a", file, sizeof(file), sizeof(file));
}

static uint64_t defects(void)
{
	struct img *img = must_open("a", NULL, 0);
	struct img_check_result result;

	cr_assert_eq(img_check(img, 0, NULL, NULL, &result, NULL), 0);
	must_close(img);
	return result.corruptions;
}

Test(asif, reads)
{
	uint8_t *got = malloc(SIZE);
	struct img_map_entry e;
	struct img *img;

	make();
	for (int turn = 0; turn < 2; turn++) {
		img = must_open("a", NULL, 0);
		cr_assert_str_eq(img_format(img), "asif");
		cr_assert_eq(img_size(img), SIZE);
		cr_assert_eq(img_read(img, 0, got, SIZE, NULL), 0);
		for (size_t i = 0; i < SIZE; i++)
			cr_assert_eq(got[i], expected(i), "byte %zu", i);
		cr_assert_eq(img_read(img, 2 * CHUNK + BLOCK - 1, got, 2, NULL), 0);
		cr_assert(got[0] == 0 && got[1] == 4);
		cr_assert_eq(img_map(img, 4 * CHUNK + 5, CHUNK, true, &e, NULL), 0);
		cr_assert(e.data && e.offset == 5 * CHUNK + 5 && e.length == CHUNK);
		must_close(img);
		cr_assert_eq(defects(), 0);
		/* the other directory is as good, if it is later */
		be64_store(file + 16, DIRECTORY);
		be64_store(file + 24, OLD_DIRECTORY);
		rewrite();
	}
	cr_assert_eq(img_format_features("asif"), IMG_FORMAT_CHECK);
	free(got);
}

Test(asif, what_is_not_known_is_refused)
{
	static const struct {
		uint64_t entry;
		unsigned status;
		uint64_t to;
		int rc;
	} rows[] = {
		{ 0, 0, 3, -ENOTSUP },
		{ 0, 2, 3, -ENOTSUP },
		{ 0, 1, 0, -ENOTSUP },
		{ 0, 3, 0, -ENOTSUP },
		{ 0, 1, UINT64_C(1) << 55 | 3, -ENOTSUP },
		{ 0, 1, UINT64_C(1) << 61 | 3, -ENOTSUP },
		{ 0, 1, CHUNKS, -EUCLEAN },
		{ 0, 1, (UINT64_C(1) << 55) - 1, -EUCLEAN },
		{ GROUP, 2, 2, -ENOTSUP },
		{ GROUP, 0, 0, -ENOTSUP },
		{ GROUP, 0, CHUNKS, -EUCLEAN },
	};
	uint8_t got[BLOCK];
	struct img *img;

	for (size_t i = 0; i < COUNT(rows); i++) {
		make();
		put_entry(1, 0, 3, 3); /* partly, all of it */
		put_entry(1, rows[i].entry, rows[i].status, rows[i].to);
		rewrite();
		img = must_open("a", NULL, 0);
		cr_assert_eq(img_read(img, 0, got, BLOCK, NULL), rows[i].rc, "row %zu", i);
		cr_assert_eq(img_read(img, 4 * CHUNK, got, BLOCK, NULL), 0);
		must_close(img);
		cr_assert_eq(defects(), i == 9 ? 0 : 1, "row %zu", i);
	}
	make();
	file[2 * CHUNK + 2 * CHUNK / BLOCK / 4] = 0x3;
	rewrite();
	img = must_open("a", NULL, 0);
	cr_assert_eq(img_read(img, 2 * CHUNK, got, BLOCK, NULL), -ENOTSUP);
	cr_assert_eq(img_read(img, 2 * CHUNK + BLOCK, got, BLOCK, NULL), 0);
	must_close(img);
	/* the directory's */
	make();
	be64_store(file + DIRECTORY + 8, UINT64_C(1) << 62 | 1);
	rewrite();
	img = must_open("a", NULL, 0);
	cr_assert_eq(img_read(img, 0, got, BLOCK, NULL), -ENOTSUP);
	must_close(img);
	cr_assert_eq(defects(), 1);
	/* used twice */
	make();
	put_entry(1, 1, 1, 3);
	be64_store(file + DIRECTORY + 16, 1);
	rewrite();
	cr_assert_eq(defects(), 2);
}

Test(asif, headers)
{
	static const struct {
		unsigned off, bytes;
		uint64_t value;
		int rc;
	} rows[] = {
		{ 4, 4, 2, -ENOTSUP },
		{ 8, 4, 107, -EUCLEAN },
		{ 16, 8, 0, -EUCLEAN },
		{ 16, 8, 1025, -EUCLEAN },
		{ 24, 8, UINT64_MAX - 7, -EUCLEAN },
		{ 24, 8, INT64_MAX - 7, -EUCLEAN },
		{ 48, 8, UINT64_MAX, -EUCLEAN },
		{ 56, 8, 1, -EUCLEAN },
		{ 56, 8, INT64_MAX / BLOCK, -ENOTSUP },
		{ 64, 4, 0, -ENOTSUP },
		{ 64, 4, CHUNK + 512, -ENOTSUP },
		{ 64, 4, 128 << 20, -ENOTSUP },
		{ 64, 4, 64 << 20, 0 },
		{ 68, 2, 0, -ENOTSUP },
		{ 68, 2, 1024, -ENOTSUP },
		{ 68, 2, 4096, -ENOTSUP }, /* no group fits in a table of 64 KiB */
	};
	struct asif_header h;

	for (size_t i = 0; i < COUNT(rows); i++) {
		make();
		if (rows[i].bytes == 8)
			be64_store(file + rows[i].off, rows[i].value);
		else if (rows[i].bytes == 4)
			be32_store(file + rows[i].off, (uint32_t)rows[i].value);
		else
			be16_store(file + rows[i].off, (uint16_t)rows[i].value);
		cr_assert_eq(asif_parse_header(file, ASIF_HEADER_BYTES, &h, NULL), rows[i].rc, "row %zu", i);
	}
	make();
	cr_assert_eq(asif_parse_header(file, ASIF_HEADER_BYTES, &h, NULL), 0);
	cr_assert(h.group_chunks == GROUP && h.table_chunks == TABLE_CHUNKS &&
		  asif_table_count(&h) == 2);
	cr_assert_eq(asif_data_entry(&h, GROUP - 1), GROUP - 1);
	cr_assert_eq(asif_data_entry(&h, GROUP), GROUP + 1);
	cr_assert_eq(asif_bitmap_entry(&h, GROUP - 1), GROUP);
	cr_assert_eq(asif_bitmap_entry(&h, GROUP), 2 * GROUP + 1);
	/* as a Mac has them */
	be32_store(file + 64, 1 << 20);
	cr_assert_eq(asif_parse_header(file, ASIF_HEADER_BYTES, &h, NULL), 0);
	cr_assert_eq(h.table_chunks, 129024);
}
