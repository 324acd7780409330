/*
 * Headers and entries of sparse extents, from bytes.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "formats/vmdk/vmdk_layout.h"
#include "libimg/base/endian.h"

/* What QEMU writes for a monolithicSparse disk of 10 MiB: one table, a redundant one. */
static void hosted(uint8_t *b)
{
	memset(b, 0, 512);
	memcpy(b, "KDMV", 4);
	le32_store(b + 4, 1);
	le32_store(b + 8, 3);
	le64_store(b + 12, 20480);
	le64_store(b + 20, 128);
	le64_store(b + 28, 1);
	le64_store(b + 36, 20);
	le32_store(b + 44, 512);
	le64_store(b + 48, 21);
	le64_store(b + 56, 26);
	le64_store(b + 64, 128);
	memcpy(b + 73, "\n \r\n", 4);
}

static void cowd(uint8_t *b)
{
	memset(b, 0, 2048);
	memcpy(b, "COWD", 4);
	le32_store(b + 4, 1);
	le32_store(b + 8, 3);
	le32_store(b + 12, 16384);
	le32_store(b + 16, 1);
	le32_store(b + 20, 4);
	le32_store(b + 24, 4);
}

static void sesparse(uint8_t *b)
{
	memset(b, 0, 512);
	le64_store(b, 0xcafebabe);
	le64_store(b + 8, UINT64_C(0x200000001));
	le64_store(b + 16, 32768 * 2);
	le64_store(b + 24, 8);
	le64_store(b + 32, 64);
	le64_store(b + 80, 1); /* volatile header */
	le64_store(b + 88, 1);
	le64_store(b + 128, 2); /* directory */
	le64_store(b + 136, 1);
	le64_store(b + 144, 64); /* tables: 2 of 64 sectors */
	le64_store(b + 152, 128);
	le64_store(b + 192, 256); /* grains */
	le64_store(b + 200, 4096 * 8);
}

enum { FILE_BYTES = 1 << 20 };

static int parse(const uint8_t *b, struct vmdk_sparse *s)
{
	return vmdk_parse_sparse(b, 2048, FILE_BYTES, s, NULL);
}

Test(vmdk_layout, hosted_header)
{
	uint8_t b[2048] = { 0 };
	struct vmdk_sparse s;

	hosted(b);
	cr_assert_eq(parse(b, &s), 0);
	cr_assert_eq(s.kind, VMDK_HOSTED);
	cr_assert_eq(s.capacity_bytes, 10 << 20);
	cr_assert_eq(s.grain_bytes, 65536);
	cr_assert_eq(s.directory_entries, 1);
	cr_assert_eq(s.directory_off, 26 * 512);
	cr_assert_eq(s.redundant_off, 21 * 512);
	cr_assert_eq(s.descriptor_off, 512);
	cr_assert_eq(s.descriptor_bytes, 20 * 512);
	cr_assert(!s.compressed && !s.markers && !s.zeroed_grains && !s.unclean && !s.at_end);
}

Test(vmdk_layout, hosted_header_is_refused)
{
	static const struct {
		const char *what;
		size_t off, len;
		uint64_t value;
		int rc;
	} rows[] = {
		{ "magic", 0, 4, 0x11111111, -EMEDIUMTYPE },
		{ "version 0", 4, 4, 0, -ENOTSUP },
		{ "version 4", 4, 4, 4, -ENOTSUP },
		{ "an unknown flag that matters", 8, 4, 0x40003, -ENOTSUP },
		{ "compressed, but not", 8, 4, 0x10003, -EUCLEAN },
		{ "capacity", 12, 8, UINT64_MAX, -EUCLEAN },
		{ "capacity beyond all tables", 12, 8, UINT64_C(1) << 53, -EUCLEAN },
		{ "grain 0", 20, 8, 0, -EUCLEAN },
		{ "grain 3", 20, 8, 3, -EUCLEAN },
		{ "grain 2 GiB", 20, 8, 0x400000, -EUCLEAN },
		{ "descriptor", 28, 8, UINT64_C(1) << 62, -EUCLEAN },
		{ "descriptor's size", 36, 8, UINT64_C(1) << 62, -EUCLEAN },
		{ "no entries in a table", 44, 4, 0, -EUCLEAN },
		{ "too many entries in a table", 44, 4, 513, -EUCLEAN },
		{ "newlines", 73, 1, '\r', -EUCLEAN },
		{ "compression 2", 77, 2, 2, -ENOTSUP },
	};
	uint8_t b[2048] = { 0 };
	struct vmdk_sparse s;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		hosted(b);
		for (size_t k = 0; k < rows[i].len; k++)
			b[rows[i].off + k] = (uint8_t)(rows[i].value >> (8 * k));
		cr_expect_eq(parse(b, &s), rows[i].rc, "%s", rows[i].what);
	}
	hosted(b);
	cr_expect_eq(vmdk_parse_sparse(b, 511, FILE_BYTES, &s, NULL), -EUCLEAN);
	cr_expect_eq(vmdk_parse_sparse(b, 3, FILE_BYTES, &s, NULL), -EMEDIUMTYPE);
}

