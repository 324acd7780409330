/*
 * Opening a VMDK: the header or the descriptor, then the files of all extents. spec/vmdk.md,
 * "Descriptor".
 *
 * Extents that name the same file share one storage and one parsed header, so that a descriptor of
 * many lines opens no more files than it names.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"

/* ---- Opening: sparse extents ---- */

/*
 * A stream that was cut short has lost its directory, wherever the header puts it: its grains are
 * found by their markers. rc: why it cannot be read otherwise; *err says it.
 */
static int salvage_sparse(struct img_storage *s, const uint8_t *head, size_t len, int rc,
			  struct vmdk_file *f, struct img_error *err)
{
	struct vmdk_sparse sparse;

	if (rc != -EUCLEAN || vmdk_parse_sparse(head, len, VMDK_BYTES_MAX, &sparse, NULL) ||
	    !sparse.markers || !sparse.capacity_bytes ||
	    vmdk_rebuild(s, &sparse, &f->rebuilt, NULL))
		return rc;
	img_error_clear(err);
	sparse.file_bytes = s->size;
	f->sparse = sparse;
	return 0;
}

/*
 * A file that ends before its grains begin was cut short, whatever else is missing. The words are parsed
 * by programs that call qemu-img.
 */
static int check_overhead(const struct img_storage *s, const uint8_t *head, size_t len,
			  struct img_error *err)
{
	struct vmdk_sparse sparse;
	uint64_t bytes;

	if (vmdk_parse_sparse(head, len, VMDK_BYTES_MAX, &sparse, NULL) || !sparse.capacity_bytes ||
	    sparse.overhead_sectors <= s->size / VMDK_SECTOR)
		return 0;
	if (!mul_u64(sparse.overhead_sectors, VMDK_SECTOR, &bytes))
		bytes = VMDK_BYTES_MAX;
	return img_fail(err, -EUCLEAN,
			"File truncated, expecting at least %" PRIu64 " bytes, found %" PRIu64, bytes,
			(uint64_t)s->size);
}

/*
 * Read and parse all that tells where grains are into f->sparse (and f->rebuilt). Adds the file's
 * name to the sentence.
 */
static int open_sparse(struct img_storage *s, bool salvage, struct vmdk_file *f,
		       struct img_error *err)
{
	uint8_t head[VMDK_HEADER_BYTES_MAX];
	size_t len = (size_t)min_u64(s->size, sizeof(head));
	struct vmdk_sparse sparse;
	int rc;

	rc = img_storage_read(s, 0, head, len, err);
	if (rc)
		return rc;
	rc = salvage ? 0 : check_overhead(s, head, len, err);
	if (!rc)
		rc = vmdk_parse_sparse(head, len, s->size, &sparse, err);
	if (!rc && sparse.at_end)
		rc = vmdk_read_footer(s, &sparse, err);
	if (!rc && sparse.kind == VMDK_SE) {
		rc = img_storage_read(s, sparse.volatile_off, head, VMDK_SE_HEADER_BYTES, err);
		if (!rc)
			rc = vmdk_parse_se_volatile(head, VMDK_SE_HEADER_BYTES, err);
	}
	if (!rc)
		f->sparse = sparse;
	else if (salvage)
		rc = salvage_sparse(s, head, len, rc, f, err);
	return rc ? img_error_prefix(err, rc, "%s", s->name) : 0;
}

/* ---- Opening: the descriptor ---- */

static char *text_dup(struct vmdk_text t)
{
	return t.at ? strndup(t.at, t.len) : NULL;
}

/* False: out of memory. */
static bool keep_text(struct vmdk_text t, char **out)
{
	*out = text_dup(t);
	return !t.at || *out;
}

/* Read len bytes at off as text. The caller frees *out. */
static int read_text(struct img_storage *s, uint64_t off, uint64_t len, char **out,
		     struct img_error *err)
{
	char *text;
	int rc;

	if (len > VMDK_DESCRIPTOR_BYTES_MAX || !range_in(off, len, s->size))
		return img_fail(err, -EUCLEAN,
				"%s: descriptor at %" PRIu64 ": %" PRIu64 " bytes long, expected "
				"at most %d inside the file's %" PRIu64,
				s->name, off, len, VMDK_DESCRIPTOR_BYTES_MAX, s->size);
	text = malloc(len ? len : 1);
	if (!text)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_storage_read(s, off, text, len, err);
	if (rc) {
		free(text);
		return rc;
	}
	*out = text;
	return 0;
}

