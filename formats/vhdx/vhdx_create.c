/*
 * Creating disks: dynamic, fixed, differencing.
 *
 * identifier, headers, region tables | log | metadata | BAT | blocks
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* In qemu-img's order, then what it does not have. */
const struct img_option vhdx_create_options[] = {
	{ "size", IMG_OPTION_SIZE, "Virtual disk size; max of 64TB.", NULL, NULL },
	{ "backing_file", IMG_OPTION_STRING, "File name of a base image", NULL, NULL },
	{ "backing_fmt", IMG_OPTION_STRING, "Must be 'vhdx' if present", NULL, NULL },
	{ "log_size", IMG_OPTION_SIZE, "Log size; min 1MB, whole MB", "1048576", NULL },
	{ "block_size", IMG_OPTION_SIZE,
	  "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.", "0",
	  NULL },
	{ "subformat", IMG_OPTION_STRING,
	  "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.", NULL,
	  "dynamic,fixed" },
	{ "block_state_zero", IMG_OPTION_BOOL,
	  "Blocks that were never written are in state 'ZERO' (default) or 'NOT PRESENT'; not for "
	  "images with a backing file",
	  NULL, NULL },
	{ "logical_sector_size", IMG_OPTION_SIZE,
	  "Logical sector size, 512 (default) or 4096; the backing file's, if there is one", NULL,
	  NULL },
	{ "physical_sector_size", IMG_OPTION_SIZE, "Physical sector size, 512 or 4096 (default)",
	  NULL, NULL },
	{ "uuid", IMG_OPTION_STRING, "Virtual disk id, which the guest sees (default: a new one)", NULL,
	  NULL },
	{ "data_write_guid", IMG_OPTION_STRING,
	  "GUID of its content, by which differencing disks know it (default: a new one)", NULL, NULL },
	{ "preallocation", IMG_OPTION_STRING,
	  "Preallocation mode (allowed values: off, falloc, full); for subformat=fixed", NULL,
	  "off,falloc,full" },
	{ 0 },
};

enum {
	PIECE_ENTRIES = 128 << 10, /* of the BAT, written at a time */
	LOG_OFF = VHDX_MIB,
	LOCATOR_OFF = VHDX_METADATA_TABLE_BYTES +
		      64, /* in the metadata region, behind the other items */
};

#define LOG_BYTES_MAX ((UINT64_C(1) << 32) - VHDX_MIB)

/* What is to be made. */
struct layout {
	struct vhdx_header header;
	struct vhdx_regions regions;
	struct vhdx_geometry g;
	struct vhdx_item_range items[VHDX_ITEMS];
	uint8_t *locator;
	size_t locator_bytes;
	enum vhdx_block_state unwritten; /* of a dynamic disk's blocks */
	uint64_t blocks_off;
};

/* ---- What the options come to ---- */

static uint64_t default_block(uint64_t size)
{
	if (size > UINT64_C(32) << 40)
		return 64 << 20;
	if (size > UINT64_C(100) << 30)
		return 32 << 20;
	return size > UINT64_C(1) << 30 ? 16 << 20 : 8 << 20;
}

static int choose_block(const struct img_creating *c, struct layout *r, struct img_error *err)
{
	uint64_t bytes = img_options_number(c->options, "block_size");

	if (!bytes && c->backing_name)
		bytes = 2 << 20; /* as Windows does */
	if (!bytes)
		bytes = default_block(c->size);
	if (!is_pow2_u64(bytes))
		return img_fail(err, -EINVAL,
				"%s: Block size must be a power of two, found %" PRIu64, c->name,
				bytes);
	if (bytes < VHDX_BLOCK_BYTES_MIN || bytes > VHDX_BLOCK_BYTES_MAX)
		return img_fail(err, -EINVAL,
				"%s: block_size is %" PRIu64 ", expected %" PRIu64
				" to %" PRIu64,
				c->name, bytes, VHDX_BLOCK_BYTES_MIN, VHDX_BLOCK_BYTES_MAX);
	r->g.block_bytes = bytes;
	return 0;
}

static int choose_sector(const struct img_creating *c, const char *option, uint32_t fallback,
			 uint32_t *out, struct img_error *err)
{
	uint64_t bytes = img_options_has(c->options, option)
				 ? img_options_number(c->options, option)
				 : fallback;

	if (bytes != 512 && bytes != 4096)
		return img_fail(err, -EINVAL, "%s: %s is %" PRIu64 ", expected 512 or 4096",
				c->name, option, bytes);
	*out = (uint32_t)bytes;
	return 0;
}

