/*
 * What is known of a target before anything is copied to it.
 */
#ifndef LIBIMG_JOBS_TARGET_H
#define LIBIMG_JOBS_TARGET_H

#include <stdbool.h>

struct img;

enum img_target_state {
	IMG_TARGET_USED,   /* it may hold anything */
	IMG_TARGET_ZERO,   /* it reads as zeroes */
	IMG_TARGET_MAPPED, /* it is said to; what img_map() knows of it is believed instead */
};

/*
 * A new image (img_create_begin(), not published, nothing written) without a backing image reads as
 * zeroes unless its driver says other: on a device only if the format's tables say so. promised: the caller says that any other does. A device
 * cannot tell better, so that is believed; files can.
 */
enum img_target_state img_target_state(struct img *target, bool promised);

#endif
