/*
 * Copies of a disk that has spots that cannot be read.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/image/context.h"
#include "libimg/storage/filter.h"

TestSuite(salvage, .timeout = 60);

enum { DISK = 5 << 20 };

/* ---- A storage with bad spots ---- */

struct spot {
	uint64_t off, len;
};

struct spotty {
	struct img_filter wrap;
	const struct spot *spots; /* end with one of no length */
	int rc;
	_Atomic unsigned failed; /* reads */
};

static int check(struct img_storage *s, enum img_io_op op, uint64_t off, uint64_t len)
{
	struct spotty *y = IMG_CONTAINER(img_filter_of(s), struct spotty, wrap);

	for (const struct spot *p = y->spots; op == IMG_IO_READ && p->len; p++) {
		if (!ranges_overlap(off, len, p->off, p->len))
			continue;
		y->failed++;
		return y->rc;
	}
	return 0;
}

static int give_on(struct img_filter *w, struct img_io *io, int rc, void *token)
{
	(void)w;
	(void)io;
	(void)token;
	return rc;
}

static void spotty_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	io->rc = check(s, io->op, io->off, io->len);
	if (io->rc)
		img_ioq_complete(q, io);
	else
		img_filter_submit(img_filter_of(s), q, io, give_on, NULL);
}

static int spotty_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		     uint64_t off, uint64_t len, unsigned flags)
{
	struct img_storage *inner = img_filter_of(s)->inner;
	int rc = check(s, op, off, len);

	return rc ? rc : inner->ops->io(inner, op, iov, iovcnt, off, len, flags);
}

static void spotty_close(struct img_storage *s)
{
	struct img_filter *w = img_filter_of(s);

	img_filter_destroy(w);
	free(IMG_CONTAINER(w, struct spotty, wrap));
}

static const struct img_storage_ops spotty_ops = {
	.submit = spotty_submit,
	.io = spotty_io,
	.extent = img_filter_extent,
	.allocated = img_filter_allocated,
	.close = spotty_close,
};

/* ---- Disks ---- */

static struct img *open_raw(struct img_storage *s, unsigned flags)
{
	struct img_open_options how = { .format = "raw", .flags = flags };
	struct img *img;

	cr_assert_eq(img_open_storage(s, "disk", &how, &img, NULL), 0);
	return img;
}

static uint8_t byte_at(uint64_t off)
{
	return (uint8_t)(1 + (off >> 9) % 251);
}

/* A disk without zeroes, of which reading the spots fails with rc. */
static struct img *damaged(const struct spot *spots, int rc)
{
	struct spotty *y = calloc(1, sizeof(*y));
	struct img_storage *inner;
	uint8_t *data = malloc(DISK);

	cr_assert(y && data);
	for (size_t i = 0; i < DISK; i++)
		data[i] = byte_at(i);
	cr_assert_eq(img_storage_memory("memory", DISK, DISK, &inner), 0);
	cr_assert_eq(img_storage_write(inner, 0, data, DISK, NULL), 0);
	free(data);
	cr_assert_eq(img_filter_init(&y->wrap, &spotty_ops, inner), 0);
	y->spots = spots;
	y->rc = rc;
	return open_raw(&y->wrap.base, 0);
}

static bool is_lost(const struct spot *spots, uint64_t off)
{
	for (; spots->len; spots++)
		if (off >= spots->off && off - spots->off < spots->len)
			return true;
	return false;
}

static void assert_content(const uint8_t *data, const struct spot *lost)
{
	for (uint64_t i = 0; i < DISK; i++)
		cr_assert_eq(data[i], is_lost(lost, i) ? 0 : byte_at(i), "at %ju", (uintmax_t)i);
}

/* ---- What is told ---- */

struct told {
	struct spot spots[16];
	size_t n;
};

static void tell(void *user, struct img *source, uint64_t off, uint64_t len,
		 const struct img_error *why)
{
	struct told *t = user;

	cr_assert_not_null(source);
	cr_assert_eq(img_error_code(why), -EIO);
	cr_assert(t->n < IMG_ARRAY_LEN(t->spots));
	t->spots[t->n++] = (struct spot){ off, len };
}

static void assert_told(const struct told *t, const struct spot *lost)
{
	size_t n = 0;

	for (; lost[n].len; n++) {
		cr_assert(n < t->n);
		cr_assert_eq(t->spots[n].off, lost[n].off);
		cr_assert_eq(t->spots[n].len, lost[n].len);
	}
	cr_assert_eq(n, t->n);
}

/* ---- Tests ---- */

/* The second lies across the pieces that are read at a time. */
static const struct spot spots[] = {
	{ 1000, 1 }, { (2 << 20) - 100, 700 }, { 3 << 20, 65536 }, { DISK - 512, 512 }, { 0 }
};
static const struct spot sectors[] = {
	{ 512, 512 }, { (2 << 20) - 512, 1536 }, { 3 << 20, 65536 }, { DISK - 512, 512 }, { 0 }
};

