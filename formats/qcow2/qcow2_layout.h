/*
 * qcow2 versions 2 and 3 as bytes: offsets, masks, parsing and encoding; no I/O, no allocation.
 * spec/qcow2.md says what each thing means. All integers in the file are big-endian.
 *
 * Sentences given here name the structure and offset; the caller puts the file's name before them
 * (img_error_prefix). A parser answers in this order: is it ours (-EMEDIUMTYPE), is it sound
 * (-EUCLEAN), can we do it (-ENOTSUP).
 */
#ifndef FORMATS_QCOW2_LAYOUT_H
#define FORMATS_QCOW2_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"

enum {
	QCOW2_MAGIC = 0x514649fb,
	QCOW2_V2_HEADER_BYTES = 72,
	QCOW2_V3_HEADER_BYTES = 104, /* the least; what version 3 began with */
	QCOW2_HEADER_BYTES = 112,    /* as written: with compression_type and padding */
	QCOW2_MIN_CLUSTER_BITS = 9,
	QCOW2_MAX_CLUSTER_BITS = 21,
	QCOW2_MIN_EXTENDED_BITS = 14, /* so that a subcluster has 512 bytes */
	QCOW2_SUBCLUSTERS = 32,
	QCOW2_MAX_REFCOUNT_ORDER = 6,
	QCOW2_MAX_BACKING_NAME = 1023,
	QCOW2_MAX_BACKING_FORMAT = 15,
	QCOW2_MAX_L1_BYTES = 32 << 20, /* active and of snapshots */
	QCOW2_MAX_REFTABLE_BYTES = 8 << 20,
	QCOW2_MAX_SNAPSHOTS = 65536,
	QCOW2_MAX_SNAPSHOT_TABLE_BYTES = 64 << 20,
	QCOW2_MAX_SNAPSHOT_EXTRA = 1024,
	QCOW2_MAX_BITMAPS = 65535,
	QCOW2_MAX_BITMAP_DIRECTORY_BYTES = 65535 * 1024,
	QCOW2_MAX_BITMAP_TABLE_ENTRIES = 0x8000000,
	QCOW2_MAX_BITMAP_NAME = 1023,
	QCOW2_MIN_BITMAP_GRANULARITY_BITS = 9,
	QCOW2_MAX_BITMAP_GRANULARITY_BITS = 31,
};

/* Header fields that are written alone; each group below is one write. */
enum {
	QCOW2_OFF_MAGIC = 0,
	QCOW2_OFF_VERSION = 4,
	QCOW2_OFF_BACKING_OFF = 8,
	QCOW2_OFF_BACKING_BYTES = 16,
	QCOW2_OFF_CLUSTER_BITS = 20,
	QCOW2_OFF_SIZE = 24,
	QCOW2_OFF_CRYPT_METHOD = 32,
	QCOW2_OFF_L1_ENTRIES = 36,
	QCOW2_OFF_L1_OFF = 40, /* one write of 12 bytes */
	QCOW2_OFF_REFTABLE_OFF = 48,
	QCOW2_OFF_REFTABLE_CLUSTERS = 56, /* one write of 12 bytes */
	QCOW2_OFF_SNAPSHOTS = 60,
	QCOW2_OFF_SNAPSHOTS_OFF = 64, /* one write of 12 bytes */
	QCOW2_OFF_INCOMPATIBLE = 72,
	QCOW2_OFF_COMPATIBLE = 80,
	QCOW2_OFF_AUTOCLEAR = 88,
	QCOW2_OFF_REFCOUNT_ORDER = 96,
	QCOW2_OFF_HEADER_BYTES = 100,
	QCOW2_OFF_COMPRESSION = 104,
};

