/*
 * Mending a qcow2 image: spec/qcow2.md, "Repair". At every moment what is on disk is no worse than
 * before: new tables are durable in free space before the header names them, counts go up before
 * anything relies on it, and go down last.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_check.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	MAX_COPIED = 256 << 20, /* bytes of guest data that is copied out of tables */
};

/* ---- Room ---- */

/* n free clusters in a row, which may lie past the end of the file. -ENOSPC. */
static int find_room(const struct qcow2_scan *s, uint64_t n, uint64_t *first,
		     struct img_error *err)
{
	uint64_t at = qcow2_counts_free_run(&s->refs, n);

	/* What seems free may be what is lost. */
	if (at + n > s->clusters || s->lost)
		at = max_u64(at, qcow2_space_at_end(s));
	*first = at;
	return qcow2_check_space(s, at, n, err);
}

/* Write a piece of the header that must change at once, and what it refers to before. */
static int switch_header(struct qcow2_scan *s, uint64_t off, const uint8_t *bytes, size_t len,
			 struct img_error *err)
{
	int rc = qcow2_sync(s->img, err);

	if (!rc)
		rc = img_storage_write(s->img->file, off, bytes, len, err);
	return rc ? rc : qcow2_sync(s->img, err);
}

/* ---- Snapshot table ---- */

/* Append one entry, repaired, to *out; *off moves to the next one in the file. */
static int copy_snapshot(struct qcow2_scan *s, uint64_t *off, uint8_t *out, size_t room,
			 size_t *used, struct img_error *err)
{
	uint8_t fixed[QCOW2_SNAPSHOT_FIXED_BYTES], *bytes;
	struct qcow2_snapshot sn;
	uint64_t len;
	int rc = img_storage_read(s->img->file, *off, fixed, sizeof(fixed), err);

	if (rc)
		return rc;
	len = qcow2_snapshot_bytes(fixed);
	if (!range_in(*off - s->header.snapshots_off, round_up_u64(len, 8), s->snapshots_bytes))
		return img_fail(err, -EUCLEAN, "%s: snapshot table changed during the check",
				s->img->name);
	bytes = malloc(len);
	if (!bytes)
		return img_fail(err, -ENOMEM, "%s: out of memory for a snapshot", s->img->name);
	rc = img_storage_read(s->img->file, *off, bytes, len, err);
	if (!rc) {
		qcow2_parse_snapshot(bytes, len, &sn, NULL);
		if (!sn.has_size)
			sn.size = align_down_u64(s->header.size, 512);
		if (sn.extra_bytes > QCOW2_MAX_SNAPSHOT_EXTRA)
			sn.more_extra_bytes = 0;
		len = qcow2_snapshot_encoded_bytes(&sn);
		if (round_up_u64(len, 8) > room - *used)
			rc = img_fail(err, -EUCLEAN,
				      "%s: snapshot table changed during the check",
				      s->img->name);
		else
			qcow2_encode_snapshot(&sn, out + *used);
		*off += round_up_u64(qcow2_snapshot_bytes(fixed), 8);
		*used += round_up_u64(len, 8);
	}
	free(bytes);
	return rc;
}

/* A new snapshot table with sound entries, in free space. The old one leaks for a while. */
static int repair_snapshots(struct qcow2_scan *s, struct img_error *err)
{
	/* Known extra data that was missing may be added to each. */
	size_t room = s->snapshots_bytes + (size_t)s->header.snapshots * 32, used = 0;
	unsigned bits = s->geometry.cluster_bits;
	uint64_t off = s->header.snapshots_off, first = 0;
	uint8_t *table, pointer[12];
	int rc = 0;

	room = round_up_u64(room, s->geometry.cluster_bytes);
	table = calloc(1, room);
	if (!table)
		return img_fail(err, -ENOMEM, "%s: out of memory for the snapshot table",
				s->img->name);
	for (uint32_t i = 0; !rc && i < s->header.snapshots; i++)
		rc = copy_snapshot(s, &off, table, room, &used, err);
	used = round_up_u64(used, s->geometry.cluster_bytes);
	if (!rc)
		rc = find_room(s, used >> bits, &first, err);
	if (!rc)
		rc = img_storage_write(s->img->file, first << bits, table, used, err);
	free(table);
	if (rc)
		return rc;
	be32_store(pointer, s->header.snapshots);
	be64_store(pointer + 4, first << bits);
	return switch_header(s, QCOW2_OFF_SNAPSHOTS, pointer, sizeof(pointer), err);
}

