/*
 * A folder as an image. The user names the folder, but what lies in it is somebody else's, like the rest of an
 * image: its main file is opened through a gate that lets nothing lead out of the folder. From then on the image is that
 * file, so that names in it start from there.
 */
#include "libimg/image/folder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/image/context.h"
#include "libimg/image/node.h"
#include "libimg/storage/storage.h"

const char *img_folder_named(const struct img_node *node)
{
	const char *driver = img_node_get(node, "driver"), *path = img_node_get(node, "filename");
	struct stat st;

	if ((driver && strcmp(driver, "file") != 0) || !path || stat(path, &st) || !S_ISDIR(st.st_mode))
		return NULL;
	return path;
}

/* The names that the drivers know folders by, for who gave one that none knows. */
static int fail_unknown(const char *path, struct img_error *err)
{
	char *names = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&names, &len);

	for (size_t i = 0; out && img_drivers[i]; i++)
		if (img_drivers[i]->folder_file)
			fprintf(out, "%s%s (%s)", ftell(out) > 0 ? ", " : "", img_drivers[i]->folder_file,
				img_drivers[i]->name);
	if (!out || fclose(out)) {
		free(names);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	if (*names)
		img_fail(err, -EISDIR,
			 "Could not open '%s': Is a directory; images that are folders have a file "
			 "in them by which they are known: %s",
			 path, names);
	else
		img_fail(err, -EISDIR, "Could not open '%s': Is a directory", path);
	free(names);
	return -EISDIR;
}

int img_folder_open(const char *path, const struct img_driver *driver, unsigned flags,
		    struct img_storage **out, struct img_error *err)
{
	struct img_gate *gate = NULL;
	struct img_gate_file file;
	bool found = false;
	char *image;
	int rc = 0;

	/* names start from here; without a second slash at the end */
	if (asprintf(&image, "%s%s", path, path[strlen(path) - 1] == '/' ? "" : "/") < 0)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_gate_new("folder", &gate, err);
	for (size_t i = 0; !rc && !found && img_drivers[i]; i++) {
		if (!img_drivers[i]->folder_file || (driver && img_drivers[i] != driver))
			continue;
		rc = img_gate_open(gate, image, img_drivers[i]->folder_file, "main file",
				   flags & IMG_STORAGE_WRITE, &file, err);
		found = !rc;
		if (rc == -ENOENT)
			rc = 0;
	}
	if (found) {
		rc = img_storage_open_fd(file.fd, file.path, flags, out, err);
		img_gate_file_free(&file);
	} else if (!rc) {
		img_error_clear(err);
		rc = fail_unknown(path, err);
	}
	img_gate_release(gate);
	free(image);
	return rc;
}

int img_folder_create_path(const char *path, const struct img_driver *driver, char **out,
			   struct img_error *err)
{
	struct stat st;

	*out = NULL;
	if (!driver || !driver->folder_file || !*path || stat(path, &st) || !S_ISDIR(st.st_mode))
		return 0;
	if (asprintf(out, "%s%s%s", path, path[strlen(path) - 1] == '/' ? "" : "/",
		     driver->folder_file) < 0)
		return img_fail(err, -ENOMEM, "out of memory");
	return 0;
}
