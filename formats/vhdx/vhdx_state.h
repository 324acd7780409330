/*
 * The VHDX driver's inside: the state of an open image, and what its files offer each other.
 *
 *	vhdx_layout	bytes: parse and encode
 *	vhdx_locator	the parent locator
 *	vhdx		probe, open, close, report, the driver table
 *	vhdx_parent	which image the parent is
 *	vhdx_backing	another parent
 *	vhdx_header	the two headers, and what a first write changes in them
 *	vhdx_log	replay, and writing through the log
 *	vhdx_map	looking up guest offsets in the BAT and sector bitmaps
 *	vhdx_alloc	which MiB of the file are used
 *	vhdx_write	plan, commit, drop, release
 *	vhdx_resize	what needs the image quiet: grow, extend, resize
 *	vhdx_create
 *	vhdx_check
 */
#ifndef FORMATS_VHDX_VHDX_STATE_H
#define FORMATS_VHDX_VHDX_STATE_H

#include <errno.h>

#include "formats/vhdx/vhdx_layout.h"
#include "formats/vhdx/vhdx_locator.h"
#include "libimg/engine/driver.h"

struct vhdx_alloc;

/* What writing to the log needs: journal()'s and the blocking entries' own, never both at once. */
struct vhdx_log {
	uint64_t at;	   /* log offset of the next entry */
	uint64_t sequence; /* of the next entry */
	uint64_t durable;  /* the file is durably as long as this, at least */
	uint8_t *buffer;   /* an entry; made when first needed */
	/*
	 * What the last entry says may not be in its place: that entry has to stay, until it is replayed when
	 * the image is opened again.
	 */
	bool stuck;
};

/*
 * img->state. All but the fields under the metadata lock or the log's changes only while the image is
 * quiet.
 */
struct vhdx {
	struct vhdx_header header;
	unsigned current; /* which of the two it is */
	bool header_valid[2], regions_valid[2];
	bool headers_alike; /* both valid and of the same content */
	struct vhdx_regions regions;
	struct vhdx_item_range items[VHDX_ITEMS];
	struct vhdx_geometry geometry; /* .size: what the file says */
	struct vhdx_locator locator;   /* with geometry.has_parent */
	struct img_storage *storage;   /* the file, or the file as its log's replay would leave it */
	struct img_storage *replayed;  /* that; owned; NULL: there was nothing to replay */
	uint8_t *log_bytes;	       /* what replayed lays over the file */
	bool had_log;		       /* the log was not empty when the image was opened */
	/*
	 * A dynamic disk of QEMU's that was made a differencing one: QEMU has all blocks that were never
	 * written in state zero, and they are the parent's now.
	 */
	bool zero_is_parent;
	bool by_qemu; /* QEMU is said to have made the file */
	bool for_check;
	bool stamped;				 /* first_write() has given it another DataWriteGuid since it was opened */
	uint8_t next_data_write[IMG_GUID_BYTES]; /* which it will give; zero: any */
	bool log_open;				 /* the header's log GUID is set: entries count */
	struct vhdx_log log;
	struct vhdx_alloc *alloc; /* made by first_write() or what needs it first; the metadata lock's */
};

static inline int vhdx_no_memory(const struct img *img, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
}

/* Make all that was written to the image's file durable, unless it was opened never to sync. */
static inline int vhdx_sync(const struct img *img, struct img_error *err)
{
	return img->unsafe || !img->file->unsynced ? 0 : img_storage_sync(img->file, err);
}

/* Is what the image does not have to be looked for in a parent? */
static inline bool vhdx_is_child(const struct vhdx *v)
{
	return v->geometry.has_parent;
}

/* Is that the BAT's entry of a sector bitmap block? */
static inline bool vhdx_is_bitmap_entry(const struct vhdx *v, uint64_t number)
{
	uint64_t ratio = vhdx_chunk_ratio(&v->geometry);

	return number % (ratio + 1) == ratio;
}

/* Is a block in that state the parent's? */
static inline bool vhdx_is_parents(const struct vhdx *v, enum vhdx_block_state state)
{
	return vhdx_is_child(v) &&
	       (state == VHDX_NOT_PRESENT || (state == VHDX_ZERO && v->zero_is_parent));
}