enum {
	QCOW2_INCOMPATIBLE_DIRTY = 1 << 0,
	QCOW2_INCOMPATIBLE_CORRUPT = 1 << 1,
	QCOW2_INCOMPATIBLE_DATA_FILE = 1 << 2,
	QCOW2_INCOMPATIBLE_COMPRESSION = 1 << 3,
	QCOW2_INCOMPATIBLE_EXTENDED_L2 = 1 << 4,
	QCOW2_INCOMPATIBLE_KNOWN = 0x1f,
	QCOW2_COMPATIBLE_LAZY_REFCOUNTS = 1 << 0,
	QCOW2_AUTOCLEAR_BITMAPS = 1 << 0,
	QCOW2_AUTOCLEAR_DATA_FILE_RAW = 1 << 1,
	QCOW2_AUTOCLEAR_KNOWN = 3,
};

enum { QCOW2_CRYPT_NONE = 0,
       QCOW2_CRYPT_AES = 1,
       QCOW2_CRYPT_LUKS = 2 };
enum { QCOW2_COMPRESSION_DEFLATE = 0,
       QCOW2_COMPRESSION_ZSTD = 1 };

/* Masks of table entries. */
#define QCOW2_COPIED (UINT64_C(1) << 63) /* L1, L2: the refcount is exactly 1 */
#define QCOW2_L2_COMPRESSED (UINT64_C(1) << 62)
#define QCOW2_L2_ZERO UINT64_C(1)		       /* standard entry, not with extended L2 */
#define QCOW2_OFFSET_MASK UINT64_C(0x00fffffffffffe00) /* L1, standard L2, bitmap table */
#define QCOW2_L1_RESERVED UINT64_C(0x7f000000000001ff)
#define QCOW2_L2_RESERVED UINT64_C(0x3f000000000001fe)
#define QCOW2_REFTABLE_MASK UINT64_C(0xfffffffffffffe00)
#define QCOW2_REFTABLE_RESERVED UINT64_C(0x00000000000001ff)
#define QCOW2_BITMAP_ALL_ONES UINT64_C(1) /* with offset 0 */
#define QCOW2_BITMAP_RESERVED UINT64_C(0xff000000000001fe)

/* ---- Header ---- */

struct qcow2_header {
	uint32_t version;		  /* 2, 3 */
	uint64_t backing_off;		  /* 0: none */
	uint32_t backing_bytes;		  /* <= 1023, inside the first cluster; 0 if backing_off is 0 */
	uint32_t cluster_bits;		  /* 9..21 */
	uint64_t size;			  /* as stored: guest bytes, of which whole sectors count */
	uint32_t crypt_method;		  /* QCOW2_CRYPT_* */
	uint32_t l1_entries;		  /* covers size */
	uint64_t l1_off;		  /* aligned; 0 only with no entries */
	uint64_t refcount_table_off;	  /* aligned */
	uint32_t refcount_table_clusters; /* 0 only for a check */
	uint32_t snapshots;
	uint64_t snapshots_off;			      /* aligned (for a check: unchecked) */
	uint64_t incompatible, compatible, autoclear; /* version 2: 0 */
	uint32_t refcount_order;		      /* 0..6; version 2: 4 */
	uint32_t header_bytes;			      /* <= cluster */
	uint8_t compression;			      /* QCOW2_COMPRESSION_* */
	/* Fields after the known ones (from byte 112 on), kept; borrowed from what was parsed. */
	const uint8_t *more;
	uint32_t more_bytes;
};

/* parse flags */
enum {
	/* For check(): no refcount table, and an unsound snapshot table, are let through. */
	QCOW2_PARSE_FOR_CHECK = 1,
};

/* A table of bytes at off: aligned, and ending below 2^63? */
bool qcow2_table_fits(uint64_t off, uint64_t bytes, uint32_t cluster_bits);

/*
 * The size of the first cluster, from the first 24 bytes; 0: not ours, or unsound (parsing will
 * say so: give it what there is).
 */
uint64_t qcow2_peek_cluster_bytes(const uint8_t *bytes, size_t len);

