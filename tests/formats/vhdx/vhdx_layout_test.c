/*
 * Structures from bytes, and back.
 */
#include "formats/vhdx/vhdx_layout.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhdx/vhdx_locator.h"
#include "libimg/base/arith.h"
#include "libimg/base/crc32c.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"

static void seal(uint8_t *bytes, size_t len)
{
	le32_store(bytes + 4, 0);
	le32_store(bytes + 4, img_crc32c(0, bytes, len));
}

Test(vhdx_layout, header)
{
	uint8_t b[VHDX_HEADER_BYTES] = "head";
	struct vhdx_header h;

	le64_store(b + 8, 77);
	memset(b + 16, 1, 16);
	memset(b + 32, 2, 16);
	memset(b + 48, 3, 16);
	le16_store(b + 66, 1);
	le32_store(b + 68, 2 << 20);
	le64_store(b + 72, 1 << 20);
	seal(b, sizeof(b));
	cr_assert_eq(vhdx_parse_header(b, &h, NULL), 0);
	cr_assert_eq(h.sequence, 77);
	cr_assert_eq(h.file_write[5], 1);
	cr_assert_eq(h.data_write[5], 2);
	cr_assert_eq(h.log_guid[5], 3);
	cr_assert_eq(h.log_bytes, 2 << 20);
	cr_assert_eq(h.log_off, 1 << 20);
	for (size_t i = 0; i < 80; i++) { /* each byte counts */
		b[i] ^= 0x10;
		cr_assert_eq(vhdx_parse_header(b, &h, NULL), -EUCLEAN, "%zu", i);
		b[i] ^= 0x10;
	}
	b[4095] = 1;
	cr_assert_eq(vhdx_parse_header(b, &h, NULL), -EUCLEAN);
	b[4095] = 0;
	le16_store(b + 66, 2);
	seal(b, sizeof(b));
	cr_assert_eq(vhdx_parse_header(b, &h, NULL), -EUCLEAN);
}

Test(vhdx_layout, header_back)
{
	struct vhdx_header h = { .sequence = 5, .log_bytes = 1 << 20, .log_off = 3 << 20 }, got;
	uint8_t b[VHDX_HEADER_BYTES];

	memset(h.file_write, 7, sizeof(h.file_write));
	memset(h.data_write, 8, sizeof(h.data_write));
	memset(h.log_guid, 9, sizeof(h.log_guid));
	vhdx_encode_header(&h, b);
	cr_assert_eq(vhdx_parse_header(b, &got, NULL), 0);
	cr_assert_eq(got.sequence, 5);
	cr_assert_arr_eq(got.file_write, h.file_write, sizeof(h.file_write));
	cr_assert_arr_eq(got.data_write, h.data_write, sizeof(h.data_write));
	cr_assert_arr_eq(got.log_guid, h.log_guid, sizeof(h.log_guid));
	cr_assert_eq(got.log_version, 0);
	cr_assert_eq(got.log_off, 3 << 20);
	cr_assert_eq(got.log_bytes, 1 << 20);
}

static uint8_t table[VHDX_REGION_TABLE_BYTES];

static void region(unsigned i, const char *guid, uint64_t off, uint32_t bytes, uint32_t flags)
{
	uint8_t *entry = table + 16 + 32 * i;

	cr_assert(img_guid_parse(guid, strlen(guid), entry));
	le64_store(entry + 16, off);
	le32_store(entry + 24, bytes);
	le32_store(entry + 28, flags);
	le32_store(table + 8, max_u64(le32_load(table + 8), i + 1) & 0xffffffff);
	seal(table, sizeof(table));
}

static const char bat[] = "2DC27766-F623-4200-9D64-115E9BFD4A08";
static const char metadata[] = "8B7CA206-4790-4B9A-B8FE-575F050F886E";
static const char other[] = "11111111-2222-3333-4444-555555555555";

static void two_regions(void)
{
	memset(table, 0, sizeof(table));
	memcpy(table, "regi", 4);
	region(0, bat, 3 << 20, 1 << 20, 1);
	region(1, metadata, 2 << 20, 1 << 20, 0);
}

Test(vhdx_layout, regions)
{
	struct vhdx_regions r;

	two_regions();
	cr_assert_eq(vhdx_parse_regions(table, &r, NULL), 0);
	cr_assert_eq(r.bat.off, 3 << 20);
	cr_assert_eq(r.metadata.off, 2 << 20);
	region(2, other, 8 << 20, 1 << 20, 0);
	cr_assert_eq(vhdx_parse_regions(table, &r, NULL), 0);
	region(2, other, 8 << 20, 1 << 20, 1);
	cr_assert_eq(vhdx_parse_regions(table, &r, NULL), -ENOTSUP);
	region(2, bat, 8 << 20, 1 << 20, 1);
	cr_assert_eq(vhdx_parse_regions(table, &r, NULL), -EUCLEAN);
	region(2, other, 3 << 20, 1 << 20, 0);
	cr_assert_eq(vhdx_parse_regions(table, &r, NULL), -EUCLEAN);
}

