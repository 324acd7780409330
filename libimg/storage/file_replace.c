/*
 * Another file in the place of one that is open, which no power cut tears: small files of text (descriptors) have
 * nothing inside them that one write could change over from old to new.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "libimg/base/error.h"
#include "libimg/storage/ioq_fixed.h"
#include "libimg/storage/posix_file.h"

/* The new file, which has a temporary name until it takes the old one's place. */
struct successor {
	char *path, *temp;
	struct stat old;
	char *identity;
	int fd, direct_fd, lock_fd; /* -1: none */
};

/* Where the file that is open as fd is now, links followed. */
static int find(const struct img_file *f, struct successor *n)
{
	struct stat there;

	if (fstat(f->fd, &n->old))
		return -errno;
	if (!S_ISREG(n->old.st_mode))
		return -ENOTSUP;
	if (n->old.st_nlink > 1)
		return -EMLINK;
	n->path = realpath(f->base.name, NULL);
	if (!n->path || stat(n->path, &there))
		return -errno;
	return there.st_dev == n->old.st_dev && there.st_ino == n->old.st_ino ? 0 : -ENOENT;
}

/* Access lists, labels, and what users keep there; what may not be set was set by somebody else. */
static int copy_xattrs(int from, int to)
{
	ssize_t size = flistxattr(from, NULL, 0), len;
	char *names = size > 0 ? malloc((size_t)size) : NULL;
	int rc = 0;

	size = names ? flistxattr(from, names, (size_t)size) : 0;
	for (const char *name = names; !rc && name && name < names + size; name += strlen(name) + 1) {
		char value[65536];

		len = fgetxattr(from, name, value, sizeof(value));
		if (len >= 0 && fsetxattr(to, name, value, (size_t)len, 0) && errno != EPERM &&
		    errno != ENOTSUP)
			rc = -errno;
	}
	free(names);
	return rc;
}

