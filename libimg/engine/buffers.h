/*
 * Buffers of a queue, used again and again: what allocating and giving back costs (page faults, and
 * the kernel's zeroing) is a good part of unpacking a cluster. Only for the queue's own thread,
 * except that what is in a buffer may be worked on anywhere. Private to libimg/engine.
 */
#ifndef LIBIMG_ENGINE_BUFFERS_H
#define LIBIMG_ENGINE_BUFFERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zero: none. */
struct img_buffer {
	uint8_t *at; /* aligned to 4096 */
	size_t len;  /* bytes that may be used */
};

enum {
	IMG_BUFFER_CLASSES = 10, /* 4 KiB to 2 MiB, by powers of two */
};

/* What an unused buffer begins with. */
struct img_buffer_free {
	struct img_buffer_free *next;
};

/* Zero-initialise. */
struct img_buffers {
	struct img_buffer_free *free[IMG_BUFFER_CLASSES];
	size_t bytes; /* held, unused */
};

/* A buffer of at least len bytes with any content. False: out of memory. */
bool img_buffer_get(struct img_buffers *b, size_t len, struct img_buffer *out);
/* Give it back; none is fine. *buffer is none after. */
void img_buffer_put(struct img_buffers *b, struct img_buffer *buffer);
/* Free what is held. All buffers have been given back. */
void img_buffers_clear(struct img_buffers *b);

#endif
