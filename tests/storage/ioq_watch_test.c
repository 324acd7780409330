/*
 * A storage that has no threads: a socket to a server for each queue that it is used on, watched by
 * that queue. Random requests, deadlines, storages and queues that go first, sandboxes, threads that
 * take turns.
 */
#include "storage_help.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "libimg/base/iovec.h"
#include "libimg/storage/ioq_attach.h"
#include "libimg/storage/ioq_private.h"

TestSuite(ioq_watch, .init = make_folder, .fini = remove_folder, .timeout = 120);

enum { SIZE = 400000 };

/* ---- The server: one thread for each socket, answers in order ---- */

struct message {
	enum img_io_op op;
	uint64_t off, len;
};

struct remote {
	struct img_storage base;
	pthread_mutex_t lock;
	uint8_t bytes[SIZE];
	_Atomic unsigned attached, connections; /* now; ever */
	_Atomic bool silent;			/* it takes requests and answers none */
};

struct server {
	struct remote *remote;
	int fd;
};

static bool all_of(int fd, void *buf, size_t len, bool out)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = out ? send(fd, (char *)buf + at, len - at, MSG_NOSIGNAL)
				: recv(fd, (char *)buf + at, len - at, 0);

		if (n <= 0)
			return false;
		at += (size_t)n;
	}
	return true;
}

static void *serve(void *arg)
{
	struct server *server = arg;
	struct remote *r = server->remote;
	uint8_t *buf = malloc(SIZE);
	struct message m;

	while (all_of(server->fd, &m, sizeof(m), false)) {
		if (m.op == IMG_IO_WRITE && !all_of(server->fd, buf, m.len, false))
			break;
		if (r->silent)
			continue;
		pthread_mutex_lock(&r->lock);
		if (m.op == IMG_IO_WRITE)
			memcpy(r->bytes + m.off, buf, m.len);
		else if (m.op == IMG_IO_READ)
			memcpy(buf, r->bytes + m.off, m.len);
		else if (m.op != IMG_IO_SYNC)
			memset(r->bytes + m.off, 0, m.len);
		pthread_mutex_unlock(&r->lock);
		if (!all_of(server->fd, &m, sizeof(m), true) ||
		    (m.op == IMG_IO_READ && !all_of(server->fd, buf, m.len, true)))
			break;
	}
	close(server->fd);
	free(buf);
	free(server);
	return NULL;
}

/* ---- The storage ---- */

/* What it keeps for a queue. */
struct connection {
	struct img_watch watch;
	struct remote *remote;
	struct img_ioq *q;
	int fd;
	pthread_t server;
	struct img_list unsent, unanswered; /* img_io.link; transferred counts with the message */
	size_t came;			    /* of the first answer */
};

static int remote_attach(struct img_storage *s, struct img_ioq *q, void **state);
static void remote_detach(struct img_storage *s, struct img_ioq *q, void *state);

static struct img_list *first_of(struct img_list *l)
{
	return img_list_empty(l) ? NULL : l->next;
}

static uint64_t outgoing(const struct img_io *io)
{
	return sizeof(struct message) + (io->op == IMG_IO_WRITE ? io->len : 0);
}

static uint64_t incoming(const struct img_io *io)
{
	return sizeof(struct message) + (io->op == IMG_IO_READ ? io->len : 0);
}

/* The next piece of a message and a payload, of which `at` bytes are through. */
static struct iovec piece(struct img_io *io, struct message *m, uint64_t at)
{
	struct img_cursor c = { .iov = io->iov, .iovcnt = io->iovcnt };
	struct iovec first = { .iov_len = 0 };

	if (at < sizeof(*m))
		return (struct iovec){ (char *)m + at, sizeof(*m) - at };
	img_cursor_advance(&c, at - sizeof(*m));
	img_cursor_window(&c, &first, 1);
	return first;
}

