/*
 * Writing: plan, commit, drop, release. A grain that is stored is written in place; one that is not
 * gets space at the end of its file, and once its data is there both copies of its table name it.
 * There is no count of what is used: a crash in between leaves space that nobody uses, no more.
 *
 * A grain is always written whole, zeroes too: an entry must lead to a grain that is in the file.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* plan->slot[] */
enum {
	SLOT_KIND,   /* COMMIT_* */
	SLOT_FILE,   /* its number */
	SLOT_COUNT,  /* grains */
	SLOT_TABLE,  /* file offset of the first grain's entry */
	SLOT_COPY,   /* ... and of its copy; 0: there is none */
	SLOT_TARGET, /* NEW: file offset of the first grain. CLEAR: what the entries become */
};

enum {
	COMMIT_NEW,
	COMMIT_CLEAR,
};

static struct vmdk_file *plan_file(const struct img *img, const struct img_plan *plan)
{
	const struct vmdk *vmdk = img->state;

	return &vmdk->files[plan->slot[SLOT_FILE]];
}

bool vmdk_has_backing(const struct img *img)
{
	return img->backing_name || img->parent || img->backing_required;
}

/* ---- Looking up ---- */

/* Grains of one table, the first of which holds the byte that was asked for. */
struct lookup {
	const struct vmdk_extent *x;
	struct vmdk_file *f;
	uint64_t grain_off; /* of the first grain, in the extent */
	uint64_t n;
	uint64_t table_at, copy_at; /* 0, 0: there is no table */
	const uint8_t *slots;
};

static uint64_t entries_in_block(const struct vmdk_sparse *s, uint64_t file_off)
{
	return (IMG_META_BLOCK - file_off % IMG_META_BLOCK) / s->entry_bytes;
}

/* Look up the table for extent byte off in one of the directories: *table 0: absent. */
static int lookup_directory(struct img_req *req, const struct vmdk_file *f, uint64_t directory_off,
			    uint64_t number, uint64_t *table)
{
	const struct vmdk_sparse *s = &f->sparse;
	uint64_t at = directory_off + number * s->entry_bytes;
	const uint8_t *slot = img_meta_get(req, f->storage, at, s->entry_bytes);
	struct vmdk_entry e;

	if (!slot)
		return IMG_NEED_METADATA;
	e = vmdk_directory_entry(s, slot);
	if (e.kind == VMDK_DAMAGED) /* it was not when the image was opened */
		return img_fail(img_req_error(req), -EUCLEAN,
				"%s: grain directory entry %" PRIu64 " at %" PRIu64 " is "
				"%#" PRIx64 ", expected a table inside the file's %" PRIu64 " "
				"bytes",
				f->storage->name, number, at, e.value, s->file_bytes);
	*table = e.kind == VMDK_STORED ? e.file_off : 0;
	return 0;
}

/* Grains from guest byte off on, as many as [off, off + len) touches or one look sees. */
static int lookup_grains(struct img *img, struct img_req *req, uint64_t off, uint64_t len, struct lookup *l)
{
	struct vmdk *vmdk = img->state;
	const struct vmdk_sparse *s;
	uint64_t covers, number, index, table, copy = 0;
	int rc;

	l->x = vmdk_find_extent(vmdk, off);
	l->f = &vmdk->files[l->x->file];
	s = &l->f->sparse;
	off -= l->x->guest_off;
	len = min_u64(len, l->x->bytes - off);
	l->grain_off = align_down_u64(off, s->grain_bytes);
	covers = vmdk_table_covers(s);
	number = off / covers;
	index = off % covers / s->grain_bytes;
	l->n = min_u64(s->table_entries - index,
		       div_round_up_u64(off - l->grain_off + len, s->grain_bytes));
	l->table_at = l->copy_at = 0;
	l->slots = NULL;

	rc = lookup_directory(req, l->f, s->directory_off, number, &table);
	if (!rc && table && s->redundant_off)
		rc = lookup_directory(req, l->f, s->redundant_off, number, &copy);
	if (rc || !table)
		return rc;
	l->table_at = table + index * s->entry_bytes;
	l->n = min_u64(l->n, entries_in_block(s, l->table_at));
	if (copy && copy != table) {
		l->copy_at = copy + index * s->entry_bytes;
		l->n = min_u64(l->n, entries_in_block(s, l->copy_at));
		if (!img_meta_get(req, l->f->storage, l->copy_at, l->n * s->entry_bytes))
			return IMG_NEED_METADATA;
	}
	l->slots = img_meta_get(req, l->f->storage, l->table_at, l->n * s->entry_bytes);
	return l->slots ? 0 : IMG_NEED_METADATA;
}

