/*
 * Where new files go. What is there already is written in place, so that it stays what it is to the
 * system: its inode, names, owner and attributes. New names appear when they are published, complete:
 * until then a file has no name (O_TMPFILE) or, where the file system cannot do that, one beside the
 * final one. Where neither may be made (a security policy allows the final name alone) it has its
 * final name at once. All but nameless files are marked as unfinished: file_unfinished.c.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/storage/posix_file.h"

enum {
	MAX_LINKS = 40,	 /* symbolic links to follow, as the kernel does */
	MAX_TRIES = 100, /* at a temporary name that nobody has */
	TEMP_NAME_ROOM = NAME_MAX + 1,
	NEW_MODE = 0644, /* less what the umask takes away: an image is its owner's to change */
	RANDOM_LETTERS = 6,
};

static const char temp_infix[] = ".unfinished-";

struct unpublished {
	struct img_unpublished base;
	struct img_list link; /* among all names that are to be given; next NULL: it is not */
	int dir_fd;
	dev_t dir_dev;
	ino_t dir_ino;
	char *name; /* final, in dir_fd */
	enum {
		NAMELESS,
		TEMPORARY, /* its name is temp */
		FINAL,	   /* its name is final, made by us: it goes if it is not published */
		OLD,	   /* it was there before */
	} kind;
	char temp[TEMP_NAME_ROOM]; /* in dir_fd; "": none */
};

/*
 * Follow symbolic links in the last component of path, which need not exist. malloc'd.
 * -ELOOP, -ENOMEM, -ENAMETOOLONG, ...
 */
static int resolve_links(const char *path, char **out)
{
	char target[PATH_MAX], *now = strdup(path), *slash, *next;

	for (int i = 0; now; i++) {
		ssize_t n = readlink(now, target, sizeof(target) - 1);

		if (n < 0) { /* EINVAL: not a link; ENOENT: nothing there; else open() will say */
			*out = now;
			return 0;
		}
		if (i == MAX_LINKS) {
			free(now);
			return -ELOOP;
		}
		target[n] = '\0';
		slash = strrchr(now, '/');
		if (target[0] == '/' || !slash)
			next = strdup(target);
		else if (asprintf(&next, "%.*s/%s", (int)(slash - now), now, target) < 0)
			next = NULL;
		free(now);
		now = next;
	}
	return -ENOMEM;
}

/* Open the folder of path; *name points at the last component in path. A fd or -errno. */
static int open_folder(const char *path, const char **name)
{
	const char *slash = strrchr(path, '/');
	char *folder;
	int fd;

	*name = slash ? slash + 1 : path;
	if (!**name)
		return *path ? -EISDIR : -ENOENT;
	if (!slash)
		folder = strdup(".");
	else
		folder = strndup(path, slash == path ? 1 : (size_t)(slash - path));
	if (!folder)
		return -ENOMEM;
	fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		fd = -errno;
	free(folder);
	return fd;
}

/* What temporary names for `name` begin with. A long name is cut. Returns the length. */
static size_t temp_prefix(char *temp, const char *name)
{
	int room = NAME_MAX - (int)sizeof(temp_infix) + 1 - RANDOM_LETTERS;

	return (size_t)snprintf(temp, TEMP_NAME_ROOM, "%.*s%s", room, name, temp_infix);
}

