/*
 * Images in memory, to be damaged, cut and opened again.
 */
#ifndef TESTS_QCOW2_MEMORY_H
#define TESTS_QCOW2_MEMORY_H

#include "libimg/image/context.h"
#include "libimg/storage/storage.h"
#include "tests/formats/qcow2/bench.h"

enum { FILE_LIMIT = 64 << 20 };

/* An image in memory. */
struct file {
	uint8_t *bytes;
	uint64_t len;
};

static inline struct file load_file(const char *path)
{
	struct stat st;
	FILE *f = fopen(path, "r");
	struct file file = { 0 };

	cr_assert(f && !fstat(fileno(f), &st));
	file.len = (uint64_t)st.st_size;
	file.bytes = malloc(file.len);
	cr_assert(file.bytes && fread(file.bytes, 1, file.len, f) == file.len);
	fclose(f);
	return file;
}

static inline struct file copy_file(const struct file *file)
{
	struct file copy = { malloc(file->len), file->len };

	cr_assert(copy.bytes);
	memcpy(copy.bytes, file->bytes, file->len);
	return copy;
}

static inline struct img_storage *in_memory(const struct file *file)
{
	struct img_storage *s;

	cr_assert_eq(img_storage_memory("memory.qcow2", 0, FILE_LIMIT, &s), 0);
	cr_assert_eq(img_storage_write(s, 0, file->bytes, file->len, NULL), 0);
	return s;
}

/* Takes the storage over. */
static inline struct img *open_memory(struct img_storage *s, unsigned flags)
{
	struct img_open_options options = { .format = "qcow2", .flags = flags };
	struct img_error *err = img_error_new();
	struct img *img = NULL;
	int rc = img_open_storage(s, "memory.qcow2", &options, &img, err);

	cr_assert_eq(rc, 0, "open: %s", img_error_text(err));
	img_error_free(err);
	return img;
}

#endif
