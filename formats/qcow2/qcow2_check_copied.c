/*
 * Copied flags: set where the refcount is 1, and nowhere else. In the active tables only. Spec:
 * spec/qcow2.md, "Checking".
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/qcow2/qcow2_check.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

bool qcow2_is_alone(const struct qcow2_scan *s, const struct qcow2_scan_l2 *l2)
{
	return is_aligned_u64(l2->off, s->geometry.cluster_bytes) &&
	       range_in(l2->off, s->geometry.cluster_bytes,
			s->clusters << s->geometry.cluster_bits) &&
	       qcow2_counts_get(&s->refs, l2->off >> s->geometry.cluster_bits) == l2->uses;
}

bool qcow2_l1_is_alone(const struct qcow2_scan *s)
{
	unsigned bits = s->geometry.cluster_bits;
	uint64_t off = s->header.l1_off, len = s->l1_entries * 8;

	if (!range_in(off, len, s->file_bytes))
		return false;
	for (uint64_t c = off >> bits; len && c <= (off + len - 1) >> bits; c++)
		if (qcow2_counts_get(&s->refs, c) != 1)
			return false;
	return true;
}

/* Should a flag be set? *sure: the uses say so, too. */
static bool used_once(struct qcow2_scan *s, uint64_t off, bool *sure)
{
	uint64_t cluster = off >> s->geometry.cluster_bits;
	bool once = cluster < s->refs.clusters
			    ? qcow2_counts_marked(&s->refs, cluster, QCOW2_MARK_ONCE)
			    : qcow2_scan_refcount(s, cluster) == 1;

	*sure = !once || qcow2_scan_uses(s, cluster) == 1;
	return once;
}

struct copied {
	bool repair;
	bool l1_alone;
};

static int check_l1_entry(struct qcow2_scan *s, const struct copied *c, uint64_t i, uint64_t word,
			  struct img_error *err)
{
	uint64_t off = word & QCOW2_OFFSET_MASK;
	uint8_t bytes[8];
	bool sure;

	if (used_once(s, off, &sure) == !!(word & QCOW2_COPIED))
		return 0;
	s->corruptions++;
	s->copied_wrong++;
	qcow2_scan_report(s,
			  "%s OFLAG_COPIED L2 cluster: l1_index=%" PRIu64 " l1_entry=%" PRIx64
			  " refcount=%" PRIu64,
			  c->repair ? "Repairing" : "ERROR", i, word,
			  qcow2_scan_refcount(s, off >> s->geometry.cluster_bits));
	if (!c->repair || !c->l1_alone || !sure)
		return 0;
	be64_store(bytes, word ^ QCOW2_COPIED);
	return img_storage_write(s->img->file, s->header.l1_off + i * 8, bytes, sizeof(bytes), err);
}

static int check_l2(struct qcow2_scan *s, const struct qcow2_scan_l2 *l2, bool repair,
		    struct img_error *err)
{
	const struct qcow2_geometry *g = &s->geometry;
	bool changed = false;

	if (!qcow2_scan_read(s, l2->off, s->table, g->cluster_bytes, "L2 table"))
		return 0;
	for (uint64_t i = 0; i < g->l2_entries; i++) {
		uint8_t *at = s->table + i * g->l2_entry_bytes;
		uint64_t word = be64_load(at);
		bool sure = true;
		struct qcow2_entry e;

		if (!word)
			continue;
		qcow2_decode_entry(g, word, 0, &e);
		if (e.kind != QCOW2_NORMAL && e.kind != QCOW2_ZERO_ALLOC)
			continue;
		/* Clusters in a data file are never shared. */
		if ((g->data_file || used_once(s, e.host_off, &sure)) == e.copied)
			continue;
		s->corruptions += l2->active;
		s->copied_wrong += l2->active;
		qcow2_scan_report(
			s, "%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64,
			repair ? "Repairing" : "ERROR", word,
			g->data_file ? 1 : qcow2_scan_refcount(s, e.host_off >> g->cluster_bits));
		if (!repair || !sure)
			continue;
		be64_store(at, word ^ QCOW2_COPIED);
		changed = true;
	}
	if (!changed || !qcow2_is_alone(s, l2))
		return 0;
	return img_storage_write(s->img->file, l2->off, s->table, g->cluster_bytes, err);
}

/* An L1 entry, and its table, once. */
static int visit_l1(struct qcow2_scan *s, void *arg, uint64_t i, uint64_t word,
		    struct img_error *err)
{
	const struct copied *c = arg;
	uint64_t off = word & QCOW2_OFFSET_MASK, *index = qcow2_map_find(&s->l2_index, off);
	int rc = off ? check_l1_entry(s, c, i, word, err) : 0;

	if (rc || !off || !index || s->l2[*index - 1].seen)
		return rc;
	s->l2[*index - 1].seen = true;
	return check_l2(s, &s->l2[*index - 1], c->repair, err);
}

int qcow2_check_copied(struct qcow2_scan *s, bool repair, struct img_error *err)
{
	struct copied c = { repair, qcow2_l1_is_alone(s) };
	int rc;

	for (size_t i = 0; i < s->nl2; i++)
		s->l2[i].seen = false;
	rc = qcow2_scan_words(s, s->header.l1_off, s->l1_entries, "L1 table", visit_l1, &c,
			      err);

	return rc || !repair ? rc : qcow2_sync(s->img, err);
}
