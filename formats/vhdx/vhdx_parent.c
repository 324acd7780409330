/*
 * The parent of a differencing disk: its locator read and replaced, and whether an image is the one that it
 * means. A disk is known by its DataWriteGuid, which changes with its content.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

int vhdx_read_locator(struct vhdx *v, struct img_error *err)
{
	const struct vhdx_item_place *p = &v->items[VHDX_PARENT_LOCATOR];
	uint8_t *bytes;
	int rc;

	if (!v->geometry.has_parent)
		return 0;
	if (!p->bytes)
		return img_fail(
			err, -EUCLEAN,
			"metadata: the disk has a parent, but no parent locator that names it");
	bytes = malloc(p->bytes);
	if (!bytes)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_storage_read(v->storage, v->regions.metadata.off + p->off, bytes, p->bytes, err);
	if (!rc)
		rc = vhdx_parse_locator(bytes, p->bytes, &v->locator, err);
	free(bytes);
	return rc ? img_error_prefix(err, rc, "parent locator at %" PRIu64,
				     v->regions.metadata.off + p->off)
		  : 0;
}

void vhdx_forget_parent(struct img *img)
{
	free(img->backing_name);
	free(img->backing_format);
	for (size_t i = 0; i < img->backing_alternative_count; i++)
		free(img->backing_alternatives[i]);
	free(img->backing_alternatives);
	img->backing_name = img->backing_format = NULL;
	img->backing_alternatives = NULL;
	img->backing_alternative_count = 0;
	img->backing_uuid_count = 0;
}

int vhdx_keep_parent(struct img *img, const struct vhdx *v, struct img_error *err)
{
	const struct vhdx_locator *l = &v->locator;
	char *places[VHDX_PLACES] = { NULL };
	size_t count;

	img->backing_required = vhdx_is_child(v);
	if (!vhdx_is_child(v))
		return 0;
	img->backing_uuid_count = l->has_linkage2 ? 2 : 1;
	memcpy(img->backing_uuids[0], l->linkage, IMG_GUID_BYTES);
	memcpy(img->backing_uuids[1], l->linkage2, IMG_GUID_BYTES);
	img->backing_format = strdup(img->driver->name);
	img->backing_alternatives = calloc(VHDX_PLACES, sizeof(char *));
	count = vhdx_locator_places(l, places);
	img->backing_name = places[0];
	for (size_t i = 1; i < count; i++) {
		if (img->backing_alternatives)
			img->backing_alternatives[img->backing_alternative_count++] = places[i];
		else
			free(places[i]);
	}
	return img->backing_format && img->backing_alternatives && count ? 0
									 : vhdx_no_memory(img, err);
}

int vhdx_parent_opened(struct img *img, struct img_error *err)
{
	const struct vhdx *v = img->state, *parent;
	const struct img *below = img->parent;
	char found[IMG_GUID_CHARS + 1], allowed[IMG_GUID_CHARS + 1];

	if (below->driver != img->driver)
		return img_fail(err, -EUCLEAN, "%s: the parent %s: found format %s, allowed %s",
				img->name, below->name, below->driver->name, img->driver->name);
	parent = below->state;
	if (img_guid_equal(parent->header.data_write, v->locator.linkage) ||
	    (v->locator.has_linkage2 &&
	     img_guid_equal(parent->header.data_write, v->locator.linkage2)))
		return 0;
	img_guid_print(parent->header.data_write, found);
	img_guid_print(v->locator.linkage, allowed);
	return img_fail(
		err, -EUCLEAN,
		"%s: the parent %s: found data write GUID %s, allowed %s: it is not the disk that "
		"this one was made on, or it was changed since",
		img->name, below->name, found, allowed);
}

int vhdx_identify(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err)
{
	uint8_t head[VHDX_SIGNATURE_BYTES];
	struct vhdx_header h;
	int rc = img_storage_read(s, 0, head, sizeof(head), err);

	if (!rc && !vhdx_is_vhdx(head, sizeof(head)))
		rc = -EMEDIUMTYPE;
	if (!rc)
		rc = vhdx_current_header(s, &h, err);
	if (!rc)
		memcpy(out, h.data_write, IMG_GUID_BYTES);
	return rc;
}

/* ---- Another parent ---- */

