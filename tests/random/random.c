/*
 * random IMAGE MODEL [KEY=VALUE...]: random requests on an image, compared with a flat copy.
 *
 * MODEL is a raw file with what IMAGE holds; at the end it is rewritten with what IMAGE should
 * hold then, so that another program can compare. Keys:
 *
 *	format=NAME	of IMAGE (qcow2)
 *	seconds=N	how long (1)
 *	seed=N		what to do (1)
 *	io=uring|threads|auto
 *	threads=N	each with a queue of its own, 16 requests in flight (2); besides them
 *			one makes blocking calls
 *	compress=1	compressed writes too
 *	resize=1	another thread makes the disk larger and smaller again meanwhile
 *	check=1		... and checks the image, which must find nothing
 *	chain=1		... and makes images below it writable and read-only again, replaces
 *			them by others of the same content, and stores the name of the one below
 *	overlap=1	requests in flight may overlap: each sector must then hold what one wrote
 *	child=FILE	an empty qcow2 image over IMAGE: all reading goes through it
 *	beside=NAME	another handle reads NAME, which is IMAGE, force-shared, again and again: it must
 *			find what was there before in some units, which nobody writes to meanwhile
 *	beside_model=F	... and all of F, whatever is written: NAME is a snapshot inside IMAGE
 *	references=...	as in struct img_open_options
 *	flags=N		IMG_OPEN_* besides WRITE
 *	secret=TEXT	the passphrase of encrypted images
 *
 * Several times in between everything is written out, the image closed, opened again, checked and
 * read from beginning to end.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/engine/driver.h"
#include "libimg/img.h"
#include "tests/support/passphrase.h"

enum {
	THREADS_MAX = 8,
	IN_FLIGHT = 16,
	MAX_BYTES = 2 << 20,
	SECTOR = 512,
	IOVS = 4,
	PHASES = 4,
};

enum op {
	READ,
	WRITE,
	COMPRESS,
	ZERO,
	DISCARD,
	READ_BACK,
	FLUSH,
	MAP,
};

static const char *const op_name[] = {
	[READ] = "read",
	[WRITE] = "write",
	[COMPRESS] = "compressed write",
	[ZERO] = "zero",
	[DISCARD] = "discard",
	[READ_BACK] = "read after discard",
	[FLUSH] = "flush",
	[MAP] = "map",
};

struct worker;

struct request {
	struct worker *worker;
	bool busy;
	enum op op;
	uint64_t off, len;
	uint8_t *data; /* MAX_BYTES */
	struct iovec iov[IOVS];
	unsigned flags; /* IMG_SUBMIT_* */
};

struct worker {
	pthread_t thread;
	uint64_t random;
	struct img_queue *queue;
	struct request request[IN_FLIGHT];
};

/* With overlap: a write of the past that a sector may come from. */
struct stamp {
	uint64_t off, len;
	bool zero;
};

static struct {
	struct img *img;
	struct img *reader; /* img, or the child */
	struct img_open_options options;
	const char *path, *child;
	uint8_t *model;
	uint64_t size, unit;
	bool overlap, compress, resize, check, chain;
	const char *beside; /* NULL: nobody reads beside */
	uint8_t *beside_model;
	uint64_t beside_size;
	/* Nobody writes here; the other handle reads it. Fixed during a phase. */
	uint64_t untouched_off, untouched_end;
	uint64_t beside_opened, beside_refused, beside_reads;
	struct worker worker[THREADS_MAX + 1]; /* the last that is used makes blocking calls */
	unsigned threads;
	double until;
	/* Under the mutex: claims of requests in flight, counts, stamps. */
	pthread_mutex_t mutex;
	uint64_t done, failures;
	struct stamp *stamp;
	size_t stamps, stamps_max;
} run = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void complain(const struct request *r, const char *what)
{
	pthread_mutex_lock(&run.mutex);
	if (run.failures++ < 10)
		fprintf(stderr, "random: %s %" PRIu64 "+%" PRIu64 ": %s\n", op_name[r->op], r->off,
			r->len, what);
	pthread_mutex_unlock(&run.mutex);
}

