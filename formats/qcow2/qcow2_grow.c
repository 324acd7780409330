/*
 * What needs the image quiet: growing what a write lacks (refcount blocks, an L2 table of its own),
 * and growing the disk. Blocking I/O; each step leaves the file sound at every point: what is new
 * is on disk and counted before anything names it, and is freed after nothing does.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum { TABLES_AT_ONCE = 64 }; /* shared L2 tables that one grow() copies */

/* Flush refcounts and have everything so far durable. */
static int barrier(struct qcow2_refcounts *r, struct img_error *err)
{
	int rc = qcow2_refcounts_flush(r, err);

	return rc ? rc : qcow2_sync(r->img, err);
}

int qcow2_read_l1(struct img *img, uint64_t first, uint64_t n, uint64_t *out,
		  struct img_error *err)
{
	const struct qcow2 *q = img->state;
	int rc = img_storage_read(img->file, q->header.l1_off + first * 8, out, (size_t)n * 8, err);

	for (uint64_t i = 0; !rc && i < n; i++) {
		uint64_t entry = be64_load((uint8_t *)&out[i]);
		const struct img_range *hit;

		out[i] = entry;
		if (entry & QCOW2_L1_RESERVED ||
		    !is_aligned_u64(entry & QCOW2_OFFSET_MASK, q->geometry.cluster_bytes))
			return img_fail(err, -EUCLEAN,
					"%s: L1 table at offset %" PRIu64 ", entry %" PRIu64 " is "
					"0x%" PRIx64 ", expected an offset that is a multiple of "
					"%" PRIu64,
					img->name, q->header.l1_off, first + i, entry,
					q->geometry.cluster_bytes);
		hit = entry ? img_range_map_range_at(&q->metadata, entry & QCOW2_OFFSET_MASK,
						     q->geometry.cluster_bytes)
			    : NULL;
		if (hit)
			return img_fail(err, -EUCLEAN,
					"%s: L1 table at offset %" PRIu64 ", entry %" PRIu64 ": "
					"the L2 table at offset %" PRIu64 " overlaps the %s",
					img->name, q->header.l1_off, first + i,
					entry & QCOW2_OFFSET_MASK, hit->name);
	}
	return rc;
}

static int write_l1(struct img *img, uint64_t first, uint64_t n, const uint64_t *entries,
		    struct img_error *err)
{
	const struct qcow2 *q = img->state;
	uint8_t *bytes = malloc(n * 8);
	int rc;

	if (!bytes)
		return qcow2_no_memory(img, err);
	for (uint64_t i = 0; i < n; i++)
		be64_store(bytes + i * 8, entries[i]);
	rc = qcow2_write_meta(img, q->header.l1_off + first * 8, bytes, (size_t)n * 8, err);
	free(bytes);
	return rc;
}

int qcow2_own_tables(struct qcow2_refcounts *r, uint64_t first, uint64_t n, struct img_error *err)
{
	struct img *img = r->img;
	const struct qcow2 *q = img->state;
	uint64_t cluster_bytes = q->geometry.cluster_bytes, copied = 0, fresh;
	uint64_t *old = calloc(n, 8), *now = calloc(n, 8);
	uint8_t *table = malloc(cluster_bytes);
	int rc = old && now && table ? 0 : qcow2_no_memory(img, err);

	if (!rc)
		rc = qcow2_read_l1(img, first, n, old, err);
	for (uint64_t i = 0; !rc && i < n; i++) {
		now[i] = old[i];
		if (!old[i] || old[i] & QCOW2_COPIED)
			continue;
		rc = qcow2_refcounts_alloc(r, 1, &fresh, err);
		if (!rc)
			rc = img_storage_read(img->file, old[i] & QCOW2_OFFSET_MASK, table,
					      (size_t)cluster_bytes, err);
		if (!rc)
			rc = qcow2_write_meta(img, fresh * cluster_bytes, table,
					      (size_t)cluster_bytes, err);
		now[i] = fresh * cluster_bytes | QCOW2_COPIED;
		copied++;
	}
	if (!rc && copied) {
		rc = barrier(r, err);
		if (!rc)
			rc = write_l1(img, first, n, now, err);
		if (!rc)
			rc = qcow2_sync(img, err);
		if (!rc)
			rc = qcow2_list_tables(img, err);
		for (uint64_t i = 0; !rc && i < n; i++)
			if (now[i] != old[i])
				rc = qcow2_refcounts_unuse(r, old[i] & QCOW2_OFFSET_MASK,
							   cluster_bytes, err);
		if (!rc)
			rc = qcow2_refcounts_flush(r, err);
	}
	free(table);
	free(now);
	free(old);
	return rc;
}

