/*
 * Creating images. Everything that can be refused is refused before a file is made (the recipe);
 * then the file is made without a name, the driver writes an empty image into it, and it is opened
 * like any other. It gets its name when it is published, so that nobody ever sees half an image.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/engine/engine.h"
#include "libimg/image/place.h"

/* What the handle of a new image may be asked for. */
enum {
	CREATE_FLAGS = IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT | IMG_OPEN_UNSAFE | IMG_OPEN_UNMAP |
		       IMG_OPEN_WRITETHROUGH | IMG_OPEN_NO_LOCK,
};

/* ---- Formats ---- */

const char *img_format_at(size_t i)
{
	for (size_t n = 0; img_drivers[n]; n++)
		if (n == i)
			return img_drivers[n]->name;
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
	       (d->check ? IMG_FORMAT_CHECK : 0) |
	       (d->resize ? IMG_FORMAT_RESIZE : 0);
}

static const struct img_option size_row = {
	"size", IMG_OPTION_SIZE, "Virtual disk size", NULL, NULL,
};
static const struct img_option backing_rows[] = {
	{ "backing_file", IMG_OPTION_STRING, "File name of a base image", NULL, NULL },
	{ "backing_fmt", IMG_OPTION_STRING, "Image format of the base image", NULL, NULL },
};

static bool has_row(const struct img_option *table, const char *name)
{
	for (; table->name; table++)
		if (!strcmp(table->name, name))
			return true;
	return false;
}

/*
 * The driver's options, and the rows that go without saying where it has none of its own: size
 * first, the backing file behind it. malloc'd; NULL: out of memory.
 */
static struct img_option *make_table(const struct img_driver *d)
{
	static const struct img_option none[] = { { 0 } };
	const struct img_option *own = d->create_options ? d->create_options : none;
	bool add_backing = (d->features & IMG_DRIVER_BACKING) && !has_row(own, "backing_file");
	size_t count = 0, n = 0;
	struct img_option *table;

	while (own[count].name)
		count++;
	table = calloc(count + 1 + 1 + IMG_ARRAY_LEN(backing_rows), sizeof(*table));
	if (!table)
		return NULL;
	if (!has_row(own, "size"))
		table[n++] = size_row;
	for (size_t i = 0; i <= count; i++) {
		/* Behind size, wherever that is. */
		if (add_backing && n && !strcmp(table[n - 1].name, "size")) {
			table[n++] = backing_rows[0];
			table[n++] = backing_rows[1];
		}
		if (i < count)
			table[n++] = own[i];
	}
	return table;
}

struct img_value *img_format_create_options(const char *format)
{
	static const char *const types[] = {
		[IMG_OPTION_STRING] = "string", [IMG_OPTION_BOOL] = "bool",
		[IMG_OPTION_NUMBER] = "number", [IMG_OPTION_SIZE] = "size",
	};
	const struct img_driver *d = img_driver_named(format);
	struct img_value *list = NULL;
	struct img_option *table;

	if (!d)
		return NULL;
	table = make_table(d);
	if (table)
		list = img_value_new(IMG_VALUE_ARRAY);
	if (!list) {
		free(table);
		return NULL;
	}
	for (const struct img_option *row = table; row->name; row++) {
		struct img_value *item = img_value_add_object(list, NULL);

		img_value_add_string(item, "name", row->name);
		img_value_add_string(item, "type", types[row->type]);
		img_value_add_string(item, "help", row->help ? row->help : "");
		if (row->fallback)
			img_value_add_string(item, "default", row->fallback);
		if (row->choices)
			img_value_add_string(item, "choices", row->choices);
	}
	free(table);
	if (!img_value_ok(list)) {
		img_value_free(list);
		return NULL;
	}
	return list;
}

/* ---- The recipe: all that is known before a file is made ---- */

struct recipe {
	const struct img_driver *driver;
	struct img_option *table;
	struct img_options *options;
	struct img_gate *gate;
	struct img *backing;		/* open with its chain; NULL: none, or unchecked */
	uint64_t asked_size;		/* as given, not rounded */
	struct img_creating creating;
};

static void recipe_clear(struct recipe *r)
{
	img_close(r->backing, NULL);
	img_options_free(r->options);
	free(r->table);
	img_gate_release(r->gate);
	memset(r, 0, sizeof(*r));
}

