/*
 * Writing: plan, commit, drop, release. A block that is allocated is written in place; one that is not
 * gets space, and once its data is there its BAT entry names it. In a differencing disk a new block has
 * only the sectors that were written: the sector bitmap says which, and is changed before (rank
 * ALLOCATION) the BAT entry that makes it count (rank MAPPING). All of it goes through the log.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* plan->slot[] */
enum {
	SLOT_KIND,   /* COMMIT_* */
	SLOT_ENTRY,  /* number of the first BAT entry */
	SLOT_COUNT,  /* STATE: payload blocks */
	SLOT_VALUE,  /* what the entry becomes; STATE: all of them */
	SLOT_BITMAP, /* where the chunk's sector bitmap block is; 0: no bits change */
	SLOT_FROM,   /* guest bytes whose sectors' bits will be set */
	SLOT_TO,
};

enum {
	COMMIT_NEW,   /* a newly allocated block */
	COMMIT_BITS,  /* more sectors of one that is partially present */
	COMMIT_WHOLE, /* one that was partially present is so wholly */
	COMMIT_STATE, /* blocks that are not allocated any more; what they had is freed */
};

static uint64_t block_start(const struct vhdx *v, const struct vhdx_block *b)
{
	return b->number * v->geometry.block_bytes;
}

/* ---- Sector bitmaps ---- */

/* Where the bits of guest bytes [from, to), sectors of one block, lie; len: bytes of the bitmap. */
struct bits {
	uint64_t off, len;
	unsigned first; /* bit of the first byte */
	uint64_t count;
};

static struct bits bits_of(const struct vhdx *v, uint64_t bitmap_off, uint64_t from, uint64_t to)
{
	struct bits b = { .count = (to - from) / v->geometry.sector_bytes };

	b.off = vhdx_bit_offset(v, bitmap_off, from, &b.first);
	b.len = div_round_up_u64(b.first + b.count, 8);
	return b;
}

/* Look at (edit: have written) up to *len bytes of a bitmap. */
static uint8_t *piece_at(struct vhdx *v, struct img_req *req, uint64_t off, uint64_t *len,
			 bool edit)
{
	*len = min_u64(*len, IMG_META_BLOCK - off % IMG_META_BLOCK);
	if (edit)
		return img_meta_edit(req, v->storage, off, *len, IMG_RANK_ALLOCATION);
	return (uint8_t *)(uintptr_t)img_meta_get(req, v->storage, off, *len);
}

/* Have all bits of a block in memory. */
static int look_at_bits(struct vhdx *v, struct img_req *req, const struct bits *b)
{
	uint64_t len;

	for (uint64_t at = 0; at < b->len; at += len) {
		len = b->len - at;
		if (!piece_at(v, req, b->off + at, &len, false))
			return IMG_NEED_METADATA;
	}
	return 0;
}

/* Clear what is set of a block's bits, which are whole bytes: left over from an earlier use. */
static void clear_bits(struct vhdx *v, struct img_req *req, const struct bits *b)
{
	static const uint8_t zero[512];
	uint64_t len;

	for (uint64_t at = 0; at < b->len; at += len) {
		const uint8_t *bytes;

		len = min_u64(b->len - at, sizeof(zero));
		bytes = piece_at(v, req, b->off + at, &len, false);
		if (bytes && memcmp(bytes, zero, len) != 0)
			memset(piece_at(v, req, b->off + at, &len, true), 0, len);
	}
}

static void set_bits(struct vhdx *v, struct img_req *req, const struct bits *b)
{
	uint64_t bit = b->first, end = b->first + b->count;

	while (bit < end) {
		uint64_t len = div_round_up_u64(end, 8) - bit / 8, stop;
		uint8_t *bytes = piece_at(v, req, b->off + bit / 8, &len, true);

		stop = min_u64(end, (bit / 8 + len) * 8);
		for (uint64_t base = bit / 8 * 8; bit < stop;) {
			uint64_t at = bit - base;

			if (at % 8 == 0 && stop - bit >= 8) {
				bytes[at / 8] = 0xff;
				bit += 8;
			} else {
				bytes[at / 8] |= (uint8_t)(1u << at % 8);
				bit++;
			}
		}
	}
}

