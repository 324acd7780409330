/*
 * The engine with a toy format: a table of 8-byte entries, one for each unit of 4 KiB (0: backing,
 * 1: zeroes, else the file offset of the unit), then the units. Small enough that what the engine
 * does with it can be seen in the file.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/engine/core.h"
#include "libimg/engine/engine.h"
#include "libimg/engine/request.h"

enum {
	UNIT = 4096,
	UNITS = 64,
	SIZE = UNIT * UNITS,
	TABLE = 0,
	DATA = 16384,
};

struct toy {
	struct img_cipher cipher;
	bool encrypt, fresh;	  /* fresh: new units read as zeroes */
	bool bits;		  /* writes in place commit: claims of sectors */
	unsigned open, most_open; /* plans */
	unsigned parts;		  /* of units, to be zeroed or discarded */
	pthread_t ciphered_by;
	size_t ciphered;	      /* calls */
	uint64_t free_off[4 * UNITS]; /* a stack of free units */
	size_t nfree;
	unsigned first_writes, grows, need_grow, releases, journals;
};

static int toy_xor(struct img_cipher *c, uint64_t tweak, uint8_t *data, size_t len)
{
	struct toy *toy = (struct toy *)c;

	cr_assert(tweak % c->sector_bytes == 0 && len % c->sector_bytes == 0);
	toy->ciphered_by = pthread_self();
	__atomic_add_fetch(&toy->ciphered, 1, __ATOMIC_RELAXED);
	for (size_t i = 0; i < len; i++)
		data[i] ^= (uint8_t)(0x5a + (tweak + i) / 512);
	return 0;
}

static int toy_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		   struct img_extent *out)
{
	struct toy *toy = img->state;
	const uint8_t *slot = img_meta_get(req, img->file, TABLE + off / UNIT * 8, 8);
	uint64_t entry;

	if (!slot)
		return IMG_NEED_METADATA;
	entry = le64_load(slot);
	*out = (struct img_extent){
		.kind = entry == 0   ? IMG_BACKING
			: entry == 1 ? IMG_ZERO
				     : IMG_DATA,
		.length = min_u64(len, UNIT - off % UNIT),
		.storage = entry > 1 ? img->file : NULL,
		.file_off = entry + off % UNIT,
		.cipher = toy->encrypt ? &toy->cipher : NULL,
		.tweak = off,
	};
	return 0;
}

static int toy_plan(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
		    uint64_t len, struct img_plan *plan)
{
	struct toy *toy = img->state;
	uint64_t unit = align_down_u64(off, UNIT), entry;
	const uint8_t *slot = img_meta_get(req, img->file, TABLE + off / UNIT * 8, 8);

	if (!slot)
		return IMG_NEED_METADATA;
	if (img_free_reserve(req, 1))
		return -ENOMEM;
	entry = le64_load(slot);
	*plan = (struct img_plan){ .length = min_u64(len, UNIT - off % UNIT), .commit = true };
	plan->slot[0] = unit;
	plan->slot[1] = entry;
	if ((op == IMG_OP_ZERO || op == IMG_OP_DISCARD) &&
	    (off != unit || (len < UNIT && off + len < img->size))) { /* a part of a unit */
		cr_assert(off % 512 == 0 && len % 512 == 0 && off + len <= unit + UNIT);
		toy->parts++;
		plan->commit = false;
		plan->kind = op == IMG_OP_ZERO ? IMG_PLAN_ZERO : IMG_PLAN_PUNCH;
		plan->storage = img->file;
		plan->file_off = entry + off % UNIT;
		if (entry <= 1 || toy->encrypt)
			plan->kind = IMG_PLAN_NOTHING;
		return op == IMG_OP_ZERO && plan->kind == IMG_PLAN_NOTHING ? IMG_NEED_WRITE : 0;
	}
	if (op == IMG_OP_ZERO || op == IMG_OP_DISCARD) {
		plan->kind = IMG_PLAN_META;
		plan->slot[2] = 1;
		return 0;
	}
	plan->kind = IMG_PLAN_DATA;
	plan->storage = img->file;
	plan->cipher = toy->encrypt ? &toy->cipher : NULL;
	if (entry > 1) {
		plan->commit = false;
		uint64_t sector = toy->encrypt ? toy->cipher.sector_bytes : toy->bits ? 512
										      : 1;

		plan->commit = toy->bits;
		plan->fill_start = align_down_u64(off, sector);
		plan->fill_end = round_up_u64(off + plan->length, sector);
		if (toy->bits) {
			plan->claim_start = plan->fill_start;
			plan->claim_end = plan->fill_end;
			plan->slot[2] = plan->slot[1];
			if (++toy->open > toy->most_open)
				toy->most_open = toy->open;
		}
		plan->file_off = entry + plan->fill_start % UNIT;
		plan->tweak = plan->fill_start;
		return 0;
	}
	if (toy->need_grow) {
		toy->need_grow--;
		return IMG_NEED_EXCLUSIVE;
	}
	if (!toy->nfree)
		return img_fail(img_req_error(req), -ENOSPC, "%s: full", img->name);
	plan->fill_start = unit;
	plan->fill_end = unit + UNIT;
	plan->tweak = unit;
	plan->fresh = toy->fresh;
	plan->file_off = plan->slot[2] = toy->free_off[--toy->nfree];
	return 0;
}