static void make_temp_name(char *temp, const char *name)
{
	static const char letters[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	size_t at = temp_prefix(temp, name);
	uint8_t random[RANDOM_LETTERS];

	if (getrandom(random, sizeof(random), GRND_NONBLOCK) != sizeof(random)) {
		for (size_t i = 0; i < sizeof(random); i++) /* early boot: unique will do */
			random[i] = (uint8_t)(getpid() >> (i * 5));
	}
	for (size_t i = 0; i < sizeof(random); i++)
		temp[at++] = letters[random[i] % (sizeof(letters) - 1)];
	temp[at] = '\0';
}

/* Is the file of this temporary name ours, and its writer gone? */
static bool is_left_over(int dir_fd, const char *temp)
{
	int fd = openat(dir_fd, temp, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	char head[sizeof(IMG_UNFINISHED_MARK) - 1];
	struct stat st;
	bool ours = false;

	if (fd < 0)
		return false;
	if (!fstat(fd, &st) && S_ISREG(st.st_mode) && !img_file_lock(fd, temp, true, false, NULL))
		ours = !st.st_size || (pread(fd, head, sizeof(head), 0) == sizeof(head) &&
				       !memcmp(head, IMG_UNFINISHED_MARK, sizeof(head)));
	close(fd);
	return ours;
}

/* Remove what killed runs left of files that were to have u's name. */
static void remove_left_over(const struct unpublished *u)
{
	int fd = openat(u->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	char prefix[TEMP_NAME_ROOM];
	size_t len = temp_prefix(prefix, u->name);

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	for (struct dirent *d; (d = readdir(dir));)
		if (!strncmp(d->d_name, prefix, len) && strlen(d->d_name) == len + RANDOM_LETTERS &&
		    is_left_over(u->dir_fd, d->d_name))
			unlinkat(u->dir_fd, d->d_name, 0);
	closedir(dir);
}

/* ---- All names that this process is to give ---- */

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct img_list all = { &all, &all };

/*
 * The name is u's from here on: two new files of one name, perhaps of one image, would replace each
 * other when they are published. 0, -EBUSY or what fstat() said.
 */
static int claim_name(struct unpublished *u)
{
	struct stat st;
	bool taken = false;

	if (fstat(u->dir_fd, &st))
		return -errno;
	u->dir_dev = st.st_dev;
	u->dir_ino = st.st_ino;
	pthread_mutex_lock(&all_lock);
	for (struct img_list *l = all.next; l != &all && !taken; l = l->next) {
		const struct unpublished *o = IMG_CONTAINER(l, struct unpublished, link);

		taken = o->dir_dev == u->dir_dev && o->dir_ino == u->dir_ino &&
			!strcmp(o->name, u->name);
	}
	if (!taken)
		img_list_add_tail(&all, &u->link);
	pthread_mutex_unlock(&all_lock);
	return taken ? -EBUSY : 0;
}

static void release_name(struct unpublished *u)
{
	if (!u->link.next)
		return;
	pthread_mutex_lock(&all_lock);
	img_list_del(&u->link);
	pthread_mutex_unlock(&all_lock);
}

/* Can the descriptor of a nameless file be given a name later? */
static bool can_link_descriptors(void)
{
	return !access("/proc/self/fd", X_OK);
}

static bool is_not_allowed(int rc)
{
	return rc == -EACCES || rc == -EPERM || rc == -EROFS;
}

/* A new empty file for u->name. A fd or -errno. */
static int open_new(struct unpublished *u)
{
	const int flags = O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC;
	int fd = -1;

	u->kind = NAMELESS;
	if (can_link_descriptors())
		fd = openat(u->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, NEW_MODE);
	if (fd >= 0)
		return fd;
	remove_left_over(u);
	u->kind = TEMPORARY;
	for (int i = 0; i < MAX_TRIES; i++) {
		make_temp_name(u->temp, u->name);
		fd = openat(u->dir_fd, u->temp, flags, NEW_MODE);
		if (fd >= 0)
			return fd;
		if (errno != EEXIST)
			break;
	}
	u->temp[0] = '\0';
	if (!is_not_allowed(-errno))
		return -errno;
	u->kind = FINAL;
	fd = openat(u->dir_fd, u->name, flags, NEW_MODE);
	return fd < 0 ? -errno : fd;
}

static int link_descriptor(int fd, int dir_fd, const char *name)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, path, dir_fd, name, AT_SYMLINK_FOLLOW) ? -errno : 0;
}

/* Give the nameless file a temporary name, to be renamed from. */
static int link_temp(struct unpublished *u, int fd)
{
	int rc = -EEXIST;

	for (int i = 0; i < MAX_TRIES && rc == -EEXIST; i++) {
		make_temp_name(u->temp, u->name);
		rc = link_descriptor(fd, u->dir_fd, u->temp);
	}
	if (rc)
		u->temp[0] = '\0';
	return rc;
}

static void forget(struct unpublished *u)
{
	release_name(u);
	if (u->temp[0])
		unlinkat(u->dir_fd, u->temp, 0);
	if (u->kind == FINAL)
		unlinkat(u->dir_fd, u->name, 0);
	if (u->dir_fd >= 0)
		close(u->dir_fd);
	free(u->name);
	free(u);
}

static void forget_base(struct img_unpublished *base)
{
	forget(IMG_CONTAINER(base, struct unpublished, base));
}

static int link_name(struct unpublished *u, struct img_file *f)
{
	int rc = -EEXIST;

	if (u->kind == FINAL || u->kind == OLD)
		return 0;
	if (u->kind == NAMELESS)
		rc = link_descriptor(f->fd, u->dir_fd, u->name);
	if (rc == -EEXIST) { /* rename() replaces, link() does not */
		rc = u->temp[0] ? 0 : link_temp(u, f->fd);
		if (!rc && renameat(u->dir_fd, u->temp, u->dir_fd, u->name))
			rc = -errno;
	}
	if (!rc) {
		u->temp[0] = '\0'; /* it is the final one now */
		u->kind = FINAL;
	}
	return rc;
}

/* Have the names in u's folder on disk. What has no such thing, or must not be read: nothing. */
static int sync_folder(const struct unpublished *u)
{
	int fd = openat(u->dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

	if (fd < 0)
		return errno == EACCES ? 0 : -errno;
	if (fsync(fd) && errno != EINVAL && errno != ENOTSUP)
		rc = -errno;
	close(fd);
	return rc;
}

static int fail_create(struct img_error *err, const char *path, int rc)
{
	return img_fail(err, rc, "Could not create '%s': %s", path, strerrordesc_np(-rc));
}

static int publish(struct img_file *f, bool durable, struct img_error *err)
{
	struct unpublished *u = IMG_CONTAINER(f->unpublished, struct unpublished, base);
	int rc = f->unfinished ? img_file_finish(f) : 0;

	if (rc)
		return fail_create(err, f->base.name, rc);
	if (durable && atomic_load(&f->base.unsynced))
		rc = img_storage_sync(&f->base, err);
	if (rc)
		return rc;
	rc = link_name(u, f);
	if (rc)
		return fail_create(err, f->base.name, rc);
	if (durable && u->kind != OLD)
		rc = sync_folder(u);
	if (rc)
		return img_fail(err, rc, "Could not create '%s': its folder cannot be synced: %s",
				f->base.name, strerrordesc_np(-rc));
	u->kind = OLD;
	f->unpublished = NULL;
	forget(u);
	return 0;
}

/*
 * What is at the final name now. 0: nothing; 1: a regular file, open in *fd; 2: a block device.
 * Everything else is refused.
 */
static int stat_old(struct unpublished *u, const char *path, int *fd, struct stat *st,
		    struct img_error *err)
{
	if (fstatat(u->dir_fd, u->name, st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : fail_create(err, path, -errno);
	if (S_ISBLK(st->st_mode))
		return 2;
	if (!S_ISREG(st->st_mode))
		return img_file_refuse_type(st->st_mode, "create", path, err);
	*fd = openat(u->dir_fd, u->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (*fd < 0)
		return fail_create(err, path, -errno);
	if (!fstat(*fd, st) && S_ISREG(st->st_mode))
		return 1;
	close(*fd); /* exchanged meanwhile */
	return fail_create(err, path, -EBUSY);
}

/* The old file is about to be lost: nobody may be using it. */
static int check_users(const struct img_file *f, struct img_error *err)
{
	char name[PATH_MAX];

	if (!img_file_is_open_twice(f, name, sizeof(name)))
		return 0;
	return img_fail(err, -EBUSY,
			"Could not create '%s': it is open already, as '%s', which would be lost",
			f->base.name, name);
}

/* u: its folder and name are known. On success the storage owns u. */
static int create(struct unpublished *u, const char *path, unsigned flags, struct img_file **out,
		  struct img_error *err)
{
	struct img_file *f;
	struct stat old;
	int fd = -1, found, rc;

	found = stat_old(u, path, &fd, &old, err);
	if (found < 0)
		return found;
	if (!found) {
		rc = claim_name(u);
		if (rc == -EBUSY)
			return img_fail(err, rc,
					"Could not create '%s': a file of this name is being "
					"created already",
					path);
		fd = rc ? rc : open_new(u);
	}
	if (found == 2)
		fd = openat(u->dir_fd, u->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0) {
		rc = found ? -errno : fd;
		u->kind = OLD; /* nothing was made */
		return fail_create(err, path, rc);
	}
	rc = img_file_new(fd, path, flags, &f, err);
	if (rc)
		return rc;
	if (found)
		rc = check_users(f, err);
	if (!rc && u->kind != NAMELESS && img_file_keep_unfinished(f))
		rc = fail_create(err, path, -ENOMEM);
	if (rc) {
		img_storage_close(&f->base);
		return rc;
	}
	f->unpublished = &u->base;
	*out = f;
	return 0;
}

int img_storage_create_file(const char *path, unsigned flags, struct img_storage **out,
			    struct img_error *err)
{
	struct unpublished *u = calloc(1, sizeof(*u));
	char *target = NULL;
	const char *name;
	struct img_file *f = NULL;
	int rc;

	if (!u)
		return fail_create(err, path, -ENOMEM);
	u->base = (struct img_unpublished){ publish, forget_base };
	u->dir_fd = -1;
	u->kind = OLD; /* nothing was made yet */
	rc = resolve_links(path, &target);
	if (!rc) {
		u->dir_fd = open_folder(target, &name);
		rc = u->dir_fd < 0 ? u->dir_fd : 0;
	}
	if (!rc && !(u->name = strdup(name)))
		rc = -ENOMEM;
	if (rc) {
		fail_create(err, path, rc);
		goto out;
	}
	flags = (flags | IMG_STORAGE_WRITE) & ~(unsigned)IMG_STORAGE_SHARE;
	rc = create(u, path, flags, &f, err);
	if (rc)
		goto out;
	u = NULL;
	*out = &f->base;
out:
	if (u)
		forget(u);
	free(target);
	return rc;
}
