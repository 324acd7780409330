/*
 * Checking and repairing: each block has one user and lies in the file, the header counts them, and there are
 * no gaps between them.
 *
 * Repairs change nothing that can be read: a block that two entries name is copied for the second one. What the
 * file does not hold stays so, unless its loss is accepted.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/vdi/vdi_state.h"
#include "libimg/base/arith.h"

struct scan {
	struct img *img;
	struct img_check *check;
	bool quiet;
	unsigned repair; /* what entry() does at once */
	struct img_use_map used;
	uint64_t entries, end; /* that lead to a block in the file; one above the highest index of those */
	uint64_t lost, shared, fragmented;
	uint64_t corruptions, leaks;
	uint64_t next; /* index that follows the last one */
};

/* A copy of the block for this entry. */
static int copy_shared(struct scan *s, uint64_t block, uint32_t *entry, struct img_error *err)
{
	struct img *img = s->img;
	const struct vdi *v = img->state;
	struct vdi_header h = v->header;
	uint64_t index = max_u64(s->end, h.allocated), stride = vdi_stride(&h);
	int rc;

	if (!img->file->device && img->file->size > vdi_block_at(&h, 0))
		index = max_u64(index,
				div_round_up_u64(img->file->size - vdi_block_at(&h, 0), stride));
	if (index >= VDI_ENTRY_ZERO)
		return img_fail(err, -EFBIG, "%s: no room for a copy of block %" PRIu64, img->name, block);
	rc = vdi_copy_block(img, vdi_block_at(&h, *entry), vdi_block_at(&h, index), err);
	h.allocated = (uint32_t)index + 1;
	if (!rc) /* with a sync; the entry that names it is written later */
		rc = vdi_write_header(img, &h, false, err);
	if (!rc) {
		*entry = (uint32_t)index;
		s->end = index + 1;
	}
	return rc;
}

static int scan_entry(void *user, uint64_t block, uint32_t *entry, struct img_error *err)
{
	struct scan *s = user;
	struct img *img = s->img;
	const struct vdi *v = img->state;
	const struct vdi_header *h = &v->header;
	uint64_t data = vdi_block_at(h, *entry) + h->extra_bytes, needed = vdi_needed(img, block);
	enum img_use use;

	if (!vdi_entry_is_index(*entry))
		return 0;
	if (!range_in(data, needed, img->file->size)) {
		if (!s->quiet)
			img_check_say(s->check,
				      "ERROR: block map entry %" PRIu64 ": block at %" PRIu64 " needs %" PRIu64
				      ", the file ends at %" PRIu64,
				      block, data, data + needed, (uint64_t)img->file->size);
		s->lost++;
		if (s->repair & IMG_REPAIR_LOSS)
			*entry = VDI_ENTRY_ZERO;
		return 0;
	}
	if (img_use_map_add(&s->used, *entry, 1, &use))
		return vdi_no_memory(img, err);
	if (use != IMG_USE_NEW) {
		if (!s->quiet)
			img_check_say(s->check,
				      "ERROR: block map entry %" PRIu64 ": index %" PRIu32
				      " is used by another entry, too",
				      block, *entry);
		s->shared++;
		if ((s->repair & IMG_REPAIR_ALL) == IMG_REPAIR_ALL)
			return copy_shared(s, block, entry, err);
	}
	s->entries++;
	s->end = max_u64(s->end, (uint64_t)*entry + 1);
	s->fragmented += s->entries > 1 && *entry != s->next;
	s->next = (uint64_t)*entry + 1;
	return 0;
}

static int scan(struct scan *s, struct img *img, struct img_check *check, bool quiet, unsigned repair,
		struct img_error *err)
{
	const struct vdi *v = img->state;
	uint64_t end, unique;
	int rc;

	*s = (struct scan){ .img = img, .check = check, .quiet = quiet, .repair = repair };
	img_use_map_init(&s->used, UINT64_C(1) << 32, 1);
	rc = vdi_for_each_entry(img, 0, v->header.blocks, scan_entry, s, err);
	img_use_map_free(&s->used);
	if (rc)
		return rc;
	s->corruptions = s->lost + s->shared;
	if (v->header.allocated < s->end) {
		s->corruptions++;
		if (!quiet)
			img_check_say(check,
				      "ERROR: allocated blocks: found %" PRIu32 ", expected at least %" PRIu64
				      ": another program would write over blocks that are used",
				      v->header.allocated, s->end);
	}
	/* What the entries that are lost need is no leak. */
	end = max_u64(v->header.allocated, s->end);
	unique = s->entries - s->shared + s->lost;
	s->leaks = end > unique ? end - unique : 0;
	if (v->writing) /* gaps are the allocator's: finish() closes them */
		s->leaks = 0;
	if (s->leaks && !quiet)
		img_check_say(check, "Leaked blocks: %" PRIu64 " of %" PRIu64 " are in use, %" PRIu64 " are not",
			      unique, end, s->leaks);
	return 0;
}

static void report(const struct scan *s, struct img_check *check)
{
	const struct vdi *v = s->img->state;

	check->result.corruptions = s->corruptions;
	check->result.leaks = s->leaks;
	check->result.image_end = vdi_block_at(&v->header, s->end);
	check->result.total_units = vdi_block_count(&v->header, s->img->size);
	check->result.allocated_units = s->entries;
	check->result.fragmented_units = s->fragmented;
}

/* The entries, then the count, then the gaps. */
static int repair(struct img *img, struct scan *s, unsigned how, struct img_error *err)
{
	struct vdi *v = img->state;
	bool all = (how & IMG_REPAIR_ALL) == IMG_REPAIR_ALL;
	struct img_check *check = s->check;
	int rc = 0;

	if (all && (s->shared || (s->lost && how & IMG_REPAIR_LOSS))) {
		rc = scan(s, img, check, true, how, err);
		if (!rc)
			rc = vdi_sync(img, err);
		if (!rc)
			rc = scan(s, img, check, true, 0, err);
	}
	if (!rc && all && v->header.allocated < s->end) {
		struct vdi_header h = v->header;

		h.allocated = (uint32_t)s->end;
		rc = vdi_write_header(img, &h, false, err);
	}
	if (rc || !s->leaks)
		return rc;
	if (s->lost || s->shared || v->header.allocated < s->end) {
		img_check_say(check, "Not repaired: leaked blocks, as long as there are errors");
		return 0;
	}
	rc = vdi_load_blocks(img, err);
	if (!rc)
		rc = vdi_compact(img, err);
	vdi_free_blocks(img);
	return rc;
}

int vdi_check(struct img *img, struct img_check *check, struct img_error *err)
{
	const struct vdi *v = img->state;
	uint64_t corruptions, leaks;
	struct scan s;
	int rc = scan(&s, img, check, false, 0, err), last;

	if (rc)
		return rc;
	corruptions = s.corruptions;
	leaks = s.leaks;
	if (check->repair && (corruptions || leaks)) {
		if (!v->for_check)
			return img_fail(err, -EINVAL, "%s: it was not opened for a check", img->name);
		rc = repair(img, &s, check->repair, err);
		last = scan(&s, img, check, true, 0, rc ? NULL : err);
		if (last)
			return rc ? rc : last;
		check->result.corruptions_fixed = corruptions > s.corruptions
							  ? corruptions - s.corruptions
							  : 0;
		check->result.leaks_fixed = leaks > s.leaks ? leaks - s.leaks : 0;
		if (s.lost && !rc)
			img_check_say(check, "Not repaired: data that the file does not hold (any more); it "
					     "becomes zeroes only where that loss is accepted");
	}
	report(&s, check);
	return rc;
}