int qcow2_grow(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	uint64_t span = q->geometry.l2_span, first = off / span;
	uint64_t n = min_u64((off + len - 1) / span - first + 1, TABLES_AT_ONCE);
	struct qcow2_refcounts refs = { .img = img };
	int rc = qcow2_own_tables(&refs, first, n, err);

	if (!rc)
		rc = qcow2_refcounts_make_room(&refs, err);
	if (!rc)
		rc = qcow2_refcounts_flush(&refs, err);
	qcow2_refcounts_end(&refs);
	return rc;
}

/* ---- The L1 table ---- */

/* Zero what the table's last cluster has room for, then say that it counts. */
static int extend_l1(struct img *img, uint64_t entries, struct img_error *err)
{
	struct qcow2 *q = img->state;
	uint64_t more = entries - q->header.l1_entries;
	uint64_t *zeroes = calloc(more, 8);
	uint8_t field[4];
	int rc;

	if (!zeroes)
		return qcow2_no_memory(img, err);
	rc = write_l1(img, q->header.l1_entries, more, zeroes, err);
	free(zeroes);
	if (!rc)
		rc = qcow2_sync(img, err);
	if (rc)
		return rc;
	be32_store(field, (uint32_t)entries);
	rc = qcow2_write_meta(img, QCOW2_OFF_L1_ENTRIES, field, sizeof(field), err);
	if (!rc)
		rc = qcow2_sync(img, err);
	if (!rc)
		q->header.l1_entries = (uint32_t)entries;
	return rc;
}

/* Write a bigger table elsewhere and let the header name it. */
static int move_l1(struct qcow2_refcounts *r, uint64_t entries, struct img_error *err)
{
	struct img *img = r->img;
	struct qcow2 *q = img->state;
	uint64_t cluster_bytes = q->geometry.cluster_bytes, first;
	uint64_t clusters = div_round_up_u64(entries * 8, cluster_bytes);
	uint64_t old_off = q->header.l1_off, old_bytes = (uint64_t)q->header.l1_entries * 8;
	uint8_t *table = calloc(clusters, cluster_bytes), header[12];
	int rc;

	if (!table)
		return qcow2_no_memory(img, err);
	rc = img_storage_read(img->file, old_off, table, (size_t)old_bytes, err);
	if (!rc)
		rc = qcow2_refcounts_alloc(r, clusters, &first, err);
	if (!rc)
		rc = qcow2_write_meta(img, first * cluster_bytes, table,
				      (size_t)(clusters * cluster_bytes), err);
	free(table);
	if (!rc)
		rc = barrier(r, err);
	if (rc)
		return rc;
	be32_store(header, (uint32_t)entries);
	be64_store(header + 4, first * cluster_bytes);
	rc = qcow2_write_meta(img, QCOW2_OFF_L1_ENTRIES, header, sizeof(header), err);
	if (!rc)
		rc = qcow2_sync(img, err);
	if (rc)
		return rc;
	q->header.l1_entries = (uint32_t)entries;
	q->header.l1_off = first * cluster_bytes;
	rc = qcow2_load_tables(img, err);
	if (!rc && old_bytes)
		rc = qcow2_refcounts_unuse(r, old_off, old_bytes, err);
	return rc ? rc : qcow2_refcounts_flush(r, err);
}

