/*
 * The qcow2 driver against a flat model: random writes, zeroes, discards, compressed units, resizes
 * and snapshots on images that qemu-img made, of every geometry; qemu-img then checks and compares.
 */
#include "libimg/image/context.h"
#include "tests/formats/qcow2/bench.h"

/* ---- Operations, several in flight ---- */

enum { IN_FLIGHT = 8 };
enum op {
	OP_WRITE,
	OP_ZERO,
	OP_DISCARD,
	OP_COMPRESS,
	OP_READ,
	OPS,
};

struct flight {
	struct bench *b;
	enum op op;
	uint64_t off, len;
	uint8_t *buffer;
	struct iovec iov;
};

static void flown(void *user, int rc, const struct img_error *err)
{
	struct flight *f = user;

	cr_assert_eq(rc, 0, "op %d at %" PRIu64 "+%" PRIu64 ": %s", f->op, f->off, f->len,
		     img_error_text(err));
	if (f->op == OP_READ)
		cr_assert(!memcmp(f->buffer, f->b->model + f->off, f->len),
			  "read at %" PRIu64 "+%" PRIu64 " differs", f->off, f->len);
}

/* A range, sometimes whole units, sometimes sectors, sometimes any bytes. */
static void pick(struct bench *b, struct flight *f)
{
	uint64_t grains[] = { 1, 512, 4096, b->unit };
	bool units = f->op == OP_COMPRESS || f->op == OP_DISCARD;
	uint64_t grain = units ? b->unit : grains[below(b, 4)];
	uint64_t most = f->op == OP_COMPRESS ? 1 : 1 + below(b, 2 + (300000 / b->unit));

	if (f->op != OP_COMPRESS && below(b, 24) == 0)
		most = 1 + b->size / b->unit;
	f->off = below(b, b->size) / grain * grain;
	f->len = (1 + below(b, most * b->unit)) / grain * grain;
	if (f->op == OP_COMPRESS || !f->len)
		f->len = grain;
	if (f->len > b->size - f->off)
		f->len = b->size - f->off;
}

static bool overlaps(const struct flight *f, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (f[i].off < f[n].off + f[n].len && f[n].off < f[i].off + f[i].len)
			return true;
	return false;
}

static void submit(struct img_queue *q, struct img *img, struct flight *f)
{
	struct bench *b = f->b;
	int rc = -EINVAL;

	f->buffer = malloc(f->len);
	f->iov = (struct iovec){ f->buffer, f->len };
	switch (f->op) {
	case OP_WRITE:
	case OP_COMPRESS:
		random_bytes(b, f->buffer, f->len);
		memcpy(b->model + f->off, f->buffer, f->len);
		rc = img_submit_writev(q, img, f->off, &f->iov, 1,
				       f->op == OP_COMPRESS ? IMG_SUBMIT_COMPRESS : 0, flown, f,
				       NULL);
		break;
	case OP_ZERO:
		memset(b->model + f->off, 0, f->len);
		rc = img_submit_zero(q, img, f->off, f->len, IMG_SUBMIT_MAY_UNMAP, flown, f, NULL);
		break;
	case OP_DISCARD:
		rc = img_submit_discard(q, img, f->off, f->len, 0, flown, f, NULL);
		break;
	default:
		rc = img_submit_readv(q, img, f->off, &f->iov, 1, 0, flown, f, NULL);
	}
	cr_assert_eq(rc, 0);
}

static void round_of_ops(struct bench *b, struct img *img, unsigned batches)
{
	struct img_queue *q;

	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	for (unsigned k = 0; k < batches; k++) {
		struct flight f[IN_FLIGHT] = { 0 };
		unsigned n = 0;

		while (n < IN_FLIGHT) {
			f[n].b = b;
			do
				f[n].op = (enum op)below(b, OPS);
			while (f[n].op == OP_COMPRESS && !b->compress);
			pick(b, &f[n]);
			if (overlaps(f, n))
				break;
			submit(q, img, &f[n]);
			n++;
		}
		while (img_queue_in_flight(q))
			img_queue_run(q, true);
		for (unsigned i = 0; i < n; i++) {
			/* A discard may do nothing: what is read then is what counts. */
			if (f[i].op == OP_DISCARD) {
				img_read(img, f[i].off, f[i].buffer, f[i].len, NULL);
				for (uint64_t j = 0; j < f[i].len; j++)
					cr_assert(!f[i].buffer[j] ||
						  f[i].buffer[j] == b->model[f[i].off + j]);
				memcpy(b->model + f[i].off, f[i].buffer, f[i].len);
			}
			free(f[i].buffer);
		}
		if (below(b, 20) == 0)
			cr_assert_eq(img_flush(img, NULL), 0);
	}
	img_queue_free(q);
}

