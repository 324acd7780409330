/*
 * The header: parsing, encoding.
 */
#include "formats/qed/qed_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	OFF_MAGIC = 0,
	OFF_CLUSTER_BYTES = 4,
	OFF_TABLE_CLUSTERS = 8,
	OFF_HEADER_CLUSTERS = 12,
	OFF_FEATURES = 16,
	OFF_COMPAT = 24,
	OFF_AUTOCLEAR = 32,
	OFF_L1 = 40,
	OFF_SIZE = 48,
	OFF_NAME = 56,
	OFF_NAME_BYTES = 60,
};

static const uint8_t magic[4] = { 'Q', 'E', 'D', 0 };

bool qed_is_qed(const uint8_t *head, size_t len)
{
	return len >= sizeof(magic) && !memcmp(head, magic, sizeof(magic));
}

uint64_t qed_size_max(const struct qed_header *h)
{
	uint64_t entries = qed_table_bytes(h) / 8, bytes;

	if (!mul_u64(entries * h->cluster_bytes, entries, &bytes) || bytes > INT64_MAX)
		bytes = INT64_MAX;
	return align_down_u64(bytes, QED_SECTOR);
}

static int check_name(const struct qed_header *h, struct img_error *err)
{
	uint64_t end = (uint64_t)h->name_off + h->name_bytes;

	if (!(h->features & QED_BACKING))
		return 0;
	if (end > qed_header_end(h))
		return img_fail(err, -EUCLEAN,
				"backing file name ends at %" PRIu64 ", expected at most %" PRIu64
				", the end of the header's clusters",
				end, qed_header_end(h));
	if (h->name_off < QED_HEADER_BYTES && h->name_bytes)
		return img_fail(err, -EUCLEAN, "backing file name offset is %" PRIu32 ", expected at least %d",
				h->name_off, QED_HEADER_BYTES);
	if (h->name_bytes > QED_NAME_READ_MAX)
		return img_fail_range(err, -ENOTSUP, h->name_bytes, 0, QED_NAME_READ_MAX,
				      "backing file name size");
	return 0;
}

static int check_numbers(const struct qed_header *h, struct img_error *err)
{
	if (!is_pow2_u64(h->cluster_bytes) || h->cluster_bytes < QED_CLUSTER_MIN ||
	    h->cluster_bytes > QED_CLUSTER_MAX)
		return img_fail(err, -EUCLEAN, "cluster size is %" PRIu32 ", expected a power of two from %d to %d",
				h->cluster_bytes, QED_CLUSTER_MIN, QED_CLUSTER_MAX);
	if (!is_pow2_u64(h->table_clusters) || h->table_clusters > QED_TABLE_SIZE_MAX)
		return img_fail(err, -EUCLEAN, "table size is %" PRIu32 ", expected a power of two from 1 to %d",
				h->table_clusters, QED_TABLE_SIZE_MAX);
	/* QEMU keeps the header's size in 32 bits. */
	if (!h->header_clusters || h->header_clusters > UINT32_MAX / h->cluster_bytes)
		return img_fail_range(err, -EUCLEAN, h->header_clusters, 1,
				      UINT32_MAX / h->cluster_bytes, "header size");
	if (h->features & ~(uint64_t)QED_FEATURES)
		return img_fail(err, -ENOTSUP, "features are %#" PRIx64 ", expected none but %#x", h->features,
				(unsigned)QED_FEATURES);
	if (!is_aligned_u64(h->l1_off, h->cluster_bytes) || h->l1_off < qed_header_end(h) ||
	    h->l1_off > INT64_MAX - qed_table_bytes(h))
		return img_fail(err, -EUCLEAN,
				"L1 table offset is %" PRIu64 ", expected a multiple of %" PRIu32
				" from %" PRIu64 " on",
				h->l1_off, h->cluster_bytes, qed_header_end(h));
	if (h->size > qed_size_max(h) || !is_aligned_u64(h->size, QED_SECTOR))
		return img_fail(err, -EUCLEAN,
				"image size is %" PRIu64 ", expected a multiple of %d up to %" PRIu64, h->size,
				QED_SECTOR, qed_size_max(h));
	return 0;
}

int qed_parse_header(const uint8_t *bytes, size_t len, struct qed_header *out, struct img_error *err)
{
	struct qed_header h;
	int rc;

	if (len < QED_HEADER_BYTES || !qed_is_qed(bytes, len))
		return img_fail(err, -EMEDIUMTYPE, "not a QED image");
	h = (struct qed_header){
		.cluster_bytes = le32_load(bytes + OFF_CLUSTER_BYTES),
		.table_clusters = le32_load(bytes + OFF_TABLE_CLUSTERS),
		.header_clusters = le32_load(bytes + OFF_HEADER_CLUSTERS),
		.features = le64_load(bytes + OFF_FEATURES),
		.compat = le64_load(bytes + OFF_COMPAT),
		.autoclear = le64_load(bytes + OFF_AUTOCLEAR),
		.l1_off = le64_load(bytes + OFF_L1),
		.size = le64_load(bytes + OFF_SIZE),
		.name_off = le32_load(bytes + OFF_NAME),
		.name_bytes = le32_load(bytes + OFF_NAME_BYTES),
	};
	rc = check_numbers(&h, err);
	if (!rc)
		rc = check_name(&h, err);
	if (!rc)
		*out = h;
	return rc;
}

void qed_encode_header(const struct qed_header *h, uint8_t bytes[QED_HEADER_BYTES])
{
	memcpy(bytes + OFF_MAGIC, magic, sizeof(magic));
	le32_store(bytes + OFF_CLUSTER_BYTES, h->cluster_bytes);
	le32_store(bytes + OFF_TABLE_CLUSTERS, h->table_clusters);
	le32_store(bytes + OFF_HEADER_CLUSTERS, h->header_clusters);
	le64_store(bytes + OFF_FEATURES, h->features);
	le64_store(bytes + OFF_COMPAT, h->compat);
	le64_store(bytes + OFF_AUTOCLEAR, h->autoclear);
	le64_store(bytes + OFF_L1, h->l1_off);
	le64_store(bytes + OFF_SIZE, h->size);
	le32_store(bytes + OFF_NAME, h->name_off);
	le32_store(bytes + OFF_NAME_BYTES, h->name_bytes);
}
