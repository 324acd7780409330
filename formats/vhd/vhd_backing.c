/*
 * Another parent, or none, and giving up all content. A header with the new names is written to the end of the file; the
 * footer's copy, one sector, then leads to it and says in the same write whether there is a parent at all.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"
#include "libimg/base/endian.h"

static int refuse(const struct img *img, const char *what, struct img_error *err)
{
	const struct vhd *v = img->state;

	if (v->for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	if (vhd_is_fixed(v))
		return img_fail(err, -ENOTSUP, "%s: a fixed VHD holds all of its disk: it cannot %s", img->name, what);
	return 0;
}

/* Where bits say that the block has nothing: zeroes, for programs that do not look at them. */
static int clear_hidden(struct img *img, uint64_t block_off, uint8_t *bits, struct img_error *err)
{
	const struct vhd *v = img->state;
	uint64_t sectors = v->header.block_bytes / VHD_SECTOR, run;
	uint64_t data_off = block_off + v->header.bitmap_bytes;
	int rc = img_storage_read(img->file, block_off, bits, v->header.bitmap_bytes, err);
	bool set;

	for (uint64_t at = 0; at < sectors && !rc; at += run) {
		run = vhd_bit_run(bits, at, sectors - at, &set);
		if (!set)
			rc = img_storage_zero(img->file, data_off + at * VHD_SECTOR, run * VHD_SECTOR, err);
	}
	return rc;
}

static int clear_all_hidden(struct img *img, struct img_error *err)
{
	struct vhd *v = img->state;
	struct img_range_map blocks = { 0 };
	uint8_t *bits = malloc(v->header.bitmap_bytes);
	int rc = bits ? vhd_find_blocks(img, v, &blocks, err) : img_fail(err, -ENOMEM, "out of memory");

	for (size_t i = 0; i < blocks.block_count && !rc; i++)
		rc = clear_hidden(img, blocks.blocks[i], bits, err);
	free(bits);
	img_range_map_free(&blocks);
	return rc;
}

static void encode_no_parent(uint8_t header[VHD_HEADER_BYTES])
{
	memset(header + VHD_OFF_PARENT_UUID, 0, VHD_HEADER_BYTES - VHD_OFF_PARENT_UUID);
	vhd_seal_header(header);
}

int vhd_set_backing(struct img *img, const char *name, const char *format, const struct img *backing,
		    struct img_error *err)
{
	struct vhd *v = img->state;
	uint64_t header_off = v->units.next;
	uint8_t header[VHD_HEADER_BYTES], footer[VHD_FOOTER_BYTES], *data = NULL;
	struct vhd_piece pieces[2] = { { header, sizeof(header) } };
	int rc = refuse(img, name ? "have a parent" : "lose one", err);

	if (!rc && name && format && strcmp(format, backing->driver->name) != 0 &&
	    !(backing->driver->alias && !strcmp(format, backing->driver->alias)))
		rc = img_fail(err, -EINVAL, "%s: the parent %s: found format %s, expected %s", img->name,
			      backing->name, backing->driver->name, format);
	if (!rc && name)
		rc = vhd_check_parent(img->name, backing, name, err);
	if (rc)
		return rc;
	memcpy(header, v->header.bytes, sizeof(header));
	memcpy(footer, v->footer.bytes, sizeof(footer));
	if (name)
		rc = vhd_encode_parent(header, img->name, backing, name,
				       header_off + sizeof(header), &data, &pieces[1].len, err);
	else
		encode_no_parent(header);
	pieces[1].bytes = data;
	if (!rc && !name && vhd_is_child(v))
		rc = clear_all_hidden(img, err);
	if (!rc)
		rc = vhd_append(img, pieces, data ? 2 : 1, err);
	free(data);
	if (rc)
		return rc;
	be64_store(footer + VHD_OFF_DATA, header_off);
	be32_store(footer + VHD_OFF_TYPE, name ? VHD_DIFFERENCING : VHD_DYNAMIC);
	vhd_seal_footer(footer);
	rc = vhd_write_footer(img, footer, err);
	if (v->footer.header_off != header_off)
		return rc;
	if (!rc)
		rc = vhd_parse_header(header, v->footer.size, &v->header, err);
	if (!rc)
		rc = vhd_list_metadata(img, v, err);
	img->grain_bytes = vhd_is_child(v) ? VHD_SECTOR : 0;
	img_forget_backing(img);
	return rc || !name ? rc : vhd_keep_parent(img, v, err);
}

int vhd_make_empty(struct img *img, struct img_error *err)
{
	struct vhd *v = img->state;
	int rc = refuse(img, "be emptied", err);

	/* A block that is made anew has not all bits. */
	if (!rc)
		rc = vhd_drop_batmap(img, err);
	if (!rc)
		rc = vhd_clear_entries(img, 0, v->blocks, err);
	if (!rc && !img->unsafe)
		rc = img_storage_sync(img->file, err);
	return rc ? rc : vhd_reclaim(img, err);
}
