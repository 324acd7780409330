/*
 * QED images from byte literals, and a plain reader of them, from the format's description alone: what the
 * library writes is judged by it.
 */
#ifndef TESTS_QED_PLAIN_H
#define TESTS_QED_PLAIN_H

#define FORMAT "qed"

#include "libimg/base/endian.h"
#include "tests/support/plain.h"

enum {
	CLUSTER = 4 << 10,
	L1 = CLUSTER,	       /* one cluster */
	TABLE = 2 * CLUSTER,   /* the first L2 table */
	TABLE2 = 3 * CLUSTER,  /* another one, if there is */
	FIRST = 4 * CLUSTER,   /* the first cluster of data */
	ENTRIES = CLUSTER / 8, /* of a table */
	BACKING = 1,
	NEED_CHECK = 2,
	BACKING_RAW = 4,
};

static inline void patch64(const char *name, uint64_t off, uint64_t value)
{
	uint8_t bytes[8];

	le64_store(bytes, value);
	patch(name, off, bytes, sizeof(bytes));
}

static inline uint64_t at64(const char *name, uint64_t off)
{
	struct bytes b = load(name);
	uint64_t value;

	cr_assert_leq(off + 8, b.len);
	value = le64_load(b.at + off);
	free(b.at);
	return value;
}

/* What an image is made of: clusters of 4 KiB, tables of one. */
struct plain {
	uint64_t features, autoclear;
	uint64_t l1[2]; /* 0, 0: TABLE and TABLE2 */
	uint64_t size;	/* 0: 64 clusters */
	unsigned in_file;
	const uint64_t *entries; /* of the first table: file offsets */
	unsigned entry_count;
	const char *backing;
};

/* Cluster i of the file's data is full of i + 1. */
static inline void make_plain(const char *name, const struct plain *p)
{
	size_t len = FIRST + p->in_file * CLUSTER;
	uint8_t *b = calloc(1, len);

	memcpy(b, "QED", 4);
	le32_store(b + 4, CLUSTER);
	le32_store(b + 8, 1);
	le32_store(b + 12, 1);
	le64_store(b + 16, p->features);
	le64_store(b + 32, p->autoclear);
	le64_store(b + 40, L1);
	le64_store(b + 48, p->size ? p->size : 64 * CLUSTER);
	if (p->backing) {
		le32_store(b + 56, 64);
		le32_store(b + 60, (uint32_t)strlen(p->backing));
		memcpy(b + 64, p->backing, strlen(p->backing));
	}
	le64_store(b + L1, p->l1[0] ? p->l1[0] : TABLE);
	le64_store(b + L1 + 8, p->l1[0] ? p->l1[1] : TABLE2);
	for (unsigned i = 0; i < p->entry_count; i++)
		le64_store(b + TABLE + i * 8, p->entries[i]);
	for (unsigned i = 0; i < p->in_file; i++)
		memset(b + FIRST + i * CLUSTER, (int)i + 1, CLUSTER);
	make_file(name, b, len, (off_t)len);
	free(b);
}

/* And how it is stored. Of what we closed each cluster of the file has one user. */
static inline void plain_read(const char *name, uint8_t *out, uint64_t size)
{
	struct bytes f = load(name);
	uint64_t cluster = le32_load(f.at + 4), table = le32_load(f.at + 8) * cluster, n = table / 8;
	uint64_t l1 = le64_load(f.at + 40), header = le32_load(f.at + 12) * cluster;
	unsigned char *used = calloc(1, f.len / cluster + 1);

	cr_assert(!memcmp(f.at, "QED", 4), "%s", name);
	cr_assert_eq(le64_load(f.at + 48), size, "%s", name);
	cr_assert(!(le64_load(f.at + 16) & NEED_CHECK), "%s: the mark", name);
	cr_assert_eq(f.len % cluster, 0, "%s", name);
	memset(used, 1, header / cluster);
	memset(used + l1 / cluster, 1, table / cluster);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t l2 = le64_load(f.at + l1 + i * 8);

		if (!l2)
			continue;
		cr_assert_leq(l2 + table, f.len, "%s", name);
		for (uint64_t k = 0; k < table / cluster; k++)
			cr_assert(!used[l2 / cluster + k]++, "%s: a table at %u", name, (unsigned)l2);
		for (uint64_t k = 0; k < n; k++) {
			uint64_t entry = le64_load(f.at + l2 + k * 8), off = (i * n + k) * cluster;
			uint64_t part = off >= size ? 0 : size - off < cluster ? size - off
									       : cluster;

			if (entry == 1)
				memset(out + off, 0, part);
			if (entry < 2)
				continue;
			cr_assert(entry % cluster == 0 && entry + cluster <= f.len, "%s", name);
			cr_assert(!used[entry / cluster]++, "%s: a cluster at %u", name, (unsigned)entry);
			cr_assert(part, "%s: a cluster behind the disk's end", name);
			memcpy(out + off, f.at + entry, part);
		}
	}
	for (uint64_t i = 0; i < f.len / cluster; i++)
		cr_assert(used[i], "%s: nobody has cluster %u of %u", name, (unsigned)i,
			  (unsigned)(f.len / cluster));
	free(used);
	free(f.at);
}

#endif
