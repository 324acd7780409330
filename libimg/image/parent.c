/*
 * Formats of Windows store several names of a parent, for it may have been moved together with its child or without
 * it; VirtualBox's store no name at all, but the parent's UUID. So names are tried in their order, and an
 * identity is looked for in the image's own folder: there only, in regular files, in the order of their
 * names, and only in what the gate lets the image name. What decides is the identity; no file is
 * taken for the parent because it is the only one there.
 */
#include "libimg/image/parent.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum match {
	MATCH_NOT_FOUND, /* no such file, or it may not be opened */
	MATCH_OTHER,	 /* another identity */
	MATCH_UNKNOWN,	 /* no identity, or no image */
	MATCH_SAME,
};

/* The search for one parent. */
struct search {
	const struct img *img;
	const struct img_driver *only; /* NULL: any */
	int rc;			       /* why the first thing that was tried failed; 0: nothing yet */
	/* Of the last file looked at: */
	const struct img_driver *driver; /* NULL: no driver knows it */
	char *identity;			 /* of the file, as of struct img_storage */
	bool in_chain;
};

/* There is no point in going on. */
static bool is_fatal(int rc)
{
	return rc == -ENOMEM || rc == -EMFILE || rc == -ENFILE;
}

__attribute__((format(printf, 4, 5))) static void add_reason(struct search *s, FILE *reasons, int rc,
							     const char *fmt, ...)
{
	va_list args;

	fputs(s->rc ? "; " : "", reasons);
	va_start(args, fmt);
	vfprintf(reasons, fmt, args);
	va_end(args);
	if (!s->rc)
		s->rc = rc;
}

/* Whose image is in s, and which? */
static enum match identify(struct search *s, struct img_storage *storage, struct img_error *why)
{
	uint8_t uuid[IMG_GUID_BYTES];
	char text[IMG_GUID_CHARS + 1];
	int rc = -EMEDIUMTYPE;

	s->driver = NULL;
	for (size_t i = 0; img_drivers[i] && rc == -EMEDIUMTYPE; i++) {
		const struct img_driver *d = img_drivers[i];

		if (!d->identify || (s->only && d != s->only))
			continue;
		rc = d->identify(storage, uuid, NULL);
		if (rc != -EMEDIUMTYPE)
			s->driver = d;
	}
	if (rc) {
		img_fail(why, rc, "it has no UUID");
		return MATCH_UNKNOWN;
	}
	for (unsigned i = 0; i < s->img->backing_uuid_count; i++)
		if (img_guid_equal(uuid, s->img->backing_uuids[i]))
			return MATCH_SAME;
	img_guid_print(uuid, text);
	img_fail(why, -ENOENT, "its UUID is %s", text);
	return MATCH_OTHER;
}

/* *why: unless it is the one. Errors are fatal ones. */
static int examine(struct search *s, const char *name, enum match *out, struct img_error *why,
		   struct img_error *err)
{
	const struct img *img = s->img;
	struct img_storage *storage;
	struct img_gate_file file;
	int rc = img_gate_open(img->context->gate, img->context->path, name, "backing file", false,
			       &file, why);

	*out = MATCH_NOT_FOUND;
	free(s->identity);
	s->identity = NULL;
	if (rc)
		return is_fatal(rc) ? img_fail(err, rc, "%s", img_error_text(why)) : 0;
	s->in_chain = img_context_has(img, file.identity, true);
	s->identity = file.identity;
	file.identity = NULL;
	/* Whoever has it open may go on; it is opened for good, with a lock, when it was found. */
	rc = img_storage_open_fd(file.fd, file.path, IMG_STORAGE_NO_LOCK | IMG_STORAGE_SHARE,
				 &storage, why);
	img_gate_file_free(&file);
	if (rc)
		return is_fatal(rc) ? img_fail(err, rc, "%s", img_error_text(why)) : 0;
	*out = img->backing_uuid_count ? identify(s, storage, why) : MATCH_UNKNOWN;
	img_storage_close(storage);
	return 0;
}

static int take(struct search *s, const char *name, struct img_parent *out, struct img_error *err)
{
	out->name = strdup(name);
	out->driver = s->driver;
	return out->name ? 0 : img_fail(err, -ENOMEM, "out of memory");
}

/*
 * One of the image's names: 1: it leads to the parent, which is *out. 0: it does not, or nobody knows: then
 * it is *out if nothing is yet. reasons: what was tried.
 */
static int try_name(struct search *s, const char *name, struct img_parent *out, FILE *reasons,
		    struct img_error *err)
{
	struct img_error why = { 0 };
	enum match match;
	int rc = examine(s, name, &match, &why, err);

