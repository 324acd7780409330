/*
 * Check and repair. Blocks lie inside the file, clear of metadata and of each other; the header is undamaged;
 * the footer is there twice. A footer missing at the end is what a power cut leaves, a leak: the copy at the
 * start is what counts.
 *
 * A repair never changes what can be read: of two blocks that share sectors one is copied elsewhere; one that
 * the end of the file cuts off stays so, unless zeroes are allowed in its place.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"
#include "libimg/base/endian.h"
#include "libimg/base/use_map.h"

struct walk {
	struct img *img;
	struct img_check *c;
	struct vhd *v;
	bool repair, repair_all; /* this round is one of repairs: of leaks, of all */
	bool cut;		 /* the file ends before a block does: nothing may be added to it */
	uint64_t repairs;	 /* made in it */
	struct img_use_map used; /* by sector */
	uint64_t end;		 /* of what is used, in the file, as far as it was looked at */
	uint64_t used_end;	 /* the same at the end of the last round */
};

enum { COPY_BYTES = 1 << 20 };

static int sync_file(const struct img *img, struct img_error *err)
{
	return img->unsafe ? 0 : img_storage_sync(img->file, err);
}

static int write_metadata(struct walk *w, uint64_t off, const void *bytes, size_t len,
			  struct img_error *err)
{
	uint64_t from = align_down_u64(off, IMG_META_SECTOR);
	int rc = img_storage_write(w->img->file, off, bytes, len, err);

	img_meta_forget(w->img, w->img->file, from,
			round_up_u64(off + len, IMG_META_SECTOR) - from);
	return rc;
}

/* ---- Blocks ---- */

/* Bytes of the block in the file that the disk has: its end may be cut off by the disk's. */
static uint64_t bytes_needed(const struct vhd *v, uint64_t number)
{
	uint64_t guest_off = number * v->header.block_bytes;

	return v->header.bitmap_bytes + min_u64(v->header.block_bytes, v->footer.size - guest_off);
}

/* Where a copy of a block, or zeroes, can go. */
static uint64_t new_place(const struct walk *w)
{
	const struct img_storage *s = w->img->file;
	uint64_t end = max_u64(w->end, s->device ? w->used_end : (uint64_t)s->size);

	return vhd_align_block(round_up_u64(end, VHD_SECTOR), w->v->header.block_bytes);
}

static int write_entry(struct walk *w, uint64_t number, uint32_t entry, struct img_error *err)
{
	uint8_t slot[VHD_ENTRY_BYTES];

	be32_store(slot, entry);
	return write_metadata(w, w->v->header.table_off + number * VHD_ENTRY_BYTES, slot, sizeof(slot), err);
}

/* The block's bytes elsewhere, then its entry. */
static int move_block(struct walk *w, uint64_t number, uint64_t off, struct img_error *err)
{
	uint64_t to = new_place(w), bytes = bytes_needed(w->v, number);
	uint8_t *buffer = malloc(COPY_BYTES);
	int rc = buffer ? 0 : img_fail(err, -ENOMEM, "out of memory");

	if (!rc &&
	    to + vhd_stored_bytes(w->v) > min_u64(VHD_FILE_MAX, vhd_device_room(w->img->file)))
		rc = img_fail(err, -EFBIG, "%s: found no room for a copy of block %" PRIu64, w->img->name, number);
	for (uint64_t done = 0, n; done < bytes && !rc; done += n) {
		n = min_u64(bytes - done, COPY_BYTES);
		rc = img_storage_read(w->img->file, off + done, buffer, (size_t)n, err);
		if (!rc)
			rc = write_metadata(w, to + done, buffer, (size_t)n, err);
	}
	free(buffer);
	if (!rc)
		rc = img_storage_zero(w->img->file, to + vhd_stored_bytes(w->v), 0, err);
	if (!rc)
		rc = sync_file(w->img, err);
	if (!rc)
		rc = write_entry(w, number, (uint32_t)(to / VHD_SECTOR), err);
	if (rc)
		return rc;
	w->end = max_u64(w->end, to + vhd_stored_bytes(w->v));
	img_check_report(w->c, "Repairing %s: block %" PRIu64 " has been copied to %" PRIu64, w->img->name, number,
			 to);
	w->repairs++;
	return 0;
}

/* A block that is lost as a whole: zeroes, which was allowed. A child's would be its parent's: it stays. */
static int drop_block(struct walk *w, uint64_t number, struct img_error *err)
{
	int rc;

	if (!(w->c->repair & IMG_REPAIR_LOSS) || vhd_is_child(w->v))
		return 0;
	rc = write_entry(w, number, VHD_ABSENT, err);
	if (rc)
		return rc;
	img_check_report(w->c, "Repairing %s: block %" PRIu64 " is lost and reads as zeroes", w->img->name, number);
	w->repairs++;
	return 0;
}

