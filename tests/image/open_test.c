/*
 * Opening images and chains of them.
 */
#include "tests/image/folder.h"

TestSuite(open, .init = folder_make, .fini = folder_remove, .timeout = 60);

Test(open, missing_file)
{
	const char *text;

	cr_assert_eq(must_fail("none.qcow2", NULL, &text), -ENOENT);
	cr_assert_str_eq(text, "Could not open 'none.qcow2': No such file or directory");
}

Test(open, wrong_format)
{
	struct img_open_options o = { .format = "qcow2" };
	const char *text;

	make_image("r", "raw", 1 << 20, NULL, NULL);
	cr_assert_eq(must_fail("r", &o, &text), -EMEDIUMTYPE);
	cr_assert_str_eq(text, "Image is not in qcow2 format");
	o.format = "nofmt";
	cr_assert_eq(must_fail("r", &o, &text), -ENOTSUP);
	cr_assert_str_eq(text, "Unknown driver 'nofmt'");
}

Test(open, getters)
{
	struct img *img;

	make_image("a.qcow2", "qcow2", 10 << 20, NULL, NULL);
	img = must_open("file:a.qcow2", NULL, 0);
	cr_assert_str_eq(img_name(img), "file:a.qcow2");
	cr_assert_str_eq(img_format(img), "qcow2");
	cr_assert_eq(img_size(img), 10 << 20);
	cr_assert_eq(img_unit_bytes(img), 65536);
	cr_assert(img_was_probed(img));
	cr_assert_null(img_backing(img));
	must_close(img);
	img = must_open("a.qcow2", "qcow2", 0);
	cr_assert_not(img_was_probed(img));
	must_close(img);
	cr_assert_eq(img_close(NULL, NULL), 0);
}

Test(open, writing_needs_a_format)
{
	struct img_open_options o = { .flags = IMG_OPEN_WRITE };

	make_image("a.qcow2", "qcow2", 10 << 20, NULL, NULL);
	cr_assert_eq(must_fail("a.qcow2", &o, NULL), -EINVAL);
	must_close(must_open("a.qcow2", "qcow2", IMG_OPEN_WRITE));
	must_close(must_open("a.qcow2", NULL, IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE));
}

Test(open, chain)
{
	struct img *img;
	char buf[8] = { 0 };
	const struct img *i;
	unsigned depth = 0;

	make_image("base.raw", "raw", 4 << 20, NULL, NULL);
	make_image("mid.qcow2", "qcow2", 0, "base.raw", "raw");
	cr_assert_eq(mkdir("sub", 0700), 0);
	run("mv mid.qcow2 base.raw sub");
	make_image("top.qcow2", "qcow2", 0, "sub/mid.qcow2", "qcow2");

	img = must_open("sub/base.raw", "raw", IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 100000, "bottom", 6, NULL), 0);
	must_close(img);
	img = must_open("top.qcow2", "qcow2", 0);
	for (i = img; i; i = img_backing(i))
		depth++;
	cr_assert_eq(depth, 3);
	cr_assert_str_eq(img_name(img_backing(img_backing(img))), "sub/base.raw");
	cr_assert_eq(img_read(img, 100000, buf, 6, NULL), 0);
	cr_assert_str_eq(buf, "bottom");
	must_close(img);

	img = must_open("top.qcow2", "qcow2", IMG_OPEN_NO_BACKING);
	cr_assert_null(img_backing(img));
	cr_assert_eq(img_read(img, 100000, buf, 6, NULL), 0);
	cr_assert_eq(buf[0], 0);
	must_close(img);
}

Test(open, writing_to_an_overlay_leaves_the_backing_file_alone)
{
	struct img *img;
	char buf[8] = { 0 };

	make_image("base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("top.qcow2", "qcow2", 0, "base.raw", "raw");
	img = must_open("base.raw", "raw", IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 70000, "below", 5, NULL), 0);
	must_close(img);
	img = must_open("top.qcow2", "qcow2", IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 70002, "X", 1, NULL), 0); /* fills its cluster from below */
	cr_assert_eq(img_read(img, 70000, buf, 5, NULL), 0);
	cr_assert_str_eq(buf, "beXow");
	must_close(img);
	img = must_open("top.qcow2", "qcow2", 0);
	cr_assert_eq(img_read(img, 70000, buf, 5, NULL), 0);
	cr_assert_str_eq(buf, "beXow");
	must_close(img);
	img = must_open("base.raw", "raw", 0);
	cr_assert_eq(img_read(img, 70000, buf, 5, NULL), 0);
	cr_assert_str_eq(buf, "below");
	must_close(img);
}

