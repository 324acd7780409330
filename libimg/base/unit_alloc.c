/*
 * Units at the end of a file, and a stack of free runs: the run given back last is used first, and
 * grows when what follows on it is given back too.
 */
#include "libimg/base/unit_alloc.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/base/use_map.h"

void img_unit_alloc_init(struct img_unit_alloc *a, uint64_t unit_bytes, uint64_t next, uint64_t limit)
{
	*a = (struct img_unit_alloc){ .unit_bytes = unit_bytes, .next = next, .limit = limit };
}

void img_unit_alloc_free(struct img_unit_alloc *a)
{
	free(a->runs);
	a->runs = NULL;
	a->run_count = a->run_max = 0;
}

int img_unit_alloc_get(struct img_unit_alloc *a, uint64_t want, uint64_t *off, uint64_t *got)
{
	uint64_t room;

	if (a->run_count) {
		struct img_unit_run *run = &a->runs[a->run_count - 1];

		*got = min_u64(want, run->len / a->unit_bytes);
		*off = run->off;
		run->off += *got * a->unit_bytes;
		run->len -= *got * a->unit_bytes;
		if (!run->len)
			a->run_count--;
		return 0;
	}
	room = a->next < a->limit ? (a->limit - a->next) / a->unit_bytes : 0;
	if (!room)
		return -EFBIG;
	*got = min_u64(want, room);
	return img_unit_alloc_get_at_end(a, *got, off);
}

int img_unit_alloc_get_at_end(struct img_unit_alloc *a, uint64_t n, uint64_t *off)
{
	if (a->next > a->limit || n > (a->limit - a->next) / a->unit_bytes)
		return -EFBIG;
	*off = a->next;
	a->next += n * a->unit_bytes;
	return 0;
}

static bool add_run(struct img_unit_alloc *a, uint64_t off, uint64_t len)
{
	struct img_unit_run *last = a->run_count ? &a->runs[a->run_count - 1] : NULL;

	if (last && last->off + last->len == off) {
		last->len += len;
		return true;
	}
	if (!a->runs || a->run_count == a->run_max) {
		size_t max = a->run_max ? a->run_max * 2 : 64;
		struct img_unit_run *more = realloc(a->runs, max * sizeof(*more));

		if (!more)
			return false;
		a->runs = more;
		a->run_max = max;
	}
	a->runs[a->run_count++] = (struct img_unit_run){ off, len };
	return true;
}

void img_unit_alloc_put(struct img_unit_alloc *a, uint64_t off, uint64_t len)
{
	add_run(a, off, len);
}

int img_unit_alloc_find_free(struct img_unit_alloc *a, const struct img_use_map *used, uint64_t from)
{
	uint64_t parts = a->unit_bytes / used->unit_bytes;

	for (uint64_t at = from; at < a->next;) {
		uint64_t part = at / used->unit_bytes, run = UINT64_MAX;
		bool is_used = part < used->used.size &&
			       img_sparse_bitset_run(&used->used, part, &run);
		uint64_t units = min_u64(is_used ? div_round_up_u64(run, parts) : run / parts,
					 (a->next - at) / a->unit_bytes);

		if (!is_used && units && !add_run(a, at, units * a->unit_bytes))
			return -ENOMEM;
		/* A unit of which a part is used is none. */
		at += max_u64(units, 1) * a->unit_bytes;
	}
	return 0;
}
