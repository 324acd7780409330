/*
 * Counting how often each cluster of a file is used, by the header, tables and guest data:
 * spec/qcow2.md, "Checking". Here is the order in which all of it is gone through, down to the L1
 * tables, snapshots and bitmaps; qcow2_check_entries.c has the L2 tables, qcow2_check_uses.c the counting.
 *
 * An L2 table that several L1 entries share (snapshots do) is read once and counted as often as it
 * is used, so hostile tables that all point at each other cost no more than they are long.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_check.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	MAX_L2_TABLES = 8 << 20, /* twice what an L1 table can hold */
	MAX_OVERLAP = 256 << 20, /* bytes of tables that lie inside other things */
};

/* ---- L1 and L2 tables ---- */

/* Remember an L2 table to be walked. */
static int add_l2(struct qcow2_scan *s, uint64_t off, bool active, uint64_t guest, uint64_t bytes,
		  struct img_error *err)
{
	uint64_t *index = qcow2_map_add(&s->l2_index, off);

	if (!index)
		return img_fail(err, -ENOMEM, "%s: out of memory for L2 tables", s->img->name);
	if (!*index) {
		if (s->nl2 == s->max_l2) {
			size_t max = s->max_l2 ? s->max_l2 * 2 : 256;
			struct qcow2_scan_l2 *more;

			if (max > MAX_L2_TABLES)
				return img_fail(err, -EFBIG, "%s: more than %d L2 tables",
						s->img->name, MAX_L2_TABLES);
			more = realloc(s->l2, max * sizeof(*more));
			if (!more)
				return img_fail(err, -ENOMEM, "%s: out of memory for L2 tables",
						s->img->name);
			s->l2 = more;
			s->max_l2 = max;
		}
		s->l2[s->nl2++] = (struct qcow2_scan_l2){ .off = off, .guest = guest };
		*index = s->nl2; /* one more than the index: 0 is new */
	}
	s->l2[*index - 1].uses++;
	s->l2[*index - 1].active += active;
	s->l2[*index - 1].bytes = max_u64(s->l2[*index - 1].bytes, bytes);
	return 0;
}

/* A walk through an L1 table. */
struct l1_walk {
	bool active;
	uint64_t size;	/* of the disk, as it was when the table was the active one */
	uint64_t first; /* the entry that the walk begins with */
};

static int visit_l1(struct qcow2_scan *s, void *arg, uint64_t i, uint64_t word,
		    struct img_error *err)
{
	const struct l1_walk *walk = arg;
	const struct qcow2_geometry *g = &s->geometry;
	uint64_t off = word & QCOW2_OFFSET_MASK, guest = (walk->first + i) * g->l2_span;
	uint64_t cluster = off >> g->cluster_bits, bytes;
	int rc;

	if (word & QCOW2_L1_RESERVED) {
		s->corruptions++;
		s->bad_entries |= walk->active;
		qcow2_scan_report(s, "ERROR found L1 entry with reserved bits set: %" PRIx64, word);
	}
	if (!off) {
		s->bad_entries |= walk->active;
		s->corruptions += !(word & QCOW2_L1_RESERVED);
		if (!(word & QCOW2_L1_RESERVED))
			qcow2_scan_report(s,
					  "%s L1 entry %" PRIu64 " has flags but no table: %" PRIx64,
					  walk->active ? qcow2_scan_verb(s) : "ERROR",
					  walk->first + i, word);
		return 0;
	}
	rc = qcow2_scan_count(s, off, g->cluster_bytes, 1, NULL, err);
	if (rc)
		return rc;
	qcow2_scan_need(s, off, g->cluster_bytes, g->cluster_bytes, "L2 table");
	s->lost |= !range_in(off, g->cluster_bytes, s->file_bytes);
	if (qcow2_counts_marked(&s->refs, cluster, QCOW2_MARK_FIXED)) {
		s->mixed = true;
		qcow2_scan_add_overlap(s, cluster, "L2 table");
	}
	qcow2_counts_mark(&s->refs, cluster, QCOW2_MARK_L2, true);
	if (!is_aligned_u64(off, s->geometry.cluster_bytes)) {
		s->corruptions++;
		s->lost = true;
		qcow2_scan_report(s,
				  "ERROR l2_offset=%" PRIx64
				  ": Table is not cluster aligned; L1 entry %" PRIu64 " corrupted",
				  off, walk->first + i);
	}
	/* VM state, which lies behind the disk, fills its clusters. */
	bytes = guest < walk->size ? walk->size - guest : UINT64_MAX;
	return off < s->file_bytes ? add_l2(s, off, walk->active, guest, bytes, err) : 0;
}

