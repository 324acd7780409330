/* What drivers put into reports. */
#include <inttypes.h>

#include "libimg/base/arith.h"
#include "libimg/engine/driver.h"

void img_report_file(struct img_value *children, const char *name, const char *path, uint64_t size,
		     struct img_storage *s)
{
	struct img_value *child = img_value_add_object(children, NULL), *info, *specific;

	img_value_add_string(child, "name", name);
	info = img_value_add_object(child, "info");
	img_value_add_array(info, "children");
	img_value_add_uint(info, "virtual-size", round_up_u64(s ? s->size : size, 512));
	img_value_add_string(info, "filename", path);
	img_value_add_string(info, "format", s && s->device ? "host_device" : "file");
	if (s)
		img_value_add_uint(info, "actual-size", img_storage_allocated(s));
	specific = img_value_add_object(info, "format-specific");
	img_value_add_string(specific, "type", "file"); /* for devices too */
	img_value_add_object(specific, "data");
	img_value_add_bool(info, "dirty-flag", false);
}
