/* LUKS of either version: opening, the cipher, the report. */
#include "libimg/crypto/luks.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"
#include "libimg/base/value.h"
#include "libimg/crypto/luks_state.h"
#include "libimg/storage/storage.h"

enum { PROBE_BYTES = 8 };

unsigned img_luks_probe(const uint8_t *head, size_t len)
{
	return len >= PROBE_BYTES && !memcmp(head, "LUKS\xba\xbe", 6) ? be16_load(head + 6) : 0;
}

/* ---- Opening ---- */

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
