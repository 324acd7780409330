/*
 * Checking and repairing tables of two levels: each table and each cluster has one user and lies in the
 * file, and nothing of the file is unused.
 *
 * Repairs change nothing that can be read: what two entries name is copied for the second one. What the file
 * does not hold stays so, unless its loss is accepted: then the entry becomes 0, as QEMU does it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/engine/tables.h"

enum {
	DEFECTS_MAX = 4 << 20, /* tables with more are none: small files can have 2^29 */
	COPIES_AT_ONCE = 1024, /* that are made between two scans */
};

/* Of a table or a cluster that something else uses, too. */
struct copy {
	uint64_t entry_off;
	uint64_t raw, off, len;
};

struct table {
	uint64_t index, off;
};

struct scan {
	struct img_tables *t;
	struct img_check *check;
	bool drop_lost;			/* entries that lead to nothing are cleared */
	struct img_use_map used;	/* by cluster */
	struct img_sparse_bitset fixed; /* metadata and compressed data */
	struct table *tables;		/* whose entries count */
	size_t table_count, table_max;
	uint64_t lost, shared, shared_tables, shared_bytes;
	uint64_t aliased; /* data that is where metadata is: it changes with that */
	uint64_t leaks, end;
	uint64_t allocated, packed, fragmented, last;
	struct copy *copies; /* COPIES_AT_ONCE of them, or NULL */
	size_t copy_count;
};

static int no_memory(const struct scan *s, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", s->t->img->name);
}

static uint64_t corruptions(const struct scan *s)
{
	return s->lost + s->shared;
}

static int count_defect(const struct scan *s, struct img_error *err)
{
	if (corruptions(s) < DEFECTS_MAX)
		return 0;
	return img_fail(err, -EUCLEAN,
			"%s: L1 table at %" PRIu64
			": more than %d entries lead out of the file, or to what others have",
			s->t->img->name, s->t->l1_off, DEFECTS_MAX);
}

static void add_copy(struct scan *s, uint64_t entry_off, uint64_t raw, uint64_t off, uint64_t len)
{
	s->shared++;
	s->shared_bytes += round_up_u64(len, s->t->cluster_bytes);
	if (s->copies && s->copy_count < COPIES_AT_ONCE)
		s->copies[s->copy_count++] = (struct copy){ entry_off, raw, off, len };
}

/* Metadata and compressed data, of which several pieces may share a cluster. */
static int use_fixed(struct scan *s, uint64_t off, uint64_t len)
{
	uint64_t cluster = s->t->cluster_bytes, first = off / cluster;
	enum img_use use;

	if (!len || !range_in(off, len, s->used.file_bytes))
		return 0;
	s->end = max_u64(s->end, off + len);
	if (img_sparse_bitset_add(&s->fixed, first, (off + len - 1) / cluster - first + 1) < 0)
		return -ENOMEM;
	return img_use_map_add(&s->used, off, len, &use);
}

static bool is_aliased(const struct scan *s, const struct img_table_entry *e)
{
	uint64_t first = e->off / s->t->cluster_bytes,
		 last = (e->off + e->len - 1) / s->t->cluster_bytes;

	return (first < s->fixed.size && img_sparse_bitset_has(&s->fixed, first)) ||
	       (last < s->fixed.size && img_sparse_bitset_has(&s->fixed, last));
}

/* ---- L2 tables ---- */

static int scan_table(void *user, uint64_t index, uint64_t *raw, struct img_error *err)
{
	struct scan *s = user;
	struct img_tables *t = s->t;
	uint64_t off = *raw, bytes = img_tables_table_bytes(t), run;
	int rc = count_defect(s, err);
	bool used;

	if (rc)
		return rc;
	if (!img_tables_table_fits(t, off)) {
		img_check_defect(s->check,
				 "ERROR: L1 table entry %" PRIu64 ": L2 table at %#" PRIx64
				 " is %s, the file ends at %" PRIu64,
				 index, off, off % t->table_align ? "not aligned" : "outside of the file",
				 (uint64_t)t->img->file->size);
		s->lost++;
		if (s->drop_lost)
			*raw = 0;
		return 0;
	}
	used = img_sparse_bitset_run(&s->used.used, off / t->cluster_bytes, &run) ||
	       run < div_round_up_u64(bytes, t->cluster_bytes);
	if (used) {
		img_check_defect(s->check,
				 "ERROR: L1 table entry %" PRIu64 ": L2 table at %" PRIu64
				 " is used by another entry, too",
				 index, off);
		s->shared_tables++;
		add_copy(s, t->l1_off + index * IMG_TABLE_ENTRY_BYTES, off, off, bytes);
		return 0;
	}
	if (s->table_count == s->table_max) {
		size_t max = s->table_max ? s->table_max * 2 : 64;
		struct table *more = realloc(s->tables, max * sizeof(*more));

		if (!more)
			return no_memory(s, err);
		s->tables = more;
		s->table_max = max;
	}
	s->tables[s->table_count++] = (struct table){ index, off };
	return use_fixed(s, off, bytes) ? no_memory(s, err) : 0;
}

