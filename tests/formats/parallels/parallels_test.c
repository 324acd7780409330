/*
 * Parallels images made, written, refused, checked, repaired and resized.
 */
#include "tests/formats/parallels/plain.h"

TestSuite(parallels, .init = folder_make, .fini = folder_remove);

enum {
	SIZE = 5 * MIB + 512,
};

Test(parallels, create_refused)
{
	static const struct {
		uint64_t size;
		const char *options, *words;
	} rows[] = {
		{ MIB, "cluster_size=1000", "cluster_size" },
		{ MIB, "cluster_size=0", "cluster_size" },
		{ MIB, "cluster_size=4G", "cluster_size" },
		{ MIB, "preallocation=metadata", "preallocation" },
		{ UINT64_C(1) << 40, "cluster_size=512", "size" },
	};
	const char *text;

	for (size_t i = 0; i < COUNT(rows); i++) {
		cr_assert_lt(make("t", rows[i].size, rows[i].options, NULL, &text), 0, "row %zu", i);
		cr_assert(strstr(text, rows[i].words), "%s", text);
		cr_assert_eq(folder_count(), 0);
	}
}

/* Whatever the kind and the cluster, and wherever requests begin. */
static void write_around(const char *name, uint64_t size)
{
	uint8_t *model = calloc(1, size);
	struct img *img;

	img = must_open(name, "parallels", IMG_OPEN_WRITE);

	put(img, size - 700, 700, 1, model);
	put(img, 100, 3 * 63 * 512, 2, model);
	put(img, MIB - 1, 2, 3, model);
	must_close(img);
	sound(name);
	reads_as(name, model, size);
	cr_assert_eq(peek_le(name, IN_USE_AT, 4), closed);
	img = must_open(name, NULL, 0);
	cr_assert_str_eq(img_format(img), "parallels");
	must_close(img);
	img = must_open(name, "parallels", IMG_OPEN_WRITE);
	cr_assert_eq(img_zero(img, 63 * 512, 63 * 512, NULL), 0);
	memset(model + 63 * 512, 0, 63 * 512);
	cr_assert_eq(img_zero(img, 1024, 512, NULL), 0);
	memset(model + 1024, 0, 512);
	cr_assert_eq(img_discard(img, 512 * KIB, size - 512 * KIB, NULL), 0);
	cr_assert_eq(img_read(img, 512 * KIB, model + 512 * KIB, size - 512 * KIB, NULL), 0);
	put(img, 2 * MIB, 1000, 4, model);
	must_close(img);
	sound(name);
	reads_as(name, model, size);
	free(model);
}

Test(parallels, written)
{
	make_new("a", SIZE, NULL);
	write_around("a", SIZE);
	make_new("b", SIZE, "cluster_size=4k");
	write_around("b", SIZE);
	make_new("c", SIZE, "cluster_size=32256");
	write_around("c", SIZE);
	make_new("d", SIZE, "cluster_size=512");
	write_around("d", SIZE);
	make_new("e", SIZE, "cluster_size=64k,preallocation=full");
	write_around("e", SIZE);
	make_old("f", SIZE, 63);
	write_around("f", SIZE);
	make_old("g", SIZE, 8);
	write_around("g", SIZE);
	make_old("h", SIZE, 2048);
	write_around("h", SIZE);
}

