/*
 * What an image that is going to be written needs in memory: the refcount table, and where metadata
 * lies for good or for now, so that nothing is ever allocated on top of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* ---- Fixed metadata ---- */

static int add_fixed(struct qcow2 *q, size_t *max, uint64_t off, uint64_t len, const char *what)
{
	if (!len)
		return 0;
	if (!q->fixed || q->nfixed == *max) {
		size_t more = *max ? *max * 2 : 16;
		struct qcow2_fixed *fixed = realloc(q->fixed, more * sizeof(*fixed));

		if (!fixed)
			return -ENOMEM;
		q->fixed = fixed;
		*max = more;
	}
	/* Nothing else may lie in the rest of a cluster. */
	len = round_up_u64(len, q->geometry.cluster_bytes);
	q->fixed[q->nfixed++] = (struct qcow2_fixed){ off, len, what };
	return 0;
}

struct fixing {
	struct img *img;
	size_t *max;
	struct img_error *err;
};

static int add_snapshot_l1(void *user, const struct qcow2_snapshot *s)
{
	struct fixing *f = user;
	struct qcow2 *q = f->img->state;
	int rc = qcow2_check_snapshot_l1(&q->geometry, s, f->err);

	if (rc)
		return img_error_prefix(f->err, rc, "%s", f->img->name);
	return add_fixed(q, f->max, s->l1_off, (uint64_t)s->l1_entries * 8,
			 "L1 table of a snapshot");
}

