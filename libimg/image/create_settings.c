/*
 * Settings of a new image: the driver's rows, those that all formats with a backing file have, and
 * those of the file make one table, against which the options are parsed.
 */
#include "libimg/image/create_settings.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "libimg/base/arith.h"
#include "libimg/base/secrets.h"
#include "libimg/image/folder.h"
#include "libimg/storage/module.h"

static const struct img_option size_row = {
	"size",
	IMG_OPTION_SIZE,
	"Virtual disk size",
	NULL,
	NULL,
};
static const struct img_option backing_rows[] = {
	{ "backing_file", IMG_OPTION_STRING, "File name of a base image", NULL, NULL },
	{ "backing_fmt", IMG_OPTION_STRING, "Image format of the base image", NULL, NULL },
};

/* Of the files, whatever is in them. */
static const struct img_option file_rows[] = {
	{ "nocow", IMG_OPTION_BOOL, "Turn off copy-on-write (valid only on btrfs)", NULL, NULL },
	{ "extent_size_hint", IMG_OPTION_SIZE, "Extent size hint for the image file, 0 to disable",
	  NULL, NULL },
};

enum { DEFAULT_EXTENT_HINT = 1 << 20 };

static bool has_row(const struct img_option *table, const char *name)
{
	for (; table->name; table++)
		if (!strcmp(table->name, name))
			return true;
	return false;
}

bool img_create_settings_is_of_file(const struct img_driver *d, const struct img_option *row)
{
	for (size_t i = 0; i < IMG_ARRAY_LEN(file_rows); i++)
		if (!strcmp(row->name, file_rows[i].name))
			return !d->create_options || !has_row(d->create_options, row->name);
	return false;
}

struct img_option *img_create_settings_table(const struct img_driver *d)
{
	static const struct img_option none[] = { { 0 } };
	const struct img_option *own = d->create_options ? d->create_options : none;
	bool add_backing = (d->features & IMG_DRIVER_BACKING) && !has_row(own, "backing_file");
	size_t count = 0, n = 0;
	struct img_option *table;

	while (own[count].name)
		count++;
	table = calloc(count + 1 + 1 + IMG_ARRAY_LEN(backing_rows) + IMG_ARRAY_LEN(file_rows),
		       sizeof(*table));
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
	for (size_t i = 0; i < IMG_ARRAY_LEN(file_rows); i++)
		if (!has_row(own, file_rows[i].name))
			table[n++] = file_rows[i];
	return table;
}

void img_create_settings_clear(struct img_create_settings *r)
{
	img_context_close(r->backing, NULL);
	img_options_free(r->options);
	free(r->table);
	free(r->path);
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
		return img_fail_range(err, -EFBIG, size, 0, INT64_MAX - 511, "size");
	return 0;
}

static int parse_options(struct img_create_settings *r, const struct img_create_options *options,
			 struct img_error *err)
{
	int rc = 0;

	r->table = img_create_settings_table(r->driver);
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

/*
 * A name with folders in it starts where the user is, if there is such a folder; images name their
 * files from their own. *out: malloc'd; NULL: name stays as it is. -ENOMEM.
 */
static int name_from_image(const char *path, const char *name, char **out)
{
	const char *last = strrchr(name, '/'), *slash = strrchr(path, '/');
	char *given = NULL, *own = NULL, *from = NULL, *folder = NULL;
	size_t len;
	int rc = 0;

	*out = NULL;
	if (!last || *name == '/')
		return 0;
	given = strndup(name, (size_t)(last - name));
	own = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	if (!given || !own) {
		rc = -ENOMEM;
		goto out;
	}
	from = realpath(given, NULL);
	folder = realpath(own, NULL);
	if (!from || !folder)
		goto out;
	len = strcmp(folder, "/") ? strlen(folder) : 0;
	if (!strcmp(from, folder))
		rc = asprintf(out, "%s", last + 1);
	else if (!strncmp(from, folder, len) && from[len] == '/')
		rc = asprintf(out, "%s%s", from + len + 1, last);
	else
		rc = asprintf(out, "%s%s", from, last);
	if (rc < 0)
		*out = NULL;
	rc = rc < 0 ? -ENOMEM : 0;
out:
	free(given);
	free(own);
	free(from);
	free(folder);
	return rc;
}

static int resolve_paths(struct img_create_settings *r, const char *path, struct img_error *err)
{
	int rc = 0;

	for (const struct img_option *row = r->table; !rc && row->name; row++) {
		char *name = NULL;

		if (row->type != IMG_OPTION_PATH || !img_options_has(r->options, row->name))
			continue;
		rc = name_from_image(path, img_options_string(r->options, row->name), &name);
		if (rc)
			img_fail(err, rc, "out of memory");
		else if (name)
			rc = img_options_set(r->options, row->name, name, err);
		free(name);
	}
	return rc;
}

/* Before anything of a file that is there is lost. */
static int check_secrets(const struct img_create_settings *r, const struct img_secrets *secrets,
			 struct img_error *err)
{
	int rc = 0;

