/*
 * Converting: from sources that are open to a target that is complete. What can be refused is refused
 * before anything is made; how the target is written, in one go or here and there, is decided in one
 * place; it has its name only when all of it is there.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/value.h"
#include "libimg/engine/engine.h"
#include "libimg/image/arguments.h"
#include "libimg/image/context.h"
#include "libimg/image/node.h"
#include "libimg/image/sink_image.h"
#include "libimg/jobs/copy_to_sink.h"
#include "libimg/storage/module.h"

/*
 * Of a target whose size the end of the input tells: it grows with what comes. Not 0, of which some
 * formats make an image without anything that could become longer.
 */
#define FIRST_SIZE (UINT64_C(1) << 20)

struct job {
	const struct img_convert_options *o;
	enum img_convert_stage *stage;
	struct img_create_options create;
	struct img_copy_options copy;
	bool sized;
	uint64_t size; /* of all sources, if sized */
	/* What create.options become where the source's identifiers are kept; NULL: nothing. */
	char **kept;	      /* malloc'd, and each of them */
	const char **options; /* those, then the caller's, which count more */
	size_t kept_count;
	struct img_error *err;
};

static int check_options(const struct job *j)
{
	const struct img_convert_options *o = j->o;
	int rc = img_check_reserved("conversion", o->reserved, IMG_ARRAY_LEN(o->reserved), j->err);

	if (rc)
		return rc;
	if (!o->input == !o->source_count)
		return img_fail(j->err, -EINVAL, "a conversion needs sources, or an input");
	if ((o->path != NULL) + (o->target != NULL) + o->to_fd != 1)
		return img_fail(j->err, -EINVAL, "a conversion needs one target");
	return 0;
}

static int measure(struct job *j)
{
	j->sized = true;
	if (j->o->input) {
		j->sized = img_source_size(j->o->input, &j->size);
		return 0;
	}
	for (size_t i = 0; i < j->o->source_count; i++)
		if (!add_u64(j->size, img_size(j->o->sources[i]), &j->size) || j->size > INT64_MAX)
			return img_fail(j->err, -EFBIG,
					"The sources are larger together than an image can be");
	return 0;
}

static int check_compression(const struct job *j, const char *format)
{
	int features = img_format_features(format);

	if (j->create.compress &&
	    !(features & (IMG_FORMAT_COMPRESS | IMG_FORMAT_COMPRESS_SINK)))
		return img_fail(j->err, -ENOTSUP, "Compression not supported for this file format");
	return 0;
}

static int belongs(const struct job *j, const char *target, const struct img *source)
{
	return img_fail(j->err, -EINVAL,
			"'%s' cannot be the target: it belongs to the source '%s'", target,
			img_name(source));
}

/* ---- A target that exists ---- */

/* Is source, or what it is read from, made of bytes that target's own are? */
static bool overlaps(const struct img *source, const struct img *target)
{
	if (img_context_shares(source, target->file))
		return true;
	for (size_t i = 0; i < target->context->part_count; i++)
		if (img_context_shares(source, target->context->parts[i]))
			return true;
	return false;
}

static int check_target(const struct job *j, const struct img *target)
{
	for (size_t i = 0; i < j->o->source_count; i++)
		if (overlaps(j->o->sources[i], target))
			return belongs(j, img_name(target), j->o->sources[i]);
	if (j->copy.target_is_zero && target->parent)
		return img_fail(j->err, -EINVAL,
				"Cannot use --target-is-zero when the destination image has a backing file");
	if (img_size(target) < j->size)
		return img_fail(j->err, -ENOSPC, "%s: %llu bytes do not fit in %llu",
				img_name(target), (unsigned long long)j->size,
				(unsigned long long)img_size(target));
	if (j->create.compress && target->encrypted)
		return img_fail(j->err, -ENOTSUP,
				"%s: Compression and encryption not supported at the same time",
				img_name(target));
	if (j->create.compress && (img_format_features(img_format(target)) & IMG_FORMAT_COMPRESS) &&
	    !target->compress_codec)
		return img_fail(j->err, -ENOTSUP,
				"%s: Compression not supported: what the guest has lies in a data file, "
				"which cannot hold compressed clusters",
				img_name(target));
	return check_compression(j, img_format(target));
}

