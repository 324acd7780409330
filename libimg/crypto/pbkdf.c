/* Key derivation: PBKDF2 by OpenSSL, Argon2 by libargon2, which is loaded when it is first needed. */
#include "libimg/crypto/pbkdf.h"

#include <argon2.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/library.h"
#include "libimg/base/pool.h"
#include "libimg/base/secret_memory.h"
#include "libimg/crypto/openssl.h"

enum {
	MEASURED_NS = 25 * 1000 * 1000, /* long enough to be told from chance */
	ARGON2_MEASURED_KIB = 8 << 10,
};

/* ---- PBKDF2 ---- */

int img_pbkdf2(enum img_hash hash, const uint8_t *passphrase, size_t len, const uint8_t *salt,
	       size_t salt_bytes, uint64_t iterations, uint8_t *out, size_t out_bytes,
	       struct img_error *err)
{
	static const uint8_t none[1];
	OSSL_PARAM params[] = {
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_PASSWORD,
					(void *)(uintptr_t)(len ? passphrase : none), len),
		OSSL_PARAM_octet_string(OSSL_KDF_PARAM_SALT, (void *)(uintptr_t)salt, salt_bytes),
		OSSL_PARAM_uint64(OSSL_KDF_PARAM_ITER, &iterations),
		OSSL_PARAM_utf8_string(OSSL_KDF_PARAM_DIGEST,
				       (void *)(uintptr_t)img_openssl_hash_name(hash), 0),
		OSSL_PARAM_END,
	};
	bool done = false;

	if (!img_openssl_hash(hash))
		return img_fail(err, -ENOTSUP, "OpenSSL on this system has no hash %s",
				img_hash_name(hash));
	for (int legacy = 0; !done && legacy < 2; legacy++) {
		OSSL_LIB_CTX *library = img_openssl(legacy);
		EVP_KDF *kdf = library ? EVP_KDF_fetch(library, "PBKDF2", NULL) : NULL;
		EVP_KDF_CTX *context = kdf ? EVP_KDF_CTX_new(kdf) : NULL;

		done = context && EVP_KDF_derive(context, out, out_bytes, params) == 1;
		EVP_KDF_CTX_free(context);
		EVP_KDF_free(kdf);
	}
	return done ? 0 : img_fail(err, -ENOMEM, "PBKDF2 with hash %s failed", img_hash_name(hash));
}

/* Of this thread. */
static uint64_t processor_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

int img_pbkdf2_speed(enum img_hash hash, size_t out_bytes, uint64_t *per_second,
		     struct img_error *err)
{
	static _Atomic uint64_t known[IMG_HASHES]; /* iterations a second that make one digest */
	size_t digests = div_round_up_u64(out_bytes, img_hash_bytes(hash));
	uint64_t speed = atomic_load(&known[hash]);

	for (uint64_t iterations = 1000; !speed; iterations *= 4) {
		static const uint8_t sample[32];
		uint8_t out[IMG_HASH_BYTES_MAX];
		uint64_t start = processor_ns(), took;
		int rc = img_pbkdf2(hash, sample, sizeof(sample), sample, sizeof(sample),
				    iterations, out, img_hash_bytes(hash), err);

		if (rc)
			return rc;
		took = processor_ns() - start;
		if (took < MEASURED_NS)
			continue;
		speed = max_u64(iterations * 1000 / (took / 1000000), 1);
		atomic_store(&known[hash], speed);
	}
	*per_second = max_u64(speed / max_u64(digests, 1), 1);
	return 0;
}

/* ---- Argon2 ---- */

static struct {
	__typeof__(&argon2_ctx) run;
	__typeof__(&argon2_error_message) error_message;
	bool complete;
} library;

static void load_library(void)
{
	void *handle = dlopen("libargon2.so.1", RTLD_NOW | RTLD_LOCAL);

	if (!handle)
		return;
	library.complete = true;
	IMG_LIBRARY_LOAD(library, handle, run, "argon2_ctx");
	IMG_LIBRARY_LOAD(library, handle, error_message, "argon2_error_message");
}

int img_argon2(enum img_argon2 kind, const uint8_t *passphrase, size_t len, const uint8_t *salt,
	       size_t salt_bytes, uint32_t passes, uint32_t memory, uint32_t lanes, uint8_t *out,
	       size_t out_bytes, struct img_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	argon2_context c = {
		.out = out,
		.outlen = (uint32_t)out_bytes,
		.pwd = (uint8_t *)(uintptr_t)passphrase, /* stays: no flag says to clear it */
		.pwdlen = (uint32_t)len,
		.salt = (uint8_t *)(uintptr_t)salt,
		.saltlen = (uint32_t)salt_bytes,
		.t_cost = passes,
		.m_cost = memory,
		.lanes = lanes,
		.threads = (uint32_t)min_u64(lanes, img_cpu_count()),
		.version = ARGON2_VERSION_13,
		.flags = ARGON2_DEFAULT_FLAGS,
	};
	int rc;

	pthread_once(&once, load_library);
	if (!library.complete)
		return img_fail(err, -ENOPKG,
				"Argon2 needs libargon2 (libargon2.so.1), which is not installed");
	rc = library.run(&c, kind == IMG_ARGON2I ? Argon2_i : Argon2_id);
	if (rc == ARGON2_OK)
		return 0;
	return img_fail(err, rc == ARGON2_MEMORY_ALLOCATION_ERROR ? -ENOMEM : -EINVAL,
			"Argon2: %s", library.error_message(rc));
}

int img_argon2_speed(uint64_t *per_second, struct img_error *err)
{
	static _Atomic uint64_t known;
	uint64_t speed = atomic_load(&known);

	if (!speed) {
		static const uint8_t sample[16];
		struct timespec start, end;
		uint8_t out[16];
		uint64_t took;
		int rc;

		clock_gettime(CLOCK_MONOTONIC, &start);
		rc = img_argon2(IMG_ARGON2ID, sample, sizeof(sample), sample, sizeof(sample), 1,
				ARGON2_MEASURED_KIB, 1, out, sizeof(out), err);
		if (rc)
			return rc;
		clock_gettime(CLOCK_MONOTONIC, &end);
		took = (uint64_t)(end.tv_sec - start.tv_sec) * 1000000 +
		       (uint64_t)(end.tv_nsec / 1000) - (uint64_t)(start.tv_nsec / 1000);
		speed = ARGON2_MEASURED_KIB * UINT64_C(1000000) / max_u64(took, 1);
		atomic_store(&known, max_u64(speed, 1));
	}
	*per_second = max_u64(speed, 1);
	return 0;
}
