/*
 * Blocking work on tables of two levels: which clusters are used, longer tables, giving clusters up. All of it in
 * an order in which a power cut leaves each entry as it was or as it will be, with its data in either
 * place.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/engine/tables_survey.h"

enum {
	PIECE_BYTES = 512 << 10, /* of a table, read at a time */
	COPY_BYTES = 1 << 20,
};

int img_tables_sync(const struct img_tables *t, struct img_error *err)
{
	return t->img->unsafe || !t->img->file->unsynced ? 0 : img_storage_sync(t->img->file, err);
}

int img_tables_write(const struct img_tables *t, uint64_t off, const void *bytes, size_t len,
		     struct img_error *err)
{
	uint64_t from = align_down_u64(off, IMG_META_SECTOR);
	int rc = img_storage_write(t->img->file, off, bytes, len, err);

	img_meta_forget(t->img, t->img->file, from,
			round_up_u64(off + len, IMG_META_SECTOR) - from);
	return rc;
}

int img_tables_write_raw(const struct img_tables *t, uint64_t off, uint64_t raw, struct img_error *err)
{
	uint8_t bytes[IMG_TABLE_ENTRY_BYTES];

	img_tables_store_raw(t, bytes, raw);
	return img_tables_write(t, off, bytes, sizeof(bytes), err);
}

/* ---- Going over the tables ---- */

typedef int raw_fn(void *user, uint64_t i, uint64_t entry_off, uint64_t *raw, struct img_error *err);

/* Entries [first, end) at table_off that are not 0; holes of the file have none. */
static int each_raw(const struct img_tables *t, uint64_t table_off, uint64_t first, uint64_t end,
		    raw_fn *each, void *user, struct img_error *err)
{
	struct img_storage *file = t->img->file;
	uint8_t *piece = malloc(PIECE_BYTES);
	int rc = 0;

	if (!piece)
		return img_tables_no_memory(t, err);
	for (uint64_t i = first, n; i < end && !rc; i += n) {
		uint64_t at = table_off + i * IMG_TABLE_ENTRY_BYTES, run;
		uint64_t bytes = (end - i) * IMG_TABLE_ENTRY_BYTES;
		enum img_storage_extent kind;
		bool changed = false;
		int write_rc = 0;

		n = 0;
		rc = img_storage_extent(file, at, bytes, &kind, &run);
		if (rc) {
			img_fail(err, rc, "%s: reading at %" PRIu64 ": %s", t->img->name, at, strerror(-rc));
			break;
		}
		/* Only what is there counts as a hole; what is missing is said when it is read. */
		if (kind == IMG_STORAGE_HOLE && range_in(at, run, file->size))
			n = run / IMG_TABLE_ENTRY_BYTES;
		if (n)
			continue;
		bytes = min_u64(bytes, PIECE_BYTES);
		if (kind != IMG_STORAGE_HOLE)
			bytes = min_u64(bytes,
					max_u64(align_down_u64(run, IMG_TABLE_ENTRY_BYTES), 4096));
		n = bytes / IMG_TABLE_ENTRY_BYTES;
		rc = img_storage_read(file, at, piece, bytes, err);
		for (uint64_t k = 0; k < n && !rc; k++) {
			uint8_t *slot = piece + k * IMG_TABLE_ENTRY_BYTES;
			uint64_t raw = img_tables_load_raw(t, slot), old = raw;

			if (!raw)
				continue;
			rc = each(user, i + k, at + k * IMG_TABLE_ENTRY_BYTES, &raw, err);
			if (raw == old)
				continue;
			img_tables_store_raw(t, slot, raw);
			changed = true;
		}
		if (changed) /* what was changed before one failed, too */
			write_rc = img_tables_write(t, at, piece, bytes, rc ? NULL : err);
		if (!rc)
			rc = write_rc;
	}
	free(piece);
	return rc;
}

struct each_table {
	img_tables_table_fn *each;
	void *user;
};

static int one_table(void *user, uint64_t i, uint64_t entry_off, uint64_t *raw, struct img_error *err)
{
	const struct each_table *e = user;

	(void)entry_off;
	return e->each(e->user, i, raw, err);
}

int img_tables_each_table(const struct img_tables *t, uint64_t first, uint64_t end,
			  img_tables_table_fn *each, void *user, struct img_error *err)
{
	struct each_table e = { each, user };

	return each_raw(t, t->l1_off, first, end, one_table, &e, err);
}

struct each_entry {
	uint64_t number; /* of the table's first cluster */
	img_tables_entry_fn *each;
	void *user;
};

