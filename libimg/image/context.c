/*
 * One open image as the image floor has it: making it around a storage, closing it, whose bytes it
 * is made of, and the questions that need nothing else.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/cancel.h"
#include "libimg/engine/engine.h"
#include "libimg/engine/request.h"
#include "libimg/image/level.h"

const char *img_version(void)
{
	return LIBIMG_VERSION;
}

unsigned img_version_number(void)
{
	return LIBIMG_VERSION_NUMBER;
}

unsigned img_storage_flags(unsigned open_flags)
{
	return (open_flags & IMG_OPEN_SHARE ? IMG_STORAGE_SHARE : 0u) |
	       (open_flags & IMG_OPEN_DIRECT ? IMG_STORAGE_DIRECT : 0u) |
	       (open_flags & IMG_OPEN_TRY_DIRECT ? IMG_STORAGE_TRY_DIRECT : 0u) |
	       (open_flags & IMG_OPEN_NO_LOCK ? IMG_STORAGE_NO_LOCK : 0u) |
	       (open_flags & IMG_OPEN_NO_READ_AHEAD ? IMG_STORAGE_RANDOM : 0u);
}

/* ---- One image ---- */

int img_context_new(struct img_storage *file, const char *name, const char *path,
		    struct img_gate *gate, unsigned flags, struct img **out, struct img_error *err)
{
	struct img *img = calloc(1, sizeof(*img));
	struct img_context *context = calloc(1, sizeof(*context));

