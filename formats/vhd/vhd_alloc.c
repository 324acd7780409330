/*
 * What writing to a dynamic disk needs to know: where its blocks are, what lies between them that nobody uses, and
 * where the file goes on. Nothing in the file tells that but the table, which is read once.
 *
 * A block's data begins at a multiple of 4 KiB, behind its bitmap, as newer Windows has it; in a file where blocks
 * follow each other without a gap (QEMU, VirtualBox) new ones do, too.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"
#include "libimg/base/endian.h"

int vhd_check_entry(const struct img *img, uint64_t number, uint32_t entry, struct img_error *err)
{
	const struct vhd *v = img->state;
	uint64_t off = vhd_entry_off(entry);
	const char *hit = img_range_map_at(&v->metadata, off, vhd_stored_bytes(v));

	if (hit)
		return img_fail(err, -EUCLEAN,
				"%s: block allocation table: entry %" PRIu64 " leads to %" PRIu64
				", where the %s lies",
				img->name, number, off, hit);
	return 0;
}

enum { DATA_ALIGN = 4096 };

static int refuse(const struct img *img, int rc, const char *why, struct img_error *err)
{
	return img_fail(err, rc, "%s: %s: it cannot be written to", img->name, why);
}

/* One entry of the table, which leads to a block. */
static int add_block(struct img *img, struct vhd *v, struct img_range_map *blocks, uint64_t number,
		     uint32_t entry, struct img_error *err)
{
	uint64_t off = vhd_entry_off(entry), size = img->file->size;
	int rc = vhd_check_entry(img, number, entry, err);

	if (rc)
		return rc;
	if (!range_in(off, vhd_stored_bytes(v), size))
		return img_fail(err, -EUCLEAN,
				"%s: block allocation table: entry %" PRIu64 ": found a block at %" PRIu64
				" to %" PRIu64 ", allowed inside the file's %" PRIu64
				" bytes: it cannot be written to",
				img->name, number, off, off + vhd_stored_bytes(v), size);
	/* More than fit the file: two are the same. Refused before memory is taken for them. */
	if (blocks->block_count >= size / vhd_stored_bytes(v))
		return img_fail(err, -EUCLEAN,
				"%s: block allocation table: found more blocks than the file's %" PRIu64
				" bytes have room for, allowed each only once: it cannot be written to",
				img->name, size);
	return img_range_map_add_block(blocks, off) ? img_fail(err, -ENOMEM, "out of memory") : 0;
}

int vhd_find_blocks(struct img *img, struct vhd *v, struct img_range_map *blocks, struct img_error *err)
{
	uint8_t slots[16384];
	uint64_t batch = sizeof(slots) / VHD_ENTRY_BYTES;
	struct img_range overlap[2];
	int rc = 0;

	blocks->block_bytes = vhd_stored_bytes(v);
	blocks->block_name = "block";
	for (uint64_t from = 0; from < v->blocks && !rc; from += batch) {
		uint64_t n = min_u64(batch, v->blocks - from);

		rc = img_storage_read(img->file, v->header.table_off + from * VHD_ENTRY_BYTES, slots,
				      (size_t)n * VHD_ENTRY_BYTES, err);
		for (uint64_t i = 0; i < n && !rc; i++) {
			uint32_t entry = be32_load(slots + i * VHD_ENTRY_BYTES);

			if (entry != VHD_ABSENT)
				rc = add_block(img, v, blocks, from + i, entry, err);
		}
	}
	if (rc)
		return rc;
	img_range_map_sort(blocks);
	if (img_range_map_block_overlap(blocks, overlap))
		return img_fail(err, -EUCLEAN,
				"%s: block allocation table: found a block at %" PRIu64 " that overlaps the one "
				"at %" PRIu64 ": it cannot be written to",
				img->name, overlap[1].off, overlap[0].off);
	return 0;
}

static bool is_aligned(const struct vhd *v, uint64_t off)
{
	return is_aligned_u64(off + v->header.bitmap_bytes, DATA_ALIGN);
}

uint64_t vhd_align_block(uint64_t off, uint32_t block_bytes)
{
	uint64_t bitmap = vhd_bitmap_bytes(block_bytes);

	return block_bytes < DATA_ALIGN ? off : round_up_u64(off + bitmap, DATA_ALIGN) - bitmap;
}

/* Whole units of what lies between from and end, unless there is metadata too. */
static void put_gap(struct vhd *v, uint64_t from, uint64_t end)
{
	uint64_t len = from < end ? multiple_down_u64(end - from, v->units.unit_bytes) : 0;

	if (len && !img_range_map_range_at(&v->metadata, from, len))
		img_unit_alloc_put(&v->units, from, len);
}

uint64_t vhd_next_block(const struct vhd *v, uint64_t off)
{
	return v->units.unit_bytes % DATA_ALIGN ? off : vhd_align_block(off, v->header.block_bytes);
}

/* The end of what is used: blocks and metadata. */
static uint64_t used_end(const struct vhd *v, const struct img_range_map *blocks)
{
	const struct img_range_map *m = &v->metadata;
	uint64_t end = 0;

	for (size_t i = 0; i < m->range_count; i++)
		end = max_u64(end, round_up_u64(m->ranges[i].off + m->ranges[i].len, VHD_SECTOR));
	if (blocks->block_count)
		end = max_u64(end, blocks->blocks[blocks->block_count - 1] + vhd_stored_bytes(v));
	return end;
}

