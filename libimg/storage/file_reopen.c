/*
 * A file that is open already, once more: read-write where it was read-only, or the other way round.
 * The descriptors keep their numbers: dup3() puts the new open file in the place of the old one at
 * once, so that who reads meanwhile uses the one or the other. The locks belong to lock_fd, which stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/base/error.h"
#include "libimg/storage/ioq_fixed.h"
#include "libimg/storage/posix_file.h"

/* What f->fd, or (buffered) f->buffered_fd is to be. A descriptor, or -errno. */
static int open_role(const struct img_file *f, bool writable, bool buffered)
{
	bool direct = f->buffered_fd >= 0 && !buffered;
	int fd = img_file_reopen(f->fd, f->base.name, writable ? O_RDWR : O_RDONLY), rc;

	if (fd >= 0 && direct && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	if (fd >= 0 && (f->flags & IMG_STORAGE_RANDOM))
		posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	return fd;
}

/* Put the open file of *from in the place of to's, and close *from. */
static int replace(int *from, int to)
{
	int rc;

	do {
		rc = dup3(*from, to, O_CLOEXEC) < 0 ? -errno : 0;
	} while (rc == -EINTR || rc == -EBUSY);
	if (!rc) {
		img_fixed_replace(to);
		close(*from);
		*from = -1;
	}
	return rc;
}

/* Open f's descriptors in the other role. On failure those that were replaced can do more than they need. */
static int reopen_all(struct img_file *f, bool writable)
{
	int fd = open_role(f, writable, false), buffered = -1, rc = fd < 0 ? fd : 0;

	if (!rc && f->buffered_fd >= 0) {
		buffered = open_role(f, writable, true);
		rc = buffered < 0 ? buffered : 0;
	}
	if (!rc)
		rc = img_file_keep_locks(f);
	if (!rc)
		rc = replace(&fd, f->fd);
	if (!rc && buffered >= 0)
		rc = replace(&buffered, f->buffered_fd);
	if (fd >= 0)
		close(fd);
	if (buffered >= 0)
		close(buffered);
	return rc;
}

static int make_writable(struct img_file *f, struct img_error *err)
{
	struct stat st;
	int rc;

	if (f->flags & IMG_STORAGE_SHARE)
		return img_fail(err, -EINVAL,
				"Could not write to '%s': it is shared with writers, for reading only",
				f->base.name);
	if (fstat(f->fd, &st) || img_storage_is_null(&st))
		return img_fail(err, -EINVAL,
				"Could not write to '%s': it is a character device, neither a regular "
				"file nor a block device",
				f->base.name);
	rc = S_ISBLK(st.st_mode) ? img_file_check_device(f->fd, f->base.name, err) : 0;
	if (!rc)
		rc = img_file_lock_for_writing(f, err);
	if (rc)
		return rc;
	rc = reopen_all(f, true);
	if (rc) {
		img_file_unlock_for_writing(f);
		return img_fail(err, rc, "Could not write to '%s': %s", f->base.name,
				strerrordesc_np(-rc));
	}
	return 0;
}

int img_file_set_writable(struct img_storage *s, bool writable, struct img_error *err)
{
	struct img_file *f = img_file_of(s);

	if (f->unpublished || f->unfinished)
		return img_fail(err, -EBUSY, "'%s' is not complete yet", s->name);
	if (writable)
		return make_writable(f, err);
	img_file_trim(f);
	s->may_grow_ahead = false;
	/* Where it cannot be opened again (it may not be read any more) the descriptors go on as they are. */
	reopen_all(f, false);
	img_file_unlock_for_writing(f);
	return 0;
}
