/* Requests to images that keep their data in other files than their tables. */
#include "libimg/engine/unit_cache.h"
#include "tests/engine/split.h"

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
		cr_assert_eq(io(d, i ? IMG_REQUEST_ZERO : IMG_REQUEST_DISCARD, UNIT, NULL, UNIT),
			     0);
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

	cr_assert_eq(img_engine_set_parent(&top->img, &base->img), 0);
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

	cr_assert_eq(img_engine_set_parent(&top->img, &base->img), 0);
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

	cr_assert_eq(img_engine_set_parent(&top->img, &base->img), 0);
	write_byte(base, 0, 0xbb, UNIT + 1536);
	/* what lies behind the end in its file is not the disk's */
	memset(unit, 0xcc, UNIT);
	cr_assert_eq(img_storage_write(base->file[2], 1536, unit, UNIT - 1536, NULL), 0);
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

/* No byte is like its neighbours. */
Test(fill, gets_each_byte_from_its_place)
{
	static const struct {
		uint64_t at, len;
	} piece[] = { { 512, 512 }, { 0, 512 }, { UNIT - 512, 512 }, { 100, 3 }, { 1, UNIT - 2 } };

	for (unsigned i = 0; i < 4 * IMG_ARRAY_LEN(piece); i++) {
		struct split *base = split_new(UNIT * UNITS), *top = split_new(UNIT * UNITS);
		uint64_t at = piece[i / 4].at, len = piece[i / 4].len;
		uint8_t unit[UNIT], expect[UNIT] = { 0 };

		cr_assert_eq(img_engine_set_parent(&top->img, &base->img), 0);
		top->fresh = i % 2;
		write_byte(base, 9 * UNIT, 1, 512); /* its table is in memory: zeroes are known */
		if (i % 4 < 2) {
			for (unsigned k = 0; k < UNIT; k++)
				expect[k] = (uint8_t)(k * 7 + k / 256);
			cr_assert_eq(io(base, IMG_REQUEST_WRITE, 0, expect, UNIT), 0);
		}
		for (unsigned k = 0; k < len; k++)
			expect[at + k] = (uint8_t)(k * 3 + 1);
		cr_assert_eq(io(top, IMG_REQUEST_WRITE, at, expect + at, len), 0);
		cr_assert_eq(io(top, IMG_REQUEST_READ, 0, unit, UNIT), 0);
		cr_assert_eq(memcmp(unit, expect, UNIT), 0);
		split_free(top);
		split_free(base);
	}
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

	cr_assert_eq(img_engine_set_parent(&top->img, &base->img), 0);
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

/* ---- Zeroing and discarding ---- */

static void compare(struct split *d, const uint8_t *model)
{
	uint8_t *now = malloc(d->img.size);

	cr_assert_eq(io(d, IMG_REQUEST_READ, 0, now, d->img.size), 0);
	for (uint64_t i = 0; i < d->img.size; i++)
		cr_assert_eq(now[i], model[i], "offset %lu", (unsigned long)i);
	free(now);
}

Test(zeroes, are_made_where_they_were_asked_for)
{
	enum { SIZE = 4 * UNIT + 1024 };
	static const struct {
		uint64_t off, len;
	} piece[] = { { 0, UNIT }, { 0, 512 }, { 512, UNIT }, { UNIT, 2 * UNIT }, { UNIT - 1, 2 }, { UNIT, UNIT + 512 }, { 4 * UNIT, 1024 }, { 4 * UNIT, 512 }, { 4 * UNIT + 512, 512 }, { 3 * UNIT, SIZE - 3 * UNIT }, { 100, SIZE - 100 }, { 0, SIZE }, { UNIT + 5, UNIT - 10 } };

	for (unsigned i = 0; i < 2 * IMG_ARRAY_LEN(piece); i++) {
		struct split *base = split_new(SIZE), *d = split_new(SIZE);
		uint64_t off = piece[i / 2].off, len = piece[i / 2].len;
		uint8_t model[SIZE];

		cr_assert_eq(img_engine_set_parent(&d->img, &base->img), 0);
		memset(model, 0xbb, SIZE);
		write_byte(base, 0, 0xbb, SIZE);
		if (i % 2) { /* else all of it is the backing image's */
			write_byte(d, 0, 0xdd, SIZE - UNIT);
			memset(model, 0xdd, SIZE - UNIT);
		}
		cr_assert_eq(io(d, IMG_REQUEST_ZERO, off, NULL, len), 0);
		memset(model + off, 0, len);
		compare(d, model);
		split_free(d);
		split_free(base);
	}
}

Test(zeroes, discarding_less_than_a_unit_does_nothing)
{
	struct split *d = split_new(UNIT * UNITS);
	uint8_t model[UNIT * UNITS] = { 0 };
	size_t n;

	write_byte(d, 0, 0xdd, 4 * UNIT);
	memset(model, 0xdd, 4 * UNIT);
	flush(d);
	n = d->watch.n;
	cr_assert_eq(io(d, IMG_REQUEST_DISCARD, 512, NULL, UNIT), 0);
	cr_assert_eq(io(d, IMG_REQUEST_DISCARD, 2 * UNIT, NULL, UNIT - 1), 0);
	flush(d);
	cr_assert_eq(d->watch.n, n);
	compare(d, model);
	cr_assert_eq(io(d, IMG_REQUEST_DISCARD, 512, NULL, 3 * UNIT), 0);
	memset(model + UNIT, 0, 2 * UNIT);
	compare(d, model);
	split_free(d);
}

/* ---- What was looked up ---- */

static void answer(void *user, int rc, const struct img_error *err)
{
	(void)err;
	*(int *)user = rc;
}

/* On a queue of its own, to be run by the caller. */
static void begin(struct img_queue *q, struct split *d, enum img_request_kind kind, uint64_t off,
		  struct iovec *iov, bool ordered, int *rc)
{
	struct img_request r = { .kind = kind,
				 .off = off,
				 .len = iov->iov_len,
				 .iov = iov,
				 .iovcnt = 1,
				 .ordered = ordered,
				 .done = answer,
				 .user = rc };

	*rc = 1;
	cr_assert_eq(img_request_submit(q, &d->img, &r), 0);
}

static void run_all(struct img_queue *q)
{
	while (img_engine_queue_in_flight(q))
		img_engine_queue_run(q, true);
}

static uint8_t first_byte(struct img_queue *q, struct split *d, uint64_t off)
{
	uint8_t bytes[512];
	struct iovec iov = { bytes, sizeof(bytes) };
	int rc;

	begin(q, d, IMG_REQUEST_READ, off, &iov, false, &rc);
	run_all(q);
	cr_assert_eq(rc, 0);
	return bytes[0];
}

Test(look_ups, are_not_believed_after_a_change)
{
	struct split *base = split_new(UNIT * UNITS), *d = split_new(UNIT * UNITS);
	struct img_queue *q;

	cr_assert_eq(img_engine_set_parent(&d->img, &base->img), 0);
	cr_assert_eq(img_engine_queue_new(IMG_IO_THREADS, &q, NULL), 0);
	cr_assert_eq(first_byte(q, d, UNIT), 0);
	write_byte(base, UNIT, 1, UNIT);
	cr_assert_eq(first_byte(q, d, UNIT), 1, "changed below");
	write_byte(d, UNIT, 2, UNIT);
	cr_assert_eq(first_byte(q, d, UNIT), 2);
	cr_assert_eq(io(d, IMG_REQUEST_ZERO, UNIT, NULL, UNIT), 0);
	cr_assert_eq(first_byte(q, d, UNIT), 0);
	write_byte(d, UNIT, 3, UNIT);
	cr_assert_eq(first_byte(q, d, UNIT), 3);
	img_engine_queue_free(q);
	split_free(d);
	split_free(base);
}

Test(look_ups, end_where_the_extent_does)
{
	struct split *base = split_new(UNIT * UNITS), *d = split_new(UNIT * UNITS);
	uint8_t model[UNIT * UNITS];

	cr_assert_eq(img_engine_set_parent(&d->img, &base->img), 0);
	for (unsigned i = 0; i < UNITS; i++) {
		write_byte(base, i * UNIT, (uint8_t)(100 + i), UNIT);
		memset(model + i * UNIT, (int)(100 + i), UNIT);
	}
	for (unsigned i = 0; i < UNITS; i += 3) {
		write_byte(d, i * UNIT, (uint8_t)(i + 1), UNIT);
		memset(model + i * UNIT, (int)(i + 1), UNIT);
	}
	compare(d, model);
	split_free(d);
	split_free(base);
}

Test(look_ups, into_a_file_that_was_cut_are_errors)
{
	struct split *d = split_new(UNIT * UNITS);
	uint8_t bytes[UNIT];

	write_byte(d, 0, 7, 2 * UNIT);
	flush(d);
	cr_assert_eq(img_storage_resize(d->file[2], 512, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(io(d, IMG_REQUEST_READ, 0, bytes, UNIT), 0);
	cr_assert_eq(io(d, IMG_REQUEST_READ, UNIT, bytes, 512), 0);
	cr_assert_eq(io(d, IMG_REQUEST_READ, UNIT, bytes, UNIT), -EUCLEAN);
	cr_assert_eq(io(d, IMG_REQUEST_READ, UNIT + 512, bytes, 512), -EUCLEAN);
	split_free(d);
}

/* Decoded units are known by their file and place. */
Test(look_ups, of_units_tell_files_apart)
{
	struct split *d = split_new(UNIT * UNITS);
	struct img_extent one = { .kind = IMG_COMPRESSED,
				  .storage = d->file[1],
				  .unit_bytes = 4096 };
	struct img_extent two = one;
	struct img_buffers buffers = { 0 };
	struct img_buffer bytes;
	struct img_unit_cache units = { 0 };
	struct img_list waiting;
	struct img_cached_unit *unit;

	two.storage = d->file[2];
	unit = img_unit_cache_begin(&units, &buffers, 1, &one);
	img_list_init(&waiting);
	cr_assert(unit && img_buffer_get(&buffers, 4096, &bytes));
	img_unit_cache_end(unit, &bytes, &waiting);
	cr_assert_eq(img_unit_cache_find(&units, 1, &one), unit);
	cr_assert_null(img_unit_cache_find(&units, 1, &two));
	img_unit_cache_clear(&units, &buffers);
	img_buffers_clear(&buffers);
	split_free(d);
}

/* ---- Requests ---- */

Test(tasks, buffers_in_pieces_of_any_length)
{
	enum { LEN = 9 * UNIT + 700,
	       AT = 1300 };
	static const size_t piece[] = { 1, 511, 4096, 3, 5000, 8192, 100, 9000, 7 };
	struct split *d = split_new(UNIT * UNITS);
	uint8_t *out = malloc(LEN), *in = calloc(1, LEN);
	struct iovec iov[2][64];
	struct img_request r = { .off = AT, .len = LEN };
	size_t at = 0;
	int n = 0;

	for (size_t i = 0; i < LEN; i++)
		out[i] = (uint8_t)(i * 7 + i / 256);
	for (; at < LEN; n++) {
		size_t len = min_size(piece[(unsigned)n % IMG_ARRAY_LEN(piece)], LEN - at);

		iov[0][n] = (struct iovec){ out + at, len };
		iov[1][n] = (struct iovec){ in + at, len };
		at += len;
	}
	r.iovcnt = n;
	r.kind = IMG_REQUEST_WRITE;
	r.iov = iov[0];
	cr_assert_eq(img_request_run(&d->img, &r, NULL), 0);
	r.kind = IMG_REQUEST_READ;
	r.iov = iov[1];
	cr_assert_eq(img_request_run(&d->img, &r, NULL), 0);
	cr_assert_eq(memcmp(in, out, LEN), 0);
	memset(in, 0, LEN);
	cr_assert_eq(io(d, IMG_REQUEST_READ, AT, in, LEN), 0);
	cr_assert_eq(memcmp(in, out, LEN), 0, "in one piece");
	free(in);
	free(out);
	split_free(d);
}

/* Two queues on one unit: the second waits for the first one's end. */
Test(tasks, wait_for_a_claim_of_another_queue)
{
	static const uint64_t offs[][2] = { { 0, 1024 }, { 1024, 0 }, { 512, 512 }, { 0, 0 } };

	for (unsigned i = 0; i < 2 * IMG_ARRAY_LEN(offs); i++) {
		struct split *d = split_new(UNIT * UNITS);
		const uint64_t *off = offs[i / 2];
		uint8_t one[512], two[512], unit[UNIT], expect[UNIT] = { 0 };
		struct iovec iov[2] = { { one, 512 }, { two, 512 } };
		struct img_queue *a, *b;
		int rc[2];

		d->fresh = i % 2;
		memset(one, 1, 512);
		memset(two, 2, 512);
		cr_assert_eq(img_engine_queue_new(IMG_IO_THREADS, &a, NULL), 0);
		cr_assert_eq(img_engine_queue_new(IMG_IO_THREADS, &b, NULL), 0);
		write_byte(d, 8 * UNIT, 9, 512); /* the table is in memory */
		begin(a, d, IMG_REQUEST_WRITE, off[0], &iov[0], false, &rc[0]);
		begin(b, d, IMG_REQUEST_WRITE, off[1], &iov[1], false, &rc[1]);
		for (unsigned k = 0; k < 20; k++)
			img_engine_queue_run(b, false);
		cr_assert_eq(rc[1], 1, "it waits");
		cr_assert_eq(d->next, 2, "with no room of its own");
		run_all(a);
		run_all(b);
		cr_assert(!rc[0] && !rc[1]);
		cr_assert_eq(d->next, 2);
		memset(expect + off[0], 1, 512);
		memset(expect + off[1], 2, 512);
		cr_assert_eq(io(d, IMG_REQUEST_READ, 0, unit, UNIT), 0);
		cr_assert_eq(memcmp(unit, expect, UNIT), 0);
		img_engine_queue_free(a);
		img_engine_queue_free(b);
		split_free(d);
	}
}

/* Two on one queue: the second may write its part of the room at once, or has to wait. */
Test(tasks, join_or_wait_but_lose_nothing)
{
	static const struct {
		uint64_t one, one_len, two, two_len;
	} pair[] = { { 0, 512, 1024, 512 }, { 1024, 512, 0, 512 }, { 0, 512, 512, 512 }, { 512, 512, 0, 512 }, { 0, 512, 1024, UNIT }, { 512, 512, 1024, 2 * UNIT }, { 0, UNIT, UNIT, 512 }, { UNIT + 512, 512, 0, UNIT } };

	for (unsigned i = 0; i < 4 * IMG_ARRAY_LEN(pair); i++) {
		struct split *base = split_new(UNIT * UNITS), *d = split_new(UNIT * UNITS);
		uint8_t one[UNIT], two[2 * UNIT], model[UNIT * UNITS] = { 0 };
		struct iovec iov[2] = { { one, pair[i / 4].one_len },
					{ two, pair[i / 4].two_len } };
		struct img_queue *q;
		int rc[2];

		d->fresh = i % 2;
		cr_assert_eq(img_engine_set_parent(&d->img, &base->img), 0);
		memset(one, 1, sizeof(one));
		memset(two, 2, sizeof(two));
		write_byte(base, 8 * UNIT, 1, 512); /* its table is in memory: zeroes are known */
		if (i % 4 < 2) {
			write_byte(base, 0, 0xbb, 4 * UNIT);
			memset(model, 0xbb, 4 * UNIT);
		}
		write_byte(d, 8 * UNIT, 9, UNIT);
		memset(model + 8 * UNIT, 9, UNIT);
		cr_assert_eq(img_engine_queue_new(IMG_IO_THREADS, &q, NULL), 0);
		begin(q, d, IMG_REQUEST_WRITE, pair[i / 4].one, &iov[0], false, &rc[0]);
		begin(q, d, IMG_REQUEST_WRITE, pair[i / 4].two, &iov[1], false, &rc[1]);
		run_all(q);
		cr_assert(!rc[0] && !rc[1]);
		memset(model + pair[i / 4].one, 1, pair[i / 4].one_len);
		memset(model + pair[i / 4].two, 2, pair[i / 4].two_len);
		compare(d, model);
		/* and it is there, not in memory only */
		reopen(d);
		compare(d, model);
		img_engine_queue_free(q);
		split_free(d);
		split_free(base);
	}
}

/* The first of those that allocate in turn waits for another queue: so do those behind it. */
Test(tasks, that_allocate_in_order_wait_for_each_other)
{
	for (unsigned ordered = 0; ordered < 2; ordered++) {
		struct split *d = split_new(UNIT * UNITS);
		uint8_t bytes[UNIT] = { 1 };
		struct iovec iov[3] = { { bytes, 512 }, { bytes, UNIT }, { bytes, UNIT } };
		struct img_queue *a, *b;
		int rc[3];

		cr_assert_eq(img_engine_queue_new(IMG_IO_THREADS, &a, NULL), 0);
		cr_assert_eq(img_engine_queue_new(IMG_IO_THREADS, &b, NULL), 0);
		write_byte(d, 8 * UNIT, 9, 512);
		begin(a, d, IMG_REQUEST_WRITE, 0, &iov[0], false, &rc[0]);
		begin(b, d, IMG_REQUEST_WRITE, 0, &iov[1], ordered, &rc[1]);
		begin(b, d, IMG_REQUEST_WRITE, UNIT, &iov[2], ordered, &rc[2]);
		for (unsigned k = 0; k < 20; k++)
			img_engine_queue_run(b, false);
		cr_assert_eq(rc[1], 1);
		cr_assert_eq(rc[2], ordered ? 1 : 0);
		cr_assert_eq(d->next, ordered ? 2 : 3);
		run_all(a);
		run_all(b);
		cr_assert(!rc[0] && !rc[1] && !rc[2]);
		img_engine_queue_free(a);
		img_engine_queue_free(b);
		split_free(d);
	}
}

Test(tasks, with_writethrough_are_durable_when_done)
{
	struct img_engine_config config = { .io = IMG_IO_THREADS, .writethrough = true };
	struct split *d = split_new(UNIT * UNITS);

	img_engine_free(&d->img);
	cr_assert_eq(img_engine_new(&d->img, &config, NULL), 0);
	for (unsigned i = 0; i < 4; i++) {
		write_byte(d, i * UNIT + 512, 1, 2 * UNIT);
		for (unsigned f = 0; f < 3; f++)
			cr_assert(!watch_unsynced(&d->watch, d->watch.n, f));
		cr_assert_neq(watch_find(&d->watch, 0, 0, 0, 512), d->watch.n);
	}
	cr_assert_eq(io(d, IMG_REQUEST_ZERO, 0, NULL, UNIT), 0);
	for (unsigned f = 0; f < 3; f++)
		cr_assert(!watch_unsynced(&d->watch, d->watch.n, f));
	split_free(d);
}