/* ---- L1 and L2 entries ---- */

static int repair_l1_word(struct qcow2_scan *s, void *arg, uint64_t i, uint64_t word,
			  struct img_error *err)
{
	uint64_t repaired = word & ~QCOW2_L1_RESERVED;
	uint8_t bytes[8];

	(void)arg;
	if (qcow2_scan_repairs(s, IMG_REPAIR_LOSS) &&
	    qcow2_beyond_end(s, word & QCOW2_OFFSET_MASK, s->geometry.cluster_bytes))
		repaired = 0;
	if (!(repaired & QCOW2_OFFSET_MASK))
		repaired = 0;
	if (repaired == word)
		return 0;
	be64_store(bytes, repaired);
	return img_storage_write(s->img->file, s->header.l1_off + i * 8, bytes, sizeof(bytes), err);
}

/* Change entries of one L2 table and write it if any was. */
static int change_l2(struct qcow2_scan *s, uint64_t off,
		     bool (*change)(struct qcow2_scan *s, uint64_t *word, uint64_t *bitmap),
		     struct img_error *err)
{
	const struct qcow2_geometry *g = &s->geometry;
	bool changed = false;
	int rc = img_storage_read(s->img->file, off, s->table, g->cluster_bytes, err);

	if (rc)
		return rc;
	for (uint64_t i = 0; i < g->l2_entries; i++) {
		uint8_t *at = s->table + i * g->l2_entry_bytes;
		uint64_t word = be64_load(at), bitmap = g->extended ? be64_load(at + 8) : 0;

		if ((!word && !bitmap) || !change(s, &word, &bitmap))
			continue;
		be64_store(at, word);
		if (g->extended)
			be64_store(at + 8, bitmap);
		changed = true;
	}
	return changed ? img_storage_write(s->img->file, off, s->table, g->cluster_bytes, err)
		       : 0;
}

static bool repair_entry(struct qcow2_scan *s, uint64_t *word, uint64_t *bitmap)
{
	return qcow2_repaired_entry(s, word, bitmap);
}

static int repair_entries(struct qcow2_scan *s, struct img_error *err)
{
	int rc = 0;

	if (qcow2_l1_is_alone(s))
		rc = qcow2_scan_words(s, s->header.l1_off, s->l1_entries, "L1 table", repair_l1_word,
				      NULL, err);
	for (size_t i = 0; !rc && i < s->nl2; i++) {
		if (qcow2_is_alone(s, &s->l2[i]))
			rc = change_l2(s, s->l2[i].off, repair_entry, err);
	}
	return rc ? rc : qcow2_sync(s->img, err);
}

/* ---- Refcounts in place ---- */

/*
 * Bring the counts of all blocks to the uses: those that are too low (raise), those that are too high
 * (lower). Blocks that hold something else too are left alone. A block may count past the end of the
 * file, where a crash left counts of what was never written: a check does not count those as leaks,
 * but they would become leaks when the file grows.
 */
static int adjust_block(struct qcow2_scan *s, uint64_t b, bool raise, bool lower,
			struct img_error *err)
{
	const struct qcow2_geometry *g = &s->geometry;
	uint64_t off = s->refcount_table[b], first = b * g->block_entries;
	bool changed = false;
	int rc;

	if (!off || qcow2_counts_get(&s->refs, off >> g->cluster_bits) != 1)
		return 0;
	rc = img_storage_read(s->img->file, off, s->block, g->cluster_bytes, err);
	if (rc)
		return rc;
	for (uint64_t i = 0; i < g->block_entries; i++) {
		uint64_t refcount = qcow2_refcount_get(s->block, g->refcount_order, i);
		uint64_t uses = first + i < s->refs.clusters ? qcow2_scan_uses(s, first + i) : 0;

		if (refcount == uses || (refcount < uses ? !raise : !lower))
			continue;
		if (first + i < s->clusters || uses)
			qcow2_scan_report(s,
					  "Repairing cluster %" PRIu64 " refcount=%" PRIu64
					  " reference=%" PRIu64,
					  first + i, refcount, uses);
		qcow2_refcount_set(s->block, g->refcount_order, i, uses);
		qcow2_counts_mark(&s->refs, first + i, QCOW2_MARK_ONCE, uses == 1);
		changed = true;
	}
	return changed ? img_storage_write(s->img->file, off, s->block, g->cluster_bytes, err)
		       : 0;
}

