/*
 * Creating images. Everything that can be refused is refused before a file is made (the settings);
 * then the file is made, the driver writes an empty image into it, and it is opened like any other.
 * It gets its name, or what makes a file that was there an image again, when it is published, so that
 * nobody ever takes half an image for a whole one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/cancel.h"
#include "libimg/base/secrets.h"
#include "libimg/engine/engine.h"
#include "libimg/image/arguments.h"
#include "libimg/image/create_settings.h"
#include "libimg/image/option_list.h"
#include "libimg/image/replaced.h"
#include "libimg/storage/module.h"

/* ---- Formats ---- */

const char *img_format_at(size_t i)
{
	for (size_t n = 0; img_drivers[n]; n++)
		if (n == i)
			return img_drivers[n]->name;
	return NULL;
}

const char *img_protocol_at(size_t i)
{
	const struct img_module *module = img_module_at(i);

	return module ? module->name : NULL;
}

const char *img_codec_at(size_t i, const char **missing)
{
	for (size_t n = 0; img_codecs[n]; n++) {
		if (n != i)
			continue;
		if (missing)
			*missing = img_codecs[n]->missing;
		return img_codecs[n]->name;
	}
	return NULL;
}

int img_format_features(const char *format)
{
	const struct img_driver *d = img_driver_named(format);

	if (!d)
		return -ENOENT;
	return (d->plan_write && !(d->features & IMG_DRIVER_READ_ONLY) ? IMG_FORMAT_WRITE : 0) |
	       (d->create ? IMG_FORMAT_CREATE : 0) |
	       (d->features & IMG_DRIVER_BACKING ? IMG_FORMAT_BACKING : 0) |
	       (d->features & IMG_DRIVER_COMPRESS ? IMG_FORMAT_COMPRESS : 0) |
	       (d->check ? IMG_FORMAT_CHECK : 0) | (d->resize ? IMG_FORMAT_RESIZE : 0) |
	       (d->features & IMG_DRIVER_IDENTITY ? IMG_FORMAT_IDENTITY : 0) |
	       (d->features & IMG_DRIVER_COMPRESS_SINK ? IMG_FORMAT_COMPRESS_SINK : 0);
}

static void mark_file(void *user, const struct img_option *row, struct img_value *item)
{
	if (img_create_settings_is_of_file(user, row))
		img_value_add_bool(item, "file", true);
}

struct img_value *img_format_create_options(const char *format)
{
	const struct img_driver *d = img_driver_named(format);
	struct img_option *table = d ? img_create_settings_table(d) : NULL;
	struct img_value *list = NULL;

	if (table)
		list = img_option_list(table, mark_file, (void *)(uintptr_t)d);
	free(table);
	return list;
}

/* ---- Settings ---- */

static const char *plain_path(const char *path)
{
	return strncmp(path, "file:", 5) ? path : path + 5;
}

/*
 * All that can be known before anything is made. On success r is to be cleared. backing_flags: see
 * img_create_settings_init().
 */
static int prepare(const char *path, const struct img_create_options *options, unsigned backing_flags,
		   struct img_create_settings *r, struct img_error *err)
{
	int rc = img_check_create_options(path, options, err);

	return rc ? rc : img_create_settings_init(r, plain_path(path), options, backing_flags, err);
}

int img_create_prepare(const char *path, const struct img_create_options *options,
		       struct img_value **out, struct img_error *err)
{
	struct img_create_settings r;
	struct img_value *v;
	int rc = prepare(path, options, IMG_OPEN_NO_DATA, &r, err);

