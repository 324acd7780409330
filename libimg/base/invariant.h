/*
 * What must hold of our own state, whatever a file says or the kernel answers. Compiled in with
 * -DIMG_DEBUG, as the test suites are; the release library has none of it.
 */
#ifndef LIBIMG_BASE_INVARIANT_H
#define LIBIMG_BASE_INVARIANT_H

#ifdef IMG_DEBUG
#undef NDEBUG
#include <assert.h>
#define IMG_INVARIANT(x) assert(x)
#define IMG_FOR_INVARIANT(statement) (statement) /* counts what an invariant is about */
#else
#define IMG_INVARIANT(x) ((void)sizeof((x) ? 1 : 0))
#define IMG_FOR_INVARIANT(statement) ((void)sizeof(statement))
#endif

#endif
