/*
 * Parse and encode a VHDX's structures (spec/vhdx.md): bytes only, no file. A checksum is verified before
 * anything behind it is looked at; what is then out of range is damage, and what this reader does not
 * know and must is refused.
 */
#include "formats/vhdx/vhdx_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/crc32c.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"

/* Of len bytes whose own checksum is at byte 4. */
static uint32_t checksum(const uint8_t *bytes, size_t len)
{
	static const uint8_t none[4];
	uint32_t crc = img_crc32c(0, bytes, 4);

	crc = img_crc32c(crc, none, sizeof(none));
	return img_crc32c(crc, bytes + 8, len - 8);
}

/* Signature and checksum of a structure that has them at 0 and 4. */
static int check_seal(const uint8_t *bytes, size_t len, const char *signature,
		      struct img_error *err)
{
	uint32_t sum;

	if (memcmp(bytes, signature, 4) != 0)
		return img_fail(err, -EUCLEAN, "found no signature '%s'", signature);
	sum = checksum(bytes, len);
	if (le32_load(bytes + 4) != sum)
		return img_fail(err, -EUCLEAN,
				"checksum: found %08" PRIx32 ", its bytes have %08" PRIx32,
				le32_load(bytes + 4), sum);
	return 0;
}

/* ---- Headers ---- */

bool vhdx_is_vhdx(const uint8_t *head, size_t len)
{
	return len >= VHDX_SIGNATURE_BYTES && !memcmp(head, "vhdxfile", VHDX_SIGNATURE_BYTES);
}

bool vhdx_is_by_qemu(const uint8_t creator[VHDX_CREATOR_BYTES])
{
	return !memcmp(creator, "Q\0E\0M\0U\0", 8);
}

int vhdx_parse_header(const uint8_t *bytes, struct vhdx_header *out, struct img_error *err)
{
	int rc = check_seal(bytes, VHDX_HEADER_BYTES, "head", err);

	if (rc)
		return rc;
	if (le16_load(bytes + 66) != 1)
		return img_fail(err, -EUCLEAN, "version is %u, expected 1",
				le16_load(bytes + 66));
	out->sequence = le64_load(bytes + 8);
	memcpy(out->file_write, bytes + 16, IMG_GUID_BYTES);
	memcpy(out->data_write, bytes + 32, IMG_GUID_BYTES);
	memcpy(out->log_guid, bytes + 48, IMG_GUID_BYTES);
	out->log_version = le16_load(bytes + 64);
	out->log_bytes = le32_load(bytes + 68);
	out->log_off = le64_load(bytes + 72);
	return 0;
}

void vhdx_encode_header(const struct vhdx_header *h, uint8_t *out)
{
	memset(out, 0, VHDX_HEADER_BYTES);
	memcpy(out, "head", 4);
	le64_store(out + 8, h->sequence);
	memcpy(out + 16, h->file_write, IMG_GUID_BYTES);
	memcpy(out + 32, h->data_write, IMG_GUID_BYTES);
	memcpy(out + 48, h->log_guid, IMG_GUID_BYTES);
	le16_store(out + 64, h->log_version);
	le16_store(out + 66, 1);
	le32_store(out + 68, (uint32_t)h->log_bytes);
	le64_store(out + 72, h->log_off);
	le32_store(out + 4, checksum(out, VHDX_HEADER_BYTES));
}

/* ---- Region tables ---- */

static const uint8_t bat_guid[] = { 0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
				    0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 };
static const uint8_t metadata_guid[] = { 0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b,
					 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e };

static uint8_t *region_at(uint8_t *table, size_t i)
{
	return table + VHDX_REGION_HEADER_BYTES + i * VHDX_REGION_ENTRY_BYTES;
}

