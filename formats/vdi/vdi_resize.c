/*
 * Another size for the disk. The block map grows into what there is before the first block. Where that is not
 * enough, blocks make space: they move behind the last one, and a longer map is written where they were, with
 * all indices counted from the new start of the data. One write of the header then changes over to it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vdi/vdi_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum { PIECE_ENTRIES = 64 << 10 };

/* ---- A block map that must move ---- */

struct move_up {
	struct img *img;
	uint64_t in_way; /* blocks of a lower index move */
};

/* To the end of the file; the map names the new place when the copy is durable. */
static int move_up(void *user, uint64_t block, uint32_t *entry, struct img_error *err)
{
	struct move_up *m = user;
	struct img *img = m->img;
	struct vdi *v = img->state;
	struct vdi_header h = v->header;
	uint32_t index;
	uint64_t to;
	int rc;

	if (!vdi_entry_is_index(*entry) || *entry >= m->in_way)
		return 0;
	if (img_unit_alloc_get_at_end(&v->alloc, 1, &to))
		return img_fail(err, img->file->device ? -ENOSPC : -EFBIG,
				"%s: no space to move block %" PRIu64 " out of the block map's way", img->name,
				block);
	index = (uint32_t)vdi_index_at(&h, to);
	rc = vdi_copy_block(img, vdi_block_at(&h, *entry), to, err);
	h.allocated = (uint32_t)max_u64(h.allocated, (uint64_t)index + 1);
	if (!rc) /* with a sync */
		rc = vdi_write_header(img, &h, false, err);
	if (!rc)
		rc = vdi_write_entry(img, block, index, err);
	return rc;
}

/* The map as it will be, at `to`: indices less `less`, and free entries up to `blocks`. */
static int write_new_map(struct img *img, uint64_t to, uint64_t less, uint64_t blocks, struct img_error *err)
{
	const struct vdi *v = img->state;
	uint64_t old = v->header.blocks;
	uint8_t *piece = malloc((size_t)PIECE_ENTRIES * VDI_ENTRY_BYTES);
	int rc = 0;

	if (!piece)
		return vdi_no_memory(img, err);
	for (uint64_t first = 0, n; first < blocks && !rc; first += n) {
		uint64_t have;

		n = min_u64(blocks - first, PIECE_ENTRIES);
		have = first < old ? min_u64(n, old - first) : 0;
		memset(piece, 0xff, n * VDI_ENTRY_BYTES); /* free */
		if (have)
			rc = img_storage_read(img->file, vdi_entry_at(&v->header, first), piece,
					      have * VDI_ENTRY_BYTES, err);
		for (uint64_t i = 0; i < have && !rc; i++) {
			uint32_t entry = le32_load(piece + i * VDI_ENTRY_BYTES);

			if (vdi_entry_is_index(entry))
				le32_store(piece + i * VDI_ENTRY_BYTES, (uint32_t)(entry - less));
		}
		if (!rc)
			rc = img_storage_write(img->file, to + first * VDI_ENTRY_BYTES, piece,
					       n * VDI_ENTRY_BYTES, err);
	}
	free(piece);
	return rc ? rc : vdi_sync(img, err);
}

static int try_move_map(struct img *img, uint64_t blocks, struct img_error *err)
{
	struct vdi *v = img->state;
	struct vdi_header next;
	/* In sectors of its own. */
	uint64_t start = v->header.data_off, map_off = round_up_u64(start, VDI_SECTOR);
	uint64_t map_end = round_up_u64(map_off + blocks * VDI_ENTRY_BYTES, VDI_SECTOR), data_off;
	struct move_up m = { img, div_round_up_u64(map_end - start, vdi_stride(&v->header)) };
	bool upgrade = v->header.version0;
	int rc;

	data_off = start + m.in_way * vdi_stride(&v->header);
	if (data_off > UINT32_MAX)
		return img_fail(err, -EFBIG,
				"%s: the block map of %" PRIu64 " blocks would end at %" PRIu64
				", expected at most %" PRIu32,
				img->name, blocks, data_off, UINT32_MAX);
	img_unit_alloc_free(&v->alloc);
	v->alloc.next = max_u64(v->alloc.next, data_off);
	rc = vdi_for_each_entry(img, 0, v->header.blocks, move_up, &m, err);
	if (!rc)
		rc = vdi_sync(img, err);
	if (!rc)
		rc = write_new_map(img, map_off, m.in_way, blocks, err);
	/* Behind the map the data begins, be there some or not. */
	if (!rc && !img->file->device && img->file->size < data_off)
		rc = img_storage_resize(img->file, data_off, IMG_PREALLOCATE_OFF, err);
	if (rc)
		return rc;
	next = v->header;
	next.version0 = false;
	next.map_off = map_off;
	next.data_off = data_off;
	next.allocated -= (uint32_t)min_u64(next.allocated, m.in_way);
	return vdi_write_header(img, &next, upgrade, err);
}

static int move_map(struct img *img, uint64_t blocks, struct img_error *err)
{
	struct vdi *v = img->state;
	int rc = try_move_map(img, blocks, err), load_rc;

	img_meta_forget(img, img->file, 0, UINT64_MAX);
	load_rc = vdi_load_blocks(img, rc ? NULL : err);
	v->trim = true;
	return rc ? rc : load_rc;
}

