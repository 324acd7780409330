/* The bytes of a header of LUKS version 1: spec/luks.md. Private to libimg/crypto. */
#ifndef LIBIMG_CRYPTO_LUKS1_LAYOUT_H
#define LIBIMG_CRYPTO_LUKS1_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct img_error;

enum {
	IMG_LUKS1_BYTES = 592,
	IMG_LUKS1_SLOTS = 8,
	IMG_LUKS1_SALT_BYTES = 32,
	IMG_LUKS1_DIGEST_BYTES = 20,
	IMG_LUKS1_ALIGN = 4096, /* where key slots begin, and the payload */
};

struct img_luks1_slot {
	bool active;
	uint32_t iterations;
	uint8_t salt[IMG_LUKS1_SALT_BYTES];
	uint32_t start; /* of the material, in sectors of 512 bytes */
	uint32_t stripes;
};

struct img_luks1_header {
	char cipher[32], mode[32], hash[32];
	uint32_t payload_start; /* in sectors */
	uint32_t key_bytes;
	uint8_t digest[IMG_LUKS1_DIGEST_BYTES];
	uint8_t digest_salt[IMG_LUKS1_SALT_BYTES];
	uint32_t digest_iterations;
	char uuid[37];
	struct img_luks1_slot slots[IMG_LUKS1_SLOTS];
};

/*
 * What stands in IMG_LUKS1_BYTES bytes, without asking whether it goes together, but for: -EMEDIUMTYPE: no LUKS header;
 * -ENOTSUP: of another version; -EUCLEAN: texts without a NUL, states of key slots that there are none of.
 */
int img_luks1_parse(const uint8_t *bytes, struct img_luks1_header *out, struct img_error *err);
void img_luks1_encode(const struct img_luks1_header *h, uint8_t bytes[IMG_LUKS1_BYTES]);
/* Of the key material that a slot holds, and of the area that it has. */
uint64_t img_luks1_material_bytes(uint32_t key_bytes);
uint64_t img_luks1_slot_bytes(uint32_t key_bytes);

#endif
