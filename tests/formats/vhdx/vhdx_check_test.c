/*
 * Check and repair: each kind of damage is told, and what is repaired reads as before.
 */
#include "tests/formats/vhdx/bench.h"

struct result {
	struct img_check_result r;
	char said[4096];
};

static void listen(void *user, const char *line)
{
	struct result *to = user;
	size_t n = strlen(to->said);

	snprintf(to->said + n, sizeof(to->said) - n, "%s\n", line);
}

static struct result check(const char *path, unsigned repair)
{
	struct img *img = open_as(path, IMG_OPEN_CHECK | IMG_OPEN_NO_BACKING | (repair ? IMG_OPEN_WRITE : 0u));
	struct img_error *err = img_error_new();
	struct result result = { 0 };
	int rc = img_check(img, repair, listen, &result, &result.r, err);

	cr_assert_eq(rc, 0, "check: %s", img_error_text(err));
	img_error_free(err);
	done(img);
	return result;
}

/* Four blocks of 1 MiB, each of its own number. */
static struct file four_blocks(struct bench *b, const char *name)
{
	struct img *img;
	uint8_t *bytes = malloc(MIB);

	create(in(b, name), 4 * MIB, NULL, "block_size=1M");
	img = open_as(in(b, name), IMG_OPEN_WRITE);
	for (uint64_t i = 0; i < 4; i++) {
		memset(bytes, (int)i + 1, MIB);
		cr_assert_eq(img_write(img, i * MIB, bytes, MIB, NULL), 0);
	}
	done(img);
	free(bytes);
	return load(in(b, name));
}

static void entry(struct file *f, uint64_t i, uint64_t value)
{
	le64_store(f->bytes + bat_of(f) + 8 * i, value);
}

static uint64_t entry_of(const struct file *f, uint64_t i)
{
	return le64_load(f->bytes + bat_of(f) + 8 * i);
}

/* The disk's MiB read as bytes of these numbers. */
static void blocks_are(const struct bench *b, const char *name, const uint8_t *numbers)
{
	uint8_t *want = malloc(4 * MIB);
	struct file got;

	for (uint64_t i = 0; i < 4; i++)
		memset(want + i * MIB, numbers[i], MIB);
	reads_as(in(b, name), want, 4 * MIB);
	got = read_plain(in(b, name), NULL);
	cr_assert(!memcmp(got.bytes, want, 4 * MIB));
	if (have_qemu()) {
		cr_assert_eq(try(b, "qemu-img convert -f vhdx -O raw %s q.raw", name), 0);
		free(got.bytes);
		got = load(in(b, "q.raw"));
		cr_assert(!memcmp(got.bytes, want, 4 * MIB));
	}
	free(got.bytes);
	free(want);
}

#define BLOCKS(...) ((const uint8_t[]){ __VA_ARGS__ })

/* Found, left alone by a check, gone after the repair, which a second check has nothing to add to. */
static struct result found_and_repaired(const struct bench *b, uint64_t corruptions, uint64_t leaks,
					unsigned how, const char *words)
{
	struct file before = load(in(b, "i.vhdx")), after;
	struct result first = check(in(b, "i.vhdx"), 0), last;

	cr_assert_eq(first.r.corruptions, corruptions, "%s", first.said);
	cr_assert_eq(first.r.leaks, leaks, "%s", first.said);
	cr_assert(strstr(first.said, words), "'%s' in '%s'", words, first.said);
	after = load(in(b, "i.vhdx"));
	cr_assert(before.len == after.len && !memcmp(before.bytes, after.bytes, after.len));
	free(before.bytes);
	free(after.bytes);
	first = check(in(b, "i.vhdx"), how);
	cr_assert_eq(first.r.corruptions, 0, "%s", first.said);
	cr_assert_eq(first.r.leaks, 0, "%s", first.said);
	cr_assert_eq(first.r.corruptions_fixed, corruptions);
	cr_assert_eq(first.r.leaks_fixed, leaks);
	last = check(in(b, "i.vhdx"), 0);
	cr_assert(!last.r.corruptions && !last.r.leaks, "%s", last.said);
	return first;
}

Test(vhdx_check, sound)
{
	struct bench b;
	struct file f;
	struct result r;

	start(&b, 1);
	f = four_blocks(&b, "i.vhdx");
	r = check(in(&b, "i.vhdx"), 0);
	cr_assert(!r.r.corruptions && !r.r.leaks && !r.r.check_errors && !*r.said, "%s", r.said);
	cr_assert_eq(r.r.total_units, 4);
	cr_assert_eq(r.r.allocated_units, 4);
	cr_assert_eq(r.r.image_end, f.len);
	free(f.bytes);
	finish(&b);
}

