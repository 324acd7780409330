/*
 * I/O queues of both kinds: random requests, completions, posts, waking a poller, limits.
 */
#include "storage_help.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "libimg/storage/ioq.h"

TestSuite(ioq, .init = make_folder, .fini = remove_folder, .timeout = 120);

static void random_file(enum img_io_kind kind)
{
	for (uint32_t seed = 1; seed <= 3; seed++) {
		struct img_storage *s = new_file("f", 0);

		random_requests(s, kind, 50000, false, seed, 150);
		random_requests(s, kind, 65536, true, seed, 100);
		img_storage_close(s);
	}
}

Test(ioq, random_file_uring)
{
	random_file(IMG_IO_URING);
}

Test(ioq, random_file_threads)
{
	random_file(IMG_IO_THREADS);
}

static void random_memory(enum img_io_kind kind)
{
	for (uint32_t seed = 1; seed <= 3; seed++) {
		struct img_storage *s;

		cr_assert_eq(img_storage_memory("m", 100000, UINT64_MAX, &s), 0);
		random_requests(s, kind, 150000, false, seed, 100);
		img_storage_close(s);
	}
}

Test(ioq, random_memory_uring)
{
	random_memory(IMG_IO_URING);
}

Test(ioq, random_memory_threads)
{
	random_memory(IMG_IO_THREADS);
}

/* ---- Completions ---- */

struct simple {
	struct img_io io;
	bool done;
	int inside; /* where done() found this */
};
static int inside_submit;

static void note(struct img_io *io)
{
	struct simple *r = IMG_CONTAINER(io, struct simple, io);

	r->done = true;
	r->inside = inside_submit;
}

static void submit(struct img_ioq *q, struct simple *r, struct img_storage *s, enum img_io_op op,
		   void *buf, uint64_t off, uint64_t len)
{
	*r = (struct simple){ .io = {
				      .storage = s,
				      .op = op,
				      .off = off,
				      .len = len,
				      .done = note,
				      .iovcnt = 1,
				      .one = { buf, (size_t)len },
			      } };
	r->io.iov = &r->io.one;
	inside_submit = 1;
	img_ioq_submit(q, &r->io);
	inside_submit = 0;
}

static int wait_for(struct img_ioq *q, struct simple *r)
{
	while (!r->done)
		cr_assert_gt(img_ioq_run(q, true), 0);
	cr_assert_not(r->inside, "done() ran inside img_ioq_submit()");
	return r->io.rc;
}

static void refusals(enum img_io_kind kind)
{
	struct img_ioq *q = new_queue(kind);
	struct img_storage *s;
	struct simple r;
	char byte = 0;

	make_file("f", "hello", 5);
	s = opened("f", 0);
	submit(q, &r, s, IMG_IO_WRITE, &byte, 0, 1);
	cr_assert_eq(wait_for(q, &r), -EROFS);
	submit(q, &r, s, IMG_IO_ZERO, NULL, 0, 1);
	cr_assert_eq(wait_for(q, &r), -EROFS);
	submit(q, &r, s, IMG_IO_READ, &byte, UINT64_MAX, 1);
	cr_assert_eq(wait_for(q, &r), -EFBIG);
	submit(q, &r, s, IMG_IO_READ, &byte, INT64_MAX, 1);
	cr_assert_eq(wait_for(q, &r), -EFBIG);
	submit(q, &r, s, IMG_IO_READ, &byte, 3, 0);
	cr_assert_eq(wait_for(q, &r), 0);
	submit(q, &r, s, IMG_IO_READ, &byte, 1, 1);
	cr_assert_eq(wait_for(q, &r), 0);
	cr_assert_eq(byte, 'e');
	submit(q, &r, s, IMG_IO_SYNC, NULL, 0, 0);
	cr_assert_eq(wait_for(q, &r), 0);
	cr_assert_eq(img_ioq_run(q, false), 0);
	img_storage_close(s);
	img_ioq_free(q);
}

