/* Values counted in buckets: how far what is read out may be from what went in. */
#include <criterion/criterion.h>

/* The tool is no library: what is tested of it is compiled in. */
#include "tools/histogram.c"

static struct histogram h, other;

Test(histogram, buckets_cover_all_values)
{
	uint64_t value;
	unsigned shift, before = 0;

	for (value = 0; value < 4096; value++) {
		unsigned bucket = histogram_bucket(value);

		cr_assert(bucket == before || bucket == before + 1);
		cr_assert(value <= upper_edge(bucket));
		cr_assert(!bucket || value > upper_edge(bucket - 1));
		before = bucket;
	}
	for (shift = 12; shift < 64; shift++) {
		value = UINT64_C(1) << shift;
		cr_assert_eq(histogram_bucket(value), histogram_bucket(value - 1) + 1);
		cr_assert_eq(upper_edge(histogram_bucket(value - 1)), value - 1);
	}
	cr_assert_eq(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
	cr_assert_eq(upper_edge(HISTOGRAM_BUCKETS - 1), UINT64_MAX);
}

Test(histogram, empty)
{
	cr_assert_eq(histogram_quantile(&h, 0.5), 0);
	cr_assert_eq(histogram_mean(&h), 0);
}

Test(histogram, quantiles)
{
	static const double parts[] = { 0.001, 0.5, 0.9, 0.99, 0.999, 1 };
	uint64_t value;
	unsigned i;

	for (value = 1; value <= 100000; value++)
		histogram_add(value % 2 ? &h : &other, value * 1000);
	histogram_merge(&h, &other);
	cr_assert_eq(h.count, 100000);
	cr_assert_eq(h.min, 1000);
	cr_assert_eq(h.max, 100000000);
	cr_assert_eq(histogram_mean(&h), 50000500);
	for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		double exact = parts[i] * 1e8, found = (double)histogram_quantile(&h, parts[i]);

		cr_assert(found >= exact && found <= exact * (1 + 1.0 / 64), "%g: %g", parts[i], found);
	}
	cr_assert_eq(histogram_quantile(&h, 1), h.max);
}

Test(histogram, one_value)
{
	histogram_add(&h, 12345);
	cr_assert_eq(histogram_quantile(&h, 0.5), 12345);
	cr_assert_eq(histogram_quantile(&h, 0.999), 12345);
	cr_assert_eq(h.min, 12345);
}
