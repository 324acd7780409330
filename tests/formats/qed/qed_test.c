/*
 * What QED images read as, what is made, how they are written to, and whom they take for their parents.
 */
#include "tests/formats/qed/plain.h"

TestSuite(qed, .init = folder_make, .fini = folder_remove);

enum { SIZE = 3 * MIB + 512 };

#define DATA(i) (FIRST + (uint64_t)(i)*CLUSTER)
static const uint64_t some[] = { DATA(2), 0, DATA(0), 1, DATA(1) };

static void make_some(struct plain p)
{
	p.in_file = 3;
	p.entries = some;
	p.entry_count = COUNT(some);
	make_plain("a", &p);
}

static void model_of_some(uint8_t *model)
{
	memset(model, 3, CLUSTER);
	memset(model + 2 * CLUSTER, 1, CLUSTER);
	memset(model + 4 * CLUSTER, 2, CLUSTER);
}

/* ---- Reading ---- */

Test(qed, clusters_where_the_tables_say)
{
	static uint8_t model[64 * CLUSTER];

	model_of_some(model);
	make_some((struct plain){ 0 });
	reads_as("a", model, sizeof(model));
	sound("a");
}

/* Where there is nothing it is the backing file, but for clusters of zeroes, and behind its end. */
Test(qed, over_a_shorter_backing_file)
{
	static uint8_t model[64 * CLUSTER], under[64 * CLUSTER], below[10 * CLUSTER + 512];

	memset(below, 9, sizeof(below));
	/* looks like another format, and is raw all the same */
	memcpy(below, "QFI\xfb\0\0\0\3", 8);
	make_file("base", below, sizeof(below), sizeof(below));
	memcpy(model, below, sizeof(below));
	model_of_some(model);
	memset(model + 3 * CLUSTER, 0, CLUSTER);
	make_some((struct plain){ .features = BACKING | BACKING_RAW, .backing = "base" });
	memcpy(under, below, sizeof(below));
	reads_over("a", model, sizeof(model), under);
}

/* Features that are not known are refused where they matter, and cleared where a change makes them untrue. */
Test(qed, unknown_features)
{
	struct img_open_options o = { .format = "qed" };
	const char *text;
	struct img *img;
	static uint8_t model[64 * CLUSTER];

	make_some((struct plain){ .features = 8 });
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "features are 0x8"), "%s", text);
	make_some((struct plain){ .autoclear = 0x11 });
	must_close(must_open("a", "qed", IMG_OPEN_WRITE));
	cr_assert_eq(at64("a", 32), 0x11);
	model_of_some(model);
	img = must_open("a", "qed", IMG_OPEN_WRITE);
	put(img, 0, 512, 7, model); /* in place */
	must_close(img);
	cr_assert_eq(at64("a", 32), 0);
	reads_as("a", model, sizeof(model));
	/* a marked image is repaired when it is opened */
	make_some((struct plain){ .features = NEED_CHECK, .autoclear = 0x11 });
	must_close(must_open("a", "qed", IMG_OPEN_WRITE));
	cr_assert(!at64("a", 16) && !at64("a", 32));
}

static void refused(uint64_t off, uint32_t value, const char *word)
{
	struct img_open_options o = { .format = "qed" };
	uint8_t bytes[4];
	const char *text;

	make_some((struct plain){ .features = BACKING, .backing = "base" });
	le32_store(bytes, value);
	patch("a", off, bytes, sizeof(bytes));
	must_fail("a", &o, &text);
	cr_assert(strstr(text, word), "%s", text);
}

Test(qed, headers_that_are_refused)
{
	refused(4, 2048, "cluster size is 2048");
	refused(4, 12288, "cluster size is 12288");
	refused(4, 128 << 20, "cluster size");
	refused(8, 0, "table size is 0");
	refused(8, 3, "table size is 3");
	refused(8, 32, "table size is 32");
	refused(12, 0, "header size is 0");
	refused(12, 2, "L1 table offset is 4096");
	refused(12, UINT32_MAX, "header size");
	refused(40, CLUSTER + 512, "L1 table offset");
	refused(40, 1 << 30, "truncated");
	refused(44, UINT32_MAX, "L1 table offset");
	refused(48, 511, "image size is 511");
	refused(52, 1, "image size"); /* 4 GiB, more than the tables cover */
	refused(56, 8, "backing file name offset is 8");
	refused(60, 4096, "backing file name ends at");
	refused(60, UINT32_MAX, "backing file name");
}