/* ---- Clusters ---- */

static int scan_packed(struct scan *s, uint64_t number, uint64_t entry_off, const struct img_table_entry *e,
		       struct img_error *err)
{
	uint64_t first = e->off / s->t->cluster_bytes;
	uint64_t last = (e->off + e->len - 1) / s->t->cluster_bytes;

	s->packed++;
	for (uint64_t i = first; i <= last; i++) {
		if (!img_sparse_bitset_has(&s->used.used, i) || img_sparse_bitset_has(&s->fixed, i))
			continue;
		img_check_defect(s->check,
				 "ERROR: cluster %" PRIu64 ": compressed data at %" PRIu64
				 " is where another cluster is, too",
				 number, e->off);
		add_copy(s, entry_off, e->raw, e->off, e->len);
		return 0;
	}
	return use_fixed(s, e->off, e->len) ? no_memory(s, err) : 0;
}

static int scan_data(struct scan *s, uint64_t number, uint64_t entry_off, const struct img_table_entry *e,
		     struct img_error *err)
{
	bool aligned = e->off % s->t->cluster_bytes == 0;
	enum img_use use = IMG_USE_NEW;

	s->fragmented += s->last && e->off != s->last;
	s->last = e->off + e->len;
	if (aligned && img_use_map_add(&s->used, e->off, e->len, &use))
		return no_memory(s, err);
	if (use == IMG_USE_NEW && aligned) {
		s->end = max_u64(s->end, e->off + e->len);
		return 0;
	}
	img_check_defect(s->check,
			 aligned ? "ERROR: cluster %" PRIu64 ": data at %" PRIu64 " has another user, too"
				 : "ERROR: cluster %" PRIu64 ": data at %" PRIu64 " is not aligned",
			 number, e->off);
	add_copy(s, entry_off, e->raw, e->off, e->len);
	s->aliased += is_aliased(s, e);
	/* What an entry leads to is no leak. */
	return !aligned && use_fixed(s, e->off, e->len) ? no_memory(s, err) : 0;
}

static int scan_entry(void *user, uint64_t number, uint64_t entry_off, uint64_t *raw, struct img_error *err)
{
	struct scan *s = user;
	const struct img_tables *t = s->t;
	struct img_table_entry e = img_tables_decode(t, *raw);
	bool misplaced;
	int rc = count_defect(s, err);

	if (rc || (e.kind != IMG_TABLE_DATA && e.kind != IMG_TABLE_PACKED))
		return rc;
	s->allocated++;
	misplaced = e.kind == IMG_TABLE_DATA && t->whole && e.off % t->cluster_bytes;
	if (!misplaced && e.len && e.off >= t->header_end &&
	    range_in(e.off, e.len, t->img->file->size))
		return e.kind == IMG_TABLE_PACKED ? scan_packed(s, number, entry_off, &e, err)
						  : scan_data(s, number, entry_off, &e, err);
	img_check_defect(s->check,
			 "ERROR: cluster %" PRIu64 ": %s at %#" PRIx64 " %s, the file ends at %" PRIu64,
			 number, e.kind == IMG_TABLE_PACKED ? "compressed data" : "data", e.off,
			 misplaced ? "is not aligned" : "is outside of the file",
			 (uint64_t)t->img->file->size);
	s->lost++;
	if (s->drop_lost)
		*raw = img_tables_cleared(t);
	return 0;
}

static int find_aliased(void *user, uint64_t number, uint64_t entry_off, uint64_t *raw, struct img_error *err)
{
	struct scan *s = user;
	struct img_table_entry e = img_tables_decode(s->t, *raw);

	(void)number;
	(void)entry_off;
	(void)err;
	if ((e.kind == IMG_TABLE_DATA || e.kind == IMG_TABLE_PACKED) && e.len &&
	    range_in(e.off, e.len, s->used.file_bytes))
		s->aliased += is_aliased(s, &e);
	return s->aliased != 0;
}

