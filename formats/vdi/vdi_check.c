/*
 * Checking and repairing: each block has one user and lies in the file, the header counts them, and there are
 * no gaps between them.
 *
 * Repairs change nothing that can be read: a block that two entries name is copied for the second one. What the
 * file does not hold stays so, unless its loss is accepted.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vdi/vdi_state.h"
#include "libimg/base/arith.h"

enum {
	DEFECTS_MAX = 4 << 20, /* a block map with more is none: small files can have 2^29 */
	COPIES_AT_ONCE = 4096, /* blocks that are copied between two scans */
};

/* Of a block that another entry names, too. */
struct copy {
	uint64_t block;
	uint32_t from;
};

struct scan {
	struct img *img;
	struct img_check *check;
	bool zero_lost; /* entries that lead out of the file become zeroes */
	struct img_use_map used;
	uint64_t entries, end; /* that lead to a block in the file; one above the highest of those */
	uint64_t lost, shared, fragmented;
	uint64_t corruptions, leaks;
	uint64_t next;	     /* index that follows the last one */
	struct copy *copies; /* COPIES_AT_ONCE of them, or NULL */
	size_t copy_count;
};

static int scan_entry(void *user, uint64_t block, uint32_t *entry, struct img_error *err)
{
	struct scan *s = user;
	struct img *img = s->img;
	const struct vdi *v = img->state;
	const struct vdi_header *h = &v->header;
	uint64_t data, needed;
	enum img_use use;

	if (!vdi_entry_is_index(*entry))
		return 0;
	if (s->lost + s->shared >= DEFECTS_MAX)
		return img_fail(err, -EUCLEAN,
				"%s: block map at %" PRIu64
				": more than %d entries lead out of the file, or to blocks of others",
				img->name, h->map_off, DEFECTS_MAX);
	data = vdi_block_at(h, *entry) + h->extra_bytes;
	needed = vdi_needed(img, block);
	if (!range_in(data, needed, img->file->size)) {
		img_check_defect(s->check,
				 "ERROR: block map entry %" PRIu64 ": block at %" PRIu64 " needs %" PRIu64
				 ", the file ends at %" PRIu64,
				 block, data, data + needed, (uint64_t)img->file->size);
		s->lost++;
		if (s->zero_lost)
			*entry = VDI_ENTRY_ZERO;
		return 0;
	}
	/* Most of a block map that is one hole. */
	if (*entry + UINT64_C(1) == s->next && s->entries)
		use = IMG_USE_SHARED;
	else if (img_use_map_add(&s->used, *entry, 1, &use))
		return vdi_no_memory(img, err);
	if (use != IMG_USE_NEW) {
		img_check_defect(s->check,
				 "ERROR: block map entry %" PRIu64 ": index %" PRIu32
				 " is used by another entry, too",
				 block, *entry);
		s->shared++;
		if (s->copies && s->copy_count < COPIES_AT_ONCE)
			s->copies[s->copy_count++] = (struct copy){ block, *entry };
	}
	s->entries++;
	s->end = max_u64(s->end, (uint64_t)*entry + 1);
	s->fragmented += s->entries > 1 && *entry != s->next;
	s->next = (uint64_t)*entry + 1;
	return 0;
}

