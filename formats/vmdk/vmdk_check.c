/*
 * Check of sparse extents: every directory and table entry leads into the file, no two grains or
 * tables share a sector, both copies of the tables agree, and each marker of a compressed grain is
 * its grain's. Flat extents have nothing to check.
 *
 * Copies that differ in an extent that was not closed cleanly are what a power cut leaves between
 * two writes: a leak, for nobody reads the copy as long as the table itself is whole.
 *
 * A repair never changes what can be read: tables and copies become what readers see in them, entries
 * that lead out of the file lead to what stood in for them. Nothing is written where two things lie.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/use_map.h"

/* One extent file being checked. */
struct walk {
	struct img *img;
	struct img_check *c;
	struct img_storage *storage;
	const struct vmdk_sparse *s;
	struct img_use_map used;    /* by sector; SESparse: by grain */
	struct img_use_map walked;  /* tables whose grains were looked at */
	uint8_t *table, *redundant; /* one table, and its copy */
	bool copy_is_used;	    /* by readers: find_use_of_copy() */
	uint64_t repairs;	    /* made in this round */
};

/* A part of the metadata; what: for the sentence. -ENOMEM. */
static int mark_metadata(struct walk *w, const char *what, uint64_t off, uint64_t len)
{
	enum img_use use;
	int rc;

	if (!len || w->s->kind == VMDK_SE) /* SESparse has areas of its own for each kind */
		return 0;
	rc = img_use_map_add(&w->used, off, len, &use);
	if (!rc && use == IMG_USE_SHARED)
		img_check_defect(w->c, "ERROR %s: %s at %" PRIu64 " shares sectors with other metadata",
				 w->storage->name, what, off);
	return rc;
}

/* A copy at off that differs from what it is a copy of; what is left by a power cut is a leak. */
static void report_copy(struct walk *w, uint64_t off, const char *what, uint64_t number)
{
	if (w->s->unclean) {
		w->c->result.leaks++;
		img_check_report(w->c,
				 "Leaked copy in %s: %s %" PRIu64 " and its copy at %" PRIu64
				 " differ",
				 w->storage->name, what, number, off);
	} else {
		img_check_defect(w->c, "ERROR %s: %s %" PRIu64 " and its copy at %" PRIu64 " differ",
				 w->storage->name, what, number, off);
	}
}

/* The entries that readers go by: a copy's stands in for one that leads out of the file. */
static void merge(const struct vmdk_sparse *s, uint64_t guest_off, uint8_t *table,
		  const uint8_t *copy)
{
	for (uint32_t i = 0; i < s->table_entries; i++) {
		uint64_t at = guest_off + i * s->grain_bytes;
		uint8_t *slot = table + (size_t)i * s->entry_bytes;
		const uint8_t *other = copy + (size_t)i * s->entry_bytes;
		uint64_t need;

		if (at >= s->capacity_bytes)
			break;
		need = vmdk_bytes_needed(s, s->capacity_bytes, at);
		if (vmdk_table_entry(s, slot, need).kind == VMDK_DAMAGED &&
		    vmdk_table_entry(s, other, need).kind != VMDK_DAMAGED)
			memcpy(slot, other, s->entry_bytes);
	}
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
		img_check_defect(w->c, "ERROR %s: %s", w->storage->name, img_error_text(&bad));
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
	enum img_use use;
	uint64_t len;
	int rc;

	if (e.kind == VMDK_DAMAGED)
		img_check_defect(w->c,
				 "ERROR %s: grain table entry of sector %" PRIu64 " is %#" PRIx64 ", which "
				 "is not in the file",
				 w->storage->name, grain_off / VMDK_SECTOR, e.value);
	if (e.kind != VMDK_STORED)
		return 0;
	rc = grain_length(w, grain_off, e.file_off, &len, err);
	if (rc || !len)
		return rc;
	rc = img_use_map_add(&w->used, e.file_off, len, &use);
	if (!rc && use == IMG_USE_SHARED)
		img_check_defect(w->c,
				 "ERROR %s: the grain of sector %" PRIu64 " at %" PRIu64 " shares sectors "
				 "with another grain or with metadata",
				 w->storage->name, grain_off / VMDK_SECTOR, e.file_off);
	return rc ? img_fail(err, rc, "out of memory") : 0;
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
		img_check_defect(w->c,
				 "ERROR %s: grain directory entry %" PRIu64 " is %#" PRIx64 ", which is not "
				 "in the file",
				 w->storage->name, number, e.value);
	if (copy) {
		other = vmdk_directory_entry(s, copy);
		if (e.kind == VMDK_ABSENT && other.kind == VMDK_STORED && s->unclean)
			/* A table that was about to be added. */
			report_copy(w, s->redundant_off + number * s->entry_bytes,
				    "grain directory entry", number);
		else if (other.kind == VMDK_DAMAGED ||
			 (other.kind != e.kind && e.kind != VMDK_DAMAGED))
			img_check_defect(w->c,
					 "ERROR %s: redundant grain directory entry %" PRIu64 " is "
					 "%#" PRIx64 ", which does not match the grain directory",
					 w->storage->name, number, other.value);
	}
	if (e.kind == VMDK_DAMAGED && other.kind == VMDK_STORED) { /* it stands in */
		rc = mark_metadata(w, "a copy of a grain table", other.file_off, bytes);
		return rc ? img_fail(err, rc, "out of memory") : 0;
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
			report_copy(w, other.file_off, "grain table", number);
	}
	return 0;
}