static void toy_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	uint8_t *slot = img_meta_edit(req, img->file, TABLE + plan->slot[0] / UNIT * 8, 8,
				      IMG_RANK_MAPPING);
	struct toy *toy = img->state;

	if (plan->claim_end)
		toy->open--;
	le64_store(slot, plan->slot[2]);
	if (plan->slot[1] > 1 && plan->slot[1] != plan->slot[2])
		img_free_later(req, img->file, plan->slot[1], UNIT);
}

static void toy_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct toy *toy = img->state;

	(void)req;
	if (plan->claim_end)
		toy->open--;
	else if (plan->kind == IMG_PLAN_DATA)
		toy->free_off[toy->nfree++] = plan->slot[2];
}

static int toy_release(struct img *img, struct img_req *req, struct img_storage *s,
		       uint64_t file_off, uint64_t len)
{
	struct toy *toy = img->state;

	(void)req;
	(void)s;
	cr_assert_eq(len, UNIT);
	toy->releases++;
	toy->free_off[toy->nfree++] = file_off;
	return 0;
}

static int toy_first_write(struct img *img, struct img_error *err)
{
	(void)err;
	((struct toy *)img->state)->first_writes++;
	return 0;
}

static int toy_grow(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	(void)off;
	(void)len;
	(void)err;
	((struct toy *)img->state)->grows++;
	return 0;
}

static const struct img_driver toy_driver = {
	.name = "toy",
	.map = toy_map,
	.plan_write = toy_plan,
	.commit = toy_commit,
	.drop = toy_drop,
	.release = toy_release,
	.first_write = toy_first_write,
	.grow = toy_grow,
};

static int toy_journal(struct img *img, const struct img_meta_write *writes, size_t n,
		       struct img_error *err)
{
	(void)err;
	cr_assert(n > 0 && writes[0].len % IMG_META_SECTOR == 0);
	((struct toy *)img->state)->journals++;
	return 0;
}

static const struct img_driver toy_journal_driver = {
	.name = "toy",
	.map = toy_map,
	.plan_write = toy_plan,
	.commit = toy_commit,
	.drop = toy_drop,
	.release = toy_release,
	.journal = toy_journal,
};

static void toy_open(struct img *img, struct toy *toy, struct img_storage *file, bool writable,
		     enum img_io_kind io)
{
	struct img_engine_config config = { .io = io };

	*toy = (struct toy){ .cipher = { 512, toy_xor, toy_xor } };
	for (size_t i = 0; i < 2 * UNITS; i++)
		toy->free_off[toy->nfree++] = DATA + (2 * UNITS - 1 - i) * UNIT;
	*img = (struct img){ .driver = &toy_driver,
			     .name = (char *)"toy.img",
			     .file = file,
			     .writable = writable,
			     .state = toy,
			     .size = SIZE,
			     .unit_bytes = UNIT };
	cr_assert_eq(img_engine_new(img, &config, NULL), 0);
}

static struct img_storage *memory(void)
{
	struct img_storage *s;

	cr_assert_eq(img_storage_memory("memory", DATA, 64 << 20, &s), 0);
	return s;
}

static void toy_close(struct img *img)
{
	struct img_error err = { 0 };

	cr_assert_eq(img_engine_finish(img, &err), 0, "%s", img_error_text(&err));
	img_engine_free(img);
	img_storage_close(img->file);
}

static int io(struct img *img, enum img_request_kind kind, uint64_t off, void *buf, size_t len)
{
	struct iovec iov = { buf, len };
	struct img_request r = { .kind = kind,
				 .off = off,
				 .len = len,
				 .iov = buf ? &iov : NULL,
				 .iovcnt = buf ? 1 : 0 };

	return img_request_run(img, &r, NULL);
}

static uint64_t entry_on_disk(struct img *img, unsigned unit)
{
	uint8_t bytes[8];

	cr_assert_eq(img_storage_read(img->file, TABLE + unit * 8u, bytes, 8, NULL), 0);
	return le64_load(bytes);
}

