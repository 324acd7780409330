/*
 * The map of a job's sources, asked for on the job's queue and ahead of where the job is, so that the
 * time that a server or file system takes to say where holes are is not waited for.
 */
#ifndef LIBIMG_JOBS_MAP_AHEAD_H
#define LIBIMG_JOBS_MAP_AHEAD_H

#include "libimg/jobs/concat.h"

enum {
	IMG_MAP_AHEAD_ENTRIES = 512,
};

struct img_map_answer {
	struct img_map_entry entries[IMG_MAP_AHEAD_ENTRIES]; /* start: in the sources together */
	size_t count;
	uint64_t off, end; /* what it is about; nothing: no answer */
	bool in_flight;
	int rc;
	struct img_error *err; /* of rc */
};

/* For one thread, which runs the queue. */
struct img_map_ahead {
	const struct img_concat *sources;
	struct img_queue *q;
	struct img_map_answer *now, *next;
};

/* -ENOMEM. */
int img_map_ahead_init(struct img_map_ahead *m, const struct img_concat *sources,
		       struct img_queue *q, struct img_error *err);
/* Waits for what is in flight. Fine for one that is all zeroes. */
void img_map_ahead_destroy(struct img_map_ahead *m);
/*
 * What the entry that holds byte off is: as img_concat_map(), but that it may begin before off. Runs
 * the queue until it is known.
 */
int img_map_ahead_get(struct img_map_ahead *m, uint64_t off, struct img_map_entry *entry,
		      struct img_error *err);

#endif
