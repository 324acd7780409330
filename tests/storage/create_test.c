/*
 * New files: nothing to see until published, all at once then, nothing left behind otherwise.
 */
#include "storage_help.h"

#include <signal.h>
#include <sys/xattr.h>
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

	cr_assert_eq(img_storage_publish(s, true, &err), 0, "%s", img_error_text(&err));
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

/* Nobody but the owner may write to a new image; a umask can only take away more. */
Test(create, mode)
{
	static const struct {
		mode_t umask, mode;
	} cases[] = { { 0, 0644 }, { 022, 0644 }, { 002, 0644 }, { 077, 0600 }, { 0777, 0 } };
	struct stat st;

	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		struct img_storage *s;

		umask(cases[i].umask);
		s = created("f", 0);
		publish(s);
		img_storage_close(s);
		cr_assert_eq(stat(in_folder("f"), &st), 0);
		cr_assert_eq(st.st_mode & 07777, cases[i].mode);
		cr_assert_eq(unlink(in_folder("f")), 0);
	}
	umask(022);
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
	img_storage_close(s); /* before anything was changed */
	expect_content("f", "old");
	cr_assert_eq(count_names(), 1);
	/* not even when killed (a file system without O_TMPFILE keeps the name beside it) */
	child = fork();
	if (!child) {
		if (img_storage_create_file(in_folder("g"), 0, &s, NULL) ||
		    img_storage_write(s, 0, "new", 3, NULL))
			_exit(1);
		raise(SIGKILL);
	}
	waitpid(child, NULL, 0);
	cr_assert_eq(count_names(), 1);
}

/* The file is neither the old one nor the new one: the mark is there, and little else. */
static void expect_unfinished(const char *name)
{
	char head[sizeof(IMG_UNFINISHED_MARK)] = "";
	int fd = open(in_folder(name), O_RDONLY | O_CLOEXEC);

	cr_assert_geq(fd, 0);
	cr_assert_eq(read(fd, head, sizeof(head) - 1), (ssize_t)sizeof(head) - 1);
	cr_assert_str_eq(head, IMG_UNFINISHED_MARK);
	close(fd);
}

/* Inode, names, owner, mode, attributes, and what others have open: nothing but the content changes. */
Test(create, writes_in_place)
{
	static const char value[] = "x";
	struct img_storage *s, *other;
	struct stat before, st;
	bool attributes;
	char c;
	int old;

	make_file("f", "old", 3);
	cr_assert_eq(chmod(in_folder("f"), 0604), 0);
	if (!geteuid())
		cr_assert_eq(chown(in_folder("f"), 12, 34), 0);
	cr_assert_eq(link(in_folder("f"), in_folder("g")), 0);
	attributes = !setxattr(in_folder("f"), "user.label", value, 1, 0);
	cr_assert_eq(stat(in_folder("f"), &before), 0);
	old = open(in_folder("f"), O_RDONLY | O_CLOEXEC);
	s = created("f", 0);
	/* as long as nothing is written the old one is there, but nobody may start to use it */
	cr_assert_eq(img_storage_read(s, 0, &c, 1, NULL), 0);
	cr_assert_eq(c, 0);
	expect_content("f", "old");
	cr_assert_eq(img_storage_open_file(in_folder("f"), 0, &other, NULL), -EAGAIN);
	cr_assert_eq(img_storage_create_file(in_folder("f"), 0, &other, NULL), -EAGAIN);
	cr_assert_eq(img_storage_write(s, 0, "new!", 4, NULL), 0);
	cr_assert_eq(atomic_load(&s->size), 4);
	expect_unfinished("f");
	cr_assert_eq(img_storage_read(s, 3, &c, 1, NULL), 0);
	cr_assert_eq(c, '!');
	publish(s);
	expect_content("f", "new!");
	expect_content("g", "new!");
	cr_assert_eq(stat(in_folder("f"), &st), 0);
	cr_assert_eq(st.st_mode, before.st_mode);
	cr_assert_eq(st.st_uid, before.st_uid);
	cr_assert_eq(st.st_gid, before.st_gid);
	cr_assert_eq(st.st_ino, before.st_ino);
	cr_assert_eq(st.st_nlink, 2);
	cr_assert_eq(getxattr(in_folder("f"), "user.label", &c, 1), attributes ? 1 : -1);
	cr_assert_eq(pread(old, &c, 1, 0), 1, "who had it open sees the new content");
	cr_assert_eq(c, 'n');
	close(old);
	cr_assert_eq(img_storage_open_file(in_folder("f"), 0, &other, NULL), -EAGAIN);
	img_storage_close(s);
	cr_assert_eq(img_storage_open_file(in_folder("f"), 0, &other, NULL), 0);
	img_storage_close(other);
	cr_assert_eq(count_names(), 2);
}

