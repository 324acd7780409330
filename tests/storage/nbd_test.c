/*
 * NBD exports, against nbdkit: what is written is read, holes are told, servers that go away, hang,
 * fail or want whole blocks. Skipped where nbdkit is not installed.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/secrets.h"
#include "libimg/storage/module.h"
#include "nbd_server.h"
#include "tests/support/scratch.h"

enum { SIZE = 4 << 20 };

static char folder[SCRATCH_PATH];

static void make_folder(void)
{
	cr_assert(scratch_make(folder, "nbd-test"));
	snprintf(server_path, sizeof(server_path), "%s/s", folder);
	signal(SIGPIPE, SIG_IGN);
}

static void remove_folder(void)
{
	cr_assert(scratch_remove(folder));
}

TestSuite(nbd, .init = make_folder, .fini = remove_folder, .timeout = 60);

static int open_with(const char *more, unsigned flags, struct img_storage **out,
		     struct img_error *err)
{
	const struct img_module *m = img_module_named("nbd");
	struct img_options *o = img_options_new(m->options);
	struct img_module_opening opening = { .options = o, .flags = flags };
	int rc;

	cr_assert_eq(img_options_set(o, "server.path", server_path, NULL), 0);
	cr_assert_eq(img_options_parse(o, more, NULL), 0, "%s", more);
	rc = m->open(&opening, out, err);
	img_options_free(o);
	return rc;
}

static struct img_storage *opened(const char *more)
{
	struct img_storage *s = NULL;
	struct img_error err = { 0 };

	cr_assert_eq(open_with(more, IMG_STORAGE_WRITE, &s, &err), 0, "%s", img_error_text(&err));
	return s;
}

static uint64_t random_state;

static uint64_t random_below(uint64_t limit)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (random_state >> 20) % limit;
}

struct slot {
	struct img_io io;
	struct iovec iov[3];
	uint8_t *buf;
	bool busy;
};

static void slot_done(struct img_io *io)
{
	cr_assert_eq(io->rc, 0, "%d at %lu: %s", (int)io->op, io->off, strerrorname_np(-io->rc));
	IMG_CONTAINER(io, struct slot, io)->busy = false;
}

/* The buffers of a request: one, or three of odd lengths. */
static void give_buffers(struct slot *slot, size_t len)
{
	size_t first = len > 1000 ? len / 3 + 1 : len, second = len > 1000 ? 7 : 0;

	slot->iov[0] = (struct iovec){ slot->buf, first };
	slot->iov[1] = (struct iovec){ slot->buf + first, second };
	slot->iov[2] = (struct iovec){ slot->buf + first + second, len - first - second };
	slot->io.iov = slot->iov;
	slot->io.iovcnt = 3;
}

/* Requests on areas of their own, several in flight, against a flat copy; then all of it is read. */
static void random_requests(struct img_storage *s, uint8_t *model, enum img_io_kind kind,
			    uint64_t granule, unsigned rounds)
{
	enum { SLOTS = 8,
	       AREA = SIZE / SLOTS };
	struct slot slots[SLOTS] = { 0 };
	struct img_ioq *q = NULL;

	cr_assert_eq(img_ioq_new(kind, &q, NULL), 0);
	for (unsigned i = 0; i < SLOTS; i++)
		cr_assert((slots[i].buf = malloc(AREA)));
	for (unsigned round = 0; round < rounds; round++) {
		for (unsigned i = 0; i < SLOTS; i++) {
			struct slot *slot = &slots[i];
			uint64_t within = random_below(AREA / granule) * granule;
			uint64_t most = random_below(4) ? 16384 : AREA;
			uint64_t len = (1 + random_below(min_u64(most, AREA - within) / granule)) *
				       granule;
			uint8_t *there = model + i * AREA + within;

			len = min_u64(len, AREA - within);
			slot->io = (struct img_io){ .storage = s,
						    .op = (enum img_io_op)random_below(4),
						    .off = i * AREA + within,
						    .len = len,
						    .done = slot_done };
			slot->busy = true;
			give_buffers(slot, len);
			if (slot->io.op == IMG_IO_WRITE) {
				for (size_t at = 0; at < len; at++)
					slot->buf[at] = (uint8_t)random_below(256);
				memcpy(there, slot->buf, len);
			} else if (slot->io.op != IMG_IO_READ) {
				memset(there, 0, len);
			}
			img_ioq_submit(q, &slot->io);
		}
		for (unsigned i = 0; i < SLOTS; i++) {
			while (slots[i].busy)
				img_ioq_run(q, true);
			if (slots[i].io.op == IMG_IO_READ)
				cr_assert_arr_eq(slots[i].buf, model + slots[i].io.off,
						 slots[i].io.len);
		}
	}
	for (unsigned i = 0; i < SLOTS; i++) {
		cr_assert_eq(img_storage_read(s, i * AREA, slots[i].buf, AREA, NULL), 0);
		cr_assert_arr_eq(slots[i].buf, model + i * AREA, AREA);
		free(slots[i].buf);
	}
	img_ioq_free(q);
}