	if (img && context) {
		img->name = strdup(name);
		context->path = strdup(path);
	}
	if (!img || !context || !img->name || !context->path) {
		if (context)
			free(context->path);
		if (img)
			free(img->name);
		free(context);
		free(img);
		img_storage_close(file);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	context->gate = img_gate_share(gate);
	context->flags = flags;
	img->context = context;
	img->file = file;
	img->writable = flags & IMG_OPEN_WRITE;
	img->unmap = flags & IMG_OPEN_UNMAP;
	img->keep_allocated = flags & IMG_OPEN_KEEP_ALLOCATED;
	img->unsafe = flags & IMG_OPEN_UNSAFE;
	*out = img;
	return 0;
}

/* ---- What it is made of ---- */

int img_context_add_part(struct img *img, struct img_storage *s, struct img_error *err)
{
	struct img_context *context = img->context;
	struct img_storage **parts =
		reallocarray(context->parts, context->part_count + 1, sizeof(struct img_storage *));

	if (!parts)
		return img_fail(err, -ENOMEM, "out of memory");
	context->parts = parts;
	parts[context->part_count++] = s;
	return 0;
}

/* Asked of each storage that an image is made of. */
typedef bool test_fn(const struct img_storage *s, const void *what);

static bool any_part(const struct img *img, test_fn *test, const void *what)
{
	if (img->file && test(img->file, what))
		return true;
	for (size_t i = 0; i < img->context->part_count; i++)
		if (test(img->context->parts[i], what))
			return true;
	return false;
}

/* Of img and all images above and below it. own: of img's further storages too. */
static bool any_in_chain(const struct img *img, bool own, test_fn *test, const void *what)
{
	if (own ? any_part(img, test, what) : img->file && test(img->file, what))
		return true;
	for (const struct img *i = img->context->above; i; i = i->context->above)
		if (any_part(i, test, what))
			return true;
	for (const struct img *i = img->parent; i; i = i->parent)
		if (any_part(i, test, what))
			return true;
	return false;
}

static bool overlaps(const struct img_storage *s, const void *what)
{
	return img_storage_overlap(s, what);
}

bool img_context_shares(const struct img *img, const struct img_storage *s)
{
	return any_in_chain(img, true, overlaps, s);
}

bool img_context_has_storage(const struct img *img, const struct img_storage *s)
{
	return any_part(img, overlaps, s);
}

static bool is_called(const struct img_storage *s, const void *what)
{
	return s->identity && !strcmp(s->identity, what);
}

bool img_context_has(const struct img *img, const char *identity, bool own)
{
	return identity && any_in_chain(img, own, is_called, identity);
}

bool img_context_depends_on(const struct img *img, const char *identity)
{
	return any_part(img, is_called, identity);
}

static bool is_same_image(const struct img *a, const struct img *b)
{
	const struct img_storage *f = a->file, *g = b->file;

	return f->identity && g->identity && !strcmp(f->identity, g->identity) &&
	       f->identity_off == g->identity_off && f->size == g->size && a->driver == b->driver &&
	       a->size == b->size && !a->context->special && !b->context->special;
}

bool img_context_is_same(const struct img *a, const struct img *b)
{
	while (a && b && is_same_image(a, b)) {
		a = a->parent;
		b = b->parent;
	}
	return !a && !b;
}

/* ---- Closing ---- */

static int close_one(struct img *img, struct img_error *err)
{
	struct img_context *context = img->context;
	int rc = 0;

	if (img->engine && img->writable && !context->unpublished)
		rc = img_engine_finish(img, err);
	img_engine_free(img);
	if (context->opened)
		img->driver->close(img);
	for (size_t i = 0; i < context->created_count; i++) {
		if (!context->created[i].taken)
			img_storage_close(context->created[i].storage);
		free(context->created[i].path);
	}
	img_storage_close(img->file);
	img_gate_release(context->gate);
	free(context->created);
	img_value_free(context->replaced);
	free(context->parts);
	free(context->path);
	free(context->parent_path);
	free(context->view);
	free(context);
	img_forget_backing(img);
	free(img->warning);
	free(img->name);
	free(img);
	return rc;
}

int img_context_is_ours(const struct img *img, struct img_error *err)
{
	if (img_engine_is_ours(img))
		return 0;
	return img_fail(err, -EPERM,
			"%s: it was opened before fork(), by the parent process: a child must "
			"open it itself",
			img->name);
}

int img_context_close(struct img *img, struct img_error *err)
{
	int first = 0;

	while (img) {
		struct img *parent = img->parent;
		int rc = close_one(img, first ? NULL : err);

		if (!first)
			first = rc;
		img = parent;
	}
	return first;
}

int img_close(struct img *img, struct img_error *err)
{
	IMG_NOT_CANCELLED;

	if (img && img_request_in_callback())
		return img_fail(err, -EDEADLK,
				"%s: it cannot be closed by a function that a queue has called",
				img->name);
	if (img && img->context->above)
		return img_fail(err, -EBUSY, "%s: it is the backing image of %s, and closed with that",
				img->name, img->context->above->name);
	for (struct img *i = img; i; i = i->parent) {
		int rc = img_context_is_ours(i, err);

		if (rc)
			return rc;
	}
	for (struct img *i = img; i; i = i->parent) {
		size_t n = img_engine_in_flight(i);

		if (n)
			return img_fail(err, -EBUSY, "%s: %zu requests are in flight", i->name, n);
	}
	return img_context_close(img, err);
}

/* ---- Questions ---- */

const char *img_name(const struct img *img)
{
	return img->name;
}

const char *img_format(const struct img *img)
{
	return img->driver->name;
}

uint64_t img_size(const struct img *img)
{
	return img->size;
}

uint64_t img_unit_bytes(const struct img *img)
{
	return img->unit_bytes;
}

bool img_was_probed(const struct img *img)
{
	return img->probed;
}

const char *img_warning(const struct img *img)
{
	return img->warning;
}

uint64_t img_modified(const struct img *img)
{
	return img_storage_modified(img->file);
}

struct img *img_backing(const struct img *img)
{
	return img->parent;
}

char *img_resolve_name(const char *image_path, const char *backing_name)
{
	const char *path = strncmp(image_path, "file:", 5) ? image_path : image_path + 5;

	return img_gate_join(path, backing_name);
}
