/*
 * Opening a VHD. A fixed one has its footer behind its data. A dynamic one begins with a copy of it, which is
 * what counts: the end of the file may be missing after a crash, and then its last bytes are the guest's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"
#include "libimg/base/endian.h"

void vhd_free(struct vhd *v)
{
	if (!v)
		return;
	img_range_map_free(&v->metadata);
	img_unit_alloc_free(&v->units);
	free(v);
}

/* ---- The footer ---- */

/* Which footer is the disk's? */
static int read_footer(struct img *img, struct vhd *v, bool for_check, struct img_error *err)
{
	uint8_t head[VHD_FOOTER_BYTES] = { 0 };
	struct vhd_footer tail;
	struct img_error why = { 0 };
	int rc = img_storage_read(img->file, 0, head,
				  (size_t)min_u64(img->file->size, sizeof(head)), err);
	int head_rc, tail_rc;

	if (rc)
		return rc;
	head_rc = vhd_parse_footer(head, &v->footer, &why);
	tail_rc = vhd_find_tail(img->file, &tail, &v->tail_off, err);
	if (tail_rc && tail_rc != -ENODATA) {
		rc = tail_rc;
	} else if (!head_rc && v->footer.type != VHD_FIXED) {
		if (tail_rc)
			v->tail = VHD_TAIL_MISSING;
		else
			v->tail = memcmp(head, tail.bytes, VHD_FOOTER_BYTES) ? VHD_TAIL_DIFFERS
									     : VHD_TAIL_SOUND;
	} else if (!tail_rc && (tail.type == VHD_FIXED || head_rc)) {
		v->footer = tail;
		v->tail = VHD_TAIL_SOUND;
		v->head_bad = tail.type != VHD_FIXED;
		if (v->head_bad && img->writable && !for_check)
			rc = img_fail(err, -EUCLEAN,
				      "%s: the copy of the footer at the start: %s: it cannot be written to "
				      "before it was repaired",
				      img->name, img_error_text(&why));
	} else if (head_rc == -EMEDIUMTYPE || !head_rc) {
		rc = img_fail(err, -EMEDIUMTYPE, "%s: not a VHD image", img->name);
	} else {
		rc = img_fail(err, head_rc, "%s: %s", img->name, img_error_text(&why));
	}
	img_error_clear(&why);
	return rc;
}

static int open_fixed(struct img *img, struct vhd *v, bool salvage, struct img_error *err)
{
	/* The geometry may be anything, the data is what lies in front of the footer. */
	if (v->footer.size > v->tail_off)
		v->footer.size = v->footer.current;
	if ((v->footer.size > v->tail_off && !salvage) || v->footer.size % VHD_SECTOR)
		return img_fail(err, -EUCLEAN,
				"%s: footer: current size is %" PRIu64 ", expected at most the %" PRIu64
				" bytes in front of it, in multiples of 512",
				img->name, v->footer.size, v->tail_off);
	img->unit_bytes = VHD_SECTOR;
	return 0;
}

/* ---- A dynamic disk ---- */

static int find_batmap(struct img *img, struct vhd *v, struct img_error *err)
{
	uint64_t table_end = v->header.table_off +
			     round_up_u64((uint64_t)v->header.entries * VHD_ENTRY_BYTES, VHD_SECTOR);
	uint8_t bytes[24];
	int rc;

	if (!range_in(table_end, VHD_BATMAP_HEADER_BYTES, img->file->size))
		return 0;
	rc = img_storage_read(img->file, table_end, bytes, sizeof(bytes), err);
	if (!rc && !memcmp(bytes, "tdbatmap", 8))
		v->batmap_off = table_end;
	return rc;
}

static int parse_header(struct img *img, struct vhd *v, const uint8_t *bytes, bool for_check,
			struct img_error *err)
{
	struct img_error why = { 0 };
	int rc = vhd_parse_header(bytes, v->footer.size, &v->header, &why);

	v->header_bad = rc == -EBADMSG;
	if (v->header_bad)
		rc = for_check && vhd_rebuild_header(img, v, bytes) ? 0 : -EUCLEAN;
	if (rc)
		img_fail(err, rc, "%s: %s%s", img->name, img_error_text(&why),
			 v->header_bad && for_check ? ", and neither that nor the blocks confirm another header"
						    : "");
	img_error_clear(&why);
	return rc;
}

static int open_dynamic(struct img *img, struct vhd *v, const struct img_opening *o,
			struct img_error *err)
{
	uint8_t bytes[VHD_HEADER_BYTES];
	uint64_t table_bytes;
	int rc;

	if (!range_in(v->footer.header_off, VHD_HEADER_BYTES, img->file->size) ||
	    v->footer.header_off % VHD_SECTOR)
		return img_fail(err, -EUCLEAN,
				"%s: footer: dynamic disk header: found offset %" PRIu64
				", allowed multiples of 512 inside the file's %" PRIu64 " bytes",
				img->name, v->footer.header_off, (uint64_t)img->file->size);
	rc = img_storage_read(img->file, v->footer.header_off, bytes, sizeof(bytes), err);
	if (rc)
		return rc;
	rc = parse_header(img, v, bytes, o->for_check, err);
	if (rc)
		return rc;
	v->blocks = vhd_blocks(v->footer.size, v->header.block_bytes);
	table_bytes = v->blocks * VHD_ENTRY_BYTES;
	if (!range_in(v->header.table_off, table_bytes, img->file->size))
		return img_fail(err, -EUCLEAN,
				"%s: block allocation table: found offset %" PRIu64 " for %" PRIu64
				" bytes, allowed inside the file's %" PRIu64 " bytes",
				img->name, v->header.table_off, table_bytes,
				(uint64_t)img->file->size);
	/* What lies behind is not needed, and may not be there. */
	if (!range_in(v->header.table_off, (uint64_t)v->header.entries * VHD_ENTRY_BYTES, img->file->size))
		v->header.entries = (uint32_t)v->blocks;
	rc = find_batmap(img, v, err);
	if (!rc)
		rc = vhd_list_metadata(img, v, err);
	if (rc)
		return rc;
	img->unit_bytes = v->header.block_bytes;
	img->grain_bytes = vhd_is_child(v) ? VHD_SECTOR : 0;
	return vhd_is_child(v) ? vhd_keep_parent(img, v, err) : 0;
}

int vhd_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct vhd *v = calloc(1, sizeof(*v));
	int rc;

	if (!v)
		return img_fail(err, -ENOMEM, "out of memory");
	v->for_check = o->for_check;
	img->state = v;
	rc = read_footer(img, v, o->for_check, err);
	if (!rc)
		rc = vhd_is_fixed(v) ? open_fixed(img, v, o->salvage, err)
				     : open_dynamic(img, v, o, err);
	if (!rc && img->writable && !o->for_check && !o->self_only)
		rc = vhd_prepare_writing(img, v, err);
	if (rc) {
		img->state = NULL;
		vhd_free(v);
		return rc;
	}
	img->size = v->footer.size;
	return 0;
}
