/*
 * Files and block devices: opening, size, holes. Requests are in file_io.c.
 */
#include "libimg/storage/ioq_private.h"
#include "libimg/storage/posix_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/storage/ioq_fixed.h"

static int reserve(struct img_file *f, uint64_t from, uint64_t to)
{
	int rc;

	do {
		rc = fallocate(f->fd, 0, (off_t)from, (off_t)(to - from)) ? -errno : 0;
	} while (rc == -EINTR);
	/* written blocks are reserved ones */
	return rc == -EOPNOTSUPP || rc == -ENOSYS ? img_file_write_zeroes(f, from, to - from) : rc;
}

static int file_resize(struct img_storage *s, uint64_t size, enum img_preallocate how)
{
	struct img_file *f = img_file_of(s);
	uint64_t now = atomic_load(&s->size), from = now, to = size;
	int rc = 0;

	img_file_trim(f);
	if (f->unfinished)
		rc = img_file_unfinished_resize(f, size, how, &from, &to);
	if (rc || s->device)
		return rc;
	if (size < now) /* before the cut: a reader must not take it for damage */
		atomic_store(&s->size, size);
	if (to > from && how == IMG_PREALLOCATE_FALLOC)
		rc = reserve(f, from, to);
	else if (to > from && how == IMG_PREALLOCATE_FULL)
		rc = img_file_write_zeroes(f, from, to - from);
	else if (ftruncate(f->fd, (off_t)to))
		rc = -errno;
	if (rc) {
		/* what was reserved for nothing is given back; if not, it is only space */
		if (to > from && ftruncate(f->fd, (off_t)from))
			img_file_changed(f, 0);
		atomic_store(&s->size, now);
		return rc;
	}
	img_file_changed(f, size);
	return 0;
}

/* Ask the file system what is at off, before the end. *end: where it ends. */
static void seek_extent(int fd, uint64_t off, enum img_storage_extent *kind, uint64_t *end)
{
	off_t data = lseek(fd, (off_t)off, SEEK_DATA), hole;

	*end = UINT64_MAX;
	if (data < 0) { /* ENXIO: a hole up to the end; else it cannot tell */
		*kind = errno == ENXIO ? IMG_STORAGE_HOLE : IMG_STORAGE_DATA;
		return;
	}
	if ((uint64_t)data > off) {
		*kind = IMG_STORAGE_HOLE;
		*end = (uint64_t)data;
		return;
	}
	*kind = IMG_STORAGE_DATA;
	hole = lseek(fd, (off_t)off, SEEK_HOLE);
	if (hole > 0 && (uint64_t)hole > off)
		*end = (uint64_t)hole;
}

/*
 * The file system says where something ends, not where it began. Who goes backwards would ask for each piece of it:
 * so it is asked further back, twice as far each time, whether what is known began there already. The lock is held.
 */
static bool extend_known(struct img_file *f, uint64_t off)
{
	uint64_t start = f->extent.start, end = min_u64(f->extent.end, atomic_load(&f->base.size));
	uint64_t back = end > start ? end - start : 0, from = off - min_u64(off, back), found_end;
	enum img_storage_extent found;

	if (!f->extent.known || f->extent.changes != atomic_load(&f->changes) || off >= start ||
	    start - off > back)
		return false;
	seek_extent(f->fd, from, &found, &found_end);
	if (found_end <= off)
		return false;
	f->extent.kind = found;
	f->extent.start = from;
	f->extent.end = found_end;
	return true;
}

/* The part of [off, off + len) that what is known goes on for. The lock is held. */
static void take_known(const struct img_file *f, uint64_t off, uint64_t len,
		       enum img_storage_extent *kind, uint64_t *run)
{
	uint64_t end = f->extent.end;

	*kind = f->extent.kind;
	if (*kind == IMG_STORAGE_DATA) /* also where the file system cannot tell the end */
		end = min_u64(end, max_u64(atomic_load(&f->base.size), off + 1));
	*run = min_u64(len, end - off);
}

static bool is_known(const struct img_file *f, uint64_t off)
{
	return f->extent.known && f->extent.changes == atomic_load(&f->changes) &&
	       f->extent.start <= off && off < f->extent.end;
}

static bool file_known_extent(struct img_storage *s, uint64_t off, uint64_t len,
			      enum img_storage_extent *kind, uint64_t *run)
{
	struct img_file *f = img_file_of(s);
	bool known;