	for (const struct img_option *row = r->table; !rc && row->name; row++) {
		const uint8_t *bytes;
		size_t len;

		if (row->type != IMG_OPTION_SECRET || !img_options_has(r->options, row->name))
			continue;
		rc = img_secrets_bytes(secrets, img_options_string(r->options, row->name), &bytes,
				       &len, err);
	}
	return rc;
}

static int resolve_attributes(struct img_create_settings *r, struct img_error *err)
{
	struct img_file_attributes *a = &r->attributes;
	bool given = img_options_has(r->options, "extent_size_hint");
	uint64_t hint = DEFAULT_EXTENT_HINT;

	if (given)
		hint = img_options_number(r->options, "extent_size_hint");
	if (hint > UINT32_MAX)
		return img_fail_range(err, -EINVAL, hint, 0, UINT32_MAX, "extent_size_hint");
	*a = (struct img_file_attributes){
		.nocow = img_options_bool(r->options, "nocow"),
		.hint_given = given,
		.extent_size_hint = (uint32_t)hint,
	};
	return 0;
}

/* What is at path now, as far as it matters to what can be made there. */
static int inspect_target(struct img_create_settings *r, const char *path, const char *format,
			  struct img_error *err)
{
	const struct img_module *m = img_module_named(format);
	struct stat st;

	r->creating.device = !stat(path, &st) && S_ISBLK(st.st_mode);
	if (m && m->devices && !r->creating.device)
		return img_fail(err, -EINVAL,
				"'%s' driver requires '%s' to be either a character or block device",
				format, path);
	return 0;
}

/* A format that exists, though perhaps without a driver here. */
static bool format_exists(const char *name)
{
	for (const struct img_signature *k = img_signatures; k->name; k++)
		if (!strcmp(k->name, name))
			return true;
	return img_driver_named(name);
}

static int open_backing(struct img_create_settings *r, const char *path,
			const struct img_create_options *options, unsigned flags,
			struct img_error *err)
{
	const char *name = r->creating.backing_name, *format = r->creating.backing_format;
	struct img_open_options how = {
		.flags = flags |
			 (options->flags & (unsigned)(IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT |
						      IMG_OPEN_NO_LOCK | IMG_OPEN_SHARE)),
		.io = options->io,
		.secrets = options->secrets,
	};
	char line[64];
	int rc;

