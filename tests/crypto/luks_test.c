/*
 * LUKS headers and key slots, in memory; what others make of them tests/interop asks.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"
#include "libimg/base/options.h"
#include "libimg/crypto/luks.h"
#include "libimg/storage/storage.h"
#include "tests/storage/watch.h"

enum { MIB = 1 << 20 };

#define PASSPHRASE "correct horse"
static const uint8_t *const passphrase = (const uint8_t *)PASSPHRASE;

static const struct img_option options[] = {
	{ "cipher-alg", IMG_OPTION_STRING, "", NULL, NULL },
	{ "cipher-mode", IMG_OPTION_STRING, "", NULL, NULL },
	{ "ivgen-alg", IMG_OPTION_STRING, "", NULL, NULL },
	{ "ivgen-hash-alg", IMG_OPTION_STRING, "", NULL, NULL },
	{ "hash-alg", IMG_OPTION_STRING, "", NULL, NULL },
	{ "iter-time", IMG_OPTION_NUMBER, "", NULL, NULL },
	{ 0 },
};

static int parameters(const char *text, struct img_luks_parameters *out, struct img_error *err)
{
	struct img_options *o = img_options_new(options);
	int rc = img_options_parse(o, text, err);

	if (!rc)
		rc = img_luks_parameters(o, "", out, err);
	img_options_free(o);
	return rc;
}

static struct img_luks_area memory(uint64_t bytes)
{
	struct img_luks_area area = { .name = "disk", .bytes = UINT64_MAX };

	cr_assert_eq(img_storage_memory("disk", bytes, 64 * MIB, &area.storage), 0);
	return area;
}

/* A header in memory, at `off`, with the passphrase in slot 0. */
static struct img_luks_area made(const char *text, uint64_t off, struct img_luks **l)
{
	struct img_luks_area area = memory(4 * MIB);
	struct img_luks_parameters p;
	struct img_error err = { 0 };

	area.off = off;
	cr_assert_eq(parameters(text, &p, &err), 0, "%s: %s", text, err.text);
	cr_assert_eq(img_luks_create(&area, &p, passphrase, strlen(PASSPHRASE), l, &err), 0, "%s",
		     err.text);
	return area;
}

/* What the payload's cipher makes of zeroes, with the passphrase. */
static int content(const struct img_luks_area *area, const char *with, uint8_t out[4096],
		   struct img_error *err)
{
	struct img_luks *l;
	struct img_cipher *c;
	int rc = img_luks_open(area, &l, err);

	if (rc)
		return rc;
	rc = img_luks_unlock(l, (const uint8_t *)with, strlen(with), err);
	if (!rc) {
		cr_assert_eq(img_luks_cipher(l, &c, err), 0);
		memset(out, 0, 4096);
		cr_assert_eq(c->encrypt(c, 4096, out, 4096), 0);
		img_cipher_free(c);
	}
	img_luks_free(l);
	return rc;
}

static int change(const struct img_luks_area *area, const char *with, struct img_luks_change c,
		  struct img_error *err)
{
	struct img_luks *l;
	int rc;

	cr_assert_eq(img_luks_open(area, &l, err), 0);
	cr_assert_eq(img_luks_unlock(l, (const uint8_t *)with, strlen(with), err), 0);
	rc = img_luks_change_slots(l, &c, err);
	img_luks_free(l);
	return rc;
}

Test(luks, a_new_header_opens_by_its_passphrase_and_no_other)
{
	static const char *const texts[] = {
		"iter-time=1",
		"iter-time=1,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,hash-alg=sha1",
		"iter-time=1,cipher-alg=serpent-192,hash-alg=sha512,ivgen-alg=plain",
		"iter-time=1,cipher-alg=cast5-128,cipher-mode=cbc,hash-alg=ripemd160",
		"iter-time=1,cipher-alg=twofish-256,cipher-mode=ctr",
		"iter-time=1,cipher-mode=ecb,hash-alg=md5",
		"iter-time=1,cipher-alg=sm4,hash-alg=sm3",
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(texts); i++) {
		uint8_t own[4096] = { 0 }, other[4096];
		struct img_error err = { 0 };
		struct img_cipher *c;
		struct img_luks *l;
		struct img_luks_area area = made(texts[i], i * 512, &l);

		cr_assert_eq(img_luks_cipher(l, &c, &err), 0);
		cr_assert_eq(c->encrypt(c, 4096, own, 4096), 0);
		img_cipher_free(c);
		img_luks_free(l);
		cr_assert_eq(content(&area, PASSPHRASE, other, &err), 0, "%s: %s", texts[i], err.text);
		cr_assert_arr_eq(own, other, 4096);
		cr_assert_eq(content(&area, "correct hors", other, &err), -EKEYREJECTED);
		cr_assert_str_eq(err.text, "disk: Invalid password, cannot unlock any keyslot");
		img_error_clear(&err);
		img_storage_close(area.storage);
	}
}

