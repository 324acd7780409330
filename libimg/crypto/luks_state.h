/*
 * What an open LUKS header is to its parts, of either version. Private to libimg/crypto.
 */
#ifndef LIBIMG_CRYPTO_LUKS_STATE_H
#define LIBIMG_CRYPTO_LUKS_STATE_H

#include <stdarg.h>

#include "libimg/crypto/luks.h"
#include "libimg/crypto/luks1_layout.h"

enum {
	IMG_LUKS_SLOTS_MAX = 32, /* of version 2 */
	IMG_LUKS_KEY_BYTES_MAX = IMG_CIPHER_KEY_BYTES_MAX,
	IMG_LUKS_SALT_BYTES_MAX = 64,
	IMG_LUKS_SECTOR = 512, /* key slots are encrypted in such sectors */
	IMG_LUKS_STRIPES = 4000,
	IMG_LUKS_UUID_CHARS = 36,
};

enum img_luks_kdf {
	IMG_LUKS_PBKDF2,
	IMG_LUKS_ARGON2I,
	IMG_LUKS_ARGON2ID,
};

/* A key slot: the volume's key, encrypted by a passphrase. */
struct img_luks_slot {
	bool active;
	enum img_luks_kdf kdf;
	enum img_hash kdf_hash; /* PBKDF2 */
	uint32_t iterations;	/* PBKDF2; passes of Argon2 */
	uint32_t memory, lanes; /* Argon2; memory in KiB */
	uint8_t salt[IMG_LUKS_SALT_BYTES_MAX];
	size_t salt_bytes;
	enum img_hash af_hash;
	uint32_t stripes;
	uint64_t material_off, material_bytes; /* from the header's start */
	struct img_cipher_spec cipher;	       /* of the material */
	size_t cipher_key_bytes;
};

struct img_luks_digest {
	enum img_hash hash;
	uint32_t iterations;
	uint8_t salt[IMG_LUKS_SALT_BYTES_MAX];
	size_t salt_bytes;
	uint8_t bytes[IMG_HASH_BYTES_MAX];
	size_t len;
};

struct img_luks {
	struct img_luks_area area;
	char *name; /* area.name */
	unsigned version;
	struct img_cipher_spec cipher;
	size_t key_bytes;
	enum img_hash hash; /* version 1: of key slots and digest */
	uint64_t payload_off, payload_bytes;
	uint32_t sector_bytes;
	uint64_t iv_offset; /* in units of 512 bytes */
	char uuid[IMG_LUKS_UUID_CHARS + 1];
	struct img_luks_digest digest;
	struct img_luks_slot slots[IMG_LUKS_SLOTS_MAX];
	unsigned slot_count;
	const char *copies_differ;   /* version 2: what is wrong with one of the two headers; NULL: nothing */
	struct img_luks1_header one; /* version 1: as it is in the file */
	uint8_t *key;		     /* secret memory; NULL: locked */
};

/* Empty. NULL: out of memory. */
struct img_luks *img_luks_new(const struct img_luks_area *area);

/*
 * "xts-plain64", "cbc-essiv:sha256" with a family and a key. err: without the structure's name. -EUCLEAN, -ENOTSUP.
 */
int img_luks_parse_cipher(const char *family, const char *mode, size_t key_bytes,
			  struct img_cipher_spec *out, struct img_error *err);
/* The same as text: of family and mode, as version 1 has it (32 bytes with NUL). */
void img_luks_print_mode(const struct img_cipher_spec *spec, char out[32]);

/* Does candidate (key_bytes) have the digest? *match, in constant time. -ENOMEM, -ENOTSUP. */
int img_luks_check_digest(const struct img_luks *l, const uint8_t *candidate, bool *match,
			  struct img_error *err);
/*
 * Of the active slots, which does the passphrase fit? matches: one for each slot. key: IMG_LUKS_KEY_BYTES_MAX; set if
 * any does. What is wrong with slots that were left out, or failed, is said if no slot fits; if one does, untried
 * (zero-initialised; may be NULL) is set if there are any.
 */
int img_luks_try_slots(const struct img_luks *l, const uint8_t *passphrase, size_t len,
		       bool matches[IMG_LUKS_SLOTS_MAX], uint8_t *key, struct img_error *untried,
		       struct img_error *err);
/* Key material that the passphrase opens: encrypted, slot->material_bytes. material: zeroes, that long rounded up. */
int img_luks_seal_slot(const struct img_luks *l, const struct img_luks_slot *slot,
		       const uint8_t *passphrase, size_t len, uint8_t *material,
		       struct img_error *err);

int img_luks1_open(struct img_luks *l, struct img_error *err);
int img_luks2_open(struct img_luks *l, struct img_error *err);

#endif
