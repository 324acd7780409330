/*
 * Other sizes. Of a dynamic disk the footer's copy at the start tells the size, in one write of a sector. A table that
 * is too short is made anew at the end of the file; the header leads there by one write of a sector, too.
 *
 * A fixed disk's file ends with a footer at any time, and the disk may end before it: one that grows has its footer copied to
 * where it will be, then the old one, which lies behind the disk's end, is cleared, then the copy tells the new size. One
 * that shrinks has the new size told first, then the footer moves.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"
#include "libimg/base/endian.h"

enum { ZERO_BYTES = 1 << 20 }; /* written at a time */

static int sync_file(const struct img *img, struct img_error *err)
{
	return img->unsafe ? 0 : img_storage_sync(img->file, err);
}

static int write_at(struct img *img, uint64_t off, const void *bytes, size_t len,
		    struct img_error *err)
{
	uint64_t from = align_down_u64(off, IMG_META_SECTOR);
	int rc = img_storage_write(img->file, off, bytes, len, err);

	img_meta_forget(img, img->file, from, round_up_u64(off + len, IMG_META_SECTOR) - from);
	return rc;
}

/* ---- The end of the file ---- */

int vhd_append(struct img *img, const struct vhd_piece *pieces, size_t n, struct img_error *err)
{
	struct vhd *v = img->state;
	uint64_t at = v->units.next, next;
	bool device = img->file->device;
	int rc = 0;

	for (size_t i = 0; i < n; i++)
		at += round_up_u64(pieces[i].len, VHD_SECTOR);
	next = vhd_next_block(v, at);
	if ((device ? at : next) > v->units.limit)
		return img_fail(err, device ? -ENOSPC : -EFBIG,
				"%s: found no room at its end, allowed are %" PRIu64
				" bytes of a %s",
				img->name, v->units.limit, device ? "device" : "file");
	at = v->units.next;
	for (size_t i = 0; i < n && !rc; i++) {
		rc = write_at(img, at, pieces[i].bytes, pieces[i].len, err);
		at += round_up_u64(pieces[i].len, VHD_SECTOR);
	}
	if (!rc && !device)
		rc = write_at(img, next, v->footer.bytes, VHD_FOOTER_BYTES, err);
	if (!rc)
		rc = sync_file(img, err);
	if (!device)
		v->tail_due = rc != 0;
	if (!rc)
		v->units.next = next;
	return rc;
}

int vhd_write_footer(struct img *img, const uint8_t *bytes, struct img_error *err)
{
	struct vhd *v = img->state;
	int rc = write_at(img, 0, bytes, VHD_FOOTER_BYTES, err);

	if (!rc)
		rc = sync_file(img, err);
	if (rc)
		return rc;
	rc = vhd_parse_footer(bytes, &v->footer, err);
	if (!rc) /* it counts from here on */
		rc = vhd_write_tail(img, err);
	return rc ? rc : sync_file(img, err);
}

/* ---- The table ---- */

int vhd_clear_entries(struct img *img, uint64_t from, uint64_t end, struct img_error *err)
{
	const struct vhd *v = img->state;
	uint8_t absent[4096];
	int rc = 0;

	memset(absent, 0xff, sizeof(absent));
	for (uint64_t n; from < end && !rc; from += n) {
		n = min_u64(end - from, sizeof(absent) / VHD_ENTRY_BYTES);
		rc = write_at(img, v->header.table_off + from * VHD_ENTRY_BYTES, absent,
			      (size_t)n * VHD_ENTRY_BYTES, err);
	}
	return rc;
}

int vhd_drop_batmap(struct img *img, struct img_error *err)
{
	static const uint8_t zeroes[VHD_BATMAP_HEADER_BYTES];
	struct vhd *v = img->state;
	int rc = v->batmap_off ? write_at(img, v->batmap_off, zeroes, sizeof(zeroes), err) : 0;

	if (!rc && v->batmap_off)
		rc = sync_file(img, err);
	if (!rc)
		v->batmap_off = 0;
	return rc;
}

