/* All storage modules. */
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/storage/module.h"

static const struct img_module *const modules[] = {
	&img_module_file,
	&img_module_host_device,
	&img_module_null_co,
	&img_module_null_aio,
	&img_module_nbd,
	&img_module_blkdebug,
};

const struct img_module *img_module_at(size_t i)
{
	return i < IMG_ARRAY_LEN(modules) ? modules[i] : NULL;
}

const struct img_module *img_module_named(const char *name)
{
	for (size_t i = 0; i < IMG_ARRAY_LEN(modules); i++)
		if (!strcmp(modules[i]->name, name))
			return modules[i];
	return NULL;
}

const struct img_module *img_module_of_name(const char *name, size_t len)
{
	for (size_t i = 0; i < IMG_ARRAY_LEN(modules); i++) {
		const char *const *scheme = modules[i]->schemes;

		for (; scheme && *scheme; scheme++)
			if (strlen(*scheme) == len && !strncmp(*scheme, name, len))
				return modules[i];
	}
	return NULL;
}