/* Given up, or killed: the mark, and the room is given back if there is still somebody to do it. */
Test(create, in_place_not_completed)
{
	static char old[3 << 20], data[1 << 20];
	struct img_storage *s;
	struct stat st;
	pid_t child;

	memset(old, 'o', sizeof(old));
	memset(data, 'd', sizeof(data));
	make_file("f", old, sizeof(old));
	s = created("f", 0);
	cr_assert_eq(img_storage_write(s, 0, data, sizeof(data), NULL), 0);
	cr_assert_eq(stat(in_folder("f"), &st), 0);
	cr_assert_eq(st.st_size, sizeof(data));
	img_storage_close(s);
	expect_unfinished("f");
	cr_assert_eq(stat(in_folder("f"), &st), 0);
	cr_assert_eq(st.st_size, 4096);

	make_file("f", old, sizeof(old));
	child = fork();
	if (!child) {
		if (img_storage_create_file(in_folder("f"), 0, &s, NULL) ||
		    img_storage_write(s, 5000, data, sizeof(data), NULL) ||
		    img_storage_write(s, 0, data, 5000, NULL))
			_exit(1);
		raise(SIGKILL);
	}
	waitpid(child, NULL, 0);
	expect_unfinished("f");
	s = created("f", 0); /* and it can be written again */
	cr_assert_eq(img_storage_write(s, 0, "n", 1, NULL), 0);
	publish(s);
	img_storage_close(s);
	expect_content("f", "n");
}

/* Whatever is written where and how: in the end the file has it. */
static void in_place_random(enum img_io_kind kind, unsigned flags)
{
	struct img_storage *s;

	make_file("f", "old", 3);
	s = created("f", flags);
	random_requests(s, kind, 5001, false, 1, 30);
	random_requests(s, kind, 8192, true, 2, 30);
	publish(s);
	random_requests(s, kind, 5001, false, 3, 30);
	img_storage_close(s);
	cr_assert_eq(count_names(), 1);
}

Test(create, in_place_random)
{
	in_place_random(IMG_IO_AUTO, 0);
}

Test(create, in_place_random_threads)
{
	in_place_random(IMG_IO_THREADS, 0);
}

Test(create, in_place_random_direct)
{
	in_place_random(IMG_IO_AUTO, IMG_STORAGE_TRY_DIRECT);
}

/* What is written before is what is there after, for all sizes around what is kept back. */
Test(create, in_place_content)
{
	static const size_t sizes[] = { 0, 1, 511, 512, 4095, 4096, 4097, 8192, 100000 };
	static uint8_t data[100000], back[100000];
	struct img_storage *s;
	struct stat st;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 7 + i / 251 + 1);
	for (size_t n = 0; n < IMG_ARRAY_LEN(sizes); n++) {
		for (int how = IMG_PREALLOCATE_OFF; how <= IMG_PREALLOCATE_FULL; how++) {
			if (how == IMG_PREALLOCATE_METADATA)
				continue;
			make_file("f", data, sizeof(data));
			s = created("f", 0);
			cr_assert_eq(img_storage_resize(s, sizes[n], (enum img_preallocate)how,
							NULL),
				     0);
			cr_assert_eq(atomic_load(&s->size), sizes[n]);
			expect_unfinished("f");
			if (how == IMG_PREALLOCATE_OFF)
				cr_assert_eq(img_storage_write(s, 0, data, sizes[n], NULL), 0);
			publish(s);
			cr_assert_eq(stat(in_folder("f"), &st), 0);
			cr_assert_eq((size_t)st.st_size, sizes[n]);
			if (how != IMG_PREALLOCATE_OFF)
				cr_assert_geq((size_t)st.st_blocks * 512, sizes[n]);
			cr_assert_eq(img_storage_read(s, 0, back, sizeof(back), NULL), 0);
			for (size_t i = 0; i < sizeof(back); i++)
				cr_assert_eq(back[i], i < sizes[n] && !how ? data[i] : 0);
			img_storage_close(s);
		}
	}
}

