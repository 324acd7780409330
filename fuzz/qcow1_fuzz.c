/*
 * qcow version 1: the input is a list of changes to a small sound image.
 *
 *	byte 0		bit 0: it has a backing file; bit 1: some clusters are compressed; bit 2: the file is cut inside
 *			its last cluster
 *	10 bytes each	where (1), offset there in units of 4 bytes (2), how many bytes (1: 1 to 8), the bytes (6,
 *			the first ones are zero)
 *
 * What is done with it is in changed.h.
 */
#include <string.h>

#include "formats/qcow1/qcow1_layout.h"
#include "fuzz/changed.h"
#include "libimg/base/endian.h"
#include "libimg/engine/codec.h"

enum {
	CLUSTER = 4 << 10,
	L1 = 64,
	TABLE = CLUSTER, /* two of them */
	DATA = 3 * CLUSTER,
	ALLOCATED = 12,
	DISK_BYTES = (4 << 20) - 512,
	FILE_BYTES = DATA + ALLOCATED * CLUSTER,
	CHANGE_BYTES = 10,
	CHANGES_MAX = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t file[FILE_BYTES];

/* The first two clusters of data are full of compressed ones. */
static void pack(void)
{
	static uint8_t unit[CLUSTER];
	size_t at = DATA, len;

	for (unsigned i = 0; i < 6; i++) {
		memset(unit, (int)i, sizeof(unit));
		for (size_t k = 0; k < 1100; k++)
			unit[k] = (uint8_t)(k * k * (i + 3) >> 5);
		if (img_codec_deflate.encode(unit, CLUSTER, 0, file + at, CLUSTER - 1, &len,
					     NULL) ||
		    at + len > DATA + 2 * CLUSTER)
			break;
		be64_store(file + TABLE + (200 + i) * 8, UINT64_C(1) << 63 | (uint64_t)len << 51 | at);
		at += len;
	}
}

static size_t build(unsigned how)
{
	struct qcow1_header h = {
		.size = DISK_BYTES,
		.cluster_bits = 12,
		.l2_bits = 9,
		.name_off = how & 1 ? QCOW1_HEADER_BYTES : 0,
		.name_bytes = how & 1 ? 4 : 0,
		.l1_off = L1,
	};

	memset(file, 0, sizeof(file));
	qcow1_encode_header(&h, file);
	memcpy(file + QCOW1_HEADER_BYTES, "base", h.name_bytes);
	for (uint64_t i = 0; i < 2; i++)
		be64_store(file + L1 + i * 8, TABLE + i * CLUSTER);
	memset(file + DATA, 0x5a, FILE_BYTES - DATA);
	if (how & 2)
		pack();
	/* Some in each table, backwards. */
	for (uint64_t i = how & 2 ? 2 : 0; i < ALLOCATED; i++)
		be64_store(file + TABLE + (i % 2 * 512 + i * 3) * 8, DATA + (ALLOCATED + 1 - i) % ALLOCATED * CLUSTER);
	if (how & 2) /* these two would be where the compressed ones are */
		for (uint64_t i = 0; i < ALLOCATED; i++)
			if (be64_load(file + TABLE + (i % 2 * 512 + i * 3) * 8) < DATA + 2 * CLUSTER)
				be64_store(file + TABLE + (i % 2 * 512 + i * 3) * 8, 0);
	return how & 4 ? FILE_BYTES - 1000 : FILE_BYTES;
}

static void change(const uint8_t *c)
{
	static const struct {
		uint32_t off, len;
	} places[] = {
		{ 0, L1 },
		{ 4, 44 },
		{ L1, 64 },
		{ TABLE, 256 },
		{ TABLE + CLUSTER, 256 },
		{ TABLE + 1600, 64 },
		{ TABLE, 2 * CLUSTER },
		{ DATA, FILE_BYTES - DATA },
	};
	size_t i = c[0] % IMG_ARRAY_LEN(places), n = 1 + c[3] % 8;
	uint32_t off = le16_load(c + 1) * 4u % places[i].len;
	uint8_t with[8] = { 0 };

	memcpy(with + 2, c + 4, 6);
	memcpy(file + places[i].off + off, with + 8 - n, min_size(n, places[i].len - off));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct changed c = { "qcow", file, 0 };
	size_t changes = len ? min_size((len - 1) / CHANGE_BYTES, CHANGES_MAX) : 0;

	c.bytes = build(len ? data[0] : 0);
	for (size_t i = 0; i < changes; i++)
		change(data + 1 + i * CHANGE_BYTES);
	memset(file + 36, 0, 4); /* there is nobody to give a password */
	changed_try(&c);
	return 0;
}
