/*
 * What a check found out about an image. qcow2_check_scan.c counts uses (L2 tables: qcow2_check_entries.c;
 * the counting itself: qcow2_check_uses.c), qcow2_check_refcounts.c compares them with refcounts,
 * qcow2_check_copied.c these with the copied flags; qcow2_repair.c and qcow2_repair_overlaps.c work
 * from that. Everything is read afresh from the file, so a scan after a repair judges the repair.
 */
#ifndef FORMATS_QCOW2_CHECK_H
#define FORMATS_QCOW2_CHECK_H

#include "formats/qcow2/qcow2_state.h"
#include "formats/qcow2/qcow2_use_counts.h"

/* An L2 table, however many L1 entries point at it: each is read once. */
struct qcow2_scan_l2 {
	uint64_t off;
	uint64_t uses;	 /* L1 entries, of all L1 tables */
	uint64_t active; /* of them, in the active one */
	bool seen;	 /* its copied flags were checked */
	uint64_t guest;	 /* what it maps begins here, where it was met first */
	uint64_t bytes;	 /* of the disk, at the most, that it maps: the last one may map less than others */
};

/* A compressed stream that ends in the file's last sector. More of them than below do not fit there. */
struct qcow2_tail {
	uint64_t off;
	bool cut;
};

/* A cluster that is a table, and something else too. */
struct qcow2_overlap {
	uint64_t cluster;
	const char *what; /* what was found there in the second place */
};

enum { QCOW2_SCAN_WORDS = 8192 }; /* of a table, read in one piece */

enum {
	QCOW2_SCAN_QUIET = 1 << 0,	  /* say nothing */
	QCOW2_SCAN_NO_REFCOUNTS = 1 << 1, /* do not count the refcount table and blocks */
};

struct qcow2_scan {
	struct img *img;
	struct img_check *check; /* for saying what is found */
	unsigned flags;		 /* QCOW2_SCAN_* */

	uint8_t *first; /* the first cluster; header and extensions borrow from it */
	struct qcow2_header header;
	struct qcow2_extensions extensions;
	struct qcow2_geometry geometry;
	uint64_t file_bytes;
	uint64_t clusters;	  /* in the file, a partial last one counted */
	uint64_t snapshots_bytes; /* of the snapshot table */

	uint64_t l1_entries;	/* of the active table: those that can be */
	uint64_t first_entries; /* of them, those that are scanned first */

	struct qcow2_counts refs; /* how often each cluster is used */
	struct qcow2_scan_l2 *l2;
	size_t nl2, max_l2;
	struct qcow2_map l2_index; /* offset to index in l2 */
	uint64_t *refcount_table;  /* block offsets; what cannot be used is 0 */
	uint64_t refcount_table_entries;
	uint64_t lost_from;    /* the first place of what is referred to but not in the file */
	bool tangled;	       /* too much of that: no more tables are followed */
	uint64_t overlap_left; /* bytes of tables inside other things still to be walked */

	uint8_t *table, *block; /* buffers of a cluster */
	uint64_t *words;	/* a buffer for pieces of tables */

	/* Findings. */
	uint64_t errors; /* something could not be looked at */
	uint64_t corruptions, leaks;
	uint64_t refcount_corruptions; /* of corruptions: counts too low */
	uint64_t copied_wrong;	       /* copied flags, of corruptions */
	uint64_t lost_data;	       /* what is named but not in the file (any more) */
	uint64_t data_end;	       /* where a data file that is too short should end; 0: it is not */
	uint64_t in_tables;	       /* entries whose data lies where a table is */
	uint64_t allocated, fragmented, compressed;
	uint64_t image_end;
	bool rebuild; /* refcounts cannot be repaired in place */
	bool lost;    /* clusters may be in use by what cannot be followed */
	struct qcow2_tail tails[64];
	size_t ntails;
	struct qcow2_overlap overlaps[256]; /* that many are enough to tell */
	size_t noverlaps;
	bool mixed;	    /* tables lie in each other: which of them is right? */
	bool bad_header;    /* fields that say what cannot be, and that nothing depends on */
	bool long_l1;	    /* the header counts L1 entries that cannot be */
	bool bad_entries;   /* L1 or L2 entries that repairing can make sound */
	bool bad_snapshots; /* the same for snapshot table entries */
};

/*
 * Count all uses. 0: done, see the findings; -EUCLEAN, -ENOTSUP: the header is beyond a check;
 * -ENOMEM, -EFBIG. Whatever the answer, qcow2_scan_free() is called after.
 */
int qcow2_scan(struct qcow2_scan *s, struct img *img, struct img_check *check, unsigned flags,
	       struct img_error *err);
void qcow2_scan_free(struct qcow2_scan *s);
/* Compare what was counted with the refcounts in the file. */
void qcow2_compare(struct qcow2_scan *s);
/* The refcount of a cluster in the file. */
uint64_t qcow2_scan_refcount(struct qcow2_scan *s, uint64_t cluster);
/*
 * Compare copied flags with the refcounts that qcow2_compare() or a repair has found. repair: set those
 * right that can be; they are counted as corruptions all the same.
 */
