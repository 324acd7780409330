/* CRC-32C: the values that its specification gives, whole and in pieces. */
#include "libimg/base/crc32c.h"

#include <criterion/criterion.h>
#include <string.h>

/* The values that RFC 3720, appendix B.4, gives. */
Test(crc32c, known_values)
{
	uint8_t bytes[32];

	memset(bytes, 0, sizeof(bytes));
	cr_assert_eq(img_crc32c(0, bytes, sizeof(bytes)), 0x8a9136aau);
	memset(bytes, 0xff, sizeof(bytes));
	cr_assert_eq(img_crc32c(0, bytes, sizeof(bytes)), 0x62a8ab43u);
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)i;
	cr_assert_eq(img_crc32c(0, bytes, sizeof(bytes)), 0x46dd794eu);
	cr_assert_eq(img_crc32c(0, "123456789", 9), 0xe3069283u);
	cr_assert_eq(img_crc32c(0, "", 0), 0u);
}

Test(crc32c, in_pieces)
{
	uint8_t bytes[100];
	uint32_t whole;

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * 37);
	whole = img_crc32c(0, bytes, sizeof(bytes));
	for (size_t cut = 0; cut <= sizeof(bytes); cut++)
		cr_assert_eq(img_crc32c(img_crc32c(0, bytes, cut), bytes + cut,
					sizeof(bytes) - cut),
			     whole);
}
