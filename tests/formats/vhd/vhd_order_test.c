/* VHD: what is durable before what in a repair. */
#include "libimg/base/endian.h"
#include "tests/formats/watched.h"

enum {
	KIB = 1024,
	MIB = 1 << 20,
};

/* Two entries for one block: the copy for the second is durable before its entry leads there. */
Test(vhd_repair, copies_are_durable_first)
{
	struct folder *f = calloc(1, sizeof(*f));
	const struct watch *w = &f->watch;
	struct img_storage *s;
	uint8_t number[8];
	uint64_t table;
	struct img *img;
	size_t entry;

	folder_make(f, "vpc", "force_size=on,block_size=64k", 16 * MIB);
	folder_fill(f, "vpc", 128 * KIB);
	s = folder_load(f);
	cr_assert_eq(img_storage_read(s, 512 + 16, number, 8, NULL), 0);
	table = be64_load(number);
	cr_assert_eq(img_storage_read(s, table, number, 4, NULL), 0);
	cr_assert_eq(img_storage_write(s, table + 5 * 4, number, 4, NULL), 0);
	img = folder_repair(f, s, "vpc", 1);
	entry = watch_find(w, 0, 0, table + 5 * 4, 4);
	cr_assert_lt(entry, w->n);
	cr_assert_lt(watch_find(w, 0, 0, table + 4 * KIB, UINT64_MAX / 2), entry);
	cr_assert(!watch_unsynced(w, entry, 0));
	cr_assert(reads_as(img, 5 * 64 * KIB, 7, 64 * KIB));
	img_close(img, NULL);
	folder_remove(f);
}