/*
 * bytes: the first cluster, padded with zeroes if the file is shorter (512 bytes are enough where
 * qcow2_peek_cluster_bytes() says 0). -EMEDIUMTYPE; -EUCLEAN; -ENOTSUP: a version, or
 * incompatible features, which the sentence names. More than this is in range afterwards:
 * table offset + length < 2^63 for the L1, refcount and (not for a check) snapshot table.
 */
int qcow2_parse_header(const uint8_t *bytes, size_t len, unsigned flags, struct qcow2_header *out,
		       struct img_error *err);

/* ---- Header extensions ---- */

enum {
	QCOW2_EXT_END = 0,
	QCOW2_EXT_DATA_FILE = 0x44415441,
	QCOW2_EXT_FEATURES = 0x6803f857,
	QCOW2_EXT_BITMAPS = 0x23852875,
	QCOW2_EXT_CRYPTO = 0x0537be77,
};
#define QCOW2_EXT_BACKING_FORMAT UINT32_C(0xe2792aca)

struct qcow2_extension {
	uint32_t type;
	uint32_t bytes;
	const uint8_t *data; /* borrowed */
};

/*
 * The extension at *pos in first[0, end), and the next *pos. 1: here it is; 0: no more; -EUCLEAN.
 * Start with *pos = header_bytes; end is backing_off, or the cluster where that is 0.
 */
int qcow2_next_extension(const uint8_t *first, size_t end, size_t *pos,
			 struct qcow2_extension *out, struct img_error *err);

/* What the known extensions say. Pointers are borrowed from what was parsed. */
struct qcow2_extensions {
	char backing_format[QCOW2_MAX_BACKING_FORMAT + 1]; /* "": none */
	const uint8_t *data_file;			   /* name without a NUL; NULL: none */
	uint32_t data_file_bytes;
	uint64_t crypto_off, crypto_bytes;		       /* off aligned; 0, 0: none */
	uint32_t bitmaps;				       /* 0: none, or stale */
	uint64_t bitmap_directory_bytes, bitmap_directory_off; /* off aligned, in range */
	bool stale_bitmaps;				       /* their autoclear bit is off */
	/* Where extensions unknown to us are found again when encoding. */
	const uint8_t *first;
	size_t start, end; /* start >= end: no extensions */
};

/* bytes: as for qcow2_parse_header(), whose answer is h. -EUCLEAN. */
int qcow2_parse_extensions(const uint8_t *bytes, size_t len, const struct qcow2_header *h,
			   struct qcow2_extensions *out, struct img_error *err);

/*
 * Write the first cluster: header, extensions (known ones from x, then the unknown ones that x
 * was parsed with, kept; the table of feature names for version 3 with clusters above 4 KiB),
 * backing name (NULL or "": none). out: 1 << cluster_bits bytes, not what h and x borrow from;
 * the rest becomes zero. Sets h's backing_off, backing_bytes, header_bytes and, where it has no
 * say any more, nothing else. -ENOSPC: it does not fit; h is unchanged.
 */
int qcow2_encode_first(struct qcow2_header *h, const struct qcow2_extensions *x,
		       const char *backing_name, uint8_t *out, struct img_error *err);

/* ---- Geometry: what follows from the header ---- */

struct qcow2_geometry {
	uint32_t version;
	unsigned cluster_bits;
	uint64_t cluster_bytes;
	bool extended;		 /* L2 entries of 16 bytes, 32 subclusters */
	bool data_file;		 /* guest clusters live in another file */
	unsigned l2_entry_bytes; /* 8, 16 */
	unsigned l2_bits;	 /* log2 of l2_entries */
	uint64_t l2_entries;	 /* in one table, which is one cluster */
	uint64_t l2_span;	 /* guest bytes that one L2 table covers */
	unsigned subclusters;	 /* 1, 32 */
	uint64_t subcluster_bytes;
	unsigned refcount_order;
	unsigned refcount_bits;	   /* 1..64 */
	uint64_t refcount_max;	   /* the largest count an entry can hold */
	uint64_t block_entries;	   /* refcounts in one block, which is one cluster */
	unsigned compressed_shift; /* x: bits of the offset in a compressed descriptor */
};