/* The header says where the table is, and how long. */
static int point_at_table(struct img *img, uint64_t off, uint32_t entries, struct img_error *err)
{
	struct vhd *v = img->state;
	struct vhd_header next;
	uint8_t bytes[VHD_HEADER_BYTES];
	int rc;

	memcpy(bytes, v->header.bytes, sizeof(bytes));
	be64_store(bytes + VHD_OFF_TABLE, off);
	be32_store(bytes + VHD_OFF_ENTRIES, entries);
	vhd_seal_header(bytes);
	rc = vhd_parse_header(bytes, 0, &next, err);
	if (!rc)
		rc = write_at(img, v->footer.header_off, bytes, VHD_SECTOR, err);
	if (!rc)
		rc = sync_file(img, err);
	if (rc)
		return rc;
	v->header = next;
	return vhd_list_metadata(img, v, err);
}

/* A longer table, at the end of the file. */
static int move_table(struct img *img, uint64_t blocks, struct img_error *err)
{
	struct vhd *v = img->state;
	struct vhd_piece piece = { .len = (size_t)round_up_u64(blocks * VHD_ENTRY_BYTES,
							       VHD_SECTOR) };
	uint64_t off = v->units.next;
	uint8_t *table = malloc(piece.len);
	int rc;

	if (!table)
		return img_fail(err, -ENOMEM, "out of memory");
	memset(table, 0xff, piece.len);
	piece.bytes = table;
	rc = img_storage_read(img->file, v->header.table_off, table,
			      (size_t)v->blocks * VHD_ENTRY_BYTES, err);
	if (!rc)
		rc = vhd_append(img, &piece, 1, err);
	if (!rc)
		rc = point_at_table(img, off, (uint32_t)(piece.len / VHD_ENTRY_BYTES), err);
	free(table);
	return rc;
}

static int have_entries(struct img *img, uint64_t blocks, struct img_error *err)
{
	struct vhd *v = img->state;
	uint64_t room = round_up_u64((uint64_t)v->header.entries * VHD_ENTRY_BYTES, VHD_SECTOR) /
			VHD_ENTRY_BYTES;
	uint64_t old = v->blocks;
	int rc = blocks > old ? vhd_drop_batmap(img, err) : 0;

	if (rc || blocks <= old)
		return rc;
	if (blocks > room) {
		rc = move_table(img, blocks, err);
	} else {
		rc = vhd_clear_entries(img, old, blocks, err);
		if (!rc)
			rc = sync_file(img, err);
		if (!rc && blocks > v->header.entries)
			rc = point_at_table(img, v->header.table_off, (uint32_t)blocks, err);
	}
	if (!rc)
		v->blocks = blocks;
	return rc;
}

/* Blocks behind the disk's end leave the file. */
static int cut_blocks(struct img *img, uint64_t blocks, struct img_error *err)
{
	struct vhd *v = img->state;
	uint64_t old = v->blocks;
	int rc;

	if (blocks >= old)
		return 0;
	rc = vhd_clear_entries(img, blocks, old, err);
	if (!rc)
		rc = sync_file(img, err);
	v->blocks = blocks;
	return rc ? rc : vhd_reclaim(img, err);
}

/* ---- The driver's entries ---- */

