#include "libimg/image/input.h"

#include <errno.h>
#include <openssl/evp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	HEAD_BYTES = 1 << 20, /* read beforehand: to find out the format, and to tell disks apart */
	PROBE_BYTES = 65536,
	LOOK_EVERY_MS = 100,
};

struct img_input {
	struct img_intake intake;
	const struct img_driver *driver;
	struct img_source *source;
	int fd; /* the caller's */
	atomic_bool stop;
	bool head_is_all; /* the input ended in it */
	size_t head_len, head_used;
	char *name;
	uint8_t head[HEAD_BYTES];
};

/* Bytes from the pipe; *got is less than len only at its end. */
static int read_fd(struct img_input *in, uint8_t *buf, size_t len, size_t *got,
		   struct img_error *err)
{
	*got = 0;
	while (*got < len) {
		struct pollfd p = { .fd = in->fd, .events = POLLIN };
		ssize_t n;

		if (atomic_load_explicit(&in->stop, memory_order_relaxed))
			return img_fail(err, -ECANCELED, "interrupted");
		if (!poll(&p, 1, LOOK_EVERY_MS))
			continue;
		n = read(in->fd, buf + *got, len - *got);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return img_fail(err, -errno, "%s: reading: %s", in->name,
					strerrordesc_np(errno));
		if (!n)
			break;
		if (n > 0)
			*got += (size_t)n;
	}
	return 0;
}

static int intake_read(struct img_intake *base, void *buf, size_t len, size_t *got,
		       struct img_error *err)
{
	struct img_input *in = IMG_CONTAINER(base, struct img_input, intake);
	size_t n = min_size(len, in->head_len - in->head_used), more = 0;
	int rc = 0;

	memcpy(buf, in->head + in->head_used, n);
	in->head_used += n;
	if (n < len && !in->head_is_all)
		rc = read_fd(in, (uint8_t *)buf + n, len - n, &more, err);
	*got = n + more;
	base->taken += n + more;
	return rc;
}

/* Which driver reads it? */
static int find_driver(struct img_input *in, const char *format, struct img_error *err)
{
	int rc = 0;

	if (format)
		in->driver = img_driver_named(format);
	else
		rc = img_probe_head(in->head, min_size(in->head_len, PROBE_BYTES),
				    in->head_is_all ? in->head_len : INT64_MAX, in->name,
				    &in->driver, err);
	if (!rc && !in->driver)
		rc = img_fail(err, -ENOENT, "Unknown driver '%s'", format);
	if (!rc && !in->driver->source)
		rc = img_fail(err, -ENOTSUP,
			      "%s: a %s image is read here and there, which a pipe does not allow: "
			      "save it to a file first",
			      in->name, in->driver->name);
	return rc;
}

static int check_size(const struct img_input *in, struct img_error *err)
{
	if (in->intake.sized && in->source->sized &&
	    in->source->size != round_up_u64(in->intake.size, 512))
		return img_fail(err, -EINVAL,
				"%s: the disk has %llu bytes, and was said to have %llu", in->name,
				(unsigned long long)in->source->size,
				(unsigned long long)in->intake.size);
	return 0;
}

int img_input_open(int fd, const char *name, const char *format, const uint64_t *size,
		   struct img_input **out, struct img_error *err)
{
	struct img_input *in = calloc(1, sizeof(*in));
	int rc = -ENOMEM;

	if (size && *size > INT64_MAX - 511)
		rc = img_fail(err, -EFBIG, "%s: size: found %llu, allowed at most %lld", name,
			      (unsigned long long)*size, (long long)(INT64_MAX - 511));
	else if (!in || !(in->name = strdup(name)))
		img_fail(err, rc, "out of memory");
	else
		rc = 0;
	if (rc)
		goto out;
	in->fd = fd;
	in->intake = (struct img_intake){
		.name = in->name,
		.read = intake_read,
		.sized = size,
		.size = size ? *size : 0,
	};
	rc = read_fd(in, in->head, HEAD_BYTES, &in->head_len, err);
	in->head_is_all = in->head_len < HEAD_BYTES;
	if (!rc)
		rc = find_driver(in, format, err);
	if (!rc)
		rc = in->driver->source(&in->intake, &in->source, err);
	if (!rc)
		rc = check_size(in, err);
	if (rc)
		goto out;
	*out = in;
	in = NULL;
out:
	img_input_close(in);
	return rc;
}

void img_input_close(struct img_input *in)
{
	if (!in)
		return;
	if (in->source)
		in->source->free(in->source);
	free(in->name);
	free(in);
}

const char *img_input_format(const struct img_input *in)
{
	return in->driver->name;
}

bool img_input_size(const struct img_input *in, uint64_t *size)
{
	*size = in->source->size;
	return in->source->sized;
}

int img_input_identity(const struct img_input *in, uint64_t identity[2], struct img_error *err)
{
	uint8_t digest[EVP_MAX_MD_SIZE];

	if (EVP_Digest(in->head, in->head_len, digest, NULL, EVP_sha256(), NULL) != 1)
		return img_fail(err, -ENOMEM, "SHA-256: out of memory");
	identity[0] = le64_load(digest) | 1; /* 0, 0 would mean random */
	identity[1] = le64_load(digest + 8);
	return 0;
}

struct img_source *img_input_source(struct img_input *in)
{
	return in->source;
}

const char *img_input_name(const struct img_input *in)
{
	return in->name;
}

void img_input_stop(struct img_input *in)
{
	atomic_store_explicit(&in->stop, true, memory_order_relaxed);
}
