/* VDI: room where a write failed. */
#include "formats/vdi/vdi_state.h"
#include "tests/formats/watched.h"

enum {
	KIB = 1024,
	MIB = 1 << 20,
};

static int fail_big_writes(struct watch *w, const struct watch_entry *e)
{
	return w->a && e->op == IMG_IO_WRITE && e->len >= 4096 ? -ENOSPC : 0;
}

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
