/*
 * Identifiers: random, or always the same for the same identity and label.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "libimg/base/identity.h"

static void get(uint64_t a, uint64_t b, const char *label, uint8_t out[32])
{
	const uint64_t identity[2] = { a, b };

	memset(out, 0, 32);
	cr_assert_eq(img_identity_bytes(identity, label, out, 32, NULL), 0);
}

Test(identity, derived)
{
	uint8_t one[32], other[32];
	/* The first bytes of SHA-256 over both numbers, little-endian, and the label. */
	static const uint8_t begins[] = { 0xdd, 0x9e, 0xc2, 0xb0, 0x88, 0x18, 0x70, 0xce };

	get(1, 2, "a", one);
	cr_assert_arr_eq(one, begins, sizeof(begins));
	get(1, 2, "a", other);
	cr_assert_arr_eq(one, other, 32);
	get(1, 2, "b", other);
	cr_assert_arr_neq(one, other, 32);
	get(2, 1, "a", other);
	cr_assert_arr_neq(one, other, 32);
	get(0, 1, "a", one);
	get(0, 1, "a", other);
	cr_assert_arr_eq(one, other, 32);
}

Test(identity, random)
{
	uint8_t one[32], other[32];

	get(0, 0, "a", one);
	get(0, 0, "a", other);
	cr_assert_arr_neq(one, other, 32);
}
