/*
 * Inside a storage that is a file or block device; the pieces are in file.c (open, size, holes),
 * file_io.c (requests), file_direct.c (O_DIRECT), file_create.c (where new files go),
 * file_unfinished.c (what is there until they are complete), lock.c.
 */
#ifndef LIBIMG_STORAGE_POSIX_FILE_H
#define LIBIMG_STORAGE_POSIX_FILE_H

#include <pthread.h>

#include "libimg/base/list.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/storage.h"

struct img_file;
struct img_file_unfinished;

/* Where a new file will go: file_create.c keeps more behind this. */
struct img_unpublished {
	/* Give f its final name, and forget. See img_storage_publish(). */
	int (*publish)(struct img_file *f, bool durable, struct img_error *err);
	/* Remove a temporary name; frees u. */
	void (*forget)(struct img_unpublished *u);
};

struct img_file {
	struct img_storage base;
	int fd;
	int buffered_fd;			   /* with O_DIRECT: the same file without; else -1 */
	unsigned flags;				   /* IMG_STORAGE_* it was opened with */
	int lock_fd;				   /* the same file once more, for its locks; or -1 */
	struct img_list locked_link;		   /* among those that hold locks (lock.c) */
	bool reserve;				   /* large writes have their blocks allocated first: see file_io.c */
	_Atomic uint64_t reserved_end;		   /* the file was lengthened up to here; 0: it was not */
	_Atomic bool no_zero_range, no_punch_hole; /* the file system said so */
	_Atomic bool no_cached_read;		   /* the same of reads that must not wait */
	_Atomic uint64_t changes;		   /* grows with each write: ages the known extent */
	struct img_unpublished *unpublished;	   /* NULL: nothing to publish */
	struct img_file_unfinished *unfinished;	   /* NULL: what was written is in the file */
	struct img_list all;			   /* among all that are open in this process */

	pthread_mutex_t lock; /* guards the rest */
	struct {	      /* the last answer of the file system */
		bool known;
		enum img_storage_extent kind;
		uint64_t start, end, changes;
	} extent;
	struct img_list ranges; /* struct img_file_range held: O_DIRECT writes in flight */
	pthread_cond_t range_freed;
};

static inline struct img_file *img_file_of(struct img_storage *s)
{
	return IMG_CONTAINER(s, struct img_file, base);
}

/*
 * Make a storage of an open descriptor. Owns fd, also on failure. flags: IMG_STORAGE_*; takes the
 * locks for them.
 */
int img_file_new(int fd, const char *path, unsigned flags, struct img_file **out,
		 struct img_error *err);

/* Is the same file open in this process, by another storage? Its name, which may go any time. */
bool img_file_is_open_twice(const struct img_file *f, char *name, size_t size);

/* ---- file_io.c ---- */

/* Of a file that is not unfinished, or what of it is not kept back. */
int img_file_io(struct img_file *f, enum img_io_op op, const struct iovec *iov, int iovcnt,
		uint64_t off, uint64_t len, unsigned flags);
void img_file_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io);
void img_file_completed(struct img_storage *s, struct img_io *io, int res);
bool img_file_read_cached(struct img_storage *s, uint64_t off, void *buf, size_t len);
/* Write zeroes over [off, off + len), for want of better. */
int img_file_write_zeroes(struct img_file *f, uint64_t off, uint64_t len);
/* Cut off what the file was lengthened by for nothing. Nothing may be in flight. */
void img_file_trim(struct img_file *f);
/* The file has changed, and reaches to end at least. */
void img_file_changed(struct img_file *f, uint64_t end);

/* ---- file_direct.c ---- */

/* A range of an O_DIRECT file that is being written. */
struct img_file_range {
	struct img_list link;
	uint64_t off, end;
	bool exclusive; /* whole blocks are read, changed and written back */
};

/* Turn O_DIRECT on for f->fd and learn what it asks for. -EINVAL: the file system has none. */
int img_file_direct_init(struct img_file *f);
/* Do these buffers and this offset suit O_DIRECT? Always true without it. */
bool img_file_is_aligned(const struct img_file *f, const struct iovec *iov, int iovcnt,
			 uint64_t off, uint64_t len);
