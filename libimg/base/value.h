/*
 * A small ordered tree of named values: what an image, a check or a driver reports, ready to be
 * printed as JSON or read by name (img.h). Not thread-safe. Functions that build abort nothing: out of
 * memory marks the root as incomplete (img_value_ok() is then false).
 */
#ifndef LIBIMG_BASE_VALUE_H
#define LIBIMG_BASE_VALUE_H

#include "libimg/img.h"

/* Building. The new member belongs to parent; img_value_add_* of an existing key replaces it. */
struct img_value *img_value_new(enum img_value_kind kind); /* a root: OBJECT or ARRAY */
struct img_value *img_value_add_object(struct img_value *parent, const char *key);
struct img_value *img_value_add_array(struct img_value *parent, const char *key);
void img_value_add_string(struct img_value *parent, const char *key, const char *text);
void img_value_add_int(struct img_value *parent, const char *key, int64_t n);
void img_value_add_uint(struct img_value *parent, const char *key, uint64_t n);
void img_value_add_bool(struct img_value *parent, const char *key, bool b);
/* Put a finished root under parent (array: key NULL); parent owns it then. */
void img_value_adopt(struct img_value *parent, const char *key, struct img_value *child);
bool img_value_ok(const struct img_value *root); /* false: memory ran out while building */

#endif