/* What is said to be a hole is one, and the answers cover all of it. */
static void holes_are_holes(struct img_storage *s, const uint8_t *model)
{
	uint64_t off = 0, run = 0;
	enum img_storage_extent kind;

	for (; off < SIZE; off += run) {
		cr_assert_eq(img_storage_extent(s, off, SIZE - off, &kind, &run), 0);
		cr_assert(run && run <= SIZE - off);
		for (uint64_t i = 0; kind == IMG_STORAGE_HOLE && i < run; i++)
			cr_assert_eq(model[off + i], 0, "%lu", off + i);
	}
}

Test(nbd, random_requests_on_servers_of_all_kinds, .timeout = 120)
{
	static const struct {
		const char *server;
		uint64_t granule;
	} rows[] = {
		{ "memory 4M", 512 },
		{ "memory 4M", 1 },
		{ "--filter=nozero memory 4M", 512 },
		{ "--filter=noextents --filter=multi-conn memory 4M multi-conn-mode=disable", 512 },
		{ "--no-sr --filter=nozero --filter=noextents memory 4M", 512 },
		{ "--filter=blocksize-policy memory 4M blocksize-minimum=4096 blocksize-preferred=64k "
		  "blocksize-maximum=128k blocksize-error-policy=error",
		  512 },
		{ "--filter=blocksize-policy memory 4M blocksize-minimum=4096 blocksize-preferred=64k "
		  "blocksize-maximum=128k blocksize-error-policy=error",
		  4096 },
		{ "--filter=delay memory 4M rdelay=1ms wdelay=1ms", 512 },
	};
	uint8_t *model = malloc(SIZE);

	cr_assert(model);
	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		pid_t server = serve(rows[i].server);
		struct img_storage *s = opened("");

		random_state = i + 1;
		memset(model, 0, SIZE);
		cr_assert_eq(atomic_load(&s->size), SIZE, "%s", rows[i].server);
		random_requests(s, model, IMG_IO_AUTO, rows[i].granule, 12);
		random_requests(s, model, IMG_IO_THREADS, rows[i].granule, 12);
		holes_are_holes(s, model);
		cr_assert_eq(img_storage_sync(s, NULL), 0);
		img_storage_close(s);
		end(server);
	}
	free(model);
}

Test(nbd, holes_are_known_without_reading)
{
	pid_t server = serve("--filter=error memory 1G error-pread=EIO error-pread-rate=100%");
	struct img_storage *s = opened("");
	enum img_storage_extent kind;
	uint64_t run;

	cr_assert_eq(img_storage_extent(s, 0, 1 << 30, &kind, &run), 0);
	cr_assert(kind == IMG_STORAGE_HOLE && run == 1 << 30);
	cr_assert_eq(img_storage_write(s, 1 << 20, "x", 1, NULL), 0);
	cr_assert_eq(img_storage_extent(s, 0, 1 << 30, &kind, &run), 0);
	cr_assert(kind == IMG_STORAGE_HOLE && run <= 1 << 20, "%lu", run);
	cr_assert_eq(img_storage_extent(s, 1 << 20, 1 << 20, &kind, &run), 0);
	cr_assert_eq(kind, IMG_STORAGE_DATA);
	cr_assert_eq(img_storage_read(s, 0, &run, 8, NULL), -EIO);
	img_storage_close(s);
	end(server);
}

