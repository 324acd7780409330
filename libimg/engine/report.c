/* What drivers put into reports. */
#include <inttypes.h>
#include <limits.h>

#include "libimg/base/arith.h"
#include "libimg/engine/driver.h"

enum {
	BEST_MEM_ALIGN = 4096, /* whole pages */
};

void img_report_limits(struct img_value *info, const struct img_storage *s, uint32_t io_align,
		       uint64_t zero_align, uint64_t discard_align)
{
	struct img_value *limits = img_value_add_object(info, "limits");

	if (zero_align)
		img_value_add_uint(limits, "write-zeroes-alignment", zero_align);
	img_value_add_uint(limits, "request-alignment", io_align);
	img_value_add_uint(limits, "min-mem-alignment", s->limits.mem_align);
	if (discard_align)
		img_value_add_uint(limits, "discard-alignment", discard_align);
	if (s->limits.max_zero)
		img_value_add_uint(limits, "max-write-zeroes", s->limits.max_zero);
	if (s->limits.max_zero)
		img_value_add_uint(limits, "max-discard", s->limits.max_zero);
	if (s->limits.optimal_bytes)
		img_value_add_uint(limits, "opt-transfer", s->limits.optimal_bytes);
	if (s->limits.max_bytes)
		img_value_add_uint(limits, "max-transfer", s->limits.max_bytes);
	img_value_add_uint(limits, "opt-mem-alignment", max_u64(s->limits.mem_align, BEST_MEM_ALIGN));
	img_value_add_uint(limits, "max-iov", IOV_MAX);
}

void img_report_file(struct img_value *children, const char *name, const char *path, uint64_t size,
		     struct img_storage *s)
{
	struct img_value *child = img_value_add_object(children, NULL), *info, *specific;

	img_value_add_string(child, "name", name);
	info = img_value_add_object(child, "info");
	if (s)
		img_report_limits(info, s, s->limits.io_align, 0, 0);
	img_value_add_array(info, "children");
	if (s || size)
		img_value_add_uint(info, "virtual-size", round_up_u64(s ? s->size : size, 512));
	img_value_add_string(info, "filename", path);
	img_value_add_string(info, "format", s && s->protocol ? s->protocol : s && s->device ? "host_device"
											     : "file");
	if (s && img_storage_allocated_known(s))
		img_value_add_uint(info, "actual-size", img_storage_allocated(s));
	if (s && s->protocol)
		return;
	specific = img_value_add_object(info, "format-specific");
	img_value_add_string(specific, "type", "file"); /* for devices too */
	img_value_add_object(specific, "data");
	img_value_add_bool(info, "dirty-flag", false);
}
