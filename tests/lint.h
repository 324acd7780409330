/*
 * For clang-tidy only (`make lint`): its analyzer sees one file at a time, and so does not know
 * that these functions return the code that they are given, which is never 0.
 */
#include "libimg/base/error.h"

#define img_fail(err, code, ...) ((img_fail)(err, code, __VA_ARGS__), lint_not_zero(code))
#define img_error_prefix(err, code, ...) \
	((img_error_prefix)(err, code, __VA_ARGS__), lint_not_zero(code))
#define img_fail_range(err, code, ...) \
	((img_fail_range)(err, code, __VA_ARGS__), lint_not_zero(code))

static inline int lint_not_zero(int code)
{
	if (code == 0)
		__builtin_unreachable();
	return code;
}
