/*
 * Text that people write: sizes, numbers, lists. What is taken and what not was asked of qemu-img.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "libimg/base/parse.h"

static void expect_size(const char *text, int rc, uint64_t bytes)
{
	uint64_t got = 77;

	cr_assert_eq(img_parse_size(text, &got), rc, "%s: %d", text, img_parse_size(text, &got));
	cr_assert_eq(got, rc ? 77 : bytes, "%s is %lu", text, got);
}

Test(parse, sizes)
{
	static const char *const malformed[] = {
		"0x10k", "1.5", "1.5b", "1kb", "1 k", "", "k", "-1k", "-", "+-1",
		"++1", "1 ", "1z", "0x", "0x1.8k", "1..5k", ".k", ".", "1e3"
	};

	expect_size("0", 0, 0);
	expect_size("1", 0, 1);
	expect_size("512b", 0, 512);
	expect_size("512B", 0, 512);
	expect_size("1k", 0, 1024);
	expect_size("1K", 0, 1024);
	expect_size("3M", 0, 3 << 20);
	expect_size("2g", 0, UINT64_C(2) << 30);
	expect_size("1T", 0, UINT64_C(1) << 40);
	expect_size("1p", 0, UINT64_C(1) << 50);
	expect_size("7E", 0, UINT64_C(7) << 60);
	expect_size("1.5k", 0, 1536);
	expect_size("1.5G", 0, UINT64_C(3) << 29);
	expect_size("1.0", 0, 1);
	expect_size("0.1k", 0, 102);
	expect_size(".5k", 0, 512);
	expect_size("1.k", 0, 1024);
	expect_size("1.99999999999999999999999E", 0, (UINT64_C(2) << 60) - 1);
	expect_size("0x10", 0, 16);
	expect_size("0x1b", 0, 27);
	expect_size("0X1E", 0, 30);
	expect_size("010", 0, 10);
	expect_size("0.7k", 0, 717);
	expect_size("0.0009765625k", 0, 1);
	expect_size("9223372036854775807", 0, INT64_MAX);
	expect_size("9223372036854775808", 0, UINT64_C(1) << 63);
	expect_size("18446744073709551615", 0, UINT64_MAX);
	expect_size("18446744073709551616", -ERANGE, 0);
	expect_size("99999999999999999999999", -ERANGE, 0);
	expect_size("15.5E", 0, UINT64_C(31) << 59);
	expect_size("16E", -ERANGE, 0);
	expect_size("16777216T", -ERANGE, 0);
	expect_size(" 1", 0, 1);
	expect_size("\t\n 1k", 0, 1024);
	expect_size("-1", -ERANGE, 0);
	expect_size(" -1", -ERANGE, 0);
	expect_size("+1", 0, 1);
	expect_size("+0x10", 0, 16);
	for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++)
		expect_size(malformed[i], -EINVAL, 0);
}

Test(parse, numbers)
{
	uint64_t n = 7;

	cr_assert_eq(img_parse_number("18446744073709551615", &n), 0);
	cr_assert_eq(n, UINT64_MAX);
	cr_assert_eq(img_parse_number("18446744073709551616", &n), -ERANGE);
	cr_assert_eq(img_parse_number("0xffffffffffffffff", &n), 0);
	cr_assert_eq(img_parse_number("0x10000000000000000", &n), -ERANGE);
	cr_assert_eq(img_parse_number("18446744073709551616x", &n), -EINVAL);
	cr_assert_eq(img_parse_number("1k", &n), -EINVAL);
	cr_assert_eq(img_parse_number("", &n), -EINVAL);
	cr_assert_eq(img_parse_number("08", &n), -EINVAL);
	cr_assert_eq(img_parse_number("0x", &n), -EINVAL);
	cr_assert_eq(img_parse_number("16 ", &n), -EINVAL);
	cr_assert_eq(img_parse_number("- 1", &n), -EINVAL);
	cr_assert_eq(img_parse_number("-1", &n), -ERANGE);
	cr_assert_eq(img_parse_number("-18446744073709551600", &n), -ERANGE);
	cr_assert_eq(n, UINT64_MAX);
	cr_assert_eq(img_parse_number(" 020", &n), 0);
	cr_assert_eq(n, 16);
	cr_assert_eq(img_parse_number("+0x20", &n), 0);
	cr_assert_eq(n, 32);
	cr_assert_eq(img_parse_number("-0", &n), 0);
	cr_assert_eq(n, 0);
}

/* ---- Lists ---- */

struct seen {
	char text[256];
	int stop_at, calls;
};

static int note(void *user, const char *key, const char *value, struct img_error *err)
{
	struct seen *seen = user;
	size_t len = strlen(seen->text);

	(void)err;
	snprintf(seen->text + len, sizeof(seen->text) - len, "[%s]%s%s ", key, value ? "=" : "",
		 value ? value : "");
	return ++seen->calls == seen->stop_at ? -ECANCELED : 0;
}

static void expect_list(const char *text, const char *parts)
{
	struct seen seen = { 0 };

	cr_assert_eq(img_parse_keyval(text, note, &seen, NULL), 0, "%s", text);
	cr_assert_str_eq(seen.text, parts, "%s: %s", text, seen.text);
}

Test(parse, lists)
{
	expect_list("", "");
	expect_list("a", "[a] ");
	expect_list("a=1,b=2", "[a]=1 [b]=2 ");
	expect_list("a=", "[a]= ");
	expect_list("a=,b", "[a]= [b] ");
	expect_list("a=1,", "[a]=1 ");
	expect_list("a==1=2", "[a]==1=2 ");
	expect_list("=1", "[]=1 ");
	expect_list(",", "[] ");
	expect_list("a,,b", "[a] [] [b] "); /* keys hold no commas */
	expect_list("a=1,,b=2", "[a]=1,b=2 ");
	expect_list("a=1,,,b=2", "[a]=1, [b]=2 ");
	expect_list("a=,,", "[a]=, ");
	expect_list("a=,,,,,,,b", "[a]=,,, [b] ");
	expect_list("nolazy,no,none=no", "[lazy]=off []=off [none]=no ");
	expect_list("filename=a:b=c,d", "[filename]=a:b=c [d] ");
}

Test(parse, lists_end_early)
{
	struct seen seen = { .stop_at = 2 };

	cr_assert_eq(img_parse_keyval("a,b,c", note, &seen, NULL), -ECANCELED);
	cr_assert_str_eq(seen.text, "[a] [b] ");
}
