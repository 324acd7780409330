/*
 * Which MiB of the file are used. Nothing on disk tells but the BAT itself, which is read through
 * before the first change: so what a crash left unused is found again, and blocks that overlap are
 * noticed before one is written over the other.
 *
 * Room that was used before has to be cleared before it is used anew, for a new block is not written
 * as a whole; that is blocking work, done for many blocks at a time.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	PIECE_BYTES = 1 << 20,	/* of the BAT, read at a time */
	CLEAR_UNITS_MAX = 4096, /* MiB cleared at a time, */
	DEVICE_UNITS_MAX = 64,	/* ... where zeroes may have to be written, too */
};

struct vhdx_alloc {
	uint8_t *used,
		*clear; /* a bit for each MiB below units; clear: free, and reads as zeroes */
	uint64_t units;
	uint64_t end; /* nothing is used from here on, in MiB, and all of it reads as zeroes */
	/* Fewer MiB in a row than this have not been sought in vain since something was freed. */
	uint64_t no_clear_run, no_free_run;
};

static bool get(const uint8_t *bits, uint64_t unit)
{
	return bits[unit / 8] >> unit % 8 & 1;
}

static void set(uint8_t *bits, uint64_t unit, bool on)
{
	uint8_t bit = (uint8_t)(1u << unit % 8);

	bits[unit / 8] = (uint8_t)(on ? bits[unit / 8] | bit : bits[unit / 8] & ~bit);
}

void vhdx_free_alloc(struct vhdx_alloc *alloc)
{
	if (!alloc)
		return;
	free(alloc->used);
	free(alloc->clear);
	free(alloc);
}

/* Have bits for units [0, units). */
static int reach(struct vhdx_alloc *a, uint64_t units)
{
	size_t old = a->used ? (size_t)(a->units / 8 + 1) : 0, bytes;
	uint8_t *used, *clear;

	if (a->used && units <= a->units)
		return 0;
	units = max_u64(units, a->units + a->units / 4);
	bytes = (size_t)(units / 8 + 1);
	used = realloc(a->used, bytes);
	if (used)
		a->used = used;
	clear = used ? realloc(a->clear, bytes) : NULL;
	if (!clear)
		return -ENOMEM;
	a->clear = clear;
	memset(a->used + old, 0, bytes - old);
	memset(a->clear + old, 0, bytes - old);
	a->units = units;
	return 0;
}

/* ---- Finding out ---- */

/* False: a part of it is used already. */
static bool mark(struct vhdx_alloc *a, uint64_t off, uint64_t bytes)
{
	uint64_t end = div_round_up_u64(off + bytes, VHDX_MIB);

	for (uint64_t unit = off / VHDX_MIB; unit < end; unit++) {
		if (get(a->used, unit))
			return false;
		set(a->used, unit, true);
	}
	return true;
}

static int mark_entry(const struct img *img, struct vhdx_alloc *a, uint64_t number, uint64_t entry,
		      struct img_error *err)
{
	const struct vhdx *v = img->state;
	uint64_t ratio = vhdx_chunk_ratio(&v->geometry), off = vhdx_entry_off(entry);
	bool bitmap = number % (ratio + 1) == ratio;
	uint64_t bytes = bitmap ? VHDX_BITMAP_BYTES : v->geometry.block_bytes;

	if (!vhdx_is_allocated(vhdx_entry_state(entry)))
		return 0;
	if (off >= img->file->size || !range_in(off, bytes, VHDX_FILE_BYTES_MAX))
		return img_fail(err, -EUCLEAN,
				"%s: BAT entry %" PRIu64 ": found a block at %" PRIu64
				", and the file ends "
				"at %" PRIu64 ": it cannot be written to before it was repaired",
				img->name, number, off, (uint64_t)img->file->size);
	if (reach(a, (off + bytes) / VHDX_MIB))
		return vhdx_no_memory(img, err);
	if (!mark(a, off, bytes))
		return img_fail(
			err, -EUCLEAN,
			"%s: BAT entry %" PRIu64 ": found a block at %" PRIu64
			", where another one, or metadata, lies already: it cannot be written to "
			"before it was repaired",
			img->name, number, off);
	a->end = max_u64(a->end, (off + bytes) / VHDX_MIB);
	return 0;
}

