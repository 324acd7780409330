/*
 * See workload.h. Each write stamps its sectors with a number of its own, so that a sector tells
 * who wrote it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "tests/support/workload.h"

enum {
	BATCH = 6,
	CHURN_BYTES = 192 << 10,
	RUN_SECTORS = 32, /* with one stamp, in a compressed write: at most */
	MAX_DEED = 160 << 10,
	READ_BYTES = 1 << 20,
};

static void *must(void *p)
{
	if (!p) {
		fprintf(stderr, "out of memory\n");
		abort();
	}
	return p;
}

uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* ---- Flat files ---- */

void flat_resize(struct flat *f, size_t size)
{
	if (size > f->room) {
		f->room = size * 2;
		f->bytes = must(realloc(f->bytes, f->room));
	}
	if (size > f->size)
		memset(f->bytes + f->size, 0, size - f->size);
	f->size = size;
}

void flat_copy(struct flat *to, const struct flat *from)
{
	to->size = 0;
	flat_resize(to, from->size);
	if (from->size)
		memcpy(to->bytes, from->bytes, from->size);
}

void flat_load(struct flat *f, const char *path)
{
	FILE *in = fopen(path, "re");
	long size;

	if (!in || fseek(in, 0, SEEK_END) || (size = ftell(in)) < 0) {
		perror(path);
		exit(2);
	}
	rewind(in);
	flat_resize(f, (size_t)size);
	if (fread(f->bytes, 1, f->size, in) != f->size) {
		perror(path);
		exit(2);
	}
	fclose(in);
}

void flat_save(const struct flat *f, const char *path)
{
	FILE *out = fopen(path, "we");

	if (!out || fwrite(f->bytes, 1, f->size, out) != f->size || fclose(out)) {
		perror(path);
		exit(2);
	}
}

void flat_apply(struct flat *f, const struct img_record_entry *entry)
{
	switch (entry->kind) {
	case IMG_RECORD_WRITE:
		if (entry->off + entry->len > f->size)
			flat_resize(f, (size_t)(entry->off + entry->len));
		memcpy(f->bytes + entry->off, entry->data, (size_t)entry->len);
		break;
	case IMG_RECORD_ZERO:
		if (entry->off + entry->len > f->size)
			flat_resize(f, (size_t)(entry->off + entry->len));
		memset(f->bytes + entry->off, 0, (size_t)entry->len);
		break;
	case IMG_RECORD_RESIZE:
		flat_resize(f, (size_t)entry->len);
		break;
	case IMG_RECORD_REPLACE:
		flat_resize(f, (size_t)entry->len);
		memcpy(f->bytes, entry->data, (size_t)entry->len);
		break;
	case IMG_RECORD_SYNC:
	case IMG_RECORD_SYNC_FAILED:
		break;
	}
}

struct img_storage *flat_storage(const struct flat *f, const char *name)
{
	struct img_storage *s;

	if (img_storage_memory(name, f->size, UINT64_MAX / 4, &s) ||
	    (f->size && img_storage_write(s, 0, f->bytes, f->size, NULL)))
		must(NULL);
	return s;
}

/* ---- The workload ---- */

void workload_init(struct workload *w, struct img *img)
{
	struct img_error *err = img_error_new();

	memset(w, 0, sizeof(*w));
	w->size = img_size(img);
	w->before = must(malloc(w->size));
	w->flushed = must(malloc(w->size));
	w->last = must(calloc(w->size / SECTOR + 1, sizeof(*w->last)));
	for (uint64_t off = 0; off < w->size; off += READ_BYTES) {
		size_t len = (size_t)min_u64(READ_BYTES, w->size - off);

		if (img_read(img, off, w->before + off, len, err)) {
			fprintf(stderr, "%s\n", img_error_text(err));
			exit(2);
		}
	}
	img_error_free(err);
	workload_rewind(w);
}

void workload_free(struct workload *w)
{
	free(w->before);
	free(w->flushed);
	free(w->last);
	free(w->deed);
	free(w->durable);
	free(w->sentence);
	memset(w, 0, sizeof(*w));
}