/* Entries [walk->first, walk->first + entries) of the L1 table, the first of which is at off. */
static int scan_l1(struct qcow2_scan *s, uint64_t off, uint64_t entries, struct l1_walk *walk,
		   struct img_error *err)
{
	bool go;
	int rc;

	/* A snapshot that cannot be found is not to be lost by freeing all it has. */
	if (!walk->active && qcow2_beyond_end(s, off, entries * 8))
		s->errors++;
	rc = qcow2_scan_count_table(s, off, entries * 8, walk->active ? "L1 table" : "L1 table of a snapshot",
				    &go, err);
	return rc || !go ? rc
			 : qcow2_scan_words(s, off, entries, "L1 table", visit_l1, walk, err);
}

/*
 * The active table, as far as the disk needs it, to the end of that cluster. More entries than that may
 * be there (of a disk that was larger, of VM state), but what other things lie in is none.
 */
static int scan_active_l1(struct qcow2_scan *s, struct img_error *err)
{
	const struct qcow2_header *h = &s->header;
	uint64_t size = align_down_u64(h->size, 512), cluster = s->geometry.cluster_bytes;
	uint64_t needed = qcow2_l1_needed(&s->geometry, h->size);
	struct l1_walk walk = { true, size, 0 };

	s->first_entries = round_up_u64(max_u64(needed, 1) * 8, cluster) / 8;
	if (s->first_entries < h->l1_entries && qcow2_beyond_end(s, h->l1_off, s->first_entries * 8))
		s->first_entries = needed;
	s->first_entries = min_u64(s->first_entries, h->l1_entries);
	s->l1_entries = s->first_entries;
	s->mixed |= !range_in(h->l1_off, s->first_entries * 8, s->file_bytes);
	return scan_l1(s, h->l1_off, s->first_entries, &walk, err);
}

/* The rest of it, when all other things are known. */
static int scan_rest_of_l1(struct qcow2_scan *s, struct img_error *err)
{
	const struct qcow2_header *h = &s->header;
	uint64_t off = h->l1_off + s->first_entries * 8, rest = h->l1_entries - s->first_entries;
	struct l1_walk walk = { true, 0, s->first_entries };
	unsigned bits = s->geometry.cluster_bits;
	bool fits = range_in(off, rest * 8, s->file_bytes);

	if (!rest)
		return 0;
	for (uint64_t c = div_round_up_u64(off, s->geometry.cluster_bytes);
	     fits && c <= (off + rest * 8 - 1) >> bits; c++)
		fits = !qcow2_counts_get(&s->refs, c);
	if (fits) {
		s->l1_entries = h->l1_entries;
		return scan_l1(s, off, rest, &walk, err);
	}
	s->corruptions++;
	s->long_l1 = true;
	qcow2_scan_report(s,
			  "%s L1 table at offset 0x%" PRIx64 ": of its %" PRIu32
			  " entries only %" PRIu64
			  " can be, as other things lie behind them, or the file ends there",
			  qcow2_scan_verb(s), h->l1_off, h->l1_entries, s->first_entries);
	return 0;
}

/* ---- Snapshots ---- */

static int scan_snapshot(struct qcow2_scan *s, uint32_t i, const uint8_t *bytes, size_t len,
			 struct img_error *err)
{
	struct qcow2_snapshot sn;

	qcow2_parse_snapshot(bytes, len, &sn, NULL); /* long enough: it fills sn */
	if (s->header.version >= 3 && !sn.has_size) {
		s->corruptions++;
		s->bad_snapshots = true;
		qcow2_scan_report(s, "%s snapshot table entry %" PRIu32 " is incomplete",
				  qcow2_scan_verb(s), i);
	}
	if (!is_aligned_u64(sn.l1_off, s->geometry.cluster_bytes)) {
		s->corruptions++;
		s->lost = true;
		qcow2_scan_report(s,
				  "ERROR snapshot %.*s (%.*s) l1_offset=0x%" PRIx64
				  ": L1 table is not cluster "
				  "aligned; snapshot table entry corrupted",
				  (int)min_u64(sn.id_bytes, 64), sn.id,
				  (int)min_u64(sn.name_bytes, 128), sn.name, sn.l1_off);
		return 0;
	}
	if (sn.l1_entries > QCOW2_MAX_L1_BYTES / 8) {
		s->corruptions++;
		s->lost = true;
		qcow2_scan_report(s,
				  "ERROR snapshot %.*s (%.*s) l1_size=0x%" PRIx32
				  ": L1 table is too large; snapshot "
				  "table entry corrupted",
				  (int)min_u64(sn.id_bytes, 64), sn.id,
				  (int)min_u64(sn.name_bytes, 128), sn.name, sn.l1_entries);
		return 0;
	}
	return scan_l1(s, sn.l1_off, sn.l1_entries,
		       &(struct l1_walk){ false, sn.has_size ? sn.size : s->header.size, 0 }, err);
}