/* QEMU 11 drops a cluster that the file's end cuts, though the disk's end does so too. */
Test(parallels, last_cluster_is_whole)
{
	uint8_t *model = calloc(1, SIZE);
	struct img *img;

	make_new("a", SIZE, NULL);
	img = must_open("a", "parallels", IMG_OPEN_WRITE);
	put(img, SIZE - 100, 100, 1, model);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_geq(file_size("a"), 2 * MIB);
	must_close(img);
	reads_as("a", model, SIZE);

	/* One that was cut by who wrote it becomes whole when something is written, or repaired. */
	for (int repair = 0; repair < 2; repair++) {
		cr_assert_eq(truncate("a", (off_t)(file_size("a") - MIB + 512)), 0);
		sound("a");
		if (repair) {
			check("a", IMG_REPAIR_LEAKS);
		} else {
			img = must_open("a", "parallels", IMG_OPEN_WRITE);
			put(img, SIZE - 50, 10, 2, model);
			must_close(img);
		}
		reads_as("a", model, SIZE);
	}

	/* Nothing counts on what a smaller disk has given up. */
	cr_assert_eq(truncate("a", (off_t)(file_size("a") - MIB + 512)), 0);
	img = must_open("a", "parallels", IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, 5 * MIB, IMG_PREALLOCATE_OFF, NULL), 0);
	must_close(img);
	reads_as("a", model, 5 * MIB);
	sound("a");
	cr_assert_eq(file_size("a"), MIB);
	img = must_open("a", "parallels", IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, SIZE, IMG_PREALLOCATE_OFF, NULL), 0);
	memset(model + 5 * MIB, 0, 512);
	put(img, SIZE - 100, 100, 1, model);
	must_close(img);

	/* What is freed there is taken again. */
	cr_assert_eq(truncate("a", (off_t)(file_size("a") - MIB + 512)), 0);
	img = must_open("a", "parallels", IMG_OPEN_WRITE);
	cr_assert_eq(img_zero(img, 5 * MIB, 512, NULL), 0);
	memset(model + 5 * MIB, 0, 512);
	put(img, 512, 100, 3, model);
	must_close(img);
	reads_as("a", model, SIZE);
	free(model);
}

/* While it is written to the file says so, durably; a clean end takes that back. */
Test(parallels, in_use)
{
	uint8_t model[1000] = { 0 };
	struct img *img;

	make_new("a", MIB, NULL);
	img = must_open("a", "parallels", IMG_OPEN_WRITE);
	cr_assert_eq(peek_le("a", IN_USE_AT, 4), closed);
	/* what was read of the BAT before knows nothing of the mark */
	cr_assert_eq(img_read(img, 0, model, sizeof(model), NULL), 0);
	put(img, 0, 1000, 1, model);
	cr_assert_eq(peek_le("a", IN_USE_AT, 4), in_use);
	/* the first entries lie in the same sector */
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_neq(entry("a", 0), 0);
	cr_assert_eq(peek_le("a", IN_USE_AT, 4), in_use);
	must_close(img);
	cr_assert_eq(peek_le("a", IN_USE_AT, 4), closed);
}

/* An image that was not closed is read, and written to: that is set right by it. */
Test(parallels, not_closed)
{
	uint8_t *model = calloc(1, MIB);
	struct img_check_result r;
	struct img *img;

	make_new("a", MIB, "cluster_size=4k");
	img = must_open("a", "parallels", IMG_OPEN_WRITE);
	put(img, 5000, 1000, 1, model);
	must_close(img);
	patch_le("a", IN_USE_AT, in_use, 4);
	cr_assert_eq(truncate("a", (off_t)file_size("a") + 3 * 4096), 0);
	reads_as("a", model, MIB);
	r = check("a", 0);
	cr_assert(r.corruptions == 1 && r.leaks == 3);
	r = check("a", IMG_REPAIR_LEAKS);
	cr_assert(r.corruptions == 1 && !r.leaks && r.leaks_fixed == 3);
	cr_assert_eq(peek_le("a", IN_USE_AT, 4), in_use);
	r = check("a", IMG_REPAIR_ALL);
	cr_assert(!r.corruptions && r.corruptions_fixed == 1);
	cr_assert_eq(peek_le("a", IN_USE_AT, 4), closed);
	sound("a");
	patch_le("a", IN_USE_AT, in_use, 4);
	img = must_open("a", "parallels", IMG_OPEN_WRITE);
	put(img, 100, 100, 7, model);
	must_close(img);
	sound("a");
	reads_as("a", model, MIB);
	free(model);
}

