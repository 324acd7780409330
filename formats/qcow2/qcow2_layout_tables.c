/*
 * What follows from the header (the geometry), and the entries of tables: L2 entries with their
 * compressed and extended forms, and refcounts of all widths. Decoding says what is wrong with an entry
 * as bits, for the driver refuses and a check repairs. See qcow2_layout.h and spec/qcow2.md.
 */
#include <errno.h>
#include <inttypes.h>

#include "formats/qcow2/qcow2_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* A table of bytes at off: aligned, and ending below 2^63? */
bool qcow2_table_fits(uint64_t off, uint64_t bytes, uint32_t cluster_bits)
{
	return is_aligned_u64(off, UINT64_C(1) << cluster_bits) &&
	       range_in(off, bytes, INT64_MAX);
}

/* ---- Geometry ---- */

void qcow2_geometry(const struct qcow2_header *h, struct qcow2_geometry *out)
{
	bool extended = h->incompatible & QCOW2_INCOMPATIBLE_EXTENDED_L2;
	unsigned l2_bits = h->cluster_bits - (extended ? 4 : 3);

	*out = (struct qcow2_geometry){
		.version = h->version,
		.cluster_bits = h->cluster_bits,
		.cluster_bytes = UINT64_C(1) << h->cluster_bits,
		.extended = extended,
		.data_file = h->incompatible & QCOW2_INCOMPATIBLE_DATA_FILE,
		.l2_entry_bytes = extended ? 16 : 8,
		.l2_bits = l2_bits,
		.l2_entries = UINT64_C(1) << l2_bits,
		.l2_span = UINT64_C(1) << (l2_bits + h->cluster_bits),
		.subclusters = extended ? QCOW2_SUBCLUSTERS : 1,
		.subcluster_bytes = (UINT64_C(1) << h->cluster_bits) /
				    (extended ? QCOW2_SUBCLUSTERS : 1),
		.refcount_order = h->refcount_order,
		.refcount_bits = 1u << h->refcount_order,
		.refcount_max = UINT64_MAX >> (64 - (1u << h->refcount_order)),
		.block_entries = UINT64_C(1) << (h->cluster_bits + 3 - h->refcount_order),
		.compressed_shift = 62 - (h->cluster_bits - 8),
	};
}

uint64_t qcow2_l1_needed(const struct qcow2_geometry *g, uint64_t size)
{
	return div_round_up_u64(size, g->l2_span);
}

/* ---- L2 entries ---- */

static unsigned decode_compressed(const struct qcow2_geometry *g, uint64_t word, uint64_t bitmap,
				  struct qcow2_entry *e)
{
	unsigned x = g->compressed_shift;
	uint64_t sectors = (word & (QCOW2_L2_COMPRESSED - 1)) >> x;
	unsigned bad = 0;

	e->kind = QCOW2_COMPRESSED;
	e->host_off = word & ((UINT64_C(1) << x) - 1);
	/* At most 2^13 sectors follow the first (2 MiB clusters): no overflow. */
	e->stored_bytes = (uint32_t)((sectors + 1) * 512 - e->host_off % 512);
	if (bitmap)
		bad |= QCOW2_BAD_COMPRESSED_BITMAP;
	if (g->data_file)
		bad |= QCOW2_BAD_COMPRESSED_DATA_FILE;
	if (e->host_off >> 56)
		bad |= QCOW2_BAD_COMPRESSED_OFFSET;
	if (e->copied)
		bad |= QCOW2_ODD_COMPRESSED_COPIED;
	return bad;
}

unsigned qcow2_decode_entry(const struct qcow2_geometry *g, uint64_t word, uint64_t bitmap,
			    struct qcow2_entry *out)
{
	uint64_t off = word & QCOW2_OFFSET_MASK;
	bool zero = word & QCOW2_L2_ZERO;
	unsigned bad = 0;

	*out = (struct qcow2_entry){ .copied = word & QCOW2_COPIED };
	if (word & QCOW2_L2_COMPRESSED)
		return decode_compressed(g, word, bitmap, out);
	if (word & QCOW2_L2_RESERVED || (g->extended && zero))
		bad |= QCOW2_ODD_RESERVED;
	if (!is_aligned_u64(off, g->cluster_bytes))
		bad |= QCOW2_BAD_UNALIGNED;
	out->host_off = off;
	if (!g->extended && zero) {
		out->kind = off ? QCOW2_ZERO_ALLOC : QCOW2_ZERO_PLAIN;
		out->copied &= off != 0;
		if (g->version < 3)
			bad |= QCOW2_BAD_V2_ZERO;
		return bad;
	}
	/* In a data file, cluster 0 is a place like any other: the copied flag says it is taken. */
	out->kind = off || (g->data_file && out->copied) ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
	out->copied &= out->kind == QCOW2_NORMAL; /* without a cluster it says nothing */
	if (!g->extended)
		return bad;
	out->sub_alloc = (uint32_t)bitmap;
	out->sub_zero = (uint32_t)(bitmap >> 32);
	if (out->kind == QCOW2_UNALLOCATED && out->sub_alloc)
		bad |= QCOW2_BAD_UNBACKED;
	if (out->sub_alloc & out->sub_zero)
		bad |= QCOW2_BAD_SUBCLUSTERS;
	return bad;
}

