/*
 * Apple sparse images (ASIF), of macOS 26: spec/asif.md. They are read only.
 *
 * header | two directories, of which the later counts: chunks that are tables | chunks: tables, data, bitmaps
 *
 * What Apple has not said, others have found out. What they have not seen is refused.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "formats/asif/asif_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/use_map.h"
#include "libimg/engine/driver.h"

extern const struct img_driver asif_driver;

struct asif {
	struct asif_header header;
	uint64_t directory_off; /* of the one that counts: its entries */
};

static int asif_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)tail;
	(void)file_size;
	return asif_is_asif(head, len) ? 100 : 0;
}

/* ---- Opening ---- */

static int read_header(struct img *img, struct asif_header *h, struct img_error *err)
{
	uint8_t bytes[ASIF_HEADER_BYTES];
	int rc;

	if (img->file->size < sizeof(bytes))
		return img_fail(err, -EMEDIUMTYPE, "%s: not an Apple sparse image", img->name);
	rc = img_storage_read(img->file, 0, bytes, sizeof(bytes), err);
	if (rc)
		return rc;
	rc = asif_parse_header(bytes, sizeof(bytes), h, err);
	return rc ? img_error_prefix(err, rc, "%s: header", img->name) : 0;
}

/* Directories take turns: the one with the higher version was written last. */
static int find_directory(struct img *img, struct asif *a, bool salvage, struct img_error *err)
{
	const struct asif_header *h = &a->header;
	uint64_t bytes = (1 + asif_table_count(h)) * ASIF_ENTRY_BYTES, latest = 0;

	for (size_t i = 0; i < ASIF_DIRECTORIES; i++) {
		uint64_t off = h->directory_off[i], version;
		uint8_t word[ASIF_ENTRY_BYTES];
		int rc;

		if (!range_in(off, salvage ? ASIF_ENTRY_BYTES : bytes, img->file->size))
			return img_fail(err, -EUCLEAN,
					"%s: truncated: ends at %" PRIu64 ", directory %zu needs %" PRIu64, img->name,
					(uint64_t)img->file->size, i, off + bytes);
		rc = img_storage_read(img->file, off, word, sizeof(word), err);
		if (rc)
			return rc;
		version = be64_load(word);
		if (i && version <= latest)
			continue;
		latest = version;
		a->directory_off = off + ASIF_ENTRY_BYTES;
	}
	return 0;
}

static int asif_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct asif *a = calloc(1, sizeof(*a));
	int rc = a ? read_header(img, &a->header, err) : img_fail(err, -ENOMEM, "%s: out of memory", img->name);

	if (!rc)
		rc = find_directory(img, a, o->salvage, err);
	if (rc) {
		free(a);
		return rc;
	}
	img->state = a;
	img->size = a->header.size;
	img->unit_bytes = a->header.chunk_bytes;
	return 0;
}

static void asif_close(struct img *img)
{
	free(img->state);
	img->state = NULL;
}

/* ---- Reading ---- */

/* Where chunk n of the file is. -EUCLEAN: no file can be so long. */
static int chunk_at(const struct img *img, uint64_t n, uint64_t *at, struct img_error *err)
{
	const struct asif *a = img->state;

	if (n >= (uint64_t)INT64_MAX / a->header.chunk_bytes)
		return img_fail(err, -EUCLEAN, "%s: chunk %" PRIu64 ", expected one in the file's %" PRIu64 " bytes",
				img->name, n, (uint64_t)img->file->size);
	*at = n * a->header.chunk_bytes;
	return 0;
}

static int fail_state(const struct img *img, uint64_t at, const struct asif_entry *e, struct img_error *err)
{
	return img_fail(err, -ENOTSUP,
			"%s: entry at %" PRIu64 ": status %d, flags %#x, chunk %" PRIu64
			", which is not known to mean anything",
			img->name, at, (int)e->status, e->reserved, e->chunk);
}

/* An entry of data that is known. at: where it is. */
static int check_entry(const struct img *img, uint64_t at, const struct asif_entry *e, struct img_error *err)
{
	bool has_chunk = e->status == ASIF_WRITTEN || e->status == ASIF_PARTLY;

	/* Chunk 0 has the header. */
	return e->reserved || has_chunk != (e->chunk != 0) ? fail_state(img, at, e, err) : 0;
}

