/*
 * Images whose files are watched: made in a folder, loaded into memory, opened from there. See
 * tests/storage/watch.h.
 */
#ifndef TESTS_FORMATS_WATCHED_H
#define TESTS_FORMATS_WATCHED_H

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "libimg/image/context.h"
#include "tests/storage/watch.h"
#include "tests/support/scratch.h"

/* An image in a folder of its own. Zero-initialise. */
struct folder {
	char dir[SCRATCH_PATH], path[128];
	struct watch watch;
};

static inline void folder_make(struct folder *f, const char *format, const char *options,
			       uint64_t size)
{
	const char *list[] = { options, NULL };
	struct img_create_options how = { .format = format, .have_size = true, .size = size };
	struct img_error *err = img_error_new();

	cr_assert(scratch_make(f->dir, "watched"));
	snprintf(f->path, sizeof(f->path), "%s/image.%s", f->dir, format);
	how.options = options ? list : NULL;
	cr_assert_eq(img_create(f->path, &how, err), 0, "%s", img_error_text(err));
	img_error_free(err);
}

static inline void folder_remove(struct folder *f)
{
	cr_assert(scratch_remove(f->dir));
	free(f);
}

/* The image's file in memory, file 0 of f->watch. */
static inline struct img_storage *folder_load(struct folder *f)
{
	struct img_storage *s = watched_memory(&f->watch, 0, 0);
	FILE *in = fopen(f->path, "r");
	uint8_t bytes[65536];
	uint64_t at = 0;
	size_t n;

	cr_assert_not_null(in);
	while ((n = fread(bytes, 1, sizeof(bytes), in)) > 0) {
		cr_assert_eq(img_storage_write(s, at, bytes, n, NULL), 0);
		at += n;
	}
	fclose(in);
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	f->watch.n = 0;
	return s;
}

/* Takes s over. What the image names is opened as it is on disk. */
static inline struct img *folder_open(struct folder *f, struct img_storage *s, const char *format,
				      unsigned flags)
{
	struct img_open_options how = { .format = format,
					.flags = flags,
					.io = IMG_IO_THREADS };
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	cr_assert_eq(img_open_storage(s, f->path, &how, &img, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	return img;
}

static inline void write_bytes(struct img *img, uint64_t off, uint8_t byte, size_t len, int answer)
{
	struct img_error *err = img_error_new();
	uint8_t *bytes = malloc(len);

	memset(bytes, byte, len);
	cr_assert_eq(img_write(img, off, bytes, len, err), answer, "%s", img_error_text(err));
	img_error_free(err);
	free(bytes);
}

/* Is every guest byte of [off, off + len) that? */
static inline bool reads_as(struct img *img, uint64_t off, uint8_t byte, size_t len)
{
	uint8_t *bytes = malloc(len);
	bool same = true;

	cr_assert_eq(img_read(img, off, bytes, len, NULL), 0);
	for (size_t i = 0; i < len; i++)
		same &= bytes[i] == byte;
	free(bytes);
	return same;
}

static inline void close_sound(struct img *img)
{
	struct img_error *err = img_error_new();

	cr_assert_eq(img_close(img, err), 0, "%s", img_error_text(err));
	img_error_free(err);
}

/* An image on disk with what write_bytes() writes: 7 in [0, len). */
static inline void folder_fill(struct folder *f, const char *format, size_t len)
{
	struct img_open_options how = { .format = format, .flags = IMG_OPEN_WRITE };
	struct img *img = NULL;

	cr_assert_eq(img_open(f->path, &how, &img, NULL), 0);
	write_bytes(img, 0, 7, len, 0);
	close_sound(img);
}

/* A repair of all of s, whose changes alone are in the list then. Takes s over; what it became, open for reading. */
static inline struct img *folder_repair(struct folder *f, struct img_storage *s, const char *format,
					uint64_t corruptions)
{
	struct img_check_result r;
	struct img *img;

	cr_assert_eq(img_storage_sync(s, NULL), 0);
	img = folder_open(f, s, format, IMG_OPEN_CHECK | IMG_OPEN_WRITE);
	f->watch.n = 0;
	cr_assert_eq(img_check(img, IMG_REPAIR_ALL, NULL, NULL, &r, NULL), 0);
	cr_assert(!r.corruptions && r.corruptions_fixed == corruptions);
	return img;
}

/* before(): with a set, writes of data fail as on a full disk. */
static inline int fail_big_writes(struct watch *w, const struct watch_entry *e)
{
	return w->a && e->op == IMG_IO_WRITE && e->len >= 4096 ? -ENOSPC : 0;
}

/*
 * Entry 0 of a table, 4 bytes, is made entry 5, too: the repair has the copy of what it leads to (64 KiB from
 * folder_fill()) durable before entry 5 leads there. Takes s over.
 */
static inline void folder_repair_shared(struct folder *f, struct img_storage *s, const char *format, uint64_t table)
{
	const struct watch *w = &f->watch;
	uint8_t number[4];
	struct img *img;
	size_t entry;

	cr_assert_eq(img_storage_read(s, table, number, 4, NULL), 0);
	cr_assert_eq(img_storage_write(s, table + 5 * 4, number, 4, NULL), 0);
	img = folder_repair(f, s, format, 1);
	entry = watch_find(w, 0, 0, table + 5 * 4, 4);
	cr_assert_lt(entry, w->n);
	cr_assert_lt(watch_find(w, 0, 0, table + 4096, UINT64_MAX / 2), entry);
	cr_assert(!watch_unsynced(w, entry, 0));
	cr_assert(reads_as(img, 5 * 65536, 7, 65536));
	close_sound(img);
}

#endif
