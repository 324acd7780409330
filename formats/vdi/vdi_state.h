/*
 * An open VDI, and what the driver's files have for each other:
 *
 * vdi.c         opening, closing, reading
 * vdi_write.c   plan, commit, drop, release
 * vdi_blocks.c  blocking work on the block map and the blocks: which are used, moving them
 * vdi_create.c, vdi_resize.c, vdi_check.c, vdi_parent.c
 */
#ifndef FORMATS_VDI_STATE_H
#define FORMATS_VDI_STATE_H

#include <errno.h>

#include "formats/vdi/vdi_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/unit_alloc.h"
#include "libimg/base/use_map.h"
#include "libimg/engine/driver.h"

struct vdi {
	struct vdi_header header;
	bool for_check;
	/* For writing only. */
	bool writing;		     /* the rest is valid */
	struct img_unit_alloc alloc; /* blocks with their extra bytes */
	uint64_t clean_from;	     /* file offset from which on nothing was written: growing makes zeroes */
	uint64_t used;		     /* entries that lead to a block */
	bool trim;		     /* blocks were allocated or freed: finish() makes the file end behind them */
};

extern const struct img_driver vdi_driver;
extern const struct img_option vdi_create_options[];

static inline bool vdi_is_child(const struct vdi_header *h)
{
	return h->type == VDI_UNDO || h->type == VDI_DIFFERENCING || !img_guid_is_zero(h->parent);
}

/* Does a block of this entry have what the parent has? Without a parent a free block is zeroes. */
static inline bool vdi_reads_parent(const struct img *img, uint32_t entry)
{
	const struct vdi *v = img->state;

	return entry == VDI_ENTRY_FREE && (vdi_is_child(&v->header) || img->parent);
}

/* Where the entry of a block, and where a block with its extra bytes is. */
static inline uint64_t vdi_entry_at(const struct vdi_header *h, uint64_t block)
{
	return h->map_off + block * VDI_ENTRY_BYTES;
}

static inline uint64_t vdi_block_at(const struct vdi_header *h, uint64_t index)
{
	return h->data_off + index * vdi_stride(h);
}

static inline uint64_t vdi_index_at(const struct vdi_header *h, uint64_t file_off)
{
	return (file_off - h->data_off) / vdi_stride(h);
}

/* Blocks that a disk of so many bytes has. */
static inline uint64_t vdi_block_count(const struct vdi_header *h, uint64_t size)
{
	return div_round_up_u64(size, h->block_bytes);
}

static inline int vdi_no_memory(const struct img *img, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
}

/* ---- vdi_write.c ---- */

int vdi_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off, uint64_t len,
		   struct img_plan *plan);
void vdi_commit(struct img *img, struct img_req *req, const struct img_plan *plan);
void vdi_drop(struct img *img, struct img_req *req, const struct img_plan *plan);
int vdi_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		uint64_t len);
int vdi_first_write(struct img *img, struct img_error *err);
int vdi_finish(struct img *img, struct img_error *err);

/* ---- vdi_blocks.c: blocking, image quiet ---- */

/*
 * Call each() for the entries of blocks [first, end), read a piece at a time. What it changes is written, a
 * piece at a time, not synced. It stops at the first that does not return 0.
 */
typedef int vdi_entry_fn(void *user, uint64_t block, uint32_t *entry, struct img_error *err);
int vdi_for_each_entry(struct img *img, uint64_t first, uint64_t end, vdi_entry_fn *each, void *user,
		       struct img_error *err);
/* What those had is given up, durably. */
int vdi_free_entries(struct img *img, uint64_t first, uint64_t end, struct img_error *err);
/* Write one entry. */
int vdi_write_entry(struct img *img, uint64_t block, uint32_t entry, struct img_error *err);
/* How much of a block's bytes the disk has: less than a block for the last one. */
uint64_t vdi_needed(const struct img *img, uint64_t block);
/* Write a header, in one write, durably. upgrade: see vdi_encode_header(). */
int vdi_store_header(struct img *img, const struct vdi_header *h, bool upgrade, struct img_error *err);
/* The same, and it is the image's from now on. */
int vdi_write_header(struct img *img, const struct vdi_header *h, bool upgrade, struct img_error *err);
int vdi_sync(struct img *img, struct img_error *err);
/*
 * Find out which blocks are used, and have an allocator. -EUCLEAN: a block is used twice, or not in the
 * file: the image must not be written to.
 */
int vdi_load_blocks(struct img *img, struct img_error *err);
void vdi_free_blocks(struct img *img);
/* Copy a block with its extra bytes; holes stay holes. Not synced. */
int vdi_copy_block(struct img *img, uint64_t from, uint64_t to, struct img_error *err);
/*
 * Let the file end where a block does. What the disk does not have of its last block may be missing; a disk that
 * grows has it, and other programs may want it.
 */
int vdi_pad_file(struct img *img, struct img_error *err);
/*
 * Let the blocks that are used be the first ones: the last ones move into the gaps. Then the header counts
 * them, and the file ends behind them. Blocks must be loaded.
 */
int vdi_compact(struct img *img, struct img_error *err);

/* ---- vdi_create.c, vdi_resize.c, vdi_check.c, vdi_parent.c ---- */

int vdi_create_check(struct img_creating *c, struct img_error *err);
int vdi_create(struct img_creating *c, struct img_error *err);
int vdi_extend(struct img *img, uint64_t size, struct img_error *err);
/*
 * Does the block map share a sector with the header or with data? Always in version 0. Metadata is written in
 * sectors, so grow() moves the map before anything is written.
 */
bool vdi_must_move_map(const struct vdi_header *h);
int vdi_grow(struct img *img, uint64_t off, uint64_t len, struct img_error *err);
int vdi_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err);
int vdi_check(struct img *img, struct img_check *check, struct img_error *err);
int vdi_identify(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err);
/* What a child must be told of its parent. -ENOTSUP: its format has no UUID. modification: zero if unknown. */
int vdi_parent_uuids(const struct img *parent, uint8_t uuid[IMG_GUID_BYTES],
		     uint8_t modification[IMG_GUID_BYTES], struct img_error *err);
void vdi_keep_parent(struct img *img, const struct vdi_header *h);
int vdi_parent_opened(struct img *img, struct img_error *err);
int vdi_accept_parent(struct img *img, const uint8_t identity[IMG_GUID_BYTES], struct img_error *err);
int vdi_set_backing(struct img *img, const char *name, const char *format, const struct img *backing,
		    struct img_error *err);
int vdi_make_empty(struct img *img, struct img_error *err);

#endif
