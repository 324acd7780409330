/*
 * How a name becomes a file:
 *
 *   1. The name is reduced to a plain path. "file:" is taken off; a json: name is taken if it says
 *      nothing but which file; every other protocol is refused.
 *   2. resolve() follows symbolic links in text, one component at a time, and refuses links that
 *      lie in /proc and its like: such a link leads to whatever the process has open.
 *   3. The policy looks at the resolved path, which has no links and no ".." left.
 *   4. open_resolved() opens exactly that path, component by component, following no link at all.
 *      If somebody changed the folders since step 2, this fails: nothing else can be opened.
 *
 * Step 4 is why there is no time between check and use that could be exploited, and why this needs
 * no openat2(), which containers often refuse.
 */
#include "libimg/image/gate.h"

#include <assert.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/image/context.h"
#include "libimg/image/level.h"
#include "libimg/storage/storage.h"

enum {
	MAX_LINKS = 40,	 /* symbolic links on one path; as the kernel has it */
	MAX_JSON = 4096, /* bytes of a json: name; longer ones do not reduce to a path */
};

enum policy {
	POLICY_NONE,
	POLICY_FOLDER,
	POLICY_ANY,
	POLICY_LIST,
};

struct img_gate {
	enum policy policy;
	unsigned users;
	char *list; /* LIST: "DIR:DIR" */
};

int img_gate_new(const char *references, struct img_gate **out, struct img_error *err)
{
	struct img_gate *gate;
	const char *text = references;

	if (!text)
		text = getenv("LIBIMG_REFERENCES");
	if (!text)
		text = "folder";
	if (!*text)
		return img_fail(err, -EINVAL,
				"references is '', expected none, folder, any or folders "
				"separated by ':'");
	gate = calloc(1, sizeof(*gate));
	if (!gate)
		return img_fail(err, -ENOMEM, "out of memory");
	gate->users = 1;
	if (!strcmp(text, "none")) {
		gate->policy = POLICY_NONE;
	} else if (!strcmp(text, "folder")) {
		gate->policy = POLICY_FOLDER;
	} else if (!strcmp(text, "any")) {
		gate->policy = POLICY_ANY;
	} else {
		gate->policy = POLICY_LIST;
		gate->list = strdup(text);
		if (!gate->list) {
			free(gate);
			return img_fail(err, -ENOMEM, "out of memory");
		}
	}
	*out = gate;
	return 0;
}

struct img_gate *img_gate_share(struct img_gate *gate)
{
	gate->users++;
	return gate;
}

void img_gate_release(struct img_gate *gate)
{
	if (!gate || --gate->users)
		return;
	free(gate->list);
	free(gate);
}

bool img_gate_is_protocol(const char *name)
{
	const char *p = name;

	if (!isalpha((unsigned char)*p))
		return false;
	while (isalnum((unsigned char)*p) || *p == '+' || *p == '.' || *p == '-')
		p++;
	return *p == ':';
}

/* "C:\\VMs\\base.vmdk", "C:/VMs/base.vmdk", "\\\\server\\share\\base.vmdk". */
static bool is_windows_path(const char *name)
{
	return (isalpha((unsigned char)name[0]) && name[1] == ':' &&
		(name[2] == '\\' || name[2] == '/')) ||
	       (name[0] == '\\' && name[1] == '\\');
}

char *img_gate_join(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	char *path;

	if (*name == '/' || !slash || img_gate_is_protocol(name))
		return strdup(name);
	if (asprintf(&path, "%.*s/%s", (int)(slash - image), image, name) < 0)
		return NULL;
	return path;
}

/* Text known to be shorter than PATH_MAX, to a buffer of PATH_MAX. */
static void copy_text(char *to, const char *from)
{
	size_t len = strlen(from);

	assert(len < PATH_MAX);
	memcpy(to, from, len + 1);
}

/* ---- json: names ---- */

/*
 * The settings of the image at root that its driver takes: ids of secrets, which the user has to have
 * given. *count: how many. False: out of memory.
 */