/* ---- Writing ---- */

Test(qed, writes)
{
	static uint8_t model[64 * CLUSTER];
	struct img *img;

	make_some((struct plain){ 0 });
	model_of_some(model);
	img = must_open("a", "qed", IMG_OPEN_WRITE);
	put(img, CLUSTER - 700, 1500, 0x41, model);   /* old and new */
	put(img, 3 * CLUSTER + 100, 10, 0x42, model); /* over zeroes */
	put(img, 64 * CLUSTER - 512, 512, 0x43, model);
	must_close(img);
	reads_as("a", model, sizeof(model));
	sound("a");
}

/* The mark comes before what is allocated, only then, and goes when the image is closed. */
Test(qed, need_check)
{
	static uint8_t model[64 * CLUSTER];
	struct img *img;

	make_some((struct plain){ 0 });
	model_of_some(model);
	img = must_open("a", "qed", IMG_OPEN_WRITE);
	cr_assert_eq(at64("a", 16), 0);
	put(img, 100, 100, 7, model);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(at64("a", 16), 0, "a write in place needs none");
	put(img, CLUSTER, 100, 7, model);
	cr_assert_eq(at64("a", 16), NEED_CHECK);
	/* read-only and back */
	cr_assert_eq(img_set_writable(img, false, NULL), 0);
	cr_assert_eq(at64("a", 16), 0);
	cr_assert_eq(img_set_writable(img, true, NULL), 0);
	cr_assert_eq(img_zero(img, 10 * CLUSTER, CLUSTER, NULL), 0);
	put(img, 5 * CLUSTER, 100, 7, model);
	cr_assert_eq(at64("a", 16), NEED_CHECK);
	must_close(img);
	reads_as("a", model, sizeof(model));
	/* with a backing file the order of writes does it */
	make_file("base", "", 0, CLUSTER);
	make_some((struct plain){ .features = BACKING | BACKING_RAW, .backing = "base" });
	img = must_open("a", "qed", IMG_OPEN_WRITE);
	put(img, CLUSTER, 100, 7, model);
	cr_assert_eq(at64("a", 16), BACKING | BACKING_RAW);
	must_close(img);
}

