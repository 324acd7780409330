/*
 * The header, its extensions and the feature name table: bytes to struct and back. A parse answers in this
 * order: is it qcow2, do its fields agree with each other, is it something we can do. See
 * qcow2_layout.h and spec/qcow2.md, "Header".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "formats/qcow2/qcow2_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	FEATURE_ROW = 48, /* kind, bit, 46 bytes of name */
	FEATURE_NAME = 46,
	FEATURE_INCOMPATIBLE = 0, /* kinds */
	FEATURE_COMPATIBLE = 1,
	FEATURE_AUTOCLEAR = 2,
};

/* The table of names that writers put into images of version 3. */
static const struct feature {
	uint8_t kind, bit;
	const char *name;
} features[] = {
	{ FEATURE_INCOMPATIBLE, 0, "dirty bit" },
	{ FEATURE_INCOMPATIBLE, 1, "corrupt bit" },
	{ FEATURE_INCOMPATIBLE, 2, "external data file" },
	{ FEATURE_INCOMPATIBLE, 3, "compression type" },
	{ FEATURE_INCOMPATIBLE, 4, "extended L2 entries" },
	{ FEATURE_COMPATIBLE, 0, "lazy refcounts" },
	{ FEATURE_AUTOCLEAR, 0, "bitmaps" },
	{ FEATURE_AUTOCLEAR, 1, "raw external data" },
};

/* ---- Header ---- */

uint64_t qcow2_peek_cluster_bytes(const uint8_t *bytes, size_t len)
{
	uint32_t bits;

	if (len < 24 || be32_load(bytes) != QCOW2_MAGIC)
		return 0;
	bits = be32_load(bytes + QCOW2_OFF_CLUSTER_BITS);
	if (bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS)
		return 0;
	return UINT64_C(1) << bits;
}

/* Fields up to where the first cluster's length is known. */
static void load_header(const uint8_t *bytes, struct qcow2_header *h)
{
	h->backing_off = be64_load(bytes + QCOW2_OFF_BACKING_OFF);
	h->backing_bytes = h->backing_off ? be32_load(bytes + QCOW2_OFF_BACKING_BYTES) : 0;
	h->cluster_bits = be32_load(bytes + QCOW2_OFF_CLUSTER_BITS);
	h->size = be64_load(bytes + QCOW2_OFF_SIZE);
	h->crypt_method = be32_load(bytes + QCOW2_OFF_CRYPT_METHOD);
	h->l1_entries = be32_load(bytes + QCOW2_OFF_L1_ENTRIES);
	h->l1_off = be64_load(bytes + QCOW2_OFF_L1_OFF);
	h->refcount_table_off = be64_load(bytes + QCOW2_OFF_REFTABLE_OFF);
	h->refcount_table_clusters = be32_load(bytes + QCOW2_OFF_REFTABLE_CLUSTERS);
	h->snapshots = be32_load(bytes + QCOW2_OFF_SNAPSHOTS);
	h->snapshots_off = be64_load(bytes + QCOW2_OFF_SNAPSHOTS_OFF);
	if (h->version < 3) {
		h->header_bytes = QCOW2_V2_HEADER_BYTES;
		h->refcount_order = 4;
		return;
	}
	h->incompatible = be64_load(bytes + QCOW2_OFF_INCOMPATIBLE);
	h->compatible = be64_load(bytes + QCOW2_OFF_COMPATIBLE);
	h->autoclear = be64_load(bytes + QCOW2_OFF_AUTOCLEAR);
	h->refcount_order = be32_load(bytes + QCOW2_OFF_REFCOUNT_ORDER);
	h->header_bytes = be32_load(bytes + QCOW2_OFF_HEADER_BYTES);
	/* A field that starts past the header's length is absent and counts as 0. */
	if (h->header_bytes > QCOW2_OFF_COMPRESSION)
		h->compression = bytes[QCOW2_OFF_COMPRESSION];
}