int qcow2_check_copied(struct qcow2_scan *s, bool repair, struct img_error *err);
/* Is this L2 table nothing but that? What else lies there must not be written over. */
bool qcow2_is_alone(const struct qcow2_scan *s, const struct qcow2_scan_l2 *l2);
/* The same of the active L1 table. */
bool qcow2_l1_is_alone(const struct qcow2_scan *s);

/* One line of a defect, unless the scan is quiet or so many were reported before. */
void qcow2_scan_report(struct qcow2_scan *s, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Is all of this (IMG_REPAIR_*) asked for? */
bool qcow2_scan_repairs(const struct qcow2_scan *s, unsigned what);
/* How a defect that IMG_REPAIR_ALL repairs is announced. */
const char *qcow2_scan_verb(const struct qcow2_scan *s);
/* Read into buf; what cannot be read counts as an error, and is false. */
bool qcow2_scan_read(struct qcow2_scan *s, uint64_t off, void *buf, size_t len, const char *what);

/*
 * Call fn for each of n big-endian words at off that is not 0; holes are passed over. What cannot
 * be read counts as an error. Only fn's failure is returned.
 */
int qcow2_scan_words(struct qcow2_scan *s, uint64_t off, uint64_t n, const char *what,
		     int (*fn)(struct qcow2_scan *s, void *arg, uint64_t i, uint64_t word,
			       struct img_error *err),
		     void *arg, struct img_error *err);

/* ---- Counting uses ---- */

/*
 * [off, off + len) is used `uses` times more. *inside (may be NULL): some of it was in use before.
 * The last cluster of a file may be cut short; what lies further out is a defect and not counted.
 */
int qcow2_scan_count(struct qcow2_scan *s, uint64_t off, uint64_t len, uint64_t uses, bool *inside,
		     struct img_error *err);
/*
 * len bytes at off, of what all in all were counted, have to be in the file. What lies far outside
 * qcow2_scan_count() has said already.
 */
void qcow2_scan_need(struct qcow2_scan *s, uint64_t off, uint64_t len, uint64_t all, const char *what);
/* A table's cluster that is something else, too; whether that shows elsewhere is seen later. */
void qcow2_scan_add_overlap(struct qcow2_scan *s, uint64_t cluster, const char *what);
/* [off, off + len), counted before, holds what has no other place. */
void qcow2_scan_mark_fixed(struct qcow2_scan *s, uint64_t off, uint64_t len, const char *what);
/* Does guest data lie where a table is? */
void qcow2_scan_check_apart(struct qcow2_scan *s, uint64_t off, uint64_t len);
/* Count what has no other place. */
int qcow2_scan_count_fixed(struct qcow2_scan *s, uint64_t off, uint64_t len, const char *what,
			   struct img_error *err);
/*
 * Count a table, and say whether to walk it: tables that lie inside other things are walked too,
 * but not without end.
 */
int qcow2_scan_count_table(struct qcow2_scan *s, uint64_t off, uint64_t len, const char *what,
			   bool *walk, struct img_error *err);
/* Count what the entries of an L2 table name. */
int qcow2_scan_l2_table(struct qcow2_scan *s, const struct qcow2_scan_l2 *l2, struct img_error *err);
/* Does a cluster start or go on so far past the end of the file that it is not just cut short? */
bool qcow2_beyond_end(const struct qcow2_scan *s, uint64_t off, uint64_t len);
/* Is it (a part of) a table other than of refcounts? */
bool qcow2_in_table(const struct qcow2_scan *s, uint64_t cluster);
/* What the refcount of a cluster should be: its uses, as far as they can be counted. */
uint64_t qcow2_scan_uses(const struct qcow2_scan *s, uint64_t cluster);
/* Mend an L2 entry without changing what the guest sees; false: it is left as it is. */
bool qcow2_repaired_entry(const struct qcow2_scan *s, uint64_t *word, uint64_t *bitmap);

/* Where room behind the end of the file begins. */
uint64_t qcow2_space_at_end(const struct qcow2_scan *s);
/* Can n clusters from first on be? -ENOSPC; -EUCLEAN: something lost would come to lie in the file. */
int qcow2_check_space(const struct qcow2_scan *s, uint64_t first, uint64_t n, struct img_error *err);
/* Give guest data that lies in tables a place of its own. */
int qcow2_move_data(struct qcow2_scan *s, struct img_error *err);

/* Mend what check->repair allows. The findings of s are used up; scan again after. */
int qcow2_repair(struct qcow2_scan *s, unsigned repair, struct img_error *err);
/* The image is sound: take back the marks that say otherwise. */
int qcow2_clear_marks(struct qcow2_scan *s, struct img_error *err);

#endif
