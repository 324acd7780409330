/*
 * Counters for a check: see qcow2_use_counts.h.
 */
#include <errno.h>
#include <stdlib.h>

#include "formats/qcow2/qcow2_use_counts.h"
#include "libimg/base/arith.h"

enum { IN_MAP = 255,
       FIRST_SLOTS = 64 };

/* ---- Map ---- */

/* The slot of a key: where it is, or would be. slots: a power of two, not all in use. */
static size_t slot_of(const uint64_t *keys, size_t slots, uint64_t key)
{
	uint64_t hash = key * UINT64_C(0x9e3779b97f4a7c15);
	size_t i = (size_t)(hash ^ hash >> 32) & (slots - 1);

	while (keys[i] && keys[i] != key + 1)
		i = (i + 1) & (slots - 1);
	return i;
}

uint64_t *qcow2_map_find(const struct qcow2_map *m, uint64_t key)
{
	size_t i;

	if (!m->used)
		return NULL;
	i = slot_of(m->keys, m->slots, key);
	return m->keys[i] ? &m->values[i] : NULL;
}

static bool grow_map(struct qcow2_map *m)
{
	size_t slots = m->slots ? m->slots * 2 : FIRST_SLOTS;
	uint64_t *keys = calloc(slots, sizeof(*keys)), *values = calloc(slots, sizeof(*values));

	if (!keys || !values) {
		free(keys);
		free(values);
		return false;
	}
	for (size_t i = 0; i < m->slots; i++) {
		size_t to;

		if (!m->keys[i])
			continue;
		to = slot_of(keys, slots, m->keys[i] - 1);
		keys[to] = m->keys[i];
		values[to] = m->values[i];
	}
	free(m->keys);
	free(m->values);
	m->keys = keys;
	m->values = values;
	m->slots = slots;
	return true;
}

uint64_t *qcow2_map_add(struct qcow2_map *m, uint64_t key)
{
	size_t i;

	if (m->used >= m->slots / 2 && !grow_map(m))
		return NULL;
	i = slot_of(m->keys, m->slots, key);
	if (!m->keys[i]) {
		m->keys[i] = key + 1;
		m->values[i] = 0;
		m->used++;
	}
	return &m->values[i];
}

void qcow2_map_free(struct qcow2_map *m)
{
	free(m->keys);
	free(m->values);
	*m = (struct qcow2_map){ 0 };
}

/* ---- Counters ---- */

void qcow2_counts_init(struct qcow2_counts *c, uint64_t clusters)
{
	*c = (struct qcow2_counts){
		.clusters = clusters,
		.pages.page_bytes = sizeof(struct qcow2_page),
	};
}

void qcow2_counts_free(struct qcow2_counts *c)
{
	img_sparse_pages_free(&c->pages);
	qcow2_map_free(&c->many);
}

static struct qcow2_page *page_of(const struct qcow2_counts *c, uint64_t cluster)
{
	return img_sparse_pages_get(&c->pages, cluster >> QCOW2_PAGE_BITS);
}

uint64_t qcow2_counts_get(const struct qcow2_counts *c, uint64_t cluster)
{
	const struct qcow2_page *page = page_of(c, cluster);
	uint8_t count = page ? page->count[cluster % QCOW2_PAGE_CLUSTERS] : 0;

	return count == IN_MAP ? *qcow2_map_find(&c->many, cluster) : count;
}

int qcow2_counts_set(struct qcow2_counts *c, uint64_t cluster, uint64_t count)
{
	struct qcow2_page *page = img_sparse_pages_make(&c->pages, cluster >> QCOW2_PAGE_BITS);
	uint64_t *many;

	if (!page)
		return -ENOMEM;
	if (count >= IN_MAP) {
		many = qcow2_map_add(&c->many, cluster);
		if (!many)
			return -ENOMEM;
		*many = count;
		count = IN_MAP;
	}
	page->count[cluster % QCOW2_PAGE_CLUSTERS] = (uint8_t)count;
	return 0;
}

void qcow2_counts_mark(struct qcow2_counts *c, uint64_t cluster, enum qcow2_mark mark, bool on)
{
	struct qcow2_page *page = page_of(c, cluster);
	uint64_t i = cluster % QCOW2_PAGE_CLUSTERS, bit = UINT64_C(1) << i % 64;

	if (!page)
		return;
	page->mark[mark][i / 64] &= ~bit;
	if (on)
		page->mark[mark][i / 64] |= bit;
}

bool qcow2_counts_marked(const struct qcow2_counts *c, uint64_t cluster, enum qcow2_mark mark)
{
	const struct qcow2_page *page = page_of(c, cluster);
	uint64_t i = cluster % QCOW2_PAGE_CLUSTERS;

	return page && page->mark[mark][i / 64] >> i % 64 & 1;
}

uint64_t qcow2_counts_next_page(const struct qcow2_counts *c, uint64_t cluster, uint64_t end)
{
	uint64_t page = img_sparse_pages_next(&c->pages, cluster >> QCOW2_PAGE_BITS);

	if (page > UINT64_MAX >> QCOW2_PAGE_BITS)
		return end;
	return min_u64(end, max_u64(cluster, page << QCOW2_PAGE_BITS));
}

uint64_t qcow2_counts_free_run(const struct qcow2_counts *c, uint64_t n)
{
	uint64_t start = 0, at = 0;

	while (at - start < n && at < c->clusters) {
		const struct qcow2_page *page = page_of(c, at);

		if (!page) {
			at = ((at >> QCOW2_PAGE_BITS) + 1) << QCOW2_PAGE_BITS;
			continue;
		}
		if (page->count[at % QCOW2_PAGE_CLUSTERS])
			start = at + 1;
		at++;
	}
	return start;
}
