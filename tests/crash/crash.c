/*
 * crash IMAGE FORMAT [KEY=VALUE...]: what is left of an image when the power goes?
 *
 * The image is loaded into memory, a random workload runs on it, and every write that reaches the
 * file is recorded. Then states that a power cut could have left are built: everything up to some
 * write, of which any subset of the writes since the last sync may be missing or torn between
 * sectors. Each must open, pass the check (leaks are allowed), and hold in each sector what was
 * flushed or what a later request wrote there, never anything else. Some are then repaired, which
 * must end the leaks and change nothing else, and written to again.
 *
 *	seed=N		(1)
 *	count=N		requests (60)
 *	samples=N	subsets for each cut besides the full one (3)
 *	every=N		only each Nth cut (1)
 *	full=1		all subsets where they are few, many where not, repairs everywhere
 *	lazy=1		refcounts may be stale: the check repairs first
 *	compress=1	a third of the requests are compressed writes
 *	save=FILE	where to put the first state that is wrong
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "tests/support/workload.h"

enum {
	ALL_SUBSETS_BITS = 8,
	FULL_SAMPLES = 64,
};

static struct {
	const char *path, *format, *save;
	struct workload work;
	struct img_record *record;
	struct flat base;     /* the file up to the last sync before the cut */
	struct flat state;    /* what is examined, then what the repair made of it */
	struct flat examined; /* what the repair was given */
	uint64_t random, states, repaired, failures;
	bool full, lazy, compress, repairing;
} crash = { .random = 0x2545f4914f6cdd1d };

static void fail(size_t cut, uint64_t subset, const char *what, const char *sentence)
{
	if (crash.failures++ < 5)
		fprintf(stderr, "crash: cut at %zu of %zu, subset %" PRIx64 ": %s: %s\n", cut,
			img_record_count(crash.record), subset, what, sentence);
	if (crash.failures == 1 && crash.save)
		flat_save(crash.repairing ? &crash.examined : &crash.state, crash.save);
}

static int open_state(unsigned flags, struct img **img, struct img_error *err)
{
	struct img_open_options options = {
		.format = crash.format,
		.flags = flags,
		.io = IMG_IO_THREADS_KIND,
	};

	return img_open_storage(flat_storage(&crash.state, crash.path), crash.path, &options, img,
				err);
}

/* Check: no corruptions; after a repair no leaks either. */
static int check(struct img *img, unsigned repair, bool leaks_allowed, struct img_error *err)
{
	struct img_check_result result = { 0 };
	struct lines lines = { 0 };
	int rc = img_check(img, repair, lines_add, &lines, &result, err);

	if (rc == -ENOTSUP)
		rc = 0;
	else if (!rc &&
		 (result.corruptions || result.check_errors || (result.leaks && !leaks_allowed)))
		rc = img_fail(err, -EBADMSG,
			      "check: %" PRIu64 " corruptions, %" PRIu64 " leaks, "
			      "%" PRIu64 " errors\n%s",
			      result.corruptions, result.leaks, result.check_errors,
			      lines.text ? lines.text : "");
	free(lines.text);
	return rc;
}

/* Write to an image that was repaired. */
static int go_on(struct img *img, struct img_error *err)
{
	uint8_t data[SECTOR * 3];
	int rc = 0;

	memset(data, 0x5a, sizeof(data));
	for (int i = 0; i < 4 && !rc; i++) {
		uint64_t off = next_random(&crash.random) % (crash.work.size - sizeof(data));

		if (crash.save)
			printf("going on at %" PRIu64 "\n", off);
		rc = img_write(img, off, data, sizeof(data), err);
	}
	return rc ? img_error_prefix(err, rc, "going on") : 0;
}

/* Close img, which wrote through record, and bring the state to what it left. */
static int close_and_keep(struct img *img, const struct img_record *record, size_t *kept, int rc,
			  struct img_error *err)
{
	int closed = img_close(img, rc ? NULL : err);

	for (; *kept < img_record_count(record); ++*kept)
		flat_apply(&crash.state, img_record_at(record, *kept));
	return rc ? rc : closed;
}

