/*
 * Looking up guest offsets in tables of two levels, through the metadata cache.
 */
#include "libimg/engine/tables.h"

#include <errno.h>
#include <inttypes.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* ---- Entries ---- */

uint64_t img_tables_load_raw(const struct img_tables *t, const uint8_t *at)
{
	return t->big_endian ? be64_load(at) : le64_load(at);
}

void img_tables_store_raw(const struct img_tables *t, uint8_t *at, uint64_t raw)
{
	if (t->big_endian)
		be64_store(at, raw);
	else
		le64_store(at, raw);
}

struct img_table_entry img_tables_decode(const struct img_tables *t, uint64_t raw)
{
	struct img_table_entry e = { .raw = raw };

	if (!raw)
		return e;
	if (t->zero && raw == t->zero) {
		e.kind = IMG_TABLE_ZERO;
		return e;
	}
	if (t->compressed && raw & IMG_TABLE_COMPRESSED) {
		e.kind = IMG_TABLE_PACKED;
		e.off = raw & ((UINT64_C(1) << t->len_shift) - 1);
		e.len = raw >> t->len_shift & (t->cluster_bytes - 1);
		return e;
	}
	e.kind = IMG_TABLE_DATA;
	e.off = raw;
	e.len = t->cluster_bytes;
	return e;
}

/* ---- Looking up ---- */

static uint64_t l1_entry_off(const struct img_tables *t, uint64_t index)
{
	return t->l1_off + index * IMG_TABLE_ENTRY_BYTES;
}

/* Of n entries from off in the file on, those that are there; if not even the first is, the look fails. */
static uint64_t entries_there(const struct img_tables *t, uint64_t off, uint64_t n)
{
	uint64_t size = t->img->file->size;

	n = min_u64(n, (IMG_META_BLOCK - off % IMG_META_BLOCK) / IMG_TABLE_ENTRY_BYTES);
	/* What is written meanwhile may be in memory only. */
	if (t->img->writable || off >= size)
		return n;
	return max_u64(min_u64(n, (size - off) / IMG_TABLE_ENTRY_BYTES), 1);
}

/* No table for off: how many clusters on from there, at most as many as len touches? */
static uint64_t clusters_without_table(const struct img_tables *t, const uint8_t *l1, uint64_t entries,
				       uint64_t off, uint64_t len)
{
	uint64_t span = img_tables_span(t), n = 1;
	uint64_t within = align_down_u64(off & (span - 1), t->cluster_bytes);

	while (n < entries && n * span - within < len &&
	       !img_tables_load_raw(t, l1 + n * IMG_TABLE_ENTRY_BYTES))
		n++;
	return (n * span - within) / t->cluster_bytes;
}

int img_tables_lookup(const struct img_tables *t, struct img_req *req, uint64_t off, uint64_t len,
		      struct img_tables_lookup *out)
{
	uint64_t span = img_tables_span(t), index = off / span, at = l1_entry_off(t, index);
	uint64_t l1_entries = entries_there(t, at, (off + len - 1) / span - index + 1);
	const uint8_t *l1 = img_meta_get(req, t->img->file, at, l1_entries * IMG_TABLE_ENTRY_BYTES);
	uint64_t first;

	if (!l1)
		return IMG_NEED_METADATA;
	*out = (struct img_tables_lookup){
		.guest_off = align_down_u64(off, t->cluster_bytes),
		.table_off = img_tables_load_raw(t, l1),
	};
	if (!out->table_off) {
		out->n = clusters_without_table(t, l1, l1_entries, off, len);
		return 0;
	}
	if (out->table_off % t->table_align || out->table_off < t->header_end ||
	    out->table_off > INT64_MAX - img_tables_table_bytes(t))
		return img_fail(img_req_error(req), -EUCLEAN,
				"%s: L1 table at %" PRIu64 ": entry %" PRIu64 " is %#" PRIx64
				", expected 0 or a multiple of %" PRIu64 " from %" PRIu64 " on",
				t->img->name, t->l1_off, index, out->table_off, t->table_align,
				t->header_end);
	first = (off & (span - 1)) / t->cluster_bytes;
	out->entry_off = out->table_off + first * IMG_TABLE_ENTRY_BYTES;
	out->n = min_u64(t->table_entries - first,
			 (off + len - 1 - out->guest_off) / t->cluster_bytes + 1);
	out->n = entries_there(t, out->entry_off, out->n);
	out->slots = img_meta_get(req, t->img->file, out->entry_off, out->n * IMG_TABLE_ENTRY_BYTES);
	return out->slots ? 0 : IMG_NEED_METADATA;
}

int img_tables_entry_at(const struct img_tables *t, const struct img_tables_lookup *l, uint64_t i,
			struct img_table_entry *out, struct img_error *err)
{
	if (!l->slots) {
		*out = (struct img_table_entry){ .kind = IMG_TABLE_ABSENT };
		return 0;
	}
	*out = img_tables_decode(t, img_tables_load_raw(t, l->slots + i * IMG_TABLE_ENTRY_BYTES));
	if (out->kind != IMG_TABLE_DATA && out->kind != IMG_TABLE_PACKED)
		return 0;
	if (out->off >= t->header_end && out->off <= INT64_MAX - t->cluster_bytes && out->len &&
	    !(t->whole && out->off % t->cluster_bytes))
		return 0;
	return img_fail(err, -EUCLEAN,
			"%s: L2 table at %" PRIu64 ": entry of guest offset %" PRIu64 " is %#" PRIx64
			", expected %s from %" PRIu64 " on",
			t->img->name, l->table_off, l->guest_off + i * t->cluster_bytes, out->raw,
			t->whole ? "a multiple of the cluster size" : "an offset", t->header_end);
}

/* ---- Reading ---- */

/* Entries from the first on that go on like it. */
static uint64_t alike(const struct img_tables *t, const struct img_tables_lookup *l,
		      const struct img_table_entry *first)
{
	struct img_table_entry e;
	uint64_t n = 1;

	while (n < l->n && !img_tables_entry_at(t, l, n, &e, NULL) && e.kind == first->kind &&
	       (e.kind != IMG_TABLE_DATA || e.off == first->off + n * t->cluster_bytes))
		n++;
	return n;
}

int img_tables_map(const struct img_tables *t, struct img_req *req, uint64_t off, uint64_t len,
		   const struct img_codec *codec, struct img_extent *out)
{
	struct img_tables_lookup l;
	struct img_table_entry e;
	uint64_t within, n;
	int rc = img_tables_lookup(t, req, off, len, &l);

	if (!rc)
		rc = img_tables_entry_at(t, &l, 0, &e, img_req_error(req));
	if (rc)
		return rc;
	within = off - l.guest_off;
	n = !l.slots ? l.n : e.kind == IMG_TABLE_PACKED ? 1
							: alike(t, &l, &e);
	*out = (struct img_extent){
		.kind = e.kind == IMG_TABLE_ZERO ? IMG_ZERO : IMG_BACKING,
		.length = min_u64(len, n * t->cluster_bytes - within),
	};
	if (e.kind == IMG_TABLE_PACKED) {
		out->kind = IMG_COMPRESSED;
		out->storage = t->img->file;
		out->file_off = e.off;
		out->codec = codec;
		out->stored_bytes = (uint32_t)e.len;
		out->unit_bytes = (uint32_t)t->cluster_bytes;
		out->within = (uint32_t)within;
	} else if (e.kind == IMG_TABLE_DATA) {
		out->kind = IMG_DATA;
		out->storage = t->img->file;
		out->file_off = e.off + within;
		out->cipher = t->cipher;
		out->tweak = off;
	}
	return 0;
}
