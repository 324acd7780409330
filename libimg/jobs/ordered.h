/*
 * Workers that take the pieces of a job one after the other, work on them all at once, and put them
 * out in the order in which they were taken: so the result does not depend on their number.
 */
#ifndef LIBIMG_JOBS_ORDERED_H
#define LIBIMG_JOBS_ORDERED_H

#include <pthread.h>

#include "libimg/base/error.h"
#include "libimg/base/pool.h"
#include "libimg/img.h"

struct img_ordered;

/* A worker, and the piece that it has at hand. Its job's worker begins with it. */
struct img_ordered_worker {
	struct img_work work;
	struct img_ordered *job;
	uint64_t number; /* of the piece, from 0 */
	uint64_t end;	 /* bytes of the job that are done with this piece; fetch() sets it */
	struct img_error err;
};

struct img_ordered_ops {
	/* A worker, zeroes but for what it needs; and its end (also of one half made). */
	int (*worker_new)(struct img_ordered *t, struct img_ordered_worker **out, struct img_error *err);
	void (*worker_free)(struct img_ordered_worker *w);
	/* The next piece: 1; none is left: 0; -errno (w->err). One worker at a time. */
	int (*fetch)(struct img_ordered_worker *w);
	/* What can be done to it beside others. 0 or -errno (w->err). */
	int (*prepare)(struct img_ordered_worker *w);
	/* The rest, in order. The same. */
	int (*put)(struct img_ordered_worker *w);
	/* Optional. The job has failed: let fetch() not wait for anything any more. Any thread. */
	void (*stop)(struct img_ordered *t);
};

/* Of a job. Zero-initialise but for the first members. */
struct img_ordered {
	const struct img_ordered_ops *ops;
	const struct img_copy_options *o; /* parallel, progress, user */
	uint64_t total;			  /* bytes of the job; 0: not known */

	pthread_mutex_t input; /* for fetch() */
	uint64_t given;	       /* pieces taken */
	pthread_mutex_t lock;  /* guards the rest */
	pthread_cond_t turned; /* `turn` moved on, or a worker ended */
	uint64_t turn, done;   /* the piece that is put now; bytes */
	unsigned workers;      /* still running */
	int rc;
	struct img_error err;
};

/* All of the job. -ECANCELED: progress() said so. */
int img_ordered_run(struct img_ordered *t, struct img_error *err);
/* For fetch(): is there no use in going on? */
bool img_ordered_failed(struct img_ordered *t);
/* For prepare(): wait until all pieces before were put. */
void img_ordered_wait(struct img_ordered_worker *w);

#endif
