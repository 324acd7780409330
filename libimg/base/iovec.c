#include "libimg/storage/cursor.h"

#include <string.h>

#include "libimg/base/arith.h"

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

void img_cursor_gather(struct img_cursor *c, uint8_t *to, size_t len)
{
	while (len && c->iovcnt) {
		size_t n = copy_step(c, len);

		memcpy(to, (const uint8_t *)c->iov->iov_base + c->skip, n);
		to += n;
		len -= n;
		img_cursor_advance(c, n);
	}
}

void img_cursor_scatter(struct img_cursor *c, const uint8_t *from, size_t len)
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
