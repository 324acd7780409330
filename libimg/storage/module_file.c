/*
 * The modules "file" and "host_device": local files and block devices by path. QEMU tells the two
 * apart; here each opens both, since what a path leads to is seen when it is opened.
 */
#include <errno.h>
#include <string.h>

#include "libimg/storage/module.h"

static const struct img_option options[] = {
	{ "filename", IMG_OPTION_STRING, "Path of the file or block device", NULL, NULL },
	{ "locking", IMG_OPTION_STRING, "Lock the file against other programs", "auto",
	  "auto,on,off" },
	{ 0 },
};

static int parse_name(const char *name, img_module_set_fn *set, void *user, struct img_error *err)
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

static const char *const file_schemes[] = { "file", NULL };
static const char *const device_schemes[] = { "host_device", NULL };

const struct img_module img_module_file = {
	.name = "file",
	.schemes = file_schemes,
	.options = options,
	.parse_name = parse_name,
	.open = open_path,
};

const struct img_module img_module_host_device = {
	.name = "host_device",
	.schemes = device_schemes,
	.options = options,
	.parse_name = parse_name,
	.open = open_path,
};
