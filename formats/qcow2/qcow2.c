/*
 * qcow2, versions 2 and 3: spec/qcow2.md. Opening and closing; what is done with an open image is
 * in the files that qcow2.h lists.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

static int qcow2_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)tail;
	(void)file_size;
	/* Version 1 is another format. */
	return len >= 8 && be32_load(head) == QCOW2_MAGIC &&
			       be32_load(head + QCOW2_OFF_VERSION) >= 2
		       ? 100
		       : 0;
}

/* ---- Opening ---- */

static void free_state(struct qcow2 *q)
{
	if (!q)
		return;
	img_storage_close(q->data_file);
	free(q->data_file_name);
	qcow2_lock(&q->unlocked);
	qcow2_free_tables(q);
	free(q);
}

/* Copy what header and extensions say; nothing of it borrows from first. */
static int fill_state(struct img *img, struct qcow2 *q, const uint8_t *first,
		      const struct qcow2_extensions *x, struct img_error *err)
{
	struct qcow2_header *h = &q->header;
	char *backing = NULL, *format = NULL;

	h->more = NULL;
	q->codec = h->compression == QCOW2_COMPRESSION_ZSTD ? &img_codec_zstd : &img_codec_deflate;
	img->encrypted = h->crypt_method != QCOW2_CRYPT_NONE;
	q->raw_data_file = q->geometry.data_file && h->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	q->bitmaps = x->bitmaps;
	q->bitmap_directory_off = x->bitmap_directory_off;
	q->bitmap_directory_bytes = x->bitmap_directory_bytes;
	q->crypto_off = x->crypto_off;
	q->crypto_bytes = x->crypto_bytes;
	if (x->data_file)
		q->data_file_name = strndup((const char *)x->data_file, x->data_file_bytes);
	if (h->backing_bytes)
		backing = strndup((const char *)first + h->backing_off, h->backing_bytes);
	if (*x->backing_format)
		format = strdup(x->backing_format);
	if ((x->data_file && !q->data_file_name) || (h->backing_bytes && !backing) ||
	    (*x->backing_format && !format)) {
		free(backing);
		free(format);
		return qcow2_no_memory(img, err);
	}
	free(img->backing_name);
	free(img->backing_format);
	img->backing_name = backing;
	img->backing_format = format;
	img->size = align_down_u64(h->size, 512);
	img->unit_bytes = q->geometry.cluster_bytes;
	img->grain_bytes = q->geometry.subcluster_bytes;
	img->dirty = h->incompatible & QCOW2_INCOMPATIBLE_DIRTY;
	/* Compressed clusters would be in clear text. */
	img->compress_codec = q->geometry.data_file || img->encrypted ? NULL : q->codec;
	return 0;
}

/*
 * What the first cluster says is there to the end? Of a shorter file, header and backing name are
 * enough to tell what it was (some).
 */
static int check_length(const struct img *img, const struct qcow2_header *h, bool some,
			struct img_error *err)
{
	uint64_t least = max_u64(h->header_bytes, h->backing_off + h->backing_bytes);

	if (!some)
		least = UINT64_C(1) << h->cluster_bits;
	if (img->file->size >= least)
		return 0;
	return img_fail(err, -EUCLEAN,
			"truncated: ends at %" PRIu64 ", the header%s needs %" PRIu64,
			(uint64_t)img->file->size, some ? "" : "'s cluster", least);
}

/* Read the first cluster into a new state. */
static int load_state(struct img *img, const struct img_opening *o, struct qcow2 **out,
		      struct img_error *err)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	struct qcow2_extensions x;
	uint8_t head[512], *first = NULL;
	uint64_t bytes;
	int rc = img_storage_read(img->file, 0, head, sizeof(head), err);

	if (rc)
		goto out;
	bytes = max_u64(qcow2_peek_cluster_bytes(head, sizeof(head)), sizeof(head));
	first = malloc(bytes);
	if (!first || !q) {
		rc = qcow2_no_memory(img, err);
		goto out;
	}
	rc = img_storage_read(img->file, 0, first, (size_t)bytes, err);
	if (rc)
		goto out;
	rc = qcow2_parse_header(first, (size_t)bytes, o->for_check ? QCOW2_PARSE_FOR_CHECK : 0,
				&q->header, err);
	if (!rc)
		rc = check_length(img, &q->header, o->self_only || o->for_check, err);
	if (!rc)
		rc = qcow2_parse_extensions(first, (size_t)bytes, &q->header, &x, err);
	if (rc) {
		img_error_prefix(err, rc, "%s", img->name);
		goto out;
	}
	qcow2_geometry(&q->header, &q->geometry);
	rc = fill_state(img, q, first, &x, err);
	if (rc)
		goto out;
	*out = q;
	q = NULL;
