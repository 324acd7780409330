/*
 * Writing to qcow2 images of every make against a flat model: whatever is written, packed, zeroed or
 * discarded, the image reads as the model, and a check finds nothing, leaks included. No other
 * program is needed, so that this runs everywhere, and fast.
 */
#include <inttypes.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/endian.h"
#include "libimg/engine/engine.h"
#include "tests/formats/watched.h"

enum {
	KIB = 1024,
	MIB = 1 << 20,
	SIZE = 1 * MIB + 512 * 3, /* not a multiple of any cluster */
	BASE = 700 * KIB + 512,	  /* the backing file is shorter */
};

struct play {
	struct folder *f;
	struct img *img;
	struct img_queue *q;
	uint8_t model[SIZE];
	uint64_t seed, cluster;
	bool backing;
};

/* n: 1 and more. */
static uint64_t below(struct play *p, uint64_t n)
{
	cr_assert(n);
	p->seed ^= p->seed << 13;
	p->seed ^= p->seed >> 7;
	p->seed ^= p->seed << 17;
	return p->seed % n;
}

/* A range that likes borders of clusters. */
static void range(struct play *p, uint64_t *off, uint64_t *len)
{
	uint64_t grain = below(p, 3) ? 512 : p->cluster;

	*off = below(p, SIZE / grain + 1) * grain;
	*off = min_u64(*off, SIZE - 1);
	*len = min_u64(grain * (1 + below(p, 1 + min_u64(64 * KIB, 6 * p->cluster) / grain)),
		       SIZE - *off);
	if (!below(p, 4)) {
		*off += below(p, min_u64(512, SIZE - *off));
		*len = 1 + below(p, min_u64(*len, SIZE - *off));
	}
	if (!below(p, 12)) {
		*off = SIZE - min_u64(SIZE, p->cluster * (1 + below(p, 3)));
		*len = SIZE - *off;
	}
}

