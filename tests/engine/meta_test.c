/* The metadata cache by itself: what stays in memory, what is dirty, and at which rank. */
#include "tests/engine/parts.h"

enum {
	BLOCK = IMG_META_BLOCK,
	BLOCKS = 16, /* the least that a cache holds */
};

/* Look at more blocks of file 1 than the cache holds. */
static void crowd(struct parts *p)
{
	for (uint64_t i = 0; i < 4 * BLOCKS; i++) {
		struct img_req req;

		parts_req(p, &req);
		cr_assert_not_null(parts_get(p, &req, 1, i * BLOCK, 1));
		img_req_release(&req);
	}
}

static void no_groups(struct parts *p, struct img_meta_group groups[IMG_RANKS])
{
	memset(groups, 0, IMG_RANKS * sizeof(*groups));
	img_meta_written(p->img.engine->meta, groups, 0);
}

/* ---- Reading ---- */

/* Begin to read the block at off of file 0, for one loader. */
static struct img_block *begin_load_by(struct parts *p, struct img_req *req, uint64_t off,
				       const void *loader, struct img_load *load)
{
	struct img_block *b;
	bool must;

	cr_assert_null(img_meta_get(req, p->file[0], off, 1));
	b = img_meta_request(req, loader, load, &must);
	cr_assert(b && must);
	cr_assert_eq(img_storage_read(p->file[0], off / BLOCK * BLOCK, load->buffer, BLOCK, NULL),
		     0);
	return b;
}

static struct img_block *begin_load(struct parts *p, struct img_req *req, uint64_t off,
				    struct img_load *load)
{
	return begin_load_by(p, req, off, p, load);
}

Test(meta, what_is_forgotten_while_it_is_read_does_not_come_back)
{
	struct parts *p = parts_new(false);
	struct img_load load;
	struct img_req req;

	parts_req(p, &req);
	begin_load(p, &req, 0, &load);
	/* other code writes there, behind the cache's back */
	cr_assert_eq(img_storage_write(p->file[0], 100, "new", 3, NULL), 0);
	img_meta_forget(&p->img, p->file[0], 0, 512);
	img_meta_loaded(&load, 0);
	cr_assert_null(img_meta_get(&req, p->file[0], 100, 3), "read before it was written");
	cr_assert_eq(memcmp(parts_get(p, &req, 0, 100, 3), "new", 3), 0);
	img_req_release(&req);
	parts_free(p);
}

static int forget_first(struct watch *w, const struct watch_entry *e)
{
	struct parts *p = w->user;

	if (e->op == IMG_IO_READ && w->a && --w->a == 0)
		img_meta_forget(&p->img, p->file[0], e->off, e->len);
	return 0;
}

Test(meta, nor_when_it_is_read_by_a_blocking_call)
{
	struct parts *p = parts_new(false);
	struct img_req req;

	parts_req(p, &req);
	cr_assert_null(img_meta_get(&req, p->file[0], 0, 1));
	p->watch.user = p;
	p->watch.a = 1;
	p->watch.before = forget_first;
	cr_assert_eq(img_meta_fetch(&req), 0);
	cr_assert_null(img_meta_get(&req, p->file[0], 0, 1));
	img_req_release(&req);
	parts_free(p);
}

Test(meta, what_is_read_does_not_replace_what_was_made_meanwhile)
{
	struct parts *p = parts_new(false);
	struct img_load load;
	struct img_req req;

	cr_assert_eq(img_storage_write(p->file[0], 0, "old", 3, NULL), 0);
	cr_assert_eq(img_storage_write(p->file[0], 600, "old", 3, NULL), 0);
	parts_req(p, &req);
	begin_load(p, &req, 600, &load);
	cr_assert_eq(img_meta_new(&req, p->file[0], 0, 512, IMG_RANK_MAPPING), 0);
	img_meta_edit(&req, p->file[0], 0, 1, IMG_RANK_MAPPING)[0] = 'n';
	img_meta_loaded(&load, 0);
	cr_assert_eq(memcmp(img_meta_get(&req, p->file[0], 0, 3), "n\0\0", 3), 0);
	cr_assert_eq(memcmp(img_meta_get(&req, p->file[0], 600, 3), "old", 3), 0);
	img_req_release(&req);
	parts_free(p);
}

Test(meta, a_failed_read_leaves_nothing)
{
	struct parts *p = parts_new(false);
	struct img_load load;
	struct img_req req;

	parts_req(p, &req);
	begin_load(p, &req, 0, &load);
	img_meta_loaded(&load, -EIO);
	cr_assert_null(img_meta_get(&req, p->file[0], 0, 1));
	cr_assert_not_null(parts_get(p, &req, 0, 0, 1), "the next one reads again");
	img_req_release(&req);
	parts_free(p);
}