/* A server may have no room for what does not read as zeroes, and may say little at a time. */
Test(nbd, holes_that_are_not_zeroes)
{
	pid_t server = serve("eval get_size='echo 4M' pread='head -c $3 /dev/zero | tr \"\\\\0\" x' "
			     "can_extents='exit 0' extents='echo $4 $3 hole'");
	struct img_storage *s = NULL;
	enum img_storage_extent kind;
	uint64_t run;

	cr_assert_eq(open_with("", 0, &s, NULL), 0);
	cr_assert_eq(img_storage_extent(s, 0, SIZE, &kind, &run), 0);
	cr_assert_eq(kind, IMG_STORAGE_DATA);
	img_storage_close(s);
	end(server);
}

/* The first block is zeroes, and of the others a server says nothing. */
Test(nbd, a_server_that_says_little)
{
	pid_t server = serve("eval get_size='echo 4M' pread='head -c $3 /dev/zero | tr \"\\\\0\" x' "
			     "can_extents='exit 0' extents='echo $4 512 hole,zero'");
	struct img_storage *s = NULL;
	enum img_storage_extent kind;
	uint64_t run;

	cr_assert_eq(open_with("", 0, &s, NULL), 0);
	cr_assert_eq(img_storage_extent(s, 0, SIZE, &kind, &run), 0);
	cr_assert(kind == IMG_STORAGE_HOLE && run == 512, "%lu", run);
	cr_assert_eq(img_storage_extent(s, 512, SIZE - 512, &kind, &run), 0);
	cr_assert_eq(kind, IMG_STORAGE_DATA);
	img_storage_close(s);
	end(server);
}

/* ---- What the server is told ---- */

/* The line of the server's log that has this word has that one, too. */
static void was_told(const char *word, const char *other)
{
	char command[512];

	snprintf(command, sizeof(command), "grep -q '%s.*%s' %s/log || { cat %s/log >&2; false; }", word, other,
		 folder, folder);
	cr_assert_eq(system(command), 0, "%s %s", word, other);
}

Test(nbd, flags_of_requests)
{
	static uint8_t bytes[4096] = { 1 };
	char command[256];
	struct iovec iov = { bytes, sizeof(bytes) };
	struct img_storage *s;
	pid_t server;

	snprintf(command, sizeof(command), "--filter=log memory 4M logfile=%s/log", folder);
	server = serve(command);
	s = opened("");
	cr_assert(s->limits.fua);
	cr_assert_eq(img_storage_io(s, IMG_IO_WRITE, &iov, 1, 4096, 4096, IMG_IO_FUA), 0);
	was_told("Write.*offset=0x1000", "fua=1");
	cr_assert_eq(img_storage_io(s, IMG_IO_WRITE, &iov, 1, 8192, 4096, 0), 0);
	was_told("Write.*offset=0x2000", "fua=0");
	cr_assert_eq(img_storage_io(s, IMG_IO_ZERO, NULL, 0, 16384, 4096, IMG_IO_KEEP_ALLOCATED),
		     0);
	was_told("Zero.*offset=0x4000", "trim=0");
	cr_assert_eq(img_storage_io(s, IMG_IO_ZERO, NULL, 0, 32768, 4096, 0), 0);
	was_told("Zero.*offset=0x8000", "trim=1");
	img_storage_close(s);
	end(server);
}

/* Zeroes that are to come fast are refused where they would be written. */
Test(nbd, flags_of_zeroes_that_are_to_be_fast)
{
	pid_t server = serve("memory 4M");
	struct img_storage *s = opened("");
	bool fast = s->limits.fast_zero;

	cr_assert_eq(img_storage_io(s, IMG_IO_ZERO, NULL, 0, 4096, 4096, IMG_IO_FAST),
		     fast ? 0 : -ENOTSUP);
	img_storage_close(s);
	end(server);
	server = serve("--filter=nozero memory 4M zeromode=plugin fastzeromode=none");
	s = opened("");
	cr_assert_not(s->limits.fast_zero);
	cr_assert_eq(img_storage_io(s, IMG_IO_ZERO, NULL, 0, 4096, 4096, IMG_IO_FAST), -ENOTSUP);
	cr_assert_eq(img_storage_io(s, IMG_IO_ZERO, NULL, 0, 4096, 4096, 0), 0);
	img_storage_close(s);
	end(server);
}

