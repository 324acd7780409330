/*
 * The format extension: what is kept beside a change, what goes, and what forbids it.
 */
#include <openssl/evp.h>

#include "tests/formats/parallels/plain.h"

TestSuite(parallels_extension, .init = folder_make, .fini = folder_remove);

enum {
	SIZE = 1024 * KIB,
	CLUSTER = 4 * KIB,
	AT = 3 * CLUSTER, /* in the file, behind two clusters of the disk */
};

static const uint64_t magic = 0xab234cef23dcea87, bitmap = 0x20385fae252cb34a, unknown = 0x1234567;
enum { NECESSARY = 1,
       TRANSIT = 2 };

struct section {
	uint64_t magic, flags;
	uint32_t bytes;
};

static void seal(uint8_t cluster[CLUSTER])
{
	unsigned n;

	cr_assert(EVP_Digest(cluster + 24, CLUSTER - 24, cluster + 8, &n, EVP_md5(), NULL) == 1);
}

static void store(uint8_t *p, uint64_t value, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		p[i] = (uint8_t)(value >> 8 * i);
}

/* An image with data in its first two clusters, and an extension with these sections (up to a magic
 * of 0). */
static void make_extended(const char *name, const struct section *sections, uint8_t *model)
{
	uint8_t cluster[CLUSTER] = { 0 }, *s = cluster + 24;
	struct img *img;

	make_new(name, SIZE, "cluster_size=4k");
	img = must_open(name, "parallels", IMG_OPEN_WRITE);
	memset(model, 0, SIZE);
	put(img, 0, 2 * CLUSTER, 5, model);
	must_close(img);
	cr_assert_eq(file_size(name), AT);
	store(cluster, magic, 8);
	for (; sections->magic; sections++) {
		store(s, sections->magic, 8);
		store(s + 8, sections->flags, 8);
		store(s + 16, sections->bytes, 4);
		memset(s + 24, 0x77, sections->bytes);
		if (sections->magic == bitmap) {
			store(s + 24, SIZE / SECTOR, 8);
			store(s + 48, 128, 4);
			store(s + 52, 1, 4);
			store(s + 56, 1, 8);
		}
		s += 24 + (sections->bytes + 7) / 8 * 8;
	}
	seal(cluster);
	cr_assert_eq(truncate(name, AT + CLUSTER), 0);
	patch(name, AT, cluster, sizeof(cluster));
	patch_le(name, EXTENSION_AT, AT / SECTOR, 8);
	sound(name);
	reads_as(name, model, SIZE);
}

/* Which unknown sections, by their length, and that the checksum is right. */
static void holds(const char *name, const uint32_t *lengths, size_t count)
{
	uint64_t at = peek_le(name, EXTENSION_AT, 8) * SECTOR;
	uint8_t cluster[CLUSTER], sealed[CLUSTER], *s = cluster + 24;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	cr_assert_gt(at, 0);
	cr_assert_eq(pread(fd, cluster, CLUSTER, (off_t)at), CLUSTER);
	close(fd);
	memcpy(sealed, cluster, CLUSTER);
	seal(sealed);
	cr_assert(le(cluster, 8) == magic && !memcmp(sealed, cluster, CLUSTER));
	for (size_t i = 0; i < count; i++) {
		cr_assert_eq(le(s, 8), unknown);
		cr_assert_eq(le(s + 16, 4), lengths[i]);
		for (uint32_t b = 0; b < lengths[i]; b++)
			cr_assert_eq(s[24 + b], 0x77);
		s += 24 + (lengths[i] + 7) / 8 * 8;
	}
	cr_assert_eq(le(s, 8), 0);
}

/* Room for many clusters is needed, and given back: none of it is where the extension is. */
static void change(const char *name, uint8_t *model)
{
	struct img *img = must_open(name, "parallels", IMG_OPEN_WRITE);

	put(img, 20 * CLUSTER, 10 * CLUSTER, 6, model);
	cr_assert_eq(img_discard(img, 22 * CLUSTER, 4 * CLUSTER, NULL), 0);
	memset(model + 22 * CLUSTER, 0, 4 * CLUSTER);
	cr_assert_eq(img_flush(img, NULL), 0);
	put(img, 40 * CLUSTER, 10 * CLUSTER, 7, model);
	must_close(img);
	sound(name);
	reads_as(name, model, SIZE);
}