/* Send and receive what goes through now; then wait for more. */
static void work(struct connection *c)
{
	struct img_list *n;

	while ((n = first_of(&c->unsent))) {
		struct img_io *io = IMG_CONTAINER(n, struct img_io, link);
		struct message m = { io->op, io->off, io->len };
		struct iovec iov = piece(io, &m, io->transferred);
		ssize_t sent = send(c->fd, iov.iov_base, iov.iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0)
			break;
		io->transferred += (uint64_t)sent;
		if (io->transferred == outgoing(io)) {
			img_list_del(&io->link);
			img_list_add_tail(&c->unanswered, &io->link);
		}
	}
	while ((n = first_of(&c->unanswered))) {
		struct img_io *io = IMG_CONTAINER(n, struct img_io, link);
		struct message m;
		struct iovec iov = piece(io, &m, c->came);
		ssize_t got = recv(c->fd, iov.iov_base, iov.iov_len, MSG_DONTWAIT);

		if (got <= 0)
			break;
		c->came += (size_t)got;
		if (c->came == incoming(io)) {
			c->came = 0;
			img_list_del(&io->link);
			img_ioq_complete(c->q, io);
		}
	}
	img_watch_set(&c->watch, c->fd,
		      (unsigned)(POLLIN | (img_list_empty(&c->unsent) ? 0 : POLLOUT)));
}

static void ready(struct img_watch *w, unsigned events)
{
	struct connection *c = IMG_CONTAINER(w, struct connection, watch);
	struct img_list *n;

	if (events) {
		img_watch_set_deadline(w, 500000000);
		work(c);
		return;
	}
	/* it has been silent for too long */
	while ((n = img_list_pop(&c->unanswered))) {
		struct img_io *io = IMG_CONTAINER(n, struct img_io, link);

		io->rc = -ETIMEDOUT;
		img_ioq_complete(c->q, io);
	}
}

static void remote_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	struct connection *c;
	void *state;

	io->rc = img_ioq_attach(q, s, &state);
	if (io->rc) {
		img_ioq_complete(q, io);
		return;
	}
	c = state;
	if (io->op == IMG_IO_SYNC)
		atomic_store(&s->unsynced, false);
	img_list_add_tail(&c->unsent, &io->link);
	img_watch_set_deadline(&c->watch, 500000000);
	work(c);
}

static void remote_close(struct img_storage *s)
{
	free(IMG_CONTAINER(s, struct remote, base));
}

static const struct img_storage_ops remote_ops = {
	.submit = remote_submit,
	.attach = remote_attach,
	.detach = remote_detach,
	.close = remote_close,
};

static int remote_attach(struct img_storage *s, struct img_ioq *q, void **state)
{
	struct connection *c = calloc(1, sizeof(*c));
	struct server *server = calloc(1, sizeof(*server));
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*server = (struct server){ IMG_CONTAINER(s, struct remote, base), fds[1] };
	c->remote = server->remote;
	c->q = q;
	c->fd = fds[0];
	c->watch.fn = ready;
	img_list_init(&c->unsent);
	img_list_init(&c->unanswered);
	img_watch_add(q, &c->watch);
	img_watch_set(&c->watch, c->fd, POLLIN);
	cr_assert_eq(pthread_create(&c->server, NULL, serve, server), 0);
	c->remote->attached++;
	c->remote->connections++;
	*state = c;
	return 0;
}

static void remote_detach(struct img_storage *s, struct img_ioq *q, void *state)
{
	struct connection *c = state;

	cr_assert_eq(&c->remote->base, s);
	cr_assert_eq(c->q, q);
	img_watch_remove(&c->watch);
	shutdown(c->fd, SHUT_RDWR);
	pthread_join(c->server, NULL);
	close(c->fd);
	c->remote->attached--;
	free(c);
}

static struct remote *new_remote(void)
{
	struct remote *r = calloc(1, sizeof(*r));

	r->base.ops = &remote_ops;
	r->base.name = (char *)(uintptr_t) "remote";
	r->base.writable = true;
	r->base.limits.io_align = r->base.limits.mem_align = 1;
	atomic_init(&r->base.size, SIZE);
	pthread_mutex_init(&r->lock, NULL);
	return r;
}

static bool done;

static void note_done(struct img_io *io)
{
	(void)io;
	done = true;
}