/* Clusters and tables that are given up leave no gaps when it is closed. */
Test(qed, discards)
{
	for (unsigned table = 1; table <= 4; table *= 4) {
		uint8_t *model = calloc(1, SIZE);
		struct img *img;
		struct stat st;
		char options[60];

		snprintf(options, sizeof(options), "cluster_size=4k,table_size=%u", table);
		make("a", SIZE, options, NULL, NULL);
		img = must_open("a", "qed", IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
		for (unsigned i = 0; i < 48; i++) /* the second table of 2 MiB comes late */
			put(img, i * 64 * KIB, 64 * KIB, (uint8_t)(i + 1), model);
		cr_assert_eq(img_discard(img, 128 * KIB, MIB, NULL), 0);
		memset(model + 128 * KIB, 0, MIB);
		cr_assert_eq(img_discard(img, 2 * MIB + 100, 192 * KIB, NULL), 0);
		cr_assert_eq(img_zero(img, 2 * MIB + 100, 192 * KIB, NULL), 0);
		memset(model + 2 * MIB + 100, 0, 192 * KIB);
		put(img, 3 * MIB, 512, 0x77, model);
		must_close(img);
		reads_as("a", model, SIZE);
		sound("a");
		cr_assert_eq(stat("a", &st), 0);
		cr_assert_leq(st.st_size, (32 * 16 - 47 + 2 + 8 * table) * CLUSTER);
		free(model);
	}
}

/* All but what comes last in the file is given up, tables included: they move down past each other. */
Test(qed, tables_move)
{
	enum { TABLES = 12 };
	const uint64_t span = 2 * MIB, size = TABLES * span;
	uint8_t *model = calloc(1, size);
	struct img *img;
	struct stat st;

	for (unsigned first = 0; first < 4; first++) {
		memset(model, 0, size);
		make("a", size, "cluster_size=4k,table_size=1", NULL, NULL);
		img = must_open("a", "qed", IMG_OPEN_WRITE);
		for (unsigned i = 0; i < TABLES; i++)
			put(img, i * span, (i + 1) * CLUSTER, (uint8_t)(i + 1), model);
		for (unsigned i = first; i < TABLES - 1; i++) {
			uint64_t len = (i + 1) * CLUSTER;

			cr_assert_eq(img_discard(img, i * span, len, NULL), 0);
			memset(model + i * span, 0, len);
		}
		must_close(img);
		reads_as("a", model, size);
		sound("a");
		cr_assert_eq(stat("a", &st), 0);
		cr_assert_eq(st.st_size, (2 + TABLES + first * (first + 1) / 2 + TABLES) * CLUSTER);
	}
	free(model);
}

/* More clusters than move between two syncs. */
Test(qed, many_gaps)
{
	enum { CLUSTERS = 10000 };
	const uint64_t size = (uint64_t)CLUSTERS * CLUSTER;
	uint8_t *model = calloc(1, size);
	struct img *img;

	make("a", size, "cluster_size=4k,table_size=4", NULL, NULL);
	img = must_open("a", "qed", IMG_OPEN_WRITE | IMG_OPEN_UNSAFE);
	for (unsigned i = 0; i < CLUSTERS; i += 100)
		put(img, (uint64_t)i * CLUSTER, 100 * CLUSTER, (uint8_t)(i / 100 + 1), model);
	for (unsigned i = 0; i < CLUSTERS; i += 2) {
		cr_assert_eq(img_discard(img, (uint64_t)i * CLUSTER, CLUSTER, NULL), 0);
		memset(model + (uint64_t)i * CLUSTER, 0, CLUSTER);
	}
	must_close(img);
	reads_as("a", model, size);
	sound("a");
	free(model);
}

/* Tables that are too large for the cache of metadata. */
Test(qed, large_tables)
{
	const uint64_t size = (uint64_t)6 << 40, far = (uint64_t)5 << 40;
	uint8_t bytes[1000] = { 1, 2, 3 }, got[1000];
	struct img *img;

	make("a", size, "cluster_size=1M,table_size=16", NULL, NULL);
	img = must_open("a", "qed", IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, far, bytes, sizeof(bytes), NULL), 0);
	cr_assert_eq(img_zero(img, 4096, 4096, NULL), 0);
	cr_assert_eq(img_write(img, size - 1000, bytes, sizeof(bytes), NULL), 0);
	must_close(img);
	sound("a");
	img = must_open("a", "qed", 0);
	cr_assert(!img_read(img, far, got, sizeof(got), NULL) && !memcmp(got, bytes, sizeof(got)));
	cr_assert(!img_read(img, size - 1000, got, sizeof(got), NULL) &&
		  !memcmp(got, bytes, sizeof(got)));
	must_close(img);
}

/* ---- Creating ---- */

Test(qed, created_as_asked)
{
	static const struct {
		const char *options;
		uint32_t cluster, table;
	} made[] = {
		{ NULL, 64 * KIB, 4 },
		{ "cluster_size=4k", 4 * KIB, 4 },
		{ "cluster_size=64M", 64 * MIB, 4 },
		{ "table_size=1", 64 * KIB, 1 },
		{ "cluster_size=1M,table_size=16", MIB, 16 },
	};
	static const char *const not [] = { "cluster_size=2k", "cluster_size=128M", "cluster_size=5000",
					    "table_size=0", "table_size=3", "table_size=32",
					    "cluster_size=4k,table_size=1" };
	const char *text;

	for (size_t i = 0; i < COUNT(made); i++) {
		struct img *img;

		make("a", SIZE, made[i].options, NULL, NULL);
		cr_assert_eq(at64("a", 4), made[i].cluster | (uint64_t)made[i].table << 32, "%s", made[i].options);
		cr_assert_eq(at64("a", 48), SIZE);
		img = must_open("a", "qed", 0);
		cr_assert_eq(img_size(img), SIZE);
		cr_assert_eq(img_unit_bytes(img), made[i].cluster);
		must_close(img);
		sound("a");
	}
	for (size_t i = 0; i < COUNT(not ); i++) /* the last one is too large for its tables */
		cr_assert_neq(make("b", (uint64_t)5 << 30, not [i], NULL, &text), 0, "%s", not [i]);
	cr_assert(strstr(text, "expected at most 1073741824"), "%s", text);
	cr_assert_eq(access("b", F_OK), -1);
}

