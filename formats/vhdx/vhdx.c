/*
 * VHDX: spec/vhdx.md. Opening and closing; what is done with an open image is in the files that
 * vhdx_state.h lists.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"

static int vhdx_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)tail;
	(void)file_size;
	return vhdx_is_vhdx(head, len) ? 100 : 0;
}

/* ---- Opening ---- */

static void free_state(struct vhdx *v)
{
	if (!v)
		return;
	img_storage_close(v->replayed);
	vhdx_locator_clear(&v->locator);
	vhdx_free_alloc(v->alloc);
	free(v->log.buffer);
	free(v->log_bytes);
	free(v);
}

static int check_regions(const struct img *img, const struct vhdx *v, struct img_error *err)
{
	const struct vhdx_regions *r = &v->regions;
	const struct vhdx_region *const all[] = { &r->bat, &r->metadata };
	static const char *const names[] = { "BAT", "metadata" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(all); i++) {
		if (!range_in(all[i]->off, all[i]->bytes, v->storage->size))
			return img_fail(err, -EUCLEAN,
					"%s: truncated: ends at %" PRIu64
					", the %s region needs %" PRIu64,
					img->name, (uint64_t)v->storage->size, names[i],
					all[i]->off + all[i]->bytes);
		if (ranges_overlap(all[i]->off, all[i]->bytes, v->header.log_off,
				   v->header.log_bytes))
			return img_fail(err, -EUCLEAN,
					"%s: found the %s region at %" PRIu64 " (%" PRIu64
					" bytes) and the log at %" PRIu64 " (%" PRIu64
					" bytes), which "
					"overlap",
					img->name, names[i], all[i]->off, all[i]->bytes,
					v->header.log_off, v->header.log_bytes);
	}
	return 0;
}

/* The first table, or its copy where that one is damaged. */
static int read_regions(struct img *img, struct vhdx *v, struct img_error *err)
{
	uint8_t *bytes = malloc(VHDX_REGION_TABLE_BYTES);
	struct img_error why[2] = { 0 };
	int rc = bytes ? 0 : vhdx_no_memory(img, err), parsed[2] = { 0 };

	for (unsigned i = 0; i < 2 && !rc; i++) {
		struct vhdx_regions regions;

		rc = img_storage_read(v->storage, VHDX_REGION_TABLE_OFF(i), bytes,
				      VHDX_REGION_TABLE_BYTES, err);
		if (rc)
			break;
		parsed[i] = vhdx_parse_regions(bytes, &regions, &why[i]);
		v->regions_valid[i] = !parsed[i];
		if (!parsed[i] && (!i || parsed[0]))
			v->regions = regions;
	}
	if (!rc && !v->regions_valid[0] && !v->regions_valid[1])
		rc = img_fail(err, parsed[0],
			      "%s: region table at %" PRIu64 ": %s; its copy at %" PRIu64 ": %s",
			      img->name, VHDX_REGION_TABLE_OFF(0), img_error_text(&why[0]),
			      VHDX_REGION_TABLE_OFF(1), img_error_text(&why[1]));
	img_error_clear(&why[0]);
	img_error_clear(&why[1]);
	free(bytes);
	return rc ? rc : check_regions(img, v, err);
}

static int read_metadata(struct img *img, struct vhdx *v, struct img_error *err)
{
	uint8_t *table = malloc(VHDX_METADATA_TABLE_BYTES), bytes[VHDX_ITEMS][IMG_GUID_BYTES];
	const uint8_t *items[VHDX_ITEMS];
	uint64_t at = v->regions.metadata.off;
	int rc = table ? 0 : img_fail(err, -ENOMEM, "out of memory");

	if (!rc)
		rc = img_storage_read(v->storage, at, table, VHDX_METADATA_TABLE_BYTES, err);
	if (!rc)
		rc = vhdx_parse_metadata(table, v->regions.metadata.bytes, v->items, err);
	for (int i = 0; i < VHDX_PARENT_LOCATOR && !rc; i++) {
		items[i] = bytes[i];
		rc = img_storage_read(v->storage, at + v->items[i].off, bytes[i],
				      vhdx_item_bytes((enum vhdx_item)i), err);
	}
	if (!rc)
		rc = vhdx_parse_items(items, &v->geometry, err);
	free(table);
	if (rc)
		return img_error_prefix(err, rc, "%s: metadata at %" PRIu64, img->name, at);
	rc = vhdx_read_locator(v, err);
	return rc ? img_error_prefix(err, rc, "%s", img->name) : 0;
}

