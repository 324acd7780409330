/*
 * Reading, writing and refusing images. What we write is read by qemu-img where it can, and by the plain
 * reader of bench.h.
 */
#include "formats/vhdx/vhdx_state.h"
#include "tests/formats/vhdx/bench.h"

/* ---- Reading ---- */

Test(vhdx, reads_what_qemu_img_writes)
{
	static const char *const options[] = { "block_size=1M", "block_size=8M,block_state_zero=off",
					       "subformat=fixed,block_size=2M", "log_size=4M" };
	struct bench b;

	if (!have_qemu())
		return;
	start(&b, 1);
	cr_assert_eq(try(&b, "head -c 5000192 /dev/urandom >m.raw && truncate -s 9000448 m.raw"), 0);
	for (size_t i = 0; i < IMG_ARRAY_LEN(options); i++) {
		struct file m = load(in(&b, "m.raw"));

		cr_assert_eq(try(&b, "qemu-img convert -O vhdx -o %s m.raw i.vhdx", options[i]), 0);
		reads_as(in(&b, "i.vhdx"), m.bytes, m.len);
		free(m.bytes);
	}
	finish(&b);
}

/* A change of the image, and what is said of it. */
struct damage {
	uint64_t off; /* from: */
	enum { IN_FILE,
	       IN_HEADER,
	       IN_BAT,
	       IN_PARAMETERS,
	       IN_SIZE,
	       IN_SECTOR,
	       IN_REGIONS } from;
	uint64_t value;
	int bytes;
	const char *words;
};

static void put(struct file *f, const struct damage *d)
{
	uint8_t *at = f->bytes;
	uint8_t value[8];

	le64_store(value, d->value);
	switch (d->from) {
	case IN_FILE:
		break;
	case IN_HEADER: /* both */
		memcpy(f->bytes + 0x10000 + d->off, value, (size_t)d->bytes);
		memcpy(f->bytes + 0x20000 + d->off, value, (size_t)d->bytes);
		seal(f->bytes + 0x10000, 4096);
		seal(f->bytes + 0x20000, 4096);
		return;
	case IN_REGIONS:
		memcpy(f->bytes + 0x30000 + d->off, value, (size_t)d->bytes);
		memcpy(f->bytes + 0x40000 + d->off, value, (size_t)d->bytes);
		seal(f->bytes + 0x30000, 65536);
		seal(f->bytes + 0x40000, 65536);
		return;
	case IN_BAT:
		at += bat_of(f);
		break;
	case IN_PARAMETERS:
		at = item_of(f, ITEM_PARAMETERS);
		break;
	case IN_SIZE:
		at = item_of(f, ITEM_SIZE);
		break;
	case IN_SECTOR:
		at = item_of(f, ITEM_SECTOR);
		break;
	}
	memcpy(at + d->off, value, (size_t)d->bytes);
}

Test(vhdx, refuses)
{
	static const struct damage damages[] = {
		{ 68, IN_HEADER, 0, 4, "the log is 0 bytes" },
		{ 68, IN_HEADER, 4096, 4, "the log is 4096 bytes" },
		{ 68, IN_HEADER, 0xfff00000, 4, "the log is 4293918720 bytes" },
		{ 72, IN_HEADER, 0, 8, "at 0, expected whole MiB" },
		{ 72, IN_HEADER, UINT64_MAX << 20, 8, "the log is" },
		{ 72, IN_HEADER, 2 << 20, 8, "overlap" },
		{ 66, IN_HEADER, 2, 2, "version is 2, expected 1" },
		{ 0, IN_HEADER, 0, 4, "found no signature 'head'" },
		{ 8, IN_REGIONS, 0, 4, "found no BAT region" },
		{ 8, IN_REGIONS, UINT32_MAX, 4, "expected at most 2047" },
		{ 0, IN_PARAMETERS, 0, 4, "block size is 0" },
		{ 4, IN_PARAMETERS, 2, 4, "no parent locator" },
		{ 0, IN_SIZE, UINT64_C(65) << 40, 8, "virtual disk size is" },
		{ 0, IN_SIZE, UINT64_C(64) << 40, 8, "the BAT region" },
		{ 0, IN_SIZE, 1, 8, "virtual disk size is 1" },
		{ 0, IN_SECTOR, 520, 4, "logical sector size is 520" },
	};
	struct bench b;

	start(&b, 2);
	create(in(&b, "good.vhdx"), 10 * MIB, NULL, "block_size=1M");
	for (size_t i = 0; i < IMG_ARRAY_LEN(damages); i++) {
		struct file f = load(in(&b, "good.vhdx"));

		put(&f, &damages[i]);
		save(in(&b, "bad.vhdx"), &f);
		refuse(in(&b, "bad.vhdx"), 0, damages[i].words);
		free(f.bytes);
	}
	for (uint64_t cut = 0; cut < 4 * MIB; cut += 65536 + 512) {
		struct file f = load(in(&b, "good.vhdx"));

		f.len = cut;
		save(in(&b, "bad.vhdx"), &f);
		refuse(in(&b, "bad.vhdx"), 0, cut < 8 ? "not in vhdx format" : "");
		free(f.bytes);
	}
	finish(&b);
}

Test(vhdx, refuses_where_it_is_read)
{
	static const struct damage damages[] = {
		{ 0, IN_BAT, 6, 8, "where the headers is" },
		{ 0, IN_BAT, 0x100006, 8, "where the log is" },
		{ 0, IN_BAT, 0x200006, 8, "where the metadata region is" },
		{ 0, IN_BAT, 0x300006, 8, "where the BAT is" },
		{ 0, IN_BAT, UINT64_MAX << 20 | 6, 8, "nothing that a VHDX can have" },
		{ 0, IN_BAT, 0x4000006, 8, "truncated" },
		{ 0, IN_BAT, 4, 8, "a state that is not defined" },
		{ 0, IN_BAT, 0x400007, 8, "differencing disks only" },
	};
	struct bench b;
	uint8_t sector[512];

	start(&b, 3);
	create(in(&b, "good.vhdx"), 10 * MIB, NULL, "block_size=1M");
	for (size_t i = 0; i < IMG_ARRAY_LEN(damages); i++) {
		struct file f = load(in(&b, "good.vhdx"));
		struct img_error *err = img_error_new();
		struct img *img;

		put(&f, &damages[i]);
		save(in(&b, "bad.vhdx"), &f);
		img = open_as(in(&b, "bad.vhdx"), 0);
		cr_assert_eq(img_read(img, 512, sector, 512, err), -EUCLEAN, "%s", damages[i].words);
		cr_assert(strstr(img_error_text(err), damages[i].words), "'%s' in '%s'", damages[i].words,
			  img_error_text(err));
		cr_assert_eq(img_read(img, MIB, sector, 512, NULL), 0);
		img_close(img, NULL);
		img_error_free(err);
		free(f.bytes);
	}
	finish(&b);
}

