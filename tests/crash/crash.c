/*
 * crash IMAGE FORMAT [KEY=VALUE...]: what is left of an image when the power goes?
 *
 * The image is loaded into memory, a random workload runs on it, and every write that reaches the
 * file is recorded. Then states that a power cut could have left are built: everything up to some
 * write, of which any subset of the writes since the last sync may be missing or torn between
 * sectors. Each must open, pass the check (leaks are allowed), and hold in each sector what was
 * flushed or written with FUA, or what a later request wrote there, never anything else. Some are then repaired, which
 * must end the leaks and change nothing else, and written to again.
 *
 *	seed=N		(1)
 *	count=N		requests (60)
 *	samples=N	subsets for each cut besides the full one (3)
 *	every=N		only each Nth cut (1)
 *	full=1		all subsets where they are few, many where not, repairs everywhere
 *	lazy=1		refcounts may be stale: the check repairs first
 *	log=1		the format has a log: qemu-img's check is told to repair, which replays it
 *	compress=1	a third of the requests are compressed writes
 *	roles=1		the image is opened for reading, and becomes writable for a few requests at a time
 *	shift=N		guest sectors lie so many bytes behind those of the file
 *	churn=1		few places, much that is freed and used again
 *	cache=N		bytes of the metadata cache (by the seed: 4 MiB or 128 KiB)
 *	fail=N		the Nth sync fails; later flushes that say that all is well must be right
 *	with=FILE	a further file of the image (data file, extent), in the same folder; repeatable
 *	resize=N	after the workload the disk is resized to N bytes; repeatable, done in turn
 *	how=N		preallocation of what grows then (IMG_PREALLOCATE_*)
 *	qemu=N		each Nth state is judged by qemu-img too
 *	judge=DIR	where its files are put for that; what the image is based on is there
 *	secret=TEXT	the passphrase of encrypted images
 *	save=FILE	where to put the first state that is wrong
 *	steps=DIR	not a workload, but what a program did: DIR/1.log, 2.log, ... are logs (see
 *			calls.h) of what it did each time to the image, which is as before the first;
 *			DIR/0.raw, 1.raw, ... is the disk before and after each. Each sector must be
 *			as before or after the step, and as after it once it has ended.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/wait.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "tests/support/calls.h"
#include "tests/support/passphrase.h"
#include "tests/support/workload.h"

enum {
	ALL_SUBSETS_BITS = 8,
	FULL_SAMPLES = 64,
	MAX_FILES = 8, /* of an image; the first is the one that is opened */
	MAX_RESIZES = 8,
	MAX_STEPS = 16,
};

/* All files of an image. */
struct files {
	struct flat file[MAX_FILES];
};

/* A disk that was resized, from when the resize began (entries in the record) and was done. */
struct resized {
	uint64_t size;
	size_t begun, done;
	uint8_t *content;
};

/* The disk before a step; the last: after all. */
struct step {
	size_t begun; /* entries in the record */
	struct flat disk;
};

static struct {
	const char *path, *format, *save, *judge;
	const char *secret; /* NULL: none */
	struct img_secrets *secrets;
	const char *name[MAX_FILES]; /* in the folder */
	unsigned nfiles;
	struct workload work;
	struct resized resized[MAX_RESIZES];
	unsigned nresized;
	struct step step[MAX_STEPS + 1];
	unsigned nsteps;
	enum img_preallocate how;
	struct img_record *record;
	struct files base;     /* what is durable of the first `based` entries, which is all of them */
	struct files state;    /* what is examined, then what the repair made of it */
	struct files examined; /* what the repair was given */
	size_t based;
	bool *sure, *lost;		 /* of each entry: durable; never will be by a sync, but may arrive */
	struct files *opens;		 /* what references are opened from */
	struct img_record *opens_record; /* NULL: not recorded */
	struct img_fault *fault;	 /* NULL: none */
	uint64_t cache, random, states, judged, repaired, failures, qemu;
	bool full, lazy, log, compress, churn, roles, repairing;
	uint64_t shift;
} crash = { .random = 0x2545f4914f6cdd1d };