Test(ioq, refusals_uring)
{
	refusals(IMG_IO_URING);
}

Test(ioq, refusals_threads)
{
	refusals(IMG_IO_THREADS);
}

/* Zeroes past the end, -EIO where the file was cut behind our back. */
static void ends(enum img_io_kind kind)
{
	struct img_ioq *q = new_queue(kind);
	struct img_storage *s;
	struct simple r;
	uint8_t buf[8192], want[8192];

	memset(want, 'x', sizeof(want));
	make_file("f", want, 5000);
	memset(want + 5000, 0, sizeof(want) - 5000);
	s = opened("f", IMG_STORAGE_WRITE);
	for (uint64_t off = 0; off < 8000; off += 700) {
		memset(buf, 1, sizeof(buf));
		submit(q, &r, s, IMG_IO_READ, buf, off, sizeof(buf) - off);
		cr_assert_eq(wait_for(q, &r), 0);
		cr_assert_arr_eq(buf, want + off, sizeof(buf) - off);
		cr_assert_eq(img_storage_read(s, off, buf, sizeof(buf) - off, NULL), 0);
		cr_assert_arr_eq(buf, want + off, sizeof(buf) - off);
	}
	cr_assert_eq(truncate(in_folder("f"), 4999), 0);
	submit(q, &r, s, IMG_IO_READ, buf, 4000, 999);
	cr_assert_eq(wait_for(q, &r), 0);
	submit(q, &r, s, IMG_IO_READ, buf, 4000, 1000);
	cr_assert_eq(wait_for(q, &r), -EIO);
	submit(q, &r, s, IMG_IO_READ, buf, 4999, 3000);
	cr_assert_eq(wait_for(q, &r), -EIO);
	cr_assert_eq(img_storage_read(s, 4000, buf, 1000, NULL), -EIO);
	/* by ourselves it is no cut */
	cr_assert_eq(img_storage_resize(s, 100, IMG_PREALLOCATE_OFF, NULL), 0);
	submit(q, &r, s, IMG_IO_READ, buf, 0, 8192);
	cr_assert_eq(wait_for(q, &r), 0);
	memset(want + 100, 0, sizeof(want) - 100);
	cr_assert_arr_eq(buf, want, 8192);
	img_storage_close(s);
	img_ioq_free(q);
}

Test(ioq, ends_uring)
{
	ends(IMG_IO_URING);
}

Test(ioq, ends_threads)
{
	ends(IMG_IO_THREADS);
}

/* More buffers than the kernel takes in one call, and more requests than the ring has entries. */
static void many(enum img_io_kind kind)
{
	enum { PIECES = 5000,
	       REQUESTS = 3000 };
	static uint8_t data[PIECES * 3], back[PIECES * 3];
	static struct iovec iov[PIECES];
	static struct simple requests[REQUESTS];
	struct img_ioq *q = new_queue(kind);
	struct img_storage *s = new_file("f", 0);
	struct simple r = { 0 };

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 256);
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < PIECES; i++)
			iov[i] = (struct iovec){ (pass ? back : data) + i * 3, 3 };
		r = (struct simple){ .io = {
					     .storage = s,
					     .op = pass ? IMG_IO_READ : IMG_IO_WRITE,
					     .iov = iov,
					     .iovcnt = PIECES,
					     .off = 100,
					     .len = sizeof(data),
					     .done = note,
				     } };
		img_ioq_submit(q, &r.io);
		cr_assert_eq(wait_for(q, &r), 0);
	}
	cr_assert_arr_eq(back, data, sizeof(data));
	cr_assert_eq(atomic_load(&s->size), 100 + sizeof(data));

	for (size_t i = 0; i < REQUESTS; i++)
		submit(q, &requests[i], s, IMG_IO_WRITE, &data[i], i * 50, 1);
	for (size_t i = 0; i < REQUESTS; i++)
		cr_assert_eq(wait_for(q, &requests[i]), 0);
	for (size_t i = 0; i < REQUESTS; i++)
		submit(q, &requests[i], s, IMG_IO_READ, &back[i], i * 50, 1);
	for (size_t i = 0; i < REQUESTS; i++)
		cr_assert_eq(wait_for(q, &requests[i]), 0);
	cr_assert_arr_eq(back, data, REQUESTS);
	img_storage_close(s);
	img_ioq_free(q);
}

