/*
 * Encryption of what the guest has: spec/qcow2.md, "Encryption". Tables, bitmaps and compressed clusters are
 * in clear text.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/crypto/legacy_aes.h"
#include "libimg/crypto/luks.h"

const struct img_option qcow2_open_options[] = {
	{ "encrypt.format", IMG_OPTION_STRING, "Which encryption the image is expected to have", NULL,
	  "aes,luks" },
	{ "encrypt.key-secret", IMG_OPTION_SECRET, "ID of secret providing the encryption key", NULL,
	  NULL },
	{ 0 },
};

static const char *method_name(const struct qcow2 *q)
{
	return q->header.crypt_method == QCOW2_CRYPT_AES ? "aes" : "luks";
}

int qcow2_check_encryption(const struct img *img, const struct img_opening *o, struct img_error *err)
{
	const char *format = img_options_string(o->options, "encrypt.format");

	if (!img->encrypted && format)
		return img_fail(err, -EINVAL,
				"%s: No encryption in image header, but options specified format '%s'",
				img->name, format);
	if (!img->encrypted && img_options_has(o->options, "encrypt.key-secret"))
		return img_fail(err, -EINVAL,
				"%s: No encryption in image header, but options specified a secret "
				"(encrypt.key-secret=%s)",
				img->name, img_options_string(o->options, "encrypt.key-secret"));
	if (format && strcmp(format, method_name(img->state)) != 0)
		return img_fail(err, -EINVAL,
				"%s: Header reported '%s' encryption format but options specify '%s'",
				img->name, method_name(img->state), format);
	return 0;
}

/* ---- The cipher ---- */

void qcow2_lock(struct qcow2_unlocked *u)
{
	img_cipher_free(u->cipher);
	img_luks_free(u->luks);
	*u = (struct qcow2_unlocked){ 0 };
}

int qcow2_open_luks(const struct img *img, uint64_t off, uint64_t bytes, struct img_luks **out,
		    struct img_error *err)
{
	const struct img_luks_area area = {
		.storage = img->file,
		.name = img->name,
		.off = off,
		.bytes = bytes,
	};
	int rc;

	if (!bytes)
		return img_fail(err, -EUCLEAN,
				"%s: it is encrypted by LUKS, but no extension says where the "
				"encryption header is",
				img->name);
	rc = img_luks_open(&area, out, err);
	return rc == -EMEDIUMTYPE
		       ? img_fail(err, -EUCLEAN,
				  "%s: encryption header at %" PRIu64 ": no LUKS header is there",
				  img->name, off)
		       : rc;
}

static int unlock_luks(struct img *img, const uint8_t *passphrase, size_t len, struct img_error *err)
{
	struct qcow2 *q = img->state;
	struct img_luks *luks;
	int rc = qcow2_open_luks(img, q->crypto_off, q->crypto_bytes, &luks, err);

	if (rc)
		return rc;
	if (img_luks_version(luks) != 1)
		rc = img_fail(err, -ENOTSUP,
			      "%s: encryption header at %" PRIu64 ": LUKS version is %u, expected 1",
			      img->name, q->crypto_off, img_luks_version(luks));
	if (!rc)
		rc = img_luks_unlock(luks, passphrase, len, err);
	if (!rc)
		rc = img_luks_cipher(luks, &q->unlocked.cipher, err);
	if (rc)
		img_luks_free(luks);
	else
		q->unlocked.luks = luks;
	return rc;
}

static int unlock(void *user, const uint8_t *passphrase, size_t len, struct img_error *err)
{
	struct img *img = user;
	struct qcow2 *q = img->state;

	return q->header.crypt_method == QCOW2_CRYPT_AES
		       ? img_legacy_aes_cipher(passphrase, len, &q->unlocked.cipher, err)
		       : unlock_luks(img, passphrase, len, err);
}

int qcow2_open_cipher(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct qcow2 *q = img->state;

	if (!img->encrypted || o->no_data)
		return 0;
	if (o->handover && *o->handover) {
		q->unlocked = *(struct qcow2_unlocked *)*o->handover;
		free(*o->handover);
		*o->handover = NULL;
		return 0;
	}
	return o->passphrase(o, "encrypt.key-secret", unlock, img, err);
}

int qcow2_check_unlocked(const struct img *img, struct img_req *req)
{
	const struct qcow2 *q = img->state;

	if (!img->encrypted || q->unlocked.cipher)
		return 0;
	return img_fail(img_req_error(req), -ENOKEY,
			"%s: it is encrypted, and was opened without its passphrase", img->name);
}

/* ---- A new image ---- */

