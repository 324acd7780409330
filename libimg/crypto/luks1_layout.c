/* Header of LUKS version 1: big-endian, 592 bytes at the start of the volume. */
#include "libimg/crypto/luks1_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"

enum {
	OFF_VERSION = 6,
	OFF_CIPHER = 8,
	OFF_MODE = 40,
	OFF_HASH = 72,
	OFF_PAYLOAD = 104,
	OFF_KEY_BYTES = 108,
	OFF_DIGEST = 112,
	OFF_DIGEST_SALT = 132,
	OFF_DIGEST_ITERATIONS = 164,
	OFF_UUID = 168,
	OFF_SLOTS = 208,
	SLOT_BYTES = 48,
	SLOT_OFF_ITERATIONS = 4,
	SLOT_OFF_SALT = 8,
	SLOT_OFF_START = 40,
	SLOT_OFF_STRIPES = 44,
	SLOT_ACTIVE = 0x00ac71f3,
	SLOT_FREE = 0x0000dead,
	TEXT_BYTES = 32,
	UUID_BYTES = 36,
	STRIPES = 4000,
};

static const uint8_t magic[] = { 'L', 'U', 'K', 'S', 0xba, 0xbe };

static int load_text(const uint8_t *bytes, const char *what, char out[TEXT_BYTES],
		     struct img_error *err)
{
	if (!memchr(bytes, 0, TEXT_BYTES))
		return img_fail(err, -EUCLEAN, "%s is not ended by a NUL within %d bytes", what,
				TEXT_BYTES);
	memcpy(out, bytes, TEXT_BYTES);
	return 0;
}

int img_luks1_parse(const uint8_t *bytes, struct img_luks1_header *out, struct img_error *err)
{
	struct img_luks1_header h;
	unsigned version;
	int rc;

	if (memcmp(bytes, magic, sizeof(magic)) != 0)
		return img_fail(err, -EMEDIUMTYPE, "not a LUKS volume");
	version = be16_load(bytes + OFF_VERSION);
	if (version != 1)
		return img_fail(err, -ENOTSUP, "LUKS version %u is not supported", version);
	memset(&h, 0, sizeof(h));
	rc = load_text(bytes + OFF_CIPHER, "cipher name", h.cipher, err);
	if (!rc)
		rc = load_text(bytes + OFF_MODE, "cipher mode", h.mode, err);
	if (!rc)
		rc = load_text(bytes + OFF_HASH, "hash", h.hash, err);
	if (rc)
		return rc;
	h.payload_start = be32_load(bytes + OFF_PAYLOAD);
	h.key_bytes = be32_load(bytes + OFF_KEY_BYTES);
	memcpy(h.digest, bytes + OFF_DIGEST, sizeof(h.digest));
	memcpy(h.digest_salt, bytes + OFF_DIGEST_SALT, sizeof(h.digest_salt));
	h.digest_iterations = be32_load(bytes + OFF_DIGEST_ITERATIONS);
	memcpy(h.uuid, bytes + OFF_UUID, UUID_BYTES);
	for (size_t i = 0; i < IMG_LUKS1_SLOTS; i++) {
		const uint8_t *at = bytes + OFF_SLOTS + i * SLOT_BYTES;
		struct img_luks1_slot *s = &h.slots[i];
		uint32_t state = be32_load(at);

		if (state != SLOT_ACTIVE && state != SLOT_FREE)
			return img_fail(err, -EUCLEAN,
					"state of key slot %zu is %#" PRIx32
					", expected %#x (active) or %#x",
					i, state, SLOT_ACTIVE, SLOT_FREE);
		s->active = state == SLOT_ACTIVE;
		s->iterations = be32_load(at + SLOT_OFF_ITERATIONS);
		memcpy(s->salt, at + SLOT_OFF_SALT, sizeof(s->salt));
		s->start = be32_load(at + SLOT_OFF_START);
		s->stripes = be32_load(at + SLOT_OFF_STRIPES);
	}
	*out = h;
	return 0;
}

void img_luks1_encode(const struct img_luks1_header *h, uint8_t bytes[IMG_LUKS1_BYTES])
{
	memset(bytes, 0, IMG_LUKS1_BYTES);
	memcpy(bytes, magic, sizeof(magic));
	be16_store(bytes + OFF_VERSION, 1);
	memcpy(bytes + OFF_CIPHER, h->cipher, TEXT_BYTES);
	memcpy(bytes + OFF_MODE, h->mode, TEXT_BYTES);
	memcpy(bytes + OFF_HASH, h->hash, TEXT_BYTES);
	be32_store(bytes + OFF_PAYLOAD, h->payload_start);
	be32_store(bytes + OFF_KEY_BYTES, h->key_bytes);
	memcpy(bytes + OFF_DIGEST, h->digest, sizeof(h->digest));
	memcpy(bytes + OFF_DIGEST_SALT, h->digest_salt, sizeof(h->digest_salt));
	be32_store(bytes + OFF_DIGEST_ITERATIONS, h->digest_iterations);
	memcpy(bytes + OFF_UUID, h->uuid, UUID_BYTES);
	for (size_t i = 0; i < IMG_LUKS1_SLOTS; i++) {
		uint8_t *at = bytes + OFF_SLOTS + i * SLOT_BYTES;
		const struct img_luks1_slot *s = &h->slots[i];

		be32_store(at, s->active ? SLOT_ACTIVE : SLOT_FREE);
		be32_store(at + SLOT_OFF_ITERATIONS, s->iterations);
		memcpy(at + SLOT_OFF_SALT, s->salt, sizeof(s->salt));
		be32_store(at + SLOT_OFF_START, s->start);
		be32_store(at + SLOT_OFF_STRIPES, s->stripes);
	}
}

uint64_t img_luks1_material_bytes(uint32_t key_bytes)
{
	return (uint64_t)key_bytes * STRIPES;
}

uint64_t img_luks1_slot_bytes(uint32_t key_bytes)
{
	return round_up_u64(img_luks1_material_bytes(key_bytes), IMG_LUKS1_ALIGN);
}
