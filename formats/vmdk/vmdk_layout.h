/*
 * VMDK on disk: the three layouts of a sparse extent, bytes only. spec/vmdk.md. Little-endian.
 *
 * hosted   "KDMV": VMware Workstation, VirtualBox, QEMU; also streamOptimized
 * COWD     ESX's older snapshots (vmfsSparse)
 * SESparse ESXi's newer snapshots (seSparse)
 *
 * All three map grains through a directory of tables. What differs is the width and the meaning of
 * an entry; struct vmdk_sparse hides that from the driver.
 */
#ifndef FORMATS_VMDK_LAYOUT_H
#define FORMATS_VMDK_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"

enum {
	VMDK_SECTOR = 512,
	VMDK_HOSTED_HEADER_BYTES = 512,
	VMDK_COWD_HEADER_BYTES = 2048,
	VMDK_SE_HEADER_BYTES = 512,
	VMDK_HEADER_BYTES_MAX = VMDK_COWD_HEADER_BYTES,
	VMDK_GRAIN_MARKER_BYTES = 12, /* before the stream of a compressed grain */
};

/*
 * Limits of ours. The grain and the directory: as QEMU. A compressed grain is decompressed in memory;
 * every known writer has 64 KiB.
 */
#define VMDK_GRAIN_SECTORS_MAX UINT64_C(0x200000) /* 1 GiB */
#define VMDK_COMPRESSED_GRAIN_BYTES_MAX (UINT64_C(2) << 20)
#define VMDK_DIRECTORY_ENTRIES_MAX (UINT64_C(32) << 20)
#define VMDK_BYTES_MAX ((uint64_t)INT64_MAX & ~UINT64_C(511))

enum vmdk_kind {
	VMDK_NOT_SPARSE,
	VMDK_HOSTED,
	VMDK_COWD,
	VMDK_SE,
};

/* A sparse extent's geometry; offsets and sizes in bytes. */
struct vmdk_sparse {
	enum vmdk_kind kind;
	uint32_t version;
	uint64_t file_bytes; /* the file that it was parsed from */
	uint64_t capacity_bytes;
	uint64_t grain_bytes; /* a power of two, 512 .. 1 GiB */
	uint32_t table_entries;
	uint32_t entry_bytes; /* of directory and tables: 4, SESparse 8 */
	uint64_t directory_entries;
	uint64_t directory_off;	 /* in the file with all its entries, unless at_end */
	uint64_t redundant_off;	 /* the directory's copy, in the file as well; 0: none */
	uint64_t descriptor_off; /* hosted; not checked against the file; 0: none */
	uint64_t descriptor_bytes;
	uint64_t overhead_sectors; /* hosted: metadata in front of the grains; not checked */
	bool at_end;		   /* hosted: the directory is named by the footer */
	uint64_t header_bytes;	   /* a check's: the capacity that the header tells */
	bool directory_lost;	   /* hosted: it is past the end; directory_off is the copy's */
	bool redundant_lost;	   /* hosted: the copy is past the end */
	bool zeroed_grains;	   /* hosted: table entry 1 is a grain of zeroes */
	bool compressed;
	bool markers; /* hosted: a marker precedes each compressed grain */
	bool unclean;
	/* SESparse */
	uint64_t volatile_off;
	uint64_t tables_off, tables_bytes;
	uint64_t grains_off, grains_bytes;
};

/* What a header of ours says, besides what is the same in all; places and sizes in sectors. */
struct vmdk_header {
	uint64_t capacity;
	uint64_t descriptor, descriptor_sectors; /* 0, 0: none */
	uint64_t redundant;			 /* 0: none */
	uint64_t directory;			 /* VMDK_DIRECTORY_AT_END: see the footer */
	uint64_t overhead;
	bool zeroed_grains;
	bool stream; /* compressed, with markers */
};
#define VMDK_DIRECTORY_AT_END UINT64_MAX
/* What we write: grains of 64 KiB, tables of 512 entries. */
enum {
	VMDK_GRAIN_SECTORS = 128,
	VMDK_GRAIN_BYTES = VMDK_GRAIN_SECTORS * VMDK_SECTOR,
	VMDK_TABLE_ENTRIES = 512,
	VMDK_TABLE_SECTORS = VMDK_TABLE_ENTRIES * 4 / VMDK_SECTOR,
	VMDK_OFF_UNCLEAN = 72, /* in the file: a byte, 1: not closed cleanly */
};
/* Where a header has its capacity, and the places of its directories: le64, in sectors. */
enum {
	VMDK_OFF_CAPACITY = 12,
	VMDK_OFF_DESCRIPTOR = 28,
	VMDK_OFF_REDUNDANT = 48,
	VMDK_OFF_DIRECTORY = 56,
};
/* The 512 bytes of a header or a footer. */
void vmdk_encode_header(const struct vmdk_header *h, uint8_t *out);
/* A metadata marker (a sector): `sectors` of what type says follow. */
void vmdk_encode_marker(uint32_t type, uint64_t sectors, uint8_t *out);

