/*
 * Room in sparse extent files that are written to. New grains go to the end of the file; what is
 * freed is used again while the image is open (nothing on disk tells what is free). Where metadata
 * lies, which no grain may touch, is listed when the image is opened for writing; new grain tables are
 * written here by blocking I/O, when the engine has stopped all else (grow).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* Of a grain that is written: a write to a part of it fills the rest. */
#define GRAIN_BYTES_MAX (UINT64_C(16) << 20)

/* Entries count sectors in 32 bits. */
#define FILE_BYTES_MAX ((UINT64_C(1) << 32) * VMDK_SECTOR)

/* ---- Preparing ---- */

static int refuse_entry(const struct vmdk_file *f, const char *directory, uint64_t number,
			const struct vmdk_entry *e, const char *allowed, struct img_error *err)
{
	return img_fail(err, -EUCLEAN,
			"%s: %s entry %" PRIu64 " is %#" PRIx64 ", expected %s: it cannot be "
			"written to before a repair",
			f->storage->name, directory, number, e->value, allowed);
}

/* One entry of both directories (copy NULL: there is only one). */
static int add_tables(struct vmdk_file *f, uint64_t number, const uint8_t *slot,
		      const uint8_t *copy, struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	struct vmdk_alloc *alloc = f->alloc;
	struct vmdk_entry e = vmdk_directory_entry(s, slot), other = e;

	if (copy)
		other = vmdk_directory_entry(s, copy);
	if (e.kind == VMDK_DAMAGED)
		return refuse_entry(f, "grain directory", number, &e,
				    "a table inside the file", err);
	if (other.kind != e.kind)
		return refuse_entry(f, "grain directory's copy", number, &other,
				    e.kind == VMDK_ABSENT ? "0, as in the directory itself"
							  : "a table inside the file",
				    err);
	if (e.kind == VMDK_ABSENT)
		return 0;
	/* More than fit the file: two are the same. Refused before memory is taken for them. */
	if (alloc->metadata.block_count >= s->file_bytes / vmdk_table_bytes(s))
		return img_fail(err, -EUCLEAN,
				"%s: grain directory: more grain tables than the file's %" PRIu64 " "
				"bytes have space for",
				f->storage->name, s->file_bytes);
	if (img_range_map_add_block(&alloc->metadata, e.file_off) ||
	    (other.file_off != e.file_off &&
	     img_range_map_add_block(&alloc->metadata, other.file_off)))
		return img_fail(err, -ENOMEM, "out of memory");
	return 0;
}

/* Where all tables are. Each may be there once, and clear of the rest of the metadata. */
static int find_tables(struct vmdk_file *f, struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	struct vmdk_alloc *alloc = f->alloc;
	uint8_t directory[4096], copy[4096];
	uint64_t batch = sizeof(directory) / s->entry_bytes;
	struct img_range overlap[2];
	int rc = 0;

	for (uint64_t from = 0; from < s->directory_entries; from += batch) {
		uint64_t n = min_u64(batch, s->directory_entries - from);
		uint64_t at = from * s->entry_bytes, len = n * s->entry_bytes;

		rc = img_storage_read(f->storage, s->directory_off + at, directory, len, err);
		if (!rc && s->redundant_off)
			rc = img_storage_read(f->storage, s->redundant_off + at, copy, len, err);
		for (uint64_t i = 0; i < n && !rc; i++)
			rc = add_tables(f, from + i, directory + i * s->entry_bytes,
					s->redundant_off ? copy + i * s->entry_bytes : NULL, err);
		if (rc)
			return rc;
	}
	img_range_map_sort(&alloc->metadata);
	if (img_range_map_block_overlap(&alloc->metadata, overlap))
		return img_fail(err, -EUCLEAN,
				"%s: grain directory: the grain table at %" PRIu64 " overlaps a "
				"%s: the image cannot be written to",
				f->storage->name, overlap[1].off, overlap[0].name);
	return 0;
}

static int add_fixed(struct vmdk_file *f, uint64_t off, uint64_t len, const char *name,
		     struct img_error *err)
{
	int rc = img_range_map_add(&f->alloc->metadata, off, len, name);

	if (rc == -EOVERFLOW)
		return img_fail(err, -EUCLEAN, "%s: the %s at %" PRIu64 " is past any file",
				f->storage->name, name, off);
	return rc ? img_fail(err, rc, "out of memory") : 0;
}

