/*
 * Raw disks that come from a pipe.
 */
#ifndef FORMATS_RAW_RAW_SOURCE_H
#define FORMATS_RAW_RAW_SOURCE_H

#include "libimg/engine/driver.h"

/* The driver's source(). */
int raw_source(struct img_byte_reader *in, struct img_source **out, struct img_error *err);

#endif
