/*
 * Ciphers of encrypted disks: whole sectors, each by itself, with an initialisation vector made of its
 * number. Names are those of QEMU's options (cipher-alg=aes-256, cipher-mode=xts, ivgen-alg=plain64).
 */
#ifndef LIBIMG_CRYPTO_CIPHER_H
#define LIBIMG_CRYPTO_CIPHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/crypto/hash.h"

struct img_error;

/* Turns whole sectors of bytes into clear text and back. */
struct img_cipher {
	uint32_t sector_bytes; /* 512, 1024, 2048 or 4096 */
	/*
	 * In place; tweak: byte position that the sector numbers are counted from; both it and len
	 * are multiples of sector_bytes. Thread-safe: called on pool threads, several at a time. -EIO,
	 * -ENOMEM.
	 */
	int (*decrypt)(struct img_cipher *c, uint64_t tweak, uint8_t *data, size_t len);
	int (*encrypt)(struct img_cipher *c, uint64_t tweak, uint8_t *data, size_t len);
};

enum img_cipher_algorithm {
	IMG_CIPHER_AES_128,
	IMG_CIPHER_AES_192,
	IMG_CIPHER_AES_256,
	IMG_CIPHER_3DES,
	IMG_CIPHER_CAST5_128,
	IMG_CIPHER_SERPENT_128,
	IMG_CIPHER_SERPENT_192,
	IMG_CIPHER_SERPENT_256,
	IMG_CIPHER_TWOFISH_128,
	IMG_CIPHER_TWOFISH_192,
	IMG_CIPHER_TWOFISH_256,
	IMG_CIPHER_SM4,
	IMG_CIPHER_ALGORITHMS,
};

enum img_cipher_mode {
	IMG_CIPHER_ECB,
	IMG_CIPHER_CBC,
	IMG_CIPHER_XTS,
	IMG_CIPHER_CTR,
	IMG_CIPHER_MODES,
};

/* What a sector's initialisation vector is, n being its number in units of 512 bytes. */
enum img_iv_generator {
	IMG_IV_PLAIN,	/* n, 32 bits, little-endian, then zeroes */
	IMG_IV_PLAIN64, /* the same with 64 bits */
	IMG_IV_ESSIV,	/* PLAIN64, encrypted by the hash of the key */
	IMG_IV_GENERATORS,
};

struct img_cipher_spec {
	enum img_cipher_algorithm algorithm;
	enum img_cipher_mode mode;
	enum img_iv_generator ivgen; /* of no effect with ECB */
	enum img_hash ivgen_hash;    /* ESSIV needs it; of no effect with others */
};

enum {
	IMG_CIPHER_KEY_BYTES_MAX = 64, /* two of 32, for XTS */
	IMG_CIPHER_BLOCK_BYTES_MAX = 16,
};

/* As struct img_option has its choices. */
#define IMG_CIPHER_ALGORITHM_NAMES \
	"aes-128,aes-192,aes-256,3des,cast5-128,serpent-128,serpent-192,serpent-256,twofish-128," \
	"twofish-192,twofish-256,sm4"
#define IMG_CIPHER_MODE_NAMES "ecb,cbc,xts,ctr"
#define IMG_IV_GENERATOR_NAMES "plain,plain64,essiv"

const char *img_cipher_algorithm_name(enum img_cipher_algorithm algorithm);
const char *img_cipher_mode_name(enum img_cipher_mode mode);
const char *img_iv_generator_name(enum img_iv_generator ivgen);
/* False: there is none of that name. */
bool img_cipher_algorithm_by_name(const char *name, enum img_cipher_algorithm *out);
bool img_cipher_mode_by_name(const char *name, enum img_cipher_mode *out);
bool img_iv_generator_by_name(const char *name, enum img_iv_generator *out);

/*
 * The family, which is what LUKS headers name ("aes"; the key's length says the rest), and the
 * member of it whose key has that many bytes (in XTS mode: half of the key).
 */
const char *img_cipher_family(enum img_cipher_algorithm algorithm);
bool img_cipher_by_family(const char *family, size_t key_bytes, enum img_cipher_algorithm *out);
/* Of all that name it: is there such a family? */
bool img_cipher_is_family(const char *family);

/* Of a key: in XTS mode of both halves. */
size_t img_cipher_key_bytes(enum img_cipher_algorithm algorithm, enum img_cipher_mode mode);
size_t img_cipher_block_bytes(enum img_cipher_algorithm algorithm);

/*
 * Do these go together? -ENOTSUP: XTS with blocks of other than 16 bytes, ESSIV with a hash for whose length
 * the family has no key; -EINVAL: ESSIV without a hash.
 */
int img_cipher_check(const struct img_cipher_spec *spec, struct img_error *err);

/*
 * key: key_bytes as img_cipher_key_bytes() says; copied into locked memory. sector_bytes: 512 to 4096, a power
 * of two. Errors of img_cipher_check(); -EINVAL: a key of another length, or of two equal halves;
 * -ENOPKG: the algorithm needs libnettle, which is not installed; -ENOTSUP: the library has it not; -ENOMEM.
 */
int img_cipher_new(const struct img_cipher_spec *spec, const uint8_t *key, size_t key_bytes,
		   uint32_t sector_bytes, struct img_cipher **out, struct img_error *err);
/* Nobody uses it any more. NULL is fine. */
void img_cipher_free(struct img_cipher *c);

#endif
