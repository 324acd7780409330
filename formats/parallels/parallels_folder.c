/*
 * Changing what a folder's DiskDescriptor.xml says: the size of the disk, and one more snapshot. The files are
 * complete before the descriptor, which is replaced as a whole, needs them; so a power cut leaves a disk of the old
 * kind or the new, and at worst files that are longer than their storage, or that nobody names.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"

static int no_memory(const struct img *img, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
}

/* The text of the descriptor; malloc'd. */
static int read_text(const struct img *img, char **out, size_t *len, struct img_error *err)
{
	int rc;

	*len = (size_t)img->file->size;
	*out = malloc(*len + 1);
	if (!*out)
		return no_memory(img, err);
	rc = img_storage_read(img->file, 0, *out, *len, err);
	if (rc)
		free(*out);
	return rc;
}

/* ---- Another size: that of the last storage ---- */

static struct parallels_file *last_file(const struct img *img)
{
	const struct parallels *s = img->state;

	return &s->files[s->count - 1];
}

static int check_resize(const struct img *img, uint64_t size, struct img_error *err)
{
	const struct parallels *s = img->state;
	const struct parallels_descriptor *d = s->descriptor;
	const struct parallels_part *last = d->part_count ? &d->parts[d->part_count - 1] : NULL;
	uint64_t start = last ? last->start * PARALLELS_SECTOR : 0;

	if (!last || (d->part_count > 1 && last->start == last->end))
		return img_fail(err, -ENOTSUP,
				"%s: StorageData: found no storage that could have another size",
				img->name);
	if (d->snapshot_count > 1)
		return img_fail(err, -ENOTSUP,
				"%s: the disk has %zu snapshots, which are as large as it is: a disk with snapshots "
				"keeps its size (a copy made by convert has none)",
				img->name, d->snapshot_count - 1);
	if (size <= start || size > PARALLELS_DISK_BYTES_MAX)
		return img_fail(err, size > start ? -EFBIG : -ENOTSUP,
				"%s: new size: found %" PRIu64 ", expected more than %" PRIu64
				", where the last storage begins, and up to %" PRIu64,
				img->name, size, start, PARALLELS_DISK_BYTES_MAX);
	return 0;
}

static int store_size(struct img *img, uint64_t size, struct img_error *err)
{
	const struct parallels *s = img->state;
	struct parallels_descriptor *d = s->descriptor;
	uint64_t sectors = size / PARALLELS_SECTOR;
	char *text, *next = NULL;
	size_t len, next_len;
	int rc = read_text(img, &text, &len, err);

	if (rc)
		return rc;
	rc = parallels_descriptor_resize(text, len, d, sectors, &next, &next_len, err);
	if (rc)
		rc = img_error_prefix(err, rc, "%s", img->name);
	else
		rc = img_storage_replace(img->file, next, next_len, !img->unsafe, err);
	if (!rc) {
		d->sectors = sectors;
		d->parts[d->part_count - 1].end = sectors;
	}
	free(next);
	free(text);
	return rc;
}

static int resize_plain(struct parallels_file *p, uint64_t bytes, struct img_error *err)
{
	int rc = 0;

	if (p->storage->size != bytes)
		rc = img_storage_resize(p->storage, bytes, IMG_PREALLOCATE_OFF, err);
	if (!rc)
		rc = parallels_sync(p, err);
	if (!rc)
		p->size = bytes;
	return rc;
}

int parallels_folder_extend(struct img *img, uint64_t size, struct img_error *err)
{
	struct parallels_file *p;
	int rc = check_resize(img, size, err);

	if (rc)
		return rc;
	p = last_file(img);
	return p->plain ? resize_plain(p, size - p->start, err)
			: parallels_file_extend(p, size - p->start, err);
}

int parallels_folder_resize(struct img *img, uint64_t size, enum img_preallocate how,
			    struct img_error *err)
{
	const struct parallels *s = img->state;
	bool grows = size / PARALLELS_SECTOR > s->descriptor->sectors;
	struct parallels_file *p;
	int rc = check_resize(img, size, err);

	if (!rc && how != IMG_PREALLOCATE_OFF)
		rc = img_fail(err, -ENOTSUP,
			      "%s: preallocation of what a Parallels image grows by is not supported",
			      img->name);
	/* Whoever reads the descriptor finds files that are long enough. */
	if (!rc && !grows)
		rc = store_size(img, size, err);
	if (rc)
		return rc;
	p = last_file(img);
	if (!grows) {
		img->size = size;
		p->size = size - p->start;
	}
	rc = p->plain ? resize_plain(p, size - p->start, err)
		      : parallels_file_resize(p, size - p->start, how, err);
	if (!rc && grows)
		rc = store_size(img, size, err);
	if (!rc)
		img->size = size;
	return rc;
}

/* ---- One more snapshot ---- */

static int check_snapshot(const struct img *img, const struct img_creating *c, struct img_error *err)
{
	const struct parallels *s = img->state;
	const struct parallels_descriptor *d = s->descriptor;
	uint64_t cluster = img_options_number(c->options, "cluster_size");

	if (!d)
		return img_fail(err, -ENOTSUP, "%s: a single file has no snapshots", img->name);
	if (c->size != img->size)
		return img_fail(err, -EINVAL,
				"%s: the size of a snapshot is %" PRIu64 ", expected %" PRIu64
				", as the disk has",
				img->name, c->size, (uint64_t)img->size);
	if (d->snapshot_count >= PARALLELS_SNAPSHOTS_MAX)
		return img_fail(err, -ENOTSUP, "%s: it has %zu snapshots, as many as can be",
				img->name, d->snapshot_count);
	for (size_t i = 0; i < d->part_count; i++)
		if (d->parts[i].start * PARALLELS_SECTOR % cluster)
			return img_fail(err, -EINVAL,
					"%s: cluster_size is %" PRIu64 ", storage %zu begins at %" PRIu64
					", which is no multiple of that",
					img->name, cluster, i, d->parts[i].start * PARALLELS_SECTOR);
	return 0;
}

int parallels_add_state(struct img *img, struct img_creating *c, char **text, size_t *len,
			struct img_error *err)
{
	const struct parallels *s = img->state;
	const struct parallels_descriptor *d = s->descriptor;
	uint8_t older[IMG_GUID_BYTES];
	char **files = NULL, *old = NULL;
	size_t old_len;
	int rc = check_snapshot(img, c, err);

	if (!rc)
		rc = img_guid_new(c->identity, "snapshot", older, err);
	if (!rc)
		rc = read_text(img, &old, &old_len, err);
	if (rc)
		return rc;
	files = calloc(d->part_count + 1, sizeof(*files));
	if (!files)
		rc = no_memory(img, err);
	for (size_t i = 0; i < d->part_count && !rc; i++)
		rc = parallels_create_part(c, i, (d->parts[i].end - d->parts[i].start) * PARALLELS_SECTOR,
					   &files[i], err);
	if (!rc) {
		rc = parallels_descriptor_add_snapshot(old, old_len, d, older, files, text, len,
						       err);
		if (rc)
			rc = img_error_prefix(err, rc, "%s", img->name);
	}
	for (size_t i = 0; files && i < d->part_count; i++)
		free(files[i]);
	free(files);
	free(old);
	return rc;
}