/*
 * From byte `within` of the chunk on, as far as blocks are alike and one look at the bitmap sees. block: the number of the
 * first one in the bitmap at bitmap_at.
 */
static int map_blocks(struct img *img, struct img_req *req, uint64_t bitmap_at, uint64_t block, uint64_t skipped,
		      uint64_t len, struct img_extent *out)
{
	const struct asif_header *h = &((const struct asif *)img->state)->header;
	uint64_t at = bitmap_at + block / 4,
		 blocks = div_round_up_u64(skipped + len, h->block_bytes), run = 0;
	const uint8_t *bits;
	unsigned first, state;

	blocks = min_u64(blocks, (IMG_META_BLOCK - at % IMG_META_BLOCK) * 4 - block % 4);
	bits = img_meta_get(req, img->file, at, (size_t)div_round_up_u64(block % 4 + blocks, 4));
	if (!bits)
		return IMG_NEED_METADATA;
	block %= 4;
	first = bits[0] >> 2 * block & 3;
	if (first == ASIF_PARTLY)
		return img_fail(img_req_error(req), -ENOTSUP,
				"%s: bitmap at %" PRIu64 ": state 3 of a block, which is not known to mean anything",
				img->name, at);
	do {
		run++;
		state = run < blocks ? (unsigned)bits[(block + run) / 4] >> 2 * ((block + run) % 4) & 3 : 4;
	} while (state != ASIF_PARTLY && (state == ASIF_WRITTEN) == (first == ASIF_WRITTEN) &&
		 run < blocks);
	out->kind = first == ASIF_WRITTEN ? IMG_DATA : IMG_ZERO;
	out->length = min_u64(len, run * h->block_bytes - skipped);
	return 0;
}

/* A chunk of which some blocks were written. n: its number in the table at table_at; len: no more than it has. */
static int map_partly(struct img *img, struct img_req *req, uint64_t table_at, uint64_t n, uint64_t within,
		      uint64_t len, struct img_extent *out)
{
	const struct asif_header *h = &((const struct asif *)img->state)->header;
	uint64_t at = table_at + asif_bitmap_entry(h, n) * ASIF_ENTRY_BYTES, bitmap_at = 0;
	uint64_t block = n % h->group_chunks * (h->chunk_bytes / h->block_bytes) + within / h->block_bytes;
	const uint8_t *bytes = img_meta_get(req, img->file, at, ASIF_ENTRY_BYTES);
	struct asif_entry e;
	int rc;

	if (!bytes)
		return IMG_NEED_METADATA;
	e = asif_parse_entry(bytes);
	/* Of bitmaps no status was seen but none at all. */
	if (e.reserved || !e.chunk || (e.status != ASIF_NEVER_WRITTEN && e.status != ASIF_WRITTEN))
		return fail_state(img, at, &e, img_req_error(req));
	rc = chunk_at(img, e.chunk, &bitmap_at, img_req_error(req));
	return rc ? rc : map_blocks(img, req, bitmap_at, block, within % h->block_bytes, len, out);
}

/* The run of chunks that are alike from number n on, of those whose entries one look sees. */
static int map_chunks(struct img *img, struct img_req *req, uint64_t table_at, uint64_t n, uint64_t within,
		      uint64_t len, struct img_extent *out)
{
	const struct asif_header *h = &((const struct asif *)img->state)->header;
	uint64_t at = table_at + asif_data_entry(h, n) * ASIF_ENTRY_BYTES, file_off = 0;
	uint64_t count = min_u64(h->group_chunks - n % h->group_chunks,
				 (IMG_META_BLOCK - at % IMG_META_BLOCK) / ASIF_ENTRY_BYTES);
	const uint8_t *entries;
	struct asif_entry first;
	uint64_t run = 1;
	int rc;

	count = min_u64(count, div_round_up_u64(within + len, h->chunk_bytes));
	entries = img_meta_get(req, img->file, at, (size_t)count * ASIF_ENTRY_BYTES);
	if (!entries)
		return IMG_NEED_METADATA;
	first = asif_parse_entry(entries);
	rc = check_entry(img, at, &first, img_req_error(req));
	if (!rc)
		rc = chunk_at(img, first.chunk, &file_off, img_req_error(req));
	if (rc)
		return rc;
	for (; run < count && first.status != ASIF_PARTLY; run++) {
		struct asif_entry e = asif_parse_entry(entries + run * ASIF_ENTRY_BYTES);

		if (e.status != first.status || e.reserved ||
		    e.chunk != (first.chunk ? first.chunk + run : 0))
			break;
	}
	len = min_u64(len, run * h->chunk_bytes - within);
	*out = (struct img_extent){
		.kind = first.status == ASIF_WRITTEN ? IMG_DATA : IMG_ZERO,
		.length = len,
	};
	if (first.status == ASIF_PARTLY)
		rc = map_partly(img, req, table_at, n, within, len, out);
	if (!rc && out->kind == IMG_DATA) {
		out->storage = img->file;
		out->file_off = file_off + within;
	}
	return rc;
}

