/*
 * What VDIs read as, what is made, how they are written to, and whom they take for their parents.
 */
#include "tests/formats/vdi/plain.h"

TestSuite(vdi, .init = folder_make, .fini = folder_remove);

enum { BLOCK = 4 * KIB,
       SIZE = 3 * MIB + 512 };

static const uint32_t some[] = { 2, FREE, 0, ZERO, 1 };

/* ---- Reading ---- */

Test(vdi, blocks_where_the_map_says)
{
	uint8_t model[5 * BLOCK] = { 0 };
	struct plain p = {
		.block_bytes = BLOCK,
		.blocks = 5,
		.in_file = 3,
		.allocated = 3,
		.entries = some,
	};

	memset(model, 3, BLOCK);
	memset(model + 2 * BLOCK, 1, BLOCK);
	memset(model + 4 * BLOCK, 2, BLOCK);
	for (unsigned extra = 0; extra < 1536; extra += 512) {
		p.extra_bytes = extra;
		make_plain("a", &p);
		reads_as("a", model, sizeof(model));
		sound("a");
	}
	p.extra_bytes = 0;
	for (unsigned type = 1; type <= 2; type++) {
		p.version0 = true;
		p.type = type;
		make_plain("a", &p);
		library_reads("a", model, sizeof(model));
		sound("a");
	}
}

/* The disk ends inside its last block, and so may the file. */
Test(vdi, short_last_block)
{
	static const uint32_t entries[] = { 1, 0 };
	uint8_t model[2 * BLOCK];
	struct plain p = {
		.block_bytes = BLOCK,
		.blocks = 2,
		.in_file = 2,
		.allocated = 2,
		.entries = entries,
	};

	memset(model, 2, BLOCK);
	memset(model + BLOCK, 1, BLOCK);
	p.size = BLOCK + 1000; /* rounded up */
	make_plain("a", &p);
	library_reads("a", model, BLOCK + 1024);
	p.entries = (const uint32_t[]){ 0, 1 };
	make_plain("a", &p);
	cr_assert_eq(truncate("a", PLAIN_DATA + BLOCK + 1024), 0);
	memset(model, 1, BLOCK);
	memset(model + BLOCK, 2, BLOCK);
	library_reads("a", model, BLOCK + 1024);
	sound("a");
	cr_assert_eq(truncate("a", PLAIN_DATA + BLOCK + 512), 0);
	cr_assert_eq(check("a", 0).corruptions, 1);
}

/* ---- Writing ---- */

/* In place, in new blocks, over zeroes; another size of blocks and extra bytes; what was there stays. */
Test(vdi, writes)
{
	static uint8_t model[5 * BLOCK];
	struct plain p = {
		.block_bytes = BLOCK,
		.blocks = 5,
		.in_file = 3,
		.allocated = 3,
		.entries = some,
	};

	for (unsigned kind = 0; kind < 4; kind++) {
		struct img *img;

		p.extra_bytes = kind == 1 ? 1024 : 0;
		p.version0 = kind >= 2;
		p.type = kind == 3 ? 2 : 1;
		make_plain("a", &p);
		memset(model, 0, sizeof(model));
		memset(model, 3, BLOCK);
		memset(model + 2 * BLOCK, 1, BLOCK);
		memset(model + 4 * BLOCK, 2, BLOCK);
		img = must_open("a", "vdi", IMG_OPEN_WRITE);
		put(img, BLOCK - 700, 1500, 0x41, model);   /* old and new */
		put(img, 3 * BLOCK + 100, 10, 0x42, model); /* over zeroes */
		put(img, 5 * BLOCK - 512, 512, 0x43, model);
		must_close(img);
		reads_as("a", model, sizeof(model)); /* version 0 is one of 1.1 now */
		sound("a");
	}
}

