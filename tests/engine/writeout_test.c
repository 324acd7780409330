/* Write-out by itself: the order in which things become durable, and what happens when they don't. */
#include "tests/engine/parts.h"

/* Where the metadata of each rank lies here. */
static uint64_t place(enum img_rank rank)
{
	return rank * UINT64_C(65536);
}

static void all_ranks(struct parts *p, unsigned file)
{
	for (int r = IMG_RANKS - 1; r >= 0; r--)
		parts_set(p, file, place((enum img_rank)r), (uint8_t)(r + 1), (enum img_rank)r);
}

Test(writeout, a_rank_is_written_when_all_files_have_what_is_below)
{
	struct parts *p = parts_new(false);
	size_t last = 0;

	parts_data(p, 1, 1 << 20);
	parts_data(p, 2, 1 << 20);
	all_ranks(p, 0);
	all_ranks(p, 1);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	for (unsigned r = 0; r < IMG_RANKS; r++) {
		size_t i[2];

		for (unsigned f = 0; f < 2; f++) {
			i[f] = watch_find(&p->watch, 0, f, place((enum img_rank)r), 512);
			cr_assert_lt(i[f], p->watch.n);
			cr_assert_geq(i[f], last);
			cr_assert_eq(parts_on_disk(p, f, place((enum img_rank)r)), r + 1);
		}
		/* the two of one rank may be under way together */
		for (unsigned f = 0; r > 0 && f < PARTS_FILES; f++)
			cr_assert(!watch_unsynced(&p->watch, min_size(i[0], i[1]), f),
				  "rank %u is written before file %u was synced", r, f);
		last = min_size(i[0], i[1]) + 2;
	}
	for (unsigned f = 0; f < PARTS_FILES; f++)
		cr_assert(!watch_unsynced(&p->watch, p->watch.n, f));
	parts_free(p);
}

/* Each file alone, or the files before it, may have nothing to sync. */
Test(writeout, every_file_is_synced_whichever_was_written_to)
{
	for (unsigned mask = 1; mask < 1 << PARTS_FILES; mask++) {
		struct parts *p = parts_new(false);

		for (unsigned f = 0; f < PARTS_FILES; f++)
			img_engine_touch(p->img.engine, p->file[f]);
		for (unsigned f = 0; f < PARTS_FILES; f++)
			if (mask & 1u << f)
				parts_data(p, f, 1 << 20);
		cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
		for (unsigned f = 0; f < PARTS_FILES; f++)
			cr_assert_eq(watch_count(&p->watch, 0, f, IMG_IO_SYNC), mask >> f & 1);
		parts_free(p);
	}
}

Test(writeout, metadata_of_another_file_is_synced)
{
	struct parts *p = parts_new(false);
	struct img_req req;

	parts_set(p, 1, 0, 1, IMG_RANK_MAPPING);
	parts_req(p, &req);
	cr_assert_eq(img_meta_new(&req, p->file[2], 0, 512, IMG_RANK_MAPPING), 0);
	img_req_release(&req);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(watch_count(&p->watch, 0, 1, IMG_IO_WRITE), 1);
	cr_assert_eq(watch_count(&p->watch, 0, 2, IMG_IO_WRITE), 1);
	cr_assert(!watch_unsynced(&p->watch, p->watch.n, 1));
	cr_assert(!watch_unsynced(&p->watch, p->watch.n, 2));
	parts_free(p);
}

Test(writeout, not_durable_ends_without_a_sync)
{
	struct parts *p = parts_new(false);

	parts_set(p, 0, 0, 1, IMG_RANK_ALLOCATION);
	cr_assert_eq(img_writeout(p->img.engine, false, NULL), 0);
	cr_assert_eq(parts_on_disk(p, 0, 0), 1);
	cr_assert_eq(watch_count(&p->watch, 0, 0, IMG_IO_SYNC), 0);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(watch_count(&p->watch, 0, 0, IMG_IO_SYNC), 1, "nothing is dirty, but that");
	parts_free(p);
}

Test(writeout, unsafe_images_are_never_synced)
{
	struct parts *p = parts_new(true);

	parts_data(p, 1, 1 << 20);
	all_ranks(p, 0);
	parts_free_later(p, 1 << 20);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	for (unsigned f = 0; f < PARTS_FILES; f++)
		cr_assert_eq(watch_count(&p->watch, 0, f, IMG_IO_SYNC), 0);
	cr_assert_eq(parts_on_disk(p, 0, place(IMG_RANK_HEADER)), IMG_RANK_HEADER + 1);
	cr_assert_eq(p->releases, 1);
	parts_free(p);
}

/* ---- Failures ---- */

static int fail_a(struct watch *w, const struct watch_entry *e)
{
	return e->op == w->b && w->a-- == 0 ? -EIO : 0;
}

