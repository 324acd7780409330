/*
 * The bytes of an expanding Parallels image: spec/parallels.md. Parsing and encoding, no I/O.
 */
#ifndef FORMATS_PARALLELS_LAYOUT_H
#define FORMATS_PARALLELS_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct img_error;

enum {
	PARALLELS_SECTOR = 512,
	PARALLELS_HEADER_BYTES = 64,
	PARALLELS_MAGIC_BYTES = 16,
	PARALLELS_BAT_OFF = PARALLELS_HEADER_BYTES,
	PARALLELS_ENTRY_BYTES = 4,
	PARALLELS_VERSION = 2,
	PARALLELS_HEADS = 16,
	PARALLELS_TRACK_SECTORS = 32, /* what we count cylinders with */
	PARALLELS_FLAG_EMPTY = 1,
};

/* in_use */
#define PARALLELS_OPEN UINT32_C(0x746f6e59)
#define PARALLELS_CLOSED UINT32_C(0x312e3276)

#define PARALLELS_CLUSTER_SECTORS_MAX UINT32_C(0x3fe00f) /* of every reader: INT32_MAX / 513 */
#define PARALLELS_ENTRIES_MAX UINT32_C(0x1fffffff)
#define PARALLELS_DISK_BYTES_MAX (UINT64_C(1) << 62)

struct parallels_header {
	bool extended; /* WithouFreSpacExt: entries count clusters, not sectors */
	uint32_t heads, cylinders;
	uint32_t cluster_sectors;
	uint32_t entries; /* of the BAT */
	uint64_t sectors; /* of the disk */
	uint32_t in_use;
	uint32_t data_off; /* in sectors; 0: right behind the BAT, of the old kind only */
	uint32_t flags;
	uint64_t extension_off; /* in sectors; 0: none */
};

bool parallels_is_ours(const uint8_t *head, size_t len);
/*
 * -EMEDIUMTYPE: another magic; -ENOTSUP: another version; -EUCLEAN: what no disk can have. The
 * places (data_off, extension_off) are not judged.
 */
int parallels_parse_header(const uint8_t bytes[PARALLELS_HEADER_BYTES],
			   struct parallels_header *out, struct img_error *err);
void parallels_encode_header(const struct parallels_header *h,
			     uint8_t bytes[PARALLELS_HEADER_BYTES]);

static inline uint64_t parallels_cluster_bytes(const struct parallels_header *h)
{
	return (uint64_t)h->cluster_sectors * PARALLELS_SECTOR;
}

/* The unit that BAT entries count in, in bytes. */
static inline uint64_t parallels_entry_scale(const struct parallels_header *h)
{
	return h->extended ? parallels_cluster_bytes(h) : PARALLELS_SECTOR;
}

/* Where a BAT of so many entries ends: whole sectors. */
static inline uint64_t parallels_bat_end(uint64_t entries)
{
	uint64_t end = PARALLELS_BAT_OFF + entries * PARALLELS_ENTRY_BYTES;

	return (end + PARALLELS_SECTOR - 1) / PARALLELS_SECTOR * PARALLELS_SECTOR;
}

/*
 * The first byte at which data may be. *wrong: the header's data_off cannot be it, and stands for
 * the least place that can. file_bytes: the file's length.
 */
uint64_t parallels_data_start(const struct parallels_header *h, uint64_t file_bytes, bool *wrong);

/* ---- The format extension ---- */

enum {
	PARALLELS_EXTENSION_BYTES = 24, /* magic and MD5 of the rest of the cluster */
	PARALLELS_MD5_BYTES = 16,
	PARALLELS_SECTION_BYTES = 24,
	PARALLELS_SECTION_NECESSARY = 1,
	PARALLELS_SECTION_TRANSIT = 2,
};

#define PARALLELS_EXTENSION_MAGIC UINT64_C(0xab234cef23dcea87)
#define PARALLELS_SECTION_END UINT64_C(0)
#define PARALLELS_SECTION_BITMAP UINT64_C(0x20385fae252cb34a)

struct parallels_section {
	uint64_t magic, flags;
	uint32_t bytes; /* of data, behind this; then padding to 8 */
};
void parallels_parse_section(const uint8_t bytes[PARALLELS_SECTION_BYTES],
			     struct parallels_section *out);

#endif