/* Append to text[used..size), as far as there is room. */
static size_t append(char *text, size_t size, size_t used, const char *piece, size_t len)
{
	len = min_size(len, size - 1 - used);
	memcpy(text + used, piece, len);
	text[used + len] = '\0';
	return used + len;
}

/* The name that the image gives an incompatible feature, or NULL; *len without padding. */
static const char *feature_name(const uint8_t *table, size_t bytes, unsigned bit, size_t *len)
{
	for (size_t i = 0; bytes - i >= FEATURE_ROW; i += FEATURE_ROW) {
		const char *name = (const char *)table + i + 2;

		if (table[i] != FEATURE_INCOMPATIBLE || table[i + 1] != bit || !*name)
			continue;
		*len = strnlen(name, FEATURE_NAME);
		return name;
	}
	return NULL;
}

/* Refuse unknown incompatible features by the names that the image itself gives them. */
static int refuse_features(const uint8_t *bytes, size_t end, size_t pos, uint64_t unknown,
			   struct img_error *err)
{
	struct qcow2_extension ext, table = { 0 };
	char text[512] = "";
	size_t used = 0;

	while (qcow2_next_extension(bytes, end, &pos, &ext, NULL) == 1) {
		if (ext.type == QCOW2_EXT_FEATURES)
			table = ext;
	}
	for (unsigned bit = 0; bit < 64; bit++) {
		size_t len = 0;
		const char *name;
		char number[16];

		if (!(unknown >> bit & 1))
			continue;
		name = table.data ? feature_name(table.data, table.bytes, bit, &len) : NULL;
		if (used)
			used = append(text, sizeof(text), used, ", ", 2);
		if (name) {
			used = append(text, sizeof(text), used, name, len);
		} else {
			int n = snprintf(number, sizeof(number), "bit %u", bit);

			used = append(text, sizeof(text), used, number, (size_t)n);
		}
	}
	return img_fail(err, -ENOTSUP,
			"Unsupported qcow2 feature(s): %s (header at %d: incompatible "
			"features 0x%" PRIx64 " are unknown)",
			text, QCOW2_OFF_INCOMPATIBLE, unknown);
}

/* Fields whose meaning is fixed by the header alone. */
static int check_fields(const struct qcow2_header *h, struct img_error *err)
{
	uint64_t cluster = UINT64_C(1) << h->cluster_bits;

	if (h->version >= 3 &&
	    (h->header_bytes < QCOW2_V3_HEADER_BYTES || h->header_bytes > cluster))
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: header length is %" PRIu32 ", expected %d to "
				"%" PRIu64,
				QCOW2_OFF_HEADER_BYTES, h->header_bytes, QCOW2_V3_HEADER_BYTES,
				cluster);
	if (h->backing_off > cluster)
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Invalid backing file offset %" PRIu64 ", "
				"expected at most %" PRIu64,
				QCOW2_OFF_BACKING_OFF, h->backing_off, cluster);
	if (h->backing_off &&
	    h->backing_bytes > min_u64(QCOW2_MAX_BACKING_NAME, cluster - h->backing_off))
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Backing file name too long: %" PRIu32 " "
				"bytes, expected at most %" PRIu64,
				QCOW2_OFF_BACKING_BYTES, h->backing_bytes,
				min_u64(QCOW2_MAX_BACKING_NAME, cluster - h->backing_off));
	if (h->refcount_order > QCOW2_MAX_REFCOUNT_ORDER)
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Reference count entry width too large: order "
				"%" PRIu32 ", expected at most %d",
				QCOW2_OFF_REFCOUNT_ORDER, h->refcount_order,
				QCOW2_MAX_REFCOUNT_ORDER);
	if (!!(h->incompatible & QCOW2_INCOMPATIBLE_COMPRESSION) != !!h->compression)
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: compression type is %u, but its "
				"incompatible feature bit is %s",
				QCOW2_OFF_COMPRESSION, h->compression,
				h->compression ? "not set" : "set");
	if (h->incompatible & QCOW2_INCOMPATIBLE_EXTENDED_L2 &&
	    h->cluster_bits < QCOW2_MIN_EXTENDED_BITS)
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: clusters of %" PRIu64 " bytes with extended "
				"L2 entries, expected at least 16384",
				QCOW2_OFF_CLUSTER_BITS, cluster);
	return 0;
}