/* ---- Changes beside a flush, and beside an answer about holes ---- */

struct asked {
	struct img_io io;
	bool done;
};

static void asked_done(struct img_io *io)
{
	cr_assert_eq(io->rc, 0, "%d: %s", (int)io->op, strerrorname_np(-io->rc));
	IMG_CONTAINER(io, struct asked, io)->done = true;
}

static void ask(struct img_ioq *q, struct asked *a, struct img_storage *s, enum img_io_op op)
{
	static uint8_t bytes[4096] = { 1 };
	bool sync = op == IMG_IO_SYNC;

	a->done = false;
	a->io = (struct img_io){ .storage = s,
				 .op = op,
				 .iovcnt = !sync,
				 .off = sync ? 0 : 1 << 20,
				 .len = sync ? 0 : sizeof(bytes),
				 .done = asked_done };
	a->io.one = (struct iovec){ bytes, sizeof(bytes) };
	a->io.iov = &a->io.one;
	img_ioq_submit(q, &a->io);
}

static void await(struct img_ioq *q, const struct asked *a)
{
	while (!a->done)
		img_ioq_run(q, true);
}

/* A flush knows nothing of what is written while it runs, whichever is sent, or answered, first. */
Test(nbd, a_write_beside_a_flush_has_to_be_flushed)
{
	static const char *const servers[] = {
		"--filter=delay memory 4M wdelay=100ms",
		"--filter=multi-conn --filter=delay memory 4M multi-conn-mode=disable wdelay=100ms",
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(servers) * 2; i++) {
		pid_t server = serve(servers[i / 2]);
		struct img_storage *s = opened("");
		struct img_ioq *q = NULL;
		struct asked a[2];

		cr_assert_eq(img_ioq_new(IMG_IO_AUTO, &q, NULL), 0);
		ask(q, &a[0], s, i % 2 ? IMG_IO_WRITE : IMG_IO_SYNC);
		ask(q, &a[1], s, i % 2 ? IMG_IO_SYNC : IMG_IO_WRITE);
		await(q, &a[0]);
		await(q, &a[1]);
		cr_assert(atomic_load(&s->unsynced), "%zu", i);
		cr_assert_eq(img_storage_sync(s, NULL), 0);
		cr_assert_not(atomic_load(&s->unsynced));
		img_ioq_free(q);
		img_storage_close(s);
		end(server);
	}
}

Test(nbd, what_was_a_hole_before_a_write_is_none_after_it)
{
	pid_t server = serve("--filter=multi-conn --filter=delay memory 4M "
			     "multi-conn-mode=disable wdelay=500ms");
	struct img_storage *s = opened("");
	struct img_ioq *q = NULL;
	enum img_storage_extent kind;
	struct asked a;
	uint64_t run;

	cr_assert_eq(img_ioq_new(IMG_IO_AUTO, &q, NULL), 0);
	ask(q, &a, s, IMG_IO_WRITE);
	cr_assert_eq(img_storage_extent(s, 1 << 20, 4096, &kind, &run), 0);
	await(q, &a);
	cr_assert_eq(img_storage_extent(s, 1 << 20, 4096, &kind, &run), 0);
	cr_assert_eq(kind, IMG_STORAGE_DATA);
	img_ioq_free(q);
	img_storage_close(s);
	end(server);
}

static void *write_later(void *user)
{
	usleep(300000);
	cr_assert_eq(img_storage_write(user, 0, "x", 1, NULL), 0);
	return NULL;
}