Test(vhdx, goes_by_copies)
{
	struct bench b;
	struct file f;

	start(&b, 4);
	create(in(&b, "i.vhdx"), 10 * MIB, NULL, NULL);
	f = load(in(&b, "i.vhdx"));
	for (int which = 0; which < 2; which++) {
		f.bytes[0x10000 * (1 + which) + 9] ^= 1;
		f.bytes[0x30000 + 0x10000 * which + 20] ^= 1;
		save(in(&b, "i.vhdx"), &f);
		done(open_as(in(&b, "i.vhdx"), 0));
		f.bytes[0x10000 * (1 + which) + 9] ^= 1;
		f.bytes[0x30000 + 0x10000 * which + 20] ^= 1;
	}
	/* Two that count: alike they may be. */
	memcpy(f.bytes + 0x10000, f.bytes + 0x20000, 4096);
	save(in(&b, "i.vhdx"), &f);
	done(open_as(in(&b, "i.vhdx"), 0));
	f.bytes[0x10000 + 16] ^= 1;
	seal(f.bytes + 0x10000, 4096);
	save(in(&b, "i.vhdx"), &f);
	refuse(in(&b, "i.vhdx"), 0, "in both headers, which differ");
	free(f.bytes);
	finish(&b);
}

/* ---- The log ---- */

/* An entry at log offset at that sets the sectors' 4 KiB at off[i] to bytes of fill[i]. */
static void put_entry(struct file *f, uint64_t at, uint64_t sequence, uint64_t tail, uint64_t file_bytes,
		      const uint64_t *off, const uint8_t *fill, uint32_t n)
{
	const uint8_t *header = header_of(f);
	uint64_t log_off = le64_load(header + 72), log_bytes = le32_load(header + 68);
	size_t len = 4096 * (size_t)(n + 1);
	uint8_t *e = calloc(1, len);

	memcpy(e, "loge", 4);
	le32_store(e + 8, (uint32_t)len);
	le32_store(e + 12, (uint32_t)tail);
	le64_store(e + 16, sequence);
	le32_store(e + 24, n);
	memcpy(e + 32, header + 48, 16);
	le64_store(e + 48, file_bytes);
	le64_store(e + 56, f->len);
	for (uint32_t i = 0; i < n; i++) {
		uint8_t *d = e + 64 + 32 * i, *s = e + 4096 * (i + 1);

		memcpy(d, "desc", 4);
		memset(d + 4, fill[i], 12);
		le64_store(d + 16, off[i]);
		le64_store(d + 24, sequence);
		memset(s, fill[i], 4096);
		memcpy(s, "data", 4);
		le32_store(s + 4, (uint32_t)(sequence >> 32));
		le32_store(s + 4092, (uint32_t)sequence);
	}
	seal(e, len);
	for (size_t i = 0; i < len; i++)
		f->bytes[log_off + (at + i) % log_bytes] = e[i];
	free(e);
}

static void open_log(struct file *f)
{
	memset(header_of(f) + 48, 0x55, 16);
	seal(header_of(f), 4096);
}

/* Reading replays over the file, writing into it, and qemu-img's replay comes to the same. */
static void replays_to(const struct bench *b, uint8_t first, uint8_t second, bool by_qemu)
{
	struct file before = load(in(b, "i.vhdx")), after;
	uint8_t bytes[2 * 4096], want[2 * 4096];
	struct img *img = open_as(in(b, "i.vhdx"), 0);

	memset(want, first, 4096);
	memset(want + 4096, second, 4096);
	cr_assert_eq(img_read(img, 0, bytes, sizeof(bytes), NULL), 0);
	cr_assert(!memcmp(bytes, want, sizeof(want)));
	done(img);
	after = load(in(b, "i.vhdx"));
	cr_assert(before.len == after.len && !memcmp(before.bytes, after.bytes, after.len));
	free(after.bytes);

	if (by_qemu && have_qemu()) {
		cr_assert_eq(try(b, "cp i.vhdx q.vhdx && qemu-img check -r all q.vhdx && "
				    "qemu-img convert -O raw q.vhdx q.raw"),
			     0);
		after = load(in(b, "q.raw"));
		cr_assert(!memcmp(after.bytes, want, sizeof(want)));
		free(after.bytes);
	}
	done(open_as(in(b, "i.vhdx"), IMG_OPEN_WRITE));
	after = read_plain(in(b, "i.vhdx"), NULL);
	cr_assert(!memcmp(after.bytes, want, sizeof(want)));
	free(after.bytes);
	free(before.bytes);
}

/* A fixed image: the first block is at 4 MiB. The log's changes go to its bytes. */
static struct file logged(struct bench *b)
{
	struct file f;

	create(in(b, "i.vhdx"), 2 * MIB, NULL, "subformat=fixed,block_size=1M");
	f = load(in(b, "i.vhdx"));
	open_log(&f);
	return f;
}

static const uint64_t places[] = { 4 * MIB, 4 * MIB + 4096 };
#define FILL(a, b) \
	(const uint8_t[]) \
	{ \
		a, b \
	}

Test(vhdx, replays_one_entry)
{
	struct bench b;
	struct file f;

	start(&b, 5);
	f = logged(&b);
	put_entry(&f, 40960, 7, 40960, f.len, places, FILL(1, 2), 2);
	save(in(&b, "i.vhdx"), &f);
	replays_to(&b, 1, 2, true);
	free(f.bytes);
	finish(&b);
}

Test(vhdx, replays_in_order_round_the_end)
{
	struct bench b;
	struct file f;
	uint64_t at = MIB - 8192;

	start(&b, 6);
	f = logged(&b);
	put_entry(&f, at, 7, at, f.len, places, FILL(1, 2), 2);
	put_entry(&f, 4096, 8, at, f.len, places, FILL(3, 0), 1);
	save(in(&b, "i.vhdx"), &f);
	/* qemu-img takes the sequence that begins with the highest number, without its first entry. */
	replays_to(&b, 3, 2, false);
	free(f.bytes);
	finish(&b);
}

