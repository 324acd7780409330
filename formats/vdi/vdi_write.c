/*
 * Writing: plan, commit, drop, release. A block that is in the file is written in place; one that is not
 * gets the next place, and once its data is there its entry in the block map names it. Other programs put
 * their next block behind as many as the header counts: so the count is on disk (rank ALLOCATION) before
 * an entry that it must cover (rank MAPPING). Blocks that were freed are used again first; what gaps are
 * left is closed by finish().
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/vdi/vdi_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* plan->slot[] */
enum {
	SLOT_BLOCK, /* the first one */
	SLOT_COUNT,
	SLOT_OFFSET, /* where it is in the file; NO_OFFSET: the entries say zeroes */
};

#define NO_OFFSET UINT64_MAX

enum { BLOCKS_AT_ONCE = 64 }; /* that one plan allocates */

/* ---- Looking up ---- */

static int lookup(struct img *img, struct img_req *req, uint64_t block, uint32_t *entry)
{
	const struct vdi *v = img->state;
	const uint8_t *slot = img_meta_get(req, img->file, vdi_entry_at(&v->header, block),
					   VDI_ENTRY_BYTES);

	if (!slot)
		return IMG_NEED_METADATA;
	*entry = le32_load(slot);
	return 0;
}

/* Do the entries of two blocks lie in the same piece of metadata? */
static bool same_piece(const struct vdi *v, uint64_t a, uint64_t b)
{
	return vdi_entry_at(&v->header, a) / IMG_META_BLOCK ==
	       vdi_entry_at(&v->header, b) / IMG_META_BLOCK;
}

/* ---- Plans ---- */

/* In place, as far as blocks follow each other in the file. */
static void plan_in_place(struct img *img, struct img_req *req, enum img_op op, uint32_t entry, uint64_t off,
			  uint64_t len, struct img_plan *plan)
{
	const struct vdi *v = img->state;
	const struct vdi_header *h = &v->header;
	uint64_t block = off / h->block_bytes, run = 1;
	uint32_t next;

	while (!h->extra_bytes && (block + run) * h->block_bytes < off + len &&
	       same_piece(v, block, block + run) && !lookup(img, req, block + run, &next) &&
	       next == entry + run)
		run++;
	len = min_u64(len, (block + run) * h->block_bytes - off);
	plan->kind = op == IMG_OP_WRITE	 ? IMG_PLAN_DATA
		     : op == IMG_OP_ZERO ? IMG_PLAN_ZERO
					 : IMG_PLAN_PUNCH;
	plan->length = len;
	plan->fill_start = off;
	plan->fill_end = off + len;
	plan->storage = img->file;
	plan->file_off = vdi_block_at(h, entry) + h->extra_bytes + off % h->block_bytes;
}

/* How many blocks from this one on can be allocated together. */
static uint64_t count_new(struct img *img, struct img_req *req, uint64_t off, uint64_t len)
{
	const struct vdi *v = img->state;
	uint64_t bytes = v->header.block_bytes, block = off / bytes, n = 1;
	uint32_t entry;

	/* Only what is written wholly: no other data has to be read for it. */
	while (!v->header.extra_bytes && n < BLOCKS_AT_ONCE && (block + n + 1) * bytes <= off + len &&
	       same_piece(v, block, block + n) && !lookup(img, req, block + n, &entry) &&
	       !vdi_entry_is_index(entry))
		n++;
	return n;
}

static int plan_new(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		    struct img_plan *plan)
{
	struct vdi *v = img->state;
	uint64_t bytes = v->header.block_bytes, block = off / bytes, block_off, n;

	if (!img_meta_get(req, img->file, vdi_allocated_off(&v->header), 4))
		return IMG_NEED_METADATA;
	n = count_new(img, req, off, len);
	if (img_unit_alloc_get(&v->alloc, n, &block_off, &n))
		return img_fail(img_req_error(req), img->file->device ? -ENOSPC : -EFBIG,
				"%s: no space for another block: the file may grow to %" PRIu64, img->name,
				v->alloc.limit);
	plan->kind = IMG_PLAN_DATA;
	plan->length = min_u64(len, (block + n) * bytes - off);
	plan->fill_start = block * bytes;
	plan->fill_end = (block + n) * bytes;
	plan->storage = img->file;
	plan->file_off = block_off + v->header.extra_bytes;
	plan->fresh = img->file->limits.zero_fill && block_off >= v->clean_from;
	plan->commit = true;
	plan->slot[SLOT_BLOCK] = block;
	plan->slot[SLOT_COUNT] = n;
	plan->slot[SLOT_OFFSET] = block_off;
	return 0;
}

