/*
 * Blocking work on the block map and the blocks. All of it is done in an order in which a power cut leaves
 * each entry as it was or as it will be, with its block's data in either place.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vdi/vdi_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/sparse_bitset.h"

enum {
	PIECE_ENTRIES = 64 << 10, /* of the block map, read at a time */
	COPY_BYTES = 1 << 20,
	MOVES_AT_ONCE = 4096, /* blocks that move between two syncs */
};

int vdi_sync(struct img *img, struct img_error *err)
{
	return img->unsafe || !img->file->unsynced ? 0 : img_storage_sync(img->file, err);
}

uint64_t vdi_needed(const struct img *img, uint64_t block)
{
	const struct vdi *v = img->state;
	uint64_t bytes = v->header.block_bytes, start = block * bytes;

	return start < img->size ? min_u64(bytes, img->size - start) : bytes;
}

/* ---- The block map and the header ---- */

static int write_metadata(struct img *img, uint64_t off, const void *bytes, size_t len,
			  struct img_error *err)
{
	uint64_t from = align_down_u64(off, IMG_META_SECTOR);
	int rc = img_storage_write(img->file, off, bytes, len, err);

	img_meta_forget(img, img->file, from, round_up_u64(off + len, IMG_META_SECTOR) - from);
	return rc;
}

int vdi_for_each_entry(struct img *img, uint64_t first, uint64_t end, vdi_entry_fn *each, void *user,
		       struct img_error *err)
{
	const struct vdi *v = img->state;
	uint8_t *piece = malloc((size_t)PIECE_ENTRIES * VDI_ENTRY_BYTES);
	int rc = 0;

	if (!piece)
		return vdi_no_memory(img, err);
	for (uint64_t block = first, n; block < end && !rc; block += n) {
		bool changed = false;
		int write_rc = 0;

		n = min_u64(end - block, PIECE_ENTRIES);
		rc = img_storage_read(img->file, vdi_entry_at(&v->header, block), piece,
				      n * VDI_ENTRY_BYTES, err);
		for (uint64_t i = 0; i < n && !rc; i++) {
			uint32_t entry = le32_load(piece + i * VDI_ENTRY_BYTES), old = entry;

			rc = each(user, block + i, &entry, err);
			if (entry == old)
				continue;
			le32_store(piece + i * VDI_ENTRY_BYTES, entry);
			changed = true;
		}
		if (changed) /* what was changed before one failed, too */
			write_rc = write_metadata(img, vdi_entry_at(&v->header, block), piece,
						  n * VDI_ENTRY_BYTES, rc ? NULL : err);
		if (!rc)
			rc = write_rc;
	}
	free(piece);
	return rc;
}

static int free_entry(void *user, uint64_t block, uint32_t *entry, struct img_error *err)
{
	(void)user;
	(void)block;
	(void)err;
	*entry = VDI_ENTRY_FREE;
	return 0;
}

int vdi_free_entries(struct img *img, uint64_t first, uint64_t end, struct img_error *err)
{
	int rc = vdi_for_each_entry(img, first, end, free_entry, NULL, err);

	return rc ? rc : vdi_sync(img, err);
}

int vdi_write_entry(struct img *img, uint64_t block, uint32_t entry, struct img_error *err)
{
	const struct vdi *v = img->state;
	uint8_t bytes[VDI_ENTRY_BYTES];

	le32_store(bytes, entry);
	return write_metadata(img, vdi_entry_at(&v->header, block), bytes, sizeof(bytes), err);
}

int vdi_store_header(struct img *img, const struct vdi_header *h, bool upgrade, struct img_error *err)
{
	uint8_t bytes[VDI_SECTOR];
	int rc = img_storage_read(img->file, 0, bytes, sizeof(bytes), err);

	if (rc)
		return rc;
	vdi_encode_header(h, upgrade, bytes);
	rc = write_metadata(img, 0, bytes, sizeof(bytes), err);
	return rc ? rc : vdi_sync(img, err);
}

int vdi_write_header(struct img *img, const struct vdi_header *h, bool upgrade, struct img_error *err)
{
	struct vdi *v = img->state;
	int rc = vdi_store_header(img, h, upgrade, err);

	if (!rc)
		v->header = *h;
	return rc;
}

/* ---- Which blocks are used ---- */

struct load {
	struct img *img;
	struct img_use_map used;
	uint64_t count, end; /* entries that lead to a block; one above the highest index */
};

