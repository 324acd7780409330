/*
 * The images that are based on an image: nothing in it tells them, so its folder is searched. As with parents
 * (parent.c) only there, in the order of their names; and only in regular files, whose first and last bytes say
 * that they may have a parent.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/image/context.h"
#include "libimg/image/gate.h"
#include "libimg/image/level.h"

enum { IMAGES_MAX = 64 }; /* that are opened */

/* The bytes that name, stored in the image at path, leads to. malloc'd; NULL: not known. */
static char *identity_of(const char *path, const char *name)
{
	char *resolved = img_resolve_name(path, name), *identity = NULL;
	struct img_node *node = NULL;

	if (resolved && !img_node_parse_name(resolved, &node, NULL) && node->child[IMG_NODE_FILE])
		identity = img_node_identify(node->child[IMG_NODE_FILE]);
	img_node_free(node);
	free(resolved);
	return identity;
}

static bool leads_to(const char *path, const char *name, const struct img *img)
{
	char *identity = name && *name ? identity_of(path, name) : NULL;
	bool same = identity && img->file->identity && !strcmp(identity, img->file->identity);

	free(identity);
	return same;
}

static bool is_child(const struct img *child, const char *path, const struct img *img)
{
	uint8_t uuid[IMG_GUID_BYTES];
	bool is = leads_to(path, child->backing_name, img);

	for (size_t i = 0; i < child->backing_alternative_count && !is; i++)
		is = leads_to(path, child->backing_alternatives[i], img);
	if (is || !child->backing_uuid_count || !img->driver->identify ||
	    img->driver->identify(img->file, uuid, NULL))
		return is;
	for (unsigned i = 0; i < child->backing_uuid_count && !is; i++)
		is = img_guid_equal(uuid, child->backing_uuids[i]);
	return is;
}

/* To look at others than files (tapes, pipes) can have effects of its own. */
static bool is_file(const struct img *img, const char *name)
{
	char *path = img_gate_join(img->context->path, name);
	struct stat st;
	bool is = path && !stat(path, &st) && S_ISREG(st.st_mode);

	free(path);
	return is;
}

/* The driver of a file that may be a child; NULL: it is none. */
static const struct img_driver *probe(struct img_storage *s, const char *path)
{
	const struct img_driver *driver = NULL;

	if (s->size < IMG_META_SECTOR || img_probe_storage(s, path, &driver, NULL))
		return NULL;
	return driver->features & IMG_DRIVER_BACKING ? driver : NULL;
}

/* Past the page cache, if possible, where img is. */
static unsigned direct_flags(const struct img *img)
{
	return img->context->flags & (IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT)
		       ? IMG_STORAGE_TRY_DIRECT
		       : 0u;
}

/* Open an image of the folder, by its own file alone. NULL: it is none, or it is not to be known. */
static struct img *open_candidate(struct img_gate_file *file, unsigned flags, unsigned *opened)
{
	struct img_open_options how = { .flags = IMG_OPEN_SELF_ONLY | IMG_OPEN_NO_BACKING |
						 IMG_OPEN_NO_LOCK | IMG_OPEN_SHARE };
	const struct img_driver *driver;
	struct img_storage *s;
	struct img *img = NULL;
	int fd = file->fd;

	file->fd = -1; /* the storage's, or closed */
	if (img_storage_open_fd(fd, file->path, IMG_STORAGE_NO_LOCK | IMG_STORAGE_SHARE | flags, &s,
				NULL))
		return NULL;
	driver = probe(s, file->path);
	if (!driver) {
		img_storage_close(s);
		return NULL;
	}
	++*opened;
	how.format = driver->name;
	return img_open_storage(s, file->path, &how, &img, NULL) ? NULL : img;
}

/* 1: it is a child. *opened: images that were looked at. */
static int examine(const struct img *img, const char *name, unsigned *opened, struct img_child *out,
		   struct img_error *err)
{
	struct img_gate_file file;
	struct img *child = NULL;
	int rc;

	if (!is_file(img, name))
		return 0;
	rc = img_gate_open(img->context->gate, img->context->path, name, "image", false, &file, NULL);
	if (rc)
		return rc == -ENOMEM ? img_fail(err, rc, "out of memory") : 0;
	if (!img_context_has(img, file.identity, true))
		child = open_candidate(&file, direct_flags(img), opened);
	if (child) {
		bool based = is_child(child, file.path, img);

		out->refuses = child->driver->features & img->driver->features &
			       IMG_DRIVER_STAMPED;
		out->path = based ? strdup(file.path) : NULL;
		rc = !based ? 0 : out->path ? 1
					    : img_fail(err, -ENOMEM, "out of memory");
		img_close(child, NULL);
	}
	if (file.fd >= 0)
		close(file.fd);
	img_gate_file_free(&file);
	return rc;
}

int img_find_child(const struct img *img, struct img_child *out, struct img_error *err)
{
	struct img_child found = { .path = NULL };
	unsigned opened = 0;
	size_t count = 0;
	char **names = NULL;
	int rc = 0;

	*out = found;
	if (!img->context->path || !img->file->identity ||
	    img_gate_list(img->context->gate, img->context->path, &names, &count, NULL))
		return 0;
	for (size_t i = 0; i < count && opened < IMAGES_MAX && rc >= 0 && !out->refuses; i++) {
		rc = examine(img, names[i], &opened, &found, err);
		if (rc <= 0 || (out->path && !found.refuses)) {
			if (rc > 0)
				free(found.path);
			continue;
		}
		free(out->path);
		*out = found;
	}
	img_gate_list_free(names, count);
	if (rc < 0) {
		free(out->path);
		*out = (struct img_child){ .path = NULL };
	}
	return rc < 0 ? rc : out->path ? 1
				       : 0;
}
