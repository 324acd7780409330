/*
 * The second part of a check: what was counted against the refcounts in the file. Spec:
 * spec/qcow2.md, "Checking".
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/qcow2/qcow2_check.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* A count too high or too low. */
static void mismatch(struct qcow2_scan *s, uint64_t cluster, uint64_t refcount, uint64_t uses)
{
	bool leak = refcount > uses;

	if (leak) {
		s->leaks++;
	} else {
		s->corruptions++;
		s->refcount_corruptions++;
	}
	qcow2_scan_report(s, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
			  leak ? "Leaked" : "ERROR", cluster, refcount, uses);
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
		qcow2_counts_mark(&s->refs, at, QCOW2_MARK_ONCE, refcount == 1);
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
	uint64_t end = s->refs.clusters, entries = g->block_entries;
	bool loaded = false;
	uint64_t loaded_off = 0;

	for (uint64_t b = 0; b * entries < end; b++) {
		uint64_t at = b * entries, stop = min_u64(at + entries, end);
		uint64_t off = b < s->refcount_table_entries ? s->refcount_table[b] : 0;

		if (!off) {
			uint64_t next = qcow2_counts_next_page(&s->refs, at, end);

			compare_block(s, at, stop, false);
			/* Past the table there are no blocks: go where something is used. */
			if (b >= s->refcount_table_entries && next / entries > b)
				b = next / entries - 1;
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

uint64_t qcow2_scan_refcount(struct qcow2_scan *s, uint64_t cluster)
{
	const struct qcow2_geometry *g = &s->geometry;
	uint64_t b = cluster / g->block_entries,
		 bit = cluster % g->block_entries << g->refcount_order;
	uint8_t bytes[8] = { 0 };
	size_t len = g->refcount_bits < 8 ? 1 : g->refcount_bits / 8;

	if (b >= s->refcount_table_entries || !s->refcount_table[b] ||
	    img_storage_read(s->img->file, s->refcount_table[b] + bit / 8, bytes, len, NULL))
		return 0;
	return qcow2_refcount_get(bytes, g->refcount_order, bit % 8 >> g->refcount_order);
}

/*
 * Tables in tables, of which the refcounts know: otherwise that was found already, and counted.
 */
static void compare_overlaps(struct qcow2_scan *s)
{
	for (size_t i = 0; i < s->noverlaps; i++) {
		uint64_t cluster = s->overlaps[i].cluster;

		if (qcow2_scan_refcount(s, cluster) != qcow2_scan_uses(s, cluster) ||
		    (i && s->overlaps[i - 1].cluster == cluster))
			continue;
		s->corruptions++;
		qcow2_scan_report(s, "ERROR cluster %" PRIu64 " is a table and %s, too", cluster,
				  s->overlaps[i].what);
	}
}

void qcow2_compare(struct qcow2_scan *s)
{
	compare_refcounts(s);
	compare_overlaps(s);
}
