/*
 * Making the disk smaller. The new size is durable first: until then nothing is lost, and from then
 * on what lies beyond it is not the disk's any more (a disk that grows again clears its new part).
 * Then the entries beyond the end go, then the clusters that they named, and then the refcount
 * blocks and the end of the file that nothing needs any more. Emptying a disk is the same without the
 * new size: all entries go first.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* A table named twice would be freed twice. */
static int check_distinct(struct img *img, struct img_error *err)
{
	const struct qcow2 *q = img->state;

	for (size_t i = 1; i < q->metadata.block_count; i++)
		if (q->metadata.blocks[i] == q->metadata.blocks[i - 1])
			return img_fail(err, -EUCLEAN,
					"%s: two L1 entries name the L2 table at offset %" PRIu64,
					img->name, q->metadata.blocks[i]);
	return 0;
}

enum { MAX_FREED = 32 << 10 }; /* ranges that are sorted before they are given back */

struct range {
	uint64_t off, len;
};

/* What is being cut off. */
struct cutting {
	struct qcow2_refcounts *refs;
	uint64_t *l1;	      /* the whole table */
	uint64_t dead;	      /* first entry whose table goes */
	uint64_t start;	      /* first entry that goes in the table before, */
	uint8_t *cut, *table; /* which is this one; another table */
	struct range *freed;  /* not given back yet; room for MAX_FREED */
	size_t nfreed;
};