static int one_entry(void *user, uint64_t i, uint64_t entry_off, uint64_t *raw, struct img_error *err)
{
	const struct each_entry *e = user;

	return e->each(e->user, e->number + i, entry_off, raw, err);
}

int img_tables_each_entry(const struct img_tables *t, uint64_t index, uint64_t table_off, uint64_t first,
			  uint64_t end, img_tables_entry_fn *each, void *user, struct img_error *err)
{
	struct each_entry e = { index * t->table_entries, each, user };

	return each_raw(t, table_off, first, end, one_entry, &e, err);
}

bool img_tables_table_fits(const struct img_tables *t, uint64_t off)
{
	return off % t->table_align == 0 && off >= t->header_end &&
	       range_in(off, img_tables_table_bytes(t), t->img->file->size);
}

/* ---- What is used ---- */

void img_tables_survey_free(struct img_tables_survey *l)
{
	img_use_map_free(&l->used);
	img_sparse_bitset_free(&l->fixed);
	img_sparse_bitset_free(&l->packed);
	free(l->tables);
}

/* Units that [off, off + len) touches. */
static uint64_t units_of(const struct img_tables *t, uint64_t off, uint64_t len)
{
	return unit_of(t, off + len - 1) - unit_of(t, off) + 1;
}

/* Metadata, of which several pieces may share a cluster. */
static int use_fixed(struct img_tables_survey *l, uint64_t off, uint64_t len)
{
	const struct img_tables *t = l->t;
	enum img_use use;

	if (!len)
		return 0;
	if (img_sparse_bitset_add(&l->fixed, unit_of(t, off), units_of(t, off, len)) < 0)
		return -ENOMEM;
	return img_use_map_add(&l->used, off, len, &use);
}

static int refuse(const struct img_tables *t, struct img_error *err, uint64_t table_off, uint64_t number,
		  uint64_t raw, const char *why)
{
	return img_fail(err, -EUCLEAN,
			"%s: L2 table at %" PRIu64 ": entry of guest offset %" PRIu64 " is %#" PRIx64
			", %s; it cannot be written to before it was repaired",
			t->img->name, table_off, number * t->cluster_bytes, raw, why);
}

static int load_table(void *user, uint64_t index, uint64_t *raw, struct img_error *err)
{
	struct img_tables_survey *l = user;
	const struct img_tables *t = l->t;
	uint64_t off = *raw;

	if (!img_tables_table_fits(t, off))
		return img_fail(err, -EUCLEAN,
				"%s: L1 table at %" PRIu64 ": entry %" PRIu64 " is %#" PRIx64
				", expected 0 or a table inside the file's %" PRIu64
				" bytes; it cannot be written to before it was repaired",
				t->img->name, t->l1_off, index, off, (uint64_t)t->img->file->size);
	if (off % IMG_META_SECTOR)
		return img_fail(err, -ENOTSUP,
				"%s: L1 table at %" PRIu64 ": entry %" PRIu64 " is %#" PRIx64
				", expected a multiple of %d for writing",
				t->img->name, t->l1_off, index, off, IMG_META_SECTOR);
	/* More than fit the file: two are the same. Refused before memory is taken for them. */
	if (l->table_count > t->img->file->size / img_tables_table_bytes(t))
		return img_fail(err, -EUCLEAN,
				"%s: L1 table at %" PRIu64 ": more L2 tables than the file's %" PRIu64
				" bytes have room for; it cannot be written to before it was repaired",
				t->img->name, t->l1_off, (uint64_t)t->img->file->size);
	if (l->table_count == l->table_max) {
		size_t max = l->table_max ? l->table_max * 2 : 64;
		struct img_table_place *more = realloc(l->tables, max * sizeof(*more));

		if (!more)
			return img_tables_no_memory(t, err);
		l->tables = more;
		l->table_max = max;
	}
	l->tables[l->table_count++] = (struct img_table_place){ index, off };
	if (img_range_map_add_block(l->metadata, off))
		return img_tables_no_memory(t, err);
	return 0;
}

struct load_entries {
	struct img_tables_survey *l;
	uint64_t table_off;
};

static int load_packed(struct img_tables_survey *l, uint64_t table_off, uint64_t number,
		       const struct img_table_entry *e, struct img_error *err)
{
	const struct img_tables *t = l->t;
	uint64_t first = unit_of(t, e->off), n = units_of(t, e->off, e->len);
	enum img_use use;

	for (uint64_t i = first; i < first + n; i++)
		if (img_sparse_bitset_has(&l->used.used, i) && !img_sparse_bitset_has(&l->fixed, i))
			return refuse(t, err, table_off, number, e->raw, "where another cluster is, too");
	if (img_range_map_at(l->metadata, e->off, e->len))
		return refuse(t, err, table_off, number, e->raw, "where metadata is");
	l->packed_end = max_u64(l->packed_end, e->off + e->len);
	if (img_sparse_bitset_add(&l->fixed, first, n) < 0 ||
	    img_sparse_bitset_add(&l->packed, first, n) < 0 ||
	    img_use_map_add(&l->used, e->off, e->len, &use))
		return img_tables_no_memory(t, err);
	return 0;
}

