/*
 * Growing images of Bochs: spec/bochs.md. They are read only.
 *
 * header | catalog: an entry for each extent of the disk | extents, each a bitmap and data
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "formats/bochs/bochs_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/use_map.h"
#include "libimg/engine/driver.h"

extern const struct img_driver bochs_driver;

static int bochs_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)tail;
	(void)file_size;
	return bochs_is_redolog(head, len) ? 100 : 0;
}

static int bochs_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	uint8_t bytes[BOCHS_HEADER_BYTES];
	struct bochs_header *h;
	int rc;

	if (img->file->size < sizeof(bytes))
		return img_fail(err, -EMEDIUMTYPE, "%s: not a Bochs image", img->name);
	rc = img_storage_read(img->file, 0, bytes, sizeof(bytes), err);
	if (rc)
		return rc;
	h = malloc(sizeof(*h));
	if (!h)
		return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
	rc = bochs_parse_header(bytes, sizeof(bytes), h, err);
	if (rc) {
		img_error_prefix(err, rc, "%s: header", img->name);
	} else if (!o->salvage && bochs_entry_at(h, h->catalog_entries) > img->file->size) {
		rc = img_fail(err, -EUCLEAN,
			      "%s: truncated: ends at %" PRIu64 ", the catalog needs %" PRIu64, img->name,
			      (uint64_t)img->file->size, bochs_entry_at(h, h->catalog_entries));
	}
	if (rc) {
		free(h);
		return rc;
	}
	img->state = h;
	img->size = h->size;
	img->unit_bytes = h->extent_bytes;
	return 0;
}

static void bochs_close(struct img *img)
{
	free(img->state);
	img->state = NULL;
}

/* ---- Reading ---- */

/* From sector `within` of an extent on, as far as bits are alike and one look at the bitmap sees. */
static int map_extent(struct img *img, struct img_req *req, uint64_t extent_at, uint64_t within,
		      uint64_t len, struct img_extent *out)
{
	const struct bochs_header *h = img->state;
	uint64_t sector = within / BOCHS_SECTOR, skipped = within % BOCHS_SECTOR, run = 0;
	uint64_t at = extent_at + sector / 8;
	uint64_t sectors = div_round_up_u64(skipped + len, BOCHS_SECTOR);
	const uint8_t *bits;
	bool set;

	sectors = min_u64(sectors, (IMG_META_BLOCK - at % IMG_META_BLOCK) * 8 - sector % 8);
	bits = img_meta_get(req, img->file, at, (size_t)div_round_up_u64(sector % 8 + sectors, 8));
	if (!bits)
		return IMG_NEED_METADATA;
	sector %= 8;
	set = bits[0] >> sector & 1;
	while (run < sectors && (bits[(sector + run) / 8] >> (sector + run) % 8 & 1) == set)
		run++;
	*out = (struct img_extent){
		.kind = set ? IMG_DATA : IMG_ZERO,
		.length = min_u64(len, run * BOCHS_SECTOR - skipped),
	};
	if (set) {
		out->storage = img->file;
		out->file_off = extent_at + h->bitmap_bytes + within;
	}
	return 0;
}

static int bochs_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		     struct img_extent *out)
{
	const struct bochs_header *h = img->state;
	uint64_t extent = off / h->extent_bytes, within = off % h->extent_bytes, run = 0;
	uint64_t at = bochs_entry_at(h, extent);
	uint64_t n = min_u64((off + len - 1) / h->extent_bytes - extent + 1,
			     (IMG_META_BLOCK - at % IMG_META_BLOCK) / BOCHS_ENTRY_BYTES);
	const uint8_t *entries = img_meta_get(req, img->file, at, n * BOCHS_ENTRY_BYTES);

	if (!entries)
		return IMG_NEED_METADATA;
	while (run < n && le32_load(entries + run * BOCHS_ENTRY_BYTES) == BOCHS_ENTRY_FREE)
		run++;
	if (!run)
		return map_extent(img, req, bochs_extent_at(h, le32_load(entries)), within,
				  min_u64(len, h->extent_bytes - within), out);
	*out = (struct img_extent){
		.kind = IMG_ZERO,
		.length = min_u64(len, run * h->extent_bytes - within),
	};
	return 0;
}

/* ---- Checking: each extent has one user and lies in the file ---- */

enum {
	DEFECTS_MAX = 4 << 20, /* a catalog with more is none: small files can have 2^32 entries */
};

struct scan {
	struct img *img;
	struct img_check *check;
	struct img_use_map used;
	uint64_t next;
};

static int scan_entry(struct scan *s, uint64_t extent, uint32_t entry, struct img_error *err)
{
	struct img_check *c = s->check;
	const struct bochs_header *h = s->img->state;
	uint64_t at = bochs_extent_at(h, entry);
	enum img_use use;

	if (entry == BOCHS_ENTRY_FREE)
		return 0;
	if (c->result.corruptions >= DEFECTS_MAX)
		return img_fail(err, -EUCLEAN,
				"%s: catalog at %" PRIu32
				": more than %d entries lead out of the file, or to extents of others",
				s->img->name, h->catalog_off, DEFECTS_MAX);
	if (!range_in(at, bochs_stride(h), s->img->file->size)) {
		img_check_defect(c,
				 "ERROR: catalog entry %" PRIu64 ": extent at %" PRIu64 " needs %" PRIu64
				 ", the file ends at %" PRIu64,
				 extent, at, at + bochs_stride(h), (uint64_t)s->img->file->size);
		return 0;
	}
	if (img_use_map_add(&s->used, entry, 1, &use))
		return img_fail(err, -ENOMEM, "%s: out of memory", s->img->name);
	if (use != IMG_USE_NEW)
		img_check_defect(c,
				 "ERROR: catalog entry %" PRIu64 ": extent %" PRIu32
				 " is used by another entry, too",
				 extent, entry);
	c->result.fragmented_units += c->result.allocated_units && entry != s->next;
	c->result.allocated_units++;
	c->result.image_end = max_u64(c->result.image_end, at + bochs_stride(h));
	s->next = (uint64_t)entry + 1;
	return 0;
}

static int bochs_check(struct img *img, struct img_check *check, struct img_error *err)
{
	enum { AT_ONCE = 4096 };
	const struct bochs_header *h = img->state;
	uint64_t count = div_round_up_u64(h->size, h->extent_bytes);
	struct scan s = { .img = img, .check = check };
	uint8_t bytes[AT_ONCE * BOCHS_ENTRY_BYTES];
	int rc = 0;

	check->result.total_units = count;
	check->result.image_end = bochs_entry_at(h, h->catalog_entries);
	img_use_map_init(&s.used, UINT64_C(1) << 32, 1);
	for (uint64_t first = 0; first < count && !rc; first += AT_ONCE) {
		uint64_t n = min_u64(AT_ONCE, count - first);

		rc = img_storage_read(img->file, bochs_entry_at(h, first), bytes,
				      (size_t)n * BOCHS_ENTRY_BYTES, err);
		for (uint64_t i = 0; i < n && !rc; i++)
			rc = scan_entry(&s, first + i, le32_load(bytes + i * BOCHS_ENTRY_BYTES), err);
	}
	img_use_map_free(&s.used);
	return rc;
}

const struct img_driver bochs_driver = {
	.name = "bochs",
	.features = IMG_DRIVER_READ_ONLY | IMG_DRIVER_REPORT_DIRTY_ONLY,
	.probe = bochs_probe,
	.open = bochs_open,
	.close = bochs_close,
	.map = bochs_map,
	.check = bochs_check,
};
