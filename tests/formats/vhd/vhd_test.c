/*
 * VHDs made, written, chained, refused, checked and repaired.
 */
#include "tests/formats/vhd/plain.h"
#include "tests/support/command.h"

TestSuite(vhd, .init = folder_make, .fini = folder_remove);

enum { SIZE = 5 << 20 };

/* The size that qemu-img says it has, by another implementation of the same rules. */
static uint64_t size_by_qemu(const char *name)
{
	char command[300];
	unsigned long long size = 0;
	FILE *f;

	snprintf(command, sizeof(command), "qemu-img info -f vpc --output=json %s | grep virtual-size | tail -1", name);
	f = popen(command, "r");
	cr_assert(f && fscanf(f, " \"virtual-size\": %llu", &size) == 1);
	pclose(f);
	return size;
}

Test(vhd, sizes_as_qemu_img_makes_them)
{
	static const struct {
		const char *options;
		uint64_t size;
	} rows[] = {
		{ NULL, 10 << 20 },
		{ NULL, 512 },
		{ NULL, 127ull << 30 },
		{ NULL, 130ull << 30 },
		{ NULL, 33 << 20 | 1536 },
		{ "force_size=on", 10 << 20 },
		{ "force_size=on", 2040ull << 30 },
		{ "subformat=fixed", 3 << 20 },
		{ "subformat=fixed,force_size=on", 3 << 20 },
	};

	for (size_t i = 0; i < COUNT(rows) && have_qemu(); i++) {
		char command[300];
		struct img *img;
		uint64_t theirs;

		snprintf(command, sizeof(command), "qemu-img create -q -f vpc %s%s t %llu", rows[i].options ? "-o " : "",
			 rows[i].options ? rows[i].options : "", (unsigned long long)rows[i].size);
		run(command);
		theirs = size_by_qemu("t");
		make("o", rows[i].size, rows[i].options, NULL, NULL);
		cr_assert_eq(size_by_qemu("o"), theirs, "row %zu", i);
		img = must_open("o", NULL, 0);
		cr_assert_eq(img_size(img), theirs);
		must_close(img);
		img = must_open("t", "vhd", 0); /* the other name */
		cr_assert_eq(img_size(img), theirs);
		cr_assert_str_eq(img_format(img), "vpc");
		must_close(img);
	}
}

Test(vhd, created_or_refused)
{
	static const struct {
		const char *options, *words;
		uint64_t size;
	} rows[] = {
		{ NULL, "2040 GiB", (2040ull << 30) + 512 },
		{ "subformat=fixed", "2040 GiB", 3ull << 40 },
		{ "block_size=3000", "a power of two", SIZE },
		{ "block_size=1G", "a power of two", SIZE },
		{ "subformat=fixed,block_size=2M", "no blocks", SIZE },
		{ "block_size=4k", "blocks", 2040ull << 30 },
		{ "uuid=abc", "a UUID", SIZE },
		{ "azure=on,subformat=dynamic", "azure", SIZE },
		{ "azure=on,force_size=off", "azure", SIZE },
		{ "preallocation=full", "preallocation", SIZE },
	};
	struct bytes b;
	const char *text;

	for (size_t i = 0; i < COUNT(rows); i++) {
		cr_assert_lt(make("x", rows[i].size, rows[i].options, NULL, &text), 0, "row %zu", i);
		cr_assert(strstr(text, rows[i].words), "%s", text);
		cr_assert_neq(access("x", F_OK), 0);
	}
	/* whole MiB, the exact size, one footer */
	make("x", (3 << 20) + 512, "azure=on,uuid=00112233-4455-6677-8899-aabbccddeeff", NULL, NULL);
	b = load("x");
	cr_assert_eq(b.len, (4 << 20) + 512);
	cr_assert(be(b.at + b.len - 512 + 48, 8) == 4 << 20 && be(b.at + b.len - 512 + 60, 4) == 2);
	cr_assert_eq(be(b.at + b.len - 512 + 68, 8), 0x3322110055447766u);
	free(b.at);
}

