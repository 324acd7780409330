/*
 * A disk that keeps its data in other files than its tables, for tests of requests: a table of
 * 8-byte entries in the first file (0: backing, 1: zeroes, else the number of a unit plus 2); units
 * lie in two other files in turn.
 */
#ifndef TESTS_ENGINE_SPLIT_H
#define TESTS_ENGINE_SPLIT_H

#include <errno.h>
#include <string.h>

#include "libimg/base/endian.h"
#include "libimg/engine/engine.h"
#include "libimg/engine/request.h"
#include "tests/storage/watch.h"

enum {
	UNIT = 4096,
	UNITS = 64,
};

/* A disk with three files. */
struct split {
	struct img img;
	struct watch watch;
	struct img_storage *file[3];
	uint64_t next;	/* unit to be given out */
	bool fresh;	/* plans say that new units read as zeroes */
	bool zero_here; /* zeroing is done in place */
	unsigned drops;
};

static inline struct img_storage *unit_at(struct split *d, uint64_t n, uint64_t *off)
{
	*off = n / 2 * UNIT;
	return d->file[1 + n % 2];
}

static inline int split_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
			    struct img_extent *out)
{
	const uint8_t *slot = img_meta_get(req, img->file, off / UNIT * 8, 8);
	uint64_t entry;

	if (!slot)
		return IMG_NEED_METADATA;
	entry = le64_load(slot);
	*out = (struct img_extent){ .kind = entry == 0 ? IMG_BACKING : entry == 1 ? IMG_ZERO
										  : IMG_DATA,
				    .length = min_u64(len, UNIT - off % UNIT) };
	if (entry > 1) {
		out->storage = unit_at(img->state, entry - 2, &out->file_off);
		out->file_off += off % UNIT;
	}
	return 0;
}

static inline int split_plan(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
			     uint64_t len, struct img_plan *plan)
{
	const uint8_t *slot = img_meta_get(req, img->file, off / UNIT * 8, 8);
	struct split *d = img->state;
	uint64_t entry;

	if (!slot)
		return IMG_NEED_METADATA;
	entry = le64_load(slot);
	*plan = (struct img_plan){ .kind = IMG_PLAN_DATA, .length = min_u64(len, UNIT - off % UNIT) };
	plan->slot[0] = off / UNIT * 8;
	if (op != IMG_OP_WRITE && d->zero_here && entry > 1) {
		plan->kind = op == IMG_OP_ZERO ? IMG_PLAN_ZERO : IMG_PLAN_PUNCH;
		plan->storage = unit_at(d, entry - 2, &plan->file_off);
		plan->file_off += off % UNIT;
		return 0;
	}
	if (op != IMG_OP_WRITE && (off % UNIT || (len < UNIT && off + len < img->size))) {
		plan->kind = IMG_PLAN_NOTHING; /* not for a part of a unit */
		return op == IMG_OP_ZERO ? IMG_NEED_WRITE : 0;
	}
	if (op != IMG_OP_WRITE) {
		plan->kind = IMG_PLAN_META;
		plan->commit = true;
		plan->slot[1] = 1;
		return 0;
	}
	if (entry > 1) {
		plan->storage = unit_at(d, entry - 2, &plan->file_off);
		plan->file_off += off % UNIT;
		plan->fill_start = off;
		plan->fill_end = off + plan->length;
		return 0;
	}
	plan->commit = true;
	plan->fresh = d->fresh;
	plan->fill_start = align_down_u64(off, UNIT);
	plan->fill_end = plan->fill_start + UNIT;
	plan->slot[1] = d->next + 2;
	plan->storage = unit_at(d, d->next++, &plan->file_off);
	return 0;
}

static inline void split_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	le64_store(img_meta_edit(req, img->file, plan->slot[0], 8, IMG_RANK_MAPPING),
		   plan->slot[1]);
}

static inline void split_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	(void)req;
	(void)plan;
	((struct split *)img->state)->drops++;
}

static const struct img_driver split_driver = {
	.name = "split",
	.map = split_map,
	.plan_write = split_plan,
	.commit = split_commit,
	.drop = split_drop,
};

static inline struct split *split_new(uint64_t size)
{
	struct img_engine_config config = { .io = IMG_IO_THREADS };
	struct split *d = calloc(1, sizeof(*d));

	cr_assert_not_null(d);
	for (unsigned i = 0; i < 3; i++)
		d->file[i] = watched_memory(&d->watch, i, i ? 0 : 16384);
	d->img = (struct img){ .driver = &split_driver,
			       .name = (char *)"split.img",
			       .file = d->file[0],
			       .writable = true,
			       .state = d,
			       .size = size,
			       .unit_bytes = UNIT };
	cr_assert_eq(img_engine_new(&d->img, &config, NULL), 0);
	return d;
}

/* The same files under a new engine, which knows nothing yet. */
static inline void reopen(struct split *d)
{
	struct img_engine_config config = { .io = IMG_IO_THREADS };

	cr_assert_eq(img_engine_finish(&d->img, NULL), 0);
	img_engine_free(&d->img);
	cr_assert_eq(img_engine_new(&d->img, &config, NULL), 0);
}

static inline void split_free(struct split *d)
{
	cr_assert_eq(img_engine_finish(&d->img, NULL), 0);
	img_engine_free(&d->img);
	for (unsigned i = 0; i < 3; i++)
		img_storage_close(d->file[i]);
	free(d);
}

static inline int io(struct split *d, enum img_request_kind kind, uint64_t off, void *buf, uint64_t len)
{
	struct iovec iov = { buf, (size_t)len };
	struct img_request r = { .kind = kind,
				 .off = off,
				 .len = len,
				 .iov = buf ? &iov : NULL,
				 .iovcnt = buf ? 1 : 0 };

	return img_request_run(&d->img, &r, NULL);
}

static inline void write_byte(struct split *d, uint64_t off, uint8_t byte, uint64_t len)
{
	uint8_t *buf = malloc(len);

	memset(buf, byte, len);
	cr_assert_eq(io(d, IMG_REQUEST_WRITE, off, buf, len), 0);
	free(buf);
}

static inline void flush(struct split *d)
{
	cr_assert_eq(io(d, IMG_REQUEST_FLUSH, 0, NULL, 0), 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert(!watch_unsynced(&d->watch, d->watch.n, i), "file %u", i);
}

#endif