/* Nothing tells of it any more. */
static void gone(const char *name)
{
	cr_assert_eq(peek_le(name, EXTENSION_AT, 8), 0);
}

static uint8_t model[SIZE];

/* A dirty bitmap does not know what we write. */
Test(parallels_extension, bitmap_goes)
{
	static const struct section sections[] = { { bitmap, 0, 40 },
						   { bitmap, TRANSIT, 40 },
						   { 0 } };

	make_extended("a", sections, model);
	must_close(must_open("a", "parallels", IMG_OPEN_WRITE));
	cr_assert_eq(peek_le("a", EXTENSION_AT, 8), AT / SECTOR); /* nothing was written */
	change("a", model);
	gone("a");
}

Test(parallels_extension, unknown)
{
	static const struct section sections[] = { { unknown, TRANSIT, 5 },
						   { bitmap, 0, 40 },
						   { unknown, 0, 16 },
						   { unknown, TRANSIT, 24 },
						   { 0 } };
	static const uint32_t kept[] = { 5, 24 };

	make_extended("a", sections, model);
	change("a", model);
	holds("a", kept, 2);
	change("a", model);
	holds("a", kept, 2);
}

/* What it refers to may lie anywhere: no cluster that the BAT does not name is free, be it in front of it. */
Test(parallels_extension, what_it_refers_to)
{
	static const struct section sections[] = { { unknown, TRANSIT, 5 }, { 0 } };
	static const uint32_t kept[] = { 5 };
	uint8_t theirs[CLUSTER], got[CLUSTER];
	struct bytes b;

	make_extended("a", sections, model);
	b = load("a");
	memset(theirs, 0x33, sizeof(theirs));
	cr_assert_eq(truncate("a", AT + 2 * CLUSTER), 0);
	patch("a", AT + CLUSTER, b.at + AT, CLUSTER);
	patch("a", AT, theirs, CLUSTER);
	patch_le("a", EXTENSION_AT, (AT + CLUSTER) / SECTOR, 8);
	free(b.at);
	sound("a");
	change("a", model);
	holds("a", kept, 1);
	b = load("a");
	memcpy(got, b.at + AT, CLUSTER);
	cr_assert_arr_eq(got, theirs, CLUSTER);
	free(b.at);
}

Test(parallels_extension, nothing_kept)
{
	static const struct section sections[] = { { unknown, 0, 5 }, { 0 } };

	make_extended("a", sections, model);
	change("a", model);
	gone("a");
}

Test(parallels_extension, necessary)
{
	static const struct section sections[] = { { unknown, TRANSIT, 8 },
						   { unknown, NECESSARY | TRANSIT, 5 },
						   { 0 } };
	struct img_open_options o = { .format = "parallels", .flags = IMG_OPEN_WRITE };
	const char *text;

	make_extended("a", sections, model);
	cr_assert_eq(must_fail("a", &o, &text), -ENOTSUP);
	cr_assert(strstr(text, "must not be written"), "%s", text);
	reads_as("a", model, SIZE);
}

/* Whoever left another mark did not keep it up to date. */
Test(parallels_extension, outdated)
{
	static const struct section sections[] = { { unknown, NECESSARY, 5 }, { 0 } };
	struct img_check_result r;

	make_extended("a", sections, model);
	patch_le("a", IN_USE_AT, 0, 4);
	change("a", model);
	gone("a");
	make_extended("a", sections, model);
	patch_le("a", IN_USE_AT, in_use, 4);
	r = check("a", IMG_REPAIR_ALL);
	cr_assert(!r.corruptions && r.corruptions_fixed == 1);
	gone("a");
	change("a", model);
}