/* ---- Choosing ---- */

/* Claim [off, off + len) for r, unless someone has a part of it. */
static bool claim(struct request *r, uint64_t off, uint64_t len)
{
	bool is_free = true;

	pthread_mutex_lock(&run.mutex);
	for (unsigned t = 0; t <= run.threads && is_free && !run.overlap; t++) {
		for (unsigned i = 0; i < IN_FLIGHT && is_free; i++) {
			const struct request *o = &run.worker[t].request[i];

			is_free = !o->busy || off >= o->off + o->len || o->off >= off + len;
		}
	}
	if (is_free) {
		r->off = off;
		r->len = len;
		r->busy = true;
	}
	pthread_mutex_unlock(&run.mutex);
	return is_free;
}

static void unclaim(struct request *r)
{
	pthread_mutex_lock(&run.mutex);
	r->busy = false;
	run.done++;
	pthread_mutex_unlock(&run.mutex);
}

/* Small and large, aligned and not, and often near to each other so that units are shared. */
static void choose_range(uint64_t *state, uint64_t *off, uint64_t *len)
{
	uint64_t pick = next_random(state) % 100, grain = 1;
	uint64_t most = MAX_BYTES;

	if (pick < 90)
		most = pick < 50 ? 4096 : 65536;
	if (run.overlap || next_random(state) % 2)
		grain = SECTOR;
	most = min_u64(most, run.size);
	*len = (1 + next_random(state) % (most / grain)) * grain;
	*off = next_random(state) % ((run.size - *len) / grain + 1) * grain;
	if (next_random(state) % 2) /* the hot part */
		*off = min_u64(*off % (1 << 20) / grain * grain, (run.size - *len) / grain * grain);
	if (next_random(state) % 16 == 0) { /* whole units */
		*off = *off / run.unit * run.unit;
		*len = min_u64(align_down_u64(*len + run.unit, run.unit), run.size - *off);
		*len = min_u64(*len, MAX_BYTES);
	}
}

static enum op choose_op(uint64_t *state)
{
	uint64_t pick = next_random(state) % 100;

	if (pick < 31)
		return READ;
	if (pick < 35)
		return MAP;
	if (pick < 78)
		return WRITE;
	if (pick < 88)
		return ZERO;
	if (pick < 92)
		return run.overlap ? READ : DISCARD;
	if (pick < 95)
		return FLUSH;
	return run.compress ? COMPRESS : WRITE;
}

/* With overlap: remember what a sector may hold. Returns the number to stamp sectors with. */
static uint64_t new_stamp(const struct request *r)
{
	uint64_t number = 0;

	pthread_mutex_lock(&run.mutex);
	if (run.stamps == run.stamps_max) {
		run.stamps_max = run.stamps_max ? run.stamps_max * 2 : 1024;
		run.stamp = realloc(run.stamp, run.stamps_max * sizeof(*run.stamp));
		if (!run.stamp)
			abort();
	}
	number = run.stamps++;
	run.stamp[number] = (struct stamp){
		.off = r->off,
		.len = r->len,
		.zero = r->op != WRITE && r->op != COMPRESS,
	};
	pthread_mutex_unlock(&run.mutex);
	return number;
}

static void fill(struct request *r, uint64_t *state)
{
	if (run.overlap) {
		uint64_t number = new_stamp(r);

		for (uint64_t at = 0; at < r->len; at += 8)
			le64_store(r->data + at, number + 1);
		return;
	}
	uint64_t value = next_random(state);

	for (uint64_t at = 0; at < r->len; at++)
		r->data[at] = (uint8_t)(value >> (at % 8 * 8));
	if (value % 8 == 0) /* zeroes written as data */
		memset(r->data, 0, r->len);
	if (value % 8 == 1 && r->op == COMPRESS) { /* what does not shrink, at its begin or all */
		uint64_t noise = value % 16 == 1 ? r->len : 1 + value / 16 % r->len;

		for (uint64_t at = 0; at + 8 <= noise; at += 8)
			le64_store(r->data + at, next_random(state));
	}
}

