/*
 * Creating disks: the descriptor and the extent files. spec/vmdk.md, "Writing". A sparse extent:
 *
 * header | descriptor | redundant directory | its tables | directory | tables | grains
 *
 * with all tables in place, as VMware has them; they are holes until something is written. Tables
 * begin at multiples of 16 KiB, so that one look sees as many entries as it can.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_parameters.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* In the order in which qemu-img reports them. Those with a default are always reported. */
const struct img_option vmdk_create_options[] = {
	{ "size", IMG_OPTION_SIZE, "Virtual disk size", NULL, NULL },
	{ "adapter_type", IMG_OPTION_STRING,
	  "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
	  NULL, "ide,lsilogic,buslogic,legacyESX" },
	{ "backing_file", IMG_OPTION_STRING, "File name of a base image", NULL, NULL },
	{ "backing_fmt", IMG_OPTION_STRING, "Must be 'vmdk' if present", NULL, NULL },
	{ "compat6", IMG_OPTION_BOOL, "VMDK version 6 image", "off", NULL },
	{ "hwversion", IMG_OPTION_STRING, "VMDK hardware version", "undefined", NULL },
	{ "toolsversion", IMG_OPTION_STRING, "VMware guest tools version", NULL, NULL },
	{ "subformat", IMG_OPTION_STRING,
	  "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | "
	  "twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
	  NULL,
	  "monolithicSparse,monolithicFlat,twoGbMaxExtentSparse,twoGbMaxExtentFlat,"
	  "streamOptimized" },
	{ "zeroed_grain", IMG_OPTION_BOOL,
	  "Enable efficient zero writes using the zeroed-grain GTE feature", NULL, NULL },
	{ "preallocation", IMG_OPTION_STRING,
	  "Preallocation mode (allowed values: off, falloc, full); for flat extents", NULL,
	  "off,falloc,full" },
	{ "uuid", IMG_OPTION_STRING, "UUID by which VirtualBox knows the image (default: a new one)", NULL,
	  NULL },
	{ "modification_uuid", IMG_OPTION_STRING, "UUID of its last modification (default: a new one)", NULL,
	  NULL },
	{ "cid", IMG_OPTION_STRING, "Content ID, 8 hexadecimal digits (default: a new one)", NULL, NULL },
	{ "compression_level", IMG_OPTION_NUMBER,
	  "How hard to compress: 1 to 12 (default: 6); for subformat=streamOptimized", NULL, NULL },
	{ 0 },
};

enum {
	DESCRIPTOR_SECTORS = 20, /* the space of an embedded one, as in QEMU and VirtualBox */
	TABLES_ALIGN = IMG_META_BLOCK / VMDK_SECTOR,
};

static bool same(const char *a, const char *b)
{
	return !strcmp(a, b);
}

/* ---- Checking ---- */

int vmdk_check_text(const char *what, const char *text, struct img_error *err)
{
	if (strlen(text) > VMDK_NAME_BYTES_MAX)
		return img_fail(err, -ENAMETOOLONG, "%s: %zu bytes long, expected at most %d", what,
				strlen(text), VMDK_NAME_BYTES_MAX);
	for (const char *p = text; *p; p++)
		if (*p == '"' || (unsigned char)*p < ' ')
			return img_fail(err, -EINVAL,
					"%s: '%s' has a quote or a control character, which a "
					"VMDK descriptor cannot hold",
					what, text);
	return 0;
}

static int check_number(const struct img_options *o, const char *option, struct img_error *err)
{
	const char *text = img_options_string(o, option);

	if (!text || (same(option, "hwversion") && same(text, "undefined")))
		return 0;
	if (!*text || strspn(text, "0123456789") != strlen(text) || strlen(text) > 10)
		return img_fail(err, -EINVAL, "%s is '%s', expected a number of up to 10 digits",
				option, text);
	return 0;
}

static int check_uuid(const struct img_creating *c, const char *option, struct img_error *err)
{
	const char *text = img_options_string(c->options, option);
	uint8_t uuid[IMG_GUID_BYTES];

	if (text && !img_guid_parse(text, strlen(text), uuid))
		return img_fail(err, -EINVAL,
				"%s: %s is '%s', expected a UUID such as 2dc27766-f623-4200-9d64-115e9bfd4a08",
				c->name, option, text);
	return 0;
}