static int copy_to(struct job *j, struct img *target)
{
	const struct img_convert_options *o = j->o;
	int rc;

	*j->stage = IMG_CONVERT_COPY;
	/* A kind that is not compressed, of a format some of whose kinds are, is written as it is. */
	j->copy.compress = j->create.compress &&
			   (img_format_features(img_format(target)) & IMG_FORMAT_COMPRESS);
	rc = o->input ? img_copy_source(o->input, target, &j->copy, j->err)
		      : img_copy(o->sources, o->source_count, target, &j->copy, j->err);
	if (!rc && j->copy.progress && j->copy.progress(j->copy.user, j->size, j->size))
		rc = img_fail(j->err, -ECANCELED, "interrupted");
	return rc;
}

/* ---- A new target ---- */

static void mix(uint64_t identity[2], uint64_t value)
{
	identity[0] = identity[0] * UINT64_C(0x9e3779b97f4a7c15) + value;
	identity[1] += identity[0] >> 32;
}

/* False: when it was changed is not known. */
static bool mix_time(uint64_t identity[2], struct img_storage *s)
{
	uint64_t modified = img_storage_modified(s);

	mix(identity, modified);
	return modified;
}

/*
 * Two states of a disk may have the same samples, but not the same times: children of an image that
 * is made anew from a changed disk must notice. False: a time is not known (a device).
 */
static bool mix_times(struct job *j)
{
	bool known = true;

	for (size_t i = 0; i < j->o->source_count; i++) {
		for (const struct img *img = j->o->sources[i]; img; img = img->parent) {
			known = mix_time(j->create.identity, img->file) && known;
			for (size_t k = 0; k < img->context->part_count; k++)
				known = mix_time(j->create.identity, img->context->parts[k]) &&
					known;
		}
	}
	return known;
}

/* Images of one disk that are made by other options are not the same. */
static void mix_options(struct job *j)
{
	for (const char *const *text = j->create.options; text && *text; text++)
		for (const char *c = *text; *c; c++)
			mix(j->create.identity, (uint8_t)*c);
	mix(j->create.identity, j->create.compress);
}

/*
 * The same input and options give the same output: what a format makes up at creation comes from the
 * content, from when that was last changed, and from the options. Random where one of them is not
 * known beforehand.
 */
static int resolve_identity(struct job *j)
{
	uint64_t *identity = j->create.identity;
	bool known;
	int rc;

	if (!(img_format_features(j->create.format) & IMG_FORMAT_IDENTITY) || j->o->input)
		return 0;
	*j->stage = IMG_CONVERT_READ;
	rc = img_content_identity(j->o->sources, j->o->source_count, identity, j->err);
	known = !rc && mix_times(j);
	if (known)
		mix_options(j);
	else
		identity[0] = identity[1] = 0;
	identity[0] |= known; /* 0, 0 means random */
	if (rc && j->copy.salvage) {
		img_error_clear(j->err);
		rc = 0;
	}
	return rc;
}

/* ---- Identifiers that are kept ---- */

static bool has_row(const struct img_driver *d, const char *name)
{
	for (const struct img_option *row = d->create_options; row && row->name; row++)
		if (!strcmp(row->name, name))
			return true;
	return false;
}

/* The source's, as far as the new image's format has them. */
static int add_identifiers(struct job *j, const struct img_driver *d, const struct img_value *ids)
{
	size_t count = img_value_count(ids), given = 0;

	while (j->create.options && j->create.options[given])
		given++;
	j->kept = calloc(count, sizeof(*j->kept));
	j->options = calloc(count + given + 1, sizeof(*j->options));
	if (!j->kept || !j->options)
		return img_fail(j->err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < count; i++) {
		const char *name = img_value_key_at(ids, i);
		char **text = &j->kept[j->kept_count];

		if (!has_row(d, name))
			continue;
		if (asprintf(text, "%s=%s", name, img_value_string(img_value_at(ids, i))) < 0) {
			*text = NULL;
			return img_fail(j->err, -ENOMEM, "out of memory");
		}
		j->options[j->kept_count++] = *text;
	}
	if (given)
		memcpy(j->options + j->kept_count, j->create.options, given * sizeof(*j->options));
	j->create.options = j->options;
	return 0;
}

