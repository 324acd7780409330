/*
 * Raw disks from a pipe, whose size is known at the end or beforehand, into images that grow or not.
 */
#include <pthread.h>
#include <signal.h>

#include "tests/image/folder.h"

TestSuite(input, .init = folder_make, .fini = folder_remove, .timeout = 60);

struct feed {
	size_t len;
	int fd;
};

static uint8_t byte_at(uint64_t off)
{
	/* Runs of zeroes, of a whole MiB too. */
	return off / 8192 % 3 == 1 || off >> 20 == 2 ? 0 : (uint8_t)(off / 512 * 7 + off % 13 + 1);
}

static void *feed(void *arg)
{
	struct feed *f = arg;
	static uint8_t buf[3000];

	for (size_t at = 0; at < f->len;) {
		size_t n = f->len - at < sizeof(buf) ? f->len - at : sizeof(buf);
		ssize_t done;

		for (size_t i = 0; i < n; i++)
			buf[i] = byte_at(at + i);
		done = write(f->fd, buf, n);
		if (done < 0)
			break;
		at += (size_t)done;
	}
	close(f->fd);
	return NULL;
}

struct flow {
	struct feed feed;
	pthread_t thread;
	int fd;
};

/* held: NULL, or another end to write to, so that the input does not end. */
static void flow_begin(struct flow *f, size_t len, int *held)
{
	int fds[2];

	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(pipe(fds), 0);
	f->fd = fds[0];
	if (held)
		*held = dup(fds[1]);
	f->feed = (struct feed){ len, fds[1] };
	cr_assert_eq(pthread_create(&f->thread, NULL, feed, &f->feed), 0);
}

static void flow_end(struct flow *f)
{
	close(f->fd);
	pthread_join(f->thread, NULL);
}

/* Copy len bytes through a pipe into a new image of the format. given: 0, or the size that is said. */
static int copy(size_t len, const char *format, uint64_t given, const struct img_copy_options *how,
		struct img_error *err)
{
	struct img_create_options create = { .format = format, .have_size = true };
	struct img_source_image *in;
	struct img *img;
	struct flow f;
	uint8_t *got;
	uint64_t size;
	int rc;

	flow_begin(&f, len, NULL);
	rc = img_source_open(f.fd, "pipe", "raw", given ? &given : NULL, &in, err);
	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	cr_assert_eq(img_source_size(in, &create.size), given != 0);
	cr_assert_eq(img_create_begin("target", &create, &img, err), 0, "%s", img_error_text(err));
	rc = img_copy_source(in, img, how, err);
	img_source_close(in);
	flow_end(&f);
	if (!rc) {
		size = img_size(img);
		cr_assert_eq(size, (len + 511) / 512 * 512);
		got = malloc(size + 1);
		cr_assert_eq(img_read(img, 0, got, size, err), 0);
		for (uint64_t i = 0; i < size; i++)
			cr_assert_eq(got[i], i < len ? byte_at(i) : 0, "byte %zu of %zu in %s",
				     (size_t)i, len, format);
		free(got);
	}
	img_close(img, NULL);
	cr_assert(access("target", F_OK));
	return rc;
}

static const size_t lengths[] = { 1, 512, 65535, 65536,
				  65537, 1 << 20, (3 << 20) + 5, (5 << 20) - 512 };

Test(input, any_size)
{
	static const char *const formats[] = { "raw", "qcow2" };
	struct img_error *err = img_error_new();

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		for (size_t k = 0; k < 4; k++) {
			struct img_copy_options how = {
				.target_is_zero = true,
				.resize_target = true,
				.compress = k == 3,
				.parallel = k == 2 ? 1 : 0,
				.no_sparse = k == 2,
			};

			cr_assert_eq(copy(lengths[i], formats[k > 1], 0, &how, err), 0, "%zu: %s",
				     lengths[i], img_error_text(err));
			cr_assert_eq(copy(lengths[i], formats[k > 1], lengths[i], &how, err), 0,
				     "%zu: %s", lengths[i], img_error_text(err));
		}
	}
	img_error_free(err);
}

Test(input, another_size)
{
	struct img_copy_options how = { .target_is_zero = true, .resize_target = true };
	struct img_error *err = img_error_new();

	cr_assert_eq(copy(3000000, "raw", 3000001, &how, err), -EUCLEAN);
	cr_assert_not_null(strstr(img_error_text(err), "ends after 3000000"));
	cr_assert_eq(copy(3000000, "raw", 2999999, &how, err), -EUCLEAN);
	cr_assert_not_null(strstr(img_error_text(err), "goes on after 2999999"));
	cr_assert_eq(copy(0, "raw", 0, &how, err), -EUCLEAN);
	how.resize_target = false;
	cr_assert_eq(copy(3000000, "raw", 0, &how, err), -ENOSPC);
	img_error_free(err);
}

static bool stop(void *user, uint64_t done, uint64_t total)
{
	(void)total;
	return done >= *(uint64_t *)user;
}

/* Also while nothing comes. */
Test(input, interrupted)
{
	struct img_create_options create = { .format = "raw", .have_size = true };
	uint64_t after = 1 << 20;
	struct img_copy_options how = { .resize_target = true, .progress = stop, .user = &after };
	struct img_source_image *in;
	struct flow f;
	struct img *img;
	int held;

	flow_begin(&f, 3 << 20, &held);
	cr_assert_eq(img_source_open(f.fd, "pipe", "raw", NULL, &in, NULL), 0);
	cr_assert_eq(img_create_begin("target", &create, &img, NULL), 0);
	cr_assert_eq(img_copy_source(in, img, &how, NULL), -ECANCELED);
	img_source_close(in);
	img_close(img, NULL);
	close(held);
	flow_end(&f);
}

Test(input, formats)
{
	static const char junk[600] = "QFI\xfb\0\0\0\3";
	struct img_error *err = img_error_new();
	struct img_source_image *in;
	uint64_t size = 600;
	int fds[2];

	for (int i = 0; i < 3; i++) {
		cr_assert_eq(pipe(fds), 0);
		cr_assert_eq(write(fds[1], junk + (i == 2 ? 8 : 0), 590), 590);
		close(fds[1]);
		if (i == 2) {
			cr_assert_eq(img_source_open(fds[0], "pipe", NULL, NULL, &in, err), 0);
			cr_assert_str_eq(img_source_format(in), "raw");
			img_source_close(in);
		} else {
			cr_assert_eq(img_source_open(fds[0], "pipe", i ? "none" : NULL, &size, &in, err),
				     i ? -ENOENT : -ENOTSUP);
		}
		close(fds[0]);
	}
	img_error_free(err);
}
