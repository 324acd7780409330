/*
 * Trailer and block tables of UDIF images.
 */
#include "formats/dmg/dmg_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	VERSION = 4,
	OFF_DATA_OFF = 24,
	OFF_DATA_LEN = 32,
	OFF_FORK_OFF = 40,
	OFF_FORK_LEN = 48,
	OFF_SEGMENT = 56,
	OFF_SEGMENTS = 60,
	OFF_DATA_CHECKSUM = 80,
	OFF_XML_OFF = 216,
	OFF_XML_LEN = 224,
	OFF_MASTER_CHECKSUM = 352,
	OFF_SECTORS = 492,
	TABLE_VERSION = 1,
	OFF_TABLE_SECTOR = 8,
	OFF_TABLE_SECTORS = 16,
	OFF_TABLE_DATA = 24,
	OFF_TABLE_CHECKSUM = 64,
	OFF_TABLE_ENTRIES = 200,
};

bool dmg_is_trailer(const uint8_t *bytes)
{
	return !memcmp(bytes, "koly", 4) && be32_load(bytes + 4) == VERSION &&
	       be32_load(bytes + 8) == DMG_TRAILER_BYTES;
}

int64_t dmg_find_trailer(const uint8_t *tail, size_t len)
{
	for (size_t cut = 0; cut < DMG_TRAILER_BYTES && cut + DMG_TRAILER_BYTES <= len; cut++) {
		size_t at = len - DMG_TRAILER_BYTES - cut;

		if (dmg_is_trailer(tail + at))
			return (int64_t)at;
	}
	return -1;
}

static struct dmg_checksum load_checksum(const uint8_t *bytes)
{
	return (struct dmg_checksum){ be32_load(bytes), be32_load(bytes + 4),
				      be32_load(bytes + 8) };
}

int dmg_parse_trailer(const uint8_t bytes[DMG_TRAILER_BYTES], struct dmg_trailer *out, struct img_error *err)
{
	struct dmg_trailer t = {
		.data_off = be64_load(bytes + OFF_DATA_OFF),
		.data_len = be64_load(bytes + OFF_DATA_LEN),
		.fork_off = be64_load(bytes + OFF_FORK_OFF),
		.fork_len = be64_load(bytes + OFF_FORK_LEN),
		.xml_off = be64_load(bytes + OFF_XML_OFF),
		.xml_len = be64_load(bytes + OFF_XML_LEN),
		.sectors = be64_load(bytes + OFF_SECTORS),
		.segment = be32_load(bytes + OFF_SEGMENT),
		.segments = be32_load(bytes + OFF_SEGMENTS),
		.data = load_checksum(bytes + OFF_DATA_CHECKSUM),
		.master = load_checksum(bytes + OFF_MASTER_CHECKSUM),
	};

	if (t.sectors > INT64_MAX / DMG_SECTOR)
		return img_fail(err, -EUCLEAN, "sectors is %" PRIu64 ", expected up to %" PRId64, t.sectors,
				INT64_MAX / DMG_SECTOR);
	*out = t;
	return 0;
}

bool dmg_is_table(const uint8_t *bytes, size_t len)
{
	return len >= DMG_TABLE_BYTES && !memcmp(bytes, "mish", 4);
}

int dmg_parse_table(const uint8_t *bytes, size_t len, struct dmg_table *out, struct img_error *err)
{
	struct dmg_table t = {
		.first_sector = be64_load(bytes + OFF_TABLE_SECTOR),
		.sectors = be64_load(bytes + OFF_TABLE_SECTORS),
		.data_off = be64_load(bytes + OFF_TABLE_DATA),
		.entries = be32_load(bytes + OFF_TABLE_ENTRIES),
		.checksum = load_checksum(bytes + OFF_TABLE_CHECKSUM),
	};
	uint64_t in_it = (len - DMG_TABLE_BYTES) / DMG_ENTRY_BYTES;

	if (be32_load(bytes + 4) != TABLE_VERSION)
		return img_fail(err, -ENOTSUP, "version is %" PRIu32 ", expected %d", be32_load(bytes + 4),
				TABLE_VERSION);
	if (t.entries > in_it)
		return img_fail(err, -EUCLEAN,
				"entries is %" PRIu32 ", expected up to %" PRIu64 ", what its %zu bytes hold",
				t.entries, in_it, len);
	*out = t;
	return 0;
}

void dmg_parse_entry(const uint8_t bytes[DMG_ENTRY_BYTES], struct dmg_entry *out)
{
	out->type = be32_load(bytes);
	out->sector = be64_load(bytes + 8);
	out->sectors = be64_load(bytes + 16);
	out->off = be64_load(bytes + 24);
	out->len = be64_load(bytes + 32);
}
