/*
 * A bitset in sparse pages: a page that is missing has no bit set.
 */
#include "libimg/base/sparse_bitset.h"

#include <errno.h>

#include "libimg/base/arith.h"

enum {
	PAGE_BYTES = 1024,
	WORD_BITS = 64,
	PAGE_BITS = PAGE_BYTES * 8,
};

void img_sparse_bitset_init(struct img_sparse_bitset *s, uint64_t size, uint64_t bytes_max)
{
	*s = (struct img_sparse_bitset){
		.size = size,
		.pages_max = bytes_max ? bytes_max / PAGE_BYTES : UINT64_MAX,
		.pages.page_bytes = PAGE_BYTES,
	};
}

/* The words of the page that number is in, made if it is missing. */
static int make_page(struct img_sparse_bitset *s, uint64_t number, uint64_t **words)
{
	*words = img_sparse_pages_get(&s->pages, number / PAGE_BITS);
	if (!*words && s->pages.count >= s->pages_max)
		return -E2BIG;
	if (!*words)
		*words = img_sparse_pages_make(&s->pages, number / PAGE_BITS);
	return *words ? 0 : -ENOMEM;
}

static int add(struct img_sparse_bitset *s, uint64_t first, uint64_t n,
	       struct img_sparse_bitset *again)
{
	int had = 0;

	for (uint64_t at = first, end = first + n; at < end;) {
		uint64_t stop = at + min_u64(end - at, PAGE_BITS - at % PAGE_BITS), *words;
		int rc = make_page(s, at, &words);

		if (rc)
			return rc;
		while (at < stop) {
			unsigned bit = (unsigned)(at % WORD_BITS);
			unsigned bits = (unsigned)min_u64(stop - at, WORD_BITS - bit);
			uint64_t mask = (bits == WORD_BITS ? UINT64_MAX : (UINT64_C(1) << bits) - 1)
					<< bit;
			uint64_t *word = &words[at % PAGE_BITS / WORD_BITS], old = *word & mask;

			*word |= mask;
			s->count += bits - (unsigned)__builtin_popcountll(old);
			had |= old != 0;
			for (; old && again; old &= old - 1) {
				rc = add(again, at - bit + (unsigned)__builtin_ctzll(old), 1, NULL);
				if (rc < 0)
					return rc;
			}
			at += bits;
		}
	}
	return had;
}

int img_sparse_bitset_add(struct img_sparse_bitset *s, uint64_t first, uint64_t n)
{
	return add(s, first, n, NULL);
}

int img_sparse_bitset_add_again(struct img_sparse_bitset *s, uint64_t first, uint64_t n,
				struct img_sparse_bitset *again)
{
	return add(s, first, n, again);
}

bool img_sparse_bitset_has(const struct img_sparse_bitset *s, uint64_t number)
{
	const uint64_t *words = img_sparse_pages_get(&s->pages, number / PAGE_BITS);

	return words && words[number % PAGE_BITS / WORD_BITS] >> number % WORD_BITS & 1;
}

bool img_sparse_bitset_run(const struct img_sparse_bitset *s, uint64_t number, uint64_t *run)
{
	bool first = img_sparse_bitset_has(s, number);
	uint64_t at = number;

	while (at < s->size) {
		const uint64_t *words = img_sparse_pages_get(&s->pages, at / PAGE_BITS);
		uint64_t word, next;

		if (!words) {
			if (first)
				break;
			next = img_sparse_pages_next(&s->pages, at / PAGE_BITS);
			at = next > s->size / PAGE_BITS ? s->size : next * PAGE_BITS;
			continue;
		}
		/* The bits from `at` on that end the run. */
		word = words[at % PAGE_BITS / WORD_BITS];
		word = (first ? ~word : word) >> at % WORD_BITS;
		if (word) {
			at += (unsigned)__builtin_ctzll(word);
			break;
		}
		at += min_u64(s->size - at, WORD_BITS - at % WORD_BITS);
	}
	*run = min_u64(at, s->size) - number;
	return first;
}

void img_sparse_bitset_free(struct img_sparse_bitset *s)
{
	img_sparse_pages_free(&s->pages);
	s->count = 0;
}
