/*
 * Inside an I/O queue: requests that are longer than their storage takes (struct img_storage_limits)
 * reach it in parts.
 */
#ifndef LIBIMG_STORAGE_IOQ_SPLIT_H
#define LIBIMG_STORAGE_IOQ_SPLIT_H

#include "libimg/storage/ioq.h"

/* Of a request for [off, off + len), what goes to s first, in bytes; len: all of it. */
uint64_t img_storage_first_part(const struct img_storage *s, enum img_io_op op, uint64_t off,
				uint64_t len);
/* Submit io in parts; its done() runs when the last one is, or one has failed and none is in flight. */
void img_ioq_split(struct img_ioq *q, struct img_io *io);

#endif
