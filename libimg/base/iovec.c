/*
 * Lists of buffers. See iovec.h.
 */
#include "libimg/base/iovec.h"

#include <string.h>

#include "libimg/base/arith.h"

bool img_iov_length(const struct iovec *iov, int iovcnt, uint64_t *len)
{
	*len = 0;
	for (int i = 0; i < iovcnt; i++)
		if (!add_u64(*len, iov[i].iov_len, len))
			return false;
	return iovcnt >= 0;
}

int img_iov_slice(const struct iovec *iov, int iovcnt, uint64_t skip, uint64_t len,
		  struct iovec *out)
{
	int n = 0;

	for (int i = 0; i < iovcnt && len; i++) {
		size_t use;

		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		use = min_size(iov[i].iov_len - (size_t)skip, (size_t)min_u64(len, SIZE_MAX));
		out[n++] = (struct iovec){ (char *)iov[i].iov_base + skip, use };
		len -= use;
		skip = 0;
	}
	return n;
}

size_t img_iov_cut(struct iovec *iov, size_t count, uint64_t len)
{
	size_t i;

	for (i = 0; i < count && len; i++) {
		iov[i].iov_len = min_size(iov[i].iov_len, len);
		len -= iov[i].iov_len;
	}
	return i;
}

size_t img_iov_gather(const struct iovec *iov, int iovcnt, uint8_t *to)
{
	size_t at = 0;

	for (int i = 0; i < iovcnt; at += iov[i++].iov_len)
		memcpy(to + at, iov[i].iov_base, iov[i].iov_len);
	return at;
}

size_t img_iov_scatter(const struct iovec *iov, int iovcnt, const uint8_t *from)
{
	size_t at = 0;

	for (int i = 0; i < iovcnt; at += iov[i++].iov_len)
		memcpy(iov[i].iov_base, from + at, iov[i].iov_len);
	return at;
}

void img_iov_zero(const struct iovec *iov, int iovcnt)
{
	for (int i = 0; i < iovcnt; i++)
		memset(iov[i].iov_base, 0, iov[i].iov_len);
}

/* ---- Cursor ---- */

int img_cursor_window(const struct img_cursor *c, struct iovec *out, int max)
{
	size_t skip = c->skip;
	int n = 0;

	for (int i = 0; i < c->iovcnt && n < max; i++, skip = 0) {
		if (c->iov[i].iov_len == skip)
			continue;
		out[n].iov_base = (uint8_t *)c->iov[i].iov_base + skip;
		out[n].iov_len = c->iov[i].iov_len - skip;
		n++;
	}
	return n;
}

void img_cursor_advance(struct img_cursor *c, uint64_t bytes)
{
	while (c->iovcnt && bytes >= c->iov->iov_len - c->skip) {
		bytes -= c->iov->iov_len - c->skip;
		c->skip = 0;
		c->iov++;
		c->iovcnt--;
	}
	c->skip += bytes;
}

static size_t copy_step(const struct img_cursor *c, uint64_t len)
{
	return (size_t)min_u64(len, c->iov->iov_len - c->skip);
}

void img_cursor_gather(struct img_cursor *c, uint8_t *to, uint64_t len)
{
	while (len && c->iovcnt) {
		size_t n = copy_step(c, len);

		memcpy(to, (const uint8_t *)c->iov->iov_base + c->skip, n);
		to += n;
		len -= n;
		img_cursor_advance(c, n);
	}
}

void img_cursor_scatter(struct img_cursor *c, const uint8_t *from, uint64_t len)
{
	while (len && c->iovcnt) {
		size_t n = copy_step(c, len);

		memcpy((uint8_t *)c->iov->iov_base + c->skip, from, n);
		from += n;
		len -= n;
		img_cursor_advance(c, n);
	}
}

void img_cursor_zero(struct img_cursor *c, uint64_t len)
{
	while (len && c->iovcnt) {
		size_t n = copy_step(c, len);

		memset((uint8_t *)c->iov->iov_base + c->skip, 0, n);
		len -= n;
		img_cursor_advance(c, n);
	}
}
