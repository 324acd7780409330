/*
 * qcow images of version 1 from byte literals, and a plain reader of them, from the format's description alone:
 * what the library writes is judged by it.
 */
#ifndef TESTS_QCOW1_PLAIN_H
#define TESTS_QCOW1_PLAIN_H

#define FORMAT "qcow"

#include <zlib.h>

#include "libimg/base/endian.h"
#include "tests/support/plain.h"

enum {
	CLUSTER = 4 << 10,
	L1 = 64,
	TABLE = CLUSTER,       /* the first L2 table, of 512 entries */
	TABLE2 = 2 * CLUSTER,  /* another one, if there is */
	FIRST = 3 * CLUSTER,   /* the first cluster of data */
	ENTRIES = CLUSTER / 8, /* of a table */
	PACKED_SHIFT = 63 - 12,
};

#define PACKED(off, len) (UINT64_C(1) << 63 | (uint64_t)(len) << PACKED_SHIFT | (off))

static inline void patch64(const char *name, uint64_t off, uint64_t value)
{
	uint8_t bytes[8];

	be64_store(bytes, value);
	patch(name, off, bytes, sizeof(bytes));
}

static inline uint64_t at64(const char *name, uint64_t off)
{
	struct bytes b = load(name);
	uint64_t value;

	cr_assert_leq(off + 8, b.len);
	value = be64_load(b.at + off);
	free(b.at);
	return value;
}

/* What an image is made of: clusters of 4 KiB, L2 tables of 512 entries. */
struct plain {
	uint64_t l1[2]; /* 0, 0: TABLE and TABLE2 */
	uint64_t size;	/* 0: 64 clusters */
	unsigned in_file;
	const uint64_t *entries; /* of the first table */
	unsigned entry_count;
	const char *backing; /* of 1 to 15 bytes */
};

/* Cluster i of the file's data is full of i + 1. */
static inline void make_plain(const char *name, const struct plain *p)
{
	size_t len = FIRST + p->in_file * CLUSTER;
	uint8_t *b = calloc(1, len);

	be32_store(b, 0x514649fb);
	be32_store(b + 4, 1);
	be64_store(b + 24, p->size ? p->size : 64 * CLUSTER);
	b[32] = 12;
	b[33] = 9;
	be64_store(b + 40, L1);
	if (p->backing) {
		be64_store(b + 8, 48);
		be32_store(b + 16, (uint32_t)strlen(p->backing));
		memcpy(b + 48, p->backing, strlen(p->backing));
	}
	be64_store(b + L1, p->l1[0] ? p->l1[0] : TABLE);
	be64_store(b + L1 + 8, p->l1[0] ? p->l1[1] : TABLE2);
	for (unsigned i = 0; i < p->entry_count; i++)
		be64_store(b + TABLE + i * 8, p->entries[i]);
	for (unsigned i = 0; i < p->in_file; i++)
		memset(b + FIRST + i * CLUSTER, (int)i + 1, CLUSTER);
	make_file(name, b, len, (off_t)len);
	free(b);
}

static inline void plain_inflate(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len)
{
	z_stream z = { .next_in = (uint8_t *)(uintptr_t)in,
		       .avail_in = (uInt)in_len,
		       .next_out = out,
		       .avail_out = (uInt)out_len };

	cr_assert_eq(inflateInit2(&z, -12), Z_OK);
	inflate(&z, Z_FINISH);
	cr_assert_eq(z.total_out, out_len);
	inflateEnd(&z);
}

/* And how it is stored. Of what we closed each cluster of the file has one user, or is of compressed data. */
static inline void plain_read(const char *name, uint8_t *out, uint64_t size)
{
	struct bytes f = load(name);
	uint64_t cluster = UINT64_C(1) << f.at[32], n = UINT64_C(1) << f.at[33], table = n * 8;
	uint64_t l1 = be64_load(f.at + 40), l1_entries = (size + cluster * n - 1) / (cluster * n);
	unsigned char *used = calloc(1, f.len / cluster + 2);
	uint8_t *unit = malloc(cluster);
	unsigned shift = 63 - f.at[32];

	cr_assert_eq(be32_load(f.at), 0x514649fb, "%s", name);
	cr_assert_eq(be32_load(f.at + 4), 1, "%s", name);
	cr_assert_eq(be64_load(f.at + 24), size, "%s", name);
	cr_assert_leq(l1 + l1_entries * 8, f.len, "%s", name);
	used[0] = 1;
	if (be64_load(f.at + 8))
		used[be64_load(f.at + 8) / cluster] = 1;
	for (uint64_t at = l1; at < l1 + l1_entries * 8; at += 8)
		used[at / cluster] = 1;
	for (uint64_t i = 0; i < l1_entries; i++) {
		uint64_t l2 = be64_load(f.at + l1 + i * 8);

		if (!l2)
			continue;
		cr_assert_leq(l2 + table, f.len, "%s", name);
		for (uint64_t at = l2; at < l2 + table; at += cluster)
			cr_assert(!used[at / cluster]++, "%s: a table at %u", name, (unsigned)l2);
		for (uint64_t k = 0; k < n; k++) {
			uint64_t entry = be64_load(f.at + l2 + k * 8), off = (i * n + k) * cluster;
			uint64_t part = off >= size ? 0 : size - off < cluster ? size - off
									       : cluster;

			if (!entry)
				continue;
			cr_assert(part, "%s: a cluster behind the disk's end", name);
			if (entry >> 63) {
				uint64_t at = entry & ((UINT64_C(1) << shift) - 1);
				uint64_t len = entry >> shift & (cluster - 1);

				cr_assert(len && at + len <= f.len, "%s", name);
				for (uint64_t b = at / cluster; b <= (at + len - 1) / cluster; b++)
					used[b] |= 128;
				plain_inflate(f.at + at, len, unit, cluster);
				memcpy(out + off, unit, part);
				continue;
			}
			cr_assert(entry % cluster == 0 && entry + cluster <= f.len, "%s", name);
			cr_assert(!used[entry / cluster]++, "%s: a cluster at %u", name, (unsigned)entry);
			memcpy(out + off, f.at + entry, part);
		}
	}
	for (uint64_t i = 0; i < f.len / cluster; i++) {
		/* QEMU makes whole sectors for the L1 table. */
		cr_assert(used[i] || (i * cluster < l1 + (l1_entries * 8 + 511) / 512 * 512 && i * cluster > l1),
			  "%s: nobody has cluster %u of %u", name, (unsigned)i, (unsigned)(f.len / cluster));
		cr_assert(!i || !(used[i] & 128) || used[i] == 128, "%s: compressed data over others' at %u", name,
			  (unsigned)i);
	}
	free(unit);
	free(used);
	free(f.at);
}

#endif
