/*
 * Opening: from a tree of nodes to an open image, then, one by one, the chain of backing files below
 * it. Nothing here recurses: a chain is as long as a file says.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/cancel.h"
#include "libimg/base/secrets.h"
#include "libimg/engine/engine.h"
#include "libimg/image/folder.h"
#include "libimg/image/image_storage.h"
#include "libimg/image/arguments.h"
#include "libimg/image/level.h"
#include "libimg/image/parent.h"

/* What a backing file inherits of how the image above it was opened; some of it should it become writable. */
enum {
	INHERITED_FLAGS = IMG_OPEN_SHARE | IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT | IMG_OPEN_UNSAFE |
			  IMG_OPEN_NO_LOCK | IMG_OPEN_NO_READ_AHEAD | IMG_OPEN_SALVAGE |
			  IMG_OPEN_WRITETHROUGH | IMG_OPEN_UNMAP | IMG_OPEN_NO_DATA,
};

/* ---- What an image's driver asks for ---- */

/* struct img_opening as a driver's open() gets it. */
struct opening {
	struct img_opening base;
	struct img *img;
	const struct img_node *data_file, *header; /* described by the user; NULL: not */
	const struct img_secrets *secrets;
	struct img_options *options; /* base.options */
	bool took_data_file, took_header;
};

static unsigned reference_flags(const struct img *img)
{
	return img_storage_flags(img->context->flags) | (img->writable ? IMG_STORAGE_WRITE : 0u);
}

static int fail_own_file(const struct img *img, const char *what, const char *name,
			 struct img_error *err)
{
	return img_fail(err, -ELOOP, "%s: %s '%s' is the image itself, or one that is built on it",
			img->name, what, name);
}

/* s is one more storage of the image; on failure it is closed. */
static int add_part(struct img *img, struct img_storage *s, struct img_storage **out,
		    struct img_error *err)
{
	int rc = img_context_add_part(img, s, err);

	if (rc)
		img_storage_close(s);
	else
		*out = s;
	return rc;
}

/* A file that was created together with the image; it has no name to open it by yet. */
static struct img_created *find_created(struct img_context *context, const char *path)
{
	for (size_t i = 0; i < context->created_count; i++)
		if (!strcmp(context->created[i].path, path))
			return &context->created[i];
	return NULL;
}

static int open_reference(struct img_opening *o, const char *name, const char *what,
			  struct img_storage **out, struct img_error *err)
{
	struct img *img = ((struct opening *)o)->img;
	struct img_context *context = img->context;
	struct img_gate_file file;
	struct img_created *created = NULL;
	struct img_storage *storage = NULL;
	char *path = img_gate_join(context->path, name);
	int rc;

	if (!path)
		return img_fail(err, -ENOMEM, "out of memory");
	created = find_created(context, path);
	free(path);
	if (created && created->taken)
		return img_fail(err, -EINVAL, "%s: %s '%s' is named twice", img->name, what, name);
	if (created) {
		created->taken = true;
		*out = created->storage;
		return img_context_add_part(img, *out, err);
	}
	rc = img_gate_open(context->gate, context->path, name, what, img->writable, &file, err);
	if (rc)
		return rc;
	if (file.options) {
		close(file.fd);
		rc = img_fail(err, -EPERM, "%s: %s '%s' is given as an encrypted image, expected a file",
			      img->name, what, name);
	} else if (o->own_file && img->file->identity &&
		   !strcmp(img->file->identity, file.identity)) {
		close(file.fd);
		*out = img->file;
	} else if (img_context_has(img, file.identity, false)) {
		close(file.fd);
		rc = fail_own_file(img, what, name, err);
	} else {
		rc = img_storage_open_fd(file.fd, file.path, reference_flags(img), &storage, err);
		if (!rc)
			rc = add_part(img, storage, out, err);
	}
	img_gate_file_free(&file);
	return rc;
}