Test(luks, slots_are_added_changed_and_erased)
{
	const uint64_t ms = 1;
	struct img_error err = { 0 };
	uint8_t before[4096], after[4096];
	struct img_luks *l;
	struct img_luks_area area = made("iter-time=1", 0, &l);
	struct img_luks_change add = { .active = true,
				       .new_passphrase = (const uint8_t *)"second",
				       .new_bytes = 6,
				       .keyslot = -1,
				       .iter_time_ms = &ms };
	struct img_luks_change erase = { .old_passphrase = passphrase,
					 .old_bytes = strlen(PASSPHRASE),
					 .keyslot = -1 };

	img_luks_free(l);
	cr_assert_eq(content(&area, PASSPHRASE, before, &err), 0);
	cr_assert_eq(change(&area, PASSPHRASE, add, &err), 0, "%s", err.text);
	cr_assert_eq(content(&area, "second", after, &err), 0);
	cr_assert_arr_eq(before, after, 4096);
	cr_assert_eq(content(&area, PASSPHRASE, after, &err), 0);
	add.keyslot = 1;
	cr_assert_eq(change(&area, PASSPHRASE, add, &err), -EINVAL);
	cr_assert(strstr(err.text, "Refusing to overwrite active keyslot 1"));
	add.new_passphrase = (const uint8_t *)"third!";
	add.force = true;
	cr_assert_eq(change(&area, PASSPHRASE, add, &err), 0);
	cr_assert_eq(content(&area, "second", after, &err), -EKEYREJECTED);
	cr_assert_eq(content(&area, "third!", after, &err), 0);
	cr_assert_eq(change(&area, "third!", erase, &err), 0);
	cr_assert_eq(content(&area, PASSPHRASE, after, &err), -EKEYREJECTED);
	erase.old_passphrase = (const uint8_t *)"third!";
	erase.old_bytes = 6;
	cr_assert_eq(change(&area, "third!", erase, &err), -EINVAL);
	cr_assert(strstr(err.text, "All the active keyslots match"));
	erase = (struct img_luks_change){ .keyslot = 1 };
	cr_assert_eq(change(&area, "third!", erase, &err), -EINVAL);
	cr_assert(strstr(err.text, "the only active keyslot 1"));
	cr_assert_eq(content(&area, "third!", after, &err), 0);
	cr_assert_arr_eq(before, after, 4096);
	erase.force = true;
	cr_assert_eq(change(&area, "third!", erase, &err), 0);
	cr_assert_eq(content(&area, "third!", after, &err), -EKEYREJECTED);
	img_error_clear(&err);
	img_storage_close(area.storage);
}

Test(luks, all_eight_slots_and_no_ninth)
{
	const uint64_t ms = 1;
	struct img_error err = { 0 };
	uint8_t out[4096];
	struct img_luks *l;
	struct img_luks_area area = made("iter-time=1", 0, &l);

	img_luks_free(l);
	for (int i = 1; i < 9; i++) {
		uint8_t digit = (uint8_t)('0' + i);
		struct img_luks_change add = { .active = true,
					       .new_passphrase = &digit,
					       .new_bytes = 1,
					       .keyslot = -1,
					       .iter_time_ms = &ms };

		cr_assert_eq(change(&area, PASSPHRASE, add, &err), i < 8 ? 0 : -ENOSPC);
	}
	for (int i = 1; i < 8; i++) {
		const char text[] = { (char)('0' + i), 0 };

		cr_assert_eq(content(&area, text, out, &err), 0);
	}
	img_error_clear(&err);
	img_storage_close(area.storage);
}

/* w->a: changes that there may be still. */
static int fail_when_used_up(struct watch *w, const struct watch_entry *e)
{
	if (e->op == IMG_IO_READ)
		return 0;
	return w->a ? (w->a--, 0) : -EIO;
}

