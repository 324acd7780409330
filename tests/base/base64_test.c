/* The words of RFC 4648, section 10, and what is no base64. */
#include "libimg/base/base64.h"

#include <criterion/criterion.h>
#include <string.h>

static bool decodes(const char *text, const void *bytes, size_t n)
{
	uint8_t buf[64];
	size_t len = strlen(text);

	memcpy(buf, text, len);
	return img_base64_decode(buf, &len) && len == n && !memcmp(buf, bytes, n);
}

static bool is_refused(const char *text)
{
	uint8_t buf[64];
	size_t len = strlen(text);

	memcpy(buf, text, len);
	return !img_base64_decode(buf, &len);
}

Test(base64, decodes)
{
	cr_assert(decodes("", "", 0));
	cr_assert(decodes("Zg==", "f", 1));
	cr_assert(decodes("Zm8=", "fo", 2));
	cr_assert(decodes("Zm9v", "foo", 3));
	cr_assert(decodes("Zm9vYg==", "foob", 4));
	cr_assert(decodes("Zm9vYmE=", "fooba", 5));
	cr_assert(decodes("Zm9vYmFy", "foobar", 6));
	cr_assert(decodes("+/+/", "\xfb\xff\xbf", 3));
	cr_assert(decodes("AAECAwQFBgcICQ", "\0\1\2\3\4\5\6\7\10\11", 10), "not padded");
	cr_assert(decodes("\n Zm9v\r\n\tYm\nE = \n", "fooba", 5), "with white space");
}

Test(base64, refuses_what_is_none)
{
	cr_assert(is_refused("Z"));
	cr_assert(is_refused("Zm9vY"));
	cr_assert(is_refused("Zm9v="));
	cr_assert(is_refused("Zg="));
	cr_assert(is_refused("Zg==="));
	cr_assert(is_refused("Zg==Zg=="));
	cr_assert(is_refused("Zm9-"));
	cr_assert(is_refused("Zm_v"));
	cr_assert(is_refused("Zm.v"));
}
