/*
 * A child and its parent: which disk a file is, and whether an open one is the one that a child was made on.
 * VMware and QEMU go by content ID and name, VirtualBox by UUIDs. spec/vmdk.md, "Parents".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* ---- Which disk is it? ---- */

/* Where a file has its descriptor. -EMEDIUMTYPE; -ENODATA: it has none. */
static int find_text(struct img_storage *s, uint64_t *off, uint64_t *len, struct img_error *err)
{
	uint8_t head[VMDK_HEADER_BYTES_MAX];
	size_t n = (size_t)min_u64(s->size, sizeof(head));
	struct vmdk_sparse sparse;
	int rc = img_storage_read(s, 0, head, n, err);

	if (rc)
		return rc;
	*off = 0;
	*len = s->size;
	if (vmdk_is_descriptor((const char *)head, n))
		return 0;
	if (vmdk_sparse_kind(head, n) == VMDK_NOT_SPARSE)
		return img_fail(err, -EMEDIUMTYPE, "%s: not a VMDK image", s->name);
	rc = vmdk_parse_sparse(head, n, s->size, &sparse, err);
	if (rc)
		return img_error_prefix(err, rc, "%s", s->name);
	*off = sparse.descriptor_off;
	*len = sparse.descriptor_off ? sparse.descriptor_bytes : 0;
	if (!*len)
		return img_fail(err, -ENODATA, "%s: it has no descriptor", s->name);
	if (!range_in(*off, 1, s->size))
		return img_fail(err, -EUCLEAN,
				"%s: descriptor: offset is %" PRIu64 ", expected inside the "
				"file's %" PRIu64 " bytes",
				s->name, *off, (uint64_t)s->size);
	*len = min_u64(*len, s->size - *off);
	return 0;
}

int vmdk_identify(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err)
{
	const uint64_t most = IMG_IDENTIFY_BYTES_MAX - VMDK_HEADER_BYTES_MAX;
	struct vmdk_descriptor d;
	uint64_t off, len;
	char *text;
	int rc = find_text(s, &off, &len, err);

	if (rc)
		return rc;
	len = min_u64(len, most);
	text = malloc((size_t)len);
	if (!text)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_storage_read(s, off, text, (size_t)len, err);
	if (!rc)
		rc = vmdk_parse_descriptor(text, (size_t)len, &d, err);
	if (!rc && (!d.uuid_image.at || !img_guid_parse(d.uuid_image.at, d.uuid_image.len, out)))
		rc = img_fail(err, -ENODATA, "%s: descriptor: no ddb.uuid.image in %" PRIu64 " "
					     "bytes",
			      s->name, len);
	free(text);
	return rc;
}

/* ---- Is it the one? ---- */

/* VirtualBox makes children on disks of other formats, too: there are only UUIDs to go by. */
static int check_other_format(const struct img *img, struct img_error *err)
{
	const struct vmdk *vmdk = img->state;
	const struct img *parent = img->parent;
	uint8_t uuid[IMG_GUID_BYTES];

	if (vmdk->parent_cid == VMDK_NO_PARENT && img->backing_uuid_count &&
	    parent->driver->identify && !parent->driver->identify(parent->file, uuid, NULL) &&
	    img_guid_equal(uuid, img->backing_uuids[0]))
		return 0;
	return img_fail(err, -EUCLEAN, "%s: the parent %s: format is %s, expected vmdk",
			img->name, parent->name, parent->driver->name);
}

/* Has the parent been changed by who told this disk before what its content is known by then? */
static bool is_told(const struct vmdk *vmdk, const struct vmdk *parent)
{
	const char *next = vmdk->uuid_parent_next;
	char text[IMG_GUID_CHARS + 1];
	uint8_t uuid[IMG_GUID_BYTES];

	if (!next || !img_guid_parse(next, strlen(next), uuid))
		return false;
	img_guid_print(uuid, text); /* without braces */
	return parent->cid == vmdk_stamp_cid(text);
}

/* Where there is no parentCID to tell: has the parent's content changed? */
static int check_modification(const struct img *img, struct img_error *err)
{
	const struct vmdk *vmdk = img->state, *parent = img->parent->state;

	if (!vmdk->uuid_parent_modification || !parent->uuid_modification ||
	    !strcasecmp(vmdk->uuid_parent_modification, parent->uuid_modification) ||
	    (vmdk->uuid_parent_next &&
	     !strcasecmp(vmdk->uuid_parent_next, parent->uuid_modification)))
		return 0;
	return img_fail(err, -EUCLEAN,
			"%s: the parent %s: modification UUID is %s, expected %s: it was changed "
			"since this disk was created on it (where that is known to be all right, rebase -u "
			"repairs the link)",
			img->name, img->parent->name, parent->uuid_modification,
			vmdk->uuid_parent_modification);
}

