/* GUIDs as text, in the byte order of Microsoft's structures. */
#include "libimg/base/guid.h"

#include <criterion/criterion.h>
#include <string.h>

static const uint8_t bat[IMG_GUID_BYTES] = { 0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42,
					     0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08 };
static const char text[] = "2dc27766-f623-4200-9d64-115e9bfd4a08";

Test(guid, print)
{
	char out[IMG_GUID_CHARS + 1];

	img_guid_print(bat, out);
	cr_assert_str_eq(out, text);
}

Test(guid, parse)
{
	static const char *const wrong[] = {
		"",
		"2dc27766-f623-4200-9d64-115e9bfd4a0",
		"2dc27766-f623-4200-9d64-115e9bfd4a0g",
		"2dc27766+f623-4200-9d64-115e9bfd4a08",
		"{2dc27766-f623-4200-9d64-115e9bfd4a08",
		"2dc27766f623-4200-9d64-115e9bfd4a08-",
	};
	uint8_t out[IMG_GUID_BYTES] = { 0 };

	cr_assert(img_guid_parse(text, strlen(text), out));
	cr_assert(img_guid_equal(out, bat));
	memset(out, 0, sizeof(out));
	cr_assert(img_guid_parse("{2DC27766-F623-4200-9D64-115E9BFD4A08}", 38, out));
	cr_assert(img_guid_equal(out, bat));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		cr_assert(!img_guid_parse(wrong[i], strlen(wrong[i]), out), "%s", wrong[i]);
	cr_assert(img_guid_equal(out, bat));
}

Test(guid, new_ones)
{
	static const uint64_t random[2], same[2] = { 1, 2 };
	uint8_t a[IMG_GUID_BYTES], b[IMG_GUID_BYTES];
	char out[IMG_GUID_CHARS + 1];

	cr_assert_eq(img_guid_new(random, "x", a, NULL), 0);
	cr_assert_eq(img_guid_new(random, "x", b, NULL), 0);
	cr_assert(!img_guid_equal(a, b) && !img_guid_is_zero(a));
	cr_assert_eq(img_guid_new(same, "x", a, NULL), 0);
	cr_assert_eq(img_guid_new(same, "x", b, NULL), 0);
	cr_assert(img_guid_equal(a, b));
	cr_assert_eq(img_guid_new(same, "y", b, NULL), 0);
	cr_assert(!img_guid_equal(a, b));
	img_guid_print(a, out);
	cr_assert_eq(out[14], '4');
	cr_assert(strchr("89ab", out[19]));
}