static int by_offset(const void *a, const void *b)
{
	const struct vhdx_region *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

static int check_region(const struct vhdx_region *r, size_t number, struct img_error *err)
{
	if (!r->bytes || !is_aligned_u64(r->off | r->bytes, VHDX_MIB) || r->off < VHDX_MIB ||
	    !range_in(r->off, r->bytes, VHDX_FILE_BYTES_MAX))
		return img_fail(err, -EUCLEAN,
				"entry %zu is %" PRIu64 " bytes at %" PRIu64
				", expected whole MiB from 1 MiB on, up to %" PRIu64,
				number, r->bytes, r->off, VHDX_FILE_BYTES_MAX);
	return 0;
}

int vhdx_parse_regions(const uint8_t *bytes, struct vhdx_regions *out, struct img_error *err)
{
	struct vhdx_region *ranges;
	uint32_t count;
	int rc = check_seal(bytes, VHDX_REGION_TABLE_BYTES, "regi", err);

	if (rc)
		return rc;
	count = le32_load(bytes + 8);
	if (count > VHDX_REGIONS_MAX)
		return img_fail(err, -EUCLEAN, "entry count is %" PRIu32 ", expected at most %d",
				count, VHDX_REGIONS_MAX);
	*out = (struct vhdx_regions){ 0 };
	ranges = calloc(count + 1, sizeof(*ranges));
	if (!ranges)
		return img_fail(err, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < count && !rc; i++) {
		const uint8_t *entry = bytes + VHDX_REGION_HEADER_BYTES +
				       (size_t)i * VHDX_REGION_ENTRY_BYTES;
		struct vhdx_region *known = NULL;
		char text[IMG_GUID_CHARS + 1];

		ranges[i] = (struct vhdx_region){ le64_load(entry + 16), le32_load(entry + 24) };
		rc = check_region(&ranges[i], i, err);
		if (rc)
			break;
		if (img_guid_equal(entry, bat_guid))
			known = &out->bat;
		else if (img_guid_equal(entry, metadata_guid))
			known = &out->metadata;
		img_guid_print(entry, text);
		if (known && known->bytes)
			rc = img_fail(err, -EUCLEAN, "entry %" PRIu32 ": found region %s twice", i,
				      text);
		else if (known)
			*known = ranges[i];
		else if (le32_load(entry + 28) & 1)
			rc = img_fail(err, -ENOTSUP,
				      "entry %" PRIu32
				      ": found region %s, which is required and not "
				      "known here",
				      i, text);
	}
	if (count)
		qsort(ranges, count, sizeof(*ranges), by_offset);
	for (uint32_t i = 1; i < count && !rc; i++)
		if (ranges[i].off - ranges[i - 1].off < ranges[i - 1].bytes)
			rc = img_fail(err, -EUCLEAN,
				      "found regions at %" PRIu64 " (%" PRIu64
				      " bytes) and %" PRIu64 ", which overlap",
				      ranges[i - 1].off, ranges[i - 1].bytes, ranges[i].off);
	free(ranges);
	if (!rc && (!out->bat.bytes || !out->metadata.bytes))
		rc = img_fail(err, -EUCLEAN, "found no %s region among %" PRIu32 " entries",
			      out->bat.bytes ? "metadata" : "BAT", count);
	return rc;
}

bool vhdx_region_of(const uint8_t *table, size_t i, struct vhdx_region *out)
{
	const uint8_t *entry = table + VHDX_REGION_HEADER_BYTES + i * VHDX_REGION_ENTRY_BYTES;

	if (i >= le32_load(table + 8))
		return false;
	*out = (struct vhdx_region){ le64_load(entry + 16), le32_load(entry + 24) };
	return true;
}

static void encode_region(uint8_t *entry, const uint8_t *guid, const struct vhdx_region *r)
{
	memcpy(entry, guid, IMG_GUID_BYTES);
	le64_store(entry + 16, r->off);
	le32_store(entry + 24, (uint32_t)r->bytes);
	le32_store(entry + 28, 1); /* required */
}

void vhdx_encode_regions(const struct vhdx_regions *r, uint8_t *out)
{
	memset(out, 0, VHDX_REGION_TABLE_BYTES);
	memcpy(out, "regi", 4);
	le32_store(out + 8, 2);
	encode_region(region_at(out, 0), bat_guid, &r->bat);
	encode_region(region_at(out, 1), metadata_guid, &r->metadata);
	le32_store(out + 4, checksum(out, VHDX_REGION_TABLE_BYTES));
}

void vhdx_move_bat(uint8_t *table, const struct vhdx_region *bat)
{
	uint32_t count = le32_load(table + 8);

	for (uint32_t i = 0; i < count; i++) {
		uint8_t *entry = region_at(table, i);

		if (img_guid_equal(entry, bat_guid)) {
			le64_store(entry + 16, bat->off);
			le32_store(entry + 24, (uint32_t)bat->bytes);
		}
	}
	le32_store(table + 4, checksum(table, VHDX_REGION_TABLE_BYTES));
}

/* ---- Metadata ---- */

enum {
	ITEM_USER = 1,
	ITEM_OF_DISK = 2,
	ITEM_REQUIRED = 4,
};

static const struct {
	const char *name;
	uint8_t guid[IMG_GUID_BYTES];
	uint32_t bytes; /* 0: any number */
	uint32_t flags;
} known_items[VHDX_ITEMS] = {
	[VHDX_FILE_PARAMETERS] = { "file parameters",
				   { 0x37, 0x67, 0xa1, 0xca, 0x36, 0xfa, 0x43, 0x4d, 0xb3, 0xb6,
				     0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b },
				   8,
				   ITEM_REQUIRED },
	[VHDX_DISK_SIZE] = { "virtual disk size",
			     { 0x24, 0x42, 0xa5, 0x2f, 0x1b, 0xcd, 0x76, 0x48, 0xb2, 0x11, 0x5d,
			       0xbe, 0xd8, 0x3b, 0xf4, 0xb8 },
			     8,
			     ITEM_REQUIRED | ITEM_OF_DISK },
	[VHDX_DISK_ID] = { "virtual disk ID",
			   { 0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09,
			     0xe0, 0x00, 0xc7, 0x46 },
			   16,
			   ITEM_REQUIRED | ITEM_OF_DISK },
	[VHDX_LOGICAL_SECTOR] = { "logical sector size",
				  { 0x1d, 0xbf, 0x41, 0x81, 0x6f, 0xa9, 0x09, 0x47, 0xba, 0x47,
				    0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f },
				  4,
				  ITEM_REQUIRED | ITEM_OF_DISK },
	[VHDX_PHYSICAL_SECTOR] = { "physical sector size",
				   { 0xc7, 0x48, 0xa3, 0xcd, 0x5d, 0x44, 0x71, 0x44, 0x9c, 0xc9,
				     0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56 },
				   4,
				   ITEM_REQUIRED | ITEM_OF_DISK },
	[VHDX_PARENT_LOCATOR] = { "parent locator",
				  { 0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7,
				    0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c },
				  0,
				  ITEM_REQUIRED },
};

uint32_t vhdx_item_bytes(enum vhdx_item item)
{
	return known_items[item].bytes;
}

/* Which item an entry is; VHDX_ITEMS: none that is known. */
static enum vhdx_item item_of(const uint8_t *entry)
{
	int i = 0;

	/* What a user stored is not the format's, whatever it is called. */
	if (le32_load(entry + 24) & ITEM_USER)
		return VHDX_ITEMS;
	while (i < VHDX_ITEMS && !img_guid_equal(entry, known_items[i].guid))
		i++;
	return (enum vhdx_item)i;
}

static int check_item_range(const struct vhdx_item_range *p, uint32_t number, uint64_t region_bytes,
			    struct img_error *err)
{
	if (!p->bytes && !p->off) /* of an item without content */
		return 0;
	if (p->off < VHDX_METADATA_TABLE_BYTES || p->bytes > VHDX_ITEM_BYTES_MAX ||
	    !range_in(p->off, p->bytes, region_bytes))
		return img_fail(err, -EUCLEAN,
				"entry %" PRIu32 " is %" PRIu32 " bytes at %" PRIu32
				" of the region, expected at most %d from %d on, inside its %" PRIu64,
				number, p->bytes, p->off, VHDX_ITEM_BYTES_MAX,
				VHDX_METADATA_TABLE_BYTES, region_bytes);
	return 0;
}

int vhdx_parse_metadata(const uint8_t *table, uint64_t region_bytes,
			struct vhdx_item_range out[VHDX_ITEMS], struct img_error *err)
{
	uint16_t count = le16_load(table + 10);

	memset(out, 0, VHDX_ITEMS * sizeof(*out));
	if (memcmp(table, "metadata", 8) != 0)
		return img_fail(err, -EUCLEAN, "found no signature 'metadata'");
	if (count > VHDX_METADATA_ITEMS_MAX)
		return img_fail(err, -EUCLEAN, "entry count is %u, expected at most %d", count,
				VHDX_METADATA_ITEMS_MAX);
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *entry = table + (size_t)(i + 1) * VHDX_METADATA_ENTRY_BYTES;
		struct vhdx_item_range p = { le32_load(entry + 16), le32_load(entry + 20) };
		enum vhdx_item item = item_of(entry);
		char text[IMG_GUID_CHARS + 1];
		int rc = check_item_range(&p, i, region_bytes, err);

		if (rc)
			return rc;
		img_guid_print(entry, text);
		if (item == VHDX_ITEMS && le32_load(entry + 24) & ITEM_REQUIRED)
			return img_fail(err, -ENOTSUP,
					"entry %" PRIu32
					": found item %s, which is required and not "
					"known here",
					i, text);
		if (item == VHDX_ITEMS)
			continue;
		if (out[item].bytes)
			return img_fail(err, -EUCLEAN, "found the %s twice",
					known_items[item].name);
		if (p.bytes < max_u64(known_items[item].bytes, 1))
			return img_fail(err, -EUCLEAN,
					"%s: found %" PRIu32 " bytes, needed are %" PRIu32,
					known_items[item].name, p.bytes, known_items[item].bytes);
		out[item] = p;
	}
	for (int i = 0; i < VHDX_PARENT_LOCATOR; i++)
		if (!out[i].bytes)
			return img_fail(err, -EUCLEAN, "found no %s among %u items",
					known_items[i].name, count);
	return 0;
}