int vmdk_keep_parent(struct img *img, struct vmdk *vmdk, const struct vmdk_descriptor *d,
		     struct img_error *err)
{
	if (!keep_text(d->uuid_parent, &vmdk->uuid_parent) ||
	    !keep_text(d->uuid_parent_modification, &vmdk->uuid_parent_modification) ||
	    !keep_text(d->uuid_parent_next, &vmdk->uuid_parent_next))
		return img_fail(err, -ENOMEM, "out of memory");
	/*
	 * VirtualBox names the parent of a fresh child only by UUID, with the parentCID of a disk
	 * that has none: QEMU reads that as an empty disk of its own.
	 */
	img->backing_required = d->parent_cid != VMDK_NO_PARENT || d->uuid_parent.at;
	img->backing_uuid_count =
		d->uuid_parent.at &&
		img_guid_parse(d->uuid_parent.at, d->uuid_parent.len, img->backing_uuids[0]);
	if (d->parent_hint.at) {
		img->backing_name = vmdk_plain_name(d->parent_hint.at, d->parent_hint.len);
		img->backing_format = strdup(img->driver->name);
		if (!img->backing_name || !img->backing_format)
			return img_fail(err, -ENOMEM, "out of memory");
	}
	return 0;
}

/* What the header keys say. */
static int parse_keys(struct img *img, struct vmdk *vmdk, const struct vmdk_descriptor *d,
		      struct img_error *err)
{
	if (d->encrypted)
		return img_fail(err, -ENOTSUP,
				"%s: the descriptor says that the disk is encrypted by VMware, "
				"which cannot be read",
				img->name);
	vmdk->has_cid = d->has_cid;
	vmdk->cid = d->cid;
	vmdk->cid_digits = (unsigned)d->cid_digits.len;
	vmdk->parent_cid = d->parent_cid;
	/* Both are left out of descriptors written by hand: the one only children need, the other nobody. */
	vmdk->create_type = d->create_type.at ? text_dup(d->create_type) : strdup("custom");
	if (!vmdk->create_type)
		return img_fail(err, -ENOMEM, "out of memory");
	if (!keep_text(d->uuid_image, &vmdk->uuid_image) ||
	    !keep_text(d->uuid_modification, &vmdk->uuid_modification))
		return img_fail(err, -ENOMEM, "out of memory");
	/*
	 * Programs that give disks such identifiers make flat files of whole sectors. Without one, a file
	 * of any size may have been given its descriptor by hand.
	 */
	vmdk->whole_sectors = d->long_cid.at || d->uuid_image.at;
	return vmdk_keep_parent(img, vmdk, d, err);
}

/* Extent lines that name a file, for sorting by name. */
struct named_line {
	struct vmdk_text name;
	size_t extent;
};

static int compare_names(const void *a, const void *b)
{
	const struct named_line *x = a, *y = b;
	int order = memcmp(x->name.at, y->name.at, min_size(x->name.len, y->name.len));

	if (order)
		return order;
	if (x->name.len != y->name.len)
		return x->name.len < y->name.len ? -1 : 1;
	return x->extent < y->extent ? -1 : x->extent > y->extent;
}

/* In sorted lines: is this the first of its name? */
static bool is_first(const struct named_line *lines, size_t i)
{
	return !i || lines[i].name.len != lines[i - 1].name.len ||
	       memcmp(lines[i].name.at, lines[i - 1].name.at, lines[i].name.len) != 0;
}

/* Give each different name a file, and each extent its file. lines: changed. */
static int share_files(struct vmdk *vmdk, struct named_line *lines, size_t count,
		       const char *image, struct img_error *err)
{
	size_t names = 0;

	qsort(lines, count, sizeof(*lines), compare_names);
	for (size_t i = 0; i < count; i++)
		names += is_first(lines, i);
	if (names > VMDK_FILES_MAX)
		return img_fail(err, -ENOTSUP,
				"%s: descriptor: %zu extent files, expected at most %d",
				image, names, VMDK_FILES_MAX);

	size_t capacity = vmdk->file_count + names + 1;
	struct vmdk_file *files = realloc(vmdk->files, capacity * sizeof(*files));

	if (!files)
		return img_fail(err, -ENOMEM, "out of memory");
	vmdk->files = files;
	for (size_t i = 0; i < count; i++) {
		if (is_first(lines, i)) {
			struct vmdk_file *f = &vmdk->files[vmdk->file_count];

			*f = (struct vmdk_file){
				.name = vmdk_plain_name(lines[i].name.at, lines[i].name.len),
			};
			if (!f->name)
				return img_fail(err, -ENOMEM, "out of memory");
			vmdk->file_count++;
		}
		vmdk->extents[lines[i].extent].file = (uint32_t)(vmdk->file_count - 1);
	}
	return 0;
}

