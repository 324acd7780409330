/*
 * The snapshot table and the bitmap directory: lists of records of unequal lengths, each with what is
 * fixed first, which says how long the rest is. See qcow2_layout.h and spec/qcow2.md.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/qcow2/qcow2_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* ---- Snapshot table ---- */

enum {
	SNAPSHOT_L1_OFF = 0,
	SNAPSHOT_L1_ENTRIES = 8,
	SNAPSHOT_ID_BYTES = 12,
	SNAPSHOT_NAME_BYTES = 14,
	SNAPSHOT_SECONDS = 16,
	SNAPSHOT_NANOSECONDS = 20,
	SNAPSHOT_GUEST_NS = 24,
	SNAPSHOT_VM_STATE = 32,
	SNAPSHOT_EXTRA_BYTES = 36,
	/* extra data */
	SNAPSHOT_VM_STATE_64 = 40,
	SNAPSHOT_SIZE = 48,
	SNAPSHOT_ICOUNT = 56,
};

uint64_t qcow2_snapshot_bytes(const uint8_t *fixed)
{
	return (uint64_t)QCOW2_SNAPSHOT_FIXED_BYTES + be32_load(fixed + SNAPSHOT_EXTRA_BYTES) +
	       be16_load(fixed + SNAPSHOT_ID_BYTES) + be16_load(fixed + SNAPSHOT_NAME_BYTES);
}

uint64_t qcow2_snapshot_encoded_bytes(const struct qcow2_snapshot *s)
{
	return (uint64_t)QCOW2_SNAPSHOT_FIXED_BYTES + QCOW2_SNAPSHOT_EXTRA_WRITTEN +
	       s->more_extra_bytes + s->id_bytes + s->name_bytes;
}

int qcow2_parse_snapshot(const uint8_t *bytes, size_t len, struct qcow2_snapshot *out,
			 struct img_error *err)
{
	struct qcow2_snapshot s = { .icount = UINT64_MAX };
	const uint8_t *strings;

	if (len < QCOW2_SNAPSHOT_FIXED_BYTES || len < qcow2_snapshot_bytes(bytes))
		return img_fail(err, -EUCLEAN,
				"qcow2 snapshot table: an entry runs past the end");
	s.l1_off = be64_load(bytes + SNAPSHOT_L1_OFF);
	s.l1_entries = be32_load(bytes + SNAPSHOT_L1_ENTRIES);
	s.seconds = be32_load(bytes + SNAPSHOT_SECONDS);
	s.nanoseconds = be32_load(bytes + SNAPSHOT_NANOSECONDS);
	s.guest_ns = be64_load(bytes + SNAPSHOT_GUEST_NS);
	s.vm_state_bytes = be32_load(bytes + SNAPSHOT_VM_STATE);
	s.extra_bytes = be32_load(bytes + SNAPSHOT_EXTRA_BYTES);
	if (s.extra_bytes >= 8)
		s.vm_state_bytes = be64_load(bytes + SNAPSHOT_VM_STATE_64);
	if (s.extra_bytes >= 16) {
		s.has_size = true;
		s.size = be64_load(bytes + SNAPSHOT_SIZE);
	}
	if (s.extra_bytes >= 24) {
		s.has_icount = true;
		s.icount = be64_load(bytes + SNAPSHOT_ICOUNT);
	}
	if (s.extra_bytes > QCOW2_SNAPSHOT_EXTRA_WRITTEN) {
		s.more_extra = bytes + QCOW2_SNAPSHOT_FIXED_BYTES + QCOW2_SNAPSHOT_EXTRA_WRITTEN;
		s.more_extra_bytes = s.extra_bytes - QCOW2_SNAPSHOT_EXTRA_WRITTEN;
	}
	strings = bytes + QCOW2_SNAPSHOT_FIXED_BYTES + s.extra_bytes;
	s.id = strings;
	s.id_bytes = be16_load(bytes + SNAPSHOT_ID_BYTES);
	s.name = strings + s.id_bytes;
	s.name_bytes = be16_load(bytes + SNAPSHOT_NAME_BYTES);
	*out = s;
	if (s.extra_bytes > QCOW2_MAX_SNAPSHOT_EXTRA)
		return img_fail(err, -EUCLEAN,
				"qcow2 snapshot table: too much extra data in an entry: %" PRIu32 " "
				"bytes, expected at most %d",
				s.extra_bytes, QCOW2_MAX_SNAPSHOT_EXTRA);
	return 0;
}

