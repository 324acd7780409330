/*
 * Parsing and encoding an expanding Parallels image.
 */
#include "formats/parallels/parallels_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"

static const char old_magic[PARALLELS_MAGIC_BYTES + 1] = "WithoutFreeSpace";
static const char new_magic[PARALLELS_MAGIC_BYTES + 1] = "WithouFreSpacExt";

bool parallels_is_ours(const uint8_t *head, size_t len)
{
	return len >= PARALLELS_MAGIC_BYTES && (!memcmp(head, old_magic, PARALLELS_MAGIC_BYTES) ||
						!memcmp(head, new_magic, PARALLELS_MAGIC_BYTES));
}

int parallels_parse_header(const uint8_t bytes[PARALLELS_HEADER_BYTES],
			   struct parallels_header *out, struct img_error *err)
{
	struct parallels_header h = {
		.extended = !memcmp(bytes, new_magic, PARALLELS_MAGIC_BYTES),
		.heads = le32_load(bytes + 20),
		.cylinders = le32_load(bytes + 24),
		.cluster_sectors = le32_load(bytes + 28),
		.entries = le32_load(bytes + 32),
		.sectors = le64_load(bytes + 36),
		.in_use = le32_load(bytes + 44),
		.data_off = le32_load(bytes + 48),
		.flags = le32_load(bytes + 52),
		.extension_off = le64_load(bytes + 56),
	};
	uint64_t needed;

	if (!parallels_is_ours(bytes, PARALLELS_HEADER_BYTES))
		return img_fail(err, -EMEDIUMTYPE, "not a Parallels image");
	if (le32_load(bytes + 16) != PARALLELS_VERSION)
		return img_fail(err, -ENOTSUP, "header: version: found %" PRIu32 ", allowed %d",
				le32_load(bytes + 16), PARALLELS_VERSION);
	if (!h.cluster_sectors || h.cluster_sectors > PARALLELS_CLUSTER_SECTORS_MAX)
		return img_fail(err, -EUCLEAN,
				"header: cluster size: found %" PRIu32
				" sectors, allowed 1 to %" PRIu32,
				h.cluster_sectors, PARALLELS_CLUSTER_SECTORS_MAX);
	if (h.entries > PARALLELS_ENTRIES_MAX)
		return img_fail(err, -EUCLEAN,
				"header: BAT: found %" PRIu32 " entries, allowed up to %" PRIu32,
				h.entries, PARALLELS_ENTRIES_MAX);
	if (!h.extended)
		h.sectors = (uint32_t)h.sectors;
	if (h.sectors > PARALLELS_DISK_BYTES_MAX / PARALLELS_SECTOR)
		return img_fail(err, -EUCLEAN,
				"header: disk size: found %" PRIu64
				" sectors, allowed up to %" PRIu64,
				h.sectors, PARALLELS_DISK_BYTES_MAX / PARALLELS_SECTOR);
	needed = div_round_up_u64(h.sectors, h.cluster_sectors);
	if (h.entries < needed)
		return img_fail(err, -EUCLEAN,
				"header: BAT: found %" PRIu32 " entries, the disk's %" PRIu64
				" sectors need %" PRIu64,
				h.entries, h.sectors, needed);
	*out = h;
	return 0;
}

void parallels_encode_header(const struct parallels_header *h,
			     uint8_t bytes[PARALLELS_HEADER_BYTES])
{
	memcpy(bytes, h->extended ? new_magic : old_magic, PARALLELS_MAGIC_BYTES);
	le32_store(bytes + 16, PARALLELS_VERSION);
	le32_store(bytes + 20, h->heads);
	le32_store(bytes + 24, h->cylinders);
	le32_store(bytes + 28, h->cluster_sectors);
	le32_store(bytes + 32, h->entries);
	le64_store(bytes + 36, h->sectors);
	le32_store(bytes + 44, h->in_use);
	le32_store(bytes + 48, h->data_off);
	le32_store(bytes + 52, h->flags);
	le64_store(bytes + 56, h->extension_off);
}

uint64_t parallels_data_start(const struct parallels_header *h, uint64_t file_bytes, bool *wrong)
{
	uint64_t least = parallels_bat_end(h->entries), cluster = parallels_cluster_bytes(h);
	uint64_t told = (uint64_t)h->data_off * PARALLELS_SECTOR;

	if (h->extended)
		least = multiple_up_u64(least, cluster);
	*wrong = false;
	if (!told && !h->extended)
		return least;
	*wrong = told < least || told > max_u64(file_bytes, least) ||
		 (h->extended && told % cluster);
	return *wrong ? least : told;
}

void parallels_parse_section(const uint8_t bytes[PARALLELS_SECTION_BYTES],
			     struct parallels_section *out)
{
	*out = (struct parallels_section){
		.magic = le64_load(bytes),
		.flags = le64_load(bytes + 8),
		.bytes = le32_load(bytes + 16),
	};
}