Test(engine, reads_the_parent_below_and_fills_around_a_small_write)
{
	struct img base, top;
	struct toy a, b;
	uint8_t buf[3 * UNIT], expect[3 * UNIT];

	toy_open(&base, &a, memory(), true, IMG_IO_AUTO);
	toy_open(&top, &b, memory(), true, IMG_IO_AUTO);
	cr_assert_eq(img_engine_set_parent(&top, &base), 0);
	memset(expect, 'b', sizeof(expect));
	cr_assert_eq(io(&base, IMG_REQUEST_WRITE, 0, expect, sizeof(expect)), 0);
	memset(expect + UNIT + 100, 't', 200);
	cr_assert_eq(io(&top, IMG_REQUEST_WRITE, UNIT + 100, expect + UNIT + 100, 200), 0);
	cr_assert_eq(io(&top, IMG_REQUEST_READ, 0, buf, sizeof(buf)), 0);
	cr_assert_eq(memcmp(buf, expect, sizeof(buf)), 0);
	cr_assert_eq(b.first_writes, 1);
	cr_assert_eq(io(&top, IMG_REQUEST_FLUSH, 0, NULL, 0), 0);
	cr_assert_eq(entry_on_disk(&top, 0), 0);
	cr_assert_gt(entry_on_disk(&top, 1), 1);
	toy_close(&top);
	toy_close(&base);
}

Test(engine, zeroing_part_of_a_unit_keeps_the_rest)
{
	struct img img;
	struct toy toy;
	uint8_t buf[2 * UNIT], expect[2 * UNIT];

	toy_open(&img, &toy, memory(), true, IMG_IO_THREADS);
	memset(expect, 7, sizeof(expect));
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, expect, sizeof(expect)), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_ZERO, 1000, NULL, UNIT), 0);
	memset(expect + 1000, 0, UNIT);
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 0, buf, sizeof(buf)), 0);
	cr_assert_eq(memcmp(buf, expect, sizeof(buf)), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_ZERO, 0, NULL, SIZE), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_FLUSH, 0, NULL, 0), 0);
	cr_assert_eq(entry_on_disk(&img, 0), 1);
	toy_close(&img);
}

Test(engine, sectors_of_a_unit_are_zeroed_and_discarded_in_place)
{
	struct img_record *record = img_record_new();
	struct img_storage *s;
	struct img img;
	struct toy toy;
	uint8_t buf[2 * UNIT], expect[2 * UNIT];
	size_t before;

	cr_assert_eq(img_storage_record(memory(), record, &s), 0);
	toy_open(&img, &toy, s, true, IMG_IO_AUTO);
	memset(expect, 7, sizeof(expect));
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, expect, sizeof(expect)), 0);
	before = img_record_count(record);
	/* the end of one unit and the begin of another, less than a unit of each */
	cr_assert_eq(io(&img, IMG_REQUEST_ZERO, 1024, NULL, UNIT), 0);
	memset(expect + 1024, 0, UNIT);
	cr_assert_eq(toy.parts, 2);
	cr_assert_eq(io(&img, IMG_REQUEST_DISCARD, UNIT + 2048, NULL, 1024), 0);
	memset(expect + UNIT + 2048, 0, 1024);
	cr_assert_eq(toy.parts, 3);
	for (size_t i = before; i < img_record_count(record); i++)
		cr_assert_neq(img_record_at(record, i)->kind, IMG_RECORD_WRITE);
	/* less than a sector at both ends: zeroes are written there, and nothing is discarded */
	cr_assert_eq(io(&img, IMG_REQUEST_ZERO, UNIT + 1024 + 100, NULL, 512 + 900), 0);
	memset(expect + UNIT + 1024 + 100, 0, 512 + 900);
	cr_assert_eq(toy.parts, 4);
	cr_assert_eq(io(&img, IMG_REQUEST_DISCARD, 10, NULL, 1000), 0);
	cr_assert_eq(toy.parts, 4, "no whole sector");
	cr_assert_eq(io(&img, IMG_REQUEST_DISCARD, 10, NULL, 1014), 0);
	memset(expect + 512, 0, 512);
	cr_assert_eq(toy.parts, 5);
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 0, buf, sizeof(buf)), 0);
	cr_assert_eq(memcmp(buf, expect, sizeof(buf)), 0);
	toy_close(&img);
	img_record_free(record);
}