static void play_open(struct play *p, unsigned flags)
{
	struct img_open_options how = { .format = "qcow2",
					.flags = IMG_OPEN_WRITE | flags,
					.io = IMG_IO_THREADS,
					.cache_bytes = 1 }; /* the least */
	struct img_error *err = img_error_new();

	cr_assert_eq(img_open(p->f->path, &how, &p->img, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	p->cluster = img_unit_bytes(p->img);
}

static void compare_all(struct play *p)
{
	uint8_t *bytes = malloc(SIZE);

	cr_assert_eq(img_read(p->img, 0, bytes, SIZE, NULL), 0);
	for (size_t i = 0; i < SIZE; i++)
		cr_assert_eq(bytes[i], p->model[i], "offset %zu: found %u, expected %u", i, bytes[i],
			     p->model[i]);
	free(bytes);
}

static void say(void *user, const char *line)
{
	(void)user;
	fprintf(stderr, "%s\n", line);
}

static void check_sound(struct img *img)
{
	struct img_check_result r = { 0 };
	struct img_error *err = img_error_new();

	/* twice: what the first flush freed is counted by the second */
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(img_check(img, 0, say, NULL, &r, err), 0, "%s", img_error_text(err));
	cr_assert_eq(r.corruptions, 0);
	cr_assert_eq(r.leaks, 0);
	cr_assert_eq(r.check_errors, 0);
	img_error_free(err);
}

static void answered(void *user, int rc, const struct img_error *err)
{
	(void)err;
	*(int *)user = rc;
}

/* A unit that shrinks to something between a few bytes and nearly all of it. */
static void write_packed(struct play *p, uint64_t off, uint64_t len)
{
	uint8_t *unit = malloc(len);
	uint64_t odd = below(p, 4) ? below(p, len + 1) : len; /* a fourth does not shrink */
	struct iovec iov = { unit, len };
	int rc = 1;

	memset(unit, (int)below(p, 256), len);
	for (uint64_t i = 0; i < odd; i++)
		unit[i] = (uint8_t)below(p, 256);
	cr_assert_eq(img_submit_writev(p->q, p->img, off, &iov, 1, IMG_SUBMIT_COMPRESS, answered,
				       &rc, NULL),
		     0);
	while (img_queue_in_flight(p->q))
		img_queue_run(p->q, true);
	cr_assert_eq(rc, 0);
	memcpy(p->model + off, unit, len);
	free(unit);
}

/* What is discarded reads as before or as zeroes: never as something else. */
static void discard(struct play *p, uint64_t off, uint64_t len)
{
	uint8_t *now = malloc(len);

	cr_assert_eq(img_discard(p->img, off, len, NULL), 0);
	cr_assert_eq(img_read(p->img, off, now, len, NULL), 0);
	for (uint64_t i = 0; i < len; i++)
		cr_assert(!now[i] || now[i] == p->model[off + i], "offset %" PRIu64, off + i);
	memcpy(p->model + off, now, len);
	free(now);
}

static void play(const char *options, bool backing, bool compress, unsigned flags, unsigned rounds)
{
	struct play *p = calloc(1, sizeof(*p));
	const char *list[] = { options, NULL };
	struct img_create_options how = { .format = "qcow2",
					  .have_size = true,
					  .size = SIZE,
					  .options = list };
	struct img_error *err = img_error_new();
	char base[140];

	cr_assert_not_null(p);
	p->f = calloc(1, sizeof(*p->f));
	p->seed = 0x9e3779b97f4a7c15;
	folder_make(p->f, "qcow2", options, SIZE);
	if (backing) {
		FILE *out;

		snprintf(base, sizeof(base), "%s/base.raw", p->f->dir);
		for (size_t i = 0; i < BASE; i++)
			p->model[i] = (uint8_t)(i / 4096 % 5 == 4 ? 0 : 1 + i / 512 % 255);
		out = fopen(base, "w");
		cr_assert(out && fwrite(p->model, 1, BASE, out) == BASE && !fclose(out));
		how.backing_name = "base.raw";
		how.backing_format = "raw";
		cr_assert_eq(img_create(p->f->path, &how, err), 0, "%s", img_error_text(err));
	}
	p->backing = backing;
	play_open(p, flags);
	cr_assert_eq(img_queue_new(IMG_IO_THREADS, &p->q, NULL), 0);
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t off, len;
		uint8_t byte = (uint8_t)(1 + below(p, 255));

		range(p, &off, &len);
		switch (below(p, 8)) {
		case 0:
			cr_assert_eq(img_zero(p->img, off, len, NULL), 0);
			memset(p->model + off, 0, len);
			break;
		case 1:
			discard(p, off, len);
			break;
		case 2:
			off = align_down_u64(off, p->cluster);
			if (compress)
				write_packed(p, off, min_u64(p->cluster, SIZE - off));
			break;
		case 3:
			cr_assert_eq(img_flush(p->img, NULL), 0);
			break;
		default:
			write_bytes(p->img, off, byte, len, 0);
			memset(p->model + off, byte, len);
			break;
		}
		if (i % 50 == 49) {
			compare_all(p);
			check_sound(p->img);
		}
		if (i % 100 == 99) {
			close_sound(p->img);
			play_open(p, flags);
			compare_all(p);
			check_sound(p->img);
		}
	}
	img_queue_free(p->q);
	close_sound(p->img);
	img_error_free(err);
	folder_remove(p->f);
	free(p);
}

#define PLAY(name, ...) \
	Test(qcow2_write, name) \
	{ \
		play(__VA_ARGS__); \
	}

PLAY(small, "cluster_size=512", false, false, 0, 400)
PLAY(small_packed, "cluster_size=512", false, true, 0, 400)
PLAY(middle_packed, "cluster_size=4k", false, true, 0, 400)
PLAY(middle_packed_over_backing, "cluster_size=4k", true, true, 0, 400)
PLAY(middle_unmap, "cluster_size=4k", true, true, IMG_OPEN_UNMAP, 400)
PLAY(large_packed, "cluster_size=64k", true, true, 0, 300)
PLAY(refcounts_of_one_bit, "cluster_size=4k,refcount_bits=1", true, true, 0, 400)
PLAY(refcounts_of_two_bits, "cluster_size=4k,refcount_bits=2", false, true, IMG_OPEN_UNMAP, 400)
PLAY(refcounts_of_64_bits, "cluster_size=512,refcount_bits=64", true, true, 0, 400)
PLAY(version_2, "compat=0.10,cluster_size=4k", false, true, 0, 400)
PLAY(version_2_over_backing, "compat=0.10,cluster_size=4k", true, true, 0, 400)
PLAY(extended, "extended_l2=on,cluster_size=16k", false, true, 0, 400)
PLAY(extended_over_backing, "extended_l2=on,cluster_size=16k", true, true, 0, 400)
PLAY(extended_unmap, "extended_l2=on,cluster_size=16k", true, true, IMG_OPEN_UNMAP, 400)
PLAY(data_file, "data_file=data.raw,cluster_size=4k", false, false, 0, 400)
PLAY(data_file_extended, "data_file=data.raw,extended_l2=on,cluster_size=16k", false, false, 0, 400)
PLAY(zstd, "compression_type=zstd,cluster_size=4k", true, true, 0, 300)

/* ---- Shared with a snapshot ---- */

/* Room for what a snapshot would share: changed behind the engine's back. */
struct shared {
	struct folder *f;
	struct img_storage *s;
	struct img *img;
	uint64_t l1, l2, host; /* file offsets: L1 table, its first L2 table, that one's first cluster */
};

static uint64_t word_at(struct img_storage *s, uint64_t off)
{
	uint8_t bytes[8];

	cr_assert_eq(img_storage_read(s, off, bytes, 8, NULL), 0);
	return be64_load(bytes);
}

static void set_word(struct img_storage *s, uint64_t off, uint64_t value)
{
	uint8_t bytes[8];

	be64_store(bytes, value);
	cr_assert_eq(img_storage_write(s, off, bytes, 8, NULL), 0);
}

/* Where the count of the cluster at off lies. */
static uint64_t place_of_count(const struct shared *h, uint64_t off)
{
	return word_at(h->s, word_at(h->s, QCOW2_OFF_REFTABLE_OFF)) + off / (4 * KIB) * 2;
}

static void set_count(const struct shared *h, uint64_t off, uint8_t count)
{
	uint8_t bytes[2] = { 0, count };

	cr_assert_eq(img_storage_write(h->s, place_of_count(h, off), bytes, 2, NULL), 0);
}

static unsigned count_of(const struct shared *h, uint64_t off)
{
	uint8_t bytes[2];

	cr_assert_eq(img_storage_read(h->s, place_of_count(h, off), bytes, 2, NULL), 0);
	return (unsigned)(bytes[0] << 8 | bytes[1]);
}

/* An image with data, of which the clusters have another user, and perhaps the table. */
static struct shared share(bool table)
{
	struct img_open_options how = { .format = "qcow2", .flags = IMG_OPEN_WRITE };
	struct shared h = { .f = calloc(1, sizeof(*h.f)) };

	cr_assert_not_null(h.f);
	folder_make(h.f, "qcow2", "cluster_size=4k", 4 * MIB);
	cr_assert_eq(img_open(h.f->path, &how, &h.img, NULL), 0);
	write_bytes(h.img, 0, 7, 64 * KIB, 0);
	close_sound(h.img);
	h.s = folder_load(h.f);
	h.l1 = word_at(h.s, QCOW2_OFF_L1_ENTRIES + 4);
	h.l2 = word_at(h.s, h.l1) & QCOW2_OFFSET_MASK;
	h.host = word_at(h.s, h.l2) & QCOW2_OFFSET_MASK;
	for (unsigned i = 0; i < 16; i++) {
		uint64_t entry = word_at(h.s, h.l2 + i * 8);

		set_word(h.s, h.l2 + i * 8, entry & ~QCOW2_COPIED);
		set_count(&h, entry & QCOW2_OFFSET_MASK, 2);
	}
	if (table) {
		set_word(h.s, h.l1, word_at(h.s, h.l1) & ~QCOW2_COPIED);
		set_count(&h, h.l2, 2);
	}
	h.img = folder_open(h.f, h.s, "qcow2", IMG_OPEN_WRITE);
	return h;
}

static bool holds(struct img_storage *s, uint64_t off, uint8_t byte, size_t len)
{
	uint8_t *bytes = malloc(len);
	bool same = true;

	cr_assert_eq(img_storage_read(s, off, bytes, len, NULL), 0);
	for (size_t i = 0; i < len; i++)
		same &= bytes[i] == byte;
	free(bytes);
	return same;
}

Test(qcow2_shared, clusters_are_not_written_in_place)
{
	for (unsigned table = 0; table < 2; table++) {
		struct shared h = share(table);
		uint64_t entries[16];

		for (unsigned i = 0; i < 16; i++)
			entries[i] = word_at(h.s, h.l2 + i * 8);
		write_bytes(h.img, 4 * KIB + 512, 8, 512, 0);
		write_bytes(h.img, 16 * KIB, 9, 8 * KIB, 0);
		cr_assert_eq(img_zero(h.img, 32 * KIB, 4 * KIB, NULL), 0);
		cr_assert_eq(img_discard(h.img, 36 * KIB, 4 * KIB, NULL), 0);
		for (unsigned i = 0; i < 3; i++)
			cr_assert_eq(img_flush(h.img, NULL), 0);
		for (unsigned i = 0; i < 16; i++) {
			uint64_t host = entries[i] & QCOW2_OFFSET_MASK;
			bool left = i == 1 || i == 4 || i == 5 || i == 9;

			cr_assert(holds(h.s, host, 7, 4 * KIB), "cluster %u", i);
			if (!table)
				cr_assert_eq(count_of(&h, host), left ? 1 : 2, "cluster %u", i);
			if (table)
				cr_assert_eq(word_at(h.s, h.l2 + i * 8), entries[i]);
		}
		if (table) {
			cr_assert_eq(count_of(&h, h.l2), 1);
			cr_assert_neq(word_at(h.s, h.l1), h.l2);
			cr_assert_neq(word_at(h.s, h.l1) & QCOW2_COPIED, 0);
		}
		cr_assert(reads_as(h.img, 0, 7, 4 * KIB + 512));
		cr_assert(reads_as(h.img, 4 * KIB + 512, 8, 512));
		cr_assert(reads_as(h.img, 5 * KIB, 7, 11 * KIB));
		cr_assert(reads_as(h.img, 16 * KIB, 9, 8 * KIB));
		cr_assert(reads_as(h.img, 24 * KIB, 7, 8 * KIB));
		cr_assert(reads_as(h.img, 32 * KIB, 0, 8 * KIB));
		cr_assert(reads_as(h.img, 40 * KIB, 7, 24 * KIB));
		close_sound(h.img);
		folder_remove(h.f);
	}
}

Test(qcow2_shared, clusters_are_not_punched)
{
	struct shared h = share(false);

	h.img->unmap = true;
	cr_assert_eq(img_discard(h.img, 0, 32 * KIB, NULL), 0);
	write_bytes(h.img, 32 * KIB, 9, 32 * KIB, 0);
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(img_flush(h.img, NULL), 0);
	cr_assert(holds(h.s, h.host, 7, 64 * KIB));
	cr_assert_eq(watch_count(&h.f->watch, 0, 0, IMG_IO_PUNCH), 0);
	close_sound(h.img);
	folder_remove(h.f);
}

/* A cluster with subclusters of all states is written to while it is shared, in part. */
Test(qcow2_shared, subclusters_keep_what_is_not_written)
{
	static const struct {
		uint64_t off, len;
	} piece[] = { { 0, 512 }, { 3 * KIB, 512 }, { 15 * KIB, 2 * KIB }, { 17 * KIB, 512 }, { 30 * KIB, 512 }, { 512, 31 * KIB }, { 47 * KIB, 2 * KIB } };

	for (unsigned i = 0; i < IMG_ARRAY_LEN(piece); i++) {
		struct img_open_options how = { .format = "qcow2", .flags = IMG_OPEN_WRITE };
		struct shared h = { .f = calloc(1, sizeof(*h.f)) };
		uint8_t *model = calloc(1, 64 * KIB), *now = malloc(64 * KIB);

		folder_make(h.f, "qcow2", "cluster_size=16k,extended_l2=on", 4 * MIB);
		cr_assert_eq(img_open(h.f->path, &how, &h.img, NULL), 0);
		/* the first cluster: data, zeroes, data at its end; the second: data within */
		write_bytes(h.img, 1 * KIB, 1, 4 * KIB, 0);
		write_bytes(h.img, 15 * KIB, 2, 512, 0);
		write_bytes(h.img, 20 * KIB, 3, 3 * KIB, 0);
		write_bytes(h.img, 56 * KIB, 4, 3 * KIB, 0); /* before it nothing */
		cr_assert_eq(img_read(h.img, 0, model, 64 * KIB, NULL), 0);
		close_sound(h.img);
		h.s = folder_load(h.f);
		h.l1 = word_at(h.s, QCOW2_OFF_L1_ENTRIES + 4);
		h.l2 = word_at(h.s, h.l1) & QCOW2_OFFSET_MASK;
		for (unsigned k = 0; k < 4; k++) {
			uint64_t entry = word_at(h.s, h.l2 + k * 16);

			if (k == 2)
				continue;
			set_word(h.s, h.l2 + k * 16, entry & ~QCOW2_COPIED);
			cr_assert_eq(img_storage_write(
					     h.s,
					     word_at(h.s, word_at(h.s, QCOW2_OFF_REFTABLE_OFF)) +
						     (entry & QCOW2_OFFSET_MASK) / (16 * KIB) * 2,
					     "\0\2", 2, NULL),
				     0);
		}
		h.img = folder_open(h.f, h.s, "qcow2", IMG_OPEN_WRITE);
		write_bytes(h.img, piece[i].off, 9, piece[i].len, 0);
		memset(model + piece[i].off, 9, piece[i].len);
		cr_assert_eq(img_read(h.img, 0, now, 64 * KIB, NULL), 0);
		cr_assert_eq(memcmp(now, model, 64 * KIB), 0, "piece %u", i);
		close_sound(h.img);
		folder_remove(h.f);
		free(now);
		free(model);
	}
}

/* ---- Counts ---- */

/* Counts of many clusters in a row, over several sectors of a block. */
Test(qcow2_counts, of_a_long_row_are_all_written)
{
	static const char *const options[] = { "cluster_size=512,refcount_bits=1",
					       "cluster_size=512,refcount_bits=64",
					       "cluster_size=4k,refcount_bits=16",
					       "cluster_size=4k,refcount_bits=64" };

	for (unsigned i = 0; i < IMG_ARRAY_LEN(options); i++) {
		struct folder *f = calloc(1, sizeof(*f));
		struct img_open_options how = { .format = "qcow2", .flags = IMG_OPEN_WRITE };
		struct img *img;

		folder_make(f, "qcow2", options[i], 8 * MIB);
		for (unsigned round = 0; round < 2; round++) {
			cr_assert_eq(img_open(f->path, &how, &img, NULL), 0);
			write_bytes(img, 100 * KIB, 5, 4 * MIB, 0);
			close_sound(img);
			cr_assert_eq(img_open(f->path, &how, &img, NULL), 0);
			check_sound(img);
			cr_assert(reads_as(img, 100 * KIB, 5, 4 * MIB));
			cr_assert_eq(img_discard(img, 256 * KIB, 3 * MIB, NULL), 0);
			close_sound(img);
			cr_assert_eq(img_open(f->path, &how, &img, NULL), 0);
			check_sound(img);
			close_sound(img);
		}
		folder_remove(f);
	}
}

Test(qcow2_packed, units_share_a_cluster_no_more_often_than_its_count_can_say)
{
	static const char *const bits[] = { "1", "2", "4", "8", "16" };

	for (unsigned i = 0; i < IMG_ARRAY_LEN(bits); i++) {
		struct play *p = calloc(1, sizeof(*p));
		char options[60];

		cr_assert_not_null(p);
		p->f = calloc(1, sizeof(*p->f));
		snprintf(options, sizeof(options), "cluster_size=4k,refcount_bits=%s", bits[i]);
		folder_make(p->f, "qcow2", options, SIZE);
		play_open(p, 0);
		cr_assert_eq(img_queue_new(IMG_IO_THREADS, &p->q, NULL), 0);
		for (unsigned u = 0; u < 200; u++) {
			uint8_t unit[4 * KIB];
			struct iovec iov = { unit, sizeof(unit) };
			int rc = 1;

			memset(unit, (int)u + 1, sizeof(unit)); /* a few bytes when packed */
			memset(p->model + u * sizeof(unit), (int)u + 1, sizeof(unit));
			cr_assert_eq(img_submit_writev(p->q, p->img, u * sizeof(unit), &iov, 1,
						       IMG_SUBMIT_COMPRESS, answered, &rc, NULL),
				     0);
			while (img_queue_in_flight(p->q))
				img_queue_run(p->q, true);
			cr_assert_eq(rc, 0);
		}
		compare_all(p);
		check_sound(p->img);
		/* what shares a cluster goes one by one */
		for (unsigned u = 0; u < 200; u += 2) {
			write_bytes(p->img, u * 4096u, 0x55, 4096, 0);
			memset(p->model + u * 4096u, 0x55, 4096);
		}
		compare_all(p);
		check_sound(p->img);
		img_queue_free(p->q);
		close_sound(p->img);
		folder_remove(p->f);
		free(p);
	}
}

/* ---- Compressed data ---- */

/* Two pieces that follow each other to the byte are two uses of their cluster. */
Test(qcow2_packed, pieces_are_freed_one_by_one)
{
	struct img_open_options how = { .format = "qcow2", .flags = IMG_OPEN_WRITE };
	struct shared h = { .f = calloc(1, sizeof(*h.f)) };
	const struct qcow2 *q;
	uint64_t room;

	folder_make(h.f, "qcow2", "cluster_size=4k", 4 * MIB);
	cr_assert_eq(img_open(h.f->path, &how, &h.img, NULL), 0);
	write_bytes(h.img, 0, 7, 16 * KIB, 0);
	close_sound(h.img);
	h.s = folder_load(h.f);
	h.img = folder_open(h.f, h.s, "qcow2", 0);
	q = h.img->state;
	h.l2 = word_at(h.s, q->header.l1_off) & QCOW2_OFFSET_MASK;
	room = word_at(h.s, h.l2 + 16) & QCOW2_OFFSET_MASK;
	for (unsigned i = 0; i < 2; i++) {
		struct qcow2_entry e = { .kind = QCOW2_COMPRESSED,
					 .host_off = room + i * 1024,
					 .stored_bytes = 1024 };
		uint64_t word, bitmap, old = word_at(h.s, h.l2 + 16 + i * 8);

		qcow2_encode_entry(&q->geometry, &e, &word, &bitmap);
		set_word(h.s, h.l2 + 16 + i * 8, word);
		set_count(&h, old & QCOW2_OFFSET_MASK, i ? 0 : 2);
	}
	/* what it looks like now is in the file */
	cr_assert_eq(count_of(&h, room), 2);
	for (uint64_t at = 0; at < h.s->size; at += 4096) {
		uint8_t bytes[4096];
		FILE *out = fopen(h.f->path, at ? "r+" : "w");

		cr_assert_eq(img_storage_read(h.s, at, bytes, 4096, NULL), 0);
		cr_assert(out && !fseek(out, (long)at, SEEK_SET) &&
			  fwrite(bytes, 1, 4096, out) == 4096 && !fclose(out));
	}
	close_sound(h.img);
	cr_assert_eq(img_open(h.f->path, &how, &h.img, NULL), 0);
	check_sound(h.img);
	write_bytes(h.img, 8 * KIB, 8, 8 * KIB, 0);
	check_sound(h.img);
	cr_assert(reads_as(h.img, 8 * KIB, 8, 8 * KIB));
	close_sound(h.img);
	folder_remove(h.f);
}

static void pack_bytes(struct img *img, uint64_t off, uint8_t *bytes)
{
	struct iovec iov = { bytes, img_unit_bytes(img) };
	struct img_queue *q;
	int rc = 1;

	cr_assert_eq(img_queue_new(IMG_IO_THREADS, &q, NULL), 0);
	cr_assert_eq(img_submit_writev(q, img, off, &iov, 1, IMG_SUBMIT_COMPRESS, answered, &rc,
				       NULL),
		     0);
	while (img_queue_in_flight(q))
		img_queue_run(q, true);
	cr_assert_eq(rc, 0);
	img_queue_free(q);
}

static void pack_one(struct img *img, uint64_t off, uint8_t byte)
{
	uint64_t unit = img_unit_bytes(img);
	uint8_t *bytes = malloc(unit);

	memset(bytes, byte, unit);
	pack_bytes(img, off, bytes);
	free(bytes);
}

/* The cluster that compressed data went on in is freed, and used by plain data. */
Test(qcow2_packed, data_does_not_go_on_in_a_cluster_that_was_freed)
{
	for (unsigned round = 0; round < 2; round++) {
		struct folder *f = calloc(1, sizeof(*f));
		struct img *img;

		folder_make(f, "qcow2", "cluster_size=64k", 4 * MIB);
		img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE);
		pack_one(img, 0, 1);
		if (round)
			write_bytes(img, 0, 9, 64 * KIB, 0);
		else
			cr_assert_eq(img_discard(img, 0, 64 * KIB, NULL), 0);
		cr_assert_eq(img_flush(img, NULL), 0);
		cr_assert_eq(img_flush(img, NULL), 0);
		write_bytes(img, 64 * KIB, 2, 64 * KIB, 0);
		pack_one(img, 128 * KIB, 3);
		cr_assert(reads_as(img, 0, round ? 9 : 0, 64 * KIB));
		cr_assert(reads_as(img, 64 * KIB, 2, 64 * KIB));
		cr_assert(reads_as(img, 128 * KIB, 3, 64 * KIB));
		check_sound(img);
		close_sound(img);
		folder_remove(f);
	}
}

