/*
 * VHDX: the input is a list of changes to a small sound image (a disk of its own, or a differencing one; with
 * a log to be replayed, or an empty one), whose checksums are then put right again, so that the changes get
 * behind them.
 *
 *	byte 0		bit 0: a differencing disk; bit 1: the log has to be replayed
 *	10 bytes each	where (1), offset there in units of 4 bytes (2), how many bytes (1: 1 to 8, the upper bits
 *			say in which of the places), the bytes (6, the last ones are zero)
 *
 * What is done with it is in changed.h.
 */
#include <stdlib.h>
#include <string.h>

#include "formats/vhdx/vhdx_layout.h"
#include "formats/vhdx/vhdx_locator.h"
#include "fuzz/changed.h"
#include "libimg/base/endian.h"

enum {
	MIB = 1 << 20,
	LOG = MIB,
	METADATA = 2 * MIB,
	BAT = 3 * MIB,
	BLOCKS = 4 * MIB, /* block 0, block 1, the sector bitmap block */
	FILE_BYTES = 7 * MIB,
	DISK_BYTES = 4 * MIB,
	CHANGE_BYTES = 10,
	CHANGES_MAX = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t file[FILE_BYTES];

static void seal(uint8_t *bytes, size_t len)
{
	le32_store(bytes + 4, 0);
	le32_store(bytes + 4, img_crc32c(0, bytes, len));
}

/* ---- The sound image ---- */

static void put_log(const struct vhdx_header *h)
{
	for (uint32_t i = 0; i < 2; i++) {
		uint8_t *entry = file + LOG + i * 2 * VHDX_LOG_SECTOR, data[VHDX_LOG_SECTOR];
		struct vhdx_log_header e = { .bytes = 2 * VHDX_LOG_SECTOR,
					     .sequence = 5 + i,
					     .descriptors = 1,
					     .flushed_off = FILE_BYTES,
					     .last_off = FILE_BYTES };

		memcpy(e.guid, h->log_guid, sizeof(e.guid));
		memset(data, (int)i + 7, sizeof(data));
		vhdx_encode_log_header(&e, entry);
		vhdx_encode_log_data(e.sequence, BLOCKS + i * 4096, data,
				     entry + VHDX_LOG_HEADER_BYTES, entry + VHDX_LOG_SECTOR);
	}
}

static void build(bool child, bool log)
{
	const struct vhdx_geometry g = { .block_bytes = MIB,
					 .has_parent = child,
					 .size = DISK_BYTES,
					 .sector_bytes = 512,
					 .physical_bytes = 512 };
	const struct vhdx_regions regions = { .bat = { BAT, MIB }, .metadata = { METADATA, MIB } };
	struct vhdx_item_range items[VHDX_ITEMS] = { 0 };
	struct vhdx_header h = { .log_off = LOG, .log_bytes = MIB };
	uint32_t at = VHDX_METADATA_TABLE_BYTES;
	struct vhdx_locator parent;
	uint8_t *locator = NULL;
	size_t locator_bytes = 0;

	memset(file, 0, BLOCKS);
	memset(file + BLOCKS, 1, 2 * MIB);
	memset(file + BLOCKS + 2 * MIB, 0x5a, MIB);
	memcpy(file, "vhdxfile", 8);
	memset(h.log_guid, log ? 9 : 0, sizeof(h.log_guid));
	for (unsigned i = 0; i < 2; i++) {
		h.sequence = i + 1;
		vhdx_encode_header(&h, file + VHDX_HEADER_OFF(i));
		vhdx_encode_regions(&regions, file + VHDX_REGION_TABLE_OFF(i));
	}
	for (int i = 0; i < VHDX_PARENT_LOCATOR; i++) {
		items[i] = (struct vhdx_item_range){ at, vhdx_item_bytes((enum vhdx_item)i) };
		vhdx_encode_item(&g, (enum vhdx_item)i, file + METADATA + at);
		at += items[i].bytes;
	}
	must(!vhdx_locator_of(h.data_write, "base", &parent, NULL), "no memory", "");
	must(!vhdx_encode_locator(&parent, &locator, &locator_bytes, NULL),
	     "no memory", "");
	if (child) {
		items[VHDX_PARENT_LOCATOR] = (struct vhdx_item_range){ at,
								       (uint32_t)locator_bytes };
		memcpy(file + METADATA + at, locator, locator_bytes);
	}
	free(locator);
	vhdx_locator_clear(&parent);
	vhdx_encode_metadata(items, file + METADATA);
	le64_store(file + BAT, vhdx_bat_entry(VHDX_PRESENT, BLOCKS));
	le64_store(file + BAT + 8,
		   vhdx_bat_entry(child ? VHDX_PARTIAL : VHDX_PRESENT, BLOCKS + MIB));
	le64_store(file + BAT + 16, vhdx_bat_entry(VHDX_ZERO, 0));
	if (child)
		le64_store(file + BAT + 8 * 4096, vhdx_bat_entry(VHDX_PRESENT, BLOCKS + 2 * MIB));
	put_log(&h);
}

/* ---- The changes ---- */

static void change(const uint8_t *c)
{
	static const struct {
		uint32_t off, len;
	} places[] = {
		{ 0x10000, 4096 },
		{ 0x20000, 4096 },
		{ 0x30000, 4096 },
		{ 0x40000, 4096 },
		{ METADATA, 4096 },
		{ METADATA + VHDX_METADATA_TABLE_BYTES, 4096 },
		{ BAT, 64 },
		{ BAT + 8 * 4096 - 16, 64 },
		{ BLOCKS + 2 * MIB, 1024 },
		{ LOG, 32 << 10 },
		{ LOG + MIB - (16 << 10), 16 << 10 },
	};
	size_t i = c[0] % IMG_ARRAY_LEN(places), n = 1 + c[3] % 8;
	uint32_t off = le16_load(c + 1) * 4u % places[i].len;
	uint8_t bytes[8] = { 0 };

	memcpy(bytes, c + 4, 6);
	memcpy(file + places[i].off + off, bytes, min_size(n, places[i].len - off));
}

static void seal_all(void)
{
	for (unsigned i = 0; i < 2; i++) {
		seal(file + VHDX_HEADER_OFF(i), VHDX_HEADER_BYTES);
		seal(file + VHDX_REGION_TABLE_OFF(i), VHDX_REGION_TABLE_BYTES);
	}
	for (uint32_t at = 0; at < MIB; at += VHDX_LOG_SECTOR) {
		uint8_t *entry = file + LOG + at;
		uint32_t bytes = le32_load(entry + 8);

		if (!memcmp(entry, "loge", 4) && bytes >= VHDX_LOG_SECTOR && bytes <= MIB - at)
			seal(entry, bytes);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct changed c = { "vhdx", file, sizeof(file) };
	size_t changes = len ? min_size((len - 1) / CHANGE_BYTES, CHANGES_MAX) : 0;

	build(len && data[0] & 1, len && data[0] & 2);
	for (size_t i = 0; i < changes; i++)
		change(data + 1 + i * CHANGE_BYTES);
	seal_all();
	changed_try(&c);
	return 0;
}