Test(ioq, many_uring)
{
	many(IMG_IO_URING);
}

Test(ioq, many_threads)
{
	many(IMG_IO_THREADS);
}

/* ---- Posts and polling ---- */

struct poster {
	struct img_ioq *q;
	struct counted_post {
		struct img_post post;
		struct poster *poster;
	} posts[1000];
	int ran;
	pthread_t owner;
	useconds_t pause;
};

static void count_post(struct img_post *post)
{
	struct poster *p = IMG_CONTAINER(post, struct counted_post, post)->poster;

	cr_assert(pthread_equal(pthread_self(), p->owner));
	p->ran++;
}

static void *post_all(void *arg)
{
	struct poster *p = arg;

	for (size_t i = 0; i < IMG_ARRAY_LEN(p->posts); i++) {
		p->posts[i].post.fn = count_post;
		p->posts[i].poster = p;
		img_ioq_post(p->q, &p->posts[i].post);
		if (p->pause && i % 100 == 0)
			usleep(p->pause);
	}
	return NULL;
}

static bool is_readable(struct img_ioq *q, int ms)
{
	struct pollfd fd = { .fd = img_ioq_fd(q), .events = POLLIN };

	return poll(&fd, 1, ms) == 1;
}

static void posts(enum img_io_kind kind, bool by_poll)
{
	static struct poster p[2];
	pthread_t threads[2];

	p[0].q = p[1].q = new_queue(kind);
	for (int i = 0; i < 2; i++) {
		p[i].ran = 0;
		p[i].owner = pthread_self();
		p[i].pause = i ? 3000 : 0;
		pthread_create(&threads[i], NULL, post_all, &p[i]);
	}
	while (p[0].ran < 1000 || p[1].ran < 1000) {
		if (by_poll) {
			cr_assert(is_readable(p->q, 5000), "asleep with %d and %d of 1000 run",
				  p[0].ran, p[1].ran);
			img_ioq_run(p->q, false);
		} else {
			cr_assert_gt(img_ioq_run(p->q, true), 0);
		}
	}
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	cr_assert_eq(img_ioq_run(p->q, false), 0);
	img_ioq_free(p->q);
}

Test(ioq, posts_uring)
{
	posts(IMG_IO_URING, false);
	posts(IMG_IO_URING, true);
}

Test(ioq, posts_threads)
{
	posts(IMG_IO_THREADS, false);
	posts(IMG_IO_THREADS, true);
}

/* A poller hears of the kernel's completions, of workers', and of those without either. */
static void polling(enum img_io_kind kind)
{
	static uint8_t buf[1 << 20];
	struct img_ioq *q = new_queue(kind);
	struct img_storage *file = new_file("f", 0), *memory;
	struct simple r;

	cr_assert_eq(img_storage_memory("m", 100, 100, &memory), 0);
	img_ioq_run(q, false);
	cr_assert_not(is_readable(q, 50));
	for (int i = 0; i < 50; i++) {
		struct img_storage *s = i % 3 == 2 ? memory : file;
		/* ZERO past the end of a file goes to a worker */
		enum img_io_op op = i % 3 == 1 ? IMG_IO_ZERO : IMG_IO_WRITE;

		submit(q, &r, s, op, buf, 0, s == memory ? 50 : i % 3 == 1 ? 1u << (20 + i / 8)
									   : sizeof(buf));
		if (s == file) /* hands it to the kernel */
			img_ioq_run(q, false);
		while (!r.done) {
			cr_assert(is_readable(q, 5000), "asleep in round %d", i);
			img_ioq_run(q, false);
		}
		cr_assert_eq(r.io.rc, 0);
		img_ioq_run(q, false);
		cr_assert_not(is_readable(q, 0), "still readable after round %d", i);
	}
	img_storage_close(file);
	img_storage_close(memory);
	img_ioq_free(q);
}

