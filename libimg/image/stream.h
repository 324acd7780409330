/*
 * An image that is written once, from front to end: into a new file or into a pipe. The copy
 * pipeline (jobs/stream.c) feeds its sink.
 */
#ifndef LIBIMG_IMAGE_STREAM_H
#define LIBIMG_IMAGE_STREAM_H

#include "libimg/image/place.h"

struct img_stream;

/*
 * path: the file to be made, which has its name only after img_stream_publish(); NULL: write to fd,
 * which stays the caller's. -ENOTSUP: with these options the format is not written as a stream.
 */
int img_stream_begin(const char *path, int fd, const struct img_create_options *options,
		     struct img_stream **out, struct img_error *err);
/* Where units are put; the stream's own. */
struct img_sink *img_stream_sink(struct img_stream *s);
uint64_t img_stream_size(const struct img_stream *s); /* guest bytes */
/*
 * What was asked for about zeroes, as far as a sink can do it: it leaves out whole units, or none.
 * -EINVAL.
 */
int img_sink_settle_zeroes(struct img_sink *sink, const struct img_copy_options *o,
			   struct img_error *err);
/* All was put: end the output, and give a file its name. */
int img_stream_publish(struct img_stream *s, struct img_error *err);
/* NULL is fine. A file that was not published is gone. */
void img_stream_free(struct img_stream *s);

#endif