static int load_entry(void *user, uint64_t block, uint32_t *entry, struct img_error *err)
{
	struct load *l = user;
	struct img *img = l->img;
	const struct vdi *v = img->state;
	const struct vdi_header *h = &v->header;
	uint64_t data, needed;
	enum img_use use;

	if (!vdi_entry_is_index(*entry))
		return 0;
	data = vdi_block_at(h, *entry) + h->extra_bytes;
	needed = vdi_needed(img, block);
	if (!range_in(data, needed, img->file->size))
		return img_fail(err, -EUCLEAN,
				"%s: truncated: ends at %" PRIu64 ", block %" PRIu64 " at %" PRIu64
				" needs %" PRIu64 "; it cannot be written to before it was repaired",
				img->name, (uint64_t)img->file->size, block, data, data + needed);
	if (img_use_map_add(&l->used, *entry, 1, &use))
		return vdi_no_memory(img, err);
	if (use != IMG_USE_NEW)
		return img_fail(err, -EUCLEAN,
				"%s: block map entry %" PRIu64 " at %" PRIu64 ": index is %" PRIu32
				", which another block has, too; it cannot be written to before it was "
				"repaired",
				img->name, block, vdi_entry_at(h, block), *entry);
	l->count++;
	l->end = max_u64(l->end, (uint64_t)*entry + 1);
	return 0;
}

/* Gaps between used blocks, and what the file has behind the last one, are free. */
static void init_alloc(const struct load *l)
{
	struct img *img = l->img;
	struct vdi *v = img->state;
	uint64_t stride = vdi_stride(&v->header);
	uint64_t end = vdi_block_at(&v->header, l->end), next = end;
	uint64_t limit = vdi_block_at(&v->header, VDI_ENTRY_ZERO), run;

	if (img->file->device)
		limit = min_u64(limit, img->file->size);
	else if (img->file->size > next)
		next += multiple_up_u64(img->file->size - next, stride);
	next = min_u64(next, max_u64(end, limit));
	img_unit_alloc_init(&v->alloc, stride, next, limit);
	v->clean_from = next;
	/* What comes last is used first: gaps, so that there is less to move. */
	if (next > end)
		img_unit_alloc_put(&v->alloc, end, next - end);
	for (uint64_t index = 0; index < l->end; index += run) {
		bool is_used = img_sparse_bitset_run(&l->used.used, index, &run);

		run = min_u64(run, l->end - index);
		if (!is_used)
			img_unit_alloc_put(&v->alloc, vdi_block_at(&v->header, index), run * stride);
	}
}

int vdi_load_blocks(struct img *img, struct img_error *err)
{
	struct vdi *v = img->state;
	struct load l = { .img = img };
	int rc;

	vdi_free_blocks(img);
	img_use_map_init(&l.used, UINT64_C(1) << 32, 1);
	rc = vdi_for_each_entry(img, 0, v->header.blocks, load_entry, &l, err);
	if (!rc)
		init_alloc(&l);
	img_use_map_free(&l.used);
	if (rc)
		return rc;
	v->used = l.count;
	/* What was written under a count that is too low counts. */
	v->header.allocated = (uint32_t)max_u64(v->header.allocated, l.end);
	v->writing = true;
	return 0;
}

void vdi_free_blocks(struct img *img)
{
	struct vdi *v = img->state;

	img_unit_alloc_free(&v->alloc);
	v->writing = v->trim = false;
}

/* ---- Moving ---- */

int vdi_copy_block(struct img *img, uint64_t from, uint64_t to, struct img_error *err)
{
	const struct vdi *v = img->state;
	uint64_t stride = vdi_stride(&v->header), at = 0, n;
	/* Of the last block in the file, what the disk does not have may be missing. */
	uint64_t end = from < img->file->size ? min_u64(stride, img->file->size - from) : 0;
	uint8_t *buffer = malloc(COPY_BYTES);
	int rc = 0;

	if (!buffer)
		return vdi_no_memory(img, err);
	for (; at < end && !rc; at += n) {
		enum img_storage_extent kind;

		rc = img_storage_extent(img->file, from + at, end - at, &kind, &n);
		if (rc) {
			img_fail(err, rc, "%s: reading at %" PRIu64 ": %s", img->name, from + at,
				 strerror(-rc));
		} else if (kind == IMG_STORAGE_HOLE) {
			rc = img_storage_zero(img->file, to + at, n, err);
		} else {
			n = min_u64(n, COPY_BYTES);
			rc = img_storage_read(img->file, from + at, buffer, n, err);
			if (!rc)
				rc = img_storage_write(img->file, to + at, buffer, n, err);
		}
	}
	if (!rc && end < stride)
		rc = img_storage_zero(img->file, to + end, stride - end, err);
	free(buffer);
	return rc;
}

