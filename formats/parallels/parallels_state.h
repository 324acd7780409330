/*
 * An open Parallels image, and which file does what with it:
 *
 *   parallels.c             the driver: which file has what is asked for
 *   parallels_open.c        opening, one file or those of a folder
 *   parallels_descriptor.c  DiskDescriptor.xml
 *   parallels_create.c      new images
 *   parallels_folder.c      another size of a folder's disk, one more snapshot
 *
 * of one file:
 *
 *   parallels_file.c        header and BAT
 *   parallels_alloc.c       which clusters are free; in-use mark
 *   parallels_map.c         where guest bytes live
 *   parallels_write.c       plans for changes
 *   parallels_extension.c   the format extension
 *   parallels_resize.c      another size
 *   parallels_check.c       check and repair
 */
#ifndef FORMATS_PARALLELS_STATE_H
#define FORMATS_PARALLELS_STATE_H

#include <errno.h>

#include "formats/parallels/parallels_descriptor.h"
#include "formats/parallels/parallels_layout.h"
#include "libimg/base/unit_alloc.h"
#include "libimg/engine/driver.h"

/* What the format extension of a file is to who writes. */
enum parallels_extension_kind {
	PARALLELS_EXTENSION_NONE,
	PARALLELS_EXTENSION_DROPPED, /* outdated, or bitmaps that a write makes untrue: it goes */
	PARALLELS_EXTENSION_KEPT,    /* has what must be carried on as it is */
};

/* One file, with the bytes of the disk from start on. Its functions take offsets from there. */
struct parallels_file {
	struct img *img;
	const char *name; /* for messages; borrowed */
	struct img_storage *storage;
	uint64_t start, size;
	bool plain;			/* the disk's bytes and no more: nothing of what follows */
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
	uint64_t used_end;   /* of the file: where the last cluster ended when the BAT was gone over */
	bool has_free_end;   /* clusters were given back: the file may be longer than it need be */
	enum parallels_extension_kind extension;
};

struct parallels {
	struct parallels_file
		*files; /* one behind the other; none where only the folder is looked at */
	size_t count;
	struct parallels_file *others; /* of a check: the files of all other snapshots, in any order */
	size_t other_count;
	struct parallels_descriptor *descriptor; /* of a folder; NULL: the image is one file */
	uint8_t guid[IMG_GUID_BYTES];		 /* of a folder: the snapshot that is shown */
	char parent[IMG_GUID_CHARS + 1];	 /* the snapshot below; "": none */
};

static inline uint64_t parallels_entry_at(uint64_t number)
{
	return PARALLELS_BAT_OFF + number * PARALLELS_ENTRY_BYTES;
}

/* Of cluster number: the bytes that the disk has of it, which must be in the file. */
static inline uint64_t parallels_bytes_needed(const struct parallels_file *p, uint64_t number)
{
	uint64_t at = number * p->cluster_bytes, size = p->size;

	if (at >= size)
		return PARALLELS_SECTOR;
	return size - at < p->cluster_bytes ? size - at : p->cluster_bytes;
}

static inline int parallels_no_memory(const struct parallels_file *p, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", p->name);
}

/* ---- parallels_open.c ---- */

int parallels_open(struct img *img, struct img_opening *o, struct img_error *err);
void parallels_close(struct img *img);
/*
 * The image is open for writing, or becomes so. -ENOTSUP: the clusters of a folder's files do not fit
 * together; -EBUSY: other snapshots than the present state are based on it; ...
 */
int parallels_prepare_writing(struct img *img, bool for_check, struct img_error *err);

/* ---- parallels_file.c: all of it blocking ---- */

/* Of p, img, name, storage, start and plain are set. -EMEDIUMTYPE, -ENOTSUP, -EUCLEAN. */
int parallels_file_open(struct parallels_file *p, bool for_check, struct img_error *err);

/*
 * Go over BAT entries [first, end) that are not 0; holes of the file are not read. each() may not
 * change what is still to come.
 */
typedef int parallels_entry_fn(struct parallels_file *p, void *user, uint64_t number,
			       uint32_t value, struct img_error *err);
int parallels_each_entry(struct parallels_file *p, uint64_t first, uint64_t end,
			 parallels_entry_fn *each, void *user, struct img_error *err);
