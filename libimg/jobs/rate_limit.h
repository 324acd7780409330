/*
 * Holding a job to a rate.
 */
#ifndef LIBIMG_JOBS_RATE_LIMIT_H
#define LIBIMG_JOBS_RATE_LIMIT_H

#include <stdint.h>

struct img_rate_limit {
	uint64_t rate;	/* bytes a second; 0: no limit */
	uint64_t moved; /* bytes so far; the job's to count */
	uint64_t started_ns;
};

/* Start counting time. */
void img_rate_limit_begin(struct img_rate_limit *p, uint64_t rate);
/* Nanoseconds until what was moved is due, so that more may follow; 0: now. */
uint64_t img_rate_limit_wait(const struct img_rate_limit *p);
/* Sleep for that long, but not longer than one wants to wait for a signal. */
void img_rate_limit_sleep(const struct img_rate_limit *p);

#endif
