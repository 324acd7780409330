/* VHDX: the log before what it tells of, where metadata is changed by blocking calls. */
#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/engine/engine.h"
#include "tests/formats/watched.h"

enum { MIB = 1 << 20 };

/* The BAT's entries of blocks that are cut off: all of them stand in the log, durably, before one of them changes. */
Test(vhdx_order, entries_are_in_the_log_first)
{
	struct folder *f = calloc(1, sizeof(*f));
	const struct watch *w = &f->watch;
	const struct vhdx *v;
	struct img *img;
	size_t entry, log, next;

	folder_make(f, "vhdx", "block_size=1M", 20 * MIB);
	folder_fill(f, "vhdx", 20 * MIB);
	img = folder_open(f, folder_load(f), "vhdx", IMG_OPEN_WRITE);
	v = img->state;
	cr_assert_eq(img_resize(img, 5 * MIB, IMG_PREALLOCATE_OFF, NULL), 0);
	entry = watch_find(w, 0, 0, vhdx_entry_at(v, 10), VHDX_BAT_ENTRY_BYTES);
	cr_assert_lt(entry, w->n);
	for (log = next = 0; next < entry; next++) /* the last entry of the log before it */
		if (watch_find(w, next, 0, v->header.log_off, v->header.log_bytes) == next)
			log = next;
	cr_assert_gt(log, 0);
	cr_assert_geq(w->entry[log].len, 2 * VHDX_LOG_SECTOR);
	cr_assert(!watch_unsynced(w, entry, 0));
	/* and what the entry tells of is in place, durably, before there is another */
	next = watch_find(w, entry, 0, v->header.log_off, v->header.log_bytes);
	cr_assert(!watch_unsynced(w, next, 0));
	cr_assert(reads_as(img, 0, 7, 5 * MIB));
	close_sound(img);
	folder_remove(f);
}

