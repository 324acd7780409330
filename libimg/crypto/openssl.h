/*
 * OpenSSL as the floor of ciphers uses it: a context of its own, that no program's or system's
 * configuration reaches. Private to libimg/crypto.
 */
#ifndef LIBIMG_CRYPTO_OPENSSL_H
#define LIBIMG_CRYPTO_OPENSSL_H

#include <openssl/evp.h>

#include "libimg/crypto/hash.h"

/*
 * NULL: it cannot be had. Thread-safe; made at the first call, for good. legacy: with what the default
 * provider has not (RIPEMD-160 before OpenSSL 3.0.7, CAST5), where the library comes with it.
 */
OSSL_LIB_CTX *img_openssl(bool legacy);
/* Fetched once, for good. NULL: the library has no such hash or cipher. Thread-safe. */
const EVP_MD *img_openssl_hash(enum img_hash hash);
/* The name of a hash that OpenSSL knows it by. */
const char *img_openssl_hash_name(enum img_hash hash);

#endif
