/*
 * Another parent, a first one, or none any more. What the metadata says of it (a flag of the file parameters, the
 * parent locator, the table's entry for that) changes by one entry of the log.
 *
 * A disk that gets its first parent shows it where a block is not present; blocks of zeroes stay zeroes. One that loses
 * its parent has zeroes where that showed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* ---- Metadata, by one entry ---- */

/* Sectors that change. */
struct edits {
	struct img *img;
	uint8_t *bytes;
	struct vhdx_change *changes;
	size_t count, max;
};

static int begin_edits(struct edits *e, struct img *img, size_t max, struct img_error *err)
{
	*e = (struct edits){
		.img = img,
		.bytes = malloc(max * IMG_META_SECTOR),
		.changes = calloc(max, sizeof(*e->changes)),
		.max = max,
	};
	return e->bytes && e->changes ? 0 : vhdx_no_memory(img, err);
}

static void end_edits(struct edits *e)
{
	free(e->bytes);
	free(e->changes);
}

/* The sector at off, as it will be; NULL: said why not. */
static uint8_t *sector_at(struct edits *e, uint64_t off, struct img_error *err)
{
	uint8_t *bytes = e->bytes + e->count * IMG_META_SECTOR;

	for (size_t i = 0; i < e->count; i++)
		if (e->changes[i].off == off)
			return e->bytes + i * IMG_META_SECTOR;
	if (e->count == e->max) {
		img_fail(err, -ENOSPC, "%s: metadata: more than %zu sectors change at once",
			 e->img->name, e->max);
		return NULL;
	}
	if (img_storage_read(e->img->file, off, bytes, IMG_META_SECTOR, err))
		return NULL;
	e->changes[e->count++] = (struct vhdx_change){ off, bytes, IMG_META_SECTOR };
	return bytes;
}

static int edit(struct edits *e, uint64_t off, const uint8_t *bytes, size_t len,
		struct img_error *err)
{
	while (len) {
		uint64_t sector = align_down_u64(off, IMG_META_SECTOR), within = off - sector;
		size_t n = (size_t)min_u64(len, IMG_META_SECTOR - within);
		uint8_t *to = sector_at(e, sector, err);

		if (!to)
			return -EIO;
		memcpy(to + within, bytes, n);
		off += n;
		bytes += n;
		len -= n;
	}
	return 0;
}

/* The table's entry for the parent locator; a range of no bytes: none. */
static int edit_table(struct edits *e, uint8_t *table, const struct vhdx_item_range *range,
		      struct img_error *err)
{
	const struct vhdx *v = e->img->state;
	uint8_t *old = malloc(VHDX_METADATA_TABLE_BYTES);
	int rc = old ? 0 : vhdx_no_memory(e->img, err);

	if (!rc)
		memcpy(old, table, VHDX_METADATA_TABLE_BYTES);
	if (!rc && !vhdx_set_item(table, VHDX_PARENT_LOCATOR, range))
		rc = img_fail(err, -ENOSPC, "%s: metadata table: full, expected space for another entry",
			      e->img->name);
	for (size_t at = 0; at < VHDX_METADATA_TABLE_BYTES && !rc; at += IMG_META_SECTOR)
		if (memcmp(table + at, old + at, IMG_META_SECTOR) != 0)
			rc = edit(e, v->regions.metadata.off + at, table + at, IMG_META_SECTOR,
				  err);
	free(old);
	return rc;
}

/* Where in the metadata region a locator of so many bytes can be, clear of all other items. */
static int find_space(const struct img *img, const uint8_t *table, size_t bytes, uint32_t *off,
		      struct img_error *err)
{
	const struct vhdx *v = img->state;
	const struct vhdx_item_range *old = &v->items[VHDX_PARENT_LOCATOR];
	uint64_t end = VHDX_METADATA_TABLE_BYTES;

	for (uint32_t i = 1; i <= le16_load(table + 10); i++) {
		const uint8_t *entry = table + (size_t)i * VHDX_METADATA_ENTRY_BYTES;
		uint64_t item_off = le32_load(entry + 16),
			 item_end = item_off + le32_load(entry + 20);

		if (item_off != old->off && item_end <= v->regions.metadata.bytes)
			end = max_u64(end, item_end);
	}
	end = round_up_u64(end, 8);
	if (bytes > VHDX_ITEM_BYTES_MAX || !range_in(end, bytes, v->regions.metadata.bytes))
		return img_fail(
			err, -ENOSPC,
			"%s: the metadata region has no space for a parent locator of %zu bytes",
			img->name, bytes);
	*off = (uint32_t)end;
	return 0;
}