static bool take_options(const struct img_node *root, struct img_node **options, size_t *count)
{
	*count = 0;
	for (size_t i = 0; i < root->count; i++) {
		const struct img_node_setting *s = &root->settings[i];

		if (!img_level_is_driver_option(s->key))
			continue;
		if (!*options)
			*options = img_node_new();
		if (!*options || img_node_set(*options, s->key, s->value, NULL))
			return false;
		++*count;
	}
	return true;
}

/*
 * Such a name is taken only if all that it says is drivers, what they take, and one file name. All else is
 * refused: what cannot be heeded here must not be heeded elsewhere either. path: PATH_MAX bytes.
 */
static bool json_reduce(const char *name, char *path, char **format, struct img_node **options)
{
	struct img_node *root = NULL;
	const char *said = NULL, *filename = NULL, *leaf = NULL;
	bool ok = strlen(name) <= MAX_JSON && !img_node_parse_name(name, &root, NULL);
	size_t taken = 0;

	if (ok && root->child[IMG_NODE_FILE])
		ok = take_options(root, options, &taken);
	for (const struct img_node *n = root; ok && n; n = n->child[IMG_NODE_FILE]) {
		const char *driver = img_node_get(n, "driver");
		bool last = !n->child[IMG_NODE_FILE];

		filename = img_node_get(n, "filename");
		ok = (last ? n != root || driver : n == root) && last == (filename != NULL) &&
		     n->count == (driver != NULL) + (size_t)last + (n == root ? taken : 0) &&
		     !n->no_backing &&
		     !n->child[IMG_NODE_BACKING] && !n->child[IMG_NODE_DATA_FILE] &&
		     !n->child[IMG_NODE_HEADER] &&
		     !n->child[IMG_NODE_IMAGE];
		if (driver && last)
			leaf = driver;
		else if (driver && said)
			ok = false; /* a format within a format */
		else if (driver)
			said = driver;
	}
	ok = ok && filename && *filename && strlen(filename) < PATH_MAX &&
	     !img_gate_is_protocol(filename);
	if (ok && leaf && strcmp(leaf, "file") != 0 && strcmp(leaf, "host_device") != 0)
		ok = false;
	/* The file itself, under no format: its bytes as they are. */
	if (ok && !said && leaf)
		said = img_driver_named(leaf)->name;
	if (ok) {
		copy_text(path, filename);
		*format = said ? strdup(said) : NULL;
		ok = !said || *format;
	}
	img_node_free(root);
	return ok;
}

/* ---- Paths ---- */

/* File systems whose "files" are doors to the kernel or to other processes. */
static bool is_pseudo_fs(const struct statfs *fs)
{
	static const unsigned long kinds[] = {
		PROC_SUPER_MAGIC,
		SYSFS_MAGIC,
		DEBUGFS_MAGIC,
		TRACEFS_MAGIC,
		SECURITYFS_MAGIC,
		CGROUP_SUPER_MAGIC,
		CGROUP2_SUPER_MAGIC,
		BPF_FS_MAGIC,
		EFIVARFS_MAGIC,
		DEVPTS_SUPER_MAGIC,
		NSFS_MAGIC,
		SELINUX_MAGIC,
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(kinds); i++)
		if ((unsigned long)fs->f_type == kinds[i])
			return true;
	return false;
}

/* A path being resolved: done is absolute and has no links; todo is what remains. */
struct walk {
	char done[PATH_MAX];
	char todo[PATH_MAX];
	char *next; /* in todo */
	unsigned links;
};

/* A symbolic link in done: put what it says in front of what remains. slash: one came after it. */
static int follow(struct walk *w, const char *link, bool slash)
{
	char target[PATH_MAX], rest[PATH_MAX];
	ssize_t n;
	struct statfs fs;

	if (++w->links > MAX_LINKS)
		return -ELOOP;
	if (statfs(*w->done ? w->done : "/", &fs) < 0)
		return -errno;
	if (is_pseudo_fs(&fs))
		return -EPERM;
	n = readlink(link, target, sizeof(target));
	if (n < 0)
		return -errno;
	if ((size_t)n == sizeof(target))
		return -ENAMETOOLONG;
	target[n] = '\0';
	copy_text(rest, w->next);
	if ((size_t)snprintf(w->todo, sizeof(w->todo), "%s%s%s", target, slash ? "/" : "", rest) >=
	    sizeof(w->todo))
		return -ENAMETOOLONG;
	w->next = w->todo;
	if (*target == '/')
		*w->done = '\0';
	return 0;
}

