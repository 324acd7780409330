/* What both versions of LUKS have in common: opening, the cipher, options, the report. */
#include "libimg/crypto/luks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"
#include "libimg/base/options.h"
#include "libimg/base/secret_memory.h"
#include "libimg/base/value.h"
#include "libimg/crypto/luks_state.h"
#include "libimg/storage/storage.h"

enum { PROBE_BYTES = 8 };

unsigned img_luks_probe(const uint8_t *head, size_t len)
{
	return len >= PROBE_BYTES && !memcmp(head, "LUKS\xba\xbe", 6) ? be16_load(head + 6) : 0;
}

/* ---- Ciphers as headers name them ---- */

int img_luks_parse_cipher(const char *family, const char *mode, size_t key_bytes,
			  struct img_cipher_spec *out, struct img_error *err)
{
	struct img_cipher_spec spec = { .ivgen = IMG_IV_PLAIN };
	char text[32], *ivgen, *hash;

	snprintf(text, sizeof(text), "%s", mode);
	ivgen = strchr(text, '-');
	if (!ivgen)
		return img_fail(err, -EUCLEAN, "cipher mode is '%s', expected one such as xts-plain64",
				text);
	*ivgen++ = '\0';
	hash = strchr(ivgen, ':');
	if (hash)
		*hash++ = '\0';
	if (!img_cipher_mode_by_name(text, &spec.mode))
		return img_fail(err, -ENOTSUP, "cipher mode %s is not supported", text);
	if (!img_iv_generator_by_name(ivgen, &spec.ivgen))
		return img_fail(err, -ENOTSUP, "IV generator %s is not supported", ivgen);
	spec.ivgen_hash = hash ? img_hash_by_name(hash) : IMG_HASH_NONE;
	if (hash && !spec.ivgen_hash)
		return img_fail(err, -ENOTSUP, "hash %s of the IV generator is not supported", hash);
	if (!img_cipher_is_family(family))
		return img_fail(err, -ENOTSUP, "cipher %s is not supported", family);
	if (!img_cipher_by_family(family, spec.mode == IMG_CIPHER_XTS ? key_bytes / 2 : key_bytes,
				  &spec.algorithm) ||
	    img_cipher_key_bytes(spec.algorithm, spec.mode) != key_bytes)
		return img_fail(err, -EUCLEAN,
				"key is %zu bytes, which cipher %s has not in mode %s", key_bytes,
				family, text);
	*out = spec;
	return img_cipher_check(&spec, err);
}

void img_luks_print_mode(const struct img_cipher_spec *spec, char out[32])
{
	snprintf(out, 32, "%s-%s%s%s", img_cipher_mode_name(spec->mode),
		 img_iv_generator_name(spec->ivgen), spec->ivgen_hash ? ":" : "",
		 spec->ivgen_hash ? img_hash_name(spec->ivgen_hash) : "");
}

/* ---- Opening ---- */

struct img_luks *img_luks_new(const struct img_luks_area *area)
{
	struct img_luks *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->area = *area;
	l->area.name = l->name = strdup(area->name);
	if (l->name)
		return l;
	free(l);
	return NULL;
}

int img_luks_open(const struct img_luks_area *area, struct img_luks **out, struct img_error *err)
{
	uint8_t head[PROBE_BYTES];
	struct img_luks *l;
	int rc;

	if (!range_in(area->off, sizeof(head), area->storage->size) || area->bytes < sizeof(head))
		return img_fail(err, -EMEDIUMTYPE, "%s: not a LUKS volume", area->name);
	rc = img_storage_read(area->storage, area->off, head, sizeof(head), err);
	if (rc)
		return rc;
	l = img_luks_new(area);
	if (!l)
		return img_fail(err, -ENOMEM, "%s: out of memory", area->name);
	l->version = img_luks_probe(head, sizeof(head));
	if (l->version == 1)
		rc = img_luks1_open(l, err);
	else if (l->version == 2 || !l->version) /* its second copy may be sound */
		rc = img_luks2_open(l, err);
	else
		rc = img_fail(err, -ENOTSUP, "%s: LUKS version %u is not supported", area->name,
			      l->version);
	if (rc)
		img_luks_free(l);
	else
		*out = l;
	return rc;
}

void img_luks_free(struct img_luks *l)
{
	if (!l)
		return;
	img_secret_free(l->key);
	free(l->name);
	free(l);
}