/* The i'th grain that was looked up. err NULL: -EUCLEAN without a sentence. */
static int entry_at(const struct lookup *l, uint64_t i, struct vmdk_entry *out, struct img_error *err)
{
	const struct vmdk_sparse *s = &l->f->sparse;
	uint64_t at = l->grain_off + i * s->grain_bytes, need;
	const char *hit;

	if (!l->slots) {
		*out = (struct vmdk_entry){ .kind = VMDK_ABSENT };
		return 0;
	}
	need = vmdk_bytes_needed(s, l->x->bytes, at);
	*out = vmdk_table_entry(s, l->slots + i * s->entry_bytes, need);
	if (out->kind == VMDK_DAMAGED)
		return img_fail(err, -EUCLEAN,
				"%s: grain table entry of guest sector %" PRIu64 " of the extent "
				"is %#" PRIx64 ", expected an offset inside the file's %" PRIu64 " "
				"bytes",
				l->f->storage->name, at / VMDK_SECTOR, out->value, s->file_bytes);
	hit = out->kind == VMDK_STORED
		      ? img_range_map_at(&l->f->alloc->metadata, out->file_off, need)
		      : NULL;
	if (hit)
		return img_fail(err, -EUCLEAN,
				"%s: grain table entry of guest sector %" PRIu64 " of the extent: "
				"offset %" PRIu64 " lies inside the %s",
				l->f->storage->name, at / VMDK_SECTOR, out->file_off, hit);
	return 0;
}

/* ---- Flat extents ---- */

static void plan_flat(const struct vmdk *vmdk, const struct vmdk_extent *x, enum img_op op,
		      uint64_t off, uint64_t len, struct img_plan *plan)
{
	plan->kind = op == IMG_OP_WRITE	 ? IMG_PLAN_DATA
		     : op == IMG_OP_ZERO ? IMG_PLAN_ZERO
					 : IMG_PLAN_PUNCH;
	plan->length = min_u64(len, x->guest_off + x->bytes - off);
	plan->fill_start = off;
	plan->fill_end = off + plan->length;
	plan->storage = vmdk->files[x->file].storage;
	plan->file_off = x->file_off + (off - x->guest_off);
}

/* ---- Sparse extents ---- */

/* In place, as far as grains follow each other in the file. */
static void plan_in_place(const struct lookup *l, const struct vmdk_entry *first, uint64_t off,
			  uint64_t len, struct img_plan *plan)
{
	uint64_t grain = l->f->sparse.grain_bytes, n = 1;
	uint64_t within = off - l->x->guest_off - l->grain_off;
	struct vmdk_entry e;

	while (n < l->n && !entry_at(l, n, &e, NULL) && e.kind == VMDK_STORED &&
	       e.file_off == first->file_off + n * grain)
		n++;
	plan->length = min_u64(len, n * grain - within);
	plan->length = min_u64(plan->length, l->x->guest_off + l->x->bytes - off);
	plan->fill_start = off;
	plan->fill_end = off + plan->length;
	plan->storage = l->f->storage;
	plan->file_off = first->file_off + within;
}

/* The end of what a plan up to the end of a grain may write of the guest. */
static uint64_t fill_limit(const struct img *img, const struct vmdk_extent *x)
{
	uint64_t end = x->guest_off + x->bytes;

	return end == img->size ? round_up_u64(end, img->unit_bytes) : end;
}

static int plan_new(struct img *img, struct img_req *req, const struct lookup *l, uint64_t off,
		    uint64_t len, struct img_plan *plan)
{
	const struct vmdk *vmdk = img->state;
	uint64_t grain = l->f->sparse.grain_bytes, want = 1, count, target, end;
	struct vmdk_entry e;
	int rc;

	while (want < l->n && !entry_at(l, want, &e, NULL) && e.kind != VMDK_STORED)
		want++;
	rc = vmdk_alloc_grains(l->f, want, &target, &count, img_req_error(req));
	if (rc)
		return rc;
	plan->kind = IMG_PLAN_DATA;
	plan->fill_start = l->x->guest_off + l->grain_off;
	end = plan->fill_start + count * grain;
	plan->fill_end = min_u64(end, fill_limit(img, l->x));
	plan->length = min_u64(len, min_u64(end, l->x->guest_off + l->x->bytes) - off);
	plan->storage = l->f->storage;
	plan->file_off = target;
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_NEW;
	plan->slot[SLOT_FILE] = (uint64_t)(l->f - vmdk->files);
	plan->slot[SLOT_COUNT] = count;
	plan->slot[SLOT_TABLE] = l->table_at;
	plan->slot[SLOT_COPY] = l->copy_at;
	plan->slot[SLOT_TARGET] = target;
	return 0;
}

