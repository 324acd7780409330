/*
 * Work on an image's own structures, with the image quiesced.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/cancel.h"
#include "libimg/engine/engine.h"
#include "libimg/image/level.h"
#include "libimg/image/parent.h"

/*
 * What a disk that grows would show in its new part is not always zeroes: the backing file, if it
 * reaches further than the old end; what the last unit still holds beyond the old end, from before
 * the disk was made smaller; what was cut off, if the power went before its tables did.
 */
static int clear_new_part(struct img *img, uint64_t from, struct img_error *err)
{
	uint64_t len;
	int rc = 0;

	for (uint64_t off = from; !rc && off < img->size; off += len) {
		struct img_extent e;

		rc = img_engine_map(img, off, img->size - off, &e, err);
		if (rc)
			return rc;
		len = e.length;
		if (e.kind == IMG_BACKING && img->parent && img->parent->size > off)
			len = min_u64(len, img->parent->size - off);
		else if (e.kind == IMG_BACKING || e.kind == IMG_ZERO)
			continue;
		rc = img_zero(img, off, len, err);
	}
	return rc;
}

static int extend_quiesced(struct img *img, uint64_t size, struct img_error *err)
{
	int rc = img_engine_quiesce(img, IMG_QUIESCE_FOR_CHANGING, err);

	if (rc)
		return rc;
	rc = img->driver->extend(img, size, err);
	img_engine_resume(img);
	return rc;
}

static int resize_quiesced(struct img *img, uint64_t size, enum img_preallocate how,
			   struct img_error *err)
{
	int rc = img_engine_quiesce(img, IMG_QUIESCE_FOR_CHANGING, err);

	if (rc)
		return rc;
	rc = img->driver->resize(img, size, how, err);
	img_engine_resume(img);
	return rc;
}

/* The file tells the new size only when the new part is durably zeroes. */
static int grow(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err)
{
	uint64_t before = img->size;
	int rc = extend_quiesced(img, size, err);

	if (!rc)
		rc = clear_new_part(img, before, err);
	if (!rc)
		rc = resize_quiesced(img, size, how, err);
	if (rc && img->size != before && resize_quiesced(img, before, IMG_PREALLOCATE_OFF, NULL))
		img->size = before;
	return rc;
}

int img_resize(struct img *img, uint64_t size, enum img_preallocate preallocation, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = img_context_is_ours(img, err);

	if (rc)
		return rc;
	if (!img->driver->resize)
		return img_fail(err, -ENOTSUP, "Image format driver does not support resize");
	if (!img->writable)
		return img_fail(err, -EROFS, "%s: the image is open read-only", img->name);
	if ((unsigned)preallocation > IMG_PREALLOCATE_FULL)
		return img_fail_range(err, -EINVAL, (unsigned)preallocation, 0,
				      IMG_PREALLOCATE_FULL, "%s: preallocation", img->name);
	if (size > INT64_MAX - 511)
		return img_fail_range(err, -EFBIG, size, 0, INT64_MAX - 511, "%s: new size",
				      img->name);
	/* A plain file may end anywhere; formats count sectors. */
	if (!(img->driver->features & IMG_DRIVER_PLAIN) && !is_aligned_u64(size, 512))
		return img_fail(err, -EINVAL, "The new size must be a multiple of 512");
	if (preallocation != IMG_PREALLOCATE_OFF && size < img->size)
		return img_fail(err, -EINVAL, "Preallocation can only be used for growing images");
	if (size > img->size && img->backing_name && *img->backing_name && !img->parent)
		return img_fail(err, -EINVAL,
				"%s: its backing file is not open, so the new part "
				"cannot be kept clear of it",
				img->name);
	if (size > img->size && img->driver->extend)
		return grow(img, size, preallocation, err);
	return resize_quiesced(img, size, preallocation, err);
}

static int check_may_change(const struct img *img, bool can, const char *what,
			    struct img_error *err)
{
	int rc = img_context_is_ours(img, err);

	if (rc)
		return rc;
	if (!can)
		return img_fail(err, -ENOTSUP, "%s: images of format %s %s", img->name,
				img->driver->name, what);
	return img->writable ? 0 : img_fail(err, -EROFS, "%s: opened for reading only", img->name);
}

/* Whose bytes name, stored in img, leads to: malloc'd; NULL: not to be known. */
static char *identify(const struct img *img, const char *name)
{
	char *path = img_resolve_name(img->context->path, name);
	struct img_node *node = NULL;
	char *identity = NULL;

	if (path && !img_node_parse_name(path, &node, NULL) && node->child[IMG_NODE_FILE])
		identity = img_node_identify(node->child[IMG_NODE_FILE]);
	img_node_free(node);
	free(path);
	return identity;
}