void qcow2_encode_snapshot(const struct qcow2_snapshot *s, uint8_t *out)
{
	uint8_t *at = out + QCOW2_SNAPSHOT_FIXED_BYTES + QCOW2_SNAPSHOT_EXTRA_WRITTEN;

	be64_store(out + SNAPSHOT_L1_OFF, s->l1_off);
	be32_store(out + SNAPSHOT_L1_ENTRIES, s->l1_entries);
	be16_store(out + SNAPSHOT_ID_BYTES, s->id_bytes);
	be16_store(out + SNAPSHOT_NAME_BYTES, s->name_bytes);
	be32_store(out + SNAPSHOT_SECONDS, s->seconds);
	be32_store(out + SNAPSHOT_NANOSECONDS, s->nanoseconds);
	be64_store(out + SNAPSHOT_GUEST_NS, s->guest_ns);
	/* For readers that do not know the 64-bit field; 0 where the number does not fit. */
	be32_store(out + SNAPSHOT_VM_STATE,
		   s->vm_state_bytes > UINT32_MAX ? 0 : (uint32_t)s->vm_state_bytes);
	be32_store(out + SNAPSHOT_EXTRA_BYTES,
		   QCOW2_SNAPSHOT_EXTRA_WRITTEN + s->more_extra_bytes);
	be64_store(out + SNAPSHOT_VM_STATE_64, s->vm_state_bytes);
	be64_store(out + SNAPSHOT_SIZE, s->size);
	be64_store(out + SNAPSHOT_ICOUNT, s->has_icount ? s->icount : UINT64_MAX);
	if (s->more_extra_bytes)
		memcpy(at, s->more_extra, s->more_extra_bytes);
	at += s->more_extra_bytes;
	if (s->id_bytes)
		memcpy(at, s->id, s->id_bytes);
	if (s->name_bytes)
		memcpy(at + s->id_bytes, s->name, s->name_bytes);
}

int qcow2_check_snapshot_l1(const struct qcow2_geometry *g, const struct qcow2_snapshot *s,
			    struct img_error *err)
{
	uint64_t bytes = (uint64_t)s->l1_entries * 8;

	if (bytes > QCOW2_MAX_L1_BYTES)
		return img_fail(err, -EUCLEAN,
				"qcow2 snapshot: Snapshot L1 table too large: %" PRIu32 " "
				"entries, expected at most %d",
				s->l1_entries, QCOW2_MAX_L1_BYTES / 8);
	if (!qcow2_table_fits(s->l1_off, bytes, g->cluster_bits) || (bytes && !s->l1_off))
		return img_fail(err, -EUCLEAN,
				"qcow2 snapshot: Snapshot L1 table offset invalid: %" PRIu64 ", "
				"expected a multiple of %" PRIu64 " below 2^63",
				s->l1_off, g->cluster_bytes);
	return 0;
}

/* ---- Bitmap directory ---- */

enum {
	BITMAP_TABLE_OFF = 0,
	BITMAP_TABLE_ENTRIES = 8,
	BITMAP_FLAGS = 12,
	BITMAP_TYPE = 16,
	BITMAP_GRANULARITY = 17,
	BITMAP_NAME_BYTES = 18,
	BITMAP_EXTRA_BYTES = 20,
};

uint64_t qcow2_bitmap_bytes(const uint8_t *fixed)
{
	return round_up_u64((uint64_t)QCOW2_BITMAP_FIXED_BYTES +
				    be32_load(fixed + BITMAP_EXTRA_BYTES) +
				    be16_load(fixed + BITMAP_NAME_BYTES),
			    8);
}

int qcow2_parse_bitmap(const struct qcow2_geometry *g, const uint8_t *bytes, size_t len,
		       struct qcow2_bitmap *out, struct img_error *err)
{
	struct qcow2_bitmap b;

