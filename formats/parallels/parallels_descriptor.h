/*
 * DiskDescriptor.xml: spec/parallels.md. Which file of a folder has which part of the disk, and
 * which snapshot is based on which.
 */
#ifndef FORMATS_PARALLELS_DESCRIPTOR_H
#define FORMATS_PARALLELS_DESCRIPTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"
#include "libimg/base/guid.h"
#include "libimg/base/xml.h"

#define PARALLELS_DESCRIPTOR_NAME "DiskDescriptor.xml"

extern const struct img_xml_rules parallels_xml_rules;

enum {
	PARALLELS_STORAGES_MAX = 4096,
	PARALLELS_SNAPSHOTS_MAX = 255,
};

/* What one snapshot has of one part of the disk. */
struct parallels_image {
	uint8_t guid[IMG_GUID_BYTES];
	bool plain;
	char *file; /* as it is in the XML */
};

/* A part of the disk, [start, end) in sectors. */
struct parallels_part {
	uint64_t start, end;
	size_t index;		  /* of its element among those of the document */
	uint32_t cluster_sectors; /* 0: not told */
	struct parallels_image *images;
	size_t count;
};

struct parallels_snapshot {
	uint8_t guid[IMG_GUID_BYTES], parent[IMG_GUID_BYTES]; /* parent all zeroes: none */
};

struct parallels_descriptor {
	uint64_t sectors;
	struct parallels_part *parts; /* in the order of the disk, without gaps */
	size_t part_count;
	struct parallels_snapshot *snapshots;
	size_t snapshot_count;
	uint8_t top[IMG_GUID_BYTES];
};

/* Does a file begin like one? */
bool parallels_is_descriptor(const char *head, size_t len);
/*
 * -EUCLEAN, -ENOTSUP (encrypted, padded), -ENOPKG, -ENOMEM; err without the file's name. To be
 * freed after a failure, too.
 */
int parallels_descriptor_parse(const char *text, size_t len, struct parallels_descriptor *out,
			       struct img_error *err);
void parallels_descriptor_free(struct parallels_descriptor *d);

/* The part's image of that snapshot; NULL: it has none. */
const struct parallels_image *parallels_find_image(const struct parallels_part *part,
						   const uint8_t guid[IMG_GUID_BYTES]);
/* NULL: there is no such snapshot. */
const struct parallels_snapshot *parallels_find_snapshot(const struct parallels_descriptor *d,
							 const uint8_t guid[IMG_GUID_BYTES]);

/* Of a new disk in one expanding file; malloc'd. NULL: no memory, or no UTF-8. */
char *parallels_descriptor_text(uint64_t sectors, uint32_t cluster_sectors, uint32_t cylinders,
				const char *file);

/* ---- parallels_edit.c: changes; what they do not know of stays as it is ---- */

/*
 * Another size of the disk, which is that of the last storage in another size: *out is the new text, malloc'd.
 * text is what d was parsed from. -EUCLEAN, -EFBIG: it would be longer than can be read.
 */
int parallels_descriptor_resize(const char *text, size_t len, const struct parallels_descriptor *d,
				uint64_t sectors, char **out, size_t *out_len,
				struct img_error *err);
/*
 * The present state becomes the snapshot of another GUID, older, and one that is based on it takes its GUID. files:
 * the expanding image that each part has of that.
 */
int parallels_descriptor_add_snapshot(const char *text, size_t len,
				      const struct parallels_descriptor *d,
				      const uint8_t older[IMG_GUID_BYTES], char *const *files,
				      char **out, size_t *out_len, struct img_error *err);

/* The GUID of a disk without snapshots. */
extern const char parallels_top_guid[];

#endif