/* The state of a block of zeroes. */
static inline enum vhdx_block_state vhdx_zero_state(const struct vhdx *v)
{
	return v->zero_is_parent ? VHDX_UNMAPPED : VHDX_ZERO;
}

/* ---- vhdx_parent.c: blocking ---- */

/* Read the parent locator, if the disk has a parent. */
int vhdx_read_locator(struct vhdx *v, struct img_error *err);
/* Have img know the parent as v's locator tells it. */
int vhdx_keep_parent(struct img *img, const struct vhdx *v, struct img_error *err);
int vhdx_parent_opened(struct img *img, struct img_error *err);
int vhdx_identify(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err);
int vhdx_next_identity(struct img *img, uint8_t out[IMG_GUID_BYTES], struct img_error *err);

/* ---- vhdx_backing.c: blocking; the driver's entries ---- */

int vhdx_set_backing(struct img *img, const char *name, const char *format, const struct img *backing,
		     struct img_error *err);
int vhdx_accept_parent(struct img *img, const uint8_t identity[IMG_GUID_BYTES], struct img_error *err);

/* ---- vhdx_header.c: blocking ---- */

/* The header that counts. */
int vhdx_current_header(struct img_storage *s, struct vhdx_header *out, struct img_error *err);
/* Read both and choose the current one. */
int vhdx_read_headers(struct img *img, struct vhdx *v, struct img_error *err);
/* Write v->header to both places, one after the other, each durable before the next. */
int vhdx_write_headers(struct img *img, struct vhdx *v, struct img_error *err);
/* A new one for what label says; of an image that was made just now, one that follows from its own. */
int vhdx_new_guid(const struct img *img, const char *label, uint8_t out[IMG_GUID_BYTES],
		  struct img_error *err);

/* ---- vhdx_log.c: blocking ---- */

/*
 * The header's log GUID is set: replay the log into the file (img->writable) or over it in memory. Sets
 * storage, replayed, log_bytes.
 */
int vhdx_replay_log(struct img *img, struct vhdx *v, struct img_error *err);
/* The most that one entry may change, for img->journal_bytes. */
uint64_t vhdx_log_capacity(const struct vhdx *v);
/*
 * Blocking entries that change metadata call this first: the log is open then, whether the engine called
 * first_write() or not.
 */
int vhdx_open_log(struct img *img, struct img_error *err);
/* Nothing needs the log any more: say so. */
int vhdx_close_log(struct img *img, struct img_error *err);
/* The driver's journal(). */
int vhdx_journal(struct img *img, const struct img_meta_write *writes, size_t n,
		 struct img_error *err);
/*
 * Change up to a few hundred KiB of metadata by one entry: all pieces or none, durable when it
 * returns. Pieces are multiples of 512 bytes at multiples of 512. For blocking entries.
 */
struct vhdx_change {
	uint64_t off;
	const uint8_t *bytes;
	size_t len;
};
int vhdx_write_logged(struct img *img, const struct vhdx_change *changes, size_t n,
		      struct img_error *err);
/* The same for one change of any length and alignment; in several entries if it does not fit one. */
int vhdx_write_bytes(struct img *img, uint64_t off, const void *bytes, size_t len,
		     struct img_error *err);

/* ---- vhdx_map.c: in memory, under the metadata lock ---- */

/* File offset of a BAT entry by its number. */
static inline uint64_t vhdx_entry_at(const struct vhdx *v, uint64_t number)
{
	return v->regions.bat.off + number * VHDX_BAT_ENTRY_BYTES;
}

/*
 * Is an entry's place one that a block of so many bytes can have: whole MiB, past the first, clear of
 * log and regions? NULL, or what is there instead.
 */
const char *vhdx_offset_fault(const struct vhdx *v, uint64_t file_off, uint64_t bytes);

/* A payload block's entry as it was looked up. */
struct vhdx_block {
	uint64_t number;
	uint64_t entry_number; /* in the BAT */
	uint64_t entry;
	enum vhdx_block_state state;
	uint64_t file_off; /* of an allocated block */
};