/* The same in tables that will be copied. */
static int scan_copies(struct scan *s, struct img_error *err)
{
	int rc = 0;

	for (size_t i = 0; i < s->copy_count && !s->aliased && !rc; i++)
		if (s->copies[i].entry_off - s->t->l1_off < s->t->l1_entries * IMG_TABLE_ENTRY_BYTES)
			rc = img_tables_each_entry(s->t, 0, s->copies[i].off, 0,
						   s->t->table_entries, find_aliased, s, err);
	return rc < 0 ? rc : 0;
}

/* The L1 table may be made in whole sectors: what they have behind its end is no leak. */
static int add_slack(struct scan *s)
{
	const struct img_tables *t = s->t;
	uint64_t bytes = t->l1_entries * IMG_TABLE_ENTRY_BYTES, end = t->l1_off + bytes;
	uint64_t slack = round_up_u64(bytes, IMG_META_SECTOR) - bytes;
	enum img_use use;

	return slack && range_in(end, slack, s->used.file_bytes)
		       ? img_use_map_add(&s->used, end, slack, &use)
		       : 0;
}

/* ---- All of it ---- */

/* s has t, check, and what is to be done. */
static int scan(struct scan *s, struct img_error *err)
{
	struct img_tables *t = s->t;
	struct img_storage *file = t->img->file;
	uint64_t cluster = t->cluster_bytes, units = div_round_up_u64(file->size, cluster), run;
	int rc = 0;

	s->lost = s->shared = s->shared_tables = s->shared_bytes = s->aliased = s->leaks = s->end =
		0;
	s->allocated = s->packed = s->fragmented = s->last = 0;
	s->table_count = s->copy_count = 0;
	img_use_map_init(&s->used, units * cluster, cluster);
	img_sparse_bitset_init(&s->fixed, units, 0);
	if (use_fixed(s, 0, t->header_end) || use_fixed(s, t->name_off, t->name_bytes) ||
	    use_fixed(s, t->l1_off, t->l1_entries * IMG_TABLE_ENTRY_BYTES))
		rc = no_memory(s, err);
	if (!rc)
		rc = img_tables_each_table(t, 0, t->l1_entries, scan_table, s, err);
	for (size_t i = 0; i < s->table_count && !rc; i++) {
		s->last = 0;
		rc = img_tables_each_entry(t, s->tables[i].index, s->tables[i].off, 0,
					   t->table_entries, scan_entry, s, err);
	}
	if (!rc)
		rc = scan_copies(s, err);
	if (!rc)
		rc = add_slack(s) ? no_memory(s, err) : 0;
	/* A part of a cluster at the file's end is none, and so is what a device has behind the last one. */
	units = (file->device ? s->end : (uint64_t)file->size) / cluster;
	for (uint64_t unit = 0; unit < units && !rc; unit += run)
		if (!img_sparse_bitset_run(&s->used.used, unit, &run)) {
			run = min_u64(run, units - unit);
			s->leaks += run;
		}
	if (t->writing) /* gaps are the allocator's: they are closed at the end */
		s->leaks = 0;
	if (!rc && s->leaks && !s->check->quiet)
		img_check_report(s->check, "Leaked clusters: %" PRIu64 " of %" PRIu64, s->leaks, units);
	img_use_map_free(&s->used);
	img_sparse_bitset_free(&s->fixed);
	free(s->tables);
	s->tables = NULL;
	s->table_max = 0;
	return rc;
}

/* ---- Repairing ---- */

static int copy_some(struct scan *s, struct img_error *err)
{
	struct img_tables *t = s->t;
	struct img_storage *file = t->img->file;
	uint64_t next = round_up_u64(file->size, t->cluster_bytes);
	int rc = 0;

	for (size_t i = 0; i < s->copy_count && !rc; i++) {
		struct copy *c = &s->copies[i];
		uint64_t to = next;

		next += round_up_u64(c->len, t->cluster_bytes);
		if (next > t->limit || file->device)
			return img_fail(err, file->device ? -ENOSPC : -EFBIG,
					"%s: no room for copies of %" PRIu64 " clusters and tables",
					t->img->name, s->shared);
		rc = img_tables_copy(t, c->off, to, c->len, err);
		c->raw = c->raw - c->off + to;
	}
	/* The last one is in the file wholly. */
	if (!rc && file->size < next)
		rc = img_storage_resize(file, next, IMG_PREALLOCATE_OFF, err);
	if (!rc)
		rc = img_tables_sync(t, err);
	for (size_t i = 0; i < s->copy_count && !rc; i++) {
		uint8_t bytes[IMG_TABLE_ENTRY_BYTES];

		img_tables_store_raw(t, bytes, s->copies[i].raw);
		rc = img_tables_write(t, s->copies[i].entry_off, bytes, sizeof(bytes), err);
	}
	return rc ? rc : img_tables_sync(t, err);
}

