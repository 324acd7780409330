/*
 * O_DIRECT: any offset, length and memory; neighbours in one block; the file's last, partial block.
 */
#include "storage_help.h"

#include <sys/mman.h>

TestSuite(direct, .init = make_folder, .fini = remove_folder, .timeout = 120);

static struct img_storage *new_direct(const char *name)
{
	struct img_error err = { 0 };
	struct img_storage *s = NULL;

	make_file(name, "", 0);
	if (img_storage_open_file(in_folder(name), IMG_STORAGE_WRITE | IMG_STORAGE_DIRECT, &s,
				  &err))
		cr_skip_test("no O_DIRECT here: %s", img_error_text(&err));
	cr_assert_gt(s->limits.io_align, 1);
	return s;
}

static void random_direct(enum img_io_kind kind)
{
	for (uint32_t seed = 1; seed <= 4; seed++) {
		struct img_storage *s = new_direct("f");
		struct stat st;

		random_requests(s, kind, 3001, false, seed, 150);	/* two lanes in most blocks */
		random_requests(s, kind, 700, false, seed + 10, 150);	/* many */
		random_requests(s, kind, 3 << 20, false, seed + 20, 5); /* more than a bounce */
		random_requests(s, kind, 65536, true, seed + 30, 100);
		cr_assert_eq(stat(in_folder("f"), &st), 0);
		cr_assert_eq((uint64_t)st.st_size, atomic_load(&s->size));
		img_storage_close(s);
	}
}

Test(direct, random_uring)
{
	random_direct(IMG_IO_URING);
}

Test(direct, random_threads)
{
	random_direct(IMG_IO_THREADS);
}

/* The file is as long as what was written, whatever the block; and a second view agrees. */
Test(direct, tail)
{
	static uint8_t flat[40000], back[40000];
	struct img_storage *s = new_direct("f");
	uint64_t size = 0;
	uint32_t random = 3;

	for (int i = 0; i < 200; i++) {
		uint64_t off = rnd(&random) % 30000, len = 1 + rnd(&random) % 9000;
		struct stat st;
		int fd;

		if (i % 10 == 9) {
			size = off;
			memset(flat + size, 0, sizeof(flat) - size);
			cr_assert_eq(img_storage_resize(s, size, IMG_PREALLOCATE_OFF, NULL), 0);
		} else {
			for (uint64_t k = off; k < off + len; k++)
				flat[k] = (uint8_t)rnd(&random);
			cr_assert_eq(img_storage_write(s, off, flat + off, len, NULL), 0);
			size = max_u64(size, off + len);
		}
		cr_assert_eq(stat(in_folder("f"), &st), 0);
		cr_assert_eq((uint64_t)st.st_size, size, "step %d: %ld", i, st.st_size);
		cr_assert_eq(img_storage_read(s, 0, back, sizeof(back), NULL), 0);
		cr_assert_arr_eq(back, flat, sizeof(flat), "step %d", i);
		fd = open(in_folder("f"), O_RDONLY | O_CLOEXEC);
		cr_assert_eq(read(fd, back, sizeof(back)), (ssize_t)size);
		cr_assert_arr_eq(back, flat, size, "step %d", i);
		close(fd);
	}
	img_storage_close(s);
}

Test(direct, cut_behind_our_back)
{
	struct img_storage *s = new_direct("f");
	uint8_t buf[5000] = { 0 };

	cr_assert_eq(img_storage_write(s, 0, buf, 5000, NULL), 0);
	cr_assert_eq(truncate(in_folder("f"), 4500), 0);
	cr_assert_eq(img_storage_read(s, 0, buf, 4500, NULL), 0);
	cr_assert_eq(img_storage_read(s, 0, buf, 5000, NULL), -EIO);
	cr_assert_eq(img_storage_read(s, 4600, buf, 300, NULL), -EIO);
	img_storage_close(s);
}

/* What suits the device goes there as it is: nothing of it is left in the page cache. */
Test(direct, bypasses_the_cache)
{
	struct img_storage *s = new_direct("f");
	uint8_t *buf = aligned_alloc(4096, 1 << 20);
	unsigned char resident[256];
	void *map;
	int fd, pages = 0;

	memset(buf, 1, 1 << 20);
	cr_assert_eq(img_storage_write(s, 0, buf, 1 << 20, NULL), 0);
	cr_assert_eq(img_storage_read(s, 0, buf, 1 << 20, NULL), 0);
	fd = open(in_folder("f"), O_RDONLY | O_CLOEXEC);
	map = mmap(NULL, 1 << 20, PROT_READ, MAP_SHARED, fd, 0);
	cr_assert_neq(map, MAP_FAILED);
	cr_assert_eq(mincore(map, 1 << 20, resident), 0);
	for (int i = 0; i < 256; i++)
		pages += resident[i] & 1;
	cr_assert_eq(pages, 0);
	munmap(map, 1 << 20);
	close(fd);
	free(buf);
	img_storage_close(s);
}

/* /proc has regular files, and none of them can. */
Test(direct, impossible)
{
	struct img_error err = { 0 };
	struct img_storage *s = NULL;

	cr_assert_eq(img_storage_open_file("/proc/self/maps", IMG_STORAGE_DIRECT, &s, &err),
		     -EINVAL);
	cr_assert_str_eq(img_error_text(&err),
			 "Could not open '/proc/self/maps': its file system does "
			 "not support O_DIRECT");
	cr_assert_null(s);
	img_error_clear(&err);
	cr_assert_eq(img_storage_open_file("/proc/self/maps", IMG_STORAGE_TRY_DIRECT, &s, &err), 0);
	cr_assert_eq(s->limits.io_align, 1);
	img_storage_close(s);
}
