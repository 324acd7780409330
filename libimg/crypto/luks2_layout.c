/*
 * Header of LUKS version 2: 4096 bytes big-endian, then JSON, which says all that matters. It is not to be trusted:
 * before it is parsed its depth and the number of its members are counted.
 */
#include "libimg/crypto/luks2_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"
#include "libimg/crypto/openssl.h"

enum {
	OFF_VERSION = 6,
	OFF_BYTES = 8,
	OFF_SEQUENCE = 16,
	OFF_SUM_NAME = 72,
	SUM_NAME_BYTES = 32,
	OFF_UUID = 168,
	OFF_OFFSET = 256,
	OFF_SUM = 448,
	SUM_BYTES = 64,
	LANES_MAX = 64,
	STRIPES_MAX = 8000,
	DIGEST_BYTES_MIN = 16,
};

/* ---- The binary part ---- */

int img_luks2_parse(const uint8_t bytes[IMG_LUKS2_BYTES], bool second, struct img_luks2_header *out,
		    struct img_error *err)
{
	struct img_luks2_header h;

	if (memcmp(bytes, second ? "SKUL\xba\xbe" : "LUKS\xba\xbe", 6) != 0)
		return img_fail(err, -EMEDIUMTYPE, "not a LUKS header");
	if (be16_load(bytes + OFF_VERSION) != 2)
		return img_fail(err, -ENOTSUP, "LUKS version %u is not supported",
				be16_load(bytes + OFF_VERSION));
	h.bytes = be64_load(bytes + OFF_BYTES);
	h.sequence = be64_load(bytes + OFF_SEQUENCE);
	h.off = be64_load(bytes + OFF_OFFSET);
	memcpy(h.uuid, bytes + OFF_UUID, sizeof(h.uuid));
	h.uuid[sizeof(h.uuid) - 1] = '\0';
	if (!is_pow2_u64(h.bytes) || h.bytes < IMG_LUKS2_HEADER_MIN ||
	    h.bytes > IMG_LUKS2_HEADER_MAX)
		return img_fail(err, -EUCLEAN,
				"header is %" PRIu64 " bytes, expected a power of two from %d to %d", h.bytes,
				IMG_LUKS2_HEADER_MIN, IMG_LUKS2_HEADER_MAX);
	if (strncmp((const char *)bytes + OFF_SUM_NAME, "sha256", SUM_NAME_BYTES) != 0)
		return img_fail(err, -ENOTSUP, "checksum is %.*s, expected sha256", SUM_NAME_BYTES,
				bytes + OFF_SUM_NAME);
	*out = h;
	return 0;
}

int img_luks2_check_sum(const uint8_t *bytes, const struct img_luks2_header *h, struct img_error *err)
{
	static const uint8_t zeroes[SUM_BYTES];
	uint8_t sum[IMG_HASH_BYTES_MAX];
	const EVP_MD *md = img_openssl_hash(IMG_HASH_SHA256);
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	bool done = md && c && EVP_DigestInit_ex2(c, md, NULL) == 1 &&
		    EVP_DigestUpdate(c, bytes, OFF_SUM) == 1 &&
		    EVP_DigestUpdate(c, zeroes, SUM_BYTES) == 1 &&
		    EVP_DigestUpdate(c, bytes + OFF_SUM + SUM_BYTES,
				     h->bytes - OFF_SUM - SUM_BYTES) == 1 &&
		    EVP_DigestFinal_ex(c, sum, NULL) == 1;

	EVP_MD_CTX_free(c);
	if (!done)
		return img_fail(err, -ENOMEM, "SHA-256: out of memory");
	if (memcmp(sum, bytes + OFF_SUM, img_hash_bytes(IMG_HASH_SHA256)) != 0)
		return img_fail(err, -EUCLEAN, "checksum is %08" PRIx32 "..., expected %08" PRIx32 "...",
				be32_load(bytes + OFF_SUM), be32_load(sum));
	return 0;
}