Test(ioq, polling_uring)
{
	polling(IMG_IO_URING);
}

Test(ioq, polling_threads)
{
	polling(IMG_IO_THREADS);
}

/* A request that is submitted again by its own completion must not keep img_ioq_run() for ever. */
struct endless {
	struct img_io io;
	struct img_ioq *q;
	unsigned ran, stop_at;
};

static void again(struct img_io *io)
{
	struct endless *e = IMG_CONTAINER(io, struct endless, io);

	if (++e->ran < e->stop_at)
		img_ioq_submit(e->q, io);
}

static void endless(enum img_io_kind kind)
{
	struct endless e = { .q = new_queue(kind), .stop_at = 1000 };
	struct img_storage *s;

	cr_assert_eq(img_storage_memory("m", 0, 100, &s), 0);
	e.io = (struct img_io){ .storage = s, .op = IMG_IO_ZERO, .len = 1, .done = again };
	img_ioq_submit(e.q, &e.io);
	img_ioq_run(e.q, true);
	cr_assert_lt(e.ran, 1000);
	while (e.ran < 1000) {
		cr_assert(is_readable(e.q, 5000), "asleep after %u", e.ran);
		img_ioq_run(e.q, false);
	}
	img_storage_close(s);
	img_ioq_free(e.q);
}

Test(ioq, endless_uring)
{
	endless(IMG_IO_URING);
}

Test(ioq, endless_threads)
{
	endless(IMG_IO_THREADS);
}

/* ---- Limits ---- */

Test(ioq, auto_always_works)
{
	static const struct {
		int what;
		rlim_t limit;
	} limits[] = {
		{ RLIMIT_MEMLOCK, 65536 },
		{ RLIMIT_MEMLOCK, 0 },
#ifndef __SANITIZE_ADDRESS__
		{ RLIMIT_AS, 1 << 30 },
#endif
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(limits); i++) {
		struct rlimit r = { limits[i].limit, limits[i].limit };
		struct img_storage *s = new_file("f", 0);

		cr_assert_eq(setrlimit((__rlimit_resource_t)limits[i].what, &r), 0);
		random_requests(s, IMG_IO_AUTO, 50000, false, 5, 100);
		random_requests(s, IMG_IO_THREADS, 50000, false, 6, 100);
		img_storage_close(s);
	}
}

/* A system call fails from now on, as io_uring_setup() does in many containers. */
static void forbid(unsigned call, unsigned rc)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | rc),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = IMG_ARRAY_LEN(code), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		cr_skip_test("no system call filters here");
}

static void forbidden(unsigned rc)
{
	struct img_error err = { 0 };
	struct img_ioq *q = NULL;
	struct img_storage *s = new_file("f", 0);

	forbid(SYS_io_uring_setup, rc);
	cr_assert_eq(img_ioq_new(IMG_IO_URING, &q, &err), -(int)rc);
	cr_assert(strstr(img_error_text(&err), "Could not set up io_uring"));
	cr_assert_eq(img_ioq_new(IMG_IO_AUTO, &q, &err), 0);
	cr_assert_eq(img_ioq_kind(q), IMG_IO_THREADS);
	img_ioq_free(q);
	random_requests(s, IMG_IO_AUTO, 50000, false, 5, 100);
	img_storage_close(s);
	img_error_clear(&err);
}

Test(ioq, forbidden_eperm)
{
	forbidden(EPERM);
}

Test(ioq, forbidden_enosys)
{
	forbidden(ENOSYS);
}

