/*
 * Copying within a chain of images, by the same pipeline as img_copy(). Of options, share_backing,
 * salvage, no_sparse and target_is_zero are not given. Nothing is flushed.
 */
#ifndef LIBIMG_JOBS_COPY_H
#define LIBIMG_JOBS_COPY_H

#include "libimg/img.h"

/*
 * What the images above base have is written to base, which is below top, at least as large, and open for
 * writing: up to top's end it reads as top does then. What top reads as does not change meanwhile.
 */
int img_copy_down(struct img *top, struct img *base, const struct img_copy_options *options,
		  struct img_error *err);
/*
 * What img has from the images below it, and would not have from backing (NULL: zeroes) in their
 * place, is written to img. What img reads as does not change meanwhile.
 */
int img_copy_up(struct img *img, struct img *backing, const struct img_copy_options *options,
		struct img_error *err);

#endif
