/*
 * Locks: among ourselves, and with qemu-io holding the same file.
 */
#include "storage_help.h"

#include <signal.h>
#include <sys/wait.h>

#include "libimg/storage/posix_file.h"

TestSuite(lock, .init = make_folder, .fini = remove_folder, .timeout = 60);

enum { R = 0,
       W = IMG_STORAGE_WRITE,
       U = IMG_STORAGE_SHARE,
       NO = IMG_STORAGE_NO_LOCK };

static int try_open(unsigned flags, struct img_storage **s, struct img_error *err)
{
	return img_storage_open_file(in_folder("f"), flags, s, err);
}

Test(lock, among_ourselves)
{
	static const struct {
		unsigned first, second;
		bool both;
	} cases[] = {
		{ R, R, true },
		{ R, W, false },
		{ W, R, false },
		{ W, W, false },
		{ W, U, true },
		{ U, W, true },
		{ U, R, true },
		{ R, U, true },
		{ U, U, true },
		{ W, NO, true },
		{ W, NO | W, true },
		{ NO | W, W, true },
		{ NO, R, true },
	};

	make_file("f", "", 0);
	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		struct img_storage *a, *b = NULL;

		cr_assert_eq(try_open(cases[i].first, &a, NULL), 0);
		cr_assert_eq(try_open(cases[i].second, &b, NULL), cases[i].both ? 0 : -EAGAIN,
			     "case %zu", i);
		img_storage_close(b);
		img_storage_close(a);
		/* nothing is held any more */
		cr_assert_eq(try_open(W, &a, NULL), 0);
		img_storage_close(a);
	}
}

Test(lock, sentences)
{
	struct img_error err = { 0 };
	struct img_storage *a, *b = NULL;
	char want[PATH_MAX * 3];

	make_file("f", "", 0);
	cr_assert_eq(try_open(R, &a, &err), 0);
	cr_assert_eq(try_open(W, &b, &err), -EAGAIN);
	snprintf(want, sizeof(want), "Could not open '%s': Failed to get \"write\" lock. Is another "
				     "process using the image [%s]?",
		 a->name, a->name);
	cr_assert_str_eq(img_error_text(&err), want);
	img_storage_close(a);
	cr_assert_eq(try_open(W, &a, &err), 0);
	cr_assert_eq(try_open(R, &b, &err), -EAGAIN);
	cr_assert(strstr(img_error_text(&err), "Failed to get shared \"write\" lock. Is another "));
	img_storage_close(a);
	img_error_clear(&err);
}

/* A direct storage has two descriptors; the lock lives as long as both. */
Test(lock, direct)
{
	struct img_storage *a, *b = NULL;

	make_file("f", "", 0);
	cr_assert_eq(try_open(W | IMG_STORAGE_TRY_DIRECT, &a, NULL), 0);
	cr_assert_eq(try_open(W | IMG_STORAGE_TRY_DIRECT, &b, NULL), -EAGAIN);
	cr_assert_eq(try_open(U | IMG_STORAGE_TRY_DIRECT, &b, NULL), 0);
	img_storage_close(b);
	cr_assert_eq(try_open(R, &b, NULL), -EAGAIN);
	img_storage_close(a);
}

/*
 * ---- With QEMU ----
 *
 * On a qcow2 image: QEMU's raw driver denies others nothing, whatever it does itself.
 */

static void make_image(void)
{
	char command[PATH_MAX * 2];

	snprintf(command, sizeof(command), "qemu-io --version >%s 2>&1 && "
					   "qemu-img create -f qcow2 %s 1M >%s 2>&1",
		 in_folder("out"), in_folder("f"),
		 in_folder("out"));
	if (system(command))
		cr_skip_test("qemu-io and qemu-img are not installed");
}

static pid_t qemu;
static int to_qemu, from_qemu;