/* A write is done while the server is about to answer, out of what it looked up before. */
Test(nbd, an_answer_about_holes_is_as_old_as_its_question)
{
	char command[512];
	struct img_storage *s;
	enum img_storage_extent kind;
	pthread_t thread;
	uint64_t run;
	pid_t server;

	snprintf(command, sizeof(command),
		 "eval thread_model='echo parallel' get_size='echo 4M' can_write='exit 0' can_extents='exit 0' "
		 "pread='head -c $3 /dev/zero' pwrite='cat >%s/written' "
		 "extents='if [ -e %s/written ]; then echo $4 $3; else sleep 1; echo $4 $3 hole,zero; fi'",
		 folder, folder);
	server = serve(command);
	s = opened("");
	cr_assert_eq(pthread_create(&thread, NULL, write_later, s), 0);
	cr_assert_eq(img_storage_extent(s, 0, SIZE, &kind, &run), 0);
	cr_assert_eq(pthread_join(thread, NULL), 0);
	cr_assert_eq(img_storage_extent(s, 0, SIZE, &kind, &run), 0);
	cr_assert_eq(kind, IMG_STORAGE_DATA);
	img_storage_close(s);
	end(server);
}

/* Who does not run the queue for a while is answered all the same: it was not the server that kept silent. */
Test(nbd, answers_wait_for_who_runs_the_queue)
{
	pid_t server = serve("memory 4M");
	struct img_storage *s = opened("timeout=1");
	struct img_ioq *q = NULL;
	struct asked a, b;

	cr_assert_eq(img_ioq_new(IMG_IO_AUTO, &q, NULL), 0);
	ask(q, &a, s, IMG_IO_READ);
	await(q, &a); /* it is connected */
	ask(q, &a, s, IMG_IO_READ);
	usleep(1500000);
	ask(q, &b, s, IMG_IO_READ);
	await(q, &a);
	await(q, &b);
	img_ioq_free(q);
	img_storage_close(s);
	end(server);
}

Test(nbd, ends_of_the_disk)
{
	pid_t server = serve("memory 4M");
	struct img_storage *s = opened(""), *again = NULL;
	uint8_t bytes[1024];

	memset(bytes, 0xee, sizeof(bytes));
	cr_assert_eq(img_storage_write(s, SIZE - 512, bytes, 512, NULL), 0);
	cr_assert_eq(img_storage_write(s, SIZE - 512, bytes, 513, NULL), -ENOSPC);
	cr_assert_eq(img_storage_read(s, SIZE - 512, bytes, 1024, NULL), 0);
	cr_assert(bytes[511] == 0xee && bytes[512] == 0 && bytes[1023] == 0);
	cr_assert_eq(img_storage_read(s, (uint64_t)SIZE * 2, bytes, 512, NULL), 0);
	cr_assert_eq(bytes[0], 0);
	cr_assert_eq(open_with("", IMG_STORAGE_WRITE, &again, NULL), 0);
	cr_assert(img_storage_overlap(s, again));
	img_storage_close(again);
	img_storage_close(s);
	end(server);
}

Test(nbd, a_server_that_is_not_there)
{
	struct img_storage *s = NULL;
	struct img_error err = { 0 };
	int rc = open_with("", 0, &s, &err);

	if (rc == -ENOPKG)
		cr_skip_test("no libnbd");
	cr_assert_eq(rc, -ECONNREFUSED);
	cr_assert(strstr(img_error_text(&err), server_path), "%s", img_error_text(&err));
	img_error_clear(&err);
}

Test(nbd, an_export_for_reading_is_not_opened_for_writing)
{
	pid_t server = serve("-r memory 4M");
	struct img_storage *s = NULL;
	struct img_error err = { 0 };

	cr_assert_eq(open_with("", IMG_STORAGE_WRITE, &s, &err), -EROFS);
	cr_assert(strstr(img_error_text(&err), "read-only"));
	cr_assert_eq(open_with("", 0, &s, NULL), 0);
	cr_assert_eq(img_storage_set_writable(s, true, &err), -EROFS);
	cr_assert(strstr(img_error_text(&err), "read-only"));
	img_storage_close(s);
	img_error_clear(&err);
	end(server);
}

