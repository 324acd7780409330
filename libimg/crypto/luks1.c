/*
 * LUKS version 1: validating headers, making them, changing key slots. spec/luks.md.
 *
 * A slot's material is durable before the header says that the slot is in use; the header says that it is
 * free before its material is overwritten.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/guid.h"
#include "libimg/base/secret_memory.h"
#include "libimg/crypto/luks_state.h"
#include "libimg/crypto/pbkdf.h"
#include "libimg/storage/storage.h"

enum {
	ITERATIONS_MIN = 1000,
	DIGEST_SHARE = 8, /* of a slot's iterations */
};

/* ---- Validating ---- */

static uint64_t slot_off(const struct img_luks1_slot *s)
{
	return (uint64_t)s->start * IMG_LUKS_SECTOR;
}

static int check_slot(const struct img_luks *l, const struct img_luks1_header *h, size_t i,
		      struct img_error *err)
{
	const struct img_luks1_slot *s = &h->slots[i];
	uint64_t bytes = img_luks1_material_bytes(h->key_bytes), off = slot_off(s);
	uint64_t payload = (uint64_t)h->payload_start * IMG_LUKS_SECTOR;

	if (s->stripes != IMG_LUKS_STRIPES)
		return img_fail_range(err, -EUCLEAN, s->stripes, IMG_LUKS_STRIPES, IMG_LUKS_STRIPES,
				      "stripes of key slot %zu", i);
	if (s->active && !s->iterations)
		return img_fail_range(err, -EUCLEAN, 0, 1, UINT32_MAX, "iterations of key slot %zu", i);
	if (off < IMG_LUKS1_ALIGN)
		return img_fail(err, -EUCLEAN,
				"key slot %zu overlaps the header: its material is at %" PRIu64
				", expected at least %d",
				i, off, IMG_LUKS1_ALIGN);
	if (!range_in(off, bytes, l->area.bytes))
		return img_fail(err, -EUCLEAN,
				"key slot %zu: its material at %" PRIu64 " takes %" PRIu64
				" bytes, expected an end within %" PRIu64,
				i, off, bytes, l->area.bytes);
	if (payload && !l->area.detached && !range_in(off, bytes, payload))
		return img_fail(err, -EUCLEAN,
				"key slot %zu overlaps the payload: its material is at %" PRIu64
				" to %" PRIu64 ", the payload at %" PRIu64,
				i, off, off + bytes, payload);
	for (size_t k = 0; k < i; k++)
		if (ranges_overlap(off, bytes, slot_off(&h->slots[k]), bytes))
			return img_fail(err, -EUCLEAN,
					"key slot %zu at %" PRIu64 " overlaps key slot %zu at %" PRIu64, i,
					off, k, slot_off(&h->slots[k]));
	return 0;
}

static void set_slot(struct img_luks *l, size_t i)
{
	const struct img_luks1_slot *from = &l->one.slots[i];
	struct img_luks_slot *s = &l->slots[i];

	*s = (struct img_luks_slot){
		.active = from->active,
		.kdf = IMG_LUKS_PBKDF2,
		.kdf_hash = l->hash,
		.iterations = from->iterations,
		.salt_bytes = IMG_LUKS1_SALT_BYTES,
		.af_hash = l->hash,
		.stripes = from->stripes,
		.material_off = slot_off(from),
		.material_bytes = img_luks1_material_bytes(l->one.key_bytes),
		.cipher = l->cipher,
		.cipher_key_bytes = l->key_bytes,
	};
	memcpy(s->salt, from->salt, IMG_LUKS1_SALT_BYTES);
}

/* From l->one, all of it. */
static void set_header(struct img_luks *l)
{
	const struct img_luks1_header *h = &l->one;

	l->version = 1;
	l->key_bytes = h->key_bytes;
	l->payload_off = (uint64_t)h->payload_start * IMG_LUKS_SECTOR;
	l->sector_bytes = IMG_LUKS_SECTOR;
	snprintf(l->uuid, sizeof(l->uuid), "%.*s", IMG_LUKS_UUID_CHARS, h->uuid);
	l->digest = (struct img_luks_digest){ .hash = l->hash,
					      .iterations = h->digest_iterations,
					      .salt_bytes = IMG_LUKS1_SALT_BYTES,
					      .len = IMG_LUKS1_DIGEST_BYTES };
	memcpy(l->digest.salt, h->digest_salt, IMG_LUKS1_SALT_BYTES);
	memcpy(l->digest.bytes, h->digest, IMG_LUKS1_DIGEST_BYTES);
	l->slot_count = IMG_LUKS1_SLOTS;
	for (size_t i = 0; i < IMG_LUKS1_SLOTS; i++)
		set_slot(l, i);
}

