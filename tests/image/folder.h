/*
 * A temporary folder for tests of the image floor, and images in it. The suite's init and fini are
 * folder_make() and folder_remove(); the tests run in it, so that names are short.
 */
#ifndef TESTS_IMAGE_FOLDER_H
#define TESTS_IMAGE_FOLDER_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/img.h"
#include "tests/support/scratch.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static char folder[SCRATCH_PATH], started_in[PATH_MAX];

static inline void folder_make(void)
{
	cr_assert_not_null(getcwd(started_in, sizeof(started_in)));
	cr_assert(scratch_make(folder, "img-test"));
	cr_assert_eq(chdir(folder), 0);
	unsetenv("LIBIMG_REFERENCES");
}

static inline void run(const char *command)
{
	cr_assert_eq(system(command), 0, "%s", command);
}

static inline void folder_remove(void)
{
	cr_assert_eq(chdir("/"), 0);
	cr_assert(scratch_remove(folder));
}

/* Names in the folder, besides "." and "..". */
static inline size_t folder_count(void)
{
	DIR *d = opendir(".");
	size_t n = 0;

	cr_assert_not_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

/* The corpus; where there is none the test ends here, as skipped. */
static inline const char *corpus(void)
{
	static char path[PATH_MAX];
	const char *given = getenv("IMG_CORPUS");

	if (given)
		snprintf(path, sizeof(path), "%s", given);
	else if ((size_t)snprintf(path, sizeof(path), "%s/../shared/corpus", started_in) >=
		 sizeof(path))
		path[0] = 0;
	if (access(path, R_OK))
		cr_skip_test("no corpus: set IMG_CORPUS");
	return path;
}

/* A file with these bytes at the start, size bytes long. */
static inline void make_file(const char *name, const void *bytes, size_t len, off_t size)
{
	int fd = open(name, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, size), 0);
	cr_assert_eq(pwrite(fd, bytes, len, 0), (ssize_t)len);
	close(fd);
}

/* An image; backing may be NULL. */
static inline void make_image(const char *name, const char *format, uint64_t size,
			      const char *backing, const char *backing_format)
{
	struct img_create_options o = {
		.format = format,
		.size = size,
		.have_size = size != 0,
		.backing_name = backing,
		.backing_format = backing_format,
		.backing_unchecked = backing && size,
	};
	struct img_error *err = img_error_new();

	cr_assert_eq(img_create(name, &o, err), 0, "%s: %s", name, img_error_text(err));
	img_error_free(err);
}

/* Open, expecting success. format NULL: probe. */
static inline struct img *must_open(const char *name, const char *format, unsigned flags)
{
	struct img_open_options o = { .format = format, .flags = flags };
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	cr_assert_eq(img_open(name, &o, &img, err), 0, "%s: %s", name, img_error_text(err));
	img_error_free(err);
	return img;
}

/* Open, expecting failure; the sentence is good until the next call. */
static inline int must_fail(const char *name, const struct img_open_options *o, const char **text)
{
	static char sentence[4096];
	struct img_error *err = img_error_new();
	struct img *img = NULL;
	int rc = img_open(name, o, &img, err);

	cr_assert_lt(rc, 0, "%s was opened", name);
	cr_assert_null(img);
	cr_assert_eq(img_error_code(err), rc);
	snprintf(sentence, sizeof(sentence), "%s", img_error_text(err));
	if (text)
		*text = sentence;
	img_error_free(err);
	return rc;
}

static inline void must_close(struct img *img)
{
	struct img_error *err = img_error_new();

	cr_assert_eq(img_close(img, err), 0, "%s", img_error_text(err));
	img_error_free(err);
}

#endif
