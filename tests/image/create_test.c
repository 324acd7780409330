/*
 * Creating images: what is reported, what is refused, what is left behind.
 */
#include "tests/image/folder.h"

TestSuite(create, .init = folder_make, .fini = folder_remove, .timeout = 30);

/* "key=value key=value ..." as prepare says it; "rc sentence" when it refuses. */
static const char *prepared(const struct img_create_options *o)
{
	static char text[2048];
	struct img_error *err = img_error_new();
	struct img_value *v = NULL;
	size_t n = 0;
	int rc = img_create_prepare("new", o, &v, err);

	if (rc)
		snprintf(text, sizeof(text), "%s: %s", strerrorname_np(-rc), img_error_text(err));
	for (size_t i = 0; i < (v ? img_value_count(v) : 0); i++) {
		const struct img_value *m = img_value_at(v, i);

		n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s=", i ? " " : "",
				      img_value_key_at(v, i));
		if (img_value_kind(m) == IMG_VALUE_STRING)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s",
					      img_value_string(m));
		else if (img_value_kind(m) == IMG_VALUE_BOOL)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%s",
					      img_value_bool(m) ? "on" : "off");
		else
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%llu",
					      (unsigned long long)img_value_uint(m));
	}
	img_value_free(v);
	img_error_free(err);
	cr_assert_eq(access("new", F_OK), -1);
	return text;
}

Test(create, prepare_reports_as_qemu_img_does)
{
	const char *list[] = { "cluster_size=4k,lazy_refcounts", "compat=1.1", NULL };
	struct img_create_options o = { .format = "qcow2", .size = 1 << 30, .have_size = true };

	make_image("base.qcow2", "qcow2", 5 << 20, NULL, NULL);
	cr_assert_str_eq(
		prepared(&o),
		"fmt=qcow2 cluster_size=65536 extended_l2=off "
		"compression_type=zlib size=1073741824 lazy_refcounts=off refcount_bits=16");
	o.backing_name = "base.qcow2";
	o.backing_format = "qcow2";
	o.have_size = false;
	o.options = list;
	cr_assert_str_eq(prepared(&o),
			 "fmt=qcow2 cluster_size=4096 extended_l2=off "
			 "compression_type=zlib size=5242880 compat=1.1 backing_file=base.qcow2 "
			 "backing_fmt=qcow2 lazy_refcounts=on refcount_bits=16");
	o = (struct img_create_options){ .format = "raw", .size = 1000000, .have_size = true };
	cr_assert_str_eq(prepared(&o), "fmt=raw size=1000000");
}

Test(create, keys_of_the_image_floor_may_come_as_options)
{
	const char *list[] = { "size=1G,backing_file=base.qcow2,backing_fmt=qcow2", NULL };
	struct img_create_options o = { .format = "qcow2", .options = list };

	make_image("base.qcow2", "qcow2", 5 << 20, NULL, NULL);
	cr_assert_str_eq(prepared(&o),
			 "fmt=qcow2 cluster_size=65536 extended_l2=off "
			 "compression_type=zlib size=1073741824 backing_file=base.qcow2 "
			 "backing_fmt=qcow2 lazy_refcounts=off refcount_bits=16");
	o.have_size = true;
	cr_assert_str_eq(prepared(&o), "EINVAL: The image size must be specified only once");
}

Test(create, refusals)
{
	const char *unknown[] = { "foo=1", NULL };
	struct img_create_options o = { .format = "nofmt" };

	make_image("base.qcow2", "qcow2", 5 << 20, NULL, NULL);
	cr_assert_str_eq(prepared(&o), "ENOENT: Unknown file format 'nofmt'");
	o.format = "qcow2";
	cr_assert_str_eq(prepared(&o), "EINVAL: Image creation needs a size parameter");
	o.options = unknown;
	cr_assert_str_eq(prepared(&o), "EINVAL: Invalid parameter 'foo'");
	o.options = NULL;
	o.backing_name = "base.qcow2";
	cr_assert_str_eq(prepared(&o), "EINVAL: Backing file specified without backing format\n"
				       "Detected format of qcow2.");
	o.backing_unchecked = true;
	cr_assert_str_eq(prepared(&o), "EINVAL: Backing file specified without backing format");
	o.backing_format = "qcow2";
	cr_assert_str_eq(prepared(&o), "EINVAL: Image creation needs a size parameter");
	o.backing_unchecked = false;
	o.backing_name = "nope.qcow2";
	cr_assert_str_eq(prepared(&o), "ENOENT: Could not open 'nope.qcow2': No such file or "
				       "directory\nCould not open backing image.");
	o.backing_name = "";
	cr_assert_str_eq(prepared(&o), "EINVAL: Expected backing file name, got empty string");
	o.backing_name = "new";
	cr_assert_str_eq(prepared(&o), "EINVAL: Error: Trying to create an image with the same "
				       "filename as the backing file");
	o.backing_name = NULL;
	o.size = 1 << 20;
	o.have_size = true;
	cr_assert_str_eq(prepared(&o),
			 "EINVAL: Backing format cannot be used without backing file");
	o = (struct img_create_options){ .format = "raw",
					 .backing_name = "base.qcow2",
					 .backing_format = "qcow2" };
	cr_assert_str_eq(prepared(&o),
			 "EOPNOTSUPP: Backing file not supported for file format 'raw'");
}