static int validate(struct img_luks *l, const struct img_luks1_header *h, struct img_error *err)
{
	int rc;

	if (!h->key_bytes || h->key_bytes > IMG_LUKS_KEY_BYTES_MAX)
		return img_fail_range(err, -EUCLEAN, h->key_bytes, 1, IMG_LUKS_KEY_BYTES_MAX,
				      "key bytes");
	rc = img_luks_parse_cipher(h->cipher, h->mode, h->key_bytes, &l->cipher, err);
	if (rc)
		return rc;
	l->hash = img_hash_by_name(h->hash);
	if (!l->hash)
		return img_fail(err, -ENOTSUP, "hash %s is not supported", h->hash);
	if (!h->digest_iterations)
		return img_fail_range(err, -EUCLEAN, 0, 1, UINT32_MAX, "iterations of the digest");
	/* 0: a detached header, whose payload is elsewhere */
	if (!l->area.detached && h->payload_start &&
	    h->payload_start < IMG_LUKS1_ALIGN / IMG_LUKS_SECTOR)
		return img_fail(err, -EUCLEAN,
				"payload offset is %" PRIu32 " sectors, expected at least %d",
				h->payload_start, IMG_LUKS1_ALIGN / IMG_LUKS_SECTOR);
	for (size_t i = 0; i < IMG_LUKS1_SLOTS && !rc; i++)
		rc = check_slot(l, h, i, err);
	return rc;
}

int img_luks1_open(struct img_luks *l, struct img_error *err)
{
	const struct img_luks_area *a = &l->area;
	uint8_t bytes[IMG_LUKS1_BYTES];
	int rc;

	if (a->bytes < sizeof(bytes) || !range_in(a->off, sizeof(bytes), a->storage->size))
		return img_fail(err, -EUCLEAN,
				"%s: truncated: ends at %" PRIu64 ", the LUKS header at %" PRIu64
				" needs %" PRIu64,
				a->name, min_u64(a->storage->size, a->off + a->bytes), a->off,
				a->off + sizeof(bytes));
	rc = img_storage_read(a->storage, a->off, bytes, sizeof(bytes), err);
	if (rc)
		return rc;
	rc = img_luks1_parse(bytes, &l->one, err);
	if (!rc)
		rc = validate(l, &l->one, err);
	if (rc)
		return img_error_prefix(err, rc, "%s: LUKS header at %" PRIu64, a->name, a->off);
	set_header(l);
	return 0;
}

/* ---- Writing ---- */

static int iterations_for(enum img_hash hash, size_t out_bytes, uint64_t ms, uint32_t *out,
			  struct img_error *err)
{
	uint64_t speed, n;
	int rc = img_pbkdf2_speed(hash, out_bytes, &speed, err);

	if (rc)
		return rc;
	if (!mul_u64(speed, ms, &n) || n / 1000 > UINT32_MAX)
		return img_fail(err, -EINVAL,
				"iter-time is %" PRIu64 ", expected one of at most %" PRIu32
				" iterations",
				ms, UINT32_MAX);
	*out = (uint32_t)max_u64(n / 1000, ITERATIONS_MIN);
	return 0;
}

static int write_header(const struct img_luks *l, const struct img_luks1_header *h,
			struct img_error *err)
{
	uint8_t bytes[IMG_LUKS1_BYTES];

	img_luks1_encode(h, bytes);
	return img_storage_write(l->area.storage, l->area.off, bytes, sizeof(bytes), err);
}

