/*
 * The qcow2 driver's inside: the state of an open image, and what its files offer each other.
 *
 *	qcow2_layout	bytes: parse and encode: _header, _tables, _records
 *	qcow2		probe, open, close, the driver table
 *	qcow2_metadata	the refcount table and fixed metadata of an image to be written
 *	qcow2_map	looking up guest offsets in the L1 and L2 tables
 *	qcow2_info	the report, snapshots, bitmaps
 *	qcow2_alloc	finding and counting clusters in memory
 *	qcow2_write	plan, commit, drop, release
 *	qcow2_refcount	refcounts and tables by blocking I/O
 *	qcow2_grow	what needs the image to itself: grow and resize
 *	qcow2_backing	another backing file's name in the header
 *	qcow2_crypto	encryption of guest data
 *	qcow2_create
 *	qcow2_check	checks, with qcow2_check_* and qcow2_use_counts
 *	qcow2_repair	repairs, with qcow2_repair_overlaps
 */
#ifndef FORMATS_QCOW2_QCOW2_STATE_H
#define FORMATS_QCOW2_QCOW2_STATE_H

#include <errno.h>

#include "formats/qcow2/qcow2_layout.h"
#include "libimg/base/range_map.h"
#include "libimg/crypto/luks_amend.h"
#include "libimg/engine/driver.h"

/* What the passphrase opened; it and what it has are wiped when it is freed. */
struct qcow2_unlocked {
	struct img_cipher *cipher; /* of guest data */
	struct img_luks *luks;	   /* the header, for its slots to be changed; NULL: AES */
};

/*
 * img->state. What follows from the header is copied here; everything but the fields under
 * "allocation" changes only while the image is quiet.
 */
struct qcow2 {
	struct qcow2_header header; /* .more is NULL */
	struct qcow2_geometry geometry;
	struct img_storage *data;      /* where guest clusters live: img->file or data_file */
	struct img_storage *data_file; /* the external one, owned; NULL: none (or self_only) */
	bool raw_data_file;	       /* it must always hold what the guest sees */
	const struct img_codec *codec;
	char *data_file_name; /* malloc'd; as stored; NULL: none */
	uint32_t bitmaps;     /* 0: none that count */
	uint64_t bitmap_directory_off, bitmap_directory_bytes;
	uint64_t crypto_off, crypto_bytes;
	struct qcow2_unlocked unlocked; /* NULLs: not encrypted, or opened without a passphrase */

	/* Writable images (not those opened for a check) only: */
	uint64_t *refcount_table; /* offsets of refcount blocks, 0: none */
	uint64_t refcount_table_entries;
	/* Where metadata lies that stays for good, and the L2 tables in use: nothing else may. */
	struct img_range_map metadata;

	/* Allocation; under the metadata lock. Clusters by number: file offset / cluster. */
	uint64_t next_free;	 /* no cluster below is free */
	uint64_t compressed_end; /* file offset where compressed data may go on; 0: nowhere */
	uint64_t stale_end;	 /* no fresh cluster below: a write there may have failed midway */
};

static inline int qcow2_no_memory(const struct img *img, struct img_error *err)
{
	img_fail(err, -ENOMEM, "%s: out of memory", img->name);
	return -ENOMEM;
}

/* ---- qcow2_metadata.c ---- */

/*
 * Read and check the refcount table, and list the metadata, of an image that is going to be written.
 * Blocking. -EUCLEAN.
 */
int qcow2_load_tables(struct img *img, struct img_error *err);
void qcow2_free_tables(struct qcow2 *q);
/*
 * Is anything counted that does not lie in the file wholly? The tables are loaded. Blocking.
 */
int qcow2_counted_past_end(struct img *img, bool *any, struct img_error *err);
/* List the L2 tables that the L1 table in the file names. Blocking. */
int qcow2_list_tables(struct img *img, struct img_error *err);

/* ---- qcow2_map.c: in memory, under the metadata lock ---- */

/* The part of an L2 table that was looked at: from the entry of a guest offset on. */
struct qcow2_lookup {
	uint64_t guest_off;	/* of the first entry's cluster */
	uint64_t table_off;	/* of the L2 table; 0: none */
	bool table_copied;	/* the table is this image's alone */
	uint64_t entry_off;	/* where the first entry lies in the file */
	const uint8_t *entries; /* NULL: no table */
	uint64_t n;		/* entries in one look; no table: clusters that have none either */
};

/*
 * Look up [off, off + len), as far as one look goes. 0 (n >= 1), IMG_NEED_METADATA, -EUCLEAN.
 */
int qcow2_lookup(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		 struct qcow2_lookup *out);
/* Where in the file the L1 entry of a guest offset lies. */
uint64_t qcow2_l1_entry_off(const struct qcow2 *q, uint64_t guest_off);

/* Entry i < n of a look that found a table. -EUCLEAN (sentence to err). */
int qcow2_entry_at(struct img *img, const struct qcow2_lookup *l, uint64_t i, struct qcow2_entry *out,
		   struct img_error *err);