/* Nothing written where it begins: no room is taken there. */
Test(create, in_place_sparse)
{
	struct img_storage *s;
	struct stat st;

	make_file("f", "old", 3);
	s = created("f", 0);
	cr_assert_eq(img_storage_resize(s, 1 << 20, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_storage_zero(s, 0, 10000, NULL), 0);
	publish(s);
	cr_assert_eq(img_storage_punch(s, 0, 1 << 20, NULL), 0);
	cr_assert_eq(stat(in_folder("f"), &st), 0);
	cr_assert_eq(st.st_blocks, 0);
	img_storage_close(s);
}

/* However it is called, and whoever looks the other way about locks. */
Test(create, what_is_open_is_not_destroyed)
{
	struct img_storage *reader, *s = NULL;
	struct img_error err = { 0 };

	make_file("f", "old", 3);
	cr_assert_eq(link(in_folder("f"), in_folder("g")), 0);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(img_storage_open_file(in_folder("f"),
						   i ? IMG_STORAGE_SHARE : IMG_STORAGE_NO_LOCK,
						   &reader, NULL),
			     0);
		cr_assert_eq(img_storage_create_file(in_folder("g"), IMG_STORAGE_NO_LOCK, &s, &err),
			     -EBUSY);
		cr_assert(strstr(img_error_text(&err), "it is open already"));
		img_error_clear(&err);
		img_storage_close(reader);
	}
	expect_content("f", "old");
}

/* Published, one would replace the other. */
Test(create, a_name_is_given_once)
{
	struct img_storage *first, *s = NULL;
	struct img_error err = { 0 };

	cr_assert_eq(symlink("f", in_folder("link")), 0);
	cr_assert_eq(symlink(".", in_folder("here")), 0);
	static const char *const names[] = { "f", "link", "here/f", "here/link" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		first = created("link", 0);
		cr_assert_eq(img_storage_create_file(in_folder(names[i]), 0, &s, &err), -EBUSY,
			     "%s", names[i]);
		cr_assert(strstr(img_error_text(&err), "is being created already"));
		img_error_clear(&err);
		img_storage_close(created("g", 0));
		img_storage_close(first);
		img_storage_close(created("here/f", 0)); /* the name is free again */
	}
	cr_assert_eq(count_names(), 2);
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
	expect_refused("", -ENOENT, "No such file or directory");
	memset(name, 'n', 299);
	name[299] = '\0';
	expect_refused(in_folder(name), -ENAMETOOLONG, "File name too long");
	cr_assert_eq(count_names(), 1);
}

/* A folder that is not ours to change, a file that is. */
static void in_place(void)
{
	struct img_storage *s = NULL;
	struct stat before, st;

	cr_assert_eq(stat(in_folder("f"), &before), 0);
	cr_assert_eq(img_storage_create_file(in_folder("new"), 0, &s, NULL), -EACCES);
	s = created("f", 0);
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
		    img_storage_write(s, 0, "new", 3, NULL) || img_storage_publish(s, true, NULL))
			_exit(1);
		img_storage_close(s);
		_exit(0);
	}
	waitpid(child, &status, 0);
	cr_assert(WIFEXITED(status) && !WEXITSTATUS(status));
	expect_content("f", "new");
	cr_assert_eq(count_names(), 1);
}

