/*
 * cloop: the input is a list of changes to a small sound image.
 *
 *	byte 0		bit 0: version 4; bit 1: of that, with the header at the end; bit 2: the file is cut
 *	10 bytes each	where (1: header, offsets, else blocks), offset there (2), how many bytes (1: 1 to 8), the bytes
 *			(6, the last ones are zero)
 *
 * What is done with it is in changed.h.
 */
#include <string.h>
#include <zlib.h>

#include "formats/cloop/cloop_layout.h"
#include "fuzz/changed.h"
#include "libimg/base/endian.h"

enum {
	BLOCK = 32 << 10,
	BLOCKS = 40,
	TABLE = (BLOCKS + 1) * CLOOP_OFFSET_BYTES,
	FILE_MAX = CLOOP_HEADER_BYTES + TABLE + 13 * BLOCK + BLOCKS * 200,
	CHANGE_BYTES = 10,
	CHANGES_MAX = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t file[FILE_MAX];
static size_t header, table, blocks, bytes;

static void build(unsigned how)
{
	bool at_end = (how & 3) == 3;
	size_t at = at_end ? 0 : CLOOP_HEADER_BYTES + TABLE;
	uint64_t offsets[BLOCKS + 1];
	static uint8_t block[BLOCK];

	memset(file, 0, sizeof(file));
	blocks = at;
	for (unsigned i = 0; i < BLOCKS; i++) {
		bool plain = how & 1 && i % 8 == 3;
		uLongf len = FILE_MAX - at;

		offsets[i] = at | (uint64_t)plain << 60;
		memset(block, (int)i, BLOCK);
		if (plain)
			memcpy(file + at, block, len = BLOCK);
		else
			must(compress2(file + at, &len, block, BLOCK, 1) == Z_OK, "compress", "");
		at += len;
	}
	offsets[BLOCKS] = at;
	table = at_end ? at : CLOOP_HEADER_BYTES;
	header = at_end ? at + TABLE : 0;
	bytes = at_end ? header + CLOOP_HEADER_BYTES : at;
	for (unsigned i = 0; i <= BLOCKS; i++)
		be64_store(file + table + (size_t)i * CLOOP_OFFSET_BYTES, offsets[i]);
	memcpy(file + header, how & 1 ? "#!/bin/sh\n#V4.0 Format\n" : "#!/bin/sh\n#V2.0 Format\n", 23);
	be32_store(file + header + 128, BLOCK);
	be32_store(file + header + 132, BLOCKS);
	if (how & 4)
		bytes -= 1000;
}

static void change(const uint8_t *c)
{
	size_t n = 1 + c[3] % 8, off = le16_load(c + 1);
	uint8_t with[8] = { 0 };

	switch (c[0] % 3) {
	case 0:
		off = header + off % CLOOP_HEADER_BYTES;
		break;
	case 1:
		off = table + off % TABLE;
		break;
	default:
		off = blocks + off * 3;
	}
	memcpy(with, c + 4, 6);
	if (off < FILE_MAX)
		memcpy(file + off, with, min_size(n, FILE_MAX - off));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct changed c = { "cloop", file, 0 };
	size_t changes = len ? min_size((len - 1) / CHANGE_BYTES, CHANGES_MAX) : 0;

	build(len ? data[0] : 0);
	c.bytes = bytes;
	for (size_t i = 0; i < changes; i++)
		change(data + 1 + i * CHANGE_BYTES);
	changed_try(&c);
	return 0;
}
