/*
 * Writing by tables of two levels: plan, commit, drop, release. A cluster that is in the file is written in
 * place; one that is not gets room, and once its data is there its entry names it (rank MAPPING). An L2
 * table that is missing is made while planning, for an empty one changes nothing: it is durable, as of the
 * same rank, before the L1 table (rank ROOT) leads there. A crash in between leaves room that nobody uses.
 *
 * Compressed data is put one behind the other, and what it had is found to be free when the image is
 * closed, or opened the next time: several share a cluster.
 */
#include <errno.h>
#include <inttypes.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/engine/free_row.h"
#include "libimg/engine/tables.h"

/* plan->slot[] */
enum {
	SLOT_KIND,   /* COMMIT_* */
	SLOT_ENTRY,  /* file offset of the first cluster's entry */
	SLOT_COUNT,  /* clusters; PACKED: stored bytes */
	SLOT_TARGET, /* NEW, PACKED: file offset of the first cluster or of the data */
};

enum {
	COMMIT_NEW,
	COMMIT_PACKED,
	COMMIT_CLEAR,
};

static int no_room(const struct img_tables *t, struct img_req *req)
{
	bool device = t->img->file->device;

	return img_fail(img_req_error(req), device ? -ENOSPC : -EFBIG,
			"%s: no room for another cluster or table: the file may grow to %" PRIu64,
			t->img->name, t->alloc.limit);
}

/* ---- The L2 table ---- */

static uint64_t table_units(const struct img_tables *t)
{
	return div_round_up_u64(img_tables_table_bytes(t), t->cluster_bytes);
}

static int make_table(struct img_tables *t, struct img_req *req, uint64_t off)
{
	struct img_storage *file = t->img->file;
	uint64_t units = table_units(t), table_off, got;
	uint8_t *l1;
	int rc;

	if (img_tables_table_bytes(t) > IMG_TABLE_CACHED_MAX)
		return IMG_NEED_EXCLUSIVE;
	rc = img_unit_alloc_get(&t->alloc, units, &table_off, &got);
	if (!rc && got < units) { /* what was freed need not lie in a row */
		img_unit_alloc_put(&t->alloc, table_off, got * t->cluster_bytes);
		rc = img_unit_alloc_get_at_end(&t->alloc, units, &table_off);
	}
	if (rc)
		return no_room(t, req);
	t->clean_from = max_u64(t->clean_from, table_off + units * t->cluster_bytes);
	rc = img_meta_new(req, file, table_off, img_tables_table_bytes(t), IMG_RANK_MAPPING);
	if (rc) {
		img_unit_alloc_put(&t->alloc, table_off, units * t->cluster_bytes);
		return img_fail(img_req_error(req), rc, "%s: out of memory for an L2 table",
				t->img->name);
	}
	raise_u64(&file->due, table_off + units * t->cluster_bytes);
	l1 = img_meta_edit(req, file, t->l1_off + off / img_tables_span(t) * IMG_TABLE_ENTRY_BYTES,
			   IMG_TABLE_ENTRY_BYTES, IMG_RANK_ROOT);
	img_tables_store_raw(t, l1, table_off);
	return 0;
}

/* Look up [off, off + len) for a change of entries. */
static int lookup_writable(struct img_tables *t, struct img_req *req, uint64_t off, uint64_t len,
			   struct img_tables_lookup *l)
{
	int rc;

	if (t->mark)
		return IMG_NEED_EXCLUSIVE;
	rc = img_tables_lookup(t, req, off, len, l);
	if (rc || l->table_off)
		return rc;
	rc = make_table(t, req, off);
	return rc ? rc : img_tables_lookup(t, req, off, len, l);
}

/* ---- Plain writes ---- */

/* In place, as far as clusters follow each other in the file. */
static void plan_in_place(const struct img_tables *t, const struct img_tables_lookup *l,
			  const struct img_table_entry *first, uint64_t off, uint64_t len,
			  struct img_plan *plan)
{
	uint64_t cluster = t->cluster_bytes, n = 1,
		 sector = t->cipher ? t->cipher->sector_bytes : 1;
	struct img_table_entry e;

