/*
 * Writing: plan, commit, drop, release. A block that is in the file is written in place, and the bits of its sectors are
 * set once the data is there. A new block goes to the end of the file, where the footer was, or to room that a
 * discarded one left; the footer follows it.
 *
 * Ranks: the new block's bitmap is durable before the table leads to it. In a dynamic disk it has all bits
 * set, and the block is filled with zeroes: programs that take blocks as a whole read the same. In a
 * differencing disk bits follow the data, so the bitmap is MAPPING and the table ROOT.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"
#include "libimg/base/endian.h"

/* plan->slot[] */
enum {
	SLOT_KIND,  /* COMMIT_* */
	SLOT_ENTRY, /* file offset of the block's entry in the table */
	SLOT_BLOCK, /* file offset of the block */
	SLOT_FIRST, /* NEW in a differencing disk, BITS: sectors of the block that are here then */
	SLOT_COUNT,
};

enum {
	COMMIT_NEW,
	COMMIT_BITS,
	COMMIT_CLEAR,
};

static enum img_rank table_rank(const struct vhd *v)
{
	return vhd_is_child(v) ? IMG_RANK_ROOT : IMG_RANK_MAPPING;
}

/* ---- Looking up ---- */

/* A block, and what follows it that is like it as far as that is asked for. */
struct lookup {
	uint64_t guest_off;
	uint64_t entry_at; /* in the file */
	bool present;
	uint64_t block_off; /* of its bitmap */
	uint64_t absent;    /* blocks in a row that are not in the file */
};

static int lookup(struct img *img, struct img_req *req, uint64_t off, uint64_t len, struct lookup *l)
{
	const struct vhd *v = img->state;
	uint64_t number = off / v->header.block_bytes, n;
	const uint8_t *slots;
	uint32_t entry;

	l->guest_off = number * v->header.block_bytes;
	l->entry_at = v->header.table_off + number * VHD_ENTRY_BYTES;
	n = min_u64(vhd_blocks(off + len, v->header.block_bytes) - number,
		    (IMG_META_BLOCK - l->entry_at % IMG_META_BLOCK) / VHD_ENTRY_BYTES);
	slots = img_meta_get(req, img->file, l->entry_at, (size_t)n * VHD_ENTRY_BYTES);
	if (!slots)
		return IMG_NEED_METADATA;
	entry = be32_load(slots);
	l->present = entry != VHD_ABSENT;
	l->block_off = vhd_entry_off(entry);
	for (l->absent = 0; l->absent < n; l->absent++)
		if (be32_load(slots + l->absent * VHD_ENTRY_BYTES) != VHD_ABSENT)
			break;
	return l->present ? vhd_check_entry(img, number, entry, img_req_error(req)) : 0;
}

/* Sectors from `first` on, at most n, whose bits one look at the bitmap sees. */
static uint64_t bits_seen(uint64_t block_off, uint64_t first, uint64_t n)
{
	uint64_t at = block_off + first / 8;

	return min_u64(n, (IMG_META_BLOCK - at % IMG_META_BLOCK) * 8 - first % 8);
}

static size_t bit_bytes(uint64_t first, uint64_t n)
{
	return (size_t)div_round_up_u64(first % 8 + n, 8);
}

/* From guest offset off on: sectors, up to *n, that are here or all are not. */
static int lookup_bits(struct img *img, struct img_req *req, const struct lookup *l, uint64_t first,
		       uint64_t *n, uint64_t *run, bool *set)
{
	const uint8_t *bits;

	*n = bits_seen(l->block_off, first, *n);
	bits = img_meta_get(req, img->file, l->block_off + first / 8, bit_bytes(first, *n));
	if (!bits)
		return IMG_NEED_METADATA;
	*run = vhd_bit_run(bits, first % 8, *n, set);
	return 0;
}

/* ---- Blocks that are there ---- */

/* Sectors [first, first + n) of the block, and the part of [off, off + len) that they hold. */
static void plan_sectors(const struct img *img, const struct lookup *l, uint64_t first, uint64_t n,
			 uint64_t off, uint64_t len, struct img_plan *plan)
{
	const struct vhd *v = img->state;
	uint64_t start = l->guest_off + first * VHD_SECTOR;

	plan->length = min_u64(len, start + n * VHD_SECTOR - off);
	plan->storage = img->file;
	plan->file_off = l->block_off + v->header.bitmap_bytes + (off - l->guest_off);
	plan->fill_start = off;
	plan->fill_end = off + plan->length;
}