static int choose_sectors(const struct img_creating *c, struct layout *r, struct img_error *err)
{
	const struct vhdx *parent = c->backing ? c->backing->state : NULL;
	int rc = choose_sector(c, "logical_sector_size",
			       parent ? parent->geometry.sector_bytes : 512, &r->g.sector_bytes,
			       err);

	if (!rc)
		rc = choose_sector(c, "physical_sector_size",
				   parent ? parent->geometry.physical_bytes : 4096,
				   &r->g.physical_bytes, err);
	if (rc)
		return rc;
	if (parent && parent->geometry.sector_bytes != r->g.sector_bytes)
		return img_fail(err, -EINVAL,
				"%s: logical_sector_size is %" PRIu32
				", expected the backing file's, "
				"%" PRIu32,
				c->name, r->g.sector_bytes, parent->geometry.sector_bytes);
	if (r->g.physical_bytes < r->g.sector_bytes)
		return img_fail(err, -EINVAL,
				"%s: physical_sector_size is %" PRIu32
				", expected at least the logical sector size, %" PRIu32,
				c->name, r->g.physical_bytes, r->g.sector_bytes);
	if (c->size > VHDX_DISK_BYTES_MAX)
		return img_fail(err, -EFBIG, "%s: Image size too large; max of 64TB", c->name);
	if (!is_aligned_u64(c->size, r->g.sector_bytes))
		return img_fail(err, -EINVAL,
				"%s: size is %" PRIu64
				", expected a multiple of the logical sector size, "
				"%" PRIu32,
				c->name, c->size, r->g.sector_bytes);
	return 0;
}

static int check_backing(const struct img_creating *c, struct img_error *err)
{
	if (!c->backing_name)
		return 0;
	if ((c->backing_format && strcmp(c->backing_format, vhdx_driver.name) != 0) ||
	    (c->backing && c->backing->driver != &vhdx_driver))
		return img_fail(err, -EINVAL, "%s: backing_file must be a vhdx image", c->name);
	if (!c->backing)
		return img_fail(
			err, -ENOTSUP,
			"%s: the backing file must be looked at: a differencing VHDX names its "
			"parent's data write GUID",
			c->name);
	return 0;
}

/* Everything but the identifiers. */
static int make_layout(const struct img_creating *c, struct layout *r, struct img_error *err)
{
	const struct img_options *o = c->options;
	const char *subformat = img_options_string(o, "subformat");
	uint64_t log_bytes = img_options_number(o, "log_size"), at = LOG_OFF;
	int rc;

	*r = (struct layout){
		.g = {
			.size = c->size,
			.fixed = subformat && !strcmp(subformat, "fixed"),
			.has_parent = c->backing_name,
		},
		.unwritten = VHDX_NOT_PRESENT,
	};
	rc = check_backing(c, err);
	if (!rc)
		rc = choose_block(c, r, err);
	if (!rc)
		rc = choose_sectors(c, r, err);
	if (rc)
		return rc;
	if (r->g.fixed && c->backing_name)
		return img_fail(err, -EINVAL, "%s: a VHDX with a backing file cannot be fixed",
				c->name);
	if (!r->g.fixed && c->preallocate != IMG_PREALLOCATE_OFF)
		return img_fail(
			err, -ENOTSUP,
			"%s: preallocation: found subformat=dynamic, whose blocks are allocated as "
			"they are written; allowed with fixed",
			c->name);
	if (log_bytes < VHDX_MIB || log_bytes > LOG_BYTES_MAX ||
	    !is_aligned_u64(log_bytes, VHDX_MIB))
		return img_fail(err, -EINVAL,
				"%s: log_size is %" PRIu64
				", expected a multiple of %d from there on up "
				"to %" PRIu64,
				c->name, log_bytes, VHDX_MIB, LOG_BYTES_MAX);
	if (c->backing_name && img_options_has(o, "block_state_zero") &&
	    img_options_bool(o, "block_state_zero"))
		return img_fail(
			err, -EINVAL,
			"%s: block_state_zero: blocks of zeroes would hide the backing file",
			c->name);
	if (!c->backing_name &&
	    (!img_options_has(o, "block_state_zero") || img_options_bool(o, "block_state_zero")))
		r->unwritten = VHDX_ZERO;

	r->header.log_off = at;
	r->header.log_bytes = log_bytes;
	at += log_bytes;
	r->regions.metadata = (struct vhdx_region){ at, VHDX_MIB };
	at += VHDX_MIB;
	r->regions.bat.off = at;
	r->regions.bat.bytes = max_u64(
		round_up_u64(vhdx_bat_entries(&r->g, r->g.size) * VHDX_BAT_ENTRY_BYTES, VHDX_MIB),
		VHDX_MIB);
	r->blocks_off = at + r->regions.bat.bytes;
	return 0;
}