static int by_offset(const void *a, const void *b)
{
	const struct qcow2_fixed *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

/* Read the refcount table to q->reftable. */
static int load_reftable(struct img *img, struct img_error *err)
{
	struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	/* At most 8 MiB, by the header's check. */
	uint64_t bytes = (uint64_t)q->header.reftable_clusters << g->cluster_bits;
	uint8_t *table = malloc(bytes);
	uint64_t *entries = malloc(bytes);
	int rc = 0;

	if (!table || !entries)
		rc = qcow2_no_memory(img, err);
	else
		rc = img_storage_read(img->file, q->header.reftable_off, table, (size_t)bytes, err);
	for (uint64_t i = 0; !rc && i < bytes / 8; i++) {
		entries[i] = be64_load(table + i * 8);
		/* A block past the end of the file would call everything free that it counts. */
		if (!is_aligned_u64(entries[i], g->cluster_bytes) ||
		    (entries[i] && !range_in(entries[i], g->cluster_bytes, img->file->size)))
			rc = img_fail(err, -EUCLEAN,
				      "%s: refcount table at offset %" PRIu64 ", "
				      "entry %" PRIu64 ": "
				      "found 0x%" PRIx64 ", allowed multiples of %" PRIu64 " "
				      "below the file's %" PRIu64 " bytes; a repairing check "
				      "may help",
				      img->name, q->header.reftable_off, i, entries[i],
				      g->cluster_bytes, (uint64_t)img->file->size);
	}
	if (!rc) {
		free(q->reftable);
		q->reftable = entries;
		q->reftable_entries = bytes / 8;
		entries = NULL;
	}
	free(entries);
	free(table);
	return rc;
}

static int by_number(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

int qcow2_list_tables(struct img *img, struct img_error *err)
{
	struct qcow2 *q = img->state;
	/* At most 4 Mi, by the header's check. */
	size_t n = q->header.l1_entries, found = 0;
	uint64_t *tables = calloc(n + 1, sizeof(*tables));
	int rc;

	if (!tables)
		return qcow2_no_memory(img, err);
	rc = img_storage_read(img->file, q->header.l1_off, tables, n * sizeof(*tables), err);
	if (rc) {
		free(tables);
		return rc;
	}
	for (size_t i = 0; i < n; i++) {
		uint64_t off = be64_load((const uint8_t *)&tables[i]) & QCOW2_OFFSET_MASK;

		if (off)
			tables[found++] = off;
	}
	qsort(tables, found, sizeof(*tables), by_number);
	free(q->tables);
	q->tables = tables;
	q->ntables = found;
	q->max_tables = n + 1;
	return 0;
}

static int list_bitmaps(struct img *img, size_t *max, struct img_error *err)
{
	struct qcow2 *q = img->state;
	uint8_t *directory;
	uint64_t at = 0;
	int rc = qcow2_read_bitmap_directory(img, &directory, err);

	if (rc)
		return rc;
	rc = add_fixed(q, max, q->bitmap_directory_off, q->bitmap_directory_bytes,
		       "bitmap directory");
	for (uint32_t i = 0; !rc && i < q->bitmaps; i++) {
		struct qcow2_bitmap b;

		rc = qcow2_parse_bitmap(&q->geometry, directory + at,
					(size_t)(q->bitmap_directory_bytes - at), &b, err);
		if (rc) {
			img_error_prefix(err, rc, "%s: bitmap directory", img->name);
			break;
		}
		rc = add_fixed(q, max, b.table_off, (uint64_t)b.table_entries * 8,
			       "table of a bitmap");
		at += qcow2_bitmap_bytes(directory + at);
	}
	free(directory);
	return rc;
}

int qcow2_load_tables(struct img *img, struct img_error *err)
{
	struct qcow2 *q = img->state;
	const struct qcow2_header *h = &q->header;
	size_t max = 0;
	struct fixing f = { img, &max, err };
	int rc;

	free(q->fixed);
	q->fixed = NULL;
	q->nfixed = 0;
	rc = load_reftable(img, err);
	if (rc)
		return rc;
	rc = add_fixed(q, &max, 0, q->geometry.cluster_bytes, "header");
	if (!rc)
		rc = add_fixed(q, &max, h->l1_off, (uint64_t)h->l1_entries * 8, "L1 table");
	if (!rc)
		rc = add_fixed(q, &max, h->reftable_off, q->reftable_entries * 8, "refcount table");
	if (!rc)
		rc = add_fixed(q, &max, q->crypto_off, q->crypto_bytes, "encryption header");
	for (uint64_t i = 0; !rc && i < q->reftable_entries; i++)
		if (q->reftable[i])
			rc = add_fixed(q, &max, q->reftable[i], q->geometry.cluster_bytes,
				       "refcount block");
	if (!rc && h->snapshots) {
		uint64_t bytes = 0;

		rc = qcow2_each_snapshot(img, add_snapshot_l1, &f, &bytes, err);
		if (!rc)
			rc = add_fixed(q, &max, h->snapshots_off, bytes, "snapshot table");
	}
	if (!rc && q->bitmaps)
		rc = list_bitmaps(img, &max, err);
	if (rc == -ENOMEM)
		return img_fail(err, rc, "%s: out of memory", img->name);
	if (rc)
		return rc;
	if (q->fixed)
		qsort(q->fixed, q->nfixed, sizeof(*q->fixed), by_offset);
	for (size_t i = 1; q->fixed && i < q->nfixed; i++) {
		const struct qcow2_fixed *a = &q->fixed[i - 1], *b = &q->fixed[i];

		if (b->off - a->off < a->len)
			return img_fail(err, -EUCLEAN,
					"%s: the %s at offset %" PRIu64 " runs into the %s at "
					"offset %" PRIu64,
					img->name, a->what, a->off, b->what, b->off);
	}
	return qcow2_list_tables(img, err);
}

int qcow2_counted_past_end(struct img *img, bool *any, struct img_error *err)
{
	struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t first = img->file->size >> g->cluster_bits; /* not wholly in the file */
	uint8_t *block = malloc(g->cluster_bytes);
	int rc = 0;

	*any = false;
	if (!block)
		return qcow2_no_memory(img, err);
	for (uint64_t b = first / g->block_entries; !rc && !*any && b < q->reftable_entries; b++) {
		uint64_t from = b == first / g->block_entries ? first % g->block_entries : 0;

		if (!q->reftable[b])
			continue;
		rc = img_storage_read(img->file, q->reftable[b], block, g->cluster_bytes, err);
		for (uint64_t i = from; !rc && !*any && i < g->block_entries; i++)
			*any = qcow2_refcount_get(block, g->refcount_order, i);
	}
	free(block);
	return rc;
}
