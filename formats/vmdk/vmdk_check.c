/*
 * Check of sparse extents: every directory and table entry leads into the file, no two grains or
 * tables share a sector, both copies of the tables agree, and each marker of a compressed grain is
 * its grain's. Flat extents have nothing to check.
 *
 * Copies that differ in an extent that was not closed cleanly are what a power cut leaves between
 * two writes: a leak, for nobody reads the copy as long as the table itself is whole. A repair
 * makes copies anew, and takes the mark of an unclean shutdown away.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"

/*
 * Which parts of a file are taken: a bit for each granule (a sector; SESparse: a grain), in chunks
 * that are made when something in them is marked.
 */
enum {
	CHUNK_GRANULES = 32768,
};

struct used {
	uint64_t granule_bytes;
	size_t chunk_count;
	uint8_t **chunks;
};

static int used_init(struct used *u, const struct vmdk_sparse *s)
{
	u->granule_bytes = s->kind == VMDK_SE ? s->grain_bytes : VMDK_SECTOR;
	u->chunk_count = (size_t)(s->file_bytes / u->granule_bytes / CHUNK_GRANULES + 1);
	u->chunks = calloc(u->chunk_count, sizeof(*u->chunks));
	return u->chunks ? 0 : -ENOMEM;
}

static void used_free(struct used *u)
{
	for (size_t i = 0; u->chunks && i < u->chunk_count; i++)
		free(u->chunks[i]);
	free(u->chunks);
}

/* Mark bytes [off, off + len), which are in the file. 0; 1: some were taken already; -ENOMEM. */
static int used_mark(struct used *u, uint64_t off, uint64_t len)
{
	uint64_t first = off / u->granule_bytes, last = (off + len - 1) / u->granule_bytes;
	int taken = 0;

	for (uint64_t g = first; g <= last; g++) {
		uint8_t **chunk = &u->chunks[g / CHUNK_GRANULES];
		unsigned bit = (unsigned)(g % CHUNK_GRANULES);

		if (!*chunk)
			*chunk = calloc(CHUNK_GRANULES / 8, 1);
		if (!*chunk)
			return -ENOMEM;
		if ((*chunk)[bit / 8] & (1u << (bit % 8)))
			taken = 1;
		(*chunk)[bit / 8] |= (uint8_t)(1u << (bit % 8));
	}
	return taken;
}

/* One extent file being checked. */
struct walk {
	struct img *img;
	struct img_check *c;
	struct img_storage *storage;
	const struct vmdk_sparse *s;
	struct used used;
	struct used walked;	    /* tables whose grains were looked at */
	uint8_t *table, *redundant; /* one table, and its copy */
};

/* Defects beyond these are counted, but not told one by one. */
enum {
	TOLD_MAX = 100,
};

#define DEFECT(w, ...) \
	do { \
		if (++(w)->c->corruptions <= TOLD_MAX) \
			img_check_say((w)->c, __VA_ARGS__); \
		else if ((w)->c->corruptions == TOLD_MAX + 1) \
			img_check_say((w)->c, "There are more defects; they are only counted"); \
	} while (0)

/* A part of the metadata; what: for the sentence. -ENOMEM. */
static int mark_metadata(struct walk *w, const char *what, uint64_t off, uint64_t len)
{
	int rc;

	if (!len || w->s->kind == VMDK_SE) /* SESparse has areas of its own for each kind */
		return 0;
	rc = used_mark(&w->used, off, len);
	if (rc == 1)
		DEFECT(w, "ERROR %s: %s at %" PRIu64 " shares sectors with other metadata",
		       w->storage->name, what, off);
	return rc < 0 ? rc : 0;
}

/*
 * A copy that differs from what it is a copy of: [off, off + len) should be `right`. Told, and
 * mended if that is asked for.
 */
static int mend_copy(struct walk *w, uint64_t off, const uint8_t *right, uint64_t len,
		     const char *what, uint64_t number, struct img_error *err)
{
	struct img_check *c = w->c;
	bool leak = w->s->unclean;
	bool mend = (c->repair & (leak ? IMG_REPAIR_LEAKS : IMG_REPAIR_ALL & ~IMG_REPAIR_LEAKS)) &&
		    w->s->kind == VMDK_HOSTED;
	int rc;

	if (mend) {
		uint64_t from = align_down_u64(off, IMG_META_SECTOR);

		rc = img_storage_write(w->storage, off, right, (size_t)len, err);
		img_meta_forget(w->img, w->storage, from,
				round_up_u64(off + len - from, IMG_META_SECTOR));
		if (rc)
			return rc;
		img_check_say(c, "Repairing %s: %s %" PRIu64 " and its copy differ",
			      w->storage->name, what, number);
		*(leak ? &c->leaks_fixed : &c->corruptions_fixed) += 1;
	} else if (leak) {
		c->leaks++;
		img_check_say(c,
			      "Leaked copy in %s: %s %" PRIu64 " and its copy at %" PRIu64
			      " differ",
			      w->storage->name, what, number, off);
	} else {
		DEFECT(w, "ERROR %s: %s %" PRIu64 " and its copy at %" PRIu64 " differ",
		       w->storage->name, what, number, off);
	}
	return 0;
}

