/*
 * An image that is read once, from front to end, from a pipe. The copy pipeline (jobs/input.c) takes
 * its units.
 */
#ifndef LIBIMG_IMAGE_INPUT_H
#define LIBIMG_IMAGE_INPUT_H

#include "libimg/image/place.h"

/* The driver's view of it; the input's own. One thread at a time. */
struct img_source *img_input_source(struct img_input *in);
const char *img_input_name(const struct img_input *in);
/* From any thread: let reading end soon, with -ECANCELED. */
void img_input_stop(struct img_input *in);

#endif