/* ---- Plans ---- */

/* In the block that is allocated: guest bytes from off on. */
static void plan_in_place(struct img *img, const struct vhdx_block *b, enum img_op op, uint64_t off,
			  uint64_t len, struct img_plan *plan)
{
	const struct vhdx *v = img->state;

	plan->kind = op == IMG_OP_WRITE	 ? IMG_PLAN_DATA
		     : op == IMG_OP_ZERO ? IMG_PLAN_ZERO
					 : IMG_PLAN_PUNCH;
	plan->length = len;
	plan->fill_start = off;
	plan->fill_end = off + len;
	plan->storage = img->file;
	plan->file_off = b->file_off + (off - block_start(v, b));
}

/* The same as far as blocks follow each other in the file. */
static void plan_present(struct img *img, struct img_req *req, const struct vhdx_block *b,
			 enum img_op op, uint64_t off, uint64_t len, struct img_plan *plan)
{
	const struct vhdx *v = img->state;
	uint64_t bytes = v->geometry.block_bytes, start = block_start(v, b), end = start + bytes;
	struct vhdx_block next;

	while (end < off + len && !vhdx_lookup(img, req, end, &next) &&
	       next.state == VHDX_PRESENT && next.file_off == b->file_off + (end - start))
		end += bytes;
	plan_in_place(img, b, op, off, min_u64(len, end - off), plan);
}

/* Guest bytes [from, to), whole sectors, of a block that is allocated for it; to be written or zeroed there. */
static int plan_new(struct img *img, struct img_req *req, const struct vhdx_block *b, bool parents,
		    uint64_t from, uint64_t to, struct img_plan *plan)
{
	struct vhdx *v = img->state;
	uint64_t bytes = v->geometry.block_bytes, start = block_start(v, b), block_off,
		 bitmap_off = 0;
	bool whole = from == start && to >= min_u64(start + bytes, img->size);
	int rc;

	if (!parents || whole) {
		from = start;
		to = start + bytes;
	} else {
		struct bits bits;

		rc = vhdx_lookup_bitmap(img, req, b->number, &bitmap_off);
		if (rc)
			return rc;
		if (!bitmap_off)
			return IMG_NEED_EXCLUSIVE;
		bits = bits_of(v, bitmap_off, start, start + bytes);
		rc = look_at_bits(v, req, &bits);
		if (rc)
			return rc;
	}
	rc = vhdx_alloc_space(img, bytes, &block_off, &plan->fresh, img_req_error(req));
	if (rc)
		return rc;
	plan->fill_start = from;
	plan->fill_end = to;
	plan->storage = img->file;
	plan->file_off = block_off + (from - start);
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_NEW;
	plan->slot[SLOT_ENTRY] = b->entry_number;
	plan->slot[SLOT_VALUE] = vhdx_bat_entry(bitmap_off ? VHDX_PARTIAL : VHDX_PRESENT,
						block_off);
	plan->slot[SLOT_BITMAP] = bitmap_off;
	plan->slot[SLOT_FROM] = from;
	plan->slot[SLOT_TO] = to;
	return 0;
}

/* Of a partially present block: a run of sectors that are all there, or not. */
static int look_at_run(struct img *img, struct img_req *req, const struct vhdx_block *b,
		       uint64_t off, uint64_t *len, uint64_t *bitmap_off, bool *present)
{
	const struct vhdx *v = img->state;
	uint64_t sector = v->geometry.sector_bytes, into = off % sector, run;
	int rc = vhdx_lookup_bitmap(img, req, b->number, bitmap_off);

	if (!rc && !*bitmap_off)
		rc = img_fail(img_req_error(req), -EUCLEAN,
			      "%s: BAT entry %" PRIu64
			      ": found a partially present block, and no sector "
			      "bitmap block",
			      img->name, b->entry_number);
	if (!rc)
		rc = vhdx_bitmap_run(v, req, *bitmap_off, off,
				     div_round_up_u64(into + *len, sector), present, &run);
	if (!rc)
		*len = min_u64(*len, run * sector - into);
	return rc;
}