static void begin(struct img_ioq *q, struct img_io *io, struct remote *r, enum img_io_op op, void *buf,
		  uint64_t off, uint64_t len)
{
	*io = (struct img_io){ .storage = &r->base, .op = op, .off = off, .len = len, .done = note_done, .iovcnt = 1, .one = { buf, (size_t)len } };
	io->iov = &io->one;
	done = false;
	img_ioq_submit(q, io);
}

static int one(struct img_ioq *q, struct remote *r, enum img_io_op op, void *buf, uint64_t off,
	       uint64_t len)
{
	struct img_io io;

	begin(q, &io, r, op, buf, off, len);
	while (!done)
		cr_assert_gt(img_ioq_run(q, true), 0);
	return io.rc;
}

/* ---- */

static void random_remote(enum img_io_kind kind)
{
	for (uint32_t seed = 1; seed <= 3; seed++) {
		struct remote *r = new_remote();

		random_requests(&r->base, kind, SIZE / LANES, false, seed, 150);
		cr_assert_eq(r->attached, 0, "a queue that went has let go");
		img_storage_close(&r->base);
	}
}

Test(ioq_watch, random_uring)
{
	random_remote(IMG_IO_URING);
}

Test(ioq_watch, random_threads)
{
	random_remote(IMG_IO_THREADS);
}

static void deadlines(enum img_io_kind kind)
{
	struct remote *r = new_remote();
	struct img_ioq *q = new_queue(kind);
	uint8_t buf[1000];

	cr_assert_eq(one(q, r, IMG_IO_READ, buf, 0, sizeof(buf)), 0);
	r->silent = true;
	for (int i = 0; i < 3; i++)
		cr_assert_eq(one(q, r, IMG_IO_READ, buf, 0, sizeof(buf)), -ETIMEDOUT);
	img_ioq_free(q);
	img_storage_close(&r->base);
}

Test(ioq_watch, deadlines_uring)
{
	deadlines(IMG_IO_URING);
}

Test(ioq_watch, deadlines_threads)
{
	deadlines(IMG_IO_THREADS);
}

/* Whoever polls the queue's descriptor hears of what comes, deadlines too. */
static void polled(enum img_io_kind kind)
{
	struct remote *r = new_remote();
	struct img_ioq *q = new_queue(kind);
	struct pollfd fd = { .fd = img_ioq_fd(q), .events = POLLIN };
	uint8_t buf[1000] = { 7 };
	struct img_io io;

	for (int i = 0; i < 20; i++) {
		r->silent = i >= 18;
		begin(q, &io, r, i % 2 ? IMG_IO_READ : IMG_IO_WRITE, buf, 0, sizeof(buf));
		while (!img_ioq_run(q, false))
			cr_assert_eq(poll(&fd, 1, 10000), 1);
		cr_assert(done);
		cr_assert_eq(io.rc, i < 18 ? 0 : -ETIMEDOUT);
	}
	img_ioq_free(q);
	img_storage_close(&r->base);
}

Test(ioq_watch, polled_uring)
{
	polled(IMG_IO_URING);
}

Test(ioq_watch, polled_threads)
{
	polled(IMG_IO_THREADS);
}

/* Each queue has its connection, until the queue or the storage goes. */
static void who_goes_first(enum img_io_kind kind)
{
	struct remote *r[3] = { new_remote(), new_remote(), new_remote() };
	struct img_ioq *q[3] = { new_queue(kind), new_queue(kind), new_queue(kind) };
	uint8_t buf[100];

	for (int round = 0; round < 2; round++)
		for (int i = 0; i < 3; i++)
			for (int j = 0; j < 3; j++)
				cr_assert_eq(one(q[i], r[j], IMG_IO_READ, buf, 0, sizeof(buf)), 0);
	cr_assert_eq(r[0]->attached, 3);
	cr_assert_eq(r[0]->connections, 3);
	img_ioq_free(q[1]);
	cr_assert_eq(r[0]->attached, 2);
	img_storage_close(&r[1]->base);
	cr_assert_eq(one(q[2], r[2], IMG_IO_READ, buf, 0, sizeof(buf)), 0);
	img_storage_close(&r[0]->base);
	img_ioq_free(q[0]);
	cr_assert_eq(one(q[2], r[2], IMG_IO_READ, buf, 0, sizeof(buf)), 0);
	cr_assert_eq(r[2]->attached, 1);
	cr_assert_eq(r[2]->connections, 3);
	img_ioq_free(q[2]);
	cr_assert_eq(r[2]->attached, 0);
	img_storage_close(&r[2]->base);
}