struct move {
	uint64_t block;
	uint32_t index;
};

struct moves {
	struct img *img;
	uint64_t used;			/* blocks that there are: those behind so many move */
	struct img_sparse_bitset below; /* indices below that were used */
	uint64_t gap;			/* index that may be the next to be filled */
	uint64_t next;			/* block from which on there is something to move */
	struct move *list;
	size_t count;
};

static int add_below(void *user, uint64_t block, uint32_t *entry, struct img_error *err)
{
	struct moves *m = user;

	(void)block;
	if (*entry < m->used && img_sparse_bitset_add(&m->below, *entry, 1) < 0)
		return vdi_no_memory(m->img, err);
	return 0;
}

/* 1: so many are enough. */
static int find_move(void *user, uint64_t block, uint32_t *entry, struct img_error *err)
{
	struct moves *m = user;

	(void)err;
	if (!vdi_entry_is_index(*entry) || *entry < m->used)
		return 0;
	m->list[m->count++] = (struct move){ block, *entry };
	m->next = block + 1;
	return m->count == MOVES_AT_ONCE;
}

/* Some of the blocks behind the first `used` go into gaps between those. */
static int move_some(struct moves *m, struct img_error *err)
{
	struct img *img = m->img;
	const struct vdi *v = img->state;
	uint64_t run;
	int rc;

	m->count = 0;
	rc = vdi_for_each_entry(img, m->next, v->header.blocks, find_move, m, err);
	if (rc > 0)
		rc = 0;
	for (size_t i = 0; i < m->count && !rc; i++) {
		while (img_sparse_bitset_run(&m->below, m->gap, &run))
			m->gap += run;
		rc = vdi_copy_block(img, vdi_block_at(&v->header, m->list[i].index),
				    vdi_block_at(&v->header, m->gap), err);
		m->list[i].index = (uint32_t)m->gap++;
	}
	if (!rc)
		rc = vdi_sync(img, err);
	for (size_t i = 0; i < m->count && !rc; i++)
		rc = vdi_write_entry(img, m->list[i].block, m->list[i].index, err);
	return rc ? rc : vdi_sync(img, err);
}

static int move_all(struct img *img, struct img_error *err)
{
	const struct vdi *v = img->state;
	struct moves m = { .img = img, .used = v->used };
	int rc;

	m.list = calloc(MOVES_AT_ONCE, sizeof(*m.list));
	if (!m.list)
		return vdi_no_memory(img, err);
	img_sparse_bitset_init(&m.below, m.used, 0);
	rc = vdi_for_each_entry(img, 0, v->header.blocks, add_below, &m, err);
	if (!rc) {
		do {
			rc = move_some(&m, err);
		} while (!rc && m.count == MOVES_AT_ONCE);
	}
	img_sparse_bitset_free(&m.below);
	free(m.list);
	return rc;
}

int vdi_pad_file(struct img *img, struct img_error *err)
{
	const struct vdi *v = img->state;
	uint64_t data_off = v->header.data_off, size = img->file->size, whole;

	if (img->file->device || size <= data_off)
		return 0;
	whole = data_off + multiple_up_u64(size - data_off, vdi_stride(&v->header));
	return whole == size ? 0 : img_storage_resize(img->file, whole, IMG_PREALLOCATE_OFF, err);
}

int vdi_compact(struct img *img, struct img_error *err)
{
	struct vdi *v = img->state;
	struct vdi_header h = v->header;
	uint64_t end = vdi_block_at(&h, v->used);
	int rc = 0;

	if (v->used != h.allocated) {
		rc = move_all(img, err);
		h.allocated = (uint32_t)v->used;
		if (!rc)
			rc = vdi_write_header(img, &h, false, err);
		if (rc) { /* some moved: where what is free is to be found out anew */
			vdi_load_blocks(img, NULL);
			return rc;
		}
	}
	if (!img->file->device && img->file->size > end)
		rc = img_storage_resize(img->file, end, IMG_PREALLOCATE_OFF, err);
	if (!rc)
		rc = vdi_pad_file(img, err);
	return rc ? rc : vdi_load_blocks(img, err);
}
