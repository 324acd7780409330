/*
 * The modules "file" and "host_device": local files and block devices by path. A path opens either;
 * "host_device" insists on a device.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "libimg/storage/module.h"

static const struct img_option table[] = {
	{ "filename", IMG_OPTION_STRING, "Path of the file or block device", NULL, NULL },
	{ "locking", IMG_OPTION_STRING, "Lock the file against other programs", "auto",
	  "auto,on,off" },
	{ 0 },
};

static int parse_name(const char *name, img_keyval_fn *set, void *user, struct img_error *err)
{
	return set(user, "filename", strchr(name, ':') + 1, err);
}

static int open_path(const struct img_module_opening *o, struct img_storage **out,
		     struct img_error *err)
{
	const char *path = img_options_string(o->options, "filename");
	unsigned flags = o->flags;

	if (!path || !*path)
		return img_fail(err, -EINVAL, "The 'file' block driver requires a file name");
	if (!strcmp(img_options_string(o->options, "locking"), "off"))
		flags |= IMG_STORAGE_NO_LOCK;
	return img_storage_open_file(path, flags, out, err);
}

/* QEMU's callers rely on this one being refused. */
static int open_device(const struct img_module_opening *o, struct img_storage **out,
		       struct img_error *err)
{
	struct img_storage *s;
	int rc = open_path(o, &s, err);

	if (rc)
		return rc;
	if (!s->device) {
		rc = img_fail(err, -EINVAL,
			      "'host_device' driver requires '%s' to be either a character or block "
			      "device",
			      s->name);
		img_storage_close(s);
		return rc;
	}
	*out = s;
	return 0;
}

static char *identify_path(const struct img_options *options)
{
	const char *path = img_options_string(options, "filename");
	struct stat st;

	return path && !stat(path, &st) ? img_storage_identify(&st) : NULL;
}

static const char *const file_schemes[] = { "file", NULL };
static const char *const device_schemes[] = { "host_device", NULL };

const struct img_module img_module_file = {
	.name = "file",
	.files = true,
	.schemes = file_schemes,
	.options = table,
	.parse_name = parse_name,
	.identify = identify_path,
	.open = open_path,
};

const struct img_module img_module_host_device = {
	.name = "host_device",
	.files = true,
	.devices = true,
	.schemes = device_schemes,
	.options = table,
	.parse_name = parse_name,
	.identify = identify_path,
	.open = open_device,
};