/* Wherever that ends, the old passphrase or the new one opens the disk. */
Test(luks, a_slot_is_overwritten)
{
	const uint64_t ms = 1;
	const struct img_luks_change over = { .active = true,
					      .new_passphrase = (const uint8_t *)"second",
					      .new_bytes = 6,
					      .keyslot = 0,
					      .iter_time_ms = &ms,
					      .force = true };
	unsigned failures = 0;
	int rc = -EIO;

	for (; rc; failures++) {
		static struct watch w;
		uint8_t before[4096], after[4096];
		struct img_error err = { 0 };
		struct img_luks *l;
		struct img_luks_area area = made("iter-time=1", 0, &l);

		img_luks_free(l);
		cr_assert_eq(content(&area, PASSPHRASE, before, &err), 0);
		w = (struct watch){ .before = fail_when_used_up,
				    .a = failures,
				    .torn = failures % 2 };
		area.storage = watched(&w, 0, area.storage);
		rc = change(&area, PASSPHRASE, over, &err);
		w.before = NULL;
		cr_assert(!rc || rc == -EIO, "%s", err.text);
		cr_assert(!content(&area, "second", after, &err) ||
				  (rc && !content(&area, PASSPHRASE, after, &err)),
			  "change %u", failures);
		cr_assert_arr_eq(before, after, 4096);
		if (!rc)
			cr_assert_eq(content(&area, PASSPHRASE, after, &err), -EKEYREJECTED);
		img_error_clear(&err);
		img_storage_close(area.storage);
	}
	cr_assert_geq(failures, 16);
}

Test(luks, a_slot_is_added_only_to_what_is_unlocked)
{
	const struct img_luks_change add = { .active = true,
					     .new_passphrase = (const uint8_t *)"second",
					     .new_bytes = 6,
					     .keyslot = -1 };
	char name[] = "disk";
	struct img_error err = { 0 };
	struct img_luks *l;
	struct img_luks_area area = made("iter-time=1", 0, &l);

	img_luks_free(l);
	area.name = name;
	cr_assert_eq(img_luks_open(&area, &l, &err), 0);
	memset(name, 'x', 4); /* copied */
	cr_assert_eq(img_luks_change_slots(l, &add, &err), -ENOKEY);
	cr_assert_str_eq(err.text, "disk: it was opened without its passphrase");
	img_luks_free(l);
	img_error_clear(&err);
	img_storage_close(area.storage);
}

/* ---- Headers that are not to be trusted ---- */

struct fault {
	uint32_t off, value;
	int rc;
	const char *text;
};

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

Test(luks, hostile_headers_are_refused_by_name_and_at_once)
{
	static const struct fault faults[] = {
		{ 4, 0xbabe0003, -ENOTSUP, "LUKS version 3" },
		{ 8, 0x66727400, -ENOTSUP, "cipher frt" },
		{ 40, 0x78747300, -EUCLEAN, "cipher mode is 'xts'" },
		{ 40, 0x6c72772d, -ENOTSUP, "cipher mode lrw" },
		{ 72, 0x73686100, -ENOTSUP, "hash sha" },
		{ 104, 7, -EUCLEAN, "payload offset is 7 sectors" },
		{ 104, 600, -EUCLEAN, "key slot 1 overlaps the payload" },
		{ 108, 63, -EUCLEAN, "key is 63 bytes" },
		{ 108, 0x10000000, -EUCLEAN, "key bytes is 268435456" },
		{ 108, 0, -EUCLEAN, "key bytes is 0" },
		{ 164, 0, -EUCLEAN, "iterations of the digest" },
		{ 208, 1, -EUCLEAN, "state of key slot 0 is 0x1" },
		{ 212, 0, -EUCLEAN, "iterations of key slot 0" },
		{ 248, 7, -EUCLEAN, "key slot 0 overlaps the header" },
		{ 248, 0xffffffff, -EUCLEAN, "key slot 0 overlaps the payload" },
		{ 248, 512, -EUCLEAN, "key slot 1 at 262144 overlaps key slot 0" },
		{ 252, 0xffffffff, -EUCLEAN, "stripes of key slot 0 is 4294967295" },
		/* found out by who unlocks */
		{ 212, 0xffffffff, -ENOTSUP, "minutes" },
		{ 164, 0xffffffff, -ENOTSUP, "minutes" },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(faults); i++) {
		const struct fault *f = &faults[i];
		struct img_error err = { 0 };
		double start = seconds();
		uint8_t bytes[4], out[4096];
		struct img_luks *l;
		struct img_luks_area area = made("iter-time=1", 0, &l);

		img_luks_free(l);
		be32_store(bytes, f->value);
		img_storage_write(area.storage, f->off, bytes, 4, NULL);
		cr_assert_eq(content(&area, PASSPHRASE, out, &err), f->rc, "%s: %s", f->text, err.text);
		cr_assert(strstr(err.text, f->text), "%s: %s", f->text, err.text);
		cr_assert(!strncmp(err.text, "disk: ", 6));
		cr_assert(seconds() - start < 2);
		img_error_clear(&err);
		img_storage_close(area.storage);
	}
}

