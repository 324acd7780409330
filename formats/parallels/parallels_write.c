/*
 * Writing: plan, commit, drop, release. A cluster that is there is written in place; one that is
 * not gets room, and once its data is there its BAT entry names it.
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* plan->slot[] */
enum {
	SLOT_NUMBER, /* of the first cluster */
	SLOT_COUNT,
	SLOT_TARGET, /* where it will be in the file; 0: the entries become 0 */
};

/* ---- Looking up ---- */

/* Clusters that one look sees, the first of which holds the byte that was asked for. */
struct lookup {
	uint64_t number, n;
	const uint8_t *slots;
};

static int lookup(struct parallels_file *p, struct img_req *req, uint64_t off, uint64_t len,
		  struct lookup *l)
{
	uint64_t at;

	l->number = off / p->cluster_bytes;
	at = parallels_entry_at(l->number);
	l->n = min_u64((off + len - 1) / p->cluster_bytes - l->number + 1,
		       (IMG_META_BLOCK - at % IMG_META_BLOCK) / PARALLELS_ENTRY_BYTES);
	l->slots = img_meta_get(req, p->storage, at, l->n * PARALLELS_ENTRY_BYTES);
	return l->slots ? 0 : IMG_NEED_METADATA;
}

/* The i'th cluster's place. err NULL: without a sentence. */
static int cluster_off(const struct parallels_file *p, const struct lookup *l, uint64_t i,
		       uint64_t *off, struct img_error *err)
{
	return parallels_cluster_off(p, l->number + i, le32_load(l->slots + i * PARALLELS_ENTRY_BYTES),
				     off, err);
}

static bool has_backing(const struct parallels_file *p)
{
	return p->img->parent || p->img->backing_view.id;
}

/* ---- Plans ---- */

/* In place, as far as clusters follow each other in the file. */
static void plan_in_place(const struct parallels_file *p, const struct lookup *l, uint64_t first,
			  uint64_t off, uint64_t len, struct img_plan *plan)
{
	uint64_t cluster = p->cluster_bytes, n = 1, next;

	while (n < l->n && !cluster_off(p, l, n, &next, NULL) && next == first + n * cluster)
		n++;
	plan->length = min_u64(len, n * cluster - off % cluster);
	plan->fill_start = off;
	plan->fill_end = off + plan->length;
	plan->storage = p->storage;
	plan->file_off = first + off % cluster;
}

static int plan_new(struct parallels_file *p, struct img_req *req, const struct lookup *l,
		    uint64_t off, uint64_t len, struct img_plan *plan)
{
	uint64_t cluster = p->cluster_bytes, want = 1, new_off, got, next;
	int rc;

	while (want < l->n && !cluster_off(p, l, want, &next, NULL) && !next)
		want++;
	rc = img_unit_alloc_get(&p->alloc, want, &new_off, &got);
	if (rc)
		return img_fail(img_req_error(req), p->storage->device ? -ENOSPC : rc,
				"%s: found no room for another cluster of %" PRIu64
				" bytes, which end at "
				"%" PRIu64 " at most",
				p->name, cluster, p->alloc.limit + p->base);
	plan->fresh = p->storage->limits.zero_fill && new_off >= p->fresh_from;
	p->fresh_from = max_u64(p->fresh_from, new_off + got * cluster);
	plan->fill_start = l->number * cluster;
	plan->fill_end = plan->fill_start + got * cluster;
	plan->length = min_u64(len, plan->fill_end - off);
	plan->storage = p->storage;
	plan->file_off = p->base + new_off;
	plan->commit = true;
	plan->slot[SLOT_NUMBER] = l->number;
	plan->slot[SLOT_COUNT] = got;
	plan->slot[SLOT_TARGET] = plan->file_off;
	return 0;
}

static int plan_data(struct parallels_file *p, struct img_req *req, uint64_t off, uint64_t len,
		     struct img_plan *plan)
{
	struct lookup l;
	uint64_t first;
	int rc = lookup(p, req, off, len, &l);

	if (!rc)
		rc = cluster_off(p, &l, 0, &first, img_req_error(req));
	if (rc)
		return rc;
	plan->kind = IMG_PLAN_DATA;
	if (!first)
		return plan_new(p, req, &l, off, len, plan);
	plan_in_place(p, &l, first, off, len, plan);
	return 0;
}

/* How to clear a cluster. */
enum clear_method {
	CLEAR_NOTHING,
	CLEAR_BY_METADATA, /* by its entry */
	CLEAR_IN_PLACE,	   /* zeroes in place */
	CLEAR_BY_WRITING,  /* as a write of zeroes */
};

static enum clear_method choose_clear_method(const struct parallels_file *p, bool discard, bool keep, bool whole,
					     bool there)
{
	if (there)
		return has_backing(p) || keep || !whole ? CLEAR_IN_PLACE : CLEAR_BY_METADATA;
	if (!discard && (keep || has_backing(p)))
		return CLEAR_BY_WRITING;
	return CLEAR_NOTHING;
}