/* qemu-io with the file open until it is told to quit. */
static void start_qemu(const char *mode)
{
	int in[2], out[2];
	char c;

	make_image();
	cr_assert_eq(pipe2(in, O_CLOEXEC), 0);
	cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
	qemu = fork();
	if (!qemu) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(out[1], 2);
		execlp("qemu-io", "qemu-io", "-f", "qcow2", mode, in_folder("f"), (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	to_qemu = in[1];
	from_qemu = out[0];
	/* its prompt, or its first answer, comes after it has opened the file */
	cr_assert_eq(write(to_qemu, "length\n", 7), 7);
	cr_assert_eq(read(from_qemu, &c, 1), 1);
	usleep(300 * 1000);
}

static void stop_qemu(void)
{
	cr_assert_eq(write(to_qemu, "quit\n", 5), 5);
	close(to_qemu);
	waitpid(qemu, NULL, 0);
	close(from_qemu);
}

static int run_qemu(const char *mode)
{
	char command[PATH_MAX * 2];

	snprintf(command, sizeof(command), "qemu-io -f qcow2 %s -c 'length' %s >%s 2>&1", mode,
		 in_folder("f"), in_folder("out"));
	return system(command);
}

static bool qemu_said(const char *words)
{
	char text[1000];
	int fd = open(in_folder("out"), O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	close(fd);
	text[n > 0 ? n : 0] = '\0';
	return strstr(text, words) != NULL;
}

Test(lock, qemu_writes)
{
	struct img_storage *s = NULL;
	struct img_error err = { 0 };

	start_qemu("-m"); /* any option that lets it write */
	cr_assert_eq(try_open(W, &s, &err), -EAGAIN);
	cr_assert(strstr(img_error_text(&err), "Failed to get \"write\" lock"), "%s",
		  img_error_text(&err));
	cr_assert_eq(try_open(R, &s, &err), -EAGAIN);
	cr_assert(strstr(img_error_text(&err), "Failed to get shared \"write\" lock"), "%s",
		  img_error_text(&err));
	cr_assert_eq(try_open(U, &s, &err), 0);
	img_storage_close(s);
	s = NULL;
	cr_assert_eq(img_storage_create_file(in_folder("f"), 0, &s, &err), -EAGAIN);
	stop_qemu();
	cr_assert_eq(try_open(W, &s, &err), 0);
	cr_assert_gt(atomic_load(&s->size), 65536, "the refused creation changed nothing");
	img_storage_close(s);
	img_error_clear(&err);
}

/* A program that locks in its own way, exclusively. */
Test(lock, held_exclusively)
{
	struct flock lock = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 200
	};
	struct img_storage *s = NULL;
	int fd;

	make_file("f", "x", 1);
	fd = open(in_folder("f"), O_RDWR | O_CLOEXEC);
	cr_assert(fd >= 0 && !fcntl(fd, F_OFD_SETLK, &lock));
	cr_assert_eq(try_open(W, &s, NULL), -EAGAIN);
	cr_assert_eq(try_open(R, &s, NULL), -EAGAIN);
	cr_assert_eq(try_open(NO, &s, NULL), 0);
	img_storage_close(s);
	close(fd);
	cr_assert_eq(try_open(W, &s, NULL), 0);
	img_storage_close(s);
}

Test(lock, qemu_reads)
{
	struct img_storage *s = NULL;

	start_qemu("-r");
	cr_assert_eq(try_open(W, &s, NULL), -EAGAIN);
	cr_assert_eq(img_storage_create_file(in_folder("f"), 0, &s, NULL), -EAGAIN);
	cr_assert_eq(try_open(R, &s, NULL), 0);
	img_storage_close(s);
	cr_assert_eq(try_open(U, &s, NULL), 0);
	img_storage_close(s);
	stop_qemu();
}

Test(lock, qemu_comes_second)
{
	struct img_storage *s;

	make_image();
	cr_assert_eq(try_open(W, &s, NULL), 0);
	cr_assert_neq(run_qemu(""), 0);
	cr_assert(qemu_said("Failed to get \"write\" lock"));
	cr_assert_neq(run_qemu("-r"), 0);
	cr_assert(qemu_said("Failed to get shared \"write\" lock"));
	cr_assert_eq(run_qemu("-r -U"), 0);
	img_storage_close(s);
	cr_assert_eq(try_open(R, &s, NULL), 0);
	cr_assert_neq(run_qemu(""), 0);
	cr_assert(qemu_said("Failed to get \"write\" lock"));
	cr_assert_eq(run_qemu("-r"), 0);
	img_storage_close(s);
	cr_assert_eq(try_open(U, &s, NULL), 0);
	cr_assert_eq(run_qemu(""), 0);
	img_storage_close(s);
	cr_assert_eq(run_qemu(""), 0);
}

/* ---- Changing the role of an open file ---- */

static int change(struct img_storage *s, bool writable, struct img_error *err)
{
	return img_storage_set_writable(s, writable, err);
}

Test(lock, change_of_role)
{
	static const unsigned how[] = { 0, IMG_STORAGE_TRY_DIRECT };

	make_file("f", "", 0);
	for (size_t i = 0; i < IMG_ARRAY_LEN(how); i++) {
		struct img_storage *a, *b = NULL;
		struct img_error err = { 0 };

		cr_assert_eq(try_open(R | how[i], &a, NULL), 0);
		cr_assert_eq(try_open(R, &b, NULL), 0);
		cr_assert_eq(change(a, true, &err), -EAGAIN);
		cr_assert(strstr(img_error_text(&err), "Failed to get \"write\" lock"), "%s",
			  img_error_text(&err));
		cr_assert(!a->writable);
		/* what was taken for nothing is given back, what was held before is held */
		img_storage_close(b);
		cr_assert_eq(try_open(R, &b, NULL), 0);
		img_storage_close(b);
		b = NULL;
		cr_assert_eq(try_open(W, &b, NULL), -EAGAIN);
		cr_assert_eq(change(a, true, &err), 0, "%s", img_error_text(&err));
		cr_assert(a->writable);
		cr_assert_eq(try_open(R, &b, NULL), -EAGAIN);
		cr_assert_eq(try_open(U, &b, NULL), 0);
		cr_assert_eq(change(b, true, NULL), -EINVAL, "who shares with writers is none");
		img_storage_close(b);
		b = NULL;
		cr_assert_eq(change(a, false, &err), 0);
		cr_assert(!a->writable);
		cr_assert_eq(try_open(W, &b, NULL), -EAGAIN);
		cr_assert_eq(try_open(R, &b, NULL), 0);
		img_storage_close(b);
		b = NULL;
		img_storage_close(a);
		cr_assert_eq(try_open(W, &a, NULL), 0, "nothing is held any more");
		img_storage_close(a);
		img_error_clear(&err);
	}
}

Test(lock, change_of_role_without_locks)
{
	struct img_storage *a, *b;

	make_file("f", "", 0);
	cr_assert_eq(try_open(NO, &a, NULL), 0);
	cr_assert_eq(try_open(W, &b, NULL), 0);
	cr_assert_eq(change(a, true, NULL), 0);
	cr_assert_eq(change(a, false, NULL), 0);
	img_storage_close(b);
	img_storage_close(a);
}

struct intruder {
	pthread_t thread;
	_Atomic bool stop;
	unsigned tries, got;
};

static void *intrude(void *arg)
{
	struct intruder *t = arg;

	while (!atomic_load(&t->stop)) {
		int fd = open(in_folder("f"), O_RDWR | O_CLOEXEC);
		struct img_storage *s;

		t->tries++;
		if (!img_storage_open_fd(fd, "f", W, &s, NULL)) {
			t->got++;
			img_storage_close(s);
		}
	}
	return NULL;
}

/* There is no moment at which another writer gets in. */
Test(lock, change_of_role_lets_go_of_nothing)
{
	struct intruder t = { 0 };
	struct img_storage *a;
	unsigned changes = 0;

	make_file("f", "", 0);
	cr_assert_eq(try_open(R, &a, NULL), 0);
	cr_assert_eq(pthread_create(&t.thread, NULL, intrude, &t), 0);
	/* the other's attempt may be in our way: then we stay readers */
	for (int i = 0; i < 4000; i++) {
		int rc = change(a, true, NULL);

		cr_assert(rc == 0 || rc == -EAGAIN);
		changes += !rc;
		cr_assert_eq(change(a, false, NULL), 0);
	}
	atomic_store(&t.stop, true);
	pthread_join(t.thread, NULL);
	cr_assert_gt(t.tries, 0);
	cr_assert_gt(changes, 0);
	cr_assert_eq(t.got, 0);
	img_storage_close(a);
}

/* Locks that no descriptor of their own holds stay when the file is opened again. */
Test(lock, change_of_role_with_one_descriptor)
{
	struct img_storage *a, *b = NULL;

	make_file("f", "", 0);
	cr_assert_eq(try_open(R, &a, NULL), 0);
	close(img_file_of(a)->lock_fd);
	img_file_of(a)->lock_fd = -1;
	cr_assert_eq(img_file_lock(img_file_of(a)->fd, "f", false, false, NULL), 0);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(change(a, true, NULL), 0);
		cr_assert_eq(try_open(R, &b, NULL), -EAGAIN);
		cr_assert_eq(change(a, false, NULL), 0);
		cr_assert_eq(try_open(W, &b, NULL), -EAGAIN);
		cr_assert_eq(try_open(R, &b, NULL), 0);
		img_storage_close(b);
		b = NULL;
	}
	img_storage_close(a);
	cr_assert_eq(try_open(W, &a, NULL), 0);
	img_storage_close(a);
}

/* A reader of qemu's is in the way of who wants to write; once it has gone nobody is. */
Test(lock, change_of_role_beside_qemu)
{
	struct img_error err = { 0 };
	struct img_storage *s;

	start_qemu("-r");
	cr_assert_eq(try_open(R, &s, NULL), 0);
	cr_assert_eq(change(s, true, &err), -EAGAIN);
	cr_assert(strstr(img_error_text(&err), "Failed to get \"write\" lock"), "%s",
		  img_error_text(&err));
	cr_assert_eq(run_qemu("-r"), 0, "a refusal leaves nothing held");
	stop_qemu();
	cr_assert_eq(change(s, true, &err), 0, "%s", img_error_text(&err));
	cr_assert_neq(run_qemu("-r"), 0);
	cr_assert(qemu_said("Failed to get shared \"write\" lock"));
	cr_assert_eq(change(s, false, &err), 0);
	cr_assert_eq(run_qemu("-r"), 0);
	cr_assert_neq(run_qemu(""), 0);
	cr_assert(qemu_said("Failed to get \"write\" lock"));
	img_storage_close(s);
	cr_assert_eq(run_qemu(""), 0);
	img_error_clear(&err);
}

/* A writer of qemu's that lets in who shares: qemu-io -U beside it stays, and is no hindrance. */
Test(lock, change_of_role_beside_a_sharing_reader)
{
	struct img_storage *s, *u;

	make_image();
	cr_assert_eq(try_open(U, &u, NULL), 0);
	cr_assert_eq(try_open(R, &s, NULL), 0);
	cr_assert_eq(change(s, true, NULL), 0);
	cr_assert_eq(run_qemu("-r -U"), 0);
	img_storage_close(s);
	img_storage_close(u);
}
