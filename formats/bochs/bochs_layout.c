/*
 * Headers of Bochs redologs, versions 1 and 2.
 */
#include "formats/bochs/bochs_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

static const char magic[] = "Bochs Virtual HD Image"; /* with the NUL behind it */

enum {
	OFF_TYPE = 32,
	OFF_SUBTYPE = 48,
	NAME_BYTES = 16,
	OFF_VERSION = 64,
	OFF_HEADER_BYTES = 68,
	OFF_ENTRIES = 72,
	OFF_BITMAP_BYTES = 76,
	OFF_EXTENT_BYTES = 80,
	OFF_SIZE_1 = 84, /* version 1 */
	OFF_SIZE_2 = 88, /* version 2: behind a time stamp */
};

#define VERSION_1 UINT32_C(0x10000)
#define VERSION_2 UINT32_C(0x20000)

bool bochs_is_redolog(const uint8_t *head, size_t len)
{
	return len >= BOCHS_HEADER_BYTES && !memcmp(head, magic, sizeof(magic));
}

static int check_name(const uint8_t *bytes, unsigned off, const char *field, const char *want,
		      struct img_error *err)
{
	const char *name = (const char *)bytes + off;

	if (!strncmp(name, want, NAME_BYTES))
		return 0;
	return img_fail(err, -ENOTSUP, "%s is \"%.*s\", expected \"%s\", an image that is complete by itself",
			field, (int)strnlen(name, NAME_BYTES), name, want);
}

static int check_sizes(const struct bochs_header *h, struct img_error *err)
{
	uint64_t needed = h->extent_bytes / BOCHS_SECTOR;

	if (h->catalog_off < BOCHS_HEADER_BYTES)
		return img_fail(err, -EUCLEAN, "header size is %" PRIu32 ", expected at least %d",
				h->catalog_off, BOCHS_HEADER_BYTES);
	if (!is_aligned_u64(h->catalog_off, BOCHS_ENTRY_BYTES))
		return img_fail(err, -ENOTSUP, "header size is %" PRIu32 ", expected a multiple of %d",
				h->catalog_off, BOCHS_ENTRY_BYTES);
	if (!h->extent_bytes || !is_aligned_u64(h->extent_bytes, BOCHS_SECTOR) ||
	    h->extent_bytes > BOCHS_EXTENT_BYTES_MAX)
		return img_fail(err, -EUCLEAN,
				"extent size is %" PRIu32 ", expected a multiple of %d up to %" PRIu32,
				h->extent_bytes, BOCHS_SECTOR, BOCHS_EXTENT_BYTES_MAX);
	/* The bitmap may be longer, but there is no reason why it should be longer than the data. */
	if (h->bitmap_bytes * UINT64_C(8) < needed || h->bitmap_bytes > BOCHS_EXTENT_BYTES_MAX)
		return img_fail(err, -EUCLEAN,
				"bitmap size is %" PRIu32 ", expected at least %" PRIu64
				", a bit for each sector of an extent, and at most %" PRIu32,
				h->bitmap_bytes, div_round_up_u64(needed, 8),
				BOCHS_EXTENT_BYTES_MAX);
	if (h->size > INT64_MAX)
		return img_fail(err, -EUCLEAN, "disk size is %" PRIu64 ", expected less than 2^63",
				h->size);
	if (div_round_up_u64(h->size, h->extent_bytes) > h->catalog_entries)
		return img_fail(err, -EUCLEAN,
				"catalog entries is %" PRIu32 ", expected at least %" PRIu64
				" for a disk of %" PRIu64 " bytes",
				h->catalog_entries, div_round_up_u64(h->size, h->extent_bytes),
				h->size);
	return 0;
}

int bochs_parse_header(const uint8_t *bytes, size_t len, struct bochs_header *out, struct img_error *err)
{
	struct bochs_header h;
	int rc;

	if (!bochs_is_redolog(bytes, len))
		return img_fail(err, -EMEDIUMTYPE, "not a Bochs image");
	rc = check_name(bytes, OFF_TYPE, "type", "Redolog", err);
	if (!rc)
		rc = check_name(bytes, OFF_SUBTYPE, "subtype", "Growing", err);
	if (rc)
		return rc;
	h.version = le32_load(bytes + OFF_VERSION);
	if (h.version != VERSION_1 && h.version != VERSION_2)
		return img_fail(err, -ENOTSUP, "version is %#" PRIx32 ", expected %#" PRIx32 " or %#" PRIx32,
				h.version, VERSION_1, VERSION_2);
	h.catalog_off = le32_load(bytes + OFF_HEADER_BYTES);
	h.catalog_entries = le32_load(bytes + OFF_ENTRIES);
	h.bitmap_bytes = le32_load(bytes + OFF_BITMAP_BYTES);
	h.extent_bytes = le32_load(bytes + OFF_EXTENT_BYTES);
	/* Nobody reads or writes less than a sector of it. */
	h.size = align_down_u64(
		le64_load(bytes + (h.version == VERSION_1 ? OFF_SIZE_1 : OFF_SIZE_2)),
		BOCHS_SECTOR);
	rc = check_sizes(&h, err);
	if (rc)
		return rc;
	h.bitmap_bytes = (uint32_t)round_up_u64(h.bitmap_bytes, BOCHS_SECTOR);
	*out = h;
	return 0;
}
