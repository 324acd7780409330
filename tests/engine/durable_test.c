/* Requests that are done only when durable, and nothing more than them synced. */
#include "tests/engine/split.h"

static int fua(struct split *d, enum img_request_kind kind, uint64_t off, uint64_t len)
{
	uint8_t *buf = calloc(1, len);
	struct iovec iov = { buf, (size_t)len };
	struct img_request r = { .kind = kind, .off = off, .len = len, .fua = true };
	int rc;

	if (kind == IMG_REQUEST_WRITE) {
		r.iov = &iov;
		r.iovcnt = 1;
	}
	rc = img_request_run(&d->img, &r, NULL);
	free(buf);
	return rc;
}

static size_t syncs(const struct split *d, size_t from)
{
	return watch_count(&d->watch, from, 0, IMG_IO_SYNC) +
	       watch_count(&d->watch, from, 1, IMG_IO_SYNC) +
	       watch_count(&d->watch, from, 2, IMG_IO_SYNC);
}

static bool all_durable(const struct split *d)
{
	return !watch_unsynced(&d->watch, d->watch.n, 0) &&
	       !watch_unsynced(&d->watch, d->watch.n, 1) &&
	       !watch_unsynced(&d->watch, d->watch.n, 2);
}

Test(durable, a_write_in_place_is_so_by_its_storage_alone)
{
	struct split *d = split_new(UNIT * UNITS);
	size_t n;

	write_byte(d, 0, 1, 4 * UNIT);
	flush(d);
	n = d->watch.n;
	cr_assert_eq(fua(d, IMG_REQUEST_WRITE, 512, 2 * UNIT), 0); /* in both files */
	cr_assert_eq(syncs(d, n), 0);
	cr_assert_eq(d->watch.n - n, 3);
	for (; n < d->watch.n; n++)
		cr_assert_eq(d->watch.entry[n].flags, IMG_IO_FUA);
	flush(d);
	cr_assert_eq(syncs(d, n), 0, "nor later: nothing is left to be synced");
	split_free(d);
}

Test(durable, what_no_durable_table_leads_to_takes_a_write_out)
{
	struct split *d = split_new(UNIT * UNITS);
	size_t n;

	cr_assert_eq(fua(d, IMG_REQUEST_WRITE, 0, UNIT), 0);
	cr_assert(all_durable(d));
	cr_assert_lt(watch_find(&d->watch, 0, 0, 0, 512), d->watch.n, "the table is written");
	write_byte(d, UNIT, 1, UNIT); /* allocated, its table is in memory only */
	n = d->watch.n;
	cr_assert_eq(fua(d, IMG_REQUEST_WRITE, UNIT + 512, 512), 0);
	cr_assert(all_durable(d));
	cr_assert_lt(watch_find(&d->watch, n, 0, 0, 512), d->watch.n, "the table is written");
	n = d->watch.n;
	cr_assert_eq(fua(d, IMG_REQUEST_WRITE, UNIT + 512, 512), 0);
	cr_assert_eq(syncs(d, n), 0, "now it is there");
	split_free(d);
}

/* Of a range with both: one write-out for all of it. */
Test(durable, a_request_that_allocates_in_part)
{
	struct split *d = split_new(UNIT * UNITS);

	write_byte(d, UNIT, 1, UNIT);
	flush(d);
	cr_assert_eq(fua(d, IMG_REQUEST_WRITE, 0, 3 * UNIT), 0);
	cr_assert(all_durable(d));
	split_free(d);
}

Test(durable, zeroes_that_are_there_already_may_not_be_durable)
{
	struct split *d = split_new(UNIT * UNITS);
	size_t n;

	write_byte(d, 0, 1, UNIT);
	flush(d);
	cr_assert_eq(io(d, IMG_REQUEST_ZERO, 0, NULL, UNIT), 0);
	cr_assert_eq(fua(d, IMG_REQUEST_ZERO, 512, 512), 0); /* nothing to do, but for that */
	cr_assert(all_durable(d));
	cr_assert_eq(watch_count(&d->watch, 0, 0, IMG_IO_SYNC), 2);
	n = d->watch.n;
	cr_assert_eq(fua(d, IMG_REQUEST_ZERO, 512, 512), 0);
	cr_assert_eq(d->watch.n, n);
	split_free(d);
}

