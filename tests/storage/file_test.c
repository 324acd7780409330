/*
 * Files: opening, errors, size, holes, zeroing, memory as a file.
 */
#include "storage_help.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/vfs.h>

TestSuite(file, .init = make_folder, .fini = remove_folder, .timeout = 60);
TestSuite(memory, .timeout = 60);

static void expect_open_error(const char *path, unsigned flags, int rc, const char *sentence)
{
	struct img_error err = { 0 };
	struct img_storage *s = NULL;
	char want[PATH_MAX * 2];

	snprintf(want, sizeof(want), "Could not open '%s': %s", path, sentence);
	cr_assert_eq(img_storage_open_file(path, flags, &s, &err), rc, "%s", img_error_text(&err));
	cr_assert_str_eq(img_error_text(&err), want);
	cr_assert_null(s);
	img_error_clear(&err);
}

Test(file, not_opened)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	expect_open_error(in_folder("none"), 0, -ENOENT, "No such file or directory");
	expect_open_error(folder, 0, -EISDIR, "Is a directory");
	expect_open_error(folder, IMG_STORAGE_WRITE, -EISDIR, "Is a directory");
	expect_open_error("/dev/null", IMG_STORAGE_WRITE, -EINVAL,
			  "it is a character device, neither a regular file nor a block device");
	cr_assert_eq(mkfifo(in_folder("pipe"), 0600), 0);
	expect_open_error(in_folder("pipe"), 0, -EINVAL,
			  "it is a pipe, neither a regular file nor a block device");
	expect_open_error(in_folder("pipe"), IMG_STORAGE_WRITE, -EINVAL,
			  "it is a pipe, neither a regular file nor a block device");
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", in_folder("sock"));
	cr_assert_eq(bind(sock, (struct sockaddr *)&address, sizeof(address)), 0);
	expect_open_error(in_folder("sock"), 0, -ENXIO, "No such device or address");
	make_file("file", "x", 1);
	expect_open_error(in_folder("file"), IMG_STORAGE_WRITE | IMG_STORAGE_SHARE, -EINVAL,
			  "sharing it with writers is for reading only");
	expect_open_error("", 0, -ENOENT, "No such file or directory");
	close(sock);
}

Test(file, descriptor)
{
	struct img_error err = { 0 };
	struct img_storage *s = NULL;
	char buf[3];
	int fd;

	make_file("file", "abc", 3);
	fd = open(in_folder("file"), O_RDONLY | O_CLOEXEC);
	cr_assert_eq(img_storage_open_fd(fd, "name", IMG_STORAGE_WRITE, &s, &err), -EBADF);
	cr_assert(strstr(img_error_text(&err), "not open for reading and writing"));
	cr_assert_eq(fcntl(fd, F_GETFD), -1, "the descriptor is ours to close, also on failure");
	fd = open(in_folder("file"), O_RDWR | O_CLOEXEC | O_NONBLOCK);
	cr_assert_eq(img_storage_open_fd(fd, "name", IMG_STORAGE_WRITE, &s, &err), 0);
	cr_assert_not(fcntl(fd, F_GETFL) & O_NONBLOCK);
	cr_assert_str_eq(s->name, "name");
	cr_assert_eq(img_storage_read(s, 0, buf, 3, &err), 0);
	cr_assert_arr_eq(buf, "abc", 3);
	img_storage_close(s);
	cr_assert_eq(fcntl(fd, F_GETFD), -1);
	img_error_clear(&err);
	img_storage_close(NULL);
}

Test(file, sentences)
{
	struct img_error err = { 0 };
	struct img_storage *s;
	char buf[10] = { 0 }, want[PATH_MAX * 2];

	make_file("f", "abc", 3);
	s = opened("f", 0);
	cr_assert_eq(img_storage_write(s, 5, buf, 10, &err), -EROFS);
	snprintf(want, sizeof(want), "Could not write 10 bytes at offset 5 of '%s': Read-only file "
				     "system",
		 s->name);
	cr_assert_str_eq(img_error_text(&err), want);
	cr_assert_eq(img_storage_resize(s, 7, IMG_PREALLOCATE_OFF, &err), -EROFS);
	cr_assert_eq(truncate(s->name, 1), 0);
	cr_assert_eq(img_storage_read(s, 0, buf, 3, &err), -EIO);
	snprintf(want, sizeof(want), "Could not read 3 bytes at offset 0 of '%s': Input/output error",
		 s->name);
	cr_assert_str_eq(img_error_text(&err), want);
	cr_assert_eq(img_storage_read(s, INT64_MAX, buf, 3, &err), -EFBIG);
	cr_assert_eq(img_storage_read(s, UINT64_MAX, buf, 3, &err), -EFBIG);
	img_storage_close(s);
	img_error_clear(&err);
}

