/*
 * Other sizes: it is the last extent that becomes longer or shorter.
 *
 * A sparse one that grows gets its tables first, all of them, as programs expect it: at the end of the file, and the
 * directories with them if there is no space for more entries where they lie. The header leads to
 * directories that moved by one write of a sector; beyond the capacity nobody looks. Then the header tells the
 * new capacity together with the descriptor that is embedded; or where they are in different files, the
 * descriptor tells the new size last: it must not be more than the capacity. What shrinks goes the other
 * way round.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/use_map.h"

enum { DIRECTORY_BATCH = 4096 }; /* entries that are written at a time */

#define SPLIT_EXTENT_BYTES_MAX (UINT64_C(2) << 30)

static int sync_file(const struct img *img, struct img_storage *s, struct img_error *err)
{
	return img->unsafe ? 0 : img_storage_sync(s, err);
}

static int write_at(struct img *img, struct img_storage *s, uint64_t off, const void *bytes, size_t len,
		    struct img_error *err)
{
	uint64_t from = align_down_u64(off, IMG_META_SECTOR);
	int rc = img_storage_write(s, off, bytes, len, err);

	img_meta_forget(img, s, from, round_up_u64(off + len, IMG_META_SECTOR) - from);
	return rc;
}

static struct vmdk_extent *last_extent(struct vmdk *vmdk)
{
	return &vmdk->extents[vmdk->extent_count - 1];
}

static bool is_split(const struct vmdk *vmdk)
{
	return !strncmp(vmdk->create_type, "twoGbMaxExtent", strlen("twoGbMaxExtent"));
}

/* ---- What can be resized ---- */

