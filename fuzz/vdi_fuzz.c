/*
 * VDI: the input is a list of changes to a small sound image.
 *
 *	byte 0		bit 0: a differencing disk; bit 1: version 0; bit 2: extra bytes in front of each block;
 *			bit 3: static; bit 4: the file is cut inside its last block
 *	10 bytes each	where (1), offset there in units of 4 bytes (2), how many bytes (1: 1 to 8), the bytes (6,
 *			the last ones are zero)
 *
 * What is done with it is in changed.h.
 */
#include <string.h>

#include "formats/vdi/vdi_layout.h"
#include "fuzz/changed.h"
#include "libimg/base/endian.h"

enum {
	BLOCK = 64 << 10,
	EXTRA = 512,
	BLOCKS = 72,
	ALLOCATED = 12,
	DATA = 1 << 10,
	DISK_BYTES = BLOCKS * BLOCK - 512,
	FILE_BYTES = DATA + ALLOCATED * (BLOCK + EXTRA),
	VERSION0_DATA = VDI_HEADER0_BYTES + BLOCKS * VDI_ENTRY_BYTES,
	CHANGE_BYTES = 10,
	CHANGES_MAX = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t file[FILE_BYTES];

/* ---- The sound image ---- */

/* How the header of version 0 has what is in one of version 1.1. */
static void make_version0(void)
{
	uint8_t old[VDI_SECTOR];

	memcpy(old, file, sizeof(old));
	memset(file + 0x44, 0, VDI_SECTOR - 0x44);
	memcpy(file + 0x48, old + 0x4c, 4);    /* type */
	memcpy(file + 0x160, old + 0x170, 12); /* sizes of disk and block */
	memcpy(file + 0x16c, old + 0x180, 8);  /* how many blocks, and allocated ones */
	memcpy(file + 0x174, old + 0x188, 48); /* UUIDs but that of the parent's modification */
}

static size_t build(unsigned how)
{
	bool version0 = how & 2;
	struct vdi_header h = {
		.type = how & 1 ? VDI_DIFFERENCING : how & 8 ? VDI_STATIC
							     : VDI_DYNAMIC,
		.map_off = VDI_SECTOR,
		.data_off = version0 ? VERSION0_DATA : DATA,
		.size = DISK_BYTES,
		.block_bytes = BLOCK,
		.extra_bytes = how & 4 && !version0 ? EXTRA : 0,
		.blocks = BLOCKS,
		.allocated = ALLOCATED,
	};
	uint8_t *map = file + (version0 ? VDI_HEADER0_BYTES : VDI_SECTOR);
	size_t bytes = h.data_off + ALLOCATED * vdi_stride(&h);

	memset(h.uuid, 1, sizeof(h.uuid));
	memset(h.modification, 2, sizeof(h.modification));
	memset(h.parent, how & 1 ? 3 : 0, sizeof(h.parent));
	memset(file, 0, sizeof(file));
	vdi_encode_new_header(&h, file);
	if (version0)
		make_version0();
	memset(map, 0xff, (size_t)BLOCKS * VDI_ENTRY_BYTES);
	le32_store(map, VDI_ENTRY_ZERO);
	for (uint32_t i = 0; i < ALLOCATED; i++)
		le32_store(map + (i * 3 + 1) * VDI_ENTRY_BYTES, ALLOCATED - 1 - i);
	memset(file + h.data_off, 0x5a, bytes - h.data_off);
	return how & 16 ? bytes - 1000 : bytes;
}

/* ---- The changes ---- */

static void change(const uint8_t *c)
{
	static const struct {
		uint32_t off, len;
	} places[] = {
		{ 0x40, VDI_SECTOR - 0x40 },
		{ 0x44, 8 },
		{ 0x154, 128 },
		{ VDI_HEADER0_BYTES, BLOCKS * VDI_ENTRY_BYTES },
		{ VDI_SECTOR, BLOCKS * VDI_ENTRY_BYTES },
		{ DATA, FILE_BYTES - DATA },
	};
	size_t i = c[0] % IMG_ARRAY_LEN(places), n = 1 + c[3] % 8;
	uint32_t off = le16_load(c + 1) * 4u % places[i].len;
	uint8_t with[8] = { 0 };

	memcpy(with, c + 4, 6);
	memcpy(file + places[i].off + off, with, min_size(n, places[i].len - off));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct changed c = { "vdi", file, 0 };
	size_t changes = len ? min_size((len - 1) / CHANGE_BYTES, CHANGES_MAX) : 0;

	c.bytes = build(len ? data[0] : 0);
	for (size_t i = 0; i < changes; i++)
		change(data + 1 + i * CHANGE_BYTES);
	changed_try(&c);
	return 0;
}
