/* Other sizes of sparse extents: what lies behind the old end, what is cut off, and the length of the file. */
#include "formats/vmdk/vmdk_state.h"
#include "tests/formats/watched.h"

enum {
	KIB = 1024,
	MIB = 1 << 20,
};

static struct folder *vmdk_new(const char *options, uint64_t size)
{
	struct folder *f = calloc(1, sizeof(*f));

	cr_assert_not_null(f);
	folder_make(f, "vmdk", options, size);
	return f;
}

static void is_sound(struct img *img)
{
	struct img_check_result r = { 0 };

	cr_assert_eq(img_check(img, 0, NULL, NULL, &r, NULL), 0);
	cr_assert(!r.corruptions && !r.leaks && !r.check_errors);
}

/* All but the first: that is of the descriptor, which tells the new size. */
static int fail_zeroes(struct watch *w, const struct watch_entry *e)
{
	return w->a && e->op == IMG_IO_ZERO && w->b++ ? -EIO : 0;
}

/* A copy of the file as it is now, in memory. */
static struct img_storage *copy_of(struct img_storage *s)
{
	uint64_t size = atomic_load(&s->size);
	uint8_t *bytes = malloc(size);
	struct img_storage *copy;

	cr_assert_eq(img_storage_read(s, 0, bytes, size, NULL), 0);
	cr_assert_eq(img_storage_memory("copy", size, 64 << 20, &copy), 0);
	cr_assert_eq(img_storage_write(copy, 0, bytes, size, NULL), 0);
	free(bytes);
	return copy;
}

/* A disk is made smaller, and the power goes when that is told and the entries behind the end are still there. */
Test(vmdk_resize, grains_behind_the_end_do_not_come_back)
{
	static const char *const options[] = { "subformat=monolithicSparse", "zeroed_grain=on" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(options); i++) {
		struct folder *f = vmdk_new(options[i], 8 * MIB);
		struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
		struct img_storage *left;

		write_bytes(img, 0, 7, 8 * MIB, 0);
		cr_assert_eq(img_flush(img, NULL), 0);
		f->watch.before = fail_zeroes;
		f->watch.a = 1;
		cr_assert_eq(img_resize(img, 3 * MIB + 512, IMG_PREALLOCATE_OFF, NULL), -EIO);
		left = copy_of(img->file);
		f->watch.a = 0;
		img_close(img, NULL);
		img = folder_open(f, left, "vmdk", IMG_OPEN_WRITE);
		cr_assert_eq(img_size(img), 3 * MIB + 512);
		is_sound(img);
		cr_assert_eq(img_resize(img, 40 * MIB, IMG_PREALLOCATE_OFF, NULL), 0);
		is_sound(img);
		cr_assert(reads_as(img, 0, 7, 3 * MIB + 512));
		cr_assert(reads_as(img, 3 * MIB + 512, 0, 37 * MIB - 512));
		write_bytes(img, 5 * MIB, 9, 64 * KIB, 0);
		cr_assert(reads_as(img, 5 * MIB + 64 * KIB, 0, 35 * MIB - 64 * KIB));
		close_sound(img);
		folder_remove(f);
	}
}