/* The newest entry is not whole: the one before counts. */
Test(vhdx, replays_what_is_whole)
{
	struct bench b;
	struct file f;

	start(&b, 7);
	f = logged(&b);
	put_entry(&f, 0, 7, 0, f.len, places, FILL(1, 2), 2);
	put_entry(&f, 3 * 4096, 8, 3 * 4096, f.len, places, FILL(3, 4), 2);
	f.bytes[MIB + 5 * 4096 + 100] ^= 1;
	save(in(&b, "i.vhdx"), &f);
	replays_to(&b, 1, 2, true);
	free(f.bytes);
	finish(&b);
}

/* An older sequence is behind it, and one of another log. */
Test(vhdx, replays_the_newest_sequence)
{
	struct bench b;
	struct file f;

	start(&b, 8);
	f = logged(&b);
	put_entry(&f, 0, 5, 0, f.len, places, FILL(9, 9), 2);
	put_entry(&f, 3 * 4096, 100, 3 * 4096, f.len, places, FILL(1, 2), 2);
	memset(header_of(&f) + 48, 0x66, 16);
	put_entry(&f, 6 * 4096, 200, 6 * 4096, f.len, places, FILL(8, 8), 2);
	memset(header_of(&f) + 48, 0x55, 16);
	save(in(&b, "i.vhdx"), &f);
	replays_to(&b, 1, 2, true);
	free(f.bytes);
	finish(&b);
}

enum { PAGES = 8,
       ENTRIES_MAX = 7,
       PAGE = 4096 };

static uint32_t random_state;

static uint32_t below(uint32_t n)
{
	random_state = random_state * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(random_state >> 1) * n >> 31);
}

struct entry {
	uint64_t at, off[3];
	uint8_t fill[3];
	uint32_t n, tail; /* tail: its number */
	bool whole;
};

/* Entries one behind the other, from anywhere in the log on; one of them, not the first, is torn at a sector. */
static uint32_t random_log(struct file *f, struct entry e[ENTRIES_MAX], uint32_t torn)
{
	uint64_t at = below(MIB / PAGE) * (uint64_t)PAGE, log = MIB, first = 1 + below(1000);
	uint32_t count = 2 + below(ENTRIES_MAX - 1);

	for (uint32_t i = 0; i < count; i++) {
		e[i] = (struct entry){ .at = at, .n = 1 + below(3), .whole = true };
		e[i].tail = i ? e[i - 1].tail : 0;
		if (i && !below(3))
			e[i].tail += below(i - e[i].tail + 1);
		for (uint32_t k = 0; k < e[i].n; k++) {
			e[i].off[k] = 4 * MIB + below(PAGES) * (uint64_t)PAGE;
			e[i].fill[k] = (uint8_t)(1 + below(255));
		}
		put_entry(f, at, first + i, e[e[i].tail].at, f->len, e[i].off, e[i].fill, e[i].n);
		at = (at + (e[i].n + 1) * (uint64_t)PAGE) % MIB;
	}
	if (torn && torn < count) {
		uint64_t from = below(e[torn].n + 1) * (uint64_t)PAGE, end = (e[torn].n + 1) * (uint64_t)PAGE;

		if (below(2)) /* one byte of a sector, or none from a sector on */
			f->bytes[log + (e[torn].at + from + 72) % MIB] ^= 0x10;
		else
			for (; from < end; from++)
				f->bytes[log + (e[torn].at + from) % MIB] = 0;
		e[torn].whole = false;
	}
	return count;
}

/* From the document alone: the sequence of the highest last number all of which is there. */
static void plain_replay(const struct entry *e, uint32_t count, uint8_t pages[PAGES])
{
	uint32_t last = count;
	bool found = false;

	memset(pages, 0, PAGES);
	while (!found && last--) {
		found = true;
		for (uint32_t i = e[last].tail; i <= last; i++)
			found &= e[i].whole;
	}
	for (uint32_t i = e[last].tail; found && i <= last; i++)
		for (uint32_t k = 0; k < e[i].n; k++)
			pages[(e[i].off[k] - 4 * MIB) / PAGE] = e[i].fill[k];
}

Test(vhdx, replays_any_log, .timeout = 60)
{
	struct bench b;

	start(&b, 11);
	for (uint32_t seed = 0; seed < 80; seed++) {
		uint8_t pages[PAGES], got[PAGES * PAGE];
		struct entry e[ENTRIES_MAX];
		struct file f = logged(&b), after;
		uint32_t count;
		struct img *img;

		random_state = seed * 7919 + 1;
		count = random_log(&f, e, seed % 4 ? 1 + seed % 5 : 0);
		plain_replay(e, count, pages);
		save(in(&b, "i.vhdx"), &f);
		img = open_as(in(&b, "i.vhdx"), 0);
		cr_assert_eq(img_read(img, 0, got, sizeof(got), NULL), 0);
		for (size_t i = 0; i < sizeof(got); i++)
			if (got[i] != pages[i / PAGE])
				cr_assert_fail("seed %u, read: byte %zu is %u, expected %u", seed, i, got[i],
					       pages[i / PAGE]);
		done(img);
		done(open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE));
		after = read_plain(in(&b, "i.vhdx"), NULL);
		cr_assert_eq(memcmp(after.bytes, got, sizeof(got)), 0, "seed %u, in the file", seed);
		free(after.bytes);
		free(f.bytes);
	}
	finish(&b);
}

Test(vhdx, an_open_log_may_be_empty)
{
	struct bench b;
	struct file f;

	start(&b, 9);
	f = logged(&b);
	save(in(&b, "i.vhdx"), &f);
	replays_to(&b, 0, 0, true);
	free(f.bytes);
	finish(&b);
}

