/*
 * Looking up guest offsets: spec/qcow2.md, "L1 and L2 tables". An L1 entry names an L2 table of
 * one cluster, its entries name host clusters. All of it is read through the metadata cache.
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

uint64_t qcow2_l1_entry_off(const struct qcow2 *q, uint64_t guest_off)
{
	return q->header.l1_off + guest_off / q->geometry.l2_span * 8;
}

/* No table for off: how many clusters on from there, at most as many as len touches? */
static uint64_t clusters_without_table(const struct qcow2 *q, const uint8_t *l1, uint64_t entries,
				       uint64_t off, uint64_t len)
{
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t within = align_down_u64(off % g->l2_span, g->cluster_bytes), n = 1;

	while (n < entries && n * g->l2_span - within < len && !be64_load(l1 + n * 8))
		n++;
	return (n * g->l2_span - within) / g->cluster_bytes;
}

/* Of n entries from off in the file on, those that are there; if not even the first is, the look fails. */
static uint64_t entries_there(const struct img *img, uint64_t off, uint64_t n, unsigned bytes)
{
	uint64_t size = img->file->size;

	/* What is written meanwhile may be in memory only. */
	if (img->writable || off >= size)
		return n;
	return max_u64(min_u64(n, (size - off) / bytes), 1);
}

int qcow2_lookup(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		 struct qcow2_lookup *out)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t at = qcow2_l1_entry_off(q, off), index = off / g->l2_span;
	uint64_t l1_entries = min_u64((IMG_META_BLOCK - at % IMG_META_BLOCK) / 8,
				      q->header.l1_entries - index);
	const uint8_t *l1;
	uint64_t entry, first;

	/* No more of the L1 table than the range needs. */
	l1_entries = min_u64(l1_entries, (off + len - 1) / g->l2_span - index + 1);
	l1_entries = entries_there(img, at, l1_entries, 8);
	l1 = img_meta_get(req, img->file, at, l1_entries * 8);
	if (!l1)
		return IMG_NEED_METADATA;
	entry = be64_load(l1);
	*out = (struct qcow2_lookup){
		.guest_off = align_down_u64(off, g->cluster_bytes),
		.table_off = entry & QCOW2_OFFSET_MASK,
		.table_copied = entry & QCOW2_COPIED,
	};
	if (entry & QCOW2_L1_RESERVED || !is_aligned_u64(out->table_off, g->cluster_bytes))
		return img_fail(img_req_error(req), -EUCLEAN,
				"%s: L1 table at offset %" PRIu64 ", entry %" PRIu64 " is "
				"0x%" PRIx64 ", expected an offset that is a multiple of %" PRIu64,
				img->name, q->header.l1_off, index, entry, g->cluster_bytes);
	if (!out->table_off) {
		out->n = clusters_without_table(q, l1, l1_entries, off, len);
		return 0;
	}
	first = off % g->l2_span / g->cluster_bytes;
	out->entry_off = out->table_off + first * g->l2_entry_bytes;
	out->n = min_u64((IMG_META_BLOCK - out->entry_off % IMG_META_BLOCK) / g->l2_entry_bytes,
			 g->l2_entries - first);
	out->n = min_u64(out->n, (off + len - 1 - out->guest_off) / g->cluster_bytes + 1);
	out->n = entries_there(img, out->entry_off, out->n, g->l2_entry_bytes);
	out->entries = img_meta_get(req, img->file, out->entry_off, out->n * g->l2_entry_bytes);
	return out->entries ? 0 : IMG_NEED_METADATA;
}

int qcow2_entry_at(struct img *img, const struct qcow2_lookup *l, uint64_t i, struct qcow2_entry *out,
		   struct img_error *err)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	const uint8_t *at = l->entries + i * g->l2_entry_bytes;
	uint64_t guest_off = l->guest_off + i * g->cluster_bytes;
	uint64_t bitmap = g->extended ? be64_load(at + 8) : 0;
	unsigned bad = qcow2_decode_entry(g, be64_load(at), bitmap, out);

	/* QEMU reads compressed clusters without a look at their copied flag. */
	bad &= QCOW2_BAD | QCOW2_ODD_RESERVED;
	if (bad)
		return img_fail(err, -EUCLEAN,
				"%s: L2 table at offset %" PRIu64 ", entry for guest offset "
				"%" PRIu64 " is 0x%" PRIx64 ", which has %s",
				img->name, l->table_off, guest_off, be64_load(at),
				qcow2_defect_text(bad));
	if (g->data_file && qcow2_has_host(out) && out->host_off != guest_off)
		return img_fail(err, -EUCLEAN,
				"%s: L2 table at offset %" PRIu64 ", entry for guest offset "
				"%" PRIu64 ": host offset in the data file is %" PRIu64 ", "
				"expected the guest's",
				img->name, l->table_off, guest_off, out->host_off);
	return 0;
}

