/*
 * Writing: plan, commit, drop, release. A write goes in place where the cluster is this image's
 * alone (the copied flag of its L2 entry); otherwise to new clusters, which the L2 entries name
 * once the data is there, and then the old clusters are freed. New clusters are counted when the
 * write is planned: a crash in between leaks them.
 *
 * An L2 table that is missing is made while planning: an empty one changes nothing for the guest.
 * One that is shared with a snapshot is copied by grow().
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/engine/free_row.h"

/* What commit() is to do: plan->slot[SLOT_KIND]. */
enum {
	COMMIT_NEW,   /* to new clusters */
	COMMIT_REUSE, /* to room that was there and not in use */
	COMMIT_COMPRESSED,
	COMMIT_CLEAR,	   /* room that is there stays */
	COMMIT_DISCARD,	   /* it is given back */
	COMMIT_CLEAR_PART, /* subclusters of one cluster */
};

/* plan->slot[] */
enum {
	SLOT_KIND,	       /* COMMIT_* */
	SLOT_ENTRY,	       /* file offset of the first cluster's L2 entry */
	SLOT_COUNT,	       /* clusters; COMPRESSED: stored bytes */
	SLOT_HOST,	       /* NEW: of the first cluster; COMPRESSED: of the data */
	SLOT_PART = SLOT_HOST, /* CLEAR_PART: bit i is subcluster i */
};

static bool has_backing(const struct img *img)
{
	return img->backing_name || img->parent;
}

/* May the cluster be changed in place? */
static bool is_ours(const struct qcow2 *q, const struct qcow2_entry *e)
{
	return qcow2_has_host(e) && (e->copied || q->geometry.data_file);
}

/* What the entry occupies in the image's file; false: nothing. */
static bool occupies(const struct qcow2 *q, const struct qcow2_entry *e, uint64_t *off,
		     uint64_t *len)
{
	if (q->geometry.data_file || (!qcow2_has_host(e) && e->kind != QCOW2_COMPRESSED))
		return false;
	*off = e->host_off;
	*len = e->kind == QCOW2_COMPRESSED ? e->stored_bytes : q->geometry.cluster_bytes;
	return true;
}

/* Refuse to write to, or to free, clusters that hold metadata. */
static int check_host(struct img *img, struct img_req *req, uint64_t guest_off, uint64_t off,
		      uint64_t len)
{
	const struct qcow2 *q = img->state;
	const char *hit = img_range_map_at(&q->metadata, off, len);

	if (!hit)
		return 0;
	return img_fail(img_req_error(req), -EUCLEAN,
			"%s: L2 entry for guest offset %" PRIu64 ": host offset %" PRIu64 " lies "
			"inside the %s",
			img->name, guest_off, off, hit);
}

/* ---- The L2 table ---- */

static int make_table(struct img *img, struct img_req *req, uint64_t off)
{
	struct qcow2 *q = img->state;
	uint64_t first, count, table_off;
	uint8_t *l1;
	int rc = qcow2_find_free(img, req, 1, &first, &count);

	if (rc)
		return rc;
	table_off = first * q->geometry.cluster_bytes;
	rc = img_range_map_reserve_blocks(&q->metadata, 1);
	if (!rc)
		rc = img_meta_new(req, img->file, table_off, q->geometry.cluster_bytes,
				  IMG_RANK_MAPPING);
	if (rc)
		return img_fail(img_req_error(req), rc,
				"%s: out of memory for an L2 table",
				img->name);
	qcow2_alloc(img, req, first, 1);
	img_range_map_insert_block(&q->metadata, table_off);
	l1 = img_meta_edit(req, img->file, qcow2_l1_entry_off(q, off), 8, IMG_RANK_ROOT);
	be64_store(l1, table_off | QCOW2_COPIED);
	return 0;
}

/* Look up [off, off + len) for writing: the table is there and this image's alone. */
static int lookup_writable(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
			   struct qcow2_lookup *l)
{
	const struct qcow2 *q = img->state;
	const struct img_range *hit;
	int rc = qcow2_lookup(img, req, off, len, l);