/* The grains of a table, as readers see them. copy: as above. */
static int check_grains(struct walk *w, uint64_t number, const uint8_t *slot, const uint8_t *copy,
			struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;
	struct vmdk_entry e = vmdk_directory_entry(s, slot), other = { .kind = VMDK_ABSENT };
	uint64_t at = number * vmdk_table_covers(s), bytes = vmdk_table_bytes(s);
	enum img_use use;
	int rc;

	if (copy)
		other = vmdk_directory_entry(s, copy);
	if (e.kind == VMDK_DAMAGED)
		e = other;
	if (e.kind != VMDK_STORED)
		return 0;
	rc = img_use_map_add(&w->walked, e.file_off, 1, &use);
	if (rc)
		return img_fail(err, rc, "out of memory");
	if (use == IMG_USE_SHARED) /* several entries name it: reported in the first round */
		return 0;
	rc = img_storage_read(w->storage, e.file_off, w->table, bytes, err);
	if (!rc && other.kind == VMDK_STORED && other.file_off != e.file_off) {
		rc = img_storage_read(w->storage, other.file_off, w->redundant, bytes, err);
		merge(s, at, w->table, w->redundant);
	}
	for (uint32_t k = 0; k < s->table_entries && at < s->capacity_bytes && !rc; k++) {
		rc = check_grain(w, at, w->table + (size_t)k * s->entry_bytes, err);
		at += s->grain_bytes;
	}
	return rc;
}

/* ---- Repair ---- */

static int write_metadata(struct walk *w, uint64_t off, const uint8_t *bytes, uint64_t len,
			  struct img_error *err)
{
	uint64_t from = align_down_u64(off, IMG_META_SECTOR);
	int rc = img_storage_write(w->storage, off, bytes, (size_t)len, err);

	img_meta_forget(w->img, w->storage, from,
			round_up_u64(off + len - from, IMG_META_SECTOR));
	return rc;
}

/* May what [off, off + len) is said to be be believed, so that it can be written to? */
static bool is_not_shared(const struct walk *w, uint64_t off, uint64_t len)
{
	return range_in(off, len, w->s->file_bytes) && !img_use_map_is_shared(&w->used, off, len);
}

/* Let a directory's entry lead to a table that is sound. */
static int redirect(struct walk *w, uint64_t directory_off, uint64_t number, const uint8_t *right,
		    const char *what, struct img_error *err)
{
	uint64_t at = directory_off + number * w->s->entry_bytes;
	int rc;

	if (!is_not_shared(w, directory_off, w->s->directory_entries * w->s->entry_bytes))
		return 0;
	rc = write_metadata(w, at, right, w->s->entry_bytes, err);
	if (rc)
		return rc;
	img_check_report(w->c, "Repairing %s: %s entry %" PRIu64, w->storage->name, what, number);
	w->repairs++;
	return 0;
}

/*
 * A table and its copy that differ become what readers see in them; nothing is lost by that. An entry
 * whose grain shares sectors may be the wrong one of the two: such a pair is left alone.
 */
