/*
 * Refcounts by blocking I/O, while the image is quiet: for growing and resizing. One block is kept
 * in memory at a time. The refcount table grows here too, so that a power cut at any point leaves
 * the old table or the new one, each with sound blocks: new blocks and tables first, then a
 * barrier, then the entries or the header that make them count.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	GENEROUS_BYTES = 64 << 20, /* of file that new refcount blocks should cover at least, */
	GENEROUS_BLOCKS = 16,	   /* or these many of them */
	MAX_TRIES = 64,		   /* at finding a run, adding blocks after each */
};

int qcow2_sync(struct img *img, struct img_error *err)
{
	return img->unsafe ? 0 : img_storage_sync(img->file, err);
}

int qcow2_write_meta(struct img *img, uint64_t off, const void *bytes, size_t len,
		     struct img_error *err)
{
	int rc = img_storage_write(img->file, off, bytes, len, err);

	img_meta_forget(img, img->file, off, len);
	return rc;
}

int qcow2_refcounts_flush(struct qcow2_refcounts *r, struct img_error *err)
{
	const struct qcow2 *q = r->img->state;
	int rc;

	if (!r->dirty)
		return 0;
	rc = qcow2_write_meta(r->img, q->refcount_table[r->block], r->bytes,
			      (size_t)q->geometry.cluster_bytes, err);
	if (!rc)
		r->dirty = false;
	return rc;
}

void qcow2_refcounts_end(struct qcow2_refcounts *r)
{
	free(r->bytes);
	*r = (struct qcow2_refcounts){ .img = r->img };
}

static bool has_block(const struct qcow2 *q, uint64_t block)
{
	return block < q->refcount_table_entries && q->refcount_table[block];
}

/* Have a block that exists in r->bytes. */
static int load(struct qcow2_refcounts *r, uint64_t block, struct img_error *err)
{
	const struct qcow2 *q = r->img->state;
	int rc;

	if (r->loaded && r->block == block)
		return 0;
	rc = qcow2_refcounts_flush(r, err);
	if (rc)
		return rc;
	if (!r->bytes)
		r->bytes = malloc(q->geometry.cluster_bytes);
	if (!r->bytes)
		return qcow2_no_memory(r->img, err);
	r->loaded = false;
	rc = img_storage_read(r->img->file, q->refcount_table[block], r->bytes,
			      (size_t)q->geometry.cluster_bytes, err);
	if (rc)
		return rc;
	r->block = block;
	r->loaded = true;
	return 0;
}

int qcow2_refcounts_get(struct qcow2_refcounts *r, uint64_t cluster, uint64_t *count, struct img_error *err)
{
	const struct qcow2 *q = r->img->state;
	const struct qcow2_geometry *g = &q->geometry;
	int rc;

	if (!has_block(q, cluster / g->block_entries)) {
		*count = 0;
		return 0;
	}
	rc = load(r, cluster / g->block_entries, err);
	if (!rc)
		*count = qcow2_refcount_get(r->bytes, g->refcount_order,
					    cluster % g->block_entries);
	return rc;
}

int qcow2_refcounts_set(struct qcow2_refcounts *r, uint64_t first, uint64_t n, uint64_t count,
			struct img_error *err)
{
	const struct qcow2 *q = r->img->state;
	const struct qcow2_geometry *g = &q->geometry;

	for (uint64_t c = first; c < first + n; c++) {
		int rc;

		if (!has_block(q, c / g->block_entries))
			return img_fail(err, -EIO, "%s: cluster %" PRIu64 " has no refcount block",
					r->img->name, c);
		rc = load(r, c / g->block_entries, err);
		if (rc)
			return rc;
		qcow2_refcount_set(r->bytes, g->refcount_order, c % g->block_entries, count);
		r->dirty = true;
	}
	return 0;
}

int qcow2_refcounts_unuse(struct qcow2_refcounts *r, uint64_t off, uint64_t len, struct img_error *err)
{
	struct qcow2 *q = r->img->state;
	uint64_t cluster_bytes = q->geometry.cluster_bytes;

	for (uint64_t c = off / cluster_bytes; c <= (off + len - 1) / cluster_bytes; c++) {
		uint64_t count = 0;
		int rc = qcow2_refcounts_get(r, c, &count, err);

		if (!rc && count)
			rc = qcow2_refcounts_set(r, c, 1, count - 1, err);
		if (rc)
			return rc;
		if (count > 1)
			continue;
		q->next_free = min_u64(q->next_free, c);
		if (q->compressed_end && q->compressed_end / cluster_bytes == c)
			q->compressed_end = 0;
	}
	return 0;
}

/* ---- New refcount blocks ---- */

/* How many blocks from index block on are missing; past the table's end there is no limit. */
static uint64_t missing_blocks(const struct qcow2 *q, uint64_t block)
{
	uint64_t n = 0;

	while (block + n < q->refcount_table_entries && !q->refcount_table[block + n])
		n++;
	return block + n < q->refcount_table_entries ? n : UINT64_MAX;
}

