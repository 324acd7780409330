/*
 * A damaged header of a dynamic disk, for a check. There is no copy of it, but little in it is not known otherwise:
 * the signature and the version, where programs put the table, how many entries the disk needs. So
 * the header is what the checksum and the blocks confirm; or, where the checksum itself is damaged or nothing of the header
 * is left, what the blocks confirm: all are in the file, in nobody's way, and as far apart as their size has them.
 *
 * Of a differencing disk the names and identity of the parent are in nothing else: without them it stays lost.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"
#include "libimg/base/endian.h"

enum {
	BLOCK_MIN = 4 << 10,	/* of what is tried where the block size is damaged */
	BLOCK_COMMON = 2 << 20, /* what nearly all programs make */
	ALIGN_MAX = 4 << 10,	/* what lies between blocks besides their bytes, at most */
};

/* What every header has. */
static void put_constants(uint8_t *h)
{
	memcpy(h, "cxsparse", 8);
	be64_store(h + 8, UINT64_MAX);
	be16_store(h + 24, 1);
}

static void put_fields(uint8_t *h, uint64_t table, uint32_t block, uint64_t entries)
{
	be64_store(h + VHD_OFF_TABLE, table);
	be32_store(h + VHD_OFF_BLOCK, block);
	be32_store(h + VHD_OFF_ENTRIES, (uint32_t)min_u64(entries, UINT32_MAX));
}

/* Can it be followed? Then v is as if it were the file's. */
static bool is_usable(struct img *img, struct vhd *v, uint8_t *h)
{
	vhd_seal_header(h);
	if (vhd_parse_header(h, v->footer.size, &v->header, NULL))
		return false;
	v->blocks = vhd_blocks(v->footer.size, v->header.block_bytes);
	v->batmap_off = 0;
	return v->blocks <= VHD_BLOCKS_MAX &&
	       range_in(v->header.table_off, (uint64_t)v->header.entries * VHD_ENTRY_BYTES,
			img->file->size) &&
	       !vhd_list_metadata(img, v, NULL);
}

/* How well the blocks go with a header; from worst to best. */
enum fit {
	FIT_NONE,  /* it cannot be followed, or blocks cannot be where it has them */
	FIT_LOOSE, /* they can, but might be of other lengths, too */
	FIT_EXACT, /* their distance tells how long they are */
};

static enum fit compare_blocks(struct img *img, struct vhd *v, uint8_t *h)
{
	struct img_range_map blocks = { 0 };
	uint64_t stored, end, least = UINT64_MAX;
	enum fit fit = FIT_NONE;

	if (is_usable(img, v, h) && !vhd_find_blocks(img, v, &blocks, NULL))
		fit = FIT_LOOSE;
	stored = vhd_stored_bytes(v);
	end = v->tail == VHD_TAIL_MISSING ? img->file->size : v->tail_off;
	for (size_t i = 0; fit == FIT_LOOSE && i < blocks.block_count; i++) {
		if (i + 1 < blocks.block_count)
			least = min_u64(least, blocks.blocks[i + 1] - blocks.blocks[i]);
		else if (!img->file->device && end > blocks.blocks[i])
			least = min_u64(least, end - blocks.blocks[i]);
	}
	if (fit == FIT_LOOSE && least >= stored && least < stored + ALIGN_MAX)
		fit = FIT_EXACT;
	img_range_map_free(&blocks);
	return fit;
}

/*
 * One that the checksum that is there confirms. That is a sum of bytes, which headers of other
 * block sizes have, too: of 512 KiB and 32 entries the same as of 2 MiB and 8. So the blocks have to
 * confirm it as well.
 */
static enum fit confirm_by_checksum(struct img *img, struct vhd *v, const uint8_t *bytes)
{
	uint8_t h[VHD_HEADER_BYTES];
	uint64_t tables[] = { be64_load(bytes + VHD_OFF_TABLE),
			      v->footer.header_off + VHD_HEADER_BYTES };
	uint32_t sum = be32_load(bytes + VHD_OFF_HEADER_CHECKSUM);
	uint32_t found = be32_load(bytes + VHD_OFF_BLOCK), block = found;
	uint64_t next = BLOCK_MIN;
	enum fit best = FIT_NONE, fit;

	memcpy(h, bytes, VHD_HEADER_BYTES);
	put_constants(h);
	if (vhd_checksum(h, VHD_HEADER_BYTES, VHD_OFF_HEADER_CHECKSUM) == sum &&
	    is_usable(img, v, h))
		return FIT_EXACT;
	for (; next <= 2 * (uint64_t)VHD_WRITE_BLOCK_MAX; block = (uint32_t)next, next *= 2)
		for (unsigned i = 0; block >= VHD_SECTOR && i < 4; i++) {
			uint64_t needed = vhd_blocks(v->footer.size, block);

			put_fields(h, tables[i % 2], block,
				   i < 2 ? be32_load(bytes + VHD_OFF_ENTRIES) : needed);
			if (vhd_checksum(h, VHD_HEADER_BYTES, VHD_OFF_HEADER_CHECKSUM) != sum)
				continue;
			fit = compare_blocks(img, v, h);
			if (fit == FIT_EXACT)
				return fit;
			best = fit == FIT_LOOSE ? fit : best;
		}
	return best;
}

static bool has_constants(const uint8_t *bytes)
{
	uint8_t h[VHD_HEADER_BYTES];

	memcpy(h, bytes, sizeof(h));
	put_constants(h);
	return !memcmp(h, bytes, sizeof(h));
}

/* Nothing of it is left: it is what nearly all programs write, if the blocks are so. */
static bool confirm_by_blocks(struct img *img, struct vhd *v)
{
	uint64_t table = v->footer.header_off + VHD_HEADER_BYTES;
	uint8_t h[VHD_HEADER_BYTES];

	vhd_encode_header(table, (uint32_t)vhd_blocks(v->footer.size, BLOCK_COMMON), BLOCK_COMMON,
			  h);
	return compare_blocks(img, v, h) == FIT_EXACT;
}

bool vhd_rebuild_header(struct img *img, struct vhd *v, const uint8_t bytes[VHD_HEADER_BYTES])
{
	enum fit by_checksum = confirm_by_checksum(img, v, bytes), as_found = FIT_NONE;
	uint8_t h[VHD_HEADER_BYTES];

	if (by_checksum == FIT_EXACT)
		return true;
	memcpy(h, bytes, sizeof(h));
	if (has_constants(bytes))
		as_found = compare_blocks(img, v, h);
	if (as_found == FIT_EXACT || (as_found == FIT_LOOSE && by_checksum == FIT_NONE))
		return true;
	return !vhd_is_child(v) && confirm_by_blocks(img, v);
}
