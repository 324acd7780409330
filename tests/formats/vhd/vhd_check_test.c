/*
 * Check and repair of dynamic disks: each kind of damage, and several at once; what can be read reads as before.
 */
#include "tests/formats/vhd/plain.h"

TestSuite(vhd_check, .init = folder_make, .fini = folder_remove, .timeout = 60);

enum {
	SIZE = MIB,
	BLOCK = 64 * KIB,
	ACCEPT = IMG_REPAIR_ALL | IMG_REPAIR_LOSS,
};

/* Three blocks, one behind the other. *table: where the table is. */
static struct bytes three_blocks(uint8_t *model, uint64_t *table)
{
	struct img *img;
	struct bytes b;

	memset(model, 0, SIZE);
	make("i", SIZE, "force_size=on,block_size=64k", NULL, NULL);
	img = must_open("i", "vpc", IMG_OPEN_WRITE);
	put(img, 0, BLOCK, 1, model);
	put(img, BLOCK, BLOCK, 2, model);
	put(img, 2 * BLOCK, BLOCK, 3, model);
	must_close(img);
	b = load("i");
	*table = be(b.at + 512 + 16, 8);
	return b;
}

static void set_entry(const char *name, uint64_t table, unsigned number, uint64_t value)
{
	uint8_t bytes[4];

	for (unsigned i = 0; i < 4; i++)
		bytes[i] = (uint8_t)(value >> 8 * (3 - i));
	patch(name, table + 4 * (uint64_t)number, bytes, sizeof(bytes));
}

/* What is found, what a repair leaves, and what is left when loss is accepted. */
static void repaired(unsigned found, unsigned left, unsigned accept_left)
{
	struct img_check_result r = check("i", 0);

	cr_assert_eq(r.corruptions, found, "%u", (unsigned)r.corruptions);
	r = check("i", IMG_REPAIR_ALL);
	cr_assert_eq(r.corruptions, left, "%u", (unsigned)r.corruptions);
	cr_assert_eq(r.corruptions_fixed, found - left);
	r = check("i", ACCEPT);
	cr_assert_eq(r.corruptions, accept_left, "%u", (unsigned)r.corruptions);
	cr_assert_eq(r.leaks, 0);
}

/* Two blocks in the place of a third: both get copies, of all of their sectors. */
Test(vhd_check, shared_blocks)
{
	uint8_t *model = malloc(SIZE);
	uint64_t table;
	struct bytes b = three_blocks(model, &table);

	set_entry("i", table, 5, be(b.at + table, 4));
	set_entry("i", table, 9, be(b.at + table, 4));
	memset(model + 5 * BLOCK, 1, BLOCK);
	memset(model + 9 * BLOCK, 1, BLOCK);
	repaired(2, 0, 0);
	sound("i");
	reads_as("i", model, SIZE);
	free(b.at);
	free(model);
}

Test(vhd_check, header_checksum)
{
	uint8_t *model = malloc(SIZE), wrong = 0x5a;
	uint64_t table;
	struct bytes b = three_blocks(model, &table);

	patch("i", 512 + 36, &wrong, 1);
	repaired(1, 0, 0);
	sound("i");
	reads_as("i", model, SIZE);
	free(b.at);
	free(model);
}

/* Where the table, the header and the first footer are is no block. */
Test(vhd_check, blocks_in_metadata)
{
	static const uint32_t places[] = { 0, 1, 2, 3 };
	uint8_t *model = malloc(SIZE);

	for (size_t i = 0; i < COUNT(places); i++) {
		uint64_t table;
		struct bytes b = three_blocks(model, &table);

		set_entry("i", table, 1, places[i]);
		repaired(1, 1, 0);
		memset(model + BLOCK, 0, BLOCK);
		sound("i");
		reads_as("i", model, SIZE);
		free(b.at);
	}
	free(model);
}

