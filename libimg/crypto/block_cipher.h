/*
 * Block ciphers as libraries have them, under a common face. Private to libimg/crypto.
 */
#ifndef LIBIMG_CRYPTO_BLOCK_CIPHER_H
#define LIBIMG_CRYPTO_BLOCK_CIPHER_H

#include "libimg/crypto/cipher.h"

/*
 * One key of one algorithm, for one thread at a time. mode: ECB, CBC or CTR. The library's copy of the key is wiped
 * by close().
 */
struct img_block_cipher_ops {
	int (*open)(enum img_cipher_algorithm algorithm, enum img_cipher_mode mode,
		    const uint8_t *key, void **out, struct img_error *err);
	/*
	 * len bytes in place, a multiple of the block. iv: of a block's length; unused with ECB; may be changed.
	 * -EIO.
	 */
	int (*run)(void *state, bool encrypt, uint8_t *iv, uint8_t *data, size_t len);
	void (*close)(void *state); /* NULL is fine */
};

extern const struct img_block_cipher_ops img_block_cipher_openssl; /* AES, 3DES, SM4 */
extern const struct img_block_cipher_ops img_block_cipher_nettle;  /* Serpent, Twofish, CAST5 */

#endif
