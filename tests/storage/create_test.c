/*
 * New files: nothing to see until published, all at once then, nothing left behind otherwise.
 */
#include "storage_help.h"

#include <signal.h>
#include <sys/wait.h>

TestSuite(create, .init = make_folder, .fini = remove_folder, .timeout = 60);

static struct img_storage *created(const char *name, unsigned flags)
{
	struct img_error err = { 0 };
	struct img_storage *s = NULL;

	cr_assert_eq(img_storage_create_file(in_folder(name), flags, &s, &err), 0, "%s",
		     img_error_text(&err));
	cr_assert(s->writable);
	cr_assert_eq(atomic_load(&s->size), 0);
	return s;
}

static void expect_content(const char *name, const char *text)
{
	char buf[100];
	int fd = open(in_folder(name), O_RDONLY | O_CLOEXEC);

	cr_assert_geq(fd, 0, "%s: %s", name, strerror(errno));
	cr_assert_eq(read(fd, buf, sizeof(buf)), (ssize_t)strlen(text));
	cr_assert_arr_eq(buf, text, strlen(text));
	close(fd);
}

static void publish(struct img_storage *s)
{
	struct img_error err = { 0 };

	cr_assert_eq(img_storage_publish(s, &err), 0, "%s", img_error_text(&err));
}