unsigned img_luks_version(const struct img_luks *l)
{
	return l->version;
}

uint64_t img_luks_payload_off(const struct img_luks *l)
{
	return l->payload_off;
}

uint64_t img_luks_payload_bytes(const struct img_luks *l)
{
	return l->payload_bytes;
}

uint64_t img_luks_tweak(const struct img_luks *l)
{
	return l->iv_offset * IMG_LUKS_SECTOR;
}

uint32_t img_luks_sector_bytes(const struct img_luks *l)
{
	return l->sector_bytes;
}

int img_luks_cipher(const struct img_luks *l, struct img_cipher **out, struct img_error *err)
{
	int rc = img_cipher_new(&l->cipher, l->key, l->key_bytes, l->sector_bytes, out, err);

	return rc ? img_error_prefix(err, rc, "%s", l->area.name) : 0;
}

/* ---- Options ---- */

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

/* ---- The report ---- */

void img_luks_check(const struct img_luks *l, void (*defect)(void *user, const char *text), void *user)
{
	const struct img_luks_area *a = &l->area;
	struct img_error err = { 0 };

	for (unsigned i = 0; i < l->slot_count; i++) {
		const struct img_luks_slot *s = &l->slots[i];
		uint64_t end = a->off + s->material_off + s->material_bytes;

		if (!s->active || end <= a->storage->size)
			continue;
		img_fail(&err, -EUCLEAN,
			 "%s: key slot %u: truncated: ends at %" PRIu64 ", its key material needs %" PRIu64,
			 a->name, i, atomic_load(&a->storage->size), end);
		defect(user, err.text ? err.text : "out of memory");
	}
	if (l->copies_differ) {
		img_fail(&err, -EUCLEAN, "%s: %s", a->name, l->copies_differ);
		defect(user, err.text ? err.text : "out of memory");
	}
	img_error_clear(&err);
}

static void add_slots(const struct img_luks *l, struct img_value *out)
{
	struct img_value *slots = img_value_add_array(out, "slots");
	static const char *const kdfs[] = { [IMG_LUKS_PBKDF2] = "pbkdf2",
					    [IMG_LUKS_ARGON2I] = "argon2i",
					    [IMG_LUKS_ARGON2ID] = "argon2id" };

	for (unsigned i = 0; i < l->slot_count; i++) {
		const struct img_luks_slot *s = &l->slots[i];
		struct img_value *v = img_value_add_object(slots, NULL);

		img_value_add_bool(v, "active", s->active);
		if (s->active && l->version == 2)
			img_value_add_string(v, "kdf", kdfs[s->kdf]);
		if (s->active)
			img_value_add_uint(v, "iters", s->iterations);
		if (s->active && s->kdf != IMG_LUKS_PBKDF2) {
			img_value_add_uint(v, "memory", (uint64_t)s->memory << 10);
			img_value_add_uint(v, "lanes", s->lanes);
		}
		if (s->active || l->version == 1)
			img_value_add_uint(v, "key-offset", s->material_off);
		if (s->active)
			img_value_add_uint(v, "stripes", s->stripes);
	}
}

/* In the order in which QEMU prints it. */
void img_luks_info(const struct img_luks *l, const char *format, struct img_value *out)
{
	if (l->version != 1)
		img_value_add_uint(out, "version", l->version);
	img_value_add_string(out, "ivgen-alg", img_iv_generator_name(l->cipher.ivgen));
	img_value_add_bool(out, "detached-header", l->area.detached || !l->payload_off);
	img_value_add_string(out, "hash-alg", img_hash_name(l->version == 1 ? l->hash : l->digest.hash));
	img_value_add_string(out, "cipher-alg", img_cipher_algorithm_name(l->cipher.algorithm));
	img_value_add_string(out, "uuid", l->uuid);
	if (format)
		img_value_add_string(out, "format", format);
	if (l->cipher.ivgen_hash)
		img_value_add_string(out, "ivgen-hash-alg", img_hash_name(l->cipher.ivgen_hash));
	img_value_add_string(out, "cipher-mode", img_cipher_mode_name(l->cipher.mode));
	add_slots(l, out);
	img_value_add_uint(out, "payload-offset", l->payload_off);
	if (l->version != 1)
		img_value_add_uint(out, "sector-size", l->sector_bytes);
	img_value_add_uint(out, "master-key-iters", l->digest.iterations);
}
