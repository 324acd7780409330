/*
 * Changing an open chain: an image becomes writable or read-only, or gets another image below it,
 * without being closed. What others have in flight meanwhile goes on.
 *
 * Images are quiesced from the top down, as requests go. Who changes a chain has its top quiesced, so
 * that of two who want to one waits.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/cancel.h"
#include "libimg/engine/engine.h"
#include "libimg/image/context.h"

bool img_is_writable(const struct img *img)
{
	return img->writable;
}

/* What an image was opened for, if that is not all that can be done with one; NULL: it is. */
static const char *opened_for(const struct img *img)
{
	unsigned flags = img->context->flags;

	return flags & IMG_OPEN_SELF_ONLY ? "for its own report only"
	       : flags & IMG_OPEN_CHECK	  ? "for a check"
	       : flags & IMG_OPEN_SALVAGE ? "for salvage"
					  : NULL;
}

/* ---- Reading only, or writing too ---- */

static int check_role(const struct img *img, bool writable, struct img_error *err)
{
	const char *what = opened_for(img);

	if (what)
		return img_fail(err, -EINVAL, "%s: it was opened %s", img->name, what);
	if (img->context->unpublished)
		return img_fail(err, -EBUSY, "%s: the image is being created", img->name);
	if (!writable)
		return 0;
	if ((img->driver->features & IMG_DRIVER_READ_ONLY) || !img->driver->plan_write)
		return img_fail(err, -ENOTSUP, "%s: images of format %s can only be read", img->name,
				img->driver->name);
	/* But one that is the parent of another, for what that has to be merged into it. */
	if (img->context->special &&
	    !(img->context->view && (img->driver->features & IMG_DRIVER_VIEWS_CHANGE)))
		return img_fail(err, -EINVAL, "%s: a snapshot inside an image can only be read",
				img->name);
	if (img->context->flags & IMG_OPEN_SHARE)
		return img_fail(err, -EINVAL,
				"%s: it was opened beside others that may write to it, for reading only",
				img->name);
	return 0;
}

static struct img_storage *storage_at(const struct img *img, size_t i)
{
	return i ? img->context->parts[i - 1] : img->file;
}

/* All storages of img, or none. */
static int change_storages(struct img *img, bool writable, struct img_error *err)
{
	size_t i, n = img->context->part_count + 1;
	int rc = 0;

	for (i = 0; i < n && !rc; i++)
		rc = img_storage_set_writable(storage_at(img, i), writable, err);
	for (i--; rc && i > 0; i--) /* the last one failed */
		img_storage_set_writable(storage_at(img, i - 1), !writable, NULL);
	return rc;
}

/* The image is quiesced. */
static int make_writable(struct img *img, struct img_error *err)
{
	int rc = change_storages(img, true, err);

	if (rc)
		return rc;
	img_engine_begin_writing(img);
	img->writable = true;
	if (img->driver->set_writable)
		rc = img->driver->set_writable(img, true, err);
	if (!rc)
		return 0;
	img->writable = false;
	img->driver->set_writable(img, false, NULL);
	change_storages(img, false, NULL);
	return rc;
}

/* The image is quiesced. */
static int make_read_only(struct img *img, struct img_error *err)
{
	int rc = img_engine_end_writing(img, err);

	if (!rc)
		rc = change_storages(img, false, err);
	if (rc)
		return rc;
	img->writable = false;
	if (img->driver->set_writable)
		img->driver->set_writable(img, false, NULL);
	return 0;
}

int img_set_writable(struct img *img, bool writable, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	int rc = img_context_is_ours(img, err);

	if (!rc && img->writable != writable)
		rc = check_role(img, writable, err);
	if (!rc)
		rc = img_engine_quiesce(img, IMG_QUIESCE_FOR_CHECKING, err);
	if (rc)
		return rc;
	if (img->writable != writable)
		rc = writable ? make_writable(img, err) : make_read_only(img, err);
	img_engine_resume(img);
	return rc;
}

/* ---- Another image below ---- */

static size_t chain_length(const struct img *img)
{
	size_t n = 0;

	for (; img; img = img->parent)
		n++;
	return n;
}

static struct img *top_of(struct img *img)
{
	while (img->context->above)
		img = img->context->above;
	return img;
}

/* Is below somewhere under img? */
static bool is_below(const struct img *img, const struct img *below)
{
	const struct img *i = img->parent;

	while (i && i != below)
		i = i->parent;
	return i;
}

/* Has an image of backing's chain bytes in common with img or one above it? */
static bool leads_back(const struct img *img, const struct img *backing)
{
	for (const struct img *b = backing; b; b = b->parent)
		for (const struct img *i = img; i; i = i->context->above)
			for (size_t n = 0; n <= b->context->part_count; n++)
				if (img_context_has_storage(i, storage_at(b, n)))
					return true;
	return false;
}