Test(engine, encrypts_what_it_writes_and_decrypts_what_it_reads)
{
	struct img img;
	struct toy toy;
	uint8_t buf[UNIT], raw[UNIT], expect[UNIT];

	toy_open(&img, &toy, memory(), true, IMG_IO_AUTO);
	toy.encrypt = true;
	memset(expect, 0, sizeof(expect));
	memset(expect + 700, 'x', 1000);
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 2 * UNIT + 700, expect + 700, 1000), 0);
	memset(expect + 710, 'y', 3);
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 2 * UNIT + 710, expect + 710, 3), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 2 * UNIT, buf, UNIT), 0);
	cr_assert_eq(memcmp(buf, expect, UNIT), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 2 * UNIT + 701, buf, 999), 0);
	cr_assert_eq(memcmp(buf, expect + 701, 999), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_FLUSH, 0, NULL, 0), 0);
	cr_assert_eq(img_storage_read(img.file, entry_on_disk(&img, 2), raw, UNIT, NULL), 0);
	cr_assert_neq(memcmp(raw, expect, UNIT), 0);
	toy_xor(&toy.cipher, 2 * UNIT, raw, UNIT);
	cr_assert_eq(memcmp(raw, expect, UNIT), 0);
	toy_close(&img);
}

Test(engine, freed_space_is_reused_only_after_its_unlinking_is_durable)
{
	struct img img;
	struct toy toy;
	uint8_t buf[UNIT] = { 1 };

	toy_open(&img, &toy, memory(), true, IMG_IO_AUTO);
	toy.nfree = 2;
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, buf, UNIT), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_DISCARD, 0, NULL, UNIT), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, UNIT, buf, UNIT), 0);
	cr_assert_eq(toy.releases, 0);
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 2 * UNIT, buf, UNIT), -ENOSPC);
	cr_assert_eq(io(&img, IMG_REQUEST_FLUSH, 0, NULL, 0), 0);
	cr_assert_eq(toy.releases, 1);
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 2 * UNIT, buf, UNIT), 0);
	toy_close(&img);
}

Test(engine, a_failed_write_drops_its_plan_and_says_so)
{
	struct img_fault fault = { .ops = 1u << IMG_IO_WRITE, .at = 0, .rc = -ENOSPC };
	struct img_storage *s;
	struct img_error err = { 0 };
	struct img img;
	struct toy toy;
	uint8_t buf[UNIT] = { 1 };
	struct iovec iov = { buf, UNIT };
	struct img_request r = { .kind = IMG_REQUEST_WRITE, .len = UNIT, .iov = &iov, .iovcnt = 1 };
	size_t before;

	cr_assert_eq(img_storage_fault(memory(), &fault, &s), 0);
	toy_open(&img, &toy, s, true, IMG_IO_AUTO);
	before = toy.nfree;
	cr_assert_eq(img_request_run(&img, &r, &err), -ENOSPC);
	cr_assert(strstr(img_error_text(&err), "memory"), "%s", img_error_text(&err));
	img_error_clear(&err);
	cr_assert_eq(toy.nfree, before);
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 0, buf, UNIT), 0);
	cr_assert_eq(buf[0], 0);
	toy_close(&img);
}

Test(engine, a_table_is_written_after_a_barrier_behind_its_data)
{
	struct img_record *r = img_record_new();
	struct img_storage *s;
	struct img img;
	struct toy toy;
	uint8_t buf[UNIT] = { 1 };
	size_t data = SIZE_MAX, sync = SIZE_MAX, table = SIZE_MAX;

	cr_assert_eq(img_storage_record(memory(), r, &s), 0);
	toy_open(&img, &toy, s, true, IMG_IO_AUTO);
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, buf, UNIT), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_FLUSH, 0, NULL, 0), 0);
	for (size_t i = 0; i < img_record_count(r); i++) {
		const struct img_record_entry *x = img_record_at(r, i);

		if (x->kind == IMG_RECORD_WRITE && x->off >= DATA)
			data = i;
		if (x->kind == IMG_RECORD_SYNC && sync == SIZE_MAX)
			sync = i;
		if (x->kind == IMG_RECORD_WRITE && x->off < DATA)
			table = i;
	}
	cr_assert(data < sync && sync < table && table != SIZE_MAX);
	cr_assert_eq(img_record_at(r, img_record_count(r) - 1)->kind, IMG_RECORD_SYNC);
	toy_close(&img);
	img_record_free(r);
}

Test(engine, a_journal_gets_the_group_before_it_goes_in_place)
{
	struct img img;
	struct toy toy;
	uint8_t buf[UNIT] = { 1 };

	toy_open(&img, &toy, memory(), true, IMG_IO_AUTO);
	img.driver = &toy_journal_driver;
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, buf, UNIT), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_FLUSH, 0, NULL, 0), 0);
	cr_assert_eq(toy.journals, 1);
	cr_assert_gt(entry_on_disk(&img, 0), 1);
	toy_close(&img);
}

