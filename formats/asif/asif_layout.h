/*
 * Bytes of Apple sparse images: spec/asif.md. Big-endian.
 */
#ifndef FORMATS_ASIF_LAYOUT_H
#define FORMATS_ASIF_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"
#include "libimg/base/guid.h"

enum {
	ASIF_HEADER_BYTES = 108, /* up to the last field that is known */
	ASIF_ENTRY_BYTES = 8,
	ASIF_DIRECTORIES = 2,
};

struct asif_header {
	uint64_t directory_off[ASIF_DIRECTORIES];
	uint8_t guid[IMG_GUID_BYTES]; /* in the order in which it is printed */
	uint64_t size, size_max;      /* guest bytes; directories reach as far as the latter */
	uint32_t chunk_bytes;	      /* what is stored together; a table has as many bytes */
	uint32_t block_bytes;	      /* 512 or 4096: what a bitmap has a pair of bits for */
	/* From these two: */
	uint64_t group_chunks; /* data entries of a table, before each entry of a bitmap */
	uint64_t table_chunks; /* data entries of a table */
};

/* What a table says of a chunk. */
enum asif_status {
	ASIF_NEVER_WRITTEN = 0,
	ASIF_WRITTEN = 1,
	ASIF_UNMAPPED = 2,
	ASIF_PARTLY = 3, /* see the bitmap, of whose blocks it has the same meaning, but for this one */
};

struct asif_entry {
	enum asif_status status;
	uint64_t chunk;	   /* of the file */
	unsigned reserved; /* bits that must be zero */
};

bool asif_is_asif(const uint8_t *head, size_t len);
/*
 * The first ASIF_HEADER_BYTES. Afterwards the last three are in range, and no place of a directory's or a table's entry
 * can overflow. -EMEDIUMTYPE, -EUCLEAN, -ENOTSUP. The error's text begins with the field.
 */
int asif_parse_header(const uint8_t *bytes, size_t len, struct asif_header *out, struct img_error *err);
struct asif_entry asif_parse_entry(const uint8_t bytes[ASIF_ENTRY_BYTES]);

/* Guest bytes that a table covers. */
static inline uint64_t asif_table_cover(const struct asif_header *h)
{
	return h->table_chunks * h->chunk_bytes;
}

/* Entries of a directory, behind its version. */
static inline uint64_t asif_table_count(const struct asif_header *h)
{
	uint64_t cover = asif_table_cover(h);

	return h->size_max / cover + (h->size_max % cover != 0);
}

/* Number of a table's entry for its n-th chunk, and of that for the chunk's bitmap. */
static inline uint64_t asif_data_entry(const struct asif_header *h, uint64_t n)
{
	return n + n / h->group_chunks;
}

static inline uint64_t asif_bitmap_entry(const struct asif_header *h, uint64_t n)
{
	return (n / h->group_chunks + 1) * (h->group_chunks + 1) - 1;
}

#endif