/* s has img, check, and what is to be done. */
static int scan(struct scan *s, struct img_error *err)
{
	const struct vdi *v = s->img->state;
	uint64_t end, unique;
	int rc;

	s->entries = s->end = s->lost = s->shared = s->fragmented = s->next = 0;
	s->copy_count = 0;
	img_use_map_init(&s->used, UINT64_C(1) << 32, 1);
	rc = vdi_for_each_entry(s->img, 0, v->header.blocks, scan_entry, s, err);
	img_use_map_free(&s->used);
	if (rc)
		return rc;
	s->corruptions = s->lost + s->shared;
	if (v->header.allocated < s->end) {
		s->corruptions++;
		img_check_defect(s->check,
				 "ERROR: allocated blocks is %" PRIu32 ", expected at least %" PRIu64
				 ": another program would write over blocks that are used",
				 v->header.allocated, s->end);
	}
	/* What the entries that are lost need is no leak. */
	end = max_u64(v->header.allocated, s->end);
	unique = s->entries - s->shared + s->lost;
	s->leaks = end > unique ? end - unique : 0;
	if (v->writing) /* gaps are the allocator's: finish() closes them */
		s->leaks = 0;
	if (s->leaks && !s->check->quiet)
		img_check_report(s->check,
				 "Leaked blocks: %" PRIu64 " of %" PRIu64 " are in use, %" PRIu64 " are not",
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

/* Index of the first block of which the file has nothing yet. */
static uint64_t index_at_end(const struct scan *s)
{
	const struct img *img = s->img;
	const struct vdi_header *h = &((const struct vdi *)img->state)->header;

	if (img->file->device || img->file->size <= vdi_block_at(h, 0))
		return s->end;
	return max_u64(s->end,
		       div_round_up_u64(img->file->size - vdi_block_at(h, 0), vdi_stride(h)));
}

/*
 * Copies for some of the entries whose block another one names: the data, then the count that covers it, then
 * the entries.
 */
static int copy_some(struct scan *s, struct img_error *err)
{
	struct img *img = s->img;
	const struct vdi *v = img->state;
	struct vdi_header h = v->header;
	uint64_t first = index_at_end(s), end = first + s->copy_count;
	int rc = 0;

	if (end > VDI_ENTRY_ZERO ||
	    (img->file->device && vdi_block_at(&h, end) > (uint64_t)img->file->size))
		return img_fail(err, img->file->device ? -ENOSPC : -EFBIG,
				"%s: no space for copies of %" PRIu64 " blocks", img->name, s->shared);
	for (size_t i = 0; i < s->copy_count && !rc; i++)
		rc = vdi_copy_block(img, vdi_block_at(&h, s->copies[i].from),
				    vdi_block_at(&h, first + i), err);
	if (h.allocated < end)
		h.allocated = (uint32_t)end;
	if (!rc) /* with a sync */
		rc = vdi_write_header(img, &h, false, err);
	for (size_t i = 0; i < s->copy_count && !rc; i++)
		rc = vdi_write_entry(img, s->copies[i].block, (uint32_t)(first + i), err);
	return rc ? rc : vdi_sync(img, err);
}

static int copy_shared(struct scan *s, struct img_error *err)
{
	int rc = 0;

	s->copies = calloc(COPIES_AT_ONCE, sizeof(*s->copies));
	if (!s->copies)
		return vdi_no_memory(s->img, err);
	while (s->shared && !rc) {
		rc = scan(s, err);
		if (!rc && s->copy_count)
			rc = copy_some(s, err);
	}
	free(s->copies);
	s->copies = NULL;
	return rc;
}

/* Blocks that two entries name get copies, if those are no more than the file has without them. */
static int repair_shared(struct scan *s, struct img_error *err)
{
	struct img *img = s->img;
	const struct vdi *v = img->state;

	if (!s->shared)
		return 0;
	if (s->lost) {
		/* A file that grows would have something where those lead to. */
		img_check_report(s->check, "Not repaired: blocks that several entries name, as long as entries lead "
					   "out of the file");
		return 0;
	}
	if (s->shared > img->file->size / vdi_stride(&v->header)) {
		img_check_report(s->check,
				 "Not repaired: %" PRIu64 " entries name blocks of others, more than the file has "
				 "blocks",
				 s->shared);
		return 0;
	}
	return copy_shared(s, err);
}

/* Lost blocks, shared ones, the count, then the gaps. */
static int repair(struct scan *s, unsigned how, struct img_error *err)
{
	struct img *img = s->img;
	struct vdi *v = img->state;
	bool all = (how & IMG_REPAIR_ALL) == IMG_REPAIR_ALL;
	int rc = 0;

	if (all && s->lost && how & IMG_REPAIR_LOSS) {
		s->zero_lost = true;
		rc = scan(s, err);
		s->zero_lost = false;
		if (!rc)
			rc = vdi_sync(img, err);
		if (!rc)
			rc = scan(s, err);
	}
	if (!rc && all)
		rc = repair_shared(s, err);
	if (!rc && all && v->header.allocated < s->end) {
		struct vdi_header h = v->header;

		h.allocated = (uint32_t)s->end;
		rc = vdi_write_header(img, &h, false, err);
	}
	if (!rc)
		rc = scan(s, err);
	if (rc || !s->leaks)
		return rc;
	if (s->corruptions) {
		img_check_report(s->check, "Not repaired: leaked blocks, as long as there are errors");
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
	struct scan s = { .img = img, .check = check };
	uint64_t corruptions, leaks;
	int rc = scan(&s, err), last;

	if (rc)
		return rc;
	corruptions = s.corruptions;
	leaks = s.leaks;
	check->quiet = true;
	if (check->repair && (corruptions || leaks)) {
		if (!v->for_check)
			return img_fail(err, -EINVAL, "%s: it was not opened for a check", img->name);
		rc = repair(&s, check->repair, err);
		last = scan(&s, rc ? NULL : err);
		if (last)
			return rc ? rc : last;
		if (corruptions > s.corruptions)
			check->result.corruptions_fixed = corruptions - s.corruptions;
		if (leaks > s.leaks)
			check->result.leaks_fixed = leaks - s.leaks;
		if (s.lost && !rc)
			img_check_report(check, "Not repaired: data that the file does not hold (any more); it "
						"becomes zeroes only where that loss is accepted");
	}
	report(&s, check);
	return rc;
}