Test(durable, zeroes_and_discards_in_place)
{
	for (unsigned i = 0; i < 2; i++) {
		struct split *d = split_new(UNIT * UNITS);
		size_t n;

		d->zero_here = true;
		write_byte(d, 0, 1, UNIT);
		flush(d);
		n = d->watch.n;
		cr_assert_eq(fua(d, i ? IMG_REQUEST_ZERO : IMG_REQUEST_DISCARD, 0, UNIT), 0);
		cr_assert_eq(d->watch.n, n + 1);
		cr_assert_eq(d->watch.entry[n].op, i ? IMG_IO_ZERO : IMG_IO_PUNCH);
		cr_assert_eq(d->watch.entry[n].flags, IMG_IO_FUA);
		split_free(d);
	}
}

Test(durable, a_storage_that_cannot_is_synced)
{
	struct split *d = split_new(UNIT * UNITS);
	size_t n;

	d->file[1]->limits.fua = false;
	write_byte(d, 0, 1, 2 * UNIT);
	flush(d);
	n = d->watch.n;
	cr_assert_eq(fua(d, IMG_REQUEST_WRITE, 0, 512), 0);
	cr_assert_eq(d->watch.entry[n].flags, 0);
	cr_assert_eq(syncs(d, n), 1);
	cr_assert(all_durable(d));
	n = d->watch.n;
	cr_assert_eq(fua(d, IMG_REQUEST_WRITE, UNIT, 512), 0);
	cr_assert_eq(syncs(d, n), 0);
	split_free(d);
}

static int fail_syncs(struct watch *w, const struct watch_entry *e)
{
	(void)w;
	return e->op == IMG_IO_SYNC ? -EIO : 0;
}

Test(durable, a_sync_that_fails_fails_the_request)
{
	struct split *d = split_new(UNIT * UNITS);

	d->watch.before = fail_syncs;
	cr_assert_eq(fua(d, IMG_REQUEST_WRITE, 0, UNIT), -EIO);
	d->watch.before = NULL;
	d->img.writable = false; /* nothing more can come of it */
	split_free(d);
}

Test(durable, with_unsafe_nothing_is)
{
	struct img_engine_config config = { .io = IMG_IO_THREADS, .unsafe = true };
	struct split *d = split_new(UNIT * UNITS);

	img_engine_free(&d->img);
	cr_assert_eq(img_engine_new(&d->img, &config, NULL), 0);
	cr_assert_eq(fua(d, IMG_REQUEST_WRITE, 0, UNIT), 0);
	cr_assert_eq(fua(d, IMG_REQUEST_WRITE, 0, UNIT), 0);
	cr_assert_eq(syncs(d, 0), 0);
	split_free(d);
}

Test(durable, with_writethrough_every_change_is)
{
	struct img_engine_config config = { .io = IMG_IO_THREADS, .writethrough = true };
	struct split *d = split_new(UNIT * UNITS);
	size_t n;

	img_engine_free(&d->img);
	cr_assert_eq(img_engine_new(&d->img, &config, NULL), 0);
	write_byte(d, 0, 1, UNIT);
	cr_assert(all_durable(d));
	n = d->watch.n;
	write_byte(d, 0, 2, 512);
	cr_assert_eq(d->watch.n, n + 1);
	cr_assert_eq(d->watch.entry[n].flags, IMG_IO_FUA);
	split_free(d);
}

/* ---- How zeroes are made ---- */

static int zero(struct split *d, uint64_t off, uint64_t len, bool keep, bool fast)
{
	struct img_request r = { .kind = IMG_REQUEST_ZERO,
				 .off = off,
				 .len = len,
				 .keep_allocated = keep,
				 .fast = fast };

	return img_request_run(&d->img, &r, NULL);
}

Test(zeroes, that_would_have_to_be_written_are_refused_if_they_are_to_be_fast)
{
	struct split *d = split_new(UNIT * UNITS);
	size_t n;

	write_byte(d, 0, 1, 2 * UNIT);
	n = d->watch.n;
	cr_assert_eq(zero(d, 512, 512, false, true), -ENOTSUP); /* the driver says: to be written */
	cr_assert_eq(zero(d, 5, 100, false, true), -ENOTSUP);	/* less than a sector */
	cr_assert_eq(d->watch.n, n);
	cr_assert_eq(zero(d, 0, UNIT, false, true), 0);	 /* by metadata */
	cr_assert_eq(zero(d, 512, 512, false, true), 0); /* zeroes already */
	d->zero_here = true;
	n = d->watch.n;
	cr_assert_eq(zero(d, UNIT + 512, 512, true, true), 0);
	cr_assert_eq(d->watch.n, n + 1);
	cr_assert_eq(d->watch.entry[n].flags, IMG_IO_FAST | IMG_IO_KEEP_ALLOCATED);
	split_free(d);
}
