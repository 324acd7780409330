/*
 * From a passphrase to the volume's key: a slot's key derivation gives the key of its material, which
 * merged gives a candidate; the header's digest says whether it is the one.
 *
 * All active slots are tried, whatever comes out of the others, side by side on all cores: how long it takes
 * tells nothing about which one fits. What a hostile header makes take very long is estimated
 * beforehand, and left out.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/pool.h"
#include "libimg/base/secret_memory.h"
#include "libimg/crypto/af_split.h"
#include "libimg/crypto/luks_state.h"
#include "libimg/crypto/pbkdf.h"
#include "libimg/storage/storage.h"

enum {
	SLOT_SECONDS = 60, /* of processor time; longer ones are not tried */
	ALL_SECONDS = 120, /* of all that are tried, one after the other */
	ARGON2_KIB_MAX = 4 << 20,
};

/* ---- One slot ---- */

static int derive(const struct img_luks_slot *s, const uint8_t *passphrase, size_t len, uint8_t *out,
		  struct img_error *err)
{
	if (s->kdf == IMG_LUKS_PBKDF2)
		return img_pbkdf2(s->kdf_hash, passphrase, len, s->salt, s->salt_bytes,
				  s->iterations, out, s->cipher_key_bytes, err);
	return img_argon2(s->kdf == IMG_LUKS_ARGON2I ? IMG_ARGON2I : IMG_ARGON2ID, passphrase, len,
			  s->salt, s->salt_bytes, s->iterations, s->memory, s->lanes, out,
			  s->cipher_key_bytes, err);
}

static int material_cipher(const struct img_luks_slot *s, const uint8_t *passphrase, size_t len,
			   struct img_cipher **out, struct img_error *err)
{
	uint8_t *key = img_secret_alloc(IMG_LUKS_KEY_BYTES_MAX);
	int rc;

	if (!key)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = derive(s, passphrase, len, key, err);
	if (!rc)
		rc = img_cipher_new(&s->cipher, key, s->cipher_key_bytes, IMG_LUKS_SECTOR, out,
				    err);
	img_secret_free(key);
	return rc;
}

static size_t whole_sectors(uint64_t bytes)
{
	return (size_t)round_up_u64(bytes, IMG_LUKS_SECTOR);
}

/* The key that the slot gives with the passphrase, whether it is right or not. */
static int open_slot(const struct img_luks *l, const struct img_luks_slot *s,
		     const uint8_t *passphrase, size_t len, uint8_t *candidate, struct img_error *err)
{
	size_t bytes = whole_sectors(s->material_bytes);
	uint8_t *material = img_secret_alloc(bytes);
	struct img_cipher *cipher = NULL;
	int rc;

	if (!material)
		return img_fail(err, -ENOMEM, "out of memory");
	if (!range_in(l->area.off, s->material_off + s->material_bytes, l->area.storage->size))
		rc = img_fail(err, -EUCLEAN,
			      "truncated: ends at %" PRIu64 ", its key material needs %" PRIu64,
			      (uint64_t)l->area.storage->size,
			      l->area.off + s->material_off + s->material_bytes);
	else
		rc = img_storage_read(l->area.storage, l->area.off + s->material_off, material,
				      bytes, err);
	if (!rc)
		rc = material_cipher(s, passphrase, len, &cipher, err);
	if (!rc)
		rc = cipher->decrypt(cipher, 0, material, bytes);
	if (!rc)
		rc = img_af_merge(s->af_hash, material, l->key_bytes, s->stripes, candidate, err);
	img_cipher_free(cipher);
	img_secret_free(material);
	return rc;
}

int img_luks_seal_slot(const struct img_luks *l, const struct img_luks_slot *s,
		       const uint8_t *passphrase, size_t len, uint8_t *material, struct img_error *err)
{
	struct img_cipher *cipher = NULL;
	int rc = img_af_split(s->af_hash, l->key, l->key_bytes, s->stripes, material, err);

	if (!rc)
		rc = material_cipher(s, passphrase, len, &cipher, err);
	if (!rc)
		rc = cipher->encrypt(cipher, 0, material, whole_sectors(s->material_bytes));
	img_cipher_free(cipher);
	return rc;
}

int img_luks_check_digest(const struct img_luks *l, const uint8_t *candidate, bool *match,
			  struct img_error *err)
{
	const struct img_luks_digest *d = &l->digest;
	uint8_t *digest = img_secret_alloc(IMG_HASH_BYTES_MAX);
	int rc;

	if (!digest)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_pbkdf2(d->hash, candidate, l->key_bytes, d->salt, d->salt_bytes, d->iterations,
			digest, d->len, err);
	if (!rc)
		*match = img_secret_equal(digest, d->bytes, d->len);
	img_secret_free(digest);
	return rc;
}

