/*
 * Compressed loop images, of which live CDs are made: spec/cloop.md. They are read only.
 *
 * version 2: header | offsets of the blocks and of the end | blocks
 * version 4: the same, or blocks | offsets | header
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/cloop/cloop_layout.h"
#include "libimg/base/arith.h"
#include "libimg/engine/driver.h"

extern const struct img_driver cloop_driver;

struct cloop {
	struct cloop_header header;
	uint64_t table_off;
};

/* ---- Probing and opening ---- */

/* The header that the file ends with. tail: the last bytes, that many. */
static const uint8_t *footer_in(const uint8_t *tail, size_t len)
{
	return tail + len - CLOOP_HEADER_BYTES;
}

/*
 * A raw disk can end in a cloop image. That it is one itself is told by the last offset: blocks end where the
 * offsets begin.
 */
static bool is_footer_sound(const uint8_t *tail, size_t len, uint64_t file_size)
{
	const uint8_t *footer = footer_in(tail, len);
	struct cloop_header h;

	if (cloop_parse_header(footer, CLOOP_HEADER_BYTES, &h, NULL) || h.version != 4 ||
	    cloop_table_bytes(&h) > file_size - CLOOP_HEADER_BYTES)
		return false;
	return cloop_parse_offset(&h, footer - CLOOP_OFFSET_BYTES).off ==
	       file_size - CLOOP_HEADER_BYTES - cloop_table_bytes(&h);
}

static int cloop_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	if (cloop_is_script(head, len))
		return 100;
	if (!tail)
		return 0;
	if (cloop_is_alpha(tail + IMG_PROBE_TAIL - 8))
		return IMG_PROBE_NEARLY;
	if (!cloop_is_script(footer_in(tail, IMG_PROBE_TAIL), CLOOP_HEADER_BYTES))
		return 0;
	return is_footer_sound(tail, IMG_PROBE_TAIL, file_size) ? 90 : IMG_PROBE_NEARLY;
}

static int read_header(struct img *img, struct cloop *c, struct img_error *err)
{
	uint8_t bytes[CLOOP_HEADER_BYTES];
	uint64_t size = img->file->size, off = 0;
	int rc;

	if (size < CLOOP_HEADER_BYTES)
		return img_fail(err, -EMEDIUMTYPE, "%s: not a cloop image", img->name);
	rc = img_storage_read(img->file, 0, bytes, sizeof(bytes), err);
	if (!rc && !cloop_header_version(bytes, sizeof(bytes))) {
		off = size - CLOOP_HEADER_BYTES;
		rc = img_storage_read(img->file, off, bytes, sizeof(bytes), err);
		if (!rc && cloop_is_alpha(bytes + sizeof(bytes) - 8))
			return img_fail(err, -ENOTSUP,
					"%s: version is CLOOP3, an alpha release's, expected V2.0 or V4.0",
					img->name);
		if (!rc && cloop_header_version(bytes, sizeof(bytes)) == 2)
			return img_fail(err, -ENOTSUP,
					"%s: header at %" PRIu64 ": version is V2.0, expected V4.0 at the end of a file",
					img->name, off);
	}
	if (rc)
		return rc;
	rc = cloop_parse_header(bytes, sizeof(bytes), &c->header, err);
	if (rc)
		return img_error_prefix(err, rc, "%s: header at %" PRIu64, img->name, off);
	c->table_off = CLOOP_HEADER_BYTES;
	if (!off)
		return 0;
	if (cloop_table_bytes(&c->header) > off)
		return img_fail(err, -EUCLEAN,
				"%s: truncated: %" PRIu64 " bytes in front of the header at the end, the offsets "
				"need %" PRIu64,
				img->name, off, cloop_table_bytes(&c->header));
	c->table_off = off - cloop_table_bytes(&c->header);
	return 0;
}