/* What is next to be compressed comes while a cluster is given back to the file system. */
static int pack_meanwhile(struct watch *w, const struct watch_entry *e)
{
	if (e->op == IMG_IO_PUNCH && w->a) {
		uint64_t off = w->a;

		w->a = 0;
		w->b = 1;
		pack_one(w->user, off, 3);
	}
	return 0;
}

/* All sectors of a cluster are one unit's; behind its last byte is room for another. */
Test(qcow2_packed, data_does_not_go_on_in_a_cluster_that_is_punched)
{
	static const char *const options[] = { "cluster_size=64k", "cluster_size=512" };

	for (unsigned i = 0; i < IMG_ARRAY_LEN(options); i++) {
		struct folder *f = calloc(1, sizeof(*f));
		uint64_t unit, state = 1;
		uint8_t *bytes;
		struct img *img;

		folder_make(f, "qcow2", options[i], 1 * MIB);
		img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
		unit = img_unit_bytes(img);
		bytes = calloc(1, unit);
		for (uint64_t k = unit * 3 / 512; k < unit; k++) { /* shrinks by less than a sector */
			state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
			bytes[k] = (uint8_t)(state >> 40);
		}
		if (unit == 512)
			memset(bytes, 1, unit);
		pack_bytes(img, 0, bytes);
		cr_assert_eq(img_discard(img, 0, unit, NULL), 0);
		f->watch.user = img;
		f->watch.a = unit;
		f->watch.before = pack_meanwhile;
		for (unsigned k = 0; k < 3; k++)
			cr_assert_eq(img_flush(img, NULL), 0);
		cr_assert(f->watch.b, "the cluster was given back");
		cr_assert(reads_as(img, 0, 0, unit));
		cr_assert(reads_as(img, unit, 3, unit));
		check_sound(img);
		close_sound(img);
		free(bytes);
		folder_remove(f);
	}
}

