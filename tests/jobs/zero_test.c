/* Searching for zeroes. */
#include <criterion/criterion.h>
#include <string.h>

#include "libimg/jobs/zero.h"

/* One byte that is not zero is seen at each place of each length, whatever the alignment. */
Test(zero, one_byte_is_seen_anywhere)
{
	static uint8_t bytes[1200];
	static const size_t len[] = { 1, 7, 8, 9, 63, 64, 255, 256, 257, 511, 512, 1000, 1024 };

	for (unsigned i = 0; i < sizeof(len) / sizeof(*len); i++)
		for (unsigned from = 0; from < 3; from++) {
			uint8_t *p = bytes + 16 + from;

			memset(bytes, 0xff, sizeof(bytes));
			memset(p, 0, len[i]);
			cr_assert(img_is_zero(p, len[i]));
			for (size_t at = 0; at < len[i]; at++) {
				p[at] = 1;
				cr_assert(!img_is_zero(p, len[i]), "%zu of %zu", at, len[i]);
				p[at] = 0;
			}
		}
}

Test(zero, runs_end_where_the_other_begins)
{
	static uint8_t bytes[8 * 512 + 100];
	size_t run;

	for (unsigned mask = 0; mask < 512; mask++) {
		size_t at = 0;

		memset(bytes, 0, sizeof(bytes));
		for (unsigned i = 0; i < 9; i++)
			if (mask >> i & 1)
				bytes[i * 512 + (i * 77 + mask) % 100] = 1;
		while (at < sizeof(bytes)) {
			bool zero = img_zero_run(bytes + at, sizeof(bytes) - at, 512, 512, &run);

			cr_assert(run >= 1 && run <= sizeof(bytes) - at);
			for (size_t k = at / 512; k * 512 < at + run; k++)
				cr_assert_eq(!(mask >> k & 1), zero);
			at += run;
			if (at < sizeof(bytes))
				cr_assert_eq(mask >> at / 512 & 1, zero, "as long as it goes");
		}
	}
}

Test(zero, the_first_piece_may_be_short)
{
	uint8_t bytes[2048] = { 0 };
	size_t run;

	bytes[100] = 1;
	cr_assert(!img_zero_run(bytes, sizeof(bytes), 512, 101, &run));
	cr_assert_eq(run, 101);
	cr_assert(img_zero_run(bytes + 101, sizeof(bytes) - 101, 512, 411, &run));
	cr_assert_eq(run, sizeof(bytes) - 101);
}