Test(vmdk_layout, the_redundant_directory_stands_in)
{
	uint8_t b[2048] = { 0 };
	struct vmdk_sparse s;

	hosted(b);
	le64_store(b + 56, UINT64_C(1) << 40);
	cr_assert_eq(parse(b, &s), 0);
	cr_assert_eq(s.directory_off, 21 * 512);
	cr_assert_eq(s.redundant_off, 0);
	le32_store(b + 8, 1); /* no redundant one */
	cr_assert_eq(parse(b, &s), -EUCLEAN);
	le32_store(b + 8, 3);
	le64_store(b + 48, 0);
	cr_assert_eq(parse(b, &s), -EUCLEAN);
}

Test(vmdk_layout, footer)
{
	uint8_t b[2048] = { 0 };
	struct vmdk_sparse s;

	hosted(b);
	le32_store(b + 4, 3);
	le32_store(b + 8, 0x30001);
	le64_store(b + 56, UINT64_MAX);
	b[77] = 1;
	cr_assert_eq(parse(b, &s), 0);
	cr_assert(s.at_end && s.compressed && s.markers);

	cr_assert_eq(vmdk_parse_footer(b, 512, &s, NULL), -EUCLEAN, "names no directory either");
	le64_store(b + 56, 300);
	le64_store(b + 12, 20480 * 2);
	cr_assert_eq(vmdk_parse_footer(b, 512, &s, NULL), -EUCLEAN, "another capacity");
	le64_store(b + 12, 20480);
	le64_store(b + 20, 64);
	cr_assert_eq(vmdk_parse_footer(b, 512, &s, NULL), -EUCLEAN, "another grain");
	le64_store(b + 20, 128);
	le64_store(b + 28, 0);
	cr_assert_eq(vmdk_parse_footer(b, 512, &s, NULL), 0);
	cr_assert_eq(s.directory_off, 300 * 512);
	cr_assert_eq(s.descriptor_off, 512, "the header's");
	cr_assert(!s.at_end);
}

Test(vmdk_layout, footer_marker)
{
	uint8_t b[512] = { 1 };

	b[12] = 3;
	cr_assert(vmdk_is_footer_marker(b));
	b[12] = 2;
	cr_assert(!vmdk_is_footer_marker(b));
	b[12] = 3;
	b[8] = 1;
	cr_assert(!vmdk_is_footer_marker(b));
	b[8] = 0;
	b[0] = 0; /* Xen Orchestra's */
	cr_assert(vmdk_is_footer_marker(b));
	b[0] = 2;
	cr_assert(!vmdk_is_footer_marker(b));
}

