/*
 * Refcounts, as a file in memory has them: read by a few lines that share nothing with the driver, for
 * tests to hold against what they expect.
 */
#ifndef TESTS_QCOW2_COUNTS_H
#define TESTS_QCOW2_COUNTS_H

#include "formats/qcow2/qcow2_state.h"
#include "libimg/engine/core.h"
#include "tests/formats/qcow2/fixtures.h"

enum { COUNTS_MAX = 1 << 17 }; /* clusters */

struct counts {
	uint64_t *of; /* COUNTS_MAX */
	uint64_t cluster_bytes, bits, covered, table_off, table_clusters;
	bool *metadata; /* refcount table or block */
};

static inline uint64_t counts_number(struct img_storage *s, uint64_t off, unsigned bytes)
{
	uint8_t raw[8] = { 0 };
	uint64_t n = 0;

	cr_assert_eq(img_storage_read(s, off, raw, bytes, NULL), 0);
	for (unsigned i = 0; i < bytes; i++)
		n = n << 8 | raw[i];
	return n;
}

static inline struct counts counts_new(void)
{
	struct counts c = { .of = calloc(COUNTS_MAX, sizeof(uint64_t)),
			    .metadata = calloc(COUNTS_MAX, sizeof(bool)) };

	cr_assert(c.of && c.metadata);
	return c;
}

static inline void counts_free(struct counts *c)
{
	free(c->of);
	free(c->metadata);
}

/* What the file says. */
static inline void counts_read(struct img_storage *s, struct counts *c)
{
	uint64_t per_block, bytes;
	uint8_t *block;

	memset(c->of, 0, COUNTS_MAX * sizeof(*c->of));
	memset(c->metadata, 0, COUNTS_MAX * sizeof(*c->metadata));
	c->cluster_bytes = bytes = UINT64_C(1) << counts_number(s, 20, 4);
	c->table_off = counts_number(s, 48, 8);
	c->table_clusters = counts_number(s, 56, 4);
	c->bits = counts_number(s, 4, 4) < 3 ? 16 : UINT64_C(1) << counts_number(s, 96, 4);
	per_block = bytes * 8 / c->bits;
	c->covered = 0;
	block = malloc(bytes);
	cr_assert(block);
	for (uint64_t t = 0; t < c->table_clusters; t++)
		c->metadata[c->table_off / bytes + t] = true;
	for (uint64_t b = 0; b < c->table_clusters * bytes / 8; b++) {
		uint64_t off = counts_number(s, c->table_off + b * 8, 8);

		if (!off)
			continue;
		cr_assert_eq(off % bytes, 0);
		c->metadata[off / bytes] = true;
		cr_assert_eq(img_storage_read(s, off, block, bytes, NULL), 0);
		for (uint64_t i = 0; i < per_block && b * per_block + i < COUNTS_MAX; i++) {
			uint64_t n = 0, at = i * c->bits;

			if (c->bits < 8) /* the first is in the lowest bits of a byte */
				n = (unsigned)block[at / 8] >> at % 8 & ((1u << c->bits) - 1);
			else
				for (uint64_t k = 0; k < c->bits / 8; k++)
					n = n << 8 | block[at / 8 + k];
			c->of[b * per_block + i] = n;
			c->covered = b * per_block + i + 1;
		}
	}
	free(block);
}

/*
 * The file's counts are `model`, but for what refcount blocks and a table that came meanwhile take, and
 * what a table that was given up gives back; the model has that then too.
 */
static inline void counts_expect(struct img_storage *s, struct counts *model, const char *name)
{
	struct counts now = counts_new();
	uint64_t bytes = model->cluster_bytes;

	counts_read(s, &now);
	for (uint64_t c = 0; c < COUNTS_MAX; c++) {
		bool was_table = c >= model->table_off / bytes &&
				 c < model->table_off / bytes + model->table_clusters;

		if (now.of[c] == model->of[c])
			continue;
		if (now.metadata[c] && !model->metadata[c] && !model->of[c] && now.of[c] == 1)
			continue;
		if (was_table && now.table_off != model->table_off && model->of[c] == 1 &&
		    !now.of[c])
			continue;
		cr_assert_fail("%s: cluster %" PRIu64 " is counted %" PRIu64 " times, not %" PRIu64,
			       name, c, now.of[c], model->of[c]);
	}
	counts_free(model);
	*model = now;
}

#endif