enum qcow2_state qcow2_state(const struct qcow2_geometry *g, const struct qcow2_entry *e,
			     unsigned sub)
{
	if (e->kind == QCOW2_COMPRESSED)
		return QCOW2_STATE_COMPRESSED;
	if (g->extended)
		return e->sub_zero >> sub & 1 ? QCOW2_ZEROES : e->sub_alloc >> sub & 1 ? QCOW2_DATA
										       : QCOW2_HOLE;
	return e->kind == QCOW2_NORMAL ? QCOW2_DATA : e->kind == QCOW2_UNALLOCATED ? QCOW2_HOLE
										   : QCOW2_ZEROES;
}

/* How far from off (in the look's first cluster, entry e) it goes on alike, up to len. */
static uint64_t alike(struct img *img, const struct qcow2_lookup *l, const struct qcow2_entry *first,
		      uint64_t off, uint64_t len)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t within = off - l->guest_off;
	enum qcow2_state state = qcow2_state(g, first, (unsigned)(within / g->subcluster_bytes));
	bool host = qcow2_has_host(first) && state != QCOW2_HOLE;
	struct qcow2_entry e = *first;
	uint64_t end = align_down_u64(within, g->subcluster_bytes);

	/* end: from the first cluster's start; always at the start of a subcluster. */
	for (;;) {
		unsigned sub;
		uint64_t i;

		end += g->subcluster_bytes;
		if (end - within >= len)
			return len;
		i = end / g->cluster_bytes;
		if (is_aligned_u64(end, g->cluster_bytes)) {
			if (i >= l->n || qcow2_entry_at(img, l, i, &e, NULL) ||
			    (host && e.host_off != first->host_off + end))
				return end - within;
		}
		sub = (unsigned)(end % g->cluster_bytes / g->subcluster_bytes);
		if (qcow2_state(g, &e, sub) != state ||
		    (qcow2_has_host(&e) && state != QCOW2_HOLE) != host)
			return end - within;
	}
}

int qcow2_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
	      struct img_extent *out)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	struct qcow2_lookup l;
	struct qcow2_entry e;
	uint64_t within;
	int rc = qcow2_check_unlocked(img, req);

	if (!rc)
		rc = qcow2_lookup(img, req, off, len, &l);
	if (rc)
		return rc;
	within = off - l.guest_off;
	if (!l.entries) {
		*out = (struct img_extent){
			.kind = IMG_BACKING,
			.length = min_u64(len, l.n * g->cluster_bytes - within),
		};
		return 0;
	}
	rc = qcow2_entry_at(img, &l, 0, &e, img_req_error(req));
	if (rc)
		return rc;
	*out = (struct img_extent){ 0 };
	switch (qcow2_state(g, &e, (unsigned)(within / g->subcluster_bytes))) {
	case QCOW2_STATE_COMPRESSED:
		out->kind = IMG_COMPRESSED;
		out->length = min_u64(len, g->cluster_bytes - within);
		out->storage = img->file;
		out->file_off = e.host_off;
		out->codec = q->codec;
		out->stored_bytes = e.stored_bytes;
		out->unit_bytes = (uint32_t)g->cluster_bytes;
		out->within = (uint32_t)within;
		return 0;
	case QCOW2_HOLE:
		out->kind = IMG_BACKING;
		break;
	case QCOW2_ZEROES:
		out->kind = IMG_ZERO;
		break;
	case QCOW2_DATA:
		out->kind = IMG_DATA;
		/* While the disk grows: no file has to hold what was past its end until now. */
		out->open_end = off >= align_down_u64(q->header.size, 512);
		break;
	}
	out->length = alike(img, &l, &e, off, len);
	if (out->kind != IMG_BACKING && qcow2_has_host(&e)) {
		out->storage = q->data;
		out->file_off = e.host_off + within;
	}
	if (out->kind == IMG_DATA && q->unlocked.cipher) {
		out->cipher = q->unlocked.cipher;
		out->tweak = qcow2_tweak(q, off, out->file_off);
	}
	return 0;
}