/* The disk has the parent that bytes, a locator, name; NULL: none. */
static int write_parent(struct img *img, const uint8_t *bytes, size_t len, struct img_error *err)
{
	struct vhdx *v = img->state;
	struct vhdx_item_range range = { .bytes = (uint32_t)len };
	struct vhdx_geometry g = v->geometry;
	uint64_t region = v->regions.metadata.off;
	uint8_t *table = malloc(VHDX_METADATA_TABLE_BYTES), parameters[8];
	struct edits e;
	int rc = begin_edits(&e, img, (size_t)(vhdx_log_capacity(v) / VHDX_LOG_SECTOR), err);

	if (!rc && !table)
		rc = vhdx_no_memory(img, err);
	if (!rc)
		rc = img_storage_read(img->file, region, table, VHDX_METADATA_TABLE_BYTES, err);
	if (!rc && bytes)
		rc = find_space(img, table, len, &range.off, err);
	if (!rc)
		rc = edit_table(&e, table, &range, err);
	if (!rc && bytes)
		rc = edit(&e, region + range.off, bytes, len, err);
	g.has_parent = bytes;
	vhdx_encode_item(&g, VHDX_FILE_PARAMETERS, parameters);
	if (!rc && g.has_parent != v->geometry.has_parent)
		rc = edit(&e, region + v->items[VHDX_FILE_PARAMETERS].off, parameters,
			  sizeof(parameters), err);
	if (!rc && e.count)
		rc = vhdx_write_logged(img, e.changes, e.count, err);
	if (!rc) {
		v->items[VHDX_PARENT_LOCATOR] = range;
		v->geometry.has_parent = g.has_parent;
	}
	end_edits(&e);
	free(table);
	return rc;
}

/* Owns l. */
static int store_locator(struct img *img, struct vhdx_locator *l, struct img_error *err)
{
	struct vhdx *v = img->state;
	uint8_t *bytes;
	size_t len;
	int rc = vhdx_encode_locator(l, &bytes, &len, err);

	if (!rc) {
		rc = write_parent(img, bytes, len, err);
		free(bytes);
	}
	if (rc) {
		vhdx_locator_clear(l);
		return rc;
	}
	vhdx_locator_clear(&v->locator);
	v->locator = *l;
	img_forget_backing(img);
	return vhdx_keep_parent(img, v, err);
}

/* ---- From a disk of its own to a differencing one, and back ---- */

/* The state that blocks of zeroes have in a differencing disk that QEMU made. */
static int leave_zero(struct vhdx_pass *p, uint64_t number, uint8_t *slot, struct img_error *err)
{
	(void)err;
	if (!vhdx_is_bitmap_entry(p->img->state, number) &&
	    vhdx_entry_state(le64_load(slot)) == VHDX_ZERO)
		le64_store(slot, vhdx_bat_entry(VHDX_UNMAPPED, 0));
	return 0;
}

/* Nothing that is read changes by that. */
static int prepare_child(struct img *img, struct img_error *err)
{
	struct vhdx *v = img->state;
	struct vhdx_pass p = { .img = img };
	uint64_t counted = vhdx_bat_entries(&v->geometry, v->geometry.size), end;
	int rc = 0;

	if (v->by_qemu)
		rc = vhdx_pass_over(&p, 0, counted, false, leave_zero, err);
	v->geometry.has_parent = true;
	end = vhdx_bat_entries(&v->geometry, v->geometry.size);
	v->geometry.has_parent = false;
	if (!rc)
		rc = vhdx_reach_bat(img, end * VHDX_BAT_ENTRY_BYTES, err);
	if (rc || end == counted)
		return rc;
	rc = img_storage_zero(img->file, vhdx_entry_at(v, counted),
			      (end - counted) * VHDX_BAT_ENTRY_BYTES, err);
	img_meta_forget(img, img->file, align_down_u64(vhdx_entry_at(v, counted), IMG_META_SECTOR),
			round_up_u64((end - counted) * VHDX_BAT_ENTRY_BYTES, IMG_META_SECTOR) +
				IMG_META_SECTOR);
	return rc ? rc : vhdx_sync(img, err);
}

/* Zeroes where the bits of a partially present block say that the parent shows. */
static int clear_hidden(struct img *img, uint64_t number, uint64_t block_off, struct img_error *err)
{
	const struct vhdx *v = img->state;
	uint64_t ratio = vhdx_chunk_ratio(&v->geometry), sector = v->geometry.sector_bytes;
	uint64_t sectors = v->geometry.block_bytes / sector, in_chunk = number % (ratio + 1), run;
	uint8_t slot[VHDX_BAT_ENTRY_BYTES], *bits = malloc((size_t)(sectors / 8));
	int rc = bits ? 0 : vhdx_no_memory(img, err);

	if (!rc)
		rc = img_storage_read(img->file, vhdx_entry_at(v, number - in_chunk + ratio), slot,
				      sizeof(slot), err);
	if (!rc && vhdx_entry_state(le64_load(slot)) != VHDX_PRESENT)
		rc = img_fail(err, -EUCLEAN,
			      "%s: BAT entry %" PRIu64
			      ": a partially present block without sector bitmap block",
			      img->name, number);
	if (!rc)
		rc = img_storage_read(img->file,
				      vhdx_entry_off(le64_load(slot)) + in_chunk * (sectors / 8),
				      bits, (size_t)(sectors / 8), err);
	for (uint64_t at = 0; at < sectors && !rc; at += run) {
		bool set = bits[at / 8] >> at % 8 & 1;

		for (run = 1;
		     at + run < sectors && (bits[(at + run) / 8] >> (at + run) % 8 & 1) == set;)
			run++;
		if (!set)
			rc = img_storage_zero(img->file, block_off + at * sector, run * sector,
					      err);
	}
	free(bits);
	return rc;
}

