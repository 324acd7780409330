/*
 * Images that keep their data in other files than their tables, and what is written around the
 * caller's bytes. The format: a table of 8-byte entries in the first file (0: backing, 1: zeroes,
 * else the number of a unit plus 2); units lie in two other files in turn.
 */
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

static struct img_storage *unit_at(struct split *d, uint64_t n, uint64_t *off)
{
	*off = n / 2 * UNIT;
	return d->file[1 + n % 2];
}

static int split_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
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

static int split_plan(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
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
		return 0;
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

static void split_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	le64_store(img_meta_edit(req, img->file, plan->slot[0], 8, IMG_RANK_MAPPING), plan->slot[1]);
}

static void split_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
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

static struct split *split_new(uint64_t size)
{
	struct img_engine_config config = { .io = IMG_IOQ_THREADS };
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
static void reopen(struct split *d)
{
	struct img_engine_config config = { .io = IMG_IOQ_THREADS };

	cr_assert_eq(img_engine_finish(&d->img, NULL), 0);
	img_engine_free(&d->img);
	cr_assert_eq(img_engine_new(&d->img, &config, NULL), 0);
}

static void split_free(struct split *d)
{
	cr_assert_eq(img_engine_finish(&d->img, NULL), 0);
	img_engine_free(&d->img);
	for (unsigned i = 0; i < 3; i++)
		img_storage_close(d->file[i]);
	free(d);
}

static int io(struct split *d, enum img_request_kind kind, uint64_t off, void *buf, uint64_t len)
{
	struct iovec iov = { buf, (size_t)len };
	struct img_request r = { .kind = kind,
				 .off = off,
				 .len = len,
				 .iov = buf ? &iov : NULL,
				 .iovcnt = buf ? 1 : 0 };

	return img_request_run(&d->img, &r, NULL);
}

static void write_byte(struct split *d, uint64_t off, uint8_t byte, uint64_t len)
{
	uint8_t *buf = malloc(len);

	memset(buf, byte, len);
	cr_assert_eq(io(d, IMG_REQUEST_WRITE, off, buf, len), 0);
	free(buf);
}

static void flush(struct split *d)
{
	cr_assert_eq(io(d, IMG_REQUEST_FLUSH, 0, NULL, 0), 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert(!watch_unsynced(&d->watch, d->watch.n, i), "file %u", i);
}

/* ---- Syncing all files ---- */

Test(storages, data_of_other_files_is_durable_before_the_table_and_after_a_flush)
{
	struct split *d = split_new(UNIT * UNITS);
	size_t table;

	write_byte(d, 0, 1, UNIT);    /* to file 1 */
	write_byte(d, UNIT, 2, UNIT); /* to file 2 */
	flush(d);
	table = watch_find(&d->watch, 0, 0, 0, 512);
	cr_assert_lt(table, d->watch.n);
	cr_assert_lt(watch_find(&d->watch, 0, 1, 0, UNIT), table);
	cr_assert_lt(watch_find(&d->watch, 0, 2, 0, UNIT), table);
	cr_assert(!watch_unsynced(&d->watch, table, 1));
	cr_assert(!watch_unsynced(&d->watch, table, 2));
	split_free(d);
}

Test(storages, data_written_in_place_is_durable_after_a_flush)
{
	for (unsigned i = 0; i < 2; i++) {
		struct split *d = split_new(UNIT * UNITS);
		size_t n;

		write_byte(d, 0, 1, 2 * UNIT);
		reopen(d);
		n = d->watch.n;
		write_byte(d, i * UNIT + 512, 3, 512);
		flush(d);
		cr_assert_eq(watch_count(&d->watch, n, 1 + i, IMG_IO_SYNC), 1);
		cr_assert_eq(watch_count(&d->watch, n, 2 - i, IMG_IO_SYNC), 0);
		split_free(d);
	}
}

Test(storages, zeroes_made_in_place_are_durable_after_a_flush)
{
	for (unsigned i = 0; i < 2; i++) {
		struct split *d = split_new(UNIT * UNITS);
		size_t n;

		d->zero_here = true;
		write_byte(d, 0, 1, 2 * UNIT);
		reopen(d);
		n = d->watch.n;
		cr_assert_eq(io(d, i ? IMG_REQUEST_ZERO : IMG_REQUEST_DISCARD, UNIT, NULL, UNIT), 0);
		cr_assert_eq(watch_count(&d->watch, n, 2, i ? IMG_IO_ZERO : IMG_IO_PUNCH), 1);
		flush(d);
		cr_assert_eq(watch_count(&d->watch, n, 2, IMG_IO_SYNC), 1);
		split_free(d);
	}
}

Test(storages, closing_makes_all_files_durable)
{
	struct split *d = split_new(UNIT * UNITS);

	write_byte(d, 0, 1, 2 * UNIT);
	cr_assert_eq(img_engine_finish(&d->img, NULL), 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert(!watch_unsynced(&d->watch, d->watch.n, i));
	split_free(d);
}

static int fail_sync_of_2(struct watch *w, const struct watch_entry *e)
{
	(void)w;
	return e->op == IMG_IO_SYNC && e->file == 2 ? -EIO : 0;
}

Test(storages, a_file_that_cannot_be_synced_fails_the_flush_for_good)
{
	struct split *d = split_new(UNIT * UNITS);

	write_byte(d, 0, 1, 2 * UNIT);
	d->watch.before = fail_sync_of_2;
	cr_assert_eq(io(d, IMG_REQUEST_FLUSH, 0, NULL, 0), -EIO);
	cr_assert_eq(watch_find(&d->watch, 0, 0, 0, 512), d->watch.n, "the table is not written");
	d->watch.before = NULL;
	cr_assert_eq(io(d, IMG_REQUEST_FLUSH, 0, NULL, 0), -EIO);
	cr_assert_eq(img_engine_finish(&d->img, NULL), -EIO);
	d->img.writable = false; /* nothing more can come of it */
	split_free(d);
}

/* ---- Fill ---- */

/* What the unit of guest offset off holds in its file. */
static void stored(struct split *d, uint64_t off, uint8_t unit[UNIT])
{
	struct img_extent x;

	cr_assert_eq(img_engine_map(&d->img, off, 1, &x, NULL), 0);
	cr_assert_eq(x.kind, IMG_DATA);
	cr_assert_eq(img_storage_read(x.storage, x.file_off - off % UNIT, unit, UNIT, NULL), 0);
}

/* A disk that ends within its last unit, over one that is all 0xbb. */
static void short_disk(bool fresh, uint64_t at, uint64_t len)
{
	enum { SIZE = 8 * UNIT + 1024 };
	struct split *base = split_new(UNIT * UNITS), *top = split_new(SIZE);
	uint8_t unit[UNIT], expect[UNIT];

	top->img.parent = &base->img;
	top->fresh = fresh;
	write_byte(base, 0, 0xbb, UNIT * UNITS);
	/* buffers that are used again are not empty */
	for (unsigned i = 0; i < 4; i++)
		write_byte(top, i * UNIT + 512, 1, 512);
	write_byte(top, 8 * UNIT + at, 2, len);
	memset(expect, 0xbb, 1024);
	memset(expect + 1024, 0, UNIT - 1024);
	memset(expect + at, 2, len);
	stored(top, 8 * UNIT, unit);
	cr_assert_eq(memcmp(unit, expect, UNIT), 0);
	split_free(top);
	split_free(base);
}

Test(fill, behind_the_end_of_the_disk_is_zeroes)
{
	for (int fresh = 0; fresh < 2; fresh++) {
		short_disk(fresh, 0, 512);
		short_disk(fresh, 0, 1024);
		short_disk(fresh, 512, 512);
		short_disk(fresh, 100, 700);
	}
}

/* Room with something in it, which the driver does not call fresh, is filled to the last byte. */
Test(fill, room_that_is_not_fresh_is_overwritten)
{
	static const struct {
		uint64_t at, len;
	} piece[] = { { 0, 512 }, { 512, 512 }, { UNIT - 512, 512 }, { 3, 5 } };

	for (unsigned i = 0; i < IMG_ARRAY_LEN(piece); i++) {
		struct split *d = split_new(UNIT * UNITS);
		uint8_t unit[UNIT], expect[UNIT] = { 0 };

		memset(unit, 0xee, UNIT);
		cr_assert_eq(img_storage_write(d->file[1], 0, unit, UNIT, NULL), 0);
		write_byte(d, piece[i].at, 5, piece[i].len);
		memset(expect + piece[i].at, 5, piece[i].len);
		stored(d, 0, unit);
		cr_assert_eq(memcmp(unit, expect, UNIT), 0);
		split_free(d);
	}
}

/* Fresh room is not written to where the guest has zeroes, but is where it has data. */
Test(fill, fresh_room_still_gets_what_the_backing_image_holds)
{
	struct split *base = split_new(UNIT * UNITS), *top = split_new(UNIT * UNITS);
	uint8_t unit[UNIT], expect[UNIT];

	top->img.parent = &base->img;
	top->fresh = true;
	write_byte(base, 0, 0xbb, UNIT);
	write_byte(top, 512, 1, 512);
	memset(expect, 0xbb, UNIT);
	memset(expect + 512, 1, 512);
	stored(top, 0, unit);
	cr_assert_eq(memcmp(unit, expect, UNIT), 0);
	write_byte(top, UNIT + 512, 1, 512);
	cr_assert_eq(top->watch.entry[top->watch.n - 1].len, 512, "no zeroes into zeroes");
	split_free(top);
	split_free(base);
}

/* The end of the backing image lies within a unit. */
Test(fill, behind_the_end_of_the_backing_image_is_zeroes)
{
	struct split *base = split_new(UNIT + 1536), *top = split_new(UNIT * UNITS);
	uint8_t unit[UNIT], expect[UNIT] = { 0 };

	top->img.parent = &base->img;
	write_byte(base, 0, 0xbb, UNIT + 1536);
	write_byte(top, 5 * UNIT + 7, 1, 1);
	for (unsigned i = 0; i < 3; i++) /* not where a unit of the base was, but what was in memory */
		write_byte(top, 512, 1, 512);
	write_byte(top, UNIT + 512, 1, 512);
	memset(expect, 0xbb, 1536);
	memset(expect + 512, 1, 512);
	stored(top, UNIT, unit);
	cr_assert_eq(memcmp(unit, expect, UNIT), 0);
	write_byte(top, 2 * UNIT + 512, 1, 512);
	memset(expect, 0, UNIT);
	memset(expect + 512, 1, 512);
	stored(top, 2 * UNIT, unit);
	cr_assert_eq(memcmp(unit, expect, UNIT), 0);
	split_free(top);
	split_free(base);
}

static int fail_reads_of_data(struct watch *w, const struct watch_entry *e)
{
	(void)w;
	return e->op == IMG_IO_READ && e->file ? -EIO : 0;
}

Test(fill, that_cannot_be_read_fails_the_write_and_leaves_the_unit)
{
	struct split *base = split_new(UNIT * UNITS), *top = split_new(UNIT * UNITS);
	uint8_t buf[512] = { 1 };

	top->img.parent = &base->img;
	write_byte(base, 0, 0xbb, UNIT);
	base->watch.before = fail_reads_of_data;
	cr_assert_eq(io(top, IMG_REQUEST_WRITE, 512, buf, 512), -EIO);
	cr_assert_eq(top->drops, 1);
	cr_assert_eq(top->watch.n, 0, "nothing was written");
	base->watch.before = NULL;
	cr_assert_eq(io(top, IMG_REQUEST_READ, 512, buf, 512), 0);
	cr_assert_eq(buf[0], 0xbb);
	split_free(top);
	split_free(base);
}
