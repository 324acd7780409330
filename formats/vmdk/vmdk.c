/*
 * VMDK: a disk is a list of extents that a text descriptor names; an extent is flat (plain bytes
 * in a file), sparse (grains found through a directory of tables), or zeroes. The descriptor is a
 * file of its own or embedded in the only sparse extent. spec/vmdk.md.
 */
#include "formats/vmdk/vmdk_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_codec.h"
#include "libimg/base/arith.h"

/* A stream without a marker of its length: as much is read as a grain's may have. */
enum { STORED_SLACK = 64 << 10 };

static int vmdk_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	bool utf16;

	(void)tail;
	(void)file_size;
	if (vmdk_sparse_kind(head, len) != VMDK_NOT_SPARSE)
		return 100;
	if (vmdk_is_descriptor((const char *)head, len))
		return 100;
	return vmdk_is_nearly_descriptor((const char *)head, len, &utf16) ? IMG_PROBE_NEARLY : 0;
}

static int vmdk_set_writable(struct img *img, bool writable, struct img_error *err)
{
	struct vmdk *vmdk = img->state;

	if (writable)
		return vmdk_prepare_writing(img, vmdk, err);
	/* What a child was told to accept was for the writes until now. */
	*vmdk->stamp = '\0';
	vmdk->stamped = false;
	for (size_t i = 0; i < vmdk->file_count; i++) {
		vmdk_free_alloc(vmdk->files[i].alloc);
		vmdk->files[i].alloc = NULL;
	}
	return 0;
}

static void vmdk_close(struct img *img)
{
	vmdk_free(img->state, img);
}

/* ---- Reading ---- */

/* What answering a map needs, passed down as one. */
struct map_lookup {
	struct img_req *req;
	struct img_storage *storage;
	const struct vmdk_sparse *s;
	uint64_t bytes; /* of the extent: grains are needed up to here */
	bool salvage;	/* of a grain that the end of the file cuts, what is there will do */
};

/* Entries that a lookup from file_off on can see without crossing a block. */
static uint64_t entries_in_block(const struct vmdk_sparse *s, uint64_t file_off)
{
	return (IMG_META_BLOCK - file_off % IMG_META_BLOCK) / s->entry_bytes;
}

static uint64_t bytes_needed(const struct map_lookup *l, uint64_t grain_off)
{
	return l->salvage ? 1 : vmdk_bytes_needed(l->s, l->bytes, grain_off);
}

/* An entry of the redundant tables, which stands in for a damaged one. IMG_NEED_METADATA or 0. */
static int redundant_entry(const struct map_lookup *l, uint64_t table, uint64_t index, uint64_t need,
			   struct vmdk_entry *out)
{
	const struct vmdk_sparse *s = l->s;
	const uint8_t *slot;
	struct vmdk_entry e;

	out->kind = VMDK_DAMAGED;
	if (!s->redundant_off)
		return 0;
	slot = img_meta_get(l->req, l->storage, s->redundant_off + table * s->entry_bytes,
			    s->entry_bytes);
	if (!slot)
		return IMG_NEED_METADATA;
	e = vmdk_directory_entry(s, slot);
	if (e.kind != VMDK_STORED)
		return 0;
	slot = img_meta_get(l->req, l->storage, e.file_off + index * s->entry_bytes,
			    s->entry_bytes);
	if (!slot)
		return IMG_NEED_METADATA;
	*out = vmdk_table_entry(s, slot, need);
	return 0;
}

/* The extent that a compressed grain is. */
static int map_compressed(const struct map_lookup *l, uint64_t grain_off, uint64_t off, uint64_t file_off,
			  struct img_extent *out)
{
	const struct vmdk_sparse *s = l->s;
	uint64_t need = min_u64(s->grain_bytes, l->bytes - grain_off);
	const uint8_t *marker;
	int rc;