static int check_cid(const struct img_creating *c, struct img_error *err)
{
	const char *text = img_options_string(c->options, "cid");
	uint32_t cid;

	if (text && !vmdk_parse_cid(text, &cid))
		return img_fail(err, -EINVAL,
				"%s: cid is '%s', expected 8 hexadecimal digits other than 00000000 and ffffffff",
				c->name, text);
	return 0;
}

/* Identifiers that were asked for. */
static int check_identifiers(const struct img_creating *c, struct img_error *err)
{
	int rc = check_uuid(c, "uuid", err);

	if (!rc)
		rc = check_uuid(c, "modification_uuid", err);
	return rc ? rc : check_cid(c, err);
}

/* VirtualBox tells a child from its parent by it. */
static int check_own_uuid(const struct img_creating *c, const struct vmdk *parent, struct img_error *err)
{
	const char *text = img_options_string(c->options, "uuid");
	uint8_t own[IMG_GUID_BYTES], its[IMG_GUID_BYTES];

	if (!text || !parent->uuid_image || !img_guid_parse(text, strlen(text), own) ||
	    !img_guid_parse(parent->uuid_image, strlen(parent->uuid_image), its) ||
	    !img_guid_equal(own, its))
		return 0;
	return img_fail(err, -EINVAL, "%s: uuid is %s, expected another one than the backing file's",
			c->name, text);
}

static int check_backing(const struct img_creating *c, struct img_error *err)
{
	const struct vmdk *parent;
	int rc;

	if (!c->backing_name)
		return 0;
	if ((c->backing_format && !same(c->backing_format, "vmdk")) ||
	    (c->backing && !same(c->backing->driver->name, "vmdk")))
		return img_fail(err, -EINVAL, "%s: backing_file must be a vmdk image", c->name);
	if (!c->backing)
		return img_fail(err, -ENOTSUP,
				"%s: the backing file must be looked at: a VMDK names its parent's "
				"content ID",
				c->name);
	parent = c->backing->state;
	if (!parent->has_cid)
		return img_fail(err, -ENOTSUP,
				"%s: the backing file has no content ID (CID=...) in its descriptor, by "
				"which the new image would notice that it was changed",
				c->name);
	rc = check_own_uuid(c, parent, err);
	return rc ? rc : vmdk_check_text("backing_file", c->backing_name, err);
}

/* What only streams have, and what they cannot have. */
static int check_stream(struct img_creating *c, const struct vmdk_parameters *w, struct img_error *err)
{
	uint64_t level = img_options_number(c->options, "compression_level");
	bool levelled = img_options_has(c->options, "compression_level");

	/* Sparse kinds are taken, and not compressed, as by qemu-img: there are programs that ask for it. */
	if (c->compress && w->flat)
		return img_fail(err, -ENOTSUP,
				"%s: Compression not supported with subformat=%s: of VMDKs only "
				"subformat=streamOptimized is compressed",
				c->name, w->create_type);
	if (levelled && !w->stream)
		return img_fail(err, -EINVAL,
				"%s: compression_level has no effect with subformat=%s: of VMDKs "
				"only subformat=streamOptimized is compressed",
				c->name, w->create_type);
	if (levelled && (level < 1 || level > (uint64_t)img_codec_zlib.max_level))
		return img_fail_range(err, -EINVAL, level, 1, (uint64_t)img_codec_zlib.max_level,
				      "%s: compression_level", c->name);
	if (w->stream && w->zeroed_grains)
		return img_fail(err, -ENOTSUP,
				"%s: streamOptimized image can't enable zeroed grain: grains of "
				"zeroes are left out",
				c->name);
	if (w->stream && c->backing_name)
		return img_fail(err, -ENOTSUP,
				"%s: streamOptimized image can't have backing file: it leaves out "
				"grains of zeroes, where a backing file would show through",
				c->name);
	c->compress_level = (int)level;
	return 0;
}

/* ---- Sparse extents ---- */

/* Where things go, in sectors. */
struct layout {
	uint64_t tables; /* of each copy */
	uint64_t redundant, redundant_tables, directory, first_table;
	uint64_t grains; /* the first one's place */
};