struct waiting {
	struct img_waiter waiter;
	int rc, wakes;
};

static void count_wake(struct img_waiter *w, int rc, const struct img_error *err)
{
	struct waiting *me = IMG_CONTAINER(w, struct waiting, waiter);

	(void)err;
	me->rc = rc;
	me->wakes++;
}

Test(meta, who_waits_for_a_block_is_told_once_and_reads_nothing)
{
	struct waiting me = { .waiter.wake = count_wake };
	struct parts *p = parts_new(false);
	struct img_load load, other;
	struct img_req req, second;
	struct img_block *b;
	bool must;

	parts_req(p, &req);
	parts_req(p, &second);
	b = begin_load(p, &req, 0, &load);
	cr_assert_null(img_meta_get(&second, p->file[0], 0, 1));
	cr_assert_eq(img_meta_request(&second, p, &other, &must), b);
	cr_assert(!must, "it is being read");
	img_meta_wait(b, &me.waiter);
	img_meta_loaded(&load, -EIO);
	cr_assert_eq(me.wakes, 1);
	cr_assert_eq(me.rc, -EIO);
	img_req_release(&second);
	img_req_release(&req);
	parts_free(p);
}

Test(meta, another_queue_reads_a_block_itself_and_the_first_serves_all)
{
	struct waiting me = { .waiter.wake = count_wake };
	struct parts *p = parts_new(false);
	struct img_load slow, fast;
	struct img_req one, two;
	struct img_block *b;

	parts_req(p, &one);
	parts_req(p, &two);
	b = begin_load_by(p, &one, 0, &one, &slow);
	cr_assert_eq(begin_load_by(p, &two, 0, &two, &fast), b);
	img_meta_wait(b, &me.waiter); /* with the slow one */
	img_meta_loaded(&fast, 0);
	cr_assert_eq(me.wakes, 1);
	cr_assert_eq(me.rc, 0);
	cr_assert_not_null(img_meta_get(&two, p->file[0], 0, 1));
	img_meta_edit(&two, p->file[0], 0, 1, IMG_RANK_MAPPING)[0] = 'n';
	img_meta_loaded(&slow, 0);
	cr_assert_eq(img_meta_get(&one, p->file[0], 0, 1)[0], 'n', "what came late is old");
	img_req_release(&two);
	img_req_release(&one);
	parts_free(p);
}

/* ---- Eviction ---- */

Test(meta, clean_blocks_make_room)
{
	struct parts *p = parts_new(false);
	unsigned there = 0;

	crowd(p);
	for (uint64_t i = 0; i < 4 * BLOCKS; i++)
		there += parts_cached(p, 1, i * BLOCK) >= 0;
	cr_assert_leq(there, BLOCKS);
	cr_assert_gt(there, BLOCKS / 2);
	cr_assert_eq(parts_cached(p, 1, (4 * BLOCKS - 1) * (uint64_t)BLOCK), 0, "the newest stays");
	parts_free(p);
}

Test(meta, the_longest_unused_makes_room)
{
	struct parts *p = parts_new(false);

	for (uint64_t i = 0; i < 4 * BLOCKS; i++) {
		struct img_req req;

		parts_req(p, &req);
		cr_assert_not_null(parts_get(p, &req, 1, i * BLOCK, 1));
		cr_assert_not_null(i < 2 ? parts_get(p, &req, 1, 0, 1)
					 : img_meta_get(&req, p->file[1], 0, 1));
		img_req_release(&req);
	}
	parts_free(p);
}

Test(meta, pinned_blocks_stay)
{
	struct parts *p = parts_new(false);
	const uint8_t *at;
	struct img_req req;

	cr_assert_eq(img_storage_write(p->file[0], 0, "pin", 3, NULL), 0);
	parts_req(p, &req);
	at = parts_get(p, &req, 0, 0, 3);
	crowd(p);
	cr_assert_eq(img_meta_get(&req, p->file[0], 0, 3), at);
	img_req_release(&req);
	crowd(p);
	cr_assert_eq(parts_cached(p, 0, 0), -1, "not any more");
	parts_free(p);
}

Test(meta, dirty_blocks_stay)
{
	struct parts *p = parts_new(false);

	parts_set(p, 0, 0, 7, IMG_RANK_MAPPING);
	crowd(p);
	cr_assert_eq(parts_cached(p, 0, 0), 7);
	parts_free(p);
}