void vhdx_encode_metadata(const struct vhdx_item_range ranges[VHDX_ITEMS], uint8_t *table)
{
	uint16_t count = 0;

	memset(table, 0, VHDX_METADATA_TABLE_BYTES);
	memcpy(table, "metadata", 8);
	for (int i = 0; i < VHDX_ITEMS; i++) {
		uint8_t *entry = table + (size_t)(count + 1) * VHDX_METADATA_ENTRY_BYTES;

		if (!ranges[i].bytes)
			continue;
		memcpy(entry, known_items[i].guid, IMG_GUID_BYTES);
		le32_store(entry + 16, ranges[i].off);
		le32_store(entry + 20, ranges[i].bytes);
		le32_store(entry + 24, known_items[i].flags);
		count++;
	}
	le16_store(table + 10, count);
}

bool vhdx_set_item(uint8_t *table, enum vhdx_item item, const struct vhdx_item_range *range)
{
	uint16_t count = le16_load(table + 10), i = 0;
	uint8_t *entry = table + VHDX_METADATA_ENTRY_BYTES;

	for (; i < count && item_of(entry) != item; i++)
		entry += VHDX_METADATA_ENTRY_BYTES;
	if (!range->bytes && i == count)
		return true;
	if (!range->bytes) { /* the last one takes its place */
		const uint8_t *last = table + (size_t)count * VHDX_METADATA_ENTRY_BYTES;

		memmove(entry, last, VHDX_METADATA_ENTRY_BYTES);
		memset(table + (size_t)count * VHDX_METADATA_ENTRY_BYTES, 0, VHDX_METADATA_ENTRY_BYTES);
		le16_store(table + 10, (uint16_t)(count - 1));
		return true;
	}
	if (i == count) {
		if (count == VHDX_METADATA_ITEMS_MAX)
			return false;
		memset(entry, 0, VHDX_METADATA_ENTRY_BYTES);
		memcpy(entry, known_items[item].guid, IMG_GUID_BYTES);
		le32_store(entry + 24, known_items[item].flags);
		le16_store(table + 10, (uint16_t)(count + 1));
	}
	le32_store(entry + 16, range->off);
	le32_store(entry + 20, range->bytes);
	return true;
}