/* An image inside another's disk: opened like any other, and taken for a file. */
static int open_image_inside(const struct img_node *node, const struct img_node_opening *o,
			     struct img_storage **out, struct img_error *err)
{
	const struct img_open_options options = {
		.secrets = o->secrets,
		.flags = (o->flags & IMG_STORAGE_WRITE ? IMG_OPEN_WRITE : 0u) |
			 (o->flags & IMG_STORAGE_SHARE ? IMG_OPEN_SHARE : 0u) |
			 (o->flags & IMG_STORAGE_DIRECT ? IMG_OPEN_DIRECT : 0u) |
			 (o->flags & IMG_STORAGE_TRY_DIRECT ? IMG_OPEN_TRY_DIRECT : 0u) |
			 (o->flags & IMG_STORAGE_NO_LOCK ? IMG_OPEN_NO_LOCK : 0u),
	};
	struct img *img;
	int rc = img_open_node(node, &options, &img, err);

	return rc ? rc : img_image_storage(img, out, err);
}

/* driver: what it is said to be; NULL: nothing is said. */
static int open_node(const struct img_node *node, const struct img_driver *driver, unsigned flags,
		     const struct img_secrets *secrets, struct img_storage **out,
		     struct img_error *err)
{
	const struct img_node_opening o = { .flags = flags,
					    .secrets = secrets,
					    .image = open_image_inside };
	const char *folder = img_folder_named(node);

	return folder ? img_folder_open(folder, driver, flags, out, err)
		      : img_node_open_storage(node, &o, out, err);
}

/* What the user describes, unless that is what img is made of already. what: for messages. */
static int open_described(const struct img *img, const struct img_node *node,
			  const struct img_driver *driver, unsigned flags,
			  const struct img_secrets *secrets, bool *loop, struct img_storage **out,
			  struct img_error *err)
{
	char *identity = img_node_identify(node);
	struct img_storage *storage;
	int rc;

	/* before it is opened: a second lock on a file of our own would be in our way */
	*loop = img && img_context_has(img, identity, true) && !img_node_get(node, "offset");
	free(identity);
	if (*loop)
		return -ELOOP;
	rc = open_node(node, driver, flags, secrets, &storage, err);
	if (rc)
		return rc;
	*loop = img && img_context_shares(img, storage);
	if (*loop) {
		img_storage_close(storage);
		return -ELOOP;
	}
	*out = storage;
	return 0;
}

/* How messages call what a node describes. */
static const char *name_of(const struct img_node *node)
{
	const char *name = NULL;

	for (; node && !name; node = node->child[IMG_NODE_FILE])
		name = img_node_get(node, "filename");
	return name ? name : "(as described)";
}

/* What the user describes for the image. */
static int open_own_part(struct opening *o, const struct img_node *node, const char *what,
			 struct img_storage **out, struct img_error *err)
{
	struct img *img = o->img;
	struct img_storage *storage = NULL;
	bool loop = false;
	int rc = open_described(img, node, NULL, reference_flags(img), o->secrets, &loop, &storage,
				err);

	if (loop)
		return fail_own_file(img, what, name_of(node), err);
	return rc ? rc : add_part(img, storage, out, err);
}

static int open_data_file(struct img_opening *base, const char *stored, struct img_storage **out,
			  struct img_error *err)
{
	struct opening *o = (struct opening *)base;
	struct img *img = o->img;

	o->took_data_file = true;
	*out = NULL;
	if (base->self_only)
		return 0;
	if (!o->data_file && (!stored || !*stored))
		return img_fail(err, -EUCLEAN,
				"%s: the image keeps its data in another file, but does not name it",
				img->name);
	if (!o->data_file)
		return open_reference(base, stored, "data file", out, err);
	return open_own_part(o, o->data_file, "data file", out, err);
}

static int open_header(struct img_opening *base, struct img_storage **out, struct img_error *err)
{
	struct opening *o = (struct opening *)base;

	o->took_header = true;
	*out = NULL;
	return o->header ? open_own_part(o, o->header, "header", out, err) : 0;
}

