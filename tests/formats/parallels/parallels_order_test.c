/* Parallels: what is durable before what, and room where a write failed. */
#include "formats/parallels/parallels_state.h"
#include "libimg/base/endian.h"
#include "tests/formats/watched.h"

enum {
	KIB = 1024,
	MIB = 1 << 20,
	IN_USE_AT = 44,
};

static struct folder *parallels_new(const char *options)
{
	struct folder *f = calloc(1, sizeof(*f));

	cr_assert_not_null(f);
	folder_make(f, "parallels", options, 16 * MIB);
	return f;
}

/* Who finds the file after a power cut has to know that it was in use. */
Test(parallels_order, the_mark_is_durable_before_the_first_change)
{
	struct folder *f = parallels_new("cluster_size=64k");
	struct img *img = folder_open(f, folder_load(f), "parallels", IMG_OPEN_WRITE);
	const struct watch *w = &f->watch;
	size_t mark, data;

	cr_assert_eq(w->n, 0, "opening changes nothing");
	write_bytes(img, 1 * MIB, 7, 64 * KIB, 0);
	mark = watch_find(w, 0, 0, IN_USE_AT, 4);
	data = watch_find(w, 0, 0, 64 * KIB, UINT64_MAX / 2);
	cr_assert_lt(mark, data);
	cr_assert_lt(data, w->n);
	cr_assert(!watch_unsynced(w, data, 0));
	close_sound(img);
	folder_remove(f);
}

/* It is used again, and is no zeroes: a part of what was to be written came. */
Test(parallels_order, the_room_of_a_write_that_failed)
{
	static const char *const options[] = { "cluster_size=64k", "cluster_size=32256" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(options); i++) {
		struct folder *f = parallels_new(options[i]);
		struct img *img = folder_open(f, folder_load(f), "parallels", IMG_OPEN_WRITE);
		const struct parallels *p = img->state;
		uint64_t next;

		write_bytes(img, 0, 1, 512, 0);
		next = p->files[0].alloc.next;
		f->watch.before = fail_big_writes;
		f->watch.torn = true;
		f->watch.a = 1;
		write_bytes(img, 1 * MIB, 0xee, 256 * KIB, -ENOSPC);
		f->watch.a = 0;
		cr_assert(reads_as(img, 1 * MIB, 0, 256 * KIB));
		for (unsigned k = 0; k < 4; k++) {
			write_bytes(img, 2 * MIB + k * 64 * KIB + 512, 5, 512, 0);
			cr_assert(reads_as(img, 2 * MIB + k * 64 * KIB, 0, 512));
			cr_assert(reads_as(img, 2 * MIB + k * 64 * KIB + 1024, 0, 31 * KIB));
		}
		cr_assert_leq(p->files[0].alloc.next, next + 9 * p->files[0].cluster_bytes);
		close_sound(img);
		folder_remove(f);
	}
}

/* Two entries for one cluster: the copy for the second is durable before its entry leads there. */
Test(parallels_order, copies_of_a_repair_are_durable_first)
{
	struct folder *f = parallels_new("cluster_size=64k");

	folder_fill(f, "parallels", 128 * KIB);
	folder_repair_shared(f, folder_load(f), "parallels", PARALLELS_BAT_OFF);
	folder_remove(f);
}