/* Blocks that are given up leave no gaps when it is closed. */
Test(vdi, discards)
{
	uint8_t *model = calloc(1, SIZE);
	struct img *img;
	struct stat st;

	make("a", SIZE, "block_size=64k", NULL, NULL);
	img = must_open("a", "vdi", IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
	for (unsigned i = 0; i < 48; i++)
		put(img, i * 64 * KIB, 64 * KIB, (uint8_t)(i + 1), model);
	cr_assert_eq(img_discard(img, 128 * KIB, MIB, NULL), 0);
	memset(model + 128 * KIB, 0, MIB);
	cr_assert_eq(img_discard(img, 2 * MIB + 100, 192 * KIB, NULL), 0);
	cr_assert_eq(img_zero(img, 2 * MIB + 100, 192 * KIB, NULL), 0);
	memset(model + 2 * MIB + 100, 0, 192 * KIB);
	must_close(img);
	reads_as("a", model, SIZE);
	sound("a");
	cr_assert_eq(stat("a", &st), 0);
	cr_assert_leq(st.st_size, (48 - 16 - 2) * 64 * KIB + 4096);
	free(model);
}

/* More blocks than move between two syncs. */
Test(vdi, many_gaps)
{
	enum { BLOCKS = 20000,
	       BYTES = 512 };
	static uint32_t entries[BLOCKS];
	const struct plain p = {
		.block_bytes = BYTES,
		.blocks = BLOCKS,
		.in_file = BLOCKS,
		.allocated = BLOCKS,
		.entries = entries,
	};
	uint8_t *model = calloc(BLOCKS, BYTES);
	struct img *img;
	struct stat st;

	for (uint32_t i = 0; i < BLOCKS; i++) {
		entries[i] = i % 2 ? BLOCKS - i : FREE;
		memset(model + i * BYTES, i % 2 ? (int)(BLOCKS - i + 1) : 0, BYTES);
	}
	make_plain("a", &p);
	img = must_open("a", "vdi", IMG_OPEN_WRITE);
	put(img, 10 * BYTES, BYTES, 1, model);
	must_close(img);
	reads_as("a", model, BLOCKS * BYTES);
	sound("a");
	cr_assert(!stat("a", &st) && st.st_size < 11000 * BYTES + 128 * KIB);
	free(model);
}

/* Children know by it; a reader changes nothing. */
Test(vdi, modification_uuid)
{
	uint8_t model[MIB] = { 0 };
	struct bytes before, after;

	make("a", MIB, NULL, NULL, NULL);
	before = load("a");
	must_close(must_open("a", "vdi", 0));
	must_close(must_open("a", "vdi", IMG_OPEN_WRITE));
	after = load("a");
	cr_assert(before.len == after.len && !memcmp(before.at, after.at, after.len));
	free(after.at);
	for (int i = 0; i < 2; i++) {
		struct img *img = must_open("a", "vdi", IMG_OPEN_WRITE);

		put(img, 0, 512, 1, model);
		must_close(img);
		after = load("a");
		cr_assert(!memcmp(before.at + 0x188, after.at + 0x188, 16), "the image's own");
		cr_assert(memcmp(before.at + 0x198, after.at + 0x198, 16), "another modification");
		free(before.at);
		before = after;
	}
	free(before.at);
}

/* ---- Creating ---- */

Test(vdi, created_as_asked)
{
	static const struct {
		const char *options;
		uint32_t type, block_bytes, allocated;
	} made[] = {
		{ NULL, 1, MIB, 0 },
		{ "static=off", 1, MIB, 0 },
		{ "static=on", 2, MIB, 4 },
		{ "preallocation=metadata", 2, MIB, 4 },
		{ "preallocation=falloc", 2, MIB, 4 },
		{ "static=on,preallocation=full", 2, MIB, 4 },
		{ "block_size=512", 1, 512, 0 },
		{ "block_size=3k,static=on", 2, 3 * KIB, 1025 },
		{ "block_size=1G", 1, 1 << 30, 0 },
	};
	uint8_t *zeroes = calloc(1, SIZE);

	for (size_t i = 0; i < COUNT(made); i++) {
		struct bytes b;

		make("a", SIZE, made[i].options, NULL, NULL);
		b = load("a");
		cr_assert_eq(le32_load(b.at + 0x4c), made[i].type, "%s", made[i].options);
		cr_assert_eq(le32_load(b.at + 0x178), made[i].block_bytes);
		cr_assert_eq(le32_load(b.at + 0x184), made[i].allocated, "%s", made[i].options);
		cr_assert_eq(le64_load(b.at + 0x170), SIZE);
		free(b.at);
		sound("a");
		reads_as("a", zeroes, SIZE);
		unlink("a");
	}
	free(zeroes);
}

Test(vdi, refused_options)
{
	static const struct {
		const char *options, *backing, *says;
	} rows[] = {
		{ "block_size=0", NULL, "block_size" },
		{ "block_size=1000", NULL, "block_size" },
		{ "block_size=2G", NULL, "block_size" },
		{ "uuid=nonsense", NULL, "uuid" },
		{ "uuid=00000000-0000-0000-0000-000000000000", NULL, "uuid" },
		{ "modification_uuid=1234", NULL, "modification_uuid" },
		{ "parent_uuid=2dc27766-f623-4200-9d64-115e9bfd4a08", NULL, "parent_uuid" },
		{ "static=on", "base", "static" },
		{ "static=off,preallocation=full", NULL, "static" },
		{ "preallocation=metadata", "base", "static" },
		{ "preallocation=some", NULL, "preallocation" },
	};

	make("base", SIZE, NULL, NULL, NULL);
	for (size_t i = 0; i < COUNT(rows); i++) {
		const char *text;

		cr_assert_lt(make("a", rows[i].backing ? 0 : SIZE, rows[i].options, rows[i].backing, &text), 0,
			     "%s", rows[i].options);
		cr_assert(strstr(text, rows[i].says), "%s: %s", rows[i].options, text);
		cr_assert_neq(access("a", F_OK), 0, "%s: something is left", rows[i].options);
	}
}

Test(vdi, uuids)
{
	static const uint8_t want[] = { 0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
					0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 };
	static const uint8_t none[16];
	struct bytes a, b;

	make("a", MIB, NULL, NULL, NULL);
	make("b", MIB, NULL, NULL, NULL);
	a = load("a");
	b = load("b");
	for (unsigned off = 0x188; off <= 0x198; off += 16) {
		cr_assert(memcmp(a.at + off, none, 16) && memcmp(b.at + off, none, 16));
		cr_assert(memcmp(a.at + off, b.at + off, 16), "two images of one UUID");
	}
	free(b.at);
	make("c", MIB, "uuid=2dc27766-f623-4200-9d64-115e9bfd4a08,"
		       "modification_uuid=2dc27766-f623-4200-9d64-115e9bfd4a08",
	     NULL, NULL);
	b = load("c");
	cr_assert(!memcmp(b.at + 0x188, want, 16) && !memcmp(b.at + 0x198, want, 16));
	free(a.at);
	free(b.at);
}

/* ---- Parents ---- */

/* Free blocks are the parent's, zeroed ones are not; new ones are filled from it. */
Test(vdi, child)
{
	uint8_t *base = calloc(1, SIZE), *model = calloc(1, SIZE);
	struct img *img;

	make("base", SIZE, NULL, NULL, NULL);
	img = must_open("base", "vdi", IMG_OPEN_WRITE);
	put(img, 1000, SIZE - 1000, 0xbb, base);
	must_close(img);
	memcpy(model, base, SIZE);
	make("child", 0, "block_size=64k", "base", NULL);
	reads_over("child", model, SIZE, base);
	img = must_open("child", "vdi", IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
	put(img, 100 * KIB, 100, 1, model);
	put(img, SIZE - 512, 512, 2, model);
	cr_assert_eq(img_zero(img, MIB, MIB, NULL), 0);
	memset(model + MIB, 0, MIB);
	put(img, MIB + 300 * KIB, 100, 3, model);
	must_close(img);
	reads_over("child", model, SIZE, base);
	sound("child");
	make("grandchild", 0, NULL, "child", NULL);
	img = must_open("grandchild", "vdi", IMG_OPEN_WRITE);
	memcpy(base, model, SIZE);
	put(img, MIB - 10, 20, 4, model);
	must_close(img);
	reads_over("grandchild", model, SIZE, base);
	free(base);
	free(model);
}

/* By UUID in its folder, whatever it is called; a missing or changed one is refused, naming both. */
Test(vdi, parents)
{
	struct img_open_options o = { .format = "vdi" };
	struct img_error *err = img_error_new();
	uint8_t model[512] = { 0 };
	const char *text;
	struct img *img;

	make("base.vdi", MIB, "uuid=2dc27766-f623-4200-9d64-115e9bfd4a08", NULL, NULL);
	make("child.vdi", 0, NULL, "base.vdi", NULL);
	run("mv base.vdi other-name");
	must_close(must_open("child.vdi", "vdi", 0));
	run("mkdir away && mv other-name away");
	cr_assert_lt(must_fail("child.vdi", &o, &text), 0);
	cr_assert(strstr(text, "child.vdi") && strstr(text, "2dc27766-f623-4200-9d64-115e9bfd4a08"), "%s", text);
	run("mv away/other-name base.vdi");
	img = must_open("base.vdi", "vdi", IMG_OPEN_WRITE);
	put(img, 0, 512, 1, model);
	must_close(img);
	cr_assert_lt(must_fail("child.vdi", &o, &text), 0);
	cr_assert(strstr(text, "child.vdi") && strstr(text, "base.vdi") && strstr(text, "modification"), "%s",
		  text);
	/* The user knows better. */
	o.flags = IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING;
	cr_assert_eq(img_open("child.vdi", &o, &img, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_set_backing_name(img, "base.vdi", "vdi", err), 0, "%s", img_error_text(err));
	must_close(img);
	must_close(must_open("child.vdi", "vdi", 0));
	/* One that has the name, but not the UUID. */
	run("rm base.vdi");
	make("base.vdi", MIB, NULL, NULL, NULL);
	o.flags = 0;
	cr_assert_lt(must_fail("child.vdi", &o, &text), 0);
	img_error_free(err);
}
