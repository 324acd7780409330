/*
 * Creating disks: dynamic, static, differencing.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vdi/vdi_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* In qemu-img's words, then what it does not have. */
const struct img_option vdi_create_options[] = {
	{ "size", IMG_OPTION_SIZE, "Virtual disk size", NULL, NULL },
	{ "static", IMG_OPTION_BOOL, "VDI static (pre-allocated) image", "off", NULL },
	{ "preallocation", IMG_OPTION_STRING,
	  "Preallocation mode (allowed values: off, metadata, falloc, full); all but off are of static images",
	  NULL, "off,metadata,falloc,full" },
	{ "backing_file", IMG_OPTION_STRING, "File name of a base image, which has a UUID", NULL, NULL },
	{ "backing_fmt", IMG_OPTION_STRING, "Image format of the base image", NULL, NULL },
	{ "block_size", IMG_OPTION_SIZE, "Block size (default: 1M, other programs take no other)", NULL, NULL },
	{ "uuid", IMG_OPTION_STRING, "UUID of the image (default: a new one)", NULL, NULL },
	{ "modification_uuid", IMG_OPTION_STRING, "UUID of its last modification (default: a new one)", NULL,
	  NULL },
	{ "parent_uuid", IMG_OPTION_STRING, "UUID of the base image, where that is not looked at", NULL, NULL },
	{ "parent_modification_uuid", IMG_OPTION_STRING, "The same of its last modification", NULL, NULL },
	{ 0 },
};

enum {
	BLOCK_BYTES = 1 << 20,
	DATA_ALIGN = 4096,
	PIECE_ENTRIES = 256 << 10, /* of the block map, written at a time */
};

static int choose_uuid(const struct img_creating *c, const char *option, uint8_t out[IMG_GUID_BYTES],
		       struct img_error *err)
{
	const char *text = img_options_string(c->options, option);

	/* Zero stands for none: nobody could name the image. */
	if (text && (!img_guid_parse(text, strlen(text), out) || img_guid_is_zero(out)))
		return img_fail(err, -EINVAL,
				"%s: %s is '%s', expected a UUID such as "
				"2dc27766-f623-4200-9d64-115e9bfd4a08",
				c->name, option, text);
	return 0;
}

static int choose_parent(const struct img_creating *c, struct vdi_header *h, struct img_error *err)
{
	const struct img_options *o = c->options;
	bool told = img_options_has(o, "parent_uuid") || img_options_has(o, "parent_modification_uuid");
	int rc;

	if (told && (!c->backing_name || c->backing))
		return img_fail(err, -EINVAL,
				"%s: parent_uuid, parent_modification_uuid: allowed with a backing file that is "
				"not looked at (-u)",
				c->name);
	if (!c->backing_name)
		return 0;
	h->type = VDI_DIFFERENCING;
	if (c->backing) {
		rc = vdi_parent_uuids(c->backing, h->parent, h->parent_modification, err);
		return rc ? img_error_prefix(err, rc, "%s", c->name) : 0;
	}
	rc = choose_uuid(c, "parent_uuid", h->parent, err);
	if (!rc)
		rc = choose_uuid(c, "parent_modification_uuid", h->parent_modification, err);
	if (!rc && img_guid_is_zero(h->parent))
		rc = img_fail(err, -ENOTSUP,
			      "%s: the backing file must be looked at, or its UUID given (parent_uuid): a VDI "
			      "names its parent by nothing else",
			      c->name);
	return rc;
}

