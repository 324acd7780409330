/*
 * Check and repair. A BAT entry has to lead to an aligned cluster inside the file that no other
 * entry leads to; what is behind the last one is a leak. Two entries with one cluster get one each.
 * What is beyond the end of the file is lost: only who accepts that gets zeroes for it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/use_map.h"

enum { COPY_BYTES = 1 << 20 };

struct scan {
	struct img_check *c;
	unsigned repair; /* of c->repair what may be done to this file */
	struct img_use_map used;
	uint8_t *buffer;
	uint64_t allocated, fragmented;
	uint64_t previous, previous_end; /* of the last good entry: its number + 1, where its cluster ends */
	uint64_t end;			 /* of the last cluster of a good entry */
	uint64_t next;			 /* where a copy of a cluster may go; moves on */
	uint64_t file_bytes;		 /* of the file as it was found: copies make it longer */
	/*
	 * What has to be asked for to give an entry a cluster of its own. Where entries lead out of the
	 * file that includes their loss: they would lead to the copies.
	 */
	unsigned copying;
};

static bool repairs(const struct scan *s, unsigned what)
{
	return (s->repair & what) == what;
}

/* What a defect is reported as: what will be done about it. */
static const char *verb(const struct scan *s, unsigned what)
{
	return repairs(s, what) ? "Repairing" : "ERROR";
}

static void count_repaired(struct scan *s)
{
	s->c->result.corruptions--;
	s->c->result.corruptions_fixed++;
}

enum { LOSS = IMG_REPAIR_ALL | IMG_REPAIR_LOSS };

static bool is_lost(const struct parallels_file *p, const struct scan *s, uint64_t number,
		    uint64_t off)
{
	return off < parallels_entry_at(p->entries) ||
	       !range_in(off, parallels_bytes_needed(p, number), s->file_bytes);
}

/* ---- The format extension ---- */

/*
 * A section that is not known, and without which nothing may be written: then nothing is repaired,
 * and why is in *why. An extension that is damaged, or that nobody vouches for, does not count.
 */
static int judge_repair(struct parallels_file *p, struct scan *s, struct img_error *why,
			struct img_error *err)
{
	int rc = s->repair ? parallels_judge_extension(p, why) : 0;

	if (rc == -ENOTSUP)
		s->repair = 0;
	else if (rc)
		img_error_move(err, why);
	return rc == -ENOTSUP ? 0 : rc;
}

struct loss {
	const struct scan *s;
	bool found;
};

static int find_lost(struct parallels_file *p, void *user, uint64_t number, uint32_t value,
		     struct img_error *err)
{
	struct loss *loss = user;

	(void)err;
	loss->found = is_lost(p, loss->s, number, value * p->scale);
	return loss->found;
}

/* What is lost will be zeroes, of which a dirty bitmap knows nothing. */
static int outdate_extension(struct parallels_file *p, struct scan *s, struct img_error *err)
{
	struct loss loss = { .s = s };
	int rc;

	if (!repairs(s, LOSS) || !p->header.extension_off)
		return 0;
	rc = parallels_each_entry(p, 0, p->entries, find_lost, &loss, err);
	if (rc < 0 || !loss.found)
		return rc < 0 ? rc : 0;
	img_check_report(s->c,
			 "Repairing %s: format extension: dirty bitmaps know nothing of what is "
			 "lost, and are removed",
			 p->name);
	return parallels_outdate_extension(p, err);
}

/* ---- The header ---- */

static int check_header(struct parallels_file *p, struct scan *s, struct img_error *err)
{
	struct parallels_header h = p->header;
	unsigned defects = 0;
	int rc = 0;

	if (h.in_use == PARALLELS_OPEN && !p->marked) {
		img_check_defect(s->c, "%s %s: image was not closed correctly", verb(s, IMG_REPAIR_ALL), p->name);
		h.in_use = PARALLELS_CLOSED;
		/* Who writes this mark last vouches for the extension; nobody did. */
		h.extension_off = 0;
		defects++;
	}
	if (p->data_off_wrong) {
		img_check_defect(s->c,
				 "%s %s: data_off field has incorrect value: sector %" PRIu32
				 ", expected %" PRIu64,
				 verb(s, IMG_REPAIR_ALL), p->name, h.data_off,
				 p->data_start / PARALLELS_SECTOR);
		h.data_off = (uint32_t)(p->data_start / PARALLELS_SECTOR);
		defects++;
	}
	if (h.extension_off && h.in_use == PARALLELS_CLOSED) {
		struct img_error why = { 0 };

		rc = parallels_check_extension(p, &why);
		if (rc == -EUCLEAN) {
			img_check_defect(s->c, "%s %s", verb(s, IMG_REPAIR_ALL), img_error_text(&why));
			h.extension_off = 0;
			defects++;
			rc = 0;
		} else if (rc) {
			img_fail(err, rc, "%s", img_error_text(&why));
		}
		img_error_clear(&why);
	}
	if (!rc && h.extension_off && h.in_use == PARALLELS_CLOSED) {
		enum img_use use; /* an entry that leads there gets a copy of its own */

		if (img_use_map_add(&s->used, h.extension_off * PARALLELS_SECTOR - p->base,
				    p->cluster_bytes, &use))
			rc = parallels_no_memory(p, err);
		s->end = max_u64(s->end, h.extension_off * PARALLELS_SECTOR + p->cluster_bytes);
	}
	if (rc || !defects || !repairs(s, IMG_REPAIR_ALL))
		return rc;
	rc = parallels_write_header(p, &h, err);
	img_meta_forget(p->img, p->storage, 0, IMG_META_SECTOR);
	if (rc)
		return rc;
	p->data_off_wrong = false;
	while (defects--)
		count_repaired(s);
	return 0;
}

