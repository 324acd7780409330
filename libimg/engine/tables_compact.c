/*
 * What is at the end of a file with tables of two levels moves into the gaps, until there are none, and the file is cut:
 * clusters of data, compressed data, the backing file's name, the L1 table, L2 tables. Each is copied, and when the copy is durable, what leads
 * there changes over.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/engine/tables_survey.h"

enum {
	MOVES_AT_ONCE = 4096, /* between two syncs */
	ROUNDS_MAX = 16,
};

struct compact {
	struct img_tables *t;
	struct img_tables_survey survey; /* as it was before the step */
	bool moved;			 /* something, in this step */
	bool l1_lifted, name_lifted;	 /* was moved up to move down */
};

/* ---- Gaps ---- */

/* Room that was found, from the lowest gap on. */
struct gaps {
	const struct img_sparse_bitset *used;
	uint64_t unit_bytes;
	uint64_t end;	   /* unit: none above */
	uint64_t at, last; /* bytes of the gap at hand that are left */
};

/* The next gap, of several units perhaps. */
static bool next_gap(struct gaps *g)
{
	uint64_t unit = div_round_up_u64(g->last, g->unit_bytes), run;

	while (unit < g->end && img_sparse_bitset_run(g->used, unit, &run))
		unit += run;
	if (unit >= g->end)
		return false;
	img_sparse_bitset_run(g->used, unit, &run);
	g->at = unit * g->unit_bytes;
	g->last = min_u64(unit + run, g->end) * g->unit_bytes;
	return true;
}

static bool take_gap(struct gaps *g, uint64_t bytes, uint64_t *off)
{
	while (g->last - g->at < bytes)
		if (!next_gap(g))
			return false;
	*off = g->at;
	g->at += bytes;
	return true;
}

static bool has_gaps(const struct compact *c)
{
	return c->survey.used.used.count < c->survey.used.used.size;
}

static struct gaps gaps_below(const struct compact *c, uint64_t unit)
{
	return (struct gaps){
		.used = &c->survey.used.used,
		.unit_bytes = c->t->cluster_bytes,
		.end = min_u64(unit, c->survey.used.used.size),
	};
}

/* ---- What L2 tables lead to ---- */

struct move {
	uint64_t entry_off, raw, from, to, len;
};

struct moves {
	struct img_tables *t;
	enum img_table_kind kind; /* of what moves */
	uint64_t above;		  /* from this unit on */
	struct gaps gaps;
	struct move *list;
	size_t count;
	bool full; /* there are no more gaps */
	bool moved;
};

static int move_some(struct moves *m, struct img_error *err)
{
	struct img_tables *t = m->t;
	int rc = 0;

	for (size_t i = 0; i < m->count && !rc; i++)
		rc = img_tables_copy(t, m->list[i].from, m->list[i].to, m->list[i].len, err);
	if (!rc)
		rc = img_tables_sync(t, err);
	for (size_t i = 0; i < m->count && !rc; i++)
		rc = img_tables_write_raw(t, m->list[i].entry_off, m->list[i].raw, err);
	m->moved |= m->count != 0;
	m->count = 0;
	return rc ? rc : img_tables_sync(t, err);
}

static int find_move(void *user, uint64_t number, uint64_t entry_off, uint64_t *raw, struct img_error *err)
{
	struct moves *m = user;
	struct img_table_entry e = img_tables_decode(m->t, *raw);
	uint64_t to;

	(void)number;
	if (e.kind != m->kind || unit_of(m->t, e.off) < m->above || m->full)
		return 0;
	if (!take_gap(&m->gaps, e.len, &to)) {
		m->full = true;
		return 0;
	}
	m->list[m->count++] = (struct move){ entry_off, e.raw - e.off + to, e.off, to, e.len };
	return m->count == MOVES_AT_ONCE ? move_some(m, err) : 0;
}

static int move_kind(struct compact *c, enum img_table_kind kind, uint64_t above, struct img_error *err)
{
	const struct img_tables_survey *s = &c->survey;
	struct moves m = { .t = c->t, .kind = kind, .above = above, .gaps = gaps_below(c, above) };
	int rc = 0;

	m.list = calloc(MOVES_AT_ONCE, sizeof(*m.list));
	if (!m.list)
		return img_tables_no_memory(c->t, err);
	/* Entries are changed behind the back of what goes over them, which changes none itself. */
	for (size_t i = 0; i < s->table_count && !rc && !m.full; i++)
		rc = img_tables_each_entry(c->t, s->tables[i].index, s->tables[i].off, 0,
					   c->t->table_entries, find_move, &m, err);
	if (!rc && m.count)
		rc = move_some(&m, err);
	free(m.list);
	c->moved |= m.moved;
	return rc;
}