	if (!rc && !l->table_off) {
		rc = make_table(img, req, off);
		if (!rc)
			rc = qcow2_lookup(img, req, off, len, l);
	}
	if (rc)
		return rc;
	if (!l->table_copied)
		return IMG_NEED_EXCLUSIVE;
	hit = img_range_map_range_at(&q->metadata, l->table_off, q->geometry.cluster_bytes);
	if (hit)
		return img_fail(img_req_error(req), -EUCLEAN,
				"%s: L1 entry for guest offset %" PRIu64 ": the L2 table at "
				"offset %" PRIu64 " overlaps the %s",
				img->name, off, l->table_off, hit->name);
	return 0;
}

/* ---- Plain writes ---- */

static bool is_data(const struct qcow2_geometry *g, const struct qcow2_entry *e, uint64_t within)
{
	return qcow2_state(g, e, (unsigned)(within / g->subcluster_bytes)) == QCOW2_DATA;
}

/* How far from off on clusters of ours lie in a row, all with data or all without; up to len. */
static uint64_t run_of_ours(struct img *img, const struct qcow2_lookup *l,
			    const struct qcow2_entry *first, uint64_t off, uint64_t len)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t within = off - l->guest_off;
	bool data = is_data(g, first, within);
	struct qcow2_entry e = *first;
	uint64_t end = align_down_u64(within, g->subcluster_bytes);

	for (;;) {
		end += g->subcluster_bytes;
		if (end - within >= len)
			return len;
		if (is_aligned_u64(end, g->cluster_bytes)) {
			uint64_t i = end / g->cluster_bytes;

			if (i >= l->n || qcow2_entry_at(img, l, i, &e, NULL) || !is_ours(q, &e) ||
			    e.host_off != first->host_off + end)
				return end - within;
		}
		if (is_data(g, &e, end % g->cluster_bytes) != data)
			return end - within;
	}
}

/* The fill range is known: how it is encrypted, in whole sectors. */
static void plan_cipher(const struct qcow2 *q, struct img_plan *plan)
{
	if (!q->unlocked.cipher)
		return;
	plan->cipher = q->unlocked.cipher;
	plan->tweak = qcow2_tweak(q, plan->fill_start, plan->file_off);
}

/* In place; or, where the room is there but not in use, in place with a commit. */
static int plan_in_place(struct img *img, struct img_req *req, const struct qcow2_lookup *l,
			 const struct qcow2_entry *e, uint64_t off, uint64_t len, struct img_plan *plan)
{
	const struct qcow2 *q = img->state;
	bool data = is_data(&q->geometry, e, off - l->guest_off);
	uint64_t grain = !data		      ? q->geometry.subcluster_bytes
			 : q->unlocked.cipher ? q->unlocked.cipher->sector_bytes
					      : 1;
	int rc;

	plan->kind = IMG_PLAN_DATA;
	plan->length = run_of_ours(img, l, e, off, len);
	plan->storage = q->data;
	plan->fill_start = align_down_u64(off, grain);
	plan->fill_end = round_up_u64(off + plan->length, grain);
	plan->file_off = e->host_off + plan->fill_start - l->guest_off;
	plan_cipher(q, plan);
	plan->commit = !data;
	plan->slot[SLOT_KIND] = COMMIT_REUSE;
	plan->slot[SLOT_ENTRY] = l->entry_off;
	plan->slot[SLOT_COUNT] = div_round_up_u64(plan->fill_end - l->guest_off,
						  q->geometry.cluster_bytes);
	if (q->geometry.data_file)
		return 0;
	rc = check_host(img, req, off, plan->file_off, plan->fill_end - plan->fill_start);
	return rc;
}

