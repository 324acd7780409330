/*
 * A plain reader of VHDs, from the format's document alone: what the library writes is judged by it. And
 * changes of files, byte by byte.
 */
#ifndef TESTS_VHD_PLAIN_H
#define TESTS_VHD_PLAIN_H

#include <sys/wait.h>

#define FORMAT "vpc"

#include "tests/support/plain.h"

static inline uint64_t be(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;

	while (n--)
		v = v << 8 | *p++;
	return v;
}

/* A big-endian number of n bytes; the checksum at sum of the structure of len bytes at start is made right. */
static inline void patch_number(const char *name, uint64_t start, size_t len, size_t sum, size_t off,
				uint64_t value, unsigned n)
{
	struct bytes b = load(name);
	uint32_t total = 0;

	for (unsigned i = 0; i < n; i++)
		b.at[start + off + i] = (uint8_t)(value >> 8 * (n - 1 - i));
	for (size_t i = 0; i < len; i++)
		total += i >= sum && i < sum + 4 ? 0 : b.at[start + i];
	for (unsigned i = 0; i < 4; i++)
		b.at[start + sum + i] = (uint8_t)(~total >> 8 * (3 - i));
	patch(name, start, b.at + start, len);
	free(b.at);
}

static inline void patch_footer(const char *name, uint64_t start, size_t off, uint64_t value, unsigned n)
{
	patch_number(name, start, 512, 64, off, value, n);
}

static inline void plain_read(const char *name, uint8_t *out, uint64_t size)
{
	struct bytes f = load(name);
	const uint8_t *footer = f.at + f.len - 512, *header;
	uint64_t table, block;

	cr_assert(!memcmp(footer, "conectix", 8), "%s has no footer at its end", name);
	if (be(footer + 60, 4) == 2) {
		cr_assert_leq(size, f.len - 512);
		memcpy(out, f.at, size);
		free(f.at);
		return;
	}
	cr_assert(!memcmp(footer, f.at, 512), "%s: the footers differ", name);
	header = f.at + be(footer + 16, 8);
	table = be(header + 16, 8);
	block = be(header + 32, 4);
	for (uint64_t n = 0; n * block < size; n++) {
		uint64_t entry = be(f.at + table + n * 4, 4), bitmap = (block / 512 / 8 + 511) / 512 * 512;

		if (entry == UINT32_MAX)
			continue;
		cr_assert_leq(entry * 512 + bitmap + block, f.len - 512);
		for (uint64_t s = 0; s < block / 512 && n * block + s * 512 < size; s++)
			if (f.at[entry * 512 + s / 8] >> (7 - s % 8) & 1)
				memcpy(out + n * block + s * 512, f.at + entry * 512 + bitmap + s * 512, 512);
	}
	free(f.at);
}

#endif
