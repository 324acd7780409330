/*
 * Room of a file that is given out again: what lay there before must not come back, whether the storage
 * can punch holes or not, and whether what it grows by is zeroes or not.
 */
#include "libimg/image/context.h" /* before img.h */

#include "libimg/base/arith.h"
#include "tests/image/folder.h"
#include "tests/storage/watch.h"

TestSuite(reused_room, .init = folder_make, .fini = folder_remove, .timeout = 120);

enum {
	DISK = 4 << 20,
	OPS = 150,
	OLD = 0xa1, /* what is given up again */
	BASE = 0x55,
};

static uint32_t state;

static uint32_t below(uint32_t n)
{
	state = state * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(state >> 1) * n >> 31);
}

struct disk {
	const char *label;
	struct watch watch;
	struct img *img;
	uint8_t model[DISK], base[DISK], got[DISK];
};

static int refuse_holes(struct watch *w, const struct watch_entry *e)
{
	w->n = 0; /* nothing is asked about it */
	return w->a && e->op == IMG_IO_PUNCH ? -EOPNOTSUPP : 0;
}

/* The file in memory, opened from there; what it names is in the folder. */
static void open_loaded(struct disk *d, const char *path, const char *format, bool zero_fill)
{
	struct img_open_options how = { .format = format,
					.flags = IMG_OPEN_WRITE | IMG_OPEN_UNMAP,
					.io = IMG_IO_THREADS };
	struct img_error *err = img_error_new();
	struct img_storage *s = watched_memory(&d->watch, 0, 0);
	static uint8_t bytes[1 << 20];
	FILE *in = fopen(path, "re");
	uint64_t at = 0;
	size_t n;

	cr_assert_not_null(in);
	while ((n = fread(bytes, 1, sizeof(bytes), in)) > 0) {
		cr_assert_eq(img_storage_write(s, at, bytes, n, NULL), 0);
		at += n;
	}
	fclose(in);
	s->limits.zero_fill = zero_fill;
	d->watch.before = refuse_holes;
	cr_assert_eq(img_open_storage(s, path, &how, &d->img, err), 0, "%s", img_error_text(err));
	img_error_free(err);
}

static void compare(struct disk *d, int op)
{
	size_t at = 0;

	cr_assert_eq(img_read(d->img, 0, d->got, DISK, NULL), 0);
	if (!memcmp(d->got, d->model, DISK))
		return;
	while (d->got[at] == d->model[at])
		at++;
	cr_assert_fail("%s, operation %d: byte %zu is %#x, expected %#x", d->label, op, at, d->got[at],
		       d->model[at]);
}

/* Whole units lose their room, or stay what they were. Without it they are zeroes or the parent's. */
static void give_up(struct disk *d, uint64_t off, uint64_t len)
{
	int rc = img_discard(d->img, off, len, NULL);

	cr_assert(!rc || rc == -EOPNOTSUPP);
	cr_assert_eq(img_read(d->img, off, d->got, len, NULL), 0);
	for (size_t i = 0; i < len; i++) {
		if (d->got[i] && d->got[i] != d->model[off + i] && d->got[i] != d->base[off + i])
			cr_assert_fail("%s: byte %zu after a discard", d->label, (size_t)off + i);
		d->model[off + i] = d->got[i];
	}
}

static void write_over(struct disk *d, uint64_t off, uint64_t len, uint8_t value)
{
	memset(d->model + off, value, len);
	cr_assert_eq(img_write(d->img, off, d->model + off, len, NULL), 0, "%s", d->label);
}

/* The end of the disk is cut off and comes back. */
static void cut(struct disk *d, uint64_t size)
{
	struct img_error *err = img_error_new();
	uint64_t refused = d->watch.a;

	d->watch.a = 0; /* what the disk's new part would show has to be cleared */
	cr_assert_eq(img_resize(d->img, size, IMG_PREALLOCATE_OFF, err), 0, "%s: %s", d->label,
		     img_error_text(err));
	cr_assert_eq(img_resize(d->img, DISK, IMG_PREALLOCATE_OFF, err), 0, "%s: %s", d->label,
		     img_error_text(err));
	memset(d->model + size, 0, DISK - size);
	d->watch.a = refused;
	img_error_free(err);
}

static void churn(struct disk *d, bool child)
{
	uint64_t unit = img_unit_bytes(d->img);

	for (int op = 0; op < OPS; op++) {
		uint64_t off = below(DISK), len = 1 + below(op % 7 ? 3000 : 300000);
		uint64_t from = align_down_u64(off, unit);

		len = min_u64(len, DISK - off);
		switch (below(9)) {
		case 0:
		case 1: /* a unit full of what must not come back */
			write_over(d, from, min_u64(unit * (1 + below(2)), DISK - from), OLD);
			break;
		case 2:
			give_up(d, from, min_u64(unit * (1 + below(3)), DISK - from));
			break;
		case 3:
			memset(d->model + off, 0, len);
			cr_assert_eq(img_zero_with(d->img, off, len, 0, NULL), 0, "%s", d->label);
			break;
		case 4:
			cr_assert_eq(img_flush(d->img, NULL), 0);
			break;
		case 5:
			if (op % 5 == 0)
				cut(d, align_down_u64(DISK / 4 + below(DISK / 2), 4096));
			break;
		case 6:
			if (child && op % 11 == 0) {
				cr_assert_eq(img_make_empty(d->img, NULL), 0, "%s", d->label);
				memcpy(d->model, d->base, DISK);
			}
			break;
		default:
			write_over(d, off, len, (uint8_t)(1 + below(100)));
		}
		if (op % 10 == 9)
			compare(d, op);
	}
	cr_assert_eq(img_flush(d->img, NULL), 0);
	compare(d, OPS);
}