/* ---- The image's files ---- */

static void files_copy(struct files *to, const struct files *from)
{
	for (unsigned i = 0; i < crash.nfiles; i++)
		flat_copy(&to->file[i], &from->file[i]);
}

static void files_save(const struct files *files, const char *path)
{
	for (unsigned i = 0; i < crash.nfiles; i++) {
		char name[4096];

		snprintf(name, sizeof(name), i ? "%s-%s" : "%s", path, crash.name[i]);
		flat_save(&files->file[i], name);
	}
}

static void apply(struct files *files, const struct img_record_entry *e)
{
	flat_apply(&files->file[e->file], e);
}

/* File i of what crash.opens holds, in memory. The first may be opened once more, as another state of the disk. */
static struct img_storage *open_file(unsigned i, const char *name)
{
	struct img_storage *s;

	if (!name)
		abort();
	s = flat_storage(&crash.opens->file[i], name);
	if (!i)
		s->identity = strdup(name);
	if (crash.fault && img_storage_fault(s, crash.fault, &s))
		abort();
	if (crash.opens_record && img_storage_record_file(s, crash.opens_record, i, &s))
		abort();
	return s;
}

int __wrap_img_storage_open_fd(int fd, const char *path, unsigned flags, struct img_storage **out,
			       struct img_error *err);
int __real_img_storage_open_fd(int fd, const char *path, unsigned flags, struct img_storage **out,
			       struct img_error *err);

/* What an image names is opened by this: its own files come from memory (linked by --wrap). */
int __wrap_img_storage_open_fd(int fd, const char *path, unsigned flags, struct img_storage **out,
			       struct img_error *err)
{
	const char *base = strrchr(path, '/');

	base = base ? base + 1 : path;
	for (unsigned i = 1; i < crash.nfiles; i++) {
		if (strcmp(base, crash.name[i]) != 0)
			continue;
		close(fd);
		*out = open_file(i, path);
		return 0;
	}
	return __real_img_storage_open_fd(fd, path, flags, out, err);
}

int __wrap_img_storage_open_file(const char *path, unsigned flags, struct img_storage **out,
				 struct img_error *err);
int __real_img_storage_open_file(const char *path, unsigned flags, struct img_storage **out,
				 struct img_error *err);

int __wrap_img_storage_open_file(const char *path, unsigned flags, struct img_storage **out,
				 struct img_error *err)
{
	if (strcmp(path, crash.path) != 0)
		return __real_img_storage_open_file(path, flags, out, err);
	*out = open_file(0, path);
	return 0;
}

/* Open the image that files are; record: of what is written, or NULL. */
static int open_files(struct files *files, struct img_record *record, unsigned flags,
		      uint64_t cache, struct img **img, struct img_error *err)
{
	struct img_open_options options = {
		.format = crash.format,
		.flags = flags,
		.io = IMG_IO_THREADS,
		.cache_bytes = cache,
		.secrets = crash.secrets,
	};

	crash.opens = files;
	crash.opens_record = record;
	return img_open_storage(open_file(0, crash.path), crash.path, &options, img, err);
}

static void fail(size_t cut, uint64_t subset, const char *what, const char *sentence)
{
	if (crash.failures++ < 5)
		fprintf(stderr, "crash: cut at %zu of %zu, subset %" PRIx64 ": %s: %s\n", cut,
			img_record_count(crash.record), subset, what, sentence);
	if (crash.failures == 1 && crash.save)
		files_save(crash.repairing ? &crash.examined : &crash.state, crash.save);
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
		 (result.corruptions > lines_not_closed(&lines) || result.check_errors ||
		  (result.leaks && !leaks_allowed)))
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
		uint64_t off = next_random(&crash.random) %
			       (min_u64(crash.work.size, img_size(img)) - sizeof(data));

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
		apply(&crash.state, img_record_at(record, *kept));
	return rc ? rc : closed;
}