static int load_entry(void *user, uint64_t number, uint64_t entry_off, uint64_t *raw, struct img_error *err)
{
	struct load_entries *le = user;
	struct img_tables_survey *l = le->l;
	const struct img_tables *t = l->t;
	struct img_table_entry e = img_tables_decode(t, *raw);
	enum img_use use;

	(void)entry_off;
	if (e.kind != IMG_TABLE_DATA && e.kind != IMG_TABLE_PACKED)
		return 0;
	if (!e.len || e.off < t->header_end || !range_in(e.off, e.len, t->img->file->size))
		return refuse(t, err, le->table_off, number, *raw, "outside of the file");
	if (e.kind == IMG_TABLE_PACKED)
		return load_packed(l, le->table_off, number, &e, err);
	if (e.off % t->cluster_bytes)
		return refuse(t, err, le->table_off, number, *raw,
			      "expected a multiple of the cluster size");
	if (img_use_map_add(&l->used, e.off, e.len, &use))
		return img_tables_no_memory(t, err);
	if (use != IMG_USE_NEW)
		return refuse(t, err, le->table_off, number, *raw,
			      "which has another use, too");
	return 0;
}

static int load_fixed(struct img_tables_survey *l, struct img_error *err)
{
	const struct img_tables *t = l->t;
	uint64_t l1_bytes = t->l1_entries * IMG_TABLE_ENTRY_BYTES;
	struct img_range pair[2];

	if (img_range_map_add(l->metadata, 0, t->header_end, "header") ||
	    img_range_map_add(l->metadata, t->name_off, t->name_bytes, "backing file name") ||
	    img_range_map_add(l->metadata, t->l1_off, l1_bytes, "L1 table") ||
	    use_fixed(l, 0, t->header_end) || use_fixed(l, t->name_off, t->name_bytes) ||
	    use_fixed(l, t->l1_off, l1_bytes))
		return img_tables_no_memory(t, err);
	for (size_t i = 0; i < l->table_count; i++)
		if (use_fixed(l, l->tables[i].off, img_tables_table_bytes(t)))
			return img_tables_no_memory(t, err);
	img_range_map_sort(l->metadata);
	if (!img_range_map_overlap(l->metadata, pair) &&
	    !img_range_map_block_overlap(l->metadata, pair))
		return 0;
	return img_fail(err, -EUCLEAN,
			"%s: the %s at %" PRIu64 " overlaps the %s at %" PRIu64
			"; it cannot be written to before it was repaired",
			t->img->name, pair[1].name, pair[1].off, pair[0].name, pair[0].off);
}

int img_tables_survey(struct img_tables *t, struct img_tables_survey *l, struct img_error *err)
{
	uint64_t units = div_round_up_u64(t->img->file->size, t->cluster_bytes);
	int rc;

	*l = (struct img_tables_survey){ .t = t, .metadata = &t->metadata };
	img_use_map_init(&l->used, units * t->cluster_bytes, t->cluster_bytes);
	img_sparse_bitset_init(&l->fixed, units, 0);
	img_sparse_bitset_init(&l->packed, units, 0);
	img_range_map_free(l->metadata);
	*l->metadata = (struct img_range_map){ .block_bytes = img_tables_table_bytes(t),
					       .block_name = "L2 table" };
	rc = img_tables_each_table(t, 0, t->l1_entries, load_table, l, err);
	if (!rc)
		rc = load_fixed(l, err);
	for (size_t i = 0; i < l->table_count && !rc; i++) {
		struct load_entries le = { l, l->tables[i].off };

		rc = img_tables_each_entry(t, l->tables[i].index, le.table_off, 0, t->table_entries,
					   load_entry, &le, err);
	}
	img_range_map_free(l->metadata);
	*l->metadata = (struct img_range_map){ 0 };
	return rc;
}