/* Look up the block of guest byte off. 0, IMG_NEED_METADATA, -EUCLEAN. */
int vhdx_lookup(struct img *img, struct img_req *req, uint64_t off, struct vhdx_block *out);
/* Of a block's chunk: where its sector bitmap block is; 0: none. 0, IMG_NEED_METADATA, -EUCLEAN. */
int vhdx_lookup_bitmap(struct img *img, struct img_req *req, uint64_t block, uint64_t *file_off);
/* File offset of the bitmap's byte that has the bit of guest byte off. */
uint64_t vhdx_bit_offset(const struct vhdx *v, uint64_t bitmap_off, uint64_t off, unsigned *bit);
/*
 * How many sectors from guest byte off on, up to most, are (*present) or are not in a partially present
 * block. 0, IMG_NEED_METADATA.
 */
int vhdx_bitmap_run(const struct vhdx *v, struct img_req *req, uint64_t bitmap_off, uint64_t off,
		    uint64_t most, bool *present, uint64_t *run);
int vhdx_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
	     struct img_extent *out);

/* ---- vhdx_alloc.c ---- */

/* Blocking: find out what is used, if that is not known yet. -EUCLEAN: two blocks overlap. */
int vhdx_load_alloc(struct img *img, struct img_error *err);
void vhdx_free_alloc(struct vhdx_alloc *alloc);
/*
 * Room for bytes (whole MiB). *fresh: it reads as zeroes. Under the metadata lock or with the image
 * quiet. 0; IMG_NEED_EXCLUSIVE: there is space that has to be cleared first; -ENOSPC, -EFBIG.
 */
int vhdx_alloc_space(struct img *img, uint64_t bytes, uint64_t *off, bool *fresh, struct img_error *err);
/* Nothing uses it any more. clear: it reads as zeroes. */
void vhdx_free_space(struct img *img, uint64_t off, uint64_t bytes, bool clear);
/* Blocking: clear free space, so that there is some for bytes. */
int vhdx_clear_free_space(struct img *img, uint64_t bytes, struct img_error *err);
/* Where the last used MiB ends. */
uint64_t vhdx_used_end(const struct vhdx *v);

/* ---- vhdx_write.c ---- */

int vhdx_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
		    uint64_t len, struct img_plan *plan);
void vhdx_commit(struct img *img, struct img_req *req, const struct img_plan *plan);
void vhdx_drop(struct img *img, struct img_req *req, const struct img_plan *plan);
int vhdx_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		 uint64_t len);

/* ---- vhdx_resize.c: blocking, image quiet ---- */

int vhdx_grow(struct img *img, uint64_t off, uint64_t len, struct img_error *err);
int vhdx_extend(struct img *img, uint64_t size, struct img_error *err);
int vhdx_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err);
int vhdx_make_empty(struct img *img, struct img_error *err);
/* Have a BAT of so many bytes. */
int vhdx_reach_bat(struct img *img, uint64_t bytes, struct img_error *err);
/* Go over BAT entries [first, end), a piece at a time; each may change them, then they are written. */
struct vhdx_pass {
	struct img *img;
	uint64_t *freed; /* offsets whose space is freed when the piece is written */
	size_t nfreed;
	enum img_preallocate how; /* of space that is allocated */
};
typedef int vhdx_pass_fn(struct vhdx_pass *p, uint64_t number, uint8_t *slot, struct img_error *err);
/* holes: also where the BAT is a hole of the file. */
int vhdx_pass_over(struct vhdx_pass *p, uint64_t first, uint64_t end, bool holes, vhdx_pass_fn *each,
		   struct img_error *err);
/* Not present any more; its space is freed. */
void vhdx_free_entry(struct vhdx_pass *p, uint64_t number, uint8_t *slot);

/* ---- vhdx_create.c, vhdx_check.c ---- */

extern const struct img_option vhdx_create_options[];
int vhdx_create_check(struct img_creating *c, struct img_error *err);
int vhdx_create(struct img_creating *c, struct img_error *err);
int vhdx_check(struct img *img, struct img_check *c, struct img_error *err);

extern const struct img_driver vhdx_driver;

#endif
