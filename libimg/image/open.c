/*
 * Opening and closing: one image (file, format, driver, engine), then, one by one, the chain of
 * backing files below it. Nothing here recurses: a chain is as long as a file says.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/engine/engine.h"
#include "libimg/image/place.h"

/* What a backing file inherits of how the image above it was opened. */
enum {
	INHERITED_FLAGS = IMG_OPEN_SHARE | IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT | IMG_OPEN_UNSAFE |
			  IMG_OPEN_NO_LOCK | IMG_OPEN_NO_READ_AHEAD | IMG_OPEN_SALVAGE,
};

const char *img_version(void)
{
	return LIBIMG_VERSION;
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

int img_place_new(struct img_storage *file, const char *name, const char *path,
		  struct img_gate *gate, unsigned flags, struct img **out, struct img_error *err)
{
	struct img *img = calloc(1, sizeof(*img));
	struct img_place *place = calloc(1, sizeof(*place));

	if (img && place) {
		img->name = strdup(name);
		place->path = strdup(path);
	}
	if (!img || !place || !img->name || !place->path) {
		if (place)
			free(place->path);
		if (img)
			free(img->name);
		free(place);
		free(img);
		img_storage_close(file);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	place->gate = img_gate_share(gate);
	place->flags = flags;
	img->place = place;
	img->file = file;
	img->writable = flags & IMG_OPEN_WRITE;
	img->unmap = flags & IMG_OPEN_UNMAP;
	img->keep_room = flags & IMG_OPEN_KEEP_ROOM;
	img->unsafe = flags & IMG_OPEN_UNSAFE;
	*out = img;
	return 0;
}

void img_place_identify(struct img *img)
{
	struct stat st;

	img->place->known = !stat(img->place->path, &st);
	if (img->place->known) {
		img->place->dev = st.st_dev;
		img->place->ino = st.st_ino;
	}
}

static bool is_main_file(const struct img *img, dev_t dev, ino_t ino)
{
	return img->place->known && img->place->dev == dev && img->place->ino == ino;
}

bool img_place_in_chain(const struct img *img, dev_t dev, ino_t ino)
{
	for (const struct img *i = img; i; i = i->place->above)
		if (is_main_file(i, dev, ino))
			return true;
	for (const struct img *i = img->parent; i; i = i->parent)
		if (is_main_file(i, dev, ino))
			return true;
	return false;
}

static bool is_same_image(const struct img *a, const struct img *b)
{
	const struct img_storage *f = a->file, *g = b->file;

	return f->identity && g->identity && !strcmp(f->identity, g->identity) &&
	       f->identity_off == g->identity_off && f->size == g->size && a->driver == b->driver &&
	       a->size == b->size && !a->place->given_part && !b->place->given_part;
}

bool img_place_is_same(const struct img *a, const struct img *b)
{
	while (a && b && is_same_image(a, b)) {
		a = a->parent;
		b = b->parent;
	}
	return !a && !b;
}

bool img_is_made_of(const struct img *img, const char *path)
{
	struct stat st;

	return !stat(path, &st) && img_place_in_chain(img, st.st_dev, st.st_ino);
}

/* struct img_opening as a driver's open() gets it. */
struct opening {
	struct img_opening base;
	struct img *img;
	const char *data_file; /* named by the user; NULL: he did not */
	bool took_data_file;
};

/* "file:" says nothing that a path does not. */
static const char *plain_path(const char *name)
{
	return strncmp(name, "file:", 5) ? name : name + 5;
}

/* A file that the user names. *id: what it is. */
static int open_given(const char *name, unsigned flags, struct stat *id, struct img_storage **out,
		      struct img_error *err)
{
	const char *path = plain_path(name);
	struct img_storage *storage;
	int rc = img_storage_open_file(path, flags, &storage, err);

	if (rc)
		return rc;
	if (stat(path, id)) {
		rc = img_fail(err, -errno, "Could not open '%s': %s", path, strerrordesc_np(errno));
		img_storage_close(storage);
		return rc;
	}
	*out = storage;
	return 0;
}

static unsigned reference_flags(const struct img *img)
{
	return img_storage_flags(img->place->flags) | (img->writable ? IMG_STORAGE_WRITE : 0u);
}

static int fail_own_file(const struct img *img, const char *what, const char *name,
			 struct img_error *err)
{
	return img_fail(err, -ELOOP, "%s: %s '%s' is the image itself, or one that is built on it",
			img->name, what, name);
}

/* A file that was created together with the image; it has no name to open it by yet. */
static struct img_created *find_created(struct img_place *place, const char *path)
{
	for (size_t i = 0; i < place->created_count; i++)
		if (!strcmp(place->created[i].path, path))
			return &place->created[i];
	return NULL;
}

static int open_reference(struct img_opening *o, const char *name, const char *what,
			  struct img_storage **out, struct img_error *err)
{
	struct img *img = ((struct opening *)o)->img;
	struct img_place *place = img->place;
	struct img_gate_file file;
	struct img_created *created = NULL;
	char *path = img_gate_join(place->path, name);
	int rc;

	if (!path)
		return img_fail(err, -ENOMEM, "out of memory");
	created = find_created(place, path);
	free(path);
	if (created && created->taken)
		return img_fail(err, -EINVAL, "%s: %s '%s' is named twice", img->name, what, name);
	if (created) {
		created->taken = true;
		*out = created->storage;
		return 0;
	}
	rc = img_gate_open(place->gate, place->path, name, what, img->writable, &file, err);
	if (rc)
		return rc;
	if (o->own_file && is_main_file(img, file.dev, file.ino)) {
		close(file.fd);
		*out = img->file;
	} else if (img_place_in_chain(img, file.dev, file.ino)) {
		close(file.fd);
		rc = fail_own_file(img, what, name, err);
	} else {
		rc = img_storage_open_fd(file.fd, file.path, reference_flags(img), out, err);
	}
	free(file.path);
	free(file.format);
	return rc;
}

static int open_data_file(struct img_opening *base, const char *stored, struct img_storage **out,
			  struct img_error *err)
{
	struct opening *o = (struct opening *)base;
	struct img *img = o->img;
	struct img_storage *storage;
	struct stat id;
	int rc;

	o->took_data_file = true;
	img->place->given_part = o->data_file;
	if (!o->data_file && (!stored || !*stored))
		return img_fail(err, -EUCLEAN,
				"%s: the image keeps its data in another file, but does not name it",
				img->name);
	if (!o->data_file)
		return open_reference(base, stored, "data file", out, err);
	rc = open_given(o->data_file, reference_flags(img), &id, &storage, err);
	if (rc)
		return rc;
	if (img_place_in_chain(img, id.st_dev, id.st_ino)) {
		img_storage_close(storage);
		return fail_own_file(img, "data file", o->data_file, err);
	}
	*out = storage;
	return 0;
}

int img_place_open(struct img *img, const struct img_driver *driver,
		   const struct img_open_options *options, struct img_error *err)
{
	struct img_engine_config config = {
		.cache_bytes = options->cache_bytes,
		.unsafe = img->place->flags & IMG_OPEN_UNSAFE,
		.writethrough = img->place->flags & IMG_OPEN_WRITETHROUGH,
		.no_read_ahead = img->place->flags & IMG_OPEN_NO_READ_AHEAD,
		.io = (enum img_ioq_kind)options->io,
	};
	struct opening o = {
		.base = {
			.self_only = img->place->flags & IMG_OPEN_SELF_ONLY,
			.for_check = img->place->flags & IMG_OPEN_CHECK,
			.salvage = (img->place->flags & IMG_OPEN_SALVAGE) && !img->writable,
			.reference = open_reference,
			.data_file = open_data_file,
		},
		.img = img,
		.data_file = options->data_file,
	};
	int rc;

	if (!driver) {
		rc = img_probe_storage(img->file, img->name, &driver, err);
		if (rc)
			return rc;
		img->probed = true;
	}
	if (img->writable && ((driver->features & IMG_DRIVER_READ_ONLY) || !driver->plan_write))
		return img_fail(err, -ENOTSUP, "%s: images of format %s can only be read",
				img->name, driver->name);
	if (img->keep_room && !(driver->features & IMG_DRIVER_KEEP_ROOM))
		return img_fail(err, -ENOTSUP,
				"%s: images of format %s cannot keep the room of what is discarded",
				img->name, driver->name);
	img->driver = driver;
	rc = driver->open(img, &o.base, err);
	if (rc == -EMEDIUMTYPE)
		return img_fail(err, rc, "Image is not in %s format", driver->name);
	if (rc)
		return rc;
	img->place->opened = true;
	if (o.data_file && !o.took_data_file && !o.base.self_only)
		return img_fail(err, -EINVAL,
				"%s: a data file is given, but the image keeps its data in its own",
				img->name);
	return img_engine_new(img, &config, err);
}

/* ---- The chain ---- */

/* A backing file that the image names. file->format: also what the name itself says. */
static int open_by_gate(const char *image, const char *name, const struct img_gate *gate,
			const struct img *above, unsigned flags, struct img_gate_file *file,
			struct img_storage **out, struct img_error *err)
{
	int rc = img_gate_open(gate, image, name, "backing file", false, file, err);

	if (rc)
		return rc;
	if (above && img_place_in_chain(above, file->dev, file->ino)) {
		close(file->fd);
		return img_fail(err, -ELOOP,
				"%s: backing file '%s' is already part of the chain, "
				"which would never end",
				image, name);
	}
	return img_storage_open_fd(file->fd, file->path, flags, out, err);
}

/* The same that the user names. */
static int open_by_user(const char *name, const struct img *above, unsigned flags,
			struct img_gate_file *file, struct img_storage **out, struct img_error *err)
{
	struct stat id;
	int rc = open_given(name, flags, &id, out, err);

	if (rc)
		return rc;
	file->path = strdup(plain_path(name));
	file->dev = id.st_dev;
	file->ino = id.st_ino;
	if (!file->path)
		rc = img_fail(err, -ENOMEM, "out of memory");
	else if (above && img_place_in_chain(above, id.st_dev, id.st_ino))
		rc = img_fail(err, -ELOOP,
			      "backing file '%s' is already part of the chain, which would never end",
			      name);
	if (rc)
		img_storage_close(*out);
	return rc;
}

int img_open_named(const char *image, const char *name, const struct img_gate *gate,
		   struct img_gate *inner, const struct img_open_options *options,
		   struct img *above, struct img **out, struct img_error *err)
{
	const char *format = options->format;
	const struct img_driver *driver = NULL;
	struct img_gate_file file = { 0 };
	struct img_storage *storage;
	struct img *img = NULL;
	unsigned flags = img_storage_flags(options->flags);
	int rc;

	if (format && !img_driver_named(format))
		return img_fail(err, -ENOTSUP, "Unknown driver '%s'", format);
	if (image)
		rc = open_by_gate(image, name, gate, above, flags, &file, &storage, err);
	else
		rc = open_by_user(name, above, flags, &file, &storage, err);
	if (rc)
		goto out;
	if (file.format && format && strcmp(file.format, format) != 0)
		rc = img_fail(err, -EPERM,
			      "%s: backing file '%s' is said to be of format %s and "
			      "of format %s",
			      image, name, format, file.format);
	else if (file.format)
		format = file.format;
	if (!rc && format) {
		driver = img_driver_named(format);
		if (!driver)
			rc = img_fail(err, -ENOTSUP, "Unknown driver '%s'", format);
	}
	if (rc) {
		img_storage_close(storage);
		goto out;
	}
	rc = img_place_new(storage, file.path, file.path, inner, options->flags, &img, err);
	if (rc)
		goto out;
	img->place->known = true;
	img->place->dev = file.dev;
	img->place->ino = file.ino;
	img->place->above = above;
	rc = img_place_open(img, driver, options, err);
	if (rc)
		goto out;
	*out = img;
	img = NULL;
out:
	img_close(img, NULL);
	free(file.path);
	free(file.format);
	return rc;
}

/* How to open the backing file of an image that is opened with options. */
static struct img_open_options options_below(const struct img_open_options *options)
{
	struct img_open_options below = { .flags = options->flags & (unsigned)INHERITED_FLAGS };

	if (options->backing) {
		below = *options->backing;
		below.flags &= (unsigned)(INHERITED_FLAGS | IMG_OPEN_NO_BACKING);
	}
	below.format = options->backing_format;
	below.io = options->io;
	below.cache_bytes = options->cache_bytes;
	return below;
}

/*
 * The backing file of img alone, which was opened with options; *done: it names none. *below: how
 * it was opened. depth: images from the top to img.
 */
static int open_parent(struct img *img, const struct img_open_options *options, size_t depth,
		       struct img_open_options *below, bool *done, struct img_error *err)
{
	struct img_place *place = img->place;
	const bool described = options->backing || options->backing_format;
	const char *given = options->backing_name;
	const char *name = given ? given : img->backing_name;
	int rc;

	if (given && !(img->driver->features & IMG_DRIVER_BACKING))
		return img_fail(err, -ENOTSUP,
				"%s: images of format %s have no backing file, one is given",
				img->name, img->driver->name);
	*done = !name || !*name;
	if (*done && described)
		return img_fail(err, -EINVAL,
				"%s: it has no backing file to be opened in a certain way; give one",
				img->name);
	if (*done && img->backing_required)
		return img_fail(err, -EUCLEAN,
				"%s: it holds only differences to another image, but does not name "
				"that image: it can be given with backing.file.filename (--image-opts)",
				img->name);
	if (*done)
		return 0;
	if (depth >= IMG_CHAIN_MAX)
		return img_fail(err, -ELOOP,
				"%s: the chain of backing files is longer than the "
				"allowed %d images",
				img->name, IMG_CHAIN_MAX);
	*below = options_below(options);
	if (!below->format)
		below->format = img->backing_format;
	rc = img_open_named(given ? NULL : place->path, name, place->gate, place->gate, below, img,
			    &img->parent, err);
	if (!rc && img->driver->parent_opened)
		rc = img->driver->parent_opened(img, err);
	return rc;
}

int img_open_chain(struct img *img, const struct img_open_options *options, struct img_error *err)
{
	/* For each image on the way; more than three tell nothing more. */
	static const char *const where[] = {
		"Could not open backing file",
		"Could not open backing file: Could not open backing file",
		"Could not open backing file: Could not open backing file: Could not open backing file",
	};
	const unsigned alone = IMG_OPEN_NO_BACKING | IMG_OPEN_SELF_ONLY;
	struct img_open_options level_options = *options;
	size_t depth = 1;
	bool done = img->place->flags & alone;
	int rc = 0;

	for (struct img *i = img->place->above; i; i = i->place->above)
		depth++;
	for (size_t level = 0; !done; level++, img = img->parent) {
		struct img_open_options below = { 0 };

		rc = open_parent(img, &level_options, depth + level, &below, &done, err);
		level_options = below;
		done = done || (below.flags & alone);
		if (rc) {
			return img_error_prefix(err, rc, "%s",
						where[min_size(level, IMG_ARRAY_LEN(where) - 1)]);
		}
	}
	return 0;
}

static const struct img_open_options open_defaults;

/* options->format as a driver; NULL: to be probed, which is refused for writing unless asked for. */
static int choose_driver(const struct img_open_options *options, const char *name,
			 const struct img_driver **out, struct img_error *err)
{
	unsigned flags = options->flags;

	*out = options->format ? img_driver_named(options->format) : NULL;
	if (options->format && !*out)
		return img_fail(err, -ENOTSUP, "Unknown driver '%s'", options->format);
	if (!options->format && (flags & IMG_OPEN_WRITE) && !(flags & IMG_OPEN_PROBE_WRITE))
		return img_fail(err, -EINVAL,
				"%s: to open an image for writing its format must be "
				"given",
				name);
	return 0;
}

/* storage belongs to the image, also on failure. on_disk: path is where it can be identified. */
static int open_in(struct img_storage *storage, const char *name, const char *path, bool on_disk,
		   const struct img_driver *driver, const struct img_open_options *options,
		   struct img **out, struct img_error *err)
{
	struct img_gate *gate = NULL;
	struct img *img = NULL;
	int rc;

	rc = img_gate_new(options->references, &gate, err);
	if (rc) {
		img_storage_close(storage);
		return rc;
	}
	rc = img_place_new(storage, name, path, gate, options->flags, &img, err);
	if (rc)
		goto out;
	if (on_disk)
		img_place_identify(img);
	rc = img_place_open(img, driver, options, err);
	if (!rc)
		rc = img_open_chain(img, options, err);
	if (rc)
		goto out;
	*out = img;
	img = NULL;
out:
	img_close(img, NULL);
	img_gate_release(gate);
	return rc;
}

int img_open(const char *path, const struct img_open_options *options, struct img **out,
	     struct img_error *err)
{
	const char *plain = plain_path(path);
	const struct img_driver *driver;
	struct img_storage *storage;
	int rc;

	if (!options)
		options = &open_defaults;
	rc = choose_driver(options, path, &driver, err);
	if (rc)
		return rc;
	rc = img_storage_open_file(plain,
				   img_storage_flags(options->flags) |
					   (options->flags & IMG_OPEN_WRITE ? IMG_STORAGE_WRITE
									    : 0u),
				   &storage, err);
	if (rc)
		return rc;
	return open_in(storage, path, plain, true, driver, options, out, err);
}

int img_open_storage(struct img_storage *storage, const char *name,
		     const struct img_open_options *options, struct img **out,
		     struct img_error *err)
{
	const struct img_driver *driver;
	int rc;

	if (!options)
		options = &open_defaults;
	rc = choose_driver(options, name, &driver, err);
	if (rc) {
		img_storage_close(storage);
		return rc;
	}
	return open_in(storage, name, name, false, driver, options, out, err);
}

/* ---- Closing ---- */

static int close_one(struct img *img, struct img_error *err)
{
	struct img_place *place = img->place;
	int rc = 0;

	if (img->engine && img->writable && !place->unpublished)
		rc = img_engine_finish(img, err);
	img_engine_free(img);
	if (place->opened)
		img->driver->close(img);
	for (size_t i = 0; i < place->created_count; i++) {
		if (!place->created[i].taken)
			img_storage_close(place->created[i].storage);
		free(place->created[i].path);
	}
	img_storage_close(img->file);
	img_gate_release(place->gate);
	free(place->created);
	free(place->path);
	free(place);
	free(img->backing_name);
	free(img->backing_format);
	free(img->warning);
	free(img->name);
	free(img);
	return rc;
}

int img_close(struct img *img, struct img_error *err)
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

const struct img *img_backing(const struct img *img)
{
	return img->parent;
}

char *img_resolve_name(const char *image_path, const char *backing_name)
{
	return img_gate_join(plain_path(image_path), backing_name);
}
