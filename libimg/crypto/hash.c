/* Hashes, by OpenSSL. */
#include "libimg/crypto/hash.h"

#include <errno.h>
#include <openssl/provider.h>
#include <pthread.h>
#include <string.h>

#include "libimg/base/error.h"
#include "libimg/crypto/openssl.h"

static const struct {
	const char *name, *openssl;
	size_t bytes;
} hashes[IMG_HASHES] = {
	[IMG_HASH_NONE] = { "none", "", 0 },
	[IMG_HASH_MD5] = { "md5", "MD5", 16 },
	[IMG_HASH_SHA1] = { "sha1", "SHA1", 20 },
	[IMG_HASH_SHA224] = { "sha224", "SHA2-224", 28 },
	[IMG_HASH_SHA256] = { "sha256", "SHA2-256", 32 },
	[IMG_HASH_SHA384] = { "sha384", "SHA2-384", 48 },
	[IMG_HASH_SHA512] = { "sha512", "SHA2-512", 64 },
	[IMG_HASH_RIPEMD160] = { "ripemd160", "RIPEMD160", 20 },
	[IMG_HASH_SM3] = { "sm3", "SM3", 32 },
};

const char *img_hash_name(enum img_hash hash)
{
	return hashes[hash].name;
}

enum img_hash img_hash_by_name(const char *name)
{
	for (int i = IMG_HASH_NONE + 1; i < IMG_HASHES; i++)
		if (!strcmp(hashes[i].name, name))
			return (enum img_hash)i;
	return IMG_HASH_NONE;
}

size_t img_hash_bytes(enum img_hash hash)
{
	return hashes[hash].bytes;
}

/* ---- OpenSSL ---- */

static OSSL_LIB_CTX *contexts[2];

static void load(int legacy)
{
	OSSL_LIB_CTX *c = OSSL_LIB_CTX_new();
	bool loaded = c && OSSL_PROVIDER_load(c, "default");

	if (loaded && (!legacy || OSSL_PROVIDER_load(c, "legacy")))
		contexts[legacy] = c;
	else
		OSSL_LIB_CTX_free(c);
}

static void load_default(void)
{
	load(0);
}

static void load_legacy(void)
{
	load(1);
}

OSSL_LIB_CTX *img_openssl(bool legacy)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT, once_legacy = PTHREAD_ONCE_INIT;

	if (legacy)
		pthread_once(&once_legacy, load_legacy);
	else
		pthread_once(&once, load_default);
	return contexts[legacy];
}

const EVP_MD *img_openssl_hash(enum img_hash hash)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static EVP_MD *fetched[IMG_HASHES];
	EVP_MD *md;

	pthread_mutex_lock(&lock);
	for (int legacy = 0; !fetched[hash] && legacy < 2; legacy++) {
		OSSL_LIB_CTX *c = img_openssl(legacy);

		if (c)
			fetched[hash] = EVP_MD_fetch(c, hashes[hash].openssl, NULL);
	}
	md = fetched[hash];
	pthread_mutex_unlock(&lock);
	return md;
}

const char *img_openssl_hash_name(enum img_hash hash)
{
	return hashes[hash].openssl;
}

int img_hash_digest(enum img_hash hash, const void *first, size_t first_bytes, const void *second,
		    size_t second_bytes, uint8_t *out, struct img_error *err)
{
	const EVP_MD *md = img_openssl_hash(hash);
	EVP_MD_CTX *c;
	bool done;

	if (!md)
		return img_fail(err, -ENOTSUP, "OpenSSL on this system has no hash %s",
				hashes[hash].name);
	c = EVP_MD_CTX_new();
	done = c && EVP_DigestInit_ex2(c, md, NULL) == 1 &&
	       EVP_DigestUpdate(c, first, first_bytes) == 1 &&
	       EVP_DigestUpdate(c, second, second_bytes) == 1 &&
	       EVP_DigestFinal_ex(c, out, NULL) == 1;
	EVP_MD_CTX_free(c);
	return done ? 0 : img_fail(err, -ENOMEM, "hash %s: out of memory", hashes[hash].name);
}
