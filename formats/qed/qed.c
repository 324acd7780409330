/*
 * QED: spec/qed.md. Opening, closing, the need-check mark; the other files are listed in qed_state.h.
 *
 * header, backing file name | L1 table | L2 tables and clusters
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qed/qed_state.h"
#include "libimg/base/arith.h"

static int qed_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)tail;
	(void)file_size;
	return qed_is_qed(head, len) ? 100 : 0;
}

int qed_write_header(struct img *img, const struct qed_header *h, struct img_error *err)
{
	struct qed *q = img->state;
	uint8_t bytes[QED_HEADER_BYTES];
	int rc;

	qed_encode_header(h, bytes);
	rc = img_tables_write(&q->tables, 0, bytes, sizeof(bytes), err);
	if (!rc)
		rc = img_tables_sync(&q->tables, err);
	if (!rc)
		q->header = *h;
	return rc;
}

/* Features that are not known, and that a change makes untrue. */
static int qed_first_write(struct img *img, struct img_error *err)
{
	const struct qed *q = img->state;
	struct qed_header h = q->header;

	if (!h.autoclear)
		return 0;
	h.autoclear = 0;
	return qed_write_header(img, &h, err);
}

/* ---- Opening ---- */

static int read_header(struct img *img, struct qed_header *h, struct img_error *err)
{
	uint8_t bytes[QED_HEADER_BYTES];
	int rc;

	if (img->file->size < sizeof(bytes))
		return img_fail(err, -EMEDIUMTYPE, "%s: not a QED image: it has %" PRIu64 " bytes", img->name,
				(uint64_t)img->file->size);
	rc = img_storage_read(img->file, 0, bytes, sizeof(bytes), err);
	if (rc)
		return rc;
	rc = qed_parse_header(bytes, sizeof(bytes), h, err);
	return rc ? img_error_prefix(err, rc, "%s: header", img->name) : 0;
}

static int read_backing(struct img *img, const struct qed_header *h, struct img_error *err)
{
	bool raw = h->features & QED_BACKING_RAW;
	char *name;
	int rc;

	if (!(h->features & QED_BACKING) || !h->name_bytes)
		return 0;
	name = calloc(1, h->name_bytes + 1);
	if (!name)
		return qed_no_memory(img, err);
	rc = img_storage_read(img->file, h->name_off, name, h->name_bytes, err);
	if (!rc && strlen(name) != h->name_bytes)
		rc = img_fail(err, -EUCLEAN, "%s: backing file name at %" PRIu32 ": it has a zero byte",
			      img->name, h->name_off);
	if (!rc && raw) {
		img->backing_format = strdup("raw");
		rc = img->backing_format ? 0 : qed_no_memory(img, err);
	}
	if (rc) {
		free(name);
		return rc;
	}
	img->backing_name = name;
	return 0;
}

static void describe_tables(struct img *img, struct qed *q)
{
	const struct qed_header *h = &q->header;

	q->tables = (struct img_tables){
		.img = img,
		.cluster_bytes = h->cluster_bytes,
		.l1_off = h->l1_off,
		.l1_entries = qed_table_bytes(h) / IMG_TABLE_ENTRY_BYTES,
		.table_entries = qed_table_bytes(h) / IMG_TABLE_ENTRY_BYTES,
		.table_align = h->cluster_bytes,
		.header_end = qed_header_end(h),
		.limit = align_down_u64(INT64_MAX, h->cluster_bytes),
		.zero = QED_ENTRY_ZERO,
		.whole = true,
	};
}

/*
 * The mark says that a writer did not come to its end, whose entries may lead to data that never was in the
 * file: those are cleared, as QEMU does it, and what remains is refused when the tables are loaded.
 */
static int check_marked(struct img *img, struct img_error *err)
{
	struct qed *q = img->state;
	struct img_check c = { .repair = IMG_REPAIR_ALL | IMG_REPAIR_LOSS, .quiet = true };
	struct qed_header h;
	int rc = qed_first_write(img, err);

	if (rc)
		return rc;
	q->tables.for_check = true;
	rc = img_tables_check(&q->tables, &c, err);
	q->tables.for_check = false;
	if (rc || c.result.corruptions)
		return rc;
	h = q->header;
	h.features &= ~(uint64_t)QED_NEED_CHECK;
	rc = qed_write_header(img, &h, err);
	if (rc)
		return rc;
	img->dirty = false;
	if (c.result.corruptions_fixed && !img->warning &&
	    asprintf(&img->warning,
		     "%s: it was not closed by who wrote to it last: %" PRIu64
		     " table entries that led out of the file, or to what others have, were repaired",
		     img->name, c.result.corruptions_fixed) < 0)
		img->warning = NULL;
	return 0;
}

static int prepare_writing(struct img *img, struct img_error *err)
{
	struct qed *q = img->state;
	int rc = 0;

	if (img->file->size < q->header.l1_off + qed_table_bytes(&q->header))
		return img_fail(err, -EUCLEAN, "%s: truncated: ends at %" PRIu64 ", the L1 table needs %" PRIu64,
				img->name, (uint64_t)img->file->size,
				q->header.l1_off + qed_table_bytes(&q->header));
	if (q->header.features & QED_NEED_CHECK)
		rc = check_marked(img, err);
	if (!rc)
		rc = img_tables_load(&q->tables, err);
	q->tables.mark = !img->backing_name && !(q->header.features & QED_NEED_CHECK);
	return rc;
}

