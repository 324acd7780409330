/*
 * Storages that change between reading only and writing while they are open.
 */
#include "storage_help.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "libimg/storage/module.h"
#include "libimg/storage/posix_file.h"

TestSuite(reopen, .init = make_folder, .fini = remove_folder, .timeout = 60);

enum { BYTES = 1 << 20 };

static void pattern(uint8_t *to, size_t len, uint8_t seed)
{
	for (size_t i = 0; i < len; i++)
		to[i] = (uint8_t)(i * 31 + i / 4096 + seed);
}

static void make_pattern(const char *name)
{
	static uint8_t bytes[BYTES];

	pattern(bytes, BYTES, 0);
	make_file(name, bytes, BYTES);
}

static void change(struct img_storage *s, bool writable)
{
	struct img_error err = { 0 };

	cr_assert_eq(img_storage_set_writable(s, writable, &err), 0, "%s", img_error_text(&err));
	cr_assert_eq(s->writable, writable);
}

/* Writes are let through in one role and refused in the other; the content stays. */
static void check_roles(struct img_storage *s)
{
	uint8_t byte = 0x5a, read;

	for (int i = 0; i < 3; i++) {
		change(s, true);
		byte++;
		cr_assert_eq(img_storage_write(s, 777, &byte, 1, NULL), 0);
		cr_assert_eq(img_storage_sync(s, NULL), 0);
		change(s, false);
		cr_assert_eq(img_storage_write(s, 777, "x", 1, NULL), -EROFS);
		cr_assert_eq(img_storage_zero(s, 0, 512, NULL), -EROFS);
		cr_assert_eq(img_storage_resize(s, 1 << 21, IMG_PREALLOCATE_OFF, NULL), -EROFS);
		cr_assert_eq(img_storage_read(s, 777, &read, 1, NULL), 0);
		cr_assert_eq(read, byte);
	}
}

static int access_mode(int fd)
{
	return fcntl(fd, F_GETFL) & O_ACCMODE;
}

Test(reopen, file)
{
	static const unsigned how[] = { 0, IMG_STORAGE_TRY_DIRECT, IMG_STORAGE_NO_LOCK,
					IMG_STORAGE_RANDOM };

	for (size_t i = 0; i < IMG_ARRAY_LEN(how); i++) {
		struct img_storage *s;
		struct img_file *f;
		bool direct;
		int fd;

		make_pattern("f");
		s = opened("f", how[i]);
		f = img_file_of(s);
		fd = f->fd;
		direct = f->buffered_fd >= 0;
		check_roles(s);
		cr_assert_eq(f->fd, fd);
		cr_assert_eq(access_mode(f->fd), O_RDONLY, "the kernel refuses writes too");
		change(s, true);
		cr_assert_eq(access_mode(f->fd), O_RDWR);
		cr_assert_eq(!!(fcntl(f->fd, F_GETFL) & O_DIRECT), direct);
		cr_assert_eq(fcntl(f->fd, F_GETFD), FD_CLOEXEC);
		if (direct) {
			cr_assert_eq(access_mode(f->buffered_fd), O_RDWR);
			cr_assert(!(fcntl(f->buffered_fd, F_GETFL) & O_DIRECT));
			/* the part of a block at the end goes by that one */
			cr_assert_eq(img_storage_write(s, BYTES, "end", 3, NULL), 0);
			cr_assert_eq(atomic_load(&s->size), BYTES + 3);
		}
		img_storage_close(s);
	}
}

static int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

Test(reopen, keeps_no_descriptors)
{
	struct img_storage *s, *d;
	int n;

	make_pattern("f");
	make_pattern("d");
	s = opened("f", 0);
	d = opened("d", IMG_STORAGE_TRY_DIRECT);
	n = count_descriptors();
	for (int i = 0; i < 10; i++) {
		change(s, i % 2 == 0);
		change(d, i % 2 == 0);
	}
	cr_assert_eq(count_descriptors(), n);
	img_storage_close(s);
	img_storage_close(d);
}

/* The file that is open, whatever its name leads to by now. */
Test(reopen, the_same_file_under_another_name)
{
	struct img_storage *s;
	uint8_t byte;
	int fd;

	make_pattern("f");
	s = opened("f", 0);
	cr_assert_eq(rename(in_folder("f"), in_folder("g")), 0);
	make_file("f", "other", 5);
	change(s, true);
	cr_assert_eq(img_storage_write(s, 0, "!", 1, NULL), 0);
	img_storage_close(s);
	fd = open(in_folder("g"), O_RDONLY | O_CLOEXEC);
	cr_assert(read(fd, &byte, 1) == 1 && byte == '!');
	close(fd);
	fd = open(in_folder("f"), O_RDONLY | O_CLOEXEC);
	cr_assert(read(fd, &byte, 1) == 1 && byte == 'o');
	close(fd);
}

struct request {
	struct img_io io;
	bool done;
};