Test(create, an_image_in_its_own_chain_is_refused)
{
	struct img_create_options o = { .format = "qcow2",
					.backing_name = "b.qcow2",
					.backing_format = "qcow2" };

	make_image("a.qcow2", "qcow2", 1 << 20, NULL, NULL);
	make_image("b.qcow2", "qcow2", 0, "a.qcow2", "qcow2");
	cr_assert_lt(img_create("a.qcow2", &o, NULL), 0);
	cr_assert_lt(img_create("./b.qcow2", &o, NULL), 0);
	cr_assert_eq(symlink("b.qcow2", "c.qcow2"), 0);
	cr_assert_lt(img_create("c.qcow2", &o, NULL), 0);
	must_close(must_open("b.qcow2", "qcow2", 0));
}

Test(create, nothing_is_there_before_it_is_published)
{
	struct img_create_options o = { .format = "qcow2", .size = 1 << 20, .have_size = true };
	struct img *img = NULL;
	char buf[8] = { 0 };

	cr_assert_eq(img_create_begin("new", &o, &img, NULL), 0);
	cr_assert_eq(img_write(img, 5, "early", 5, NULL), 0);
	cr_assert_eq(access("new", F_OK), -1);
	must_close(img);
	cr_assert_eq(folder_count(), 0);

	cr_assert_eq(img_create_begin("new", &o, &img, NULL), 0);
	cr_assert_eq(img_write(img, 5, "early", 5, NULL), 0);
	cr_assert_eq(img_publish(img, NULL), 0);
	cr_assert_eq(access("new", F_OK), 0);
	cr_assert_eq(img_publish(img, NULL), 0); /* once is enough */
	cr_assert_eq(img_write(img, 100000, "later", 5, NULL), 0);
	must_close(img);
	cr_assert_eq(folder_count(), 1);
	img = must_open("new", "qcow2", 0);
	cr_assert_eq(img_read(img, 5, buf, 5, NULL), 0);
	cr_assert_str_eq(buf, "early");
	cr_assert_eq(img_read(img, 100000, buf, 5, NULL), 0);
	cr_assert_str_eq(buf, "later");
	must_close(img);
}

/* By its content it is no image at all. */
static void expect_unfinished(const char *name)
{
	struct img_open_options o = { 0 };
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	cr_assert_eq(img_open(name, &o, &img, err), -EUCLEAN);
	cr_assert(strstr(img_error_text(err), "is not complete"), "%s", img_error_text(err));
	o.format = "qcow2";
	cr_assert_neq(img_open(name, &o, &img, NULL), 0);
	o.format = "vmdk";
	cr_assert_neq(img_open(name, &o, &img, NULL), 0);
	img_error_free(err);
}

/* What is refused beforehand; what is given up later is neither the old image nor the new one. */
Test(create, a_failure_keeps_the_old_file)
{
	const char *bad[] = { "cluster_size=3", NULL };
	struct img_create_options o = {
		.format = "qcow2", .size = 1 << 20, .have_size = true, .options = bad
	};
	struct img *img = NULL;

	make_file("new", "precious", 8, 8);
	cr_assert_lt(img_create("new", &o, NULL), 0);
	cr_assert_eq(folder_count(), 1);
	run("grep -q precious new");
	o.options = NULL;
	cr_assert_eq(img_create_begin("new", &o, &img, NULL), 0);
	must_close(img);
	run("! grep -q precious new");
	expect_unfinished("new");
	cr_assert_eq(folder_count(), 1);
	cr_assert_eq(img_create("new", &o, NULL), 0);
	must_close(must_open("new", "qcow2", 0));
	cr_assert_eq(img_create("missing/new", &o, NULL), -ENOENT);
	cr_assert_eq(folder_count(), 1);
}

Test(create, a_file_in_use_is_kept)
{
	struct img_create_options o = { .format = "raw", .size = 1 << 20, .have_size = true };
	struct img *img;

	make_file("new", "precious", 8, 512);
	img = must_open("new", "raw", 0);
	cr_assert_eq(img_create("new", &o, NULL), -EAGAIN);
	must_close(img);
	run("grep -q precious new");
	cr_assert_eq(img_create("new", &o, NULL), 0);
}

