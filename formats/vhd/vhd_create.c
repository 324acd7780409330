/*
 * Making a VHD. A fixed one is a hole and a footer; of the others
 *
 * footer's copy | header | table | parent's name | footer
 *
 * with the footer where the first block will be, whose data then begins at a multiple of 4 KiB. On a device the footer is
 * its last sector, and what it held before is zeroed where that would show.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "formats/vhd/vhd_state.h"

/* In the order in which qemu-img reports them. */
const struct img_option vhd_create_options[] = {
	{ "size", IMG_OPTION_SIZE, "Virtual disk size", NULL, NULL },
	{ "backing_file", IMG_OPTION_STRING, "File name of a base image", NULL, NULL },
	{ "backing_fmt", IMG_OPTION_STRING, "Image format of the base image", NULL, NULL },
	{ "subformat", IMG_OPTION_STRING,
	  "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ", NULL,
	  "dynamic,fixed" },
	{ "force_size", IMG_OPTION_BOOL,
	  "Force disk size calculation to use the actual size specified, rather than using the nearest "
	  "CHS-based calculation",
	  NULL, NULL },
	{ "azure", IMG_OPTION_BOOL,
	  "What Azure takes: subformat=fixed, force_size=on, and the size rounded up to whole MiB", NULL, NULL },
	{ "block_size", IMG_OPTION_SIZE,
	  "Block size of a dynamic disk, a power of two from 4K to 256M (default: 2M, which some programs insist "
	  "on)",
	  NULL, NULL },
	{ "uuid", IMG_OPTION_STRING, "Unique id (default: a new one)", NULL, NULL },
	{ "preallocation", IMG_OPTION_STRING,
	  "Preallocation mode (allowed values: off, falloc, full); for fixed disks", NULL, "off,falloc,full" },
	{ 0 },
};

enum {
	BLOCK_BYTES = 2 << 20,
	BLOCK_BYTES_MIN = 4 << 10,
	MIB = 1 << 20,
};

static bool is_fixed(const struct img_creating *c)
{
	const char *subformat = img_options_string(c->options, "subformat");

	return img_options_bool(c->options, "azure") || (subformat && !strcmp(subformat, "fixed"));
}

static uint64_t block_bytes(const struct img_creating *c)
{
	return img_options_has(c->options, "block_size") ? img_options_number(c->options, "block_size")
							 : BLOCK_BYTES;
}

/*
 * The size that the disk will have. Unless it is to be exact it is the next one that a geometry has, for the sake of
 * programs that go by that.
 */
static uint64_t disk_bytes(const struct img_creating *c, bool *exact)
{
	uint64_t sectors = c->size / VHD_SECTOR, most = vhd_geometry_sectors(&vhd_geometry_max),
		 n = sectors;
	struct vhd_geometry g;

	*exact = img_options_bool(c->options, "force_size") || img_options_bool(c->options, "azure") ||
		 c->backing_name || sectors >= most;
	if (*exact)
		return c->size;
	do
		g = vhd_geometry_of(n++);
	while (vhd_geometry_sectors(&g) < sectors);
	*exact = vhd_geometry_sectors(&g) >= most;
	return *exact ? c->size : vhd_geometry_sectors(&g) * VHD_SECTOR;
}

/* ---- Checking ---- */

static int check_azure(struct img_creating *c, struct img_error *err)
{
	const struct img_options *o = c->options;

	if (!img_options_bool(o, "azure"))
		return 0;
	if (img_options_has(o, "subformat") && strcmp(img_options_string(o, "subformat"), "fixed"))
		return img_fail(err, -EINVAL, "%s: azure: found subformat=%s, allowed fixed", c->name,
				img_options_string(o, "subformat"));
	if (img_options_has(o, "force_size") && !img_options_bool(o, "force_size"))
		return img_fail(err, -EINVAL, "%s: azure: found force_size=off, allowed on", c->name);
	c->size = max_u64(round_up_u64(c->size, MIB), MIB);
	return 0;
}