static void ended(struct img_io *io)
{
	IMG_CONTAINER(io, struct request, io)->done = true;
}

static int by_queue(struct img_ioq *q, struct img_storage *s, enum img_io_op op, void *buf,
		    uint64_t off, size_t len)
{
	struct iovec iov = { buf, len };
	struct request r = { .io = { .storage = s,
				     .op = op,
				     .iov = &iov,
				     .iovcnt = 1,
				     .off = off,
				     .len = len,
				     .done = ended } };

	img_ioq_submit(q, &r.io);
	while (!r.done)
		img_ioq_run(q, true);
	return r.io.rc;
}

/* Rings that were told of the file once, and of the memory. */
Test(reopen, registered_files)
{
	static const unsigned how[] = { 0, IMG_STORAGE_TRY_DIRECT };
	uint8_t *buf = aligned_alloc(4096, 65536);
	struct iovec memory = { buf, 65536 };

	for (size_t i = 0; i < IMG_ARRAY_LEN(how); i++) {
		struct img_ioq *q = new_queue(IMG_IO_URING);
		struct img_storage *s;

		make_pattern("f");
		s = opened("f", how[i]);
		if (img_ioq_set_buffers(q, &memory, 1))
			cr_skip_test("no memory can be registered here");
		for (int n = 0; n < 3; n++) {
			uint8_t want[4096];

			pattern(want, sizeof(want), 0);
			cr_assert_eq(by_queue(q, s, IMG_IO_READ, buf, 0, 4096), 0);
			cr_assert_eq(memcmp(buf, want, 4096), 0);
			cr_assert_eq(by_queue(q, s, IMG_IO_WRITE, buf, 0, 4096), -EROFS);
			change(s, true);
			memset(buf, n + 1, 4096);
			cr_assert_eq(by_queue(q, s, IMG_IO_WRITE, buf, 8192, 4096), 0);
			cr_assert_eq(by_queue(q, s, IMG_IO_ZERO, NULL, 16384, 4096), 0);
			cr_assert_eq(by_queue(q, s, IMG_IO_SYNC, NULL, 0, 0), 0);
			change(s, false);
			memset(buf, 0xee, 4096);
			cr_assert_eq(by_queue(q, s, IMG_IO_READ, buf, 8192, 4096), 0);
			cr_assert(buf[0] == n + 1 && buf[4095] == n + 1);
		}
		img_storage_close(s);
		img_ioq_free(q);
	}
	free(buf);
}

struct reader {
	pthread_t thread;
	struct img_storage *s;
	enum img_io_kind kind;
	bool registered;
	_Atomic bool stop;
	_Atomic unsigned reads;
	unsigned bad;
};

static void *keep_reading(void *arg)
{
	static _Thread_local uint8_t buf[65536] __attribute__((aligned(4096))), want[65536];
	struct reader *r = arg;
	struct iovec memory = { buf, sizeof(buf) };
	struct img_ioq *q;
	uint32_t state = 77;

	cr_assert_eq(img_ioq_new(r->kind, &q, NULL), 0);
	if (r->registered)
		img_ioq_set_buffers(q, &memory, 1);
	while (!atomic_load(&r->stop)) {
		uint64_t off = rnd(&state) % (BYTES / 4096 - 16) * 4096;

		for (size_t i = 0; i < sizeof(want); i++)
			want[i] = (uint8_t)((off + i) * 31 + (off + i) / 4096);
		r->bad += by_queue(q, r->s, IMG_IO_READ, buf, off, sizeof(buf)) != 0 ||
			  memcmp(buf, want, sizeof(buf)) != 0;
		r->reads++;
	}
	img_ioq_free(q);
	return NULL;
}

/* Who reads meanwhile sees nothing of it. */
Test(reopen, beside_readers)
{
	static const enum img_io_kind kinds[] = { IMG_IO_AUTO, IMG_IO_AUTO, IMG_IO_THREADS };
	static const unsigned how[] = { 0, IMG_STORAGE_TRY_DIRECT };

	for (size_t i = 0; i < IMG_ARRAY_LEN(how); i++) {
		struct reader r[IMG_ARRAY_LEN(kinds)] = { 0 };
		struct img_storage *s;

		make_pattern("f");
		s = opened("f", how[i]);
		for (size_t k = 0; k < IMG_ARRAY_LEN(kinds); k++) {
			r[k].s = s;
			r[k].kind = kinds[k];
			r[k].registered = k == 1;
			cr_assert_eq(pthread_create(&r[k].thread, NULL, keep_reading, &r[k]), 0);
		}
		for (size_t k = 0; k < IMG_ARRAY_LEN(kinds); k++)
			while (!atomic_load(&r[k].reads))
				usleep(100);
		for (int n = 0; n < 600; n++)
			change(s, n % 2 == 0);
		for (size_t k = 0; k < IMG_ARRAY_LEN(kinds); k++) {
			atomic_store(&r[k].stop, true);
			pthread_join(r[k].thread, NULL);
			cr_assert_gt(r[k].reads, 0);
			cr_assert_eq(r[k].bad, 0, "reader %zu: %u of %u", k, r[k].bad, r[k].reads);
		}
		img_storage_close(s);
	}
}

