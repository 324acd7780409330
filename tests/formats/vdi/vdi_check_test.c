/*
 * Check and repair: each kind of damage is found, and what is repaired reads as before.
 */
#include "tests/formats/vdi/plain.h"

TestSuite(vdi_check, .init = folder_make, .fini = folder_remove);

enum {
	BLOCK = 4 * KIB,
	ACCEPT = IMG_REPAIR_ALL | IMG_REPAIR_LOSS,
};

struct row {
	const char *what;
	uint32_t entries[6];
	unsigned in_file, allocated;
	unsigned corruptions, leaks;		 /* found */
	unsigned left, leaks_left;		 /* by a repair without loss */
	unsigned accept_left, accept_leaks_left; /* and with it */
	uint8_t reads[6];			 /* bytes of the blocks; LOST: cannot be read */
};

enum { LOST = 0xff };

static const struct row rows[] = {
	{ "sound", { 0, 1, FREE, 2, ZERO, 3 }, 4, 4, 0, 0, 0, 0, 0, 0, { 1, 2, 0, 3, 0, 4 } },
	{ "out of order", { 3, 1, FREE, 2, ZERO, 0 }, 4, 4, 0, 0, 0, 0, 0, 0, { 4, 2, 0, 3, 0, 1 } },
	{ "nothing", { FREE, ZERO, FREE, FREE, ZERO, FREE }, 0, 0, 0, 0, 0, 0, 0, 0, { 0 } },
	{ "count too low", { 0, 1, FREE, 2, ZERO, 3 }, 4, 1, 1, 0, 0, 0, 0, 0, { 1, 2, 0, 3, 0, 4 } },
	{ "count too low by one", { 0, 1, FREE, 2, ZERO, 3 }, 4, 3, 1, 0, 0, 0, 0, 0, { 1, 2, 0, 3, 0, 4 } },
	{ "count 0", { 0, 1, FREE, 2, ZERO, 3 }, 4, 0, 1, 0, 0, 0, 0, 0, { 1, 2, 0, 3, 0, 4 } },
	{ "count ahead", { 0, 1, FREE, 2, ZERO, 3 }, 4, 6, 0, 2, 0, 0, 0, 0, { 1, 2, 0, 3, 0, 4 } },
	{ "count of all bits", { 0, 1, FREE, 2, ZERO, 3 }, 4, ~0u, 0, ~0u - 4, 0, 0, 0, 0, { 1, 2, 0, 3, 0, 4 } },
	{ "gap", { 0, FREE, FREE, 3, ZERO, 5 }, 6, 6, 0, 3, 0, 0, 0, 0, { 1, 0, 0, 4, 0, 6 } },
	{ "only gaps", { FREE, FREE, FREE, FREE, ZERO, FREE }, 6, 6, 0, 6, 0, 0, 0, 0, { 0 } },
	{ "shared", { 0, 1, 1, 2, ZERO, 3 }, 4, 4, 1, 0, 0, 0, 0, 0, { 1, 2, 2, 3, 0, 4 } },
	{ "all shared", { 0, 0, 0, 0, 0, 0 }, 6, 6, 5, 5, 0, 0, 0, 0, { 1, 1, 1, 1, 1, 1 } },
	{ "shared, a wild count", { 0, 1, 1, 2, ZERO, 3 }, 4, ~0u, 1, ~0u - 4, 0, 0, 0, 0, { 1, 2, 2, 3, 0, 4 } },
	{ "more than there are", { 0, 0, 0, 0, 0, 0 }, 1, 1, 5, 0, 5, 0, 5, 0, { 1, 1, 1, 1, 1, 1 } },
	{ "beyond the end", { 0, 1, 9, 2, ZERO, 3 }, 4, 4, 1, 0, 1, 0, 0, 0, { 1, 2, LOST, 3, 0, 4 } },
	{ "far beyond it", { 0, 1, ZERO - 1, 2, ZERO, 3 }, 4, 4, 1, 0, 1, 0, 0, 0, { 1, 2, LOST, 3, 0, 4 } },
	/* Copies at the end of the file would be where the lost ones lead to. */
	{ "shared and beyond it", { 0, 1, 1, 3, 4, 5 }, 3, 6, 4, 1, 4, 1, 0, 0, { 1, 2, 2, LOST, LOST, LOST } },
	{ "shared, lost, low", { 1, 1, 7, 2, FREE, 0 }, 3, 1, 3, 0, 2, 0, 0, 0, { 2, 2, LOST, 3, 0, 1 } },
};

/* What can be read is as the row has it; with lost: zeroes where it was accepted. */
static void blocks_are(const struct row *row, bool accepted)
{
	struct img *img = must_open("a", "vdi", 0);
	uint8_t got[BLOCK];

	for (unsigned i = 0; i < COUNT(row->reads); i++) {
		int rc = img_read(img, (uint64_t)i * BLOCK, got, BLOCK, NULL);
		uint8_t want = row->reads[i] == LOST ? 0 : row->reads[i];

		if (row->reads[i] == LOST && !accepted) {
			cr_assert_neq(rc, 0, "%s: block %u", row->what, i);
			continue;
		}
		cr_assert_eq(rc, 0, "%s: block %u", row->what, i);
		for (unsigned k = 0; k < BLOCK; k++)
			cr_assert_eq(got[k], want, "%s: block %u is of %u", row->what, i, got[k]);
	}
	must_close(img);
}