static int find_entry(struct parallels_file *p, void *user, uint64_t number, uint32_t value,
		      struct img_error *err)
{
	(void)p;
	(void)number;
	(void)value;
	(void)err;
	*(bool *)user = true;
	return 1;
}

static int check_empty(struct parallels_file *p, struct scan *s, struct img_error *err)
{
	struct parallels_header h = p->header;
	bool full = false;
	int rc;

	if (!(h.flags & PARALLELS_FLAG_EMPTY))
		return 0;
	rc = parallels_each_entry(p, 0, p->entries, find_entry, &full, err);
	if (rc < 0 || !full)
		return rc < 0 ? rc : 0;
	img_check_defect(s->c, "%s %s: the header calls the image empty, and the BAT is not",
			 verb(s, IMG_REPAIR_ALL), p->name);
	if (!repairs(s, IMG_REPAIR_ALL))
		return 0;
	h.flags &= ~(uint32_t)PARALLELS_FLAG_EMPTY;
	rc = parallels_write_header(p, &h, err);
	img_meta_forget(p->img, p->storage, 0, IMG_META_SECTOR);
	if (!rc)
		count_repaired(s);
	return rc;
}

/* ---- Entries ---- */

/* Give the entry a cluster of its own with the bytes at from (as far as the file has them). */
static int copy_cluster(struct parallels_file *p, struct scan *s, uint64_t number, uint64_t from,
			struct img_error *err)
{
	uint64_t to = s->next, n;
	uint64_t bytes =
		from < s->file_bytes ? min_u64(p->cluster_bytes, s->file_bytes - from) : 0;
	int rc = 0;

	if (to / p->scale > UINT32_MAX)
		return img_fail(err, -EFBIG, "%s: found no room for a copy of cluster %" PRIu64,
				p->name, number);
	for (uint64_t at = 0; at < bytes && !rc; at += n) {
		n = min_u64(bytes - at, COPY_BYTES);
		rc = img_storage_read(p->storage, from + at, s->buffer, n, err);
		if (!rc)
			rc = img_storage_write(p->storage, to + at, s->buffer, n, err);
	}
	if (!rc && bytes < p->cluster_bytes)
		rc = img_storage_zero(p->storage, to + bytes, p->cluster_bytes - bytes, err);
	if (!rc)
		rc = parallels_sync(p, err);
	if (!rc)
		rc = parallels_write_entry(p, number, (uint32_t)(to / p->scale), err);
	img_meta_forget(p->img, p->storage, align_down_u64(to, IMG_META_SECTOR),
			round_up_u64(p->cluster_bytes, IMG_META_SECTOR));
	if (rc)
		return rc;
	s->next = to + p->cluster_bytes;
	s->end = max_u64(s->end, s->next);
	count_repaired(s);
	return 0;
}

/*
 * Of an entry that leads out of the file. Those of which the file has nothing come first: cleared, before
 * there are copies that they would lead to, or left alone.
 */
static int check_lost(struct parallels_file *p, void *user, uint64_t number, uint32_t value,
		      struct img_error *err)
{
	struct scan *s = user;
	uint64_t off = value * p->scale;
	int rc;

	if (!is_lost(p, s, number, off))
		return 0;
	img_check_defect(s->c,
			 "%s %s: cluster %" PRIu64 " is outside image: it is at %" PRIu64
			 ", and the file ends at "
			 "%" PRIu64,
			 verb(s, LOSS), p->name, number, off, s->file_bytes);
	if (!repairs(s, LOSS)) {
		s->allocated++;
		s->copying = LOSS;
		/* what is left of it stays */
		s->end = max_u64(s->end, min_u64(off + p->cluster_bytes, s->file_bytes));
		return 0;
	}
	if (off >= parallels_entry_at(p->entries) && off < s->file_bytes)
		return 0; /* a part of it is there: check_entry() copies that */
	rc = parallels_write_entry(p, number, 0, err);
	if (!rc)
		count_repaired(s);
	return rc;
}

static int check_entry(struct parallels_file *p, void *user, uint64_t number, uint32_t value,
		       struct img_error *err)
{
	struct scan *s = user;
	uint64_t off = value * p->scale;
	enum img_use use = IMG_USE_NEW;

