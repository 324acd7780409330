/*
 * Creating images: a header, the backing file's name, and an L1 table that leads nowhere.
 */
#include <inttypes.h>
#include <string.h>

#include "formats/qcow1/qcow1_state.h"
#include "libimg/base/arith.h"
#include "libimg/crypto/legacy_aes.h"

/* In qemu-img's words. */
const struct img_option qcow1_create_options[] = {
	{ "size", IMG_OPTION_SIZE, "Virtual disk size", NULL, NULL },
	{ "backing_file", IMG_OPTION_STRING, "File name of a base image", NULL, NULL },
	{ "backing_fmt", IMG_OPTION_STRING, "Format of the backing image", NULL, NULL },
	{ "encryption", IMG_OPTION_BOOL,
	  "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)", NULL, NULL },
	{ "encrypt.format", IMG_OPTION_STRING, "Encrypt the image, format choices: 'aes'", NULL, "aes" },
	{ "encrypt.key-secret", IMG_OPTION_SECRET, "ID of the secret that provides the AES encryption key", NULL,
	  NULL },
	{ 0 },
};

/* What QEMU makes: with a backing file in sectors, since clusters have to be filled up from it. */
enum {
	CLUSTER_BITS = 12,
	L2_BITS = 9,
	OVER_CLUSTER_BITS = 9,
	OVER_L2_BITS = 12,
};

static int choose_encryption(const struct img_creating *c, struct qcow1_header *h, struct img_error *err)
{
	const struct img_options *o = c->options;
	bool alias = img_options_bool(o, "encryption"), named = img_options_has(o, "encrypt.format");

	if (alias && named)
		return img_fail(err, -EINVAL,
				"'encrypt.format' and its alias 'encryption' can't be used at the same time");
	h->crypt_method = alias || named ? QCOW1_CRYPT_AES : QCOW1_CRYPT_NONE;
	if (h->crypt_method == QCOW1_CRYPT_NONE)
		return img_options_has(o, "encrypt.key-secret")
			       ? img_fail(err, -EINVAL,
					  "Parameter 'encrypt.format' is missing ('encrypt.key-secret' is given)")
			       : 0;
	if (!img_options_has(o, "encrypt.key-secret") && !c->can_ask)
		return img_fail(err, -ENOKEY, "Parameter 'encrypt.key-secret' is required for cipher");
	if (c->compress)
		return img_fail(err, -ENOTSUP, "Compression and encryption not supported at the same time");
	return 0;
}

static int make_header(const struct img_creating *c, struct qcow1_header *h, struct img_error *err)
{
	uint64_t name_bytes = c->backing_name ? strlen(c->backing_name) : 0;

	*h = (struct qcow1_header){
		.size = c->size,
		.cluster_bits = c->backing_name ? OVER_CLUSTER_BITS : CLUSTER_BITS,
		.l2_bits = c->backing_name ? OVER_L2_BITS : L2_BITS,
		.name_off = name_bytes ? QCOW1_HEADER_BYTES : 0,
		.name_bytes = (uint32_t)name_bytes,
		.l1_off = round_up_u64(QCOW1_HEADER_BYTES + name_bytes, QCOW1_ENTRY_BYTES),
	};
	if (name_bytes > QCOW1_NAME_MAX)
		return img_fail(err, -EINVAL, "%s: backing file name has %" PRIu64 " bytes, expected at most %d",
				c->name, name_bytes, QCOW1_NAME_MAX);
	if (!c->size)
		return img_fail(err, -EINVAL, "%s: Image size is too small, cannot be zero length", c->name);
	if (c->size > qcow1_size_max(h))
		return img_fail(err, -EFBIG, "%s: size is %" PRIu64 ", expected at most %" PRIu64, c->name,
				c->size, qcow1_size_max(h));
	return choose_encryption(c, h, err);
}

int qcow1_create_check(struct img_creating *c, struct img_error *err)
{
	struct qcow1_header h;

	return make_header(c, &h, err);
}

static int write_file(struct img_creating *c, const struct qcow1_header *h, struct img_error *err)
{
	uint64_t l1_bytes = qcow1_l1_entries(h, h->size) * QCOW1_ENTRY_BYTES;
	uint64_t end = h->l1_off + round_up_u64(l1_bytes, QCOW1_SECTOR);
	uint8_t bytes[QCOW1_HEADER_BYTES];
	int rc = c->file->device ? img_storage_zero(c->file, 0, end, err)
				 : img_storage_resize(c->file, end, IMG_PREALLOCATE_OFF, err);

	qcow1_encode_header(h, bytes);
	if (!rc)
		rc = img_storage_write(c->file, 0, bytes, sizeof(bytes), err);
	if (!rc && h->name_bytes)
		rc = img_storage_write(c->file, h->name_off, c->backing_name, h->name_bytes, err);
	return rc;
}

static void free_cipher(void *cipher)
{
	img_cipher_free(cipher);
}

/* An encrypted image: nothing is written before the passphrase is known. */
struct start {
	struct img_creating *c;
	const struct qcow1_header *header;
};

static int write_encrypted(void *user, const uint8_t *passphrase, size_t len, struct img_error *err)
{
	const struct start *s = user;
	struct img_cipher *cipher;
	int rc = img_legacy_aes_cipher(passphrase, len, &cipher, err);

	if (rc)
		return rc;
	s->c->handover = cipher;
	s->c->free_handover = free_cipher;
	return write_file(s->c, s->header, err);
}

int qcow1_create(struct img_creating *c, struct img_error *err)
{
	struct qcow1_header h;
	struct start start = { c, &h };
	int rc = make_header(c, &h, err);

	if (rc)
		return rc;
	return h.crypt_method == QCOW1_CRYPT_NONE
		       ? write_file(c, &h, err)
		       : c->passphrase(c, "encrypt.key-secret", write_encrypted, &start, err);
}
