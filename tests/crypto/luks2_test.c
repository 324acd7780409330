/*
 * Headers of LUKS version 2 that are damaged, or not to be trusted. That sound ones are read as cryptsetup
 * means them tests/interop asks cryptsetup.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/value.h"
#include "libimg/crypto/luks2_layout.h"
#include "libimg/storage/storage.h"
#include "tests/crypto/luks2_header.h"

enum { DISK = 4 << 20 };

/* text, with the first `old` in it replaced. malloc'd. */
static char *replaced(const char *text, const char *old, const char *new)
{
	const char *at = strstr(text, old);
	char *out;

	cr_assert(at, "%s", old);
	cr_assert(asprintf(&out, "%.*s%s%s", (int)(at - text), text, new, at + strlen(old)) > 0);
	return out;
}

static void write_copy(struct img_storage *s, bool second, uint64_t sequence, const char *json, size_t len)
{
	static uint8_t bytes[HEADER];

	luks2_copy(bytes, second, sequence, json, len);
	img_storage_write(s, second ? HEADER : 0, bytes, HEADER, NULL);
}

static struct img_storage *disk(const char *json, size_t len)
{
	struct img_storage *s;

	cr_assert_eq(img_storage_memory("disk", DISK, DISK, &s), 0);
	write_copy(s, false, 1, json, len);
	write_copy(s, true, 1, json, len);
	return s;
}

static int open_header(struct img_storage *s, struct img_luks **l, struct img_error *err)
{
	const struct img_luks_area area = { .storage = s, .name = "disk", .bytes = UINT64_MAX };

	return img_luks_open(&area, l, err);
}

Test(luks2, what_a_header_says)
{
	struct img_storage *s = disk(WHOLE, strlen(WHOLE));
	struct img_error err = { 0 };
	struct img_luks *l;

	cr_assert_eq(open_header(s, &l, &err), 0, "%s", err.text);
	cr_assert_eq(img_luks_version(l), 2);
	cr_assert_eq(img_luks_payload_off(l), 1 << 20);
	cr_assert_eq(img_luks_payload_bytes(l), 0);
	cr_assert_eq(img_luks_sector_bytes(l), 4096);
	cr_assert_eq(img_luks_unlock(l, (const uint8_t *)"x", 1, &err), -EKEYREJECTED);
	img_luks_free(l);
	img_error_clear(&err);
	img_storage_close(s);
}

static void count(void *user, const char *text)
{
	cr_assert(strstr(text, "copies") || strstr(text, "copy"), "%s", text);
	++*(unsigned *)user;
}

/* Which of the copies counts: their sequence numbers, damaged: 0 no, 1 the first, 2 the second, 3 both. */
static void choose(uint64_t first, uint64_t second, unsigned damaged, const char *expected, unsigned defects)
{
	struct img_storage *s = disk(WHOLE, strlen(WHOLE));
	struct img_value *v = img_value_new(IMG_VALUE_OBJECT);
	struct img_error err = { 0 };
	struct img_luks *l;
	unsigned n = 0;

	write_copy(s, false, first, WHOLE, strlen(WHOLE));
	write_copy(s, true, second, WHOLE, strlen(WHOLE));
	if (damaged & 1)
		img_storage_write(s, 4200, "x", 1, NULL);
	if (damaged & 2)
		img_storage_write(s, HEADER + 4200, "x", 1, NULL);
	if (expected) {
		cr_assert_eq(open_header(s, &l, &err), 0, "%s", err.text);
		img_luks_info(l, NULL, v);
		cr_assert_str_eq(img_value_string(img_value_get(v, "uuid")), expected);
		img_luks_check(l, count, &n);
		cr_assert_eq(n, defects);
		img_luks_free(l);
	} else {
		cr_assert_eq(open_header(s, &l, &err), -EUCLEAN);
		cr_assert(strstr(err.text, "disk: LUKS header at 0: checksum"), "%s", err.text);
		img_error_clear(&err);
	}
	img_value_free(v);
	img_storage_close(s);
}

Test(luks2, the_sound_and_newer_copy_counts)
{
	choose(5, 5, 0, "first", 0);
	choose(6, 5, 0, "first", 1);
	choose(5, 6, 0, "second", 1);
	choose(6, 5, 1, "second", 1);
	choose(5, 6, 2, "first", 1);
	choose(5, 5, 3, NULL, 0);
}