/* The metadata that has one place: each piece is clear of the others. */
static int list_fixed(struct vmdk_file *f, struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	struct img_range_map *metadata = &f->alloc->metadata;
	uint64_t directory_bytes = s->directory_entries * s->entry_bytes;
	struct img_range overlap[2];
	int rc = add_fixed(f, 0, VMDK_HOSTED_HEADER_BYTES, "header", err);

	if (!rc && s->descriptor_off)
		rc = add_fixed(f, s->descriptor_off, s->descriptor_bytes, "descriptor", err);
	if (!rc)
		rc = add_fixed(f, s->directory_off, directory_bytes, "grain directory", err);
	if (!rc && s->redundant_off)
		rc = add_fixed(f, s->redundant_off, directory_bytes, "grain directory's copy", err);
	if (rc)
		return rc;
	img_range_map_sort(metadata);
	if (img_range_map_overlap(metadata, overlap))
		return img_fail(err, -EUCLEAN,
				"%s: the %s at %" PRIu64 " overlaps the %s: the image cannot be "
				"written to",
				f->storage->name, overlap[1].name, overlap[1].off, overlap[0].name);
	return 0;
}

/* Can a sparse file be written to at all? */
static int check_kind(const struct img *img, const struct vmdk_file *f, struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	const char *why = NULL;

	if (s->kind == VMDK_COWD)
		why = "it is a vmfsSparse (COWD) extent";
	else if (s->kind == VMDK_SE)
		why = "it is an SESparse extent";
	else if (s->compressed)
		why = "it is streamOptimized: written once, from front to end";
	else if (s->at_end)
		why = "its grain directory is named by a footer";
	else if (s->version == 3)
		why = "it has version 3: VMware tracks its changed blocks";
	else if (s->grain_bytes > GRAIN_BYTES_MAX)
		why = "its grains are larger than 16 MiB";
	else if (f->storage->device)
		why = "it is a sparse extent on a block device";
	if (why)
		return img_fail(err, -ENOTSUP, "%s: %s can only be read: %s", img->name,
				f->storage->name, why);
	return 0;
}

int vmdk_list_metadata(struct vmdk_file *f, struct img_error *err)
{
	img_range_map_clear_ranges(&f->alloc->metadata);
	return list_fixed(f, err);
}

int vmdk_list_tables(struct vmdk_file *f, struct img_error *err)
{
	struct img_range_map *metadata = &f->alloc->metadata, before = *metadata;
	int rc;

	*metadata = (struct img_range_map){ .block_bytes = before.block_bytes,
					    .block_name = before.block_name };
	rc = list_fixed(f, err);
	if (!rc)
		rc = find_tables(f, err);
	if (rc) {
		img_range_map_free(metadata);
		*metadata = before;
	} else {
		img_range_map_free(&before);
	}
	return rc;
}

static int prepare_file(const struct img *img, struct vmdk_file *f, struct img_error *err)
{
	int rc;

	if (f->alloc || f->sparse.kind == VMDK_NOT_SPARSE)
		return 0;
	if (img->created && f->sparse.compressed) /* complete, and never changed */
		return 0;
	rc = check_kind(img, f, err);
	if (rc)
		return rc;
	f->alloc = calloc(1, sizeof(*f->alloc));
	if (!f->alloc)
		return img_fail(err, -ENOMEM, "out of memory");
	img_unit_alloc_init(&f->alloc->grains, f->sparse.grain_bytes,
			    round_up_u64(f->storage->size, f->sparse.grain_bytes), FILE_BYTES_MAX);
	f->alloc->metadata.block_bytes = vmdk_table_bytes(&f->sparse);
	f->alloc->metadata.block_name = "grain table";
	f->alloc->was_unclean = f->sparse.unclean;
	rc = list_fixed(f, err);
	return rc ? rc : find_tables(f, err);
}

int vmdk_prepare_writing(struct img *img, struct vmdk *vmdk, struct img_error *err)
{
	for (size_t i = 0; i < vmdk->extent_count; i++) {
		static const char *const accesses[] = { "RW", "RDONLY", "NOACCESS" };
		const struct vmdk_extent *x = &vmdk->extents[i];
		bool stream = x->kind == VMDK_EXTENT_SPARSE &&
			      vmdk->files[x->file].sparse.compressed;
		int rc;

		if (x->kind == VMDK_EXTENT_ZERO)
			return img_fail(err, -ENOTSUP,
					"%s: extent %zu: type is ZERO, which has no file to write "
					"to",
					img->name, i + 1);
		/* Of a stream that is the lesser reason. */
		if (x->access != VMDK_RW && !stream)
			return img_fail(err, -EACCES,
					"%s: extent %zu: access is %s in the descriptor, expected "
					"RW for writing",
					img->name, i + 1, accesses[x->access]);
		rc = prepare_file(img, &vmdk->files[x->file], err);
		if (rc)
			return rc;
	}
	return 0;
}

