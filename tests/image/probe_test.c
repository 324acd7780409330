/*
 * Guessing formats, and what a guess permits.
 */
#include "tests/image/folder.h"

TestSuite(probe, .init = folder_make, .fini = folder_remove, .timeout = 30);

static const char *probed(const char *name)
{
	const char *format = NULL;
	struct img_error *err = img_error_new();
	int rc = img_probe(name, &format, err);

	if (rc) {
		cr_assert_null(format);
		cr_assert(strstr(img_error_text(err), name), "%s", img_error_text(err));
	}
	img_error_free(err);
	return rc ? strerrorname_np(-rc) : format;
}

Test(probe, formats_by_content)
{
	make_image("x.raw", "qcow2", 1 << 20, NULL, NULL);
	cr_assert_str_eq(probed("x.raw"), "qcow2");
	cr_assert_str_eq(probed("file:x.raw"), "qcow2");
	make_file("zero", "", 0, 1 << 20);
	cr_assert_str_eq(probed("zero"), "raw");
	make_file("empty", "", 0, 0);
	cr_assert_str_eq(probed("empty"), "raw");
	make_file("short", "QFI", 3, 3);
	cr_assert_str_eq(probed("short"), "raw");
	cr_assert_str_eq(probed("missing"), "ENOENT");
	cr_assert_str_eq(probed("/dev"), "EISDIR");
}

Test(probe, formats_without_a_driver_are_not_raw)
{
	static const struct {
		const char *name;
		size_t off;
		const char *bytes;
		size_t len;
	} rows[] = {
		{ "vhdx", 0, "vhdxfile", 8 },
		{ "vdi", 64, "\x7f\x10\xda\xbe", 4 },
		{ "qed", 0, "QED\0", 4 },
		{ "luks", 0, "LUKS\xba\xbe", 6 },
		{ "qcow", 0, "QFI\xfb\0\0\0\1", 8 },
		{ "parallels", 0, "WithoutFreeSpace", 16 },
	};
	struct img_open_options o = { 0 };
	uint8_t head[512];

	for (size_t i = 0; i < COUNT(rows); i++) {
		const char *text;

		if (img_format_features(rows[i].name) >= 0)
			continue; /* it has a driver by now */
		memset(head, 0, sizeof(head));
		memcpy(head + rows[i].off, rows[i].bytes, rows[i].len);
		make_file("x", head, sizeof(head), 1 << 20);
		cr_assert_str_eq(probed("x"), "EINVAL", "%s", rows[i].name);
		must_fail("x", &o, &text);
		cr_assert(strstr(text, rows[i].name) && strstr(text, "-f raw"), "%s", text);
		must_close(must_open("x", "raw", 0));
	}
}

Test(probe, trailers)
{
	uint8_t tail[512] = "koly\0\0\0\4\0\0\2";
	int fd;

	make_file("x", "", 0, 1 << 20);
	fd = open("x", O_WRONLY | O_CLOEXEC);
	cr_assert_eq(pwrite(fd, tail, 512, (1 << 20) - 512), 512);
	close(fd);
	cr_assert_str_eq(probed("x"), "dmg");
	cr_assert_eq(truncate("x", (1 << 20) + 511), 0);
	cr_assert_str_eq(probed("x"), "dmg");
	cr_assert_eq(truncate("x", (1 << 20) + 512), 0);
	cr_assert_str_eq(probed("x"), "raw");
	cr_assert_eq(truncate("x", 1 << 20), 0);
	/* what is no sound footer of a VHD is nothing */
	memcpy(tail, "conectix\0\0\0\2", 12);
	fd = open("x", O_WRONLY | O_CLOEXEC);
	cr_assert_eq(pwrite(fd, tail, 512, (1 << 20) - 512), 512);
	close(fd);
	cr_assert_str_eq(probed("x"), "raw");
}

Test(probe, a_guessed_raw_disk_does_not_become_another_format)
{
	static const uint8_t qcow2[512] = "QFI\xfb\0\0\0\3";
	uint8_t header[512];
	struct img_error *err = img_error_new();
	struct img *img;
	int fd;

	make_image("q", "qcow2", 1 << 20, NULL, NULL);
	fd = open("q", O_RDONLY | O_CLOEXEC);
	cr_assert_eq(pread(fd, header, sizeof(header), 0), 512);
	close(fd);
	make_file("x", "", 0, 1 << 20);
	img = must_open("x", NULL, IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE);
	cr_assert_eq(img_write(img, 0, header, 512, err), -EPERM);
	cr_assert(strstr(img_error_text(err), "-f raw"), "%s", img_error_text(err));
	cr_assert_eq(img_write(img, 0, qcow2, 512, NULL), -EPERM);
	cr_assert_eq(img_write(img, 0, "vhdxfile", 8, NULL), -EPERM);
	/* in two pieces */
	cr_assert_eq(img_write(img, 4, header + 4, 508, NULL), 0);
	cr_assert_eq(img_write(img, 0, header, 4, NULL), -EPERM);
	/* finished by zeroes */
	cr_assert_eq(img_write(img, 0, "QED?", 4, NULL), 0);
	cr_assert_eq(img_zero(img, 3, 1, NULL), -EPERM);
	cr_assert_eq(img_discard(img, 3, 1, NULL), -EPERM);
	cr_assert_eq(img_zero(img, 0, 4, NULL), 0);
	/* elsewhere, and by other bytes */
	cr_assert_eq(img_write(img, 512, header, 512, NULL), 0);
	cr_assert_eq(img_write(img, 0, "boot", 4, NULL), 0);
	cr_assert_eq(img_zero(img, 0, 1 << 20, NULL), 0);
	must_close(img);
	cr_assert_str_eq(probed("x"), "raw");
	/* who says that it is raw may */
	img = must_open("x", "raw", IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 0, header, 512, NULL), 0);
	must_close(img);
	img_error_free(err);
}

/* Bytes that mean two things. */
Test(probe, hostile)
{
	const char *from = corpus();
	char command[PATH_MAX * 2];

	snprintf(command, sizeof(command),
		 "for f in poly-mbr-qcow2.raw poly-qfi.raw "
		 "poly-qcow2-vhd.img q2-trunc-20.qcow2 q2-trunc-71.qcow2; do "
		 "xz -dc %s/hostile/$f.xz > $f; done",
		 from);
	run(command);
	cr_assert_str_eq(probed("poly-mbr-qcow2.raw"), "raw");
	must_close(must_open("poly-qfi.raw", "raw", 0));
	cr_assert_str_neq(probed("poly-qcow2-vhd.img"), "raw");
	must_fail("q2-trunc-20.qcow2", &(struct img_open_options){ .format = "qcow2" }, NULL);
	must_fail("q2-trunc-71.qcow2", &(struct img_open_options){ .format = "qcow2" }, NULL);
}