static int make_whole(struct vhdx_pass *p, uint64_t number, uint8_t *slot, struct img_error *err)
{
	uint64_t entry = le64_load(slot);
	int rc;

	if (vhdx_is_bitmap_entry(p->img->state, number)) {
		vhdx_free_entry(p, number, slot);
		return 0;
	}
	if (vhdx_entry_state(entry) != VHDX_PARTIAL)
		return 0;
	rc = clear_hidden(p->img, number, vhdx_entry_off(entry), err);
	if (!rc)
		le64_store(slot, vhdx_bat_entry(VHDX_PRESENT, vhdx_entry_off(entry)));
	return rc;
}

/* All that only a differencing disk can have is no more. */
static int prepare_plain(struct img *img, struct img_error *err)
{
	const struct vhdx *v = img->state;
	struct vhdx_pass p = { .img = img };

	return vhdx_pass_over(&p, 0, vhdx_bat_entries(&v->geometry, v->geometry.size), false,
			      make_whole, err);
}

static int lose_parent(struct img *img, struct img_error *err)
{
	struct vhdx *v = img->state;
	int rc = prepare_plain(img, err);

	if (!rc)
		rc = write_parent(img, NULL, 0, err);
	if (rc)
		return rc;
	v->zero_is_parent = false;
	img->grain_bytes = 0;
	vhdx_locator_clear(&v->locator);
	img_forget_backing(img);
	return 0;
}

/* ---- The driver's entries ---- */

static int check_backing(const struct img *img, const char *format, const struct img *backing,
			 struct img_error *err)
{
	const struct vhdx *v = img->state, *parent = backing->state;

	if ((format && strcmp(format, img->driver->name) != 0) || backing->driver != img->driver)
		return img_fail(err, -EINVAL, "%s: the parent %s: found format %s, expected %s",
				img->name, backing->name, backing->driver->name, img->driver->name);
	if (v->geometry.fixed)
		return img_fail(err, -ENOTSUP,
				"%s: a fixed VHDX holds all of its disk: it cannot have a parent",
				img->name);
	if (parent->geometry.sector_bytes != v->geometry.sector_bytes)
		return img_fail(err, -EINVAL,
				"%s: the parent %s: logical sector size is %" PRIu32
				", expected %" PRIu32,
				img->name, backing->name, parent->geometry.sector_bytes,
				v->geometry.sector_bytes);
	return 0;
}

int vhdx_set_backing(struct img *img, const char *name, const char *format,
		     const struct img *backing, struct img_error *err)
{
	struct vhdx *v = img->state;
	struct vhdx_locator next;
	int rc = v->for_check
			 ? img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name)
			 : 0;

	if (!rc && name)
		rc = check_backing(img, format, backing, err);
	if (!rc)
		rc = vhdx_load_alloc(img, err);
	if (rc)
		return rc;
	if (!name)
		return vhdx_is_child(v) ? lose_parent(img, err) : 0;
	rc = vhdx_locator_of(((const struct vhdx *)backing->state)->header.data_write, name, &next,
			     err);
	if (rc)
		return img_error_prefix(err, rc, "%s", img->name);
	if (!vhdx_is_child(v)) {
		rc = prepare_child(img, err);
		if (rc) {
			vhdx_locator_clear(&next);
			return rc;
		}
	}
	rc = store_locator(img, &next, err);
	if (vhdx_is_child(v)) {
		img->grain_bytes = v->geometry.sector_bytes;
		v->zero_is_parent = v->by_qemu;
	}
	return rc;
}

static char *copy_text(const char *text, int *rc)
{
	char *copy = text ? strdup(text) : NULL;

	if (text && !copy)
		*rc = -ENOMEM;
	return copy;
}

/* Both are named while disks are merged: parent_linkage what the parent is, parent_linkage2 what it will be. */
int vhdx_accept_parent(struct img *img, const uint8_t identity[IMG_GUID_BYTES],
		       struct img_error *err)
{
	const struct vhdx *v = img->state, *parent = img->parent->state;
	struct vhdx_locator next = { .has_linkage2 = true };
	int rc = 0;

	if (!identity || !vhdx_is_child(v) || img->parent->driver != img->driver)
		return 0;
	memcpy(next.linkage, parent->header.data_write, IMG_GUID_BYTES);
	memcpy(next.linkage2, identity, IMG_GUID_BYTES);
	next.relative = copy_text(v->locator.relative, &rc);
	next.volume = copy_text(v->locator.volume, &rc);
	next.absolute = copy_text(v->locator.absolute, &rc);
	if (rc) {
		vhdx_locator_clear(&next);
		return vhdx_no_memory(img, err);
	}
	return store_locator(img, &next, err);
}
