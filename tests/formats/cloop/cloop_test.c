/*
 * cloop images from byte literals and zlib: headers in front and behind, and what offsets may be.
 */
#include <zlib.h>

#include "formats/cloop/cloop_layout.h"
#include "libimg/base/endian.h"
#include "tests/image/folder.h"

TestSuite(cloop, .init = folder_make, .fini = folder_remove);

enum {
	BLOCK = 1536,
	BLOCKS = 6000, /* so that the offsets go on in another block of metadata */
	SIZE = BLOCK * BLOCKS,
	BYTES_MAX = 1 << 20,
};

struct image {
	uint8_t *bytes; /* BYTES_MAX */
	size_t len, table, header;
};

static void make_header(uint8_t *b, unsigned version, uint32_t block, uint32_t blocks)
{
	memset(b, 0, CLOOP_HEADER_BYTES);
	sprintf((char *)b, "#!/bin/sh\n#V%u.0 Format\nmodprobe cloop file=$0\n", version);
	be32_store(b + 128, block);
	be32_store(b + 132, blocks);
}

/* Block i is full of i % 251; each third of version 4 is not compressed. */
static struct image make_cloop(unsigned version, bool at_end)
{
	struct image m = { .bytes = calloc(1, BYTES_MAX + SIZE) };
	size_t table_bytes = (BLOCKS + 1) * 8;
	size_t at = at_end ? 1 : CLOOP_HEADER_BYTES + table_bytes; /* 1: the table is not aligned */
	uint8_t *table = calloc(1, table_bytes), block[BLOCK];

	for (unsigned i = 0; i <= BLOCKS; i++) {
		bool plain = version == 4 && i % 3 == 0 && i < BLOCKS;
		uLongf len = BLOCK + 100;

		be64_store(table + (size_t)i * 8, at | (uint64_t)plain << 60);
		memset(block, (int)(i % 251), BLOCK);
		if (i < BLOCKS && plain)
			memcpy(m.bytes + at, block, len = BLOCK);
		else if (i < BLOCKS)
			cr_assert_eq(compress(m.bytes + at, &len, block, BLOCK), Z_OK);
		at += i < BLOCKS ? len : 0;
	}
	m.table = at_end ? at : CLOOP_HEADER_BYTES;
	m.header = at_end ? at + table_bytes : 0;
	m.len = at_end ? m.header + CLOOP_HEADER_BYTES : at;
	memcpy(m.bytes + m.table, table, table_bytes);
	make_header(m.bytes + m.header, version, BLOCK, BLOCKS);
	free(table);
	return m;
}

static void write_image(const char *name, const struct image *m)
{
	make_file(name, m->bytes, m->len, (off_t)m->len);
}

static uint64_t defects(const char *name)
{
	struct img *img = must_open(name, "cloop", 0);
	struct img_check_result result;

	cr_assert_eq(img_check(img, 0, NULL, NULL, &result, NULL), 0);
	must_close(img);
	return result.corruptions;
}

Test(cloop, reads)
{
	uint8_t *got = malloc(SIZE);

	for (unsigned kind = 0; kind < 3; kind++) {
		struct image m = make_cloop(kind ? 4 : 2, kind == 2);
		struct img *img;

		write_image("a", &m);
		free(m.bytes);
		img = must_open("a", NULL, 0);
		cr_assert_str_eq(img_format(img), "cloop");
		cr_assert_eq(img_size(img), SIZE);
		cr_assert_eq(img_read(img, 0, got, SIZE, NULL), 0);
		for (size_t i = 0; i < SIZE; i++)
			cr_assert_eq(got[i], i / BLOCK % 251, "kind %u, byte %zu", kind, i);
		cr_assert_eq(img_read(img, 7 * BLOCK - 1, got, 2, NULL), 0);
		cr_assert(got[0] == 6 && got[1] == 7);
		must_close(img);
		cr_assert_eq(defects("a"), 0);
	}
	free(got);
}

static int parse(const uint8_t *b, size_t len, struct cloop_header *h)
{
	return cloop_parse_header(b, len, h, NULL);
}

Test(cloop, headers)
{
	uint8_t b[CLOOP_HEADER_BYTES];
	struct cloop_header h;

	make_header(b, 2, 512, UINT32_MAX);
	cr_assert_eq(parse(b, sizeof(b), &h), 0);
	cr_assert(h.version == 2 && h.block_bytes == 512 && h.blocks == UINT32_MAX);
	cr_assert_eq(cloop_table_bytes(&h), UINT64_C(1) << 35);
	cr_assert_eq(parse(b, sizeof(b) - 1, &h), -EMEDIUMTYPE);
	make_header(b, 4, 64 << 20, 0);
	cr_assert_eq(parse(b, sizeof(b), &h), 0);
	make_header(b, 4, (64 << 20) + 512, 1);
	cr_assert_eq(parse(b, sizeof(b), &h), -EUCLEAN);
	make_header(b, 4, 0, 1);
	cr_assert_eq(parse(b, sizeof(b), &h), -EUCLEAN);
	make_header(b, 4, 1000, 1);
	cr_assert_eq(parse(b, sizeof(b), &h), -EUCLEAN);
	make_header(b, 1, 512, 1);
	cr_assert_eq(parse(b, sizeof(b), &h), -ENOTSUP);
	b[11] = 'v';
	cr_assert_eq(parse(b, sizeof(b), &h), -EMEDIUMTYPE);
}

