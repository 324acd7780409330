/*
 * Objects that descriptions speak of: passphrases, TLS credentials.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/secrets.h"
#include "tests/support/scratch.h"

/* What openssl(1) has made of some texts: enc -aes-256-cbc -K KEY -iv IV */
#define KEY "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
#define IV "QEFCQ0RFRkdISUpLTE1OTw=="

static void has_bytes(const struct img_secrets *s, const char *id, const char *bytes, size_t len)
{
	const uint8_t *found = NULL;
	size_t found_len = 0;

	cr_assert_eq(img_secrets_bytes(s, id, &found, &found_len, NULL), 0, "%s", id);
	cr_assert_eq(found_len, len, "%s: %zu", id, found_len);
	cr_assert_arr_eq(found, (const uint8_t *)bytes, len);
}

Test(secrets, by_data_and_by_file)
{
	struct img_secrets *s = img_secrets_new();
	char name[SCRATCH_PATH], text[128];
	int fd = scratch_name(name, "secret") ? mkstemp(name) : -1;

	cr_assert_eq(write(fd, "cGFzcwA=\n", 9), 9);
	close(fd);
	cr_assert_eq(img_secrets_add(s, "secret,id=a,data=x,,y", NULL), 0);
	snprintf(text, sizeof(text), "secret,id=b,file=%s", name);
	cr_assert_eq(img_secrets_add(s, text, NULL), 0);
	snprintf(text, sizeof(text), "qom-type=secret,id=c,file=%s,format=base64", name);
	cr_assert_eq(img_secrets_add(s, text, NULL), 0);
	cr_assert_eq(img_secrets_add(s, "tls-creds-x509,id=t,dir=/d,verify-peer=off", NULL), 0);
	has_bytes(s, "a", "x,y", 3);
	has_bytes(s, "b", "cGFzcwA=\n", 9);
	has_bytes(s, "c", "pass", 5);
	cr_assert_str_eq(img_secrets_type(s, "t"), "tls-creds-x509");
	cr_assert_str_eq(img_secrets_property(s, "t", "dir"), "/d");
	cr_assert_null(img_secrets_property(s, "t", "username"));
	cr_assert_null(img_secrets_type(s, "none"));
	cr_assert_null(img_secrets_type(NULL, "none"));
	cr_assert_eq(img_secrets_bytes(s, "t", NULL, NULL, NULL), -ENOENT);
	unlink(name);
	img_secrets_free(s);
}

Test(secrets, that_are_refused)
{
	static const struct {
		const char *text;
		int rc;
		const char *why;
	} rows[] = {
		{ "secret,id=a,data=x", -EINVAL, "duplicate" },
		{ "secret,data=x", -EINVAL, "'id' is missing" },
		{ "secret,id=b", -EINVAL, "Must provide" },
		{ "secret,id=b,data=x,file=y", -EINVAL, "mutually exclusive" },
		{ "secret,id=b,data=%%,format=base64", -EINVAL, "not base64" },
		{ "secret,id=b,data=a,format=base64", -EINVAL, "not base64" },
		{ "secret,id=b,data=ab=c,format=base64", -EINVAL, "not base64" },
		{ "secret,id=b,file=/nonexistent/x", -ENOENT, "/nonexistent/x" },
		{ "secret,id=b,file=/dev/zero", -EFBIG, "65536" },
		{ "secret,id=b,data=x,keyid=a", -EINVAL, "keyid: the key 'a' has 1 bytes, expected 32" },
		{ "secret,id=b,data=x,keyid=none", -ENOENT, "No secret with id 'none'" },
		{ "secret,id=b,data=x,keyid=t", -ENOENT, "No secret with id 't'" },
		{ "secret,id=b,data=x,keyid=key", -EINVAL, "IV is required to decrypt secret" },
		{ "secret,id=b,data=x,iv=" IV, -EINVAL, "iv is of no use without keyid" },
		{ "secret,id=b,data=x,keyid=key,iv=AAAA", -EINVAL, "iv has 3 bytes, expected 16" },
		{ "secret,id=b,data=x,keyid=key,iv=%", -EINVAL, "iv: not base64" },
		{ "secret,id=b,data=x,keyid=key,iv=" IV, -EINVAL, "do not decrypt" },
		{ "secret,id=b,data=IhVUiZFUgMdK+Qab4aSiSg==,format=base64,keyid=key,iv=" IV, -EINVAL,
		  "do not decrypt" },
		{ "secret,id=b,data=,keyid=key,iv=" IV, -EINVAL, "do not decrypt" },
		{ "rng-random,id=b", -EINVAL, "rng-random" },
		{ "data=x,id=b", -EINVAL, "invalid object type: data" },
		{ "secret,id=b,data=half,other", -EINVAL, "Invalid parameter behind 'data'" },
		{ "secret,id=b,key=half", -EINVAL, "Invalid parameter 'key'" },
		{ "", -EINVAL, "invalid object type" },
	};
	struct img_secrets *s = img_secrets_new();

	cr_assert_eq(img_secrets_add(s, "secret,id=a,data=x", NULL), 0);
	cr_assert_eq(img_secrets_add(s, "tls-creds-x509,id=t,dir=/d", NULL), 0);
	cr_assert_eq(img_secrets_add(s, "secret,id=key,format=base64,data=" KEY, NULL), 0);
	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		struct img_error err = { 0 };

		cr_assert_eq(img_secrets_add(s, rows[i].text, &err), rows[i].rc, "%s", rows[i].text);
		cr_assert(strstr(img_error_text(&err), rows[i].why), "%s: %s", rows[i].text,
			  img_error_text(&err));
		img_error_clear(&err);
	}
	img_secrets_free(s);
}

