/*
 * Where a storage has holes, and where a request that is longer than it takes is cut.
 */
#include "libimg/storage/storage_extent.h"

#include <errno.h>

#include "libimg/base/arith.h"

uint64_t img_storage_first_part(const struct img_storage *s, enum img_io_op op, uint64_t off,
				uint64_t len)
{
	const struct img_storage_limits *l = &s->limits;
	uint64_t most = op == IMG_IO_SYNC || op == IMG_IO_EXTENTS ? 0
			: img_io_has_data(op)			  ? l->max_bytes
								  : l->max_zero;
	uint64_t end;

	if (!most || len <= most)
		return len;
	end = align_down_u64(off + most, l->io_align); /* the next one is aligned */
	return end > off ? end - off : most;
}

int img_storage_extent(struct img_storage *s, uint64_t off, uint64_t len,
		       enum img_storage_extent *kind, uint64_t *run)
{
	uint64_t size = atomic_load(&s->size);

	if (!len)
		return -EINVAL;
	if (off >= size) {
		*kind = IMG_STORAGE_HOLE;
		*run = len;
		return 0;
	}
	if (s->ops->extent)
		return s->ops->extent(s, off, len, kind, run);
	*kind = IMG_STORAGE_DATA;
	*run = min_u64(len, size - off);
	return 0;
}

bool img_storage_known_extent(struct img_storage *s, uint64_t off, uint64_t len,
			      enum img_storage_extent *kind, uint64_t *run)
{
	return s->ops->known_extent && off < atomic_load(&s->size) &&
	       s->ops->known_extent(s, off, len, kind, run);
}

int img_storage_extents(struct img_storage *s, uint64_t off, uint64_t len,
			struct img_io_extents *out)
{
	uint64_t run = 0;
	int rc = 0;

	for (out->count = 0; out->count < IMG_ARRAY_LEN(out->at) && len && !rc; len -= run) {
		rc = img_storage_extent(s, off, len, &out->at[out->count].kind, &run);
		if (rc)
			break;
		run = min_u64(run, len);
		out->at[out->count++].len = run;
		off += run;
	}
	return out->count ? 0 : rc ? rc
				   : -EINVAL;
}