static int grow_l1(struct qcow2_refcounts *r, uint64_t size, struct img_error *err)
{
	const struct qcow2 *q = r->img->state;
	uint64_t entries = qcow2_l1_needed(&q->geometry, size);
	uint64_t room = round_up_u64((uint64_t)q->header.l1_entries * 8, q->geometry.cluster_bytes);

	if (entries <= q->header.l1_entries)
		return 0;
	if (entries > QCOW2_MAX_L1_BYTES / 8)
		return img_fail(err, -EFBIG,
				"%s: %" PRIu64 " bytes need an L1 table of %" PRIu64 " entries, "
				"expected at most %d",
				r->img->name, size, entries, QCOW2_MAX_L1_BYTES / 8);
	return entries * 8 <= room ? extend_l1(r->img, entries, err) : move_l1(r, entries, err);
}

/* ---- Filling the new part of a grown disk ---- */

/*
 * Preallocation: the new part, which reads as zeroes, gets clusters. All room is taken in one run:
 * first the L2 tables, then the data.
 */
struct filling {
	struct qcow2_refcounts *refs;
	uint64_t from, to; /* clusters of the guest */
	uint64_t *l1;	   /* entries of the tables that cover it */
	uint64_t l1_first, tables;
	uint64_t new_tables, new_data;	/* clusters wanted */
	uint64_t next_table, next_data; /* clusters to be given out */
};

/* Entries of table i (counted from l1_first) that are to be filled. */
static void filled_entries(const struct filling *f, uint64_t i, uint64_t *start, uint64_t *end)
{
	const struct qcow2 *q = f->refs->img->state;
	uint64_t base = (f->l1_first + i) * q->geometry.l2_entries;

	*start = max_u64(f->from, base) - base;
	*end = min_u64(f->to, base + q->geometry.l2_entries) - base;
}

/* Does it need to be filled? Anything but nothing is left as it is. */
static bool is_empty(const struct qcow2_geometry *g, const uint8_t *at, struct qcow2_entry *e)
{
	return !qcow2_decode_entry(g, be64_load(at), g->extended ? be64_load(at + 8) : 0, e) &&
	       (e->kind == QCOW2_UNALLOCATED || e->kind == QCOW2_ZERO_PLAIN);
}

/* The table of entry i, or an empty one. */
static int read_table(const struct filling *f, uint64_t i, uint8_t *table, struct img_error *err)
{
	struct img *img = f->refs->img;
	const struct qcow2 *q = img->state;
	uint64_t off = f->l1[i] & QCOW2_OFFSET_MASK;

	if (off)
		return img_storage_read(img->file, off, table, (size_t)q->geometry.cluster_bytes,
					err);
	memset(table, 0, q->geometry.cluster_bytes);
	return 0;
}

static int count_filling(struct filling *f, uint8_t *table, struct img_error *err)
{
	const struct qcow2 *q = f->refs->img->state;
	const struct qcow2_geometry *g = &q->geometry;

	for (uint64_t i = 0; i < f->tables; i++) {
		uint64_t start, end;
		struct qcow2_entry e;
		int rc;

		filled_entries(f, i, &start, &end);
		if (!f->l1[i]) {
			f->new_tables++;
			f->new_data += end - start;
			continue;
		}
		rc = read_table(f, i, table, err);
		if (rc)
			return rc;
		for (uint64_t k = start; k < end; k++)
			f->new_data += is_empty(g, table + k * g->l2_entry_bytes, &e);
	}
	/* Those of a data file lie where the guest has them. */
	if (g->data_file)
		f->new_data = 0;
	return 0;
}