Test(nbd, an_export_becomes_writable_and_back)
{
	pid_t server = serve("memory 4M");
	struct img_storage *s = NULL;
	uint8_t byte = 0;

	cr_assert_eq(open_with("", 0, &s, NULL), 0);
	cr_assert_eq(img_storage_write(s, 0, "x", 1, NULL), -EROFS);
	cr_assert_eq(img_storage_set_writable(s, true, NULL), 0);
	cr_assert_eq(img_storage_write(s, 0, "x", 1, NULL), 0);
	cr_assert_eq(img_storage_set_writable(s, false, NULL), 0);
	cr_assert_eq(img_storage_write(s, 0, "y", 1, NULL), -EROFS);
	cr_assert_eq(img_storage_read(s, 0, &byte, 1, NULL), 0);
	cr_assert_eq(byte, 'x');
	img_storage_close(s);
	end(server);
}

Test(nbd, a_server_that_hangs_is_waited_for_only_so_long)
{
	pid_t server = serve("--filter=delay memory 4M rdelay=40");
	struct img_storage *s = opened("timeout=1,reconnect-delay=0");
	double begun = seconds();
	uint8_t bytes[512];

	cr_assert_eq(img_storage_read(s, 0, bytes, 512, NULL), -ETIMEDOUT);
	cr_assert_lt(seconds() - begun, 10);
	img_storage_close(s);
	end(server);
}

Test(nbd, a_server_that_goes_away_is_an_error)
{
	pid_t server = serve("memory 4M");
	struct img_storage *s = opened("reconnect-delay=1");
	double begun;
	uint8_t bytes[512] = { 1 };

	cr_assert_eq(img_storage_write(s, 0, bytes, 512, NULL), 0);
	end(server);
	begun = seconds();
	cr_assert_eq(img_storage_read(s, 0, bytes, 512, NULL), -ENOTCONN);
	cr_assert_lt(seconds() - begun, 10);
	img_storage_close(s);
}

/* Each answer to the same request is that the server dies; somebody starts it again each time. */
Test(nbd, a_server_that_dies_of_a_request_is_given_up)
{
	char command[512];
	struct img_storage *s = NULL;
	uint8_t bytes[512];
	double begun;
	pid_t pid;
	int rc, failed = 0;

	if (system("command -v nbdkit >/dev/null 2>&1") != 0)
		cr_skip_test("no nbdkit");
	snprintf(command, sizeof(command),
		 "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do rm -f %s; nbdkit -f -U %s eval get_size='echo 4M' "
		 "pread='kill -9 $PPID; sleep 1' </dev/null >/dev/null 2>&1; done",
		 server_path, server_path);
	pid = fork();
	if (!pid) {
		setpgid(0, 0);
		execl("/bin/sh", "sh", "-c", command, (char *)NULL);
		_exit(127);
	}
	for (int i = 0; i < 1000 && !answers(); i++)
		usleep(10000);
	rc = open_with("reconnect-delay=5", 0, &s, NULL);
	begun = seconds();
	if (!rc)
		failed = img_storage_read(s, 0, bytes, 512, NULL);
	kill(-pid, SIGKILL);
	waitpid(pid, NULL, 0);
	cr_assert_eq(rc, 0);
	cr_assert_eq(failed, -EPROTO);
	cr_assert_lt(seconds() - begun, 40);
	img_storage_close(s);
}

/* Two queues have written, each by a connection of its own; the server is another one by the time of
 * the flush, which only one of them makes. */
