/*
 * The structures of a VHD, parsed and encoded: spec/vhd.md.
 */
#include "formats/vhd/vhd_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/endian.h"
#include "libimg/base/utf16.h"

const struct vhd_geometry vhd_geometry_max = { 65535, 16, 255 };

uint32_t vhd_checksum(const uint8_t *bytes, size_t len, size_t at)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		if (i < at || i >= at + 4)
			sum += bytes[i];
	return ~sum;
}

/* ---- The footer ---- */

/*
 * Virtual PC went by the geometry, and QEMU does for what it calls "qemu". All others, also those that
 * nobody has heard of, tell the size in bytes.
 */
static bool goes_by_geometry(const uint8_t *creator)
{
	return !memcmp(creator, "vpc ", 4) || !memcmp(creator, "qemu", 4);
}

int vhd_parse_footer(const uint8_t *bytes, struct vhd_footer *out, struct img_error *err)
{
	struct vhd_footer f = { 0 };
	uint32_t found = be32_load(bytes + VHD_OFF_CHECKSUM), expected, type;
	struct vhd_geometry g;

	if (memcmp(bytes, "conectix", 8))
		return img_fail(err, -EMEDIUMTYPE, "not a VHD image");
	expected = vhd_checksum(bytes, VHD_FOOTER_BYTES, VHD_OFF_CHECKSUM);
	if (found != expected)
		return img_fail(err, -EUCLEAN,
				"footer: checksum is %#" PRIx32 ", expected %#" PRIx32, found,
				expected);
	if (be16_load(bytes + 12) != 1)
		return img_fail(err, -ENOTSUP, "footer: version is %u.%u, expected 1.x",
				be16_load(bytes + 12), be16_load(bytes + 14));
	type = be32_load(bytes + VHD_OFF_TYPE);
	if (type != VHD_FIXED && type != VHD_DYNAMIC && type != VHD_DIFFERENCING)
		return img_fail(err, -ENOTSUP,
				"footer: disk type is %" PRIu32
				", expected 2 (fixed), 3 (dynamic) or 4 (differencing)",
				type);
	memcpy(f.bytes, bytes, sizeof(f.bytes));
	f.type = (enum vhd_type)type;
	f.header_off = be64_load(bytes + VHD_OFF_DATA);
	f.time = be32_load(bytes + VHD_OFF_TIME);
	f.current = f.size = be64_load(bytes + VHD_OFF_SIZE);
	g = (struct vhd_geometry){ be16_load(bytes + VHD_OFF_GEOMETRY), bytes[VHD_OFF_GEOMETRY + 2],
				   bytes[VHD_OFF_GEOMETRY + 3] };
	if (goes_by_geometry(bytes + VHD_OFF_CREATOR) && vhd_geometry_sectors(&g) &&
	    vhd_geometry_sectors(&g) < vhd_geometry_sectors(&vhd_geometry_max))
		f.size = vhd_geometry_sectors(&g) * VHD_SECTOR;
	memcpy(f.uuid, bytes + VHD_OFF_UUID, sizeof(f.uuid));
	f.saved_state = bytes[VHD_OFF_SAVED_STATE] == 1;
	if (f.size % VHD_SECTOR)
		return img_fail(err, -EUCLEAN,
				"footer: current size is %" PRIu64 " bytes, expected a multiple of 512",
				f.size);
	/* The table of anything larger could not lead to its blocks. */
	if (f.size > VHD_FILE_MAX)
		return img_fail(err, -EUCLEAN,
				"footer: current size is %" PRIu64 " bytes, expected at most %" PRIu64
				" (2 TiB)",
				f.size, VHD_FILE_MAX);
	*out = f;
	return 0;
}

void vhd_seal_footer(uint8_t bytes[VHD_FOOTER_BYTES])
{
	be32_store(bytes + VHD_OFF_CHECKSUM,
		   vhd_checksum(bytes, VHD_FOOTER_BYTES, VHD_OFF_CHECKSUM));
}

struct vhd_geometry vhd_geometry_of(uint64_t sectors)
{
	struct vhd_geometry g = { 0, 16, 255 };
	uint64_t tracks; /* cylinders times heads */

	if (sectors > vhd_geometry_sectors(&vhd_geometry_max))
		sectors = vhd_geometry_sectors(&vhd_geometry_max);
	if (sectors >= UINT64_C(65535) * 16 * 63) {
		tracks = sectors / g.sectors;
	} else {
		g.sectors = 17;
		tracks = sectors / g.sectors;
		g.heads = (uint32_t)max_u64(4, div_round_up_u64(tracks, 1024));
		if (tracks >= g.heads * UINT64_C(1024) || g.heads > 16) {
			g.sectors = 31;
			g.heads = 16;
			tracks = sectors / g.sectors;
		}
		if (tracks >= g.heads * UINT64_C(1024)) {
			g.sectors = 63;
			g.heads = 16;
			tracks = sectors / g.sectors;
		}
	}
	g.cylinders = (uint32_t)(tracks / g.heads);
	return g;
}