/* ---- How long will it take? ---- */

static int estimate_pbkdf2(enum img_hash hash, size_t out_bytes, uint32_t iterations, uint64_t *ms,
			   struct img_error *err)
{
	uint64_t speed;
	int rc = img_pbkdf2_speed(hash, out_bytes, &speed, err);

	if (!rc)
		*ms += (uint64_t)iterations * 1000 / speed;
	return rc;
}

static int estimate_argon2(const struct img_luks_slot *s, uint64_t *ms, struct img_error *err)
{
	uint64_t have = (uint64_t)sysconf(_SC_PHYS_PAGES) * ((uint64_t)sysconf(_SC_PAGESIZE) / 1024);
	uint64_t speed, work;
	int rc;

	if (s->memory > ARGON2_KIB_MAX || s->memory > have)
		return img_fail_range(err, -ENOTSUP, s->memory, 8, min_u64(ARGON2_KIB_MAX, have),
				      "memory of Argon2 in KiB");
	rc = img_argon2_speed(&speed, err);
	if (!rc && mul_u64(s->memory, s->iterations, &work))
		*ms += work / speed * 1000 + work % speed * 1000 / speed;
	else if (!rc)
		*ms = UINT64_MAX / 2;
	return rc;
}

/* Of the slot and the digest of what it gives. */
static int estimate(const struct img_luks *l, const struct img_luks_slot *s, uint64_t *ms,
		    struct img_error *err)
{
	int rc;

	*ms = 0;
	rc = s->kdf == IMG_LUKS_PBKDF2 ? estimate_pbkdf2(s->kdf_hash, s->cipher_key_bytes,
							 s->iterations, ms, err)
				       : estimate_argon2(s, ms, err);
	return rc ? rc
		  : estimate_pbkdf2(l->digest.hash, l->digest.len, l->digest.iterations, ms, err);
}

static int check_time(const struct img_luks *l, const struct img_luks_slot *s, uint64_t *all_ms,
		      struct img_error *err)
{
	uint64_t ms;
	int rc = estimate(l, s, &ms, err);

	if (rc)
		return rc;
	if (ms > SLOT_SECONDS * 1000)
		return img_fail(err, -ENOTSUP,
				"its %" PRIu32 " iterations, and %" PRIu32
				" of the digest, would take about %" PRIu64
				" minutes here; up to %d seconds are allowed",
				s->iterations, l->digest.iterations, ms / 60000 + 1, SLOT_SECONDS);
	if (*all_ms + ms > ALL_SECONDS * 1000)
		return img_fail(err, -ENOTSUP,
				"it would take about %" PRIu64 " seconds, and those before it "
				"%" PRIu64 "; up to %d seconds are allowed for all",
				ms / 1000, *all_ms / 1000, ALL_SECONDS);
	*all_ms += ms;
	return 0;
}

/* ---- All slots ---- */

struct attempt {
	unsigned slot;
	bool match;
	int rc;
	struct img_error err;
	uint8_t *candidate; /* in secret memory */
};

struct attempts {
	const struct img_luks *l;
	const uint8_t *passphrase;
	size_t len;
	struct attempt list[IMG_LUKS_SLOTS_MAX];
	unsigned count;
	_Atomic unsigned next;
};

static void try_slot(const struct attempts *all, struct attempt *a)
{
	const struct img_luks_slot *s = &all->l->slots[a->slot];

	a->rc = open_slot(all->l, s, all->passphrase, all->len, a->candidate, &a->err);
	if (!a->rc)
		a->rc = img_luks_check_digest(all->l, a->candidate, &a->match, &a->err);
}

static void *try_some(void *arg)
{
	struct attempts *all = arg;
	unsigned i;

	while ((i = atomic_fetch_add(&all->next, 1)) < all->count)
		try_slot(all, &all->list[i]);
	return NULL;
}

/* Argon2 has threads, and memory, of its own: such slots one after the other. */
static void try_all(struct attempts *all)
{
	unsigned threads = (unsigned)min_u64(all->count, img_cpu_count()), started = 0;
	pthread_t others[IMG_LUKS_SLOTS_MAX];

	for (unsigned i = 0; i < all->count; i++)
		if (all->l->slots[all->list[i].slot].kdf != IMG_LUKS_PBKDF2)
			threads = 1;
	while (started + 1 < threads && !pthread_create(&others[started], NULL, try_some, all))
		started++;
	try_some(all);
	while (started)
		pthread_join(others[--started], NULL);
}

