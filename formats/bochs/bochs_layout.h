/*
 * Bytes of Bochs redologs: spec/bochs.md.
 */
#ifndef FORMATS_BOCHS_LAYOUT_H
#define FORMATS_BOCHS_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"

enum {
	BOCHS_SECTOR = 512,
	BOCHS_HEADER_BYTES = 96, /* up to the last field; the header says how long it is */
	BOCHS_ENTRY_BYTES = 4,
};

#define BOCHS_ENTRY_FREE UINT32_C(0xffffffff)
/* bximage goes up to 8 MiB. */
#define BOCHS_EXTENT_BYTES_MAX (UINT32_C(1) << 29)

struct bochs_header {
	uint32_t version;
	uint32_t catalog_off;	  /* the header's length */
	uint32_t catalog_entries; /* at least one for each extent of the disk */
	uint32_t bitmap_bytes;	  /* in front of each extent's data, in whole sectors */
	uint32_t extent_bytes;	  /* of the disk in each extent, a multiple of 512 */
	uint64_t size;		  /* guest bytes, whole sectors */
};

bool bochs_is_redolog(const uint8_t *head, size_t len);
/*
 * The first BOCHS_HEADER_BYTES. Afterwards no offset of an extent can overflow, and each sector of an extent has
 * a bit. -EMEDIUMTYPE, -EUCLEAN; -ENOTSUP: not a growing image. The error's text begins with the field.
 */
int bochs_parse_header(const uint8_t *bytes, size_t len, struct bochs_header *out, struct img_error *err);

static inline uint64_t bochs_entry_at(const struct bochs_header *h, uint64_t extent)
{
	return h->catalog_off + extent * BOCHS_ENTRY_BYTES;
}

/* Bytes from one extent to the next in the file. */
static inline uint64_t bochs_stride(const struct bochs_header *h)
{
	return (uint64_t)h->bitmap_bytes + h->extent_bytes;
}

/* Where the bitmap is of the extent to which an entry leads; its data follows. */
static inline uint64_t bochs_extent_at(const struct bochs_header *h, uint32_t entry)
{
	return bochs_entry_at(h, h->catalog_entries) + entry * bochs_stride(h);
}

#endif
