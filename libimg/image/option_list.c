/* Options as values. */
#include "libimg/image/option_list.h"

struct img_value *img_option_list(const struct img_option *table,
				  void (*mark)(void *user, const struct img_option *row,
					       struct img_value *item),
				  void *user)
{
	static const char *const types[] = {
		[IMG_OPTION_STRING] = "string",
		[IMG_OPTION_PATH] = "string",
		[IMG_OPTION_SECRET] = "string",
		[IMG_OPTION_BOOL] = "bool",
		[IMG_OPTION_NUMBER] = "number",
		[IMG_OPTION_SIZE] = "size",
	};
	struct img_value *list = img_value_new(IMG_VALUE_ARRAY);

	for (const struct img_option *row = table; list && row->name; row++) {
		struct img_value *item = img_value_add_object(list, NULL);

		img_value_add_string(item, "name", row->name);
		img_value_add_string(item, "type", types[row->type]);
		img_value_add_string(item, "help", row->help ? row->help : "");
		if (mark)
			mark(user, row, item);
		if (row->fallback)
			img_value_add_string(item, "default", row->fallback);
		if (row->choices)
			img_value_add_string(item, "choices", row->choices);
	}
	if (list && !img_value_ok(list)) {
		img_value_free(list);
		return NULL;
	}
	return list;
}