/* The entry at *off, which is moved to the next one. */
static int scan_snapshot_at(struct qcow2_scan *s, uint32_t i, uint64_t *off,
			    struct img_error *err)
{
	uint8_t fixed[QCOW2_SNAPSHOT_FIXED_BYTES], *bytes;
	struct qcow2_snapshot sn;
	uint64_t len;
	int rc;

	if (!qcow2_scan_read(s, *off, fixed, sizeof(fixed), "snapshot table"))
		return -EIO;
	len = qcow2_snapshot_bytes(fixed);
	/* Far more than can be right; also a bound for the buffer below. */
	if (!range_in(*off, len, s->file_bytes) ||
	    *off + len - s->header.snapshots_off > QCOW2_MAX_SNAPSHOT_TABLE_BYTES) {
		s->errors++;
		qcow2_scan_report(s,
				  "ERROR snapshot table entry %" PRIu32 " at offset %" PRIu64
				  " has %" PRIu64
				  " bytes: it runs past the end of the file or of the largest table",
				  i, *off, len);
		return -EUCLEAN;
	}
	bytes = malloc(len);
	if (!bytes)
		return img_fail(err, -ENOMEM, "%s: out of memory for a snapshot", s->img->name);
	rc = qcow2_scan_read(s, *off, bytes, len, "snapshot table") ? 0 : -EIO;
	if (!rc && qcow2_parse_snapshot(bytes, len, &sn, NULL)) {
		s->corruptions++;
		s->bad_snapshots = true;
		qcow2_scan_report(s,
				  "%s too much extra metadata in snapshot table entry %" PRIu32
				  " (%" PRIu32 " > %d)",
				  qcow2_scan_verb(s), i, sn.extra_bytes, QCOW2_MAX_SNAPSHOT_EXTRA);
	}
	if (!rc)
		rc = scan_snapshot(s, i, bytes, len, err);
	free(bytes);
	*off += round_up_u64(len, 8);
	return rc;
}

static int scan_snapshots(struct qcow2_scan *s, struct img_error *err)
{
	const struct qcow2_header *h = &s->header;
	uint64_t off = h->snapshots_off, end = off;
	int rc;

	if (!h->snapshots)
		return 0;
	if (h->snapshots > QCOW2_MAX_SNAPSHOTS || !off ||
	    !is_aligned_u64(off, s->geometry.cluster_bytes) || off >= s->file_bytes) {
		s->errors++;
		qcow2_scan_report(s,
				  "ERROR snapshot table of %" PRIu32 " entries at offset "
				  "%" PRIu64 ", expected at most %d at a multiple of the cluster "
				  "size inside the file",
				  h->snapshots, off, QCOW2_MAX_SNAPSHOTS);
		return 0;
	}
	if (s->geometry.data_file) {
		s->corruptions++;
		qcow2_scan_report(s, "ERROR %" PRIu32 " snapshots in image with data file",
				  h->snapshots);
	}
	for (uint32_t i = 0; i < h->snapshots && !s->tangled; i++) {
		rc = scan_snapshot_at(s, i, &off, err);

		if (rc == -EIO || rc == -EUCLEAN) /* said already; the next cannot be found */
			break;
		if (rc)
			return rc;
		end = off;
	}
	s->snapshots_bytes = end - h->snapshots_off;
	/* The entries are there; the padding of the last one need not be. */
	rc = qcow2_scan_count(s, h->snapshots_off, s->snapshots_bytes, 1, NULL, err);
	if (!rc)
		qcow2_scan_mark_fixed(s, h->snapshots_off, s->snapshots_bytes, "snapshot table");
	return rc;
}