void workload_rewind(struct workload *w)
{
	memcpy(w->flushed, w->before, w->size);
	w->applied = 0;
}

static void note(struct workload *w, uint64_t off, uint64_t len, uint64_t stamp, size_t mark)
{
	if (w->deeds == w->deeds_room) {
		w->deeds_room = w->deeds_room ? w->deeds_room * 2 : 256;
		w->deed = must(reallocarray(w->deed, w->deeds_room, sizeof(*w->deed)));
	}
	w->deed[w->deeds++] = (struct deed){
		.off = off,
		.len = len,
		.stamp = stamp,
		.mark = mark,
		.sure = SIZE_MAX,
	};
}

static void note_failure(struct workload *w, int rc, const struct img_error *err)
{
	w->refused++;
	if (!w->rc) {
		w->rc = rc;
		w->sentence = must(strdup(img_error_text(err)));
	}
}

struct flight {
	struct workload *w;
	bool discard, compress, fua;
	size_t deed, deeds; /* its own: from, how many */
	const struct img_record *record;
	uint64_t off, len;
	size_t mark;
	struct iovec iov;
	uint8_t *data;
};

static void completed(void *user, int rc, const struct img_error *err)
{
	struct flight *f = user;

	for (size_t i = 0; !rc && f->fua && !f->discard && i < f->deeds; i++) /* a discard may do nothing */
		f->w->deed[f->deed + i].sure = img_record_count(f->record);
	if (!rc)
		return;
	f->w->trusting = false; /* it may have come or not */
	note_failure(f->w, rc, err);
}

static bool overlaps(const struct flight *flight, int n, uint64_t off, uint64_t len)
{
	for (int i = 0; i < n; i++) {
		if (ranges_overlap(flight[i].off, flight[i].len, off, len))
			return true;
	}
	return false;
}

/* Fill [at, at + len) of the data with a stamp, and note that as a deed of its own. */
static void stamp(struct flight *f, uint64_t at, uint64_t len)
{
	/* The high bytes tell a stamp from any other content. */
	uint64_t number = (f->w->deeds + 1) | 0xa5c3000000000000;

	for (uint64_t i = at; i < at + len; i += 8)
		le64_store(f->data + i, number);
	note(f->w, f->off + at, len, number, f->mark);
}

/* The more stamps, the longer what is stored: from some bytes to a fourth of the unit. */
static int submit_compressed(struct img_queue *q, struct img *img, struct flight *f,
			     uint64_t *random)
{
	uint64_t most = next_random(random) % RUN_SECTORS + 1;

	for (uint64_t at = 0, len; at < f->len; at += len) {
		len = min_u64((next_random(random) % most + 1) * SECTOR, f->len - at);
		stamp(f, at, len);
	}
	f->iov = (struct iovec){ .iov_base = f->data, .iov_len = f->len };
	return img_submit_writev(q, img, f->off, &f->iov, 1,
				 IMG_SUBMIT_COMPRESS | (f->fua ? IMG_SUBMIT_FUA : 0), completed, f,
				 NULL);
}

static int submit(struct img_queue *q, struct img *img, struct flight *f, uint64_t *random)
{
	uint64_t pick = next_random(random) % 100, writes = f->w->churn ? 50 : 75;
	unsigned flags = f->fua ? IMG_SUBMIT_FUA : 0;

	f->discard = !f->compress && pick >= (f->w->churn ? 70 : 90);
	if (f->compress)
		return submit_compressed(q, img, f, random);
	if (pick < writes) {
		stamp(f, 0, f->len);
		f->iov = (struct iovec){ .iov_base = f->data, .iov_len = f->len };
		return img_submit_writev(q, img, f->off, &f->iov, 1, flags, completed, f, NULL);
	}
	if (!f->discard) {
		note(f->w, f->off, f->len, 0, f->mark);
		flags |= pick % 2 ? IMG_SUBMIT_MAY_UNMAP : IMG_SUBMIT_KEEP_ALLOCATED;
		return img_submit_zero(q, img, f->off, f->len, flags, completed, f, NULL);
	}
	note(f->w, f->off, f->len, 0, f->mark);
	return img_submit_discard(q, img, f->off, f->len, flags, completed, f, NULL);
}

