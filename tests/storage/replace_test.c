/*
 * Another file in the place of one that is open: what is at its name, what the storage reads, which locks and
 * attributes it has.
 */
#include <sys/xattr.h>

#include "libimg/base/error.h"
#include "libimg/storage/storage.h"
#include "tests/image/folder.h"

TestSuite(replace, .init = folder_make, .fini = folder_remove, .timeout = 30);

static struct img_storage *open_one(const char *path, unsigned flags)
{
	struct img_error err = { 0 };
	struct img_storage *s = NULL;

	cr_assert_eq(img_storage_open_file(path, IMG_STORAGE_WRITE | flags, &s, &err), 0, "%s",
		     img_error_text(&err));
	return s;
}

static void must_hold(struct img_storage *s, const char *path, const char *text)
{
	char got[64] = "", command[200];

	cr_assert_eq(s->size, strlen(text));
	cr_assert_eq(img_storage_read(s, 0, got, strlen(text), NULL), 0);
	cr_assert_str_eq(got, text);
	snprintf(command, sizeof(command), "printf '%s' | cmp - %s", text, path);
	run(command);
}

static void replaced(const char *path, unsigned flags)
{
	struct img_storage *s = open_one(path, flags), *other;
	char old[200];

	snprintf(old, sizeof(old), "%s", s->identity);
	cr_assert_eq(img_storage_replace(s, "short", 5, true, NULL), 0);
	must_hold(s, path, "short");
	cr_assert_str_neq(s->identity, old);
	cr_assert_eq(img_storage_replace(s, "a longer text", 13, false, NULL), 0);
	must_hold(s, path, "a longer text");
	cr_assert_eq(img_storage_write(s, 2, "LONGER", 6, NULL), 0);
	cr_assert_eq(img_storage_sync(s, NULL), 0);
	must_hold(s, path, "a LONGER text");
	if (!(flags & IMG_STORAGE_NO_LOCK))
		cr_assert_eq(img_storage_open_file(path, IMG_STORAGE_WRITE, &other, NULL), -EAGAIN);
	img_storage_close(s);
	img_storage_close(open_one(path, 0));
}

Test(replace, by_its_name)
{
	struct stat st;
	char value[8] = "";

	run("echo something else that is long > file; mkdir sub; ln -s ../file sub/link; chmod 4751 file");
	bool has = !setxattr("file", "user.note", "kept", 4, 0);

	replaced("file", 0);
	replaced("sub/link", 0);
	replaced("./file", IMG_STORAGE_NO_LOCK);
	replaced("file", IMG_STORAGE_TRY_DIRECT);
	cr_assert_eq(stat("file", &st), 0);
	cr_assert_eq(st.st_mode & 07777, 04751);
	if (has)
		cr_assert(getxattr("file", "user.note", value, sizeof(value)) == 4 &&
			  !strcmp(value, "kept"));
	cr_assert_eq(readlink("sub/link", value, sizeof(value)), 7);
	cr_assert_eq(folder_count(), 2);
}

Test(replace, memory)
{
	struct img_storage *s;
	char buf[513] = "";

	cr_assert_eq(img_storage_memory("m", 512, 512, &s), 0);
	cr_assert_eq(img_storage_replace(s, buf, 513, true, NULL), -ENOSPC);
	cr_assert_eq(img_storage_replace(s, "abc", 3, true, NULL), 0);
	cr_assert_eq(atomic_load(&s->size), 3);
	cr_assert_eq(img_storage_resize(s, 4, IMG_PREALLOCATE_OFF, NULL), 0);
	cr_assert_eq(img_storage_read(s, 0, buf, 4, NULL), 0);
	cr_assert_arr_eq(buf, "abc", 4);
	img_storage_close(s);
}

Test(replace, refused)
{
	struct img_storage *s, *window;

	run("echo text > file; ln file hard");
	s = open_one("file", 0);
	cr_assert_eq(img_storage_replace(s, "x", 1, true, NULL), -EMLINK);
	run("rm hard; mv file moved");
	cr_assert_eq(img_storage_replace(s, "x", 1, true, NULL), -ENOENT);
	run("echo another > file");
	cr_assert_eq(img_storage_replace(s, "x", 1, true, NULL), -ENOENT);
	must_hold(s, "moved", "text\n");
	img_storage_close(s);
	run("echo another | cmp - file");
	cr_assert_eq(img_storage_memory("m", 512, 512, &s), 0);
	cr_assert_eq(img_storage_window(s, 0, 512, &window, NULL), 0);
	cr_assert_eq(img_storage_replace(window, "x", 1, true, NULL), -ENOTSUP);
	img_storage_close(window);
	cr_assert_eq(folder_count(), 2);
}