static int give_passphrase(struct img_opening *base, const char *option, img_passphrase_fn *use,
			   void *user, struct img_error *err)
{
	struct opening *o = (struct opening *)base;
	const struct img_secret_request request = { .image = o->img->name, .option = option };

	return img_secrets_use(o->secrets, img_options_string(base->options, option), &request, use,
			       user, err);
}

/* Those of a new image are the ones of the same names that it was created by. */
static int copy_options(const struct img_options *created, const struct img_driver *driver,
			struct img_options *o, struct img_error *err)
{
	int rc = 0;

	for (const struct img_option *row = driver->open_options; row && row->name && !rc; row++)
		if (img_options_has(created, row->name))
			rc = img_options_set(o, row->name, img_options_string(created, row->name),
					     err);
	return rc;
}

static int read_options(struct opening *o, const struct img_driver *driver,
			const struct img_context_opening *how, struct img_error *err)
{
	int rc = img_level_options(how->options, driver, &o->options, err);

	if (!rc && how->created)
		rc = copy_options(how->created, driver, o->options, err);
	o->base.options = o->options;
	return rc;
}

int img_context_open(struct img *img, const struct img_driver *driver,
		     const struct img_context_opening *how, struct img_error *err)
{
	struct img_engine_config config = {
		.cache_bytes = how->cache_bytes,
		.unsafe = img->context->flags & IMG_OPEN_UNSAFE,
		.writethrough = img->context->flags & IMG_OPEN_WRITETHROUGH,
		.no_read_ahead = img->context->flags & IMG_OPEN_NO_READ_AHEAD,
		.io = how->io,
	};
	struct opening o = {
		.base = {
			.self_only = img->context->flags & IMG_OPEN_SELF_ONLY,
			.for_check = img->context->flags & IMG_OPEN_CHECK,
			.no_data = img->context->flags &
				   (IMG_OPEN_SELF_ONLY | IMG_OPEN_CHECK | IMG_OPEN_NO_DATA),
			.salvage = (img->context->flags & IMG_OPEN_SALVAGE) && !img->writable,
			.view = how->view,
			.handover = how->handover,
			.passphrase = give_passphrase,
			.reference = open_reference,
			.data_file = open_data_file,
			.header = open_header,
		},
		.img = img,
		.data_file = how->data_file,
		.header = how->header,
		.secrets = how->secrets,
	};
	int rc;

	img->context->special = how->view.id || how->view.name;
	if (!driver) {
		rc = img_probe_storage(img->file, img->name, &driver, err);
		if (rc)
			return rc;
		img->probed = true;
	}
	if (img->writable && ((driver->features & IMG_DRIVER_READ_ONLY) || !driver->plan_write))
		return img_fail(err, -ENOTSUP, "%s: images of format %s can only be read",
				img->name, driver->name);
	if (img->keep_allocated && !(driver->features & IMG_DRIVER_KEEP_ALLOCATED))
		return img_fail(err, -ENOTSUP,
				"%s: images of format %s cannot keep the room of what is discarded",
				img->name, driver->name);
	if ((how->view.id || how->view.name) && !(driver->features & IMG_DRIVER_VIEWS))
		return img_fail(err, -ENOTSUP, "%s: images of format %s have no snapshots inside",
				img->name, driver->name);
	if (img->context->special && (img->writable || o.base.for_check))
		return img_fail(err, -EINVAL, "%s: a snapshot inside an image can only be read",
				img->name);
	img->driver = driver;
	rc = read_options(&o, driver, how, err);
	if (!rc)
		rc = driver->open(img, &o.base, err);
	img_options_free(o.options);
	if (rc == -EMEDIUMTYPE)
		return img_fail(err, rc, "Image is not in %s format", driver->name);
	if (rc)
		return rc;
	img->context->opened = true;
	if (o.data_file && !o.took_data_file)
		return img_fail(err, -EINVAL,
				"%s: a data file is given, but the image keeps its data in its own",
				img->name);
	if (o.header && !o.took_header)
		return img_fail(err, -EINVAL,
				"%s: a header is given, but images of format %s have none of their own "
				"in another file",
				img->name, driver->name);
	return img_engine_new(img, &config, err);
}

