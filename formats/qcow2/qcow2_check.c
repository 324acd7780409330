/*
 * Checking a qcow2 image: spec/qcow2.md, "Checking": scan, compare, and repair in rounds.
 */

#include "formats/qcow2/qcow2_scan.h"
#include "libimg/base/arith.h"

enum { MAX_ROUNDS = 4 }; /* of repairs, each of which may show more */

/* Scan and compare. */
static int look(struct qcow2_scan *s, struct img *img, struct img_check *check, unsigned flags,
		struct img_error *err)
{
	int rc = qcow2_scan(s, img, check, flags, err);

	return rc ? rc : qcow2_compare(s, err);
}

/* What the caller is told. */
static void report(const struct qcow2_scan *s, struct img_check *check)
{
	check->check_errors = s->errors;
	check->corruptions = s->corruptions;
	check->leaks = s->leaks;
	check->image_end = s->image_end;
	check->total_units = div_round_up_u64(align_down_u64(s->header.size, 512),
					      s->geometry.cluster_bytes);
	check->allocated_units = s->allocated;
	check->fragmented_units = s->fragmented;
	check->compressed_units = s->compressed;
}

/* The image's state, after its file was changed behind it. */
static int refresh(struct img *img, const struct qcow2_scan *s, struct img_error *err)
{
	struct qcow2 *q = img->state;

	img_meta_forget(img, img->file, 0, UINT64_MAX);
	q->header = s->header;
	q->header.more = NULL;
	q->header.more_bytes = 0;
	q->next_free = 0;
	q->packed_end = 0;
	img->dirty = s->header.incompatible & QCOW2_INCOMPATIBLE_DIRTY;
	return q->reftable ? qcow2_load_tables(img, err) : 0;
}

static int repair(struct img *img, struct img_check *check, struct qcow2_scan *s,
		  struct img_error *err)
{
	uint64_t corruptions = s->corruptions, leaks = s->leaks, left;
	int rc = 0, last;

	/*
	 * A file that has grown may hold what lay past its end before: look again. Once in any
	 * case: counts past the end of the file are no defect, but clusters lost to its growth.
	 */
	for (unsigned round = 0;
	     round < MAX_ROUNDS && !rc && (!round || s->corruptions || s->leaks); round++) {
		left = s->corruptions + s->leaks;
		rc = qcow2_repair(s, check->repair, err);
		qcow2_scan_free(s);
		last = look(s, img, check, QCOW2_SCAN_QUIET, rc ? NULL : err);
		if (last)
			return rc ? rc : last;
		if (s->errors || s->corruptions + s->leaks == left)
			break;
	}
	report(s, check);
	check->corruptions_fixed = corruptions > s->corruptions ? corruptions - s->corruptions
								: 0;
	check->leaks_fixed = leaks > s->leaks ? leaks - s->leaks : 0;
	if (!rc && !s->errors && !s->corruptions)
		rc = qcow2_clear_marks(s, err);
	last = refresh(img, s, rc ? NULL : err);
	return rc ? rc : last;
}

int qcow2_check(struct img *img, struct img_check *check, struct img_error *err)
{
	struct qcow2_scan s;
	int rc = look(&s, img, check, 0, err);

	if (!rc)
		report(&s, check);
	/* What could not be read may hold the only use of a cluster: change nothing. */
	if (!rc && check->repair && !s.errors)
		rc = repair(img, check, &s, err);
	qcow2_scan_free(&s);
	return rc;
}