/* What a subcluster (without extended L2 entries: the whole cluster, number 0) reads as. */
enum qcow2_state {
	QCOW2_HOLE,
	QCOW2_ZEROES,
	QCOW2_DATA,
	QCOW2_STATE_COMPRESSED,
};
enum qcow2_state qcow2_state(const struct qcow2_geometry *g, const struct qcow2_entry *e,
			     unsigned sub);
/* Does the cluster have a host cluster (used or not)? */
static inline bool qcow2_has_host(const struct qcow2_entry *e)
{
	return e->kind == QCOW2_NORMAL || e->kind == QCOW2_ZERO_ALLOC;
}

int qcow2_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
	      struct img_extent *out);

/* ---- qcow2_info.c: blocking ---- */

/*
 * Call fn for each internal snapshot (for_each of its table); s is borrowed. fn's non-zero answer
 * ends it. table_bytes (NULL: not wanted): the length of the table.
 */
int qcow2_each_snapshot(struct img *img, int (*fn)(void *user, const struct qcow2_snapshot *s),
			void *user, uint64_t *table_bytes, struct img_error *err);
/* The bitmap directory, malloc'd, bitmap_directory_bytes long. */
int qcow2_read_bitmap_directory(struct img *img, uint8_t **out, struct img_error *err);
int qcow2_info(struct img *img, struct img_value *top, struct img_value *specific,
	       struct img_error *err);

/* ---- qcow2_alloc.c: in memory, under the metadata lock ---- */

/*
 * Find 1..want free clusters in a row. Changes nothing but what is remembered about used ones.
 * 0, IMG_NEED_METADATA; IMG_NEED_EXCLUSIVE: none left, call grow(); -EUCLEAN: the refcounts call
 * metadata free; -ENOSPC, -EFBIG.
 */
int qcow2_find_free(struct img *img, struct img_req *req, uint64_t want, uint64_t *first,
		    uint64_t *count);
/* Count found clusters once. The same req found them. */
void qcow2_alloc(struct img *img, struct img_req *req, uint64_t first, uint64_t count);

/*
 * Find room for len bytes (at most a cluster) of compressed data and count it. Answers as
 * qcow2_find_free().
 */
int qcow2_alloc_compressed(struct img *img, struct img_req *req, uint64_t len, uint64_t *file_off);
/* ... and take it back. */
void qcow2_drop_compressed(struct img *img, struct img_req *req, uint64_t file_off, uint64_t len);

/*
 * One use less of every cluster that [off, off + len) touches; counts that are 0 stay so. 0 or
 * IMG_NEED_METADATA (then nothing was changed).
 */
int qcow2_unuse(struct img *img, struct img_req *req, uint64_t off, uint64_t len);
/* Is no cluster of the range used more than once? 0 or IMG_NEED_METADATA. */
int qcow2_used_once(struct img *img, struct img_req *req, uint64_t off, uint64_t len, bool *once);

/* ---- qcow2_write.c ---- */

int qcow2_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
		     uint64_t len, struct img_plan *plan);
void qcow2_commit(struct img *img, struct img_req *req, const struct img_plan *plan);
void qcow2_drop(struct img *img, struct img_req *req, const struct img_plan *plan);
int qcow2_last_use(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		   uint64_t len, bool *last);
int qcow2_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		  uint64_t len);
int qcow2_first_write(struct img *img, struct img_error *err);
int qcow2_finish(struct img *img, struct img_error *err);

/* ---- qcow2_refcount.c: blocking, image quiet ---- */

/* One refcount block in memory, at a time. Zero-initialise but for img. */
struct qcow2_refcounts {
	struct img *img;
	uint8_t *bytes; /* a cluster; NULL: nothing loaded yet */
	uint64_t block; /* which block of the table is loaded */
	bool loaded, dirty;
};

/* A count; 0 where there is no block. */
int qcow2_refcounts_get(struct qcow2_refcounts *r, uint64_t cluster, uint64_t *count, struct img_error *err);
/* Set the counts of a run; there must be blocks for all of it. */
int qcow2_refcounts_set(struct qcow2_refcounts *r, uint64_t first, uint64_t n, uint64_t count,
			struct img_error *err);
/* One use less of every cluster that [off, off + len) touches; uncounted ones stay so. */
int qcow2_refcounts_unuse(struct qcow2_refcounts *r, uint64_t off, uint64_t len, struct img_error *err);
/*
 * Find n free clusters in a row that the refcount table covers (making it cover them, crash-safe)
 * and count them once.
 */
int qcow2_refcounts_alloc(struct qcow2_refcounts *r, uint64_t n, uint64_t *first, struct img_error *err);
/* Make sure that at least one cluster is free and covered. */
int qcow2_refcounts_make_room(struct qcow2_refcounts *r, struct img_error *err);
/* Write what was changed. */
int qcow2_refcounts_flush(struct qcow2_refcounts *r, struct img_error *err);
/* Forget what was not flushed; free memory. */
void qcow2_refcounts_end(struct qcow2_refcounts *r);