Test(parallels_extension, damaged)
{
	static const struct section sections[] = { { unknown, TRANSIT, 5 }, { 0 } };
	static const struct {
		uint64_t off, value;
		unsigned n;
	} rows[] = {
		{ AT, 0, 8 },				  /* the magic */
		{ AT + 8, 0, 8 },			  /* the MD5 */
		{ AT + 100, 1, 1 },			  /* what it is of */
		{ EXTENSION_AT, AT / SECTOR + 8, 8 },	  /* behind the end */
		{ EXTENSION_AT, UINT64_MAX / SECTOR, 8 }, /* far behind */
		{ EXTENSION_AT, UINT64_C(1) << 55, 8 },	  /* around and back to the start */
		{ EXTENSION_AT, AT / SECTOR - 1, 8 },	  /* between clusters */
		{ EXTENSION_AT, 1, 8 },			  /* in the BAT */
	};
	struct img_check_result r;

	for (size_t i = 0; i < COUNT(rows); i++) {
		make_extended("a", sections, model);
		patch_le("a", rows[i].off, rows[i].value, rows[i].n);
		reads_as("a", model, SIZE);
		r = check("a", 0);
		cr_assert_eq(r.corruptions, 1, "row %zu", i);
		r = check("a", IMG_REPAIR_ALL);
		cr_assert(!r.corruptions && r.corruptions_fixed == 1, "row %zu", i);
		gone("a");
		change("a", model);
		make_extended("a", sections, model);
		patch_le("a", rows[i].off, rows[i].value, rows[i].n);
		change("a", model);
		gone("a");
	}
}

/* An entry that leads to the extension would have it read, and written over, as data. */
Test(parallels_extension, shared)
{
	static const struct section sections[] = { { unknown, TRANSIT, 5 }, { 0 } };
	static const uint32_t kept[] = { 5 };
	struct img_open_options o = { .format = "parallels", .flags = IMG_OPEN_WRITE };
	struct img_check_result r;
	const char *text;
	struct img *img;

	make_extended("a", sections, model);
	set_entry("a", 9, AT / CLUSTER);
	cr_assert_eq(must_fail("a", &o, &text), -EUCLEAN);
	cr_assert(strstr(text, "already"), "%s", text);
	r = check("a", 0);
	cr_assert_eq(r.corruptions, 1);
	r = check("a", IMG_REPAIR_ALL);
	cr_assert(!r.corruptions && r.corruptions_fixed == 1);
	img = must_open("a", "parallels", 0);
	cr_assert_eq(img_read(img, 9 * CLUSTER, model + 9 * CLUSTER, CLUSTER, NULL), 0);
	cr_assert_eq(le(model + 9 * CLUSTER, 8), magic);
	must_close(img);
	change("a", model);
	holds("a", kept, 1);
}

/* Sections that do not end, or go on behind the cluster. */
Test(parallels_extension, endless)
{
	uint8_t cluster[CLUSTER] = { 0 };

	make_extended("a", (struct section[]){ { 0 } }, model);
	store(cluster, magic, 8);
	store(cluster + 24, unknown, 8);
	store(cluster + 40, CLUSTER - 47, 4);
	seal(cluster);
	patch("a", AT, cluster, sizeof(cluster));
	cr_assert_eq(check("a", 0).corruptions, 1);
	store(cluster + 40, 0xffffffff, 4);
	seal(cluster);
	patch("a", AT, cluster, sizeof(cluster));
	cr_assert_eq(check("a", 0).corruptions, 1);
}

/* More to be kept than can be: refused before anything is changed, or the next one to write would
 * remove it as outdated. */
Test(parallels_extension, long)
{
	const uint32_t cluster = 4096 * KIB;
	struct img_open_options o = { .format = "parallels", .flags = IMG_OPEN_WRITE };
	uint8_t *bytes = calloc(1, cluster);
	unsigned n;
	const char *text;

	make_new("a", 2 * (uint64_t)cluster, "cluster_size=4M");
	store(bytes, magic, 8);
	store(bytes + 24, unknown, 8);
	store(bytes + 32, TRANSIT, 8);
	store(bytes + 40, 2048 * KIB, 4);
	cr_assert(EVP_Digest(bytes + 24, cluster - 24, bytes + 8, &n, EVP_md5(), NULL) == 1);
	cr_assert_eq(truncate("a", 2 * (off_t)cluster), 0);
	patch("a", cluster, bytes, cluster);
	patch_le("a", EXTENSION_AT, cluster / SECTOR, 8);
	sound("a");
	cr_assert_eq(must_fail("a", &o, &text), -ENOTSUP);
	cr_assert(strstr(text, "sections to be kept"), "%s", text);
	cr_assert_eq(peek_le("a", IN_USE_AT, 4), closed);
	free(bytes);
}