static void copy(unsigned parallel, bool out_of_order)
{
	struct told told = { 0 };
	struct img_copy_options how = { .salvage = true,
					.unreadable = tell,
					.user = &told,
					.parallel = parallel,
					.out_of_order = out_of_order };
	struct img *source = damaged(spots, -EIO), *target;
	struct img_storage *memory;
	uint8_t *data = malloc(DISK);

	cr_assert_not_null(data);
	cr_assert_eq(img_storage_memory("target", DISK, DISK, &memory), 0);
	memset(data, 0xee, DISK);
	cr_assert_eq(img_storage_write(memory, 0, data, DISK, NULL), 0);
	target = open_raw(memory, IMG_OPEN_WRITE);
	cr_assert_eq(img_copy(&source, 1, target, &how, NULL), 0);
	cr_assert_eq(img_read(target, 0, data, DISK, NULL), 0);
	assert_content(data, sectors);
	assert_told(&told, sectors);
	cr_assert_eq(img_close(source, NULL), 0);
	cr_assert_eq(img_close(target, NULL), 0);
	free(data);
}

Test(salvage, sectors_are_lost_alone)
{
	copy(0, false);
	copy(1, false);
	copy(16, true);
}

Test(salvage, streams)
{
	struct told told = { 0 };
	struct img_copy_options how = { .salvage = true, .unreadable = tell, .user = &told };
	struct img_create_options create = { .format = "raw", .size = DISK, .have_size = true };
	struct img *source = damaged(spots, -EIO);
	FILE *f = tmpfile();
	uint8_t *data = malloc(DISK);

	cr_assert(f && data);
	cr_assert_eq(img_copy_to_sink(&source, 1, NULL, fileno(f), &create, &how, NULL), 0);
	cr_assert_eq(pread(fileno(f), data, DISK, 0), DISK);
	assert_content(data, sectors);
	assert_told(&told, sectors);
	cr_assert_eq(img_close(source, NULL), 0);
	fclose(f);
	free(data);
}

/* What is lost of one image is no part of the next one's, even where they meet. */
Test(salvage, several_sources)
{
	static const struct spot first[] = { { 0, 512 }, { DISK - 700, 700 }, { 0 } };
	static const struct spot second[] = { { 100, 5000 }, { 0 } };
	static const struct spot lost[] = {
		{ 0, 512 }, { DISK - 1024, 1024 }, { 0, 5120 }, { 0 }
	};
	struct told told = { 0 };
	struct img_copy_options how = { .salvage = true, .unreadable = tell, .user = &told };
	struct img *sources[] = { damaged(first, -EIO), damaged(second, -EIO) }, *target;
	struct img_storage *memory;
	uint8_t *data = malloc(DISK);

	cr_assert_not_null(data);
	cr_assert_eq(img_storage_memory("target", 2 * DISK, 2 * DISK, &memory), 0);
	target = open_raw(memory, IMG_OPEN_WRITE);
	cr_assert_eq(img_copy(sources, 2, target, &how, NULL), 0);
	assert_told(&told, lost);
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(img_read(target, (uint64_t)i * DISK, data, DISK, NULL), 0);
		assert_content(data, i ? lost + 2 : (struct spot[]){ lost[0], lost[1], { 0 } });
		cr_assert_eq(img_close(sources[i], NULL), 0);
	}
	cr_assert_eq(img_close(target, NULL), 0);
	free(data);
}

/* A disk takes long for each read that fails: hardly more than one for each sector. */
Test(salvage, bad_stretches_are_read_once)
{
	static const struct spot stretch[] = { { (1 << 20) + 512, 3 << 20 }, { 0 } };
	const unsigned lost = (3 << 20) / 512;
	struct told told = { 0 };
	struct img_copy_options how = { .salvage = true, .unreadable = tell, .user = &told };
	struct img *source = damaged(stretch, -EIO), *target;
	const struct spotty *y = IMG_CONTAINER(img_filter_of(source->file), struct spotty, wrap);
	struct img_storage *memory;
	uint8_t *data = malloc(DISK);

	cr_assert_not_null(data);
	cr_assert_eq(img_storage_memory("target", DISK, DISK, &memory), 0);
	target = open_raw(memory, IMG_OPEN_WRITE);
	cr_assert_eq(img_copy(&source, 1, target, &how, NULL), 0);
	assert_told(&told, stretch);
	cr_assert_eq(img_read(target, 0, data, DISK, NULL), 0);
	assert_content(data, stretch);
	cr_assert_lt(y->failed, lost + lost / 8 + 100, "%u reads for %u sectors", y->failed, lost);
	cr_assert_eq(img_close(source, NULL), 0);
	cr_assert_eq(img_close(target, NULL), 0);
	free(data);
}

static int copy_rc(bool salvage, int rc)
{
	struct img_copy_options how = { .salvage = salvage };
	struct img *source = damaged(spots, rc), *target;
	struct img_storage *memory;
	int got;

	cr_assert_eq(img_storage_memory("target", DISK, DISK, &memory), 0);
	target = open_raw(memory, IMG_OPEN_WRITE);
	got = img_copy(&source, 1, target, &how, NULL);
	cr_assert_eq(img_close(source, NULL), 0);
	cr_assert_eq(img_close(target, NULL), 0);
	return got;
}

Test(salvage, only_when_asked_and_for_what_the_disk_says)
{
	cr_assert_eq(copy_rc(false, -EIO), -EIO);
	cr_assert_eq(copy_rc(true, -EIO), 0); /* nobody to tell is fine */
	cr_assert_eq(copy_rc(true, -ENOMEM), -ENOMEM);
}
