/*
 * Check: both headers and both region tables are valid and say the same, every BAT entry has a state that there
 * is, and leads to whole MiB of the file that are its own.
 *
 * A repair never changes what can be read: copies are written anew from what counts, bits that mean nothing are
 * cleared, and of two blocks that overlap the second one is copied to room of its own. What is lost (a block
 * that is not in the file) becomes zeroes only if that is asked for. All of it goes through the log.
 *
 * What a power cut leaves is a leak: a header that was being written, and space behind the last block.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/use_map.h"

enum {
	PIECE_ENTRIES = 8 << 10, /* of the BAT, looked at at a time */
	PIECE_BYTES = PIECE_ENTRIES * VHDX_BAT_ENTRY_BYTES,
	COPY_BYTES = 1 << 20,
};

struct walk {
	struct img *img;
	struct img_check *c; /* counts of this round */
	struct img_use_map used;
	uint64_t used_end;   /* of what is in the file */
	uint64_t next_off;   /* where a block of the last one looked at would go on */
	bool repair;	     /* this round changes what it can */
	bool copy;	     /* ... and copies blocks that overlap */
	uint64_t append;     /* where copies go */
	uint64_t file_bytes; /* when the round began: copies make the file longer */
	uint64_t lost;	     /* entries that lead out of that, and stay */
	uint64_t chunk;	     /* whose sector bitmap block was looked up last */
	bool chunk_bitmap;   /* it has one */
};

/* ---- Blocks ---- */

/* Copy a block to space of its own, at the end of the file. *off: where it is, and then where the copy is. */
static int copy_block(struct walk *w, uint64_t *off, uint64_t bytes, struct img_error *err)
{
	struct img *img = w->img;
	uint64_t end = min_u64(*off + bytes, img->file->size), to = w->append;
	uint8_t *piece = malloc(COPY_BYTES);
	int rc = piece ? 0 : vhdx_no_memory(img, err);

	if (!rc && !range_in(to, bytes, VHDX_FILE_BYTES_MAX))
		rc = img_fail(err, -EFBIG, "%s: no space for a copy of a block", img->name);
	if (!rc)
		rc = img_storage_zero(img->file, to, bytes, err);
	for (uint64_t at = *off; at < end && !rc; at += COPY_BYTES) {
		uint64_t n = min_u64(COPY_BYTES, end - at);

		rc = img_storage_read(img->file, at, piece, n, err);
		if (!rc)
			rc = img_storage_write(img->file, to + (at - *off), piece, n, err);
	}
	img_meta_forget(img, img->file, to, bytes);
	free(piece);
	if (rc)
		return rc;
	*off = to;
	w->append = to + bytes;
	return 0;
}

/* Does the chunk of a payload block have a sector bitmap block? */
static int has_bitmap(struct walk *w, uint64_t number, bool *has, struct img_error *err)
{
	const struct vhdx *v = w->img->state;
	uint64_t chunk = number / (vhdx_chunk_ratio(&v->geometry) + 1);
	uint8_t slot[VHDX_BAT_ENTRY_BYTES];
	int rc;

	if (chunk != w->chunk) {
		rc = img_storage_read(v->storage,
				      vhdx_entry_at(v, vhdx_bitmap_entry(&v->geometry, chunk)),
				      slot, sizeof(slot), err);
		if (rc)
			return rc;
		w->chunk = chunk;
		w->chunk_bitmap = vhdx_entry_state(le64_load(slot)) == VHDX_PRESENT;
	}
	*has = w->chunk_bitmap;
	return 0;
}

/* What is wrong with an entry's state; NULL: nothing. */
static int state_fault(struct walk *w, uint64_t number, uint64_t entry, const char **fault,
		       struct img_error *err)
{
	const struct vhdx *v = w->img->state;
	enum vhdx_block_state state = vhdx_entry_state(entry);
	bool has;
	int rc;