void qcow2_geometry(const struct qcow2_header *h, struct qcow2_geometry *out);

/* L1 entries that size bytes of guest need. */
uint64_t qcow2_l1_needed(const struct qcow2_geometry *g, uint64_t size);

/* ---- L2 entries ---- */

enum qcow2_kind {
	QCOW2_UNALLOCATED, /* extended: no host cluster; sub_zero may have bits */
	QCOW2_ZERO_PLAIN,
	QCOW2_ZERO_ALLOC, /* reads as zeroes, host_off is preallocated */
	QCOW2_NORMAL,	  /* extended: sub_alloc, sub_zero say what of it counts */
	QCOW2_COMPRESSED,
};

struct qcow2_entry {
	enum qcow2_kind kind;
	uint64_t host_off;     /* ZERO_ALLOC, NORMAL, COMPRESSED (of a byte) */
	uint32_t stored_bytes; /* COMPRESSED: from host_off to the end of the last sector */
	bool copied;
	uint32_t sub_alloc, sub_zero; /* extended, not COMPRESSED: bit i is subcluster i */
};

/* What can be wrong with an entry; the first group makes it unusable, the second is for check(). */
enum {
	QCOW2_BAD_UNALIGNED = 1 << 0,	      /* host offset */
	QCOW2_BAD_SUBCLUSTERS = 1 << 1,	      /* both bits of a subcluster set */
	QCOW2_BAD_UNBACKED = 1 << 2,	      /* subclusters allocated without a host cluster */
	QCOW2_BAD_V2_ZERO = 1 << 3,	      /* zero flag in version 2 */
	QCOW2_BAD_COMPRESSED_BITMAP = 1 << 4, /* compressed, with a subcluster bitmap */
	QCOW2_BAD_COMPRESSED_DATA_FILE = 1 << 5,
	QCOW2_BAD_COMPRESSED_OFFSET = 1 << 6, /* above 2^56 */
	QCOW2_BAD = 0x7f,
	QCOW2_ODD_RESERVED = 1 << 7, /* reserved bits */
	QCOW2_ODD_COMPRESSED_COPIED = 1 << 8,
};

/*
 * Take an entry apart. word, bitmap: its two words in host order (bitmap 0 if not extended).
 * Fills out in any case; the answer is a set of QCOW2_BAD_* and QCOW2_ODD_*, 0 for a sound entry.
 */
unsigned qcow2_decode_entry(const struct qcow2_geometry *g, uint64_t word, uint64_t bitmap,
			    struct qcow2_entry *out);
/* What the lowest bit of such a set means, for a sentence: "an unaligned offset". */
const char *qcow2_defect_text(unsigned defects);
/* The two words of a sound entry; *bitmap is 0 if not extended. */
void qcow2_encode_entry(const struct qcow2_geometry *g, const struct qcow2_entry *e,
			uint64_t *word, uint64_t *bitmap);
/*
 * Room at host_off that reads as zeroes whatever is in it; not with version 2. An entry cannot say so of
 * 0, where a data file has its first cluster: there it is zeroes without room.
 */
struct qcow2_entry qcow2_zero_room(const struct qcow2_geometry *g, uint64_t host_off);
/* May stored_bytes bytes at host_off be a compressed descriptor (does the offset fit)? */
bool qcow2_compressed_fits(const struct qcow2_geometry *g, uint64_t host_off,
			   uint64_t stored_bytes);

/* ---- Refcounts ---- */

/* Entry i of a block. order: 0..6. */
uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order, uint64_t i);
void qcow2_refcount_set(uint8_t *block, unsigned order, uint64_t i, uint64_t value);

/* ---- Snapshot table ---- */