out:
	free_state(q);
	free(first);
	return rc;
}

static int open_data_file(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct qcow2 *q = img->state;
	int rc;

	q->data = img->file;
	if (!q->geometry.data_file)
		return 0;
	rc = o->data_file(o, q->data_file_name, &q->data_file, err);
	if (!rc && q->data_file)
		q->data = q->data_file;
	return rc;
}

/* An image that was not closed cleanly may have stale refcounts: rebuild them before writing. */
static int repair(struct img *img, const struct img_opening *o, struct img_error *err)
{
	struct img_check check = { .repair = IMG_REPAIR_ALL };
	struct qcow2 *old = img->state, *fresh = NULL;
	int rc = qcow2_check(img, &check, err);

	if (!rc && (check.result.check_errors || check.result.corruptions || check.result.leaks))
		rc = img_fail(err, -EUCLEAN, "%" PRIu64 " corruptions and %" PRIu64 " leaks remain",
			      check.result.corruptions, check.result.leaks);
	if (rc)
		return img_error_prefix(err, rc, "%s: was not closed cleanly and could not be "
						 "repaired; check it with repair of all defects",
					img->name);
	rc = load_state(img, o, &fresh, err);
	if (rc || !fresh)
		return rc;
	fresh->data = old->data;
	fresh->data_file = old->data_file;
	fresh->unlocked = old->unlocked;
	old->data_file = NULL;
	old->unlocked = (struct qcow2_unlocked){ 0 };
	free_state(old);
	img->state = fresh;
	return 0;
}

/*
 * A file that was cut short must not grow again: what is missing would be zeroes then. Only refcounts
 * and a last cluster that is not whole tell that something may be; a crash leaves such counts too.
 */
static int check_not_truncated(struct img *img, struct img_error *err)
{
	struct img_check quiet = { 0 };
	bool suspect;
	const struct qcow2 *q = img->state;
	int rc = qcow2_counted_past_end(img, &suspect, err);

	if (rc || (!suspect && (!q->data_file || q->data_file->size >= img->size)))
		return rc;
	rc = qcow2_check_truncated(img, &quiet, err);
	return rc ? img_error_prefix(err, rc, "%s", img->name) : 0;
}

/* What an image that will be written to must be. */
static int prepare_writing(struct img *img, const struct img_opening *o, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	int rc = 0;

	if (q->header.incompatible & QCOW2_INCOMPATIBLE_CORRUPT)
		return img_fail(err, -EUCLEAN, "%s: Image is corrupt; cannot be opened read/write "
					       "(repair it with a check first)",
				img->name);
	img->file->may_grow_ahead = true; /* only refcounts say what is used */
	if (img->dirty)
		rc = repair(img, o, err);
	if (!rc)
		rc = qcow2_load_tables(img, err);
	return rc || img->created ? rc : check_not_truncated(img, err);
}

/* ---- A snapshot as a disk ---- */

struct sought {
	const struct img_view *view;
	struct qcow2_snapshot found;
	bool is_found;
};

static bool is_text(const char *text, const uint8_t *bytes, size_t len)
{
	return strlen(text) == len && !memcmp(text, bytes, len);
}

static int compare_snapshot(void *user, const struct qcow2_snapshot *s)
{
	struct sought *w = user;

	if (w->is_found || (w->view->id && !is_text(w->view->id, s->id, s->id_bytes)) ||
	    (w->view->name && !is_text(w->view->name, s->name, s->name_bytes)))
		return 0;
	w->is_found = true;
	w->found = *s; /* the numbers; what it borrows is gone afterwards */
	return 0;
}

/*
 * Show the state that a snapshot keeps: its L1 table and the size that the disk had then. Older
 * entries do not say the size: the disk could not change it while it had snapshots.
 */
