/*
 * QED on disk: spec/qed.md. Offsets, parsing, encoding: bytes only, no files. Little-endian.
 */
#ifndef FORMATS_QED_LAYOUT_H
#define FORMATS_QED_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"

enum {
	QED_SECTOR = 512,
	QED_HEADER_BYTES = 64, /* a backing file name may follow */
	QED_CLUSTER_MIN = 4 << 10,
	QED_CLUSTER_MAX = 64 << 20,
	QED_TABLE_SIZE_MAX = 16, /* in clusters */
	QED_NAME_MAX = 1023,	 /* of a backing file that is stored here; others store longer ones */
	QED_NAME_READ_MAX = 4095,
};

/* Entry of an L2 table: a cluster of zeroes. */
#define QED_ENTRY_ZERO UINT64_C(1)

enum {
	QED_BACKING = 1 << 0,
	QED_NEED_CHECK = 1 << 1,
	QED_BACKING_RAW = 1 << 2, /* the backing file is raw, and not to be probed */
	QED_FEATURES = QED_BACKING | QED_NEED_CHECK | QED_BACKING_RAW,
};

struct qed_header {
	uint32_t cluster_bytes;
	uint32_t table_clusters; /* of the L1 table and of each L2 table */
	uint32_t header_clusters;
	uint64_t features, compat, autoclear;
	uint64_t l1_off;
	uint64_t size; /* guest bytes, a multiple of 512 */
	uint32_t name_off, name_bytes;
};

bool qed_is_qed(const uint8_t *head, size_t len);
/*
 * The first QED_HEADER_BYTES. Afterwards: all is in its range, the backing file's name lies in the header's
 * clusters, the L1 table behind them, and it covers the disk. -EMEDIUMTYPE, -EUCLEAN, -ENOTSUP. The error's
 * text begins with the field.
 */
int qed_parse_header(const uint8_t *bytes, size_t len, struct qed_header *out, struct img_error *err);
void qed_encode_header(const struct qed_header *h, uint8_t bytes[QED_HEADER_BYTES]);

static inline uint64_t qed_table_bytes(const struct qed_header *h)
{
	return (uint64_t)h->table_clusters * h->cluster_bytes;
}

static inline uint64_t qed_header_end(const struct qed_header *h)
{
	return (uint64_t)h->header_clusters * h->cluster_bytes;
}

/* What its tables can cover, at most INT64_MAX rounded down to a sector. */
uint64_t qed_size_max(const struct qed_header *h);

#endif