/* ---- JSON ---- */

/* No deeper, and no more of it, than there is reason for: each member takes a hundred bytes of memory. */
static int check_extent(const char *text, size_t len, struct img_error *err)
{
	unsigned depth = 0, members = 0;
	bool string = false;

	for (size_t i = 0; i < len && text[i]; i++) {
		char c = text[i];

		if (string && c == '\\' && i + 1 < len)
			i++;
		else if (c == '"')
			string = !string;
		else if (!string && (c == '{' || c == '['))
			depth++, members++;
		else if (!string && (c == '}' || c == ']') && depth)
			depth--;
		else if (!string && c == ',')
			members++;
		if (depth > IMG_LUKS2_JSON_DEPTH_MAX)
			return img_fail(err, -EUCLEAN, "JSON is nested deeper than %d",
					IMG_LUKS2_JSON_DEPTH_MAX);
		if (members > IMG_LUKS2_JSON_MEMBERS_MAX)
			return img_fail(err, -EUCLEAN, "JSON has more than %d members",
					IMG_LUKS2_JSON_MEMBERS_MAX);
	}
	return 0;
}

/* What sentences about JSON begin with, and where their words come from. */
struct place {
	const char *what; /* "keyslot", "segment", "digest" */
	const char *id;
	struct img_error *err;
};

static int fail_member(const struct place *p, const char *key, const char *expected)
{
	return img_fail(p->err, -EUCLEAN, "%s %s: %s is missing, or not what was expected: %s", p->what,
			p->id, key, expected);
}

static int get_object(const struct place *p, const json_t *from, const char *key, const json_t **out)
{
	*out = json_object_get(from, key);
	return json_is_object(*out) ? 0 : fail_member(p, key, "an object");
}

static int get_text(const struct place *p, const json_t *from, const char *key, const char **out)
{
	*out = json_string_value(json_object_get(from, key));
	return *out ? 0 : fail_member(p, key, "a string");
}

static int get_number(const struct place *p, const json_t *from, const char *key, uint64_t low,
		      uint64_t high, uint32_t *out)
{
	const json_t *v = json_object_get(from, key);
	json_int_t n = json_integer_value(v);

	if (!json_is_integer(v))
		return fail_member(p, key, "a number");
	if (n < 0 || (uint64_t)n < low || (uint64_t)n > high)
		return img_fail_range(p->err, -EUCLEAN, (uint64_t)n, low, high, "%s %s: %s", p->what, p->id,
				      key);
	*out = (uint32_t)n;
	return 0;
}

/* Offsets and sizes are decimal texts. */
static int get_u64(const struct place *p, const json_t *from, const char *key, uint64_t *out)
{
	const char *text = json_string_value(json_object_get(from, key));
	char *end;

	if (!text || !*text || strspn(text, "0123456789") != strlen(text))
		return fail_member(p, key, "a string of decimal digits");
	errno = 0;
	*out = strtoull(text, &end, 10);
	if (errno || *out > INT64_MAX)
		return img_fail(p->err, -EUCLEAN, "%s %s: %s is %.40s, expected at most %" PRId64, p->what,
				p->id, key, text, INT64_MAX);
	return 0;
}

static int get_base64(const struct place *p, const json_t *from, const char *key, size_t max,
		      uint8_t *out, size_t *len)
{
	const char *text = json_string_value(json_object_get(from, key));
	size_t n = text ? strlen(text) : 0;
	uint8_t bytes[256];
	int got;

	if (!n || n % 4 || n / 4 * 3 > sizeof(bytes))
		return fail_member(p, key, "base64");
	got = EVP_DecodeBlock(bytes, (const uint8_t *)text, (int)n);
	if (got < 0)
		return fail_member(p, key, "base64");
	got -= (text[n - 1] == '=') + (text[n - 2] == '=');
	if (got <= 0 || (size_t)got > max)
		return img_fail_range(p->err, -EUCLEAN, (uint64_t)got, 1, max, "%s %s: bytes of %s", p->what,
				      p->id, key);
	memcpy(out, bytes, (size_t)got);
	*len = (size_t)got;
	return 0;
}