/* ---- Bitmaps, encryption header ---- */

static int visit_bitmap_word(struct qcow2_scan *s, void *arg, uint64_t i, uint64_t word,
			     struct img_error *err)
{
	uint64_t off = word & QCOW2_OFFSET_MASK;

	if (word & QCOW2_BITMAP_RESERVED || (off && word & QCOW2_BITMAP_ALL_ONES) ||
	    !is_aligned_u64(off, s->geometry.cluster_bytes)) {
		s->corruptions++;
		s->lost = true;
		qcow2_scan_report(s,
				  "ERROR bitmap %s: table entry %" PRIu64 " is 0x%" PRIx64
				  ", which cannot be",
				  (const char *)arg, i, word);
		return 0;
	}
	return off ? qcow2_scan_count_fixed(s, off, s->geometry.cluster_bytes, "data of a bitmap", err) : 0;
}

/* The directory entry at *off, which is moved to the next one. -EUCLEAN: it cannot be found. */
static int scan_bitmap_at(struct qcow2_scan *s, uint64_t *off, uint64_t end,
			  struct img_error *err)
{
	uint8_t bytes[QCOW2_BITMAP_FIXED_BYTES + 1024];
	char name[QCOW2_MAX_BITMAP_NAME + 1] = "";
	size_t len = min_u64(sizeof(bytes), end - *off);
	struct qcow2_bitmap b;
	struct img_error why = { 0 };
	bool walk;
	int rc;

	if (!qcow2_scan_read(s, *off, bytes, len, "bitmap directory"))
		return -EUCLEAN;
	rc = qcow2_parse_bitmap(&s->geometry, bytes, len, &b, &why);
	if (rc) {
		s->errors++;
		qcow2_scan_report(s, "ERROR bitmap directory entry at offset %" PRIu64 ": %s", *off,
				  img_error_text(&why));
		img_error_clear(&why);
		return -EUCLEAN;
	}
	memcpy(name, b.name, b.name_bytes);
	*off += qcow2_bitmap_bytes(bytes);
	rc = qcow2_scan_count_table(s, b.table_off, (uint64_t)b.table_entries * 8, "bitmap table", &walk,
				    err);
	if (rc || !walk)
		return rc;
	return qcow2_scan_words(s, b.table_off, b.table_entries, "bitmap table",
				visit_bitmap_word, name, err);
}

static int scan_bitmaps(struct qcow2_scan *s, struct img_error *err)
{
	const struct qcow2_extensions *x = &s->extensions;
	uint64_t off = x->bitmap_directory_off, end = off + x->bitmap_directory_bytes;
	int rc;

	if (!x->bitmaps)
		return 0;
	rc = qcow2_scan_count_fixed(s, off, x->bitmap_directory_bytes, "bitmap directory", err);
	for (uint32_t i = 0; !rc && i < x->bitmaps && !s->tangled; i++) {
		if (off >= end) {
			s->corruptions++;
			qcow2_scan_report(s,
					  "ERROR bitmap directory: %" PRIu32 " entries, expected "
					  "%" PRIu32,
					  i, x->bitmaps);
			break;
		}
		rc = scan_bitmap_at(s, &off, end, err);
	}
	return rc == -EUCLEAN ? 0 : rc;
}

/* ---- Refcounts ---- */

