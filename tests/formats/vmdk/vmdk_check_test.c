/*
 * Repairs of sparse extents, one damage at a time: what could be read before reads the same after, the image is sound
 * then (for qemu-img too), and another repair changes nothing.
 */
#include "libimg/base/endian.h"
#include "tests/formats/vmdk/bench.h"

enum {
	GRAIN = 65536,
	COVERS = 512 * GRAIN, /* what a grain table does */
	SIZE = 2 * COVERS,
	OFF_CAPACITY = 12,
	OFF_REDUNDANT = 48,
	OFF_DIRECTORY = 56,
	OFF_UNCLEAN = 72,
	FAR = 0x7fffffff, /* a sector that no file has */
	DESCRIPTOR = 1,	  /* the descriptor's sector */
};

/* ---- The image ---- */

static uint64_t number_at(const struct bench *b, uint64_t off, unsigned bytes)
{
	uint8_t slot[8] = { 0 };

	read_at(b->image, off, slot, bytes);
	return le64_load(slot);
}

static void set_number(const struct bench *b, uint64_t off, uint64_t value, unsigned bytes)
{
	uint8_t slot[8];

	le64_store(slot, value);
	write_at(b->image, off, slot, bytes);
}

/* File offset of entry `number` of the directory that a field of the header leads to. */
static uint64_t entry_of(const struct bench *b, uint64_t field, uint64_t number)
{
	return number_at(b, field, 8) * 512 + 4 * number;
}

/* File offset of entry `number` of a table. */
static uint64_t slot_of(const struct bench *b, uint64_t field, uint64_t table, uint64_t number)
{
	return number_at(b, entry_of(b, field, table), 4) * 512 + 4 * number;
}

/* Grains at the start of both tables, and between. */
static const uint64_t places[] = { 0, 3 * GRAIN, 511 * (uint64_t)GRAIN, COVERS, COVERS + 7 * (uint64_t)GRAIN };
enum { PLACES = sizeof(places) / sizeof(*places) };

static void make_filled(struct bench *b)
{
	uint8_t bytes[4096];
	struct img *img;

	start(b);
	must_make(b->image, SIZE, NULL, NULL);
	img = open_image(b->image, IMG_OPEN_WRITE);
	for (unsigned i = 0; i < PLACES; i++) {
		memset(bytes, (int)i + 1, sizeof(bytes));
		cr_assert_eq(img_write(img, places[i], bytes, sizeof(bytes), NULL), 0);
	}
	close_image(img);
	sound(b, b->image);
}

/* ---- Damages ---- */

static void entry_out_of_file(struct bench *b)
{
	set_number(b, entry_of(b, OFF_DIRECTORY, 1), FAR, 4);
}

static void copy_entry_out_of_file(struct bench *b)
{
	set_number(b, entry_of(b, OFF_REDUNDANT, 1), FAR, 4);
}

static void grain_out_of_file(struct bench *b)
{
	set_number(b, slot_of(b, OFF_DIRECTORY, 0, 3), FAR, 4);
}

static void copy_grain_out_of_file(struct bench *b)
{
	set_number(b, slot_of(b, OFF_REDUNDANT, 1, 7), FAR, 4);
}

static void entry_in_descriptor(struct bench *b)
{
	set_number(b, entry_of(b, OFF_DIRECTORY, 1), DESCRIPTOR, 4);
}

static void copy_entry_in_descriptor(struct bench *b)
{
	set_number(b, entry_of(b, OFF_REDUNDANT, 0), DESCRIPTOR, 4);
}

static void directory_out_of_file(struct bench *b)
{
	set_number(b, OFF_DIRECTORY, FAR, 8);
}

static void copy_out_of_file(struct bench *b)
{
	set_number(b, OFF_REDUNDANT, FAR, 8);
}

static void directory_in_descriptor(struct bench *b)
{
	set_number(b, OFF_DIRECTORY, DESCRIPTOR, 8);
}

static void copy_in_descriptor(struct bench *b)
{
	set_number(b, OFF_REDUNDANT, DESCRIPTOR, 8);
}

static void another_capacity(struct bench *b)
{
	set_number(b, OFF_CAPACITY, number_at(b, OFF_CAPACITY, 8) + GRAIN / 512, 8);
}

static void both_entries_out_of_file(struct bench *b)
{
	entry_out_of_file(b);
	copy_entry_out_of_file(b);
}