static void init_units(struct img *img, struct vhd *v, const struct img_range_map *blocks)
{
	uint64_t stored = vhd_stored_bytes(v), room = vhd_device_room(img->file), next = 0, unit;
	bool aligned = v->header.block_bytes >= DATA_ALIGN, overwritten;

	for (size_t i = 0; i < blocks->block_count && aligned; i++)
		aligned = is_aligned(v, blocks->blocks[i]);
	unit = aligned ? round_up_u64(stored, DATA_ALIGN) : stored;
	if (!img->file->device)
		next = round_up_u64(v->tail == VHD_TAIL_MISSING ? img->file->size : v->tail_off,
				    VHD_SECTOR);
	next = max_u64(next, used_end(v, blocks));
	v->no_tail = next > room;
	if (aligned)
		next = vhd_align_block(next, v->header.block_bytes);

	img_unit_alloc_free(&v->units);
	img_unit_alloc_init(&v->units, unit, next, min_u64(VHD_FILE_MAX - VHD_FOOTER_BYTES, room));
	for (size_t i = 0; i < blocks->block_count; i++)
		put_gap(v, blocks->blocks[i] + unit,
			i + 1 < blocks->block_count ? blocks->blocks[i + 1] : next);
	/* What ends in a block is the guest's, though it looks like a footer. */
	overwritten = blocks->block_count &&
		      v->tail_off < blocks->blocks[blocks->block_count - 1] + stored;
	v->tail_due = !v->no_tail &&
		      (v->tail != VHD_TAIL_SOUND || overwritten ||
		       v->tail_off + VHD_FOOTER_BYTES != img->file->size);
}

/* What the file ends in now. */
static int find_tail(struct img *img, struct vhd *v, struct img_error *err)
{
	struct vhd_footer tail;
	int rc = vhd_find_tail(img->file, &tail, &v->tail_off, err);

	if (rc && rc != -ENODATA)
		return rc;
	v->tail = rc							  ? VHD_TAIL_MISSING
		  : memcmp(tail.bytes, v->footer.bytes, VHD_FOOTER_BYTES) ? VHD_TAIL_DIFFERS
									  : VHD_TAIL_SOUND;
	return 0;
}

/* Room that nobody uses is a hole; where it cannot be it is only not smaller. */
static void punch_gaps(struct img *img, const struct vhd *v)
{
	for (size_t i = 0; i < v->units.run_count; i++) {
		const struct img_unit_run *run = &v->units.runs[i];

		img_storage_punch(img->file, run->off, run->len, NULL);
		img_meta_forget(img, img->file, run->off, run->len);
	}
}

int vhd_reclaim(struct img *img, struct img_error *err)
{
	struct vhd *v = img->state;
	struct img_range_map blocks = { 0 };
	uint64_t old = v->units.next, end;
	int rc = vhd_find_blocks(img, v, &blocks, err);

	end = vhd_next_block(v, used_end(v, &blocks));
	if (!rc && end < old && !img->file->device) {
		rc = img_storage_write(img->file, end, v->footer.bytes, VHD_FOOTER_BYTES, err);
		if (!rc && !img->unsafe)
			rc = img_storage_sync(img->file, err);
		if (!rc)
			rc = img_storage_resize(img->file, end + VHD_FOOTER_BYTES,
						IMG_PREALLOCATE_OFF, err);
		img_meta_forget(img, img->file, end, UINT64_MAX - end);
		v->stale_end = 0; /* behind the file's end there are zeroes */
	}
	if (!rc)
		rc = find_tail(img, v, err);
	if (!rc) {
		init_units(img, v, &blocks);
		punch_gaps(img, v);
	}
	img_range_map_free(&blocks);
	return rc;
}

int vhd_prepare_writing(struct img *img, struct vhd *v, struct img_error *err)
{
	struct img_range_map blocks = { 0 };
	int rc;

	if (v->footer.saved_state && !img->warning &&
	    asprintf(&img->warning,
		     "%s: it belongs to a machine whose state was saved: writing to it makes that state useless",
		     img->name) < 0)
		img->warning = NULL;
	if (vhd_is_fixed(v))
		return 0;
	if (v->head_bad)
		return refuse(img, -EUCLEAN, "the copy of the footer at its start is damaged", err);
	if (v->header.block_bytes > VHD_WRITE_BLOCK_MAX)
		return refuse(img, -ENOTSUP, "its blocks are larger than 256 MiB", err);
	rc = find_tail(img, v, err);
	if (!rc)
		rc = vhd_find_blocks(img, v, &blocks, err);
	if (!rc)
		init_units(img, v, &blocks);
	img_range_map_free(&blocks);
	return rc;
}

int vhd_set_writable(struct img *img, bool writable, struct img_error *err)
{
	struct vhd *v = img->state;

	if (writable)
		return v->for_check ? 0 : vhd_prepare_writing(img, v, err);
	img_unit_alloc_free(&v->units);
	return 0;
}
