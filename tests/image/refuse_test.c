/*
 * What a program must not do is refused, with a sentence, and nothing has happened; and what it may
 * do from several threads works from several threads.
 */
#include "tests/image/folder.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

TestSuite(requests, .init = folder_make, .fini = folder_remove, .timeout = 30);
TestSuite(refuse, .init = folder_make, .fini = folder_remove, .timeout = 30);

static struct img *make_and_open(unsigned flags)
{
	make_image("a.qcow2", "qcow2", 4 << 20, NULL, NULL);
	return must_open("a.qcow2", "qcow2", flags);
}

static struct img_queue *new_queue(void)
{
	struct img_queue *q;

	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	return q;
}

/* ---- Flags of opening ---- */

static void refused_to_open(const struct img_open_options *o, const char *says)
{
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	cr_assert_eq(img_open("a.qcow2", o, &img, err), -EINVAL);
	cr_assert(strstr(img_error_text(err), says), "%s", img_error_text(err));
	cr_assert_null(img);
	img_error_free(err);
}

Test(refuse, flags_that_contradict_each_other)
{
	struct img_open_options o = { .format = "qcow2" };
	struct img *img;

	img_close(make_and_open(0), NULL);
	o.flags = IMG_OPEN_SHARE | IMG_OPEN_WRITE;
	refused_to_open(&o, "SHARE and WRITE");
	o.flags = IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT;
	refused_to_open(&o, "DIRECT and TRY_DIRECT");
	o.flags = IMG_OPEN_UNSAFE | IMG_OPEN_WRITETHROUGH;
	refused_to_open(&o, "UNSAFE and WRITETHROUGH");
	cr_assert_eq(img_open(NULL, NULL, &img, NULL), -EINVAL);
}

/* ---- Flags of requests ---- */

static void never(void *user, int rc, const struct img_error *err)
{
	(void)user, (void)rc, (void)err;
	cr_assert_fail("done() of what was refused");
}

Test(refuse, flags_that_a_request_has_not_or_that_contradict_each_other)
{
	static const unsigned all = IMG_SUBMIT_ORDERED | IMG_SUBMIT_COMPRESS |
				    IMG_SUBMIT_MAY_UNMAP | IMG_SUBMIT_FUA |
				    IMG_SUBMIT_KEEP_ALLOCATED | IMG_SUBMIT_FAST;
	static const unsigned taken[] = {
		0,
		IMG_SUBMIT_ORDERED | IMG_SUBMIT_COMPRESS | IMG_SUBMIT_FUA,
		all & ~(unsigned)IMG_SUBMIT_COMPRESS,
		IMG_SUBMIT_ORDERED | IMG_SUBMIT_FUA,
	};
	struct img_error *err = img_error_new();
	static char bytes[65536];
	struct img_queue *q;
	struct img *img;

	make_image("a.qcow2", "qcow2", 1 << 20, NULL, NULL);
	img = must_open("a.qcow2", "qcow2", IMG_OPEN_WRITE);
	cr_assert_eq(img_queue_new(IMG_IO_THREADS, &q, NULL), 0);
	for (int kind = 0; kind < 4; kind++) {
		for (unsigned bit = 1; bit; bit <<= 1) {
			struct iovec iov = { bytes, sizeof(bytes) };
			int rc;

			if (taken[kind] & bit)
				continue;
			rc = kind == 0 ? img_submit_readv(q, img, 0, &iov, 1, bit, never, NULL, err)
			     : kind == 1
				     ? img_submit_writev(q, img, 0, &iov, 1, bit, never, NULL, err)
			     : kind == 2
				     ? img_submit_zero(q, img, 0, 65536, bit, never, NULL, err)
				     : img_submit_discard(q, img, 0, 65536, bit, never, NULL, err);
			cr_assert_eq(rc, -EINVAL, "kind %d, flag %#x", kind, bit);
			cr_assert_eq(img_error_code(err), -EINVAL);
			cr_assert(strstr(img_error_text(err), "flags"), "%s", img_error_text(err));
		}
	}
	cr_assert_eq(img_zero_with(img, 0, 65536, IMG_SUBMIT_MAY_UNMAP | IMG_SUBMIT_KEEP_ALLOCATED,
				   err),
		     -EINVAL);
	cr_assert(strstr(img_error_text(err), "contradict"), "%s", img_error_text(err));
	cr_assert_eq(img_submit_zero(q, img, 512, 1 << 20, 0, never, NULL, err), -EINVAL);
	cr_assert(strstr(img_error_text(err), "past the end"), "%s", img_error_text(err));
	cr_assert_eq(img_queue_in_flight(q), 0);
	cr_assert_eq(
		img_write_with(img, 0, bytes, 65536, IMG_SUBMIT_FUA | IMG_SUBMIT_COMPRESS, err), 0);
	cr_assert_eq(img_discard_with(img, 0, 65536, IMG_SUBMIT_FUA, err), 0);
	img_queue_free(q);
	must_close(img);
	img_error_free(err);
}