Test(nbd, a_flush_knows_of_what_other_connections_lost)
{
	char command[256];
	struct img_ioq *q[2] = { NULL, NULL };
	struct slot slots[2] = { 0 };
	struct img_storage *s;
	pid_t server;

	snprintf(command, sizeof(command), "truncate -s 4M %s/disk", folder);
	cr_assert_eq(system(command), 0);
	snprintf(command, sizeof(command), "file %s/disk", folder);
	server = serve(command);
	s = opened("reconnect-delay=20");
	for (unsigned i = 0; i < 2; i++) {
		cr_assert_eq(img_ioq_new(IMG_IO_AUTO, &q[i], NULL), 0);
		cr_assert((slots[i].buf = calloc(1, 4096)));
	}
	slots[0].io = (struct img_io){
		.storage = s, .op = IMG_IO_WRITE, .len = 4096, .done = slot_done
	};
	slots[0].busy = true;
	give_buffers(&slots[0], 4096);
	img_ioq_submit(q[0], &slots[0].io);
	while (slots[0].busy)
		img_ioq_run(q[0], true);
	end(server);
	server = serve(command);
	slots[1].io = (struct img_io){
		.storage = s, .op = IMG_IO_READ, .len = 4096, .done = slot_done
	};
	slots[1].busy = true;
	give_buffers(&slots[1], 4096);
	img_ioq_submit(q[1], &slots[1].io);
	while (slots[1].busy)
		img_ioq_run(q[1], true);
	cr_assert_eq(img_storage_sync(s, NULL), -EIO);
	for (unsigned i = 0; i < 2; i++) {
		img_ioq_free(q[i]);
		free(slots[i].buf);
	}
	img_storage_close(s);
	end(server);
}

/* Killed while requests are in flight, and back a little later with the same file. */
Test(nbd, a_server_that_comes_back)
{
	char command[256];
	struct img_storage *s;
	struct slot slots[4] = { 0 };
	struct img_ioq *q = NULL;
	uint8_t bytes[512] = { 0 };
	pid_t server, helper;

	snprintf(command, sizeof(command), "truncate -s 4M %s/disk", folder);
	cr_assert_eq(system(command), 0);
	snprintf(command, sizeof(command), "--filter=delay file %s/disk rdelay=500ms wdelay=500ms",
		 folder);
	server = serve(command);
	s = opened("reconnect-delay=20");
	cr_assert_eq(img_ioq_new(IMG_IO_AUTO, &q, NULL), 0);
	for (unsigned i = 0; i < 4; i++) {
		cr_assert((slots[i].buf = malloc(65536)));
		memset(slots[i].buf, 0x10 + (int)i, 65536);
		slots[i].io = (struct img_io){ .storage = s,
					       .op = IMG_IO_WRITE,
					       .off = i * 65536,
					       .len = 65536,
					       .done = slot_done };
		slots[i].busy = true;
		give_buffers(&slots[i], 65536);
		img_ioq_submit(q, &slots[i].io);
	}
	img_ioq_run(q, false);
	usleep(100000);
	end(server);
	helper = fork(); /* a socket that exists again only after a while */
	if (!helper) {
		usleep(700000);
		unlink(server_path);
		char run[512];

		snprintf(run, sizeof(run), "exec nbdkit -f -U %s file %s/disk 2>/dev/null", server_path,
			 folder);
		execl("/bin/sh", "sh", "-c", run, (char *)NULL);
		_exit(127);
	}
	for (unsigned i = 0; i < 4; i++) {
		while (slots[i].busy)
			img_ioq_run(q, true);
		cr_assert_eq(img_storage_read(s, i * 65536 + 65535 - 511, bytes, 512, NULL), 0);
		cr_assert_eq(bytes[511], 0x10 + (int)i);
		free(slots[i].buf);
	}
	/* nothing had been answered that could have been lost */
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	/* now there is: written, not flushed, and the server dies and comes back */
	cr_assert_eq(img_storage_write(s, 0, bytes, 512, NULL), 0);
	end(helper);
	snprintf(command, sizeof(command), "file %s/disk", folder);
	server = serve(command);
	cr_assert_eq(img_storage_read(s, 0, bytes, 512, NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), -EIO);
	img_storage_close(s);
	img_ioq_free(q);
	end(server);
}

/* What has another size or role is another export. */
Test(nbd, another_disk_that_comes_back)
{
	static const char *const others[] = { "memory 8M", "memory 1M", "-r memory 4M" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(others); i++) {
		pid_t server = serve("memory 4M");
		struct img_storage *s = opened("reconnect-delay=20");
		uint8_t bytes[512];

		cr_assert_eq(img_storage_read(s, 0, bytes, 512, NULL), 0);
		end(server);
		server = serve(others[i]);
		cr_assert_eq(img_storage_read(s, 0, bytes, 512, NULL), -ESTALE, "%s", others[i]);
		img_storage_close(s);
		end(server);
	}
}