/* Does the BAT cover all blocks? */
static int check_bat(const struct img *img, const struct vhdx *v, struct img_error *err)
{
	uint64_t needed = vhdx_bat_entries(&v->geometry, v->geometry.size) * VHDX_BAT_ENTRY_BYTES;

	if (needed <= v->regions.bat.bytes)
		return 0;
	return img_fail(err, -EUCLEAN,
			"%s: the BAT region at %" PRIu64 ": found %" PRIu64
			" bytes, the disk's blocks need %" PRIu64,
			img->name, v->regions.bat.off, v->regions.bat.bytes, needed);
}

static int fill_image(struct img *img, struct vhdx *v, struct img_error *err)
{
	img->size = v->geometry.size;
	img->unit_bytes = v->geometry.block_bytes;
	if (vhdx_is_child(v))
		img->grain_bytes = v->geometry.sector_bytes;
	img->journal_bytes = vhdx_log_capacity(v);
	img->journal_block = VHDX_LOG_SECTOR;
	img->dirty = v->had_log && !img->writable;
	return vhdx_keep_parent(img, v, err);
}

static int vhdx_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct vhdx *v = calloc(1, sizeof(*v));
	uint8_t head[VHDX_SIGNATURE_BYTES + VHDX_CREATOR_BYTES];
	int rc = v ? img_storage_read(img->file, 0, head, sizeof(head), err)
		   : vhdx_no_memory(img, err);

	if (!rc && !vhdx_is_vhdx(head, sizeof(head)))
		rc = img_fail(err, -EMEDIUMTYPE, "%s: not a VHDX image", img->name);
	if (rc)
		goto out;
	v->storage = img->file;
	v->for_check = o->for_check;
	rc = vhdx_read_headers(img, v, err);
	v->had_log = !rc && !img_guid_is_zero(v->header.log_guid);
	if (!rc && v->had_log)
		rc = vhdx_replay_log(img, v, err);
	if (!rc)
		rc = read_regions(img, v, err);
	if (!rc)
		rc = read_metadata(img, v, err);
	if (!rc)
		rc = check_bat(img, v, err);
	v->by_qemu = vhdx_is_by_qemu(head + VHDX_SIGNATURE_BYTES);
	v->zero_is_parent = vhdx_is_child(v) && v->by_qemu;
	if (!rc)
		rc = fill_image(img, v, err);
	if (rc)
		goto out;
	img->file->may_grow_ahead = img->writable; /* only the BAT says what is used */
	img->state = v;
	return 0;
out:
	free_state(v);
	img_forget_backing(img);
	return rc;
}

static int vhdx_set_writable(struct img *img, bool writable, struct img_error *err)
{
	struct vhdx *v = img->state;
	int rc = 0;

	img->file->may_grow_ahead = writable; /* only the BAT says what is used */
	if (!writable) {
		/* What a child was told to accept was for the writes until now. */
		memset(v->next_data_write, 0, sizeof(v->next_data_write));
		vhdx_free_alloc(v->alloc);
		v->alloc = NULL;
		return 0;
	}
	if (v->replayed) {
		rc = vhdx_replay_log(img, v, err);
		if (rc)
			return rc;
		/* Nothing is looked up in it any more; what is known of it goes with it, at close. */
		img_meta_forget(img, v->replayed, 0, UINT64_MAX);
		v->storage = img->file;
		img->dirty = false;
	}
	return 0;
}

static void vhdx_close(struct img *img)
{
	free_state(img->state);
	img->state = NULL;
}

/* ---- Report ---- */

static int vhdx_info(struct img *img, struct img_value *top, struct img_value *specific,
		     struct img_error *err)
{
	const struct vhdx *v = img->state;
	char guid[IMG_GUID_CHARS + 1];

