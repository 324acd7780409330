/*
 * Which bytes of a file are in use: two sparse bitsets, of the units that have a user and of those
 * that have several.
 */
#include "libimg/base/use_map.h"

#include "libimg/base/arith.h"

void img_use_map_init(struct img_use_map *m, uint64_t file_bytes, uint64_t unit_bytes)
{
	uint64_t units = div_round_up_u64(file_bytes, unit_bytes);

	*m = (struct img_use_map){ .unit_bytes = unit_bytes, .file_bytes = file_bytes };
	img_sparse_bitset_init(&m->used, units, 0);
	img_sparse_bitset_init(&m->twice, units, 0);
}

void img_use_map_free(struct img_use_map *m)
{
	img_sparse_bitset_free(&m->used);
	img_sparse_bitset_free(&m->twice);
}

int img_use_map_add(struct img_use_map *m, uint64_t off, uint64_t len, enum img_use *use)
{
	uint64_t first = off / m->unit_bytes;
	int rc;

	*use = IMG_USE_NEW;
	if (!range_in(off, len, m->file_bytes)) {
		*use = IMG_USE_BEYOND;
		return 0;
	}
	if (!len)
		return 0;
	rc = img_sparse_bitset_add_again(&m->used, first,
					 (off + len - 1) / m->unit_bytes - first + 1, &m->twice);
	if (rc > 0)
		*use = IMG_USE_SHARED;
	return rc < 0 ? rc : 0;
}

bool img_use_map_is_shared(const struct img_use_map *m, uint64_t off, uint64_t len)
{
	uint64_t first = off / m->unit_bytes, run;

	if (!len)
		return false;
	return img_sparse_bitset_run(&m->twice, first, &run) ||
	       run <= (off + len - 1) / m->unit_bytes - first;
}
