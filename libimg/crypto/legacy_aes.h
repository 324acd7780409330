/*
 * The encryption that qcow images had before LUKS: AES-128 in CBC mode, sectors numbered in 64 bits, with
 * the password itself as the key. Nothing tells a wrong password.
 */
#ifndef LIBIMG_CRYPTO_LEGACY_AES_H
#define LIBIMG_CRYPTO_LEGACY_AES_H

#include "libimg/crypto/cipher.h"

/*
 * The first 16 bytes of the password, which a NUL ends, count; a shorter one is filled up with zeroes. The
 * tweak counts from the guest's start. *out: for img_cipher_free(). Errors of img_cipher_new().
 */
int img_legacy_aes_cipher(const uint8_t *password, size_t len, struct img_cipher **out,
			  struct img_error *err);

#endif
