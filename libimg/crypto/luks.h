/*
 * LUKS: the header of an encrypted volume, its key slots, and the way from a passphrase to the cipher. Version 1 is
 * made, read and changed; version 2 is read, and its payload written (spec/luks.md). Headers lie anywhere in a storage: at the
 * start of an encrypted disk, in a file of their own, or inside an image of another format. All blocking. A
 * struct img_luks is used by one thread at a time.
 */
#ifndef LIBIMG_CRYPTO_LUKS_H
#define LIBIMG_CRYPTO_LUKS_H

#include "libimg/crypto/cipher.h"

struct img_error;
struct img_options;
struct img_storage;
struct img_value;

/* An open header. */
struct img_luks;

/* Where a header lies. */
struct img_luks_area {
	struct img_storage *storage; /* borrowed; outlives the header */
	const char *name;	     /* of the image, to begin sentences with; copied */
	uint64_t off;		     /* in storage */
	uint64_t bytes;		     /* header and key slots have to lie in them; UINT64_MAX: as the storage is long */
	bool detached;		     /* the payload is in another storage, from its start */
};

/* Does it begin like a LUKS header? The version; 0: no. head: the first len bytes. */
unsigned img_luks_probe(const uint8_t *head, size_t len);

/*
 * Parse and validate; no key is asked for. -EMEDIUMTYPE: no LUKS header; -EUCLEAN: what contradicts itself,
 * or is outside of a limit; -ENOTSUP: a version, cipher, hash or feature that is not supported; -ENOMEM, -EIO.
 */
int img_luks_open(const struct img_luks_area *area, struct img_luks **out, struct img_error *err);
/* Wipes the keys. NULL is fine. */
void img_luks_free(struct img_luks *l);

unsigned img_luks_version(const struct img_luks *l);
/* Of the payload from the header's own start, as the header tells it (detached: usually 0). */
uint64_t img_luks_payload_off(const struct img_luks *l);
/* LUKS2 may tell its length; 0: all that follows. */
uint64_t img_luks_payload_bytes(const struct img_luks *l);
/* What the cipher's tweak is at the payload's start, in bytes. */
uint64_t img_luks_tweak(const struct img_luks *l);
/* 512 with version 1. */
uint32_t img_luks_sector_bytes(const struct img_luks *l);

/*
 * Find the volume's key by a passphrase: all active slots are tried, so that the time does not tell which one it
 * fits. -EKEYREJECTED: "Invalid password, cannot unlock any keyslot", also where slots were left out because
 * each would have taken more than a minute, which the sentence then says; -ENOMEM, -EIO.
 */
int img_luks_unlock(struct img_luks *l, const uint8_t *passphrase, size_t len, struct img_error *err);
/* Unlocked: a cipher for the payload, the caller's. Its tweak counts from img_luks_tweak(), or as the caller's format has it. */
int img_luks_cipher(const struct img_luks *l, struct img_cipher **out, struct img_error *err);

/* ---- New headers (version 1) ---- */

enum { IMG_LUKS_ITER_TIME_MS = 2000 };

struct img_luks_parameters {
	struct img_cipher_spec cipher;
	enum img_hash hash;    /* of PBKDF2 and the anti-forensic splitter */
	uint64_t iter_time_ms; /* time that one try of a passphrase is to take */
};

/*
 * From options named as QEMU's, each with prefix before it ("", "encrypt."): cipher-alg, cipher-mode, ivgen-alg,
 * ivgen-hash-alg, hash-alg, iter-time; those not given are aes-256, xts, plain64, sha256 (essiv only),
 * sha256, 2000. -EINVAL, -ENOTSUP: see img_cipher_check().
 */
int img_luks_parameters(const struct img_options *o, const char *prefix,
			struct img_luks_parameters *out, struct img_error *err);
/* -EINVAL: a time after which slots are not tried any more. */
int img_luks_check_iter_time(uint64_t ms, struct img_error *err);
/* What the header and its eight key slots take; payload begins there. A multiple of 4096. */
uint64_t img_luks_header_bytes(const struct img_luks_parameters *p);
/*
 * Write a new header with a new random key, and the passphrase in slot 0; *out is unlocked. area->bytes: at least
 * img_luks_header_bytes(). What else lies in the area stays: the caller clears it. Not synced.
 */
int img_luks_create(const struct img_luks_area *area, const struct img_luks_parameters *p,
		    const uint8_t *passphrase, size_t len, struct img_luks **out,
		    struct img_error *err);

/* ---- Key slots (version 1) ---- */

/* A change of key slots, as QEMU's options state it. */
struct img_luks_change {
	bool active;		       /* state=active: add a passphrase; else erase slots */
	const uint8_t *old_passphrase; /* to erase: the slots that it fits; NULL: not given */
	size_t old_bytes;
	const uint8_t *new_passphrase; /* to add; NULL: not given */
	size_t new_bytes;
	int keyslot;		      /* -1: to add, the first free one; to erase, by old_passphrase */
	const uint64_t *iter_time_ms; /* to add; NULL: 2000 */
	bool force;		      /* erase the last one, overwrite one in use */
};
/*
 * Durably. A power cut, or a failure, leaves a slot as it was or as it is to be. One that is overwritten it may leave
 * erased, and the new passphrase in another one; if none is free, in none. To add, l has to be unlocked. -EINVAL: it cannot be done, or not
 * without force; -EKEYREJECTED: no slot fits; -ENOSPC: no slot is free; -ENOKEY: locked; -ENOTSUP: whether
 * old_passphrase fits a slot cannot be found out, which then is not erased either.
 */
int img_luks_change_slots(struct img_luks *l, const struct img_luks_change *change,
			  struct img_error *err);

/* ---- Reports ---- */

/* Have defect() called with a sentence for whatever is wrong with a header that opens all the same. */
void img_luks_check(const struct img_luks *l, void (*defect)(void *user, const char *text),
		    void *user);

/*
 * Add what QEMU's LUKS report has to an object: cipher-alg, uuid, payload-offset, slots, ... format: what
 * that is called where another format holds the header; NULL: it is not said. What an object has no memory for it
 * lacks (libimg/base/value.h).
 */
void img_luks_info(const struct img_luks *l, const char *format, struct img_value *out);

#endif
