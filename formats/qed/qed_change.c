/*
 * Another size, another backing file. The L1 table covers all that a disk can ever have, so that the size is a
 * number in the header, and one write of its first sector changes over.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qed/qed_state.h"
#include "libimg/base/arith.h"

/* ---- The size ---- */

static uint64_t clusters(const struct qed *q, uint64_t size)
{
	return div_round_up_u64(size, q->header.cluster_bytes);
}

int qed_extend(struct img *img, uint64_t size, struct img_error *err)
{
	struct qed *q = img->state;
	int rc;

	if (q->tables.for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	if (size > qed_size_max(&q->header))
		return img_fail(err, -EFBIG,
				"%s: new size is %" PRIu64 ", expected at most %" PRIu64
				" with clusters of %" PRIu32 " bytes and tables of %" PRIu32 " clusters",
				img->name, size, qed_size_max(&q->header), q->header.cluster_bytes,
				q->header.table_clusters);
	/* What was there before counts for nothing. */
	rc = img_tables_clear(&q->tables, clusters(q, img->size), clusters(q, size), err);
	if (!rc)
		rc = img_tables_load(&q->tables, err);
	if (!rc)
		img->size = size;
	return rc;
}

int qed_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err)
{
	struct qed *q = img->state;
	struct qed_header h = q->header;
	uint64_t reached = max_u64(img->size, h.size);
	int rc;

	if (q->tables.for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	if (how != IMG_PREALLOCATE_OFF)
		return img_fail(err, -ENOTSUP,
				"%s: Unsupported preallocation mode: clusters of a QED image are allocated as "
				"they are written",
				img->name);
	h.size = size;
	rc = qed_write_header(img, &h, err);
	if (!rc && clusters(q, size) < clusters(q, reached)) {
		rc = img_tables_clear(&q->tables, clusters(q, size), clusters(q, reached), err);
		if (!rc)
			rc = img_tables_load(&q->tables, err);
	}
	if (q->header.size == size)
		img->size = size;
	return rc;
}

/* ---- The backing file ---- */

/*
 * Where a name goes: not where the old one is, so that it can be durable before the header leads there. 0: there is
 * no such place.
 */
static uint64_t place_name(const struct qed_header *h, size_t bytes)
{
	uint64_t old = h->features & QED_BACKING ? h->name_bytes : 0, end = qed_header_end(h);
	uint64_t behind = max_u64(QED_HEADER_BYTES, h->name_off + old);

	if (!old || !ranges_overlap(QED_HEADER_BYTES, bytes, h->name_off, old))
		return range_in(QED_HEADER_BYTES, bytes, end) ? QED_HEADER_BYTES : 0;
	return range_in(behind, bytes, end) ? behind : 0;
}

static int store_name(struct img *img, const char *name, const char *format, struct img_error *err)
{
	struct qed *q = img->state;
	struct qed_header h = q->header;
	uint64_t at = name ? place_name(&h, strlen(name)) : 0;
	int rc = 0;

	if (name && strlen(name) > QED_NAME_MAX)
		return img_fail(err, -EINVAL, "%s: backing file name has %zu bytes, expected at most %d",
				img->name, strlen(name), QED_NAME_MAX);
	if (name && !at)
		return img_fail(err, -ENOSPC,
				"%s: the header and the names of the old and the new backing file do not fit in "
				"the header's %" PRIu64 " bytes",
				img->name, qed_header_end(&h));
	if (name) {
		rc = img_tables_write(&q->tables, at, name, strlen(name), err);
		if (!rc)
			rc = img_tables_sync(&q->tables, err);
	}
	h.features &= ~(uint64_t)(QED_BACKING | QED_BACKING_RAW);
	if (name)
		h.features |= QED_BACKING;
	if (name && format && !strcmp(format, "raw"))
		h.features |= QED_BACKING_RAW;
	h.name_off = (uint32_t)at;
	h.name_bytes = name ? (uint32_t)strlen(name) : 0;
	return rc ? rc : qed_write_header(img, &h, err);
}

/* Of the formats only raw is stored: the others are found out. */
int qed_set_backing(struct img *img, const char *name, const char *format, const struct img *backing,
		    struct img_error *err)
{
	struct qed *q = img->state;
	bool raw = name && format && !strcmp(format, "raw");
	char *new_name = name ? strdup(name) : NULL, *new_format = raw ? strdup(format) : NULL;
	int rc = 0;

	(void)backing;
	if ((name && !new_name) || (raw && !new_format))
		rc = qed_no_memory(img, err);
	if (!rc)
		rc = store_name(img, name, format, err);
	if (rc) {
		free(new_name);
		free(new_format);
		return rc;
	}
	free(img->backing_name);
	free(img->backing_format);
	img->backing_name = new_name;
	img->backing_format = new_format;
	q->tables.mark = !name && q->tables.writing && !(q->header.features & QED_NEED_CHECK);
	return 0;
}
