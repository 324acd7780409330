/*
 * Holding a job to a rate.
 */
#ifndef LIBIMG_JOBS_PACE_H
#define LIBIMG_JOBS_PACE_H

#include <stdint.h>

struct img_pace {
	uint64_t rate;	/* bytes a second; 0: no limit */
	uint64_t moved; /* bytes so far; the job's to count */
	uint64_t started_ns;
};

/* Start counting time. */
void img_pace_begin(struct img_pace *p, uint64_t rate);
/* Nanoseconds until what was moved is due, so that more may follow; 0: now. */
uint64_t img_pace_wait(const struct img_pace *p);
/* Sleep for that long, but not longer than one wants to wait for a signal. */
void img_pace_nap(const struct img_pace *p);

#endif
