/*
 * Another size. A BAT that has no room to grow gets it from the clusters behind it, which move to
 * other places first: at all times the BAT leads to one copy or the other.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"

enum { COPY_BYTES = 1 << 20 };

static int check_size(const struct parallels_file *p, uint64_t size, struct img_error *err)
{
	uint64_t most = min_u64(PARALLELS_DISK_BYTES_MAX, PARALLELS_ENTRIES_MAX * p->cluster_bytes);

	if (!p->header.extended)
		most = min_u64(most, (uint64_t)UINT32_MAX * PARALLELS_SECTOR);
	if (size <= most)
		return 0;
	return img_fail(err, -EFBIG, "%s: new size: found %" PRIu64 ", allowed up to %" PRIu64,
			p->name, size, most);
}

/* The first place at off or behind it where a cluster can be. */
static uint64_t cluster_start(const struct parallels_file *p, uint64_t off)
{
	uint64_t base = p->base;

	return off > base ? base + multiple_up_u64(off - base, p->cluster_bytes) : base;
}

/* ---- Making room for the BAT ---- */

struct move {
	uint64_t below; /* clusters that begin below are moved */
	uint8_t *buffer;
};

static int move_cluster(struct parallels_file *p, void *user, uint64_t number, uint32_t value,
			struct img_error *err)
{
	struct move *m = user;
	uint64_t from = value * p->scale, to, got, bytes, n;
	int rc;

	if (from >= m->below)
		return 0;
	rc = img_unit_alloc_get(&p->alloc, 1, &to, &got);
	if (rc)
		return img_fail(err, rc, "%s: found no room to move clusters out of the BAT's way",
				p->name);
	p->fresh_from = max_u64(p->fresh_from, to + p->cluster_bytes);
	to += p->base;
	bytes = min_u64(p->cluster_bytes, p->storage->size - from);
	for (uint64_t at = 0; at < bytes && !rc; at += n) {
		n = min_u64(bytes - at, COPY_BYTES);
		rc = img_storage_read(p->storage, from + at, m->buffer, n, err);
		if (!rc)
			rc = img_storage_write(p->storage, to + at, m->buffer, n, err);
	}
	if (!rc)
		rc = parallels_sync(p, err);
	img_meta_forget(p->img, p->storage, align_down_u64(to, IMG_META_SECTOR),
			round_up_u64(p->cluster_bytes, IMG_META_SECTOR));
	return rc ? rc : parallels_write_entry(p, number, (uint32_t)(to / p->scale), err);
}

static int reach_entries(struct parallels_file *p, uint64_t entries, struct img_error *err)
{
	struct move m = { .below = cluster_start(p, parallels_bat_end(entries)) };
	int rc;

	if (m.below <= p->data_start)
		return 0;
	if (p->extension == PARALLELS_EXTENSION_KEPT)
		return img_fail(
			err, -ENOTSUP,
			"%s: the BAT cannot grow: the image has a format extension that is not "
			"known, so that its clusters cannot be moved",
			p->name);
	rc = parallels_load_alloc(p, m.below, err);
	if (rc)
		return rc;
	m.buffer = malloc(COPY_BYTES);
	rc = m.buffer ? parallels_each_entry(p, 0, p->entries, move_cluster, &m, err)
		      : parallels_no_memory(p, err);
	free(m.buffer);
	if (!rc)
		rc = parallels_sync(p, err);
	if (!rc)
		p->data_start = m.below;
	return rc;
}

/* ---- Sizes ---- */

int parallels_file_extend(struct parallels_file *p, uint64_t size, struct img_error *err)
{
	uint64_t entries = div_round_up_u64(size, p->cluster_bytes), old = p->entries, end;
	int rc = check_size(p, size, err);

	if (!rc)
		rc = parallels_file_first_write(p, err);
	/* Of a last cluster that the file's end cuts, the disk may need more now. */
	if (!rc)
		rc = parallels_used_end(p, &end, err);
	if (!rc && p->storage->size < end && !p->storage->device)
		rc = img_storage_zero(p->storage, end, 0, err);
	if (!rc)
		rc = reach_entries(p, entries, err);
	if (!rc)
		rc = parallels_clear_entries(p, div_round_up_u64(p->size, p->cluster_bytes),
					     entries, err);
	if (!rc)
		rc = parallels_sync(p, err);
	if (rc) {
		struct img_error ignored = { 0 };

		parallels_load_alloc(p, p->data_start, &ignored);
		img_error_clear(&ignored);
		return rc;
	}
	p->entries = max_u64(old, entries);
	p->size = size;
	return parallels_load_alloc(p, p->data_start, err);
}

int parallels_file_resize(struct parallels_file *p, uint64_t size, enum img_preallocate how,
			  struct img_error *err)
{
	struct parallels_header h = p->header;
	uint64_t entries = div_round_up_u64(size, p->cluster_bytes), reached = p->entries;
	int rc = check_size(p, size, err);

	if (!rc && how != IMG_PREALLOCATE_OFF)
		rc = img_fail(
			err, -ENOTSUP,
			"%s: preallocation of what a Parallels image grows by is not supported",
			p->name);
	if (!rc)
		rc = parallels_file_first_write(p, err);
	if (rc)
		return rc;
	/* Clusters are aligned to what the header names from now on. */
	p->data_start = cluster_start(p, p->data_start);
	h = p->header;
	h.sectors = size / PARALLELS_SECTOR;
	h.entries = (uint32_t)entries;
	h.cylinders = (uint32_t)min_u64(
		div_round_up_u64(h.sectors, (uint64_t)PARALLELS_HEADS * PARALLELS_TRACK_SECTORS),
		UINT32_MAX);
	h.heads = PARALLELS_HEADS;
	h.data_off = (uint32_t)(p->data_start / PARALLELS_SECTOR);
	rc = parallels_write_header(p, &h, err);
	if (!rc)
		rc = parallels_sync(p, err);
	if (rc)
		return rc;
	p->size = size;
	p->entries = entries;
	/* What the entries beyond named is free. */
	rc = parallels_clear_entries(p, entries, max_u64(reached, entries), err);
	if (!rc)
		rc = parallels_sync(p, err);
	if (!rc)
		rc = parallels_load_alloc(p, p->data_start, err);
	p->has_free_end = true;
	return rc;
}

/* ---- Giving up all content ---- */

int parallels_file_make_empty(struct parallels_file *p, struct img_error *err)
{
	int rc;

	if (!p->prepared)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", p->name);
	rc = parallels_clear_entries(p, 0, p->entries, err);
	if (!rc)
		rc = parallels_sync(p, err);
	if (!rc)
		rc = parallels_load_alloc(p, p->data_start, err);
	p->has_free_end = true; /* cut off when the image is closed */
	return rc;
}
