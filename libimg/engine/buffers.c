/*
 * Free buffers are listed by size class, powers of two from 4 KiB on, up to a few MiB in all.
 */
#include "libimg/engine/buffers.h"

#include <stdlib.h>

#include "libimg/base/arith.h"

enum {
	SMALLEST = 4096,
	MOST_HELD = 8 << 20,
};

/* The class whose buffers have room for len; IMG_BUFFER_CLASSES: none. */
static unsigned class_of(size_t len)
{
	unsigned c = 0;

	while (c < IMG_BUFFER_CLASSES && ((size_t)SMALLEST << c) < len)
		c++;
	return c;
}

bool img_buffer_get(struct img_buffers *b, size_t len, struct img_buffer *out)
{
	unsigned c = class_of(len);
	size_t bytes = c < IMG_BUFFER_CLASSES ? (size_t)SMALLEST << c : round_up_u64(len, SMALLEST);
	uint8_t *at;

	if (c < IMG_BUFFER_CLASSES && b->free[c]) {
		at = (uint8_t *)b->free[c];
		b->free[c] = b->free[c]->next;
		b->bytes -= bytes;
	} else {
		at = aligned_alloc(SMALLEST, bytes);
	}
	if (!at)
		return false;
	*out = (struct img_buffer){ at, bytes };
	return true;
}

void img_buffer_put(struct img_buffers *b, struct img_buffer *buffer)
{
	unsigned c = class_of(buffer->len);

	if (!buffer->at)
		return;
	if (c < IMG_BUFFER_CLASSES && b->bytes + buffer->len <= MOST_HELD) {
		struct img_buffer_free *unused = (void *)buffer->at;

		unused->next = b->free[c];
		b->free[c] = unused;
		b->bytes += buffer->len;
	} else {
		free(buffer->at);
	}
	*buffer = (struct img_buffer){ 0 };
}

void img_buffers_clear(struct img_buffers *b)
{
	for (unsigned c = 0; c < IMG_BUFFER_CLASSES; c++) {
		while (b->free[c]) {
			struct img_buffer_free *unused = b->free[c];

			b->free[c] = unused->next;
			free(unused);
		}
	}
	b->bytes = 0;
}
