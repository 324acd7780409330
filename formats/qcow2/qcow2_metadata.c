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

static int add_fixed(struct img *img, uint64_t off, uint64_t len, const char *name,
		     struct img_error *err)
{
	struct qcow2 *q = img->state;
	int rc = 0;

	/* Nothing else may lie in the rest of a cluster. */
	if (len)
		rc = img_range_map_add(&q->metadata, off,
				       round_up_u64(len, q->geometry.cluster_bytes), name);
	if (rc == -EOVERFLOW)
		return img_fail(err, -EUCLEAN, "%s: the %s at offset %" PRIu64 " is past any file",
				img->name, name, off);
	return rc ? qcow2_no_memory(img, err) : 0;
}

struct snapshot_tables {
	struct img *img;
	struct img_error *err;
};

static int add_snapshot_l1(void *user, const struct qcow2_snapshot *s)
{
	struct snapshot_tables *t = user;
	struct qcow2 *q = t->img->state;
	int rc = qcow2_check_snapshot_l1(&q->geometry, s, t->err);

	if (rc)
		return img_error_prefix(t->err, rc, "%s", t->img->name);
	return add_fixed(t->img, s->l1_off, (uint64_t)s->l1_entries * 8, "L1 table of a snapshot",
			 t->err);
}

/* Read the refcount table to q->refcount_table. */
static int load_refcount_table(struct img *img, struct img_error *err)
{
	struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	/* At most 8 MiB, by the header's check. */
	uint64_t bytes = (uint64_t)q->header.refcount_table_clusters << g->cluster_bits;
	uint8_t *table = malloc(bytes);
	uint64_t *entries = malloc(bytes);
	int rc = 0;

	if (!table || !entries)
		rc = qcow2_no_memory(img, err);
	else
		rc = img_storage_read(img->file, q->header.refcount_table_off, table, (size_t)bytes,
				      err);
	for (uint64_t i = 0; !rc && i < bytes / 8; i++) {
		entries[i] = be64_load(table + i * 8);
		/* A block past the end of the file would call everything free that it counts. */
		if (!is_aligned_u64(entries[i], g->cluster_bytes) ||
		    (entries[i] && !range_in(entries[i], g->cluster_bytes, img->file->size)))
			rc = img_fail(err, -EUCLEAN,
				      "%s: refcount table at offset %" PRIu64 ", entry %" PRIu64 " "
				      "is 0x%" PRIx64 ", expected a multiple of %" PRIu64 " below "
				      "the file's %" PRIu64 " bytes; a repairing check may help",
				      img->name, q->header.refcount_table_off, i, entries[i],
				      g->cluster_bytes, (uint64_t)img->file->size);
	}
	if (!rc) {
		free(q->refcount_table);
		q->refcount_table = entries;
		q->refcount_table_entries = bytes / 8;
		entries = NULL;
	}
	free(entries);
	free(table);
	return rc;
}

int qcow2_list_tables(struct img *img, struct img_error *err)
{
	struct qcow2 *q = img->state;
	/* At most 4 Mi, by the header's check. */
	size_t n = q->header.l1_entries;
	uint64_t *entries = calloc(n + 1, sizeof(*entries));
	int rc;

	if (!entries)
		return qcow2_no_memory(img, err);
	rc = img_storage_read(img->file, q->header.l1_off, entries, n * sizeof(*entries), err);
	if (rc) {
		free(entries);
		return rc;
	}
	img_range_map_clear_blocks(&q->metadata);
	q->metadata.block_bytes = q->geometry.cluster_bytes;
	q->metadata.block_name = "L2 table";
	for (size_t i = 0; !rc && i < n; i++) {
		uint64_t off = be64_load((const uint8_t *)&entries[i]) & QCOW2_OFFSET_MASK;

		if (off)
			rc = img_range_map_add_block(&q->metadata, off);
	}
	free(entries);
	img_range_map_sort(&q->metadata);
	return rc ? qcow2_no_memory(img, err) : 0;
}

static int list_bitmaps(struct img *img, struct img_error *err)
{
	struct qcow2 *q = img->state;
	uint8_t *directory;
	uint64_t at = 0;
	int rc = qcow2_read_bitmap_directory(img, &directory, err);

	if (rc)
		return rc;
	rc = add_fixed(img, q->bitmap_directory_off, q->bitmap_directory_bytes, "bitmap directory",
		       err);
	for (uint32_t i = 0; !rc && i < q->bitmaps; i++) {
		struct qcow2_bitmap b;

		rc = qcow2_parse_bitmap(&q->geometry, directory + at,
					(size_t)(q->bitmap_directory_bytes - at), &b, err);
		if (rc) {
			img_error_prefix(err, rc, "%s: bitmap directory", img->name);
			break;
		}
		rc = add_fixed(img, b.table_off, (uint64_t)b.table_entries * 8, "table of a bitmap",
			       err);
		at += qcow2_bitmap_bytes(directory + at);
	}
	free(directory);
	return rc;
}

int qcow2_load_tables(struct img *img, struct img_error *err)
{
	struct qcow2 *q = img->state;
	const struct qcow2_header *h = &q->header;
	struct snapshot_tables snapshots = { img, err };
	struct img_range overlap[2];
	int rc;

	img_range_map_clear_ranges(&q->metadata);
	rc = load_refcount_table(img, err);
	if (rc)
		return rc;
	rc = add_fixed(img, 0, q->geometry.cluster_bytes, "header", err);
	if (!rc)
		rc = add_fixed(img, h->l1_off, (uint64_t)h->l1_entries * 8, "L1 table", err);
	if (!rc)
		rc = add_fixed(img, h->refcount_table_off, q->refcount_table_entries * 8, "refcount table", err);
	if (!rc)
		rc = add_fixed(img, q->crypto_off, q->crypto_bytes, "encryption header", err);
	for (uint64_t i = 0; !rc && i < q->refcount_table_entries; i++)
		if (q->refcount_table[i])
			rc = add_fixed(img, q->refcount_table[i], q->geometry.cluster_bytes,
				       "refcount block", err);
	if (!rc && h->snapshots) {
		uint64_t bytes = 0;

		rc = qcow2_each_snapshot(img, add_snapshot_l1, &snapshots, &bytes, err);
		if (!rc)
			rc = add_fixed(img, h->snapshots_off, bytes, "snapshot table", err);
	}
	if (!rc && q->bitmaps)
		rc = list_bitmaps(img, err);
	img_range_map_sort(&q->metadata);
	if (rc)
		return rc;
	if (img_range_map_overlap(&q->metadata, overlap))
		return img_fail(err, -EUCLEAN,
				"%s: the %s at offset %" PRIu64 " runs into the %s at offset "
				"%" PRIu64,
				img->name, overlap[0].name, overlap[0].off, overlap[1].name,
				overlap[1].off);
	return qcow2_list_tables(img, err);
}

void qcow2_free_tables(struct qcow2 *q)
{
	free(q->refcount_table);
	q->refcount_table = NULL;
	q->refcount_table_entries = 0;
	img_range_map_free(&q->metadata);
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
	for (uint64_t b = first / g->block_entries; !rc && !*any && b < q->refcount_table_entries; b++) {
		uint64_t from = b == first / g->block_entries ? first % g->block_entries : 0;

		if (!q->refcount_table[b])
			continue;
		rc = img_storage_read(img->file, q->refcount_table[b], block, g->cluster_bytes,
				      err);
		for (uint64_t i = from; !rc && !*any && i < g->block_entries; i++)
			*any = qcow2_refcount_get(block, g->refcount_order, i);
	}
	free(block);
	return rc;
}
