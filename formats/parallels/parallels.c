/*
 * Parallels: spec/parallels.md. Opening and closing; what is done with an open image is in the
 * files that parallels_state.h lists.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"

static int parallels_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)tail;
	(void)file_size;
	return parallels_is_ours(head, len) ? 100 : 0;
}

static int note_entry(struct img *img, void *user, uint64_t number, uint32_t value,
		      struct img_error *err)
{
	(void)user;
	return img_fail(err, -EUCLEAN,
			"%s: BAT entry %" PRIu64 ": found %" PRIu32
			", and a header that calls the image empty",
			img->name, number, value);
}

static int read_header(struct img *img, struct parallels *p, struct img_error *err)
{
	uint64_t file_bytes = img->file->size, end;
	uint8_t bytes[PARALLELS_HEADER_BYTES];
	int rc;

	if (file_bytes < sizeof(bytes))
		return img_fail(err, -EMEDIUMTYPE,
				"%s: not a Parallels image: it is %" PRIu64 " bytes long",
				img->name, file_bytes);
	rc = img_storage_read(img->file, 0, bytes, sizeof(bytes), err);
	if (rc)
		return rc;
	rc = parallels_parse_header(bytes, &p->header, err);
	if (rc)
		return img_error_prefix(err, rc, "%s", img->name);
	end = parallels_entry_at(p->header.entries);
	if (end > file_bytes)
		return img_fail(err, -EUCLEAN,
				"%s: truncated: ends at %" PRIu64 ", the BAT needs %" PRIu64,
				img->name, file_bytes, end);
	p->storage = img->file;
	p->entries = p->header.entries;
	p->cluster_bytes = parallels_cluster_bytes(&p->header);
	p->scale = parallels_entry_scale(&p->header);
	p->data_start = parallels_data_start(&p->header, file_bytes, &p->data_off_wrong);
	return 0;
}

static void free_state(struct parallels *p)
{
	if (p)
		parallels_free_alloc(p);
	free(p);
}

static int parallels_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct parallels *p = calloc(1, sizeof(*p));
	int rc;

	if (!p)
		return parallels_no_memory(img, err);
	rc = read_header(img, p, err);
	if (rc) {
		free(p);
		return rc;
	}
	p->for_check = o->for_check;
	img->state = p;
	img->size = p->header.sectors * PARALLELS_SECTOR;
	img->unit_bytes = p->cluster_bytes;
	img->dirty = p->header.in_use == PARALLELS_OPEN;
	if (p->header.flags & PARALLELS_FLAG_EMPTY && !o->for_check)
		rc = parallels_each_entry(img, 0, p->entries, note_entry, NULL, err);
	if (!rc && img->writable)
		rc = parallels_set_writable(img, true, err);
	if (rc) {
		free_state(p);
		img->state = NULL;
	}
	return rc;
}

static void parallels_close(struct img *img)
{
	free_state(img->state);
	img->state = NULL;
}

const struct img_driver parallels_driver = {
	.name = "parallels",
	.features = IMG_DRIVER_REPORT_DIRTY_ONLY,
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
	.last_use = parallels_last_use,
	.release = parallels_release,
	.extend = parallels_extend,
	.resize = parallels_resize,
	.create_options = parallels_create_options,
	.create_check = parallels_create_check,
	.create = parallels_create,
	.check = parallels_check,
};