/* Entries from the first on that are to be written to new clusters, up to l->n. 0 is an error. */
static int count_new(struct img *img, struct img_req *req, const struct qcow2_lookup *l,
		     uint64_t *count, size_t *frees)
{
	const struct qcow2 *q = img->state;

	*frees = 0;
	for (*count = 0; *count < l->n; ++*count) {
		struct qcow2_entry e;
		uint64_t off, len;
		/* Only the first one's defects are this write's concern. */
		int rc = qcow2_entry_at(img, l, *count, &e, *count ? NULL : img_req_error(req));

		if (rc || is_ours(q, &e))
			return *count ? 0 : rc;
		if (!occupies(q, &e, &off, &len))
			continue;
		if (img_range_map_at(&q->metadata, off, len))
			return *count ? 0 : check_host(img, req, l->guest_off, off, len);
		++*frees;
	}
	return 0;
}

/* Must a cluster written to in part be filled as a whole, for its old data is elsewhere? */
static bool moves_data(const struct qcow2_geometry *g, const struct qcow2_entry *e)
{
	return !g->extended || e->kind == QCOW2_COMPRESSED || e->sub_alloc;
}

static int plan_new(struct img *img, struct img_req *req, const struct qcow2_lookup *l, uint64_t off,
		    uint64_t len, struct img_plan *plan)
{
	struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	struct qcow2_entry first_entry, last_entry;
	uint64_t count, first, end, host;
	size_t frees;
	int rc = count_new(img, req, l, &count, &frees);

	if (rc)
		return rc;
	if (frees && img_free_reserve(req, frees))
		return qcow2_no_memory(img, img_req_error(req));
	if (g->data_file) {
		host = l->guest_off;
	} else {
		rc = qcow2_find_free(img, req, count, &first, &count);
		if (rc)
			return rc;
		qcow2_alloc(img, req, first, count);
		host = first * g->cluster_bytes;
	}
	qcow2_entry_at(img, l, 0, &first_entry, NULL);
	qcow2_entry_at(img, l, count - 1, &last_entry, NULL);
	end = l->guest_off + count * g->cluster_bytes;
	plan->kind = IMG_PLAN_DATA;
	plan->length = min_u64(len, end - off);
	plan->fill_start = moves_data(g, &first_entry)
				   ? l->guest_off
				   : align_down_u64(off, g->subcluster_bytes);
	plan->fill_end = moves_data(g, &last_entry)
				 ? end
				 : round_up_u64(off + plan->length, g->subcluster_bytes);
	plan->storage = q->data;
	plan->file_off = host + plan->fill_start - l->guest_off;
	plan_cipher(q, plan);
	plan->fresh = q->data->limits.zero_fill && host >= max_u64(q->data->size, q->stale_end);
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_NEW;
	plan->slot[SLOT_ENTRY] = l->entry_off;
	plan->slot[SLOT_COUNT] = count;
	plan->slot[SLOT_HOST] = host;
	return 0;
}

static int plan_data(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		     struct img_plan *plan)
{
	struct qcow2_lookup l;
	struct qcow2_entry e;
	int rc = lookup_writable(img, req, off, len, &l);

	if (!rc)
		rc = qcow2_entry_at(img, &l, 0, &e, img_req_error(req));
	if (rc)
		return rc;
	if (is_ours(img->state, &e))
		return plan_in_place(img, req, &l, &e, off, len, plan);
	return plan_new(img, req, &l, off, len, plan);
}

/* ---- Compressed writes ---- */

static int plan_compressed(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
			   struct img_plan *plan)
{
	const struct qcow2 *q = img->state;
	struct qcow2_lookup l;
	struct qcow2_entry e;
	uint64_t old_off, old_len, file_off;
	int rc;

