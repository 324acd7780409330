/*
 * qcow version 1 on disk: spec/qcow.md. Offsets, parsing, encoding: bytes only, no files. Big-endian.
 */
#ifndef FORMATS_QCOW1_LAYOUT_H
#define FORMATS_QCOW1_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"

enum {
	QCOW1_SECTOR = 512,
	QCOW1_HEADER_BYTES = 48,
	QCOW1_ENTRY_BYTES = 8,
	QCOW1_CLUSTER_BITS_MIN = 9,
	QCOW1_CLUSTER_BITS_MAX = 16,
	QCOW1_L2_BITS_MIN = 6,
	QCOW1_L2_BITS_MAX = 13,
	QCOW1_NAME_MAX = 1023, /* of a backing file */
	/* QEMU inflates with so large a window: what is compressed here has clusters of at most that. */
	QCOW1_WINDOW_BYTES = 4 << 10,
};

/* What the L1 table may have, as QEMU has it: 2 GiB. */
#define QCOW1_L1_ENTRIES_MAX (UINT32_C(0x7fffffff) / QCOW1_ENTRY_BYTES)

enum {
	QCOW1_CRYPT_NONE = 0,
	QCOW1_CRYPT_AES = 1,
};

struct qcow1_header {
	uint64_t name_off; /* of the backing file's; 0: none */
	uint32_t name_bytes;
	uint32_t mtime; /* of the backing file, once: of no significance */
	uint64_t size;	/* guest bytes, a multiple of 512: what is behind is cut off */
	uint8_t cluster_bits, l2_bits;
	uint32_t crypt_method;
	uint64_t l1_off;
};

bool qcow1_is_qcow1(const uint8_t *head, size_t len);
/*
 * The first QCOW1_HEADER_BYTES. Afterwards: all is in its range, and no offset of an L1 entry can overflow.
 * -EMEDIUMTYPE, -EUCLEAN, -ENOTSUP. The error's text begins with the field.
 */
int qcow1_parse_header(const uint8_t *bytes, size_t len, struct qcow1_header *out, struct img_error *err);
void qcow1_encode_header(const struct qcow1_header *h, uint8_t bytes[QCOW1_HEADER_BYTES]);

/* Guest bytes that an L2 table covers. */
static inline uint64_t qcow1_span(const struct qcow1_header *h)
{
	return UINT64_C(1) << (h->cluster_bits + h->l2_bits);
}

static inline uint64_t qcow1_l1_entries(const struct qcow1_header *h, uint64_t size)
{
	return size / qcow1_span(h) + (size % qcow1_span(h) != 0);
}

/* What the largest L1 table covers. */
static inline uint64_t qcow1_size_max(const struct qcow1_header *h)
{
	return QCOW1_L1_ENTRIES_MAX * qcow1_span(h);
}

#endif
