/*
 * Which clusters of an expanding file are free, and its in-use mark. Nothing on disk tells what is
 * free but the BAT, which is gone over before the first change; so clusters that a crash left
 * unused are found again, and two entries that share a cluster are noticed before one is written
 * over the other.
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/use_map.h"

/* ---- What is used ---- */

static int find_first(struct parallels_file *p, void *user, uint64_t number, uint32_t value,
		      struct img_error *err)
{
	uint64_t *off = user;

	(void)number;
	(void)err;
	*off = value * parallels_entry_scale(&p->header);
	return 1;
}

int parallels_find_base(struct parallels_file *p, uint64_t *base, struct img_error *err)
{
	uint64_t first = p->data_start;
	int rc = 0;

	/* A header that names no data offset may have begun elsewhere than right behind the BAT. */
	if (!p->header.extended && !p->header.data_off)
		rc = parallels_each_entry(p, 0, p->entries, find_first, &first, err);
	*base = first % p->cluster_bytes;
	return rc < 0 ? rc : 0;
}

struct survey {
	struct img_use_map used;
	uint64_t end;
};

static int add_use(struct parallels_file *p, void *user, uint64_t number, uint32_t value,
		   struct img_error *err)
{
	struct survey *s = user;
	uint64_t off, file_bytes = p->storage->size;
	enum img_use use;
	int rc = parallels_cluster_off(p, number, value, &off, err);

	if (rc)
		return rc;
	if (!range_in(off, parallels_bytes_needed(p, number), file_bytes))
		return img_fail(err, -EUCLEAN,
				"%s: BAT entry %" PRIu64 ": found a cluster at %" PRIu64
				", and the file ends at %" PRIu64
				": it cannot be written to before it was repaired",
				p->name, number, off, file_bytes);
	if (off < p->data_start)
		return img_fail(err, -EUCLEAN,
				"%s: BAT entry %" PRIu64 ": found a cluster at %" PRIu64
				", in front of the data, which begins at %" PRIu64
				": it cannot be written to before it was repaired",
				p->name, number, off, p->data_start);
	if (off % p->cluster_bytes != p->base)
		return img_fail(err, -EUCLEAN,
				"%s: BAT entry %" PRIu64 ": found a cluster at %" PRIu64
				", which is not aligned to clusters of %" PRIu64
				" bytes: it cannot be written to before it was repaired",
				p->name, number, off, p->cluster_bytes);
	rc = img_use_map_add(&s->used, off - p->base, p->cluster_bytes, &use);
	if (rc)
		return parallels_no_memory(p, err);
	if (use == IMG_USE_SHARED)
		return img_fail(
			err, -EUCLEAN,
			"%s: BAT entry %" PRIu64 ": found a cluster at %" PRIu64
			", which something else has already: it cannot be written to before it was "
			"repaired",
			p->name, number, off);
	s->end = max_u64(s->end, off - p->base + p->cluster_bytes);
	return 0;
}

static int add_extension_use(struct parallels_file *p, struct survey *s, struct img_error *err)
{
	uint64_t at = p->header.extension_off * PARALLELS_SECTOR - p->base;
	enum img_use use;

	if (p->storage->device)
		return img_fail(
			err, -ENOTSUP,
			"%s: it has a format extension that is not known: on a block device "
			"what that uses cannot be told from what is free",
			p->name);
	s->end = at + p->cluster_bytes;
	return img_use_map_add(&s->used, at, p->cluster_bytes, &use) ? parallels_no_memory(p, err)
								     : 0;
}

void parallels_free_alloc(struct parallels_file *p)
{
	img_unit_alloc_free(&p->alloc);
	p->prepared = false;
}