/* What is given says that one is wanted: *method. */
static int choose_method(const struct img_options *o, uint32_t *method, struct img_error *err)
{
	const char *format = img_options_string(o, "encrypt.format");

	*method = QCOW2_CRYPT_NONE;
	if (img_options_bool(o, "encryption")) {
		if (format)
			return img_fail(err, -EINVAL,
					"'encrypt.format' and its alias 'encryption' can't be used at the "
					"same time");
		format = "aes";
	}
	if (format)
		*method = strcmp(format, "aes") ? QCOW2_CRYPT_LUKS : QCOW2_CRYPT_AES;
	for (const struct img_option *row = qcow2_create_options; row->name; row++) {
		bool secret = row->type == IMG_OPTION_SECRET;

		if (strncmp(row->name, "encrypt.", strlen("encrypt.")) != 0 ||
		    !strcmp(row->name, "encrypt.format") || !img_options_has(o, row->name))
			continue;
		if (*method == QCOW2_CRYPT_NONE)
			return img_fail(err, -EINVAL, "Parameter 'encrypt.format' is missing ('%s' is given)",
					row->name);
		if (*method == QCOW2_CRYPT_AES && !secret)
			return img_fail(err, -EINVAL,
					"Parameter '%s' is unexpected: the encryption 'aes' has no choice",
					row->name);
	}
	return 0;
}

int qcow2_create_encryption(const struct img_creating *c, struct qcow2_encryption *out,
			    struct img_error *err)
{
	const struct img_options *o = c->options;
	const char *compat = img_options_string(o, "compat");
	bool v2 = compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2"));
	int rc;

	*out = (struct qcow2_encryption){ 0 };
	rc = choose_method(o, &out->method, err);
	if (rc || out->method == QCOW2_CRYPT_NONE)
		return rc;
	if (!img_options_has(o, "encrypt.key-secret") && !c->can_ask)
		return img_fail(err, -ENOKEY, "Parameter 'encrypt.key-secret' is required for cipher");
	if (c->compress)
		return img_fail(err, -ENOTSUP,
				"Compression and encryption not supported at the same time");
	if (img_options_bool(o, "data_file_raw"))
		return img_fail(err, -EINVAL,
				"Encryption and data_file_raw cannot be used at the same time: the data "
				"file would not read as the disk does");
	/* Room without data decrypts to anything, and only version 3 can say that it reads as zeroes. */
	if (v2 && c->preallocate != IMG_PREALLOCATE_OFF)
		return img_fail(err, -ENOTSUP,
				"Encryption and preallocation can only be used at the same time with "
				"compatibility level 1.1 and above (use compat=1.1 or greater)");
	if (out->method == QCOW2_CRYPT_AES)
		return 0;
	rc = img_luks_parameters(o, "encrypt.", &out->luks, err);
	if (!rc)
		out->header_bytes = img_luks_header_bytes(&out->luks);
	return rc;
}

static void free_handover(void *handover)
{
	qcow2_lock(handover);
	free(handover);
}

int qcow2_create_cipher(struct img_creating *c, const struct qcow2_encryption *e, uint64_t off,
			const uint8_t *passphrase, size_t len, struct img_error *err)
{
	const struct img_luks_area area = {
		.storage = c->file,
		.name = c->name,
		.off = off,
		.bytes = e->header_bytes,
	};
	struct qcow2_unlocked *u = calloc(1, sizeof(*u));
	int rc;

	if (!u)
		return img_fail(err, -ENOMEM, "out of memory");
	if (e->method == QCOW2_CRYPT_AES) {
		rc = img_legacy_aes_cipher(passphrase, len, &u->cipher, err);
	} else {
		rc = img_luks_create(&area, &e->luks, passphrase, len, &u->luks, err);
		if (!rc)
			rc = img_luks_cipher(u->luks, &u->cipher, err);
	}
	if (rc) {
		free_handover(u);
		return rc;
	}
	c->handover = u;
	c->free_handover = free_handover;
	return 0;
}

/* ---- Key slots ---- */

const struct img_option qcow2_amend_options[] = { IMG_LUKS_AMEND_OPTIONS("encrypt."), { 0 } };

static int give_passphrase(void *context, const char *option, img_secret_use_fn *use, void *user,
			   struct img_error *err)
{
	struct img_amending *a = context;

	return a->passphrase(a, option, use, user, err);
}

int qcow2_amend(struct img *img, struct img_amending *a, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	const struct img_luks_amending how = {
		.options = a->options,
		.prefix = "encrypt.",
		.force = a->force,
		.passphrase = give_passphrase,
		.context = a,
	};

	if (q->header.crypt_method != QCOW2_CRYPT_LUKS)
		return img_fail(err, -ENOTSUP, "%s: only LUKS has key slots, this image %s", img->name,
				img->encrypted ? "is encrypted by AES" : "is not encrypted");
	if (!q->unlocked.luks)
		return img_fail(err, -ENOKEY, "%s: it was opened without its passphrase", img->name);
	return img_luks_amend(q->unlocked.luks, &how, err);
}