/*
 * The file is cut within its last block, and another block is shared: nothing is added to the file, where that
 * would be seen in the lost part, before the loss is accepted.
 */
Test(vhd_check, cut_and_shared)
{
	uint8_t *model = malloc(SIZE), got[512];
	uint64_t table;
	struct bytes b = three_blocks(model, &table);
	uint64_t cut = be(b.at + table + 8, 4) * 512 + 512 + BLOCK / 2;
	struct img *img;

	set_entry("i", table, 5, be(b.at + table, 4));
	memset(model + 5 * BLOCK, 1, BLOCK);
	cr_assert_eq(truncate("i", (off_t)cut), 0);
	repaired(2, 2, 0);
	memset(model + 2 * BLOCK + BLOCK / 2, 0, BLOCK / 2);
	sound("i");
	reads_as("i", model, SIZE);

	/* without the acceptance what is lost stays an error */
	make_file("i", b.at, cut, (off_t)cut);
	set_entry("i", table, 5, be(b.at + table, 4));
	check("i", IMG_REPAIR_ALL);
	img = must_open("i", "vpc", 0);
	cr_assert_eq(img_read(img, 3 * BLOCK - 512, got, sizeof(got), NULL), -EUCLEAN);
	cr_assert_eq(img_read(img, 5 * BLOCK, got, sizeof(got), NULL), 0);
	cr_assert_eq(got[0], 1);
	must_close(img);
	free(b.at);
	free(model);
}

/* The last footer is inside a block that an entry has there: it is written behind it. */
Test(vhd_check, footer_in_a_block)
{
	uint8_t *model = malloc(SIZE), bits[512];
	uint64_t table;
	struct bytes b = three_blocks(model, &table);
	uint64_t last = b.len - 512;

	/* a block whose sectors are all there, at the footer's place and behind it */
	memset(bits, 0xff, sizeof(bits));
	cr_assert_eq(truncate("i", (off_t)(last + 512 + BLOCK)), 0);
	patch("i", last, bits, sizeof(bits));
	for (uint64_t at = 0; at < BLOCK; at += 512)
		patch("i", last + 512 + at, bits, sizeof(bits));
	set_entry("i", table, 7, last / 512);
	patch("i", last + BLOCK, b.at + last, 512); /* the footer, where the block's last sector is */
	check("i", IMG_REPAIR_ALL);
	memset(model + 7 * BLOCK, 0xff, BLOCK);
	memcpy(model + 8 * BLOCK - 512, b.at + last, 512);
	sound("i");
	reads_as("i", model, SIZE);
	free(b.at);
	free(model);
}

/* A child's block that is lost is not its parent's: it stays an error. */
Test(vhd_check, lost_blocks_of_a_child)
{
	uint8_t *model = calloc(1, SIZE), got;
	uint64_t table;
	struct bytes b;
	struct img *img;

	make("base", SIZE, "force_size=on,block_size=64k", NULL, NULL);
	img = must_open("base", "vpc", IMG_OPEN_WRITE);
	put(img, 0, SIZE, 9, model);
	must_close(img);
	make("i", 0, "block_size=64k", "base", NULL);
	img = must_open("i", "vpc", IMG_OPEN_WRITE);
	put(img, 0, BLOCK, 1, model);
	put(img, BLOCK, BLOCK, 2, model);
	must_close(img);
	b = load("i");
	table = be(b.at + 512 + 16, 8);
	set_entry("i", table, 0, 0x100000);
	cr_assert_eq(check("i", 0).corruptions, 1);
	cr_assert_eq(check("i", ACCEPT).corruptions, 1);
	img = must_open("i", "vpc", 0);
	cr_assert_eq(img_read(img, 0, &got, 1, NULL), -EUCLEAN);
	cr_assert_eq(img_read(img, BLOCK, &got, 1, NULL), 0);
	cr_assert_eq(got, 2);
	must_close(img);
	free(b.at);
	free(model);
}
