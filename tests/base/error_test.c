/*
 * Error objects: escaping, prefixes, moving.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "libimg/base/error.h"

static void expect_text(const char *given, const char *wanted)
{
	struct img_error err = { 0 };

	cr_assert_eq(img_fail(&err, -EINVAL, "%s", given), -EINVAL);
	cr_assert_str_eq(img_error_text(&err), wanted);
	img_error_clear(&err);
}

Test(error, none)
{
	struct img_error err = { 0 };

	cr_assert_str_eq(img_error_text(NULL), "no error");
	cr_assert_str_eq(img_error_text(&err), "no error");
	cr_assert_eq(img_error_code(NULL), 0);
	cr_assert_eq(img_fail(NULL, -EIO, "%d", 1), -EIO);
	cr_assert_eq(img_error_prefix(NULL, -EIO, "%d", 1), -EIO);
	img_error_clear(NULL);
	img_error_free(NULL);
}

Test(error, a_number_out_of_range)
{
	static const struct {
		uint64_t found, low, high;
		const char *text;
	} t[] = {
		{ 13, 1, 12, "a\\x1b: level is 13, expected 1 to 12" },
		{ UINT64_MAX, 0, 7, "a\\x1b: level is 18446744073709551615, expected at most 7" },
		{ 2, 1, 1, "a\\x1b: level is 2, expected 1" },
		{ 2, 0, 0, "a\\x1b: level is 2, expected 0" },
	};
	struct img_error err = { 0 };

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		cr_assert_eq(img_fail_range(&err, -EINVAL, t[i].found, t[i].low, t[i].high,
					    "%s: level", "a\033"),
			     -EINVAL);
		cr_assert_str_eq(img_error_text(&err), t[i].text);
		cr_assert_eq(img_error_code(&err), -EINVAL);
	}
	cr_assert_eq(img_fail_range(NULL, -EIO, 1, 0, 0, "%d", 1), -EIO);
	img_error_clear(&err);
}

Test(error, printable_stays)
{
	expect_text("plain text, 100%", "plain text, 100%");
	expect_text("Größe 日本 \xf0\x9f\x92\xbe", "Größe 日本 \xf0\x9f\x92\xbe");
}

Test(error, what_acts_on_a_terminal_is_escaped)
{
	expect_text("a\033[2Jb", "a\\x1b[2Jb");
	expect_text("a\nb\tc\x7f", "a\\x0ab\\x09c\\x7f");
	expect_text("a\xc2\x9b"
		    "b",
		    "a\\xc2\\x9bb"); /* C1: CSI */
	expect_text("a\xe2\x80\xae"
		    "b",
		    "a\\xe2\\x80\\xaeb"); /* right to left override */
}

Test(error, not_utf8_is_escaped)
{
	expect_text("a\xff"
		    "b",
		    "a\\xffb");
	expect_text("a\xc0\x80", "a\\xc0\\x80"); /* overlong */
	expect_text("a\xe0\x80\xaf", "a\\xe0\\x80\\xaf");
	expect_text("a\xed\xa0\x80", "a\\xed\\xa0\\x80"); /* surrogate */
	expect_text("a\xf4\x90\x80\x80", "a\\xf4\\x90\\x80\\x80");
	expect_text("a\xe2\x82", "a\\xe2\\x82"); /* cut short */
	expect_text("a\xc3(", "a\\xc3(");
}

Test(error, replaced_quoting_itself)
{
	struct img_error err = { 0 };

	img_fail(&err, -EIO, "inner");
	cr_assert_eq(img_fail(&err, -EPERM, "outer (%s)", img_error_text(&err)), -EPERM);
	cr_assert_str_eq(img_error_text(&err), "outer (inner)");
	cr_assert_eq(img_error_code(&err), -EPERM);
	img_error_clear(&err);
}

Test(error, prefix)
{
	struct img_error err = { 0 };

	img_fail(&err, -EIO, "broken");
	cr_assert_eq(img_error_prefix(&err, -EIO, "file '%s'", "\033x"), -EIO);
	cr_assert_str_eq(img_error_text(&err), "file '\\x1bx': broken");
	/* who names the file twice says it once */
	cr_assert_eq(img_error_prefix(&err, -EIO, "file '%s'", "\033x"), -EIO);
	cr_assert_str_eq(img_error_text(&err), "file '\\x1bx': broken");
	cr_assert_eq(img_error_prefix(&err, -EIO, "file"), -EIO);
	cr_assert_str_eq(img_error_text(&err), "file: file '\\x1bx': broken");
	img_error_clear(&err);
	cr_assert_eq(img_error_prefix(&err, -ENOENT, "file"), -ENOENT);
	cr_assert_str_eq(img_error_text(&err), "file: No such file or directory");
	img_error_clear(&err);
}

Test(error, move)
{
	struct img_error *a = img_error_new(), *b = img_error_new();

	img_fail(a, -EIO, "first");
	img_fail(b, -EPERM, "second");
	img_error_move(a, b);
	cr_assert_str_eq(img_error_text(a), "second");
	cr_assert_eq(img_error_code(b), 0);
	img_error_move(a, a);
	cr_assert_str_eq(img_error_text(a), "second");
	img_error_move(NULL, a);
	cr_assert_eq(img_error_code(a), 0);
	img_error_free(a);
	img_error_free(b);
}
