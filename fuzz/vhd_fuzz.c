/*
 * VHD: the input is a list of changes to a small sound image, whose checksums are then put right again, so
 * that the changes get behind them.
 *
 *	byte 0		bits 0 and 1: dynamic, differencing, fixed, fixed; bit 2: the footer at the end is
 *			missing; bit 3: the copy at the start is not changed with it; bit 4: the header's checksum
 *			is not put right, so that it has to be made anew
 *	10 bytes each	where (1), offset there in units of 4 bytes (2), how many bytes (1: 1 to 8), the bytes (6,
 *			the last ones are zero)
 *
 * What is done with it is in changed.h. A header with one damage to it is made as it was, or not at all: the disk
 * then reads as before.
 */
#include <string.h>

#include "formats/vhd/vhd_layout.h"
#include "fuzz/changed.h"
#include "libimg/base/endian.h"

enum {
	KIB = 1 << 10,
	BLOCK = 512 * KIB,
	HEADER = 512,
	TABLE = HEADER + VHD_HEADER_BYTES,
	ENTRIES = 128, /* one sector of the table */
	LOCATOR = TABLE + 512,
	BATMAP = LOCATOR + 512, /* XenServer's header, not that it were there */
	BLOCKS = 8 * KIB,
	FOOTER = BLOCKS + 2 * (512 + BLOCK),
	FILE_BYTES = FOOTER + VHD_FOOTER_BYTES,
	DISK_BYTES = 4 << 20,
	CHANGE_BYTES = 10,
	CHANGES_MAX = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t file[DISK_BYTES + VHD_FOOTER_BYTES];
static size_t bytes;

/* ---- The sound image ---- */

static void put_parent(void)
{
	static const char name[] = "b\0a\0s\0e\0.\0v\0h\0d";
	const struct vhd_locator l = { "W2ru", 512, sizeof(name), LOCATOR };

	memcpy(file + LOCATOR, name, sizeof(name));
	memset(file + HEADER + VHD_OFF_PARENT_UUID, 7, IMG_GUID_BYTES);
	must(!vhd_set_parent_name(file + HEADER, "base.vhd"), "no memory", "");
	vhd_encode_locator(file + HEADER, 0, &l);
}

static void build(enum vhd_type type)
{
	const struct vhd_new_footer n = { .type = type, .exact = true, .size = DISK_BYTES };

	memset(file, 0, sizeof(file));
	if (type == VHD_FIXED) {
		memset(file, 0x33, DISK_BYTES);
		bytes = DISK_BYTES + VHD_FOOTER_BYTES;
		vhd_encode_footer(&n, file + DISK_BYTES);
		return;
	}
	bytes = FILE_BYTES;
	vhd_encode_footer(&n, file);
	vhd_encode_footer(&n, file + FOOTER);
	vhd_encode_header(TABLE, ENTRIES, BLOCK, file + HEADER);
	memset(file + TABLE, 0xff, ENTRIES * VHD_ENTRY_BYTES);
	for (uint32_t i = 0; i < 2; i++) {
		uint8_t *block = file + BLOCKS + i * (512 + BLOCK);

		be32_store(file + TABLE + i * 3 * VHD_ENTRY_BYTES,
			   (BLOCKS + i * (512 + BLOCK)) / VHD_SECTOR);
		memset(block, type == VHD_DYNAMIC ? 0xff : 0x5a, vhd_bitmap_bytes(BLOCK));
		memset(block + 512, (int)i + 1, BLOCK);
	}
	if (type == VHD_DIFFERENCING)
		put_parent();
	vhd_seal_header(file + HEADER);
}

/* ---- The changes ---- */

static const struct {
	uint32_t off, len;
} places[] = {
	{ 0, VHD_FOOTER_BYTES },
	{ HEADER, 128 },
	{ HEADER + VHD_OFF_LOCATORS, 64 },
	{ TABLE, 64 },
	{ LOCATOR, 512 },
	{ BATMAP, 512 },
	{ BLOCKS, 512 },
	{ BLOCKS + 512 + BLOCK, 512 },
	{ FOOTER, VHD_FOOTER_BYTES },
	{ DISK_BYTES, VHD_FOOTER_BYTES },
	{ HEADER + 64, 512 },
};

static bool is_of_header(const uint8_t *c)
{
	uint32_t off = places[c[0] % IMG_ARRAY_LEN(places)].off;

	return off >= HEADER && off < TABLE;
}

static void change(const uint8_t *c)
{
	size_t i = c[0] % IMG_ARRAY_LEN(places), n = 1 + c[3] % 8;
	uint32_t off = le16_load(c + 1) * 4u % places[i].len;
	uint8_t with[8] = { 0 };

	memcpy(with, c + 4, 6);
	memcpy(file + places[i].off + off, with, min_size(n, places[i].len - off));
}

static void seal_all(bool fixed, unsigned how)
{
	if (fixed) {
		vhd_seal_footer(file + DISK_BYTES);
		return;
	}
	vhd_seal_footer(file);
	vhd_seal_footer(file + FOOTER);
	if (!(how & 16))
		vhd_seal_header(file + HEADER);
	if (how & 4)
		bytes = FOOTER;
	else if (!(how & 8))
		memcpy(file + FOOTER, file, VHD_FOOTER_BYTES);
}

/* What the disk reads as before anything is changed. */
static void read_sound(struct changed_content *out)
{
	const struct changed c = { "vpc", file, bytes };
	struct img_error *err = img_error_new();
	struct img *img = changed_open(&c, 0, err);

	must(img, "the sound image cannot be opened", img_error_text(err));
	changed_read(img, out, err);
	img_close(img, NULL);
	img_error_free(err);
}

/* The only change is one of the header. */
static void try_damaged_header(const struct changed_content *sound)
{
	struct changed_content content = { 0 };
	const struct changed c = { "vpc", file, bytes };
	struct img_error *err = img_error_new();

	if (changed_repair(&c, &content, err))
		changed_compare(sound, &content, "header");
	img_error_free(err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static const enum vhd_type types[] = { VHD_DYNAMIC, VHD_DIFFERENCING, VHD_FIXED,
					       VHD_FIXED };
	struct changed c = { "vpc", file, 0 };
	size_t changes = len ? min_size((len - 1) / CHANGE_BYTES, CHANGES_MAX) : 0;
	unsigned how = len ? data[0] : 0;
	struct changed_content sound;
	bool damaged;

	build(types[how & 3]);
	damaged = types[how & 3] != VHD_FIXED && (how & 16) && changes == 1 &&
		  is_of_header(data + 1);
	if (damaged)
		read_sound(&sound);
	for (size_t i = 0; i < changes; i++)
		change(data + 1 + i * CHANGE_BYTES);
	seal_all(types[how & 3] == VHD_FIXED, how);
	if (damaged)
		try_damaged_header(&sound);
	c.bytes = bytes;
	changed_try(&c);
	return 0;
}
