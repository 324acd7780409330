/*
 * The parent of a differencing disk: its locator read, and whether an image is the one that it means. A disk
 * is known by its DataWriteGuid, which changes with its content.
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
	const struct vhdx_item_range *p = &v->items[VHDX_PARENT_LOCATOR];
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

int vhdx_keep_parent(struct img *img, const struct vhdx *v, struct img_error *err)
{
	const struct vhdx_locator *l = &v->locator;
	char *paths[VHDX_PARENT_PATHS] = { NULL };
	size_t count;

	img->backing_required = vhdx_is_child(v);
	if (!vhdx_is_child(v))
		return 0;
	img->backing_uuid_count = l->has_linkage2 ? 2 : 1;
	memcpy(img->backing_uuids[0], l->linkage, IMG_GUID_BYTES);
	memcpy(img->backing_uuids[1], l->linkage2, IMG_GUID_BYTES);
	img->backing_format = strdup(img->driver->name);
	img->backing_alternatives = calloc(VHDX_PARENT_PATHS, sizeof(char *));
	count = vhdx_locator_paths(l, paths);
	img->backing_name = paths[0];
	for (size_t i = 1; i < count; i++) {
		if (img->backing_alternatives)
			img->backing_alternatives[img->backing_alternative_count++] = paths[i];
		else
			free(paths[i]);
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
		return img_fail(err, -EUCLEAN, "%s: the parent %s: format is %s, expected %s",
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
		"%s: the parent %s: data write GUID is %s, expected %s: it is not the disk that "
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

int vhdx_next_identity(struct img *img, uint8_t out[IMG_GUID_BYTES], struct img_error *err)
{
	struct vhdx *v = img->state;
	int rc = 0;

	if (v->stamped) {
		memcpy(out, v->header.data_write, IMG_GUID_BYTES);
		return 0;
	}
	if (img_guid_is_zero(v->next_data_write))
		rc = vhdx_new_guid(img, "data write", v->next_data_write, err);
	if (!rc)
		memcpy(out, v->next_data_write, IMG_GUID_BYTES);
	return rc;
}