/* True: for a compressed write. */
static bool choose(const struct workload *w, const struct img *img, uint64_t *random, uint64_t *off,
		   uint64_t *len)
{
	uint64_t unit = img_unit_bytes(img), pick = next_random(random) % 10;
	uint64_t most = MAX_DEED, size = w->size;

	if (w->churn)
		size = min_u64(size, CHURN_BYTES);
	if (pick < 9)
		most = min_u64(pick < 6 ? 4096 : unit * 3, MAX_DEED);
	most = min_u64(most, size);
	*len = (1 + next_random(random) % (most / SECTOR)) * SECTOR;
	*off = next_random(random) % ((size - *len) / SECTOR + 1) * SECTOR;
	if (pick == 9 || (w->churn && pick > 4)) { /* whole units */
		*off = align_down_u64(*off, unit);
		*len = min_u64(round_up_u64(*len, unit), w->size - *off);
		*len = min_u64(*len, MAX_DEED);
	}
	if (!w->compress || unit > min_u64(w->size, MAX_DEED) || next_random(random) % 3)
		return false;
	*off = min_u64(align_down_u64(*off, unit), align_down_u64(w->size - unit, unit));
	*len = unit;
	return true;
}

/*
 * After discards: what did they leave? A discarded sector that is not zeroes was left as it was,
 * which is noted as if it had been written again.
 */
static void settle_discards(struct workload *w, struct img *img, struct flight *flight, int n)
{
	for (int i = 0; i < n; i++) {
		struct flight *f = &flight[i];
		struct img_error *err = img_error_new();

		int rc = f->discard ? img_read(img, f->off, f->data, f->len, err) : 0;

		if (rc)
			note_failure(w, rc, err);
		for (uint64_t at = 0; !rc && f->discard && at < f->len; at += SECTOR) {
			if (le64_load(f->data + at))
				note(w, f->off + at, SECTOR, le64_load(f->data + at), f->mark);
		}
		img_error_free(err);
	}
}

static void note_durable(struct workload *w, const struct img_record *record, size_t deeds)
{
	if (w->durables == w->durables_room) {
		w->durables_room = w->durables_room ? w->durables_room * 2 : 64;
		w->durable = must(reallocarray(w->durable, w->durables_room, sizeof(*w->durable)));
	}
	w->durable[w->durables++] = (struct durable){
		.mark = img_record_count(record),
		.deeds = deeds,
	};
}

void workload_all_durable(struct workload *w, const struct img_record *record)
{
	note_durable(w, record, w->deeds);
}

void workload_run(struct workload *w, struct img *img, const struct img_record *record,
		  uint64_t seed, size_t count, bool stop)
{
	struct img_error *err = img_error_new();
	struct flight flight[BATCH] = { 0 };
	uint64_t random = seed * 0x9e3779b97f4a7c15 | 1;
	struct img_queue *q;

	if (img_queue_new(IMG_IO_THREADS, &q, err)) {
		fprintf(stderr, "%s\n", img_error_text(err));
		exit(2);
	}
	for (int i = 0; i < BATCH; i++)
		flight[i].data = must(malloc(MAX_DEED));
	for (size_t done = 0; done < count && !(stop && w->rc);) {
		int n = 0, wanted = 1 + (int)(next_random(&random) % BATCH);

		while (n < wanted && done < count) {
			struct flight *f = &flight[n];
			uint64_t off, len;

			f->compress = choose(w, img, &random, &off, &len);
			if (overlaps(flight, n, off, len))
				break;
			f->w = w;
			f->off = off;
			f->len = len;
			f->mark = img_record_count(record);
			f->record = record;
			f->fua = next_random(&random) % 4 == 0;
			f->deed = w->deeds;
			f->deeds = 0;
			if (submit(q, img, f, &random))
				must(NULL);
			f->deeds = w->deeds - f->deed;
			n++;
			done++;
		}
		while (img_queue_in_flight(q) > 0)
			img_queue_run(q, true);
		settle_discards(w, img, flight, n);
		if (next_random(&random) % 3 == 0) {
			size_t deeds = w->deeds;
			int rc = img_flush(img, err);

			if (rc) {
				note_failure(w, rc, err);
				continue;
			}
			/* What failed may come or not: nothing is certain any more. */
			if (w->rc && !w->trusting)
				continue;
			note_durable(w, record, deeds);
		}
	}
	for (int i = 0; i < BATCH; i++)
		free(flight[i].data);
	img_queue_free(q);
	img_error_free(err);
}

