/*
 * New images: one expanding file, in a folder or by itself. With preallocation all clusters are
 * there, in guest order.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

const struct img_option parallels_create_options[] = {
	{ "size", IMG_OPTION_SIZE, "Virtual disk size", NULL, NULL },
	{ "cluster_size", IMG_OPTION_SIZE, "Parallels image cluster size", "1048576", NULL },
	{ "preallocation", IMG_OPTION_STRING,
	  "Preallocation mode (allowed values: off, falloc, full)", NULL, "off,falloc,full" },
	{ 0 },
};

enum { PIECE_ENTRIES = 64 << 10 };

static int make_header(const struct img_creating *c, uint64_t size, struct parallels_header *h,
		       struct img_error *err)
{
	uint64_t cluster = img_options_number(c->options, "cluster_size");
	uint64_t most = (uint64_t)PARALLELS_CLUSTER_SECTORS_MAX * PARALLELS_SECTOR, start;

	if (!cluster || cluster > most || cluster % PARALLELS_SECTOR)
		return img_fail(err, -EINVAL,
				"%s: cluster_size: found %" PRIu64
				", allowed multiples of %d up to %" PRIu64,
				c->name, cluster, PARALLELS_SECTOR, most);
	most = min_u64(PARALLELS_DISK_BYTES_MAX, PARALLELS_ENTRIES_MAX * cluster);
	if (size > most)
		return img_fail(err, -EFBIG,
				"%s: size: found %" PRIu64 ", allowed up to %" PRIu64
				" with clusters of %" PRIu64 " bytes",
				c->name, size, most, cluster);
	*h = (struct parallels_header){
		.extended = true,
		.heads = PARALLELS_HEADS,
		.cluster_sectors = (uint32_t)(cluster / PARALLELS_SECTOR),
		.entries = (uint32_t)div_round_up_u64(size, cluster),
		.sectors = size / PARALLELS_SECTOR,
		.in_use = PARALLELS_CLOSED,
	};
	h->cylinders = (uint32_t)min_u64(
		div_round_up_u64(h->sectors, (uint64_t)PARALLELS_HEADS * PARALLELS_TRACK_SECTORS),
		UINT32_MAX);
	start = multiple_up_u64(parallels_bat_end(h->entries), cluster);
	if (start / PARALLELS_SECTOR > UINT32_MAX)
		return img_fail(err, -EFBIG, "%s: size: found %" PRIu64 ", whose BAT has no room",
				c->name, size);
	h->data_off = (uint32_t)(start / PARALLELS_SECTOR);
	return 0;
}

static bool is_descriptor_name(const char *name)
{
	const char *slash = strrchr(name, '/');

	return !strcmp(slash ? slash + 1 : name, PARALLELS_DESCRIPTOR_NAME);
}

int parallels_create_check(struct img_creating *c, struct img_error *err)
{
	struct parallels_header h;
	char text[24];
	int rc = 0;

	/* as those of the disk have, unless it is said */
	if (c->adds_state && c->backing && !img_options_has(c->options, "cluster_size")) {
		snprintf(text, sizeof(text), "%" PRIu64, c->backing->unit_bytes);
		rc = img_options_set(c->options, "cluster_size", text, err);
	}
	if (!rc)
		rc = make_header(c, c->size, &h, err);
	if (!rc && c->compress)
		rc = img_fail(err, -ENOTSUP, "%s: Compression not supported for this file format",
			      c->name);
	if (!rc && c->device && is_descriptor_name(c->name))
		rc = img_fail(err, -ENOTSUP, "%s: a block device holds no folder", c->name);
	if (!rc && c->adds_state && !is_descriptor_name(c->name))
		rc = img_fail(err, -ENOTSUP, "%s: a single file has no snapshots, only a folder has",
			      c->name);
	if (!rc && c->adds_state && c->preallocate != IMG_PREALLOCATE_OFF)
		rc = img_fail(err, -ENOTSUP,
			      "%s: preallocation: clusters that are there would hide what the disk held "
			      "before",
			      c->name);
	if (!rc && c->device && c->preallocate != IMG_PREALLOCATE_OFF)
		rc = img_fail(err, -ENOTSUP,
			      "%s: preallocation: a block device has its size already", c->name);
	return rc;
}

/* All clusters one behind the other. */
static int write_full_bat(struct img_storage *s, const struct parallels_header *h,
			  struct img_error *err)
{
	uint32_t first = h->data_off / h->cluster_sectors;
	uint8_t *piece = malloc((size_t)PIECE_ENTRIES * PARALLELS_ENTRY_BYTES);
	int rc = piece ? 0 : img_fail(err, -ENOMEM, "out of memory");
	uint64_t n;

