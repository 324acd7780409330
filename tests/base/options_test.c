/*
 * Options as text: a table of keys, their types and choices.
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
	o = parsed("nolazy,name=no");
	cr_assert(img_options_has(o, "lazy"));
	cr_assert_not(img_options_bool(o, "lazy"));
	img_options_free(o);
	o = parsed("bits= 020,size=\t+1k"); /* blanks, signs and octal numbers, as everywhere */
	cr_assert_eq(img_options_number(o, "bits"), 16);
	cr_assert_eq(img_options_number(o, "size"), 1024);
	img_options_free(o);
	o = parsed("bits=0xffffffffffffffff,size=010");
	cr_assert_eq(img_options_number(o, "bits"), UINT64_MAX);
	cr_assert_eq(img_options_number(o, "size"), 10);
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
	expect_refused("nolazily", "Invalid parameter 'lazily'");
	expect_refused("name", "Parameter 'name' needs a value");
	expect_refused("lazy=maybe", "Parameter 'lazy' is 'maybe', expected on or off");
	expect_refused("bits=-1", "Parameter 'bits' is '-1', which is out of range (0 to 2^64 - 1)");
	expect_refused("mode=fal", "Parameter 'mode' is 'fal', expected one of: off,falloc,full");
	expect_refused("mode=off,,falloc", "Parameter 'mode' is 'off,falloc', expected one of: "
					   "off,falloc,full");
	expect_refused("mode=", "Parameter 'mode' is '', expected one of: off,falloc,full");
	expect_refused("size=1kb", "Parameter 'size' is '1kb', which is not a size (a number, then b, "
				   "k, M, G, T, P or E)");
	expect_refused("size=8E", "Parameter 'size' is '8E', which is out of range (0 to 2^63 - 1)");
}
