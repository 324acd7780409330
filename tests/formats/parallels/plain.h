/*
 * A plain reader of expanding Parallels images, from the format's document alone: what the library
 * writes is judged by it. And images made byte by byte.
 */
#ifndef TESTS_PARALLELS_PLAIN_H
#define TESTS_PARALLELS_PLAIN_H

#define FORMAT "parallels"

#include "tests/support/plain.h"

enum {
	SECTOR = 512,
	IN_USE_AT = 44,
	DATA_OFF_AT = 48,
	FLAGS_AT = 52,
	EXTENSION_AT = 56,
	BAT_AT = 64,
};

static const uint32_t in_use = 0x746f6e59, closed = 0x312e3276;

static inline uint64_t le(const uint8_t *p, unsigned n)
{
	uint64_t v = 0;

	while (n--)
		v = v << 8 | p[n];
	return v;
}

static inline void patch_le(const char *name, uint64_t off, uint64_t value, unsigned n)
{
	uint8_t bytes[8];

	for (unsigned i = 0; i < n; i++)
		bytes[i] = (uint8_t)(value >> 8 * i);
	patch(name, off, bytes, n);
}

static inline uint64_t peek_le(const char *name, uint64_t off, unsigned n)
{
	uint8_t bytes[8];
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	cr_assert_eq(pread(fd, bytes, n, (off_t)off), (ssize_t)n);
	close(fd);
	return le(bytes, n);
}

static inline void set_entry(const char *name, uint64_t number, uint32_t value)
{
	patch_le(name, BAT_AT + 4 * number, value, 4);
}

static inline uint32_t entry(const char *name, uint64_t number)
{
	return (uint32_t)peek_le(name, BAT_AT + 4 * number, 4);
}

static inline uint64_t file_size(const char *name)
{
	struct stat st;

	cr_assert_eq(stat(name, &st), 0);
	return (uint64_t)st.st_size;
}

/* An empty image of the old kind, as VirtualBox makes it. */
static inline void make_old(const char *name, uint64_t size, uint32_t cluster_sectors)
{
	uint64_t sectors = size / SECTOR,
		 entries = (sectors + cluster_sectors - 1) / cluster_sectors;
	const uint32_t words[] = {
		2, 16, 100, cluster_sectors, (uint32_t)entries, (uint32_t)sectors, 0, 0, 0, 0, 0, 0
	};

	make_file(name, "WithoutFreeSpace", 16, (off_t)((BAT_AT + 4 * entries + 511) / 512 * 512));
	for (size_t i = 0; i < COUNT(words); i++)
		patch_le(name, 16 + 4 * i, words[i], 4);
}

static inline void make_new(const char *name, uint64_t size, const char *options)
{
	make(name, size, options, NULL, NULL);
}

/* And that nothing is used twice, or lies in front of the data. */
static inline void plain_read(const char *name, uint8_t *out, uint64_t size)
{
	uint64_t len = file_size(name), cluster, scale, entries, least;
	uint8_t *f = malloc(len), *used;
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	bool extended;

	cr_assert_eq(pread(fd, f, len, 0), (ssize_t)len);
	close(fd);
	extended = !memcmp(f, "WithouFreSpacExt", 16);
	cr_assert(extended || !memcmp(f, "WithoutFreeSpace", 16));
	cr_assert_eq(le(f + 16, 4), 2);
	cluster = le(f + 28, 4) * SECTOR;
	scale = extended ? cluster : SECTOR;
	entries = le(f + 32, 4);
	least = le(f + DATA_OFF_AT, 4) * SECTOR;
	if (!least && !extended)
		least = (BAT_AT + 4 * entries + 511) / 512 * 512;
	cr_assert_eq(le(f + 36, extended ? 8 : 4) * SECTOR, size);
	cr_assert_geq(entries * cluster, size);
	cr_assert_geq(least, BAT_AT + 4 * entries);
	cr_assert(!extended || least % cluster == 0);
	used = calloc(1, len / SECTOR + 1);
	memset(out, 0, size);
	for (uint64_t n = 0; n < entries; n++) {
		uint64_t off = le(f + BAT_AT + 4 * n, 4) * scale, bytes = cluster;

		if (!off)
			continue;
		if (n * cluster + bytes > size)
			bytes = n * cluster < size ? size - n * cluster : 0;
		/* Also of the disk's last cluster all has to be there: QEMU drops it otherwise. */
		cr_assert(off >= least && off + cluster <= len, "%s: entry %lu: %lu", name, n, off);
		for (uint64_t s = off / SECTOR; s < (off + cluster) / SECTOR; s++)
			cr_assert(!used[s]++, "%s: entry %lu shares a sector", name, n);
		memcpy(out + n * cluster, f + off, bytes);
	}
	free(used);
	free(f);
}

#endif