	if (len < QCOW2_BITMAP_FIXED_BYTES || len < qcow2_bitmap_bytes(bytes))
		return img_fail(err, -EUCLEAN,
				"qcow2 bitmap directory: an entry runs past the end");
	b = (struct qcow2_bitmap){
		.table_off = be64_load(bytes + BITMAP_TABLE_OFF),
		.table_entries = be32_load(bytes + BITMAP_TABLE_ENTRIES),
		.flags = be32_load(bytes + BITMAP_FLAGS),
		.type = bytes[BITMAP_TYPE],
		.granularity_bits = bytes[BITMAP_GRANULARITY],
		.name_bytes = be16_load(bytes + BITMAP_NAME_BYTES),
		.extra_bytes = be32_load(bytes + BITMAP_EXTRA_BYTES),
	};
	b.name = bytes + QCOW2_BITMAP_FIXED_BYTES + b.extra_bytes;
	if (!b.name_bytes || b.name_bytes > QCOW2_MAX_BITMAP_NAME)
		return img_fail(err, -EUCLEAN,
				"qcow2 bitmap directory: a name of %u bytes, expected 1 to %d",
				b.name_bytes, QCOW2_MAX_BITMAP_NAME);
	if (b.table_entries > QCOW2_MAX_BITMAP_TABLE_ENTRIES)
		return img_fail(err, -EUCLEAN,
				"qcow2 bitmap directory: a bitmap table of %" PRIu32 " entries, "
				"expected at most %d",
				b.table_entries, QCOW2_MAX_BITMAP_TABLE_ENTRIES);
	if (!qcow2_table_fits(b.table_off, (uint64_t)b.table_entries * 8, g->cluster_bits) ||
	    (b.table_entries && !b.table_off))
		return img_fail(err, -EUCLEAN,
				"qcow2 bitmap directory: a bitmap table at %" PRIu64 ", expected "
				"a multiple of %" PRIu64 " below 2^63",
				b.table_off, g->cluster_bytes);
	if (b.granularity_bits > 63)
		return img_fail(err, -EUCLEAN,
				"qcow2 bitmap directory: granularity 2^%u, expected at most 2^63",
				b.granularity_bits);
	if (b.extra_bytes)
		return img_fail(err, -ENOTSUP,
				"qcow2 bitmap directory: %" PRIu32 " bytes of extra data, "
				"which are not supported",
				b.extra_bytes);
	if (b.flags & ~(uint32_t)QCOW2_BITMAP_FLAGS_KNOWN)
		return img_fail(err, -ENOTSUP,
				"qcow2 bitmap directory: flags 0x%" PRIx32 " are not supported",
				b.flags & ~(uint32_t)QCOW2_BITMAP_FLAGS_KNOWN);
	if (b.type != QCOW2_BITMAP_DIRTY_TRACKING)
		return img_fail(err, -ENOTSUP,
				"qcow2 bitmap directory: a bitmap of type %u, supported "
				"is %d",
				b.type, QCOW2_BITMAP_DIRTY_TRACKING);
	if (b.granularity_bits < QCOW2_MIN_BITMAP_GRANULARITY_BITS ||
	    b.granularity_bits > QCOW2_MAX_BITMAP_GRANULARITY_BITS)
		return img_fail(err, -ENOTSUP,
				"qcow2 bitmap directory: granularity 2^%u, supported are "
				"2^%d to 2^%d",
				b.granularity_bits, QCOW2_MIN_BITMAP_GRANULARITY_BITS,
				QCOW2_MAX_BITMAP_GRANULARITY_BITS);
	*out = b;
	return 0;
}

void qcow2_encode_bitmap(const struct qcow2_bitmap *b, uint8_t *out)
{
	size_t bytes = QCOW2_BITMAP_FIXED_BYTES + (size_t)b->name_bytes;

	memset(out, 0, round_up_u64(bytes, 8));
	be64_store(out + BITMAP_TABLE_OFF, b->table_off);
	be32_store(out + BITMAP_TABLE_ENTRIES, b->table_entries);
	be32_store(out + BITMAP_FLAGS, b->flags);
	out[BITMAP_TYPE] = b->type;
	out[BITMAP_GRANULARITY] = b->granularity_bits;
	be16_store(out + BITMAP_NAME_BYTES, b->name_bytes);
	memcpy(out + QCOW2_BITMAP_FIXED_BYTES, b->name, b->name_bytes);
}

uint64_t qcow2_bitmap_entries(const struct qcow2_geometry *g, uint64_t size,
			      unsigned granularity_bits)
{
	uint64_t bits = div_round_up_u64(size, UINT64_C(1) << granularity_bits);

	return div_round_up_u64(div_round_up_u64(bits, 8), g->cluster_bytes);
}