enum { QCOW2_SNAPSHOT_FIXED_BYTES = 40,
       QCOW2_SNAPSHOT_EXTRA_WRITTEN = 24 };

struct qcow2_snapshot {
	uint64_t l1_off; /* unchecked: see qcow2_check_snapshot_l1() */
	uint32_t l1_entries;
	uint32_t seconds, nanoseconds; /* since the Epoch */
	uint64_t guest_ns;	       /* guest run time */
	uint64_t vm_state_bytes;
	bool has_size;
	uint64_t size; /* of the disk; has_size */
	bool has_icount;
	uint64_t icount;      /* UINT64_MAX: none */
	uint32_t extra_bytes; /* as found */
	/* Borrowed, without a NUL. */
	const uint8_t *more_extra; /* extra data after the known fields, kept */
	uint32_t more_extra_bytes;
	const uint8_t *id, *name;
	uint16_t id_bytes, name_bytes;
};

/* The bytes of an entry, padding not counted, from its first 40. */
uint64_t qcow2_snapshot_bytes(const uint8_t *fixed);
/* The same for one to be encoded. */
uint64_t qcow2_snapshot_encoded_bytes(const struct qcow2_snapshot *s);
/*
 * len: at least what qcow2_snapshot_bytes() says, else -EUCLEAN. Extra data above 1024 bytes:
 * -EUCLEAN (out is filled all the same). The next entry starts at the next multiple of 8.
 */
int qcow2_parse_snapshot(const uint8_t *bytes, size_t len, struct qcow2_snapshot *out,
			 struct img_error *err);
/* out: qcow2_snapshot_encoded_bytes() bytes. Extra data: 24 bytes known ones, then more_extra. */
void qcow2_encode_snapshot(const struct qcow2_snapshot *s, uint8_t *out);
/* Is the L1 table of a snapshot where one may be? -EUCLEAN. */
int qcow2_check_snapshot_l1(const struct qcow2_geometry *g, const struct qcow2_snapshot *s,
			    struct img_error *err);

/* ---- Bitmap directory ---- */

enum {
	QCOW2_BITMAP_FIXED_BYTES = 24,
	QCOW2_BITMAP_IN_USE = 1 << 0,
	QCOW2_BITMAP_AUTO = 1 << 1,
	QCOW2_BITMAP_EXTRA_COMPATIBLE = 1 << 2,
	QCOW2_BITMAP_FLAGS_KNOWN = 3,
	QCOW2_BITMAP_DIRTY_TRACKING = 1,
};

struct qcow2_bitmap {
	uint64_t table_off;	  /* aligned, not 0 unless there are no entries */
	uint32_t table_entries;	  /* <= QCOW2_MAX_BITMAP_TABLE_ENTRIES */
	uint32_t flags;		  /* QCOW2_BITMAP_* */
	uint8_t type;		  /* 1 */
	uint8_t granularity_bits; /* 9..31 */
	uint16_t name_bytes;	  /* 1..1023 */
	uint32_t extra_bytes;	  /* 0 */
	const uint8_t *name;	  /* borrowed, without a NUL */
};

/* The bytes of an entry, padding counted, from its first 24. */
uint64_t qcow2_bitmap_bytes(const uint8_t *fixed);
/*
 * len: what is left of the directory. -EUCLEAN: it runs past that, or unsound; -ENOTSUP: flags,
 * a type or extra data that we do not know.
 */
int qcow2_parse_bitmap(const struct qcow2_geometry *g, const uint8_t *bytes, size_t len,
		       struct qcow2_bitmap *out, struct img_error *err);
/* out: 24 + name_bytes bytes rounded up to 8; padding is written. */
void qcow2_encode_bitmap(const struct qcow2_bitmap *b, uint8_t *out);
/* Table entries that a bitmap of this granularity needs for size bytes of guest. */
uint64_t qcow2_bitmap_entries(const struct qcow2_geometry *g, uint64_t size,
			      unsigned granularity_bits);

#endif