Test(qcow2_packed, units_are_told_one_by_one)
{
	struct folder *f = calloc(1, sizeof(*f));
	struct img_map_entry x;
	struct img *img;

	folder_make(f, "qcow2", "cluster_size=64k", 4 * MIB);
	img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE);
	pack_one(img, 64 * KIB, 1);
	cr_assert_eq(img_map(img, 64 * KIB, 1 * MIB, true, &x, NULL), 0);
	cr_assert(x.compressed && x.data && !x.zero);
	cr_assert_eq(x.length, 64 * KIB);
	cr_assert_eq(img_map(img, 64 * KIB + 512, 1 * MIB, true, &x, NULL), 0);
	cr_assert_eq(x.length, 64 * KIB - 512);
	cr_assert_eq(img_map(img, 128 * KIB, 1 * MIB, true, &x, NULL), 0);
	cr_assert(!x.compressed && x.zero);
	close_sound(img);
	folder_remove(f);
}

/* The disk ends within its last unit: what lies behind is zeroes, packed too. */
Test(qcow2_packed, the_last_unit_is_packed_with_zeroes_behind_the_end)
{
	struct folder *f = calloc(1, sizeof(*f));
	static uint8_t stored[128 * KIB], unit[64 * KIB];
	struct img_error *err = img_error_new();
	struct img_extent x;
	struct img *img;

	folder_make(f, "qcow2", "cluster_size=64k", 2 * 64 * KIB + 512);
	img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE);
	{
		uint8_t bytes[64 * KIB];
		struct iovec iov[2] = { { bytes, 64 * KIB }, { bytes, 512 } };
		struct iovec halves[2] = { { bytes, 32 * KIB }, { bytes, 32 * KIB } };
		struct img_queue *q;
		int rc[2] = { 1, 1 };

		memset(bytes, 0xee, sizeof(bytes));
		cr_assert_eq(img_queue_new(IMG_IO_THREADS, &q, NULL), 0);
		for (unsigned i = 0; i < 4; i++) { /* so that memory that is used again is not empty */
			write_bytes(img, 512, 0xee, 64 * KIB, 0);
			cr_assert_eq(img_submit_writev(q, img, i % 2 * 64 * KIB, &iov[0], 1,
						       IMG_SUBMIT_COMPRESS, answered, &rc[0], NULL),
				     0);
			while (img_queue_in_flight(q))
				img_queue_run(q, true);
			cr_assert_eq(img_submit_writev(q, img, i % 2 * 64 * KIB, halves, 2,
						       IMG_SUBMIT_COMPRESS, answered, &rc[0], NULL),
				     0);
			while (img_queue_in_flight(q))
				img_queue_run(q, true);
		}
		cr_assert_eq(img_submit_writev(q, img, 128 * KIB, &iov[1], 1, IMG_SUBMIT_COMPRESS,
					       answered, &rc[1], NULL),
			     0);
		while (img_queue_in_flight(q))
			img_queue_run(q, true);
		cr_assert(!rc[0] && !rc[1]);
		img_queue_free(q);
	}
	cr_assert_eq(img_engine_map(img, 128 * KIB, 512, &x, err), 0);
	cr_assert_eq(x.kind, IMG_COMPRESSED);
	cr_assert_leq(x.stored_bytes, sizeof(stored));
	cr_assert_eq(img_storage_read(x.storage, x.file_off, stored, x.stored_bytes, NULL), 0);
	cr_assert_eq(x.codec->decode(stored, x.stored_bytes, unit, sizeof(unit), err), 0);
	for (unsigned i = 0; i < sizeof(unit); i++)
		cr_assert_eq(unit[i], i < 512 ? 0xee : 0);
	check_sound(img);
	close_sound(img);
	img_error_free(err);
	folder_remove(f);
}