/* A second line under the sentence: what follows from it, as callers of qemu-img expect it. */
static int add_line(struct img_error *err, int rc, const char *line)
{
	char *text;

	if (err && asprintf(&text, "%s\n%s", img_error_text(err), line) >= 0) {
		free(err->text);
		err->text = text;
	}
	return rc;
}

static int check_size(uint64_t size, struct img_error *err)
{
	if (size > INT64_MAX - 511)
		return img_fail(err, -EFBIG, "size: found %" PRIu64 ", allowed at most %" PRId64,
				size, INT64_MAX - 511);
	return 0;
}

static int parse_options(struct recipe *r, const struct img_create_options *options,
			 struct img_error *err)
{
	int rc = 0;

	r->table = make_table(r->driver);
	if (r->table)
		r->options = img_options_new(r->table);
	if (!r->options)
		return img_fail(err, -ENOMEM, "out of memory");
	for (const char *const *o = options->options; !rc && o && *o; o++)
		rc = img_options_parse(r->options, *o, err);
	if (rc)
		return rc;
	if (options->have_size) {
		char text[32];

		if (img_options_has(r->options, "size"))
			return img_fail(err, -EINVAL, "The image size must be specified only once");
		snprintf(text, sizeof(text), "%" PRIu64, options->size);
		rc = check_size(options->size, err);
		if (!rc)
			rc = img_options_set(r->options, "size", text, err);
	}
	if (!rc && (options->backing_name || options->backing_format) &&
	    !(r->driver->features & IMG_DRIVER_BACKING))
		return img_fail(err, -ENOTSUP, "Backing file not supported for file format '%s'",
				r->driver->name);
	if (!rc && options->backing_name)
		rc = img_options_set(r->options, "backing_file", options->backing_name, err);
	if (!rc && options->backing_format)
		rc = img_options_set(r->options, "backing_fmt", options->backing_format, err);
	return rc;
}

/* A format that exists, though perhaps without a driver here. */
static bool format_exists(const char *name)
{
	for (const struct img_signature *k = img_known_signatures; k->name; k++)
		if (!strcmp(k->name, name))
			return true;
	return img_driver_named(name);
}

static int open_backing(struct recipe *r, const char *path,
			const struct img_create_options *options, struct img_error *err)
{
	const char *name = r->creating.backing_name, *format = r->creating.backing_format;
	struct img_open_options how = {
		.flags = options->flags & (unsigned)(IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT |
						     IMG_OPEN_NO_LOCK | IMG_OPEN_SHARE),
		.io = options->io,
	};
	char line[64];
	int rc;

	rc = img_open_named(path, name, format, NULL, r->gate, &how, NULL, &r->backing, err);
	if (!rc)
		rc = img_open_chain(r->backing, &how, err);
	if (rc)
		return add_line(err, rc, "Could not open backing image.");
	if (!format) {
		img_fail(err, -EINVAL, "Backing file specified without backing format");
		snprintf(line, sizeof(line), "Detected format of %s.", r->backing->driver->name);
		return add_line(err, -EINVAL, line);
	}
	return 0;
}

static int settle_backing(struct recipe *r, const char *path,
			  const struct img_create_options *options, struct img_error *err)
{
	struct img_creating *c = &r->creating;
	struct stat st;
	char *full;
	bool same;

	if (!(r->driver->features & IMG_DRIVER_BACKING))
		return 0;
	c->backing_name = img_options_string(r->options, "backing_file");
	c->backing_format = img_options_string(r->options, "backing_fmt");
	if (!c->backing_name && c->backing_format)
		return img_fail(err, -EINVAL, "Backing format cannot be used without backing file");
	if (!c->backing_name)
		return 0;
	if (!*c->backing_name)
		return img_fail(err, -EINVAL, "Expected backing file name, got empty string");
	full = img_gate_join(path, c->backing_name);
	if (!full)
		return img_fail(err, -ENOMEM, "out of memory");
	same = !strcmp(full, path);
	free(full);
	if (same)
		return img_fail(err, -EINVAL, "Error: Trying to create an image with the same "
				"filename as the backing file");
	if (options->backing_unchecked && !c->backing_format)
		return img_fail(err, -EINVAL, "Backing file specified without backing format");
	if (options->backing_unchecked)
		return format_exists(c->backing_format) ? 0 :
		       img_fail(err, -EINVAL, "Unknown driver '%s'", c->backing_format);
	int rc = open_backing(r, path, options, err);

	if (!rc && !stat(path, &st) && img_place_in_chain(r->backing, st.st_dev, st.st_ino))
		rc = img_fail(err, -EINVAL, "Error: Trying to create an image in a file of its own "
			      "backing chain");
	return rc;
}