/* One component of w->next, unless it is "." or "..", onto w->done. */
static int step(struct walk *w)
{
	char candidate[PATH_MAX];
	size_t n = strcspn(w->next, "/");
	const char *part = w->next;
	struct stat st;

	w->next += n + (part[n] == '/');
	if (!n || (n == 1 && part[0] == '.'))
		return 0;
	if (n == 2 && part[0] == '.' && part[1] == '.') {
		char *slash = strrchr(w->done, '/');

		if (slash)
			*slash = '\0';
		return 0;
	}
	if ((size_t)snprintf(candidate, sizeof(candidate), "%s/%.*s", w->done, (int)n, part) >=
	    sizeof(candidate))
		return -ENAMETOOLONG;
	if (lstat(candidate, &st) < 0)
		return -errno;
	if (S_ISLNK(st.st_mode))
		return follow(w, candidate, part[n] == '/');
	if (part[n] == '/' && !S_ISDIR(st.st_mode))
		return -ENOTDIR;
	copy_text(w->done, candidate);
	return 0;
}

/*
 * path, from the working directory, to an absolute path without links. -EPERM: by way of a link
 * in /proc or its like. out: PATH_MAX bytes.
 */
static int resolve(const char *path, char *out)
{
	struct walk w = { .next = w.todo };
	int rc;

	if (*path != '/' && !getcwd(w.done, sizeof(w.done)))
		return -errno;
	if (w.done[0] == '/' && !w.done[1])
		w.done[0] = '\0';
	if (strlen(path) >= sizeof(w.todo))
		return -ENAMETOOLONG;
	copy_text(w.todo, path);
	while (*w.next) {
		rc = step(&w);
		if (rc)
			return rc;
	}
	copy_text(out, *w.done ? w.done : "/");
	return 0;
}

/* Is path, which is resolved, in the folder or below it? */
static bool is_below(const char *folder, const char *path)
{
	size_t n = strlen(folder);

	if (n == 1)
		return true; /* "/" */
	return !strncmp(folder, path, n) && path[n] == '/';
}

static int refuse_kind(const char *image, const char *name, const char *what, const char *is,
		       struct img_error *err)
{
	return img_fail(err, -EPERM,
			"%s: %s '%s' is %s; only regular files and block devices "
			"are opened for an image",
			image, what, name, is);
}

/* Step 3 of the top of this file. */
static int check_policy(const struct img_gate *gate, const char *image, const char *name,
			const char *what, const char *path, struct img_error *err)
{
	char folder[PATH_MAX], real[PATH_MAX];
	int rc;

	switch (gate ? gate->policy : POLICY_ANY) {
	case POLICY_ANY:
		return 0;
	case POLICY_NONE:
		break; /* refused before anything was looked up */
	case POLICY_FOLDER: {
		const char *slash = strrchr(image, '/');

		if ((size_t)snprintf(folder, sizeof(folder), "%.*s",
				     slash ? (int)(slash - image) + 1 : 1,
				     slash ? image : ".") >= sizeof(folder))
			return img_fail(err, -ENAMETOOLONG, "%s: name too long", image);
		/* The user named the image: a folder below /proc/self/fd is as good as another. */
		if (!realpath(folder, real)) {
			rc = -errno;
			return img_fail(err, rc, "%s: its folder: %s", image, strerror(-rc));
		}
		if (is_below(real, path))
			return 0;
		return img_fail(err, -EPERM,
				"%s: %s '%s' lies outside of the image's folder; "
				"allow it with --references any or --references DIR (or the "
				"environment variable LIBIMG_REFERENCES)",
				image, what, name);
	}
	case POLICY_LIST:
		for (const char *p = gate->list; *p; p += strspn(p, ":")) {
			size_t n = strcspn(p, ":");

			if (n && n < sizeof(folder)) {
				memcpy(folder, p, n);
				folder[n] = '\0';
				if (realpath(folder, real) && is_below(real, path))
					return 0;
			}
			p += n;
		}
		return img_fail(err, -EPERM,
				"%s: %s '%s' lies outside of the allowed folders "
				"(--references %s)",
				image, what, name, gate->list);
	}
	return img_fail(err, -EPERM,
			"%s: %s '%s' is refused, because images may name no other "
			"files (--references none)",
			image, what, name);
}

