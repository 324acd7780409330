/*
 * Where guest bytes live: the block allocation table, and in a differencing disk the sector bitmaps.
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

const char *vhdx_offset_fault(const struct vhdx *v, uint64_t file_off, uint64_t bytes)
{
	const struct vhdx_regions *r = &v->regions;

	if (file_off < VHDX_MIB)
		return "the headers";
	if (!range_in(file_off, bytes, VHDX_FILE_BYTES_MAX))
		return "nothing that a VHDX can have";
	if (ranges_overlap(file_off, bytes, v->header.log_off, v->header.log_bytes))
		return "the log";
	if (ranges_overlap(file_off, bytes, r->bat.off, r->bat.bytes))
		return "the BAT";
	if (ranges_overlap(file_off, bytes, r->metadata.off, r->metadata.bytes))
		return "the metadata region";
	return NULL;
}

static int fail_entry(const struct img *img, struct img_req *req, uint64_t number, uint64_t entry,
		      const char *fault)
{
	const struct vhdx *v = img->state;

	return img_fail(img_req_error(req), -EUCLEAN,
			"%s: BAT entry %" PRIu64 " at %" PRIu64 ": found %#" PRIx64 ", which is %s",
			img->name, number, vhdx_entry_at(v, number), entry, fault);
}

/* The sentence for an offset where something else lies. */
static int fail_offset(const struct img *img, struct img_req *req, uint64_t number, uint64_t entry,
		       const char *there)
{
	const struct vhdx *v = img->state;

	return img_fail(img_req_error(req), -EUCLEAN,
			"%s: BAT entry %" PRIu64 " at %" PRIu64 ": found a block at %" PRIu64
			", where %s is",
			img->name, number, vhdx_entry_at(v, number), vhdx_entry_off(entry), there);
}

/* What is wrong with an entry alone; NULL: nothing. */
static const char *state_fault(const struct vhdx *v, enum vhdx_block_state state)
{
	switch (state) {
	case VHDX_NOT_PRESENT:
	case VHDX_UNDEFINED:
	case VHDX_ZERO:
	case VHDX_UNMAPPED:
	case VHDX_UNMAPPED_DRAFT:
	case VHDX_PRESENT:
		return NULL;
	case VHDX_PARTIAL:
		return vhdx_is_child(v) ? NULL
					: "a partially present block, expected in differencing disks only";
	}
	return "a state that is not defined";
}

static int parse_entry(const struct img *img, struct img_req *req, uint64_t number, const uint8_t *slot,
		       struct vhdx_block *out)
{
	const struct vhdx *v = img->state;
	const char *fault;

	out->entry_number = number;
	out->entry = le64_load(slot);
	out->state = vhdx_entry_state(out->entry);
	out->file_off = vhdx_entry_off(out->entry);
	fault = state_fault(v, out->state);
	if (fault)
		return fail_entry(img, req, number, out->entry, fault);
	if (!vhdx_is_allocated(out->state))
		return 0;
	fault = vhdx_offset_fault(v, out->file_off, v->geometry.block_bytes);
	return fault ? fail_offset(img, req, number, out->entry, fault) : 0;
}

int vhdx_lookup(struct img *img, struct img_req *req, uint64_t off, struct vhdx_block *out)
{
	const struct vhdx *v = img->state;
	uint64_t block = off / v->geometry.block_bytes;
	uint64_t number = vhdx_payload_entry(&v->geometry, block);
	const uint8_t *slot = img_meta_get(req, v->storage, vhdx_entry_at(v, number),
					   VHDX_BAT_ENTRY_BYTES);

	if (!slot)
		return IMG_NEED_METADATA;
	out->number = block;
	return parse_entry(img, req, number, slot, out);
}

int vhdx_lookup_bitmap(struct img *img, struct img_req *req, uint64_t block, uint64_t *file_off)
{
	const struct vhdx *v = img->state;
	uint64_t number = vhdx_bitmap_entry(&v->geometry, block / vhdx_chunk_ratio(&v->geometry));
	const uint8_t *slot = img_meta_get(req, v->storage, vhdx_entry_at(v, number),
					   VHDX_BAT_ENTRY_BYTES);
	const char *fault;
	uint64_t entry;

	if (!slot)
		return IMG_NEED_METADATA;
	entry = le64_load(slot);
	*file_off = 0;
	if (vhdx_entry_state(entry) == VHDX_NOT_PRESENT)
		return 0;
	if (vhdx_entry_state(entry) != VHDX_PRESENT)
		return fail_entry(img, req, number, entry,
				  "a state that a sector bitmap block cannot have");
	fault = vhdx_offset_fault(v, vhdx_entry_off(entry), VHDX_BITMAP_BYTES);
	if (fault)
		return fail_offset(img, req, number, entry, fault);
	*file_off = vhdx_entry_off(entry);
	return 0;
}

