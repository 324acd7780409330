/*
 * An image that is written once, from front to end: into a new file or into a pipe. The copy
 * pipeline (jobs/copy_to_sink.c) feeds its sink.
 */
#ifndef LIBIMG_IMAGE_SINK_IMAGE_H
#define LIBIMG_IMAGE_SINK_IMAGE_H

#include "libimg/image/context.h"

struct img_sink_image;

/*
 * path: the file to be made, which has its name only after img_sink_image_publish(); NULL: write to fd,
 * which stays the caller's. *out NULL: with these options the format is not written as a stream;
 * nothing was begun.
 */
int img_sink_image_begin(const char *path, int fd, const struct img_create_options *options,
			 struct img_sink_image **out, struct img_error *err);
/* The sentence for that. -ENOTSUP. */
int img_sink_image_refuse(const char *format, struct img_error *err);
/* Where units are put; the stream's own. */
struct img_sink *img_sink_image_sink(struct img_sink_image *s);
uint64_t img_sink_image_size(const struct img_sink_image *s); /* guest bytes */
/*
 * What was asked for about zeroes, as far as a sink can do it: it leaves out whole units, or none.
 * -EINVAL.
 */
int img_sink_choose_zeroes(struct img_sink *sink, const struct img_copy_options *o,
			   struct img_error *err);
/* All was put: end the output, and give a file its name. */
int img_sink_image_publish(struct img_sink_image *s, struct img_error *err);
/* NULL is fine. A file that was not published is gone. */
void img_sink_image_free(struct img_sink_image *s);

#endif
