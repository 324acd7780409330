/*
 * What an image says of the image below it, from open() on until that changes. The driver fills it in;
 * giving it up again is the same for all of them.
 */
#include <stdlib.h>

#include "libimg/engine/driver.h"

void img_forget_backing(struct img *img)
{
	free(img->backing_name);
	free(img->backing_format);
	for (size_t i = 0; i < img->backing_alternative_count; i++)
		free(img->backing_alternatives[i]);
	free(img->backing_alternatives);
	img->backing_name = img->backing_format = NULL;
	img->backing_alternatives = NULL;
	img->backing_alternative_count = 0;
	img->backing_uuid_count = 0;
	img->backing_required = false;
}
