/*
 * Input that is read once: what comes first is kept, so that drivers can be asked in turn whether
 * it is theirs; the rest is read as their source asks for it. A read can be interrupted by another
 * thread.
 */
#include "libimg/image/source_image.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/arith.h"

enum {
	/* Read at once; the first as many tell the format, and disks apart. */
	BUF_BYTES = 1 << 20,
	PROBE_BYTES = 65536,
	POLL_INTERVAL_MS = 100,
};

struct img_source_image {
	struct img_byte_reader reader;
	const struct img_driver *driver;
	struct img_source *source;
	int fd; /* the caller's */
	atomic_bool stop;
	bool ended;
	const char *content; /* what it looks like */
	char *name;
	size_t len, used; /* of buf */
	uint8_t buf[BUF_BYTES];
};

/* What the pipe has, up to len bytes and at least one; none: *got is 0 and `ended`. */
static int read_some(struct img_source_image *in, uint8_t *buf, size_t len, size_t *got,
		     struct img_error *err)
{
	for (*got = 0; !in->ended;) {
		struct pollfd p = { .fd = in->fd, .events = POLLIN };
		ssize_t n;

		if (atomic_load_explicit(&in->stop, memory_order_relaxed))
			return img_fail(err, -ECANCELED, "interrupted");
		if (!poll(&p, 1, POLL_INTERVAL_MS))
			continue;
		n = read(in->fd, buf, len);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return img_fail(err, -errno, "%s: reading: %s", in->name,
					strerrordesc_np(errno));
		in->ended = !n;
		if (n > 0) {
			*got = (size_t)n;
			break;
		}
	}
	return 0;
}

static int read_head(struct img_source_image *in, struct img_error *err)
{
	size_t n;
	int rc = 0;

	while (!rc && !in->ended && in->len < BUF_BYTES) {
		rc = read_some(in, in->buf + in->len, BUF_BYTES - in->len, &n, err);
		in->len += n;
	}
	return rc;
}

static int byte_reader_read(struct img_byte_reader *base, void *to, size_t len, size_t *got,
			    struct img_error *err)
{
	struct img_source_image *in = IMG_CONTAINER(base, struct img_source_image, reader);
	int rc = 0;

	*got = 0;
	for (;;) {
		size_t n = min_size(len - *got, in->len - in->used);

		memcpy((uint8_t *)to + *got, in->buf + in->used, n);
		in->used += n;
		*got += n;
		base->taken += n;
		if (rc || *got == len || (in->ended && in->used == in->len))
			return rc;
		in->used = 0;
		rc = read_some(in, in->buf, BUF_BYTES, &in->len, err);
	}
}

/* Which driver reads it? */
static int find_driver(struct img_source_image *in, const char *format, struct img_error *err)
{
	int rc = 0;

	if (format)
		in->driver = img_driver_named(format);
	else
		rc = img_probe_head(in->buf, min_size(in->len, PROBE_BYTES),
				    in->ended ? in->len : INT64_MAX, in->name, &in->driver, err);
	if (!rc && !format && (in->driver->features & IMG_DRIVER_PLAIN))
		in->content = img_probe_content(in->buf, in->len, in->name);
	if (!rc && !in->driver)
		rc = img_fail(err, -ENOENT, "Unknown driver '%s'", format);
	if (!rc && !in->driver->source)
		rc = img_fail(err, -ENOTSUP,
			      "%s: a %s image is read here and there, which a pipe does not allow: "
			      "save it to a file first",
			      in->name, in->driver->name);
	return rc;
}

static int check_size(const struct img_source_image *in, struct img_error *err)
{
	if (in->reader.sized && in->source->sized &&
	    in->source->size != round_up_u64(in->reader.size, 512))
		return img_fail(err, -EINVAL,
				"%s: the disk has %llu bytes, the given size is %llu", in->name,
				(unsigned long long)in->source->size,
				(unsigned long long)in->reader.size);
	return 0;
}

int img_source_open(int fd, const char *name, const char *format, const uint64_t *size,
		    struct img_source_image **out, struct img_error *err)
{
	struct img_source_image *in = calloc(1, sizeof(*in));
	int rc = -ENOMEM;

	if (size && *size > INT64_MAX - 511)
		rc = img_fail_range(err, -EFBIG, *size, 0, INT64_MAX - 511, "%s: size", name);
	else if (!in || !(in->name = strdup(name)))
		img_fail(err, rc, "out of memory");
	else
		rc = 0;
	if (rc)
		goto out;
	in->fd = fd;
	in->reader = (struct img_byte_reader){
		.name = in->name,
		.read = byte_reader_read,
		.sized = size,
		.size = size ? *size : 0,
	};
	fcntl(fd, F_SETPIPE_SZ, BUF_BYTES); /* fewer turns; if it may be */
	rc = read_head(in, err);
	if (!rc)
		rc = find_driver(in, format, err);
	if (!rc)
		rc = in->driver->source(&in->reader, &in->source, err);
	if (!rc)
		rc = check_size(in, err);
	if (rc)
		goto out;
	*out = in;
	in = NULL;
out:
	img_source_close(in);
	return rc;
}

void img_source_close(struct img_source_image *in)
{
	if (!in)
		return;
	if (in->source)
		in->source->free(in->source);
	free(in->name);
	free(in);
}

const char *img_source_format(const struct img_source_image *in)
{
	return in->driver->name;
}

const char *img_source_guessed_content(const struct img_source_image *in)
{
	return in->content;
}

bool img_source_size(const struct img_source_image *in, uint64_t *size)
{
	*size = in->source->size;
	return in->source->sized;
}

struct img_source *img_source_image_source(struct img_source_image *in)
{
	return in->source;
}

const char *img_source_name(const struct img_source_image *in)
{
	return in->name;
}

void img_source_stop(struct img_source_image *in)
{
	atomic_store_explicit(&in->stop, true, memory_order_relaxed);
}