	while (n < l->n && !img_tables_entry_at(t, l, n, &e, NULL) && e.kind == IMG_TABLE_DATA &&
	       e.off == first->off + n * cluster)
		n++;
	plan->length = min_u64(len, l->guest_off + n * cluster - off);
	plan->fill_start = align_down_u64(off, sector);
	plan->fill_end = round_up_u64(off + plan->length, sector);
	plan->storage = t->img->file;
	plan->file_off = first->off + (plan->fill_start - l->guest_off);
	plan->cipher = t->cipher;
	plan->tweak = plan->fill_start;
}

static int plan_new(struct img_tables *t, struct img_req *req, uint64_t off, uint64_t len,
		    struct img_plan *plan)
{
	uint64_t cluster = t->cluster_bytes, want = 1, count, target;
	struct img_tables_lookup l;
	struct img_table_entry e;
	int rc = lookup_writable(t, req, off, len, &l);

	if (rc)
		return rc;
	while (want < l.n && !img_tables_entry_at(t, &l, want, &e, NULL) &&
	       e.kind != IMG_TABLE_DATA)
		want++;
	if (img_unit_alloc_get(&t->alloc, want, &target, &count))
		return no_room(t, req);
	plan->kind = IMG_PLAN_DATA;
	plan->fill_start = l.guest_off;
	plan->fill_end = l.guest_off + count * cluster;
	plan->length = min_u64(len, plan->fill_end - off);
	plan->storage = t->img->file;
	plan->file_off = target;
	plan->cipher = t->cipher;
	plan->tweak = plan->fill_start;
	plan->fresh = !t->cipher && t->img->file->limits.zero_fill && target >= t->clean_from;
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_NEW;
	plan->slot[SLOT_ENTRY] = l.entry_off;
	plan->slot[SLOT_COUNT] = count;
	plan->slot[SLOT_TARGET] = target;
	return 0;
}

static int plan_data(struct img_tables *t, struct img_req *req, uint64_t off, uint64_t len,
		     struct img_plan *plan)
{
	struct img_tables_lookup l;
	struct img_table_entry e;
	int rc = img_tables_lookup(t, req, off, len, &l);

	if (!rc)
		rc = img_tables_entry_at(t, &l, 0, &e, img_req_error(req));
	if (rc)
		return rc;
	if (e.kind != IMG_TABLE_DATA)
		return plan_new(t, req, off, len, plan);
	plan->kind = IMG_PLAN_DATA;
	plan_in_place(t, &l, &e, off, len, plan);
	return 0;
}

/* ---- Compressed writes ---- */

/* Behind the last compressed data, if its cluster has room or is the file's last. */
static int alloc_packed(struct img_tables *t, uint64_t len, uint64_t *off)
{
	uint64_t cluster = t->cluster_bytes, end = t->compressed_end;
	uint64_t cluster_end = round_up_u64(end, cluster), first = 0;
	bool follows = end && (len <= cluster_end - end || t->alloc.next == cluster_end);
	uint64_t more = follows ? len - min_u64(len, cluster_end - end) : len;

	if (more && img_unit_alloc_get_at_end(&t->alloc, div_round_up_u64(more, cluster), &first))
		return -EFBIG;
	*off = follows ? end : first;
	t->compressed_end = *off + len;
	return 0;
}

static int plan_packed(struct img_tables *t, struct img_req *req, uint64_t off, uint64_t len,
		       struct img_plan *plan)
{
	struct img_tables_lookup l;
	struct img_table_entry e;
	uint64_t target;
	int rc;

	if (!t->compressed || t->cipher)
		return img_fail(img_req_error(req), -ENOTSUP, "%s: it holds no compressed data%s",
				t->img->name, t->compressed ? ", since it is encrypted" : "");
	rc = lookup_writable(t, req, off, 1, &l);
	if (!rc)
		rc = img_tables_entry_at(t, &l, 0, &e, img_req_error(req));
	if (!rc && img_free_reserve(req, 1))
		rc = img_fail(img_req_error(req), -ENOMEM, "%s: out of memory", t->img->name);
	if (rc)
		return rc;
	if (alloc_packed(t, len, &target))
		return no_room(t, req);
	plan->kind = IMG_PLAN_DATA;
	plan->length = t->cluster_bytes;
	plan->fill_start = off;
	plan->fill_end = off + t->cluster_bytes;
	plan->storage = t->img->file;
	plan->file_off = target;
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_PACKED;
	plan->slot[SLOT_ENTRY] = l.entry_off;
	plan->slot[SLOT_COUNT] = len;
	plan->slot[SLOT_TARGET] = target;
	return 0;
}