/* Two processes make /f at once: the one that is ready last has its name. */
static bool keeps_what_is_written(void)
{
	struct img_storage *s = NULL;
	int to[2], from[2], status;
	pid_t child;
	char c = 0;

	if (pipe(to) || pipe(from))
		return false;
	child = fork();
	if (!child) {
		close(to[1]);
		if (img_storage_create_file("/f", 0, &s, NULL) || write(from[1], "x", 1) != 1 ||
		    read(to[0], &c, 1) || img_storage_write(s, 0, "theirs", 6, NULL) ||
		    img_storage_publish(s, true, NULL))
			_exit(1);
		_exit(0);
	}
	close(to[0]);
	if (read(from[0], &c, 1) != 1 || img_storage_create_file("/f", 0, &s, NULL) ||
	    img_storage_write(s, 0, "ours", 4, NULL) || img_storage_publish(s, true, NULL))
		return false;
	img_storage_close(s);
	close(to[1]);
	close(from[0]);
	close(from[1]);
	waitpid(child, &status, 0);
	if (!WIFEXITED(status) || WEXITSTATUS(status) || img_storage_open_file("/f", 0, &s, NULL) ||
	    s->size != 6)
		return false;
	img_storage_close(s);
	return !unlink("/f");
}

/* Without /proc, as without O_TMPFILE: a name beside the final one, which takes its place. */
static bool temporary_name(void)
{
	struct img_storage *s = NULL;
	struct stat st;
	pid_t child;
	char c;

	strcpy(folder, "/");
	if (img_storage_create_file("/f", 0, &s, NULL) || count_names() != 1 || !access("/f", F_OK))
		return false;
	img_storage_close(s);
	if (count_names() != 0 || img_storage_create_file("/f", 0, &s, NULL) ||
	    img_storage_write(s, 0, "n", 1, NULL) || img_storage_publish(s, true, NULL) ||
	    stat("/f", &st) || (st.st_mode & 0777) != 0600 || st.st_size != 1)
		return false;
	img_storage_close(s);
	/* what a killed run leaves is not what it was to be, and the next one removes it */
	if (unlink("/f"))
		return false;
	for (int writes = 0; writes < 2; writes++) {
		child = fork();
		if (!child) {
			if (!img_storage_create_file("/f", 0, &s, NULL) && writes)
				img_storage_write(s, 0, "killed", 6, NULL);
			raise(SIGKILL);
		}
		waitpid(child, NULL, 0);
		if (count_names() != 1)
			return false;
	}
	/* but not what somebody else is still writing */
	if (!keeps_what_is_written())
		return false;
	make_file("f.unfinished-mine99", "of somebody else", 16);
	make_file("g.unfinished-abcdef", "", 0);
	if (img_storage_create_file("/f", 0, &s, NULL) || count_names() != 3 ||
	    img_storage_write(s, 0, "x", 1, NULL) || img_storage_publish(s, true, NULL) ||
	    count_names() != 3 || img_storage_read(s, 0, &c, 1, NULL) || c != 'x' ||
	    stat("/f", &st) || st.st_size != 1)
		return false;
	img_storage_close(s);
	return true;
}

Test(create, temporary_name)
{
	int status;
	pid_t child;

	if (geteuid())
		cr_skip_test("needs chroot(), so root");
	child = fork();
	if (!child) {
		umask(0177);
		_exit(chroot(folder) || chdir("/") || !temporary_name());
	}
	waitpid(child, &status, 0);
	cr_assert(WIFEXITED(status) && !WEXITSTATUS(status));
	cr_assert_eq(count_names(), 3);
}

Test(create, direct)
{
	struct img_storage *s = created("f", IMG_STORAGE_TRY_DIRECT);

	random_requests(s, IMG_IO_AUTO, 5001, false, 1, 30);
	publish(s);
	random_requests(s, IMG_IO_AUTO, 5001, false, 2, 30);
	img_storage_close(s);
	cr_assert_eq(count_names(), 1);
}