static void compare(struct bench *b)
{
	write_file(b->model_file, b->model, b->size);
	run(b, "qemu-img check -f qcow2 image.qcow2");
	run(b, "qemu-img compare -f qcow2 -F raw image.qcow2 model.raw");
}

static void make_base(struct bench *b, uint64_t len)
{
	char path[128];
	uint8_t *bytes = malloc(len);

	for (uint64_t i = 0; i < len; i += 4096)
		random_bytes(b, bytes + i, len - i < 4096 ? len - i : 4096);
	snprintf(path, sizeof(path), "%s/base.raw", b->dir);
	write_file(path, bytes, len);
	memcpy(b->model, bytes, len < b->size ? len : b->size);
	free(bytes);
}

struct shape {
	const char *options;
	uint64_t size;
	uint64_t base; /* bytes of backing file; 0: none */
	unsigned batches;
	unsigned flags;
	bool plain; /* takes no compressed clusters */
	bool snapshots;
};

static void play(const struct shape *s, uint64_t seed)
{
	struct bench b;
	char backing[64] = "";

	if (!have_qemu())
		return;
	start(&b, seed, s->size);
	b.compress = !s->plain;
	if (s->base) {
		make_base(&b, s->base);
		strcpy(backing, "-b base.raw -F raw");
	}
	run(&b, "qemu-img create -f qcow2 -o %s %s image.qcow2 %" PRIu64, s->options, backing,
	    s->size);
	for (unsigned round = 0; round < 3; round++) {
		struct img *img = open_image(&b, IMG_OPEN_WRITE | s->flags);

		round_of_ops(&b, img, s->batches);
		close_image(img);
		compare(&b);
		if (s->snapshots)
			run(&b, "qemu-img snapshot -c s%u image.qcow2", round);
	}
	if (s->snapshots) {
		run(&b, "qemu-img snapshot -d s1 image.qcow2");
		run(&b, "qemu-img check -f qcow2 image.qcow2");
	}
	finish(&b);
}

#define PLAY(name, ...) \
	Test(qcow2, name) \
	{ \
		play(&(struct shape){ __VA_ARGS__ }, __LINE__); \
	}

PLAY(plain, "cluster_size=64k", 8 << 20, .batches = 60)
PLAY(plain_odd_size, "cluster_size=64k", (8 << 20) - 512 * 7, .batches = 60)
PLAY(unmap, "cluster_size=64k", 8 << 20, .batches = 60, .flags = IMG_OPEN_UNMAP)
PLAY(clusters_512, "cluster_size=512", 1 << 20, .batches = 60)
PLAY(clusters_512_rc1, "cluster_size=512,refcount_bits=1", 1 << 20, .batches = 60)
PLAY(clusters_512_rc64, "cluster_size=512,refcount_bits=64", 4 << 20, .batches = 60)
PLAY(clusters_4k_rc2, "cluster_size=4k,refcount_bits=2", 4 << 20, .batches = 60)
PLAY(clusters_4k_rc4_unmap, "cluster_size=4k,refcount_bits=4", 4 << 20, .batches = 60,
     .flags = IMG_OPEN_UNMAP)
PLAY(clusters_4k_rc8, "cluster_size=4k,refcount_bits=8", 4 << 20, .batches = 60)
PLAY(clusters_64k_rc32, "cluster_size=64k,refcount_bits=32", 8 << 20, .batches = 60)
PLAY(clusters_2m, "cluster_size=2M", 48 << 20, .batches = 20)
/* Tables longer than a block of the metadata cache. */
PLAY(wide_l1, "cluster_size=512", 80 << 20, .batches = 10)
PLAY(wide_l2, "cluster_size=32k", 140 << 20, .batches = 10)
PLAY(wide_l2_backing, "cluster_size=32k", 140 << 20, .base = 1 << 20, .batches = 10)
PLAY(wide_l2_extended, "cluster_size=64k,extended_l2=on", 140 << 20, .base = 1 << 20, .batches = 10)
PLAY(zstd, "compression_type=zstd", 8 << 20, .batches = 60)
PLAY(lazy, "lazy_refcounts=on", 8 << 20, .batches = 60)
PLAY(version_2, "compat=0.10", 8 << 20, .batches = 60)
PLAY(version_2_backing, "compat=0.10,cluster_size=4k", 4 << 20, .base = 3 << 20, .batches = 60)
PLAY(backing, "cluster_size=64k", 8 << 20, .base = 5 << 20, .batches = 60)
PLAY(backing_longer, "cluster_size=4k", 3 << 20, .base = 5 << 20, .batches = 60)
PLAY(backing_odd, "cluster_size=4k", (3 << 20) + 1536, .base = 2 << 20, .batches = 60)
PLAY(extended, "extended_l2=on,cluster_size=64k", 8 << 20, .batches = 80)
PLAY(extended_16k, "extended_l2=on,cluster_size=16k", 4 << 20, .batches = 80)
PLAY(extended_backing, "extended_l2=on,cluster_size=64k", 8 << 20, .base = 6 << 20, .batches = 80)
PLAY(extended_unmap, "extended_l2=on,cluster_size=128k", 8 << 20, .base = 6 << 20, .batches = 80,
     .flags = IMG_OPEN_UNMAP)
