/*
 * How often which value occurred, in buckets that grow with the values: each power of two has
 * HISTOGRAM_PARTS of them, so that what is read out is at most 1/64 above what went in. Adding
 * allocates nothing.
 */
#ifndef TOOLS_HISTOGRAM_H
#define TOOLS_HISTOGRAM_H

#include <stdint.h>

enum {
	HISTOGRAM_PART_BITS = 6,
	HISTOGRAM_PARTS = 1 << HISTOGRAM_PART_BITS,
	HISTOGRAM_BUCKETS = (64 - HISTOGRAM_PART_BITS + 1) * HISTOGRAM_PARTS,
};

/* Zero-initialise. Values are below 2^64; their sum must be, too. */
struct histogram {
	uint64_t count, sum, min, max;
	uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* Small values have a bucket each; of others the first bits count. */
static inline unsigned histogram_bucket(uint64_t value)
{
	unsigned shift;

	if (value < HISTOGRAM_PARTS)
		return (unsigned)value;
	shift = 63 - HISTOGRAM_PART_BITS - (unsigned)__builtin_clzll(value);
	return shift * HISTOGRAM_PARTS + (unsigned)(value >> shift);
}

static inline void histogram_add(struct histogram *h, uint64_t value)
{
	if (!h->count || value < h->min)
		h->min = value;
	if (value > h->max)
		h->max = value;
	h->count++;
	h->sum += value;
	h->buckets[histogram_bucket(value)]++;
}

/* Everything that is in from goes to h as well. */
void histogram_merge(struct histogram *h, const struct histogram *from);

/* 0 <= part <= 1 of the values are at most this one; 0: there are no values. */
uint64_t histogram_quantile(const struct histogram *h, double part);

/* 0: there are no values. */
double histogram_mean(const struct histogram *h);

#endif
