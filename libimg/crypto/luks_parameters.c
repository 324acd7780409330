/* How a new LUKS header is to be: from options, as QEMU names them. */
#include <errno.h>
#include <stdio.h>

#include "libimg/base/error.h"
#include "libimg/base/options.h"
#include "libimg/crypto/luks.h"

enum { ITER_TIME_MAX_MS = 30000 };

int img_luks_check_iter_time(uint64_t ms, struct img_error *err)
{
	return ms > ITER_TIME_MAX_MS ? img_fail_range(err, -EINVAL, ms, 0, ITER_TIME_MAX_MS, "iter-time")
				     : 0;
}

/* The text of an option; NULL: not given. */
static const char *option(const struct img_options *o, const char *prefix, const char *name)
{
	char key[64];

	snprintf(key, sizeof(key), "%s%s", prefix, name);
	return img_options_has(o, key) ? img_options_string(o, key) : NULL;
}

static int fail_value(const char *name, const char *value, struct img_error *err)
{
	return img_fail(err, -EINVAL, "Parameter '%s' does not accept value '%s'", name, value);
}

static int read_hash(const char *name, const char *value, enum img_hash *out, struct img_error *err)
{
	if (!value)
		return 0;
	*out = img_hash_by_name(value);
	return *out ? 0 : fail_value(name, value, err);
}

int img_luks_parameters(const struct img_options *o, const char *prefix,
			struct img_luks_parameters *out, struct img_error *err)
{
	struct img_luks_parameters p = {
		.cipher = { IMG_CIPHER_AES_256, IMG_CIPHER_XTS, IMG_IV_PLAIN64, IMG_HASH_NONE },
		.hash = IMG_HASH_SHA256,
		.iter_time_ms = IMG_LUKS_ITER_TIME_MS,
	};
	const char *algorithm = option(o, prefix, "cipher-alg");
	const char *mode = option(o, prefix, "cipher-mode");
	const char *ivgen = option(o, prefix, "ivgen-alg");
	char key[64];
	int rc;

	if (algorithm && !img_cipher_algorithm_by_name(algorithm, &p.cipher.algorithm))
		return fail_value("cipher-alg", algorithm, err);
	if (mode && !img_cipher_mode_by_name(mode, &p.cipher.mode))
		return fail_value("cipher-mode", mode, err);
	if (ivgen && !img_iv_generator_by_name(ivgen, &p.cipher.ivgen))
		return fail_value("ivgen-alg", ivgen, err);
	rc = read_hash("ivgen-hash-alg", option(o, prefix, "ivgen-hash-alg"), &p.cipher.ivgen_hash,
		       err);
	if (!rc)
		rc = read_hash("hash-alg", option(o, prefix, "hash-alg"), &p.hash, err);
	if (rc)
		return rc;
	if (p.cipher.ivgen == IMG_IV_ESSIV && !p.cipher.ivgen_hash)
		p.cipher.ivgen_hash = IMG_HASH_SHA256;
	/* others could not open what we would make of it */
	if (p.cipher.algorithm == IMG_CIPHER_3DES)
		return img_fail(err, -ENOTSUP, "cipher-alg: Algorithm '3des' not supported by LUKS");
	snprintf(key, sizeof(key), "%siter-time", prefix);
	if (img_options_has(o, key))
		p.iter_time_ms = img_options_number(o, key);
	rc = img_luks_check_iter_time(p.iter_time_ms, err);
	if (!rc)
		rc = img_cipher_check(&p.cipher, err);
	if (!rc)
		*out = p;
	return rc;
}
