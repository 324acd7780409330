/*
 * Disk images of Macs: the input is a list of changes to a small sound image.
 *
 *	byte 0		bit 0: a resource fork instead of a property list; bit 1: the trailer is in front; bit 2: the file is cut
 *	10 bytes each	where (1: trailer, tables, plist or fork, else data), offset there (2), how many bytes (1: 1 to 8), the
 *			bytes (6, the last ones are zero)
 *
 * Tables are changed before they become base64. What is done with it is in changed.h.
 */
#include <string.h>
#include <zlib.h>

#include "formats/dmg/dmg_layout.h"
#include "fuzz/changed.h"
#include "libimg/base/endian.h"

enum {
	CHUNK = 64 << 10,
	CHUNKS = 10,
	TABLES = 2,
	TABLE = DMG_TABLE_BYTES + (CHUNKS + 1) * DMG_ENTRY_BYTES,
	DATA_MAX = TABLES * CHUNKS * (2 << 10) + TABLES * CHUNK,
	TEXT_MAX = TABLES * TABLE * 2 + 1024,
	FILE_MAX = DMG_TRAILER_BYTES + DATA_MAX + TEXT_MAX,
	CHANGE_BYTES = 10,
	CHANGES_MAX = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t tables[TABLES][TABLE], trailer[DMG_TRAILER_BYTES], file[FILE_MAX];
static size_t bytes; /* of file so far */

static void put_chunk(uint8_t *entry, unsigned n, size_t from)
{
	static const uint32_t types[] = { DMG_ZLIB, DMG_ZEROES, DMG_ZLIB, DMG_IGNORED, DMG_ZLIB,
					  DMG_ADC, DMG_ZLIB, DMG_PLAIN, DMG_LZFSE, DMG_ZLIB };
	static const uint8_t adc[] = { 0x80, 'a' };
	static const uint8_t lzfse[] = { 'b', 'v', 'x', '-', 0, 0, 1, 0 };
	static uint8_t plain[CHUNK];
	uLongf len = FILE_MAX - bytes;

	be32_store(entry, types[n]);
	be64_store(entry + 8, (uint64_t)n * CHUNK / 512);
	be64_store(entry + 16, types[n] == DMG_ADC ? 1 : CHUNK / 512);
	be64_store(entry + 24, bytes - from);
	memset(plain, (int)n + 1, CHUNK);
	switch (types[n]) {
	case DMG_ZLIB:
		must(compress2(file + bytes, &len, plain, CHUNK, 1) == Z_OK, "compress", "");
		break;
	case DMG_PLAIN:
		memcpy(file + bytes, plain, len = CHUNK);
		break;
	case DMG_ADC: /* one byte, and it again, for a sector */
		memcpy(file + bytes, adc, len = sizeof(adc));
		for (unsigned i = 0; i < 8; i++, len += 3)
			memcpy(file + bytes + len, i < 7 ? "\x7f\0" : "\x40\0", 3);
		break;
	case DMG_LZFSE:
		be64_store(entry + 16, 1);
		memcpy(file + bytes, lzfse, sizeof(lzfse));
		le32_store(file + bytes + 4, 512);
		memset(file + bytes + 8, 'z', 512);
		memcpy(file + bytes + 520, "bvx$", 4);
		len = 524;
		break;
	default:
		len = 0;
	}
	be64_store(entry + 32, len);
	bytes += len;
}

static void put_tables(size_t from)
{
	for (unsigned t = 0; t < TABLES; t++) {
		uint8_t *table = tables[t];

		memset(table, 0, TABLE);
		memcpy(table, "mish", 4);
		be32_store(table + 4, 1);
		be64_store(table + 8, (uint64_t)t * CHUNKS * CHUNK / 512);
		be64_store(table + 16, CHUNKS * CHUNK / 512);
		be32_store(table + 200, CHUNKS + 1);
		for (unsigned n = 0; n < CHUNKS; n++)
			put_chunk(table + DMG_TABLE_BYTES + (size_t)n * DMG_ENTRY_BYTES, n, from);
		be32_store(table + DMG_TABLE_BYTES + CHUNKS * DMG_ENTRY_BYTES, DMG_LAST);
	}
}

static void put_text(const char *text)
{
	memcpy(file + bytes, text, strlen(text));
	bytes += strlen(text);
}

static void put_base64(const uint8_t *in, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < len; i += 3) {
		uint32_t word = (uint32_t)in[i] << 16 |
				(i + 1 < len ? (uint32_t)in[i + 1] << 8 : 0) |
				(i + 2 < len ? (uint32_t)in[i + 2] : 0);

		for (unsigned j = 0; j < 4; j++)
			file[bytes++] = i + j > len ? '=' : (uint8_t)digits[word >> (18 - 6 * j) & 63];
	}
}