/* ---- The chain ---- */

/* How one image of a chain is opened. */
struct open_mode {
	struct img_level level;			/* what was said of it; all zero: nothing */
	unsigned flags;				/* IMG_OPEN_* */
	const struct img_driver *driver;	/* NULL: by its content */
	const struct img_open_options *options; /* of the call */
};

static int driver_called(const char *format, const struct img_driver **out, struct img_error *err)
{
	*out = format ? img_driver_named(format) : NULL;
	return !format || *out ? 0 : img_fail(err, -ENOTSUP, "Unknown driver '%s'", format);
}

/* An image around storage, which is its own from now on, also on failure. */
static int open_in(struct img_storage *storage, const char *name, const char *path,
		   struct img_gate *gate, struct img *above, const struct open_mode *mode,
		   struct img **out, struct img_error *err)
{
	const struct img_context_opening how = {
		.io = mode->level.io ? mode->level.io : mode->options->io,
		.cache_bytes = mode->level.cache_bytes ? mode->level.cache_bytes
						       : mode->options->cache_bytes,
		.view = mode->level.view,
		.data_file = mode->level.data_file,
		.header = mode->level.header,
		.options = mode->level.options,
		.secrets = mode->options->secrets,
	};
	struct img *img = NULL;
	int rc = img_context_new(storage, name, path, gate, mode->flags, &img, err);

	if (rc)
		return rc;
	img->context->above = above;
	rc = img_context_open(img, mode->driver, &how, err);
	if (rc == -EMEDIUMTYPE && above) /* of several images, which one */
		img_error_prefix(err, rc, "%s", name);
	if (rc)
		img_context_close(img, NULL);
	else
		*out = img;
	return rc;
}

static int fail_chain_loop(const char *image, const char *name, struct img_error *err)
{
	return img_fail(err, -ELOOP,
			"%s%sbacking file '%s' is already part of the chain, which would never end",
			image ? image : "", image ? ": " : "", name);
}

/* A backing file that the image at path image names; gate judges that (NULL: the user names it). */
static int open_stored(const char *image, const char *name, const struct img_gate *gate,
		       struct img_gate *inner, struct img *above, struct open_mode *mode,
		       struct img **out, struct img_error *err)
{
	struct img_storage *storage;
	struct img_gate_file file;
	int rc = img_gate_open(gate, image, name, "backing file", false, &file, err);

	if (rc)
		return rc;
	/* what the name itself says of the format */
	if (!mode->level.options) /* what the user says counts more */
		mode->level.options = file.options;
	if (file.format && mode->driver && img_driver_named(file.format) != mode->driver)
		rc = img_fail(err, -EPERM,
			      "%s: backing file '%s' is given as of format %s and of format %s",
			      image, name, mode->driver->name, file.format);
	else if (file.format)
		rc = driver_called(file.format, &mode->driver, err);
	if (!rc && above && img_context_has(above, file.identity, true))
		rc = fail_chain_loop(image, name, err);
	if (rc)
		close(file.fd);
	else
		rc = img_storage_open_fd(file.fd, file.path, img_storage_flags(mode->flags),
					 &storage, err);
	if (!rc)
		rc = open_in(storage, file.path, file.path, inner, above, mode, out, err);
	if (mode->level.options == file.options)
		mode->level.options = NULL;
	img_gate_file_free(&file);
	return rc;
}

/* A backing file that the user describes. */
static int open_given(struct img *above, const struct open_mode *mode, struct img **out,
		      struct img_error *err)
{
	struct img_storage *storage;
	bool loop;
	int rc = open_described(above, mode->level.file, mode->driver,
				img_storage_flags(mode->flags), mode->options->secrets, &loop,
				&storage, err);