/* Where tables lie and how long they are. */
static int check_tables(const struct qcow2_header *h, unsigned flags, struct img_error *err)
{
	struct qcow2_geometry g;
	uint64_t l1_bytes = (uint64_t)h->l1_entries * 8;
	uint64_t refcount_table_bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;
	bool for_check = flags & QCOW2_PARSE_FOR_CHECK;

	qcow2_geometry(h, &g);
	if (l1_bytes > QCOW2_MAX_L1_BYTES)
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Active L1 table too large: %" PRIu32 " "
				"entries, expected at most %d",
				QCOW2_OFF_L1_ENTRIES, h->l1_entries, QCOW2_MAX_L1_BYTES / 8);
	if (!qcow2_table_fits(h->l1_off, l1_bytes, h->cluster_bits) || (l1_bytes && !h->l1_off))
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Active L1 table offset invalid: %" PRIu64 ", "
				"expected a multiple of %" PRIu64 " below 2^63",
				QCOW2_OFF_L1_OFF, h->l1_off, g.cluster_bytes);
	if (h->l1_entries < qcow2_l1_needed(&g, h->size))
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: L1 table is too small: %" PRIu32
				" entries for a disk of %" PRIu64 " bytes, which needs %" PRIu64,
				QCOW2_OFF_L1_ENTRIES, h->l1_entries, h->size,
				qcow2_l1_needed(&g, h->size));
	if (!h->refcount_table_clusters && !for_check)
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Image does not contain a reference "
				"count table",
				QCOW2_OFF_REFTABLE_CLUSTERS);
	if (refcount_table_bytes > QCOW2_MAX_REFTABLE_BYTES)
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Reference count table too large: %" PRIu32 " "
				"clusters, expected at most %" PRIu64,
				QCOW2_OFF_REFTABLE_CLUSTERS, h->refcount_table_clusters,
				(uint64_t)QCOW2_MAX_REFTABLE_BYTES >> h->cluster_bits);
	if (!qcow2_table_fits(h->refcount_table_off, refcount_table_bytes, h->cluster_bits) ||
	    (!h->refcount_table_off && !for_check))
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Reference count table offset invalid: "
				"%" PRIu64 ", expected a multiple of %" PRIu64 " below 2^63",
				QCOW2_OFF_REFTABLE_OFF, h->refcount_table_off, g.cluster_bytes);
	if (for_check)
		return 0;
	if (h->snapshots > QCOW2_MAX_SNAPSHOTS)
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Snapshot table too large: %" PRIu32 " "
				"snapshots, expected at most %d",
				QCOW2_OFF_SNAPSHOTS, h->snapshots, QCOW2_MAX_SNAPSHOTS);
	if (!qcow2_table_fits(h->snapshots_off, (uint64_t)h->snapshots * QCOW2_SNAPSHOT_FIXED_BYTES,
			      h->cluster_bits) ||
	    (h->snapshots && !h->snapshots_off))
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Snapshot table offset invalid: %" PRIu64 ", "
				"expected a multiple of %" PRIu64 " below 2^63",
				QCOW2_OFF_SNAPSHOTS_OFF, h->snapshots_off, g.cluster_bytes);
	return 0;
}

int qcow2_parse_header(const uint8_t *bytes, size_t len, unsigned flags, struct qcow2_header *out,
		       struct img_error *err)
{
	struct qcow2_header h = { 0 };
	uint64_t cluster;
	uint64_t unknown;
	int rc;

