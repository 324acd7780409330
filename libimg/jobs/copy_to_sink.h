/*
 * Copying into an image that is written in one go, and was begun already (img_sink_image_begin()): whether
 * it is such a one is known before anything is read.
 */
#ifndef LIBIMG_JOBS_COPY_TO_SINK_H
#define LIBIMG_JOBS_COPY_TO_SINK_H

#include "libimg/img.h"

struct img_sink_image;

/* As img_copy_to_sink() and img_copy_source_to_sink(); s stays the caller's. */
int img_copy_into_sink(struct img *const *sources, size_t count, struct img_sink_image *s,
		       const struct img_copy_options *o, struct img_error *err);
int img_copy_source_into_sink(struct img_source_image *in, struct img_sink_image *s,
			      const struct img_copy_options *o, struct img_error *err);

#endif