	*fault = NULL;
	if (vhdx_is_bitmap_entry(v, number)) {
		if (state != VHDX_NOT_PRESENT && state != VHDX_PRESENT)
			*fault = "a state that a sector bitmap block cannot have";
	} else if (state == 4) {
		*fault = "a state that is not defined";
	} else if (state == VHDX_PARTIAL && !vhdx_is_child(v)) {
		*fault = "a partially present block, expected in differencing disks only";
	} else if (state == VHDX_PARTIAL) {
		rc = has_bitmap(w, number, &has, err);
		if (rc)
			return rc;
		if (!has)
			*fault = "a partially present block without a sector bitmap block";
	}
	return 0;
}

/* Bytes of a block that have to be in the file. */
static uint64_t bytes_needed(const struct vhdx *v, uint64_t number)
{
	uint64_t ratio = vhdx_chunk_ratio(&v->geometry), block = number - number / (ratio + 1);
	uint64_t start = block * v->geometry.block_bytes;

	if (vhdx_is_bitmap_entry(v, number))
		return VHDX_BITMAP_BYTES;
	return start < v->geometry.size ? min_u64(v->geometry.block_bytes, v->geometry.size - start)
					: 0;
}

/* A defect by which something is lost. If that may be, the entry becomes right, and this returns true. */
static bool lose(struct walk *w, uint64_t number, uint64_t *entry, uint64_t right, const char *what)
{
	const struct vhdx *v = w->img->state;

	img_check_defect(w->c, "ERROR BAT entry %" PRIu64 " at %" PRIu64 ": found %#" PRIx64 ", %s", number,
			 vhdx_entry_at(v, number), *entry, what);
	if (!w->repair || !(w->c->repair & IMG_REPAIR_LOSS))
		return false;
	*entry = right;
	return true;
}

/* An entry that leads to a block. */
static int check_allocated(struct walk *w, uint64_t number, uint64_t *entry, struct img_error *err)
{
	struct img *img = w->img;
	const struct vhdx *v = img->state;
	bool bitmap = vhdx_is_bitmap_entry(v, number);
	uint64_t bytes = bitmap ? VHDX_BITMAP_BYTES : v->geometry.block_bytes;
	uint64_t gone = bitmap ? 0 : vhdx_bat_entry(vhdx_zero_state(v), 0);
	uint64_t off = vhdx_entry_off(*entry), size = w->file_bytes;
	const char *there = vhdx_offset_fault(v, off, bytes);
	enum img_use use;
	int rc = 0;

	if (there || off >= size) {
		char what[100];

		snprintf(what, sizeof(what), "a block where %s is",
			 there ? there : "the file has ended");
		if (!lose(w, number, entry, gone, what) && !there)
			w->lost++;
		return 0;
	}
	if (!range_in(off, bytes_needed(v, number), size)) {
		img_check_defect(w->c,
				 "ERROR BAT entry %" PRIu64 ": the block at %" PRIu64
				 " is cut off: the file ends at %" PRIu64,
				 number, off, size);
		/* a device does not become longer */
		if (w->repair && (w->c->repair & IMG_REPAIR_LOSS) && !img->file->device)
			rc = img_storage_zero(img->file, off + bytes, 0, err);
		else
			w->lost++;
		if (rc)
			return rc;
	}
	rc = img_use_map_add(&w->used, off, bytes, &use);
	if (rc)
		return vhdx_no_memory(img, err);
	w->used_end = max_u64(w->used_end, off + bytes);
	if (use != IMG_USE_SHARED)
		return 0;
	img_check_defect(w->c,
			 "ERROR BAT entry %" PRIu64 ": the block at %" PRIu64
			 " overlaps another one, or metadata",
			 number, off);
	if (!w->copy)
		return 0;
	rc = copy_block(w, &off, bytes, err);
	if (!rc)
		*entry = vhdx_bat_entry(vhdx_entry_state(*entry), off);
	return rc;
}

