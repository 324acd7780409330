/*
 * Room in sparse extent files that are written to: where the next grain goes, what was freed, and
 * where metadata lies, which no grain may touch. New grains go to the end of the file; what is
 * freed is used again while the image is open (nothing on disk tells what is free).
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* Of a grain that is written: a write to a part of it fills the rest. */
#define GRAIN_BYTES_MAX (UINT64_C(16) << 20)

/* Entries count sectors in 32 bits. */
#define FILE_BYTES_MAX ((UINT64_C(1) << 32) * VMDK_SECTOR)

/* ---- Metadata ---- */

/* Metadata that has one place; what[i] names it. */
struct fixed {
	const char *what;
	uint64_t off, len;
};

enum {
	FIXED_COUNT = 4,
};

static void list_fixed(const struct vmdk_sparse *s, struct fixed out[FIXED_COUNT])
{
	uint64_t directory_bytes = s->directory_entries * s->entry_bytes;

	out[0] = (struct fixed){ "header", 0, VMDK_HOSTED_HEADER_BYTES };
	out[1] = (struct fixed){ "descriptor", s->descriptor_off,
				 s->descriptor_off ? s->descriptor_bytes : 0 };
	out[2] = (struct fixed){ "grain directory", s->directory_off, directory_bytes };
	out[3] = (struct fixed){ "grain directory's copy", s->redundant_off,
				 s->redundant_off ? directory_bytes : 0 };
}

static const char *fixed_at(const struct vmdk_sparse *s, uint64_t off, uint64_t len)
{
	struct fixed fixed[FIXED_COUNT];

	list_fixed(s, fixed);
	for (size_t i = 0; i < FIXED_COUNT; i++)
		if (fixed[i].len && off < fixed[i].off + fixed[i].len &&
		    fixed[i].off - min_u64(fixed[i].off, off) < len)
			return fixed[i].what;
	return NULL;
}

/* The first known table that ends past off. */
static size_t table_from(const struct vmdk_file *f, uint64_t off)
{
	uint64_t bytes = vmdk_table_bytes(&f->sparse);
	size_t low = 0, high = f->alloc->table_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if ((uint64_t)f->alloc->tables[mid] * VMDK_SECTOR + bytes > off)
			high = mid;
		else
			low = mid + 1;
	}
	return low;
}

const char *vmdk_metadata_at(const struct vmdk_file *f, uint64_t off, uint64_t len)
{
	const char *hit = fixed_at(&f->sparse, off, len);
	size_t i;

	if (hit)
		return hit;
	i = table_from(f, off);
	if (i < f->alloc->table_count &&
	    (uint64_t)f->alloc->tables[i] * VMDK_SECTOR < off + len)
		return "grain table";
	return NULL;
}

static int reserve_tables(struct vmdk_alloc *alloc, size_t n)
{
	size_t max = alloc->table_max ? alloc->table_max : 64;
	uint32_t *more;

	while (max < alloc->table_count + n)
		max *= 2;
	if (max == alloc->table_max)
		return 0;
	more = realloc(alloc->tables, max * sizeof(*more));
	if (!more)
		return -ENOMEM;
	alloc->tables = more;
	alloc->table_max = max;
	return 0;
}

