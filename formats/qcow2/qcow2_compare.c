/*
 * The second half of a check: what was counted against the refcounts in the file, and the copied
 * flags against both. Spec: spec/qcow2.md, "Checking".
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/qcow2/qcow2_scan.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* A count too high or too low. */
static void mismatch(struct qcow2_scan *s, uint64_t cluster, uint64_t refcount, uint64_t uses)
{
	bool leak = refcount > uses;
	bool mending = leak ? qcow2_scan_mends(s, IMG_REPAIR_LEAKS)
			    : qcow2_scan_mends(s, IMG_REPAIR_ALL);

	if (leak) {
		s->leaks++;
	} else {
		s->corruptions++;
		s->refcount_corruptions++;
	}
	qcow2_scan_say(s, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
		       mending ? "Repairing"
		       : leak  ? "Leaked"
			       : "ERROR",
		       cluster, refcount, uses);
}

/* Compare clusters [at, end), all counted by the block in s->block (have) or by none. */
static void compare_block(struct qcow2_scan *s, uint64_t at, uint64_t end, bool have)
{
	const struct qcow2_geometry *g = &s->geometry;

	if (!have)
		at = qcow2_counts_next_page(&s->refs, at, end);
	while (at < end) {
		uint64_t refcount = have ? qcow2_refcount_get(s->block, g->refcount_order,
							      at % g->block_entries)
					 : 0;
		uint64_t uses = qcow2_scan_uses(s, at);

		/* What is counted past the end of the file is nobody's. */
		if (at >= s->clusters && !uses)
			break;
		if (refcount | uses)
			s->image_end = (at + 1) << g->cluster_bits;
		if (refcount != uses)
			mismatch(s, at, refcount, uses);
		if (refcount == 1)
			qcow2_counts_mark(&s->refs, at);
		/* A count that has no place to be. */
		if (!have && uses)
			s->rebuild = true;
		at++;
		if (!have && at % QCOW2_PAGE_CLUSTERS == 0)
			at = qcow2_counts_next_page(&s->refs, at, end);
	}
}

static void compare_refcounts(struct qcow2_scan *s)
{
	const struct qcow2_geometry *g = &s->geometry;
	uint64_t end = s->refs.clusters;
	bool loaded = false;
	uint64_t loaded_off = 0;

	for (uint64_t b = 0; b * g->block_entries < end; b++) {
		uint64_t at = b * g->block_entries, stop = min_u64(at + g->block_entries, end);
		uint64_t off = b < s->reftable_entries ? s->reftable[b] : 0;

		if (!off) {
			uint64_t next = qcow2_counts_next_page(&s->refs, at, end);

			compare_block(s, at, stop, false);
			/* Past the table there are no blocks: go where something is used. */
			if (b >= s->reftable_entries && next / g->block_entries > b)
				b = next / g->block_entries - 1;
			continue;
		}
		if (!loaded || loaded_off != off)
			loaded = qcow2_scan_read(s, off, s->block, g->cluster_bytes,
						 "refcount block");
		loaded_off = off;
		if (!loaded) /* everything in it may be anything */
			continue;
		compare_block(s, at, stop, true);
	}
}

/* The refcount in the file, for one cluster. */
static uint64_t refcount_of(struct qcow2_scan *s, uint64_t cluster)
{
	const struct qcow2_geometry *g = &s->geometry;
	uint64_t b = cluster / g->block_entries,
		 bit = cluster % g->block_entries << g->refcount_order;
	uint8_t bytes[8] = { 0 };
	size_t len = g->refcount_bits < 8 ? 1 : g->refcount_bits / 8;

	if (b >= s->reftable_entries || !s->reftable[b] ||
	    img_storage_read(s->img->file, s->reftable[b] + bit / 8, bytes, len, NULL))
		return 0;
	return qcow2_refcount_get(bytes, g->refcount_order, bit % 8 >> g->refcount_order);
}

/* ---- Copied flags ---- */

/* Is the refcount of a cluster exactly 1? */
static bool used_once(struct qcow2_scan *s, uint64_t off)
{
	uint64_t cluster = off >> s->geometry.cluster_bits;

	return cluster < s->refs.clusters ? qcow2_counts_marked(&s->refs, cluster)
					  : refcount_of(s, cluster) == 1;
}

static int visit_copied_l1(struct qcow2_scan *s, void *arg, uint64_t i, uint64_t word,
			   struct img_error *err)
{
	uint64_t off = word & QCOW2_OFFSET_MASK;

	(void)arg;
	(void)err;
	if (!off || used_once(s, off) == !!(word & QCOW2_COPIED))
		return 0;
	s->corruptions++;
	qcow2_scan_say(s,
		       "%s OFLAG_COPIED L2 cluster: l1_index=%" PRIu64 " l1_entry=%" PRIx64
		       " refcount=%" PRIu64,
		       qcow2_scan_verb(s), i, word,
		       refcount_of(s, off >> s->geometry.cluster_bits));
	return 0;
}

static void check_copied_l2(struct qcow2_scan *s, const struct qcow2_scan_l2 *l2)
{
	const struct qcow2_geometry *g = &s->geometry;

	if (!qcow2_scan_read(s, l2->off, s->table, g->cluster_bytes, "L2 table"))
		return;
	for (uint64_t i = 0; i < g->l2_entries; i++) {
		uint64_t word = be64_load(s->table + i * g->l2_entry_bytes);
		struct qcow2_entry e;

		if (!word)
			continue;
		qcow2_decode_entry(g, word, 0, &e);
		if (e.kind != QCOW2_NORMAL && e.kind != QCOW2_ZERO_ALLOC)
			continue;
		/* Clusters in a data file are never shared. */
		if ((g->data_file || used_once(s, e.host_off)) == e.copied)
			continue;
		s->corruptions += l2->active;
		qcow2_scan_say(s,
			       "%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64
			       " refcount=%" PRIu64,
			       qcow2_scan_verb(s), word,
			       g->data_file ? 1 : refcount_of(s, e.host_off >> g->cluster_bits));
	}
}

static int check_copied(struct qcow2_scan *s, struct img_error *err)
{
	int rc = qcow2_scan_words(s, s->header.l1_off, s->header.l1_entries, "L1 table",
				  visit_copied_l1, NULL, err);

	for (size_t i = 0; !rc && i < s->nl2; i++) {
		if (s->l2[i].active)
			check_copied_l2(s, &s->l2[i]);
	}
	return rc;
}

/* ---- The whole ---- */

int qcow2_compare(struct qcow2_scan *s, struct img_error *err)
{
	compare_refcounts(s);
	return check_copied(s, err);
}