Test(open, missing_backing_file)
{
	const char *text;

	make_image("one.qcow2", "qcow2", 1 << 20, "missing.qcow2", "qcow2");
	make_image("two.qcow2", "qcow2", 1 << 20, "one.qcow2", "qcow2");
	cr_assert_eq(must_fail("one.qcow2", NULL, &text), -ENOENT);
	cr_assert_str_eq(text, "Could not open backing file: Could not open 'missing.qcow2': "
			       "No such file or directory");
	cr_assert_eq(must_fail("two.qcow2", NULL, &text), -ENOENT);
	cr_assert_str_eq(text, "Could not open backing file: Could not open backing file: "
			       "Could not open 'missing.qcow2': No such file or directory");
	must_close(must_open("two.qcow2", NULL, IMG_OPEN_SELF_ONLY));
	must_close(must_open("two.qcow2", NULL, IMG_OPEN_NO_BACKING));
}

Test(open, another_backing_file_than_the_stored_one)
{
	struct img_open_options o = { .format = "qcow2",
				      .backing_name = "other",
				      .backing_format = "raw" };
	struct img *img = NULL;
	char buf[8] = { 0 };

	make_file("other", "other!", 6, 1 << 20);
	make_image("one.qcow2", "qcow2", 1 << 20, "missing.qcow2", "qcow2");
	cr_assert_eq(img_open("one.qcow2", &o, &img, NULL), 0);
	cr_assert_eq(img_read(img, 0, buf, 6, NULL), 0);
	cr_assert_str_eq(buf, "other!");
	must_close(img);
}

Test(open, loops_end)
{
	const char *text;

	make_image("self.qcow2", "qcow2", 1 << 20, "./self.qcow2", "qcow2");
	cr_assert_eq(must_fail("self.qcow2", NULL, &text), -ELOOP);
	make_image("a.qcow2", "qcow2", 1 << 20, "b.qcow2", "qcow2");
	make_image("b.qcow2", "qcow2", 1 << 20, "c.qcow2", "qcow2");
	make_image("c.qcow2", "qcow2", 1 << 20, "a.qcow2", "qcow2");
	cr_assert_eq(must_fail("a.qcow2", NULL, &text), -ELOOP);
	cr_assert(strstr(text, "a.qcow2"), "%s", text);
	/* the same file by another name */
	cr_assert_eq(symlink("b.qcow2", "alias.qcow2"), 0);
	cr_assert_eq(link("c.qcow2", "hard.qcow2"), 0);
	cr_assert_eq(must_fail("alias.qcow2", NULL, NULL), -ELOOP);
	cr_assert_eq(must_fail("hard.qcow2", NULL, NULL), -ELOOP);
}

Test(open, depth_has_a_limit)
{
	char name[32], below[32];
	struct img *img;
	const char *text;

	make_image("0", "qcow2", 1 << 20, NULL, NULL);
	for (int i = 1; i < 257; i++) {
		snprintf(name, sizeof(name), "%d", i);
		snprintf(below, sizeof(below), "%d", i - 1);
		make_image(name, "qcow2", 1 << 20, below, "qcow2");
	}
	img = must_open("255", NULL, 0); /* 256 images */
	must_close(img);
	cr_assert_eq(must_fail("256", NULL, &text), -ELOOP);
	cr_assert(strstr(text, "256 images"), "%s", text);
}