static int cloop_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct cloop *c = calloc(1, sizeof(*c));
	const struct cloop_header *h;
	int rc = c ? read_header(img, c, err) : img_fail(err, -ENOMEM, "%s: out of memory", img->name);

	if (rc)
		goto fail;
	h = &c->header;
	if (!o->salvage && c->table_off + cloop_table_bytes(h) > img->file->size) {
		rc = img_fail(err, -EUCLEAN,
			      "%s: truncated: ends at %" PRIu64 ", the offsets of %" PRIu32 " blocks need %" PRIu64,
			      img->name, (uint64_t)img->file->size, h->blocks,
			      c->table_off + cloop_table_bytes(h));
		goto fail;
	}
	img->state = c;
	img->size = (uint64_t)h->blocks * h->block_bytes;
	img->unit_bytes = h->block_bytes;
	return 0;
fail:
	free(c);
	return rc;
}

static void cloop_close(struct img *img)
{
	free(img->state);
	img->state = NULL;
}

/* ---- Reading ---- */

/* Entry i of the offsets, which can lie across two blocks of metadata. False: it is not in memory. */
static bool get_offset(struct img *img, struct img_req *req, uint64_t i, struct cloop_offset *out)
{
	const struct cloop *c = img->state;
	uint64_t at = c->table_off + i * CLOOP_OFFSET_BYTES;
	size_t first = min_size(CLOOP_OFFSET_BYTES, (size_t)(IMG_META_BLOCK - at % IMG_META_BLOCK));
	uint8_t bytes[CLOOP_OFFSET_BYTES];
	const uint8_t *from = img_meta_get(req, img->file, at, first);

	if (!from)
		return false;
	memcpy(bytes, from, first);
	if (first < CLOOP_OFFSET_BYTES) {
		from = img_meta_get(req, img->file, at + first, CLOOP_OFFSET_BYTES - first);
		if (!from)
			return false;
		memcpy(bytes + first, from, CLOOP_OFFSET_BYTES - first);
	}
	*out = cloop_parse_offset(&c->header, bytes);
	return true;
}

/*
 * What is wrong with a block from `at` to `end`, or 0. Blocks that do not shrink are a little longer than they
 * are, but not twice.
 */
static int check_block(const struct img *img, uint64_t block, const struct cloop_offset *at, uint64_t end,
		       struct img_error *err)
{
	static const char *const others[] = { [CLOOP_LZ4] = "lz4", [CLOOP_LZO] = "lzo" };
	const struct cloop *c = img->state;
	uint32_t bytes = c->header.block_bytes;

	if (end < at->off)
		return img_fail(err, -EUCLEAN,
				"%s: offsets at %" PRIu64 ": block %" PRIu64 " begins at %" PRIu64
				" and ends at %" PRIu64,
				img->name, c->table_off, block, at->off, end);
	if (at->kind > CLOOP_XZ)
		return img_fail(err, -ENOTSUP,
				"%s: offsets at %" PRIu64 ": block %" PRIu64
				" is compressed by %s (%u), expected zlib (0), nothing (1) or xz (2)",
				img->name, c->table_off, block,
				at->kind <= CLOOP_LZO ? others[at->kind] : "a method that is not known",
				at->kind);
	if (at->kind == CLOOP_XZ && img_codec_xz.missing)
		return img_fail(err, -ENOTSUP, "%s: block %" PRIu64 " is compressed by xz: %s", img->name, block,
				img_codec_xz.missing);
	if (at->kind == CLOOP_PLAIN && end - at->off != bytes)
		return img_fail(err, -EUCLEAN,
				"%s: offsets at %" PRIu64 ": block %" PRIu64
				", which is not compressed, has %" PRIu64 " bytes, expected %" PRIu32,
				img->name, c->table_off, block, end - at->off, bytes);
	if (end == at->off || end - at->off > 2 * (uint64_t)bytes + CLOOP_HEADER_BYTES)
		return img_fail(err, -EUCLEAN,
				"%s: offsets at %" PRIu64 ": block %" PRIu64 " has %" PRIu64
				" compressed bytes, expected 1 to %" PRIu64,
				img->name, c->table_off, block, end - at->off,
				2 * (uint64_t)bytes + CLOOP_HEADER_BYTES);
	return 0;
}

