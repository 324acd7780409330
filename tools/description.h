/*
 * What the user says about an image: a name, or options (--image-opts, json:) that also say how to
 * open it, and the images below it.
 */
#ifndef TOOLS_DESCRIPTION_H
#define TOOLS_DESCRIPTION_H

#include <stdbool.h>

#include "libimg/image/img.h"

/* One image. Strings are owned; NULL: not said. */
struct description {
	char *path, *format, *data_file;
	char *file_driver; /* "file", "host_device" */
	bool read_only;
	unsigned flags, cleared; /* IMG_OPEN_* that are on, that are off whatever else was said */
	enum img_io_kind io;
	uint64_t cache_bytes;
	struct description *below; /* the backing file; NULL: nothing was said about it */
};

/*
 * Read a name; image_opts: "key=value,...". subject: what errors begin with. NULL: it makes no
 * sense; said.
 */
struct description *description_read(const char *name, bool image_opts, const char *subject);
void description_free(struct description *d); /* NULL is fine */

/* The path that a plain name means. NULL: it names no file; said, beginning with subject, if any. */
const char *description_path(const char *name, const char *subject);

#endif