Test(vhdx, refuses_logs)
{
	static const uint64_t in_log = MIB, in_header = 0x10000, behind = UINT64_C(1) << 40, odd = 4 * MIB + 512;
	static const struct {
		const uint64_t *off;
		uint64_t missing; /* bytes that the file is said to have had besides */
		const char *words;
	} cases[] = {
		{ &in_log, 0, "clear of the log" },
		{ &in_header, 0, "found a change of 4096 bytes at 65536" },
		{ &behind, 0, "found a change" },
		{ &odd, 0, "found a change" },
		{ places, MIB, "truncated" },
	};
	struct bench b;
	struct file f;

	start(&b, 10);
	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		f = logged(&b);
		put_entry(&f, 0, 7, 0, f.len + cases[i].missing, cases[i].off, FILL(1, 2), 1);
		save(in(&b, "i.vhdx"), &f);
		refuse(in(&b, "i.vhdx"), 0, cases[i].words);
		refuse(in(&b, "i.vhdx"), IMG_OPEN_WRITE, cases[i].words);
		free(f.bytes);
	}
	/* Each sector begins an entry that has all of the log. */
	f = logged(&b);
	for (uint64_t at = 0; at < MIB; at += 4096) {
		put_entry(&f, at, at + 1, at, f.len, places, FILL(1, 2), 0);
		le32_store(f.bytes + MIB + at + 8, MIB);
	}
	save(in(&b, "i.vhdx"), &f);
	refuse(in(&b, "i.vhdx"), 0, "found entries that overlap");
	free(f.bytes);
	/* What no entry can be, where no other is. */
	f = logged(&b);
	put_entry(&f, 0, 7, 0, f.len, places, FILL(1, 2), 1);
	le32_store(f.bytes + MIB + 24, UINT32_MAX);
	seal(f.bytes + MIB, 8192);
	save(in(&b, "i.vhdx"), &f);
	refuse(in(&b, "i.vhdx"), 0, "no valid entry");
	free(f.bytes);
	finish(&b);
}

/* An image that was opened for reading, its log laid over it, becomes writable: the log goes into the file. */
Test(vhdx, replays_when_it_becomes_writable)
{
	struct bench b;
	struct file f;
	struct img *img;
	uint8_t bytes[4096];

	start(&b, 25);
	f = logged(&b);
	put_entry(&f, 0, 7, 0, f.len, places, FILL(1, 2), 2);
	save(in(&b, "i.vhdx"), &f);
	free(f.bytes);
	img = open_as(in(&b, "i.vhdx"), 0);
	cr_assert_eq(img_read(img, 0, bytes, sizeof(bytes), NULL), 0);
	cr_assert_eq(bytes[100], 1);
	cr_assert_eq(img_set_writable(img, true, NULL), 0);
	cr_assert_eq(img_read(img, 4096, bytes, sizeof(bytes), NULL), 0);
	cr_assert_eq(bytes[100], 2);
	cr_assert_eq(img_write(img, 8192, "new", 3, NULL), 0);
	cr_assert_eq(img_set_writable(img, false, NULL), 0);
	f = read_plain(in(&b, "i.vhdx"), NULL); /* nothing is left in the log */
	cr_assert(f.bytes[0] == 1 && f.bytes[4096] == 2 && !memcmp(f.bytes + 8192, "new", 3));
	free(f.bytes);
	cr_assert_eq(img_set_writable(img, true, NULL), 0);
	cr_assert_eq(img_write(img, 8192, "old", 3, NULL), 0);
	done(img);
	f = read_plain(in(&b, "i.vhdx"), NULL);
	cr_assert(!memcmp(f.bytes + 8192, "old", 3));
	free(f.bytes);
	finish(&b);
}

/* The file is as long as the entry says that it was. */
Test(vhdx, replays_a_longer_file)
{
	struct bench b;
	struct file f;
	struct stat st;
	struct img *img;

	start(&b, 28);
	f = logged(&b);
	put_entry(&f, 0, 7, 0, f.len, places, FILL(1, 2), 1);
	le64_store(f.bytes + MIB + 56, f.len + 3 * MIB);
	seal(f.bytes + MIB, 8192);
	save(in(&b, "i.vhdx"), &f);
	img = open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(stat(in(&b, "i.vhdx"), &st), 0);
	cr_assert_eq((uint64_t)st.st_size, f.len + 3 * MIB);
	done(img);
	free(f.bytes);
	finish(&b);
}

/* An entry that is being written must not lie over the one before. */
Test(vhdx, log_of_entries_that_leave_the_last)
{
	static const char *const options[] = { "log_size=1M", "log_size=2M", "log_size=64M" };
	struct bench b;
	struct img *img;

	start(&b, 29);
	for (size_t i = 0; i < IMG_ARRAY_LEN(options); i++) {
		const struct vhdx *v;

		create(in(&b, "i.vhdx"), 10 * MIB, NULL, options[i]);
		img = open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE);
		v = img->state;
		cr_assert_leq(vhdx_log_capacity(v) + 4096, v->header.log_bytes / 2);
		done(img);
	}
	finish(&b);
}

/* ---- Writing ---- */

/* A random run of writes, zeroes and discards on an image that reads as m. */
static void change(struct bench *b, const char *path, struct file *m, unsigned flags)
{
	struct img *img = open_as(path, IMG_OPEN_WRITE | flags);
	uint8_t *bytes = malloc(m->len);

	for (int i = 0; i < 60; i++) {
		uint64_t sectors = m->len / 512, off = next_random(b) % sectors;
		uint64_t len = 1 + next_random(b) % min_u64(sectors - off, i % 3 ? 64 : 6000);

		off *= 512;
		len *= 512;
		switch (next_random(b) % 4) {
		case 0:
			cr_assert_eq(img_zero(img, off, len, NULL), 0);
			memset(m->bytes + off, 0, len);
			break;
		case 1: /* whatever it reads as then */
			cr_assert_eq(img_discard(img, off, len, NULL), 0);
			cr_assert_eq(img_read(img, off, m->bytes + off, len, NULL), 0);
			break;
		default:
			for (uint64_t k = 0; k < len; k += 8)
				le64_store(bytes + k, next_random(b));
			cr_assert_eq(img_write(img, off, bytes, len, NULL), 0);
			memcpy(m->bytes + off, bytes, len);
			break;
		}
		if (i % 20 == 19)
			cr_assert_eq(img_flush(img, NULL), 0);
	}
	free(bytes);
	done(img);
}

static void same(const struct file *got, const struct file *want)
{
	cr_assert_eq(got->len, want->len);
	for (uint64_t i = 0; i < got->len; i += 512)
		cr_assert(!memcmp(got->bytes + i, want->bytes + i, 512), "sector at %" PRIu64, i);
}

