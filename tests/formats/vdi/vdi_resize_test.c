/*
 * Growing a disk whose last block ends in the file where the disk does.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/base/endian.h"
#include "libimg/img.h"
#include "tests/support/scratch.h"

enum { SIZE = 4096 + 2560 };

/* Two blocks of 4 KiB, the second one with 2560 bytes of the disk and of the file. */
static void make_image(const char *path)
{
	static uint8_t bytes[4096 + SIZE];
	FILE *f = fopen(path, "w");

	memset(bytes, 0, sizeof(bytes));
	le32_store(bytes + 0x40, 0xbeda107f);
	le32_store(bytes + 0x44, 0x10001);
	le32_store(bytes + 0x48, 0x190);
	le32_store(bytes + 0x4c, 1);
	le32_store(bytes + 0x154, 0x200);
	le32_store(bytes + 0x158, 4096);
	le64_store(bytes + 0x170, SIZE);
	le32_store(bytes + 0x178, 4096);
	le32_store(bytes + 0x180, 2);
	le32_store(bytes + 0x184, 2);
	bytes[0x188] = 1;
	le32_store(bytes + 0x204, 1);
	memset(bytes + 4096, 7, SIZE);
	cr_assert(f && fwrite(bytes, 1, sizeof(bytes), f) == sizeof(bytes) && !fclose(f));
}

Test(vdi_resize, last_block_is_short)
{
	char dir[SCRATCH_PATH], path[SCRATCH_PATH + 8];
	struct img_open_options o = { .format = "vdi", .flags = IMG_OPEN_WRITE };
	struct img_error *err = img_error_new();
	uint8_t buf[8192];
	struct stat st;
	struct img *img;

	cr_assert(scratch_make(dir, "vdi-test"));
	snprintf(path, sizeof(path), "%s/a.vdi", dir);
	make_image(path);
	cr_assert_eq(img_open(path, &o, &img, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_resize(img, 1 << 20, 0, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_read(img, 0, buf, sizeof(buf), err), 0, "%s", img_error_text(err));
	for (size_t i = 0; i < sizeof(buf); i++)
		cr_assert_eq(buf[i], i < SIZE ? 7 : 0, "%zu", i);
	cr_assert_eq(img_close(img, err), 0, "%s", img_error_text(err));
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_size, 4096 + 8192);
	cr_assert(scratch_remove(dir));
	img_error_free(err);
}