static int unite(struct walk *w, uint64_t number, uint64_t table_off, uint64_t copy_off,
		 struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;
	uint64_t bytes = vmdk_table_bytes(s), guest_off = number * vmdk_table_covers(s);
	uint64_t grains = min_u64(s->table_entries,
				  div_round_up_u64(s->capacity_bytes - guest_off, s->grain_bytes));
	int rc = img_storage_read(w->storage, table_off, w->table, bytes, err);

	if (!rc)
		rc = img_storage_read(w->storage, copy_off, w->redundant, bytes, err);
	if (rc || !memcmp(w->table, w->redundant, grains * s->entry_bytes))
		return rc;
	merge(s, guest_off, w->table, w->redundant);
	for (uint64_t i = 0; i < grains; i++) {
		const uint8_t *slot = w->table + i * s->entry_bytes;
		struct vmdk_entry e = vmdk_table_entry(s, slot, 1);

		if (memcmp(slot, w->redundant + i * s->entry_bytes, s->entry_bytes) != 0 &&
		    e.kind == VMDK_STORED &&
		    img_use_map_is_shared(&w->used, e.file_off,
					  min_u64(s->grain_bytes, s->file_bytes - e.file_off)))
			return 0;
	}
	rc = write_metadata(w, table_off, w->table, bytes, err);
	if (!rc)
		rc = write_metadata(w, copy_off, w->table, bytes, err);
	if (rc)
		return rc;
	img_check_report(w->c, "Repairing %s: grain table %" PRIu64 " and its copy differ",
			 w->storage->name, number);
	w->repairs++;
	return 0;
}

/*
 * Of a table and its copy one lies over something else: does every entry of that one lead out of the
 * file where they differ, so that readers see the other one's?
 */
static int copy_replaces(struct walk *w, uint64_t number, uint64_t wrong_off, uint64_t right_off,
			 bool wrong_is_copy, bool *out, struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;
	uint64_t bytes = vmdk_table_bytes(s), guest_off = number * vmdk_table_covers(s);
	uint64_t grains = min_u64(s->table_entries,
				  div_round_up_u64(s->capacity_bytes - guest_off, s->grain_bytes));
	int rc = img_storage_read(w->storage, wrong_off, w->table, bytes, err);

	if (!rc)
		rc = img_storage_read(w->storage, right_off, w->redundant, bytes, err);
	if (rc)
		return rc;
	if (wrong_is_copy) { /* readers look at it only where an entry of the table leads nowhere */
		*out = true;
		for (uint64_t i = 0; i < grains && *out; i++) {
			uint64_t need = vmdk_bytes_needed(s, s->capacity_bytes,
							  guest_off + i * s->grain_bytes);

			*out = vmdk_table_entry(s, w->redundant + i * s->entry_bytes, need).kind !=
			       VMDK_DAMAGED;
		}
		return 0;
	}
	merge(s, guest_off, w->table, w->redundant);
	*out = !memcmp(w->table, w->redundant, grains * s->entry_bytes);
	return 0;
}

/* Entries of a table that lead to a grain; *damaged: that lead nowhere. */
static uint64_t count_stored(const struct vmdk_sparse *s, uint64_t guest_off, const uint8_t *table,
			     uint64_t *damaged)
{
	uint64_t stored = 0, at = guest_off;

	*damaged = 0;
	for (uint32_t i = 0; i < s->table_entries && at < s->capacity_bytes; i++) {
		struct vmdk_entry e = vmdk_table_entry(s, table + (size_t)i * s->entry_bytes,
						       vmdk_bytes_needed(s, s->capacity_bytes, at));

		stored += e.kind == VMDK_STORED;
		*damaged += e.kind == VMDK_DAMAGED;
		at += s->grain_bytes;
	}
	return stored;
}

/*
 * A table and its copy that both lie over something, perhaps each other: may the copy be given up? If
 * readers do not look at it, and it has no more to say.
 */
static int is_better(struct walk *w, uint64_t number, uint64_t table_off, uint64_t copy_off, bool *out,
		     struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;
	uint64_t bytes = vmdk_table_bytes(s), guest_off = number * vmdk_table_covers(s);
	uint64_t damaged, damaged_copy, stored;
	int rc = img_storage_read(w->storage, table_off, w->table, bytes, err);

	if (!rc)
		rc = img_storage_read(w->storage, copy_off, w->redundant, bytes, err);
	if (rc)
		return rc;
	stored = count_stored(s, guest_off, w->table, &damaged);
	*out = !damaged && stored &&
	       stored >= count_stored(s, guest_off, w->redundant, &damaged_copy);
	return 0;
}

