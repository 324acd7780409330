/*
 * For fuzz targets whose inputs are changes to a small sound image of one format, with the checksums put right
 * again behind them: what is done with such an image. It is opened for reading, looked up, read and checked; then
 * repaired, after which what could be read before reads the same, also from what the file is then; then written to,
 * and what was written is read back. One that cannot be opened may be one after its repair.
 */
#ifndef FUZZ_CHANGED_H
#define FUZZ_CHANGED_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/crc32c.h"
#include "libimg/image/context.h"

enum {
	CHANGED_PIECE = 65536,
	CHANGED_DISK_MAX = 4 << 20, /* bytes of the disk that are looked at */
};

struct changed {
	const char *format;
	const uint8_t *file;
	size_t bytes;
};

/* What the pieces of the disk read as; a checksum of each, 0: not at all. */
struct changed_content {
	uint64_t size;
	uint32_t piece[CHANGED_DISK_MAX / CHANGED_PIECE];
};

static inline void must(bool holds, const char *what, const char *sentence)
{
	if (!holds) {
		fprintf(stderr, "%s: %s\n", what, sentence);
		abort();
	}
}

static inline struct img_storage *changed_storage(const struct changed *c)
{
	struct img_storage *s;

	must(!img_storage_memory("input", 0, UINT64_C(64) << 20, &s), "no memory", "");
	must(!img_storage_write(s, 0, c->file, c->bytes, NULL), "no memory", "");
	return s;
}

/* Takes s over. NULL: it is refused. */
static inline struct img *changed_open_in(struct img_storage *s, const struct changed *c, unsigned flags,
					  struct img_error *err)
{
	struct img_open_options options = { .format = c->format,
					    .flags = flags | IMG_OPEN_NO_BACKING,
					    .references = "none",
					    .io = IMG_IO_THREADS };
	struct img *img = NULL;

	if (img_open_storage(s, "/nowhere/input", &options, &img, err)) {
		must(*img_error_text(err), "refused without a word", "");
		return NULL;
	}
	return img;
}

static inline struct img *changed_open(const struct changed *c, unsigned flags, struct img_error *err)
{
	return changed_open_in(changed_storage(c), c, flags, err);
}

static inline void changed_read(struct img *img, struct changed_content *out, struct img_error *err)
{
	static uint8_t buf[CHANGED_PIECE];
	uint64_t size = img_size(img);

	memset(out, 0, sizeof(*out));
	out->size = size;
	for (uint64_t off = 0; off + CHANGED_PIECE <= min_u64(size, CHANGED_DISK_MAX);
	     off += CHANGED_PIECE) {
		struct img_map_entry entry;

		if (!img_map(img, off, size - off, true, &entry, err))
			must(entry.length && entry.length <= size - off, "map", "length");
		if (!img_read(img, off, buf, CHANGED_PIECE, err))
			out->piece[off / CHANGED_PIECE] = img_crc32c(0, buf, CHANGED_PIECE) | 1;
		else
			must(*img_error_text(err), "read: refused without a word", "");
	}
}

static inline void changed_write(struct img *img, struct img_error *err)
{
	enum { MIB = 1 << 20 };
	static const uint64_t places[] = { 512, MIB + 1024, 2 * MIB, 3 * MIB + 4096,
					   CHANGED_DISK_MAX - 512 };
	uint8_t bytes[512], got[512];

	for (size_t i = 0; i < IMG_ARRAY_LEN(places); i++) {
		uint64_t off = places[i];
		bool zero = i % 2;

		if (off + sizeof(bytes) > img_size(img))
			continue;
		memset(bytes, zero ? 0 : 0x77, sizeof(bytes));
		if (zero ? img_zero(img, off, sizeof(bytes), err)
			 : img_write(img, off, bytes, sizeof(bytes), err))
			continue;
		must(!img_read(img, off, got, sizeof(got), err), "cannot be read back",
		     img_error_text(err));
		must(!memcmp(got, bytes, sizeof(got)), "reads as something else", "");
	}
	if (img_size(img) >= MIB)
		img_discard(img, 0, MIB, err);
	img_flush(img, err);
}

