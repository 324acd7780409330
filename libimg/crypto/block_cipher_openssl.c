/*
 * Block ciphers by OpenSSL's default provider. Contexts are set up with their key once; then only the
 * initialisation vector is set anew for each sector.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "libimg/base/error.h"
#include "libimg/crypto/block_cipher.h"
#include "libimg/crypto/openssl.h"

struct openssl {
	EVP_CIPHER_CTX *contexts[2]; /* to decrypt, to encrypt */
	bool iv;
};

static const char *const names[IMG_CIPHER_ALGORITHMS] = {
	[IMG_CIPHER_AES_128] = "AES-128",
	[IMG_CIPHER_AES_192] = "AES-192",
	[IMG_CIPHER_AES_256] = "AES-256",
	[IMG_CIPHER_3DES] = "DES-EDE3",
	[IMG_CIPHER_SM4] = "SM4",
};

/* Fetched once, for good. */
static const EVP_CIPHER *fetch(enum img_cipher_algorithm algorithm, enum img_cipher_mode mode)
{
	static const char *const modes[IMG_CIPHER_MODES] = { [IMG_CIPHER_ECB] = "ECB",
							     [IMG_CIPHER_CBC] = "CBC",
							     [IMG_CIPHER_CTR] = "CTR" };
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static EVP_CIPHER *fetched[IMG_CIPHER_ALGORITHMS][IMG_CIPHER_MODES];
	EVP_CIPHER *cipher;

	pthread_mutex_lock(&lock);
	if (!fetched[algorithm][mode] && img_openssl(false)) {
		char name[32];

		snprintf(name, sizeof(name), "%s-%s", names[algorithm], modes[mode]);
		fetched[algorithm][mode] = EVP_CIPHER_fetch(img_openssl(false), name, NULL);
	}
	cipher = fetched[algorithm][mode];
	pthread_mutex_unlock(&lock);
	return cipher;
}

static void openssl_close(void *state)
{
	struct openssl *o = state;

	if (!o)
		return;
	for (int i = 0; i < 2; i++)
		EVP_CIPHER_CTX_free(o->contexts[i]);
	free(o);
}

static int openssl_open(enum img_cipher_algorithm algorithm, enum img_cipher_mode mode,
			const uint8_t *key, void **out, struct img_error *err)
{
	const EVP_CIPHER *cipher = fetch(algorithm, mode);
	struct openssl *o;

	if (!cipher)
		return img_fail(err, -ENOTSUP, "OpenSSL on this system has no cipher %s in mode %s",
				img_cipher_algorithm_name(algorithm), img_cipher_mode_name(mode));
	o = calloc(1, sizeof(*o));
	if (!o)
		return img_fail(err, -ENOMEM, "out of memory");
	o->iv = mode != IMG_CIPHER_ECB;
	for (int i = 0; i < 2; i++) {
		static const uint8_t no_iv[IMG_CIPHER_BLOCK_BYTES_MAX];

		o->contexts[i] = EVP_CIPHER_CTX_new();
		if (!o->contexts[i] ||
		    EVP_CipherInit_ex2(o->contexts[i], cipher, key, no_iv, i, NULL) != 1 ||
		    EVP_CIPHER_CTX_set_padding(o->contexts[i], 0) != 1) {
			openssl_close(o);
			return img_fail(err, -ENOMEM, "cipher %s: out of memory",
					img_cipher_algorithm_name(algorithm));
		}
	}
	*out = o;
	return 0;
}

static int openssl_run(void *state, bool encrypt, uint8_t *iv, uint8_t *data, size_t len)
{
	struct openssl *o = state;
	EVP_CIPHER_CTX *c = o->contexts[encrypt];
	int n;

	if (len > INT_MAX)
		return -EIO;
	if (o->iv && EVP_CipherInit_ex2(c, NULL, NULL, iv, -1, NULL) != 1)
		return -EIO;
	return EVP_CipherUpdate(c, data, &n, data, (int)len) == 1 && (size_t)n == len ? 0 : -EIO;
}

const struct img_block_cipher_ops img_block_cipher_openssl = {
	.open = openssl_open,
	.run = openssl_run,
	.close = openssl_close,
};
