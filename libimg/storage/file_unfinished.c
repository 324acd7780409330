/*
 * Files that are written under a name which others see: one that was there before, a device, or a
 * new one where the file system has none without names. Whoever finds such a file after its writer
 * was killed must take it for neither the old image nor the new one. So its first bytes, by which
 * every format is recognised, are kept in memory until it is published; until then a mark is there.
 * What was there before goes with the first change, durably, before anything else is written.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/posix_file.h"

enum {
	KEPT = 4096,		/* first bytes that are kept back; a block, so that O_DIRECT fits */
	WIPED_HEAD = 64 * 1024, /* of a device: all that images are recognised by lies in there, */
	WIPED_TAIL = 4096,	/* ... or here */
};

struct img_file_unfinished {
	_Atomic bool begun; /* the old content is gone, the mark is there */
	struct img_file_attributes attributes;

	pthread_mutex_t lock; /* guards the rest, and the beginning */
	bool stored;	      /* something was written to head, or space reserved for it */
	uint8_t head[KEPT];
};

int img_file_keep_unfinished(struct img_file *f)
{
	struct img_file_unfinished *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	pthread_mutex_init(&u->lock, NULL);
	if (!f->base.device)
		atomic_store(&f->base.size, 0);
	f->unfinished = u;
	return 0;
}

static void forget(struct img_file *f)
{
	pthread_mutex_destroy(&f->unfinished->lock);
	free(f->unfinished);
	f->unfinished = NULL;
}

/* Without O_DIRECT, whose rules these few bytes need not follow. */
static int plain_fd(const struct img_file *f)
{
	return f->buffered_fd >= 0 ? f->buffered_fd : f->fd;
}