enum {
	PARAMETER_FIXED = 1,
	PARAMETER_PARENT = 2,
};

static bool is_sector_size(uint32_t bytes)
{
	return bytes == 512 || bytes == 4096;
}

int vhdx_parse_items(const uint8_t *const items[VHDX_ITEMS], struct vhdx_geometry *out,
		     struct img_error *err)
{
	uint32_t flags = le32_load(items[VHDX_FILE_PARAMETERS] + 4);

	*out = (struct vhdx_geometry){
		.block_bytes = le32_load(items[VHDX_FILE_PARAMETERS]),
		.fixed = flags & PARAMETER_FIXED,
		.has_parent = flags & PARAMETER_PARENT,
		.size = le64_load(items[VHDX_DISK_SIZE]),
		.sector_bytes = le32_load(items[VHDX_LOGICAL_SECTOR]),
		.physical_bytes = le32_load(items[VHDX_PHYSICAL_SECTOR]),
	};
	memcpy(out->disk_id, items[VHDX_DISK_ID], IMG_GUID_BYTES);
	if (!is_pow2_u64(out->block_bytes) || out->block_bytes < VHDX_BLOCK_BYTES_MIN ||
	    out->block_bytes > VHDX_BLOCK_BYTES_MAX)
		return img_fail(err, -EUCLEAN,
				"block size is %" PRIu64
				", expected a power of two from 1 MiB to 256 "
				"MiB",
				out->block_bytes);
	if (!is_sector_size(out->sector_bytes))
		return img_fail(err, -EUCLEAN,
				"logical sector size is %" PRIu32 ", expected 512 or 4096",
				out->sector_bytes);
	if (!is_sector_size(out->physical_bytes))
		return img_fail(err, -EUCLEAN,
				"physical sector size is %" PRIu32 ", expected 512 or 4096",
				out->physical_bytes);
	if (out->size > VHDX_DISK_BYTES_MAX || !is_aligned_u64(out->size, out->sector_bytes))
		return img_fail(err, -EUCLEAN,
				"virtual disk size is %" PRIu64
				", expected a multiple of the logical "
				"sector size, %" PRIu32 ", up to 64 TiB",
				out->size, out->sector_bytes);
	return 0;
}

