/*
 * A sector's initialisation vector, encrypted, is the tweak of its first block; each further one is the one before,
 * multiplied by x in GF(2^128). Blocks are xored with their tweaks before and after the cipher: so a
 * few KiB are one call of the cipher, which has several blocks in flight then.
 */
#include "libimg/crypto/xts.h"

#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	BLOCK = 16,
	CHUNK = 4096, /* stays in the first-level cache, with its tweaks */
};

/* The tweaks of one sector. */
static void make_tweaks(const uint8_t *first, uint8_t *out, uint32_t sector_bytes)
{
	uint64_t low = le64_load(first), high = le64_load(first + 8);

	for (uint32_t i = 0; i < sector_bytes; i += BLOCK) {
		uint64_t carry = high >> 63;

		le64_store(out + i, low);
		le64_store(out + i + 8, high);
		high = high << 1 | low >> 63;
		low = low << 1 ^ (carry * 0x87);
	}
}

/* Compilers do not see by themselves that this is worth it. */
typedef uint64_t vector __attribute__((vector_size(32), aligned(1), may_alias));

/* len: a multiple of 512. */
static void xor_into(uint8_t *data, const uint8_t *with, size_t len)
{
	for (size_t i = 0; i < len; i += sizeof(vector))
		*(vector *)(data + i) ^= *(const vector *)(with + i);
}

int img_xts(const struct img_block_cipher_ops *ops, void *data_key, void *tweak_key, bool encrypt,
	    uint8_t *ivs, uint8_t *data, uint32_t sector_bytes, size_t count)
{
	uint8_t tweaks[CHUNK] __attribute__((aligned(64)));
	int rc = ops->run(tweak_key, true, NULL, ivs, count * BLOCK);

	while (!rc && count) {
		size_t n = min_size(count, CHUNK / sector_bytes), len = n * sector_bytes;

		for (size_t i = 0; i < n; i++)
			make_tweaks(ivs + i * BLOCK, tweaks + i * sector_bytes, sector_bytes);
		xor_into(data, tweaks, len);
		rc = ops->run(data_key, encrypt, NULL, data, len);
		xor_into(data, tweaks, len);
		ivs += n * BLOCK;
		data += len;
		count -= n;
	}
	return rc;
}
