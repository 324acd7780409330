/*
 * The footer at the end of a file; of a short one, by Virtual PC before 2004, the last byte is missing. A device ends
 * where it does, whatever is in use of it: its last sector is the footer's, as XenServer has it on logical volumes.
 */
#include <errno.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"

/* Was the file being written as an image of some format when its writer ended? Its end may be complete then. */
static bool is_unfinished(struct img_storage *s)
{
	char head[sizeof(IMG_UNFINISHED_MARK) - 1];

	return s->size >= sizeof(head) && !img_storage_read(s, 0, head, sizeof(head), NULL) &&
	       !memcmp(head, IMG_UNFINISHED_MARK, sizeof(head));
}

int vhd_find_tail(struct img_storage *s, struct vhd_footer *out, uint64_t *off, struct img_error *err)
{
	uint8_t bytes[VHD_FOOTER_BYTES + 1] = { 0 }; /* a short one has lost its last byte, a zero */
	uint64_t at;
	int rc;

	if (s->size < VHD_SHORT_FOOTER_BYTES || is_unfinished(s))
		return -ENODATA;
	at = s->size - min_u64(s->size, VHD_FOOTER_BYTES);
	rc = img_storage_read(s, at, bytes, (size_t)(s->size - at), err);
	if (rc)
		return rc;
	*off = at;
	if (s->size - at == VHD_FOOTER_BYTES && !vhd_parse_footer(bytes, out, NULL))
		return 0;
	*off = s->size - VHD_SHORT_FOOTER_BYTES;
	return vhd_parse_footer(bytes + (*off - at), out, NULL) ? -ENODATA : 0;
}

uint64_t vhd_device_room(const struct img_storage *s)
{
	if (!s->device)
		return UINT64_MAX;
	return s->size < VHD_FOOTER_BYTES ? 0 : s->size - VHD_FOOTER_BYTES;
}

int vhd_write_tail(struct img *img, struct img_error *err)
{
	struct vhd *v = img->state;
	uint64_t at = img->file->device ? vhd_device_room(img->file) : v->units.next;
	int rc;

	if (v->no_tail)
		return 0;
	rc = img_storage_write(img->file, at, v->footer.bytes, VHD_FOOTER_BYTES, err);
	img_meta_forget(img, img->file, align_down_u64(at, IMG_META_SECTOR),
			VHD_FOOTER_BYTES + at % IMG_META_SECTOR);
	v->tail_due = rc != 0;
	return rc;
}