/* One slot that would take hours does not keep the others from being tried. */
Test(luks, a_slot_that_would_take_hours_is_left_out)
{
	const uint64_t ms = 1;
	struct img_error err = { 0 };
	uint8_t bytes[4] = { 0xff, 0xff, 0xff, 0xff }, out[4096];
	struct img_luks *l;
	struct img_luks_area area = made("iter-time=1", 0, &l);
	struct img_luks_change add = { .active = true,
				       .new_passphrase = (const uint8_t *)"second",
				       .new_bytes = 6,
				       .keyslot = 5,
				       .iter_time_ms = &ms };
	struct img_luks_change erase = { .old_passphrase = (const uint8_t *)"second",
					 .old_bytes = 6,
					 .keyslot = -1 };

	img_luks_free(l);
	cr_assert_eq(change(&area, PASSPHRASE, add, &err), 0);
	img_storage_write(area.storage, 212, bytes, 4, NULL);
	cr_assert_eq(content(&area, "second", out, &err), 0);
	cr_assert_eq(content(&area, PASSPHRASE, out, &err), -EKEYREJECTED);
	cr_assert(strstr(err.text, "cannot unlock any keyslot; not tried: key slot 0: its 4294967295"),
		  "%s", err.text);
	/* it may have that passphrase, too */
	cr_assert_eq(change(&area, "second", erase, &err), -ENOTSUP);
	cr_assert(strstr(err.text, "disk: key slot 0: its 4294967295"), "%s", err.text);
	cr_assert_eq(content(&area, "second", out, &err), 0);
	erase.keyslot = 5;
	cr_assert_eq(change(&area, "second", erase, &err), 0, "%s", err.text);
	img_error_clear(&err);
	img_storage_close(area.storage);
}

Test(luks, what_is_cut_short_is_told_so)
{
	struct img_error err = { 0 };
	uint8_t out[4096];
	struct img_luks *l;
	struct img_luks_area area = made("iter-time=1", 0, &l);

	img_luks_free(l);
	img_storage_resize(area.storage, 65536, IMG_PREALLOCATE_OFF, NULL);
	cr_assert_eq(content(&area, PASSPHRASE, out, &err), -EUCLEAN);
	cr_assert_str_eq(err.text, "disk: key slot 0: truncated: ends at 65536, its key material needs 260096");
	img_storage_resize(area.storage, 500, IMG_PREALLOCATE_OFF, NULL);
	cr_assert_eq(content(&area, PASSPHRASE, out, &err), -EUCLEAN);
	img_storage_resize(area.storage, 5, IMG_PREALLOCATE_OFF, NULL);
	cr_assert_eq(content(&area, PASSPHRASE, out, &err), -EMEDIUMTYPE);
	img_error_clear(&err);
	img_storage_close(area.storage);
}

Test(luks, options_that_do_not_go_together)
{
	static const struct {
		const char *text, *error;
	} cases[] = {
		{ "cipher-alg=foo", "Parameter 'cipher-alg' does not accept value 'foo'" },
		{ "cipher-alg=3des", "'3des' not supported" },
		{ "cipher-alg=cast5-128", "xts needs blocks of 16 bytes" },
		{ "cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha1", "sha1" },
		{ "iter-time=30001", "iter-time is 30001, expected at most 30000" },
		{ "hash-alg=sha3", "does not accept value 'sha3'" },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		struct img_luks_parameters p;
		struct img_error err = { 0 };

		cr_assert(parameters(cases[i].text, &p, &err) < 0);
		cr_assert(strstr(err.text, cases[i].error), "%s", err.text);
		img_error_clear(&err);
	}
}