int parallels_load_alloc(struct parallels_file *p, uint64_t from, struct img_error *err)
{
	uint64_t cluster = p->cluster_bytes, file_bytes = p->storage->size, next, limit;
	uint64_t start;
	struct survey s = { 0 };
	int rc;

	parallels_free_alloc(p);
	rc = parallels_find_base(p, &p->base, err);
	if (!rc)
		rc = parallels_judge_extension(p, err);
	if (rc)
		return rc;
	start = from > p->base ? multiple_up_u64(from - p->base, cluster) : 0;
	next = file_bytes > p->base ? multiple_up_u64(file_bytes - p->base, cluster) : 0;
	img_use_map_init(&s.used, next, cluster);
	if (p->extension == PARALLELS_EXTENSION_KEPT) /* no entry may lead there */
		rc = add_extension_use(p, &s, err);
	if (!rc)
		rc = parallels_each_entry(p, 0, p->entries, add_use, &s, err);
	if (!rc) {
		if (p->storage->device) { /* its end says nothing */
			next = s.end;
			limit = file_bytes - p->base;
		} else {
			limit = INT64_MAX - p->base - cluster;
		}
		limit = min_u64(limit, UINT32_MAX * p->scale - p->base);
		next = max_u64(next, start);
		img_unit_alloc_init(&p->alloc, cluster, next, limit);
		p->fresh_from = next;
		/* What an extension of others refers to is not known. */
		if (p->extension != PARALLELS_EXTENSION_KEPT)
			rc = img_unit_alloc_find_free(&p->alloc, &s.used, start);
		if (rc)
			rc = parallels_no_memory(p, err);
	}
	img_use_map_free(&s.used);
	p->prepared = !rc;
	p->used_end = p->base + s.end;
	if (rc)
		parallels_free_alloc(p);
	return rc;
}

static int find_end(struct parallels_file *p, void *user, uint64_t number, uint32_t value,
		    struct img_error *err)
{
	uint64_t *end = user;

	(void)number;
	(void)err;
	*end = max_u64(*end, value * p->scale + p->cluster_bytes);
	return 0;
}

int parallels_used_end(struct parallels_file *p, uint64_t *end, struct img_error *err)
{
	*end = p->data_start;
	return parallels_each_entry(p, 0, p->entries, find_end, end, err);
}

int parallels_trim(struct parallels_file *p, struct img_error *err)
{
	uint64_t end;
	int rc = parallels_used_end(p, &end, err);

	if (rc || p->storage->device || p->extension == PARALLELS_EXTENSION_KEPT ||
	    end >= p->storage->size)
		return rc;
	img_meta_forget(p->img, p->storage, round_up_u64(end, IMG_META_SECTOR), UINT64_MAX / 2);
	return img_storage_resize(p->storage, end, IMG_PREALLOCATE_OFF, err);
}

/* ---- In use ---- */

int parallels_file_first_write(struct parallels_file *p, struct img_error *err)
{
	struct parallels_header h = p->header;
	int rc;

	if (p->for_check || p->marked)
		return 0;
	h.in_use = PARALLELS_OPEN;
	h.flags &= ~(uint32_t)PARALLELS_FLAG_EMPTY;
	if (p->extension == PARALLELS_EXTENSION_DROPPED)
		h.extension_off = 0;
	rc = parallels_write_header(p, &h, err);
	if (!rc)
		rc = parallels_sync(p, err);
	if (!rc && p->extension == PARALLELS_EXTENSION_KEPT)
		rc = parallels_prune_extension(p, err);
	if (!rc && p->extension == PARALLELS_EXTENSION_DROPPED)
		p->extension = PARALLELS_EXTENSION_NONE;
	/* Others may have cut the disk's last cluster where the disk ends: it becomes whole. */
	if (!rc && !p->storage->device)
		raise_u64(&p->storage->due, p->used_end);
	p->marked = !rc;
	return rc;
}

int parallels_file_finish(struct parallels_file *p, struct img_error *err)
{
	struct parallels_header h = p->header;
	int rc = 0;

	if (p->for_check)
		return 0;
	if (p->has_free_end) {
		rc = parallels_trim(p, err);
		if (!rc)
			rc = parallels_load_alloc(p, p->data_start, err);
		p->has_free_end = false;
	}
	h.in_use = PARALLELS_CLOSED;
	if (!rc)
		rc = parallels_write_header(p, &h, err);
	if (!rc)
		p->marked = false;
	return rc;
}

int parallels_file_set_writable(struct parallels_file *p, bool writable, struct img_error *err)
{
	p->storage->may_grow_ahead = writable && !p->for_check; /* only the BAT says what is used */
	if (!writable) {
		parallels_free_alloc(p);
		return 0;
	}
	if (p->for_check)
		return 0;
	if (p->data_off_wrong)
		return img_fail(
			err, -EUCLEAN,
			"%s: header: data offset: found sector %" PRIu32 ", allowed %" PRIu64
			" and up, inside the file: it cannot be written to before it was repaired",
			p->name, p->header.data_off, p->data_start / PARALLELS_SECTOR);
	return parallels_load_alloc(p, p->data_start, err);
}