Test(engine, growth_runs_once_the_image_is_quiet_and_the_write_goes_on)
{
	struct img img;
	struct toy toy;
	uint8_t buf[8 * UNIT];

	memset(buf, 3, sizeof(buf));
	toy_open(&img, &toy, memory(), true, IMG_IO_AUTO);
	toy.need_grow = 3;
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, buf, sizeof(buf)), 0);
	cr_assert_eq(toy.grows, 3);
	toy.need_grow = 100000;
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 16 * UNIT, buf, UNIT), -EIO);
	toy_close(&img);
}

/* ---- Many in flight ---- */

struct op {
	bool busy;
	uint64_t off;
	size_t len;
	int what;
	uint8_t *buf;
	struct iovec iov;
	const uint8_t *model;
};

static void op_done(void *user, int rc, const struct img_error *err)
{
	struct op *op = user;

	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	if (op->what == 0)
		cr_assert_eq(memcmp(op->buf, op->model + op->off, op->len), 0);
	op->busy = false;
}

static void random_ops(enum img_io_kind kind, unsigned seed)
{
	enum { OPS = 16,
	       ROUNDS = 6000,
	       STRIPE = SIZE / OPS };
	static uint8_t model[SIZE];
	struct op op[OPS] = { 0 };
	struct img_queue *q;
	struct img img;
	struct toy toy;

	srand(seed);
	memset(model, 0, sizeof(model));
	toy_open(&img, &toy, memory(), true, kind);
	cr_assert_eq(img_engine_queue_new(kind, &q, NULL), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned slot = (unsigned)rand() % OPS;
		struct op *o = &op[slot];
		struct img_request r;

		while (o->busy)
			img_engine_queue_run(q, true);
		/* Each slot keeps to its stripe, with units shared at the borders. */
		o->off = slot * STRIPE + (slot ? 600 : 0) + (unsigned)rand() % (STRIPE / 2);
		o->len = 1 + (size_t)rand() % (STRIPE / 2 - 700);
		o->what = rand() % 4;
		o->model = model;
		o->busy = true;
		o->buf = realloc(o->buf, o->len);
		o->iov = (struct iovec){ o->buf, o->len };
		r = (struct img_request){ .done = op_done, .user = o };
		r.kind = o->what == 0	? IMG_REQUEST_READ
			 : o->what == 1 ? IMG_REQUEST_WRITE
			 : o->what == 2 ? IMG_REQUEST_ZERO
					: IMG_REQUEST_FLUSH;
		if (o->what < 3) {
			r.off = o->off;
			r.len = o->len;
		}
		if (o->what == 1) {
			memset(o->buf, rand() % 256, o->len);
			memcpy(model + o->off, o->buf, o->len);
		} else if (o->what == 2) {
			memset(model + o->off, 0, o->len);
		}
		if (o->what < 2) {
			r.iov = &o->iov;
			r.iovcnt = 1;
		}
		cr_assert_eq(img_request_submit(q, &img, &r), 0);
	}
	while (img_engine_queue_in_flight(q))
		img_engine_queue_run(q, true);
	for (unsigned i = 0; i < OPS; i++)
		free(op[i].buf);
	img_engine_queue_free(q);
	toy_close(&img);
}

/* ---- A queue and what others change ---- */

struct answer {
	int n, rc;
};

static void answered(void *user, int rc, const struct img_error *err)
{
	struct answer *a = user;

	(void)err;
	a->n++;
	if (rc)
		a->rc = rc;
}

static void submit(struct img_queue *q, struct img *img, enum img_request_kind kind, uint64_t off,
		   struct iovec *iov, struct answer *a)
{
	struct img_request r = { .kind = kind,
				 .off = off,
				 .len = iov->iov_len,
				 .iov = iov,
				 .iovcnt = 1,
				 .done = answered,
				 .user = a };

	cr_assert_eq(img_request_submit(q, img, &r), 0);
}

static void finish_all(struct img_queue *q)
{
	while (img_engine_queue_in_flight(q))
		img_engine_queue_run(q, true);
}