static enum vmdk_extent_kind kind_of(const struct vmdk_line *line)
{
	if (line->access == VMDK_NOACCESS)
		return VMDK_EXTENT_NOACCESS;
	switch (line->type) {
	case VMDK_TYPE_ZERO:
		return VMDK_EXTENT_ZERO;
	case VMDK_TYPE_SPARSE:
	case VMDK_TYPE_VMFSSPARSE:
	case VMDK_TYPE_SESPARSE:
		return VMDK_EXTENT_SPARSE;
	default:
		return VMDK_EXTENT_FLAT;
	}
}

/*
 * Make the extents of a descriptor's lines. embedded: the first sparse one is the image's own file,
 * which is files[0] already, whatever name the line has (open-vmdk writes "disk", and files are
 * renamed).
 */
static int parse_lines(struct img *img, struct vmdk *vmdk, const char *text, size_t len,
		       size_t count, bool embedded, struct img_error *err)
{
	struct named_line *lines = calloc(count + 1, sizeof(*lines));
	struct vmdk_cursor cursor = { 0 };
	struct vmdk_line line;
	size_t named = 0;
	uint64_t at = 0;
	int rc;

	vmdk->extents = calloc(count + 1, sizeof(*vmdk->extents));
	if (!lines || !vmdk->extents) {
		rc = img_fail(err, -ENOMEM, "out of memory");
		goto out;
	}
	while ((rc = vmdk_next_extent(text, len, &cursor, &line, err)) == 1) {
		struct vmdk_extent *x = &vmdk->extents[vmdk->extent_count];

		if (!line.sectors) /* QEMU writes such a line for an empty disk */
			continue;
		*x = (struct vmdk_extent){
			.guest_off = at,
			.bytes = line.sectors * VMDK_SECTOR,
			.kind = kind_of(&line),
			.type = line.type,
			.access = line.access,
			.has_type = true,
			.file = VMDK_NO_FILE,
		};
		if (!mul_u64(line.file_sector, VMDK_SECTOR, &x->file_off)) {
			rc = img_fail(err, -EUCLEAN,
				      "%s: descriptor line %zu: offset %" PRIu64 " sectors is "
				      "past any file",
				      img->name, line.number, line.file_sector);
			goto out;
		}
		at += x->bytes;
		if (embedded && x->kind == VMDK_EXTENT_SPARSE) {
			x->file = 0;
			embedded = false;
		} else if (line.file.at && !line.file.len && x->kind != VMDK_EXTENT_NOACCESS) {
			rc = img_fail(err, -EUCLEAN,
				      "%s: descriptor line %zu: the file name is empty, which "
				      "only that of the extent with the embedded descriptor can "
				      "be",
				      img->name, line.number);
			goto out;
		} else if (line.file.at) {
			lines[named++] = (struct named_line){ line.file, vmdk->extent_count };
		}
		vmdk->extent_count++;
	}
	if (!rc)
		rc = share_files(vmdk, lines, named, img->name, err);
	img->size = at;
out:
	free(lines);
	return rc;
}

/* ---- Opening: the extents' files ---- */

/* A flat extent in the image's own file (Haiku's vmdkimage) is behind what tells of it. */
static int check_own_file(const struct img *img, const struct vmdk *vmdk,
			  const struct vmdk_extent *x, const char *what, struct img_error *err)
{
	bool header = vmdk->files[0].sparse.kind != VMDK_NOT_SPARSE;

	if ((header && x->file_off < VMDK_HOSTED_HEADER_BYTES) ||
	    (vmdk->text_bytes && x->file_off < vmdk->text_off + vmdk->text_bytes &&
	     vmdk->text_off < x->file_off + x->bytes))
		return img_fail(err, -EUCLEAN,
				"%s: %s at %" PRIu64 " of the image's own file overlaps the "
				"header or the descriptor (%" PRIu64 " bytes at %" PRIu64 ")",
				img->name, what, x->file_off, vmdk->text_bytes, vmdk->text_off);
	return 0;
}

