/*
 * Images on what keeps its size, and held something else before: block devices, parts of a file,
 * exports.
 */
#include "libimg/image/context.h" /* before img.h */

#include "libimg/base/arith.h"
#include "libimg/base/options.h"
#include "tests/image/folder.h"

TestSuite(fixed_size, .init = folder_make, .fini = folder_remove, .timeout = 120);

enum {
	ROOM = (40 << 20) + 4096 + 512, /* no whole MiB */
	DISK = 8 << 20,
	LARGE = 100 << 20,
	OFF = 4096, /* of it in the file */
};

static uint8_t model[LARGE], got[LARGE];
static const char *label;

/* A part of the file "disk", which keeps its size. */
static struct img_storage *part(void)
{
	struct img_error *err = img_error_new();
	struct img_storage *s;

	cr_assert_eq(img_storage_open_file("disk", IMG_STORAGE_WRITE, &s, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_storage_window(s, OFF, ROOM, &s, err), 0, "%s", img_error_text(err));
	cr_assert(s->device && !s->limits.zero_fill);
	img_error_free(err);
	return s;
}

/* Make the image there, over what looks like anything but zeroes. */
static int make(const char *format, const char *options, uint64_t size, struct img_error *err)
{
	const struct img_driver *driver = img_driver_named(format);
	struct img_storage *s;
	struct img_creating c = { .name = "disk", .size = size, .device = true };
	struct img_options *o = img_options_new(driver->create_options);
	int rc = options ? img_options_parse(o, options, err) : 0;

	memset(got, 0xd1, ROOM + 2 * OFF);
	make_file("disk", got, ROOM + 2 * OFF, ROOM + 2 * OFF);
	s = part();
	c.file = s;
	c.options = o;
	if (!rc && driver->create_check)
		rc = driver->create_check(&c, err);
	if (!rc)
		rc = driver->create(&c, err);
	img_options_free(o);
	img_storage_close(s);
	return rc;
}

static struct img *open_part(const char *format, unsigned flags)
{
	struct img_open_options how = { .format = format, .flags = flags, .io = IMG_IO_THREADS };
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	cr_assert_eq(img_open_storage(part(), "disk", &how, &img, err), 0, "%s: %s", label,
		     img_error_text(err));
	img_error_free(err);
	return img;
}

static void compare(struct img *img, uint64_t size)
{
	size_t at = 0;

	cr_assert_geq(img_size(img), size);
	cr_assert_eq(img_read(img, 0, got, size, NULL), 0, "%s", label);
	if (!memcmp(got, model, size))
		return;
	while (got[at] == model[at])
		at++;
	cr_assert_fail("%s: byte %zu is %#x, expected %#x", label, at, got[at], model[at]);
}

static void put(struct img *img, uint64_t off, uint64_t len, uint8_t value)
{
	struct img_error *err = img_error_new();

	memset(model + off, value, len);
	cr_assert_eq(img_write(img, off, model + off, len, err), 0, "%s: %s", label, img_error_text(err));
	img_error_free(err);
}

static void assert_sound(const char *format)
{
	struct img *img = open_part(format, IMG_OPEN_CHECK);
	struct img_check_result r;

	cr_assert_eq(img_check(img, 0, NULL, NULL, &r, NULL), 0);
	cr_assert(!r.corruptions && !r.leaks, "%s: %d corruptions, %d leaks", label, (int)r.corruptions,
		  (int)r.leaks);
	must_close(img);
}

/* Nothing around the part was written to. */
static void assert_around(void)
{
	int fd = open("disk", O_RDONLY | O_CLOEXEC);
	struct stat st;

	cr_assert(!fstat(fd, &st) && st.st_size == ROOM + 2 * OFF, "%s", label);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(pread(fd, got, OFF, i ? OFF + ROOM : 0), OFF);
		for (size_t k = 0; k < OFF; k++)
			cr_assert_eq(got[k], 0xd1, "%s: around it", label);
	}
	close(fd);
}

/* A genuine reader of the bytes alone. */
static void ask_qemu(const char *format)
{
	char command[300];

	if (system("qemu-img --version >/dev/null 2>&1"))
		return;
	snprintf(command, sizeof(command), "tail -c +%d disk | head -c %d >plain.part", OFF + 1, (int)ROOM);
	run(command);
	make_file("model", model, DISK, DISK);
	snprintf(command, sizeof(command), "qemu-img compare -q -f %s -F raw plain.part model", format);
	cr_assert_eq(system(command), 0, "%s, read by qemu-img", label);
}

static const struct {
	const char *format, *options;
	bool grows; /* takes no room before it is written to */
} rows[] = {
	{ "vpc", "force_size=on", true },
	{ "vpc", "force_size=on,block_size=64k", true },
	{ "vpc", "force_size=on,subformat=fixed", false },
	{ "vhdx", "block_size=1M", true },
	{ "vhdx", "block_size=1M,block_state_zero=off", true },
	{ "vhdx", "block_size=2M,subformat=fixed", false },
	{ "vdi", NULL, true },
	{ "vdi", "static=on", false },
	{ "qed", NULL, true },
	{ "qed", "cluster_size=4k,table_size=2", true },
	{ "qcow", NULL, true },
	{ "parallels", NULL, true },
	{ "qcow2", NULL, true },
};

