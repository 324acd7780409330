/*
 * The entries of an L2 table in a check: each is decoded, what it names is counted, and what is wrong
 * with it said; which repairs do not change what the guest sees is decided here, too.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "formats/qcow2/qcow2_check.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

bool qcow2_repaired_entry(const struct qcow2_scan *s, uint64_t *word, uint64_t *bitmap)
{
	const struct qcow2_geometry *g = &s->geometry;
	uint64_t old_word = *word, old_bitmap = *bitmap;
	struct qcow2_entry e;
	unsigned bad = qcow2_decode_entry(g, *word, *bitmap, &e);

	if (bad & QCOW2_ODD_COMPRESSED_COPIED)
		*word &= ~QCOW2_COPIED;
	if (bad & QCOW2_BAD_COMPRESSED_BITMAP)
		*bitmap = 0; /* it says nothing there */
	if (bad & QCOW2_ODD_RESERVED)
		*word &= ~(QCOW2_L2_RESERVED | (g->extended ? QCOW2_L2_ZERO : 0));
	if (e.kind != QCOW2_ZERO_ALLOC && e.kind != QCOW2_NORMAL)
		return *word != old_word || *bitmap != old_bitmap;
	/* Room set aside without data in it can be forgotten: the guest sees the same. */
	if (bad & QCOW2_BAD_UNALIGNED &&
	    (e.kind == QCOW2_ZERO_ALLOC || (g->extended && !e.sub_alloc)))
		*word = g->extended ? 0 : QCOW2_L2_ZERO;
	/*
	 * Past the end of the file room without data can be forgotten, too. Data is lost there; to make
	 * zeroes of it is for the user to say. Version 2 has no zeroes that would hide a backing file.
	 */
	if (!bad && !g->data_file && qcow2_beyond_end(s, e.host_off, g->cluster_bytes) &&
	    (e.kind == QCOW2_ZERO_ALLOC || (g->extended && !e.sub_alloc) ||
	     qcow2_scan_repairs(s, IMG_REPAIR_LOSS))) {
		if (g->extended) {
			*word = 0;
			*bitmap = (uint64_t)(e.sub_zero | e.sub_alloc) << 32;
		} else if (g->version >= 3) {
			*word = QCOW2_L2_ZERO;
		} else if (!s->header.backing_off) {
			*word = 0;
		}
	}
	return *word != old_word || *bitmap != old_bitmap;
}

/* Does what the file has of a stream give a whole cluster? */
static bool is_whole(const struct qcow2_scan *s, uint64_t off)
{
	const struct qcow2 *q = s->img->state;
	uint64_t len = s->file_bytes - off, cluster = s->geometry.cluster_bytes;
	uint8_t *stored = malloc(len), *out = malloc(cluster);
	bool whole = stored && out && !img_storage_read(s->img->file, off, stored, len, NULL) &&
		     !q->codec->decode(stored, len, out, cluster, NULL);

	free(stored);
	free(out);
	return whole;
}

/* Is a stream incomplete? In its last sector it may end anywhere, and the file with it. */
static bool is_cut(struct qcow2_scan *s, const struct qcow2_entry *e)
{
	uint64_t end = e->host_off + e->stored_bytes;
	struct qcow2_tail *t;

	if (end <= s->file_bytes)
		return false;
	if (s->file_bytes <= end - 512 || e->host_off >= s->file_bytes)
		return true;
	for (size_t i = 0; i < s->ntails; i++)
		if (s->tails[i].off == e->host_off)
			return s->tails[i].cut;
	if (s->ntails == IMG_ARRAY_LEN(s->tails))
		return true;
	t = &s->tails[s->ntails++];
	*t = (struct qcow2_tail){ e->host_off, !is_whole(s, e->host_off) };
	return t->cut;
}

static int visit_compressed(struct qcow2_scan *s, const struct qcow2_scan_l2 *l2, uint64_t i,
			    uint64_t word, const struct qcow2_entry *e, unsigned bad,
			    struct img_error *err)
{
	if (bad & QCOW2_ODD_COMPRESSED_COPIED) {
		s->corruptions += l2->uses;
		qcow2_scan_report(s,
				  "%s: coffset=0x%" PRIx64
				  ": copied flag must never be set for compressed clusters",
				  qcow2_scan_verb(s), e->host_off);
	}
	if (bad & QCOW2_BAD_COMPRESSED_DATA_FILE) {
		s->corruptions += l2->uses;
		qcow2_scan_report(s,
				  "ERROR compressed cluster %" PRIu64
				  " with data file, entry=0x%" PRIx64,
				  i, word);
		return 0;
	}
	if (bad & QCOW2_BAD_COMPRESSED_BITMAP) {
		s->corruptions += l2->uses;
		s->lost = true;
		qcow2_scan_report(s,
				  "%s compressed cluster %" PRIu64
				  " with non-zero subcluster allocation bitmap, "
				  "entry=0x%" PRIx64,
				  qcow2_scan_verb(s), i, word);
		return 0;
	}
	s->allocated += l2->active;
	s->compressed += l2->active;
	s->fragmented += l2->active; /* by nature */
	qcow2_scan_check_apart(s, e->host_off, e->stored_bytes);
	if (is_cut(s, e))
		qcow2_scan_need(s, e->host_off, e->stored_bytes, e->stored_bytes, "compressed data");
	return qcow2_scan_count(s, e->host_off, e->stored_bytes, l2->uses, NULL, err);
}