Test(luks2, without_its_first_magic_the_second_copy_opens)
{
	struct img_storage *s = disk(WHOLE, strlen(WHOLE));
	uint8_t zeroes[4096] = { 0 };
	struct img_luks *l;

	img_storage_write(s, 0, zeroes, sizeof(zeroes), NULL);
	cr_assert_eq(open_header(s, &l, NULL), 0);
	img_luks_free(l);
	img_storage_write(s, HEADER, zeroes, sizeof(zeroes), NULL);
	cr_assert_eq(open_header(s, &l, NULL), -EMEDIUMTYPE);
	img_storage_close(s);
}

/* ---- JSON that is refused ---- */

Test(luks2, what_is_not_supported_or_contradicts_itself_is_refused_by_name)
{
	static const struct {
		const char *old, *new;
		int rc;
		const char *text;
	} cases[] = {
		{ "\"json_size\":\"12288\"", "\"requirements\":{\"mandatory\":[\"online-reencrypt-v2\"]}", -ENOTSUP,
		  "requirement online-reencrypt-v2" },
		{ "{\"type\":\"crypt\"", "{\"type\":\"linear\"", -ENOTSUP, "type linear" },
		{ "\"iv_tweak\"", "\"integrity\":{},\"iv_tweak\"", -ENOTSUP, "integrity protection" },
		{ "\"aes-xts-plain64\",\"sector", "\"serpent-xts-plain64\",\"sector", -ENOTSUP,
		  "segment 0: encryption serpent-xts-plain64" },
		{ "\"aes-xts-plain64\",\"key", "\"aes-cbc-essiv:sha256\",\"key", -ENOTSUP,
		  "keyslot 0: encryption aes-cbc-essiv:sha256" },
		{ "\"sector_size\":4096", "\"sector_size\":8192", -EUCLEAN, "sector_size is 8192" },
		{ "\"sector_size\":4096", "\"sector_size\":1000", -EUCLEAN, "sector_size" },
		{ "\"iv_tweak\":\"0\"", "\"iv_tweak\":\"1\"", -EUCLEAN, "iv_tweak is 1" },
		{ "\"offset\":\"1048576\"", "\"offset\":\"4096\"", -EUCLEAN, "overlaps the payload" },
		{ "\"offset\":\"1048576\"", "\"offset\":\"99999999999999999999\"", -EUCLEAN, "offset is 999" },
		{ "\"offset\":\"1048576\"", "\"offset\":\"-1\"", -EUCLEAN, "decimal digits" },
		{ "\"size\":\"dynamic\"", "\"size\":\"100\"", -EUCLEAN, "multiples of the sector" },
		{ "\"offset\":\"32768\"", "\"offset\":\"8192\"", -EUCLEAN, "keyslot 0 overlaps the headers" },
		{ "\"size\":\"258048\"", "\"size\":\"8192\"", -EUCLEAN, "its key material needs 256000" },
		{ "\"stripes\":4000", "\"stripes\":400000000", -EUCLEAN, "stripes is 400000000" },
		{ "\"key_size\":64,\"af\"", "\"key_size\":4096,\"af\"", -EUCLEAN, "keys of 4096 bytes" },
		{ "\"key_size\":64,\"af\"", "\"key_size\":-1,\"af\"", -EUCLEAN, "keys of" },
		{ "\"key_size\":64}", "\"key_size\":63}", -EUCLEAN, "key is 63 bytes" },
		{ "\"type\":\"luks2\"", "\"type\":\"reencrypt\"", -ENOTSUP, "type reencrypt" },
		{ "\"pbkdf2\",\"hash\":\"sha256\"", "\"scrypt\",\"hash\":\"sha256\"", -ENOTSUP, "kdf scrypt" },
		{ "\"hash\":\"sha256\",\"iterations\":1000", "\"hash\":\"whirlpool\",\"iterations\":1000",
		  -ENOTSUP, "hash whirlpool" },
		{ "\"salt\":\"AAAA", "\"salt\":\"A?AA", -EUCLEAN, "salt is missing" },
		{ "\"digest\":\"AAAA", "\"digest\":\"AA==\",\"x\":\"AAAA", -EUCLEAN,
		  "bytes of digest is 1" },
		{ "\"segments\":[\"0\"]", "\"segments\":[\"1\"]", -EUCLEAN, "no digest lists segment 0" },
		{ "\"keyslots\":[\"0\"]", "\"keyslots\":[]", -EUCLEAN, "keyslots that the digest lists" },
		{ "{\"0\":{\"type\":\"luks2\"", "{\"99\":{\"type\":\"luks2\"", -EUCLEAN, "keys" },
		{ "\"segments\":{\"0\":", "\"segments\":{\"zero\":", -EUCLEAN, "segment zero: expected a number" },
		{ "\"digests\":{\"0\":", "\"digests\":{\"32\":", -EUCLEAN, "digest 32: expected a number" },
		{ "\"segments\":{\"0\":", "\"segments\":{\"1\":" SEGMENT ",\"0\":", -ENOTSUP, "2 segments" },
		{ "\"tokens\":{}", "\"tokens\":{},\"tokens\":{}", -EUCLEAN, "no valid JSON" },
		{ "\"tokens\":{}", "\"tokens\":{", -EUCLEAN, "no valid JSON" },
		{ "\"tokens\":{}", "\"tokens\":[[[[[[[[[[[[[[[[[[[[[[[", -EUCLEAN, "deeper than 16" },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		char *json = replaced(WHOLE, cases[i].old, cases[i].new);
		struct img_storage *s = disk(json, strlen(json));
		struct img_error err = { 0 };
		struct img_luks *l;

		cr_assert_eq(open_header(s, &l, &err), cases[i].rc, "%s: %s", cases[i].new, err.text);
		cr_assert(strstr(err.text, cases[i].text), "%s: %s", cases[i].text, err.text);
		cr_assert(!strncmp(err.text, "disk: LUKS header at ", 21), "%s", err.text);
		img_error_clear(&err);
		img_storage_close(s);
		free(json);
	}
}