static int split(struct request *r, uint64_t *state)
{
	uint64_t at = 0;
	int n = 0;

	while (at < r->len) {
		uint64_t left = r->len - at;
		uint64_t take = n == IOVS - 1 ? left : 1 + next_random(state) % left;

		r->iov[n++] = (struct iovec){ .iov_base = r->data + at, .iov_len = take };
		at += take;
	}
	return n;
}

/* ---- Doing ---- */

static int submit(struct request *r);
static img_map_fn kept;

static void finished(void *user, int rc, const struct img_error *err)
{
	struct request *r = user;

	if (rc == -ENOTSUP && (r->flags & IMG_SUBMIT_FAST)) {
		r->op = run.overlap ? r->op : DISCARD; /* some of it is zeroes, or nothing */
		rc = 0;
	}
	if (rc) {
		complain(r, img_error_text(err));
		unclaim(r);
		return;
	}
	switch (r->op) {
	case READ:
		if (!run.overlap && memcmp(r->data, run.model + r->off, r->len))
			complain(r, "wrong data");
		break;
	case WRITE:
	case COMPRESS:
		if (!run.overlap)
			memcpy(run.model + r->off, r->data, r->len);
		break;
	case ZERO:
		if (!run.overlap)
			memset(run.model + r->off, 0, r->len);
		if (run.overlap || !(r->flags & IMG_SUBMIT_KEEP_ALLOCATED))
			break;
		rc = img_submit_map(r->worker->queue, run.img, r->off, r->len, 0, 1000, kept, r,
				    NULL);
		if (!rc)
			return;
		complain(r, "cannot be submitted");
		break;
	case DISCARD: /* old bytes or zeroes: see which */
		r->op = READ_BACK;
		if (submit(r)) {
			complain(r, "cannot be submitted");
			break;
		}
		return;
	case READ_BACK:
		for (uint64_t at = 0; at < r->len; at++) {
			if (r->data[at] && r->data[at] != run.model[r->off + at]) {
				complain(r, "neither what was there nor zeroes");
				break;
			}
		}
		memcpy(run.model + r->off, r->data, r->len);
		break;
	case FLUSH:
	case MAP:
		break;
	}
	unclaim(r);
}

/* All of what was zeroed and was to stay allocated is, in the image itself. */
static void kept(void *user, int rc, const struct img_map_entry *entries, size_t count,
		 const struct img_error *err)
{
	struct request *r = user;

	for (size_t i = 0; !rc && i < count; i++) {
		if (!entries[i].present || !(entries[i].has_offset || entries[i].encrypted)) {
			complain(r, "not allocated, and was to be");
			break;
		}
	}
	if (rc)
		complain(r, img_error_text(err));
	unclaim(r);
}

/* What is said to be zeroes is, and nothing is left out. */
static void mapped(void *user, int rc, const struct img_map_entry *entries, size_t count,
		   const struct img_error *err)
{
	struct request *r = user;
	uint64_t at = r->off;

	for (size_t i = 0; !rc && i < count; i++) {
		const struct img_map_entry *e = &entries[i];

		if (e->start != at || !e->length || e->length > r->off + r->len - at) {
			complain(r, "a map with gaps");
			break;
		}
		at += e->length;
		for (uint64_t k = e->start; e->zero && !run.overlap && k < at; k++) {
			if (run.model[k]) {
				complain(r, "mapped as zeroes, which it is not");
				break;
			}
		}
	}
	if (!rc && count < 5 && at != r->off + r->len)
		complain(r, "a map that ends too early");
	finished(r, rc, err);
}

/* Durable or not, allocated or not, at any price or not. */
static void choose_flags(struct request *r, uint64_t *state)
{
	static const unsigned zero[] = { 0, IMG_SUBMIT_MAY_UNMAP, IMG_SUBMIT_KEEP_ALLOCATED };
	uint64_t pick = next_random(state);

	r->flags = 0;
	if (r->op == READ || r->op == READ_BACK || r->op == FLUSH || r->op == MAP)
		return;
	if (pick % 16 == 0)
		r->flags |= IMG_SUBMIT_FUA;
	if (pick / 16 % 8 == 0)
		r->flags |= IMG_SUBMIT_ORDERED;
	if (r->op == ZERO)
		r->flags |= zero[pick / 128 % 3] | (pick / 512 % 4 ? 0 : IMG_SUBMIT_FAST);
	if (r->op == COMPRESS)
		r->flags |= IMG_SUBMIT_COMPRESS;
}

