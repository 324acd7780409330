/*
 * Opening: one file, or what a snapshot has in a folder. Of a folder each older snapshot is the
 * parent of the next one, seen through the same DiskDescriptor.xml.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"

enum { PLAIN_UNIT_BYTES = 1 << 20 };

static int no_memory(const struct img *img, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
}

/* ---- One file ---- */

static int open_single(struct img *img, struct parallels *s, const struct img_opening *o,
		       struct img_error *err)
{
	struct parallels_file *p = calloc(1, sizeof(*p));
	int rc;

	if (o->view.id || o->view.name)
		rc = img_fail(err, -ENOENT, "%s: a single file has no snapshots", img->name);
	else
		rc = p ? 0 : no_memory(img, err);
	if (rc) {
		free(p);
		return rc;
	}
	p->img = img;
	p->name = img->name;
	p->storage = img->file;
	s->files = p;
	s->count = 1;
	rc = parallels_file_open(p, o->for_check, err);
	if (rc)
		return rc;
	img->size = p->size;
	img->unit_bytes = p->cluster_bytes;
	img->dirty = p->header.in_use == PARALLELS_OPEN;
	return 0;
}

/* ---- A folder ---- */

static int read_descriptor(struct img *img, struct parallels *s, struct img_error *err)
{
	/* one that is longer than allowed is found to be so when it is parsed */
	size_t len = (size_t)min_u64(img->file->size, (8 << 20));
	char *text = malloc(len + 1);
	int rc;

	s->descriptor = calloc(1, sizeof(*s->descriptor));
	rc = text && s->descriptor ? 0 : no_memory(img, err);
	if (!rc)
		rc = img_storage_read(img->file, 0, text, len, err);
	if (!rc && !parallels_is_descriptor(text, len))
		rc = img_fail(err, -EMEDIUMTYPE,
			      "%s: neither a Parallels image nor a "
			      "DiskDescriptor.xml",
			      img->name);
	else if (!rc && (rc = parallels_descriptor_parse(text, len, s->descriptor, err)))
		rc = img_error_prefix(err, rc, "%s", img->name);
	free(text);
	return rc;
}

/* Which snapshot is to be shown: the top one, or the one that was asked for by its GUID. */
static int choose_snapshot(struct img *img, const struct parallels *s, const struct img_view *view,
			   uint8_t guid[IMG_GUID_BYTES], struct img_error *err)
{
	const struct parallels_descriptor *d = s->descriptor;
	const char *text = view->id ? view->id : view->name;
	uint8_t other[IMG_GUID_BYTES];

	memcpy(guid, d->top, IMG_GUID_BYTES);
	if (!text)
		return 0;
	if (!img_guid_parse(text, strlen(text), guid) ||
	    (view->id && view->name &&
	     (!img_guid_parse(view->name, strlen(view->name), other) ||
	      !img_guid_equal(guid, other))) ||
	    (!parallels_find_snapshot(d, guid) && !img_guid_equal(guid, d->top)))
		return img_fail(err, -ENOENT, "%s: found no snapshot '%s'", img->name, text);
	return 0;
}

/* What is below it. */
static int set_parent(struct img *img, struct parallels *s, const uint8_t guid[IMG_GUID_BYTES],
		      struct img_error *err)
{
	const struct parallels_snapshot *shot = parallels_find_snapshot(s->descriptor, guid);
	char text[IMG_GUID_CHARS + 1];

	if (!shot && s->descriptor->snapshot_count) {
		img_guid_print(guid, text);
		return img_fail(err, -EUCLEAN,
				"%s: the top snapshot %s is not among the %zu that are listed",
				img->name, text, s->descriptor->snapshot_count);
	}
	if (!shot || img_guid_is_zero(shot->parent))
		return 0;
	img_guid_print(shot->parent, s->parent);
	img->backing_view.id = s->parent;
	return 0;
}

static int open_plain(struct parallels_file *p, uint64_t bytes, struct img_error *err)
{
	if (p->storage->size < bytes)
		return img_fail(err, -EUCLEAN,
				"%s: truncated: ends at %" PRIu64 ", the storage needs %" PRIu64,
				p->name, (uint64_t)p->storage->size, bytes);
	p->size = bytes;
	return 0;
}

