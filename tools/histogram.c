/* Values counted in buckets of growing width. */
#include "tools/histogram.h"

/* The largest value of a bucket. */
static uint64_t upper_edge(unsigned bucket)
{
	unsigned shift = bucket / HISTOGRAM_PARTS;
	uint64_t first_bits;

	if (!shift)
		return bucket;
	first_bits = bucket % HISTOGRAM_PARTS + HISTOGRAM_PARTS;
	shift--;
	return ((first_bits + 1) << shift) - 1; /* of the last bucket: 2^64 - 1 */
}

void histogram_merge(struct histogram *h, const struct histogram *from)
{
	unsigned i;

	if (!from->count)
		return;
	if (!h->count || from->min < h->min)
		h->min = from->min;
	if (from->max > h->max)
		h->max = from->max;
	h->count += from->count;
	h->sum += from->sum;
	for (i = 0; i < HISTOGRAM_BUCKETS; i++)
		h->buckets[i] += from->buckets[i];
}

uint64_t histogram_quantile(const struct histogram *h, double part)
{
	uint64_t wanted = (uint64_t)(part * (double)h->count), seen = 0, edge;
	unsigned i;

	if ((double)wanted < part * (double)h->count)
		wanted++;
	for (i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen && seen >= wanted) {
			edge = upper_edge(i);
			return edge < h->max ? edge : h->max;
		}
	}
	return h->max;
}

double histogram_mean(const struct histogram *h)
{
	return h->count ? (double)h->sum / (double)h->count : 0;
}