static int submit(struct request *r)
{
	struct worker *w = r->worker;
	int iovs = split(r, &w->random);

	choose_flags(r, &w->random);

	switch (r->op) {
	case READ:
	case READ_BACK:
		return img_submit_readv(w->queue, run.reader, r->off, r->iov, iovs, 0, finished, r,
					NULL);
	case WRITE:
	case COMPRESS:
		return img_submit_writev(w->queue, run.img, r->off, r->iov, iovs, r->flags,
					 finished, r, NULL);
	case ZERO:
		return img_submit_zero(w->queue, run.img, r->off, r->len, r->flags, finished, r,
				       NULL);
	case DISCARD:
		return img_submit_discard(w->queue, run.img, r->off, r->len, r->flags, finished, r,
					  NULL);
	case MAP:
		return img_submit_map(w->queue, run.img, r->off, r->len, IMG_MAP_DEEP, 5, mapped, r,
				      NULL);
	default:
		return img_submit_flush(w->queue, run.img, finished, r, NULL);
	}
}

/*
 * The blocking calls go on at the same time, from a thread of their own: one that waits in them
 * cannot run a queue, and they may wait for what that queue has in flight.
 */
static void blocking(struct request *r)
{
	struct img_error *err = img_error_new();
	int rc;

	if (r->op == WRITE) {
		rc = img_write(run.img, r->off, r->data, r->len, err);
		if (rc == 0 && !run.overlap)
			memcpy(run.model + r->off, r->data, r->len);
	} else {
		rc = img_read(run.reader, r->off, r->data, r->len, err);
		if (rc == 0 && !run.overlap && memcmp(r->data, run.model + r->off, r->len))
			complain(r, "wrong data, blocking");
	}
	if (rc)
		complain(r, img_error_text(err));
	img_error_free(err);
	unclaim(r);
}

static bool changes(enum op op)
{
	return op == WRITE || op == COMPRESS || op == ZERO || op == DISCARD;
}

static void start(struct worker *w, struct request *r)
{
	uint64_t off, len;
	enum op op = choose_op(&w->random);

	if (!w->queue)
		op = op == WRITE ? WRITE : READ;

	choose_range(&w->random, &off, &len);
	if (op == COMPRESS) {
		off = off / run.unit * run.unit;
		len = run.unit;
		if (len > MAX_BYTES || off + len > run.size)
			return;
	} else if (op == FLUSH) {
		off = len = 0;
	}
	if (changes(op) && off < run.untouched_end && run.untouched_off < off + len)
		return;
	if (!claim(r, off, len))
		return;
	r->op = op;
	r->flags = 0;
	if (op == WRITE || op == COMPRESS)
		fill(r, &w->random);
	else if (run.overlap && op == ZERO)
		new_stamp(r);
	if (!w->queue) {
		blocking(r);
	} else if (submit(r)) {
		complain(r, "cannot be submitted");
		unclaim(r);
	}
}

static void *work(void *user)
{
	struct worker *w = user;

	while (!w->queue && now() < run.until) {
		start(w, &w->request[0]);
		usleep(500);
	}
	while (w->queue && now() < run.until) {
		for (unsigned i = 0; i < IN_FLIGHT; i++) {
			if (!w->request[i].busy)
				start(w, &w->request[i]);
		}
		img_queue_run(w->queue, true);
	}
	while (w->queue && img_queue_in_flight(w->queue) > 0)
		img_queue_run(w->queue, true);
	return NULL;
}

/* ---- Beside the requests ---- */

static void say(void *user, const char *line)
{
	(void)user;
	fprintf(stderr, "random: check: %s\n", line);
}