Test(open, references_follow_the_policy)
{
	struct img_open_options o = { .format = "qcow2" };
	char outside[PATH_MAX];
	struct img *img = NULL;
	const char *text;

	cr_assert_eq(mkdir("vm", 0700), 0);
	make_image("base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("vm/top.qcow2", "qcow2", 1 << 20, "../base.raw", "raw");
	cr_assert_eq(must_fail("vm/top.qcow2", &o, &text), -EPERM);
	cr_assert(strstr(text, "'../base.raw' lies outside"), "%s", text);
	o.references = "none";
	cr_assert_eq(must_fail("vm/top.qcow2", &o, NULL), -EPERM);
	o.references = "any";
	cr_assert_eq(img_open("vm/top.qcow2", &o, &img, NULL), 0);
	must_close(img);
	o.references = folder;
	cr_assert_eq(img_open("vm/top.qcow2", &o, &img, NULL), 0);
	must_close(img);
	o.references = "";
	cr_assert_eq(must_fail("vm/top.qcow2", &o, NULL), -EINVAL);
	/* each image of the chain has a folder of its own */
	o.references = NULL;
	make_image("above.qcow2", "qcow2", 1 << 20, "vm/top.qcow2", "qcow2");
	cr_assert_eq(must_fail("above.qcow2", &o, NULL), -EPERM);
	snprintf(outside, sizeof(outside), "%s/base.raw", folder);
	make_image("beside.qcow2", "qcow2", 1 << 20, outside, "raw");
	cr_assert_eq(img_open("beside.qcow2", &o, &img, NULL), 0);
	must_close(img);
}

/* Fill an image's first bytes with one letter. */
static void mark(const char *name, const char *format, char letter)
{
	struct img *img = must_open(name, format, IMG_OPEN_WRITE);
	char text[512];

	memset(text, letter, sizeof(text));
	cr_assert_eq(img_write(img, 0, text, sizeof(text), NULL), 0);
	must_close(img);
}

/* The first byte that options give. */
static char first_byte(const char *name, const struct img_open_options *o)
{
	struct img_error *err = img_error_new();
	struct img *img;
	char byte = 0;

	cr_assert_eq(img_open(name, o, &img, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_read(img, 0, &byte, 1, err), 0, "%s", img_error_text(err));
	must_close(img);
	img_error_free(err);
	return byte;
}

/* Names that the user gives: from the working directory, on each level, and never refused. */
Test(open, given_names)
{
	const struct img_open_options lowest = { .backing_name = "given/base.raw",
						 .backing_format = "raw" };
	const struct img_open_options alone = { .flags = IMG_OPEN_NO_BACKING };
	struct img_open_options o = { .references = "none" };
	const char *text;

	run("mkdir sub given sub/given");
	make_image("sub/base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("given/base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("sub/given/base.raw", "raw", 1 << 20, NULL, NULL);
	mark("sub/base.raw", "raw", 's');
	mark("given/base.raw", "raw", 'g');
	mark("sub/given/base.raw", "raw", 'w'); /* where it is not to be looked for */
	make_image("sub/mid.qcow2", "qcow2", 0, "base.raw", "raw");
	make_image("sub/top.qcow2", "qcow2", 0, "mid.qcow2", "qcow2");
	cr_assert_eq(must_fail("sub/mid.qcow2", &o, NULL), -EPERM);
	o.backing_name = "given/base.raw";
	cr_assert_eq(first_byte("sub/mid.qcow2", &o), 'g');
	o.backing_name = "file:given/base.raw";
	cr_assert_eq(first_byte("sub/mid.qcow2", &o), 'g');
	o.backing_name = "sub/mid.qcow2";
	o.backing = &lowest;
	cr_assert_eq(first_byte("sub/top.qcow2", &o), 'g');
	o.backing = &alone;
	cr_assert_eq(first_byte("sub/top.qcow2", &o), 0);
	o.backing = NULL;
	cr_assert_eq(must_fail("sub/top.qcow2", &o, NULL), -EPERM); /* what mid.qcow2 says is not given */
	o.references = NULL;
	cr_assert_eq(first_byte("sub/top.qcow2", &o), 's');
	/* the stored name, read otherwise */
	o.backing_name = NULL;
	o.backing_format = "raw";
	cr_assert_eq(first_byte("sub/top.qcow2", &o), 'Q');

	o.backing_format = NULL;
	o.backing_name = "sub/top.qcow2";
	cr_assert_eq(must_fail("sub/top.qcow2", &o, &text), -ELOOP);
	o.backing_name = "given/none";
	cr_assert_eq(must_fail("sub/top.qcow2", &o, &text), -ENOENT);
	o.backing_name = "given/base.raw";
	cr_assert_eq(must_fail("sub/base.raw", &o, &text), -ENOTSUP);
	o.backing_name = NULL;
	o.backing = &lowest;
	make_image("plain.qcow2", "qcow2", 1 << 20, NULL, NULL);
	cr_assert_eq(must_fail("plain.qcow2", &o, &text), -EINVAL);
}

Test(open, given_data_file)
{
	static const char *const split[] = { "data_file=stored.raw,data_file_raw=on", NULL };
	const struct img_create_options c = {
		.format = "qcow2", .size = 1 << 20, .have_size = true, .options = split
	};
	struct img_open_options o = { .format = "qcow2", .data_file = "given.raw" };
	const char *text;
	struct img *img;

	run("mkdir sub");
	cr_assert_eq(img_create("sub/a.qcow2", &c, NULL), 0);
	mark("sub/a.qcow2", "qcow2", 's');
	make_image("given.raw", "raw", 1 << 20, NULL, NULL);
	mark("given.raw", "raw", 'g');
	cr_assert_eq(first_byte("sub/a.qcow2", &o), 'g');
	o.flags = IMG_OPEN_WRITE;
	cr_assert_eq(img_open("sub/a.qcow2", &o, &img, NULL), 0);
	cr_assert_eq(img_write(img, 0, "new", 3, NULL), 0);
	must_close(img);
	run("grep -q ^new given.raw && grep -q ^sss sub/stored.raw");
	o.references = "none";
	o.flags = 0;
	cr_assert_eq(first_byte("sub/a.qcow2", &o), 'n');
	o.data_file = "none.raw";
	cr_assert_eq(must_fail("sub/a.qcow2", &o, &text), -ENOENT);
	o.data_file = "sub/a.qcow2";
	cr_assert_eq(must_fail("sub/a.qcow2", &o, &text), -ELOOP);
	make_image("plain.qcow2", "qcow2", 1 << 20, NULL, NULL);
	o.data_file = "given.raw";
	cr_assert_eq(must_fail("plain.qcow2", &o, &text), -EINVAL);
	o.format = "raw";
	cr_assert_eq(must_fail("given.raw", &o, &text), -EINVAL);
}

Test(open, null_device)
{
	struct img_open_options o = { .references = "any" };
	struct img *img = must_open("/dev/null", NULL, 0);
	const char *text;

	cr_assert_eq(img_size(img), 0);
	must_close(img);
	make_image("a.qcow2", "qcow2", 1 << 20, "/dev/null", "raw");
	cr_assert_eq(first_byte("a.qcow2", &o), 0);
	o.references = "/dev";
	cr_assert_eq(first_byte("a.qcow2", &o), 0);
	o.references = NULL;
	cr_assert_eq(must_fail("a.qcow2", &o, &text), -EPERM);
	o = (struct img_open_options){ .format = "raw", .flags = IMG_OPEN_WRITE };
	cr_assert_eq(must_fail("/dev/null", &o, &text), -EINVAL);
	o.flags = 0;
	cr_assert_eq(must_fail("/dev/zero", &o, &text), -EINVAL);
}

Test(open, resolved_names)
{
	char *path = img_resolve_name("file:dir/a.qcow2", "b.qcow2");

	cr_assert_str_eq(path, "dir/b.qcow2");
	free(path);
}

/* Images of the corpus that name what they must not, or never end. */
Test(open, hostile_references)
{
	static const struct {
		const char *file, *entry, *format;
		int rc;
	} rows[] = {
		{ "q2-backing-fd.qcow2", NULL, "qcow2", -EPERM },
		{ "q2-backing-json.qcow2", NULL, "qcow2", -EPERM },
		{ "q2-backing-nbd.qcow2", NULL, "qcow2", -EPERM },
		{ "q2-backing-passwd.qcow2", NULL, "qcow2", -EPERM },
		{ "q2-datafile-passwd.qcow2", NULL, "qcow2", -EPERM },
		{ "q2-self.qcow2", NULL, "qcow2", -ELOOP },
		{ "q2-loop2.tar", "a.qcow2", "qcow2", -ELOOP },
		{ "q2-deep700.tar", "top.qcow2", "qcow2", -ELOOP },
	};
	const char *from = corpus();
	char command[PATH_MAX * 2];

	for (size_t i = 0; i < COUNT(rows); i++) {
		struct img_open_options o = { .format = rows[i].format };
		const char *name = rows[i].entry ? rows[i].entry : rows[i].file, *text;

		snprintf(command, sizeof(command), "xz -dc %s/hostile/%s.xz %s%s", from,
			 rows[i].file, rows[i].entry ? "| tar -x" : "> ",
			 rows[i].entry ? "" : rows[i].file);
		run(command);
		cr_expect_eq(must_fail(name, &o, &text), rows[i].rc, "%s: %s", rows[i].file, text);
		/* what the image names is not opened by asking about the image */
		must_close(must_open(name, NULL, IMG_OPEN_SELF_ONLY));
		run("rm -rf *");
	}
}