/* All blocks of the disk; holes of the BAT are not read. */
static int mark_blocks(struct img *img, struct vhdx_alloc *a, uint8_t *piece, struct img_error *err)
{
	const struct vhdx *v = img->state;
	uint64_t count = vhdx_bat_entries(&v->geometry, v->geometry.size), n;

	for (uint64_t number = 0; number < count; number += n) {
		uint64_t at = vhdx_entry_at(v, number), run;
		enum img_storage_extent kind;
		int rc = 0;

		n = min_u64(count - number, PIECE_BYTES / VHDX_BAT_ENTRY_BYTES);
		rc = img_storage_extent(img->file, at, (count - number) * VHDX_BAT_ENTRY_BYTES,
					&kind, &run);
		if (!rc && kind == IMG_STORAGE_HOLE && run >= VHDX_BAT_ENTRY_BYTES) {
			n = run / VHDX_BAT_ENTRY_BYTES;
			continue;
		}
		rc = img_storage_read(img->file, at, piece, n * VHDX_BAT_ENTRY_BYTES, err);
		for (uint64_t i = 0; i < n && !rc; i++)
			rc = mark_entry(img, a, number + i,
					le64_load(piece + i * VHDX_BAT_ENTRY_BYTES), err);
		if (rc)
			return rc;
	}
	return 0;
}

/* Every region of the table, those that are not known here too. */
static int mark_regions(const struct img *img, struct vhdx_alloc *a, uint8_t *piece,
			struct img_error *err)
{
	const struct vhdx *v = img->state;
	unsigned which = !v->regions_valid[0];
	struct vhdx_region region;
	int rc = img_storage_read(img->file, VHDX_REGION_TABLE_OFF(which), piece,
				  VHDX_REGION_TABLE_BYTES, err);
	bool clear = mark(a, 0, VHDX_MIB) && mark(a, v->header.log_off, v->header.log_bytes);

	for (size_t i = 0; !rc && vhdx_region_of(piece, i, &region); i++) {
		/* One that reaches past the end is a known one's copy at best: open() saw to those. */
		if (range_in(region.off, region.bytes, img->file->size))
			clear &= mark(a, region.off, region.bytes);
	}
	if (!rc && !clear)
		rc = img_fail(err, -EUCLEAN,
			      "%s: region table: found a region where another one, or the "
			      "log, lies already",
			      img->name);
	return rc;
}

int vhdx_load_alloc(struct img *img, struct img_error *err)
{
	struct vhdx *v = img->state;
	uint64_t size = img->file->size;
	/* What is less than a MiB at the end of a device is nobody's. */
	uint64_t units = img->file->device ? size / VHDX_MIB : div_round_up_u64(size, VHDX_MIB);
	struct vhdx_alloc *a;
	uint8_t *piece;
	int rc;

	if (v->alloc)
		return 0;
	a = calloc(1, sizeof(*a));
	piece = malloc(PIECE_BYTES);
	if (!a || !piece || reach(a, units + 1)) {
		rc = vhdx_no_memory(img, err);
	} else {
		a->end = units;
		a->no_clear_run = a->no_free_run = UINT64_MAX;
		rc = mark_regions(img, a, piece, err);
		if (!rc)
			rc = mark_blocks(img, a, piece, err);
	}
	free(piece);
	if (rc)
		vhdx_free_alloc(a);
	else
		v->alloc = a;
	return rc;
}

uint64_t vhdx_used_end(const struct vhdx *v)
{
	const struct vhdx_alloc *a = v->alloc;
	uint64_t end = a->end;

	while (end && !get(a->used, end - 1))
		end--;
	return end * VHDX_MIB;
}