static int write_bytes(const struct img_file *f, const uint8_t *bytes, size_t len, uint64_t off)
{
	while (len) {
		ssize_t n = pwrite(plain_fd(f), bytes, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		bytes += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

/* Zeroes where images on a device are recognised, now that another one is made there. */
static int wipe_device(struct img_file *f)
{
	static const uint8_t zeroes[WIPED_TAIL];
	uint64_t size = atomic_load(&f->base.size), head = min_u64(size, WIPED_HEAD);
	uint64_t tail = min_u64(size - head, WIPED_TAIL);
	int rc = 0;

	for (uint64_t at = 0; !rc && at < head; at += WIPED_TAIL)
		rc = write_bytes(f, zeroes, (size_t)min_u64(head - at, WIPED_TAIL), at);
	return rc ? rc : write_bytes(f, zeroes, (size_t)tail, size - tail);
}

static int write_mark(const struct img_file *f, size_t len)
{
	static const uint8_t mark[KEPT] = IMG_UNFINISHED_MARK;
	int rc = write_bytes(f, mark, len, 0);

	return rc || !fdatasync(f->fd) ? rc : -errno;
}

static int begin_device(struct img_file *f)
{
	int rc = wipe_device(f);

	return rc ? rc : write_mark(f, (size_t)min_u64(KEPT, atomic_load(&f->base.size)));
}

/* Have what follows the first `keep` bytes gone. */
static int cut(const struct img_file *f, off_t keep)
{
	return ftruncate(f->fd, keep) ? -errno : 0;
}

/* Does f lack what was asked for and only an empty file can be given? */
static bool has_to_be_empty(const struct img_file *f, const struct img_file_attributes *a)
{
	struct fsxattr x;
	struct statfs fs;
	int flags;

	if (a->nocow && !ioctl(f->fd, FS_IOC_GETFLAGS, &flags) && !(flags & FS_NOCOW_FL))
		return true;
	return a->extent_size_hint && !fstatfs(f->fd, &fs) && fs.f_type == XFS_SUPER_MAGIC &&
	       !ioctl(f->fd, FS_IOC_FSGETXATTR, &x) &&
	       (a->hint_given ? x.fsx_extsize != a->extent_size_hint
			      : !(x.fsx_xflags & FS_XFLAG_EXTSIZE));
}

/*
 * The mark first, then the rest goes: at no time is there an empty file, or a piece of the old image.
 * What can be given to an empty file only makes an exception, when the mark is durable.
 */
static int begin_file(struct img_file *f)
{
	const struct img_file_attributes *a = &f->unfinished->attributes;
	struct stat st;
	int rc;

	if (fstat(f->fd, &st))
		return -errno;
	if (!st.st_size)
		img_file_set_attributes(f->fd, a);
	rc = write_mark(f, KEPT);
	if (rc == -ENOSPC || rc == -EDQUOT) { /* what the rest takes may do */
		rc = cut(f, KEPT);
		if (!rc)
			rc = write_mark(f, KEPT);
	}
	if (!rc && st.st_size && has_to_be_empty(f, a)) {
		rc = cut(f, 0);
		if (!rc) {
			img_file_set_attributes(f->fd, a);
			rc = write_mark(f, KEPT);
		}
	}
	return rc ? rc : cut(f, KEPT);
}

/* Called with the lock held, once. */
static int begin(struct img_file *f)
{
	struct img_file_unfinished *u = f->unfinished;
	int rc = f->base.device ? begin_device(f) : begin_file(f);

	atomic_fetch_add(&f->changes, 1);
	if (!rc)
		atomic_store(&u->begun, true);
	return rc;
}

static int begin_once(struct img_file *f)
{
	struct img_file_unfinished *u = f->unfinished;
	int rc = 0;

	if (atomic_load(&u->begun))
		return 0;
	pthread_mutex_lock(&u->lock);
	if (!atomic_load(&u->begun))
		rc = begin(f);
	pthread_mutex_unlock(&u->lock);
	return rc;
}

bool img_file_unfinished_covers(const struct img_file *f, enum img_io_op op, uint64_t off)
{
	return op != IMG_IO_SYNC && (off < KEPT || !atomic_load(&f->unfinished->begun));
}

/* [off, off + len) of the head. */
static void head_io(struct img_file_unfinished *u, enum img_io_op op, struct img_cursor *c,
		    uint64_t off, size_t len)
{
	pthread_mutex_lock(&u->lock);
	if (op == IMG_IO_READ)
		img_cursor_scatter(c, u->head + off, len);
	else if (op == IMG_IO_WRITE)
		img_cursor_gather(c, u->head + off, len);
	else
		memset(u->head + off, 0, len);
	u->stored |= op == IMG_IO_WRITE;
	pthread_mutex_unlock(&u->lock);
}

/* The rest of a request whose first bytes are done with. */
static int rest_io(struct img_file *f, enum img_io_op op, const struct img_cursor *c, uint64_t off,
		   uint64_t len, unsigned flags)
{
	struct iovec *iov;
	int rc, n;

	if (op != IMG_IO_READ && op != IMG_IO_WRITE)
		return img_file_io(f, op, NULL, 0, off, len, flags);
	iov = calloc((size_t)c->iovcnt, sizeof(*iov));
	if (!iov)
		return -ENOMEM;
	n = img_cursor_window(c, iov, c->iovcnt);
	rc = img_file_io(f, op, iov, n, off, len, flags);
	free(iov);
	return rc;
}

int img_file_unfinished_io(struct img_file *f, enum img_io_op op, const struct iovec *iov,
			   int iovcnt, uint64_t off, uint64_t len, unsigned flags)
{
	struct img_cursor c = { .iov = iov, .iovcnt = iovcnt };
	uint64_t kept = off < KEPT ? min_u64(len, KEPT - off) : 0;
	int rc;

	if (op == IMG_IO_READ && !f->base.device && !atomic_load(&f->unfinished->begun)) {
		img_cursor_zero(&c, len); /* the old content is none of the new file's */
		return 0;
	}
	rc = op == IMG_IO_READ ? 0 : begin_once(f);
	if (!rc && f->base.device && kept && op != IMG_IO_READ &&
	    off + kept > atomic_load(&f->base.size))
		rc = -ENOSPC;
	if (rc)
		return rc;
	if (kept) {
		head_io(f->unfinished, op, &c, off, (size_t)kept);
	}
	if (off < KEPT && op != IMG_IO_READ)
		img_file_changed(f, op == IMG_IO_PUNCH ? 0 : off + kept);
	return len > kept || off >= KEPT ? rest_io(f, op, &c, off + kept, len - kept, flags) : 0;
}

int img_file_unfinished_resize(struct img_file *f, uint64_t size, enum img_preallocate how,
			       uint64_t *from, uint64_t *to)
{
	struct img_file_unfinished *u = f->unfinished;
	int rc = begin_once(f);

	if (rc)
		return rc;
	pthread_mutex_lock(&u->lock);
	if (size < KEPT)
		memset(u->head + size, 0, KEPT - size);
	u->stored |= how != IMG_PREALLOCATE_OFF;
	pthread_mutex_unlock(&u->lock);
	*from = max_u64(*from, KEPT);
	*to = max_u64(size, KEPT);
	return 0;
}

int img_file_finish(struct img_file *f)
{
	struct img_file_unfinished *u = f->unfinished;
	uint64_t size = atomic_load(&f->base.size), len = min_u64(size, KEPT);
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	int rc = begin_once(f);

	if (rc)
		return rc;
	/* the mark must not be seen behind the end of what is shorter, nor a file without either */
	if (!f->base.device && size < KEPT)
		rc = cut(f, (off_t)size);
	if (!rc && (f->base.device || u->stored || size < KEPT || fallocate(f->fd, punch, 0, KEPT)))
		rc = write_bytes(f, u->head, (size_t)len, 0);
	if (rc)
		return rc;
	forget(f);
	img_file_changed(f, 0);
	return 0;
}

void img_file_abandon(struct img_file *f)
{
	/* The mark stays; the space is given back. That it is not, only costs space. */
	if (atomic_load(&f->unfinished->begun) && !f->base.device && ftruncate(f->fd, KEPT))
		img_file_changed(f, 0);
	forget(f);
}

void img_file_unfinished_attributes(struct img_file *f, const struct img_file_attributes *a)
{
	f->unfinished->attributes = *a;
}

void img_file_set_attributes(int fd, const struct img_file_attributes *a)
{
	struct fsxattr x;
	int flags;

	if (a->nocow && !ioctl(fd, FS_IOC_GETFLAGS, &flags)) {
		flags |= FS_NOCOW_FL;
		ioctl(fd, FS_IOC_SETFLAGS, &flags);
	}
	/* a default must not change what a file was given by somebody else */
	if (a->extent_size_hint && !ioctl(fd, FS_IOC_FSGETXATTR, &x) &&
	    (a->hint_given || !(x.fsx_xflags & FS_XFLAG_EXTSIZE))) {
		x.fsx_xflags |= FS_XFLAG_EXTSIZE;
		x.fsx_extsize = a->extent_size_hint;
		ioctl(fd, FS_IOC_FSSETXATTR, &x);
	}
}
