/*
 * The image that an offset falls into is found by its place in the row; a read is cut where one
 * ends.
 */
#include "libimg/jobs/concat.h"

#include <errno.h>
#include <string.h>

#include "libimg/base/arith.h"

enum { SECTOR = 512 };

int img_concat_init(struct img_concat *s, struct img *const *images, size_t count,
		    struct img_error *err)
{
	*s = (struct img_concat){ .images = images, .count = count };
	for (size_t i = 0; i < count; i++)
		if (!add_u64(s->size, img_size(images[i]), &s->size) || s->size > INT64_MAX)
			return img_fail(err, -EFBIG, "the sources are too large together");
	return 0;
}

struct img *img_concat_at(const struct img_concat *s, uint64_t off, uint64_t *within)
{
	size_t i = 0;

	while (i + 1 < s->count && off >= img_size(s->images[i]))
		off -= img_size(s->images[i++]);
	*within = off;
	return s->images[i];
}

int img_concat_map(const struct img_concat *s, uint64_t off, struct img_map_entry *entry,
		   struct img_error *err)
{
	uint64_t within;
	struct img *source = img_concat_at(s, off, &within);
	int rc = img_map(source, within, img_size(source) - within, true, entry, err);

	if (!rc)
		entry->start = off;
	return rc;
}

int img_concat_read(const struct img_concat *s, struct img_queue *q, uint64_t off, uint8_t *data,
		    size_t len, struct iovec *iov, unsigned *submitted, img_done_fn *done,
		    void *user, struct img_error *err)
{
	*submitted = 0;
	for (size_t at = 0; at < len; iov++) {
		uint64_t within;
		struct img *source = img_concat_at(s, off + at, &within);
		size_t n = (size_t)min_u64(len - at, img_size(source) - within);
		int rc;

		*iov = (struct iovec){ data + at, n };
		rc = img_submit_readv(q, source, within, iov, 1, 0, done, user, NULL);
		if (rc)
			return img_fail(err, rc, "%s: a read could not be submitted: %s",
					img_name(source), strerrordesc_np(-rc));
		++*submitted;
		at += n;
	}
	return 0;
}

size_t img_concat_most(const struct img_concat *s, size_t len)
{
	return min_size(s->count, len / SECTOR + 2);
}