static void write_all_kinds(const char *options)
{
	uint8_t *model = calloc(1, SIZE);
	struct img *img;

	make("i", SIZE, options, NULL, NULL);
	img = must_open("i", "vpc", IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
	put(img, 1000, 3000, 1, model);
	put(img, 2 << 20, 2 << 20, 2, model);
	put(img, SIZE - 700, 700, 3, model);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(img_zero(img, 3000, 5000, NULL), 0);
	memset(model + 3000, 0, 5000);
	cr_assert_eq(img_discard(img, 2 << 20, 2 << 20, NULL), 0);
	memset(model + (2 << 20), 0, 2 << 20);
	cr_assert_eq(img_flush(img, NULL), 0);
	put(img, (2 << 20) + 512, 1000, 4, model); /* in the room of what was discarded */
	must_close(img);
	reads_as("i", model, SIZE);
	sound("i");
	if (have_qemu()) {
		make_file("model", model, SIZE, SIZE);
		run("qemu-img compare -q -f vpc -F raw i model");
	}
	free(model);
}

Test(vhd, written)
{
	write_all_kinds("force_size=on");
	write_all_kinds("force_size=on,block_size=4k");
	write_all_kinds("force_size=on,block_size=16M");
	write_all_kinds("force_size=on,subformat=fixed");
}

/* What others lay out without gaps goes on so. */
Test(vhd, theirs_written)
{
	uint8_t *model = calloc(1, SIZE);
	struct img *img;

	if (!have_qemu())
		return;
	run("qemu-img create -q -f vpc -o force_size=on i 5M && qemu-io -f vpc -c 'write -q -P 7 2M 1k' i");
	memset(model + (2 << 20), 7, 1024);
	img = must_open("i", "vpc", IMG_OPEN_WRITE);
	put(img, 10, 100, 1, model);
	put(img, (4 << 20) + 10, 100, 2, model);
	must_close(img);
	reads_as("i", model, SIZE);
	make_file("model", model, SIZE, SIZE);
	run("qemu-img compare -q -f vpc -F raw i model && qemu-io -f vpc -c 'write -q -P 9 0 1k' i");
	memset(model, 9, 1024);
	reads_as("i", model, SIZE);
	free(model);
}

/* A dynamic disk of VirtualBox's has bits for what was written only. */
Test(vhd, bits_of_a_dynamic_disk)
{
	uint8_t *model = calloc(1, SIZE), none[512] = { 0 };
	struct bytes b;
	struct img *img;

	make("i", SIZE, "force_size=on", NULL, NULL);
	img = must_open("i", "vpc", IMG_OPEN_WRITE);
	put(img, 0, 2 << 20, 1, model);
	must_close(img);
	b = load("i");
	none[0] = 0x81; /* sectors 0 and 7 */
	patch("i", be(b.at + be(b.at + 512 + 16, 8), 4) * 512, none, 512);
	free(b.at);
	memset(model + 512, 0, 6 * 512);
	memset(model + 8 * 512, 0, (2 << 20) - 8 * 512);
	reads_as("i", model, SIZE);
	img = must_open("i", "vpc", IMG_OPEN_WRITE);
	put(img, 700, 100, 5, model); /* a part of a sector that reads as zeroes */
	put(img, 30 * 512, 512, 6, model);
	must_close(img);
	reads_as("i", model, SIZE);
	free(model);
}

Test(vhd, children)
{
	uint8_t *base = calloc(1, SIZE), *middle = calloc(1, SIZE), *top = calloc(1, SIZE);
	struct img *img;

	make("base", SIZE, "force_size=on", NULL, NULL);
	img = must_open("base", "vpc", IMG_OPEN_WRITE);
	put(img, 0, 3 << 20, 1, base);
	must_close(img);
	make("middle", 0, "block_size=64k", "base", NULL);
	memcpy(middle, base, SIZE);
	img = must_open("middle", "vpc", IMG_OPEN_WRITE);
	put(img, 70000, 10, 2, middle);
	put(img, (4 << 20) + 1, 70000, 3, middle);
	cr_assert_eq(img_zero(img, 1 << 20, 4096, NULL), 0); /* hides the parent */
	memset(middle + (1 << 20), 0, 4096);
	must_close(img);
	make("top", 0, NULL, "middle", NULL);
	memcpy(top, middle, SIZE);
	img = must_open("top", "vpc", IMG_OPEN_WRITE);
	put(img, 69632, 512, 4, top);
	put(img, (4 << 20) - 100, 200, 5, top);
	must_close(img);
	reads_as("base", base, SIZE);
	reads_over("middle", middle, SIZE, base);
	reads_over("top", top, SIZE, middle);
	sound("middle");
	sound("top");
	/* moved away, the parent is found by its id; gone, it is an error */
	run("mkdir sub && mv base renamed");
	reads_over("top", top, SIZE, middle);
	run("mv renamed sub/");
	cr_assert_eq(must_fail("top", &(struct img_open_options){ 0 }, NULL), -ENOENT);
	free(base);
	free(middle);
	free(top);
}

Test(vhd, parents_refused)
{
	const char *text;
	struct img *img;

	make("base", SIZE, "force_size=on", NULL, NULL);
	make("other", SIZE, "force_size=on", NULL, NULL);
	make("child", 0, NULL, "base", NULL);
	must_close(must_open("child", NULL, 0));
	run("cp other base");
	must_fail("child", &(struct img_open_options){ 0 }, &text);
	cr_assert(strstr(text, "'base': its UUID is "), "%s", text);
	/* another one in its place, said by the user */
	cr_assert_eq(must_fail("json:{\"driver\":\"vpc\",\"file\":{\"driver\":\"file\",\"filename\":\"child\"},"
			       "\"backing\":{\"driver\":\"vpc\",\"file\":{\"driver\":\"file\",\"filename\":\"other\"}}}",
			       &(struct img_open_options){ 0 }, &text),
		     -EUCLEAN);
	cr_assert(strstr(text, "child: the parent other: found unique id"), "%s", text);
	make_file("raw", "", 0, SIZE);
	run("cp raw base");
	must_fail("child", &(struct img_open_options){ 0 }, &text);
	cr_assert(strstr(text, "child") && strstr(text, "raw"), "%s", text);
	cr_assert_lt(make("x", 0, NULL, "raw", &text), 0);
	cr_assert_lt(make("x", 0, "subformat=fixed", "other", &text), 0);
	cr_assert(strstr(text, "fixed"), "%s", text);
	/* made after the child: it may be another state of it */
	run("cp other base");
	make("child2", 0, NULL, "other", NULL);
	patch_footer("other", 0, 24, 0xf0000000, 4);
	img = must_open("child2", NULL, 0);
	cr_assert(img_warning(img) && strstr(img_warning(img), "time stamp"));
	must_close(img);
}

/* All eight kinds of names; the first that leads to the parent is taken, bad ones are passed over. */
Test(vhd, every_locator)
{
	static const struct {
		char code[5];
		const void *data;
		size_t len;
	} rows[] = {
		{ "W2ru", u".\\sub\\base.vhd", 28 },
		{ "W2ru", u"sub\\base.vhd", 24 },
		{ "W2ku", u"sub/base.vhd", 24 },
		{ "MacX", "file://./sub/base.vhd", 21 },
		{ "MacX", "sub/b%61se.vhd", 14 },
		{ "Wi2r", "sub\\base.vhd", 12 },
	};
	struct img *img;

	run("mkdir sub");
	make("sub/base.vhd", SIZE, "force_size=on", NULL, NULL);
	make("child", 0, NULL, "sub/base.vhd", NULL);
	for (size_t i = 0; i < COUNT(rows); i++) {
		struct bytes b = load("child");
		uint64_t off = be(b.at + 512 + 576 + 16, 8);

		free(b.at);
		patch("child", off, rows[i].data, rows[i].len);
		patch("child", 512 + 576, rows[i].code, 4);
		patch_number("child", 512, 1024, 36, 576 + 8, rows[i].len, 4);
		patch_number("child", 512, 1024, 36, 64, 0, 8); /* nothing else to go by */
		patch_number("child", 512, 1024, 36, 72, 0, 8);
		patch_number("child", 512, 1024, 36, 80, 0, 8);
		img = must_open("child", NULL, 0);
		must_close(img);
	}
	patch_number("child", 512, 1024, 36, 576 + 16, UINT64_MAX - 3, 8); /* out of the file */
	cr_assert_eq(must_fail("child", &(struct img_open_options){ 0 }, NULL), -ENOENT);
	run("mv sub/base.vhd .");
	must_close(must_open("child", NULL, 0)); /* by its id */
}

/* Only a fixed disk is told by its end. */
Test(vhd, probed)
{
	struct bytes b;
	const char *format;

	make("f", SIZE, "subformat=fixed,force_size=on", NULL, NULL);
	cr_assert(!img_probe("f", &format, NULL) && !strcmp(format, "vpc"));
	b = load("f");
	patch("f", SIZE + 511, "", 0);
	run("truncate -s -1 f"); /* 511 bytes of footer, as very old ones have */
	cr_assert(!img_probe("f", &format, NULL) && !strcmp(format, "vpc"));
	must_close(must_open("f", NULL, IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE));
	make_file("f", b.at, b.len, (off_t)b.len);
	patch_footer("f", SIZE, 48, SIZE + 512, 8); /* larger than its file */
	cr_assert(!img_probe("f", &format, NULL) && !strcmp(format, "raw"));
	cr_assert_eq(must_fail("f", &(struct img_open_options){ .format = "vpc" }, NULL), -EUCLEAN);
	patch_footer("f", SIZE, 48, SIZE - MIB, 8); /* smaller: a VHD file may be the last in a raw disk */
	cr_assert(!img_probe("f", &format, NULL) && !strcmp(format, "raw"));
	must_close(must_open("f", "vpc", 0));
	patch_footer("f", SIZE, 48, SIZE, 8);
	patch_footer("f", SIZE, 60, 4, 4); /* a guest could have written this */
	cr_assert(!img_probe("f", &format, NULL) && !strcmp(format, "raw"));
	free(b.at);
}

/* The copy at the start counts; the end is made again by who writes, or repaired. */
Test(vhd, footers)
{
	uint8_t *model = calloc(1, SIZE), junk[512];
	struct bytes b;
	struct img *img;

	memset(junk, 0x55, sizeof(junk));
	make("i", SIZE, "force_size=on", NULL, NULL);
	img = must_open("i", "vpc", IMG_OPEN_WRITE);
	put(img, 0, 512, 1, model);
	must_close(img);
	b = load("i");
	for (int way = 0; way < 3; way++) {
		make_file("x", b.at, b.len, (off_t)b.len);
		if (way == 0)
			run("truncate -s -512 x");
		else if (way == 1)
			patch("x", b.len - 512, junk, 512);
		else
			patch_footer("x", b.len - 512, 48, SIZE * 2, 8);
		img = must_open("x", NULL, 0);
		cr_assert_eq(img_size(img), SIZE);
		must_close(img);
		cr_assert_eq(check("x", 0).leaks, 1);
		img = must_open("x", "vpc", IMG_OPEN_WRITE);
		must_close(img);
		cr_assert_eq(check("x", IMG_REPAIR_LEAKS).leaks_fixed, 1);
		sound("x");
		reads_as("x", model, SIZE);
		make_file("x", b.at, b.len, (off_t)b.len);
		run("truncate -s -512 x");
		img = must_open("x", "vpc", IMG_OPEN_WRITE);
		put(img, 512, 512, 2, model);
		must_close(img);
		sound("x");
		reads_as("x", model, SIZE);
		memset(model + 512, 0, 512);
	}
	/* the copy is lost: given as VHD it is read and repaired, but not written */
	make_file("x", b.at, b.len, (off_t)b.len);
	patch("x", 100, junk, 10);
	img = must_open("x", "vpc", 0);
	must_close(img);
	cr_assert_eq(must_fail("x", &(struct img_open_options){ .format = "vpc", .flags = IMG_OPEN_WRITE }, NULL),
		     -EUCLEAN);
	cr_assert_eq(check("x", IMG_REPAIR_ALL).corruptions_fixed, 1);
	sound("x");
	/* and the header's checksum */
	patch("x", 512 + 36, junk, 4);
	cr_assert_eq(must_fail("x", &(struct img_open_options){ .format = "vpc" }, NULL), -EUCLEAN);
	cr_assert_eq(check("x", IMG_REPAIR_ALL).corruptions_fixed, 1);
	sound("x");
	reads_as("x", model, SIZE);
	/* suspended machines are warned of */
	patch_footer("x", 0, 84, 1, 1);
	img = must_open("x", "vpc", IMG_OPEN_WRITE);
	cr_assert(img_warning(img) && strstr(img_warning(img), "saved"));
	must_close(img);
	free(b.at);
	free(model);
}

/* Make a field of the header another one; the checksum stays as it is. */
static void damage_header(const char *name, uint64_t off, uint64_t value, unsigned n)
{
	uint8_t bytes[1024] = { 0 };

	for (unsigned i = 0; i < n && i < 8; i++)
		bytes[i] = (uint8_t)(value >> 8 * ((n < 8 ? n : 8) - 1 - i));
	patch(name, 512 + off, bytes, n);
}

static const struct {
	uint64_t off, value;
	unsigned n;
} header_damage[] = {
	{ 0, 0, 8 },	       /* the signature */
	{ 8, 77, 8 },	       /* the data offset */
	{ 16, 4096, 8 },       /* the table's */
	{ 16, 0, 8 },	       /* ... */
	{ 16, UINT64_MAX, 8 }, /* ... */
	{ 24, 7, 2 },	       /* the version */
	{ 28, 1, 4 },	       /* entries */
	{ 28, 100000, 4 },     /* ... */
	{ 32, 4096, 4 },       /* the block size */
	{ 32, 4 << 20, 4 },    /* ... */
	{ 32, 3, 4 },	       /* ... */
	{ 36, 1, 4 },	       /* the checksum */
};

/* A damaged header is what it was, or it stays damaged: never another one. */
Test(vhd, rebuilt_header)
{
	static const char *const kinds[] = { "force_size=on", "force_size=on,block_size=64k", "block_size=64k" };
	uint8_t *base = calloc(1, SIZE), *model = calloc(1, SIZE);
	struct bytes whole, now;
	struct img *img;

	make("base", SIZE, "force_size=on", NULL, NULL);
	img = must_open("base", "vpc", IMG_OPEN_WRITE);
	put(img, 1000, 2 * MIB, 1, base);
	must_close(img);
	for (size_t kind = 0; kind < COUNT(kinds); kind++) {
		bool child = kind == 2;

		unlink("x");
		memcpy(model, base, SIZE);
		if (!child)
			memset(model, 0, SIZE);
		make("x", child ? 0 : SIZE, kinds[kind], child ? "base" : NULL, NULL);
		img = must_open("x", "vpc", IMG_OPEN_WRITE);
		put(img, 5000, 3 * MIB, 2, model);
		must_close(img);
		whole = load("x");
		for (size_t i = 0; i < COUNT(header_damage); i++) {
			struct img_check_result r;

			damage_header("x", header_damage[i].off, header_damage[i].value, header_damage[i].n);
			cr_assert_eq(must_fail("x", &(struct img_open_options){ .format = "vpc" }, NULL),
				     -EUCLEAN, "%zu of kind %zu", i, kind);
			r = check("x", IMG_REPAIR_ALL);
			cr_assert(r.corruptions_fixed == 1 && !r.corruptions, "%zu of kind %zu", i, kind);
			sound("x");
			reads_over("x", model, SIZE, child ? base : NULL);
			now = load("x");
			cr_assert(now.len == whole.len &&
					  (i == 11 || !memcmp(now.at, whole.at, whole.len)),
				  "%zu of kind %zu", i, kind);
			free(now.at);
		}
		/* nothing is left of it */
		damage_header("x", 0, 0, 1024);
		if (kind == 0) {
			cr_assert_eq(check("x", IMG_REPAIR_ALL).corruptions_fixed, 1);
			reads_as("x", model, SIZE);
		} else {
			const char *text;

			now = load("x");
			cr_assert_eq(must_fail("x",
					       &(struct img_open_options){
						       .format = "vpc",
						       .flags = IMG_OPEN_CHECK | IMG_OPEN_WRITE },
					       &text),
				     -EUCLEAN);
			cr_assert(strstr(text, "confirm another header"), "%s", text);
			free(now.at);
		}
		free(whole.at);
	}
	/* ... and there is no block to tell by */
	unlink("x");
	make("x", SIZE, "force_size=on", NULL, NULL);
	damage_header("x", 0, 0, 1024);
	cr_assert_eq(must_fail("x", &(struct img_open_options){ .format = "vpc", .flags = IMG_OPEN_CHECK },
			       NULL),
		     -EUCLEAN);
	free(base);
	free(model);
}

/* The checksum is a sum of bytes, which is the same for blocks of other lengths. */
Test(vhd, rebuilt_header_of_another_block_size)
{
	static const struct {
		uint64_t before, size; /* the disk was made smaller, from before */
		uint64_t off, value;
		unsigned n;
	} cases[] = {
		{ 8 * MIB, 8 * MIB, 32, 3, 4 },	     /* as of 256 KiB and 32 entries */
		{ 16 * MIB, 16 * MIB, 32, 3, 4 },    /* as of 512 KiB and 32 entries */
		{ 32 * MIB, 32 * MIB, 32, 0, 4 },    /* as of 1 MiB and 32 entries */
		{ 64 * MIB, 16 * MIB, 1000, 16, 1 }, /* unused: as of 1 MiB and as many entries */
	};

	for (size_t i = 0; i < COUNT(cases); i++) {
		uint8_t *model = calloc(1, cases[i].before);
		struct img_check_result r;
		struct img *img;

		unlink("x");
		make("x", cases[i].before, "force_size=on", NULL, NULL);
		img = must_open("x", "vpc", IMG_OPEN_WRITE);
		put(img, 5000, 3 * MIB, 2, model);
		cr_assert_eq(img_resize(img, cases[i].size, IMG_PREALLOCATE_OFF, NULL), 0);
		must_close(img);
		damage_header("x", cases[i].off, cases[i].value, cases[i].n);
		r = check("x", IMG_REPAIR_ALL);
		cr_assert(r.corruptions_fixed == 1 && !r.corruptions, "%zu", i);
		reads_as("x", model, cases[i].size);
		free(model);
	}
}

Test(vhd, damaged_tables)
{
	uint8_t *model = calloc(1, SIZE), entry[4] = { 0 };
	struct img_check_result r;
	struct bytes b;
	struct img *img;
	uint64_t table;

	make("i", SIZE, "force_size=on,block_size=64k", NULL, NULL);
	img = must_open("i", "vpc", IMG_OPEN_WRITE);
	put(img, 0, 65536, 1, model);
	put(img, 65536, 65536, 2, model);
	must_close(img);
	b = load("i");
	table = be(b.at + 512 + 16, 8);

	/* two blocks in one place: both keep what is read there */
	make_file("x", b.at, b.len, (off_t)b.len);
	patch("x", table + 8, b.at + table, 4);
	memset(model + 131072, 1, 65536);
	cr_assert_eq(must_fail("x", &(struct img_open_options){ .format = "vpc", .flags = IMG_OPEN_WRITE }, NULL),
		     -EUCLEAN);
	cr_assert_eq(check("x", 0).corruptions, 1);
	r = check("x", IMG_REPAIR_ALL);
	cr_assert(r.corruptions_fixed == 1 && !r.corruptions && !r.leaks);
	sound("x");
	reads_as("x", model, SIZE);
	memset(model + 131072, 0, 65536);

	/* one in the header: refused where it is read, lost if that is accepted */
	make_file("x", b.at, b.len, (off_t)b.len);
	entry[3] = 1;
	patch("x", table, entry, 4);
	img = must_open("x", "vpc", 0);
	cr_assert_eq(img_read(img, 0, entry, 1, NULL), -EUCLEAN);
	must_close(img);
	cr_assert_eq(check("x", IMG_REPAIR_ALL).corruptions, 1);
	cr_assert_eq(check("x", IMG_REPAIR_ALL | IMG_REPAIR_LOSS).corruptions, 0);
	sound("x");

	/* the file was cut short: nothing makes zeroes of the rest unless that is accepted */
	make_file("x", b.at, b.len - 10000, (off_t)b.len - 10000);
	img = must_open("x", "vpc", 0);
	cr_assert_eq(img_read(img, 65536 + 60000, entry, 1, NULL), -EUCLEAN);
	must_close(img);
	r = check("x", IMG_REPAIR_ALL);
	cr_assert(r.corruptions == 1);
	img = must_open("x", "vpc", 0);
	cr_assert_eq(img_read(img, 65536 + 60000, entry, 1, NULL), -EUCLEAN);
	must_close(img);
	cr_assert_eq(check("x", IMG_REPAIR_ALL | IMG_REPAIR_LOSS).corruptions, 0);
	sound("x");
	free(b.at);
	free(model);
}