/* Wait until the range can be had, or (try) take it if it can. */
void img_file_range_lock(struct img_file *f, struct img_file_range *r);
bool img_file_range_try(struct img_file *f, struct img_file_range *r);
void img_file_range_unlock(struct img_file *f, struct img_file_range *r);
/*
 * Move up to len bytes at off, of any alignment, through an aligned buffer. Returns how many (READ:
 * 0 at the end of the file), or a negative errno. The cursor has moved by as many. rw_flags: of writes.
 */
int64_t img_file_bounce(struct img_file *f, enum img_io_op op, struct img_cursor *c, uint64_t off,
			uint64_t len, int rw_flags);

/* ---- file_reopen.c ---- */

/* -EACCES: the block device fd is a read-only one. */
int img_file_check_device(int fd, const char *path, struct img_error *err);
/* Does the disk that block device is, or is a part of, turn? False also where the kernel does not say. */
bool img_device_is_rotational(dev_t device);
/* What it gives back when told to discard: whole multiples of this; 0: nothing, or not known. */
uint32_t img_device_discard_align(dev_t device);
/*
 * The same file as fd once more. mode: O_RDONLY or O_RDWR. path: where to look for it if there is no
 * /proc; NULL: nowhere. A descriptor, or -errno.
 */
int img_file_reopen(int fd, const char *path, int mode);
/* See img_storage_set_writable(). */
int img_file_set_writable(struct img_storage *s, bool writable, struct img_error *err);

/* ---- file_replace.c ---- */

/* See img_storage_replace(). */
int img_file_replace(struct img_storage *s, const void *bytes, size_t len, bool sync,
		     struct img_error *err);
/* f is that file now; identity becomes its own. file.c */
void img_file_set_identity(struct img_file *f, char *identity);
/* What is neither a regular file nor a block device, in a sentence: -EISDIR or -EINVAL. verb: "open". */
int img_file_refuse_type(mode_t mode, const char *verb, const char *path, struct img_error *err);

/* ---- file_unfinished.c ---- */

/* From now on, until img_file_finish(), f is one: empty, if it is no device. -ENOMEM. */
int img_file_keep_unfinished(struct img_file *f);
/* Must a request at off go through img_file_unfinished_io()? Others may go to the file at once. */
bool img_file_unfinished_covers(const struct img_file *f, enum img_io_op op, uint64_t off);
/* As img_file_io(); not for SYNC. */
int img_file_unfinished_io(struct img_file *f, enum img_io_op op, const struct iovec *iov,
			   int iovcnt, uint64_t off, uint64_t len, unsigned flags);
/*
 * Before f (no device) is cut or lengthened from *from to size: *from and *to are what is to be done
 * to the file instead.
 */
int img_file_unfinished_resize(struct img_file *f, uint64_t size, enum img_preallocate how,
			       uint64_t *from, uint64_t *to);
/* Write what was kept back: f is whole now. Nothing may be in flight. */
int img_file_finish(struct img_file *f);
/* It never will be. */
void img_file_abandon(struct img_file *f);
/* As below, once the old content is gone. */
void img_file_unfinished_attributes(struct img_file *f, const struct img_file_attributes *a);
/* Of an empty file. What its file system has no notion of is left out. */
void img_file_set_attributes(int fd, const struct img_file_attributes *a);

/* ---- lock.c ---- */

/*
 * Take QEMU's locks on fd for the role: writer, reader, or (share) reader that denies nothing.
 * -EAGAIN: another open file is in the way. A file system without such locks: 0. They vanish when
 * fd is closed.
 */
int img_file_lock(int fd, const char *path, bool writer, bool share, struct img_error *err);
/*
 * The same for f, which holds a reader's locks: those of a writer are added, and the others stay held
 * all the time; on failure they are all there is. And back, which others cannot be in the way of. Fine
 * without locks.
 */
int img_file_lock_for_writing(struct img_file *f, struct img_error *err);
void img_file_unlock_for_writing(struct img_file *f);
/* f->fd is about to be another open file: its locks, if they are held by it, are to stay. -EMFILE. */
int img_file_keep_locks(struct img_file *f);
/* f holds locks: no child of this process is to keep them. */
void img_file_locked(struct img_file *f);
/* Let go of the locks, also where somebody has a copy of the descriptor. Fine without locks. */
void img_file_unlock(struct img_file *f);

#endif
