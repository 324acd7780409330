/*
 * What an image says about itself: the keys of `qemu-img info --output=json`, in its order.
 */
#include <errno.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/engine/engine.h"
#include "libimg/image/context.h"
#include "libimg/image/limits.h"

/* The backing file: as stored, and what it came to, which is known better where it was sought. */
static int add_backing(struct img *img, struct img_value *top, struct img_error *err)
{
	const char *found = img->context->parent_path, *name = img->backing_name;
	char *full = NULL, uuid[IMG_GUID_CHARS + 1];
	bool stored = name && *name;

	if (!stored)
		name = found;
	if (name && !found) {
		full = img_resolve_name(img->context->path, name);
		if (!full)
			return img_fail(err, -ENOMEM, "out of memory");
	}
	if (name) {
		img_value_add_string(top, "full-backing-filename", found ? found : full);
		img_value_add_string(top, "backing-filename", name);
	}
	free(full);
	if (img->backing_uuid_count && !stored) {
		img_guid_print(img->backing_uuids[0], uuid);
		img_value_add_string(top, "backing-uuid", uuid);
	}
	return 0;
}

/* top, and the driver's own data; both stay the caller's. */
static int fill(struct img *img, struct img_value *top, struct img_value *data,
		struct img_error *err)
{
	const char *backing = img->backing_name && *img->backing_name ? img->backing_name : NULL;
	struct img_value *children;
	struct img_level_limits limits;
	int rc;

	limits = img_level_limits(img);
	img_report_limits(top, img->file, limits.block, limits.zero, limits.discard);
	children = img_value_add_array(top, "children");
	rc = img->driver->other_files ? img->driver->other_files(img, children, err) : 0;
	if (rc)
		return rc;
	img_report_file(children, "file", img->context->path, 0, img->file);
	if (backing && img->backing_format)
		img_value_add_string(top, "backing-filename-format", img->backing_format);
	img_value_add_uint(top, "virtual-size", img->size);
	img_value_add_string(top, "filename", img->name);
	if (img->driver->info) {
		rc = img->driver->info(img, top, data, err);
		if (rc)
			return rc;
	}
	img_value_add_string(top, "format", img->driver->name);
	/* a driver with several files knows better */
	if (!img_value_get(top, "actual-size") && img_storage_allocated_known(img->file))
		img_value_add_uint(top, "actual-size", img_storage_allocated(img->file));
	if (img->encrypted)
		img_value_add_bool(top, "encrypted", true);
	return 0;
}

int img_info(struct img *img, struct img_value **out, struct img_error *err)
{
	struct img_value *top = img_value_new(IMG_VALUE_OBJECT);
	struct img_value *data = img_value_new(IMG_VALUE_OBJECT);
	struct img_value *specific;
	bool quiesced = false;
	int rc = -ENOMEM;

	if (!top || !data)
		goto nomem;
	rc = img_engine_quiesce(img, IMG_QUIESCE_FOR_READING, err);
	if (rc)
		goto out;
	quiesced = true;
	rc = fill(img, top, data, err);
	if (rc)
		goto out;
	rc = -ENOMEM;
	if (!img_value_ok(data))
		goto nomem;
	if (img_value_count(data)) {
		specific = img_value_add_object(top, "format-specific");
		img_value_add_string(specific, "type", img->driver->name);
		img_value_adopt(specific, "data", data);
		data = NULL;
	}
	rc = add_backing(img, top, err);
	if (rc)
		goto out;
	rc = -ENOMEM;
	if (img->dirty || !(img->driver->features & IMG_DRIVER_REPORT_DIRTY_ONLY))
		img_value_add_bool(top, "dirty-flag", img->dirty);
	if (!img_value_ok(top))
		goto nomem;
	*out = top;
	top = NULL;
	rc = 0;
	goto out;
nomem:
	img_fail(err, rc, "out of memory");
out:
	if (quiesced)
		img_engine_resume(img);
	img_value_free(top);
	img_value_free(data);
	return rc;
}
