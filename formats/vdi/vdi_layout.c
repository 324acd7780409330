/*
 * VDI headers of versions 0 and 1.1.
 */
#include "formats/vdi/vdi_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

#define SIGNATURE UINT32_C(0xbeda107f)

enum {
	OFF_SIGNATURE = 0x40,
	OFF_VERSION = 0x44, /* major << 16 | minor */
	VERSION_1_1 = 0x10001,
	OFF_HEADER_BYTES = 0x48,
	OFF_MAP = 0x154,
	OFF_DATA = 0x158,
	OFF_SECTOR_BYTES = 0x168,
	OFF_EXTRA_BYTES = 0x17c,
	OFF_LCHS_SECTOR_BYTES = 0x1d4,
	COMMENT_BYTES = 256,
};

/* What both versions have, elsewhere. UUIDs: image, modification, parent, and the parent's modification. */
struct places {
	unsigned type, flags, comment, geometry, size, block_bytes, blocks, allocated, uuids;
};
static const struct places version0 = {
	0x48, 0x4c, 0x50, 0x150, 0x160, 0x168, 0x16c, 0x170, 0x174
};
static const struct places version1 = {
	0x4c, 0x50, 0x54, 0x15c, 0x170, 0x178, 0x180, 0x184, 0x188
};

static const struct places *places_of(const struct vdi_header *h)
{
	return h->version0 ? &version0 : &version1;
}

bool vdi_is_vdi(const uint8_t *head, size_t len)
{
	return len >= VDI_SECTOR && le32_load(head + OFF_SIGNATURE) == SIGNATURE;
}

uint64_t vdi_allocated_off(const struct vdi_header *h)
{
	return places_of(h)->allocated;
}

static void load_header(const uint8_t *bytes, struct vdi_header *h)
{
	const struct places *p = places_of(h);
	const uint8_t *uuids = bytes + p->uuids;

	h->type = (enum vdi_type)le32_load(bytes + p->type);
	h->size = le64_load(bytes + p->size);
	h->block_bytes = le32_load(bytes + p->block_bytes);
	h->blocks = le32_load(bytes + p->blocks);
	h->allocated = le32_load(bytes + p->allocated);
	memcpy(h->uuid, uuids, IMG_GUID_BYTES);
	memcpy(h->modification, uuids + 16, IMG_GUID_BYTES);
	memcpy(h->parent, uuids + 32, IMG_GUID_BYTES);
	if (h->version0) {
		h->map_off = VDI_HEADER0_BYTES;
		h->data_off = h->map_off + (uint64_t)h->blocks * VDI_ENTRY_BYTES;
		return;
	}
	h->map_off = le32_load(bytes + OFF_MAP);
	h->data_off = le32_load(bytes + OFF_DATA);
	h->extra_bytes = le32_load(bytes + OFF_EXTRA_BYTES);
	memcpy(h->parent_modification, uuids + 48, IMG_GUID_BYTES);
}

/* The block map has all of the disk, behind the header and in front of the data. */
static int check_places(const struct vdi_header *h, uint64_t header_end, struct img_error *err)
{
	uint64_t bytes = (uint64_t)h->blocks * VDI_ENTRY_BYTES;

	if (h->map_off < header_end)
		return img_fail(err, -EUCLEAN,
				"block map offset is %" PRIu64 ", expected at least %" PRIu64 ", the end of the header",
				h->map_off, header_end);
	if (!is_aligned_u64(h->map_off, VDI_ENTRY_BYTES))
		return img_fail(err, -ENOTSUP, "block map offset is %" PRIu64 ", expected a multiple of %d",
				h->map_off, VDI_ENTRY_BYTES);
	if (h->map_off + bytes > h->data_off)
		return img_fail(err, -EUCLEAN,
				"data offset is %" PRIu64 ", expected at least %" PRIu64 ", the end of the block map"
				" (%" PRIu32 " blocks at %" PRIu64 ")",
				h->data_off, h->map_off + bytes, h->blocks, h->map_off);
	return 0;
}