/* Open the state for writing; what is written goes to record. */
static int open_recorded(struct img_record *record, unsigned flags, struct img **img,
			 struct img_error *err)
{
	struct img_open_options options = {
		.format = crash.format,
		.flags = IMG_OPEN_WRITE | flags,
		.io = IMG_IO_THREADS_KIND,
	};
	struct img_storage *s = flat_storage(&crash.state, crash.path);

	if (img_storage_record(s, record, &s))
		abort();
	return img_open_storage(s, crash.path, &options, img, err);
}

/* Repair the state, look again, go on writing, and look again. */
static int repair(size_t cut, struct img_error *err)
{
	unsigned how = crash.lazy ? IMG_CHECK_REPAIR_ALL : IMG_CHECK_REPAIR_LEAKS;
	struct img_record *record = img_record_new();
	struct img *img = NULL;
	size_t kept = 0;
	int rc;

	crash.repaired++;
	rc = open_recorded(record, IMG_OPEN_CHECK, &img, err);
	if (!rc)
		rc = check(img, how, true, err);
	if (!rc)
		rc = check(img, 0, false, err);
	rc = close_and_keep(img, record, &kept, rc, err);
	if (rc) {
		img_error_prefix(err, rc, "repairing");
		goto out;
	}
	img = NULL;
	rc = open_recorded(record, 0, &img, err);
	if (!rc)
		rc = workload_judge(&crash.work, img, cut, err);
	if (!rc)
		rc = go_on(img, err);
	rc = close_and_keep(img, record, &kept, rc, err);
	if (rc)
		goto out;
	img = NULL;
	rc = open_state(0, &img, err);
	if (!rc)
		rc = check(img, 0, false, err);
	if (rc)
		img_error_prefix(err, rc, "after going on");
	img_close(img, NULL);
out:
	img_record_free(record);
	return rc;
}

static void examine(size_t cut, uint64_t subset)
{
	struct img_error *err = img_error_new();
	struct img *img = NULL;
	int rc;

	crash.states++;
	rc = open_state(0, &img, err);
	if (rc) {
		fail(cut, subset, "cannot be opened", img_error_text(err));
		goto out;
	}
	if (!crash.lazy && check(img, 0, true, err))
		fail(cut, subset, "not sound", img_error_text(err));
	else if (workload_judge(&crash.work, img, cut, err))
		fail(cut, subset, "wrong content", img_error_text(err));
	img_close(img, NULL);
	if (crash.full || crash.lazy || next_random(&crash.random) % 4 == 0) {
		flat_copy(&crash.examined, &crash.state);
		crash.repairing = true;
		if (repair(cut, err))
			fail(cut, subset, "after repair", img_error_text(err));
		crash.repairing = false;
	}
out:
	img_error_free(err);
}

/* A write of which only some sectors arrived. */
static void apply_torn(const struct img_record_entry *e)
{
	struct img_record_entry part = *e;
	uint64_t pick = next_random(&crash.random);

	for (uint64_t at = 0; at < e->len; at += SECTOR - (e->off + at) % SECTOR) {
		if (!((pick >> (at / SECTOR % 64)) & 1))
			continue;
		part.off = e->off + at;
		part.len = min_u64(SECTOR - part.off % SECTOR, e->len - at);
		part.data = e->data ? e->data + at : NULL;
		flat_apply(&crash.state, &part);
	}
}

/*
 * Of the entries [sync, cut) those whose bit is in keep; tear: those that are not kept arrive in
 * part.
 */
static void build(size_t sync, size_t cut, uint64_t keep, bool tear)
{
	flat_copy(&crash.state, &crash.base);
	for (size_t i = sync; i < cut; i++) {
		const struct img_record_entry *e = img_record_at(crash.record, i);

		if (i - sync >= 64 ? next_random(&crash.random) % 2 : (keep >> (i - sync)) & 1)
			flat_apply(&crash.state, e);
		else if (tear && e->kind == IMG_RECORD_WRITE)
			apply_torn(e);
	}
}