/* [from, to), whole sectors, will be there; nothing else of the block is touched. */
static void plan_bits(struct img_plan *plan, uint64_t bitmap_off, uint64_t from, uint64_t to)
{
	plan->commit = true;
	plan->claim_start = from;
	plan->claim_end = to;
	plan->slot[SLOT_KIND] = COMMIT_BITS;
	plan->slot[SLOT_BITMAP] = bitmap_off;
	plan->slot[SLOT_FROM] = from;
	plan->slot[SLOT_TO] = to;
}

static int plan_partial(struct img *img, struct img_req *req, const struct vhdx_block *b,
			enum img_op op, uint64_t off, uint64_t len, struct img_plan *plan)
{
	const struct vhdx *v = img->state;
	uint64_t sector = v->geometry.sector_bytes, from = align_down_u64(off, sector);
	uint64_t to, bitmap_off;
	bool present;
	int rc = look_at_run(img, req, b, off, &len, &bitmap_off, &present);

	if (rc)
		return rc;
	to = round_up_u64(off + len, sector);
	if (op == IMG_OP_DISCARD && !present) { /* the parent's stays the parent's */
		plan->kind = IMG_PLAN_NOTHING;
		plan->length = len;
		return 0;
	}
	if (op == IMG_OP_ZERO && !present && (from != off || to != off + len))
		return IMG_NEED_WRITE;
	plan_in_place(img, b, op, off, len, plan);
	if (present)
		return 0;
	plan->fill_start = from;
	plan->fill_end = to;
	plan->file_off -= off - from;
	plan_bits(plan, bitmap_off, from, to);
	return 0;
}

static int plan_data(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		     struct img_plan *plan)
{
	const struct vhdx *v = img->state;
	uint64_t bytes = v->geometry.block_bytes, sector = v->geometry.sector_bytes, end;
	struct vhdx_block b;
	int rc = vhdx_lookup(img, req, off, &b);

	if (rc)
		return rc;
	if (b.state == VHDX_PRESENT) {
		plan_present(img, req, &b, IMG_OP_WRITE, off, len, plan);
		return 0;
	}
	end = min_u64(off + len, block_start(v, &b) + bytes);
	if (b.state == VHDX_PARTIAL)
		return plan_partial(img, req, &b, IMG_OP_WRITE, off, end - off, plan);
	plan->kind = IMG_PLAN_DATA;
	plan->length = end - off;
	return plan_new(img, req, &b, vhdx_is_parents(v, b.state), align_down_u64(off, sector),
			round_up_u64(end, sector), plan);
}

/* ---- Zeroing and discarding ---- */

/* How to clear a whole block. */
enum clear_method {
	CLEAR_NOTHING,
	CLEAR_BY_METADATA, /* by its entry */
	CLEAR_IN_PLACE,	   /* in place: the block stays allocated */
	CLEAR_BY_WRITING,  /* as a write of zeroes, which allocates it */
};

static enum clear_method choose_clear_method(const struct vhdx *v, const struct img_req *req, bool discard,
					     enum vhdx_block_state state)
{
	if (vhdx_is_allocated(state))
		return v->geometry.fixed || (!discard && !img_req_may_unmap(req))
			       ? CLEAR_IN_PLACE
			       : CLEAR_BY_METADATA;
	if (!discard && img_req_keep_allocated(req))
		return CLEAR_BY_WRITING;
	return vhdx_is_parents(v, state) && !discard ? CLEAR_BY_METADATA : CLEAR_NOTHING;
}

