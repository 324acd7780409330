/*
 * XTS (IEEE 1619) over a block cipher of 16-byte blocks. Libraries have it for AES only, or one call for each
 * sector, which takes as long as the sector itself. Private to libimg/crypto.
 */
#ifndef LIBIMG_CRYPTO_XTS_H
#define LIBIMG_CRYPTO_XTS_H

#include "libimg/crypto/block_cipher.h"

/*
 * count sectors in place. data_key, tweak_key: states of ops, in ECB mode, of the two halves of the key. ivs: of the
 * sectors, 16 bytes each; destroyed. sector_bytes: up to 4096. -EIO.
 */
int img_xts(const struct img_block_cipher_ops *ops, void *data_key, void *tweak_key, bool encrypt,
	    uint8_t *ivs, uint8_t *data, uint32_t sector_bytes, size_t count);

#endif