/* Clusters cannot move where something unknown may lead to them. */
Test(parallels_extension, resized)
{
	static const struct section sections[] = { { unknown, TRANSIT, 5 },
						   { bitmap, 0, 40 },
						   { 0 } };
	static const uint32_t kept[] = { 5 };
	struct img *img;

	make_extended("a", sections, model);
	img = must_open("a", "parallels", IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, SIZE / 2, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_resize(img, SIZE, IMG_PREALLOCATE_OFF, NULL), 0);
	memset(model + SIZE / 2, 0, SIZE / 2);
	cr_assert_eq(img_resize(img, (uint64_t)SIZE * 100, IMG_PREALLOCATE_OFF, NULL), -ENOTSUP);
	cr_assert_eq(img_size(img), SIZE);
	must_close(img);
	holds("a", kept, 1);
	change("a", model);
}

/* Nothing is written beside a section that forbids it, not by a repair either; all is reported. */
Test(parallels_extension, necessary_and_damaged)
{
	static const struct section sections[] = { { unknown, NECESSARY, 5 }, { 0 } };
	static const unsigned repairs[] = { 0, IMG_REPAIR_LEAKS, IMG_REPAIR_ALL,
					    IMG_REPAIR_ALL | IMG_REPAIR_LOSS };
	struct img_check_result r;
	struct bytes before, after;

	make_extended("a", sections, model);
	r = check("a", IMG_REPAIR_ALL);
	cr_assert(!r.corruptions && !r.corruptions_fixed);
	set_entry("a", 9, 1);	 /* as the first one */
	set_entry("a", 10, 100); /* out of the file */
	patch_le("a", FLAGS_AT, 1, 4);
	before = load("a");
	for (size_t i = 0; i < COUNT(repairs); i++) {
		r = check("a", repairs[i]);
		cr_assert_eq(r.corruptions, 3);
		cr_assert(!r.corruptions_fixed && !r.leaks_fixed);
		after = load("a");
		cr_assert(before.len == after.len && !memcmp(before.at, after.at, before.len));
		free(after.at);
	}
	free(before.at);
}

/* What was lost is zeroes from now on, of which a bitmap knows nothing: it goes. Other repairs keep it. */
Test(parallels_extension, loss)
{
	static const struct section bitmaps[] = { { bitmap, 0, 40 }, { 0 } };
	static const struct section both[] = { { bitmap, 0, 40 }, { unknown, TRANSIT, 5 }, { 0 } };
	static const uint32_t kept[] = { 5 };
	struct img_check_result r;

	for (int i = 0; i < 2; i++) {
		make_extended("a", i ? both : bitmaps, model);
		set_entry("a", 9, 1);
		r = check("a", IMG_REPAIR_ALL | IMG_REPAIR_LOSS);
		cr_assert(!r.corruptions && r.corruptions_fixed == 1);
		cr_assert_eq(peek_le("a", EXTENSION_AT, 8), AT / SECTOR);
		cr_assert_eq(peek_le("a", AT + 24, 8), bitmap);
		set_entry("a", 10, 100);
		r = check("a", IMG_REPAIR_ALL);
		cr_assert(r.corruptions == 1 && !r.corruptions_fixed);
		cr_assert_eq(peek_le("a", AT + 24, 8), bitmap);
		r = check("a", IMG_REPAIR_ALL | IMG_REPAIR_LOSS);
		cr_assert(!r.corruptions && r.corruptions_fixed == 1);
		if (i)
			holds("a", kept, 1);
		else
			gone("a");
		cr_assert_eq(peek_le("a", IN_USE_AT, 4), closed);
		cr_assert_eq(peek_le("a", EXTENSION_AT, 8), i ? AT / SECTOR : 0);
		r = check("a", 0);
		cr_assert(!r.corruptions && !r.leaks);
		memcpy(model + 9 * CLUSTER, model, CLUSTER);
		sound("a");
		reads_as("a", model, SIZE);
	}
}