/* What add_blocks() has decided: everything lies from cluster first on, blocks before the table. */
struct addition {
	uint64_t block, blocks; /* indexes in the table */
	uint64_t first;
	uint64_t table_clusters; /* of a bigger table; 0: the present one will do */
};

/* Blocks that the guest's size may need in all, were every cluster of it allocated once. */
static uint64_t blocks_for_guest(const struct qcow2 *q)
{
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t clusters = g->data_file ? 0 : q->header.size / g->cluster_bytes;

	clusters += q->header.size / g->l2_span + 64;
	return clusters / g->block_entries + clusters / g->block_entries / g->block_entries + 1;
}

static int decide_addition(const struct qcow2 *q, uint64_t block, uint64_t want, struct addition *a)
{
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t missing = missing_blocks(q, block);
	uint64_t generous = max_u64(GENEROUS_BLOCKS,
				    GENEROUS_BYTES / (g->block_entries * g->cluster_bytes));
	uint64_t useful = blocks_for_guest(q), entries = q->refcount_table_entries;

	useful = useful > block ? useful - block : 1;
	*a = (struct addition){ .block = block, .first = block * g->block_entries };
	for (unsigned round = 0; round < 8; round++) {
		/* Blocks for what is wanted, for themselves and for the table. */
		uint64_t least = div_round_up_u64(want + a->table_clusters, g->block_entries - 1);
		uint64_t bytes;

		a->blocks = min_u64(missing, max_u64(least, min_u64(generous, useful)));
		if (block < entries && a->blocks > entries - block && least <= entries - block)
			a->blocks = entries - block;
		if (block + a->blocks <= entries)
			return 0;
		if (block + a->blocks > QCOW2_MAX_REFTABLE_BYTES / 8)
			return -EFBIG;
		bytes = min_u64(max_u64(block + a->blocks, entries + entries / 2) * 8,
				QCOW2_MAX_REFTABLE_BYTES);
		if (div_round_up_u64(bytes, g->cluster_bytes) <= a->table_clusters)
			return 0;
		a->table_clusters = div_round_up_u64(bytes, g->cluster_bytes);
	}
	return -EFBIG;
}

/* Write the new blocks; each counts what of the addition lies in its range. */
static int write_blocks(struct img *img, const struct addition *a, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t end = a->first + a->blocks + a->table_clusters;
	uint8_t *bytes = malloc(g->cluster_bytes);
	int rc = bytes ? 0 : qcow2_no_memory(img, err);

	for (uint64_t i = 0; !rc && i < a->blocks; i++) {
		uint64_t base = (a->block + i) * g->block_entries;

		memset(bytes, 0, g->cluster_bytes);
		for (uint64_t c = base; c < base + g->block_entries && c < end; c++)
			qcow2_refcount_set(bytes, g->refcount_order, c - base, 1);
		rc = qcow2_write_meta(img, (a->first + i) * g->cluster_bytes, bytes,
				      (size_t)g->cluster_bytes, err);
	}
	free(bytes);
	return rc;
}

/* Put the new blocks into the table that is there, none before the block that counts it. */
static int link_blocks(struct img *img, const struct addition *a, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint8_t *entries = malloc(a->blocks * 8);
	uint64_t done = 0, next = 1;
	int rc = 0;

	if (!entries)
		return qcow2_no_memory(img, err);
	for (uint64_t i = 0; i < a->blocks; i++)
		be64_store(entries + i * 8, (a->first + i) * g->cluster_bytes);
	while (!rc && done < a->blocks) {
		next = min_u64(next, a->blocks);
		rc = qcow2_write_meta(img, q->header.refcount_table_off + (a->block + done) * 8,
				      entries + done * 8, (size_t)(next - done) * 8, err);
		if (!rc)
			rc = qcow2_sync(img, err);
		done = next;
		next = done * g->block_entries;
	}
	free(entries);
	return rc;
}

/* Write a bigger table that has the new blocks too, and let the header name it. */
static int switch_table(struct img *img, const struct addition *a, struct img_error *err)
{
	struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t off = (a->first + a->blocks) * g->cluster_bytes;
	size_t bytes = (size_t)(a->table_clusters * g->cluster_bytes);
	uint8_t *table = calloc(1, bytes), header[12];
	int rc;

	if (!table)
		return qcow2_no_memory(img, err);
	for (uint64_t i = 0; i < q->refcount_table_entries; i++)
		be64_store(table + i * 8, q->refcount_table[i]);
	for (uint64_t i = 0; i < a->blocks; i++)
		be64_store(table + (a->block + i) * 8, (a->first + i) * g->cluster_bytes);
	rc = qcow2_write_meta(img, off, table, bytes, err);
	free(table);
	if (!rc)
		rc = qcow2_sync(img, err);
	if (rc)
		return rc;
	be64_store(header, off);
	be32_store(header + 8, (uint32_t)a->table_clusters);
	rc = qcow2_write_meta(img, QCOW2_OFF_REFTABLE_OFF, header, sizeof(header), err);
	if (!rc)
		rc = qcow2_sync(img, err);
	if (rc)
		return rc;
	q->header.refcount_table_off = off;
	q->header.refcount_table_clusters = (uint32_t)a->table_clusters;
	return 0;
}