static int check(struct img_error *err)
{
	struct img_check_result result;
	int rc = img_check(run.img, 0, say, NULL, &result, err);

	if (rc == -ENOTSUP)
		return 0;
	if (rc == 0 && (result.corruptions || result.leaks || result.check_errors)) {
		fprintf(stderr, "random: check: %" PRIu64 " corruptions, %" PRIu64 " leaks\n",
			result.corruptions, result.leaks);
		run.failures++;
	}
	return rc;
}

/* May it be written to under one that is open above it? */
static bool may_change(const struct img *above, const struct img *img)
{
	static const char *const stamped[] = { "vmdk", "vdi", "vhdx" };

	for (unsigned i = 0; i < sizeof(stamped) / sizeof(*stamped); i++) {
		if (!strcmp(img_format(img), stamped[i]))
			return !strcmp(img_format(above), "qcow2"); /* which does not look at stamps */
	}
	return true;
}

/* The image below becomes writable, has a piece of it written as it is, and is read-only again. */
static int rewrite(struct img *above, uint64_t n, struct img_error *err)
{
	struct img *img = img_backing(above);
	uint64_t off = n * 7919 * SECTOR % (img_size(img) - 65536);
	uint8_t buf[65536];
	int rc = img_set_writable(img, true, err);

	if (rc)
		return rc;
	rc = img_read(img, off, buf, sizeof(buf), err);
	if (rc == 0 && may_change(above, img))
		rc = img_write(img, off, buf, sizeof(buf), err);
	return rc ? rc : img_set_writable(img, false, err);
}

/* What is below img is opened once more, and takes its place. */
static int replace(struct img *img, struct img_error *err)
{
	struct img_open_options options = run.options;
	struct img *backing, *removed = NULL;
	int rc;

	options.flags &= ~(unsigned)IMG_OPEN_WRITE;
	options.format = img_format(img_backing(img));
	rc = img_open(img_name(img_backing(img)), &options, &backing, err);
	if (rc)
		return rc;
	rc = img_set_backing(img, backing, &removed, err);
	if (rc)
		img_close(backing, NULL);
	return rc ? rc : img_close(removed, err);
}

static int change_chain(uint64_t n, struct img_error *err)
{
	struct img *above = run.img;
	int rc = 0;

	for (uint64_t i = n; i % 2 && img_backing(img_backing(above)); i /= 2)
		above = img_backing(above);
	if (n % 3) {
		/* A stream is for reading only. */
		rc = rewrite(above, n, err);
		if (rc == -ENOTSUP)
			rc = 0;
	}
	if (rc == 0 && n % 4 == 0)
		rc = img_set_backing_name(run.img, img_name(img_backing(run.img)),
					  img_format(img_backing(run.img)), err);
	return rc ? rc : replace(above, err);
}

/* What needs the image for itself, in a thread of its own: requests wait, and go on. */
static void *disturb(void *user)
{
	struct img_error *err = img_error_new();
	int rc = 0;

	(void)user;
	for (uint64_t n = 0; now() < run.until && rc == 0; n++) {
		uint64_t more = (n % 7 + 1) << 20;

		if (run.resize) {
			rc = img_resize(run.img, run.size + more, IMG_PREALLOCATE_OFF, err);
			if (rc == 0)
				rc = img_resize(run.img, run.size, IMG_PREALLOCATE_OFF, err);
		}
		if (run.check && rc == 0)
			rc = check(err);
		if (run.chain && rc == 0)
			rc = change_chain(n, err);
		usleep(2000);
	}
	if (rc) {
		fprintf(stderr, "random: beside requests: %s\n", img_error_text(err));
		run.failures++;
	}
	img_error_free(err);
	return NULL;
}

/* ---- From another handle ---- */

/* Some whole units, another part of the disk in each phase. */
static void choose_untouched(uint64_t *state)
{
	uint64_t unit = multiple_up_u64(65536, run.unit), units = run.size / unit, first;

	run.untouched_off = run.untouched_end = 0;
	if (!run.beside || run.beside_model || units < 3)
		return;
	first = next_random(state) % (units - 1);
	run.untouched_off = first * unit;
	run.untouched_end = min_u64(first + 1 + units / 4, units) * unit;
}

