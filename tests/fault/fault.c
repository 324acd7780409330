/*
 * fault SCENARIO IMAGE FORMAT [KEY=VALUE...]: what happens when the disk refuses?
 *
 * The scenario is run once to count its requests to the file, then again and again, each time with
 * another request failing: once, or from there on. It must end with an error and a sentence (or
 * have succeeded all the same), and what is left in the file must open, pass the check (leaks are
 * allowed) and hold what was flushed. Leaks of memory are for the sanitizers to find.
 *
 *	open	open and read IMAGE
 *	write	a random workload on IMAGE
 *	copy	IMAGE to a new one in memory of format to=, options= (both sides can fail)
 *	stream	IMAGE to a new streamOptimized VMDK in the working folder; what fails is reading
 *		IMAGE, or writing past a limit of the file's size
 *	repair	check -r all of IMAGE
 *	resize	grow IMAGE twofold, then shrink it
 *	create	a new image of format FORMAT, options= (IMAGE is a name only)
 *
 *	seed=N	of the workload	(1)		cases=N	at most so many for each kind (60)
 *	compress=1	write: a third are compressed writes
 *	secret=TEXT	the passphrase of encrypted images
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/options.h"
#include "libimg/base/secrets.h"
#include "tests/support/passphrase.h"
#include "tests/support/workload.h"

enum {
	REQUESTS = 40,
	NEW_BYTES = 3 << 20,
	LIMIT_STEP = 4096, /* stream: how the file's size is limited */
};

#define STREAM_NAME "stream.out"

static struct {
	const char *path, *format, *image_format, *to, *options;
	uint64_t seed;
	bool compress;
	struct img_secrets *secrets; /* NULL: none */
	struct flat before;	     /* IMAGE */
	struct img_fault fault;
	struct img_record *record; /* of the file that the scenario writes */
	struct workload work;	   /* scenario write */
	uint64_t cases, refused, failures;
} test = { .to = "qcow2", .options = "", .seed = 1 };

/* The file of the scenario: record what reaches it, let requests fail before they do. */
static struct img_storage *faulty(const struct flat *from, const char *name, bool recorded)
{
	struct img_storage *s = flat_storage(from, name);

	if ((recorded && img_storage_record(s, test.record, &s)) ||
	    img_storage_fault(s, &test.fault, &s))
		abort();
	return s;
}

static int open_image(struct img_storage *s, unsigned flags, struct img **img,
		      struct img_error *err)
{
	struct img_open_options options = {
		.format = test.format,
		.flags = flags,
		.io = IMG_IO_THREADS,
		.secrets = test.secrets,
	};

	return img_open_storage(s, test.path, &options, img, err);
}

static int close_after(struct img *img, int rc, struct img_error *err)
{
	int closed = img_close(img, rc ? NULL : err);

	return rc ? rc : closed;
}

/* ---- Scenarios ---- */

static int read_all(struct img *img, struct img_error *err)
{
	static uint8_t buf[1 << 20];
	int rc = 0;

	for (uint64_t off = 0; off < img_size(img) && !rc; off += sizeof(buf))
		rc = img_read(img, off, buf, (size_t)min_u64(sizeof(buf), img_size(img) - off),
			      err);
	return rc;
}

static int run_open(struct img_error *err)
{
	struct img *img;
	int rc = open_image(faulty(&test.before, test.path, true), 0, &img, err);

	if (rc)
		return rc;
	return close_after(img, read_all(img, err), err);
}

static int run_write(struct img_error *err)
{
	uint64_t at = test.fault.at;
	struct img *img;
	int rc;

	/* The opening has its own scenario; what was there is learnt before anything fails. */
	test.fault.at = UINT64_MAX;
	rc = open_image(faulty(&test.before, test.path, true), IMG_OPEN_WRITE | IMG_OPEN_UNMAP,
			&img, err);
	if (rc)
		return rc;
	workload_init(&test.work, img);
	test.work.compress = test.compress;
	atomic_store(&test.fault.count, 0);
	test.fault.at = at;
	workload_run(&test.work, img, test.record, test.seed, REQUESTS, false);
	if (test.work.rc)
		rc = img_fail(err, test.work.rc, "%s", test.work.sentence);
	return close_after(img, rc, err);
}

