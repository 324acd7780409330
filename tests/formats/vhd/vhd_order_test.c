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
	struct img_storage *s;
	uint8_t number[8];

	folder_make(f, "vpc", "force_size=on,block_size=64k", 16 * MIB);
	folder_fill(f, "vpc", 128 * KIB);
	s = folder_load(f);
	cr_assert_eq(img_storage_read(s, 512 + 16, number, 8, NULL), 0);
	folder_repair_shared(f, s, "vpc", be64_load(number));
	folder_remove(f);
}