Test(engine, a_queue_sees_what_was_changed_below_a_child)
{
	struct img base, top;
	struct toy a, b;
	struct img_queue *q;
	struct answer got = { 0 };
	uint8_t buf[UNIT], x[UNIT];
	struct iovec iov = { buf, UNIT };

	toy_open(&base, &a, memory(), true, IMG_IO_AUTO);
	toy_open(&top, &b, memory(), true, IMG_IO_AUTO);
	cr_assert_eq(img_engine_set_parent(&top, &base), 0);
	cr_assert_eq(img_engine_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	submit(q, &top, IMG_REQUEST_READ, 0, &iov, &got);
	finish_all(q);
	cr_assert_eq(buf[0], 0);
	memset(x, 'x', UNIT);
	cr_assert_eq(io(&base, IMG_REQUEST_WRITE, 0, x, UNIT), 0);
	iov = (struct iovec){ buf, UNIT };
	submit(q, &top, IMG_REQUEST_READ, 0, &iov, &got);
	finish_all(q);
	cr_assert_eq(buf[0], 'x');
	img_engine_queue_free(q);
	toy_close(&top);
	toy_close(&base);
}

/* A read in flight of one image, while another one frees space: whose space waits for it? */
static unsigned released_beside_a_read(bool same, bool child)
{
	struct img img, other, top;
	struct toy a, b, c;
	struct img_queue *q;
	struct answer got = { 0 };
	uint8_t buf[UNIT] = { 1 };
	struct iovec iov = { buf, UNIT };
	unsigned released;

	toy_open(&img, &a, memory(), true, IMG_IO_AUTO);
	toy_open(&other, &b, memory(), true, IMG_IO_AUTO);
	toy_open(&top, &c, memory(), true, IMG_IO_AUTO);
	cr_assert_eq(img_engine_set_parent(&top, &img), 0);
	cr_assert_eq(img_engine_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, buf, UNIT), 0);
	submit(q, child ? &top : same ? &img
				      : &other,
	       IMG_REQUEST_READ, 0, &iov, &got);
	cr_assert_eq(io(&img, IMG_REQUEST_DISCARD, 0, NULL, UNIT), 0);
	cr_assert_eq(io(&img, IMG_REQUEST_FLUSH, 0, NULL, 0), 0);
	released = a.releases;
	finish_all(q);
	img_engine_queue_free(q);
	toy_close(&top);
	toy_close(&img);
	toy_close(&other);
	cr_assert_eq(a.releases, 1, "a close has no readers left");
	return released;
}

Test(engine, freed_space_waits_for_readers_of_its_own_image_only)
{
	cr_assert_eq(released_beside_a_read(true, false), 0);
	cr_assert_eq(released_beside_a_read(false, true), 0);
	cr_assert_eq(released_beside_a_read(false, false), 1);
}

/* ---- What is read in order to be written back ---- */

/* Write [off, off + len) of unit 0 for each, all in flight together. */
static void write_together(struct img *img, size_t n, const struct iovec *part, const uint64_t *off)
{
	struct answer got = { 0 };
	struct iovec iov[8];
	struct img_queue *q;

	cr_assert_eq(img_engine_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	for (size_t i = 0; i < n; i++) {
		iov[i] = part[i];
		submit(q, img, IMG_REQUEST_WRITE, off[i], &iov[i], &got);
	}
	finish_all(q);
	cr_assert_eq(got.n, (int)n);
	cr_assert_eq(got.rc, 0);
	img_engine_queue_free(q);
}

/* Bytes of one sector of a cipher, changed by writes in flight together, in any order. */
static void change_one_sector(uint32_t sector_bytes, bool swap)
{
	uint8_t one[UNIT], a[100], b[300], whole[UNIT], buf[UNIT], expect[UNIT];
	struct iovec part[3] = { { a, 100 }, { b, 300 }, { whole, sector_bytes } };
	uint64_t off[3] = { 0, 200, 0 };
	struct img img;
	struct toy toy;

	toy_open(&img, &toy, memory(), true, IMG_IO_AUTO);
	toy.encrypt = true;
	toy.cipher.sector_bytes = sector_bytes;
	memset(one, 'o', sizeof(one));
	memset(a, 'a', sizeof(a));
	memset(b, 'b', sizeof(b));
	memset(whole, 'w', sizeof(whole));
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, one, sizeof(one)), 0);
	memcpy(expect, one, UNIT);
	memcpy(expect, a, 100);
	memcpy(expect + 200, b, 300);
	if (swap)
		write_together(&img, 2, (struct iovec[]){ part[1], part[0] },
			       (uint64_t[]){ 200, 0 });
	else
		write_together(&img, 2, part, off);
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 0, buf, UNIT), 0);
	cr_assert_eq(memcmp(buf, expect, UNIT), 0);
	/* a write that reads nothing must not be written over by what another had read */
	if (swap)
		write_together(&img, 2, (struct iovec[]){ part[2], part[0] }, (uint64_t[]){ 0, 0 });
	else
		write_together(&img, 2, (struct iovec[]){ part[0], part[2] }, (uint64_t[]){ 0, 0 });
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 100, buf, sector_bytes - 100), 0);
	cr_assert_eq(memcmp(buf, whole, sector_bytes - 100), 0);
	toy_close(&img);
}