Test(vhdx_layout, bad_regions)
{
	static const struct {
		uint64_t off;
		uint32_t bytes;
	} bad[] = {
		{ 0, 1 << 20 },
		{ (3 << 20) + 4096, 1 << 20 },
		{ 3 << 20, 4096 },
		{ 3 << 20, 0 },
		{ 2 << 20, 1 << 20 },
		{ UINT64_MAX << 20, 1 << 20 },
		{ 1 << 20, 2 << 20 },
		{ UINT64_C(1) << 60, 1 << 20 },
	};
	struct vhdx_regions r;

	for (size_t i = 0; i < IMG_ARRAY_LEN(bad); i++) {
		two_regions();
		region(0, bat, bad[i].off, bad[i].bytes, 1);
		cr_assert_eq(vhdx_parse_regions(table, &r, NULL), -EUCLEAN, "%zu", i);
	}
	two_regions();
	le32_store(table + 8, 2048);
	seal(table, sizeof(table));
	cr_assert_eq(vhdx_parse_regions(table, &r, NULL), -EUCLEAN);
	le32_store(table + 8, 1);
	seal(table, sizeof(table));
	cr_assert_eq(vhdx_parse_regions(table, &r, NULL), -EUCLEAN);
	two_regions();
	table[60000] = 1;
	cr_assert_eq(vhdx_parse_regions(table, &r, NULL), -EUCLEAN);
}

Test(vhdx_layout, regions_back)
{
	const struct vhdx_regions r = { .bat = { 7 << 20, 3 << 20 },
					.metadata = { 1 << 20, 1 << 20 } };
	const struct vhdx_region moved = { 20 << 20, 4 << 20 };
	struct vhdx_regions got;
	struct vhdx_region one;

	vhdx_encode_regions(&r, table);
	cr_assert_eq(vhdx_parse_regions(table, &got, NULL), 0);
	cr_assert(!memcmp(&r, &got, sizeof(r)));
	vhdx_move_bat(table, &moved);
	cr_assert_eq(vhdx_parse_regions(table, &got, NULL), 0);
	cr_assert(!memcmp(&got.bat, &moved, sizeof(moved)));
	cr_assert(vhdx_region_of(table, 1, &one) && one.off == 1 << 20);
	cr_assert(!vhdx_region_of(table, 2, &one));
}

Test(vhdx_layout, metadata)
{
	static uint8_t b[VHDX_METADATA_TABLE_BYTES];
	struct vhdx_item_range places[VHDX_ITEMS] = { 0 }, got[VHDX_ITEMS];

	for (int i = 0; i < VHDX_PARENT_LOCATOR; i++)
		places[i] = (struct vhdx_item_range){ 0x10000u + 16u * (unsigned)i,
						      vhdx_item_bytes((enum vhdx_item)i) };
	vhdx_encode_metadata(places, b);
	cr_assert_eq(vhdx_parse_metadata(b, 1 << 20, got, NULL), 0);
	cr_assert(!memcmp(places, got, sizeof(got)));
	cr_assert_eq(vhdx_parse_metadata(b, 0x10000, got, NULL),
		     -EUCLEAN); /* outside of the region */
	le16_store(b + 10, 4);
	cr_assert_eq(vhdx_parse_metadata(b, 1 << 20, got, NULL), -EUCLEAN); /* one is missing */
	le16_store(b + 10, 2048);
	cr_assert_eq(vhdx_parse_metadata(b, 1 << 20, got, NULL), -EUCLEAN);
	le16_store(b + 10, 6); /* an empty entry that nobody has to know */
	cr_assert_eq(vhdx_parse_metadata(b, 1 << 20, got, NULL), 0);
	memcpy(b + 32 * 6, b + 32, 32);
	cr_assert_eq(vhdx_parse_metadata(b, 1 << 20, got, NULL), -EUCLEAN); /* twice */
	b[32 * 6] ^= 1;
	cr_assert_eq(vhdx_parse_metadata(b, 1 << 20, got, NULL), -ENOTSUP); /* required */
	le32_store(b + 32 * 6 + 24, 1);
	cr_assert_eq(vhdx_parse_metadata(b, 1 << 20, got, NULL), 0);
	le32_store(b + 32 * 6 + 16, 4096);
	cr_assert_eq(vhdx_parse_metadata(b, 1 << 20, got, NULL), -EUCLEAN); /* inside the table */
}

