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

/* Of a new disk: 2040 GiB in blocks of 64 KiB, and a table of 128 MiB. */
enum { VHD_BLOCKS_MAX = 1 << 25 };

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
	bool for_check;		  /* opened for a check or a repair: the guest's bytes stay as they are */
	bool head_bad;		  /* the copy at the start cannot be used: only for a check */
	bool header_bad;	  /* the file's is damaged, and `header` is what it was: the same */
	enum vhd_tail tail;
	uint64_t tail_off;	       /* if it is not missing */
	struct img_range_map metadata; /* all that is no block; blocks only while opening */
	uint64_t batmap_off;	       /* Citrix's map of full blocks; 0: none */

	/* Writing; under the metadata lock. */
	struct img_unit_alloc units; /* bitmap, block, and what aligns the next one */
	uint64_t stale_end;	     /* what was given back below may hold anything */
	bool tail_due;		     /* the footer at the end is to be written before the first change */
	bool no_tail;		     /* a device whose blocks leave no room for it */
};

extern const struct img_driver vhd_driver;

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

/* vhd_footer.c. The footer at the end of a file, if there is one that is sound: *off. -ENODATA: not. */
int vhd_find_tail(struct img_storage *s, struct vhd_footer *out, uint64_t *off, struct img_error *err);
/* Write it there: behind the last block, or where a device ends. */
int vhd_write_tail(struct img *img, struct img_error *err);
/* What a device has room for in front of that footer; UINT64_MAX: no device. */
uint64_t vhd_device_room(const struct img_storage *s);

/* vhd_open.c. The driver's open(). */
int vhd_open(struct img *img, struct img_opening *o, struct img_error *err);
void vhd_free(struct vhd *v); /* NULL is fine */

/* vhd_metadata.c. What is metadata, as the state has it now. -EUCLEAN: two pieces overlap; -ENOMEM. */
int vhd_list_metadata(struct img *img, struct vhd *v, struct img_error *err);

/* vhd_alloc.c. May the entry of block `number` be followed? -EUCLEAN: it leads to metadata, or out of the file. */
int vhd_check_entry(const struct img *img, uint64_t number, uint32_t entry, struct img_error *err);
/* All that writing to an image needs to know; refuses what cannot be written. */
int vhd_prepare_writing(struct img *img, struct vhd *v, struct img_error *err);
int vhd_set_writable(struct img *img, bool writable, struct img_error *err);
/* Blocks of the table, sorted. -EUCLEAN: one leads out of the file, to metadata, or to another one. */
int vhd_find_blocks(struct img *img, struct vhd *v, struct img_range_map *blocks, struct img_error *err);
/* The first place from off on for a block of so many bytes whose data is aligned. */
uint64_t vhd_align_block(uint64_t off, uint32_t block_bytes);

/* The same in this file, whose blocks may follow each other without a gap. */
uint64_t vhd_next_block(const struct vhd *v, uint64_t off);
/* Blocks were unlinked, durably: give back what nobody uses, and let the file end where they do. */
int vhd_reclaim(struct img *img, struct img_error *err);

/* vhd_write.c. The driver's entries. */
int vhd_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off, uint64_t len,
		   struct img_plan *plan);
void vhd_commit(struct img *img, struct img_req *req, const struct img_plan *plan);
void vhd_drop(struct img *img, struct img_req *req, const struct img_plan *plan);
int vhd_last_use(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		 uint64_t len, bool *last);
int vhd_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		uint64_t len);
int vhd_first_write(struct img *img, struct img_error *err);

/*
 * vhd_rebuild.c. For a check: of a header that is damaged, bytes is what is left. v->header becomes what it was;
 * false: that cannot be told.
 */
bool vhd_rebuild_header(struct img *img, struct vhd *v, const uint8_t bytes[VHD_HEADER_BYTES]);

/* vhd_check.c. The driver's check(). */
int vhd_check(struct img *img, struct img_check *c, struct img_error *err);

/* vhd_create.c. The driver's entries. */
extern const struct img_option vhd_create_options[];
int vhd_create_check(struct img_creating *c, struct img_error *err);
int vhd_create(struct img_creating *c, struct img_error *err);

/* vhd_resize.c. The driver's entries. */
int vhd_extend(struct img *img, uint64_t size, struct img_error *err);
int vhd_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err);
/* Add these at the end of the file, each from a sector on, the first one at units.next; the footer behind. Durable. */
struct vhd_piece {
	const void *bytes;
	size_t len;
};
int vhd_append(struct img *img, const struct vhd_piece *pieces, size_t n, struct img_error *err);
/* The other footer takes the place of both copies, durably: v->footer tells whether it counts. */
int vhd_write_footer(struct img *img, const uint8_t *bytes, struct img_error *err);
/* Entries [from, end) of the table lead nowhere. */
int vhd_clear_entries(struct img *img, uint64_t from, uint64_t end, struct img_error *err);
/* XenServer's map of full blocks is no more. Durable. */
int vhd_drop_batmap(struct img *img, struct img_error *err);

/* vhd_backing.c. The driver's entries. */
int vhd_set_backing(struct img *img, const char *name, const char *format, const struct img *backing,
		    struct img_error *err);
int vhd_make_empty(struct img *img, struct img_error *err);

/* vhd_parent.c. The driver's entries; and what an open child says of its parent. */
int vhd_keep_parent(struct img *img, const struct vhd *v, struct img_error *err);
int vhd_identify(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err);
int vhd_parent_opened(struct img *img, struct img_error *err);
/* Can an image have that parent under that name? image: its own name. -EINVAL, -ENOTSUP, ... */
int vhd_check_parent(const char *image, const struct img *parent, const char *name, struct img_error *err);
/*
 * Let the header say that parent is the parent, with its name in a locator whose data goes to off: *data, malloc'd,
 * of *bytes, whole sectors.
 */
int vhd_encode_parent(uint8_t header[VHD_HEADER_BYTES], const char *image, const struct img *parent,
		      const char *name, uint64_t off, uint8_t **data, size_t *bytes,
		      struct img_error *err);

#endif
