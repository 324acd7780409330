/*
 * Lists of buffers: their length, parts of them, and copying to and from them. A cursor is for those who
 * go through one piece by piece.
 */
#ifndef LIBIMG_BASE_IOVEC_H
#define LIBIMG_BASE_IOVEC_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/* All bytes of iov; false: they overflow, or iovcnt is negative. */
bool img_iov_length(const struct iovec *iov, int iovcnt, uint64_t *len);
/* The entries of iov that cover len bytes from skip on, as out[], of iovcnt entries; how many there are. */
int img_iov_slice(const struct iovec *iov, int iovcnt, uint64_t skip, uint64_t len,
		  struct iovec *out);
/* Leave len bytes in iov, which has at least that many. Returns how many buffers they are. */
size_t img_iov_cut(struct iovec *iov, size_t count, uint64_t len);
/* Copy all bytes from / to the buffers, fill them with zeroes. How many bytes they are. */
size_t img_iov_gather(const struct iovec *iov, int iovcnt, uint8_t *to);
size_t img_iov_scatter(const struct iovec *iov, int iovcnt, const uint8_t *from);
void img_iov_zero(const struct iovec *iov, int iovcnt);

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
void img_cursor_gather(struct img_cursor *c, uint8_t *to, uint64_t len);
void img_cursor_scatter(struct img_cursor *c, const uint8_t *from, uint64_t len);
void img_cursor_zero(struct img_cursor *c, uint64_t len);

#endif