/* They will be here, so that nobody else is to set bits of theirs, or to write to them. */
static void claim_sectors(const struct img *img, const struct lookup *l, uint64_t first,
			  struct img_plan *plan)
{
	const struct vhd *v = img->state;
	uint64_t from = l->guest_off + first * VHD_SECTOR;

	plan->fill_end = round_up_u64(plan->fill_end, VHD_SECTOR);
	plan->fill_start = from;
	if (plan->kind == IMG_PLAN_DATA)
		plan->file_off = l->block_off + v->header.bitmap_bytes + first * VHD_SECTOR;
	plan->claim_start = plan->fill_start;
	plan->claim_end = plan->fill_end;
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_BITS;
	plan->slot[SLOT_BLOCK] = l->block_off;
	plan->slot[SLOT_FIRST] = first;
	plan->slot[SLOT_COUNT] = (plan->fill_end - from) / VHD_SECTOR;
}

static int plan_in_place(struct img *img, struct img_req *req, const struct lookup *l, uint64_t off,
			 uint64_t len, struct img_plan *plan)
{
	uint64_t first = (off - l->guest_off) / VHD_SECTOR, run;
	uint64_t n = div_round_up_u64(off - l->guest_off + len, VHD_SECTOR) - first;
	bool set;
	int rc = lookup_bits(img, req, l, first, &n, &run, &set);

	if (rc)
		return rc;
	plan->kind = IMG_PLAN_DATA;
	plan_sectors(img, l, first, set ? run : n, off, len, plan);
	if (!set)
		claim_sectors(img, l, first, plan);
	return 0;
}

/* ---- New blocks ---- */

static void fill_new(struct img_req *req, struct img_storage *s, uint64_t off, uint64_t len,
		     const uint8_t *bytes, uint8_t value)
{
	for (uint64_t done = 0, n; done < len; done += n) {
		uint8_t *at;

		n = min_u64(len - done, IMG_META_BLOCK - (off + done) % IMG_META_BLOCK);
		at = img_meta_edit(req, s, off + done, (size_t)n, IMG_RANK_ALLOCATION);
		if (bytes)
			memcpy(at, bytes + done, (size_t)n);
		else
			memset(at, value, (size_t)n);
	}
}

/* Room for a block, with its bitmap, and the footer where it is the last one. */
static int alloc_block(struct img *img, struct img_req *req, uint64_t *off, bool *fresh)
{
	struct vhd *v = img->state;
	uint64_t end = v->units.next, got;
	enum img_rank rank = vhd_is_child(v) ? IMG_RANK_MAPPING : IMG_RANK_ALLOCATION;
	int rc = img_unit_alloc_get(&v->units, 1, off, &got);

	if (rc)
		return img_fail(img_req_error(req), img->file->device ? -ENOSPC : rc,
				"%s: found no room for another block, allowed are %" PRIu64
				" bytes of a %s",
				img->name, v->units.limit, img->file->device ? "device" : "file");
	*fresh = img->file->limits.zero_fill && *off + v->header.bitmap_bytes >=
							max_u64(img->file->size, v->stale_end);
	rc = img_meta_new(req, img->file, *off, v->header.bitmap_bytes, rank);
	if (!rc && !vhd_is_child(v))
		fill_new(req, img->file, *off, v->header.bitmap_bytes, NULL, 0xff);
	if (!rc && *off == end && !img->file->device) {
		rc = img_meta_new(req, img->file, v->units.next, VHD_FOOTER_BYTES,
				  IMG_RANK_ALLOCATION);
		if (!rc)
			fill_new(req, img->file, v->units.next, VHD_FOOTER_BYTES, v->footer.bytes,
				 0);
	}
	if (!rc)
		return 0;
	img_unit_alloc_put(&v->units, *off, v->units.unit_bytes);
	return img_fail(img_req_error(req), rc, "%s: out of memory", img->name);
}

