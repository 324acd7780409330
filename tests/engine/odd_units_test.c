/*
 * Units that are no power of two (63 sectors, as some disks have), of images that are read through a
 * chain whose images all have other units: random requests, many in flight, against a flat copy.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/engine/engine.h"
#include "libimg/engine/request.h"

enum {
	SIZE = 64 * 63 * 512 + 512 * 5,
	DATA = 1 << 20, /* where units lie; in front of them a table of 8-byte entries, 0: absent */
	IN_FLIGHT = 12,
	ROUNDS = 4000,
	STRIPE = SIZE / IN_FLIGHT,
};

struct odd {
	uint64_t next;
};

static int odd_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		   struct img_extent *out)
{
	uint64_t within = off % img->unit_bytes;
	const uint8_t *slot = img_meta_get(req, img->file, off / img->unit_bytes * 8, 8);

	if (!slot)
		return IMG_NEED_METADATA;
	*out = (struct img_extent){
		.kind = le64_load(slot) ? IMG_DATA : IMG_BACKING,
		.length = min_u64(len, img->unit_bytes - within),
		.storage = le64_load(slot) ? img->file : NULL,
		.file_off = le64_load(slot) + within,
	};
	return 0;
}

static int odd_plan(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
		    uint64_t len, struct img_plan *plan)
{
	uint64_t unit = img->unit_bytes, within = off % unit, at = off / unit * 8, entry;
	const uint8_t *slot = img_meta_get(req, img->file, at, 8);
	struct odd *odd = img->state;

	if (!slot)
		return IMG_NEED_METADATA;
	entry = le64_load(slot);
	plan->length = min_u64(len, unit - within);
	plan->storage = img->file;
	plan->file_off = entry + within;
	plan->fill_start = off;
	plan->fill_end = off + plan->length;
	if (op == IMG_OP_ZERO || op == IMG_OP_DISCARD) {
		cr_assert(off % 512 == 0 && len % 512 == 0);
		cr_assert(!within || off / unit == (off + len - 1) / unit, "a part of one unit");
		cr_assert(within || len < unit || len % unit == 0 || off + len == img->size);
		plan->kind = op == IMG_OP_ZERO ? IMG_PLAN_ZERO : IMG_PLAN_PUNCH;
		if (!entry && op == IMG_OP_ZERO)
			return IMG_NEED_WRITE;
		if (!entry)
			plan->kind = IMG_PLAN_NOTHING;
		return 0;
	}
	plan->kind = IMG_PLAN_DATA;
	if (entry)
		return 0;
	plan->commit = true;
	plan->fresh = true;
	plan->fill_start = off - within;
	plan->fill_end = plan->fill_start + unit;
	plan->file_off = plan->slot[1] = odd->next;
	plan->slot[0] = at;
	odd->next += unit;
	return 0;
}

static void odd_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	le64_store(img_meta_edit(req, img->file, plan->slot[0], 8, IMG_RANK_MAPPING),
		   plan->slot[1]);
}

static void odd_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	(void)img;
	(void)req;
	(void)plan;
}

static const struct img_driver driver = {
	.name = "odd",
	.map = odd_map,
	.plan_write = odd_plan,
	.commit = odd_commit,
	.drop = odd_drop,
};

static void open_odd(struct img *img, struct odd *odd, uint64_t unit_bytes, struct img *parent)
{
	struct img_engine_config config = { 0 };
	struct img_storage *s;

	cr_assert_eq(img_storage_memory("odd", DATA, 64 << 20, &s), 0);
	odd->next = DATA;
	*img = (struct img){ .driver = &driver,
			     .name = (char *)"odd.img",
			     .file = s,
			     .writable = true,
			     .state = odd,
			     .size = SIZE,
			     .unit_bytes = unit_bytes,
			     .parent = parent };
	cr_assert_eq(img_engine_new(img, &config, NULL), 0);
}

static void close_odd(struct img *img)
{
	cr_assert_eq(img_engine_finish(img, NULL), 0);
	img_engine_free(img);
	img_storage_close(img->file);
}

struct op {
	bool busy;
	enum img_request_kind kind;
	uint64_t off;
	size_t len;
	uint8_t buf[STRIPE];
	struct iovec iov;
};

static uint8_t model[SIZE];

static void done(void *user, int rc, const struct img_error *err)
{
	struct op *op = user;

	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	if (op->kind == IMG_REQUEST_READ)
		cr_assert_eq(memcmp(op->buf, model + op->off, op->len), 0, "%zu bytes at %zu",
			     op->len, (size_t)op->off);
	op->busy = false;
}

static void random_ops(uint64_t unit, uint64_t below)
{
	static struct op op[IN_FLIGHT];
	struct img base, top;
	struct odd a, b;
	struct img_queue *q;

	open_odd(&base, &a, below, NULL);
	open_odd(&top, &b, unit, &base);
	for (size_t i = 0; i < SIZE; i++)
		model[i] = (uint8_t)(i * 7 / 512);
	cr_assert_eq(img_request_run(&base,
				     &(struct img_request){ .kind = IMG_REQUEST_WRITE,
							    .len = SIZE,
							    .iov = &(struct iovec){ model, SIZE },
							    .iovcnt = 1 },
				     NULL),
		     0);
	cr_assert_eq(img_engine_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	srand((unsigned)unit);
	for (unsigned round = 0; round < ROUNDS; round++) {
		unsigned i = (unsigned)rand() % IN_FLIGHT;
		struct op *o = &op[i];
		struct img_request r;

		while (o->busy)
			img_engine_queue_run(q, true);
		o->off = i * STRIPE + (unsigned)rand() % (STRIPE / 2);
		o->len = 1 + (unsigned)rand() % (STRIPE / 2 - 1);
		if (rand() % 2) {
			o->off = align_down_u64(o->off, 512) + (i * STRIPE % 512 ? 512 : 0);
			o->len = 512 * (1 + o->len / 1024);
		}
		o->kind = (enum img_request_kind)(rand() % 3);
		o->busy = true;
		o->iov = (struct iovec){ o->buf, o->len };
		if (o->kind == IMG_REQUEST_WRITE) {
			memset(o->buf, rand() % 256, o->len);
			memcpy(model + o->off, o->buf, o->len);
		} else if (o->kind == IMG_REQUEST_ZERO) {
			memset(model + o->off, 0, o->len);
		}
		r = (struct img_request){ .kind = o->kind,
					  .off = o->off,
					  .len = o->len,
					  .iov = o->kind == IMG_REQUEST_ZERO ? NULL : &o->iov,
					  .iovcnt = o->kind == IMG_REQUEST_ZERO ? 0 : 1,
					  .done = done,
					  .user = o };
		cr_assert_eq(img_request_submit(q, &top, &r), 0);
	}
	while (img_engine_queue_in_flight(q))
		img_engine_queue_run(q, true);
	cr_assert_eq(img_engine_queue_free(q), 0);
	close_odd(&top);
	close_odd(&base);
}

Test(odd_units, of_63_sectors_over_64)
{
	random_ops(63 * 512, 64 * 512);
}

Test(odd_units, of_63_sectors_over_17)
{
	random_ops(63 * 512, 17 * 512);
}

Test(odd_units, of_3_sectors_over_1000)
{
	random_ops(3 * 512, 1000 * 512);
}