/* ---- Holes in the file ---- */

/* A part of a cluster is a hole in the file: the cluster is data all the same. */
Test(qcow2_holes, in_part_of_a_cluster_are_not_zeroes)
{
	enum { CLUSTER = 128 * KIB,
	       N = 40 };
	struct folder *f = calloc(1, sizeof(*f));
	struct img_storage *s;
	struct img_map_entry x;
	struct img *img;
	uint64_t host;

	folder_make(f, "qcow2", "cluster_size=128k", 8 * MIB);
	s = folder_load(f);
	img = folder_open(f, s, "qcow2", IMG_OPEN_WRITE);
	write_bytes(img, 0, 7, N * CLUSTER, 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(img_map(img, 0, CLUSTER, false, &x, NULL), 0);
	host = x.offset;
	/* all but two and a half: the file must be sparse for anybody to look */
	cr_assert_eq(img_storage_punch(s, host, (N - 3) * CLUSTER, NULL), 0);
	cr_assert_eq(img_storage_punch(s, host + (N - 2) * CLUSTER, CLUSTER / 2, NULL), 0);
	for (uint64_t off = 0; off < N * CLUSTER; off += x.length) {
		uint64_t i;

		cr_assert_eq(img_map(img, off, N * CLUSTER - off, true, &x, NULL), 0);
		i = off / CLUSTER;
		cr_assert_eq(x.zero, i < N - 3, "cluster %" PRIu64, i);
		if (x.zero)
			cr_assert_leq(off + x.length, (N - 3) * CLUSTER);
	}
	close_sound(img);
	folder_remove(f);
}

/* ---- Two queues ---- */

/* One has begun with something within what the other writes over: no cluster gets two rooms. */
Test(qcow2_queues, do_not_give_a_cluster_room_twice)
{
	static const struct {
		const char *options;
		uint64_t one, one_len, two, two_len;
	} pair[] = {
		{ "cluster_size=4k", 20 * KIB, 4 * KIB, 12 * KIB, 20 * KIB },
		{ "cluster_size=4k", 21 * KIB, 512, 12 * KIB, 20 * KIB },
		{ "cluster_size=4k", 12 * KIB, 20 * KIB, 20 * KIB, 512 },
		{ "cluster_size=4k", 12 * KIB, 20 * KIB, 8 * KIB, 32 * KIB },
		{ "cluster_size=64k,extended_l2=on", 2 * KIB, 2 * KIB, 40 * KIB, 2 * KIB },
		{ "cluster_size=64k,extended_l2=on", 40 * KIB, 2 * KIB, 0, 2 * KIB },
		{ "cluster_size=64k,extended_l2=on", 70 * KIB, 2 * KIB, 62 * KIB, 4 * KIB },
	};

	for (unsigned i = 0; i < IMG_ARRAY_LEN(pair); i++) {
		struct folder *f = calloc(1, sizeof(*f));
		uint8_t *bytes = malloc(2 * 64 * KIB), *now = malloc(128 * KIB);
		struct iovec iov[2] = { { bytes, pair[i].one_len },
					{ bytes + 64 * KIB, pair[i].two_len } };
		struct img_queue *q[2];
		int rc[2] = { 1, 1 };
		struct img *img;

		memset(bytes, 1, 64 * KIB);
		memset(bytes + 64 * KIB, 2, 64 * KIB);
		folder_make(f, "qcow2", pair[i].options, 4 * MIB);
		img = folder_open(f, folder_load(f), "qcow2", IMG_OPEN_WRITE);
		write_bytes(img, 1 * MIB, 9, 512, 0); /* tables are there */
		for (unsigned k = 0; k < 2; k++) {
			cr_assert_eq(img_queue_new(IMG_IO_THREADS, &q[k], NULL), 0);
			cr_assert_eq(img_submit_writev(q[k], img, k ? pair[i].two : pair[i].one,
						       &iov[k], 1, 0, answered, &rc[k], NULL),
				     0);
		}
		for (unsigned k = 0; k < 20; k++)
			img_queue_run(q[1], false);
		while (img_queue_in_flight(q[0]))
			img_queue_run(q[0], true);
		while (img_queue_in_flight(q[1]))
			img_queue_run(q[1], true);
		cr_assert(!rc[0] && !rc[1]);
		cr_assert_eq(img_read(img, 0, now, 128 * KIB, NULL), 0);
		for (uint64_t at = 0; at < 128 * KIB; at++) {
			bool one = at >= pair[i].one && at < pair[i].one + pair[i].one_len;
			bool two = at >= pair[i].two && at < pair[i].two + pair[i].two_len;

			cr_assert((one && now[at] == 1) || (two && now[at] == 2) ||
					  (!one && !two && !now[at]),
				  "pair %u, offset %" PRIu64 ": %u", i, at, now[at]);
		}
		check_sound(img);
		img_queue_free(q[0]);
		img_queue_free(q[1]);
		close_sound(img);
		folder_remove(f);
		free(now);
		free(bytes);
	}
}