bool vdi_must_move_map(const struct vdi_header *h)
{
	uint64_t map_end = vdi_entry_at(h, h->blocks);

	return h->blocks &&
	       (h->map_off < VDI_SECTOR || round_up_u64(map_end, VDI_SECTOR) > h->data_off);
}

int vdi_grow(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	const struct vdi *v = img->state;

	(void)off;
	(void)len;
	return vdi_must_move_map(&v->header) ? move_map(img, v->header.blocks, err) : 0;
}

/* ---- Growing ---- */

int vdi_extend(struct img *img, uint64_t size, struct img_error *err)
{
	struct vdi *v = img->state;
	struct vdi_header *h = &v->header;
	uint64_t blocks = vdi_block_count(h, size), old = vdi_block_count(h, img->size);
	int rc = 0;

	if (v->for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	if (blocks > VDI_BLOCKS_MAX)
		return img_fail(err, -EFBIG,
				"%s: new size is %" PRIu64 ", expected at most %" PRIu64
				" with blocks of %" PRIu32 " bytes",
				img->name, size, (uint64_t)VDI_BLOCKS_MAX * h->block_bytes, h->block_bytes);
	rc = vdi_pad_file(img, err);
	/* The place of version 0's data follows from the number of blocks. */
	if (!rc && blocks > h->blocks && (h->version0 || vdi_entry_at(h, blocks) > h->data_off))
		rc = move_map(img, blocks, err);
	if (rc)
		return rc;
	/* What was there before counts for nothing. */
	if (blocks > old)
		rc = vdi_free_entries(img, old, blocks, err);
	if (!rc) /* a last block that was padded, too */
		rc = vdi_sync(img, err);
	if (!rc)
		rc = vdi_load_blocks(img, err);
	if (rc)
		return rc;
	v->trim = true;
	img->size = size;
	return 0;
}

static int count_missing(void *user, uint64_t block, uint32_t *entry, struct img_error *err)
{
	uint64_t *missing = user;

	(void)block;
	(void)err;
	*missing += !vdi_entry_is_index(*entry);
	return 0;
}

static int fill_entry(void *user, uint64_t block, uint32_t *entry, struct img_error *err)
{
	uint64_t *next = user; /* index */

	(void)block;
	(void)err;
	if (!vdi_entry_is_index(*entry))
		*entry = (uint32_t)(*next)++;
	return 0;
}

/* A static disk has all of its blocks in the file. */
static int fill_static(struct img *img, uint64_t first, uint64_t end, enum img_preallocate how,
		       struct img_error *err)
{
	struct vdi *v = img->state;
	struct vdi_header h = v->header;
	uint64_t missing = 0, from = 0, to, next;
	int rc = vdi_for_each_entry(img, first, end, count_missing, &missing, err);

	if (rc || !missing)
		return rc;
	if (img_unit_alloc_get_at_end(&v->alloc, missing, &from))
		return img_fail(err, img->file->device ? -ENOSPC : -EFBIG, "%s: no space for %" PRIu64 " blocks",
				img->name, missing);
	to = from + missing * vdi_stride(&h);
	next = vdi_index_at(&h, from);
	h.allocated = (uint32_t)max_u64(h.allocated, next + missing);
	if (img->file->device || from < img->file->size)
		rc = img_storage_zero(img->file, from, to - from, err);
	if (!rc && !img->file->device && img->file->size < to)
		rc = img_storage_resize(img->file, to,
					how == IMG_PREALLOCATE_METADATA ? IMG_PREALLOCATE_OFF : how,
					err);
	if (!rc) /* with a sync */
		rc = vdi_write_header(img, &h, false, err);
	if (!rc)
		rc = vdi_for_each_entry(img, first, end, fill_entry, &next, err);
	return rc ? rc : vdi_sync(img, err);
}

/* ---- The size ---- */

int vdi_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err)
{
	struct vdi *v = img->state;
	struct vdi_header h = v->header;
	uint64_t old = h.size, reached = max_u64(img->size, old);
	uint64_t blocks = vdi_block_count(&h, size);
	int rc = 0;

	if (v->for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	if (how != IMG_PREALLOCATE_OFF && h.type != VDI_STATIC)
		return img_fail(err, -ENOTSUP,
				"%s: preallocation: image type is %u, expected %u, static: blocks of others "
				"are allocated as they are written",
				img->name, (unsigned)h.type, (unsigned)VDI_STATIC);
	if (size > old && h.type == VDI_STATIC)
		rc = fill_static(img, vdi_block_count(&h, old), blocks, how, err);
	if (rc)
		return rc;
	h = v->header;
	h.size = size;
	/* Version 0 has its data behind the last entry: the number of those stays. */
	if (!h.version0)
		h.blocks = (uint32_t)blocks;
	if (h.version0 && reached > size)
		rc = vdi_free_entries(img, blocks, h.blocks, err);
	if (!rc)
		rc = vdi_write_header(img, &h, false, err);
	if (rc)
		return rc;
	img->size = size;
	rc = vdi_load_blocks(img, err);
	v->trim = true;
	return rc;
}