/* Read the table; entries that cannot be right are taken out of it. */
static int load_refcount_table(struct qcow2_scan *s, struct img_error *err)
{
	const struct qcow2_header *h = &s->header;
	uint64_t bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;

	if (!bytes || !h->refcount_table_off || h->refcount_table_off >= s->file_bytes) {
		s->rebuild = true;
		return 0;
	}
	if (!range_in(h->refcount_table_off, bytes, s->file_bytes)) {
		s->corruptions++;
		s->rebuild = true;
		qcow2_scan_report(s,
				  "%s the refcount table at offset 0x%" PRIx64 " size 0x%" PRIx64
				  " is cut off by the end of the file at 0x%" PRIx64,
				  qcow2_scan_verb(s), h->refcount_table_off, bytes, s->file_bytes);
	}
	s->refcount_table = malloc(bytes);
	if (!s->refcount_table)
		return img_fail(err, -ENOMEM, "%s: out of memory for the refcount table",
				s->img->name);
	if (!qcow2_scan_read(s, h->refcount_table_off, s->refcount_table, bytes, "refcount table"))
		return 0;
	s->refcount_table_entries = bytes / 8;
	for (uint64_t i = 0; i < s->refcount_table_entries; i++) {
		uint64_t word = be64toh(s->refcount_table[i]), off = word & QCOW2_REFTABLE_MASK;
		bool aligned = is_aligned_u64(off, s->geometry.cluster_bytes);
		bool inside = !off || range_in(off, s->geometry.cluster_bytes, s->file_bytes);

		s->refcount_table[i] = aligned && inside ? off : 0;
		if (aligned && inside && !(word & QCOW2_REFTABLE_RESERVED))
			continue;
		s->corruptions++;
		s->rebuild = true;
		if (word & QCOW2_REFTABLE_RESERVED)
			qcow2_scan_report(s,
					  "ERROR refcount table entry %" PRIu64
					  " has reserved bits set",
					  i);
		else if (!aligned)
			qcow2_scan_report(s,
					  "ERROR refcount block %" PRIu64
					  " is not cluster aligned; refcount table entry corrupted",
					  i);
		else
			qcow2_scan_report(s, "%s refcount block %" PRIu64 " is outside image",
					  qcow2_scan_verb(s), i);
	}
	return 0;
}

static int count_refcounts(struct qcow2_scan *s, struct img_error *err)
{
	unsigned bits = s->geometry.cluster_bits;
	bool inside = false;
	int rc = qcow2_scan_count(s, s->header.refcount_table_off, s->refcount_table_entries * 8, 1, &inside, err);

	for (uint64_t i = 0; !rc && i < s->refcount_table_entries; i++) {
		uint64_t off = s->refcount_table[i];
		bool shared = false;

		if (off)
			rc = qcow2_scan_count(s, off, s->geometry.cluster_bytes, 1, &shared, err);
		inside |= shared;
		if (rc || !shared)
			continue;
		s->corruptions++;
		qcow2_scan_report(s, "ERROR refcount block %" PRIu64 " refcount=%" PRIu64, i,
				  qcow2_counts_get(&s->refs, off >> bits));
	}
	/* To count in such blocks would overwrite what else lies there. */
	s->rebuild |= inside;
	return rc;
}

/* ---- The header ---- */

/* What readers refuse though nothing depends on it. */
static void scan_header(struct qcow2_scan *s)
{
	const struct qcow2_header *h = &s->header;

	if (h->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW && !s->geometry.data_file) {
		s->corruptions++;
		s->bad_header = true;
		qcow2_scan_report(s, "%s header: a raw data file, but no data file",
				  qcow2_scan_verb(s));
	}
	if (!h->snapshots && (!is_aligned_u64(h->snapshots_off, s->geometry.cluster_bytes) ||
			      h->snapshots_off > INT64_MAX)) {
		s->corruptions++;
		s->bad_header = true;
		qcow2_scan_report(s,
				  "%s header: snapshot table at offset 0x%" PRIx64
				  ", where none can be, and no snapshots",
				  qcow2_scan_verb(s), h->snapshots_off);
	}
}

/* ---- The whole ---- */

static int start_scan(struct qcow2_scan *s, struct img_error *err)
{
	struct img_storage *file = s->img->file;
	uint8_t start[512];
	uint64_t cluster;
	int rc;

	s->file_bytes = file->size;
	s->lost_from = UINT64_MAX;
	rc = img_storage_read(file, 0, start, sizeof(start), err);
	if (rc)
		return rc;
	cluster = max_u64(qcow2_peek_cluster_bytes(start, sizeof(start)), sizeof(start));
	s->first = malloc(cluster);
	s->table = malloc(cluster);
	s->block = malloc(cluster);
	s->words = malloc(QCOW2_SCAN_WORDS * sizeof(*s->words));
	if (!s->first || !s->table || !s->block || !s->words)
		return img_fail(err, -ENOMEM, "%s: out of memory", s->img->name);
	rc = img_storage_read(file, 0, s->first, cluster, err);
	if (rc)
		return rc;
	rc = qcow2_parse_header(s->first, cluster, QCOW2_PARSE_FOR_CHECK, &s->header, err);
	if (!rc)
		rc = qcow2_parse_extensions(s->first, cluster, &s->header, &s->extensions, err);
	if (rc)
		return img_error_prefix(err, rc, "%s", s->img->name);
	qcow2_geometry(&s->header, &s->geometry);
	s->clusters = div_round_up_u64(s->file_bytes, cluster);
	/* Counters are proportional to this in the worst case, and so is time. */
	if (s->clusters > INT32_MAX)
		return img_fail(err, -EFBIG,
				"%s: the file has %" PRIu64 " clusters, a check allows %d",
				s->img->name, s->clusters, INT32_MAX);
	s->overlap_left = MAX_OVERLAP;
	/* One more for what ends in a last cluster that is cut short. */
	qcow2_counts_init(&s->refs, s->clusters + 1);
	return 0;
}

