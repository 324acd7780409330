/*
 * Parallels: spec/parallels.md. The driver: what is asked of the disk is asked of the file that has
 * it. What is done with a file is in the files that parallels_state.h lists.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"

enum { SLOT_FILE = 11 }; /* of plan->slot[]; the first ones are the file's */

static int parallels_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)tail;
	(void)file_size;
	return parallels_is_ours(head, len) || parallels_is_descriptor((const char *)head, len)
		       ? 100
		       : 0;
}

/* The file that has the disk's byte at off. */
static struct parallels_file *file_at(const struct img *img, uint64_t off)
{
	const struct parallels *s = img->state;
	size_t low = 0, high = s->count - 1;

	while (low < high) {
		size_t middle = (low + high + 1) / 2;

		if (s->files[middle].start <= off)
			low = middle;
		else
			high = middle - 1;
	}
	return &s->files[low];
}

/* ---- Reading and writing ---- */

static int parallels_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
			 struct img_extent *out)
{
	const struct parallels *s = img->state;
	struct parallels_file *p = file_at(img, off);
	uint64_t within = off - p->start;

	if (p->for_check && *s->parent)
		return img_fail(img_req_error(req), -EINVAL,
				"%s: it was opened for a check, without the snapshot that it is based on",
				img->name);
	len = min_u64(len, p->size - within);
	if (!p->plain)
		return parallels_file_map(p, req, within, len, out);
	*out = (struct img_extent){
		.kind = IMG_DATA,
		.length = len,
		.storage = p->storage,
		.file_off = within,
	};
	return 0;
}

static int plan_plain(const struct parallels_file *p, enum img_op op, uint64_t off, uint64_t len,
		      struct img_plan *plan)
{
	plan->kind = op == IMG_OP_WRITE	 ? IMG_PLAN_DATA
		     : op == IMG_OP_ZERO ? IMG_PLAN_ZERO
					 : IMG_PLAN_PUNCH;
	plan->length = len;
	plan->fill_start = off;
	plan->fill_end = off + len;
	plan->storage = p->storage;
	plan->file_off = off;
	return 0;
}

static int parallels_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
				uint64_t len, struct img_plan *plan)
{
	const struct parallels *s = img->state;
	struct parallels_file *p = file_at(img, off);
	uint64_t within = off - p->start;
	int rc;

	if (op == IMG_OP_WRITE_COMPRESSED)
		return img_fail(img_req_error(req), -ENOTSUP,
				"%s: a Parallels image holds no compressed data", img->name);
	len = min_u64(len, p->size - within);
	rc = p->plain ? plan_plain(p, op, within, len, plan)
		      : parallels_file_plan(p, req, op, within, len, plan);
	if (rc)
		return rc;
	plan->fill_start += p->start;
	plan->fill_end += p->start;
	plan->slot[SLOT_FILE] = (uint64_t)(p - s->files);
	return 0;
}

static struct parallels_file *file_of(const struct img *img, const struct img_plan *plan)
{
	const struct parallels *s = img->state;

	return &s->files[plan->slot[SLOT_FILE]];
}

static void parallels_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	parallels_file_commit(file_of(img, plan), req, plan);
}

static void parallels_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	parallels_file_drop(file_of(img, plan), req, plan);
}

static int parallels_release(struct img *img, struct img_req *req, struct img_storage *storage,
			     uint64_t file_off, uint64_t len)
{
	const struct parallels *s = img->state;

	(void)req;
	for (size_t i = 0; i < s->count; i++)
		if (s->files[i].storage == storage)
			parallels_file_release(&s->files[i], file_off, len);
	return 0;
}

/* ---- In use ---- */

static int parallels_first_write(struct img *img, struct img_error *err)
{
	const struct parallels *s = img->state;
	int rc = 0;

	for (size_t i = 0; i < s->count && !rc; i++)
		if (!s->files[i].plain)
			rc = parallels_file_first_write(&s->files[i], err);
	return rc;
}

static int parallels_finish(struct img *img, struct img_error *err)
{
	const struct parallels *s = img->state;
	int rc = 0;

	for (size_t i = 0; i < s->count && !rc; i++)
		if (!s->files[i].plain)
			rc = parallels_file_finish(&s->files[i], err);
	if (!rc)
		img->dirty = false;
	return rc;
}

static int parallels_set_writable(struct img *img, bool writable, struct img_error *err)
{
	const struct parallels *s = img->state;

	if (writable)
		return parallels_prepare_writing(img, false, err);
	for (size_t i = 0; i < s->count; i++)
		if (!s->files[i].plain)
			parallels_file_set_writable(&s->files[i], false, NULL);
	return 0;
}

/* ---- Sizes ---- */

static int parallels_extend(struct img *img, uint64_t size, struct img_error *err)
{
	const struct parallels *s = img->state;
	int rc = s->descriptor ? parallels_folder_extend(img, size, err)
			       : parallels_file_extend(s->files, size, err);

	if (!rc)
		img->size = size;
	return rc;
}