/* Fill and write table i, anew or in its place. */
static int fill_table(struct filling *f, uint64_t i, uint8_t *table, struct img_error *err)
{
	struct img *img = f->refs->img;
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t base = (f->l1_first + i) * g->l2_entries, start, end;
	int rc = read_table(f, i, table, err);

	if (rc)
		return rc;
	filled_entries(f, i, &start, &end);
	for (uint64_t k = start; k < end; k++) {
		uint8_t *at = table + k * g->l2_entry_bytes;
		struct qcow2_entry e;
		uint64_t word, bitmap;

		if (!is_empty(g, at, &e))
			continue;
		e = (struct qcow2_entry){
			.kind = QCOW2_NORMAL,
			.copied = true,
			.sub_alloc = g->extended ? UINT32_MAX : 0,
			.host_off = (g->data_file ? base + k : f->next_data++) * g->cluster_bytes,
		};
		if (img->encrypted)
			e = qcow2_zero_room(g, e.host_off);
		qcow2_encode_entry(g, &e, &word, &bitmap);
		be64_store(at, word);
		if (g->extended)
			be64_store(at + 8, bitmap);
	}
	if (!f->l1[i])
		f->l1[i] = f->next_table++ * g->cluster_bytes | QCOW2_COPIED;
	return qcow2_write_meta(img, f->l1[i] & QCOW2_OFFSET_MASK, table, (size_t)g->cluster_bytes,
				err);
}

/* A storage has no metadata of ours to preallocate. */
static enum img_preallocate for_storage(enum img_preallocate how)
{
	return how == IMG_PREALLOCATE_METADATA ? IMG_PREALLOCATE_OFF : how;
}

/* Take the room; that for data reads as zeroes and is reserved as wanted. */
static int reserve_room(struct filling *f, enum img_preallocate how, struct img_error *err)
{
	struct img *img = f->refs->img;
	struct qcow2 *q = img->state;
	uint64_t cluster_bytes = q->geometry.cluster_bytes, hint = q->next_free, first, data, end;
	int rc;

	/* Data goes past the end of the file, where no old data is and room can be reserved. */
	if (f->new_data && !img->file->device)
		q->next_free = max_u64(hint, div_round_up_u64(img->file->size, cluster_bytes));
	rc = qcow2_refcounts_alloc(f->refs, f->new_tables + f->new_data, &first, err);
	q->next_free = min_u64(q->next_free, hint); /* the holes below are still there */
	if (rc)
		return rc;
	f->next_table = first;
	f->next_data = first + f->new_tables;
	if (!f->new_data)
		return 0;
	data = f->next_data * cluster_bytes;
	end = data + f->new_data * cluster_bytes;
	if (data < img->file->size)
		rc = img_storage_zero(img->file, data, min_u64(end, img->file->size) - data, err);
	if (!rc && end > img->file->size)
		rc = img_storage_resize(img->file, end, for_storage(how), err);
	return rc;
}

static int fill_all(struct filling *f, enum img_preallocate how, uint8_t *table,
		    struct img_error *err)
{
	struct img *img = f->refs->img;
	int rc = qcow2_read_l1(img, f->l1_first, f->tables, f->l1, err);

	if (!rc)
		rc = count_filling(f, table, err);
	if (!rc && f->new_tables + f->new_data)
		rc = reserve_room(f, how, err);
	if (!rc)
		rc = barrier(f->refs, err);
	for (uint64_t i = 0; !rc && i < f->tables; i++)
		rc = fill_table(f, i, table, err);
	if (!rc)
		rc = qcow2_sync(img, err);
	if (!rc)
		rc = write_l1(img, f->l1_first, f->tables, f->l1, err);
	if (!rc)
		rc = qcow2_sync(img, err);
	return rc ? rc : qcow2_list_tables(img, err);
}

