/*
 * VDI: spec/vdi.md. Opening, closing and reading; the other files are listed in vdi_state.h.
 *
 * header | block map: an entry for each block of the disk | blocks, each behind its extra bytes
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vdi/vdi_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

static int vdi_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)tail;
	(void)file_size;
	return vdi_is_vdi(head, len) ? 100 : 0;
}

/* ---- Opening ---- */

static int read_header(struct img *img, struct vdi_header *h, struct img_error *err)
{
	uint8_t bytes[VDI_SECTOR];
	int rc = img_storage_read(img->file, 0, bytes, sizeof(bytes), err);

	if (rc)
		return rc;
	rc = vdi_parse_header(bytes, sizeof(bytes), h, err);
	return rc ? img_error_prefix(err, rc, "%s: header", img->name) : 0;
}

static int vdi_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct vdi *v = calloc(1, sizeof(*v));
	const struct vdi_header *h;
	int rc = v ? read_header(img, &v->header, err) : vdi_no_memory(img, err);

	if (rc)
		goto fail;
	h = &v->header;
	if (!o->salvage && vdi_entry_at(h, h->blocks) > img->file->size) {
		rc = img_fail(err, -EUCLEAN,
			      "%s: truncated: ends at %" PRIu64 ", the block map needs %" PRIu64, img->name,
			      (uint64_t)img->file->size, vdi_entry_at(h, h->blocks));
		goto fail;
	}
	v->for_check = o->for_check;
	img->state = v;
	img->size = h->size;
	img->unit_bytes = h->block_bytes;
	vdi_keep_parent(img, h);
	if (img->writable && !v->for_check)
		rc = vdi_load_blocks(img, err);
	if (rc) {
		img->state = NULL;
		img->backing_uuid_count = 0;
		goto fail;
	}
	img->file->may_grow_ahead = img->writable; /* only the block map says what is used */
	return 0;
fail:
	free(v);
	return rc;
}

static int vdi_set_writable(struct img *img, bool writable, struct img_error *err)
{
	int rc = 0;

	vdi_free_blocks(img);
	if (writable)
		rc = vdi_load_blocks(img, err);
	img->file->may_grow_ahead = writable && !rc;
	return rc;
}

static void vdi_close(struct img *img)
{
	vdi_free_blocks(img);
	free(img->state);
	img->state = NULL;
}

/* ---- Reading ---- */

static enum img_extent_kind kind_of(const struct img *img, uint32_t entry)
{
	if (vdi_entry_is_index(entry))
		return IMG_DATA;
	return vdi_reads_parent(img, entry) ? IMG_BACKING : IMG_ZERO;
}

static int vdi_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		   struct img_extent *out)
{
	const struct vdi *v = img->state;
	const struct vdi_header *h = &v->header;
	uint64_t block = off / h->block_bytes, within = off % h->block_bytes, run = 1;
	uint64_t at = vdi_entry_at(h, block);
	uint64_t n = min_u64((off + len - 1) / h->block_bytes - block + 1,
			     (IMG_META_BLOCK - at % IMG_META_BLOCK) / VDI_ENTRY_BYTES);
	const uint8_t *slots = img_meta_get(req, img->file, at, n * VDI_ENTRY_BYTES);
	enum img_extent_kind kind;
	uint32_t entry;

	if (!slots)
		return IMG_NEED_METADATA;
	entry = le32_load(slots);
	kind = kind_of(img, entry);
	for (; run < n; run++) {
		uint32_t next = le32_load(slots + run * VDI_ENTRY_BYTES);

		if (kind_of(img, next) != kind ||
		    (kind == IMG_DATA && (h->extra_bytes || next != entry + run)))
			break;
	}
	*out = (struct img_extent){
		.kind = kind,
		.length = min_u64(len, run * h->block_bytes - within),
	};
	if (kind == IMG_DATA) {
		out->storage = img->file;
		out->file_off = vdi_block_at(h, entry) + h->extra_bytes + within;
	}
	return 0;
}

/* ---- Report ---- */

static int vdi_info(struct img *img, struct img_value *top, struct img_value *specific,
		    struct img_error *err)
{
	const struct vdi *v = img->state;
	char text[IMG_GUID_CHARS + 1];

	(void)err;
	img_value_add_uint(top, "cluster-size", v->header.block_bytes);
	/* Of what qemu-img reads it says no more. */
	if (vdi_is_child(&v->header)) {
		img_guid_print(v->header.uuid, text);
		img_value_add_string(specific, "uuid", text);
		img_guid_print(v->header.modification, text);
		img_value_add_string(specific, "modification-uuid", text);
	}
	return 0;
}

static void vdi_zeroing(const struct img *img, struct img_zeroing *out)
{
	out->zero = IMG_ZERO_IN_PLACE;
	out->discard = !vdi_reads_parent(img, VDI_ENTRY_FREE);
}

static int vdi_identifiers(const struct img *img, struct img_value *out, struct img_error *err)
{
	const struct vdi *v = img->state;
	char text[IMG_GUID_CHARS + 1];

	(void)err;
	if (!img_guid_is_zero(v->header.uuid)) {
		img_guid_print(v->header.uuid, text);
		img_value_add_string(out, "uuid", text);
	}
	if (!img_guid_is_zero(v->header.modification)) {
		img_guid_print(v->header.modification, text);
		img_value_add_string(out, "modification_uuid", text);
	}
	return 0;
}

const struct img_driver vdi_driver = {
	.name = "vdi",
	.features = IMG_DRIVER_BACKING | IMG_DRIVER_BACKING_KNOWN | IMG_DRIVER_IDENTITY |
		    IMG_DRIVER_STAMPED,
	.probe = vdi_probe,
	.open = vdi_open,
	.parent_opened = vdi_parent_opened,
	.accept_parent = vdi_accept_parent,
	.identify = vdi_identify,
	.identifiers = vdi_identifiers,
	.close = vdi_close,
	.set_writable = vdi_set_writable,
	.first_write = vdi_first_write,
	.finish = vdi_finish,
	.map = vdi_map,
	.plan_write = vdi_plan_write,
	.commit = vdi_commit,
	.drop = vdi_drop,
	.zeroing = vdi_zeroing,
	.release = vdi_release,
	.grow = vdi_grow,
	.extend = vdi_extend,
	.resize = vdi_resize,
	.set_backing = vdi_set_backing,
	.make_empty = vdi_make_empty,
	.create_options = vdi_create_options,
	.create_check = vdi_create_check,
	.create = vdi_create,
	.check = vdi_check,
	.info = vdi_info,
};
