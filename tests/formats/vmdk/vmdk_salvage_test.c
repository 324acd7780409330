/*
 * Damaged disks opened for salvage: what is there is read, as it was; what is missing is an error where
 * it is read. Without that flag they are refused, or fail where they are damaged.
 */
#include "formats/vmdk/vmdk_layout.h"
#include "tests/formats/vmdk/bench.h"

enum {
	SECTOR = 512,
	GRAIN = 65536,
	SIZE = 40 * GRAIN + 1024,
};

static uint8_t model[SIZE];

/* Every third grain of zeroes, but for the last. */
static void make_model(void)
{
	uint32_t x = 1;

	for (size_t i = 0; i < SIZE; i++) {
		x = x * 1664525 + 1013904223;
		model[i] = (i / GRAIN) % 3 == 1 && i < 40 * GRAIN ? 0 : (uint8_t)(x >> 24);
	}
}

TestSuite(vmdk_salvage, .init = make_model, .timeout = 60);

static void make_disk(struct bench *b, const char *kind)
{
	struct img_error *err = img_error_new();
	struct img_copy_options how = { 0 };
	struct img_create_options create = { .format = "vmdk", .have_size = true, .size = SIZE };
	struct img_open_options raw = { .format = "raw" };
	const char *options[] = { kind, NULL };
	struct img *source, *target;
	char path[200];
	FILE *f;
	int rc;

	start(b);
	create.options = options;
	snprintf(path, sizeof(path), "%s/model.raw", b->dir);
	f = fopen(path, "w");
	cr_assert(f && fwrite(model, 1, SIZE, f) == SIZE && !fclose(f));
	cr_assert_eq(img_open(path, &raw, &source, err), 0);
	rc = img_copy_to_sink(&source, 1, b->image, -1, &create, &how, err);
	if (rc == -ENOTSUP) {
		cr_assert_eq(img_create_begin(b->image, &create, &target, err), 0, "%s",
			     img_error_text(err));
		cr_assert_eq(img_copy(&source, 1, target, &how, err), 0, "%s", img_error_text(err));
		cr_assert_eq(img_publish(target, err), 0);
		close_image(target);
	} else {
		cr_assert_eq(rc, 0, "%s", img_error_text(err));
	}
	img_close(source, NULL);
	img_error_free(err);
}

static const char *in(const struct bench *b, const char *name)
{
	static char path[200];

	snprintf(path, sizeof(path), "%s/%s", b->dir, name);
	return path;
}

/* Sectors that can be read, which are as they were; each of [from, to) is. */
static size_t readable(const char *path, size_t from, size_t to)
{
	struct img *img = open_image(path, IMG_OPEN_SALVAGE);
	uint8_t sector[SECTOR];
	size_t n = 0;

	cr_assert_eq(img_size(img), SIZE);
	for (size_t off = 0; off < SIZE; off += SECTOR) {
		struct img_error *err = img_error_new();
		struct img_map_entry x;
		int rc = img_read(img, off, sector, SECTOR, err);

		if (!rc) {
			cr_assert(!memcmp(sector, model + off, SECTOR), "sector at %zu", off);
			cr_assert_eq(img_map(img, off, SIZE - off, true, &x, err), 0);
			cr_assert(off + x.length <= SIZE);
			n++;
		} else {
			cr_assert_eq(rc, -EUCLEAN, "%s", img_error_text(err));
			cr_assert(off < from || off >= to, "%zu: %s", off, img_error_text(err));
			/* What a job passes over at once is lost as a whole. */
			cr_assert_leq(img_unit_bytes(img), 1 << 20);
		}
		img_error_free(err);
	}
	close_image(img);
	return n;
}

Test(vmdk_salvage, a_short_flat_file)
{
	static const size_t sizes[] = { 0, 1, 512, 25 * GRAIN + 512, 25 * GRAIN + 700, SIZE - 1024 };
	struct bench b;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t cut = sizes[i] / SECTOR * SECTOR;

		make_disk(&b, "subformat=monolithicFlat");
		cr_assert_eq(truncate(in(&b, "image-flat.vmdk"), (off_t)sizes[i]), 0);
		refuse_open(b.image, 0, -EUCLEAN, "image-flat.vmdk");
		/* A sector that the end cuts is not there. */
		cr_assert_eq(readable(b.image, 0, cut), cut / SECTOR);
		finish(&b);
	}
}

/* Three extents made of one disk of each kind: the descriptor is ours. */
static void write_split(const struct bench *b, const char *type)
{
	FILE *f = fopen(b->image, "w");

	cr_assert(f);
	fprintf(f, "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\n");
	for (int i = 0; i < 3; i++)
		fprintf(f, "RW %d %s \"part-%d%s\"%s\n", i == 2 ? SIZE / SECTOR - 2 * 1280 : 1280, type, i,
			strcmp(type, "FLAT") ? ".vmdk" : ".raw", strcmp(type, "FLAT") ? "" : " 0");
	fclose(f);
	for (int i = 0; i < 3; i++)
		run(b,
		    "dd status=none if=model.raw of=part-%d.raw bs=655360 skip=%d %s && qemu-img convert -f raw -O vmdk "
		    "part-%d.raw part-%d.vmdk",
		    i, i, i == 2 ? "" : "count=1", i, i);
}