	if (q->geometry.data_file)
		return img_fail(img_req_error(req), -ENOTSUP,
				"%s: an image with a data file cannot hold compressed clusters",
				img->name);
	rc = lookup_writable(img, req, off, 1, &l);
	if (!rc)
		rc = qcow2_entry_at(img, &l, 0, &e, img_req_error(req));
	if (!rc && occupies(q, &e, &old_off, &old_len)) {
		rc = check_host(img, req, off, old_off, old_len);
		if (!rc && img_free_reserve(req, 1))
			rc = qcow2_no_memory(img, img_req_error(req));
	}
	if (!rc)
		rc = qcow2_alloc_compressed(img, req, len, &file_off);
	if (rc)
		return rc;
	plan->kind = IMG_PLAN_DATA;
	plan->length = q->geometry.cluster_bytes;
	plan->fill_start = off;
	plan->fill_end = off + q->geometry.cluster_bytes;
	plan->storage = img->file;
	plan->file_off = file_off;
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_COMPRESSED;
	plan->slot[SLOT_ENTRY] = l.entry_off;
	plan->slot[SLOT_COUNT] = len;
	plan->slot[SLOT_HOST] = file_off;
	return 0;
}

/* ---- Zeroing and discarding ---- */

/*
 * The entry after zeroing or discarding the cluster, by metadata alone. keep: its room. Version 2 has no zero flag:
 * there it is called only without a backing file.
 */
static struct qcow2_entry cleared(const struct img *img, bool keep, const struct qcow2_entry *old)
{
	const struct qcow2 *q = img->state;
	struct qcow2_entry e = { .kind = QCOW2_ZERO_PLAIN };

	/* Reads as zeroes already, with nothing to free. */
	if (old->kind == QCOW2_UNALLOCATED && !has_backing(img))
		return *old;
	if (q->header.version < 3)
		return (struct qcow2_entry){ .kind = QCOW2_UNALLOCATED };
	/* Room that is there stays for the next write, and data of a data file is in its place. */
	if (qcow2_has_host(old) && (q->geometry.data_file || img->keep_allocated || keep)) {
		e.kind = QCOW2_ZERO_ALLOC;
		e.host_off = old->host_off;
		e.copied = old->copied;
	}
	return e;
}

static bool same_entry(const struct qcow2_geometry *g, const struct qcow2_entry *a,
		       const struct qcow2_entry *b)
{
	uint64_t word[2], bitmap[2];

	qcow2_encode_entry(g, a, &word[0], &bitmap[0]);
	qcow2_encode_entry(g, b, &word[1], &bitmap[1]);
	return word[0] == word[1] && bitmap[0] == bitmap[1];
}

/* How to clear a cluster. */
enum clear_method {
	CLEAR_NOTHING,
	CLEAR_BY_METADATA,
	CLEAR_BY_ZEROING,
	CLEAR_BY_PUNCHING,
};

static int choose_clear_method(struct img *img, struct img_req *req, const struct qcow2_lookup *l,
			       uint64_t i, bool discard, enum clear_method *how)
{
	const struct qcow2 *q = img->state;
	struct qcow2_entry e = { .kind = QCOW2_UNALLOCATED }, after;
	uint64_t off, len;
	int rc = l->entries ? qcow2_entry_at(img, l, i, &e, img_req_error(req)) : 0;

	if (rc)
		return rc;
	after = cleared(img, !discard && !img_req_may_unmap(req), &e);
	/* An entry cannot say that a cluster reads as zeroes and is at 0, where a data file has its first. */
	if (!discard && img_req_keep_allocated(req) && (!qcow2_has_host(&after) || !after.host_off))
		return IMG_NEED_WRITE;
	/* Zeroes in the file are none once they are decrypted. */
	if (q->geometry.data_file && qcow2_has_host(&e) && (discard || q->raw_data_file) &&
	    !q->unlocked.cipher) {
		*how = discard ? CLEAR_BY_PUNCHING : CLEAR_BY_ZEROING;
		return 0;
	}
	*how = same_entry(&q->geometry, &e, &after) ? CLEAR_NOTHING : CLEAR_BY_METADATA;
	if (*how == CLEAR_BY_METADATA && occupies(q, &e, &off, &len) && !qcow2_has_host(&after))
		return check_host(img, req, l->guest_off + i * q->geometry.cluster_bytes, off, len);
	return 0;
}