static int show_snapshot(struct img *img, const struct img_view *view, struct img_error *err)
{
	struct qcow2 *q = img->state;
	struct sought w = { .view = view };
	uint64_t size;
	int rc = qcow2_each_snapshot(img, compare_snapshot, &w, NULL, err);

	if (rc)
		return rc;
	if (!w.is_found)
		return img_fail(err, -ENOENT, "Failed to load snapshot: Can't find snapshot '%s'",
				view->id ? view->id : view->name);
	rc = qcow2_check_snapshot_l1(&q->geometry, &w.found, err);
	if (!rc && !range_in(w.found.l1_off, (uint64_t)w.found.l1_entries * 8, img->file->size))
		rc = img_fail(err, -EUCLEAN,
			      "L1 table of %" PRIu32 " entries at %" PRIu64 " lies past the end "
			      "of the file at %" PRIu64,
			      w.found.l1_entries, w.found.l1_off, (uint64_t)img->file->size);
	if (!rc && w.found.has_size && w.found.size > INT64_MAX - 511)
		rc = img_fail_range(err, -EUCLEAN, w.found.size, 0, INT64_MAX - 511, "size");
	size = w.found.has_size ? w.found.size : q->header.size;
	if (!rc && w.found.l1_entries < qcow2_l1_needed(&q->geometry, size))
		rc = img_fail(err, -EUCLEAN,
			      "L1 table has %" PRIu32 " entries, the size of %" PRIu64 " needs "
			      "%" PRIu64,
			      w.found.l1_entries, size, qcow2_l1_needed(&q->geometry, size));
	if (rc)
		return img_error_prefix(err, rc, "%s: snapshot '%s'", img->name,
					view->id ? view->id : view->name);
	q->header.l1_off = w.found.l1_off;
	q->header.l1_entries = w.found.l1_entries;
	q->header.size = size;
	img->size = align_down_u64(size, 512);
	return 0;
}

static int qcow2_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct qcow2 *q = NULL;
	int rc = load_state(img, o, &q, err);

	if (rc || !q)
		return rc;
	img->state = q;
	rc = qcow2_check_encryption(img, o, err);
	if (!rc)
		rc = qcow2_open_cipher(img, o, err);
	if (!rc && img->keep_allocated && q->header.version < 3)
		rc = img_fail(err, -ENOTSUP,
			      "%s: the room of what is discarded can be kept since version 3, this "
			      "image has version %" PRIu32,
			      img->name, q->header.version);
	if (!rc && (o->view.id || o->view.name))
		rc = show_snapshot(img, &o->view, err);
	if (!rc)
		rc = open_data_file(img, o, err);
	if (!rc && img->writable && !o->for_check && !o->self_only)
		rc = prepare_writing(img, o, err);
	if (!rc)
		return 0;
	free_state(img->state);
	img->state = NULL;
	free(img->backing_name);
	free(img->backing_format);
	img->backing_name = img->backing_format = NULL;
	return rc;
}

static int qcow2_set_writable(struct img *img, bool writable, struct img_error *err)
{
	struct qcow2 *q = img->state;

	if (writable)
		return prepare_writing(img, &(struct img_opening){ 0 }, err);
	img->file->may_grow_ahead = false;
	qcow2_free_tables(q);
	q->next_free = q->compressed_end = 0;
	return 0;
}

static void qcow2_close(struct img *img)
{
	free_state(img->state);
	img->state = NULL;
}

static void qcow2_zeroing(const struct img *img, struct img_zeroing *out)
{
	const struct qcow2 *q = img->state;

	/* But for parts of compressed clusters, and for a data file that holds the zeroes itself. */
	if (q->header.version >= 3 && !q->raw_data_file &&
	    q->geometry.subcluster_bytes == q->geometry.cluster_bytes)
		out->zero = IMG_ZERO_METADATA;
	out->discard = q->header.version >= 3;
}

const struct img_driver qcow2_driver = {
	.name = "qcow2",
	.features = IMG_DRIVER_BACKING | IMG_DRIVER_COMPRESS | IMG_DRIVER_KEEP_ALLOCATED |
		    IMG_DRIVER_VIEWS,
	.probe = qcow2_probe,
	.open_options = qcow2_open_options,
	.open = qcow2_open,
	.close = qcow2_close,
	.first_write = qcow2_first_write,
	.finish = qcow2_finish,
	.set_writable = qcow2_set_writable,
	.map = qcow2_map,
	.plan_write = qcow2_plan_write,
	.commit = qcow2_commit,
	.drop = qcow2_drop,
	.zeroing = qcow2_zeroing,
	.last_use = qcow2_last_use,
	.release = qcow2_release,
	.grow = qcow2_grow,
	.extend = qcow2_extend,
	.resize = qcow2_resize,
	.set_backing = qcow2_set_backing,
	.make_empty = qcow2_make_empty,
	.create_options = qcow2_create_options,
	.create_check = qcow2_create_check,
	.create = qcow2_create,
	.amend_options = qcow2_amend_options,
	.amend = qcow2_amend,
	.check = qcow2_check,
	.info = qcow2_info,
};
