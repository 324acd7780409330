/*
 * Identifiers of new images: random bytes, or SHA-256 of the caller's identity and what they are
 * for.
 */
#include "libimg/base/identity.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

#include "libimg/base/endian.h"
#include "libimg/base/error.h"

int img_identity_bytes(const uint64_t identity[2], const char *label, void *out, size_t len,
		       struct img_error *err)
{
	uint8_t from[16], digest[IMG_IDENTITY_BYTES_MAX];
	EVP_MD_CTX *sha;
	bool done;

	assert(len <= IMG_IDENTITY_BYTES_MAX);
	if (!identity[0] && !identity[1]) {
		ssize_t n = getrandom(out, len, 0);

		if (n >= 0 && (size_t)n == len)
			return 0;
		return img_fail(err, n < 0 ? -errno : -EIO, "no random number: %s",
				strerror(n < 0 ? errno : EIO));
	}
	le64_store(from, identity[0]);
	le64_store(from + 8, identity[1]);
	sha = EVP_MD_CTX_new();
	done = sha && EVP_DigestInit_ex(sha, EVP_sha256(), NULL) == 1 &&
	       EVP_DigestUpdate(sha, from, sizeof(from)) == 1 &&
	       EVP_DigestUpdate(sha, label, strlen(label)) == 1 &&
	       EVP_DigestFinal_ex(sha, digest, NULL) == 1;
	EVP_MD_CTX_free(sha);
	if (!done)
		return img_fail(err, -ENOMEM, "SHA-256 of an identity: out of memory");
	memcpy(out, digest, len);
	return 0;
}