static int check_entry(struct walk *w, uint64_t number, uint64_t *entry, struct img_error *err)
{
	const struct vhdx *v = w->img->state;
	uint64_t reserved = *entry & 0xffff8, gone = vhdx_bat_entry(vhdx_zero_state(v), 0);
	bool bitmap = vhdx_is_bitmap_entry(v, number);
	const char *fault;
	int rc = state_fault(w, number, *entry, &fault, err);

	if (rc)
		return rc;
	if (fault) {
		lose(w, number, entry, bitmap ? 0 : gone, fault);
		return 0;
	}
	if (reserved) {
		img_check_defect(w->c,
				 "ERROR BAT entry %" PRIu64 " at %" PRIu64 ": found %#" PRIx64
				 ", expected an offset of whole MiB",
				 number, vhdx_entry_at(v, number), *entry);
		if (w->repair && (w->c->repair & IMG_REPAIR_ALL) == IMG_REPAIR_ALL)
			*entry &= ~UINT64_C(0xffff8);
	}
	if (!vhdx_is_allocated(vhdx_entry_state(*entry)))
		return 0;
	if (!bitmap) {
		w->c->result.allocated_units++;
		w->c->result.fragmented_units += w->next_off &&
						 w->next_off != vhdx_entry_off(*entry);
		w->next_off = vhdx_entry_off(*entry) + v->geometry.block_bytes;
	}
	return check_allocated(w, number, entry, err);
}

static int check_piece(struct walk *w, uint64_t first, uint64_t n, uint8_t *piece,
		       struct img_error *err)
{
	const struct vhdx *v = w->img->state;
	bool changed = false;
	int rc = img_storage_read(v->storage, vhdx_entry_at(v, first), piece,
				  n * VHDX_BAT_ENTRY_BYTES, err);

	for (uint64_t i = 0; i < n && !rc; i++) {
		uint64_t before = le64_load(piece + i * VHDX_BAT_ENTRY_BYTES), entry = before;

		rc = check_entry(w, first + i, &entry, err);
		if (rc || entry == before)
			continue;
		img_check_report(w->c,
				 "Repairing BAT entry %" PRIu64 ": %#" PRIx64 " becomes %#" PRIx64,
				 first + i, before, entry);
		le64_store(piece + i * VHDX_BAT_ENTRY_BYTES, entry);
		changed = true;
	}
	if (!rc && changed)
		rc = vhdx_write_bytes(w->img, vhdx_entry_at(v, first), piece,
				      n * VHDX_BAT_ENTRY_BYTES, err);
	return rc;
}

/* ---- Headers and region tables ---- */

/* Say what is wrong with a copy, by trying it. */
static int check_header(struct walk *w, unsigned i, struct img_error *err)
{
	uint8_t bytes[VHDX_HEADER_BYTES];
	struct img_error why = { 0 };
	struct vhdx_header h;
	int rc = img_storage_read(w->img->file, VHDX_HEADER_OFF(i), bytes, sizeof(bytes), err);

	if (!rc && vhdx_parse_header(bytes, &h, &why)) {
		w->c->result.leaks++;
		if (!w->c->quiet)
			img_check_report(w->c, "Leaked header %u at %" PRIu64 ": %s", i + 1,
					 VHDX_HEADER_OFF(i), img_error_text(&why));
	}
	img_error_clear(&why);
	return rc;
}

/* Both region tables; *same: they are valid, and alike. */
static int check_regions(struct walk *w, bool *same, struct img_error *err)
{
	const struct vhdx *v = w->img->state;
	uint8_t *bytes = malloc(2 * VHDX_REGION_TABLE_BYTES);
	int rc = bytes ? 0 : vhdx_no_memory(w->img, err);

	*same = true;
	for (unsigned i = 0; i < 2 && !rc; i++) {
		uint8_t *table = bytes + i * VHDX_REGION_TABLE_BYTES;
		struct img_error why = { 0 };
		struct vhdx_regions regions;

		rc = img_storage_read(v->storage, VHDX_REGION_TABLE_OFF(i), table,
				      VHDX_REGION_TABLE_BYTES, err);
		if (!rc && vhdx_parse_regions(table, &regions, &why)) {
			*same = false;
			img_check_defect(w->c, "ERROR region table at %" PRIu64 ": %s", VHDX_REGION_TABLE_OFF(i),
					 img_error_text(&why));
		}
		img_error_clear(&why);
	}
	if (!rc && *same &&
	    memcmp(bytes, bytes + VHDX_REGION_TABLE_BYTES, VHDX_REGION_TABLE_BYTES) != 0) {
		*same = false;
		img_check_defect(w->c, "ERROR region tables at %" PRIu64 " and %" PRIu64 " differ",
				 VHDX_REGION_TABLE_OFF(0), VHDX_REGION_TABLE_OFF(1));
	}
	free(bytes);
	return rc;
}

