/*
 * What a change leaves in an image besides data: a new content ID in the descriptor, by which
 * children notice that their parent was changed, and the mark of an unclean shutdown in the
 * headers of sparse extents, which is there while the image is being written to.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/identity.h"

/* A random content ID that is neither old nor VMDK_NO_PARENT. */
static int new_cid(uint32_t old, uint32_t *out, struct img_error *err)
{
	static const uint64_t random[2];
	int rc;

	do
		rc = img_identity_bytes(random, "", out, sizeof(*out), err);
	while (!rc && (!*out || *out == old || *out == VMDK_NO_PARENT));
	return rc;
}

void vmdk_print_uuid(const uint8_t bytes[16], char out[VMDK_UUID_CHARS + 1])
{
	uint8_t b[16];

	memcpy(b, bytes, sizeof(b));
	b[6] = (b[6] & 0x0f) | 0x40;
	b[8] = (b[8] & 0x3f) | 0x80;
	snprintf(out, VMDK_UUID_CHARS + 1, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
		 b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12],
		 b[13], b[14], b[15]);
}

int vmdk_new_uuid(char out[VMDK_UUID_CHARS + 1], struct img_error *err)
{
	static const uint64_t random[2];
	uint8_t b[16];
	int rc = img_identity_bytes(random, "", b, sizeof(b), err);

	if (!rc)
		vmdk_print_uuid(b, out);
	return rc;
}

static int sync_file(const struct img *img, struct img_storage *s, struct img_error *err)
{
	return img->unsafe || !s->unsynced ? 0 : img_storage_sync(s, err);
}

/* ---- Content ID ---- */

uint32_t vmdk_stamp_cid(const char *stamp)
{
	return (uint32_t)(strtoull(stamp, NULL, 16) & UINT32_MAX); /* up to the first hyphen */
}

/* Overwrite digits of the descriptor, which begins at base, in their place. */
static int write_digits(struct img *img, uint64_t base, const char *text,
			struct vmdk_text place, const char *digits, struct img_error *err)
{
	uint64_t off = base + (uint64_t)(place.at - text);
	uint64_t from = align_down_u64(off, IMG_META_SECTOR);
	int rc = img_storage_write(img->file, off, digits, place.len, err);

	img_meta_forget(img, img->file, from,
			round_up_u64(off + place.len - from, IMG_META_SECTOR));
	return rc;
}

/*
 * What the next change makes of the content ID and the modification UUID, which a child may have been told
 * already: it stores but one of them, the UUID, whose first digits are the other.
 */
static int choose_stamp(struct vmdk *vmdk, struct img_error *err)
{
	unsigned width = vmdk->has_cid ? vmdk->cid_digits : 8; /* none is stored where there is none */
	char digits[9], uuid[VMDK_UUID_CHARS + 1];
	uint32_t cid;
	int rc;

	if (*vmdk->stamp)
		return 0;
	do {
		rc = new_cid(vmdk->cid, &cid, err);
		if (rc)
			return rc;
		cid &= UINT32_MAX >> (4 * (8 - width));
	} while (cid == vmdk->cid);
	rc = vmdk_new_uuid(uuid, err);
	if (rc)
		return rc;
	snprintf(digits, sizeof(digits), "%08" PRIx32, cid);
	memcpy(uuid, digits, 8);
	memcpy(vmdk->stamp, uuid, sizeof(uuid));
	return 0;
}

int vmdk_next_identity(struct img *img, uint8_t out[IMG_GUID_BYTES], struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	int rc = choose_stamp(vmdk, err);

	if (!rc)
		img_guid_parse(vmdk->stamp, strlen(vmdk->stamp), out);
	return rc;
}

/*
 * VirtualBox goes by ddb.uuid.modification instead, so that changes with it.
 *
 * The new ID has as many digits as the old one, and takes their place: nothing else moves. Torn
 * between two sectors it is still another ID than before, which is all that it is for.
 */
static int change_cid(struct img *img, const char *text, size_t len, uint64_t base,
		      struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	struct vmdk_descriptor d;
	const char *digits;
	uint32_t cid;
	int rc = vmdk_parse_descriptor(text, len, &d, err);

	if (rc)
		return rc;
	if (!d.has_cid) /* no child can have been made on it: see check_backing() */
		return 0;
	rc = choose_stamp(vmdk, err);
	if (rc)
		return rc;
	digits = vmdk->stamp + 8 - d.cid_digits.len;
	cid = vmdk_stamp_cid(vmdk->stamp);
	rc = write_digits(img, base, text, d.cid_digits, digits, err);
	if (!rc)
		vmdk->cid = cid; /* of the file as it is read from now on, whatever fails yet */
	if (!rc && d.long_cid.len == 32 && d.cid_digits.len == 8) {
		struct vmdk_text tail = { d.long_cid.at + 24, 8 };

		rc = write_digits(img, base, text, tail, digits, err);
	}
	if (!rc && d.uuid_modification.len == VMDK_UUID_CHARS) {
		rc = write_digits(img, base, text, d.uuid_modification, vmdk->stamp, err);
		if (!rc)
			memcpy(vmdk->uuid_modification, vmdk->stamp, VMDK_UUID_CHARS);
	}
	if (!rc)
		rc = sync_file(img, img->file, err);
	vmdk->stamped = !rc;
	return rc;
}

/* ---- The driver's entries ---- */

static int mark_unclean(const struct img *img, bool unclean, struct img_error *err)
{
	const struct vmdk *vmdk = img->state;
	int rc = 0;

	for (size_t i = 0; i < vmdk->file_count && !rc; i++) {
		const struct vmdk_file *f = &vmdk->files[i];
		uint8_t mark = unclean;

		if (!f->alloc || f->alloc->was_unclean)
			continue;
		if (!unclean) /* all that was written is there when the mark goes */
			rc = sync_file(img, f->storage, err);
		if (!rc)
			rc = img_storage_write(f->storage, VMDK_OFF_UNCLEAN, &mark, 1, err);
		if (!rc && unclean)
			rc = sync_file(img, f->storage, err);
	}
	return rc;
}

int vmdk_first_write(struct img *img, struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	uint64_t off = vmdk->text_off, len = vmdk->text_bytes;
	char *text;
	int rc;

	if (vmdk->for_check) /* a repair changes nothing that children would have to notice */
		return 0;
	rc = mark_unclean(img, true, err);
	/* Nobody knows the ID of an image that was made just now, and of the same content it is the same. */
	if (rc || img->created || img->content_stays || vmdk->stamped)
		return rc;
	if (!len) /* an extent of a split disk, opened alone, has no descriptor */
		return 0;
	text = malloc(len);
	if (!text)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_storage_read(img->file, off, text, len, err);
	if (!rc && text[0])
		rc = change_cid(img, text, len, off, err);
	free(text);
	return rc;
}

/* A grain that the end of the disk cuts may be the file's last: other readers want all of it. */
int vmdk_finish(struct img *img, struct img_error *err)
{
	struct vmdk *vmdk = img->state;

	vmdk->stamped = false;
	*vmdk->stamp = '\0';
	for (size_t i = 0; i < vmdk->file_count; i++) {
		const struct vmdk_file *f = &vmdk->files[i];
		uint64_t whole;
		int rc;

		if (!f->alloc)
			continue;
		whole = round_up_u64(f->storage->size, f->sparse.grain_bytes);
		if (whole == f->storage->size)
			continue;
		rc = img_storage_resize(f->storage, whole, IMG_PREALLOCATE_OFF, err);
		if (rc)
			return rc;
	}
	return mark_unclean(img, false, err);
}
