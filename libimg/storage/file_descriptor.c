/*
 * What can be said of, or done with, an open descriptor alone: what it is of, and opening the same file
 * once more.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/storage/posix_file.h"

bool img_storage_is_null(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3); /* Linux: devices.txt */
}

int img_file_check_device(int fd, const char *path, struct img_error *err)
{
	int read_only = 0;

	/* The kernel opens such a device for writing, and fails what is written. */
	if (ioctl(fd, BLKROGET, &read_only) || !read_only)
		return 0;
	return img_fail(err, -EACCES, "Could not open '%s': The device is not writable: Permission denied",
			path);
}

/* A number of a device's queue in sysfs; 0: not known. */
static uint64_t queue_number(dev_t device, const char *name)
{
	/* a partition has its disk's queue */
	static const char *const folders[] = { "", "../" };
	char path[96], text[24];

	for (size_t i = 0; i < IMG_ARRAY_LEN(folders); i++) {
		ssize_t n;
		int fd;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(device),
			 minor(device), folders[i], name);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
		text[n > 0 ? n : 0] = '\0';
		return strtoull(text, NULL, 10);
	}
	return 0;
}

bool img_device_is_rotational(dev_t device)
{
	return queue_number(device, "rotational") == 1;
}

uint32_t img_device_discard_align(dev_t device)
{
	uint64_t bytes = queue_number(device, "discard_granularity");

	return bytes <= UINT32_MAX && queue_number(device, "discard_max_bytes") ? (uint32_t)bytes : 0;
}

static int open_same(int fd, const char *path, int mode)
{
	int again = open(path, mode | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat a, b;

	if (again < 0)
		return -errno;
	if (fstat(fd, &a) || fstat(again, &b) || a.st_dev != b.st_dev || a.st_ino != b.st_ino ||
	    fcntl(again, F_SETFL, fcntl(again, F_GETFL) & ~O_NONBLOCK)) {
		close(again);
		return -EINVAL;
	}
	return again;
}

int img_file_reopen(int fd, const char *path, int mode)
{
	char link[32];
	int again;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	again = open_same(fd, link, mode);
	return again == -ENOENT && path ? open_same(fd, path, mode) : again;
}
