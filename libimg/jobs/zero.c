/*
 * Zeroes are looked for with the processor's vectors, 256 bytes at a time.
 */
#include "libimg/jobs/zero.h"

#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/engine/driver.h"

enum {
	DEFAULT_SPARSE = 4096,
	MAX_HOLE = 64 << 10,
};

/* The compiler makes of this what the processor's vectors allow. */
typedef uint64_t block __attribute__((vector_size(64), aligned(1), may_alias));

bool img_is_zero(const uint8_t *p, size_t len)
{
	size_t i = 0;

	/* Most data shows itself in its first bytes. */
	if (len >= 8) {
		uint64_t first;

		memcpy(&first, p, sizeof(first));
		if (first)
			return false;
	}
	for (; i + 256 <= len; i += 256) {
		const block *b = (const block *)(const void *)(p + i);
		block all = b[0] | b[1] | b[2] | b[3];
		uint64_t any = 0;

		for (int k = 0; k < 8; k++)
			any |= all[k];
		if (any)
			return false;
	}
	for (; i < len; i++)
		if (p[i])
			return false;
	return true;
}

bool img_zero_run(const uint8_t *p, size_t len, size_t grain, size_t first, size_t *run)
{
	size_t at = min_size(first, len);
	bool zero = img_is_zero(p, at);

	while (at < len) {
		size_t next = min_size(grain, len - at);

		if (img_is_zero(p + at, next) != zero)
			break;
		at += next;
	}
	*run = at;
	return zero;
}

size_t img_zero_grain(const struct img *target, uint64_t sparse, size_t most)
{
	uint64_t unit = target->grain_bytes ? target->grain_bytes : target->unit_bytes;
	uint64_t grain = sparse ? sparse : DEFAULT_SPARSE;

	return (size_t)min_u64(max_u64(grain, min_u64(unit, MAX_HOLE)), most);
}