static void encode_geometry(const struct vhd_geometry *g, uint8_t *bytes)
{
	be16_store(bytes + VHD_OFF_GEOMETRY, (uint16_t)g->cylinders);
	bytes[VHD_OFF_GEOMETRY + 2] = (uint8_t)g->heads;
	bytes[VHD_OFF_GEOMETRY + 3] = (uint8_t)g->sectors;
}

/* "qem2" is what every program that knows of the two rules takes by its size in bytes. */
static void make_exact(uint8_t *bytes)
{
	memcpy(bytes + VHD_OFF_CREATOR, "qem2", 4);
	encode_geometry(&vhd_geometry_max, bytes);
}

void vhd_encode_footer(const struct vhd_new_footer *n, uint8_t out[VHD_FOOTER_BYTES])
{
	struct vhd_geometry g = vhd_geometry_of(n->size / VHD_SECTOR);

	memset(out, 0, VHD_FOOTER_BYTES);
	memcpy(out, "conectix", 8);
	be32_store(out + 8, 2); /* features: the bit that is always set */
	be32_store(out + 12, 0x00010000);
	be64_store(out + VHD_OFF_DATA, n->type == VHD_FIXED ? UINT64_MAX : VHD_FOOTER_BYTES);
	be32_store(out + VHD_OFF_TIME, n->time);
	memcpy(out + VHD_OFF_CREATOR, "qemu", 4);
	be32_store(out + 32, 0x00050003);
	memcpy(out + 36, "Wi2k", 4);
	be64_store(out + VHD_OFF_ORIGINAL_SIZE, n->size);
	be64_store(out + VHD_OFF_SIZE, n->size);
	encode_geometry(&g, out);
	if (n->exact)
		make_exact(out);
	be32_store(out + VHD_OFF_TYPE, n->type);
	memcpy(out + VHD_OFF_UUID, n->uuid, sizeof(n->uuid));
	vhd_seal_footer(out);
}

void vhd_resize_footer(uint8_t bytes[VHD_FOOTER_BYTES], uint64_t size)
{
	struct vhd_geometry g = vhd_geometry_of(size / VHD_SECTOR);

	be64_store(bytes + VHD_OFF_SIZE, size);
	encode_geometry(&g, bytes);
	if (goes_by_geometry(bytes + VHD_OFF_CREATOR) && vhd_geometry_sectors(&g) * VHD_SECTOR != size)
		make_exact(bytes);
	vhd_seal_footer(bytes);
}

/* ---- The header ---- */

uint32_t vhd_bitmap_bytes(uint32_t block_bytes)
{
	return (uint32_t)round_up_u64(div_round_up_u64(block_bytes / VHD_SECTOR, 8), VHD_SECTOR);
}

int vhd_parse_header(const uint8_t *bytes, uint64_t need, struct vhd_header *out,
		     struct img_error *err)
{
	struct vhd_header h = { 0 };
	uint32_t found = be32_load(bytes + VHD_OFF_HEADER_CHECKSUM), expected;

	if (memcmp(bytes, "cxsparse", 8))
		return img_fail(err, -EBADMSG, "dynamic disk header: its signature is missing");
	expected = vhd_checksum(bytes, VHD_HEADER_BYTES, VHD_OFF_HEADER_CHECKSUM);
	if (found != expected)
		return img_fail(err, -EBADMSG,
				"dynamic disk header: checksum is %#" PRIx32 ", expected %#" PRIx32,
				found, expected);
	if (be16_load(bytes + 24) != 1)
		return img_fail(err, -ENOTSUP, "dynamic disk header: version is %u.%u, expected 1.x",
				be16_load(bytes + 24), be16_load(bytes + 26));
	memcpy(h.bytes, bytes, sizeof(h.bytes));
	h.table_off = be64_load(bytes + VHD_OFF_TABLE);
	h.entries = be32_load(bytes + VHD_OFF_ENTRIES);
	h.block_bytes = be32_load(bytes + VHD_OFF_BLOCK);
	if (!is_pow2_u64(h.block_bytes) || h.block_bytes < VHD_SECTOR)
		return img_fail(err, -EUCLEAN,
				"dynamic disk header: block size is %" PRIu32
				" bytes, expected a power of two from 512 on",
				h.block_bytes);
	h.bitmap_bytes = vhd_bitmap_bytes(h.block_bytes);
	if (h.table_off % VHD_SECTOR)
		return img_fail(err, -EUCLEAN,
				"dynamic disk header: block allocation table: found offset %" PRIu64
				", allowed multiples of 512",
				h.table_off);
	if (h.entries < vhd_blocks(need, h.block_bytes))
		return img_fail(err, -EUCLEAN,
				"dynamic disk header: block allocation table has %" PRIu32
				" entries, expected at least %" PRIu64,
				h.entries, vhd_blocks(need, h.block_bytes));
	memcpy(h.parent_uuid, bytes + VHD_OFF_PARENT_UUID, sizeof(h.parent_uuid));
	h.parent_time = be32_load(bytes + VHD_OFF_PARENT_TIME);
	*out = h;
	return 0;
}