/* The rest of a sector that the file ends in reads as zeroes. */
static int warn_of_part(struct img *img, const struct vmdk_extent *x, const struct img_storage *s,
			struct img_error *err)
{
	if (img->warning || !(s->size % VMDK_SECTOR) || x->file_off + x->bytes <= s->size)
		return 0;
	if (asprintf(&img->warning,
		     "%s: ends at %" PRIu64 ", inside the last sector of the extent: the rest of "
		     "that sector reads as zeroes; if the file was truncated, it is missing",
		     s->name, (uint64_t)s->size) < 0)
		return img_fail(err, -ENOMEM, "out of memory");
	return 0;
}

/* Open the file of an extent, unless another one has done it, and see that it holds the extent. */
static int open_extent(struct img *img, struct img_opening *o, struct vmdk *vmdk, size_t number,
		       struct img_error *err)
{
	struct vmdk_extent *x = &vmdk->extents[number];
	struct vmdk_file *f = x->file == VMDK_NO_FILE ? NULL : &vmdk->files[x->file];
	char what[32];
	int rc;

	if (x->kind == VMDK_EXTENT_ZERO || x->kind == VMDK_EXTENT_NOACCESS)
		return 0;
	snprintf(what, sizeof(what), "extent %zu", number + 1);
	if (!f->storage) {
		o->own_file = x->kind == VMDK_EXTENT_FLAT;
		rc = o->reference(o, f->name, what, &f->storage, err);
		if (rc)
			return rc;
	}
	if (x->kind == VMDK_EXTENT_FLAT && f->storage == img->file) {
		rc = check_own_file(img, vmdk, x, what, err);
		if (rc)
			return rc;
	}
	if (x->kind == VMDK_EXTENT_FLAT) {
		if (!vmdk->salvage && !range_in(x->file_off, x->bytes, vmdk_flat_end(vmdk, x)))
			return img_fail(err, -EUCLEAN,
					"%s: %s: %" PRIu64 " bytes at %" PRIu64 " of %s, expected "
					"inside its %" PRIu64,
					img->name, what, x->bytes, x->file_off,
					f->storage->name, (uint64_t)f->storage->size);
		return warn_of_part(img, x, f->storage, err);
	}
	if (f->sparse.kind == VMDK_NOT_SPARSE) {
		rc = open_sparse(f->storage, vmdk->salvage, f, err);
		if (rc == -EMEDIUMTYPE)
			return img_fail(err, -EUCLEAN,
					"%s: %s: no sparse extent in %s, as the descriptor says",
					img->name, what, f->storage->name);
		if (rc)
			return img_error_prefix(err, rc, "%s: %s", img->name, what);
		img->dirty |= f->sparse.unclean;
	}
	if (x->bytes > f->sparse.capacity_bytes && !vmdk->salvage)
		return img_fail(err, -EUCLEAN,
				"%s: %s: %" PRIu64 " sectors in the descriptor, expected at most "
				"%" PRIu64 ", the capacity of %s",
				img->name, what, x->bytes / VMDK_SECTOR,
				f->sparse.capacity_bytes / VMDK_SECTOR, f->storage->name);
	return 0;
}

/* For salvage: an extent that is not there, or damaged, is told about by who reads it. */
static int open_or_lose_extent(struct img *img, struct img_opening *o, struct vmdk *vmdk,
			       size_t number, struct img_error *err)
{
	struct vmdk_extent *x = &vmdk->extents[number];
	struct img_error why = { 0 };
	int rc = open_extent(img, o, vmdk, number, &why);

	if (!rc)
		return 0;
	if (!vmdk->salvage || (rc != -ENOENT && rc != -EUCLEAN && rc != -EIO)) {
		img_error_move(err, &why);
		return rc;
	}
	if (!vmdk->files[x->file].lost)
		vmdk->files[x->file].lost = strdup(img_error_text(&why));
	img_error_clear(&why);
	if (!vmdk->files[x->file].lost)
		return img_fail(err, -ENOMEM, "out of memory");
	x->kind = VMDK_EXTENT_LOST;
	return 0;
}