Test(cloop, offsets_that_lead_nowhere)
{
	struct image m = make_cloop(2, false);
	uint8_t got[BLOCK];
	struct img *img;

	be64_store(m.bytes + m.table + 10 * 8, UINT64_MAX);		   /* ends 9, begins 10 */
	be64_store(m.bytes + m.table + 20 * 8, 0);			   /* ends 19 before it begins */
	memcpy(m.bytes + m.table + 31 * 8, m.bytes + m.table + 30 * 8, 8); /* 30 is empty */
	be64_store(m.bytes + m.table + BLOCKS * 8, m.len + 1);
	write_image("a", &m);
	/* 9 and 10, 19 and (too long) 20, 30, the last; 31 has two streams' length, which does no harm */
	cr_assert_eq(defects("a"), 6);
	img = must_open("a", "cloop", 0);
	cr_assert_eq(img_read(img, 8 * BLOCK, got, BLOCK, NULL), 0);
	for (unsigned i = 9; i <= 10; i++)
		cr_assert_eq(img_read(img, (uint64_t)i * BLOCK, got, BLOCK, NULL), -EUCLEAN);
	cr_assert_eq(img_read(img, 19 * BLOCK, got, BLOCK, NULL), -EUCLEAN);
	cr_assert_eq(img_read(img, 20 * BLOCK, got, BLOCK, NULL), -EUCLEAN);
	cr_assert_eq(img_read(img, 30 * BLOCK, got, BLOCK, NULL), -EUCLEAN);
	must_close(img);
	free(m.bytes);
}

Test(cloop, how_blocks_are_stored)
{
	static const struct {
		unsigned kind;
		const char *said;
	} rows[] = {
		{ 1, "not compressed" }, /* of another length */
		{ 3, "lz4" },
		{ 4, "lzo" },
		{ 5, "not known" },
		{ 15, "not known" },
	};
	struct image m = make_cloop(4, true);
	struct img_error *err = img_error_new();
	uint8_t got[BLOCK];

	for (size_t i = 0; i < COUNT(rows); i++) {
		uint8_t *entry = m.bytes + m.table + 8;
		struct img *img;

		*entry = (uint8_t)(rows[i].kind << 4 | (*entry & 15));
		write_image("a", &m);
		img = must_open("a", NULL, 0);
		cr_assert_lt(img_read(img, BLOCK, got, BLOCK, err), 0);
		cr_assert(strstr(img_error_text(err), rows[i].said), "%s", img_error_text(err));
		cr_assert_eq(img_read(img, 0, got, BLOCK, err), 0);
		must_close(img);
		cr_assert_eq(defects("a"), 1);
	}
	img_error_free(err);
	free(m.bytes);
}

/* What is wrong with the file as a whole; what is not one of these is not taken for one. */
Test(cloop, files)
{
	struct img_open_options o = { .format = "cloop" }, guess = { 0 };
	struct image m = make_cloop(2, false);
	const char *text;

	make_file("a", m.bytes, 5000, 5000);
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "truncated"), "%s", text);
	free(m.bytes);
	m = make_cloop(4, true);
	/* a raw disk that a cloop image ends: its offsets do not begin where they should */
	make_file("a", "", 0, (off_t)m.len + 512);
	{
		int fd = open("a", O_WRONLY | O_CLOEXEC);

		cr_assert_eq(pwrite(fd, m.bytes, m.len, 512), (ssize_t)m.len);
		close(fd);
	}
	must_fail("a", &guess, &text);
	cr_assert(strstr(text, "nearly a cloop image"), "%s", text);
	/* another file's end */
	make_file("a", m.bytes + m.header - 100, CLOOP_HEADER_BYTES + 100, CLOOP_HEADER_BYTES + 100);
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "truncated"), "%s", text);
	make_header(m.bytes + m.header, 2, BLOCK, BLOCKS);
	write_image("a", &m);
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "V2.0"), "%s", text);
	memcpy(m.bytes + m.len - 8, "\nCLOOP3\n", 8);
	write_image("a", &m);
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "CLOOP3"), "%s", text);
	must_fail("a", &guess, &text);
	cr_assert(strstr(text, "nearly a cloop image"), "%s", text);
	make_file("a", "#!/bin/sh\n#V2.0 of what I do each day\n", 38, 4096);
	must_close(must_open("a", NULL, 0));
	free(m.bytes);
}
