/*
 * Guest data that lies where a table does, by a damaged entry: what the guest reads there is copied to
 * the end of the file, and the entry named after it. First all is copied, then tables are written: an
 * entry may point at the very table that it is in. Spec: spec/qcow2.md, "Repair".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_check.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	MAX_TABLES = 256 << 20, /* bytes of tables that are changed, in memory at once */
};

/* A table as it will be. */
struct changed {
	uint64_t off;
	uint8_t *bytes;
};

struct mover {
	struct qcow2_scan *s;
	struct changed *tables;
	size_t n, max;
	uint64_t next; /* the next cluster to copy to */
};

static bool lies_in_table(const struct qcow2_scan *s, uint64_t off, uint64_t len)
{
	unsigned bits = s->geometry.cluster_bits;

	if (!range_in(off, len, s->refs.clusters << bits))
		return false;
	for (uint64_t c = off >> bits; c <= (off + len - 1) >> bits; c++)
		if (qcow2_in_table(s, c))
			return true;
	return false;
}

/* Copy the clusters that [off, off + len) touches; *to: where off is now. */
static int copy(struct mover *m, uint64_t off, uint64_t len, uint64_t *to, struct img_error *err)
{
	struct qcow2_scan *s = m->s;
	uint64_t cluster = s->geometry.cluster_bytes, from = align_down_u64(off, cluster);
	uint64_t n = (off + len - 1) / cluster - off / cluster + 1;
	int rc = qcow2_check_space(s, m->next, n, err);

	*to = m->next * cluster + (off - from);
	for (uint64_t i = 0; !rc && i < n; i++) {
		rc = img_storage_read(s->img->file, from + i * cluster, s->block, cluster, err);
		if (!rc)
			rc = img_storage_write(s->img->file, (m->next + i) * cluster, s->block,
					       cluster, err);
	}
	m->next += n;
	return rc;
}

/* An entry of a table; *word, *bitmap: as it will be. */
static int move_entry(struct mover *m, uint64_t *word, uint64_t *bitmap, struct img_error *err)
{
	struct qcow2_scan *s = m->s;
	const struct qcow2_geometry *g = &s->geometry;
	struct qcow2_entry e;
	uint64_t len, to = 0;
	int rc = 0;

	if (qcow2_decode_entry(g, *word, *bitmap, &e) & QCOW2_BAD ||
	    (e.kind != QCOW2_NORMAL && e.kind != QCOW2_ZERO_ALLOC && e.kind != QCOW2_COMPRESSED))
		return 0;
	len = e.kind == QCOW2_COMPRESSED ? e.stored_bytes : g->cluster_bytes;
	if (g->data_file || !lies_in_table(s, e.host_off, len))
		return 0;
	if (e.kind == QCOW2_ZERO_ALLOC) { /* room without data */
		*word = QCOW2_L2_ZERO;
	} else if (e.kind == QCOW2_NORMAL && g->extended && !e.sub_alloc) {
		*word = 0;
	} else if (e.kind == QCOW2_NORMAL && s->header.crypt_method == QCOW2_CRYPT_LUKS) {
		qcow2_scan_report(s,
				  "Guest data at offset 0x%" PRIx64 ", where a table is, stays: elsewhere it "
				  "would decrypt to something else",
				  e.host_off);
		return 0;
	} else {
		rc = copy(m, e.host_off, len, &to, err);
		if (!rc && e.kind == QCOW2_COMPRESSED && !qcow2_compressed_fits(g, to, len))
			rc = img_fail(err, -ENOSPC, "%s: compressed data cannot be moved to %" PRIu64,
				      s->img->name, to);
		if (rc)
			return rc;
		qcow2_scan_report(s,
				  "Repairing guest data at offset 0x%" PRIx64
				  ", where a table is: copied to 0x%" PRIx64,
				  e.host_off, to);
		e.host_off = to;
		e.copied = e.kind == QCOW2_NORMAL;
		qcow2_encode_entry(g, &e, word, bitmap);
		return 0;
	}
	qcow2_scan_report(s, "Repairing room at offset 0x%" PRIx64 ", where a table is: forgotten",
			  e.host_off);
	return 0;
}

/* Keep s->table for later. */
static int keep(struct mover *m, uint64_t off, struct img_error *err)
{
	uint64_t cluster = m->s->geometry.cluster_bytes;

	if (m->n == m->max) {
		size_t max = m->max ? m->max * 2 : 16;
		struct changed *more = realloc(m->tables, max * sizeof(*more));

		if (!more)
			return qcow2_no_memory(m->s->img, err);
		m->tables = more;
		m->max = max;
	}
	if ((m->n + 1) * cluster > MAX_TABLES)
		return img_fail(err, -EFBIG,
				"%s: beyond repair: the data of too many tables lies in tables",
				m->s->img->name);
	m->tables[m->n].bytes = malloc(cluster);
	if (!m->tables[m->n].bytes)
		return qcow2_no_memory(m->s->img, err);
	memcpy(m->tables[m->n].bytes, m->s->table, cluster);
	m->tables[m->n++].off = off;
	return 0;
}

static int move_of(struct mover *m, uint64_t off, struct img_error *err)
{
	struct qcow2_scan *s = m->s;
	const struct qcow2_geometry *g = &s->geometry;
	bool changed = false;
	int rc = img_storage_read(s->img->file, off, s->table, g->cluster_bytes, err);

	for (uint64_t i = 0; !rc && i < g->l2_entries; i++) {
		uint8_t *at = s->table + i * g->l2_entry_bytes;
		uint64_t old = be64_load(at), word = old;
		uint64_t old_bitmap = g->extended ? be64_load(at + 8) : 0, bitmap = old_bitmap;

		rc = word ? move_entry(m, &word, &bitmap, err) : 0;
		if (rc || (word == old && bitmap == old_bitmap))
			continue;
		be64_store(at, word);
		if (g->extended)
			be64_store(at + 8, bitmap);
		changed = true;
	}
	return rc || !changed ? rc : keep(m, off, err);
}

int qcow2_move_data(struct qcow2_scan *s, struct img_error *err)
{
	struct mover m = { .s = s, .next = qcow2_space_at_end(s) };
	int rc = 0;

	for (size_t i = 0; !rc && i < s->nl2; i++)
		if (is_aligned_u64(s->l2[i].off, s->geometry.cluster_bytes))
			rc = move_of(&m, s->l2[i].off, err);
	if (!rc)
		rc = qcow2_sync(s->img, err);
	for (size_t i = 0; !rc && i < m.n; i++)
		rc = img_storage_write(s->img->file, m.tables[i].off, m.tables[i].bytes,
				       s->geometry.cluster_bytes, err);
	for (size_t i = 0; i < m.n; i++)
		free(m.tables[i].bytes);
	free(m.tables);
	return rc ? rc : qcow2_sync(s->img, err);
}
