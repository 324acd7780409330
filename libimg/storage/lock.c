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

static int lock_byte(int fd, int byte)
{
	struct flock lock = {
		.l_type = F_RDLCK,
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

static int fail_busy(struct img_error *err, const char *path, const char *shared, int perm)
{
	return img_fail(err, -EAGAIN, "Could not open '%s': Failed to get %s\"%s\" lock. Is another "
				      "process using the image [%s]?",
			path, shared, perm_names[perm], path);
}

int img_file_lock(int fd, const char *path, bool writer, bool share, struct img_error *err)
{
	const unsigned write = 1u << PERM_WRITE | 1u << PERM_RESIZE, read = 1u << PERM_READ;
	struct role role = {
		.use = writer ? read | write : read,
		.deny = share ? 0 : write,
	};
	int rc = 0;

	for (int i = 0; i < PERM_COUNT && !rc; i++) {
		if (role.use & 1u << i)
			rc = lock_byte(fd, USE_BASE + i);
		if (!rc && (role.deny & 1u << i))
			rc = lock_byte(fd, DENY_BASE + i);
	}
	if (rc == -EAGAIN || rc == -EACCES) /* somebody holds it exclusively: not QEMU's way */
		return img_fail(err, -EAGAIN, "Could not open '%s': another process has locked it",
				path);
	if (rc) /* a file system without these locks: QEMU goes on too */
		return 0;
	for (int i = 0; i < PERM_COUNT; i++) {
		if ((role.use & 1u << i) && is_held(fd, DENY_BASE + i))
			return fail_busy(err, path, "", i);
		if ((role.deny & 1u << i) && is_held(fd, USE_BASE + i))
			return fail_busy(err, path, "shared ", i);
	}
	return 0;
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