	/* who holds the lock may be asking the file system; what of an unfinished file is kept back is not in it */
	if (s->device || f->unfinished || pthread_mutex_trylock(&f->lock))
		return false;
	known = is_known(f, off);
	if (known)
		take_known(f, off, len, kind, run);
	pthread_mutex_unlock(&f->lock);
	return known;
}

static int file_extent(struct img_storage *s, uint64_t off, uint64_t len,
		       enum img_storage_extent *kind, uint64_t *run)
{
	struct img_file *f = img_file_of(s);
	uint64_t changes;

	if (s->device) {
		*kind = IMG_STORAGE_DATA;
		*run = min_u64(len, atomic_load(&s->size) - off);
		return 0;
	}
	pthread_mutex_lock(&f->lock);
	changes = atomic_load(&f->changes);
	if (!is_known(f, off) && !extend_known(f, off)) {
		seek_extent(f->fd, off, &f->extent.kind, &f->extent.end);
		f->extent.known = true;
		f->extent.start = off;
		f->extent.changes = changes; /* a write since then makes this stale at once */
	}
	take_known(f, off, len, kind, run);
	pthread_mutex_unlock(&f->lock);
	return 0;
}

static uint64_t file_allocated(struct img_storage *s)
{
	struct stat st;

	if (s->device || fstat(img_file_of(s)->fd, &st))
		return atomic_load(&s->size);
	return (uint64_t)st.st_blocks * 512;
}

static uint64_t file_modified(struct img_storage *s)
{
	struct stat st;

	if (s->device || fstat(img_file_of(s)->fd, &st))
		return 0; /* a device's node keeps no such time */
	return (uint64_t)st.st_mtim.tv_sec * 1000000000 + (uint64_t)st.st_mtim.tv_nsec;
}

/* ---- All files that are open ---- */

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct img_list all = { &all, &all };

static void list(struct img_file *f)
{
	pthread_mutex_lock(&all_lock);
	img_list_add_tail(&all, &f->all);
	pthread_mutex_unlock(&all_lock);
}

static void unlist(struct img_file *f)
{
	pthread_mutex_lock(&all_lock);
	img_list_del(&f->all);
	pthread_mutex_unlock(&all_lock);
}

bool img_file_is_open_twice(const struct img_file *f, char *name, size_t size)
{
	bool found = false;

	pthread_mutex_lock(&all_lock);
	for (struct img_list *l = all.next; l != &all && !found; l = l->next) {
		const struct img_file *o = IMG_CONTAINER(l, struct img_file, all);

		found = o != f && !strcmp(o->base.identity, f->base.identity);
		if (found)
			snprintf(name, size, "%s", o->base.name);
	}
	pthread_mutex_unlock(&all_lock);
	return found;
}

void img_file_set_identity(struct img_file *f, char *identity)
{
	char *old = f->base.identity;

	pthread_mutex_lock(&all_lock);
	f->base.identity = identity;
	pthread_mutex_unlock(&all_lock);
	free(old);
}

static void file_close(struct img_storage *s)
{
	struct img_file *f = img_file_of(s);

	img_file_trim(f);
	if (f->unfinished)
		img_file_abandon(f);
	if (f->unpublished)
		f->unpublished->forget(f->unpublished);
	unlist(f);
	if (f->buffered_fd >= 0)
		close(f->buffered_fd);
	img_file_unlock(f);
	img_fixed_forget(f->fd);
	close(f->fd);
	if (f->lock_fd >= 0)
		close(f->lock_fd);
	pthread_cond_destroy(&f->range_freed);
	pthread_mutex_destroy(&f->lock);
	free(s->identity);
	free(s->name);
	free(f);
}

static int file_publish(struct img_storage *s, bool durable, struct img_error *err)
{
	struct img_file *f = img_file_of(s);

	img_file_trim(f);
	return f->unpublished ? f->unpublished->publish(f, durable, err) : 0;
}

static void file_set_attributes(struct img_storage *s, const struct img_file_attributes *a)
{
	struct img_file *f = img_file_of(s);

	if (f->unfinished)
		img_file_unfinished_attributes(f, a);
	else if (!s->device)
		img_file_set_attributes(f->fd, a);
}

static bool is_kept_back(const struct img_file *f, enum img_io_op op, uint64_t off)
{
	return f->unfinished && img_file_unfinished_covers(f, op, off);
}