static int plan_data(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		     struct img_plan *plan)
{
	struct vmdk_entry e;
	struct lookup l;
	int rc = lookup_grains(img, req, off, len, &l);

	if (!rc && !l.slots)
		return IMG_NEED_EXCLUSIVE;
	if (!rc)
		rc = entry_at(&l, 0, &e, img_req_error(req));
	if (rc)
		return rc;
	if (e.kind != VMDK_STORED)
		return plan_new(img, req, &l, off, len, plan);
	plan->kind = IMG_PLAN_DATA;
	plan_in_place(&l, &e, off, len, plan);
	return 0;
}

/* How to clear a grain. */
enum clear_method {
	CLEAR_NOTHING,
	CLEAR_BY_METADATA, /* by its entry */
	CLEAR_IN_PLACE,	   /* zeroes in place */
	CLEAR_BY_WRITING,  /* as a write of zeroes */
};

static enum clear_method choose_clear_method(const struct img *img, const struct lookup *l, bool discard, bool keep,
					     const struct vmdk_entry *e)
{
	bool by_entry = !vmdk_has_backing(img) || l->f->sparse.zeroed_grains;

	if (keep)
		return e->kind == VMDK_STORED ? CLEAR_IN_PLACE : CLEAR_BY_WRITING;
	if (e->kind == VMDK_STORED)
		return by_entry ? CLEAR_BY_METADATA : CLEAR_IN_PLACE;
	if (e->kind == VMDK_ZERO || !vmdk_has_backing(img) || discard)
		return CLEAR_NOTHING;
	return by_entry ? CLEAR_BY_METADATA : CLEAR_BY_WRITING;
}

/* Grains from off on that [off, off + len) covers whole; 0: the first one only in part. */
static uint64_t whole_grains(const struct lookup *l, uint64_t off, uint64_t len)
{
	uint64_t grain = l->f->sparse.grain_bytes, end;

	off -= l->x->guest_off;
	if (off != l->grain_off)
		return 0;
	end = min_u64(off + len, l->x->bytes);
	if (end == l->x->bytes)
		return min_u64(l->n, div_round_up_u64(end - off, grain));
	return min_u64(l->n, (end - off) / grain);
}

static int plan_clear(struct img *img, struct img_req *req, bool discard, uint64_t off,
		      uint64_t len, struct img_plan *plan)
{
	const struct vmdk *vmdk = img->state;
	struct vmdk_entry first, e;
	bool keep = !discard && img_req_keep_allocated(req);
	uint64_t grain, whole, n;
	enum clear_method how;
	struct lookup l;
	int rc = lookup_grains(img, req, off, len, &l);

	if (!rc)
		rc = entry_at(&l, 0, &first, img_req_error(req));
	if (rc)
		return rc;
	grain = l.f->sparse.grain_bytes;
	whole = whole_grains(&l, off, len);
	how = choose_clear_method(img, &l, discard, keep, &first);
	if (how == CLEAR_BY_METADATA && !whole) /* a part of a grain: in the space that it has, or not at all */
		how = first.kind == VMDK_STORED ? CLEAR_IN_PLACE : discard ? CLEAR_NOTHING
									   : CLEAR_BY_WRITING;
	if (how == CLEAR_BY_WRITING)
		return IMG_NEED_WRITE;
	plan->kind = discard ? IMG_PLAN_PUNCH : IMG_PLAN_ZERO;
	if (how == CLEAR_IN_PLACE) {
		plan_in_place(&l, &first, off, len, plan);
		return 0;
	}
	for (n = 1; n < max_u64(whole, 1); n++)
		if (entry_at(&l, n, &e, NULL) ||
		    choose_clear_method(img, &l, discard, keep, &e) != how)
			break;
	plan->length = min_u64(len,
			       l.x->guest_off + min_u64(l.grain_off + n * grain, l.x->bytes) - off);
	plan->kind = IMG_PLAN_NOTHING;
	if (how == CLEAR_NOTHING)
		return 0;
	if (!l.slots)
		return IMG_NEED_EXCLUSIVE;
	if (img_free_reserve(req, n))
		return img_fail(img_req_error(req), -ENOMEM, "%s: out of memory", img->name);
	plan->kind = IMG_PLAN_META;
	plan->storage = l.f->storage;
	plan->commit = true;
	plan->slot[SLOT_KIND] = COMMIT_CLEAR;
	plan->slot[SLOT_FILE] = (uint64_t)(l.f - vmdk->files);
	plan->slot[SLOT_COUNT] = n;
	plan->slot[SLOT_TABLE] = l.table_at;
	plan->slot[SLOT_COPY] = l.copy_at;
	plan->slot[SLOT_TARGET] = vmdk_has_backing(img) ? 1 : 0;
	return 0;
}