/* Clusters of the look from the first on that are cleared in the same way. */
static int run_to_clear(struct img *img, struct img_req *req, const struct qcow2_lookup *l,
			bool discard, enum clear_method *how, uint64_t *count)
{
	int rc = choose_clear_method(img, req, l, 0, discard, how);

	if (rc)
		return rc;
	if (!l->entries) {
		*count = l->n;
		return 0;
	}
	for (*count = 1; *count < l->n; ++*count) {
		enum clear_method next;

		if (choose_clear_method(img, req, l, *count, discard, &next) || next != *how)
			break;
	}
	return 0;
}

/*
 * Are [within, within + len) of the cluster data, and all of it? Do they read as zeroes, keep: in room of
 * their own?
 */
static void lookup_part(const struct img *img, const struct qcow2_entry *e, uint64_t within,
			uint64_t len, bool keep, bool *all_data, bool *all_zero)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t last = (within + len - 1) / g->subcluster_bytes;

	*all_data = qcow2_has_host(e);
	*all_zero = !keep || qcow2_has_host(e);
	for (uint64_t i = within / g->subcluster_bytes; i <= last; i++) {
		enum qcow2_state state = qcow2_state(g, e, (unsigned)i);

		*all_data &= state == QCOW2_DATA;
		*all_zero &= state == QCOW2_ZEROES ||
			     (state == QCOW2_HOLE && !has_backing(img) && !keep);
	}
}

/* Bits for the subclusters that [within, end) of a cluster touches. */
static uint32_t subclusters(const struct qcow2_geometry *g, uint64_t within, uint64_t end)
{
	uint64_t first = within / g->subcluster_bytes;
	uint64_t count = div_round_up_u64(end, g->subcluster_bytes) - first;

	return (UINT32_MAX >> (QCOW2_SUBCLUSTERS - count)) << first;
}

/*
 * Can a part of a cluster be zeroed by bits of its entry? Shortens *len to whole subclusters, or to what is
 * before the first one. The bytes of a raw data file are zeroed themselves.
 */
static bool is_cleared_by_bits(const struct img *img, const struct qcow2_entry *e, uint64_t off,
			       uint64_t within, uint64_t *len)
{
	const struct qcow2 *q = img->state;
	uint64_t grain = q->geometry.subcluster_bytes, into = within & (grain - 1);

	if (!q->geometry.extended || e->kind == QCOW2_COMPRESSED || q->raw_data_file)
		return false;
	if (into) {
		*len = min_u64(*len, grain - into);
		return false;
	}
	if (off + *len < img->size && *len >= grain)
		*len = align_down_u64(*len, grain);
	return *len >= grain || off + *len >= img->size;
}

/* Zero subclusters of one cluster by metadata; its room stays. */
static int plan_clear_bits(struct img *img, struct img_req *req, uint64_t off, uint64_t within,
			   struct img_plan *plan)
{
	const struct qcow2 *q = img->state;
	struct qcow2_lookup l;
	int rc = lookup_writable(img, req, off, plan->length, &l);

	if (rc)
		return rc;
	plan->kind = IMG_PLAN_META;
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_CLEAR_PART;
	plan->slot[SLOT_ENTRY] = l.entry_off;
	plan->slot[SLOT_COUNT] = 1;
	plan->slot[SLOT_PART] = subclusters(&q->geometry, within, within + plan->length);
	return 0;
}

