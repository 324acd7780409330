/* From what the user wrote to an open image. */
#include "tools/open.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "libimg/image/img.h"
#include "tools/args.h"
#include "tools/description.h"
#include "tools/say.h"

static const char *default_references;

void open_set_default_references(const char *policy)
{
	default_references = policy;
}

const char *open_references(const char *given)
{
	return given ? given : default_references;
}

const char *open_new_path(const char *name, const char *subject)
{
	return description_path(name, subject);
}

/* ---- What was asked for ---- */

static bool is_device(const char *path)
{
	struct stat st;

	/* what cannot be looked at is opened, which says why not */
	return !path || stat(path, &st) || S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode);
}

/* As said by the image's own description; r->format goes before it. */
static bool settle_format(struct description *d, const char *subject)
{
	bool device = d->file_driver && !strcmp(d->file_driver, "host_device");

	/* The bare file: its bytes are the disk, which is what raw means. */
	if (d->format && (!strcmp(d->format, "file") || !strcmp(d->format, "host_device"))) {
		device = device || !strcmp(d->format, "host_device");
		free(d->format);
		d->format = args_memory(strdup("raw"));
	}
	if (d->format && img_format_features(d->format) < 0) {
		say_error("%s: Unknown driver '%s'", subject, d->format);
		return false;
	}
	if (device && !is_device(d->path)) {
		say_error("%s: 'host_device' driver requires '%s' to be either a character or "
			  "block device",
			  subject, d->path);
		return false;
	}
	return true;
}

static bool settle(const struct open_request *r, struct description *d, const char *subject)
{
	if (!d->path) {
		say_error("%s: A block device must be specified for \"file\"", subject);
		return false;
	}
	if (!*d->path) {
		say_error("%s: The 'file' block driver requires a file name", subject);
		return false;
	}
	if (r->format) {
		free(d->format);
		d->format = args_memory(strdup(r->format));
	}
	for (struct description *i = d; i; i = i->below)
		if (!settle_format(i, subject))
			return false;
	if (d->read_only && (r->flags & IMG_OPEN_WRITE)) {
		say_error("%s: Block node is read-only", subject);
		return false;
	}
	if ((d->flags & IMG_OPEN_SHARE) && (r->flags & IMG_OPEN_WRITE)) {
		say_error("%s: force-share=on can only be used with read-only images", subject);
		return false;
	}
	return true;
}

/*
 * The library's options for an image and those below it, as many as d has levels, each pointing to
 * the next. malloc'd. flags: as the command line has them.
 */
static struct img_open_options *options_of(const struct description *d, unsigned flags)
{
	struct img_open_options *all, *o;
	size_t levels = 0;

	for (const struct description *i = d; i; i = i->below)
		levels++;
	o = all = args_memory(calloc(levels, sizeof(*all)));
	for (; d; d = d->below, o++) {
		flags = (flags & ~d->cleared) | d->flags;
		o->format = d->format;
		o->flags = flags;
		o->data_file = d->data_file;
		o->io = d->io;
		o->cache_bytes = d->cache_bytes;
		if (d->below) { /* it was described to be opened */
			o->flags &= ~(unsigned)IMG_OPEN_NO_BACKING;
			o->backing_name = d->below->path;
			o->backing_format = d->below->format;
			o->backing = o + 1;
		}
		flags &= ~(unsigned)IMG_OPEN_NO_BACKING; /* is said of one image */
	}
	return all;
}

static void warn_if_guessed_raw(const struct img *img)
{
	char *name;

	if (!img_was_probed(img) || strcmp(img_format(img), "raw"))
		return;
	name = args_memory(img_printable(img_name(img)));
	fprintf(stderr,
		"WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
		"         Automatically detecting the format is dangerous for raw images, write "
		"operations on block 0 will be restricted.\n"
		"         Specify the 'raw' format explicitly to remove the restrictions.\n",
		name);
	free(name);
}

struct img *open_image(const struct open_request *r)
{
	struct img_open_options *options = NULL;
	struct img_error *err = img_error_new();
	struct description *d;
	struct img *img = NULL;
	char *subject;

	if (r->subject)
		subject = args_memory(strdup(r->subject));
	else if (asprintf(&subject, "Could not open '%s'", r->name) < 0)
		args_memory(NULL);
	d = description_read(r->name, r->image_opts, subject);
	if (!d || !settle(r, d, subject))
		goto out;
	options = options_of(d, r->flags);
	options->references = open_references(r->references);
	if (r->io && d->io != IMG_IO_AUTO_KIND)
		*r->io = d->io;
	if (img_open(d->path, options, &img, err))
		say_failure(err, "%s", subject);
	else if (r->warn_if_probed)
		warn_if_guessed_raw(img);
	for (const struct img *i = img; i; i = img_backing(i))
		if (img_warning(i))
			say_warning("%s", img_warning(i));
out:
	free(options);
	img_error_free(err);
	description_free(d);
	free(subject);
	return img;
}
