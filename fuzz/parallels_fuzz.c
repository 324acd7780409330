/*
 * Parallels: the input is a list of changes to a small sound image, whose format extension then
 * gets its checksum right again, so that the changes get behind it.
 *
 *	byte 0		bit 0: the old kind; bit 1: clusters of 63 sectors; bit 2: no format
 *			extension; bit 3: in use; bit 4: the last cluster is missing; bit 5: the
 *			checksum stays as it was
 *	8 bytes each	where (1), offset there (1), how many bytes (1: 1 to 8), the bytes (5,
 *			the last ones are zero)
 *
 * What is done with it is in changed.h.
 */
#include <openssl/evp.h>
#include <string.h>

#include "formats/parallels/parallels_layout.h"
#include "fuzz/changed.h"
#include "libimg/base/endian.h"

enum {
	ENTRIES = 100,
	CLUSTERS = 3, /* two of the disk, and the extension's */
	CLUSTER_MAX = 63 * PARALLELS_SECTOR,
	SECTION = PARALLELS_EXTENSION_BYTES, /* the first one, in the extension */
	CHANGE_BYTES = 8,
	CHANGES_MAX = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t file[(CLUSTERS + 1) * CLUSTER_MAX];

/* ---- The sound image ---- */

/* A bitmap, and a section that is to be kept. */
static void put_extension(uint8_t *at, uint32_t sectors)
{
	uint8_t *s = at + SECTION;

	le64_store(at, PARALLELS_EXTENSION_MAGIC);
	le64_store(s, PARALLELS_SECTION_BITMAP);
	le32_store(s + 16, 40);
	le64_store(s + 24, sectors);
	le32_store(s + 48, 128); /* sectors for each bit */
	le32_store(s + 52, 1);
	le64_store(s + 56, 1);
	s += 24 + 40;
	le64_store(s, 0x1234);
	le64_store(s + 8, PARALLELS_SECTION_TRANSIT);
	le32_store(s + 16, 5);
	memcpy(s + 24, "other", 5);
}

static struct parallels_header build(unsigned how, size_t *bytes, uint64_t *extension)
{
	struct parallels_header h = {
		.extended = !(how & 1),
		.heads = 16,
		.cylinders = 1,
		.cluster_sectors = how & 2 ? 63 : 8,
		.entries = ENTRIES,
		.in_use = how & 8 ? PARALLELS_OPEN : PARALLELS_CLOSED,
	};
	uint64_t cluster = parallels_cluster_bytes(&h), start;

	memset(file, 0, sizeof(file));
	h.sectors = ENTRIES * h.cluster_sectors - 1;
	start = h.extended ? cluster : parallels_bat_end(ENTRIES);
	h.data_off = h.extended ? h.cluster_sectors : 0;
	*extension = start + 2 * cluster;
	if (!(how & 4)) {
		h.extension_off = *extension / PARALLELS_SECTOR;
		put_extension(file + *extension, (uint32_t)h.sectors);
	}
	parallels_encode_header(&h, file);
	for (uint32_t i = 0; i < 2; i++) {
		uint64_t off = start + i * cluster;

		le32_store(file + PARALLELS_BAT_OFF + 4 * (i ? 7 : 0),
			   (uint32_t)(off / parallels_entry_scale(&h)));
		memset(file + off, 0x40 + (int)i, cluster);
	}
	*bytes = start + (how & 16 ? 2 : 3) * cluster;
	return h;
}

/* ---- The changes ---- */

static void change(const uint8_t *c, uint64_t extension)
{
	const struct {
		uint64_t off;
		uint32_t len;
	} places[] = {
		{ 0, PARALLELS_HEADER_BYTES },
		{ 16, 48 },
		{ PARALLELS_BAT_OFF, 64 },
		{ PARALLELS_BAT_OFF + 4 * ENTRIES - 32, 32 },
		{ extension, 152 },
		{ extension + SECTION, 128 },
	};
	size_t i = c[0] % IMG_ARRAY_LEN(places), n = 1 + c[2] % 8;
	uint32_t off = c[1] % places[i].len;
	uint8_t with[8] = { 0 };

	memcpy(with, c + 3, 5);
	memcpy(file + places[i].off + off, with, min_size(n, places[i].len - off));
}

static void seal(uint64_t extension, uint64_t cluster)
{
	unsigned n;

	must(EVP_Digest(file + extension + PARALLELS_EXTENSION_BYTES,
			cluster - PARALLELS_EXTENSION_BYTES, file + extension + 8, &n, EVP_md5(),
			NULL) == 1,
	     "no MD5", "");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct changed c = { "parallels", file, 0 };
	size_t changes = len ? min_size((len - 1) / CHANGE_BYTES, CHANGES_MAX) : 0;
	unsigned how = len ? data[0] : 0;
	uint64_t extension;
	struct parallels_header h = build(how, &c.bytes, &extension);

	for (size_t i = 0; i < changes; i++)
		change(data + 1 + i * CHANGE_BYTES, extension);
	if (!(how & (4 | 32)))
		seal(extension, parallels_cluster_bytes(&h));
	changed_try(&c);
	return 0;
}