/* One that was asked for; else out stays as it is. */
static int choose_guid(const struct img_creating *c, const char *option,
		       uint8_t out[IMG_GUID_BYTES], struct img_error *err)
{
	const char *text = img_options_string(c->options, option);
	uint8_t guid[IMG_GUID_BYTES];

	if (!text)
		return 0;
	if (!img_guid_parse(text, strlen(text), guid) || img_guid_is_zero(guid))
		return img_fail(err, -EINVAL,
				"%s: %s is '%s', expected a GUID such as "
				"2dc27766-f623-4200-9d64-115e9bfd4a08",
				c->name, option, text);
	memcpy(out, guid, IMG_GUID_BYTES);
	return 0;
}

static int choose_identifiers(const struct img_creating *c, struct layout *r, struct img_error *err)
{
	const struct vhdx *parent = c->backing ? c->backing->state : NULL;
	int rc = choose_guid(c, "uuid", r->g.disk_id, err);

	if (!rc)
		rc = choose_guid(c, "data_write_guid", r->header.data_write, err);
	if (!rc && parent && img_guid_equal(r->header.data_write, parent->header.data_write))
		rc = img_fail(err, -EINVAL,
			      "%s: data_write_guid is %s, expected another one than the backing "
			      "file's: a VHDX tells its parent by it",
			      c->name, img_options_string(c->options, "data_write_guid"));
	return rc;
}

static int add_identifiers(const struct img_creating *c, struct layout *r, struct img_error *err)
{
	int rc = img_guid_new(c->identity, "file write", r->header.file_write, err);

	if (!rc)
		rc = img_guid_new(c->identity, "data write", r->header.data_write, err);
	if (!rc)
		rc = img_guid_new(c->identity, "disk", r->g.disk_id, err);
	return rc ? rc : choose_identifiers(c, r, err);
}

static int add_locator(const struct img_creating *c, struct layout *r, struct img_error *err)
{
	const struct vhdx *parent = c->backing ? c->backing->state : NULL;
	struct vhdx_locator l;
	int rc;

	if (!parent)
		return 0;
	rc = vhdx_locator_of(parent->header.data_write, c->backing_name, &l, err);
	if (!rc) {
		rc = vhdx_encode_locator(&l, &r->locator, &r->locator_bytes, err);
		vhdx_locator_clear(&l);
	}
	return rc ? img_error_prefix(err, rc, "%s: backing_file", c->name) : 0;
}

int vhdx_create_check(struct img_creating *c, struct img_error *err)
{
	struct layout r;
	int rc = make_layout(c, &r, err);

	if (!rc)
		rc = choose_identifiers(c, &r, err);
	if (!rc)
		rc = add_locator(c, &r, err);
	if (!rc)
		free(r.locator);
	if (!rc && c->compress)
		rc = img_fail(err, -ENOTSUP, "%s: Compression not supported for this file format",
			      c->name);
	return rc;
}

/* ---- Writing it ---- */

static int write_identifier(struct img_storage *s, struct img_error *err)
{
	uint8_t bytes[VHDX_SIGNATURE_BYTES + VHDX_CREATOR_BYTES] = "vhdxfile";
	static const char creator[] = "libimg";

	for (size_t i = 0; i < sizeof(creator) - 1; i++)
		bytes[VHDX_SIGNATURE_BYTES + 2 * i] = (uint8_t)creator[i];
	return img_storage_write(s, 0, bytes, sizeof(bytes), err);
}

static int write_headers(struct img_storage *s, struct layout *r, struct img_error *err)
{
	uint8_t bytes[VHDX_HEADER_BYTES], *table = malloc(VHDX_REGION_TABLE_BYTES);
	int rc = table ? 0 : img_fail(err, -ENOMEM, "out of memory");

	if (!rc)
		vhdx_encode_regions(&r->regions, table);
	for (unsigned i = 0; i < 2 && !rc; i++) {
		r->header.sequence = i + 1;
		vhdx_encode_header(&r->header, bytes);
		rc = img_storage_write(s, VHDX_HEADER_OFF(i), bytes, sizeof(bytes), err);
		if (!rc)
			rc = img_storage_write(s, VHDX_REGION_TABLE_OFF(i), table,
					       VHDX_REGION_TABLE_BYTES, err);
	}
	free(table);
	return rc;
}