static int file_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		   uint64_t off, uint64_t len, unsigned flags)
{
	struct img_file *f = img_file_of(s);

	return is_kept_back(f, op, off)
		       ? img_file_unfinished_io(f, op, iov, iovcnt, off, len, flags)
		       : img_file_io(f, op, iov, iovcnt, off, len, flags);
}

static void file_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	if (is_kept_back(img_file_of(s), io->op, io->off))
		img_ioq_offload(q, io); /* to file_io() */
	else
		img_file_submit(s, q, io);
}

static const struct img_storage_ops file_ops = {
	.submit = file_submit,
	.completed = img_file_completed,
	.io = file_io,
	.read_cached = img_file_read_cached,
	.resize = file_resize,
	.extent = file_extent,
	.known_extent = file_known_extent,
	.allocated = file_allocated,
	.modified = file_modified,
	.publish = file_publish,
	.set_attributes = file_set_attributes,
	.set_writable = img_file_set_writable,
	.replace = img_file_replace,
	.close = file_close,
};

static int fail_open(struct img_error *err, const char *path, int rc)
{
	return img_fail(err, rc, "Could not open '%s': %s", path, strerrordesc_np(-rc));
}

int img_file_refuse_type(mode_t mode, const char *verb, const char *path, struct img_error *err)
{
	const char *what = S_ISFIFO(mode)   ? "pipe"
			   : S_ISSOCK(mode) ? "socket"
			   : S_ISCHR(mode)  ? "character device"
					    : "special file";

	if (S_ISDIR(mode))
		return img_fail(err, -EISDIR, "Could not %s '%s': Is a directory", verb, path);
	return img_fail(err, -EINVAL,
			"Could not %s '%s': it is a %s, neither a regular file nor a block device",
			verb, path, what);
}