static void change(const char *format)
{
	struct img *img = open_part(format, IMG_OPEN_WRITE | IMG_OPEN_UNMAP);

	compare(img, DISK);
	put(img, 100, 1000, 1);
	put(img, 3 << 20, 2 << 20, 2);
	put(img, DISK - 700, 700, 3);
	cr_assert_eq(img_discard(img, 2 << 20, 4 << 20, NULL), 0);
	memset(model + (2 << 20), 0, 4 << 20);
	cr_assert_eq(img_flush(img, NULL), 0);
	put(img, (5 << 20) + 10, 10, 4); /* a unit of which only that is written */
	put(img, (6 << 20) + 10, 10, 5);
	compare(img, DISK);
	must_close(img);
}

Test(fixed_size, made_and_written)
{
	struct img_error *err = img_error_new();

	for (size_t i = 0; i < COUNT(rows); i++) {
		static char text[100];
		const char *format = rows[i].format;
		struct img *img;

		snprintf(text, sizeof(text), "%s %s", format, rows[i].options ? rows[i].options : "");
		label = text;
		memset(model, 0, sizeof(model));
		cr_assert_eq(make(format, rows[i].options, DISK, err), 0, "%s: %s", text, img_error_text(err));
		assert_sound(format);
		change(format);
		assert_sound(format);
		assert_around();
		ask_qemu(format);
		img = open_part(format, IMG_OPEN_WRITE);
		compare(img, DISK);
		cr_assert_eq(img_resize(img, DISK + (2 << 20), IMG_PREALLOCATE_OFF, err), 0, "%s: %s", text,
			     img_error_text(err));
		compare(img, DISK + (2 << 20));
		put(img, DISK, 1 << 20, 6);
		cr_assert_eq(img_resize(img, DISK - (1 << 20), IMG_PREALLOCATE_OFF, err), 0, "%s: %s", text,
			     img_error_text(err));
		cr_assert_eq(img_resize(img, DISK, IMG_PREALLOCATE_OFF, err), 0, "%s: %s", text,
			     img_error_text(err));
		memset(model + DISK - (1 << 20), 0, 3 << 20);
		compare(img, DISK);
		must_close(img);
		assert_sound(format);
		assert_around();
	}
	img_error_free(err);
}

/* What does not fit is refused; what was written before that stays. */
Test(fixed_size, full)
{
	struct img_error *err = img_error_new();

	for (size_t i = 0; i < COUNT(rows); i++) {
		static char text[100];
		const char *format = rows[i].format;
		struct img *img;
		uint64_t off = 0;
		int rc = 0;

		snprintf(text, sizeof(text), "%s %s", format, rows[i].options ? rows[i].options : "");
		label = text;
		memset(model, 0, sizeof(model));
		rc = make(format, rows[i].options, LARGE, err);
		if (!rows[i].grows) {
			cr_assert_eq(rc, -ENOSPC, "%s: %s", text, img_error_text(err));
			continue;
		}
		cr_assert_eq(rc, 0, "%s: %s", text, img_error_text(err));
		img = open_part(format, IMG_OPEN_WRITE);
		while (!rc) {
			memset(got, (int)(1 + off % 250), 1 << 20);
			rc = img_write(img, off, got, 1 << 20, err);
			if (!rc)
				memcpy(model + off, got, 1 << 20);
			off += rc ? 0 : 1 << 20;
		}
		cr_assert_eq(rc, -ENOSPC, "%s: %d %s", text, rc, img_error_text(err));
		cr_assert_geq(off, 20 << 20);
		compare(img, off);
		cr_assert_eq(img_flush(img, err), 0, "%s: %s", text, img_error_text(err));
		must_close(img);
		assert_sound(format);
		img = open_part(format, 0);
		compare(img, off);
		must_close(img);
		assert_around();
	}
	img_error_free(err);
}

/* QEMU's dynamic VHDs on devices have their footer behind the last block. */
Test(fixed_size, vhd_with_its_footer_elsewhere)
{
	uint64_t end = OFF + ROOM - 512;
	struct img_error *err = img_error_new();
	struct img *img;
	int fd;

	label = "vpc";
	cr_assert_eq(make("vpc", "force_size=on", DISK, err), 0, "%s", img_error_text(err));
	fd = open("disk", O_RDWR | O_CLOEXEC);
	cr_assert_eq(pread(fd, got, 512, (off_t)end), 512);
	cr_assert_eq(memcmp(got, "conectix", 8), 0);
	memset(got + 512, 0xd1, 512);
	cr_assert_eq(pwrite(fd, got, 512, OFF + 2048), 512);
	cr_assert_eq(pwrite(fd, got + 512, 512, (off_t)end), 512);
	assert_sound("vpc");
	change("vpc");
	assert_sound("vpc");
	cr_assert_eq(pread(fd, got, 512, (off_t)end), 512);
	cr_assert_eq(memcmp(got, "conectix", 8), 0);
	/* neither here nor there: a repair writes it to the end */
	cr_assert_eq(pwrite(fd, model + (4 << 20), 512, (off_t)end), 512);
	img = open_part("vpc", IMG_OPEN_CHECK | IMG_OPEN_WRITE);
	{
		struct img_check_result r;

		cr_assert_eq(img_check(img, IMG_REPAIR_LEAKS, NULL, NULL, &r, NULL), 0);
		cr_assert(!r.leaks && r.leaks_fixed == 1);
	}
	must_close(img);
	assert_sound("vpc");
	assert_around();
	close(fd);
	img_error_free(err);
}