static int check_size(struct img *img, uint64_t size, struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	const struct vmdk_extent *x;
	uint64_t bytes;

	if (vmdk->for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	if (!vmdk->extent_count)
		return img_fail(err, -ENOTSUP, "%s: it has no extent that could become longer", img->name);
	if (!vmdk->text_bytes)
		return img_fail(err, -ENOTSUP,
				"%s: a part of a disk, without the descriptor that tells the disk's size",
				img->name);
	x = last_extent(vmdk);
	if (x->kind != VMDK_EXTENT_FLAT && x->kind != VMDK_EXTENT_SPARSE)
		return img_fail(err, -ENOTSUP, "%s: extent %zu has the type %s: it cannot be resized",
				img->name, vmdk->extent_count, vmdk_extent_type_name(x->type));
	if (vmdk->files[x->file].storage->device)
		return img_fail(err, -ENOTSUP, "%s: extent %zu lies on a block device, which has its size",
				img->name, vmdk->extent_count);
	if (size <= x->guest_off)
		return img_fail(err, -ENOTSUP,
				"%s: size is %" PRIu64 ", expected more than %" PRIu64
				", where its last extent begins: only that can be resized",
				img->name, size, x->guest_off);
	bytes = size - x->guest_off;
	if (is_split(vmdk) && bytes > SPLIT_EXTENT_BYTES_MAX && bytes > x->bytes)
		return img_fail(err, -EFBIG,
				"%s: size is %" PRIu64 ", expected at most %" PRIu64
				": the last extent of a %s disk ends at 2 GiB of its own (convert makes one "
				"with more of them, if it knows the size beforehand)",
				img->name, size, x->guest_off + SPLIT_EXTENT_BYTES_MAX,
				vmdk->create_type);
	if (x->kind == VMDK_EXTENT_SPARSE) {
		const struct vmdk_sparse *s = &vmdk->files[x->file].sparse;
		uint64_t max = VMDK_DIRECTORY_ENTRIES_MAX * vmdk_table_covers(s);

		if (bytes > max)
			return img_fail_range(err, -EFBIG, bytes, 0, max, "%s: size of extent %zu",
					      img->name, vmdk->extent_count);
	}
	return vmdk_check_own_text(img, err);
}

/* ---- Sparse extents: tables ---- */

/* Entry `number` of a directory: the table's offset; 0: there is none. */
static int table_at(const struct vmdk_file *f, uint64_t directory_off, uint64_t number, uint64_t *off,
		    struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	struct vmdk_entry e;
	uint8_t slot[4];
	int rc = img_storage_read(f->storage, directory_off + number * s->entry_bytes, slot, sizeof(slot),
				  err);

	if (rc)
		return rc;
	e = vmdk_directory_entry(s, slot);
	*off = e.kind == VMDK_STORED ? e.file_off : 0;
	return 0;
}

/* The entries of a table from `first` on are no grain's. */
static int clear_table(struct img *img, struct vmdk_file *f, uint64_t table, uint64_t first,
		       struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	uint64_t from = table + first * s->entry_bytes, end = table + vmdk_table_bytes(s);
	uint64_t sector = align_down_u64(from, IMG_META_SECTOR);
	int rc;

	if (!table)
		return 0;
	rc = img_storage_zero(f->storage, from, end - from, err);
	img_meta_forget(img, f->storage, sector, round_up_u64(end, IMG_META_SECTOR) - sector);
	return rc;
}

/* Nothing is stored behind `bytes` of the extent, as far as there are tables. Not durable. */
static int clear_behind(struct img *img, struct vmdk_file *f, uint64_t bytes, struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	uint64_t grain = div_round_up_u64(bytes, s->grain_bytes);
	int rc = 0;

	for (uint64_t n = grain / s->table_entries; n < s->directory_entries && !rc; n++) {
		uint64_t table, copy = 0;
		uint64_t first = n == grain / s->table_entries ? grain % s->table_entries : 0;

		rc = table_at(f, s->directory_off, n, &table, err);
		if (!rc && s->redundant_off)
			rc = table_at(f, s->redundant_off, n, &copy, err);
		if (!rc)
			rc = clear_table(img, f, table, first, err);
		if (!rc && copy != table)
			rc = clear_table(img, f, copy, first, err);
	}
	return rc;
}

/* New tables and, if they move, directories; file offsets, in the order in which they lie there. */
struct growth {
	uint64_t old_count, count; /* of tables */
	uint64_t table_bytes;	   /* of one, in whole sectors */
	uint64_t redundant_tables, tables;
	uint64_t redundant, directory; /* where they are afterwards */
	bool moves;
};

/* Have zeroes at the end of the file: whole grains. Durable. */
static int add_room(struct img *img, struct vmdk_file *f, uint64_t bytes, uint64_t *off,
		    struct img_error *err)
{
	uint64_t grain = f->sparse.grain_bytes, n = div_round_up_u64(bytes, grain), end, size;
	int rc = img_unit_alloc_get_at_end(&f->alloc->grains, n, off);

	if (rc)
		return img_fail(err, rc, "%s: no space for %" PRIu64 " bytes of grain tables: an extent file has "
					 "at most %" PRIu64 " bytes",
				f->storage->name, bytes, f->alloc->grains.limit);
	end = *off + n * grain;
	size = f->storage->size;
	if (*off < size)
		rc = img_storage_zero(f->storage, *off, min_u64(end, size) - *off, err);
	if (!rc && size < end)
		rc = img_storage_resize(f->storage, end, IMG_PREALLOCATE_OFF, err);
	if (!rc)
		rc = sync_file(img, f->storage, err);
	img_meta_forget(img, f->storage, *off, end - *off);
	if (rc)
		img_unit_alloc_put(&f->alloc->grains, *off, n * grain);
	else
		f->sparse.file_bytes = max_u64(f->sparse.file_bytes, end);
	return rc;
}

/* A directory at `to`: the entries of the one at `from`, if that is another place, and those of the new tables. */
static int write_directory(struct img *img, struct vmdk_file *f, const struct growth *g, uint64_t from,
			   uint64_t to, uint64_t tables, struct img_error *err)
{
	uint8_t buf[DIRECTORY_BATCH * 4];
	int rc = 0;

	for (uint64_t n, at = from == to ? g->old_count : 0; at < g->count && !rc; at += n) {
		uint64_t old;

		n = min_u64(g->count - at, DIRECTORY_BATCH);
		old = at < g->old_count ? min_u64(n, g->old_count - at) : 0;
		if (old)
			rc = img_storage_read(f->storage, from + at * 4, buf, (size_t)old * 4, err);
		for (uint64_t i = old; i < n; i++)
			le32_store(buf + i * 4, (uint32_t)((tables + (at + i - g->old_count) * g->table_bytes) /
							   VMDK_SECTOR));
		if (!rc)
			rc = write_at(img, f->storage, to + at * 4, buf, (size_t)n * 4, err);
	}
	return rc;
}

/* The header: another capacity, or directories elsewhere. One sector. Durable. */
static int write_header(struct img *img, struct vmdk_file *f, uint64_t capacity, uint64_t directory,
			uint64_t redundant, struct img_error *err)
{
	uint8_t header[VMDK_HOSTED_HEADER_BYTES];
	int rc = img_storage_read(f->storage, 0, header, sizeof(header), err);

	if (rc)
		return rc;
	le64_store(header + VMDK_OFF_CAPACITY, capacity / VMDK_SECTOR);
	le64_store(header + VMDK_OFF_DIRECTORY, directory / VMDK_SECTOR);
	if (redundant)
		le64_store(header + VMDK_OFF_REDUNDANT, redundant / VMDK_SECTOR);
	rc = write_at(img, f->storage, 0, header, sizeof(header), err);
	return rc ? rc : sync_file(img, f->storage, err);
}

static int keep_tables(struct vmdk_file *f, const struct growth *g, struct img_error *err)
{
	struct vmdk_sparse *s = &f->sparse;
	uint64_t added = g->count - g->old_count;

	/* In ascending order: what follows would have to move. */
	for (uint64_t i = 0; i < added && s->redundant_off; i++)
		img_range_map_insert_block(&f->alloc->metadata,
					   g->redundant_tables + i * g->table_bytes);
	for (uint64_t i = 0; i < added; i++)
		img_range_map_insert_block(&f->alloc->metadata, g->tables + i * g->table_bytes);
	s->directory_entries = g->count;
	s->directory_off = g->directory;
	if (s->redundant_off)
		s->redundant_off = g->redundant;
	return vmdk_list_metadata(f, err);
}

static int add_tables(struct img *img, struct vmdk_file *f, uint64_t count, struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	struct growth g = {
		.old_count = s->directory_entries,
		.count = count,
		.table_bytes = round_up_u64(vmdk_table_bytes(s), VMDK_SECTOR),
		.redundant = s->redundant_off,
		.directory = s->directory_off,
	};
	uint64_t added = count - g.old_count, copies = s->redundant_off ? 2 : 1, off;
	uint64_t bytes = round_up_u64(count * s->entry_bytes, VMDK_SECTOR);
	int rc;

	/* A directory has its last sector for itself. */
	g.moves = bytes > round_up_u64(g.old_count * s->entry_bytes, VMDK_SECTOR);
	if (img_range_map_reserve_blocks(&f->alloc->metadata, added * copies))
		return img_fail(err, -ENOMEM, "out of memory");
	rc = add_room(img, f, copies * (added * g.table_bytes + (g.moves ? bytes : 0)), &off, err);
	if (rc)
		return rc;
	g.redundant_tables = off;
	g.tables = off + (copies - 1) * added * g.table_bytes;
	if (g.moves) {
		g.redundant = g.tables + added * g.table_bytes;
		g.directory = g.redundant + (copies - 1) * bytes;
	}
	if (s->redundant_off)
		rc = write_directory(img, f, &g, s->redundant_off, g.redundant,
				     g.redundant_tables, err);
	if (!rc)
		rc = write_directory(img, f, &g, s->directory_off, g.directory, g.tables, err);
	if (!rc)
		rc = sync_file(img, f->storage, err);
	if (!rc && g.moves)
		rc = write_header(img, f, s->capacity_bytes, g.directory,
				  s->redundant_off ? g.redundant : 0, err);
	return rc ? rc : keep_tables(f, &g, err);
}

int vmdk_extend(struct img *img, uint64_t size, struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	int rc = check_size(img, size, err);
	struct vmdk_extent *x;
	struct vmdk_file *f;
	uint64_t count;

	if (rc)
		return rc;
	x = last_extent(vmdk);
	f = &vmdk->files[x->file];
	if (x->kind == VMDK_EXTENT_FLAT) /* which grows at once, and has nothing behind its end */
		return 0;
	/* Before the disk was made smaller there may have been grains. */
	rc = clear_behind(img, f, x->bytes, err);
	count = div_round_up_u64(size - x->guest_off, vmdk_table_covers(&f->sparse));
	if (!rc && count > f->sparse.directory_entries)
		rc = add_tables(img, f, count, err);
	else if (!rc)
		rc = sync_file(img, f->storage, err);
	if (rc)
		return rc;
	x->bytes = size - x->guest_off;
	img->size = size;
	return 0;
}

/* ---- The size ---- */

/* The descriptor tells it: it counts. capacity: as of vmdk_store_text(). */
static int store_size(struct img *img, uint64_t size, uint64_t capacity, struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	struct vmdk_extent *x = last_extent(vmdk);
	uint64_t bytes = size - x->guest_off;
	size_t len = (size_t)vmdk->text_bytes, next_len = 0;
	char *text = malloc(len), *next = NULL;
	int rc = text ? img_storage_read(img->file, vmdk->text_off, text, len, err)
		      : img_fail(err, -ENOMEM, "out of memory");

	if (!rc) {
		next = vmdk_replace_size(text, len, bytes / VMDK_SECTOR, size / VMDK_SECTOR,
					 &next_len);
		rc = next ? vmdk_store_text(img, next, next_len, capacity, err)
			  : img_fail(err, -ENOMEM, "out of memory");
	}
	if (!rc) {
		vmdk->text_bytes = next_len;
		vmdk->stored_bytes = size;
		img->size = size;
		x->bytes = bytes;
	}
	free(next);
	free(text);
	return rc;
}

static int resize_flat(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	const struct vmdk_extent *x = last_extent(vmdk);
	struct img_storage *s = vmdk->files[x->file].storage;
	uint64_t old_end = x->file_off + x->bytes, end = x->file_off + (size - x->guest_off);
	int rc = 0;

	for (size_t i = 0; i + 1 < vmdk->extent_count; i++)
		if (vmdk->extents[i].file == x->file)
			return img_fail(err, -ENOTSUP,
					"%s: extents %zu and %zu lie in the same file, %s: they cannot be "
					"resized",
					img->name, i + 1, vmdk->extent_count, s->name);
	if (how == IMG_PREALLOCATE_METADATA)
		return img_fail(err, -ENOTSUP, "Unsupported preallocation mode: metadata");
	if (size < vmdk->stored_bytes) {
		rc = store_size(img, size, 0, err);
		return rc ? rc : img_storage_resize(s, end, IMG_PREALLOCATE_OFF, err);
	}
	/* What lies behind the disk's end is nothing of it. */
	if (s->size > old_end)
		rc = img_storage_resize(s, old_end, IMG_PREALLOCATE_OFF, err);
	if (!rc)
		rc = img_storage_resize(s, end, how, err);
	if (!rc)
		rc = sync_file(img, s, err);
	return rc ? rc : store_size(img, size, 0, err);
}

/* What a file has in use, in grains: its metadata, and the grains that its tables name. */
struct used {
	struct img_use_map map;
	uint64_t end; /* file offset */
};

static int add_used(struct used *u, uint64_t off, uint64_t len)
{
	enum img_use ignored;

	u->end = max_u64(u->end, off + len);
	return img_use_map_add(&u->map, off, len, &ignored);
}

static int add_metadata(struct used *u, const struct img_range_map *m)
{
	int rc = 0;

	for (size_t i = 0; i < m->range_count && !rc; i++)
		rc = add_used(u, m->ranges[i].off, m->ranges[i].len);
	for (size_t i = 0; i < m->block_count && !rc; i++)
		rc = add_used(u, m->blocks[i], m->block_bytes);
	return rc;
}

/* slots: space for the table, which is at file offset `table`. */
static int add_grains(struct used *u, const struct vmdk_file *f, uint64_t table, uint8_t *slots,
		      struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	int rc = img_storage_read(f->storage, table, slots, (size_t)vmdk_table_bytes(s), err);

	for (uint32_t i = 0; i < s->table_entries && !rc; i++) {
		struct vmdk_entry e =
			vmdk_table_entry(s, slots + (uint64_t)i * s->entry_bytes, 1);

		if (e.kind == VMDK_STORED && add_used(u, e.file_off, s->grain_bytes))
			rc = img_fail(err, -ENOMEM, "out of memory");
	}
	return rc;
}

/* To be freed also where it fails. */
static int find_used(const struct vmdk_file *f, struct used *u, struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	uint8_t *slots = malloc((size_t)vmdk_table_bytes(s));
	int rc = 0;

	*u = (struct used){ .end = 0 };
	/* A grain that the disk's end cuts may end behind the file. */
	img_use_map_init(&u->map, max_u64(f->storage->size, s->file_bytes) + 2 * s->grain_bytes,
			 s->grain_bytes);
	if (!slots || add_metadata(u, &f->alloc->metadata))
		rc = img_fail(err, -ENOMEM, "out of memory");
	for (uint64_t n = 0; n < s->directory_entries && !rc; n++) {
		uint64_t table, copy = 0;

		rc = table_at(f, s->directory_off, n, &table, err);
		if (!rc && s->redundant_off)
			rc = table_at(f, s->redundant_off, n, &copy, err);
		if (!rc && table)
			rc = add_grains(u, f, table, slots, err);
		if (!rc && copy && copy != table)
			rc = add_grains(u, f, copy, slots, err);
	}
	free(slots);
	return rc;
}

/* What is not in use between two grains that are: it is a hole from now on, where there can be one. */
static void punch_unused(struct img *img, struct vmdk_file *f, const struct used *u)
{
	uint64_t grain = f->sparse.grain_bytes, end = f->storage->size, run;

	for (uint64_t at = 0; at * grain < end; at += run) {
		uint64_t off = at * grain;

		if (img_sparse_bitset_run(&u->map.used, at, &run))
			continue;
		img_meta_forget(img, f->storage, off, min_u64(run * grain, end - off));
		img_storage_punch(f->storage, off, min_u64(run * grain, end - off), NULL);
	}
}

/*
 * What was cut off leaves the file, and is used again: nothing leads there any more, durably. The space that the
 * header keeps free in front of the first grain stays so.
 */
static int reclaim(struct img *img, struct vmdk_file *f, struct img_error *err)
{
	struct img_unit_alloc *grains = &f->alloc->grains;
	uint64_t grain = f->sparse.grain_bytes, limit = grains->limit, end, first;
	struct used u;
	int rc = find_used(f, &u, err);

	end = min_u64(round_up_u64(u.end, grain), f->storage->size);
	if (!rc && end < f->storage->size) {
		img_meta_forget(img, f->storage, end, f->storage->size - end);
		rc = img_storage_resize(f->storage, end, IMG_PREALLOCATE_OFF, err);
		if (!rc)
			f->sparse.file_bytes = end;
	}
	if (!rc) {
		punch_unused(img, f, &u);
		img_unit_alloc_free(grains);
		img_unit_alloc_init(grains, grain, round_up_u64(end, grain), limit);
		if (mul_u64(f->sparse.overhead_sectors, VMDK_SECTOR, &first) && first < end)
			img_unit_alloc_find_free(grains, &u.map, round_up_u64(first, grain));
	}
	img_use_map_free(&u.map);
	return rc;
}

static int resize_sparse(struct img *img, uint64_t size, struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	const struct vmdk_extent *x = last_extent(vmdk);
	struct vmdk_file *f = &vmdk->files[x->file];
	struct vmdk_sparse *s = &f->sparse;
	uint64_t bytes = size - x->guest_off, before = vmdk->stored_bytes;
	bool embedded = f->storage == img->file;
	int rc = 0;

	if (embedded || size < before)
		rc = store_size(img, size, embedded ? bytes : 0, err);
	if (!rc && !embedded)
		rc = write_header(img, f, bytes, s->directory_off, s->redundant_off, err);
	if (rc)
		return rc;
	s->capacity_bytes = bytes;
	if (size > before)
		return embedded ? 0 : store_size(img, size, 0, err);
	/* The other tables are no part of the file any more. */
	s->directory_entries = div_round_up_u64(bytes, vmdk_table_covers(s));
	rc = clear_behind(img, f, bytes, err);
	if (!rc)
		rc = sync_file(img, f->storage, err);
	if (!rc)
		rc = vmdk_list_tables(f, err);
	return rc ? rc : reclaim(img, f, err);
}

int vmdk_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	int rc = check_size(img, size, err);
	struct vmdk_extent *x;

	if (rc)
		return rc;
	x = last_extent(vmdk);
	if (size == vmdk->stored_bytes) { /* growing it failed: the tables that were made are of no use */
		x->bytes = size - x->guest_off;
		img->size = size;
		return 0;
	}
	if (x->kind == VMDK_EXTENT_FLAT)
		return resize_flat(img, size, how, err);
	if (how != IMG_PREALLOCATE_OFF)
		return img_fail(err, -ENOTSUP,
				"%s: preallocation: extent %zu is sparse, and grows as it is written", img->name,
				vmdk->extent_count);
	return resize_sparse(img, size, err);
}