	out->kind = IMG_COMPRESSED;
	out->unit_bytes = (uint32_t)need;
	out->within = (uint32_t)(off - grain_off);
	out->codec = need < s->grain_bytes ? &vmdk_codec_last_grain : &img_codec_zlib;
	if (!s->markers) {
		uint64_t most = min_u64(2 * s->grain_bytes, 2 * need + STORED_SLACK);

		out->file_off = file_off;
		out->stored_bytes = (uint32_t)min_u64(most, s->file_bytes - file_off);
		return 0;
	}
	marker = img_meta_get(l->req, l->storage, file_off, VMDK_GRAIN_MARKER_BYTES);
	if (!marker)
		return IMG_NEED_METADATA;
	rc = vmdk_parse_grain_marker(s, marker, file_off, grain_off, &out->stored_bytes,
				     img_req_error(l->req));
	if (rc)
		return img_error_prefix(img_req_error(l->req), rc, "%s", l->storage->name);
	out->file_off = file_off + VMDK_GRAIN_MARKER_BYTES;
	return 0;
}

/* Fill out from the entry that guest byte off of the extent has; run: bytes that it is good for. */
static int map_entry(const struct map_lookup *l, const struct vmdk_entry *e, uint64_t off, uint64_t run,
		     struct img_extent *out)
{
	uint64_t grain_off = align_down_u64(off, l->s->grain_bytes);

	*out = (struct img_extent){ .length = run, .storage = l->storage };
	switch (e->kind) {
	case VMDK_ABSENT:
		out->kind = IMG_BACKING;
		out->storage = NULL;
		return 0;
	case VMDK_ZERO:
		out->kind = IMG_ZERO;
		out->storage = NULL;
		return 0;
	case VMDK_STORED:
		if (l->s->compressed)
			return map_compressed(l, grain_off, off, e->file_off, out);
		out->kind = IMG_DATA;
		out->file_off = e->file_off + (off - grain_off);
		return 0;
	case VMDK_DAMAGED:
		break;
	}
	return img_fail(img_req_error(l->req), -EUCLEAN,
			"%s: grain table entry of guest sector %" PRIu64 " of the extent is "
			"%#" PRIx64 ", expected an offset inside the file's %" PRIu64 " bytes",
			l->storage->name, off / VMDK_SECTOR, e->value, l->s->file_bytes);
}

/*
 * Where [off, off + len) of a sparse extent lives. One look sees as many entries as lie in one
 * block of metadata: tables that follow each other there (all common writers lay them out so) are
 * looked at as one, so that a run may be hundreds of MiB long.
 */
static int map_sparse(const struct map_lookup *l, uint64_t off, uint64_t len, struct img_extent *out)
{
	const struct vmdk_sparse *s = l->s;
	uint64_t covers = vmdk_table_covers(s), table_bytes = vmdk_table_bytes(s);
	uint64_t table = off / covers, index = off % covers / s->grain_bytes;
	uint64_t tables = div_round_up_u64(off % covers + len, covers);
	uint64_t directory_at = s->directory_off + table * s->entry_bytes;
	uint64_t grain_off = align_down_u64(off, s->grain_bytes);
	const uint8_t *directory, *slots;
	struct vmdk_entry first, e;
	uint64_t entries, most, run;
	int rc;

	tables = min_u64(tables, min_u64(s->directory_entries - table,
					 entries_in_block(s, directory_at)));
	directory = img_meta_get(l->req, l->storage, directory_at, tables * s->entry_bytes);
	if (!directory)
		return IMG_NEED_METADATA;
	first = vmdk_directory_entry(s, directory);
	if (first.kind == VMDK_ABSENT) {
		for (run = 1; run < tables; run++) {
			e = vmdk_directory_entry(s, directory + run * s->entry_bytes);
			if (e.kind != VMDK_ABSENT)
				break;
		}
		return map_entry(l, &first, off, min_u64(len, run * covers - off % covers), out);
	}
	run = min_u64(len, s->grain_bytes - off % s->grain_bytes);
	if (first.kind == VMDK_DAMAGED) {
		rc = redundant_entry(l, table, index, bytes_needed(l, grain_off), &e);
		if (rc)
			return rc;
		if (e.kind == VMDK_DAMAGED)
			return img_fail(img_req_error(l->req), -EUCLEAN,
					"%s: grain directory entry %" PRIu64 " at %" PRIu64 " is "
					"%#" PRIx64 ", expected a table inside the file's "
					"%" PRIu64 " bytes",
					l->storage->name, table, directory_at, first.value,
					s->file_bytes);
		return map_entry(l, &e, off, run, out);
	}

	/* The entries of this table, and of those that follow it at once, as far as one look sees them. */
	most = entries_in_block(s, first.file_off + index * s->entry_bytes);
	entries = s->table_entries - index;
	for (uint64_t i = 1; i < tables && entries < most; i++) {
		e = vmdk_directory_entry(s, directory + i * s->entry_bytes);
		if (e.kind != VMDK_STORED || e.file_off != first.file_off + i * table_bytes)
			break;
		entries += s->table_entries;
	}
	entries = min_u64(entries, div_round_up_u64(off - grain_off + len, s->grain_bytes));
	entries = min_u64(entries, most);
	slots = img_meta_get(l->req, l->storage, first.file_off + index * s->entry_bytes,
			     entries * s->entry_bytes);
	if (!slots)
		return IMG_NEED_METADATA;
	first = vmdk_table_entry(s, slots, bytes_needed(l, grain_off));
	if (first.kind == VMDK_DAMAGED) {
		rc = redundant_entry(l, table, index, bytes_needed(l, grain_off), &e);
		if (rc)
			return rc;
		return map_entry(l, e.kind == VMDK_DAMAGED ? &first : &e, off, run, out);
	}
	if (first.kind == VMDK_STORED && s->compressed)
		return map_entry(l, &first, off, run, out);
	for (uint64_t i = 1; i < entries; i++) {
		uint64_t at = grain_off + i * s->grain_bytes;

		e = vmdk_table_entry(s, slots + i * s->entry_bytes, bytes_needed(l, at));
		if (e.kind != first.kind ||
		    (e.kind == VMDK_STORED && e.file_off != first.file_off + i * s->grain_bytes))
			break;
		run = min_u64(len, at + s->grain_bytes - off);
	}
	return map_entry(l, &first, off, run, out);
}