Test(create, appears_when_published)
{
	struct img_storage *s = created("f", 0);
	struct stat st;

	umask(027);
	cr_assert_eq(img_storage_write(s, 0, "new", 3, NULL), 0);
	cr_assert_eq(access(in_folder("f"), F_OK), -1);
	publish(s);
	expect_content("f", "new");
	cr_assert_eq(img_storage_write(s, 3, "er", 2, NULL), 0);
	expect_content("f", "newer");
	publish(s); /* once more is nothing */
	img_storage_close(s);
	expect_content("f", "newer");
	cr_assert_eq(count_names(), 1);

	s = created("g", 0);
	publish(s);
	cr_assert_eq(stat(in_folder("g"), &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0640, "the umask is heeded");
	img_storage_close(s);
}

Test(create, leaves_nothing_behind)
{
	struct img_storage *s = created("f", 0);
	pid_t child;

	cr_assert_eq(img_storage_write(s, 0, "new", 3, NULL), 0);
	img_storage_close(s);
	cr_assert_eq(count_names(), 0);
	make_file("f", "old", 3);
	s = created("f", 0);
	cr_assert_eq(img_storage_write(s, 0, "new", 3, NULL), 0);
	img_storage_close(s);
	expect_content("f", "old");
	cr_assert_eq(count_names(), 1);
	/* not even when killed (a file system without O_TMPFILE keeps the hidden name) */
	child = fork();
	if (!child) {
		img_storage_create_file(in_folder("f"), 0, &s, NULL);
		raise(SIGKILL);
	}
	waitpid(child, NULL, 0);
	expect_content("f", "old");
	cr_assert_eq(count_names(), 1);
}

Test(create, replaces)
{
	struct img_storage *s, *other;
	struct stat before, st;
	int old;

	make_file("f", "old", 3);
	cr_assert_eq(chmod(in_folder("f"), 0604), 0);
	if (!geteuid())
		cr_assert_eq(chown(in_folder("f"), 12, 34), 0);
	cr_assert_eq(stat(in_folder("f"), &before), 0);
	old = open(in_folder("f"), O_RDONLY | O_CLOEXEC);
	s = created("f", 0);
	/* the old one is there, whole, and nobody may start to use it */
	expect_content("f", "old");
	cr_assert_eq(img_storage_open_file(in_folder("f"), 0, &other, NULL), -EAGAIN);
	cr_assert_eq(img_storage_create_file(in_folder("f"), 0, &other, NULL), -EAGAIN);
	cr_assert_eq(img_storage_write(s, 0, "new!", 4, NULL), 0);
	publish(s);
	expect_content("f", "new!");
	cr_assert_eq(count_names(), 1);
	cr_assert_eq(stat(in_folder("f"), &st), 0);
	cr_assert_eq(st.st_mode, before.st_mode);
	cr_assert_eq(st.st_uid, before.st_uid);
	cr_assert_eq(st.st_gid, before.st_gid);
	cr_assert_neq(st.st_ino, before.st_ino);
	/* who had it open keeps the old one */
	cr_assert_eq(fstat(old, &st), 0);
	cr_assert_eq(st.st_size, 3);
	close(old);
	cr_assert_eq(img_storage_open_file(in_folder("f"), 0, &other, NULL), -EAGAIN);
	img_storage_close(s);
	cr_assert_eq(img_storage_open_file(in_folder("f"), 0, &other, NULL), 0);
	img_storage_close(other);
}

Test(create, in_use_is_refused)
{
	struct img_error err = { 0 };
	struct img_storage *reader, *s = NULL;

	make_file("f", "old", 3);
	reader = opened("f", 0);
	cr_assert_eq(img_storage_create_file(in_folder("f"), 0, &s, &err), -EAGAIN);
	cr_assert(strstr(img_error_text(&err), "Failed to get \"write\" lock"));
	img_error_clear(&err);
	cr_assert_eq(img_storage_create_file(in_folder("f"), IMG_STORAGE_NO_LOCK, &s, NULL), 0);
	img_storage_close(s);
	img_storage_close(reader);
	expect_content("f", "old");
	cr_assert_eq(count_names(), 1);
}

/* Somebody creates the name meanwhile: the last to publish wins, as with rename(). */
Test(create, raced)
{
	struct img_storage *s = created("f", 0);

	cr_assert_eq(img_storage_write(s, 0, "mine", 4, NULL), 0);
	make_file("f", "theirs", 6);
	publish(s);
	expect_content("f", "mine");
	cr_assert_eq(count_names(), 1);
	img_storage_close(s);
}

Test(create, follows_links)
{
	struct img_storage *s;
	struct stat st;

	make_file("f", "old", 3);
	cr_assert_eq(symlink("f", in_folder("link")), 0);
	cr_assert_eq(symlink(in_folder("link"), in_folder("link2")), 0);
	s = created("link2", 0);
	cr_assert_eq(img_storage_write(s, 0, "new", 3, NULL), 0);
	publish(s);
	img_storage_close(s);
	expect_content("f", "new");
	cr_assert_eq(lstat(in_folder("link2"), &st), 0);
	cr_assert(S_ISLNK(st.st_mode));
	/* one that leads to nothing yet */
	cr_assert_eq(symlink("g", in_folder("dangling")), 0);
	s = created("dangling", 0);
	publish(s);
	img_storage_close(s);
	expect_content("g", "");
	cr_assert_eq(count_names(), 5);
	cr_assert_eq(symlink("loop", in_folder("loop")), 0);
	cr_assert_eq(img_storage_create_file(in_folder("loop"), 0, &s, NULL), -ELOOP);
}

Test(create, relative_and_chdir)
{
	struct img_storage *s = NULL;

	cr_assert_eq(chdir(folder), 0);
	cr_assert_eq(img_storage_create_file("f", 0, &s, NULL), 0);
	cr_assert_eq(chdir("/"), 0);
	publish(s);
	img_storage_close(s);
	expect_content("f", "");
}

static void expect_refused(const char *path, int rc, const char *sentence)
{
	struct img_error err = { 0 };
	struct img_storage *s = NULL;
	char want[PATH_MAX * 2];

	snprintf(want, sizeof(want), "Could not create '%s': %s", path, sentence);
	cr_assert_eq(img_storage_create_file(path, 0, &s, &err), rc);
	cr_assert_str_eq(img_error_text(&err), want);
	img_error_clear(&err);
}

Test(create, refused)
{
	char name[300];

	expect_refused("/dev/null", -EINVAL,
		       "it is a character device, neither a regular file nor a block device");
	expect_refused("/dev/full", -EINVAL,
		       "it is a character device, neither a regular file nor a block device");
	cr_assert_eq(mkfifo(in_folder("pipe"), 0600), 0);
	expect_refused(in_folder("pipe"), -EINVAL,
		       "it is a pipe, neither a regular file nor a block device");
	expect_refused(folder, -EISDIR, "Is a directory");
	expect_refused(in_folder("none/f"), -ENOENT, "No such file or directory");
	expect_refused(in_folder("pipe/f"), -ENOTDIR, "Not a directory");
	expect_refused(in_folder("f/"), -EISDIR, "Is a directory");
	expect_refused("", -EISDIR, "Is a directory");
	memset(name, 'n', 299);
	name[299] = '\0';
	expect_refused(in_folder(name), -ENAMETOOLONG, "File name too long");
	cr_assert_eq(count_names(), 1);
}

/* A folder that is not ours to change, a file that is: emptied and written in place. */
static void in_place(void)
{
	struct img_storage *s = NULL;
	struct stat before, st;

	cr_assert_eq(stat(in_folder("f"), &before), 0);
	cr_assert_eq(img_storage_create_file(in_folder("new"), 0, &s, NULL), -EACCES);
	s = created("f", 0);
	expect_content("f", "");
	cr_assert_eq(img_storage_write(s, 0, "new", 3, NULL), 0);
	publish(s);
	img_storage_close(s);
	expect_content("f", "new");
	cr_assert_eq(stat(in_folder("f"), &st), 0);
	cr_assert_eq(st.st_ino, before.st_ino);
}

Test(create, in_place)
{
	int status;
	pid_t child;

	make_file("f", "old", 3);
	cr_assert_eq(chmod(in_folder("f"), 0666), 0);
	cr_assert_eq(chmod(folder, 0555), 0);
	child = fork();
	if (!child) {
		if (!geteuid() && (setgid(65534) || setuid(65534)))
			_exit(1);
		in_place();
		_exit(0);
	}
	waitpid(child, &status, 0);
	cr_assert(WIFEXITED(status) && !WEXITSTATUS(status));
	cr_assert_eq(chmod(folder, 0755), 0);
	cr_assert_eq(count_names(), 1);
}

/* The sticky bit: in /tmp one may write another's file, but not replace it. */
Test(create, sticky_folder)
{
	int status;
	pid_t child;

	if (geteuid())
		cr_skip_test("needs two users, so root");
	make_file("f", "old", 3);
	cr_assert_eq(chmod(in_folder("f"), 0666), 0);
	cr_assert_eq(chmod(folder, 01777), 0);
	child = fork();
	if (!child) {
		struct img_storage *s = NULL;

		if (setgid(65534) || setuid(65534) ||
		    img_storage_create_file(in_folder("f"), IMG_STORAGE_NO_LOCK, &s, NULL) ||
		    img_storage_write(s, 0, "new", 3, NULL) || img_storage_publish(s, NULL))
			_exit(1);
		img_storage_close(s);
		_exit(0);
	}
	waitpid(child, &status, 0);
	cr_assert(WIFEXITED(status) && !WEXITSTATUS(status));
	expect_content("f", "new");
	cr_assert_eq(count_names(), 1);
}

/* Without /proc, as without O_TMPFILE: a hidden name, whose place the final one takes. */
static bool hidden_name(void)
{
	struct img_storage *s = NULL;
	struct stat st;
	char c;

	strcpy(folder, "/");
	if (img_storage_create_file("/f", 0, &s, NULL) || count_names() != 1 || !access("/f", F_OK))
		return false;
	img_storage_close(s);
	if (count_names() != 0 || img_storage_create_file("/f", 0, &s, NULL) ||
	    img_storage_write(s, 0, "n", 1, NULL) || img_storage_publish(s, NULL) ||
	    stat("/f", &st) || (st.st_mode & 0777) != 0600)
		return false;
	img_storage_close(s);
	if (chmod("/f", 0640) || img_storage_create_file("/f", 0, &s, NULL) || count_names() != 2 ||
	    img_storage_write(s, 0, "x", 1, NULL) || img_storage_publish(s, NULL) ||
	    count_names() != 1 || img_storage_read(s, 0, &c, 1, NULL) || c != 'x' ||
	    stat("/f", &st) || (st.st_mode & 0777) != 0640 || st.st_size != 1)
		return false;
	img_storage_close(s);
	return true;
}

Test(create, hidden_name)
{
	int status;
	pid_t child;

	if (geteuid())
		cr_skip_test("needs chroot(), so root");
	child = fork();
	if (!child) {
		umask(0177);
		_exit(chroot(folder) || chdir("/") || !hidden_name());
	}
	waitpid(child, &status, 0);
	cr_assert(WIFEXITED(status) && !WEXITSTATUS(status));
	cr_assert_eq(count_names(), 1);
}

Test(create, direct)
{
	struct img_storage *s = created("f", IMG_STORAGE_TRY_DIRECT);

	random_requests(s, IMG_IOQ_AUTO, 5001, false, 1, 30);
	publish(s);
	random_requests(s, IMG_IOQ_AUTO, 5001, false, 2, 30);
	img_storage_close(s);
	cr_assert_eq(count_names(), 1);
}