Test(ioq, what_may_be_set_up_but_not_entered)
{
	struct img_storage *s = new_file("f", 0);
	struct img_ioq *q = NULL;

	forbid(SYS_io_uring_enter, EPERM);
	cr_assert_eq(img_ioq_new(IMG_IO_URING, &q, NULL), -EPERM);
	random_requests(s, IMG_IO_AUTO, 50000, false, 5, 100);
	img_storage_close(s);
}

/* A sandbox is put on while requests are gathered and in flight. */
static void forbidden_later(bool ran_before, unsigned rc)
{
	enum { N = 300,
	       BYTES = 4096 };
	static uint8_t buf[N][BYTES];
	static struct simple r[N];
	struct img_storage *s = new_file("f", 0);
	struct img_ioq *q = new_queue(IMG_IO_URING);
	struct poster p = { .q = q, .owner = pthread_self() };
	uint8_t back[BYTES];

	for (int i = 0; i < N; i++) {
		memset(buf[i], i, BYTES);
		submit(q, &r[i], s, IMG_IO_WRITE, buf[i], (uint64_t)i * BYTES, BYTES);
		if (ran_before && i == N / 2)
			img_ioq_run(q, true);
		if (i == N * 3 / 4)
			forbid(SYS_io_uring_enter, rc);
	}
	for (int i = 0; i < N; i++)
		cr_assert_eq(wait_for(q, &r[i]), 0);
	submit(q, &r[0], s, IMG_IO_SYNC, NULL, 0, 0);
	cr_assert_eq(wait_for(q, &r[0]), 0);
	for (int i = 0; i < N; i++) {
		submit(q, &r[i], s, IMG_IO_READ, back, (uint64_t)i * BYTES, BYTES);
		cr_assert_eq(wait_for(q, &r[i]), 0);
		cr_assert_eq(memcmp(back, buf[i], BYTES), 0);
	}
	/* posts wake it still, asleep or polled for */
	post_all(&p);
	cr_assert(is_readable(q, 5000));
	while (p.ran < 1000)
		img_ioq_run(q, true);
	img_ioq_free(q);
	img_storage_close(s);
}

Test(ioq, forbidden_later_with_requests_in_flight)
{
	forbidden_later(true, EPERM);
}

Test(ioq, forbidden_later_before_the_first_run)
{
	forbidden_later(false, ENOSYS);
}

/*
 * The same whatever the sandbox answers, also what the kernel itself says when it is short of something,
 * with requests of all kinds in flight, past the page cache too.
 */
static void refused_with(unsigned rc)
{
	static const enum img_io_op ops[] = { IMG_IO_WRITE, IMG_IO_READ, IMG_IO_ZERO, IMG_IO_PUNCH,
					      IMG_IO_SYNC };
	enum { N = 100,
	       BYTES = 4096 };
	static struct simple r[2][N];
	struct img_storage *s[2] = { new_file("f", 0), new_file("g", IMG_STORAGE_TRY_DIRECT) };
	uint8_t *buf = aligned_alloc(4096, N * BYTES);
	struct img_ioq *q = new_queue(IMG_IO_URING);

	memset(buf, 1, N * BYTES);
	for (int i = 0; i < 2; i++)
		cr_assert_eq(img_storage_resize(s[i], N * BYTES, IMG_PREALLOCATE_OFF, NULL), 0);
	for (int n = 0; n < N; n++) {
		for (int i = 0; i < 2; i++) {
			enum img_io_op op = ops[(size_t)n % IMG_ARRAY_LEN(ops)];
			bool sync = op == IMG_IO_SYNC;

			submit(q, &r[i][n], s[i], op, sync ? NULL : buf + n * BYTES,
			       sync ? 0 : (uint64_t)n * BYTES, sync ? 0 : BYTES);
		}
		if (n == N / 4)
			img_ioq_run(q, true);
		if (n == N / 2)
			forbid(SYS_io_uring_enter, rc);
	}
	for (int i = 0; i < 2; i++)
		for (int n = 0; n < N; n++)
			cr_assert_eq(wait_for(q, &r[i][n]), 0, "%d", n);
	/* what comes later, too, and a queue that is made now */
	submit(q, &r[0][0], s[0], IMG_IO_READ, buf, 0, BYTES);
	cr_assert_eq(wait_for(q, &r[0][0]), 0);
	img_ioq_free(q);
	random_requests(s[0], IMG_IO_AUTO, 50000, false, 5, 50);
	for (int i = 0; i < 2; i++)
		img_storage_close(s[i]);
	free(buf);
}

