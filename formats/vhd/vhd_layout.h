/*
 * VHD as it lies in a file: the footer, the header of a dynamic disk, the block allocation table, sector
 * bitmaps and parent locators. Bytes only; spec/vhd.md. Big-endian; offsets from the start of the structure.
 */
#ifndef FORMATS_VHD_VHD_LAYOUT_H
#define FORMATS_VHD_VHD_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/guid.h"

enum {
	VHD_SECTOR = 512,
	VHD_FOOTER_BYTES = 512,
	VHD_SHORT_FOOTER_BYTES = 511, /* Virtual PC before 2004 */
	VHD_HEADER_BYTES = 1024,
	VHD_ENTRY_BYTES = 4,
	VHD_LOCATORS = 8,
	VHD_BATMAP_HEADER_BYTES = 512,

	/* Of the footer. */
	VHD_OFF_DATA = 16,
	VHD_OFF_TIME = 24,
	VHD_OFF_CREATOR = 28,
	VHD_OFF_ORIGINAL_SIZE = 40,
	VHD_OFF_SIZE = 48,
	VHD_OFF_GEOMETRY = 56,
	VHD_OFF_TYPE = 60,
	VHD_OFF_CHECKSUM = 64,
	VHD_OFF_UUID = 68,
	VHD_OFF_SAVED_STATE = 84,

	/* Of the header. */
	VHD_OFF_TABLE = 16,
	VHD_OFF_ENTRIES = 28,
	VHD_OFF_BLOCK = 32,
	VHD_OFF_HEADER_CHECKSUM = 36,
	VHD_OFF_PARENT_UUID = 40,
	VHD_OFF_PARENT_TIME = 56,
	VHD_OFF_PARENT_NAME = 64,
	VHD_PARENT_NAME_BYTES = 512,
	VHD_OFF_LOCATORS = 576,
	VHD_LOCATOR_BYTES = 24,
};

#define VHD_ABSENT UINT32_MAX /* an entry of the table: the block is not in the file */
/* Seconds between 1970 and 2000, which time stamps count from. */
#define VHD_EPOCH UINT64_C(946684800)
/* The largest disk that its writers make: 2040 GiB. */
#define VHD_SIZE_MAX (UINT64_C(0xff000000) * VHD_SECTOR)
/* Entries count sectors in 32 bits, the last value is VHD_ABSENT. */
#define VHD_FILE_MAX (UINT64_C(0xffffffff) * VHD_SECTOR)

enum vhd_type {
	VHD_FIXED = 2,
	VHD_DYNAMIC = 3,
	VHD_DIFFERENCING = 4,
};

struct vhd_geometry {
	uint32_t cylinders, heads, sectors;
};

struct vhd_footer {
	uint8_t bytes[VHD_FOOTER_BYTES]; /* as it was read: what is not understood is kept */
	enum vhd_type type;
	uint64_t header_off; /* not FIXED */
	uint32_t time;	     /* seconds since 2000 */
	uint64_t size;	     /* guest bytes by the rule of its creator */
	uint64_t current;    /* the size that it tells in bytes */
	uint8_t uuid[IMG_GUID_BYTES];
	bool saved_state;
};

/* Of a dynamic or differencing disk. */
struct vhd_header {
	uint8_t bytes[VHD_HEADER_BYTES];
	uint64_t table_off;
	uint32_t entries;
	uint32_t block_bytes;  /* a power of two */
	uint32_t bitmap_bytes; /* in front of each block, whole sectors */
	uint8_t parent_uuid[IMG_GUID_BYTES];
	uint32_t parent_time;
};

struct vhd_locator {
	char code[4]; /* four zeroes: none */
	uint32_t space, length;
	uint64_t off; /* in the file */
};

/* One's complement of the sum of the bytes but for the four at `at`, where it stands. */
uint32_t vhd_checksum(const uint8_t *bytes, size_t len, size_t at);

/* bytes: VHD_FOOTER_BYTES. -EMEDIUMTYPE: none; -EUCLEAN, -ENOTSUP. */
int vhd_parse_footer(const uint8_t *bytes, struct vhd_footer *out, struct img_error *err);
/* After a change of the bytes: the checksum in them. */
void vhd_seal_footer(uint8_t bytes[VHD_FOOTER_BYTES]);
/*
 * bytes: VHD_HEADER_BYTES; need: guest bytes that its table has to cover. -EBADMSG: the signature or the
 * checksum is wrong; -EUCLEAN, -ENOTSUP.
 */
int vhd_parse_header(const uint8_t *bytes, uint64_t need, struct vhd_header *out,
		     struct img_error *err);
void vhd_seal_header(uint8_t bytes[VHD_HEADER_BYTES]);

void vhd_parse_locator(const uint8_t *header, unsigned index, struct vhd_locator *out);
void vhd_encode_locator(uint8_t *header, unsigned index, const struct vhd_locator *locator);

/* The geometry that the format's document gives a disk of so many sectors; it may be smaller. */
struct vhd_geometry vhd_geometry_of(uint64_t sectors);
static inline uint64_t vhd_geometry_sectors(const struct vhd_geometry *g)
{
	return (uint64_t)g->cylinders * g->heads * g->sectors;
}
/* 65535 x 16 x 255: what is larger has no geometry, and the size in bytes counts. */
extern const struct vhd_geometry vhd_geometry_max;

/* What a new disk's footer says. */
struct vhd_new_footer {
	enum vhd_type type;
	bool exact; /* the size in bytes counts, else the geometry, which has it exactly */
	uint64_t size;
	uint32_t time;
	uint8_t uuid[IMG_GUID_BYTES];
};
void vhd_encode_footer(const struct vhd_new_footer *n, uint8_t out[VHD_FOOTER_BYTES]);
/* Another size; from then on the size in bytes counts. */
void vhd_resize_footer(uint8_t bytes[VHD_FOOTER_BYTES], uint64_t size);
/* Without a parent. */
void vhd_encode_header(uint64_t table_off, uint32_t entries, uint32_t block_bytes,
		       uint8_t out[VHD_HEADER_BYTES]);

/* In front of a block of so many bytes. */
uint32_t vhd_bitmap_bytes(uint32_t block_bytes);

/* Blocks of a disk. */
static inline uint64_t vhd_blocks(uint64_t size, uint32_t block_bytes)
{
	return div_round_up_u64(size, block_bytes);
}

/* ---- Sector bitmaps: a bit a sector, the most significant first ---- */

/* The bits from `first` on, up to `count`, that are as that one is: how many. */
uint64_t vhd_bit_run(const uint8_t *bits, uint64_t first, uint64_t count, bool *set);
void vhd_set_bits(uint8_t *bits, uint64_t first, uint64_t count);

/* ---- Parent locators ---- */

/*
 * The name that a locator's data of length bytes gives, as UTF-8 with "/" in what is relative: malloc'd.
 * *other: the same name read in another way (a URL's escapes), or NULL. -ENOTSUP: not a kind that
 * names a file; -EUCLEAN: it cannot be read; -ENOMEM.
 */
int vhd_locator_name(const struct vhd_locator *l, const uint8_t *data, char **out, char **other);
/* The header's own parent name, "" if there is none. */
int vhd_parent_name(const uint8_t *header, char **out);
/* Put it there. -EILSEQ: not UTF-8; -ENAMETOOLONG; -ENOMEM. */
int vhd_set_parent_name(uint8_t *header, const char *name);

#endif
