/*
 * New files appear at their final name complete or not at all. Until published a file has no name
 * (O_TMPFILE) or, where the file system cannot do that, a hidden one beside the final name. A file
 * that is being replaced stays open and locked, so that nobody who uses it is surprised and nobody
 * starts to. Where a file cannot be replaced (its folder is not ours to change, or the name is a
 * mount point), it is emptied and written in place.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
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
};

struct unpublished {
	struct img_unpublished base;
	int dir_fd;
	int old_fd;		   /* the file to replace, locked; -1: none */
	char *name;		   /* final, in dir_fd */
	char temp[TEMP_NAME_ROOM]; /* in dir_fd; "": the file has no name */
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
		return -EISDIR;
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

/* ".NAME.XXXXXX": hidden, in the same folder, recognisable. A long NAME is cut. */
static void make_temp_name(char *temp, const char *name)
{
	static const char letters[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
	uint8_t random[6];
	char suffix[sizeof(random) + 1];

	if (getrandom(random, sizeof(random), GRND_NONBLOCK) != sizeof(random)) {
		for (size_t i = 0; i < sizeof(random); i++) /* early boot: unique will do */
			random[i] = (uint8_t)(getpid() >> (i * 5));
	}
	for (size_t i = 0; i < sizeof(random); i++)
		suffix[i] = letters[random[i] % (sizeof(letters) - 1)];
	suffix[sizeof(random)] = '\0';
	snprintf(temp, TEMP_NAME_ROOM, ".%.*s.%s", NAME_MAX - 2 - (int)sizeof(random), name, suffix);
}

/* Can the descriptor of a nameless file be given a name later? */
static bool can_link_descriptors(void)
{
	return !access("/proc/self/fd", X_OK);
}

/* A new empty file in u's folder. mode: subject to the umask. A fd or -errno. */
static int open_temp(struct unpublished *u, mode_t mode)
{
	int fd = -1;

	u->temp[0] = '\0';
	if (can_link_descriptors())
		fd = openat(u->dir_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode);
	if (fd >= 0)
		return fd;
	for (int i = 0; i < MAX_TRIES; i++) {
		make_temp_name(u->temp, u->name);
		fd = openat(u->dir_fd, u->temp, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, mode);
		if (fd >= 0)
			return fd;
		if (errno != EEXIST)
			break;
	}
	u->temp[0] = '\0';
	return -errno;
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
	if (u->temp[0])
		unlinkat(u->dir_fd, u->temp, 0);
	if (u->old_fd >= 0)
		close(u->old_fd);
	if (u->dir_fd >= 0)
		close(u->dir_fd);
	free(u->name);
	free(u);
}

static void forget_base(struct img_unpublished *base)
{
	forget(IMG_CONTAINER(base, struct unpublished, base));
}

static int publish(struct img_file *f, struct img_error *err)
{
	struct unpublished *u = IMG_CONTAINER(f->unpublished, struct unpublished, base);
	int rc = -EEXIST;

	if (!u->temp[0] && u->old_fd < 0)
		rc = link_descriptor(f->fd, u->dir_fd, u->name);
	if (rc == -EEXIST) { /* rename() replaces, link() does not */
		rc = u->temp[0] ? 0 : link_temp(u, f->fd);
		if (!rc && renameat(u->dir_fd, u->temp, u->dir_fd, u->name))
			rc = -errno;
	}
	if (rc)
		return img_fail(err, rc, "Could not create '%s': %s", f->base.name,
				strerrordesc_np(-rc));
	u->temp[0] = '\0'; /* it is the final one now */
	f->unpublished = NULL;
	forget(u);
	return 0;
}

/* The mount that fd is on; 0: the kernel does not say. */
static uint64_t mount_of(int fd)
{
	struct statx st;

	memset(&st, 0, sizeof(st));
	if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) || !(st.stx_mask & STATX_MNT_ID))
		return 0;
	return st.stx_mnt_id;
}

/* Would rename() over the open file old_fd in folder dir_fd be refused? */
static bool must_stay(int dir_fd, int old_fd, const struct stat *old)
{
	uid_t me = geteuid();
	struct stat dir;

	if (mount_of(dir_fd) != mount_of(old_fd)) /* a file bound into a container */
		return true;
	return !fstat(dir_fd, &dir) && (dir.st_mode & S_ISVTX) && me && old->st_uid != me &&
	       dir.st_uid != me;
}