	for (uint64_t at = 0; at < h->entries && !rc; at += n) {
		n = min_u64(h->entries - at, PIECE_ENTRIES);
		for (uint64_t i = 0; i < n; i++)
			le32_store(piece + i * PARALLELS_ENTRY_BYTES, (uint32_t)(first + at + i));
		rc = img_storage_write(s, parallels_entry_at(at), piece, n * PARALLELS_ENTRY_BYTES,
				       err);
	}
	free(piece);
	return rc;
}

static int create_file(const struct img_creating *c, struct img_storage *s,
		       const struct parallels_header *h, struct img_error *err)
{
	bool full = c->preallocate != IMG_PREALLOCATE_OFF;
	uint64_t start = (uint64_t)h->data_off * PARALLELS_SECTOR;
	uint8_t bytes[PARALLELS_HEADER_BYTES];
	int rc;

	if (c->device) {
		rc = img_storage_zero(s, 0, start, err);
	} else {
		uint64_t end = full ? start + h->entries * parallels_cluster_bytes(h) : start;

		rc = img_storage_resize(s, end, c->preallocate, err);
	}
	parallels_encode_header(h, bytes);
	if (!rc)
		rc = img_storage_write(s, 0, bytes, sizeof(bytes), err);
	if (!rc && full)
		rc = write_full_bat(s, h, err);
	return rc;
}

/* ---- A folder, which is there: its DiskDescriptor.xml is the image that is made ---- */

/* The name of a file with data: after the folder, if that has a name that all programs take. */
static char *name_file(const char *descriptor, size_t number, const char *guid)
{
	size_t end = strlen(descriptor) - strlen(PARALLELS_DESCRIPTOR_NAME), start;
	const char *folder = "disk.hdd";
	int len = (int)strlen(folder);
	char *name;

	while (end && descriptor[end - 1] == '/')
		end--;
	for (start = end; start && descriptor[start - 1] != '/'; start--)
		if (!isalnum((unsigned char)descriptor[start - 1]) &&
		    !strchr("-_.+ ", descriptor[start - 1]))
			break;
	if (end - start > 0 && end - start < 100 && (!start || descriptor[start - 1] == '/') &&
	    descriptor[start] != '.') {
		folder = descriptor + start;
		len = (int)(end - start);
	}
	return asprintf(&name, "%.*s.%zu.%s.hds", len, folder, number, guid) < 0 ? NULL : name;
}

int parallels_create_part(struct img_creating *c, size_t number, uint64_t bytes, char **name,
			  struct img_error *err)
{
	char guid[IMG_GUID_CHARS + 1], braced[IMG_GUID_CHARS + 3];
	uint8_t random[IMG_GUID_BYTES];
	struct parallels_header h;
	struct img_storage *s;
	int rc = make_header(c, bytes, &h, err);

	/* no file that was ever here has it */
	if (!rc)
		rc = img_guid_new((const uint64_t[2]){ 0, 0 }, "file", random, err);
	if (rc)
		return rc;
	img_guid_print(random, guid);
	snprintf(braced, sizeof(braced), "{%s}", guid);
	*name = name_file(c->name, number, braced);
	if (!*name)
		return img_fail(err, -ENOMEM, "%s: out of memory", c->name);
	rc = c->create_file(c, *name, &s, err);
	return rc ? rc : create_file(c, s, &h, err);
}

static int create_folder(struct img_creating *c, const struct parallels_header *h,
			 struct img_error *err)
{
	char *name = name_file(c->name, 0, parallels_top_guid), *text = NULL;
	struct img_storage *s;
	int rc = -ENOMEM;

	if (name)
		text = parallels_descriptor_text(h->sectors, h->cluster_sectors, h->cylinders,
						 name);
	if (!text)
		img_fail(err, rc, "%s: out of memory", c->name);
	else
		rc = c->create_file(c, name, &s, err);
	if (!rc)
		rc = create_file(c, s, h, err);
	if (!rc)
		rc = img_storage_write(c->file, 0, text, strlen(text), err);
	free(text);
	free(name);
	return rc;
}

int parallels_create(struct img_creating *c, struct img_error *err)
{
	struct parallels_header h;
	int rc = make_header(c, c->size, &h, err);

	if (rc)
		return rc;
	return is_descriptor_name(c->name) ? create_folder(c, &h, err)
					   : create_file(c, c->file, &h, err);
}