/* One export, by whatever name; and others. */
Test(nbd, names_of_the_same)
{
	static const struct {
		const char *one, *other;
		bool same;
	} rows[] = {
		{ "nbd://h", "nbd:h:10809", true },
		{ "nbd://h/x", "nbd://h:10809/x", true },
		{ "nbd://h/x", "nbd://h/y", false },
		{ "nbd://h", "nbd://h:10810", false },
		{ "nbd://h", "nbd://other", false },
		{ "nbd+unix:///?socket=/s", "nbd:unix:/s", true },
		{ "nbd:unix:/s", "nbd:unix:/t", false },
	};
	const struct img_module *m = img_module_named("nbd");

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		struct img_options *one = img_options_new(m->options), *other = img_options_new(m->options);
		char *a, *b;

		cr_assert_eq(m->parse_name(rows[i].one, (img_keyval_fn *)img_options_set, one, NULL), 0);
		cr_assert_eq(m->parse_name(rows[i].other, (img_keyval_fn *)img_options_set, other, NULL), 0);
		a = m->identify(one);
		b = m->identify(other);
		cr_assert_eq(!strcmp(a, b), rows[i].same, "%s, %s: '%s', '%s'", rows[i].one, rows[i].other, a,
			     b);
		free(a);
		free(b);
		img_options_free(one);
		img_options_free(other);
	}
}

Test(nbd, names)
{
	static const struct {
		const char *name, *type, *host, *port, *server_path, *export_name;
	} rows[] = {
		{ "nbd://h", "inet", "h", NULL, NULL, NULL },
		{ "nbd://h:1/", "inet", "h", "1", NULL, NULL },
		{ "nbd+tcp://[::1]:99/a%2Fb/c", "inet", "::1", "99", NULL, "a/b/c" },
		{ "nbds://u@h/x", "inet", "h", NULL, NULL, "x" },
		{ "nbd+unix:///x?socket=/tmp/a%20b", "unix", NULL, NULL, "/tmp/a b", "x" },
		{ "nbd+unix:///?socket=s", "unix", NULL, NULL, "s", NULL },
		{ "nbd:h:1", "inet", "h", "1", NULL, NULL },
		{ "nbd:[::1]:1:exportname=e:f", "inet", "::1", "1", NULL, "e:f" },
		{ "nbd:unix:/a/b:exportname=e", "unix", NULL, NULL, "/a/b", "e" },
	};
	static const char *const bad[] = {
		"nbd://",
		"nbd:h",
		"nbd:",
		"nbds:h:1",
		"nbd://h?x=1",
		"nbd://u@h",
		"nbd://h/%0",
		"nbd://[::1",
		"nbd+unix:x",
		"nbd+unix://h/?socket=s",
		"nbd://h?socket=s",
		"nbd://h/%00",
	};
	const struct img_module *m = img_module_named("nbd");
	struct img_options *o;

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		const char *want[] = { rows[i].type, rows[i].host, rows[i].port, rows[i].server_path,
				       rows[i].export_name };
		static const char *const keys[] = { "server.type", "server.host", "server.port",
						    "server.path", "export" };
		struct img_error err = { 0 };

		o = img_options_new(m->options);
		cr_assert_eq(m->parse_name(rows[i].name, (img_keyval_fn *)img_options_set, o, &err),
			     0, "%s: %s", rows[i].name, img_error_text(&err));
		for (size_t k = 0; k < IMG_ARRAY_LEN(keys); k++) {
			const char *got = img_options_string(o, keys[k]);

			cr_assert_str_eq(got ? got : "-", want[k] ? want[k] : "-", "%s %s",
					 rows[i].name, keys[k]);
		}
		img_options_free(o);
	}
	for (size_t i = 0; i < IMG_ARRAY_LEN(bad); i++) {
		o = img_options_new(m->options);
		cr_assert_eq(m->parse_name(bad[i], (img_keyval_fn *)img_options_set, o, NULL),
			     -EINVAL, "%s", bad[i]);
		img_options_free(o);
	}
}
