/*
 * Opens that fail late, with some files of the image or of its chain open already: the error names the file
 * that is to blame, no file stays open, and no lock is left.
 */
#include "tests/image/folder.h"

TestSuite(failed_open, .init = folder_make, .fini = folder_remove, .timeout = 60);

static size_t open_files(void)
{
	DIR *d = opendir("/proc/self/fd");
	size_t n = 0;

	cr_assert_not_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

/*
 * Opening a description for writing fails with these words, twice alike; then each of the files, as many as are
 * named, can be opened by somebody for writing.
 */
static void fails(const char *text, int rc, const char *words, const char *const files[])
{
	struct img_open_options o = { .flags = IMG_OPEN_WRITE }, as_raw = { .format = "raw", .flags = IMG_OPEN_WRITE };
	struct img_error *err = img_error_new();
	struct img_node *node;
	struct img *img = NULL;
	size_t before = open_files();

	cr_assert_eq(img_node_parse_options(text, &node, err), 0, "%s", img_error_text(err));
	for (unsigned i = 0; i < 2; i++) {
		int got = img_open_node(node, &o, &img, err);

		cr_assert_eq(got, rc, "%s: %d, %s", text, got, img_error_text(err));
		cr_assert_null(img);
		cr_assert(strstr(img_error_text(err), words), "%s: %s", text, img_error_text(err));
		cr_assert_eq(open_files(), before, "%s: files stay open", text);
	}
	for (size_t i = 0; files[i]; i++) {
		cr_assert_eq(img_open(files[i], &as_raw, &img, err), 0, "%s", img_error_text(err));
		must_close(img);
		img = NULL;
	}
	img_node_free(node);
	img_error_free(err);
}

#define FILES(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define TOP "driver=qcow2,file.filename=top.qcow2"

Test(failed_open, where_a_lock_is_held_below)
{
	struct img *other;

	make_image("base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("mid.qcow2", "qcow2", 0, "base.raw", "raw");
	make_image("top.qcow2", "qcow2", 0, "mid.qcow2", "qcow2");
	other = must_open("base.raw", "raw", IMG_OPEN_WRITE);
	fails(TOP, -EAGAIN, "base.raw", FILES("top.qcow2", "mid.qcow2"));
	must_close(other);
	other = must_open("mid.qcow2", "qcow2", IMG_OPEN_WRITE);
	fails(TOP, -EAGAIN, "mid.qcow2", FILES("top.qcow2"));
	must_close(other);
	must_close(must_open("top.qcow2", "qcow2", IMG_OPEN_WRITE));
}

Test(failed_open, of_a_data_file)
{
	static const char *const options[] = { "data_file=data.raw", NULL };
	struct img_create_options c = { .format = "qcow2", .size = 1 << 20, .have_size = true, .options = options };
	struct img *other;

	cr_assert_eq(img_create("top.qcow2", &c, NULL), 0);
	other = must_open("data.raw", "raw", IMG_OPEN_WRITE);
	fails(TOP, -EAGAIN, "data.raw", FILES("top.qcow2"));
	fails(TOP ",data-file.filename=data.raw", -EAGAIN, "data.raw", FILES("top.qcow2"));
	must_close(other);
	fails(TOP ",data-file.driver=raw,data-file.size=512,data-file.offset=2M,data-file.file.filename=data.raw",
	      -EINVAL, "data.raw", FILES("top.qcow2", "data.raw"));
	run("rm data.raw");
	fails(TOP, -ENOENT, "data.raw", FILES("top.qcow2"));
}

Test(failed_open, of_the_second_extent)
{
	static const char *const options[] = { "subformat=twoGbMaxExtentFlat", NULL };
	static const char text[] = "driver=vmdk,file.filename=top.vmdk";
	struct img_create_options c = { .format = "vmdk", .size = (UINT64_C(2) << 30) + (1 << 20), .have_size = true, .options = options };
	struct img *other;

	cr_assert_eq(img_create("top.vmdk", &c, NULL), 0);
	other = must_open("top-f002.vmdk", "raw", IMG_OPEN_WRITE);
	fails(text, -EAGAIN, "top-f002.vmdk", FILES("top.vmdk", "top-f001.vmdk"));
	must_close(other);
	run("truncate -s 512 top-f002.vmdk");
	fails(text, -EUCLEAN, "top-f002.vmdk", FILES("top.vmdk", "top-f001.vmdk", "top-f002.vmdk"));
	run("rm top-f002.vmdk");
	fails(text, -ENOENT, "top-f002.vmdk", FILES("top.vmdk", "top-f001.vmdk"));
	/* one file twice */
	run("sed -i s/f002/f001/ top.vmdk");
	fails(text, -EUCLEAN, "top-f001.vmdk", FILES("top.vmdk", "top-f001.vmdk"));
}

/* The parent is found and open, and is the wrong one. */
Test(failed_open, with_a_parent_that_was_changed)
{
	struct img *img;

	make_image("base.vmdk", "vmdk", 1 << 20, NULL, NULL);
	make_image("top.vmdk", "vmdk", 0, "base.vmdk", "vmdk");
	img = must_open("base.vmdk", "vmdk", IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 0, "changed", 7, NULL), 0);
	must_close(img);
	fails("driver=vmdk,file.filename=top.vmdk", -EUCLEAN, "base.vmdk", FILES("top.vmdk", "base.vmdk"));
}

Test(failed_open, where_formats_contradict_each_other)
{
	make_image("base.qcow2", "qcow2", 1 << 20, NULL, NULL);
	make_image("top.qcow2", "qcow2", 1 << 20,
		   "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"base.qcow2\"}}", "qcow2");
	fails(TOP, -EPERM, "of format qcow2 and of format raw", FILES("top.qcow2", "base.qcow2"));
	/* found to be so only when it is open */
	make_image("other.raw", "raw", 1 << 20, NULL, NULL);
	make_image("top.qcow2", "qcow2", 1 << 20, "other.raw", "vmdk");
	fails(TOP, -EMEDIUMTYPE, "other.raw", FILES("top.qcow2", "other.raw"));
}

/* What lies under an image is one itself. */
Test(failed_open, of_an_image_inside_another)
{
	make_image("base.raw", "raw", 4 << 20, NULL, NULL);
	make_image("outer.qcow2", "qcow2", 0, "base.raw", "raw");
	fails("driver=qcow2,file.driver=qcow2,file.file.filename=outer.qcow2", -EMEDIUMTYPE, "not in qcow2 format",
	      FILES("outer.qcow2", "base.raw"));
	run("rm base.raw");
	fails("driver=raw,file.driver=qcow2,file.file.filename=outer.qcow2", -ENOENT, "base.raw", FILES("outer.qcow2"));
}
