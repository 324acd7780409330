/*
 * What needs the image quiet: sector bitmap blocks and cleared space for writers, another size for the
 * disk, and a BAT that must move to grow.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	PIECE_ENTRIES = 16 << 10, /* of the BAT, changed at a time */
	PIECE_BYTES = PIECE_ENTRIES * VHDX_BAT_ENTRY_BYTES,
	CHUNKS_AT_ONCE = 64,
};

static int write_zeroes(struct img *img, uint64_t off, uint64_t bytes, struct img_error *err)
{
	uint8_t *piece = calloc(1, VHDX_MIB);
	int rc = piece ? 0 : vhdx_no_memory(img, err);

	for (uint64_t at = 0; at < bytes && !rc; at += VHDX_MIB)
		rc = img_storage_write(img->file, off + at, piece, VHDX_MIB, err);
	free(piece);
	return rc;
}

/* Room, whole MiB, that is to be zeroes, allocated in the file system as it was asked for. */
static int clear_taken(struct img *img, uint64_t off, uint64_t bytes, enum img_preallocate how,
		       struct img_error *err)
{
	int rc;

	if (how == IMG_PREALLOCATE_FULL)
		return write_zeroes(img, off, bytes, err);
	if (how != IMG_PREALLOCATE_FALLOC)
		return img_storage_zero(img->file, off, bytes, err);
	rc = img_storage_io(img->file, IMG_IO_ZERO, NULL, 0, off, bytes, IMG_IO_KEEP_ALLOCATED);
	return rc ? img_fail(err, rc, "%s: cannot reserve %" PRIu64 " bytes at %" PRIu64 ": %s", img->name,
			     bytes, off, strerrordesc_np(-rc))
		  : 0;
}

/* Room that reads as zeroes and is in the file, not yet durably. */
static int take_zeroes(struct img *img, uint64_t bytes, enum img_preallocate how, uint64_t *off,
		       struct img_error *err)
{
	bool fresh;
	int rc = vhdx_alloc_space(img, bytes, off, &fresh, err);

	if (rc == IMG_NEED_EXCLUSIVE) {
		rc = vhdx_clear_free_space(img, bytes, err);
		if (!rc)
			rc = vhdx_alloc_space(img, bytes, off, &fresh, err);
	}
	if (rc)
		return rc;
	rc = clear_taken(img, *off, bytes, how, err);
	img_meta_forget(img, img->file, *off, bytes);
	if (rc)
		vhdx_free_space(img, *off, bytes, false);
	return rc;
}

/* ---- For writers ---- */

static int make_bitmap(struct img *img, uint64_t chunk, struct img_error *err)
{
	const struct vhdx *v = img->state;
	uint64_t at = vhdx_entry_at(v, vhdx_bitmap_entry(&v->geometry, chunk)), off;
	uint8_t entry[VHDX_BAT_ENTRY_BYTES];
	int rc = img_storage_read(img->file, at, entry, sizeof(entry), err);

	if (rc || vhdx_entry_state(le64_load(entry)) == VHDX_PRESENT)
		return rc;
	rc = take_zeroes(img, VHDX_BITMAP_BYTES, IMG_PREALLOCATE_OFF, &off, err);
	if (rc)
		return rc;
	le64_store(entry, vhdx_bat_entry(VHDX_PRESENT, off));
	/* Where that fails the space stays allocated: whether it is in the log is not known. */
	return vhdx_write_bytes(img, at, entry, sizeof(entry), err);
}

int vhdx_grow(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	const struct vhdx *v = img->state;
	uint64_t covers = vhdx_chunk_ratio(&v->geometry) * v->geometry.block_bytes;
	uint64_t first = off / covers, last = (off + len - 1) / covers;
	int rc = vhdx_clear_free_space(img, v->geometry.block_bytes, err);

	last = min_u64(last, first + CHUNKS_AT_ONCE - 1);
	for (uint64_t chunk = first; vhdx_is_child(v) && chunk <= last && !rc; chunk++)
		rc = make_bitmap(img, chunk, err);
	return rc;
}