/* The same for a block of which a part is in the file. */
static int replace_lost(struct walk *w, uint64_t number, uint64_t off, struct img_error *err)
{
	const struct vhd *v = w->v;
	int rc;

	if (!(w->c->repair & IMG_REPAIR_LOSS))
		return 0;
	if (w->img->file->device && off < w->img->file->size)
		return 0; /* which does not become longer */
	if (off + v->header.bitmap_bytes > w->img->file->size)
		return drop_block(w, number, err);
	rc = img_storage_zero(w->img->file, off + vhd_stored_bytes(v), 0, err);
	if (rc)
		return rc;
	img_check_report(w->c, "Repairing %s: what is lost of block %" PRIu64 " reads as zeroes", w->img->name,
			 number);
	w->repairs++;
	return 0;
}

static int check_block(struct walk *w, uint64_t number, uint32_t entry, struct img_error *err)
{
	const struct vhd *v = w->v;
	uint64_t off = vhd_entry_off(entry), bytes = bytes_needed(v, number);
	const char *hit = img_range_map_at(&v->metadata, off, bytes);
	enum img_use use;
	int rc;

	if (hit) {
		img_check_defect(w->c, "ERROR %s: block %" PRIu64 " is said to be at %" PRIu64 ", where the %s lies",
				 w->img->name, number, off, hit);
		return w->repair_all ? drop_block(w, number, err) : 0;
	}
	rc = img_use_map_add(&w->used, off, bytes, &use);
	if (rc)
		return img_fail(err, rc, "out of memory");
	if (use == IMG_USE_BEYOND) {
		img_check_defect(w->c,
				 "ERROR %s: block %" PRIu64 " is said to be at %" PRIu64
				 " to %" PRIu64 ", and the file has %" PRIu64 " bytes",
				 w->img->name, number, off, off + bytes,
				 (uint64_t)w->img->file->size);
		w->cut = true;
		return w->repair_all ? replace_lost(w, number, off, err) : 0;
	}
	w->end = max_u64(w->end, off + vhd_stored_bytes(v));
	if (use == IMG_USE_SHARED) {
		img_check_defect(w->c, "ERROR %s: block %" PRIu64 " at %" PRIu64 " shares sectors with another one",
				 w->img->name, number, off);
		return w->repair_all && !w->cut ? move_block(w, number, off, err) : 0;
	}
	w->c->result.allocated_units++;
	return 0;
}

static int check_blocks(struct walk *w, struct img_error *err)
{
	uint8_t slots[16384];
	uint64_t batch = sizeof(slots) / VHD_ENTRY_BYTES;
	int rc = 0;

	for (uint64_t from = 0; from < w->v->blocks && !rc; from += batch) {
		uint64_t n = min_u64(batch, w->v->blocks - from);

		rc = img_storage_read(w->img->file, w->v->header.table_off + from * VHD_ENTRY_BYTES, slots,
				      (size_t)n * VHD_ENTRY_BYTES, err);
		for (uint64_t i = 0; i < n && !rc; i++) {
			uint32_t entry = be32_load(slots + i * VHD_ENTRY_BYTES);

			if (entry != VHD_ABSENT)
				rc = check_block(w, from + i, entry, err);
		}
	}
	return rc;
}

/* ---- Footer and header ---- */

static int check_header(struct walk *w, struct img_error *err)
{
	struct vhd *v = w->v;
	int rc;

	if (!v->header_bad)
		return 0;
	img_check_defect(w->c, "ERROR %s: the dynamic disk header at %" PRIu64 " is damaged", w->img->name,
			 v->footer.header_off);
	if (!w->repair_all)
		return 0;
	rc = write_metadata(w, v->footer.header_off, v->header.bytes, VHD_HEADER_BYTES, err);
	if (rc)
		return rc;
	img_check_report(w->c, "Repairing %s: the dynamic disk header has been rebuilt", w->img->name);
	v->header_bad = false;
	w->repairs++;
	return 0;
}

static int check_head(struct walk *w, struct img_error *err)
{
	struct vhd *v = w->v;
	int rc;

	if (!v->head_bad)
		return 0;
	img_check_defect(w->c, "ERROR %s: the copy of the footer at the start of the file is damaged", w->img->name);
	if (!w->repair_all)
		return 0;
	rc = write_metadata(w, 0, v->footer.bytes, VHD_FOOTER_BYTES, err);
	if (rc)
		return rc;
	img_check_report(w->c, "Repairing %s: the copy of the footer at the start of the file", w->img->name);
	v->head_bad = false;
	w->repairs++;
	return 0;
}