	if (is_lost(p, s, number, off) && !repairs(s, LOSS))
		return 0;
	s->allocated++;
	if (is_lost(p, s, number, off))
		return copy_cluster(p, s, number, off, err);
	if (off % p->cluster_bytes != p->base || off < p->data_start) {
		img_check_defect(s->c,
				 "%s %s: cluster %" PRIu64 " is %s: it is at %" PRIu64,
				 verb(s, s->copying), p->name, number,
				 off < p->data_start ? "in front of the data" : "not aligned", off);
		s->end = max_u64(s->end, off + p->cluster_bytes);
		return repairs(s, s->copying) ? copy_cluster(p, s, number, off, err) : 0;
	}
	if (img_use_map_add(&s->used, off - p->base, p->cluster_bytes, &use))
		return parallels_no_memory(p, err);
	if (use == IMG_USE_SHARED) {
		img_check_defect(s->c, "%s %s: duplicate offset in BAT entry %" PRIu64 ": %" PRIu64,
				 verb(s, s->copying), p->name, number, off);
		return repairs(s, s->copying) ? copy_cluster(p, s, number, off, err) : 0;
	}
	s->fragmented += number && s->previous == number && off != s->previous_end;
	s->previous = number + 1;
	s->previous_end = off + p->cluster_bytes;
	s->end = max_u64(s->end, s->previous_end);
	return 0;
}

/* What a format extension that counts refers to is not known: nothing is a leak then. */
static int check_end(struct parallels_file *p, struct scan *s, struct img_error *err)
{
	uint64_t size = p->storage->size, leaked;
	int rc;

	if (p->storage->device || p->header.extension_off)
		return 0;
	if (s->end > size) { /* the disk's last cluster ends where the disk does */
		/* what is lost stays outside: in a longer file the next repair would take it for good */
		if (!s->repair || s->copying == LOSS)
			return 0;
		return img_storage_zero(p->storage, s->end, 0, err);
	}
	if (s->end == size)
		return 0;
	if (p->marked && p->has_free_end) /* it is cut off when the image is closed */
		return 0;
	leaked = div_round_up_u64(size - s->end, p->cluster_bytes);
	s->c->result.leaks += leaked;
	img_check_report(s->c, "%s %s: space leaked at the end of the image %" PRIu64,
			 verb(s, IMG_REPAIR_LEAKS), p->name,
			 size - s->end);
	if (!(s->repair & IMG_REPAIR_LEAKS))
		return 0;
	img_meta_forget(p->img, p->storage, round_up_u64(s->end, IMG_META_SECTOR), UINT64_MAX / 2);
	rc = img_storage_resize(p->storage, s->end, IMG_PREALLOCATE_OFF, err);
	if (!rc) {
		s->c->result.leaks -= leaked;
		s->c->result.leaks_fixed += leaked;
	}
	return rc;
}

/* ---- All of it ---- */

static int scan_file(struct parallels_file *p, struct scan *s, struct img_error *err)
{
	int rc = outdate_extension(p, s, err);

	if (!rc)
		rc = check_header(p, s, err);
	if (!rc)
		rc = check_empty(p, s, err);
	if (!rc)
		rc = parallels_each_entry(p, 0, p->entries, check_lost, s, err);
	if (!rc && s->repair)
		rc = parallels_sync(p, err);
	if (!rc)
		rc = parallels_each_entry(p, 0, p->entries, check_entry, s, err);
	return rc ? rc : check_end(p, s, err);
}

int parallels_file_check(struct parallels_file *p, struct img_check *c, struct img_error *err)
{
	struct scan s = { .c = c,
			  .repair = c->repair,
			  .buffer = malloc(COPY_BYTES),
			  .file_bytes = p->storage->size,
			  .copying = IMG_REPAIR_ALL };
	uint64_t cluster = p->cluster_bytes, units;
	uint64_t before = c->result.corruptions + c->result.leaks;
	struct img_error why = { 0 };
	int rc = s.buffer ? parallels_find_base(p, &p->base, err) : parallels_no_memory(p, err);

	if (!rc)
		rc = judge_repair(p, &s, &why, err);
	if (rc) {
		free(s.buffer);
		return rc;
	}
	units = p->storage->size > p->base ? multiple_up_u64(p->storage->size - p->base, cluster)
					   : 0;
	img_use_map_init(&s.used, units, cluster);
	s.next = max_u64(p->base + units, p->data_start);
	s.end = p->data_start;
	rc = scan_file(p, &s, err);
	if (why.text && c->result.corruptions + c->result.leaks > before)
		img_check_report(c, "ERROR %s: nothing is repaired", img_error_text(&why));
	img_error_clear(&why);
	c->result.image_end += s.end;
	c->result.total_units += div_round_up_u64(p->size, cluster);
	c->result.allocated_units += s.allocated;
	c->result.fragmented_units += s.fragmented;
	img_use_map_free(&s.used);
	free(s.buffer);
	if (!rc && s.repair)
		rc = parallels_sync(p, err);
	if (!rc && p->prepared && s.repair)
		rc = parallels_load_alloc(p, p->data_start, err);
	return rc;
}