Test(engine, writes_to_one_sector_of_a_cipher_do_not_lose_each_other)
{
	for (uint32_t sector = 512; sector <= 4096; sector *= 2) {
		change_one_sector(sector, false);
		change_one_sector(sector, true);
	}
}

Test(engine, the_first_that_reads_to_write_back_waits_for_those_in_place)
{
	uint8_t one[UNIT], two[1024], a[100], buf[UNIT];
	struct img img;
	struct toy toy;

	toy_open(&img, &toy, memory(), true, IMG_IO_AUTO);
	memset(one, 'o', sizeof(one));
	memset(two, 't', sizeof(two));
	memset(a, 'a', sizeof(a));
	toy.encrypt = true;
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, one, sizeof(one)), 0);
	cr_assert(!img.engine->rewrites, "a whole unit");
	write_together(&img, 2, (struct iovec[]){ { two, 1024 }, { a, 100 } },
		       (uint64_t[]){ 0, 0 });
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 100, buf, 924), 0);
	cr_assert_eq(memcmp(buf, two, 924), 0);
	toy_close(&img);
}

Test(engine, a_cipher_is_worked_on_by_other_threads)
{
	uint8_t buf[UNIT] = { 1 };
	struct img img;
	struct toy toy;

	toy_open(&img, &toy, memory(), true, IMG_IO_AUTO);
	toy.encrypt = true;
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, buf, UNIT), 0);
	cr_assert_neq(toy.ciphered_by, pthread_self());
	toy.ciphered_by = pthread_self();
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 512, buf, 512), 0);
	cr_assert_neq(toy.ciphered_by, pthread_self());
	toy_close(&img);
}

Test(engine, claims_of_less_than_a_unit_let_the_rest_of_it_be_written)
{
	uint8_t a[512], b[512], c[100], buf[UNIT], one[UNIT];
	struct iovec part[3] = { { a, 512 }, { b, 512 }, { c, 100 } };
	uint64_t off[3] = { 0, 1024, 1100 };
	struct img img;
	struct toy toy;

	toy_open(&img, &toy, memory(), true, IMG_IO_AUTO);
	memset(one, 'o', sizeof(one));
	memset(a, 'a', sizeof(a));
	memset(b, 'b', sizeof(b));
	memset(c, 'c', sizeof(c));
	cr_assert_eq(io(&img, IMG_REQUEST_WRITE, 0, one, sizeof(one)), 0);
	toy.bits = true;
	write_together(&img, 2, part, off);
	cr_assert_eq(toy.most_open, 2, "side by side");
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 0, buf, UNIT), 0);
	memcpy(one, a, 512);
	memcpy(one + 1024, b, 512);
	cr_assert_eq(memcmp(buf, one, UNIT), 0);
	toy.most_open = 0;
	write_together(&img, 2, part + 1, off + 1);
	cr_assert_eq(toy.most_open, 1, "the same sector");
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 1024, buf, 512), 0);
	cr_assert_eq(buf[0], 'b');
	cr_assert_eq(buf[511], 'b');
	toy_close(&img);
}

/* ---- Small writes into a new unit ---- */

enum {
	PARTS = UNIT / 512,
};

struct small {
	struct iovec iov;
	uint8_t bytes[512];
	int rc;
};

static void small_done(void *user, int rc, const struct img_error *err)
{
	struct small *s = user;

	(void)err;
	s->rc = rc;
}

