/*
 * VDI on disk: spec/vdi.md. Offsets, parsing, encoding: bytes only, no files. Little-endian.
 */
#ifndef FORMATS_VDI_LAYOUT_H
#define FORMATS_VDI_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"
#include "libimg/base/guid.h"

enum {
	VDI_SECTOR = 512, /* the header with all that we change is in the first one */
	VDI_ENTRY_BYTES = 4,
	VDI_HEADER0_BYTES = 420, /* version 0: the block map follows */
	VDI_PREHEADER_BYTES = 72,
	VDI_HEADER1_BYTES_MIN = 0x180, /* of version 1.1, counted from VDI_PREHEADER_BYTES */
	VDI_HEADER1_BYTES = 0x190,     /* with the LCHS geometry */
};

/* Block map entries that are no index. */
#define VDI_ENTRY_FREE UINT32_C(0xffffffff) /* never written: the parent's, or zeroes */
#define VDI_ENTRY_ZERO UINT32_C(0xfffffffe)

/* Blocks of a disk: what keeps the block map below 2 GiB, as QEMU has it. */
#define VDI_BLOCKS_MAX UINT32_C(0x1fffff80)
#define VDI_BLOCK_BYTES_MAX (UINT32_C(1) << 30)
#define VDI_EXTRA_BYTES_MAX (UINT32_C(1) << 30)

enum vdi_type {
	VDI_DYNAMIC = 1,
	VDI_STATIC = 2,
	VDI_UNDO = 3,
	VDI_DIFFERENCING = 4,
};

struct vdi_header {
	bool version0;
	enum vdi_type type;
	uint64_t map_off, data_off; /* data_off: of block 0's extra bytes */
	uint64_t size;		    /* guest bytes, rounded up to a multiple of 512 */
	uint32_t block_bytes;	    /* a multiple of 512 */
	uint32_t extra_bytes;	    /* in front of each block */
	uint32_t blocks;	    /* entries of the block map; the disk's and maybe more */
	uint32_t allocated;
	uint8_t uuid[IMG_GUID_BYTES], modification[IMG_GUID_BYTES];
	uint8_t parent[IMG_GUID_BYTES];
	uint8_t parent_modification[IMG_GUID_BYTES]; /* version 0: zero */
};

static inline bool vdi_entry_is_index(uint32_t entry)
{
	return entry < VDI_ENTRY_ZERO;
}

/* Bytes from one block to the next in the file. */
static inline uint64_t vdi_stride(const struct vdi_header *h)
{
	return (uint64_t)h->block_bytes + h->extra_bytes;
}

bool vdi_is_vdi(const uint8_t *head, size_t len);
/*
 * The first VDI_SECTOR bytes. Afterwards: the block map lies behind the header and in front of the data, all
 * blocks of the disk have an entry, and no offset of a block can overflow. -EMEDIUMTYPE, -EUCLEAN,
 * -ENOTSUP. The error's text begins with the field.
 */
int vdi_parse_header(const uint8_t *bytes, size_t len, struct vdi_header *out, struct img_error *err);
/*
 * Put the fields into bytes, the first sector, where all else stays. upgrade: it is of version 0 and becomes
 * one of version 1.1 (h->version0 is false then).
 */
void vdi_encode_header(const struct vdi_header *h, bool upgrade, uint8_t bytes[VDI_SECTOR]);
/* A new header of version 1.1, with the words and geometry that vdi_encode_header() leaves alone. */
void vdi_encode_new_header(const struct vdi_header *h, uint8_t bytes[VDI_SECTOR]);
/* Where the number of allocated blocks is in the file. */
uint64_t vdi_allocated_off(const struct vdi_header *h);

#endif