/* ---- The BAT ---- */

/* Copy the BAT's bytes; holes stay holes. */
static int copy_bat(struct img *img, uint64_t to, uint64_t bytes, struct img_error *err)
{
	const struct vhdx *v = img->state;
	uint64_t from = v->regions.bat.off, n;
	uint8_t *piece = malloc(PIECE_BYTES);
	int rc = piece ? 0 : vhdx_no_memory(img, err);

	for (uint64_t at = 0; at < bytes && !rc; at += n) {
		enum img_storage_extent kind;

		rc = img_storage_extent(img->file, from + at, bytes - at, &kind, &n);
		if (rc || kind == IMG_STORAGE_HOLE)
			continue;
		n = min_u64(n, PIECE_BYTES);
		rc = img_storage_read(img->file, from + at, piece, n, err);
		if (!rc)
			rc = img_storage_write(img->file, to + at, piece, n, err);
	}
	free(piece);
	return rc;
}

/* Both region tables lead to another BAT, by one entry of the log: together, or not at all. */
static int write_regions(struct img *img, const struct vhdx_region *bat, struct img_error *err)
{
	struct vhdx *v = img->state;
	uint8_t *table = malloc(VHDX_REGION_TABLE_BYTES), *old = malloc(VHDX_REGION_TABLE_BYTES);
	struct vhdx_change changes[2 * VHDX_REGION_TABLE_BYTES / VHDX_LOG_SECTOR];
	size_t n = 0;
	int rc = table && old ? 0 : vhdx_no_memory(img, err);

	if (!rc)
		rc = img_storage_read(img->file, VHDX_REGION_TABLE_OFF(!v->regions_valid[0]), table,
				      VHDX_REGION_TABLE_BYTES, err);
	if (!rc)
		vhdx_move_bat(table, bat);
	for (unsigned i = 0; i < 2 && !rc; i++) {
		rc = img_storage_read(img->file, VHDX_REGION_TABLE_OFF(i), old,
				      VHDX_REGION_TABLE_BYTES, err);
		for (size_t at = 0; at < VHDX_REGION_TABLE_BYTES && !rc; at += VHDX_LOG_SECTOR)
			if (memcmp(table + at, old + at, VHDX_LOG_SECTOR) != 0)
				changes[n++] = (struct vhdx_change){ VHDX_REGION_TABLE_OFF(i) + at,
								     table + at, VHDX_LOG_SECTOR };
	}
	if (!rc)
		rc = vhdx_write_logged(img, changes, n, err);
	free(table);
	free(old);
	if (rc)
		return rc;
	v->regions.bat = *bat;
	v->regions_valid[0] = v->regions_valid[1] = true;
	return 0;
}

int vhdx_reach_bat(struct img *img, uint64_t bytes, struct img_error *err)
{
	const struct vhdx *v = img->state;
	struct vhdx_region old = v->regions.bat, bat = { .bytes = round_up_u64(bytes, VHDX_MIB) };
	int rc;

	if (bytes <= old.bytes)
		return 0;
	rc = take_zeroes(img, bat.bytes, IMG_PREALLOCATE_OFF, &bat.off, err);
	if (!rc)
		rc = copy_bat(img, bat.off,
			      vhdx_bat_entries(&v->geometry, img->size) * VHDX_BAT_ENTRY_BYTES,
			      err);
	if (!rc)
		rc = write_regions(img, &bat, err);
	if (rc) /* what was taken stays so: it may be what the log leads to */
		return rc;
	img_meta_forget(img, img->file, old.off, old.bytes);
	vhdx_free_space(img, old.off, old.bytes, false);
	return 0;
}