#define REFUSED_WITH(rc) \
	Test(ioq, refused_later_with_##rc, .timeout = 60) \
	{ \
		refused_with(rc); \
	}
REFUSED_WITH(EPERM)
REFUSED_WITH(ENOSYS)
REFUSED_WITH(EACCES)
REFUSED_WITH(EINVAL)
REFUSED_WITH(EAGAIN)
REFUSED_WITH(EBUSY)
REFUSED_WITH(ENOMEM)
REFUSED_WITH(EINTR)

/* The kernel cancels what it has no thread for, and what belonged to a thread that has ended. */
Test(ioq, what_the_kernel_cancels_is_done_all_the_same)
{
	static const enum img_io_op ops[] = { IMG_IO_WRITE, IMG_IO_ZERO, IMG_IO_PUNCH, IMG_IO_READ,
					      IMG_IO_SYNC };
	struct img_storage *s = new_file("f", 0);
	struct img_ioq *q = new_queue(IMG_IO_URING);
	uint8_t buf[512] = { 1 };
	struct simple r;

	for (size_t i = 0; i < IMG_ARRAY_LEN(ops); i++) {
		r = (struct simple){ .io = { .storage = s,
					     .op = ops[i],
					     .len = ops[i] == IMG_IO_SYNC ? 0 : 512,
					     .done = note,
					     .iovcnt = 1,
					     .ioq = q,
					     .one = { buf, 512 } } };
		r.io.iov = &r.io.one;
		img_list_init(&r.io.link);
		s->ops->completed(s, &r.io, -ECANCELED);
		cr_assert_eq(wait_for(q, &r), 0);
	}
	cr_assert_eq(buf[0], 0, "it was zeroed before it was read");
	img_ioq_free(q);
	img_storage_close(s);
}

/* ---- A thread makes a queue, another one uses it ---- */

struct maker {
	_Atomic(struct img_ioq *) q;
	_Atomic bool stop;
	unsigned sleeps, interrupted;
};

static void *make_and_sleep(void *arg)
{
	struct maker *m = arg;
	struct timespec t = { .tv_nsec = 20 * 1000 * 1000 };

	m->q = new_queue(IMG_IO_URING);
	while (!m->stop) {
		m->sleeps++;
		m->interrupted += nanosleep(&t, NULL) != 0;
	}
	return NULL;
}

Test(ioq, who_made_a_queue_is_left_alone)
{
	static struct poster p;
	struct maker m = { .stop = false };
	pthread_t maker, poster;

	pthread_create(&maker, NULL, make_and_sleep, &m);
	while (!m.q)
		usleep(1000);
	p = (struct poster){ .q = m.q, .owner = pthread_self(), .pause = 20000 };
	pthread_create(&poster, NULL, post_all, &p);
	while (p.ran < 1000)
		img_ioq_run(m.q, true);
	m.stop = true;
	pthread_join(poster, NULL);
	pthread_join(maker, NULL);
	cr_assert_gt(m.sleeps, 2);
	cr_assert_eq(m.interrupted, 0);
	img_ioq_free(m.q);
}

static void *run_some(void *arg)
{
	struct poster *p = arg;

	p->owner = pthread_self();
	post_all(p);
	while (p->ran < 1000)
		img_ioq_run(p->q, true);
	return NULL;
}

Test(ioq, threads_may_take_turns_at_a_queue)
{
	static struct poster p;
	struct img_ioq *q = new_queue(IMG_IO_URING);

	for (int i = 0; i < 10; i++) {
		pthread_t thread;

		p = (struct poster){ .q = q };
		if (i % 2) {
			pthread_create(&thread, NULL, run_some, &p);
			pthread_join(thread, NULL); /* what it had in the ring is cancelled */
		} else {
			run_some(&p);
		}
	}
	img_ioq_free(q);
}

/* After a failed sync something is lost, so none may succeed. The ring is not filtered. */
Test(ioq, a_failed_sync_is_not_forgotten)
{
	struct img_ioq *q = new_queue(IMG_IO_URING);
	struct img_storage *s = new_file("f", 0);
	struct simple r;

	submit(q, &r, s, IMG_IO_SYNC, NULL, 0, 0);
	cr_assert_eq(wait_for(q, &r), 0);
	forbid(SYS_fdatasync, EDQUOT);
	cr_assert_eq(img_storage_write(s, 0, "x", 1, NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), -EDQUOT);
	cr_assert(atomic_load(&s->unsynced));
	submit(q, &r, s, IMG_IO_SYNC, NULL, 0, 0);
	cr_assert_eq(wait_for(q, &r), -EDQUOT);
	cr_assert(atomic_load(&s->unsynced));
	img_storage_close(s);
	img_ioq_free(q);
}

/* A write that fails half way is a failure, and nothing of it counts as the file's size. */
static void full(enum img_io_kind kind)
{
	static uint8_t data[1 << 20], back[1 << 20];
	struct rlimit before, small;
	struct img_ioq *q = new_queue(kind);
	struct img_storage *s = new_file("f", 0);
	struct simple r;

	memset(data, 'd', sizeof(data));
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &before);
	small = (struct rlimit){ 100000, before.rlim_max };
	setrlimit(RLIMIT_FSIZE, &small);
	submit(q, &r, s, IMG_IO_WRITE, data, 0, sizeof(data));
	cr_assert_eq(wait_for(q, &r), -EFBIG);
	cr_assert_eq(atomic_load(&s->size), 0);
	submit(q, &r, s, IMG_IO_ZERO, NULL, 0, sizeof(data));
	cr_assert_eq(wait_for(q, &r), -EFBIG);
	setrlimit(RLIMIT_FSIZE, &before);
	/* and whoever makes the file longer then finds zeroes there */
	cr_assert_eq(img_storage_resize(s, 200000, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_storage_read(s, 0, back, 200000, NULL), 0);
	for (size_t i = 0; i < 200000; i++)
		cr_assert_eq(back[i], 0);
	submit(q, &r, s, IMG_IO_WRITE, data, 0, sizeof(data));
	cr_assert_eq(wait_for(q, &r), 0);
	img_storage_close(s);
	img_ioq_free(q);
}

Test(ioq, full_uring)
{
	full(IMG_IO_URING);
}

Test(ioq, full_threads)
{
	full(IMG_IO_THREADS);
}

Test(ioq, no_descriptors)
{
	struct rlimit before, none;
	struct img_error err = { 0 };
	struct img_ioq *q = NULL;
	int auto_rc, threads_rc;

	getrlimit(RLIMIT_NOFILE, &before);
	none = (struct rlimit){ 0, before.rlim_max };
	setrlimit(RLIMIT_NOFILE, &none);
	threads_rc = img_ioq_new(IMG_IO_THREADS, &q, NULL);
	auto_rc = img_ioq_new(IMG_IO_AUTO, &q, &err);
	setrlimit(RLIMIT_NOFILE, &before);
	cr_assert_eq(auto_rc, -EMFILE);
	cr_assert_eq(threads_rc, -EMFILE);
	cr_assert(strstr(img_error_text(&err), "Too many open files"));
	cr_assert_null(q);
	img_error_clear(&err);
	img_ioq_free(NULL);
}

/* ---- What a ring is told once ---- */

/* A descriptor's number is used again for another file: requests must go to that one. */
Test(ioq, files_that_were_closed_are_forgotten)
{
	struct img_ioq *q = new_queue(IMG_IO_URING);
	char text[2], out[2];

	cr_assert_eq(img_ioq_set_buffers(q, NULL, 0), 0);

	for (int i = 0; i < 200; i++) {
		char name[] = { 'a', (char)('a' + i % 26), (char)('a' + i / 26), 0 };
		struct img_storage *s;
		struct simple r;

		text[0] = (char)i;
		text[1] = (char)~i;
		make_file(name, text, 2);
		s = opened(name, IMG_STORAGE_WRITE);
		memset(out, 0x55, sizeof(out));
		submit(q, &r, s, IMG_IO_READ, out, 0, 2);
		cr_assert_eq(wait_for(q, &r), 0);
		cr_assert_eq(memcmp(out, text, 2), 0, "file %d", i);
		img_storage_close(s);
		/* nobody holds it any more, or its locks would be in the way */
		img_storage_close(opened(name, IMG_STORAGE_WRITE));
	}
	img_ioq_free(q);
}

/* More files than the ring has slots, used in turn. */
Test(ioq, many_files_at_once)
{
	struct img_ioq *q = new_queue(IMG_IO_URING);
	struct img_storage *s[100];

	cr_assert_eq(img_ioq_set_buffers(q, NULL, 0), 0);

	for (int i = 0; i < 100; i++) {
		char name[] = { 'f', (char)('a' + i % 26), (char)('a' + i / 26), 0 };
		char byte = (char)i;

		make_file(name, &byte, 1);
		s[i] = opened(name, 0);
	}
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 100; i++) {
			char byte = 0x7f;
			struct simple r;

			submit(q, &r, s[i], IMG_IO_READ, &byte, 0, 1);
			cr_assert_eq(wait_for(q, &r), 0);
			cr_assert_eq(byte, (char)i);
		}
	}
	for (int i = 0; i < 100; i++)
		img_storage_close(s[i]);
	img_ioq_free(q);
}