	if (len < QCOW2_V2_HEADER_BYTES || be32_load(bytes) != QCOW2_MAGIC)
		return img_fail(err, -EMEDIUMTYPE, "Image is not in qcow2 format");
	/* Before anything else: other versions may give all that follows another meaning. */
	h.version = be32_load(bytes + QCOW2_OFF_VERSION);
	if (h.version < 2 || h.version > 3)
		return img_fail(err, -ENOTSUP,
				"Unsupported qcow2 version %" PRIu32 " (header at %d), expected 2 "
				"or 3",
				h.version, QCOW2_OFF_VERSION);
	cluster = qcow2_peek_cluster_bytes(bytes, len);
	if (!cluster)
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: Unsupported cluster size: 2^%" PRIu32 ", "
				"expected 2^%d to 2^%d",
				QCOW2_OFF_CLUSTER_BITS, be32_load(bytes + QCOW2_OFF_CLUSTER_BITS),
				QCOW2_MIN_CLUSTER_BITS, QCOW2_MAX_CLUSTER_BITS);
	if (len < cluster)
		return img_fail(err, -EUCLEAN,
				"qcow2 header: the first cluster has %zu bytes, expected %" PRIu64,
				len, cluster);
	load_header(bytes, &h);
	/* What an unknown feature means goes before the fields that it may change. */
	unknown = h.incompatible & ~(uint64_t)QCOW2_INCOMPATIBLE_KNOWN;
	if (unknown)
		return refuse_features(bytes,
				       h.backing_off && h.backing_off <= cluster ? h.backing_off
										 : cluster,
				       h.header_bytes, unknown, err);
	rc = check_fields(&h, err);
	if (!rc)
		rc = check_tables(&h, flags, err);
	if (rc)
		return rc;
	if (h.crypt_method > QCOW2_CRYPT_LUKS)
		return img_fail(err, -ENOTSUP,
				"qcow2 header at %d: Unsupported encryption method %" PRIu32,
				QCOW2_OFF_CRYPT_METHOD, h.crypt_method);
	if (h.compression > QCOW2_COMPRESSION_ZSTD)
		return img_fail(err, -ENOTSUP, "qcow2 header at %d: Unknown compression type %u",
				QCOW2_OFF_COMPRESSION, h.compression);
	if (h.header_bytes > QCOW2_HEADER_BYTES) {
		h.more = bytes + QCOW2_HEADER_BYTES;
		h.more_bytes = h.header_bytes - QCOW2_HEADER_BYTES;
	}
	*out = h;
	return 0;
}

/* ---- Header extensions ---- */

int qcow2_next_extension(const uint8_t *first, size_t end, size_t *pos,
			 struct qcow2_extension *out, struct img_error *err)
{
	size_t at = *pos;

	if (at >= end)
		return 0;
	if (end - at < 8) {
		img_fail(err, -EUCLEAN, "qcow2 header extension at %zu: cut off at %zu", at, end);
		return -EUCLEAN;
	}
	out->type = be32_load(first + at);
	out->bytes = be32_load(first + at + 4);
	if (out->type == QCOW2_EXT_END)
		return 0;
	at += 8;
	if (out->bytes > end - at) {
		img_fail(err, -EUCLEAN,
			 "qcow2 header extension 0x%08" PRIx32 " at %zu: Header extension too "
			 "large: %" PRIu32 " bytes, expected at most %zu",
			 out->type, at - 8, out->bytes, end - at);
		return -EUCLEAN;
	}
	out->data = first + at;
	/* The last one's padding may be missing. */
	*pos = at + min_size(round_up_u64(out->bytes, 8), end - at);
	return 1;
}

static int parse_crypto(const struct qcow2_extension *ext, const struct qcow2_header *h,
			struct qcow2_extensions *x, struct img_error *err)
{
	uint64_t off, bytes;