static int lay_out(uint64_t bytes, struct layout *l, struct img_error *err)
{
	uint64_t covers = (uint64_t)VMDK_TABLE_ENTRIES * VMDK_GRAIN_BYTES, directory_sectors;

	l->tables = div_round_up_u64(bytes, covers);
	if (l->tables > VMDK_DIRECTORY_ENTRIES_MAX)
		return img_fail_range(err, -EFBIG, bytes, 0, VMDK_DIRECTORY_ENTRIES_MAX * covers,
				      "size of a sparse VMDK");
	directory_sectors = div_round_up_u64(l->tables * 4, VMDK_SECTOR);
	l->redundant = 1 + DESCRIPTOR_SECTORS;
	l->redundant_tables = round_up_u64(l->redundant + directory_sectors, TABLES_ALIGN);
	l->directory = l->redundant_tables + l->tables * VMDK_TABLE_SECTORS;
	l->first_table = round_up_u64(l->directory + directory_sectors, TABLES_ALIGN);
	l->grains = round_up_u64(l->first_table + l->tables * VMDK_TABLE_SECTORS,
				 VMDK_GRAIN_SECTORS);
	return 0;
}

/* A directory of all tables, which follow each other from sector `first` on. */
static int write_directory(struct img_storage *s, uint64_t sector, uint64_t first, uint64_t tables,
			   struct img_error *err)
{
	uint8_t buf[16384];
	uint64_t batch = sizeof(buf) / 4;