/* The flag of an image without clusters goes with the first one. */
Test(parallels, empty_no_more)
{
	uint8_t *model = calloc(1, MIB);
	struct img *img;

	make_new("a", MIB, "cluster_size=4k");
	patch_le("a", FLAGS_AT, 1, 4);
	sound("a");
	img = must_open("a", "parallels", IMG_OPEN_WRITE);
	put(img, 5000, 1000, 1, model);
	must_close(img);
	cr_assert_eq(peek_le("a", FLAGS_AT, 4) & 1, 0);
	sound("a");
	reads_as("a", model, MIB);
	free(model);
}

/* ---- Damage ---- */

/* Clusters 0, 1 and 5 of 4 KiB are there, in this order. */
static void damaged(const char *name, bool old, uint8_t *model)
{
	struct img *img;

	if (old)
		make_old(name, MIB, 8);
	else
		make_new(name, MIB, "cluster_size=4k");
	memset(model, 0, MIB);
	img = must_open(name, "parallels", IMG_OPEN_WRITE);
	put(img, 0, 4096, 1, model);
	put(img, 4096, 4096, 2, model);
	put(img, 5 * 4096, 4096, 3, model);
	must_close(img);
	sound(name);
}

/* Refused for writing with these words; read where it can be read. */
static void not_written(const char *name, const char *words)
{
	struct img_open_options o = { .format = "parallels", .flags = IMG_OPEN_WRITE };
	const char *text;

	cr_assert_eq(must_fail(name, &o, &text), -EUCLEAN);
	cr_assert(strstr(text, words), "%s", text);
}

Test(parallels, shared_cluster)
{
	uint8_t *model = malloc(MIB);
	struct img_check_result r;

	for (int old = 0; old < 2; old++) {
		damaged("a", old, model);
		set_entry("a", 9, entry("a", 0));
		not_written("a", "which something else has already");
		r = check("a", 0);
		cr_assert_eq(r.corruptions, 1);
		r = check("a", IMG_REPAIR_ALL);
		cr_assert(!r.corruptions && r.corruptions_fixed == 1);
		memcpy(model + 9 * 4096, model, 4096);
		cr_assert_neq(entry("a", 9), entry("a", 0));
		sound("a");
		reads_as("a", model, MIB);
	}
	free(model);
}

/* Each entry gets a cluster of its own. */
Test(parallels, shared_twice)
{
	uint8_t *model = malloc(MIB);
	struct img_check_result r;

	for (int old = 0; old < 2; old++) {
		damaged("a", old, model);
		set_entry("a", 9, entry("a", 0));
		set_entry("a", 11, entry("a", 1));
		set_entry("a", 12, entry("a", 0));
		r = check("a", IMG_REPAIR_ALL);
		cr_assert(!r.corruptions && r.corruptions_fixed == 3);
		memset(model + 9 * 4096, 1, 4096);
		memset(model + 11 * 4096, 2, 4096);
		memset(model + 12 * 4096, 1, 4096);
		sound("a");
		reads_as("a", model, MIB);
	}
	free(model);
}

Test(parallels, beyond_the_end)
{
	uint8_t *model = malloc(MIB);
	struct img_check_result r;
	uint8_t sector[512];
	struct img *img;

	for (int old = 0; old < 2; old++) {
		damaged("a", old, model);
		set_entry("a", 1, 4000);
		not_written("a", "the file ends");
		img = must_open("a", "parallels", 0);
		cr_assert_eq(img_read(img, 4096, sector, sizeof(sector), NULL), -EUCLEAN);
		cr_assert_eq(img_read(img, 0, sector, sizeof(sector), NULL), 0);
		must_close(img);
		r = check("a", IMG_REPAIR_ALL);
		cr_assert(r.corruptions == 1 && !r.corruptions_fixed);
		r = check("a", IMG_REPAIR_ALL | IMG_REPAIR_LOSS);
		cr_assert(!r.corruptions && r.corruptions_fixed == 1);
		memset(model + 4096, 0, 4096);
		sound("a");
		reads_as("a", model, MIB);
	}
	free(model);
}