	if (h->crypt_method != QCOW2_CRYPT_LUKS)
		return img_fail(err, -EUCLEAN,
				"qcow2 CRYPTO header extension only expected with LUKS encryption "
				"method, method is %" PRIu32,
				h->crypt_method);
	if (ext->bytes != 16)
		return img_fail(err, -EUCLEAN,
				"qcow2 CRYPTO header extension size %" PRIu32
				", but expected size 16",
				ext->bytes);
	off = be64_load(ext->data);
	bytes = be64_load(ext->data + 8);
	if (!off || !bytes || !qcow2_table_fits(off, bytes, h->cluster_bits))
		return img_fail(err, -EUCLEAN,
				"qcow2 encryption header: offset %" PRIu64 ", length %" PRIu64 ", "
				"expected a multiple of the cluster size below 2^63",
				off, bytes);
	x->crypto_off = off;
	x->crypto_bytes = bytes;
	return 0;
}

static int parse_bitmaps(const struct qcow2_extension *ext, const struct qcow2_header *h,
			 struct qcow2_extensions *x, struct img_error *err)
{
	uint32_t count, reserved;
	uint64_t bytes, off;

	/* Written over by a program that does not keep bitmaps up to date. */
	if (!(h->autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
		x->stale_bitmaps = true;
		return 0;
	}
	if (ext->bytes != 24)
		return img_fail(err, -EUCLEAN,
				"qcow2 bitmaps extension: Invalid extension length %" PRIu32 ", "
				"expected 24",
				ext->bytes);
	count = be32_load(ext->data);
	reserved = be32_load(ext->data + 4);
	bytes = be64_load(ext->data + 8);
	off = be64_load(ext->data + 16);
	if (reserved)
		return img_fail(err, -EUCLEAN,
				"qcow2 bitmaps extension: Reserved field is 0x%" PRIx32 ", "
				"expected 0",
				reserved);
	if (!count || count > QCOW2_MAX_BITMAPS)
		return img_fail(err, -EUCLEAN,
				"qcow2 bitmaps extension: %" PRIu32 " bitmaps, expected 1 to %d",
				count, QCOW2_MAX_BITMAPS);
	if (!off || !qcow2_table_fits(off, bytes, h->cluster_bits))
		return img_fail(err, -EUCLEAN,
				"qcow2 bitmaps extension: Invalid bitmap directory "
				"offset %" PRIu64,
				off);
	if (bytes > QCOW2_MAX_BITMAP_DIRECTORY_BYTES ||
	    bytes < (uint64_t)count * QCOW2_BITMAP_FIXED_BYTES)
		return img_fail(err, -EUCLEAN,
				"qcow2 bitmaps extension: bitmap directory of %" PRIu64 " bytes "
				"for %" PRIu32 " bitmaps, expected %" PRIu64 " to %d",
				bytes, count, (uint64_t)count * QCOW2_BITMAP_FIXED_BYTES,
				QCOW2_MAX_BITMAP_DIRECTORY_BYTES);
	x->bitmaps = count;
	x->bitmap_directory_bytes = bytes;
	x->bitmap_directory_off = off;
	return 0;
}

int qcow2_parse_extensions(const uint8_t *bytes, size_t len, const struct qcow2_header *h,
			   struct qcow2_extensions *out, struct img_error *err)
{
	struct qcow2_extensions x = {
		.first = bytes,
		.start = h->header_bytes,
		.end = h->backing_off ? h->backing_off : UINT64_C(1) << h->cluster_bits,
	};
	struct qcow2_extension ext;
	size_t pos = x.start;
	int rc;