/* The file ends behind the last grain that there still is, and all of that is there. */
Test(vmdk_resize, a_smaller_disk_has_a_shorter_file)
{
	struct folder *f = vmdk_new("subformat=monolithicSparse", 8 * MIB);
	struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
	uint64_t before;

	before = img->file->size;
	write_bytes(img, 0, 7, 1 * MIB, 0);
	write_bytes(img, 6 * MIB, 8, 2 * MIB, 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(img->file->size, before + 3 * MIB);
	cr_assert_eq(img_resize(img, 1 * MIB, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img->file->size, before + 1 * MIB);
	cr_assert(reads_as(img, 0, 7, 1 * MIB));
	is_sound(img);
	cr_assert_eq(img_resize(img, 8 * MIB, IMG_PREALLOCATE_OFF, NULL), 0);
	write_bytes(img, 7 * MIB, 9, 64 * KIB, 0);
	cr_assert(reads_as(img, 0, 7, 1 * MIB));
	cr_assert(reads_as(img, 1 * MIB, 0, 6 * MIB));
	is_sound(img);
	close_sound(img);
	folder_remove(f);
}

/* Directories that have to move for more entries are durable, with all tables, when the header leads there. */
Test(vmdk_resize, directories_that_move_are_durable_first)
{
	struct folder *f = vmdk_new("subformat=monolithicSparse", 64 * MIB);
	struct img *img = folder_open(f, folder_load(f), "vmdk", IMG_OPEN_WRITE);
	const struct vmdk *vmdk = img->state;
	const struct watch *w = &f->watch;
	uint64_t before = vmdk->files[0].sparse.directory_off;
	size_t header;

	write_bytes(img, 5 * MIB, 7, 64 * KIB, 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	f->watch.n = 0;
	cr_assert_eq(img_resize(img, UINT64_C(9) << 30, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_neq(vmdk->files[0].sparse.directory_off, before);
	header = watch_find(w, 0, 0, 0, 512);
	cr_assert_lt(header, w->n);
	cr_assert_lt(watch_find(w, 0, 0, vmdk->files[0].sparse.directory_off, 4), header);
	cr_assert_lt(watch_find(w, 0, 0, vmdk->files[0].sparse.redundant_off, 4), header);
	cr_assert(!watch_unsynced(w, header, 0));
	cr_assert_eq(w->entry[header + 1].op, IMG_IO_SYNC);
	/* each directory has tables of its own */
	for (unsigned i = 0; i < 288; i++) {
		uint8_t one[4], other[4];

		cr_assert_eq(img_storage_read(img->file, vmdk->files[0].sparse.directory_off + 4 * (uint64_t)i, one,
					      4, NULL),
			     0);
		cr_assert_eq(img_storage_read(img->file, vmdk->files[0].sparse.redundant_off + 4 * (uint64_t)i,
					      other, 4, NULL),
			     0);
		cr_assert_arr_neq(one, other, 4, "%u", i);
	}
	is_sound(img);
	cr_assert(reads_as(img, 5 * MIB, 7, 64 * KIB));
	cr_assert(reads_as(img, UINT64_C(8) << 30, 0, 64 * KIB));
	write_bytes(img, UINT64_C(8) << 30, 8, 64 * KIB, 0);
	is_sound(img);
	close_sound(img);
	folder_remove(f);
}

/* The extent's header is about to be written, which fails: a: the sectors that the descriptor tells then. */
static int fail_header(struct watch *w, const struct watch_entry *e)
{
	char line[256];
	FILE *in;

	if (e->op != IMG_IO_WRITE || e->off != 0)
		return 0;
	in = fopen(w->user, "r");
	cr_assert_not_null(in);
	while (fgets(line, sizeof(line), in))
		if (!strncmp(line, "RW ", 3) && !w->a)
			w->a = strtoull(line + 3, NULL, 10);
	fclose(in);
	return -EIO;
}

/* What the descriptor tells an extent's header has to hold: that is written first, and last when the disk shrinks. */
Test(vmdk_resize, a_descriptor_tells_no_more_than_its_extent_holds)
{
	static const uint64_t sizes[] = { 100 * MIB, 3 * MIB };

	for (size_t i = 0; i < IMG_ARRAY_LEN(sizes); i++) {
		struct folder *f = vmdk_new("subformat=twoGbMaxExtentSparse", 8 * MIB);
		struct img_open_options how = { .format = "vmdk", .flags = IMG_OPEN_WRITE };
		struct vmdk *vmdk;
		struct img *img;

		cr_assert_eq(img_open(f->path, &how, &img, NULL), 0);
		vmdk = img->state;
		write_bytes(img, 0, 7, 2 * MIB, 0);
		cr_assert_eq(img_flush(img, NULL), 0);
		vmdk->files[0].storage = watched(&f->watch, 1, vmdk->files[0].storage);
		f->watch.before = fail_header;
		f->watch.user = f->path;
		cr_assert_eq(img_resize(img, sizes[i], IMG_PREALLOCATE_OFF, NULL), -EIO);
		cr_assert_eq(f->watch.a * 512, i ? sizes[i] : 8 * MIB);
		img_close(img, NULL);
		how.flags = 0;
		cr_assert_eq(img_open(f->path, &how, &img, NULL), 0);
		cr_assert_eq(img_size(img), i ? sizes[i] : 8 * MIB);
		cr_assert(reads_as(img, 0, 7, 2 * MIB));
		is_sound(img);
		close_sound(img);
		folder_remove(f);
	}
}

/* What others left behind the end of a flat file is nothing of the disk. */
Test(vmdk_resize, what_a_flat_file_has_behind_its_end)
{
	struct folder *f = vmdk_new("subformat=monolithicFlat", 1 * MIB);
	struct img_open_options how = { .format = "vmdk", .flags = IMG_OPEN_WRITE };
	char path[200], junk[4096];
	struct img *img;
	FILE *out;

	memset(junk, 'x', sizeof(junk));
	snprintf(path, sizeof(path), "%s/image-flat.vmdk", f->dir);
	out = fopen(path, "a");
	cr_assert(out && fwrite(junk, 1, sizeof(junk), out) == sizeof(junk) && !fclose(out));
	cr_assert_eq(img_open(f->path, &how, &img, NULL), 0);
	write_bytes(img, 0, 7, 1 * MIB, 0);
	cr_assert_eq(img_resize(img, 3 * MIB, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert(reads_as(img, 0, 7, 1 * MIB));
	cr_assert(reads_as(img, 1 * MIB, 0, 2 * MIB));
	close_sound(img);
	folder_remove(f);
}
