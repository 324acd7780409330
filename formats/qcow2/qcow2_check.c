/*
 * Checking a qcow2 image: spec/qcow2.md, "Checking": scan, compare, and repair in rounds.
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/qcow2/qcow2_check.h"
#include "libimg/base/arith.h"

enum { MAX_ROUNDS = 4 }; /* of repairs, each of which may show more */

/* Scan and compare; with copied flags, unless they are seen to later. */
static int look(struct qcow2_scan *s, struct img *img, struct img_check *check, unsigned flags,
		bool copied, struct img_error *err)
{
	int rc = qcow2_scan(s, img, check, flags, err);

	if (rc)
		return rc;
	qcow2_compare(s);
	return copied ? qcow2_check_copied(s, false, err) : 0;
}

/* What the caller is told. */
static void report(const struct qcow2_scan *s, struct img_check *check)
{
	check->result.check_errors = s->errors;
	check->result.corruptions = s->corruptions;
	check->result.leaks = s->leaks;
	check->result.image_end = s->image_end;
	check->result.total_units = div_round_up_u64(align_down_u64(s->header.size, 512),
						     s->geometry.cluster_bytes);
	check->result.allocated_units = s->allocated;
	check->result.fragmented_units = s->fragmented;
	check->result.compressed_units = s->compressed;
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
	q->compressed_end = 0;
	img->dirty = s->header.incompatible & QCOW2_INCOMPATIBLE_DIRTY;
	return q->refcount_table ? qcow2_load_tables(img, err) : 0;
}

/* Is there something left that another round can repair? */
static bool may_go_on(const struct qcow2_scan *s, unsigned repair)
{
	if (s->errors || s->mixed)
		return false;
	if (s->leaks && !s->lost && !s->rebuild)
		return true;
	return (repair & IMG_REPAIR_ALL) == IMG_REPAIR_ALL &&
	       (s->bad_header || s->long_l1 || s->in_tables || s->bad_snapshots || s->bad_entries ||
		s->rebuild || s->refcount_corruptions || s->copied_wrong);
}

/*
 * Repair in rounds: what was repaired may show more (a table that can be read now). Each defect is said
 * before it is repaired. s: the scan, without copied flags; at the end, of what is left.
 */
static int repair(struct img *img, struct img_check *check, struct qcow2_scan *s,
		  struct img_error *err)
{
	uint64_t corruptions = 0, leaks = 0, found, left;
	int rc = 0, last;

	for (unsigned round = 0;; round++) {
		corruptions += s->corruptions;
		leaks += s->leaks;
		found = s->corruptions;
		rc = qcow2_repair(s, check->repair, err);
		/* Copied flags that were found wrong; a scan after a repair starts anew. */
		corruptions += s->copied_wrong;
		found += s->copied_wrong + s->leaks;
		qcow2_scan_free(s);
		last = look(s, img, check, QCOW2_SCAN_QUIET, true, rc ? NULL : err);
		if (last)
			return rc ? rc : last;
		left = s->corruptions + s->leaks;
		if (rc || left >= found || round + 1 == MAX_ROUNDS ||
		    !may_go_on(s, check->repair))
			break;
		/* What is left was counted already, or will be when it is said. */
		corruptions -= min_u64(corruptions, s->corruptions);
		leaks -= min_u64(leaks, s->leaks);
		qcow2_scan_free(s);
		rc = look(s, img, check, 0, false, err);
		if (rc)
			return rc;
	}
	report(s, check);
	check->result.corruptions_fixed = corruptions > s->corruptions
						  ? corruptions - s->corruptions
						  : 0;
	check->result.leaks_fixed = leaks > s->leaks ? leaks - s->leaks : 0;
	if (s->lost_data && !rc)
		img_check_report(check,
				 "Not repaired: data that the file does not hold (any more); it becomes "
				 "zeroes only where that loss is accepted");
	if (!rc && !s->errors && !s->corruptions)
		rc = qcow2_clear_marks(s, err);
	last = refresh(img, s, rc ? NULL : err);
	return rc ? rc : last;
}

int qcow2_check(struct img *img, struct img_check *check, struct img_error *err)
{
	struct qcow2_scan s;
	int rc = look(&s, img, check, 0, !check->repair, err);

	/* What could not be read may hold the only use of a cluster: change nothing. */
	if (!rc && check->repair && !s.errors) {
		rc = repair(img, check, &s, err);
	} else if (!rc) {
		if (check->repair)
			rc = qcow2_check_copied(&s, false, err);
		report(&s, check);
	}
	qcow2_scan_free(&s);
	return rc;
}

int qcow2_check_truncated(struct img *img, struct img_check *check, struct img_error *err)
{
	struct qcow2_scan s;
	int rc = qcow2_scan(&s, img, check, QCOW2_SCAN_QUIET | QCOW2_SCAN_NO_REFCOUNTS, err);

	if (!rc && s.lost_data)
		rc = img_fail(err, -EUCLEAN,
			      "%sfile truncated: %" PRIu64 " tables or clusters are missing; it "
			      "can be read as far as it goes, but not be written to",
			      s.data_end ? "data " : "", s.lost_data);
	qcow2_scan_free(&s);
	return rc;
}