/* ---- Resizing ---- */

Test(qed, resized)
{
	make("a", 4 * MIB, "cluster_size=4k,table_size=1", NULL, NULL);
	resize_around("a", 4 * MIB, 40 * MIB, NULL);
	make("a", 4 * MIB, NULL, NULL, NULL);
	resize_around("a", 4 * MIB, 40 * MIB, NULL);
}

Test(qed, not_resized)
{
	struct img_error *err = img_error_new();
	struct img *img;

	make("a", 4 * MIB, "cluster_size=4k,table_size=1", NULL, NULL);
	img = must_open("a", "qed", IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, ((uint64_t)1 << 30) + 512, IMG_PREALLOCATE_OFF, err), -EFBIG);
	cr_assert(strstr(img_error_text(err), "expected at most 1073741824"), "%s", img_error_text(err));
	cr_assert_eq(img_resize(img, 8 * MIB, IMG_PREALLOCATE_FULL, err), -ENOTSUP);
	cr_assert_eq(img_size(img), 4 * MIB);
	must_close(img);
	img_error_free(err);
}

/* ---- Parents ---- */

/* Names one after the other, each where the one before is not; raw is stored, other formats are not. */
Test(qed, other_backing_files)
{
	static const struct {
		const char *name, *format;
	} rows[] = { { "base", "raw" }, { "a-much-longer-name-than-it-was", NULL }, { "b", "qed" }, { NULL, NULL }, { "base", NULL }, { "base", "raw" } };
	char longest[1024], longer[1025];
	struct img *img;

	make("b", SIZE, NULL, NULL, NULL);
	make("a", SIZE, "cluster_size=4k", "b", NULL);
	for (size_t i = 0; i < COUNT(rows); i++) {
		bool raw = rows[i].format && !strcmp(rows[i].format, "raw");
		uint64_t at, old_at = at64("a", 56);
		struct bytes old = load("a"), b;

		img = must_open("a", "qed", IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
		cr_assert_eq(img_set_backing_name(img, rows[i].name, rows[i].format, NULL), 0, "%zu", i);
		must_close(img);
		cr_assert_eq(at64("a", 16), rows[i].name ? (raw ? BACKING | BACKING_RAW : BACKING) : 0, "%zu", i);
		at = at64("a", 56);
		b = load("a");
		if (rows[i].name)
			cr_assert(at >> 32 == strlen(rows[i].name) &&
				  !memcmp(b.at + (uint32_t)at, rows[i].name, at >> 32));
		/* A power cut leaves the old name or the new one: so they do not touch. */
		if (rows[i].name)
			cr_assert(!memcmp(b.at + (uint32_t)old_at, old.at + (uint32_t)old_at, old_at >> 32), "%zu", i);
		free(old.at);
		free(b.at);
	}
	memset(longest, 'x', sizeof(longest));
	longest[1023] = 0;
	memset(longer, 'x', sizeof(longer));
	longer[1024] = 0;
	img = must_open("a", "qed", IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
	cr_assert_eq(img_set_backing_name(img, longer, NULL, NULL), -EINVAL);
	for (unsigned i = 0; i < 5; i++, longest[0]++)
		cr_assert_eq(img_set_backing_name(img, longest, NULL, NULL), 0, "%u", i);
	cr_assert_eq(img_set_backing_name(img, "b", NULL, NULL), 0);
	must_close(img);
	sound("a");
}

/* Given up as a whole, it is its parent, and as small as it was made. */
Test(qed, emptied)
{
	uint8_t *model = calloc(1, SIZE);
	struct stat before, after;
	struct img *img;

	make("b", SIZE, NULL, NULL, NULL);
	make("a", SIZE, "cluster_size=4k", "b", NULL);
	cr_assert_eq(stat("a", &before), 0);
	img = must_open("a", "qed", IMG_OPEN_WRITE);
	put(img, 1000, MIB, 3, model);
	cr_assert_eq(img_make_empty(img, NULL), 0);
	memset(model, 0, SIZE);
	put(img, 5000, 5, 4, model);
	cr_assert_eq(img_make_empty(img, NULL), 0);
	must_close(img);
	cr_assert(!stat("a", &after) && after.st_size == before.st_size);
	memset(model, 0, SIZE);
	reads_as("a", model, SIZE);
	free(model);
}
