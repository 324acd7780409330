/*
 * Sets of numbers, and the pages below them, against arrays of flags.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "libimg/base/sparse_bitset.h"

enum { UNITS = 100000 }; /* more than twelve pages */

/* Every run, from one end to the other, is what the model has. */
static void compare(const struct img_sparse_bitset *s, const bool *model)
{
	uint64_t run, count = 0;

	for (uint64_t at = 0; at < UNITS; at += run) {
		bool first = img_sparse_bitset_run(s, at, &run);

		cr_assert(run >= 1 && run <= UNITS - at);
		for (uint64_t i = at; i < at + run; i++)
			cr_assert_eq(model[i], first);
		cr_assert(at + run == UNITS || model[at + run] != first);
		count += first ? run : 0;
	}
	cr_assert_eq(s->count, count);
}

Test(sparse_bitset, any_order)
{
	bool *model = calloc(UNITS, sizeof(*model));
	struct img_sparse_bitset s;
	uint64_t unit = 1;

	img_sparse_bitset_init(&s, UNITS, 0);
	compare(&s, model);
	for (int i = 0; i < 3000; i++) {
		unit = (unit * 48271 + 11) % UNITS;
		if (unit / 32768 == 1) /* pages in which there is nothing */
			continue;
		cr_assert_eq(img_sparse_bitset_has(&s, unit), model[unit]);
		cr_assert_eq(img_sparse_bitset_add(&s, unit, 1), model[unit]);
		model[unit] = true;
	}
	compare(&s, model);
	img_sparse_bitset_free(&s);
	free(model);
}

Test(sparse_bitset, ranges)
{
	bool *model = calloc(UNITS, sizeof(*model)), *twice = calloc(UNITS, sizeof(*twice));
	struct img_sparse_bitset s, again;
	uint64_t at = 1;

	img_sparse_bitset_init(&s, UNITS, 0);
	img_sparse_bitset_init(&again, UNITS, 0);
	for (int i = 0; i < 200; i++) {
		uint64_t n = (at * 7 + 1) % (i % 4 ? 70 : 9000), had = 0;

		at = (at * 48271 + 11) % UNITS;
		n = n < UNITS - at ? n : UNITS - at;
		for (uint64_t k = at; k < at + n; k++) {
			had |= model[k];
			twice[k] |= model[k];
			model[k] = true;
		}
		cr_assert_eq(img_sparse_bitset_add_again(&s, at, n, &again), (int)had);
	}
	compare(&s, model);
	compare(&again, twice);
	img_sparse_bitset_free(&s);
	img_sparse_bitset_free(&again);
	free(model);
	free(twice);
}

Test(sparse_bitset, bounds)
{
	struct img_sparse_bitset s;
	int rc = 0;
	uint64_t n = 0, run;

	img_sparse_bitset_init(&s, UINT64_MAX, 1 << 20);
	cr_assert_not(img_sparse_bitset_run(&s, 0, &run));
	cr_assert_eq(run, UINT64_MAX);
	cr_assert_eq(img_sparse_bitset_add(&s, UINT64_MAX - 2, 1), 0);
	cr_assert_not(img_sparse_bitset_run(&s, 5, &run));
	cr_assert_eq(run, UINT64_MAX - 2 - 5);
	cr_assert(img_sparse_bitset_run(&s, UINT64_MAX - 2, &run));
	cr_assert_eq(run, 1);
	/* One each, far apart: an end comes before memory does. */
	while (!rc && n < 1 << 20)
		rc = img_sparse_bitset_add(&s, n++ * 32768, 1);
	cr_assert_eq(rc, -E2BIG);
	cr_assert_eq(n, 1024);
	img_sparse_bitset_free(&s);
	img_sparse_bitset_free(&s);
}

Test(sparse_pages, far_apart)
{
	static const uint64_t numbers[] = {
		0, 1, 1023, 1024, 1 << 20, UINT64_C(1) << 42, UINT64_MAX - 1
	};
	enum { COUNT = sizeof(numbers) / sizeof(numbers[0]) };
	struct img_sparse_pages p = { .page_bytes = 16 };

	cr_assert_null(img_sparse_pages_get(&p, 7));
	cr_assert_eq(img_sparse_pages_next(&p, 0), UINT64_MAX);
	/* The highest first, then the lowest first: with a tree that is there, and one that grows. */
	for (int turn = 0; turn < 2; turn++) {
		for (int i = 0; i < COUNT; i++) {
			uint64_t number = numbers[turn ? i : COUNT - 1 - i];
			uint8_t *page = img_sparse_pages_make(&p, number);

			cr_assert_not_null(page);
			cr_assert_eq(page[15], 0);
			page[15] = (uint8_t)(number >> 40) + 1;
			cr_assert_eq(img_sparse_pages_make(&p, number), page);
		}
		cr_assert_eq(p.count, COUNT);
		for (int i = 0; i < COUNT; i++) {
			uint8_t *page = img_sparse_pages_get(&p, numbers[i]);

			cr_assert_eq(page[15], (uint8_t)((numbers[i] >> 40) + 1));
			cr_assert_eq(img_sparse_pages_next(&p, numbers[i]), numbers[i]);
			cr_assert_eq(img_sparse_pages_next(&p, numbers[i] + 1),
				     i + 1 < COUNT ? numbers[i + 1] : UINT64_MAX);
		}
		cr_assert_null(img_sparse_pages_get(&p, 2));
		cr_assert_null(img_sparse_pages_get(&p, UINT64_C(1) << 50));
		img_sparse_pages_free(&p);
		cr_assert_eq(p.count, 0);
	}
}