Test(meta, blocks_on_their_way_to_disk_stay)
{
	struct img_meta_group groups[IMG_RANKS];
	struct parts *p = parts_new(false);

	parts_set(p, 0, 0, 7, IMG_RANK_MAPPING);
	cr_assert_eq(img_meta_collect(p->img.engine->meta, groups), 0);
	cr_assert_eq(img_meta_dirty_bytes(p->img.engine->meta), 0);
	crowd(p);
	cr_assert_eq(parts_cached(p, 0, 0), 7, "the file has the old content still");
	img_meta_written(p->img.engine->meta, groups, 0);
	crowd(p);
	cr_assert_eq(parts_cached(p, 0, 0), -1, "not any more");
	parts_free(p);
}

Test(meta, blocks_being_read_stay)
{
	struct parts *p = parts_new(false);
	struct img_load load;
	struct img_req req;

	parts_req(p, &req);
	begin_load(p, &req, 0, &load);
	img_req_release(&req); /* who began it does not need it any more */
	crowd(p);
	img_meta_loaded(&load, 0);
	cr_assert_eq(parts_cached(p, 0, 0), 0);
	parts_free(p);
}

/* ---- Forgetting ---- */

Test(meta, forgetting_takes_what_was_named_and_no_more)
{
	struct parts *p = parts_new(false);

	parts_set(p, 0, 0, 1, IMG_RANK_MAPPING);
	parts_set(p, 0, 512, 2, IMG_RANK_MAPPING);
	parts_set(p, 0, 1024, 3, IMG_RANK_MAPPING);
	parts_set(p, 0, BLOCK, 4, IMG_RANK_MAPPING);
	parts_set(p, 1, 512, 5, IMG_RANK_MAPPING);
	img_meta_forget(&p->img, p->file[0], 512, 512);
	cr_assert_eq(parts_cached(p, 0, 0), 1);
	cr_assert_eq(parts_cached(p, 0, 512), -1);
	cr_assert_eq(parts_cached(p, 0, 1024), 3);
	cr_assert_eq(parts_cached(p, 0, BLOCK), 4);
	cr_assert_eq(parts_cached(p, 1, 512), 5, "another file");
	cr_assert_eq(img_meta_dirty_bytes(p->img.engine->meta), 4 * 512);
	/* one piece across blocks, then all there is */
	img_meta_forget(&p->img, p->file[0], 1024, BLOCK);
	cr_assert_eq(parts_cached(p, 0, 0), 1);
	cr_assert_eq(parts_cached(p, 0, 1024), -1);
	cr_assert_eq(parts_cached(p, 0, BLOCK), -1);
	img_meta_forget(&p->img, p->file[0], 0, UINT64_MAX);
	cr_assert_eq(parts_cached(p, 0, 0), -1);
	cr_assert_eq(parts_cached(p, 1, 512), 5);
	cr_assert_eq(img_meta_dirty_bytes(p->img.engine->meta), 512);
	parts_free(p);
}

/* ---- What is dirty ---- */

Test(meta, a_sector_is_written_once_at_its_last_rank)
{
	struct img_meta_group groups[IMG_RANKS];
	struct parts *p = parts_new(false);

	parts_set(p, 0, 10, 1, IMG_RANK_ALLOCATION);
	parts_set(p, 0, 20, 2, IMG_RANK_ROOT);
	cr_assert_eq(img_meta_dirty_bytes(p->img.engine->meta), 512);
	cr_assert_eq(img_meta_collect(p->img.engine->meta, groups), 0);
	cr_assert_eq(groups[IMG_RANK_ALLOCATION].n, 0);
	cr_assert_eq(groups[IMG_RANK_ROOT].n, 1);
	cr_assert_eq(groups[IMG_RANK_ROOT].writes[0].len, 512);
	cr_assert_eq(groups[IMG_RANK_ROOT].writes[0].data[10], 1);
	cr_assert_eq(groups[IMG_RANK_ROOT].writes[0].data[20], 2);
	img_meta_written(p->img.engine->meta, groups, 0);
	parts_free(p);
}

