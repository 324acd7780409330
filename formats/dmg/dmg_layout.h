/*
 * Bytes of UDIF disk images (.dmg): spec/dmg.md. Big-endian.
 */
#ifndef FORMATS_DMG_LAYOUT_H
#define FORMATS_DMG_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"

enum {
	DMG_SECTOR = 512,
	DMG_TRAILER_BYTES = 512,
	DMG_TABLE_BYTES = 204, /* of a block table, in front of its entries */
	DMG_ENTRY_BYTES = 40,
	DMG_CHECKSUM_CRC32 = 2,
};

/* What QEMU allows for a chunk that is compressed: both what is stored and what comes out. */
#define DMG_CHUNK_BYTES_MAX (UINT64_C(64) << 20)

struct dmg_checksum {
	uint32_t type, bits; /* DMG_CHECKSUM_CRC32, 32; 0: none */
	uint32_t value;	     /* of such a one */
};

struct dmg_trailer {
	uint64_t data_off, data_len; /* data fork: what offsets of chunks count from */
	uint64_t fork_off, fork_len; /* resource fork; length 0: none */
	uint64_t xml_off, xml_len;   /* property list; length 0: none */
	uint64_t sectors;	     /* of the disk */
	uint32_t segment, segments;  /* 1 of 1; both may be 0 */
	struct dmg_checksum data;    /* of the data fork's bytes */
	struct dmg_checksum master;  /* of the checksums of all block tables */
};

/* A block table: chunks of a part of the disk. */
struct dmg_table {
	uint64_t first_sector, sectors;
	uint64_t data_off; /* added to offsets of chunks */
	uint32_t entries;
	struct dmg_checksum checksum; /* of what the chunks unpack to */
};

enum {
	DMG_ZEROES = 0,
	DMG_PLAIN = 1,
	DMG_IGNORED = 2, /* of no significance: zeroes */
	DMG_COMMENT = 0x7ffffffe,
};
#define DMG_ADC UINT32_C(0x80000004)
#define DMG_ZLIB UINT32_C(0x80000005)
#define DMG_BZIP2 UINT32_C(0x80000006)
#define DMG_LZFSE UINT32_C(0x80000007)
#define DMG_LZMA UINT32_C(0x80000008)
#define DMG_LAST UINT32_C(0xffffffff)

struct dmg_entry {
	uint32_t type;
	uint64_t sector, sectors; /* the first one counts from the table's first sector */
	uint64_t off, len;	  /* stored bytes; off counts from the table's data_off */
};

/* Does a trailer begin at bytes? DMG_TRAILER_BYTES of them can be read. */
bool dmg_is_trailer(const uint8_t *bytes);
/*
 * Which of the bytes is the first of a trailer? tail: the end of a file. Mostly a trailer is the last 512 bytes, but up to
 * 511 more may follow. -1: none.
 */
int64_t dmg_find_trailer(const uint8_t *tail, size_t len);
/* The trailer, which is one. -EUCLEAN: a number that cannot be; the error's text begins with the field. */
int dmg_parse_trailer(const uint8_t bytes[DMG_TRAILER_BYTES], struct dmg_trailer *out, struct img_error *err);

bool dmg_is_table(const uint8_t *bytes, size_t len);
/* A block table, which is one, of len bytes. Afterwards its entries are in it. -EUCLEAN. */
int dmg_parse_table(const uint8_t *bytes, size_t len, struct dmg_table *out, struct img_error *err);
void dmg_parse_entry(const uint8_t bytes[DMG_ENTRY_BYTES], struct dmg_entry *out);

/* Has an entry of this type sectors? */
static inline bool dmg_has_sectors(const struct dmg_entry *e)
{
	return e->type != DMG_COMMENT && e->type != DMG_LAST && e->sectors;
}

static inline bool dmg_is_zeroes(uint32_t type)
{
	return type == DMG_ZEROES || type == DMG_IGNORED;
}

#endif