static int check_numbers(struct vdi_header *h, struct img_error *err)
{
	uint64_t capacity;

	if (h->type < VDI_DYNAMIC || h->type > VDI_DIFFERENCING)
		return img_fail(err, -EUCLEAN, "image type is %u, expected 1 to 4", (unsigned)h->type);
	if (!h->block_bytes || h->block_bytes % VDI_SECTOR)
		return img_fail(err, -EUCLEAN, "block size is %" PRIu32 ", expected a multiple of %d",
				h->block_bytes, VDI_SECTOR);
	if (h->block_bytes > VDI_BLOCK_BYTES_MAX)
		return img_fail(err, -ENOTSUP, "block size is %" PRIu32 ", expected at most %" PRIu32,
				h->block_bytes, VDI_BLOCK_BYTES_MAX);
	if (h->extra_bytes > VDI_EXTRA_BYTES_MAX)
		return img_fail(err, -ENOTSUP, "block extra data is %" PRIu32 " bytes, expected at most %" PRIu32,
				h->extra_bytes, VDI_EXTRA_BYTES_MAX);
	if (h->blocks > VDI_BLOCKS_MAX)
		return img_fail(err, -ENOTSUP, "blocks is %" PRIu32 ", expected at most %" PRIu32,
				h->blocks, VDI_BLOCKS_MAX);
	capacity = (uint64_t)h->blocks * h->block_bytes;
	if (h->size > capacity)
		return img_fail(err, -EUCLEAN,
				"disk size is %" PRIu64 ", expected at most %" PRIu64 " (%" PRIu32
				" blocks of %" PRIu32 " bytes)",
				h->size, capacity, h->blocks, h->block_bytes);
	h->size = round_up_u64(h->size, VDI_SECTOR);
	return 0;
}

int vdi_parse_header(const uint8_t *bytes, size_t len, struct vdi_header *out, struct img_error *err)
{
	struct vdi_header h = { 0 };
	uint64_t header_end = VDI_HEADER0_BYTES;
	uint32_t version;
	int rc;

	if (!vdi_is_vdi(bytes, len))
		return img_fail(err, -EMEDIUMTYPE, "not a VDI image");
	version = le32_load(bytes + OFF_VERSION);
	h.version0 = !(version >> 16);
	if (!h.version0 && version != VERSION_1_1)
		return img_fail(err, -ENOTSUP, "version is %" PRIu32 ".%" PRIu32 ", expected 0.0 or 1.1",
				version >> 16, version & 0xffff);
	load_header(bytes, &h);
	if (!h.version0) {
		uint32_t header_bytes = le32_load(bytes + OFF_HEADER_BYTES);

		if (header_bytes < VDI_HEADER1_BYTES_MIN)
			return img_fail(err, -EUCLEAN, "header size is %" PRIu32 ", expected at least %d",
					header_bytes, VDI_HEADER1_BYTES_MIN);
		header_end = (uint64_t)VDI_PREHEADER_BYTES + header_bytes;
	}
	rc = check_numbers(&h, err);
	if (!rc)
		rc = check_places(&h, header_end, err);
	if (!rc)
		*out = h;
	return rc;
}

/* Version 0 to 1.1: what is in both goes to its new place, the rest is zeroes. */
static void upgrade_header(uint8_t bytes[VDI_SECTOR])
{
	uint8_t old[VDI_SECTOR];

	memcpy(old, bytes, sizeof(old));
	memset(bytes + OFF_HEADER_BYTES, 0, VDI_SECTOR - OFF_HEADER_BYTES);
	le32_store(bytes + OFF_VERSION, VERSION_1_1);
	le32_store(bytes + OFF_HEADER_BYTES, VDI_HEADER1_BYTES);
	memcpy(bytes + version1.flags, old + version0.flags, 4);
	memcpy(bytes + version1.comment, old + version0.comment, COMMENT_BYTES);
	memcpy(bytes + version1.geometry, old + version0.geometry, 16);
	le32_store(bytes + OFF_SECTOR_BYTES, VDI_SECTOR);
	le32_store(bytes + OFF_LCHS_SECTOR_BYTES, VDI_SECTOR);
}

void vdi_encode_header(const struct vdi_header *h, bool upgrade, uint8_t bytes[VDI_SECTOR])
{
	const struct places *p = places_of(h);
	uint8_t *uuids = bytes + p->uuids;

	if (upgrade)
		upgrade_header(bytes);
	le32_store(bytes + p->type, h->type);
	le64_store(bytes + p->size, h->size);
	le32_store(bytes + p->block_bytes, h->block_bytes);
	le32_store(bytes + p->blocks, h->blocks);
	le32_store(bytes + p->allocated, h->allocated);
	memcpy(uuids, h->uuid, IMG_GUID_BYTES);
	memcpy(uuids + 16, h->modification, IMG_GUID_BYTES);
	memcpy(uuids + 32, h->parent, IMG_GUID_BYTES);
	if (h->version0)
		return;
	le32_store(bytes + OFF_MAP, (uint32_t)h->map_off);
	le32_store(bytes + OFF_DATA, (uint32_t)h->data_off);
	le32_store(bytes + OFF_EXTRA_BYTES, h->extra_bytes);
	memcpy(uuids + 48, h->parent_modification, IMG_GUID_BYTES);
}

void vdi_encode_new_header(const struct vdi_header *h, uint8_t bytes[VDI_SECTOR])
{
	static const char text[] = "<<< libimg VirtualBox Disk Image >>>\n";

	memset(bytes, 0, VDI_SECTOR);
	memcpy(bytes, text, sizeof(text) - 1);
	le32_store(bytes + OFF_SIGNATURE, SIGNATURE);
	vdi_encode_header(h, true, bytes);
}