static void expect_extent(struct img_storage *s, uint64_t off, uint64_t len,
			  enum img_storage_extent want_kind, uint64_t want_run)
{
	enum img_storage_extent kind;
	uint64_t run;

	cr_assert_eq(img_storage_extent(s, off, len, &kind, &run), 0);
	cr_assert_eq(kind, want_kind, "at %lu", off);
	cr_assert_eq(run, want_run, "at %lu: %lu", off, run);
}

static uint64_t file_size(const char *name)
{
	struct stat st;

	cr_assert_eq(stat(in_folder(name), &st), 0);
	return (uint64_t)st.st_size;
}

/* What needs no waiting is what the file has, or nothing. */
Test(file, read_cached)
{
	struct img_storage *file, *memory;
	char buf[4], bytes[4096] = { [2] = 'a', 'b', 'c', 'd', [4094] = 'y', 'z' };
	bool buffered;

	make_file("file", bytes, sizeof(bytes));
	cr_assert_eq(img_storage_open_file(in_folder("file"), IMG_STORAGE_WRITE, &file, NULL), 0);
	buffered = img_storage_read_cached(file, 2, buf, 4);
	if (buffered) { /* not every file system can tell */
		cr_assert_arr_eq(buf, "abcd", 4);
		cr_assert_eq(img_storage_write(file, 3, "BC", 2, NULL), 0);
		cr_assert(img_storage_read_cached(file, 2, buf, 4));
		cr_assert_arr_eq(buf, "aBCd", 4);
	}
	cr_assert(!img_storage_read_cached(file, 4094, buf, 4), "not all of it is in the file");
	cr_assert(!img_storage_read_cached(file, 8192, buf, 4));
	img_storage_close(file);

	if (!img_storage_open_file(in_folder("file"), IMG_STORAGE_DIRECT, &file, NULL)) {
		cr_assert(!img_storage_read_cached(file, 0, buf, 4));
		img_storage_close(file);
	}
	cr_assert_eq(img_storage_memory("memory", 4096, 4096, &memory), 0);
	cr_assert(!img_storage_read_cached(memory, 0, buf, 4));
	img_storage_close(memory);
}

Test(file, extents)
{
	static uint8_t data[65536];
	struct img_storage *s = new_file("f", 0);
	uint64_t M = 1 << 20;

	memset(data, 1, sizeof(data));
	cr_assert_eq(img_storage_resize(s, 16 * M, IMG_PREALLOCATE_OFF, NULL), 0);
	expect_extent(s, 0, 16 * M, IMG_STORAGE_HOLE, 16 * M);
	expect_extent(s, 5, 20 * M, IMG_STORAGE_HOLE, 20 * M);
	cr_assert_eq(img_storage_write(s, M, data, sizeof(data), NULL), 0);
	expect_extent(s, 0, 16 * M, IMG_STORAGE_HOLE, M);
	expect_extent(s, M, 16 * M, IMG_STORAGE_DATA, 65536);
	expect_extent(s, M + 4096, 4096, IMG_STORAGE_DATA, 4096);
	expect_extent(s, M + 65536, 100 * M, IMG_STORAGE_HOLE, 100 * M);
	/* what was known is forgotten by each kind of change */
	cr_assert_eq(img_storage_write(s, 8 * M, data, sizeof(data), NULL), 0);
	expect_extent(s, M + 65536, 100 * M, IMG_STORAGE_HOLE, 7 * M - 65536);
	expect_extent(s, 8 * M, 100 * M, IMG_STORAGE_DATA, 65536);
	cr_assert_eq(img_storage_punch(s, 8 * M, 32768, NULL), 0);
	expect_extent(s, 8 * M, 100 * M, IMG_STORAGE_HOLE, 32768);
	expect_extent(s, 8 * M + 32768, 100 * M, IMG_STORAGE_DATA, 32768);
	cr_assert_eq(img_storage_resize(s, 8 * M + 40960, IMG_PREALLOCATE_OFF, NULL), 0);
	expect_extent(s, 8 * M + 32768, 100 * M, IMG_STORAGE_DATA, 8192);
	expect_extent(s, 8 * M + 40960, 100 * M, IMG_STORAGE_HOLE, 100 * M);
	expect_extent(s, UINT64_MAX - 1, 1, IMG_STORAGE_HOLE, 1);
	img_storage_close(s);
}

