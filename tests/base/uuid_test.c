/* UUIDs as text. */
#include <criterion/criterion.h>
#include <string.h>

#include "libimg/base/uuid.h"

#define TEXT "8e4226f2-c992-4b55-98c7-3e3425496d36"

Test(uuid, there_and_back)
{
	struct img_uuid a, b;
	char text[IMG_UUID_CHARS + 1];

	cr_assert(img_uuid_parse(TEXT, 36, &a));
	cr_assert_eq(a.bytes[0], 0x8e);
	cr_assert_eq(a.bytes[4], 0xc9);
	cr_assert_eq(a.bytes[15], 0x36);
	img_uuid_print(&a, text);
	cr_assert_str_eq(text, TEXT);
	cr_assert(img_uuid_parse("8E4226F2-C992-4B55-98C7-3E3425496D36 and more", 36, &b));
	cr_assert(img_uuid_same(&a, &b));
	b.bytes[15]++;
	cr_assert(!img_uuid_same(&a, &b));
}

Test(uuid, refused)
{
	static const char *const bad[] = {
		"",
		"8e4226f2-c992-4b55-98c7-3e3425496d3",
		"8e4226f2-c992-4b55-98c7-3e3425496d366",
		"8e4226f2+c992-4b55-98c7-3e3425496d36",
		"8e4226f2-c992-4b55-98c7-3e3425496d3g",
		"{e4226f2-c992-4b55-98c7-3e3425496d36",
		"8e4226f2c992-4b55-98c7-3e3425496d36-",
	};
	struct img_uuid out;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		cr_assert(!img_uuid_parse(bad[i], strlen(bad[i]), &out), "%s", bad[i]);
}
