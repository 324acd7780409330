/*
 * A folder with VHDX images, and a reader of them that is none of the driver's: straight from the
 * format's description, with the parents that it is told.
 */
#ifndef TESTS_VHDX_BENCH_H
#define TESTS_VHDX_BENCH_H

#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/crc32c.h"
#include "libimg/base/endian.h"
#include "libimg/img.h"
#include "tests/support/command.h"
#include "tests/support/scratch.h"

enum { MIB = 1 << 20 };

struct bench {
	char dir[SCRATCH_PATH];
	uint64_t seed;
};

static inline uint64_t next_random(struct bench *b)
{
	b->seed ^= b->seed << 13;
	b->seed ^= b->seed >> 7;
	b->seed ^= b->seed << 17;
	return b->seed;
}

/* The exit code of a command in the folder. */
#define try(b, ...) try_in((b)->dir, __VA_ARGS__)

static inline void start(struct bench *b, uint64_t seed)
{
	*b = (struct bench){ .seed = seed * 0x9e3779b97f4a7c15u + 1 };
	cr_assert(scratch_make(b->dir, "vhdx-test"));
}

static inline void finish(struct bench *b)
{
	cr_assert(scratch_remove(b->dir));
}

/* The path of a file in the folder, in one of a few static buffers. */
static inline const char *in(const struct bench *b, const char *name)
{
	static char path[4][200];
	static unsigned next;
	char *to = path[next++ % 4];

	snprintf(to, sizeof(path[0]), "%s/%s", b->dir, name);
	return to;
}

/* ---- Files ---- */

struct file {
	uint8_t *bytes;
	uint64_t len;
};

static inline struct file load(const char *path)
{
	struct stat st;
	FILE *f = fopen(path, "r");
	struct file file;

	cr_assert(f && !fstat(fileno(f), &st), "%s", path);
	file.len = (uint64_t)st.st_size;
	file.bytes = malloc(file.len + 1);
	cr_assert(file.bytes && fread(file.bytes, 1, file.len, f) == file.len);
	fclose(f);
	return file;
}

static inline void save(const char *path, const struct file *file)
{
	FILE *f = fopen(path, "w");

	cr_assert(f && fwrite(file->bytes, 1, file->len, f) == file->len && !fclose(f));
}

/* Put the right checksum into a structure. */
static inline void seal(uint8_t *bytes, size_t len)
{
	le32_store(bytes + 4, 0);
	le32_store(bytes + 4, img_crc32c(0, bytes, len));
}

/* The header that counts. */
static inline uint8_t *header_of(const struct file *f)
{
	uint8_t *one = f->bytes + 0x10000, *two = f->bytes + 0x20000;

	return le64_load(two + 8) > le64_load(one + 8) ? two : one;
}

static inline uint64_t region_of(const struct file *f, uint8_t first_byte)
{
	const uint8_t *table = f->bytes + 0x30000;

	for (uint32_t i = 0; i < le32_load(table + 8); i++)
		if (table[16 + 32 * i] == first_byte)
			return le64_load(table + 32 + 32 * i);
	cr_assert_fail("no such region");
	return 0;
}

static inline uint64_t bat_of(const struct file *f)
{
	return region_of(f, 0x66);
}

/* An item's bytes, by the first byte of its GUID. */
static inline uint8_t *item_of(const struct file *f, uint8_t first_byte)
{
	uint64_t at = region_of(f, 0x06);
	const uint8_t *table = f->bytes + at;

	for (uint32_t i = 1; i <= le16_load(table + 10); i++)
		if (table[32 * i] == first_byte)
			return f->bytes + at + le32_load(table + 32 * i + 16);
	cr_assert_fail("no such item");
	return NULL;
}

enum { ITEM_PARAMETERS = 0x37,
       ITEM_SIZE = 0x24,
       ITEM_SECTOR = 0x1d };

/*
 * What the disk reads as, by the format's description. parent: what the parent reads as (NULL: none).
 * The log must be empty. malloc'd.
 */
