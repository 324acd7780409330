/*
 * Commit: what the images above another have is written to that one.
 *
 * What top reads as is the same at each moment, also after a power cut: what is written below is what
 * the images above it cover. Only when all of it is durable is top emptied. A child whose format tells
 * its parent by its content is told what the new content will be known by, and takes both; one whose format can
 * store but one takes any meanwhile. It is told the new one as soon as the content is another one by the format's
 * count, before anything of it is written.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/cancel.h"
#include "libimg/base/error.h"
#include "libimg/engine/engine.h"
#include "libimg/image/arguments.h"
#include "libimg/image/context.h"
#include "libimg/jobs/copy.h"

struct commit {
	struct img *top, *base;
	const struct img_commit_options *o;
	struct img_error *err;
};

/* The image directly above base. */
static struct img *child_of(const struct commit *c)
{
	return c->base->context->above;
}

static bool knows_parent(const struct img *img)
{
	return (img->driver->features & IMG_DRIVER_BACKING_KNOWN) && img->driver->set_backing;
}

static bool is_emptied(const struct commit *c)
{
	return !c->o->keep && child_of(c) == c->top && c->top->driver->make_empty;
}

static int check(struct commit *c)
{
	const struct img *i = c->top->parent;
	struct img_error *err = c->err;

	if (!i)
		return img_fail(err, -EINVAL, "Image does not have a backing file");
	if (!c->base)
		c->base = c->top->parent;
	while (i && i != c->base)
		i = i->parent;
	if (!i)
		return img_fail(err, -EINVAL, "Did not find '%s' in the backing chain of '%s'",
				img_name(c->base), img_name(c->top));
	if (is_emptied(c) && !img_is_writable(c->top))
		return img_fail(err, -EROFS, "%s: opened for reading only, so it cannot be emptied",
				img_name(c->top));
	if (img_size(c->base) < img_size(c->top) && !c->base->driver->resize)
		return img_fail(err, -ENOTSUP,
				"%s: its %" PRIu64 " bytes are less than the %" PRIu64
				" of %s, and images of format %s cannot be made larger",
				img_name(c->base), img_size(c->base), img_size(c->top),
				img_name(c->top), img_format(c->base));
	return 0;
}

/* ---- Children that know their parent by its content ---- */

/*
 * From the image above base on as far as a change of one's parent changes itself in the eyes of the next.
 * what: done to each.
 */
static int for_children(struct commit *c, int (*what)(struct img *child, struct img_error *err))
{
	int rc = 0;

	for (struct img *i = child_of(c); !rc && knows_parent(i); i = i->context->above) {
		rc = what(i, c->err);
		if (i == c->top)
			break;
	}
	return rc;
}

/* From top down, since an image that is told changes itself in the eyes of the one above it. */
static int expect_parents(struct commit *c)
{
	int rc = 0;

	for (struct img *i = c->top, *below; !rc && i != c->base; i = below) {
		uint8_t identity[IMG_GUID_BYTES];
		bool known;

		below = i->parent;
		known = below->driver->next_identity;
		if (!i->driver->accept_parent)
			continue;
		if (known)
			rc = below->driver->next_identity(below, identity, c->err);
		if (!rc)
			rc = img_engine_quiesce(i, IMG_QUIESCE_FOR_CHANGING, c->err);
		if (rc)
			break;
		rc = i->driver->accept_parent(i, known ? identity : NULL, c->err);
		img_engine_resume(i);
	}
	return rc;
}

static int link_anew(struct img *child, struct img_error *err)
{
	const char *name = child->context->parent_path ? child->context->parent_path
			   : child->backing_name       ? child->backing_name
						       : child->parent->context->path;
	char *copy = strdup(name), *format = child->backing_format ? strdup(child->backing_format) : NULL;
	int rc;

	if (!copy || (child->backing_format && !format))
		rc = img_fail(err, -ENOMEM, "out of memory");
	else /* both are replaced on the way */
		rc = img_set_backing_name(child, copy, format, err);
	free(copy);
	free(format);
	return rc;
}