static int by_offset(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

/*
 * Give the room of freed clusters back to the file system; where it cannot take it, it stays.
 * Neighbours go together: small clusters are parts of the file system's blocks.
 */
static void give_back(struct cutting *c)
{
	struct img_storage *file = c->refs->img->file;

	if (c->nfreed)
		qsort(c->freed, c->nfreed, sizeof(*c->freed), by_offset);
	for (size_t i = 0; i < c->nfreed;) {
		uint64_t off = c->freed[i].off, end = off;

		for (; i < c->nfreed && c->freed[i].off == end; i++)
			end += c->freed[i].len;
		if (off < file->size)
			img_storage_punch(file, off, end - off, NULL);
	}
	c->nfreed = 0;
}

/* The cluster at off is free, and nothing durable names it. */
static void add_freed(struct cutting *c, uint64_t off)
{
	uint64_t cluster_bytes = ((const struct qcow2 *)c->refs->img->state)->geometry.cluster_bytes;

	if (c->nfreed) {
		struct range *last = &c->freed[c->nfreed - 1];

		if (last->off + last->len == off) {
			last->len += cluster_bytes;
			return;
		}
	}
	if (c->nfreed == MAX_FREED)
		give_back(c);
	c->freed[c->nfreed++] = (struct range){ off, cluster_bytes };
}

/* One use less of [off, off + len); clusters that have no other are given back. */
static int unuse(struct cutting *c, uint64_t off, uint64_t len, struct img_error *err)
{
	const struct qcow2 *q = c->refs->img->state;
	uint64_t cluster_bytes = q->geometry.cluster_bytes, end = off + len, count;
	int rc = 0;

	for (off = align_down_u64(off, cluster_bytes); !rc && off < end; off += cluster_bytes) {
		rc = qcow2_refcounts_get(c->refs, off / cluster_bytes, &count, err);
		if (!rc)
			rc = qcow2_refcounts_unuse(c->refs, off, cluster_bytes, err);
		if (!rc && count == 1)
			add_freed(c, off);
	}
	return rc;
}

/* One use less of everything that entries [start, end) of an L2 table occupy. */
static int free_entries(struct cutting *c, const uint8_t *table, uint64_t start,
			struct img_error *err)
{
	const struct qcow2 *q = c->refs->img->state;
	const struct qcow2_geometry *g = &q->geometry;
	int rc = 0;

	for (uint64_t k = start; !rc && !g->data_file && k < g->l2_entries; k++) {
		const uint8_t *at = table + k * g->l2_entry_bytes;
		struct qcow2_entry e;
		uint64_t bytes;

		/* What is unsound, or would free metadata, is left to a check. */
		if (qcow2_decode_entry(g, be64_load(at), g->extended ? be64_load(at + 8) : 0, &e) &
			    QCOW2_BAD ||
		    (!qcow2_has_host(&e) && e.kind != QCOW2_COMPRESSED))
			continue;
		bytes = e.kind == QCOW2_COMPRESSED ? e.stored_bytes : g->cluster_bytes;
		if (!img_range_map_at(&q->metadata, e.host_off, bytes))
			rc = unuse(c, e.host_off, bytes, err);
	}
	return rc;
}

/* Write zeroes over entries in [from, to), in bytes, of a table; not over the last zeroes. */
static int clear(struct cutting *c, uint64_t table_off, const void *table, uint64_t from,
		 uint64_t to, struct img_error *err)
{
	const uint8_t *bytes = table;
	uint8_t *zeroes;
	int rc;

	while (to > from && !be64_load(bytes + to - 8))
		to -= 8;
	if (to == from)
		return 0;
	zeroes = calloc(1, to - from);
	rc = zeroes ? qcow2_write_meta(c->refs->img, table_off + from, zeroes, to - from, err)
		    : qcow2_no_memory(c->refs->img, err);
	free(zeroes);
	return rc;
}

/* Take the entries past the new end out of the L2 table that is cut in two. */
static int cut_table(struct cutting *c, struct img_error *err)
{
	struct img *img = c->refs->img;
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t off = c->l1[c->dead - 1] & QCOW2_OFFSET_MASK;
	int rc = img_storage_read(img->file, off, c->cut, (size_t)g->cluster_bytes, err);

	return rc ? rc : clear(c, off, c->cut, c->start * g->l2_entry_bytes, g->cluster_bytes, err);
}

/* Let nothing name what lies beyond the end. */
static int unlink_all(struct cutting *c, bool cuts, struct img_error *err)
{
	struct img *img = c->refs->img;
	const struct qcow2 *q = img->state;
	int rc = cuts ? cut_table(c, err) : 0;

	if (!rc)
		rc = clear(c, q->header.l1_off, c->l1, c->dead * 8,
			   (uint64_t)q->header.l1_entries * 8, err);
	if (!rc)
		rc = qcow2_sync(img, err);
	return rc ? rc : qcow2_list_tables(img, err);
}

/* Give up what the tables from `dead` on map, which nothing durable names any more, and them. */
static int free_tables(struct cutting *c, struct img_error *err)
{
	struct img *img = c->refs->img;
	const struct qcow2 *q = img->state;
	size_t bytes = (size_t)q->geometry.cluster_bytes;
	int rc = 0;

	for (uint64_t i = c->dead; !rc && i < q->header.l1_entries; i++) {
		uint64_t off = c->l1[i] & QCOW2_OFFSET_MASK;

		if (!off)
			continue;
		rc = img_storage_read(img->file, off, c->table, bytes, err);
		if (!rc)
			rc = free_entries(c, c->table, 0, err);
		if (!rc)
			rc = unuse(c, off, bytes, err);
	}
	return rc ? rc : qcow2_refcounts_flush(c->refs, err);
}

static int shrink_tables(struct cutting *c, uint64_t size, struct img_error *err)
{
	struct img *img = c->refs->img;
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t n = q->header.l1_entries;
	bool cuts;
	int rc = 0;

	c->dead = qcow2_l1_needed(g, size);
	c->start = div_round_up_u64(size % g->l2_span, g->cluster_bytes);
	cuts = size % g->l2_span && c->start < g->l2_entries;
	if (cuts)
		rc = qcow2_own_tables(c->refs, c->dead - 1, 1, err);
	if (!rc)
		rc = qcow2_read_l1(img, 0, n, c->l1, err);
	if (!rc)
		rc = check_distinct(img, err);
	if (!rc)
		rc = qcow2_write_size(img, size, err);
	cuts = cuts && c->l1[c->dead - 1];
	if (!rc)
		rc = unlink_all(c, cuts, err);
	if (!rc && cuts)
		rc = free_entries(c, c->cut, c->start, err);
	return rc ? rc : free_tables(c, err);
}

/* ---- What is not needed any more ---- */

/* Does block i count nothing, except perhaps its own cluster? */
static int is_unused(struct qcow2_refcounts *r, uint64_t i, bool *unused, struct img_error *err)
{
	const struct qcow2 *q = r->img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t own = q->refcount_table[i] / g->cluster_bytes, first = i * g->block_entries;
	int rc = 0;

	*unused = true;
	for (uint64_t c = first; !rc && *unused && c < first + g->block_entries; c++) {
		uint64_t count;

		rc = qcow2_refcounts_get(r, c, &count, err);
		*unused = !rc && count == (c == own);
	}
	return rc;
}

/*
 * Take refcount blocks that count nothing out of the table. A block may be counted by another one,
 * which has only then nothing to count: *more.
 */
static int drop_blocks(struct cutting *c, bool *more, struct img_error *err)
{
	struct img *img = c->refs->img;
	struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	static const uint8_t none[8];
	uint64_t *dropped = calloc(q->refcount_table_entries + 1, 8), n = 0;
	int rc = dropped ? 0 : qcow2_no_memory(img, err);

	*more = false;
	for (uint64_t i = 0; !rc && i < q->refcount_table_entries; i++) {
		bool unused;

		if (!q->refcount_table[i])
			continue;
		rc = is_unused(c->refs, i, &unused, err);
		if (rc || !unused)
			continue;
		dropped[n++] = q->refcount_table[i];
		rc = qcow2_write_meta(img, q->header.refcount_table_off + i * 8, none, sizeof(none), err);
	}
	c->refs->loaded = false; /* it may be one of them */
	if (!rc && n) {
		rc = qcow2_sync(img, err);
		if (!rc)
			rc = qcow2_load_tables(img, err);
	}
	for (uint64_t i = 0; !rc && i < n; i++) {
		uint64_t counter = dropped[i] / g->cluster_bytes / g->block_entries;

		if (counter >= q->refcount_table_entries || !q->refcount_table[counter]) {
			add_freed(c, dropped[i]); /* it counted itself */
			continue;
		}
		*more = true;
		rc = unuse(c, dropped[i], g->cluster_bytes, err);
	}
	free(dropped);
	return rc ? rc : qcow2_refcounts_flush(c->refs, err);
}

/* Cut the file after its last cluster in use. */
static int cut_file(struct qcow2_refcounts *r, struct img_error *err)
{
	struct img *img = r->img;
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t end = min_u64(div_round_up_u64(img->file->size, g->cluster_bytes),
			       q->refcount_table_entries * g->block_entries);

	while (end) {
		uint64_t count;
		int rc;

		if (!q->refcount_table[(end - 1) / g->block_entries]) {
			end = align_down_u64(end - 1, g->block_entries);
			continue;
		}
		rc = qcow2_refcounts_get(r, end - 1, &count, err);
		if (rc)
			return rc;
		if (count)
			break;
		end--;
	}
	if (!end || img->file->device || end * g->cluster_bytes >= img->file->size)
		return 0;
	return img_storage_resize(img->file, end * g->cluster_bytes, IMG_PREALLOCATE_OFF, err);
}

/* Give back what nothing needs any more. */
static int tidy(struct cutting *c, int rc, struct img_error *err)
{
	bool more = true;

	while (!rc && more)
		rc = drop_blocks(c, &more, err);
	if (!rc)
		rc = cut_file(c->refs, err);
	give_back(c);
	return rc;
}

static int shrink(struct cutting *c, uint64_t size, struct img_error *err)
{
	const struct qcow2 *q = c->refs->img->state;
	int rc = tidy(c, shrink_tables(c, size, err), err);

	/* A data file ends where the disk does. */
	if (!rc && q->data_file && !q->data_file->device && q->data_file->size > size)
		rc = img_storage_resize(q->data_file, size, IMG_PREALLOCATE_OFF, err);
	return rc;
}

static int empty(struct cutting *c, uint64_t unused, struct img_error *err)
{
	struct img *img = c->refs->img;
	const struct qcow2 *q = img->state;
	int rc = qcow2_read_l1(img, 0, q->header.l1_entries, c->l1, err);

	(void)unused;
	if (!rc)
		rc = check_distinct(img, err);
	if (!rc)
		rc = unlink_all(c, false, err);
	if (!rc)
		rc = free_tables(c, err);
	return tidy(c, rc, err);
}

static int with_tables(struct qcow2_refcounts *r, int (*work)(struct cutting *c, uint64_t size, struct img_error *err),
		       uint64_t size, struct img_error *err)
{
	const struct qcow2 *q = r->img->state;
	struct cutting c = {
		.refs = r,
		.l1 = calloc((size_t)q->header.l1_entries + 1, 8),
		.cut = malloc(q->geometry.cluster_bytes),
		.table = malloc(q->geometry.cluster_bytes),
		.freed = calloc(MAX_FREED, sizeof(*c.freed)),
	};
	int rc = c.l1 && c.cut && c.table && c.freed ? work(&c, size, err)
						     : qcow2_no_memory(r->img, err);

	free(c.freed);
	free(c.table);
	free(c.cut);
	free(c.l1);
	return rc;
}

int qcow2_shrink(struct qcow2_refcounts *r, uint64_t size, struct img_error *err)
{
	return with_tables(r, shrink, size, err);
}

int qcow2_make_empty(struct img *img, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	struct qcow2_refcounts refs = { .img = img };
	int rc;

	if (!q->refcount_table)
		return img_fail(err, -EINVAL, "%s: opened for a check, not for emptying", img->name);
	if (q->raw_data_file)
		return img_fail(err, -ENOTSUP,
				"%s: its data file '%s' must hold what the disk reads as, so it "
				"cannot be emptied",
				img->name, q->data_file->name);
	rc = with_tables(&refs, empty, 0, err);
	if (!rc)
		rc = qcow2_refcounts_flush(&refs, err);
	qcow2_refcounts_end(&refs);
	return rc;
}
