/*
 * What lies where in a file: two sorted arrays. Blocks are offsets alone, for there may be millions.
 */
#include "libimg/base/range_map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"

void img_range_map_free(struct img_range_map *m)
{
	free(m->ranges);
	free(m->blocks);
	*m = (struct img_range_map){ .block_bytes = m->block_bytes, .block_name = m->block_name };
}

void img_range_map_clear_blocks(struct img_range_map *m)
{
	free(m->blocks);
	m->blocks = NULL;
	m->block_count = m->block_max = 0;
}

void img_range_map_clear_ranges(struct img_range_map *m)
{
	free(m->ranges);
	m->ranges = NULL;
	m->range_count = m->range_max = 0;
}

int img_range_map_add(struct img_range_map *m, uint64_t off, uint64_t len, const char *name)
{
	uint64_t end;

	if (!len)
		return 0;
	if (!add_u64(off, len, &end))
		return -EOVERFLOW;
	if (!m->ranges || m->range_count == m->range_max) {
		size_t max = m->range_max ? m->range_max * 2 : 16;
		struct img_range *more = realloc(m->ranges, max * sizeof(*more));

		if (!more)
			return -ENOMEM;
		m->ranges = more;
		m->range_max = max;
	}
	m->ranges[m->range_count++] = (struct img_range){ off, len, name };
	return 0;
}

int img_range_map_reserve_blocks(struct img_range_map *m, size_t n)
{
	size_t max = m->block_max ? m->block_max : 64;
	uint64_t *more;

	while (max - m->block_count < n)
		max *= 2;
	if (max == m->block_max)
		return 0;
	more = realloc(m->blocks, max * sizeof(*more));
	if (!more)
		return -ENOMEM;
	m->blocks = more;
	m->block_max = max;
	return 0;
}

int img_range_map_add_block(struct img_range_map *m, uint64_t off)
{
	uint64_t end;
	int rc;

	if (!add_u64(off, m->block_bytes, &end))
		return -EOVERFLOW;
	rc = img_range_map_reserve_blocks(m, 1);
	if (!rc)
		m->blocks[m->block_count++] = off;
	return rc;
}

static int by_offset(const void *a, const void *b)
{
	const struct img_range *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

static int by_number(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

void img_range_map_sort(struct img_range_map *m)
{
	if (m->range_count)
		qsort(m->ranges, m->range_count, sizeof(*m->ranges), by_offset);
	if (m->block_count)
		qsort(m->blocks, m->block_count, sizeof(*m->blocks), by_number);
}

bool img_range_map_overlap(const struct img_range_map *m, struct img_range pair[2])
{
	for (size_t i = 1; i < m->range_count; i++) {
		pair[0] = m->ranges[i - 1];
		pair[1] = m->ranges[i];
		if (pair[1].off - pair[0].off < pair[0].len)
			return true;
	}
	return false;
}

static struct img_range block_range(const struct img_range_map *m, size_t i)
{
	return (struct img_range){ m->blocks[i], m->block_bytes, m->block_name };
}

bool img_range_map_block_overlap(const struct img_range_map *m, struct img_range pair[2])
{
	for (size_t i = 0; i < m->block_count; i++) {
		const struct img_range *range;

		pair[1] = block_range(m, i);
		if (i && pair[1].off - m->blocks[i - 1] < m->block_bytes) {
			pair[0] = block_range(m, i - 1);
			return true;
		}
		range = img_range_map_range_at(m, pair[1].off, m->block_bytes);
		if (range) {
			pair[0] = *range;
			return true;
		}
	}
	return false;
}

const struct img_range *img_range_map_range_at(const struct img_range_map *m, uint64_t off,
					       uint64_t len)
{
	size_t low = 0, high = m->range_count;

	/* The first one that ends past off. */
	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (m->ranges[mid].off + m->ranges[mid].len > off)
			high = mid;
		else
			low = mid + 1;
	}
	return low < m->range_count && m->ranges[low].off < off + len ? &m->ranges[low] : NULL;
}

/* The first block that ends past off. */
static size_t block_from(const struct img_range_map *m, uint64_t off)
{
	size_t low = 0, high = m->block_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (m->blocks[mid] + m->block_bytes > off)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

const char *img_range_map_at(const struct img_range_map *m, uint64_t off, uint64_t len)
{
	const struct img_range *range = img_range_map_range_at(m, off, len);
	size_t i;

	if (range)
		return range->name;
	i = block_from(m, off);
	return i < m->block_count && m->blocks[i] < off + len ? m->block_name : NULL;
}

void img_range_map_insert_block(struct img_range_map *m, uint64_t off)
{
	size_t i = block_from(m, off);

	memmove(m->blocks + i + 1, m->blocks + i, (m->block_count - i) * sizeof(*m->blocks));
	m->blocks[i] = off;
	m->block_count++;
}