int vmdk_parent_opened(struct img *img, struct img_error *err)
{
	const struct vmdk *vmdk = img->state;
	const struct vmdk *parent;
	bool same_uuid;

	if (vmdk->alone) /* the user says that this is its parent; nothing in it tells */
		return 0;
	if (img->parent->driver != img->driver)
		return check_other_format(img, err);
	parent = img->parent->state;
	same_uuid = vmdk->uuid_parent && parent->uuid_image &&
		    !strcasecmp(vmdk->uuid_parent, parent->uuid_image);
	if (vmdk->uuid_parent && parent->uuid_image && !same_uuid)
		return img_fail(err, -EUCLEAN,
				"%s: the parent %s: UUID is %s, expected %s: it is not the disk "
				"that this one was created on",
				img->name, img->parent->name, parent->uuid_image,
				vmdk->uuid_parent);
	if (vmdk->parent_cid == VMDK_NO_PARENT && same_uuid)
		return check_modification(img, err);
	if (parent->cid != vmdk->parent_cid && !is_told(vmdk, parent))
		return img_fail(err, -EUCLEAN,
				"%s: the parent %s: CID is %08" PRIx32 ", expected %08" PRIx32 ": "
				"it was changed since this disk was created on it (where that is known to be "
				"all right, rebase -u repairs the link)",
				img->name, img->parent->name, parent->cid, vmdk->parent_cid);
	return 0;
}

/* ---- Another parent ---- */

static int check_new_parent(const struct img *img, const char *name, const char *format,
			    const struct img *backing, struct img_error *err)
{
	const struct vmdk *vmdk = img->state;
	int rc = 0;

	if (vmdk->for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	if (!vmdk->text_bytes)
		return img_fail(err, -ENOTSUP,
				"%s: it is an extent without a descriptor, which would name its parent",
				img->name);
	rc = vmdk_check_own_text(img, err);
	if (rc)
		return rc;
	if (!name)
		return 0;
	for (size_t i = 0; i < vmdk->extent_count && !rc; i++)
		if (vmdk->extents[i].kind != VMDK_EXTENT_SPARSE)
			rc = img_fail(err, -ENOTSUP,
				      "%s: extent %zu is flat and hides all of a parent: it cannot have one",
				      img->name, i + 1);
	if (rc)
		return rc;
	if ((format && strcmp(format, img->driver->name) != 0) || backing->driver != img->driver)
		return img_fail(err, -EINVAL, "%s: the parent %s: format is %s, expected vmdk",
				img->name, backing->name, backing->driver->name);
	if (!((const struct vmdk *)backing->state)->has_cid)
		return img_fail(err, -ENOTSUP,
				"%s: the parent %s has no content ID (CID=...) in its descriptor, by which "
				"it would be noticed that it was changed",
				img->name, backing->name);
	return vmdk_check_text("the parent's name", name, err);
}

/* What img says of its parent becomes what the file says now. */
static int know_parent(struct img *img, const char *text, size_t len, struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	struct vmdk_descriptor d;
	int rc = vmdk_parse_descriptor(text, len, &d, err);

	if (rc)
		return rc;
	free(img->backing_name);
	free(img->backing_format);
	free(vmdk->uuid_parent);
	free(vmdk->uuid_parent_modification);
	free(vmdk->uuid_parent_next);
	img->backing_name = img->backing_format = NULL;
	vmdk->uuid_parent = vmdk->uuid_parent_modification = vmdk->uuid_parent_next = NULL;
	vmdk->parent_cid = d.parent_cid;
	vmdk->text_bytes = len;
	return vmdk_keep_parent(img, vmdk, &d, err);
}

int vmdk_accept_parent(struct img *img, const uint8_t identity[IMG_GUID_BYTES], struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	size_t len = (size_t)vmdk->text_bytes, next_len = 0;
	char *text, *next = NULL, *uuid;
	int rc = identity ? vmdk_check_own_text(img, err) : 0;

	if (rc || !identity)
		return rc;
	text = malloc(len + 1);
	uuid = malloc(IMG_GUID_CHARS + 1);
	if (!text || !uuid) {
		rc = img_fail(err, -ENOMEM, "out of memory");
		goto out;
	}
	img_guid_print(identity, uuid);
	rc = img_storage_read(img->file, vmdk->text_off, text, len, err);
	if (!rc)
		next = vmdk_add_next_parent(text, len, uuid, &next_len);
	if (!rc && !next)
		rc = img_fail(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = vmdk_store_text(img, next, next_len, 0, err);
	if (!rc) {
		vmdk->text_bytes = next_len;
		free(vmdk->uuid_parent_next);
		vmdk->uuid_parent_next = uuid;
		uuid = NULL;
	} else if (rc == -ENOSPC && next_len) { /* only a power cut in a moment that is short would tell */
		img_error_clear(err);
		rc = 0;
	}
out:
	free(uuid);
	free(next);
	free(text);
	return rc;
}

int vmdk_set_backing(struct img *img, const char *name, const char *format,
		     const struct img *backing, struct img_error *err)
{
	const struct vmdk *vmdk = img->state, *parent = name ? backing->state : NULL;
	struct vmdk_new_parent to = { .cid = VMDK_NO_PARENT, .hint = name };
	size_t len = (size_t)vmdk->text_bytes, next_len = 0;
	char *text, *next = NULL;
	int rc = check_new_parent(img, name, format, backing, err);

	if (rc)
		return rc;
	if (parent) {
		to.cid = parent->cid;
		to.uuid = parent->uuid_image;
		to.modification = parent->uuid_image ? parent->uuid_modification : NULL;
	}
	text = malloc(len);
	if (!text)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_storage_read(img->file, vmdk->text_off, text, len, err);
	if (!rc)
		next = vmdk_replace_parent(text, len, &to, &next_len);
	if (!rc && !next)
		rc = img_fail(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = vmdk_store_text(img, next, next_len, 0, err);
	if (!rc)
		rc = know_parent(img, next, next_len, err);
	free(next);
	free(text);
	return rc;
}
