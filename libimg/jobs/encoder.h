/*
 * Units on their way into a sink: what is wanted of a piece of the disk, packed.
 */
#ifndef LIBIMG_JOBS_ENCODER_H
#define LIBIMG_JOBS_ENCODER_H

#include "libimg/engine/driver.h"

struct img_encoder {
	struct img_sink *sink;
	uint8_t *bytes; /* twice the room for plain bytes; NULL: the sink takes plain bytes */
	size_t *len;	/* for each unit; 0: zeroes, left out */
};

/* room: the most bytes of the disk, a multiple of the sink's unit. -ENOMEM; freed all the same. */
int img_encoder_new(struct img_encoder *p, struct img_sink *sink, size_t room, struct img_error *err);
void img_encoder_free(struct img_encoder *p);
/*
 * Pack each unit of data[0, len) that is wanted; the last may be short, at the disk's end, and has
 * room for a whole one, which may become zeroes there.
 */
int img_encoder_encode(struct img_encoder *p, uint8_t *data, size_t len, struct img_error *err);
/* Put them; data begins at guest offset off. */
int img_encoder_put(struct img_encoder *p, uint64_t off, const uint8_t *data, size_t len,
		    struct img_error *err);

#endif