static int adjust_counts(struct qcow2_scan *s, bool raise, bool lower, struct img_error *err)
{
	int rc = 0;

	for (uint64_t b = 0; !rc && b < s->refcount_table_entries; b++)
		rc = adjust_block(s, b, raise, lower, err);
	return rc ? rc : qcow2_sync(s->img, err);
}

/* ---- Refcounts anew ---- */

/* New refcount blocks and table: n clusters from first on, the blocks before the table. */
struct rebuilt {
	struct qcow2_scan pure; /* uses without the old blocks and table */
	uint64_t *blocks;	/* which ranges of clusters need one, ascending */
	size_t nblocks, max_blocks;
	uint64_t first, table_clusters;
};

static int need_block(struct rebuilt *r, uint64_t b, struct img_error *err)
{
	if (r->nblocks && r->blocks[r->nblocks - 1] >= b)
		return 0;
	if (r->nblocks == r->max_blocks) {
		size_t max = r->max_blocks ? r->max_blocks * 2 : 64;
		uint64_t *more = realloc(r->blocks, max * sizeof(*more));

		if (!more)
			return img_fail(err, -ENOMEM, "%s: out of memory for refcount blocks",
					r->pure.img->name);
		r->blocks = more;
		r->max_blocks = max;
	}
	r->blocks[r->nblocks++] = b;
	return 0;
}

/* What a cluster's count will be: while something is lost nothing becomes free. */
static uint64_t new_count(struct qcow2_scan *s, const struct rebuilt *r, uint64_t cluster)
{
	uint64_t uses = qcow2_scan_uses(&r->pure, cluster), b = cluster / s->geometry.block_entries;

	if (uses || !r->pure.lost || cluster >= s->clusters)
		return uses;
	return b < s->refcount_table_entries && s->refcount_table[b]
		       ? qcow2_scan_refcount(s, cluster)
		       : 1;
}

/* List the blocks for what is used, and for n clusters from first on. */
static int list_blocks(struct rebuilt *r, uint64_t first, uint64_t n, struct img_error *err)
{
	const struct qcow2_counts *refs = &r->pure.refs;
	uint64_t per = r->pure.geometry.block_entries, at = 0;

	r->nblocks = 0;
	/* What is lost may be anywhere: all of the file stays counted. */
	for (; r->pure.lost && at < r->pure.clusters; at += per) {
		int rc = need_block(r, at / per, err);

		if (rc)
			return rc;
	}
	for (;;) {
		uint64_t used = qcow2_counts_next_page(refs, at, refs->clusters);
		int rc;

		if (used >= refs->clusters)
			used = UINT64_MAX;
		if (at < first + n)
			used = min_u64(used, max_u64(at, first));
		if (used == UINT64_MAX)
			return 0;
		rc = need_block(r, used / per, err);
		if (rc)
			return rc;
		at = (used / per + 1) * per;
	}
}

/*
 * Find the place: the blocks have to count themselves and the table, so ask for more until it is
 * enough. The place is free of the old blocks and table, too.
 */
static int place_rebuilt(const struct qcow2_scan *s, struct rebuilt *r, struct img_error *err)
{
	const struct qcow2_geometry *g = &s->geometry;
	uint64_t n = 2;

	for (;;) {
		uint64_t need;
		int rc = find_room(s, n, &r->first, err);

		if (!rc)
			rc = list_blocks(r, r->first, n, err);
		if (rc)
			return rc;
		r->table_clusters = div_round_up_u64((r->blocks[r->nblocks - 1] + 1) * 8,
						     g->cluster_bytes);
		if (r->table_clusters * g->cluster_bytes > QCOW2_MAX_REFTABLE_BYTES)
			return img_fail(err, -EFBIG,
					"%s: no refcount table is large enough for its "
					"clusters",
					s->img->name);
		need = r->nblocks + r->table_clusters;
		if (need <= n)
			return 0;
		n = need;
	}
}