static int check_size(const struct img *img, uint64_t size, struct img_error *err)
{
	const struct vhd *v = img->state;

	if (v->for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	if (size > VHD_SIZE_MAX)
		return img_fail(err, -EFBIG,
				"%s: size is %" PRIu64 " bytes, expected at most %" PRIu64
				" (2040 GiB)",
				img->name, size, VHD_SIZE_MAX);
	if (!vhd_is_fixed(v) && vhd_blocks(size, v->header.block_bytes) > VHD_BLOCKS_MAX)
		return img_fail(err, -EFBIG, "%s: size: %" PRIu64 " blocks, expected at most %d",
				img->name, vhd_blocks(size, v->header.block_bytes), VHD_BLOCKS_MAX);
	return 0;
}

int vhd_extend(struct img *img, uint64_t size, struct img_error *err)
{
	const struct vhd *v = img->state;
	int rc = check_size(img, size, err);

	if (rc || vhd_is_fixed(v)) /* which grows at once, see above */
		return rc;
	rc = have_entries(img, vhd_blocks(size, v->header.block_bytes), err);
	if (!rc)
		img->size = size;
	return rc;
}

/* The disk's footer, at off of the file. Durable. */
static int write_fixed_footer(struct img *img, const uint8_t *bytes, uint64_t off,
			      struct img_error *err)
{
	int rc = write_at(img, off, bytes, VHD_FOOTER_BYTES, err);

	return rc ? rc : sync_file(img, err);
}

/* [off, end) of the file, behind the disk's end, becomes zeroes: allocated as it was asked for. Durable. */
static int clear_fixed(struct img *img, uint64_t off, uint64_t end, enum img_preallocate how,
		       struct img_error *err)
{
	uint8_t *zeroes;
	int rc = 0;

	if (how != IMG_PREALLOCATE_FULL) {
		rc = img_storage_zero(img->file, off, end - off, err);
		return rc ? rc : sync_file(img, err);
	}
	zeroes = calloc(1, ZERO_BYTES);
	if (!zeroes)
		return img_fail(err, -ENOMEM, "out of memory");
	for (uint64_t n; off < end && !rc; off += n) {
		n = min_u64(end - off, ZERO_BYTES);
		rc = img_storage_write(img->file, off, zeroes, (size_t)n, err);
	}
	free(zeroes);
	return rc ? rc : sync_file(img, err);
}

/* The disk ends where its footer now lies, or before. The old footer goes first where the new end is. */
static int grow_fixed(struct img *img, const uint8_t *footer, uint64_t size,
		      enum img_preallocate how, struct img_error *err)
{
	struct vhd *v = img->state;
	uint64_t old = v->footer.size, old_end = v->tail_off + VHD_FOOTER_BYTES, off = v->tail_off;
	int rc = 0;

	if (size > v->tail_off) {
		off = max_u64(size, round_up_u64(old_end, VHD_SECTOR));
		rc = write_fixed_footer(img, v->footer.bytes, off, err);
		if (rc)
			return rc;
		v->tail_off = off;
	}
	/* The old footer, what others may have left in front of it, and what is to be allocated. */
	if (img->file->device)
		rc = clear_fixed(img, old, size, how, err);
	else if (how == IMG_PREALLOCATE_OFF)
		rc = clear_fixed(img, old, min_u64(old_end, off), how, err);
	else
		rc = clear_fixed(img, old, off, how, err);
	return rc ? rc : write_fixed_footer(img, footer, off, err);
}

/* What lies between the disk's end and its footer leaves the file. */
static int cut_fixed(struct img *img, uint64_t size, struct img_error *err)
{
	struct vhd *v = img->state;
	int rc;

	if (img->file->device || size + VHD_FOOTER_BYTES > v->tail_off)
		return 0;
	rc = write_fixed_footer(img, v->footer.bytes, size, err);
	if (!rc)
		rc = img_storage_resize(img->file, size + VHD_FOOTER_BYTES, IMG_PREALLOCATE_OFF,
					err);
	if (rc)
		return rc;
	v->tail_off = size;
	return sync_file(img, err);
}

static int resize_fixed(struct img *img, uint64_t size, enum img_preallocate how,
			struct img_error *err)
{
	struct vhd *v = img->state;
	uint8_t footer[VHD_FOOTER_BYTES];
	int rc;

	if (img->file->device && size > v->tail_off)
		return img_fail(err, -ENOSPC,
				"%s: size is %" PRIu64 " bytes, expected at most the %" PRIu64
				" of the device in front of the footer",
				img->name, size, v->tail_off);
	if (size == v->footer.size)
		return 0;
	if (how == IMG_PREALLOCATE_METADATA)
		return img_fail(err, -ENOTSUP, "Unsupported preallocation mode: metadata");
	memcpy(footer, v->footer.bytes, sizeof(footer));
	vhd_resize_footer(footer, size);
	if (size > v->footer.size)
		rc = grow_fixed(img, footer, size, how, err);
	else
		rc = write_fixed_footer(img, footer, v->tail_off, err);
	if (!rc)
		rc = vhd_parse_footer(footer, &v->footer, err);
	if (rc)
		return rc;
	img->size = size;
	return cut_fixed(img, size, err);
}

int vhd_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err)
{
	struct vhd *v = img->state;
	uint8_t footer[VHD_FOOTER_BYTES];
	int rc = check_size(img, size, err);

	if (rc)
		return rc;
	if (vhd_is_fixed(v))
		return resize_fixed(img, size, how, err);
	if (how != IMG_PREALLOCATE_OFF)
		return img_fail(
			err, -ENOTSUP,
			"%s: preallocation: it is a dynamic disk, which grows as it is written",
			img->name);
	if (size != v->footer.size) {
		memcpy(footer, v->footer.bytes, sizeof(footer));
		vhd_resize_footer(footer, size);
		rc = vhd_write_footer(img, footer, err);
		if (v->footer.size != size)
			return rc;
	}
	img->size = size;
	return rc ? rc : cut_blocks(img, vhd_blocks(size, v->header.block_bytes), err);
}
