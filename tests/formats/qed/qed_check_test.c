/*
 * Check and repair: each kind of damage is found, and what is repaired reads as before.
 */
#include "tests/formats/qed/plain.h"

TestSuite(qed_check, .init = folder_make, .fini = folder_remove);

enum {
	ACCEPT = IMG_REPAIR_ALL | IMG_REPAIR_LOSS,
	LOST = 0xff,
};

#define D(i) (FIRST + (uint64_t)(i)*CLUSTER)

struct row {
	const char *what;
	uint64_t l1[2];
	uint64_t entries[5];
	unsigned in_file;
	unsigned corruptions, leaks;   /* found */
	unsigned left, leaks_left;     /* by a repair without loss */
	uint8_t reads[5], accepted[5]; /* bytes of the clusters; LOST: cannot be read */
};

static const struct row rows[] = {
	{ "sound", { 0 }, { D(0), D(1), 0, D(2), 1 }, 3, 0, 0, 0, 0, { 1, 2, 0, 3, 0 }, { 1, 2, 0, 3, 0 } },
	{ "out of order", { 0 }, { D(2), D(1), 0, D(0), 1 }, 3, 0, 0, 0, 0, { 3, 2, 0, 1, 0 }, { 3, 2, 0, 1, 0 } },
	{ "leaks", { 0 }, { D(0), D(5), 0, D(3), 1 }, 7, 0, 4, 0, 0, { 1, 6, 0, 4, 0 }, { 1, 6, 0, 4, 0 } },
	{ "only leaks", { 0 }, { 0, 0, 0, 0, 1 }, 7, 0, 7, 0, 0, { 0 }, { 0 } },
	{ "shared", { 0 }, { D(0), D(1), D(1), D(2), 1 }, 3, 1, 0, 0, 0, { 1, 2, 2, 3, 0 }, { 1, 2, 2, 3, 0 } },
	{ "all shared", { 0 }, { D(1), D(1), D(1), D(1), D(1) }, 3, 4, 2, 0, 0, { 2, 2, 2, 2, 2 }, { 2, 2, 2, 2, 2 } },
	{ "beyond the end", { 0 }, { D(0), D(3), 0, D(1), 1 }, 2, 1, 0, 1, 0, { 1, LOST, 0, 2, 0 }, { 1, 0, 0, 2, 0 } },
	{ "far beyond it", { 0 }, { D(0), UINT64_C(1) << 62, 0, UINT64_MAX - 4095, 1 }, 1, 2, 0, 2, 0, { 1, LOST, 0, LOST, 0 }, { 1, 0, 0, 0, 0 } },
	{ "not aligned", { 0 }, { D(0), D(1) + 512, 0, D(1), 2 }, 3, 2, 1, 2, 1, { 1, LOST, 0, 2, LOST }, { 1, 0, 0, 2, 0 } },
	{ "shared and beyond it", { 0 }, { D(0), D(0), D(1), D(2), D(3) }, 1, 4, 0, 4, 0, { 1, 1, LOST, LOST, LOST }, { 1, 1, 0, 0, 0 } },
	{ "in the header", { 0 }, { D(0), 0, 0, 3 * 512, 1 }, 1, 1, 0, 1, 0, { 1, 0, 0, LOST, 0 }, { 1, 0, 0, 0, 0 } },
	{ "a table in the header", { TABLE, 64 }, { D(0), 0, 0, 0, 1 }, 1, 1, 1, 1, 1, { 1, 0, 0, 0, 0 }, { 1, 0, 0, 0, 0 } },
	{ "a table beyond the end", { TABLE, D(9) }, { D(0), 0, 0, 0, 1 }, 1, 1, 1, 1, 1, { 1, 0, 0, 0, 0 }, { 1, 0, 0, 0, 0 } },
	{ "a table that two have", { TABLE, TABLE }, { D(0), 0, D(1), 0, 1 }, 2, 1, 1, 0, 0, { 1, 0, 2, 0, 0 }, { 1, 0, 2, 0, 0 } },
};

/* What can be read is as the row has it. */
static void clusters_are(const struct row *row, const uint8_t *want)
{
	struct img *img = must_open("a", "qed", 0);
	uint8_t got[CLUSTER];

	for (unsigned i = 0; i < COUNT(row->reads); i++) {
		int rc = img_read(img, (uint64_t)i * CLUSTER, got, CLUSTER, NULL);

		if (want[i] == LOST) {
			cr_assert_neq(rc, 0, "%s: cluster %u", row->what, i);
			continue;
		}
		cr_assert_eq(rc, 0, "%s: cluster %u", row->what, i);
		for (unsigned k = 0; k < CLUSTER; k++)
			cr_assert_eq(got[k], want[i], "%s: cluster %u is of %u", row->what, i, got[k]);
	}
	must_close(img);
}

static void make_row(const struct row *row)
{
	const struct plain p = { .l1 = { row->l1[0], row->l1[1] },
				 .size = (uint64_t)600 * CLUSTER,
				 .in_file = row->in_file,
				 .entries = row->entries,
				 .entry_count = COUNT(row->entries) };

	make_plain("a", &p);
}