/* Whole blocks from b on, by their entries. */
static int plan_state(struct img *img, struct img_req *req, const struct vhdx_block *b,
		      bool discard, uint64_t off, uint64_t len, struct img_plan *plan)
{
	const struct vhdx *v = img->state;
	uint64_t bytes = v->geometry.block_bytes, end = off + len, n = 1;
	enum clear_method how = choose_clear_method(v, req, discard, b->state);
	uint64_t block = vhdx_entry_at(v, b->entry_number) / IMG_META_BLOCK;
	struct vhdx_block next;

	/* As many as lie in the same piece of metadata. */
	while (off + n * bytes < end && (off + (n + 1) * bytes <= end || end == img->size) &&
	       vhdx_entry_at(v, vhdx_payload_entry(&v->geometry, b->number + n)) / IMG_META_BLOCK ==
		       block &&
	       !vhdx_lookup(img, req, off + n * bytes, &next) &&
	       choose_clear_method(v, req, discard, next.state) == how)
		n++;
	plan->length = min_u64(len, n * bytes);
	plan->kind = IMG_PLAN_NOTHING;
	if (how == CLEAR_NOTHING)
		return 0;
	if (img_free_reserve(req, n))
		return img_fail(img_req_error(req), -ENOMEM, "%s: out of memory", img->name);
	plan->kind = IMG_PLAN_META;
	plan->storage = img->file;
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_STATE;
	plan->slot[SLOT_ENTRY] = b->number;
	plan->slot[SLOT_COUNT] = n;
	plan->slot[SLOT_VALUE] = vhdx_bat_entry(vhdx_zero_state(v), 0);
	return 0;
}

/* A whole block that stays allocated. */
static void plan_whole(struct img *img, struct img_req *req, const struct vhdx_block *b,
		       enum img_op op, uint64_t off, uint64_t len, struct img_plan *plan)
{
	const struct vhdx *v = img->state;

	if (b->state == VHDX_PRESENT) {
		plan_present(img, req, b, op, off, len, plan);
		return;
	}
	plan_in_place(img, b, op, off, min_u64(len, v->geometry.block_bytes), plan);
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_WHOLE;
	plan->slot[SLOT_ENTRY] = b->entry_number;
	plan->slot[SLOT_VALUE] = vhdx_bat_entry(VHDX_PRESENT, b->file_off);
}

static int plan_clear(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
		      uint64_t len, struct img_plan *plan)
{
	const struct vhdx *v = img->state;
	uint64_t bytes = v->geometry.block_bytes, sector = v->geometry.sector_bytes;
	bool discard = op == IMG_OP_DISCARD;
	struct vhdx_block b;
	enum clear_method how;
	int rc = vhdx_lookup(img, req, off, &b);

	if (rc)
		return rc;
	if (off % bytes == 0 && (len >= bytes || off + len == img->size)) {
		how = choose_clear_method(v, req, discard, b.state);
		if (how == CLEAR_BY_WRITING)
			return IMG_NEED_WRITE;
		if (how != CLEAR_IN_PLACE)
			return plan_state(img, req, &b, discard, off, len, plan);
		/* Of the last one, only what the disk has of it is in the file. */
		plan_whole(img, req, &b, op, off, len, plan);
		return 0;
	}
	len = min_u64(len, bytes - off % bytes);
	if (b.state == VHDX_PRESENT) {
		plan_in_place(img, &b, op, off, len, plan);
		return 0;
	}
	if (b.state == VHDX_PARTIAL)
		return plan_partial(img, req, &b, op, off, len, plan);
	plan->kind = IMG_PLAN_NOTHING;
	plan->length = len;
	if (!discard && img_req_keep_allocated(req) && !vhdx_is_parents(v, b.state))
		return IMG_NEED_WRITE;
	if (discard || !vhdx_is_parents(v, b.state))
		return 0;
	if (!is_aligned_u64(off | len, sector))
		return IMG_NEED_WRITE;
	plan->kind = IMG_PLAN_ZERO;
	return plan_new(img, req, &b, true, off, off + len, plan);
}

