/*
 * A folder to make VMDKs in, and what the disk should read as.
 */
#ifndef TESTS_VMDK_BENCH_H
#define TESTS_VMDK_BENCH_H

#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "libimg/img.h"
#include "tests/support/command.h"
#include "tests/support/scratch.h"

struct bench {
	char dir[SCRATCH_PATH];
	char image[128];
};

static inline void start(struct bench *b)
{
	cr_assert(scratch_make(b->dir, "vmdk-test"));
	snprintf(b->image, sizeof(b->image), "%s/image.vmdk", b->dir);
}

static inline void finish(struct bench *b)
{
	cr_assert(scratch_remove(b->dir));
}

/* A command in the folder; it must succeed. */
#define run(b, ...) run_in((b)->dir, __VA_ARGS__)

/* Make an image; options: "a=1,b=2" or NULL; backing: NULL, or its name. */
static inline int make(const char *path, uint64_t size, const char *options, const char *backing,
		       struct img_error *err)
{
	const char *list[] = { options, NULL };
	struct img_create_options how = {
		.format = "vmdk",
		.have_size = true,
		.size = size,
		.options = options ? list : NULL,
		.backing_name = backing,
		.backing_format = backing ? "vmdk" : NULL,
	};

	return img_create(path, &how, err);
}

static inline void must_make(const char *path, uint64_t size, const char *options,
			     const char *backing)
{
	struct img_error *err = img_error_new();
	struct rlimit files;

	/* Split disks have many extents, as the tool allows itself. */
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	cr_assert_eq(make(path, size, options, backing, err), 0, "%s: %s", options ? options : "",
		     img_error_text(err));
	img_error_free(err);
}

static inline struct img *open_image(const char *path, unsigned flags)
{
	struct img_open_options options = { .format = "vmdk", .flags = flags };
	struct img_error *err = img_error_new();
	struct img *img = NULL;
	int rc = img_open(path, &options, &img, err);

	cr_assert_eq(rc, 0, "open: %s", img_error_text(err));
	img_error_free(err);
	return img;
}

static inline void close_image(struct img *img)
{
	struct img_error *err = img_error_new();
	int rc = img_close(img, err);

	cr_assert_eq(rc, 0, "close: %s", img_error_text(err));
	img_error_free(err);
}

/* Opening must end in rc, with a sentence that has these words. */
static inline void refuse_open(const char *path, unsigned flags, int rc, const char *words)
{
	struct img_open_options options = { .format = "vmdk", .flags = flags };
	struct img_error *err = img_error_new();
	struct img *img;

	cr_assert_eq(img_open(path, &options, &img, err), rc, "%s", img_error_text(err));
	cr_assert(strstr(img_error_text(err), words), "%s", img_error_text(err));
	img_error_free(err);
}

/* Nothing is wrong with the image; ours says so, and qemu-img where it is there. */
static inline void sound(const struct bench *b, const char *path)
{
	struct img *img = open_image(path, IMG_OPEN_CHECK);
	struct img_error *err = img_error_new();
	struct img_check_result r;
	uint64_t size = img_size(img);

	int rc = img_check(img, 0, NULL, NULL, &r, err);

	cr_assert_eq(rc, 0, "%d: %s", rc, img_error_text(err));
	cr_assert(!r.corruptions && !r.leaks && !r.check_errors);
	img_error_free(err);
	close_image(img);
	if (size && have_qemu()) /* no VMDK of 0 bytes, not even its own */
		run(b, "qemu-img check -q -f vmdk %s", path);
}

/* All of an image. malloc'd. */
static inline uint8_t *read_all(const char *path, uint64_t size)
{
	struct img *img = open_image(path, 0);
	struct img_error *err = img_error_new();
	uint8_t *bytes = malloc(size + 1);

	cr_assert_eq(img_size(img), size);
	cr_assert(bytes);
	if (size)
		cr_assert_eq(img_read(img, 0, bytes, size, err), 0, "%s",
			     img_error_text(err));
	img_error_free(err);
	close_image(img);
	return bytes;
}

static inline void read_at(const char *path, uint64_t off, uint8_t *bytes, size_t len)
{
	FILE *f = fopen(path, "r");

	cr_assert(f && !fseek(f, (long)off, SEEK_SET) && fread(bytes, 1, len, f) == len);
	fclose(f);
}

static inline void write_at(const char *path, uint64_t off, const void *bytes, size_t len)
{
	FILE *f = fopen(path, "r+");

	cr_assert(f && !fseek(f, (long)off, SEEK_SET) && fwrite(bytes, 1, len, f) == len);
	cr_assert_eq(fclose(f), 0);
}

static inline uint64_t size_of(const char *path)
{
	FILE *f = fopen(path, "r");
	long size;

	cr_assert(f && !fseek(f, 0, SEEK_END));
	size = ftell(f);
	fclose(f);
	return (uint64_t)size;
}

#endif