Test(meta, only_what_is_dirty_is_written_in_the_order_of_the_file)
{
	struct img_meta_group groups[IMG_RANKS];
	static const uint64_t off[] = { 0, 1024, BLOCK - 512, BLOCK, 3 * BLOCK };
	struct parts *p = parts_new(false);

	parts_set(p, 0, 1536, 9, IMG_RANK_MAPPING);
	for (unsigned i = 0; i < 5; i++)
		parts_set(p, 0, off[i * 2 % 5], 9, IMG_RANK_MAPPING);
	cr_assert_eq(img_meta_collect(p->img.engine->meta, groups), 0);
	cr_assert_eq(groups[IMG_RANK_MAPPING].n, 5);
	for (unsigned i = 0; i < 5; i++) {
		cr_assert_eq(groups[IMG_RANK_MAPPING].writes[i].off, off[i]);
		cr_assert_eq(groups[IMG_RANK_MAPPING].writes[i].len, i == 1 ? 1024 : 512);
	}
	img_meta_written(p->img.engine->meta, groups, 0);
	parts_free(p);
}

Test(meta, a_new_table_is_zeroes_and_dirty)
{
	struct parts *p = parts_new(false);
	struct img_req req;

	for (uint64_t at = 0; at < 3 * BLOCK; at += 512)
		cr_assert_eq(img_storage_write(p->file[0], at, "old", 3, NULL), 0);
	parts_set(p, 0, BLOCK, 'x', IMG_RANK_MAPPING);
	parts_req(p, &req);
	cr_assert_eq(img_meta_new(&req, p->file[0], BLOCK / 2, 2 * BLOCK, IMG_RANK_MAPPING), 0);
	img_req_release(&req);
	cr_assert_eq(img_meta_dirty_bytes(p->img.engine->meta), 2 * BLOCK);
	crowd(p);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	for (uint64_t at = 0; at < 3 * BLOCK; at += 512)
		cr_assert_eq(parts_on_disk(p, 0, at),
			     at >= BLOCK / 2 && at < BLOCK / 2 + 2 * BLOCK ? 0 : 'o');
	parts_free(p);
}

Test(meta, what_could_not_be_written_is_dirty_again_unless_it_was_changed)
{
	struct img_meta_group groups[IMG_RANKS];
	struct parts *p = parts_new(false);
	struct img_meta *m = p->img.engine->meta;

	parts_set(p, 0, 0, 1, IMG_RANK_ROOT);
	parts_set(p, 0, 512, 2, IMG_RANK_ROOT);
	parts_set(p, 0, 1024, 3, IMG_RANK_ROOT);
	cr_assert_eq(img_meta_collect(m, groups), 0);
	parts_set(p, 0, 512, 22, IMG_RANK_MAPPING);
	img_meta_forget(&p->img, p->file[0], 1024, 512);
	cr_assert_eq(img_meta_dirty_bytes(m), 512);
	img_meta_written(m, groups, -EIO);
	cr_assert_eq(img_meta_dirty_bytes(m), 1024);
	cr_assert_eq(img_meta_collect(m, groups), 0);
	cr_assert_eq(groups[IMG_RANK_ROOT].n, 1);
	cr_assert_eq(groups[IMG_RANK_ROOT].writes[0].off, 0);
	cr_assert_eq(groups[IMG_RANK_MAPPING].n, 1);
	cr_assert_eq(groups[IMG_RANK_MAPPING].writes[0].off, 512);
	cr_assert_eq(groups[IMG_RANK_MAPPING].writes[0].data[0], 22);
	img_meta_written(m, groups, 0);
	cr_assert_eq(img_meta_dirty_bytes(m), 0);
	no_groups(p, groups);
	parts_free(p);
}

Test(meta, what_is_changed_while_it_is_written_is_written_again)
{
	struct img_meta_group groups[IMG_RANKS];
	struct parts *p = parts_new(false);

	parts_set(p, 0, 0, 1, IMG_RANK_MAPPING);
	cr_assert_eq(img_meta_collect(p->img.engine->meta, groups), 0);
	parts_set(p, 0, 0, 2, IMG_RANK_MAPPING);
	cr_assert_eq(groups[IMG_RANK_MAPPING].writes[0].data[0], 1, "what is under way is a copy");
	img_meta_written(p->img.engine->meta, groups, 0);
	cr_assert_eq(img_meta_dirty_bytes(p->img.engine->meta), 512);
	cr_assert_eq(img_writeout(p->img.engine, false, NULL), 0);
	cr_assert_eq(parts_on_disk(p, 0, 0), 2);
	parts_free(p);
}

/* ---- Pins ---- */

