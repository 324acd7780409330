/*
 * Headers from byte literals.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "formats/vdi/vdi_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* 10 blocks of 1 MiB, 3 of them allocated, as qemu-img places them. */
static void make_header(uint8_t b[VDI_SECTOR])
{
	memset(b, 0, VDI_SECTOR);
	le32_store(b + 0x40, 0xbeda107f);
	le32_store(b + 0x44, 0x10001);
	le32_store(b + 0x48, 0x180);
	le32_store(b + 0x4c, 1);
	le32_store(b + 0x154, 0x200);
	le32_store(b + 0x158, 0x400);
	le32_store(b + 0x168, 512);
	le64_store(b + 0x170, 10 << 20);
	le32_store(b + 0x178, 1 << 20);
	le32_store(b + 0x180, 10);
	le32_store(b + 0x184, 3);
	memset(b + 0x188, 0x11, 16);
	memset(b + 0x198, 0x22, 16);
}

static void make_version0(uint8_t b[VDI_SECTOR])
{
	memset(b, 0, VDI_SECTOR);
	le32_store(b + 0x40, 0xbeda107f);
	le32_store(b + 0x48, 4);
	b[0x50] = 'c';
	le64_store(b + 0x160, 10 << 20);
	le32_store(b + 0x168, 1 << 20);
	le32_store(b + 0x16c, 10);
	le32_store(b + 0x170, 3);
	memset(b + 0x174, 0x11, 16);
	memset(b + 0x184, 0x22, 16);
	memset(b + 0x194, 0x33, 16);
}

Test(vdi_layout, version_1_1)
{
	uint8_t b[VDI_SECTOR], again[VDI_SECTOR];
	struct vdi_header h;

	make_header(b);
	cr_assert_eq(vdi_parse_header(b, sizeof(b), &h, NULL), 0);
	cr_assert(!h.version0 && h.type == VDI_DYNAMIC && h.size == 10 << 20);
	cr_assert(h.map_off == 0x200 && h.data_off == 0x400 && h.blocks == 10 && h.allocated == 3);
	cr_assert(h.uuid[5] == 0x11 && h.modification[15] == 0x22 && img_guid_is_zero(h.parent));
	memcpy(again, b, sizeof(b));
	vdi_encode_header(&h, false, again);
	cr_assert_arr_eq(again, b, sizeof(b));
	cr_assert_eq(vdi_allocated_off(&h), 0x184);
}

Test(vdi_layout, version_0_and_its_upgrade)
{
	uint8_t b[VDI_SECTOR];
	struct vdi_header h, after;

	make_version0(b);
	cr_assert_eq(vdi_parse_header(b, sizeof(b), &h, NULL), 0);
	cr_assert(h.version0 && h.type == VDI_DIFFERENCING && h.map_off == 420 &&
		  h.data_off == 460);
	cr_assert(h.allocated == 3 && h.parent[0] == 0x33 && vdi_allocated_off(&h) == 0x170);
	h.version0 = false;
	h.map_off = 512;
	h.data_off = 1 << 20;
	vdi_encode_header(&h, true, b);
	cr_assert_eq(vdi_parse_header(b, sizeof(b), &after, NULL), 0);
	cr_assert(!after.version0 && after.map_off == 512 && after.data_off == 1 << 20);
	cr_assert(after.parent[15] == 0x33 && after.size == 10 << 20 && b[0x54] == 'c');
}

Test(vdi_layout, refused)
{
	static const struct {
		unsigned off;
		uint32_t value;
		int rc;
	} rows[] = {
		{ 0x40, 0, -EMEDIUMTYPE },
		{ 0x44, 0x10002, -ENOTSUP },
		{ 0x44, 0x20001, -ENOTSUP },
		{ 0x48, 0x17f, -EUCLEAN },
		{ 0x48, 0xffffffff, -EUCLEAN },
		{ 0x4c, 0, -EUCLEAN },
		{ 0x4c, 5, -EUCLEAN },
		{ 0x154, 0x100, -EUCLEAN },
		{ 0x154, 0x202, -ENOTSUP },
		{ 0x154, 0xfffffffc, -EUCLEAN },
		{ 0x158, 0x224, -EUCLEAN },
		{ 0x174, 1, -EUCLEAN },
		{ 0x178, 0, -EUCLEAN },
		{ 0x178, 1000, -EUCLEAN },
		{ 0x178, 1u << 31, -ENOTSUP },
		{ 0x17c, 1u << 31, -ENOTSUP },
		{ 0x180, 0xffffffff, -ENOTSUP },
		{ 0x180, 9, -EUCLEAN },
	};
	uint8_t b[VDI_SECTOR];
	struct vdi_header h;

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		make_header(b);
		le32_store(b + rows[i].off, rows[i].value);
		cr_assert_eq(vdi_parse_header(b, sizeof(b), &h, NULL), rows[i].rc, "row %zu", i);
	}
	make_header(b);
	cr_assert_eq(vdi_parse_header(b, VDI_SECTOR - 1, &h, NULL), -EMEDIUMTYPE);
	le64_store(b + 0x170, (10 << 20) - 1); /* rounded up */
	cr_assert_eq(vdi_parse_header(b, sizeof(b), &h, NULL), 0);
	cr_assert_eq(h.size, 10 << 20);
}
