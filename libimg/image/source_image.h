/*
 * An image that is read once, from front to end, from a pipe. The copy pipeline (jobs/copy_source.c) takes
 * its units.
 */
#ifndef LIBIMG_IMAGE_SOURCE_IMAGE_H
#define LIBIMG_IMAGE_SOURCE_IMAGE_H

#include "libimg/image/context.h"

/* The driver's view of it; the input's own. One thread at a time. */
struct img_source *img_source_image_source(struct img_source_image *in);
const char *img_source_name(const struct img_source_image *in);
/* From any thread: let reading end soon, with -ECANCELED. */
void img_source_stop(struct img_source_image *in);

#endif
