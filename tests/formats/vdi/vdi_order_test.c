/* VDI: room where a write failed, and what is durable before what in a repair. */
#include "formats/vdi/vdi_state.h"
#include "libimg/base/endian.h"
#include "tests/formats/watched.h"

enum {
	KIB = 1024,
	MIB = 1 << 20,
};

/* Of a block that was freed, too. */
Test(vdi_room, that_was_freed)
{
	struct folder *f = calloc(1, sizeof(*f));
	struct vdi *v;
	struct img *img;
	uint64_t next;

	folder_make(f, "vdi", "block_size=64k", 16 * MIB);
	img = folder_open(f, folder_load(f), "vdi", IMG_OPEN_WRITE);
	v = img->state;
	write_bytes(img, 0, 0xee, 640 * KIB, 0);
	next = v->alloc.next;
	cr_assert_eq(img_discard(img, 0, 320 * KIB, NULL), 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	for (unsigned i = 0; i < 5; i++) {
		uint64_t off = 10 * MIB + i * UINT64_C(65536);

		write_bytes(img, off + 32 * KIB, 5, 512, 0);
		cr_assert(reads_as(img, off, 0, 32 * KIB));
		cr_assert(reads_as(img, off + 32 * KIB + 512, 0, 31 * KIB));
	}
	cr_assert_eq(v->alloc.next, next, "room was used again");
	close_sound(img);
	folder_remove(f);
}

/* Blocks that follow each other in the disk, and not in the file: each goes, and nothing that lies behind them. */
Test(vdi_room, of_blocks_out_of_order)
{
	static const unsigned order[] = { 1, 0, 3, 2, 4 };
	struct folder *f = calloc(1, sizeof(*f));
	struct img *img;

	folder_make(f, "vdi", "block_size=64k", 16 * MIB);
	img = folder_open(f, folder_load(f), "vdi", IMG_OPEN_WRITE);
	for (size_t i = 0; i < IMG_ARRAY_LEN(order); i++)
		write_bytes(img, order[i] * UINT64_C(65536), (uint8_t)(order[i] + 1), 64 * KIB, 0);
	cr_assert_eq(img_discard(img, 0, 256 * KIB, NULL), 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	for (uint64_t i = 0; i < 5; i++)
		write_bytes(img, 8 * MIB + i * 65536, 0x77, 64 * KIB, 0);
	cr_assert(reads_as(img, 0, 0, 256 * KIB));
	cr_assert(reads_as(img, 256 * KIB, 5, 64 * KIB));
	cr_assert(reads_as(img, 8 * MIB, 0x77, 320 * KIB));
	close_sound(img);
	folder_remove(f);
}

/* It is used again, and is no zeroes: a part of what was to be written came. */
Test(vdi_room, of_a_write_that_failed)
{
	struct folder *f = calloc(1, sizeof(*f));
	struct vdi *v;
	struct img *img;
	uint64_t next;

	folder_make(f, "vdi", "block_size=64k", 16 * MIB);
	img = folder_open(f, folder_load(f), "vdi", IMG_OPEN_WRITE);
	v = img->state;
	write_bytes(img, 0, 1, 512, 0);
	next = v->alloc.next;
	f->watch.before = fail_big_writes;
	f->watch.torn = true;
	f->watch.a = 1;
	write_bytes(img, 1 * MIB, 0xee, 128 * KIB, -ENOSPC);
	f->watch.a = 0;
	cr_assert(reads_as(img, 1 * MIB, 0, 128 * KIB));
	write_bytes(img, 2 * MIB + 512, 5, 512, 0);
	cr_assert(reads_as(img, 2 * MIB, 0, 512));
	cr_assert(reads_as(img, 2 * MIB + 1024, 0, 63 * KIB));
	cr_assert_leq(v->alloc.next, next + 128 * KIB);
	close_sound(img);
	folder_remove(f);
}

/* b: the blocks that the header counted when the entry at a was last about to change. */
static int look_at_count(struct watch *w, const struct watch_entry *e)
{
	uint8_t number[4];

	if (e->op != IMG_IO_WRITE || !ranges_overlap(e->off, e->len, w->a, 4))
		return 0;
	cr_assert_eq(img_storage_read(w->user, 0x184, number, 4, NULL), 0);
	w->b = le32_load(number);
	return 0;
}

/* Two entries for one block: the copy for the second is durable, and counted, before its entry leads there. */
Test(vdi_repair, copies_are_durable_first)
{
	struct folder *f = calloc(1, sizeof(*f));
	struct img_storage *s;
	uint8_t number[4];

	folder_make(f, "vdi", "block_size=64k", 16 * MIB);
	folder_fill(f, "vdi", 128 * KIB);
	s = folder_load(f);
	cr_assert_eq(img_storage_read(s, 0x154, number, 4, NULL), 0);
	f->watch.before = look_at_count;
	f->watch.a = le32_load(number) + 5 * 4;
	f->watch.user = s;
	folder_repair_shared(f, s, "vdi", le32_load(number));
	cr_assert_eq(f->watch.b, 3);
	folder_remove(f);
}