/* ---- Judging ---- */

/* After a resize: the disk before it, or the one after it. */
static int judge_resized(struct img *img, size_t cut, struct img_error *err)
{
	uint64_t size = img_size(img);
	const struct resized *r = NULL;
	uint8_t *content;
	int rc;

	for (unsigned i = 0; i < crash.nresized; i++) {
		const struct resized *c = &crash.resized[i];
		bool over = i + 1 < crash.nresized && crash.resized[i + 1].done <= cut;

		if (c->begun <= cut && !over && c->size == size)
			r = c;
	}
	if (!r)
		return img_fail(err, -EBADMSG, "the disk has %" PRIu64 " bytes", size);
	content = malloc(size);
	if (!content)
		abort();
	rc = img_read(img, 0, content, size, err);
	for (uint64_t at = 0; !rc && at < size; at += SECTOR)
		if (memcmp(content + at, r->content + at, SECTOR) != 0)
			rc = img_fail(err, -EBADMSG,
				      "a disk of %" PRIu64 " bytes: sector at %" PRIu64 " begins "
				      "with %02x %02x, expected %02x %02x",
				      size, at, content[at], content[at + 1], r->content[at],
				      r->content[at + 1]);
	free(content);
	return rc;
}

/* Is this the disk's sector at byte `at`? */
static bool is_sector(const struct flat *disk, const uint8_t *sector, uint64_t at)
{
	return at + SECTOR <= disk->size && !memcmp(sector, disk->bytes + at, SECTOR);
}

static int judge_step(struct img *img, size_t cut, struct img_error *err)
{
	uint64_t size = img_size(img);
	unsigned i = 0;
	const struct flat *before, *after;
	uint8_t *content;
	int rc;

	while (i < crash.nsteps && crash.step[i + 1].begun <= cut)
		i++;
	before = after = &crash.step[i].disk;
	if (crash.step[i].begun < cut)
		after = &crash.step[i + 1].disk;
	if (size != before->size && size != after->size)
		return img_fail(err, -EBADMSG,
				"step %u: the disk has %" PRIu64 " bytes, expected %zu or %zu",
				i + 1, size, before->size, after->size);
	content = malloc(size);
	if (!content)
		abort();
	rc = img_read(img, 0, content, size, err);
	for (uint64_t at = 0; !rc && at < size; at += SECTOR) {
		if (!is_sector(before, content + at, at) && !is_sector(after, content + at, at))
			rc = img_fail(err, -EBADMSG,
				      "step %u: sector at %" PRIu64 " begins with %02x %02x, which "
				      "is neither what was there nor what the step makes of it",
				      i + 1, at, content[at], content[at + 1]);
	}
	free(content);
	return rc;
}

static int judge(struct img *img, size_t cut, struct img_error *err)
{
	if (crash.nsteps)
		return judge_step(img, cut, err);
	if (crash.nresized && crash.resized[0].begun <= cut)
		return judge_resized(img, cut, err);
	return workload_judge(&crash.work, img, cut, err);
}