static int parallels_resize(struct img *img, uint64_t size, enum img_preallocate how,
			    struct img_error *err)
{
	const struct parallels *s = img->state;
	int rc;

	if (s->descriptor)
		return parallels_folder_resize(img, size, how, err);
	rc = parallels_file_resize(s->files, size, how, err);
	img->size = s->files->size;
	return rc;
}

/* ---- Giving up all content ---- */

static int parallels_make_empty(struct img *img, struct img_error *err)
{
	const struct parallels *s = img->state;
	int rc = 0;

	for (size_t i = 0; i < s->count; i++)
		if (s->files[i].plain)
			return img_fail(err, -ENOTSUP,
					"%s: %s is a plain image, which cannot be emptied", img->name,
					s->files[i].name);
	for (size_t i = 0; i < s->count && !rc; i++)
		rc = parallels_file_make_empty(&s->files[i], err);
	return rc;
}

/* ---- Checks and reports ---- */

static int parallels_check(struct img *img, struct img_check *c, struct img_error *err)
{
	const struct parallels *s = img->state;
	int rc = 0;

	for (size_t i = 0; i < s->count + s->other_count && !rc; i++) {
		struct parallels_file *p = i < s->count ? &s->files[i] : &s->others[i - s->count];

		if (!p->plain)
			rc = parallels_file_check(p, c, err);
		else
			c->result.image_end += p->size;
	}
	if (!rc && c->repair && !c->result.corruptions)
		img->dirty = false;
	return rc;
}

static int parallels_info(struct img *img, struct img_value *top, struct img_value *specific,
			  struct img_error *err)
{
	const struct parallels *s = img->state;
	const struct parallels_descriptor *d = s->descriptor;
	char text[IMG_GUID_CHARS + 1];
	struct img_value *list;

	(void)top;
	(void)err;
	if (!d)
		return 0;
	img_guid_print(d->top, text);
	img_value_add_string(specific, "top", text);
	list = img_value_add_array(specific, "snapshots");
	for (size_t i = 0; i < d->snapshot_count; i++) {
		struct img_value *shot = img_value_add_object(list, NULL);

		img_guid_print(d->snapshots[i].guid, text);
		img_value_add_string(shot, "id", text);
		if (img_guid_is_zero(d->snapshots[i].parent))
			continue;
		img_guid_print(d->snapshots[i].parent, text);
		img_value_add_string(shot, "parent", text);
	}
	return 0;
}

/* All files of the folder, those of older snapshots too; the descriptor tells how long the plain
 * ones are. */
static int parallels_other_files(struct img *img, struct img_value *children, struct img_error *err)
{
	const struct parallels *s = img->state;
	const struct parallels_descriptor *d = s->descriptor;
	const char *slash = strrchr(img->name, '/');
	int folder = slash ? (int)(slash + 1 - img->name) : 0;

	for (size_t i = 0; d && i < d->part_count; i++)
		for (size_t j = 0; j < d->parts[i].count; j++) {
			const struct parallels_image *image = &d->parts[i].images[j];
			uint64_t sectors = image->plain ? d->parts[i].end - d->parts[i].start : 0;
			const char *file = image->file;
			char name[60], *path;

			if (asprintf(&path, "%.*s%s", *file == '/' ? 0 : folder, img->name, file) <
			    0)
				return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
			snprintf(name, sizeof(name), "storages.%zu.images.%zu", i, j);
			img_report_file(children, name, path, sectors * PARALLELS_SECTOR, NULL);
			free(path);
		}
	return 0;
}

static void parallels_zeroing(const struct img *img, struct img_zeroing *out)
{
	const struct parallels *p = img->state;
	bool backed = img->parent || img->backing_view.id;

	out->zero = backed ? IMG_ZERO_WRITTEN : IMG_ZERO_METADATA;
	out->discard = !backed;
	for (size_t i = 0; i < p->count && !backed; i++)
		if (p->files[i].plain || p->files[i].start % img->unit_bytes)
			out->zero = IMG_ZERO_IN_PLACE;
}

const struct img_driver parallels_driver = {
	.name = "parallels",
	.features = IMG_DRIVER_BACKING | IMG_DRIVER_REPORT_DIRTY_ONLY | IMG_DRIVER_VIEWS |
		    IMG_DRIVER_VIEWS_CHANGE,
	.folder_file = PARALLELS_DESCRIPTOR_NAME,
	.probe = parallels_probe,
	.open = parallels_open,
	.close = parallels_close,
	.set_writable = parallels_set_writable,
	.first_write = parallels_first_write,
	.finish = parallels_finish,
	.map = parallels_map,
	.plan_write = parallels_plan_write,
	.commit = parallels_commit,
	.drop = parallels_drop,
	.zeroing = parallels_zeroing,
	.release = parallels_release,
	.extend = parallels_extend,
	.resize = parallels_resize,
	.make_empty = parallels_make_empty,
	.create_options = parallels_create_options,
	.create_check = parallels_create_check,
	.create = parallels_create,
	.add_state = parallels_add_state,
	.check = parallels_check,
	.info = parallels_info,
	.other_files = parallels_other_files,
};