/* Of nothing at all, nothing can be saved. */
static int check_lost(const struct vmdk *vmdk, struct img_error *err)
{
	size_t lost = 0;

	for (size_t i = 0; i < vmdk->extent_count; i++)
		lost += vmdk->extents[i].kind == VMDK_EXTENT_LOST;
	if (!lost || lost < vmdk->extent_count)
		return 0;
	return img_fail(err, -EUCLEAN, "%s", vmdk->files[vmdk->extents[0].file].lost);
}

/*
 * What is passed over where a disk of different extents cannot be read: whatever lies in one such
 * unit is of one extent.
 */
static uint64_t salvage_unit(const struct vmdk *vmdk)
{
	uint64_t unit = UINT64_C(1) << 20;

	for (size_t i = 0; i < vmdk->extent_count; i++) {
		const struct vmdk_extent *x = &vmdk->extents[i];

		while (x->guest_off % unit)
			unit /= 2;
		if (x->kind == VMDK_EXTENT_SPARSE)
			unit = min_u64(unit, vmdk->files[x->file].sparse.grain_bytes);
	}
	return unit;
}

/* The bytes of a file that an extent has. */
struct extent_range {
	uint32_t file;
	bool whole; /* sparse: has the file for itself */
	uint64_t off, bytes;
	size_t extent;
};

static int compare_ranges(const void *a, const void *b)
{
	const struct extent_range *x = a, *y = b;

	if (x->file != y->file)
		return x->file < y->file ? -1 : 1;
	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	return x->extent < y->extent ? -1 : x->extent > y->extent;
}

/*
 * No two extents share bytes of a file. No program makes such a disk; it would be a way to have a
 * small file read as an endless one.
 */
static int check_shared(const struct img *img, const struct vmdk *vmdk, struct img_error *err)
{
	struct extent_range *ranges = calloc(vmdk->extent_count + 1, sizeof(*ranges));
	size_t count = 0;
	int rc = 0;

	if (!ranges)
		return img_fail(err, -ENOMEM, "out of memory");
	for (size_t i = 0; i < vmdk->extent_count; i++) {
		const struct vmdk_extent *x = &vmdk->extents[i];

		if (x->kind == VMDK_EXTENT_FLAT || x->kind == VMDK_EXTENT_SPARSE)
			ranges[count++] = (struct extent_range){
				x->file,
				x->kind == VMDK_EXTENT_SPARSE,
				x->file_off,
				x->bytes,
				i,
			};
	}
	qsort(ranges, count, sizeof(*ranges), compare_ranges);
	for (size_t i = 1; i < count && !rc; i++) {
		const struct extent_range *x = &ranges[i - 1], *y = &ranges[i];

		if (x->file == y->file && (x->whole || y->whole || y->off - x->off < x->bytes))
			rc = img_fail(err, -EUCLEAN,
				      "%s: extents %zu and %zu have the same bytes of %s",
				      img->name, x->extent + 1, y->extent + 1,
				      vmdk->files[x->file].storage->name);
	}
	free(ranges);
	return rc;
}

/* One unit for all: where extents differ in it, or none is sparse, a sector. 0: not known. */
uint64_t vmdk_common_grain(const struct vmdk *vmdk)
{
	uint64_t grain = 0;

	for (size_t i = 0; i < vmdk->extent_count; i++) {
		const struct vmdk_extent *x = &vmdk->extents[i];
		const struct vmdk_sparse *s;

		if (x->kind != VMDK_EXTENT_SPARSE)
			return 0;
		s = &vmdk->files[x->file].sparse;
		if (s->kind == VMDK_NOT_SPARSE || (grain && grain != s->grain_bytes))
			return 0;
		grain = s->grain_bytes;
	}
	return grain;
}

void vmdk_free(struct vmdk *vmdk, const struct img *img)
{
	if (!vmdk)
		return;
	for (size_t i = 0; i < vmdk->file_count; i++) {
		if (vmdk->files[i].storage != img->file)
			img_storage_close(vmdk->files[i].storage);
		free(vmdk->files[i].name);
		free(vmdk->files[i].lost);
		vmdk_free_rebuilt(vmdk->files[i].rebuilt);
		vmdk_free_alloc(vmdk->files[i].alloc);
	}
	free(vmdk->files);
	free(vmdk->extents);
	free(vmdk->create_type);
	free(vmdk->uuid_image);
	free(vmdk->uuid_parent);
	free(vmdk->uuid_modification);
	free(vmdk->uuid_parent_modification);
	free(vmdk->uuid_parent_next);
	free(vmdk);
}

