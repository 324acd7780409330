/* Names between UTF-8 and UTF-16, both ways; what is neither is refused. */
#include "libimg/base/utf16.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void both_ways(const char *utf8, const void *utf16, size_t bytes)
{
	uint8_t *there;
	char *back;
	size_t n;

	cr_assert_eq(img_utf8_to_utf16(utf8, &there, &n), 0);
	cr_assert_eq(n, bytes);
	cr_assert(!memcmp(there, utf16, bytes));
	cr_assert_eq(img_utf16_to_utf8(utf16, bytes, &back), 0);
	cr_assert_str_eq(back, utf8);
	free(there);
	free(back);
}

Test(utf16, both_ways)
{
	both_ways("", "", 0);
	both_ways("a.b", "a\0.\0b", 6);
	both_ways("\xc3\xbc\xe4\xb8\xad", "\xfc\0\x2d\x4e", 4);
	both_ways("\xf0\x9f\x92\xbe", "\x3d\xd8\xbe\xdc", 4);
	both_ways("\xf4\x8f\xbf\xbf", "\xff\xdb\xff\xdf", 4);
}

Test(utf16, not_utf16)
{
	char *out;

	cr_assert_eq(img_utf16_to_utf8((const uint8_t *)"a\0b", 3, &out), -EILSEQ);
	cr_assert_eq(img_utf16_to_utf8((const uint8_t *)"\x3d\xd8", 2, &out), -EILSEQ);
	cr_assert_eq(img_utf16_to_utf8((const uint8_t *)"\x3d\xd8"
							"a",
				       4, &out),
		     -EILSEQ);
	cr_assert_eq(img_utf16_to_utf8((const uint8_t *)"\xbe\xdc", 2, &out), -EILSEQ);
	cr_assert_eq(img_utf16_to_utf8((const uint8_t *)"a\0\0\0", 4, &out), -EILSEQ);
}

Test(utf16, not_utf8)
{
	static const char *const wrong[] = { "\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80",
					     "\xf4\x90\x80\x80", "\xff", "a\xe4\xb8" };
	uint8_t *out;
	size_t n;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		cr_assert_eq(img_utf8_to_utf16(wrong[i], &out, &n), -EILSEQ, "%zu", i);
}