struct img *img_find_backing(const struct img *img, const char *name)
{
	struct img *found = NULL;

	for (; img->parent && !found; img = img->parent) {
		bool own = img_parent_is_view(img); /* the file's name means the top one */
		const char *stored = own ? img->backing_view.id : img->backing_name;
		const char *its = own ? NULL : img->parent->file->identity;
		char *identity = identify(img, name);

		if ((stored && !strcmp(stored, name)) ||
		    (identity && its && !strcmp(identity, its)))
			found = img->parent;
		free(identity);
	}
	return found;
}

/* Is that img itself, or an image that is read through it? */
static bool leads_back(const struct img *img, const char *identity)
{
	bool back = false;

	for (const struct img *i = img; i && identity && !back; i = i->context->above)
		back = img_context_depends_on(i, identity);
	return back;
}

/*
 * The image that name will lead to: one of the chain below img, which may be open for writing, or else opened
 * as the user's own name, like that of a new image's backing file: *opened, to be closed then.
 */
static int know_backing(const struct img *img, const char *name, const char *format,
			const char *identity, const struct img **out, struct img **opened,
			struct img_error *err)
{
	const struct img_open_options how = { .flags = img->context->flags };
	int rc;

	for (const struct img *i = img->parent; i; i = i->parent)
		if (identity && i->file->identity && !strcmp(i->file->identity, identity)) {
			*out = i;
			return 0;
		}
	rc = img_open_stored(img->context->path, name, format, img->context->gate, &how, opened,
			     err);
	*out = *opened;
	return rc;
}

int img_set_backing_name(struct img *img, const char *name, const char *format,
			 struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = check_may_change(img, img->driver->set_backing,
				  "cannot be given another backing file", err);
	const struct img *backing = NULL;
	struct img *opened = NULL;
	char *identity;

	if (name && !*name)
		name = NULL;
	if (rc)
		return rc;
	if (format && !name)
		return img_fail(err, -EINVAL, "%s: a backing format is given, but no backing file",
				img->name);
	if (format && !img_driver_named(format))
		return img_fail(err, -EINVAL, "%s: unknown backing format '%s'", img->name, format);
	identity = name ? identify(img, name) : NULL;
	if (name && leads_back(img, identity))
		rc = img_fail(err, -ELOOP,
			      "%s: backing file '%s' is the image itself, or one that is built on it",
			      img->name, name);
	if (!rc && name && (img->driver->features & IMG_DRIVER_BACKING_KNOWN))
		rc = know_backing(img, name, format, identity, &backing, &opened, err);
	if (!rc)
		rc = img_engine_quiesce(img, IMG_QUIESCE_FOR_CHANGING, err);
	if (!rc) {
		rc = img->driver->set_backing(img, name, format, backing, err);
		img_engine_resume(img);
	}
	img_context_close(opened, NULL);
	free(identity);
	return rc;
}

int img_make_empty(struct img *img, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = check_may_change(img, img->driver->make_empty, "cannot be emptied", err);

	if (!rc)
		rc = img_engine_quiesce(img, IMG_QUIESCE_FOR_CHANGING, err);
	if (rc)
		return rc;
	rc = img->driver->make_empty(img, err);
	img_engine_resume(img);
	return rc;
}

int img_check(struct img *img, unsigned repair, void (*report)(void *user, const char *line),
	      void *user, struct img_check_result *out, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct img_check c = { .repair = repair, .report = report, .user = user };
	int rc = img_context_is_ours(img, err);

	if (rc)
		return rc;
	if (!img->driver->check)
		return img_fail(err, -ENOTSUP, "This image format does not support checks");
	if (repair && repair != IMG_REPAIR_LEAKS &&
	    (repair & ~(unsigned)IMG_REPAIR_LOSS) != IMG_REPAIR_ALL)
		return img_fail(err, -EINVAL,
				"%s: repair is %#x, expected IMG_REPAIR_LEAKS, or IMG_REPAIR_ALL with "
				"or without IMG_REPAIR_LOSS",
				img->name, repair);
	if (repair && !img->writable)
		return img_fail(err, -EROFS,
				"%s: opened for reading only, so nothing can be "
				"repaired",
				img->name);
	rc = img_engine_quiesce(img,
				repair ? IMG_QUIESCE_FOR_CHANGING : IMG_QUIESCE_FOR_CHECKING, err);
	if (rc)
		return rc;
	rc = img->driver->check(img, &c, err);
	img_engine_resume(img);
	if (rc)
		return rc;
	*out = c.result;
	return 0;
}