static int settle_size(struct recipe *r, struct img_error *err)
{
	uint64_t size = 0;

	if (img_options_has(r->options, "size"))
		size = img_options_number(r->options, "size");
	else if (r->backing)
		size = r->backing->size;
	else
		return img_fail(err, -EINVAL, "Image creation needs a size parameter");
	r->asked_size = size;
	r->creating.size = round_up_u64(size, 512);
	return check_size(size, err);
}

static int settle_preallocation(struct recipe *r, struct img_error *err)
{
	static const char *const modes[] = {
		[IMG_PREALLOCATE_OFF] = "off", [IMG_PREALLOCATE_METADATA] = "metadata",
		[IMG_PREALLOCATE_FALLOC] = "falloc", [IMG_PREALLOCATE_FULL] = "full",
	};
	const char *text = NULL;

	if (has_row(r->table, "preallocation"))
		text = img_options_string(r->options, "preallocation");
	if (!text)
		return 0;
	for (size_t i = 0; i < IMG_ARRAY_LEN(modes); i++) {
		if (!strcmp(text, modes[i])) {
			r->creating.preallocate = (enum img_preallocate)i;
			return 0;
		}
	}
	return img_fail(err, -EINVAL, "Parameter 'preallocation' does not accept value '%s'", text);
}

/* On failure r is clear. path: without "file:". */
static int recipe_make(struct recipe *r, const char *path,
		       const struct img_create_options *options, struct img_error *err)
{
	int rc;

	memset(r, 0, sizeof(*r));
	if (!options->format)
		return img_fail(err, -EINVAL, "%s: no format given", path);
	r->driver = img_driver_named(options->format);
	if (!r->driver)
		return img_fail(err, -ENOENT, "Unknown file format '%s'", options->format);
	if (!r->driver->create)
		return img_fail(err, -ENOTSUP, "Format driver '%s' does not support image creation",
				options->format);
	r->creating.name = path;
	rc = img_gate_new(options->references, &r->gate, err);
	if (!rc)
		rc = parse_options(r, options, err);
	r->creating.options = r->options;
	if (!rc)
		rc = settle_backing(r, path, options, err);
	if (!rc)
		rc = settle_size(r, err);
	if (!rc)
		rc = settle_preallocation(r, err);
	r->creating.backing = r->backing;
	if (!rc && r->driver->create_check)
		rc = r->driver->create_check(&r->creating, err);
	if (rc)
		recipe_clear(r);
	return rc;
}

static const char *plain_path(const char *path)
{
	return strncmp(path, "file:", 5) ? path : path + 5;
}

int img_create_prepare(const char *path, const struct img_create_options *options,
		       struct img_value **out, struct img_error *err)
{
	struct recipe r;
	struct img_value *v;
	int rc = recipe_make(&r, plain_path(path), options, err);

	if (rc)
		return rc;
	v = img_value_new(IMG_VALUE_OBJECT);
	if (v)
		img_value_add_string(v, "fmt", r.driver->name);
	for (const struct img_option *row = r.table; v && row->name; row++) {
		bool size = !strcmp(row->name, "size");

		if (!size && !img_options_string(r.options, row->name))
			continue;
		switch (row->type) {
		case IMG_OPTION_STRING:
			img_value_add_string(v, row->name, img_options_string(r.options, row->name));
			break;
		case IMG_OPTION_BOOL:
			img_value_add_bool(v, row->name, img_options_bool(r.options, row->name));
			break;
		case IMG_OPTION_NUMBER:
		case IMG_OPTION_SIZE:
			img_value_add_uint(v, row->name, size ? r.asked_size :
					   img_options_number(r.options, row->name));
			break;
		}
	}
	recipe_clear(&r);
	if (!v || !img_value_ok(v)) {
		img_value_free(v);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	*out = v;
	return 0;
}

/* ---- Making it ---- */

/* struct img_creating as a driver's create() gets it. */
struct making {
	struct img_creating base;
	struct img *img;
};

/* A further file: the user named it, or the driver made its name from the user's. */
static int create_another(struct img_creating *c, const char *name, struct img_storage **out,
			  struct img_error *err)
{
	struct img *img = ((struct making *)c)->img;
	struct img_place *place = img->place;
	struct img_created *grown;
	char *path = img_gate_join(place->path, name);
	bool taken;
	struct stat st;
	int rc;

