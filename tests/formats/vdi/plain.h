/*
 * VDIs from byte literals, and a plain reader of them, from the format's description alone: what the library
 * writes is judged by it.
 */
#ifndef TESTS_VDI_PLAIN_H
#define TESTS_VDI_PLAIN_H

#define FORMAT "vdi"

#include "libimg/base/endian.h"
#include "tests/support/plain.h"

#define FREE UINT32_C(0xffffffff)
#define ZERO UINT32_C(0xfffffffe)

enum {
	PLAIN_MAP = 512,
	PLAIN_DATA = 4096, /* a multiple of it */
};

static inline void patch32(const char *name, uint64_t off, uint32_t value)
{
	uint8_t bytes[4];

	le32_store(bytes, value);
	patch(name, off, bytes, sizeof(bytes));
}

/* What an image is made of. */
struct plain {
	bool version0;
	uint32_t type; /* 0: 1, dynamic */
	uint64_t size; /* 0: all of the blocks */
	uint32_t block_bytes, extra_bytes;
	uint32_t blocks, in_file, allocated;
	const uint32_t *entries;
	uint8_t parent; /* each byte of its UUID */
};

/* Block i of the file is full of i + 1, its extra bytes of 0xee. */
static inline void make_plain(const char *name, const struct plain *p)
{
	uint64_t stride = (uint64_t)p->block_bytes + p->extra_bytes;
	uint64_t map = p->version0 ? 420 : PLAIN_MAP;
	uint64_t map_end = map + p->blocks * 4;
	uint64_t data = p->version0 ? map_end : (map_end + PLAIN_DATA - 1) / PLAIN_DATA * PLAIN_DATA;
	uint64_t size = p->size ? p->size : (uint64_t)p->blocks * p->block_bytes;
	size_t len = data + p->in_file * stride;
	uint8_t *b = calloc(1, len + PLAIN_DATA), *uuids = b + (p->version0 ? 0x174 : 0x188);
	uint8_t *sizes = b + (p->version0 ? 0x160 : 0x170);
	uint8_t *counts = b + (p->version0 ? 0x16c : 0x180);

	le32_store(b + 0x40, 0xbeda107f);
	le32_store(b + (p->version0 ? 0x48 : 0x4c), p->type ? p->type : 1);
	if (!p->version0) {
		le32_store(b + 0x44, 0x10001);
		le32_store(b + 0x48, 0x190);
		le32_store(b + 0x154, PLAIN_MAP);
		le32_store(b + 0x158, (uint32_t)data);
		le32_store(b + 0x17c, p->extra_bytes);
	}
	le64_store(sizes, size);
	le32_store(sizes + 8, p->block_bytes);
	le32_store(counts, p->blocks);
	le32_store(counts + 4, p->allocated);
	memset(uuids, 1, 16);
	memset(uuids + 16, 2, 16);
	memset(uuids + 32, p->parent, 16);
	for (uint32_t i = 0; i < p->blocks; i++)
		le32_store(b + map + i * 4, p->entries[i]);
	for (uint32_t i = 0; i < p->in_file; i++) {
		memset(b + data + i * stride, 0xee, p->extra_bytes);
		memset(b + data + i * stride + p->extra_bytes, (int)i + 1, p->block_bytes);
	}
	make_file(name, b, len, (off_t)len);
	free(b);
}

/* And how it is stored. */
static inline void plain_read(const char *name, uint8_t *out, uint64_t size)
{
	struct bytes f = load(name);
	uint64_t map = le32_load(f.at + 0x154), data = le32_load(f.at + 0x158);
	uint64_t block = le32_load(f.at + 0x178), extra = le32_load(f.at + 0x17c);
	uint32_t highest = 0, used = 0;

	cr_assert_eq(le32_load(f.at + 0x44), 0x10001, "%s", name);
	cr_assert_eq(le64_load(f.at + 0x170), size);
	cr_assert_leq(map + 4 * le32_load(f.at + 0x180), data);
	for (uint64_t n = 0; n * block < size; n++) {
		uint32_t entry = le32_load(f.at + map + n * 4);
		size_t part = size - n * block < block ? size - n * block : block;
		uint64_t from = data + entry * (block + extra) + extra;

		if (entry == ZERO)
			memset(out + n * block, 0, part);
		if (entry >= ZERO)
			continue;
		cr_assert_leq(from + part, f.len, "%s: block %u", name, (unsigned)n);
		memcpy(out + n * block, f.at + from, part);
		used++;
		highest = entry >= highest ? entry + 1 : highest;
	}
	/* Where other programs put their next block: behind all that are there, and all of those are used. */
	cr_assert_eq(le32_load(f.at + 0x184), highest, "%s", name);
	cr_assert_eq(used, highest, "%s", name);
	free(f.at);
}

#endif
