/*
 * Trees of named values.
 */
#include <criterion/criterion.h>

#include "libimg/base/value.h"
#include "libimg/img.h" /* declares the same: they must agree */

Test(value, builds_in_order)
{
	struct img_value *root = img_value_new(IMG_VALUE_OBJECT), *list, *child;

	img_value_add_string(root, "name", "disk");
	img_value_add_uint(root, "size", UINT64_MAX);
	img_value_add_int(root, "delta", -5);
	img_value_add_bool(root, "dirty", true);
	list = img_value_add_array(root, "list");
	for (uint64_t i = 0; i < 100; i++)
		img_value_add_uint(list, NULL, i);
	child = img_value_add_object(list, NULL);
	img_value_add_string(child, "x", "y");

	cr_assert(img_value_ok(root));
	cr_assert_eq(img_value_count(root), 5);
	cr_assert_str_eq(img_value_key_at(root, 0), "name");
	cr_assert_str_eq(img_value_key_at(root, 4), "list");
	cr_assert_null(img_value_key_at(root, 5));
	cr_assert_str_eq(img_value_string(img_value_get(root, "name")), "disk");
	cr_assert_eq(img_value_uint(img_value_get(root, "size")), UINT64_MAX);
	cr_assert_eq(img_value_int(img_value_get(root, "size")), INT64_MAX);
	cr_assert_eq(img_value_int(img_value_get(root, "delta")), -5);
	cr_assert_eq(img_value_uint(img_value_get(root, "delta")), 0);
	cr_assert(img_value_bool(img_value_get(root, "dirty")));
	cr_assert_eq(img_value_count(list), 101);
	cr_assert_eq(img_value_uint(img_value_at(list, 99)), 99);
	cr_assert_str_eq(img_value_string(img_value_get(img_value_at(list, 100), "x")), "y");
	img_value_free(root);
}

Test(value, absent_and_of_another_kind)
{
	struct img_value *root = img_value_new(IMG_VALUE_OBJECT);

	img_value_add_uint(root, "n", 1);
	cr_assert_null(img_value_get(root, "m"));
	cr_assert_null(img_value_string(img_value_get(root, "n")));
	cr_assert_null(img_value_string(NULL));
	cr_assert_eq(img_value_uint(NULL), 0);
	cr_assert_eq(img_value_int(NULL), 0);
	cr_assert_not(img_value_bool(NULL));
	cr_assert_eq(img_value_count(img_value_get(root, "n")), 0);
	cr_assert_null(img_value_at(root, 1));
	img_value_free(root);
	img_value_free(NULL);
}

Test(value, same_key_replaces_in_place)
{
	struct img_value *root = img_value_new(IMG_VALUE_OBJECT);

	img_value_add_uint(root, "a", 1);
	img_value_add_uint(root, "b", 2);
	img_value_add_string(root, "a", "one");
	cr_assert_eq(img_value_count(root), 2);
	cr_assert_str_eq(img_value_string(img_value_at(root, 0)), "one");
	img_value_free(root);
}

Test(value, adopts)
{
	struct img_value *root = img_value_new(IMG_VALUE_OBJECT);
	struct img_value *child = img_value_new(IMG_VALUE_ARRAY);

	img_value_add_bool(child, NULL, false);
	img_value_adopt(root, "child", child);
	cr_assert_eq(img_value_count(img_value_get(root, "child")), 1);
	cr_assert(img_value_ok(root));
	/* what memory was missing for shows in the root */
	img_value_adopt(root, "lost", NULL);
	cr_assert_not(img_value_ok(root));
	img_value_add_uint(NULL, "x", 1);
	cr_assert_not(img_value_ok(NULL));
	img_value_free(root);
}