static int plan_new(struct img *img, struct img_req *req, bool zero, struct lookup *l, uint64_t off,
		    uint64_t len, struct img_plan *plan)
{
	const struct vhd *v = img->state;
	uint64_t first = (off - l->guest_off) / VHD_SECTOR, n;
	bool fresh = false;
	int rc;

	len = min_u64(len, l->guest_off + v->header.block_bytes - off);
	n = div_round_up_u64(off - l->guest_off + len, VHD_SECTOR) - first;
	rc = alloc_block(img, req, &l->block_off, &fresh);
	if (rc)
		return rc;
	plan->kind = zero ? IMG_PLAN_ZERO : IMG_PLAN_DATA;
	if (vhd_is_child(v)) {
		n = bits_seen(l->block_off, first, n);
		plan_sectors(img, l, first, n, off, len, plan);
		claim_sectors(img, l, first, plan);
		plan->claim_start = plan->claim_end = 0; /* the whole block: no other one makes it, too */
	} else {
		plan_sectors(img, l, first, n, off, len, plan);
		plan->fill_start = l->guest_off;
		plan->fill_end = l->guest_off + v->header.block_bytes;
		plan->file_off = l->block_off + v->header.bitmap_bytes;
		plan->commit = true;
	}
	plan->fresh = fresh;
	plan->slot[SLOT_KIND] = COMMIT_NEW;
	plan->slot[SLOT_ENTRY] = l->entry_at;
	plan->slot[SLOT_BLOCK] = l->block_off;
	return 0;
}

/* ---- Zeroing and discarding ---- */

/* Does [off, off + len) cover the block, as far as the disk has it? */
static bool is_whole(const struct img *img, const struct lookup *l, uint64_t off, uint64_t len)
{
	const struct vhd *v = img->state;

	return off == l->guest_off &&
	       off + len >= min_u64(l->guest_off + v->header.block_bytes, img->size);
}

static int plan_clear_absent(struct img *img, struct img_req *req, bool discard, struct lookup *l,
			     uint64_t off, uint64_t len, struct img_plan *plan)
{
	const struct vhd *v = img->state;

	plan->kind = IMG_PLAN_NOTHING;
	plan->length = min_u64(len, l->guest_off + l->absent * v->header.block_bytes - off);
	if (discard || (!vhd_is_child(v) && !img_req_keep_allocated(req)))
		return 0;
	return vhd_is_child(v) ? plan_new(img, req, true, l, off, len, plan) : IMG_NEED_WRITE;
}

static int plan_clear_part(struct img *img, struct img_req *req, bool discard, const struct lookup *l,
			   uint64_t off, uint64_t len, struct img_plan *plan)
{
	const struct vhd *v = img->state;
	uint64_t first = (off - l->guest_off) / VHD_SECTOR, n, run;
	bool set;
	int rc;

	len = min_u64(len, l->guest_off + v->header.block_bytes - off);
	n = div_round_up_u64(off - l->guest_off + len, VHD_SECTOR) - first;
	rc = lookup_bits(img, req, l, first, &n, &run, &set);
	if (rc)
		return rc;
	plan->kind = discard ? IMG_PLAN_PUNCH : IMG_PLAN_ZERO;
	plan_sectors(img, l, first, run, off, len, plan);
	if (!set && (discard || !vhd_is_child(v)))
		plan->kind = IMG_PLAN_NOTHING;
	else if (!set)
		claim_sectors(img, l, first, plan);
	return 0;
}

static int plan_clear(struct img *img, struct img_req *req, bool discard, uint64_t off, uint64_t len,
		      struct img_plan *plan)
{
	const struct vhd *v = img->state;
	struct lookup l;
	int rc = lookup(img, req, off, len, &l);

	if (rc)
		return rc;
	if (!l.present)
		return plan_clear_absent(img, req, discard, &l, off, len, plan);
	if (vhd_is_child(v) || !is_whole(img, &l, off, len) ||
	    (!discard && (!img_req_may_unmap(req) || img_req_keep_allocated(req))))
		return plan_clear_part(img, req, discard, &l, off, len, plan);
	if (img_free_reserve(req, 1))
		return img_fail(img_req_error(req), -ENOMEM, "%s: out of memory", img->name);
	plan->kind = IMG_PLAN_META;
	plan->length = min_u64(len, v->header.block_bytes);
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_CLEAR;
	plan->slot[SLOT_ENTRY] = l.entry_at;
	plan->slot[SLOT_BLOCK] = l.block_off;
	return 0;
}