Test(ioq_watch, who_goes_first_uring)
{
	who_goes_first(IMG_IO_URING);
}

Test(ioq_watch, who_goes_first_threads)
{
	who_goes_first(IMG_IO_THREADS);
}

/* Storages come and go on one thread while another one runs the queue. */
struct runner {
	struct img_ioq *q;
	struct remote *stays;
	_Atomic(struct remote *) borrowed; /* to be used once */
	_Atomic bool stop;
};

static void *run_on(void *arg)
{
	struct runner *t = arg;
	uint8_t buf[5000];

	while (!t->stop) {
		struct remote *r = t->borrowed;

		cr_assert_eq(one(t->q, t->stays, IMG_IO_WRITE, buf, 0, sizeof(buf)), 0);
		if (r) {
			cr_assert_eq(one(t->q, r, IMG_IO_READ, buf, 0, sizeof(buf)), 0);
			t->borrowed = NULL;
		}
	}
	img_ioq_free(t->q);
	return NULL;
}

static void closed_elsewhere(enum img_io_kind kind)
{
	struct runner t = { .q = new_queue(kind), .stays = new_remote() };
	struct remote *last = NULL;
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, run_on, &t), 0);
	for (int i = 0; i < 300; i++) {
		struct remote *r = new_remote();

		t.borrowed = r;
		while (t.borrowed)
			usleep(10);
		cr_assert_eq(r->attached, 1);
		if (i < 299)
			img_storage_close(&r->base);
		else
			last = r;
	}
	/* the queue and a storage at the same moment */
	t.stop = true;
	img_storage_close(&last->base);
	pthread_join(thread, NULL);
	cr_assert_eq(t.stays->attached, 0);
	img_storage_close(&t.stays->base);
}

Test(ioq_watch, closed_elsewhere_uring)
{
	closed_elsewhere(IMG_IO_URING);
}

Test(ioq_watch, closed_elsewhere_threads)
{
	closed_elsewhere(IMG_IO_THREADS);
}

/* Threads take turns; one that had the queue before has ended, or sleeps. */
static void *take_turn(void *arg)
{
	struct runner *t = arg;
	uint8_t buf[5000];

	for (int i = 0; i < 10; i++)
		cr_assert_eq(one(t->q, t->stays, IMG_IO_WRITE, buf, 0, sizeof(buf)), 0);
	return NULL;
}

static void turns(enum img_io_kind kind)
{
	struct runner t = { .q = new_queue(kind), .stays = new_remote() };
	pthread_t thread;

	for (int i = 0; i < 10; i++) {
		cr_assert_eq(pthread_create(&thread, NULL, take_turn, &t), 0);
		pthread_join(thread, NULL);
		take_turn(&t);
	}
	cr_assert_eq(t.stays->connections, 1);
	img_ioq_free(t.q);
	img_storage_close(&t.stays->base);
}

Test(ioq_watch, turns_uring)
{
	turns(IMG_IO_URING);
}

Test(ioq_watch, turns_threads)
{
	turns(IMG_IO_THREADS);
}

/* A sandbox is put on while something is watched. */
static void forbid_ring(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_enter, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = IMG_ARRAY_LEN(code), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		cr_skip_test("no system call filters here");
}