/* What could be read before reads the same. */
static inline void changed_compare(const struct changed_content *before, const struct changed_content *after,
				   const char *when)
{
	must(before->size == after->size, when, "another size");
	for (size_t i = 0; i < IMG_ARRAY_LEN(before->piece); i++)
		must(!before->piece[i] || before->piece[i] == after->piece[i], when,
		     "what could be read reads as something else");
}

/* The file as it was changed by what is recorded. */
static inline struct img_storage *changed_replay(const struct changed *c, const struct img_record *record)
{
	struct img_storage *s = changed_storage(c);

	for (size_t i = 0; i < img_record_count(record); i++) {
		const struct img_record_entry *e = img_record_at(record, i);
		int rc = 0;

		if (e->kind == IMG_RECORD_WRITE)
			rc = img_storage_write(s, e->off, e->data, (size_t)e->len, NULL);
		else if (e->kind == IMG_RECORD_ZERO)
			rc = img_storage_zero(s, e->off, e->len, NULL);
		else if (e->kind == IMG_RECORD_RESIZE)
			rc = img_storage_resize(s, e->len, IMG_PREALLOCATE_OFF, NULL);
		must(!rc, "no memory", "");
	}
	return s;
}

/* The repair found nothing that it could not repair: the file opens like any other, and is sound. */
static inline void changed_repaired(struct img_storage *s, const struct changed *c,
				    const struct changed_content *content, struct img_error *err)
{
	struct img *img = changed_open_in(s, c, 0, err);
	struct img_check_result result;
	struct changed_content after;

	must(img, "repaired, and cannot be opened", img_error_text(err));
	changed_read(img, &after, err);
	changed_compare(content, &after, "opened after its repair");
	if (!img_check(img, 0, NULL, NULL, &result, err))
		must(!result.corruptions, "opened after its repair", "not sound");
	img_close(img, NULL);
}

/* *content: what it reads as, of the pieces that are known; then, what it reads as repaired. True: it is sound then. */
static inline bool changed_repair(const struct changed *c, struct changed_content *content, struct img_error *err)
{
	struct img_record *record = img_record_new();
	struct img_check_result result = { 0 };
	struct changed_content after = { 0 };
	struct img_storage *s = NULL;
	bool repaired = false;
	struct img *img;
	int rc;

	must(record && !img_storage_record(changed_storage(c), record, &s), "no memory", "");
	img = changed_open_in(s, c, IMG_OPEN_WRITE | IMG_OPEN_CHECK, err);
	if (img) {
		if (!content->size)
			changed_read(img, content, err);
		rc = img_check(img, IMG_REPAIR_ALL, NULL, NULL, &result, err);
		changed_read(img, &after, err);
		if (!rc)
			changed_compare(content, &after, "repair");
		rc = img_close(img, NULL) ? -EIO : rc;
		repaired = !rc && !result.corruptions && !result.check_errors;
	}
	if (repaired)
		changed_repaired(changed_replay(c, record), c, &after, err);
	img_record_free(record);
	*content = after;
	return repaired;
}

/* All of it. */
static inline void changed_try(const struct changed *c)
{
	struct img_error *err = img_error_new();
	struct img_check_result result = { 0 };
	struct changed_content content = { 0 };
	struct img *img = changed_open(c, 0, err);
	bool sound = false;

	if (img) {
		changed_read(img, &content, err);
		sound = !img_check(img, 0, NULL, NULL, &result, err) && !result.corruptions;
		img_close(img, NULL);
	}
	changed_repair(c, &content, err);
	img = changed_open(c, IMG_OPEN_WRITE, err);
	if (img) {
		changed_write(img, err);
		if (sound && !img_check(img, 0, NULL, NULL, &result, err))
			must(!result.corruptions, "after writing", "not sound any more");
		img_close(img, NULL);
	}
	img_error_free(err);
}

#endif
