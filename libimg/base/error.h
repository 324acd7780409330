/*
 * Errors: a negative errno for the program, a sentence for the person.
 *
 * A fallible function returns 0 or a negative errno and takes a struct img_error last; NULL means
 * that no sentence is wanted. Whoever knows most writes the sentence. The library never prints.
 */
#ifndef LIBIMG_BASE_ERROR_H
#define LIBIMG_BASE_ERROR_H

#include <stdarg.h>
#include <stdint.h>

#include "libimg/img.h"

/* Zero-initialised: no error. Owns text. Not thread-safe: one owner at a time. */
struct img_error {
	int code;   /* negative errno, 0: none */
	char *text; /* malloc'd, printable, without a final newline; NULL: none */
};

/*
 * Record a sentence and return code (a negative errno), so that a caller can write
 * `return img_fail(err, -EUCLEAN, ...)`. Replaces what err held. Bytes that are not printable
 * (terminal escapes in a name from an image) are written as \xNN. Out of memory: only the code is
 * kept.
 */
int img_fail(struct img_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * The same for a number outside of its range, low to high: "fmt is found, expected low to high", "at
 * most high" if low is 0, or one number if both are the same.
 */
int img_fail_range(struct img_error *err, int code, uint64_t found, uint64_t low, uint64_t high,
		   const char *fmt, ...) __attribute__((format(printf, 6, 7)));

/*
 * Put "fmt: " before the sentence that err holds, unless it begins so already (with the image's
 * name, say); keeps and returns code.
 */
int img_error_prefix(struct img_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Forget the error; frees the text. */
void img_error_clear(struct img_error *err);

/* Move src's sentence to dst (which may be NULL: dropped); src is cleared. */
void img_error_move(struct img_error *dst, struct img_error *src);

#endif