/* Clear the entries of a disk that grows from old bytes to size; nothing counts them yet. */
static int clear_entries(struct img *img, uint64_t old, uint64_t size, struct img_error *err)
{
	const struct vhdx *v = img->state;
	const struct vhdx_geometry *g = &v->geometry;
	uint64_t first = vhdx_payload_entry(g, vhdx_block_count(g, old));
	uint64_t counted = vhdx_bat_entries(g, old), end = vhdx_bat_entries(g, size);
	uint64_t at = vhdx_entry_at(v, min_u64(first, counted));
	int rc = 0;

	/* In a differencing disk the last chunk's sector bitmap entry is in use already. */
	if (vhdx_is_child(v) && first < counted) {
		rc = img_storage_zero(img->file, vhdx_entry_at(v, first),
				      (counted - 1 - first) * VHDX_BAT_ENTRY_BYTES, err);
		first = counted;
	} else {
		first = min_u64(first, counted);
	}
	if (!rc && first < end)
		rc = img_storage_zero(img->file, vhdx_entry_at(v, first),
				      (end - first) * VHDX_BAT_ENTRY_BYTES, err);
	at = align_down_u64(at, IMG_META_SECTOR);
	img_meta_forget(img, img->file, at, vhdx_entry_at(v, end) - at);
	return rc;
}

/* ---- Another size ---- */

int vhdx_extend(struct img *img, uint64_t size, struct img_error *err)
{
	const struct vhdx *v = img->state;
	int rc;

	if (size > VHDX_DISK_BYTES_MAX || !is_aligned_u64(size, v->geometry.sector_bytes))
		return img_fail(err, size > VHDX_DISK_BYTES_MAX ? -EFBIG : -EINVAL,
				"%s: new size is %" PRIu64
				", expected a multiple of the logical sector "
				"size, %" PRIu32 ", up to %" PRIu64,
				img->name, size, v->geometry.sector_bytes, VHDX_DISK_BYTES_MAX);
	rc = vhdx_load_alloc(img, err);
	/* Of a last block that the file's end cuts, the disk may need more now. */
	if (!rc && img->file->size < vhdx_used_end(v) && !img->file->device)
		rc = img_storage_zero(img->file, vhdx_used_end(v), 0, err);
	if (!rc)
		rc = vhdx_reach_bat(img, vhdx_bat_entries(&v->geometry, size) * VHDX_BAT_ENTRY_BYTES,
				    err);
	if (!rc)
		rc = clear_entries(img, img->size, size, err);
	if (!rc)
		rc = vhdx_sync(img, err);
	if (!rc)
		img->size = size;
	return rc;
}

static int write_size(struct img *img, uint64_t size, struct img_error *err)
{
	struct vhdx *v = img->state;
	uint8_t bytes[8];
	int rc;

	le64_store(bytes, size);
	rc = vhdx_write_bytes(img, v->regions.metadata.off + v->items[VHDX_DISK_SIZE].off, bytes,
			      sizeof(bytes), err);
	if (!rc)
		v->geometry.size = size;
	return rc;
}

int vhdx_pass_over(struct vhdx_pass *p, uint64_t first, uint64_t end, bool holes, vhdx_pass_fn *each,
		   struct img_error *err)
{
	struct img *img = p->img;
	const struct vhdx *v = img->state;
	uint8_t *piece = malloc(PIECE_BYTES), *before = malloc(PIECE_BYTES);
	uint64_t n;
	int rc;

	p->freed = calloc(PIECE_ENTRIES, sizeof(*p->freed));
	rc = piece && before && p->freed ? 0 : vhdx_no_memory(img, err);
	for (uint64_t number = first; number < end && !rc; number += n) {
		uint64_t at = vhdx_entry_at(v, number), run, bytes;
		enum img_storage_extent kind;

		rc = img_storage_extent(img->file, at, (end - number) * VHDX_BAT_ENTRY_BYTES, &kind,
					&run);
		n = run / VHDX_BAT_ENTRY_BYTES;
		if (rc || (!holes && n && kind == IMG_STORAGE_HOLE))
			continue;
		n = min_u64(end - number, PIECE_ENTRIES);
		bytes = n * VHDX_BAT_ENTRY_BYTES;
		p->nfreed = 0;
		rc = img_storage_read(img->file, at, piece, bytes, err);
		memcpy(before, piece, bytes);
		for (uint64_t i = 0; i < n && !rc; i++)
			rc = each(p, number + i, piece + i * VHDX_BAT_ENTRY_BYTES, err);
		if (!rc && memcmp(piece, before, bytes) != 0)
			rc = vhdx_write_bytes(img, at, piece, bytes, err);
		for (size_t i = 0; i < p->nfreed && !rc; i++)
			vhdx_free_space(img, vhdx_entry_off(p->freed[i]),
					p->freed[i] & 1 ? VHDX_BITMAP_BYTES
							: v->geometry.block_bytes,
					false);
	}
	free(piece);
	free(before);
	free(p->freed);
	return rc;
}