static int write_all(int fd, const char *bytes, size_t len)
{
	while (len) {
		ssize_t n = write(fd, bytes, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		bytes += n;
		len -= (size_t)n;
	}
	return 0;
}

static int make(const struct img_file *f, struct successor *n, const void *bytes, size_t len, bool sync)
{
	struct stat st;
	int rc;

	if (asprintf(&n->temp, "%s.new-XXXXXX", n->path) < 0) {
		n->temp = NULL;
		return -ENOMEM;
	}
	n->fd = mkostemp(n->temp, O_CLOEXEC);
	if (n->fd < 0) {
		rc = -errno;
		free(n->temp);
		n->temp = NULL;
		return rc;
	}
	if (fstat(n->fd, &st))
		return -errno;
	if ((st.st_uid != n->old.st_uid || st.st_gid != n->old.st_gid) &&
	    fchown(n->fd, n->old.st_uid, n->old.st_gid))
		return -errno;
	if (fchmod(n->fd, n->old.st_mode & 07777))
		return -errno;
	rc = copy_xattrs(f->fd, n->fd);
	if (!rc)
		rc = write_all(n->fd, bytes, len);
	if (!rc && sync && fsync(n->fd))
		rc = -errno;
	n->identity = img_storage_identify(&st);
	return rc || n->identity ? rc : -ENOMEM;
}

/* All descriptors that f has, of the new file. */
static int open_others(const struct img_file *f, struct successor *n, struct img_error *err)
{
	if (f->buffered_fd >= 0) {
		n->direct_fd = img_file_reopen(n->fd, n->temp, O_RDWR);
		if (n->direct_fd < 0)
			return n->direct_fd;
		if (fcntl(n->direct_fd, F_SETFL, fcntl(n->direct_fd, F_GETFL) | O_DIRECT))
			return -errno;
	}
	if (f->flags & IMG_STORAGE_NO_LOCK)
		return 0;
	if (f->lock_fd >= 0) {
		n->lock_fd = img_file_reopen(n->fd, n->temp, O_RDONLY);
		if (n->lock_fd < 0)
			return n->lock_fd;
	}
	return img_file_lock(n->lock_fd < 0 ? n->fd : n->lock_fd, f->base.name, true,
			     f->flags & IMG_STORAGE_SHARE, err);
}

static int sync_folder(const char *path)
{
	char *folder = strndup(path, (size_t)(strrchr(path, '/') - path) + 1);
	int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	int rc = folder ? 0 : -ENOMEM;

	if (!rc && (fd < 0 || (fsync(fd) && errno != EINVAL && errno != ENOTSUP)))
		rc = -errno;
	if (fd >= 0)
		close(fd);
	free(folder);
	return rc;
}

static int replace_descriptor(int from, int to)
{
	int rc;

	do {
		rc = dup3(from, to, O_CLOEXEC) < 0 ? -errno : 0;
	} while (rc == -EINTR || rc == -EBUSY);
	if (!rc)
		img_fixed_replace(to);
	return rc;
}

/* The old file's descriptors become the new one's. */
static int change_over(struct img_file *f, struct successor *n, size_t len)
{
	int rc = 0;

	if (f->buffered_fd >= 0)
		rc = replace_descriptor(n->fd, f->buffered_fd);
	if (!rc)
		rc = replace_descriptor(n->direct_fd >= 0 ? n->direct_fd : n->fd, f->fd);
	if (!rc && n->lock_fd >= 0)
		rc = replace_descriptor(n->lock_fd, f->lock_fd);
	img_file_set_identity(f, n->identity);
	n->identity = NULL;
	atomic_store(&f->base.size, len);
	atomic_store(&f->base.unsynced, false);
	atomic_store(&f->reserved_end, 0);
	atomic_fetch_add(&f->changes, 1);
	return rc;
}

static int fail(const struct img_file *f, int rc, struct img_error *err)
{
	if (rc == -EMLINK)
		return img_fail(err, rc,
				"%s: it has several names (hard links), of which only one would lead to "
				"the new content",
				f->base.name);
	if (rc == -ENOENT)
		return img_fail(err, rc, "%s: it is no longer where it was opened", f->base.name);
	return img_fail(err, rc, "%s: it cannot be replaced: %s", f->base.name, strerrordesc_np(-rc));
}

/* Nobody relies on a file that has not got its name yet. */
static int write_unpublished(struct img_storage *s, const void *bytes, size_t len, bool sync,
			     struct img_error *err)
{
	int rc = img_storage_write(s, 0, bytes, len, err);

	if (!rc && atomic_load(&s->size) > len)
		rc = img_storage_resize(s, len, IMG_PREALLOCATE_OFF, err);
	return rc || !sync ? rc : img_storage_sync(s, err);
}

int img_file_replace(struct img_storage *s, const void *bytes, size_t len, bool sync,
		     struct img_error *err)
{
	struct img_file *f = img_file_of(s);
	struct successor n = { .fd = -1, .direct_fd = -1, .lock_fd = -1 };
	struct img_error busy = { 0 };
	int rc;

	if (f->unpublished)
		return write_unpublished(s, bytes, len, sync, err);
	rc = find(f, &n);
	if (!rc)
		rc = make(f, &n, bytes, len, sync);
	if (!rc)
		rc = open_others(f, &n, &busy);
	if (!rc && rename(n.temp, n.path))
		rc = -errno;
	if (rc && n.temp)
		unlink(n.temp);
	if (!rc)
		rc = change_over(f, &n, len);
	if (!rc && sync)
		rc = sync_folder(n.path);
	if (rc && busy.text)
		img_error_move(err, &busy);
	else if (rc)
		fail(f, rc, err);
	img_error_clear(&busy);
	if (n.fd >= 0)
		close(n.fd);
	if (n.direct_fd >= 0)
		close(n.direct_fd);
	if (n.lock_fd >= 0)
		close(n.lock_fd);
	free(n.identity);
	free(n.path);
	free(n.temp);
	return rc;
}