/* One table of the directory and its copy, after all offsets are known. */
static int repair_table(struct walk *w, uint64_t number, const uint8_t *slot, const uint8_t *copy,
			struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;
	struct vmdk_entry e = vmdk_directory_entry(s, slot), other;
	uint64_t bytes = vmdk_table_bytes(s);
	bool all = w->c->repair == IMG_REPAIR_ALL, sound = true, own, own_copy;
	int rc = 0;

	if (!copy)
		return 0;
	other = vmdk_directory_entry(s, copy);
	own = e.kind == VMDK_STORED && is_not_shared(w, e.file_off, bytes);
	own_copy = other.kind == VMDK_STORED && is_not_shared(w, other.file_off, bytes);
	if (e.kind == VMDK_STORED && e.file_off == other.file_off)
		return 0;
	if (own && own_copy)
		return all || s->unclean ? unite(w, number, e.file_off, other.file_off, err) : 0;
	if (e.kind == VMDK_ABSENT && other.kind == VMDK_STORED && s->unclean)
		all = true; /* a table that was about to be added */
	if (!all)
		return 0;
	if (own_copy && e.kind == VMDK_STORED)
		rc = copy_replaces(w, number, e.file_off, other.file_off, false, &sound, err);
	else if (own && other.kind == VMDK_STORED)
		rc = copy_replaces(w, number, other.file_off, e.file_off, true, &sound, err);
	else if (e.kind == VMDK_STORED && other.kind == VMDK_STORED)
		rc = is_better(w, number, e.file_off, other.file_off, &own, err);
	if (rc || !sound)
		return rc;
	if (own_copy && e.kind != VMDK_ABSENT)
		return redirect(w, s->directory_off, number, copy, "grain directory", err);
	if (own || (e.kind == VMDK_ABSENT && other.kind != VMDK_ABSENT))
		return redirect(w, s->redundant_off, number, slot, "grain directory's copy", err);
	return 0;
}

/* ---- All of it ---- */

/*
 * Passes over all tables, so that a grain that lies over metadata is reported as the grain's defect
 * whatever their order, and nothing is written before all offsets are known.
 */
typedef int table_fn(struct walk *w, uint64_t number, const uint8_t *slot, const uint8_t *copy,
		     struct img_error *err);

