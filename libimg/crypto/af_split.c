/*
 * All stripes but the last are random. They are xored one after the other, and diffused by the hash in
 * between; the last stripe is the key, xored with the result.
 */
#include "libimg/crypto/af_split.h"

#include <errno.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"
#include "libimg/base/secret_memory.h"
#include "libimg/crypto/openssl.h"

struct splitter {
	EVP_MD_CTX *context;
	const EVP_MD *md;
	size_t digest_bytes;
	uint8_t *block; /* secret memory: key_bytes, and room for a digest */
	size_t key_bytes;
};

static void splitter_free(struct splitter *s)
{
	EVP_MD_CTX_free(s->context);
	img_secret_free(s->block);
}

static int splitter_init(struct splitter *s, enum img_hash hash, size_t key_bytes,
			 struct img_error *err)
{
	*s = (struct splitter){ .md = img_openssl_hash(hash),
				.digest_bytes = img_hash_bytes(hash),
				.key_bytes = key_bytes };
	if (!s->md)
		return img_fail(err, -ENOTSUP, "OpenSSL on this system has no hash %s",
				img_hash_name(hash));
	s->context = EVP_MD_CTX_new();
	s->block = img_secret_alloc(key_bytes + IMG_HASH_BYTES_MAX);
	if (s->context && s->block)
		return 0;
	splitter_free(s);
	return img_fail(err, -ENOMEM, "out of memory");
}

/* Each piece of the block, of a digest's length, becomes the digest of its number and itself. */
static bool diffuse(struct splitter *s)
{
	uint8_t *digest = s->block + s->key_bytes;
	bool done = true;

	for (size_t at = 0, i = 0; done && at < s->key_bytes; at += s->digest_bytes, i++) {
		size_t n = min_size(s->digest_bytes, s->key_bytes - at);
		uint8_t number[4];

		be32_store(number, (uint32_t)i);
		done = EVP_DigestInit_ex2(s->context, s->md, NULL) == 1 &&
		       EVP_DigestUpdate(s->context, number, sizeof(number)) == 1 &&
		       EVP_DigestUpdate(s->context, s->block + at, n) == 1 &&
		       EVP_DigestFinal_ex(s->context, digest, NULL) == 1;
		memcpy(s->block + at, digest, n);
	}
	return done;
}

/* out = the last stripe, xored with what the others make. */
static int combine(enum img_hash hash, const uint8_t *others, const uint8_t *last, size_t key_bytes,
		   uint32_t stripes, uint8_t *out, struct img_error *err)
{
	struct splitter s;
	bool done = true;
	int rc = splitter_init(&s, hash, key_bytes, err);

	if (rc)
		return rc;
	for (uint32_t i = 0; done && i + 1 < stripes; i++) {
		for (size_t k = 0; k < key_bytes; k++)
			s.block[k] ^= others[i * key_bytes + k];
		done = diffuse(&s);
	}
	for (size_t k = 0; k < key_bytes; k++)
		out[k] = s.block[k] ^ last[k];
	splitter_free(&s);
	return done ? 0 : img_fail(err, -EIO, "hash %s failed", img_hash_name(hash));
}

int img_af_split(enum img_hash hash, const uint8_t *key, size_t key_bytes, uint32_t stripes,
		 uint8_t *material, struct img_error *err)
{
	size_t others = key_bytes * (stripes - 1);
	int rc = img_random_bytes(material, others, err);

	return rc ? rc : combine(hash, material, key, key_bytes, stripes, material + others, err);
}

int img_af_merge(enum img_hash hash, const uint8_t *material, size_t key_bytes, uint32_t stripes,
		 uint8_t *key, struct img_error *err)
{
	return combine(hash, material, material + key_bytes * (stripes - 1), key_bytes, stripes, key,
		       err);
}