/* ---- The judgement ---- */

static void redo(struct workload *w, const struct deed *d)
{
	for (uint64_t at = 0; at < d->len; at += 8)
		le64_store(w->flushed + d->off + at, d->stamp);
}

static bool is_stamped(const uint8_t *sector, uint64_t stamp)
{
	return le64_load(sector) == stamp && !memcmp(sector, sector + 8, SECTOR - 8);
}

static bool is_possible(const struct workload *w, size_t first, size_t cut, uint64_t off,
			const uint8_t *sector)
{
	for (size_t i = first; i < w->deeds; i++) {
		const struct deed *d = &w->deed[i];

		if (d->mark <= cut && off >= d->off && off < d->off + d->len &&
		    is_stamped(sector, d->stamp))
			return true;
	}
	return false;
}

/* Find of each sector the last request since `certain` that was done, and durable by itself. */
static void find_sure(struct workload *w, size_t certain, size_t cut)
{
	memset(w->last, 0, w->size / SECTOR * sizeof(*w->last));
	for (size_t i = certain; i < w->deeds; i++) {
		const struct deed *d = &w->deed[i];

		for (uint64_t at = 0; d->sure <= cut && at < d->len; at += SECTOR)
			w->last[(d->off + at) / SECTOR] = i + 1;
	}
}

/* Is it as at the last flush, if nothing was durable by itself since then? */
static bool is_expected(const struct workload *w, uint64_t off, const uint8_t *sector)
{
	size_t last = w->last[off / SECTOR];

	return last ? is_stamped(sector, w->deed[last - 1].stamp)
		    : !memcmp(sector, w->flushed + off, SECTOR);
}

int workload_judge(struct workload *w, struct img *img, size_t cut, struct img_error *err)
{
	static uint8_t buf[READ_BYTES];
	size_t certain = 0;

	for (size_t i = 0; i < w->durables && w->durable[i].mark <= cut; i++)
		certain = w->durable[i].deeds;
	while (w->applied < certain)
		redo(w, &w->deed[w->applied++]);
	find_sure(w, certain, cut);
	for (uint64_t off = 0; off < w->size; off += READ_BYTES) {
		size_t len = (size_t)min_u64(READ_BYTES, w->size - off);
		int rc = img_read(img, off, buf, len, err);

		if (rc)
			return rc;
		for (size_t at = 0; at < len; at += SECTOR) {
			size_t last = w->last[(off + at) / SECTOR];

			if (!is_expected(w, off + at, buf + at) &&
			    !is_possible(w, last ? last : certain, cut, off + at, buf + at))
				return img_fail(err, -EBADMSG,
						"sector at %" PRIu64 " begins with %016" PRIx64
						", flushed was %016" PRIx64 ", durable by itself %016" PRIx64
						", and no request since then wrote that",
						off + at, be64_load(buf + at),
						be64_load(w->flushed + off + at),
						last ? w->deed[last - 1].stamp : 0);
		}
	}
	return 0;
}

void lines_add(void *user, const char *line)
{
	struct lines *lines = user;
	char *text;

	if (asprintf(&text, "%s  %s\n", lines->text ? lines->text : "", line) < 0)
		must(NULL);
	free(lines->text);
	lines->text = text;
}

unsigned lines_not_closed(const struct lines *lines)
{
	unsigned n = 0;

	for (const char *at = lines->text; at && (at = strstr(at, NOT_CLOSED)); at++)
		n++;
	return n;
}