static int write_rebuilt(struct qcow2_scan *s, struct rebuilt *r, struct img_error *err)
{
	const struct qcow2_geometry *g = &s->geometry;
	uint64_t end = r->first + r->nblocks + r->table_clusters, at;
	uint64_t *table;
	int rc = 0;

	for (size_t k = 0; !rc && k < r->nblocks; k++) {
		uint64_t first = r->blocks[k] * g->block_entries;

		for (uint64_t i = 0; i < g->block_entries; i++) {
			uint64_t c = first + i;

			qcow2_refcount_set(
				s->block, g->refcount_order, i,
				c >= r->first && c < end ? 1 : new_count(s, r, c));
		}
		rc = img_storage_write(s->img->file, (r->first + k) << g->cluster_bits, s->block,
				       g->cluster_bytes, err);
	}
	if (rc)
		return rc;
	table = calloc(r->table_clusters, g->cluster_bytes);
	if (!table)
		return img_fail(err, -ENOMEM, "%s: out of memory for the refcount table",
				s->img->name);
	for (size_t k = 0; k < r->nblocks; k++)
		table[r->blocks[k]] = htobe64((r->first + k) << g->cluster_bits);
	at = (r->first + r->nblocks) << g->cluster_bits;
	rc = img_storage_write(s->img->file, at, table, r->table_clusters << g->cluster_bits,
			       err);
	free(table);
	if (!rc) {
		uint8_t pointer[12];

		be64_store(pointer, at);
		be32_store(pointer + 8, (uint32_t)r->table_clusters);
		rc = switch_header(s, QCOW2_OFF_REFTABLE_OFF, pointer, sizeof(pointer), err);
	}
	return rc;
}

static int rebuild(struct qcow2_scan *s, struct img_error *err)
{
	struct rebuilt r = { 0 };
	int rc;

	img_check_report(s->check, "Rebuilding refcount structure");
	rc = qcow2_scan(&r.pure, s->img, s->check, QCOW2_SCAN_QUIET | QCOW2_SCAN_NO_REFCOUNTS,
			err);
	if (!rc && r.pure.errors)
		rc = img_fail(err, -EIO,
			      "%s: cannot be read in full any more: nothing is repaired",
			      s->img->name);
	s->lost_from = r.pure.lost_from;
	if (!rc)
		rc = place_rebuilt(s, &r, err);
	if (!rc)
		rc = write_rebuilt(s, &r, err);
	if (rc == -EUCLEAN) { /* no room that is not lost; the rest of the check's report still counts */
		img_check_report(s->check, "Not rebuilt: a longer file would hold what is lost, as zeroes");
		img_error_clear(err);
		rc = 0;
	}
	free(r.blocks);
	qcow2_scan_free(&r.pure);
	return rc;
}

/* ---- The header ---- */

static int repair_l1_entries(struct qcow2_scan *s, struct img_error *err)
{
	uint8_t bytes[4];

	be32_store(bytes, (uint32_t)s->first_entries);
	return switch_header(s, QCOW2_OFF_L1_ENTRIES, bytes, sizeof(bytes), err);
}

static int repair_header(struct qcow2_scan *s, struct img_error *err)
{
	const struct qcow2_header *h = &s->header;
	uint8_t bytes[8];
	int rc = 0;

	if (!s->geometry.data_file && h->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW) {
		be64_store(bytes, h->autoclear & ~(uint64_t)QCOW2_AUTOCLEAR_DATA_FILE_RAW);
		rc = switch_header(s, QCOW2_OFF_AUTOCLEAR, bytes, sizeof(bytes), err);
	}
	if (!rc && !h->snapshots && h->snapshots_off) {
		be64_store(bytes, 0);
		rc = switch_header(s, QCOW2_OFF_SNAPSHOTS_OFF, bytes, sizeof(bytes), err);
	}
	return rc;
}

/* ---- What is lost ---- */

