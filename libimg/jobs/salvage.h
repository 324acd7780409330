/*
 * Reading what can be read of a damaged image, for jobs that go on in spite of it.
 */
#ifndef LIBIMG_JOBS_SALVAGE_H
#define LIBIMG_JOBS_SALVAGE_H

#include "libimg/jobs/concat.h"

/* Zero-initialise, but for the first members. */
struct img_salvage {
	const struct img_concat *sources;
	img_unreadable_fn *unreadable; /* may be NULL */
	void *user;

	/* What is known to be unreadable and not yet told: it may go on. */
	struct img *source;
	uint64_t off, len; /* in it */
	struct img_error why;
};

/* May a failure with rc be got over? Not if it says nothing about the image. */
bool img_salvage_may(int rc);

/* From off on, the bytes that at least go with it when its place cannot be looked up. */
uint64_t img_salvage_step(const struct img_concat *sources, uint64_t off);

/*
 * Read [off, off + len) of the sources, in pieces where that fails; what remains unreadable is
 * zeroes in data. Blocking; nothing is in flight on q. -ENOMEM and the like only: see
 * img_salvage_may().
 */
int img_salvage_read(struct img_salvage *s, struct img_queue *q, uint64_t off, uint8_t *data,
		     size_t len, struct img_error *err);

/* Tell what has not been told. */
void img_salvage_end(struct img_salvage *s);

#endif