/* What is to stay or get allocated has room in the file afterwards, whatever it was. */
Test(requests, zeroes_that_are_allocated)
{
	static const char *const formats[] = { "raw", "qcow2", "vmdk" };
	static char bytes[65536];

	for (size_t i = 0; i < COUNT(formats); i++) {
		struct img_map_entry e;
		struct img *img;

		memset(bytes, 1, sizeof(bytes));
		make_image("z", formats[i], 4 << 20, NULL, NULL);
		img = must_open("z", formats[i], IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
		cr_assert_eq(img_write(img, 1 << 20, bytes, sizeof(bytes), NULL), 0);
		cr_assert_eq(img_zero(img, 2 << 20, 65536, NULL), 0);
		cr_assert_eq(img_zero_with(img, 512, (3 << 20) + 512, IMG_SUBMIT_KEEP_ALLOCATED,
					   NULL),
			     0);
		for (uint64_t off = 512; off < (3 << 20) + 1024; off = e.start + e.length) {
			cr_assert_eq(img_map(img, off, (3 << 20) + 1024 - off, false, &e, NULL), 0);
			cr_assert(e.present && e.has_offset, "%s at %lu", formats[i], (unsigned long)off);
		}
		cr_assert_eq(img_read(img, 1 << 20, bytes, sizeof(bytes), NULL), 0);
		cr_assert(!bytes[0] && !memcmp(bytes, bytes + 1, sizeof(bytes) - 1));
		must_close(img);
		remove("z");
	}
}

/* ---- What is in flight ---- */

struct calls {
	struct img *img;
	struct img_queue *q;
	int n, rc, close_rc, free_rc, run_rc;
};

static void note(void *user, int rc, const struct img_error *err)
{
	struct calls *c = user;

	(void)err;
	c->n++;
	c->rc |= rc;
}

static void misuse(void *user, int rc, const struct img_error *err)
{
	struct calls *c = user;

	note(user, rc, err);
	c->close_rc = img_close(c->img, NULL);
	c->free_rc = img_queue_close(c->q, NULL);
	c->run_rc = img_queue_run(c->q, true);
}

Test(refuse, closing_what_has_requests_in_flight)
{
	struct img_error *err = img_error_new();
	struct calls c = { .img = make_and_open(IMG_OPEN_WRITE), .q = new_queue() };
	static uint8_t buf[65536];
	struct iovec iov = { buf, sizeof(buf) };

	for (int kind = 0; kind < 4; kind++) {
		iov = (struct iovec){ buf, sizeof(buf) };
		cr_assert_eq(
			kind == 0   ? img_submit_readv(c.q, c.img, 0, &iov, 1, 0, note, &c, NULL)
			: kind == 1 ? img_submit_writev(c.q, c.img, 0, &iov, 1, 0, note, &c, NULL)
			: kind == 2 ? img_submit_discard(c.q, c.img, 0, 65536, 0, note, &c, NULL)
				    : img_submit_flush(c.q, c.img, note, &c, NULL),
			0);
		cr_assert_eq(img_queue_close(c.q, err), -EBUSY);
		cr_assert(strstr(img_error_text(err), "1 requests are in flight") ||
				  strstr(img_error_text(err), "1 requests in flight"),
			  "%s", img_error_text(err));
		cr_assert_eq(img_close(c.img, err), -EBUSY);
		cr_assert(strstr(img_error_text(err), "a.qcow2"), "%s", img_error_text(err));
		cr_assert_eq(img_resize(c.img, 8 << 20, IMG_PREALLOCATE_OFF, err), -EDEADLK);
		while (img_queue_in_flight(c.q))
			img_queue_run(c.q, true);
	}
	cr_assert_eq(c.n, 4);
	cr_assert_eq(c.rc, 0);
	cr_assert_eq(img_queue_close(c.q, err), 0);
	cr_assert_eq(img_close(c.img, err), 0);
	img_error_free(err);
}

Test(refuse, closing_and_running_inside_a_callback)
{
	struct calls c = { .img = make_and_open(IMG_OPEN_WRITE), .q = new_queue() };
	uint8_t buf[512];
	struct iovec iov = { buf, sizeof(buf) };

	cr_assert_eq(img_submit_readv(c.q, c.img, 0, &iov, 1, 0, misuse, &c, NULL), 0);
	while (img_queue_in_flight(c.q))
		img_queue_run(c.q, true);
	cr_assert_eq(c.n, 1);
	cr_assert_eq(c.close_rc, -EDEADLK);
	cr_assert_eq(c.free_rc, -EDEADLK);
	cr_assert_eq(c.run_rc, -EDEADLK);
	cr_assert_eq(img_queue_close(c.q, NULL), 0);
	cr_assert_eq(img_queue_close(NULL, NULL), 0);
	cr_assert_eq(img_close(c.img, NULL), 0);
}

Test(refuse, changes_to_an_image_that_is_read_only_in_one_way)
{
	struct img *img = make_and_open(0);
	struct img_queue *q = new_queue();
	struct calls c = { 0 };
	uint8_t buf[512] = { 0 };
	struct iovec iov = { buf, sizeof(buf) };

	cr_assert_eq(img_write(img, 0, buf, 512, NULL), -EROFS);
	cr_assert_eq(img_zero(img, 0, 512, NULL), -EROFS);
	cr_assert_eq(img_discard(img, 0, 512, NULL), -EROFS);
	cr_assert_eq(img_resize(img, 8 << 20, IMG_PREALLOCATE_OFF, NULL), -EROFS);
	cr_assert_eq(img_submit_writev(q, img, 0, &iov, 1, 0, note, &c, NULL), -EROFS);
	cr_assert_eq(img_submit_zero(q, img, 0, 512, 0, note, &c, NULL), -EROFS);
	cr_assert_eq(img_submit_discard(q, img, 0, 512, 0, note, &c, NULL), -EROFS);
	cr_assert_eq(img_flush(img, NULL), 0);
	cr_assert_eq(img_submit_flush(q, img, note, &c, NULL), 0);
	while (img_queue_in_flight(q))
		img_queue_run(q, true);
	cr_assert_eq(c.rc, 0);
	img_queue_free(q);
	img_close(img, NULL);
}

/* ---- Processes and threads ---- */

static void in_child(struct img *img, struct img_queue *q)
{
	struct calls c = { 0 };
	uint8_t buf[4096];
	struct iovec iov = { buf, sizeof(buf) };
	struct img_queue *own = new_queue();
	struct img *other;
	struct img_map_entry e;

	cr_assert_eq(img_read(img, 0, buf, 512, NULL), -EPERM);
	cr_assert_eq(img_write(img, 0, buf, 512, NULL), -EPERM);
	cr_assert_eq(img_flush(img, NULL), -EPERM);
	cr_assert_eq(img_map(img, 0, 512, true, &e, NULL), -EPERM);
	cr_assert_eq(img_submit_readv(own, img, 0, &iov, 1, 0, note, &c, NULL), -EPERM);
	cr_assert_eq(img_submit_flush(own, img, note, &c, NULL), -EPERM);
	cr_assert_eq(img_queue_run(q, false), -EPERM);
	cr_assert_eq(img_queue_close(q, NULL), -EPERM);
	cr_assert_eq(img_close(img, NULL), -EPERM);
	/* what it opens itself works, compression on worker threads too */
	run("cp a.qcow2 child.qcow2");
	other = must_open("child.qcow2", "qcow2", IMG_OPEN_WRITE);
	memset(buf, 'c', sizeof(buf));
	cr_assert_eq(img_write(other, 0, buf, sizeof(buf), NULL), 0);
	cr_assert_eq(img_submit_flush(own, other, note, &c, NULL), 0);
	cr_assert_eq(img_submit_readv(own, other, 0, &iov, 1, 0, note, &c, NULL), 0);
	while (img_queue_in_flight(own))
		img_queue_run(own, true);
	cr_assert_eq(c.n, 2);
	cr_assert_eq(c.rc, 0);
	img_queue_free(own);
	cr_assert_eq(img_close(other, NULL), 0);
}

Test(refuse, a_child_what_its_parent_has_opened)
{
	struct img *img = make_and_open(IMG_OPEN_WRITE);
	struct img_queue *q = new_queue();
	uint8_t buf[512] = { 1 };
	int status;
	pid_t child;

	cr_assert_eq(img_write(img, 0, buf, 512, NULL), 0);
	cr_assert_eq(img_flush(img, NULL), 0);
	child = fork();
	if (!child) {
		in_child(img, q);
		_exit(0);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && !WEXITSTATUS(status));
	cr_assert_eq(img_read(img, 0, buf, 512, NULL), 0);
	img_queue_free(q);
	cr_assert_eq(img_close(img, NULL), 0);
}

Test(refuse, no_lock_to_a_child_that_lives_on)
{
	struct img_open_options o = { .format = "qcow2", .flags = IMG_OPEN_WRITE };
	struct img *img = make_and_open(IMG_OPEN_WRITE), *again = NULL;
	pid_t child = fork();

	if (!child) {
		pause();
		_exit(0);
	}
	cr_assert_eq(img_open("a.qcow2", &o, &again, NULL), -EAGAIN, "the parent has it");
	cr_assert_eq(img_close(img, NULL), 0);
	cr_assert_eq(img_open("a.qcow2", &o, &again, NULL), 0, "the child has not");
	cr_assert_eq(img_close(again, NULL), 0);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

static void *read_for_ever(void *arg)
{
	static uint8_t buf[1 << 20];

	for (;;)
		img_read(arg, 0, buf, sizeof(buf), NULL);
	return NULL;
}

/* AddressSanitizer takes what glibc does at the end of a cancelled thread for an overflow. */
#ifdef __SANITIZE_ADDRESS__
enum { CANCELLED_THREADS = 0 };
#else
enum { CANCELLED_THREADS = 20 };
#endif

Test(refuse, to_leave_locks_behind_with_a_cancelled_thread)
{
	struct img *img = make_and_open(IMG_OPEN_WRITE);
	uint8_t buf[512] = { 1 };

	if (!CANCELLED_THREADS)
		cr_skip_test("AddressSanitizer");

	for (int i = 0; i < CANCELLED_THREADS; i++) {
		pthread_t t;

		pthread_create(&t, NULL, read_for_ever, img);
		usleep(2000);
		pthread_cancel(t);
		pthread_join(t, NULL);
		cr_assert_eq(img_write(img, 0, buf, 512, NULL), 0);
	}
	cr_assert_eq(img_close(img, NULL), 0);
}

/* ---- Blocking calls of several threads ---- */

struct many {
	struct img *img;
	unsigned number;
	int rc;
};

static void *write_and_read(void *arg)
{
	struct many *m = arg;
	uint8_t buf[3000], back[3000];
	uint64_t off = m->number * (uint64_t)sizeof(buf);

	for (int round = 0; round < 30; round++) {
		memset(buf, (int)(m->number + (unsigned)round * 7), sizeof(buf));
		m->rc |= img_write(m->img, off, buf, sizeof(buf), NULL);
		m->rc |= img_read(m->img, off, back, sizeof(back), NULL);
		m->rc |= memcmp(buf, back, sizeof(buf)) ? 1 : 0;
	}
	return NULL;
}

Test(refuse, nothing_to_blocking_calls_of_many_threads)
{
	enum { THREADS = 100 };
	struct img *img = make_and_open(IMG_OPEN_WRITE);
	struct many m[THREADS];
	pthread_t t[THREADS];

	for (unsigned i = 0; i < THREADS; i++) {
		m[i] = (struct many){ .img = img, .number = i };
		pthread_create(&t[i], NULL, write_and_read, &m[i]);
	}
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(t[i], NULL);
		cr_assert_eq(m[i].rc, 0);
	}
	cr_assert_eq(img_close(img, NULL), 0);
	run("qemu-img check -q a.qcow2 2>/dev/null || ! command -v qemu-img >/dev/null");
}