void vhdx_free_entry(struct vhdx_pass *p, uint64_t number, uint8_t *slot)
{
	const struct vhdx *v = p->img->state;
	uint64_t entry = le64_load(slot);

	if (vhdx_is_allocated(vhdx_entry_state(entry)))
		p->freed[p->nfreed++] = vhdx_entry_off(entry) | vhdx_is_bitmap_entry(v, number);
	le64_store(slot, 0);
}

static int free_entry(struct vhdx_pass *p, uint64_t number, uint8_t *slot, struct img_error *err)
{
	(void)err;
	vhdx_free_entry(p, number, slot);
	return 0;
}

static int fill_entry(struct vhdx_pass *p, uint64_t number, uint8_t *slot, struct img_error *err)
{
	const struct vhdx *v = p->img->state;
	uint64_t off;
	int rc;

	if (vhdx_is_bitmap_entry(v, number) || vhdx_is_allocated(vhdx_entry_state(le64_load(slot))))
		return 0;
	rc = take_zeroes(p->img, v->geometry.block_bytes, p->how, &off, err);
	if (!rc)
		le64_store(slot, vhdx_bat_entry(VHDX_PRESENT, off));
	return rc;
}

int vhdx_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err)
{
	const struct vhdx *v = img->state;
	const struct vhdx_geometry *g = &v->geometry;
	uint64_t old = v->geometry.size, reached = img->size;
	struct vhdx_pass p = { .img = img, .how = how };
	int rc = vhdx_load_alloc(img, err);

	if (rc)
		return rc;
	if (!is_aligned_u64(size, g->sector_bytes))
		return img_fail(err, -EINVAL,
				"%s: new size is %" PRIu64
				", expected a multiple of the logical sector "
				"size, %" PRIu32,
				img->name, size, g->sector_bytes);
	if (size > old && (g->fixed || how != IMG_PREALLOCATE_OFF)) {
		/* Of a block that the old disk's end cuts a parent may show the first part: it stays. */
		uint64_t first = vhdx_is_child(v) ? vhdx_block_count(g, old) : old / g->block_bytes;
		uint64_t last = vhdx_block_count(g, size) - 1;

		rc = vhdx_pass_over(&p, vhdx_payload_entry(g, first),
				    vhdx_payload_entry(g, last) + 1, true, fill_entry, err);
	}
	if (!rc && size != old)
		rc = write_size(img, size, err);
	if (rc)
		return rc;
	img->size = size;
	if (reached > size) {
		uint64_t blocks = vhdx_block_count(g, size);
		uint64_t counted = vhdx_bat_entries(g, size), end = vhdx_bat_entries(g, reached);
		uint64_t first = min_u64(vhdx_payload_entry(g, blocks), counted);

		/* The last chunk's sector bitmap stays. */
		if (vhdx_is_child(v) && first < counted) {
			rc = vhdx_pass_over(&p, first, counted - 1, false, free_entry, err);
			first = counted;
		}
		if (!rc)
			rc = vhdx_pass_over(&p, first, end, false, free_entry, err);
	}
	return rc;
}

int vhdx_make_empty(struct img *img, struct img_error *err)
{
	const struct vhdx *v = img->state;
	struct vhdx_pass p = { .img = img };
	int rc = vhdx_load_alloc(img, err);

	if (rc)
		return rc;
	return vhdx_pass_over(&p, 0, vhdx_bat_entries(&v->geometry, img->size), false, free_entry,
			      err);
}
