/*
 * The footer of a stream, which names its tables: the last sector but one, before a sector of
 * zeroes. Where it is not there (something follows the stream, or it was cut short) the stream is
 * gone through from its front by its markers. spec/vmdk.md, "Streams".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"

/* How far behind the last byte that is not zero a footer is looked for, and in what pieces. */
enum {
	TRAILING_ZEROES_MAX = 4 << 20,
	TAIL_PIECE = 64 << 10,
};

/* ---- From the end ---- */

/* Where the last byte that is not zero is; *found false: zeroes, as far as is looked. */
static int find_last_byte(struct img_storage *s, uint8_t *buf, uint64_t *at, bool *found,
			  struct img_error *err)
{
	uint64_t end = s->size;

	*found = false;
	while (!*found && end && s->size - end < TRAILING_ZEROES_MAX) {
		uint64_t last = align_down_u64(end - 1, VMDK_SECTOR);
		uint64_t start = end > TAIL_PIECE ? last - (TAIL_PIECE - VMDK_SECTOR) : 0;
		int rc = img_storage_read(s, start, buf, (size_t)(end - start), err);

		if (rc)
			return rc;
		for (uint64_t i = end - start; i-- > 0 && !*found;) {
			*found = buf[i];
			*at = start + i;
		}
		end = start;
	}
	return 0;
}

/* Parse the footer at `at`, if there is one: *found. buf: two sectors. */
static int try_footer(struct img_storage *s, uint64_t at, uint8_t *buf, struct vmdk_sparse *sparse,
		      bool *found, struct img_error *err)
{
	int rc;

	*found = false;
	if (at < 2 * VMDK_SECTOR || !range_in(at, VMDK_SECTOR, s->size))
		return 0;
	rc = img_storage_read(s, at - VMDK_SECTOR, buf, 2 * VMDK_SECTOR, err);
	if (rc || !vmdk_is_footer_marker(buf) ||
	    vmdk_sparse_kind(buf + VMDK_SECTOR, VMDK_SECTOR) != VMDK_HOSTED)
		return rc;
	*found = true;
	rc = vmdk_parse_footer(buf + VMDK_SECTOR, VMDK_SECTOR, sparse, err);
	return rc ? img_error_prefix(err, rc, "at %" PRIu64, at) : 0;
}

/* ---- From the front ---- */

enum {
	WALK_PIECE = 16 << 10,
	PADDING_MAX = 4 << 20, /* zeroes in a row */
};

/* Going from marker to marker. */
struct walk {
	struct img_storage *s;
	const struct vmdk_sparse *sparse;
	uint64_t at; /* of the next marker */
	uint64_t padding;
	uint64_t buf_off, buf_len;
	uint8_t buf[WALK_PIECE];
};

/* The sector at w->at; *out NULL: the file ends before its end. */
static int walk_sector(struct walk *w, const uint8_t **out, struct img_error *err)
{
	*out = NULL;
	if (!range_in(w->at, VMDK_SECTOR, w->s->size))
		return 0;
	if (w->at < w->buf_off || !range_in(w->at - w->buf_off, VMDK_SECTOR, w->buf_len)) {
		int rc;

		w->buf_off = w->at;
		w->buf_len = min_u64(WALK_PIECE, w->s->size - w->at);
		rc = img_storage_read(w->s, w->at, w->buf, (size_t)w->buf_len, err);
		if (rc) {
			w->buf_len = 0;
			return rc;
		}
	}
	*out = w->buf + (w->at - w->buf_off);
	return 0;
}

/*
 * The next marker of a grain that is whole in the file, or of a footer: 1, *m and its place. 0: the
 * stream ends here, or goes on with what is none.
 */
static int walk_next(struct walk *w, struct vmdk_marker *m, uint64_t *off, struct img_error *err)
{
	const uint8_t *sector;
	uint64_t sectors, end;
	int rc;

	while (!(rc = walk_sector(w, &sector, err)) && sector) {
		*off = w->at;
		vmdk_parse_marker(sector, m);
		if (m->bytes) {
			end = *off + VMDK_GRAIN_MARKER_BYTES + m->bytes;
			if (!vmdk_is_grain_marker(w->sparse, m) || end > w->s->size)
				return 0;
			w->at = round_up_u64(end, VMDK_SECTOR);
			w->padding = 0;
			return 1;
		}
		if (!vmdk_marker_sectors(w->sparse, m, &sectors) ||
		    !range_in(w->at + VMDK_SECTOR, sectors * VMDK_SECTOR, w->s->size))
			return 0;
		w->at += (1 + sectors) * VMDK_SECTOR;
		w->padding = m->type == VMDK_MARKER_END ? w->padding + VMDK_SECTOR : 0;
		if (w->padding > PADDING_MAX)
			return 0;
		if (m->type == VMDK_MARKER_FOOTER)
			return 1;
	}
	return rc;
}