/* Read [from, to) in pieces, or some of it, and compare. */
static int read_from_beside(struct img *img, const uint8_t *model, uint64_t from, uint64_t to,
			    uint64_t *state, struct img_error *err)
{
	static uint8_t buf[1 << 20];

	for (uint64_t off = from, len; off < to; off += len) {
		int rc;

		len = min_u64(1 + next_random(state) % sizeof(buf), to - off);
		rc = img_read(img, off, buf, len, err);
		if (rc)
			return rc;
		run.beside_reads++;
		if (!memcmp(buf, model + off, len))
			continue;
		return img_fail(err, -EBADMSG, "wrong data in %" PRIu64 "+%" PRIu64, off, len);
	}
	return 0;
}

static int look_from_beside(unsigned flags, uint64_t *state, struct img_error *err)
{
	struct img_open_options options = run.options;
	struct img *img;
	int rc, closed;

	options.flags = (options.flags & IMG_OPEN_TRY_DIRECT) | flags;
	if (!strncmp(run.beside, "json:", 5))
		options.format = NULL;
	rc = img_open(run.beside, &options, &img, err);
	if (rc && flags) {
		/* What was found was between two states. */
		run.beside_refused++;
		return 0;
	}
	if (rc)
		return rc;
	run.beside_opened++;
	if (run.beside_model)
		rc = read_from_beside(img, run.beside_model, 0, run.beside_size, state, err);
	for (int i = 0; i < 3 && rc == 0; i++)
		rc = read_from_beside(img, run.model, run.untouched_off, run.untouched_end, state,
				      err);
	closed = img_close(img, rc ? NULL : err);
	/* Tables that are younger than what it knows of the file lead out of that. */
	if (rc == -EUCLEAN && flags && !run.beside_model) {
		run.beside_refused++;
		rc = 0;
	}
	return rc ? rc : closed;
}

static void *look_on(void *user)
{
	uint64_t *state = user;
	struct img_error *err = img_error_new();

	while (now() < run.until) {
		if (look_from_beside(IMG_OPEN_SHARE, state, err)) {
			fprintf(stderr, "random: beside: %s\n", img_error_text(err));
			pthread_mutex_lock(&run.mutex);
			run.failures++;
			pthread_mutex_unlock(&run.mutex);
			break;
		}
		usleep(500);
	}
	img_error_free(err);
	return NULL;
}

/* ---- Between phases ---- */

/* With overlap: what a sector holds is what one write that covers it wrote. */
static void judge_sector(uint64_t off, const uint8_t *data)
{
	static const uint8_t zeroes[SECTOR];
	uint64_t number = le64_load(data);
	bool uniform = !memcmp(data, data + 8, SECTOR - 8);

	if (!memcmp(data, run.model + off, SECTOR))
		goto settled;
	if (!memcmp(data, zeroes, SECTOR)) {
		for (size_t i = 0; i < run.stamps; i++) {
			if (run.stamp[i].zero && off >= run.stamp[i].off &&
			    off < run.stamp[i].off + run.stamp[i].len)
				goto settled;
		}
	} else if (uniform && number - 1 < run.stamps && !run.stamp[number - 1].zero &&
		   off >= run.stamp[number - 1].off &&
		   off < run.stamp[number - 1].off + run.stamp[number - 1].len) {
		goto settled;
	}
	if (run.failures++ < 10)
		fprintf(stderr,
			"random: sector at %" PRIu64 " holds what nobody wrote there: "
			"%016" PRIx64 "\n",
			off, number);
settled:
	memcpy(run.model + off, data, SECTOR);
}