/* How to clear a whole block. */
enum clear_method {
	CLEAR_NOTHING,
	CLEAR_BY_METADATA,
	CLEAR_IN_PLACE,	  /* in place: the block stays allocated */
	CLEAR_BY_WRITING, /* as a write of zeroes, which allocates it */
};

static enum clear_method choose_clear_method(const struct img *img, const struct img_req *req, bool discard,
					     uint32_t entry)
{
	const struct vdi *v = img->state;

	if (vdi_entry_is_index(entry))
		return v->header.type == VDI_STATIC || (!discard && !img_req_may_unmap(req))
			       ? CLEAR_IN_PLACE
			       : CLEAR_BY_METADATA;
	if (!discard && img_req_keep_allocated(req))
		return CLEAR_BY_WRITING;
	return !discard && vdi_reads_parent(img, entry) ? CLEAR_BY_METADATA : CLEAR_NOTHING;
}

/* Whole blocks, the first of which is to be cleared in a way that needs no data. */
static int plan_entries(struct img *img, struct img_req *req, enum clear_method how, bool discard, uint64_t off,
			uint64_t len, struct img_plan *plan)
{
	const struct vdi *v = img->state;
	uint64_t bytes = v->header.block_bytes, block = off / bytes, end = off + len, n = 1;
	uint32_t entry;

	while ((block + n) * bytes < end && ((block + n + 1) * bytes <= end || end == img->size) &&
	       same_piece(v, block, block + n) && !lookup(img, req, block + n, &entry) &&
	       choose_clear_method(img, req, discard, entry) == how)
		n++;
	plan->length = min_u64(len, n * bytes);
	plan->kind = IMG_PLAN_NOTHING;
	if (how == CLEAR_NOTHING)
		return 0;
	if (img_free_reserve(req, n))
		return vdi_no_memory(img, img_req_error(req));
	plan->kind = IMG_PLAN_META;
	plan->storage = img->file;
	plan->commit = true;
	plan->slot[SLOT_BLOCK] = block;
	plan->slot[SLOT_COUNT] = n;
	plan->slot[SLOT_OFFSET] = NO_OFFSET;
	return 0;
}

static int plan_clear(struct img *img, struct img_req *req, enum img_op op, uint32_t entry, uint64_t off,
		      uint64_t len, struct img_plan *plan)
{
	const struct vdi *v = img->state;
	uint64_t bytes = v->header.block_bytes, within = off % bytes;
	bool discard = op == IMG_OP_DISCARD;

	if (!within && (len >= bytes || off + len == img->size)) {
		enum clear_method how = choose_clear_method(img, req, discard, entry);

		if (how == CLEAR_BY_WRITING)
			return IMG_NEED_WRITE;
		if (how != CLEAR_IN_PLACE)
			return plan_entries(img, req, how, discard, off, len, plan);
	}
	if (vdi_entry_is_index(entry)) {
		plan_in_place(img, req, op, entry, off, within ? min_u64(len, bytes - within) : len,
			      plan);
		return 0;
	}
	plan->length = min_u64(len, bytes - within);
	plan->kind = IMG_PLAN_NOTHING;
	return !discard && (img_req_keep_allocated(req) || vdi_reads_parent(img, entry))
		       ? IMG_NEED_WRITE
		       : 0;
}

int vdi_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off, uint64_t len,
		   struct img_plan *plan)
{
	const struct vdi *v = img->state;
	uint32_t entry;
	int rc;

	if (!v->writing)
		return img_fail(img_req_error(req), -EROFS,
				v->for_check ? "%s: it was opened for a check only"
					     : "%s: after an error it is not known which blocks are used",
				img->name);
	if (vdi_must_move_map(&v->header))
		return IMG_NEED_EXCLUSIVE;
	if (op == IMG_OP_WRITE_COMPRESSED)
		return img_fail(img_req_error(req), -ENOTSUP, "%s: a VDI holds no compressed data",
				img->name);
	rc = lookup(img, req, off / v->header.block_bytes, &entry);
	if (rc)
		return rc;
	if (op != IMG_OP_WRITE)
		return plan_clear(img, req, op, entry, off, len, plan);
	if (!vdi_entry_is_index(entry))
		return plan_new(img, req, off, len, plan);
	plan_in_place(img, req, op, entry, off, len, plan);
	return 0;
}