static void try(const struct row *row)
{
	struct img_open_options o = { .format = "qed", .flags = IMG_OPEN_WRITE };
	struct img_check_result r;
	struct bytes before, after;
	const char *text;

	make_row(row);
	before = load("a");
	r = check("a", 0);
	cr_assert_eq(r.corruptions, row->corruptions, "%s: %u", row->what, (unsigned)r.corruptions);
	cr_assert_eq(r.leaks, row->leaks, "%s: %u leaks", row->what, (unsigned)r.leaks);
	if (row->corruptions) { /* not written to */
		must_fail("a", &o, &text);
		cr_assert(strstr(text, "repaired"), "%s: %s", row->what, text);
	}
	r = check("a", IMG_REPAIR_LEAKS);
	if (row->corruptions) {
		cr_assert(r.leaks == row->leaks && !r.leaks_fixed, "%s", row->what);
		after = load("a");
		cr_assert(before.len == after.len && !memcmp(before.at, after.at, after.len), "%s", row->what);
		free(after.at);
	} else {
		cr_assert(!r.leaks && r.leaks_fixed == row->leaks, "%s", row->what);
	}
	free(before.at);
	clusters_are(row, row->reads);
	r = check("a", IMG_REPAIR_ALL);
	cr_assert_eq(r.corruptions, row->left, "%s: %u left", row->what, (unsigned)r.corruptions);
	cr_assert_eq(r.leaks, row->leaks_left, "%s: %u leaks left", row->what, (unsigned)r.leaks);
	clusters_are(row, row->reads);
	r = check("a", ACCEPT);
	cr_assert(!r.corruptions && !r.leaks, "%s: accepted", row->what);
	clusters_are(row, row->accepted);
	sound("a");
	must_close(must_open("a", "qed", IMG_OPEN_WRITE));
}

Test(qed_check, each_kind_of_damage)
{
	for (size_t i = 0; i < COUNT(rows); i++)
		try(&rows[i]);
}

/* A writer that did not come to its end: what it had not written is given up, and the mark goes. */
Test(qed_check, marked)
{
	static const uint64_t entries[] = { D(0), D(3), 0, D(1), D(1) }, shared[] = { D(0), D(0) };
	static uint8_t model[64 * CLUSTER];
	struct plain p = {
		.features = NEED_CHECK,
		.in_file = 3,
		.entries = entries,
		.entry_count = COUNT(entries),
	};
	struct bytes before, after;
	struct img *img;

	memset(model, 1, CLUSTER);
	memset(model + 3 * CLUSTER, 2, 2 * CLUSTER);
	make_plain("a", &p);
	before = load("a");
	img = must_open("a", "qed", 0); /* a reader lets it be */
	cr_assert_neq(img_read(img, CLUSTER, model + CLUSTER, CLUSTER, NULL), 0);
	memset(model + CLUSTER, 0, CLUSTER);
	must_close(img);
	check("a", 0);
	after = load("a");
	cr_assert(before.len == after.len && !memcmp(before.at, after.at, after.len));
	img = must_open("a", "qed", IMG_OPEN_WRITE);
	cr_assert(img_warning(img) && strstr(img_warning(img), "not closed"), "%s", img_warning(img));
	cr_assert_eq(at64("a", 16), 0);
	must_close(img);
	reads_as("a", model, sizeof(model));
	sound("a");
	/* without anything to repair it is only cleared */
	p.entries = shared;
	p.entry_count = 1;
	make_plain("a", &p);
	img = must_open("a", "qed", IMG_OPEN_WRITE);
	cr_assert_null(img_warning(img));
	must_close(img);
	cr_assert_eq(at64("a", 16), 0);
	make_plain("a", &p);
	check("a", IMG_REPAIR_LEAKS);
	cr_assert_eq(at64("a", 16), NEED_CHECK);
	check("a", IMG_REPAIR_ALL);
	cr_assert_eq(at64("a", 16), 0);
	p.entries = entries;
	p.entry_count = COUNT(entries);
	make_plain("a", &p);
	cr_assert_eq(check("a", 0).corruptions, 2);
	cr_assert_eq(check("a", IMG_REPAIR_ALL).corruptions, 0);
	cr_assert_eq(at64("a", 16), 0);
	reads_as("a", model, sizeof(model));
	free(before.at);
	free(after.at);
}

/* Far more entries for a cluster, or for a table, than there is room for copies. */
Test(qed_check, more_than_there_are)
{
	static uint64_t entries[ENTRIES];
	struct plain p = { .size = (uint64_t)600 * CLUSTER, .in_file = 3, .entries = entries, .entry_count = ENTRIES };
	struct img_check_result r;

	for (unsigned i = 0; i < ENTRIES; i++)
		entries[i] = D(0);
	make_plain("a", &p);
	r = check("a", IMG_REPAIR_ALL);
	cr_assert_eq(r.corruptions, ENTRIES - 1);
	make("a", (uint64_t)1 << 30, "cluster_size=4k,table_size=1", NULL, NULL);
	must_close(must_open("a", "qed", IMG_OPEN_WRITE));
	for (unsigned i = 0; i < ENTRIES; i++)
		patch64("a", CLUSTER + i * 8, CLUSTER);
	r = check("a", IMG_REPAIR_ALL);
	cr_assert_eq(r.corruptions, ENTRIES);
}

/* A file that was cut inside a cluster: what is there of it is read, and the rest said to be missing. */
Test(qed_check, cut_short)
{
	static const uint64_t entries[] = { D(0), D(1) };
	struct plain p = { .in_file = 2, .entries = entries, .entry_count = 2 };
	uint8_t got[CLUSTER];
	struct img *img;

	make_plain("a", &p);
	cr_assert_eq(truncate("a", D(1) + 1024), 0);
	cr_assert_eq(check("a", 0).corruptions, 1);
	cr_assert_eq(check("a", IMG_REPAIR_ALL).corruptions, 1);
	img = must_open("a", "qed", 0);
	cr_assert_eq(img_read(img, CLUSTER, got, 1024, NULL), 0);
	cr_assert_eq(got[1023], 2);
	cr_assert_neq(img_read(img, CLUSTER, got, 1536, NULL), 0);
	must_close(img);
}
