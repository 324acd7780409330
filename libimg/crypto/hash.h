/* Hashes by which disks are encrypted. */
#ifndef LIBIMG_CRYPTO_HASH_H
#define LIBIMG_CRYPTO_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct img_error;

enum img_hash {
	IMG_HASH_NONE,
	IMG_HASH_MD5,
	IMG_HASH_SHA1,
	IMG_HASH_SHA224,
	IMG_HASH_SHA256,
	IMG_HASH_SHA384,
	IMG_HASH_SHA512,
	IMG_HASH_RIPEMD160,
	IMG_HASH_SM3,
	IMG_HASHES,
};

enum { IMG_HASH_BYTES_MAX = 64 };
/* As struct img_option has its choices. */
#define IMG_HASH_NAMES "md5,sha1,sha224,sha256,sha384,sha512,ripemd160,sm3"

/* "sha256", as QEMU's options and LUKS headers have it. */
const char *img_hash_name(enum img_hash hash);
/* IMG_HASH_NONE: there is none of that name. */
enum img_hash img_hash_by_name(const char *name);
/* Of a digest. */
size_t img_hash_bytes(enum img_hash hash);

/*
 * The digest of first[0..first_bytes) followed by second[0..second_bytes). Thread-safe. -ENOTSUP: the
 * library has no such hash; -ENOMEM.
 */
int img_hash_digest(enum img_hash hash, const void *first, size_t first_bytes, const void *second,
		    size_t second_bytes, uint8_t *out, struct img_error *err);

#endif
