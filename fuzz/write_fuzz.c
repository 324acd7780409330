/*
 * Writing to any bytes: the input is a list of requests and a file in memory, opened for writing as
 * qcow2 or VMDK. What a request wrote is what is read there next. An image in which the check
 * finds nothing wrong is sound afterwards too, and holds in every byte what a flat copy does.
 *
 *	byte 0		bit 0: VMDK, else qcow2; bit 1: freed space is given back
 *	byte 1		number of requests, 16 at most
 *	4 bytes each	what it is (bit 7: anywhere in the disk, else near its start), length, offset
 *	the rest	the file
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/image/context.h"

enum {
	REQUESTS = 16,
	REQUEST_BYTES = 4,
	STEP = 512,
	LEN_MAX = 2 << 20, /* the largest unit */
	MODEL_MAX = 4 << 20,
	FILE_MAX = 32 << 20,
};

enum what {
	WRITE,
	WRITE_NOISE,
	COMPRESS,
	COMPRESS_NOISE,
	ZERO,
	DISCARD,
	FLUSH,
	WRITE_UNALIGNED,
	WHATS,
};

struct writing {
	struct img *img;
	struct img_queue *q;
	struct img_error *err;
	uint8_t *model; /* what the disk holds; NULL: not known */
	bool sound;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(bool holds, const char *what, const char *sentence)
{
	if (!holds) {
		fprintf(stderr, "write_fuzz: %s: %s\n", what, sentence);
		abort();
	}
}

static void fill(uint8_t *data, size_t len, bool noise)
{
	uint32_t state = 0x9e3779b9;

	memset(data, 0x5a, len);
	for (size_t i = 0; noise && i < len; i++) {
		state = state * 1664525 + 1013904223;
		data[i] = (uint8_t)(state >> 24);
	}
}

struct outcome {
	int rc;
	struct img_error *err;
};

static void done(void *user, int rc, const struct img_error *err)
{
	struct outcome *o = user;

	o->rc = rc;
	if (rc)
		must(*img_error_text(err), "refused without a word", "");
}

static int compress(struct writing *w, uint64_t off, uint8_t *data, size_t len)
{
	struct iovec iov = { .iov_base = data, .iov_len = len };
	struct outcome o = { .rc = 1 };
	int rc = img_submit_writev(w->q, w->img, off, &iov, 1, IMG_SUBMIT_COMPRESS, done, &o, NULL);

	while (!rc && o.rc == 1)
		img_queue_run(w->q, true);
	return rc ? rc : o.rc;
}

/* Discarded: zeroes, or what was there. */
static void settle_discard(struct writing *w, uint64_t off, const uint8_t *now, size_t len)
{
	for (size_t i = 0; w->model && i < len; i++)
		must(!now[i] || now[i] == w->model[off + i], "discard",
		     "neither zeroes nor what was there");
	if (w->model)
		memcpy(w->model + off, now, len);
}

static void request(struct writing *w, const uint8_t *bytes)
{
	static uint8_t data[LEN_MAX], now[LEN_MAX];
	enum what what = bytes[0] % WHATS;
	uint64_t size = img_size(w->img), unit = img_unit_bytes(w->img);
	uint64_t off = le16_load(bytes + 2);
	size_t len = (size_t)(bytes[1] % 160 + 1) * STEP;
	int rc = 0;

	off = bytes[0] & 0x80 ? size / 65536 * off : off * STEP;
	off = align_down_u64(off % size, STEP);
	if (what == WRITE_UNALIGNED) {
		off += bytes[1] % 7;
		len += bytes[1] % 5;
	}
	if (what == COMPRESS || what == COMPRESS_NOISE) {
		off = align_down_u64(off, unit);
		if (unit > LEN_MAX || unit > size - off)
			return;
		len = (size_t)unit;
	}
	if (off >= size)
		return;
	len = (size_t)min_u64(len, size - off);
	fill(data, len, what == WRITE_NOISE || what == COMPRESS_NOISE);
	if (what == FLUSH)
		rc = img_flush(w->img, w->err);
	else if (what == ZERO)
		rc = img_zero(w->img, off, len, w->err);
	else if (what == DISCARD)
		rc = img_discard(w->img, off, len, w->err);
	else if (what == COMPRESS || what == COMPRESS_NOISE)
		rc = compress(w, off, data, len);
	else
		rc = img_write(w->img, off, data, len, w->err);
	if (what == FLUSH)
		return;
	if (what == ZERO)
		memset(data, 0, len);
	if (rc == -ENOTSUP) /* compressed, where the format cannot */
		return;
	if (rc) { /* some of it may have been done */
		free(w->model);
		w->model = NULL;
		return;
	}
	rc = img_read(w->img, off, now, len, w->err);
	must(!rc || !w->sound, "cannot be read again", img_error_text(w->err));
	if (rc)
		return;
	if (what == DISCARD) {
		settle_discard(w, off, now, len);
		return;
	}
	/* In a damaged image units may be one and the same: then they must hold the same. */
	must((what == WRITE_NOISE && !w->sound) || !memcmp(now, data, len), "read again",
	     "not what was written");
	if (w->model)
		memcpy(w->model + off, data, len);
}

static void print(void *user, const char *line)
{
	(void)user;
	fprintf(stderr, "write_fuzz: check: %s\n", line);
}

/*
 * Leaks are allowed: counts of clusters past the end of the file, which no check looks at, become
 * leaks when the file grows over them.
 */
static bool is_sound(struct writing *w, bool say)
{
	struct img_check_result r = { 0 };
	int rc = img_check(w->img, 0, say ? print : NULL, NULL, &r, w->err);

	return rc ? rc == -ENOTSUP : !r.corruptions && !r.check_errors;
}

/* What the disk holds. NULL: too much, or not readable. */
static uint8_t *read_disk(struct writing *w)
{
	size_t size = (size_t)img_size(w->img);
	uint8_t *bytes;

	if (img_size(w->img) > MODEL_MAX)
		return NULL;
	bytes = malloc(size ? size : 1);
	must(bytes, "no memory", "");
	if (!img_read(w->img, 0, bytes, size, w->err))
		return bytes;
	free(bytes);
	return NULL;
}

/* Have all entries of a qcow2 table that name a cluster the copied flag (bit 63)? */
static bool all_copied(const uint8_t *bytes, size_t len, uint64_t off, uint64_t n, size_t step)
{
	if (n > len / step || !range_in(off, n * step, len))
		return false;
	for (uint64_t i = 0; i < n; i++) {
		uint64_t entry = be64_load(bytes + off + i * step);

		if (entry > 1 && !(entry >> 62)) /* 1: zeroes; bit 62: compressed */
			return false;
	}
	return true;
}

/*
 * The qcow2 check compares counts, so it is content with a table that lies in another one as long as
 * both are counted. Whatever has the copied flag is counted once.
 */
static bool is_plain_qcow2(const uint8_t *bytes, size_t len)
{
	size_t step = len > 80 && bytes[79] & 16 ? 16 : 8; /* extended L2 entries */
	uint64_t l1_off, n, cluster;

	if (len < 104 || bytes[23] > 21 || (be32_load(bytes + 4) > 2 && bytes[79] & 1))
		return false;
	cluster = UINT64_C(1) << bytes[23];
	n = be32_load(bytes + 36);
	l1_off = be64_load(bytes + 40);
	if (!all_copied(bytes, len, l1_off, n, 8))
		return false;
	for (uint64_t i = 0; i < n; i++) {
		uint64_t table = be64_load(bytes + l1_off + i * 8) & UINT64_C(0x00fffffffffffe00);

		if (table && !all_copied(bytes, len, table, cluster / step, step))
			return false;
	}
	return true;
}

static void write_around(struct writing *w, bool plain, const uint8_t *requests, unsigned n)
{
	uint8_t *after;

	w->sound = plain && is_sound(w, false);
	if (w->sound)
		w->model = read_disk(w);
	for (unsigned i = 0; i < n && img_size(w->img); i++)
		request(w, requests + (size_t)i * REQUEST_BYTES);
	if (w->sound)
		must(is_sound(w, true), "sound before, but not now", "");
	if (w->model) {
		after = read_disk(w);
		must(after, "cannot be read", img_error_text(w->err));
		must(!memcmp(after, w->model, img_size(w->img)), "the disk", "not what was written");
		free(after);
	}
	free(w->model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct img_queue *q;
	struct img_open_options options = {
		.flags = IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING,
		.references = "none",
		.io = IMG_IO_THREADS,
	};
	struct writing w = { .err = img_error_new() };
	struct img_storage *s;
	bool plain;
	unsigned n;

	if (len < 2 || (n = data[1] % (REQUESTS + 1)) * REQUEST_BYTES > len - 2)
		goto out;
	if (!q)
		must(!img_queue_new(IMG_IO_THREADS, &q, NULL), "no queue", "");
	w.q = q;
	options.format = data[0] & 1 ? "vmdk" : "qcow2";
	if (data[0] & 2)
		options.flags |= IMG_OPEN_UNMAP;
	must(!img_storage_memory("input", 0, FILE_MAX, &s), "no memory", "");
	data += 2;
	len -= 2 + n * REQUEST_BYTES;
	plain = !strcmp(options.format, "vmdk") || is_plain_qcow2(data + n * REQUEST_BYTES, len);
	must(!len || !img_storage_write(s, 0, data + n * REQUEST_BYTES, len, NULL), "no memory", "");
	if (img_open_storage(s, "/nowhere/input", &options, &w.img, w.err)) {
		must(*img_error_text(w.err), "refused without a word", "");
		goto out;
	}
	write_around(&w, plain, data, n);
	img_close(w.img, w.err);
out:
	img_error_free(w.err);
	return 0;
}