/* NULL: out of memory. */
static struct walk *walk_begin(struct img_storage *s, const struct vmdk_sparse *sparse)
{
	struct walk *w = malloc(sizeof(*w));

	if (!w)
		return NULL;
	w->s = s;
	w->sparse = sparse;
	w->padding = w->buf_off = w->buf_len = 0;
	if (!mul_u64(sparse->overhead_sectors, VMDK_SECTOR, &w->at))
		w->at = s->size;
	return w;
}

/* The footer's place, as the markers lead to it; 0: they do not. */
static int find_footer(struct img_storage *s, const struct vmdk_sparse *sparse, uint64_t *at,
		       struct img_error *err)
{
	struct vmdk_marker m = { 0 };
	struct walk *w = walk_begin(s, sparse);
	uint64_t off = 0;
	int rc;

	*at = 0;
	if (!w)
		return img_fail(err, -ENOMEM, "out of memory");
	while ((rc = walk_next(w, &m, &off, err)) == 1 && m.bytes)
		;
	if (rc == 1) {
		*at = off + VMDK_SECTOR;
		rc = 0;
	}
	free(w);
	return rc;
}

/* ---- Without a footer ---- */

static int compare_found(const void *a, const void *b)
{
	const struct vmdk_found *x = a, *y = b;

	if (x->grain != y->grain)
		return x->grain < y->grain ? -1 : 1;
	return x->file_off < y->file_off ? -1 : x->file_off > y->file_off;
}

static int add_found(struct vmdk_rebuilt *r, size_t *capacity, uint64_t grain, uint64_t off)
{
	if (r->count == *capacity) {
		size_t more = *capacity ? 2 * *capacity : 1024;
		struct vmdk_found *grown = reallocarray(r->grains, more, sizeof(*grown));

		if (!grown)
			return -ENOMEM;
		r->grains = grown;
		*capacity = more;
	}
	r->grains[r->count++] = (struct vmdk_found){ grain, off };
	return 0;
}

void vmdk_free_rebuilt(struct vmdk_rebuilt *rebuilt)
{
	if (rebuilt)
		free(rebuilt->grains);
	free(rebuilt);
}

int vmdk_rebuild(struct img_storage *s, const struct vmdk_sparse *sparse, struct vmdk_rebuilt **out,
		 struct img_error *err)
{
	struct vmdk_rebuilt *r = calloc(1, sizeof(*r));
	struct walk *w = walk_begin(s, sparse);
	uint64_t off = 0, grain_sectors = sparse->grain_bytes / VMDK_SECTOR;
	struct vmdk_marker m = { 0 };
	size_t capacity = 0;
	int rc = r && w ? 0 : -ENOMEM;

	while (!rc && (rc = walk_next(w, &m, &off, err)) == 1) {
		rc = m.bytes ? add_found(r, &capacity, m.value / grain_sectors, off) : 0;
		r->ends_off = w->at;
	}
	if (rc == -ENOMEM) {
		img_fail(err, rc, "out of memory");
	} else if (!rc && !r->count) {
		rc = img_fail(err, -EUCLEAN, "no whole grain in the stream");
	} else if (!rc) {
		r->complete = w->padding;
		qsort(r->grains, r->count, sizeof(*r->grains), compare_found);
		*out = r;
		r = NULL;
	}
	free(w);
	vmdk_free_rebuilt(r);
	return rc;
}

int vmdk_read_footer(struct img_storage *s, struct vmdk_sparse *sparse, struct img_error *err)
{
	uint64_t at = 0, last = 0;
	uint8_t *buf = malloc(TAIL_PIECE);
	bool found = false;
	int rc;

	if (!buf)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = find_last_byte(s, buf, &last, &found, err);
	/* Its last byte that is not zero is within the footer's sector. */
	last = align_down_u64(last, VMDK_SECTOR);
	if (!rc && found)
		rc = try_footer(s, last, buf, sparse, &found, err);
	if (!rc && !found && s->size)
		rc = find_footer(s, sparse, &at, err);
	if (!rc && at)
		rc = try_footer(s, at, buf, sparse, &found, err);
	if (!rc && !found)
		rc = img_fail(err, -EUCLEAN,
			      "truncated: no footer at %" PRIu64 ", where the data ends",
			      last);
	free(buf);
	return rc;
}
