/*
 * A rate limit: what has been moved since the start is held to what the rate allows for the time.
 */
#include "libimg/jobs/rate_limit.h"

#include <time.h>

#include "libimg/base/arith.h"

static const uint64_t SECOND_NS = 1000000000, LONGEST_NAP_NS = 100000000;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

void img_rate_limit_begin(struct img_rate_limit *p, uint64_t rate)
{
	*p = (struct img_rate_limit){ .rate = rate, .started_ns = now_ns() };
}

uint64_t img_rate_limit_wait(const struct img_rate_limit *p)
{
	uint64_t passed;
	double due; /* there are rates for which it does not fit 64 bits */

	if (!p->rate)
		return 0;
	passed = now_ns() - p->started_ns;
	due = (double)p->moved / (double)p->rate * (double)SECOND_NS - (double)passed;
	if (due <= 0)
		return 0;
	return due < (double)INT64_MAX ? (uint64_t)due + 1 : INT64_MAX;
}

void img_rate_limit_sleep(const struct img_rate_limit *p)
{
	struct timespec t = { .tv_nsec = (long)min_u64(img_rate_limit_wait(p), LONGEST_NAP_NS) };

	if (t.tv_nsec)
		nanosleep(&t, NULL);
}