Test(create, further_files_appear_with_the_image)
{
	const char *list[] = { "data_file=data.raw,data_file_raw=on", NULL };
	struct img_create_options o = {
		.format = "qcow2", .size = 1 << 20, .have_size = true, .options = list
	};
	struct img *img = NULL;
	char buf[8] = { 0 };

	cr_assert_eq(mkdir("vm", 0700), 0);
	cr_assert_eq(img_create_begin("vm/new", &o, &img, NULL), 0);
	cr_assert_eq(img_write(img, 70000, "data", 4, NULL), 0);
	cr_assert_eq(access("vm/data.raw", F_OK), -1);
	must_close(img);
	cr_assert_eq(rmdir("vm"), 0); /* empty */
	cr_assert_eq(mkdir("vm", 0700), 0);
	cr_assert_eq(img_create_begin("vm/new", &o, &img, NULL), 0);
	cr_assert_eq(img_write(img, 70000, "data", 4, NULL), 0);
	cr_assert_eq(img_publish(img, NULL), 0);
	must_close(img);
	img = must_open("vm/data.raw", "raw", 0);
	cr_assert_eq(img_read(img, 70000, buf, 4, NULL), 0);
	cr_assert_str_eq(buf, "data");
	must_close(img);
	img = must_open("vm/new", "qcow2", 0);
	cr_assert_eq(img_read(img, 70000, buf, 4, NULL), 0);
	cr_assert_str_eq(buf, "data");
	must_close(img);
	/* the image itself as its data file */
	list[0] = "data_file=new";
	cr_assert_lt(img_create("vm/new", &o, NULL), 0);
}

Test(create, an_overlay_is_usable_at_once)
{
	struct img_create_options o = { .format = "qcow2",
					.backing_name = "base",
					.backing_format = "raw" };
	struct img *img = NULL;
	char buf[8] = { 0 };

	make_file("base", "below", 5, 1 << 20);
	cr_assert_eq(img_create_begin("new", &o, &img, NULL), 0);
	cr_assert_eq(img_size(img), 1 << 20);
	cr_assert_eq(img_write(img, 2, "X", 1, NULL), 0);
	cr_assert_eq(img_read(img, 0, buf, 5, NULL), 0);
	cr_assert_str_eq(buf, "beXow");
	cr_assert_eq(img_publish(img, NULL), 0);
	must_close(img);
	img = must_open("new", "qcow2", 0);
	cr_assert_eq(img_read(img, 0, buf, 5, NULL), 0);
	cr_assert_str_eq(buf, "beXow");
	must_close(img);
}

Test(create, formats_tell_what_they_can)
{
	struct img_value *v;
	const char *name;
	size_t n = 0;

	for (; (name = img_format_at(n)); n++)
		cr_assert_geq(img_format_features(name), 0);
	cr_assert_geq(n, 3);
	for (n = 0; img_protocol_at(n); n++)
		cr_assert_eq(img_format_features(img_protocol_at(n)), img_format_features("raw"));
	cr_assert_geq(n, 3);
	cr_assert_str_eq(img_protocol_at(0), "file");
	cr_assert_eq(img_format_features("nofmt"), -ENOENT);
	cr_assert_eq(img_format_features("raw"),
		     IMG_FORMAT_WRITE | IMG_FORMAT_CREATE | IMG_FORMAT_RESIZE);
	cr_assert(img_format_features("qcow2") & IMG_FORMAT_BACKING);
	cr_assert_null(img_format_create_options("nofmt"));
	v = img_format_create_options("qcow2");
	cr_assert_geq(img_value_count(v), 15);
	n = 0;
	for (size_t i = 0; i < img_value_count(v); i++) {
		name = img_value_string(img_value_get(img_value_at(v, i), "name"));
		n += !strcmp(name, "size") || !strcmp(name, "backing_file") ||
		     !strcmp(name, "backing_fmt");
	}
	cr_assert_eq(n, 3);
	img_value_free(v);
}

/* What is made can be opened: an image more on a chain of as many as are allowed is refused. */
Test(create, chain_of_all_that_is_allowed)
{
	struct img_create_options o = { .format = "qcow2", .backing_format = "qcow2" };
	struct img_error *err = img_error_new();
	char name[16], below[16];

	make_image("1", "qcow2", 1 << 20, NULL, NULL);
	for (int i = 2; i < 256; i++) {
		snprintf(name, sizeof(name), "%d", i);
		snprintf(below, sizeof(below), "%d", i - 1);
		make_image(name, "qcow2", 1 << 20, below, "qcow2");
	}
	o.backing_name = "255";
	cr_assert_eq(img_create("256", &o, err), 0, "%s", img_error_text(err));
	must_close(must_open("256", "qcow2", 0));
	o.backing_name = "256";
	cr_assert_eq(img_create("257", &o, err), -ELOOP);
	cr_assert_str_eq(img_error_text(err),
			 "The chain of backing files would have 257 images, expected at most 256");
	cr_assert_eq(access("257", F_OK), -1);
	img_error_free(err);
}
