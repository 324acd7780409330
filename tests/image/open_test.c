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
	/* of an image of several files, which one */
	make_image("base.qcow2", "qcow2", 1 << 20, NULL, NULL);
	make_image("top.qcow2", "qcow2", 1 << 20, "base.qcow2", "qcow2");
	cr_assert_eq(rename("r", "base.qcow2"), 0);
	cr_assert_eq(must_fail("top.qcow2", &o, &text), -EMEDIUMTYPE);
	cr_assert(strstr(text, "base.qcow2: Image is not in qcow2 format"), "%s", text);
	o.format = "nofmt";
	cr_assert_eq(must_fail("top.qcow2", &o, &text), -ENOTSUP);
	cr_assert_str_eq(text, "Unknown driver 'nofmt'");
}

Test(open, getters)
{
	struct img *img;

	make_image("a.qcow2", "qcow2", 10 << 20, NULL, NULL);
	img = must_open("file:a.qcow2", NULL, 0);
	cr_assert_str_eq(img_name(img), "a.qcow2");
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

/* The first byte of what a description says, with options. */
static char first_byte(const char *text, const struct img_open_options *o)
{
	struct img_error *err = img_error_new();
	struct img_node *node;
	struct img *img;
	char byte = 0;

	cr_assert_eq(img_node_parse_options(text, &node, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_open_node(node, o, &img, err), 0, "%s: %s", text, img_error_text(err));
	img_node_free(node);
	cr_assert_eq(img_read(img, 0, &byte, 1, err), 0, "%s", img_error_text(err));
	must_close(img);
	img_error_free(err);
	return byte;
}

/* What opening a description fails with. */
static int refused(const char *text, const struct img_open_options *o, const char *why)
{
	struct img_error *err = img_error_new();
	struct img_node *node;
	struct img *img = NULL;
	int rc;

	cr_assert_eq(img_node_parse_options(text, &node, err), 0, "%s", img_error_text(err));
	rc = img_open_node(node, o, &img, err);
	cr_assert_null(img);
	cr_assert(strstr(img_error_text(err), why), "%s: %s", text, img_error_text(err));
	img_node_free(node);
	img_error_free(err);
	return rc;
}

#define MID "driver=qcow2,file.filename=sub/mid.qcow2"
#define TOP "driver=qcow2,file.filename=sub/top.qcow2"
#define BASE "backing.driver=raw,backing.file.filename=given/base.raw"

/* Names that the user gives: from the working directory, on each level, and never refused. */
Test(open, given_names)
{
	struct img_open_options o = { .references = "none" };

	run("mkdir sub given sub/given");
	make_image("sub/base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("given/base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("sub/given/base.raw", "raw", 1 << 20, NULL, NULL);
	mark("sub/base.raw", "raw", 's');
	mark("given/base.raw", "raw", 'g');
	mark("sub/given/base.raw", "raw", 'w'); /* where it is not to be looked for */
	make_image("sub/mid.qcow2", "qcow2", 0, "base.raw", "raw");
	make_image("sub/top.qcow2", "qcow2", 0, "mid.qcow2", "qcow2");
	make_image("plain.qcow2", "qcow2", 1 << 20, NULL, NULL);
	cr_assert_eq(refused(MID, &o, "none"), -EPERM);
	cr_assert_eq(first_byte(MID "," BASE, &o), 'g');
	cr_assert_eq(first_byte(TOP ",backing.file.filename=sub/mid.qcow2,backing.backing.driver=raw,"
				    "backing.backing.file.filename=given/base.raw",
				&o),
		     'g');
	cr_assert_eq(first_byte(TOP ",backing.file.filename=sub/mid.qcow2,backing.backing=", &o), 0);
	cr_assert_eq(first_byte(TOP ",backing=", &o), 0);
	/* what mid.qcow2 says is not given */
	cr_assert_eq(refused(TOP ",backing.file.filename=sub/mid.qcow2", &o, "none"), -EPERM);
	o.references = NULL;
	cr_assert_eq(first_byte(TOP ",backing.file.filename=sub/mid.qcow2", &o), 's');
	/* the stored name, read otherwise */
	cr_assert_eq(first_byte(TOP ",backing.driver=raw", &o), 'Q');

	cr_assert_eq(refused(TOP ",backing.file.filename=sub/top.qcow2", &o, "never end"), -ELOOP);
	cr_assert_eq(refused(TOP ",backing.file.filename=given/none", &o, "given/none"), -ENOENT);
	cr_assert_eq(refused("driver=raw,file.filename=sub/base.raw," BASE, &o, "no backing file"),
		     -ENOTSUP);
	cr_assert_eq(refused("driver=qcow2,file.filename=plain.qcow2,backing.driver=raw", &o,
			     "no backing file"),
		     -EINVAL);
}

Test(open, given_data_file)
{
	static const char *const split[] = { "data_file=stored.raw,data_file_raw=on", NULL };
	const struct img_create_options c = {
		.format = "qcow2", .size = 1 << 20, .have_size = true, .options = split
	};
	static const char a[] = "driver=qcow2,file.filename=sub/a.qcow2,data-file.filename=given.raw";
	struct img_open_options o = { .flags = IMG_OPEN_WRITE };
	struct img_node *node;
	struct img *img;

	run("mkdir sub");
	cr_assert_eq(img_create("sub/a.qcow2", &c, NULL), 0);
	mark("sub/a.qcow2", "qcow2", 's');
	make_image("given.raw", "raw", 1 << 20, NULL, NULL);
	mark("given.raw", "raw", 'g');
	cr_assert_eq(first_byte(a, NULL), 'g');
	cr_assert_eq(img_node_parse_options(a, &node, NULL), 0);
	cr_assert_eq(img_open_node(node, &o, &img, NULL), 0);
	cr_assert(img_depends_on(img, "given.raw"));
	cr_assert_not(img_depends_on(img, "sub/stored.raw"));
	cr_assert_eq(img_write(img, 0, "new", 3, NULL), 0);
	must_close(img);
	run("grep -q ^new given.raw && grep -q ^sss sub/stored.raw");
	o.references = "none";
	o.flags = 0;
	cr_assert_eq(first_byte(a, &o), 'n');
	cr_assert_eq(img_node_set(node, "data-file.filename", "none.raw", NULL), 0);
	cr_assert_eq(img_open_node(node, &o, &img, NULL), -ENOENT);
	img_node_free(node);
	cr_assert_eq(refused("driver=qcow2,file.filename=sub/a.qcow2,data-file.filename=sub/a.qcow2", &o,
			     "the image itself"),
		     -ELOOP);
	make_image("plain.qcow2", "qcow2", 1 << 20, NULL, NULL);
	cr_assert_eq(refused("driver=qcow2,file.filename=plain.qcow2,data-file.filename=given.raw", &o,
			     "a data file is given"),
		     -EINVAL);
	cr_assert_eq(refused("driver=raw,file.filename=given.raw,data-file.filename=given.raw", &o,
			     "a data file is given"),
		     -EINVAL);
}

Test(open, null_device)
{
	struct img_open_options o = { .references = "any" };
	struct img *img = must_open("/dev/null", NULL, 0);
	const char *text;

	cr_assert_eq(img_size(img), 0);
	must_close(img);
	make_image("a.qcow2", "qcow2", 1 << 20, "/dev/null", "raw");
	cr_assert_eq(first_byte("file.filename=a.qcow2", &o), 0);
	o.references = "/dev";
	cr_assert_eq(first_byte("file.filename=a.qcow2", &o), 0);
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

/* The bytes of a file become the first ones of an image's disk. */
static void copy_into(const char *file, const char *image)
{
	struct img *from = must_open(file, "raw", 0), *to = must_open(image, "qcow2", IMG_OPEN_WRITE);

	cr_assert_eq(img_copy(&from, 1, to, NULL, NULL), 0);
	must_close(from);
	must_close(to);
}

/* Windows of files, images inside images, disks that are nowhere. */
Test(open, what_lies_under_an_image)
{
	struct img_open_options o = { 0 };

	run("truncate -s 4M disk.raw && printf A | dd of=disk.raw conv=notrunc status=none && "
	    "printf B | dd of=disk.raw conv=notrunc bs=1 seek=1048576 status=none");
	cr_assert_eq(first_byte("driver=raw,file.filename=disk.raw", NULL), 'A');
	cr_assert_eq(first_byte("driver=raw,offset=1M,file.filename=disk.raw", NULL), 'B');
	cr_assert_eq(first_byte("driver=raw,offset=512k,size=1M,file.driver=raw,file.offset=512k,"
				"file.file.filename=disk.raw",
				NULL),
		     'B');
	cr_assert_eq(first_byte("driver=null-co,size=1M", NULL), 0);
	cr_assert_eq(first_byte("driver=raw,size=512,file.driver=null-aio", NULL), 0);

	/* a qcow2 image in a window of a raw disk, and one in the disk of another */
	make_image("inner.qcow2", "qcow2", 1 << 20, NULL, NULL);
	mark("inner.qcow2", "qcow2", 'i');
	run("dd if=inner.qcow2 of=disk.raw bs=1M seek=2 conv=notrunc status=none");
	cr_assert_eq(first_byte("driver=qcow2,file.driver=raw,file.offset=2M,"
				"file.file.filename=disk.raw",
				NULL),
		     'i');
	make_image("outer.qcow2", "qcow2", 4 << 20, NULL, NULL);
	copy_into("inner.qcow2", "outer.qcow2");
	cr_assert_eq(first_byte("driver=qcow2,file.driver=qcow2,file.file.filename=outer.qcow2", NULL),
		     'i');

	cr_assert_eq(refused("driver=raw,offset=5M,file.filename=disk.raw", NULL, "4194304"), -EINVAL);
	cr_assert_eq(refused("driver=raw,size=5M,file.filename=disk.raw", NULL, "5242880"), -EINVAL);
	cr_assert_eq(refused("driver=raw,size=100,file.filename=disk.raw", NULL, "multiple of 512"),
		     -EINVAL);
	cr_assert_eq(refused("driver=raw,size=x,file.filename=disk.raw", NULL, "'size' expects a non-negative number below 2^64, not 'x'"),
		     -EINVAL);
	cr_assert_eq(refused("driver=raw,offset=0,frob=1,file.filename=disk.raw", NULL,
			     "'raw' does not support the option 'frob'"),
		     -EINVAL);
	cr_assert_eq(refused("driver=qcow2,offset=1M,file.filename=inner.qcow2", NULL,
			     "'qcow2' does not support the option 'offset'"),
		     -EINVAL);
	cr_assert_eq(refused("driver=raw,file.filename=disk.raw,file.frob=1", NULL,
			     "protocol 'file' does not support the option 'frob'"),
		     -EINVAL);
	cr_assert_eq(refused("driver=qcow2", NULL, "must be specified for \"file\""), -EINVAL);
	cr_assert_eq(refused("filename=disk.raw", NULL, "Must specify"), -EINVAL);
	cr_assert_eq(refused("driver=nosuch,file.filename=disk.raw", NULL, "Unknown driver 'nosuch'"),
		     -ENOTSUP);
	cr_assert_eq(refused("driver=raw,file.driver=nosuch,file.filename=disk.raw", NULL,
			     "Unknown driver 'nosuch'"),
		     -ENOTSUP);
	cr_assert_eq(refused("driver=raw,file.driver=file,file.file.filename=x", NULL,
			     "protocol 'file' does not support the option 'file'"),
		     -EINVAL);
	cr_assert_eq(refused("driver=raw,file.filename=disk.raw,snapshot.name=x", NULL,
			     "no snapshots inside"),
		     -ENOTSUP);
	cr_assert_eq(refused("driver=raw,file.driver=host_device,file.filename=disk.raw", NULL,
			     "block device"),
		     -EINVAL);
	o.flags = IMG_OPEN_WRITE;
	cr_assert_eq(refused("driver=raw,read-only=on,file.filename=disk.raw", &o, "read-only"),
		     -EACCES);
	cr_assert_eq(refused("driver=raw,force-share=on,file.filename=disk.raw", &o, "force-share"),
		     -EINVAL);
}

/* Two ways to one file are one file, also through a window; two parts of a disk are two. */
Test(open, the_same_bytes_by_other_names)
{
	make_image("a.qcow2", "qcow2", 1 << 20, NULL, NULL);
	run("ln a.qcow2 b.qcow2 && ln -s a.qcow2 c.qcow2 && truncate -s 4M disk.raw");
	for (const char *const *other = (const char *const[]){ "b.qcow2", "c.qcow2", "./a.qcow2", NULL };
	     *other; other++) {
		char text[128];

		snprintf(text, sizeof(text), "driver=qcow2,file.filename=a.qcow2,backing.file.filename=%s",
			 *other);
		cr_assert_eq(refused(text, NULL, "never end"), -ELOOP, "%s", *other);
	}
	cr_assert_eq(refused("driver=qcow2,file.filename=a.qcow2,backing.driver=raw,backing.offset=0,"
			     "backing.file.filename=b.qcow2",
			     NULL, "never end"),
		     -ELOOP);
	run("dd if=a.qcow2 of=disk.raw conv=notrunc status=none");
	cr_assert_eq(first_byte("driver=qcow2,file.driver=raw,file.size=1M,file.file.filename=disk.raw,"
				"backing.driver=raw,backing.offset=1M,backing.file.filename=disk.raw",
				NULL),
		     0);
	cr_assert_eq(refused("driver=qcow2,file.driver=raw,file.size=1M,file.file.filename=disk.raw,"
			     "backing.driver=raw,backing.offset=512k,backing.file.filename=disk.raw",
			     NULL, "never end"),
		     -ELOOP);
}