/* The same of a stream without tables. */
static int map_rebuilt(const struct map_lookup *l, const struct vmdk_rebuilt *r, uint64_t off, uint64_t len,
		       struct img_extent *out)
{
	uint64_t grain_bytes = l->s->grain_bytes, grain = off / grain_bytes, run;
	struct vmdk_entry e = { .kind = VMDK_ABSENT };
	size_t low = 0, high = r->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (r->grains[middle].grain < grain)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == r->count && !r->complete)
		return img_fail(img_req_error(l->req), -EUCLEAN,
				"%s: truncated: the last whole grain ends at %" PRIu64 ", and the "
				"grains from guest sector %" PRIu64 " on are missing",
				l->storage->name, r->ends_off, off / VMDK_SECTOR);
	if (low == r->count) {
		run = len;
	} else if (r->grains[low].grain > grain) {
		run = r->grains[low].grain * grain_bytes - off;
	} else {
		e = (struct vmdk_entry){ .kind = VMDK_STORED, .file_off = r->grains[low].file_off };
		run = grain_bytes - off % grain_bytes;
	}
	return map_entry(l, &e, off, min_u64(len, run), out);
}

static int vmdk_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		    struct img_extent *out)
{
	const struct vmdk *vmdk = img->state;
	const struct vmdk_extent *x = vmdk_find_extent(vmdk, off);
	const struct vmdk_file *f;
	uint64_t has = x->bytes; /* what of the extent is in its file */
	struct map_lookup lookup;

	off -= x->guest_off;
	if (x->kind == VMDK_EXTENT_NOACCESS)
		return img_fail(img_req_error(req), -EACCES,
				"%s: guest sectors %" PRIu64 " to %" PRIu64 " cannot be read: the "
				"descriptor says NOACCESS",
				img->name, x->guest_off / VMDK_SECTOR,
				(x->guest_off + x->bytes) / VMDK_SECTOR - 1);
	if (x->kind == VMDK_EXTENT_ZERO) {
		*out = (struct img_extent){ .kind = IMG_ZERO,
					    .length = min_u64(len, x->bytes - off) };
		return 0;
	}
	f = &vmdk->files[x->file]; /* all others have one */
	if (vmdk->salvage && x->kind == VMDK_EXTENT_FLAT) {
		has = vmdk_flat_end(vmdk, x);
		has = min_u64(x->bytes, has - min_u64(has, x->file_off));
	} else if (vmdk->salvage && x->kind == VMDK_EXTENT_SPARSE) {
		has = min_u64(x->bytes, f->sparse.capacity_bytes);
	}
	if (off >= has)
		return img_fail(img_req_error(req), -EUCLEAN,
				"%s: truncated: ends at %" PRIu64 ", the extent needs %" PRIu64,
				f->storage->name, has, x->bytes);
	len = min_u64(len, has - off);
	if (x->kind == VMDK_EXTENT_FLAT) {
		*out = (struct img_extent){
			.kind = IMG_DATA,
			.length = len,
			.storage = f->storage,
			.file_off = x->file_off + off,
			.open_end = true, /* open() saw that only a part of a sector can lie there */
		};
		return 0;
	}
	if (x->kind == VMDK_EXTENT_LOST)
		return img_fail(img_req_error(req), -EUCLEAN, "%s", f->lost);
	lookup = (struct map_lookup){ req, f->storage, &f->sparse, has, vmdk->salvage };
	if (f->rebuilt)
		return map_rebuilt(&lookup, f->rebuilt, off, len, out);
	return map_sparse(&lookup, off, len, out);
}