Test(vhdx, writes)
{
	static const char *const options[] = {
		"block_size=1M",
		"block_size=2M,block_state_zero=off",
		"block_size=1M,logical_sector_size=4096",
		"subformat=fixed,block_size=1M",
		"block_size=256M",
		"block_size=1M,log_size=3M",
	};
	struct bench b;

	start(&b, 11);
	for (size_t i = 0; i < IMG_ARRAY_LEN(options); i++) {
		struct file m = { calloc(1, 5 * MIB + 4096 * 3), 5 * MIB + 4096 * 3 }, got;

		create(in(&b, "i.vhdx"), m.len, NULL, options[i]);
		for (int round = 0; round < 3; round++) {
			change(&b, in(&b, "i.vhdx"), &m, round == 1 ? IMG_OPEN_UNMAP : 0u);
			got = read_plain(in(&b, "i.vhdx"), NULL);
			same(&got, &m);
			free(got.bytes);
			if (!have_qemu() || i == 2)
				continue;
			save(in(&b, "m.raw"), &m);
			cr_assert_eq(try(&b, "qemu-img compare -f vhdx -F raw i.vhdx m.raw"), 0);
			/* They write, we go on. */
			cr_assert_eq(try(&b, "qemu-io -f vhdx -c 'write -P 7 1000k 700k' i.vhdx"), 0);
			memset(m.bytes + 1000 * 1024, 7, 700 * 1024);
		}
		free(m.bytes);
	}
	finish(&b);
}

Test(vhdx, writes_children)
{
	static const char *const options[][2] = {
		{ "block_size=1M", "block_size=1M" },
		{ "block_size=2M", "block_size=1M,subformat=fixed" },
		{ "block_size=1M", "block_size=1M,logical_sector_size=4096" },
		{ NULL, NULL },
	};
	struct bench b;

	start(&b, 12);
	for (size_t i = 0; i < IMG_ARRAY_LEN(options); i++) {
		struct file m = { calloc(1, 5 * MIB + 4096), 5 * MIB + 4096 }, parent, middle, got;

		create(in(&b, "p.vhdx"), m.len, NULL, options[i][1]);
		change(&b, in(&b, "p.vhdx"), &m, 0);
		parent = read_plain(in(&b, "p.vhdx"), NULL);
		same(&parent, &m);
		create(in(&b, "c.vhdx"), 0, "p.vhdx", options[i][0]);
		for (int round = 0; round < 3; round++) {
			change(&b, in(&b, "c.vhdx"), &m, round == 1 ? IMG_OPEN_UNMAP : 0u);
			got = read_plain(in(&b, "c.vhdx"), &parent);
			same(&got, &m);
			free(got.bytes);
		}
		/* A child of the child, with blocks of another size; the ones below stay as they are. */
		middle = read_plain(in(&b, "c.vhdx"), &parent);
		create(in(&b, "g.vhdx"), 0, "c.vhdx", "block_size=4M");
		change(&b, in(&b, "g.vhdx"), &m, 0);
		got = read_plain(in(&b, "g.vhdx"), &middle);
		same(&got, &m);
		free(got.bytes);
		got = read_plain(in(&b, "p.vhdx"), NULL);
		same(&got, &parent);
		free(got.bytes);
		free(middle.bytes);
		free(parent.bytes);
		free(m.bytes);
	}
	finish(&b);
}