/* ---- Zeroing and discarding ---- */

enum clear_method {
	CLEAR_NOTHING,
	CLEAR_BY_METADATA,
	CLEAR_IN_PLACE,
	CLEAR_BY_WRITING,
};

/* whole: of the cluster all is cleared, not a part. */
static enum clear_method choose_clear_method(const struct img_tables *t, const struct img_req *req,
					     bool discard, bool whole, const struct img_table_entry *e)
{
	bool keep = !discard && img_req_keep_allocated(req), backing = img_tables_has_backing(t);
	bool by_entry = whole && !keep && (t->zero || !backing);
	enum clear_method otherwise = discard ? CLEAR_NOTHING : CLEAR_BY_WRITING;

	switch (e->kind) {
	case IMG_TABLE_ZERO:
		return keep ? CLEAR_BY_WRITING : CLEAR_NOTHING;
	case IMG_TABLE_ABSENT:
		if (discard || (!backing && !keep))
			return CLEAR_NOTHING;
		return by_entry ? CLEAR_BY_METADATA : CLEAR_BY_WRITING;
	case IMG_TABLE_PACKED:
		return by_entry ? CLEAR_BY_METADATA : otherwise;
	case IMG_TABLE_DATA:
		break;
	}
	if (by_entry && (discard || img_req_may_unmap(req)))
		return CLEAR_BY_METADATA;
	/* Zeroes in the file are none to the guest of an encrypted disk. */
	return t->cipher ? otherwise : CLEAR_IN_PLACE;
}

/* Whole clusters from off on, the first of which is cleared by its entry. */
static int plan_entries(struct img_tables *t, struct img_req *req, bool discard, uint64_t off,
			uint64_t len, uint64_t whole, struct img_plan *plan)
{
	struct img_tables_lookup l;
	struct img_table_entry e;
	uint64_t n = 1;
	int rc = lookup_writable(t, req, off, len, &l);

	if (rc)
		return rc;
	whole = min_u64(whole, l.n);
	while (n < whole && !img_tables_entry_at(t, &l, n, &e, NULL) &&
	       choose_clear_method(t, req, discard, true, &e) == CLEAR_BY_METADATA)
		n++;
	if (img_free_reserve(req, n))
		return img_fail(img_req_error(req), -ENOMEM, "%s: out of memory", t->img->name);
	plan->kind = IMG_PLAN_META;
	plan->length = min_u64(len, n * t->cluster_bytes);
	plan->storage = t->img->file;
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_CLEAR;
	plan->slot[SLOT_ENTRY] = l.entry_off;
	plan->slot[SLOT_COUNT] = n;
	return 0;
}

static int plan_clear(struct img_tables *t, struct img_req *req, bool discard, uint64_t off,
		      uint64_t len, struct img_plan *plan)
{
	uint64_t cluster = t->cluster_bytes, within = off & (cluster - 1), whole = 0, n = 1;
	struct img_tables_lookup l;
	struct img_table_entry first, e;
	enum clear_method how;
	int rc = img_tables_lookup(t, req, off, len, &l);

	if (!rc)
		rc = img_tables_entry_at(t, &l, 0, &first, img_req_error(req));
	if (rc)
		return rc;
	if (!within)
		whole = off + len == t->img->size ? div_round_up_u64(len, cluster) : len / cluster;
	how = choose_clear_method(t, req, discard, whole, &first);
	switch (how) {
	case CLEAR_BY_METADATA:
		return plan_entries(t, req, discard, off, len, whole, plan);
	case CLEAR_IN_PLACE:
		plan->kind = discard ? IMG_PLAN_PUNCH : IMG_PLAN_ZERO;
		plan_in_place(t, &l, &first, off, whole ? len : min_u64(len, cluster - within),
			      plan);
		return 0;
	case CLEAR_BY_WRITING:
		plan->length = min_u64(len, cluster - within);
		return IMG_NEED_WRITE;
	case CLEAR_NOTHING:
		break;
	}
	whole = min_u64(whole, l.n);
	if (l.slots) {
		while (n < whole && !img_tables_entry_at(t, &l, n, &e, NULL) &&
		       choose_clear_method(t, req, discard, true, &e) == CLEAR_NOTHING)
			n++;
	} else {
		n = max_u64(whole, 1);
	}
	plan->kind = IMG_PLAN_NOTHING;
	plan->length = min_u64(len, n * cluster - within);
	return 0;
}