Test(vhdx_check, headers)
{
	struct bench b;
	struct file f;

	for (uint64_t i = 1; i <= 2; i++) {
		start(&b, 2);
		f = four_blocks(&b, "i.vhdx");
		f.bytes[i * 0x10000 + 100] ^= 1;
		save(in(&b, "i.vhdx"), &f);
		found_and_repaired(&b, 0, 1, IMG_REPAIR_LEAKS, "Leaked header");
		blocks_are(&b, "i.vhdx", BLOCKS(1, 2, 3, 4));
		free(f.bytes);
		f = load(in(&b, "i.vhdx"));
		cr_assert(!memcmp(f.bytes + 0x10010, f.bytes + 0x20010, 4080));
		free(f.bytes);
		finish(&b);
	}
}

Test(vhdx_check, region_tables)
{
	struct bench b;
	struct file f;

	for (uint64_t i = 0; i < 3; i++) {
		uint64_t at = 0x30000 + 0x10000 * (i % 2);

		start(&b, 3);
		f = four_blocks(&b, "i.vhdx");
		if (i < 2) {
			f.bytes[at + 20] ^= 1;
		} else { /* valid, and another one */
			f.bytes[0x40000 + 16 + 28] ^= 1;
			seal(f.bytes + 0x40000, 65536);
		}
		save(in(&b, "i.vhdx"), &f);
		found_and_repaired(&b, 1, 0, IMG_REPAIR_ALL, i < 2 ? "ERROR region table" : "differ");
		blocks_are(&b, "i.vhdx", BLOCKS(1, 2, 3, 4));
		free(f.bytes);
		f = load(in(&b, "i.vhdx"));
		cr_assert(!memcmp(f.bytes + 0x30000, f.bytes + 0x40000, 0x10000));
		free(f.bytes);
		finish(&b);
	}
}

Test(vhdx_check, shared_blocks)
{
	struct bench b;
	struct file f;
	struct img *img;

	start(&b, 4);
	f = four_blocks(&b, "i.vhdx");
	entry(&f, 2, entry_of(&f, 0));
	entry(&f, 3, entry_of(&f, 0));
	save(in(&b, "i.vhdx"), &f);
	free(f.bytes);
	/* The space of the last two is behind the last block then. */
	found_and_repaired(&b, 2, 2, IMG_REPAIR_ALL, "overlaps another one");
	blocks_are(&b, "i.vhdx", BLOCKS(1, 2, 1, 1));
	img = open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_zero(img, 2 * MIB, MIB, NULL), 0);
	done(img);
	blocks_are(&b, "i.vhdx", BLOCKS(1, 2, 0, 1));
	finish(&b);
}

Test(vhdx_check, offsets_that_are_no_whole_mib)
{
	struct bench b;
	struct file f;

	start(&b, 5);
	f = four_blocks(&b, "i.vhdx");
	entry(&f, 1, entry_of(&f, 1) | 0x1000);
	save(in(&b, "i.vhdx"), &f);
	free(f.bytes);
	found_and_repaired(&b, 1, 0, IMG_REPAIR_ALL, "expected an offset of whole MiB");
	blocks_are(&b, "i.vhdx", BLOCKS(1, 2, 3, 4));
	finish(&b);
}

/* What is lost becomes zeroes, if that is asked for; else it stays an error. */
Test(vhdx_check, lost_blocks)
{
	static const struct {
		uint64_t entry;
		const char *words;
	} cases[] = {
		{ 6, "where the headers is" },
		{ 0x100006, "where the log is" },
		{ UINT64_C(1) << 45 | 6, "where the file has ended" },
		{ UINT64_MAX << 20 | 6, "nothing that a VHDX can have" },
		{ 4, "a state that is not defined" },
		{ 0x400007, "differencing disks only" },
	};
	struct bench b;
	struct file f;
	struct result r;

	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		start(&b, 6);
		f = four_blocks(&b, "i.vhdx");
		entry(&f, 1, cases[i].entry);
		save(in(&b, "i.vhdx"), &f);
		free(f.bytes);
		r = check(in(&b, "i.vhdx"), IMG_REPAIR_ALL);
		cr_assert_eq(r.r.corruptions, 1, "%s", r.said);
		cr_assert_eq(r.r.corruptions_fixed, 0);
		found_and_repaired(&b, 1, 0, IMG_REPAIR_ALL | IMG_REPAIR_LOSS, cases[i].words);
		blocks_are(&b, "i.vhdx", BLOCKS(1, 0, 3, 4));
		finish(&b);
	}
}

Test(vhdx_check, a_file_that_was_cut)
{
	struct bench b;
	struct file f;

	start(&b, 7);
	f = four_blocks(&b, "i.vhdx");
	f.len -= MIB / 2;
	save(in(&b, "i.vhdx"), &f);
	free(f.bytes);
	found_and_repaired(&b, 1, 0, IMG_REPAIR_ALL | IMG_REPAIR_LOSS, "is cut off");
	f = read_plain(in(&b, "i.vhdx"), NULL);
	cr_assert_eq(f.bytes[4 * MIB - MIB / 2 - 1], 4);
	cr_assert_eq(f.bytes[4 * MIB - MIB / 2], 0);
	free(f.bytes);
	finish(&b);
}