uint64_t vhdx_bit_offset(const struct vhdx *v, uint64_t bitmap_off, uint64_t off, unsigned *bit)
{
	uint64_t chunk_bytes = vhdx_chunk_ratio(&v->geometry) * v->geometry.block_bytes;
	uint64_t sector = off % chunk_bytes / v->geometry.sector_bytes;

	*bit = (unsigned)(sector % 8);
	return bitmap_off + sector / 8;
}

int vhdx_bitmap_run(const struct vhdx *v, struct img_req *req, uint64_t bitmap_off, uint64_t off,
		    uint64_t most, bool *present, uint64_t *run)
{
	unsigned bit;
	uint64_t byte_off = vhdx_bit_offset(v, bitmap_off, off, &bit);
	uint64_t bytes = min_u64((bit + most + 7) / 8, IMG_META_BLOCK - byte_off % IMG_META_BLOCK);
	const uint8_t *bits = img_meta_get(req, v->storage, byte_off, bytes);
	uint8_t same;

	if (!bits)
		return IMG_NEED_METADATA;
	most = min_u64(most, bytes * 8 - bit);
	*present = bits[0] >> bit & 1;
	same = *present ? 0xff : 0;
	for (*run = 1; *run < most;) {
		uint64_t at = bit + *run;

		if (at % 8 == 0 && most - *run >= 8 && bits[at / 8] == same)
			*run += 8;
		else if ((bits[at / 8] >> at % 8 & 1) == *present)
			(*run)++;
		else
			break;
	}
	return 0;
}

/* In a partially present block. */
static int map_partial(struct img *img, struct img_req *req, const struct vhdx_block *b, uint64_t off,
		       uint64_t len, struct img_extent *out)
{
	const struct vhdx *v = img->state;
	uint64_t block = v->geometry.block_bytes, sector = v->geometry.sector_bytes;
	uint64_t within = off % block, bitmap_off, run;
	bool present;
	int rc = vhdx_lookup_bitmap(img, req, b->number, &bitmap_off);

	if (rc)
		return rc;
	if (!bitmap_off)
		return fail_entry(img, req, b->entry_number, b->entry,
				  "a partially present block without a sector bitmap block");
	len = min_u64(len, block - within);
	rc = vhdx_bitmap_run(v, req, bitmap_off, off,
			     div_round_up_u64(off % sector + len, sector), &present, &run);
	if (rc)
		return rc;
	*out = (struct img_extent){
		.kind = present ? IMG_DATA : IMG_BACKING,
		.length = min_u64(len, run * sector - off % sector),
		.storage = present ? v->storage : NULL,
		.file_off = present ? b->file_off + within : 0,
	};
	return 0;
}

/* What a block that is not allocated reads as. */
static enum img_extent_kind kind_of(const struct vhdx *v, enum vhdx_block_state state)
{
	if (vhdx_is_allocated(state))
		return IMG_DATA;
	return vhdx_is_parents(v, state) ? IMG_BACKING : IMG_ZERO;
}

int vhdx_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
	     struct img_extent *out)
{
	const struct vhdx *v = img->state;
	uint64_t block_bytes = v->geometry.block_bytes, ratio = vhdx_chunk_ratio(&v->geometry);
	uint64_t block = off / block_bytes, number = vhdx_payload_entry(&v->geometry, block);
	uint64_t last = vhdx_payload_entry(&v->geometry, (off + len - 1) / block_bytes);
	uint64_t at = vhdx_entry_at(v, number), run = 1;
	uint64_t n = min_u64(last - number + 1,
			     (IMG_META_BLOCK - at % IMG_META_BLOCK) / VHDX_BAT_ENTRY_BYTES);
	const uint8_t *slots = img_meta_get(req, v->storage, at, n * VHDX_BAT_ENTRY_BYTES);
	struct vhdx_block first = { .number = block };
	enum img_extent_kind kind;
	int rc;

	if (!slots)
		return IMG_NEED_METADATA;
	rc = parse_entry(img, req, number, slots, &first);
	if (rc)
		return rc;
	if (first.state == VHDX_PARTIAL)
		return map_partial(img, req, &first, off, len, out);
	kind = kind_of(v, first.state);
	/* Of what is wrong further on is told when that is asked for. */
	for (uint64_t i = 1; i < n; i++) {
		uint64_t entry = le64_load(slots + i * VHDX_BAT_ENTRY_BYTES);
		enum vhdx_block_state state = vhdx_entry_state(entry);

		if ((number + i) % (ratio + 1) == ratio) /* a sector bitmap block's */
			continue;
		if (state_fault(v, state) || state == VHDX_PARTIAL || kind_of(v, state) != kind)
			break;
		if (kind == IMG_DATA && (vhdx_entry_off(entry) != first.file_off + run * block_bytes ||
					 vhdx_offset_fault(v, vhdx_entry_off(entry), block_bytes)))
			break;
		run++;
	}
	*out = (struct img_extent){
		.kind = kind,
		.length = min_u64(len, run * block_bytes - off % block_bytes),
		.storage = kind == IMG_DATA ? v->storage : NULL,
		.file_off = kind == IMG_DATA ? first.file_off + off % block_bytes : 0,
	};
	return 0;
}
