/*
 * Where guest bytes live: the block allocation table.
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

int parallels_cluster_off(const struct parallels_file *p, uint64_t number, uint32_t value, uint64_t *off,
			  struct img_error *err)
{
	uint64_t least = parallels_entry_at(p->entries);

	*off = value * p->scale;
	if (!value || *off >= least)
		return 0;
	return img_fail(err, -EUCLEAN,
			"%s: BAT entry %" PRIu64 " at %" PRIu64 ": found a cluster at %" PRIu64
			", where the header and the BAT are, up to %" PRIu64,
			p->name, number, parallels_entry_at(number), *off, least);
}

int parallels_file_map(struct parallels_file *p, struct img_req *req, uint64_t off, uint64_t len,
		       struct img_extent *out)
{
	uint64_t cluster = p->cluster_bytes, number = off / cluster, within = off % cluster;
	uint64_t at = parallels_entry_at(number), run = 1, first, next;
	uint64_t n = min_u64((off + len - 1) / cluster - number + 1,
			     (IMG_META_BLOCK - at % IMG_META_BLOCK) / PARALLELS_ENTRY_BYTES);
	const uint8_t *slots = img_meta_get(req, p->storage, at, n * PARALLELS_ENTRY_BYTES);
	int rc;

	if (!slots)
		return IMG_NEED_METADATA;
	rc = parallels_cluster_off(p, number, le32_load(slots), &first, img_req_error(req));
	if (rc)
		return rc;
	/* Of what is wrong further on is told when that is asked for. */
	for (; run < n; run++) {
		uint32_t value = le32_load(slots + run * PARALLELS_ENTRY_BYTES);

		if (parallels_cluster_off(p, number + run, value, &next, NULL) ||
		    next != (first ? first + run * cluster : 0))
			break;
	}
	*out = (struct img_extent){
		.kind = first ? IMG_DATA : IMG_BACKING,
		.length = min_u64(len, run * cluster - within),
		.storage = first ? p->storage : NULL,
		.file_off = first ? first + within : 0,
	};
	return 0;
}
