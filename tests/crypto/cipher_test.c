/*
 * Ciphers against the libraries' own modes, called plainly for each sector (nettle has all but SM4, OpenSSL
 * that one), and against published vectors.
 */
#include <criterion/criterion.h>
#include <nettle/cbc.h>
#include <nettle/ctr.h>
#include <nettle/nettle-meta.h>
#include <nettle/sha2.h>
#include <nettle/xts.h>
#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"
#include "libimg/crypto/cipher.h"

enum { BYTES = 64 << 10 };

static const uint8_t *key_bytes(void)
{
	static uint8_t key[IMG_CIPHER_KEY_BYTES_MAX];

	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i * 37 + 11);
	return key;
}

static void fill(uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		data[i] = (uint8_t)(i * 31 + i / 256);
}

static const struct nettle_cipher *reference(enum img_cipher_algorithm algorithm)
{
	switch (algorithm) {
	case IMG_CIPHER_AES_128:
		return &nettle_aes128;
	case IMG_CIPHER_AES_192:
		return &nettle_aes192;
	case IMG_CIPHER_AES_256:
		return &nettle_aes256;
	case IMG_CIPHER_CAST5_128:
		return &nettle_cast128;
	case IMG_CIPHER_SERPENT_128:
		return &nettle_serpent128;
	case IMG_CIPHER_SERPENT_192:
		return &nettle_serpent192;
	case IMG_CIPHER_SERPENT_256:
		return &nettle_serpent256;
	case IMG_CIPHER_TWOFISH_128:
		return &nettle_twofish128;
	case IMG_CIPHER_TWOFISH_192:
		return &nettle_twofish192;
	case IMG_CIPHER_TWOFISH_256:
		return &nettle_twofish256;
	default:
		return NULL;
	}
}

/* Of a sector, as its number makes it. */
static void reference_iv(const struct img_cipher_spec *spec, const struct nettle_cipher *c,
			 uint64_t number, uint8_t iv[16])
{
	memset(iv, 0, 16);
	if (spec->ivgen == IMG_IV_PLAIN)
		le32_store(iv, (uint32_t)number);
	else
		le64_store(iv, number);
	if (spec->ivgen == IMG_IV_ESSIV) {
		uint8_t digest[32], context[8192] __attribute__((aligned(16)));
		const struct nettle_cipher *e = c == &nettle_aes128 || c == &nettle_aes192 ? &nettle_aes256 : c;
		struct sha256_ctx sha;

		if (c == &nettle_serpent128 || c == &nettle_serpent192)
			e = &nettle_serpent256;
		if (c == &nettle_twofish128 || c == &nettle_twofish192)
			e = &nettle_twofish256;
		sha256_init(&sha);
		sha256_update(&sha, img_cipher_key_bytes(spec->algorithm, spec->mode), key_bytes());
		sha256_digest(&sha, sizeof(digest), digest);
		e->set_encrypt_key(context, digest);
		e->encrypt(context, c->block_size, iv, iv);
	}
}

static void reference_encrypt(const struct img_cipher_spec *spec, uint32_t sector, uint64_t tweak,
			      uint8_t *data, size_t len)
{
	const struct nettle_cipher *c = reference(spec->algorithm);
	uint8_t context[8192] __attribute__((aligned(16))),
		second[8192] __attribute__((aligned(16)));

	cr_assert(c->context_size <= sizeof(context));
	c->set_encrypt_key(context, key_bytes());
	c->set_encrypt_key(second, key_bytes() + c->key_size);
	for (size_t at = 0; at < len; at += sector) {
		uint8_t iv[16];

		reference_iv(spec, c, (tweak + at) / 512, iv);
		switch (spec->mode) {
		case IMG_CIPHER_ECB:
			c->encrypt(context, sector, data + at, data + at);
			break;
		case IMG_CIPHER_CBC:
			cbc_encrypt(context, c->encrypt, c->block_size, iv, sector, data + at,
				    data + at);
			break;
		case IMG_CIPHER_CTR:
			ctr_crypt(context, c->encrypt, c->block_size, iv, sector, data + at,
				  data + at);
			break;
		default:
			xts_encrypt_message(context, second, c->encrypt, iv, sector,
					    data + at, data + at);
			break;
		}
	}
}

