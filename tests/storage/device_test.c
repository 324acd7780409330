/*
 * Block devices, by a loop device over a file; skipped where none can be had.
 */
#include "storage_help.h"

#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>

TestSuite(device, .init = make_folder, .fini = remove_folder, .timeout = 120);

enum { LANE_BYTES = 40000,
       DEVICE_BYTES = 4 << 20 };

static char device[32];
static int holder = -1; /* the loop device lives as long as somebody has it open */

static void make_device(void)
{
	struct loop_info64 info = { .lo_flags = LO_FLAGS_AUTOCLEAR };
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), back;

	make_file("back", "", 0);
	cr_assert_eq(truncate(in_folder("back"), DEVICE_BYTES), 0);
	back = open(in_folder("back"), O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 20 && holder < 0 && control >= 0; i++) {
		int n = ioctl(control, LOOP_CTL_GET_FREE);

		if (n < 0)
			break;
		snprintf(device, sizeof(device), "/dev/loop%d", n);
		holder = open(device, O_RDWR | O_CLOEXEC);
		if (holder >= 0 && ioctl(holder, LOOP_SET_FD, back)) {
			close(holder); /* somebody else was faster */
			holder = -1;
		}
	}
	if (control >= 0)
		close(control);
	close(back);
	if (holder < 0)
		cr_skip_test("no loop device can be had");
	cr_assert_eq(ioctl(holder, LOOP_SET_STATUS64, &info), 0);
}

static struct img_storage *opened_device(unsigned flags)
{
	struct img_error err = { 0 };
	struct img_storage *s = NULL;

	cr_assert_eq(img_storage_open_file(device, flags | IMG_STORAGE_WRITE, &s, &err), 0, "%s",
		     img_error_text(&err));
	return s;
}

static void random_device(unsigned flags)
{
	struct img_storage *s;

	make_device();
	s = opened_device(flags);
	cr_assert(s->device);
	cr_assert_not(s->limits.zero_fill);
	cr_assert_eq(atomic_load(&s->size), DEVICE_BYTES);
	random_requests(s, IMG_IO_AUTO, LANE_BYTES, false, 1, 60);
	random_requests(s, IMG_IO_THREADS, LANE_BYTES, false, 2, 60);
	random_requests(s, IMG_IO_AUTO, 65536, true, 3, 60);
	cr_assert_eq(atomic_load(&s->size), DEVICE_BYTES);
	img_storage_close(s);
	close(holder);
}

Test(device, random_buffered)
{
	random_device(0);
}

Test(device, random_direct)
{
	random_device(IMG_STORAGE_DIRECT);
}

Test(device, size_is_fixed)
{
	struct img_error err = { 0 };
	struct img_storage *s;
	enum img_storage_extent kind;
	uint8_t buf[1000];
	uint64_t run;

	make_device();
	s = opened_device(0);
	memset(buf, 7, sizeof(buf));
	cr_assert_eq(img_storage_write(s, DEVICE_BYTES - 1000, buf, 1000, &err), 0);
	cr_assert_eq(img_storage_write(s, DEVICE_BYTES - 999, buf, 1000, &err), -ENOSPC);
	cr_assert_eq(img_storage_zero(s, DEVICE_BYTES - 999, 1000, &err), -ENOSPC);
	cr_assert_eq(img_storage_resize(s, 1000, IMG_PREALLOCATE_OFF, &err), 0);
	cr_assert_eq(atomic_load(&s->size), DEVICE_BYTES);
	cr_assert_eq(img_storage_resize(s, DEVICE_BYTES + 1, IMG_PREALLOCATE_OFF, &err), -ENOSPC);
	cr_assert(strstr(img_error_text(&err), "it is a device of 4194304"));
	cr_assert_eq(img_storage_extent(s, 5, DEVICE_BYTES * 2, &kind, &run), 0);
	cr_assert_eq(kind, IMG_STORAGE_DATA);
	cr_assert_eq(run, DEVICE_BYTES - 5);
	cr_assert_eq(img_storage_read(s, DEVICE_BYTES - 500, buf, 1000, &err), 0);
	for (int i = 0; i < 1000; i++)
		cr_assert_eq(buf[i], i < 500 ? 7 : 0);
	img_error_clear(&err);
	img_storage_close(s);
	close(holder);
}

