/*
 * What images say of zeroing, and what they do: with IMG_SUBMIT_FAST no zeroes are written, whatever else is refused.
 */
#include "libimg/image/context.h" /* before img.h */

#include "libimg/base/arith.h"
#include "tests/image/folder.h"
#include "tests/storage/watch.h"

TestSuite(zeroing, .init = folder_make, .fini = folder_remove, .timeout = 120);

enum {
	DISK = 3 << 20,
	METADATA_MAX = 200 << 10, /* written beside: tables, a journal's entries, bitmaps */
};

static uint8_t bytes[DISK];

static int refuse_slow(struct watch *w, const struct watch_entry *e)
{
	return w->a && e->op == IMG_IO_ZERO && e->flags & IMG_IO_FAST ? -ENOTSUP : 0;
}

static struct img *open_watched(struct watch *w, const char *format, bool fast)
{
	struct img_open_options how = { .format = format,
					.flags = IMG_OPEN_WRITE | IMG_OPEN_UNMAP,
					.io = IMG_IO_THREADS };
	struct img_storage *s = watched_memory(w, 0, 0);
	struct img_error *err = img_error_new();
	FILE *in = fopen("image", "re");
	struct img *img = NULL;
	uint64_t at = 0;
	size_t n;

	cr_assert_not_null(in);
	while ((n = fread(bytes, 1, 65536, in)) > 0) {
		cr_assert_eq(img_storage_write(s, at, bytes, n, NULL), 0);
		at += n;
	}
	fclose(in);
	w->before = refuse_slow;
	w->a = !fast;
	s->limits.fast_zero = fast;
	cr_assert_eq(img_open_storage(s, "image", &how, &img, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	return img;
}

static bool is_zero(uint64_t len)
{
	return !bytes[0] && !memcmp(bytes, bytes + 1, len - 1);
}

static uint64_t bytes_written(const struct watch *w)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < w->n; i++)
		sum += w->entry[i].op == IMG_IO_WRITE ? w->entry[i].len : 0;
	return sum;
}

/* Of the disk as it is: it becomes zeroes as the limits say. */
static void zero_all(struct img *img, struct watch *w, unsigned flags, const char *label)
{
	struct img_limits l;
	uint64_t step;
	int rc;

	cr_assert_eq(img_get_limits(img, &l, sizeof(l), NULL), 0);
	step = max_u64(l.zero_granularity, 64 << 10);
	w->n = 0;
	for (uint64_t at = 0; at < DISK; at += step) {
		rc = img_zero_with(img, at, min_u64(step, DISK - at), IMG_SUBMIT_FAST | flags,
				   NULL);
		cr_assert(!rc || (rc == -ENOTSUP && !(l.flags & IMG_LIMIT_FAST_ZERO)), "%s at %d: %d", label,
			  (int)at, rc);
		if (rc)
			continue;
		cr_assert_eq(img_read(img, at, bytes, min_u64(step, DISK - at), NULL), 0);
		cr_assert(is_zero(min_u64(step, DISK - at)), "%s at %d", label, (int)at);
	}
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_leq(bytes_written(w), METADATA_MAX, "%s: %d bytes", label, (int)bytes_written(w));
}

static void fill(struct img *img, struct watch *w, const char *label)
{
	memset(bytes, 0xaa, DISK);
	for (uint64_t at = 0; at < DISK; at += 1 << 20, w->n = 0)
		cr_assert_eq(img_write(img, at, bytes, 1 << 20, NULL), 0, "%s", label);
}

