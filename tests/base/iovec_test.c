/*
 * Lists of buffers, empty ones among them, against the plain bytes.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "libimg/base/iovec.h"

enum { BYTES = 60 };

static uint8_t bytes[BYTES];
static const size_t lengths[] = { 0, 7, 1, 0, 30, 0, 22, 0 };
enum { COUNT = sizeof(lengths) / sizeof(lengths[0]) };

static void fill(struct iovec *iov)
{
	size_t at = 0;

	for (int i = 0; i < BYTES; i++)
		bytes[i] = (uint8_t)(i + 1);
	for (int i = 0; i < COUNT; i++) {
		iov[i] = (struct iovec){ bytes + at, lengths[i] };
		at += lengths[i];
	}
}

Test(iovec, slices)
{
	struct iovec iov[COUNT], out[COUNT];

	fill(iov);
	for (size_t skip = 0; skip <= BYTES; skip++) {
		for (size_t len = 0; len <= BYTES - skip; len++) {
			uint8_t copy[BYTES];
			int n = img_iov_slice(iov, COUNT, skip, len, out);

			cr_assert(n <= COUNT);
			cr_assert_eq(img_iov_gather(out, n, copy), len);
			cr_assert_arr_eq(copy, bytes + skip, len);
			memcpy(out, iov, sizeof(out));
			n = (int)img_iov_cut(out, COUNT, len);
			cr_assert_eq(img_iov_gather(out, n, copy), len);
			cr_assert_arr_eq(copy, bytes, len);
		}
	}
}

Test(iovec, cursor_goes_on)
{
	struct iovec iov[COUNT];

	fill(iov);
	for (size_t step = 1; step <= BYTES; step++) {
		struct img_cursor c = { .iov = iov, .iovcnt = COUNT };
		uint8_t copy[BYTES];

		for (size_t at = 0; at < BYTES; at += step) {
			struct iovec window[COUNT];
			size_t n = step < BYTES - at ? step : BYTES - at;
			uint8_t rest[BYTES];

			cr_assert_eq(img_iov_gather(window, img_cursor_window(&c, window, COUNT),
						    rest),
				     BYTES - at);
			cr_assert_arr_eq(rest, bytes + at, BYTES - at);
			img_cursor_gather(&c, copy + at, n);
		}
		cr_assert_arr_eq(copy, bytes, BYTES);
	}
}

Test(iovec, lengths)
{
	struct iovec iov[COUNT];
	uint64_t len;
	uint8_t other[BYTES];

	fill(iov);
	cr_assert(img_iov_length(iov, COUNT, &len));
	cr_assert_eq(len, BYTES);
	cr_assert_not(img_iov_length(iov, -1, &len));
	memset(other, 9, sizeof(other));
	cr_assert_eq(img_iov_scatter(iov, COUNT, other), BYTES);
	cr_assert_arr_eq(bytes, other, BYTES);
	img_iov_zero(iov, COUNT);
	for (int i = 0; i < BYTES; i++)
		cr_assert_eq(bytes[i], 0);
	iov[1].iov_len = SIZE_MAX;
	cr_assert_not(img_iov_length(iov, COUNT, &len));
}
