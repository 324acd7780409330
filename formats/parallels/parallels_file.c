/*
 * One expanding file as it lies on disk: reading and writing its header and its BAT.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum { PIECE_ENTRIES = 64 << 10 };

/* ---- The BAT and the header ---- */

int parallels_each_entry(struct parallels_file *p, uint64_t first, uint64_t end,
			 parallels_entry_fn *each, void *user, struct img_error *err)
{
	uint8_t *piece = malloc((size_t)PIECE_ENTRIES * PARALLELS_ENTRY_BYTES);
	int rc = piece ? 0 : parallels_no_memory(p, err);
	uint64_t n;

	for (uint64_t number = first; number < end && !rc; number += n) {
		uint64_t at = parallels_entry_at(number), run;
		enum img_storage_extent kind;

		rc = img_storage_extent(p->storage, at, (end - number) * PARALLELS_ENTRY_BYTES,
					&kind, &run);
		n = rc ? 0 : run / PARALLELS_ENTRY_BYTES;
		if (!rc && kind == IMG_STORAGE_HOLE && n)
			continue;
		n = min_u64(end - number, PIECE_ENTRIES);
		rc = img_storage_read(p->storage, at, piece, n * PARALLELS_ENTRY_BYTES, err);
		for (uint64_t i = 0; i < n && !rc; i++) {
			uint32_t value = le32_load(piece + i * PARALLELS_ENTRY_BYTES);

			if (value)
				rc = each(p, user, number + i, value, err);
		}
	}
	free(piece);
	return rc;
}

static void forget(struct parallels_file *p, uint64_t off, uint64_t len)
{
	uint64_t start = align_down_u64(off, IMG_META_SECTOR);

	img_meta_forget(p->img, p->storage, start,
			round_up_u64(off + len, IMG_META_SECTOR) - start);
}

int parallels_write_entry(struct parallels_file *p, uint64_t number, uint32_t value,
			  struct img_error *err)
{
	uint64_t at = parallels_entry_at(number);
	uint8_t bytes[PARALLELS_ENTRY_BYTES];
	int rc;

	le32_store(bytes, value);
	rc = img_storage_write(p->storage, at, bytes, sizeof(bytes), err);
	forget(p, at, sizeof(bytes));
	return rc;
}

int parallels_clear_entries(struct parallels_file *p, uint64_t first, uint64_t end,
			    struct img_error *err)
{
	uint64_t at = parallels_entry_at(first), len = (end - first) * PARALLELS_ENTRY_BYTES;
	int rc;

	if (first >= end)
		return 0;
	rc = img_storage_zero(p->storage, at, len, err);
	forget(p, at, len);
	return rc;
}

int parallels_write_header(struct parallels_file *p, const struct parallels_header *h,
			   struct img_error *err)
{
	uint8_t bytes[PARALLELS_HEADER_BYTES];
	int rc;

	parallels_encode_header(h, bytes);
	/* The sector has entries, too: what the cache has of it is set right by who changes those.
	 */
	rc = img_storage_write(p->storage, 0, bytes, sizeof(bytes), err);
	if (!rc)
		p->header = *h;
	return rc;
}

int parallels_sync(struct parallels_file *p, struct img_error *err)
{
	return p->img->unsafe ? 0 : img_storage_sync(p->storage, err);
}

static int fail_not_empty(struct parallels_file *p, void *user, uint64_t number, uint32_t value,
			  struct img_error *err)
{
	(void)user;
	return img_fail(err, -EUCLEAN,
			"%s: BAT entry %" PRIu64 ": found %" PRIu32
			", and a header that calls the image empty",
			p->name, number, value);
}

int parallels_file_open(struct parallels_file *p, bool for_check, struct img_error *err)
{
	uint64_t file_bytes = p->storage->size, end;
	uint8_t bytes[PARALLELS_HEADER_BYTES];
	int rc;

	p->for_check = for_check;
	if (file_bytes < sizeof(bytes))
		return img_fail(err, -EMEDIUMTYPE,
				"%s: not a Parallels image: it is %" PRIu64 " bytes long", p->name,
				file_bytes);
	rc = img_storage_read(p->storage, 0, bytes, sizeof(bytes), err);
	if (rc)
		return rc;
	rc = parallels_parse_header(bytes, &p->header, err);
	if (rc)
		return img_error_prefix(err, rc, "%s", p->name);
	end = parallels_entry_at(p->header.entries);
	if (end > file_bytes)
		return img_fail(err, -EUCLEAN,
				"%s: truncated: ends at %" PRIu64 ", the BAT needs %" PRIu64,
				p->name, file_bytes, end);
	p->size = p->header.sectors * PARALLELS_SECTOR;
	p->entries = p->header.entries;
	p->cluster_bytes = parallels_cluster_bytes(&p->header);
	p->scale = parallels_entry_scale(&p->header);
	p->data_start = parallels_data_start(&p->header, file_bytes, &p->data_off_wrong);
	if (p->header.flags & PARALLELS_FLAG_EMPTY && !for_check)
		rc = parallels_each_entry(p, 0, p->entries, fail_not_empty, NULL, err);
	return rc;
}
