/*
 * qcow2: what is durable before what, seen in the order of writes and syncs; and which room counts
 * as zeroes, seen with room that holds something.
 */
#include <inttypes.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/endian.h"
#include "tests/formats/watched.h"

enum {
	HEADER = 112,
	KIB = 1024,
	MIB = 1 << 20,
};

static struct folder *qcow2_new(const char *options, uint64_t size)
{
	struct folder *f = calloc(1, sizeof(*f));

	cr_assert_not_null(f);
	folder_make(f, "qcow2", options, size);
	return f;
}

/* ---- Order ---- */

/*
 * Whenever something of [off, off + len) is written, all before it is durable, and it is itself
 * before anything else is written. n: how often, at least.
 */
static void alone_between_syncs(const struct watch *w, uint64_t off, uint64_t len, unsigned n)
{
	unsigned found = 0;

	for (size_t i = watch_find(w, 0, 0, off, len); i < w->n;
	     i = watch_find(w, i + 1, 0, off, len)) {
		found++;
		cr_assert(!watch_unsynced(w, i, 0), "entry %zu of %zu: %" PRIu64 " bytes at %" PRIu64 " are written before what they rely on is durable", i, w->n,
			  w->entry[i].len, w->entry[i].off);
		cr_assert_lt(i + 1, w->n);
		cr_assert_eq(w->entry[i + 1].op, IMG_IO_SYNC, "entry %zu of %zu", i, w->n);
	}
	cr_assert_geq(found, n);
}

static void resize(struct img *img, uint64_t size, int how)
{
	struct img_error *err = img_error_new();

	cr_assert_eq(img_resize(img, size, how, err), 0, "%s", img_error_text(err));
	img_error_free(err);
}

/* The table grows in its cluster, over what happens to lie behind it. */
Test(qcow2_order, a_longer_l1_table_counts_when_its_zeroes_are_durable)
{
	struct folder *f = qcow2_new("cluster_size=64k", 1024 * UINT64_C(1048576));
	struct img_storage *s = folder_load(f);
	uint8_t garbage[512];
	struct img *img;
	uint64_t l1;

	cr_assert_eq(img_storage_read(s, QCOW2_OFF_L1_ENTRIES + 4, garbage, 8, NULL), 0);
	l1 = be64_load(garbage);
	memset(garbage, 0xaa, sizeof(garbage));
	cr_assert_eq(img_storage_write(s, l1 + 16, garbage, sizeof(garbage), NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	img = folder_open(f, s, "qcow2", IMG_OPEN_WRITE);
	f->watch.n = 0;
	resize(img, 4096 * UINT64_C(1048576), IMG_PREALLOCATE_OFF);
	cr_assert_lt(watch_find(&f->watch, 0, 0, l1 + 16, 48), f->watch.n);
	alone_between_syncs(&f->watch, 0, HEADER, 2);
	cr_assert(reads_as(img, 1500 * UINT64_C(1048576), 0, 64 * KIB));
	close_sound(img);
	folder_remove(f);
}

Test(qcow2_order, a_moved_l1_table_is_durable_before_it_is_named)
{
	struct folder *f = qcow2_new("cluster_size=512", 512 * KIB);
	struct img *img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE);

	write_bytes(img, 0, 7, 64 * KIB, 0);
	f->watch.n = 0;
	resize(img, 8 * MIB, IMG_PREALLOCATE_OFF);
	alone_between_syncs(&f->watch, QCOW2_OFF_L1_ENTRIES, 12, 1);
	close_sound(img);
	folder_remove(f);
}

Test(qcow2_order, a_new_refcount_table_is_durable_before_it_is_named)
{
	struct folder *f = qcow2_new("cluster_size=512,refcount_bits=64", 8 * MIB);
	struct img *img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE);
	size_t named;

	for (unsigned i = 0; i < 8; i++)
		write_bytes(img, i * UINT64_C(786432), 7, 384 * KIB, 0);
	named = watch_find(&f->watch, 0, 0, QCOW2_OFF_REFTABLE_OFF, 12);
	cr_assert_lt(named, f->watch.n, "there must be a bigger one");
	alone_between_syncs(&f->watch, 0, HEADER, 1);
	close_sound(img);
	folder_remove(f);
}

Test(qcow2_order, refcount_blocks_are_durable_before_the_table_names_them)
{
	struct folder *f = qcow2_new("cluster_size=4k,refcount_bits=64", 64 * MIB);
	struct img *img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE);
	const struct qcow2 *q = img->state;

	for (unsigned i = 0; i < 16; i++)
		write_bytes(img, i * UINT64_C(3) * MIB, 7, 512 * KIB, 0);
	alone_between_syncs(&f->watch, q->header.refcount_table_off, 4096, 1);
	close_sound(img);
	folder_remove(f);
}