/* Allocate the clusters of [from, to), of which a first one that is cut is not new. */
static int fill_new(struct qcow2_refcounts *r, uint64_t from, uint64_t to, enum img_preallocate how,
		    struct img_error *err)
{
	const struct qcow2 *q = r->img->state;
	const struct qcow2_geometry *g = &q->geometry;
	struct filling f = {
		.refs = r,
		.from = div_round_up_u64(from, g->cluster_bytes),
		.to = div_round_up_u64(to, g->cluster_bytes),
	};
	uint8_t *table;
	int rc;

	if (f.from >= f.to)
		return 0;
	f.l1_first = f.from / g->l2_entries;
	f.tables = (f.to - 1) / g->l2_entries - f.l1_first + 1;
	rc = qcow2_own_tables(r, f.l1_first, f.tables, err);
	if (rc)
		return rc;
	f.l1 = calloc(f.tables, 8);
	table = malloc(g->cluster_bytes);
	rc = f.l1 && table ? fill_all(&f, how, table, err) : qcow2_no_memory(r->img, err);
	free(table);
	free(f.l1);
	return rc;
}

/*
 * What a data file holds past the old end is not the disk's. It must not be seen where the new part
 * gets clusters, or in the data file itself if that is a raw disk.
 */
static int grow_data_file(struct img *img, uint64_t old, uint64_t size, enum img_preallocate how,
			  struct img_error *err)
{
	const struct qcow2 *q = img->state;
	struct img_storage *data = q->data_file;
	int rc = 0;

	if (!data || (!q->raw_data_file && how == IMG_PREALLOCATE_OFF))
		return 0;
	/* Encrypted: what is new has room that reads as zeroes whatever is in it. */
	if (data->size > old && !img->encrypted)
		rc = img_storage_zero(data, old, min_u64(data->size, size) - old, err);
	if (!rc && data->size < size)
		rc = img_storage_resize(data, size, for_storage(how), err);
	if (!rc && !img->unsafe)
		rc = img_storage_sync(data, err);
	return rc;
}

/* ---- Changing the size ---- */

int qcow2_write_size(struct img *img, uint64_t size, struct img_error *err)
{
	struct qcow2 *q = img->state;
	uint8_t field[8];
	int rc;

	be64_store(field, size);
	rc = qcow2_write_meta(img, QCOW2_OFF_SIZE, field, sizeof(field), err);
	if (!rc)
		rc = qcow2_sync(img, err);
	if (rc)
		return rc;
	q->header.size = size;
	img->size = size;
	return 0;
}

int qcow2_may_resize(const struct img *img, struct img_error *err)
{
	const struct qcow2 *q = img->state;

	if (!q->refcount_table)
		return img_fail(err, -EINVAL,
				"%s: opened for a check, not for resizing",
				img->name);
	if (q->header.snapshots && q->header.version < 3)
		return img_fail(err, -ENOTSUP,
				"%s: Can't resize a version 2 image which has snapshots",
				img->name);
	return 0;
}

int qcow2_extend(struct img *img, uint64_t size, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	struct qcow2_refcounts refs = { .img = img };
	int rc = qcow2_may_resize(img, err);

	if (!rc && q->raw_data_file && q->data_file->size < img->size)
		rc = img_fail(err, -EUCLEAN,
			      "%s: truncated: ends at %" PRIu64 ", the raw disk in it needs "
			      "%" PRIu64,
			      q->data_file->name, (uint64_t)q->data_file->size, img->size);
	if (!rc)
		rc = grow_l1(&refs, size, err);
	if (!rc)
		rc = qcow2_refcounts_flush(&refs, err);
	qcow2_refcounts_end(&refs);
	if (!rc)
		img->size = size;
	return rc;
}

int qcow2_grow_disk(struct qcow2_refcounts *r, uint64_t old, uint64_t size, enum img_preallocate how,
		    struct img_error *err)
{
	int rc = grow_data_file(r->img, old, size, how, err);

	if (!rc && how != IMG_PREALLOCATE_OFF)
		rc = fill_new(r, old, size, how, err);
	return rc ? rc : qcow2_write_size(r->img, size, err);
}