Test(vmdk_salvage, lost_extents)
{
	static const char *const types[] = { "FLAT", "SPARSE" };
	const size_t part = 655360;
	struct bench b;

	if (!have_qemu())
		return;
	for (size_t i = 0; i < 2; i++) {
		const char *suffix = i ? "vmdk" : "raw";
		char name[32];

		make_disk(&b, "subformat=monolithicFlat");
		write_split(&b, types[i]);
		cr_assert_eq(readable(b.image, 0, SIZE), SIZE / SECTOR);
		for (int k = 2; k >= 0; k--) {
			snprintf(name, sizeof(name), "part-%d.%s", k, suffix);
			run(&b, "mv %s away", name);
			refuse_open(b.image, 0, -ENOENT, name);
			cr_assert_eq(readable(b.image, k ? 0 : part, k == 2 ? 2 * part : k ? part
											   : SIZE),
				     (SIZE - (k == 2 ? SIZE - 2 * part : part)) / SECTOR);
			run(&b, "mv away %s", name);
		}
		if (i) { /* what is there, but no extent */
			run(&b, "cp model.raw part-1.vmdk");
			cr_assert_eq(readable(b.image, 0, part), (SIZE - part) / SECTOR);
		}
		/* A name that may not be followed is another matter, and so is a disk that is all lost. */
		run(&b, "ln -sf /etc/passwd part-1.%s", suffix);
		refuse_open(b.image, IMG_OPEN_SALVAGE, -EPERM, "outside");
		run(&b, "rm part-*");
		refuse_open(b.image, IMG_OPEN_SALVAGE, -EUCLEAN, "part-0");
		finish(&b);
	}
}

Test(vmdk_salvage, a_sparse_file_that_was_cut)
{
	struct bench b;
	uint64_t size;

	make_disk(&b, "subformat=monolithicSparse");
	size = size_of(b.image);
	/* Grains lie in the order of the disk; 27 of 41 are there, the last is number 40. */
	cr_assert_eq(truncate(b.image, (off_t)(size - GRAIN)), 0);
	cr_assert_eq(readable(b.image, 0, (size_t)40 * GRAIN), 40 * GRAIN / SECTOR);
	cr_assert_eq(truncate(b.image, (off_t)(size - 2 * GRAIN + 1000)), 0);
	/* Of grain 39, a sector; 40 is lost. */
	cr_assert_eq(readable(b.image, 0, (size_t)39 * GRAIN + SECTOR), 39 * GRAIN / SECTOR + 1);
	finish(&b);
}

/* A stream that was cut anywhere, and so lost its tables: all grains before the cut are there. */
Test(vmdk_salvage, a_stream_that_was_cut)
{
	struct bench b;
	uint8_t *bytes;
	uint64_t size, grains_at = 32 * SECTOR;

	make_disk(&b, "subformat=streamOptimized");
	size = size_of(b.image);
	bytes = malloc(size);
	read_at(b.image, 0, bytes, size);
	cr_assert_eq(readable(b.image, 0, SIZE), SIZE / SECTOR);
	for (uint64_t cut = size - SECTOR; cut > grains_at;
	     cut -= min_u64(cut, cut > size - 8192 ? SECTOR : 200 * SECTOR)) {
		uint64_t at = grains_at, end = 0;

		/* Past the last whole grain, by its marker. */
		while (at + SECTOR <= cut) {
			uint64_t sector = bytes[at] + 256u * bytes[at + 1] + 65536u * bytes[at + 2];
			uint64_t len = bytes[at + 8] + 256u * bytes[at + 9] + 65536u * bytes[at + 10];

			if (!len || at + 12 + len > cut)
				break;
			end = sector * SECTOR + GRAIN;
			at += (12 + len + SECTOR - 1) / SECTOR * SECTOR;
		}
		cr_assert_eq(truncate(b.image, (off_t)cut), 0);
		if (cut < size - SECTOR)
			refuse_open(b.image, 0, -EUCLEAN, "");
		if (end)
			cr_assert_geq(readable(b.image, 0, end > SIZE ? SIZE : end),
				      end / SECTOR - 128);
		else
			refuse_open(b.image, IMG_OPEN_SALVAGE, -EUCLEAN, "");
		write_at(b.image, 0, bytes, size);
	}
	free(bytes);
	finish(&b);
}

/* The directory's place is in the header, and behind the file's end. */
Test(vmdk_salvage, a_stream_whose_header_leads_past_the_end)
{
	struct bench b;
	uint64_t size;
	uint8_t place[8];

	make_disk(&b, "subformat=streamOptimized");
	size = size_of(b.image);
	read_at(b.image, size - 1024 + 56, place, sizeof(place));
	write_at(b.image, 56, place, sizeof(place));
	cr_assert_eq(readable(b.image, 0, SIZE), SIZE / SECTOR);
	cr_assert_eq(truncate(b.image, (off_t)size - 1536 - 512), 0);
	refuse_open(b.image, 0, -EUCLEAN, "directory");
	cr_assert_eq(readable(b.image, 0, SIZE), SIZE / SECTOR);
	finish(&b);
}
