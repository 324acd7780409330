/*
 * Rebase: another backing image for an image that reads the same before and after.
 *
 * What it has from the old images below and would not have from the new ones is written to it first,
 * which changes nothing as long as it is read through the old ones. Only when that is durable does its
 * file name the new one: a power cut leaves the old name or the new one, and both read the same.
 */
#include <errno.h>

#include "libimg/base/arith.h"
#include "libimg/base/cancel.h"
#include "libimg/base/error.h"
#include "libimg/engine/engine.h"
#include "libimg/image/arguments.h"
#include "libimg/image/context.h"
#include "libimg/jobs/copy.h"

struct rebase {
	struct img *img;
	const char *name;    /* NULL: none */
	struct img *backing; /* open; NULL: none */
	const struct img_rebase_options *o;
	struct img_error *err;
};

static int fail_name(const struct rebase *r, int rc)
{
	return img_error_prefix(r->err, rc, "Could not change the backing file to '%s'",
				r->name ? r->name : "");
}

enum {
	BACKING_FLAGS = IMG_OPEN_SHARE | IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT | IMG_OPEN_UNSAFE |
			IMG_OPEN_WRITETHROUGH | IMG_OPEN_NO_LOCK,
};

static int check(const struct rebase *r)
{
	const struct img_rebase_options *o = r->o;
	const struct img *img = r->img;
	struct img_error *err = r->err;
	int rc = img_check_io_kind(o->io, err);

	if (!rc)
		rc = img_check_reserved("rebase", o->reserved, IMG_ARRAY_LEN(o->reserved), err);
	if (!rc && o->backing_flags & ~(unsigned)BACKING_FLAGS)
		rc = img_fail(err, -EINVAL, "flags of the new backing image: found %#x, allowed are %#x",
			      o->backing_flags, BACKING_FLAGS);
	if (rc)
		return rc;
	if (o->compress && !(img->driver->features & IMG_DRIVER_COMPRESS))
		return img_fail(err, -ENOTSUP, "Compression not supported for this file format");
	if (o->compress && !o->unsafe && img->encrypted)
		return img_fail(err, -ENOTSUP,
				"%s: Compression and encryption not supported at the same time",
				img_name(img));
	if (o->compress && !o->unsafe && !img->compress_codec)
		return img_fail(err, -ENOTSUP, "%s: it stores nothing compressed", img_name(img));
	if (o->format && !img_driver_named(o->format))
		return img_fail(err, -EINVAL, "Invalid format name: '%s'", o->format);
	if (!img->driver->set_backing && img->backing_view.id)
		return img_fail(err, -ENOTSUP,
				"%s: it is based on snapshot %s of its own, which its file alone says, and "
				"not on another image: commit merges the two",
				img_name(img), img->backing_view.id);
	if (!img->driver->set_backing) {
		img_fail(err, -ENOTSUP, "Operation not supported");
		return fail_name(r, -ENOTSUP);
	}
	if (img->context->unpublished)
		return img_fail(err, -EBUSY, "%s: the image is being created", img_name(img));
	if (!img_is_writable(img))
		return img_fail(err, -EROFS, "%s: opened for reading only", img_name(img));
	if (!o->unsafe && !img->parent && img->backing_name && *img->backing_name)
		return img_fail(err, -EINVAL,
				"%s: its backing file is not open, so what it has from there is not "
				"known",
				img_name(img));
	return 0;
}

/* As the user's own name, seen from the image's folder. */
static int open_backing(struct rebase *r)
{
	struct img *img = r->img, *backing = NULL;
	const struct img_open_options how = {
		.flags = r->o->backing_flags,
		.io = r->o->io,
		.secrets = r->o->secrets,
	};
	int rc = img_open_stored(img->context->path, r->name, r->o->format, img->context->gate,
				 &how, &backing, r->err);

	if (!rc)
		rc = img_open_chain(backing, &how, r->err);
	for (const struct img *i = backing; !rc && i; i = i->parent)
		if (img_context_has_storage(img, i->file))
			rc = img_fail(r->err, -ELOOP,
				      "it is the image itself, or one that is built on it");
	if (!rc) {
		r->backing = backing;
		return 0;
	}
	img_context_close(backing, NULL);
	return img_error_prefix(r->err, rc, "Could not open new backing file '%s'", r->name);
}

static int copy_up(struct rebase *r)
{
	const struct img_rebase_options *o = r->o;
	const struct img_copy_options how = {
		.compress = o->compress,
		.parallel = o->parallel,
		.progress = o->progress,
		.user = o->user,
		.io = o->io,
	};
	int rc = img_copy_up(r->img, r->backing, &how, r->err);

	return rc ? rc : img_flush(r->img, r->err);
}

/* The open chain becomes what the file says. */
static int replace_chain(struct rebase *r)
{
	struct img *removed = NULL;
	int rc = img_set_backing(r->img, r->backing, &removed, r->err);

	if (rc)
		return rc;
	r->backing = NULL;
	if (removed)
		img_close(removed, NULL); /* opened for reading only */
	return 0;
}

static int change_name(struct rebase *r)
{
	int rc = img_set_backing_name(r->img, r->name, r->name ? r->o->format : NULL, r->err);

	return rc ? fail_name(r, rc) : 0;
}

int img_rebase(struct img *img, const struct img_rebase_options *options, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct rebase r = {
		.img = img,
		.name = options->backing && *options->backing ? options->backing : NULL,
		.o = options,
		.err = err,
	};
	int rc = img_context_is_ours(img, err), ended;

	if (!rc)
		rc = check(&r);
	if (rc)
		return rc;
	rc = r.name && !options->unsafe ? open_backing(&r) : 0;
	if (!rc)
		rc = img_engine_keep_content(img, true, err);
	if (rc)
		goto out;
	if (!options->unsafe)
		rc = copy_up(&r);
	if (!rc)
		rc = change_name(&r);
	ended = img_engine_keep_content(img, false, rc ? NULL : err);
	rc = rc ? rc : ended;
	if (!rc && !options->unsafe)
		rc = replace_chain(&r);
out:
	img_context_close(r.backing, NULL);
	return rc;
}