/* Bits that an earlier use of a block left behind must not come to count. */
Test(vhdx, stale_bits_do_not_count)
{
	struct bench b;
	struct file f, parent = { calloc(1, 2 * MIB), 2 * MIB }, got;
	struct img *img;
	uint64_t map;

	start(&b, 13);
	memset(parent.bytes, 0xaa, parent.len);
	create(in(&b, "p.vhdx"), parent.len, NULL, "block_size=1M");
	img = open_as(in(&b, "p.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 0, parent.bytes, parent.len, NULL), 0);
	done(img);
	create(in(&b, "c.vhdx"), 0, "p.vhdx", "block_size=1M");
	img = open_as(in(&b, "c.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 4096, "0123456789abcdef0123456789abcdef", 32, NULL), 0);
	done(img);
	f = load(in(&b, "c.vhdx"));
	map = le64_load(f.bytes + bat_of(&f) + UINT64_C(8) * 4096) >> 20 << 20;
	memset(f.bytes + map, 0xff, 512); /* of blocks 0 and 1; 1 is not present */
	save(in(&b, "c.vhdx"), &f);
	free(f.bytes);
	img = open_as(in(&b, "c.vhdx"), IMG_OPEN_WRITE);
	memset(parent.bytes + MIB + 1024, 0x11, 512);
	cr_assert_eq(img_write(img, MIB + 1024, parent.bytes + MIB + 1024, 512, NULL), 0);
	done(img);
	got = read_plain(in(&b, "c.vhdx"), &parent);
	cr_assert(!memcmp(got.bytes + MIB, parent.bytes + MIB, MIB));
	free(got.bytes);
	free(parent.bytes);
	finish(&b);
}

/* Zeroes are not written: not in a new part of a child's block, not over whole blocks. */
Test(vhdx, zeroes_are_not_written)
{
	struct bench b;
	struct img *img;
	struct stat st;

	start(&b, 14);
	create(in(&b, "p.vhdx"), UINT64_C(1) << 30, NULL, NULL);
	create(in(&b, "c.vhdx"), 0, "p.vhdx", "block_size=256M");
	img = open_as(in(&b, "c.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_zero(img, 4096, 900 * MIB, NULL), 0);
	done(img);
	cr_assert_eq(stat(in(&b, "c.vhdx"), &st), 0);
	cr_assert_lt(st.st_blocks * 512, 4 * MIB);
	finish(&b);
}

static void guids(const struct bench *b, const char *name, uint8_t out[48])
{
	struct file f = load(in(b, name));

	memcpy(out, header_of(&f) + 16, 48);
	free(f.bytes);
}

Test(vhdx, guids_change_with_the_first_write)
{
	struct bench b;
	struct file f;
	uint8_t before[48], after[48];
	struct img *img;

	start(&b, 15);
	create(in(&b, "i.vhdx"), 10 * MIB, NULL, NULL);
	guids(&b, "i.vhdx", before);
	done(open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE));
	guids(&b, "i.vhdx", after);
	cr_assert(!memcmp(before, after, 48), "opening alone changes nothing");
	img = open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 0, "x", 1, NULL), 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	guids(&b, "i.vhdx", after);
	cr_assert(memcmp(before, after, 16) && memcmp(before + 16, after + 16, 16));
	cr_assert(memcmp(after + 32, before + 32, 16), "the log is open");
	done(img);
	guids(&b, "i.vhdx", after);
	cr_assert(!memcmp(after + 32, before + 32, 16), "the log is empty");
	f = load(in(&b, "i.vhdx")); /* both headers say so */
	cr_assert(!memcmp(f.bytes + 0x10000 + 16, f.bytes + 0x20000 + 16, 4080));
	free(f.bytes);
	finish(&b);
}

Test(vhdx, a_child_knows_its_parent)
{
	struct bench b;
	struct img *img;

	start(&b, 16);
	create(in(&b, "p.vhdx"), 10 * MIB, NULL, NULL);
	create(in(&b, "c.vhdx"), 0, "p.vhdx", NULL);
	done(open_as(in(&b, "c.vhdx"), 0));
	/* Renamed, it is found by what it is. */
	cr_assert_eq(try(&b, "mv p.vhdx q.vhdx"), 0);
	done(open_as(in(&b, "c.vhdx"), 0));
	create(in(&b, "p.vhdx"), 10 * MIB, NULL, NULL);
	done(open_as(in(&b, "c.vhdx"), 0));
	cr_assert_eq(try(&b, "mkdir x && mv q.vhdx x"), 0);
	refuse(in(&b, "c.vhdx"), 0, "p.vhdx");
	cr_assert_eq(try(&b, "rm p.vhdx"), 0);
	refuse(in(&b, "c.vhdx"), 0, "p.vhdx");
	cr_assert_eq(try(&b, "mv x/q.vhdx p.vhdx"), 0);
	done(open_as(in(&b, "c.vhdx"), 0));
	img = open_as(in(&b, "p.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 0, "x", 1, NULL), 0);
	done(img);
	refuse(in(&b, "c.vhdx"), 0, "p.vhdx");
	finish(&b);
}

/* It can be told another parent, by name and by what it is then. */
Test(vhdx, a_child_is_given_another_parent)
{
	static const char *const names[] = { "q.vhdx", "a/longer/way/round/to/the/other/parent.vhdx", "p.vhdx" };
	struct bench b;
	struct img *img;
	struct img_error *err = img_error_new();
	uint8_t bytes[512], want[512];

	start(&b, 26);
	create(in(&b, "p.vhdx"), 10 * MIB, NULL, NULL);
	create(in(&b, "c.vhdx"), 0, "p.vhdx", "block_size=1M");
	img = open_as(in(&b, "c.vhdx"), IMG_OPEN_WRITE);
	memset(want, 7, sizeof(want));
	cr_assert_eq(img_write(img, 5 * MIB, want, 512, NULL), 0);
	done(img);
	cr_assert_eq(try(&b, "mkdir -p a/longer/way/round/to/the/other"), 0);
	for (size_t i = 0; i < IMG_ARRAY_LEN(names); i++) {
		create(in(&b, names[i]), 10 * MIB, NULL, NULL);
		img = open_as(in(&b, names[i]), IMG_OPEN_WRITE);
		memset(bytes, (int)i + 1, sizeof(bytes));
		cr_assert_eq(img_write(img, 0, bytes, 512, NULL), 0);
		done(img);
		img = open_as(in(&b, "c.vhdx"), IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
		cr_assert_eq(img_set_backing_name(img, names[i], i ? "vhdx" : NULL, err), 0, "%s",
			     img_error_text(err));
		done(img);
		img = open_as(in(&b, "c.vhdx"), 0);
		cr_assert_eq(img_read(img, 0, bytes, 512, NULL), 0);
		cr_assert_eq(bytes[0], i + 1);
		cr_assert_eq(img_read(img, 5 * MIB, bytes, 512, NULL), 0);
		cr_assert(!memcmp(bytes, want, 512));
		done(img);
	}
	img_error_free(err);
	finish(&b);
}

Test(vhdx, is_emptied)
{
	struct bench b;
	struct file parent = { calloc(1, 5 * MIB), 5 * MIB }, m, got;
	struct img *img;
	struct stat st;

	start(&b, 27);
	create(in(&b, "p.vhdx"), parent.len, NULL, "block_size=1M");
	change(&b, in(&b, "p.vhdx"), &parent, 0);
	create(in(&b, "c.vhdx"), 0, "p.vhdx", "block_size=1M");
	m = (struct file){ malloc(parent.len), parent.len };
	memcpy(m.bytes, parent.bytes, parent.len);
	change(&b, in(&b, "c.vhdx"), &m, 0);
	img = open_as(in(&b, "c.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_make_empty(img, NULL), 0);
	cr_assert_eq(img_read(img, 0, m.bytes, m.len, NULL), 0);
	cr_assert(!memcmp(m.bytes, parent.bytes, m.len));
	cr_assert_eq(img_write(img, 512, "abc", 3, NULL), 0);
	memcpy(m.bytes + 512, "abc", 3);
	done(img);
	got = read_plain(in(&b, "c.vhdx"), &parent);
	same(&got, &m);
	free(got.bytes);
	img = open_as(in(&b, "c.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_make_empty(img, NULL), 0);
	done(img);
	cr_assert_eq(stat(in(&b, "c.vhdx"), &st), 0);
	cr_assert_leq(st.st_size, 4 * MIB);
	free(parent.bytes);
	free(m.bytes);
	finish(&b);
}

/* A write where another block lies is refused before anything is changed. */
Test(vhdx, does_not_write_over_shared_blocks)
{
	struct bench b;
	struct file f;
	struct img_error *err = img_error_new();
	struct img *img;

	start(&b, 17);
	create(in(&b, "i.vhdx"), 4 * MIB, NULL, "subformat=fixed,block_size=1M");
	f = load(in(&b, "i.vhdx"));
	memcpy(f.bytes + bat_of(&f) + 8, f.bytes + bat_of(&f), 8);
	save(in(&b, "i.vhdx"), &f);
	free(f.bytes);
	img = open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 3 * MIB, "x", 1, err), -EUCLEAN);
	cr_assert(strstr(img_error_text(err), "where another one"), "%s", img_error_text(err));
	img_close(img, NULL);
	img_error_free(err);
	finish(&b);
}

/* Room that is freed is used again, and reads as zeroes where it was not written. */
Test(vhdx, freed_room_is_used_again)
{
	struct bench b;
	struct img *img;
	uint8_t *ones = malloc(4 * MIB), *got = malloc(4 * MIB);
	struct stat st;

	start(&b, 18);
	memset(ones, 0xff, 4 * MIB);
	create(in(&b, "i.vhdx"), 64 * MIB, NULL, "block_size=1M");
	for (int round = 0; round < 5; round++) {
		img = open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE);
		for (uint64_t k = 0; k < 3; k++) {
			uint64_t off = (next_random(&b) % 15) * 4 * MIB;

			cr_assert_eq(img_write(img, off, ones, 4 * MIB, NULL), 0);
			cr_assert_eq(img_flush(img, NULL), 0);
			cr_assert_eq(img_discard(img, off, 4 * MIB, NULL), 0);
			cr_assert_eq(img_flush(img, NULL), 0);
			cr_assert_eq(img_write(img, 60 * MIB + 512, ones, 512, NULL), 0);
			cr_assert_eq(img_read(img, 60 * MIB, got, 4 * MIB, NULL), 0);
			memset(ones, 0, 512);
			memset(ones + 1024, 0, 4 * MIB - 1024);
			cr_assert(!memcmp(got, ones, 4 * MIB));
			memset(ones, 0xff, 4 * MIB);
			cr_assert_eq(img_discard(img, 60 * MIB, 4 * MIB, NULL), 0);
		}
		done(img);
	}
	cr_assert_eq(stat(in(&b, "i.vhdx"), &st), 0);
	cr_assert_leq(st.st_size, 4 * MIB, "nothing is left of it: %" PRId64, (int64_t)st.st_size);
	free(ones);
	free(got);
	finish(&b);
}

/* ---- Sizes ---- */

static void resize(const char *path, uint64_t size)
{
	struct img *img = open_as(path, IMG_OPEN_WRITE);
	struct img_error *err = img_error_new();

	cr_assert_eq(img_resize(img, size, IMG_PREALLOCATE_OFF, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_size(img), size);
	done(img);
	img_error_free(err);
}

Test(vhdx, resizes)
{
	static const char *const options[] = { "block_size=1M", "subformat=fixed,block_size=1M",
					       "block_size=4M,block_state_zero=off" };
	static const uint64_t sizes[] = { 7 * MIB + 512, 3 * MIB + 1024, 9 * MIB, 512, 20 * MIB };
	struct bench b;

	start(&b, 19);
	for (size_t i = 0; i < IMG_ARRAY_LEN(options); i++) {
		struct file m = { calloc(1, 32 * MIB), 5 * MIB }, got;

		create(in(&b, "i.vhdx"), m.len, NULL, options[i]);
		for (size_t k = 0; k < IMG_ARRAY_LEN(sizes); k++) {
			change(&b, in(&b, "i.vhdx"), &m, 0);
			resize(in(&b, "i.vhdx"), sizes[k]);
			if (sizes[k] > m.len)
				memset(m.bytes + m.len, 0, sizes[k] - m.len);
			m.len = sizes[k];
			got = read_plain(in(&b, "i.vhdx"), NULL);
			same(&got, &m);
			free(got.bytes);
			if (have_qemu()) {
				save(in(&b, "m.raw"), &m);
				cr_assert_eq(try(&b, "qemu-img compare -f vhdx -F raw i.vhdx m.raw"), 0);
			}
		}
		free(m.bytes);
	}
	finish(&b);
}

/* A BAT that does not fit its region any more is moved. */
Test(vhdx, resizes_beyond_the_bat)
{
	struct bench b;
	struct img *img;
	uint8_t got[512], want[512];
	uint64_t bat;
	struct file f;

	start(&b, 20);
	memset(want, 0x5a, sizeof(want));
	create(in(&b, "i.vhdx"), 10 * MIB, NULL, "block_size=1M");
	img = open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 9 * MIB, want, 512, NULL), 0);
	done(img);
	f = load(in(&b, "i.vhdx"));
	bat = bat_of(&f);
	free(f.bytes);
	resize(in(&b, "i.vhdx"), UINT64_C(1) << 40);
	f = load(in(&b, "i.vhdx"));
	cr_assert_neq(bat_of(&f), bat);
	free(f.bytes);
	img = open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_read(img, 9 * MIB, got, 512, NULL), 0);
	cr_assert(!memcmp(got, want, 512));
	cr_assert_eq(img_write(img, (UINT64_C(1) << 40) - 512, want, 512, NULL), 0);
	done(img);
	if (have_qemu()) {
		cr_assert_eq(try(&b, "qemu-io -r -f vhdx -c 'read -P 0x5a 9M 512' -c 'read -P 0x5a "
				     "1099511627264 512' -c 'read -P 0 10M 1M' i.vhdx"),
			     0);
		cr_assert_eq(try(&b, "! grep -q failed out.txt"), 0);
	}
	finish(&b);
}

Test(vhdx, resizes_children)
{
	static const uint64_t sizes[] = { 3 * MIB + 512, 8 * MIB, 2 * MIB, UINT64_C(6) << 30, 5 * MIB };
	struct bench b;
	struct file parent = { calloc(1, 6 * MIB), 6 * MIB }, m, got;

	start(&b, 21);
	create(in(&b, "p.vhdx"), parent.len, NULL, "block_size=1M");
	change(&b, in(&b, "p.vhdx"), &parent, 0);
	create(in(&b, "c.vhdx"), 0, "p.vhdx", "block_size=1M");
	m = (struct file){ calloc(1, 8 * MIB), parent.len };
	memcpy(m.bytes, parent.bytes, parent.len);
	for (size_t k = 0; k < IMG_ARRAY_LEN(sizes); k++) {
		uint64_t kept = min_u64(sizes[k], 8 * MIB);

		if (m.len <= 8 * MIB)
			change(&b, in(&b, "c.vhdx"), &m, 0);
		resize(in(&b, "c.vhdx"), sizes[k]);
		if (kept > m.len)
			memset(m.bytes + m.len, 0, kept - m.len);
		m.len = kept;
		if (sizes[k] > 8 * MIB)
			continue;
		got = read_plain(in(&b, "c.vhdx"), &parent);
		same(&got, &m);
		free(got.bytes);
	}
	free(m.bytes);
	free(parent.bytes);
	finish(&b);
}

/* All blocks of a fixed disk are in the file; of one that grows, too. */
Test(vhdx, fixed_disks_stay_so)
{
	struct bench b;
	struct file f;

	start(&b, 31);
	create(in(&b, "i.vhdx"), 3 * MIB, NULL, "block_size=1M,subformat=fixed");
	resize(in(&b, "i.vhdx"), 9 * MIB);
	f = load(in(&b, "i.vhdx"));
	for (uint64_t i = 0; i < 9; i++)
		cr_assert_eq(le64_load(f.bytes + bat_of(&f) + 8 * i) & 7, 6, "%u", (unsigned)i);
	free(f.bytes);
	finish(&b);
}

/* A disk is whole logical sectors, and stays so. */
Test(vhdx, sizes_of_whole_sectors)
{
	static const uint64_t sizes[] = { 7 * MIB + 512, 3 * MIB + 2048 };
	struct bench b;
	struct img *img;

	start(&b, 30);
	create(in(&b, "i.vhdx"), 5 * MIB, NULL, "block_size=1M,logical_sector_size=4096");
	img = open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE);
	for (size_t i = 0; i < IMG_ARRAY_LEN(sizes); i++) {
		struct img_error *err = img_error_new();

		cr_assert_eq(img_resize(img, sizes[i], IMG_PREALLOCATE_OFF, err), -EINVAL);
		cr_assert(strstr(img_error_text(err), "4096"), "%s", img_error_text(err));
		cr_assert_eq(img_size(img), 5 * MIB);
		img_error_free(err);
	}
	cr_assert_eq(img_resize(img, 7 * MIB + 4096, IMG_PREALLOCATE_OFF, NULL), 0);
	done(img);
	finish(&b);
}

/* ---- Creating ---- */

Test(vhdx, creates)
{
	static const struct {
		const char *option;
		uint64_t size, block;
	} cases[] = {
		{ NULL, 512, 8 << 20 },
		{ NULL, UINT64_C(1) << 30, 8 << 20 },
		{ NULL, UINT64_C(2) << 30, 16 << 20 },
		{ NULL, UINT64_C(101) << 30, 32 << 20 },
		{ NULL, UINT64_C(64) << 40, 64 << 20 },
		{ "block_size=1M", 10 * MIB, 1 << 20 },
		{ "log_size=4M", 10 * MIB, 8 << 20 },
		{ "subformat=fixed,preallocation=full", 10 * MIB, 8 << 20 },
		{ "subformat=fixed,block_size=32M", UINT64_C(5) << 30, 32 << 20 },
	};
	struct bench b;

	start(&b, 22);
	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		struct img *img;

		create(in(&b, "i.vhdx"), cases[i].size, NULL, cases[i].option);
		img = open_as(in(&b, "i.vhdx"), 0);
		cr_assert_eq(img_size(img), cases[i].size);
		cr_assert_eq(img_unit_bytes(img), cases[i].block);
		done(img);
		if (have_qemu())
			cr_assert_eq(try(&b, "qemu-img check -f vhdx i.vhdx"), 0, "%zu", i);
	}
	finish(&b);
}

Test(vhdx, refuses_to_create)
{
	static const struct {
		const char *option;
		uint64_t size;
		bool child;
		const char *words;
	} cases[] = {
		{ "block_size=3M", 10 * MIB, false, "power of two" },
		{ "block_size=512k", 10 * MIB, false, "block_size is 524288" },
		{ "block_size=512M", 10 * MIB, false, "block_size is 536870912" },
		{ "log_size=1500000", 10 * MIB, false, "log_size is 1500000" },
		{ "log_size=4G", 10 * MIB, false, "log_size is" },
		{ "logical_sector_size=1024", 10 * MIB, false, "logical_sector_size is 1024" },
		{ "logical_sector_size=4096", 512, false, "size is 512" },
		{ "logical_sector_size=4096,physical_sector_size=512", 10 * MIB, false, "at least the logical" },
		{ "logical_sector_size=4096", 10 * MIB, true, "expected the backing file's" },
		{ "subformat=fixed", 10 * MIB, true, "cannot be fixed" },
		{ "block_state_zero=on", 10 * MIB, true, "would hide the backing file" },
		{ "preallocation=full", 10 * MIB, false, "allowed with fixed" },
		{ NULL, (UINT64_C(64) << 40) + 512, false, "max of 64TB" },
	};
	struct bench b;
	struct stat st;

	start(&b, 23);
	create(in(&b, "p.vhdx"), 10 * MIB, NULL, NULL);
	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		const char *options[] = { cases[i].option, NULL };
		struct img_error *err = img_error_new();
		int rc = create_in(in(&b, "i.vhdx"), cases[i].size, cases[i].child ? "p.vhdx" : NULL,
				   options, err);

		cr_assert(rc < 0, "%s", cases[i].words);
		cr_assert(strstr(img_error_text(err), cases[i].words), "'%s' in '%s'", cases[i].words,
			  img_error_text(err));
		cr_assert_eq(stat(in(&b, "i.vhdx"), &st), -1);
		img_error_free(err);
	}
	finish(&b);
}

/* The same disk made twice is the same bytes. */
Test(vhdx, is_reproducible)
{
	struct bench b;
	struct file one[2];

	start(&b, 24);
	for (int i = 0; i < 2; i++) {
		struct img_create_options how = {
			.format = "vhdx", .have_size = true, .size = 64 * MIB, .identity = { 1, 2 }
		};
		struct img *img;

		cr_assert_eq(img_create_begin(in(&b, "i.vhdx"), &how, &img, NULL), 0);
		for (uint64_t k = 0; k < 8; k++) {
			cr_assert_eq(img_write(img, k * 8 * MIB + 512, "abc", 3, NULL), 0);
			if (i) /* at other times */
				cr_assert_eq(img_flush(img, NULL), 0);
		}
		cr_assert_eq(img_publish(img, NULL), 0);
		done(img);
		one[i] = load(in(&b, "i.vhdx"));
	}
	cr_assert(one[0].len == one[1].len && !memcmp(one[0].bytes, one[1].bytes, one[0].len));
	free(one[0].bytes);
	free(one[1].bytes);
	finish(&b);
}