	(void)err;
	img_value_add_uint(top, "cluster-size", v->geometry.block_bytes);
	/* Of what every program reads qemu-img says no more. */
	if (v->geometry.sector_bytes != 512)
		img_value_add_uint(specific, "logical-sector-size", v->geometry.sector_bytes);
	if (vhdx_is_child(v)) { /* its parent's is told for all formats */
		img_guid_print(v->header.data_write, guid);
		img_value_add_string(specific, "data-write-guid", guid);
	}
	return 0;
}

/* ---- The beginning and the end of writing ---- */

static int vhdx_first_write(struct img *img, struct img_error *err)
{
	struct vhdx *v = img->state;
	int rc = 0;

	if (v->for_check) /* a repair changes nothing that children would have to notice */
		return 0;
	rc = vhdx_load_alloc(img, err);
	if (rc || img->created || img->content_stays || v->stamped)
		return rc ? rc : vhdx_open_log(img, err);
	rc = vhdx_next_identity(img, v->header.data_write, err);
	if (rc)
		return rc;
	v->stamped = true;
	memset(v->next_data_write, 0, sizeof(v->next_data_write));
	return v->log_open ? vhdx_write_headers(img, v, err) : vhdx_open_log(img, err);
}

/*
 * The file ends with its last block: one that the end cuts (its rest is zeroes) is made whole, for
 * other readers want all of it, and free space behind it is given back.
 */
static int trim_file(struct img *img, struct img_error *err)
{
	const struct vhdx *v = img->state;
	uint64_t end = v->alloc ? vhdx_used_end(v) : round_up_u64(img->file->size, VHDX_MIB);

	if (img->file->device || end == img->file->size)
		return 0;
	return img_storage_resize(img->file, end, IMG_PREALLOCATE_OFF, err);
}

static int vhdx_finish(struct img *img, struct img_error *err)
{
	struct vhdx *v = img->state;
	int rc = 0;

	/* Longer before the log is given up, which knows the length; shorter afterwards. */
	if (v->alloc && img->file->size < vhdx_used_end(v))
		rc = trim_file(img, err);
	if (!rc)
		rc = vhdx_close_log(img, err);
	/* What is left of the log depends on when it was written. */
	if (!rc && img->created)
		rc = img_storage_zero(img->file, v->header.log_off, v->header.log_bytes, err);
	v->stamped = false;
	return rc ? rc : trim_file(img, err);
}

static void vhdx_zeroing(const struct img *img, struct img_zeroing *out)
{
	out->zero = IMG_ZERO_IN_PLACE;
	out->discard = !vhdx_is_child(img->state);
}

static int vhdx_identifiers(const struct img *img, struct img_value *out, struct img_error *err)
{
	const struct vhdx *v = img->state;
	char text[IMG_GUID_CHARS + 1];

	(void)err;
	if (!img_guid_is_zero(v->geometry.disk_id)) {
		img_guid_print(v->geometry.disk_id, text);
		img_value_add_string(out, "uuid", text);
	}
	img_guid_print(v->header.data_write, text);
	img_value_add_string(out, "data_write_guid", text);
	return 0;
}

const struct img_driver vhdx_driver = {
	.name = "vhdx",
	.features = IMG_DRIVER_BACKING | IMG_DRIVER_BACKING_KNOWN | IMG_DRIVER_IDENTITY |
		    IMG_DRIVER_STAMPED,
	.probe = vhdx_probe,
	.open = vhdx_open,
	.parent_opened = vhdx_parent_opened,
	.identify = vhdx_identify,
	.identifiers = vhdx_identifiers,
	.next_identity = vhdx_next_identity,
	.accept_parent = vhdx_accept_parent,
	.close = vhdx_close,
	.set_writable = vhdx_set_writable,
	.first_write = vhdx_first_write,
	.finish = vhdx_finish,
	.map = vhdx_map,
	.plan_write = vhdx_plan_write,
	.commit = vhdx_commit,
	.drop = vhdx_drop,
	.zeroing = vhdx_zeroing,
	.release = vhdx_release,
	.grow = vhdx_grow,
	.journal = vhdx_journal,
	.extend = vhdx_extend,
	.resize = vhdx_resize,
	.set_backing = vhdx_set_backing,
	.make_empty = vhdx_make_empty,
	.create_options = vhdx_create_options,
	.create_check = vhdx_create_check,
	.create = vhdx_create,
	.check = vhdx_check,
	.info = vhdx_info,
};