	if (rc)
		return rc;
	v = img_value_new(IMG_VALUE_OBJECT);
	if (v)
		img_value_add_string(v, "fmt", options->format);
	for (const struct img_option *row = r.table; v && row->name; row++) {
		bool size = !strcmp(row->name, "size");

		if (!size && !img_options_string(r.options, row->name))
			continue;
		switch (row->type) {
		case IMG_OPTION_STRING:
		case IMG_OPTION_PATH:
		case IMG_OPTION_SECRET:
			img_value_add_string(v, row->name,
					     img_options_string(r.options, row->name));
			break;
		case IMG_OPTION_BOOL:
			img_value_add_bool(v, row->name, img_options_bool(r.options, row->name));
			break;
		case IMG_OPTION_NUMBER:
		case IMG_OPTION_SIZE:
			img_value_add_uint(v, row->name,
					   size ? r.asked_size
						: img_options_number(r.options, row->name));
			break;
		}
	}
	img_create_settings_clear(&r);
	if (!v || !img_value_ok(v)) {
		img_value_free(v);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	*out = v;
	return 0;
}

int img_measure(const struct img_create_options *options, struct img_measure_result *out,
		struct img_error *err)
{
	const struct img_driver *d = options->format ? img_driver_named(options->format) : NULL;
	struct img_measure_result result = { 0 };
	struct img_create_settings r;
	int rc;

	if (d && !d->measure)
		return img_fail(err, -ENOTSUP, "Block driver '%s' does not support size measurement",
				d->name);
	rc = prepare("new image", options, IMG_OPEN_NO_DATA, &r, err);
	if (rc)
		return rc;
	rc = r.driver->measure(&r.creating, &result.required, &result.fully_allocated, err);
	img_create_settings_clear(&r);
	if (!rc)
		*out = result;
	return rc;
}

/* ---- Making it ---- */

/* struct img_creating as a driver's create() gets it. */
struct making {
	struct img_creating base;
	struct img *img;
	const struct img_file_attributes *attributes;
	const struct img_secrets *secrets;
};

static int give_passphrase(struct img_creating *c, const char *option, img_passphrase_fn *use,
			   void *user, struct img_error *err)
{
	const struct img_secret_request request = { .image = c->name,
						    .option = option,
						    .is_new = true };

	return img_secrets_use(((struct making *)c)->secrets, img_options_string(c->options, option),
			       &request, use, user, err);
}

/* A further file: the user named it, or the driver made its name from the user's. */
static int create_further_file(struct img_creating *c, const char *name, struct img_storage **out,
			       struct img_error *err)
{
	struct img *img = ((struct making *)c)->img;
	struct img_context *context = img->context;
	struct img_created *grown;
	char *path = img_gate_join(context->path, name);
	struct stat st;
	char *identity = NULL;
	bool taken;
	int rc;