void vhdx_encode_item(const struct vhdx_geometry *g, enum vhdx_item item, uint8_t *out)
{
	switch (item) {
	case VHDX_FILE_PARAMETERS:
		le32_store(out, (uint32_t)g->block_bytes);
		le32_store(out + 4, (g->fixed ? PARAMETER_FIXED : 0u) |
					    (g->has_parent ? PARAMETER_PARENT : 0u));
		break;
	case VHDX_DISK_SIZE:
		le64_store(out, g->size);
		break;
	case VHDX_DISK_ID:
		memcpy(out, g->disk_id, IMG_GUID_BYTES);
		break;
	case VHDX_LOGICAL_SECTOR:
		le32_store(out, g->sector_bytes);
		break;
	case VHDX_PHYSICAL_SECTOR:
		le32_store(out, g->physical_bytes);
		break;
	case VHDX_PARENT_LOCATOR: /* vhdx_locator.c */
	case VHDX_ITEMS:
		break;
	}
}

/* ---- Block allocation table ---- */

uint64_t vhdx_chunk_ratio(const struct vhdx_geometry *g)
{
	return (UINT64_C(8) * VHDX_BITMAP_BYTES * g->sector_bytes) / g->block_bytes;
}

uint64_t vhdx_payload_entry(const struct vhdx_geometry *g, uint64_t block)
{
	return block + block / vhdx_chunk_ratio(g);
}

uint64_t vhdx_bitmap_entry(const struct vhdx_geometry *g, uint64_t chunk)
{
	uint64_t ratio = vhdx_chunk_ratio(g);

	return chunk * (ratio + 1) + ratio;
}