int vmdk_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
		    uint64_t len, struct img_plan *plan)
{
	const struct vmdk *vmdk = img->state;
	const struct vmdk_extent *x = vmdk_find_extent(vmdk, off);

	if (vmdk->for_check)
		return img_fail(img_req_error(req), -EROFS, "%s: it was opened for a check only",
				img->name);
	if (x->kind == VMDK_EXTENT_FLAT && op != IMG_OP_WRITE_COMPRESSED) {
		plan_flat(vmdk, x, op, off, len, plan);
		return 0;
	}
	if (!vmdk->files[x->file].alloc || op == IMG_OP_WRITE_COMPRESSED)
		return img_fail(
			img_req_error(req), -ENOTSUP,
			"%s: compressed grains are only written by making a streamOptimized "
			"disk, from front to end",
			img->name);
	if (op == IMG_OP_WRITE)
		return plan_data(img, req, off, len, plan);
	return plan_clear(img, req, op == IMG_OP_DISCARD, off, len, plan);
}

/* ---- Commit ---- */

void vmdk_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct vmdk_file *f = plan_file(img, plan);
	struct vmdk_sparse *s = &f->sparse;
	uint64_t n = plan->slot[SLOT_COUNT], target = plan->slot[SLOT_TARGET];
	bool clear = plan->slot[SLOT_KIND] == COMMIT_CLEAR;
	size_t bytes = (size_t)n * s->entry_bytes;
	uint8_t *slots = img_meta_edit(req, f->storage, plan->slot[SLOT_TABLE], bytes,
				       IMG_RANK_MAPPING);
	struct img_unit_run freed = { 0 };

	for (uint64_t i = 0; i < n; i++) {
		uint8_t *slot = slots + i * s->entry_bytes;
		struct vmdk_entry old = vmdk_table_entry(s, slot, 0);

		le32_store(slot, clear ? (uint32_t)target
				       : (uint32_t)((target + i * s->grain_bytes) / VMDK_SECTOR));
		/* A grain that the end of the file cuts has nothing behind it to give back. */
		if (!clear || old.kind != VMDK_STORED ||
		    !range_in(old.file_off, s->grain_bytes, s->file_bytes))
			continue;
		if (freed.len && freed.off + freed.len != old.file_off) {
			img_free_later(req, f->storage, freed.off, freed.len);
			freed.len = 0;
		}
		if (!freed.len)
			freed.off = old.file_off;
		freed.len += s->grain_bytes;
	}
	if (freed.len)
		img_free_later(req, f->storage, freed.off, freed.len);
	if (plan->slot[SLOT_COPY])
		memcpy(img_meta_edit(req, f->storage, plan->slot[SLOT_COPY], bytes,
				     IMG_RANK_MAPPING),
		       slots, bytes);
	if (!clear)
		s->file_bytes = max_u64(s->file_bytes, target + n * s->grain_bytes);
}

void vmdk_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct vmdk_file *f = plan_file(img, plan);

	(void)req;
	if (plan->slot[SLOT_KIND] == COMMIT_NEW)
		img_unit_alloc_put(&f->alloc->grains, plan->slot[SLOT_TARGET],
				   plan->slot[SLOT_COUNT] * f->sparse.grain_bytes);
}

/* ---- Freed space ---- */

int vmdk_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		 uint64_t len)
{
	struct vmdk *vmdk = img->state;

	(void)req;
	for (size_t i = 0; i < vmdk->file_count; i++) {
		if (vmdk->files[i].storage == s) {
			img_unit_alloc_put(&vmdk->files[i].alloc->grains, file_off, len);
			break;
		}
	}
	return 0;
}