static int get_hash(const struct place *p, const json_t *from, const char *key, enum img_hash *out)
{
	const char *name;
	int rc = get_text(p, from, key, &name);

	if (rc)
		return rc;
	*out = img_hash_by_name(name);
	return *out ? 0
		    : img_fail(p->err, -ENOTSUP, "%s %s: hash %.40s is not supported", p->what, p->id, name);
}

static int check_type(const struct place *p, const json_t *from, const char *key, const char *expected)
{
	const char *type;
	int rc = get_text(p, from, key, &type);

	if (!rc && strcmp(type, expected) != 0)
		return img_fail(p->err, -ENOTSUP, "%s %s: %s %.40s is not supported, only %s", p->what,
				p->id, key, type, expected);
	return rc;
}

/* "aes-xts-plain64" */
static int get_cipher(const struct place *p, const json_t *from, size_t key_bytes,
		      struct img_cipher_spec *out)
{
	const char *text, *mode;
	char family[32];
	int rc = get_text(p, from, "encryption", &text);

	if (rc)
		return rc;
	if (strncmp(text, "aes-xts-plain", 13) != 0)
		return img_fail(p->err, -ENOTSUP, "%s %s: encryption %.40s is not supported, only aes-xts-plain64",
				p->what, p->id, text);
	mode = strchr(text, '-');
	snprintf(family, sizeof(family), "%.*s", (int)(mode - text), text);
	rc = img_luks_parse_cipher(family, mode + 1, key_bytes, out, p->err);
	return rc ? img_error_prefix(p->err, rc, "%s %s", p->what, p->id) : 0;
}

/* Key slots, segments and digests are numbered. IMG_LUKS_SLOTS_MAX: no such number. */
static unsigned number_of(const char *id)
{
	size_t len = strspn(id, "0123456789");
	unsigned long n = len && len <= 2 && !id[len] ? strtoul(id, NULL, 10) : IMG_LUKS_SLOTS_MAX;

	return (unsigned)min_u64(n, IMG_LUKS_SLOTS_MAX);
}

static int fail_id(const char *what, const char *id, struct img_error *err)
{
	return img_fail(err, -EUCLEAN, "%s %.40s: expected a number below %d", what, id,
			IMG_LUKS_SLOTS_MAX);
}

/* ---- Segments: where the payload is ---- */

static int parse_segment(struct img_luks *l, const struct place *p, const json_t *segment)
{
	const char *size;
	uint32_t sector;
	int rc = check_type(p, segment, "type", "crypt");

	if (!rc && json_object_get(segment, "integrity"))
		rc = img_fail(p->err, -ENOTSUP, "%s %s: integrity protection is not supported", p->what,
			      p->id);
	if (!rc)
		rc = get_u64(p, segment, "offset", &l->payload_off);
	if (!rc)
		rc = get_text(p, segment, "size", &size);
	if (!rc && strcmp(size, "dynamic") != 0) {
		rc = get_u64(p, segment, "size", &l->payload_bytes);
		if (!rc && !l->payload_bytes)
			rc = fail_member(p, "size", "more than 0");
	}
	if (!rc)
		rc = get_u64(p, segment, "iv_tweak", &l->iv_offset);
	if (!rc)
		rc = get_number(p, segment, "sector_size", 512, 4096, &sector);
	if (rc)
		return rc;
	l->sector_bytes = sector;
	if (!is_pow2_u64(sector))
		return fail_member(p, "sector_size", "512, 1024, 2048 or 4096");
	if (l->payload_off % 512 || l->payload_bytes % sector)
		return img_fail(p->err, -EUCLEAN,
				"%s %s: offset is %" PRIu64 ", size is %" PRIu64
				", expected multiples of the sector",
				p->what, p->id, l->payload_off, l->payload_bytes);
	if (l->iv_offset % (sector / 512) || l->iv_offset > INT64_MAX / 512)
		return img_fail(p->err, -EUCLEAN,
				"%s %s: iv_tweak is %" PRIu64 ", expected a multiple of the sector", p->what,
				p->id, l->iv_offset);
	return get_cipher(p, segment, l->key_bytes, &l->cipher);
}

