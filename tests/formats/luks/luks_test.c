/*
 * LUKS disks: what needs the passphrase and what does not, and what check says of those that are cut. What
 * others make of them tests/interop asks.
 */
#include "tests/crypto/luks2_header.h"
#include "tests/image/folder.h"

TestSuite(luks_disk, .init = folder_make, .fini = folder_remove);

enum { MIB = 1 << 20 };

/* Secret s is the passphrase. */
static struct img_secrets *secrets_new(void)
{
	struct img_secrets *s = img_secrets_new();

	cr_assert_eq(img_secrets_add(s, "secret,id=s,data=open sesame", NULL), 0);
	return s;
}

static void create(const char *name, const char *format, uint64_t size, const char *options)
{
	struct img_secrets *s = secrets_new();
	const char *const list[] = { options, NULL };
	const struct img_create_options o = {
		.format = format, .size = size, .have_size = size, .options = list, .secrets = s
	};
	struct img_error *err = img_error_new();

	cr_assert_eq(img_create(name, &o, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	img_secrets_free(s);
}

static int open_by(const char *description, unsigned flags, struct img **out, struct img_error *err)
{
	struct img_secrets *s = secrets_new();
	const struct img_open_options o = { .flags = flags, .secrets = s };
	struct img_node *node = NULL;
	int rc = img_node_parse_options(description, &node, err);

	if (!rc)
		rc = img_open_node(node, &o, out, err);
	img_node_free(node);
	img_secrets_free(s);
	return rc;
}

Test(luks_disk, what_needs_no_passphrase)
{
	static const char *const add[] = { "state=active,new-secret=s,iter-time=1", NULL };
	struct img_secrets *s = secrets_new();
	const struct img_amend_options how = { .options = add, .secrets = s };
	struct img_error *err = img_error_new();
	struct img *img;
	uint8_t byte = 0;

	create("a.luks", "luks", MIB, "key-secret=s,iter-time=1");
	cr_assert_eq(open_by("driver=luks,file.filename=a.luks", 0, &img, err), -ENOKEY);
	img = must_open("a.luks", "luks", IMG_OPEN_NO_DATA | IMG_OPEN_WRITE);
	cr_assert_eq(img_size(img), MIB);
	cr_assert_eq(img_read(img, 0, &byte, 1, err), -ENOKEY);
	cr_assert(strstr(img_error_text(err), "a.luks: it is encrypted, and was opened without its passphrase"),
		  "%s", img_error_text(err));
	cr_assert_eq(img_write(img, 0, &byte, 1, err), -ENOKEY);
	cr_assert_eq(img_zero(img, 0, 4096, err), -ENOKEY);
	cr_assert_eq(img_amend(img, &how, err), -ENOKEY);
	cr_assert_eq(img_close(img, err), 0);
	/* a child is made, and tells of its chain */
	create("c.qcow2", "qcow2", 0, "backing_file=a.luks,backing_fmt=luks");
	img = must_open("c.qcow2", NULL, IMG_OPEN_NO_DATA);
	cr_assert_eq(img_size(img), MIB);
	cr_assert_eq(img_read(img, 0, &byte, 1, err), -ENOKEY);
	cr_assert_eq(img_close(img, err), 0);
	cr_assert_eq(open_by("driver=qcow2,file.filename=c.qcow2", 0, &img, err), -ENOKEY);
	cr_assert_eq(open_by("driver=qcow2,file.filename=c.qcow2,backing.key-secret=s", 0, &img, err), 0, "%s",
		     img_error_text(err));
	cr_assert_eq(img_read(img, 0, &byte, 1, err), 0);
	cr_assert_eq(img_close(img, err), 0);
	img_error_free(err);
	img_secrets_free(s);
}

/* The name of what is not published yet stays with it. */
Test(luks_disk, key_slots_of_a_disk_that_was_just_created)
{
	static const char *const options[] = { "key-secret=s,iter-time=1", NULL };
	static const char *const change[] = { "state=inactive,keyslot=9", NULL };
	struct img_secrets *s = secrets_new();
	const struct img_create_options o = {
		.format = "luks", .size = MIB, .have_size = true, .options = options, .secrets = s
	};
	const struct img_amend_options how = { .options = change, .secrets = s };
	struct img_error *err = img_error_new();
	struct img *img;

	cr_assert_eq(img_create_begin("a.luks", &o, &img, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_amend(img, &how, err), -EINVAL);
	cr_assert_str_eq(img_error_text(err), "a.luks: Invalid keyslot 9 specified, must be between 0 and 7");
	img_close(img, NULL);
	img_error_free(err);
	img_secrets_free(s);
}

/* ---- Disks that are cut ---- */

static void keep(void *user, const char *line)
{
	snprintf(user, 512, "%s", line);
}

static uint64_t check(const char *name, char report[512])
{
	struct img *img = must_open(name, "luks", IMG_OPEN_CHECK);
	struct img_check_result result;
	struct img_error *err = img_error_new();

	report[0] = 0;
	cr_assert_eq(img_check(img, 0, keep, report, &result, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_close(img, NULL), 0);
	img_error_free(err);
	return result.corruptions;
}

/* Of version 2, with that length in its segment. */
static void make_second_version(const char *length, off_t file_size)
{
	static uint8_t bytes[2 * HEADER];
	static const char dynamic[] = "dynamic";
	const char *at = strstr(WHOLE, dynamic);
	char json[sizeof(WHOLE) + 32];

	snprintf(json, sizeof(json), "%.*s%s%s", (int)(at - WHOLE), WHOLE, length, at + strlen(dynamic));
	luks2_copy(bytes, false, 1, json, strlen(json));
	luks2_copy(bytes + HEADER, true, 1, json, strlen(json));
	make_file("a", bytes, sizeof(bytes), file_size);
}

/* Version 2 may tell the disk's length. */
Test(luks_disk, that_is_shorter_than_its_header_says)
{
	struct img_error *err = img_error_new();
	char report[512];
	struct img *img;

	make_second_version("2097152", 3 * MIB);
	cr_assert_eq(check("a", report), 0, "%s", report);
	make_second_version("2097152", 3 * MIB - 512);
	cr_assert_eq(check("a", report), 1);
	cr_assert_str_eq(report, "a: truncated: ends at 3145216, the disk at 1048576 needs 3145728");
	img = must_open("a", "luks", IMG_OPEN_SELF_ONLY);
	cr_assert_eq(img_size(img), 2 * MIB);
	img_close(img, NULL);
	make_second_version("dynamic", MIB + 10000);
	cr_assert_eq(check("a", report), 0);
	cr_assert_str_eq(report, "a: the last 1808 bytes are no whole sector of 4096 bytes: they are not used");
	make_second_version("dynamic", MIB - 512);
	cr_assert_eq(check("a", report), 1);
	cr_assert_str_eq(report, "a: truncated: ends at 1048064, the disk at 1048576 needs 1048576");
	cr_assert_eq(open_by("driver=luks,file.filename=a", IMG_OPEN_NO_DATA, &img, err), -EUCLEAN);
	cr_assert_str_eq(img_error_text(err), "a: truncated: ends at 1048064, the disk begins at 1048576");
	make_second_version("9223372036853727232", 3 * MIB); /* it would end 4096 bytes beyond what is possible */
	cr_assert_eq(open_by("driver=luks,file.filename=a", IMG_OPEN_SELF_ONLY, &img, err), -EUCLEAN);
	cr_assert_str_eq(img_error_text(err),
			 "a: size is 9223372036853727232, expected at most 9223372036853723136");
	img_error_free(err);
}
