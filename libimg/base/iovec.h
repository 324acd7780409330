/*
 * Walking through a list of buffers.
 */
#ifndef LIBIMG_STORAGE_CURSOR_H
#define LIBIMG_STORAGE_CURSOR_H

#include <stdint.h>
#include <sys/uio.h>

/* A place in a list of buffers. */
struct img_cursor {
	const struct iovec *iov;
	int iovcnt;
	size_t skip; /* bytes of iov[0] that are behind */
};
/* At most max buffers from the cursor on; how many there are. Empty ones are left out. */
int img_cursor_window(const struct img_cursor *c, struct iovec *out, int max);
void img_cursor_advance(struct img_cursor *c, uint64_t bytes);
/* Copy len bytes from / to the buffers at the cursor, which moves on. */
void img_cursor_gather(struct img_cursor *c, uint8_t *to, size_t len);
void img_cursor_scatter(struct img_cursor *c, const uint8_t *from, size_t len);
void img_cursor_zero(struct img_cursor *c, uint64_t len);

#endif