/* ---- Digests ---- */

static bool lists(const json_t *array, const char *id)
{
	size_t i;
	json_t *v;

	json_array_foreach(array, i, v) if (json_is_string(v) &&
					    !strcmp(json_string_value(v), id)) return true;
	return false;
}

/* The one that knows the segment's key. */
static int parse_digest(struct img_luks *l, const json_t *digests, const char *segment,
			const json_t **keyslots, struct img_error *err)
{
	struct place p = { "digest", NULL, err };
	const json_t *digest = NULL;
	const char *id;
	json_t *v;
	int rc;

	json_object_foreach((json_t *)(uintptr_t)digests, id, v)
	{
		if (!lists(json_object_get(v, "segments"), segment))
			continue;
		if (number_of(id) == IMG_LUKS_SLOTS_MAX)
			return fail_id("digest", id, err);
		digest = v;
		p.id = id;
		break;
	}
	if (!digest)
		return img_fail(err, -EUCLEAN, "no digest lists segment %s", segment);
	rc = check_type(&p, digest, "type", "pbkdf2");
	if (!rc)
		rc = get_hash(&p, digest, "hash", &l->digest.hash);
	if (!rc)
		rc = get_number(&p, digest, "iterations", 1, UINT32_MAX, &l->digest.iterations);
	if (!rc)
		rc = get_base64(&p, digest, "salt", sizeof(l->digest.salt), l->digest.salt,
				&l->digest.salt_bytes);
	if (!rc)
		rc = get_base64(&p, digest, "digest", sizeof(l->digest.bytes), l->digest.bytes,
				&l->digest.len);
	if (!rc && l->digest.len < DIGEST_BYTES_MIN)
		rc = img_fail_range(err, -EUCLEAN, l->digest.len, DIGEST_BYTES_MIN,
				    IMG_HASH_BYTES_MAX, "digest %s: bytes of digest", p.id);
	*keyslots = json_object_get(digest, "keyslots");
	return rc;
}

/* ---- Key slots ---- */

static int parse_kdf(const struct place *p, const json_t *kdf, struct img_luks_slot *s)
{
	const char *type;
	int rc = get_text(p, kdf, "type", &type);

	if (!rc)
		rc = get_base64(p, kdf, "salt", sizeof(s->salt), s->salt, &s->salt_bytes);
	if (rc)
		return rc;
	if (!strcmp(type, "pbkdf2")) {
		s->kdf = IMG_LUKS_PBKDF2;
		rc = get_hash(p, kdf, "hash", &s->kdf_hash);
		return rc ? rc : get_number(p, kdf, "iterations", 1, UINT32_MAX, &s->iterations);
	}
	if (strcmp(type, "argon2i") != 0 && strcmp(type, "argon2id") != 0)
		return img_fail(p->err, -ENOTSUP, "%s %s: kdf %.40s is not supported", p->what, p->id, type);
	s->kdf = strcmp(type, "argon2i") != 0 ? IMG_LUKS_ARGON2ID : IMG_LUKS_ARGON2I;
	rc = get_number(p, kdf, "time", 1, UINT32_MAX, &s->iterations);
	if (!rc)
		rc = get_number(p, kdf, "memory", 8, UINT32_MAX, &s->memory);
	return rc ? rc : get_number(p, kdf, "cpus", 1, LANES_MAX, &s->lanes);
}