/* ---- Commit ---- */

static uint8_t *edit(struct img *img, struct img_req *req, uint64_t file_off)
{
	return img_meta_edit(req, img->file, file_off, 4,
			     file_off < VDI_SECTOR ? IMG_RANK_ALLOCATION : IMG_RANK_MAPPING);
}

static void commit_new(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct vdi *v = img->state;
	struct vdi_header *h = &v->header;
	uint64_t n = plan->slot[SLOT_COUNT];
	uint32_t index = (uint32_t)vdi_index_at(h, plan->slot[SLOT_OFFSET]);

	if (index + n > h->allocated) {
		h->allocated = (uint32_t)(index + n);
		le32_store(edit(img, req, vdi_allocated_off(h)), h->allocated);
	}
	for (uint64_t i = 0; i < n; i++)
		le32_store(edit(img, req, vdi_entry_at(h, plan->slot[SLOT_BLOCK] + i)),
			   (uint32_t)(index + i));
	v->used += n;
}

static void commit_zero(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct vdi *v = img->state;
	const struct vdi_header *h = &v->header;
	uint64_t freed_off = 0, freed_len = 0;

	for (uint64_t i = 0; i < plan->slot[SLOT_COUNT]; i++) {
		uint64_t at = vdi_entry_at(h, plan->slot[SLOT_BLOCK] + i), off;
		uint32_t old = le32_load(img_meta_get(req, img->file, at, VDI_ENTRY_BYTES));

		le32_store(edit(img, req, at), VDI_ENTRY_ZERO);
		if (!vdi_entry_is_index(old))
			continue;
		v->used--;
		off = vdi_block_at(h, old);
		if (freed_len && freed_off + freed_len != off) {
			img_free_later(req, img->file, freed_off, freed_len);
			freed_len = 0;
		}
		if (!freed_len)
			freed_off = off;
		freed_len += vdi_stride(h);
	}
	if (freed_len)
		img_free_later(req, img->file, freed_off, freed_len);
}

void vdi_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct vdi *v = img->state;

	v->trim = true;
	if (plan->slot[SLOT_OFFSET] == NO_OFFSET)
		commit_zero(img, req, plan);
	else
		commit_new(img, req, plan);
}

void vdi_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct vdi *v = img->state;
	uint64_t off = plan->slot[SLOT_OFFSET];

	(void)req;
	if (off == NO_OFFSET)
		return;
	/* Something may have been written there. */
	v->clean_from = max_u64(v->clean_from, off + plan->slot[SLOT_COUNT] * v->alloc.unit_bytes);
	v->trim = true;
	img_unit_alloc_put(&v->alloc, off, plan->slot[SLOT_COUNT] * v->alloc.unit_bytes);
}

/* ---- Freed space ---- */

int vdi_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		uint64_t len)
{
	struct vdi *v = img->state;

	(void)req;
	(void)s;
	v->clean_from = max_u64(v->clean_from, file_off + len);
	img_unit_alloc_put(&v->alloc, file_off, len);
	return 0;
}

/* ---- Marks ---- */

/* Children know by the modification UUID that their parent was changed. */
int vdi_first_write(struct img *img, struct img_error *err)
{
	static const uint64_t random[2];
	struct vdi *v = img->state;
	struct vdi_header h = v->header, now;
	uint8_t bytes[VDI_SECTOR];
	int rc;

	/* A repair changes nothing that children would notice; of a new image nobody knows the UUID. */
	if (v->for_check || img->created || img->content_stays)
		return 0;
	rc = img_guid_new(random, "", h.modification, err);
	if (!rc)
		rc = vdi_store_header(img, &h, false, err);
	/* Children are told what the file says: where this failed, that is the old one or the new. */
	now = h;
	if (rc && (img_storage_read(img->file, 0, bytes, sizeof(bytes), NULL) ||
		   vdi_parse_header(bytes, sizeof(bytes), &now, NULL)))
		return rc;
	/* alone: the rest may be read meanwhile */
	memcpy(v->header.modification, now.modification, IMG_GUID_BYTES);
	return rc;
}

int vdi_finish(struct img *img, struct img_error *err)
{
	struct vdi *v = img->state;
	int rc;

	if (!v->writing || !v->trim)
		return 0;
	rc = vdi_compact(img, err);
	if (rc == -ENOSPC) { /* gaps cost space, nothing else */
		img_error_clear(err);
		rc = 0;
	}
	if (!rc)
		v->trim = false;
	return rc;
}
