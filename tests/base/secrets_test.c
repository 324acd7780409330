/*
 * Objects that descriptions speak of: passphrases, TLS credentials.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/secrets.h"
#include "tests/support/scratch.h"

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
		{ "secret,id=b,data=x,keyid=a", -EINVAL, "keyid" },
		{ "rng-random,id=b", -EINVAL, "rng-random" },
		{ "", -EINVAL, "invalid object type" },
	};
	struct img_secrets *s = img_secrets_new();

	cr_assert_eq(img_secrets_add(s, "secret,id=a,data=x", NULL), 0);
	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		struct img_error err = { 0 };

		cr_assert_eq(img_secrets_add(s, rows[i].text, &err), rows[i].rc, "%s", rows[i].text);
		cr_assert(strstr(img_error_text(&err), rows[i].why), "%s: %s", rows[i].text,
			  img_error_text(&err));
		img_error_clear(&err);
	}
	img_secrets_free(s);
}