static void try(const struct row *row, unsigned extra)
{
	const struct plain p = { .block_bytes = BLOCK,
				 .extra_bytes = extra,
				 .blocks = 6,
				 .in_file = row->in_file,
				 .allocated = row->allocated,
				 .entries = row->entries };
	struct img_check_result r;
	struct bytes before, after;

	make_plain("a", &p);
	before = load("a");
	r = check("a", 0);
	cr_assert_eq(r.corruptions, row->corruptions, "%s: %u", row->what, (unsigned)r.corruptions);
	cr_assert_eq(r.leaks, row->leaks, "%s: %u leaks", row->what, (unsigned)r.leaks);
	after = load("a");
	cr_assert(before.len == after.len && !memcmp(before.at, after.at, after.len));
	blocks_are(row, false);
	r = check("a", IMG_REPAIR_ALL);
	cr_assert_eq(r.corruptions, row->left, "%s: %u left", row->what, (unsigned)r.corruptions);
	cr_assert_eq(r.corruptions_fixed, row->corruptions - row->left, "%s", row->what);
	cr_assert_eq(r.leaks, row->leaks_left, "%s: %u leaks left", row->what, (unsigned)r.leaks);
	blocks_are(row, false);
	r = check("a", ACCEPT);
	cr_assert_eq(r.corruptions, row->accept_left, "%s: %u left", row->what, (unsigned)r.corruptions);
	cr_assert_eq(r.leaks, row->accept_leaks_left, "%s: %u leaks left", row->what, (unsigned)r.leaks);
	blocks_are(row, true);
	if (!row->accept_left) {
		uint8_t model[6 * BLOCK];

		sound("a");
		for (unsigned i = 0; i < 6; i++)
			memset(model + i * BLOCK, row->reads[i] == LOST ? 0 : row->reads[i], BLOCK);
		reads_as("a", model, sizeof(model));
	}
	free(before.at);
	free(after.at);
}

Test(vdi_check, each_kind_of_damage)
{
	for (size_t i = 0; i < COUNT(rows); i++) {
		try(&rows[i], 0);
		try(&rows[i], 512);
	}
}

/* A repair of leaks alone changes no entry of something that is in use. */
Test(vdi_check, leaks_alone)
{
	static const uint32_t shared[] = { 0, 1, 1, 5 };
	struct plain p = {
		.block_bytes = BLOCK,
		.blocks = 4,
		.in_file = 6,
		.allocated = 6,
		.entries = shared,
	};
	struct bytes before, after;
	struct img_check_result r;

	make_plain("a", &p);
	before = load("a");
	r = check("a", IMG_REPAIR_LEAKS);
	after = load("a");
	cr_assert(r.corruptions == 1 && r.leaks == 3 && !r.leaks_fixed);
	cr_assert(before.len == after.len && !memcmp(before.at, after.at, after.len));
	free(before.at);
	free(after.at);
}

/* A damaged image is not written to. */
Test(vdi_check, not_written_to)
{
	static const uint32_t shared[] = { 0, 1, 1, 2 }, lost[] = { 0, 1, 3, 2 };
	struct img_open_options o = { .format = "vdi", .flags = IMG_OPEN_WRITE };
	struct plain p = {
		.block_bytes = BLOCK,
		.blocks = 4,
		.in_file = 3,
		.allocated = 3,
		.entries = shared,
	};
	const char *text;

	make_plain("a", &p);
	cr_assert_eq(must_fail("a", &o, &text), -EUCLEAN);
	cr_assert(strstr(text, "index is 1"), "%s", text);
	p.entries = lost;
	make_plain("a", &p);
	cr_assert_eq(must_fail("a", &o, &text), -EUCLEAN);
	cr_assert(strstr(text, "truncated: ends at 16384"), "%s", text);
}

/* A small file whose map is a hole of 2 GiB: it ends soon. */
Test(vdi_check, map_of_holes, .timeout = 60)
{
	static const uint32_t entries[] = { 0 };
	struct plain p = {
		.block_bytes = MIB,
		.blocks = 1,
		.in_file = 0,
		.allocated = 1,
		.entries = entries,
	};
	struct img_check_result r;
	struct img_error *err = img_error_new();
	struct img *img;

	make_plain("a", &p);
	patch32("a", 0x180, 0x1fffff80);
	patch32("a", 0x158, 0x80000000);
	cr_assert_eq(truncate("a", 0x80100000), 0);
	img = must_open("a", "vdi", IMG_OPEN_CHECK);
	cr_assert_eq(img_check(img, 0, NULL, NULL, &r, err), -EUCLEAN);
	cr_assert(strstr(img_error_text(err), "block map at 512: more than"), "%s", img_error_text(err));
	must_close(img);
	img_error_free(err);
}