/* Make all that was written to the image's file durable, unless it was opened never to sync. */
int qcow2_sync(struct img *img, struct img_error *err);

/* Write metadata in place, blocking, and forget what the cache has of it. */
int qcow2_write_meta(struct img *img, uint64_t off, const void *bytes, size_t len,
		     struct img_error *err);

/* ---- qcow2_grow.c ---- */

int qcow2_grow(struct img *img, uint64_t off, uint64_t len, struct img_error *err);
int qcow2_extend(struct img *img, uint64_t size, struct img_error *err);
/* Can the image be given another size at all? -ENOTSUP, -EINVAL. */
int qcow2_may_resize(const struct img *img, struct img_error *err);
/* After extend(): room for [old, size) as `how` says, and the size, durably. */
int qcow2_grow_disk(struct qcow2_refcounts *r, uint64_t old, uint64_t size, enum img_preallocate how,
		    struct img_error *err);

/* Read L1 entries [first, first + n) to out, in host order. */
int qcow2_read_l1(struct img *img, uint64_t first, uint64_t n, uint64_t *out,
		  struct img_error *err);
/* Give L1 entries [first, first + n) L2 tables of their own where they share them. */
int qcow2_own_tables(struct qcow2_refcounts *r, uint64_t first, uint64_t n, struct img_error *err);
/* Write the disk's size to the header, durably, and to img. */
int qcow2_write_size(struct img *img, uint64_t size, struct img_error *err);

/* ---- qcow2_resize.c ---- */

int qcow2_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err);

/* ---- qcow2_shrink.c ---- */

/* Cut the disk to size; also what extend() made beyond it. */
int qcow2_shrink(struct qcow2_refcounts *r, uint64_t size, struct img_error *err);
int qcow2_make_empty(struct img *img, struct img_error *err);

/* ---- qcow2_backing.c ---- */

int qcow2_set_backing(struct img *img, const char *name, const char *format,
		      const struct img *backing, struct img_error *err);

/* ---- qcow2_crypto.c ---- */

extern const struct img_option qcow2_open_options[];
/* Are the options that are given those of an image like this one? -EINVAL. */
int qcow2_check_encryption(const struct img *img, const struct img_opening *o, struct img_error *err);
/*
 * Of an encrypted image, unless it was opened without its data: get the cipher, by the passphrase. -EKEYREJECTED: that is
 * wrong; -ENOKEY, ...: see img_opening; -EUCLEAN, -ENOTSUP: the LUKS header.
 */
int qcow2_open_cipher(struct img *img, struct img_opening *o, struct img_error *err);
/* The LUKS header that the extension leads to. -EUCLEAN: none is there, or not a sound one; -ENOTSUP, ... */
int qcow2_open_luks(const struct img *img, uint64_t off, uint64_t bytes, struct img_luks **out,
		    struct img_error *err);
void qcow2_lock(struct qcow2_unlocked *u); /* forget it */
/* Before guest data is looked up or changed. -ENOKEY: that needs the cipher. */
int qcow2_check_unlocked(const struct img *img, struct img_req *req);

/* What sectors of guest data at file offset host are numbered by. */
static inline uint64_t qcow2_tweak(const struct qcow2 *q, uint64_t guest, uint64_t host)
{
	return q->header.crypt_method == QCOW2_CRYPT_AES ? guest : host;
}

/* How a new image is encrypted. */
struct qcow2_encryption {
	uint32_t method; /* QCOW2_CRYPT_* */
	struct img_luks_parameters luks;
	uint64_t header_bytes; /* of LUKS; 0: there is none */
};
/* -EINVAL, -ENOTSUP: options that do not go together; -ENOKEY: there is no passphrase. */
int qcow2_create_encryption(const struct img_creating *c, struct qcow2_encryption *out,
			    struct img_error *err);
/* Write the LUKS header to off, if there is one, and leave the cipher for open(). */
int qcow2_create_cipher(struct img_creating *c, const struct qcow2_encryption *e, uint64_t off,
			const uint8_t *passphrase, size_t len, struct img_error *err);

extern const struct img_option qcow2_amend_options[];
/* Change the key slots of an image that is unlocked, or whose old-secret opens it. -ENOTSUP: there are none. */
int qcow2_amend(struct img *img, struct img_amending *a, struct img_error *err);

/* ---- qcow2_create.c, qcow2_check.c ---- */

extern const struct img_option qcow2_create_options[];
int qcow2_create_check(struct img_creating *c, struct img_error *err);
int qcow2_create(struct img_creating *c, struct img_error *err);
int qcow2_check(struct img *img, struct img_check *check, struct img_error *err);
/* -EUCLEAN: tables or guest data are not in the file (any more). Changes nothing. check: zeroes. */
int qcow2_check_truncated(struct img *img, struct img_check *check, struct img_error *err);

extern const struct img_driver qcow2_driver;

#endif