void vhd_seal_header(uint8_t bytes[VHD_HEADER_BYTES])
{
	be32_store(bytes + VHD_OFF_HEADER_CHECKSUM,
		   vhd_checksum(bytes, VHD_HEADER_BYTES, VHD_OFF_HEADER_CHECKSUM));
}

void vhd_encode_header(uint64_t table_off, uint32_t entries, uint32_t block_bytes,
		       uint8_t out[VHD_HEADER_BYTES])
{
	memset(out, 0, VHD_HEADER_BYTES);
	memcpy(out, "cxsparse", 8);
	be64_store(out + 8, UINT64_MAX);
	be64_store(out + VHD_OFF_TABLE, table_off);
	be32_store(out + 24, 0x00010000);
	be32_store(out + VHD_OFF_ENTRIES, entries);
	be32_store(out + VHD_OFF_BLOCK, block_bytes);
	vhd_seal_header(out);
}

void vhd_parse_locator(const uint8_t *header, unsigned index, struct vhd_locator *out)
{
	const uint8_t *p = header + VHD_OFF_LOCATORS + index * VHD_LOCATOR_BYTES;

	memcpy(out->code, p, sizeof(out->code));
	out->space = be32_load(p + 4);
	out->length = be32_load(p + 8);
	out->off = be64_load(p + 16);
}

void vhd_encode_locator(uint8_t *header, unsigned index, const struct vhd_locator *locator)
{
	uint8_t *p = header + VHD_OFF_LOCATORS + index * VHD_LOCATOR_BYTES;

	memcpy(p, locator->code, sizeof(locator->code));
	be32_store(p + 4, locator->space);
	be32_store(p + 8, locator->length);
	be32_store(p + 12, 0);
	be64_store(p + 16, locator->off);
}

/* ---- Sector bitmaps ---- */

static bool bit(const uint8_t *bits, uint64_t n)
{
	return bits[n / 8] >> (7 - n % 8) & 1;
}

uint64_t vhd_bit_run(const uint8_t *bits, uint64_t first, uint64_t count, bool *set)
{
	uint64_t n = 1;

	*set = bit(bits, first);
	while (n < count) {
		uint64_t at = first + n;

		if (at % 8 == 0 && count - n >= 8 && bits[at / 8] == (*set ? 0xff : 0))
			n += 8;
		else if (bit(bits, at) == *set)
			n++;
		else
			break;
	}
	return n;
}

void vhd_set_bits(uint8_t *bits, uint64_t first, uint64_t count)
{
	for (uint64_t n = first; n < first + count; n++) {
		if (n % 8 == 0 && first + count - n >= 8) {
			bits[n / 8] = 0xff;
			n += 7;
		} else {
			bits[n / 8] |= (uint8_t)(0x80 >> n % 8);
		}
	}
}

/* ---- Parent locators ---- */

/* In a name that is not one of Windows's own, "\" is "/". */
static void turn_slashes(char *name)
{
	bool drive = name[0] && name[1] == ':';

	if (drive || !strncmp(name, "\\\\", 2))
		return;
	for (char *p = name; *p; p++)
		if (*p == '\\')
			*p = '/';
	if (!strncmp(name, "./", 2) && name[2])
		memmove(name, name + 2, strlen(name + 2) + 1);
}

static int name_of_utf16(const uint8_t *data, size_t bytes, char **out)
{
	int rc;

	while (bytes >= 2 && !data[bytes - 1] && !data[bytes - 2]) /* some end it with a NUL */
		bytes -= 2;
	rc = img_utf16_to_utf8(data, bytes, out);
	if (!rc)
		turn_slashes(*out);
	return rc == -EILSEQ ? -EUCLEAN : rc;
}