PLAY(preallocated, "preallocation=metadata", 8 << 20, .batches = 40)
PLAY(data_file, "data_file=data.bin", 8 << 20, .batches = 60, .plain = true)
PLAY(data_file_extended, "data_file=data.bin,extended_l2=on", 8 << 20, .base = 3 << 20,
     .batches = 60, .plain = true)
PLAY(data_file_raw, "data_file=raw.bin,data_file_raw=on", 8 << 20, .batches = 60, .plain = true)
PLAY(data_file_backing, "data_file=data.bin", 8 << 20, .base = 6 << 20, .batches = 60,
     .plain = true)
PLAY(snapshots, "cluster_size=64k", 8 << 20, .batches = 40, .snapshots = true)
PLAY(snapshots_small, "cluster_size=512", 1 << 20, .batches = 40, .snapshots = true)
PLAY(snapshots_extended, "extended_l2=on,cluster_size=16k", 4 << 20, .base = 2 << 20, .batches = 40,
     .snapshots = true)
PLAY(writethrough, "cluster_size=4k", 4 << 20, .batches = 30, .flags = IMG_OPEN_WRITETHROUGH)
PLAY(unsafe, "cluster_size=4k", 4 << 20, .batches = 30, .flags = IMG_OPEN_UNSAFE)

/* A raw data file is the disk. */
Test(qcow2, data_file_raw_is_the_disk)
{
	struct bench b;
	struct img *img;

	if (!have_qemu())
		return;
	start(&b, 77, 4 << 20);
	run(&b, "qemu-img create -f qcow2 -o data_file=raw.bin,data_file_raw=on image.qcow2 4M");
	img = open_image(&b, IMG_OPEN_WRITE);
	round_of_ops(&b, img, 60);
	close_image(img);
	compare(&b);
	run(&b, "cmp raw.bin model.raw");
	finish(&b);
}

/* ---- Block devices ---- */

/* A block device that held something else: of a fixed size, and nothing of it reads as zeroes. */
static struct img *open_device(struct bench *b, uint64_t bytes)
{
	struct img_open_options options = { .format = "qcow2", .flags = IMG_OPEN_WRITE };
	struct img_error *err = img_error_new();
	uint8_t *content = malloc(bytes);
	struct img_storage *s;
	struct img *img;
	int fd = open(b->image, O_RDONLY), rc;

	memset(content, 0xaa, bytes);
	cr_assert(fd >= 0 && read(fd, content, bytes) > 0);
	close(fd);
	cr_assert_eq(img_storage_memory("device", bytes, bytes, &s), 0);
	cr_assert_eq(img_storage_write(s, 0, content, bytes, NULL), 0);
	s->device = true;
	s->limits.zero_fill = false;
	rc = img_open_storage(s, "device", &options, &img, err);
	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	img_error_free(err);
	free(content);
	b->unit = img_unit_bytes(img);
	return img;
}

/* Flush the device and leave its content where qemu-img finds it. */
static void save_device(struct bench *b, struct img *img)
{
	uint64_t bytes = img->file->size;
	uint8_t *content = malloc(bytes);

	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(img_flush(img, NULL), 0); /* what the first one freed is counted now */
	cr_assert_eq(img_storage_read(img->file, 0, content, bytes, NULL), 0);
	write_file(b->image, content, bytes);
	free(content);
}

static void play_device(const char *options, uint64_t seed)
{
	struct bench b;
	struct img *img;

	if (!have_qemu())
		return;
	start(&b, seed, 4 << 20);
	b.compress = true;
	run(&b, "qemu-img create -f qcow2 -o %s image.qcow2 4M", options);
	img = open_device(&b, 9 << 20);
	for (unsigned i = 0; i < 3; i++) {
		round_of_ops(&b, img, 40);
		save_device(&b, img);
		compare(&b);
	}
	close_image(img);
	finish(&b);
}

Test(qcow2, device)
{
	play_device("cluster_size=64k", 1);
}

Test(qcow2, device_small_clusters)
{
	play_device("cluster_size=512", 2);
}

Test(qcow2, device_extended)
{
	play_device("cluster_size=16k,extended_l2=on", 3);
}