/* A file that was cut short inside a cluster: what is left of that is kept. */
Test(parallels, cut_short)
{
	uint8_t *model = malloc(MIB);
	struct img_check_result r;

	for (int old = 0; old < 2; old++) {
		damaged("a", old, model);
		cr_assert_eq(truncate("a", (off_t)file_size("a") - 2048), 0);
		r = check("a", IMG_REPAIR_ALL);
		cr_assert(r.corruptions == 1 && !r.corruptions_fixed);
		r = check("a", IMG_REPAIR_ALL | IMG_REPAIR_LOSS);
		cr_assert(!r.corruptions && r.corruptions_fixed == 1);
		memset(model + 5 * 4096 + 2048, 0, 2048);
		sound("a");
		reads_as("a", model, MIB);
		cr_assert_eq(truncate("a", 1000), 0);
		must_fail("a", &(struct img_open_options){ .format = "parallels" },
			  &(const char *){ NULL });
	}
	free(model);
}

Test(parallels, unaligned)
{
	uint8_t *model = malloc(MIB);
	struct img_check_result r;
	uint32_t second;

	damaged("a", true, model);
	second = entry("a", 1);
	set_entry("a", 1, second + 3); /* the later part of it, and the beginning of the third */
	memset(model + 4096 + 5 * 512, 3, 3 * 512);
	not_written("a", "not aligned");
	r = check("a", 0);
	cr_assert_eq(r.corruptions, 1);
	r = check("a", IMG_REPAIR_ALL);
	cr_assert(!r.corruptions && r.corruptions_fixed == 1);
	sound("a");
	reads_as("a", model, MIB);
	free(model);
}

/* A cluster in front of the data would be written over by a BAT that grows. */
Test(parallels, before_the_data)
{
	uint8_t *model = malloc(MIB);
	struct img_check_result r;

	for (int old = 0; old < 2; old++) {
		damaged("a", old, model);
		patch_le("a", DATA_OFF_AT, entry("a", 1) * (old ? 1 : 8), 4);
		not_written("a", "in front of the data");
		r = check("a", 0);
		cr_assert_eq(r.corruptions, 1);
		r = check("a", IMG_REPAIR_ALL);
		cr_assert(!r.corruptions && r.corruptions_fixed == 1);
		sound("a");
		reads_as("a", model, MIB);
	}
	free(model);
}

/* Entries that lead into the header or the BAT lead to no data. */
Test(parallels, in_the_table)
{
	uint8_t *model = malloc(MIB);
	struct img_check_result r;

	damaged("a", true, model);
	set_entry("a", 1, 1);
	not_written("a", "where the header and the BAT are");
	r = check("a", IMG_REPAIR_ALL);
	cr_assert(r.corruptions == 1);
	r = check("a", IMG_REPAIR_ALL | IMG_REPAIR_LOSS);
	cr_assert(!r.corruptions);
	memset(model + 4096, 0, 4096);
	sound("a");
	reads_as("a", model, MIB);
	free(model);
}

Test(parallels, header_repaired)
{
	static const struct {
		size_t off;
		uint32_t value;
	} rows[] = { { DATA_OFF_AT, 1 }, { DATA_OFF_AT, 1 << 20 }, { FLAGS_AT, 1 } };
	uint8_t *model = malloc(MIB);
	struct img_check_result r;

	for (size_t i = 0; i < COUNT(rows); i++) {
		damaged("a", false, model);
		patch_le("a", rows[i].off, rows[i].value, 4);
		r = check("a", 0);
		cr_assert_eq(r.corruptions, 1, "row %zu", i);
		r = check("a", IMG_REPAIR_ALL);
		cr_assert(!r.corruptions && r.corruptions_fixed == 1);
		sound("a");
		reads_as("a", model, MIB);
	}
	free(model);
}

/* ---- Other sizes ---- */