/* A descriptor that is a file of its own may be cut short anywhere. */
static int check_whole(struct img *img, const struct vmdk_descriptor *d, struct img_error *err)
{
	/* An empty disk may have no extents. */
	if (!d->extents && (!d->create_type.at || !d->database))
		return img_fail(err, -EUCLEAN,
				"%s: descriptor: no extent line, which only an empty disk with a "
				"createType and a disk data base (#DDB) can be without: "
				"truncated?",
				img->name);
	/* Written by hand it may end here; what a program wrote does not. */
	if (!d->database && (d->line_cut || d->extents_title) &&
	    asprintf(&img->warning,
		     "%s: the descriptor ends %s, before the disk data base (#DDB): if it was "
		     "truncated, extents may be missing",
		     img->name, d->line_cut ? "inside a line" : "after its extents") < 0)
		return img_fail(err, -ENOMEM, "out of memory");
	return 0;
}

/* A file that begins with a descriptor's text. */
static int open_text(struct img *img, struct vmdk *vmdk, const char *text, size_t len,
		     bool embedded, struct img_error *err)
{
	struct vmdk_descriptor d;
	int rc = vmdk_parse_descriptor(text, len, &d, err);

	if (rc)
		return img_error_prefix(err, rc, "%s", img->name);
	rc = vmdk->file_count ? 0 : check_whole(img, &d, err);
	if (!rc)
		rc = parse_keys(img, vmdk, &d, err);
	if (!rc)
		rc = parse_lines(img, vmdk, text, len, d.extents, embedded, err);
	return rc;
}

/* The image's own file as the only extent: nothing tells more than its header. */
static int open_alone(struct img *img, struct vmdk *vmdk, struct img_error *err)
{
	static const char *const create_types[] = {
		[VMDK_NOT_SPARSE] = "custom", /* never */
		[VMDK_HOSTED] = "monolithicSparse",
		[VMDK_COWD] = "vmfsSparse",
		[VMDK_SE] = "seSparse",
	};
	const struct vmdk_sparse *s = &vmdk->files[0].sparse;

	vmdk->alone = s->kind != VMDK_HOSTED;
	img->backing_required |= vmdk->alone;
	if (!vmdk->alone && !vmdk->text_bytes &&
	    asprintf(&img->warning,
		     "%s: a part of a disk, without the descriptor that names the other parts: if "
		     "the disk is a snapshot, what is not in this part reads as zeroes here",
		     img->name) < 0)
		return img_fail(err, -ENOMEM, "out of memory");
	if (!vmdk->create_type && s->compressed)
		vmdk->create_type = strdup("streamOptimized");
	else if (!vmdk->create_type)
		vmdk->create_type = strdup(create_types[s->kind]);
	free(vmdk->extents);
	vmdk->extents = calloc(1, sizeof(*vmdk->extents));
	if (!vmdk->create_type || !vmdk->extents)
		return img_fail(err, -ENOMEM, "out of memory");
	if (s->capacity_bytes) {
		vmdk->extents[0] = (struct vmdk_extent){
			.bytes = s->capacity_bytes,
			.kind = VMDK_EXTENT_SPARSE,
		};
		vmdk->extent_count = 1;
	}
	img->size = s->capacity_bytes;
	return 0;
}