/* ---- Taking and giving ---- */

/* The first of n free MiB in a row; clear: that read as zeroes. False: there are none. */
static bool find_run(const struct vhdx_alloc *a, uint64_t n, bool clear, uint64_t *first)
{
	uint64_t run = 0;

	for (uint64_t unit = 0; unit < a->end; unit++) {
		if (!run && unit % 8 == 0 && a->used[unit / 8] == 0xff) {
			unit += 7;
			continue;
		}
		run = get(a->used, unit) || (clear && !get(a->clear, unit)) ? 0 : run + 1;
		if (run == n) {
			*first = unit + 1 - n;
			return true;
		}
	}
	return false;
}

int vhdx_alloc_space(struct img *img, uint64_t bytes, uint64_t *off, bool *fresh,
		     struct img_error *err)
{
	struct vhdx_alloc *a = ((struct vhdx *)img->state)->alloc;
	const struct img_storage *s = img->file;
	uint64_t n = bytes / VHDX_MIB, first = a->end;
	bool cleared = n < a->no_clear_run && find_run(a, n, true, &first);

	if (!cleared && n < a->no_clear_run)
		a->no_clear_run = n;
	if (n >= a->no_clear_run) {
		uint64_t found, limit;

		if (n < a->no_free_run) {
			if (find_run(a, n, false, &found))
				return IMG_NEED_EXCLUSIVE;
			a->no_free_run = n;
		}
		first = a->end;
		limit = s->device ? s->size : VHDX_FILE_BYTES_MAX;
		if (!range_in(first * VHDX_MIB, bytes, limit))
			return img_fail(err, s->device ? -ENOSPC : -EFBIG,
					"%s: no space for another %" PRIu64
					" bytes, expected at most %" PRIu64 " in all",
					img->name, bytes, limit);
		if (reach(a, first + n))
			return vhdx_no_memory(img, err);
		a->end = first + n;
	}
	for (uint64_t unit = first; unit < first + n; unit++) {
		set(a->used, unit, true);
		set(a->clear, unit, false);
	}
	*off = first * VHDX_MIB;
	*fresh = cleared || s->limits.zero_fill;
	return 0;
}

void vhdx_free_space(struct img *img, uint64_t off, uint64_t bytes, bool clear)
{
	struct vhdx_alloc *a = ((struct vhdx *)img->state)->alloc;

	for (uint64_t unit = off / VHDX_MIB; unit < (off + bytes) / VHDX_MIB; unit++) {
		set(a->used, unit, false);
		set(a->clear, unit, clear);
	}
	a->no_free_run = UINT64_MAX;
	if (clear)
		a->no_clear_run = UINT64_MAX;
}

static int clear_run(struct img *img, uint64_t first, uint64_t n, struct img_error *err)
{
	struct vhdx_alloc *a = ((struct vhdx *)img->state)->alloc;
	uint64_t off = first * VHDX_MIB, bytes = n * VHDX_MIB;
	int rc = img_storage_punch(img->file, off, bytes, NULL);

	if (rc)
		rc = img_storage_zero(img->file, off, bytes, err);
	img_meta_forget(img, img->file, off, bytes);
	for (uint64_t unit = first; unit < first + n && !rc; unit++)
		set(a->clear, unit, true);
	a->no_clear_run = UINT64_MAX;
	return rc;
}

int vhdx_clear_free_space(struct img *img, uint64_t bytes, struct img_error *err)
{
	const struct vhdx_alloc *a = ((const struct vhdx *)img->state)->alloc;
	uint64_t n = bytes / VHDX_MIB, first;
	uint64_t most = img->file->device ? DEVICE_UNITS_MAX : CLEAR_UNITS_MAX;

	if (find_run(a, n, true, &first) || !find_run(a, n, false, &first))
		return 0;
	while (n < most && first + n < a->end && !get(a->used, first + n))
		n++;
	return clear_run(img, first, n, err);
}