Test(parallels, resized)
{
	make_new("a", SIZE, NULL);
	resize_around("a", SIZE, 400 * MIB, NULL);
	make_new("b", SIZE, "cluster_size=512"); /* its BAT moves clusters away */
	resize_around("b", SIZE, 40 * MIB, NULL);
	make_new("c", SIZE, "cluster_size=32256");
	resize_around("c", SIZE, 400 * MIB, NULL);
	make_old("d", SIZE, 63);
	resize_around("d", SIZE, 400 * MIB, NULL);
	make_old("e", SIZE, 8);
	resize_around("e", SIZE, 40 * MIB, NULL);
}

/* Where the header names no data offset clusters may be aligned to something else than the BAT's
 * end: the offset that a new size names is true of them. */
Test(parallels, resized_without_data_offset)
{
	const uint64_t sizes[] = { MIB / 2, MIB / 4, MIB, 9 * MIB };
	uint8_t *model = calloc(1, 9 * MIB), bytes[4096];

	for (size_t i = 0; i < COUNT(sizes); i++) {
		struct img *img;

		memset(model, 0, 9 * MIB);
		memset(model + 5 * 4096, 1, 4096);
		memset(bytes, 1, sizeof(bytes));
		make_old("a", MIB, 8);
		cr_assert_eq(truncate("a", 2 * 4096), 0);
		patch("a", 4096, bytes, sizeof(bytes));
		set_entry("a", 5, 4096 / SECTOR);
		sound("a");
		img = must_open("a", "parallels", IMG_OPEN_WRITE);
		resize(img, sizes[i]);
		put(img, 9 * 4096, 100, 2, model);
		must_close(img);
		sound("a");
		img = must_open("a", "parallels", IMG_OPEN_WRITE);
		put(img, 20 * 4096, 100, 3, model);
		must_close(img);
		sound("a");
		reads_as("a", model, sizes[i]);
	}
	free(model);
}

/* Of the last cluster the file may have no more than the disk does; one that grows has all of it. */
Test(parallels, last_cluster_is_short)
{
	enum { DISK = 9 * 4096 + 512 };
	uint8_t *model = calloc(1, MIB);
	struct img *img;

	for (int old = 0; old < 2; old++) {
		memset(model, 0, MIB);
		if (old)
			make_old("a", DISK, 8);
		else
			make_new("a", DISK, "cluster_size=4k");
		img = must_open("a", "parallels", IMG_OPEN_WRITE);
		put(img, 0, 4096, 1, model);
		put(img, 9 * 4096, 512, 2, model);
		must_close(img);
		cr_assert_eq(truncate("a", (off_t)entry("a", 9) * (old ? 512 : 4096) + 512), 0);
		sound("a");
		img = must_open("a", "parallels", IMG_OPEN_WRITE);
		resize(img, MIB);
		must_close(img);
		sound("a");
		reads_as("a", model, MIB);
	}
	free(model);
}

/* What is cut off leaves the file. */
Test(parallels, shrunk_file)
{
	uint8_t *model = calloc(1, SIZE);
	struct img *img;

	for (int old = 0; old < 2; old++) {
		memset(model, 0, SIZE);
		if (old)
			make_old("a", SIZE, 63);
		else
			make_new("a", SIZE, NULL);
		img = must_open("a", "parallels", IMG_OPEN_WRITE);
		put(img, 0, SIZE, 1, model);
		cr_assert_eq(img_flush(img, NULL), 0);
		cr_assert_gt(file_size("a"), SIZE);
		resize(img, MIB);
		must_close(img);
		cr_assert_leq(file_size("a"), 3 * MIB);
		reads_as("a", model, MIB);
		sound("a");
	}
	free(model);
}

Test(parallels, size_limits)
{
	struct img *img;

	make_old("a", MIB, 63);
	img = must_open("a", "parallels", IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, (uint64_t)UINT32_MAX * 512 + 512, IMG_PREALLOCATE_OFF, NULL),
		     -EFBIG);
	must_close(img);
	img = must_open("a", "parallels", 0);
	cr_assert_eq(img_size(img), MIB);
	must_close(img);
	sound("a");
}
