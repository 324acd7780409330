/*
 * The structures of a VHD from byte literals and from the format's document.
 */
#include "formats/vhd/vhd_layout.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/endian.h"

/* The footer of a dynamic disk of 40 MiB as VirtualBox writes it. */
static void theirs(uint8_t f[512], const char *creator)
{
	memset(f, 0, 512);
	memcpy(f, "conectix\0\0\0\2\0\1\0\0\0\0\0\0\0\0\2\0", 24);
	be32_store(f + 24, 848486512);
	memcpy(f + 28, creator, 4);
	be64_store(f + 40, 40 << 20);
	be64_store(f + 48, 40 << 20);
	memcpy(f + 56, "\x04\xb3\4\x11", 4); /* 1203 x 4 x 17 */
	be32_store(f + 60, 3);
	vhd_seal_footer(f);
}

Test(vhd_layout, footer)
{
	static const struct {
		char creator[5];
		uint64_t size;
	} rows[] = {
		{ "vbox", 40 << 20 },
		{ "win ", 40 << 20 },
		{ "qem2", 40 << 20 },
		{ "tap\0", 40 << 20 },
		{ "abcd", 40 << 20 },
		{ "qemu", 1203 * 4 * 17 * 512 },
		{ "vpc ", 1203 * 4 * 17 * 512 },
	};
	uint8_t bytes[512];
	struct vhd_footer f;

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		theirs(bytes, rows[i].creator);
		cr_assert_eq(vhd_parse_footer(bytes, &f, NULL), 0);
		cr_assert_eq(f.size, rows[i].size, "%s", rows[i].creator);
		cr_assert(f.current == 40 << 20 && f.type == VHD_DYNAMIC && f.header_off == 512);
	}
	/* no geometry, or the one that stands for none */
	memset(bytes + VHD_OFF_GEOMETRY, 0, 4);
	vhd_seal_footer(bytes);
	cr_assert(!vhd_parse_footer(bytes, &f, NULL) && f.size == 40 << 20);
	memcpy(bytes + VHD_OFF_GEOMETRY, "\xff\xff\x10\xff", 4);
	vhd_seal_footer(bytes);
	cr_assert(!vhd_parse_footer(bytes, &f, NULL) && f.size == 40 << 20);
	/* the sum of all bytes but its own, inverted */
	cr_assert_eq(vhd_checksum((const uint8_t *)"\1\2\3\4\5\6", 6, 1), ~(uint32_t)7);
	bytes[511] = 1;
	cr_assert_eq(vhd_parse_footer(bytes, &f, NULL), -EUCLEAN);
	bytes[0] = 'C';
	cr_assert_eq(vhd_parse_footer(bytes, &f, NULL), -EMEDIUMTYPE);
}

Test(vhd_layout, footer_refused)
{
	static const struct {
		size_t off;
		const char *bytes;
		size_t len;
		int rc;
	} rows[] = {
		{ 12, "\0\2", 2, -ENOTSUP },		 /* version 2 */
		{ 60, "\0\0\0\6", 4, -ENOTSUP },	 /* disk type */
		{ 48, "\0\0\0\0\0\0\2\1", 8, -EUCLEAN }, /* part of a sector */
		{ 48, "\0\0\2\0\0\0\0\0", 8, -EUCLEAN }, /* 2 TiB */
	};
	uint8_t bytes[512];
	struct vhd_footer f;

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		theirs(bytes, "vbox");
		memcpy(bytes + rows[i].off, rows[i].bytes, rows[i].len);
		vhd_seal_footer(bytes);
		cr_assert_eq(vhd_parse_footer(bytes, &f, NULL), rows[i].rc, "row %zu", i);
	}
}

/* Geometries that qemu-img and VirtualBox gave disks. */
Test(vhd_layout, geometry)
{
	static const struct {
		uint64_t sectors;
		struct vhd_geometry g;
	} rows[] = {
		{ 10514432 / 512, { 302, 4, 17 } },
		{ 73400320 / 512, { 936, 9, 17 } },
		{ UINT64_C(65535) * 16 * 255, { 65535, 16, 255 } },
		{ UINT64_C(1) << 40, { 65535, 16, 255 } },
		{ 0, { 0, 4, 17 } },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		struct vhd_geometry g = vhd_geometry_of(rows[i].sectors);

		cr_assert(g.cylinders == rows[i].g.cylinders && g.heads == rows[i].g.heads &&
				  g.sectors == rows[i].g.sectors,
			  "row %zu: %u/%u/%u", i, g.cylinders, g.heads, g.sectors);
	}
}