/* The bytes of cluster i of a table that have to be there. */
static uint64_t data_bytes(const struct qcow2_scan *s, const struct qcow2_scan_l2 *l2, uint64_t i,
			   const struct qcow2_entry *e)
{
	const struct qcow2_geometry *g = &s->geometry;
	uint64_t before = i * g->cluster_bytes;
	uint64_t len = g->cluster_bytes;

	if (e->kind == QCOW2_ZERO_ALLOC || (g->extended && !e->sub_alloc) || before >= l2->bytes)
		return 0;
	if (g->extended)
		len = (uint64_t)(32 - __builtin_clz(e->sub_alloc)) * g->subcluster_bytes;
	return min_u64(len, l2->bytes - before);
}

static void need_in_data_file(struct qcow2_scan *s, const struct qcow2_entry *e, uint64_t guest,
			      uint64_t len)
{
	const struct qcow2 *q = s->img->state;

	if (e->host_off != guest) {
		s->corruptions++;
		qcow2_scan_report(s,
				  "ERROR data of guest offset 0x%" PRIx64 " is at 0x%" PRIx64 " of "
				  "the data file, expected at the guest's offset",
				  guest, e->host_off);
		return;
	}
	if (!len || !q->data_file || range_in(e->host_off, len, q->data_file->size))
		return;
	s->lost_data++;
	s->corruptions++;
	s->data_end = max_u64(s->data_end, e->host_off + len);
	qcow2_scan_report(s,
			  "ERROR data at offset 0x%" PRIx64 " size 0x%" PRIx64
			  " lies past the end of the data file at 0x%" PRIx64,
			  e->host_off, len, (uint64_t)q->data_file->size);
}

/* *next: where the next cluster would lie if it followed the last; 0: none yet. */
static int visit_allocated(struct qcow2_scan *s, const struct qcow2_scan_l2 *l2, uint64_t i,
			   const struct qcow2_entry *e, unsigned bad, bool repaired, uint64_t *next,
			   struct img_error *err)
{
	if (bad & QCOW2_BAD_SUBCLUSTERS) {
		s->corruptions += l2->uses;
		qcow2_scan_report(s,
				  "ERROR offset=%" PRIx64
				  ": Allocated cluster has corrupted subcluster allocation "
				  "bitmap",
				  e->host_off);
	}
	if (bad & QCOW2_BAD_UNALIGNED) {
		bool preallocated = e->kind == QCOW2_ZERO_ALLOC ||
				    (s->geometry.extended && !e->sub_alloc);

		s->corruptions += l2->uses;
		qcow2_scan_report(s,
				  "%s offset=%" PRIx64
				  ": %s cluster is not properly aligned; L2 entry corrupted.",
				  repaired ? qcow2_scan_verb(s) : "ERROR", e->host_off,
				  preallocated ? "Preallocated" : "Data");
	}
	s->allocated += l2->active;
	if (*next && e->host_off != *next)
		s->fragmented += l2->active;
	*next = e->host_off + s->geometry.cluster_bytes;
	if (s->geometry.data_file) {
		need_in_data_file(s, e, l2->guest + i * s->geometry.cluster_bytes,
				  data_bytes(s, l2, i, e));
		return 0;
	}
	qcow2_scan_check_apart(s, e->host_off, s->geometry.cluster_bytes);
	qcow2_scan_need(s, e->host_off, data_bytes(s, l2, i, e), s->geometry.cluster_bytes, "data cluster");
	return qcow2_scan_count(s, e->host_off, s->geometry.cluster_bytes, l2->uses, NULL, err);
}

static int visit_entry(struct qcow2_scan *s, const struct qcow2_scan_l2 *l2, uint64_t i,
		       uint64_t word, uint64_t bitmap, uint64_t *next, struct img_error *err)
{
	struct qcow2_entry e;
	unsigned bad = qcow2_decode_entry(&s->geometry, word, bitmap, &e);
	uint64_t new_word = word, new_bitmap = bitmap;
	bool repaired = qcow2_repaired_entry(s, &new_word, &new_bitmap);

	s->bad_entries |= repaired;
	if (bad & QCOW2_ODD_RESERVED) {
		s->corruptions += l2->uses;
		qcow2_scan_report(s, "ERROR found l2 entry with reserved bits set: %" PRIx64, word);
	}
	if (bad & QCOW2_BAD_V2_ZERO) {
		s->corruptions += l2->uses;
		qcow2_scan_report(
			s,
			"ERROR found l2 entry with the zero flag in version 2: %" PRIx64,
			word);
	}
	switch (e.kind) {
	case QCOW2_COMPRESSED:
		return visit_compressed(s, l2, i, word, &e, bad, err);
	case QCOW2_ZERO_ALLOC:
	case QCOW2_NORMAL:
		return visit_allocated(s, l2, i, &e, bad, repaired, next, err);
	case QCOW2_ZERO_PLAIN:
		return 0;
	case QCOW2_UNALLOCATED:
		if (bad & QCOW2_BAD_UNBACKED) {
			s->corruptions += l2->uses;
			qcow2_scan_report(s, "ERROR: Unallocated cluster has non-zero subcluster "
					     "allocation map");
		}
		return 0;
	}
	return 0;
}

int qcow2_scan_l2_table(struct qcow2_scan *s, const struct qcow2_scan_l2 *l2, struct img_error *err)
{
	const struct qcow2_geometry *g = &s->geometry;
	uint64_t next = 0;

	if (!qcow2_scan_read(s, l2->off, s->table, g->cluster_bytes, "L2 table"))
		return 0;
	for (uint64_t i = 0; i < g->l2_entries; i++) {
		const uint8_t *at = s->table + i * g->l2_entry_bytes;
		uint64_t word = be64_load(at), bitmap = g->extended ? be64_load(at + 8) : 0;
		int rc = word || bitmap ? visit_entry(s, l2, i, word, bitmap, &next, err) : 0;

		if (rc)
			return rc;
	}
	return 0;
}