/* What several entries name gets copies, if those are no more than the file has without them. */
static int repair_shared(struct scan *s, struct img_error *err)
{
	struct img_tables *t = s->t;
	uint64_t file_bytes = t->img->file->size, copied = 0;
	int rc = 0;

	if (!s->shared)
		return 0;
	if (s->lost) {
		/* A file that grows would have something where those lead to. */
		img_check_report(s->check, "Not repaired: what several entries name, as long as entries "
					   "lead out of the file");
		return 0;
	}
	s->copies = calloc(COPIES_AT_ONCE, sizeof(*s->copies));
	if (!s->copies)
		return no_memory(s, err);
	while (s->shared && !rc) {
		rc = scan(s, err);
		if (rc || !s->copy_count)
			break;
		/* Copies of tables lead to what others have: so this is asked each time. */
		if (s->lost || s->shared_bytes > file_bytes - min_u64(copied, file_bytes)) {
			img_check_report(s->check,
					 "Not repaired: %" PRIu64
					 " entries name what others have, more than there is in the file",
					 s->shared);
			break;
		}
		/* What tables are read as has to be copied, all of it, before one of them changes. */
		if (s->shared_tables > COPIES_AT_ONCE ||
		    (s->aliased && (s->shared_tables || s->shared > COPIES_AT_ONCE))) {
			img_check_report(s->check,
					 "Not repaired: what several entries name, since the disk's data is "
					 "where tables are");
			break;
		}
		for (size_t i = 0; i < s->copy_count; i++)
			copied += round_up_u64(s->copies[i].len, t->cluster_bytes);
		rc = copy_some(s, err);
	}
	free(s->copies);
	s->copies = NULL;
	return rc;
}

static int repair(struct scan *s, unsigned how, struct img_error *err)
{
	struct img_tables *t = s->t;
	bool all = (how & IMG_REPAIR_ALL) == IMG_REPAIR_ALL;
	int rc = 0;

	if (all && s->lost && how & IMG_REPAIR_LOSS) {
		s->drop_lost = true;
		rc = scan(s, err);
		s->drop_lost = false;
		if (!rc)
			rc = img_tables_sync(t, err);
		if (!rc)
			rc = scan(s, err);
	}
	if (!rc && all)
		rc = repair_shared(s, err);
	if (!rc)
		rc = scan(s, err);
	if (rc || !s->leaks || !(how & IMG_REPAIR_LEAKS))
		return rc;
	if (corruptions(s)) {
		img_check_report(s->check, "Not repaired: leaked clusters, as long as there are errors");
		return 0;
	}
	rc = img_tables_compact(t, err);
	img_tables_free(t);
	return rc;
}

static void report(const struct scan *s, struct img_check *check)
{
	const struct img_tables *t = s->t;

	check->result.corruptions = corruptions(s);
	check->result.leaks = s->leaks;
	check->result.total_units = div_round_up_u64(t->img->size, t->cluster_bytes);
	check->result.allocated_units = s->allocated;
	check->result.fragmented_units = s->fragmented;
	check->result.compressed_units = s->packed;
}

int img_tables_check(struct img_tables *t, struct img_check *c, struct img_error *err)
{
	struct scan s = { .t = t, .check = c };
	uint64_t before, leaks;
	int rc = scan(&s, err), last;

	if (rc)
		return rc;
	before = corruptions(&s);
	leaks = s.leaks;
	c->quiet = true;
	if (c->repair && (before || leaks)) {
		if (!t->for_check)
			return img_fail(err, -EINVAL, "%s: it was not opened for a check", t->img->name);
		rc = repair(&s, c->repair, err);
		last = scan(&s, rc ? NULL : err);
		if (last)
			return rc ? rc : last;
		if (before > corruptions(&s))
			c->result.corruptions_fixed = before - corruptions(&s);
		if (leaks > s.leaks)
			c->result.leaks_fixed = leaks - s.leaks;
		if (s.lost && !rc)
			img_check_report(c, "Not repaired: what the file does not hold (any more); its loss has "
					    "to be accepted");
	}
	report(&s, c);
	return rc;
}