/*
 * The keys are in it: where it is not sound, what seems leaked may be a part of it. What is only not
 * supported is.
 */
static int scan_encryption_header(struct qcow2_scan *s, struct img_error *err)
{
	const struct qcow2_extensions *x = &s->extensions;
	struct img_error why = { 0 };
	struct img_luks *luks = NULL;
	int rc;

	if (s->header.crypt_method != QCOW2_CRYPT_LUKS)
		return 0;
	rc = qcow2_open_luks(s->img, x->crypto_off, x->crypto_bytes, &luks, &why);
	if (rc && rc != -ENOTSUP && rc != -ENOMEM) {
		if (rc == -EUCLEAN)
			s->corruptions++;
		else
			s->errors++;
		s->lost = true;
		qcow2_scan_report(s, "ERROR %s", img_error_text(&why));
	}
	img_luks_free(luks);
	img_error_clear(&why);
	return rc == -ENOMEM ? qcow2_no_memory(s->img, err)
			     : qcow2_scan_count_fixed(s, x->crypto_off, x->crypto_bytes,
						      "encryption header", err);
}

int qcow2_scan(struct qcow2_scan *s, struct img *img, struct img_check *check, unsigned flags,
	       struct img_error *err)
{
	size_t done = 0;
	int rc;

	*s = (struct qcow2_scan){ .img = img, .check = check, .flags = flags };
	rc = start_scan(s, err);
	if (!rc)
		rc = qcow2_scan_count_fixed(s, 0, s->geometry.cluster_bytes, "header", err);
	if (!rc)
		scan_header(s);
	if (!rc)
		rc = scan_active_l1(s, err);
	if (!rc)
		rc = scan_snapshots(s, err);
	if (!rc)
		rc = scan_encryption_header(s, err);
	if (!rc)
		rc = scan_bitmaps(s, err);
	/* Where tables are is known: what is data cannot be there. */
	for (; !rc && done < s->nl2; done++)
		rc = qcow2_scan_l2_table(s, &s->l2[done], err);
	if (!rc)
		rc = load_refcount_table(s, err);
	if (!rc && !(flags & QCOW2_SCAN_NO_REFCOUNTS))
		rc = count_refcounts(s, err);
	if (!rc)
		rc = scan_rest_of_l1(s, err);
	for (; !rc && done < s->nl2; done++)
		rc = qcow2_scan_l2_table(s, &s->l2[done], err);
	return rc;
}

void qcow2_scan_free(struct qcow2_scan *s)
{
	free(s->first);
	free(s->table);
	free(s->block);
	free(s->words);
	free(s->refcount_table);
	free(s->l2);
	qcow2_map_free(&s->l2_index);
	qcow2_counts_free(&s->refs);
	*s = (struct qcow2_scan){ 0 };
}

/* ---- Room ---- */

uint64_t qcow2_space_at_end(const struct qcow2_scan *s)
{
	return s->clusters;
}

int qcow2_check_space(const struct qcow2_scan *s, uint64_t first, uint64_t n, struct img_error *err)
{
	struct img_storage *file = s->img->file;
	uint64_t end;

	if (add_u64(first, n, &end) && end <= (UINT64_C(1) << 56) >> s->geometry.cluster_bits &&
	    !(file->device && end > file->size >> s->geometry.cluster_bits)) {
		/* A longer file would hold what is lost, as zeroes. */
		if (end <= s->clusters || end <= s->lost_from >> s->geometry.cluster_bits)
			return 0;
		return img_fail(err, -EUCLEAN,
				"%s: truncated: ends at %" PRIu64 ", behind which the repair "
				"needs room; what is lost there would read as zeroes: that loss "
				"has to be accepted",
				file->name, s->file_bytes);
	}
	return img_fail(err, -ENOSPC,
			"%s: no room for %" PRIu64 " clusters in a row, which the repair needs",
			file->name, n);
}