Test(vmdk_layout, marker_sectors)
{
	/* 3 tables of 4 sectors. */
	struct vmdk_sparse s = {
		.grain_bytes = 65536,
		.table_entries = 512,
		.entry_bytes = 4,
		.directory_entries = 3,
	};
	static const struct {
		uint32_t type;
		uint64_t value;
		bool sound;
		uint64_t sectors;
	} rows[] = {
		{ VMDK_MARKER_END, 0, true, 0 },
		{ VMDK_MARKER_END, 1, false, 0 },
		{ VMDK_MARKER_TABLE, 4, true, 4 },
		{ VMDK_MARKER_TABLE, 0, true, 12 },
		{ VMDK_MARKER_TABLE, 3, false, 0 },
		{ VMDK_MARKER_DIRECTORY, 1, true, 1 },
		{ VMDK_MARKER_DIRECTORY, 0, true, 1 },
		{ VMDK_MARKER_DIRECTORY, 2, true, 2 },
		{ VMDK_MARKER_DIRECTORY, UINT64_MAX, false, 0 },
		{ VMDK_MARKER_FOOTER, 1, true, 1 },
		{ VMDK_MARKER_FOOTER, 0, true, 1 },
		{ VMDK_MARKER_FOOTER, 2, false, 0 },
		{ VMDK_MARKER_PROGRESS, 0, true, 0 },
		{ VMDK_MARKER_PROGRESS, 7, true, 7 },
		{ VMDK_MARKER_PROGRESS, UINT64_MAX, false, 0 },
		{ 5, 0, false, 0 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct vmdk_marker m = { .type = rows[i].type, .value = rows[i].value };
		uint64_t sectors;

		cr_assert_eq(vmdk_marker_sectors(&s, &m, &sectors), rows[i].sound, "%zu", i);
		if (rows[i].sound)
			cr_expect_eq(sectors, rows[i].sectors, "%zu", i);
	}
}

Test(vmdk_layout, grain_marker)
{
	uint8_t b[12] = { 0 };
	struct vmdk_sparse s = {
		.kind = VMDK_HOSTED,
		.grain_bytes = 65536,
		.file_bytes = FILE_BYTES,
	};
	uint32_t stored;

	le64_store(b, 256);
	le32_store(b + 8, 1000);
	cr_assert_eq(vmdk_parse_grain_marker(&s, b, 65536, 2 * 65536, &stored, NULL), 0);
	cr_assert_eq(stored, 1000);
	cr_assert_eq(vmdk_parse_grain_marker(&s, b, 65536, 65536, &stored, NULL), -EUCLEAN);
	le32_store(b + 8, 0);
	cr_assert_eq(vmdk_parse_grain_marker(&s, b, 65536, 2 * 65536, &stored, NULL), -EUCLEAN);
	le32_store(b + 8, 2 * 65536 - 12);
	cr_assert_eq(vmdk_parse_grain_marker(&s, b, 65536, 2 * 65536, &stored, NULL), 0);
	le32_store(b + 8, 2 * 65536 - 11);
	cr_assert_eq(vmdk_parse_grain_marker(&s, b, 65536, 2 * 65536, &stored, NULL), -EUCLEAN);
	le32_store(b + 8, 501); /* past the end of the file */
	cr_assert_eq(vmdk_parse_grain_marker(&s, b, FILE_BYTES - 512, 2 * 65536, &stored, NULL),
		     -EUCLEAN);
}

Test(vmdk_layout, hosted_entries)
{
	uint8_t b[2048] = { 0 }, slot[4];
	struct vmdk_sparse s;
	struct vmdk_entry e;

	hosted(b);
	cr_assert_eq(parse(b, &s), 0);
	le32_store(slot, 0);
	cr_assert_eq(vmdk_directory_entry(&s, slot).kind, VMDK_ABSENT);
	cr_assert_eq(vmdk_table_entry(&s, slot, 65536).kind, VMDK_ABSENT);
	le32_store(slot, 1);
	cr_assert_eq(vmdk_table_entry(&s, slot, 65536).kind, VMDK_DAMAGED);
	s.zeroed_grains = true;
	cr_assert_eq(vmdk_table_entry(&s, slot, 65536).kind, VMDK_ZERO);
	le32_store(slot, 128);
	e = vmdk_table_entry(&s, slot, 65536);
	cr_assert_eq(e.kind, VMDK_STORED);
	cr_assert_eq(e.file_off, 65536);
	le32_store(slot, FILE_BYTES / 512 - 127);
	cr_assert_eq(vmdk_table_entry(&s, slot, 65536).kind, VMDK_DAMAGED);
	cr_assert_eq(vmdk_table_entry(&s, slot, 65536 - 512).kind, VMDK_STORED);
	le32_store(slot, FILE_BYTES / 512 - 4);
	cr_assert_eq(vmdk_directory_entry(&s, slot).kind, VMDK_STORED);
	le32_store(slot, FILE_BYTES / 512 - 3);
	cr_assert_eq(vmdk_directory_entry(&s, slot).kind, VMDK_DAMAGED);
}

Test(vmdk_layout, cowd_header)
{
	uint8_t b[2048];
	struct vmdk_sparse s;

	cowd(b);
	cr_assert_eq(parse(b, &s), 0);
	cr_assert_eq(s.kind, VMDK_COWD);
	cr_assert_eq(s.capacity_bytes, 8 << 20);
	cr_assert_eq(s.grain_bytes, 512);
	cr_assert_eq(s.directory_entries, 4);
	cr_assert_eq(s.table_entries, 4096);
	cr_assert(!s.unclean);
	cr_assert_eq(vmdk_parse_sparse(b, 2047, FILE_BYTES, &s, NULL), -EUCLEAN);
	le32_store(b + 24, 3);
	cr_assert_eq(parse(b, &s), -EUCLEAN, "too few tables for the capacity");
	cowd(b);
	le32_store(b + 20, FILE_BYTES / 512);
	cr_assert_eq(parse(b, &s), -EUCLEAN);
	cowd(b);
	le32_store(b + 4, 2);
	cr_assert_eq(parse(b, &s), -ENOTSUP);
	cowd(b);
	le32_store(b + 1648, 1);
	cr_assert_eq(parse(b, &s), 0);
	cr_assert(s.unclean);
}

Test(vmdk_layout, sesparse_header)
{
	uint8_t b[2048] = { 0 };
	struct vmdk_sparse s;

	sesparse(b);
	cr_assert_eq(parse(b, &s), 0);
	cr_assert_eq(s.kind, VMDK_SE);
	cr_assert_eq(s.capacity_bytes, 32 << 20);
	cr_assert_eq(s.directory_entries, 2);
	cr_assert_eq(s.table_entries, 4096);
	cr_assert_eq(s.entry_bytes, 8);
	le64_store(b + 8, UINT64_C(0x200000002));
	cr_assert_eq(parse(b, &s), -ENOTSUP);
	sesparse(b);
	le64_store(b + 24, 16);
	cr_assert_eq(parse(b, &s), -ENOTSUP);
	sesparse(b);
	le64_store(b + 40, 1);
	cr_assert_eq(parse(b, &s), -ENOTSUP);
	sesparse(b);
	le64_store(b + 48, 1);
	cr_assert_eq(parse(b, &s), -ENOTSUP);
	sesparse(b);
	le64_store(b + 128, FILE_BYTES / 512);
	cr_assert_eq(parse(b, &s), -EUCLEAN, "the directory");
	sesparse(b);
	le64_store(b + 192, UINT64_MAX);
	cr_assert_eq(parse(b, &s), -EUCLEAN, "the grains");
}

Test(vmdk_layout, sesparse_volatile_header)
{
	uint8_t b[512] = { 0 };

	cr_assert_eq(vmdk_parse_se_volatile(b, 512, NULL), -EUCLEAN);
	le64_store(b, 0xcafecafe);
	cr_assert_eq(vmdk_parse_se_volatile(b, 512, NULL), 0);
	b[24] = 1;
	cr_assert_eq(vmdk_parse_se_volatile(b, 512, NULL), -ENOTSUP);
}

Test(vmdk_layout, sesparse_entries)
{
	uint8_t b[2048] = { 0 }, slot[8];
	struct vmdk_sparse s;
	struct vmdk_entry e;
	static const struct {
		uint64_t value;
		enum vmdk_entry_kind kind;
		uint64_t file_off;
	} grains[] = {
		{ 0, VMDK_ABSENT, 0 },
		{ 1, VMDK_DAMAGED, 0 },
		{ UINT64_C(0x1000000000000000), VMDK_ZERO, 0 },
		{ UINT64_C(0x2000000000000000), VMDK_ZERO, 0 },
		{ UINT64_C(0x3000000000000000), VMDK_STORED, 256 * 512 },
		{ UINT64_C(0x3002000000000000), VMDK_STORED, 256 * 512 + 2 * 4096 },
		{ UINT64_C(0x3000000000000001), VMDK_DAMAGED, 0 }, /* grain 4096: past the file */
		{ UINT64_C(0x3fffffffffffffff), VMDK_DAMAGED, 0 },
		{ UINT64_C(0x4000000000000000), VMDK_DAMAGED, 0 },
		{ UINT64_MAX, VMDK_DAMAGED, 0 },
	};

	sesparse(b);
	cr_assert_eq(parse(b, &s), 0);
	for (size_t i = 0; i < sizeof(grains) / sizeof(grains[0]); i++) {
		le64_store(slot, grains[i].value);
		e = vmdk_table_entry(&s, slot, 4096);
		cr_expect_eq(e.kind, grains[i].kind, "%zu", i);
		if (grains[i].kind == VMDK_STORED)
			cr_expect_eq(e.file_off, grains[i].file_off, "%zu", i);
	}
	le64_store(slot, 0);
	cr_assert_eq(vmdk_directory_entry(&s, slot).kind, VMDK_ABSENT);
	le64_store(slot, UINT64_C(0x1000000000000001));
	e = vmdk_directory_entry(&s, slot);
	cr_assert_eq(e.kind, VMDK_STORED);
	cr_assert_eq(e.file_off, 64 * 512 + 32768);
	le64_store(slot, UINT64_C(0x1000000000000002));
	cr_assert_eq(vmdk_directory_entry(&s, slot).kind, VMDK_DAMAGED, "past the tables");
	le64_store(slot, 1);
	cr_assert_eq(vmdk_directory_entry(&s, slot).kind, VMDK_DAMAGED, "no tag");
	le64_store(slot, UINT64_C(0x10000000ffffffff));
	cr_assert_eq(vmdk_directory_entry(&s, slot).kind, VMDK_DAMAGED);
}
