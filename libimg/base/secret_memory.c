/*
 * Each piece is a mapping of its own, which begins with its length. Where the limit of locked memory
 * (RLIMIT_MEMLOCK) is reached it is used unlocked: better than not to open the disk.
 */
#include "libimg/base/secret_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"

enum { HEADER = 64 };

void *img_secret_alloc(size_t bytes)
{
	uint64_t len;
	uint8_t *p;

	if (!add_u64(bytes, HEADER, &len))
		return NULL;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	mlock(p, len);
	madvise(p, len, MADV_DONTDUMP);
	memcpy(p, &len, sizeof(len));
	return p + HEADER;
}

void *img_secret_copy(const void *bytes, size_t len)
{
	uint8_t *p = img_secret_alloc(len + 1);

	if (p && len)
		memcpy(p, bytes, len);
	return p;
}

void img_secret_free(void *p)
{
	uint8_t *start;
	uint64_t len;

	if (!p)
		return;
	start = (uint8_t *)p - HEADER;
	memcpy(&len, start, sizeof(len));
	explicit_bzero(start, len);
	munmap(start, len); /* unlocks */
}

void img_secret_wipe(void *p, size_t bytes)
{
	explicit_bzero(p, bytes);
}

bool img_secret_equal(const void *a, const void *b, size_t bytes)
{
	const volatile uint8_t *x = a, *y = b;
	unsigned differ = 0;

	for (size_t i = 0; i < bytes; i++)
		differ |= (unsigned)(x[i] ^ y[i]);
	return !differ;
}

int img_random_bytes(void *out, size_t bytes, struct img_error *err)
{
	uint8_t *p = out;

	while (bytes) {
		ssize_t n = getrandom(p, bytes, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return img_fail(err, n ? -errno : -EIO, "no random number: %s",
					strerror(n ? errno : EIO));
		p += n;
		bytes -= (size_t)n;
	}
	return 0;
}