static int check_dynamic(const struct img_creating *c, struct img_error *err)
{
	uint64_t block = block_bytes(c);

	if (!is_pow2_u64(block) || block < BLOCK_BYTES_MIN || block > VHD_WRITE_BLOCK_MAX)
		return img_fail(err, -EINVAL,
				"%s: block_size is %" PRIu64
				" bytes, expected a power of two from 4096 to %" PRIu32,
				c->name, block, VHD_WRITE_BLOCK_MAX);
	if (c->preallocate != IMG_PREALLOCATE_OFF)
		return img_fail(err, -ENOTSUP,
				"%s: preallocation: found a disk that grows as it is written; allowed with "
				"subformat=fixed",
				c->name);
	return 0;
}

static int check_backing(const struct img_creating *c, struct img_error *err)
{
	const char *uuid = img_options_string(c->options, "uuid");
	uint8_t own[IMG_GUID_BYTES], its[IMG_GUID_BYTES];

	if (!c->backing_name)
		return 0;
	if (is_fixed(c))
		return img_fail(err, -EINVAL, "%s: a fixed VHD cannot have a backing file", c->name);
	if (!c->backing)
		return img_fail(err, -ENOTSUP,
				"%s: the backing file must be looked at: a differencing VHD names its parent by "
				"its unique id (no -u)",
				c->name);
	if (uuid && img_guid_parse(uuid, strlen(uuid), own) && c->backing->driver->identify &&
	    !c->backing->driver->identify(c->backing->file, its, NULL) && img_guid_equal(own, its))
		return img_fail(err, -EINVAL,
				"%s: uuid is %s, expected another one than the backing file's: a VHD tells its "
				"parent by it",
				c->name, uuid);
	return vhd_check_parent(c->name, c->backing, c->backing_name, err);
}

int vhd_create_check(struct img_creating *c, struct img_error *err)
{
	const struct img_options *o = c->options;
	const char *uuid = img_options_string(o, "uuid");
	uint8_t guid[IMG_GUID_BYTES];
	bool exact;
	int rc = check_azure(c, err);

	if (!rc && c->size > VHD_SIZE_MAX)
		rc = img_fail(err, -EFBIG,
			      "%s: The image size is too large for file format 'vpc': %" PRIu64
			      " bytes, expected at most %" PRIu64 " (2040 GiB)",
			      c->name, c->size, VHD_SIZE_MAX);
	if (!rc && uuid && !img_guid_parse(uuid, strlen(uuid), guid))
		rc = img_fail(err, -EINVAL, "%s: uuid is '%s', expected a UUID", c->name, uuid);
	if (!rc)
		rc = check_backing(c, err);
	if (!rc && is_fixed(c) && img_options_has(o, "block_size"))
		rc = img_fail(err, -EINVAL, "%s: block_size: a fixed VHD has no blocks", c->name);
	if (!rc && !is_fixed(c))
		rc = check_dynamic(c, err);
	if (!rc && !is_fixed(c) &&
	    vhd_blocks(disk_bytes(c, &exact), (uint32_t)block_bytes(c)) > VHD_BLOCKS_MAX)
		rc = img_fail(err, -EFBIG,
			      "%s: block_size: %" PRIu64 " blocks, expected at most %d", c->name,
			      vhd_blocks(disk_bytes(c, &exact), (uint32_t)block_bytes(c)),
			      VHD_BLOCKS_MAX);
	return rc;
}

/* ---- Creating ---- */

static int make_footer(const struct img_creating *c, struct vhd_new_footer *n, struct img_error *err)
{
	const char *uuid = img_options_string(c->options, "uuid");

	n->type = is_fixed(c) ? VHD_FIXED : c->backing_name ? VHD_DIFFERENCING
							    : VHD_DYNAMIC;
	n->size = disk_bytes(c, &n->exact);
	/* The same disk made twice is the same bytes. */
	n->time = c->identity[0] || c->identity[1] ? 0
						   : (uint32_t)((uint64_t)time(NULL) - VHD_EPOCH);
	if (uuid) {
		img_guid_parse(uuid, strlen(uuid), n->uuid);
		return 0;
	}
	return img_guid_new(c->identity, "vhd unique id", n->uuid, err);
}