/* Write slot i's material, for the passphrase; l->one has the slot then, but not the file's header. */
static int write_slot(struct img_luks *l, unsigned i, const uint8_t *passphrase, size_t len,
		      uint64_t iter_time_ms, struct img_error *err)
{
	struct img_luks1_slot *s = &l->one.slots[i];
	size_t bytes = round_up_u64(img_luks1_material_bytes(l->one.key_bytes), IMG_LUKS_SECTOR);
	uint8_t *material = img_secret_alloc(bytes);
	int rc;

	if (!material)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = iterations_for(l->hash, l->key_bytes, iter_time_ms, &s->iterations, err);
	if (!rc)
		rc = img_random_bytes(s->salt, sizeof(s->salt), err);
	if (!rc) {
		s->active = true;
		set_slot(l, i);
		rc = img_luks_seal_slot(l, &l->slots[i], passphrase, len, material, err);
	}
	if (!rc)
		rc = img_storage_write(l->area.storage, l->area.off + slot_off(s), material, bytes,
				       err);
	img_secret_free(material);
	return rc;
}

uint64_t img_luks_header_bytes(const struct img_luks_parameters *p)
{
	size_t key = img_cipher_key_bytes(p->cipher.algorithm, p->cipher.mode);

	return IMG_LUKS1_ALIGN + IMG_LUKS1_SLOTS * img_luks1_slot_bytes((uint32_t)key);
}

static int make_header(struct img_luks *l, const struct img_luks_parameters *p, struct img_error *err)
{
	static const uint64_t random[2];
	uint8_t guid[IMG_GUID_BYTES], *digest;
	struct img_luks1_header *h = &l->one;
	uint64_t slot_bytes;
	int rc;

	l->cipher = p->cipher;
	l->hash = p->hash;
	h->key_bytes = (uint32_t)img_cipher_key_bytes(p->cipher.algorithm, p->cipher.mode);
	slot_bytes = img_luks1_slot_bytes(h->key_bytes);
	snprintf(h->cipher, sizeof(h->cipher), "%s", img_cipher_family(p->cipher.algorithm));
	img_luks_print_mode(&p->cipher, h->mode);
	snprintf(h->hash, sizeof(h->hash), "%s", img_hash_name(p->hash));
	if (!l->area.detached)
		h->payload_start = (uint32_t)(img_luks_header_bytes(p) / IMG_LUKS_SECTOR);
	for (size_t i = 0; i < IMG_LUKS1_SLOTS; i++) {
		h->slots[i].stripes = IMG_LUKS_STRIPES;
		h->slots[i].start =
			(uint32_t)((IMG_LUKS1_ALIGN + i * slot_bytes) / IMG_LUKS_SECTOR);
	}
	rc = img_guid_new(random, "luks", guid, err);
	if (!rc)
		img_guid_print(guid, h->uuid);
	if (!rc)
		rc = img_random_bytes(h->digest_salt, sizeof(h->digest_salt), err);
	if (!rc)
		rc = iterations_for(p->hash, IMG_LUKS1_DIGEST_BYTES, p->iter_time_ms / DIGEST_SHARE,
				    &h->digest_iterations, err);
	if (rc)
		return rc;
	digest = img_secret_alloc(IMG_LUKS1_DIGEST_BYTES);
	if (!digest)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_pbkdf2(p->hash, l->key, h->key_bytes, h->digest_salt, sizeof(h->digest_salt),
			h->digest_iterations, digest, IMG_LUKS1_DIGEST_BYTES, err);
	memcpy(h->digest, digest, IMG_LUKS1_DIGEST_BYTES);
	img_secret_free(digest);
	set_header(l);
	return rc;
}

int img_luks_create(const struct img_luks_area *area, const struct img_luks_parameters *p,
		    const uint8_t *passphrase, size_t len, struct img_luks **out,
		    struct img_error *err)
{
	struct img_luks *l = img_luks_new(area);
	int rc;

