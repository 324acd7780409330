/* Holding a job to a rate, by the clock: lower bounds only, since a busy machine may be late. */
#include <time.h>

#include <criterion/criterion.h>

#include "libimg/jobs/rate_limit.h"

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

Test(rate_limit, none)
{
	struct img_rate_limit r;
	uint64_t before = now_ns();

	img_rate_limit_begin(&r, 0);
	r.moved = UINT64_MAX;
	cr_assert_eq(img_rate_limit_wait(&r), 0);
	for (int i = 0; i < 1000; i++)
		img_rate_limit_sleep(&r);
	cr_assert_lt(now_ns() - before, 1000000000, "nothing is waited for");
}

Test(rate_limit, what_was_moved_is_due_by_then)
{
	static const uint64_t rates[] = { 1, 1000, 1 << 20, UINT64_C(1) << 40, UINT64_MAX };

	for (size_t i = 0; i < 5; i++) {
		struct img_rate_limit r;
		uint64_t before = now_ns(), wait, passed, due;

		img_rate_limit_begin(&r, rates[i]);
		cr_assert_eq(img_rate_limit_wait(&r), 0, "nothing was moved");
		/* 100 seconds' worth */
		r.moved = rates[i] > UINT64_MAX / 100 ? UINT64_MAX : rates[i] * 100;
		due = (uint64_t)((double)r.moved / (double)rates[i] * 1e9);
		wait = img_rate_limit_wait(&r);
		passed = now_ns() - before;
		cr_assert_leq(wait, due + 1000);
		cr_assert_geq(wait + passed + due / 1000000 + 1000, due, "%zu", i);
	}
}

Test(rate_limit, more_than_fits)
{
	struct img_rate_limit r;

	img_rate_limit_begin(&r, 1);
	r.moved = UINT64_MAX;
	cr_assert_eq(img_rate_limit_wait(&r), INT64_MAX);
}

/* In naps, so that a signal is not kept waiting. */
Test(rate_limit, naps)
{
	struct img_rate_limit r;
	uint64_t before = now_ns();

	img_rate_limit_begin(&r, 1000);
	r.moved = 250; /* 0.25 s */
	img_rate_limit_sleep(&r);
	cr_assert_geq(now_ns() - before, 100000000);
	while (img_rate_limit_wait(&r))
		img_rate_limit_sleep(&r);
	cr_assert_geq(now_ns() - before, 250000000);
	r.moved = 0;
	before = now_ns();
	img_rate_limit_sleep(&r);
	cr_assert_lt(now_ns() - before, 90000000);
}