/* Zero or discard a part of one cluster: by bits, in the room that it has, or not at all. */
static int plan_clear_part(struct img *img, struct img_req *req, bool discard, uint64_t off,
			   uint64_t len, struct img_plan *plan)
{
	const struct qcow2 *q = img->state;
	struct qcow2_entry e = { .kind = QCOW2_UNALLOCATED };
	bool keep = !discard && img_req_keep_allocated(req);
	bool all_data = false, all_zero = false, by_bits;
	struct qcow2_lookup l;
	uint64_t within;
	int rc = qcow2_lookup(img, req, off, len, &l);

	if (!rc && l.entries)
		rc = qcow2_entry_at(img, &l, 0, &e, img_req_error(req));
	if (rc)
		return rc;
	within = off - l.guest_off;
	len = min_u64(len, q->geometry.cluster_bytes - within);
	by_bits = !discard && is_cleared_by_bits(img, &e, off, within, &len) &&
		  (qcow2_has_host(&e) || !keep);
	plan->length = len;
	plan->kind = IMG_PLAN_NOTHING;
	if (e.kind != QCOW2_COMPRESSED)
		lookup_part(img, &e, within, len, keep, &all_data, &all_zero);
	if (all_zero ||
	    (discard && (q->unlocked.cipher || !(all_data && is_ours(q, &e) && l.table_copied))))
		return 0;
	if (by_bits)
		return plan_clear_bits(img, req, off, within, plan);
	if (q->unlocked.cipher || !all_data || !is_ours(q, &e) || !l.table_copied)
		return IMG_NEED_WRITE;
	plan->kind = discard ? IMG_PLAN_PUNCH : IMG_PLAN_ZERO;
	plan->storage = q->data;
	plan->file_off = e.host_off + within;
	return q->geometry.data_file ? 0 : check_host(img, req, off, plan->file_off, len);
}

static int plan_clear(struct img *img, struct img_req *req, bool discard, uint64_t off,
		      uint64_t len, struct img_plan *plan)
{
	const struct qcow2 *q = img->state;
	uint64_t cluster = q->geometry.cluster_bytes;
	struct qcow2_lookup l;
	uint64_t count;
	enum clear_method how;
	int rc;

	if (!is_aligned_u64(off, cluster) || (len < cluster && off + len < img->size))
		return plan_clear_part(img, req, discard, off,
				       min_u64(len, cluster - (off & (cluster - 1))), plan);
	if (off + len < img->size)
		len = align_down_u64(len, cluster);
	if (q->header.version < 3 && has_backing(img)) {
		if (!discard)
			return IMG_NEED_WRITE;
		/* Without its cluster the guest would see the backing file again. */
		plan->kind = IMG_PLAN_NOTHING;
		plan->length = len;
		return 0;
	}
	rc = qcow2_lookup(img, req, off, len, &l);
	if (!rc)
		rc = run_to_clear(img, req, &l, discard, &how, &count);
	if (!rc && (how == CLEAR_BY_METADATA || how == CLEAR_BY_ZEROING)) {
		rc = lookup_writable(img, req, off, len, &l);
		count = min_u64(count, l.n);
		if (!rc && img_free_reserve(req, count))
			rc = qcow2_no_memory(img, img_req_error(req));
	}
	if (rc)
		return rc;
	plan->kind = how == CLEAR_NOTHING	? IMG_PLAN_NOTHING
		     : how == CLEAR_BY_METADATA ? IMG_PLAN_META
		     : how == CLEAR_BY_ZEROING	? IMG_PLAN_ZERO
						: IMG_PLAN_PUNCH;
	plan->length = min_u64(len, count * q->geometry.cluster_bytes);
	plan->commit = how == CLEAR_BY_METADATA || how == CLEAR_BY_ZEROING;
	if (how == CLEAR_BY_ZEROING || how == CLEAR_BY_PUNCHING) {
		plan->storage = q->data;
		plan->file_off = off;
	}
	plan->slot[SLOT_KIND] = discard || img_req_may_unmap(req) ? COMMIT_DISCARD : COMMIT_CLEAR;
	plan->slot[SLOT_ENTRY] = l.entry_off;
	plan->slot[SLOT_COUNT] = count;
	return 0;
}

int qcow2_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
		     uint64_t len, struct img_plan *plan)
{
	int rc = qcow2_check_unlocked(img, req);

	if (rc)
		return rc;
	switch (op) {
	case IMG_OP_WRITE:
		return plan_data(img, req, off, len, plan);
	case IMG_OP_WRITE_COMPRESSED:
		return plan_compressed(img, req, off, len, plan);
	case IMG_OP_ZERO:
	case IMG_OP_DISCARD:
		return plan_clear(img, req, op == IMG_OP_DISCARD, off, len, plan);
	}
	return -EINVAL;
}