static inline struct file read_plain(const char *path, const struct file *parent)
{
	struct file f = load(path), out;
	uint64_t block = le32_load(item_of(&f, ITEM_PARAMETERS));
	uint64_t sector = le32_load(item_of(&f, ITEM_SECTOR));
	uint64_t ratio = (UINT64_C(1) << 23) * sector / block;
	const uint8_t *bat = f.bytes + bat_of(&f);

	cr_assert(img_crc32c(0, "", 0) == 0 && !memcmp(header_of(&f), "head", 4));
	for (int i = 0; i < 16; i++)
		cr_assert_eq(header_of(&f)[48 + i], 0, "the log is not empty");
	out.len = le64_load(item_of(&f, ITEM_SIZE));
	out.bytes = calloc(1, out.len + 1);
	cr_assert(out.bytes);
	for (uint64_t off = 0; off < out.len; off += sector) {
		uint64_t b = off / block, entry = le64_load(bat + 8 * (b + b / ratio));
		uint64_t place = (entry >> 20 << 20) + off % block;
		bool theirs = (entry & 7) == 0, ours = (entry & 7) == 6;

		if ((entry & 7) == 7) {
			uint64_t chunk = b / ratio,
				 map = le64_load(bat + 8 * (chunk * (ratio + 1) + ratio));
			uint64_t bit = off % (ratio * block) / sector;

			cr_assert_eq(map & 7, 6);
			ours = f.bytes[(map >> 20 << 20) + bit / 8] >> bit % 8 & 1;
			theirs = !ours;
		}
		if (ours) {
			cr_assert_leq(place + sector, f.len);
			memcpy(out.bytes + off, f.bytes + place, sector);
		} else if (theirs && parent && off < parent->len) {
			memcpy(out.bytes + off, parent->bytes + off,
			       min_u64(sector, parent->len - off));
		}
	}
	free(f.bytes);
	return out;
}

/* ---- Images ---- */

static inline struct img *open_as(const char *path, unsigned flags)
{
	struct img_open_options options = { .format = "vhdx", .flags = flags };
	struct img_error *err = img_error_new();
	struct img *img = NULL;
	int rc = img_open(path, &options, &img, err);

	cr_assert_eq(rc, 0, "open: %s", img_error_text(err));
	img_error_free(err);
	return img;
}

static inline void done(struct img *img)
{
	struct img_error *err = img_error_new();
	int rc = img_close(img, err);

	cr_assert_eq(rc, 0, "close: %s", img_error_text(err));
	img_error_free(err);
}

/* It must be refused, with the words. */
static inline void refuse(const char *path, unsigned flags, const char *words)
{
	struct img_open_options options = { .format = "vhdx", .flags = flags };
	struct img_error *err = img_error_new();
	struct img *img = NULL;
	int rc = img_open(path, &options, &img, err);

	cr_assert(rc < 0, "%s: not refused", words);
	cr_assert(strstr(img_error_text(err), words), "'%s' in '%s'", words, img_error_text(err));
	img_error_free(err);
}

/* Options end with NULL. */
static inline int create_in(const char *path, uint64_t size, const char *backing,
			    const char *const *options, struct img_error *err)
{
	struct img_create_options how = { .format = "vhdx",
					  .have_size = !!size,
					  .size = size,
					  .backing_name = backing,
					  .backing_format = backing ? "vhdx" : NULL,
					  .options = options };

	return img_create(path, &how, err);
}

static inline void create(const char *path, uint64_t size, const char *backing, const char *option)
{
	const char *options[] = { option, NULL };
	struct img_error *err = img_error_new();
	int rc = create_in(path, size, backing, option ? options : NULL, err);

	cr_assert_eq(rc, 0, "create: %s", img_error_text(err));
	img_error_free(err);
}

/* The image reads as that, by the library. */
static inline void reads_as(const char *path, const uint8_t *bytes, uint64_t len)
{
	struct img *img = open_as(path, 0);
	uint8_t *got = malloc(len + 1);

	cr_assert_eq(img_size(img), len);
	cr_assert_eq(img_read(img, 0, got, len, NULL), 0);
	for (uint64_t i = 0; i < len; i += 512)
		cr_assert(!memcmp(got + i, bytes + i, min_u64(512, len - i)),
			  "%s: sector at %" PRIu64, path, i);
	free(got);
	done(img);
}

#endif
