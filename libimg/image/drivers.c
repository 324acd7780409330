/* Drivers by name. The table of all is formats/registry.c. */
#include <stdbool.h>
#include <string.h>

#include "libimg/image/context.h"
#include "libimg/storage/module.h"

const struct img_driver *img_driver_named(const char *name)
{
	/* What holds the bytes is a format too, to programs: then they are the disk as they are. */
	bool bare = img_module_named(name);

	for (size_t i = 0; img_drivers[i]; i++) {
		const struct img_driver *d = img_drivers[i];

		if (!strcmp(d->name, name) || (d->alias && !strcmp(d->alias, name)) ||
		    (bare && d->features & IMG_DRIVER_PLAIN))
			return d;
	}
	return NULL;
}