/* Zeroing gives the space of the file below back: it did not go through the cache as bytes. */
Test(device, zeroing_is_handed_down)
{
	static uint8_t buf[DEVICE_BYTES];
	struct img_storage *s;
	struct stat st;

	make_device();
	s = opened_device(0);
	memset(buf, 7, sizeof(buf));
	cr_assert_eq(img_storage_write(s, 0, buf, sizeof(buf), NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	cr_assert_eq(img_storage_punch(s, 100, DEVICE_BYTES - 200, NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	cr_assert_eq(stat(in_folder("back"), &st), 0);
	cr_assert_lt(st.st_blocks * 512, DEVICE_BYTES / 8);
	cr_assert_eq(img_storage_read(s, 0, buf, sizeof(buf), NULL), 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		cr_assert_eq(buf[i], i < 100 || i >= DEVICE_BYTES - 100 ? 7 : 0, "%zu", i);
	img_storage_close(s);
	close(holder);
}

Test(device, created_in_place_and_locked)
{
	struct img_storage *s = NULL, *other = NULL;
	char buf[3];

	make_device();
	cr_assert_eq(img_storage_create_file(device, 0, &s, NULL), 0);
	cr_assert_eq(atomic_load(&s->size), DEVICE_BYTES);
	cr_assert_eq(img_storage_open_file(device, 0, &other, NULL), -EAGAIN);
	cr_assert_eq(img_storage_write(s, 0, "new", 3, NULL), 0);
	cr_assert_eq(img_storage_publish(s, true, NULL), 0);
	img_storage_close(s);
	s = opened_device(0);
	cr_assert_eq(img_storage_read(s, 0, buf, 3, NULL), 0);
	cr_assert_arr_eq(buf, "new", 3);
	img_storage_close(s);
	close(holder);
}

/* What was on it is not found as an image any more, wherever images are recognised. */
Test(device, created_over_old_images)
{
	static uint8_t buf[DEVICE_BYTES];
	char head[sizeof(IMG_UNFINISHED_MARK)] = "";
	struct img_storage *s = NULL;

	make_device();
	memset(buf, 7, sizeof(buf));
	s = opened_device(0);
	cr_assert_eq(img_storage_write(s, 0, buf, sizeof(buf), NULL), 0);
	img_storage_close(s);
	cr_assert_eq(img_storage_create_file(device, 0, &s, NULL), 0);
	img_storage_close(s);
	s = opened_device(0);
	cr_assert_eq(img_storage_read(s, 0, buf, sizeof(buf), NULL), 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		cr_assert_eq(buf[i], 7, "nothing was changed yet");
	img_storage_close(s);

	cr_assert_eq(img_storage_create_file(device, 0, &s, NULL), 0);
	cr_assert_eq(img_storage_resize(s, 100000, IMG_PREALLOCATE_OFF, NULL), 0);
	img_storage_close(s);
	s = opened_device(0);
	cr_assert_eq(img_storage_read(s, 0, head, sizeof(head) - 1, NULL), 0);
	cr_assert_str_eq(head, IMG_UNFINISHED_MARK);
	img_storage_close(s);

	cr_assert_eq(img_storage_create_file(device, 0, &s, NULL), 0);
	cr_assert_eq(img_storage_resize(s, 100000, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_storage_publish(s, true, NULL), 0);
	cr_assert_eq(img_storage_read(s, 0, buf, sizeof(buf), NULL), 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		cr_assert_eq(buf[i], i < 65536 || i >= DEVICE_BYTES - 4096 ? 0 : 7, "%zu", i);
	img_storage_close(s);
	close(holder);
}

/* The kernel opens a read-only device for writing, and fails each write. */
Test(device, a_read_only_device_is_not_opened_for_writing)
{
	struct img_storage *s = NULL;
	struct img_error err = { 0 };
	int on = 1, off = 0;

	make_device();
	cr_assert_eq(ioctl(holder, BLKROSET, &on), 0);
	cr_assert_eq(img_storage_open_file(device, IMG_STORAGE_WRITE, &s, &err), -EACCES);
	cr_assert(strstr(img_error_text(&err), "The device is not writable"), "%s",
		  img_error_text(&err));
	cr_assert_eq(img_storage_create_file(device, 0, &s, NULL), -EACCES);
	cr_assert_eq(img_storage_open_file(device, 0, &s, NULL), 0);
	cr_assert_eq(img_storage_set_writable(s, true, &err), -EACCES);
	cr_assert(strstr(img_error_text(&err), "The device is not writable"), "%s",
		  img_error_text(&err));
	cr_assert_eq(ioctl(holder, BLKROSET, &off), 0);
	cr_assert_eq(img_storage_set_writable(s, true, NULL), 0);
	img_storage_close(s);
	img_error_clear(&err);
	close(holder);
}