/* A program that runs cannot be written to, by nobody. */
Test(reopen, what_may_not_be_written_stays_readable)
{
	struct img_error err = { 0 };
	struct img_storage *s, *other = NULL;
	char command[PATH_MAX], byte;
	pid_t pid;

	snprintf(command, sizeof(command), "cp /bin/sleep %s", in_folder("f"));
	cr_assert_eq(system(command), 0);
	pid = fork();
	if (!pid) {
		execl(in_folder("f"), "sleep", "50", (char *)NULL);
		_exit(127);
	}
	usleep(200 * 1000);
	s = opened("f", 0);
	cr_assert_eq(img_storage_set_writable(s, true, &err), -ETXTBSY, "%s", img_error_text(&err));
	cr_assert(strstr(img_error_text(&err), in_folder("f")), "%s", img_error_text(&err));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	cr_assert(!s->writable);
	cr_assert_eq(img_storage_read(s, 0, &byte, 1, NULL), 0);
	/* a reader's locks are what is held: another reader comes in, a writer does not */
	cr_assert_eq(img_storage_open_file(in_folder("f"), IMG_STORAGE_WRITE, &other, NULL), -EAGAIN);
	cr_assert_eq(img_storage_open_file(in_folder("f"), 0, &other, NULL), 0);
	img_storage_close(other);
	change(s, true);
	img_storage_close(s);
	img_error_clear(&err);
}

Test(reopen, refusals)
{
	struct img_storage *s = NULL;
	struct img_error err = { 0 };

	cr_assert_eq(img_storage_open_file("/dev/null", 0, &s, NULL), 0);
	cr_assert_eq(img_storage_set_writable(s, true, &err), -EINVAL);
	cr_assert(strstr(img_error_text(&err), "character device"));
	img_storage_close(s);
	cr_assert_eq(img_storage_create_file(in_folder("new"), 0, &s, NULL), 0);
	cr_assert_eq(img_storage_set_writable(s, false, &err), -EBUSY);
	cr_assert(s->writable);
	img_storage_close(s);
	img_error_clear(&err);
}

/* Asked for more than was needed, because the file may: that is gone again with the role. */
Test(reopen, room_ahead_goes_with_the_role)
{
	static uint8_t block[4096] __attribute__((aligned(4096)));
	struct img_storage *s;
	struct stat st;

	make_file("f", block, sizeof(block));
	s = opened("f", IMG_STORAGE_WRITE | IMG_STORAGE_TRY_DIRECT);
	s->may_grow_ahead = true;
	cr_assert_eq(img_storage_write(s, 4096, block, sizeof(block), NULL), 0);
	change(s, false);
	cr_assert(!stat(in_folder("f"), &st) && st.st_size == 8192);
	cr_assert(!s->may_grow_ahead);
	img_storage_close(s);
}

Test(reopen, memory_windows_and_filters)
{
	struct img_fault fault = { .ops = IMG_FAULT_SET_WRITABLE, .at = UINT64_MAX, .rc = -EIO };
	struct img_record *record = img_record_new();
	struct img_storage *s, *file;

	cr_assert_eq(img_storage_memory("m", 4096, 1 << 20, &s), 0);
	check_roles(s);
	img_storage_close(s);

	make_pattern("f");
	file = opened("f", 0);
	cr_assert_eq(img_storage_record(file, record, &s), 0);
	cr_assert_eq(img_storage_fault(s, &fault, &s), 0);
	cr_assert_eq(img_storage_window(s, 4096, 8192, &s, NULL), 0);
	check_roles(s);
	cr_assert(!file->writable);
	/* a refusal below is one above */
	fault.at = atomic_load(&fault.count);
	cr_assert_eq(img_storage_set_writable(s, true, NULL), -EIO);
	cr_assert(!s->writable && !file->writable);
	change(s, true);
	cr_assert(file->writable);
	img_storage_close(s);
	img_record_free(record);
}

static struct img_storage *null_disk(unsigned flags)
{
	const struct img_module *m = img_module_named("null-co");
	struct img_options *o = img_options_new(m->options);
	struct img_module_opening opening = { .options = o, .flags = flags };
	struct img_storage *s;

	cr_assert_eq(m->open(&opening, &s, NULL), 0);
	img_options_free(o);
	return s;
}

Test(reopen, null_disk)
{
	struct img_storage *s = null_disk(0);

	change(s, true);
	cr_assert_eq(img_storage_write(s, 0, "x", 1, NULL), 0);
	change(s, false);
	cr_assert_eq(img_storage_write(s, 0, "x", 1, NULL), -EROFS);
	img_storage_close(s);
}
