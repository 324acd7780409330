/* VMDK: what is durable before what, seen in the order of writes and syncs of all its files. */
#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/endian.h"
#include "libimg/engine/engine.h"
#include "tests/formats/watched.h"

enum {
	KIB = 1024,
	MIB = 1 << 20,
	FILES = 3,
};

static const uint64_t SPLIT_BYTES = UINT64_C(5) << 30; /* three extents */

static struct folder *vmdk_new(const char *subformat, uint64_t size)
{
	struct folder *f = calloc(1, sizeof(*f));
	char options[100];

	cr_assert_not_null(f);
	snprintf(options, sizeof(options), "subformat=%s", subformat);
	folder_make(f, "vmdk", options, size);
	return f;
}

/* A disk of extents: file 0 is the descriptor, the extents are 1 and up. */
static struct img *open_extents(struct folder *f)
{
	struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
	struct vmdk *vmdk = img->state;

	for (size_t i = 0; i < vmdk->file_count; i++)
		if (vmdk->files[i].storage != img->file)
			vmdk->files[i].storage =
				watched(&f->watch, (unsigned)i + 1, vmdk->files[i].storage);
	return img;
}

static void all_durable(const struct watch *w, size_t n)
{
	for (unsigned i = 0; i <= FILES; i++)
		cr_assert(!watch_unsynced(w, n, i), "file %u", i);
}

/* The byte that says unclean, in a file. */
static uint8_t mark_of(struct img_storage *s)
{
	uint8_t mark;

	cr_assert_eq(img_storage_read(s, VMDK_OFF_UNCLEAN, &mark, 1, NULL), 0);
	return mark;
}