/* ---- Commit ---- */

/* Free what the old entry occupies and the new one does not. */
static void free_old(const struct qcow2 *q, struct img_free_row *row, const struct qcow2_entry *old,
		     const struct qcow2_entry *now)
{
	uint64_t off, len;

	if (!occupies(q, old, &off, &len) || (qcow2_has_host(now) && now->host_off == off))
		return;
	/* Compressed data is counted by piece: two pieces in one cluster are two uses of it. */
	if (old->kind == QCOW2_COMPRESSED) {
		img_free_later(row->req, row->storage, off, len);
		return;
	}
	img_free_row_add(row, off, len);
}

/* Which subclusters of the cluster at guest_off does the plan write? */
static uint32_t written_subclusters(const struct qcow2_geometry *g, const struct img_plan *plan,
				    uint64_t guest_off)
{
	uint64_t from = max_u64(plan->fill_start, guest_off) - guest_off;
	uint64_t to = min_u64(plan->fill_end, guest_off + g->cluster_bytes) - guest_off;

	return subclusters(g, from, to);
}

/* The entry of cluster i of a plan, after it. */
static struct qcow2_entry committed(const struct img *img, const struct img_plan *plan, uint64_t i,
				    const struct qcow2_entry *old)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	struct qcow2_entry e = *old;
	uint64_t start = align_down_u64(plan->fill_start, g->cluster_bytes);

	switch (plan->slot[SLOT_KIND]) {
	case COMMIT_CLEAR:
	case COMMIT_DISCARD:
		return cleared(img, plan->slot[SLOT_KIND] == COMMIT_CLEAR, old);
	case COMMIT_CLEAR_PART:
		e.sub_alloc &= ~(uint32_t)plan->slot[SLOT_PART];
		e.sub_zero |= (uint32_t)plan->slot[SLOT_PART];
		return e;
	case COMMIT_COMPRESSED:
		return (struct qcow2_entry){
			.kind = QCOW2_COMPRESSED,
			.host_off = plan->slot[SLOT_HOST],
			.stored_bytes = (uint32_t)plan->slot[SLOT_COUNT],
		};
	case COMMIT_NEW:
		e = (struct qcow2_entry){
			.host_off = plan->slot[SLOT_HOST] + i * g->cluster_bytes,
			.copied = true,
			.sub_zero = old->sub_zero,
		};
		break;
	default:
		break;
	}
	e.kind = QCOW2_NORMAL;
	if (g->extended) {
		uint32_t written = written_subclusters(g, plan, start + i * g->cluster_bytes);

		e.sub_alloc |= written;
		e.sub_zero &= ~written;
	}
	return e;
}

void qcow2_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	bool compressed = plan->slot[SLOT_KIND] == COMMIT_COMPRESSED;
	uint64_t n = compressed ? 1 : plan->slot[SLOT_COUNT];
	uint8_t *at = img_meta_edit(req, img->file, plan->slot[SLOT_ENTRY],
				    (size_t)n * g->l2_entry_bytes, IMG_RANK_MAPPING);
	struct img_free_row row = { .req = req, .storage = img->file };

	for (uint64_t i = 0; i < n; i++, at += g->l2_entry_bytes) {
		struct qcow2_entry old, now;
		uint64_t word, bitmap;

		qcow2_decode_entry(g, be64_load(at), g->extended ? be64_load(at + 8) : 0, &old);
		now = committed(img, plan, i, &old);
		qcow2_encode_entry(g, &now, &word, &bitmap);
		be64_store(at, word);
		if (g->extended)
			be64_store(at + 8, bitmap);
		free_old(q, &row, &old, &now);
	}
	img_free_row_end(&row);
}