/* The metadata that there is once. */
static int mark_regions(struct walk *w, struct img_error *err)
{
	const struct vhdx *v = w->img->state;
	uint8_t *table = malloc(VHDX_REGION_TABLE_BYTES);
	struct vhdx_region r;
	enum img_use use;
	int rc = table ? 0 : vhdx_no_memory(w->img, err);

	if (!rc)
		rc = img_storage_read(v->storage, VHDX_REGION_TABLE_OFF(!v->regions_valid[0]),
				      table, VHDX_REGION_TABLE_BYTES, err);
	if (!rc && (img_use_map_add(&w->used, 0, VHDX_MIB, &use) ||
		    img_use_map_add(&w->used, v->header.log_off, v->header.log_bytes, &use)))
		rc = vhdx_no_memory(w->img, err);
	w->used_end = max_u64(VHDX_MIB, v->header.log_off + v->header.log_bytes);
	for (size_t i = 0; !rc && vhdx_region_of(table, i, &r); i++) {
		if (img_use_map_add(&w->used, r.off, r.bytes, &use))
			rc = vhdx_no_memory(w->img, err);
		if (range_in(r.off, r.bytes, v->storage->size))
			w->used_end = max_u64(w->used_end, r.off + r.bytes);
	}
	free(table);
	return rc;
}

/* ---- All of it ---- */

static int look_through(struct walk *w, bool *same_regions, struct img_error *err)
{
	const struct vhdx *v = w->img->state;
	uint64_t count = vhdx_bat_entries(&v->geometry, v->geometry.size), n;
	uint8_t *piece = malloc(PIECE_BYTES);
	int rc = piece ? 0 : vhdx_no_memory(w->img, err);

	w->chunk = UINT64_MAX;
	w->next_off = 0;
	w->file_bytes = v->storage->size;
	/* Blocks may end past the file's end, where nothing else is. */
	img_use_map_init(&w->used, VHDX_FILE_BYTES_MAX, VHDX_MIB);
	for (unsigned i = 0; i < 2 && !rc; i++)
		rc = check_header(w, i, err);
	if (!rc)
		rc = check_regions(w, same_regions, err);
	if (!rc)
		rc = mark_regions(w, err);
	for (uint64_t number = 0; number < count && !rc; number += n) {
		uint64_t at = vhdx_entry_at(v, number), run;
		enum img_storage_extent kind;

		rc = img_storage_extent(v->storage, at, (count - number) * VHDX_BAT_ENTRY_BYTES,
					&kind, &run);
		n = run / VHDX_BAT_ENTRY_BYTES;
		if (rc || (n && kind == IMG_STORAGE_HOLE))
			continue;
		n = min_u64(count - number, PIECE_ENTRIES);
		rc = check_piece(w, number, n, piece, err);
	}
	free(piece);
	img_use_map_free(&w->used);
	/* While the image is written to that is space for its next blocks. */
	if (!rc && !v->alloc && !v->storage->device && v->storage->size >= w->used_end + VHDX_MIB) {
		uint64_t leaked = (v->storage->size - w->used_end) / VHDX_MIB;

		w->c->result.leaks += leaked;
		if (!w->c->quiet)
			img_check_report(w->c,
					 "Leaked space: %" PRIu64
					 " MiB behind the last block, which ends at %" PRIu64,
					 leaked, w->used_end);
	}
	return rc;
}