	if (x.end > len)
		return img_fail(err, -EUCLEAN,
				"qcow2 header: the first cluster has %zu bytes, expected %zu",
				len, x.end);
	while ((rc = qcow2_next_extension(bytes, x.end, &pos, &ext, err)) == 1) {
		rc = 0;
		switch (ext.type) {
		case QCOW2_EXT_BACKING_FORMAT:
			if (ext.bytes > QCOW2_MAX_BACKING_FORMAT)
				return img_fail(err, -EUCLEAN,
						"qcow2 backing format extension: %" PRIu32 " "
						"bytes, expected at most %d",
						ext.bytes, QCOW2_MAX_BACKING_FORMAT);
			memset(x.backing_format, 0, sizeof(x.backing_format));
			memcpy(x.backing_format, ext.data, ext.bytes);
			break;
		case QCOW2_EXT_DATA_FILE:
			x.data_file = ext.data;
			x.data_file_bytes = ext.bytes;
			break;
		case QCOW2_EXT_CRYPTO:
			rc = parse_crypto(&ext, h, &x, err);
			break;
		case QCOW2_EXT_BITMAPS:
			rc = parse_bitmaps(&ext, h, &x, err);
			break;
		default: /* the table of feature names, and what we do not know */
			break;
		}
		if (rc)
			return rc;
	}
	if (rc)
		return rc;
	if (h->autoclear & QCOW2_AUTOCLEAR_BITMAPS && !x.bitmaps)
		return img_fail(err, -EUCLEAN,
				"qcow2 header at %d: the bitmaps feature bit is set, but "
				"there is no bitmaps extension",
				QCOW2_OFF_AUTOCLEAR);
	*out = x;
	return 0;
}

/* A cluster that is being filled from the front. */
struct room {
	uint8_t *at;
	size_t left;
};

/* n zeroed bytes, or NULL. */
static uint8_t *take(struct room *r, size_t n)
{
	uint8_t *at = r->at;

	if (n > r->left)
		return NULL;
	r->at += n;
	r->left -= n;
	return at;
}

/* An extension with its padding; the place of its data, or NULL. */
static uint8_t *parse_extension(struct room *r, uint32_t type, size_t bytes)
{
	uint8_t *at = bytes <= UINT32_MAX - 7 ? take(r, 8 + round_up_u64(bytes, 8)) : NULL;

	if (!at)
		return NULL;
	be32_store(at, type);
	be32_store(at + 4, (uint32_t)bytes);
	return at + 8;
}

static bool put_extension(struct room *r, uint32_t type, const void *data, size_t bytes)
{
	uint8_t *at = parse_extension(r, type, bytes);

	if (at)
		memcpy(at, data, bytes);
	return at;
}

static bool put_features(struct room *r)
{
	uint8_t *at = parse_extension(r, QCOW2_EXT_FEATURES,
				      IMG_ARRAY_LEN(features) * FEATURE_ROW);

	if (!at)
		return false;
	for (size_t i = 0; i < IMG_ARRAY_LEN(features); i++, at += FEATURE_ROW) {
		at[0] = features[i].kind;
		at[1] = features[i].bit;
		memcpy(at + 2, features[i].name, strlen(features[i].name));
	}
	return true;
}

static bool put_unknown(struct room *r, const struct qcow2_extensions *x)
{
	struct qcow2_extension ext;
	size_t pos = x->start;

	while (x->first && qcow2_next_extension(x->first, x->end, &pos, &ext, NULL) == 1) {
		switch (ext.type) {
		case QCOW2_EXT_BACKING_FORMAT:
		case QCOW2_EXT_DATA_FILE:
		case QCOW2_EXT_FEATURES:
		case QCOW2_EXT_BITMAPS:
		case QCOW2_EXT_CRYPTO:
			continue;
		default:
			if (!put_extension(r, ext.type, ext.data, ext.bytes))
				return false;
		}
	}
	return true;
}

static bool put_extensions(struct room *r, const struct qcow2_header *h,
			   const struct qcow2_extensions *x)
{
	uint8_t *at;

	if (x->backing_format[0] && !put_extension(r, QCOW2_EXT_BACKING_FORMAT, x->backing_format,
						   strlen(x->backing_format)))
		return false;
	if (x->data_file &&
	    !put_extension(r, QCOW2_EXT_DATA_FILE, x->data_file, x->data_file_bytes))
		return false;
	if (x->crypto_bytes) {
		at = parse_extension(r, QCOW2_EXT_CRYPTO, 16);
		if (!at)
			return false;
		be64_store(at, x->crypto_off);
		be64_store(at + 8, x->crypto_bytes);
	}
	/* Names are a kindness: not at the price of a small first cluster. */
	if (h->version >= 3 && h->cluster_bits > 12 && !put_features(r))
		return false;
	if (x->bitmaps) {
		at = parse_extension(r, QCOW2_EXT_BITMAPS, 24);
		if (!at)
			return false;
		be32_store(at, x->bitmaps);
		be64_store(at + 8, x->bitmap_directory_bytes);
		be64_store(at + 16, x->bitmap_directory_off);
	}
	return put_unknown(r, x) && take(r, 8); /* the end extension is zeroes */
}

static void store_header(const struct qcow2_header *h, uint8_t *out)
{
	be32_store(out, QCOW2_MAGIC);
	be32_store(out + QCOW2_OFF_VERSION, h->version);
	be64_store(out + QCOW2_OFF_BACKING_OFF, h->backing_off);
	be32_store(out + QCOW2_OFF_BACKING_BYTES, h->backing_bytes);
	be32_store(out + QCOW2_OFF_CLUSTER_BITS, h->cluster_bits);
	be64_store(out + QCOW2_OFF_SIZE, h->size);
	be32_store(out + QCOW2_OFF_CRYPT_METHOD, h->crypt_method);
	be32_store(out + QCOW2_OFF_L1_ENTRIES, h->l1_entries);
	be64_store(out + QCOW2_OFF_L1_OFF, h->l1_off);
	be64_store(out + QCOW2_OFF_REFTABLE_OFF, h->refcount_table_off);
	be32_store(out + QCOW2_OFF_REFTABLE_CLUSTERS, h->refcount_table_clusters);
	be32_store(out + QCOW2_OFF_SNAPSHOTS, h->snapshots);
	be64_store(out + QCOW2_OFF_SNAPSHOTS_OFF, h->snapshots_off);
	if (h->version < 3)
		return;
	be64_store(out + QCOW2_OFF_INCOMPATIBLE, h->incompatible);
	be64_store(out + QCOW2_OFF_COMPATIBLE, h->compatible);
	be64_store(out + QCOW2_OFF_AUTOCLEAR, h->autoclear);
	be32_store(out + QCOW2_OFF_REFCOUNT_ORDER, h->refcount_order);
	be32_store(out + QCOW2_OFF_HEADER_BYTES, h->header_bytes);
	out[QCOW2_OFF_COMPRESSION] = h->compression;
	if (h->more_bytes)
		memcpy(out + QCOW2_HEADER_BYTES, h->more, h->more_bytes);
}

int qcow2_encode_first(struct qcow2_header *h, const struct qcow2_extensions *x,
		       const char *backing_name, uint8_t *out, struct img_error *err)
{
	size_t cluster = (size_t)1 << h->cluster_bits;
	size_t name_bytes = backing_name ? strlen(backing_name) : 0;
	struct room r = { .at = out, .left = cluster };
	struct qcow2_header next = *h;
	uint8_t *name;

	if (name_bytes > QCOW2_MAX_BACKING_NAME)
		return img_fail(err, -ENOSPC,
				"qcow2: Backing file name too long: %zu bytes, expected at most "
				"%d",
				name_bytes, QCOW2_MAX_BACKING_NAME);
	memset(out, 0, cluster);
	next.header_bytes = h->version < 3 ? (uint32_t)QCOW2_V2_HEADER_BYTES
					   : QCOW2_HEADER_BYTES + h->more_bytes;
	if (!take(&r, next.header_bytes) || !put_extensions(&r, &next, x))
		goto full;
	next.backing_off = 0;
	next.backing_bytes = 0;
	if (name_bytes) {
		name = take(&r, name_bytes);
		if (!name)
			goto full;
		memcpy(name, backing_name, name_bytes);
		next.backing_off = (uint64_t)(name - out);
		next.backing_bytes = (uint32_t)name_bytes;
	}
	store_header(&next, out);
	*h = next;
	return 0;
full:
	return img_fail(err, -ENOSPC,
			"qcow2: the header, its extensions and the backing file name "
			"(%zu bytes) do not fit into the first cluster of %zu bytes",
			name_bytes, cluster);
}