Test(secrets, encrypted_by_another)
{
	static const struct {
		const char *data, *clear;
	} rows[] = {
		{ "IhVUiZFUgMdK+Qab4aSiSQ==", "open sesame" },
		{ "I5YsWNJcIamPEU08L1tQgIIYf78DU2QMhICRztZFNp4=", "0123456789abcdef" },
		{ "ygFKit7lFY6xwPoI1i2LTQ==", "" },
	};
	struct img_secrets *s = img_secrets_new();
	struct img_error err = { 0 };
	char text[256];

	cr_assert_eq(img_secrets_add(s, "secret,id=key,format=base64,data=" KEY, NULL), 0);
	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		char id[2] = { (char)('a' + i), 0 };

		snprintf(text, sizeof(text), "secret,id=%s,format=base64,keyid=key,iv=" IV ",data=%s", id,
			 rows[i].data);
		cr_assert_eq(img_secrets_add(s, text, &err), 0, "%s", img_error_text(&err));
		has_bytes(s, id, rows[i].clear, strlen(rows[i].clear));
	}
	img_secrets_free(s);
}

/* ---- What stays of them ---- */

/* How often bytes stand in what this process can write to. scrambled: each of them plus one. */
static unsigned found_in_memory(const char *scrambled, size_t len)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned found = 0;
	char line[512];

	cr_assert(maps);
	while (fgets(line, sizeof(line), maps)) {
		size_t from = strtoul(line, NULL, 16),
		       to = strtoul(strchr(line, '-') + 1, NULL, 16);
		const char *at = (const char *)from; /* NOLINT(performance-no-int-to-ptr) */

		if (!strstr(line, " rw") || strstr(line, "[v"))
			continue;
		for (; at + len <= (const char *)to; at++) { /* NOLINT(performance-no-int-to-ptr) */
			size_t i = 0;

			while (i < len && at[i] == scrambled[i] - 1)
				i++;
			found += i == len;
		}
	}
	fclose(maps);
	return found;
}

/* "the whale is white 42" */
static const char scrambled[] = "uif!xibmf!jt!xijuf!53";
enum { SCRAMBLED = sizeof(scrambled) - 1 };

static int count_while_used(void *user, const uint8_t *bytes, size_t len, struct img_error *err)
{
	(void)bytes, (void)err;
	cr_assert_eq(len, (size_t)SCRAMBLED);
	*(unsigned *)user = found_in_memory(scrambled, SCRAMBLED);
	return 0;
}

static int unscramble(void *user, const struct img_secret_request *request, void *buf, size_t size,
		      size_t *len)
{
	(void)user, (void)request, (void)size;
	for (size_t i = 0; i < SCRAMBLED; i++)
		((char *)buf)[i] = (char)(scrambled[i] - 1);
	*len = SCRAMBLED;
	return 0;
}