/* Only what has a size and can be read at any place. */
static int check_type(int fd, const char *path, bool write, struct stat *st, struct img_error *err)
{
	if (fstat(fd, st))
		return fail_open(err, path, -errno);
	if ((!write && img_storage_is_null(st)) || S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return 0;
	return img_file_refuse_type(st->st_mode, "open", path, err);
}

static int check_access(int fd, const char *path, unsigned flags, struct img_error *err)
{
	int status = fcntl(fd, F_GETFL);
	int mode = status & O_ACCMODE;

	if (status < 0 || mode == O_WRONLY || ((flags & IMG_STORAGE_WRITE) && mode != O_RDWR))
		return img_fail(err, -EBADF, "Could not open '%s': the descriptor is not open for "
					     "%s",
				path, flags & IMG_STORAGE_WRITE ? "reading and writing" : "reading");
	/* opened that way so that a pipe could not make us wait; io_uring would heed it in files */
	if ((status & O_NONBLOCK) && fcntl(fd, F_SETFL, status & ~O_NONBLOCK))
		return fail_open(err, path, -errno);
	return 0;
}

static int set_direct(struct img_file *f, unsigned flags, struct img_error *err)
{
	int rc = img_file_direct_init(f);

	if (!rc || (flags & IMG_STORAGE_TRY_DIRECT))
		return 0;
	if (rc == -EINVAL)
		return img_fail(err, rc, "Could not open '%s': its file system does not support "
					 "O_DIRECT",
				f->base.name);
	return img_fail(err, rc, "Could not open '%s' with O_DIRECT: %s", f->base.name,
			strerrordesc_np(-rc));
}

/*
 * The locks are held by a descriptor of their own, which no request is made on: what a killed
 * process had in a ring keeps its file open for a moment, and would keep the locks too.
 */
static int acquire_locks(struct img_file *f, unsigned flags, struct img_error *err)
{
	f->lock_fd = img_file_reopen(f->fd, NULL, O_RDONLY);
	img_file_locked(f);
	return img_file_lock(f->lock_fd < 0 ? f->fd : f->lock_fd, f->base.name,
			     f->base.writable, flags & IMG_STORAGE_SHARE, err);
}

char *img_storage_identify(const struct stat *st)
{
	bool device = S_ISBLK(st->st_mode);
	char *text;

	if (asprintf(&text, "%s %" PRIu64 ":%" PRIu64, device ? "device" : "file",
		     (uint64_t)(device ? 0 : st->st_dev),
		     (uint64_t)(device ? st->st_rdev : st->st_ino)) < 0)
		return NULL;
	return text;
}

/* File systems that zero a range by marking it. Of others it is known only when it was tried. */
static bool zeroes_by_marks(const struct statfs *fs)
{
	static const uint32_t known[] = { EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC,
					  TMPFS_MAGIC, F2FS_SUPER_MAGIC };

	for (size_t i = 0; i < IMG_ARRAY_LEN(known); i++)
		if ((uint32_t)fs->f_type == known[i])
			return true;
	return false;
}

static void state_limits(struct img_file *f, const struct stat *st, const struct statfs *fs)
{
	bool regular = S_ISREG(st->st_mode), disk = S_ISBLK(st->st_mode);

	f->base.limits = (struct img_storage_limits){
		.io_align = 1,
		.mem_align = 1,
		.fua = true,
		.zero_fill = regular,
		.fast_zero = regular && zeroes_by_marks(fs), /* a device's driver may write them */
		.stream_target = regular,
		.rotational = disk && img_device_is_rotational(st->st_rdev),
		.lock = f->flags & IMG_STORAGE_NO_LOCK ? IMG_STORAGE_LOCK_NONE
						       : IMG_STORAGE_LOCK_ADVISORY,
	};
	if (disk)
		f->base.limits.discard_align = img_device_discard_align(st->st_rdev);
	else if (f->base.limits.fast_zero && fs->f_bsize > 0 && fs->f_bsize <= UINT32_MAX)
		f->base.limits.discard_align = (uint32_t)fs->f_bsize;
}

int img_file_new(int fd, const char *path, unsigned flags, struct img_file **out,
		 struct img_error *err)
{
	bool write = flags & IMG_STORAGE_WRITE;
	struct img_file *f = NULL;
	uint64_t size;
	struct statfs fs;
	struct stat st;
	int rc;

	rc = check_type(fd, path, write, &st, err);
	if (!rc)
		rc = check_access(fd, path, flags, err);
	if (!rc && write && S_ISBLK(st.st_mode))
		rc = img_file_check_device(fd, path, err);
	if (rc)
		goto out;
	size = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &size)) {
		rc = img_fail(err, -errno, "Could not open '%s': its size is unknown: %s", path,
			      strerrordesc_np(errno));
		goto out;
	}
	f = calloc(1, sizeof(*f));
	if (!f || !(f->base.name = strdup(path)) ||
	    !(f->base.identity = img_storage_identify(&st))) {
		rc = img_fail(err, -ENOMEM, "out of memory");
		goto out;
	}
	f->base.ops = &file_ops;
	f->base.writable = write;
	f->base.device = !S_ISREG(st.st_mode);
	atomic_init(&f->base.size, size);
	f->fd = fd;
	f->buffered_fd = f->lock_fd = -1;
	f->flags = flags;
	if (fstatfs(fd, &fs))
		fs = (struct statfs){ 0 };
	state_limits(f, &st, &fs);
	f->reserve = !f->base.device && fs.f_type == EXT4_SUPER_MAGIC;
	img_list_init(&f->all);
	img_list_init(&f->ranges);
	img_list_init(&f->locked_link);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->range_freed, NULL);
	list(f);
	if (!(flags & IMG_STORAGE_NO_LOCK))
		rc = acquire_locks(f, flags, err);
	if (flags & IMG_STORAGE_RANDOM) /* advice: that it is not taken is no error */
		posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	if (!rc && (flags & (IMG_STORAGE_DIRECT | IMG_STORAGE_TRY_DIRECT)))
		rc = set_direct(f, flags, err);
	if (rc) {
		file_close(&f->base);
		return rc;
	}
	*out = f;
	return 0;
out:
	if (f)
		free(f->base.name);
	free(f);
	close(fd);
	return rc;
}

int img_storage_open_fd(int fd, const char *path, unsigned flags, struct img_storage **out,
			struct img_error *err)
{
	struct img_file *f = NULL;
	int rc;

	if ((flags & IMG_STORAGE_SHARE) && (flags & IMG_STORAGE_WRITE)) {
		close(fd);
		return img_fail(err, -EINVAL,
				"Could not open '%s': sharing it with writers is for reading only",
				path);
	}
	rc = img_file_new(fd, path, flags, &f, err);
	if (rc)
		return rc;
	*out = &f->base;
	return 0;
}

int img_storage_open_file(const char *path, unsigned flags, struct img_storage **out,
			  struct img_error *err)
{
	int fd;

	/* not blocking: opening a pipe would wait for its other end */
	fd = open(path, (flags & IMG_STORAGE_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY |
				O_NONBLOCK);
	if (fd < 0)
		return fail_open(err, path, -errno);
	return img_storage_open_fd(fd, path, flags, out, err);
}
