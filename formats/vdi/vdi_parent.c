/*
 * Parents. A VDI names its parent by UUID alone, and tells by the parent's modification UUID whether it was
 * changed since.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/vdi/vdi_state.h"
#include "libimg/base/arith.h"

int vdi_identify(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err)
{
	uint8_t bytes[VDI_SECTOR];
	struct vdi_header h;
	int rc = s->size < sizeof(bytes) ? -EMEDIUMTYPE
					 : img_storage_read(s, 0, bytes, sizeof(bytes), err);

	if (!rc)
		rc = vdi_parse_header(bytes, sizeof(bytes), &h, err);
	if (!rc && img_guid_is_zero(h.uuid))
		rc = -ENODATA;
	if (!rc)
		memcpy(out, h.uuid, IMG_GUID_BYTES);
	return rc;
}

int vdi_parent_uuids(const struct img *parent, uint8_t uuid[IMG_GUID_BYTES],
		     uint8_t modification[IMG_GUID_BYTES], struct img_error *err)
{
	memset(modification, 0, IMG_GUID_BYTES);
	if (!parent->driver->identify || parent->driver->identify(parent->file, uuid, NULL))
		return img_fail(err, -ENOTSUP,
				"the parent %s, a %s image, has no UUID, and a VDI names its parent by nothing "
				"else",
				parent->name, parent->driver->name);
	if (parent->driver == &vdi_driver)
		memcpy(modification, ((const struct vdi *)parent->state)->header.modification,
		       IMG_GUID_BYTES);
	return 0;
}

void vdi_keep_parent(struct img *img, const struct vdi_header *h)
{
	img->backing_required = vdi_is_child(h);
	img->backing_uuid_count = !img_guid_is_zero(h->parent);
	memcpy(img->backing_uuids[0], h->parent, IMG_GUID_BYTES);
}

static int fail_parent(const struct img *img, const char *what, const uint8_t found[IMG_GUID_BYTES],
		       const uint8_t expected[IMG_GUID_BYTES], const char *meaning, struct img_error *err)
{
	const struct img *below = img->parent;
	char texts[2][IMG_GUID_CHARS + 1];

	img_guid_print(found, texts[0]);
	img_guid_print(expected, texts[1]);
	return img_fail(err, -EUCLEAN, "%s: the parent %s: %s is %s, expected %s: %s", img->name,
			below->name, what, texts[0], texts[1], meaning);
}

int vdi_parent_opened(struct img *img, struct img_error *err)
{
	const struct vdi_header *h = &((const struct vdi *)img->state)->header;
	uint8_t uuid[IMG_GUID_BYTES], modification[IMG_GUID_BYTES];
	int rc;

	if (img_guid_is_zero(h->parent)) /* the user said which it is */
		return 0;
	rc = vdi_parent_uuids(img->parent, uuid, modification, err);
	if (rc)
		return img_error_prefix(err, -EUCLEAN, "%s", img->name);
	if (!img_guid_equal(uuid, h->parent))
		return fail_parent(img, "UUID", uuid, h->parent,
				   "it is not the disk that this one was made on", err);
	if (img_guid_is_zero(modification) || img_guid_is_zero(h->parent_modification) ||
	    img_guid_equal(modification, h->parent_modification))
		return 0;
	return fail_parent(img, "modification UUID", modification, h->parent_modification,
			   "it was changed since this one was made on it (where that is known to be all right, "
			   "rebase -u repairs the link)",
			   err);
}

int vdi_set_backing(struct img *img, const char *name, const char *format, const struct img *backing,
		    struct img_error *err)
{
	const struct vdi *v = img->state;
	struct vdi_header h = v->header;
	int rc = 0;

	(void)format; /* not stored: whose driver it is was found out */
	if (v->for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	memset(h.parent, 0, IMG_GUID_BYTES);
	memset(h.parent_modification, 0, IMG_GUID_BYTES);
	if (name) {
		rc = vdi_parent_uuids(backing, h.parent, h.parent_modification, err);
		if (rc)
			return img_error_prefix(err, rc, "%s", img->name);
		if (h.version0) /* which has no place for it */
			memset(h.parent_modification, 0, IMG_GUID_BYTES);
		if (h.type != VDI_UNDO)
			h.type = VDI_DIFFERENCING;
	} else if (h.type != VDI_STATIC) {
		h.type = VDI_DYNAMIC;
	}
	rc = vdi_write_header(img, &h, false, err);
	if (!rc)
		vdi_keep_parent(img, &v->header);
	return rc;
}

int vdi_accept_parent(struct img *img, const uint8_t identity[IMG_GUID_BYTES], struct img_error *err)
{
	const struct vdi *v = img->state;
	struct vdi_header h = v->header;

	(void)identity; /* there is a place for one alone: none means any */
	if (img_guid_is_zero(h.parent_modification))
		return 0;
	memset(h.parent_modification, 0, IMG_GUID_BYTES);
	return vdi_write_header(img, &h, false, err);
}

/* ---- Giving up all content ---- */

int vdi_make_empty(struct img *img, struct img_error *err)
{
	struct vdi *v = img->state;
	int rc;

	if (v->for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	rc = vdi_free_entries(img, 0, v->header.blocks, err);
	if (!rc)
		rc = vdi_load_blocks(img, err);
	return rc ? rc : vdi_compact(img, err);
}
