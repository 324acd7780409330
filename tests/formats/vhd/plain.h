/*
 * A plain reader of VHDs, from the format's document alone: what the library writes is judged by it. And
 * changes of files, byte by byte.
 */
#ifndef TESTS_VHD_PLAIN_H
#define TESTS_VHD_PLAIN_H

#include "tests/image/folder.h"

#include <sys/wait.h>

static inline uint64_t be(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;

	while (n--)
		v = v << 8 | *p++;
	return v;
}

struct bytes {
	uint8_t *at;
	size_t len;
};

static inline struct bytes load(const char *name)
{
	struct stat st;
	struct bytes b;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	cr_assert(fd >= 0 && !fstat(fd, &st), "%s", name);
	b.len = (size_t)st.st_size;
	b.at = malloc(b.len + 1);
	cr_assert_eq(pread(fd, b.at, b.len, 0), (ssize_t)b.len);
	close(fd);
	return b;
}

static inline void patch(const char *name, uint64_t off, const void *bytes, size_t len)
{
	int fd = open(name, O_WRONLY | O_CLOEXEC);

	cr_assert_eq(pwrite(fd, bytes, len, (off_t)off), (ssize_t)len);
	close(fd);
}

/* A big-endian number of n bytes; the checksum at sum of the structure of len bytes at start is made right. */
static inline void patch_number(const char *name, uint64_t start, size_t len, size_t sum, size_t off,
				uint64_t value, unsigned n)
{
	struct bytes b = load(name);
	uint32_t total = 0;

	for (unsigned i = 0; i < n; i++)
		b.at[start + off + i] = (uint8_t)(value >> 8 * (n - 1 - i));
	for (size_t i = 0; i < len; i++)
		total += i >= sum && i < sum + 4 ? 0 : b.at[start + i];
	for (unsigned i = 0; i < 4; i++)
		b.at[start + sum + i] = (uint8_t)(~total >> 8 * (3 - i));
	patch(name, start, b.at + start, len);
	free(b.at);
}

static inline void patch_footer(const char *name, uint64_t start, size_t off, uint64_t value, unsigned n)
{
	patch_number(name, start, 512, 64, off, value, n);
}

/* The disk of size bytes, over what is in out already (a parent's, or zeroes). */
static inline void plain_read(const char *name, uint8_t *out, uint64_t size)
{
	struct bytes f = load(name);
	const uint8_t *footer = f.at + f.len - 512, *header;
	uint64_t table, block;

	cr_assert(!memcmp(footer, "conectix", 8), "%s has no footer at its end", name);
	if (be(footer + 60, 4) == 2) {
		cr_assert_leq(size, f.len - 512);
		memcpy(out, f.at, size);
		free(f.at);
		return;
	}
	cr_assert(!memcmp(footer, f.at, 512), "%s: the footers differ", name);
	header = f.at + be(footer + 16, 8);
	table = be(header + 16, 8);
	block = be(header + 32, 4);
	for (uint64_t n = 0; n * block < size; n++) {
		uint64_t entry = be(f.at + table + n * 4, 4), bitmap = (block / 512 / 8 + 511) / 512 * 512;

		if (entry == UINT32_MAX)
			continue;
		cr_assert_leq(entry * 512 + bitmap + block, f.len - 512);
		for (uint64_t s = 0; s < block / 512 && n * block + s * 512 < size; s++)
			if (f.at[entry * 512 + s / 8] >> (7 - s % 8) & 1)
				memcpy(out + n * block + s * 512, f.at + entry * 512 + bitmap + s * 512, 512);
	}
	free(f.at);
}

/* An image; options: "a=1,b=2" or NULL. */
static inline int make(const char *name, uint64_t size, const char *options, const char *backing,
		       const char **text)
{
	static char sentence[2048];
	const char *list[] = { options, NULL };
	struct img_create_options o = {
		.format = "vpc",
		.have_size = size != 0,
		.size = size,
		.options = options ? list : NULL,
		.backing_name = backing,
		.backing_format = backing ? "vpc" : NULL,
	};
	struct img_error *err = img_error_new();
	int rc = img_create(name, &o, err);

	snprintf(sentence, sizeof(sentence), "%s", img_error_text(err));
	if (text)
		*text = sentence;
	else
		cr_assert_eq(rc, 0, "%s: %s", name, sentence);
	img_error_free(err);
	return rc;
}

static inline void put(struct img *img, uint64_t off, size_t len, uint8_t value, uint8_t *model)
{
	struct img_error *err = img_error_new();

	memset(model + off, value, len);
	cr_assert_eq(img_write(img, off, model + off, len, err), 0, "%s", img_error_text(err));
	img_error_free(err);
}

/* What the library reads of it, the plain reader over below, and the model are the same. */
static inline void reads_as(const char *name, const uint8_t *model, uint64_t size, const uint8_t *below)
{
	struct img *img = must_open(name, "vpc", 0);
	uint8_t *got = calloc(1, size);

	cr_assert_eq(img_size(img), size);
	cr_assert_eq(img_read(img, 0, got, size, NULL), 0);
	cr_assert(!memcmp(got, model, size), "%s: read by the library", name);
	must_close(img);
	if (below)
		memcpy(got, below, size);
	else
		memset(got, 0, size);
	plain_read(name, got, size);
	cr_assert(!memcmp(got, model, size), "%s: read by the plain reader", name);
	free(got);
}

/* Check it, and repair: what is left and what was fixed. */
static inline struct img_check_result check(const char *name, unsigned repair)
{
	struct img *img = must_open(name, "vpc", IMG_OPEN_CHECK | (repair ? (unsigned)IMG_OPEN_WRITE : 0));
	struct img_error *err = img_error_new();
	struct img_check_result r;

	cr_assert_eq(img_check(img, repair, NULL, NULL, &r, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	must_close(img);
	return r;
}

static inline void sound(const char *name)
{
	struct img_check_result r = check(name, 0);

	cr_assert(!r.corruptions && !r.leaks && !r.check_errors, "%s", name);
}

#endif