/* Whoever asks for a hole piece by piece from its end on is not answered by the file system each time. */
Test(file, extents_backwards)
{
	static uint8_t data[65536];
	struct img_storage *s = new_file("f", 0);
	uint64_t M = 1 << 20, pieces = 4096, run;
	enum img_storage_extent kind;
	unsigned asked = 0;

	memset(data, 1, sizeof(data));
	cr_assert_eq(img_storage_write(s, 0, data, sizeof(data), NULL), 0);
	cr_assert_eq(img_storage_resize(s, pieces * M, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_storage_write(s, pieces * M, data, sizeof(data), NULL), 0);
	for (uint64_t i = pieces; i-- > 1;) {
		asked += !img_storage_known_extent(s, i * M, M, &kind, &run);
		expect_extent(s, i * M, M, IMG_STORAGE_HOLE, M);
		cr_assert(img_storage_known_extent(s, i * M, M, &kind, &run));
		cr_assert(kind == IMG_STORAGE_HOLE && run == M);
	}
	cr_assert_leq(asked, 16, "%u times", asked);
	expect_extent(s, 0, M, IMG_STORAGE_DATA, 65536);
	expect_extent(s, 65536, M, IMG_STORAGE_HOLE, M);
	/* what lies before a piece of data is asked for */
	expect_extent(s, pieces * M, M, IMG_STORAGE_DATA, 65536);
	expect_extent(s, pieces * M - 4096, M, IMG_STORAGE_HOLE, 4096);
	cr_assert_eq(img_storage_write(s, 2000 * M, data, sizeof(data), NULL), 0);
	expect_extent(s, 3000 * M, M, IMG_STORAGE_HOLE, M);
	expect_extent(s, 2001 * M, M, IMG_STORAGE_HOLE, M);
	expect_extent(s, 2000 * M, M, IMG_STORAGE_DATA, 65536);
	expect_extent(s, 1999 * M, 4 * M, IMG_STORAGE_HOLE, M);
	img_storage_close(s);
}

Test(file, resize)
{
	struct img_storage *s = new_file("f", 0);
	struct img_error err = { 0 };

	atomic_store(&s->unsynced, false);
	cr_assert_eq(img_storage_resize(s, 1000000, IMG_PREALLOCATE_OFF, &err), 0);
	cr_assert(atomic_load(&s->unsynced));
	cr_assert_eq(file_size("f"), 1000000);
	cr_assert_eq(atomic_load(&s->size), 1000000);
	cr_assert_lt(img_storage_allocated(s), 65536);
	cr_assert_eq(img_storage_resize(s, 2000000, IMG_PREALLOCATE_FALLOC, &err), 0);
	cr_assert_eq(file_size("f"), 2000000);
	cr_assert_geq(img_storage_allocated(s), 1000000);
	cr_assert_lt(img_storage_allocated(s), 1200000);
	cr_assert_eq(img_storage_resize(s, 3000000, IMG_PREALLOCATE_FULL, &err), 0);
	cr_assert_eq(file_size("f"), 3000000);
	cr_assert_geq(img_storage_allocated(s), 2000000);
	cr_assert_eq(img_storage_resize(s, 10, IMG_PREALLOCATE_FULL, &err), 0);
	cr_assert_eq(file_size("f"), 10);
	cr_assert_eq(img_storage_resize(s, 0, IMG_PREALLOCATE_METADATA, &err), -ENOTSUP);
	cr_assert_eq(img_storage_resize(s, UINT64_MAX, IMG_PREALLOCATE_OFF, &err), -EFBIG);
	cr_assert_eq(img_storage_resize(s, INT64_MAX, IMG_PREALLOCATE_OFF, &err), -EFBIG);
	cr_assert(strstr(img_error_text(&err), "from 10 to 9223372036854775807 bytes: File too large"));
	cr_assert_eq(atomic_load(&s->size), 10);
	img_error_clear(&err);
	img_storage_close(s);
}

Test(file, failed_growth_is_undone)
{
	struct rlimit before, small;
	struct img_storage *s = new_file("f", 0);

	cr_assert_eq(img_storage_resize(s, 5000, IMG_PREALLOCATE_OFF, NULL), 0);
	getrlimit(RLIMIT_FSIZE, &before);
	small = (struct rlimit){ 100000, before.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &small);
	cr_assert_eq(img_storage_resize(s, 200000, IMG_PREALLOCATE_FALLOC, NULL), -EFBIG);
	cr_assert_eq(file_size("f"), 5000);
	cr_assert_eq(img_storage_resize(s, 200000, IMG_PREALLOCATE_FULL, NULL), -EFBIG);
	setrlimit(RLIMIT_FSIZE, &before);
	cr_assert_eq(file_size("f"), 5000);
	cr_assert_eq(atomic_load(&s->size), 5000);
	img_storage_close(s);
}

/* Zeroes over every kind of edge, inside and past the end. where: a folder on some file system. */
static void zeroing(const char *path)
{
	static uint8_t flat[400000], back[400000];
	struct img_error err = { 0 };
	struct img_storage *s;
	int fd = open(path, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
	uint32_t random = 5;

	if (fd < 0)
		cr_skip_test("%s cannot be made", path);
	cr_assert_eq(img_storage_open_fd(fd, path, IMG_STORAGE_WRITE, &s, &err), 0);
	for (int i = 0; i < 300; i++) {
		uint64_t off = rnd(&random) % 390000, len = 1 + rnd(&random) % 10000;
		uint64_t size = atomic_load(&s->size), end = off + len;

		switch (rnd(&random) % 3) {
		case 0:
			memset(flat + off, i, len);
			cr_assert_eq(img_storage_write(s, off, flat + off, len, &err), 0);
			cr_assert_eq(atomic_load(&s->size), max_u64(size, end));
			break;
		case 1:
			memset(flat + off, 0, len);
			cr_assert_eq(img_storage_zero(s, off, len, &err), 0, "%s",
				     img_error_text(&err));
			cr_assert_eq(atomic_load(&s->size), max_u64(size, end));
			break;
		case 2:
			memset(flat + off, 0, len);
			cr_assert_eq(img_storage_punch(s, off, len, &err), 0);
			cr_assert_eq(atomic_load(&s->size), size);
			break;
		}
		cr_assert_eq(img_storage_read(s, 0, back, sizeof(back), &err), 0);
		cr_assert_arr_eq(back, flat, sizeof(flat), "step %d", i);
	}
	/* the end is where it says, and growing by zeroes costs next to nothing */
	struct stat st;
	cr_assert_eq(fstat(fd, &st), 0);
	cr_assert_eq((uint64_t)st.st_size, atomic_load(&s->size));
	cr_assert_eq(img_storage_zero(s, 300000, UINT64_C(1) << 32, &err), 0);
	cr_assert_eq(atomic_load(&s->size), 300000 + (UINT64_C(1) << 32));
	cr_assert_lt(img_storage_allocated(s), 1 << 20);
	img_storage_close(s);
	unlink(path);
}

Test(file, zeroing)
{
	zeroing(in_folder("f"));
}

Test(file, zeroing_tmpfs) /* it has holes, but cannot zero in place */
{
	zeroing("/dev/shm/img-file-test");
}

Test(file, sync_marks)
{
	struct img_storage *s = new_file("f", 0);
	char c = 'c';

	cr_assert_not(atomic_load(&s->unsynced));
	cr_assert_eq(img_storage_write(s, 0, &c, 1, NULL), 0);
	cr_assert(atomic_load(&s->unsynced));
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	cr_assert_not(atomic_load(&s->unsynced));
	cr_assert_eq(img_storage_zero(s, 0, 1, NULL), 0);
	cr_assert(atomic_load(&s->unsynced));
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	cr_assert_eq(img_storage_punch(s, 0, 1, NULL), 0);
	cr_assert(atomic_load(&s->unsynced));
	img_storage_close(s);
}

struct simple {
	struct img_io io;
	bool done;
};

static void simple_done(struct img_io *io)
{
	IMG_CONTAINER(io, struct simple, io)->done = true;
}

/* What is written durably need not be synced later; what is zeroed so is synced at once. */
Test(file, durable_requests)
{
	static uint8_t bytes[8192];

	for (int i = 0; i < 8; i++) {
		enum img_io_kind kind = i & 1 ? IMG_IO_THREADS : IMG_IO_AUTO;
		enum img_io_op op = i & 4 ? IMG_IO_ZERO : IMG_IO_WRITE;
		struct img_storage *s = new_file("f", i & 2 ? IMG_STORAGE_TRY_DIRECT : 0);
		struct simple r = { .io = { .storage = s,
					    .op = op,
					    .flags = IMG_IO_FUA,
					    .off = 100,
					    .len = 5000,
					    .iovcnt = 1,
					    .one = { bytes, 5000 },
					    .done = simple_done } };
		struct img_ioq *q;

		r.io.iov = &r.io.one;
		cr_assert(s->limits.fua);
		cr_assert_eq(img_ioq_new(kind, &q, NULL), 0);
		img_ioq_submit(q, &r.io);
		while (!r.done)
			img_ioq_run(q, true);
		cr_assert_eq(r.io.rc, 0);
		cr_assert(!atomic_load(&s->unsynced), "%d", i);
		cr_assert_eq(atomic_load(&s->size), 5100);
		cr_assert_eq(img_storage_write(s, 0, bytes, 1, NULL), 0);
		cr_assert(atomic_load(&s->unsynced));
		img_ioq_free(q);
		img_storage_close(s);
	}
}

/* Zeroes that stay allocated have blocks, also where the file had none, or was shorter. */
Test(file, zeroes_that_stay_allocated)
{
	struct img_storage *s = new_file("f", 0);
	uint64_t none;

	cr_assert_eq(img_storage_resize(s, 1 << 20, IMG_PREALLOCATE_OFF, NULL), 0);
	none = img_storage_allocated(s);
	cr_assert_eq(img_storage_io(s, IMG_IO_ZERO, NULL, 0, 0, 2 << 20, IMG_IO_KEEP_ALLOCATED), 0);
	cr_assert_eq(atomic_load(&s->size), 2 << 20);
	cr_assert_geq(img_storage_allocated(s), none + (2 << 20));
	img_storage_close(s);
}

/* ---- Memory ---- */

Test(memory, limits)
{
	struct img_error err = { 0 };
	struct img_storage *s;
	uint8_t buf[100];

	cr_assert_eq(img_storage_memory("mem", 1000, 2000, &s), 0);
	memset(buf, 7, sizeof(buf));
	cr_assert_eq(img_storage_write(s, 1900, buf, 100, &err), 0);
	cr_assert_eq(atomic_load(&s->size), 2000);
	cr_assert_eq(img_storage_write(s, 1901, buf, 100, &err), -ENOSPC);
	cr_assert_str_eq(img_error_text(&err), "Could not write 100 bytes at offset 1901 of 'mem': No "
					       "space left on device");
	cr_assert_eq(img_storage_resize(s, 2001, IMG_PREALLOCATE_OFF, &err), -ENOSPC);
	cr_assert_eq(img_storage_resize(s, 1950, IMG_PREALLOCATE_OFF, &err), 0);
	cr_assert_eq(img_storage_resize(s, 2000, IMG_PREALLOCATE_OFF, &err), 0);
	cr_assert_eq(img_storage_read(s, 1900, buf, 100, &err), 0);
	for (int i = 0; i < 100; i++)
		cr_assert_eq(buf[i], i < 50 ? 7 : 0);
	img_storage_close(s);
	img_error_clear(&err);
}

Test(memory, sparse)
{
	struct img_storage *s;
	uint64_t T = UINT64_C(1) << 36;
	char c = 'c';

	cr_assert_eq(img_storage_memory("mem", T, T * 2, &s), 0);
	expect_extent(s, 0, T, IMG_STORAGE_HOLE, T);
	cr_assert_eq(img_storage_write(s, 1 << 20, &c, 1, NULL), 0);
	expect_extent(s, 0, T, IMG_STORAGE_HOLE, 1 << 20);
	expect_extent(s, 1 << 20, T, IMG_STORAGE_DATA, 65536);
	expect_extent(s, (1 << 20) + 65536, T, IMG_STORAGE_HOLE, T);
	cr_assert_eq(img_storage_allocated(s), 65536);
	cr_assert_eq(img_storage_zero(s, 0, T, NULL), 0);
	cr_assert_eq(img_storage_allocated(s), 0);
	img_storage_close(s);
}
