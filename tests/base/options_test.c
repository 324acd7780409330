/*
 * Options as text: parsing, types, sizes.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "libimg/base/error.h"
#include "libimg/base/options.h"

static const struct img_option table[] = {
	{ .name = "name", .type = IMG_OPTION_STRING },
	{ .name = "lazy", .type = IMG_OPTION_BOOL, .fallback = "off" },
	{ .name = "bits", .type = IMG_OPTION_NUMBER, .fallback = "16" },
	{ .name = "size", .type = IMG_OPTION_SIZE },
	{ .name = "mode", .type = IMG_OPTION_STRING, .choices = "off,falloc,full", .fallback = "off" },
	{ 0 },
};

static struct img_options *parsed(const char *text)
{
	struct img_options *o = img_options_new(table);
	struct img_error err = { 0 };

	cr_assert_eq(img_options_parse(o, text, &err), 0, "%s", img_error_text(&err));
	return o;
}

static void expect_refused(const char *text, const char *sentence)
{
	struct img_options *o = img_options_new(table);
	struct img_error err = { 0 };

	cr_assert_eq(img_options_parse(o, text, &err), -EINVAL, "%s", text);
	cr_assert_str_eq(img_error_text(&err), sentence);
	img_error_clear(&err);
	img_options_free(o);
}

Test(options, defaults)
{
	struct img_options *o = parsed("");

	cr_assert_null(img_options_string(o, "name"));
	cr_assert_not(img_options_bool(o, "lazy"));
	cr_assert_eq(img_options_number(o, "bits"), 16);
	cr_assert_eq(img_options_number(o, "size"), 0);
	cr_assert_str_eq(img_options_string(o, "mode"), "off");
	cr_assert_not(img_options_has(o, "bits"));
	img_options_free(o);
	img_options_free(NULL);
}

Test(options, given)
{
	struct img_options *o = parsed("name=a=b,lazy,bits=0x20,size=1.5k,mode=full");

	cr_assert_str_eq(img_options_string(o, "name"), "a=b");
	cr_assert(img_options_bool(o, "lazy"));
	cr_assert_eq(img_options_number(o, "bits"), 32);
	cr_assert_eq(img_options_number(o, "size"), 1536);
	cr_assert_str_eq(img_options_string(o, "mode"), "full");
	cr_assert(img_options_has(o, "mode"));
	img_options_free(o);
}

Test(options, later_values_replace)
{
	struct img_options *o = parsed("bits=1,bits=2,lazy=on,lazy=off");

	cr_assert_eq(img_options_number(o, "bits"), 2);
	cr_assert_not(img_options_bool(o, "lazy"));
	cr_assert(img_options_has(o, "lazy"));
	img_options_free(o);
}

Test(options, doubled_commas)
{
	struct img_options *o = parsed("name=a,,b,,,lazy");

	cr_assert_str_eq(img_options_string(o, "name"), "a,b,");
	cr_assert(img_options_bool(o, "lazy"));
	img_options_free(o);
	o = parsed("name=,,,,,bits=3");
	cr_assert_str_eq(img_options_string(o, "name"), ",,");
	cr_assert_eq(img_options_number(o, "bits"), 3);
	img_options_free(o);
	o = parsed("name=,bits=3");
	cr_assert_str_eq(img_options_string(o, "name"), "");
	cr_assert_eq(img_options_number(o, "bits"), 3);
	img_options_free(o);
}

Test(options, refused)
{
	expect_refused("foo=1", "Invalid parameter 'foo'");
	expect_refused("bits=1,foo", "Invalid parameter 'foo'");
	expect_refused(",", "Invalid parameter ''");
	expect_refused("name", "Parameter 'name' needs a value");
	expect_refused("lazy=maybe", "Parameter 'lazy' is 'maybe', expected on or off");
	expect_refused("bits=-1", "Parameter 'bits' is '-1', which is not a number");
	expect_refused("mode=fal", "Parameter 'mode' is 'fal', expected one of: off,falloc,full");
	expect_refused("mode=off,,falloc", "Parameter 'mode' is 'off,falloc', expected one of: "
					   "off,falloc,full");
	expect_refused("mode=", "Parameter 'mode' is '', expected one of: off,falloc,full");
	expect_refused("size=1kb", "Parameter 'size' is '1kb', which is not a size (a number, then b, "
				   "k, M, G, T, P or E)");
	expect_refused("size=8E", "Parameter 'size' is '8E', which is larger than any file");
}

static void expect_size(const char *text, int rc, uint64_t bytes)
{
	uint64_t got = 77;

	cr_assert_eq(img_parse_size(text, &got), rc, "%s: %d", text, img_parse_size(text, &got));
	cr_assert_eq(got, rc ? 77 : bytes, "%s is %lu", text, got);
}

Test(options, sizes)
{
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
	expect_size("1.99999999999999999999999E", 0, (UINT64_C(2) << 60) - 2);
	expect_size("0x10", 0, 16);
	expect_size("0x10k", 0, 16384);
	expect_size("0x1b", 0, 27);
	expect_size("9223372036854775807", 0, INT64_MAX);
	expect_size("9223372036854775808", -ERANGE, 0);
	expect_size("99999999999999999999999", -ERANGE, 0);
	expect_size("8E", -ERANGE, 0);
	expect_size("16777216T", -ERANGE, 0);
	expect_size("1.5", -EINVAL, 0);
	expect_size("1.5b", -EINVAL, 0);
	expect_size("1kb", -EINVAL, 0);
	expect_size("1 k", -EINVAL, 0);
	expect_size(" 1", -EINVAL, 0);
	expect_size("", -EINVAL, 0);
	expect_size("k", -EINVAL, 0);
	expect_size("-1", -EINVAL, 0);
	expect_size("+1", -EINVAL, 0);
	expect_size("1z", -EINVAL, 0);
	expect_size("0x", -EINVAL, 0);
	expect_size("0x1.8k", -EINVAL, 0);
	expect_size("1..5k", -EINVAL, 0);
	expect_size(".k", -EINVAL, 0);
	expect_size(".", -EINVAL, 0);
	expect_size("1e3", -EINVAL, 0);
}

Test(options, numbers)
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
	cr_assert_eq(n, UINT64_MAX);
}