/* The new file fd takes over what the old one was to the system. */
static int inherit(int fd, const struct stat *old)
{
	struct stat now;

	if (fstat(fd, &now))
		return -errno;
	/* giving files away takes privileges: without them the new file is ours */
	if ((now.st_uid != old->st_uid || now.st_gid != old->st_gid) &&
	    fchown(fd, old->st_uid, old->st_gid) && fchown(fd, (uid_t)-1, old->st_gid))
		errno = 0;
	return fchmod(fd, old->st_mode & 0777) ? -errno : 0;
}

static int fail_create(struct img_error *err, const char *path, int rc)
{
	return img_fail(err, rc, "Could not create '%s': %s", path, strerrordesc_np(-rc));
}

/*
 * What is at the final name now. 0: nothing; 1: a regular file, open in *fd; 2: a block device.
 * Everything else is refused.
 */
static int look_at_old(struct unpublished *u, const char *path, int *fd, struct stat *st,
		       struct img_error *err)
{
	const char *what;

	if (fstatat(u->dir_fd, u->name, st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : fail_create(err, path, -errno);
	switch (st->st_mode & S_IFMT) {
	case S_IFBLK:
		return 2;
	case S_IFREG:
		*fd = openat(u->dir_fd, u->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (*fd < 0)
			return fail_create(err, path, -errno);
		if (fstat(*fd, st) || !S_ISREG(st->st_mode)) /* exchanged meanwhile */
			return fail_create(err, path, -EBUSY);
		return 1;
	case S_IFDIR:
		return fail_create(err, path, -EISDIR);
	case S_IFIFO:
		what = "pipe";
		break;
	case S_IFSOCK:
		what = "socket";
		break;
	case S_IFCHR:
		what = "character device";
		break;
	default:
		what = "special file";
		break;
	}
	return img_fail(err, -EINVAL,
			"Could not create '%s': it is a %s, neither a regular file nor a block device",
			path, what);
}

/* Empty the old file and write there. Takes u->old_fd. */
static int create_in_place(struct unpublished *u, const char *path, unsigned flags,
			   struct img_file **out, struct img_error *err)
{
	struct img_file *f;
	int rc, fd = u->old_fd;

	u->old_fd = -1;
	/* after the old file's own lock: nobody is using it */
	rc = img_file_new(fd, path, flags, &f, err);
	if (rc)
		return rc;
	if (ftruncate(f->fd, 0)) {
		rc = fail_create(err, path, -errno);
		img_storage_close(&f->base);
		return rc;
	}
	atomic_store(&f->base.size, 0);
	*out = f;
	return 0;
}

static bool is_not_allowed(int rc)
{
	return rc == -EACCES || rc == -EPERM || rc == -EROFS;
}

/* u: its folder and name are known. On success the storage owns u, or u is to be freed: *keep. */
static int create(struct unpublished *u, const char *path, unsigned flags, struct img_file **out,
		  bool *keep, struct img_error *err)
{
	struct stat old;
	int found, fd, rc;

	found = look_at_old(u, path, &u->old_fd, &old, err);
	if (found < 0)
		return found;
	if (found == 2) {
		fd = openat(u->dir_fd, u->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (fd < 0)
			return fail_create(err, path, -errno);
		return img_file_new(fd, path, flags, out, err);
	}
	if (found && must_stay(u->dir_fd, u->old_fd, &old))
		return create_in_place(u, path, flags, out, err);
	fd = open_temp(u, found ? 0600 : 0666);
	if (found && is_not_allowed(fd))
		return create_in_place(u, path, flags, out, err);
	if (fd < 0)
		return fail_create(err, path, fd);
	rc = found ? inherit(fd, &old) : 0;
	if (rc) {
		close(fd);
		return fail_create(err, path, rc);
	}
	if (found && !(flags & IMG_STORAGE_NO_LOCK))
		rc = img_file_lock(u->old_fd, path, true, false, err);
	if (rc) {
		close(fd);
		return rc;
	}
	rc = img_file_new(fd, path, flags, out, err);
	*keep = !rc;
	return rc;
}

int img_storage_create_file(const char *path, unsigned flags, struct img_storage **out,
			    struct img_error *err)
{
	struct unpublished *u = calloc(1, sizeof(*u));
	char *target = NULL;
	const char *name;
	struct img_file *f = NULL;
	bool keep = false;
	int rc;

	if (!u)
		return fail_create(err, path, -ENOMEM);
	u->base = (struct img_unpublished){ publish, forget_base };
	u->dir_fd = u->old_fd = -1;
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
	rc = create(u, path, flags, &f, &keep, err);
	if (rc)
		goto out;
	if (keep) {
		f->unpublished = &u->base;
		u = NULL;
	}
	*out = &f->base;
out:
	if (u)
		forget(u);
	free(target);
	return rc;
}
