/*
 * A small ordered tree of named values: what an image, a check or a driver reports, ready to be
 * printed as JSON or read by name. Not thread-safe. Functions that build abort nothing: out of
 * memory marks the root as incomplete (img_value_ok() is then false).
 */
#ifndef LIBIMG_BASE_VALUE_H
#define LIBIMG_BASE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum img_value_kind {
	IMG_VALUE_OBJECT, /* named members, in the order they were added */
	IMG_VALUE_ARRAY,
	IMG_VALUE_STRING,
	IMG_VALUE_INT,
	IMG_VALUE_UINT,
	IMG_VALUE_BOOL,
};

struct img_value;

/*
 * Public (declared in image/img.h too). The tree owns its members; strings are borrowed from it.
 * A value that is NULL or of another kind reads as NULL, 0 or false.
 */
void img_value_free(struct img_value *v); /* the root only; NULL is fine */
enum img_value_kind img_value_kind(const struct img_value *v);
size_t img_value_count(const struct img_value *v); /* members of an object or array */
const struct img_value *img_value_at(const struct img_value *v, size_t i);
const char *img_value_key_at(const struct img_value *v, size_t i);		   /* object: the name */
const struct img_value *img_value_get(const struct img_value *v, const char *key); /* or NULL */
const char *img_value_string(const struct img_value *v);
uint64_t img_value_uint(const struct img_value *v);
int64_t img_value_int(const struct img_value *v);
bool img_value_bool(const struct img_value *v);

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