/* Let the n'th request of a kind fail, this once. */
static void let_fail(struct parts *p, enum img_io_op op, uint64_t n)
{
	p->watch.a = n;
	p->watch.b = op;
	p->watch.before = fail_a;
}

Test(writeout, after_a_failed_sync_nothing_is_durable_any_more)
{
	for (uint64_t at = 0; at < 6; at++) {
		struct parts *p = parts_new(false);
		struct img_error err = { 0 };
		size_t n;

		parts_data(p, 1, 1 << 20);
		all_ranks(p, 0);
		let_fail(p, IMG_IO_SYNC, at);
		if (!img_writeout(p->img.engine, true, NULL)) {
			cr_assert_geq(at, 5, "one for each rank, and two files");
			parts_free(p);
			break;
		}
		n = p->watch.n;
		/* from here on syncs succeed; what was lost is not known */
		cr_assert_eq(img_writeout(p->img.engine, true, &err), -EIO);
		cr_assert(strstr(img_error_text(&err), "an earlier sync failed"));
		img_error_clear(&err);
		parts_data(p, 2, 1 << 20);
		cr_assert_eq(img_writeout(p->img.engine, true, NULL), -EIO);
		cr_assert_eq(img_writeout_drain(p->img.engine, true, NULL), -EIO);
		for (size_t i = watch_find(&p->watch, n, 0, place(IMG_RANK_MAPPING), 4 << 16);
		     i < p->watch.n; i++)
			cr_assert_neq(p->watch.entry[i].op, IMG_IO_WRITE, "no rank above the first");
		parts_free(p);
	}
}

Test(writeout, what_is_above_a_failed_write_is_not_written)
{
	for (unsigned at = 0; at < IMG_RANKS; at++) {
		struct parts *p = parts_new(false);

		all_ranks(p, 0);
		let_fail(p, IMG_IO_WRITE, at);
		cr_assert_eq(img_writeout(p->img.engine, true, NULL), -EIO);
		for (unsigned r = 0; r < IMG_RANKS; r++)
			cr_assert_eq(parts_on_disk(p, 0, place((enum img_rank)r)),
				     r < at ? r + 1 : 0);
		cr_assert_neq(p->img.engine->writeout_rc, 0);
		cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0, "that was a full disk");
		for (unsigned r = 0; r < IMG_RANKS; r++)
			cr_assert_eq(parts_on_disk(p, 0, place((enum img_rank)r)), r + 1);
		cr_assert_eq(p->img.engine->writeout_rc, 0);
		parts_free(p);
	}
}

/* ---- Neighbours ---- */

Test(writeout, neighbours_are_written_together_and_others_are_not)
{
	enum { BLOCK = IMG_META_BLOCK };
	struct parts *p = parts_new(false);

	for (unsigned i = 0; i < 3; i++) { /* whole blocks in a row */
		struct img_req req;

		parts_req(p, &req);
		cr_assert_eq(img_meta_new(&req, p->file[0], i * (uint64_t)BLOCK, BLOCK,
					  IMG_RANK_MAPPING),
			     0);
		memset(img_meta_edit(&req, p->file[0], i * (uint64_t)BLOCK, BLOCK, IMG_RANK_MAPPING),
		       (int)i + 1, BLOCK);
		img_req_release(&req);
	}
	parts_set(p, 0, 4 * BLOCK, 5, IMG_RANK_MAPPING);
	parts_set(p, 0, 4 * BLOCK + 1024, 6, IMG_RANK_MAPPING);
	parts_set(p, 1, 4 * BLOCK + 1536, 7, IMG_RANK_MAPPING);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(watch_count(&p->watch, 0, 0, IMG_IO_WRITE), 3);
	cr_assert_eq(watch_count(&p->watch, 0, 1, IMG_IO_WRITE), 1);
	for (unsigned i = 0; i < 3; i++) {
		cr_assert_eq(parts_on_disk(p, 0, i * (uint64_t)BLOCK), i + 1);
		cr_assert_eq(parts_on_disk(p, 0, (i + 1) * (uint64_t)BLOCK - 1), i + 1);
	}
	cr_assert_eq(parts_on_disk(p, 0, 3 * BLOCK), 0);
	cr_assert_eq(parts_on_disk(p, 0, 4 * BLOCK), 5);
	cr_assert_eq(parts_on_disk(p, 0, 4 * BLOCK + 1024), 6);
	cr_assert_eq(parts_on_disk(p, 1, 4 * BLOCK + 1536), 7);
	parts_free(p);
}