/* Write one entry; what the cache has of it is forgotten. */
int parallels_write_entry(struct parallels_file *p, uint64_t number, uint32_t value,
			  struct img_error *err);
/* Make entries [first, end) 0. */
int parallels_clear_entries(struct parallels_file *p, uint64_t first, uint64_t end,
			    struct img_error *err);
int parallels_write_header(struct parallels_file *p, const struct parallels_header *h,
			   struct img_error *err);
int parallels_sync(struct parallels_file *p, struct img_error *err);

/* ---- parallels_extension.c ---- */

/* Is the extension what it should be? -EUCLEAN: no (err says how). */
int parallels_check_extension(struct parallels_file *p, struct img_error *err);
/* Sets p->extension; -ENOTSUP: it has what may not be written beside. */
int parallels_judge_extension(struct parallels_file *p, struct img_error *err);
/* A kept extension loses what the first write makes untrue. */
int parallels_prune_extension(struct parallels_file *p, struct img_error *err);
/* The file, which is not marked, is about to change in what it reads as: what tells of that goes. */
int parallels_outdate_extension(struct parallels_file *p, struct img_error *err);

/* ---- parallels_alloc.c: all of it blocking ---- */

/* The offset that clusters are counted from: what their offsets leave when divided by the cluster.
 */
int parallels_find_base(struct parallels_file *p, uint64_t *base, struct img_error *err);
/*
 * Find out what is used, so that clusters can be had; refuses what writing would do harm to. from:
 * no cluster is given out below. Again: everything anew.
 */
int parallels_load_alloc(struct parallels_file *p, uint64_t from, struct img_error *err);
void parallels_free_alloc(struct parallels_file *p);
/* Cut off what nobody uses at the end. Needs loading anew. */
int parallels_trim(struct parallels_file *p, struct img_error *err);
/* The end of the last cluster that an entry names, or of the BAT. */
int parallels_used_end(struct parallels_file *p, uint64_t *end, struct img_error *err);
int parallels_file_first_write(struct parallels_file *p, struct img_error *err);
int parallels_file_finish(struct parallels_file *p, struct img_error *err);
int parallels_file_set_writable(struct parallels_file *p, bool writable, struct img_error *err);

/* ---- parallels_map.c ---- */

/* An entry's offset in the file; 0: absent. -EUCLEAN: it leads into the header or the BAT. */
int parallels_cluster_off(const struct parallels_file *p, uint64_t number, uint32_t value, uint64_t *off,
			  struct img_error *err);
int parallels_file_map(struct parallels_file *p, struct img_req *req, uint64_t off, uint64_t len,
		       struct img_extent *out);

/* ---- parallels_write.c ---- */

int parallels_file_plan(struct parallels_file *p, struct img_req *req, enum img_op op, uint64_t off,
			uint64_t len, struct img_plan *plan);
void parallels_file_commit(struct parallels_file *p, struct img_req *req,
			   const struct img_plan *plan);
void parallels_file_drop(struct parallels_file *p, struct img_req *req,
			 const struct img_plan *plan);
void parallels_file_release(struct parallels_file *p, uint64_t file_off, uint64_t len);

/* ---- The rest ---- */

int parallels_file_extend(struct parallels_file *p, uint64_t size, struct img_error *err);
int parallels_file_resize(struct parallels_file *p, uint64_t size, enum img_preallocate how,
			  struct img_error *err);
/* Durably give up all clusters. -EINVAL: opened for a check. */
int parallels_file_make_empty(struct parallels_file *p, struct img_error *err);
int parallels_file_check(struct parallels_file *p, struct img_check *c, struct img_error *err);

/* ---- parallels_folder.c: as the driver's entries ---- */

int parallels_folder_extend(struct img *img, uint64_t size, struct img_error *err);
int parallels_folder_resize(struct img *img, uint64_t size, enum img_preallocate how,
			    struct img_error *err);
int parallels_add_state(struct img *img, struct img_creating *c, char **text, size_t *len,
			struct img_error *err);

extern const struct img_option parallels_create_options[];
int parallels_create_check(struct img_creating *c, struct img_error *err);
int parallels_create(struct img_creating *c, struct img_error *err);
/* A further file, empty, for storage number of the folder that c->name lies in: *name, malloc'd. */
int parallels_create_part(struct img_creating *c, size_t number, uint64_t bytes, char **name,
			  struct img_error *err);

#endif
