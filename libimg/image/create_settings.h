/*
 * The settings of a new image: all that is known, and all that can be refused, before a file is made.
 */
#ifndef LIBIMG_IMAGE_CREATE_SETTINGS_H
#define LIBIMG_IMAGE_CREATE_SETTINGS_H

#include "libimg/image/context.h"

struct img_create_settings {
	const struct img_driver *driver;
	struct img_option *table;
	struct img_options *options;
	struct img_gate *gate;
	char *path;	     /* creating.name: of the image's main file */
	struct img *backing; /* open with its chain; NULL: none, or unchecked */
	uint64_t asked_size; /* as given, not rounded */
	struct img_creating creating;
	struct img_file_attributes attributes; /* of all its files */
};

/*
 * The driver's options, and the rows that go without saying where it has none of its own: size
 * first, the backing file behind it. malloc'd; NULL: out of memory.
 */
struct img_option *img_create_settings_table(const struct img_driver *d);

/* Is it an option of the files, which all formats take? */
bool img_create_settings_is_of_file(const struct img_driver *d, const struct img_option *row);

/*
 * Settle everything. On failure r is clear. path: without "file:"; a folder stands for its main file.
 * backing_flags: IMG_OPEN_NO_DATA, or 0: the backing image will be read.
 */
int img_create_settings_init(struct img_create_settings *r, const char *path,
			     const struct img_create_options *options, unsigned backing_flags,
			     struct img_error *err);
void img_create_settings_clear(struct img_create_settings *r);

#endif