Test(vhdx_layout, items)
{
	static const uint32_t blocks[] = { 0, 4096, 3 << 20, 512 << 20 };
	uint8_t bytes[VHDX_ITEMS][16] = { 0 };
	const uint8_t *items[VHDX_ITEMS];
	struct vhdx_geometry g = { .block_bytes = 2 << 20,
				   .has_parent = true,
				   .size = 4096 * 5,
				   .sector_bytes = 4096,
				   .physical_bytes = 4096 },
			     got;

	memset(g.disk_id, 6, sizeof(g.disk_id));
	for (int i = 0; i < VHDX_PARENT_LOCATOR; i++) {
		items[i] = bytes[i];
		vhdx_encode_item(&g, (enum vhdx_item)i, bytes[i]);
	}
	cr_assert_eq(vhdx_parse_items(items, &got, NULL), 0);
	cr_assert_eq(got.block_bytes, 2 << 20);
	cr_assert(!got.fixed && got.has_parent);
	cr_assert_eq(got.size, 4096 * 5);
	cr_assert_eq(got.sector_bytes, 4096);
	cr_assert_eq(got.physical_bytes, 4096);
	cr_assert_arr_eq(got.disk_id, g.disk_id, sizeof(g.disk_id));
	le64_store(bytes[VHDX_DISK_SIZE], 512);
	cr_assert_eq(vhdx_parse_items(items, &got, NULL), -EUCLEAN);
	le64_store(bytes[VHDX_DISK_SIZE], VHDX_DISK_BYTES_MAX + 4096);
	cr_assert_eq(vhdx_parse_items(items, &got, NULL), -EUCLEAN);
	le64_store(bytes[VHDX_DISK_SIZE], VHDX_DISK_BYTES_MAX);
	cr_assert_eq(vhdx_parse_items(items, &got, NULL), 0);
	le32_store(bytes[VHDX_LOGICAL_SECTOR], 1024);
	cr_assert_eq(vhdx_parse_items(items, &got, NULL), -EUCLEAN);
	le32_store(bytes[VHDX_LOGICAL_SECTOR], 512);
	for (size_t i = 0; i < IMG_ARRAY_LEN(blocks); i++) {
		le32_store(bytes[VHDX_FILE_PARAMETERS], blocks[i]);
		cr_assert_eq(vhdx_parse_items(items, &got, NULL), -EUCLEAN);
	}
}

Test(vhdx_layout, bat)
{
	struct vhdx_geometry g = { .block_bytes = 32 << 20, .sector_bytes = 512 };

	cr_assert_eq(vhdx_chunk_ratio(&g), 128);
	cr_assert_eq(vhdx_payload_entry(&g, 127), 127);
	cr_assert_eq(vhdx_payload_entry(&g, 128), 129);
	cr_assert_eq(vhdx_bitmap_entry(&g, 0), 128);
	cr_assert_eq(vhdx_bitmap_entry(&g, 1), 257);
	cr_assert_eq(vhdx_bat_entries(&g, 0), 0);
	cr_assert_eq(vhdx_bat_entries(&g, 1), 1);
	cr_assert_eq(vhdx_bat_entries(&g, 128 * g.block_bytes), 128);
	cr_assert_eq(vhdx_bat_entries(&g, 128 * g.block_bytes + 512), 130);
	g.has_parent = true;
	cr_assert_eq(vhdx_bat_entries(&g, 1), 129);
	cr_assert_eq(vhdx_bat_entries(&g, 128 * g.block_bytes + 512), 258);
	g.sector_bytes = 4096;
	cr_assert_eq(vhdx_chunk_ratio(&g), 1024);
	g.block_bytes = 256 << 20;
	g.sector_bytes = 512;
	cr_assert_eq(vhdx_chunk_ratio(&g), 16);
	cr_assert_eq(vhdx_entry_off(0x800006), 0x800000);
	cr_assert_eq(vhdx_entry_state(0x800006), VHDX_PRESENT);
}

