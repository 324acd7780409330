/*
 * Tables of two levels, for formats in which nothing else says what is used: the
 * entries of the L1 table lead to L2 tables, whose entries lead to clusters; all are file offsets of 8
 * bytes. A driver describes its tables here, and what it has to do with them is done by these functions.
 *
 * tables.c         looking up, reading
 * tables_write.c   plan, commit, drop, release
 * tables_space.c   blocking work: which clusters are used, giving them up
 * tables_compact.c moving what is used, so that there are no gaps; the end of a session
 * tables_check.c   check and repair
 */
#ifndef LIBIMG_ENGINE_TABLES_H
#define LIBIMG_ENGINE_TABLES_H

#include "libimg/base/range_map.h"
#include "libimg/base/sparse_bitset.h"
#include "libimg/base/unit_alloc.h"
#include "libimg/base/use_map.h"
#include "libimg/engine/driver.h"

enum {
	IMG_TABLE_ENTRY_BYTES = 8,
	/* Larger L2 tables are made by img_tables_grow(), not in the metadata cache. */
	IMG_TABLE_CACHED_MAX = 2 << 20,
};

#define IMG_TABLE_COMPRESSED (UINT64_C(1) << 63)

/* Zero-initialise. What the driver's open() sets comes first. */
struct img_tables {
	struct img *img; /* all of it is in its file */
	uint64_t cluster_bytes;
	uint64_t l1_off, l1_entries;
	uint64_t table_entries;	       /* of an L2 table: a power of two, at least 64 */
	uint64_t table_align;	       /* of L2 tables in the file: a multiple of 8 */
	uint64_t header_end;	       /* no table and no cluster begins below */
	uint64_t name_off, name_bytes; /* of the backing file, if that is behind header_end; in the file */
	uint64_t limit;		       /* no cluster ends above, in the file */
	uint64_t zero;		       /* the entry of a cluster of zeroes; 0: the format has none */
	bool big_endian;
	bool whole;		   /* clusters have to be in the file wholly, at multiples of their size */
	bool compressed;	   /* bit 63 is IMG_TABLE_COMPRESSED: then comes the length, then the offset */
	unsigned len_shift;	   /* where that length begins */
	struct img_cipher *cipher; /* of clusters that are not compressed; NULL: clear text */
	/*
	 * Optional: the L1 table, or the backing file's name, was copied to off, durably; have the header lead there, and
	 * this description. Blocking, image quiesced. NULL: it stays where it is.
	 */
	int (*l1_moved)(struct img_tables *t, uint64_t off, struct img_error *err);
	int (*name_moved)(struct img_tables *t, uint64_t off, struct img_error *err);
	bool for_check; /* opened for a check: nothing is written */
	bool mark;	/* before something is allocated the driver's grow() has to clear this */

	/* For writing only: img_tables_load(). */
	bool writing; /* the rest is valid */
	struct img_unit_alloc alloc;
	struct img_range_map metadata;
	uint64_t clean_from;	 /* file offset from which on nothing was written: growing makes zeroes */
	uint64_t compressed_end; /* where compressed data may go on; 0: nowhere */
	bool trim;		 /* there may be clusters that nobody uses */
};

enum img_table_kind {
	IMG_TABLE_ABSENT,
	IMG_TABLE_ZERO,
	IMG_TABLE_DATA,
	IMG_TABLE_PACKED, /* compressed */
};

/* An entry of an L2 table; what it leads to need not be in the file. */
struct img_table_entry {
	enum img_table_kind kind;
	uint64_t raw;
	uint64_t off; /* DATA, PACKED */
	uint64_t len; /* PACKED: stored bytes; DATA: a cluster */
};

uint64_t img_tables_load_raw(const struct img_tables *t, const uint8_t *at);
void img_tables_store_raw(const struct img_tables *t, uint8_t *at, uint64_t raw);
struct img_table_entry img_tables_decode(const struct img_tables *t, uint64_t raw);

static inline uint64_t img_tables_table_bytes(const struct img_tables *t)
{
	return t->table_entries * IMG_TABLE_ENTRY_BYTES;
}

/* Guest bytes that an L2 table covers. */
static inline uint64_t img_tables_span(const struct img_tables *t)
{
	return t->table_entries * t->cluster_bytes;
}

/* Does what an image has not show something else than zeroes? */
static inline bool img_tables_has_backing(const struct img_tables *t)
{
	return t->img->backing_name || t->img->parent;
}

/* The entry of a cluster that was cleared; without a backing file all programs know 0, and not all another one. */
static inline uint64_t img_tables_cleared(const struct img_tables *t)
{
	return img_tables_has_backing(t) ? t->zero : 0;
}

/* ---- tables.c ---- */