/* A file that begins with a sparse header, most often with a descriptor in it. */
static int open_monolithic(struct img *img, struct vmdk *vmdk, struct img_error *err)
{
	struct vmdk_sparse s;
	char *text = NULL;
	size_t lines;
	int rc;

	vmdk->files = calloc(1, sizeof(*vmdk->files));
	if (!vmdk->files)
		return img_fail(err, -ENOMEM, "out of memory");
	vmdk->files[0].storage = img->file;
	vmdk->file_count = 1;
	rc = open_sparse(img->file, vmdk->salvage, &vmdk->files[0], err);
	if (rc)
		return rc;
	s = vmdk->files[0].sparse;
	img->dirty = s.unclean;
	if (!s.descriptor_off || !s.descriptor_bytes) {
		vmdk->parent_cid = VMDK_NO_PARENT;
		return open_alone(img, vmdk, err);
	}

	rc = read_text(img->file, s.descriptor_off, s.descriptor_bytes, &text, err);
	if (rc)
		return rc;
	if (!text || !text[0]) { /* QEMU leaves the space empty in each extent of a split disk */
		free(text);
		vmdk->parent_cid = VMDK_NO_PARENT;
		return open_alone(img, vmdk, err);
	}
	vmdk->text_off = s.descriptor_off;
	vmdk->text_bytes = strnlen(text, s.descriptor_bytes);
	/* A header of no capacity only carries the descriptor. */
	rc = open_text(img, vmdk, text, s.descriptor_bytes, s.capacity_bytes, err);
	free(text);
	if (rc)
		return rc;
	lines = vmdk->extent_count;
	if (!lines)
		return open_alone(img, vmdk, err);
	for (size_t i = 0; i < lines && s.capacity_bytes; i++)
		if (vmdk->extents[i].file == 0) {
			if (lines == 1)
				vmdk->extents[i].has_type = false;
			return 0;
		}
	if (s.capacity_bytes)
		return img_fail(err, -EUCLEAN,
				"%s: descriptor: no line of the sparse extent that it is embedded "
				"in",
				img->name);
	return 0;
}

/* A file that is a descriptor; a flat extent may lie behind the text. */
static int open_descriptor(struct img *img, struct vmdk *vmdk, struct img_error *err)
{
	uint64_t len = min_u64(img->file->size, VMDK_DESCRIPTOR_BYTES_MAX);
	char *text;
	int rc = read_text(img->file, 0, len, &text, err);

	if (rc)
		return rc;
	vmdk->text_bytes = strnlen(text, len);
	if (vmdk->text_bytes == len && len < img->file->size)
		rc = img_fail(err, -EUCLEAN,
			      "%s: descriptor at 0: more than %d bytes, the most that is read",
			      img->name, VMDK_DESCRIPTOR_BYTES_MAX);
	else
		rc = open_text(img, vmdk, text, vmdk->text_bytes, false, err);
	free(text);
	return rc;
}

int vmdk_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct img_storage *s = img->file;
	struct vmdk *vmdk = calloc(1, sizeof(*vmdk));
	uint8_t head[VMDK_SECTOR];
	size_t len = (size_t)min_u64(s->size, sizeof(head));
	bool utf16 = false;
	int rc;

	if (!vmdk)
		return img_fail(err, -ENOMEM, "out of memory");
	vmdk->for_check = o->for_check;
	vmdk->salvage = o->salvage;
	rc = img_storage_read(s, 0, head, len, err);
	if (rc)
		goto out;
	if (vmdk_sparse_kind(head, len) != VMDK_NOT_SPARSE) {
		rc = open_monolithic(img, vmdk, err);
	} else if (!vmdk_is_descriptor((const char *)head, len) &&
		   !vmdk_is_nearly_descriptor((const char *)head, len, &utf16)) {
		rc = img_fail(err, -EMEDIUMTYPE, "%s: not a VMDK image", img->name);
	} else if (utf16) {
		rc = img_fail(err, -EUCLEAN,
			      "%s: descriptor in UTF-16, expected UTF-8 or another encoding of "
			      "single bytes",
			      img->name);
	} else {
		rc = open_descriptor(img, vmdk, err);
	}
	if (rc)
		goto out;
	if (!o->self_only) {
		for (size_t i = 0; i < vmdk->extent_count; i++) {
			rc = open_or_lose_extent(img, o, vmdk, i, err);
			if (rc)
				goto out;
		}
		rc = check_lost(vmdk, err);
		if (!rc)
			rc = check_shared(img, vmdk, err);
		if (!rc && img->writable && !o->for_check)
			rc = vmdk_prepare_writing(img, vmdk, err);
		if (rc)
			goto out;
	}
	vmdk->stored_bytes = img->size;
	img->unit_bytes = vmdk_common_grain(vmdk);
	if (!img->unit_bytes)
		img->unit_bytes = vmdk->salvage ? salvage_unit(vmdk) : VMDK_SECTOR;
	img->state = vmdk;
	vmdk = NULL;
out:
	if (rc) {
		free(img->backing_name);
		free(img->backing_format);
		free(img->warning);
		img->backing_name = img->backing_format = img->warning = NULL;
	}
	vmdk_free(vmdk, img);
	return rc;
}