static int open_part(struct img *img, struct parallels *s, struct img_opening *o, size_t number,
		     const uint8_t guid[IMG_GUID_BYTES], struct img_error *err)
{
	const struct parallels_part *part = &s->descriptor->parts[number];
	const struct parallels_image *image = parallels_find_image(part, guid);
	uint64_t bytes = (part->end - part->start) * PARALLELS_SECTOR;
	struct parallels_file *p = &s->files[number];
	char text[IMG_GUID_CHARS + 1], what[40];
	int rc;

	snprintf(what, sizeof(what), "storage %zu", number);
	if (!image) {
		img_guid_print(guid, text);
		return img_fail(err, -EUCLEAN, "%s: %s: no image of snapshot %s", img->name, what,
				text);
	}
	if (image->plain && *s->parent)
		return img_fail(
			err, -EUCLEAN,
			"%s: %s: a plain image is based on snapshot %s, which only an expanding one can be",
			img->name, what, s->parent);
	rc = o->reference(o, image->file, what, &p->storage, err);
	if (rc)
		return rc;
	s->count = number + 1;
	p->img = img;
	p->name = p->storage->name;
	p->start = part->start * PARALLELS_SECTOR;
	p->plain = image->plain;
	for (size_t i = 0; i < number; i++)
		if (p->storage->identity && s->files[i].storage->identity &&
		    !strcmp(p->storage->identity, s->files[i].storage->identity))
			return img_fail(err, -EUCLEAN, "%s: %s: %s is storage %zu already",
					img->name, what, p->name, i);
	if (p->plain)
		return open_plain(p, bytes, err);
	rc = parallels_file_open(p, o->for_check, err);
	if (rc == -EMEDIUMTYPE)
		rc = img_fail(err, -EUCLEAN,
			      "%s: %s: %s is no expanding image, as it is said to be", img->name,
			      what, p->name);
	if (rc)
		return rc;
	if (p->size < bytes)
		return img_fail(err, -EUCLEAN,
				"%s: header: disk size: found %" PRIu64 " bytes, expected %" PRIu64
				", which the storage has",
				p->name, p->size, bytes);
	p->size = bytes;
	img->dirty |= p->header.in_use == PARALLELS_OPEN;
	return 0;
}

/* One unit for all: whole units of the disk are whole clusters of a file. */
static int check_units(struct img *img, const struct parallels *s, struct img_error *err)
{
	const struct parallels_file *first = NULL;

	for (size_t i = 0; i < s->count; i++) {
		const struct parallels_file *p = &s->files[i];

		if (!p->cluster_bytes) /* plain */
			continue;
		if (!first)
			first = p;
		if (img->writable &&
		    (p->cluster_bytes != first->cluster_bytes || p->start % p->cluster_bytes))
			return img_fail(err, -ENOTSUP,
					"%s: storage %zu: clusters of %" PRIu64
					" bytes from %" PRIu64 " on, expected of %" PRIu64
					" and from a multiple of that: the "
					"disk can only be read",
					img->name, i, p->cluster_bytes, p->start,
					first->cluster_bytes);
	}
	img->unit_bytes = first ? first->cluster_bytes : PLAIN_UNIT_BYTES;
	return 0;
}

static int open_folder(struct img *img, struct parallels *s, struct img_opening *o,
		       struct img_error *err)
{
	const struct parallels_descriptor *d;
	uint8_t guid[IMG_GUID_BYTES];
	int rc = read_descriptor(img, s, err);

	if (!rc)
		rc = choose_snapshot(img, s, &o->view, guid, err);
	if (!rc)
		rc = set_parent(img, s, guid, err);
	if (rc)
		return rc;
	d = s->descriptor;
	img->size = d->sectors * PARALLELS_SECTOR;
	img->unit_bytes = d->part_count && d->parts[0].cluster_sectors
				  ? (uint64_t)d->parts[0].cluster_sectors * PARALLELS_SECTOR
				  : PLAIN_UNIT_BYTES;
	if (o->self_only)
		return 0;
	s->files = calloc(d->part_count + 1, sizeof(*s->files));
	if (!s->files)
		return no_memory(img, err);
	for (size_t i = 0; i < d->part_count && !rc; i++)
		rc = open_part(img, s, o, i, guid, err);
	return rc ? rc : check_units(img, s, err);
}

/* ---- Both ---- */

void parallels_close(struct img *img)
{
	struct parallels *s = img->state;

	for (size_t i = 0; i < s->count; i++) {
		if (!s->files[i].plain)
			parallels_free_alloc(&s->files[i]);
		if (s->descriptor)
			img_storage_close(s->files[i].storage);
	}
	if (s->descriptor)
		parallels_descriptor_free(s->descriptor);
	free(s->descriptor);
	free(s->files);
	free(s);
	img->state = NULL;
}

int parallels_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	uint8_t magic[PARALLELS_MAGIC_BYTES];
	size_t len = (size_t)min_u64(sizeof(magic), img->file->size);
	struct parallels *s;
	int rc = img_storage_read(img->file, 0, magic, len, err);

	if (rc)
		return rc;
	s = calloc(1, sizeof(*s));
	if (!s)
		return no_memory(img, err);
	img->state = s;
	if (len && magic[0] != 'W')
		rc = open_folder(img, s, o, err);
	else
		rc = open_single(img, s, o, err);
	for (size_t i = 0; !rc && img->writable && i < s->count; i++)
		if (!s->files[i].plain)
			rc = parallels_file_set_writable(&s->files[i], true, err);
	if (rc)
		parallels_close(img);
	return rc;
}