Test(qcow2_order, the_new_size_counts_last_when_growing_and_shrinking)
{
	static const int how[] = { IMG_PREALLOCATE_OFF, IMG_PREALLOCATE_METADATA,
				   IMG_PREALLOCATE_FULL };

	for (unsigned i = 0; i < 3; i++) {
		struct folder *f = qcow2_new("cluster_size=4k", 1 * MIB);
		struct img *img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE);

		write_bytes(img, 100 * KIB, 7, 800 * KIB, 0);
		f->watch.n = 0;
		resize(img, 4 * MIB, how[i]);
		alone_between_syncs(&f->watch, QCOW2_OFF_SIZE, 8, 1);
		write_bytes(img, 3 * MIB, 7, 64 * KIB, 0);
		f->watch.n = 0;
		resize(img, 300 * KIB, IMG_PREALLOCATE_OFF);
		alone_between_syncs(&f->watch, QCOW2_OFF_SIZE, 8, 1);
		close_sound(img);
		folder_remove(f);
	}
}

/* A shared L2 table is copied: the copy is counted and durable before the L1 table names it. */
Test(qcow2_order, a_copied_l2_table_is_durable_before_it_is_named)
{
	struct folder *f = qcow2_new("cluster_size=4k", 4 * MIB);
	struct img_storage *s = folder_load(f);
	struct img *img = folder_open(f, s, "qcow2", IMG_OPEN_WRITE);
	const struct qcow2 *q;
	uint8_t entry[8];
	uint64_t l1;
	size_t table;

	write_bytes(img, 0, 7, 64 * KIB, 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	q = img->state;
	l1 = q->header.l1_off;
	/* As after a snapshot, as far as this table is concerned. */
	cr_assert_eq(img_storage_read(s, l1, entry, 8, NULL), 0);
	entry[0] &= 0x7f;
	cr_assert_eq(img_storage_write(s, l1, entry, 8, NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	img_meta_forget(img, s, 0, UINT64_MAX);
	f->watch.n = 0;
	write_bytes(img, 4 * KIB, 8, 4 * KIB, 0);
	table = watch_find(&f->watch, 0, 0, l1, 8);
	cr_assert_lt(table, f->watch.n);
	cr_assert_lt(watch_find(&f->watch, 0, 0, q->refcount_table[0], 4 * KIB), table, "counted before");
	cr_assert(!watch_unsynced(&f->watch, table, 0));
	cr_assert_eq(f->watch.entry[table + 1].op, IMG_IO_SYNC);
	cr_assert_eq(watch_find(&f->watch, table + 1, 0, 0, HEADER), f->watch.n);
	cr_assert(reads_as(img, 0, 7, 4 * KIB));
	cr_assert(reads_as(img, 4 * KIB, 8, 4 * KIB));
	cr_assert(reads_as(img, 8 * KIB, 7, 56 * KIB));
	close_sound(img);
	folder_remove(f);
}

/* Feature bits that are not known go before the first change, durably. */
Test(qcow2_order, autoclear_bits_are_gone_before_the_first_change)
{
	struct folder *f = qcow2_new("cluster_size=4k", 4 * MIB);
	struct img_storage *s = folder_load(f);
	uint8_t bits[8] = { 0, 0, 0, 0, 0, 0, 0, 0x80 };
	struct img *img;

	cr_assert_eq(img_storage_write(s, QCOW2_OFF_AUTOCLEAR, bits, 8, NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	f->watch.n = 0;
	img = folder_open(f, s, "qcow2", IMG_OPEN_WRITE);
	cr_assert_eq(f->watch.n, 0, "opening changes nothing");
	write_bytes(img, 0, 7, 512, 0);
	cr_assert_eq(watch_find(&f->watch, 0, 0, QCOW2_OFF_AUTOCLEAR, 8), 0);
	cr_assert_eq(f->watch.entry[1].op, IMG_IO_SYNC);
	cr_assert_eq(img_storage_read(s, QCOW2_OFF_AUTOCLEAR, bits, 8, NULL), 0);
	cr_assert_eq(be64_load(bits), 0);
	close_sound(img);
	folder_remove(f);
}

/* ---- Room that counts as zeroes ---- */

/* Write a little into the cluster at off: the rest of it must read as zeroes. */
static void little(struct img *img, uint64_t off, uint64_t cluster)
{
	uint64_t at = off + cluster / 2;

	write_bytes(img, at, 5, 512, 0);
	cr_assert(reads_as(img, off, 0, (size_t)(at - off)));
	cr_assert(reads_as(img, at, 5, 512));
	cr_assert(reads_as(img, at + 512, 0, (size_t)(off + cluster - at - 512)));
}

static void reuse(const char *options, unsigned flags)
{
	struct folder *f = qcow2_new(options, 8 * MIB);
	struct img *img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE | flags);
	uint64_t cluster = img_unit_bytes(img), size;

	write_bytes(img, 0, 0xee, 16 * cluster, 0);
	cr_assert_eq(img_discard(img, 0, 8 * cluster, NULL), 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(img_flush(img, NULL), 0);
	size = img->file->size;
	for (uint64_t i = 0; i < 8; i++)
		little(img, (32 + i) * cluster, cluster);
	if (!(flags & IMG_OPEN_UNMAP))
		cr_assert_leq(img->file->size, size + 2 * cluster, "room was used again");
	/* Zeroed, but with its room kept. */
	cr_assert_eq(img_zero(img, 8 * cluster, 8 * cluster, NULL), 0);
	for (uint64_t i = 0; i < 8; i++)
		little(img, (8 + i) * cluster, cluster);
	close_sound(img);
	folder_remove(f);
}

Test(qcow2_room, that_is_used_again_is_not_zeroes)
{
	reuse("cluster_size=64k", 0);
	reuse("cluster_size=4k", 0);
	reuse("cluster_size=64k,extended_l2=on", 0);
	reuse("cluster_size=64k", IMG_OPEN_UNMAP);
}

/* The disk fills up in the middle of a write. */
static int full(struct watch *w, const struct watch_entry *e)
{
	return w->a == e->file + 1 && e->op == IMG_IO_WRITE && e->len > 4096 ? -ENOSPC : 0;
}

static void answered(void *user, int rc, const struct img_error *err)
{
	(void)err;
	*(int *)user = rc;
}

static void half_written(const char *options)
{
	struct folder *f = qcow2_new(options, 8 * MIB);
	struct img *img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE);
	struct qcow2 *q = img->state;
	uint64_t cluster = img_unit_bytes(img);
	unsigned file = q->data_file ? 1 : 0;

	if (q->data_file) { /* as short as what was written to it */
		q->data = q->data_file = watched(&f->watch, 1, q->data_file);
		cr_assert_eq(img_storage_resize(q->data, 0, IMG_PREALLOCATE_OFF, NULL), 0);
	}
	write_bytes(img, 0, 1, 512, 0); /* tables are there */
	f->watch.before = full;
	f->watch.torn = true;
	f->watch.a = file + 1;
	write_bytes(img, 16 * cluster, 0xee, 8 * cluster, -ENOSPC);
	f->watch.a = 0;
	cr_assert(reads_as(img, 16 * cluster, 0, 8 * cluster));
	for (uint64_t i = 0; i < 8; i++)
		little(img, (16 + i) * cluster, cluster);
	close_sound(img);
	folder_remove(f);
}

Test(qcow2_room, where_a_write_failed_is_not_zeroes)
{
	half_written("cluster_size=64k");
	half_written("cluster_size=16k,extended_l2=on");
}

Test(qcow2_room, where_a_write_to_a_data_file_failed_is_not_zeroes)
{
	half_written("cluster_size=64k,data_file=data.raw");
}

/* Of a compressed unit half is written; what is plain later in the same room must not show it. */
Test(qcow2_room, where_a_compressed_write_failed_is_not_zeroes)
{
	struct folder *f = qcow2_new("cluster_size=64k", 8 * MIB);
	struct img *img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE);
	uint8_t *unit = malloc(64 * KIB);
	struct iovec iov = { unit, 64 * KIB };
	uint64_t state = 1;
	struct img_queue *q;
	int rc = 1;

	/* half of it does not shrink */
	memset(unit, 0, 64 * KIB);
	for (unsigned i = 0; i < 32 * KIB; i++) {
		state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
		unit[i] = (uint8_t)(state >> 40) | 1;
	}
	write_bytes(img, 0, 1, 512, 0);
	cr_assert_eq(img_queue_new(IMG_IO_THREADS, &q, NULL), 0);
	f->watch.before = full;
	f->watch.torn = true;
	f->watch.a = 1;
	cr_assert_eq(img_submit_writev(q, img, 1 * MIB, &iov, 1, IMG_SUBMIT_COMPRESS, answered, &rc, NULL),
		     0);
	while (img_queue_in_flight(q))
		img_queue_run(q, true);
	cr_assert_eq(rc, -ENOSPC);
	f->watch.a = 0;
	img_queue_free(q);
	little(img, 2 * MIB, 64 * KIB);
	little(img, 3 * MIB, 64 * KIB);
	free(unit);
	close_sound(img);
	folder_remove(f);
}