/* Whole, and in two parts; back again. */
static void compare(const struct img_cipher_spec *spec, uint32_t sector, uint64_t tweak)
{
	static uint8_t plain[BYTES], expected[BYTES], got[BYTES];
	struct img_cipher *c;
	size_t part = 5 * 4096;

	fill(plain, BYTES);
	memcpy(expected, plain, BYTES);
	reference_encrypt(spec, sector, tweak, expected, BYTES);
	cr_assert_eq(img_cipher_new(spec, key_bytes(),
				    img_cipher_key_bytes(spec->algorithm, spec->mode), sector, &c,
				    NULL),
		     0);
	memcpy(got, plain, BYTES);
	cr_assert_eq(c->encrypt(c, tweak + part, got + part, BYTES - part), 0);
	cr_assert_eq(c->encrypt(c, tweak, got, part), 0);
	cr_assert_arr_eq(got, expected, BYTES, "%s %s %s", img_cipher_algorithm_name(spec->algorithm),
			 img_cipher_mode_name(spec->mode), img_iv_generator_name(spec->ivgen));
	cr_assert_eq(c->decrypt(c, tweak, got, BYTES), 0);
	cr_assert_arr_eq(got, plain, BYTES);
	img_cipher_free(c);
}

Test(cipher, all_combinations_are_what_the_libraries_make_of_each_sector)
{
	static const uint64_t tweaks[] = { 0, 4096, UINT64_C(0xffffffff) * 512 * 8, UINT64_C(1) << 55 };

	for (int a = 0; a < IMG_CIPHER_ALGORITHMS; a++)
		for (int m = 0; m < IMG_CIPHER_MODES; m++)
			for (int g = 0; g < IMG_IV_GENERATORS; g++) {
				struct img_cipher_spec spec = { a, m, g, IMG_HASH_SHA256 };

				if (!reference(a) || img_cipher_check(&spec, NULL))
					continue;
				for (uint32_t sector = 512; sector <= 4096; sector *= 2)
					compare(&spec, sector, tweaks[(a + m + g) % 4]);
			}
}

/* The 32 bits of `plain` wrap: QEMU and the kernel agree. */
Test(cipher, plain_has_32_bits)
{
	struct img_cipher_spec spec = { IMG_CIPHER_AES_256, IMG_CIPHER_XTS, IMG_IV_PLAIN,
					IMG_HASH_NONE };
	uint8_t low[512] = { 0 }, high[512] = { 0 };
	struct img_cipher *c;

	cr_assert_eq(img_cipher_new(&spec, key_bytes(), 64, 512, &c, NULL), 0);
	cr_assert_eq(c->encrypt(c, 7 * 512, low, 512), 0);
	cr_assert_eq(c->encrypt(c, ((UINT64_C(1) << 32) + 7) * 512, high, 512), 0);
	cr_assert_arr_eq(low, high, 512);
	img_cipher_free(c);
}

/* 3DES and SM4 are OpenSSL's in one call for each sector. */
static void compare_openssl(enum img_cipher_algorithm algorithm, const char *name)
{
	struct img_cipher_spec spec = { algorithm, IMG_CIPHER_CBC, IMG_IV_PLAIN64, IMG_HASH_NONE };
	EVP_CIPHER *evp = EVP_CIPHER_fetch(NULL, name, NULL);
	EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();
	static uint8_t expected[BYTES], got[BYTES];
	struct img_cipher *c;

	fill(expected, BYTES);
	fill(got, BYTES);
	for (uint64_t at = 0; at < BYTES; at += 512) {
		uint8_t iv[16] = { 0 };
		int n;

		le64_store(iv, at / 512);
		EVP_EncryptInit_ex2(x, evp, key_bytes(), iv, NULL);
		EVP_CIPHER_CTX_set_padding(x, 0);
		EVP_EncryptUpdate(x, expected + at, &n, expected + at, 512);
	}
	cr_assert_eq(img_cipher_new(&spec, key_bytes(),
				    img_cipher_key_bytes(algorithm, IMG_CIPHER_CBC), 512, &c, NULL),
		     0);
	cr_assert_eq(c->encrypt(c, 0, got, BYTES), 0);
	cr_assert_arr_eq(got, expected, BYTES);
	img_cipher_free(c);
	EVP_CIPHER_CTX_free(x);
	EVP_CIPHER_free(evp);
}

Test(cipher, of_openssl_alone)
{
	compare_openssl(IMG_CIPHER_3DES, "DES-EDE3-CBC");
	compare_openssl(IMG_CIPHER_SM4, "SM4-CBC");
}