Test(writeout, many_neighbours_are_all_written)
{
	enum { BLOCK = IMG_META_BLOCK,
	       N = 100 };
	struct parts *p = parts_new(false);
	struct img_req req;

	parts_req(p, &req);
	cr_assert_eq(img_meta_new(&req, p->file[0], 0, N * BLOCK, IMG_RANK_MAPPING), 0);
	for (uint64_t i = 0; i < N; i++)
		*img_meta_edit(&req, p->file[0], i * BLOCK, 1, IMG_RANK_MAPPING) = (uint8_t)(i + 1);
	img_req_release(&req);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	for (uint64_t i = 0; i < N; i++)
		cr_assert_eq(parts_on_disk(p, 0, i * BLOCK), i + 1);
	parts_free(p);
}

/* ---- Journal ---- */

static int look_at_journal(struct parts *p, size_t n)
{
	for (unsigned f = 0; f < PARTS_FILES; f++)
		cr_assert(!watch_unsynced(&p->watch, p->watch.n, f), "data is durable before");
	cr_assert_eq(watch_find(&p->watch, 0, 0, 0, 4 << 16), p->watch.n, "nothing is in place yet");
	p->watch.b += n;
	return p->watch.a ? -EIO : 0;
}

Test(writeout, a_journal_has_all_ranks_before_any_is_in_place)
{
	struct parts *p = parts_new(false);

	p->img.driver = &parts_journal_driver;
	p->journal = look_at_journal;
	parts_data(p, 1, 1 << 20);
	parts_data(p, 2, 1 << 20);
	all_ranks(p, 0);
	p->watch.a = 1;
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), -EIO);
	cr_assert_eq(p->watch.b, IMG_RANKS);
	cr_assert_eq(watch_find(&p->watch, 0, 0, 0, 4 << 16), p->watch.n, "the journal failed");
	p->watch.a = 0;
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->watch.b, 2 * IMG_RANKS);
	for (unsigned r = 0; r < IMG_RANKS; r++)
		cr_assert_eq(parts_on_disk(p, 0, place((enum img_rank)r)), r + 1);
	cr_assert(!watch_unsynced(&p->watch, p->watch.n, 0));
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->watch.b, 2 * IMG_RANKS, "nothing to say");
	parts_free(p);
}

enum {
	SMALL = 2048,
};

/* What a small journal is given fits it, in the order of ranks; what was given before is in place. */
static int look_at_small_journal(struct parts *p, size_t n)
{
	const struct img_meta_write *w = p->journaled;
	uint64_t cost = 0;

	for (unsigned f = 0; f < PARTS_FILES; f++)
		cr_assert(!watch_unsynced(&p->watch, p->watch.n, f), "it is used from the start");
	for (size_t i = 0; i < n; i++) {
		uint32_t block = p->img.journal_block ? p->img.journal_block : 512;

		cost += (w[i].off + w[i].len + block - 1) / block * block - w[i].off / block * block;
		cr_assert(w[i].len && w[i].len % 512 == 0);
		cr_assert_geq(w[i].rank, (unsigned)p->watch.a);
		p->watch.a = w[i].rank;
	}
	cr_assert_leq(cost, p->img.journal_bytes);
	p->watch.b++;
	return 0;
}

static void small_journal(uint64_t bytes, uint32_t block)
{
	struct parts *p = parts_new(false);
	struct img_req req;

	p->img.driver = &parts_journal_driver;
	p->img.journal_bytes = bytes;
	p->img.journal_block = block;
	p->journal = look_at_small_journal;
	parts_data(p, 1, 1 << 20);
	all_ranks(p, 0);
	/* a write that is larger than the journal, and one across a block of it */
	parts_req(p, &req);
	cr_assert_eq(img_meta_new(&req, p->file[0], 1 << 20, 4 * SMALL, IMG_RANK_ALLOCATION), 0);
	memset(img_meta_edit(&req, p->file[0], 1 << 20, 4 * SMALL, IMG_RANK_ALLOCATION), 7, 4 * SMALL);
	cr_assert_eq(img_meta_new(&req, p->file[1], 3584, 1024, IMG_RANK_MAPPING), 0);
	memset(img_meta_edit(&req, p->file[1], 3584, 1024, IMG_RANK_MAPPING), 9, 1024);
	img_req_release(&req);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_geq(p->watch.b, 4, "in several groups");
	for (unsigned r = 0; r < IMG_RANKS; r++)
		cr_assert_eq(parts_on_disk(p, 0, place((enum img_rank)r)), r + 1);
	cr_assert_eq(parts_on_disk(p, 0, 1 << 20), 7);
	cr_assert_eq(parts_on_disk(p, 0, (1 << 20) + 4 * SMALL - 1), 7);
	cr_assert_eq(parts_on_disk(p, 1, 3584), 9);
	cr_assert_eq(parts_on_disk(p, 1, 3584 + 1023), 9);
	cr_assert(!watch_unsynced(&p->watch, p->watch.n, 0));
	parts_free(p);
}

Test(writeout, a_small_journal_gets_what_fits_it_by_rank)
{
	small_journal(SMALL, 0);
	small_journal(4096, 4096);
	small_journal(512, 512);
}