static int asif_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		    struct img_extent *out)
{
	const struct asif *a = img->state;
	const struct asif_header *h = &a->header;
	uint64_t cover = asif_table_cover(h), within = off % cover, at = a->directory_off + off / cover * ASIF_ENTRY_BYTES;
	const uint8_t *bytes = img_meta_get(req, img->file, at, ASIF_ENTRY_BYTES);
	struct asif_entry table;
	uint64_t table_at = 0;
	int rc;

	if (!bytes)
		return IMG_NEED_METADATA;
	table = asif_parse_entry(bytes);
	if (table.reserved || table.status)
		return fail_state(img, at, &table, img_req_error(req));
	len = min_u64(len, cover - within);
	*out = (struct img_extent){ .kind = IMG_ZERO, .length = len };
	if (!table.chunk)
		return 0;
	rc = chunk_at(img, table.chunk, &table_at, img_req_error(req));
	return rc ? rc
		  : map_chunks(img, req, table_at, within / h->chunk_bytes, within % h->chunk_bytes,
			       len, out);
}

/* ---- Checking: each chunk of the file has one user, and is in it ---- */

enum {
	ENTRIES_AT_ONCE = 2048,
	DEFECTS_MAX = 4 << 20,
};

struct scan {
	struct img *img;
	struct img_check *check;
	struct img_use_map used; /* chunks */
};

/* The entry at `at` leads to a chunk. fresh: of the file, and of no other entry before. */
static int use_chunk(struct scan *s, uint64_t at, uint64_t chunk, bool *fresh, struct img_error *err)
{
	const struct asif *a = s->img->state;
	uint64_t bytes = a->header.chunk_bytes, chunks = s->img->file->size / bytes;
	enum img_use use = IMG_USE_NEW;

	*fresh = false;
	if (s->check->result.corruptions > DEFECTS_MAX)
		return img_fail(err, -EUCLEAN, "%s: more than %d entries are damaged", s->img->name, DEFECTS_MAX);
	if (chunk >= chunks) {
		img_check_defect(s->check,
				 "ERROR: entry at %" PRIu64 ": chunk %" PRIu64 " is not in the file's %" PRIu64 " bytes", at,
				 chunk, (uint64_t)s->img->file->size);
		return 0;
	}
	if (img_use_map_add(&s->used, chunk, 1, &use))
		return img_fail(err, -ENOMEM, "%s: out of memory", s->img->name);
	*fresh = use == IMG_USE_NEW;
	if (!*fresh)
		img_check_defect(s->check, "ERROR: entry at %" PRIu64 ": chunk %" PRIu64 " is used by another entry, too",
				 at, chunk);
	s->check->result.image_end = max_u64(s->check->result.image_end, (chunk + 1) * bytes);
	return 0;
}

/* Entry i of the table at table_at. */
static int scan_entry(struct scan *s, uint64_t table_at, uint64_t i, const uint8_t *bytes, struct img_error *err)
{
	const struct asif_header *h = &((const struct asif *)s->img->state)->header;
	bool bitmap = i % (h->group_chunks + 1) == h->group_chunks, fresh;
	struct asif_entry e = asif_parse_entry(bytes);
	uint64_t at = table_at + i * ASIF_ENTRY_BYTES;
	struct img_error why = { 0 };

	if (bitmap ? e.reserved || (e.status != ASIF_NEVER_WRITTEN && e.status != ASIF_WRITTEN)
		   : check_entry(s->img, at, &e, &why)) {
		if (bitmap)
			fail_state(s->img, at, &e, &why);
		img_check_defect(s->check, "ERROR: %s", img_error_text(&why));
		img_error_clear(&why);
		return 0;
	}
	if (!e.chunk)
		return 0;
	s->check->result.allocated_units += !bitmap;
	return use_chunk(s, at, e.chunk, &fresh, err);
}