static int try(enum img_cipher_algorithm a, enum img_cipher_mode m, enum img_iv_generator g,
	       enum img_hash h, struct img_error *err)
{
	struct img_cipher_spec spec = { a, m, g, h };

	return img_cipher_check(&spec, err);
}

Test(cipher, what_does_not_go_together_is_refused_by_name)
{
	struct img_error err = { 0 };
	struct img_cipher_spec spec = { IMG_CIPHER_AES_256, IMG_CIPHER_XTS, IMG_IV_PLAIN64,
					IMG_HASH_NONE };
	uint8_t same[64] = { 0 };
	struct img_cipher *c;

	cr_assert_eq(try(IMG_CIPHER_CAST5_128, IMG_CIPHER_XTS, IMG_IV_PLAIN, IMG_HASH_NONE, &err),
		     -ENOTSUP);
	cr_assert_str_eq(err.text, "cipher mode xts needs blocks of 16 bytes, cast5-128 has blocks of 8");
	cr_assert_eq(try(IMG_CIPHER_AES_256, IMG_CIPHER_CBC, IMG_IV_ESSIV, IMG_HASH_NONE, &err),
		     -EINVAL);
	cr_assert_eq(try(IMG_CIPHER_AES_256, IMG_CIPHER_CBC, IMG_IV_ESSIV, IMG_HASH_SHA1, &err),
		     -ENOTSUP);
	cr_assert(strstr(err.text, "sha1"));
	cr_assert_eq(try(IMG_CIPHER_AES_256, IMG_CIPHER_CBC, IMG_IV_ESSIV, IMG_HASH_MD5, &err), 0);
	cr_assert_eq(img_cipher_new(&spec, key_bytes(), 32, 512, &c, &err), -EINVAL);
	cr_assert_str_eq(err.text, "the key of cipher aes-256 in mode xts is 32 bytes, expected 64");
	cr_assert_eq(img_cipher_new(&spec, same, 64, 512, &c, &err), -EINVAL);
	img_error_clear(&err);
}

Test(cipher, names)
{
	enum img_cipher_algorithm a;

	for (int i = 0; i < IMG_CIPHER_ALGORITHMS; i++) {
		const char *name = img_cipher_algorithm_name(i);

		cr_assert(img_cipher_algorithm_by_name(name, &a) &&
			  a == (enum img_cipher_algorithm)i);
		cr_assert(strstr(IMG_CIPHER_ALGORITHM_NAMES, name));
		cr_assert(img_cipher_by_family(img_cipher_family(i),
					       img_cipher_key_bytes(i, IMG_CIPHER_CBC), &a));
		cr_assert_eq(a, i);
	}
	cr_assert_not(img_cipher_algorithm_by_name("aes", &a));
	cr_assert_not(img_cipher_by_family("aes", 20, &a));
}

/* ---- Many threads ---- */

struct shared {
	struct img_cipher *cipher;
	const uint8_t *expected;
	bool right;
};

static void *encrypt_many(void *arg)
{
	struct shared *s = arg;
	uint8_t *data = malloc(BYTES);

	s->right = true;
	for (int i = 0; i < 50; i++) {
		fill(data, BYTES);
		s->right &= !s->cipher->encrypt(s->cipher, 0, data, BYTES) &&
			    !memcmp(data, s->expected, BYTES);
	}
	free(data);
	return NULL;
}

Test(cipher, threads_do_not_get_into_each_others_way)
{
	struct img_cipher_spec spec = { IMG_CIPHER_AES_256, IMG_CIPHER_CBC, IMG_IV_ESSIV,
					IMG_HASH_SHA256 };
	static uint8_t expected[BYTES];
	struct shared s[4];
	pthread_t threads[4];

	cr_assert_eq(img_cipher_new(&spec, key_bytes(), 32, 512, &s[0].cipher, NULL), 0);
	fill(expected, BYTES);
	reference_encrypt(&spec, 512, 0, expected, BYTES);
	for (size_t i = 0; i < IMG_ARRAY_LEN(s); i++) {
		s[i] = (struct shared){ s[0].cipher, expected, false };
		pthread_create(&threads[i], NULL, encrypt_many, &s[i]);
	}
	for (size_t i = 0; i < IMG_ARRAY_LEN(s); i++) {
		pthread_join(threads[i], NULL);
		cr_assert(s[i].right);
	}
	img_cipher_free(s[0].cipher);
}
