/*
 * For tests of a format whose images a plain reader judges, besides the library that wrote them: making them,
 * changing them, reading and checking them, in the folder of tests/image/folder.h.
 *
 * Who includes it defines FORMAT, the driver's name, before, and plain_read() afterwards.
 */
#ifndef TESTS_SUPPORT_PLAIN_H
#define TESTS_SUPPORT_PLAIN_H

#include "tests/image/folder.h"

enum {
	KIB = 1 << 10,
	MIB = 1 << 20,
};

/*
 * From the format's description alone: the disk of size bytes, over what is in out already (a parent's, or
 * zeroes). It asserts what else holds of an image that we wrote.
 */
static inline void plain_read(const char *name, uint8_t *out, uint64_t size);

/* ---- Files, byte by byte ---- */

struct bytes {
	uint8_t *at; /* malloc'd; 512 zeroes follow */
	size_t len;
};

static inline struct bytes load(const char *name)
{
	struct stat st;
	struct bytes b;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	cr_assert(fd >= 0 && !fstat(fd, &st), "%s", name);
	b.len = (size_t)st.st_size;
	b.at = calloc(1, b.len + 512);
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

/* ---- Images ---- */

/* options: "a=1,b=2" or NULL. backing: of the same format, or NULL. text: its sentence where it may fail. */
static inline int make(const char *name, uint64_t size, const char *options, const char *backing,
		       const char **text)
{
	static char sentence[2048];
	const char *list[] = { options, NULL };
	struct img_create_options o = {
		.format = FORMAT,
		.have_size = size != 0,
		.size = size,
		.options = options ? list : NULL,
		.backing_name = backing,
		.backing_format = backing ? FORMAT : NULL,
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

static inline void resize(struct img *img, uint64_t size)
{
	struct img_error *err = img_error_new();

	cr_assert_eq(img_resize(img, size, IMG_PREALLOCATE_OFF, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_size(img), size);
	img_error_free(err);
}

static inline void assert_same(const char *name, const char *reader, const uint8_t *got,
			       const uint8_t *model, uint64_t size)
{
	uint64_t at = 0;

	if (!memcmp(got, model, size))
		return;
	while (got[at] == model[at])
		at++;
	cr_assert_fail("%s, read by %s: byte %llu is %#x, expected %#x", name, reader,
		       (unsigned long long)at, got[at], model[at]);
}

/* What the library reads of it and the model are the same. */
static inline void library_reads(const char *name, const uint8_t *model, uint64_t size)
{
	struct img *img = must_open(name, FORMAT, 0);
	uint8_t *got = calloc(1, size + 1);

	cr_assert_eq(img_size(img), size);
	cr_assert_eq(img_read(img, 0, got, size, NULL), 0, "%s", name);
	assert_same(name, "the library", got, model, size);
	must_close(img);
	free(got);
}

/* The plain reader finds the same, too; over the parent's content. */
static inline void reads_over(const char *name, const uint8_t *model, uint64_t size, const uint8_t *below)
{
	uint8_t *got = calloc(1, size + 1);

	library_reads(name, model, size);
	if (below)
		memcpy(got, below, size);
	plain_read(name, got, size);
	assert_same(name, "the plain reader", got, model, size);
	free(got);
}

static inline void reads_as(const char *name, const uint8_t *model, uint64_t size)
{
	reads_over(name, model, size, NULL);
}

/* Check it, and repair: what is left and what was repaired. */
static inline struct img_check_result check(const char *name, unsigned repair)
{
	struct img *img = must_open(name, FORMAT, IMG_OPEN_CHECK | (repair ? (unsigned)IMG_OPEN_WRITE : 0));
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

/*
 * Other sizes for an image of size bytes of zeroes, or of what its parent has: up and down, with data near each
 * end; what was cut off never comes back.
 */
static inline void resize_around(const char *name, uint64_t size, uint64_t largest, const uint8_t *below)
{
	const uint64_t sizes[] = { 6 * MIB, 6 * MIB + 512, largest, 3 * MIB, 3 * MIB + 70 * KIB,
				   5 * MIB, 512, 9 * MIB, largest / 2 };
	uint8_t *model = calloc(1, largest), *under = calloc(1, largest);
	struct img *img = must_open(name, FORMAT, IMG_OPEN_WRITE);

	if (below) {
		memcpy(model, below, size);
		memcpy(under, below, size);
	}
	put(img, size - 5000, 5000, 1, model);
	put(img, 0, 100000, 2, model);
	for (size_t i = 0; i < COUNT(sizes); i++) {
		if (sizes[i] < size)
			memset(model + sizes[i], 0, size - sizes[i]);
		resize(img, sizes[i]);
		size = sizes[i];
		if (i % 2) {
			must_close(img);
			sound(name);
			reads_over(name, model, size, under);
			img = must_open(name, FORMAT, IMG_OPEN_WRITE);
			cr_assert_eq(img_size(img), size);
		}
		put(img, size - 512, 512, (uint8_t)(10 + i), model);
		put(img, size / 2, 256, (uint8_t)(20 + i), model);
	}
	must_close(img);
	sound(name);
	reads_over(name, model, size, under);
	free(model);
	free(under);
}

#endif
