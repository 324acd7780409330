/*
 * Two answers: one is used, and when it is half used up the next one is asked for.
 */
#include "libimg/jobs/map_ahead.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"

int img_map_ahead_init(struct img_map_ahead *m, const struct img_concat *sources,
		       struct img_queue *q, struct img_error *err)
{
	*m = (struct img_map_ahead){ .sources = sources, .q = q };
	m->now = calloc(1, sizeof(*m->now));
	m->next = calloc(1, sizeof(*m->next));
	if (m->now && m->next && (m->now->err = img_error_new()) &&
	    (m->next->err = img_error_new()))
		return 0;
	img_map_ahead_destroy(m);
	return img_fail(err, -ENOMEM, "out of memory for a map");
}

static void wait_for(struct img_map_ahead *m, const struct img_map_answer *a)
{
	while (a->in_flight)
		img_queue_run(m->q, true);
}

static void free_answer(struct img_map_ahead *m, struct img_map_answer *a)
{
	if (a) {
		wait_for(m, a);
		img_error_free(a->err);
	}
	free(a);
}

void img_map_ahead_destroy(struct img_map_ahead *m)
{
	free_answer(m, m->now);
	free_answer(m, m->next);
	*m = (struct img_map_ahead){ 0 };
}

static void came(void *user, int rc, const struct img_map_entry *entries, size_t count,
		 const struct img_error *err)
{
	struct img_map_answer *a = user;
	uint64_t off = a->off;

	a->in_flight = false;
	a->rc = rc ? img_fail(a->err, rc, "%s", img_error_text(err)) : 0;
	a->count = rc ? 0 : count;
	for (size_t i = 0; i < a->count; i++) {
		a->entries[i] = entries[i];
		a->entries[i].start = off;
		off += entries[i].length;
	}
	a->end = off;
}

/* Have a answer for off on. */
static void ask(struct img_map_ahead *m, struct img_map_answer *a, uint64_t off)
{
	uint64_t within;
	struct img *source = img_concat_at(m->sources, off, &within);

	a->off = a->end = off;
	a->count = 0;
	img_error_clear(a->err);
	a->rc = img_submit_map(m->q, source, within, img_size(source) - within, IMG_MAP_DEEP,
			       IMG_MAP_AHEAD_ENTRIES, came, a, a->err);
	a->in_flight = !a->rc;
}

static void swap(struct img_map_ahead *m)
{
	struct img_map_answer *now = m->now;

	m->now = m->next;
	m->next = now;
}

/* Which of the entries holds off; a->count: none. */
static size_t find(const struct img_map_answer *a, uint64_t off)
{
	size_t low = 0, high = a->count;

	if (off < a->off || off >= a->end)
		return a->count;
	while (high - low > 1) {
		size_t middle = (low + high) / 2;

		if (a->entries[middle].start <= off)
			low = middle;
		else
			high = middle;
	}
	return low;
}

int img_map_ahead_get(struct img_map_ahead *m, uint64_t off, struct img_map_entry *entry,
		      struct img_error *err)
{
	size_t i = find(m->now, off);

	if (i == m->now->count) {
		wait_for(m, m->next);
		swap(m);
		i = find(m->now, off);
	}
	if (i == m->now->count && !(m->now->rc && m->now->off == off)) {
		ask(m, m->now, off);
		wait_for(m, m->now);
		i = find(m->now, off);
	}
	if (m->now->rc) {
		int rc = img_fail(err, m->now->rc, "%s", img_error_text(m->now->err));

		m->now->off = m->now->end = 0; /* who asks again is answered anew */
		m->now->rc = 0;
		return rc;
	}
	*entry = m->now->entries[i];
	if (i >= m->now->count / 2 && !m->next->in_flight && m->next->off != m->now->end &&
	    m->now->end < m->sources->size)
		ask(m, m->next, m->now->end);
	return 0;
}