static int give_passphrase(struct img_creating *c, const char *option, img_passphrase_fn *use,
			   void *user, struct img_error *err)
{
	const struct img_secret_request request = { .image = c->name, .option = option };

	return img_secrets_use(test.secrets, NULL, &request, use, user, err);
}

/* What the option says, as the image floor passes it on. */
static enum img_preallocate preallocation(const struct img_options *options)
{
	static const char *const modes[] = { "off", "metadata", "falloc", "full" };
	const char *text = strstr(test.options, "preallocation=")
				   ? img_options_string(options, "preallocation")
				   : "off";

	for (size_t i = 0; i < IMG_ARRAY_LEN(modes); i++)
		if (!strcmp(text, modes[i]))
			return (enum img_preallocate)i;
	fprintf(stderr, "fault: no preallocation is called '%s'\n", text);
	exit(2);
}

static int make_image(const char *format, uint64_t size, struct img_storage *file,
		      struct img_error *err)
{
	const struct img_driver *driver = img_driver_named(format);
	struct img_creating c = { .name = "new",
				  .file = file,
				  .size = size,
				  .passphrase = give_passphrase,
				  .can_ask = test.secrets };
	struct img_options *options = img_options_new(driver->create_options);
	int rc = img_options_parse(options, test.options, err);

	c.options = options;
	c.preallocate = preallocation(options);
	if (!rc && driver->create_check)
		rc = driver->create_check(&c, err);
	if (!rc)
		rc = driver->create(&c, err);
	if (c.handover)
		c.free_handover(c.handover);
	img_options_free(options);
	return rc;
}

static int run_create(struct img_error *err)
{
	static const struct flat nothing;
	struct img_storage *s = faulty(&nothing, "new", true);
	int rc = make_image(test.format, NEW_BYTES, s, err);

	img_storage_close(s);
	return rc;
}

/* Requests to the source and to the target count alike. */
static int run_copy(struct img_error *err)
{
	struct img_copy_options copy = { .target_is_zero = true,
					 .io = IMG_IO_THREADS,
					 .compress = strstr(test.to, "-c") != NULL };
	struct img_open_options options = { .flags = IMG_OPEN_WRITE,
					    .io = IMG_IO_THREADS,
					    .secrets = test.secrets };
	char *to = strndup(test.to, strcspn(test.to, "-"));
	struct img *source = NULL, *target = NULL;
	struct img_storage *s;
	int rc;

	options.format = to;
	rc = open_image(faulty(&test.before, test.path, false), 0, &source, err);
	if (rc)
		goto out;
	if (img_storage_memory("new", 0, UINT64_MAX / 4, &s) ||
	    img_storage_record(s, test.record, &s) || img_storage_fault(s, &test.fault, &s))
		abort();
	rc = make_image(to, img_size(source), s, err);
	if (rc) {
		img_storage_close(s);
		goto out;
	}
	rc = img_open_storage(s, "new", &options, &target, err);
	if (!rc)
		rc = img_copy(&source, 1, target, &copy, err);
	if (!rc)
		rc = img_flush(target, err);
out:
	if (target)
		rc = close_after(target, rc, err);
	img_close(source, NULL);
	free(to);
	return rc;
}

static void limit_files(uint64_t bytes)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_FSIZE, &limit))
		abort();
	limit.rlim_cur = bytes == UINT64_MAX ? limit.rlim_max : bytes;
	if (setrlimit(RLIMIT_FSIZE, &limit))
		abort();
}

static void fail(const char *what, const char *sentence)
{
	if (test.failures++ < 5)
		fprintf(stderr, "fault: ops %x, request %" PRIu64 "%s, errno %d: %s: %s\n",
			test.fault.ops, test.fault.at, test.fault.sticky ? " and all after" : "",
			-test.fault.rc, what, sentence);
}

