/*
 * Another text of the descriptor, where the old one is: a power cut leaves the one or the other.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* QEMU rewrites so many bytes from where a descriptor begins, whatever the header says of its size. */
enum { QEMU_DESCRIPTOR_BYTES = 20 * VMDK_SECTOR };

static int sync_own(const struct img *img, struct img_error *err)
{
	return img->unsafe ? 0 : img_storage_sync(img->file, err);
}

static int write_own(struct img *img, uint64_t off, const void *bytes, size_t len, struct img_error *err)
{
	uint64_t from = align_down_u64(off, IMG_META_SECTOR);
	int rc = img_storage_write(img->file, off, bytes, len, err);

	img_meta_forget(img, img->file, from, round_up_u64(off + len, IMG_META_SECTOR) - from);
	return rc ? rc : sync_own(img, err);
}

/*
 * Let the header say where the descriptor is, and the capacity (0: as it is): a write of one sector, so it says
 * the old or the new.
 */
static int point_at(struct img *img, uint64_t off, uint64_t capacity, struct img_error *err)
{
	uint8_t header[VMDK_HOSTED_HEADER_BYTES];
	int rc = img_storage_read(img->file, 0, header, sizeof(header), err);

	if (rc)
		return rc;
	le64_store(header + VMDK_OFF_DESCRIPTOR, off / VMDK_SECTOR);
	if (capacity)
		le64_store(header + VMDK_OFF_CAPACITY, capacity / VMDK_SECTOR);
	return write_own(img, 0, header, sizeof(header), err);
}

/* The sectors that differ: from the first one on, *count to the last one. */
static uint64_t changed_sectors(const char *old, const char *next, uint64_t bytes, uint64_t *count)
{
	uint64_t sectors = bytes / VMDK_SECTOR, first = sectors, last = 0;

	for (uint64_t i = 0; i < sectors; i++)
		if (memcmp(old + i * VMDK_SECTOR, next + i * VMDK_SECTOR, VMDK_SECTOR) != 0) {
			first = min_u64(first, i);
			last = i;
		}
	*count = first == sectors ? 0 : last - first + 1;
	return first;
}

/*
 * Another text in the space that the header gives it. What is more than a sector could be torn: a copy is
 * made at the end of the file, where the header leads while the space itself is written. old and next fill the space.
 */
static int write_embedded(struct img *img, const char *old, const char *next, uint64_t capacity,
			  struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	struct vmdk_file *f = &vmdk->files[0];
	uint64_t home = f->sparse.descriptor_off, bytes = f->sparse.descriptor_bytes;
	uint64_t grain = f->sparse.grain_bytes, count,
		 first = changed_sectors(old, next, bytes, &count);
	uint64_t before = img->file->size, copy = f->alloc->grains.next;
	uint64_t space = round_up_u64(max_u64(bytes, QEMU_DESCRIPTOR_BYTES), grain), taken;
	int rc;

	if (!count && !capacity)
		return 0;
	if (count == 1 && !capacity)
		return write_own(img, home + first * VMDK_SECTOR, next + first * VMDK_SECTOR, VMDK_SECTOR,
				 err);
	rc = img_storage_zero(img->file, copy, space, err);
	if (!rc)
		rc = write_own(img, copy, next, (size_t)bytes, err);
	if (rc) {
		img_storage_resize(img->file, before, IMG_PREALLOCATE_OFF, NULL);
		return rc;
	}
	rc = point_at(img, copy, capacity, err);
	if (!rc)
		rc = write_own(img, home, next, (size_t)bytes, err);
	if (!rc)
		rc = point_at(img, home, 0, err);
	if (!rc)
		return img_storage_resize(img->file, before, IMG_PREALLOCATE_OFF, err);
	/* Whichever of them the header leads to, no grain may go there. */
	img_unit_alloc_get_at_end(&f->alloc->grains, space / grain, &taken);
	return rc;
}

int vmdk_check_own_text(const struct img *img, struct img_error *err)
{
	const struct vmdk *vmdk = img->state;

	for (size_t i = 0; i < vmdk->file_count; i++)
		if (vmdk->files[i].storage == img->file && !vmdk->files[i].alloc)
			return img_fail(err, -ENOTSUP,
					"%s: its descriptor lies in one file with a flat extent, and cannot be "
					"replaced alone",
					img->name);
	return 0;
}

int vmdk_store_text(struct img *img, const char *text, size_t len, uint64_t capacity,
		    struct img_error *err)
{
	struct vmdk *vmdk = img->state;
	bool embedded = vmdk->file_count && vmdk->files[0].storage == img->file;
	uint64_t space = embedded ? vmdk->files[0].sparse.descriptor_bytes
				  : VMDK_DESCRIPTOR_BYTES_MAX;
	char *old, *next;
	int rc;

	if (len >= space)
		return img_fail(err, -ENOSPC,
				"%s: descriptor: %zu bytes of text, the space for "
				"it is %" PRIu64,
				img->name, len, space - 1);
	if (!embedded)
		return img_storage_replace(img->file, text, len, !img->unsafe, err);
	old = calloc(1, (size_t)space);
	next = calloc(1, (size_t)space);
	rc = old && next ? img_storage_read(img->file, vmdk->text_off, old, (size_t)space, err)
			 : img_fail(err, -ENOMEM, "out of memory");
	if (!rc) {
		memcpy(next, text, len);
		rc = write_embedded(img, old, next, capacity, err);
	}
	free(old);
	free(next);
	return rc;
}