void vmdk_free_alloc(struct vmdk_alloc *alloc)
{
	if (!alloc)
		return;
	img_unit_alloc_free(&alloc->grains);
	img_range_map_free(&alloc->metadata);
	free(alloc);
}

/* ---- Grains ---- */

int vmdk_alloc_grains(struct vmdk_file *f, uint64_t want, uint64_t *off, uint64_t *got,
		      struct img_error *err)
{
	int rc = img_unit_alloc_get(&f->alloc->grains, want, off, got);

	if (rc)
		return img_fail(err, rc,
				"%s: no space for another grain: an extent file has at most "
				"%" PRIu64 " bytes",
				f->storage->name, FILE_BYTES_MAX);
	return 0;
}

/* ---- Tables ---- */

/* Let one directory's entry lead to a table. */
static int write_entry(struct img *img, struct vmdk_file *f, uint64_t directory_off,
		       uint64_t number, uint64_t table_off, struct img_error *err)
{
	uint64_t at = directory_off + number * f->sparse.entry_bytes;
	uint8_t slot[4];
	int rc;

	le32_store(slot, (uint32_t)(table_off / VMDK_SECTOR));
	rc = img_storage_write(f->storage, at, slot, sizeof(slot), err);
	img_meta_forget(img, f->storage, align_down_u64(at, IMG_META_SECTOR), IMG_META_SECTOR);
	return rc;
}

/*
 * Make table `number` and its copy at the end of the file. They are durable before the directories
 * lead there, and the copy's entry before the other: what a power cut leaves in between, a check
 * reports and repairs.
 */
static int make_table(struct img *img, struct vmdk_file *f, uint64_t number, struct img_error *err)
{
	struct vmdk_sparse *s = &f->sparse;
	uint64_t bytes = round_up_u64(vmdk_table_bytes(s), VMDK_SECTOR);
	uint64_t copies = s->redundant_off ? 2 : 1;
	uint64_t grains = div_round_up_u64(copies * bytes, s->grain_bytes), off;
	int rc;

	if (img_range_map_reserve_blocks(&f->alloc->metadata, copies))
		return img_fail(err, -ENOMEM, "out of memory");
	/* Freed grains need not lie in a row. */
	rc = img_unit_alloc_get_at_end(&f->alloc->grains, grains, &off);
	if (rc)
		return img_fail(err, rc,
				"%s: no space for a grain table: an extent file has at most "
				"%" PRIu64 " bytes",
				f->storage->name, FILE_BYTES_MAX);
	rc = img_storage_zero(f->storage, off, grains * s->grain_bytes, err);
	if (!rc && !img->unsafe)
		rc = img_storage_sync(f->storage, err);
	if (rc) {
		img_unit_alloc_put(&f->alloc->grains, off, grains * s->grain_bytes);
		return rc;
	}
	img_meta_forget(img, f->storage, off, grains * s->grain_bytes);
	s->file_bytes = max_u64(s->file_bytes, off + grains * s->grain_bytes);
	for (uint64_t i = 0; i < copies; i++)
		img_range_map_insert_block(&f->alloc->metadata, off + i * bytes);
	if (s->redundant_off)
		rc = write_entry(img, f, s->redundant_off, number, off + bytes, err);
	if (!rc && s->redundant_off && !img->unsafe)
		rc = img_storage_sync(f->storage, err);
	if (!rc)
		rc = write_entry(img, f, s->directory_off, number, off, err);
	return rc;
}

int vmdk_grow(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	const struct vmdk_extent *x = vmdk_find_extent(vmdk, off);
	struct vmdk_file *f = &vmdk->files[x->file];
	const struct vmdk_sparse *s = &f->sparse;
	uint64_t covers = vmdk_table_covers(s);
	uint64_t first = (off - x->guest_off) / covers;
	uint64_t last = (min_u64(off + len, x->guest_off + x->bytes) - 1 - x->guest_off) / covers;

	for (uint64_t number = first; number <= last; number++) {
		uint8_t slot[4];
		int rc = img_storage_read(f->storage, s->directory_off + number * s->entry_bytes,
					  slot, sizeof(slot), err);

		if (!rc && vmdk_directory_entry(s, slot).kind == VMDK_ABSENT)
			rc = make_table(img, f, number, err);
		if (rc)
			return rc;
	}
	return img->unsafe ? 0 : img_storage_sync(f->storage, err);
}