/* Faults of writing: the file may have `at` steps of bytes; it is counted in these too. */
static int run_stream(struct img_error *err)
{
	static const char *const options[] = { "subformat=streamOptimized", NULL };
	bool limited = test.fault.ops & 1u << IMG_IO_WRITE;
	uint64_t at = test.fault.at;
	struct img_create_options create = { .format = "vmdk",
					     .options = options,
					     .have_size = true,
					     .io = IMG_IO_THREADS };
	struct img_copy_options copy = { .io = IMG_IO_THREADS, .parallel = 3 };
	struct img *source;
	struct stat st;
	int rc = open_image(faulty(&test.before, test.path, false), 0, &source, err);

	unlink(STREAM_NAME);
	if (rc)
		return rc;
	create.size = img_size(source);
	if (limited && at != UINT64_MAX)
		limit_files(at * LIMIT_STEP);
	rc = img_copy_to_sink(&source, 1, STREAM_NAME, -1, &create, &copy, err);
	limit_files(UINT64_MAX);
	if (rc && !access(STREAM_NAME, F_OK))
		fail("a stream that failed has its name", img_error_text(err));
	if (!rc && limited && !stat(STREAM_NAME, &st))
		atomic_store(&test.fault.count, (uint64_t)st.st_size / LIMIT_STEP);
	return close_after(source, rc, err);
}

static int run_repair(struct img_error *err)
{
	struct img_check_result result;
	struct img *img;
	int rc = open_image(faulty(&test.before, test.path, true), IMG_OPEN_WRITE | IMG_OPEN_CHECK,
			    &img, err);

	if (rc)
		return rc;
	rc = img_check(img, IMG_REPAIR_ALL, NULL, NULL, &result, err);
	if (!rc && result.check_errors)
		rc = img_fail(err, -EIO, "%" PRIu64 " errors while checking", result.check_errors);
	return close_after(img, rc, err);
}

static int run_resize(struct img_error *err)
{
	struct img *img;
	int rc = open_image(faulty(&test.before, test.path, true), IMG_OPEN_WRITE, &img, err);

	if (rc)
		return rc;
	uint64_t size = img_size(img);

	rc = img_resize(img, size * 2, IMG_PREALLOCATE_OFF, err);
	if (!rc)
		rc = img_resize(img, size / 2 / SECTOR * SECTOR, IMG_PREALLOCATE_OFF, err);
	return close_after(img, rc, err);
}

static const struct scenario {
	const char *name;
	int (*run)(struct img_error *err);
	bool created;	     /* what is left belongs to a file that is thrown away on failure */
	bool may_be_corrupt; /* it was before */
} scenarios[] = {
	{ "open", run_open, false, false },
	{ "write", run_write, false, false },
	{ "copy", run_copy, true, false },
	{ "stream", run_stream, true, false },
	{ "repair", run_repair, false, true },
	{ "resize", run_resize, false, false },
	{ "create", run_create, true, false },
};

/* ---- Judging ---- */

/* Does img hold what IMAGE does? */
static int compare(struct img *img, struct img_error *err)
{
	struct img_compare_options options = { .io = IMG_IO_THREADS };
	struct img_compare_result result;
	const char *format = test.format;
	struct img *before;
	int rc;

	test.format = test.image_format;
	rc = open_image(flat_storage(&test.before, test.path), 0, &before, err);
	test.format = format;
	if (rc)
		return rc;
	rc = img_compare(before, img, &options, &result, err);
	if (!rc && !result.identical)
		rc = img_fail(err, -EBADMSG, "not the same at %" PRIu64, result.offset);
	img_close(before, NULL);
	return rc;
}

/* Does what is left open, is it sound, does it hold what it must? */
static void examine(const struct scenario *scenario, int rc, struct img_error *err)
{
	struct img_check_result result = { 0 };
	struct lines lines = { 0 };
	struct flat left = { 0 };
	struct img *img = NULL;
	const char *format = test.format;
	size_t n = img_record_count(test.record);
	char to[32];
	int checked;

	if (rc && scenario->created)
		return;
	if (!scenario->created)
		flat_copy(&left, &test.before);
	for (size_t i = 0; i < n; i++)
		flat_apply(&left, img_record_at(test.record, i));
	if (scenario->run == run_copy) { /* without the mark of compression */
		snprintf(to, sizeof(to), "%.*s", (int)strcspn(test.to, "-"), test.to);
		test.format = to;
	}
	if (scenario->run == run_stream) {
		test.format = "vmdk";
		flat_load(&left, STREAM_NAME);
	}
	if (open_image(flat_storage(&left, test.path),
		       scenario->may_be_corrupt ? IMG_OPEN_CHECK : 0, &img, err)) {
		fail("what is left cannot be opened", img_error_text(err));
		goto out;
	}
	checked = img_check(img, 0, lines_add, &lines, &result, err);
	if (checked && checked != -ENOTSUP)
		fail("what is left cannot be checked", img_error_text(err));
	else if (result.corruptions > (rc ? lines_not_closed(&lines) : 0) &&
		 !(rc && scenario->may_be_corrupt))
		fail("what is left is corrupt", lines.text ? lines.text : "");
	else if ((scenario->run == run_stream || scenario->run == run_copy) && compare(img, err))
		fail("what is left is wrong", img_error_text(err));
	else if (scenario->run == run_write && workload_judge(&test.work, img, n, err))
		fail("what is left is wrong", img_error_text(err));
	else if (read_all(img, err))
		fail("what is left cannot be read", img_error_text(err));
out:
	test.format = format;
	img_close(img, NULL);
	free(lines.text);
	free(left.bytes);
}

