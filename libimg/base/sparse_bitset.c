#include "libimg/base/sparse_bitset.h"

#include <errno.h>
#include <stdlib.h>

#include "libimg/base/arith.h"

enum {
	LEAF_UNITS = 32768,
	LEAF_BYTES = LEAF_UNITS / 8,
	LEAVES_MAX = 1 << 20,	     /* pointers: 8 MiB */
	LEAVES_USED_MAX = 16 * 1024, /* 64 MiB: 32 TiB of grains of 64 KiB */
};

int img_sparse_bitset_init(struct img_sparse_bitset *s, uint64_t units)
{
	uint64_t leaves = div_round_up_u64(units, LEAF_UNITS);

	if (leaves > LEAVES_MAX)
		return -E2BIG;
	*s = (struct img_sparse_bitset){
		.units = units,
		.leaf_count = (size_t)leaves,
		.leaves = calloc(leaves + 1, sizeof(*s->leaves)),
	};
	return s->leaves ? 0 : -ENOMEM;
}

int img_sparse_bitset_add(struct img_sparse_bitset *s, uint64_t unit)
{
	uint8_t **leaf = &s->leaves[unit / LEAF_UNITS], *byte, bit = (uint8_t)(1u << unit % 8);

	if (!*leaf) {
		if (s->leaves_used == LEAVES_USED_MAX)
			return -E2BIG;
		*leaf = calloc(1, LEAF_BYTES);
		if (!*leaf)
			return -ENOMEM;
		s->leaves_used++;
	}
	byte = &(*leaf)[unit % LEAF_UNITS / 8];
	if (*byte & bit)
		return 1;
	*byte |= bit;
	return 0;
}

static bool has(const struct img_sparse_bitset *s, uint64_t unit)
{
	const uint8_t *leaf = s->leaves[unit / LEAF_UNITS];

	return leaf && leaf[unit % LEAF_UNITS / 8] >> unit % 8 & 1;
}

bool img_sparse_bitset_run(const struct img_sparse_bitset *s, uint64_t unit, uint64_t *run)
{
	bool first = has(s, unit);
	uint64_t at = unit;

	while (at < s->units && has(s, at) == first) {
		/* Where nothing has come at all, in large steps. */
		if (!first && !s->leaves[at / LEAF_UNITS])
			at = min_u64(align_down_u64(at, LEAF_UNITS) + LEAF_UNITS, s->units);
		else
			at++;
	}
	*run = at - unit;
	return first;
}

void img_sparse_bitset_free(struct img_sparse_bitset *s)
{
	for (size_t i = 0; i < s->leaf_count && s->leaves; i++)
		free(s->leaves[i]);
	free(s->leaves);
	*s = (struct img_sparse_bitset){ 0 };
}
