/*
 * Objects that descriptions speak of by an id: passphrases, certificates for TLS. As QEMU's --object
 * has them: "secret,id=ID,data=TEXT|file=PATH[,format=raw|base64]
 * [,keyid=ID,iv=BASE64]", "tls-creds-x509,id=ID,dir=PATH[,verify-peer=off]", "tls-creds-psk,id=ID,dir=PATH[,username=NAME]".
 */
#ifndef LIBIMG_BASE_SECRETS_H
#define LIBIMG_BASE_SECRETS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/img.h"

/* The type of the object with that id; NULL: there is none (also if s is NULL). */
const char *img_secrets_type(const struct img_secrets *s, const char *id);
/* A property as it was given; NULL: it was not. */
const char *img_secrets_property(const struct img_secrets *s, const char *id, const char *key);
/* The bytes of a secret, decoded; borrowed from s. -ENOENT: no secret has that id. */
int img_secrets_bytes(const struct img_secrets *s, const char *id, const uint8_t **bytes,
		      size_t *len, struct img_error *err);

/* Is there a callback? s may be NULL. */
bool img_secrets_can_ask(const struct img_secrets *s);

/* What is done with a passphrase, which is there until this returns. -EKEYREJECTED: it is wrong. */
typedef int img_secret_use_fn(void *user, const uint8_t *bytes, size_t len, struct img_error *err);
/*
 * Let use() have the secret called id; id NULL: one that the callback gives, up to three times while it
 * is wrong. What use() returns; -ENOENT: no secret has that id; -ENOKEY: there is nobody to ask, or no
 * answer.
 */
int img_secrets_use(const struct img_secrets *s, const char *id,
		    const struct img_secret_request *request, img_secret_use_fn *use, void *user,
		    struct img_error *err);

#endif