/* The unit from which on there are as many clusters of data as there are gaps below. */
static uint64_t find_threshold(const struct img_tables_survey *s)
{
	const struct img_sparse_bitset *used = &s->used.used;
	uint64_t data = used->count - s->fixed.count, gaps = 0, run;

	for (uint64_t unit = 0; unit < used->size; unit += run) {
		if (!img_sparse_bitset_run(used, unit, &run)) {
			run = min_u64(run, used->size - unit);
			if (gaps + run >= data)
				return unit + (data - gaps);
			gaps += run;
		} else {
			uint64_t fixed_run;
			bool fixed = img_sparse_bitset_run(&s->fixed, unit, &fixed_run);

			run = min_u64(run, fixed_run);
			if (fixed)
				continue;
			if (data - gaps <= run)
				return unit + (data - gaps);
			data -= run;
		}
	}
	return used->size;
}

static int move_data(struct compact *c, struct img_error *err)
{
	return move_kind(c, IMG_TABLE_DATA, find_threshold(&c->survey), err);
}

/* To where the file would end if it had no gaps. */
static int move_packed(struct compact *c, struct img_error *err)
{
	return c->survey.packed.count
		       ? move_kind(c, IMG_TABLE_PACKED, c->survey.used.used.count, err)
		       : 0;
}

/* ---- Tables ---- */

/* Where the last thing that is used ends. */
static uint64_t used_end(const struct compact *c)
{
	const struct img_sparse_bitset *used = &c->survey.used.used;
	uint64_t end = 0, run, bytes;

	for (uint64_t unit = 0; unit < used->size; unit += run)
		if (img_sparse_bitset_run(used, unit, &run))
			end = unit + run;
	bytes = end * c->t->cluster_bytes;
	return c->t->whole ? bytes : min_u64(bytes, c->t->img->file->size);
}

static bool has_room(const struct img_tables *t, uint64_t end)
{
	return end <= t->limit && (!t->img->file->device || end <= t->img->file->size);
}

typedef int moved_fn(struct img_tables *t, uint64_t off, struct img_error *err);

/*
 * What the header leads to: bytes at from. Where no gap is large enough it goes to the end of the file for a while,
 * once: then its own place is one.
 */
static int move_piece(struct compact *c, uint64_t from, uint64_t bytes, moved_fn *moved, bool *lifted,
		      struct img_error *err)
{
	struct img_tables *t = c->t;
	uint64_t to, below;
	struct gaps gaps = gaps_below(c, unit_of(t, from)), any = gaps;
	int rc;

	if (!moved || !bytes || !take_gap(&any, 1, &below))
		return 0;
	if (!take_gap(&gaps, bytes, &to)) {
		to = round_up_u64(used_end(c), t->cluster_bytes);
		if (*lifted || !has_room(t, to + round_up_u64(bytes, t->cluster_bytes)))
			return 0;
		*lifted = true;
	}
	rc = img_tables_copy(t, from, to, bytes, err);
	if (!rc)
		rc = img_tables_sync(t, err);
	if (!rc)
		rc = moved(t, to, err);
	c->moved |= !rc;
	return rc;
}

static int move_l1(struct compact *c, struct img_error *err)
{
	const struct img_tables *t = c->t;

	return move_piece(c, t->l1_off, t->l1_entries * IMG_TABLE_ENTRY_BYTES, t->l1_moved, &c->l1_lifted,
			  err);
}

static int move_name(struct compact *c, struct img_error *err)
{
	const struct img_tables *t = c->t;

	return move_piece(c, t->name_off, t->name_bytes, t->name_moved, &c->name_lifted, err);
}

static int move_table(struct img_tables *t, struct img_table_place *table, uint64_t to, struct img_error *err)
{
	int rc = img_tables_copy(t, table->off, to, img_tables_table_bytes(t), err);

	if (!rc)
		rc = img_tables_sync(t, err);
	if (!rc)
		rc = img_tables_write_raw(t, t->l1_off + table->index * IMG_TABLE_ENTRY_BYTES, to, err);
	if (!rc)
		rc = img_tables_sync(t, err);
	if (!rc)
		table->off = to;
	return rc;
}