static void a_table_of_the_other(struct bench *b)
{
	set_number(b, entry_of(b, OFF_DIRECTORY, 1), number_at(b, entry_of(b, OFF_DIRECTORY, 0), 4),
		   4);
}

static void entry_and_copy_in_each_other(struct bench *b)
{
	set_number(b, entry_of(b, OFF_REDUNDANT, 0),
		   number_at(b, entry_of(b, OFF_DIRECTORY, 0), 4) + 1, 4);
}

static const struct {
	const char *name;
	void (*make)(struct bench *b);
	bool lasts; /* no repair knows better */
} damages[] = {
	{ "a directory entry out of the file", entry_out_of_file, false },
	{ "a copy's entry out of the file", copy_entry_out_of_file, false },
	{ "a grain out of the file", grain_out_of_file, false },
	{ "a copy's grain out of the file", copy_grain_out_of_file, false },
	{ "a table in the descriptor", entry_in_descriptor, false },
	{ "a copy in the descriptor", copy_entry_in_descriptor, false },
	{ "the directory out of the file", directory_out_of_file, false },
	{ "its copy out of the file", copy_out_of_file, false },
	{ "the directory in the descriptor", directory_in_descriptor, false },
	{ "its copy in the descriptor", copy_in_descriptor, false },
	{ "another capacity", another_capacity, false },
	{ "both entries out of the file", both_entries_out_of_file, true },
	{ "a table that is another one's", a_table_of_the_other, true },
	{ "a copy that lies over its table", entry_and_copy_in_each_other, false },
};

/* ---- Judging ---- */

/* Of each grain that has data: whether it can be read, and its first bytes. */
struct content {
	int rc[PLACES];
	uint8_t bytes[PLACES][4096];
};

static bool read_content(const struct bench *b, struct content *c)
{
	struct img_open_options o = { .format = "vmdk" };
	struct img *img = NULL;

	memset(c, 0, sizeof(*c));
	if (img_open(b->image, &o, &img, NULL))
		return false;
	for (unsigned i = 0; i < PLACES; i++)
		c->rc[i] = img_read(img, places[i], c->bytes[i], sizeof(c->bytes[i]), NULL);
	close_image(img);
	return true;
}

static struct img_check_result check(const struct bench *b, unsigned repair)
{
	struct img *img =
		open_image(b->image, IMG_OPEN_CHECK | (repair ? (unsigned)IMG_OPEN_WRITE : 0));
	struct img_error *err = img_error_new();
	struct img_check_result r;

	cr_assert_eq(img_check(img, repair, NULL, NULL, &r, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	close_image(img);
	return r;
}

static void same_content(const char *name, const struct content *before, const struct content *after)
{
	for (unsigned i = 0; i < PLACES; i++) {
		if (before->rc[i])
			continue;
		cr_assert_eq(after->rc[i], 0, "%s: grain %u cannot be read any more", name, i);
		cr_assert_arr_eq(after->bytes[i], before->bytes[i], 4096, "%s: grain %u", name, i);
	}
}

static void repaired(size_t k, bool unclean)
{
	static const uint8_t one = 1;
	static struct content before, after;
	const char *name = damages[k].name;
	struct img_check_result r;
	struct bench b;

	make_filled(&b);
	damages[k].make(&b);
	if (unclean)
		write_at(b.image, OFF_UNCLEAN, &one, 1);
	cr_assert(read_content(&b, &before), "%s", name);
	r = check(&b, 0);
	cr_assert_gt(r.corruptions + r.leaks, 0, "%s", name);
	check(&b, IMG_REPAIR_LEAKS);
	cr_assert(read_content(&b, &after), "%s", name);
	same_content(name, &before, &after);
	r = check(&b, IMG_REPAIR_ALL);
	cr_assert(read_content(&b, &after), "%s", name);
	same_content(name, &before, &after);
	cr_assert_eq(r.corruptions > 0, damages[k].lasts, "%s: %u left", name, (unsigned)r.corruptions);
	cr_assert_eq(number_at(&b, OFF_UNCLEAN, 1), unclean && damages[k].lasts, "%s", name);
	if (!damages[k].lasts)
		sound(&b, b.image);
	run(&b, "cp image.vmdk once.vmdk");
	check(&b, IMG_REPAIR_ALL);
	run(&b, "cmp image.vmdk once.vmdk");
	finish(&b);
}

Test(vmdk_check, each_damage, .timeout = 120)
{
	for (size_t k = 0; k < sizeof(damages) / sizeof(*damages); k++) {
		repaired(k, false);
		repaired(k, true);
	}
}