static int qed_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct qed *q = calloc(1, sizeof(*q));
	const struct qed_header *h;
	int rc = q ? read_header(img, &q->header, err) : qed_no_memory(img, err);

	if (rc) {
		free(q);
		return rc;
	}
	h = &q->header;
	if (!o->salvage && !range_in(h->l1_off, qed_table_bytes(h), img->file->size))
		rc = img_fail(err, -EUCLEAN, "%s: truncated: ends at %" PRIu64 ", the L1 table needs %" PRIu64,
			      img->name, (uint64_t)img->file->size, h->l1_off + qed_table_bytes(h));
	if (!rc)
		rc = read_backing(img, h, err);
	if (rc) {
		free(q);
		return rc;
	}
	img->state = q;
	img->size = h->size;
	img->unit_bytes = h->cluster_bytes;
	img->dirty = h->features & QED_NEED_CHECK;
	describe_tables(img, q);
	q->tables.for_check = o->for_check;
	if (img->writable && !o->for_check)
		rc = prepare_writing(img, err);
	if (rc) {
		img_forget_backing(img);
		img->state = NULL;
		free(q);
		return rc;
	}
	img->file->may_grow_ahead = img->writable; /* only the tables say what is used */
	return 0;
}

static int qed_set_writable(struct img *img, bool writable, struct img_error *err)
{
	struct qed *q = img->state;
	int rc = 0;

	img_tables_free(&q->tables);
	if (writable && !q->tables.for_check)
		rc = prepare_writing(img, err);
	img->file->may_grow_ahead = writable && !rc;
	return rc;
}

static void qed_close(struct img *img)
{
	struct qed *q = img->state;

	img_tables_free(&q->tables);
	free(q);
	img->state = NULL;
}

/* ---- Reading and writing ---- */

static int qed_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len, struct img_extent *out)
{
	const struct qed *q = img->state;

	return img_tables_map(&q->tables, req, off, len, NULL, out);
}

static int qed_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off, uint64_t len,
			  struct img_plan *plan)
{
	struct qed *q = img->state;

	return img_tables_plan(&q->tables, req, op, off, len, plan);
}

static void qed_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct qed *q = img->state;

	img_tables_commit(&q->tables, req, plan);
}

static void qed_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct qed *q = img->state;

	(void)req;
	img_tables_drop(&q->tables, plan);
}

static int qed_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		       uint64_t len)
{
	struct qed *q = img->state;

	(void)req;
	(void)s;
	img_tables_release(&q->tables, file_off, len);
	return 0;
}

static void qed_zeroing(const struct img *img, struct img_zeroing *out)
{
	const struct qed *q = img->state;

	img_tables_zeroing(&q->tables, out);
}

/* The mark comes before the first entry, as QEMU has it: in images without a backing file. */
static int qed_grow(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	struct qed *q = img->state;
	struct qed_header h = q->header;
	int rc = 0;

	if (q->tables.mark) {
		h.features |= QED_NEED_CHECK;
		rc = qed_write_header(img, &h, err);
		q->tables.mark = rc != 0;
	}
	return rc ? rc : img_tables_grow(&q->tables, off, len, err);
}

static int qed_make_empty(struct img *img, struct img_error *err)
{
	struct qed *q = img->state;

	if (q->tables.for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	return img_tables_make_empty(&q->tables, err);
}

static int qed_finish(struct img *img, struct img_error *err)
{
	struct qed *q = img->state;
	struct qed_header h;
	int rc = img_tables_finish(&q->tables, err);

	if (rc || q->tables.for_check || !(q->header.features & QED_NEED_CHECK))
		return rc;
	rc = img_tables_sync(&q->tables, err);
	h = q->header;
	h.features &= ~(uint64_t)QED_NEED_CHECK;
	if (!rc)
		rc = qed_write_header(img, &h, err);
	if (!rc)
		q->tables.mark = !img->backing_name;
	return rc;
}

/* ---- Check, report ---- */

static int qed_check(struct img *img, struct img_check *check, struct img_error *err)
{
	struct qed *q = img->state;
	struct qed_header h = q->header;
	bool marked = h.features & QED_NEED_CHECK && q->tables.for_check &&
		      (check->repair & IMG_REPAIR_ALL) == IMG_REPAIR_ALL;
	int rc;

	/* What a marked image does not hold was never in it, as when it is opened for writing. */
	if (marked)
		check->repair |= IMG_REPAIR_LOSS;
	rc = img_tables_check(&q->tables, check, err);
	if (rc || !marked || check->result.corruptions)
		return rc;
	h.features &= ~(uint64_t)QED_NEED_CHECK;
	rc = qed_write_header(img, &h, err);
	img->dirty = rc != 0;
	return rc;
}

static int qed_info(struct img *img, struct img_value *top, struct img_value *specific,
		    struct img_error *err)
{
	const struct qed *q = img->state;

	(void)specific;
	(void)err;
	img_value_add_uint(top, "cluster-size", q->header.cluster_bytes);
	return 0;
}

const struct img_driver qed_driver = {
	.name = "qed",
	.features = IMG_DRIVER_BACKING,
	.probe = qed_probe,
	.open = qed_open,
	.close = qed_close,
	.set_writable = qed_set_writable,
	.first_write = qed_first_write,
	.finish = qed_finish,
	.map = qed_map,
	.plan_write = qed_plan_write,
	.commit = qed_commit,
	.drop = qed_drop,
	.zeroing = qed_zeroing,
	.release = qed_release,
	.grow = qed_grow,
	.extend = qed_extend,
	.resize = qed_resize,
	.set_backing = qed_set_backing,
	.make_empty = qed_make_empty,
	.create_options = qed_create_options,
	.create_check = qed_create_check,
	.create = qed_create,
	.check = qed_check,
	.info = qed_info,
};
