/*
 * Finding and counting clusters in memory: spec/qcow2.md, "Refcounts". A cluster is taken by
 * counting it in the cached refcount block when a write is planned, and given back if the write
 * comes to nothing. Refcounts reach the disk before any table that relies on them, so a crash in
 * between leaks the cluster and nothing worse.
 *
 * Free clusters are handed out from the lowest on; next_free remembers below which there are none,
 * so writing on and on costs the same for each cluster however large the image is.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"

/* The refcounts in one block of the metadata cache, or in one refcount block if smaller. */
struct window {
	uint64_t file_off;
	const uint8_t *bytes; /* NULL: the table has no block there */
	uint64_t first;	      /* the cluster that the first entry counts */
	uint64_t n;
};

/* Get the window that counts a cluster. 0 or IMG_NEED_METADATA. */
static int get_window(struct img *img, struct img_req *req, uint64_t cluster, struct window *w)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_geometry *g = &q->geometry;
	uint64_t bytes = min_u64(g->cluster_bytes, IMG_META_BLOCK);
	uint64_t block = cluster / g->block_entries;

	*w = (struct window){ .n = bytes * 8 >> g->refcount_order };
	w->first = align_down_u64(cluster, w->n);
	if (block >= q->refcount_table_entries || !q->refcount_table[block])
		return 0;
	w->file_off = q->refcount_table[block] + (w->first % g->block_entries) * g->refcount_bits / 8;
	w->bytes = img_meta_get(req, img->file, w->file_off, bytes);
	return w->bytes ? 0 : IMG_NEED_METADATA;
}

static uint64_t count_in(const struct qcow2 *q, const struct window *w, uint64_t cluster)
{
	return qcow2_refcount_get(w->bytes, q->geometry.refcount_order, cluster - w->first);
}

/* Set n counts of one window, from cluster first on. */
static void set_counts(struct img *img, struct img_req *req, const struct window *w, uint64_t first,
		       uint64_t n, uint64_t count)
{
	struct qcow2 *q = img->state;
	unsigned order = q->geometry.refcount_order;
	uint64_t i = first - w->first;
	uint64_t start = i << order >> 3, end = ((i + n - 1) << order >> 3) + 1;
	uint8_t *bytes;

	if (order > 3)
		end += (UINT64_C(1) << (order - 3)) - 1;
	bytes = img_meta_edit(req, img->file, w->file_off + start, end - start,
			      IMG_RANK_ALLOCATION);
	i -= start << 3 >> order;
	for (uint64_t k = 0; k < n; k++)
		qcow2_refcount_set(bytes, order, i + k, count);
}

/* Does a big-endian group of four 16-bit counts hold a zero? */
static bool has_zero16(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return (v - UINT64_C(0x0001000100010001)) & ~v & UINT64_C(0x8000800080008000);
}

/* The first entry from i on that is zero; n: none. */
static uint64_t first_zero(const uint8_t *bytes, unsigned order, uint64_t i, uint64_t n)
{
	if (order == 4) {
		while (i < n && i % 4 && (bytes[i * 2] | bytes[i * 2 + 1]))
			i++;
		while (i < n && i % 4 == 0 && !has_zero16(bytes + i * 2))
			i += 4;
	}
	while (i < n && qcow2_refcount_get(bytes, order, i))
		i++;
	return i;
}

int qcow2_find_free(struct img *img, struct img_req *req, uint64_t want, uint64_t *first,
		    uint64_t *count)
{
	struct qcow2 *q = img->state;
	uint64_t cluster_bytes = q->geometry.cluster_bytes, i, n;
	const char *hit;
	struct window w;

	for (;;) {
		int rc = get_window(img, req, q->next_free, &w);

		if (rc)
			return rc;
		if (!w.bytes)
			return IMG_NEED_EXCLUSIVE;
		i = first_zero(w.bytes, q->geometry.refcount_order, q->next_free - w.first, w.n);
		q->next_free = w.first + i;
		if (i < w.n)
			break;
	}
	for (n = 1; n < want && i + n < w.n; n++)
		if (qcow2_refcount_get(w.bytes, q->geometry.refcount_order, i + n))
			break;
	if (img->file->device) {
		uint64_t fit = img->file->size / cluster_bytes;

		if (q->next_free >= fit)
			return img_fail(img_req_error(req), -ENOSPC, "%s: the device is full",
					img->name);
		n = min_u64(n, fit - q->next_free);
	}
	hit = img_range_map_at(&q->metadata, q->next_free * cluster_bytes, n * cluster_bytes);
	if (hit)
		return img_fail(img_req_error(req), -EUCLEAN,
				"%s: refcounts of the %" PRIu64 " clusters from offset %" PRIu64 " "
				"on are 0, but the %s lies there",
				img->name, n, q->next_free * cluster_bytes, hit);
	*first = q->next_free;
	*count = n;
	return 0;
}

