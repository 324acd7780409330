/*
 * Writing in place: marks, content IDs, tables that are missing, freed room, and images that are
 * not written to. Random requests, power cuts and failing disks are the business of tests/random,
 * tests/crash and tests/fault.
 */
#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "tests/formats/vmdk/bench.h"

enum {
	GRAIN = 65536,
	COVERS = 512 * GRAIN,
	OFF_UNCLEAN = 72,
	OFF_REDUNDANT = 48,
	OFF_DIRECTORY = 56,
};

static void put(struct img *img, uint64_t off, size_t len, int byte)
{
	struct img_error *err = img_error_new();
	uint8_t *bytes = malloc(len);

	memset(bytes, byte, len);
	cr_assert_eq(img_write(img, off, bytes, len, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	free(bytes);
}

static uint8_t unclean(const struct bench *b)
{
	uint8_t mark;

	read_at(b->image, OFF_UNCLEAN, &mark, 1);
	return mark;
}

/* The header's field, in bytes. */
static uint64_t place(const struct bench *b, uint64_t field)
{
	uint8_t bytes[8];

	read_at(b->image, field, bytes, sizeof(bytes));
	return le64_load(bytes) * 512;
}

static uint32_t entry(const struct bench *b, uint64_t directory, uint64_t grain)
{
	uint8_t bytes[4];

	read_at(b->image, directory + grain / 512 * 4, bytes, 4);
	read_at(b->image, (uint64_t)le32_load(bytes) * 512 + grain % 512 * 4, bytes, 4);
	return le32_load(bytes);
}

Test(vmdk_write, marks)
{
	uint8_t before[10241] = { 0 }, after[10241] = { 0 };
	struct img *img;
	struct bench b;

	start(&b);
	must_make(b.image, 10 << 20, NULL, NULL);
	read_at(b.image, 512, before, 10240);

	/* Nothing written: nothing changes. */
	close_image(open_image(b.image, IMG_OPEN_WRITE));
	read_at(b.image, 512, after, 10240);
	cr_assert_arr_eq(before, after, sizeof(before));

	img = open_image(b.image, IMG_OPEN_WRITE);
	cr_assert_eq(unclean(&b), 0);
	put(img, 0, 512, 1);
	cr_assert_eq(unclean(&b), 1);
	read_at(b.image, 512, after, 10240);
	cr_assert(memcmp(before, after, sizeof(before)) != 0);
	put(img, 5000, 512, 1);
	close_image(img);
	cr_assert_eq(unclean(&b), 0);

	/* One change of the ID for one time open; the long one follows. */
	read_at(b.image, 512, before, 10240);
	cr_assert_arr_eq(before, after, sizeof(before));
	cr_assert(!memcmp(strstr((char *)after, "\nCID=") + 5,
			  strstr((char *)after, "longContentID = \"") + 17 + 24, 8));
	img = open_image(b.image, IMG_OPEN_WRITE);
	put(img, 5000, 512, 2);
	close_image(img);
	read_at(b.image, 512, after, 10240);
	cr_assert(memcmp(strstr((char *)before, "uuid.modification"),
			 strstr((char *)after, "uuid.modification"), 19 + 36) != 0);
	cr_assert(!memcmp(strstr((char *)before, "uuid.image"),
			  strstr((char *)after, "uuid.image"), 12 + 36));
	sound(&b, b.image);
	finish(&b);
}

Test(vmdk_write, changed_parent_is_noticed)
{
	struct bench b;
	struct img *img;
	char base[160];

	start(&b);
	snprintf(base, sizeof(base), "%s/base.vmdk", b.dir);
	must_make(base, 1 << 20, NULL, NULL);
	must_make(b.image, 1 << 20, NULL, "base.vmdk");
	close_image(open_image(b.image, 0));
	img = open_image(base, IMG_OPEN_WRITE);
	put(img, 0, 512, 1);
	close_image(img);
	refuse_open(b.image, 0, -EUCLEAN, "CID");
	finish(&b);
}

Test(vmdk_write, both_copies)
{
	struct bench b;
	struct img *img;

	start(&b);
	must_make(b.image, 100 << 20, NULL, NULL);
	img = open_image(b.image, IMG_OPEN_WRITE);
	put(img, 70000, 200000, 7);
	put(img, 90 << 20, 1, 7);
	close_image(img);
	for (uint64_t g = 0; g < (100 << 20) / GRAIN; g++) {
		uint32_t one = entry(&b, place(&b, OFF_DIRECTORY), g);

		cr_assert_eq(one, entry(&b, place(&b, OFF_REDUNDANT), g));
		cr_assert_eq(one != 0, (g >= 1 && g <= 4) || g == (90 << 20) / GRAIN);
	}
	cr_assert_eq(size_of(b.image) % GRAIN, 0);
	sound(&b, b.image);
	finish(&b);
}

/* Tables that do not exist are made when they are needed, in both directories. */
Test(vmdk_write, missing_tables)
{
	uint8_t none[12] = { 0 };
	uint64_t size = 3 * COVERS;
	struct img_error *err = img_error_new();
	struct img *img;
	struct bench b;
	uint8_t *got;

	start(&b);
	must_make(b.image, size, NULL, NULL);
	write_at(b.image, place(&b, OFF_DIRECTORY), none, sizeof(none));
	write_at(b.image, place(&b, OFF_REDUNDANT), none, sizeof(none));
	sound(&b, b.image);
	img = open_image(b.image, IMG_OPEN_WRITE);
	cr_assert_eq(img_zero(img, 0, COVERS, err), 0);
	put(img, 2 * (uint64_t)COVERS - 1000, 2000, 9);
	close_image(img);
	sound(&b, b.image);
	cr_assert_eq(entry(&b, place(&b, OFF_DIRECTORY), 1023),
		     entry(&b, place(&b, OFF_REDUNDANT), 1023));
	got = read_all(b.image, size);
	for (uint64_t i = 0; i < size; i++)
		cr_assert_eq(got[i], i >= 2 * (uint64_t)COVERS - 1000 &&
						     i < 2 * (uint64_t)COVERS + 1000
					     ? 9
					     : 0);
	free(got);
	/* The first one was not needed. */
	read_at(b.image, place(&b, OFF_DIRECTORY), none, 4);
	cr_assert_eq(le32_load(none), 0);
	img_error_free(err);
	finish(&b);
}

Test(vmdk_write, freed_room_is_used_again)
{
	struct img_error *err = img_error_new();
	uint64_t before;
	struct img *img;
	struct bench b;

	start(&b);
	must_make(b.image, 10 << 20, NULL, NULL);
	img = open_image(b.image, IMG_OPEN_WRITE);
	put(img, 0, 4 * GRAIN, 1);
	cr_assert_eq(img_flush(img, err), 0);
	before = size_of(b.image);
	cr_assert_eq(img_discard(img, 0, 4 * GRAIN, err), 0);
	cr_assert_eq(img_flush(img, err), 0);
	put(img, 5 << 20, 4 * GRAIN, 2);
	close_image(img);
	cr_assert_eq(size_of(b.image), before);
	sound(&b, b.image);
	img_error_free(err);
	finish(&b);
}

/* Zeroes over a parent: by an entry where the format can say so, else as data. */
Test(vmdk_write, zeroes_hide_the_parent)
{
	for (int zeroed = 0; zeroed < 2; zeroed++) {
		struct img_error *err = img_error_new();
		char base[160];
		struct img *img;
		struct bench b;
		uint8_t *got;
		uint32_t e;

		start(&b);
		snprintf(base, sizeof(base), "%s/base.vmdk", b.dir);
		must_make(base, 1 << 20, NULL, NULL);
		img = open_image(base, IMG_OPEN_WRITE);
		put(img, 0, 1 << 20, 5);
		close_image(img);
		must_make(b.image, 1 << 20, zeroed ? "zeroed_grain=on" : NULL, "base.vmdk");
		img = open_image(b.image, IMG_OPEN_WRITE);
		put(img, 2 * GRAIN, 100, 6);
		cr_assert_eq(img_zero(img, GRAIN, 2 * GRAIN, err), 0);
		cr_assert_eq(img_zero(img, 4 * GRAIN + 1024, 512, err), 0);
		cr_assert_eq(img_discard(img, 8 * GRAIN, GRAIN, err), 0);
		close_image(img);
		e = entry(&b, place(&b, OFF_DIRECTORY), 1);
		cr_assert(zeroed ? e == 1 : e > 1);
		got = read_all(b.image, 1 << 20);
		for (size_t i = 0; i < 1 << 20; i++) {
			bool zero = (i >= GRAIN && i < 3 * GRAIN) ||
				    (i >= 4 * GRAIN + 1024 && i < 4 * GRAIN + 1536);

			cr_assert_eq(got[i], zero ? 0 : 5, "%zu", i);
		}
		free(got);
		sound(&b, b.image);
		if (have_qemu()) {
			run(&b, "qemu-img convert -O raw image.vmdk theirs.raw");
			run(&b, "qemu-img compare -f vmdk -F raw image.vmdk theirs.raw");
		}
		img_error_free(err);
		finish(&b);
	}
}

Test(vmdk_write, split)
{
	static const char *const kinds[] = { "subformat=twoGbMaxExtentSparse",
					     "subformat=twoGbMaxExtentFlat" };

	for (size_t k = 0; k < IMG_ARRAY_LEN(kinds); k++) {
		uint64_t border = UINT64_C(0x80000000);
		uint8_t bytes[6000];
		struct img *img;
		struct bench b;

		start(&b);
		must_make(b.image, border + 100 * 512, kinds[k], NULL);
		img = open_image(b.image, IMG_OPEN_WRITE);
		put(img, border - 3000, sizeof(bytes), 3);
		put(img, border + 99 * 512, 512, 4);
		close_image(img);
		img = open_image(b.image, 0);
		cr_assert_eq(img_read(img, border - 3000, bytes, sizeof(bytes), NULL), 0);
		for (size_t i = 0; i < sizeof(bytes); i++)
			cr_assert_eq(bytes[i], 3);
		close_image(img);
		sound(&b, b.image);
		finish(&b);
	}
}

/* ---- What is not written to ---- */

/* A grain that its entry puts over metadata. */
Test(vmdk_write, grains_over_metadata)
{
	struct img_error *err = img_error_new();
	uint8_t slot[4], data[512] = { 1 };
	uint64_t directory, table;
	struct img *img;
	struct bench b;

	start(&b);
	must_make(b.image, 10 << 20, NULL, NULL);
	directory = place(&b, OFF_DIRECTORY);
	read_at(b.image, directory, slot, 4);
	table = (uint64_t)le32_load(slot) * 512;
	write_at(b.image, table + 4, slot, 4); /* the table itself */
	le32_store(slot, 2);
	write_at(b.image, table + 8, slot, 4); /* the descriptor */
	img = open_image(b.image, IMG_OPEN_WRITE);
	/* Both lead out of the file or over metadata; either way nothing may be written there. */
	cr_assert_eq(img_write(img, GRAIN, data, sizeof(data), err), -EUCLEAN);
	cr_assert_eq(img_write(img, 2 * GRAIN, data, sizeof(data), err), -EUCLEAN);
	cr_assert_eq(img_discard(img, 2 * GRAIN, GRAIN, err), -EUCLEAN);
	cr_assert_eq(img_write(img, 0, data, sizeof(data), err), 0);
	close_image(img);
	img_error_free(err);
	finish(&b);
}

Test(vmdk_write, damaged_directories)
{
	uint8_t slot[4];
	struct bench b;

	start(&b);
	must_make(b.image, 2 * (uint64_t)COVERS, NULL, NULL);
	/* Two entries with one table. */
	read_at(b.image, place(&b, OFF_DIRECTORY), slot, 4);
	write_at(b.image, place(&b, OFF_DIRECTORY) + 4, slot, 4);
	refuse_open(b.image, IMG_OPEN_WRITE, -EUCLEAN, "overlaps a grain table");
	close_image(open_image(b.image, 0));
	/* A table in the descriptor. */
	le32_store(slot, 4);
	write_at(b.image, place(&b, OFF_DIRECTORY) + 4, slot, 4);
	refuse_open(b.image, IMG_OPEN_WRITE, -EUCLEAN, "overlaps a descriptor");
	/* Out of the file. */
	le32_store(slot, 0x7fffffff);
	write_at(b.image, place(&b, OFF_DIRECTORY) + 4, slot, 4);
	refuse_open(b.image, IMG_OPEN_WRITE, -EUCLEAN, "grain directory entry 1");
	/* Only one of both has it. */
	le32_store(slot, 0);
	write_at(b.image, place(&b, OFF_DIRECTORY) + 4, slot, 4);
	refuse_open(b.image, IMG_OPEN_WRITE, -EUCLEAN, "copy entry 1");
	/* A directory in the descriptor. */
	le32_store(slot, 19);
	write_at(b.image, OFF_DIRECTORY, slot, 4);
	refuse_open(b.image, IMG_OPEN_WRITE, -EUCLEAN, "overlaps the descriptor");
	finish(&b);
}

Test(vmdk_write, kinds_that_are_only_read)
{
	static const uint8_t three = 3;
	char path[160];
	struct bench b;
	FILE *f;

	start(&b);
	must_make(b.image, 1 << 20, NULL, NULL);
	write_at(b.image, 4, &three, 1);
	refuse_open(b.image, IMG_OPEN_WRITE, -ENOTSUP, "version 3");
	must_make(b.image, 1 << 20, "subformat=monolithicFlat", NULL);
	snprintf(path, sizeof(path), "%s/read.vmdk", b.dir);
	f = fopen(path, "w");
	cr_assert(f);
	fprintf(f, "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
		   "createType=\"custom\"\nRDONLY 8 FLAT \"image-flat.vmdk\" 0\n");
	fclose(f);
	refuse_open(path, IMG_OPEN_WRITE, -EACCES, "RDONLY");
	close_image(open_image(path, 0));
	f = fopen(path, "w");
	cr_assert(f);
	fprintf(f, "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
		   "createType=\"custom\"\nRW 8 FLAT \"image-flat.vmdk\" 0\nRW 8 ZERO\n");
	fclose(f);
	refuse_open(path, IMG_OPEN_WRITE, -ENOTSUP, "ZERO");
	finish(&b);
}

/* ---- Repair ---- */

static struct img_check_result check(const struct bench *b, unsigned repair)
{
	struct img *img = open_image(b->image,
				     IMG_OPEN_CHECK | (repair ? (unsigned)IMG_OPEN_WRITE : 0));
	struct img_error *err = img_error_new();
	struct img_check_result r;

	cr_assert_eq(img_check(img, repair, NULL, NULL, &r, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	close_image(img);
	return r;
}

/* Copies that differ: what a crash leaves if the extent says so, else damage. */
Test(vmdk_write, copies_that_differ)
{
	static const uint8_t one = 1;
	struct img_check_result r;
	uint8_t slot[4], zero[4] = { 0 }, before[10240], after[10240];
	struct img *img;
	struct bench b;
	uint64_t copy;

	start(&b);
	must_make(b.image, 1 << 20, NULL, NULL);
	img = open_image(b.image, IMG_OPEN_WRITE);
	put(img, 0, 512, 1);
	close_image(img);
	read_at(b.image, place(&b, OFF_REDUNDANT), slot, 4);
	copy = (uint64_t)le32_load(slot) * 512;
	write_at(b.image, copy, zero, 4);
	r = check(&b, 0);
	cr_assert_eq(r.corruptions, 1);
	r = check(&b, IMG_REPAIR_LEAKS);
	cr_assert_eq(r.corruptions, 1);
	read_at(b.image, 512, before, sizeof(before));
	r = check(&b, IMG_REPAIR_ALL);
	cr_assert(!r.corruptions && r.corruptions_fixed == 1);
	/* The guest's bytes are the same: children go on. */
	read_at(b.image, 512, after, sizeof(after));
	cr_assert_arr_eq(before, after, sizeof(before));
	sound(&b, b.image);

	write_at(b.image, copy, zero, 4);
	write_at(b.image, OFF_UNCLEAN, &one, 1);
	r = check(&b, 0);
	cr_assert(r.leaks == 1 && !r.corruptions);
	r = check(&b, IMG_REPAIR_LEAKS);
	cr_assert(!r.leaks && r.leaks_fixed == 1);
	cr_assert_eq(unclean(&b), 0);
	sound(&b, b.image);
	finish(&b);
}

/* Wherever in a table the difference is. */
Test(vmdk_write, copies_that_differ_anywhere)
{
	uint8_t slot[4];
	struct bench b;
	uint64_t copy;

	start(&b);
	must_make(b.image, COVERS, NULL, NULL);
	read_at(b.image, place(&b, OFF_REDUNDANT), slot, 4);
	copy = (uint64_t)le32_load(slot) * 512;
	for (uint64_t at = 0; at < 2048; at += at < 2044 ? 292 : 4) {
		static const uint8_t one[4] = { 1 }, none[4] = { 0 };

		write_at(b.image, copy + at, one, 4);
		cr_assert_eq(check(&b, 0).corruptions, 1, "%" PRIu64, at);
		write_at(b.image, copy + at, none, 4);
	}
	cr_assert_eq(check(&b, 0).corruptions, 0);
	finish(&b);
}

/* A mark that the extent was not closed stays as long as anything is wrong. */
Test(vmdk_write, unclean_and_damaged)
{
	static const uint8_t one = 1;
	uint8_t slot[4], old[4], far[4];
	struct img_check_result r;
	struct img *img;
	struct bench b;
	uint64_t table;

	start(&b);
	must_make(b.image, 1 << 20, NULL, NULL);
	img = open_image(b.image, IMG_OPEN_WRITE);
	put(img, 0, 512, 1);
	put(img, 2 * GRAIN, 512, 2);
	close_image(img);
	write_at(b.image, OFF_UNCLEAN, &one, 1);
	/* a grain that is not in the file, by the table and by its copy */
	le32_store(far, 0x7fffffff);
	for (uint64_t off = OFF_REDUNDANT; off <= OFF_DIRECTORY;
	     off += OFF_DIRECTORY - OFF_REDUNDANT) {
		read_at(b.image, place(&b, off), slot, 4);
		table = (uint64_t)le32_load(slot) * 512;
		read_at(b.image, table + 8, old, 4);
		write_at(b.image, table + 8, far, 4);
	}
	r = check(&b, IMG_REPAIR_ALL);
	cr_assert_gt(r.corruptions, 0);
	cr_assert_eq(unclean(&b), 1);
	finish(&b);
}

/* Two entries for one grain: of a pair of tables that differ that one is not taken for the right one. */
Test(vmdk_write, copies_of_which_one_shares_a_grain)
{
	uint8_t slot[4], first[4], second[4];
	uint64_t table, copy;
	struct img *img;
	struct bench b;

	start(&b);
	must_make(b.image, 1 << 20, NULL, NULL);
	img = open_image(b.image, IMG_OPEN_WRITE);
	put(img, 0, 512, 1);
	put(img, 2 * GRAIN, 512, 2);
	close_image(img);
	read_at(b.image, place(&b, OFF_DIRECTORY), slot, 4);
	table = (uint64_t)le32_load(slot) * 512;
	read_at(b.image, place(&b, OFF_REDUNDANT), slot, 4);
	copy = (uint64_t)le32_load(slot) * 512;
	read_at(b.image, table, first, 4);
	read_at(b.image, table + 8, second, 4);
	/* grain 2 by the table is grain 0; the copy knows better */
	write_at(b.image, table + 8, first, 4);
	cr_assert_eq(check(&b, 0).corruptions, 2);
	check(&b, IMG_REPAIR_ALL);
	read_at(b.image, copy + 8, slot, 4);
	cr_assert_arr_eq(slot, second, 4);
	/* and where nothing shares anything the pair becomes one */
	write_at(b.image, table + 8, second, 4);
	write_at(b.image, copy + 8, (const uint8_t[4]){ 0 }, 4);
	cr_assert_eq(check(&b, IMG_REPAIR_ALL).corruptions, 0);
	sound(&b, b.image);
	finish(&b);
}

/* An entry that one directory lacks: of an extent that was closed nobody knows which one is right. */
Test(vmdk_write, a_table_that_one_directory_has)
{
	static const uint8_t none[4] = { 0 };
	uint8_t before[4], after[4];
	struct img_check_result r;
	struct bench b;

	start(&b);
	must_make(b.image, 2 * (uint64_t)COVERS, NULL, NULL);
	read_at(b.image, place(&b, OFF_REDUNDANT) + 4, before, 4);
	write_at(b.image, place(&b, OFF_DIRECTORY) + 4, none, 4);
	cr_assert_eq(check(&b, 0).corruptions, 1);
	r = check(&b, IMG_REPAIR_ALL);
	cr_assert_eq(r.corruptions, 0);
	/* the guest sees no table there before, and none after */
	read_at(b.image, place(&b, OFF_DIRECTORY) + 4, after, 4);
	cr_assert_arr_eq(after, none, 4);
	read_at(b.image, place(&b, OFF_REDUNDANT) + 4, after, 4);
	cr_assert_arr_neq(after, before, 4);
	sound(&b, b.image);
	finish(&b);
}