Test(vmdk_order, the_unclean_mark_is_durable_before_the_first_change)
{
	struct folder *f = vmdk_new("monolithicSparse", 64 * MIB);
	struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
	const struct watch *w = &f->watch;
	size_t last;

	cr_assert_eq(w->n, 0, "opening changes nothing");
	write_bytes(img, 0, 7, 64 * KIB, 0);
	cr_assert_eq(w->entry[0].op, IMG_IO_WRITE);
	cr_assert_eq(w->entry[0].off, VMDK_OFF_UNCLEAN);
	cr_assert_eq(w->entry[1].op, IMG_IO_SYNC);
	cr_assert_eq(mark_of(img->file), 1);
	write_bytes(img, 1 * MIB, 7, 64 * KIB, 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(watch_find(w, 1, 0, VMDK_OFF_UNCLEAN, 1), w->n, "once");
	cr_assert_eq(img_engine_finish(img, NULL), 0);
	last = watch_find(w, 1, 0, VMDK_OFF_UNCLEAN, 1);
	cr_assert_lt(last, w->n, "and gone at the end");
	cr_assert(!watch_unsynced(w, last, 0), "when all else is durable");
	cr_assert_eq(mark_of(img->file), 0);
	close_sound(img);
	folder_remove(f);
}

/* Children go by the content ID: it is another one before any data is. */
Test(vmdk_order, the_content_id_is_durable_before_the_first_change)
{
	static const char *const subformat[] = { "monolithicSparse", "monolithicFlat",
						 "twoGbMaxExtentSparse" };

	for (unsigned i = 0; i < 3; i++) {
		struct folder *f = vmdk_new(subformat[i], 64 * MIB);
		struct img *img = open_extents(f);
		struct vmdk *vmdk = img->state;
		const struct watch *w = &f->watch;
		uint32_t before = vmdk->cid;
		char text[2048] = "", old[32];
		unsigned data_file = i ? 1 : 0;
		size_t cid, data;

		write_bytes(img, 128 * KIB, 7, 64 * KIB, 0);
		cr_assert_neq(vmdk->cid, before);
		/* and so the file has it */
		cr_assert_eq(img_storage_read(img->file, vmdk->text_off, text, sizeof(text) - 1,
					      NULL),
			     0);
		snprintf(old, sizeof(old), "CID=%08x", before);
		cr_assert(strstr(text, "CID=") && !strstr(text, old), "%s", text);
		for (data = 0; data < w->n; data++)
			if (w->entry[data].file == data_file && w->entry[data].len >= 4096)
				break;
		cr_assert_lt(data, w->n);
		cid = watch_find(w, 0, 0, i ? 0 : 512, 20 * KIB);
		cr_assert_lt(cid, data, "%s", subformat[i]);
		cr_assert(!watch_unsynced(w, data, 0), "%s", subformat[i]);
		close_sound(img);
		folder_remove(f);
	}
}

Test(vmdk_order, all_extents_are_marked_and_synced)
{
	struct folder *f = vmdk_new("twoGbMaxExtentSparse", SPLIT_BYTES);
	struct img *img = open_extents(f);
	struct vmdk *vmdk = img->state;
	const struct watch *w = &f->watch;

	cr_assert_eq(vmdk->file_count, FILES);
	for (unsigned i = 0; i < FILES; i++) /* only one of them is written to */
		write_bytes(img, (UINT64_C(4) << 30) + i * UINT64_C(65536), 7, 64 * KIB, 0);
	for (unsigned i = 1; i <= FILES; i++) {
		size_t mark = watch_find(w, 0, i, VMDK_OFF_UNCLEAN, 1);

		cr_assert_lt(mark, watch_find(w, 0, FILES, 4096, UINT64_MAX / 2));
		cr_assert_eq(mark_of(vmdk->files[i - 1].storage), 1);
	}
	cr_assert_eq(img_flush(img, NULL), 0);
	all_durable(w, w->n);
	for (unsigned i = 0; i < FILES; i++)
		write_bytes(img, (UINT64_C(2) << 30) * i + 1 * MIB, 8, 512, 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	all_durable(w, w->n);
	cr_assert_eq(img_engine_finish(img, NULL), 0);
	all_durable(w, w->n);
	for (unsigned i = 0; i < FILES; i++)
		cr_assert_eq(mark_of(vmdk->files[i].storage), 0);
	close_sound(img);
	folder_remove(f);
}

Test(vmdk_order, flat_extents_are_synced)
{
	struct folder *f = vmdk_new("twoGbMaxExtentFlat", SPLIT_BYTES);
	struct img *img = open_extents(f);

	for (unsigned i = 0; i < FILES; i++) {
		size_t n = f->watch.n;

		write_bytes(img, (UINT64_C(2) << 30) * i + 512, 7, 512, 0);
		cr_assert_eq(img_flush(img, NULL), 0);
		cr_assert_eq(watch_count(&f->watch, n, i + 1, IMG_IO_WRITE), 1);
		cr_assert_eq(watch_count(&f->watch, n, i + 1, IMG_IO_SYNC), 1);
		cr_assert_eq(img_zero(img, (UINT64_C(2) << 30) * i + 512, 512, NULL), 0);
		cr_assert_eq(img_flush(img, NULL), 0);
		all_durable(&f->watch, f->watch.n);
		cr_assert_eq(watch_count(&f->watch, n, i + 1, IMG_IO_SYNC), 2);
		cr_assert(reads_as(img, (UINT64_C(2) << 30) * i, 0, 64 * KIB));
	}
	close_sound(img);
	folder_remove(f);
}

/* Neither directory has the table: it is durable before the copy names it, and that before the other. */
Test(vmdk_order, a_table_is_durable_before_the_directories_lead_there)
{
	struct folder *f = vmdk_new("monolithicSparse", 64 * MIB);
	struct img_storage *s = folder_load(f);
	uint8_t header[80], none[4] = { 0 };
	const struct watch *w = &f->watch;
	uint64_t directory, copy;
	size_t first, second;
	struct img *img;

	cr_assert_eq(img_storage_read(s, 0, header, sizeof(header), NULL), 0);
	copy = le64_load(header + 48) * 512;
	directory = le64_load(header + 56) * 512;
	cr_assert_eq(img_storage_write(s, directory, none, 4, NULL), 0);
	cr_assert_eq(img_storage_write(s, copy, none, 4, NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	img = folder_open(f, s, "vmdk", IMG_OPEN_WRITE);
	f->watch.n = 0;
	write_bytes(img, 0, 7, 64 * KIB, 0);
	first = watch_find(w, 0, 0, copy, 4);
	second = watch_find(w, 0, 0, directory, 4);
	cr_assert_lt(first, second);
	cr_assert_lt(second, w->n);
	cr_assert_eq(img_storage_read(s, directory, header, 4, NULL), 0);
	cr_assert_lt(watch_find(w, 0, 0, le32_load(header) * UINT64_C(512), 2048), first);
	cr_assert_eq(img_storage_read(s, copy, header, 4, NULL), 0);
	cr_assert_lt(watch_find(w, 0, 0, le32_load(header) * UINT64_C(512), 2048), first);
	cr_assert(!watch_unsynced(w, first, 0));
	cr_assert(!watch_unsynced(w, second, 0));
	cr_assert_eq(w->entry[second + 1].op, IMG_IO_SYNC);
	cr_assert(reads_as(img, 0, 7, 64 * KIB));
	cr_assert(reads_as(img, 64 * KIB, 0, 64 * KIB));
	close_sound(img);
	folder_remove(f);
}

/* Both copies of a table say the same, whatever is done. */
Test(vmdk_order, the_copy_of_a_table_is_kept)
{
	struct folder *f = vmdk_new("monolithicSparse", 64 * MIB);
	struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
	const struct vmdk *vmdk = img->state;
	const struct vmdk_sparse *s = &vmdk->files[0].sparse;
	uint8_t one[4], two[4], tables[2][2048];

	cr_assert_neq(s->redundant_off, 0);
	for (unsigned round = 0; round < 3; round++) {
		if (round == 0)
			write_bytes(img, 64 * KIB, 7, 640 * KIB, 0);
		else if (round == 1)
			cr_assert_eq(img_zero(img, 128 * KIB, 128 * KIB, NULL), 0);
		else
			cr_assert_eq(img_discard(img, 256 * KIB, 128 * KIB, NULL), 0);
		cr_assert_eq(img_flush(img, NULL), 0);
		cr_assert_eq(img_storage_read(img->file, s->directory_off, one, 4, NULL), 0);
		cr_assert_eq(img_storage_read(img->file, s->redundant_off, two, 4, NULL), 0);
		cr_assert_neq(le32_load(one), le32_load(two));
		cr_assert_eq(img_storage_read(img->file, le32_load(one) * UINT64_C(512), tables[0],
					      2048, NULL),
			     0);
		cr_assert_eq(img_storage_read(img->file, le32_load(two) * UINT64_C(512), tables[1],
					      2048, NULL),
			     0);
		cr_assert_neq(le32_load(tables[0] + 4), 0);
		cr_assert_eq(memcmp(tables[0], tables[1], 2048), 0, "round %u", round);
	}
	close_sound(img);
	folder_remove(f);
}

/* A grain that was freed is used again, and shows nothing of what it held. */
Test(vmdk_order, room_that_is_used_again_is_not_zeroes)
{
	struct folder *f = vmdk_new("monolithicSparse", 64 * MIB);
	struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
	uint64_t size;

	write_bytes(img, 0, 0xee, 640 * KIB, 0);
	cr_assert_eq(img_zero(img, 0, 320 * KIB, NULL), 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	size = img->file->size;
	for (unsigned i = 0; i < 5; i++) {
		uint64_t off = 10 * MIB + i * UINT64_C(65536);

		write_bytes(img, off + 32 * KIB, 5, 512, 0);
		cr_assert(reads_as(img, off, 0, 32 * KIB));
		cr_assert(reads_as(img, off + 32 * KIB, 5, 512));
		cr_assert(reads_as(img, off + 32 * KIB + 512, 0, 31 * KIB));
	}
	cr_assert_eq(img->file->size, size, "room was used again");
	close_sound(img);
	folder_remove(f);
}

Test(vmdk_order, the_room_of_a_write_that_failed_is_used_again)
{
	struct folder *f = vmdk_new("monolithicSparse", 64 * MIB);
	struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
	const struct vmdk *vmdk = img->state;
	uint64_t next;

	write_bytes(img, 0, 1, 512, 0);
	next = vmdk->files[0].alloc->grains.next;
	f->watch.before = fail_big_writes;
	f->watch.torn = true;
	f->watch.a = 1;
	write_bytes(img, 1 * MIB, 0xee, 128 * KIB, -ENOSPC);
	f->watch.a = 0;
	cr_assert(reads_as(img, 1 * MIB, 0, 128 * KIB));
	write_bytes(img, 2 * MIB + 512, 5, 512, 0);
	cr_assert(reads_as(img, 2 * MIB + 1024, 0, 63 * KIB));
	cr_assert_leq(vmdk->files[0].alloc->grains.next, next + 128 * KIB);
	close_sound(img);
	folder_remove(f);
}

/* It is made longer at the end: that too is durable first. */
Test(vmdk_order, the_mark_goes_last_when_the_file_ends_within_a_grain)
{
	struct folder *f = vmdk_new("monolithicSparse", 1 * MIB);
	struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
	const struct watch *w = &f->watch;
	size_t last;

	write_bytes(img, 0, 7, 64 * KIB, 0);
	cr_assert_eq(
		img_storage_resize(img->file, img->file->size + 512, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_engine_finish(img, NULL), 0);
	cr_assert_eq(img->file->size % (64 * KIB), 0);
	last = watch_find(w, 1, 0, VMDK_OFF_UNCLEAN, 1);
	cr_assert_lt(last, w->n);
	cr_assert(!watch_unsynced(w, last, 0));
	cr_assert_eq(watch_find(w, last + 1, 0, 0, UINT64_MAX / 2), w->n);
	close_sound(img);
	folder_remove(f);
}

Test(vmdk_order, a_mark_that_was_unclean_before_stays)
{
	struct folder *f = vmdk_new("monolithicSparse", 64 * MIB);
	struct img_storage *s = folder_load(f);
	uint8_t mark = 1;
	struct img *img;

	cr_assert_eq(img_storage_write(s, VMDK_OFF_UNCLEAN, &mark, 1, NULL), 0);
	img = folder_open(f, s, "vmdk", IMG_OPEN_WRITE);
	write_bytes(img, 0, 7, 512, 0);
	cr_assert_eq(img_engine_finish(img, NULL), 0);
	cr_assert_eq(mark_of(img->file), 1, "only a check knows whether it is sound");
	close_sound(img);
	folder_remove(f);
}

/* ---- Grains ---- */

Test(vmdk_grains, are_freed_in_its_own_file)
{
	struct folder *f = vmdk_new("twoGbMaxExtentSparse", SPLIT_BYTES);
	struct img *img = open_extents(f);
	const struct vmdk *vmdk = img->state;
	const uint64_t second = UINT64_C(3) << 30;

	write_bytes(img, 0, 1, 64 * KIB, 0);
	write_bytes(img, second, 2, 640 * KIB, 0);
	cr_assert_eq(img_zero(img, second, 320 * KIB, NULL), 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(vmdk->files[0].alloc->grains.run_count, 0);
	cr_assert_eq(vmdk->files[1].alloc->grains.run_count, 1);
	write_bytes(img, 1 * MIB, 3, 320 * KIB, 0);
	write_bytes(img, second, 4, 64 * KIB, 0);
	cr_assert(reads_as(img, 0, 1, 64 * KIB));
	cr_assert(reads_as(img, 1 * MIB, 3, 320 * KIB));
	cr_assert(reads_as(img, second, 4, 64 * KIB));
	cr_assert(reads_as(img, second + 64 * KIB, 0, 256 * KIB));
	cr_assert(reads_as(img, second + 320 * KIB, 2, 320 * KIB));
	close_sound(img);
	folder_remove(f);
}

/* Clearing hides what the parent has, whether or not entries may say zeroes. */
Test(vmdk_grains, cleared_in_a_child_do_not_show_the_parent)
{
	for (unsigned zeroed = 0; zeroed < 2; zeroed++) {
		const char *list[] = { zeroed ? "zeroed_grain=on" : "zeroed_grain=off", NULL };
		struct folder *f = vmdk_new("monolithicSparse", 1 * MIB);
		struct img_create_options how = { .format = "vmdk",
						  .backing_name = f->path,
						  .backing_format = "vmdk",
						  .references = "any",
						  .options = list };
		struct img_open_options open = { .format = "vmdk",
						 .flags = IMG_OPEN_WRITE,
						 .references = "any" };
		struct img_error *err = img_error_new();
		char child[140];
		struct img *img;

		cr_assert_eq(img_open(f->path, &open, &img, err), 0, "%s", img_error_text(err));
		write_bytes(img, 0, 1, 1 * MIB, 0);
		close_sound(img);
		snprintf(child, sizeof(child), "%s/child.vmdk", f->dir);
		cr_assert_eq(img_create(child, &how, err), 0, "%s", img_error_text(err));
		cr_assert_eq(img_open(child, &open, &img, err), 0, "%s", img_error_text(err));
		write_bytes(img, 0, 2, 256 * KIB, 0);
		cr_assert_eq(img_zero(img, 64 * KIB, 64 * KIB, NULL), 0);
		cr_assert_eq(img_zero(img, 512 * KIB, 128 * KIB, NULL), 0);
		cr_assert_eq(img_zero(img, 800 * KIB, 8 * KIB, NULL), 0);
		cr_assert(reads_as(img, 64 * KIB, 0, 64 * KIB));
		close_sound(img);
		cr_assert_eq(img_open(child, &open, &img, err), 0, "%s", img_error_text(err));
		cr_assert(reads_as(img, 0, 2, 64 * KIB));
		cr_assert(reads_as(img, 64 * KIB, 0, 64 * KIB));
		cr_assert(reads_as(img, 128 * KIB, 2, 128 * KIB));
		cr_assert(reads_as(img, 256 * KIB, 1, 256 * KIB));
		cr_assert(reads_as(img, 512 * KIB, 0, 128 * KIB));
		cr_assert(reads_as(img, 640 * KIB, 1, 160 * KIB));
		cr_assert(reads_as(img, 800 * KIB, 0, 8 * KIB));
		cr_assert(reads_as(img, 808 * KIB, 1, 216 * KIB));
		close_sound(img);
		/* without zeroed grains no entry may be 1: others would read sector 1 there */
		cr_assert_eq(img_open(child, &open, &img, err), 0, "%s", img_error_text(err));
		const struct vmdk_sparse *s = &((struct vmdk *)img->state)->files[0].sparse;
		uint8_t table[2048];
		unsigned ones = 0;

		cr_assert_eq(img_storage_read(img->file, s->directory_off, table, 4, NULL), 0);
		cr_assert_eq(img_storage_read(img->file, le32_load(table) * UINT64_C(512), table,
					      2048, NULL),
			     0);
		for (unsigned i = 0; i < 512; i++)
			ones += le32_load(table + i * (size_t)4) == 1;
		cr_assert_eq(ones, zeroed ? 3 : 0);
		close_sound(img);
		img_error_free(err);
		folder_remove(f);
	}
}

Test(vmdk_grains, clearing_part_of_a_grain_keeps_the_rest)
{
	static const struct {
		uint64_t off, len;
	} piece[] = { { 0, 4 * KIB }, { 4 * KIB, 60 * KIB }, { 60 * KIB, 70 * KIB }, { 64 * KIB, 100 * KIB }, { 1, 1 }, { 512, 512 * KIB } };

	for (unsigned i = 0; i < IMG_ARRAY_LEN(piece); i++) {
		struct folder *f = vmdk_new("monolithicSparse", 1 * MIB);
		struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
		uint64_t end = piece[i].off + piece[i].len;

		write_bytes(img, 0, 7, 1 * MIB, 0);
		cr_assert_eq(img_zero(img, piece[i].off, piece[i].len, NULL), 0);
		cr_assert(reads_as(img, 0, 7, piece[i].off));
		cr_assert(reads_as(img, piece[i].off, 0, piece[i].len));
		cr_assert(reads_as(img, end, 7, 1 * MIB - end));
		close_sound(img);
		folder_remove(f);
	}
}

/* Grains in any order in the file, with gaps between them, under one write. */
Test(vmdk_grains, scattered_are_written_where_they_are)
{
	static const unsigned order[] = { 5, 4, 9, 1, 2, 12, 7, 0 };
	struct folder *f = vmdk_new("monolithicSparse", 1 * MIB);
	struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
	uint64_t size;

	for (unsigned i = 0; i < IMG_ARRAY_LEN(order); i++)
		write_bytes(img, order[i] * 64 * KIB, (uint8_t)(order[i] + 1), 64 * KIB, 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	size = img->file->size;
	write_bytes(img, 32 * KIB, 99, 800 * KIB, 0);
	cr_assert_eq(img->file->size, size + 5 * 64 * KIB, "those that were there stay");
	cr_assert(reads_as(img, 0, 1, 32 * KIB));
	cr_assert(reads_as(img, 32 * KIB, 99, 800 * KIB));
	cr_assert(reads_as(img, 832 * KIB, 0, 192 * KIB));
	close_sound(img);
	folder_remove(f);
}

/* Extents with grains of 64 KiB and of 4 KiB in one disk: a grain is more than the disk's unit. */
Test(vmdk_grains, of_two_sizes_are_cleared_in_part)
{
	static const struct {
		uint64_t off, len;
	} piece[] = { { 0, 4 * KIB },
		      { 4 * KIB, 60 * KIB },
		      { 60 * KIB, 70 * KIB },
		      { 128 * KIB, 100 * KIB },
		      { 512, 512 * KIB },
		      { 2 * MIB - 512, 1024 },
		      { 2 * MIB - 100 * KIB, 200 * KIB },
		      { 2 * MIB + 1 * KIB, 9 * KIB } };

	for (unsigned i = 0; i < 2 * IMG_ARRAY_LEN(piece); i++) {
		struct folder *f = vmdk_new("twoGbMaxExtentSparse", 2 * MIB), *second;
		uint64_t off = piece[i / 2].off, end = off + piece[i / 2].len;
		bool discard = i % 2;
		uint8_t grain = 8;
		char command[400];
		struct img *img;
		FILE *small;

		second = vmdk_new("twoGbMaxExtentSparse", 2 * MIB);
		snprintf(command, sizeof(command),
			 "cd %s && mv %s/image-s001.vmdk small.vmdk && sed -i "
			 "'s/^RW.*/&\\nRW 4096 SPARSE \"small.vmdk\"/' image.vmdk",
			 f->dir, second->dir);
		cr_assert_eq(system(command), 0);
		snprintf(command, sizeof(command), "%s/small.vmdk", f->dir);
		small = fopen(command, "r+");
		cr_assert(small && !fseek(small, 20, SEEK_SET) && fputc(grain, small) == grain &&
			  !fclose(small));
		img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
		cr_assert_eq(img_size(img), 4 * MIB);
		write_bytes(img, 0, 7, 4 * MIB, 0);
		if (discard)
			cr_assert_eq(img_discard(img, off, end - off, NULL), 0);
		else
			cr_assert_eq(img_zero(img, off, end - off, NULL), 0);
		cr_assert(reads_as(img, 0, 7, off));
		cr_assert(reads_as(img, end, 7, 4 * MIB - end));
		if (!discard)
			cr_assert(reads_as(img, off, 0, end - off));
		close_sound(img);
		folder_remove(second);
		folder_remove(f);
	}
}