static const struct {
	const char *format, *options;
	bool child;
	enum { NEVER,
	       IN_PLACE,
	       ALWAYS } fast;
	bool discard;
} rows[] = {
	{ "qcow2", NULL, false, ALWAYS, true },
	{ "qcow2", NULL, true, ALWAYS, true },
	{ "qcow2", "compat=0.10", false, NEVER, false },
	{ "vdi", NULL, false, IN_PLACE, true },
	{ "vdi", NULL, true, IN_PLACE, false },
	{ "vdi", "static=on", false, IN_PLACE, true },
	{ "qed", "table_size=2", false, IN_PLACE, true },
	{ "qed", "cluster_size=4k,table_size=2", true, IN_PLACE, false },
	{ "qcow", NULL, false, IN_PLACE, true },
	{ "qcow", NULL, true, NEVER, false },
	{ "vpc", "force_size=on", false, IN_PLACE, true },
	{ "vpc", "force_size=on,block_size=64k", false, IN_PLACE, true },
	{ "vpc", "force_size=on,subformat=fixed", false, IN_PLACE, true },
	{ "vpc", "block_size=64k", true, IN_PLACE, false },
	{ "vhdx", "block_size=1M", false, IN_PLACE, true },
	{ "vhdx", "block_size=1M,subformat=fixed", false, IN_PLACE, true },
	{ "vhdx", "block_size=1M,logical_sector_size=4096", false, IN_PLACE, true },
	{ "vhdx", "block_size=1M", true, IN_PLACE, false },
	{ "vmdk", NULL, false, ALWAYS, true },
	{ "vmdk", NULL, true, NEVER, false },
	{ "vmdk", "zeroed_grain=on", false, ALWAYS, true },
	{ "vmdk", "zeroed_grain=on", true, ALWAYS, false },
	{ "parallels", NULL, false, ALWAYS, true },
	{ "raw", NULL, false, IN_PLACE, true },
};

static void try_row(size_t row, bool fast, bool filled)
{
	const char *format = rows[row].format, *list[] = { rows[row].options, NULL };
	struct img_create_options o = { .format = format, .options = list };
	struct watch *w = calloc(1, sizeof(*w));
	struct img_error *err = img_error_new();
	struct img_limits l;
	unsigned expected;
	struct img *img;
	char label[200];

	snprintf(label, sizeof(label), "%s %s%s%s%s", format, list[0] ? list[0] : "",
		 rows[row].child ? ", a child" : "", fast ? ", fast" : "", filled ? ", filled" : "");
	if (rows[row].child) {
		make_image("base", format, DISK, NULL, NULL);
		img = must_open("base", format, IMG_OPEN_WRITE);
		fill(img, w, label);
		must_close(img);
		o.backing_name = "base";
		o.backing_format = format;
	} else {
		o.have_size = true;
		o.size = DISK;
	}
	cr_assert_eq(img_create("image", &o, err), 0, "%s: %s", label, img_error_text(err));
	img = open_watched(w, format, fast);
	cr_assert_eq(img_get_limits(img, &l, sizeof(l), NULL), 0);
	expected = rows[row].fast == ALWAYS || (rows[row].fast == IN_PLACE && fast)
			   ? IMG_LIMIT_FAST_ZERO
			   : 0;
	expected |= rows[row].discard ? IMG_LIMIT_DISCARD_ZEROES : 0;
	cr_assert_eq(l.flags & (IMG_LIMIT_FAST_ZERO | IMG_LIMIT_DISCARD_ZEROES), expected, "%s: %#x", label,
		     l.flags);
	if (filled)
		fill(img, w, label);
	zero_all(img, w, filled ? 0 : IMG_SUBMIT_MAY_UNMAP, label);
	fill(img, w, label);
	cr_assert_eq(img_flush(img, NULL), 0);
	zero_all(img, w, filled ? IMG_SUBMIT_MAY_UNMAP : 0, label);
	fill(img, w, label);
	for (uint64_t at = 0; at < DISK; at += max_u64(l.discard_granularity, 1 << 20)) {
		uint64_t n = min_u64(max_u64(l.discard_granularity, 1 << 20), DISK - at);

		cr_assert_eq(img_discard(img, at, n, NULL), 0);
		cr_assert_eq(img_read(img, at, bytes, n, NULL), 0);
		cr_assert(is_zero(n) || !rows[row].discard, "%s at %d: discarded", label, (int)at);
	}
	zero_all(img, w, IMG_SUBMIT_MAY_UNMAP, label);
	must_close(img);
	unlink("image");
	unlink("base");
	img_error_free(err);
	free(w);
}

Test(zeroing, fast_or_not_at_all)
{
	for (size_t row = 0; row < COUNT(rows); row++)
		for (unsigned how = 0; how < 4; how++)
			try_row(row, how & 1, how & 2);
}