/* The bytes that a stored grain takes; 0: its marker is bad, which was said. */
static int grain_length(struct walk *w, uint64_t grain_off, uint64_t file_off, uint64_t *len,
			struct img_error *err)
{
	uint8_t marker[VMDK_GRAIN_MARKER_BYTES];
	struct img_error bad = { 0 };
	uint32_t stored;
	int rc;

	*len = min_u64(w->s->grain_bytes, w->s->file_bytes - file_off);
	if (!w->s->compressed)
		return 0;
	*len = VMDK_SECTOR; /* without markers nothing tells */
	if (!w->s->markers)
		return 0;
	rc = img_storage_read(w->storage, file_off, marker, sizeof(marker), err);
	if (rc)
		return rc;
	if (vmdk_parse_grain_marker(w->s, marker, file_off, grain_off, &stored, &bad)) {
		DEFECT(w, "ERROR %s: %s", w->storage->name, img_error_text(&bad));
		*len = 0;
	} else {
		*len = (uint64_t)sizeof(marker) + stored;
	}
	img_error_clear(&bad);
	return 0;
}

static int check_grain(struct walk *w, uint64_t grain_off, const uint8_t *slot,
		       struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;
	uint64_t need = vmdk_bytes_needed(s, s->capacity_bytes, grain_off);
	struct vmdk_entry e = vmdk_table_entry(s, slot, need);
	uint64_t len;
	int rc;

	if (e.kind == VMDK_DAMAGED)
		DEFECT(w,
		       "ERROR %s: the grain of sector %" PRIu64 " is said to be at "
		       "%#" PRIx64 ", which is not in the file",
		       w->storage->name, grain_off / VMDK_SECTOR, e.value);
	if (e.kind != VMDK_STORED)
		return 0;
	rc = grain_length(w, grain_off, e.file_off, &len, err);
	if (rc || !len)
		return rc;
	rc = used_mark(&w->used, e.file_off, len);
	if (rc == 1)
		DEFECT(w,
		       "ERROR %s: the grain of sector %" PRIu64 " at %" PRIu64 " shares sectors "
		       "with another grain or with metadata",
		       w->storage->name, grain_off / VMDK_SECTOR, e.file_off);
	return rc < 0 ? img_fail(err, rc, "out of memory") : 0;
}

/* One table of the directory and its copy. copy: the redundant directory's slot, or NULL. */
static int check_table(struct walk *w, uint64_t number, const uint8_t *slot, const uint8_t *copy,
		       struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;
	uint64_t guest_off = number * vmdk_table_covers(s), bytes = vmdk_table_bytes(s);
	uint64_t grains = min_u64(s->table_entries,
				  div_round_up_u64(s->capacity_bytes - guest_off, s->grain_bytes));
	struct vmdk_entry e = vmdk_directory_entry(s, slot);
	struct vmdk_entry other = { .kind = VMDK_ABSENT };
	int rc;

	if (e.kind == VMDK_DAMAGED)
		DEFECT(w,
		       "ERROR %s: grain table %" PRIu64 " is said to be at %#" PRIx64 ", which "
		       "is not in the file",
		       w->storage->name, number, e.value);
	if (copy) {
		other = vmdk_directory_entry(s, copy);
		if (e.kind == VMDK_ABSENT && other.kind == VMDK_STORED && s->unclean) {
			uint64_t at = s->redundant_off + number * s->entry_bytes;

			/* A table that was about to be added. */
			rc = mend_copy(w, at, slot, s->entry_bytes, "grain directory entry", number,
				       err);
			if (rc)
				return rc;
		} else if (other.kind == VMDK_DAMAGED ||
			   (other.kind != e.kind && e.kind != VMDK_DAMAGED))
			DEFECT(w,
			       "ERROR %s: the copy of grain table %" PRIu64 " is said to be at "
			       "%#" PRIx64 ", which does not go with the table itself",
			       w->storage->name, number, other.value);
	}
	if (e.kind != VMDK_STORED)
		return 0;
	rc = mark_metadata(w, "a grain table", e.file_off, bytes);
	if (rc)
		return img_fail(err, rc, "out of memory");
	rc = img_storage_read(w->storage, e.file_off, w->table, bytes, err);
	if (rc)
		return rc;
	if (other.kind == VMDK_STORED && other.file_off != e.file_off) {
		rc = mark_metadata(w, "a copy of a grain table", other.file_off, bytes);
		if (rc)
			return img_fail(err, rc, "out of memory");
		rc = img_storage_read(w->storage, other.file_off, w->redundant, bytes, err);
		if (rc)
			return rc;
		if (memcmp(w->table, w->redundant, grains * s->entry_bytes) != 0)
			return mend_copy(w, other.file_off, w->table, bytes, "grain table", number,
					 err);
	}
	return 0;
}

