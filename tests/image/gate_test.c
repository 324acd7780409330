/*
 * The reference gate: what a name inside an image may lead to.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "libimg/base/error.h"
#include "libimg/image/gate.h"
#include "tests/support/scratch.h"

/*
 * top/                    the image's folder is top/vm
 *   secret
 *   vm/image  vm/base  vm/sub/deep  vm/pipe  vm/socket
 *   vm/out -> ../secret   vm/in -> sub/deep   vm/loop -> loop   vm/dir -> ..
 *   vm/fd -> /proc/self/fd/0   vm/absolute -> .../vm/base   vm/a:b
 */
static char top[SCRATCH_PATH];
static char image[PATH_MAX];

static const char *in_top(const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", top, name);
	return path;
}

static void make_file(const char *name)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", top, name);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, name, strlen(name)), (ssize_t)strlen(name));
	close(fd);
}

static void make_link(const char *target, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", top, name);
	cr_assert_eq(symlink(target, path), 0);
}

static void setup(void)
{
	char path[PATH_MAX];
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int s;

	cr_assert(scratch_make(top, "img-gate"));
	snprintf(path, sizeof(path), "%s/vm", top);
	cr_assert_eq(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/vm/sub", top);
	cr_assert_eq(mkdir(path, 0700), 0);
	make_file("secret");
	make_file("vm/image");
	make_file("vm/base");
	make_file("vm/sub/deep");
	make_file("vm/a:b");
	make_link("../secret", "vm/out");
	make_link("sub/deep", "vm/in");
	make_link("loop", "vm/loop");
	make_link("..", "vm/dir");
	make_link("/proc/self/fd/0", "vm/fd");
	make_link(in_top("vm/base"), "vm/absolute");
	snprintf(path, sizeof(path), "%s/vm/pipe", top);
	cr_assert_eq(mkfifo(path, 0600), 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/vm/socket", top);
	s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_geq(s, 0);
	cr_assert_eq(bind(s, (struct sockaddr *)&address, sizeof(address)), 0);
	close(s);
	snprintf(image, sizeof(image), "%s/vm/image", top);
	unsetenv("LIBIMG_REFERENCES");
}

static void teardown(void)
{
	cr_assert(scratch_remove(top));
}

TestSuite(gate, .init = setup, .fini = teardown, .timeout = 10);

/* The answer to name under a policy; content: of the file that was opened, 64 bytes. */
static int ask(const char *policy, const char *name, char *content)
{
	struct img_error err = { 0 };
	struct img_gate *gate;
	struct img_gate_file file;
	ssize_t n;
	int rc;

	cr_assert_eq(img_gate_new(policy, &gate, &err), 0, "%s", img_error_text(&err));
	rc = img_gate_open(gate, image, name, "backing file", false, &file, &err);
	if (rc) {
		cr_assert_eq(img_error_code(&err), rc);
		cr_assert_gt(strlen(img_error_text(&err)), 10);
	} else {
		n = read(file.fd, content, 63);
		cr_assert_geq(n, 0);
		content[n] = '\0';
		close(file.fd);
		img_gate_file_free(&file);
	}
	img_gate_release(gate);
	img_error_clear(&err);
	return rc;
}

static void allowed(const char *policy, const char *name, const char *content)
{
	char got[64];

	cr_assert_eq(ask(policy, name, got), 0, "'%s' under %s", name, policy);
	cr_assert_str_eq(got, content, "'%s' led to %s", name, got);
}

static void refused(const char *policy, const char *name, int code)
{
	char got[64];
	int rc = ask(policy, name, got);

	cr_assert_eq(rc, code, "'%s' under %s: %d instead of %d", name, policy, rc, code);
}

Test(gate, folder_takes_what_is_in_it)
{
	allowed("folder", "base", "vm/base");
	allowed("folder", "./base", "vm/base");
	allowed("folder", "sub/deep", "vm/sub/deep");
	allowed("folder", "sub//./../base", "vm/base");
	allowed("folder", "../vm/base", "vm/base");
	allowed("folder", "in", "vm/sub/deep");
	allowed("folder", "absolute", "vm/base");
	allowed("folder", in_top("vm/base"), "vm/base");
	allowed("folder", in_top("vm/dir/vm/in"), "vm/sub/deep");
	allowed("folder", "file:base", "vm/base");
	allowed("folder", "./a:b", "vm/a:b");
}

Test(gate, folder_refuses_what_is_outside)
{
	refused("folder", "../secret", -EPERM);
	refused("folder", "sub/../../secret", -EPERM);
	refused("folder", "out", -EPERM);
	refused("folder", "dir/secret", -EPERM);
	refused("folder", in_top("secret"), -EPERM);
	refused("folder", "/etc/passwd", -EPERM);
	refused("folder", "file:/etc/passwd", -EPERM);
	/* a sibling whose name begins like the folder's */
	cr_assert_eq(mkdir(in_top("vm2"), 0700), 0);
	make_file("vm2/x");
	refused("folder", "../vm2/x", -EPERM);
}

Test(gate, default_is_folder_and_environment_changes_it)
{
	refused(NULL, "../secret", -EPERM);
	setenv("LIBIMG_REFERENCES", "any", 1);
	allowed(NULL, "../secret", "secret");
	setenv("LIBIMG_REFERENCES", "none", 1);
	refused(NULL, "base", -EPERM);
}

Test(gate, any_takes_plain_files_everywhere)
{
	allowed("any", "../secret", "secret");
	allowed("any", "out", "secret");
	allowed("any", in_top("secret"), "secret");
}

Test(gate, list_takes_what_is_below_its_folders)
{
	char list[PATH_MAX * 2];

	snprintf(list, sizeof(list), "/nonexistent:%s/vm/sub", top);
	cr_assert_eq(mkdir(in_top("vm/subs"), 0700), 0);
	make_file("vm/subs/x");
	refused(list, "subs/x", -EPERM);
	allowed(list, "sub/deep", "vm/sub/deep");
	allowed(list, "in", "vm/sub/deep");
	refused(list, "base", -EPERM);
	refused(list, "sub/../base", -EPERM);
	allowed("/", "base", "vm/base");
}

Test(gate, none_takes_nothing)
{
	refused("none", "base", -EPERM);
	refused("none", "missing", -EPERM);
}

Test(gate, proc_is_never_a_way)
{
	static const char *const names[] = {
		"/proc/self/fd/0",
		"/proc/self/exe",
		"/proc/self/environ",
		"/proc/self/root/etc/passwd",
		"/proc/self/cwd/x",
		"/dev/fd/0",
		"/dev/stdin",
		"fd",
		"/sys/kernel/notes",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		char got[64];
		int rc = ask("any", names[i], got);

		cr_assert(rc == -EPERM || rc == -ENOENT, "%s: %d", names[i], rc);
	}
}

/* A file that the process has open may lie in the folder: its descriptor is no way to it all the same. */
Test(gate, descriptors_are_no_way)
{
	int fd = open(in_top("vm/base"), O_RDONLY | O_CLOEXEC);
	char link[64];

	cr_assert_geq(fd, 0);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	make_link(link, "vm/open");
	refused("folder", "open", -EPERM);
	refused("any", "open", -EPERM);
	refused("any", link, -EPERM);
	close(fd);
}

Test(gate, policies_are_words_or_folders)
{
	struct img_error err = { 0 };
	struct img_gate *gate;

	cr_assert_eq(img_gate_new("", &gate, &err), -EINVAL);
	cr_assert(strstr(img_error_text(&err), "none, folder, any"), "%s", img_error_text(&err));
	img_error_clear(&err);
	setenv("LIBIMG_REFERENCES", "", 1);
	cr_assert_eq(img_gate_new(NULL, &gate, NULL), -EINVAL);
	refused(":", "base", -EPERM);
	refused("folders", "base", -EPERM);
}

/* An empty disk to read; nothing to write to. */
Test(gate, null_is_only_read)
{
	struct img_gate_file file;
	struct img_gate *gate;

	cr_assert_eq(img_gate_new("any", &gate, NULL), 0);
	cr_assert_eq(img_gate_open(gate, image, "/dev/null", "extent 1", true, &file, NULL), -EPERM);
	cr_assert_eq(img_gate_open(gate, image, "/dev/null", "extent 1", false, &file, NULL), 0);
	close(file.fd);
	img_gate_file_free(&file);
	img_gate_release(gate);
}

Test(gate, other_kinds_of_file_are_refused_without_waiting)
{
	refused("any", "pipe", -EPERM);
	refused("any", "socket", -EPERM);
	refused("any", "sub", -EPERM);
	refused("any", "/", -EISDIR);
	refused("any", "/dev/zero", -EPERM);
	refused("folder", "/dev/null", -EPERM); /* elsewhere it is an empty file */
	refused("any", "/dev/tty", -EPERM);
}

Test(gate, names_that_lead_nowhere)
{
	refused("folder", "missing", -ENOENT);
	refused("folder", "missing/../base", -ENOENT);
	refused("folder", "base/", -ENOTDIR);
	refused("folder", "base/..", -ENOTDIR);
	refused("folder", "loop", -ELOOP);
	refused("folder", "", -EPERM);
}

Test(gate, protocols_are_refused)
{
	static const char *const names[] = {
		"nbd:localhost:10809",
		"nbd+unix:///?socket=/x",
		"http://x/y",
		"a:b",
		"rbd:p/i",
		"fat:/tmp",
		"file:nbd:x",
		"blkdebug::base",
		"c:\\x.vmdk",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		refused("any", names[i], -EPERM);
}

Test(gate, paths_of_windows_are_called_so)
{
	static const char *const names[] = { "c:\\x.vmdk", "C:/VMs/x.vmdk", "\\\\server\\x.vmdk" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct img_error err = { 0 };
		struct img_gate_file file;
		struct img_gate *gate;

		cr_assert_eq(img_gate_new("any", &gate, NULL), 0);
		cr_assert_eq(img_gate_open(gate, image, names[i], "backing file", false, &file, &err),
			     -EPERM);
		cr_assert(strstr(img_error_text(&err), "Windows"), "%s", img_error_text(&err));
		cr_assert(strstr(img_error_text(&err), "backing.file.filename"));
		img_error_clear(&err);
		img_gate_release(gate);
	}
}

Test(gate, json_that_is_a_path_is_taken)
{
	allowed("folder", "json:{\"driver\":\"file\",\"filename\":\"base\"}", "vm/base");
	allowed("folder",
		"json:{\"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", "
		"\"filename\": \"base\"}}",
		"vm/base");
	allowed("folder",
		"json:{\"file.driver\":\"file\",\"file.filename\":\"sub/deep\","
		"\"driver\":\"raw\"}",
		"vm/sub/deep");
}

Test(gate, other_json_is_refused)
{
	static const char *const names[] = {
		"json:",
		"json:{}",
		"json:{\"driver\":\"file\"}",
		"json:[1]",
		"json:{\"filename\":\"\"}",
		"json:{\"driver\":\"nbd\",\"host\":\"x\"}",
		"json:{\"driver\":\"nbd\",\"filename\":\"base\"}",
		"json:{\"driver\":\"file\",\"filename\":\"base\",\"locking\":\"off\"}",
		"json:{\"driver\":\"file\",\"filename\":\"base\"} ,",
		"json:{\"driver\":\"file\",\"filename\":\"base\",\"filename\":\"sub/deep\"}",
		"json:{\"driver\":\"raw\",\"offset\":512,\"file\":{\"filename\":\"base\"}}",
		"json:{\"driver\":\"raw\",\"file\":{\"driver\":\"qcow2\",\"file\":{\"filename\":\"base\"}}}",
		"json:{\"file\":{\"file\":{\"file\":{\"file\":{\"file\":{\"filename\":\"base\"}}}}}}",
		"json:{\"filename\":\"ba\\u0073e\"}",
		"json:{\"filename\":\"nbd:x\"}",
		"json:{\"driver\":\"qcow2\",\"file\":{\"filename\":\"base\"},\"backing\":null}",
		"json:{'driver':'qcow2','file':{'filename':'base'},'backing':{'file':{'filename':'in'}}}",
		"json:{'driver':'qcow2','file':{'filename':'base'},'data-file':{'filename':'in'}}",
		"json:{\"filename\":\"base\"",
		"json:{\"filename\":\"base}",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		refused("any", names[i], -EPERM);
	refused("folder", "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}", -EPERM);
}

Test(gate, refusal_says_what_would_allow_it)
{
	struct img_error err = { 0 };
	struct img_gate *gate;
	struct img_gate_file file;

	cr_assert_eq(img_gate_new("folder", &gate, NULL), 0);
	cr_assert_eq(img_gate_open(gate, image, "../secret", "extent 3", false, &file, &err),
		     -EPERM);
	cr_assert(strstr(img_error_text(&err), "extent 3 '../secret'"));
	cr_assert(strstr(img_error_text(&err), "--references any"));
	cr_assert(strstr(img_error_text(&err), image));
	img_gate_release(gate);
	img_error_clear(&err);
}

Test(gate, a_folder_reached_by_a_link_is_the_real_one)
{
	char got[64];

	make_link("vm", "alias");
	snprintf(image, sizeof(image), "%s/alias/image", top);
	cr_assert_eq(ask("folder", "base", got), 0);
	cr_assert_eq(ask("folder", "../secret", got), -EPERM);
	cr_assert_eq(ask("folder", in_top("vm/base"), got), 0);
}

Test(gate, join_follows_the_image_as_named)
{
	static const struct {
		const char *image, *name, *path;
	} rows[] = {
		{ "a/b.qcow2", "c", "a/c" },
		{ "b.qcow2", "c", "c" },
		{ "/b.qcow2", "c", "/c" },
		{ "./b", "c/d", "./c/d" },
		{ "a/b", "/c", "/c" },
		{ "a/b", "nbd:x", "nbd:x" },
		{ "a/b", "./n:x", "a/./n:x" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *path = img_gate_join(rows[i].image, rows[i].name);

		cr_assert_str_eq(path, rows[i].path);
		free(path);
	}
}