	if (r->creating.adds_state) /* the main file of a folder */
		rc = img_open_stored("", r->path, format, r->gate, &how, &r->backing, err);
	else
		rc = img_open_stored(path, name, format, r->gate, &how, &r->backing, err);
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

/* What is made must be such that it can be opened: it is one more image of the chain. */
static int check_depth(const struct img *backing, struct img_error *err)
{
	size_t count = 1;

	for (const struct img *i = backing; i; i = i->parent)
		count++;
	if (count <= IMG_CHAIN_MAX)
		return 0;
	return img_fail(err, -ELOOP,
			"The chain of backing files would have %zu images, expected at most %d", count,
			IMG_CHAIN_MAX);
}

static bool is_same_path(const char *a, const char *b)
{
	struct stat x, y;

	return !strcmp(a, b) ||
	       (!stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

static int resolve_backing(struct img_create_settings *r, const char *path,
			   const struct img_create_options *options, unsigned flags,
			   struct img_error *err)
{
	struct img_creating *c = &r->creating;
	struct stat st;
	char *full;
	bool same, adds;

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
	same = is_same_path(full, path) || is_same_path(full, r->path);
	free(full);
	adds = same && r->driver->add_state;
	c->adds_state = adds;
	if (!same && r->driver->add_state)
		return img_fail(err, -ENOTSUP,
				"An image of format %s can be based only on what it held before itself: it has "
				"to be given as its own backing file, and keeps that as a snapshot",
				r->driver->name);
	if (same && !adds)
		return img_fail(err, -EINVAL, "Error: Trying to create an image with the same "
					      "filename as the backing file");
	if (options->backing_unchecked && !c->backing_format)
		return img_fail(err, -EINVAL, "Backing file specified without backing format");
	if (options->backing_unchecked)
		return format_exists(c->backing_format) ? 0 : img_fail(err, -EINVAL, "Unknown driver '%s'", c->backing_format);
	int rc = open_backing(r, path, options, flags, err);

	if (!rc)
		rc = check_depth(r->backing, err);
	if (!rc && !adds && !stat(path, &st)) {
		char *identity = img_storage_identify(&st);

		same = img_context_has(r->backing, identity, true);
		free(identity);
	}
	if (!rc && same && !adds)
		rc = img_fail(err, -EINVAL, "Error: Trying to create an image in a file of its own "
					    "backing chain");
	return rc;
}

static int resolve_size(struct img_create_settings *r, struct img_error *err)
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

/* Room that is given out beforehand has the size of units that are not compressed. */
static int check_compress(const struct img_create_settings *r, struct img_error *err)
{
	if (!r->creating.compress)
		return 0;
	if (!(r->driver->features & (IMG_DRIVER_COMPRESS | IMG_DRIVER_COMPRESS_SINK)))
		return img_fail(err, -ENOTSUP, "Compression not supported for this file format");
	if (r->creating.preallocate != IMG_PREALLOCATE_OFF)
		return img_fail(err, -ENOTSUP,
				"Compression and preallocation not supported at the same time");
	return 0;
}

static int resolve_preallocation(struct img_create_settings *r, struct img_error *err)
{
	static const char *const modes[] = {
		[IMG_PREALLOCATE_OFF] = "off",
		[IMG_PREALLOCATE_METADATA] = "metadata",
		[IMG_PREALLOCATE_FALLOC] = "falloc",
		[IMG_PREALLOCATE_FULL] = "full",
	};
	const char *text = NULL;

	if (has_row(r->table, "preallocation"))
		text = img_options_string(r->options, "preallocation");
	if (!text)
		return 0;
	for (size_t i = 0; i < IMG_ARRAY_LEN(modes); i++) {
		if (strcmp(text, modes[i]))
			continue;
		if (r->creating.device && i >= IMG_PREALLOCATE_FALLOC)
			return img_fail(err, -ENOTSUP,
					"Unsupported preallocation mode '%s': the target is a device, "
					"whose room is its own to allocate",
					text);
		r->creating.preallocate = (enum img_preallocate)i;
		return 0;
	}
	return img_fail(err, -EINVAL, "Parameter 'preallocation' does not accept value '%s'", text);
}

int img_create_settings_init(struct img_create_settings *r, const char *path,
			     const struct img_create_options *options, unsigned backing_flags,
			     struct img_error *err)
{
	uint64_t size;
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
	rc = img_folder_create_path(path, r->driver, &r->path, err);
	if (!rc && !r->path && !(r->path = strdup(path)))
		rc = img_fail(err, -ENOMEM, "out of memory");
	if (rc)
		return rc;
	r->creating.name = r->path;
	r->creating.compress = options->compress;
	r->creating.can_ask = img_secrets_can_ask(options->secrets);
	memcpy(r->creating.identity, options->identity, sizeof(r->creating.identity));
	rc = inspect_target(r, r->path, options->format, err);
	if (!rc)
		rc = img_gate_new(options->references, &r->gate, err);
	if (!rc)
		rc = parse_options(r, options, err);
	r->creating.options = r->options;
	if (!rc)
		rc = resolve_backing(r, path, options, backing_flags, err);
	if (!rc)
		rc = resolve_paths(r, r->path, err);
	if (!rc)
		rc = check_secrets(r, options->secrets, err);
	if (!rc)
		rc = resolve_attributes(r, err);
	if (!rc)
		rc = resolve_size(r, err);
	if (!rc)
		rc = resolve_preallocation(r, err);
	if (!rc)
		rc = check_compress(r, err);
	r->creating.backing = r->backing;
	size = r->creating.size;
	if (!rc && r->driver->create_check)
		rc = r->driver->create_check(&r->creating, err);
	if (!rc && r->creating.size != size) /* an option that rounds it was given */
		r->asked_size = r->creating.size;
	if (rc)
		img_create_settings_clear(r);
	return rc;
}
