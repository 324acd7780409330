/*
 * Images that are not simply opened and written to: unclean, damaged, marked, encrypted, hostile;
 * and where clusters are found.
 */
#include "libimg/base/endian.h"
#include "tests/formats/qcow2/bench.h"

enum { KIB = 1024 };

static uint64_t peek(const struct bench *b, uint64_t off)
{
	uint8_t bytes[8];
	int fd = open(b->image, O_RDONLY);

	cr_assert(fd >= 0 && pread(fd, bytes, 8, (off_t)off) == 8);
	close(fd);
	return be64_load(bytes);
}

static void poke(const struct bench *b, uint64_t off, uint64_t value)
{
	uint8_t bytes[8];
	int fd = open(b->image, O_WRONLY);

	be64_store(bytes, value);
	cr_assert(fd >= 0 && pwrite(fd, bytes, 8, (off_t)off) == 8);
	close(fd);
}

/* Opening fails with rc and a sentence that has word. */
static void refused(struct bench *b, unsigned flags, int rc, const char *word)
{
	struct img_open_options options = { .format = "qcow2", .flags = flags };
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	cr_assert_eq(img_open(b->image, &options, &img, err), rc, "%s", img_error_text(err));
	cr_assert(strstr(img_error_text(err), word), "%s", img_error_text(err));
	img_error_free(err);
}

