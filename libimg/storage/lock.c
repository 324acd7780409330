/*
 * Locks as QEMU takes them, so that neither opens what the other is writing. For each permission
 * there are two bytes: one read-locked by who uses it, one by who denies it to others. All locks
 * held are shared ones; a conflict is found by asking who else is there, after taking one's own,
 * so that of two who race at most one succeeds. They belong to the open file description: a second
 * open in the same process conflicts like any other.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/fork.h"
#include "libimg/storage/posix_file.h"

enum {
	USE_BASE = 100,	 /* + permission: I use it */
	DENY_BASE = 200, /* + permission: I deny it to others */
};

enum { PERM_READ,
       PERM_WRITE,
       PERM_WRITE_UNCHANGED,
       PERM_RESIZE,
       PERM_COUNT };

static const char *const perm_names[PERM_COUNT] = {
	[PERM_READ] = "consistent read",
	[PERM_WRITE] = "write",
	[PERM_WRITE_UNCHANGED] = "write unchanged",
	[PERM_RESIZE] = "resize",
};

struct role {
	unsigned use, deny; /* masks of 1u << PERM_* */
};

static int set_byte(int fd, int byte, short type)
{
	struct flock lock = {
		.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = byte,
		.l_len = 1,
	};

	return fcntl(fd, F_OFD_SETLK, &lock) ? -errno : 0;
}

/* Does another open file hold this byte? */
static bool is_held(int fd, int byte)
{
	struct flock lock = {
		.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = byte,
		.l_len = 1,
	};

	return !fcntl(fd, F_OFD_GETLK, &lock) && lock.l_type != F_UNLCK;
}

/* Let go of the bytes of r. */
static void unlock_role(int fd, struct role r)
{
	for (int i = 0; i < PERM_COUNT; i++) {
		if (r.use & 1u << i)
			set_byte(fd, USE_BASE + i, F_UNLCK);
		if (r.deny & 1u << i)
			set_byte(fd, DENY_BASE + i, F_UNLCK);
	}
}

/* Add the bytes of r. On failure what was added stays. */
static int lock_role(int fd, struct role r)
{
	int rc = 0;

	for (int i = 0; i < PERM_COUNT && !rc; i++) {
		if (r.use & 1u << i)
			rc = set_byte(fd, USE_BASE + i, F_RDLCK);
		if (!rc && (r.deny & 1u << i))
			rc = set_byte(fd, DENY_BASE + i, F_RDLCK);
	}
	return rc;
}

static int fail_busy(struct img_error *err, const char *what, const char *path, const char *shared,
		     int perm)
{
	return img_fail(err, -EAGAIN, "Could not %s '%s': Failed to get %s\"%s\" lock. Is another "
				      "process using the image [%s]?",
			what, path, shared, perm_names[perm], path);
}

/* Is another open file in the way of r, whose bytes are held? */
static int check_role(int fd, struct role r, const char *what, const char *path, struct img_error *err)
{
	for (int i = 0; i < PERM_COUNT; i++) {
		if ((r.use & 1u << i) && is_held(fd, DENY_BASE + i))
			return fail_busy(err, what, path, "", i);
		if ((r.deny & 1u << i) && is_held(fd, USE_BASE + i))
			return fail_busy(err, what, path, "shared ", i);
	}
	return 0;
}

/* Have r, of which all but `added` is held already. On failure no more is held than before. */
static int acquire_role(int fd, struct role r, struct role added, const char *what, const char *path,
			struct img_error *err)
{
	int rc = lock_role(fd, added);

	if (rc == -EAGAIN || rc == -EACCES) /* somebody holds it exclusively: not QEMU's way */
		rc = img_fail(err, -EAGAIN, "Could not %s '%s': another process has locked it", what,
			      path);
	else if (rc) /* a file system without these locks: QEMU goes on too */
		return 0;
	else
		rc = check_role(fd, r, what, path, err);
	if (rc)
		unlock_role(fd, added);
	return rc;
}

static const struct role writing = { .use = 1u << PERM_WRITE | 1u << PERM_RESIZE };

static struct role role_of(bool writer, bool share)
{
	struct role r = { .use = 1u << PERM_READ, .deny = share ? 0 : writing.use };

	if (writer)
		r.use |= writing.use;
	return r;
}

int img_file_lock(int fd, const char *path, bool writer, bool share, struct img_error *err)
{
	struct role r = role_of(writer, share);

	return acquire_role(fd, r, r, "open", path, err);
}

/* ---- Forking: a child has the descriptors too, and with them the locks ---- */

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct img_list all = { &all, &all };

static int lock_holder(const struct img_file *f)
{
	return f->lock_fd >= 0 ? f->lock_fd : f->fd;
}

static void close_in_child(void)
{
	for (struct img_list *l = all.next; l != &all; l = l->next)
		close(lock_holder(IMG_CONTAINER(l, struct img_file, locked_link)));
	img_list_init(&all);
}

static void watch_forks(void)
{
	img_watch_forks(&all_lock, close_in_child);
}

void img_file_locked(struct img_file *f)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch_forks);
	pthread_mutex_lock(&all_lock);
	img_list_add_tail(&all, &f->locked_link);
	pthread_mutex_unlock(&all_lock);
}

static bool is_locked(const struct img_file *f)
{
	bool locked;

	pthread_mutex_lock(&all_lock);
	locked = !img_list_empty(&f->locked_link);
	pthread_mutex_unlock(&all_lock);
	return locked;
}

int img_file_lock_for_writing(struct img_file *f, struct img_error *err)
{
	return is_locked(f) ? acquire_role(lock_holder(f), role_of(true, false), writing, "write to",
					   f->base.name, err)
			    : 0;
}

void img_file_unlock_for_writing(struct img_file *f)
{
	if (is_locked(f))
		unlock_role(lock_holder(f), writing);
}

int img_file_keep_locks(struct img_file *f)
{
	int fd;

	if (f->lock_fd >= 0 || !is_locked(f))
		return 0;
	fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	pthread_mutex_lock(&all_lock);
	f->lock_fd = fd;
	pthread_mutex_unlock(&all_lock);
	return 0;
}

void img_file_unlock(struct img_file *f)
{
	struct flock none = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	bool locked;

	pthread_mutex_lock(&all_lock);
	locked = !img_list_empty(&f->locked_link);
	img_list_del(&f->locked_link);
	pthread_mutex_unlock(&all_lock);
	if (locked)
		fcntl(lock_holder(f), F_OFD_SETLK, &none);
}