Test(secrets, nothing_of_them_stays_in_memory)
{
	const struct img_secret_request r = { .image = "disk", .option = "key-secret" };
	struct img_secrets *s;
	char text[64] = "secret,id=a,data=";
	char *end = text + strlen(text);
	unsigned while_used = 0;

#ifdef __SANITIZE_ADDRESS__
	cr_skip_test("what was freed is kept back, and not to be looked at");
#endif
	s = img_secrets_new();
	for (size_t i = 0; i < SCRAMBLED; i++)
		*end++ = (char)(scrambled[i] - 1);
	cr_assert_eq(found_in_memory(scrambled, SCRAMBLED), 1);
	cr_assert_eq(img_secrets_add(s, text, NULL), 0);
	explicit_bzero(text, sizeof(text));
	cr_assert_eq(found_in_memory(scrambled, SCRAMBLED), 1, "in the object alone");
	cr_assert_eq(img_secrets_use(s, "a", &r, count_while_used, &while_used, NULL), 0);
	cr_assert_eq(while_used, 1);
	img_secrets_free(s);
	cr_assert_eq(found_in_memory(scrambled, SCRAMBLED), 0);
	s = img_secrets_new();
	img_secrets_set_callback(s, unscramble, NULL);
	cr_assert_eq(img_secrets_use(s, NULL, &r, count_while_used, &while_used, NULL), 0);
	cr_assert_eq(while_used, 1);
	cr_assert_eq(found_in_memory(scrambled, SCRAMBLED), 0);
	img_secrets_free(s);
}

/* ---- Who uses them ---- */

struct user {
	const char *right; /* what use() takes */
	const char *answers[4];
	unsigned asked, used;
	bool was_new;
};

static int use(void *user, const uint8_t *bytes, size_t len, struct img_error *err)
{
	struct user *u = user;

	u->used++;
	if (len == strlen(u->right) && !memcmp(bytes, u->right, len))
		return 0;
	return img_fail(err, -EKEYREJECTED, "wrong");
}

static int answer(void *user, const struct img_secret_request *request, void *buf, size_t size,
		  size_t *len)
{
	struct user *u = user;
	const char *text = u->answers[u->asked];

	cr_assert_str_eq(request->image, "disk");
	cr_assert_str_eq(request->option, "key-secret");
	cr_assert_eq(request->attempt, u->asked);
	u->was_new = request->is_new;
	u->asked++;
	if (!text)
		return -1;
	*len = strlen(text);
	cr_assert_leq(*len, size);
	memcpy(buf, text, *len);
	return 0;
}

Test(secrets, are_asked_for_while_they_are_wrong)
{
	static const struct {
		const char *id;
		const char *answers[4];
		int rc;
		unsigned asked, used;
	} rows[] = {
		{ NULL, { "yes" }, 0, 1, 1 },
		{ NULL, { "no", "yes" }, 0, 2, 2 },
		{ NULL, { "no", "no", "no", "yes" }, -EKEYREJECTED, 3, 3 },
		{ NULL, { "no", NULL }, -EKEYREJECTED, 2, 1 },
		{ NULL, { NULL }, -ENOKEY, 1, 0 },
		{ "a", { NULL }, 0, 0, 1 },
		{ "b", { "yes" }, -EKEYREJECTED, 0, 1 },
		{ "none", { "yes" }, -ENOENT, 0, 0 },
	};
	struct img_secrets *s = img_secrets_new();
	struct img_secret_request r = { .image = "disk", .option = "key-secret", .is_new = true };
	struct user nobody = { .right = "yes" };
	struct img_error err = { 0 };

	cr_assert_eq(img_secrets_add(s, "secret,id=a,data=yes", NULL), 0);
	cr_assert_eq(img_secrets_add(s, "secret,id=b,data=no", NULL), 0);
	cr_assert_not(img_secrets_can_ask(s));
	cr_assert_eq(img_secrets_use(s, NULL, &r, use, &nobody, &err), -ENOKEY);
	cr_assert(strstr(img_error_text(&err), "disk: Parameter 'key-secret' is required for cipher"),
		  "%s", img_error_text(&err));
	cr_assert_eq(img_secrets_use(NULL, NULL, &r, use, &nobody, NULL), -ENOKEY);
	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		struct user u = { .right = "yes" };

		memcpy(u.answers, rows[i].answers, sizeof(u.answers));
		img_secrets_set_callback(s, answer, &u);
		cr_assert_eq(img_secrets_use(s, rows[i].id, &r, use, &u, NULL), rows[i].rc, "row %zu",
			     i);
		cr_assert_eq(u.asked, rows[i].asked, "row %zu: %u", i, u.asked);
		cr_assert_eq(u.used, rows[i].used, "row %zu: %u", i, u.used);
		cr_assert(!u.asked || u.was_new);
	}
	img_error_clear(&err);
	img_secrets_free(s);
}