	if (!l)
		return img_fail(err, -ENOMEM, "%s: out of memory", area->name);
	l->key = img_secret_alloc(IMG_LUKS_KEY_BYTES_MAX);
	rc = l->key ? 0 : img_fail(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = img_random_bytes(
			l->key, img_cipher_key_bytes(p->cipher.algorithm, p->cipher.mode), err);
	if (!rc)
		rc = make_header(l, p, err);
	if (!rc)
		rc = write_slot(l, 0, passphrase, len, p->iter_time_ms, err);
	if (!rc)
		rc = write_header(l, &l->one, err);
	if (rc) {
		img_luks_free(l);
		return img_error_prefix(err, rc, "%s", area->name);
	}
	*out = l;
	return 0;
}

/* ---- Changing key slots ---- */

static unsigned active_slots(const struct img_luks *l)
{
	unsigned n = 0;

	for (size_t i = 0; i < IMG_LUKS1_SLOTS; i++)
		n += l->one.slots[i].active;
	return n;
}

/* The header first; then its material is of no use to anybody. */
static int erase_slot(struct img_luks *l, unsigned i, struct img_error *err)
{
	size_t bytes = (size_t)img_luks1_material_bytes(l->one.key_bytes);
	struct img_luks1_slot *s = &l->one.slots[i];
	uint8_t *noise = malloc(bytes);
	int rc;

	if (!noise)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_random_bytes(noise, bytes, err);
	if (!rc) {
		const struct img_luks1_slot before = *s;

		s->active = false;
		s->iterations = 0;
		memset(s->salt, 0, sizeof(s->salt));
		rc = write_header(l, &l->one, err);
		if (rc)
			*s = before;
		set_slot(l, i);
	}
	if (!rc)
		rc = img_storage_sync(l->area.storage, err);
	if (!rc)
		rc = img_storage_write(l->area.storage, l->area.off + slot_off(s), noise, bytes,
				       err);
	if (!rc)
		rc = img_storage_sync(l->area.storage, err);
	free(noise);
	return rc;
}

/* The free slot i gets the new passphrase. */
static int fill_slot(struct img_luks *l, unsigned i, const struct img_luks_change *c,
		     struct img_error *err)
{
	const struct img_luks1_slot before = l->one.slots[i];
	int rc = write_slot(l, i, c->new_passphrase, c->new_bytes,
			    c->iter_time_ms ? *c->iter_time_ms : IMG_LUKS_ITER_TIME_MS, err);

	if (!rc)
		rc = img_storage_sync(l->area.storage, err);
	if (!rc)
		rc = write_header(l, &l->one, err);
	if (!rc)
		rc = img_storage_sync(l->area.storage, err);
	if (rc) {
		l->one.slots[i] = before;
		set_slot(l, i);
	}
	return rc;
}

/* IMG_LUKS1_SLOTS: none. */
static unsigned free_slot(const struct img_luks *l)
{
	unsigned i = 0;

	while (i < IMG_LUKS1_SLOTS && l->one.slots[i].active)
		i++;
	return i;
}

/*
 * An active slot whose material is half overwritten must not be taken for one: it is erased first. A free one has the
 * new passphrase meanwhile, for a disk that nobody can open is lost; where none is free seven others open it.
 */
static int overwrite_slot(struct img_luks *l, unsigned i, const struct img_luks_change *c,
			  struct img_error *err)
{
	unsigned meanwhile = free_slot(l);
	bool have = meanwhile < IMG_LUKS1_SLOTS;
	int rc = have ? fill_slot(l, meanwhile, c, err) : 0;

