/*
 * Output that is written once: the sink's bytes are collected in a buffer and go to a new file,
 * which has its name only at the end, or to the pipe.
 */
#include "libimg/image/sink_image.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/image/arguments.h"
#include "libimg/image/create_settings.h"

enum { GATHER = 1 << 20 }; /* bytes written at once */

struct img_sink_image {
	struct img_byte_writer append;
	struct img_sink *sink;
	struct img_storage *file; /* NULL: fd */
	int fd;
	bool unsafe;
	uint64_t size, flushed; /* flushed: bytes that have left buf */
	size_t used;		/* bytes in buf */
	uint8_t *buf;
};

static int write_fd(int fd, const uint8_t *bytes, size_t len, struct img_error *err)
{
	while (len) {
		ssize_t n = write(fd, bytes, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd p = { .fd = fd, .events = POLLOUT };

			poll(&p, 1, -1);
		} else if (n < 0 && errno != EINTR) {
			return img_fail(err, -errno, "standard output or pipe: %s",
					strerrordesc_np(errno));
		}
		if (n > 0) {
			bytes += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

static int flush(struct img_sink_image *s, struct img_error *err)
{
	int rc = 0;

	if (!s->file && s->fd < 0)
		return img_fail(err, -EFBIG, "the stream's header has more than %d bytes", GATHER);
	if (s->used)
		rc = s->file ? img_storage_write(s->file, s->flushed, s->buf, s->used, err)
			     : write_fd(s->fd, s->buf, s->used, err);
	s->flushed += s->used;
	s->used = 0;
	return rc;
}

static int append(struct img_byte_writer *a, const void *bytes, size_t len, struct img_error *err)
{
	struct img_sink_image *s = IMG_CONTAINER(a, struct img_sink_image, append);
	const uint8_t *from = bytes;
	int rc = 0;

	while (len && !rc) {
		size_t n = min_size(len, GATHER - s->used);

		memcpy(s->buf + s->used, from, n);
		s->used += n;
		a->written += n;
		from += n;
		len -= n;
		if (s->used == GATHER)
			rc = flush(s, err);
	}
	return rc;
}

int img_sink_image_begin(const char *path, int fd, const struct img_create_options *options,
			 struct img_sink_image **out, struct img_error *err)
{
	struct img_sink_image *s = NULL;
	struct img_create_settings r;
	int rc = img_check_create_options(path ? path : "stream", options, err);

	*out = NULL;
	if (!rc)
		rc = img_create_settings_init(&r, path ? path : "stream", options, 0, err);
	if (rc)
		return rc;
	rc = -ENOMEM;
	s = calloc(1, sizeof(*s));
	if (s)
		s->buf = aligned_alloc(4096, GATHER); /* as O_DIRECT wants it */
	if (!s || !s->buf) {
		img_fail(err, rc, "out of memory");
		goto out;
	}
	*s = (struct img_sink_image){ .append.write = append,
				      .buf = s->buf,
				      .fd = path ? -1 : fd,
				      .unsafe = options->flags & IMG_OPEN_UNSAFE,
				      .size = r.creating.size };
	r.creating.pipe = !path;
	rc = 0;
	/* What a sink begins with stays in buf, so that no file is touched for nothing. */
	if (r.driver->sink)
		rc = r.driver->sink(&r.creating, &s->append, &s->sink, err);
	if (rc || !s->sink)
		goto out;
	if (path)
		rc = img_storage_create_file(path, img_storage_flags(options->flags), &s->file,
					     err);
	if (!rc && s->file)
		img_storage_set_attributes(s->file, &r.attributes);
	if (!rc && options->new_size)
		*options->new_size = s->size;
	if (!rc) {
		*out = s;
		s = NULL;
	}
out:
	img_sink_image_free(s);
	img_create_settings_clear(&r);
	return rc;
}

int img_sink_image_refuse(const char *format, struct img_error *err)
{
	return img_fail(err, -ENOTSUP,
			"Format '%s' with these options cannot be written as a stream: it goes back to "
			"what was written",
			format);
}

struct img_sink *img_sink_image_sink(struct img_sink_image *s)
{
	return s->sink;
}

uint64_t img_sink_image_size(const struct img_sink_image *s)
{
	return s->size;
}

int img_sink_choose_zeroes(struct img_sink *sink, const struct img_copy_options *o,
			   struct img_error *err)
{
	if (!o->no_sparse && sink->wants_all && o->sparse_bytes)
		return img_fail(err, -EINVAL,
				"the shortest run of zeroes to leave out (-S) is %llu bytes, expected 0: this output "
				"has no holes",
				(unsigned long long)o->sparse_bytes);
	if (!o->no_sparse && o->sparse_bytes > sink->unit_bytes)
		return img_fail(err, -EINVAL,
				"the shortest run of zeroes to leave out (-S) is %llu bytes, expected at most %llu, "
				"the unit that this output leaves out",
				(unsigned long long)o->sparse_bytes,
				(unsigned long long)sink->unit_bytes);
	sink->wants_all |= o->no_sparse;
	return 0;
}

int img_sink_image_publish(struct img_sink_image *s, struct img_error *err)
{
	int rc = s->sink->finish(s->sink, err);

	if (!rc)
		rc = flush(s, err);
	if (!rc && s->file && !s->unsafe)
		rc = img_storage_sync(s->file, err);
	if (!rc && s->file)
		rc = img_storage_publish(s->file, !s->unsafe, err);
	return rc;
}

void img_sink_image_free(struct img_sink_image *s)
{
	if (!s)
		return;
	if (s->sink)
		s->sink->free(s->sink);
	img_storage_close(s->file);
	free(s->buf);
	free(s);
}
