/*
 * An open VHD: what the driver's parts share.
 */
#ifndef FORMATS_VHD_VHD_STATE_H
#define FORMATS_VHD_VHD_STATE_H

#include "formats/vhd/vhd_layout.h"
#include "libimg/base/range_map.h"
#include "libimg/base/unit_alloc.h"
#include "libimg/engine/driver.h"

/*
 * Blocks that are written to. A new one that takes the place of a freed one is filled as a whole, and the
 * largest that any program makes is 16 MiB (XenServer, VirtualBox, Hyper-V: 2 MiB).
 */
#define VHD_WRITE_BLOCK_MAX (UINT32_C(256) << 20)

/* A locator's data: a path. Windows's are at most 32767 characters long. */
enum { VHD_LOCATOR_DATA_MAX = 64 << 10 };

/* Where the disk's footer was found. */
enum vhd_tail {
	VHD_TAIL_MISSING, /* the end of the file is no footer; there is the copy at its start */
	VHD_TAIL_SOUND,
	VHD_TAIL_DIFFERS, /* from the copy */
};

struct vhd {
	struct vhd_footer footer;
	struct vhd_header header; /* not FIXED */
	uint64_t blocks;	  /* entries of the table that are used */
	bool head_bad;		  /* the copy at the start cannot be used: only for a check */
	enum vhd_tail tail;
	uint64_t tail_off;	       /* if it is not missing */
	struct img_range_map metadata; /* all that is no block; blocks only while opening */
	uint64_t batmap_off;	       /* Citrix's map of full blocks; 0: none */

	/* Writing; under the metadata lock. */
	struct img_unit_alloc units; /* bitmap, block, and what aligns the next one */
	bool can_allocate;	     /* units is there */
	uint64_t stale_end;	     /* what was given back below may hold anything */
	bool tail_due;		     /* the footer at the end is to be written before the first change */
};

static inline bool vhd_is_fixed(const struct vhd *v)
{
	return v->footer.type == VHD_FIXED;
}

static inline bool vhd_is_child(const struct vhd *v)
{
	return v->footer.type == VHD_DIFFERENCING;
}

/* A block with its bitmap. */
static inline uint64_t vhd_stored_bytes(const struct vhd *v)
{
	return (uint64_t)v->header.bitmap_bytes + v->header.block_bytes;
}

/* The place of a block that is in the file: of its bitmap. */
static inline uint64_t vhd_entry_off(uint32_t entry)
{
	return (uint64_t)entry * VHD_SECTOR;
}

/* May the entry of block `number` be followed? -EUCLEAN: it leads to metadata, or out of the file. */
int vhd_check_entry(const struct img *img, uint64_t number, uint32_t entry, struct img_error *err);

/* vhd_open.c. The driver's open(). */
int vhd_open(struct img *img, struct img_opening *o, struct img_error *err);
void vhd_free(struct vhd *v); /* NULL is fine */
/* What is metadata, as the state has it now. -EUCLEAN: two pieces overlap; -ENOMEM. */
int vhd_list_metadata(struct img *img, struct vhd *v, struct img_error *err);
/* The footer at the end of a file, if there is one that is sound: *off. -ENODATA: not. */
int vhd_find_tail(struct img_storage *s, struct vhd_footer *out, uint64_t *off, struct img_error *err);

/* vhd_parent.c. The driver's entries; and what an open child says of its parent. */
int vhd_keep_parent(struct img *img, const struct vhd *v, struct img_error *err);
int vhd_identify(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err);
int vhd_parent_opened(struct img *img, struct img_error *err);

#endif