static int parse_area(struct img_luks *l, const struct place *p, const json_t *area,
		      uint64_t header_bytes, struct img_luks_slot *s)
{
	uint64_t bytes = 0, end;
	uint32_t key_bytes;
	int rc = check_type(p, area, "type", "raw");

	if (!rc)
		rc = get_u64(p, area, "offset", &s->material_off);
	if (!rc)
		rc = get_u64(p, area, "size", &bytes);
	if (!rc)
		rc = get_number(p, area, "key_size", 1, IMG_LUKS_KEY_BYTES_MAX, &key_bytes);
	if (!rc)
		rc = get_cipher(p, area, key_bytes, &s->cipher);
	if (rc)
		return rc;
	s->cipher_key_bytes = key_bytes;
	s->material_bytes = (uint64_t)s->stripes * l->key_bytes;
	end = s->material_off + bytes; /* both are below 2^63 */
	if (bytes < round_up_u64(s->material_bytes, IMG_LUKS_SECTOR))
		return img_fail(p->err, -EUCLEAN,
				"%s %s: area has %" PRIu64 " bytes, its key material needs %" PRIu64, p->what,
				p->id, bytes, s->material_bytes);
	if (s->material_off < 2 * header_bytes)
		return img_fail(p->err, -EUCLEAN,
				"%s %s overlaps the headers: area is at %" PRIu64 ", expected at least %" PRIu64,
				p->what, p->id, s->material_off, 2 * header_bytes);
	if (end > l->area.bytes || (!l->area.detached && l->payload_off && end > l->payload_off))
		return img_fail(p->err, -EUCLEAN,
				"%s %s overlaps the payload: area is at %" PRIu64 " to %" PRIu64
				", the payload at %" PRIu64,
				p->what, p->id, s->material_off, end, l->payload_off);
	return 0;
}

static int parse_slot(struct img_luks *l, const struct place *p, const json_t *slot,
		      uint64_t header_bytes, struct img_luks_slot *s)
{
	const json_t *af, *area, *kdf;
	uint32_t key_bytes;
	int rc = check_type(p, slot, "type", "luks2");

	if (!rc)
		rc = get_number(p, slot, "key_size", l->key_bytes, l->key_bytes, &key_bytes);
	if (!rc)
		rc = get_object(p, slot, "af", &af);
	if (!rc)
		rc = get_object(p, slot, "area", &area);
	if (!rc)
		rc = get_object(p, slot, "kdf", &kdf);
	if (!rc)
		rc = check_type(p, af, "type", "luks1");
	if (!rc)
		rc = get_hash(p, af, "hash", &s->af_hash);
	if (!rc)
		rc = get_number(p, af, "stripes", 1, STRIPES_MAX, &s->stripes);
	if (!rc)
		rc = parse_kdf(p, kdf, s);
	if (!rc)
		rc = parse_area(l, p, area, header_bytes, s);
	s->active = !rc;
	return rc;
}

/* Those that the digest lists: others have nothing to do with the payload. */
static int parse_slots(struct img_luks *l, const json_t *slots, const json_t *listed,
		       uint64_t header_bytes, struct img_error *err)
{
	const char *id;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)slots, id, v)
	{
		struct place p = { "keyslot", id, err };
		unsigned n = number_of(id);
		int rc;

		if (n == IMG_LUKS_SLOTS_MAX)
			return fail_id("keyslot", id, err);
		if (!lists(listed, id))
			continue;
		rc = parse_slot(l, &p, v, header_bytes, &l->slots[n]);
		if (rc)
			return rc;
		l->slot_count = (unsigned)max_u64(l->slot_count, n + 1);
	}
	return 0;
}

static int check_overlaps(const struct img_luks *l, struct img_error *err)
{
	for (unsigned i = 0; i < l->slot_count; i++)
		for (unsigned k = 0; k < i; k++) {
			const struct img_luks_slot *a = &l->slots[i], *b = &l->slots[k];

			if (a->active && b->active &&
			    ranges_overlap(a->material_off, a->material_bytes, b->material_off,
					   b->material_bytes))
				return img_fail(err, -EUCLEAN,
						"keyslot %u at %" PRIu64 " overlaps keyslot %u at %" PRIu64, i,
						a->material_off, k, b->material_off);
		}
	return 0;
}