/*
 * Two rounds over all tables, so that a grain that lies over metadata is told as the grain's defect
 * whatever their order: first the tables' places, then the grains.
 */
static int check_tables(struct walk *w, bool grains, struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;
	uint8_t directory[4096], copy[4096];
	uint64_t batch = sizeof(directory) / s->entry_bytes;

	for (uint64_t from = 0; from < s->directory_entries; from += batch) {
		uint64_t n = min_u64(batch, s->directory_entries - from);
		uint64_t first = from * s->entry_bytes, len = n * s->entry_bytes;
		int rc = img_storage_read(w->storage, s->directory_off + first, directory, len,
					  err);

		if (!rc && s->redundant_off && !grains)
			rc = img_storage_read(w->storage, s->redundant_off + first, copy, len, err);
		if (rc)
			return rc;
		for (uint64_t i = 0; i < n && !rc; i++) {
			const uint8_t *slot = directory + i * s->entry_bytes;
			struct vmdk_entry e = vmdk_directory_entry(s, slot);
			uint64_t at = (from + i) * vmdk_table_covers(s);

			if (!grains) {
				const uint8_t *other = copy + i * s->entry_bytes;

				rc = check_table(w, from + i, slot, s->redundant_off ? other : NULL,
						 err);
				continue;
			}
			if (e.kind != VMDK_STORED)
				continue;
			rc = used_mark(&w->walked, e.file_off, 1);
			if (rc < 0)
				return img_fail(err, rc, "out of memory");
			if (rc == 1) { /* several entries name it: told in the first round */
				rc = 0;
				continue;
			}
			rc = img_storage_read(w->storage, e.file_off, w->table, vmdk_table_bytes(s),
					      err);
			slot = w->table;
			for (uint32_t k = 0; k < s->table_entries && !rc; k++) {
				if (at >= s->capacity_bytes)
					break;
				rc = check_grain(w, at, slot, err);
				at += s->grain_bytes;
				slot += s->entry_bytes;
			}
		}
		if (rc)
			return rc;
	}
	return 0;
}

/* The extent is sound now, and says so. */
static int clear_unclean(const struct img *img, struct vmdk_file *f, struct img_error *err)
{
	static const uint8_t clean;
	int rc = img->unsafe ? 0 : img_storage_sync(f->storage, err);

	if (!rc)
		rc = img_storage_write(f->storage, VMDK_OFF_UNCLEAN, &clean, 1, err);
	if (!rc)
		f->sparse.unclean = false;
	return rc;
}

static int check_file(struct img *img, struct img_check *c, struct vmdk_file *f,
		      struct img_error *err)
{
	const struct vmdk_sparse *s = &f->sparse;
	struct walk w = { .img = img, .c = c, .storage = f->storage, .s = s };
	uint64_t directory_bytes = s->directory_entries * s->entry_bytes;
	uint64_t header_bytes = VMDK_HOSTED_HEADER_BYTES;
	int rc = -ENOMEM;

	if (s->kind == VMDK_COWD)
		header_bytes = VMDK_COWD_HEADER_BYTES;
	w.table = malloc(vmdk_table_bytes(s));
	w.redundant = malloc(vmdk_table_bytes(s));
	if (!w.table || !w.redundant || used_init(&w.used, s) < 0 || used_init(&w.walked, s) < 0)
		goto out;
	rc = mark_metadata(&w, "the header", 0, header_bytes);
	if (!rc && s->descriptor_off &&
	    range_in(s->descriptor_off, s->descriptor_bytes, s->file_bytes))
		rc = mark_metadata(&w, "the descriptor", s->descriptor_off, s->descriptor_bytes);
	if (!rc)
		rc = mark_metadata(&w, "the grain directory", s->directory_off, directory_bytes);
	if (!rc && s->redundant_off && s->redundant_off != s->directory_off)
		rc = mark_metadata(&w, "the grain directory's copy", s->redundant_off,
				   directory_bytes);
	if (rc)
		goto out;
	rc = check_tables(&w, false, err);
	if (!rc)
		rc = check_tables(&w, true, err);
out:
	used_free(&w.used);
	used_free(&w.walked);
	free(w.table);
	free(w.redundant);
	if (rc == -ENOMEM)
		return img_fail(err, rc, "out of memory");
	if (!rc && c->repair && s->unclean && s->kind == VMDK_HOSTED && !c->corruptions &&
	    !c->leaks)
		rc = clear_unclean(img, f, err);
	return rc;
}

int vmdk_check(struct img *img, struct img_check *c, struct img_error *err)
{
	struct vmdk *vmdk = img->state;

	for (size_t i = 0; i < vmdk->file_count; i++) {
		struct vmdk_file *f = &vmdk->files[i];
		int rc;

		if (!f->storage || f->sparse.kind == VMDK_NOT_SPARSE)
			continue;
		rc = check_file(img, c, f, err);
		if (rc)
			return rc;
	}
	if (c->repair && !c->corruptions && !c->leaks)
		img->dirty = false;
	return 0;
}
