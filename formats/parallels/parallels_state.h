/*
 * An open Parallels image, and which file does what with it:
 *
 *   parallels.c            probing, opening, closing, the report
 *   parallels_map.c        where guest bytes live
 *   parallels_write.c      plans for changes
 *   parallels_file.c       one expanding file: header, in-use mark, its room
 *   parallels_extension.c  the format extension
 *   parallels_resize.c     another size
 *   parallels_check.c      check and repair
 *   parallels_create.c     new images
 */
#ifndef FORMATS_PARALLELS_STATE_H
#define FORMATS_PARALLELS_STATE_H

#include "formats/parallels/parallels_layout.h"
#include "libimg/base/unit_alloc.h"
#include "libimg/engine/driver.h"

/* What the format extension of a file is to who writes. */
enum parallels_extension_kind {
	PARALLELS_EXTENSION_NONE,
	PARALLELS_EXTENSION_DROPPED, /* outdated, or bitmaps that a write makes untrue: it goes */
	PARALLELS_EXTENSION_KEPT,    /* has what must be carried on as it is */
};

struct parallels {
	struct img_storage *storage;
	struct parallels_header header; /* as the file has it */
	/* What is looked up now: while the disk grows the header has other numbers yet. */
	uint64_t entries, data_start;
	uint64_t cluster_bytes, scale; /* scale: bytes that BAT entries count in */
	bool data_off_wrong;	       /* the header's data_off cannot be true */
	bool for_check;
	/* Of a writable image. Offsets in the allocator are counted from base, so that clusters are
	 * aligned. */
	bool prepared;
	bool marked; /* the file says that it is in use, by us */
	uint64_t base;
	struct img_unit_alloc alloc;
	uint64_t fresh_from; /* from there on, counted from base, nothing was ever written */
	bool has_free_end;   /* clusters were given back: the file may be longer than it need be */
	enum parallels_extension_kind extension;
};

static inline uint64_t parallels_entry_at(uint64_t number)
{
	return PARALLELS_BAT_OFF + number * PARALLELS_ENTRY_BYTES;
}

/* Of cluster number: the bytes that the disk has of it, which must be in the file. */
static inline uint64_t parallels_bytes_needed(const struct img *img, const struct parallels *p,
					      uint64_t number)
{
	uint64_t at = number * p->cluster_bytes, size = img->size;

	if (at >= size)
		return PARALLELS_SECTOR;
	return size - at < p->cluster_bytes ? size - at : p->cluster_bytes;
}

int parallels_no_memory(const struct img *img, struct img_error *err);

/* ---- parallels_file.c: all of it blocking ---- */

/*
 * Go over BAT entries [first, end) that are not 0; holes of the file are not read. each() may not
 * change what is still to come.
 */
typedef int parallels_entry_fn(struct img *img, void *user, uint64_t number, uint32_t value,
			       struct img_error *err);
int parallels_each_entry(struct img *img, uint64_t first, uint64_t end, parallels_entry_fn *each,
			 void *user, struct img_error *err);
/* Write one entry; what the cache has of it is forgotten. */
int parallels_write_entry(struct img *img, uint64_t number, uint32_t value, struct img_error *err);
/* Make entries [first, end) 0. */
int parallels_clear_entries(struct img *img, uint64_t first, uint64_t end, struct img_error *err);
int parallels_write_header(struct img *img, const struct parallels_header *h,
			   struct img_error *err);
int parallels_sync(struct img *img, struct img_error *err);
/* The offset that clusters are counted from: what their offsets leave when divided by the cluster.
 */
int parallels_find_base(struct img *img, uint64_t *base, struct img_error *err);
/*
 * Find out what is used, so that clusters can be had; refuses what writing would do harm to. from:
 * no cluster is given out below. Again: everything anew.
 */
int parallels_load_alloc(struct img *img, uint64_t from, struct img_error *err);
void parallels_free_alloc(struct parallels *p);
/* Cut off what nobody uses at the end. Needs loading anew. */
int parallels_trim(struct img *img, struct img_error *err);
/* The end of the last cluster that an entry names, or of the BAT. */
int parallels_used_end(struct img *img, uint64_t *end, struct img_error *err);
int parallels_first_write(struct img *img, struct img_error *err);
int parallels_finish(struct img *img, struct img_error *err);
int parallels_set_writable(struct img *img, bool writable, struct img_error *err);

/* ---- parallels_extension.c ---- */

/* Is the extension what it should be? -EUCLEAN: no (err says how). */
int parallels_check_extension(struct img *img, struct img_error *err);
/* Sets p->extension; -ENOTSUP: it has what may not be written beside. */
int parallels_judge_extension(struct img *img, struct img_error *err);
/* A kept extension loses what the first write makes untrue. */
int parallels_prune_extension(struct img *img, struct img_error *err);

/* ---- parallels_map.c ---- */

/* An entry's offset in the file; 0: absent. -EUCLEAN: it leads into the header or the BAT. */
int parallels_place(const struct img *img, uint64_t number, uint32_t value, uint64_t *off,
		    struct img_error *err);
int parallels_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		  struct img_extent *out);

/* ---- parallels_write.c ---- */

int parallels_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
			 uint64_t len, struct img_plan *plan);
void parallels_commit(struct img *img, struct img_req *req, const struct img_plan *plan);
void parallels_drop(struct img *img, struct img_req *req, const struct img_plan *plan);
int parallels_last_use(struct img *img, struct img_req *req, struct img_storage *s,
		       uint64_t file_off, uint64_t len, bool *last);
int parallels_release(struct img *img, struct img_req *req, struct img_storage *s,
		      uint64_t file_off, uint64_t len);

/* ---- The rest ---- */

int parallels_extend(struct img *img, uint64_t size, struct img_error *err);
int parallels_resize(struct img *img, uint64_t size, enum img_preallocate how,
		     struct img_error *err);
int parallels_check(struct img *img, struct img_check *c, struct img_error *err);

extern const struct img_option parallels_create_options[];
int parallels_create_check(struct img_creating *c, struct img_error *err);
int parallels_create(struct img_creating *c, struct img_error *err);

#endif
