/*
 * A folder with an image that qemu-img made, and what the image should read as.
 */
#ifndef TESTS_QCOW2_BENCH_H
#define TESTS_QCOW2_BENCH_H

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/img.h"
#include "tests/support/command.h"
#include "tests/support/scratch.h"

/* One image and what it should read as. */
struct bench {
	char dir[SCRATCH_PATH];
	char image[128], model_file[128];
	uint8_t *model;
	uint64_t size;
	uint64_t unit;
	uint64_t seed;
	bool compress;
};

static inline uint64_t next_random(struct bench *b)
{
	b->seed ^= b->seed << 13;
	b->seed ^= b->seed >> 7;
	b->seed ^= b->seed << 17;
	return b->seed;
}

static inline uint64_t below(struct bench *b, uint64_t n)
{
	return next_random(b) % n;
}

/* A command in the folder; it must succeed. */
#define run(b, ...) run_in((b)->dir, __VA_ARGS__)

static inline void start(struct bench *b, uint64_t seed, uint64_t size)
{
	const char *other = getenv("IMG_SEED"); /* another run of the same tests */

	if (other)
		seed += strtoull(other, NULL, 10) * 1000;
	*b = (struct bench){ .seed = seed * 0x9e3779b97f4a7c15u + 1, .size = size };
	cr_assert(scratch_make(b->dir, "qcow2-test"));
	snprintf(b->image, sizeof(b->image), "%s/image.qcow2", b->dir);
	snprintf(b->model_file, sizeof(b->model_file), "%s/model.raw", b->dir);
	b->model = calloc(1, size);
	cr_assert(b->model);
}

static inline void finish(struct bench *b)
{
	free(b->model);
	cr_assert(scratch_remove(b->dir));
}

static inline void random_bytes(struct bench *b, uint8_t *p, uint64_t len)
{
	/* Half of it compressible. */
	uint64_t stamp = next_random(b);

	for (uint64_t i = 0; i < len; i++)
		p[i] = (uint8_t)(i % 64 < 32 ? stamp >> (i % 8 * 8) : stamp * (i / 3 + 1) >> 32);
}

static inline void write_file(const char *path, const uint8_t *bytes, uint64_t len)
{
	FILE *f = fopen(path, "w");

	cr_assert(f && fwrite(bytes, 1, len, f) == len && !fclose(f));
}

static inline struct img *open_image(struct bench *b, unsigned flags)
{
	struct img_open_options options = { .format = "qcow2", .flags = flags };
	struct img_error *err = img_error_new();
	struct img *img = NULL;
	int rc = img_open(b->image, &options, &img, err);

	cr_assert_eq(rc, 0, "open: %s", img_error_text(err));
	img_error_free(err);
	b->unit = img_unit_bytes(img);
	return img;
}

static inline void close_image(struct img *img)
{
	struct img_error *err = img_error_new();
	int rc = img_close(img, err);

	cr_assert_eq(rc, 0, "close: %s", img_error_text(err));
	img_error_free(err);
}

#endif
