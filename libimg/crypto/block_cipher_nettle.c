/*
 * Block ciphers by libnettle, which is loaded when the first of them is used. Its contexts are plain
 * memory: they are kept in ours.
 */
#include <errno.h>
#include <nettle/nettle-meta.h>
#include <nettle/cbc.h>
#include <nettle/ctr.h>
#include <pthread.h>

#include "libimg/base/error.h"
#include "libimg/base/library.h"
#include "libimg/base/secret_memory.h"
#include "libimg/crypto/block_cipher.h"

static struct {
	const struct nettle_cipher *ciphers[IMG_CIPHER_ALGORITHMS];
	__typeof__(&nettle_cbc_encrypt) cbc_encrypt;
	__typeof__(&nettle_cbc_decrypt) cbc_decrypt;
	__typeof__(&nettle_ctr_crypt) ctr_crypt;
	bool complete;
} library;

static const char *const names[IMG_CIPHER_ALGORITHMS] = {
	[IMG_CIPHER_CAST5_128] = "nettle_cast128",
	[IMG_CIPHER_SERPENT_128] = "nettle_serpent128",
	[IMG_CIPHER_SERPENT_192] = "nettle_serpent192",
	[IMG_CIPHER_SERPENT_256] = "nettle_serpent256",
	[IMG_CIPHER_TWOFISH_128] = "nettle_twofish128",
	[IMG_CIPHER_TWOFISH_192] = "nettle_twofish192",
	[IMG_CIPHER_TWOFISH_256] = "nettle_twofish256",
};

static void load_library(void)
{
	void *handle = dlopen("libnettle.so.8", RTLD_NOW | RTLD_LOCAL);

	if (!handle)
		return;
	library.complete = true;
	for (int i = 0; i < IMG_CIPHER_ALGORITHMS; i++)
		if (names[i]) {
			library.ciphers[i] = dlsym(handle, names[i]);
			library.complete &= library.ciphers[i] != NULL;
		}
	IMG_LIBRARY_LOAD(library, handle, cbc_encrypt, "nettle_cbc_encrypt");
	IMG_LIBRARY_LOAD(library, handle, cbc_decrypt, "nettle_cbc_decrypt");
	IMG_LIBRARY_LOAD(library, handle, ctr_crypt, "nettle_ctr_crypt");
}

struct nettle {
	const struct nettle_cipher *cipher;
	enum img_cipher_mode mode;
	void *contexts[2]; /* to decrypt, to encrypt */
};

static void nettle_close(void *state)
{
	img_secret_free(state);
}

/* Contexts lie behind the state, aligned. */
static int nettle_open(enum img_cipher_algorithm algorithm, enum img_cipher_mode mode,
		       const uint8_t *key, void **out, struct img_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	const struct nettle_cipher *cipher;
	size_t state_bytes = (sizeof(struct nettle) + 63) / 64 * 64, context_bytes;
	struct nettle *n;

	pthread_once(&once, load_library);
	if (!library.complete)
		return img_fail(err, -ENOPKG,
				"cipher %s needs libnettle (libnettle.so.8), which is not installed",
				img_cipher_algorithm_name(algorithm));
	cipher = library.ciphers[algorithm];
	context_bytes = (cipher->context_size + 63) / 64 * 64;
	n = img_secret_alloc(state_bytes + 2 * context_bytes);
	if (!n)
		return img_fail(err, -ENOMEM, "out of memory");
	n->cipher = cipher;
	n->mode = mode;
	n->contexts[0] = (uint8_t *)n + state_bytes;
	n->contexts[1] = (uint8_t *)n->contexts[0] + context_bytes;
	cipher->set_decrypt_key(n->contexts[0], key);
	cipher->set_encrypt_key(n->contexts[1], key);
	*out = n;
	return 0;
}

static int nettle_run(void *state, bool encrypt, uint8_t *iv, uint8_t *data, size_t len)
{
	const struct nettle *n = state;
	const struct nettle_cipher *c = n->cipher;

	switch (n->mode) {
	case IMG_CIPHER_CBC:
		if (encrypt)
			library.cbc_encrypt(n->contexts[1], c->encrypt, c->block_size, iv, len,
					    data, data);
		else
			library.cbc_decrypt(n->contexts[0], c->decrypt, c->block_size, iv, len,
					    data, data);
		break;
	case IMG_CIPHER_CTR:
		library.ctr_crypt(n->contexts[1], c->encrypt, c->block_size, iv, len, data, data);
		break;
	default:
		(encrypt ? c->encrypt : c->decrypt)(n->contexts[encrypt], len, data, data);
		break;
	}
	return 0;
}

const struct img_block_cipher_ops img_block_cipher_nettle = {
	.open = nettle_open,
	.run = nettle_run,
	.close = nettle_close,
};