	if (!path)
		return img_fail(err, -ENOMEM, "out of memory");
	taken = !strcmp(path, context->path);
	for (size_t i = 0; i < context->created_count; i++)
		taken |= !strcmp(path, context->created[i].path);
	if (!stat(path, &st))
		identity = img_storage_identify(&st);
	taken = taken || img_context_has(img, identity, true);
	free(identity);
	rc = -EINVAL;
	if (taken) {
		img_fail(err, rc, "%s: further file '%s' is already part of the image", img->name,
			 name);
		goto out;
	}
	if (img_gate_is_protocol(path)) {
		img_fail(err, rc, "%s: further file '%s' begins with a protocol", img->name, name);
		goto out;
	}
	grown = reallocarray(context->created, context->created_count + 1, sizeof(*grown));
	if (!grown) {
		rc = img_fail(err, -ENOMEM, "out of memory");
		goto out;
	}
	context->created = grown;
	rc = img_storage_create_file(path, img_storage_flags(context->flags), out, err);
	if (rc)
		goto out;
	img_storage_set_attributes(*out, ((struct making *)c)->attributes);
	grown[context->created_count++] = (struct img_created){ .path = path, .storage = *out };
	path = NULL;
out:
	free(path);
	return rc;
}

/* Make it by r, which is clear afterwards. name: for messages. */
static int make(struct img_create_settings *r, const char *name,
		const struct img_create_options *options, struct img **out, struct img_error *err)
{
	unsigned flags = (options->flags & ~(unsigned)IMG_OPEN_SHARE) | IMG_OPEN_WRITE;
	struct img_context_opening how = { .io = options->io,
					   .secrets = options->secrets,
					   .created = r->options };
	struct making making = { 0 };
	struct img_storage *file;
	struct img *img = NULL;
	struct img_value *replaced = NULL;
	int rc = img_replaced_list(r->path, r->driver, &replaced, err);

	if (!rc)
		rc = img_storage_create_file(r->path, img_storage_flags(flags), &file, err);
	if (rc)
		goto out;
	img_storage_set_attributes(file, &r->attributes);
	rc = img_context_new(file, name, r->path, r->gate, flags, &img, err);
	if (rc)
		goto out;
	img->context->unpublished = true;
	img->context->replaced = replaced;
	replaced = NULL;
	img->parent = r->backing;
	if (r->backing)
		r->backing->context->above = img;
	r->backing = NULL; /* closed with img from here on */

	making = (struct making){ .base = r->creating,
				  .img = img,
				  .attributes = &r->attributes,
				  .secrets = options->secrets };
	making.base.file = file;
	making.base.create_file = create_further_file;
	making.base.passphrase = give_passphrase;
	making.base.backing = img->parent;
	rc = r->driver->create(&making.base, err);
	img->created = true;
	how.handover = &making.base.handover;
	if (!rc)
		rc = img_context_open(img, r->driver, &how, err);
	img->compress_level = making.base.compress_level;
	if (!rc && img->parent && img->driver->parent_opened)
		rc = img->driver->parent_opened(img, err);
	if (rc)
		goto out;
	if (options->new_size)
		*options->new_size = img->size;
	*out = img;
	img = NULL;
out:
	if (making.base.handover)
		making.base.free_handover(making.base.handover);
	img_value_free(replaced);
	img_context_close(img, NULL);
	img_create_settings_clear(r);
	return rc;
}

int img_create_begin(const char *path, const struct img_create_options *options, struct img **out,
		     struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct img_create_settings r;
	int rc = prepare(path, options, 0, &r, err);

	if (rc)
		return rc;
	if (!r.creating.adds_state)
		return make(&r, strcmp(r.path, plain_path(path)) ? r.path : path, options, out,
			    err);
	rc = img_fail(err, -ENOTSUP,
		      "%s: it is its own backing file: what is added to it as a snapshot begins empty",
		      r.path);
	img_create_settings_clear(&r);
	return rc;
}

/* The further files get their names, all or none new. *done: how many have theirs. */
static int publish_further(struct img *img, size_t *done, struct img_error *err)
{
	struct img_context *context = img->context;
	int rc = 0;

	for (*done = 0; !rc && *done < context->created_count;) {
		struct img_created *c = &context->created[*done];
		struct stat st;

		c->replaces = !lstat(c->path, &st) || errno != ENOENT;
		rc = img_storage_publish(c->storage, !img->unsafe, err);
		if (!rc)
			(*done)++;
	}
	return rc;
}

/* The main file did not follow. */
static void unpublish_further(struct img *img, size_t done)
{
	struct img_context *context = img->context;

	while (done--)
		if (!context->created[done].replaces)
			unlink(context->created[done].path);
}

/*
 * The further files get their names, then the main one, which leads to them: all or none new. Each is on
 * disk, name and all, before what leads to it.
 */
static int publish_files(struct img *img, struct img_error *err)
{
	size_t done;
	int rc = publish_further(img, &done, err);

	if (!rc)
		rc = img_storage_publish(img->file, !img->unsafe, err);
	if (rc)
		unpublish_further(img, done);
	return rc;
}

/* What the image before named, and this one does not. */
static void remove_replaced(struct img *img)
{
	struct img_context *context = img->context;

	for (size_t n = 0; n < img_value_count(context->replaced); n++) {
		const char *path = img_value_string(img_value_at(context->replaced, n));
		bool kept = false;

		for (size_t i = 0; i < context->created_count; i++)
			kept |= !strcmp(path, context->created[i].path);
		if (!kept)
			img_replaced_remove(path, img->driver);
	}
}

int img_publish(struct img *img, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct img_context *context = img->context;
	int rc = img_context_is_ours(img, err);

	if (rc || !context->unpublished)
		return rc;
	rc = img_engine_quiesce(img, IMG_QUIESCE_FOR_READING, err);
	if (rc)
		return rc;
	/* A name that outlives a crash must not lead to a file that did not. */
	for (size_t i = 0; !rc && i < context->created_count; i++) {
		if (!(context->flags & IMG_OPEN_UNSAFE))
			rc = img_storage_sync(context->created[i].storage, err);
	}
	if (!rc && !(context->flags & IMG_OPEN_UNSAFE))
		rc = img_storage_sync(img->file, err);
	if (!rc)
		rc = publish_files(img, err);
	img_engine_resume(img);
	if (rc)
		return rc;
	context->unpublished = false;
	remove_replaced(img);
	return 0;
}

/* ---- A new state of an image that is there ---- */

/* Is this, as far as can be known, not what the file at path holds? */
static bool holds_other(const char *path, const char *text, size_t len)
{
	struct img_storage *s;
	bool other = false;
	char *bytes;

	if (img_storage_open_file(path, IMG_STORAGE_NO_LOCK, &s, NULL))
		return false;
	bytes = malloc(len + 1);
	if (s->size != len)
		other = true;
	else if (bytes && !img_storage_read(s, 0, bytes, len, NULL))
		other = memcmp(bytes, text, len) != 0;
	free(bytes);
	img_storage_close(s);
	return other;
}

static int add_state(struct img_create_settings *r, const struct img_create_options *options,
		     struct img_error *err)
{
	const struct img_open_options how = {
		.format = r->driver->name,
		.references = options->references,
		.flags = (options->flags & ~(unsigned)IMG_OPEN_SHARE) | IMG_OPEN_WRITE,
		.io = options->io,
		.secrets = options->secrets,
	};
	struct making making;
	struct img *img = NULL;
	char *text = NULL;
	size_t len, done = 0;
	int rc;