	if (!path)
		return img_fail(err, -ENOMEM, "out of memory");
	taken = !strcmp(path, place->path);
	for (size_t i = 0; i < place->created_count; i++)
		taken |= !strcmp(path, place->created[i].path);
	rc = -EINVAL;
	if (taken || (!stat(path, &st) && img_place_in_chain(img, st.st_dev, st.st_ino))) {
		img_fail(err, rc, "%s: further file '%s' is already part of the image", img->name,
			 name);
		goto out;
	}
	if (img_gate_is_protocol(path)) {
		img_fail(err, rc, "%s: further file '%s' begins with a protocol", img->name, name);
		goto out;
	}
	grown = reallocarray(place->created, place->created_count + 1, sizeof(*grown));
	if (!grown) {
		rc = img_fail(err, -ENOMEM, "out of memory");
		goto out;
	}
	place->created = grown;
	rc = img_storage_create_file(path, img_storage_flags(place->flags), out, err);
	if (rc)
		goto out;
	grown[place->created_count++] = (struct img_created) { .path = path, .storage = *out };
	path = NULL;
out:
	free(path);
	return rc;
}

int img_create_begin(const char *path, const struct img_create_options *options, struct img **out,
		     struct img_error *err)
{
	const char *plain = plain_path(path);
	unsigned flags = (options->flags & (unsigned)CREATE_FLAGS) | IMG_OPEN_WRITE;
	struct img_open_options how = { .io = options->io };
	struct img_storage *file;
	struct making making;
	struct recipe r;
	struct img *img = NULL;
	int rc = recipe_make(&r, plain, options, err);

	if (rc)
		return rc;
	rc = img_storage_create_file(plain, img_storage_flags(flags), &file, err);
	if (rc)
		goto out;
	rc = img_place_new(file, path, plain, r.gate, flags, &img, err);
	if (rc)
		goto out;
	img->place->unpublished = true;
	img->parent = r.backing;
	if (r.backing)
		r.backing->place->above = img;
	r.backing = NULL;	/* closed with img from here on */

	making = (struct making) { .base = r.creating, .img = img };
	making.base.file = file;
	making.base.another = create_another;
	making.base.backing = img->parent;
	rc = r.driver->create(&making.base, err);
	img->made = true;
	if (!rc)
		rc = img_place_open(img, r.driver, &how, err);
	if (!rc && img->parent && img->driver->parent_opened)
		rc = img->driver->parent_opened(img, err);
	if (rc)
		goto out;
	*out = img;
	img = NULL;
out:
	img_close(img, NULL);
	recipe_clear(&r);
	return rc;
}

int img_publish(struct img *img, struct img_error *err)
{
	struct img_place *place = img->place;
	int rc;

	if (!place->unpublished)
		return 0;
	rc = img_engine_quiet(img, false, err);
	if (rc)
		return rc;
	/* A name that outlives a crash must not lead to a file that did not. */
	for (size_t i = 0; !rc && i < place->created_count; i++) {
		if (!(place->flags & IMG_OPEN_UNSAFE))
			rc = img_storage_sync(place->created[i].storage, err);
	}
	if (!rc && !(place->flags & IMG_OPEN_UNSAFE))
		rc = img_storage_sync(img->file, err);
	/* The main file last: it leads to the others. */
	for (size_t i = 0; !rc && i < place->created_count; i++)
		rc = img_storage_publish(place->created[i].storage, err);
	if (!rc)
		rc = img_storage_publish(img->file, err);
	img_engine_resume(img);
	if (rc)
		return rc;
	place->unpublished = false;
	img_place_identify(img);
	return 0;
}

int img_create(const char *path, const struct img_create_options *options, struct img_error *err)
{
	struct img *img;
	int rc, closed;

	rc = img_create_begin(path, options, &img, err);
	if (rc)
		return rc;
	rc = img_publish(img, err);
	closed = img_close(img, rc ? NULL : err);
	return rc ? rc : closed;
}