/* ---- All of it ---- */

static int check_requirements(const json_t *root, struct img_error *err)
{
	const json_t *config = json_object_get(root, "config");
	const json_t *needs = json_object_get(json_object_get(config, "requirements"), "mandatory");

	if (!json_array_size(needs))
		return 0;
	return img_fail(err, -ENOTSUP, "requirement %.60s is not supported",
			json_is_string(json_array_get(needs, 0))
				? json_string_value(json_array_get(needs, 0))
				: "(not a string)");
}

/* All slots have keys of one length: that is the volume's. */
static uint64_t key_bytes_of(const json_t *slots, const json_t *listed)
{
	const char *id;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)slots, id, v) if (lists(listed, id)) return (uint64_t)json_integer_value(json_object_get(v, "key_size"));
	return 0;
}

static int read_root(struct img_luks *l, const json_t *root, uint64_t header_bytes,
		     struct img_error *err)
{
	struct place p = { "header", "JSON", err };
	const json_t *slots, *segments, *digests, *listed = NULL;
	const char *id = NULL;
	uint64_t key_bytes;
	void *first;
	int rc = check_requirements(root, err);

	if (!rc)
		rc = get_object(&p, root, "keyslots", &slots);
	if (!rc)
		rc = get_object(&p, root, "segments", &segments);
	if (!rc)
		rc = get_object(&p, root, "digests", &digests);
	if (rc)
		return rc;
	if (json_object_size(segments) != 1)
		return img_fail(err, -ENOTSUP, "%zu segments are not supported, only one",
				json_object_size(segments));
	first = json_object_iter((json_t *)(uintptr_t)segments);
	id = json_object_iter_key(first);
	if (number_of(id) == IMG_LUKS_SLOTS_MAX)
		return fail_id("segment", id, err);
	rc = parse_digest(l, digests, id, &listed, err);
	if (rc)
		return rc;
	key_bytes = key_bytes_of(slots, listed);
	if (!key_bytes || key_bytes > IMG_LUKS_KEY_BYTES_MAX)
		return img_fail(err, -EUCLEAN,
				"keyslots that the digest lists have keys of %" PRIu64
				" bytes, expected 1 to %d",
				key_bytes, IMG_LUKS_KEY_BYTES_MAX);
	l->key_bytes = (size_t)key_bytes;
	p = (struct place){ "segment", id, err };
	rc = parse_segment(l, &p, json_object_iter_value(first));
	if (!rc)
		rc = parse_slots(l, slots, listed, header_bytes, err);
	if (!rc)
		rc = check_overlaps(l, err);
	if (!rc && l->payload_off && !l->area.detached && l->payload_off < 2 * header_bytes)
		rc = img_fail(err, -EUCLEAN,
			      "segment %s overlaps the headers: offset is %" PRIu64
			      ", expected at least %" PRIu64,
			      id, l->payload_off, 2 * header_bytes);
	return rc;
}

int img_luks2_parse_json(struct img_luks *l, uint64_t header_bytes, const char *text, size_t len,
			 struct img_error *err)
{
	size_t used = strnlen(text, len);
	json_error_t why;
	json_t *root;
	int rc;

	if (used == len)
		return img_fail(err, -EUCLEAN, "JSON is not ended by a NUL within %zu bytes", len);
	rc = check_extent(text, used, err);
	if (rc)
		return rc;
	root = json_loadb(text, used, JSON_REJECT_DUPLICATES, &why);
	if (!root)
		return img_fail(err, -EUCLEAN, "no valid JSON: line %d, column %d: %s", why.line, why.column,
				why.text);
	rc = json_is_object(root) ? read_root(l, root, header_bytes, err)
				  : img_fail(err, -EUCLEAN, "JSON is no object");
	json_decref(root);
	return rc;
}