	if (loop)
		return fail_chain_loop(NULL, name_of(mode->level.file), err);
	return rc ? rc
		  : open_in(storage, storage->name, storage->name, above->context->gate, above,
			    mode, out, err);
}

static bool is_same_file(const struct img_storage *a, const struct img_storage *b)
{
	return a->identity && b->identity && !strcmp(a->identity, b->identity);
}

/* The parent that is another state of img's own file, which is open already: its lock serves. */
static int open_own_view(struct img *img, struct open_mode *mode, struct img **out, struct img_error *err)
{
	const struct img_view *view = &img->backing_view;
	const char *path = img->context->path, *what = view->id ? view->id : view->name;
	struct img_storage *storage;
	char *text;
	int rc;

	if (asprintf(&text, "%s\n%s", view->id ? view->id : "", view->name ? view->name : "") < 0)
		return img_fail(err, -ENOMEM, "out of memory");
	for (const struct img *i = img; i; i = i->context->above)
		if (i->context->view && !strcmp(i->context->view, text) &&
		    is_same_file(i->file, img->file)) {
			free(text);
			return fail_chain_loop(img->name, what, err);
		}
	rc = img_storage_open_file(path, img_storage_flags(mode->flags) | IMG_STORAGE_NO_LOCK,
				   &storage, err);
	if (!rc && !is_same_file(storage, img->file)) {
		img_storage_close(storage);
		rc = img_fail(err, -EBUSY, "%s: another file has its name since it was opened", path);
	}
	if (!rc) {
		mode->driver = img->driver;
		mode->level.view = *view;
		rc = open_in(storage, img->name, path, img->context->gate, img, mode, out, err);
	}
	if (rc)
		free(text);
	else
		(*out)->context->view = text;
	return rc;
}

/* The parent that img has names or an identity of; img's gate judges. */
static int open_named(struct img *img, struct open_mode *mode, struct img **out, struct img_error *err)
{
	struct img_parent parent = { .name = img->backing_name };
	struct img_gate *gate = img->context->gate;
	const char *path = img->context->path;
	bool find = !img_parent_has_one_name(img);
	int rc = find ? img_parent_find(img, mode->driver, &parent, err) : 0;

	if (rc)
		return rc;
	if (find && parent.driver)
		mode->driver = parent.driver;
	rc = open_stored(path, parent.name, gate, gate, img, mode, out, err);
	if (!rc && find && (!img->backing_name || strcmp(parent.name, img->backing_name) != 0)) {
		img->context->parent_path = strdup((*out)->context->path);
		if (!img->context->parent_path)
			rc = img_fail(err, -ENOMEM, "out of memory");
	}
	if (find)
		free(parent.name);
	return rc;
}

int img_open_stored(const char *image, const char *name, const char *format,
		    struct img_gate *inner, const struct img_open_options *options,
		    struct img **out, struct img_error *err)
{
	struct open_mode mode = { .flags = options->flags & (unsigned)INHERITED_FLAGS,
				  .options = options };
	int rc = driver_called(format, &mode.driver, err);

	return rc ? rc : open_stored(image, name, NULL, inner, NULL, &mode, out, err);
}

/* Something is said of the backing file of img; given: which one it is. */
static int check_backing(const struct img *img, bool given, struct img_error *err)
{
	if (!(img->driver->features & IMG_DRIVER_BACKING))
		return img_fail(err, given ? -ENOTSUP : -EINVAL,
				"%s: images of format %s have no backing file, one is given",
				img->name, img->driver->name);
	if (!given && !img_parent_is_named(img))
		return img_fail(err, -EINVAL,
				"%s: it has no backing file to be opened in a certain way; give one",
				img->name);
	return 0;
}