	if (!rc && match == MATCH_SAME) {
		free(out->name);
		rc = take(s, name, out, err);
		rc = rc ? rc : 1;
	} else if (!rc) {
		add_reason(s, reasons, img_error_code(&why), "'%s': %s", name, img_error_text(&why));
		if (match == MATCH_UNKNOWN && !out->name)
			rc = take(s, name, out, err);
	}
	img_error_clear(&why);
	return rc;
}

static int fail_two(const struct img *img, const char *one, const char *other, struct img_error *err)
{
	char uuid[IMG_GUID_CHARS + 1];

	img_guid_print(img->backing_uuids[0], uuid);
	return img_fail(err, -ENOTUNIQ,
			"%s: its parent has the UUID %s, which two files of its folder have, '%s' and "
			"'%s': one of them has to lie elsewhere, or the right one to be given with "
			"backing.file.filename (--image-opts)",
			img->name, uuid, one, other);
}

static int fail_loop(const struct img *img, const char *name, struct img_error *err)
{
	return img_fail(err, -ELOOP,
			"%s: its parent has the UUID of '%s', which is already part of the chain, which "
			"would never end",
			img->name, name);
}

/* Among the files of the folder: 1: *out. 0: it is not there, reasons says so. */
static int try_folder(struct search *s, struct img_parent *out, FILE *reasons, struct img_error *err)
{
	const struct img *img = s->img;
	char uuid[IMG_GUID_CHARS + 1], *found = NULL, *loop = NULL;
	struct img_parent parent = { 0 };
	struct img_error why = { 0 };
	size_t count = 0, refused = 0;
	char **names = NULL;
	int rc = img_gate_list(img->context->gate, img->context->path, &names, &count, &why);

	if (is_fatal(rc)) {
		img_error_move(err, &why);
		return rc;
	}
	if (rc) {
		add_reason(s, reasons, rc, "%s", img_error_text(&why));
		img_error_clear(&why);
		return 0;
	}
	for (size_t i = 0; i < count && !rc; i++) {
		enum match match;

		rc = examine(s, names[i], &match, &why, err);
		img_error_clear(&why);
		refused += match == MATCH_NOT_FOUND;
		if (rc || match != MATCH_SAME)
			continue;
		if (s->in_chain) {
			loop = names[i];
		} else if (!found) {
			found = s->identity;
			s->identity = NULL;
			rc = take(s, names[i], &parent, err);
		} else if (strcmp(found, s->identity) != 0) { /* not a link to the same */
			rc = fail_two(img, parent.name, names[i], err);
		}
	}
	if (!rc && !found && loop)
		rc = fail_loop(img, loop, err);
	if (!rc && found) {
		free(out->name);
		*out = parent;
		parent.name = NULL;
		rc = 1;
	} else if (!rc) {
		img_guid_print(img->backing_uuids[0], uuid);
		add_reason(s, reasons, -ENOENT, "no image of UUID %s", uuid);
		if (img->backing_uuid_count > 1) {
			img_guid_print(img->backing_uuids[1], uuid);
			fprintf(reasons, " or %s", uuid);
		}
		fprintf(reasons, " among the %zu files of its folder", count);
		if (refused)
			fprintf(reasons, ", %zu of which are refused or cannot be opened", refused);
	}
	free(found);
	free(parent.name);
	img_gate_list_free(names, count);
	return rc;
}

int img_parent_find(const struct img *img, const struct img_driver *driver, struct img_parent *out,
		    struct img_error *err)
{
	struct search s = { .img = img, .only = driver };
	struct img_parent parent = { 0 };
	char *reasons = NULL;
	size_t len = 0;
	FILE *stream = open_memstream(&reasons, &len);
	int rc = 0;

	if (!stream)
		return img_fail(err, -ENOMEM, "out of memory");
	if (img->backing_name && *img->backing_name)
		rc = try_name(&s, img->backing_name, &parent, stream, err);
	for (size_t i = 0; !rc && i < img->backing_alternative_count; i++)
		rc = try_name(&s, img->backing_alternatives[i], &parent, stream, err);
	if (!rc && img->backing_uuid_count)
		rc = try_folder(&s, &parent, stream, err);
	if (fclose(stream) && rc >= 0)
		rc = img_fail(err, -ENOMEM, "out of memory");
	if (!rc && !parent.name)
		rc = img_fail(err, s.rc,
			      "%s: it holds only differences to another image, which was not found: %s; "
			      "it can be given with backing.file.filename (--image-opts)",
			      img->name, reasons);
	if (rc < 0) {
		free(parent.name);
	} else {
		*out = parent;
		rc = 0;
	}
	free(s.identity);
	free(reasons);
	return rc;
}
