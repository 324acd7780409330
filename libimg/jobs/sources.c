#include "libimg/jobs/sources.h"

#include <errno.h>

#include "libimg/base/arith.h"

int img_sources_init(struct img_sources *s, struct img *const *images, size_t count,
		     struct img_error *err)
{
	*s = (struct img_sources){ .images = images, .count = count };
	for (size_t i = 0; i < count; i++)
		if (!add_u64(s->size, img_size(images[i]), &s->size) || s->size > INT64_MAX)
			return img_fail(err, -EFBIG, "the sources are too large together");
	return 0;
}

struct img *img_sources_at(const struct img_sources *s, uint64_t off, uint64_t *within)
{
	size_t i = 0;

	while (i + 1 < s->count && off >= img_size(s->images[i]))
		off -= img_size(s->images[i++]);
	*within = off;
	return s->images[i];
}