	if (!rc)
		rc = erase_slot(l, i, err);
	if (!rc)
		rc = fill_slot(l, i, c, err);
	if (!rc && have)
		rc = erase_slot(l, meanwhile, err);
	return rc;
}

static int add_slot(struct img_luks *l, const struct img_luks_change *c, struct img_error *err)
{
	unsigned i = c->keyslot < 0 ? free_slot(l) : (unsigned)c->keyslot;
	int rc;

	if (!l->key)
		return img_fail(err, -ENOKEY, "it was opened without its passphrase");
	if (!c->new_passphrase)
		return img_fail(err, -EINVAL, "'new-secret' is required to activate a keyslot");
	if (c->old_passphrase)
		return img_fail(err, -EINVAL, "'old-secret' must not be given when activating keyslots");
	if (i == IMG_LUKS1_SLOTS)
		return img_fail(err, -ENOSPC, "Can't add a keyslot - all keyslots are in use");
	if (l->one.slots[i].active && !c->force)
		return img_fail(err, -EINVAL,
				"Refusing to overwrite active keyslot %u - please erase it first", i);
	rc = img_luks_check_iter_time(c->iter_time_ms ? *c->iter_time_ms : 0, err);
	if (rc)
		return rc;
	return l->one.slots[i].active ? overwrite_slot(l, i, c, err) : fill_slot(l, i, c, err);
}

/* Which slots are to be erased. */
static int choose_slots(const struct img_luks *l, const struct img_luks_change *c,
			bool chosen[IMG_LUKS_SLOTS_MAX], struct img_error *err)
{
	struct img_error untried = { 0 };
	bool fits[IMG_LUKS_SLOTS_MAX] = { false };
	uint8_t *key = NULL;
	int rc = 0;

	if (c->old_passphrase) {
		key = img_secret_alloc(IMG_LUKS_KEY_BYTES_MAX);
		if (!key)
			return img_fail(err, -ENOMEM, "out of memory");
		rc = img_luks_try_slots(l, c->old_passphrase, c->old_bytes, fits, key, &untried,
					err);
		img_secret_free(key);
		if (rc && rc != -EKEYREJECTED)
			return rc;
	}
	if (untried.code && c->keyslot < 0) {
		rc = img_fail(err, untried.code,
			      "%s: whether it has the (old) password as well is not known; erase by 'keyslot'",
			      img_error_text(&untried));
		img_error_clear(&untried);
		return rc;
	}
	img_error_clear(&untried);
	if (c->keyslot < 0) {
		memcpy(chosen, fits, sizeof(fits));
		return rc ? img_fail(err, rc,
				     "No keyslots match given (old) password for erase operation")
			  : 0;
	}
	if (!l->one.slots[c->keyslot].active)
		return img_fail(err, -EINVAL, "Given keyslot %d is already erased (inactive)",
				c->keyslot);
	if (c->old_passphrase && !fits[c->keyslot])
		return img_fail(err, -EKEYREJECTED,
				"Given keyslot %d doesn't contain the given old password for erase "
				"operation",
				c->keyslot);
	chosen[c->keyslot] = true;
	return 0;
}

static int erase_slots(struct img_luks *l, const struct img_luks_change *c, struct img_error *err)
{
	bool chosen[IMG_LUKS_SLOTS_MAX] = { false };
	unsigned n = 0;
	int rc;

	if (c->new_passphrase)
		return img_fail(err, -EINVAL, "'new-secret' must not be given when erasing keyslots");
	if (c->iter_time_ms)
		return img_fail(err, -EINVAL, "'iter-time' must not be given when erasing keyslots");
	if (c->keyslot < 0 && !c->old_passphrase)
		return img_fail(err, -EINVAL,
				"To erase keyslot(s), either explicit keyslot index or the password "
				"currently contained in them must be given");
	rc = choose_slots(l, c, chosen, err);
	if (rc)
		return rc;
	for (size_t i = 0; i < IMG_LUKS1_SLOTS; i++)
		n += chosen[i];
	if (n == active_slots(l) && !c->force && c->keyslot >= 0)
		return img_fail(err, -EINVAL,
				"Attempt to erase the only active keyslot %d which will erase all the "
				"data in the image irreversibly - refusing operation",
				c->keyslot);
	if (n == active_slots(l) && !c->force)
		return img_fail(err, -EINVAL,
				"All the active keyslots match the (old) password that was given and "
				"erasing them will erase all the data in the image irreversibly - "
				"refusing operation");
	for (unsigned i = 0; i < IMG_LUKS1_SLOTS && !rc; i++)
		if (chosen[i])
			rc = erase_slot(l, i, err);
	return rc;
}

int img_luks_change_slots(struct img_luks *l, const struct img_luks_change *c, struct img_error *err)
{
	int rc;

	if (l->version != 1)
		rc = img_fail(err, -ENOTSUP, "key slots of LUKS version %u are not changed: cryptsetup does it",
			      l->version);
	else if (c->keyslot >= IMG_LUKS1_SLOTS)
		rc = img_fail(err, -EINVAL,
			      "Invalid keyslot %d specified, must be between 0 and %d", c->keyslot,
			      IMG_LUKS1_SLOTS - 1);
	else
		rc = c->active ? add_slot(l, c, err) : erase_slots(l, c, err);
	return rc ? img_error_prefix(err, rc, "%s", l->area.name) : 0;
}