/* Choose the slots that are tried; why others are not is kept in left_out. */
static int choose(struct attempts *all, uint8_t *candidates, struct img_error *left_out)
{
	const struct img_luks *l = all->l;
	uint64_t all_ms = 0;

	for (unsigned i = 0; i < l->slot_count; i++) {
		struct img_error err = { 0 };
		int rc;

		if (!l->slots[i].active)
			continue;
		rc = check_time(l, &l->slots[i], &all_ms, &err);
		if (rc == -ENOMEM) {
			img_error_move(left_out, &err);
			return rc;
		}
		if (rc) {
			img_error_prefix(&err, rc, "key slot %u", i);
			img_error_move(left_out, &err);
			continue;
		}
		all->list[all->count] = (struct attempt){
			.slot = i, .candidate = candidates + all->count * IMG_LUKS_KEY_BYTES_MAX
		};
		all->count++;
	}
	return 0;
}

/* What came of it: the key is taken without a branch on which attempt it is of. */
static bool take(const struct attempts *all, size_t key_bytes, bool matches[IMG_LUKS_SLOTS_MAX],
		 uint8_t *key)
{
	bool any = false;

	for (unsigned i = 0; i < all->count; i++) {
		uint8_t first = (uint8_t) - (uint8_t)(all->list[i].match && !any);

		for (size_t k = 0; k < key_bytes; k++)
			key[k] = (uint8_t)((key[k] & ~first) | (all->list[i].candidate[k] & first));
		matches[all->list[i].slot] = all->list[i].match;
		any |= all->list[i].match;
	}
	return any;
}

/* No slot fits. */
static int fail(struct attempts *all, struct img_error *left_out, struct img_error *err)
{
	const char *name = all->l->area.name;
	int rc = -EKEYREJECTED;

	for (unsigned i = 0; i < all->count; i++) {
		struct attempt *a = &all->list[i];

		if (!a->rc || (rc != -EKEYREJECTED && a->rc != -EIO))
			continue;
		rc = img_fail(err, a->rc, "%s: key slot %u: %s", name, a->slot,
			      a->err.text ? a->err.text : strerror(-a->rc));
	}
	if (rc != -EKEYREJECTED)
		return rc;
	if (!all->count && left_out->code)
		return img_fail(err, left_out->code, "%s: %s", name,
				left_out->text ? left_out->text : strerror(-left_out->code));
	return img_fail(err, rc, "%s: Invalid password, cannot unlock any keyslot%s%s", name,
			left_out->code ? "; not tried: " : "",
			left_out->code && left_out->text ? left_out->text : "");
}

/* The first that failed, or one that was left out. */
static void find_untried(struct attempts *all, struct img_error *left_out, struct img_error *out)
{
	img_error_move(out, left_out);
	for (unsigned i = 0; i < all->count; i++) {
		struct attempt *a = &all->list[i];

		if (!a->rc)
			continue;
		img_fail(out, a->rc, "key slot %u: %s", a->slot,
			 a->err.text ? a->err.text : strerror(-a->rc));
		return;
	}
}

int img_luks_try_slots(const struct img_luks *l, const uint8_t *passphrase, size_t len,
		       bool matches[IMG_LUKS_SLOTS_MAX], uint8_t *key, struct img_error *untried,
		       struct img_error *err)
{
	struct attempts all = { .l = l, .passphrase = passphrase, .len = len };
	uint8_t *candidates = img_secret_alloc(IMG_LUKS_SLOTS_MAX * IMG_LUKS_KEY_BYTES_MAX);
	struct img_error left_out = { 0 };
	int rc;

	memset(matches, 0, IMG_LUKS_SLOTS_MAX * sizeof(*matches));
	if (!candidates)
		return img_fail(err, -ENOMEM, "%s: out of memory", l->area.name);
	rc = choose(&all, candidates, &left_out);
	if (!rc) {
		try_all(&all);
		if (!take(&all, l->key_bytes, matches, key))
			rc = fail(&all, &left_out, err);
		else if (untried)
			find_untried(&all, &left_out, untried);
	} else {
		img_fail(err, rc, "%s: out of memory", l->area.name);
	}
	for (unsigned i = 0; i < all.count; i++)
		img_error_clear(&all.list[i].err);
	img_error_clear(&left_out);
	img_secret_free(candidates);
	return rc;
}

int img_luks_unlock(struct img_luks *l, const uint8_t *passphrase, size_t len, struct img_error *err)
{
	bool matches[IMG_LUKS_SLOTS_MAX];
	uint8_t *key = img_secret_alloc(IMG_LUKS_KEY_BYTES_MAX);
	int rc;

	if (!key)
		return img_fail(err, -ENOMEM, "%s: out of memory", l->area.name);
	rc = img_luks_try_slots(l, passphrase, len, matches, key, NULL, err);
	if (rc) {
		img_secret_free(key);
		return rc;
	}
	img_secret_free(l->key);
	l->key = key;
	return 0;
}