Test(vhdx_check, room_behind_the_last_block)
{
	struct bench b;
	struct file f, g;

	start(&b, 8);
	f = four_blocks(&b, "i.vhdx");
	g = (struct file){ calloc(1, f.len + 5 * MIB), f.len + 5 * MIB };
	memcpy(g.bytes, f.bytes, f.len);
	save(in(&b, "i.vhdx"), &g);
	free(g.bytes);
	found_and_repaired(&b, 0, 5, IMG_REPAIR_LEAKS, "5 MiB behind the last block");
	g = load(in(&b, "i.vhdx"));
	cr_assert_eq(g.len, f.len);
	free(g.bytes);
	free(f.bytes);
	finish(&b);
}

/* What a block that is lost had may be there: without the loss being accepted the file keeps its length. */
Test(vhdx_check, room_behind_and_a_lost_block)
{
	struct bench b;
	struct file f, g;
	struct result r;

	start(&b, 11);
	f = four_blocks(&b, "i.vhdx");
	g = (struct file){ calloc(1, f.len + 5 * MIB), f.len + 5 * MIB };
	memcpy(g.bytes, f.bytes, f.len);
	entry(&g, 1, UINT64_C(1) << 45 | 6);
	save(in(&b, "i.vhdx"), &g);
	r = check(in(&b, "i.vhdx"), IMG_REPAIR_ALL);
	cr_assert(r.r.corruptions == 1 && r.r.leaks == 5, "%s", r.said);
	free(f.bytes);
	f = load(in(&b, "i.vhdx"));
	cr_assert_eq(f.len, g.len);
	r = check(in(&b, "i.vhdx"), IMG_REPAIR_ALL | IMG_REPAIR_LOSS);
	cr_assert(!r.r.corruptions && !r.r.leaks, "%s", r.said);
	free(g.bytes);
	g = load(in(&b, "i.vhdx"));
	cr_assert_eq(g.len + 5 * MIB, f.len);
	free(f.bytes);
	free(g.bytes);
	finish(&b);
}

/* A differencing disk whose sector bitmap block is another block. */
Test(vhdx_check, shared_bitmaps)
{
	struct bench b;
	struct file f, parent = { calloc(1, 4 * MIB), 4 * MIB }, want, got;
	struct img *img;
	uint64_t bitmap = 4096;

	start(&b, 9);
	create(in(&b, "p.vhdx"), 4 * MIB, NULL, NULL);
	create(in(&b, "i.vhdx"), 0, "p.vhdx", "block_size=1M");
	img = open_as(in(&b, "i.vhdx"), IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 512, "abcdefgh", 8, NULL), 0);
	cr_assert_eq(img_write(img, MIB + 512, "abcdefgh", 8, NULL), 0);
	done(img);
	f = load(in(&b, "i.vhdx"));
	entry(&f, 1, entry_of(&f, bitmap) | 1); /* block 1 has the bits for data */
	save(in(&b, "i.vhdx"), &f);
	want = read_plain(in(&b, "i.vhdx"), &parent);
	found_and_repaired(&b, 1, 1, IMG_REPAIR_ALL, "overlaps another one");
	got = read_plain(in(&b, "i.vhdx"), &parent);
	cr_assert(!memcmp(got.bytes, want.bytes, want.len));
	free(f.bytes);
	/* Without its bitmap block, what a block has is lost. */
	f = load(in(&b, "i.vhdx"));
	entry(&f, bitmap, 0);
	save(in(&b, "i.vhdx"), &f);
	found_and_repaired(&b, 2, 4, IMG_REPAIR_ALL | IMG_REPAIR_LOSS,
			   "without a sector bitmap block");
	free(f.bytes);
	free(got.bytes);
	free(want.bytes);
	free(parent.bytes);
	finish(&b);
}

/* A log that is not empty is no defect. */
Test(vhdx_check, an_open_log)
{
	struct bench b;
	struct file f;
	struct result r;

	start(&b, 10);
	f = four_blocks(&b, "i.vhdx");
	memset(header_of(&f) + 48, 0x55, 16);
	seal(header_of(&f), 4096);
	save(in(&b, "i.vhdx"), &f);
	free(f.bytes);
	r = check(in(&b, "i.vhdx"), 0);
	cr_assert(!r.r.corruptions && !r.r.leaks && strstr(r.said, "The log is not empty"), "%s", r.said);
	r = check(in(&b, "i.vhdx"), IMG_REPAIR_ALL); /* replayed before */
	cr_assert(!r.r.corruptions && !r.r.corruptions_fixed && !*r.said, "%s", r.said);
	r = check(in(&b, "i.vhdx"), 0);
	cr_assert(!*r.said, "%s", r.said);
	blocks_are(&b, "i.vhdx", BLOCKS(1, 2, 3, 4));
	finish(&b);
}