Test(meta, more_pins_than_few)
{
	struct parts *p = parts_new(false);
	const uint8_t *at[4 * BLOCKS];
	struct img_req req;

	for (uint64_t i = 0; i < 4 * BLOCKS; i++) {
		uint8_t byte = (uint8_t)(i + 1);

		cr_assert_eq(img_storage_write(p->file[0], i * BLOCK, &byte, 1, NULL), 0);
	}
	parts_req(p, &req);
	for (uint64_t i = 0; i < 4 * BLOCKS; i++)
		at[i] = parts_get(p, &req, 0, i * BLOCK, 1);
	for (uint64_t i = 0; i < 4 * BLOCKS; i++)
		cr_assert_eq(*at[i], (uint8_t)(i + 1));
	img_req_release(&req);
	crowd(p);
	for (uint64_t i = 0; i < 4 * BLOCKS; i++)
		cr_assert_eq(parts_cached(p, 0, i * BLOCK), -1);
	parts_free(p);
}

/* ---- Holes ---- */

/* A file of 0x55, said to be a hole from `hole` to `data`. */
struct holes {
	struct img_storage base;
	uint64_t hole, data;
	bool known;
	unsigned reads;
};

static char holes_name[] = "holes";

static int holes_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt, uint64_t off,
		    uint64_t len, unsigned flags)
{
	struct holes *h = IMG_CONTAINER(s, struct holes, base);

	(void)off;
	(void)flags;
	cr_assert(op == IMG_IO_READ && iovcnt == 1);
	memset(iov[0].iov_base, 0x55, len);
	h->reads++;
	return 0;
}

static bool holes_known(struct img_storage *s, uint64_t off, uint64_t len, enum img_storage_extent *kind,
			uint64_t *run)
{
	const struct holes *h = IMG_CONTAINER(s, struct holes, base);
	bool hole = off >= h->hole && off < h->data;

	*kind = hole ? IMG_STORAGE_HOLE : IMG_STORAGE_DATA;
	*run = min_u64(len, hole ? h->data - off : 1);
	return h->known;
}

Test(meta, holes_are_not_read)
{
	static const struct img_storage_ops ops = { .io = holes_io, .known_extent = holes_known };
	static const uint8_t zeroes[BLOCK];
	struct holes h = { .base = { .ops = &ops, .name = holes_name }, .hole = BLOCK, .data = 4 * BLOCK - 1 };
	struct parts *p = parts_new(false);
	struct img_req req;

	atomic_init(&h.base.size, 5 * BLOCK);
	for (uint64_t i = 0; i < 5; i++) {
		bool hole = i == 1 || i == 2;
		const uint8_t *got;

		h.known = i != 1; /* asked for later */
		parts_req(p, &req);
		cr_assert_null(img_meta_get(&req, &h.base, i * BLOCK, BLOCK));
		cr_assert_eq(img_meta_fill_hole(&req), i == 2, "%lu", i);
		h.known = true;
		cr_assert_eq(img_meta_fetch(&req), 0);
		got = img_meta_get(&req, &h.base, i * BLOCK, BLOCK);
		cr_assert_not_null(got);
		cr_assert_eq(*got, hole ? 0 : 0x55, "%lu", i);
		cr_assert(!hole || !memcmp(got, zeroes, BLOCK));
		img_req_release(&req);
	}
	cr_assert_eq(h.reads, 3);
	parts_free(p);
}

/* What was made in a block before it was known to be a hole stays. */
Test(meta, holes_do_not_replace_what_was_made)
{
	static const struct img_storage_ops ops = { .io = holes_io, .known_extent = holes_known };
	struct holes h = { .base = { .ops = &ops, .name = holes_name },
			   .data = BLOCK,
			   .known = true };
	struct img_meta_group groups[IMG_RANKS];
	struct parts *p = parts_new(false);
	struct img_req req;

	atomic_init(&h.base.size, BLOCK);
	parts_req(p, &req);
	cr_assert_eq(img_meta_new(&req, &h.base, 512, 512, IMG_RANK_MAPPING), 0);
	memset(img_meta_edit(&req, &h.base, 512, 512, IMG_RANK_MAPPING), 0x77, 512);
	cr_assert_null(img_meta_get(&req, &h.base, 0, 1));
	cr_assert(img_meta_fill_hole(&req));
	cr_assert_eq(*img_meta_get(&req, &h.base, 0, 1), 0);
	cr_assert_eq(*img_meta_get(&req, &h.base, 512, 1), 0x77);
	cr_assert_eq(img_meta_dirty_bytes(p->img.engine->meta), 512);
	cr_assert_eq(img_meta_collect(p->img.engine->meta, groups), 0);
	img_meta_written(p->img.engine->meta, groups, 0);
	img_req_release(&req);
	parts_free(p);
}