static int name_of_bytes(const uint8_t *data, size_t bytes, char **out)
{
	while (bytes && !data[bytes - 1])
		bytes--;
	if (memchr(data, 0, bytes))
		return -EUCLEAN;
	*out = malloc(bytes + 1);
	if (!*out)
		return -ENOMEM;
	memcpy(*out, data, bytes);
	(*out)[bytes] = '\0';
	return 0;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The URL's escapes undone; NULL: there are none, or it makes no name. */
static char *unescape(const char *name)
{
	char *out = strchr(name, '%') ? malloc(strlen(name) + 1) : NULL, *to = out;

	if (!out)
		return NULL;
	for (const char *p = name; *p; p++) {
		if (*p == '%' && hex(p[1]) >= 0 && hex(p[2]) >= 0) {
			*to = (char)(hex(p[1]) << 4 | hex(p[2]));
			if (!*to) {
				free(out);
				return NULL;
			}
			to++;
			p += 2;
		} else {
			*to++ = *p;
		}
	}
	*to = '\0';
	return out;
}

/* "file://localhost/dir/base.vhd", and XenServer's "file://./base.vhd". */
static int name_of_url(const uint8_t *data, size_t bytes, char **out, char **other)
{
	static const char *const prefixes[] = { "file://localhost/", "file://" };
	int rc = name_of_bytes(data, bytes, out);
	size_t cut = 0;

	if (rc)
		return rc;
	for (size_t i = 0; i < IMG_ARRAY_LEN(prefixes) && !cut; i++)
		if (!strncmp(*out, prefixes[i], strlen(prefixes[i])))
			cut = strlen(prefixes[i]) - (i == 0);
	memmove(*out, *out + cut, strlen(*out + cut) + 1);
	*other = unescape(*out);
	return 0;
}

/* An alias record: the file's own name is at a fixed place; it is sought in the image's folder. */
static int name_of_alias(const uint8_t *data, size_t bytes, char **out)
{
	enum { ALIAS_VERSION = 6,
	       ALIAS_NAME = 50,
	       ALIAS_NAME_MAX = 63 };

	if (bytes < ALIAS_NAME + 1 + ALIAS_NAME_MAX || be16_load(data + ALIAS_VERSION) != 2 ||
	    !data[ALIAS_NAME] || data[ALIAS_NAME] > ALIAS_NAME_MAX)
		return -EUCLEAN;
	for (unsigned i = 1; i <= data[ALIAS_NAME]; i++)
		if (data[ALIAS_NAME + i] < ' ' || data[ALIAS_NAME + i] > '~' ||
		    data[ALIAS_NAME + i] == '/')
			return -EUCLEAN;
	return name_of_bytes(data + ALIAS_NAME + 1, data[ALIAS_NAME], out);
}

int vhd_locator_name(const struct vhd_locator *l, const uint8_t *data, char **out, char **other)
{
	int rc = -ENOTSUP;

	*out = *other = NULL;
	if (!memcmp(l->code, "W2ru", 4) || !memcmp(l->code, "W2ku", 4)) {
		rc = name_of_utf16(data, l->length, out);
	} else if (!memcmp(l->code, "MacX", 4)) {
		rc = name_of_url(data, l->length, out, other);
	} else if (!memcmp(l->code, "Wi2r", 4) || !memcmp(l->code, "Wi2k", 4)) {
		rc = name_of_bytes(data, l->length, out);
		if (!rc)
			turn_slashes(*out);
	} else if (!memcmp(l->code, "Mac ", 4)) {
		rc = name_of_alias(data, l->length, out);
	}
	if (!rc && !**out) {
		free(*out);
		*out = NULL;
		rc = -EUCLEAN;
	}
	return rc;
}

/* UTF-16 with the bytes the other way round. */
static void swap(uint8_t *text, size_t bytes)
{
	for (size_t i = 0; i + 1 < bytes; i += 2) {
		uint8_t first = text[i];

		text[i] = text[i + 1];
		text[i + 1] = first;
	}
}

int vhd_parent_name(const uint8_t *header, char **out)
{
	uint8_t text[VHD_PARENT_NAME_BYTES];
	size_t bytes = 0;

	memcpy(text, header + VHD_OFF_PARENT_NAME, sizeof(text));
	while (bytes < sizeof(text) && (text[bytes] || text[bytes + 1]))
		bytes += 2;
	swap(text, bytes);
	return name_of_utf16(text, bytes, out);
}

int vhd_set_parent_name(uint8_t *header, const char *name)
{
	uint8_t *text;
	size_t bytes;
	int rc = img_utf8_to_utf16(name, &text, &bytes);

	if (rc)
		return rc;
	if (bytes > VHD_PARENT_NAME_BYTES) {
		rc = -ENAMETOOLONG;
	} else {
		memset(header + VHD_OFF_PARENT_NAME, 0, VHD_PARENT_NAME_BYTES);
		swap(text, bytes);
		memcpy(header + VHD_OFF_PARENT_NAME, text, bytes);
	}
	free(text);
	return rc;
}