/* ---- Report ---- */

/* The path that an extent's file name means, from the image's own folder. malloc'd. */
static char *extent_path(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	size_t folder = slash && name[0] != '/' ? (size_t)(slash - image) + 1 : 0;
	size_t len = strlen(name) + 1;
	char *path = malloc(folder + len);

	if (path) {
		memcpy(path, image, folder);
		memcpy(path + folder, name, len);
	}
	return path;
}

static bool has_other_file(const struct vmdk *vmdk, const struct vmdk_extent *x)
{
	return x->file != VMDK_NO_FILE && vmdk->files[x->file].name;
}

static int info_extent(const struct img *img, const struct vmdk_extent *x, struct img_value *list,
		       struct img_error *err)
{
	const struct vmdk *vmdk = img->state;
	const struct vmdk_file *f = x->file == VMDK_NO_FILE ? NULL : &vmdk->files[x->file];
	struct img_value *item = img_value_add_object(list, NULL);
	const char *type = x->has_type ? vmdk_extent_type_name(x->type) : "";

	if (f && f->sparse.compressed)
		img_value_add_bool(item, "compressed", true);
	img_value_add_uint(item, "virtual-size", x->bytes);
	if (f) {
		char *path = f->name ? extent_path(img->name, f->name) : strdup(img->name);

		if (!path)
			return img_fail(err, -ENOMEM, "out of memory");
		img_value_add_string(item, "filename", path);
		free(path);
	} else {
		img_value_add_string(item, "filename", "");
	}
	if (f && f->sparse.kind != VMDK_NOT_SPARSE && x->kind == VMDK_EXTENT_SPARSE)
		img_value_add_uint(item, "cluster-size", f->sparse.grain_bytes);
	img_value_add_string(item, "format", type);
	return 0;
}

/* In qemu-img's order: the last one first. It counts the extents that have a file. */
static int vmdk_other_files(struct img *img, struct img_value *children, struct img_error *err)
{
	const struct vmdk *vmdk = img->state;
	size_t number = 0;

	for (size_t i = 0; i < vmdk->extent_count; i++)
		number += has_other_file(vmdk, &vmdk->extents[i]);
	for (size_t i = vmdk->extent_count; i-- > 0;) {
		const struct vmdk_extent *x = &vmdk->extents[i];
		const struct vmdk_file *f;
		char name[40], *path;

		if (!has_other_file(vmdk, x))
			continue;
		f = &vmdk->files[x->file];
		path = extent_path(img->name, f->name);
		if (!path)
			return img_fail(err, -ENOMEM, "out of memory");
		snprintf(name, sizeof(name), "extents.%zu", --number);
		/* Of a file that is not opened the descriptor tells how long it has to be. */
		img_report_file(children, name, path, x->file_off + x->bytes, f->storage);
		free(path);
	}
	return 0;
}