/* Run a command in crash.judge; its exit code. */
__attribute__((format(printf, 1, 2))) static int run(const char *fmt, ...)
{
	char command[8192];
	va_list args;
	int status, n = snprintf(command, sizeof(command), "cd '%s' && ", crash.judge);

	va_start(args, fmt);
	vsnprintf(command + n, sizeof(command) - (size_t)n, fmt, args);
	va_end(args);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* What does qemu-img say of the state, and read from it? */
static int judge_by_qemu(size_t cut, struct img_error *err)
{
	struct img_open_options raw = { .format = "raw", .io = IMG_IO_THREADS };
	char path[4096], secret[256] = "", how[256];
	struct img *img;
	int rc;

	snprintf(how, sizeof(how), "-f %s '%s'", crash.format, crash.name[0]);
	if (crash.secret) {
		snprintf(secret, sizeof(secret), "--object 'secret,id=s,data=%s' --image-opts",
			 crash.secret);
		snprintf(how, sizeof(how), "'driver=%s,%skey-secret=s,file.filename=%s'",
			 crash.format, strcmp(crash.format, "luks") != 0 ? "encrypt." : "",
			 crash.name[0]);
	}
	crash.judged++;
	for (unsigned i = 0; i < crash.nfiles; i++) {
		snprintf(path, sizeof(path), "%s/%s", crash.judge, crash.name[i]);
		flat_save(&crash.state.file[i], path);
	}
	rc = crash.lazy ? 0
			: run("qemu-img check %s %s %s >said 2>&1", crash.log ? "-r all" : "",
			      secret, how);
	if (rc == 2 && !run("grep -q '%s' said && grep -q '^1 errors' said", NOT_CLOSED))
		rc = 0;
	if (rc && rc != 3 && rc != 63) { /* 3: leaks; 63: no check of that format */
		run("cat said");
		return img_fail(err, -EBADMSG, "qemu-img check: exit code %d", rc);
	}
	if (run("qemu-img convert %s -O raw %s seen.raw >said 2>&1", secret, how)) {
		run("cat said");
		return img_fail(err, -EBADMSG, "qemu-img convert fails");
	}
	snprintf(path, sizeof(path), "%s/seen.raw", crash.judge);
	rc = img_open(path, &raw, &img, err);
	if (rc)
		return rc;
	rc = judge(img, cut, err);
	img_close(img, NULL);
	return rc ? img_error_prefix(err, rc, "as qemu-img reads it") : 0;
}

/* Repair the state, look again, go on writing, and look again. */
static int repair(size_t cut, struct img_error *err)
{
	unsigned how = crash.lazy ? IMG_REPAIR_ALL : IMG_REPAIR_LEAKS;
	struct img_record *record = img_record_new();
	struct img *img = NULL;
	size_t kept = 0;
	int rc;

	crash.repaired++;
	rc = open_files(&crash.state, record, IMG_OPEN_WRITE | IMG_OPEN_CHECK, 0, &img, err);
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
	rc = open_files(&crash.state, record, IMG_OPEN_WRITE, 0, &img, err);
	if (!rc)
		rc = judge(img, cut, err);
	if (!rc)
		rc = go_on(img, err);
	rc = close_and_keep(img, record, &kept, rc, err);
	if (rc)
		goto out;
	img = NULL;
	rc = open_files(&crash.state, NULL, 0, 0, &img, err);
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
	rc = open_files(&crash.state, NULL, 0, 0, &img, err);
	if (rc) {
		fail(cut, subset, "cannot be opened", img_error_text(err));
		goto out;
	}
	if (!crash.lazy && check(img, 0, true, err))
		fail(cut, subset, "not sound", img_error_text(err));
	else if (judge(img, cut, err))
		fail(cut, subset, "wrong content", img_error_text(err));
	img_close(img, NULL);
	if (crash.qemu && crash.states % crash.qemu == 0 && judge_by_qemu(cut, err))
		fail(cut, subset, "qemu-img differs", img_error_text(err));
	if (crash.full || crash.lazy || next_random(&crash.random) % 4 == 0) {
		files_copy(&crash.examined, &crash.state);
		crash.repairing = true;
		if (repair(cut, err))
			fail(cut, subset, "after repair", img_error_text(err));
		crash.repairing = false;
	}
out:
	img_error_free(err);
}

/*
 * A write of which only some sectors arrived: of the file, or of the guest where those lie elsewhere (no
 * format can keep them whole then).
 */
static void apply_torn(const struct img_record_entry *e)
{
	struct img_record_entry part = *e;
	uint64_t pick = next_random(&crash.random);
	uint64_t shift = e->off % SECTOR == crash.shift ? crash.shift : 0;

	for (uint64_t at = 0; at < e->len; at += part.len) {
		part.off = e->off + at;
		part.len = min_u64(SECTOR - (part.off - shift) % SECTOR, e->len - at);
		if (!((pick >> (at / SECTOR % 64)) & 1))
			continue;
		part.data = e->data ? e->data + at : NULL;
		apply(&crash.state, &part);
	}
}

/*
 * Of the entries up to cut that are not durable those whose bit is in keep, counted from the first
 * that is not based; tear: those that are not kept arrive in part.
 */
static void build(size_t cut, uint64_t keep, bool tear)
{
	size_t n = 0;

	files_copy(&crash.state, &crash.base);
	for (size_t i = crash.based; i < cut; i++) {
		const struct img_record_entry *e = img_record_at(crash.record, i);
		bool kept = crash.sure[i];

		if (!kept) {
			kept = n >= 64 ? next_random(&crash.random) % 2 : (keep >> n) & 1;
			n++;
		}
		if (kept)
			apply(&crash.state, e);
		else if (tear && e->kind == IMG_RECORD_WRITE)
			apply_torn(e);
	}
}

static void cut_at(size_t cut, unsigned samples)
{
	size_t n = 0; /* entries that may be there or not */
	uint64_t last;

	for (size_t i = crash.based; i < cut; i++)
		n += !crash.sure[i];
	/* Everything that was begun has arrived. */
	files_copy(&crash.state, &crash.base);
	for (size_t i = crash.based; i < cut; i++)
		apply(&crash.state, img_record_at(crash.record, i));
	examine(cut, UINT64_MAX);

	/* Subsets in which the last entry arrived: those without it belong to an earlier cut. */
	if (n < 2)
		return;
	last = crash.sure[cut - 1] || n > 64 ? 0 : UINT64_C(1) << (n - 1);
	if (crash.full && n - 1 <= ALL_SUBSETS_BITS) {
		for (uint64_t keep = 0; keep + 1 < 1u << (n - 1); keep++) {
			build(cut, keep | last, false);
			examine(cut, keep | last);
		}
	}
	for (unsigned i = 0; i < samples; i++) {
		uint64_t keep = next_random(&crash.random);

		build(cut, keep, i % 2);
		examine(cut, keep);
	}
}

/* Resize the disk, and note what it then should be. */
static int resize(struct img *img, const uint64_t *sizes, unsigned n, struct img_error *err)
{
	struct resized *before = &crash.resized[0];
	int rc = img_flush(img, err);

	if (rc)
		return rc;
	*before = (struct resized){ .size = img_size(img), .content = malloc(img_size(img)) };
	before->begun = before->done = img_record_count(crash.record);
	if (!before->content)
		abort();
	rc = img_read(img, 0, before->content, before->size, err);
	crash.nresized = 1;
	for (unsigned i = 0; !rc && i < n; i++, before++) {
		struct resized *r = &crash.resized[crash.nresized++];
		uint64_t both = min_u64(before->size, sizes[i]);

		*r = (struct resized){ .size = sizes[i], .content = calloc(1, sizes[i]) };
		if (!r->content)
			abort();
		memcpy(r->content, before->content, both);
		r->begun = img_record_count(crash.record);
		rc = img_resize(img, sizes[i],
				sizes[i] > before->size ? crash.how : IMG_PREALLOCATE_OFF, err);
		r->done = img_record_count(crash.record);
	}
	return rc;
}

/* Writable for a few requests, then read-only: which makes all of them durable. */
static int run_in_turns(struct img *img, uint64_t seed, size_t count, struct img_error *err)
{
	enum {
		AT_ONCE = 12,
	};
	int rc = 0;

	for (size_t done = 0; !rc && done < count; done += AT_ONCE) {
		rc = img_set_writable(img, true, err);
		if (rc)
			return rc;
		workload_run(&crash.work, img, crash.record, seed + done,
			     done + AT_ONCE < count ? AT_ONCE : count - done, true);
		if (crash.work.rc)
			return 0;
		rc = img_set_writable(img, false, err);
		if (!rc)
			workload_all_durable(&crash.work, crash.record);
	}
	return rc;
}

static int record_workload(uint64_t seed, size_t count, const uint64_t *sizes, unsigned nsizes,
			   struct img_error *err)
{
	uint64_t cache = crash.cache ? crash.cache : seed % 2 ? 0
							      : 128 << 10;
	struct img *img = NULL;
	unsigned flags = IMG_OPEN_UNMAP | (crash.roles ? 0 : IMG_OPEN_WRITE);
	int rc = open_files(&crash.base, crash.record, flags, cache, &img, err);

	if (rc)
		return rc;
	workload_init(&crash.work, img);
	crash.work.compress = crash.compress;
	crash.work.churn = crash.churn;
	crash.work.trusting = crash.fault;
	if (crash.roles)
		rc = run_in_turns(img, seed, count, err);
	else
		workload_run(&crash.work, img, crash.record, seed, count, !crash.fault);
	if (!rc && crash.work.rc && !crash.fault)
		rc = img_fail(err, crash.work.rc, "%s", crash.work.sentence);
	if (!rc && nsizes)
		rc = resize(img, sizes, nsizes, err);
	int closed = img_close(img, rc ? NULL : err);

	if (crash.fault) /* the sync that fails may be the last */
		closed = 0;
	crash.fault = NULL;
	return rc ? rc : closed;
}

/* Take over what a program did: see steps=. */
static void record_steps(const char *dir)
{
	struct img_storage *file[MAX_FILES] = { NULL };
	char path[4096], *folder;

	snprintf(path, sizeof(path), "%.*s",
		 (int)(crash.name[0] - crash.path), crash.path);
	folder = realpath(*path ? path : ".", NULL);
	if (!folder)
		abort();
	crash.opens = &crash.base;
	crash.opens_record = crash.record;
	for (unsigned i = 0; i < crash.nfiles; i++)
		file[i] = open_file(i, crash.name[i]);
	crash.work.size = UINT64_MAX;
	for (unsigned i = 0;; i++) {
		struct step *s = &crash.step[i];

		snprintf(path, sizeof(path), "%s/%u.raw", dir, i);
		flat_load(&s->disk, path);
		crash.work.size = min_u64(crash.work.size, s->disk.size);
		s->begun = img_record_count(crash.record);
		snprintf(path, sizeof(path), "%s/%u.log", dir, i + 1);
		if (i == MAX_STEPS || access(path, R_OK))
			break;
		calls_replay(path, folder, crash.name, file, crash.nfiles);
		crash.nsteps++;
	}
	if (!crash.nsteps || img_record_count(crash.record) == 0) {
		fprintf(stderr, "crash: %s: no steps, or they did nothing\n", dir);
		exit(2);
	}
	for (unsigned i = 0; i < crash.nfiles; i++)
		img_storage_close(file[i]);
	free(folder);
}

/* Entry `at` is over: what is durable by it, or lost? */
static void passed(size_t at)
{
	const struct img_record_entry *e = img_record_at(crash.record, at);

	for (size_t i = crash.based; i < at; i++) {
		if (img_record_at(crash.record, i)->file != e->file)
			continue;
		if (e->kind == IMG_RECORD_SYNC)
			crash.sure[i] |= !crash.lost[i];
		else if (e->kind == IMG_RECORD_SYNC_FAILED)
			crash.lost[i] |= !crash.sure[i];
	}
	if (e->fua || (e->kind != IMG_RECORD_WRITE && !e->len))
		crash.sure[at] = true; /* by itself; or a sync, nothing else */
	for (; crash.based <= at && crash.sure[crash.based]; crash.based++)
		apply(&crash.base, img_record_at(crash.record, crash.based));
}

static void replay(unsigned samples, size_t every)
{
	size_t n = img_record_count(crash.record);

	crash.sure = calloc(n + 1, sizeof(*crash.sure));
	crash.lost = calloc(n + 1, sizeof(*crash.lost));
	if (!crash.sure || !crash.lost)
		abort();
	for (size_t cut = 0; cut <= n && crash.failures < 5; cut++) {
		if (cut % every == 0 || cut == n)
			cut_at(cut, samples);
		if (cut < n)
			passed(cut);
	}
	free(crash.sure);
	free(crash.lost);
}

static void load_files(const char *path)
{
	const char *slash = strrchr(path, '/');
	int folder = slash ? (int)(slash - path) + 1 : 0;

	crash.name[0] = path + folder;
	for (unsigned i = 0; i < crash.nfiles; i++) {
		char name[4096];

		snprintf(name, sizeof(name), "%.*s%s", folder, path, crash.name[i]);
		flat_load(&crash.base.file[i], name);
	}
}

int main(int argc, char **argv)
{
	uint64_t seed = 1, count = 60, samples = 3, every = 1;
	struct img_error *err = img_error_new();
	struct img_fault fault = {
		.ops = 1u << IMG_IO_SYNC,
		.rc = -EIO,
	};
	uint64_t sizes[MAX_RESIZES];
	unsigned nsizes = 0;
	const char *steps = NULL;

	crash.nfiles = 1;
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
		if (!strncmp(argv[i], "steps=", 6)) {
			steps = argv[i] + 6;
			continue;
		}
		if (!strncmp(argv[i], "judge=", 6)) {
			crash.judge = argv[i] + 6;
			continue;
		}
		if (!strncmp(argv[i], "with=", 5) && crash.nfiles < MAX_FILES) {
			crash.name[crash.nfiles++] = argv[i] + 5;
			continue;
		}
		if (!strncmp(argv[i], "secret=", 7)) {
			crash.secret = argv[i] + 7;
			crash.secrets = one_passphrase(crash.secret);
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
		else if (!strncmp(argv[i], "log=", 4))
			crash.log = value;
		else if (!strncmp(argv[i], "roles=", 6))
			crash.roles = value;
		else if (!strncmp(argv[i], "compress=", 9))
			crash.compress = value;
		else if (!strncmp(argv[i], "shift=", 6))
			crash.shift = value;
		else if (!strncmp(argv[i], "churn=", 6))
			crash.churn = value;
		else if (!strncmp(argv[i], "cache=", 6))
			crash.cache = value;
		else if (!strncmp(argv[i], "how=", 4))
			crash.how = (enum img_preallocate)value;
		else if (!strncmp(argv[i], "qemu=", 5))
			crash.qemu = value;
		else if (!strncmp(argv[i], "resize=", 7) && nsizes < MAX_RESIZES - 1)
			sizes[nsizes++] = value;
		else if (!strncmp(argv[i], "fail=", 5) && value) {
			fault.at = value - 1;
			crash.fault = &fault;
		}
	}
	if (!crash.judge)
		crash.qemu = 0;
	if (crash.full)
		samples = FULL_SAMPLES;
	crash.random ^= seed;
	crash.record = img_record_new();
	load_files(argv[1]);
	if (steps) {
		record_steps(steps);
	} else if (record_workload(seed, count, sizes, nsizes, err)) {
		fprintf(stderr, "crash: the workload itself: %s\n", img_error_text(err));
		return 1;
	}
	replay((unsigned)samples, every);
	printf("%zu entries recorded, %" PRIu64 " states, %" PRIu64 " by qemu-img, %" PRIu64
	       " repaired, %" PRIu64 " failures, seed %" PRIu64 "\n",
	       img_record_count(crash.record), crash.states, crash.judged, crash.repaired,
	       crash.failures, seed);
	img_record_free(crash.record);
	workload_free(&crash.work);
	for (unsigned i = 0; i < MAX_FILES; i++) {
		free(crash.base.file[i].bytes);
		free(crash.state.file[i].bytes);
		free(crash.examined.file[i].bytes);
	}
	for (unsigned i = 0; i < crash.nresized; i++)
		free(crash.resized[i].content);
	for (unsigned i = 0; i <= crash.nsteps; i++)
		free(crash.step[i].disk.bytes);
	img_error_free(err);
	return crash.failures ? 1 : 0;
}