Test(qcow2, device_full)
{
	struct bench b;
	struct img *img;
	uint8_t *bytes = malloc(100000);
	int rc = 0;

	if (!have_qemu())
		return;
	start(&b, 4, 8 << 20);
	run(&b, "qemu-img create -f qcow2 -o cluster_size=512 image.qcow2 8M");
	img = open_device(&b, 1 << 20);
	memset(bytes, 5, 100000);
	for (unsigned i = 0; !rc; i++)
		rc = img_write(img, i * 100000, bytes, 100000, NULL);
	cr_assert_eq(rc, -ENOSPC);
	for (uint64_t off = 0; off < b.size; off += 512)
		cr_assert_eq(img_read(img, off, b.model + off, 512, NULL), 0);
	cr_assert_eq(b.model[800000], 5);
	/* There is room again after a discard. */
	cr_assert_eq(img_discard(img, 0, 256 << 10, NULL), 0);
	memset(b.model, 0, 256 << 10);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(img_write(img, 4 << 20, bytes, 100000, NULL), 0);
	memcpy(b.model + (4 << 20), bytes, 100000);
	save_device(&b, img);
	compare(&b);
	close_image(img);
	free(bytes);
	finish(&b);
}

/* ---- Sizes ---- */

static void resize(struct bench *b, uint64_t size, int how)
{
	struct img *img = open_image(b, IMG_OPEN_WRITE);
	struct img_error *err = img_error_new();
	int rc = img_resize(img, size, how, err);
	uint8_t *model = calloc(1, size + 1);

	cr_assert_eq(rc, 0, "resize to %" PRIu64 " mode %d: %s", size, how, img_error_text(err));
	img_error_free(err);
	memcpy(model, b->model, size < b->size ? size : b->size);
	free(b->model);
	b->model = model;
	b->size = size;
	if (size) {
		round_of_ops(b, img, 10);
		close_image(img);
		compare(b);
	} else {
		close_image(img);
	}
}

static void play_sizes(const char *options, uint64_t base, uint64_t unit, uint64_t seed, bool plain)
{
	struct bench b;

	if (!have_qemu())
		return;
	start(&b, seed, 3 * unit);
	b.compress = !plain;
	if (base)
		make_base(&b, base);
	run(&b, "qemu-img create -f qcow2 -o %s %s image.qcow2 %" PRIu64, options,
	    base ? "-b base.raw -F raw" : "", b.size);
	for (unsigned i = 0; i < 14; i++) {
		uint64_t size = (1 + below(&b, 200)) * unit + below(&b, 3) * 512;
		int how = size > b.size ? (int)below(&b, 4) : IMG_PREALLOCATE_OFF;

		resize(&b, size, how);
	}
	finish(&b);
}

Test(qcow2, sizes)
{
	play_sizes("cluster_size=64k", 0, 64 << 10, 1, false);
}

Test(qcow2, sizes_small_clusters)
{
	play_sizes("cluster_size=512", 0, 16 << 10, 2, false);
}

Test(qcow2, sizes_rc64)
{
	play_sizes("cluster_size=512,refcount_bits=64", 0, 16 << 10, 3, false);
}

Test(qcow2, sizes_version_2)
{
	play_sizes("compat=0.10,cluster_size=4k", 0, 16 << 10, 4, false);
}

Test(qcow2, sizes_extended)
{
	play_sizes("extended_l2=on,cluster_size=16k", 0, 16 << 10, 5, false);
}

Test(qcow2, sizes_backing)
{
	play_sizes("cluster_size=4k", 300 << 10, 16 << 10, 6, false);
}

Test(qcow2, sizes_version_2_backing)
{
	play_sizes("compat=0.10,cluster_size=4k", 500 << 10, 16 << 10, 8, false);
}

Test(qcow2, sizes_extended_backing)
{
	play_sizes("extended_l2=on,cluster_size=16k", 500 << 10, 16 << 10, 9, false);
}

Test(qcow2, sizes_data_file_raw)
{
	play_sizes("cluster_size=4k,data_file=raw.bin,data_file_raw=on", 0, 16 << 10, 7, true);
}

Test(qcow2, sizes_with_snapshot)
{
	struct bench b;
	struct img *img;

	if (!have_qemu())
		return;
	start(&b, 5, 2 << 20);
	b.compress = true;
	run(&b, "qemu-img create -f qcow2 -o cluster_size=4k image.qcow2 2M");
	img = open_image(&b, IMG_OPEN_WRITE);
	round_of_ops(&b, img, 30);
	close_image(img);
	compare(&b);
	run(&b, "cp model.raw then.raw && qemu-img snapshot -c one image.qcow2");
	resize(&b, (1 << 20) + 4096 * 3 + 512, IMG_PREALLOCATE_OFF);
	resize(&b, 5 << 20, IMG_PREALLOCATE_METADATA);
	resize(&b, 1 << 20, IMG_PREALLOCATE_OFF);
	run(&b, "qemu-img snapshot -a one image.qcow2");
	run(&b, "qemu-img check image.qcow2");
	run(&b, "qemu-img compare -f qcow2 -F raw image.qcow2 then.raw");
	finish(&b);
}
