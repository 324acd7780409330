/* A folder's old files. The image there tells them, which may be anybody's: see img_replaced_remove(). */
#include "libimg/image/replaced.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/base/value.h"
#include "libimg/image/context.h"
#include "libimg/storage/storage.h"

/* The file at path lies in the folder of path main, not below. */
static bool is_beside(const char *path, const char *main)
{
	const char *slash = strrchr(main, '/');
	size_t len = slash ? (size_t)(slash + 1 - main) : 0;

	return !strncmp(path, main, len) && path[len] && !strchr(path + len, '/') &&
	       strcmp(path, main) != 0;
}

int img_replaced_list(const char *main, const struct img_driver *driver, struct img_value **out,
		      struct img_error *err)
{
	const struct img_open_options how = { .format = driver->name,
					      .flags = IMG_OPEN_SELF_ONLY | IMG_OPEN_NO_BACKING |
						       IMG_OPEN_NO_LOCK | IMG_OPEN_SHARE };
	const char *slash = strrchr(main, '/');
	struct img_value *children, *list;
	struct img *img = NULL;
	int rc = 0;

	*out = NULL;
	if (!driver->folder_file || !driver->other_files ||
	    strcmp(slash ? slash + 1 : main, driver->folder_file) != 0 ||
	    img_open(main, &how, &img, NULL))
		return 0;
	children = img_value_new(IMG_VALUE_ARRAY);
	list = img_value_new(IMG_VALUE_ARRAY);
	if (children && list)
		rc = driver->other_files(img, children, err);
	for (size_t i = 0; children && list && i < img_value_count(children); i++) {
		const struct img_value *info = img_value_get(img_value_at(children, i), "info");
		const char *path = img_value_string(img_value_get(info, "filename"));

		if (path && is_beside(path, main))
			img_value_add_string(list, NULL, path);
	}
	if (!rc && (!children || !list || !img_value_ok(children) || !img_value_ok(list)))
		rc = img_fail(err, -ENOMEM, "out of memory");
	img_value_free(children);
	img_context_close(img, NULL);
	if (rc)
		img_value_free(list);
	else
		*out = list;
	return rc;
}

void img_replaced_remove(const char *path, const struct img_driver *driver)
{
	const struct img_driver *its;
	struct img_storage *s;
	struct stat st;

	/* Its lock tells whether anybody has it open, this process too. */
	if (lstat(path, &st) || !S_ISREG(st.st_mode) ||
	    img_storage_open_file(path, IMG_STORAGE_WRITE, &s, NULL))
		return;
	if (!img_probe_storage(s, path, &its, NULL) && its == driver)
		unlink(path);
	img_storage_close(s);
}