static int write_metadata(struct img_storage *s, struct layout *r, struct img_error *err)
{
	uint32_t at = VHDX_METADATA_TABLE_BYTES;
	uint8_t bytes[LOCATOR_OFF - VHDX_METADATA_TABLE_BYTES] = { 0 };
	uint8_t *table = malloc(VHDX_METADATA_TABLE_BYTES);
	int rc = table ? 0 : img_fail(err, -ENOMEM, "out of memory");

	for (int i = 0; i < VHDX_PARENT_LOCATOR; i++) {
		r->items[i] = (struct vhdx_item_range){ at, vhdx_item_bytes((enum vhdx_item)i) };
		vhdx_encode_item(&r->g, (enum vhdx_item)i,
				 bytes + (at - VHDX_METADATA_TABLE_BYTES));
		at += r->items[i].bytes;
	}
	if (r->locator)
		r->items[VHDX_PARENT_LOCATOR] = (struct vhdx_item_range){
			LOCATOR_OFF, (uint32_t)r->locator_bytes
		};
	if (!rc) {
		vhdx_encode_metadata(r->items, table);
		rc = img_storage_write(s, r->regions.metadata.off, table, VHDX_METADATA_TABLE_BYTES,
				       err);
	}
	if (!rc)
		rc = img_storage_write(s, r->regions.metadata.off + VHDX_METADATA_TABLE_BYTES,
				       bytes, sizeof(bytes), err);
	if (!rc && r->locator)
		rc = img_storage_write(s, r->regions.metadata.off + LOCATOR_OFF, r->locator,
				       r->locator_bytes, err);
	free(table);
	return rc;
}

static int write_bat(struct img_storage *s, const struct layout *r, struct img_error *err)
{
	uint64_t count = vhdx_bat_entries(&r->g, r->g.size), ratio = vhdx_chunk_ratio(&r->g), n;
	uint64_t off = r->blocks_off;
	uint8_t *piece;
	int rc = 0;

	if (!r->g.fixed && r->unwritten == VHDX_NOT_PRESENT)
		return 0; /* as holes */
	piece = malloc((size_t)PIECE_ENTRIES * VHDX_BAT_ENTRY_BYTES);
	if (!piece)
		return img_fail(err, -ENOMEM, "out of memory");
	for (uint64_t first = 0; first < count && !rc; first += n) {
		n = min_u64(count - first, PIECE_ENTRIES);
		for (uint64_t i = 0; i < n; i++) {
			uint64_t entry = vhdx_bat_entry(r->unwritten, 0);

			if ((first + i) % (ratio + 1) == ratio) {
				entry = 0;
			} else if (r->g.fixed) {
				entry = vhdx_bat_entry(VHDX_PRESENT, off);
				off += r->g.block_bytes;
			}
			le64_store(piece + i * VHDX_BAT_ENTRY_BYTES, entry);
		}
		rc = img_storage_write(s, r->regions.bat.off + first * VHDX_BAT_ENTRY_BYTES, piece,
				       n * VHDX_BAT_ENTRY_BYTES, err);
	}
	free(piece);
	return rc;
}

int vhdx_create(struct img_creating *c, struct img_error *err)
{
	struct layout r;
	uint64_t end;
	int rc = make_layout(c, &r, err);

	if (!rc)
		rc = add_identifiers(c, &r, err);
	if (!rc)
		rc = add_locator(c, &r, err);
	if (rc)
		return rc;
	end = r.blocks_off;
	if (r.g.fixed)
		end += vhdx_block_count(&r.g, r.g.size) * r.g.block_bytes;
	if (c->file->device && end > c->file->size)
		rc = img_fail(err, -ENOSPC,
			      "%s: the device has %" PRIu64 " bytes, expected at least %" PRIu64,
			      c->name, (uint64_t)c->file->size, end);
	else if (c->file->device) /* it holds something else */
		rc = img_storage_zero(c->file, 0, end, err);
	else
		rc = img_storage_resize(c->file, end, c->preallocate, err);
	if (!rc)
		rc = write_identifier(c->file, err);
	if (!rc)
		rc = write_headers(c->file, &r, err);
	if (!rc)
		rc = write_metadata(c->file, &r, err);
	if (!rc)
		rc = write_bat(c->file, &r, err);
	free(r.locator);
	return rc;
}