	for (uint64_t from = 0; from < tables; from += batch) {
		uint64_t n = min_u64(batch, tables - from);
		int rc;

		for (uint64_t i = 0; i < n; i++)
			le32_store(buf + i * 4,
				   (uint32_t)(first + (from + i) * VMDK_TABLE_SECTORS));
		rc = img_storage_write(s, sector * VMDK_SECTOR + from * 4, buf, n * 4, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* An empty sparse extent in an empty file. text NULL: no descriptor. */
static int create_sparse(struct img_storage *s, uint64_t bytes, bool zeroed_grains,
			 const char *text, size_t text_len, struct img_error *err)
{
	uint8_t header[VMDK_HOSTED_HEADER_BYTES];
	struct vmdk_header h;
	struct layout l;
	int rc = lay_out(bytes, &l, err);

	if (rc)
		return rc;
	if (text_len > DESCRIPTOR_SECTORS * VMDK_SECTOR)
		return img_fail(err, -ENAMETOOLONG,
				"%s: the descriptor has %zu bytes, expected at most %d: a name is "
				"too long",
				s->name, text_len, DESCRIPTOR_SECTORS * VMDK_SECTOR);
	h = (struct vmdk_header){
		.capacity = bytes / VMDK_SECTOR,
		.descriptor = text ? 1 : 0,
		.descriptor_sectors = text ? DESCRIPTOR_SECTORS : 0,
		.redundant = l.redundant,
		.directory = l.directory,
		.overhead = l.grains,
		.zeroed_grains = zeroed_grains,
	};
	vmdk_encode_header(&h, header);
	rc = img_storage_resize(s, l.grains * VMDK_SECTOR, IMG_PREALLOCATE_OFF, err);
	if (!rc && text)
		rc = img_storage_write(s, VMDK_SECTOR, text, text_len, err);
	if (!rc)
		rc = write_directory(s, l.redundant, l.redundant_tables, l.tables, err);
	if (!rc)
		rc = write_directory(s, l.directory, l.first_table, l.tables, err);
	return rc ? rc : img_storage_write(s, 0, header, sizeof(header), err);
}

/* ---- The driver's entries ---- */

int vmdk_create_check(struct img_creating *c, struct img_error *err)
{
	const struct img_options *o = c->options;
	bool versioned = !same(img_options_string(o, "hwversion"), "undefined");
	struct layout l;
	struct vmdk_parameters w;
	int rc;

	if (img_options_bool(o, "compat6") && versioned)
		return img_fail(err, -EINVAL, "%s: compat6 cannot be enabled with hwversion set",
				c->name);
	rc = check_number(o, "hwversion", err);
	if (!rc)
		rc = check_number(o, "toolsversion", err);
	if (!rc)
		rc = check_identifiers(c, err);
	if (!rc)
		rc = vmdk_check_text("the image's name", vmdk_base_name(c->name), err);
	if (!rc)
		rc = vmdk_parameters_make(c, &w, err);
	if (rc)
		return rc;
	if (!w.flat && c->preallocate != IMG_PREALLOCATE_OFF)
		rc = img_fail(err, -ENOTSUP,
			      "%s: preallocation is for subformat=monolithicFlat and "
			      "twoGbMaxExtentFlat: the extents of %s grow as they are written",
			      c->name, w.create_type);
	else if (w.flat && c->backing_name)
		rc = img_fail(err, -ENOTSUP, "%s: Flat image can't have backing file", c->name);
	else if (w.flat && w.zeroed_grains)
		rc = img_fail(err, -ENOTSUP, "%s: Flat image can't enable zeroed grain", c->name);
	else if (w.extents > VMDK_FILES_MAX)
		rc = img_fail(err, -EFBIG,
			      "%s: the size needs %" PRIu64 " extent files, expected at most %d",
			      c->name, w.extents, VMDK_FILES_MAX);
	if (!rc)
		rc = check_stream(c, &w, err);
	if (!rc)
		rc = check_backing(c, err);
	if (!rc && !w.flat)
		rc = lay_out(vmdk_extent_bytes(c, &w, 0), &l, err);
	vmdk_parameters_clear(&w);
	return rc;
}

/* The extents' files of a disk whose descriptor is a file of its own. */
static int create_extents(struct img_creating *c, const struct vmdk_parameters *w, struct img_error *err)
{
	for (uint64_t n = 0; n < w->extents; n++) {
		char *name = vmdk_extent_name(w, n);
		char *plain = name ? vmdk_plain_name(name, strlen(name)) : NULL;
		struct img_storage *s;
		int rc;

		free(name);
		if (!plain)
			return img_fail(err, -ENOMEM, "out of memory");
		rc = c->create_file(c, plain, &s, err);
		free(plain);
		if (rc)
			return rc;
		if (w->flat)
			rc = img_storage_resize(s, vmdk_extent_bytes(c, w, n), c->preallocate, err);
		else
			rc = create_sparse(s, vmdk_extent_bytes(c, w, n), w->zeroed_grains, NULL, 0,
					   err);
		if (rc)
			return rc;
	}
	return 0;
}

/* A stream's bytes into a file. */
struct into_file {
	struct img_byte_writer base;
	struct img_storage *file;
};

static int write_into_file(struct img_byte_writer *a, const void *bytes, size_t len,
			   struct img_error *err)
{
	struct into_file *f = (struct into_file *)a;
	int rc = img_storage_write(f->file, a->written, bytes, len, err);

	if (!rc)
		a->written += len;
	return rc;
}

static int create_stream(struct img_creating *c, struct img_error *err)
{
	struct into_file to = { .base = { .write = write_into_file }, .file = c->file };
	struct img_sink *sink;
	int rc = vmdk_sink(c, &to.base, &sink, err);

	if (rc)
		return rc;
	rc = sink->finish(sink, err);
	sink->free(sink);
	return rc;
}

int vmdk_create(struct img_creating *c, struct img_error *err)
{
	struct vmdk_parameters w;
	char *text;
	size_t len;
	int rc;

	if (c->file->device)
		return img_fail(err, -ENOTSUP,
				"%s: a VMDK cannot be created on a block device: it has no field "
				"for its end",
				c->name);
	rc = vmdk_parameters_make(c, &w, err);
	if (rc)
		return rc;
	if (w.stream) {
		vmdk_parameters_clear(&w);
		return create_stream(c, err);
	}
	rc = vmdk_describe(c, &w, &text, &len, err);
	if (rc)
		goto out;
	if (w.flat || w.split) {
		rc = create_extents(c, &w, err);
		if (!rc)
			rc = img_storage_write(c->file, 0, text, len, err);
	} else {
		rc = create_sparse(c->file, c->size, w.zeroed_grains, text, len, err);
	}
	free(text);
out:
	vmdk_parameters_clear(&w);
	return rc;
}
