/*
 * For fuzz targets whose inputs are changes to a small sound image of one format, with the checksums put right
 * again behind them: what is done with such an image. It is opened for reading, looked up, read and checked; then
 * repaired, after which what could be read before reads the same; then written to, and what was written is
 * read back.
 */
#ifndef FUZZ_CHANGED_H
#define FUZZ_CHANGED_H

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

static inline struct img *changed_open(const struct changed *c, unsigned flags, struct img_error *err)
{
	struct img_open_options options = { .format = c->format,
					    .flags = flags | IMG_OPEN_NO_BACKING,
					    .references = "none",
					    .io = IMG_IO_THREADS };
	struct img_storage *s;
	struct img *img = NULL;

	must(!img_storage_memory("input", 0, UINT64_C(64) << 20, &s), "no memory", "");
	must(!img_storage_write(s, 0, c->file, c->bytes, NULL), "no memory", "");
	if (img_open_storage(s, "/nowhere/input", &options, &img, err)) {
		must(*img_error_text(err), "refused without a word", "");
		return NULL;
	}
	return img;
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

static inline void changed_repair(struct img *img, const struct changed_content *before, struct img_error *err)
{
	struct changed_content after;
	struct img_check_result result;

	if (img_check(img, IMG_REPAIR_ALL, NULL, NULL, &result, err))
		return;
	changed_read(img, &after, err);
	must(before->size == after.size, "repair", "another size");
	for (size_t i = 0; i < IMG_ARRAY_LEN(before->piece); i++)
		must(!before->piece[i] || before->piece[i] == after.piece[i], "repair",
		     "what could be read reads as something else");
}

/* All of it. */
static inline void changed_try(const struct changed *c)
{
	struct img_error *err = img_error_new();
	struct img_check_result result = { 0 };
	struct changed_content before;
	struct img *img = changed_open(c, 0, err);
	bool sound;

	if (!img) {
		img_error_free(err);
		return;
	}
	changed_read(img, &before, err);
	sound = !img_check(img, 0, NULL, NULL, &result, err) && !result.corruptions;
	img_close(img, NULL);
	img = changed_open(c, IMG_OPEN_WRITE | IMG_OPEN_CHECK, err);
	if (img) {
		changed_repair(img, &before, err);
		img_close(img, NULL);
	}
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