/* What the first bytes of a file say. len may be anything. */
enum vmdk_kind vmdk_sparse_kind(const uint8_t *bytes, size_t len);

/*
 * Parse the header of a sparse extent of any kind. len: VMDK_HEADER_BYTES_MAX, or less if the file
 * ends before. A hosted directory that is not in the file is replaced by its redundant copy.
 * -EMEDIUMTYPE: no such header. -EUCLEAN, -ENOTSUP.
 */
int vmdk_parse_sparse(const uint8_t *bytes, size_t len, uint64_t file_bytes,
		      struct vmdk_sparse *out, struct img_error *err);

/*
 * Parse the footer (the 512 bytes of a header) of an extent whose header says at_end; *s is the
 * header, and becomes what the footer says. Both must agree on everything but the directory.
 */
int vmdk_parse_footer(const uint8_t *bytes, size_t len, struct vmdk_sparse *s,
		      struct img_error *err);

/* SESparse: the 512 bytes at volatile_off. -ENOTSUP: a journal waits to be replayed. */
int vmdk_parse_se_volatile(const uint8_t *bytes, size_t len, struct img_error *err);

/* Metadata markers of streams; a footer is announced by one. */
enum {
	VMDK_MARKER_END = 0,
	VMDK_MARKER_TABLE = 1,
	VMDK_MARKER_DIRECTORY = 2,
	VMDK_MARKER_FOOTER = 3,
	VMDK_MARKER_PROGRESS = 4, /* vSphere, while it has nothing to send; tells nothing */
};
/* The first VMDK_MARKER_BYTES of any marker. */
struct vmdk_marker {
	uint64_t value; /* a grain's guest sector; metadata: sectors that follow */
	uint32_t bytes; /* of a compressed grain; 0: metadata */
	uint32_t type;	/* metadata: VMDK_MARKER_* */
};
enum { VMDK_MARKER_BYTES = 16 };
void vmdk_parse_marker(const uint8_t *bytes, struct vmdk_marker *out);
/* Can a grain of the disk have this marker? m->bytes > 0. */
bool vmdk_is_grain_marker(const struct vmdk_sparse *s, const struct vmdk_marker *m);
/*
 * Sectors that follow a marker of metadata. Xen Orchestra says 0 for all: then all tables of the
 * disk follow, its directory, or a footer. False: no such marker.
 */
bool vmdk_marker_sectors(const struct vmdk_sparse *s, const struct vmdk_marker *m,
			 uint64_t *sectors);
/* Is this sector the marker that comes before a footer? */
bool vmdk_is_footer_marker(const uint8_t *sector);

/*
 * The marker of a compressed grain (VMDK_GRAIN_MARKER_BYTES at marker_off) of the grain that
 * begins at guest byte grain_off of the extent: *stored_bytes of stream follow it. -EUCLEAN.
 */
int vmdk_parse_grain_marker(const struct vmdk_sparse *s, const uint8_t *bytes, uint64_t marker_off,
			    uint64_t grain_off, uint32_t *stored_bytes, struct img_error *err);

/* One entry of a directory or a table. */
enum vmdk_entry_kind {
	VMDK_ABSENT, /* not in this image: the parent's, or zeroes */
	VMDK_ZERO,
	VMDK_STORED,  /* at file_off */
	VMDK_DAMAGED, /* no entry can be so; value tells */
};
struct vmdk_entry {
	enum vmdk_entry_kind kind;
	uint64_t file_off; /* STORED */
	uint64_t value;	   /* as it was read */
};

/* A directory's entry: STORED: a whole table is in the file at file_off (a multiple of 512). */
struct vmdk_entry vmdk_directory_entry(const struct vmdk_sparse *s, const uint8_t *slot);
/* A table's entry: STORED: need bytes are in the file from file_off (a multiple of 512) on. */
struct vmdk_entry vmdk_table_entry(const struct vmdk_sparse *s, const uint8_t *slot, uint64_t need);

/*
 * Bytes that must be in the file from where a table entry points on, for the grain at grain_off of
 * an extent of extent_bytes: the last grain may be cut; of a compressed one only the start counts.
 */
static inline uint64_t vmdk_bytes_needed(const struct vmdk_sparse *s, uint64_t extent_bytes,
					 uint64_t grain_off)
{
	if (s->compressed)
		return s->markers ? VMDK_GRAIN_MARKER_BYTES + 1 : 1;
	return min_u64(s->grain_bytes, extent_bytes - grain_off);
}

/* A compressed grain has at most so many bytes; as QEMU. */
static inline uint64_t vmdk_compressed_max(const struct vmdk_sparse *s)
{
	return 2 * s->grain_bytes - VMDK_GRAIN_MARKER_BYTES;
}

/* Bytes of one table, and the guest bytes that it covers. */
static inline uint64_t vmdk_table_bytes(const struct vmdk_sparse *s)
{
	return (uint64_t)s->table_entries * s->entry_bytes;
}

static inline uint64_t vmdk_table_covers(const struct vmdk_sparse *s)
{
	return s->table_entries * s->grain_bytes;
}

#endif