	img_context_close(r->backing, NULL); /* which is that image, open for reading */
	r->backing = NULL;
	rc = img_open(r->path, &how, &img, err);
	if (rc)
		return rc;
	making = (struct making){ .base = r->creating, .img = img, .attributes = &r->attributes };
	making.base.file = img->file;
	making.base.create_file = create_further_file;
	making.base.backing = img;
	if (options->new_size)
		*options->new_size = img->size;
	rc = img->driver->add_state(img, &making.base, &text, &len, err);
	if (!rc)
		rc = publish_further(img, &done, err);
	if (!rc)
		rc = img_storage_replace(img->file, text, len, !img->unsafe, err);
	/* A failure to make the new text durable may come when it is in place. */
	if (rc && text && holds_other(r->path, text, len))
		unpublish_further(img, done);
	free(text);
	img_context_close(img, NULL); /* it was not written to */
	return rc;
}

int img_create(const char *path, const struct img_create_options *options, struct img_error *err)
{
	struct img_create_settings r;
	struct img *img;
	int rc = prepare(path, options, IMG_OPEN_NO_DATA, &r, err), closed;

	if (!rc && r.creating.adds_state) {
		rc = add_state(&r, options, err);
		img_create_settings_clear(&r);
		return rc;
	}
	if (!rc)
		rc = make(&r, strcmp(r.path, plain_path(path)) ? r.path : path, options, &img, err);
	if (rc)
		return rc;
	rc = img_publish(img, err);
	closed = img_context_close(img, rc ? NULL : err);
	return rc ? rc : closed;
}