/* ---- Roles ---- */

/* From base up: which images are to be written to, at most all of a chain. */
struct roles {
	struct img *made[IMG_CHAIN_MAX]; /* writable, and to be read-only again */
	size_t count;
};

static int make_writable(struct roles *r, struct img *img, struct img_error *err)
{
	int rc = img_is_writable(img) ? 1 : img_set_writable(img, true, err);

	if (!rc)
		r->made[r->count++] = img;
	return rc < 0 ? rc : 0;
}

static int acquire_roles(struct commit *c, struct roles *r)
{
	int rc = make_writable(r, c->base, c->err);

	for (struct img *i = child_of(c); !rc && knows_parent(i); i = i->context->above) {
		rc = make_writable(r, i, c->err);
		if (i == c->top)
			break;
	}
	return rc;
}

/* rc: of the job so far. */
static int release_roles(struct roles *r, int rc, struct img_error *err)
{
	while (r->count) {
		int failed = img_set_writable(r->made[--r->count], false, rc ? NULL : err);

		rc = rc ? rc : failed;
	}
	return rc;
}

/* ---- The job ---- */

static int copy_down(struct commit *c)
{
	const struct img_copy_options how = {
		.rate = c->o->rate,
		.progress = c->o->progress,
		.user = c->o->user,
		.io = c->o->io,
	};

	return img_copy_down(c->top, c->base, &how, c->err);
}

/* base changes, and by that its content's count. */
static int begin_change(struct commit *c)
{
	int rc = expect_parents(c);

	if (!rc)
		rc = img_engine_quiesce(c->base, IMG_QUIESCE_FOR_CHANGING, c->err);
	if (rc)
		return rc;
	img_engine_resume(c->base);
	return for_children(c, link_anew);
}

static bool takes_both(const struct img *child)
{
	return child->driver->accept_parent && child->parent->driver->next_identity;
}

/*
 * It was changed, or not, when the job failed with rc: the links are to fit what there is. What is above an
 * image whose link changes follows in any case. Who takes both parents needs nothing.
 */
static int repair_links(struct commit *c, int rc)
{
	for (struct img *i = child_of(c); knows_parent(i); i = i->context->above) {
		if (!takes_both(i) && link_anew(i, NULL))
			rc = img_error_prefix(c->err, rc,
					      "%s: its parent may have changed, which could not be stored (rebase "
					      "-u repairs the link)",
					      img_name(i));
		if (i == c->top)
			break;
	}
	return rc;
}

static int write_down(struct commit *c)
{
	int rc = begin_change(c), flushed;

	if (rc)
		return repair_links(c, rc);
	if (img_size(c->base) < img_size(c->top))
		rc = img_resize(c->base, img_size(c->top), IMG_PREALLOCATE_OFF, c->err);
	if (!rc)
		rc = copy_down(c);
	flushed = img_flush(c->base, rc ? NULL : c->err);
	return rc ? rc : flushed;
}

int img_commit(struct img *img, const struct img_commit_options *options, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	static const struct img_commit_options defaults;
	const struct img_commit_options *o = options ? options : &defaults;
	struct commit c = { .top = img, .base = o->base, .o = o, .err = err };
	struct roles roles = { .count = 0 };
	bool keeps;
	int rc = img_context_is_ours(img, err);

	if (!rc)
		rc = img_check_reserved("commit", o->reserved, IMG_ARRAY_LEN(o->reserved), err);
	if (!rc)
		rc = img_check_io_kind(o->io, err);
	if (!rc)
		rc = check(&c);
	if (rc)
		return rc;
	rc = acquire_roles(&c, &roles);
	keeps = !rc && img_is_writable(img);
	if (keeps)
		rc = img_engine_keep_content(img, true, err);
	if (!rc)
		rc = write_down(&c);
	if (!rc && is_emptied(&c))
		rc = img_make_empty(img, err);
	if (keeps) {
		int ended = img_engine_keep_content(img, false, rc ? NULL : err);

		rc = rc ? rc : ended;
	}
	return release_roles(&roles, rc, err);
}