static int verify(struct img_error *err)
{
	uint8_t *buf = run.worker[0].request[0].data;

	for (uint64_t off = 0; off < run.size; off += MAX_BYTES) {
		size_t len = (size_t)min_u64(MAX_BYTES, run.size - off);
		int rc = img_read(run.reader, off, buf, len, err);

		if (rc)
			return rc;
		for (uint64_t at = 0; run.overlap && at < len; at += SECTOR)
			judge_sector(off + at, buf + at);
		if (!memcmp(buf, run.model + off, len))
			continue;
		for (size_t at = 0; at < len; at++) {
			if (buf[at] == run.model[off + at])
				continue;
			fprintf(stderr, "random: byte %" PRIu64 " is %02x, should be %02x\n",
				off + at, buf[at], run.model[off + at]);
			run.failures++;
			break;
		}
	}
	return 0;
}

static int open_image(struct img_error *err)
{
	struct img_open_options options = { .format = "qcow2", .flags = IMG_OPEN_NO_BACKING };
	struct img *child = NULL, *removed;
	int rc = img_open(run.path, &run.options, &run.img, err);

	run.reader = run.img;
	if (rc || !run.child)
		return rc;
	rc = img_open(run.child, &options, &child, err);
	if (rc)
		return rc;
	rc = img_set_backing(child, run.img, &removed, err); /* which is written to meanwhile */
	if (rc)
		img_close(child, NULL);
	else
		run.reader = child;
	return rc;
}

static int close_image(struct img_error *err)
{
	int rc = img_close(run.reader, err); /* and what is below */

	run.img = run.reader = NULL;
	return rc;
}

static int phase(double seconds, uint64_t *onlooking, struct img_error *err)
{
	bool disturbed = run.resize || run.check || run.chain;
	pthread_t disturber, onlooker;
	int rc = 0;

	choose_untouched(onlooking);
	run.until = now() + seconds;
	for (unsigned t = 0; t < run.threads && rc == 0; t++)
		rc = img_queue_new(run.options.io, &run.worker[t].queue, err);
	if (rc)
		return rc;
	for (unsigned t = 0; t <= run.threads; t++) {
		if (pthread_create(&run.worker[t].thread, NULL, work, &run.worker[t]))
			abort();
	}
	if (disturbed && pthread_create(&disturber, NULL, disturb, NULL))
		abort();
	if (run.beside && pthread_create(&onlooker, NULL, look_on, onlooking))
		abort();
	if (disturbed)
		pthread_join(disturber, NULL);
	if (run.beside)
		pthread_join(onlooker, NULL);
	for (unsigned t = 0; t <= run.threads; t++) {
		pthread_join(run.worker[t].thread, NULL);
		img_queue_free(run.worker[t].queue);
		run.worker[t].queue = NULL;
	}
	rc = verify(err);
	if (rc == 0)
		rc = check(err);
	run.stamps = 0;

	int closed = close_image(rc ? NULL : err);

	rc = rc ? rc : closed;
	if (rc == 0 && run.beside)
		rc = look_from_beside(0, onlooking, err);
	if (rc == 0)
		rc = open_image(err);
	if (rc == 0)
		rc = verify(err);
	return rc;
}

/* ---- Beginning and end ---- */

static uint8_t *map_model(const char *path, uint64_t *size)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct stat st;
	void *bytes;

	if (fd < 0 || fstat(fd, &st))
		return NULL;
	bytes = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	*size = (uint64_t)st.st_size;
	return bytes == MAP_FAILED ? NULL : bytes;
}

static enum img_io_kind io_kind(const char *name)
{
	if (!strcmp(name, "uring"))
		return IMG_IO_URING;
	return !strcmp(name, "threads") ? IMG_IO_THREADS : IMG_IO_AUTO;
}