/* Write the region table that counts over the other one. */
static int repair_regions(struct walk *w, struct img_error *err)
{
	struct vhdx *v = w->img->state;
	unsigned from = !v->regions_valid[0];
	uint8_t *table = malloc(VHDX_REGION_TABLE_BYTES);
	int rc = table ? 0 : vhdx_no_memory(w->img, err);

	if (!rc)
		rc = img_storage_read(w->img->file, VHDX_REGION_TABLE_OFF(from), table,
				      VHDX_REGION_TABLE_BYTES, err);
	if (!rc)
		rc = vhdx_write_bytes(w->img, VHDX_REGION_TABLE_OFF(!from), table,
				      VHDX_REGION_TABLE_BYTES, err);
	free(table);
	if (rc)
		return rc;
	img_check_report(w->c, "Repairing region table at %" PRIu64, VHDX_REGION_TABLE_OFF(!from));
	v->regions_valid[0] = v->regions_valid[1] = true;
	return 0;
}

/* Change what can be; c's counts are left alone. found: the round before. */
static int repair(struct img *img, struct img_check *c, bool same_regions,
		  const struct walk *found, struct img_error *err)
{
	struct img_check here = {
		.repair = c->repair, .report = c->report, .user = c->user, .quiet = true
	};
	struct walk w = { .img = img, .c = &here };
	bool all = (c->repair & IMG_REPAIR_ALL) == IMG_REPAIR_ALL;
	const struct vhdx *v = img->state;
	int rc = 0;

	/* Which writes both headers. What else changes the file opens it as well, and nothing does if nothing can be done. */
	if (!v->header_valid[0] || !v->header_valid[1])
		rc = vhdx_open_log(img, err);
	if (!rc && all && !same_regions)
		rc = repair_regions(&w, err);
	if (!rc && all && c->result.corruptions) {
		w.repair = true;
		w.append = round_up_u64(img->file->device
						? found->used_end
						: max_u64(img->file->size, found->used_end),
					VHDX_MIB);
		/*
		 * Entries that lead out of the file would lead to the copies: they go first,
		 * durably, or none are made.
		 */
		w.copy = !found->lost;
		rc = look_through(&w, &same_regions, err);
		if (!rc && found->lost && c->repair & IMG_REPAIR_LOSS) {
			w.copy = true;
			rc = look_through(&w, &same_regions, err);
		} else if (!rc && found->lost) {
			img_check_report(c, "Not repaired: blocks that overlap, as long as entries "
					    "lead out of the file");
		}
	}
	return rc ? rc : vhdx_close_log(img, err);
}

int vhdx_check(struct img *img, struct img_check *c, struct img_error *err)
{
	struct vhdx *v = img->state;
	struct walk w = { .img = img, .c = c };
	struct img_check after = { .quiet = true };
	bool same, had_alloc = v->alloc;
	int rc;

	if (v->replayed && v->storage == v->replayed)
		img_check_report(
			c,
			"The log is not empty: it is replayed when the image is opened for writing");
	rc = look_through(&w, &same, err);
	c->result.total_units = vhdx_block_count(&v->geometry, v->geometry.size);
	c->result.image_end = w.used_end;
	if (rc || !c->repair || (!c->result.corruptions && !c->result.leaks))
		return rc;
	rc = repair(img, c, same, &w, err);
	if (rc)
		return rc;
	/* What is left. */
	w = (struct walk){ .img = img, .c = &after };
	rc = look_through(&w, &same, err);
	/* The log is closed, so that nothing knows of the length; what is lost may have been there. */
	if (!rc && after.result.leaks && !after.result.corruptions &&
	    img->file->size >= w.used_end) {
		rc = img_storage_resize(img->file, w.used_end, IMG_PREALLOCATE_OFF, err);
		if (!rc)
			after.result.leaks = 0;
	}
	if (rc)
		return rc;
	c->result.image_end = w.used_end;
	c->result.corruptions_fixed += c->result.corruptions -
				       min_u64(c->result.corruptions, after.result.corruptions);
	c->result.leaks_fixed += c->result.leaks - min_u64(c->result.leaks, after.result.leaks);
	c->result.corruptions = after.result.corruptions;
	c->result.leaks = after.result.leaks;
	if (had_alloc) {
		vhdx_free_alloc(v->alloc);
		v->alloc = NULL;
		rc = vhdx_load_alloc(img, err);
	}
	return rc;
}