static int scan_table(struct scan *s, uint64_t table_at, struct img_error *err)
{
	const struct asif_header *h = &((const struct asif *)s->img->state)->header;
	uint64_t count = h->table_chunks / h->group_chunks * (h->group_chunks + 1);
	uint8_t bytes[ENTRIES_AT_ONCE * ASIF_ENTRY_BYTES];
	int rc = 0;

	for (uint64_t first = 0; first < count && !rc; first += ENTRIES_AT_ONCE) {
		uint64_t n = min_u64(ENTRIES_AT_ONCE, count - first);

		rc = img_storage_read(s->img->file, table_at + first * ASIF_ENTRY_BYTES, bytes,
				      (size_t)n * ASIF_ENTRY_BYTES, err);
		for (uint64_t i = 0; i < n && !rc; i++)
			rc = scan_entry(s, table_at, first + i, bytes + i * ASIF_ENTRY_BYTES, err);
	}
	return rc;
}

static int scan_directory(struct scan *s, struct img_error *err)
{
	const struct asif *a = s->img->state;
	uint64_t count = asif_table_count(&a->header);
	uint8_t bytes[ENTRIES_AT_ONCE * ASIF_ENTRY_BYTES];
	int rc = 0;

	for (uint64_t i = 0; i < count && !rc; i++) {
		uint64_t at = a->directory_off + i * ASIF_ENTRY_BYTES, first = i % ENTRIES_AT_ONCE;
		const uint8_t *entry = bytes + first * ASIF_ENTRY_BYTES;
		struct asif_entry e;
		bool fresh;

		if (!first)
			rc = img_storage_read(s->img->file, at, bytes,
					      (size_t)min_u64(ENTRIES_AT_ONCE, count - i) * ASIF_ENTRY_BYTES, err);
		if (rc || !be64_load(entry))
			continue;
		e = asif_parse_entry(entry);
		if (e.reserved || e.status) {
			img_check_defect(s->check, "ERROR: directory entry %" PRIu64 " is %#" PRIx64, i,
					 be64_load(entry));
			continue;
		}
		rc = use_chunk(s, at, e.chunk, &fresh, err);
		if (!rc && fresh)
			rc = scan_table(s, e.chunk * a->header.chunk_bytes, err);
	}
	return rc;
}

static int asif_check(struct img *img, struct img_check *check, struct img_error *err)
{
	const struct asif *a = img->state;
	struct scan s = { .img = img, .check = check };
	int rc;

	check->result.total_units = div_round_up_u64(img->size, a->header.chunk_bytes);
	img_use_map_init(&s.used, img->file->size / a->header.chunk_bytes, 1);
	rc = scan_directory(&s, err);
	img_use_map_free(&s.used);
	return rc;
}

/* ---- Report ---- */

static int asif_info(struct img *img, struct img_value *top, struct img_value *specific, struct img_error *err)
{
	const struct asif *a = img->state;
	char text[IMG_GUID_CHARS + 1];
	uint8_t guid[IMG_GUID_BYTES];

	(void)err;
	img_value_add_uint(top, "cluster-size", a->header.chunk_bytes);
	/* guid.h prints those whose first three numbers are little-endian */
	for (size_t i = 0; i < IMG_GUID_BYTES; i++)
		guid[i] = a->header.guid[i < 4 ? 3 - i : i < 6 ? 9 - i
						 : i < 8       ? 13 - i
							       : i];
	img_guid_print(guid, text);
	img_value_add_string(specific, "uuid", text);
	img_value_add_uint(specific, "block-size", a->header.block_bytes);
	img_value_add_uint(specific, "maximum-size", a->header.size_max);
	return 0;
}

const struct img_driver asif_driver = {
	.name = "asif",
	.features = IMG_DRIVER_READ_ONLY | IMG_DRIVER_REPORT_DIRTY_ONLY,
	.probe = asif_probe,
	.open = asif_open,
	.close = asif_close,
	.map = asif_map,
	.check = asif_check,
	.info = asif_info,
};