/* Clusters from guest_off on. */
struct img_tables_lookup {
	uint64_t guest_off;
	uint64_t n;	      /* clusters that are told, at least 1 */
	uint64_t table_off;   /* 0: there is no L2 table */
	uint64_t entry_off;   /* of the first one's entry */
	const uint8_t *slots; /* NULL: there is no L2 table */
};

/* At most what [off, off + len) touches. IMG_NEED_METADATA; -EUCLEAN. */
int img_tables_lookup(const struct img_tables *t, struct img_req *req, uint64_t off, uint64_t len,
		      struct img_tables_lookup *out);
/* The i'th one's entry. -EUCLEAN: it cannot lead where it leads; err may be NULL. */
int img_tables_entry_at(const struct img_tables *t, const struct img_tables_lookup *l, uint64_t i,
			struct img_table_entry *out, struct img_error *err);
/* The driver's map(). */
int img_tables_map(const struct img_tables *t, struct img_req *req, uint64_t off, uint64_t len,
		   const struct img_codec *codec, struct img_extent *out);

/* ---- tables_write.c: the driver's entries ---- */

int img_tables_plan(struct img_tables *t, struct img_req *req, enum img_op op, uint64_t off,
		    uint64_t len, struct img_plan *plan);
void img_tables_commit(struct img_tables *t, struct img_req *req, const struct img_plan *plan);
void img_tables_drop(struct img_tables *t, const struct img_plan *plan);
void img_tables_release(struct img_tables *t, uint64_t file_off, uint64_t len);
void img_tables_zeroing(const struct img_tables *t, struct img_zeroing *out);

/* ---- tables_space.c: blocking, image quiesced ---- */

int img_tables_sync(const struct img_tables *t, struct img_error *err);
/* Write metadata; not synced. */
int img_tables_write(const struct img_tables *t, uint64_t off, const void *bytes, size_t len,
		     struct img_error *err);
/*
 * Find out what is used, and have an allocator. -EUCLEAN: something lies outside of the file, or is used
 * twice: the image must not be written to.
 */
int img_tables_load(struct img_tables *t, struct img_error *err);
void img_tables_free(struct img_tables *t);
/* Large L2 tables that are missing for [off, off + len). The driver's grow(), but for marks. */
int img_tables_grow(struct img_tables *t, uint64_t off, uint64_t len, struct img_error *err);
/*
 * May metadata be put at [off, off + len), len at least 1? Only clusters that hold metadata, and no compressed
 * data, have room: all others are the allocator's.
 */
int img_tables_has_room(struct img_tables *t, uint64_t off, uint64_t len, bool *out,
			struct img_error *err);
/*
 * Have a longer L1 table, of zeroes behind what it has, durably: in its place (*off stays) if nothing else is
 * there, or at *off, at the end of the file, where the driver's header has to lead then. The tables stay described
 * as they were.
 */
int img_tables_extend_l1(struct img_tables *t, uint64_t entries, uint64_t *off, struct img_error *err);
/* The guest's clusters [first, end) are given up, durably; their room is not freed yet. */
int img_tables_clear(struct img_tables *t, uint64_t first, uint64_t end, struct img_error *err);
/* The same for all, and the file ends where the tables do. */
int img_tables_make_empty(struct img_tables *t, struct img_error *err);
/* Let nothing in the file be unused: what is at its end moves into the gaps, and the file is cut. */
int img_tables_compact(struct img_tables *t, struct img_error *err);
/* At the end of a session: compact if there may be gaps, and let the file end with a whole cluster. */
int img_tables_finish(struct img_tables *t, struct img_error *err);
/* Copy len bytes; holes stay holes; what is behind the end of the file is zeroes. Not synced. */
int img_tables_copy(const struct img_tables *t, uint64_t from, uint64_t to, uint64_t len,
		    struct img_error *err);

/* Call each() for the entries that are not 0 of the L1 table; what it changes is written, not synced. */
typedef int img_tables_table_fn(void *user, uint64_t index, uint64_t *raw, struct img_error *err);
int img_tables_each_table(const struct img_tables *t, uint64_t first, uint64_t end,
			  img_tables_table_fn *each, void *user, struct img_error *err);
/* The same for entries [first, end) of the L2 table at table_off; number: of the guest's cluster. */
typedef int img_tables_entry_fn(void *user, uint64_t number, uint64_t entry_off, uint64_t *raw,
				struct img_error *err);
int img_tables_each_entry(const struct img_tables *t, uint64_t index, uint64_t table_off, uint64_t first,
			  uint64_t end, img_tables_entry_fn *each, void *user, struct img_error *err);
/* Can an L2 table be at off, as far as alignment and the file's end are concerned? */
bool img_tables_table_fits(const struct img_tables *t, uint64_t off);

/* ---- tables_check.c ---- */

/* The driver's check(), but for what only it knows of. */
int img_tables_check(struct img_tables *t, struct img_check *c, struct img_error *err);

#endif