/* What is said of the images below img, which are not opened: as far as that can be judged. */
static int check_unopened(const struct img *img, const struct open_mode *mode, struct img_error *err)
{
	const struct img_node *node = mode->level.backing;
	struct img_level below = { 0 };
	int rc = node ? img_level_read(node, &below, err) : 0;

	if (!rc && node)
		rc = check_backing(img, below.file, err);
	while (!rc && below.backing) {
		if (below.driver && !(below.driver->features & IMG_DRIVER_BACKING))
			return img_fail(err, -EINVAL,
					"%s: images of format %s have no backing file, one is given for "
					"its backing file",
					img->name, below.driver->name);
		rc = img_level_read(below.backing, &below, err);
	}
	return rc;
}

/*
 * The backing file of img alone, which was opened by above; *done: there is none. *mode: how
 * it was opened. depth: images from the top to img.
 */
static int open_parent(struct img *img, const struct open_mode *above, size_t depth, struct open_mode *mode,
		       bool *done, struct img_error *err)
{
	const struct img_node *node = above->level.backing;
	struct img *parent = NULL;
	bool given;
	int rc;

	*mode = (struct open_mode){ .options = above->options };
	rc = node ? img_level_read(node, &mode->level, err) : 0;
	if (rc)
		return rc;
	given = mode->level.file;
	rc = node ? check_backing(img, given, err) : 0;
	if (rc)
		return rc;
	*done = !given && !img_parent_is_named(img);
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
	mode->flags = ((above->flags & (unsigned)INHERITED_FLAGS & ~mode->level.off) |
		       mode->level.on) &
		      (unsigned)(INHERITED_FLAGS);
	if (mode->level.no_backing)
		mode->flags |= IMG_OPEN_NO_BACKING;
	mode->driver = mode->level.driver;
	if (!mode->driver)
		rc = driver_called(img->backing_format, &mode->driver, err);
	if (!rc && given)
		rc = open_given(img, mode, &parent, err);
	else if (!rc && img_parent_is_view(img))
		rc = open_own_view(img, mode, &parent, err);
	else if (!rc)
		rc = open_named(img, mode, &parent, err);
	if (parent) /* nobody reads img yet, so that this takes no memory */
		img_engine_set_parent(img, parent);
	if (!rc && img->driver->parent_opened)
		rc = img->driver->parent_opened(img, err);
	return rc;
}

/* Open the chain below img, which was opened by *mode (changed on the way down). */
static int open_chain(struct img *img, struct open_mode *mode, struct img_error *err)
{
	/* For each image on the way; more than three tell nothing more. */
	static const char *const where[] = {
		"Could not open backing file",
		"Could not open backing file: Could not open backing file",
		"Could not open backing file: Could not open backing file: Could not open backing file",
	};
	const unsigned alone = IMG_OPEN_NO_BACKING | IMG_OPEN_SELF_ONLY;
	size_t depth = 1;
	bool done = img->context->flags & alone;
	int rc = 0;

	if (done)
		rc = check_unopened(img, mode, err);
	for (struct img *i = img->context->above; i; i = i->context->above)
		depth++;
	for (size_t level = 0; !done; level++, img = img->parent) {
		struct open_mode below;

		rc = open_parent(img, mode, depth + level, &below, &done, err);
		*mode = below;
		done = done || (below.flags & alone);
		if (rc)
			return img_error_prefix(err, rc, "%s",
						where[min_size(level, IMG_ARRAY_LEN(where) - 1)]);
	}
	return rc;
}

int img_open_chain(struct img *img, const struct img_open_options *options, struct img_error *err)
{
	struct open_mode mode = { .flags = options->flags, .options = options };

	return open_chain(img, &mode, err);
}

/* ---- From the top ---- */

static const struct img_open_options open_defaults;

