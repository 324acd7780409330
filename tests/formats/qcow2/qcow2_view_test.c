/*
 * Snapshots inside an image, opened as the disks that they keep.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/endian.h"
#include "libimg/img.h"
#include "libimg/base/error.h"
#include "tests/support/scratch.h"

#define IMAGE "tests/data/qcow2/good-snapshots.qcow2"

enum {
	TABLE = 0x3200, /* of the snapshots */
	FIRST_L1_ENTRIES = TABLE + 8,
	FIRST_L1_OFF = TABLE,
	FIRST_SIZE = TABLE + 48,
};

static int open_view(const char *path, const char *keys, unsigned flags, struct img **out,
		     struct img_error *err)
{
	struct img_open_options o = { .flags = flags };
	struct img_node *node = NULL;
	char text[256];
	int rc;

	snprintf(text, sizeof(text), "driver=qcow2,file.filename=%s%s%s", path, *keys ? "," : "", keys);
	rc = img_node_parse_options(text, &node, err);
	if (!rc)
		rc = img_open_node(node, &o, out, err);
	img_node_free(node);
	return rc;
}

/* The disk is made of runs of bytes; the rest is zeroes. */
struct run {
	size_t off, len;
	uint8_t byte;
};

static void is_disk(const char *keys, uint64_t size, const struct run *runs, size_t count)
{
	struct img_error err = { 0 };
	struct img *img = NULL;
	uint8_t *want = calloc(1, size), *got = malloc(size);

	cr_assert(want && got);
	for (size_t i = 0; i < count; i++)
		memset(want + runs[i].off, runs[i].byte, runs[i].len);
	cr_assert_eq(open_view(IMAGE, keys, 0, &img, &err), 0, "%s: %s", keys, img_error_text(&err));
	cr_assert_eq(img_size(img), size, "%s: %lu", keys, img_size(img));
	cr_assert_eq(img_read(img, 0, got, size, NULL), 0);
	cr_assert_arr_eq(got, want, size, "%s", keys);
	cr_assert_eq(img_close(img, NULL), 0);
	free(want);
	free(got);
}

Test(qcow2_view, states_of_the_disk)
{
	static const struct run now[] = { { 0, 1024, 0x33 },
					  { 1024, 1024, 0x11 },
					  { 2048, 4096, 0x22 } };
	static const struct run first[] = { { 0, 4096, 0x11 } };
	static const struct run second[] = { { 0, 2048, 0x11 }, { 2048, 4096, 0x22 } };

	is_disk("", 96 << 10, now, 3);
	is_disk("snapshot.id=1", 64 << 10, first, 1);
	is_disk("snapshot.name=first", 64 << 10, first, 1);
	is_disk("snapshot.id=2", 64 << 10, second, 2);
	is_disk("snapshot.id=2,snapshot.name=second", 64 << 10, second, 2);
}

static void refused(const char *path, const char *keys, unsigned flags, int rc, const char *why)
{
	struct img_error err = { 0 };
	struct img *img = NULL;

	cr_assert_eq(open_view(path, keys, flags, &img, &err), rc, "%s: %s", keys,
		     img_error_text(&err));
	cr_assert_null(img);
	cr_assert(strstr(img_error_text(&err), why), "%s: %s", keys, img_error_text(&err));
	img_error_clear(&err);
}

Test(qcow2_view, that_are_refused)
{
	refused(IMAGE, "snapshot.id=3", 0, -ENOENT, "Can't find snapshot '3'");
	refused(IMAGE, "snapshot.id=1,snapshot.name=second", 0, -ENOENT, "Can't find snapshot");
	refused(IMAGE, "snapshot.id=first", 0, -ENOENT, "Can't find snapshot");
	refused(IMAGE, "snapshot.id=1", IMG_OPEN_WRITE | IMG_OPEN_NO_LOCK, -EINVAL, "can only be read");
	refused(IMAGE, "snapshot.id=1", IMG_OPEN_CHECK, -EINVAL, "can only be read");
}

/* The same image with a few bytes changed. */
static void changed(size_t off, uint64_t value, size_t len, int rc, const char *why)
{
	char name[SCRATCH_PATH];
	uint8_t bytes[8], image[16384];
	FILE *in = fopen(IMAGE, "rb");
	size_t n = fread(image, 1, sizeof(image), in);
	int fd = scratch_name(name, "qcow2-view") ? mkstemp(name) : -1;

	fclose(in);
	be64_store(bytes, value << (64 - 8 * len));
	memcpy(image + off, bytes, len);
	cr_assert_eq(write(fd, image, n), (ssize_t)n);
	close(fd);
	refused(name, "snapshot.id=1", 0, rc, why);
	unlink(name);
}

Test(qcow2_view, whose_tables_cannot_be)
{
	changed(FIRST_L1_ENTRIES, 1, 4, -EUCLEAN, "has 1 entries");
	changed(FIRST_L1_ENTRIES, 0x7fffffff, 4, -EUCLEAN, "too large");
	changed(FIRST_L1_OFF, 0x201, 8, -EUCLEAN, "offset invalid");
	changed(FIRST_L1_OFF, 1 << 20, 8, -EUCLEAN, "past the end of the file");
	changed(FIRST_SIZE, UINT64_MAX, 8, -EUCLEAN, "size");
	changed(FIRST_SIZE, 1 << 20, 8, -EUCLEAN, "entries, the size of 1048576");
}