static void registered_buffers(enum img_io_kind kind)
{
	struct img_ioq *q = new_queue(kind);
	struct img_storage *s = new_file("f", 0);
	char *a = aligned_alloc(4096, 8192), *b = aligned_alloc(4096, 8192), *c = malloc(100);
	struct iovec both[] = { { b, 8192 }, { a, 8192 } };
	char *places[] = { a, a + 4096, b, b + 8092, c };

	cr_assert(a && b && c);
	cr_assert_eq(img_ioq_set_buffers(q, both, 2), 0);
	for (size_t i = 0; i < IMG_ARRAY_LEN(places); i++) {
		struct simple r;

		memset(places[i], (int)i + 1, 100);
		submit(q, &r, s, IMG_IO_WRITE, places[i], i * 100, 100);
		cr_assert_eq(wait_for(q, &r), 0);
	}
	for (size_t i = 0; i < IMG_ARRAY_LEN(places); i++) {
		char want[100];
		struct simple r;

		memset(want, (int)(4 - i) + 1, sizeof(want));
		submit(q, &r, s, IMG_IO_READ, places[i], (4 - i) * 100, 100);
		cr_assert_eq(wait_for(q, &r), 0);
		cr_assert_eq(memcmp(places[i], want, 100), 0);
	}
	/* others in their place, then none */
	cr_assert_eq(img_ioq_set_buffers(q, both, 1), 0);
	cr_assert_eq(img_ioq_set_buffers(q, NULL, 0), 0);
	img_storage_close(s);
	img_ioq_free(q);
	free(a);
	free(b);
	free(c);
}

Test(ioq, registered_buffers_uring)
{
	registered_buffers(IMG_IO_URING);
}

Test(ioq, registered_buffers_threads)
{
	registered_buffers(IMG_IO_THREADS);
}
