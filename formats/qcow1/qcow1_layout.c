/*
 * The header: parsing, encoding.
 */
#include "formats/qcow1/qcow1_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	OFF_MAGIC = 0,
	OFF_VERSION = 4,
	OFF_NAME = 8,
	OFF_NAME_BYTES = 16,
	OFF_MTIME = 20,
	OFF_SIZE = 24,
	OFF_CLUSTER_BITS = 32,
	OFF_L2_BITS = 33,
	OFF_PADDING = 34,
	OFF_CRYPT_METHOD = 36,
	OFF_L1 = 40,
};

#define MAGIC UINT32_C(0x514649fb) /* of qcow2, too */

enum { VERSION = 1 };

bool qcow1_is_qcow1(const uint8_t *head, size_t len)
{
	return len >= OFF_NAME && be32_load(head + OFF_MAGIC) == MAGIC &&
	       be32_load(head + OFF_VERSION) == VERSION;
}

static int check_numbers(const struct qcow1_header *h, struct img_error *err)
{
	if (h->cluster_bits < QCOW1_CLUSTER_BITS_MIN || h->cluster_bits > QCOW1_CLUSTER_BITS_MAX)
		return img_fail_range(err, -EUCLEAN, h->cluster_bits, QCOW1_CLUSTER_BITS_MIN,
				      QCOW1_CLUSTER_BITS_MAX, "cluster bits");
	if (h->l2_bits < QCOW1_L2_BITS_MIN || h->l2_bits > QCOW1_L2_BITS_MAX)
		return img_fail_range(err, -EUCLEAN, h->l2_bits, QCOW1_L2_BITS_MIN,
				      QCOW1_L2_BITS_MAX, "L2 bits");
	if (h->crypt_method > QCOW1_CRYPT_AES)
		return img_fail_range(err, -ENOTSUP, h->crypt_method, QCOW1_CRYPT_NONE,
				      QCOW1_CRYPT_AES, "encryption method");
	if (h->size > qcow1_size_max(h))
		return img_fail_range(err, -EUCLEAN, h->size, 2, qcow1_size_max(h), "size");
	if (h->name_off && h->name_bytes > QCOW1_NAME_MAX)
		return img_fail_range(err, -EUCLEAN, h->name_bytes, 0, QCOW1_NAME_MAX,
				      "backing file name size");
	if (h->name_off && h->name_bytes && h->name_off < QCOW1_HEADER_BYTES)
		return img_fail(err, -EUCLEAN,
				"backing file name offset is %" PRIu64 ", expected at least %d", h->name_off,
				QCOW1_HEADER_BYTES);
	if (h->l1_off < QCOW1_HEADER_BYTES || h->l1_off > INT64_MAX - INT32_MAX)
		return img_fail_range(err, -EUCLEAN, h->l1_off, QCOW1_HEADER_BYTES,
				      INT64_MAX - INT32_MAX, "L1 table offset");
	if (!is_aligned_u64(h->l1_off, QCOW1_ENTRY_BYTES))
		return img_fail(err, -ENOTSUP, "L1 table offset is %" PRIu64 ", expected a multiple of %d",
				h->l1_off, QCOW1_ENTRY_BYTES);
	return 0;
}

int qcow1_parse_header(const uint8_t *bytes, size_t len, struct qcow1_header *out, struct img_error *err)
{
	struct qcow1_header h;
	uint64_t size;
	int rc;

	if (len < QCOW1_HEADER_BYTES || !qcow1_is_qcow1(bytes, len))
		return img_fail(err, -EMEDIUMTYPE, "not a qcow image of version 1");
	size = be64_load(bytes + OFF_SIZE);
	h = (struct qcow1_header){
		.name_off = be64_load(bytes + OFF_NAME),
		.name_bytes = be32_load(bytes + OFF_NAME_BYTES),
		.mtime = be32_load(bytes + OFF_MTIME),
		.size = align_down_u64(size, QCOW1_SECTOR),
		.cluster_bits = bytes[OFF_CLUSTER_BITS],
		.l2_bits = bytes[OFF_L2_BITS],
		.crypt_method = be32_load(bytes + OFF_CRYPT_METHOD),
		.l1_off = be64_load(bytes + OFF_L1),
	};
	if (size < 2)
		return img_fail(err, -EUCLEAN, "size is %" PRIu64 ", expected at least 2", size);
	rc = check_numbers(&h, err);
	if (!rc)
		*out = h;
	return rc;
}

void qcow1_encode_header(const struct qcow1_header *h, uint8_t bytes[QCOW1_HEADER_BYTES])
{
	memset(bytes, 0, QCOW1_HEADER_BYTES);
	be32_store(bytes + OFF_MAGIC, MAGIC);
	be32_store(bytes + OFF_VERSION, VERSION);
	be64_store(bytes + OFF_NAME, h->name_off);
	be32_store(bytes + OFF_NAME_BYTES, h->name_bytes);
	be32_store(bytes + OFF_MTIME, h->mtime);
	be64_store(bytes + OFF_SIZE, h->size);
	bytes[OFF_CLUSTER_BITS] = h->cluster_bits;
	bytes[OFF_L2_BITS] = h->l2_bits;
	be32_store(bytes + OFF_CRYPT_METHOD, h->crypt_method);
	be64_store(bytes + OFF_L1, h->l1_off);
}