int img_tables_plan(struct img_tables *t, struct img_req *req, enum img_op op, uint64_t off,
		    uint64_t len, struct img_plan *plan)
{
	if (!t->writing)
		return img_fail(img_req_error(req), -EROFS,
				t->for_check
					? "%s: it was opened for a check only"
					: "%s: after an error it is not known which clusters are used",
				t->img->name);
	switch (op) {
	case IMG_OP_WRITE:
		return plan_data(t, req, off, len, plan);
	case IMG_OP_WRITE_COMPRESSED:
		return plan_packed(t, req, off, len, plan);
	case IMG_OP_ZERO:
	case IMG_OP_DISCARD:
		return plan_clear(t, req, op == IMG_OP_DISCARD, off, len, plan);
	}
	return -EINVAL;
}

/* ---- Commit ---- */

static void free_old(struct img_tables *t, struct img_free_row *row, const struct img_table_entry *old)
{
	if (old->kind == IMG_TABLE_PACKED)
		t->trim = true;
	if (old->kind == IMG_TABLE_DATA)
		img_free_row_add(row, old->off, t->cluster_bytes);
}

void img_tables_commit(struct img_tables *t, struct img_req *req, const struct img_plan *plan)
{
	struct img_storage *file = t->img->file;
	uint64_t kind = plan->slot[SLOT_KIND], target = plan->slot[SLOT_TARGET];
	uint64_t n = kind == COMMIT_PACKED ? 1 : plan->slot[SLOT_COUNT];
	uint8_t *slot = img_meta_edit(req, file, plan->slot[SLOT_ENTRY],
				      (size_t)n * IMG_TABLE_ENTRY_BYTES, IMG_RANK_MAPPING);
	struct img_free_row row = { .req = req, .storage = file };

	for (uint64_t i = 0; i < n; i++, slot += IMG_TABLE_ENTRY_BYTES) {
		struct img_table_entry old = img_tables_decode(t, img_tables_load_raw(t, slot));
		uint64_t raw = img_tables_cleared(t);

		if (kind == COMMIT_NEW)
			raw = target + i * t->cluster_bytes;
		else if (kind == COMMIT_PACKED)
			raw = IMG_TABLE_COMPRESSED | plan->slot[SLOT_COUNT] << t->len_shift |
			      target;
		img_tables_store_raw(t, slot, raw);
		free_old(t, &row, &old);
	}
	img_free_row_end(&row);
	/* Where clusters have to be in the file wholly, the disk's last one, too. */
	if (kind == COMMIT_NEW)
		raise_u64(&file->due, target + n * t->cluster_bytes);
}

void img_tables_drop(struct img_tables *t, const struct img_plan *plan)
{
	uint64_t off = plan->slot[SLOT_TARGET], len = plan->slot[SLOT_COUNT] * t->cluster_bytes;

	switch (plan->slot[SLOT_KIND]) {
	case COMMIT_NEW:
		/* Something may have been written there. */
		t->clean_from = max_u64(t->clean_from, off + len);
		img_unit_alloc_put(&t->alloc, off, len);
		break;
	case COMMIT_PACKED:
		t->trim = true;
		break;
	default:
		break;
	}
}

/* ---- Freed space ---- */

void img_tables_release(struct img_tables *t, uint64_t file_off, uint64_t len)
{
	t->clean_from = max_u64(t->clean_from, file_off + len);
	img_unit_alloc_put(&t->alloc, file_off, len);
}

void img_tables_zeroing(const struct img_tables *t, struct img_zeroing *out)
{
	bool by_entry = t->zero || !img_tables_has_backing(t);

	out->zero = t->cipher || !by_entry ? IMG_ZERO_WRITTEN : IMG_ZERO_IN_PLACE;
	out->discard = !img_tables_has_backing(t);
}