/* An entry that leads out of the file, to where a copy will be, is none before there is the copy. */
Test(vhdx_order, lost_entries_go_before_there_are_copies)
{
	struct folder *f = calloc(1, sizeof(*f));
	const struct watch *w = &f->watch;
	struct img_check_result r;
	struct img_storage *s;
	struct img *img;
	uint8_t slot[VHDX_BAT_ENTRY_BYTES];
	uint64_t size, bat;
	size_t lost, copy;

	folder_make(f, "vhdx", "block_size=1M", 4 * MIB);
	folder_fill(f, "vhdx", 4 * MIB);
	img = folder_open(f, folder_load(f), "vhdx", 0);
	bat = vhdx_entry_at(img->state, 0);
	close_sound(img);
	s = folder_load(f);
	size = s->size;
	/* The second block is the first one, the third is where the file has ended. */
	cr_assert_eq(img_storage_read(s, bat, slot, sizeof(slot), NULL), 0);
	cr_assert_eq(img_storage_write(s, bat + 8, slot, sizeof(slot), NULL), 0);
	le64_store(slot, vhdx_bat_entry(VHDX_PRESENT, size));
	cr_assert_eq(img_storage_write(s, bat + 16, slot, sizeof(slot), NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	img = folder_open(f, s, "vhdx", IMG_OPEN_CHECK | IMG_OPEN_WRITE);
	f->watch.n = 0;
	cr_assert_eq(img_check(img, IMG_REPAIR_ALL | IMG_REPAIR_LOSS, NULL, NULL, &r, NULL), 0);
	cr_assert(!r.corruptions && r.corruptions_fixed == 2);
	lost = watch_find(w, 0, 0, bat + 16, VHDX_BAT_ENTRY_BYTES);
	copy = watch_find(w, 0, 0, size, MIB);
	cr_assert_lt(copy, w->n);
	cr_assert_lt(lost, copy);
	cr_assert(!watch_unsynced(w, copy, 0));
	cr_assert(reads_as(img, 0, 7, 2 * MIB));
	cr_assert(reads_as(img, 2 * MIB, 0, MIB));
	cr_assert(reads_as(img, 3 * MIB, 7, MIB));
	close_sound(img);
	folder_remove(f);
}

/* ---- The log as it was recorded ---- */

enum {
	BLOCKS = 40,
	FILE_LIMIT = 64 * MIB,
};

static const uint8_t no_log[IMG_GUID_BYTES];

static bool is_log(const struct vhdx_header *h, const struct img_record_entry *e)
{
	return e->kind == IMG_RECORD_WRITE && range_in(e->off - h->log_off, e->len, h->log_bytes);
}

static bool is_bat(const struct vhdx_region *bat, const struct img_record_entry *e)
{
	return e->kind == IMG_RECORD_WRITE && range_in(e->off - bat->off, e->len, bat->bytes);
}

static bool is_header(const struct img_record_entry *e)
{
	return e->kind == IMG_RECORD_WRITE && e->len == VHDX_HEADER_BYTES &&
	       (e->off == VHDX_HEADER_OFF(0) || e->off == VHDX_HEADER_OFF(1));
}

/* Is all that was changed before entry n durable? */
static bool is_durable(const struct img_record *r, size_t n)
{
	return !n || img_record_at(r, n - 1)->kind == IMG_RECORD_SYNC;
}

/* The file after its first n changes. */
static struct img_storage *state(const struct img_record *r, struct img_storage *before, size_t n)
{
	uint64_t len = atomic_load(&before->size);
	uint8_t *bytes = malloc(len);
	struct img_storage *s;

	cr_assert_eq(img_storage_read(before, 0, bytes, len, NULL), 0);
	cr_assert_eq(img_storage_memory("state", len, FILE_LIMIT, &s), 0);
	cr_assert_eq(img_storage_write(s, 0, bytes, len, NULL), 0);
	free(bytes);
	for (size_t i = 0; i < n; i++) {
		const struct img_record_entry *e = img_record_at(r, i);

		if (e->kind == IMG_RECORD_WRITE)
			cr_assert_eq(img_storage_write(s, e->off, e->data, e->len, NULL), 0);
		else if (e->kind == IMG_RECORD_ZERO)
			cr_assert_eq(img_storage_zero(s, e->off, e->len, NULL), 0);
		else if (e->kind == IMG_RECORD_RESIZE)
			cr_assert_eq(img_storage_resize(s, e->len, IMG_PREALLOCATE_OFF, NULL), 0);
	}
	return s;
}

/* Each block's first byte is that of the model. */
static void blocks_are(struct img *img, const uint8_t model[BLOCKS], unsigned step)
{
	for (unsigned i = 0; i < BLOCKS; i++) {
		uint8_t byte;

		cr_assert_eq(img_read(img, (uint64_t)i * MIB, &byte, 1, NULL), 0);
		cr_assert_eq(byte, model[i], "step %u: block %u is %u, expected %u", step, i, byte, model[i]);
	}
}

/* Opened from a state of the file, it has the model's blocks; for writing, when what the log says is in the file. */
static void replays(struct folder *f, const struct img_record *r, struct img_storage *before, size_t n,
		    const uint8_t model[BLOCKS], unsigned step)
{
	static const unsigned flags[] = { 0, IMG_OPEN_WRITE };

	for (unsigned i = 0; i < 2; i++) {
		struct img *img = folder_open(f, state(r, before, n), "vhdx", flags[i]);

		blocks_are(img, model, step);
		close_sound(img);
	}
}

/*
 * A disk whose blocks come and go, flushed after each change, so that the log goes round more than twice. The
 * power goes when an entry is in the log and nothing of it in its place: who replays it has all.
 */
Test(vhdx_order, each_entry_of_the_log_is_enough, .timeout = 120)
{
	struct img_open_options how = { .format = "vhdx", .flags = IMG_OPEN_WRITE, .io = IMG_IO_THREADS };
	struct folder *f = calloc(1, sizeof(*f));
	struct img_record *r = img_record_new();
	struct img_storage *before, *s;
	uint8_t model[BLOCKS] = { 0 };
	struct vhdx_header header;
	struct vhdx_region bat;
	struct img *img;
	size_t count, logged = 0;

	folder_make(f, "vhdx", "block_size=1M", (uint64_t)BLOCKS * MIB);
	before = folder_load(f);
	cr_assert_eq(img_storage_record(state(r, before, 0), r, &s), 0);
	cr_assert_eq(img_open_storage(s, f->path, &how, &img, NULL), 0);
	header = ((const struct vhdx *)img->state)->header;
	bat = ((const struct vhdx *)img->state)->regions.bat;
	for (unsigned step = 0; step < 300; step++) {
		unsigned block = step * 7 % BLOCKS;
		size_t n;

		if (model[block])
			cr_assert_eq(img_discard(img, (uint64_t)block * MIB, MIB, NULL), 0);
		else
			write_bytes(img, (uint64_t)block * MIB, (uint8_t)(step % 250 + 1), 512, 0);
		model[block] = model[block] ? 0 : (uint8_t)(step % 250 + 1);
		cr_assert_eq(img_flush(img, NULL), 0);
		for (n = img_record_count(r); !is_log(&header, img_record_at(r, n - 1)); n--)
			;
		if (step % 9 == 0 || (step > 124 && step < 130))
			replays(f, r, before, n, model, step);
	}
	close_sound(img);
	/* In this order: an entry, durable; its header, where that is new; what the entry tells of; durable; no log. */
	count = img_record_count(r);
	for (size_t i = 0; i < count; i++) {
		const struct img_record_entry *e = img_record_at(r, i);

		logged += is_log(&header, e);
		if (is_bat(&bat, e) || is_header(e))
			cr_assert(is_durable(r, i) || is_bat(&bat, img_record_at(r, i - 1)), "change %zu", i);
		if (is_header(e) && memcmp(e->data + 48, no_log, IMG_GUID_BYTES) != 0)
			cr_assert_gt(logged, 0, "change %zu", i);
	}
	cr_assert_gt(logged, 300);
	img_record_free(r);
	img_storage_close(before);
	folder_remove(f);
}

/* What a replay changes is durable before the log is given up. */
Test(vhdx_order, a_replay_is_durable_before_the_log_goes)
{
	struct folder *f = calloc(1, sizeof(*f));
	const struct watch *w = &f->watch;
	struct img_record *r = img_record_new();
	struct img_open_options how = { .format = "vhdx", .flags = IMG_OPEN_WRITE, .io = IMG_IO_THREADS };
	struct img_storage *before, *s;
	struct vhdx_header header;
	struct img *img;
	size_t n, first;

	folder_make(f, "vhdx", "block_size=1M", (uint64_t)BLOCKS * MIB);
	before = folder_load(f);
	cr_assert_eq(img_storage_record(state(r, before, 0), r, &s), 0);
	cr_assert_eq(img_open_storage(s, f->path, &how, &img, NULL), 0);
	write_bytes(img, 0, 7, 512, 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	header = ((const struct vhdx *)img->state)->header;
	for (n = img_record_count(r); !is_log(&header, img_record_at(r, n - 1)); n--)
		;
	s = state(r, before, n);
	close_sound(img);
	f->watch.n = 0;
	img = folder_open(f, watched(&f->watch, 0, s), "vhdx", IMG_OPEN_WRITE);
	first = watch_find(w, 0, 0, VHDX_HEADER_OFF(0), VHDX_HEADER_BYTES);
	if (watch_find(w, 0, 0, VHDX_HEADER_OFF(1), VHDX_HEADER_BYTES) < first)
		first = watch_find(w, 0, 0, VHDX_HEADER_OFF(1), VHDX_HEADER_BYTES);
	cr_assert_gt(first, 0);
	cr_assert_lt(first, w->n);
	cr_assert(!watch_unsynced(w, first, 0));
	cr_assert(reads_as(img, 0, 7, 512));
	close_sound(img);
	img_record_free(r);
	img_storage_close(before);
	folder_remove(f);
}

static int fail_bat(struct watch *w, const struct watch_entry *e)
{
	return w->a && e->op == IMG_IO_WRITE && ranges_overlap(e->off, e->len, w->b, 8) ? -EIO : 0;
}

/* An entry of which nothing could be put in its place stays in the log: who opens the file next has it. */
Test(vhdx_order, a_log_that_is_needed_stays)
{
	struct folder *f = calloc(1, sizeof(*f));
	struct img_error *err = img_error_new();
	struct vhdx_header header;
	struct img_storage *s;
	const struct vhdx *v;
	struct img *img;

	folder_make(f, "vhdx", "block_size=1M", 20 * MIB);
	folder_fill(f, "vhdx", 20 * MIB);
	img = folder_open(f, folder_load(f), "vhdx", IMG_OPEN_WRITE);
	v = img->state;
	f->watch.before = fail_bat;
	f->watch.b = vhdx_entry_at(v, 10);
	f->watch.a = 1;
	cr_assert_eq(img_resize(img, 5 * MIB, IMG_PREALLOCATE_OFF, NULL), -EIO);
	f->watch.a = 0;
	cr_assert_neq(img_engine_finish(img, err), 0);
	header = v->header;
	cr_assert(memcmp(header.log_guid, no_log, IMG_GUID_BYTES) != 0);
	s = state(NULL, img->file, 0);
	img_close(img, NULL);
	img = folder_open(f, s, "vhdx", IMG_OPEN_WRITE);
	cr_assert_eq(img_size(img), 5 * MIB);
	cr_assert_eq(img_resize(img, 20 * MIB, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert(reads_as(img, 0, 7, 5 * MIB));
	cr_assert(reads_as(img, 5 * MIB, 0, 15 * MIB));
	close_sound(img);
	img_error_free(err);
	folder_remove(f);
}