static int for_each_table(struct walk *w, table_fn *each, struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;
	uint8_t directory[4096], copy[4096];
	uint64_t batch = sizeof(directory) / s->entry_bytes;

	for (uint64_t from = 0; from < s->directory_entries; from += batch) {
		uint64_t n = min_u64(batch, s->directory_entries - from);
		uint64_t first = from * s->entry_bytes, len = n * s->entry_bytes;
		int rc = img_storage_read(w->storage, s->directory_off + first, directory, len,
					  err);

		if (!rc && s->redundant_off)
			rc = img_storage_read(w->storage, s->redundant_off + first, copy, len, err);
		for (uint64_t i = 0; i < n && !rc; i++)
			rc = each(w, from + i, directory + i * s->entry_bytes,
				  s->redundant_off ? copy + i * s->entry_bytes : NULL, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* Correct a number of the header: an offset or a length. */
static int write_header_field(struct walk *w, uint64_t off, uint64_t right, const char *what,
			      struct img_error *err)
{
	uint8_t bytes[8];
	int rc;

	le64_store(bytes, right / VMDK_SECTOR);
	rc = write_metadata(w, off, bytes, sizeof(bytes), err);
	if (rc)
		return rc;
	img_check_report(w->c, "Repairing %s: the header's %s", w->storage->name, what);
	w->repairs++;
	return 0;
}

static const char directory_field[] = "offset of the grain directory";
static const char copy_field[] = "offset of the grain directory's copy";
static const char capacity[] = "capacity";

/* Is the header's capacity another one than that of the descriptor inside (0: there is none)? */
static bool is_other_capacity(const struct vmdk_sparse *s, uint64_t line_bytes)
{
	return line_bytes && div_round_up_u64(line_bytes, s->grain_bytes) !=
				     div_round_up_u64(s->header_bytes, s->grain_bytes);
}

/* What readers get over, each in its way. */
static void check_header(struct walk *w, uint64_t line_bytes)
{
	static const char fmt[] = "ERROR %s: wrong %s in the header";
	const struct vmdk_sparse *s = w->s;

	if (s->kind != VMDK_HOSTED || s->at_end)
		return;
	if (s->directory_lost)
		img_check_defect(w->c, fmt, w->storage->name, directory_field);
	if (s->redundant_lost)
		img_check_defect(w->c, fmt, w->storage->name, copy_field);
	if (is_other_capacity(s, line_bytes))
		img_check_defect(w->c, fmt, w->storage->name, capacity);
}

/* Is every entry of the directory one for which its copy's stands in? */
static int is_all_damaged(struct walk *w, bool *out, struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;

	*out = true;
	for (uint64_t i = 0; i < s->directory_entries && *out; i++) {
		uint8_t slot[8];
		int rc = img_storage_read(w->storage, s->directory_off + i * s->entry_bytes, slot,
					  s->entry_bytes, err);

		if (rc)
			return rc;
		*out = vmdk_directory_entry(s, slot).kind == VMDK_DAMAGED;
	}
	return 0;
}

/* Does a copy stand in for a table, or an entry of one, that leads out of the file? A table_fn. */
static int find_use_of_copy(struct walk *w, uint64_t number, const uint8_t *slot, const uint8_t *copy,
			    struct img_error *err)
{
	struct vmdk_entry e = vmdk_directory_entry(w->s, slot);
	struct vmdk_entry other = vmdk_directory_entry(w->s, copy);
	bool sound = true;
	int rc = 0;

	if (e.kind == VMDK_DAMAGED)
		sound = other.kind == VMDK_DAMAGED;
	else if (e.kind == VMDK_STORED && other.kind == VMDK_STORED && e.file_off != other.file_off)
		rc = copy_replaces(w, number, other.file_off, e.file_off, true, &sound, err);
	w->copy_is_used |= !sound;
	return rc;
}

static int repair_header(struct walk *w, struct vmdk_sparse *s, uint64_t line_bytes,
			 struct img_error *err)
{
	uint64_t bytes = s->directory_entries * s->entry_bytes;
	bool own = is_not_shared(w, s->directory_off, bytes), damaged = false;
	bool own_copy = s->redundant_off && is_not_shared(w, s->redundant_off, bytes);
	int rc = 0;

	w->copy_is_used = false;
	if (s->redundant_off && own && !own_copy)
		rc = for_each_table(w, find_use_of_copy, err);
	if (rc)
		return rc;

	if (is_other_capacity(s, line_bytes)) {
		rc = write_header_field(w, VMDK_OFF_CAPACITY, line_bytes, capacity, err);
		s->header_bytes = line_bytes;
	}
	if (!rc && !own && own_copy)
		rc = is_all_damaged(w, &damaged, err);
	if (rc)
		return rc;
	if (s->directory_lost || damaged) {
		uint64_t off = damaged ? s->redundant_off : s->directory_off;

		rc = write_header_field(w, VMDK_OFF_DIRECTORY, off, directory_field, err);
		s->directory_off = off;
		s->directory_lost = false;
		s->redundant_off = 0;
	} else if (s->redundant_lost ||
		   (s->redundant_off && own && !own_copy && !w->copy_is_used)) {
		rc = write_header_field(w, VMDK_OFF_REDUNDANT, s->directory_off, copy_field, err);
		s->redundant_lost = false;
		s->redundant_off = 0;
	}
	return rc;
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

/* What an extent's file has besides its tables, as far as it is not the same for all. */
struct inside {
	uint64_t line_bytes;	       /* the length in the descriptor inside; 0: there is none */
	uint64_t text_off, text_bytes; /* that descriptor */
};

/* Look at all of a file. */
static int scan_file(struct walk *w, const struct inside *in, struct img_error *err)
{
	const struct vmdk_sparse *s = w->s;
	uint64_t directory_bytes = s->directory_entries * s->entry_bytes;
	uint64_t header_bytes = s->kind == VMDK_COWD ? VMDK_COWD_HEADER_BYTES
						     : VMDK_HOSTED_HEADER_BYTES;
	uint64_t unit = s->kind == VMDK_SE ? s->grain_bytes : VMDK_SECTOR;
	int rc;

	img_use_map_free(&w->used);
	img_use_map_free(&w->walked);
	img_use_map_init(&w->used, s->file_bytes, unit);
	img_use_map_init(&w->walked, s->file_bytes, VMDK_SECTOR);
	check_header(w, in->line_bytes);
	rc = mark_metadata(w, "the header", 0, header_bytes);
	if (!rc && range_in(in->text_off, in->text_bytes, s->file_bytes))
		rc = mark_metadata(w, "the descriptor", in->text_off, in->text_bytes);
	if (!rc)
		rc = mark_metadata(w, "the grain directory", s->directory_off, directory_bytes);
	if (!rc && s->redundant_off)
		rc = mark_metadata(w, "the grain directory's copy", s->redundant_off,
				   directory_bytes);
	if (!rc)
		rc = for_each_table(w, check_table, err);
	return rc ? rc : for_each_table(w, check_grains, err);
}

/* Some of what was counted is no more: look again, and count what is left. */
static int count_again(struct walk *w, const struct inside *in, struct img_error *err)
{
	struct img_check *c = w->c, silent = { 0 };
	int rc;

	w->c = &silent;
	rc = scan_file(w, in, err);
	w->c = c;
	if (rc)
		return rc;
	c->result.corruptions_fixed += c->result.corruptions -
				       min_u64(c->result.corruptions, silent.result.corruptions);
	c->result.leaks_fixed += c->result.leaks - min_u64(c->result.leaks, silent.result.leaks);
	c->result.corruptions = silent.result.corruptions;
	c->result.leaks = silent.result.leaks;
	return 0;
}

enum { ROUNDS_MAX = 4 }; /* of repairs: one makes another possible */

static int repair_file(struct walk *w, struct vmdk_sparse *s, const struct inside *in,
		       struct img_error *err)
{
	for (int round = 0; round < ROUNDS_MAX && (w->c->result.corruptions || w->c->result.leaks);
	     round++) {
		int rc = 0;

		w->repairs = 0;
		if (w->c->repair == IMG_REPAIR_ALL && !s->at_end)
			rc = repair_header(w, s, in->line_bytes, err);
		if (!rc && !w->repairs && s->redundant_off)
			rc = for_each_table(w, repair_table, err);
		if (rc || !w->repairs)
			return rc;
		rc = count_again(w, in, err);
		if (rc)
			return rc;
	}
	return 0;
}

static int check_file(struct img *img, struct img_check *c, struct vmdk_file *f,
		      const struct inside *in, struct img_error *err)
{
	struct vmdk_sparse *s = &f->sparse;
	struct img_check here = { .repair = c->repair, .report = c->report, .user = c->user };
	struct walk w = { .img = img, .c = &here, .storage = f->storage, .s = s };
	int rc = -ENOMEM;

	/* Of what is past the end of the disk nothing is looked at. */
	s->header_bytes = s->capacity_bytes;
	if (in->line_bytes && in->line_bytes < s->capacity_bytes) {
		s->capacity_bytes = in->line_bytes;
		s->directory_entries = div_round_up_u64(s->capacity_bytes, vmdk_table_covers(s));
	}
	w.table = malloc(vmdk_table_bytes(s));
	w.redundant = malloc(vmdk_table_bytes(s));
	if (w.table && w.redundant)
		rc = scan_file(&w, in, err);
	if (!rc && c->repair && s->kind == VMDK_HOSTED)
		rc = repair_file(&w, s, in, err);
	img_use_map_free(&w.used);
	img_use_map_free(&w.walked);
	free(w.table);
	free(w.redundant);
	if (rc == -ENOMEM)
		return img_fail(err, rc, "out of memory");
	c->result.corruptions += here.result.corruptions;
	c->result.leaks += here.result.leaks;
	c->result.corruptions_fixed += here.result.corruptions_fixed;
	c->result.leaks_fixed += here.result.leaks_fixed;
	if (!rc && c->repair && s->unclean && s->kind == VMDK_HOSTED && !here.result.corruptions &&
	    !here.result.leaks)
		rc = clear_unclean(img, f, err);
	return rc;
}

/* Of file i. */
static struct inside describe_inside(const struct img *img, size_t i)
{
	const struct vmdk *vmdk = img->state;
	const struct vmdk_sparse *s = &vmdk->files[i].sparse;
	bool embedded = vmdk->files[i].storage == img->file && vmdk->text_bytes;
	struct inside in = {
		.text_off = embedded ? vmdk->text_off : s->descriptor_off,
		.text_bytes = embedded		  ? vmdk->text_bytes
			      : s->descriptor_off ? s->descriptor_bytes
						  : 0,
	};

	if (embedded && vmdk->extent_count == 1 && !vmdk->extents[0].file)
		in.line_bytes = vmdk->extents[0].bytes;
	return in;
}

int vmdk_check(struct img *img, struct img_check *c, struct img_error *err)
{
	struct vmdk *vmdk = img->state;

	for (size_t i = 0; i < vmdk->file_count; i++) {
		struct vmdk_file *f = &vmdk->files[i];
		struct inside in = describe_inside(img, i);
		int rc;

		if (!f->storage || f->sparse.kind == VMDK_NOT_SPARSE)
			continue;
		rc = check_file(img, c, f, &in, err);
		if (rc)
			return rc;
	}
	if (c->repair && !c->result.corruptions && !c->result.leaks)
		img->dirty = false;
	return 0;
}
