/*
 * Another size, another backing file. The size, where the L1 table is, and where the name is are in the
 * header: one write of its sector changes over to what was made durable elsewhere before.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow1/qcow1_state.h"
#include "libimg/base/arith.h"

/* ---- The size ---- */

static uint64_t clusters(const struct qcow1 *q, uint64_t size)
{
	return div_round_up_u64(size, q->tables.cluster_bytes);
}

static int check_size(const struct img *img, uint64_t size, struct img_error *err)
{
	const struct qcow1 *q = img->state;

	if (q->tables.for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	if (!size || size > qcow1_size_max(&q->header))
		return img_fail(err, size ? -EFBIG : -EINVAL,
				"%s: new size is %" PRIu64 ", expected 512 to %" PRIu64, img->name, size,
				qcow1_size_max(&q->header));
	return 0;
}

int qcow1_extend(struct img *img, uint64_t size, struct img_error *err)
{
	struct qcow1 *q = img->state;
	struct qcow1_header h = q->header;
	uint64_t entries = qcow1_l1_entries(&h, size);
	int rc = check_size(img, size, err);

	/* What was there before counts for nothing. */
	if (!rc)
		rc = img_tables_clear(&q->tables, clusters(q, img->size), clusters(q, size), err);
	if (!rc && entries > q->tables.l1_entries) {
		rc = img_tables_extend_l1(&q->tables, entries, &h.l1_off, err);
		if (!rc && h.l1_off != q->header.l1_off)
			rc = qcow1_write_header(img, &h, err);
		if (!rc)
			q->tables.l1_entries = entries;
	}
	if (rc)
		return rc;
	rc = img_tables_load(&q->tables, err);
	if (!rc)
		img->size = size;
	return rc;
}

int qcow1_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err)
{
	struct qcow1 *q = img->state;
	struct qcow1_header h = q->header;
	uint64_t reached = max_u64(img->size, h.size), entries = q->tables.l1_entries;
	int rc = check_size(img, size, err);

	if (!rc && how != IMG_PREALLOCATE_OFF)
		rc = img_fail(err, -ENOTSUP,
			      "%s: Unsupported preallocation mode: clusters of a qcow image are allocated as "
			      "they are written",
			      img->name);
	if (rc)
		return rc;
	h.size = size;
	rc = qcow1_write_header(img, &h, err);
	if (rc) {
		q->tables.l1_entries = entries;
		return rc;
	}
	img->size = size;
	if (clusters(q, size) < clusters(q, reached)) {
		q->tables.l1_entries = entries; /* those behind the new end are cleared, too */
		rc = img_tables_clear(&q->tables, clusters(q, size), clusters(q, reached), err);
		q->tables.l1_entries = qcow1_l1_entries(&h, size);
		if (!rc)
			rc = img_tables_load(&q->tables, err);
	}
	return rc;
}

/* ---- The backing file ---- */

/*
 * Where a name goes: not where the old one is, so that it can be durable before the header leads there. Behind
 * the header or the old name, if nothing else is there, or else in a cluster of its own.
 */
static int place_name(struct img *img, size_t bytes, uint64_t *off, struct img_error *err)
{
	struct qcow1 *q = img->state;
	const struct qcow1_header *h = &q->header;
	uint64_t old = h->name_off ? h->name_bytes : 0;
	bool room;
	int rc;

	*off = QCOW1_HEADER_BYTES;
	rc = img_tables_has_room(&q->tables, *off, bytes, &room, err);
	if (!rc && !room && old) {
		*off = h->name_off + old;
		rc = img_tables_has_room(&q->tables, *off, bytes, &room, err);
	}
	if (rc || room)
		return rc;
	if (!q->tables.writing ||
	    img_unit_alloc_get_at_end(&q->tables.alloc,
				      div_round_up_u64(bytes, q->tables.cluster_bytes), off))
		return img_fail(err, -ENOSPC, "%s: no room for a backing file name of %zu bytes", img->name,
				bytes);
	return 0;
}

static int store_name(struct img *img, const char *name, struct img_error *err)
{
	struct qcow1 *q = img->state;
	struct qcow1_header h = q->header;
	size_t bytes = name ? strlen(name) : 0;
	int rc = 0;

	if (bytes > QCOW1_NAME_MAX)
		return img_fail(err, -EINVAL, "%s: backing file name has %zu bytes, expected at most %d",
				img->name, bytes, QCOW1_NAME_MAX);
	h.name_off = 0;
	h.name_bytes = (uint32_t)bytes;
	if (name) {
		rc = place_name(img, bytes, &h.name_off, err);
		if (!rc)
			rc = img_tables_write(&q->tables, h.name_off, name, bytes, err);
		if (!rc)
			rc = img_tables_sync(&q->tables, err);
	}
	if (!rc)
		rc = qcow1_write_header(img, &h, err);
	q->tables.trim = true; /* a cluster that the old name had, or the new one did not get */
	return rc;
}

/* The format is not stored: it is found out by the content. */
int qcow1_set_backing(struct img *img, const char *name, const char *format, const struct img *backing,
		      struct img_error *err)
{
	char *new_name = name ? strdup(name) : NULL;
	int rc = name && !new_name ? qcow1_no_memory(img, err) : 0;

	(void)format;
	(void)backing;
	if (!rc)
		rc = store_name(img, name, err);
	if (rc) {
		free(new_name);
		return rc;
	}
	free(img->backing_name);
	img->backing_name = new_name;
	return 0;
}