/* A file that ends inside a cluster gets the rest of it, as zeroes; what lies further out is not followed. */
static int fill_up(struct qcow2_scan *s, struct img_error *err)
{
	struct qcow2 *q = s->img->state;
	uint64_t whole = round_up_u64(s->file_bytes, s->geometry.cluster_bytes);
	int rc = 0;

	/* Of a cluster that is cut the missing part would decrypt to anything but zeroes. */
	if (s->img->encrypted && (s->data_end || whole != s->file_bytes))
		return img_fail(err, -ENOTSUP,
				"%s: truncated: ends at %" PRIu64 ", inside a cluster; as it is encrypted, what "
				"is lost cannot be made to read as zeroes",
				s->data_end ? q->data_file->name : s->img->name,
				s->data_end ? (uint64_t)q->data_file->size : s->file_bytes);
	if (!s->img->file->device)
		rc = img_storage_zero(s->img->file, whole, 0, err);
	if (!rc && s->data_end)
		rc = img_storage_zero(q->data_file, s->data_end, 0, err);
	if (!rc && s->data_end)
		rc = img_storage_sync(q->data_file, err);
	return rc ? rc : qcow2_sync(s->img, err);
}

/* ---- The whole ---- */

static int rescan(struct qcow2_scan *s, struct img_error *err)
{
	struct img_check *check = s->check;
	struct img *img = s->img;
	int rc;

	qcow2_scan_free(s);
	rc = qcow2_scan(s, img, check, QCOW2_SCAN_QUIET, err);
	if (rc)
		return rc;
	qcow2_compare(s);
	s->flags = 0;
	if (s->errors)
		rc = img_fail(err, -EIO, "%s: cannot be read in full any more: the repair stops",
			      img->name);
	return rc;
}

/* What must be right before anything is counted: entries, and where tables are. */
static int repair_tables(struct qcow2_scan *s, struct img_error *err)
{
	bool changed = s->bad_header || s->long_l1 || s->in_tables || s->bad_snapshots ||
		       s->bad_entries;
	int rc = 0;

	if (qcow2_scan_repairs(s, IMG_REPAIR_LOSS) && s->lost_data) {
		rc = fill_up(s, err);
		if (!rc)
			rc = rescan(s, err);
		changed = true;
	}
	if (!rc && s->bad_header)
		rc = repair_header(s, err);
	if (!rc && s->long_l1)
		rc = repair_l1_entries(s, err);
	if (!rc && s->in_tables)
		rc = qcow2_move_data(s, err);
	if (!rc && s->bad_snapshots && (s->long_l1 || s->in_tables))
		rc = rescan(s, err);
	if (!rc && s->bad_snapshots)
		rc = repair_snapshots(s, err);
	if (!rc && (s->bad_entries || s->lost_data) && (s->long_l1 || s->in_tables))
		rc = rescan(s, err);
	if (!rc && (s->bad_entries || s->lost_data))
		rc = repair_entries(s, err);
	return rc || !changed ? rc : rescan(s, err);
}

int qcow2_repair(struct qcow2_scan *s, unsigned repair, struct img_error *err)
{
	bool all = (repair & IMG_REPAIR_ALL) == IMG_REPAIR_ALL;
	int rc = 0;

	/* So much is no damage, but made. */
	s->mixed |= s->in_tables > MAX_COPIED / s->geometry.cluster_bytes;
	if (s->mixed) {
		img_check_report(s->check, "Beyond repair: tables lie in each other, or are cut off; "
					   "nothing is changed");
		return 0;
	}
	if (all)
		rc = repair_tables(s, err);
	if (!rc && all && s->rebuild) {
		rc = rebuild(s, err);
		if (!rc)
			rc = rescan(s, err);
	}
	if (rc || s->mixed || (all && s->rebuild))
		return rc;
	if (s->leaks && s->lost)
		img_check_report(s->check, "Leaks are kept: what is damaged may still use them");
	/* Blocks that hold something else cannot be counted in. */
	if (!s->rebuild)
		rc = adjust_counts(s, all, !s->lost, err);
	/* With counts that are right as they are, flags can be set without repairing more. */
	if (!rc)
		rc = qcow2_check_copied(s, all || (!s->corruptions && !(s->leaks && s->lost)), err);
	return rc;
}

int qcow2_clear_marks(struct qcow2_scan *s, struct img_error *err)
{
	uint64_t marks = QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT;
	uint8_t bytes[8];
	int rc;

	if (!(s->header.incompatible & marks))
		return 0;
	be64_store(bytes, s->header.incompatible & ~marks);
	rc = switch_header(s, QCOW2_OFF_INCOMPATIBLE, bytes, sizeof(bytes), err);
	if (!rc)
		s->header.incompatible &= ~marks;
	return rc;
}