int img_tables_load(struct img_tables *t, struct img_error *err)
{
	const struct img_storage *file = t->img->file;
	uint64_t next = round_up_u64(file->size, t->cluster_bytes), limit = t->limit;
	struct img_tables_survey l;
	int rc;

	img_tables_free(t);
	rc = img_tables_survey(t, &l, err);
	if (!rc) {
		if (file->device) {
			next = align_down_u64(file->size, t->cluster_bytes);
			limit = min_u64(limit, next);
		}
		img_unit_alloc_init(&t->alloc, t->cluster_bytes, next, limit);
		t->clean_from = next;
		/* Compressed data goes on where the last of it ended, if that is the file's end. */
		t->compressed_end = !file->device && l.packed_end == file->size &&
						    l.packed_end % t->cluster_bytes
					    ? l.packed_end
					    : 0;
		rc = img_unit_alloc_find_free(&t->alloc, &l.used, 0) ? img_tables_no_memory(t, err)
								     : 0;
	}
	img_tables_survey_free(&l);
	t->writing = !rc;
	if (rc)
		img_tables_free(t);
	return rc;
}

void img_tables_free(struct img_tables *t)
{
	img_unit_alloc_free(&t->alloc);
	img_range_map_free(&t->metadata);
	t->metadata = (struct img_range_map){ 0 };
	t->compressed_end = 0;
	t->writing = false;
}

/* ---- Tables that are too large for the cache ---- */

int img_tables_grow(struct img_tables *t, uint64_t off, uint64_t len, struct img_error *err)
{
	struct img_storage *file = t->img->file;
	uint64_t span = img_tables_span(t), bytes = img_tables_table_bytes(t);
	uint64_t units = div_round_up_u64(bytes, t->cluster_bytes);
	int rc = 0;

	if (bytes <= IMG_TABLE_CACHED_MAX)
		return 0;
	for (uint64_t index = off / span; index <= (off + len - 1) / span && !rc; index++) {
		uint64_t at = t->l1_off + index * IMG_TABLE_ENTRY_BYTES, table_off;
		uint8_t slot[IMG_TABLE_ENTRY_BYTES];

		rc = img_storage_read(file, at, slot, sizeof(slot), err);
		if (rc || img_tables_load_raw(t, slot))
			continue;
		if (img_unit_alloc_get_at_end(&t->alloc, units, &table_off))
			return img_fail(err, -EFBIG, "%s: no room for an L2 table of %" PRIu64 " bytes",
					t->img->name, bytes);
		t->clean_from = max_u64(t->clean_from, table_off + units * t->cluster_bytes);
		rc = img_storage_zero(file, table_off, units * t->cluster_bytes, err);
		img_meta_forget(t->img, file, table_off, units * t->cluster_bytes);
		if (!rc)
			rc = img_tables_sync(t, err);
		if (!rc)
			rc = img_tables_write_raw(t, at, table_off, err);
		if (!rc)
			rc = img_tables_sync(t, err);
		t->trim |= rc != 0;
	}
	return rc;
}

int img_tables_has_room(struct img_tables *t, uint64_t off, uint64_t len, bool *out, struct img_error *err)
{
	uint64_t l1_bytes = t->l1_entries * IMG_TABLE_ENTRY_BYTES, first, last;
	struct img_tables_survey l;
	int rc = img_tables_survey(t, &l, err);

	first = unit_of(t, off);
	last = unit_of(t, off + len - 1);
	*out = !rc && off >= t->header_end && last < l.fixed.size &&
	       !ranges_overlap(t->name_off, t->name_bytes, off, len) &&
	       !ranges_overlap(t->l1_off, l1_bytes, off, len);
	for (uint64_t unit = first; unit <= last && *out; unit++)
		*out = img_sparse_bitset_has(&l.fixed, unit) && !img_sparse_bitset_has(&l.packed, unit);
	for (size_t i = 0; i < l.table_count && *out; i++)
		*out = !ranges_overlap(l.tables[i].off, img_tables_table_bytes(t), off, len);
	img_tables_survey_free(&l);
	return rc;
}

/* ---- A longer L1 table ---- */

static int l1_has_room(struct img_tables *t, uint64_t entries, bool *out, struct img_error *err)
{
	uint64_t end = t->l1_off + t->l1_entries * IMG_TABLE_ENTRY_BYTES;
	uint64_t new_end = t->l1_off + entries * IMG_TABLE_ENTRY_BYTES;

	*out = false;
	if (new_end > round_up_u64(end, t->cluster_bytes))
		return 0;
	return img_tables_has_room(t, end, new_end - end, out, err);
}

