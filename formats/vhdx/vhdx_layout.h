/*
 * VHDX on disk: offsets, parsing, encoding. Bytes only; nothing here reads a file. spec/vhdx.md.
 */
#ifndef FORMATS_VHDX_VHDX_LAYOUT_H
#define FORMATS_VHDX_VHDX_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/guid.h"

struct img_error;

enum {
	VHDX_SIGNATURE_BYTES = 8,
	VHDX_CREATOR_BYTES = 512, /* UTF-16LE, behind the signature */
	VHDX_HEADER_BYTES = 4096,
	VHDX_REGION_TABLE_BYTES = 64 << 10,
	VHDX_REGION_HEADER_BYTES = 16,
	VHDX_REGION_ENTRY_BYTES = 32,
	VHDX_REGIONS_MAX = 2047,
	VHDX_METADATA_TABLE_BYTES = 64 << 10,
	VHDX_METADATA_ENTRY_BYTES = 32,
	VHDX_METADATA_ITEMS_MAX = 2047,
	VHDX_ITEM_BYTES_MAX = 1 << 20,
	VHDX_MIB = 1 << 20, /* what everything is aligned to */
	VHDX_BAT_ENTRY_BYTES = 8,
	VHDX_BITMAP_BYTES = VHDX_MIB, /* a sector bitmap block */
	VHDX_LOG_SECTOR = 4096,
	VHDX_LOG_HEADER_BYTES = 64,
	VHDX_LOG_DESCRIPTOR_BYTES = 32,
	VHDX_LOG_DATA_BYTES = 4084, /* of a data sector; the other 12 are in the descriptor */
};

#define VHDX_HEADER_OFF(i) (UINT64_C(0x10000) * ((i) + 1)) /* i: 0, 1 */
#define VHDX_REGION_TABLE_OFF(i) (UINT64_C(0x30000) + UINT64_C(0x10000) * (i))

#define VHDX_BLOCK_BYTES_MIN (UINT64_C(1) << 20)
#define VHDX_BLOCK_BYTES_MAX (UINT64_C(256) << 20)
#define VHDX_DISK_BYTES_MAX (UINT64_C(64) << 40)
/* Of a file: all blocks, and as much again for those that a repair or a failed write left unused. */
#define VHDX_FILE_BYTES_MAX (UINT64_C(128) << 40)
/* Of a log that has to be replayed: it is held in memory. */
#define VHDX_LOG_BYTES_MAX (UINT64_C(64) << 20)

/* ---- Headers ---- */

struct vhdx_header {
	uint64_t sequence;
	uint8_t file_write[IMG_GUID_BYTES], data_write[IMG_GUID_BYTES];
	uint8_t log_guid[IMG_GUID_BYTES]; /* zero: the log is empty */
	uint16_t log_version;
	uint64_t log_off, log_bytes;
};

bool vhdx_is_vhdx(const uint8_t *head, size_t len);
/* Does the creator's name begin with QEMU? */
bool vhdx_is_by_qemu(const uint8_t creator[VHDX_CREATOR_BYTES]);
/* VHDX_HEADER_BYTES of them. -EUCLEAN: not valid (signature, checksum, version). */
int vhdx_parse_header(const uint8_t *bytes, struct vhdx_header *out, struct img_error *err);
void vhdx_encode_header(const struct vhdx_header *h, uint8_t *out);

/* ---- Region tables ---- */

struct vhdx_region {
	uint64_t off, bytes;
};

struct vhdx_regions {
	struct vhdx_region bat, metadata;
};

/*
 * VHDX_REGION_TABLE_BYTES of them; of their offsets and lengths all that is checked is alignment and overlap.
 * -EUCLEAN; -ENOTSUP: a required region that is not known.
 */
int vhdx_parse_regions(const uint8_t *bytes, struct vhdx_regions *out, struct img_error *err);
/* Region number i of a valid table, whatever it is; false: there are not so many. */
bool vhdx_region_of(const uint8_t *table, size_t i, struct vhdx_region *out);
void vhdx_encode_regions(const struct vhdx_regions *r, uint8_t *out);
/* Change where the BAT lies in a valid table that may have regions unknown here; checksum too. */
void vhdx_move_bat(uint8_t *table, const struct vhdx_region *bat);

/* ---- Metadata ---- */

enum vhdx_item {
	VHDX_FILE_PARAMETERS,
	VHDX_DISK_SIZE,
	VHDX_DISK_ID, /* page 83 data */
	VHDX_LOGICAL_SECTOR,
	VHDX_PHYSICAL_SECTOR,
	VHDX_PARENT_LOCATOR,
	VHDX_ITEMS,
};

/* Where the items lie, from the start of the region; bytes 0: not there. */
struct vhdx_item_range {
	uint32_t off, bytes;
};

/*
 * The table's VHDX_METADATA_TABLE_BYTES. Items lie in the region's region_bytes and do not overlap.
 * -EUCLEAN; -ENOTSUP: a required item that is not known.
 */