/* Is the end of the file the same footer, behind all blocks? On a device QEMU has it behind the last one of them. */
static bool tail_is_sound(const struct walk *w)
{
	uint64_t end = round_up_u64(w->end, VHD_SECTOR), off;
	uint8_t bytes[VHD_FOOTER_BYTES];
	struct vhd_footer tail;

	if (end > vhd_device_room(w->img->file))
		return true; /* there is no room for it */
	if (w->img->file->device &&
	    !img_storage_read(w->img->file, end, bytes, sizeof(bytes), NULL) &&
	    !memcmp(bytes, w->v->footer.bytes, VHD_FOOTER_BYTES))
		return true;
	return !vhd_find_tail(w->img->file, &tail, &off, NULL) && off >= w->end &&
	       !memcmp(tail.bytes, w->v->footer.bytes, VHD_FOOTER_BYTES);
}

static int check_tail(struct walk *w, struct img_error *err)
{
	struct vhd_footer tail;
	uint64_t off;
	int rc;

	if (tail_is_sound(w))
		return 0;
	w->c->result.leaks++;
	if (!w->c->quiet)
		img_check_report(w->c,
				 "Leaked footer in %s: it is missing at the end, or another one than at the start",
				 w->img->name);
	if (!w->repair || w->cut)
		return 0;
	if (w->img->file->device)
		off = vhd_device_room(w->img->file);
	else if (vhd_find_tail(w->img->file, &tail, &off, NULL) || off < w->end)
		off = new_place(w);
	rc = w->img->file->device ? 0
				  : img_storage_resize(w->img->file, off, IMG_PREALLOCATE_OFF, err);
	if (!rc)
		rc = write_metadata(w, off, w->v->footer.bytes, VHD_FOOTER_BYTES, err);
	if (rc)
		return rc;
	w->v->tail = VHD_TAIL_SOUND;
	w->v->tail_off = off;
	img_check_report(w->c, "Repairing %s: the footer at the end of the file", w->img->name);
	w->repairs++;
	return 0;
}

/* ---- All of it ---- */

static int scan(struct walk *w, struct img_error *err)
{
	struct vhd *v = w->v;
	enum img_use use;
	int rc = 0;

	w->repairs = w->end = 0;
	w->c->result.allocated_units = w->c->result.corruptions = w->c->result.leaks = 0;
	img_use_map_free(&w->used);
	img_use_map_init(&w->used, w->img->file->size, VHD_SECTOR);
	for (size_t i = 0; i < v->metadata.range_count && !rc; i++) {
		const struct img_range *r = &v->metadata.ranges[i];

		w->end = max_u64(w->end, r->off + r->len);
		rc = img_use_map_add(&w->used, r->off, r->len, &use);
	}
	if (rc)
		return img_fail(err, rc, "out of memory");
	rc = check_head(w, err);
	if (!rc)
		rc = check_header(w, err);
	if (!rc)
		rc = check_blocks(w, err);
	w->used_end = w->end;
	return rc ? rc : check_tail(w, err);
}

enum { ROUNDS_MAX = 3 }; /* of repairs: one makes another possible */

/* Repair, look again, and count what is left. */
static int repair(struct walk *w, struct img_error *err)
{
	struct img_check *c = w->c;
	struct img_check round = {
		.repair = c->repair, .report = c->report, .user = c->user, .quiet = true
	};
	uint64_t corruptions = c->result.corruptions, leaks = c->result.leaks, repairs = 1;
	int rc = 0;

	w->c = &round;
	for (int i = 0; i < ROUNDS_MAX && repairs && !rc; i++) {
		w->repair = true;
		w->repair_all = (c->repair & IMG_REPAIR_ALL) == IMG_REPAIR_ALL;
		rc = scan(w, err);
		repairs = w->repairs;
		w->repair = w->repair_all = w->cut = false;
		if (!rc)
			rc = sync_file(w->img, err);
		if (!rc)
			rc = scan(w, err);
	}
	w->c = c;
	if (rc)
		return rc;
	c->result.corruptions = round.result.corruptions;
	c->result.leaks = round.result.leaks;
	c->result.allocated_units = round.result.allocated_units;
	c->result.corruptions_fixed = corruptions - min_u64(corruptions, c->result.corruptions);
	c->result.leaks_fixed = leaks - min_u64(leaks, c->result.leaks);
	/* An image that is in use goes on behind what was added. */
	return w->v->for_check ? 0 : vhd_prepare_writing(w->img, w->v, err);
}

int vhd_check(struct img *img, struct img_check *c, struct img_error *err)
{
	struct walk w = { .img = img, .c = c, .v = img->state };
	int rc = 0;

	if (!vhd_is_fixed(w.v)) {
		c->result.total_units = w.v->blocks;
		rc = scan(&w, err);
		if (!rc && c->repair && (c->result.corruptions || c->result.leaks))
			rc = repair(&w, err);
		img_use_map_free(&w.used);
	}
	c->result.image_end = img->file->size;
	return rc;
}