uint64_t vhdx_block_count(const struct vhdx_geometry *g, uint64_t size)
{
	return div_round_up_u64(size, g->block_bytes);
}

uint64_t vhdx_bat_entries(const struct vhdx_geometry *g, uint64_t size)
{
	uint64_t blocks = vhdx_block_count(g, size), ratio = vhdx_chunk_ratio(g);

	if (!blocks)
		return 0;
	return g->has_parent ? div_round_up_u64(blocks, ratio) * (ratio + 1)
			     : blocks + (blocks - 1) / ratio;
}

/* ---- Log ---- */

uint64_t vhdx_log_descriptor_sectors(uint64_t descriptors)
{
	return div_round_up_u64(VHDX_LOG_HEADER_BYTES + descriptors * VHDX_LOG_DESCRIPTOR_BYTES,
				VHDX_LOG_SECTOR);
}

bool vhdx_parse_log_header(const uint8_t *sector, uint64_t log_bytes, struct vhdx_log_header *out)
{
	if (memcmp(sector, "loge", 4) != 0)
		return false;
	*out = (struct vhdx_log_header){
		.bytes = le32_load(sector + 8),
		.tail = le32_load(sector + 12),
		.sequence = le64_load(sector + 16),
		.descriptors = le32_load(sector + 24),
		.flushed_off = le64_load(sector + 48),
		.last_off = le64_load(sector + 56),
	};
	memcpy(out->guid, sector + 32, IMG_GUID_BYTES);
	return out->sequence && out->bytes && out->bytes <= log_bytes && out->tail < log_bytes &&
	       is_aligned_u64(out->bytes | out->tail, VHDX_LOG_SECTOR) &&
	       vhdx_log_descriptor_sectors(out->descriptors) <= out->bytes / VHDX_LOG_SECTOR;
}

void vhdx_encode_log_header(const struct vhdx_log_header *h, uint8_t *out)
{
	memset(out, 0, VHDX_LOG_HEADER_BYTES);
	memcpy(out, "loge", 4);
	le32_store(out + 8, h->bytes);
	le32_store(out + 12, h->tail);
	le64_store(out + 16, h->sequence);
	le32_store(out + 24, h->descriptors);
	memcpy(out + 32, h->guid, IMG_GUID_BYTES);
	le64_store(out + 48, h->flushed_off);
	le64_store(out + 56, h->last_off);
}

bool vhdx_parse_log_descriptor(const uint8_t *bytes, struct vhdx_log_descriptor *out)
{
	out->zero = !memcmp(bytes, "zero", 4);
	if (!out->zero && memcmp(bytes, "desc", 4) != 0)
		return false;
	out->bytes = out->zero ? le64_load(bytes + 8) : VHDX_LOG_SECTOR;
	memcpy(out->trailing, bytes + 4, sizeof(out->trailing));
	memcpy(out->leading, bytes + 8, sizeof(out->leading));
	out->off = le64_load(bytes + 16);
	out->sequence = le64_load(bytes + 24);
	return true;
}

void vhdx_encode_log_data(uint64_t sequence, uint64_t off, const uint8_t *data, uint8_t *descriptor,
			  uint8_t *sector)
{
	memcpy(descriptor, "desc", 4);
	memcpy(descriptor + 4, data + 8 + VHDX_LOG_DATA_BYTES, 4);
	memcpy(descriptor + 8, data, 8);
	le64_store(descriptor + 16, off);
	le64_store(descriptor + 24, sequence);
	memcpy(sector, "data", 4);
	le32_store(sector + 4, (uint32_t)(sequence >> 32));
	memcpy(sector + 8, data + 8, VHDX_LOG_DATA_BYTES);
	le32_store(sector + VHDX_LOG_SECTOR - 4, (uint32_t)sequence);
}

void vhdx_seal_log_entry(uint8_t *entry, uint32_t bytes)
{
	le32_store(entry + 4, checksum(entry, bytes));
}