static int check_device(const struct img_creating *c, uint64_t bytes, struct img_error *err)
{
	if (bytes <= vhd_device_room(c->file))
		return 0;
	return img_fail(err, -ENOSPC,
			"%s: the device has %" PRIu64 " bytes, expected at least %" PRIu64, c->name,
			(uint64_t)c->file->size, bytes + VHD_FOOTER_BYTES);
}

static int create_fixed(struct img_creating *c, const struct vhd_new_footer *n, struct img_error *err)
{
	bool device = c->file->device;
	uint64_t end = device ? vhd_device_room(c->file) : n->size;
	uint8_t footer[VHD_FOOTER_BYTES];
	int rc = check_device(c, n->size, err);

	if (!rc)
		rc = device ? img_storage_zero(c->file, 0, n->size, err)
			    : img_storage_resize(c->file, n->size, c->preallocate, err);
	vhd_encode_footer(n, footer);
	return rc ? rc : img_storage_write(c->file, end, footer, sizeof(footer), err);
}

static int write_table(struct img_storage *s, uint64_t off, uint64_t bytes, struct img_error *err)
{
	uint8_t *absent = malloc(IMG_META_BLOCK);
	int rc = absent ? 0 : img_fail(err, -ENOMEM, "out of memory");

	if (absent)
		memset(absent, 0xff, IMG_META_BLOCK);
	for (uint64_t done = 0; done < bytes && !rc; done += IMG_META_BLOCK)
		rc = img_storage_write(s, off + done, absent,
				       (size_t)min_u64(bytes - done, IMG_META_BLOCK), err);
	free(absent);
	return rc;
}

static int create_dynamic(struct img_creating *c, const struct vhd_new_footer *n, struct img_error *err)
{
	uint8_t footer[VHD_FOOTER_BYTES], header[VHD_HEADER_BYTES];
	uint32_t block = (uint32_t)block_bytes(c), entries = (uint32_t)vhd_blocks(n->size, block);
	uint64_t table_off = VHD_FOOTER_BYTES + VHD_HEADER_BYTES, end;
	uint64_t table_bytes = round_up_u64((uint64_t)entries * VHD_ENTRY_BYTES, VHD_SECTOR);
	uint8_t *name = NULL;
	size_t name_bytes = 0;
	int rc;

	vhd_encode_footer(n, footer);
	vhd_encode_header(table_off, entries, block, header);
	end = table_off + table_bytes;
	if (c->backing_name) {
		rc = vhd_encode_parent(header, c->name, c->backing, c->backing_name, end, &name,
				       &name_bytes, err);
		if (rc)
			return rc;
	}
	rc = check_device(c, end + round_up_u64(name_bytes, VHD_SECTOR), err);
	if (!rc)
		rc = write_table(c->file, table_off, table_bytes, err);
	if (!rc && c->file->device) /* XenServer's map would be here */
		rc = img_storage_zero(c->file, end, VHD_BATMAP_HEADER_BYTES, err);
	if (!rc && name)
		rc = img_storage_write(c->file, end, name, name_bytes, err);
	end = vhd_align_block(end + round_up_u64(name_bytes, VHD_SECTOR), block);
	if (c->file->device)
		end = vhd_device_room(c->file);
	if (!rc)
		rc = img_storage_write(c->file, VHD_FOOTER_BYTES, header, sizeof(header), err);
	if (!rc)
		rc = img_storage_write(c->file, end, footer, sizeof(footer), err);
	if (!rc)
		rc = img_storage_write(c->file, 0, footer, sizeof(footer), err);
	free(name);
	return rc;
}

int vhd_create(struct img_creating *c, struct img_error *err)
{
	struct vhd_new_footer n;
	int rc;

	rc = make_footer(c, &n, err);
	if (rc)
		return rc;
	return n.type == VHD_FIXED ? create_fixed(c, &n, err) : create_dynamic(c, &n, err);
}
