/*
 * Bochs: the input is a list of changes to a small sound image.
 *
 *	byte 0		bit 0: version 1; bit 1: the file is cut inside its last extent
 *	10 bytes each	where (1: header or catalog, else bitmaps), offset there in units of 2 bytes (2), how many bytes
 *			(1: 1 to 8), the bytes (6, the last ones are zero)
 *
 * What is done with it is in changed.h.
 */
#include <string.h>

#include "formats/bochs/bochs_layout.h"
#include "fuzz/changed.h"
#include "libimg/base/endian.h"

enum {
	EXTENT = 64 << 10,
	EXTENTS = 40,
	IN_FILE = 6,
	CATALOG = 512,
	DATA = CATALOG + EXTENTS * BOCHS_ENTRY_BYTES,
	STRIDE = 512 + EXTENT,
	FILE_BYTES = DATA + IN_FILE * STRIDE,
	CHANGE_BYTES = 10,
	CHANGES_MAX = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t file[FILE_BYTES];

static size_t build(unsigned how)
{
	memset(file, 0x5a, sizeof(file));
	memset(file, 0, CATALOG);
	memcpy(file, "Bochs Virtual HD Image", 22);
	memcpy(file + 32, "Redolog", 7);
	memcpy(file + 48, "Growing", 7);
	le32_store(file + 64, how & 1 ? 0x10000 : 0x20000);
	le32_store(file + 68, CATALOG);
	le32_store(file + 72, EXTENTS);
	le32_store(file + 76, EXTENT / 512 / 8);
	le32_store(file + 80, EXTENT);
	le64_store(file + (how & 1 ? 84 : 88), EXTENTS * EXTENT - 512);
	memset(file + CATALOG, 0xff, (size_t)EXTENTS * BOCHS_ENTRY_BYTES);
	for (uint32_t i = 0; i < IN_FILE; i++)
		le32_store(file + CATALOG + (size_t)(i * 5 + 1) * BOCHS_ENTRY_BYTES, IN_FILE - 1 - i);
	return how & 2 ? FILE_BYTES - 10000 : FILE_BYTES;
}

static void change(const uint8_t *c)
{
	size_t n = 1 + c[3] % 8, off = le16_load(c + 1) * UINT32_C(2);
	uint8_t with[8] = { 0 };

	off = c[0] % 2 ? DATA + off % IN_FILE * STRIDE + off / IN_FILE % 512 : off % DATA;
	memcpy(with, c + 4, 6);
	memcpy(file + off, with, min_size(n, FILE_BYTES - off));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct changed c = { "bochs", file, 0 };
	size_t changes = len ? min_size((len - 1) / CHANGE_BYTES, CHANGES_MAX) : 0;

	c.bytes = build(len ? data[0] : 0);
	for (size_t i = 0; i < changes; i++)
		change(data + 1 + i * CHANGE_BYTES);
	changed_try(&c);
	return 0;
}