static int keep_identifiers(struct job *j)
{
	const struct img_driver *d = img_driver_named(j->create.format);
	const struct img *source;
	struct img_value *ids;
	int rc = 0;

	if (!j->o->keep_identifiers)
		return 0;
	if (j->o->source_count != 1)
		return img_fail(j->err, -EINVAL,
				"The identifiers of one image can be kept, found %s",
				j->o->input ? "a pipe" : "several");
	source = j->o->sources[0];
	if (!has_row(d, "uuid"))
		return img_fail(j->err, -ENOTSUP,
				"The identifiers of '%s' cannot be kept: images of format %s have none",
				img_name(source), d->name);
	ids = img_value_new(IMG_VALUE_OBJECT);
	if (!ids)
		return img_fail(j->err, -ENOMEM, "out of memory");
	if (source->driver->identifiers)
		rc = source->driver->identifiers(source, ids, j->err);
	if (!rc && !img_value_ok(ids))
		rc = img_fail(j->err, -ENOMEM, "out of memory");
	if (!rc && !img_value_get(ids, "uuid"))
		rc = img_fail(j->err, -ENOTSUP,
			      "The identifiers of '%s' cannot be kept: the image, of format %s, has no UUID",
			      img_name(source), img_format(source));
	if (!rc)
		rc = add_identifiers(j, d, ids);
	img_value_free(ids);
	return rc;
}

static void free_identifiers(struct job *j)
{
	for (size_t i = 0; i < j->kept_count; i++)
		free(j->kept[i]);
	free(j->kept);
	free(j->options);
}

static int check_creation(const struct job *j)
{
	const struct img_create_options *c = &j->create;
	int features = c->format ? img_format_features(c->format) : -ENOENT;

	if (features < 0)
		return img_fail(j->err, features, "Unknown file format '%s'",
				c->format ? c->format : "");
	if (c->backing_name && !(features & IMG_FORMAT_BACKING))
		return img_fail(j->err, -ENOTSUP, "Backing file not supported for file format '%s'",
				c->format);
	if (c->backing_name && j->o->source_count > 1)
		return img_fail(j->err, -EINVAL,
				"Having a backing file for the target makes no sense when "
				"concatenating multiple input images");
	if (c->backing_name && !c->backing_format)
		return img_fail(j->err, -EINVAL,
				"Use of backing file requires explicit backing format");
	return check_compression(j, c->format);
}

static int write_stream(struct job *j, struct img_sink_image *s)
{
	const struct img_convert_options *o = j->o;
	struct img_copy_options how = j->copy;

	how.sparse_bytes = o->sink_sparse_bytes;
	return o->input ? img_copy_source_into_sink(o->input, s, &how, j->err)
			: img_copy_into_sink(o->sources, o->source_count, s, &how, j->err);
}

/* Options may round the size, which the end of the input has told. */
static int round_size(struct job *j, struct img *target)
{
	struct img_create_options create = j->create;
	struct img_value *settings;
	uint64_t size;
	int rc;

	create.size = img_size(target);
	rc = img_create_prepare(j->o->path, &create, &settings, j->err);
	if (rc)
		return rc;
	size = img_value_uint(img_value_get(settings, "size"));
	img_value_free(settings);
	return size > img_size(target) ? img_resize(target, size, IMG_PREALLOCATE_OFF, j->err) : 0;
}

static int write_image(struct job *j)
{
	struct img *target;
	int rc = img_create_begin(j->o->path, &j->create, &target, j->err), closed;

	if (rc)
		return rc;
	rc = copy_to(j, target);
	if (!rc && !j->sized)
		rc = round_size(j, target);
	if (!rc && j->create.new_size)
		*j->create.new_size = img_size(target);
	if (!rc) {
		*j->stage = IMG_CONVERT_CREATE;
		rc = img_publish(target, j->err);
	}
	if (!rc)
		*j->stage = IMG_CONVERT_FINISH;
	closed = img_close(target, rc ? NULL : j->err); /* one that was not published disappears */
	return rc ? rc : closed;
}

/* Is room to be allocated beforehand? */
static int is_preallocated(const struct job *j, bool *is)
{
	struct img_value *settings;
	const char *how;
	int rc = img_create_prepare(j->o->path, &j->create, &settings, j->err);

	if (rc)
		return rc;
	how = img_value_string(img_value_get(settings, "preallocation"));
	*is = how && strcmp(how, "off") != 0;
	img_value_free(settings);
	return 0;
}

/* What needs the size of an input that only its end tells. */
static int check_unknown_size(const struct job *j)
{
	const char *why = NULL;
	bool preallocated = false;

	if (j->sized)
		return 0;
	if (j->o->to_fd)
		why = "output to a pipe begins with it";
	else if (!(img_format_features(j->create.format) & IMG_FORMAT_RESIZE))
		why = "images of this format cannot be made larger";
	else if (j->create.backing_name)
		why = "the target has a backing file";
	if (!why) {
		int rc = is_preallocated(j, &preallocated);

		if (rc)
			return rc;
	}
	if (preallocated)
		why = "room is to be allocated beforehand";
	return why ? img_fail(j->err, -EINVAL, "The size of a raw disk from a pipe must be given: %s",
			      why)
		   : 0;
}