/* Slots whose parameters are read, but would take too long or too much. */
Test(luks2, costs_are_limited)
{
	static const struct {
		const char *kdf, *text;
	} cases[] = {
		{ "{\"type\":\"pbkdf2\",\"hash\":\"sha512\",\"iterations\":4294967295,\"salt\":\"AAAA\"}",
		  "minutes" },
		{ "{\"type\":\"argon2id\",\"time\":4,\"memory\":4294967295,\"cpus\":4,\"salt\":"
		  "\"AAAAAAAAAAAAAAAAAAAAAA==\"}",
		  "memory of Argon2 in KiB is 4294967295" },
		{ "{\"type\":\"argon2i\",\"time\":4294967295,\"memory\":65536,\"cpus\":1,\"salt\":"
		  "\"AAAAAAAAAAAAAAAAAAAAAA==\"}",
		  "minutes" },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		char *json = replaced(WHOLE, KDF, cases[i].kdf);
		struct img_storage *s = disk(json, strlen(json));
		struct img_error err = { 0 };
		struct timespec start, end;
		struct img_luks *l;

		clock_gettime(CLOCK_MONOTONIC, &start);
		cr_assert_eq(open_header(s, &l, &err), 0, "%s", err.text);
		cr_assert_eq(img_luks_unlock(l, (const uint8_t *)"x", 1, &err), -ENOTSUP);
		clock_gettime(CLOCK_MONOTONIC, &end);
		cr_assert(strstr(err.text, "disk: key slot 0: "), "%s", err.text);
		cr_assert(strstr(err.text, cases[i].text), "%s", err.text);
		cr_assert_leq(end.tv_sec - start.tv_sec, 2);
		img_luks_free(l);
		img_error_clear(&err);
		img_storage_close(s);
		free(json);
	}
}

Test(luks2, json_without_end)
{
	static char json[HEADER];
	struct img_storage *s;
	struct img_error err = { 0 };
	struct img_luks *l;

	memset(json, ' ', sizeof(json));
	memcpy(json, WHOLE, strlen(WHOLE));
	s = disk(json, sizeof(json));
	cr_assert_eq(open_header(s, &l, &err), -EUCLEAN);
	cr_assert(strstr(err.text, "not ended by a NUL"), "%s", err.text);
	img_storage_close(s);
	img_error_clear(&err);
}

/* A header of 4 MiB has room for two million, each of which would take memory. */
Test(luks2, json_with_too_many_members)
{
	static char json[2 * IMG_LUKS2_JSON_MEMBERS_MAX + 8];
	struct img_luks l = { .area = { .name = "disk", .bytes = UINT64_MAX } };
	struct img_error err = { 0 };
	char *end = stpcpy(json, "{\"a\":[0");

	while (end < json + sizeof(json) - 4)
		end = stpcpy(end, ",0");
	stpcpy(end, "]}");
	cr_assert_eq(img_luks2_parse_json(&l, HEADER, json, sizeof(json), &err), -EUCLEAN);
	cr_assert_str_eq(err.text, "JSON has more than 20000 members");
	img_error_clear(&err);
}