/* The format, and what does not go together, before anything is opened. */
static int resolve_options(struct open_mode *mode, const char *name, struct img_error *err)
{
	const struct img_open_options *o = mode->options;
	int rc = driver_called(o->format, &mode->driver, err);

	if (rc)
		return rc;
	if (!mode->driver)
		mode->driver = mode->level.driver;
	mode->flags = (o->flags & ~mode->level.off) | mode->level.on;
	if (mode->level.no_backing)
		mode->flags |= IMG_OPEN_NO_BACKING;
	if (mode->level.backing) /* it was described to be opened */
		mode->flags &= ~(unsigned)IMG_OPEN_NO_BACKING;
	if (mode->level.read_only && (mode->flags & IMG_OPEN_WRITE))
		return img_fail(err, -EACCES, "Block node is read-only");
	if ((mode->flags & IMG_OPEN_SHARE) && (mode->flags & IMG_OPEN_WRITE))
		return img_fail(err, -EINVAL,
				"force-share=on can only be used with read-only images");
	if (!mode->driver && (mode->flags & IMG_OPEN_WRITE) &&
	    !(mode->flags & IMG_OPEN_PROBE_WRITE))
		return img_fail(err, -EINVAL,
				"%s: to open an image for writing its format must be given", name);
	return 0;
}

/* storage belongs to the image, also on failure. */
static int open_top(struct img_storage *storage, const char *name, struct open_mode *mode,
		    struct img **out, struct img_error *err)
{
	struct img_gate *gate = NULL;
	struct img *img = NULL;
	int rc = img_gate_new(mode->options->references, &gate, err);

	if (rc) {
		img_storage_close(storage);
		return rc;
	}
	rc = open_in(storage, name, name, gate, NULL, mode, &img, err);
	if (mode->options->have_backing_flags)
		mode->flags = (mode->flags & ~(unsigned)INHERITED_FLAGS) |
			      mode->options->backing_flags;
	if (!rc)
		rc = open_chain(img, mode, err);
	if (rc)
		img_context_close(img, NULL);
	else
		*out = img;
	img_gate_release(gate);
	return rc;
}

int img_open_node(const struct img_node *node, const struct img_open_options *options,
		  struct img **out, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct open_mode mode = { .options = options ? options : &open_defaults };
	struct img_storage *storage;
	int rc = img_check_open_options(NULL, mode.options, err);

	if (!rc)
		rc = img_level_read(node, &mode.level, err);
	if (!rc && !mode.level.file)
		rc = img_fail(err, -EINVAL,
			      node->count ? "A block device must be specified for \"file\""
					  : "Must specify either driver or file");
	if (!rc)
		rc = resolve_options(&mode, name_of(mode.level.file), err);
	if (rc)
		return rc;
	rc = open_node(mode.level.file, mode.driver,
		       img_storage_flags(mode.flags) |
			       (mode.flags & IMG_OPEN_WRITE ? IMG_STORAGE_WRITE : 0u),
		       mode.options->secrets, &storage, err);
	return rc ? rc : open_top(storage, storage->name, &mode, out, err);
}

int img_open(const char *name, const struct img_open_options *options, struct img **out,
	     struct img_error *err)
{
	struct img_node *node;
	int rc = img_check_open_options(name, options, err);

	if (!rc && !name)
		rc = img_fail(err, -EINVAL, "an image to be opened has no name");
	if (!rc)
		rc = img_node_parse_name(name, &node, err);
	if (rc)
		return rc;
	rc = img_open_node(node, options, out, err);
	img_node_free(node);
	return rc;
}

int img_open_storage(struct img_storage *storage, const char *name,
		     const struct img_open_options *options, struct img **out,
		     struct img_error *err)
{
	struct open_mode mode = { .options = options ? options : &open_defaults };
	int rc = img_check_open_options(name, options, err);

	if (!rc)
		rc = resolve_options(&mode, name, err);

	if (rc) {
		img_storage_close(storage);
		return rc;
	}
	return open_top(storage, name, &mode, out, err);
}

bool img_depends_on(const struct img *img, const char *name)
{
	struct img_node *node = NULL;
	char *identity = NULL;
	bool is = false;

	if (!img_node_parse_name(name, &node, NULL) && node->child[IMG_NODE_FILE])
		identity = img_node_identify(node->child[IMG_NODE_FILE]);
	is = img_context_has(img, identity, true);
	free(identity);
	img_node_free(node);
	return is;
}