static void put_plist(void)
{
	put_text("<?xml version=\"1.0\"?>\n<!DOCTYPE plist>\n<plist><dict><key>resource-fork</key><dict>"
		 "<key>blkx</key><array>");
	for (unsigned t = 0; t < TABLES; t++) {
		put_text("<dict><key>Data</key><data>");
		put_base64(tables[t], TABLE);
		put_text("</data></dict>");
	}
	put_text("</array></dict></dict></plist>");
}

static void put_fork(void)
{
	be32_store(file + bytes, 16);
	be32_store(file + bytes + 8, TABLES * (TABLE + 4));
	bytes += 16;
	for (unsigned t = 0; t < TABLES; t++) {
		be32_store(file + bytes, TABLE);
		memcpy(file + bytes + 4, tables[t], TABLE);
		bytes += 4 + TABLE;
	}
}

static void put_trailer(bool fork, size_t from, size_t description)
{
	memset(trailer, 0, sizeof(trailer));
	memcpy(trailer, "koly", 4);
	be32_store(trailer + 4, 4);
	be32_store(trailer + 8, 512);
	be64_store(trailer + 24, from);
	be64_store(trailer + 32, description - from);
	be64_store(trailer + (fork ? 40 : 216), description);
	be64_store(trailer + (fork ? 48 : 224), bytes - description);
	be64_store(trailer + 492, TABLES * CHUNKS * CHUNK / 512);
}

/* Of the changes, those to one of the four places: at, len bytes of it. */
static void change(const uint8_t *data, size_t changes, unsigned place, uint8_t *at, size_t len)
{
	for (size_t i = 0; i < changes; i++) {
		const uint8_t *c = data + i * CHANGE_BYTES;
		size_t off = le16_load(c + 1), n = 1 + c[3] % 8;
		uint8_t with[8] = { 0 };

		if (c[0] % 4 != place || off >= len)
			continue;
		memcpy(with, c + 4, 6);
		memcpy(at + off, with, min_size(n, len - off));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct changed c = { "dmg", file, 0 };
	unsigned how = len ? data[0] : 0;
	size_t changes = len ? min_size((len - 1) / CHANGE_BYTES, CHANGES_MAX) : 0;
	bool fork = how & 1, front = how & 2;
	size_t from = front ? DMG_TRAILER_BYTES : 0, description;

	memset(file, 0, sizeof(file));
	bytes = from;
	data += changes ? 1 : 0;
	put_tables(from);
	change(data, changes, 1, tables[0], sizeof(tables));
	change(data, changes, 3, file + from, bytes - from);
	description = bytes;
	if (fork)
		put_fork();
	else
		put_plist();
	put_trailer(fork, from, description);
	change(data, changes, 2, file + description, bytes - description);
	change(data, changes, 0, trailer, sizeof(trailer));
	memcpy(file + (front ? 0 : bytes), trailer, sizeof(trailer));
	bytes += front ? 0 : sizeof(trailer);
	c.bytes = how & 4 ? bytes * 3 / 4 : bytes;
	changed_try(&c);
	return 0;
}