int img_tables_extend_l1(struct img_tables *t, uint64_t entries, uint64_t *off, struct img_error *err)
{
	struct img_storage *file = t->img->file;
	uint64_t old = t->l1_entries * IMG_TABLE_ENTRY_BYTES, bytes = entries * IMG_TABLE_ENTRY_BYTES;
	uint64_t to = t->l1_off;
	bool room;
	int rc = l1_has_room(t, entries, &room, err);

	if (!rc && !room) {
		to = round_up_u64(file->size, t->cluster_bytes);
		if (file->device || to > t->limit - round_up_u64(bytes, t->cluster_bytes))
			return img_fail(err, file->device ? -ENOSPC : -EFBIG,
					"%s: no room for an L1 table of %" PRIu64 " entries", t->img->name, entries);
		rc = img_tables_copy(t, t->l1_off, to, old, err);
	}
	if (!rc)
		rc = img_storage_zero(file, to + old, bytes - old, err);
	img_meta_forget(t->img, file, align_down_u64(to, IMG_META_SECTOR),
			round_up_u64(bytes, IMG_META_SECTOR) + IMG_META_SECTOR);
	if (!rc)
		rc = img_tables_sync(t, err);
	t->trim = true;
	if (!rc)
		*off = to;
	return rc;
}

/* ---- Giving up ---- */

static int clear_raw(void *user, uint64_t number, uint64_t entry_off, uint64_t *raw, struct img_error *err)
{
	(void)user;
	(void)number;
	(void)entry_off;
	(void)err;
	*raw = 0;
	return 0;
}

struct clearing {
	struct img_tables *t;
	uint64_t first, end; /* clusters */
};

static int clear_table(void *user, uint64_t index, uint64_t *raw, struct img_error *err)
{
	const struct clearing *c = user;
	struct img_tables *t = c->t;
	uint64_t base = index * t->table_entries, end = base + t->table_entries;

	if (c->first <= base && c->end >= end) {
		*raw = 0;
		return 0;
	}
	return img_tables_each_entry(t, index, *raw, max_u64(c->first, base) - base,
				     min_u64(c->end, end) - base, clear_raw, NULL, err);
}

int img_tables_clear(struct img_tables *t, uint64_t first, uint64_t end, struct img_error *err)
{
	struct clearing c = { t, first, end };
	int rc = 0;

	if (first < end)
		rc = img_tables_each_table(t, first / t->table_entries,
					   min_u64(div_round_up_u64(end, t->table_entries),
						   t->l1_entries),
					   clear_table, &c, err);
	t->trim = true;
	return rc ? rc : img_tables_sync(t, err);
}

int img_tables_make_empty(struct img_tables *t, struct img_error *err)
{
	struct img_storage *file = t->img->file;
	uint64_t l1_bytes = t->l1_entries * IMG_TABLE_ENTRY_BYTES, end;
	int rc = img_storage_zero(file, t->l1_off, l1_bytes, err);

	img_meta_forget(t->img, file, 0, UINT64_MAX / 2);
	if (!rc)
		rc = img_tables_sync(t, err);
	if (rc)
		return rc;
	end = max_u64(max_u64(t->header_end, t->name_off + t->name_bytes), t->l1_off + l1_bytes);
	if (t->whole)
		end = round_up_u64(end, t->cluster_bytes);
	if (!file->device && end < file->size)
		rc = img_storage_resize(file, end, IMG_PREALLOCATE_OFF, err);
	return rc ? rc : img_tables_load(t, err);
}

/* ---- Copying ---- */

int img_tables_copy(const struct img_tables *t, uint64_t from, uint64_t to, uint64_t len,
		    struct img_error *err)
{
	struct img_storage *file = t->img->file;
	uint64_t size = file->size, at = 0, n;
	/* What is to be behind the end of the file is zeroes. */
	uint64_t end = from < size ? min_u64(len, size - from) : 0;
	uint8_t *buffer = malloc(COPY_BYTES);
	int rc = 0;

	if (!buffer)
		return img_tables_no_memory(t, err);
	for (; at < end && !rc; at += n) {
		enum img_storage_extent kind;

		rc = img_storage_extent(file, from + at, end - at, &kind, &n);
		if (rc) {
			img_fail(err, rc, "%s: reading at %" PRIu64 ": %s", t->img->name, from + at,
				 strerror(-rc));
		} else if (kind == IMG_STORAGE_HOLE) {
			rc = img_storage_zero(file, to + at, n, err);
		} else {
			n = min_u64(n, COPY_BYTES);
			rc = img_storage_read(file, from + at, buffer, n, err);
			if (!rc)
				rc = img_storage_write(file, to + at, buffer, n, err);
		}
	}
	if (!rc && end < len)
		rc = img_storage_zero(file, to + end, len - end, err);
	free(buffer);
	img_meta_forget(t->img, file, align_down_u64(to, IMG_META_SECTOR),
			round_up_u64(len, IMG_META_SECTOR) + IMG_META_SECTOR);
	return rc;
}
