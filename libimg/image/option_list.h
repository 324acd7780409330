/* Tables of options, as the public header reports them. */
#ifndef LIBIMG_IMAGE_OPTION_LIST_H
#define LIBIMG_IMAGE_OPTION_LIST_H

#include "libimg/base/options.h"
#include "libimg/base/value.h"

/*
 * An array of {name, type, help, default?, choices?}, a row each; NULL: out of memory. mark: may add to a
 * row's object; NULL: nothing is added.
 */
struct img_value *img_option_list(const struct img_option *table,
				  void (*mark)(void *user, const struct img_option *row,
					       struct img_value *item),
				  void *user);

#endif
