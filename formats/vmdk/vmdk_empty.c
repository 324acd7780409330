/*
 * Giving up all content, so that everything reads as the parent does: the tables are cleared, and once that is
 * durable the space behind them is given back. A power cut on the way leaves each table's part of the
 * disk as it was, or given up.
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"

static int check_extents(const struct img *img, struct img_error *err)
{
	const struct vmdk *vmdk = img->state;

	if (vmdk->for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	for (size_t i = 0; i < vmdk->extent_count; i++) {
		const struct vmdk_extent *x = &vmdk->extents[i];

		if (x->kind != VMDK_EXTENT_SPARSE)
			return img_fail(err, -ENOTSUP,
					"%s: extent %zu is of type %s and cannot be emptied: only sparse extents "
					"can leave out what they do not have",
					img->name, i + 1, vmdk_extent_type_name(x->type));
	}
	return 0;
}

/* All tables, both copies, in runs as they lie in the file. */
static int clear_tables(struct img *img, struct vmdk_file *f, struct img_error *err)
{
	const struct img_range_map *m = &f->alloc->metadata;
	uint64_t bytes = m->block_bytes;

	for (size_t i = 0, n; i < m->block_count; i += n) {
		uint64_t off = m->blocks[i], end, from;
		int rc;

		for (n = 1; i + n < m->block_count && m->blocks[i + n] == off + n * bytes;)
			n++;
		end = off + n * bytes;
		rc = img_storage_zero(f->storage, off, end - off, err);
		from = align_down_u64(off, IMG_META_SECTOR);
		img_meta_forget(img, f->storage, from, round_up_u64(end, IMG_META_SECTOR) - from);
		if (rc)
			return rc;
	}
	return img->unsafe ? 0 : img_storage_sync(f->storage, err);
}

/* Behind the metadata nothing is left; what lies between tables at the end can be used again. */
static int give_room_back(struct vmdk_file *f, struct img_error *err)
{
	const struct img_range_map *m = &f->alloc->metadata;
	struct img_unit_alloc *grains = &f->alloc->grains;
	uint64_t grain = f->sparse.grain_bytes, first, end, limit = grains->limit;
	int rc;

	if (!mul_u64(f->sparse.overhead_sectors, VMDK_SECTOR, &first) || first > f->storage->size)
		first = f->storage->size;
	for (size_t i = 0; i < m->range_count; i++)
		first = max_u64(first, m->ranges[i].off + m->ranges[i].len);
	first = round_up_u64(first, grain);
	end = first;
	if (m->block_count)
		end = max_u64(end,
			      round_up_u64(m->blocks[m->block_count - 1] + m->block_bytes, grain));
	rc = img_storage_resize(f->storage, end, IMG_PREALLOCATE_OFF, err);
	if (rc)
		return rc;
	f->sparse.file_bytes = end;
	img_unit_alloc_free(grains);
	img_unit_alloc_init(grains, grain, end, limit);
	for (uint64_t off = first, n; off < end; off += n) {
		n = grain;
		if (img_range_map_at(m, off, grain))
			continue;
		while (off + n < end && !img_range_map_at(m, off + n, grain))
			n += grain;
		img_storage_punch(f->storage, off, n, NULL); /* where it cannot be it is only not smaller */
		img_unit_alloc_put(grains, off, n);
	}
	return 0;
}

int vmdk_make_empty(struct img *img, struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	int rc = check_extents(img, err);

	for (size_t i = 0; i < vmdk->file_count && !rc; i++)
		if (vmdk->files[i].alloc)
			rc = clear_tables(img, &vmdk->files[i], err);
	for (size_t i = 0; i < vmdk->file_count && !rc; i++)
		if (vmdk->files[i].alloc)
			rc = give_room_back(&vmdk->files[i], err);
	return rc;
}