static void write_at(struct img *img, uint64_t off, uint64_t len, uint8_t fill)
{
	uint8_t *bytes = malloc(len);
	struct img_error *err = img_error_new();

	memset(bytes, fill, len);
	cr_assert_eq(img_write(img, off, bytes, len, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	free(bytes);
}

static void write_refused(struct img *img, uint64_t off, const char *word)
{
	uint8_t bytes[512] = { 1 };
	struct img_error *err = img_error_new();

	cr_assert_eq(img_write(img, off, bytes, sizeof(bytes), err), -EUCLEAN);
	cr_assert(strstr(img_error_text(err), word), "%s", img_error_text(err));
	img_error_free(err);
}

static uint64_t host_of(struct img *img, uint64_t off)
{
	struct img_map_entry e;

	cr_assert_eq(img_map(img, off, 1, false, &e, NULL), 0);
	cr_assert(e.has_offset);
	return e.offset;
}

static struct img_value *info_of(struct bench *b)
{
	struct img *img = open_image(b, IMG_OPEN_SELF_ONLY);
	struct img_value *v;

	cr_assert_eq(img_info(img, &v, NULL), 0);
	close_image(img);
	return v;
}

static const struct img_value *data_of(const struct img_value *v)
{
	return img_value_get(img_value_get(v, "format-specific"), "data");
}

#define FRESH(b, options, size) \
	do { \
		if (!have_qemu()) \
			return; \
		start(b, __LINE__, size); \
		run(b, "qemu-img create -f qcow2 -o %s image.qcow2 %d", options, (int)(size)); \
	} while (0)

/* ---- Marks in the header ---- */

Test(qcow2_open, unclean_is_repaired_before_writing)
{
	struct bench b;
	struct img *img;

	FRESH(&b, "lazy_refcounts=on", 4 << 20);
	/* Leaves the dirty bit and refcounts that were never written. */
	run(&b, "{ qemu-io -f qcow2 -c 'write -P 7 64k 256k' -c flush -c abort image.qcow2; "
		"true; }");
	cr_assert(peek(&b, 72) & 1, "the dirty bit is set");
	img = open_image(&b, 0);
	close_image(img);
	cr_assert(peek(&b, 72) & 1, "a reader leaves it");
	img = open_image(&b, IMG_OPEN_WRITE);
	write_at(img, 1 << 20, 128 * KIB, 9);
	close_image(img);
	cr_assert(!(peek(&b, 72) & 1));
	memset(b.model + 64 * KIB, 7, 256 * KIB);
	memset(b.model + (1 << 20), 9, 128 * KIB);
	write_file(b.model_file, b.model, b.size);
	run(&b, "qemu-img check image.qcow2");
	run(&b, "qemu-img compare -F raw image.qcow2 model.raw");
	finish(&b);
}

Test(qcow2_open, corrupt_is_only_read)
{
	struct bench b;

	FRESH(&b, "cluster_size=64k", 1 << 20);
	poke(&b, 72, 2);
	refused(&b, IMG_OPEN_WRITE, -EUCLEAN, "corrupt");
	close_image(open_image(&b, 0));
	close_image(open_image(&b, IMG_OPEN_WRITE | IMG_OPEN_CHECK));
	finish(&b);
}

Test(qcow2_open, unknown_autoclear_bits_go_with_the_first_write)
{
	struct bench b;
	struct img *img;

	FRESH(&b, "cluster_size=64k", 1 << 20);
	poke(&b, 88, 0x8000);
	img = open_image(&b, IMG_OPEN_WRITE);
	close_image(img);
	cr_assert_eq(peek(&b, 88), 0x8000, "nothing was written");
	img = open_image(&b, IMG_OPEN_WRITE);
	write_at(img, 0, 512, 1);
	close_image(img);
	cr_assert_eq(peek(&b, 88), 0);
	finish(&b);
}

Test(qcow2_open, bitmaps_are_marked_before_the_first_write)
{
	struct bench b;
	struct img *img;
	struct img_value *v;
	const struct img_value *bitmap, *flag;

	FRESH(&b, "cluster_size=64k", 1 << 20);
	run(&b, "qemu-img bitmap --add image.qcow2 first");
	run(&b, "qemu-img bitmap --add -g 128k --disable image.qcow2 second");
	v = info_of(&b);
	bitmap = img_value_at(img_value_get(data_of(v), "bitmaps"), 1);
	cr_assert_str_eq(img_value_string(img_value_get(bitmap, "name")), "second");
	cr_assert_eq(img_value_uint(img_value_get(bitmap, "granularity")), 128 * KIB);
	cr_assert_eq(img_value_count(img_value_get(bitmap, "flags")), 0);
	img_value_free(v);
	img = open_image(&b, IMG_OPEN_WRITE);
	write_at(img, 100, 70000, 1);
	close_image(img);
	v = info_of(&b);
	bitmap = img_value_at(img_value_get(data_of(v), "bitmaps"), 1);
	flag = img_value_at(img_value_get(bitmap, "flags"), 0);
	cr_assert_str_eq(img_value_string(flag), "in-use");
	img_value_free(v);
	run(&b, "qemu-img check image.qcow2");
	run(&b, "qemu-img info image.qcow2 | grep -c in-use | grep 2");
	finish(&b);
}

Test(qcow2_open, encrypted_is_reported_and_refused)
{
	struct bench b;
	struct img_value *v;
	const struct img_value *encrypt;

	if (!have_qemu())
		return;
	start(&b, 1, 1 << 20);
	/* It measures its own processor time, and gives up where clocks are coarse: again, then. */
	run(&b, "for i in $(seq 100); do "
		"qemu-img create -f qcow2 --object secret,id=s,data=x "
		"-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 image.qcow2 1M && "
		"break; done; qemu-img info image.qcow2 | grep -q 'format: luks'");
	refused(&b, 0, -ENOKEY, "'encrypt.key-secret' is required");
	refused(&b, IMG_OPEN_WRITE, -ENOKEY, "'encrypt.key-secret' is required");
	v = info_of(&b);
	cr_assert(img_value_bool(img_value_get(v, "encrypted")));
	encrypt = img_value_get(data_of(v), "encrypt");
	cr_assert_str_eq(img_value_string(img_value_get(encrypt, "format")), "luks");
	cr_assert_str_eq(img_value_string(img_value_get(encrypt, "cipher-alg")), "aes-256");
	cr_assert_eq(img_value_count(img_value_get(encrypt, "slots")), 8);
	img_value_free(v);
	finish(&b);
}

Test(qcow2_open, snapshots_are_reported)
{
	struct bench b;
	struct img_value *v;
	const struct img_value *snapshots;

	FRESH(&b, "cluster_size=64k", 1 << 20);
	run(&b, "qemu-img snapshot -c 'before it' image.qcow2");
	run(&b, "qemu-img snapshot -c b image.qcow2");
	v = info_of(&b);
	snapshots = img_value_get(v, "snapshots");
	cr_assert_eq(img_value_count(snapshots), 2);
	cr_assert_str_eq(img_value_string(img_value_get(img_value_at(snapshots, 0), "name")),
			 "before it");
	cr_assert_str_eq(img_value_string(img_value_get(img_value_at(snapshots, 1), "id")), "2");
	img_value_free(v);
	poke(&b, 60, UINT64_C(0x80000000) << 32);
	refused(&b, 0, -EUCLEAN, "napshot");
	finish(&b);
}

/* ---- Tables that lie ---- */

/* Images of 64 KiB clusters: refcount table at 1, block at 2, L1 at 3, the first L2 table at 4. */
enum {
	CLUSTER = 64 * KIB,
	BLOCK_AT = 2 * CLUSTER,
	L1_AT = 3 * CLUSTER,
};
#define COPIED (UINT64_C(1) << 63)

Test(qcow2_open, data_is_not_written_over_metadata)
{
	struct bench b;
	struct img *img;
	uint64_t l2;

	FRESH(&b, "cluster_size=64k", 8 << 20);
	img = open_image(&b, IMG_OPEN_WRITE);
	write_at(img, 0, 8 * CLUSTER, 1);
	close_image(img);
	l2 = peek(&b, L1_AT) & ~COPIED;
	poke(&b, l2, COPIED | 0); /* reads as not allocated */
	poke(&b, l2 + 8, COPIED | BLOCK_AT);
	poke(&b, l2 + 16, L1_AT); /* shared: would be freed */
	poke(&b, l2 + 24, COPIED | (5 * CLUSTER + 512));
	img = open_image(&b, IMG_OPEN_WRITE);
	write_refused(img, CLUSTER, "refcount block");
	write_refused(img, 2 * CLUSTER, "L1 table");
	write_refused(img, 3 * CLUSTER, "unaligned");
	write_at(img, 4 * CLUSTER, 512, 3);
	close_image(img);
	finish(&b);
}

Test(qcow2_open, tables_are_not_written_over_metadata)
{
	struct bench b;
	struct img *img;

	FRESH(&b, "cluster_size=64k", 8 << 20);
	poke(&b, L1_AT, COPIED | BLOCK_AT);
	img = open_image(&b, IMG_OPEN_WRITE);
	write_refused(img, 0, "refcount block");
	close_image(img);
	cr_assert_eq(truncate(b.image, L1_AT + 2 * CLUSTER), 0);
	poke(&b, L1_AT, COPIED | (L1_AT + 512));
	img = open_image(&b, IMG_OPEN_WRITE);
	write_refused(img, 0, "L1 table");
	close_image(img);
	finish(&b);
}

Test(qcow2_open, metadata_is_not_handed_out)
{
	struct bench b;
	struct img *img;

	FRESH(&b, "cluster_size=64k", 8 << 20);
	poke(&b, BLOCK_AT, 0); /* nothing is in use, it says */
	img = open_image(&b, IMG_OPEN_WRITE);
	write_refused(img, 0, "header");
	close_image(img);
	poke(&b, CLUSTER, 0); /* no block at all */
	img = open_image(&b, IMG_OPEN_WRITE);
	write_refused(img, 0, "header");
	close_image(img);
	finish(&b);
}

Test(qcow2_open, tables_in_use_are_not_handed_out)
{
	struct bench b;
	struct img *img;
	uint64_t l2;

	FRESH(&b, "cluster_size=64k", 8 << 20);
	img = open_image(&b, IMG_OPEN_WRITE);
	write_at(img, 0, 8 * CLUSTER, 1);
	close_image(img);
	l2 = peek(&b, L1_AT) & ~COPIED;
	poke(&b, BLOCK_AT + 8, 0); /* clusters 4 to 7 */
	img = open_image(&b, IMG_OPEN_WRITE);
	write_refused(img, 4 << 20, "L2 table");
	close_image(img);
	/* Nor is one written to as if it were data. */
	poke(&b, l2 + 8, COPIED | l2);
	img = open_image(&b, IMG_OPEN_WRITE);
	write_refused(img, CLUSTER, "L2 table");
	close_image(img);
	finish(&b);
}

Test(qcow2_open, refcount_blocks_are_where_they_can_be)
{
	struct bench b;

	FRESH(&b, "cluster_size=64k", 8 << 20);
	poke(&b, CLUSTER + 8, UINT64_C(1) << 50);
	refused(&b, IMG_OPEN_WRITE, -EUCLEAN, "refcount table");
	poke(&b, CLUSTER + 8, BLOCK_AT);
	refused(&b, IMG_OPEN_WRITE, -EUCLEAN, "refcount block");
	poke(&b, CLUSTER + 8, L1_AT); /* where the file ends */
	refused(&b, IMG_OPEN_WRITE, -EUCLEAN, "refcount table");
	cr_assert_eq(truncate(b.image, L1_AT + CLUSTER), 0);
	refused(&b, IMG_OPEN_WRITE, -EUCLEAN, "L1 table");
	close_image(open_image(&b, 0));
	finish(&b);
}

/* ---- Where clusters are found ---- */

Test(qcow2_open, writing_on_is_contiguous)
{
	struct bench b;
	struct img *img;

	FRESH(&b, "cluster_size=4k", 8 << 20);
	img = open_image(&b, IMG_OPEN_WRITE);
	for (unsigned i = 0; i < 256; i++)
		write_at(img, i * 4096, 4096, (uint8_t)i);
	for (unsigned i = 1; i < 256; i++)
		cr_assert_eq(host_of(img, i * 4096), host_of(img, 0) + i * 4096);
	close_image(img);
	finish(&b);
}

Test(qcow2_open, freed_clusters_are_used_again)
{
	struct bench b;
	struct img *img;
	uint64_t host;
	struct stat before, after;

	FRESH(&b, "cluster_size=4k", 8 << 20);
	img = open_image(&b, IMG_OPEN_WRITE);
	write_at(img, 0, 512 * KIB, 1);
	host = host_of(img, 64 * KIB);
	cr_assert_eq(img_discard(img, 64 * KIB, 64 * KIB, NULL), 0);
	cr_assert_eq(img_flush(img, NULL), 0); /* only then are they free */
	cr_assert_eq(stat(b.image, &before), 0);
	write_at(img, 1 << 20, 64 * KIB, 2);
	cr_assert_eq(host_of(img, 1 << 20), host);
	close_image(img);
	cr_assert_eq(stat(b.image, &after), 0);
	cr_assert_eq(before.st_size, after.st_size);
	run(&b, "qemu-img check image.qcow2");
	finish(&b);
}

static void packed(void *user, int rc, const struct img_error *err)
{
	(void)user;
	cr_assert_eq(rc, 0, "%s", img_error_text(err));
}

/* Small pieces share clusters as far as the refcounts can tell. */
static void pack_units(const char *options, unsigned refcount_max)
{
	struct bench b;
	struct img *img;
	struct img_queue *q;
	uint8_t *unit = calloc(1, CLUSTER);
	struct iovec iov = { unit, CLUSTER };
	struct stat st;

	FRESH(&b, options, 64 * CLUSTER);
	img = open_image(&b, IMG_OPEN_WRITE);
	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	for (unsigned i = 0; i < 32; i++) {
		unit[0] = (uint8_t)(i + 1);
		b.model[i * CLUSTER] = unit[0];
		iov = (struct iovec){ unit, CLUSTER };
		cr_assert_eq(img_submit_writev(q, img, i * CLUSTER, &iov, 1, IMG_SUBMIT_COMPRESS,
					       packed, NULL, NULL),
			     0);
		while (img_queue_in_flight(q))
			img_queue_run(q, true);
	}
	img_queue_free(q);
	close_image(img);
	cr_assert_eq(stat(b.image, &st), 0);
	cr_assert_eq((uint64_t)st.st_size, (5 + (31 / refcount_max + 1)) * (uint64_t)CLUSTER,
		     "%lld",
		     (long long)st.st_size);
	write_file(b.model_file, b.model, b.size);
	run(&b, "qemu-img check image.qcow2");
	run(&b, "qemu-img compare -F raw image.qcow2 model.raw");
	free(unit);
	finish(&b);
}

Test(qcow2_open, compressed_units_share_clusters)
{
	pack_units("cluster_size=64k", 65535);
}

Test(qcow2_open, compressed_units_share_within_the_refcount)
{
	pack_units("cluster_size=64k,refcount_bits=2", 3);
}

Test(qcow2_open, compressed_units_alone)
{
	pack_units("cluster_size=64k,refcount_bits=1", 1);
}
