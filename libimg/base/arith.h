/*
 * Arithmetic on numbers that came from a file: guilty until checked. The functions that can
 * overflow return false when they do and leave *out alone.
 */
#ifndef LIBIMG_BASE_ARITH_H
#define LIBIMG_BASE_ARITH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMG_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static inline bool add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
	uint64_t sum;

	if (__builtin_add_overflow(a, b, &sum))
		return false;
	*out = sum;
	return true;
}

static inline bool mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
	uint64_t product;

	if (__builtin_mul_overflow(a, b, &product))
		return false;
	*out = product;
	return true;
}

static inline bool is_pow2_u64(uint64_t v)
{
	return v && !(v & (v - 1));
}

/* align: a power of two. */
static inline uint64_t align_down_u64(uint64_t v, uint64_t align)
{
	return v & ~(align - 1);
}

static inline bool is_aligned_u64(uint64_t v, uint64_t align)
{
	return !(v & (align - 1));
}

static inline bool align_up_u64(uint64_t v, uint64_t align, uint64_t *out)
{
	uint64_t sum;

	if (__builtin_add_overflow(v, align - 1, &sum))
		return false;
	*out = sum & ~(align - 1);
	return true;
}

/* For values already known to be far from 2^64 (a checked size): no overflow is possible. */
static inline uint64_t round_up_u64(uint64_t v, uint64_t align)
{
	return (v + (align - 1)) & ~(align - 1);
}

/* The same for any step; down: the multiple of it at or below v. */
static inline uint64_t multiple_down_u64(uint64_t v, uint64_t step)
{
	return v - v % step;
}

static inline uint64_t multiple_up_u64(uint64_t v, uint64_t step)
{
	return multiple_down_u64(v + (step - 1), step);
}

static inline uint64_t div_round_up_u64(uint64_t v, uint64_t by)
{
	return v / by + (v % by != 0);
}

/* Is [off, off + len) inside [0, size)? Cannot overflow. */
static inline bool range_in(uint64_t off, uint64_t len, uint64_t size)
{
	return off <= size && len <= size - off;
}

/* Do [a, a + a_len) and [b, b + b_len) share a byte? Both ranges must not wrap. */
static inline bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return a < b + b_len && b < a + a_len;
}

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Let *v be at least least. Any thread. */
static inline void raise_u64(_Atomic uint64_t *v, uint64_t least)
{
	uint64_t now = atomic_load(v);

	while (now < least && !atomic_compare_exchange_weak(v, &now, least))
		;
}

static inline size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* log2 of a power of two. */
static inline unsigned log2_u64(uint64_t v)
{
	return (unsigned)__builtin_ctzll(v);
}

#endif
