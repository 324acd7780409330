/*
 * One bit of the metadata is wrong, any: whatever could be read before a repair is the same after it, and
 * what is said to be sound is so to qemu-img as well.
 */
#include "libimg/base/endian.h"
#include "tests/formats/vmdk/bench.h"

enum {
	GRAIN = 65536,
	GRAINS = 24,
	SIZE = GRAINS * GRAIN,
};

/* What a damaged disk reads as, grain by grain. */
struct content {
	bool open, readable[GRAINS];
	uint8_t bytes[SIZE];
};

static void look(const char *path, struct content *c)
{
	struct img_open_options o = { .format = "vmdk" };
	struct img *img;

	memset(c, 0, sizeof(*c));
	if (img_open(path, &o, &img, NULL))
		return;
	c->open = true;
	for (size_t i = 0; i < GRAINS; i++)
		c->readable[i] = (i + 1) * GRAIN <= img_size(img) &&
				 !img_read(img, i * GRAIN, c->bytes + i * GRAIN, GRAIN, NULL);
	img_close(img, NULL);
}

static bool is_whole(const struct content *c, const uint8_t *model)
{
	for (size_t i = 0; i < GRAINS; i++)
		if (!c->readable[i])
			return false;
	return !memcmp(c->bytes, model, SIZE);
}

/* Corruptions and leaks that are left; -1: it cannot be opened. */
static int64_t check(const char *path, unsigned repair)
{
	struct img_open_options o = { .format = "vmdk", .flags = IMG_OPEN_CHECK | IMG_OPEN_NO_BACKING };
	struct img_check_result r;
	struct img *img;
	int rc;

	if (repair)
		o.flags |= IMG_OPEN_WRITE;
	if (img_open(path, &o, &img, NULL))
		return -1;
	rc = img_check(img, repair, NULL, NULL, &r, NULL);
	img_close(img, NULL);
	return rc ? -1 : (int64_t)(r.corruptions + r.leaks);
}

static struct content before, after;
static uint8_t model[SIZE];

/* sound: with any of these bits wrong the disk is whole to readers, and a repair makes it sound. */
static void flip(const struct bench *b, const uint8_t *file, size_t len, uint64_t off, size_t count,
		 bool sound)
{
	for (size_t bit = 0; bit < count * 8; bit++) {
		uint8_t byte = file[off + bit / 8] ^ (uint8_t)(1u << bit % 8);
		int64_t left;

		write_at(b->image, 0, file, len);
		cr_assert_eq(truncate(b->image, (off_t)len), 0);
		write_at(b->image, off + bit / 8, &byte, 1);
		look(b->image, &before);
		left = check(b->image, IMG_REPAIR_ALL);
		look(b->image, &after);
		for (size_t i = 0; i < GRAINS; i++)
			cr_assert(!before.readable[i] ||
					  (after.readable[i] && !memcmp(before.bytes + i * GRAIN,
									after.bytes + i * GRAIN, GRAIN)),
				  "bit %zu of %" PRIu64 ": the repair lost grain %zu", bit, off, i);
		cr_assert_eq(check(b->image, 0), left, "bit %zu of %" PRIu64 ": what is left", bit, off);
		if (!is_whole(&before, model))
			continue;
		cr_assert(!sound || !left, "bit %zu of %" PRIu64 ": %" PRId64 " left", bit, off, left);
		if (!left && bit % 11 == 0 && have_qemu())
			run(b, "qemu-img check -q -f vmdk image.vmdk && qemu-img compare -q -f vmdk -F raw "
			       "image.vmdk model.raw");
	}
}

/* A directory, and the entries of its tables that are used. */
static void flip_directory(const struct bench *b, const uint8_t *file, size_t len, uint64_t off)
{
	flip(b, file, len, off, 4, true);
	flip(b, file, len, (uint64_t)le32_load(file + off) * 512, 4 * 9, true);
}

static void every_bit(const char *options, bool ours)
{
	struct img_error *err = img_error_new();
	struct bench b;
	struct img *img;
	uint8_t *file;
	uint64_t len;
	FILE *f;
	char path[200];

	start(&b);
	for (size_t i = 0; i < SIZE; i++)
		model[i] = i / GRAIN % 5 == 2 ? 0 : (uint8_t)((i + 9) * 2654435761u >> 21);
	snprintf(path, sizeof(path), "%s/model.raw", b.dir);
	f = fopen(path, "w");
	cr_assert(f && fwrite(model, 1, SIZE, f) == SIZE && !fclose(f));
	if (ours) {
		must_make(b.image, SIZE, options, NULL);
		img = open_image(b.image, IMG_OPEN_WRITE);
		for (size_t i = 0; i < GRAINS; i++)
			if (i % 5 != 2)
				cr_assert_eq(img_write(img, i * GRAIN, model + i * GRAIN, GRAIN, err), 0);
		close_image(img);
	} else {
		run(&b, "qemu-img convert -f raw -O vmdk -o %s model.raw image.vmdk", options);
	}
	len = size_of(b.image);
	file = malloc(len);
	read_at(b.image, 0, file, len);
	look(b.image, &before);
	cr_assert(is_whole(&before, model));
	flip(&b, file, len, 4, 76, false); /* the header */
	flip_directory(&b, file, len, le64_load(file + 48) * 512);
	flip_directory(&b, file, len, le64_load(file + 56) * 512);
	free(file);
	finish(&b);
	img_error_free(err);
}

TestSuite(vmdk_bits, .timeout = 120);

Test(vmdk_bits, ours)
{
	every_bit("subformat=monolithicSparse", true);
}

Test(vmdk_bits, with_zeroed_grains)
{
	every_bit("zeroed_grain=on", true);
}

Test(vmdk_bits, of_qemu)
{
	if (have_qemu())
		every_bit("subformat=monolithicSparse", false);
}
