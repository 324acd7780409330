/*
 * The anti-forensic splitter of LUKS: a key becomes a number of stripes of its own length, all of which are
 * needed to have it again. spec/luks.md, "Anti-forensic splitter".
 */
#ifndef LIBIMG_CRYPTO_AF_SPLIT_H
#define LIBIMG_CRYPTO_AF_SPLIT_H

#include "libimg/crypto/hash.h"

/* material: key_bytes * stripes, random but for the last stripe. stripes: at least 1. -EIO, -ENOMEM, -ENOTSUP. */
int img_af_split(enum img_hash hash, const uint8_t *key, size_t key_bytes, uint32_t stripes,
		 uint8_t *material, struct img_error *err);
int img_af_merge(enum img_hash hash, const uint8_t *material, size_t key_bytes, uint32_t stripes,
		 uint8_t *key, struct img_error *err);

#endif