Test(vhdx_layout, log)
{
	uint8_t sector[4096] = { 0 }, data[4096], descriptor[32], stored[4096];
	struct vhdx_log_header h = { .bytes = 8192, .tail = 4096, .sequence = 9, .descriptors = 1 },
			       got;
	struct vhdx_log_descriptor d;

	memset(h.guid, 3, sizeof(h.guid));
	h.flushed_off = 5 << 20;
	h.last_off = 6 << 20;
	vhdx_encode_log_header(&h, sector);
	cr_assert(vhdx_parse_log_header(sector, 1 << 20, &got));
	cr_assert_eq(got.bytes, 8192);
	cr_assert_eq(got.tail, 4096);
	cr_assert_eq(got.sequence, 9);
	cr_assert_eq(got.descriptors, 1);
	cr_assert_arr_eq(got.guid, h.guid, sizeof(h.guid));
	cr_assert_eq(got.flushed_off, 5 << 20);
	cr_assert_eq(got.last_off, 6 << 20);
	cr_assert(!vhdx_parse_log_header(sector, 4096, &got)); /* longer than the log */
	le32_store(sector + 24, 127 + 128 + 1);
	cr_assert(!vhdx_parse_log_header(sector, 1 << 20, &got)); /* no room for so many */
	le32_store(sector + 24, UINT32_MAX);
	cr_assert(!vhdx_parse_log_header(sector, 1 << 20, &got));
	le32_store(sector + 24, 1);
	le32_store(sector + 8, 8191);
	cr_assert(!vhdx_parse_log_header(sector, 1 << 20, &got));
	cr_assert_eq(vhdx_log_descriptor_sectors(0), 1);
	cr_assert_eq(vhdx_log_descriptor_sectors(126), 1);
	cr_assert_eq(vhdx_log_descriptor_sectors(127), 2);
	cr_assert_eq(vhdx_log_descriptor_sectors(254), 2);
	cr_assert_eq(vhdx_log_descriptor_sectors(255), 3);

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 256);
	vhdx_encode_log_data(UINT64_C(0x123456789a), 5 << 20, data, descriptor, stored);
	cr_assert(vhdx_parse_log_descriptor(descriptor, &d));
	cr_assert(!d.zero && d.off == 5 << 20 && d.bytes == 4096 && d.sequence == 0x123456789a);
	cr_assert_eq(le32_load(stored + 4), 0x12);
	cr_assert_eq(le32_load(stored + 4092), 0x3456789a);
	memcpy(stored, d.leading, 8);
	memcpy(stored + 4092, d.trailing, 4);
	cr_assert(!memcmp(stored, data, sizeof(data)));
	descriptor[0] = 'x';
	cr_assert(!vhdx_parse_log_descriptor(descriptor, &d));
}

static void locator_of(const char *name, const char *place, const char *stored_as)
{
	static const uint8_t linkage[16] = { 1, 2, 3 };
	char *places[VHDX_PARENT_PATHS] = { NULL };
	struct vhdx_locator l;
	uint8_t *bytes;
	size_t len;

	cr_assert_eq(vhdx_locator_of(linkage, name, &l, NULL), 0);
	cr_assert_eq(vhdx_encode_locator(&l, &bytes, &len, NULL), 0);
	vhdx_locator_clear(&l);
	cr_assert_eq(vhdx_parse_locator(bytes, len, &l, NULL), 0);
	cr_assert(img_guid_equal(l.linkage, linkage));
	cr_assert_str_eq(l.relative ? l.relative : l.absolute, stored_as);
	cr_assert_eq(vhdx_locator_paths(&l, places), 1);
	cr_assert_str_eq(places[0], place);
	free(places[0]);
	for (size_t i = 0; i < len; i++) /* cut off anywhere */
		if (!vhdx_parse_locator(bytes, i, &l, NULL))
			cr_assert_fail("%zu of %zu bytes will do", i, len);
	vhdx_locator_clear(&l);
	free(bytes);
}

Test(vhdx_layout, locator)
{
	static const uint8_t linkage[16];
	struct vhdx_locator l;
	uint8_t *bytes;
	size_t len;

	locator_of("base.vhdx", "base.vhdx", ".\\base.vhdx");
	locator_of("../a/\xc3\xbc.vhdx", "../a/\xc3\xbc.vhdx", "..\\a\\\xc3\xbc.vhdx");
	locator_of("/a/b.vhdx", "/a/b.vhdx", "\\a\\b.vhdx");
	cr_assert_eq(vhdx_locator_of(linkage, "a\\b", &l, NULL), -EINVAL);
	cr_assert_eq(vhdx_locator_of(linkage, "C:b", &l, NULL), -EINVAL);
	cr_assert_eq(vhdx_locator_of(linkage, "\xff", &l, NULL), 0);
	cr_assert_eq(vhdx_encode_locator(&l, &bytes, &len, NULL), -EILSEQ);
	vhdx_locator_clear(&l);
}

