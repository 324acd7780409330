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

/* What is below it. A check has all snapshots as files of one image, and nothing below. */
static int set_parent(struct img *img, struct parallels *s, bool for_check, struct img_error *err)
{
	const struct parallels_snapshot *shot = parallels_find_snapshot(s->descriptor, s->guid);
	char text[IMG_GUID_CHARS + 1];

	if (!shot && s->descriptor->snapshot_count) {
		img_guid_print(s->guid, text);
		return img_fail(err, -EUCLEAN,
				"%s: the top snapshot %s is not among the %zu that are listed",
				img->name, text, s->descriptor->snapshot_count);
	}
	if (!shot || img_guid_is_zero(shot->parent))
		return 0;
	img_guid_print(shot->parent, s->parent);
	if (!for_check)
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

/* The file of s that has the bytes of storage; NULL: none. */
static const struct parallels_file *find_same(const struct parallels *s,
					      const struct img_storage *storage)
{
	for (size_t i = 0; storage->identity && i < s->count + s->other_count; i++) {
		const struct parallels_file *p = i < s->count ? &s->files[i]
							      : &s->others[i - s->count];

		if (p->storage->identity && !strcmp(p->storage->identity, storage->identity))
			return p;
	}
	return NULL;
}

/* What snapshot guid has of storage number becomes *p, which is counted in *count then. */
static int open_part(struct img *img, const struct parallels *s, struct img_opening *o, size_t number,
		     const uint8_t guid[IMG_GUID_BYTES], struct parallels_file *p, size_t *count,
		     struct img_error *err)
{
	const struct parallels_part *part = &s->descriptor->parts[number];
	const struct parallels_image *image = parallels_find_image(part, guid);
	const struct parallels_snapshot *shot = parallels_find_snapshot(s->descriptor, guid);
	uint64_t bytes = (part->end - part->start) * PARALLELS_SECTOR;
	const struct parallels_file *same;
	char text[IMG_GUID_CHARS + 1], what[40];
	int rc;

	snprintf(what, sizeof(what), "storage %zu", number);
	if (!image) {
		img_guid_print(guid, text);
		return img_fail(err, -EUCLEAN, "%s: %s: no image of snapshot %s", img->name, what,
				text);
	}
	if (image->plain && shot && !img_guid_is_zero(shot->parent)) {
		img_guid_print(shot->parent, text);
		return img_fail(
			err, -EUCLEAN,
			"%s: %s: a plain image is based on snapshot %s, which only an expanding one can be",
			img->name, what, text);
	}
	rc = o->reference(o, image->file, what, &p->storage, err);
	if (rc)
		return rc;
	same = find_same(s, p->storage);
	(*count)++;
	p->img = img;
	p->name = p->storage->name;
	p->start = part->start * PARALLELS_SECTOR;
	p->plain = image->plain;
	if (same)
		return img_fail(err, -EUCLEAN,
				"%s: %s: %s is named for another part of the disk, or another "
				"snapshot, already",
				img->name, what, p->name);
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

/* A check is of all snapshots: each is a state of the disk. */
static int open_others(struct img *img, struct parallels *s, struct img_opening *o,
		       struct img_error *err)
{
	const struct parallels_descriptor *d = s->descriptor;
	int rc = 0;

	s->others = calloc(d->snapshot_count * d->part_count + 1, sizeof(*s->others));
	if (!s->others)
		return no_memory(img, err);
	for (size_t i = 0; i < d->snapshot_count; i++) {
		const uint8_t *guid = d->snapshots[i].guid;

		if (img_guid_equal(guid, s->guid))
			continue;
		for (size_t part = 0; part < d->part_count && !rc; part++)
			rc = open_part(img, s, o, part, guid, &s->others[s->other_count],
				       &s->other_count, err);
	}
	return rc;
}

/* ---- Writing to a folder ---- */

/* Is the snapshot of that GUID based on below, at whatever depth, or it itself? */
static bool is_based_on(const struct parallels_descriptor *d, const uint8_t guid[IMG_GUID_BYTES],
			const uint8_t below[IMG_GUID_BYTES])
{
	const struct parallels_snapshot *s = parallels_find_snapshot(d, guid);

	while (s && !img_guid_equal(s->guid, below)) /* the parser saw that each line ends */
		s = img_guid_is_zero(s->parent) ? NULL : parallels_find_snapshot(d, s->parent);
	return s;
}

/* What is written to a snapshot shows in all that are based on it. */
static int check_line(const struct img *img, const struct parallels *s, struct img_error *err)
{
	const struct parallels_descriptor *d = s->descriptor;

	for (size_t i = 0; i < d->snapshot_count; i++) {
		const uint8_t *guid = d->snapshots[i].guid;
		char own[IMG_GUID_CHARS + 1], other[IMG_GUID_CHARS + 1];

		if (!is_based_on(d, guid, s->guid) || is_based_on(d, d->top, guid) ||
		    img_guid_equal(guid, s->guid))
			continue;
		img_guid_print(s->guid, own);
		img_guid_print(guid, other);
		return img_fail(err, -EBUSY,
				"%s: snapshot %s cannot be written to: snapshot %s, which is no part of "
				"the present state, is based on it and would change",
				img->name, own, other);
	}
	return 0;
}

/* One unit for all: whole units of the disk are whole clusters of a file. */
static int check_units(const struct img *img, const struct parallels *s, struct img_error *err)
{
	for (size_t i = 0; i < s->count; i++) {
		const struct parallels_file *p = &s->files[i];

		if (!p->plain &&
		    (p->cluster_bytes != img->unit_bytes || p->start % p->cluster_bytes))
			return img_fail(err, -ENOTSUP,
					"%s: storage %zu: clusters of %" PRIu64
					" bytes from %" PRIu64 " on, expected of %" PRIu64
					" and from a multiple of that: the "
					"disk can only be read",
					img->name, i, p->cluster_bytes, p->start, img->unit_bytes);
	}
	return 0;
}

int parallels_prepare_writing(struct img *img, bool for_check, struct img_error *err)
{
	const struct parallels *s = img->state;
	int rc = 0;

	if (s->descriptor && !for_check) /* a check looks at each file by itself */
		rc = check_units(img, s, err);
	if (!rc && s->descriptor && !for_check)
		rc = check_line(img, s, err);
	for (size_t i = 0; i < s->count && !rc; i++)
		if (!s->files[i].plain)
			rc = parallels_file_set_writable(&s->files[i], true, err);
	return rc;
}

static int open_folder(struct img *img, struct parallels *s, struct img_opening *o,
		       struct img_error *err)
{
	const struct parallels_descriptor *d;
	int rc = read_descriptor(img, s, err);

	if (!rc)
		rc = choose_snapshot(img, s, &o->view, s->guid, err);
	if (!rc)
		rc = set_parent(img, s, o->for_check, err);
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
		rc = open_part(img, s, o, i, s->guid, &s->files[i], &s->count, err);
	if (!rc && o->for_check)
		rc = open_others(img, s, o, err);
	if (rc)
		return rc;
	img->unit_bytes = PLAIN_UNIT_BYTES;
	for (size_t i = s->count; i; i--)
		if (!s->files[i - 1].plain)
			img->unit_bytes = s->files[i - 1].cluster_bytes;
	return 0;
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
	for (size_t i = 0; i < s->other_count; i++)
		img_storage_close(s->others[i].storage);
	if (s->descriptor)
		parallels_descriptor_free(s->descriptor);
	free(s->descriptor);
	free(s->others);
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
	if (!rc && img->writable)
		rc = parallels_prepare_writing(img, o->for_check, err);
	if (rc)
		parallels_close(img);
	return rc;
}