/* Why a file of this kind is not opened; NULL: it is. Of /dev/null an empty disk can be read. */
static const char *refused_kind(const struct stat *st, bool writable)
{
	mode_t mode = st->st_mode;

	if (!writable && img_storage_is_null(st))
		return NULL;
	return S_ISREG(mode) || S_ISBLK(mode) ? NULL
	       : S_ISDIR(mode)		      ? "a folder"
	       : S_ISCHR(mode)		      ? "a character device"
	       : S_ISFIFO(mode)		      ? "a pipe"
	       : S_ISSOCK(mode)		      ? "a socket"
	       : S_ISLNK(mode)		      ? "a symbolic link"
					      : "of an unknown kind";
}

/*
 * Open path, which resolve() made, following no link. *kind: set, with -EPERM, to what the file is
 * if such are not opened. out->fd and identity are set.
 */
static int open_resolved(const char *path, bool writable, struct img_gate_file *out,
			 const char **kind)
{
	char part[NAME_MAX + 1];
	struct stat before, after;
	struct statfs fs;
	int rc, next, fd = -1;
	int dir = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (dir < 0)
		return -errno;
	for (path++;;) {
		size_t n = strcspn(path, "/");

		rc = -ENAMETOOLONG;
		if (n > NAME_MAX)
			goto out;
		memcpy(part, path, n);
		part[n] = '\0';
		if (!path[n])
			break;
		path += n + 1;
		next = openat(dir, part, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		rc = -errno;
		if (next < 0)
			goto out;
		close(dir);
		dir = next;
	}
	rc = -EISDIR;
	if (!*part)
		goto out;
	/* Opening a device can have effects of its own (tapes, watchdogs): look first. */
	if (fstatat(dir, part, &before, AT_SYMLINK_NOFOLLOW) < 0) {
		rc = -errno;
		goto out;
	}
	*kind = refused_kind(&before, writable);
	if (*kind) {
		rc = -EPERM;
		goto out;
	}
	/* O_NONBLOCK: should it have become a pipe by now, opening must not hang. */
	fd = openat(dir, part,
		    (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY |
			    O_CLOEXEC);
	if (fd < 0 || fstat(fd, &after) < 0 || fstatfs(fd, &fs) < 0) {
		rc = -errno;
		goto out;
	}
	*kind = refused_kind(&after, writable);
	if (!*kind && is_pseudo_fs(&fs))
		*kind = "in /proc or another file system of the kernel's own";
	if (!*kind && (before.st_dev != after.st_dev || before.st_ino != after.st_ino))
		*kind = "replaced while it is being opened";
	if (*kind) {
		rc = -EPERM;
		goto out;
	}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	out->identity = img_storage_identify(&after);
	rc = out->identity ? 0 : -ENOMEM;
	if (rc)
		goto out;
	out->fd = fd;
	fd = -1;
out:
	if (fd >= 0)
		close(fd);
	close(dir);
	return rc;
}

void img_gate_file_free(struct img_gate_file *file)
{
	free(file->path);
	free(file->format);
	free(file->identity);
	img_node_free(file->options);
}

int img_gate_open(const struct img_gate *gate, const char *image, const char *name,
		  const char *what, bool writable, struct img_gate_file *out, struct img_error *err)
{
	struct img_gate_file file = { .fd = -1 };
	char plain[PATH_MAX], real[PATH_MAX];
	const char *kind = NULL;
	int rc;

	if (gate && gate->policy == POLICY_NONE)
		return check_policy(gate, image, name, what, NULL, err);
	if (!*name || strlen(name) >= sizeof(plain))
		return img_fail(err, -EPERM, "%s: %s: the name has %zu bytes, expected 1 to %d",
				image, what, strlen(name), PATH_MAX - 1);
	copy_text(plain, name);
	if (!strncmp(name, "json:", 5)) {
		if (!json_reduce(name, plain, &file.format, &file.options)) {
			rc = img_fail(err, -EPERM,
				      "%s: %s '%s' does not reduce to the path of "
				      "a file; such names are not followed",
				      image, what, name);
			goto out;
		}
	} else if (!strncmp(name, "file:", 5)) {
		copy_text(plain, name + 5);
	}
	if (is_windows_path(plain)) {
		rc = img_fail(err, -EPERM,
			      "%s: %s '%s' is a path of Windows, which leads nowhere here: put the "
			      "file next to the image and its new name into the image; a backing file "
			      "can also be given with backing.file.filename (--image-opts)",
			      image, what, name);
		goto out;
	}
	if (img_gate_is_protocol(plain)) {
		rc = img_fail(err, -EPERM,
			      "%s: %s '%s' begins with a protocol; only plain paths "
			      "are followed",
			      image, what, name);
		goto out;
	}
	rc = -ENOMEM;
	file.path = img_gate_join(image, plain);
	if (!file.path) {
		img_fail(err, rc, "out of memory");
		goto out;
	}
	rc = resolve(file.path, real);
	if (rc == -EPERM) {
		refuse_kind(image, name, what, "reached by way of /proc", err);
		goto out;
	}
	if (!rc) {
		rc = check_policy(gate, image, name, what, real, err);
		if (rc)
			goto out;
		rc = open_resolved(real, writable, &file, &kind);
	}
	if (kind)
		refuse_kind(image, name, what, kind, err);
	else if (rc)
		img_fail(err, rc, "Could not open '%s': %s", file.path, strerror(-rc));
	if (rc)
		goto out;
	*out = file;
	return 0;
out:
	img_gate_file_free(&file);
	return rc;
}

/* ---- The folder ---- */

void img_gate_list_free(char **names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(names[i]);
	free(names);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A name as img_gate_open() takes it for one of the folder, whatever it looks like. malloc'd. */
static char *plain_name(const char *name)
{
	char *plain;

	if (asprintf(&plain, "%s%s", strpbrk(name, ":\\") ? "./" : "", name) < 0)
		return NULL;
	return plain;
}

int img_gate_list(const struct img_gate *gate, const char *image, char ***names, size_t *count,
		  struct img_error *err)
{
	const char *slash = strrchr(image, '/');
	char **list = NULL, *folder;
	size_t n = 0;
	struct dirent *e;
	DIR *dir;
	int rc = 0;

	if (gate && gate->policy == POLICY_NONE)
		return img_fail(err, -EPERM,
				"%s: its folder is not searched, because images may name no other "
				"files (--references none)",
				image);
	folder = slash ? strndup(image, (size_t)(slash - image) + 1) : strdup(".");
	list = calloc(IMG_GATE_NAMES_MAX, sizeof(*list));
	dir = folder && list ? opendir(folder) : NULL;
	if (!dir) {
		rc = folder && list ? -errno : -ENOMEM;
		img_fail(err, rc, "%s: its folder: %s", image, strerror(-rc));
		goto out;
	}
	while (!rc && (errno = 0, e = readdir(dir))) {
		if (e->d_type == DT_DIR || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (n == IMG_GATE_NAMES_MAX) {
			rc = img_fail(err, -E2BIG,
				      "%s: its folder has more than %d files, which are too many "
				      "to search",
				      image, IMG_GATE_NAMES_MAX);
			break;
		}
		list[n] = plain_name(e->d_name);
		if (!list[n])
			rc = img_fail(err, -ENOMEM, "out of memory");
		else
			n++;
	}
	if (!rc && errno) {
		rc = -errno;
		img_fail(err, rc, "%s: its folder: %s", image, strerror(-rc));
	}
	closedir(dir);
	if (!rc)
		qsort(list, n, sizeof(*list), compare_names);
out:
	free(folder);
	if (rc) {
		img_gate_list_free(list, n);
		return rc;
	}
	*names = list;
	*count = n;
	return 0;
}