/* All keys; and both GUIDs of a parent that is being merged into. */
Test(vhdx_layout, locator_of_all)
{
	struct vhdx_locator l = {
		.linkage = { 1 },
		.linkage2 = { 2 },
		.has_linkage2 = true,
		.relative = (char *)"..\\a.vhdx",
		.volume = (char *)"\\\\?\\Volume{1}\\a.vhdx",
		.absolute = (char *)"\\\\?\\C:\\a.vhdx",
	},
			    back;
	uint8_t *bytes;
	size_t len;

	cr_assert_eq(vhdx_encode_locator(&l, &bytes, &len, NULL), 0);
	cr_assert_eq(vhdx_parse_locator(bytes, len, &back, NULL), 0);
	cr_assert(back.has_linkage2 && img_guid_equal(back.linkage, l.linkage) &&
		  img_guid_equal(back.linkage2, l.linkage2));
	cr_assert_str_eq(back.relative, l.relative);
	cr_assert_str_eq(back.volume, l.volume);
	cr_assert_str_eq(back.absolute, l.absolute);
	vhdx_locator_clear(&back);
	free(bytes);
}

static bool has_item(const uint8_t *bytes, enum vhdx_item item, struct vhdx_item_range want)
{
	struct vhdx_item_range found[VHDX_ITEMS];

	cr_assert_eq(vhdx_parse_metadata(bytes, 1 << 20, found, NULL), 0);
	return found[item].off == want.off && found[item].bytes == want.bytes;
}

Test(vhdx_layout, items_come_and_go)
{
	struct vhdx_item_range places[VHDX_ITEMS] = { 0 }, none = { 0 };
	struct vhdx_item_range here = { 70000, 100 }, there = { 80000, 90 };
	uint8_t *bytes = calloc(1, VHDX_METADATA_TABLE_BYTES), *before = malloc(VHDX_METADATA_TABLE_BYTES);

	for (int i = 0; i < VHDX_PARENT_LOCATOR; i++)
		places[i] = (struct vhdx_item_range){ 65536 + 16 * (uint32_t)i, vhdx_item_bytes((enum vhdx_item)i) };
	vhdx_encode_metadata(places, bytes);
	memcpy(before, bytes, VHDX_METADATA_TABLE_BYTES);
	cr_assert(vhdx_set_item(bytes, VHDX_PARENT_LOCATOR, &none));
	cr_assert(!memcmp(before, bytes, VHDX_METADATA_TABLE_BYTES));
	cr_assert(vhdx_set_item(bytes, VHDX_PARENT_LOCATOR, &here));
	cr_assert(has_item(bytes, VHDX_PARENT_LOCATOR, here));
	cr_assert(vhdx_set_item(bytes, VHDX_PARENT_LOCATOR, &there));
	cr_assert(has_item(bytes, VHDX_PARENT_LOCATOR, there));
	cr_assert(vhdx_set_item(bytes, VHDX_PARENT_LOCATOR, &none));
	cr_assert(!memcmp(before, bytes, VHDX_METADATA_TABLE_BYTES));
	le16_store(bytes + 10, VHDX_METADATA_ITEMS_MAX);
	cr_assert(!vhdx_set_item(bytes, VHDX_PARENT_LOCATOR, &here));
	free(before);
	free(bytes);
}

Test(vhdx_layout, places)
{
	static const struct {
		const char *relative, *volume, *absolute, *first, *second;
	} cases[] = {
		{ "..\\base.vhdx", NULL, NULL, "../base.vhdx", NULL },
		{ NULL, NULL, "C:\\x\\base.vhdx", "C:\\x\\base.vhdx", NULL },
		{ "x\\y.vhdx", NULL, "\\\\server\\share\\z.vhdx", "x/y.vhdx",
		  "\\\\server\\share\\z.vhdx" },
		{ "x\\y.vhdx", NULL, "x/y.vhdx", "x/y.vhdx", NULL },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		char *out[VHDX_PARENT_PATHS] = { NULL };
		struct vhdx_locator l = {
			.relative = (char *)(uintptr_t)cases[i].relative,
			.volume = (char *)(uintptr_t)cases[i].volume,
			.absolute = (char *)(uintptr_t)cases[i].absolute,
		};
		size_t n = vhdx_locator_paths(&l, out);

		cr_assert_eq(n, cases[i].second ? 2 : cases[i].first ? 1
								     : 0,
			     "%zu: %zu", i, n);
		if (n)
			cr_assert_str_eq(out[0], cases[i].first);
		if (n > 1)
			cr_assert_str_eq(out[1], cases[i].second);
		for (size_t k = 0; k < n; k++)
			free(out[k]);
	}
}
