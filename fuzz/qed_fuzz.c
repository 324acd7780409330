/*
 * QED: the input is a list of changes to a small sound image.
 *
 *	byte 0		bit 0: it has a backing file; bit 1: it is marked (need check); bit 2: the file is cut inside
 *			its last cluster
 *	10 bytes each	where (1), offset there in units of 4 bytes (2), how many bytes (1: 1 to 8), the bytes (6,
 *			the last ones are zero)
 *
 * What is done with it is in changed.h.
 */
#include <string.h>

#include "formats/qed/qed_layout.h"
#include "fuzz/changed.h"
#include "libimg/base/endian.h"

enum {
	CLUSTER = 4 << 10,
	L1 = CLUSTER,
	TABLE = 2 * CLUSTER, /* two of them */
	DATA = 4 * CLUSTER,
	ALLOCATED = 12,
	DISK_BYTES = (4 << 20) - 512,
	FILE_BYTES = DATA + ALLOCATED * CLUSTER,
	CHANGE_BYTES = 10,
	CHANGES_MAX = 200,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t file[FILE_BYTES];

static size_t build(unsigned how)
{
	struct qed_header h = {
		.cluster_bytes = CLUSTER,
		.table_clusters = 1,
		.header_clusters = 1,
		.features = (how & 1 ? QED_BACKING | QED_BACKING_RAW : 0) |
			    (how & 2 ? QED_NEED_CHECK : 0),
		.l1_off = L1,
		.size = DISK_BYTES,
		.name_off = how & 1 ? QED_HEADER_BYTES : 0,
		.name_bytes = how & 1 ? 4 : 0,
	};

	memset(file, 0, sizeof(file));
	qed_encode_header(&h, file);
	memcpy(file + QED_HEADER_BYTES, "base", h.name_bytes);
	for (uint64_t i = 0; i < 2; i++)
		le64_store(file + L1 + i * 8, TABLE + i * CLUSTER);
	/* Some in each table, backwards, with zeroes in between. */
	for (uint64_t i = 0; i < ALLOCATED; i++) {
		le64_store(file + TABLE + (i % 2 * 512 + i * 3) * 8, DATA + (ALLOCATED - 1 - i) * CLUSTER);
		le64_store(file + TABLE + (i % 2 * 512 + i * 3 + 1) * 8, QED_ENTRY_ZERO);
	}
	memset(file + DATA, 0x5a, FILE_BYTES - DATA);
	return how & 4 ? FILE_BYTES - 1000 : FILE_BYTES;
}

static void change(const uint8_t *c)
{
	static const struct {
		uint32_t off, len;
	} places[] = {
		{ 0, QED_HEADER_BYTES + 8 },
		{ 4, 16 },
		{ L1, 64 },
		{ TABLE, 256 },
		{ TABLE + CLUSTER, 256 },
		{ L1, CLUSTER },
		{ TABLE, 2 * CLUSTER },
		{ DATA, FILE_BYTES - DATA },
	};
	size_t i = c[0] % IMG_ARRAY_LEN(places), n = 1 + c[3] % 8;
	uint32_t off = le16_load(c + 1) * 4u % places[i].len;
	uint8_t with[8] = { 0 };

	memcpy(with, c + 4, 6);
	memcpy(file + places[i].off + off, with, min_size(n, places[i].len - off));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct changed c = { "qed", file, 0 };
	size_t changes = len ? min_size((len - 1) / CHANGE_BYTES, CHANGES_MAX) : 0;

	c.bytes = build(len ? data[0] : 0);
	for (size_t i = 0; i < changes; i++)
		change(data + 1 + i * CHANGE_BYTES);
	changed_try(&c);
	return 0;
}