int vhdx_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
		    uint64_t len, struct img_plan *plan)
{
	const struct vhdx *v = img->state;

	if (v->for_check)
		return img_fail(img_req_error(req), -EROFS, "%s: it was opened for a check only",
				img->name);
	switch (op) {
	case IMG_OP_WRITE:
		return plan_data(img, req, off, len, plan);
	case IMG_OP_ZERO:
	case IMG_OP_DISCARD:
		return plan_clear(img, req, op, off, len, plan);
	case IMG_OP_WRITE_COMPRESSED:
		break;
	}
	return img_fail(img_req_error(req), -ENOTSUP, "%s: a VHDX holds no compressed data",
			img->name);
}

/* ---- Commit ---- */

static void set_entry(struct img *img, struct img_req *req, uint64_t number, uint64_t entry)
{
	const struct vhdx *v = img->state;

	le64_store(img_meta_edit(req, v->storage, vhdx_entry_at(v, number), VHDX_BAT_ENTRY_BYTES,
				 IMG_RANK_MAPPING),
		   entry);
}

/* Blocks that are not allocated from now on. */
static void commit_state(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	const struct vhdx *v = img->state;
	uint64_t bytes = v->geometry.block_bytes, freed_off = 0, freed_len = 0;

	for (uint64_t i = 0; i < plan->slot[SLOT_COUNT]; i++) {
		uint64_t number = vhdx_payload_entry(&v->geometry, plan->slot[SLOT_ENTRY] + i);
		const uint8_t *slot = img_meta_get(req, v->storage, vhdx_entry_at(v, number),
						   VHDX_BAT_ENTRY_BYTES);
		uint64_t old = le64_load(slot);

		set_entry(img, req, number, plan->slot[SLOT_VALUE]);
		if (!vhdx_is_allocated(vhdx_entry_state(old)))
			continue;
		if (freed_len && freed_off + freed_len != vhdx_entry_off(old)) {
			img_free_later(req, img->file, freed_off, freed_len);
			freed_len = 0;
		}
		if (!freed_len)
			freed_off = vhdx_entry_off(old);
		freed_len += bytes;
	}
	if (freed_len)
		img_free_later(req, img->file, freed_off, freed_len);
}

void vhdx_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct vhdx *v = img->state;
	uint64_t bitmap_off = plan->slot[SLOT_BITMAP], bytes = v->geometry.block_bytes;
	uint64_t from = plan->slot[SLOT_FROM], to = plan->slot[SLOT_TO];
	struct bits bits;

	switch (plan->slot[SLOT_KIND]) {
	case COMMIT_NEW:
		if (bitmap_off) {
			uint64_t start = align_down_u64(from, bytes);

			bits = bits_of(v, bitmap_off, start, start + bytes);
			clear_bits(v, req, &bits);
			bits = bits_of(v, bitmap_off, from, to);
			set_bits(v, req, &bits);
		}
		/* Whatever of it was written, the file has all of the block before anything durable names it. */
		raise_u64(&img->file->due, vhdx_entry_off(plan->slot[SLOT_VALUE]) + bytes);
		set_entry(img, req, plan->slot[SLOT_ENTRY], plan->slot[SLOT_VALUE]);
		break;
	case COMMIT_BITS:
		bits = bits_of(v, bitmap_off, from, to);
		set_bits(v, req, &bits);
		break;
	case COMMIT_WHOLE:
		set_entry(img, req, plan->slot[SLOT_ENTRY], plan->slot[SLOT_VALUE]);
		break;
	default:
		commit_state(img, req, plan);
		break;
	}
}

void vhdx_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	const struct vhdx *v = img->state;

	(void)req;
	/* Something may have been written there. */
	if (plan->slot[SLOT_KIND] == COMMIT_NEW)
		vhdx_free_space(img, vhdx_entry_off(plan->slot[SLOT_VALUE]),
				v->geometry.block_bytes, false);
}

/* ---- Freed space ---- */

int vhdx_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		 uint64_t len)
{
	(void)req;
	(void)s;
	vhdx_free_space(img, file_off, len, false);
	return 0;
}