void qcow2_alloc(struct img *img, struct img_req *req, uint64_t first, uint64_t count)
{
	struct qcow2 *q = img->state;
	struct window w;

	if (get_window(img, req, first, &w) || !w.bytes)
		return; /* impossible: find_free() looked there */
	set_counts(img, req, &w, first, count, 1);
	if (q->next_free == first)
		q->next_free = first + count;
}

/*
 * Go on where the last compressed data ended, in a cluster that is in use already and perhaps in
 * the next one if that is free. 0: done; 1: not possible; *need: IMG_NEED_METADATA.
 */
static bool append_compressed(struct img *img, struct img_req *req, uint64_t len, bool *need)
{
	struct qcow2 *q = img->state;
	uint64_t cluster_bytes = q->geometry.cluster_bytes;
	uint64_t cluster = q->compressed_end / cluster_bytes, count;
	bool crosses = len > cluster_bytes - q->compressed_end % cluster_bytes;
	struct window w, next;

	*need = false;
	if (!q->compressed_end || !qcow2_compressed_fits(&q->geometry, q->compressed_end, len))
		return false;
	*need = get_window(img, req, cluster, &w) || (crosses && get_window(img, req, cluster + 1, &next));
	if (*need || !w.bytes)
		return false;
	count = count_in(q, &w, cluster);
	if (!count || count == q->geometry.refcount_max)
		return false;
	if (crosses) {
		uint64_t off = (cluster + 1) * cluster_bytes;

		if (!next.bytes || count_in(q, &next, cluster + 1) ||
		    img_range_map_at(&q->metadata, off, cluster_bytes) ||
		    (img->file->device && !range_in(off, cluster_bytes, img->file->size)))
			return false;
		set_counts(img, req, &next, cluster + 1, 1, 1);
	}
	set_counts(img, req, &w, cluster, 1, count + 1);
	return true;
}

int qcow2_alloc_compressed(struct img *img, struct img_req *req, uint64_t len, uint64_t *file_off)
{
	struct qcow2 *q = img->state;
	uint64_t cluster_bytes = q->geometry.cluster_bytes, first = 0, count, off;
	bool need;

	if (append_compressed(img, req, len, &need)) {
		off = q->compressed_end;
	} else {
		int rc = need ? IMG_NEED_METADATA : qcow2_find_free(img, req, 1, &first, &count);

		if (rc)
			return rc;
		off = first * cluster_bytes;
		if (!qcow2_compressed_fits(&q->geometry, off, len))
			return img_fail(img_req_error(req), -EFBIG,
					"%s: compressed data cannot lie at offset %" PRIu64 ", "
					"the limit is %" PRIu64,
					img->name, off,
					(UINT64_C(1) << q->geometry.compressed_shift) - 1);
		qcow2_alloc(img, req, first, 1);
	}
	/* At the end of a cluster there is nothing to share. */
	q->compressed_end = is_aligned_u64(off + len, cluster_bytes) ? 0 : off + len;
	*file_off = off;
	return 0;
}

/* One use less of a cluster; its window was looked at by req. */
static void unuse_one(struct img *img, struct img_req *req, uint64_t cluster)
{
	struct qcow2 *q = img->state;
	struct window w;
	uint64_t count;

	if (get_window(img, req, cluster, &w) || !w.bytes)
		return;
	count = count_in(q, &w, cluster);
	if (!count)
		return;
	set_counts(img, req, &w, cluster, 1, count - 1);
	if (count > 1)
		return;
	q->next_free = min_u64(q->next_free, cluster);
	if (q->compressed_end && q->compressed_end / q->geometry.cluster_bytes == cluster)
		q->compressed_end = 0;
}

int qcow2_unuse(struct img *img, struct img_req *req, uint64_t off, uint64_t len)
{
	struct qcow2 *q = img->state;
	uint64_t first = off / q->geometry.cluster_bytes;
	uint64_t last = (off + len - 1) / q->geometry.cluster_bytes;
	struct window w;

	for (uint64_t c = first; c <= last; c = w.first + w.n) {
		int rc = get_window(img, req, c, &w);

		if (rc)
			return rc;
	}
	for (uint64_t c = first; c <= last; c++)
		unuse_one(img, req, c);
	return 0;
}

void qcow2_drop_compressed(struct img *img, struct img_req *req, uint64_t file_off, uint64_t len)
{
	struct qcow2 *q = img->state;

	qcow2_unuse(img, req, file_off, len);
	/* What was written of it is between others' bytes now; none of them may be overwritten. */
	q->stale_end = max_u64(q->stale_end, file_off + len);
}

int qcow2_used_once(struct img *img, struct img_req *req, uint64_t off, uint64_t len, bool *once)
{
	struct qcow2 *q = img->state;
	uint64_t first = off / q->geometry.cluster_bytes;
	uint64_t last = (off + len - 1) / q->geometry.cluster_bytes;
	struct window w;

	for (uint64_t c = first; c <= last; c++) {
		int rc = get_window(img, req, c, &w);

		if (rc)
			return rc;
		if (!w.bytes || count_in(q, &w, c) != 1) {
			*once = false;
			return 0;
		}
	}
	*once = true;
	return 0;
}