static int plan_clear(struct parallels_file *p, struct img_req *req, bool discard, uint64_t off,
		      uint64_t len, struct img_plan *plan)
{
	uint64_t cluster = p->cluster_bytes, whole = 0, first, next, n;
	bool keep = !discard && img_req_keep_allocated(req);
	struct lookup l;
	enum clear_method how;
	int rc = lookup(p, req, off, len, &l);

	if (!rc)
		rc = cluster_off(p, &l, 0, &first, img_req_error(req));
	if (rc)
		return rc;
	if (off % cluster == 0)
		whole = off + len == p->size ? l.n : min_u64(l.n, len / cluster);
	how = choose_clear_method(p, discard, keep, whole, first);
	if (how == CLEAR_BY_WRITING)
		return IMG_NEED_WRITE;
	plan->kind = discard ? IMG_PLAN_PUNCH : IMG_PLAN_ZERO;
	if (how == CLEAR_IN_PLACE) {
		plan_in_place(p, &l, first, off, len, plan);
		return 0;
	}
	for (n = 1; n < whole; n++)
		if (cluster_off(p, &l, n, &next, NULL) ||
		    choose_clear_method(p, discard, keep, true, next) != how)
			break;
	plan->length = min_u64(len, n * cluster - off % cluster);
	plan->kind = IMG_PLAN_NOTHING;
	if (how == CLEAR_NOTHING)
		return 0;
	if (img_free_reserve(req, n))
		return parallels_no_memory(p, img_req_error(req));
	plan->kind = IMG_PLAN_META;
	plan->storage = p->storage;
	plan->commit = true;
	plan->slot[SLOT_NUMBER] = l.number;
	plan->slot[SLOT_COUNT] = n;
	plan->slot[SLOT_TARGET] = 0;
	return 0;
}

int parallels_file_plan(struct parallels_file *p, struct img_req *req, enum img_op op, uint64_t off,
			uint64_t len, struct img_plan *plan)
{
	if (!p->prepared)
		return img_fail(img_req_error(req), -EROFS, "%s: it was opened for a check only",
				p->name);
	switch (op) {
	case IMG_OP_WRITE:
		return plan_data(p, req, off, len, plan);
	case IMG_OP_ZERO:
	case IMG_OP_DISCARD:
		return plan_clear(p, req, op == IMG_OP_DISCARD, off, len, plan);
	case IMG_OP_WRITE_COMPRESSED:
		break;
	}
	return img_fail(img_req_error(req), -ENOTSUP,
			"%s: a Parallels image holds no compressed data", p->name);
}

void parallels_file_commit(struct parallels_file *p, struct img_req *req,
			   const struct img_plan *plan)
{
	uint64_t cluster = p->cluster_bytes, target = plan->slot[SLOT_TARGET], freed = 0,
		 freed_len = 0;

	for (uint64_t i = 0; i < plan->slot[SLOT_COUNT]; i++) {
		uint8_t *slot = img_meta_edit(req, p->storage,
					      parallels_entry_at(plan->slot[SLOT_NUMBER] + i),
					      PARALLELS_ENTRY_BYTES, IMG_RANK_MAPPING);
		uint64_t old = le32_load(slot) * p->scale;

		le32_store(slot, target ? (uint32_t)((target + i * cluster) / p->scale) : 0);
		if (!old)
			continue;
		if (freed_len && freed + freed_len != old) {
			img_free_later(req, p->storage, freed, freed_len);
			freed_len = 0;
		}
		if (!freed_len)
			freed = old;
		freed_len += cluster;
	}
	if (target)
		raise_u64(&p->storage->due, target + plan->slot[SLOT_COUNT] * cluster);
	if (freed_len)
		img_free_later(req, p->storage, freed, freed_len);
	/* The header is in the same sector as the first entries, and may have been changed since it
	 * was read. */
	if (parallels_entry_at(plan->slot[SLOT_NUMBER]) < PARALLELS_SECTOR)
		parallels_encode_header(&p->header,
					img_meta_edit(req, p->storage, 0, PARALLELS_HEADER_BYTES,
						      IMG_RANK_MAPPING));
}

static void give_back(struct parallels_file *p, uint64_t off, uint64_t len)
{
	img_unit_alloc_put(&p->alloc, off - p->base, len);
	p->has_free_end = true;
}

void parallels_file_drop(struct parallels_file *p, struct img_req *req, const struct img_plan *plan)
{
	(void)req;
	if (plan->slot[SLOT_TARGET])
		give_back(p, plan->slot[SLOT_TARGET], plan->slot[SLOT_COUNT] * p->cluster_bytes);
}

/* ---- Freed space ---- */

void parallels_file_release(struct parallels_file *p, uint64_t file_off, uint64_t len)
{
	give_back(p, file_off, len);
}
