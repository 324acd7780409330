/*
 * From a passphrase to a key, slowly on purpose: PBKDF2 (RFC 8018), Argon2 (RFC 9106). Thread-safe.
 */
#ifndef LIBIMG_CRYPTO_PBKDF_H
#define LIBIMG_CRYPTO_PBKDF_H

#include "libimg/crypto/hash.h"

/* -ENOTSUP: no such hash; -ENOMEM. */
int img_pbkdf2(enum img_hash hash, const uint8_t *passphrase, size_t len, const uint8_t *salt,
	       size_t salt_bytes, uint64_t iterations, uint8_t *out, size_t out_bytes,
	       struct img_error *err);
/*
 * How many iterations a second of processor time are done for a key of out_bytes: measured once for each, for
 * about a tenth of a second. At least 1.
 */
int img_pbkdf2_speed(enum img_hash hash, size_t out_bytes, uint64_t *per_second,
		     struct img_error *err);

enum img_argon2 {
	IMG_ARGON2I,
	IMG_ARGON2ID,
};
/*
 * memory: KiB. -ENOPKG: libargon2 is not installed; -EINVAL: parameters that it refuses; -ENOMEM.
 */
int img_argon2(enum img_argon2 kind, const uint8_t *passphrase, size_t len, const uint8_t *salt,
	       size_t salt_bytes, uint32_t passes, uint32_t memory, uint32_t lanes, uint8_t *out,
	       size_t out_bytes, struct img_error *err);
/* KiB filled a second, once and by one thread; measured as img_pbkdf2_speed(). */
int img_argon2_speed(uint64_t *per_second, struct img_error *err);

#endif