static int check_backing(struct img *img, struct img *backing, struct img_error *err)
{
	size_t depth = chain_length(top_of(img)) - chain_length(img) + 1;
	const char *what = opened_for(img);

	if (what)
		return img_fail(err, -EINVAL, "%s: it was opened %s", img->name, what);
	if (!backing && img->backing_required)
		return img_fail(err, -EINVAL,
				"%s: it holds only differences to another image, and cannot be without "
				"one",
				img->name);
	if (!backing)
		return 0;
	what = opened_for(backing);
	if (what)
		return img_fail(err, -EINVAL, "%s: it was opened %s", backing->name, what);
	if (!(img->driver->features & IMG_DRIVER_BACKING))
		return img_fail(err, -ENOTSUP, "%s: images of format %s have no backing file", img->name,
				img->driver->name);
	if (backing->context->unpublished)
		return img_fail(err, -EBUSY, "%s: the image is being created", backing->name);
	if (leads_back(img, backing))
		return img_fail(err, -ELOOP,
				"%s: backing file '%s' is already part of the chain, which would never "
				"end",
				img->name, backing->name);
	if (backing->context->above && !is_below(img, backing))
		return img_fail(err, -EBUSY, "%s: it is the backing image of %s", backing->name,
				backing->context->above->name);
	if (depth + chain_length(backing) > IMG_CHAIN_MAX)
		return img_fail(err, -ELOOP,
				"%s: the chain of backing files is longer than the allowed %d images",
				img->name, IMG_CHAIN_MAX);
	return 0;
}

/* Quiesce img and all images above it, the top first. *top: which that is. */
static int quiesce_down_to(struct img *img, struct img **top, struct img_error *err)
{
	for (;;) {
		struct img *first = top_of(img), *i = first;
		int rc = img_engine_quiesce(first, IMG_QUIESCE_FOR_CHECKING, err);

		if (rc)
			return rc;
		if (first != top_of(img)) { /* it got one above it meanwhile */
			img_engine_resume(first);
			continue;
		}
		for (; !rc && i != img; i = i->parent)
			rc = img_engine_quiesce(i->parent, IMG_QUIESCE_FOR_CHECKING, err);
		/* on failure i is the one that is not quiesced */
		for (; rc && i != first; i = i->context->above)
			img_engine_resume(i->context->above);
		*top = first;
		return rc;
	}
}

static void resume_from(struct img *img, struct img *top)
{
	struct img *i = img;

	for (; i != top; i = i->context->above)
		img_engine_resume(i);
	img_engine_resume(top);
}

/* What img->context->parent_path is to be. */
static int path_of_parent(const struct img *img, const struct img *backing, char **out)
{
	const char *name = img->backing_name;
	char *stored = name ? img_resolve_name(img->context->path, name) : NULL;
	bool same = !backing || (stored && !strcmp(stored, backing->context->path));

	*out = NULL;
	if (name && !stored)
		return -ENOMEM;
	free(stored);
	if (!same)
		*out = strdup(backing->context->path);
	return same || *out ? 0 : -ENOMEM;
}

/* img is quiesced. On failure all is as it was. */
static int replace_parent(struct img *img, struct img *backing, struct img_error *err)
{
	struct img *before = img->parent;
	char *path;
	int rc = 0;

	img->parent = backing;
	if (backing && img->driver->parent_opened)
		rc = img->driver->parent_opened(img, err);
	img->parent = before;
	if (rc)
		return rc;
	rc = path_of_parent(img, backing, &path);
	if (!rc)
		rc = img_engine_set_parent(img, backing);
	if (rc) {
		free(path);
		return img_fail(err, rc, "%s: out of memory", img->name);
	}
	free(img->context->parent_path);
	img->context->parent_path = path;
	if (backing)
		backing->context->above = img;
	return 0;
}

int img_set_backing(struct img *img, struct img *backing, struct img **removed, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct img *top, *before = NULL, *last;
	int rc = img_context_is_ours(img, err);

	if (!rc && backing)
		rc = img_context_is_ours(backing, err);
	if (!rc)
		rc = quiesce_down_to(img, &top, err);
	if (rc)
		return rc;
	rc = check_backing(img, backing, err);
	if (!rc && img->parent != backing) {
		before = img->parent;
		rc = replace_parent(img, backing, err);
		if (rc)
			before = NULL;
	}
	resume_from(img, top);
	if (before) {
		/* Who is on the way through the old ones goes on there to the end. */
		img_engine_drain(img);
		before->context->above = NULL;
		for (last = before; last->parent && last->parent != backing;)
			last = last->parent;
		if (last->parent)
			img_engine_set_parent(last, NULL);
	}
	if (!rc)
		*removed = before;
	return rc;
}