static int cloop_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		     struct img_extent *out)
{
	const struct cloop *c = img->state;
	uint32_t bytes = c->header.block_bytes;
	uint64_t block = off / bytes, within = off % bytes;
	struct cloop_offset at, end;
	int rc;

	if (!get_offset(img, req, block, &at) || !get_offset(img, req, block + 1, &end))
		return IMG_NEED_METADATA;
	rc = check_block(img, block, &at, end.off, img_req_error(req));
	if (rc)
		return rc;
	*out = (struct img_extent){
		.kind = at.kind == CLOOP_PLAIN ? IMG_DATA : IMG_COMPRESSED,
		.length = min_u64(len, bytes - within),
		.storage = img->file,
		.file_off = at.off,
	};
	if (at.kind == CLOOP_PLAIN) {
		out->file_off += within;
	} else {
		out->codec = at.kind == CLOOP_XZ ? &img_codec_xz : &img_codec_zlib;
		out->stored_bytes = (uint32_t)(end.off - at.off);
		out->unit_bytes = bytes;
		out->within = (uint32_t)within;
	}
	return 0;
}

/* ---- Checking: the offsets ascend, and lead to what the file has ---- */

enum {
	AT_ONCE = 4096,
	DEFECTS_MAX = 4 << 20,
};

static int check_blocks(struct img *img, struct img_check *check, uint64_t first, const uint8_t *bytes,
			size_t count, struct img_error *err)
{
	const struct cloop *c = img->state;

	for (size_t i = 0; i < count; i++) {
		struct cloop_offset at = cloop_parse_offset(&c->header, bytes + i * CLOOP_OFFSET_BYTES);
		struct cloop_offset end = cloop_parse_offset(&c->header, bytes + (i + 1) * CLOOP_OFFSET_BYTES);
		struct img_error why = { 0 };

		if (check_block(img, first + i, &at, end.off, &why)) {
			img_check_defect(check, "ERROR: %s", img_error_text(&why));
			img_error_clear(&why);
		} else if (end.off > img->file->size) {
			img_check_defect(check,
					 "ERROR: block %" PRIu64 " at %" PRIu64 " needs %" PRIu64
					 ", the file ends at %" PRIu64,
					 first + i, at.off, end.off, (uint64_t)img->file->size);
		} else {
			check->result.allocated_units++;
			check->result.compressed_units += at.kind != CLOOP_PLAIN;
			check->result.image_end = max_u64(check->result.image_end, end.off);
		}
		if (check->result.corruptions > DEFECTS_MAX)
			return img_fail(err, -EUCLEAN, "%s: offsets at %" PRIu64 ": more than %d are damaged",
					img->name, c->table_off, DEFECTS_MAX);
	}
	return 0;
}

static int cloop_check(struct img *img, struct img_check *check, struct img_error *err)
{
	const struct cloop *c = img->state;
	uint64_t blocks = c->header.blocks;
	uint8_t *bytes = malloc((AT_ONCE + 1) * CLOOP_OFFSET_BYTES);
	int rc = bytes ? 0 : img_fail(err, -ENOMEM, "%s: out of memory", img->name);

	check->result.total_units = blocks;
	for (uint64_t first = 0; first < blocks && !rc; first += AT_ONCE) {
		size_t n = (size_t)min_u64(AT_ONCE, blocks - first);

		rc = img_storage_read(img->file, c->table_off + first * CLOOP_OFFSET_BYTES, bytes,
				      (n + 1) * CLOOP_OFFSET_BYTES, err);
		if (!rc)
			rc = check_blocks(img, check, first, bytes, n, err);
	}
	free(bytes);
	return rc;
}

const struct img_driver cloop_driver = {
	.name = "cloop",
	.features = IMG_DRIVER_READ_ONLY | IMG_DRIVER_REPORT_DIRTY_ONLY,
	.probe = cloop_probe,
	.open = cloop_open,
	.close = cloop_close,
	.map = cloop_map,
	.check = cloop_check,
};