/* ---- The driver's entries ---- */

static void plan_fixed(const struct img *img, enum img_op op, uint64_t off, uint64_t len,
		       struct img_plan *plan)
{
	plan->kind = op == IMG_OP_WRITE ? IMG_PLAN_DATA : op == IMG_OP_ZERO ? IMG_PLAN_ZERO
									    : IMG_PLAN_PUNCH;
	plan->length = len;
	plan->fill_start = off;
	plan->fill_end = off + len;
	plan->storage = img->file;
	plan->file_off = off;
}

int vhd_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off, uint64_t len,
		   struct img_plan *plan)
{
	const struct vhd *v = img->state;
	struct lookup l;
	int rc;

	if (v->for_check)
		return img_fail(img_req_error(req), -EROFS, "%s: it was opened for a check only", img->name);
	if (op == IMG_OP_WRITE_COMPRESSED)
		return img_fail(img_req_error(req), -ENOTSUP, "%s: a VHD holds nothing compressed", img->name);
	if (vhd_is_fixed(v)) {
		plan_fixed(img, op, off, len, plan);
		return 0;
	}
	if (op != IMG_OP_WRITE)
		return plan_clear(img, req, op == IMG_OP_DISCARD, off, len, plan);
	rc = lookup(img, req, off, len, &l);
	if (rc)
		return rc;
	len = min_u64(len, l.guest_off + v->header.block_bytes - off);
	if (!l.present)
		return plan_new(img, req, false, &l, off, len, plan);
	return plan_in_place(img, req, &l, off, len, plan);
}

static void set_bits(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	uint64_t first = plan->slot[SLOT_FIRST], n = plan->slot[SLOT_COUNT];
	uint8_t *bits = img_meta_edit(req, img->file, plan->slot[SLOT_BLOCK] + first / 8,
				      bit_bytes(first, n), IMG_RANK_MAPPING);

	vhd_set_bits(bits, first % 8, n);
}

void vhd_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	const struct vhd *v = img->state;
	uint64_t block_off = plan->slot[SLOT_BLOCK];
	uint8_t *slot;

	if (plan->slot[SLOT_KIND] == COMMIT_BITS) {
		set_bits(img, req, plan);
		return;
	}
	slot = img_meta_edit(req, img->file, plan->slot[SLOT_ENTRY], VHD_ENTRY_BYTES,
			     table_rank(v));
	if (plan->slot[SLOT_KIND] == COMMIT_CLEAR) {
		be32_store(slot, VHD_ABSENT);
		img_free_later(req, img->file, block_off, v->units.unit_bytes);
		return;
	}
	be32_store(slot, (uint32_t)(block_off / VHD_SECTOR));
	if (vhd_is_child(v))
		set_bits(img, req, plan);
}

void vhd_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct vhd *v = img->state;

	(void)req;
	if (plan->slot[SLOT_KIND] != COMMIT_NEW)
		return;
	/* What was written of it, if anything, is not zeroes. */
	v->stale_end = max_u64(v->stale_end, plan->slot[SLOT_BLOCK] + v->units.unit_bytes);
	img_unit_alloc_put(&v->units, plan->slot[SLOT_BLOCK], v->units.unit_bytes);
}

/* What a block is aligned with behind it may be something else in files of other programs. */
static bool is_clear(const struct vhd *v, uint64_t off, uint64_t len)
{
	return !img_range_map_range_at(&v->metadata, off, len);
}

int vhd_last_use(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		 uint64_t len, bool *last)
{
	(void)req;
	(void)s;
	*last = is_clear(img->state, file_off, len);
	return 0;
}

int vhd_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		uint64_t len)
{
	struct vhd *v = img->state;

	(void)req;
	(void)s;
	if (is_clear(v, file_off, len))
		img_unit_alloc_put(&v->units, file_off, len);
	return 0;
}

int vhd_first_write(struct img *img, struct img_error *err)
{
	const struct vhd *v = img->state;

	return v->tail_due ? vhd_write_tail(img, err) : 0;
}
