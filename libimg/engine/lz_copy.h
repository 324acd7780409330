/*
 * What LZ77 decoders do. Private to libimg/engine.
 */
#ifndef LIBIMG_ENGINE_LZ_COPY_H
#define LIBIMG_ENGINE_LZ_COPY_H

#include <stdint.h>
#include <string.h>

/*
 * Copy count bytes from back bytes before `to`, byte by byte: what is copied may be copied again. back: at least
 * 1, and there are as many bytes in front; end: of what may be written, at least to + count.
 */
static inline void img_lz_copy(uint8_t *to, size_t back, size_t count, const uint8_t *end)
{
	const uint8_t *from = to - back;

	if (back >= 16 && count + 16 <= (size_t)(end - to)) {
		/* 16 at a time, some of them beyond what is wanted */
		for (size_t i = 0; i < count; i += 16)
			memcpy(to + i, from + i, 16);
	} else if (back >= count) {
		memcpy(to, from, count);
	} else if (back == 1) {
		memset(to, *from, count);
	} else {
		for (size_t i = 0; i < count; i++)
			to[i] = from[i];
	}
}

#endif