/* Write parts of unit 0 in the order given, all in flight together. */
static void write_parts(struct img *img, struct small *parts, const unsigned *order, unsigned n)
{
	struct img_queue *q;

	cr_assert_eq(img_engine_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	for (unsigned i = 0; i < n; i++) {
		struct small *s = &parts[order[i]];
		struct img_request r = { .kind = IMG_REQUEST_WRITE,
					 .off = order[i] * 512u,
					 .len = 512,
					 .iov = &s->iov,
					 .iovcnt = 1,
					 .done = small_done,
					 .user = s };

		memset(s->bytes, (int)order[i] + 1, 512);
		s->iov = (struct iovec){ s->bytes, 512 };
		s->rc = 1;
		cr_assert_eq(img_request_submit(q, img, &r), 0);
	}
	while (img_engine_queue_in_flight(q))
		img_engine_queue_run(q, true);
	img_engine_queue_free(q);
}

static size_t writes_behind(const struct img_record *r, uint64_t off)
{
	size_t n = 0;

	for (size_t i = 0; i < img_record_count(r); i++)
		n += img_record_at(r, i)->kind == IMG_RECORD_WRITE &&
		     img_record_at(r, i)->off >= off;
	return n;
}

/* Each in an order of its own: as one write, one for each, and with a gap in the middle. */
static void small_writes_of(bool encrypt, const unsigned *order, unsigned n, size_t writes)
{
	struct img_record *record = img_record_new();
	uint8_t buf[UNIT], expect[UNIT] = { 0 };
	struct small parts[PARTS];
	struct img_storage *s;
	struct img img;
	struct toy toy;

	cr_assert_eq(img_storage_record(memory(), record, &s), 0);
	toy_open(&img, &toy, s, true, IMG_IO_AUTO);
	toy.fresh = true;
	toy.encrypt = encrypt;
	toy.nfree = 1;
	/* the first write of all is alone: first_write() stops the others */
	cr_assert_eq(io(&img, IMG_REQUEST_DISCARD, UNIT, NULL, UNIT), 0);
	write_parts(&img, parts, order, n);
	for (unsigned i = 0; i < n; i++) {
		cr_assert_eq(parts[order[i]].rc, 0);
		memset(expect + order[i] * 512u, (int)order[i] + 1, 512);
	}
	cr_assert_eq(io(&img, IMG_REQUEST_READ, 0, buf, UNIT), 0);
	cr_assert_eq(memcmp(buf, expect, UNIT), 0);
	cr_assert_eq(toy.nfree, 0, "one unit for all");
	cr_assert_eq(writes_behind(record, DATA), writes);
	toy_close(&img);
	img_record_free(record);
}

static void small_writes(const unsigned *order, unsigned n, size_t writes)
{
	small_writes_of(false, order, n, writes);
}

Test(engine, small_writes_into_a_new_encrypted_unit_are_one)
{
	small_writes_of(true, (unsigned[]){ 5, 3, 0, 7, 1, 6, 2, 4 }, 8, 1);
	small_writes_of(true, (unsigned[]){ 1, 2, 5 }, 3, 1);
	small_writes_of(true, (unsigned[]){ 4 }, 1, 1);
}

Test(engine, neighbours_are_written_as_one)
{
	small_writes((unsigned[]){ 0, 1, 2, 3, 4, 5, 6, 7 }, 8, 1);
}

Test(engine, writes_join_a_claim_in_any_order)
{
	small_writes((unsigned[]){ 5, 3, 0, 7, 1, 6, 2, 4 }, 8, 7);
	small_writes((unsigned[]){ 7, 6, 5, 4, 3, 2, 1, 0 }, 8, 8);
}

Test(engine, what_nobody_writes_of_a_new_unit_stays_zero)
{
	small_writes((unsigned[]){ 1, 2, 5 }, 3, 2);
}

Test(engine, those_who_joined_fail_with_their_host_and_nothing_is_reachable)
{
	for (uint64_t at = 0; at < 3; at++) {
		struct img_fault fault = { .ops = 1u << IMG_IO_WRITE,
					   .at = UINT64_MAX,
					   .rc = -EIO };
		static const unsigned order[] = { 2, 3, 5, 7 }; /* 2 and 3 as one */
		struct small parts[PARTS];
		struct img_storage *s;
		uint8_t buf[UNIT], zero[UNIT] = { 0 };
		struct img img;
		struct toy toy;

		cr_assert_eq(img_storage_fault(memory(), &fault, &s), 0);
		toy_open(&img, &toy, s, true, IMG_IO_AUTO);
		toy.fresh = true;
		toy.nfree = 1;
		cr_assert_eq(io(&img, IMG_REQUEST_DISCARD, UNIT, NULL, UNIT), 0);
		fault.at = fault.count + at;
		write_parts(&img, parts, order, 4);
		if (parts[2].rc) { /* the host failed */
			for (unsigned i = 0; i < 4; i++)
				cr_assert_eq(parts[order[i]].rc, -EIO);
			cr_assert_eq(io(&img, IMG_REQUEST_READ, 0, buf, UNIT), 0);
			cr_assert_eq(memcmp(buf, zero, UNIT), 0);
			cr_assert_eq(toy.nfree, 1, "its room is free again");
		} else {
			cr_assert_eq(parts[3].rc, 0, "written together");
			cr_assert_neq(parts[5].rc, parts[7].rc, "one of them failed by itself");
		}
		toy_close(&img);
	}
}

Test(engine, random_operations_on_io_uring_match_a_flat_model)
{
	struct img_ioq *q;

	if (img_ioq_new(IMG_IO_URING, &q, NULL))
		cr_skip("io_uring is not allowed here");
	img_ioq_free(q);
	random_ops(IMG_IO_URING, 1);
}

Test(engine, random_operations_on_threads_match_a_flat_model)
{
	random_ops(IMG_IO_THREADS, 2);
}