static int compare_tables(const void *a, const void *b)
{
	const struct img_table_place *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

/*
 * Tables move down to `to`, behind which there is nothing else. Where the gap is smaller than a table, that one
 * goes to the end of the file for a while.
 */
static int slide_tables(struct compact *c, uint64_t to, struct img_error *err)
{
	struct img_tables *t = c->t;
	uint64_t cluster = t->cluster_bytes;
	uint64_t bytes = round_up_u64(img_tables_table_bytes(t), cluster);
	uint64_t end = round_up_u64(used_end(c), cluster), above = to;
	size_t count = c->survey.table_count, first = 0;
	struct img_table_place *list = realloc(c->survey.tables, (count * 2 + 1) * sizeof(*list));
	int rc = 0;

	if (!list)
		return img_tables_no_memory(t, err);
	c->survey.tables = list;
	qsort(list, count, sizeof(*list), compare_tables);
	while (first < count && list[first].off < above)
		first++;
	for (size_t i = first, n = count; i < n && !rc; i++) {
		if (list[i].off == to) {
			to += bytes;
			continue;
		}
		if (list[i].off >= to + bytes) {
			rc = move_table(t, &list[i], to, err);
			to += bytes;
		} else if (i < count && list[i].off > to && has_room(t, end + bytes)) {
			list[n] = list[i];
			rc = move_table(t, &list[n++], end, err);
			end += bytes;
		} else {
			break;
		}
		c->moved = true;
	}
	return rc;
}

/* Is there anything but L2 tables from a unit on? */
static bool others_above(const struct compact *c, uint64_t above)
{
	const struct img_tables *t = c->t;
	const struct img_sparse_bitset *packed = &c->survey.packed;
	uint64_t run = 0;

	if (t->l1_off + t->l1_entries * IMG_TABLE_ENTRY_BYTES > above * t->cluster_bytes ||
	    t->name_off + t->name_bytes > above * t->cluster_bytes)
		return true;
	return above < packed->size &&
	       (img_sparse_bitset_run(packed, above, &run) || run < packed->size - above);
}

/* The last ones first, each to a gap that is large enough. */
static int move_tables_to_gaps(struct compact *c, struct img_error *err)
{
	struct img_tables *t = c->t;
	uint64_t bytes = round_up_u64(img_tables_table_bytes(t), t->cluster_bytes), to;
	struct img_tables_survey *s = &c->survey;
	struct gaps gaps = gaps_below(c, s->used.used.size);
	int rc = 0;

	if (s->table_count)
		qsort(s->tables, s->table_count, sizeof(*s->tables), compare_tables);
	for (size_t i = s->table_count; i > 0 && !rc; i--) {
		if (!take_gap(&gaps, bytes, &to) || to > s->tables[i - 1].off)
			break;
		rc = move_table(t, &s->tables[i - 1], to, err);
		c->moved = true;
	}
	return rc;
}

static int move_tables(struct compact *c, struct img_error *err)
{
	uint64_t above = find_threshold(&c->survey);

	return others_above(c, above) ? move_tables_to_gaps(c, err)
				      : slide_tables(c, above * c->t->cluster_bytes, err);
}

/* ---- All of it ---- */

typedef int step_fn(struct compact *c, struct img_error *err);

/* One kind of thing moves; c->survey is true before and after it. *any: some did. */
static int take_step(struct compact *c, step_fn *step, bool *any, struct img_error *err)
{
	int rc;

	if (!has_gaps(c))
		return 0;
	c->moved = false;
	rc = step(c, err);
	*any |= c->moved;
	if (rc || !c->moved)
		return rc;
	img_tables_survey_free(&c->survey);
	return img_tables_survey(c->t, &c->survey, err);
}

static int cut_file(const struct compact *c, struct img_error *err)
{
	struct img_storage *file = c->t->img->file;
	uint64_t end = used_end(c);

	if (file->device || end == file->size)
		return 0;
	img_meta_forget(c->t->img, file, round_up_u64(end, IMG_META_SECTOR), UINT64_MAX / 2);
	return img_storage_resize(file, end, IMG_PREALLOCATE_OFF, err);
}

static int move_all(struct compact *c, struct img_error *err)
{
	static step_fn *const steps[] = { move_data, move_packed, move_name, move_l1, move_tables };
	bool any = true;
	int rc = 0;

	for (unsigned round = 0; round < ROUNDS_MAX && any && !rc; round++) {
		any = false;
		for (size_t i = 0; i < IMG_ARRAY_LEN(steps) && !rc; i++)
			rc = take_step(c, steps[i], &any, err);
		if (!rc && any) { /* what is behind the end now is no gap */
			rc = cut_file(c, err);
			img_tables_survey_free(&c->survey);
			if (!rc)
				rc = img_tables_survey(c->t, &c->survey, err);
			else
				c->survey = (struct img_tables_survey){ 0 };
		}
	}
	return rc ? rc : cut_file(c, err);
}

int img_tables_compact(struct img_tables *t, struct img_error *err)
{
	struct compact c = { .t = t };
	int rc = img_tables_survey(t, &c.survey, err);

	if (!rc)
		rc = move_all(&c, err);
	img_tables_survey_free(&c.survey);
	if (rc) { /* some moved: what is free is to be found out anew */
		img_tables_load(t, NULL);
		return rc;
	}
	return img_tables_load(t, err);
}

/* ---- The end of a session ---- */

int img_tables_finish(struct img_tables *t, struct img_error *err)
{
	struct img_storage *file = t->img->file;
	int rc = 0;

	if (!t->writing)
		return 0;
	if (t->trim || t->alloc.run_count) {
		rc = img_tables_compact(t, err);
		if (rc == -ENOSPC) { /* gaps cost space, nothing else */
			img_error_clear(err);
			rc = 0;
		}
		t->trim = false;
	}
	if (!rc && t->whole && !file->device && file->size % t->cluster_bytes)
		rc = img_storage_resize(file, round_up_u64(file->size, t->cluster_bytes),
					IMG_PREALLOCATE_OFF, err);
	return rc;
}