int vhdx_parse_metadata(const uint8_t *table, uint64_t region_bytes,
			struct vhdx_item_range out[VHDX_ITEMS], struct img_error *err);
void vhdx_encode_metadata(const struct vhdx_item_range ranges[VHDX_ITEMS], uint8_t *table);
/*
 * Where an item of a valid table lies from now on; a range of no bytes: it is removed from the table. False: the
 * table is full.
 */
bool vhdx_set_item(uint8_t *table, enum vhdx_item item, const struct vhdx_item_range *range);
/* The bytes that an item has; 0: as many as it needs. */
uint32_t vhdx_item_bytes(enum vhdx_item item);

struct vhdx_geometry {
	uint64_t block_bytes; /* a power of two, VHDX_BLOCK_BYTES_MIN .. _MAX */
	bool fixed;	      /* blocks stay allocated */
	bool has_parent;
	uint64_t size;	       /* of the disk, a multiple of sector_bytes */
	uint32_t sector_bytes; /* logical: 512 or 4096 */
	uint32_t physical_bytes;
	uint8_t disk_id[IMG_GUID_BYTES];
};

/* What the first five items' bytes say. -EUCLEAN. */
int vhdx_parse_items(const uint8_t *const items[VHDX_ITEMS], struct vhdx_geometry *out,
		     struct img_error *err);
void vhdx_encode_item(const struct vhdx_geometry *g, enum vhdx_item item, uint8_t *out);

/* ---- Block allocation table ---- */

enum vhdx_block_state {
	VHDX_NOT_PRESENT = 0,
	VHDX_UNDEFINED = 1,
	VHDX_ZERO = 2,
	VHDX_UNMAPPED = 3,
	VHDX_UNMAPPED_DRAFT = 5, /* what 3 was in the format's draft */
	VHDX_PRESENT = 6,
	VHDX_PARTIAL = 7,
};

/* Of a file offset that is a multiple of 1 MiB. */
static inline uint64_t vhdx_bat_entry(enum vhdx_block_state state, uint64_t file_off)
{
	return file_off | (uint64_t)state;
}

static inline enum vhdx_block_state vhdx_entry_state(uint64_t entry)
{
	return (enum vhdx_block_state)(entry & 7);
}

static inline uint64_t vhdx_entry_off(uint64_t entry)
{
	return entry & ~UINT64_C(0xfffff);
}

static inline bool vhdx_is_allocated(enum vhdx_block_state state)
{
	return state == VHDX_PRESENT || state == VHDX_PARTIAL;
}

/* Payload blocks that one sector bitmap block serves. */
uint64_t vhdx_chunk_ratio(const struct vhdx_geometry *g);
/* The number of the BAT's entry of a payload block; of a chunk's sector bitmap block. */
uint64_t vhdx_payload_entry(const struct vhdx_geometry *g, uint64_t block);
uint64_t vhdx_bitmap_entry(const struct vhdx_geometry *g, uint64_t chunk);
uint64_t vhdx_block_count(const struct vhdx_geometry *g, uint64_t size);
/* Entries that a disk of so many bytes needs. */
uint64_t vhdx_bat_entries(const struct vhdx_geometry *g, uint64_t size);

/* ---- Log ---- */

struct vhdx_log_header {
	uint32_t bytes;	   /* of the entry, a multiple of VHDX_LOG_SECTOR */
	uint32_t tail;	   /* log offset of the sequence's first entry */
	uint64_t sequence; /* > 0 */
	uint32_t descriptors;
	uint8_t guid[IMG_GUID_BYTES];
	uint64_t flushed_off, last_off;
};

struct vhdx_log_descriptor {
	bool zero;
	uint64_t off;
	uint64_t bytes; /* zero: how many; else VHDX_LOG_SECTOR */
	uint64_t sequence;
	uint8_t leading[8], trailing[4]; /* data: what the data sector does not hold */
};

/* What of the entry's first sector can be told alone: signature, lengths, counts. */
bool vhdx_parse_log_header(const uint8_t *sector, uint64_t log_bytes, struct vhdx_log_header *out);
void vhdx_encode_log_header(const struct vhdx_log_header *h, uint8_t *out);
/* Sectors that the header and so many descriptors take. */
uint64_t vhdx_log_descriptor_sectors(uint64_t descriptors);
/* False: neither kind. */
bool vhdx_parse_log_descriptor(const uint8_t *bytes, struct vhdx_log_descriptor *out);
/* A data descriptor of VHDX_LOG_SECTOR bytes for file offset off, and its data sector. */
void vhdx_encode_log_data(uint64_t sequence, uint64_t off, const uint8_t *data, uint8_t *descriptor,
			  uint8_t *sector);
/* A whole entry in a row: put its checksum in. */
void vhdx_seal_log_entry(uint8_t *entry, uint32_t bytes);

#endif