Test(vhd_layout, header)
{
	uint8_t bytes[1024];
	struct vhd_header h;

	vhd_encode_header(1536, 20, 2 << 20, bytes);
	cr_assert_eq(vhd_parse_header(bytes, 40 << 20, &h, NULL), 0);
	cr_assert(h.table_off == 1536 && h.entries == 20 && h.block_bytes == 2 << 20 &&
		  h.bitmap_bytes == 512);
	cr_assert_eq(vhd_parse_header(bytes, (40 << 20) + 512, &h, NULL), -EUCLEAN);
	be32_store(bytes + VHD_OFF_BLOCK, 16 << 20);
	cr_assert_eq(vhd_parse_header(bytes, 40 << 20, &h, NULL), -EBADMSG);
	vhd_seal_header(bytes);
	cr_assert_eq(vhd_parse_header(bytes, 40 << 20, &h, NULL), 0);
	cr_assert_eq(h.bitmap_bytes, 4096);
	for (uint32_t block = 0; block < 1024; block = block * 3 + 1) { /* no powers of two from 512 on */
		if (is_pow2_u64(block) && block >= 512)
			continue;
		vhd_encode_header(1536, UINT32_MAX, block, bytes);
		cr_assert_eq(vhd_parse_header(bytes, 512, &h, NULL), -EUCLEAN, "%u", block);
	}
	vhd_encode_header(1537, 20, 2 << 20, bytes);
	cr_assert_eq(vhd_parse_header(bytes, 512, &h, NULL), -EUCLEAN);
}

/* Against one bit after the other. */
Test(vhd_layout, bits)
{
	for (unsigned seed = 0; seed < 2000; seed++) {
		uint8_t bits[24] = { 0 };
		uint64_t first = seed % 97, count = seed * 7 % 90 + 1, run, n = 0;
		bool set;

		vhd_set_bits(bits, first, count);
		for (uint64_t i = 0; i < 192; i++)
			cr_assert_eq(bits[i / 8] >> (7 - i % 8) & 1,
				     i >= first && i < first + count);
		for (uint64_t at = seed % 11; at < 192; at += run) {
			run = vhd_bit_run(bits, at, 192 - at, &set);
			cr_assert(run >= 1 && run <= 192 - at);
			cr_assert_eq(set, at >= first && at < first + count);
			n++;
		}
		cr_assert_leq(n, 3);
	}
}

static void expect_name(const char *code, const void *data, size_t len, const char *name,
			const char *other)
{
	struct vhd_locator l = { .length = (uint32_t)len };
	char *got, *more;

	memcpy(l.code, code, 4);
	cr_assert_eq(vhd_locator_name(&l, data, &got, &more), 0, "%s", name);
	cr_assert_str_eq(got, name);
	cr_assert(other ? more && !strcmp(more, other) : !more, "%s", name);
	free(got);
	free(more);
}

#define UTF16(text) text, sizeof(text) - 2 /* u"" has a NUL of two bytes */

Test(vhd_layout, locators)
{
	static const char *const bad[] = { "W2ru", "MacX", "Mac ", "\0\0\0\0", "Wi3k" };
	uint8_t alias[128] = { 0 };
	uint8_t header[1024] = { 0 };
	struct vhd_locator l = {
		.code = { 'W', '2', 'r', 'u' }, .space = 512, .length = 26, .off = 4096
	};
	struct vhd_locator back;
	char *name, *other;

	expect_name("W2ru", UTF16(u".\\dir\\b\u00e4se.vhd"), "dir/b\xc3\xa4se.vhd", NULL);
	expect_name("W2ru", UTF16(u"p.vhd\0"), "p.vhd", NULL);
	expect_name("W2ku", UTF16(u"C:\\vm\\base.vhd"), "C:\\vm\\base.vhd", NULL);
	expect_name("W2ku", UTF16(u"\\\\server\\vm\\base.vhd"), "\\\\server\\vm\\base.vhd", NULL);
	expect_name("W2ku", UTF16(u"/vm/base.vhd"), "/vm/base.vhd", NULL);
	expect_name("MacX", "file://localhost/vm/a%20b.vhd", 29, "/vm/a%20b.vhd", "/vm/a b.vhd");
	expect_name("MacX", "file://./base.vhd", 17, "./base.vhd", NULL);
	expect_name("MacX", "100%.vhd", 8, "100%.vhd", "100%.vhd");
	expect_name("Wi2r", ".\\base.vhd", 10, "base.vhd", NULL);
	alias[7] = 2;
	memcpy(alias + 50, "\10base.vhd", 9);
	expect_name("Mac ", alias, sizeof(alias), "base.vhd", NULL);
	for (size_t i = 0; i < IMG_ARRAY_LEN(bad); i++) {
		memcpy(back.code, bad[i], 4);
		back.length = 3;
		cr_assert_neq(vhd_locator_name(&back, (const uint8_t *)"a\0b", &name, &other), 0, "%zu", i);
	}

	vhd_encode_locator(header, 3, &l);
	vhd_parse_locator(header, 3, &back);
	cr_assert(!memcmp(back.code, "W2ru", 4) && back.space == 512 && back.length == 26 && back.off == 4096);
	cr_assert_eq(vhd_set_parent_name(header, "b\xc3\xa4se.vhd"), 0);
	cr_assert_eq(memcmp(header + 64, "\0b\0\xe4\0s", 6), 0); /* big-endian */
	cr_assert_eq(vhd_parent_name(header, &name), 0);
	cr_assert_str_eq(name, "b\xc3\xa4se.vhd");
	free(name);
	memset(header + 64, 1, 512);
	cr_assert_eq(vhd_set_parent_name(header, "\xff"), -EILSEQ);
}