Test(ioq_watch, forbidden_later)
{
	struct remote *r = new_remote();
	struct img_ioq *q = new_queue(IMG_IO_URING);
	uint8_t *buf = calloc(1, SIZE);
	struct pollfd fd = { .events = POLLIN };
	struct img_io io;

	cr_assert_eq(one(q, r, IMG_IO_READ, buf, 0, SIZE), 0);
	begin(q, &io, r, IMG_IO_WRITE, buf, 0, SIZE);
	forbid_ring();
	while (!done)
		img_ioq_run(q, true);
	cr_assert_eq(io.rc, 0);
	cr_assert_eq(one(q, r, IMG_IO_READ, buf, 0, SIZE), 0);
	fd.fd = img_ioq_fd(q);
	begin(q, &io, r, IMG_IO_READ, buf, 0, SIZE);
	while (!done)
		if (!img_ioq_run(q, false))
			cr_assert_eq(poll(&fd, 1, 10000), 1);
	cr_assert_eq(io.rc, 0);
	r->silent = true;
	cr_assert_eq(one(q, r, IMG_IO_READ, buf, 0, SIZE), -ETIMEDOUT);
	img_ioq_free(q);
	img_storage_close(&r->base);
	free(buf);
}

/* Files and a watched storage on one queue. */
static void both(enum img_io_kind kind)
{
	struct remote *r = new_remote();
	struct img_ioq *q = new_queue(kind);
	struct img_storage *f = new_file("f", 0);
	uint8_t buf[5000];

	for (int i = 0; i < 50; i++) {
		struct img_io io = { .storage = f, .op = IMG_IO_WRITE, .len = 5000, .iovcnt = 1, .off = (uint64_t)i * 100, .done = note_done, .one = { buf, 5000 } };

		io.iov = &io.one;
		cr_assert_eq(one(q, r, IMG_IO_WRITE, buf, 0, sizeof(buf)), 0);
		done = false;
		img_ioq_submit(q, &io);
		while (!done)
			img_ioq_run(q, true);
		cr_assert_eq(io.rc, 0);
	}
	img_storage_close(f);
	img_storage_close(&r->base);
	img_ioq_free(q);
}

Test(ioq_watch, both_uring)
{
	both(IMG_IO_URING);
}

Test(ioq_watch, both_threads)
{
	both(IMG_IO_THREADS);
}

/* ---- Watches that are removed while the queue is at work ---- */

struct remover {
	struct img_watch watch, other;
	int fd, other_fd, left;
};

/* Its descriptor is always ready. The last time the other watch goes, and its socket is closed. */
static void count_down(struct img_watch *w, unsigned events)
{
	struct remover *r = IMG_CONTAINER(w, struct remover, watch);

	(void)events;
	if (--r->left) {
		img_watch_set(w, r->fd, POLLIN);
		return;
	}
	img_watch_remove(&r->other);
	close(r->other_fd);
}

static void ignore(struct img_watch *w, unsigned events)
{
	(void)w;
	(void)events;
}

/* However often the queue went round before, the other end hears of it: at once, or when the queue that asks for it runs. */
static void removed_at_work(enum img_io_kind kind)
{
	for (int rounds = 1; rounds <= 40; rounds++) {
		struct img_ioq *q = new_queue(kind);
		struct remover r = { .left = rounds };
		struct pollfd fds[2] = { { .fd = img_ioq_fd(q), .events = POLLIN } };
		int ready[2], sockets[2];

		cr_assert_eq(pipe(ready), 0);
		cr_assert_eq(write(ready[1], "x", 1), 1);
		cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
		r.fd = ready[0];
		r.other_fd = sockets[0];
		fds[1] = (struct pollfd){ .fd = sockets[1], .events = POLLIN };
		r.watch.fn = count_down;
		r.other.fn = ignore;
		img_watch_add(q, &r.watch);
		img_watch_add(q, &r.other);
		img_watch_set(&r.other, r.other_fd, POLLIN);
		img_watch_set(&r.watch, r.fd, POLLIN);
		while (r.left)
			img_ioq_run(q, false);
		for (;;) {
			cr_assert_gt(poll(fds, 2, 2000), 0, "after %d rounds nobody hears of it", rounds);
			if (fds[1].revents)
				break;
			img_ioq_run(q, false);
		}
		img_watch_remove(&r.watch);
		img_ioq_free(q);
		close(ready[0]);
		close(ready[1]);
		close(sockets[1]);
	}
}

Test(ioq_watch, removed_at_work_uring)
{
	removed_at_work(IMG_IO_URING);
}

Test(ioq_watch, removed_at_work_threads)
{
	removed_at_work(IMG_IO_THREADS);
}