/* Everything but new identifiers. */
static int make_header(const struct img_creating *c, struct vdi_header *h, struct img_error *err)
{
	const struct img_options *o = c->options;
	uint64_t block_bytes = BLOCK_BYTES, blocks, data_off;
	int rc;

	*h = (struct vdi_header){ .type = VDI_DYNAMIC, .size = c->size, .map_off = VDI_SECTOR };
	if (img_options_has(o, "block_size"))
		block_bytes = img_options_number(o, "block_size");
	if (!block_bytes || block_bytes % VDI_SECTOR || block_bytes > VDI_BLOCK_BYTES_MAX)
		return img_fail(err, -EINVAL,
				"%s: block_size is %" PRIu64 ", expected a multiple of %d, at most %" PRIu32,
				c->name, block_bytes, VDI_SECTOR, VDI_BLOCK_BYTES_MAX);
	blocks = div_round_up_u64(c->size, block_bytes);
	if (blocks > VDI_BLOCKS_MAX)
		return img_fail(err, -EFBIG,
				"%s: size is %" PRIu64 ", expected at most %" PRIu64 " with blocks of %" PRIu64
				" bytes",
				c->name, c->size, VDI_BLOCKS_MAX * block_bytes, block_bytes);
	h->block_bytes = (uint32_t)block_bytes;
	h->blocks = (uint32_t)blocks;
	data_off = round_up_u64(vdi_entry_at(h, blocks), DATA_ALIGN);
	h->data_off = data_off;
	if (img_options_has(o, "static") && !img_options_bool(o, "static") &&
	    c->preallocate != IMG_PREALLOCATE_OFF)
		return img_fail(err, -EINVAL,
				"%s: static is off, expected on: a preallocated VDI is static", c->name);
	if (img_options_bool(o, "static") || c->preallocate != IMG_PREALLOCATE_OFF) {
		h->type = VDI_STATIC;
		h->allocated = h->blocks;
	}
	if (h->type == VDI_STATIC && c->backing_name)
		return img_fail(err, -EINVAL, "%s: a VDI with a backing file cannot be static or preallocated",
				c->name);
	rc = choose_uuid(c, "uuid", h->uuid, err);
	if (!rc)
		rc = choose_uuid(c, "modification_uuid", h->modification, err);
	if (!rc)
		rc = choose_parent(c, h, err);
	if (!rc && c->backing_name && img_options_has(o, "uuid") && img_guid_equal(h->uuid, h->parent))
		rc = img_fail(err, -EINVAL,
			      "%s: uuid is %s, expected another one than the backing file's: a VDI finds its "
			      "parent by it",
			      c->name, img_options_string(o, "uuid"));
	return rc;
}

int vdi_create_check(struct img_creating *c, struct img_error *err)
{
	struct vdi_header h;
	int rc = make_header(c, &h, err);

	if (!rc && c->compress)
		rc = img_fail(err, -ENOTSUP, "%s: Compression not supported for this file format", c->name);
	return rc;
}

static int write_map(struct img_storage *s, const struct vdi_header *h, struct img_error *err)
{
	uint8_t *piece = malloc((size_t)PIECE_ENTRIES * VDI_ENTRY_BYTES);
	int rc = 0;

	if (!piece)
		return img_fail(err, -ENOMEM, "out of memory");
	for (uint64_t first = 0, n; first < h->blocks && !rc; first += n) {
		n = min_u64(h->blocks - first, PIECE_ENTRIES);
		for (uint64_t i = 0; i < n; i++)
			le32_store(piece + i * VDI_ENTRY_BYTES,
				   h->type == VDI_STATIC ? (uint32_t)(first + i) : VDI_ENTRY_FREE);
		rc = img_storage_write(s, vdi_entry_at(h, first), piece, n * VDI_ENTRY_BYTES, err);
	}
	free(piece);
	return rc;
}

int vdi_create(struct img_creating *c, struct img_error *err)
{
	uint8_t bytes[VDI_SECTOR];
	struct vdi_header h;
	uint64_t end;
	int rc = make_header(c, &h, err);

	if (!rc && !img_options_has(c->options, "uuid"))
		rc = img_guid_new(c->identity, "image", h.uuid, err);
	if (!rc && !img_options_has(c->options, "modification_uuid"))
		rc = img_guid_new(c->identity, "modification", h.modification, err);
	if (rc)
		return rc;
	end = vdi_block_at(&h, h.allocated);
	rc = img_storage_resize(c->file, end,
				c->preallocate == IMG_PREALLOCATE_METADATA ? IMG_PREALLOCATE_OFF
									   : c->preallocate,
				err);
	if (!rc && c->file->device && h.allocated)
		rc = img_storage_zero(c->file, h.data_off, end - h.data_off, err);
	vdi_encode_new_header(&h, bytes);
	if (!rc)
		rc = img_storage_write(c->file, 0, bytes, sizeof(bytes), err);
	return rc ? rc : write_map(c->file, &h, err);
}