void qcow2_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct qcow2 *q = img->state;
	uint64_t len = plan->slot[SLOT_COUNT] * q->geometry.cluster_bytes;

	switch (plan->slot[SLOT_KIND]) {
	case COMMIT_NEW:
		/* What was written of it, if anything, is not zeroes. */
		q->stale_end = max_u64(q->stale_end, plan->slot[SLOT_HOST] + len);
		if (!q->geometry.data_file)
			qcow2_unuse(img, req, plan->slot[SLOT_HOST], len);
		break;
	case COMMIT_COMPRESSED:
		qcow2_drop_compressed(img, req, plan->slot[SLOT_HOST], plan->slot[SLOT_COUNT]);
		break;
	default:
		break;
	}
}

/* ---- Freed space ---- */

int qcow2_last_use(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		   uint64_t len, bool *last)
{
	struct qcow2 *q = img->state;
	int rc;

	(void)s; /* nothing of a data file is ever freed */
	if (!is_aligned_u64(file_off | len, q->geometry.cluster_bytes)) {
		*last = false;
		return 0;
	}
	rc = qcow2_used_once(img, req, file_off, len, last);
	/* It is about to be punched: nothing compressed may go on behind a unit that took all its sectors. */
	if (!rc && *last && ranges_overlap(file_off, len, q->compressed_end, 1))
		q->compressed_end = 0;
	return rc;
}

int qcow2_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		  uint64_t len)
{
	(void)s;
	return qcow2_unuse(img, req, file_off, len);
}

/* ---- The first change ---- */

/* Bitmaps are not kept up to date here: say so in each, which others respect. */
static int mark_bitmaps(struct img *img, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	uint8_t *directory;
	uint64_t at = 0;
	int rc = qcow2_read_bitmap_directory(img, &directory, err);

	if (rc)
		return rc;
	for (uint32_t i = 0; i < q->bitmaps; i++) {
		uint8_t entry[QCOW2_BITMAP_FIXED_BYTES + QCOW2_MAX_BITMAP_NAME + 8];
		struct qcow2_bitmap b;

		rc = qcow2_parse_bitmap(&q->geometry, directory + at,
					(size_t)(q->bitmap_directory_bytes - at), &b, err);
		if (rc) {
			img_error_prefix(err, rc, "%s: bitmap directory", img->name);
			goto out;
		}
		b.flags |= QCOW2_BITMAP_IN_USE;
		qcow2_encode_bitmap(&b, entry);
		memcpy(directory + at, entry, qcow2_bitmap_bytes(entry));
		at += qcow2_bitmap_bytes(entry);
	}
	rc = img_storage_write(img->file, q->bitmap_directory_off, directory, (size_t)at, err);
	if (!rc)
		rc = qcow2_sync(img, err);
out:
	free(directory);
	return rc;
}

int qcow2_first_write(struct img *img, struct img_error *err)
{
	struct qcow2 *q = img->state;
	uint64_t known = q->header.autoclear & QCOW2_AUTOCLEAR_KNOWN;
	uint8_t bytes[8];
	int rc;

	if (q->header.autoclear != known) {
		be64_store(bytes, known);
		rc = img_storage_write(img->file, QCOW2_OFF_AUTOCLEAR, bytes, sizeof(bytes), err);
		if (!rc)
			rc = qcow2_sync(img, err);
		if (rc)
			return rc;
		q->header.autoclear = known;
	}
	/* A repair (no tables loaded) changes nothing that bitmaps are about. */
	return q->bitmaps && q->refcount_table ? mark_bitmaps(img, err) : 0;
}

/*
 * A cluster whose end was never written may be the file's last; readers that check (7-Zip) want
 * the file to hold all of it. Not after a repair (no tables loaded), where that end may be lost.
 */
int qcow2_finish(struct img *img, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	uint64_t whole = round_up_u64(img->file->size, q->geometry.cluster_bytes);

	if (!q->refcount_table || img->file->device || whole == img->file->size)
		return 0;
	return img_storage_resize(img->file, whole, IMG_PREALLOCATE_OFF, err);
}