const char *qcow2_defect_text(unsigned defects)
{
	static const char *const texts[] = {
		"an unaligned host offset",
		"subclusters that are both allocated and zero",
		"allocated subclusters without a host cluster",
		"the zero flag, which version 2 does not have",
		"a compressed cluster with a subcluster bitmap",
		"a compressed cluster in an image with a data file",
		"a compressed cluster at an offset above 2^56",
		"reserved bits set",
		"the copied flag on a compressed cluster",
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(texts); i++) {
		if (defects >> i & 1)
			return texts[i];
	}
	return "nothing wrong";
}

void qcow2_encode_entry(const struct qcow2_geometry *g, const struct qcow2_entry *e,
			uint64_t *word, uint64_t *bitmap)
{
	uint64_t sectors, copied = e->copied ? QCOW2_COPIED : 0;

	*bitmap = 0;
	switch (e->kind) {
	case QCOW2_UNALLOCATED:
		*word = 0;
		if (g->extended)
			*bitmap = (uint64_t)e->sub_zero << 32;
		return;
	case QCOW2_ZERO_PLAIN:
		*word = g->extended ? 0 : QCOW2_L2_ZERO;
		if (g->extended)
			*bitmap = (uint64_t)UINT32_MAX << 32;
		return;
	case QCOW2_ZERO_ALLOC:
		*word = e->host_off | copied | (g->extended ? 0 : QCOW2_L2_ZERO);
		if (g->extended)
			*bitmap = (uint64_t)UINT32_MAX << 32;
		return;
	case QCOW2_NORMAL:
		*word = e->host_off | copied;
		if (g->extended)
			*bitmap = (uint64_t)e->sub_zero << 32 | e->sub_alloc;
		return;
	case QCOW2_COMPRESSED:
		sectors = (e->host_off % 512 + e->stored_bytes + 511) / 512 - 1;
		*word = QCOW2_L2_COMPRESSED | sectors << g->compressed_shift | e->host_off;
		return;
	}
}

struct qcow2_entry qcow2_zero_room(const struct qcow2_geometry *g, uint64_t host_off)
{
	bool room = g->extended || host_off;

	return (struct qcow2_entry){
		.kind = room ? QCOW2_ZERO_ALLOC : QCOW2_ZERO_PLAIN,
		.host_off = host_off,
		.copied = room,
		.sub_zero = g->extended ? UINT32_MAX : 0,
	};
}

bool qcow2_compressed_fits(const struct qcow2_geometry *g, uint64_t host_off,
			   uint64_t stored_bytes)
{
	unsigned limit = g->compressed_shift < 56 ? g->compressed_shift : 56;

	/* A cluster's data starts within a sector and is shorter than a cluster: the count fits. */
	return stored_bytes && stored_bytes <= g->cluster_bytes && !(host_off >> limit);
}

/* ---- Refcounts ---- */

uint64_t qcow2_refcount_get(const uint8_t *block, unsigned order, uint64_t i)
{
	switch (order) {
	case 3:
		return block[i];
	case 4:
		return be16_load(block + i * 2);
	case 5:
		return be32_load(block + i * 4);
	case 6:
		return be64_load(block + i * 8);
	default: { /* several to a byte, the first in the lowest bits */
		unsigned width = 1u << order;
		unsigned shift = (unsigned)(i << order & 7);

		return (unsigned)block[i >> (3 - order)] >> shift & ((1u << width) - 1);
	}
	}
}

void qcow2_refcount_set(uint8_t *block, unsigned order, uint64_t i, uint64_t value)
{
	switch (order) {
	case 3:
		block[i] = (uint8_t)value;
		return;
	case 4:
		be16_store(block + i * 2, (uint16_t)value);
		return;
	case 5:
		be32_store(block + i * 4, (uint32_t)value);
		return;
	case 6:
		be64_store(block + i * 8, value);
		return;
	default: {
		unsigned width = 1u << order;
		unsigned shift = (unsigned)(i << order & 7);
		unsigned mask = ((1u << width) - 1) << shift;
		uint8_t *at = &block[i >> (3 - order)];

		*at = (uint8_t)((*at & ~mask) | ((unsigned)value << shift & mask));
		return;
	}
	}
}