/* ---- A target that a name of a protocol leads to ---- */

/* Nothing can be created there: the disk that is there is written into. */
static bool is_export(const char *path)
{
	const struct img_module *m = NULL;
	struct img_node *node = NULL;

	if (!strncmp(path, "json:", strlen("json:")) || img_node_parse_name(path, &node, NULL))
		return false;
	if (img_node_get(node, "file.driver"))
		m = img_module_named(img_node_get(node, "file.driver"));
	img_node_free(node);
	return m && !m->files;
}

/* Its bytes are the disk, as a device's are. */
static int check_export(const struct job *j)
{
	const struct img_driver *d = img_driver_named(j->create.format);
	bool preallocated;
	int rc;

	if (!d || !(d->features & IMG_DRIVER_PLAIN))
		return img_fail(j->err, -ENOTSUP,
				"%s: an image of format %s is not created in an export; one that is "
				"there can be written into",
				j->o->path, j->create.format);
	rc = is_preallocated(j, &preallocated);
	if (!rc && preallocated)
		rc = img_fail(j->err, -EINVAL,
			      "%s: an export has its room already, preallocation cannot be used",
			      j->o->path);
	return rc;
}

static int fill_export(struct job *j)
{
	struct img_open_options how = {
		.format = j->create.format,
		.flags = (j->create.flags & ~(unsigned)IMG_OPEN_SHARE) | IMG_OPEN_WRITE,
		.references = j->create.references,
		.io = j->create.io,
		.secrets = j->create.secrets,
	};
	struct img *target;
	int rc = check_export(j), closed;

	if (rc)
		return rc;
	rc = img_open(j->o->path, &how, &target, j->err);
	if (rc)
		return rc;
	if (img_size(target) < j->size)
		rc = img_fail(j->err, -ENOSPC,
			      "%s: the export is too small: %llu bytes do not fit in %llu", j->o->path,
			      (unsigned long long)j->size, (unsigned long long)img_size(target));
	if (!rc)
		rc = check_target(j, target);
	if (!rc)
		rc = copy_to(j, target);
	if (!rc)
		*j->stage = IMG_CONVERT_FINISH;
	closed = img_close(target, rc ? NULL : j->err);
	return rc ? rc : closed;
}

static int make(struct job *j)
{
	struct img_sink_image *s;
	int rc = check_creation(j);

	if (!rc)
		rc = keep_identifiers(j);
	j->create.size = j->sized ? j->size : FIRST_SIZE;
	j->create.have_size = true;
	if (!rc && j->o->path && is_export(j->o->path))
		return fill_export(j);
	if (!rc)
		rc = check_unknown_size(j);
	j->copy.resize_target = true;
	j->copy.share_backing = j->create.backing_name;
	for (size_t i = 0; !rc && j->o->path && i < j->o->source_count; i++)
		if (img_depends_on(j->o->sources[i], j->o->path))
			rc = belongs(j, j->o->path, j->o->sources[i]);
	if (!rc)
		rc = resolve_identity(j);
	if (rc)
		return rc;
	/* Is it one that is written from front to end? */
	*j->stage = IMG_CONVERT_CREATE;
	rc = img_sink_image_begin(j->o->path, j->o->fd, &j->create, &s, j->err);
	if (rc)
		return rc;
	if (s)
		rc = write_stream(j, s);
	else if (j->o->path)
		rc = write_image(j);
	else
		rc = img_sink_image_refuse(j->create.format, j->err);
	img_sink_image_free(s);
	return rc;
}

int img_convert(const struct img_convert_options *options, enum img_convert_stage *stage,
		struct img_error *err)
{
	enum img_convert_stage ignored = IMG_CONVERT_CHECK;
	struct job j = {
		.o = options,
		.stage = stage ? stage : &ignored,
		.create = options->create,
		.copy = options->copy,
		.err = err,
	};
	int rc = check_options(&j);

	*j.stage = IMG_CONVERT_CHECK;
	if (!rc)
		rc = measure(&j);
	if (rc)
		return rc;
	if (!options->target) {
		rc = make(&j);
		free_identifiers(&j);
		return rc;
	}
	if (options->keep_identifiers)
		return img_fail(err, -EINVAL, "%s: an image that is there has its own identifiers",
				img_name(options->target));
	j.copy.resize_target = false;
	rc = check_target(&j, options->target);
	return rc ? rc : copy_to(&j, options->target);
}