static void cut_at(size_t sync, size_t cut, unsigned samples)
{
	size_t n = cut - sync;

	/* Everything that was begun has arrived. */
	flat_copy(&crash.state, &crash.base);
	for (size_t i = sync; i < cut; i++)
		flat_apply(&crash.state, img_record_at(crash.record, i));
	examine(cut, UINT64_MAX);

	/* Subsets in which the last entry arrived: those without it belong to an earlier cut. */
	if (n < 2)
		return;
	if (crash.full && n - 1 <= ALL_SUBSETS_BITS) {
		for (uint64_t keep = 0; keep + 1 < 1u << (n - 1); keep++) {
			build(sync, cut, keep | 1ull << (n - 1), false);
			examine(cut, keep | 1ull << (n - 1));
		}
	}
	for (unsigned i = 0; i < samples; i++) {
		uint64_t keep = next_random(&crash.random);

		build(sync, cut, keep, i % 2);
		examine(cut, keep);
	}
}

static int record_workload(uint64_t seed, size_t count, struct img_error *err)
{
	struct img_open_options options = {
		.format = crash.format,
		.flags = IMG_OPEN_WRITE | IMG_OPEN_UNMAP,
		.io = IMG_IO_THREADS_KIND,
		.cache_bytes = seed % 2 ? 0 : 128 << 10,
	};
	struct img_storage *s = flat_storage(&crash.base, crash.path), *recorder;
	struct img *img = NULL;
	int rc = img_storage_record(s, crash.record, &recorder);

	if (rc)
		return img_fail(err, rc, "no recorder");
	rc = img_open_storage(recorder, crash.path, &options, &img, err);
	if (rc)
		return rc;
	workload_init(&crash.work, img);
	crash.work.compress = crash.compress;
	workload_run(&crash.work, img, crash.record, seed, count, true);
	if (crash.work.rc)
		rc = img_fail(err, crash.work.rc, "%s", crash.work.sentence);
	int closed = img_close(img, rc ? NULL : err);

	return rc ? rc : closed;
}

static void replay(unsigned samples, size_t every)
{
	size_t sync = 0, n = img_record_count(crash.record);

	for (size_t cut = 0; cut <= n && crash.failures < 5; cut++) {
		if (cut % every == 0 || cut == n)
			cut_at(sync, cut, samples);
		if (cut == n || img_record_at(crash.record, cut)->kind != IMG_RECORD_SYNC)
			continue;
		for (; sync < cut; sync++)
			flat_apply(&crash.base, img_record_at(crash.record, sync));
		sync++;
	}
}

int main(int argc, char **argv)
{
	uint64_t seed = 1, count = 60, samples = 3, every = 1;
	struct img_error *err = img_error_new();

	if (argc < 3) {
		fprintf(stderr, "usage: crash IMAGE FORMAT [KEY=VALUE...]\n");
		return 2;
	}
	crash.path = argv[1];
	crash.format = argv[2];
	for (int i = 3; i < argc; i++) {
		if (!strncmp(argv[i], "save=", 5)) {
			crash.save = argv[i] + 5;
			continue;
		}
		char *equals = strchr(argv[i], '=');
		uint64_t value = equals ? strtoull(equals + 1, NULL, 0) : 0;

		if (!strncmp(argv[i], "seed=", 5))
			seed = value;
		else if (!strncmp(argv[i], "count=", 6))
			count = value;
		else if (!strncmp(argv[i], "samples=", 8))
			samples = value;
		else if (!strncmp(argv[i], "every=", 6))
			every = max_u64(value, 1);
		else if (!strncmp(argv[i], "full=", 5))
			crash.full = value;
		else if (!strncmp(argv[i], "lazy=", 5))
			crash.lazy = value;
		else if (!strncmp(argv[i], "compress=", 9))
			crash.compress = value;
	}
	if (crash.full)
		samples = FULL_SAMPLES;
	crash.random ^= seed;
	crash.record = img_record_new();
	flat_load(&crash.base, crash.path);
	if (record_workload(seed, count, err)) {
		fprintf(stderr, "crash: the workload itself: %s\n", img_error_text(err));
		return 1;
	}
	replay((unsigned)samples, every);
	printf("%zu entries recorded, %" PRIu64 " states, %" PRIu64 " repaired, %" PRIu64
	       " failures, seed %" PRIu64 "\n",
	       img_record_count(crash.record), crash.states, crash.repaired, crash.failures, seed);
	img_record_free(crash.record);
	workload_free(&crash.work);
	free(crash.base.bytes);
	free(crash.state.bytes);
	free(crash.examined.bytes);
	img_error_free(err);
	return crash.failures ? 1 : 0;
}
