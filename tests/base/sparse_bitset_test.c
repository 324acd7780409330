/*
 * What has come, in any order, against an array of flags.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#include "libimg/base/sparse_bitset.h"

enum { UNITS = 100000 }; /* more than three leaves */

Test(seen, any_order)
{
	bool *model = calloc(UNITS, sizeof(*model));
	struct img_sparse_bitset s = { 0 };
	uint64_t unit = 1, run;

	cr_assert_eq(img_sparse_bitset_init(&s, UNITS), 0);
	for (int i = 0; i < 3000; i++) {
		unit = (unit * 48271 + 11) % UNITS;
		if (unit / 32768 == 1) /* a leaf in which there is nothing */
			continue;
		cr_assert_eq(img_sparse_bitset_add(&s, unit), model[unit]);
		model[unit] = true;
	}
	for (uint64_t at = 0; at < UNITS; at += run) {
		bool came = img_sparse_bitset_run(&s, at, &run);

		cr_assert(run >= 1 && run <= UNITS - at);
		for (uint64_t i = at; i < at + run; i++)
			cr_assert_eq(model[i], came);
		cr_assert(at + run == UNITS || model[at + run] != came);
	}
	img_sparse_bitset_free(&s);
	free(model);
}

Test(seen, bounds)
{
	struct img_sparse_bitset s = { 0 };
	int rc = 0;
	uint64_t n = 0, run;

	cr_assert_eq(img_sparse_bitset_init(&s, UINT64_MAX / 2), -E2BIG);
	cr_assert_eq(img_sparse_bitset_init(&s, UINT64_C(1) << 34), 0);
	cr_assert_not(img_sparse_bitset_run(&s, 0, &run));
	cr_assert_eq(run, UINT64_C(1) << 34);
	/* One each, as far apart as can be: an end comes before memory does. */
	while (!rc && n < 1 << 20)
		rc = img_sparse_bitset_add(&s, n++ * 32768);
	cr_assert_eq(rc, -E2BIG);
	cr_assert(n < 20000);
	img_sparse_bitset_free(&s);
	img_sparse_bitset_free(&s);
}
