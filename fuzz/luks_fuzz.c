/*
 * LUKS headers. Input: a byte, then
 *	0	the header of version 1, at the start of a disk of 64 KiB
 *	1	the JSON of version 2, in a header whose rest is sound
 *	2	the first 64 KiB of a disk, whatever they are
 * An odd byte above these: the header is a detached one. No key is sought: that takes as long as the header says.
 */
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"
#include "libimg/base/value.h"
#include "libimg/crypto/luks.h"
#include "libimg/storage/storage.h"

enum {
	DISK = 64 << 10,
	HEADER = 16 << 10,
	JSON = 4096, /* where it begins */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static uint8_t disk[DISK];

static void build_second_version(const uint8_t *data, size_t len)
{
	unsigned n;

	memcpy(disk, "LUKS\xba\xbe", 6);
	be16_store(disk + 6, 2);
	be64_store(disk + 8, HEADER);
	memcpy(disk + 72, "sha256", 6);
	memcpy(disk + JSON, data, min_size(len, HEADER - JSON - 1));
	if (!EVP_Digest(disk, HEADER, disk + 448, &n, EVP_sha256(), NULL))
		abort();
}

static void count(void *user, const char *text)
{
	*(size_t *)user += strlen(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct img_luks_area area = { .name = "x", .bytes = UINT64_MAX };
	struct img_error err = { 0 };
	struct img_luks *l;

	if (!len || img_storage_memory("x", 0, DISK, &area.storage))
		return 0;
	memset(disk, 0, sizeof(disk));
	if (data[0] % 3 == 1)
		build_second_version(data + 1, len - 1);
	else
		memcpy(disk, data + 1, min_size(len - 1, data[0] % 3 ? DISK : 592));
	area.detached = data[0] / 3 % 2;
	img_storage_write(area.storage, 0, disk, DISK, NULL);
	if (!img_luks_open(&area, &l, &err)) {
		struct img_value *v = img_value_new(IMG_VALUE_OBJECT);
		size_t chars = 0;

		img_luks_info(l, NULL, v);
		img_luks_check(l, count, &chars);
		/* what unlocking would go by */
		if (img_luks_sector_bytes(l) < 512 || img_luks_tweak(l) % img_luks_sector_bytes(l))
			abort();
		img_value_free(v);
		img_luks_free(l);
	}
	img_error_clear(&err);
	img_storage_close(area.storage);
	return 0;
}
