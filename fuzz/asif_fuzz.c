/*
 * Apple sparse images: the input is a list of changes to a small sound image.
 *
 *	byte 0		bit 0: the other directory counts; bit 1: the file is cut
 *	10 bytes each	where (1: header, directories, table, bitmap), offset there (2), how many bytes (1: 1 to 8), the bytes (6,
 *			the last ones are zero)
 *
 * What is done with it is in changed.h.
 */
#include <string.h>

#include "formats/asif/asif_layout.h"
#include "fuzz/changed.h"
#include "libimg/base/endian.h"

enum {
	CHUNK = 64 << 10,
	CHUNKS = 10, /* of the file: header and directories, table, bitmap, data */
	BLOCK = 512,
	GROUP = 4 * BLOCK,
	DISK_CHUNKS = 64,
	DIRECTORY = 512,
	OTHER_DIRECTORY = 1024,
	FILE_BYTES = CHUNKS * CHUNK,
	CHANGE_BYTES = 10,
	CHANGES_MAX = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t file[FILE_BYTES];

static void build(unsigned how)
{
	uint8_t *table = file + CHUNK, *bitmap = file + 2 * CHUNK;

	memset(file, 0, 3 * CHUNK);
	memset(file + 3 * CHUNK, 0x5a, FILE_BYTES - 3 * CHUNK);
	memcpy(file, "shdw", 4);
	be32_store(file + 4, 1);
	be32_store(file + 8, 512);
	be64_store(file + 16, DIRECTORY);
	be64_store(file + 24, OTHER_DIRECTORY);
	be64_store(file + 48, DISK_CHUNKS * CHUNK / BLOCK);
	be64_store(file + 56, UINT64_C(20000) * CHUNK / BLOCK);
	be32_store(file + 64, CHUNK);
	be16_store(file + 68, BLOCK);
	be64_store(file + DIRECTORY, 5);
	be64_store(file + DIRECTORY + 8, 1);
	be64_store(file + OTHER_DIRECTORY, how & 1 ? 6 : 4);
	be64_store(file + OTHER_DIRECTORY + 8, how & 1 ? 1 : 9);
	for (unsigned i = 0; i < CHUNKS - 3; i++)
		be64_store(table + (size_t)i * 5 * 8, (i % 2 ? UINT64_C(3) : UINT64_C(1)) << 62 | (3 + i));
	be64_store(table + 3 * 8, UINT64_C(2) << 62);
	be64_store(table + (size_t)GROUP * 8, 2);
	for (size_t i = 0; i < DISK_CHUNKS * CHUNK / BLOCK / 4; i++)
		bitmap[i] = i % 3 ? 0x55 : 0x91;
}

static void change(const uint8_t *c)
{
	static const struct {
		uint32_t off, len;
	} places[] = {
		{ 0, 128 },
		{ DIRECTORY, 1024 },
		{ CHUNK, (GROUP + 1) * 8 },
		{ 2 * CHUNK, DISK_CHUNKS * CHUNK / BLOCK / 4 },
	};
	size_t i = c[0] % IMG_ARRAY_LEN(places), n = 1 + c[3] % 8;
	uint32_t off = le16_load(c + 1) % places[i].len;
	uint8_t with[8] = { 0 };

	memcpy(with, c + 4, 6);
	memcpy(file + places[i].off + off, with, min_size(n, places[i].len - off));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct changed c = { "asif", file, FILE_BYTES };
	size_t changes = len ? min_size((len - 1) / CHANGE_BYTES, CHANGES_MAX) : 0;

	build(len ? data[0] : 0);
	if (len && data[0] & 2)
		c.bytes -= CHUNK + 1000;
	for (size_t i = 0; i < changes; i++)
		change(data + 1 + i * CHANGE_BYTES);
	changed_try(&c);
	return 0;
}