/* The file is the same to who opens it anew, and to qemu-img where that reads such images. */
static void judge(struct disk *d, const char *format, bool child)
{
	struct img_storage *s = d->img->file;
	uint64_t size = s->size;
	static uint8_t bytes[64 << 20];
	struct img *img;
	int fd;

	/* As it was left, without what closing does. */
	cr_assert_leq(size, sizeof(bytes));
	cr_assert_eq(img_storage_read(s, 0, bytes, size, NULL), 0);
	cr_assert_eq(img_close(d->img, NULL), 0);
	fd = open("again", O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
	cr_assert_eq(write(fd, bytes, size), (ssize_t)size);
	close(fd);
	img = must_open("again", format, IMG_OPEN_WRITE);
	cr_assert_eq(img_read(img, 0, d->got, DISK, NULL), 0);
	cr_assert_eq(memcmp(d->got, d->model, DISK), 0, "%s: opened anew", d->label);
	must_close(img);
	if (child || system("qemu-img --version >/dev/null 2>&1"))
		return;
	make_file("model", d->model, DISK, DISK);
	snprintf((char *)bytes, 200, "qemu-img compare -q -f %s -F raw again model", format);
	cr_assert_eq(system((char *)bytes), 0, "%s, read by qemu-img", d->label);
}

static void try_row(const char *format, const char *options, bool child, bool holes, bool zero_fill)
{
	struct disk *d = calloc(1, sizeof(*d));
	const char *list[] = { options, NULL };
	struct img_create_options o = { .format = format, .options = options ? list : NULL };
	struct img_error *err = img_error_new();
	char label[200], name[20];

	snprintf(label, sizeof(label), "%s %s%s, %s holes, %s", format, options ? options : "",
		 child ? ", a child" : "", holes ? "with" : "without", zero_fill ? "zeroes" : "no zeroes");
	d->label = label;
	d->watch.a = !holes;
	snprintf(name, sizeof(name), "base.%s", format);
	if (child) {
		const char *sized[] = { "force_size=on", NULL };
		struct img *img;

		o.have_size = true;
		o.size = DISK;
		o.options = !strcmp(format, "vpc") ? sized : NULL;
		cr_assert_eq(img_create(name, &o, err), 0, "%s", img_error_text(err));
		img = must_open(name, format, IMG_OPEN_WRITE);
		memset(d->base, BASE, DISK);
		cr_assert_eq(img_write(img, 0, d->base, DISK, NULL), 0);
		must_close(img);
		memcpy(d->model, d->base, DISK);
		o = (struct img_create_options){ .format = format,
						 .options = options ? list : NULL,
						 .backing_name = name,
						 .backing_format = format };
	} else {
		o.have_size = true;
		o.size = DISK;
	}
	cr_assert_eq(img_create("image", &o, err), 0, "%s: %s", label, img_error_text(err));
	open_loaded(d, "image", format, zero_fill);
	cr_assert_eq(img_size(d->img), DISK);
	churn(d, child);
	judge(d, format, child);
	unlink("image");
	unlink("again");
	unlink(name);
	img_error_free(err);
	free(d);
}

static const struct {
	const char *format, *options;
	bool child;
} rows[] = {

	{ "vpc", "block_size=64k,force_size=on", false },
	{ "vpc", "force_size=on", false },
	{ "vpc", "block_size=64k", true },
	{ "vpc", NULL, true },
	{ "vhdx", "block_size=1M", false },
	{ "vhdx", "block_size=1M", true },
	{ "vdi", NULL, false },
	{ "vdi", "block_size=64k", true },
	{ "qed", "cluster_size=4k", false },
	{ "qed", NULL, true },
	{ "qcow", NULL, false },
	{ "qcow", NULL, true },
	{ "vmdk", NULL, false },
	{ "vmdk", NULL, true },
	{ "parallels", "cluster_size=64k", false },
	{ "qcow2", "cluster_size=4k", false },
	{ "qcow2", "cluster_size=64k", true },
};

Test(reused_room, holds_nothing_of_before)
{
	for (size_t i = 0; i < COUNT(rows); i++)
		for (unsigned how = 0; how < 4; how++) {
			state = (uint32_t)(i * 4 + how + 1) * 77;
			try_row(rows[i].format, rows[i].options, rows[i].child, how & 1, how & 2);
		}
}