/* Where in the metadata region a locator of so many bytes can be, clear of all other items. */
static int find_place(const struct img *img, const uint8_t *table, size_t bytes, uint32_t *off,
		      struct img_error *err)
{
	const struct vhdx *v = img->state;
	const struct vhdx_item_place *old = &v->items[VHDX_PARENT_LOCATOR];
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
			"%s: the metadata region has no room for a parent locator of %zu bytes",
			img->name, bytes);
	*off = (uint32_t)end;
	return 0;
}

/* Write the locator and what the table says of it, by one entry of the log. */
static int write_locator(struct img *img, const uint8_t *bytes, size_t len, struct img_error *err)
{
	struct vhdx *v = img->state;
	struct vhdx_item_place *old = &v->items[VHDX_PARENT_LOCATOR], place = { 0 };
	uint64_t region = v->regions.metadata.off, from, to;
	uint8_t *table = malloc(VHDX_METADATA_TABLE_BYTES), *piece = NULL;
	struct vhdx_change changes[2];
	int rc = table ? 0 : vhdx_no_memory(img, err);

	if (!rc)
		rc = img_storage_read(img->file, region, table, VHDX_METADATA_TABLE_BYTES, err);
	if (!rc)
		rc = find_place(img, table, len, &place.off, err);
	if (rc)
		goto out;
	place.bytes = (uint32_t)len;
	from = align_down_u64(region + place.off, IMG_META_SECTOR);
	to = round_up_u64(region + place.off + len, IMG_META_SECTOR);
	piece = malloc(to - from);
	if (!piece) {
		rc = vhdx_no_memory(img, err);
		goto out;
	}
	rc = img_storage_read(img->file, from, piece, to - from, err);
	if (rc)
		goto out;
	memcpy(piece + (region + place.off - from), bytes, len);
	changes[1] = (struct vhdx_change){ from, piece, to - from };
	for (uint32_t i = 1; i <= le16_load(table + 10); i++) {
		uint8_t *entry = table + (size_t)i * VHDX_METADATA_ENTRY_BYTES;
		uint64_t sector = align_down_u64((uint64_t)(entry - table), IMG_META_SECTOR);

		if (le32_load(entry + 16) != old->off)
			continue;
		le32_store(entry + 16, place.off);
		le32_store(entry + 20, place.bytes);
		changes[0] = (struct vhdx_change){ region + sector, table + sector,
						   IMG_META_SECTOR };
	}
	rc = vhdx_write_logged(img, changes, 2, err);
	if (!rc)
		*old = place;
out:
	free(piece);
	free(table);
	return rc;
}

int vhdx_set_backing(struct img *img, const char *name, const char *format,
		     const struct img *backing, struct img_error *err)
{
	struct vhdx *v = img->state;
	const struct vhdx *parent;
	struct vhdx_locator next;
	uint8_t *bytes;
	size_t len;
	int rc;

	if (!vhdx_is_child(v) || !name)
		return img_fail(
			err, -ENOTSUP,
			"%s: a VHDX %s: only a differencing disk can be given another parent",
			img->name,
			name ? "without a parent cannot get one" : "cannot lose its parent");
	if ((format && strcmp(format, img->driver->name) != 0) || backing->driver != img->driver)
		return img_fail(err, -EINVAL, "%s: the parent %s: found format %s, allowed %s",
				img->name, backing->name, backing->driver->name, img->driver->name);
	parent = backing->state;
	if (parent->geometry.sector_bytes != v->geometry.sector_bytes)
		return img_fail(err, -EINVAL,
				"%s: the parent %s: found logical sectors of %" PRIu32
				" bytes, allowed %" PRIu32,
				img->name, backing->name, parent->geometry.sector_bytes,
				v->geometry.sector_bytes);
	rc = vhdx_encode_locator(parent->header.data_write, name, &bytes, &len, err);
	if (rc)
		return img_error_prefix(err, rc, "%s", img->name);
	rc = vhdx_parse_locator(bytes, len, &next, err);
	if (!rc) {
		rc = write_locator(img, bytes, len, err);
		if (rc)
			vhdx_locator_clear(&next);
	}
	free(bytes);
	if (rc)
		return rc;
	vhdx_locator_clear(&v->locator);
	v->locator = next;
	vhdx_forget_parent(img);
	return vhdx_keep_parent(img, v, err);
}