static bool parse_key(const char *arg, double *seconds, uint64_t *seed)
{
	const char *value = strchr(arg, '=');

	if (!value)
		return false;
	value++;
	if (!strncmp(arg, "format=", 7))
		run.options.format = *value ? value : NULL;
	else if (!strncmp(arg, "seconds=", 8))
		*seconds = strtod(value, NULL);
	else if (!strncmp(arg, "seed=", 5))
		*seed = strtoull(value, NULL, 0);
	else if (!strncmp(arg, "io=", 3))
		run.options.io = io_kind(value);
	else if (!strncmp(arg, "threads=", 8))
		run.threads = (unsigned)strtoul(value, NULL, 0);
	else if (!strncmp(arg, "compress=", 9))
		run.compress = *value == '1';
	else if (!strncmp(arg, "overlap=", 8))
		run.overlap = *value == '1';
	else if (!strncmp(arg, "resize=", 7))
		run.resize = *value == '1';
	else if (!strncmp(arg, "check=", 6))
		run.check = *value == '1';
	else if (!strncmp(arg, "chain=", 6))
		run.chain = *value == '1';
	else if (!strncmp(arg, "child=", 6))
		run.child = value;
	else if (!strncmp(arg, "beside=", 7))
		run.beside = value;
	else if (!strncmp(arg, "beside_model=", 13))
		return (run.beside_model = map_model(value, &run.beside_size));
	else if (!strncmp(arg, "references=", 11))
		run.options.references = value;
	else if (!strncmp(arg, "secret=", 7))
		run.options.secrets = one_passphrase(value);
	else if (!strncmp(arg, "flags=", 6))
		run.options.flags |= (unsigned)strtoul(value, NULL, 0);
	else
		return false;
	return run.threads <= THREADS_MAX;
}

int main(int argc, char **argv)
{
	struct img_error *err = img_error_new();
	uint64_t seed = 1, onlooking = 1, model_size = 0;
	double seconds = 1;
	int rc;

	run.options = (struct img_open_options){ .format = "qcow2", .flags = IMG_OPEN_WRITE };
	run.threads = 2;
	for (int i = 3; i < argc; i++) {
		if (!parse_key(argv[i], &seconds, &seed))
			argc = 0;
	}
	if (argc < 3) {
		fprintf(stderr, "usage: random IMAGE MODEL [KEY=VALUE...]\n");
		return 2;
	}
	run.path = argv[1];
	run.model = map_model(argv[2], &model_size);
	if (!run.model) {
		fprintf(stderr, "random: %s: %s\n", argv[2], strerror(errno));
		return 2;
	}
	rc = open_image(err);
	if (rc == 0) {
		run.size = img_size(run.img);
		run.unit = img_unit_bytes(run.img);
		if (run.size != model_size) {
			fprintf(stderr,
				"random: the image has %" PRIu64 " bytes, the model "
				"%" PRIu64 "\n",
				run.size, model_size);
			return 2;
		}
		onlooking = (seed + 1) * 0x9e3779b97f4a7c15;
		for (unsigned t = 0; t <= run.threads; t++) {
			run.worker[t].random = (seed * THREADS_MAX + t + 1) * 0x9e3779b97f4a7c15;
			for (unsigned i = 0; i < IN_FLIGHT; i++) {
				run.worker[t].request[i].worker = &run.worker[t];
				run.worker[t].request[i].data = malloc(MAX_BYTES);
			}
		}
		for (int p = 0; p < PHASES && rc == 0 && run.failures == 0; p++)
			rc = phase(seconds / PHASES, &onlooking, err);
	}
	if (run.beside && rc == 0 && run.beside_opened <= PHASES) {
		fprintf(stderr, "random: the image could never be opened beside its writer\n");
		run.failures++;
	}
	if (rc) {
		fprintf(stderr, "random: %s\n", img_error_text(err));
		run.failures++;
	}
	if (close_image(err)) {
		fprintf(stderr, "random: closing: %s\n", img_error_text(err));
		run.failures++;
	}
	for (unsigned t = 0; t <= THREADS_MAX; t++) {
		for (unsigned i = 0; i < IN_FLIGHT; i++)
			free(run.worker[t].request[i].data);
	}
	munmap(run.model, model_size);
	free(run.stamp);
	img_error_free(err);
	printf("%" PRIu64 " requests, %" PRIu64 " failures, seed %" PRIu64 "\n", run.done,
	       run.failures, seed);
	if (run.beside)
		printf("%" PRIu64 " times opened beside, %" PRIu64 " refused, %" PRIu64 " reads\n",
		       run.beside_opened, run.beside_refused, run.beside_reads);
	return run.failures ? 1 : 0;
}