static uint64_t one_case(const struct scenario *scenario, unsigned ops, uint64_t at, int code,
			 bool sticky)
{
	struct img_error *err = img_error_new();
	uint64_t seen;
	int rc;

	test.fault = (struct img_fault){ .ops = ops, .at = at, .rc = code, .sticky = sticky };
	test.record = img_record_new();
	rc = scenario->run(err);
	seen = atomic_load(&test.fault.count);
	test.fault.at = at;
	test.cases++;
	test.refused += rc != 0;
	if (at == UINT64_MAX && rc)
		fail("fails by itself", img_error_text(err));
	else if (rc && !*img_error_text(err))
		fail("refused without a word", strerror(-rc));
	else
		examine(scenario, rc, err);
	img_record_free(test.record);
	workload_free(&test.work);
	img_error_free(err);
	return seen;
}

int main(int argc, char **argv)
{
	static const struct kind {
		unsigned ops;
		int code;
	} kinds[] = {
		{ 1u << IMG_IO_READ, -EIO },
		{ 1u << IMG_IO_WRITE | 1u << IMG_IO_ZERO, -EIO },
		{ 1u << IMG_IO_WRITE | 1u << IMG_IO_ZERO | IMG_FAULT_RESIZE, -ENOSPC },
		{ 1u << IMG_IO_SYNC, -EIO },
		{ 1u << IMG_IO_PUNCH, -EIO },
		{ IMG_FAULT_RESIZE, -EFBIG },
	};
	const struct scenario *scenario = NULL;
	uint64_t cases = 60;

	for (size_t i = 0; argc > 3 && i < sizeof(scenarios) / sizeof(*scenarios); i++) {
		if (!strcmp(argv[1], scenarios[i].name))
			scenario = &scenarios[i];
	}
	if (!scenario) {
		fprintf(stderr, "usage: fault SCENARIO IMAGE FORMAT [KEY=VALUE...]\n");
		return 2;
	}
	test.path = argv[2];
	test.format = test.image_format = argv[3];
	signal(SIGXFSZ, SIG_IGN);
	for (int i = 4; i < argc; i++) {
		if (!strncmp(argv[i], "to=", 3))
			test.to = argv[i] + 3;
		else if (!strncmp(argv[i], "options=", 8))
			test.options = argv[i] + 8;
		else if (!strncmp(argv[i], "seed=", 5))
			test.seed = strtoull(argv[i] + 5, NULL, 0);
		else if (!strncmp(argv[i], "compress=", 9))
			test.compress = argv[i][9] == '1';
		else if (!strncmp(argv[i], "secret=", 7))
			test.secrets = one_passphrase(argv[i] + 7);
		else if (!strncmp(argv[i], "cases=", 6))
			cases = max_u64(strtoull(argv[i] + 6, NULL, 0), 1);
	}
	if (scenario->run != run_create)
		flat_load(&test.before, test.path);
	for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
		uint64_t n = one_case(scenario, kinds[k].ops, UINT64_MAX, kinds[k].code, false);
		uint64_t step = max_u64(n / cases, 1);

		for (uint64_t at = 0; at < n && test.failures < 5; at += step) {
			one_case(scenario, kinds[k].ops, at, kinds[k].code, false);
			one_case(scenario, kinds[k].ops, at, kinds[k].code, true);
		}
	}
	printf("%" PRIu64 " cases, %" PRIu64 " refused, %" PRIu64 " failures\n", test.cases,
	       test.refused, test.failures);
	free(test.before.bytes);
	img_secrets_free(test.secrets);
	return test.failures ? 1 : 0;
}