/*
 * Add refcount blocks from a missing one on, for want clusters in a row and some more. They lie at
 * the start of what the first of them counts: nothing is in use there.
 */
static int add_blocks(struct qcow2_refcounts *r, uint64_t block, uint64_t want, struct img_error *err)
{
	struct img *img = r->img;
	struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t old_off = q->header.refcount_table_off, old_bytes = q->refcount_table_entries * 8;
	const char *hit;
	struct addition a;
	uint64_t off, bytes;
	int rc = decide_addition(q, block, want, &a);

	if (rc)
		return img_fail(err, rc, "%s: the refcount table would need %" PRIu64 " entries, "
					 "expected at most %d",
				img->name, block + a.blocks, QCOW2_MAX_REFTABLE_BYTES / 8);
	off = a.first * g->cluster_bytes;
	bytes = (a.blocks + a.table_clusters) * g->cluster_bytes;
	if (off + bytes > QCOW2_OFFSET_MASK)
		return img_fail(err, -EFBIG,
				"%s: refcount blocks would lie at offset %" PRIu64 ", expected "
				"below 2^56",
				img->name, off);
	if (img->file->device && off + bytes > img->file->size)
		return img_fail(err, -ENOSPC, "%s: the device is full", img->name);
	hit = img_range_map_at(&q->metadata, off, bytes);
	if (hit)
		return img_fail(err, -EUCLEAN,
				"%s: the clusters from offset %" PRIu64 " on have no refcount "
				"block, but the %s lies there",
				img->name, off, hit);
	rc = qcow2_refcounts_flush(r, err);
	if (!rc)
		rc = write_blocks(img, &a, err);
	if (!rc)
		rc = qcow2_sync(img, err);
	if (!rc)
		rc = a.table_clusters ? switch_table(img, &a, err) : link_blocks(img, &a, err);
	if (rc)
		return rc;
	r->loaded = false;
	rc = qcow2_load_tables(img, err);
	/* The old table is not named any more. */
	if (!rc && a.table_clusters)
		rc = qcow2_refcounts_unuse(r, old_off, old_bytes, err);
	return rc;
}

/* ---- Taking ---- */

/*
 * The first n clusters in a row that are not in use. *missing: a block without which they cannot be
 * counted; UINT64_MAX: none.
 */
static int find_run(struct qcow2_refcounts *r, uint64_t n, uint64_t *first, uint64_t *missing,
		    struct img_error *err)
{
	const struct qcow2 *q = r->img->state;
	uint64_t entries = q->geometry.block_entries, run = 0, c = q->next_free;

	*missing = UINT64_MAX;
	while (run < n) {
		uint64_t count, step = 1;
		int rc;

		if (!has_block(q, c / entries)) {
			step = min_u64(n - run, entries - c % entries);
			if (*missing == UINT64_MAX)
				*missing = c / entries;
			count = 0;
		} else {
			rc = qcow2_refcounts_get(r, c, &count, err);
			if (rc)
				return rc;
		}
		run = count ? 0 : run + step;
		if (count)
			*missing = UINT64_MAX;
		c += step;
	}
	*first = c - n;
	return 0;
}

/* Find a run that can be counted. */
static int find_covered(struct qcow2_refcounts *r, uint64_t n, uint64_t *first, struct img_error *err)
{
	struct img *img = r->img;
	struct qcow2 *q = img->state;
	uint64_t missing, cluster_bytes = q->geometry.cluster_bytes;
	const char *hit;

	for (unsigned tries = 0; tries < MAX_TRIES; tries++) {
		int rc = find_run(r, n, first, &missing, err);

		if (!rc && missing != UINT64_MAX) {
			rc = add_blocks(r, missing, n, err);
			if (!rc)
				continue;
		}
		if (rc)
			return rc;
		if (img->file->device && (*first + n) * cluster_bytes > img->file->size)
			return img_fail(err, -ENOSPC, "%s: the device is full", img->name);
		hit = img_range_map_at(&q->metadata, *first * cluster_bytes, n * cluster_bytes);
		if (hit)
			return img_fail(err, -EUCLEAN,
					"%s: refcounts of the %" PRIu64 " clusters from offset "
					"%" PRIu64 " on are 0, but the %s lies there",
					img->name, n, *first * cluster_bytes, hit);
		return 0;
	}
	return img_fail(err, -ENOSPC, "%s: no %" PRIu64 " free clusters in a row", img->name, n);
}

int qcow2_refcounts_alloc(struct qcow2_refcounts *r, uint64_t n, uint64_t *first, struct img_error *err)
{
	struct qcow2 *q = r->img->state;
	uint64_t found;
	int rc = find_covered(r, n, &found, err);

	if (!rc)
		rc = qcow2_refcounts_set(r, found, n, 1, err);
	if (rc)
		return rc;
	if (q->next_free == found)
		q->next_free = found + n;
	*first = found;
	return 0;
}

int qcow2_refcounts_make_room(struct qcow2_refcounts *r, struct img_error *err)
{
	uint64_t first;

	return find_covered(r, 1, &first, err);
}