static int vmdk_info(struct img *img, struct img_value *top, struct img_value *specific,
		     struct img_error *err)
{
	const struct vmdk *vmdk = img->state;
	uint64_t grain = vmdk_common_grain(vmdk);
	struct img_value *list;

	if (grain)
		img_value_add_uint(top, "cluster-size", grain);
	img_value_add_uint(specific, "cid", vmdk->cid);
	img_value_add_uint(specific, "parent-cid", vmdk->parent_cid);
	img_value_add_string(specific, "create-type", vmdk->create_type);
	list = img_value_add_array(specific, "extents");
	for (size_t i = 0; i < vmdk->extent_count; i++) {
		int rc = info_extent(img, &vmdk->extents[i], list, err);

		if (rc)
			return rc;
	}
	return 0;
}

static void vmdk_zeroing(const struct img *img, struct img_zeroing *out)
{
	const struct vmdk *vmdk = img->state;
	bool backed = vmdk_has_backing(img);

	out->zero = IMG_ZERO_METADATA;
	out->discard = !backed;
	for (size_t i = 0; i < vmdk->extent_count; i++) {
		const struct vmdk_extent *x = &vmdk->extents[i];
		const struct vmdk_file *f = x->file == VMDK_NO_FILE ? NULL : &vmdk->files[x->file];

		bool flat = x->kind == VMDK_EXTENT_FLAT, parts = x->guest_off % img->unit_bytes;

		/* parts: the disk's grains are no whole ones of the extent */
		if (!flat && backed && (parts || !f || !f->sparse.zeroed_grains))
			out->zero = IMG_ZERO_WRITTEN;
		else if ((flat || parts) && out->zero == IMG_ZERO_METADATA)
			out->zero = IMG_ZERO_IN_PLACE;
	}
}

/* text: as the descriptor has it, which may be anything; NULL: it has none. */
static void add_uuid(struct img_value *out, const char *name, const char *text)
{
	uint8_t uuid[IMG_GUID_BYTES];
	char printed[IMG_GUID_CHARS + 1];

	if (!text || !img_guid_parse(text, strlen(text), uuid) || img_guid_is_zero(uuid))
		return;
	img_guid_print(uuid, printed);
	img_value_add_string(out, name, printed);
}

static int vmdk_identifiers(const struct img *img, struct img_value *out, struct img_error *err)
{
	const struct vmdk *vmdk = img->state;
	char cid[9];

	(void)err;
	add_uuid(out, "uuid", vmdk->uuid_image);
	add_uuid(out, "modification_uuid", vmdk->uuid_modification);
	if (vmdk->has_cid && vmdk->cid && vmdk->cid != VMDK_NO_PARENT) {
		snprintf(cid, sizeof(cid), "%08" PRIx32, vmdk->cid);
		img_value_add_string(out, "cid", cid);
	}
	return 0;
}

const struct img_driver vmdk_driver = {
	.name = "vmdk",
	.features = IMG_DRIVER_BACKING | IMG_DRIVER_IDENTITY | IMG_DRIVER_COMPRESS_SINK |
		    IMG_DRIVER_BACKING_KNOWN | IMG_DRIVER_STAMPED,
	.probe = vmdk_probe,
	.open = vmdk_open,
	.parent_opened = vmdk_parent_opened,
	.identify = vmdk_identify,
	.identifiers = vmdk_identifiers,
	.next_identity = vmdk_next_identity,
	.accept_parent = vmdk_accept_parent,
	.close = vmdk_close,
	.first_write = vmdk_first_write,
	.finish = vmdk_finish,
	.set_writable = vmdk_set_writable,
	.map = vmdk_map,
	.plan_write = vmdk_plan_write,
	.commit = vmdk_commit,
	.drop = vmdk_drop,
	.zeroing = vmdk_zeroing,
	.release = vmdk_release,
	.grow = vmdk_grow,
	.extend = vmdk_extend,
	.resize = vmdk_resize,
	.set_backing = vmdk_set_backing,
	.make_empty = vmdk_make_empty,
	.create_options = vmdk_create_options,
	.create_check = vmdk_create_check,
	.create = vmdk_create,
	.sink = vmdk_sink,
	.source = vmdk_source,
	.check = vmdk_check,
	.info = vmdk_info,
	.other_files = vmdk_other_files,
};