static int compare_sectors(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* ---- Preparing ---- */

static int refuse_entry(const struct vmdk_file *f, const char *directory, uint64_t number,
			const struct vmdk_entry *e, const char *allowed, struct img_error *err)
{
	return img_fail(err, -EUCLEAN,
			"%s: %s entry %" PRIu64 ": found %#" PRIx64 ", allowed %s: it cannot be "
			"written to before it was repaired",
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
	/* More than fit the file: two are the same. Told before memory is taken for them. */
	if (alloc->table_count >= s->file_bytes / vmdk_table_bytes(s))
		return img_fail(err, -EUCLEAN,
				"%s: grain directory: found more tables than its %" PRIu64 " "
				"bytes have room for, allowed each only once",
				f->storage->name, s->file_bytes);
	if (reserve_tables(alloc, 2))
		return img_fail(err, -ENOMEM, "out of memory");
	alloc->tables[alloc->table_count++] = (uint32_t)(e.file_off / VMDK_SECTOR);
	if (other.file_off != e.file_off)
		alloc->tables[alloc->table_count++] = (uint32_t)(other.file_off / VMDK_SECTOR);
	return 0;
}

/* Where all tables are. Each may be there once, and clear of the rest of the metadata. */
static int find_tables(struct vmdk_file *f, struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	struct vmdk_alloc *alloc = f->alloc;
	uint8_t directory[4096], copy[4096];
	uint64_t batch = sizeof(directory) / s->entry_bytes, bytes = vmdk_table_bytes(s);
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
	if (alloc->table_count) /* else there is no array to sort */
		qsort(alloc->tables, alloc->table_count, sizeof(*alloc->tables), compare_sectors);
	for (size_t i = 0; i < alloc->table_count; i++) {
		uint64_t off = (uint64_t)alloc->tables[i] * VMDK_SECTOR;
		const char *hit = fixed_at(s, off, bytes);

		if (i && off - (uint64_t)alloc->tables[i - 1] * VMDK_SECTOR < bytes)
			hit = "grain table";
		if (hit)
			return img_fail(err, -EUCLEAN,
					"%s: grain directory: found a table at %" PRIu64 ", where "
					"a %s lies already: it cannot be written to",
					f->storage->name, off, hit);
	}
	return 0;
}

/* The pieces that have one place are clear of each other. */
static int check_fixed(const struct vmdk_file *f, struct img_error *err)
{
	struct fixed p[FIXED_COUNT];

	list_fixed(&f->sparse, p);
	for (size_t i = 0; i < FIXED_COUNT; i++) {
		uint64_t end;

		if (!add_u64(p[i].off, p[i].len, &end))
			return img_fail(err, -EUCLEAN, "%s: the %s at %" PRIu64 " is past any file",
					f->storage->name, p[i].what, p[i].off);
		for (size_t k = 0; k < i; k++)
			if (p[i].len && p[k].len && p[i].off < p[k].off + p[k].len &&
			    p[k].off < end)
				return img_fail(err, -EUCLEAN,
						"%s: found the %s at %" PRIu64 ", where the %s "
						"lies already: it cannot be written to",
						f->storage->name, p[i].what, p[i].off, p[k].what);
	}
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

static int prepare_file(const struct img *img, struct vmdk_file *f, struct img_error *err)
{
	int rc;

	if (f->alloc || f->sparse.kind == VMDK_NOT_SPARSE)
		return 0;
	if (img->made && f->sparse.compressed) /* complete, and never changed */
		return 0;
	rc = check_kind(img, f, err);
	if (rc)
		return rc;
	f->alloc = calloc(1, sizeof(*f->alloc));
	if (!f->alloc)
		return img_fail(err, -ENOMEM, "out of memory");
	f->alloc->next = round_up_u64(f->storage->size, f->sparse.grain_bytes);
	f->alloc->was_unclean = f->sparse.unclean;
	rc = check_fixed(f, err);
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
					"%s: extent %zu: found type ZERO, allowed for writing are "
					"extents that have a file",
					img->name, i + 1);
		/* Of a stream that is the lesser reason. */
		if (x->access != VMDK_RW && !stream)
			return img_fail(err, -EACCES,
					"%s: extent %zu: found access %s in the descriptor, "
					"allowed RW for writing",
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
	free(alloc->runs);
	free(alloc->tables);
	free(alloc);
}

/* ---- Grains ---- */

int vmdk_alloc_grains(struct vmdk_file *f, uint64_t want, uint64_t *off, uint64_t *got,
		      struct img_error *err)
{
	struct vmdk_alloc *alloc = f->alloc;
	uint64_t grain = f->sparse.grain_bytes, room;

	if (alloc->run_count) {
		struct vmdk_run *run = &alloc->runs[alloc->run_count - 1];

		*got = min_u64(want, run->len / grain);
		*off = run->off;
		run->off += *got * grain;
		run->len -= *got * grain;
		if (!run->len)
			alloc->run_count--;
		return 0;
	}
	room = alloc->next < FILE_BYTES_MAX ? (FILE_BYTES_MAX - alloc->next) / grain : 0;
	if (!room)
		return img_fail(err, -EFBIG,
				"%s: found no room for another grain, allowed are %" PRIu64 " "
				"bytes of an extent file",
				f->storage->name, FILE_BYTES_MAX);
	*got = min_u64(want, room);
	*off = alloc->next;
	alloc->next += *got * grain;
	return 0;
}

void vmdk_free_grains(struct vmdk_file *f, uint64_t off, uint64_t len)
{
	struct vmdk_alloc *alloc = f->alloc;
	struct vmdk_run *last = alloc->run_count ? &alloc->runs[alloc->run_count - 1] : NULL;

	if (last && last->off + last->len == off) {
		last->len += len;
		return;
	}
	if (!alloc->runs || alloc->run_count == alloc->run_max) {
		size_t max = alloc->run_max ? alloc->run_max * 2 : 64;
		struct vmdk_run *more = realloc(alloc->runs, max * sizeof(*more));

		if (!more)
			return;
		alloc->runs = more;
		alloc->run_max = max;
	}
	assert(alloc->runs);
	alloc->runs[alloc->run_count++] = (struct vmdk_run){ off, len };
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
 * tells and mends.
 */
static int make_table(struct img *img, struct vmdk_file *f, uint64_t number, struct img_error *err)
{
	struct vmdk_sparse *s = &f->sparse;
	uint64_t bytes = round_up_u64(vmdk_table_bytes(s), VMDK_SECTOR);
	uint64_t copies = s->redundant_off ? 2 : 1, grains, got, off;
	int rc = 0;

	grains = div_round_up_u64(copies * bytes, s->grain_bytes);
	/* Freed grains need not lie in a row: take new ones. */
	off = f->alloc->next;
	got = off < FILE_BYTES_MAX ? (FILE_BYTES_MAX - off) / s->grain_bytes : 0;
	if (got < grains)
		return img_fail(err, -EFBIG,
				"%s: found no room for a grain table, allowed are %" PRIu64 " "
				"bytes of an extent file",
				f->storage->name, FILE_BYTES_MAX);
	if (reserve_tables(f->alloc, 2))
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_storage_zero(f->storage, off, grains * s->grain_bytes, err);
	if (!rc && !img->unsafe)
		rc = img_storage_sync(f->storage, err);
	if (rc)
		return rc;
	img_meta_forget(img, f->storage, off, grains * s->grain_bytes);
	f->alloc->next += grains * s->grain_bytes;
	s->file_bytes = max_u64(s->file_bytes, f->alloc->next);
	for (uint64_t i = 0; i < copies; i++)
		f->alloc->tables[f->alloc->table_count++] =
			(uint32_t)((off + i * bytes) / VMDK_SECTOR);
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
